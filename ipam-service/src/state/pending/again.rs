//! Allocations that are to be decided again whatever the outcome, and what each could take by it.
//!
//! An edit of a pool can strand 100,000 holders. A newcomer that asks for an address meanwhile is
//! held against those only who could take it, found by pool and by address.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::by_owner::ByOwner;
use super::cluster_list::{ClusterList, families_of};
use super::{Ids, pools_of_a_half, take_out, waits_for};
use crate::state::State;
use crate::state::address::{Address, AddressRange};
use crate::state::model::{Allocation, AllocationId, Quota, ReservationKey};
use crate::state::names::Name;
use crate::state::quota::Bucket;

/// Marked allocations that are looked at for one address of a newcomer, or for room that it would take. Who finds more in its way
/// waits behind them: it is decided again when they have been.
pub(super) const LOOKED_AT: usize = 256;

/// The marks, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Again {
    ids: Ids,
    /// Marked, and not entered below yet.
    fresh: Vec<AllocationId>,
    /// How many were ever entered there.
    #[cfg(test)]
    pub(super) made: usize,
    /// Those that ask for this very address, or hold it.
    by_address: BTreeMap<(Name, Address), Ids>,
    /// By address space and cluster: what the others could take.
    by_cluster: BTreeMap<Name, BTreeMap<Name, ClusterList>>,
    /// Those that name a reservation.
    by_reservation: BTreeMap<ReservationKey, Ids>,
    /// All.
    by_owner: ByOwner,
}

/// What an allocation that is decided again could take. More than that does no harm.
struct Wishes<'a> {
    addresses: Vec<Address>,
    /// That is open to automatic choice.
    any_pool: bool,
    pools: Vec<&'a Name>,
    reservation: Option<ReservationKey>,
}

fn wishes(one: &Allocation) -> Wishes<'_> {
    let claim = &one.claim;
    let mut addresses = claim.addresses.clone();
    if one
        .pool
        .as_ref()
        .is_some_and(|pool| pool.space == claim.space)
    {
        addresses.extend(&one.addresses);
    }
    let reservation = claim.reservation.as_ref().map(|name| ReservationKey {
        space: claim.space.clone(),
        name: name.clone(),
    });
    let is_open = claim.addresses.is_empty() && reservation.is_none();
    let halves = pools_of_a_half(one).map(|pool| &pool.name);
    Wishes {
        addresses,
        any_pool: is_open && claim.pool.is_none(),
        pools: claim
            .pool
            .iter()
            .chain(halves)
            .filter(|_| is_open)
            .collect(),
        reservation,
    }
}

impl Again {
    /// Marks; [`State::enter_marks`] is to follow.
    pub(super) fn mark(&mut self, id: AllocationId) {
        self.mark_all([&id]);
    }

