//! One address space: which addresses are occupied, who holds them, and where the next free one is.
//!
//! Knows nothing of pools' rules: a pool asks for the lowest free address of a range.

mod holders;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use self::holders::{Holders, Sharers};
use super::address::{Address, AddressRange, Family};
use super::address_set::AddressSet;
use super::model::{
    Allocation, Claim, OwnerKey, OwnerScope, PoolKey, Port, Reservation, Unavailable,
};
use super::names::Name;
use super::packing::pack_map;
use super::sharing::{Conflict, ShareGroup, ShareKey, agree};
use super::withheld::{Barrier, Withheld};

/// What is held in one address space.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    /// All addresses that may not be given to just anybody: held, or withheld for whatever reason.
    /// An address stays in it as long as one reason stands.
    occupied: AddressSet,
    withheld: Withheld,
    holders: BTreeMap<Address, Holders>,
    /// How many addresses are held through a pool, by family. Never 0 for both.
    held_through: BTreeMap<PoolKey, [u64; 2]>,
    /// Which ones they are. Only where grants cut pools: elsewhere it is enough to know how many.
    parts_held: Option<BTreeMap<PoolKey, AddressSet>>,
    groups: BTreeMap<ShareKey, ShareGroup>,
}

/// A space in which nothing is held.
pub(super) static NOTHING_HELD: Space = Space {
    occupied: AddressSet::new(),
    withheld: Withheld::new(),
    holders: BTreeMap::new(),
    held_through: BTreeMap::new(),
    parts_held: None,
    groups: BTreeMap::new(),
};

