//! Which nodes may be answering for an address: the candidates of its assignment, and those that
//! were candidates and have not acknowledged yet that they no longer are.
//!
//! Derived from what was published to the announcers and from what they acknowledged; no part of
//! the store. Positions are those of a cluster's assignment stream in this run of the server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::announce::{AssignmentKey, ClusterDelta, NodeSet};
use super::model::{Moment, NodeKey, Unavailable, UnavailableKey};
use super::names::Name;

/// How long a node that was a candidate is remembered without an acknowledgement: the longest
/// `reuse_unacknowledged` of a pool.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Who may be answering, by cluster.
#[derive(Debug, Default)]
pub(super) struct Exposure {
    clusters: BTreeMap<Name, ClusterExposure>,
    /// Former candidates by the time since which they are.
    aging: VecDeque<(Moment, Name, AssignmentKey)>,
    /// Rows that drain and whose end of the stream is not known yet.
    unpublished: BTreeSet<UnavailableKey>,
    /// Where each row that drains is filed.
    filed: BTreeMap<UnavailableKey, Filed>,
    /// Rows for which everybody has acknowledged.
    drained: BTreeSet<UnavailableKey>,
}

#[derive(Debug)]
struct Filed {
    cluster: Name,
    set: Arc<NodeSet>,
    /// Of the stream: from here on the address is not in it.
    position: Option<u64>,
}

#[derive(Debug, Default)]
struct ClusterExposure {
    sets: BTreeMap<u64, Arc<NodeSet>>,
    /// Candidates as they were last published.
    announced: BTreeMap<AssignmentKey, Arc<NodeSet>>,
    /// Since which position, and when, they are none.
    former: BTreeMap<AssignmentKey, BTreeMap<Name, (u64, Moment)>>,
    /// Greatest position that each node has applied.
    acknowledged: BTreeMap<Name, u64>,
    /// Rows that drain, by the nodes that they wait for.
    groups: BTreeMap<u64, DrainGroup>,
}

#[derive(Debug)]
struct DrainGroup {
    set: Arc<NodeSet>,
    rows: BTreeSet<(u64, UnavailableKey)>,
}

impl Exposure {
    /// What was published to the announcers; `position` tells how far a cluster's stream is then.
    pub(super) fn published(
        &mut self,
        deltas: &BTreeMap<Name, ClusterDelta>,
        position: &dyn Fn(&Name) -> u64,
        now: Moment,
    ) {
        for (name, delta) in deltas {
            let cluster = self.clusters.entry(name.clone()).or_default();
            let former = cluster.publish(delta, position(name), now);
            let former = former.into_iter().map(|key| (now, name.clone(), key));
            self.aging.extend(former);
        }
        for key in std::mem::take(&mut self.unpublished) {
            let Some(filed) = self.filed.get_mut(&key) else {
                continue;
            };
            let reached = position(&filed.cluster);
            filed.position = Some(reached);
            let cluster = self.clusters.entry(filed.cluster.clone()).or_default();
            let group = cluster.groups.entry(filed.set.id);
            let group = group.or_insert_with(|| DrainGroup {
                set: Arc::clone(&filed.set),
                rows: BTreeSet::new(),
            });
            group.rows.insert((reached, key));
            let name = filed.cluster.clone();
            self.settle(&name);
        }
    }

    /// Nodes have applied their stream up to here.
    pub(super) fn acknowledged(&mut self, acks: impl IntoIterator<Item = (NodeKey, u64)>) {
        let mut touched = BTreeSet::new();
        for (node, position) in acks {
            let cluster = self.clusters.entry(node.cluster.clone()).or_default();
            let known = cluster.acknowledged.entry(node.node).or_default();
            *known = position.max(*known);
            touched.insert(node.cluster);
        }
        for name in touched {
            self.settle(&name);
        }
    }

    /// Whether an acknowledgement can end anything.
    pub(super) fn is_awaited(&self) -> bool {
        !self.filed.is_empty()
    }

    /// A row for which everybody has acknowledged.
    pub(super) fn drained(&self) -> Option<&UnavailableKey> {
        self.drained.first()
    }

    /// Nodes of a set that have not acknowledged that the address of a row is gone.
    pub(super) fn unacknowledged(
        &self,
        cluster: &Name,
        set: &NodeSet,
        row: &UnavailableKey,
    ) -> Vec<Name> {
        let needed = self.filed.get(row).and_then(|filed| filed.position);
        let acknowledged = self.clusters.get(cluster).map(|one| &one.acknowledged);
        let has = |node: &Name| acknowledged.and_then(|known| known.get(node)).copied();
        let missing = set.nodes.iter().filter(|node| match needed {
            None => true,
            Some(needed) => has(node).is_none_or(|position| position < needed),
        });
        missing.cloned().collect()
    }

