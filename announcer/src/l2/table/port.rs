//! Interfaces that addresses are answered on, and the protocols that are spoken there.

use std::net::{IpAddr, Ipv6Addr};

use pnet_base::MacAddr;

use crate::l2::conflict::Seer;

/// An interface to answer on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub index: u32,
    pub name: String,
    pub mac: MacAddr,
    /// Its link-local address. Without one the kernel speaks no IPv6 here and reports no multicast
    /// groups to the switches: then no IPv6 address is answered here.
    pub link_local: Option<Ipv6Addr>,
}

impl Port {
    /// Whether addresses of this family can be answered here.
    pub fn answers(&self, address: IpAddr) -> bool {
        self.speaks(Protocol::of(address))
    }

    /// Whether it speaks this protocol.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Arp => true,
            Protocol::Ndp => self.link_local.is_some(),
        }
    }

    /// Whether the other is the same interface, with the same MAC address; it may speak IPv6 or not.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.index, &self.name, self.mac) == (other.index, &other.name, other.mac)
    }
}

impl From<&Port> for Seer {
    fn from(port: &Port) -> Self {
        Self {
            index: port.index,
            name: port.name.as_str().into(),
            mac: port.mac,
        }
    }
}

/// By which protocol addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Arp,
    Ndp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Arp, Self::Ndp];

    /// By which this address is asked for.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Arp,
            IpAddr::V6(_) => Self::Ndp,
        }
    }

    /// As a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Ndp => "ndp",
        }
    }
}
