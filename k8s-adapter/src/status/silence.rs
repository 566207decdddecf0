//! How long nobody has answered for a Service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::service::ServiceKey;

/// A silence shorter than this is told to nobody: a new address is asked for before its first answer, and one
/// that moves may be with nobody for a moment.
pub const GRACE: Duration = Duration::from_secs(3);
/// As long as this after ipam-service was reached silence says nothing: when it started a moment ago nodes are
/// still about to tell it what they answer for.
pub const SETTLE: Duration = Duration::from_secs(10);

/// Whom nobody answers for.
#[derive(Debug, Default)]
pub struct Silences {
    since: BTreeMap<ServiceKey, Instant>,
    /// No silence counts from before.
    counts_from: Option<Instant>,
}

impl Silences {
    /// ipam-service was reached just now: what nodes answer for is still to be heard.
    pub fn reached(&mut self, now: Instant) {
        self.counts_from = Some(now + (SETTLE - GRACE));
        self.since.clear();
    }

    /// Nobody answers for exactly these.
    pub fn note(&mut self, silent: BTreeSet<ServiceKey>, now: Instant) {
        self.since.retain(|key, _| silent.contains(key));
        let from = self.counts_from.map_or(now, |from| from.max(now));
        for key in silent {
            self.since.entry(key).or_insert(from);
        }
    }

    /// Whether nobody has answered for a Service for long enough to say so.
    pub fn lasts(&self, key: &ServiceKey, now: Instant) -> bool {
        let since = self.since.get(key);
        since.is_some_and(|since| now >= *since + GRACE)
    }

    /// When the next silence has lasted for long enough.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.since.values().map(|since| *since + GRACE);
        due.filter(|due| *due > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to make one"
    )]
    fn a_silence_counts_when_it_lasts_and_not_while_nodes_are_still_to_be_heard() {
        let start = Instant::now();
        let key = ServiceKey::new("default", "web");
        let web = || BTreeSet::from([key.clone()]);
        let mut silences = Silences::default();
        silences.note(web(), start);
        assert!(!silences.lasts(&key, start));
        assert_eq!(silences.next(start), Some(start + GRACE));
        silences.note(web(), start + GRACE);
        assert!(silences.lasts(&key, start + GRACE));
        assert_eq!(silences.next(start + GRACE), None);
        // Somebody answered in between.
        silences.note(BTreeSet::new(), start + GRACE);
        silences.note(web(), start + GRACE);
        assert!(!silences.lasts(&key, start + GRACE));

        silences.reached(start);
        silences.note(web(), start);
        let just_before = start + SETTLE - Duration::from_millis(1);
        assert!(!silences.lasts(&key, just_before));
        assert!(silences.lasts(&key, start + SETTLE));
    }
}
