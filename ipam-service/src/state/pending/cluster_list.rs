//! Claims of one cluster in one space that wait for something of a pool.
//!
//! Apart by family: of a pool without IPv6 addresses every owner that would like both has one and
//! waits for the other, and an IPv4 address that comes free is nothing to any of them.

use std::collections::BTreeMap;

use super::{Ids, waits_for};
use crate::state::address::Family;
use crate::state::model::{Allocation, AllocationId, Families};
use crate::state::names::Name;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterList {
    /// For an address of any pool.
    pub(super) any_pool: ByFamily,
    /// For something of the pool of this name, a certain address included. None is empty.
    by_pool: BTreeMap<Name, ByFamily>,
}

/// By the family of the addresses that could help them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ByFamily {
    v4: Ids,
    v6: Ids,
}

impl ByFamily {
    pub(super) fn of(&self, family: Family) -> &Ids {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Who waits for both is named twice.
    pub(super) fn all(&self) -> impl Iterator<Item = &AllocationId> {
        self.v4.iter().chain(&self.v6)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn insert(&mut self, id: AllocationId, families: &[Family]) {
        for family in families {
            match family {
                Family::V4 => self.v4.insert(id),
                Family::V6 => self.v6.insert(id),
            };
        }
    }

    fn remove(&mut self, id: AllocationId) {
        self.v4.remove(&id);
        self.v6.remove(&id);
    }
}

impl ClusterList {
    pub(super) fn in_pool(&self, name: &Name) -> Option<&ByFamily> {
        self.by_pool.get(name)
    }

    pub(super) fn insert(
        &mut self,
        id: AllocationId,
        families: &[Family],
        any_pool: bool,
        pools: &[&Name],
    ) {
        if any_pool {
            self.any_pool.insert(id, families);
        }
        for pool in pools {
            let list = self.by_pool.entry((*pool).clone()).or_default();
            list.insert(id, families);
        }
    }

    pub(super) fn remove(&mut self, id: AllocationId, pools: &[&Name]) {
        self.any_pool.remove(id);
        for pool in pools {
            if let Some(list) = self.by_pool.get_mut(*pool) {
                list.remove(id);
                if list.is_empty() {
                    self.by_pool.remove(*pool);
                }
            }
        }
    }
}

/// Families of which an address could help an allocation that is to be decided again, whatever it
/// holds then.
pub(super) fn families_of(one: &Allocation) -> &'static [Family] {
    match one.claim.families {
        Families::One(Family::V4) => &[Family::V4],
        Families::One(Family::V6) => &[Family::V6],
        Families::Any | Families::Both | Families::PreferBoth { .. } => &Family::ALL,
    }
}

/// Families of which an address could help an allocation that waits.
pub(super) fn families_waited_for(one: &Allocation) -> &'static [Family] {
    match (waits_only_for_second(one), one.addresses.first()) {
        (true, Some(first)) if first.family() == Family::V4 => &[Family::V6],
        (true, Some(_)) => &[Family::V4],
        (_, _) => families_of(one),
    }
}

/// Whether it has what it asks for, and would like one address more.
fn waits_only_for_second(one: &Allocation) -> bool {
    !one.waits() && waits_for(one).is_some()
}
