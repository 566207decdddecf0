//! What is said when it has lasted. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What changes more often than this is not said.
pub const STEADY: Duration = Duration::from_secs(3);

/// Things that differ from what is said of them, and for how long.
#[derive(Debug)]
pub struct Lasting<K, V> {
    spells: BTreeMap<K, Spell<V>>,
}

#[derive(Debug)]
struct Spell<V> {
    since: Instant,
    value: V,
    /// When it came to be just this.
    steady_since: Instant,
}

impl<K, V> Default for Lasting<K, V> {
    fn default() -> Self {
        Self {
            spells: BTreeMap::new(),
        }
    }
}

impl<K: Ord, V: PartialEq> Lasting<K, V> {
    /// Exactly these differ.
    pub fn note(&mut self, differing: BTreeMap<K, V>, now: Instant) {
        let mut before = std::mem::take(&mut self.spells);
        for (key, value) in differing {
            let former = before.remove(&key);
            let since = former.as_ref().map_or(now, |former| former.since);
            let same = former.filter(|former| former.value == value);
            let steady_since = same.map_or(now, |same| same.steady_since);
            let spell = Spell {
                since,
                value,
                steady_since,
            };
            self.spells.insert(key, spell);
        }
    }

    /// What was seen says nothing any more.
    pub fn forget(&mut self) {
        self.spells.clear();
    }

    /// What has differed for as long as `patience` asks for, and has been the same for [`STEADY`].
    pub fn due(
        &self,
        patience: fn(&V) -> Duration,
        now: Instant,
    ) -> impl Iterator<Item = (&K, &V)> {
        let due = self
            .spells
            .iter()
            .filter(move |(_, spell)| spell.due(patience) <= now);
        due.map(|(key, spell)| (key, &spell.value))
    }

    /// When the next has lasted for long enough.
    pub fn next(&self, patience: fn(&V) -> Duration, now: Instant) -> Option<Instant> {
        let due = self.spells.values().map(|spell| spell.due(patience));
        due.filter(|due| *due > now).min()
    }
}

impl<V> Spell<V> {
    fn due(&self, patience: fn(&V) -> Duration) -> Instant {
        (self.since + patience(&self.value)).max(self.steady_since + STEADY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn patience(_: &u32) -> Duration {
        LONG
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to make one"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn due(lasting: &Lasting<&'static str, u32>, now: Instant) -> Vec<u32> {
        lasting
            .due(patience, now)
            .map(|(_, value)| *value)
            .collect()
    }

    #[test]
    fn what_lasts_is_said_and_what_was_over_in_between_begins_anew() {
        let now = start();
        let mut lasting = Lasting::default();
        lasting.note(BTreeMap::from([("web", 1)]), now);
        assert_eq!(due(&lasting, now), [0; 0]);
        assert_eq!(lasting.next(patience, now), Some(now + LONG));
        let soon = now + LONG - Duration::from_millis(1);
        lasting.note(BTreeMap::from([("web", 1)]), soon);
        assert_eq!(due(&lasting, soon), [0; 0]);
        assert_eq!(due(&lasting, now + LONG), [1]);
        assert_eq!(lasting.next(patience, now + LONG), None);
        // Over, and again.
        lasting.note(BTreeMap::new(), soon);
        lasting.note(BTreeMap::from([("web", 1)]), soon);
        assert_eq!(due(&lasting, now + LONG), [0; 0]);
        assert_eq!(due(&lasting, soon + LONG), [1]);
    }

    #[test]
    fn one_trouble_after_the_other_is_one_and_the_last_is_said_when_it_is_steady() {
        let now = start();
        let mut lasting = Lasting::default();
        lasting.note(BTreeMap::from([("web", 1)]), now);
        let later = now + LONG - Duration::from_secs(1);
        lasting.note(BTreeMap::from([("web", 2)]), later);
        assert_eq!(due(&lasting, now + LONG), [0; 0]);
        assert_eq!(lasting.next(patience, now + LONG), Some(later + STEADY));
        assert_eq!(due(&lasting, later + STEADY), [2]);
    }
}
