//! What announcers tell of themselves: who answers for what since when, and who else does.
//!
//! In memory only, and for people: nothing is decided by it. What a node told outlives its stream by
//! [`KEPT`], because a node without a stream most likely goes on. What a node may answer for that has not told
//! is not known for as long ([`view`]).

mod owned;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Status};
use tokio::time::Instant;

use self::owned::{MAX_NAMES_BYTES, MAX_OWNED, Owned};
pub use self::view::{Presence, View};
use super::touched::{Touched, Touches};
use crate::state::announce::AssignmentKey;
use crate::state::model::{AllocationId, NodeKey, Timestamp};
use crate::state::names::Name;

/// How long what a node told is shown after its stream has ended.
pub const KEPT: Duration = Duration::from_secs(30);

/// A conflict that is not reported again within so long is over: announcers repeat one that goes on each
/// minute.
pub const CONFLICT_KEPT: Duration = Duration::from_secs(150);

/// Most conflicts that are remembered of one node.
const MAX_CONFLICTS: usize = 1000;

/// What all announcers tell. Clones share it.
#[derive(Debug, Clone)]
pub struct StatusFeed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    told: Mutex<Told>,
    touches: Touches<Matter>,
    refused: AtomicU64,
}

/// What something else is told about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matter {
    /// Which nodes are there, and which of them have told.
    Nodes,
    Group(AllocationId),
    /// Who else uses it.
    Address(AssignmentKey),
}

#[derive(Debug)]
struct Told {
    /// When this process began to listen.
    began: Instant,
    streams: u64,
    clusters: BTreeMap<Name, OfCluster>,
}

#[derive(Debug, Default)]
struct OfCluster {
    nodes: BTreeMap<Name, OfNode>,
    /// Who has told of a group, for as long as it is kept.
    by_group: BTreeMap<AllocationId, BTreeSet<Name>>,
}

#[derive(Debug)]
struct OfNode {
    /// The newest; for a moment a node may have two.
    stream: u64,
    entered: Instant,
    ended: Option<Ended>,
    /// It has told all that it answers for, on this stream or one shortly before.
    told: bool,
    status: Option<v1::NodeStatus>,
    owned: Owned,
    /// By address and hardware address.
    conflicts: BTreeMap<(AssignmentKey, String), Seen>,
}

/// What is known of all that a node answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Knowledge {
    has_told: bool,
    /// It told more than is kept.
    is_cut: bool,
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

