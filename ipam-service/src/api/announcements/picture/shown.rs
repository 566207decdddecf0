//! What a watcher was shown, as far as it must be known to say whether something else is to be shown.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::waiting::Waiting;
use crate::api::announcements::describe::{Description, RestsOn};
use crate::state::announce::AssignmentKey;
use crate::state::model::AllocationId;

/// All addresses that a watcher was shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    by_key: BTreeMap<AssignmentKey, One>,
    by_group: BTreeMap<AllocationId, BTreeSet<AssignmentKey>>,
    /// Those that are not assigned.
    unassigned: BTreeSet<AssignmentKey>,
    /// Those that nobody says to own, by who may answer.
    pub(super) waiting: Waiting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct One {
    group: AllocationId,
    digest: Digest,
    rests_on: Index,
}

/// In which index it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    None,
    Unassigned,
    /// Id of the set of nodes.
    Waiting(u64),
}

/// Of an announcement: who watches thousands of addresses would keep megabytes of them otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest([u8; 16]);

impl Digest {
    fn of(wire: &v1::Announcement) -> Self {
        let digest = Sha256::digest(wire.encode_to_vec());
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(first)
    }
}

impl Shown {
    /// Shows this from now on; whether it is something else than before. `todo` is given what is to be looked at
    /// again for it.
    pub(super) fn put(
        &mut self,
        key: &AssignmentKey,
        description: &Description,
        todo: &mut BTreeSet<AssignmentKey>,
    ) -> bool {
        let one = One {
            group: description.wire.group,
            digest: Digest::of(&description.wire),
            rests_on: match &description.rests_on {
                RestsOn::Answerers => Index::None,
                RestsOn::Policy => Index::Unassigned,
                RestsOn::Nodes(nodes, _) => Index::Waiting(nodes.id),
            },
        };
        let before = self.by_key.insert(key.clone(), one);
        if let Some(before) = before {
            self.leave(key, before, Some(one));
        }
        self.by_group
            .entry(one.group)
            .or_default()
            .insert(key.clone());
        match &description.rests_on {
            RestsOn::Answerers => {}
            RestsOn::Policy => {
                self.unassigned.insert(key.clone());
            }
            RestsOn::Nodes(nodes, presence) => {
                todo.extend(self.waiting.insert(key, nodes, presence));
            }
        }
        before.is_none_or(|before| before.digest != one.digest)
    }

    /// Whether it was shown.
    pub(super) fn remove(&mut self, key: &AssignmentKey) -> bool {
        let before = self.by_key.remove(key);
        if let Some(before) = before {
            self.leave(key, before, None);
        }
        before.is_some()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &AssignmentKey> {
        self.by_key.keys()
    }

    /// All of a group.
    pub(super) fn of_group(&self, group: AllocationId) -> impl Iterator<Item = &AssignmentKey> {
        self.by_group.get(&group).into_iter().flatten()
    }

    /// All of its group.
    pub(super) fn together_with(
        &self,
        key: &AssignmentKey,
    ) -> impl Iterator<Item = &AssignmentKey> {
        let group = self.by_key.get(key).map(|one| one.group);
        group.into_iter().flat_map(|group| self.of_group(group))
    }

    /// Those that are not assigned.
    pub(super) fn unassigned(&self) -> impl Iterator<Item = &AssignmentKey> {
        self.unassigned.iter()
    }

    /// Takes it out of the indices in which it is not any more.
    fn leave(&mut self, key: &AssignmentKey, before: One, after: Option<One>) {
        if after.map(|after| after.group) != Some(before.group)
            && let Some(keys) = self.by_group.get_mut(&before.group)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_group.remove(&before.group);
            }
        }
        if after.map(|after| after.rests_on) == Some(before.rests_on) {
            return;
        }
        match before.rests_on {
            Index::None => {}
            Index::Unassigned => {
                self.unassigned.remove(key);
            }
            Index::Waiting(set) => self.waiting.remove(key, set),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}
