//! The interfaces that answer: what changed about them, and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::effects::Applied;
use super::{Engine, RETRY};
use crate::bind;
use crate::election::GroupId;
use crate::l2::burst::Spot;
use crate::l2::sockets::Failure;
use crate::l2::table::{Port, Protocol};
use crate::links::table::Uplink;

/// Names of interfaces that are remembered: more than any node has. What is forgotten costs a
/// hold-down that is not declared.
const REMEMBERED: usize = 1024;

/// A link that came up is announced on once more after so long: the port at its other end may
/// forward nothing for the first moments, and the next round is a second away.
const OTHER_END: Duration = Duration::from_millis(50);

/// The interfaces as the engine was told of them last.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    told: Vec<Uplink>,
    /// There was a first list.
    begun: bool,
    /// When those that could not be opened are tried again.
    again: Option<Instant>,
    /// Those, by name, and why.
    failed: BTreeMap<(String, Protocol), String>,
    /// Interfaces of which the other end may not be ready yet, and until when.
    came_up: BTreeSet<u32>,
    ready: Option<Instant>,
    /// Names of all that could answer since the start.
    served: BTreeSet<String>,
}

/// What changed about interfaces that look the same.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// Another interface has the index.
    replaced: BTreeSet<u32>,
    /// Switches may have forgotten where it is.
    turned: BTreeSet<u32>,
    /// It was not there before.
    new: BTreeSet<u32>,
}

impl Uplinks {
    /// When [`Engine::tick_uplinks`] is to be called.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.again, self.ready].into_iter().flatten().min()
    }

    /// What cannot be answered for now, for people.
    pub(super) fn deaf(&self) -> Vec<String> {
        let failed = self.failed.iter();
        let lines = failed.map(|((interface, protocol), error)| {
            format!("{interface} answers no {}: {error}", protocol.label())
        });
        lines.collect()
    }

    fn news(&self, uplinks: &[Uplink]) -> News {
        let mut news = News::default();
        for uplink in uplinks {
            let is_same = |known: &&Uplink| known.port.is_same(&uplink.port);
            let known = self.told.iter().find(is_same);
            let index = uplink.port.index;
            let Some(known) = known else {
                news.new.insert(index);
                continue;
            };
            if known.life != uplink.life {
                news.replaced.insert(index);
            } else if known.turns != uplink.turns {
                news.turned.insert(index);
            }
        }
        news
    }

    /// Whether this node comes back with these: it had none, or one of them answered before and was
    /// gone. An interface that is only new says nothing of the others.
    fn comes_back(&mut self, before: &BTreeSet<String>, names: &BTreeSet<String>) -> bool {
        let mut new = names.difference(before);
        let comes_back = match before.is_empty() {
            true => !names.is_empty(),
            false => new.any(|name| self.served.contains(name)),
        };
        for name in names {
            if self.served.len() < REMEMBERED {
                self.served.insert(name.clone());
            }
        }
        comes_back
    }
}

impl Engine {
    /// Answers on exactly these interfaces.
    pub(super) fn on_uplinks(&mut self, uplinks: Vec<Uplink>, now: Instant) {
        let news = self.uplinks.news(&uplinks);
        self.uplinks.told = uplinks;
        if !news.replaced.is_empty() {
            // Their sockets belong to interfaces that are gone.
            let ports = self.ports(|port| !news.replaced.contains(&port.index));
            self.responder.set_ports(&ports);
        }
        self.open_ports(now);
        self.reapply_all();
        self.announce_on(&news.turned, |_| true);
        // The first list has those that were there before this program.
        if std::mem::replace(&mut self.uplinks.begun, true) {
            self.uplinks.came_up.extend(&news.replaced);
            self.uplinks.came_up.extend(&news.turned);
            self.uplinks.came_up.extend(&news.new);
        }
        if !self.uplinks.came_up.is_empty() {
            self.uplinks.ready = Some(now + OTHER_END);
        }
    }

