//! Who owns a group of addresses, as one node sees it.
//!
//! Pure: it knows the order in which nodes are wanted for a group, what is known of each node,
//! and which node claims what; it says what this node should do. How a living owner hands over is
//! [`crate::handover`]; who lives is [`crate::members`].
//!
//! No node's choice for one group depends on another group, so nodes with different views disagree
//! as little as possible.

use std::collections::BTreeSet;
use std::sync::Arc;

use pnet_base::MacAddr;

use pharos_proto::digest::rendezvous_rank;

mod fitness;
mod roster;
#[cfg(test)]
mod tests;
mod wanted;

pub use fitness::{Demand, Families, Fitness};
pub use roster::{Roster, Statement, TESTIMONY_LIFETIME};
pub use wanted::{Wanted, WantedBy};

/// Name of a node of the cluster.
pub type NodeName = Arc<str>;

/// Addresses that one node owns together: the id of their oldest allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// The how-manieth ownership of a group this is. Each new owner takes a higher number than any
/// that it has heard of, so of two nodes that both believe to own a group the higher one is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Claim(pub u64);

impl Claim {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Which nodes may own a group, in the order in which they are wanted: first the list, then the
/// other candidates by rendezvous hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidacy {
    pub id: GroupId,
    /// Streamed by ipam-service: sticky and balanced.
    pub listed: Vec<NodeName>,
    /// Every node that may own the group.
    pub candidates: Arc<[NodeName]>,
    /// Where the group may be answered.
    pub wanted: WantedBy,
    /// Of its addresses.
    pub families: Families,
    /// A digest of its addresses: nodes whose streams are apart may know others of it.
    pub addresses: u64,
}

impl Candidacy {
    /// Whether a node may own the group at all.
    pub fn includes(&self, node: &str) -> bool {
        self.listed.iter().any(|listed| &**listed == node)
            || self.candidates.iter().any(|candidate| &**candidate == node)
    }

    /// What is asked of a node that is to own the group.
    pub fn demand(&self, node: &str) -> Demand<'_> {
        Demand {
            wanted: self.wanted.of(node),
            families: self.families,
        }
    }

    /// The first node, in order, that is accepted.
    pub fn first(&self, accept: impl Fn(&NodeName) -> bool) -> Option<&NodeName> {
        let listed = self.listed.iter().find(|node| accept(node));
        listed.or_else(|| {
            self.candidates
                .iter()
                .filter(|node| accept(node))
                .min_by_key(|node| self.rank(node))
        })
    }

    /// How many accepted nodes come before `node`.
    pub fn ahead_of(&self, node: &str, accept: impl Fn(&NodeName) -> bool) -> usize {
        if let Some(position) = self.listed.iter().position(|listed| &**listed == node) {
            return self.listed[..position]
                .iter()
                .filter(|other| accept(other))
                .count();
        }
        let own = self.rank(node);
        let listed = self.listed.iter().filter(|other| accept(other)).count();
        let by_hash = self.unlisted();
        let by_hash = by_hash.filter(|other| accept(other) && self.rank(other) < own);
        listed + by_hash.count()
    }

    /// How many nodes are accepted.
    fn count(&self, accept: impl Fn(&NodeName) -> bool) -> usize {
        let all = self.listed.iter().chain(self.unlisted());
        all.filter(|node| accept(node)).count()
    }

    fn unlisted(&self) -> impl Iterator<Item = &NodeName> {
        let all = self.candidates.iter();
        all.filter(|node| !self.listed.contains(node))
    }

    fn rank(&self, node: &str) -> (usize, bool, [u8; 32]) {
        match self.listed.iter().position(|listed| &**listed == node) {
            Some(position) => (position, false, [0; 32]),
            None => {
                let outsider = !self.candidates.iter().any(|name| &**name == node);
                (
                    self.listed.len(),
                    outsider,
                    rendezvous_rank(self.id.0, node),
                )
            }
        }
    }
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// It has assignments that it may act on.
    pub ready: bool,
    /// It came (back) a moment ago and takes nothing back from a living owner yet.
    pub hold_down: bool,
    /// It is about to stop.
    pub draining: bool,
    /// Names of the interfaces on which it can answer for IPv4 addresses.
    pub interfaces: BTreeSet<String>,
    /// The same for IPv6.
    pub interfaces6: BTreeSet<String>,
    /// Their hardware addresses, so that others know whose frames they see.
    pub macs: BTreeSet<MacAddr>,
}

