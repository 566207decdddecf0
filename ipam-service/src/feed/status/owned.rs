//! What one node says that it answers for, within limits.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;

use crate::state::model::AllocationId;

/// Most groups of one node. More than any holds; a node that says more is not believed.
pub(super) const MAX_OWNED: usize = 1_000_000;

/// Most bytes of the texts that one node tells with its groups, names of nodes and interfaces and addresses: some of
/// them for each of [`MAX_OWNED`].
pub(super) const MAX_TEXT_BYTES: usize = 128 * 1024 * 1024;

/// The groups of one node. What is beyond the limits is not kept: of the others nobody knows then whether the node
/// answers for them.
#[derive(Debug, Default)]
pub(super) struct Owned {
    by_group: BTreeMap<AllocationId, v1::Ownership>,
    text_bytes: usize,
    /// Something was not kept since the node told everything.
    is_cut: bool,
    /// It tells everything anew now.
    anew: Option<Anew>,
}

/// What is known of a node that tells everything anew: until it has, what it told before stands.
#[derive(Debug, Default)]
struct Anew {
    /// Groups that it has not told of again.
    former: BTreeSet<AllocationId>,
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

    /// The node begins to tell everything anew.
    pub(super) fn begin_anew(&mut self) {
        self.anew = Some(Anew {
            former: self.groups().collect(),
            is_cut: false,
        });
    }

    /// It will not come to the end of it.
    pub(super) fn give_up(&mut self) {
        self.anew = None;
    }

    /// It has told everything: what it did not tell again is forgotten. Says what that was; `None`: it did not
    /// begin to.
    pub(super) fn end_anew(&mut self) -> Option<BTreeSet<AllocationId>> {
        let anew = self.anew.take()?;
        self.is_cut = anew.is_cut;
        for group in &anew.former {
            self.take_out(*group);
        }
        Some(anew.former)
    }

    /// Says what had to be forgotten for it.
    pub(super) fn insert(&mut self, ownership: &v1::Ownership) -> Vec<AllocationId> {
        let mut forgotten = Vec::new();
        self.remove(ownership.group);
        while !self.has_room(ownership) {
            let former = self.anew.as_mut().and_then(|anew| anew.former.pop_first());
            let Some(former) = former else {
                self.is_cut = true;
                if let Some(anew) = &mut self.anew {
                    anew.is_cut = true;
                }
                return forgotten;
            };
            self.take_out(former);
            forgotten.push(former);
        }
        self.text_bytes += text_bytes(ownership);
        self.by_group.insert(ownership.group, ownership.clone());
        forgotten
    }

    pub(super) fn remove(&mut self, group: AllocationId) {
        if let Some(anew) = &mut self.anew {
            anew.former.remove(&group);
        }
        self.take_out(group);
    }

    fn take_out(&mut self, group: AllocationId) {
        if let Some(known) = self.by_group.remove(&group) {
            self.text_bytes -= text_bytes(&known);
        }
    }

    fn has_room(&self, ownership: &v1::Ownership) -> bool {
        let text_bytes = self.text_bytes + text_bytes(ownership);
        self.by_group.len() < MAX_OWNED && text_bytes <= MAX_TEXT_BYTES
    }
}

/// What they take in memory, as far as the node decides how much that is.
fn text_bytes(ownership: &v1::Ownership) -> usize {
    let answers = ownership.answers.iter();
    let answers = answers.flat_map(|it| [&it.addresses, &it.nowhere]);
    let told = [
        &ownership.interfaces,
        &ownership.probing,
        &ownership.answered,
    ];
    let texts = told.into_iter().chain(answers).flatten();
    let texts = texts.map(|text| text.len() + size_of::<String>());
    ownership.from.len() + texts.sum::<usize>()
}
