//! Other machines that use an address of this node (RFC 5227, RFC 4862): who is told, and when the
//! address is defended.
//!
//! Pure. A conflict takes nothing away: the owner goes on answering. The kernel of another node of the
//! cluster is told apart: it answers because the address is on one of its interfaces, as kube-proxy
//! puts it there, and is never defended against.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
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

/// The hardware addresses of the other nodes of the cluster, with the name of each one's node.
pub type Members = BTreeMap<MacAddr, Arc<str>>;

/// An interface of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seer {
    pub index: u32,
    pub name: Arc<str>,
    pub mac: MacAddr,
}

/// A machine that uses an address of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub address: IpAddr,
    /// Of the machine.
    pub mac: MacAddr,
    /// The interface that saw it first, of those that see it.
    pub by: Seer,
    /// The node of the cluster that it is.
    pub member: Option<Arc<str>>,
    /// Seen before the address was ever answered here: it is not, until the machine is gone.
    pub while_probing: bool,
}

impl News {
    /// Of which conflict.
    pub fn conflict(&self) -> &Conflict {
        match self {
            Self::Begun(conflict)
            | Self::GoesOn(conflict)
            | Self::Moved { now: conflict, .. }
            | Self::Over(conflict) => conflict,
        }
    }
}

impl Conflict {
    /// Whose machine it is.
    pub fn kind(&self) -> Kind {
        match self.member {
            Some(_) => Kind::KernelAnswers,
            None => Kind::Foreign,
        }
    }
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It was seen for the first time.
    Begun(Conflict),
    /// It goes on.
    GoesOn(Conflict),
    /// It goes on, and only another interface than before sees it.
    Moved { from: Seer, now: Conflict },
    /// It has not been seen for a while, or the address is not ours any more.
    Over(Conflict),
}

/// All conflicts of this node.
#[derive(Debug, Default)]
pub struct Conflicts {
    members: Members,
    watched: BTreeMap<(IpAddr, MacAddr), Watched>,
    /// When each address was defended last.
    defended: BTreeMap<IpAddr, Instant>,
    news: Vec<News>,
}

#[derive(Debug)]
struct Watched {
    conflict: Conflict,
    first: Instant,
    /// By index of the interface. Each asks for itself: they may be on different segments.
    sightings: BTreeMap<u32, Sighting>,
    /// When it was told last.
    told: Option<Instant>,
}

/// What one interface sees of it.
#[derive(Debug)]
struct Sighting {
    by: Seer,
    last: Instant,
    /// When the machine is to be asked whether it is still there, if it says nothing by itself.
    look: Instant,
}

impl Conflicts {
    /// The hardware addresses of the other nodes of the cluster.
    pub fn set_members(&mut self, members: Members) {
        self.members = members;
    }

    /// A machine used an address of ours; says whether the address is to be defended now.
    pub fn seen(&mut self, address: IpAddr, mac: MacAddr, by: Seer, now: Instant) -> bool {
        match self.note((address, mac), by, false, now) {
            Kind::KernelAnswers => false,
            Kind::Foreign => self.defend(address, now),
        }
    }

    /// A machine has an address that is to become ours; says whether the address is left to it.
    pub fn seen_while_probing(
        &mut self,
        address: IpAddr,
        mac: MacAddr,
        by: Seer,
        now: Instant,
    ) -> bool {
        self.note((address, mac), by, true, now) == Kind::Foreign
    }

    fn note(
        &mut self,
        (address, mac): (IpAddr, MacAddr),
        by: Seer,
        while_probing: bool,
        now: Instant,
    ) -> Kind {
        let conflict = Conflict {
            address,
            mac,
            by,
            member: self.members.get(&mac).cloned(),
            while_probing,
        };
        let kind = conflict.kind();
        self.watch(conflict, now);
        kind
    }

    fn watch(&mut self, seen: Conflict, now: Instant) {
        let key = (seen.address, seen.mac);
        let known = self.watched.get(&key);
        let differs = |known: &Watched| {
            known.conflict.member != seen.member
                || known.conflict.while_probing != seen.while_probing
        };
        if known.is_some_and(differs) {
            // It is a member now, or none any more: another thing to tell.
            self.end(key);
        }
        if self.watched.len() >= LIMIT && !self.watched.contains_key(&key) {
            return;
        }
        let by = seen.by.clone();
        let watched = self.watched.entry(key).or_insert(Watched {
            // Two interfaces of one segment see each frame: it is told as that of the first.
            conflict: seen,
            first: now,
            sightings: BTreeMap::new(),
            told: None,
        });
        let sighting = Sighting {
            last: now,
            look: now + LOOK,
            by,
        };
        watched.sightings.insert(sighting.by.index, sighting);
        self.news.extend(watched.news(now));
    }

    /// When [`Self::take_look`] has something.
    pub fn next_look(&self) -> Option<Instant> {
        let sightings = self.watched.values().flat_map(|one| one.sightings.values());
        sightings.map(|sighting| sighting.look).min()
    }

    /// Where to ask now whether a machine is still there, if it is time for one.
    pub fn take_look(&mut self, now: Instant) -> Option<Spot> {
        let watched = self.watched.iter_mut();
        let sightings = watched.flat_map(|(key, one)| {
            let sightings = one.sightings.values_mut();
            sightings.map(|sighting| (key.0, sighting))
        });
        let (address, sighting) = sightings.min_by_key(|(_, sighting)| sighting.look)?;
        if sighting.look > now {
            return None;
        }
        sighting.look = now + LOOK;
        Some(Spot {
            interface: sighting.by.index,
            address,
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
        let sightings = self.watched.values().flat_map(|one| one.sightings.values());
        sightings.map(|sighting| sighting.last + OVER).min()
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (key, watched) in &mut self.watched {
            let sightings = &mut watched.sightings;
            sightings.retain(|_, sighting| sighting.last + OVER > now);
            match sightings.values().next() {
                None => gone.push(*key),
                Some(other) if !sightings.contains_key(&watched.conflict.by.index) => {
                    let by = other.by.clone();
                    self.news.extend(watched.moves_to(by));
                }
                Some(_) => {}
            }
        }
        for key in gone {
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

impl Watched {
    /// It was seen: is that to be told?
    fn news(&mut self, now: Instant) -> Option<News> {
        let conflict = self.conflict.clone();
        let patience = match conflict.kind() {
            Kind::Foreign => Duration::ZERO,
            Kind::KernelAnswers => MEMBER_PATIENCE,
        };
        let news = match self.told {
            None if now >= self.first + patience => News::Begun(conflict),
            Some(told) if now >= told + AGAIN => News::GoesOn(conflict),
            None | Some(_) => return None,
        };
        self.told = Some(now);
        Some(news)
    }

    /// The interface that it was told with does not see it any more; this one does.
    fn moves_to(&mut self, by: Seer) -> Option<News> {
        let from = std::mem::replace(&mut self.conflict.by, by);
        let now = self.conflict.clone();
        self.told.map(|_| News::Moved { from, now })
    }
}
