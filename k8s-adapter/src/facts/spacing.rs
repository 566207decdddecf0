//! How often something may be told anew: its first change at once, what follows at most each [`SPACING`], as it is
//! then. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A readiness probe that flaps costs ipam-service and the announcers ten changes a second, and not a thousand.
pub(super) const SPACING: Duration = Duration::from_millis(100);

/// What is to be told, and what was a moment ago.
#[derive(Debug)]
pub(super) struct Spacing<K> {
    waiting: BTreeSet<K>,
    /// Until when they are not told again.
    told: BTreeMap<K, Instant>,
}

impl<K> Default for Spacing<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Spacing<K> {
    /// These changed.
    pub(super) fn changed(&mut self, keys: BTreeSet<K>) {
        self.waiting.extend(keys);
    }

    /// What is to be told now.
    pub(super) fn take_due(&mut self, now: Instant) -> BTreeSet<K> {
        self.told.retain(|_, until| now < *until);
        let told = &self.told;
        let due: BTreeSet<K> = self
            .waiting
            .extract_if(.., |key| !told.contains_key(key))
            .collect();
        let until = due.iter().map(|key| (key.clone(), now + SPACING));
        self.told.extend(until);
        due
    }

    /// When something of what waits is to be told; `None`: nothing waits.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let until = self.waiting.iter().filter_map(|key| self.told.get(key));
        until.min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn what_flaps_is_told_at_once_and_then_as_it_is_each_100_ms() {
        let start = Instant::now();
        let mut spacing = Spacing::default();
        let mut told = Vec::new();
        for millis in 0..1000 {
            let now = start + Duration::from_millis(millis);
            spacing.changed(BTreeSet::from(["flaps"]));
            if millis == 550 {
                spacing.changed(BTreeSet::from(["changes once"]));
            }
            told.extend(spacing.take_due(now).into_iter().map(|key| (key, millis)));
        }
        let flaps: Vec<u64> = told
            .iter()
            .filter(|(key, _)| *key == "flaps")
            .map(|(_, millis)| *millis)
            .collect();
        assert_eq!(flaps, (0..10).map(|it| it * 100).collect::<Vec<_>>());
        // It does not wait for others.
        assert!(told.contains(&("changes once", 550)));
        // The last change is told, too, and then nothing waits.
        let last = spacing.next_deadline().expect("one waits");
        assert_eq!(last, start + SPACING * 10);
        assert!(spacing.take_due(last - Duration::from_millis(1)).is_empty());
        assert_eq!(spacing.take_due(last), BTreeSet::from(["flaps"]));
        assert_eq!(spacing.next_deadline(), None);
    }
}
