//! The fenced addresses of a node: what it does about each, as ipam-service names their owners.
//!
//! Pure. It knows what is told of each address, and the term under which this node may answer now;
//! [`Effect`]s come out, to be performed in order. That nothing is answered without a lease is not
//! its business alone: [`crate::l2::table`] looks at the lease before each frame.
//!
//! ```text
//!   owner                 ipam-service                 next
//!     | <-- next: b ------------|------ next: b --------> |
//!   notes what it answers       |                         |
//!     | ----------------- prepare(1) -------------------> |   holds the questions that it sees
//!     | <------------------- ack(1) --------------------- |
//!   stops                       |                         |
//!     | ------------ go(1, answered) -------------------> |
//!     | ----- released ------>  |                         |
//!     |                         |------ owner: b -------> |   answers what it holds and the other
//!     |                         |                         |   did not
//! ```
//!
//! So a planned move loses no answer. The attempts are counted: what is held for one is answered by what
//! was noted for that one only. Without the ack the owner stops all the same after
//! [`ACK_TIMEOUT`]. Who is named and has not got the go repeats the ack, which the former owner
//! answers with the go again; without it the next one answers nothing that it holds: rather no
//! answer than two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pharos_lease::Term;

use crate::book::Key;
use crate::election::{GroupId, NodeName};
use crate::handover::{Duty, Message};

mod effect;
mod index;
mod roles;
mod seat;
#[cfg(test)]
mod tests;

pub use effect::{Effect, Handle, Lost, Released, Told};
use index::{Entry, Index};
use seat::{Passed, Role, Seat};

/// How long an owner waits for the next one to hold questions.
pub const ACK_TIMEOUT: Duration = Duration::from_millis(300);
/// How often the owner asks it to.
const PREPARE_REPEAT: Duration = Duration::from_millis(50);
/// How long the next one waits, once it is named, for what the other answered.
const GO_TIMEOUT: Duration = Duration::from_millis(300);
/// How often it asks for that again.
const GO_REPEAT: Duration = Duration::from_millis(20);
/// How long the next one keeps questions without being named: nobody asks for so long.
const HOLD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a former owner knows what it told the next one, which waits for no longer.
const PASSED_LIFETIME: Duration = HOLD_TIMEOUT.saturating_add(GO_TIMEOUT);
/// How long a node that drains waits for somebody to take what it owns.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// All fenced addresses.
#[derive(Debug)]
pub struct Fenced {
    me: NodeName,
    /// Under which this node may answer now.
    term: Option<Term>,
    seats: BTreeMap<Key, Seat>,
    ids: BTreeMap<GroupId, Key>,
    /// What this node has released under the term that it has, or had last: it answers for none of it
    /// again, also if the address goes and comes back.
    ended: BTreeMap<Key, (Term, u64)>,
    /// Attempts of this process to hand a tenure over; never counted anew, so that what was held for
    /// one is never taken for another.
    attempts: u64,
    index: Index,
    effects: Vec<Effect>,
}

impl Fenced {
    /// Knows of no address.
    pub fn new(me: NodeName) -> Self {
        Self {
            me,
            term: None,
            seats: BTreeMap::new(),
            ids: BTreeMap::new(),
            ended: BTreeMap::new(),
            attempts: 0,
            index: Index::default(),
            effects: Vec::new(),
        }
    }

    /// What is to be done now; to be asked for after every call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether an address is fenced.
    pub fn contains(&self, key: &Key) -> bool {
        self.seats.contains_key(key)
    }

    /// Who is named for an address; `None` if that is this node and it does not answer.
    pub fn owner(&self, key: &Key) -> Option<&NodeName> {
        let seat = self.seats.get(key)?;
        let (owner, _) = seat.told.owner.as_ref()?;
        (*owner != self.me || seat.answers()).then_some(owner)
    }

    /// Whether this node needs a lease: it may own one of the addresses.
    pub fn needs_lease(&self) -> bool {
        self.index.need_lease > 0
    }

    /// Whether it answers for an address of which it is no candidate.
    pub fn answers_unlisted(&self) -> bool {
        self.index.answer_unlisted > 0
    }

    /// Whether it answers for nothing.
    pub fn answers_nothing(&self) -> bool {
        self.index.answer == 0
    }

    /// The tenures that ipam-service is to be told of as ended.
    pub fn released(&self) -> &BTreeSet<Released> {
        self.index.released()
    }

