//! Addresses that nobody says to own, by the nodes that may answer for them: many wait for the same nodes. Those
//! are looked at when one of them comes, goes or tells, and the addresses only if that means something else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::feed::status::{Presence, View};
use crate::state::announce::{AssignmentKey, NodeSet};
use crate::state::names::Name;

/// Empty at first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    sets: BTreeMap<u64, Set>,
    by_node: BTreeMap<Name, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Set {
    nodes: Arc<NodeSet>,
    /// As the addresses were described by it, but for those that are to be looked at again.
    presence: Arc<Presence>,
    keys: BTreeSet<AssignmentKey>,
}

impl Waiting {
    /// An address waits for these nodes, of which this is known now. Gives what was described otherwise.
    pub(super) fn insert(
        &mut self,
        key: &AssignmentKey,
        nodes: &Arc<NodeSet>,
        presence: &Arc<Presence>,
    ) -> Vec<AssignmentKey> {
        let set = self.sets.entry(nodes.id).or_insert_with(|| {
            for node in &nodes.nodes {
                let of_node = self.by_node.entry(node.clone()).or_default();
                of_node.insert(nodes.id);
            }
            Set {
                nodes: Arc::clone(nodes),
                presence: Arc::clone(presence),
                keys: BTreeSet::new(),
            }
        });
        let others = set.news(presence);
        set.keys.insert(key.clone());
        others
    }

    /// An address does not wait for this set of nodes any more.
    pub(super) fn remove(&mut self, key: &AssignmentKey, set: u64) {
        let Some(known) = self.sets.get_mut(&set) else {
            return;
        };
        known.keys.remove(key);
        if !known.keys.is_empty() {
            return;
        }
        let Some(gone) = self.sets.remove(&set) else {
            return;
        };
        for node in &gone.nodes.nodes {
            if let Some(sets) = self.by_node.get_mut(node) {
                sets.remove(&set);
                if sets.is_empty() {
                    self.by_node.remove(node);
                }
            }
        }
    }

    /// The sets that have this node.
    pub(super) fn with(&self, node: &Name) -> impl Iterator<Item = u64> {
        self.by_node.get(node).into_iter().flatten().copied()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = u64> {
        self.sets.keys().copied()
    }

    /// The addresses that wait for one of these sets of which something else is known now.
    pub(super) fn look(&mut self, sets: &BTreeSet<u64>, view: &View<'_>) -> Vec<AssignmentKey> {
        let mut news = Vec::new();
        for id in sets {
            if let Some(set) = self.sets.get_mut(id) {
                let presence = Arc::new(view.presence(&set.nodes.nodes));
                news.extend(set.news(&presence));
            }
        }
        news
    }
}

impl Set {
    fn news(&mut self, presence: &Arc<Presence>) -> Vec<AssignmentKey> {
        if self.presence == *presence {
            return Vec::new();
        }
        self.presence = Arc::clone(presence);
        self.keys.iter().cloned().collect()
    }
}
