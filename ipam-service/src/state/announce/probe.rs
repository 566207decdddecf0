//! Which addresses a node has answered for already. An automatic choice that none has may be another
//! machine's: its first owner asks before it answers.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::Work;
use super::group::{Announced, Component};
use super::{AssignmentKey, Dirt, keys_of};
use crate::state::State;
use crate::state::address::Address;
use crate::state::model::AllocationId;
use crate::state::names::Name;

/// What was announced, by group.
pub(super) struct Told(BTreeMap<AllocationId, BTreeSet<Address>>);

impl Told {
    /// What is known of the addresses of each component, whichever group they were in.
    pub(super) fn gather(state: &State, dirt: &Dirt, work: &Work) -> Self {
        let components = work.components.iter();
        let told = components.map(|(id, component)| {
            let addresses = &component.addresses;
            let old = addresses.iter().filter_map(|key| work.old_group.get(key));
            let former = dirt.former.iter();
            let former = former.filter(|(_, held)| held.iter().any(|key| addresses.contains(key)));
            let groups = component.allocations.keys().chain(old);
            let groups: BTreeSet<_> = groups.chain(former.map(|(id, _)| id)).collect();
            let placements = groups
                .into_iter()
                .filter_map(|group| state.placement(*group));
            let known: BTreeSet<_> = placements.flat_map(|one| &one.announced).collect();
            let own = addresses.iter().map(|key| key.address);
            (*id, own.filter(|address| known.contains(address)).collect())
        });
        Self(told.collect())
    }

    /// Of this group.
    pub(super) fn of(&self, group: AllocationId) -> BTreeSet<Address> {
        self.0.get(&group).cloned().unwrap_or_default()
    }

    /// Says of what is announced what is to be probed first.
    pub(super) fn mark(&self, work: &Work, announced: &mut BTreeMap<AllocationId, Announced>) {
        for (id, announced) in announced {
            let (Some(told), Some(component)) = (self.0.get(id), work.components.get(id)) else {
                continue;
            };
            // Only by layer 2 another machine can have it.
            let assignments = announced.assignments.iter_mut();
            for assignment in assignments.filter(|one| one.interfaces.is_some()) {
                let address = assignment.key.address;
                assignment.probe = !told.contains(&address) && component.chose(address);
            }
        }
    }
}

impl Component {
    /// Whether nobody asked for this address.
    pub(super) fn chose(&self, address: Address) -> bool {
        let mut all = self.allocations.values();
        !all.any(|one| one.effective_claim().addresses.contains(&address))
    }
}

/// The addresses of a group of which it is not known that a node answered for them.
pub fn unannounced(state: &State, cluster: &Name, group: AllocationId) -> BTreeSet<Address> {
    let Some(placement) = state.placement(group).filter(|it| it.cluster == *cluster) else {
        return BTreeSet::new();
    };
    let oldest = state.allocation_by_id(group);
    let first: Option<AssignmentKey> = oldest.and_then(|it| keys_of(it).next());
    let component = first.and_then(|key| Component::of(state, &key));
    let component = component.filter(|it| it.id() == group && it.is_of(cluster));
    let addresses = component.into_iter().flat_map(|it| it.addresses);
    let addresses = addresses.map(|key| key.address);
    addresses
        .filter(|address| !placement.announced.contains(address))
        .collect()
}
