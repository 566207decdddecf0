//! Which nodes an election group is offered to, in order: sticky and balanced.
//!
//! Pure, and ignorant of addresses, pools and advertisements: it sees groups, their candidates,
//! and the lists that they had.
//!
//! The rule, for a list of at most [`LIST_LEN`] nodes (DESIGN.md, "Who announces"):
//!
//! 1. The *heaviest* candidates of a group are those with the greatest weight (all of them, where
//!    nobody prefers any). The first of a list is one of them, and the rest follow by weight.
//! 2. A first that is still a heaviest candidate stays. When it is not, the next of the list that is
//!    one moves up; when none is, the heaviest candidate with the fewest first places.
//! 3. A node that is no candidate any more leaves the list; what follows moves up; empty places at
//!    the end are filled. Among equals: who is in the list already, then by rendezvous hash.
//! 4. `cap` of a group = 1.15 times the mean number of first places of its heaviest candidates,
//!    rounded up. Only a group that lost its first, or whose heaviest candidates have grown by a
//!    node, is moved when its first is above the cap: to the heaviest candidate with the fewest
//!    first places, the youngest group first (it has been answered for the shortest time). The old
//!    first stays in the list.
//!
//! So groups that come or go never move another group, and a node that is lost moves only the
//! groups that it was first in. Where all groups have the same candidates no node is above the cap
//! after groups were added or nodes were lost or gained; after groups were *removed* the bound is
//! restored by the next node that is gained, since stickiness goes before balance.

use super::model::AllocationId;
use super::names::Name;

/// Most nodes in a list: the owner and two who may follow without a further decision.
pub const LIST_LEN: usize = 3;

/// Number of a node within its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNo(u32);

/// The nodes that a group may be offered to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// Ascending.
    nodes: Vec<NodeNo>,
    /// In the order of `nodes`; empty: all weigh the same.
    weights: Vec<u32>,
    /// Those of the greatest weight, ascending.
    heaviest: Vec<NodeNo>,
}

impl Candidates {
    /// Candidates and what each weighs.
    pub fn new(weighted: impl IntoIterator<Item = (NodeNo, u32)>) -> Self {
        let mut weighted: Vec<_> = weighted.into_iter().collect();
        weighted.sort_unstable();
        weighted.dedup_by_key(|(node, _)| *node);
        let top = weighted.iter().map(|(_, weight)| *weight).max();
        let heaviest: Vec<_> = weighted
            .iter()
            .filter(|(_, weight)| Some(*weight) == top)
            .map(|(node, _)| *node)
            .collect();
        let alike = heaviest.len() == weighted.len();
        let (nodes, weights) = weighted.into_iter().unzip();
        Self {
            nodes,
            weights: if alike { Vec::new() } else { weights },
            heaviest,
        }
    }

    /// All of them, ascending.
    pub fn nodes(&self) -> &[NodeNo] {
        &self.nodes
    }

    /// What a node weighs, 0 if all weigh the same; `None`: it is none of them.
    pub fn weight(&self, node: NodeNo) -> Option<u32> {
        let place = self.nodes.binary_search(&node).ok()?;
        Some(self.weights.get(place).copied().unwrap_or(0))
    }

    fn is_heaviest(&self, node: NodeNo) -> bool {
        self.heaviest.binary_search(&node).is_ok()
    }

    /// Whether a node may be first that could not be with `before`.
    pub fn gained_over(&self, before: &Self) -> bool {
        !std::ptr::eq(self, before) && self.heaviest.iter().any(|node| !before.is_heaviest(*node))
    }
}

/// How many groups each node of a cluster is first in.
#[derive(Debug, Clone, Default)]
pub struct Balance {
    nodes: Vec<Load>,
}

#[derive(Debug, Clone)]
struct Load {
    first_places: u64,
    /// Of the name, so that ties fall alike whatever the numbers are.
    hash: u64,
}

impl Balance {
    /// A new node, with no place yet. Numbers grow by one from 0.
    ///
    /// # Panics
    /// After 2^32 nodes.
    pub fn add_node(&mut self, name: &Name) -> NodeNo {
        let number = u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes in a cluster");
        self.nodes.push(Load {
            first_places: 0,
            hash: pharos_proto::digest::node_set_id([name.as_str()]),
        });
        NodeNo(number)
    }

    /// How many groups the node is first in.
    pub fn first_places(&self, node: NodeNo) -> u64 {
        self.nodes[node.index()].first_places
    }

    /// The group is gone, or about to be placed again.
    pub fn leave(&mut self, list: &[NodeNo]) {
        if let Some(first) = list.first() {
            self.nodes[first.index()].first_places -= 1;
        }
    }

    fn enter(&mut self, first: NodeNo) {
        self.nodes[first.index()].first_places += 1;
    }

    /// 1.15 times the mean number of first places of these nodes, rounded up.
    pub fn cap(&self, nodes: &[NodeNo]) -> u64 {
        let sum: u64 = nodes.iter().map(|node| self.first_places(*node)).sum();
        let count = nodes.len() as u64;
        (23 * sum).div_ceil(20 * count.max(1))
    }

