//! What a watcher of one cluster was shown, and what has changed of it since: what was touched is put
//! together anew, and nothing else. It knows no stream, and waits for nothing.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use tokio::time::Instant;

use super::announcement;
use crate::feed::Feeds;
use crate::feed::assignments::AssignmentFeed;
use crate::feed::status::StatusFeed;
use crate::feed::touched::{Keys, Touched};
use crate::state::announce::AssignmentKey;
use crate::state::model::AllocationId;
use crate::state::names::Name;

/// Empty at first.
pub(super) struct Picture {
    cluster: Name,
    assignments: AssignmentFeed,
    status: StatusFeed,
    assigned: Touched<AssignmentKey>,
    told: Touched<AllocationId>,
    shown: BTreeMap<AssignmentKey, v1::Announcement>,
    /// The addresses of `shown`, by group.
    by_group: BTreeMap<AllocationId, BTreeSet<AssignmentKey>>,
    is_begun: bool,
}

/// How a picture differs from what it was.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// By address.
    pub(super) changed: Vec<v1::Announcement>,
    /// By address.
    pub(super) gone: Vec<AssignmentKey>,
}

impl Picture {
    pub(super) fn new(feeds: &Feeds, cluster: Name) -> Self {
        Self {
            assigned: feeds.assignments.touched(&cluster),
            told: feeds.status.touched(&cluster),
            assignments: feeds.assignments.clone(),
            status: feeds.status.clone(),
            cluster,
            shown: BTreeMap::new(),
            by_group: BTreeMap::new(),
            is_begun: false,
        }
    }

    /// Waits until something may have changed. Cancel safe.
    pub(super) async fn changed(&self) {
        tokio::select! {
            () = self.assigned.changed() => {}
            () = self.told.changed() => {}
        }
    }

    /// Brings it up to date: all of it the first time.
    pub(super) fn refresh(&mut self, now: Instant) -> Difference {
        self.status.forget(now);
        let keys = self.touched();
        let assigned = self.assignments.assigned_at(&self.cluster, &keys);
        let groups = assigned.iter().map(|one| one.group).collect();
        let answerers = self.status.answerers(&self.cluster, &groups, now);
        let mut gone = keys;
        let mut changed = Vec::new();
        for one in &assigned {
            gone.remove(&one.key);
            let wire = announcement(one, &answerers);
            if self.shown.get(&one.key) != Some(&wire) {
                self.hide(&one.key);
                let of_group = self.by_group.entry(one.group).or_default();
                of_group.insert(one.key.clone());
                self.shown.insert(one.key.clone(), wire.clone());
                changed.push(wire);
            }
        }
        gone.retain(|key| self.hide(key));
        Difference {
            changed,
            gone: gone.into_iter().collect(),
        }
    }

    /// What is to be looked at. It is taken before anything is read: what changes meanwhile is touched again.
    fn touched(&mut self) -> BTreeSet<AssignmentKey> {
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        match (self.assigned.take(), self.told.take()) {
            (Keys::These(mut keys), Keys::These(groups)) if is_begun => {
                let of_groups = groups.iter().filter_map(|group| self.by_group.get(group));
                keys.extend(of_groups.flatten().cloned());
                keys
            }
            _ => {
                let assigned = self.assignments.assigned(&self.cluster);
                let assigned = assigned.iter().map(|one| &one.key);
                self.shown.keys().chain(assigned).cloned().collect()
            }
        }
    }

    /// Whether it was shown.
    fn hide(&mut self, key: &AssignmentKey) -> bool {
        let Some(shown) = self.shown.remove(key) else {
            return false;
        };
        if let Some(keys) = self.by_group.get_mut(&shown.group) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_group.remove(&shown.group);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
