//! PoolService.

use std::sync::Arc;

use pharos_proto::v1;
use pharos_proto::v1::pool_service_server::PoolService;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer};
use super::consequences;
use super::convert::{
    FieldErrors, in_use_from_wire, owner_to_wire, pool_from_wire, pool_key, pool_to_wire,
};
use super::listing::{Asked, list};
use super::status;
use crate::engine::{Left, Reply};
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{Allocation, Pool, PoolKey};
use crate::state::names::Name;
use crate::state::refusal::Rejection;
use crate::state::{FamilyUsage, PoolUsage, State, errors_of_set};

/// Most owners that `SyncPools` names as moved.
const MAX_MOVED: usize = 100;

/// Serves PoolService.
#[derive(Debug, Clone)]
pub struct Pools(pub Api);

/// A pool and how full it is.
type Used = (Arc<Pool>, Option<PoolUsage>);

#[tonic::async_trait]
impl PoolService for Pools {
    async fn apply_pool(
        &self,
        request: Request<v1::ApplyPoolRequest>,
    ) -> Result<Response<v1::ApplyPoolResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.apply(&call, &message).await)
    }

    async fn get_pool(
        &self,
        request: Request<v1::GetPoolRequest>,
    ) -> Result<Response<v1::GetPoolResponse>, Status> {
        let message = request.into_inner();
        let key = pool_key(&message.address_space, &message.cluster, &message.name)
            .map_err(|error| status::of_rejection(&error))?;
        let Some(pool) = self.used(key.clone()).await? else {
            return Err(status::of_rejection(&Rejection::UnknownPool(key)));
        };
        Ok(Response::new(v1::GetPoolResponse {
            pool: Some(used_to_wire(&pool)),
        }))
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        errors.optional_name("cluster", &message.cluster);
        errors.optional_name("address_space", &message.address_space);
        errors
            .finish(Some(()))
            .map_err(|error| status::of_rejection(&error))?;
        let asked = Asked {
            page_size: message.page_size,
            page_token: &message.page_token,
        };
        let shape = ("pools", &message.cluster, &message.address_space);
        let (cluster, space) = (message.cluster.clone(), message.address_space.clone());
        let read = move |state: &State, after: Option<&PoolKey>, most| {
            page_of_pools(state, after, &cluster, &space, most)
        };
        let (pools, next_page_token) = list(&self.0, asked, &shape, read).await?;
        Ok(Response::new(v1::ListPoolsResponse {
            pools: pools.iter().map(used_to_wire).collect(),
            next_page_token,
        }))
    }

    async fn delete_pool(
        &self,
        request: Request<v1::DeletePoolRequest>,
    ) -> Result<Response<v1::DeletePoolResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.delete(&call, &message).await)
    }

    async fn sync_pools(
        &self,
        request: Request<v1::SyncPoolsRequest>,
    ) -> Result<Response<v1::SyncPoolsResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.sync(&call, &message).await)
    }
}

impl Pools {
    async fn apply(
        &self,
        call: &Call,
        message: &v1::ApplyPoolRequest,
    ) -> Result<v1::ApplyPoolResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let pool = new_pool(&mut errors, "pool", message.pool.as_ref());
        let in_use = in_use_from_wire(&mut errors, message.if_in_use);
        let read = pool.zip(in_use);
        let (pool, in_use) = errors
            .finish(read)
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::ApplyPool {
            pool: Box::new(pool),
            in_use,
        };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::ApplyPoolResponse {
            pool: left(&reply).pop(),
            consequences: consequences::of_pools(&self.0, &reply).await?,
        })
    }

    async fn delete(
        &self,
        call: &Call,
        message: &v1::DeletePoolRequest,
    ) -> Result<v1::DeletePoolResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let in_use = in_use_from_wire(&mut errors, message.if_in_use);
        let in_use = errors
            .finish(in_use)
            .map_err(|error| status::of_rejection(&error))?;
        let key = pool_key(&message.address_space, &message.cluster, &message.name)
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::DeletePool { key, in_use };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::DeletePoolResponse {
            consequences: consequences::of_pools(&self.0, &reply).await?,
        })
    }

    async fn sync(
        &self,
        call: &Call,
        message: &v1::SyncPoolsRequest,
    ) -> Result<v1::SyncPoolsResponse, Status> {
        let (cluster, pools) = pool_set(message).map_err(|error| status::of_rejection(&error))?;
        let command = Command::SyncPools {
            cluster: cluster.clone(),
            pools,
            fence: message.fence,
        };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::SyncPoolsResponse {
            pools: left(&reply),
            revision: reply.revision,
            moved: moved(&reply.changes, &cluster),
            consequences: consequences::for_cluster(&self.0, &reply, &cluster, None).await?,
        })
    }

    async fn used(&self, key: PoolKey) -> Result<Option<Used>, Status> {
        self.0.read(move |state| used_pool(state, &key)).await
    }
}