/// Why an owner may not take an address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Obstacle<'a> {
    /// Somebody holds it.
    Holder(Conflict, &'a Arc<Allocation>),
    Withheld(Barrier<'a>),
}

impl Space {
    /// Makes full nodes of half-full ones.
    pub(super) fn pack(&mut self) {
        pack_map(&mut self.holders);
    }

    /// Whether parts of pools are counted from now on (see [`Space::held_in`]).
    pub(super) fn count_parts(&mut self, counts: bool) {
        if counts == self.parts_held.is_some() {
            return;
        }
        self.parts_held = counts.then(|| {
            let mut parts = BTreeMap::<PoolKey, AddressSet>::new();
            for (address, holders) in &self.holders {
                for pool in holders.iter().filter_map(|one| one.pool_of(*address)) {
                    parts.entry(pool.clone()).or_default().insert(*address);
                }
            }
            parts
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.withheld.is_empty()
    }

    /// Enters a holder of an address. The rules have been checked by whoever decided it.
    pub(super) fn hold(&mut self, address: Address, holder: &Arc<Allocation>) {
        let claim = holder.effective_claim();
        let key = ShareKey::of(&holder.owner.key, claim);
        let first_through_pool;
        match self.holders.remove(&address) {
            None => {
                self.occupy(address);
                if let Some(key) = &key {
                    let group = self.groups.entry(key.clone()).or_default();
                    group.add_address(address);
                }
                first_through_pool = true;
                self.holders
                    .insert(address, Holders::One(Arc::clone(holder)));
            }
            Some(Holders::One(other)) => {
                first_through_pool = other.pool_of(address) != holder.pool_of(address);
                let mut sharers = Box::<Sharers>::default();
                sharers.insert(address, other);
                sharers.insert(address, Arc::clone(holder));
                self.holders.insert(address, Holders::Many(sharers));
            }
            Some(Holders::Many(mut sharers)) => {
                let pool = holder.pool_of(address);
                first_through_pool = pool.is_some_and(|pool| !sharers.pools.contains_key(pool));
                sharers.insert(address, Arc::clone(holder));
                self.holders.insert(address, Holders::Many(sharers));
            }
        }
        if let Some(group) = key.and_then(|key| self.groups.get_mut(&key)) {
            for port in &claim.ports {
                group.use_port(address, *port);
            }
        }
        if let (true, Some(pool)) = (first_through_pool, holder.pool_of(address)) {
            self.held_through.entry(pool.clone()).or_default()[family_index(address)] += 1;
            if let Some(parts) = &mut self.parts_held {
                parts.entry(pool.clone()).or_default().insert(address);
            }
        }
    }

    /// Takes out a holder that [`Space::hold`] entered, by the very same value.
    pub(super) fn let_go(&mut self, address: Address, holder: &Allocation) {
        let claim = holder.effective_claim();
        let key = ShareKey::of(&holder.owner.key, claim);
        if let Some(group) = key.as_ref().and_then(|key| self.groups.get_mut(key)) {
            for port in &claim.ports {
                group.free_port(address, *port);
            }
        }
        let last_through_pool = match self.holders.remove(&address) {
            None => return,
            Some(Holders::One(_)) => {
                self.vacate(address);
                if let Some(key) = key {
                    self.leave_group(address, &key);
                }
                true
            }
            Some(Holders::Many(mut sharers)) => {
                sharers.remove(address, holder);
                let pool = holder.pool_of(address);
                let last = pool.is_some_and(|pool| !sharers.pools.contains_key(pool));
                let left = match sharers.by_id.len() {
                    1 => sharers
                        .by_id
                        .into_values()
                        .next()
                        .map(Holders::One)
                        .expect("one is left"),
                    _ => Holders::Many(sharers),
                };
                self.holders.insert(address, left);
                last
            }
        };
        if let (true, Some(pool)) = (last_through_pool, holder.pool_of(address)) {
            self.leave_pool(address, pool);
        }
    }

    /// Nobody holds the address through the pool any more.
    fn leave_pool(&mut self, address: Address, pool: &PoolKey) {
        if let Some(held) = self.held_through.get_mut(pool) {
            held[family_index(address)] -= 1;
            if *held == [0, 0] {
                self.held_through.remove(pool);
            }
        }
        if let Some(parts) = &mut self.parts_held
            && let Some(part) = parts.get_mut(pool)
        {
            part.remove(address);
            if part.is_empty() {
                parts.remove(pool);
            }
        }
    }

    /// Everyone who holds the address, by id.
    pub(super) fn holders(&self, address: Address) -> impl Iterator<Item = &Arc<Allocation>> {
        let holders = self.holders.get(&address).into_iter();
        holders.flat_map(Holders::iter)
    }

    /// Every holder of an address in the range, by address; who holds two is named twice.
    pub(super) fn holders_in(
        &self,
        range: AddressRange,
    ) -> impl Iterator<Item = (Address, &Arc<Allocation>)> {
        let held = self.holders.range(range.first()..=range.last());
        held.flat_map(|(address, holders)| holders.iter().map(|holder| (*address, holder)))
    }

    /// Every held address from somewhere on, with one who holds it.
    pub(super) fn held_from(
        &self,
        from: Bound<Address>,
    ) -> impl Iterator<Item = (Address, &Arc<Allocation>)> {
        let held = self.holders.range((from, Bound::Unbounded));
        held.filter_map(|(address, holders)| Some((*address, holders.iter().next()?)))
    }

    /// Whether the owner may come to hold the address, beside those who do. O(log n) per port. Who
    /// holds it already is asked by [`Space::agrees`]: nothing that is withheld moves it.
    ///
    /// # Errors
    /// What forbids it.
    pub(super) fn admits(
        &self,
        address: Address,
        owner: &OwnerKey,
        claim: &Claim,
    ) -> Result<(), Obstacle<'_>> {
        if let Some(barrier) = self.withheld.barrier(address, owner) {
            return Err(Obstacle::Withheld(barrier));
        }
        self.agrees(address, owner, claim)
    }

    /// Whether the owner may hold the address as far as its holders are concerned.
    ///
    /// # Errors
    /// A holder that forbids it.
    pub(super) fn agrees(
        &self,
        address: Address,
        owner: &OwnerKey,
        claim: &Claim,
    ) -> Result<(), Obstacle<'_>> {
        let others = || {
            self.holders(address)
                .filter(|holder| holder.owner.key != *owner)
        };
        let Some(other) = others().next() else {
            return Ok(());
        };
        // Holders of one address agree with one another, so one speaks for all.
        agree(owner, claim, other).map_err(|conflict| Obstacle::Holder(conflict, other))?;
        for port in &claim.ports {
            let user = match self.holders.get(&address) {
                Some(Holders::Many(sharers)) => sharers
                    .ports
                    .get(port)
                    .and_then(|id| sharers.by_id.get(id))
                    .filter(|user| user.owner.key != *owner),
                Some(Holders::One(_)) | None => {
                    others().find(|user| user.effective_claim().ports.binary_search(port).is_ok())
                }
            };
            if let Some(user) = user {
                return Err(Obstacle::Holder(Conflict::PortInUse(*port), user));
            }
        }
        Ok(())
    }

    /// What the holders of an address share it under, if they do.
    pub(super) fn share_key(&self, address: Address) -> Option<ShareKey> {
        let holder = self.holders(address).next()?;
        ShareKey::of(&holder.owner.key, holder.effective_claim())
    }

    /// Whether nobody holds the address.
    pub(super) fn is_free(&self, address: Address) -> bool {
        !self.holders.contains_key(&address)
    }

    /// The lowest free address of a range; with `avoid_buggy` none that ends in .0 or .255.
    /// One look into one ordered map, at any fill and size.
    pub(super) fn lowest_free(&self, range: AddressRange, avoid_buggy: bool) -> Option<Address> {
        self.occupied.lowest_absent(range, avoid_buggy)
    }

    /// The lowest address of a range that is kept for just this scope, and that nobody holds.
    pub(super) fn lowest_kept(
        &self,
        scope: &OwnerScope,
        range: AddressRange,
        avoid_buggy: bool,
    ) -> Option<Address> {
        self.withheld.lowest_kept(scope, range, avoid_buggy)
    }

    /// The lowest address of a range that owners of this key hold and where the ports are unused.
    pub(super) fn lowest_shared(
        &self,
        key: &ShareKey,
        ports: &[Port],
        range: AddressRange,
        avoid_buggy: bool,
    ) -> Option<Address> {
        let group = self.groups.get(key)?;
        let mut first = range.first();
        loop {
            let found = group.lowest(ports, first, range.last())?;
            if !(avoid_buggy && found.is_buggy()) {
                return Some(found);
            }
            first = found.next().filter(|next| *next <= range.last())?;
        }
    }

    /// Whether something that nobody holds is kept for the owner.
    pub(super) fn keeps_for(&self, owner: &OwnerKey) -> bool {
        self.withheld.keeps_for(owner)
    }

    /// The parts of a range that belong to a reservation, lowest first.
    pub(super) fn reserved_in(&self, range: AddressRange, name: &Name) -> Vec<AddressRange> {
        self.withheld.reserved_in(range, name)
    }

    /// Addresses of a range that owners of this key hold.
    pub(super) fn shared_in(
        &self,
        key: &ShareKey,
        range: AddressRange,
    ) -> impl Iterator<Item = Address> {
        let group = self.groups.get(key).into_iter();
        group.flat_map(move |group| group.addresses_in(range))
    }

    /// How many addresses of a range are occupied; with `avoid_buggy` not counting those that end
    /// in .0 or .255. One step per run of occupied addresses.
    pub(super) fn occupied_in(&self, range: AddressRange, avoid_buggy: bool) -> u128 {
        self.occupied.count(range, avoid_buggy)
    }

    /// How many of them are reserved and held by nobody.
    pub(super) fn kept_in(&self, range: AddressRange, avoid_buggy: bool) -> u128 {
        self.withheld.kept_in(range, avoid_buggy)
    }

    /// How many addresses are held through a pool.
    pub(super) fn held_through(&self, pool: &PoolKey, family: Family) -> u64 {
        let held = self.held_through.get(pool).copied().unwrap_or_default();
        match family {
            Family::V4 => held[0],
            Family::V6 => held[1],
        }
    }

    /// How many addresses of a range are held through a pool; with `avoid_buggy` not counting those
    /// that end in .0 or .255. One step per run of them. Only where parts are counted.
    pub(super) fn held_in(&self, pool: &PoolKey, range: AddressRange, avoid_buggy: bool) -> u128 {
        let part = self.parts_held.as_ref().and_then(|parts| parts.get(pool));
        part.map_or(0, |part| part.count(range, avoid_buggy))
    }

    /// Enters a reservation, over holders and all.
    pub(super) fn reserve(&mut self, reservation: &Arc<Reservation>) {
        for range in &reservation.ranges {
            self.occupied.insert_range(*range);
            let held = self.holders.range(range.first()..=range.last());
            let held = held.map(|(address, _)| *address);
            self.withheld.reserve(reservation, *range, held);
        }
    }

    /// Takes a reservation out; what is held in it stays occupied.
    pub(super) fn unreserve(&mut self, reservation: &Arc<Reservation>) {
        for range in &reservation.ranges {
            self.withheld.unreserve(reservation, *range);
            self.occupied.remove_range(*range);
            for address in self.holders.range(range.first()..=range.last()) {
                self.occupied.insert(*address.0);
            }
            for address in self.withheld.idle_in(*range) {
                self.occupied.insert(address);
            }
        }
    }

    /// Enters a reason for which an address is not to be given away yet, held or not.
    pub(super) fn withhold(&mut self, row: &Arc<Unavailable>) {
        let address = row.key.address;
        let held = self.holders.contains_key(&address);
        self.withheld.rest(row, held);
        self.occupied.insert(address);
    }

    /// Takes it out; what is held, reserved or unavailable for another reason stays occupied.
    pub(super) fn release(&mut self, row: &Arc<Unavailable>) {
        let address = row.key.address;
        let held = self.holders.contains_key(&address);
        self.withheld.wake(row, held);
        if !held {
            self.leave_free(address);
        }
    }

    /// Why an address is not to be given away yet, by reason.
    pub(super) fn resting(&self, address: Address) -> &[Arc<Unavailable>] {
        self.withheld.resting(address)
    }

    /// All of that, by address.
    pub(super) fn all_resting(&self) -> impl Iterator<Item = &Arc<Unavailable>> {
        self.withheld.all_resting()
    }

    /// The same from an address on.
    pub(super) fn resting_from(&self, first: Address) -> impl Iterator<Item = &Arc<Unavailable>> {
        self.withheld.resting_from(first)
    }

    /// Addresses of a range that rest for an owner, lowest first.
    pub(super) fn resting_for(
        &self,
        owner: &OwnerKey,
        range: AddressRange,
    ) -> impl Iterator<Item = Address> {
        self.withheld.resting_for(owner, range)
    }

    /// Addresses of a range that rest and that nobody holds, lowest first.
    pub(super) fn idle_in(&self, range: AddressRange) -> impl Iterator<Item = Address> {
        self.withheld.idle_in(range)
    }

    /// The reservation that an address belongs to.
    pub(super) fn reservation(&self, address: Address) -> Option<&Arc<Reservation>> {
        self.withheld.reservation(address)
    }

    /// Another reservation that has an address in common with a range, and where.
    pub(super) fn overlapping_reservation(
        &self,
        range: AddressRange,
        but: &Reservation,
    ) -> Option<(&Arc<Reservation>, AddressRange)> {
        self.withheld.overlapping(range, but)
    }

    fn occupy(&mut self, address: Address) {
        self.occupied.insert(address);
        self.withheld.set_held(address, true);
    }

    /// The last holder is gone.
    fn vacate(&mut self, address: Address) {
        self.withheld.set_held(address, false);
        self.leave_free(address);
    }

    /// Nobody holds it: it is free if nothing else stands.
    fn leave_free(&mut self, address: Address) {
        let reserved = self.withheld.reservation(address).is_some();
        if !reserved && self.withheld.resting(address).is_empty() {
            self.occupied.remove(address);
        }
    }

    fn leave_group(&mut self, address: Address, key: &ShareKey) {
        if let Some(group) = self.groups.get_mut(key) {
            group.remove_address(address);
            if group.is_empty() {
                self.groups.remove(key);
            }
        }
    }
}

fn family_index(address: Address) -> usize {
    match address.family() {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
