//! ClusterService.

use std::sync::Arc;

use pharos_proto::v1;
use pharos_proto::v1::cluster_service_server::ClusterService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer, one_name};
use super::consequences;
use super::convert::{FieldErrors, allocation_to_wire, cluster_to_wire};
use super::paging::{PageToken, page_size};
use super::status;
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::Cluster;
use crate::state::names::{MAX_NAME_BYTES, Name};
use crate::state::refusal::Rejection;

/// Most allocations that an answer lists, and the most bytes of them: clients take 4 MiB.
const MAX_LISTED: (usize, usize) = (1000, 1 << 20);

/// Serves ClusterService.
#[derive(Debug, Clone)]
pub struct Clusters(pub Api);

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn list_clusters(
        &self,
        request: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        let message = request.into_inner();
        let size = page_size(message.page_size)?;
        let token = PageToken::read(&message.page_token, &"clusters", 1)?;
        let after = token.as_ref().map(|token| token.key[0].as_str());
        let page = self.0.reader.clusters(after, size).await;
        let page = page.map_err(|error| status::of_read(&error))?;
        let revision = token.map_or(page.revision, |token| token.revision);
        let next_page_token = match page.items.last().filter(|_| page.more) {
            Some(last) => PageToken {
                key: vec![last.name.clone()],
                revision,
            }
            .write(&"clusters"),
            None => String::new(),
        };
        Ok(Response::new(v1::ListClustersResponse {
            clusters: page.items,
            next_page_token,
        }))
    }

    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let message = request.into_inner();
        let name = one_name("name", &message.name, "")?;
        let cluster = self.0.reader.cluster(&name).await;
        let cluster = cluster.map_err(|error| status::of_read(&error))?;
        if cluster.is_none() {
            return Err(status::of_rejection(&Rejection::UnknownCluster(name)));
        }
        Ok(Response::new(v1::GetClusterResponse { cluster }))
    }

    async fn delete_cluster(
        &self,
        request: Request<v1::DeleteClusterRequest>,
    ) -> Result<Response<v1::DeleteClusterResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.delete(&call, &message).await)
    }

    async fn begin_sync(
        &self,
        request: Request<v1::BeginSyncRequest>,
    ) -> Result<Response<v1::BeginSyncResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.begin(&call, &message).await)
    }

    async fn end_sync(
        &self,
        request: Request<v1::EndSyncRequest>,
    ) -> Result<Response<v1::EndSyncResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.end(&call, &message).await)
    }

    async fn finish_recovery(
        &self,
        request: Request<v1::FinishRecoveryRequest>,
    ) -> Result<Response<v1::FinishRecoveryResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.finish(&call, &message).await)
    }

    async fn adopt_cluster(
        &self,
        request: Request<v1::AdoptClusterRequest>,
    ) -> Result<Response<v1::AdoptClusterResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.adopt(&call, &message).await)
    }
}

impl Clusters {
    async fn finish(
        &self,
        call: &Call,
        message: &v1::FinishRecoveryRequest,
    ) -> Result<v1::FinishRecoveryResponse, Status> {
        let cluster = match message.cluster.as_str() {
            "" => None,
            name => Some(one_name("cluster", name, &message.request_id)?),
        };
        let command = Command::FinishRecovery { cluster };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let mut response = v1::FinishRecoveryResponse::default();
        for change in &reply.changes {
            if let Some(edit) = change.cluster() {
                response.clusters.extend(self.shown(&edit.after).await?);
            } else if let Some(edit) = change.allocation() {
                let decided = edit.after.as_deref().map(allocation_to_wire);
                response.decided.extend(decided);
            }
        }
        Ok(response)
    }

