//! What announcers tell of themselves: who answers for what since when, and who else does.
//!
//! In memory only, and for people: nothing is decided by it. What a node told outlives its stream by
//! [`KEPT`], because a node without a stream most likely goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Status};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state::model::{AllocationId, NodeKey, Timestamp};
use crate::state::names::Name;

/// How long what a node told is shown after its stream has ended.
pub const KEPT: Duration = Duration::from_secs(30);

/// A conflict that is not reported again within so long is over: announcers repeat one that goes on each
/// minute.
pub const CONFLICT_KEPT: Duration = Duration::from_secs(150);

/// Most conflicts that are remembered of one node.
const MAX_CONFLICTS: usize = 1000;

/// Most groups of one node. More than any holds; a node that says more is not believed.
const MAX_OWNED: usize = 1_000_000;

/// Most bytes of the names of nodes and interfaces that one node tells with its groups: some names for each of
/// [`MAX_OWNED`].
const MAX_NAMES_BYTES: usize = 128 * 1024 * 1024;

/// What all announcers tell. Clones share it.
#[derive(Debug, Clone)]
pub struct StatusFeed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    told: Mutex<Told>,
    changed: watch::Sender<u64>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Told {
    streams: u64,
    nodes: BTreeMap<NodeKey, OfNode>,
}

#[derive(Debug, Default)]
struct OfNode {
    /// The newest; for a moment a node may have two.
    stream: u64,
    ended: Option<Ended>,
    status: Option<v1::NodeStatus>,
    owned: Owned,
    conflicts: BTreeMap<(String, String, String), Seen>,
}

/// The groups of one node. What is beyond the limits is not kept, and so not shown.
#[derive(Debug, Default)]
struct Owned {
    by_group: BTreeMap<AllocationId, v1::Ownership>,
    names_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    at: Instant,
    wall: Timestamp,
}

#[derive(Debug, Clone)]
struct Seen {
    conflict: Conflict,
    first: Timestamp,
    last: Timestamp,
    until: Instant,
}

/// A node that says that it answers for a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Answerer {
    pub node: Name,
    pub ownership: v1::Ownership,
    /// When its stream ended.
    pub unknown_since: Option<Timestamp>,
}

/// A machine that a node saw.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenConflict {
    pub node: Name,
    pub conflict: Conflict,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

impl Answerer {
    /// Whether another one says that it has the group from this one.
    fn was_handed_to(&self, heir: &Self) -> bool {
        let since = |one: &Self| {
            one.ownership
                .since
                .map(|since| (since.seconds, since.nanos))
        };
        heir.ownership.why() == v1::ownership::Why::HandedOver
            && heir.ownership.from == self.node.as_str()
            && since(heir) >= since(self)
    }
}

impl Default for StatusFeed {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                told: Mutex::default(),
                changed: watch::Sender::new(0),
                refused: AtomicU64::new(0),
            }),
        }
    }
}

impl StatusFeed {
    /// A node has a new stream. What it told on the one before stands until it tells all anew. Its
    /// number is to be handed to the other functions.
    pub fn enter(&self, node: &NodeKey) -> u64 {
        let mut told = self.lock();
        told.streams += 1;
        let stream = told.streams;
        let of_node = told.nodes.entry(node.clone()).or_default();
        of_node.stream = stream;
        of_node.ended = None;
        drop(told);
        self.changed();
        stream
    }

    /// A stream has ended.
    pub fn leave(&self, node: &NodeKey, stream: u64, at: Instant, wall: Timestamp) {
        let mut told = self.lock();
        told.forget(at);
        if let Some(of_node) = told.of_stream(node, stream) {
            of_node.ended = Some(Ended { at, wall });
        }
        drop(told);
        self.changed();
    }

    /// A node tells what changed, or everything.
    pub fn tell(&self, node: &NodeKey, stream: u64, status: &Status) {
        let mut told = self.lock();
        let Some(of_node) = told.of_stream(node, stream) else {
            return;
        };
        if status.whole {
            of_node.owned = Owned::default();
        }
        if let Some(own) = &status.node {
            of_node.status = Some(own.clone());
        }
        for group in &status.lost {
            of_node.owned.remove(*group);
        }
        for ownership in &status.owned {
            of_node.owned.insert(ownership);
        }
        drop(told);
        self.changed();
    }

