//! Which addresses are to be bound on this host, and which are. Pure.
//!
//! Several groups may have one address (in several address spaces): it is wanted while one of them
//! is answered for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::election::GroupId;

/// What is wanted and what is there.
#[derive(Debug, Default)]
pub struct Bound {
    of_group: BTreeMap<GroupId, BTreeSet<IpAddr>>,
    /// By how many groups each is wanted.
    wanted: BTreeMap<IpAddr, usize>,
    /// Those that this program bound.
    there: BTreeSet<IpAddr>,
    /// Those of them that nobody wants (any more).
    surplus: BTreeSet<IpAddr>,
}

impl Bound {
    /// From now on a group wants exactly these; gives those that are to be bound for it.
    pub fn want(&mut self, group: GroupId, addresses: BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let new = match addresses.is_empty() {
            true => self.of_group.remove(&group),
            false => self.of_group.insert(group, addresses.clone()),
        };
        let before = new.unwrap_or_default();
        let mut missing = Vec::new();
        for address in addresses.difference(&before) {
            *self.wanted.entry(*address).or_default() += 1;
            self.surplus.remove(address);
            if !self.there.contains(address) {
                missing.push(*address);
            }
        }
        for address in before.difference(&addresses) {
            if let Some(count) = self.wanted.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(address);
                    if self.there.contains(address) {
                        self.surplus.insert(*address);
                    }
                }
            }
        }
        missing
    }

    /// What is wanted and not there.
    pub fn missing(&self) -> Vec<IpAddr> {
        let wanted = self.wanted.keys().copied();
        wanted
            .filter(|address| !self.there.contains(address))
            .collect()
    }

    /// What is there and not wanted.
    pub fn surplus(&self) -> Vec<IpAddr> {
        self.surplus.iter().copied().collect()
    }

    /// An address has been bound.
    pub fn bound(&mut self, address: IpAddr) {
        self.there.insert(address);
        if !self.wanted.contains_key(&address) {
            self.surplus.insert(address);
        }
    }

    /// An address is not bound any more.
    pub fn unbound(&mut self, address: IpAddr) {
        self.there.remove(&address);
        self.surplus.remove(&address);
    }

    /// Exactly these are there, whatever was known.
    pub fn found(&mut self, there: BTreeSet<IpAddr>) {
        let unwanted = there.iter().copied();
        self.surplus = unwanted
            .filter(|address| !self.wanted.contains_key(address))
            .collect();
        self.there = there;
    }

    /// Nothing is wanted any more.
    pub fn want_nothing(&mut self) {
        self.of_group.clear();
        self.wanted.clear();
        self.surplus.clone_from(&self.there);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn addresses(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|last| address(*last)).collect()
    }

    #[test]
    fn an_address_is_bound_while_some_group_wants_it() {
        let mut bound = Bound::default();
        assert_eq!(bound.want(GroupId(1), addresses(&[1, 2])).len(), 2);
        bound.bound(address(1));
        bound.bound(address(2));
        assert!(bound.want(GroupId(2), addresses(&[2])).is_empty());
        assert!(bound.want(GroupId(1), addresses(&[])).is_empty());
        assert_eq!(bound.surplus(), [address(1)]);
        bound.unbound(address(1));
        bound.want(GroupId(2), addresses(&[]));
        assert_eq!(bound.surplus(), [address(2)]);
        assert!(bound.missing().is_empty());
    }

    #[test]
    fn what_could_not_be_bound_and_what_somebody_removed_is_missing() {
        let mut bound = Bound::default();
        bound.want(GroupId(1), addresses(&[1, 2]));
        bound.bound(address(1));
        assert_eq!(bound.missing(), [address(2)]);
        bound.found(addresses(&[2]));
        assert_eq!(bound.missing(), [address(1)]);
    }

    #[test]
    fn what_an_earlier_run_left_is_surplus_until_somebody_wants_it() {
        let mut bound = Bound::default();
        bound.found(addresses(&[1, 2]));
        assert_eq!(bound.surplus(), [address(1), address(2)]);
        assert!(bound.want(GroupId(1), addresses(&[1])).is_empty());
        assert_eq!(bound.surplus(), [address(2)]);
        bound.want_nothing();
        assert_eq!(bound.surplus(), [address(1), address(2)]);
    }

    proptest! {
        #[test]
        fn doing_what_is_asked_for_leaves_exactly_what_is_wanted(
            steps in prop::collection::vec((0_u64..4, prop::collection::btree_set(0_u8..6, 0..4)), 1..40),
        ) {
            let mut bound = Bound::default();
            let mut naive = BTreeMap::new();
            for (group, wanted) in steps {
                let wanted: BTreeSet<IpAddr> = wanted.into_iter().map(address).collect();
                naive.insert(group, wanted.clone());
                for address in bound.want(GroupId(group), wanted) {
                    bound.bound(address);
                }
                for address in bound.surplus() {
                    bound.unbound(address);
                }
                let all: BTreeSet<IpAddr> = naive.values().flatten().copied().collect();
                prop_assert_eq!(&bound.there, &all);
                prop_assert!(bound.missing().is_empty());
                prop_assert!(bound.surplus().is_empty());
            }
        }
    }
}
