//! One address space: which addresses are occupied, who holds them, and where the next free one is.
//!
//! Knows nothing of pools' rules: a pool asks for the lowest free address of a range.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::address::{Address, AddressRange, Family};
use super::model::{Allocation, AllocationId, Claim, OwnerKey, PoolKey, Port};
use super::runs::Runs;
use super::sharing::{Conflict, ShareGroup, ShareKey, agree};

/// What is held in one address space.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    /// Numbers of all addresses that may not be given to anybody new. Whoever occupies an address
    /// also frees it; a holder is one such reason.
    occupied: Runs,
    /// The same for IPv4 addresses, but numbered without those that end in .0 or .255 (see
    /// [`sound_rank`]): in this numbering a pool that avoids them has no holes to step over.
    occupied_sound: Runs,
    holders: BTreeMap<Address, Holders>,
    /// How many addresses are held through a pool, by family. Never 0 for both.
    held_through: BTreeMap<PoolKey, [u64; 2]>,
    groups: BTreeMap<ShareKey, ShareGroup>,
}

/// A space in which nothing is held.
pub(super) static NOTHING_HELD: Space = Space {
    occupied: Runs::new(),
    occupied_sound: Runs::new(),
    holders: BTreeMap::new(),
    held_through: BTreeMap::new(),
    groups: BTreeMap::new(),
};

/// Who holds one address.
#[derive(Debug, PartialEq, Eq)]
enum Holders {
    One(Arc<Allocation>),
    Many(Box<Sharers>),
}

/// At least two that share an address, indexed so that one more costs O(log n).
#[derive(Debug, Default, PartialEq, Eq)]
struct Sharers {
    by_id: BTreeMap<AllocationId, Arc<Allocation>>,
    ports: BTreeMap<Port, AllocationId>,
    pools: BTreeMap<PoolKey, usize>,
}

impl Space {
    pub(super) fn is_empty(&self) -> bool {
        self.holders.is_empty()
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
        if let (true, Some(pool)) = (last_through_pool, holder.pool_of(address))
            && let Some(held) = self.held_through.get_mut(pool)
        {
            held[family_index(address)] -= 1;
            if *held == [0, 0] {
                self.held_through.remove(pool);
            }
        }
    }

