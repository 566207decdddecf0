//! What announcers tell of themselves: who answers for what since when, and who else does.
//!
//! In memory only, and for people: nothing is decided by it. What a node told outlives its stream by
//! [`KEPT`], because a node without a stream most likely goes on. What a node may answer for that has not told
//! is not known ([`view`]).
//!
//! Whoever watches is told which node, group or address something else is known of: by what somebody does,
//! or because its time is over.

mod cluster;
mod owned;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cluster::{OfCluster, OfNode};
use self::owned::{MAX_OWNED, MAX_TEXT_BYTES};
pub use self::view::{Absent, Presence, View};
use super::touched::{Touched, Touches};
use crate::state::announce::AssignmentKey;
use crate::state::model::{AllocationId, NodeKey, Timestamp};
use crate::state::names::Name;

/// How long what a node told is shown after its stream has ended.
pub const KEPT: Duration = Duration::from_secs(30);

/// How long it is remembered since when a node has no stream: as long as people look for it.
const AWAY_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A conflict that is not reported again within so long is over: announcers repeat one that goes on each
/// minute.
pub const CONFLICT_KEPT: Duration = Duration::from_secs(150);

/// Most conflicts that are shown of one address.
pub const CONFLICTS_SHOWN: usize = 32;

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
    /// Every node: those that never connected have had time enough to.
    Nodes,
    /// Whether it is there, and whether it has told.
    Node(Name),
    Group(AllocationId),
    /// Who else uses it.
    Address(AssignmentKey),
}

#[derive(Debug)]
struct Told {
    /// Until when nodes may connect of which nothing is known; `None`: they have had their time.
    settles: Option<Instant>,
    streams: u64,
    clusters: BTreeMap<Name, OfCluster>,
    /// Before this nothing is forgotten, and nobody's time is over.
    due: Option<Instant>,
}

/// A node that says that it answers for a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Answerer {
    pub node: Name,
    pub ownership: v1::Ownership,
    /// When its stream ended.
    pub unknown_since: Option<Timestamp>,
}

/// Names what a node saw; in the order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConflictKey {
    pub node: Name,
    pub address: AssignmentKey,
    /// Of the other machine.
    pub mac: String,
}

/// A machine that a node saw.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenConflict {
    pub node: Name,
    pub conflict: Conflict,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

