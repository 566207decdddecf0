//! What one node knows: who lives, what each node says about itself, and who claims what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Candidacy, Claim, Condition, Fitness, GroupId, NodeName, Standing};

/// How long it is believed that a node got a group by handover, without hearing it from that node.
/// Several times as long as a lost report takes to be repeated.
pub const TESTIMONY_LIFETIME: Duration = Duration::from_secs(2);

/// What a node says about who owns a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub group: GroupId,
    /// `None`: the node itself. It names another one when it has handed the group to that one and
    /// has not heard from it yet: so nobody believes the group unowned in between. It names itself
    /// when the group is gone: so nobody takes it who learns of that later.
    pub holder: Option<NodeName>,
    /// `None`: given up.
    pub claim: Option<Claim>,
}

/// What another node said about who owns a group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Testimony {
    holder: NodeName,
    claim: Claim,
    until: Instant,
    /// The holder itself said so, of a group that is gone for it.
    is_end: bool,
}

/// Addresses have, or had until a moment ago, other numbers on some nodes.
#[derive(Debug, Clone)]
struct Renumbering {
    /// Groups that they came from, as far as this node knew them.
    before: BTreeSet<GroupId>,
    until: Instant,
}

/// Everything one node knows about the cluster.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The node itself.
    pub me: NodeName,
    /// What it says about itself.
    pub own: Condition,
    /// Whether the network has carried anything from another node since this process started.
    pub reached_anyone: bool,
    /// Whether others own groups that this node, which came a moment ago, does not know.
    pub wonders: bool,
    /// Groups that others claim and that are not to be announced here.
    pub unknown: BTreeSet<GroupId>,
    pub(super) others: BTreeMap<NodeName, Standing>,
    claims: BTreeMap<(GroupId, NodeName), Claim>,
    testimonies: BTreeMap<GroupId, Testimony>,
    peaks: BTreeMap<GroupId, Claim>,
    /// Groups that nobody owns because the last owner gave them up, living: they were gone for it.
    ended: BTreeSet<GroupId>,
    renumbered: BTreeMap<GroupId, Renumbering>,
}

impl Roster {
    /// A roster that knows only of this node.
    pub fn new(me: NodeName, own: Condition) -> Self {
        Self {
            me,
            own,
            reached_anyone: false,
            wonders: false,
            unknown: BTreeSet::new(),
            others: BTreeMap::new(),
            claims: BTreeMap::new(),
            testimonies: BTreeMap::new(),
            peaks: BTreeMap::new(),
            ended: BTreeSet::new(),
            renumbered: BTreeMap::new(),
        }
    }

    /// What is known of another node; `None` if it was never named.
    pub fn standing(&self, node: &str) -> Option<&Standing> {
        self.others.get(node)
    }

    /// All other nodes.
    pub fn others(&self) -> impl Iterator<Item = (&NodeName, &Standing)> {
        self.others.iter()
    }

    /// Notes what is known of another node. Its claims stay: a dead owner's number must be beaten.
    pub fn set_standing(&mut self, node: NodeName, standing: Standing) {
        if node != self.me {
            self.others.insert(node, standing);
        }
    }

    /// Forgets a node that is no longer a member.
    pub fn forget(&mut self, node: &str) {
        self.others.remove(node);
        self.claims.retain(|(_, claimant), _| &**claimant != node);
    }

    /// Notes a claim of any node, or with `None` that it has given it up.
    pub fn set_claim(&mut self, group: GroupId, node: NodeName, claim: Option<Claim>) {
        let told_otherwise = |testimony: &&Testimony| {
            testimony.holder == node && (claim.is_none() || testimony.is_end)
        };
        if let Some(testimony) = self.testimonies.get(&group).filter(told_otherwise) {
            let is_back = testimony.is_end;
            self.testimonies.remove(&group);
            if is_back {
                self.forget_gone_elsewhere(group);
            }
        }
        match claim {
            Some(claim) => {
                self.raise_peak(group, claim);
                self.claims.insert((group, node), claim);
            }
            None => {
                self.claims.remove(&(group, node));
            }
        }
    }

    /// Notes that a node is said to own a group; gives until when that is believed.
    pub fn testify(
        &mut self,
        group: GroupId,
        holder: NodeName,
        claim: Claim,
        now: Instant,
    ) -> Option<Instant> {
        let known = self
            .testimonies
            .get(&group)
            .map(|testimony| testimony.claim);
        if holder == self.me || known.is_some_and(|known| known >= claim) {
            return None;
        }
        self.raise_peak(group, claim);
        let until = now + TESTIMONY_LIFETIME;
        let testimony = Testimony {
            holder,
            claim,
            until,
            is_end: false,
        };
        self.testimonies.insert(group, testimony);
        Some(until)
    }

