//! AllocationService.

use std::pin::Pin;

use futures::Stream;
use pharos_proto::v1;
use pharos_proto::v1::allocation_service_server::AllocationService;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer, resume};
use super::consequences;
use super::convert::{
    FieldErrors, allocate_from_wire, allocation_to_wire, owner_from_wire, release_from_wire,
};
use super::explain;
use super::paging::{PageToken, page_size};
use super::status;
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::refusal::Rejection;
use crate::store::AllocationFilter;

/// Serves AllocationService.
#[derive(Debug, Clone)]
pub struct Allocations(pub Api);

#[tonic::async_trait]
impl AllocationService for Allocations {
    type WatchAllocationsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchAllocationsResponse, Status>> + Send>>;

    async fn allocate(
        &self,
        request: Request<v1::AllocateRequest>,
    ) -> Result<Response<v1::AllocateResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.take(&call, &message).await)
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.give_back(&call, &message).await)
    }

    async fn get_allocation(
        &self,
        request: Request<v1::GetAllocationRequest>,
    ) -> Result<Response<v1::GetAllocationResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        let owner = owner_from_wire(&mut errors, "owner", message.owner.as_ref());
        let owner = errors
            .finish(owner)
            .map_err(|error| status::of_rejection(&error))?;
        let key = owner.key.clone();
        let found = self
            .0
            .engine
            .read(move |state| state.allocation(&key).cloned())
            .await;
        let found = found.map_err(|error| status::of_submit(&error))?;
        // Another incarnation is another owner.
        let found = found.filter(|it| it.owner.is_incarnation(&owner.uid));
        let Some(allocation) = found else {
            return Err(status::of_rejection(&Rejection::UnknownOwner(owner.key)));
        };
        Ok(Response::new(v1::GetAllocationResponse {
            allocation: Some(allocation_to_wire(&allocation)),
        }))
    }

    async fn explain_allocation(
        &self,
        request: Request<v1::ExplainAllocationRequest>,
    ) -> Result<Response<v1::ExplainAllocationResponse>, Status> {
        let explained = explain::explain(&self.0.engine, request.into_inner()).await?;
        Ok(Response::new(explained))
    }

    async fn list_allocations(
        &self,
        request: Request<v1::ListAllocationsRequest>,
    ) -> Result<Response<v1::ListAllocationsResponse>, Status> {
        let message = request.into_inner();
        let filter = list_filter(&message).map_err(|error| status::of_rejection(&error))?;
        let size = page_size(message.page_size)?;
        let shape = (
            "allocations",
            &filter.cluster,
            &filter.namespace,
            &filter.pool,
            &filter.space,
            filter.address,
            filter.state,
        );
        let token = PageToken::read(&message.page_token, &shape, 3)?;
        let after = token.as_ref().map(|token| {
            let [cluster, namespace, name] = &token.key[..] else {
                unreachable!("a token is read with three parts");
            };
            (cluster.clone(), namespace.clone(), name.clone())
        });
        let page = self
            .0
            .reader
            .allocations(&filter, after.as_ref(), size)
            .await;
        let page = page.map_err(|error| status::of_read(&error))?;
        let revision = token.map_or(page.revision, |token| token.revision);
        let next = page.items.last().and_then(|last| last.owner.clone());
        let next_page_token = match next.filter(|_| page.more) {
            Some(owner) => {
                let key = vec![owner.cluster, owner.namespace, owner.name];
                PageToken { key, revision }.write(&shape)
            }
            None => String::new(),
        };
        Ok(Response::new(v1::ListAllocationsResponse {
            allocations: page.items,
            next_page_token,
            revision,
        }))
    }

    async fn watch_allocations(
        &self,
        request: Request<v1::WatchAllocationsRequest>,
    ) -> Result<Response<Self::WatchAllocationsStream>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        let cluster = errors.optional_name("cluster", &message.cluster);
        errors
            .finish(cluster)
            .map_err(|error| status::of_rejection(&error))?;
        let from = match message.from_revision {
            0 => None,
            from => Some(resume(&self.0, from, &message.store_id).await?),
        };
        let source = self.0.source();
        let watcher = self
            .0
            .feeds
            .allocations
            .watch(source, message.cluster, from);
        let stream = futures::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(response) => Some((Ok(response), Some(watcher))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Allocations {
    async fn take(
        &self,
        call: &Call,
        message: &v1::AllocateRequest,
    ) -> Result<v1::AllocateResponse, Status> {
        let allocate = allocate_from_wire(message).map_err(|error| status::of_rejection(&error))?;
        let owner = allocate.owner.key.clone();
        let command = Command::Allocate(Box::new(allocate));
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let consequences =
            consequences::for_cluster(&self.0, &reply, &owner.cluster, Some(&owner)).await?;
        Ok(v1::AllocateResponse {
            allocation: reply
                .allocation
                .map(|allocation| allocation_to_wire(&allocation)),
            consequences,
        })
    }

    async fn give_back(
        &self,
        call: &Call,
        message: &v1::ReleaseRequest,
    ) -> Result<v1::ReleaseResponse, Status> {
        let release = release_from_wire(message).map_err(|error| status::of_rejection(&error))?;
        let owner = release.owner.key.clone();
        let command = Command::Release(release);
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let mut edits = reply.changes.iter().filter_map(Change::allocation);
        let released = edits.find_map(|edit| {
            let gone = edit.before.as_ref().filter(|_| edit.after.is_none());
            gone.filter(|before| before.owner.key == owner)
        });
        Ok(v1::ReleaseResponse {
            released: released.map(|allocation| allocation_to_wire(allocation)),
            consequences: consequences::for_cluster(&self.0, &reply, &owner.cluster, Some(&owner))
                .await?,
        })
    }
}

fn list_filter(message: &v1::ListAllocationsRequest) -> Result<AllocationFilter, Rejection> {
    let mut errors = FieldErrors::new();
    errors.optional_name("cluster", &message.cluster);
    errors.optional_name("namespace", &message.namespace);
    errors.optional_name("pool", &message.pool);
    errors.optional_name("address_space", &message.address_space);
    if v1::allocation::State::try_from(message.state).is_err() {
        errors.add("state", format!("unknown value {}", message.state));
    }
    let address = match message.address.as_str() {
        "" => None,
        text => errors.address("address", text),
    };
    let space = match (message.address_space.as_str(), address) {
        ("", Some(_)) => pharos_proto::DEFAULT_ADDRESS_SPACE,
        (space, _) => space,
    };
    let filter = AllocationFilter {
        cluster: message.cluster.clone(),
        namespace: Some(message.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        pool: message.pool.clone(),
        space: space.to_owned(),
        address,
        state: message.state,
    };
    errors.finish(Some(filter))
}

#[cfg(test)]
mod tests {
    use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
    use pharos_proto::v1::claim::Backends;

    use tonic::Code;

    use super::*;
    use crate::api::testing::{TestServer, owner};

    #[tokio::test]
    async fn a_uid_that_one_side_does_not_know_finds_the_allocation() {
        let server = TestServer::start().await.with_pool().await;
        let with_uid = |name: &str, uid: &str| v1::Owner {
            uid: uid.to_owned(),
            ..owner(name)
        };
        server.allocate(owner("unknown"), Backends::Unmanaged).await;
        let known = with_uid("known", "one");
        server.allocate(known, Backends::Unmanaged).await;
        let mut client = AllocationServiceClient::new(server.channel().await);
        for (name, uid, expected) in [
            ("unknown", "", Code::Ok),
            ("unknown", "one", Code::Ok),
            ("known", "", Code::Ok),
            ("known", "one", Code::Ok),
            ("known", "two", Code::NotFound),
        ] {
            let request = v1::GetAllocationRequest {
                owner: Some(with_uid(name, uid)),
            };
            let got = client.get_allocation(request).await;
            let code = got.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(code, expected, "{name} {uid:?}");
        }
        server.stopped().await;
    }

    #[tokio::test]
    async fn a_list_by_pool_finds_what_comes_from_it_second() {
        let server = TestServer::start().await.with_pool().await;
        let six = v1::Pool {
            name: "six".to_owned(),
            addresses: vec!["2001:db8::/64".to_owned()],
            ..v1::Pool::default()
        };
        let apply = v1::ApplyPoolRequest {
            pool: Some(six),
            ..v1::ApplyPoolRequest::default()
        };
        server
            .pools()
            .await
            .apply_pool(apply)
            .await
            .expect("applied");
        let mut client = AllocationServiceClient::new(server.channel().await);
        // Names that contain the pool's come before and between those that are meant.
        for (name, dual) in [("six", false), ("a", true), ("z", true), ("six-b", false)] {
            let mut request = v1::AllocateRequest {
                owner: Some(owner(name)),
                ..v1::AllocateRequest::default()
            };
            if dual {
                request.families = vec![1, 2];
                request.dual_stack_pools = v1::claim::DualStackPools::AnyPools.into();
            }
            client.allocate(request).await.expect("granted");
        }
        let (mut token, mut names) = (String::new(), Vec::new());
        loop {
            let request = v1::ListAllocationsRequest {
                pool: "six".to_owned(),
                page_size: 1,
                page_token: token,
                ..v1::ListAllocationsRequest::default()
            };
            let page = client.list_allocations(request).await.expect("listed");
            let page = page.into_inner();
            assert!(page.allocations.len() <= 1);
            names.extend(page.allocations.into_iter().filter_map(|one| one.owner));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(names, [owner("a"), owner("z")]);
        server.stopped().await;
    }
}
