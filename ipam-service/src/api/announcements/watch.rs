//! Telling a watcher what changed since it was told last.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pharos_proto::v1;
use tokio::sync::watch;
use tonic::Status;

use super::Announcements;
use crate::api::convert_announce::assignments::key_to_wire;
use crate::api::status;
use crate::state::announce::AssignmentKey;
use crate::state::names::Name;

/// Changes within so long are told together: putting everything together costs what there is.
const PAUSE: Duration = Duration::from_millis(100);

/// What is forgotten without a word, because its time is over, is noticed so soon.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Most announcements in one message: some hundred bytes each, far below what clients take.
const MOST: usize = 1000;

/// A watcher of one cluster.
pub(super) struct Watcher {
    announcements: Announcements,
    cluster: Name,
    published: watch::Receiver<u64>,
    told_by_nodes: watch::Receiver<u64>,
    shown: Shown,
    /// What is to be sent yet.
    ready: VecDeque<v1::WatchAnnouncementsResponse>,
    synced: bool,
}

impl Watcher {
    pub(super) fn new(announcements: Announcements, cluster: Name) -> Self {
        let feeds = &announcements.0.feeds;
        Self {
            published: feeds.assignments.published(),
            told_by_nodes: feeds.status.changes(),
            announcements,
            cluster,
            shown: Shown::new(),
            ready: VecDeque::new(),
            synced: false,
        }
    }

    /// The next message. Cancel safe: what was put together stays in `ready`.
    pub(super) async fn next(&mut self) -> Result<v1::WatchAnnouncementsResponse, Status> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            if self.synced {
                self.wait().await?;
            }
            self.published.mark_unchanged();
            self.told_by_nodes.mark_unchanged();
            let all = self.announcements.all(&self.cluster);
            self.ready = differences(&self.shown, &all, self.synced);
            self.shown = all;
            self.synced = true;
        }
    }

    async fn wait(&mut self) -> Result<(), Status> {
        let shutdown = self.announcements.0.shutdown.clone();
        let changed = async {
            tokio::select! {
                Ok(()) = self.published.changed() => {}
                Ok(()) = self.told_by_nodes.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            tokio::time::sleep(PAUSE).await;
        };
        tokio::select! {
            () = shutdown.stopping() => {
                Err(status::unavailable("STOPPING", "the server is stopping"))
            }
            () = changed => Ok(()),
        }
    }
}

type Shown = BTreeMap<AssignmentKey, v1::Announcement>;

/// What a watcher that was shown one state has to be told of the next. One that is not `synced` yet is so
/// with the last message, which it gets in any case.
fn differences(
    before: &Shown,
    after: &Shown,
    synced: bool,
) -> VecDeque<v1::WatchAnnouncementsResponse> {
    let changed = after
        .iter()
        .filter(|(key, one)| before.get(key) != Some(one));
    let changed: Vec<v1::Announcement> = changed.map(|(_, one)| one.clone()).collect();
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let gone: Vec<v1::AssignmentKey> = gone.map(key_to_wire).collect();
    let changed = changed
        .chunks(MOST)
        .map(|chunk| (chunk.to_vec(), Vec::new()));
    let gone = gone.chunks(MOST).map(|chunk| (Vec::new(), chunk.to_vec()));
    let messages =
        gone.chain(changed)
            .map(|(announcements, removed)| v1::WatchAnnouncementsResponse {
                announcements,
                removed,
                synced,
            });
    let mut messages: VecDeque<_> = messages.collect();
    if !synced {
        if messages.is_empty() {
            messages.push_back(v1::WatchAnnouncementsResponse::default());
        }
        if let Some(last) = messages.back_mut() {
            last.synced = true;
        }
    }
    messages
}
