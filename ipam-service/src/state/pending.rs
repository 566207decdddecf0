//! Claims that wait, indexed by what they wait for, and which of them are to be decided again.
//!
//! Two kinds of marks lead to a new decision. *Again*: this very claim, whatever the outcome (its
//! pool was edited, its address may not be kept, it stood behind older claims). *Offers*: an
//! address that came free, or that can be shared now, is offered to the claims that could use it,
//! one after the other in arrival order, until somebody has taken it; so one freed address costs
//! one decision, however many claims wait.
//!
//! Arrival order is the order of allocation ids. The marks are not part of the store: after a
//! restart everything that waits is marked.

mod again;
mod by_owner;
mod cluster_list;
pub(super) mod limit;
mod lists;
mod queue;
mod rooms;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use self::again::Again;
use self::cluster_list::{ByFamily, ClusterList, families_waited_for};
use self::lists::{
    Ids, Lists, WaitsFor, lacks_second_family, pools_of_a_half, take_out, waits_for,
};
use super::State;
use super::address::{Address, AddressRange, Family};
use super::choice::Asking;
use super::command::Command;
use super::model::{Allocation, AllocationId, Families, OwnerKey, Pool, ReservationKey, Standing};
use super::names::Name;
use super::pool::{self, Holding, Homes, Pools};
use super::quota::Slot;
use super::space::Obstacle;

/// All that waits, and the marks.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) lists: Lists,
    marks: Marks,
}

#[derive(Debug, Default)]
struct Marks {
    again: Again,
    /// Lists of which all are marked: a set of many pools is as many changes that concern the same
    /// claims. Nothing is known any more when a mark is used up or a claim comes to wait.
    all_marked: BTreeSet<Marked>,
    /// Everything that waits is to be decided again.
    everyone: bool,
    /// Offers, by the next claim that could use the address.
    offers: BTreeSet<(AllocationId, Name, Address)>,
    /// The same by address.
    offered: BTreeMap<(Name, Address), AllocationId>,
    /// Room within a quota, offered like an address: by the next claim that it could help.
    rooms: BTreeSet<(AllocationId, Slot)>,
    /// The same by quota.
    next_for_room: BTreeMap<Slot, AllocationId>,
    /// Allocations that were held against an address of a newcomer, or one that came free.
    #[cfg(test)]
    looked_at: std::sync::atomic::AtomicUsize,
}

/// A list of claims that wait.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Marked {
    /// For any pool: of a space and a cluster.
    AnyPool(Name, Name),
    /// For reservations of a space.
    Reservations(Name),
}

impl Marks {
    /// Marks the claims of a cluster for any pool.
    fn mark_any_pool(&mut self, space: &Name, cluster: &Name, list: &ClusterList) {
        let all = || Marked::AnyPool(space.clone(), cluster.clone());
        if !list.any_pool.is_empty() && self.all_marked.insert(all()) {
            self.again.mark_all(list.any_pool.all());
        }
    }

