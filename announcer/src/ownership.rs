//! The groups of a node: one [`Seat`] each, the [`Roster`] that they share, and their timers.
//!
//! Pure. The driver hands in what happened and performs the [`Effect`]s, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::election::{
    Candidacy, Claim, Condition, GroupId, NodeName, Roster, Standing, Statement, TESTIMONY_LIFETIME,
};
use crate::handover::{Action, Duty, Event, Gained, Lost, Message, Scene, Seat};

mod renumbered;
#[cfg(test)]
mod tests;

/// For so long after its start a node takes no group that nobody owns while others own groups that
/// it does not know: one of them may have the same address, under the number that it had before or
/// has now. Streams are not so far apart.
const NEWCOMER: Duration = Duration::from_secs(2);

/// For so long who has handed over a group does not leave: on its way its farewell may overtake what
/// it and the new owner said last, and then others would believe the group orphaned.
const LINGER: Duration = Duration::from_millis(20);

/// Something to be done about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub group: GroupId,
    pub action: Action,
}

impl Effect {
    /// Why this node owns a group from now on, if this says that it does.
    pub fn gained(&self, group: GroupId) -> Option<&Gained> {
        if let Action::Claim(_, why) = &self.action
            && self.group == group
        {
            return Some(why);
        }
        None
    }
}

/// What this node owns, and what it knows.
#[derive(Debug)]
pub struct Ownership {
    roster: Roster,
    seats: BTreeMap<GroupId, (Candidacy, Seat)>,
    timers: BTreeSet<(Instant, GroupId)>,
    /// Groups that this node answers for, or is about to, although it is no candidate any more.
    unlisted: BTreeSet<GroupId>,
    /// Groups that this node owned and that are gone, by which claim, and until when that is said.
    gone: BTreeMap<GroupId, (Claim, Instant)>,
    /// Groups that were handed to this node when their addresses went to another one, to that one;
    /// and until when their former owner may not know it.
    renumbered: BTreeMap<GroupId, (GroupId, Instant)>,
    /// Until when this node is a newcomer; from when it may act on what it knows.
    newcomer_until: Option<Instant>,
    /// Until when this node is not to leave, if it handed over a group a moment ago.
    lingers_until: Option<Instant>,
    effects: Vec<Effect>,
}

impl Ownership {
    /// Owns nothing and knows nobody.
    pub fn new(me: NodeName, own: Condition) -> Self {
        Self {
            roster: Roster::new(me, own),
            seats: BTreeMap::new(),
            timers: BTreeSet::new(),
            unlisted: BTreeSet::new(),
            gone: BTreeMap::new(),
            renumbered: BTreeMap::new(),
            newcomer_until: None,
            lingers_until: None,
            effects: Vec::new(),
        }
    }

    /// What is known of the cluster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What is to be done now; to be asked for after every call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.newcomer_until, self.lingers_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether this node still answers for something that it is no candidate of; it does so for
    /// [`crate::handover::UNLISTED_LIMIT`] at most.
    pub fn answers_unlisted(&self) -> bool {
        !self.unlisted.is_empty()
    }

    /// A digest of the addresses of a group for which a node is prepared, if it is not to take it with
    /// others. `None`: with whichever it knows.
    pub fn told_addresses(&self, group: GroupId) -> Option<u64> {
        let (candidacy, seat) = self.seats.get(&group)?;
        let is_choosy = !seat.asked_in_vain() || self.roster.can_serve(candidacy);
        is_choosy.then_some(candidacy.addresses)
    }

    /// Whether a group has other addresses here than those of which this is the digest.
    pub fn has_others(&self, group: GroupId, addresses: u64) -> bool {
        let seat = self.seats.get(&group);
        seat.is_some_and(|(candidacy, _)| candidacy.addresses != addresses)
    }

    /// What others are told about who owns what.
    pub fn statements(&self) -> Vec<Statement> {
        let owned = self.seats.iter();
        let owned = owned.filter_map(|(group, (_, seat))| seat.statement(*group));
        let gone = self.gone.iter().map(|(group, (claim, _))| Statement {
            group: *group,
            holder: Some(self.roster.me.clone()),
            claim: Some(*claim),
        });
        owned.chain(gone).collect()
    }

    /// A group is to be announced, or who may announce it changed.
    pub fn set_group(&mut self, candidacy: Candidacy, now: Instant) {
        let group = candidacy.id;
        self.note_return(group);
        let (old, seat) = self
            .seats
            .entry(group)
            .or_insert_with(|| (candidacy.clone(), Seat::default()));
        let is_other = old.addresses != candidacy.addresses;
        *old = candidacy;
        seat.retry_now();
        if self.roster.unknown.remove(&group) {
            self.wonder(now);
        }
        let event = if is_other {
            Event::Readdressed
        } else {
            Event::Look
        };
        self.event(group, event, now);
    }

