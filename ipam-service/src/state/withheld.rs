//! What an address space withholds beside what is held: reserved ranges, and who may take from
//! them nevertheless.
//!
//! Knows who may not take an address, not who holds it; [`super::space::Space`] tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::address::{Address, AddressRange};
use super::address_set::AddressSet;
use super::model::{OwnerKey, OwnerScope, Reservation, Unavailable};
use super::names::Name;

/// All that is withheld in one address space.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Withheld {
    /// Reserved ranges by first address: last address, and whose. Disjoint.
    reserved: BTreeMap<Address, (Address, Arc<Reservation>)>,
    /// Why single addresses are not to be given away yet; no list is empty.
    resting: BTreeMap<Address, Vec<Arc<Unavailable>>>,
    /// Those of them that somebody may have nevertheless, by whom.
    resting_for: BTreeMap<OwnerKey, BTreeSet<Address>>,
    /// Addresses of `resting` that nobody holds.
    idle: BTreeSet<Address>,
    /// Reserved addresses that nobody holds and for which nothing else stands.
    kept: AddressSet,
    /// Those of them that are kept for somebody, by whom.
    kept_for: BTreeMap<OwnerScope, AddressSet>,
}

/// Why an owner may not take an address that others would not stand in the way of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Barrier<'a> {
    /// For somebody else, or for nobody.
    Reserved(&'a Arc<Reservation>),
    /// Not yet.
    Resting(&'a Arc<Unavailable>),
}

impl Withheld {
    pub(super) const fn new() -> Self {
        Self {
            reserved: BTreeMap::new(),
            resting: BTreeMap::new(),
            resting_for: BTreeMap::new(),
            idle: BTreeSet::new(),
            kept: AddressSet::new(),
            kept_for: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reserved.is_empty() && self.resting.is_empty()
    }

    /// Enters a reservation. `held`: the addresses in its ranges that somebody holds.
    pub(super) fn reserve(
        &mut self,
        reservation: &Arc<Reservation>,
        range: AddressRange,
        held: impl Iterator<Item = Address>,
    ) {
        let entry = (range.last(), Arc::clone(reservation));
        self.reserved.insert(range.first(), entry);
        let resting = self.resting.range(range.first()..=range.last());
        let resting = resting.map(|(address, _)| *address);
        let held: Vec<Address> = held.chain(resting).collect();
        self.each_set(reservation, |set| {
            set.insert_range(range);
            for address in &held {
                set.remove(*address);
            }
        });
    }

    /// Takes a reservation out that [`Withheld::reserve`] entered.
    pub(super) fn unreserve(&mut self, reservation: &Arc<Reservation>, range: AddressRange) {
        self.reserved.remove(&range.first());
        self.each_set(reservation, |set| set.remove_range(range));
    }

    /// An address came to be held, or is held no more.
    pub(super) fn set_held(&mut self, address: Address, held: bool) {
        if self.is_empty() {
            return;
        }
        let rests = self.resting.contains_key(&address);
        match rests && !held {
            true => self.idle.insert(address),
            false => self.idle.remove(&address),
        };
        let Some(reservation) = self.reservation(address).map(Arc::clone) else {
            return;
        };
        self.each_set(&reservation, |set| match held || rests {
            true => set.remove(address),
            false => set.insert(address),
        });
    }

    /// Enters a reason for which an address is not to be given away yet.
    pub(super) fn rest(&mut self, row: &Arc<Unavailable>, held: bool) {
        let address = row.key.address;
        let rows = self.resting.entry(address).or_default();
        rows.push(Arc::clone(row));
        rows.sort_by_key(|row| row.key.reason);
        if let Some(owner) = &row.for_owner {
            self.resting_for
                .entry(owner.clone())
                .or_default()
                .insert(address);
        }
        self.set_held(address, held);
    }

    /// Takes it out.
    pub(super) fn wake(&mut self, row: &Arc<Unavailable>, held: bool) {
        let address = row.key.address;
        if let Some(rows) = self.resting.get_mut(&address) {
            rows.retain(|one| one.key != row.key);
            if rows.is_empty() {
                self.resting.remove(&address);
                self.idle.remove(&address);
            }
        }
        if let Some(owner) = &row.for_owner
            && let Some(addresses) = self.resting_for.get_mut(owner)
        {
            let others = self.resting.get(&address).into_iter().flatten();
            let still = others
                .filter(|one| one.for_owner.as_ref() == Some(owner))
                .count();
            if still == 0 {
                addresses.remove(&address);
            }
            if addresses.is_empty() {
                self.resting_for.remove(owner);
            }
        }
        self.set_held(address, held);
    }

    /// Why an address is not to be given away yet, by reason.
    pub(super) fn resting(&self, address: Address) -> &[Arc<Unavailable>] {
        self.resting.get(&address).map_or(&[], Vec::as_slice)
    }

    /// All of that, by address.
    pub(super) fn all_resting(&self) -> impl Iterator<Item = &Arc<Unavailable>> {
        self.resting.values().flatten()
    }

    /// The same from an address on.
    pub(super) fn resting_from(&self, first: Address) -> impl Iterator<Item = &Arc<Unavailable>> {
        self.resting.range(first..).flat_map(|(_, rows)| rows)
    }

    /// The lowest address of a range that rests for an owner.
    pub(super) fn resting_for(
        &self,
        owner: &OwnerKey,
        range: AddressRange,
    ) -> impl Iterator<Item = Address> {
        let all = self.resting_for.get(owner).into_iter();
        all.flat_map(move |all| all.range(range.first()..=range.last()).copied())
    }

    /// The first addresses of a range that rest and that nobody holds.
    pub(super) fn idle_in(&self, range: AddressRange) -> impl Iterator<Item = Address> {
        self.idle.range(range.first()..=range.last()).copied()
    }

    /// The reservation that an address belongs to.
    pub(super) fn reservation(&self, address: Address) -> Option<&Arc<Reservation>> {
        let (_, (last, reservation)) = self.reserved.range(..=address).next_back()?;
        (*last >= address).then_some(reservation)
    }

    /// A reservation that has an address in common with a range, other than `but`, and where.
    pub(super) fn overlapping(
        &self,
        range: AddressRange,
        but: &Reservation,
    ) -> Option<(&Arc<Reservation>, AddressRange)> {
        // Ranges are disjoint, so the first that ends too early ends the walk.
        self.reserved
            .range(..=range.last())
            .rev()
            .take_while(|(_, (last, _))| *last >= range.first())
            .filter(|(_, (_, other))| other.key != but.key)
            .find_map(|(first, (last, other))| Some((other, AddressRange::new(*first, *last)?)))
    }

    /// What keeps an owner from taking an address, whoever holds it.
    pub(super) fn barrier(&self, address: Address, owner: &OwnerKey) -> Option<Barrier<'_>> {
        if self.is_empty() {
            return None;
        }
        if let Some(reservation) = self.reservation(address) {
            let is_for = |scope: &OwnerScope| scope.covers(owner);
            if !reservation.kept_for.as_ref().is_some_and(is_for) {
                return Some(Barrier::Reserved(reservation));
            }
        }
        let mut resting = self.resting(address).iter();
        let row = resting.find(|row| row.for_owner.as_ref() != Some(owner))?;
        Some(Barrier::Resting(row))
    }

    /// Whether something that nobody holds is kept for the owner.
    pub(super) fn keeps_for(&self, owner: &OwnerKey) -> bool {
        !self.kept_for.is_empty()
            && OwnerScope::around(owner).any(|scope| self.kept_for.contains_key(&scope))
    }

    /// The parts of a range that belong to a reservation, lowest first.
    pub(super) fn reserved_in(&self, range: AddressRange, name: &Name) -> Vec<AddressRange> {
        let before = self.reserved.range(..range.first()).next_back();
        let within = self.reserved.range(range.first()..=range.last());
        let all = before.into_iter().chain(within);
        all.filter(|(_, (_, reservation))| reservation.key.name == *name)
            .filter_map(|(first, (last, _))| {
                AddressRange::new(*first.max(&range.first()), *last.min(&range.last()))
            })
            .collect()
    }

    /// The lowest address of a range that is kept for just this scope and that nobody holds.
    pub(super) fn lowest_kept(
        &self,
        scope: &OwnerScope,
        range: AddressRange,
        avoid_buggy: bool,
    ) -> Option<Address> {
        self.kept_for.get(scope)?.lowest_present(range, avoid_buggy)
    }

    /// How many addresses of a range are reserved and held by nobody.
    pub(super) fn kept_in(&self, range: AddressRange, avoid_buggy: bool) -> u128 {
        self.kept.count(range, avoid_buggy)
    }

    fn each_set(&mut self, reservation: &Reservation, change: impl Fn(&mut AddressSet)) {
        change(&mut self.kept);
        if let Some(scope) = &reservation.kept_for {
            let kept = self.kept_for.entry(scope.clone()).or_default();
            change(kept);
            if kept.is_empty() {
                self.kept_for.remove(scope);
            }
        }
    }
}