    fn count_look(&self) {
        #[cfg(test)]
        self.looked_at
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Waiting {
    /// Follows a change of an allocation. Offers are made by [`State::offer`].
    pub(super) fn replace(&mut self, before: Option<&Allocation>, after: Option<&Allocation>) {
        self.marks.all_marked.clear();
        if let Some(before) = before {
            self.lists.remove(before);
        }
        if let Some(after) = after {
            self.lists.insert(after);
        }
        if let Some(before) = before {
            self.marks.again.replace(before, after);
        }
        match (before, after) {
            // Older claims are decided first, and then it is this one's turn.
            (_, Some(after)) if self.stood_behind_older(after) => self.mark(after.id),
            (_, _) => {}
        }
    }

    /// Whether an answer that leaves something to wait for may be due to older claims that are
    /// about to be decided.
    fn stood_behind_older(&self, answered: &Allocation) -> bool {
        let offer = self.marks.offers.first();
        let older_is_marked = offer.is_some_and(|(next, _, _)| *next < answered.id)
            || self.marks.again.has_before(answered.id)
            || (self.marks.everyone && self.lists.all.first() < Some(&answered.id));
        let room = self.marks.rooms.first();
        let older_is_marked = older_is_marked || room.is_some_and(|(next, _)| *next < answered.id);
        older_is_marked && waits_for(answered).is_some()
    }

    /// Marks one allocation for a new decision.
    pub(super) fn mark(&mut self, id: AllocationId) {
        self.marks.again.mark(id);
    }

    /// Marks everything that waits. Offers are contained in that.
    pub(super) fn mark_everyone(&mut self) {
        self.marks.everyone = true;
        self.marks.offers.clear();
        self.marks.offered.clear();
        self.marks.rooms.clear();
        self.marks.next_for_room.clear();
    }

    /// Marks the claims that a change of a pool can concern: those that may draw from it, and
    /// those for an address in it. `cluster`: only that cluster sees the change.
    pub(super) fn mark_for_pool(&mut self, pool: &Pool, cluster: Option<&Name>) {
        let space = &pool.key.space;
        let clusters = self.lists.by_cluster.get(space);
        for (name, list) in clusters.into_iter().flatten() {
            if cluster.is_some_and(|only| only != name) {
                continue;
            }
            if pool.auto_assign {
                self.marks.mark_any_pool(space, name, list);
            }
            let named = list.in_pool(&pool.key.name).into_iter();
            self.marks.again.mark_all(named.flat_map(ByFamily::all));
        }
        // Whatever reservation they name may lie in the pool.
        let all = Marked::Reservations(space.clone());
        if !self.lists.by_reservation.is_empty() && self.marks.all_marked.insert(all) {
            for (key, ids) in &self.lists.by_reservation {
                if key.space == *space {
                    self.marks.again.mark_all(ids);
                }
            }
        }
        self.mark_for_addresses(space, &pool.ranges);
    }

    /// Clusters of whose owners something waits in a space.
    pub(super) fn clusters(&self, space: &Name) -> impl Iterator<Item = &Name> {
        self.lists.by_owner.clusters(space)
    }

    /// Marks all claims of a cluster in a space.
    pub(super) fn mark_for_cluster(&mut self, space: &Name, cluster: &Name) {
        if let Some(ids) = self.lists.by_owner.of_cluster(space, cluster) {
            self.marks.again.mark_all(ids);
        }
    }

    /// Marks the claims that name a reservation.
    pub(super) fn mark_for_reservation(&mut self, key: &ReservationKey) {
        if let Some(ids) = self.lists.by_reservation.get(key) {
            self.marks.again.mark_all(ids);
        }
    }

    /// Marks the claims that could use addresses of these ranges: those that may draw from a pool
    /// that has one of them in it, and those for one of them.
    pub(super) fn mark_for_ranges(&mut self, pools: &Pools, space: &Name, ranges: &[AddressRange]) {
        let clusters = self.lists.by_cluster.get(space);
        for (cluster, list) in clusters.into_iter().flatten() {
            for pool in pools.view(space, cluster).all() {
                let mut of_pool = pool.ranges.iter();
                if !of_pool.any(|one| ranges.iter().any(|range| range.overlaps(*one))) {
                    continue;
                }
                if pool.auto_assign {
                    self.marks.mark_any_pool(space, cluster, list);
                }
                let named = list.in_pool(&pool.key.name).into_iter();
                self.marks.again.mark_all(named.flat_map(ByFamily::all));
            }
        }
        self.mark_for_addresses(space, ranges);
    }

    fn mark_for_addresses(&mut self, space: &Name, ranges: &[AddressRange]) {
        for range in ranges {
            let (first, last) = (range.first(), range.last());
            let within = (space.clone(), first)..=(space.clone(), last);
            for (_, ids) in self.lists.by_address.range(within) {
                self.marks.again.mark_all(ids);
            }
        }
    }

    /// Whether something may be to be decided again.
    pub(super) fn has_marks(&self) -> bool {
        let marks = &self.marks;
        marks.everyone
            || !marks.again.is_empty()
            || !marks.offers.is_empty()
            || !marks.rooms.is_empty()
    }

    /// How many allocations are to be decided again, whatever comes of it.
    pub(super) fn marked(&self) -> usize {
        self.marks.again.len()
    }
}

impl State {
    /// The next command that earlier changes made necessary, in arrival order.
    pub(super) fn next_marked(&mut self) -> Option<Command> {
        self.waiting.marks.all_marked.clear();
        loop {
            if std::mem::take(&mut self.waiting.marks.everyone) {
                let all = self.waiting.lists.all.iter();
                let all: Vec<AllocationId> = all.copied().filter(|id| self.may_gain(*id)).collect();
                self.waiting.marks.again.mark_all(&all);
                self.enter_marks();
            }
            let marks = &mut self.waiting.marks;
            let offer = marks.offers.first().cloned();
            let again = marks.again.first();
            let other = offer.as_ref().map(|(next, _, _)| *next);
            let other = [again, other].into_iter().flatten().min();
            if let Some((id, slot)) = marks.rooms.first().cloned()
                && other.is_none_or(|other| id < other)
            {
                let is_there = self.use_room(id, slot);
                match self.allocation_by_id(id).filter(|_| is_there) {
                    Some(one) => return Some(Command::Redecide(one.owner.key.clone())),
                    None => continue,
                }
            }
            let id = match (again, offer) {
                (None, None) => return None,
                (Some(id), None) => id,
                (Some(id), Some((next, _, _))) if id <= next => id,
                (_, Some((id, space, address))) => {
                    marks.offered.remove(&(space.clone(), address));
                    marks.offers.remove(&(id, space.clone(), address));
                    let is_free = self.space(&space).is_free(address);
                    let useful = self
                        .allocation_by_id(id)
                        .is_some_and(|one| self.could_use(one, address, is_free, None));
                    self.offer_after(&space, address, id);
                    if !useful {
                        continue;
                    }
                    id
                }
            };
            let again = &mut self.waiting.marks.again;
            match self.by_id.get(&id).map(|entry| &entry.0) {
                Some(one) => {
                    again.unmark(one);
                    return Some(Command::Redecide(one.owner.key.clone()));
                }
                None => again.drop_mark(id),
            }
        }
    }

    /// Whether a new decision may change anything for an allocation that waits. Those who only would
    /// like a second family can be nearly all there are: they are asked whether a pool has it.
    fn may_gain(&self, id: AllocationId) -> bool {
        let Some(one) = self.allocation_by_id(id) else {
            return false;
        };
        let Some(own) = lacks_second_family(one).filter(|_| !one.waits()) else {
            return true;
        };
        let asking = Asking::again(self, one);
        families_waited_for(one).iter().any(|family| {
            let mut own = self.pool(own).into_iter();
            own.any(|pool| asking.has_room(pool, *family))
                || (one.claim.allows_two_pools() && asking.has_room_anywhere(*family))
        })
    }

    /// Offers an address that came free, or whose holders changed, to those who wait for it.
    pub(super) fn offer(&mut self, space: &Name, address: Address) {
        self.offer_after(space, address, 0);
    }

    fn offer_after(&mut self, space: &Name, address: Address, after: AllocationId) {
        let next = self.next_taker(space, address, after, None);
        let marks = &mut self.waiting.marks;
        if let Some(old) = marks.offered.remove(&(space.clone(), address)) {
            marks.offers.remove(&(old, space.clone(), address));
        }
        if let Some(id) = next {
            marks.offered.insert((space.clone(), address), id);
            marks.offers.insert((id, space.clone(), address));
        }
    }

    /// Whether a claim that waits would take the address if this owner gave it back.
    pub(super) fn has_taker(&self, space: &Name, address: Address, from: &OwnerKey) -> bool {
        self.next_taker(space, address, 0, Some(from)).is_some()
    }

    /// Whether a claim that waits since before `arrival` is about to be decided and could take the
    /// address. One of the owner who asks does not count: its earlier incarnation goes in the same
    /// decision.
    pub(super) fn has_older_taker(
        &self,
        space: &Name,
        address: Address,
        arrival: AllocationId,
        asked_by: &OwnerKey,
    ) -> bool {
        let is_free = self.space(space).is_free(address);
        let is_own = |id: AllocationId| {
            let one = self.allocation_by_id(id);
            one.is_some_and(|one| one.owner.key == *asked_by)
        };
        let could_use = |id: AllocationId| {
            self.allocation_by_id(id).is_some_and(|one| {
                one.claim.space == *space
                    && one.owner.key != *asked_by
                    && self.could_use(one, address, is_free, None)
            })
        };
        let marks = &self.waiting.marks;
        if marks.again.is_empty() && marks.offered.is_empty() && !marks.everyone {
            return false;
        }
        let offered = marks.offered.get(&(space.clone(), address)).copied();
        let offered = match offered {
            Some(own) if is_own(own) => self.next_taker(space, address, own, None),
            offered => offered,
        };
        let offered = offered.filter(|id| *id < arrival);
        offered.is_some_and(could_use) || self.has_marked_taker(space, address, arrival, could_use)
    }

    /// Those among `by_cluster` to whom a pool could give the address, as far as pools and grants go:
    /// cluster by cluster, who waits for something of the pool, then who takes it from any.
    fn waiting_through_pools<'a>(
        &'a self,
        by_cluster: &'a BTreeMap<Name, BTreeMap<Name, ClusterList>>,
        space: &'a Name,
        address: Address,
    ) -> impl Iterator<Item = &'a Ids> {
        let clusters = by_cluster.get(space).into_iter().flatten();
        clusters.flat_map(move |(cluster, list)| {
            let view = self.pools.view(space, cluster);
            let in_reach = view.reach().contains(address);
            let mut containing = view.containing(address).filter(|_| in_reach);
            // One of the cluster's own and one of the operator's at most.
            let pools = [containing.next(), containing.next()];
            let any = pools.iter().flatten().any(|pool| pool.auto_assign);
            let named = pools.into_iter().flatten();
            let named = named.filter_map(|pool| list.in_pool(&pool.key.name));
            let lists = named.chain(any.then_some(&list.any_pool));
            lists.map(move |list| list.of(address.family()))
        })
    }

