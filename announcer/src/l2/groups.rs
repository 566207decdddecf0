//! Which multicast groups each interface is to be in: those in which solicitations for its IPv6
//! addresses are sent.
//!
//! Pure. Addresses may share a group: it is left with the last of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::burst::Spot;
use super::ndp::solicited_node;

/// A group on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Membership {
    /// Index of the interface.
    pub interface: u32,
    pub group: Ipv6Addr,
}

/// What is to be done about a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Join(Membership),
    Leave(Membership),
}

/// How many addresses need each membership.
#[derive(Debug, Default)]
pub struct Groups {
    needed: BTreeMap<Membership, usize>,
    changes: Vec<Change>,
}

impl Groups {
    /// An address got a duty.
    pub fn add(&mut self, spot: Spot) {
        let Some(membership) = Membership::of(spot) else {
            return;
        };
        let needed = self.needed.entry(membership).or_default();
        *needed += 1;
        if *needed == 1 {
            self.changes.push(Change::Join(membership));
        }
    }

    /// An address lost its duty.
    pub fn remove(&mut self, spot: Spot) {
        let Some(membership) = Membership::of(spot) else {
            return;
        };
        let Some(needed) = self.needed.get_mut(&membership) else {
            return;
        };
        *needed -= 1;
        if *needed == 0 {
            self.needed.remove(&membership);
            self.changes.push(Change::Leave(membership));
        }
    }

    /// What is to be done now, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

impl Membership {
    fn of(spot: Spot) -> Option<Self> {
        match spot.address {
            IpAddr::V6(address) => Some(Self {
                interface: spot.interface,
                group: solicited_node(address),
            }),
            IpAddr::V4(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(interface: u32, address: &str) -> Spot {
        Spot {
            interface,
            address: address.parse().expect("valid"),
        }
    }

    fn membership(interface: u32, group: &str) -> Membership {
        Membership {
            interface,
            group: group.parse().expect("valid"),
        }
    }

    #[test]
    fn a_group_is_joined_with_the_first_of_its_addresses_and_left_with_the_last() {
        let mut groups = Groups::default();
        // They differ in what is no part of the group.
        let (one, two) = (spot(2, "fd09::1:0:5"), spot(2, "fd09::2:0:5"));
        let shared = membership(2, "ff02::1:ff00:5");
        groups.add(one);
        groups.add(two);
        assert_eq!(groups.take_changes(), [Change::Join(shared)]);
        groups.remove(one);
        assert_eq!(groups.take_changes(), []);
        groups.remove(two);
        assert_eq!(groups.take_changes(), [Change::Leave(shared)]);
        groups.remove(two);
        assert_eq!(groups.take_changes(), []);
    }

    #[test]
    fn every_interface_is_in_its_own_groups_and_ipv4_needs_none() {
        let mut groups = Groups::default();
        groups.add(spot(2, "192.0.2.1"));
        groups.add(spot(2, "fd09::5"));
        groups.add(spot(3, "fd09::5"));
        let joins = [2, 3].map(|index| Change::Join(membership(index, "ff02::1:ff00:5")));
        assert_eq!(groups.take_changes(), joins);
    }
}
