//! AnnouncementService: who answers for what, and why.
//!
//! What is assigned comes from [`crate::feed::assignments`], what announcers say from
//! [`crate::feed::status`]; both are put together when somebody asks.

mod picture;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::BoxStream;
use pharos_proto::v1;
use pharos_proto::v1::announcement_service_server::AnnouncementService;
use pharos_proto::v1::explained_node::Verdict as WireVerdict;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use self::watch::Watcher;
use super::call::Api;
use super::convert_announce::assignments::key_to_wire;
use super::convert_history::time_to_wire;
use super::fields::FieldErrors;
use super::paging::{PageToken, page_size};
use super::status;
use crate::feed::status::Answerer;
use crate::state::announce::{Assignment, AssignmentKey, ExplainedNode, Question, Verdict};
use crate::state::model::{AllocationId, OwnerKey};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// Serves AnnouncementService.
#[derive(Debug, Clone)]
pub struct Announcements(pub Api);

#[tonic::async_trait]
impl AnnouncementService for Announcements {
    async fn list_announcements(
        &self,
        request: Request<v1::ListAnnouncementsRequest>,
    ) -> Result<Response<v1::ListAnnouncementsResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        let cluster = errors.name("cluster", &message.cluster);
        let address = match message.address.as_str() {
            "" => Some(None),
            text => errors.address("address", text).map(Some),
        };
        let read = errors.finish(cluster.zip(address));
        let (cluster, address) = read.map_err(|bad| status::of_rejection(&bad))?;
        let size = usize::try_from(page_size(message.page_size)?).unwrap_or(usize::MAX);
        let filter = (&message.cluster, &message.address);
        let token = PageToken::read(&message.page_token, &filter, 2)?;
        let after = token.map(|token| after_token(&token)).transpose()?;
        let mut assigned = self.0.feeds.assignments.assigned(&cluster);
        assigned.retain(|one| {
            let is_wanted = address.is_none_or(|address| one.key.address == address);
            is_wanted && after.as_ref().is_none_or(|after| one.key > *after)
        });
        assigned.sort_by(|one, two| one.key.cmp(&two.key));
        let more = assigned.len() > size;
        assigned.truncate(size);
        let next_page_token = match assigned.last().filter(|_| more) {
            Some(last) => {
                let key = key_to_wire(&last.key);
                let key = vec![key.address_space, key.address];
                PageToken { key, revision: 0 }.write(&filter)
            }
            None => String::new(),
        };
        let answerers = self.answerers(&cluster, &assigned);
        let announcements = assigned.iter().map(|one| announcement(one, &answerers));
        Ok(Response::new(v1::ListAnnouncementsResponse {
            announcements: announcements.collect(),
            next_page_token,
        }))
    }

    type WatchAnnouncementsStream =
        BoxStream<'static, Result<v1::WatchAnnouncementsResponse, Status>>;

    async fn watch_announcements(
        &self,
        request: Request<v1::WatchAnnouncementsRequest>,
    ) -> Result<Response<Self::WatchAnnouncementsStream>, Status> {
        let cluster = cluster(&request.get_ref().cluster)?;
        let watcher = Watcher::new(&self.0, cluster);
        let stream = futures::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(message) => Some((Ok(message), Some(watcher))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_conflicts(
        &self,
        request: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        let cluster = cluster(&request.get_ref().cluster)?;
        let seen = self.0.feeds.status.conflicts(&cluster, now());
        let seen = seen.into_iter().map(|seen| v1::SeenConflict {
            node: seen.node.to_string(),
            conflict: Some(seen.conflict),
            first_seen: Some(time_to_wire(seen.first_seen)),
            last_seen: Some(time_to_wire(seen.last_seen)),
        });
        Ok(Response::new(v1::ListConflictsResponse {
            conflicts: seen.collect(),
        }))
    }

    async fn explain_assignment(
        &self,
        request: Request<v1::ExplainAssignmentRequest>,
    ) -> Result<Response<v1::ExplainAssignmentResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        let cluster = errors.name("cluster", &message.cluster);
        let space = errors.space("address_space", &message.address_space);
        let address = errors.address("address", &message.address);
        let read = errors.finish(cluster.zip(space.zip(address)));
        let (cluster, (space, address)) = read.map_err(|bad| status::of_rejection(&bad))?;
        let key = AssignmentKey { space, address };
        let of_whom = cluster.clone();
        // The writer only collects: who asks about many takes no time from those who write.
        let question = self
            .0
            .read(move |state| Question::collect(state, &of_whom, key));
        let Some(explained) = question.await?.map(Question::answer) else {
            let message = format!("nobody of cluster {cluster} holds {}", message.address);
            return Err(status::plain(tonic::Code::NotFound, "NOT_HELD", message));
        };
        let assignment = explained.assignment.as_ref();
        let listed = assignment
            .map(|one| one.nodes.as_slice())
            .unwrap_or_default();
        let mut statuses = self.0.feeds.status.statuses(&cluster);
        let nodes = explained.nodes.iter().map(|node| v1::ExplainedNode {
            status: statuses.remove(&node.node),
            ..explained_node(node, listed)
        });
        Ok(Response::new(v1::ExplainAssignmentResponse {
            nodes: nodes.collect(),
            announcement: assignment.map(|one| {
                let group = BTreeSet::from([one.group]);
                let answerers = self.0.feeds.status.answerers(&cluster, &group, now());
                announcement(one, &answerers)
            }),
        }))
    }
}