    /// Forgets what was said about a group, if it is old.
    pub fn forget_testimony(&mut self, group: GroupId, now: Instant) {
        let is_old = |testimony: &Testimony| testimony.until <= now;
        if self.testimonies.get(&group).is_some_and(is_old) {
            self.testimonies.remove(&group);
        }
    }

    /// Notes that a group came with addresses of another one; gives until when others may not know it.
    pub fn note_successor(&mut self, group: GroupId, former: GroupId, now: Instant) -> Instant {
        let older = self.renumbered.get(&former);
        let mut before = older.map_or_else(BTreeSet::new, |older| older.before.clone());
        before.insert(former);
        before.remove(&group);
        let peak = self.peak(former);
        if peak != Claim::default() {
            // Whoever owns the former one takes this one by the next number.
            self.raise_peak(group, peak.next());
        }
        let until = now + TESTIMONY_LIFETIME;
        self.renumbered.insert(group, Renumbering { before, until });
        until
    }

    /// Notes that a group is gone for its owner: its addresses may have got a number that this node
    /// does not know. Gives until when that is so.
    pub fn note_gone_elsewhere(&mut self, group: GroupId, now: Instant) -> Instant {
        let fresh = Renumbering {
            before: BTreeSet::new(),
            until: now + TESTIMONY_LIFETIME,
        };
        self.renumbered.entry(group).or_insert(fresh).until
    }

    /// Groups that were renumbered a moment ago.
    pub fn renumbered(&self) -> impl Iterator<Item = GroupId> {
        self.renumbered.keys().copied()
    }

    /// Forgets which groups were renumbered, if the streams have told everybody by now.
    pub fn forget_renumbered(&mut self, now: Instant) {
        self.renumbered.retain(|_, one| one.until > now);
    }

    /// Whether the addresses of a group may be owned under another number: one that they had before,
    /// or one that this node does not know.
    pub fn may_be_owned_by_another_number(&self, candidacy: &Candidacy) -> bool {
        let Some(renumbering) = self.renumbered.get(&candidacy.id) else {
            return false;
        };
        let mut numbers = renumbering.before.union(&self.unknown);
        numbers.any(|number| {
            let mut claims = self.claims(*number);
            claims.any(|(node, _)| self.can_answer(node, candidacy))
        })
    }

    /// Whether a living node owns a group that this node does not know.
    pub fn is_any_unknown_owned(&self) -> bool {
        self.unknown.iter().any(|group| {
            let mut claims = self.claims(*group);
            claims.any(|(node, _)| self.lives(node))
        })
    }

    /// Replaces all claims of a node; tells which groups changed.
    pub fn replace_claims(
        &mut self,
        node: &NodeName,
        claims: &BTreeMap<GroupId, Claim>,
    ) -> BTreeSet<GroupId> {
        let before: BTreeMap<GroupId, Claim> = self
            .claims
            .iter()
            .filter(|((_, claimant), _)| claimant == node)
            .map(|((group, _), claim)| (*group, *claim))
            .collect();
        let mut changed = BTreeSet::new();
        for group in before.keys().chain(claims.keys()) {
            if before.get(group) != claims.get(group) {
                changed.insert(*group);
                self.set_claim(*group, node.clone(), claims.get(group).copied());
            }
        }
        changed
    }

    /// What a node claims, as it would say it.
    pub fn statements_of(&self, node: &str) -> Vec<Statement> {
        let claims = self.claims.iter();
        let of_node = claims.filter(|((_, claimant), _)| **claimant == *node);
        let statement = |((group, _), claim): (&(GroupId, NodeName), &Claim)| Statement {
            group: *group,
            holder: None,
            claim: Some(*claim),
        };
        of_node.map(statement).collect()
    }

    /// Whether a node lives, as far as is known.
    pub fn lives(&self, node: &str) -> bool {
        self.others.get(node).is_some_and(Standing::lives)
    }

    /// Whether this node may own a group and could answer for some of it.
    pub fn can_serve(&self, candidacy: &Candidacy) -> bool {
        self.fitness(candidacy).is_any()
    }

