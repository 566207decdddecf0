//! The link-local IPv6 addresses of interfaces, by address events of the kernel.
//!
//! Pure. An address counts when it may be used: not while the kernel still checks whether it is
//! free (tentative), and not when it is not (RFC 4862).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};

/// Those that may be used.
#[derive(Debug, Default)]
pub struct LinkLocals {
    by_interface: BTreeMap<u32, BTreeSet<Ipv6Addr>>,
}

impl LinkLocals {
    /// Exactly these are there.
    pub fn replace(&mut self, all: &[AddressMessage]) {
        self.by_interface.clear();
        for message in all {
            self.set(message);
        }
    }

    /// Takes in an event; gives the interface that it is about, if it is one of an address.
    pub fn apply(&mut self, event: &RouteNetlinkMessage) -> Option<u32> {
        if let RouteNetlinkMessage::NewAddress(message) = event {
            self.set(message);
            Some(message.header.index)
        } else if let RouteNetlinkMessage::DelAddress(message) = event {
            if let Some(address) = address(message) {
                self.remove(message.header.index, address);
            }
            Some(message.header.index)
        } else {
            None
        }
    }

    /// The one that an interface speaks from.
    pub fn of(&self, interface: u32) -> Option<Ipv6Addr> {
        self.by_interface.get(&interface)?.first().copied()
    }

    fn set(&mut self, message: &AddressMessage) {
        let Some(address) = address(message) else {
            return;
        };
        let interface = message.header.index;
        if is_usable(message) {
            self.by_interface
                .entry(interface)
                .or_default()
                .insert(address);
        } else {
            self.remove(interface, address);
        }
    }

    fn remove(&mut self, interface: u32, address: Ipv6Addr) {
        if let Some(addresses) = self.by_interface.get_mut(&interface) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_interface.remove(&interface);
            }
        }
    }
}

fn address(message: &AddressMessage) -> Option<Ipv6Addr> {
    message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Address(IpAddr::V6(address)) = attribute {
            address.is_unicast_link_local().then_some(*address)
        } else {
            None
        }
    })
}

fn is_usable(message: &AddressMessage) -> bool {
    let header = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let whole = AddressFlags::Tentative | AddressFlags::Dadfailed;
    let optimistic = message
        .header
        .flags
        .contains(AddressHeaderFlags::Optimistic);
    let bad = message.header.flags.intersects(header)
        || message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(whole))
        });
    !bad || optimistic
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const TWO: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn message(interface: u32, address: Ipv6Addr, flags: AddressFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = interface;
        message.header.flags = AddressHeaderFlags::from_bits_truncate(flags.bits() as u8);
        message.attributes = vec![
            AddressAttribute::Address(IpAddr::V6(address)),
            AddressAttribute::Flags(flags),
        ];
        message
    }

    fn new(interface: u32, address: Ipv6Addr, flags: AddressFlags) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewAddress(message(interface, address, flags))
    }

    #[test]
    fn an_address_counts_from_the_moment_at_which_it_is_known_to_be_free() {
        let mut locals = LinkLocals::default();
        let permanent = AddressFlags::Permanent;
        locals.apply(&new(2, ONE, permanent | AddressFlags::Tentative));
        assert!(locals.of(2).is_none());
        locals.apply(&new(2, ONE, permanent));
        assert!(locals.of(2).is_some());
        locals.apply(&new(2, ONE, permanent | AddressFlags::Dadfailed));
        assert!(locals.of(2).is_none());
        let optimistic = AddressFlags::Tentative | AddressFlags::Optimistic;
        locals.apply(&new(2, ONE, optimistic));
        assert!(locals.of(2).is_some());
    }

    #[test]
    fn each_interface_has_its_own_and_only_those_of_the_link() {
        let mut locals = LinkLocals::default();
        let flags = AddressFlags::Permanent;
        locals.replace(&[
            message(2, TWO, flags),
            message(2, ONE, flags),
            message(3, GLOBAL, flags),
        ]);
        assert_eq!((locals.of(2), locals.of(3)), (Some(ONE), None));
        let gone = RouteNetlinkMessage::DelAddress(message(2, ONE, flags));
        locals.apply(&gone);
        assert!(locals.of(2).is_some());
        let gone = RouteNetlinkMessage::DelAddress(message(2, TWO, flags));
        locals.apply(&gone);
        assert!(locals.of(2).is_none());
        locals.replace(&[message(2, ONE, flags)]);
        assert!(locals.of(2).is_some());
        locals.replace(&[]);
        assert!(locals.of(2).is_none());
    }
}
