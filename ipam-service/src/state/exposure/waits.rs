//! What waits until every node of a set has acknowledged a position of one stream.
//!
//! Grouped by set, as many wait for the same nodes. Of each group one node is known that is not far
//! enough: as long as it stays behind, acknowledgements of others cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::state::announce::NodeSet;
use crate::state::names::Name;

/// Greatest position that each node has applied of one stream.
#[derive(Debug, Default)]
pub(super) struct Acks(BTreeMap<Name, u64>);

/// By the id of the set.
#[derive(Debug)]
pub(super) struct Waits<T>(BTreeMap<u64, Group<T>>);

/// Something that waited.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) set: u64,
    pub(super) position: u64,
    pub(super) what: T,
}

#[derive(Debug)]
struct Group<T> {
    set: Arc<NodeSet>,
    /// By the position that has to be acknowledged.
    entries: BTreeSet<(u64, T)>,
    /// Index of a node that was seen to be behind.
    laggard: usize,
    /// Nodes looked at so far.
    #[cfg(test)]
    looked_at: usize,
}

impl Acks {
    pub(super) fn note(&mut self, node: Name, position: u64) {
        let known = self.0.entry(node).or_default();
        *known = position.max(*known);
    }

    pub(super) fn is_known(&self, node: &Name) -> bool {
        self.0.contains_key(node)
    }

    /// Whether a node may still go by what was before this position.
    pub(super) fn is_behind(&self, node: &Name, position: u64) -> bool {
        self.0.get(node).is_none_or(|reached| *reached < position)
    }

    fn reached(&self, node: &Name) -> Option<u64> {
        self.0.get(node).copied()
    }
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Waits<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, set: &Arc<NodeSet>, position: u64, what: T) {
        let group = self.0.entry(set.id).or_insert_with(|| Group {
            set: Arc::clone(set),
            entries: BTreeSet::new(),
            laggard: 0,
            #[cfg(test)]
            looked_at: 0,
        });
        group.entries.insert((position, what));
    }

    pub(super) fn remove(&mut self, set: u64, position: u64, what: T) {
        if let Some(group) = self.0.get_mut(&set) {
            group.entries.remove(&(position, what));
            if group.entries.is_empty() {
                self.0.remove(&set);
            }
        }
    }

    /// Takes out what all nodes of its set have acknowledged.
    pub(super) fn take_acknowledged(&mut self, acks: &Acks) -> Vec<Waiting<T>> {
        let mut taken = Vec::new();
        self.0.retain(|_, group| {
            if let Some(reached) = group.reached(acks) {
                group.take_while(|position, _| position <= reached, &mut taken);
            }
            !group.entries.is_empty()
        });
        taken
    }

    /// Takes out what is old. Of each set the entries with the lowest positions are the oldest.
    pub(super) fn take_old(&mut self, is_old: impl Fn(u64, u64, &T) -> bool) -> Vec<Waiting<T>> {
        let mut taken = Vec::new();
        self.0.retain(|set, group| {
            group.take_while(|position, what| is_old(*set, position, what), &mut taken);
            !group.entries.is_empty()
        });
        taken
    }

    #[cfg(test)]
    pub(super) fn looked_at(&self) -> usize {
        self.0.values().map(|group| group.looked_at).sum()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|group| group.entries.len()).sum()
    }
}

impl<T: Ord> Group<T> {
    /// Takes entries out, the lowest positions first, as long as this holds.
    fn take_while(&mut self, holds: impl Fn(u64, &T) -> bool, taken: &mut Vec<Waiting<T>>) {
        while let Some((position, what)) = self.entries.first()
            && holds(*position, what)
            && let Some((position, what)) = self.entries.pop_first()
        {
            taken.push(Waiting {
                set: self.set.id,
                position,
                what,
            });
        }
    }

    /// How far all nodes have come, if that is far enough for the first entry.
    fn reached(&mut self, acks: &Acks) -> Option<u64> {
        let lowest = self.entries.first()?.0;
        let nodes = &self.set.nodes;
        let from_laggard = (self.laggard..nodes.len()).chain(0..self.laggard);
        let mut slowest = u64::MAX;
        for index in from_laggard {
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
            match acks.reached(&nodes[index]) {
                Some(reached) if reached >= lowest => slowest = slowest.min(reached),
                Some(_) | None => {
                    self.laggard = index;
                    return None;
                }
            }
        }
        Some(slowest)
    }
}
