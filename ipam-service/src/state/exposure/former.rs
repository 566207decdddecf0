//! Nodes that were candidates of an address and have not acknowledged yet that they no longer are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::waits::{Acks, Waiting, Waits};
use crate::state::announce::{AssignmentKey, NodeSet};
use crate::state::model::Moment;
use crate::state::names::Name;

/// How long a node that was a candidate is remembered without an acknowledgement: the longest
/// `reuse_unacknowledged` of a pool.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How exactly an address remembers which nodes left it at which time, while none of them
/// acknowledges. Beyond that it is one set that left at the last of them.
const DEPARTURES: usize = 8;

/// Former candidates of the addresses of one cluster.
#[derive(Debug, Default)]
pub(super) struct Former {
    by_address: BTreeMap<AssignmentKey, Vec<Left>>,
    waits: Waits<AssignmentKey>,
}

/// Nodes that are no candidates of an address any more.
#[derive(Debug, Clone)]
pub(super) struct Left {
    pub(super) set: Arc<NodeSet>,
    /// Of the stream: from here on they are none.
    pub(super) position: u64,
    since: Moment,
    /// They may answer until they know: the address was not fenced when they left.
    freely: bool,
}

/// How nodes leave an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departure {
    pub(super) position: u64,
    pub(super) since: Moment,
    pub(super) freely: bool,
}

/// Differences of sets, made up once for the many addresses that go from the same to the same.
#[derive(Debug, Default)]
pub(super) struct Differences {
    left: BTreeMap<(u64, u64), Arc<NodeSet>>,
    joined: BTreeMap<Vec<u64>, Arc<NodeSet>>,
}

impl Differences {
    /// The nodes of one set that are not in the next one.
    fn left(&mut self, before: &Arc<NodeSet>, after: Option<&NodeSet>) -> Arc<NodeSet> {
        let Some(after) = after else {
            return Arc::clone(before);
        };
        let left = self.left.entry((before.id, after.id)).or_insert_with(|| {
            let stays = |node: &Name| after.nodes.binary_search(node).is_ok();
            let nodes = before.nodes.iter().filter(|node| !stays(node));
            Arc::new(NodeSet::new(nodes.cloned()))
        });
        Arc::clone(left)
    }

    fn joined(&mut self, all: &[Left]) -> Arc<NodeSet> {
        let ids = all.iter().map(|left| left.set.id).collect();
        let joined = self.joined.entry(ids).or_insert_with(|| {
            let nodes = all.iter().flat_map(|left| &left.set.nodes);
            Arc::new(NodeSet::new(nodes.cloned()))
        });
        Arc::clone(joined)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.left.len() + self.joined.len()
    }
}

impl Former {
    /// An address went from one set of candidates to another one, or to none.
    pub(super) fn leave(
        &mut self,
        key: &AssignmentKey,
        (before, after): (&Arc<NodeSet>, Option<&NodeSet>),
        Departure {
            position,
            since,
            mut freely,
        }: Departure,
        differences: &mut Differences,
    ) {
        let mut set = differences.left(before, after);
        if set.nodes.is_empty() {
            return;
        }
        let all = self.by_address.entry(key.clone()).or_default();
        let now = |set: &Arc<NodeSet>, freely| Left {
            set: Arc::clone(set),
            position,
            since,
            freely,
        };
        if all.len() == DEPARTURES {
            all.push(now(&set, freely));
            set = differences.joined(all);
            for left in all.drain(..) {
                freely |= left.freely;
                self.waits.remove(left.set.id, left.position, key.clone());
            }
        }
        if let Some(index) = all.iter().position(|left| left.set.id == set.id) {
            let again = all.remove(index);
            freely |= again.freely;
            self.waits.remove(set.id, again.position, key.clone());
        }
        all.push(now(&set, freely));
        self.waits.insert(&set, position, key.clone());
    }

    /// Who has left an address, in the order in which that was.
    pub(super) fn of(&self, key: &AssignmentKey) -> &[Left] {
        self.by_address.get(key).map_or(&[], Vec::as_slice)
    }

    /// Those of them who may answer for it although it is fenced by now.
    pub(super) fn answering_freely(&self, key: &AssignmentKey) -> impl Iterator<Item = &Left> {
        self.of(key).iter().filter(|left| left.freely)
    }

    /// Forgets those who have all acknowledged. Gives the addresses that they left.
    pub(super) fn acknowledged(&mut self, acks: &Acks) -> Vec<AssignmentKey> {
        let gone = self.waits.take_acknowledged(acks);
        let keys = gone.iter().map(|one| one.what.clone()).collect();
        self.remove(gone);
        keys
    }

    /// Forgets those for whom nobody waits any more.
    pub(super) fn forget_before(&mut self, now: Moment) {
        let by_address = &self.by_address;
        let gone = self.waits.take_old(|set, position, key| {
            let mut all = by_address.get(key).into_iter().flatten();
            let left = all.find(|left| left.set.id == set && left.position == position);
            left.is_none_or(|left| left.since.0 + REMEMBERED <= now.0)
        });
        self.remove(gone);
    }

    fn remove(&mut self, gone: Vec<Waiting<AssignmentKey>>) {
        for one in gone {
            if let Some(all) = self.by_address.get_mut(&one.what) {
                all.retain(|left| left.set.id != one.set || left.position != one.position);
                if all.is_empty() {
                    self.by_address.remove(&one.what);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let len = self.by_address.values().map(Vec::len).sum();
        assert_eq!(len, self.waits.len());
        len
    }

    #[cfg(test)]
    pub(super) fn looked_at(&self) -> usize {
        self.waits.looked_at()
    }
}

impl Left {
    /// Until when whoever left is waited for, if nodes that are away are for so long.
    pub(super) fn end(&self, limit: Duration) -> Moment {
        Moment(self.since.0 + limit)
    }

    /// Whether whoever left is still waited for, if nodes that are away are for so long.
    pub(super) fn is_within(&self, limit: Duration, now: Moment) -> bool {
        now.0.saturating_sub(self.since.0) < limit
    }
}
