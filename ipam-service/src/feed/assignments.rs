//! The node stream: what each announcer of a cluster is to announce, encoded once and shared.
//!
//! [`AssignmentFeed`] holds, per cluster, what was last published ([`book`]), as bytes that go to
//! every announcer alike. A subscriber gets a snapshot of what differs from its own digests and then
//! every change, without a gap or a repetition: both are taken under one lock.
//!
//! It decides nothing, and knows neither the engine nor a connection.

mod book;
mod frames;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use pharos_proto::digest::Digests;
use pharos_proto::v1;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use self::book::Book;
use super::touched::{Touched, Touches};
use crate::state::announce::{Assignment, AssignmentKey, ClusterDelta, Deleted, NodeSet, keys_of};
use crate::state::change::Change;
use crate::state::model::{NodeKey, OwnerKey};
use crate::state::names::Name;
use crate::state::{Acknowledged, StreamPlace};

/// An encoded `AssignmentUpdate` as it goes over a gRPC stream: [`PREFIX`] bytes, then the message.
pub type Frame = Bytes;

/// Bytes before a message: a flag (0: not compressed) and its length, big endian (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
pub const PREFIX: usize = 5;

/// Most live frames that a subscriber may be behind: a batch of the engine makes one or a few, so
/// this is a quarter of a second of the fastest writer, and seconds of any usual one. The frames
/// are shared, so a cluster holds at most 1024 x 64 KiB for its slowest subscriber, whatever the
/// number of subscribers. Who is further behind is ended: its digests bring it up to date for less.
const LIVE_FRAMES: usize = 1024;

/// The assignments of all clusters, as they were last published. Clones share them.
#[derive(Debug, Clone)]
pub struct AssignmentFeed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store_id: String,
    clusters: Mutex<HashMap<Name, Arc<Mutex<Channel>>>>,
    /// Greatest position of a cluster that was deleted: whoever uses its name again goes on from
    /// there, so that no position means two things.
    floor: AtomicU64,
    /// How many streams there have been.
    streams: AtomicU64,
    /// What announcers have acknowledged since it was last taken, by node and stream.
    acks: Mutex<BTreeMap<(NodeKey, u64), u64>>,
    acknowledged: Notify,
    touches: Touches<Concern>,
}

/// What is assigned at an address.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub assignment: Arc<Assignment>,
    /// All who may announce it.
    pub candidates: Option<Arc<NodeSet>>,
}

/// What an announcement may be another one about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    Address(AssignmentKey),
    /// Whatever this one holds.
    Owner(OwnerKey),
    /// Whatever nobody announces.
    Policy,
}

/// One cluster: its book, and where changes of it go.
#[derive(Debug)]
struct Channel {
    book: Book,
    live: broadcast::Sender<Frame>,
    deleted: CancellationToken,
    /// Another one after each deletion.
    stream: u64,
    /// Position at which the present stream ends, once it has; shared with its subscribers.
    end: Arc<OnceLock<u64>>,
}

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("the subscriber fell behind; connect again, with digests")]
    FellBehind,
    #[error("the cluster was deleted; introduce yourself again")]
    ClusterDeleted,
}

/// What one announcer still has to be sent, and how far it has come.
#[derive(Debug)]
pub struct Subscription {
    snapshot: VecDeque<Frame>,
    live: broadcast::Receiver<Frame>,
    shared: Arc<Shared>,
    channel: Arc<Mutex<Channel>>,
    stream: u64,
    end: Arc<OnceLock<u64>>,
    /// Greatest position that counted.
    acknowledged: u64,
}

impl AssignmentFeed {
    /// A feed of a store, which starts with `everything` that is assigned.
    pub fn new(store_id: String, everything: &BTreeMap<Name, ClusterDelta>) -> Self {
        let feed = Self {
            shared: Arc::new(Shared {
                store_id,
                clusters: Mutex::default(),
                floor: AtomicU64::new(0),
                streams: AtomicU64::new(0),
                acks: Mutex::default(),
                acknowledged: Notify::new(),
                touches: Touches::default(),
            }),
        };
        feed.publish(everything);
        feed
    }

