use proptest::prelude::*;

use crate::state::testing::*;

use super::*;

fn range(text: &str) -> AddressRange {
    AddressRange::parse(text).expect(text)
}

#[test]
fn sound_addresses_are_numbered_without_the_others() {
    let rank = |text| sound_rank(address(text));
    assert_eq!(rank("0.0.0.0"), None);
    assert_eq!(rank("0.0.0.1"), Some(0));
    assert_eq!(rank("0.0.0.254"), Some(253));
    assert_eq!(rank("0.0.0.255"), None);
    assert_eq!(rank("0.0.1.1"), Some(254));
    assert_eq!(rank("2001:db8::1"), None);
    let last = rank("255.255.255.254").expect("sound");
    assert_eq!(
        nth_sound(address("0.0.0.0"), last),
        address("255.255.255.254")
    );
    assert_eq!(sound_ranks(range("10.0.0.255-10.0.1.0")), None);
    assert_eq!(usable_count(range("10.0.0.0/8"), true), 254 << 16);
    assert_eq!(usable_count(range("10.0.0.0/31"), true), 1);
    assert_eq!(usable_count(range("0.0.0.0/0"), true), 254 << 24);
}

/// Blocks that are full but for the addresses that the pool avoids: in plain numbering every one
/// of them is a gap that leads nowhere.
#[test]
fn full_blocks_between_avoided_addresses_are_stepped_over_at_once() {
    let mut set = AddressSet::default();
    let blocks: u32 = 64;
    for offset in 0..blocks << 8 {
        let held = Address::from_bits(0xffff_0a00_0000 | u128::from(offset));
        if !held.is_buggy() {
            set.insert(held);
        }
    }
    let pool = range("10.0.0.0/8");
    assert_eq!(set.lowest_absent(pool, false), Some(address("10.0.0.0")));
    assert_eq!(set.lowest_absent(pool, true), Some(address("10.0.64.1")));
    assert_eq!(set.sound, {
        let mut one_run = Runs::default();
        let first = sound_rank(address("10.0.0.1")).expect("sound");
        one_run.insert(first, first + 254 * u128::from(blocks) - 1);
        one_run
    });
    assert_eq!(set.lowest_absent(range("10.0.0.0/18"), true), None);
}

proptest! {
    #[test]
    fn the_lowest_free_address_is_what_a_scan_finds(
        held in proptest::collection::btree_set(0_u128..1030, 0..400),
        fill in proptest::option::of((0_u128..1030, 0_u128..700)),
        window in (0_u128..1030, 0_u128..1030),
        avoid in any::<bool>(),
    ) {
        let base = 0xffff_0a00_0000_u128;
        let mut held = held;
        if let Some((first, length)) = fill {
            held.extend(first..first + length);
        }
        let mut set = AddressSet::default();
        for offset in &held {
            set.insert(Address::from_bits(base + offset));
        }
        let (low, high) = (window.0.min(window.1), window.0.max(window.1));
        let asked = AddressRange::new(Address::from_bits(base + low), Address::from_bits(base + high));
        let asked = asked.expect("in order");
        let usable = |offset: &u128| !(avoid && Address::from_bits(base + offset).is_buggy());
        let all: Vec<u128> = (low..=high).filter(usable).collect();
        let free = all.iter().find(|offset| !held.contains(offset));
        let free = free.map(|offset| Address::from_bits(base + offset));
        prop_assert_eq!(set.lowest_absent(asked, avoid), free);
        prop_assert_eq!(usable_count(asked, avoid), all.len() as u128);
        let taken = all.iter().find(|offset| held.contains(offset));
        let taken = taken.map(|offset| Address::from_bits(base + offset));
        prop_assert_eq!(set.lowest_present(asked, avoid), taken);
        let occupied = all.iter().filter(|offset| held.contains(offset)).count();
        prop_assert_eq!(set.count(asked, avoid), occupied as u128);
        // A whole range is what its addresses are, one by one.
        let mut by_range = AddressSet::default();
        by_range.insert_range(asked);
        let mut one_by_one = AddressSet::default();
        for offset in low..=high {
            one_by_one.insert(Address::from_bits(base + offset));
        }
        prop_assert_eq!(&by_range, &one_by_one);
        by_range.remove_range(asked);
        prop_assert_eq!(by_range, AddressSet::default());
        for offset in &held {
            set.remove(Address::from_bits(base + offset));
        }
        prop_assert_eq!(set, AddressSet::default());
    }
}
