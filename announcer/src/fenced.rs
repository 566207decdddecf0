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
//! [`ACK_TIMEOUT`]; without the go the next one answers nothing that it holds: rather no answer
//! than two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pharos_lease::Term;

use crate::book::Key;
use crate::election::{Claim, GroupId, NodeName};
use crate::handover::{Duty, Gained, Message, UNLISTED_LIMIT};
use crate::l2::hold::Report;

#[cfg(test)]
mod tests;

/// How long an owner waits for the next one to hold questions.
pub const ACK_TIMEOUT: Duration = Duration::from_millis(300);
/// How often the owner asks it to.
const PREPARE_REPEAT: Duration = Duration::from_millis(50);
/// How long the next one waits, once it is named, for what the other answered.
const GO_TIMEOUT: Duration = Duration::from_millis(300);
/// How long the next one keeps questions without being named: nobody asks for so long.
const HOLD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node that drains waits for somebody to take what it owns.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What is told of a fenced address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Who may answer, and under which term.
    pub owner: Option<(NodeName, Term)>,
    pub epoch: u64,
    /// For whom the owner is to stop.
    pub next: Option<NodeName>,
    /// Whether this node is a candidate.
    pub candidate: bool,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// From now on do this about an address. To answer is allowed under this term only.
    Duty(Key, Duty, Term),
    /// Stop answering, and tell this node what was answered while recording.
    Release(Key, NodeName, Handle),
    /// Tell it again.
    RepeatGo(Key, NodeName, Handle),
    /// Ask this node to hold questions for the address.
    Prepare(NodeName, Handle),
    /// Tell this node that they are held.
    Ack(NodeName, Handle),
    /// Do nothing about an address any more.
    Silence(Key),
    /// This node is the owner now, under this epoch.
    Gained(Key, u64, Gained),
    Lost(Key, Lost),
}

/// Why a node is not the owner of a fenced address any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It made room for another.
    Released,
    /// It is no candidate any more, and nobody took it within [`UNLISTED_LIMIT`].
    Unlisted,
    /// Its lease was not renewed in time.
    LeaseOver,
    /// There is nothing to announce any more, or another is named.
    Removed,
}

/// An attempt to hand a tenure over, as the nodes of a cluster talk of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle {
    /// Of the tenure.
    pub id: GroupId,
    /// The how-manieth attempt.
    pub attempt: Claim,
}

/// The name of a tenure among the nodes of a cluster.
fn tenure_id(key: &Key, term: Term, epoch: u64) -> GroupId {
    let text = format!("{}\0{}\0{}\0{epoch}", key.space, key.address, term.0);
    GroupId(pharos_proto::digest::node_set_id([text.as_str()]))
}

/// A tenure that this node has ended, as ipam-service is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Released {
    pub key: Key,
    pub term: Term,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    Idle,
    Owner,
    Leaving {
        to: NodeName,
        until: Instant,
        repeat_at: Instant,
    },
    /// It has stopped, for good as far as this epoch is concerned.
    Released {
        to: Option<NodeName>,
    },
    /// It is the next one, and was asked to hold questions.
    Holding {
        attempt: Claim,
        until: Instant,
        go: Option<(NodeName, Report)>,
    },
    /// It is named, and does not know yet what the former owner answered.
    Waiting {
        attempt: Claim,
        until: Instant,
    },
}

