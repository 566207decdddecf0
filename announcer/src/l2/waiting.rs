//! What waits for the end of a handover: questions that are held, and answers that were noted; by
//! address, and bounded.
//!
//! Pure. A busy address must not crowd out what is kept for the others: there is room for each.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::burst::Spot;
use super::hold::{ANSWERED_LIMIT, Held, Noted, Notes};

/// Most questions that are held for one address: more than a busy segment asks for within a
/// handover of a few milliseconds. What does not fit is asked again by its sender.
pub const HELD_LIMIT: usize = 1024;
/// Most questions that are held for all addresses, and most answers that are noted for all of them:
/// a thousand addresses that are asked for every 10 ms, for half a second; 4 MiB each.
pub const WHOLE_LIMIT: usize = 65_536;

/// All that waits.
#[derive(Debug, Default)]
pub struct Waiting {
    by_address: HashMap<IpAddr, Kept>,
    held: usize,
    noted: usize,
}

#[derive(Debug, Default)]
struct Kept {
    held: Vec<Held>,
    noted: VecDeque<Noted>,
    /// When the newest answer was given of which the note was dropped.
    dropped: Option<Instant>,
}

impl Waiting {
    /// Keeps a question.
    pub fn hold(&mut self, one: Held) {
        let kept = self.by_address.entry(one.question.target).or_default();
        if kept.held.len() < HELD_LIMIT && self.held < WHOLE_LIMIT {
            kept.held.push(one);
            self.held += 1;
        }
    }

    /// Notes an answer. Of one address the newest matter, and no more of them than are reported.
    pub fn note(&mut self, one: Noted) {
        let kept = self.by_address.entry(one.question.target).or_default();
        if kept.noted.len() >= ANSWERED_LIMIT || self.noted >= WHOLE_LIMIT {
            match kept.noted.pop_front() {
                Some(oldest) => {
                    self.noted -= 1;
                    kept.dropped = Some(oldest.at);
                }
                None => {
                    kept.dropped = Some(one.at);
                    return;
                }
            }
        }
        kept.noted.push_back(one);
        self.noted += 1;
    }

    /// Takes out what is held for these addresses, oldest first.
    pub fn take_held(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Vec<Held> {
        let mut taken = Vec::new();
        for address in addresses {
            if let Some(kept) = self.by_address.get_mut(&address) {
                self.held -= kept.held.len();
                taken.append(&mut kept.held);
                self.tidy(address);
            }
        }
        taken.sort_by_key(|one| one.at);
        taken
    }

    /// Takes out what is held for these addresses and came in there, oldest first.
    pub fn take_held_at(&mut self, spots: &[Spot]) -> Vec<Held> {
        let mut taken = Vec::new();
        for spot in spots {
            if let Some(kept) = self.by_address.get_mut(&spot.address) {
                let is_there = |one: &mut Held| one.interface == spot.interface;
                let before = taken.len();
                taken.extend(kept.held.extract_if(.., is_there));
                self.held -= taken.len() - before;
                self.tidy(spot.address);
            }
        }
        taken.sort_by_key(|one| one.at);
        taken
    }

    /// Takes out what was noted for these addresses.
    pub fn take_noted(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Notes {
        let mut noted = Vec::new();
        let mut dropped = None;
        for address in addresses {
            if let Some(kept) = self.by_address.get_mut(&address) {
                self.noted -= kept.noted.len();
                noted.extend(kept.noted.drain(..));
                dropped = dropped.max(kept.dropped.take());
                self.tidy(address);
            }
        }
        Notes::new(noted, dropped)
    }

    /// Forgets all that is held.
    pub fn drop_held(&mut self) {
        for kept in self.by_address.values_mut() {
            kept.held = Vec::new();
        }
        self.held = 0;
        self.by_address.retain(|_, kept| !kept.is_empty());
    }

    /// Forgets what is held from an interface.
    pub fn close(&mut self, interface: u32) {
        for kept in self.by_address.values_mut() {
            let before = kept.held.len();
            kept.held.retain(|one| one.interface != interface);
            self.held -= before - kept.held.len();
        }
    }

    fn tidy(&mut self, address: IpAddr) {
        if self.by_address.get(&address).is_some_and(Kept::is_empty) {
            self.by_address.remove(&address);
        }
    }
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.noted.is_empty() && self.dropped.is_none()
    }
}

#[cfg(test)]
mod tests;