impl Condition {
    /// Names of the interfaces on which it can answer for something.
    pub fn answering(&self) -> BTreeSet<String> {
        &self.interfaces | &self.interfaces6
    }

    fn can_serve(&self, demand: Demand<'_>) -> Fitness {
        match self.draining {
            true => Fitness::Not,
            false => self.can_answer(demand),
        }
    }

    /// How much it could go on answering, if it owned that.
    pub(crate) fn can_answer(&self, demand: Demand<'_>) -> Fitness {
        if !self.ready {
            return Fitness::Not;
        }
        let is_wanted = |names: &BTreeSet<String>| {
            let mut names = names.iter();
            names.any(|name| demand.wanted.includes(name))
        };
        let (ipv4, ipv6) = (is_wanted(&self.interfaces), is_wanted(&self.interfaces6));
        Fitness::of(demand.families, ipv4, ipv6)
    }
}

/// What is known of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Named by the stream or the disk, and neither heard of nor found dead by this process yet.
    Presumed,
    /// Lives, and has not said anything about itself yet.
    Silent,
    /// Lives, and said this. The condition is `None` if it was asked for long enough in vain.
    Known(Option<Condition>),
    /// Found dead.
    Dead,
}

impl Standing {
    fn lives(&self) -> bool {
        match self {
            Self::Presumed | Self::Silent | Self::Known(_) => true,
            Self::Dead => false,
        }
    }

    /// Whether its claims are known, as far as they ever will be.
    fn is_settled(&self) -> bool {
        match self {
            Self::Known(_) | Self::Dead => true,
            Self::Presumed | Self::Silent => false,
        }
    }

    /// How much it said that it could go on answering.
    pub(super) fn can_answer(&self, demand: Demand<'_>) -> Fitness {
        match self {
            Self::Known(Some(condition)) => condition.can_answer(demand),
            Self::Presumed | Self::Silent | Self::Known(None) | Self::Dead => Fitness::Not,
        }
    }

    /// How much of an unowned group is this node's to take before anyone after it.
    fn may_take(&self, demand: Demand<'_>) -> Fitness {
        match self {
            Self::Presumed | Self::Silent | Self::Known(None) => Fitness::Wholly,
            Self::Known(Some(condition)) => condition.can_serve(demand),
            Self::Dead => Fitness::Not,
        }
    }

    /// How much of a group a living owner may hand to this node.
    fn may_receive(&self, demand: Demand<'_>, although_held_down: bool) -> Fitness {
        match self {
            Self::Known(Some(condition)) if although_held_down || !condition.hold_down => {
                condition.can_serve(demand)
            }
            Self::Known(Some(_))
            | Self::Presumed
            | Self::Silent
            | Self::Known(None)
            | Self::Dead => Fitness::Not,
        }
    }
}

/// What a node should do about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody owns it and it is this node's: take it.
    Take,
    /// Nobody owns it; so many nodes come before this one and get their time first.
    Queue(usize),
    /// Go on owning it.
    Keep,
    /// Own it until this node has it.
    HandTo(NodeName),
    /// This node owns it by a stronger claim: stop.
    Yield(NodeName),
    /// Somebody else's business, for this reason.
    Leave(Leave),
}

/// Why a node does not take a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// A living node owns it.
    Owned,
    /// This node is no candidate.
    NotCandidate,
    /// This node has no usable interface, is draining, or may not act on what it knows yet.
    Unfit,
    /// A living node has not told yet what it owns.
    Asking,
    /// This node or this group came a moment ago, or the group is gone for its owner, and somebody
    /// owns another group: perhaps this one's address, under another number.
    Wondering,
    /// This node has reached nobody since it started, and is not the first that is wanted.
    Isolated,
}