    /// Nodes that may answer for an address, as far as this run of the server knows. `limit`: how
    /// long a node that is away counts.
    pub(super) fn exposed(
        &self,
        cluster: &Name,
        key: &AssignmentKey,
        now: Moment,
        limit: Duration,
    ) -> BTreeSet<Name> {
        let Some(cluster) = self.clusters.get(cluster) else {
            return BTreeSet::new();
        };
        let mut nodes = BTreeSet::new();
        if let Some(set) = cluster.announced.get(key) {
            nodes.extend(set.nodes.iter().cloned());
        }
        for (node, (position, since)) in cluster.former.get(key).into_iter().flatten() {
            let has = cluster.acknowledged.get(node);
            let away = has.is_none_or(|has| has < position);
            if away && now.0.saturating_sub(since.0) < limit {
                nodes.insert(node.clone());
            }
        }
        nodes
    }

    /// Whether a node has acknowledged anything in this run of the server.
    pub(super) fn has_been_heard_of(&self, cluster: &Name, node: &Name) -> bool {
        let cluster = self.clusters.get(cluster);
        cluster.is_some_and(|cluster| cluster.acknowledged.contains_key(node))
    }

    /// Forgets former candidates that nobody waits for any more.
    pub(super) fn forget_before(&mut self, now: Moment) {
        while let Some((since, _, _)) = self.aging.front()
            && since.0 + REMEMBERED <= now.0
            && let Some((since, name, key)) = self.aging.pop_front()
        {
            let Some(cluster) = self.clusters.get_mut(&name) else {
                continue;
            };
            if let Some(former) = cluster.former.get_mut(&key) {
                former.retain(|_, (_, then)| *then > since);
                if former.is_empty() {
                    cluster.former.remove(&key);
                }
            }
        }
    }

    pub(super) fn start_draining(&mut self, row: &Unavailable) {
        let Some((cluster, set)) = row.awaited.as_ref().filter(|_| !row.unacknowledged) else {
            return;
        };
        let filed = Filed {
            cluster: cluster.clone(),
            set: Arc::clone(set),
            position: None,
        };
        self.filed.insert(row.key.clone(), filed);
        self.unpublished.insert(row.key.clone());
    }

    pub(super) fn stop_draining(&mut self, row: &Unavailable) {
        self.unpublished.remove(&row.key);
        self.drained.remove(&row.key);
        let Some(filed) = self.filed.remove(&row.key) else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(&filed.cluster) else {
            return;
        };
        if let (Some(position), Some(group)) =
            (filed.position, cluster.groups.get_mut(&filed.set.id))
        {
            group.rows.remove(&(position, row.key.clone()));
            if group.rows.is_empty() {
                cluster.groups.remove(&filed.set.id);
            }
        }
    }

    /// Finds the rows of a cluster for which everybody has acknowledged: one look at the nodes of
    /// each set, however many rows wait for it.
    fn settle(&mut self, name: &Name) {
        let Some(cluster) = self.clusters.get_mut(name) else {
            return;
        };
        let acknowledged = &cluster.acknowledged;
        for group in cluster.groups.values() {
            let reached = group.set.nodes.iter().map(|node| acknowledged.get(node));
            // A node that has not been heard of comes first.
            let Some(Some(reached)) = reached.min() else {
                continue;
            };
            let rows = group
                .rows
                .iter()
                .take_while(|(position, _)| position <= reached);
            self.drained.extend(rows.map(|(_, key)| key.clone()));
        }
    }
}

impl ClusterExposure {
    /// Says which assignments have former candidates since now.
    fn publish(&mut self, delta: &ClusterDelta, position: u64, now: Moment) -> Vec<AssignmentKey> {
        for set in &delta.node_sets {
            self.sets.insert(set.id, Arc::clone(set));
        }
        let mut changed = Vec::new();
        for key in &delta.removals {
            if let Some(before) = self.announced.remove(key) {
                self.leave(key, &before, None, position, now);
                changed.push(key.clone());
            }
        }
        for upsert in &delta.upserts {
            let Some(set) = self.sets.get(&upsert.candidates).map(Arc::clone) else {
                continue;
            };
            let before = self.announced.insert(upsert.key.clone(), Arc::clone(&set));
            if let Some(before) = before.filter(|before| before.id != set.id) {
                self.leave(&upsert.key, &before, Some(&set), position, now);
                changed.push(upsert.key.clone());
            }
        }
        for id in &delta.unused_node_sets {
            self.sets.remove(id);
        }
        changed
    }

    /// The nodes of one set that are not in the next one are former candidates.
    fn leave(
        &mut self,
        key: &AssignmentKey,
        before: &NodeSet,
        after: Option<&NodeSet>,
        position: u64,
        now: Moment,
    ) {
        let former = self.former.entry(key.clone()).or_default();
        let acknowledged = &self.acknowledged;
        former
            .retain(|node, (position, _)| acknowledged.get(node).is_none_or(|has| has < position));
        let stays = |node: &Name| after.is_some_and(|set| set.nodes.binary_search(node).is_ok());
        for node in before.nodes.iter().filter(|node| !stays(node)) {
            former.insert(node.clone(), (position, now));
        }
        former.retain(|node, _| !stays(node));
        if former.is_empty() {
            self.former.remove(key);
        }
    }
}
