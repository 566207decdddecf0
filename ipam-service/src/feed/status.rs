//! What announcers tell of themselves: who answers for what since when, and who else does.
//!
//! In memory only, and for people: nothing is decided by it. What a node told outlives its stream by
//! [`KEPT`], because a node without a stream most likely goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Status};
use tokio::time::Instant;

use super::touched::{Touched, Touches};
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
    touches: Touches<AllocationId>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Told {
    streams: u64,
    clusters: BTreeMap<Name, OfCluster>,
}

#[derive(Debug, Default)]
struct OfCluster {
    nodes: BTreeMap<Name, OfNode>,
    /// Who has told of a group, for as long as it is kept.
    by_group: BTreeMap<AllocationId, BTreeSet<Name>>,
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
                touches: Touches::default(),
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
        let of_node = told.node(node);
        of_node.stream = stream;
        of_node.ended = None;
        self.touch(node, of_node.owned.by_group.keys());
        stream
    }

    /// A stream has ended.
    pub fn leave(&self, node: &NodeKey, stream: u64, at: Instant, wall: Timestamp) {
        let mut told = self.lock();
        self.forget_of(&mut told, at);
        let of_cluster = told.clusters.get_mut(&node.cluster);
        if let Some(of_node) = of_cluster.and_then(|it| newest(&mut it.nodes, &node.node, stream)) {
            of_node.ended = Some(Ended { at, wall });
            self.touch(node, of_node.owned.by_group.keys());
        }
    }

    /// A node tells what changed, or everything.
    pub fn tell(&self, node: &NodeKey, stream: u64, status: &Status) {
        let mut told = self.lock();
        if let Some(of_cluster) = told.clusters.get_mut(&node.cluster) {
            let touched = of_cluster.tell(&node.node, stream, status);
            self.touch(node, &touched);
        }
    }

    /// A node saw another machine answer for an address, or does not any more.
    pub fn see(&self, node: &NodeKey, conflict: &Conflict, at: Instant, wall: Timestamp) {
        let mut told = self.lock();
        self.forget_of(&mut told, at);
        let conflicts = &mut told.node(node).conflicts;
        let key = (
            conflict.address_space.clone(),
            conflict.address.clone(),
            conflict.mac.clone(),
        );
        if conflict.over {
            conflicts.remove(&key);
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
    }

    /// Who says that it answers for these groups.
    pub fn answerers(
        &self,
        cluster: &Name,
        groups: &BTreeSet<AllocationId>,
        now: Instant,
    ) -> BTreeMap<AllocationId, Vec<Answerer>> {
        let mut told = self.lock();
        self.forget_of(&mut told, now);
        let Some(of_cluster) = told.clusters.get(cluster) else {
            return BTreeMap::new();
        };
        let answerers = groups
            .iter()
            .map(|group| (*group, of_cluster.answerers(*group)));
        answerers.collect()
    }

    /// What the nodes that have a stream say of themselves.
    pub fn statuses(&self, cluster: &Name) -> BTreeMap<Name, v1::NodeStatus> {
        let told = self.lock();
        let open = told
            .of_cluster(cluster)
            .filter(|(_, it)| it.ended.is_none());
        open.filter_map(|(node, it)| Some((node.clone(), it.status.clone()?)))
            .collect()
    }

    /// What was seen and is not over, by node and address.
    pub fn conflicts(&self, cluster: &Name, now: Instant) -> Vec<SeenConflict> {
        let mut told = self.lock();
        self.forget_of(&mut told, now);
        let of_cluster = told.of_cluster(cluster);
        of_cluster
            .flat_map(|(node, it)| it.conflicts.values().map(move |seen| (node, seen)))
            .map(|(node, seen)| SeenConflict {
                node: node.clone(),
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

    /// Gathers the groups of a cluster of which something else is told, or that are forgotten, from now on.
    pub fn touched(&self, cluster: &Name) -> Touched<AllocationId> {
        self.shared.touches.watch(cluster)
    }

    /// What is too old is not shown, nor kept.
    pub fn forget(&self, now: Instant) {
        self.forget_of(&mut self.lock(), now);
    }

    fn forget_of(&self, told: &mut Told, now: Instant) {
        for (cluster, of_cluster) in &mut told.clusters {
            let touched = of_cluster.forget(now);
            self.shared.touches.touch(cluster, touched.iter().copied());
        }
        told.clusters
            .retain(|_, of_cluster| !of_cluster.nodes.is_empty());
    }

    fn touch<'a>(
        &self,
        node: &NodeKey,
        groups: impl IntoIterator<Item = &'a AllocationId, IntoIter: Clone>,
    ) {
        let groups = groups.into_iter().copied();
        self.shared.touches.touch(&node.cluster, groups);
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        let told = self.shared.told.lock();
        told.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn node(&mut self, node: &NodeKey) -> &mut OfNode {
        let of_cluster = self.clusters.entry(node.cluster.clone()).or_default();
        of_cluster.nodes.entry(node.node.clone()).or_default()
    }

    fn of_cluster(&self, cluster: &Name) -> impl Iterator<Item = (&Name, &OfNode)> {
        let of_cluster = self.clusters.get(cluster);
        of_cluster.into_iter().flat_map(|it| &it.nodes)
    }
}

impl OfCluster {
    /// Says which groups it is about.
    fn tell(&mut self, node: &Name, stream: u64, status: &Status) -> BTreeSet<AllocationId> {
        let mut touched = BTreeSet::new();
        let Some(of_node) = newest(&mut self.nodes, node, stream) else {
            return touched;
        };
        if status.whole {
            touched.extend(of_node.owned.take());
        }
        if let Some(own) = &status.node {
            of_node.status = Some(own.clone());
        }
        for group in &status.lost {
            of_node.owned.remove(*group);
            touched.insert(*group);
        }
        for ownership in &status.owned {
            of_node.owned.insert(ownership);
            touched.insert(ownership.group);
        }
        for group in &touched {
            match of_node.owned.by_group.contains_key(group) {
                true => {
                    self.by_group
                        .entry(*group)
                        .or_default()
                        .insert(node.clone());
                }
                false => leave_group(&mut self.by_group, *group, node),
            }
        }
        touched
    }

    /// Who says that it answers, by name. A node that stopped may have had no time to say that it gave the
    /// group away: whom it was handed to says so as well.
    fn answerers(&self, group: AllocationId) -> Vec<Answerer> {
        let nodes = self.by_group.get(&group).into_iter().flatten();
        let told = nodes.filter_map(|name| {
            let of_node = self.nodes.get(name)?;
            Some(Answerer {
                node: name.clone(),
                ownership: of_node.owned.by_group.get(&group)?.clone(),
                unknown_since: of_node.ended.map(|ended| ended.wall),
            })
        });
        let mut all: Vec<Answerer> = told.collect();
        let heirs = all.clone();
        all.retain(|one| {
            let handed = heirs.iter().any(|heir| one.was_handed_to(heir));
            one.unknown_since.is_none() || !handed
        });
        all
    }

    /// Says which groups somebody is not shown for any more.
    fn forget(&mut self, now: Instant) -> BTreeSet<AllocationId> {
        let mut touched = BTreeSet::new();
        let by_group = &mut self.by_group;
        self.nodes.retain(|name, of_node| {
            of_node.conflicts.retain(|_, seen| seen.until > now);
            if of_node.ended.is_none_or(|ended| ended.at + KEPT > now) {
                return true;
            }
            of_node.status = None;
            for group in of_node.owned.take() {
                leave_group(by_group, group, name);
                touched.insert(group);
            }
            !of_node.conflicts.is_empty()
        });
        touched
    }
}

/// The node, if this is its newest stream.
fn newest<'a>(
    nodes: &'a mut BTreeMap<Name, OfNode>,
    node: &Name,
    stream: u64,
) -> Option<&'a mut OfNode> {
    let of_node = nodes.get_mut(node)?;
    (of_node.stream == stream).then_some(of_node)
}

fn leave_group(
    by_group: &mut BTreeMap<AllocationId, BTreeSet<Name>>,
    group: AllocationId,
    node: &Name,
) {
    if let Some(nodes) = by_group.get_mut(&group) {
        nodes.remove(node);
        if nodes.is_empty() {
            by_group.remove(&group);
        }
    }
}

impl Owned {
    /// Forgets all, and says what that was.
    fn take(&mut self) -> impl Iterator<Item = AllocationId> + use<> {
        std::mem::take(self).by_group.into_keys()
    }

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
