//! What the kernel says of interfaces, and what is to be remembered of their past. Pure.
//!
//! Whoever looks at this sees the latest state only, and may miss that an interface was gone for
//! some milliseconds. So each has two numbers that tell: [`Link::life`] and [`Link::turns`].

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    InfoPortKind, LinkAttribute, LinkEvent, LinkFlags, LinkInfo, LinkMessage,
};
use pnet_base::MacAddr;

use super::link_local::LinkLocals;
use super::rules::InterfaceRules;
use crate::l2::responder::Port;

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<MacAddr>,
    pub up: bool,
    pub carrier: bool,
    pub broadcast: bool,
    pub no_arp: bool,
    /// Part of a bond or bridge, which answers instead. A port of a VRF is an ordinary interface:
    /// the VRF only says in which routing table its packets are looked up.
    pub is_port: bool,
    /// A link-local IPv6 address of it that may be used.
    pub link_local: Option<Ipv6Addr>,
    /// How often it got carrier, as the kernel counts.
    pub carrier_ups: u32,
    /// Differs from that of every other interface, also of one that had the same index before.
    pub life: u64,
    /// Grows whenever switches may have forgotten where this interface is: it got carrier, a bond
    /// failed over, a virtual machine moved.
    pub turns: u64,
}

/// Why an interface does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    NotAllowed,
    Down,
    NoCarrier,
    NoBroadcast,
    NoArp,
    IsPort,
    NoMac,
}

/// All interfaces, by index.
pub type Links = Arc<BTreeMap<u32, Link>>;

/// An interface that can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub port: Port,
    /// See [`Link::life`].
    pub life: u64,
    /// See [`Link::turns`].
    pub turns: u64,
}

/// The interfaces, and the numbers of their past.
#[derive(Debug, Default)]
pub struct Table {
    links: BTreeMap<u32, Link>,
    link_locals: LinkLocals,
    lives: u64,
}

impl Table {
    /// The interfaces as they are now.
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// Takes in whole lists. What happened to those that are still there is unknown.
    pub fn replace(&mut self, messages: &[LinkMessage], addresses: &[AddressMessage]) {
        self.link_locals.replace(addresses);
        let mut before = std::mem::take(&mut self.links);
        for message in messages {
            let index = message.header.index;
            if let Some(mut known) = before.remove(&index) {
                known.turns += 1;
                self.links.insert(index, known);
            }
            self.describe(message);
        }
    }

    /// Takes in an event; says whether anything changed.
    pub fn apply(&mut self, event: &RouteNetlinkMessage) -> bool {
        // A bridge tells of its ports too, under its own family, and with less.
        let is_ours = |message: &LinkMessage| u8::from(message.header.interface_family) == 0;
        if let RouteNetlinkMessage::NewLink(message) = event {
            is_ours(message) && self.describe(message)
        } else if let RouteNetlinkMessage::DelLink(message) = event {
            is_ours(message) && self.links.remove(&message.header.index).is_some()
        } else if let Some(index) = self.link_locals.apply(event)
            && let Some(link) = self.links.get_mut(&index)
        {
            let address = self.link_locals.of(index);
            std::mem::replace(&mut link.link_local, address) != address
        } else {
            false
        }
    }

    fn describe(&mut self, message: &LinkMessage) -> bool {
        let Some(mut link) = Link::from_message(message) else {
            return false;
        };
        link.link_local = self.link_locals.of(link.index);
        if let Some(before) = self.links.get(&link.index) {
            let came_up = link.up && link.carrier && !(before.up && before.carrier);
            let was_away = link.carrier_ups != before.carrier_ups;
            link.life = before.life;
            link.turns = before.turns + u64::from(came_up || was_away || asks_for_news(message));
            if link == *before {
                return false;
            }
        } else {
            self.lives += 1;
            link.life = self.lives;
        }
        self.links.insert(link.index, link);
        true
    }
}

/// The kernel asks for it when another port of a bond became the active one, and when a virtual
/// machine has moved to another host.
fn asks_for_news(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            LinkAttribute::Event(LinkEvent::BondingFailover | LinkEvent::NotifyPeers)
        )
    })
}

impl Link {
    /// Why it cannot answer; `None` if it can.
    pub fn unusable(&self, rules: &InterfaceRules) -> Option<Unusable> {
        if !rules.allows(&self.name) {
            return Some(Unusable::NotAllowed);
        }
        let checks = [
            (!self.up, Unusable::Down),
            (!self.carrier, Unusable::NoCarrier),
            (!self.broadcast, Unusable::NoBroadcast),
            (self.no_arp, Unusable::NoArp),
            (self.is_port, Unusable::IsPort),
            (self.mac.is_none(), Unusable::NoMac),
        ];
        checks
            .into_iter()
            .find_map(|(failed, why)| failed.then_some(why))
    }

    fn from_message(message: &LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            broadcast: flags.contains(LinkFlags::Broadcast),
            no_arp: flags.contains(LinkFlags::Noarp),
            is_port: false,
            link_local: None,
            carrier_ups: 0,
            life: 0,
            turns: 0,
        };
        let mut in_vrf = false;
        for attribute in &message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                link.name.clone_from(name);
            } else if let LinkAttribute::Address(bytes) = attribute {
                let octets: Option<[u8; 6]> = bytes.as_slice().try_into().ok();
                link.mac = octets.map(MacAddr::from).filter(|mac| !mac.is_zero());
            } else if let LinkAttribute::Controller(index) = attribute {
                link.is_port = *index != 0;
            } else if let LinkAttribute::CarrierUpCount(count) = attribute {
                link.carrier_ups = *count;
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                in_vrf = infos.contains(&LinkInfo::PortKind(InfoPortKind::Vrf));
            }
        }
        link.is_port &= !in_vrf;
        (!link.name.is_empty()).then_some(link)
    }
}

#[cfg(test)]
mod tests;
