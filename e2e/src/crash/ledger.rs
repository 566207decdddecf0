//! What clients were told, and whether it is still true: pure bookkeeping, no server.
//!
//! Each owner is used by one client, one call at a time. A call that got no answer leaves its owner
//! in doubt: afterwards both outcomes are right.

use std::collections::BTreeMap;

/// A call about one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Allocate,
    Release,
}

/// What a client knows of an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Free,
    /// `None`: that it holds an address was said before anybody could know which.
    Held(Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    known: Known,
    /// The call that was sent and has no answer.
    sent: Option<Call>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// An acknowledged allocation is gone.
    Lost { owner: String },
    /// An acknowledged address became another one.
    Changed {
        owner: String,
        told: String,
        now: String,
    },
    /// An acknowledged release did not last.
    Resurrected { owner: String },
    /// Two owners hold one address.
    GivenTwice {
        address: String,
        owners: [String; 2],
    },
    /// Somebody holds an address who never asked.
    Unknown { owner: String },
}

/// Everything that clients know.
#[derive(Debug, Default)]
pub struct Ledger {
    owners: BTreeMap<String, Entry>,
    /// Acknowledged holders by address.
    holders: BTreeMap<String, String>,
    violations: Vec<Violation>,
    allocations: u64,
    releases: u64,
}

impl Ledger {
    /// A call is about to be sent.
    pub fn sent(&mut self, owner: &str, call: Call) {
        let free = Entry {
            known: Known::Free,
            sent: None,
        };
        let entry = self.owners.entry(owner.to_owned()).or_insert(free);
        entry.sent = Some(call);
    }

    /// An allocation was acknowledged, with its address if that is known.
    pub fn allocated(&mut self, owner: &str, address: Option<&str>) {
        self.allocations += 1;
        self.know(owner, Known::Held(address.map(str::to_owned)));
        let Some(address) = address else {
            return;
        };
        let before = self.holders.insert(address.to_owned(), owner.to_owned());
        // Whoever had it has at least begun to give it back, or it was given twice.
        if let Some(before) = before.filter(|before| before != owner)
            && let Some(entry) = self.owners.get(&before)
            && entry.known == Known::Held(Some(address.to_owned()))
            && entry.sent != Some(Call::Release)
        {
            self.violations.push(Violation::GivenTwice {
                address: address.to_owned(),
                owners: [before, owner.to_owned()],
            });
        }
    }

    /// A release was acknowledged.
    pub fn released(&mut self, owner: &str) {
        self.releases += 1;
        self.know(owner, Known::Free);
    }

    fn know(&mut self, owner: &str, known: Known) {
        let entry = Entry { known, sent: None };
        self.owners.insert(owner.to_owned(), entry);
    }

    /// Compares with what is held really (owner, address), and goes on from there.
    pub fn audit(&mut self, held: &[(String, String)]) {
        let mut by_address: BTreeMap<&str, &str> = BTreeMap::new();
        let mut by_owner: BTreeMap<&str, &str> = BTreeMap::new();
        for (owner, address) in held {
            if let Some(other) = by_address.insert(address, owner) {
                self.violations.push(Violation::GivenTwice {
                    address: address.clone(),
                    owners: [other.to_owned(), owner.clone()],
                });
            }
            by_owner.insert(owner, address);
            if !self.owners.contains_key(owner) {
                self.violations.push(Violation::Unknown {
                    owner: owner.clone(),
                });
            }
        }
        for (owner, entry) in &mut self.owners {
            let now = by_owner.get(owner.as_str()).copied();
            self.violations.extend(judge(owner, entry, now));
            entry.known = now.map_or(Known::Free, |now| Known::Held(Some(now.to_owned())));
            entry.sent = None;
        }
        self.holders = by_address
            .into_iter()
            .map(|(address, owner)| (address.to_owned(), owner.to_owned()))
            .collect();
    }

    /// Broken promises so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Calls acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.allocations + self.releases
    }

    /// Allocations acknowledged so far.
    pub fn allocations(&self) -> u64 {
        self.allocations
    }

    /// Releases acknowledged so far.
    pub fn releases(&self) -> u64 {
        self.releases
    }
}

/// Whether what is held now can be, after what was told and what was sent.
fn judge(owner: &str, entry: &Entry, now: Option<&str>) -> Option<Violation> {
    let owner = owner.to_owned();
    match (&entry.known, entry.sent, now) {
        (Known::Held(Some(told)), _, Some(now)) if told != now => {
            let (told, now) = (told.clone(), now.to_owned());
            Some(Violation::Changed { owner, told, now })
        }
        (Known::Held(_), None | Some(Call::Allocate), None) => Some(Violation::Lost { owner }),
        (Known::Free, None | Some(Call::Release), Some(_)) => {
            Some(Violation::Resurrected { owner })
        }
        (Known::Held(_), _, Some(_))
        | (Known::Held(_), Some(Call::Release), None)
        | (Known::Free, Some(Call::Allocate), Some(_))
        | (Known::Free, _, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(owner, address)| ((*owner).to_owned(), (*address).to_owned()))
            .collect()
    }

    fn allocated(ledger: &mut Ledger, owner: &str, address: &str) {
        ledger.sent(owner, Call::Allocate);
        ledger.allocated(owner, Some(address));
    }

    #[test]
    fn what_is_as_it_was_told_is_right_and_what_was_never_answered_may_be_either() {
        let mut ledger = Ledger::default();
        allocated(&mut ledger, "a", "1");
        allocated(&mut ledger, "b", "2");
        ledger.sent("b", Call::Release);
        allocated(&mut ledger, "c", "3");
        ledger.sent("c", Call::Release);
        ledger.sent("d", Call::Allocate);
        ledger.sent("e", Call::Allocate);
        ledger.audit(&held(&[("a", "1"), ("b", "2"), ("d", "4")]));
        assert_eq!(ledger.violations(), []);
        assert_eq!((ledger.allocations(), ledger.releases()), (3, 0));
    }

    #[test]
    fn every_broken_promise_is_seen() {
        let mut ledger = Ledger::default();
        for (owner, address) in [
            ("lost", "1"),
            ("changed", "2"),
            ("back", "3"),
            ("twice", "4"),
        ] {
            allocated(&mut ledger, owner, address);
        }
        ledger.sent("back", Call::Release);
        ledger.released("back");
        let now = [
            ("changed", "9"),
            ("back", "3"),
            ("twice", "4"),
            ("stranger", "4"),
        ];
        ledger.audit(&held(&now));
        let mut seen = ledger.violations().to_vec();
        seen.sort();
        let text = |text: &str| text.to_owned();
        let mut expected = vec![
            Violation::Lost {
                owner: text("lost"),
            },
            Violation::Changed {
                owner: text("changed"),
                told: text("2"),
                now: text("9"),
            },
            Violation::Resurrected {
                owner: text("back"),
            },
            Violation::GivenTwice {
                address: text("4"),
                owners: [text("twice"), text("stranger")],
            },
            Violation::Unknown {
                owner: text("stranger"),
            },
        ];
        expected.sort();
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_address_that_is_acknowledged_to_two_is_seen_at_once() {
        let mut ledger = Ledger::default();
        allocated(&mut ledger, "a", "1");
        allocated(&mut ledger, "b", "1");
        assert_eq!(ledger.violations().len(), 1);
        let mut ledger = Ledger::default();
        allocated(&mut ledger, "a", "1");
        ledger.sent("a", Call::Release);
        allocated(&mut ledger, "b", "1");
        assert_eq!(ledger.violations(), []);
    }
}
