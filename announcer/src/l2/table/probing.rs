//! Addresses that nobody has answered for yet: asked for first, and then answered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use pnet_base::MacAddr;

use super::{Outcome, Packet, Sending, Table};
use crate::l2::arp::Arp;
use crate::l2::burst::Spot;
use crate::l2::conflict::Seer;
use crate::l2::hold::Held;
use crate::l2::ndp::Ndp;
use crate::l2::reply::{AddressDuty, Ignored};

impl Table {
    /// Whether [`Self::take_free`] has something.
    pub fn has_free(&self) -> bool {
        self.probes.has_free()
    }

    /// The addresses that proved to be free since the last call. Each is answered from
    /// [`Self::answer_free`] on.
    pub fn take_free(&mut self) -> BTreeSet<IpAddr> {
        self.probes.take_free()
    }

    /// Asks for those of these that are in `first`, or that are asked for on another interface. Gives
    /// the others.
    pub(super) fn probe_first(
        &mut self,
        spots: &[Spot],
        first: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> Vec<Spot> {
        let mut rest = Vec::new();
        for spot in spots {
            let is_answered = match self.duty(*spot) {
                Some(AddressDuty::Answer | AddressDuty::Record) => true,
                Some(AddressDuty::Hold | AddressDuty::Probe { .. }) | None => false,
            };
            let first = first.contains(&spot.address) || self.probes.has(spot.address);
            if is_answered || !first || !self.ports.contains_key(&spot.interface) {
                rest.push(*spot);
                continue;
            }
            self.assign(*spot, AddressDuty::Probe { noting: false }, now);
            self.probes.begin(*spot, now);
        }
        rest
    }

    /// When [`Self::due_probes`] has something.
    pub fn next_probe(&self) -> Option<Instant> {
        self.probes.next_deadline()
    }

    /// The questions that are due.
    pub fn due_probes(&mut self, now: Instant) -> Vec<Sending> {
        let spots = self.probes.due(now).into_iter();
        spots.filter_map(|spot| self.question(spot)).collect()
    }

    /// Answers these for the first time, as far as nobody has shown itself since they proved to be
    /// free. Gives those, and what was asked for them meanwhile is answered.
    pub fn answer_free(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> (BTreeSet<IpAddr>, Vec<Sending>) {
        let mut begun = BTreeSet::new();
        let mut answers = Vec::new();
        for address in addresses {
            let spots = self.probes.end(*address);
            if !spots.is_empty() {
                begun.insert(*address);
                answers.extend(self.answer_first(&spots, now));
            }
        }
        (begun, answers)
    }

    fn question(&self, spot: Spot) -> Option<Sending> {
        let mac = self.ports.get(&spot.interface)?.port.mac;
        let packet = match spot.address {
            IpAddr::V4(address) => Packet::Arp(Arp::probe(address, mac)),
            IpAddr::V6(address) => Packet::Ndp(Ndp::probe(address, mac)),
        };
        Some(Sending {
            interface: spot.interface,
            packet,
            counter: self.metrics.probes.clone(),
        })
    }

    fn answer_first(&mut self, spots: &[Spot], now: Instant) -> Vec<Sending> {
        for spot in spots {
            let duty = match self.duty(*spot) {
                Some(AddressDuty::Probe { noting: true }) => AddressDuty::Record,
                Some(_) | None => AddressDuty::Answer,
            };
            self.assign(*spot, duty, now);
            self.bursts.start(*spot, now);
        }
        let held = self.waiting.take_held_at(spots);
        self.answer_held(held)
    }

    /// A question for an address that may come to be answered in a moment.
    pub(super) fn keep(&mut self, held: Held) -> Outcome {
        let address = held.question.target;
        if self.probes.has(address) && !self.probes.is_near(address) {
            return Outcome::Ignored(Ignored::NotOwned);
        }
        self.waiting.hold(held);
        Outcome::Nothing
    }

    /// Another machine showed that it has an address that is asked for. The kernel of another node of
    /// the cluster keeps it from nobody.
    pub(super) fn found(
        &mut self,
        address: IpAddr,
        mac: MacAddr,
        by: Seer,
        now: Instant,
    ) -> Outcome {
        if self.conflicts.seen_while_probing(address, mac, by, now) {
            self.probes.hit(address, mac, now);
            self.waiting.take_held(std::iter::once(address));
        }
        Outcome::Conflict(Vec::new())
    }
}