    /// Takes in committed changes and hands them to the subscribers. Says how far the streams were
    /// that ended by it.
    pub fn publish(&self, deltas: &BTreeMap<Name, ClusterDelta>) -> BTreeMap<Name, StreamPlace> {
        let mut ended = BTreeMap::new();
        for (cluster, delta) in deltas {
            let channel = self.channel(cluster);
            let mut channel = lock(&channel);
            for frame in channel.book.apply(delta) {
                // An error means that nobody listens.
                let _nobody = channel.live.send(frame);
            }
            let upserts = delta.upserts.iter().map(|one| &one.key);
            let touched = upserts.chain(&delta.removals).cloned();
            let touched = touched.map(Concern::Address);
            self.shared.touches.touch(cluster, touched);
            let Some(deleted) = delta.deleted else {
                continue;
            };
            match deleted {
                Deleted::Gone => {
                    let reached = channel.book.position();
                    self.shared.floor.fetch_max(reached, Ordering::Relaxed);
                    drop(lock(&self.shared.clusters).remove(cluster));
                }
                Deleted::MadeAgain => {}
            }
            ended.insert(cluster.clone(), channel.place());
            channel.end(self.shared.next_stream());
        }
        ended
    }

    /// Takes note of what committed changes may mean for addresses that nobody announces; to be called after
    /// [`Self::publish`].
    pub fn note<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) {
        let touches = &self.shared.touches;
        if !touches.is_watched() {
            return;
        }
        let policy = |cluster: Option<&Name>| match cluster {
            Some(cluster) => touches.touch(cluster, [Concern::Policy]),
            None => touches.touch_all(&Concern::Policy),
        };
        for change in changes {
            match change {
                Change::Allocation(edit) => {
                    for allocation in edit.before.iter().chain(&edit.after) {
                        let keys: Vec<_> = keys_of(allocation).map(Concern::Address).collect();
                        touches.touch(&allocation.owner.key.cluster, keys);
                    }
                }
                Change::Backends(edit) => {
                    let owner = edit.subject().owner.clone();
                    touches.touch(&owner.cluster.clone(), [Concern::Owner(owner)]);
                }
                Change::Node(edit) => policy(Some(&edit.subject().key.cluster)),
                Change::Advertisement(edit) => policy(edit.subject().key.cluster.as_ref()),
                Change::Pool(edit) => policy(edit.subject().key.cluster.as_ref()),
                Change::Cluster(_)
                | Change::Reservation(_)
                | Change::Quota(_)
                | Change::BgpPeer(_)
                | Change::BfdProfile(_)
                | Change::AddressSpace(_)
                | Change::Unavailable(_)
                | Change::Placement(_)
                | Change::Tenure(_) => {}
            }
        }
    }

    /// Something else is to be said of it.
    #[cfg(test)]
    pub(crate) fn touch(&self, cluster: &Name, concern: Concern) {
        self.shared.touches.touch(cluster, [concern]);
    }

    /// Everything in which the cluster's assignments differ from what the subscriber has, and every
    /// change from now on.
    pub fn subscribe(&self, cluster: &Name, digests: &Digests) -> Subscription {
        let shared = Arc::clone(&self.shared);
        let of_cluster = self.channel(cluster);
        let mut channel = lock(&of_cluster);
        Subscription {
            snapshot: channel.book.snapshot(digests).into(),
            live: channel.live.subscribe(),
            shared,
            stream: channel.stream,
            end: Arc::clone(&channel.end),
            acknowledged: 0,
            channel: Arc::clone(&of_cluster),
        }
    }

    /// How many subscribers there are, of all clusters.
    pub fn watchers(&self) -> usize {
        let channels: Vec<_> = lock(&self.shared.clusters).values().cloned().collect();
        let count = |channel: &Arc<Mutex<Channel>>| lock(channel).live.receiver_count();
        channels.iter().map(count).sum()
    }

    /// Is cancelled when the cluster is deleted, and with it all that was said of it.
    pub fn deletion(&self, cluster: &Name) -> CancellationToken {
        let channel = self.channel(cluster);
        lock(&channel).deleted.clone()
    }

    /// How far the stream of a cluster is, if it has one.
    pub fn place(&self, cluster: &Name) -> Option<StreamPlace> {
        let channel = lock(&self.shared.clusters).get(cluster).cloned()?;
        let place = lock(&channel).place();
        Some(place)
    }

    /// What was acknowledged since the last call; at most one position for each node and stream.
    pub fn take_acknowledged(&self) -> Vec<Acknowledged> {
        let acks = std::mem::take(&mut *lock(&self.shared.acks)).into_iter();
        acks.map(|((node, stream), position)| Acknowledged {
            node,
            place: StreamPlace { stream, position },
        })
        .collect()
    }

    /// Waits until there is something to take. Cancel safe.
    pub async fn acknowledged(&self) {
        self.shared.acknowledged.notified().await;
    }

    /// What is assigned at these addresses to the announcers of a cluster.
    pub fn assigned_at<'a>(
        &self,
        cluster: &Name,
        keys: impl IntoIterator<Item = &'a AssignmentKey>,
    ) -> Vec<Assigned> {
        let Some(channel) = lock(&self.shared.clusters).get(cluster).cloned() else {
            return Vec::new();
        };
        let channel = lock(&channel);
        let found = keys.into_iter().filter_map(|key| channel.book.get(key));
        found.collect()
    }

    /// Gathers what announcements of a cluster may be about that change from now on.
    pub fn touched(&self, cluster: &Name) -> Touched<Concern> {
        self.shared.touches.watch(cluster)
    }

    /// The same set once.
    pub fn list(&self, cluster: &Name) -> v1::ListAssignmentsResponse {
        let channel = lock(&self.shared.clusters).get(cluster).cloned();
        match channel {
            Some(channel) => lock(&channel).book.list(),
            // Asking must not make a cluster known.
            None => Book::new(self.shared.store_id.clone(), cluster).list(),
        }
    }

    fn channel(&self, cluster: &Name) -> Arc<Mutex<Channel>> {
        let mut clusters = lock(&self.shared.clusters);
        let channel = clusters.entry(cluster.clone()).or_insert_with(|| {
            let mut book = Book::new(self.shared.store_id.clone(), cluster);
            book.start_at(self.shared.floor.load(Ordering::Relaxed));
            Arc::new(Mutex::new(Channel::new(book, self.shared.next_stream())))
        });
        Arc::clone(channel)
    }
}

