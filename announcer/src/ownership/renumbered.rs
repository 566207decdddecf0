//! Groups whose number comes again, or whose addresses get another number.

use std::time::Instant;

use super::Ownership;
use crate::election::{Candidacy, GroupId, NodeName};
use crate::handover::{Action, Duty, Event, HOLD_TIMEOUT, Message, Seat};

impl Ownership {
    /// A group that this node owned, and said to be gone, may be to be announced again: its number is
    /// that of its oldest allocation. Others are not to wait for this node then. If it owns the group
    /// again, that is by a higher claim than the one before.
    pub(super) fn note_return(&mut self, group: GroupId) {
        if let Some((claim, _)) = self.gone.remove(&group) {
            self.roster.raise_peak(group, claim);
            let me = self.roster.me.clone();
            self.roster.note_end(group, &me, claim);
            self.perform(group, vec![Action::Returned]);
        }
    }

    /// A new group came with addresses of another one. Whoever owns that one owns the new one too,
    /// until it hands it over like any other: so the addresses are answered all the time. To be
    /// told before [`Self::set_group`] and [`Self::remove_group`].
    pub fn succeed(&mut self, before: GroupId, candidacy: Candidacy, now: Instant) {
        let group = candidacy.id;
        self.note_return(group);
        let has_owner = self.roster.strongest_other(&candidacy).is_some();
        if has_owner || self.seats.contains_key(&group) {
            return;
        }
        let Some((_, seat)) = self.seats.get(&before) else {
            return;
        };
        if let Some(claim) = seat.claim() {
            // Also where it may not own the new one, or is about to stop: then it answers until
            // somebody else has it.
            let demand = candidacy.demand(&self.roster.me);
            if self.roster.own.can_answer(demand).is_any() {
                let claim = self.roster.peak(group).max(claim).next();
                self.seats.insert(group, (candidacy, Seat::default()));
                self.event(group, Event::Inherited(claim), now);
            }
            return;
        }
        let holding = seat.held_for_successor();
        if let Some(passed) = seat.statement(before)
            && let (Some(to), Some(claim)) = (passed.holder, passed.claim)
        {
            self.testify(before, to, claim, now);
        }
        // Others that do not know the new one yet may go on handing over the former one.
        let until = self.roster.note_successor(group, before, now);
        self.timers.insert((until, group));
        if let Some(holding) = holding {
            let until = now + HOLD_TIMEOUT;
            self.renumbered.insert(before, (group, until));
            self.timers.insert((until, before));
            self.seats.insert(group, (candidacy, holding));
            self.perform(group, vec![Action::Duty(Duty::Hold)]);
            self.event(group, Event::Look, now);
        }
    }

    /// A node goes on with the handover of a group whose addresses are in another one here.
    pub(super) fn hear_renumbered(
        &mut self,
        before: GroupId,
        from: NodeName,
        message: Message,
        now: Instant,
    ) {
        let known = self.renumbered.get(&before).copied();
        let Some((group, _)) = known.filter(|(_, until)| *until > now) else {
            return;
        };
        let seat = self.seats.get(&group).map(|(_, seat)| seat);
        match message {
            Message::Prepare(claim) => {
                if seat.is_some_and(|seat| seat.holds_for(&from, claim)) {
                    let ack = Action::Send(from, Message::Ack(claim));
                    self.perform(before, vec![ack]);
                }
            }
            Message::Go(..) => self.event(group, Event::Heard(from, message), now),
            Message::Ack(_) => {}
        }
    }
}
