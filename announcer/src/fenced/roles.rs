//! What follows for an address: from its role, from what is told of it, and from time.

use std::time::Instant;

use super::effect::{Effect, Handle, Lost, tenure_id};
use super::seat::{Passed, Role};
use super::{ACK_TIMEOUT, Fenced, GO_REPEAT, GO_TIMEOUT, PASSED_LIFETIME, PREPARE_REPEAT};
use crate::book::Key;
use crate::election::{Claim, GroupId, NodeName};
use crate::handover::{Duty, Gained, UNLISTED_LIMIT};
use crate::l2::hold::Report;

impl Fenced {
    /// Does what follows for an address.
    pub(super) fn follow(&mut self, key: &Key, same_tenure: bool, now: Instant) {
        let Some(seat) = self.seats.get(key) else {
            return;
        };
        let mine = seat.told.is_of(&self.me, self.term);
        let next = seat.told.next.clone();
        let is_next = self.term.is_some() && next.as_ref() == Some(&self.me);
        match (seat.role.clone(), mine) {
            // It may have said so already: never again under this epoch.
            (Role::Released, _) if same_tenure => {}
            (Role::Owner | Role::Leaving { .. }, true) if same_tenure => {
                self.look_owning(key, next, now);
            }
            (Role::Owner | Role::Leaving { .. }, false) => {
                let why = match self.term {
                    None => Lost::LeaseOver,
                    Some(_) => Lost::Removed,
                };
                self.stop(key);
                self.effects.push(Effect::Lost(key.clone(), why));
                self.look_idle(key, is_next);
            }
            // Or named anew.
            (Role::Idle | Role::Released | Role::Owner | Role::Leaving { .. }, true) => {
                self.own(key, Report::default(), None);
                self.look_owning(key, next, now);
            }
            (Role::Idle | Role::Released, false) => self.look_idle(key, is_next),
            (Role::Holding { attempt, go, .. }, true) => match go {
                Some((from, report)) => {
                    self.own(key, report, Some(from));
                    self.look_owning(key, next, now);
                }
                None => self.ask_for_go(key, attempt, now + GO_TIMEOUT, now),
            },
            (Role::Holding { until, .. }, false) => {
                if !is_next || !same_tenure || now >= until {
                    self.stop(key);
                    self.look_idle(key, is_next);
                }
            }
            (Role::Waiting { until, .. }, true) if now >= until => {
                // Whatever is held may have been answered.
                self.effects.push(Effect::Silence(key.clone()));
                self.own(key, Report::default(), None);
                self.look_owning(key, next, now);
            }
            (
                Role::Waiting {
                    attempt,
                    until,
                    repeat_at,
                },
                true,
            ) => {
                if now >= repeat_at {
                    self.ask_for_go(key, attempt, until, now);
                }
            }
            (Role::Waiting { .. }, false) => {
                self.stop(key);
                self.look_idle(key, is_next);
            }
        }
    }

    /// The former owner has stopped, or this node would not be named: so what it answered was lost on
    /// its way, or comes a moment later. To be asked again until then.
    fn ask_for_go(&mut self, key: &Key, attempt: Claim, until: Instant, now: Instant) {
        let Some(seat) = self.seats.get_mut(key) else {
            return;
        };
        seat.role = Role::Waiting {
            attempt,
            until,
            repeat_at: now + GO_REPEAT,
        };
        if let (Some(former), Some(id)) = (seat.other.clone(), seat.id) {
            self.effects
                .push(Effect::Ack(former, Handle { id, attempt }));
        }
    }

    fn look_owning(&mut self, key: &Key, next: Option<NodeName>, now: Instant) {
        let Some(term) = self.term else {
            return;
        };
        let next = next.filter(|next| *next != self.me);
        if self.is_unlisted_for_long(key, now) {
            self.effects.push(Effect::Silence(key.clone()));
            self.effects.push(Effect::Lost(key.clone(), Lost::Unlisted));
            self.end(key);
            return;
        }
        let Some(seat) = self.seats.get(key) else {
            return;
        };
        match (&seat.role, next) {
            (Role::Leaving { .. }, None) => {
                let answer = Duty::Answer(Report::default());
                self.set_role(key, Role::Owner);
                self.effects.push(Effect::Duty(key.clone(), answer, term));
            }
            (
                Role::Leaving {
                    to,
                    until,
                    repeat_at,
                },
                Some(next),
            ) if *to == next => {
                if now >= *until {
                    self.release(key, now);
                } else if now >= *repeat_at {
                    self.prepare(key, next, *until, now);
                }
            }
            (Role::Owner | Role::Leaving { .. }, Some(to)) => {
                // Before the other one begins to hold; whatever was noted for an earlier attempt.
                self.effects
                    .push(Effect::Duty(key.clone(), Duty::Record, term));
                self.attempts += 1;
                let attempt = Claim(self.attempts);
                if let Some(seat) = self.seats.get_mut(key) {
                    seat.attempt = attempt;
                }
                self.prepare(key, to, now + ACK_TIMEOUT, now);
            }
            (Role::Owner, None)
            | (Role::Idle | Role::Released | Role::Holding { .. } | Role::Waiting { .. }, _) => {}
        }
    }

