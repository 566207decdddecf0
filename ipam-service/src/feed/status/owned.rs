//! What one node says that it answers for, within limits.

use std::collections::BTreeMap;

use pharos_proto::v1;

use crate::state::model::AllocationId;

/// Most groups of one node. More than any holds; a node that says more is not believed.
pub(super) const MAX_OWNED: usize = 1_000_000;

/// Most bytes of the names of nodes and interfaces that one node tells with its groups: some names for each of
/// [`MAX_OWNED`].
pub(super) const MAX_NAMES_BYTES: usize = 128 * 1024 * 1024;

/// The groups of one node. What is beyond the limits is not kept: of the others nobody knows then whether the node
/// answers for them.
#[derive(Debug, Default)]
pub(super) struct Owned {
    by_group: BTreeMap<AllocationId, v1::Ownership>,
    names_bytes: usize,
    /// Something was not kept since the node told everything.
    is_cut: bool,
}

impl Owned {
    pub(super) fn get(&self, group: AllocationId) -> Option<&v1::Ownership> {
        self.by_group.get(&group)
    }

    /// Whether the node may answer for more than is kept.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = AllocationId> + Clone {
        self.by_group.keys().copied()
    }

    /// Forgets all, and says what that was.
    pub(super) fn take(&mut self) -> impl Iterator<Item = AllocationId> + use<> {
        std::mem::take(self).by_group.into_keys()
    }

    pub(super) fn insert(&mut self, ownership: &v1::Ownership) {
        self.remove(ownership.group);
        let names_bytes = self.names_bytes + names_bytes(ownership);
        if self.by_group.len() < MAX_OWNED && names_bytes <= MAX_NAMES_BYTES {
            self.names_bytes = names_bytes;
            self.by_group.insert(ownership.group, ownership.clone());
        } else {
            self.is_cut = true;
        }
    }

    pub(super) fn remove(&mut self, group: AllocationId) {
        if let Some(known) = self.by_group.remove(&group) {
            self.names_bytes -= names_bytes(&known);
        }
    }
}

fn names_bytes(ownership: &v1::Ownership) -> usize {
    let interfaces = ownership.interfaces.iter().map(String::len);
    ownership.from.len() + interfaces.sum::<usize>()
}