    async fn adopt(
        &self,
        call: &Call,
        message: &v1::AdoptClusterRequest,
    ) -> Result<v1::AdoptClusterResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let cluster = errors.name("name", &message.name);
        let uid = errors.text("cluster_uid", &message.cluster_uid, MAX_NAME_BYTES);
        let (cluster, uid) = errors
            .finish(cluster.zip(uid))
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::AdoptCluster {
            cluster: cluster.clone(),
            uid,
        };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let changed = reply
            .changes
            .iter()
            .find_map(|change| change.cluster()?.after.clone());
        let cluster = match changed {
            Some(_) => self.shown(&changed).await?,
            // It was so already.
            None => self.stored(&cluster).await?,
        };
        Ok(v1::AdoptClusterResponse { cluster })
    }

    /// A cluster as a decision leaves it, with what is known of it beside.
    async fn shown(&self, cluster: &Option<Arc<Cluster>>) -> Result<Option<v1::Cluster>, Status> {
        let Some(cluster) = cluster else {
            return Ok(None);
        };
        let stored = self.stored(&cluster.name).await?.unwrap_or_default();
        Ok(Some(v1::Cluster {
            last_seen: stored.last_seen,
            ..cluster_to_wire(cluster, stored.allocations)
        }))
    }

    async fn stored(&self, name: &Name) -> Result<Option<v1::Cluster>, Status> {
        let cluster = self.0.reader.cluster(name).await;
        cluster.map_err(|error| status::of_read(&error))
    }

    async fn delete(
        &self,
        call: &Call,
        message: &v1::DeleteClusterRequest,
    ) -> Result<v1::DeleteClusterResponse, Status> {
        let cluster = one_name("name", &message.name, &message.request_id)?;
        let command = Command::DeleteCluster { cluster };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let released = reply.changes.iter().filter_map(Change::allocation);
        let released = released.filter(|edit| edit.after.is_none());
        let released = released.filter_map(|edit| edit.before.as_deref());
        let (released, more_released) = listed(released.map(allocation_to_wire));
        Ok(v1::DeleteClusterResponse {
            released,
            more_released,
            consequences: consequences::of(&reply),
        })
    }

    async fn begin(
        &self,
        call: &Call,
        message: &v1::BeginSyncRequest,
    ) -> Result<v1::BeginSyncResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        errors.fence(message.fence);
        let cluster = errors.name("cluster", &message.cluster);
        let uid = errors.text("cluster_uid", &message.cluster_uid, MAX_NAME_BYTES);
        let (cluster, uid) = errors
            .finish(cluster.zip(uid))
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::BeginSync {
            cluster: cluster.clone(),
            uid,
            fence: message.fence,
        };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let consequences = consequences::for_cluster(&self.0, &reply, &cluster, None).await?;
        Ok(v1::BeginSyncResponse {
            store_id: self.0.store_id.to_string(),
            consequences,
        })
    }

    async fn end(
        &self,
        call: &Call,
        message: &v1::EndSyncRequest,
    ) -> Result<v1::EndSyncResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        errors.fence(message.fence);
        let cluster = errors.name("cluster", &message.cluster);
        let cluster = errors
            .finish(cluster)
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::EndSync {
            cluster: cluster.clone(),
            fence: message.fence,
        };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let consequences = consequences::for_cluster(&self.0, &reply, &cluster, None).await?;
        Ok(v1::EndSyncResponse {
            revision: reply.revision,
            consequences,
        })
    }
}

/// The first of some allocations, as many as an answer lists, and how many are left out.
fn listed(all: impl Iterator<Item = v1::Allocation>) -> (Vec<v1::Allocation>, u32) {
    let (mut listed, mut bytes, mut more) = (Vec::new(), 0, 0_u32);
    let (most, most_bytes) = MAX_LISTED;
    for one in all {
        bytes += one.encoded_len();
        if listed.len() < most && bytes <= most_bytes {
            listed.push(one);
        } else {
            more = more.saturating_add(1);
        }
    }
    (listed, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lists_no_more_than_a_client_takes() {
        let small = |count| std::iter::repeat_n(v1::Allocation::default(), count);
        let (all, more) = listed(small(1000));
        assert_eq!((all.len(), more), (1000, 0));
        let (some, more) = listed(small(100_000));
        assert_eq!((some.len(), more), (1000, 99_000));
        let large = v1::Allocation {
            pool: "p".repeat(100_000),
            ..v1::Allocation::default()
        };
        let (few, more) = listed(std::iter::repeat_n(large, 100));
        assert_eq!((few.len(), more), (10, 90));
        let bytes: usize = few.iter().map(v1::Allocation::encoded_len).sum();
        assert!(bytes <= MAX_LISTED.1);
    }
}
