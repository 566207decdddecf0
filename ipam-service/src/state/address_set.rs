//! A set of addresses in which the first member or the first gap of a range is found at once, in
//! the numbering of all addresses and in that of pools that avoid .0 and .255.

use super::address::{Address, AddressRange, Family};
use super::runs::Runs;

/// Addresses, kept as runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AddressSet {
    /// By the number of the address.
    all: Runs,
    /// IPv4 addresses only, numbered without those that end in .0 or .255 (see [`sound_rank`]): in
    /// this numbering a pool that avoids them has no holes to step over.
    sound: Runs,
}

impl AddressSet {
    pub(super) const fn new() -> Self {
        Self {
            all: Runs::new(),
            sound: Runs::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn insert(&mut self, address: Address) {
        self.all.insert(address.bits(), address.bits());
        if let Some(rank) = sound_rank(address) {
            self.sound.insert(rank, rank);
        }
    }

    pub(super) fn remove(&mut self, address: Address) {
        self.all.remove(address.bits(), address.bits());
        if let Some(rank) = sound_rank(address) {
            self.sound.remove(rank, rank);
        }
    }

    /// Adds a whole range; costs one step per run that it swallows.
    pub(super) fn insert_range(&mut self, range: AddressRange) {
        self.all.insert(range.first().bits(), range.last().bits());
        if let Some((first, last)) = sound_ranks_of(range) {
            self.sound.insert(first, last);
        }
    }

    /// Takes a whole range away; costs one step per run in it.
    pub(super) fn remove_range(&mut self, range: AddressRange) {
        self.all.remove(range.first().bits(), range.last().bits());
        if let Some((first, last)) = sound_ranks_of(range) {
            self.sound.remove(first, last);
        }
    }

    /// The lowest address of a range that is not in the set; with `avoid_buggy` none that ends in
    /// .0 or .255. One look into one ordered map, at any fill and size.
    pub(super) fn lowest_absent(&self, range: AddressRange, avoid_buggy: bool) -> Option<Address> {
        if avoid_buggy && range.family() == Family::V4 {
            let (first, last) = sound_ranks(range)?;
            let rank = self.sound.first_gap(first, last)?;
            Some(nth_sound(range.first(), rank))
        } else {
            let (first, last) = (range.first().bits(), range.last().bits());
            self.all.first_gap(first, last).map(Address::from_bits)
        }
    }

    /// The lowest address of a range that is in the set, in the same way.
    pub(super) fn lowest_present(&self, range: AddressRange, avoid_buggy: bool) -> Option<Address> {
        if avoid_buggy && range.family() == Family::V4 {
            let (first, last) = sound_ranks(range)?;
            let rank = self.sound.first_member(first, last)?;
            Some(nth_sound(range.first(), rank))
        } else {
            let (first, last) = (range.first().bits(), range.last().bits());
            self.all.first_member(first, last).map(Address::from_bits)
        }
    }

    /// How many addresses of a range are in the set; with `avoid_buggy` not counting those that end
    /// in .0 or .255. One step per run.
    pub(super) fn count(&self, range: AddressRange, avoid_buggy: bool) -> u128 {
        if avoid_buggy && range.family() == Family::V4 {
            sound_ranks(range).map_or(0, |(first, last)| self.sound.count(first, last))
        } else {
            self.all.count(range.first().bits(), range.last().bits())
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

/// The same for a range of any family: IPv6 has no ranks.
fn sound_ranks_of(range: AddressRange) -> Option<(u128, u128)> {
    match range.family() {
        Family::V4 => sound_ranks(range),
        Family::V6 => None,
    }
}

/// The address of a rank. `any` is any IPv4 address.
fn nth_sound(any: Address, rank: u128) -> Address {
    let block = any.bits() - v4_offset(any);
    let offset = (rank / SOUND_PER_BLOCK) << 8 | (rank % SOUND_PER_BLOCK + 1);
    Address::from_bits(block | offset)
}

#[cfg(test)]
mod tests;
