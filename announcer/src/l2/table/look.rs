//! Asking for addresses of ours: who else answers?

use std::net::IpAddr;
use std::time::Instant;

use super::{Packet, Sending, Table};
use crate::l2::arp::Arp;
use crate::l2::ndp::Ndp;
use crate::l2::reply::AddressDuty;

impl Table {
    /// A question for an address of ours, if it is time for one: another machine that has it answers.
    pub(super) fn check(
        &mut self,
        interface: u32,
        address: IpAddr,
        now: Instant,
    ) -> Option<Sending> {
        let open = self.ports.get_mut(&interface)?;
        let (mac, link_local) = (open.port.mac, open.port.link_local);
        let entry = open.duties.get_mut(&address)?;
        match entry.duty {
            AddressDuty::Answer | AddressDuty::Probe { .. } => {}
            AddressDuty::Hold | AddressDuty::Record => return None,
        }
        if !self.checks.is_due(entry.since, entry.checked, now) {
            return None;
        }
        entry.checked = Some(now);
        let packet = match address {
            IpAddr::V4(address) => Packet::Arp(Arp::probe(address, mac)),
            IpAddr::V6(address) => Packet::Ndp(Ndp::question(address, mac, link_local?)),
        };
        Some(Sending {
            interface,
            packet,
            counter: self.metrics.conflict_checks.clone(),
        })
    }

    /// When [`Self::look_again`] has something.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let look = self.conflicts.next_look()?;
        Some(look.max(self.checks.next()))
    }

    /// Questions to machines that are known to use addresses of ours: a conflict is over only when
    /// they do not any more, not when nobody asked for a while.
    pub(super) fn look_again(&mut self, now: Instant) -> Vec<Sending> {
        let mut looks = Vec::new();
        while self.checks.next() <= now {
            let Some(spot) = self.conflicts.take_look(now) else {
                break;
            };
            if self.fences.permits(spot.address) {
                looks.extend(self.check(spot.interface, spot.address, now));
            }
        }
        looks
    }
}