    /// A group comes whose addresses were fenced until now, and answered by this node. If that is this
    /// node, it goes on. If it is another one that lives, that one is believed to own the group for as
    /// long as its stream may be behind. To be told before [`Self::set_group`].
    pub fn unfence(&mut self, owner: &NodeName, candidacy: Candidacy, now: Instant) {
        let group = candidacy.id;
        let has_owner = self.roster.strongest_other(&candidacy).is_some();
        if has_owner || self.seats.contains_key(&group) {
            return;
        }
        if *owner != self.roster.me {
            if self.roster.lives(owner) {
                self.testify(group, owner.clone(), Claim::default().next(), now);
            }
            return;
        }
        let demand = candidacy.demand(&self.roster.me);
        if self.roster.own.can_answer(demand).is_any() {
            let claim = self.roster.peak(group).next();
            self.seats.insert(group, (candidacy, Seat::default()));
            self.event(group, Event::Inherited(claim), now);
        }
    }

    /// A group is not to be announced any more.
    pub fn remove_group(&mut self, group: GroupId, now: Instant) {
        self.unlisted.remove(&group);
        if let Some((_, seat)) = self.seats.remove(&group) {
            if let Some(at) = seat.deadline() {
                self.timers.remove(&(at, group));
            }
            if let Some(claim) = seat.claim() {
                let until = now + TESTIMONY_LIFETIME;
                self.gone.insert(group, (claim, until));
                self.timers.insert((until, group));
            }
            let actions = seat.dissolve();
            self.perform(group, actions);
            self.forget_unknown(group);
            self.wonder(now);
        }
    }

    /// This node's own condition changed.
    pub fn set_own(&mut self, own: Condition, now: Instant) {
        if self.roster.own != own {
            if own.ready && !self.roster.own.ready {
                self.newcomer_until = Some(now + NEWCOMER);
                self.wonder(now);
            }
            self.roster.own = own;
            for (_, seat) in self.seats.values_mut() {
                seat.retry_now();
            }
            self.look_at_all(now);
        }
    }

    /// The network carried something from another node.
    pub fn set_reached(&mut self, now: Instant) {
        if !self.roster.reached_anyone {
            self.roster.reached_anyone = true;
            self.look_at_all(now);
        }
    }

    /// What is known of another node changed.
    pub fn set_standing(&mut self, node: &NodeName, standing: Standing, now: Instant) {
        if self.roster.standing(node) != Some(&standing) {
            self.roster.set_standing(node.clone(), standing);
            for (_, seat) in self.seats.values_mut() {
                seat.retry_now();
            }
            self.wonder(now);
            self.look_at_all(now);
        }
    }

    /// A node is no member any more.
    pub fn forget(&mut self, node: &str, now: Instant) {
        self.roster.forget(node);
        for group in self.roster.unknown.clone() {
            self.forget_unknown(group);
        }
        self.wonder(now);
        self.look_at_all(now);
    }

    /// A node told all about itself.
    pub fn learn_whole(
        &mut self,
        node: &NodeName,
        condition: Condition,
        statements: &[Statement],
        now: Instant,
    ) {
        let own = statements.iter().filter(|one| one.holder.is_none());
        let claims: BTreeMap<GroupId, Claim> = own
            .filter_map(|one| Some((one.group, one.claim?)))
            .collect();
        let mut changed = self.roster.replace_claims(node, &claims);
        changed.extend(self.roster.forget_returned(node, statements));
        for group in &changed {
            self.forget_unknown(*group);
        }
        for one in statements.iter().filter(|one| one.holder.is_some()) {
            self.learn(node, one, now);
            changed.insert(one.group);
        }
        self.learnt(node, condition, changed, now);
    }

    /// A node told what changed about it.
    pub fn learn_changes(
        &mut self,
        node: &NodeName,
        condition: Condition,
        statements: &[Statement],
        now: Instant,
    ) {
        for one in statements {
            self.learn(node, one, now);
        }
        let changed = statements.iter().map(|one| one.group).collect();
        self.learnt(node, condition, changed, now);
    }

    fn learn(&mut self, node: &NodeName, statement: &Statement, now: Instant) {
        match (&statement.holder, statement.claim) {
            (Some(holder), Some(claim)) => {
                if holder == node {
                    // It is gone there. Here the stream is behind, or there never was one.
                    self.roster.set_claim(statement.group, node.clone(), None);
                    let until = self.roster.note_gone_elsewhere(statement.group, now);
                    self.timers.insert((until, statement.group));
                }
                self.testify(statement.group, holder.clone(), claim, now);
                if holder == node {
                    self.roster.note_end(statement.group, node, claim);
                }
                self.forget_unknown(statement.group);
            }
            (None, claim) => {
                self.roster.set_claim(statement.group, node.clone(), claim);
                self.forget_unknown(statement.group);
            }
            (Some(_), None) => {}
        }
    }

    fn testify(&mut self, group: GroupId, holder: NodeName, claim: Claim, now: Instant) {
        if let Some(until) = self.roster.testify(group, holder, claim, now) {
            self.timers.insert((until, group));
        }
    }

