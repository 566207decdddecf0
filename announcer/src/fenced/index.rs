//! What is asked of all fenced addresses at each wake of the engine, kept as they change.

use std::collections::BTreeSet;
use std::time::Instant;

use pharos_lease::Term;

use super::effect::Released;
use crate::book::Key;

/// Of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub(super) deadline: Option<Instant>,
    /// This node may own it.
    pub(super) needs_lease: bool,
    pub(super) answers: bool,
    /// It answers, and is no candidate.
    pub(super) answers_unlisted: bool,
    /// The tenure that ipam-service is to be told of as ended.
    pub(super) released: Option<(Term, u64)>,
}

/// Of all of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    deadlines: BTreeSet<(Instant, Key)>,
    released: BTreeSet<Released>,
    pub(super) need_lease: usize,
    pub(super) answer: usize,
    pub(super) answer_unlisted: usize,
}

impl Index {
    /// What an address had is no more, and this is.
    pub(super) fn change(&mut self, key: &Key, before: Entry, after: Entry) {
        if let Some(at) = before.deadline {
            self.deadlines.remove(&(at, key.clone()));
        }
        if let Some(at) = after.deadline {
            self.deadlines.insert((at, key.clone()));
        }
        if let Some(tenure) = before.released {
            self.released.remove(&released(key, tenure));
        }
        if let Some(tenure) = after.released {
            self.released.insert(released(key, tenure));
        }
        for (count, before, after) in [
            (&mut self.need_lease, before.needs_lease, after.needs_lease),
            (&mut self.answer, before.answers, after.answers),
            (
                &mut self.answer_unlisted,
                before.answers_unlisted,
                after.answers_unlisted,
            ),
        ] {
            *count = *count + usize::from(after) - usize::from(before);
        }
    }

    pub(super) fn released(&self) -> &BTreeSet<Released> {
        &self.released
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The addresses with something to do at `now`.
    pub(super) fn due(&self, now: Instant) -> Vec<Key> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, key)| key.clone()).collect()
    }
}

fn released(key: &Key, (term, epoch): (Term, u64)) -> Released {
    Released {
        key: key.clone(),
        term,
        epoch,
    }
}