    /// A node saw another machine answer for an address, or does not any more.
    pub fn see(&self, node: &NodeKey, conflict: &Conflict, at: Instant, wall: Timestamp) {
        let mut told = self.lock();
        told.forget(at);
        let conflicts = &mut told.nodes.entry(node.clone()).or_default().conflicts;
        let key = (
            conflict.address_space.clone(),
            conflict.address.clone(),
            conflict.mac.clone(),
        );
        if conflict.over {
            if conflicts.remove(&key).is_some() {
                drop(told);
                self.changed();
            }
            return;
        }
        let first = conflicts.get(&key).map(|known| known.first);
        if first.is_none() && conflicts.len() >= MAX_CONFLICTS {
            return;
        }
        let seen = Seen {
            conflict: conflict.clone(),
            first: first.unwrap_or(wall),
            last: wall,
            until: at + CONFLICT_KEPT,
        };
        conflicts.insert(key, seen);
        drop(told);
        self.changed();
    }

    /// Who says that it answers, by group. A node that stopped may have had no time to say that it gave
    /// a group away: whom it was handed to says so as well.
    pub fn answerers(&self, cluster: &Name, now: Instant) -> BTreeMap<AllocationId, Vec<Answerer>> {
        let mut answerers: BTreeMap<_, Vec<Answerer>> = BTreeMap::new();
        let mut told = self.lock();
        told.forget(now);
        for (node, of_node) in told.of_cluster(cluster) {
            for (group, ownership) in &of_node.owned.by_group {
                answerers.entry(*group).or_default().push(Answerer {
                    node: node.node.clone(),
                    ownership: ownership.clone(),
                    unknown_since: of_node.ended.map(|ended| ended.wall),
                });
            }
        }
        drop(told);
        for all in answerers.values_mut() {
            let heirs = all.clone();
            all.retain(|one| {
                let handed = heirs.iter().any(|heir| one.was_handed_to(heir));
                one.unknown_since.is_none() || !handed
            });
        }
        answerers
    }

    /// What the nodes that have a stream say of themselves.
    pub fn statuses(&self, cluster: &Name) -> BTreeMap<Name, v1::NodeStatus> {
        let told = self.lock();
        let open = told
            .of_cluster(cluster)
            .filter(|(_, it)| it.ended.is_none());
        open.filter_map(|(node, it)| Some((node.node.clone(), it.status.clone()?)))
            .collect()
    }

    /// What was seen and is not over, by node and address.
    pub fn conflicts(&self, cluster: &Name, now: Instant) -> Vec<SeenConflict> {
        let mut told = self.lock();
        told.forget(now);
        let of_cluster = told.of_cluster(cluster);
        of_cluster
            .flat_map(|(node, it)| it.conflicts.values().map(move |seen| (node, seen)))
            .map(|(node, seen)| SeenConflict {
                node: node.node.clone(),
                conflict: seen.conflict.clone(),
                first_seen: seen.first,
                last_seen: seen.last,
            })
            .collect()
    }

    /// A report was not taken in.
    pub fn refuse(&self) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports that were not taken in.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Changes whenever somebody tells something.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn changed(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        let told = self.shared.told.lock();
        told.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// The node, if this is its newest stream.
    fn of_stream(&mut self, node: &NodeKey, stream: u64) -> Option<&mut OfNode> {
        let of_node = self.nodes.get_mut(node)?;
        (of_node.stream == stream).then_some(of_node)
    }

    fn of_cluster(&self, cluster: &Name) -> impl Iterator<Item = (&NodeKey, &OfNode)> {
        let all = self.nodes.iter();
        all.filter(move |(node, _)| node.cluster == *cluster)
    }

    /// What is too old is not shown, nor kept.
    fn forget(&mut self, now: Instant) {
        self.nodes.retain(|_, of_node| {
            of_node.conflicts.retain(|_, seen| seen.until > now);
            if of_node.ended.is_some_and(|ended| ended.at + KEPT <= now) {
                of_node.owned = Owned::default();
                of_node.status = None;
                return !of_node.conflicts.is_empty();
            }
            true
        });
    }
}

impl Owned {
    fn insert(&mut self, ownership: &v1::Ownership) {
        self.remove(ownership.group);
        let names_bytes = self.names_bytes + names_bytes(ownership);
        if self.by_group.len() < MAX_OWNED && names_bytes <= MAX_NAMES_BYTES {
            self.names_bytes = names_bytes;
            self.by_group.insert(ownership.group, ownership.clone());
        }
    }

    fn remove(&mut self, group: AllocationId) {
        if let Some(known) = self.by_group.remove(&group) {
            self.names_bytes -= names_bytes(&known);
        }
    }
}

fn names_bytes(ownership: &v1::Ownership) -> usize {
    let interfaces = ownership.interfaces.iter().map(String::len);
    ownership.from.len() + interfaces.sum::<usize>()
}

#[cfg(test)]
mod tests;