#[derive(Debug)]
struct Seat {
    told: Told,
    role: Role,
    /// The tenure that other nodes may talk of: of this node, or of the owner that it follows.
    id: Option<GroupId>,
    /// Attempts of this node to hand it over.
    attempts: u64,
    /// Another node that was told of as the owner since this one was last.
    other: Option<NodeName>,
    /// Since when this node answers without being a candidate.
    unlisted_since: Option<Instant>,
}

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

    /// Whether this node needs a lease: it may own one of the addresses.
    pub fn needs_lease(&self) -> bool {
        let mut seats = self.seats.values();
        seats.any(|seat| {
            let owner = seat.told.owner.as_ref();
            seat.told.candidate || owner.is_some_and(|(node, _)| *node == self.me)
        })
    }

    /// Whether it answers for an address of which it is no candidate.
    pub fn answers_unlisted(&self) -> bool {
        let mut seats = self.seats.values();
        seats.any(|seat| !seat.told.candidate && seat.answers())
    }

    /// Whether it answers for nothing.
    pub fn answers_nothing(&self) -> bool {
        !self.seats.values().any(Seat::answers)
    }

    /// The tenures that ipam-service is to be told of as ended.
    pub fn released(&self) -> BTreeSet<Released> {
        let released = self.seats.iter().filter_map(|(key, seat)| match seat.role {
            Role::Released { .. } => Some(Released {
                key: key.clone(),
                term: seat.told.owner.as_ref()?.1,
                epoch: seat.told.epoch,
            }),
            Role::Idle
            | Role::Owner
            | Role::Leaving { .. }
            | Role::Holding { .. }
            | Role::Waiting { .. } => None,
        });
        released.collect()
    }

    /// When [`Self::tick`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.seats.values().filter_map(Seat::deadline).min()
    }

    /// An address is fenced, or something new is told of it.
    pub fn set(&mut self, key: Key, told: Told, now: Instant) {
        let seat = self.seats.entry(key.clone()).or_insert_with(|| Seat {
            told: Told::default(),
            role: Role::Idle,
            id: None,
            attempts: 0,
            other: None,
            unlisted_since: None,
        });
        match &told.owner {
            Some((owner, _)) if *owner != self.me => seat.other = Some(owner.clone()),
            Some(_) | None => {}
        }
        let has_ended = told.owner.as_ref().is_some_and(|(owner, term)| {
            *owner == self.me && self.ended.get(&key) == Some(&(*term, told.epoch))
        });
        if has_ended && !matches!(seat.role, Role::Released { .. }) {
            seat.role = Role::Released { to: None };
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
        match seat.role {
            Role::Owner | Role::Leaving { .. } => {
                self.effects.push(Effect::Silence(key.clone()));
                self.effects.push(Effect::Lost(key.clone(), Lost::Removed));
            }
            Role::Holding { .. } | Role::Waiting { .. } => {
                self.effects.push(Effect::Silence(key.clone()));
            }
            Role::Idle | Role::Released { .. } => {}
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
        let current = Claim(seat.attempts);
        match (message, &mut seat.role) {
            (Message::Prepare(attempt), Role::Idle | Role::Holding { .. }) => {
                self.on_prepare(&key, from, Handle { id, attempt }, now);
            }
            (Message::Ack(attempt), Role::Leaving { to, .. })
                if to == from && attempt == current =>
            {
                self.release(&key);
            }
            (Message::Ack(attempt), Role::Released { to })
                if to.as_ref() == Some(from) && attempt == current =>
            {
                let handle = Handle { id, attempt };
                self.effects
                    .push(Effect::RepeatGo(key.clone(), from.clone(), handle));
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
                | Role::Released { .. }
                | Role::Holding { .. }
                | Role::Waiting { .. },
            ) => {}
        }
        self.look(&key, true, now);
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
            | Role::Released { .. }
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
        let due = |(key, seat): (&Key, &Seat)| {
            let due = seat.deadline().is_some_and(|at| at <= now);
            due.then(|| key.clone())
        };
        for key in self.seats.iter().filter_map(due).collect::<Vec<_>>() {
            self.look(&key, true, now);
        }
    }

    /// Does what follows for an address. `same_tenure`: whether the owner and the epoch are those that
    /// the role is about.
    fn look(&mut self, key: &Key, same_tenure: bool, now: Instant) {
        let Some(seat) = self.seats.get(key) else {
            return;
        };
        let mine = seat.told.is_of(&self.me, self.term);
        let next = seat.told.next.clone();
        let is_next = self.term.is_some() && next.as_ref() == Some(&self.me);
        match (seat.role.clone(), mine) {
            // It may have said so already: never again under this epoch.
            (Role::Released { .. }, _) if same_tenure => {}
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
            (Role::Idle | Role::Released { .. } | Role::Owner | Role::Leaving { .. }, true) => {
                self.own(key, Report::default(), None);
                self.look_owning(key, next, now);
            }
            (Role::Idle | Role::Released { .. }, false) => self.look_idle(key, is_next),
            (Role::Holding { attempt, go, .. }, true) => match go {
                Some((from, report)) => {
                    self.own(key, report, Some(from));
                    self.look_owning(key, next, now);
                }
                None => {
                    let until = now + GO_TIMEOUT;
                    self.set_role(key, Role::Waiting { attempt, until });
                }
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
            (Role::Waiting { .. }, true) => {}
            (Role::Waiting { .. }, false) => {
                self.stop(key);
                self.look_idle(key, is_next);
            }
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
            self.end(key, None);
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
                    self.release(key);
                } else if now >= *repeat_at {
                    self.prepare(key, next, *until, now);
                }
            }
            (Role::Owner | Role::Leaving { .. }, Some(to)) => {
                // Before the other one begins to hold; whatever was noted for an earlier attempt.
                self.effects
                    .push(Effect::Duty(key.clone(), Duty::Record, term));
                if let Some(seat) = self.seats.get_mut(key) {
                    seat.attempts += 1;
                }
                self.prepare(key, to, now + ACK_TIMEOUT, now);
            }
            (Role::Owner, None)
            | (
                Role::Idle | Role::Released { .. } | Role::Holding { .. } | Role::Waiting { .. },
                _,
            ) => {}
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
    fn end(&mut self, key: &Key, to: Option<NodeName>) {
        let Some(seat) = self.seats.get_mut(key) else {
            return;
        };
        if let Some((_, term)) = &seat.told.owner {
            self.ended.insert(key.clone(), (*term, seat.told.epoch));
        }
        seat.unlisted_since = None;
        seat.role = Role::Released { to };
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
            attempt: Claim(seat.attempts),
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

    fn own(&mut self, key: &Key, report: Report, from: Option<NodeName>) {
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
        seat.attempts = 0;
        self.talk_of(key, Some(tenure_id(key, term, epoch)));
        let answer = Duty::Answer(report);
        self.effects.push(Effect::Duty(key.clone(), answer, term));
        self.effects.push(Effect::Gained(key.clone(), epoch, why));
    }

    fn release(&mut self, key: &Key) {
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
        self.end(key, Some(to));
    }

    fn stop(&mut self, key: &Key) {
        self.effects.push(Effect::Silence(key.clone()));
        self.talk_of(key, None);
        self.set_role(key, Role::Idle);
    }

    fn talk_of(&mut self, key: &Key, id: Option<GroupId>) {
        let Some(seat) = self.seats.get_mut(key) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut seat.id, id) {
            self.ids.remove(&before);
        }
        if let Some(id) = id {
            self.ids.insert(id, key.clone());
        }
    }

    fn set_role(&mut self, key: &Key, role: Role) {
        if let Some(seat) = self.seats.get_mut(key) {
            seat.role = role;
        }
    }
}

impl Told {
    fn is_of(&self, node: &NodeName, term: Option<Term>) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|(owner, of)| owner == node && Some(*of) == term)
    }
}

impl Seat {
    fn answers(&self) -> bool {
        match self.role {
            Role::Owner | Role::Leaving { .. } => true,
            Role::Idle | Role::Released { .. } | Role::Holding { .. } | Role::Waiting { .. } => {
                false
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let unlisted = self.unlisted_since.filter(|_| self.answers());
        let unlisted = unlisted.map(|since| since + UNLISTED_LIMIT);
        self.own_deadline().into_iter().chain(unlisted).min()
    }

    fn own_deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Leaving {
                until, repeat_at, ..
            } => Some(*until.min(repeat_at)),
            Role::Holding { until, .. } | Role::Waiting { until, .. } => Some(*until),
            Role::Idle | Role::Owner | Role::Released { .. } => None,
        }
    }
}