impl StatusFeed {
    /// Nothing is known at first.
    pub fn new(began: Instant) -> Self {
        let settles = began + KEPT;
        let told = Told {
            settles: Some(settles),
            streams: 0,
            clusters: BTreeMap::new(),
            due: Some(settles),
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
        let groups = told.of(&node.cluster).enter(&node.node, stream, at);
        told.look_again_at(at + KEPT);
        self.touch_node(node, groups);
        stream
    }

    /// Is cancelled when the stream does not speak for its node any more, nor does another: it is to be begun
    /// again. Of two that a node has for a moment nobody knows which it made first.
    pub fn begin_again(&self, node: &NodeKey, stream: u64) -> CancellationToken {
        let told = self.lock();
        let of_cluster = told.clusters.get(&node.cluster);
        let token = of_cluster.and_then(|it| it.begin_again(&node.node, stream));
        token.unwrap_or_default()
    }

    /// A stream has ended.
    pub fn leave(&self, node: &NodeKey, stream: u64, at: Instant, wall: Timestamp) {
        let mut told = self.lock();
        self.forget_of(&mut told, at);
        let of_cluster = told.of(&node.cluster);
        if let Some(groups) = of_cluster.leave(&node.node, stream, (at, wall)) {
            told.look_again_at(at + KEPT);
            self.touch_node(node, groups);
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
        let groups = touched.iter().copied().map(Matter::Group);
        self.shared.touches.touch(&node.cluster, groups);
        let after = of_cluster.knowledge(&node.node);
        if before != after {
            let node_matters = [Matter::Node(node.node.clone())];
            self.shared.touches.touch(&node.cluster, node_matters);
        }
        if after.is_cut && !before.is_cut {
            tracing::error!(
                cluster = %node.cluster,
                node = %node.node,
                most_groups = MAX_OWNED,
                most_bytes_of_texts = MAX_TEXT_BYTES,
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
        let of_cluster = told.of(&node.cluster);
        of_cluster.see(&node.node, address, conflict, (at, wall));
        told.look_again_at(at + CONFLICT_KEPT);
        let touched = [Matter::Address(address.clone())];
        self.shared.touches.touch(&node.cluster, touched);
    }

    /// What is known of a cluster now. Whoever tells waits as long as it is held.
    pub fn view<'a>(&'a self, cluster: &'a Name, now: Instant) -> View<'a> {
        let mut told = self.lock();
        self.forget_of(&mut told, now);
        View::new(told, cluster)
    }

    /// Nodes of a cluster that told more than is kept.
    pub fn cut(&self, cluster: &Name) -> BTreeSet<Name> {
        let told = self.lock();
        let nodes = told.of_cluster(cluster);
        let cut = nodes.filter(|(_, it)| it.is_cut());
        cut.map(|(node, _)| node.clone()).collect()
    }

    /// How many nodes told more than is kept, of all clusters.
    pub fn cut_count(&self) -> usize {
        let told = self.lock();
        let nodes = told.clusters.values().flat_map(|it| it.nodes.values());
        nodes.filter(|it| it.is_cut()).count()
    }

    /// What the nodes that have a stream say of themselves.
    pub fn statuses(&self, cluster: &Name) -> BTreeMap<Name, v1::NodeStatus> {
        let told = self.lock();
        let open = told.of_cluster(cluster).filter(|(_, it)| it.is_there());
        open.filter_map(|(node, it)| Some((node.clone(), it.status()?.clone())))
            .collect()
    }

    /// What was seen and is not over, at most so many behind one of them.
    pub fn conflicts(
        &self,
        cluster: &Name,
        after: Option<&ConflictKey>,
        most: usize,
        now: Instant,
    ) -> Vec<(ConflictKey, SeenConflict)> {
        let mut told = self.lock();
        self.forget_of(&mut told, now);
        let of_cluster = told.clusters.get(cluster).into_iter();
        let seen = of_cluster.flat_map(|it| it.conflicts_after(after));
        seen.take(most).collect()
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
        if told.due.is_none_or(|due| due > now) {
            return;
        }
        if told.settles.take_if(|at| *at <= now).is_some() {
            self.shared.touches.touch_all(&Matter::Nodes);
        }
        for (cluster, of_cluster) in &mut told.clusters {
            let touched = of_cluster.forget(now);
            self.shared.touches.touch(cluster, touched.iter().cloned());
        }
        told.clusters
            .retain(|_, of_cluster| !of_cluster.nodes.is_empty());
        let clusters = told.clusters.values().filter_map(OfCluster::due);
        told.due = clusters.chain(told.settles).min();
    }

    /// Something else is known of a node, and of these groups that it has told of.
    fn touch_node(&self, node: &NodeKey, groups: Vec<AllocationId>) {
        let matters = groups.into_iter().map(Matter::Group);
        let matters = matters.chain([Matter::Node(node.node.clone())]);
        self.shared.touches.touch(&node.cluster, matters);
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        let told = self.shared.told.lock();
        told.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn of(&mut self, cluster: &Name) -> &mut OfCluster {
        self.clusters.entry(cluster.clone()).or_default()
    }

    fn of_cluster(&self, cluster: &Name) -> impl Iterator<Item = (&Name, &OfNode)> {
        let of_cluster = self.clusters.get(cluster);
        of_cluster.into_iter().flat_map(|it| &it.nodes)
    }

    fn look_again_at(&mut self, at: Instant) {
        self.due = self.due.into_iter().chain([at]).min();
    }
}

#[cfg(test)]
mod tests;
