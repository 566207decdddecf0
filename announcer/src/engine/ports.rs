//! The interfaces that answer: what changed about them, and what follows.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Instant;

use super::{Engine, RETRY};
use crate::bind;
use crate::election::GroupId;
use crate::l2::burst::Spot;
use crate::l2::responder::Port;
use crate::links::table::Uplink;

/// Names of interfaces that are remembered: more than any node has. What is forgotten costs a
/// hold-down that is not declared.
const REMEMBERED: usize = 1024;

/// The interfaces as the engine was told of them last.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    told: Vec<Uplink>,
    /// When those that could not be opened are tried again.
    pub(super) again: Option<Instant>,
    /// Names of those.
    failed: BTreeSet<String>,
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
}

impl Uplinks {
    fn news(&self, uplinks: &[Uplink]) -> News {
        let mut news = News::default();
        for uplink in uplinks {
            let is_same = |known: &&Uplink| known.port.is_same(&uplink.port);
            let known = self.told.iter().find(is_same);
            let Some(known) = known else { continue };
            let index = uplink.port.index;
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
        for group in self.applied.keys().copied().collect::<Vec<GroupId>>() {
            self.reapply(group);
        }
        self.announce_on(&news.turned);
    }

    /// Tries those again that could not be opened.
    pub(super) fn open_again(&mut self, now: Instant) {
        self.open_ports(now);
        for group in self.applied.keys().copied().collect::<Vec<GroupId>>() {
            self.reapply(group);
        }
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
        let opened: Vec<Port> = ports
            .into_iter()
            .filter(|port| !failed.iter().any(|(bad, _)| bad == port))
            .collect();
        let names: BTreeSet<String> = opened.iter().map(|port| port.name.clone()).collect();
        if names != self.own.interfaces {
            tracing::info!(interfaces = ?names, "usable interfaces changed");
            for name in names.difference(&self.own.interfaces) {
                if self.binder.is_some() {
                    bind::warn_of_answering_kernel(name);
                }
            }
        }
        if self.uplinks.comes_back(&self.own.interfaces, &names) && !self.hold_down.is_zero() {
            self.own.hold_down = true;
            self.hold_down_until = Some(now + self.hold_down);
        }
        if !names.is_empty() {
            self.readiness.ready("interfaces");
        } else if let Some((port, error)) = failed.first() {
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
        self.own.interfaces = names;
        self.plan.set_ports(opened);
        self.note_link_local();
    }

    /// Each once: they are tried again every second.
    fn tell_failed(&mut self, failed: &[(Port, std::io::Error)]) {
        let names: BTreeSet<String> = failed.iter().map(|(port, _)| port.name.clone()).collect();
        let before = std::mem::replace(&mut self.uplinks.failed, names);
        for (port, error) in failed {
            if !before.contains(&port.name) {
                tracing::error!(interface = port.name, %error, "cannot answer on an interface");
            }
        }
    }

    fn announce_on(&self, interfaces: &BTreeSet<u32>) {
        if interfaces.is_empty() {
            return;
        }
        let spots = self
            .applied
            .values()
            .flat_map(super::effects::Applied::spots);
        let there: Vec<Spot> = spots
            .filter(|spot| interfaces.contains(&spot.interface))
            .copied()
            .collect();
        tracing::info!(
            addresses = there.len(),
            "announcing again: switches may have forgotten"
        );
        self.responder.announce(&there);
    }
}

#[cfg(test)]
mod tests;