    /// The first claim after `after` that waits and could use the address. With `vacated_by` it
    /// counts as free, and that owner is left out.
    fn next_taker(
        &self,
        space: &Name,
        address: Address,
        after: AllocationId,
        vacated_by: Option<&OwnerKey>,
    ) -> Option<AllocationId> {
        let lists = &self.waiting.lists;
        if lists.all.is_empty() {
            return None;
        }
        let is_free = vacated_by.is_some() || self.space(space).is_free(address);
        let first_of = |ids: &Ids| {
            let later = ids.range((Excluded(after), Unbounded));
            later.copied().find(|id| {
                self.waiting.marks.count_look();
                self.allocation_by_id(*id).is_some_and(|one| {
                    Some(&one.owner.key) != vacated_by
                        && self.could_use(one, address, is_free, vacated_by)
                })
            })
        };
        let by_address = lists.by_address.get(&(space.clone(), address));
        let mut first = by_address.and_then(first_of);
        let mut consider = |ids: Option<&Ids>| {
            first = [first, ids.and_then(first_of)].into_iter().flatten().min();
        };
        if let Some(reservation) = self.space(space).reservation(address) {
            consider(lists.by_reservation.get(&reservation.key));
        }
        if is_free {
            self.waiting_through_pools(&lists.by_cluster, space, address)
                .for_each(|ids| consider(Some(ids)));
        } else if let Some(key) = self.space(space).share_key(address) {
            consider(lists.by_share_key.get(&(space.clone(), key)));
        }
        first
    }

