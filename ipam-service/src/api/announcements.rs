//! AnnouncementService: who answers for what, and why.
//!
//! What is held comes from the state, what is assigned from [`crate::feed::assignments`], what announcers say
//! from [`crate::feed::status`]; they are put together when somebody asks ([`describe`]).

mod describe;
mod picture;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::BoxStream;
use pharos_proto::v1;
use pharos_proto::v1::announcement_service_server::AnnouncementService;
use pharos_proto::v1::explained_node::Verdict as WireVerdict;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use self::describe::{conflict_to_wire, describe};
use self::watch::{MOST_BYTES, Watcher};
use super::call::Api;
use super::convert_announce::assignments::key_to_wire;
use super::fields::FieldErrors;
use super::paging::{PageToken, page_size};
use super::status;
use crate::feed::status::ConflictKey;
use crate::state::State;
use crate::state::address::Address;
use crate::state::announce::{AssignmentKey, ExplainedNode, HeldPage, Inquiry, Question, Verdict};
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
        let page = match address {
            Some(address) => self.held_at(&cluster, address, after).await?,
            None => self.held_after(&cluster, after, size).await?,
        };
        let last = page.keys.last().filter(|_| page.next.is_some()).cloned();
        let described = self.describe(&cluster, page.keys.into_iter().collect());
        let (announcements, cut_after) = cut(described.await?);
        let next_page_token = match cut_after.or(last) {
            Some(last) => {
                let key = key_to_wire(&last);
                let key = vec![key.address_space, key.address];
                PageToken { key, revision: 0 }.write(&filter)
            }
            None => String::new(),
        };
        Ok(Response::new(v1::ListAnnouncementsResponse {
            announcements,
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
        let message = request.into_inner();
        let cluster = cluster(&message.cluster)?;
        let size = usize::try_from(page_size(message.page_size)?).unwrap_or(usize::MAX);
        let token = PageToken::read(&message.page_token, &message.cluster, 4)?;
        let after = token.map(|token| after_conflict(&token)).transpose()?;
        let status = &self.0.feeds.status;
        let mut seen = status.conflicts(&cluster, after.as_ref(), size + 1, now());
        let is_more = seen.len() > size;
        seen.truncate(size);
        let next_page_token = match seen.last().filter(|_| is_more) {
            Some((last, _)) => {
                let key = key_to_wire(&last.address);
                let node = last.node.to_string();
                let key = vec![node, key.address_space, key.address, last.mac.clone()];
                PageToken { key, revision: 0 }.write(&message.cluster)
            }
            None => String::new(),
        };
        let seen = seen.into_iter().map(|(_, seen)| conflict_to_wire(seen));
        Ok(Response::new(v1::ListConflictsResponse {
            conflicts: seen.collect(),
            next_page_token,
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
        let asked = key.clone();
        // The writer only collects: who asks about many takes no time from those who write.
        let question = self
            .0
            .read(move |state| Question::collect(state, &of_whom, asked));
        let Some(explained) = question.await?.map(Question::answer) else {
            let message = format!("nobody of cluster {cluster} holds {}", message.address);
            return Err(status::plain(tonic::Code::NotFound, "NOT_HELD", message));
        };
        let assignment = explained.assignment.as_ref();
        let listed = assignment
            .map(|one| one.nodes.as_slice())
            .unwrap_or_default();
        let mut statuses = self.0.feeds.status.statuses(&cluster);
        let cut = self.0.feeds.status.cut(&cluster);
        let nodes = explained.nodes.iter().map(|node| v1::ExplainedNode {
            status: statuses.remove(&node.node),
            told_in_part: cut.contains(&node.node),
            ..explained_node(node, listed)
        });
        let mut described = self
            .describe(&cluster, BTreeSet::from([key.clone()]))
            .await?;
        Ok(Response::new(v1::ExplainAssignmentResponse {
            nodes: nodes.collect(),
            announcement: described.remove(&key),
        }))
    }
}

impl Announcements {
    /// At most so many addresses that the cluster holds, from somewhere on.
    async fn held_after(
        &self,
        cluster: &Name,
        after: Option<AssignmentKey>,
        most: usize,
    ) -> Result<HeldPage, Status> {
        let mut page = HeldPage {
            keys: Vec::new(),
            next: after,
        };
        loop {
            let (cluster, room) = (cluster.clone(), most - page.keys.len());
            let after = page.next.take();
            let read = move |state: &State| HeldPage::after(state, &cluster, after.as_ref(), room);
            let more = self.0.read(read).await?;
            page.keys.extend(more.keys);
            page.next = more.next;
            if page.next.is_none() || page.keys.len() >= most {
                return Ok(page);
            }
        }
    }

    /// In how many spaces an address is held is up to the operator: one page.
    async fn held_at(
        &self,
        cluster: &Name,
        address: Address,
        after: Option<AssignmentKey>,
    ) -> Result<HeldPage, Status> {
        let cluster = cluster.clone();
        let read = move |state: &State| HeldPage::at(state, &cluster, address);
        let mut page = self.0.read(read).await?;
        page.keys
            .retain(|key| after.as_ref().is_none_or(|after| key > after));
        Ok(page)
    }

    /// Those of these addresses that are held.
    async fn describe(
        &self,
        cluster: &Name,
        keys: BTreeSet<AssignmentKey>,
    ) -> Result<BTreeMap<AssignmentKey, v1::Announcement>, Status> {
        let assigned = self.0.feeds.assignments.assigned_at(cluster, &keys);
        let mut silent = keys;
        for one in &assigned {
            silent.remove(&one.assignment.key);
        }
        let mut held = Vec::new();
        if !silent.is_empty() {
            let (cluster, asked) = (cluster.clone(), silent.clone());
            let read = move |state: &State| Inquiry::collect(state, &cluster, &asked);
            held = self.0.read(read).await?.answer();
            held.retain(|one| silent.contains(&one.key));
        }
        let view = self.0.feeds.status.view(cluster, now());
        let described = describe(&view, &assigned, &held).into_iter();
        Ok(described.map(|(key, one)| (key, one.wire)).collect())
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
    after_key(&token.key[0], &token.key[1])
}

fn after_conflict(token: &PageToken) -> Result<ConflictKey, Status> {
    let mut errors = FieldErrors::new();
    let node = errors.name("page_token", &token.key[0]);
    let node = errors.finish(node);
    Ok(ConflictKey {
        node: node.map_err(|bad| status::of_rejection(&bad))?,
        address: after_key(&token.key[1], &token.key[2])?,
        mac: token.key[3].clone(),
    })
}

fn after_key(space: &str, address: &str) -> Result<AssignmentKey, Status> {
    let mut errors = FieldErrors::new();
    let space = errors.name("page_token", space);
    let address = errors.address("page_token", address);
    let read = errors.finish(space.zip(address));
    let (space, address) = read.map_err(|bad| status::of_rejection(&bad))?;
    Ok(AssignmentKey { space, address })
}

/// As many of them as a message may have bytes, at least one; and the last of these, if there are more.
fn cut(
    all: BTreeMap<AssignmentKey, v1::Announcement>,
) -> (Vec<v1::Announcement>, Option<AssignmentKey>) {
    let (mut announcements, mut last, mut bytes) = (Vec::new(), None, 0);
    for (key, one) in all {
        bytes += one.encoded_len();
        if bytes > MOST_BYTES && last.is_some() {
            return (announcements, last);
        }
        announcements.push(one);
        last = Some(key);
    }
    (announcements, None)
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
        Verdict::Conflicting(_) => WireVerdict::ConflictingAdvertisements,
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
        told_in_part: false,
    }
}

#[cfg(test)]
mod tests;
