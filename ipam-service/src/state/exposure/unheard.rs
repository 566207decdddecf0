//! Fenced addresses of a cluster that some node may still answer for freely, as it did before they were
//! fenced: it has not acknowledged that they are. Nobody is named for them meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use super::former::Former;
use crate::state::announce::AssignmentKey;
use crate::state::model::Moment;

/// How long a node that is away is waited for, by address.
pub(in crate::state) type Limit<'a> = &'a dyn Fn(&AssignmentKey) -> Duration;

/// Those addresses.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    keys: BTreeSet<AssignmentKey>,
    /// Those of which it is not known yet how long they wait.
    fresh: BTreeSet<AssignmentKey>,
    /// When some node is not waited for any more; also for addresses that do not wait by now.
    ends: BTreeSet<(Moment, AssignmentKey)>,
    /// An address waits no more.
    news: bool,
}

impl Unheard {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn contains(&self, key: &AssignmentKey) -> bool {
        self.keys.contains(key)
    }

    pub(super) fn insert(&mut self, key: &AssignmentKey) {
        self.keys.insert(key.clone());
        self.fresh.insert(key.clone());
    }

    pub(super) fn remove(&mut self, key: &AssignmentKey) {
        self.fresh.remove(key);
        self.news |= self.keys.remove(key);
    }

    /// Finds out how long new ones wait.
    pub(super) fn schedule(&mut self, former: &Former, limit: Limit<'_>) {
        for key in std::mem::take(&mut self.fresh) {
            let limit = limit(&key);
            let ends = former.answering_freely(&key).map(|left| left.end(limit));
            let ends: Vec<_> = ends.map(|end| (end, key.clone())).collect();
            self.ends.extend(ends);
        }
    }

    /// When [`Self::pass`] has something to do.
    pub(super) fn next_end(&self) -> Option<Moment> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Time has come this far.
    pub(super) fn pass(&mut self, former: &Former, now: Moment, limit: Limit<'_>) {
        while let Some((end, _)) = self.ends.first()
            && *end <= now
            && let Some((_, key)) = self.ends.pop_first()
        {
            let limit = limit(&key);
            let left = former.answering_freely(&key);
            match left.map(|left| left.end(limit)).max() {
                // The pool may wait for longer by now.
                Some(end) if end > now && self.keys.contains(&key) => {
                    self.ends.insert((end, key));
                }
                Some(_) | None => self.remove(&key),
            }
        }
    }

    /// Whether an address waits no more, since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }
}