    /// Whether this node has answered for too long without being a candidate: others that wait for it
    /// to stop are not kept waiting for ever.
    fn is_unlisted_for_long(&mut self, key: &Key, now: Instant) -> bool {
        let Some(seat) = self.seats.get_mut(key) else {
            return false;
        };
        if seat.told.candidate {
            seat.unlisted_since = None;
            return false;
        }
        let since = *seat.unlisted_since.get_or_insert(now);
        now >= since + UNLISTED_LIMIT
    }

    /// The tenure that this node has is over, for good.
    fn end(&mut self, key: &Key) {
        let Some(seat) = self.seats.get_mut(key) else {
            return;
        };
        if let Some((_, term)) = &seat.told.owner {
            self.ended.insert(key.clone(), (*term, seat.told.epoch));
        }
        seat.unlisted_since = None;
        seat.role = Role::Released;
    }

    fn prepare(&mut self, key: &Key, to: NodeName, until: Instant, now: Instant) {
        if let Some(handle) = self.handle(key) {
            self.effects.push(Effect::Prepare(to.clone(), handle));
        }
        let repeat_at = now + PREPARE_REPEAT;
        self.set_role(
            key,
            Role::Leaving {
                to,
                until,
                repeat_at,
            },
        );
    }

    /// The present attempt of this node to hand its tenure over.
    fn handle(&self, key: &Key) -> Option<Handle> {
        let seat = self.seats.get(key)?;
        Some(Handle {
            id: seat.id?,
            attempt: seat.attempt,
        })
    }

    /// The next one is to know of which tenure the owner talks.
    fn look_idle(&mut self, key: &Key, is_next: bool) {
        let Some(seat) = self.seats.get(key) else {
            return;
        };
        let owner = seat.told.owner.as_ref().filter(|_| is_next);
        let id = owner.map(|(_, term)| tenure_id(key, *term, seat.told.epoch));
        self.talk_of(key, id);
        self.set_role(key, Role::Idle);
    }

    pub(super) fn own(&mut self, key: &Key, report: Report, from: Option<NodeName>) {
        let (Some(seat), Some(term)) = (self.seats.get_mut(key), self.term) else {
            return;
        };
        let epoch = seat.told.epoch;
        seat.role = Role::Owner;
        seat.unlisted_since = None;
        let why = match (from, seat.other.take()) {
            (Some(from), _) => Gained::HandedOver(from),
            (None, Some(_)) => Gained::Orphaned,
            // Nobody else had it since.
            (None, None) => Gained::Unowned,
        };
        self.talk_of(key, Some(tenure_id(key, term, epoch)));
        let answer = Duty::Answer(report);
        self.effects.push(Effect::Duty(key.clone(), answer, term));
        self.effects.push(Effect::Gained(key.clone(), epoch, why));
    }

    pub(super) fn release(&mut self, key: &Key, now: Instant) {
        let Some(seat) = self.seats.get(key) else {
            return;
        };
        let (Role::Leaving { to, .. }, Some(handle)) = (&seat.role, self.handle(key)) else {
            return;
        };
        let to = to.clone();
        self.effects
            .push(Effect::Release(key.clone(), to.clone(), handle));
        self.effects.push(Effect::Lost(key.clone(), Lost::Released));
        self.end(key);
        let until = now + PASSED_LIFETIME;
        if let Some(seat) = self.seats.get_mut(key) {
            let before = seat.passed.replace(Passed { to, handle, until });
            let before = before.map(|before| before.handle.id);
            if let Some(before) = before.filter(|before| *before != handle.id) {
                self.ids.remove(&before);
            }
        }
    }

    /// Forgets what was handed over, once the heir waits no more.
    pub(super) fn forget_passed(&mut self, key: &Key, now: Instant) {
        let Some(seat) = self.seats.get_mut(key) else {
            return;
        };
        let old = seat.passed.take_if(|passed| passed.until <= now);
        let old = old.map(|passed| passed.handle.id);
        if let Some(old) = old.filter(|old| seat.id != Some(*old)) {
            self.ids.remove(&old);
        }
    }

    fn stop(&mut self, key: &Key) {
        self.effects.push(Effect::Silence(key.clone()));
        self.talk_of(key, None);
        self.set_role(key, Role::Idle);
    }

    pub(super) fn talk_of(&mut self, key: &Key, id: Option<GroupId>) {
        let Some(seat) = self.seats.get_mut(key) else {
            return;
        };
        let is_passed = |id: &GroupId| {
            let passed = seat.passed.as_ref();
            passed.is_some_and(|passed| passed.handle.id == *id)
        };
        let before = std::mem::replace(&mut seat.id, id);
        // Who was handed a tenure may ask what was answered under it.
        if let Some(before) = before.filter(|before| !is_passed(before)) {
            self.ids.remove(&before);
        }
        if let Some(id) = id {
            self.ids.insert(id, key.clone());
        }
    }

    pub(super) fn set_role(&mut self, key: &Key, role: Role) {
        if let Some(seat) = self.seats.get_mut(key) {
            seat.role = role;
        }
    }
}