/// A pool of a request: what is output only is left out.
fn new_pool(errors: &mut FieldErrors, field: &str, wire: Option<&v1::Pool>) -> Option<Pool> {
    let pool = pool_from_wire(errors, field, wire)?;
    Some(Pool {
        revision: 0,
        ..pool
    })
}

pub(super) fn pool_set(message: &v1::SyncPoolsRequest) -> Result<(Name, Vec<Pool>), Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(&message.request_id);
    errors.fence(message.fence);
    let cluster = errors.name("cluster", &message.cluster);
    let mut read = Vec::with_capacity(message.pools.len());
    for (index, wire) in message.pools.iter().enumerate() {
        let field = format!("pools[{index}]");
        if !wire.cluster.is_empty() && wire.cluster != message.cluster {
            errors.add(
                format!("{field}.cluster"),
                "must be empty or equal to the cluster of the request",
            );
        }
        let Some(mut pool) = new_pool(&mut errors, &field, Some(wire)) else {
            continue;
        };
        pool.key = PoolKey::new(
            pool.key.space.clone(),
            cluster.clone(),
            pool.key.name.clone(),
        );
        read.push((index, pool));
    }
    // It is refused in any case: then with all that is wrong.
    if !errors.is_empty() {
        for bad in errors_of_set(read.iter().map(|(index, pool)| (*index, pool))) {
            errors.add(bad.field, bad.message);
        }
    }
    let pools = read.into_iter().map(|(_, pool)| pool).collect();
    errors.finish(cluster.map(|cluster| (cluster, pools)))
}

/// Owners of a cluster whose addresses changed or went, most recent first.
fn moved(changes: &[Change], cluster: &Name) -> Vec<v1::Owner> {
    let moves = |before: &Allocation, after: Option<&Allocation>| {
        !before.addresses.is_empty()
            && after.is_none_or(|after| after.addresses != before.addresses)
    };
    let edits = changes.iter().rev().filter_map(Change::allocation);
    let owners = edits.filter_map(|edit| {
        edit.before
            .as_ref()
            .filter(|before| before.owner.key.cluster == *cluster)
            .filter(|before| moves(before, edit.after.as_deref()))
            .map(|before| owner_to_wire(&before.owner))
    });
    owners.take(MAX_MOVED).collect()
}

/// The pools that a command named, as it leaves them, or would.
fn left(reply: &Reply) -> Vec<v1::Pool> {
    let Left::Pools(pools) = &reply.left else {
        return Vec::new();
    };
    pools.iter().map(used_to_wire).collect()
}

fn used_pool(state: &State, key: &PoolKey) -> Option<Used> {
    Some((state.pool(key)?.clone(), state.pool_usage(key)))
}

fn page_of_pools(
    state: &State,
    after: Option<&PoolKey>,
    cluster: &str,
    space: &str,
    most: usize,
) -> Vec<(PoolKey, Used)> {
    state
        .pools()
        .filter(|pool| after.is_none_or(|after| pool.key > *after))
        .filter(|pool| {
            let own = pool.key.cluster.as_ref().map_or("", Name::as_str);
            (cluster.is_empty() || own == cluster)
                && (space.is_empty() || pool.key.space.as_str() == space)
        })
        .take(most)
        .map(|pool| {
            let used = (pool.clone(), state.pool_usage(&pool.key));
            (pool.key.clone(), used)
        })
        .collect()
}

/// How full a pool is, to the wire; a family that it does not have is absent.
pub(super) fn usage_to_wire(usage: PoolUsage) -> v1::PoolUsage {
    let family = |usage: FamilyUsage| {
        (usage.total + usage.outside_grant > 0).then(|| v1::pool_usage::FamilyUsage {
            total: usage.total.to_string(),
            held: usage.held.to_string(),
            held_by_others: usage.held_by_others.to_string(),
            free: usage.free.to_string(),
            reserved: usage.reserved.to_string(),
            draining: usage.draining.to_string(),
            outside_grant: usage.outside_grant.to_string(),
        })
    };
    v1::PoolUsage {
        ipv4: family(usage.v4),
        ipv6: family(usage.v6),
    }
}

