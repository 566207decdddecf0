//! Other machines that use an address of this node (RFC 5227, RFC 4862): who is told, and when the
//! address is defended.
//!
//! Pure. A conflict takes nothing away: the owner goes on answering. The kernel of another node of the
//! cluster is told apart: it answers because the address is on one of its interfaces, as kube-proxy
//! puts it there, and is never defended against.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pnet_base::MacAddr;

use super::burst::Spot;

#[cfg(test)]
mod tests;

/// An address is defended at most once in this time (RFC 5227 section 1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// Who has not been seen for so long is no conflict any more.
const OVER: Duration = Duration::from_secs(10);
/// Where nobody asks, the other machine says nothing: it is asked, more than once before it is over.
const LOOK: Duration = Duration::from_secs(3);
/// A conflict that goes on is told again.
const AGAIN: Duration = Duration::from_secs(60);
/// Two nodes that both own an address settle that within a second of hearing each other. What another
/// node answers for longer, its kernel answers.
const MEMBER_PATIENCE: Duration = Duration::from_secs(5);
/// Conflicts that are watched, wait to be reported, and have metric series; more are not told of.
pub const LIMIT: usize = 256;

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nobody's of this cluster.
    Foreign,
    /// Another node of this cluster.
    KernelAnswers,
}

impl Kind {
    /// As a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::KernelAnswers => "kernel_answers",
        }
    }
}

/// A machine that uses an address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conflict {
    pub address: IpAddr,
    /// Of the machine.
    pub mac: MacAddr,
    /// Of the interface that saw it first.
    pub own_mac: MacAddr,
    pub kind: Kind,
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It was seen for the first time.
    Begun(Conflict),
    /// It goes on.
    GoesOn(Conflict),
    /// It has not been seen for a while, or the address is not ours any more.
    Over(Conflict),
}

/// All conflicts of this node.
#[derive(Debug, Default)]
pub struct Conflicts {
    members: BTreeSet<MacAddr>,
    watched: BTreeMap<(IpAddr, MacAddr), Watched>,
    /// When each address was defended last.
    defended: BTreeMap<IpAddr, Instant>,
    news: Vec<News>,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    conflict: Conflict,
    /// Index of the interface that saw it last.
    interface: u32,
    first: Instant,
    last: Instant,
    /// When the machine is to be asked whether it is still there, if it says nothing by itself.
    look: Instant,
    /// When it was told last.
    told: Option<Instant>,
}

impl Conflicts {
    /// The hardware addresses of the other nodes of the cluster.
    pub fn set_members(&mut self, members: BTreeSet<MacAddr>) {
        self.members = members;
    }

    /// A machine used an address of ours; says whether the address is to be defended now.
    pub fn seen(&mut self, spot: Spot, mac: MacAddr, own_mac: MacAddr, now: Instant) -> bool {
        let kind = match self.members.contains(&mac) {
            true => Kind::KernelAnswers,
            false => Kind::Foreign,
        };
        let conflict = Conflict {
            address: spot.address,
            mac,
            own_mac,
            kind,
        };
        self.watch(conflict, spot.interface, now);
        match kind {
            Kind::KernelAnswers => false,
            Kind::Foreign => self.defend(spot.address, now),
        }
    }

    fn watch(&mut self, seen: Conflict, interface: u32, now: Instant) {
        let key = (seen.address, seen.mac);
        let known = self.watched.get(&key);
        if known.is_some_and(|known| known.conflict.kind != seen.kind) {
            // It is a member now, or none any more: another thing to tell.
            self.end(key);
        }
        if self.watched.len() >= LIMIT && !self.watched.contains_key(&key) {
            return;
        }
        let watched = self.watched.entry(key).or_insert(Watched {
            // Two interfaces of one segment see each frame: it is told as that of the first.
            conflict: seen,
            interface,
            first: now,
            last: now,
            look: now,
            told: None,
        });
        watched.interface = interface;
        watched.last = now;
        watched.look = now + LOOK;
        let conflict = watched.conflict;
        let patience = match conflict.kind {
            Kind::Foreign => Duration::ZERO,
            Kind::KernelAnswers => MEMBER_PATIENCE,
        };
        match watched.told {
            None if now >= watched.first + patience => self.news.push(News::Begun(conflict)),
            Some(told) if now >= told + AGAIN => self.news.push(News::GoesOn(conflict)),
            None | Some(_) => return,
        }
        watched.told = Some(now);
    }

    /// When [`Self::take_look`] has something.
    pub fn next_look(&self) -> Option<Instant> {
        self.watched.values().map(|one| one.look).min()
    }

    /// Where to ask now whether a machine is still there, if it is time for one.
    pub fn take_look(&mut self, now: Instant) -> Option<Spot> {
        let (key, watched) = self.watched.iter_mut().min_by_key(|(_, one)| one.look)?;
        if watched.look > now {
            return None;
        }
        watched.look = now + LOOK;
        Some(Spot {
            interface: watched.interface,
            address: key.0,
        })
    }

    fn defend(&mut self, address: IpAddr, now: Instant) -> bool {
        self.defended
            .retain(|_, at| now.saturating_duration_since(*at) < DEFEND_INTERVAL);
        let may = self.defended.len() < LIMIT && !self.defended.contains_key(&address);
        if may {
            self.defended.insert(address, now);
        }
        may
    }

    /// An address is not answered any more.
    pub fn forget(&mut self, address: IpAddr) {
        let lowest = MacAddr::zero();
        let of_address = self.watched.range((address, lowest)..);
        let keys = of_address.map(|(key, _)| *key);
        let keys: Vec<_> = keys.take_while(|(other, _)| *other == address).collect();
        for key in keys {
            self.end(key);
        }
    }

    /// When [`Self::tick`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.watched.values().map(|one| one.last + OVER).min()
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) {
        let quiet = self
            .watched
            .iter()
            .filter(|(_, one)| one.last + OVER <= now);
        for key in quiet.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.end(key);
        }
    }

    /// What is to be told since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn end(&mut self, key: (IpAddr, MacAddr)) {
        if let Some(watched) = self.watched.remove(&key)
            && watched.told.is_some()
        {
            self.news.push(News::Over(watched.conflict));
        }
    }
}
