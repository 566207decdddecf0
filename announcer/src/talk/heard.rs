//! What was heard and waits to be followed, in the order in which it arrived: the membership protocol answers
//! at once, whatever this node is busy with, and everything else has to wait. So does time.

use std::time::Instant;

use super::{Sendings, Talk};
use crate::members::Peer;
use crate::members::swim;
use crate::members::wire::{Body, Greeting};

/// Datagrams that are heard and wait to be followed at most; more are lost, as any may be.
const HEARD_LIMIT: usize = 4096;

/// What was heard, until it is followed.
#[derive(Debug)]
pub(super) struct Waiting {
    /// When it arrived.
    at: Instant,
    /// The same by [`Talk::time`].
    then: Instant,
    heard: Heard,
}

/// Something that is to be followed.
#[derive(Debug)]
enum Heard {
    /// The membership protocol says so.
    Member(swim::Event),
    /// A node said so.
    Said(Body),
}

impl Talk {
    /// The time of all limits but those of leases and of the membership protocol. It stands still at the
    /// arrival of what waits to be followed, which may be what was waited for; from then on it is behind by as
    /// much as this node was busy.
    pub fn time(&mut self, now: Instant) -> Instant {
        let mut time = now.checked_sub(self.lag).unwrap_or(now);
        if let Some(first) = self.heard.front()
            && first.then < time
        {
            self.lag += time - first.then;
            time = first.then;
        }
        self.latest = self.latest.max(time);
        self.latest
    }

    /// A datagram that arrived at `at` is read now. To be called also while effects are being performed: it
    /// changes nothing but the membership protocol before [`Self::follow`]. Gives what is to be answered at
    /// once, whatever this node is busy with: one that does not say for long enough that it lives is taken for
    /// dead.
    pub fn hear(&mut self, body: Body, at: Instant, now: Instant) -> Sendings {
        let answers = match &body {
            Body::Swim(bytes) => {
                let events = self.swim.receive(bytes, now);
                return self.keep(events, at);
            }
            Body::Hello(greeting) | Body::Ask(greeting) => {
                let (peer, mut answers) = self.meet(greeting, (at, now));
                let welcome = |talk: &Self, node| Body::Welcome(talk.greeting(node)).into();
                if let Some(namesake) = self.namesake_in(greeting) {
                    // So that it learns of this one as well.
                    answers.push((namesake, welcome(self, None)));
                }
                if let Some(peer) = peer {
                    answers.push((peer.endpoint, welcome(self, Some(&peer.node))));
                }
                answers
            }
            Body::Welcome(greeting) => self.meet(greeting, (at, now)).1,
            Body::State(_)
            | Body::Relayed(_)
            | Body::Delta(_)
            | Body::AskAbout(_)
            | Body::Handover(_) => Vec::new(),
        };
        if self.heard.len() < HEARD_LIMIT {
            self.wait(at, Heard::Said(body));
        }
        answers
    }

    fn wait(&mut self, at: Instant, heard: Heard) {
        let then = at.checked_sub(self.lag).unwrap_or(at).max(self.latest);
        self.heard.push_back(Waiting { at, then, heard });
    }

    /// Who made itself known is a member from now on, unless it is this node itself or nonsense.
    fn meet(
        &mut self,
        greeting: &Greeting,
        (at, now): (Instant, Instant),
    ) -> (Option<Peer>, Sendings) {
        let Some(peer) = self.sender_of(greeting) else {
            return (None, Vec::new());
        };
        let mut answers = Vec::new();
        if greeting.dead_epoch >= self.me().epoch {
            let events = self.swim.outlive(greeting.dead_epoch, now);
            answers.extend(self.keep(events, at));
            let hello = Body::Hello(self.greeting(Some(&peer.node)));
            answers.push((peer.endpoint, hello.into()));
        }
        let events = self.swim.introduce(peer.clone(), now);
        answers.extend(self.keep(events, at));
        (Some(peer), answers)
    }

    /// Everything that the membership protocol says is followed in the order in which it was said, whatever
    /// brought it about. Gives what is to be sent at once.
    pub(super) fn keep(&mut self, events: Vec<swim::Event>, at: Instant) -> Sendings {
        let mut answers = Vec::new();
        for event in events {
            match event {
                swim::Event::Send(to, bytes) => {
                    answers.push((to.endpoint, Body::Swim(bytes).into()));
                }
                swim::Event::Renewed(epoch) => {
                    // Whatever is said from now on is said under it, and everybody is told first.
                    self.own_report.renew(epoch);
                    answers.extend(self.greetings());
                    self.wait(at, Heard::Member(event));
                }
                // It is gossiped again.
                swim::Event::News { .. } if self.heard.len() >= HEARD_LIMIT => {}
                swim::Event::Up(_) | swim::Event::Down(_) | swim::Event::News { .. } => {
                    self.wait(at, Heard::Member(event));
                }
            }
        }
        answers
    }

    /// As [`Self::keep`], where nobody waits for an answer.
    pub(super) fn keep_and_send(&mut self, events: Vec<swim::Event>, now: Instant) {
        let sendings = self.keep(events, now);
        self.unsent.extend(sendings);
    }

    /// Whether something was heard and not followed yet.
    pub fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Does what follows from the first that was heard; tells whether there was anything.
    pub fn follow(&mut self, now: Instant) -> bool {
        self.time(now);
        let Some(Waiting { at, heard, .. }) = self.heard.pop_front() else {
            return false;
        };
        match heard {
            Heard::Member(event) => self.on_swim(event, now),
            Heard::Said(body) => self.on_said(body, at, now),
        }
        true
    }
}
