//! A set of numbers, kept as the runs that it consists of.
//!
//! Runs never touch, so whatever follows a run is not in the set: the first gap at or after a
//! number is found by looking at one run, however full the set is.

use std::collections::BTreeMap;

/// Runs of consecutive numbers: `first -> last`, disjoint and never adjacent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs(BTreeMap<u128, u128>);

impl Runs {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `first..=last`; what is in the set already stays in it.
    pub(super) fn insert(&mut self, first: u128, last: u128) {
        let (mut first, mut last) = (first, last);
        // The run before, if it reaches up to us, and every run that begins within us or at our end.
        if let Some((before, until)) = self.run_from(first)
            && until.saturating_add(1) >= first
        {
            first = before;
            last = last.max(until);
        }
        while let Some((&next, &until)) = self.0.range(first..=last.saturating_add(1)).next() {
            self.0.remove(&next);
            last = last.max(until);
        }
        self.0.insert(first, last);
    }

    /// Takes `first..=last` away; what is not in the set stays out of it.
    pub(super) fn remove(&mut self, first: u128, last: u128) {
        if let Some((before, until)) = self.run_from(first)
            && until >= first
        {
            self.0.remove(&before);
            self.keep(before, first.checked_sub(1));
            self.keep_after(last, until);
        }
        while let Some((&next, &until)) = self.0.range(first..=last).next() {
            self.0.remove(&next);
            self.keep_after(last, until);
        }
    }

    /// The runs, lowest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    /// The lowest number of `first..=last` that is not in the set.
    pub(super) fn first_gap(&self, first: u128, last: u128) -> Option<u128> {
        gap(|number| self.run_from(number), first, last)
    }

    /// The lowest number of `first..=last` that is in the set.
    pub(super) fn first_member(&self, first: u128, last: u128) -> Option<u128> {
        match self.run_from(first) {
            Some((_, until)) if until >= first => Some(first),
            Some(_) | None => self.0.range(first..=last).next().map(|(next, _)| *next),
        }
    }

    /// How many numbers of `first..=last` are in the set. Costs one step per run in there.
    pub(super) fn count(&self, first: u128, last: u128) -> u128 {
        let reaching_in = self
            .run_from(first)
            .filter(|(before, until)| *before < first && *until >= first)
            .map_or(0, |(_, until)| until.min(last) - first + 1);
        let within: u128 = self
            .0
            .range(first..=last)
            .map(|(next, until)| until.min(&last) - next + 1)
            .sum();
        reaching_in + within
    }

    /// The last run that begins at or before a number.
    fn run_from(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.0.range(..=number).next_back()?;
        Some((*first, *last))
    }

    fn keep(&mut self, first: u128, last: Option<u128>) {
        if let Some(last) = last
            && first <= last
        {
            self.0.insert(first, last);
        }
    }

    fn keep_after(&mut self, removed: u128, last: u128) {
        if let Some(first) = removed.checked_add(1) {
            self.keep(first, Some(last));
        }
    }
}

/// The search itself; `run_from` answers with the last run that begins at or before a number.
fn gap(
    mut run_from: impl FnMut(u128) -> Option<(u128, u128)>,
    first: u128,
    last: u128,
) -> Option<u128> {
    let candidate = match run_from(first) {
        Some((_, until)) if until >= first => until.checked_add(1)?,
        Some(_) | None => first,
    };
    (candidate <= last).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs(parts: &[(u128, u128)]) -> Runs {
        let mut runs = Runs::default();
        for (first, last) in parts {
            runs.insert(*first, *last);
        }
        runs
    }

    #[test]
    fn runs_that_touch_become_one() {
        assert_eq!(runs(&[(1, 3), (5, 7), (4, 4)]), runs(&[(1, 7)]));
        assert_eq!(runs(&[(5, 7), (1, 9)]), runs(&[(1, 9)]));
        let end = u128::MAX;
        assert_eq!(runs(&[(end, end), (end - 1, end - 1)]).0.len(), 1);
        assert_eq!(runs(&[(end - 1, end)]).first_gap(end - 1, end), None);
    }

    #[test]
    fn a_gap_is_found_by_looking_at_one_run_at_any_fill_and_in_any_size() {
        for (first, last) in [(0, 255), (0, (1 << 20) - 1), (1 << 64, (1 << 65) - 1)] {
            for stride in [2_u128, 3, 7, 1000] {
                // Every stride-th number is a hole, then they are filled up one after the other.
                let mut set = Runs::default();
                let holes: Vec<u128> = (1..=500)
                    .map(|n| first + n * stride)
                    .take_while(|hole| *hole <= last)
                    .collect();
                let mut from = first;
                for hole in &holes {
                    set.insert(from, hole - 1);
                    from = hole + 1;
                }
                if from <= last {
                    set.insert(from, last);
                }
                for hole in holes {
                    let mut visited = 0;
                    let found = gap(
                        |number| {
                            visited += 1;
                            set.run_from(number)
                        },
                        first,
                        last,
                    );
                    assert_eq!((found, visited), (Some(hole), 1));
                    set.insert(hole, hole);
                }
                assert_eq!(set.first_gap(first, last), None);
                assert_eq!(set.0.len(), 1);
            }
        }
    }

    proptest! {
        #[test]
        fn runs_hold_what_a_plain_set_holds(
            edits in proptest::collection::vec((any::<bool>(), 0_u128..60, 0_u128..6), 1..80),
            window in (0_u128..60, 0_u128..60),
        ) {
            let mut set = Runs::default();
            let mut plain = BTreeSet::new();
            for (add, first, length) in edits {
                let last = first + length;
                if add {
                    set.insert(first, last);
                    plain.extend(first..=last);
                } else {
                    set.remove(first, last);
                    plain.retain(|number| *number < first || *number > last);
                }
                let ends: Vec<_> = set.0.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < *pair[1].0), "{ends:?}");
            }
            let (low, high) = (window.0.min(window.1), window.0.max(window.1));
            let free = (low..=high).find(|number| !plain.contains(number));
            prop_assert_eq!(set.first_gap(low, high), free);
            let member = plain.range(low..=high).next().copied();
            prop_assert_eq!(set.first_member(low, high), member);
            let count = plain.range(low..=high).count() as u128;
            prop_assert_eq!(set.count(low, high), count);
        }
    }
}