    fn least_loaded(&self, group: AllocationId, nodes: &[NodeNo]) -> Option<NodeNo> {
        nodes
            .iter()
            .copied()
            .min_by_key(|node| (self.first_places(*node), self.rank(group, *node)))
    }

    /// Rendezvous hash: each group sees the nodes in an order of its own. (The list is streamed, so
    /// unlike the election past its end this need not be computable by the announcers.)
    fn rank(&self, group: AllocationId, node: NodeNo) -> (u64, NodeNo) {
        (mix(mix(group) ^ self.nodes[node.index()].hash), node)
    }
}

impl NodeNo {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The finalizer of splitmix64: every input bit moves every output bit.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A group that is to be placed.
#[derive(Debug)]
pub struct Seat<'a> {
    pub group: AllocationId,
    /// Never empty.
    pub candidates: &'a Candidates,
    /// The list that the group had; [`place`] leaves the new one here.
    pub list: Vec<NodeNo>,
    /// Whether a node has joined the heaviest candidates since the list was made.
    pub gained: bool,
}

/// Gives every seat its list, by the rule above. `balance` must count all other groups of the
/// cluster and none of these; afterwards it counts these too.
pub fn place(balance: &mut Balance, seats: &mut [Seat<'_>]) {
    seats.sort_unstable_by_key(|seat| seat.group);
    // First all that need no choice, so that choices see the true balance.
    let mut movable = Vec::new();
    let mut unplaced = Vec::new();
    for (index, seat) in seats.iter_mut().enumerate() {
        let kept = seat.list.first().copied();
        let next = seat
            .list
            .iter()
            .copied()
            .find(|node| seat.candidates.is_heaviest(*node));
        match next {
            Some(first) => {
                balance.enter(first);
                seat.put_first(first);
                if kept != Some(first) || seat.gained {
                    movable.push(index);
                }
            }
            None => unplaced.push(index),
        }
    }
    for index in unplaced {
        let seat = &mut seats[index];
        if let Some(first) = balance.least_loaded(seat.group, &seat.candidates.heaviest) {
            balance.enter(first);
            seat.put_first(first);
        }
    }
    for index in movable.into_iter().rev() {
        relieve(balance, &mut seats[index]);
    }
    for seat in seats {
        seat.complete(balance);
    }
}

/// Moves a group off a first that has more than its share.
fn relieve(balance: &mut Balance, seat: &mut Seat<'_>) {
    let heaviest = &seat.candidates.heaviest;
    let first = seat.list[0];
    if balance.first_places(first) <= balance.cap(heaviest) {
        return;
    }
    if let Some(better) = balance.least_loaded(seat.group, heaviest) {
        balance.leave(&seat.list);
        balance.enter(better);
        seat.put_first(better);
    }
}

impl Seat<'_> {
    fn put_first(&mut self, first: NodeNo) {
        self.list.retain(|node| *node != first);
        self.list.insert(0, first);
    }

    /// Drops who is no candidate, and fills the places after the first.
    fn complete(&mut self, balance: &Balance) {
        let candidates = self.candidates;
        self.list
            .retain(|node| candidates.nodes.binary_search(node).is_ok());
        let wanted = LIST_LEN.min(candidates.nodes.len());
        if candidates.weights.is_empty() {
            self.list.truncate(wanted);
            self.fill(balance, wanted);
            return;
        }
        self.order_by_weight(balance, wanted);
    }

    /// Fills the end of a list whose candidates all weigh the same: one look at each candidate.
    fn fill(&mut self, balance: &Balance, wanted: usize) {
        let missing = wanted - self.list.len();
        if missing == 0 {
            return;
        }
        let mut best: Vec<(u64, NodeNo)> = Vec::with_capacity(missing + 1);
        for node in &self.candidates.nodes {
            let rank = balance.rank(self.group, *node);
            let beaten = best.len() == missing && best.last() < Some(&rank);
            if beaten || self.list.contains(node) {
                continue;
            }
            let place = best.partition_point(|other| *other < rank);
            best.insert(place, rank);
            best.truncate(missing);
        }
        self.list.extend(best.into_iter().map(|(_, node)| node));
    }

    /// The first stays; the others by weight, then by the place that they had, then by hash.
    fn order_by_weight(&mut self, balance: &Balance, wanted: usize) {
        let candidates = self.candidates;
        let standing = std::mem::take(&mut self.list);
        for place in 0..wanted {
            let best = candidates
                .nodes
                .iter()
                .copied()
                .filter(|node| !self.list.contains(node))
                .min_by_key(|node| {
                    let before = standing.iter().position(|other| other == node);
                    let weight = candidates.weight(*node).unwrap_or(0);
                    (
                        place != 0 || before != Some(0),
                        std::cmp::Reverse(weight),
                        before.unwrap_or(usize::MAX),
                        balance.rank(self.group, *node),
                    )
                });
            self.list.extend(best);
        }
    }
}

#[cfg(test)]
mod tests;