/// Who says that it answers, by group.
type Answerers = BTreeMap<AllocationId, Vec<Answerer>>;

impl Announcements {
    fn answerers(&self, cluster: &Name, assigned: &[Arc<Assignment>]) -> Answerers {
        let groups = assigned.iter().map(|one| one.group).collect();
        self.0.feeds.status.answerers(cluster, &groups, now())
    }
}

/// When what was told is looked at.
pub(super) fn now() -> Instant {
    Instant::now()
}

fn cluster(wire: &str) -> Result<Name, Status> {
    let mut errors = FieldErrors::new();
    let cluster = errors.name("cluster", wire);
    let cluster = errors.finish(cluster);
    cluster.map_err(|bad: Rejection| status::of_rejection(&bad))
}

fn after_token(token: &PageToken) -> Result<AssignmentKey, Status> {
    let mut errors = FieldErrors::new();
    let space = errors.name("page_token", &token.key[0]);
    let address = errors.address("page_token", &token.key[1]);
    let read = errors.finish(space.zip(address));
    let (space, address) = read.map_err(|bad| status::of_rejection(&bad))?;
    Ok(AssignmentKey { space, address })
}

fn announcement(assignment: &Assignment, answerers: &Answerers) -> v1::Announcement {
    let key = key_to_wire(&assignment.key);
    let sorted = |owners: &[OwnerKey]| {
        let mut owners: Vec<String> = owners.iter().map(OwnerKey::to_string).collect();
        owners.sort();
        owners
    };
    let own = answerers.get(&assignment.group).into_iter().flatten();
    v1::Announcement {
        address_space: key.address_space,
        address: key.address,
        group: assignment.group,
        owners: sorted(&assignment.owners),
        not_announced_here: sorted(&assignment.left_out),
        nodes: assignment.nodes.iter().map(Name::to_string).collect(),
        answerers: own.map(answerer).collect(),
    }
}

fn answerer(answerer: &Answerer) -> v1::Answerer {
    v1::Answerer {
        node: answerer.node.to_string(),
        ownership: Some(answerer.ownership.clone()),
        unknown_since: answerer.unknown_since.map(time_to_wire),
    }
}

fn explained_node(node: &ExplainedNode, listed: &[Name]) -> v1::ExplainedNode {
    let verdict = match &node.verdict {
        Verdict::Candidate => WireVerdict::Candidate,
        Verdict::Removed => WireVerdict::Removed,
        Verdict::NoAnnouncer => WireVerdict::NoAnnouncer,
        Verdict::Unavailable(_) => WireVerdict::Unavailable,
        Verdict::NotAdvertised(_) => WireVerdict::NotAdvertised,
        Verdict::NotSelected { .. } => WireVerdict::NotSelected,
        Verdict::NoEndpoint(_) => WireVerdict::NoEndpoint,
        Verdict::FeatureMissing(_) => WireVerdict::FeatureMissing,
    };
    let place = listed.iter().position(|listed| *listed == node.node);
    let position = place.map_or(0, |place| u32::try_from(place + 1).unwrap_or(u32::MAX));
    v1::ExplainedNode {
        node: node.node.to_string(),
        verdict: verdict.into(),
        detail: node.verdict.to_string(),
        position,
        weight: node.weight,
        wanted_interfaces: node.interfaces.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests;
