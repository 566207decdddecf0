//! What an announcer tells of its node on one stream.

use pharos_proto::v1::announcer_report::{Conflict, Status};
use tokio_util::sync::CancellationToken;

use crate::api::{announcements, status};
use crate::engine::wall_time;
use crate::feed::status::StatusFeed;
use crate::state::announce::AssignmentKey;
use crate::state::model::NodeKey;
use crate::state::refusal::Rejection;

/// A stream's place in the feed, which it leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Told {
    feed: StatusFeed,
    node: NodeKey,
    stream: u64,
    begin_again: CancellationToken,
}

impl Told {
    pub(super) fn begin(feed: &StatusFeed, node: &NodeKey) -> Self {
        let stream = feed.enter(node, announcements::now());
        Self {
            stream,
            begin_again: feed.begin_again(node, stream),
            feed: feed.clone(),
            node: node.clone(),
        }
    }

    /// Waits until the stream is to be begun again. Cancel safe.
    pub(super) async fn to_begin_again(&self) {
        self.begin_again.cancelled().await;
    }

    pub(super) fn tell(&self, status: &Status) {
        self.feed.tell(&self.node, self.stream, status);
    }

    /// Something of it could not be read: the end of the stream.
    pub(super) fn refuse(&self, bad: &Rejection) -> tonic::Status {
        self.feed.refuse();
        tracing::warn!(
            cluster = %self.node.cluster,
            node = %self.node.node,
            error = %bad,
            "a report of an announcer was refused, and its stream ends"
        );
        status::of_rejection(bad)
    }

    pub(super) fn see(&self, address: &AssignmentKey, conflict: &Conflict) {
        let now = announcements::now();
        self.feed
            .see(&self.node, address, conflict, now, wall_time());
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let now = announcements::now();
        self.feed.leave(&self.node, self.stream, now, wall_time());
    }
}