fn used_to_wire((pool, usage): &Used) -> v1::Pool {
    v1::Pool {
        usage: usage.map(usage_to_wire),
        ..pool_to_wire(pool)
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::api::testing::{TestServer, within};

    fn pool(name: &str, address: &str) -> v1::Pool {
        v1::Pool {
            name: name.to_owned(),
            addresses: vec![address.to_owned()],
            ..v1::Pool::default()
        }
    }

    fn without_usage(pools: Vec<v1::Pool>) -> Vec<v1::Pool> {
        let pools = pools.into_iter();
        pools
            .map(|pool| v1::Pool {
                usage: None,
                ..pool
            })
            .collect()
    }

    #[tokio::test]
    async fn an_applied_pool_replaces_the_stored_one_whole() {
        let server = TestServer::start().await;
        let mut client = server.pools().await;
        let full = v1::Pool {
            avoid_buggy_ips: true,
            auto_assign: Some(false),
            allocation_priority: 7,
            namespaces: vec!["blue".to_owned()],
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            protected: true,
            ..pool("pool", "192.0.2.0/24")
        };
        let mut stored = Vec::new();
        for pool in [full, pool("pool", "198.51.100.0/24")] {
            let request = v1::ApplyPoolRequest {
                pool: Some(pool),
                ..v1::ApplyPoolRequest::default()
            };
            let applied = within(client.apply_pool(request)).await.expect("applied");
            stored.extend(without_usage(
                applied.into_inner().pool.into_iter().collect(),
            ));
        }
        let [before, after] = stored.as_slice() else {
            panic!("{stored:?}");
        };
        assert!(before.protected && before.labels.len() == 1);
        let plain = v1::Pool {
            address_space: "default".to_owned(),
            auto_assign: Some(true),
            reuse_delay: before.reuse_delay,
            reuse_unacknowledged: before.reuse_unacknowledged,
            revision: after.revision,
            ..pool("pool", "198.51.100.0/24")
        };
        assert_eq!(*after, plain);
        server.stopped().await;
    }

    /// JSON has no numbers as large as an IPv6 pool.
    #[test]
    fn usage_is_decimal_text_of_any_size() {
        let v6 = FamilyUsage {
            total: 1 << 64,
            held: 3,
            held_by_others: 2,
            reserved: 16,
            draining: 1,
            free: (1 << 64) - 22,
            outside_grant: 0,
        };
        let wire = usage_to_wire(PoolUsage {
            v4: FamilyUsage::default(),
            v6,
        });
        assert_eq!(wire.ipv4, None, "a family that the pool does not have");
        let v6 = wire.ipv6.expect("one that it has");
        assert_eq!(v6.total, "18446744073709551616");
        assert_eq!(v6.free, "18446744073709551594");
        let counts = [v6.held, v6.held_by_others, v6.reserved, v6.draining];
        assert_eq!(counts, ["3", "2", "16", "1"]);
    }

    #[tokio::test]
    async fn all_that_is_wrong_with_a_set_is_told_at_once() {
        let server = TestServer::start().await;
        let set = [
            pool("a", "192.0.2.0/24"),
            pool("bad", "192.0.2.0/33"),
            pool("overlaps", "192.0.2.128/25"),
            pool("a", "198.51.100.0/24"),
            pool("good", "203.0.113.0/24"),
        ];
        let request = v1::SyncPoolsRequest {
            cluster: "east".to_owned(),
            pools: set.to_vec(),
            ..v1::SyncPoolsRequest::default()
        };
        let mut client = server.pools().await;
        let refused = within(client.sync_pools(request)).await;
        let refused = refused.expect_err("three of them are bad");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let bad = refused.get_details_bad_request().expect("fields");
        let bad = bad.field_violations.into_iter().map(|bad| bad.field);
        assert_eq!(
            bad.collect::<Vec<_>>(),
            [
                "pools[1].addresses[0]",
                "pools[2].addresses[0]",
                "pools[3].name"
            ]
        );
        let stored = within(client.list_pools(v1::ListPoolsRequest::default())).await;
        let stored = stored.expect("listed").into_inner();
        assert_eq!(stored.pools, [], "not even the good ones");
        server.stopped().await;
    }

    #[tokio::test]
    async fn what_is_only_validated_is_answered_as_it_would_be() {
        let server = TestServer::start().await.with_pool().await;
        let mut client = server.pools().await;
        let apply = |address: &str, validate_only| v1::ApplyPoolRequest {
            pool: Some(pool("pool", address)),
            validate_only,
            ..v1::ApplyPoolRequest::default()
        };
        for address in ["192.0.2.0/24", "198.51.100.0/24"] {
            let would_be = within(client.apply_pool(apply(address, true))).await;
            let done = within(client.apply_pool(apply(address, false))).await;
            let [would_be, done] = [would_be, done]
                .map(|outcome| outcome.expect("valid").into_inner().pool)
                .map(|pool| without_usage(pool.into_iter().collect()));
            assert_eq!(would_be, done);
        }
        let sync = |validate_only| v1::SyncPoolsRequest {
            cluster: "east".to_owned(),
            pools: vec![pool("b", "192.0.2.0/25"), pool("a", "192.0.2.128/25")],
            validate_only,
            ..v1::SyncPoolsRequest::default()
        };
        let would_be = within(client.sync_pools(sync(true))).await.expect("valid");
        let done = within(client.sync_pools(sync(false))).await.expect("valid");
        let [would_be, done] = [would_be, done].map(tonic::Response::into_inner);
        assert_eq!(would_be.revision, done.revision);
        assert_eq!(without_usage(would_be.pools), without_usage(done.pools));
        server.stopped().await;
    }
}
