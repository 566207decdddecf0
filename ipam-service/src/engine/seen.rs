//! When each cluster was last heard of: kept in memory, written now and then. Pure.
//!
//! Nothing is decided by it. It is there for people and for alerts, so it takes no revision and has
//! no history.

use std::collections::BTreeMap;

use crate::state::model::Timestamp;
use crate::state::names::Name;

/// How much later than the stored time a cluster must be heard of for a new time to be written. An
/// adapter repeats what it declares every 30 s, and an idle store shall hardly write.
const WORTH_WRITING: i64 = 60_000_000;

/// Clusters by name.
#[derive(Debug, Default)]
pub(super) struct LastSeen(BTreeMap<Name, Times>);

#[derive(Debug, Clone, Copy)]
struct Times {
    heard: Timestamp,
    stored: Timestamp,
}

impl LastSeen {
    /// As they are stored.
    pub(super) fn restore(stored: Vec<(Name, Timestamp)>) -> Self {
        let entry = |(name, time)| {
            let times = Times {
                heard: time,
                stored: time,
            };
            (name, times)
        };
        Self(stored.into_iter().map(entry).collect())
    }

    /// A cluster was heard of.
    pub(super) fn note(&mut self, cluster: &Name, now: Timestamp) {
        if let Some(times) = self.0.get_mut(cluster) {
            times.heard = times.heard.max(now);
            return;
        }
        let times = Times {
            heard: now,
            stored: Timestamp(0),
        };
        self.0.insert(cluster.clone(), times);
    }

    /// What is worth writing.
    pub(super) fn due(&self) -> Vec<(Name, Timestamp)> {
        let due = self
            .0
            .iter()
            .filter(|(_, times)| times.heard.0 - times.stored.0 >= WORTH_WRITING);
        due.map(|(name, times)| (name.clone(), times.heard))
            .collect()
    }

    /// This has been written.
    pub(super) fn stored(&mut self, seen: &[(Name, Timestamp)]) {
        for (name, time) in seen {
            if let Some(times) = self.0.get_mut(name) {
                times.stored = *time;
            }
        }
    }

    /// Forgets clusters that are no more.
    pub(super) fn keep_only(&mut self, exists: impl Fn(&Name) -> bool) {
        self.0.retain(|name, _| exists(name));
    }

    /// Every cluster, and when it was heard of.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, Timestamp)> {
        self.0.iter().map(|(name, times)| (name, times.heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_when_it_is_a_minute_later_than_the_stored_one() {
        let east = Name::parse("east").expect("a name");
        let minute = |count: i64| Timestamp(1_000_000_000 + count * WORTH_WRITING);
        let mut seen = LastSeen::default();
        seen.note(&east, minute(0));
        assert_eq!(seen.due(), [(east.clone(), minute(0))], "the first at once");
        seen.stored(&[(east.clone(), minute(0))]);
        seen.note(&east, Timestamp(minute(1).0 - 1));
        assert_eq!(seen.due(), []);
        seen.note(&east, minute(1));
        assert_eq!(seen.due(), [(east.clone(), minute(1))]);
        // Not written: it stays due, and a later time wins.
        seen.note(&east, minute(2));
        assert_eq!(seen.due(), [(east.clone(), minute(2))]);
        assert_eq!(LastSeen::restore(seen.due()).due(), []);
        seen.keep_only(|_| false);
        assert_eq!(seen.iter().count(), 0);
    }
}