    /// Claims are noted before the group is known here, and may arrive after it is gone: a group that
    /// nobody claims any more, and that is not to be announced, leaves nothing behind.
    fn forget_unknown(&mut self, group: GroupId) {
        if self.seats.contains_key(&group) {
            return;
        }
        if self.roster.is_claimed(group) {
            self.roster.unknown.insert(group);
        } else {
            self.roster.unknown.remove(&group);
            self.roster.forget_group(group);
        }
    }

    /// Whether this node came a moment ago, and a living node owns a group that it does not know.
    fn wonder(&mut self, now: Instant) {
        let wonders = self.newcomer_until.is_some() && self.roster.is_any_unknown_owned();
        if std::mem::replace(&mut self.roster.wonders, wonders) != wonders {
            self.look_at_all(now);
        }
    }

    /// Claims were noted first: while a node counts as silent nobody acts on half of what it says.
    fn learnt(
        &mut self,
        node: &NodeName,
        condition: Condition,
        changed: BTreeSet<GroupId>,
        now: Instant,
    ) {
        self.wonder(now);
        self.set_standing(node, Standing::Known(Some(condition)), now);
        if changed.is_empty() {
            return;
        }
        // Whoever gave up a group may have owned another one's addresses by it.
        let changed: BTreeSet<GroupId> = changed
            .into_iter()
            .chain(self.roster.renumbered())
            .collect();
        for group in changed {
            self.event(group, Event::Look, now);
        }
    }

    /// A node said something about a group. Groups that this node does not know are ignored: it
    /// could not answer for them.
    pub fn hear(&mut self, group: GroupId, from: NodeName, message: Message, now: Instant) {
        if !self.seats.contains_key(&group) {
            return self.hear_renumbered(group, from, message, now);
        }
        if let Message::Prepare(claim) | Message::Ack(claim) = &message {
            self.roster.raise_peak(group, *claim);
        }
        self.event(group, Event::Heard(from, message), now);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) {
        if self.newcomer_until.take_if(|until| *until <= now).is_some() {
            self.wonder(now);
        }
        self.lingers_until.take_if(|until| *until <= now);
        while let Some((at, group)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, group));
            self.roster.forget_testimony(group, now);
            self.roster.forget_renumbered(now);
            self.forget_unknown(group);
            self.renumbered.retain(|_, (_, until)| *until > now);
            self.gone.retain(|_, (_, until)| *until > now);
            self.event(group, Event::Look, now);
        }
    }

    /// Whether no handover is under way, was a moment ago, or waits to be tried: what is still owned stays here
    /// until the process ends, because nobody else can have it.
    pub fn is_settled(&self, now: Instant) -> bool {
        let lingers = self.lingers_until.is_some_and(|until| until > now);
        !lingers
            && self.seats.values().all(|(candidacy, seat)| {
                let scene = Scene {
                    candidacy,
                    roster: &self.roster,
                    now,
                };
                !seat.is_moving(&scene)
            })
    }

    /// This node leaves: who takes what it still owns, when it hears of that, is not to find it
    /// answered. What nobody else can have is answered until the process ends.
    pub fn fall_silent(&mut self) {
        let answered = self.seats.iter().filter(|(_, (candidacy, seat))| {
            seat.may_answer() && self.roster.may_be_taken(candidacy)
        });
        let groups: Vec<GroupId> = answered.map(|(group, _)| *group).collect();
        for group in groups {
            self.perform(group, vec![Action::Duty(Duty::Silent)]);
        }
    }

    fn look_at_all(&mut self, now: Instant) {
        let groups: Vec<GroupId> = self.seats.keys().copied().collect();
        for group in groups {
            self.event(group, Event::Look, now);
        }
    }

    fn event(&mut self, group: GroupId, event: Event, now: Instant) {
        let Some((candidacy, seat)) = self.seats.get_mut(&group) else {
            return;
        };
        if let Some(at) = seat.deadline() {
            self.timers.remove(&(at, group));
        }
        let scene = Scene {
            candidacy,
            roster: &self.roster,
            now,
        };
        let actions = seat.handle(event, &scene);
        let handed_over = |action: &Action| matches!(action, Action::Unclaim(Lost::HandedOver(_)));
        if actions.iter().any(handed_over) {
            self.lingers_until = Some(now + LINGER);
        }
        if let Some(at) = seat.deadline() {
            self.timers.insert((at, group));
        }
        match seat.may_answer() && !candidacy.includes(&self.roster.me) {
            true => self.unlisted.insert(group),
            false => self.unlisted.remove(&group),
        };
        self.perform(group, actions);
    }

    fn perform(&mut self, group: GroupId, actions: Vec<Action>) {
        for action in actions {
            match &action {
                Action::Claim(claim, _) | Action::Raise(claim) | Action::Release(_, claim) => {
                    self.roster.raise_peak(group, *claim);
                }
                Action::Send(..)
                | Action::Duty(_)
                | Action::RepeatGo(..)
                | Action::Unclaim(_)
                | Action::Gone(_)
                | Action::Returned
                | Action::Announce
                | Action::Inform(_) => {}
            }
            self.effects.push(Effect { group, action });
        }
    }
}