    /// How much of a group this node may own and could answer.
    pub(super) fn fitness(&self, candidacy: &Candidacy) -> Fitness {
        match candidacy.includes(&self.me) {
            true => self.own.can_serve(candidacy.demand(&self.me)),
            false => Fitness::Not,
        }
    }

    /// Whether another node may take a group when this one leaves.
    pub fn may_be_taken(&self, candidacy: &Candidacy) -> bool {
        self.others.iter().any(|(node, standing)| {
            candidacy.includes(node) && standing.may_take(candidacy.demand(node)).is_any()
        })
    }

    /// Whether another node said that it could go on answering for some of a group.
    pub fn can_answer(&self, node: &str, candidacy: &Candidacy) -> bool {
        let standing = self.others.get(node);
        let fitness = standing.map(|one| one.can_answer(candidacy.demand(node)));
        fitness.is_some_and(Fitness::is_any)
    }

    /// The highest claim ever heard of.
    pub fn peak(&self, group: GroupId) -> Claim {
        self.peaks.get(&group).copied().unwrap_or_default()
    }

    /// Notes that a claim of this number exists.
    pub fn raise_peak(&mut self, group: GroupId, claim: Claim) {
        let peak = self.peaks.entry(group).or_default();
        if claim > *peak {
            *peak = claim;
            self.ended.remove(&group);
        }
    }

    /// Notes that the owner of a group gave it up, living, because it was gone. To be told after its
    /// claim.
    pub fn note_end(&mut self, group: GroupId, owner: &NodeName, claim: Claim) {
        if claim >= self.peak(group) {
            self.ended.insert(group);
        }
        let testimony = self.testimonies.get_mut(&group);
        if let Some(testimony) = testimony.filter(|testimony| testimony.holder == *owner) {
            testimony.is_end = true;
        }
    }

    /// Whether the last owner of a group gave it up, living, because it was gone.
    pub fn has_ended(&self, group: GroupId) -> bool {
        self.ended.contains(&group)
    }

    /// Of what a node said to be gone: forgets what it does not say any more, now that it tells all
    /// about itself. Gives these groups.
    pub fn forget_returned(
        &mut self,
        node: &NodeName,
        statements: &[Statement],
    ) -> BTreeSet<GroupId> {
        let still = statements.iter().filter(|one| one.holder.is_some());
        let still: BTreeSet<GroupId> = still.map(|one| one.group).collect();
        let ended = self.testimonies.iter();
        let ended = ended.filter(|(group, testimony)| {
            testimony.is_end && testimony.holder == *node && !still.contains(group)
        });
        let returned: BTreeSet<GroupId> = ended.map(|(group, _)| *group).collect();
        for group in &returned {
            self.testimonies.remove(group);
            self.forget_gone_elsewhere(*group);
        }
        returned
    }

    /// The addresses of a group that was gone for its owner have no other number there.
    fn forget_gone_elsewhere(&mut self, group: GroupId) {
        if self
            .renumbered
            .get(&group)
            .is_some_and(|one| one.before.is_empty())
        {
            self.renumbered.remove(&group);
        }
    }

    /// Forgets a group that nobody claims and that is not to be announced. Its number may come
    /// again: the one of the oldest allocation, when that is to be announced again.
    pub fn forget_group(&mut self, group: GroupId) {
        self.peaks.remove(&group);
        self.ended.remove(&group);
        self.testimonies.remove(&group);
        let of_group: Vec<_> = self
            .claims_of(group)
            .map(|(node, _)| node.clone())
            .collect();
        for node in of_group {
            self.claims.remove(&(group, node));
        }
    }

    /// Whether any node claims a group, or is said to.
    pub fn is_claimed(&self, group: GroupId) -> bool {
        self.claims(group).next().is_some()
    }

    /// All claims on a group, also those that others told of.
    pub fn claims(&self, group: GroupId) -> impl Iterator<Item = (&NodeName, Claim)> {
        self.claims_of(group).chain(self.said_of(group))
    }

    /// What was said of the owner of a group by its former one.
    fn said_of(&self, group: GroupId) -> Option<(&NodeName, Claim)> {
        let testimony = self.testimonies.get(&group)?;
        Some((&testimony.holder, testimony.claim))
    }

    /// All claims on a group.
    fn claims_of(&self, group: GroupId) -> impl Iterator<Item = (&NodeName, Claim)> {
        let lowest: NodeName = Arc::from("");
        self.claims
            .range((group, lowest)..)
            .take_while(move |((id, _), _)| *id == group)
            .map(|((_, node), claim)| (node, *claim))
    }
}
