//! A frame that arrived, and what follows from it.

use std::net::IpAddr;
use std::time::Instant;

use pnet_base::MacAddr;

use super::{OpenPort, Outcome, Packet, Place, Protocol, Sending, Table};
use crate::l2::arp::Arp;
use crate::l2::burst::{Gratuitous, Spot};
use crate::l2::check::Checks;
use crate::l2::conflict::Seer;
use crate::l2::hold::{Held, Noted};
use crate::l2::ndp::Ndp;
use crate::l2::question::Question;
use crate::l2::reply::{self, Decision, Ignored};

impl Table {
    /// A frame of a protocol arrived at an interface, `at` that time.
    pub fn on_frame(
        &mut self,
        (interface, protocol): Place,
        frame: &[u8],
        at: Instant,
        now: Instant,
    ) -> Outcome {
        let Some(open) = self.ports.get(&interface) else {
            return Outcome::Nothing;
        };
        if !self.freshness.allows(at, now) {
            return match self.decide(open, protocol, frame) {
                // Too late to be answered, and as true as before.
                Decision::Conflict(address, other) if self.probes.has(address) => {
                    self.on_conflict(Spot { interface, address }, other, now)
                }
                Decision::Conflict(..)
                | Decision::Answer(..)
                | Decision::Hold(_)
                | Decision::Ignore(_) => Outcome::Ignored(Ignored::Stale),
            };
        }
        match self.decide(open, protocol, frame) {
            Decision::Answer(question, note) => {
                let everybody = frame.first().is_some_and(|first| first & 1 == 1);
                self.on_question(interface, Noted { at, question }, (note, everybody), now)
            }
            Decision::Hold(question) => {
                let held = Held {
                    at,
                    interface,
                    question,
                };
                self.on_early_question(held, now)
            }
            Decision::Conflict(address, other) => {
                self.on_conflict(Spot { interface, address }, other, now)
            }
            Decision::Ignore(reason) => Outcome::Ignored(reason),
        }
    }

    fn decide(&self, open: &OpenPort, protocol: Protocol, frame: &[u8]) -> Decision {
        let is_own = |mac| self.is_own(mac);
        let mac = open.port.mac;
        match protocol {
            Protocol::Arp => {
                reply::decide(frame, mac, is_own, |address| open.duty(IpAddr::V4(address)))
            }
            Protocol::Ndp => {
                reply::ndp::decide(frame, mac, is_own, |address| open.duty(IpAddr::V6(address)))
            }
        }
    }

    fn is_own(&self, mac: MacAddr) -> bool {
        self.ports.values().any(|own| own.port.mac == mac)
    }

    /// For an address of this node; to be noted or not, and asked of everybody or of this node.
    fn on_question(
        &mut self,
        interface: u32,
        asked: Noted,
        (note, everybody): (bool, bool),
        now: Instant,
    ) -> Outcome {
        let question = asked.question;
        if !self.fences.permits(question.target) {
            return Outcome::Ignored(Ignored::NoLease);
        }
        if !self.limits.allows(&question, now) {
            return Outcome::Ignored(Ignored::TooOften);
        }
        self.count_request(interface, question.target);
        self.recent.push(asked);
        if note {
            self.waiting.note(asked);
        }
        let Some(reply) = self.reply(interface, &question) else {
            return Outcome::Nothing;
        };
        let check = (everybody && !self.is_own(question.asker))
            .then(|| self.check(interface, question.target, now));
        match check.flatten() {
            Some(check) => Outcome::SendAndCheck(reply, check),
            None => Outcome::Send(reply),
        }
    }

    /// Answers to questions that waited. Like others, they are told to whoever is next.
    pub(super) fn answer_held(&mut self, held: Vec<Held>) -> Vec<Sending> {
        let mut answers = Vec::new();
        for Held {
            at,
            interface,
            question,
        } in held
        {
            let Some(reply) = self.reply(interface, &question) else {
                continue;
            };
            answers.push(reply);
            self.recent.push(Noted { at, question });
            let address = question.target;
            if self.is_noted(Spot { interface, address }) {
                self.waiting.note(Noted { at, question });
            }
        }
        answers
    }

    /// For an address that is not answered here yet.
    fn on_early_question(&mut self, held: Held, now: Instant) -> Outcome {
        // Whoever floods leaves the places to others.
        if !self.held_limits.allows(&held.question, now) {
            return Outcome::Ignored(Ignored::TooOften);
        }
        self.count_request(held.interface, held.question.target);
        self.keep(held)
    }

    /// Another machine uses an address of this node.
    fn on_conflict(&mut self, spot: Spot, other: MacAddr, now: Instant) -> Outcome {
        let Spot { interface, address } = spot;
        let Some(open) = self.ports.get(&interface) else {
            return Outcome::Nothing;
        };
        if !self.fences.permits(address) {
            return Outcome::Ignored(Ignored::NoLease);
        }
        let by = Seer::from(&open.port);
        if self.probes.has(address) {
            return self.found(address, other, by, now);
        }
        let is_settled = open
            .duties
            .get(&address)
            .is_some_and(|entry| Checks::is_settled(entry.since, now));
        let defend = is_settled && self.conflicts.seen(address, other, by, now);
        Outcome::Conflict(match defend {
            true => self.announcement(spot),
            false => Vec::new(),
        })
    }

    /// One round, out of turn.
    fn announcement(&self, spot: Spot) -> Vec<Sending> {
        let forms = spot.forms().iter();
        let frames = forms.map(|form| Gratuitous { spot, form: *form });
        frames.filter_map(|frame| self.gratuitous(&frame)).collect()
    }

    pub(super) fn reply(&self, interface: u32, question: &Question) -> Option<Sending> {
        let open = self.ports.get(&interface)?;
        let entry = open.duties.get(&question.target)?;
        if !self.fences.permits(question.target) {
            return None;
        }
        let packet = match (question.target, question.from) {
            (IpAddr::V4(target), IpAddr::V4(from)) => {
                Packet::Arp(Arp::answer((question.asker, from), target, open.port.mac))
            }
            (IpAddr::V6(target), IpAddr::V6(from)) => {
                Packet::Ndp(Ndp::answer((question.asker, from), target, open.port.mac))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        Some(Sending {
            interface,
            packet,
            counter: entry.counters.responses.clone(),
        })
    }

    fn count_request(&self, interface: u32, address: IpAddr) {
        let open = self.ports.get(&interface);
        if let Some(entry) = open.and_then(|open| open.duties.get(&address)) {
            entry.counters.requests.inc();
        }
    }
}