    /// Whether an allocation that is to be decided again could take this address.
    fn could_use(
        &self,
        one: &Allocation,
        address: Address,
        is_free: bool,
        vacated_by: Option<&OwnerKey>,
    ) -> bool {
        let claim = &one.claim;
        let asking = Asking::again(self, one);
        let may_stay = asking.current.contains(&address);
        let wants_other = match one.standing {
            Standing::Assigned => {
                !may_stay && (lacks_second_family(one).is_some() || self.permits(one).is_none())
            }
            Standing::Pending(_) | Standing::Stale { .. } => true,
        };
        // Until all clusters have reported, nobody gets what it does not hold already.
        if !wants_other || (self.is_recovering() && !may_stay) {
            return false;
        }
        let owner = &one.owner.key;
        match asking.admitted(address) {
            Err(Obstacle::Withheld(_)) => return false,
            Err(Obstacle::Holder(..)) if !is_free => return false,
            Ok(()) | Err(Obstacle::Holder(..)) => {}
        }
        if !asking.is_of_reservation(address) {
            return false;
        }
        if !claim.addresses.is_empty() {
            return asking.lacks_only(address, vacated_by);
        }
        if may_stay {
            return true;
        }
        let view = self.pools.view(&claim.space, &owner.cluster);
        let mut pools = view.containing(address).filter(|pool| {
            let is_open = pool.auto_assign || claim.reservation.is_some();
            let is_its_own = pools_of_a_half(one).any(|own| *own == pool.key);
            let is_meant = match (&one.standing, &claim.pool) {
                (Standing::Assigned, _) => is_its_own || (claim.allows_two_pools() && is_open),
                (_, Some(name)) => pool.key.name == *name,
                (_, None) => is_open || is_its_own,
            };
            is_meant && asking.may_give(pool, address) && pool::admits(pool, owner, claim)
        });
        let within_quotas = |pool: &Pool| {
            let beside = one.held().filter(|_| one.standing == Standing::Assigned);
            let wanted: Vec<_> = beside.chain([(address, &pool.key)]).collect();
            asking.within_quotas(&wanted).is_ok()
        };
        pools.any(|pool| {
            wants_family(&asking, one, address.family(), pool)
                && (!self.has_quotas() || within_quotas(pool))
        })
    }

    /// Whether the pools permit what an allocation holds, just as it is recorded.
    pub(super) fn is_in_place(&self, allocation: &Allocation) -> bool {
        allocation.pool.is_none()
            || self
                .permits(allocation)
                .is_some_and(|homes| homes.are_those_of(allocation))
    }

    fn permits(&self, allocation: &Allocation) -> Option<Homes<'_>> {
        Holding::of(allocation)?.permitted_by(&self.pools, &allocation.claim)
    }
}

/// Whether an address of this family would help the claim, given what else its pool has, or any
/// pool where the claim allows two.
fn wants_family(asking: &Asking<'_>, one: &Allocation, family: Family, pool: &Pool) -> bool {
    match one.claim.families {
        Families::One(wanted) => wanted == family,
        Families::Any => true,
        Families::PreferBoth { .. } => match one.standing {
            Standing::Assigned => one.addresses.iter().all(|a| a.family() != family),
            Standing::Pending(_) | Standing::Stale { .. } => true,
        },
        Families::Both => {
            let missing = match family {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            };
            asking.has_room(pool, missing)
                || (one.claim.allows_two_pools() && asking.has_room_anywhere(missing))
        }
    }
}

#[cfg(test)]
mod tests;