impl Roster {
    /// The living node, other than this one, with the strongest claim.
    pub fn strongest_other(&self, candidacy: &Candidacy) -> Option<(&NodeName, Claim)> {
        self.claims(candidacy.id)
            .filter(|(node, _)| self.others.get(*node).is_some_and(Standing::lives))
            .reduce(|best, next| {
                if is_stronger(candidacy.id, next, best) {
                    next
                } else {
                    best
                }
            })
    }

    /// What this node should do about a group that it owns by `claim`.
    pub fn judge_owned(&self, candidacy: &Candidacy, claim: Claim) -> Verdict {
        if let Some((other, theirs)) = self.strongest_other(candidacy)
            && is_stronger(candidacy.id, (other, theirs), (&self.me, claim))
        {
            return Verdict::Yield(other.clone());
        }
        self.heir(candidacy, &BTreeSet::new())
            .map_or(Verdict::Keep, Verdict::HandTo)
    }

    /// Whom an owned group should go to, other than the nodes that have been tried in vain;
    /// `None`: this node keeps it.
    pub fn heir(&self, candidacy: &Candidacy, tried: &BTreeSet<NodeName>) -> Option<NodeName> {
        let own = self.fitness(candidacy);
        let fitness = |node: &NodeName, although_held_down: bool| {
            if *node == self.me {
                return own;
            }
            let standing = self.others.get(node).filter(|_| !tried.contains(node));
            let demand = candidacy.demand(node);
            standing.map_or(Fitness::Not, |one| {
                one.may_receive(demand, although_held_down)
            })
        };
        // One that must go anyway rather goes to a node in hold-down than to nobody.
        let wishes = [
            (Fitness::Wholly, false),
            (Fitness::Partly, false),
            (Fitness::Wholly, true),
            (Fitness::Partly, true),
        ];
        let mut heirs = wishes.iter().filter_map(|(least, although_held_down)| {
            candidacy.first(|node| fitness(node, *although_held_down) >= *least)
        });
        let heir = heirs.next()?;
        (*heir != self.me).then(|| heir.clone())
    }

    /// What this node should do about a group that it does not own.
    pub fn judge_unowned(&self, candidacy: &Candidacy) -> Verdict {
        if self.strongest_other(candidacy).is_some() {
            return Verdict::Leave(Leave::Owned);
        }
        if !candidacy.includes(&self.me) {
            return Verdict::Leave(Leave::NotCandidate);
        }
        let own = self.fitness(candidacy);
        if !own.is_any() {
            return Verdict::Leave(Leave::Unfit);
        }
        // Whoever lives may be the owner, also a node that is no candidate any more.
        if self.others.values().any(|standing| !standing.is_settled()) {
            return Verdict::Leave(Leave::Asking);
        }
        if self.wonders || self.may_be_owned_by_another_number(candidacy) {
            return Verdict::Leave(Leave::Wondering);
        }
        let first_wanted = candidacy.first(|_| true) == Some(&self.me);
        if !self.reached_anyone && !first_wanted {
            return Verdict::Leave(Leave::Isolated);
        }
        let fitness = |node: &NodeName| {
            let standing = self.others.get(node);
            let demand = candidacy.demand(node);
            standing.map_or(Fitness::Not, |one| one.may_take(demand))
        };
        let fitter = candidacy.count(|node| fitness(node) > own);
        let ahead = fitter + candidacy.ahead_of(&self.me, |node| fitness(node) == own);
        match ahead {
            0 => Verdict::Take,
            ahead => Verdict::Queue(ahead),
        }
    }
}

/// Whether of two claims on a group the first is right. The higher number wins; among equals a hash of the
/// node does, and not who is wanted more: while a new list has reached one of them only, each could be
/// wanted more by its own, and both would stay.
pub fn is_stronger(group: GroupId, a: (&NodeName, Claim), b: (&NodeName, Claim)) -> bool {
    let rank = |node: &NodeName| rendezvous_rank(group.0, node);
    a.1 > b.1 || (a.1 == b.1 && rank(a.0) < rank(b.0))
}
