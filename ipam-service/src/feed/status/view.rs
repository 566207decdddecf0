//! What is known of a cluster at one moment: who answers, who else does, and whether that is all there is to
//! know. A node that has not told yet may answer for anything that it is a candidate for.

use std::sync::MutexGuard;

use tokio::time::Instant;

use super::{Answerer, KEPT, OfNode, SeenConflict, Told};
use crate::state::announce::AssignmentKey;
use crate::state::model::AllocationId;
use crate::state::names::Name;

/// What is known of one cluster now.
#[derive(Debug)]
pub struct View<'a> {
    told: MutexGuard<'a, Told>,
    cluster: &'a Name,
    now: Instant,
}

/// What is known of the candidates of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// One of them has not told yet what it answers for, and may; or has told more than is kept.
    Unknown,
    /// None of them has a stream.
    Away,
    /// All have told who could, and one has a stream.
    Told,
}

impl<'a> View<'a> {
    pub(super) fn new(told: MutexGuard<'a, Told>, cluster: &'a Name, now: Instant) -> Self {
        Self { told, cluster, now }
    }

    /// Who says that it answers for a group, by name.
    pub fn answerers(&self, group: AllocationId) -> Vec<Answerer> {
        let of_cluster = self.told.clusters.get(self.cluster);
        of_cluster.map_or_else(Vec::new, |it| it.answerers(group))
    }

    /// Other machines that nodes see use an address, by node.
    pub fn conflicts(&self, address: &AssignmentKey) -> Vec<SeenConflict> {
        let nodes = self.told.of_cluster(self.cluster);
        let seen = nodes.flat_map(|(node, of_node)| {
            let from = (address.clone(), String::new());
            let seen = of_node.conflicts.range(from..);
            let of_address = seen.take_while(|((seen, _), _)| seen == address);
            of_address.map(move |(_, seen)| seen.by(node))
        });
        seen.collect()
    }

    /// What is known of these nodes.
    pub fn presence(&self, candidates: &[Name]) -> Presence {
        let nodes = self.told.clusters.get(self.cluster);
        let known = |name: &Name| nodes.and_then(|it| it.nodes.get(name));
        let is_unknown = |name: &Name| {
            let node = known(name);
            self.settles_at(node).is_some() || node.is_some_and(|node| node.owned.is_cut())
        };
        if candidates.iter().any(is_unknown) {
            return Presence::Unknown;
        }
        let mut all = candidates.iter().filter_map(known);
        match all.any(|node| node.stream > 0 && node.ended.is_none()) {
            true => Presence::Told,
            false => Presence::Away,
        }
    }

    /// When next something is known without a word of anybody: somebody has had time enough.
    pub fn next_settled(&self) -> Option<Instant> {
        let nodes = self.told.of_cluster(self.cluster);
        let known = nodes.filter_map(|(_, node)| self.settles_at(Some(node)));
        known.chain(self.settles_at(None)).min()
    }

    /// Until when a node may yet tell; `None`: it has, or had time enough to.
    fn settles_at(&self, node: Option<&OfNode>) -> Option<Instant> {
        let since = match node {
            Some(node) if node.told => return None,
            Some(node) => node.ended.map_or(node.entered, |ended| ended.at),
            None => self.told.began,
        };
        let until = since + KEPT;
        (until > self.now).then_some(until)
    }
}