    pub(super) fn mark_all<'a>(&mut self, ids: impl IntoIterator<Item = &'a AllocationId>) {
        #[cfg(test)]
        let before = self.fresh.len();
        self.fresh.extend(ids);
        #[cfg(test)]
        {
            self.made += self.fresh.len() - before;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.fresh.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Those of the owners of whom a quota speaks, within a bucket.
    pub(super) fn of_quota(&self, quota: &Quota, bucket: &Bucket) -> Option<&Ids> {
        self.by_owner.of_quota(quota, Some(bucket))
    }

    pub(super) fn contains(&self, id: AllocationId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn first(&self) -> Option<AllocationId> {
        self.ids.first().copied()
    }

    pub(super) fn has_before(&self, id: AllocationId) -> bool {
        self.first().is_some_and(|first| first < id)
    }

    /// A marked allocation is another one now, or gone.
    pub(super) fn replace(&mut self, before: &Allocation, after: Option<&Allocation>) {
        if self.ids.remove(&before.id) {
            self.leave(before);
            if let Some(after) = after {
                self.enter(after);
            }
        }
    }

    /// The mark is used up.
    pub(super) fn unmark(&mut self, one: &Allocation) {
        self.replace(one, None);
    }

    /// A mark of something that is not there any more.
    pub(super) fn drop_mark(&mut self, id: AllocationId) {
        self.ids.remove(&id);
    }

    fn enter(&mut self, one: &Allocation) {
        if !self.ids.insert(one.id) {
            return;
        }
        self.by_owner.insert(one);
        let wishes = wishes(one);
        let space = &one.claim.space;
        for address in wishes.addresses {
            let key = (space.clone(), address);
            self.by_address.entry(key).or_default().insert(one.id);
        }
        if let Some(key) = wishes.reservation {
            self.by_reservation.entry(key).or_default().insert(one.id);
        }
        if wishes.any_pool || !wishes.pools.is_empty() {
            let clusters = self.by_cluster.entry(space.clone()).or_default();
            let list = clusters.entry(one.owner.key.cluster.clone()).or_default();
            // Whoever may not stay where it is takes either family.
            list.insert(one.id, families_of(one), wishes.any_pool, &wishes.pools);
        }
    }

    fn leave(&mut self, one: &Allocation) {
        self.by_owner.remove(one);
        let wishes = wishes(one);
        let space = &one.claim.space;
        for address in wishes.addresses {
            take_out(&mut self.by_address, &(space.clone(), address), one.id);
        }
        if let Some(key) = wishes.reservation {
            take_out(&mut self.by_reservation, &key, one.id);
        }
        let Some(clusters) = self.by_cluster.get_mut(space) else {
            return;
        };
        let cluster = &one.owner.key.cluster;
        if let Some(list) = clusters.get_mut(cluster) {
            list.remove(one.id, &wishes.pools);
            if *list == ClusterList::default() {
                clusters.remove(cluster);
            }
        }
        if clusters.is_empty() {
            self.by_cluster.remove(space);
        }
    }
}

impl State {
    /// Enters what was marked since the last time.
    pub(in crate::state) fn enter_marks(&mut self) {
        let again = &mut self.waiting.marks.again;
        for id in std::mem::take(&mut again.fresh) {
            if let Some(one) = self.by_id.get(&id) {
                again.enter(&one.0);
            }
        }
    }

    /// Marked allocations that ask for an address of these ranges, or hold it; each once.
    pub(in crate::state) fn marked_in(&self, space: &Name, ranges: &[AddressRange]) -> Ids {
        let by_address = &self.waiting.marks.again.by_address;
        let marked = ranges.iter().flat_map(|range| {
            let [first, last] = [range.first(), range.last()].map(|end| (space.clone(), end));
            by_address.range(first..=last)
        });
        marked.flat_map(|(_, ids)| ids).copied().collect()
    }

    /// Takes the marks off those of them who have all they ask for where they may stay: an edit of a
    /// pool or of grants that is taken back, or only tried out, leaves nothing to be decided again.
    pub(in crate::state) fn unmark_content(&mut self, ids: impl IntoIterator<Item = AllocationId>) {
        let again = &self.waiting.marks.again;
        let marked = ids.into_iter().filter(|id| again.contains(*id));
        let marked = marked.filter_map(|id| self.allocation_by_id(id));
        let is_content = |one: &&Arc<Allocation>| {
            self.waiting.marks.count_look();
            waits_for(one).is_none() && !one.outside_grant && self.is_in_place(one)
        };
        let content: Vec<Arc<Allocation>> = marked.filter(is_content).cloned().collect();
        for one in content {
            self.waiting.marks.again.unmark(&one);
        }
    }

    /// Whether a marked allocation older than `arrival` could take an address, as far as
    /// `could_use` says of it.
    pub(super) fn has_marked_taker(
        &self,
        space: &Name,
        address: Address,
        arrival: AllocationId,
        could_use: impl Fn(AllocationId) -> bool,
    ) -> bool {
        let again = &self.waiting.marks.again;
        let lists = &self.waiting.lists;
        let everyone = self.waiting.marks.everyone;
        let mut left = LOOKED_AT;
        let mut is_behind = |ids: Option<&Ids>| {
            for id in ids.into_iter().flat_map(|ids| ids.range(..arrival)) {
                if left == 0 {
                    return true;
                }
                left -= 1;
                self.waiting.marks.count_look();
                if could_use(*id) {
                    return true;
                }
            }
            false
        };
        let key = (space.clone(), address);
        if is_behind(again.by_address.get(&key)) {
            return true;
        }
        let mut through_pools = self.waiting_through_pools(&again.by_cluster, space, address);
        if through_pools.any(|ids| is_behind(Some(ids))) {
            return true;
        }
        if let Some(reservation) = self.space(space).reservation(address)
            && is_behind(again.by_reservation.get(&reservation.key))
        {
            return true;
        }
        everyone && is_behind(Some(&lists.all))
    }
}
