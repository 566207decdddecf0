//! What an announcer tells of its node on one stream.

use pharos_proto::v1::announcer_report::{Conflict, Status};

use crate::api::announcements;
use crate::engine::wall_time;
use crate::feed::status::StatusFeed;
use crate::state::model::NodeKey;

/// A stream's place in the feed, which it leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Told {
    feed: StatusFeed,
    node: NodeKey,
    stream: u64,
}

impl Told {
    pub(super) fn begin(feed: &StatusFeed, node: &NodeKey) -> Self {
        Self {
            stream: feed.enter(node),
            feed: feed.clone(),
            node: node.clone(),
        }
    }

    pub(super) fn tell(&self, status: &Status) {
        self.feed.tell(&self.node, self.stream, status);
    }

    pub(super) fn see(&self, conflict: &Conflict) {
        let now = announcements::now();
        self.feed.see(&self.node, conflict, now, wall_time());
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let now = announcements::now();
        self.feed.leave(&self.node, self.stream, now, wall_time());
    }
}
