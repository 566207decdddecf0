//! Claims that wait, by what they wait for.

use std::collections::{BTreeMap, BTreeSet};

use super::by_owner::ByOwner;
use super::cluster_list::{ClusterList, families_waited_for};
use crate::state::address::Address;
use crate::state::model::{Allocation, AllocationId, Families, PoolKey, ReservationKey, Standing};
use crate::state::names::Name;
use crate::state::sharing::ShareKey;

pub(super) type Ids = BTreeSet<AllocationId>;

/// Claims that wait, by what they wait for. Every list is sorted by arrival and never empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct Lists {
    pub(super) all: Ids,
    /// Claims for this very address, or held there under an earlier claim.
    pub(super) by_address: BTreeMap<(Name, Address), Ids>,
    /// By address space and cluster: the others.
    pub(super) by_cluster: BTreeMap<Name, BTreeMap<Name, ClusterList>>,
    /// All.
    pub(super) by_owner: ByOwner,
    /// Those of the others that would share an address under this key.
    pub(super) by_share_key: BTreeMap<(Name, ShareKey), Ids>,
    /// Those that name a reservation.
    pub(super) by_reservation: BTreeMap<ReservationKey, Ids>,
}

/// What a claim waits for.
pub(super) struct WaitsFor<'a> {
    /// Those that it asks for, and one that is held under an earlier claim: there it may fit once
    /// the others who share it have changed.
    pub(super) addresses: Vec<Address>,
    /// For what any pool may give.
    pub(super) any_pool: bool,
    /// For what these pools may give: the one that it names, and the one that has given one family
    /// and may give the other.
    pub(super) pools: Vec<&'a Name>,
    pub(super) share_key: Option<ShareKey>,
    pub(super) reservation: Option<ReservationKey>,
}

/// What an allocation waits for, if it waits: one that is pending or stale for its claim; one that
/// would like both families and has one, for the other from the same pool.
pub(super) fn waits_for(allocation: &Allocation) -> Option<WaitsFor<'_>> {
    let claim = &allocation.claim;
    let is_content = allocation.standing == Standing::Assigned;
    let mut halves = pools_of_a_half(allocation).peekable();
    if is_content && halves.peek().is_none() {
        return None;
    }
    let mut addresses = claim.addresses.clone();
    if let Standing::Stale { .. } = allocation.standing {
        let held = allocation
            .pool
            .as_ref()
            .filter(|pool| pool.space == claim.space);
        addresses.extend(held.map_or(&[][..], |_| &allocation.addresses));
    }
    let named = claim.pool.as_ref().filter(|_| !is_content);
    let halves = halves.map(|pool| &pool.name);
    let halves = halves.filter(|name| Some(*name) != named);
    let share_key = ShareKey::of(&allocation.owner.key, claim);
    let open = claim.pool.is_none() && claim.reservation.is_none() && claim.addresses.is_empty();
    Some(WaitsFor {
        addresses,
        any_pool: open && (!is_content || claim.allows_two_pools()),
        pools: named.into_iter().chain(halves).collect(),
        share_key: share_key.filter(|_| claim.addresses.is_empty()),
        reservation: claim.reservation.as_ref().map(|name| ReservationKey {
            space: claim.space.clone(),
            name: name.clone(),
        }),
    })
}

/// The pool that has given one address to a claim that has a use for a second one from it.
pub(super) fn lacks_second_family(allocation: &Allocation) -> Option<&PoolKey> {
    let claim = &allocation.claim;
    let wants_two = match claim.families {
        Families::PreferBoth { .. } => true,
        Families::Both => allocation.standing != Standing::Assigned,
        Families::One(_) | Families::Any => false,
    };
    let pool = allocation.pool.as_ref();
    pool.filter(|pool| {
        wants_two
            && pool.space == claim.space
            && claim.addresses.is_empty()
            && allocation.addresses.len() == 1
    })
}

/// The pools of which a claim for both families may keep one address and take another beside it: that of
/// the only one, and those of two that it holds under an earlier claim.
pub(super) fn pools_of_a_half(allocation: &Allocation) -> impl Iterator<Item = &PoolKey> {
    let claim = &allocation.claim;
    let is_stale = matches!(allocation.standing, Standing::Stale { .. });
    let wants_two = matches!(claim.families, Families::Both | Families::PreferBoth { .. });
    let keeps_one_of_two = is_stale && wants_two && claim.addresses.is_empty();
    let takes_another = keeps_one_of_two || lacks_second_family(allocation).is_some();
    let pools = [&allocation.pool, &allocation.second_pool];
    let pools = pools.into_iter().flatten();
    pools.filter(move |pool| takes_another && pool.space == claim.space)
}

impl Lists {
    pub(super) fn insert(&mut self, allocation: &Allocation) {
        let Some(waits) = waits_for(allocation) else {
            return;
        };
        let id = allocation.id;
        let space = &allocation.claim.space;
        self.all.insert(id);
        self.by_owner.insert(allocation);
        for address in waits.addresses {
            let key = (space.clone(), address);
            self.by_address.entry(key).or_default().insert(id);
        }
        if waits.any_pool || !waits.pools.is_empty() {
            let clusters = self.by_cluster.entry(space.clone()).or_default();
            let cluster = allocation.owner.key.cluster.clone();
            let list = clusters.entry(cluster).or_default();
            let families = families_waited_for(allocation);
            list.insert(id, families, waits.any_pool, &waits.pools);
        }
        if let Some(key) = waits.share_key {
            let key = (space.clone(), key);
            self.by_share_key.entry(key).or_default().insert(id);
        }
        if let Some(key) = waits.reservation {
            self.by_reservation.entry(key).or_default().insert(id);
        }
    }

    pub(super) fn remove(&mut self, allocation: &Allocation) {
        let Some(waits) = waits_for(allocation) else {
            return;
        };
        let id = allocation.id;
        let space = &allocation.claim.space;
        self.all.remove(&id);
        self.by_owner.remove(allocation);
        for address in waits.addresses {
            take_out(&mut self.by_address, &(space.clone(), address), id);
        }
        if let Some(clusters) = self.by_cluster.get_mut(space) {
            let cluster = &allocation.owner.key.cluster;
            if let Some(list) = clusters.get_mut(cluster) {
                list.remove(id, &waits.pools);
                if *list == ClusterList::default() {
                    clusters.remove(cluster);
                }
            }
            if clusters.is_empty() {
                self.by_cluster.remove(space);
            }
        }
        if let Some(key) = waits.share_key {
            take_out(&mut self.by_share_key, &(space.clone(), key), id);
        }
        if let Some(key) = waits.reservation {
            take_out(&mut self.by_reservation, &key, id);
        }
    }
}

pub(super) fn take_out<K: Ord>(lists: &mut BTreeMap<K, Ids>, key: &K, id: AllocationId) {
    if let Some(ids) = lists.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            lists.remove(key);
        }
    }
}