impl Shared {
    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Channel {
    fn new(book: Book, stream: u64) -> Self {
        Self {
            book,
            live: broadcast::Sender::new(LIVE_FRAMES),
            deleted: CancellationToken::new(),
            stream,
            end: Arc::default(),
        }
    }

    fn place(&self) -> StreamPlace {
        StreamPlace {
            stream: self.stream,
            position: self.book.position(),
        }
    }

    /// Ends all subscriptions, once they are read to the end, and whoever else rests on what was
    /// said of the cluster.
    fn end(&mut self, next: u64) {
        let _first_time = self.end.set(self.book.position());
        self.end = Arc::default();
        self.stream = next;
        self.live = broadcast::Sender::new(LIVE_FRAMES);
        std::mem::take(&mut self.deleted).cancel();
    }
}

impl Subscription {
    /// The next frame. Cancel safe.
    pub async fn next(&mut self) -> Result<Frame, Ended> {
        if let Some(frame) = self.snapshot.pop_front() {
            return Ok(frame);
        }
        self.live.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(_) => Ended::FellBehind,
            broadcast::error::RecvError::Closed => Ended::ClusterDeleted,
        })
    }

    /// The subscriber, an announcer of this node, has applied the stream up to here. As long as
    /// nothing may be removed for the stream's sake, that says nothing about what it no longer
    /// answers for. What it has said before is no news, and wakes nobody.
    pub fn acknowledge(&mut self, node: &NodeKey, position: u64) {
        if position <= self.acknowledged || !lock(&self.channel).book.may_acknowledge(position) {
            return;
        }
        self.acknowledged = position;
        let mut acks = lock(&self.shared.acks);
        // Subscriptions of one node may overlap for a moment, and the older one is behind.
        let known = acks.entry((node.clone(), self.stream)).or_default();
        *known = position.max(*known);
        drop(acks);
        self.shared.acknowledged.notify_one();
    }

    /// Whether the stream has ended and the subscriber has acknowledged all of it.
    pub fn is_acknowledged_to_the_end(&self) -> bool {
        let end = self.end.get();
        end.is_some_and(|end| self.acknowledged >= *end)
    }
}

/// A panic while a book was being changed would have ended the writer, and with it the process; a
/// reader that panics leaves the book whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