    /// Everyone who holds the address, by id.
    pub(super) fn holders(&self, address: Address) -> impl Iterator<Item = &Arc<Allocation>> {
        let (one, many) = match self.holders.get(&address) {
            None => (None, None),
            Some(Holders::One(holder)) => (Some(holder), None),
            Some(Holders::Many(sharers)) => (None, Some(sharers.by_id.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Every holder of an address in the range, by address; who holds two is named twice.
    pub(super) fn holders_in(
        &self,
        range: AddressRange,
    ) -> impl Iterator<Item = (Address, &Arc<Allocation>)> {
        self.holders
            .range(range.first()..=range.last())
            .flat_map(|(address, holders)| {
                let (one, many) = match holders {
                    Holders::One(holder) => (Some(holder), None),
                    Holders::Many(sharers) => (None, Some(sharers.by_id.values())),
                };
                let all = one.into_iter().chain(many.into_iter().flatten());
                all.map(|holder| (*address, holder))
            })
    }

    /// Whether the owner may hold the address, beside those who do. O(log n) per port.
    ///
    /// # Errors
    /// The rule that forbids it, and a holder.
    pub(super) fn admits(
        &self,
        address: Address,
        owner: &OwnerKey,
        claim: &Claim,
    ) -> Result<(), (Conflict, &Arc<Allocation>)> {
        let others = || {
            self.holders(address)
                .filter(|holder| holder.owner.key != *owner)
        };
        let Some(other) = others().next() else {
            return Ok(());
        };
        // Holders of one address agree with one another, so one speaks for all.
        agree(owner, claim, other).map_err(|conflict| (conflict, other))?;
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
                return Err((Conflict::PortInUse(*port), user));
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
        if avoid_buggy && range.family() == Family::V4 {
            let (first, last) = sound_ranks(range)?;
            let rank = self.occupied_sound.first_gap(first, last)?;
            Some(nth_sound(range.first(), rank))
        } else {
            self.occupied
                .first_gap(range.first().bits(), range.last().bits())
                .map(Address::from_bits)
        }
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

    /// How many addresses of a range are occupied; with `avoid_buggy` not counting those that end
    /// in .0 or .255. One step per run of occupied addresses.
    pub(super) fn occupied_in(&self, range: AddressRange, avoid_buggy: bool) -> u128 {
        if avoid_buggy && range.family() == Family::V4 {
            sound_ranks(range).map_or(0, |(first, last)| self.occupied_sound.count(first, last))
        } else {
            self.occupied
                .count(range.first().bits(), range.last().bits())
        }
    }

    /// How many addresses are held through a pool.
    pub(super) fn held_through(&self, pool: &PoolKey, family: Family) -> u64 {
        let held = self.held_through.get(pool).copied().unwrap_or_default();
        match family {
            Family::V4 => held[0],
            Family::V6 => held[1],
        }
    }

    fn occupy(&mut self, address: Address) {
        self.occupied.insert(address.bits(), address.bits());
        if let Some(rank) = sound_rank(address) {
            self.occupied_sound.insert(rank, rank);
        }
    }

    fn vacate(&mut self, address: Address) {
        self.occupied.remove(address.bits(), address.bits());
        if let Some(rank) = sound_rank(address) {
            self.occupied_sound.remove(rank, rank);
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

impl Sharers {
    fn insert(&mut self, address: Address, holder: Arc<Allocation>) {
        for port in &holder.effective_claim().ports {
            self.ports.insert(*port, holder.id);
        }
        if let Some(pool) = holder.pool_of(address) {
            *self.pools.entry(pool.clone()).or_default() += 1;
        }
        self.by_id.insert(holder.id, holder);
    }

    fn remove(&mut self, address: Address, holder: &Allocation) {
        self.by_id.remove(&holder.id);
        for port in &holder.effective_claim().ports {
            self.ports.remove(port);
        }
        if let Some(pool) = holder.pool_of(address)
            && let Some(count) = self.pools.get_mut(pool)
        {
            *count -= 1;
            if *count == 0 {
                self.pools.remove(pool);
            }
        }
    }
}

/// How many addresses a pool may give from a range.
pub(super) fn usable_count(range: AddressRange, avoid_buggy: bool) -> u128 {
    if avoid_buggy && range.family() == Family::V4 {
        sound_ranks(range).map_or(0, |(first, last)| last - first + 1)
    } else {
        range.count()
    }
}

fn family_index(address: Address) -> usize {
    match address.family() {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// Sound addresses in each block of 256: all but .0 and .255.
const SOUND_PER_BLOCK: u128 = 254;

/// How many sound IPv4 addresses lie below an offset into the IPv4 block.
fn sound_below(offset: u128) -> u128 {
    (offset >> 8) * SOUND_PER_BLOCK + (offset & 0xff).saturating_sub(1)
}

fn v4_offset(address: Address) -> u128 {
    address.bits() & 0xffff_ffff
}

/// Number of an IPv4 address when those that end in .0 or .255 are left out of the count; `None`
/// for those and for IPv6.
fn sound_rank(address: Address) -> Option<u128> {
    let counted = address.family() == Family::V4 && !address.is_buggy();
    counted.then(|| sound_below(v4_offset(address)))
}

/// Ranks of the first and last sound address of an IPv4 range.
fn sound_ranks(range: AddressRange) -> Option<(u128, u128)> {
    let first = sound_below(v4_offset(range.first()));
    let end = sound_below(v4_offset(range.last()) + 1);
    (first < end).then(|| (first, end - 1))
}

/// The address of a rank. `any` is any IPv4 address.
fn nth_sound(any: Address, rank: u128) -> Address {
    let block = any.bits() - v4_offset(any);
    let offset = (rank / SOUND_PER_BLOCK) << 8 | (rank % SOUND_PER_BLOCK + 1);
    Address::from_bits(block | offset)
}

#[cfg(test)]
mod tests;