    /// When [`Self::tick`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.index.next_deadline()
    }

    /// An address is fenced, or something new is told of it.
    pub fn set(&mut self, key: Key, told: Told, now: Instant) {
        let seat = self.seats.entry(key.clone()).or_default();
        match &told.owner {
            Some((owner, _)) if *owner != self.me => seat.other = Some(owner.clone()),
            Some(_) | None => {}
        }
        let has_ended = told.owner.as_ref().is_some_and(|(owner, term)| {
            *owner == self.me && self.ended.get(&key) == Some(&(*term, told.epoch))
        });
        if has_ended && !matches!(seat.role, Role::Released) {
            seat.role = Role::Released;
        }
        let before = std::mem::replace(&mut seat.told, told);
        let same_tenure =
            has_ended || (before.owner == seat.told.owner && before.epoch == seat.told.epoch);
        self.look(&key, same_tenure, now);
    }

    /// An address is not fenced any more, or not to be announced.
    pub fn remove(&mut self, key: &Key) {
        self.talk_of(key, None);
        let Some(seat) = self.seats.remove(key) else {
            return;
        };
        if let Some(passed) = seat.passed {
            self.ids.remove(&passed.handle.id);
        }
        self.index.change(key, seat.entry, Entry::default());
        match seat.role {
            Role::Owner | Role::Leaving { .. } => {
                self.effects.push(Effect::Silence(key.clone()));
                self.effects.push(Effect::Lost(key.clone(), Lost::Removed));
            }
            Role::Holding { .. } | Role::Waiting { .. } => {
                self.effects.push(Effect::Silence(key.clone()));
            }
            Role::Idle | Role::Released => {}
        }
    }

    /// This node may answer under this term; `None`: not at all.
    pub fn set_term(&mut self, term: Option<Term>, now: Instant) {
        if self.term == term {
            return;
        }
        self.term = term;
        // Without a lease the same term may come back.
        if let Some(term) = term {
            self.ended.retain(|_, (of, _)| *of == term);
        }
        for key in self.seats.keys().cloned().collect::<Vec<_>>() {
            self.look(&key, true, now);
        }
    }

    /// Whether another node's message is about a fenced address.
    pub fn knows(&self, id: GroupId) -> bool {
        self.ids.contains_key(&id)
    }

    /// A node said something about a fenced address.
    pub fn hear(&mut self, id: GroupId, from: &NodeName, message: Message, now: Instant) {
        let Some(key) = self.ids.get(&id).cloned() else {
            return;
        };
        let Some(seat) = self.seats.get_mut(&key) else {
            return;
        };
        if seat.id != Some(id) || seat.role == Role::Released {
            return self.hear_of_passed(&key, id, from, &message);
        }
        let current = seat.attempt;
        match (message, &mut seat.role) {
            (Message::Prepare(attempt), Role::Idle | Role::Holding { .. }) => {
                self.on_prepare(&key, from, Handle { id, attempt }, now);
            }
            (Message::Ack(attempt), Role::Leaving { to, .. })
                if to == from && attempt == current =>
            {
                self.release(&key, now);
            }
            (Message::Go(of, report), Role::Holding { attempt, go, .. }) if of == *attempt => {
                *go = Some((from.clone(), report));
            }
            (Message::Go(of, report), Role::Waiting { attempt, .. }) if of == *attempt => {
                self.own(&key, report, Some(from.clone()));
            }
            (
                Message::Prepare(_) | Message::Ack(_) | Message::Go(..),
                Role::Idle
                | Role::Owner
                | Role::Leaving { .. }
                | Role::Released
                | Role::Holding { .. }
                | Role::Waiting { .. },
            ) => {}
        }
        self.look(&key, true, now);
    }

    /// The heir of a tenure that this node has ended has not heard what it answered.
    fn hear_of_passed(&mut self, key: &Key, id: GroupId, from: &NodeName, message: &Message) {
        let passed = self.seats.get(key).and_then(|seat| seat.passed.as_ref());
        if let Message::Ack(attempt) = message
            && let Some(Passed { to, handle, .. }) = passed
            && (to, handle.id, handle.attempt) == (from, id, *attempt)
        {
            self.effects
                .push(Effect::RepeatGo(key.clone(), from.clone(), *handle));
        }
    }

    /// The owner asks this node to hold questions: from now on, whatever it held for an earlier attempt.
    fn on_prepare(&mut self, key: &Key, from: &NodeName, handle: Handle, now: Instant) {
        let (Some(seat), Some(term)) = (self.seats.get(key), self.term) else {
            return;
        };
        let owner = seat.told.owner.as_ref().map(|(owner, _)| owner);
        if seat.told.next.as_ref() != Some(&self.me) || owner != Some(from) {
            return;
        }
        match &seat.role {
            Role::Holding { attempt, .. } if *attempt >= handle.attempt => {}
            Role::Idle
            | Role::Owner
            | Role::Leaving { .. }
            | Role::Released
            | Role::Holding { .. }
            | Role::Waiting { .. } => {
                self.effects.push(Effect::Silence(key.clone()));
                self.effects
                    .push(Effect::Duty(key.clone(), Duty::Hold, term));
                let role = Role::Holding {
                    attempt: handle.attempt,
                    until: now + HOLD_TIMEOUT,
                    go: None,
                };
                self.set_role(key, role);
            }
        }
        self.effects.push(Effect::Ack(from.clone(), handle));
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) {
        for key in self.index.due(now) {
            self.look(&key, true, now);
        }
    }

    /// Does what follows for an address. `same_tenure`: whether the owner and the epoch are those that
    /// the role is about.
    fn look(&mut self, key: &Key, same_tenure: bool, now: Instant) {
        self.follow(key, same_tenure, now);
        self.forget_passed(key, now);
        if let Some(seat) = self.seats.get_mut(key) {
            let after = seat.summary(&self.me);
            let before = std::mem::replace(&mut seat.entry, after);
            self.index.change(key, before, after);
        }
    }
}