impl StatusFeed {
    /// Nothing is known at first.
    pub fn new(began: Instant) -> Self {
        let told = Told {
            began,
            streams: 0,
            clusters: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                told: Mutex::new(told),
                touches: Touches::default(),
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// A node has a new stream. What it told on the one before stands until it tells all anew. Its
    /// number is to be handed to the other functions.
    pub fn enter(&self, node: &NodeKey, at: Instant) -> u64 {
        let mut told = self.lock();
        self.forget_of(&mut told, at);
        told.streams += 1;
        let stream = told.streams;
        let of_node = told.node(node, at);
        of_node.stream = stream;
        of_node.entered = at;
        of_node.ended = None;
        self.touch_groups(node, of_node.owned.groups());
        self.shared.touches.touch(&node.cluster, [Matter::Nodes]);
        stream
    }

    /// A stream has ended.
    pub fn leave(&self, node: &NodeKey, stream: u64, at: Instant, wall: Timestamp) {
        let mut told = self.lock();
        self.forget_of(&mut told, at);
        let of_cluster = told.clusters.get_mut(&node.cluster);
        if let Some(of_node) = of_cluster.and_then(|it| newest(&mut it.nodes, &node.node, stream)) {
            of_node.ended = Some(Ended { at, wall });
            self.touch_groups(node, of_node.owned.groups());
            self.shared.touches.touch(&node.cluster, [Matter::Nodes]);
        }
    }

    /// A node tells what changed, or everything.
    pub fn tell(&self, node: &NodeKey, stream: u64, status: &Status) {
        let mut told = self.lock();
        let Some(of_cluster) = told.clusters.get_mut(&node.cluster) else {
            return;
        };
        let before = of_cluster.knowledge(&node.node);
        let touched = of_cluster.tell(&node.node, stream, status);
        self.touch_groups(node, touched.iter().copied());
        let after = of_cluster.knowledge(&node.node);
        if before != after {
            self.shared.touches.touch(&node.cluster, [Matter::Nodes]);
        }
        if after.is_cut && !before.is_cut {
            tracing::error!(
                cluster = %node.cluster,
                node = %node.node,
                most_groups = MAX_OWNED,
                most_bytes_of_names = MAX_NAMES_BYTES,
                "a node tells of more groups than are kept: who answers for the others is shown as unknown; \
                 what it announces is not concerned"
            );
        }
    }

    /// A node saw another machine answer for an address, or does not any more.
    pub fn see(
        &self,
        node: &NodeKey,
        address: &AssignmentKey,
        conflict: &Conflict,
        at: Instant,
        wall: Timestamp,
    ) {
        let mut told = self.lock();
        self.forget_of(&mut told, at);
        let conflicts = &mut told.node(node, at).conflicts;
        let key = (address.clone(), conflict.mac.clone());
        let touched = [Matter::Address(address.clone())];
        if conflict.over {
            conflicts.remove(&key);
            self.shared.touches.touch(&node.cluster, touched);
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
        self.shared.touches.touch(&node.cluster, touched);
    }

    /// What is known of a cluster now. Whoever tells waits as long as it is held.
    pub fn view<'a>(&'a self, cluster: &'a Name, now: Instant) -> View<'a> {
        let mut told = self.lock();
        self.forget_of(&mut told, now);
        View::new(told, cluster, now)
    }

    /// Nodes of a cluster that told more than is kept.
    pub fn cut(&self, cluster: &Name) -> BTreeSet<Name> {
        let told = self.lock();
        let nodes = told.of_cluster(cluster);
        let cut = nodes.filter(|(_, it)| it.owned.is_cut());
        cut.map(|(node, _)| node.clone()).collect()
    }

    /// How many nodes told more than is kept, of all clusters.
    pub fn cut_count(&self) -> usize {
        let told = self.lock();
        let nodes = told.clusters.values().flat_map(|it| it.nodes.values());
        nodes.filter(|it| it.owned.is_cut()).count()
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
            .map(|(node, seen)| seen.by(node))
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

    /// Gathers what of a cluster something else is told about, or is forgotten, from now on.
    pub fn touched(&self, cluster: &Name) -> Touched<Matter> {
        self.shared.touches.watch(cluster)
    }

    /// What is too old is not shown, nor kept.
    pub fn forget(&self, now: Instant) {
        self.forget_of(&mut self.lock(), now);
    }

    fn forget_of(&self, told: &mut Told, now: Instant) {
        for (cluster, of_cluster) in &mut told.clusters {
            let touched = of_cluster.forget(now);
            self.shared.touches.touch(cluster, touched.iter().cloned());
        }
        told.clusters
            .retain(|_, of_cluster| !of_cluster.nodes.is_empty());
    }

    fn touch_groups(&self, node: &NodeKey, groups: impl Iterator<Item = AllocationId> + Clone) {
        self.shared
            .touches
            .touch(&node.cluster, groups.map(Matter::Group));
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        let told = self.shared.told.lock();
        told.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn node(&mut self, node: &NodeKey, now: Instant) -> &mut OfNode {
        let of_cluster = self.clusters.entry(node.cluster.clone()).or_default();
        let nodes = &mut of_cluster.nodes;
        nodes
            .entry(node.node.clone())
            .or_insert_with(|| OfNode::new(now))
    }

    fn of_cluster(&self, cluster: &Name) -> impl Iterator<Item = (&Name, &OfNode)> {
        let of_cluster = self.clusters.get(cluster);
        of_cluster.into_iter().flat_map(|it| &it.nodes)
    }
}

impl OfNode {
    fn new(now: Instant) -> Self {
        Self {
            stream: 0,
            entered: now,
            ended: None,
            told: false,
            status: None,
            owned: Owned::default(),
            conflicts: BTreeMap::new(),
        }
    }
}

impl Seen {
    fn by(&self, node: &Name) -> SeenConflict {
        SeenConflict {
            node: node.clone(),
            conflict: self.conflict.clone(),
            first_seen: self.first,
            last_seen: self.last,
        }
    }
}

impl OfCluster {
    fn knowledge(&self, node: &Name) -> Knowledge {
        let of_node = self.nodes.get(node);
        of_node.map_or_else(Knowledge::default, |of_node| Knowledge {
            has_told: of_node.told,
            is_cut: of_node.owned.is_cut(),
        })
    }

    /// Says which groups it is about.
    fn tell(&mut self, node: &Name, stream: u64, status: &Status) -> BTreeSet<AllocationId> {
        let mut touched = BTreeSet::new();
        let Some(of_node) = newest(&mut self.nodes, node, stream) else {
            return touched;
        };
        if status.whole {
            touched.extend(of_node.owned.take());
            of_node.told = true;
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
            match of_node.owned.get(*group).is_some() {
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
                ownership: of_node.owned.get(group)?.clone(),
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

    /// Says what is not shown any more.
    fn forget(&mut self, now: Instant) -> BTreeSet<Matter> {
        let mut touched = BTreeSet::new();
        let by_group = &mut self.by_group;
        self.nodes.retain(|name, of_node| {
            of_node.conflicts.retain(|(address, _), seen| {
                let is_seen = seen.until > now;
                if !is_seen {
                    touched.insert(Matter::Address(address.clone()));
                }
                is_seen
            });
            if of_node.ended.is_none_or(|ended| ended.at + KEPT > now) {
                return true;
            }
            if std::mem::take(&mut of_node.told) {
                touched.insert(Matter::Nodes);
            }
            of_node.status = None;
            for group in of_node.owned.take() {
                leave_group(by_group, group, name);
                touched.insert(Matter::Group(group));
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

#[cfg(test)]
mod tests;
