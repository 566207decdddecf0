//! The change log by itself, and against what was listed (I7).

use std::collections::BTreeMap;

use pharos_proto::v1;
use pharos_proto::v1::change::{AllocationChange, Subject};

use crate::{Invariant, Violation, owner_key};

/// All allocations, as the store listed them at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub revision: u64,
    pub allocations: Vec<v1::Allocation>,
}

/// The allocations that a log gives, by owner, at a revision that only grows.
#[derive(Debug)]
pub struct Replay<'a> {
    left: &'a [v1::Change],
    allocations: BTreeMap<String, v1::Allocation>,
}

impl<'a> Replay<'a> {
    /// Before the first change of a log.
    pub fn new(log: &'a [v1::Change]) -> Self {
        Self {
            left: log,
            allocations: BTreeMap::new(),
        }
    }

    /// Goes on to a revision. Where the log has a hole the changes behind it count all the same.
    pub fn advance(&mut self, revision: u64) -> &BTreeMap<String, v1::Allocation> {
        while let Some((change, left)) = self.left.split_first()
            && change.revision <= revision
        {
            self.left = left;
            if let Some(edit) = allocation_change(change) {
                let key = owner_key(subject(edit).and_then(|one| one.owner.as_ref()));
                match &edit.after {
                    Some(after) => self.allocations.insert(key, after.clone()),
                    None => self.allocations.remove(&key),
                };
            }
        }
        &self.allocations
    }
}

/// What a change says about an allocation, if it is about one.
pub fn allocation_change(change: &v1::Change) -> Option<&AllocationChange> {
    let Some(Subject::Allocation(edit)) = &change.subject else {
        return None;
    };
    Some(edit)
}

/// What an edit is about: the newer of the two.
pub(crate) fn subject(edit: &AllocationChange) -> Option<&v1::Allocation> {
    edit.after.as_ref().or(edit.before.as_ref())
}

pub(crate) fn check(log: &[v1::Change], snapshots: &[Snapshot]) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_order(log, &mut violations);
    check_chain(log, &mut violations);
    let mut sorted: Vec<&Snapshot> = snapshots.iter().collect();
    sorted.sort_by_key(|snapshot| snapshot.revision);
    let mut replay = Replay::new(log);
    for snapshot in sorted {
        let expected = replay.advance(snapshot.revision);
        if let Some(what) = difference(expected, &snapshot.allocations) {
            let what = format!("listed at revision {}: {what}", snapshot.revision);
            violations.push(Invariant::Revisions.broken(what));
        }
    }
    violations
}

/// One after the other from 1, and times that do not go back.
fn check_order(log: &[v1::Change], violations: &mut Vec<Violation>) {
    let mut time = (i64::MIN, 0);
    for (expected, change) in (1_u64..).zip(log) {
        if change.revision != expected {
            let what = format!("revision {} where {expected} is due", change.revision);
            violations.push(Invariant::Revisions.broken(what));
            return;
        }
        let now = change
            .time
            .map_or((i64::MIN, 0), |it| (it.seconds, it.nanos));
        if now < time {
            let what = format!("the time of revision {} goes back", change.revision);
            violations.push(Invariant::Revisions.broken(what));
        }
        time = now;
    }
}

/// What a change says was before is what the last one said is after.
fn check_chain(log: &[v1::Change], violations: &mut Vec<Violation>) {
    let mut state: BTreeMap<String, v1::Allocation> = BTreeMap::new();
    for change in log {
        let Some(edit) = allocation_change(change) else {
            continue;
        };
        let key = owner_key(subject(edit).and_then(|one| one.owner.as_ref()));
        if state.get(&key) != edit.before.as_ref() {
            let revision = change.revision;
            let what =
                format!("{key} before revision {revision} is not what it was after the last");
            violations.push(Invariant::Revisions.broken(what));
        }
        match &edit.after {
            Some(after) => state.insert(key, after.clone()),
            None => state.remove(&key),
        };
    }
}

/// How a list differs from what it should be.
pub(crate) fn difference(
    expected: &BTreeMap<String, v1::Allocation>,
    listed: &[v1::Allocation],
) -> Option<String> {
    let mut missing: BTreeMap<&str, &v1::Allocation> = expected
        .iter()
        .map(|(key, allocation)| (key.as_str(), allocation))
        .collect();
    for one in listed {
        let key = owner_key(one.owner.as_ref());
        match missing.remove(key.as_str()) {
            None => return Some(format!("{key} is not in the log, or listed twice")),
            Some(expected) if expected != one => {
                return Some(format!(
                    "{key} is not as in the log: {expected:?}, but {one:?}"
                ));
            }
            Some(_) => {}
        }
    }
    let (key, _) = missing.pop_first()?;
    Some(format!("{key} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, allocation, broken};

    fn checked(log: &[v1::Change], snapshots: &[Snapshot]) -> Vec<Invariant> {
        broken(&check(log, snapshots))
    }

    fn good() -> Log {
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.create(allocation("east/b", &["192.0.2.2"]));
        log.delete("east/a");
        log
    }

    #[test]
    fn a_log_without_gaps_and_lists_that_it_explains_are_right() {
        let log = good().changes;
        let mut replay = Replay::new(&log);
        let mut listed = |revision| Snapshot {
            revision,
            allocations: replay.advance(revision).values().cloned().collect(),
        };
        let snapshots = [listed(0), listed(1), listed(2), listed(3)];
        assert_eq!(checked(&log, &snapshots), []);
        assert_eq!(snapshots[2].allocations.len(), 2);
    }

    #[test]
    fn a_gap_a_repeat_and_a_time_that_goes_back_are_found() {
        let mut gap = good().changes;
        gap.remove(1);
        assert_eq!(checked(&gap, &[]), [Invariant::Revisions]);
        let mut repeat = good().changes;
        repeat.insert(1, repeat[0].clone());
        assert!(checked(&repeat, &[]).contains(&Invariant::Revisions));
        let mut back = good().changes;
        back[2].time.as_mut().expect("a time").seconds = -5;
        assert_eq!(checked(&back, &[]), [Invariant::Revisions]);
    }

    #[test]
    fn a_change_of_what_was_not_so_is_found() {
        let mut log = good();
        log.changes.push(log.changes[2].clone());
        log.changes[3].revision = 4;
        assert_eq!(checked(&log.changes, &[]), [Invariant::Revisions]);
    }

    #[test]
    fn a_list_that_misses_adds_or_alters_is_found() {
        let log = good().changes;
        let list = |allocations: Vec<v1::Allocation>| Snapshot {
            revision: 3,
            allocations,
        };
        let held = Replay::new(&log).advance(3)["east//b"].clone();
        let mut moved = held.clone();
        moved.addresses = vec!["192.0.2.9".to_owned()];
        for wrong in [vec![], vec![held.clone(), held], vec![moved]] {
            assert_eq!(checked(&log, &[list(wrong)]), [Invariant::Revisions]);
        }
    }
}