    /// Does what time has come for.
    pub(super) fn tick_uplinks(&mut self, now: Instant) {
        if self.uplinks.again.is_some_and(|at| at <= now) {
            self.open_ports(now);
            self.reapply_all();
        }
        if self.uplinks.ready.take_if(|at| *at <= now).is_some() {
            let came_up = std::mem::take(&mut self.uplinks.came_up);
            // IPv6 begins later, and its advertisements are to be a second apart (RFC 4861, 7.2.6).
            self.announce_on(&came_up, IpAddr::is_ipv4);
        }
    }

    fn reapply_all(&mut self) {
        for group in self.applied.keys().copied().collect::<Vec<GroupId>>() {
            self.reapply(group);
            self.breathe();
        }
        self.reapply_fenced();
    }

    fn ports(&self, chosen: impl Fn(&Port) -> bool) -> Vec<Port> {
        let told = self.uplinks.told.iter().map(|uplink| &uplink.port);
        told.filter(|port| chosen(port)).cloned().collect()
    }

    fn open_ports(&mut self, now: Instant) {
        let ports = self.ports(|_| true);
        let failed = self.responder.set_ports(&ports);
        self.tell_failed(&failed);
        self.uplinks.again = (!failed.is_empty()).then(|| now + RETRY);
        let deaf = failed
            .iter()
            .map(|failed| (failed.port.index, failed.protocol));
        self.plan.set_ports(ports.clone(), deaf.collect());
        self.note_link_local();
        let before = self.own.answering();
        self.own.interfaces = self.plan.names_that_speak(Protocol::Arp);
        self.own.interfaces6 = self.plan.names_that_speak(Protocol::Ndp);
        self.own.macs = ports.iter().map(|port| port.mac).collect();
        let names = self.own.answering();
        if names != before {
            tracing::info!(interfaces = ?names, "usable interfaces changed");
            for name in names.difference(&before) {
                if self.binder.is_some() {
                    bind::warn_of_answering_kernel(name);
                }
            }
        }
        if self.uplinks.comes_back(&before, &names) && !self.hold_down.is_zero() {
            self.hold_down_until = Some(now + self.hold_down);
        }
        if !names.is_empty() {
            self.readiness.ready("interfaces");
        } else if let Some(Failure { port, error, .. }) = failed.first() {
            let name = &port.name;
            let reason = if error.kind() == ErrorKind::PermissionDenied {
                format!("{name}: needs the capability NET_RAW")
            } else {
                format!("{name}: {error}")
            };
            self.readiness.not_ready("interfaces", reason);
        } else {
            self.readiness.not_ready("interfaces", "none is usable");
        }
    }

    /// Each once in the log: they are tried again every second.
    fn tell_failed(&mut self, failed: &[Failure]) {
        let now = failed.iter().map(|failed| {
            let key = (failed.port.name.clone(), failed.protocol);
            (key, failed.error.to_string())
        });
        let before = std::mem::replace(&mut self.uplinks.failed, now.collect());
        for ((interface, protocol), error) in &self.uplinks.failed {
            if !before.contains_key(&(interface.clone(), *protocol)) {
                let protocol = protocol.label();
                tracing::error!(interface, protocol, error, "cannot answer on an interface");
            }
        }
        self.metrics.set_deaf(self.uplinks.failed.keys());
        match self.uplinks.deaf().as_slice() {
            [] => self.readiness.clear_note("sockets"),
            deaf => self.readiness.note("sockets", deaf.join(", ")),
        }
    }

    fn announce_on(&self, interfaces: &BTreeSet<u32>, chosen: impl Fn(&IpAddr) -> bool) {
        let spots = self.applied.values().flat_map(Applied::spots);
        let spots = spots.chain(self.fence.spots());
        let there: Vec<Spot> = spots
            .filter(|spot| interfaces.contains(&spot.interface) && chosen(&spot.address))
            .copied()
            .collect();
        if !there.is_empty() {
            let addresses = there.len();
            tracing::info!(addresses, "announcing again: a link came up");
            self.responder.announce(&there);
        }
    }
}

#[cfg(test)]
mod tests;
