//! Neighbour solicitations and advertisements over Ethernet (RFC 4861): parsing and building frames.
//!
//! Pure. It does not decide what is answered: that is [`super::reply`].

use std::net::Ipv6Addr;

use pnet_base::MacAddr;
use pnet_packet::Packet as _;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::icmpv6::{Icmpv6Code, Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet, checksum};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};

#[cfg(test)]
mod tests;

const ETHERNET_HEADER: usize = 14;
const IPV6_HEADER: usize = 40;
/// ICMPv6 header, flags, target: what every message has.
const FIXED: usize = 24;
/// The option with a link-layer address, of one unit of eight bytes.
const OPTION: usize = 8;
const FRAME_LENGTH: usize = ETHERNET_HEADER + IPV6_HEADER + FIXED + OPTION;
/// It shows that no router forwarded the packet, so that it comes from this link (section 3.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// A built frame.
pub type Frame = [u8; FRAME_LENGTH];

/// Which message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Solicitation,
    Advertisement {
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what its receiver knows.
        overrides: bool,
    },
}

/// A message of neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ndp {
    /// Destination in the Ethernet header.
    pub destination: MacAddr,
    /// Source in the Ethernet header.
    pub source: MacAddr,
    /// Source in the IPv6 header; unspecified: somebody checks whether the target is free.
    pub from: Ipv6Addr,
    /// Destination in the IPv6 header.
    pub to: Ipv6Addr,
    pub kind: Kind,
    pub target: Ipv6Addr,
    /// Of the option: that of the sender of a solicitation, that of the target of an advertisement.
    pub link_layer: Option<MacAddr>,
}

/// Why bytes are no such message (RFC 4861 sections 7.1.1 and 7.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Malformed {
    /// Shorter than the headers, or than the IPv6 header says.
    Short,
    /// Another EtherType, a VLAN tag among them, or another version in the header.
    NotIpv6,
    /// Another protocol, extension headers among them, or another type of message.
    NotNeighbour,
    /// It may have come through a router.
    HopLimit,
    /// A multicast address as source.
    Source,
    Checksum,
    Code,
    /// Less than the fixed part.
    Length,
    /// The target is a multicast address.
    Target,
    /// An option without length, or one that does not fit.
    Option,
    /// A solicitation from nowhere that is not to the group of its target, or that has a
    /// link-layer address.
    Unspecified,
    /// An advertisement to everybody that claims to be an answer.
    Solicited,
}

impl Ndp {
    /// Parses a frame; padding after it is ignored.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let ethernet = EthernetPacket::new(frame).ok_or(Malformed::Short)?;
        if ethernet.get_ethertype() != EtherTypes::Ipv6 {
            return Err(Malformed::NotIpv6);
        }
        let ip = Ipv6Packet::new(ethernet.payload()).ok_or(Malformed::Short)?;
        let message = parse_ip(&ip, ethernet.payload())?;
        let icmp = Icmpv6Packet::new(message).ok_or(Malformed::Length)?;
        let (from, to) = (ip.get_source(), ip.get_destination());
        if icmp.get_checksum() != checksum(&icmp, &from, &to) {
            return Err(Malformed::Checksum);
        }
        if icmp.get_icmpv6_code() != Icmpv6Code(0) {
            return Err(Malformed::Code);
        }
        let (fixed, options) = message
            .split_first_chunk::<FIXED>()
            .ok_or(Malformed::Length)?;
        let (kind, option) = match icmp.get_icmpv6_type() {
            Icmpv6Types::NeighborSolicit => (Kind::Solicitation, SOURCE_LINK_LAYER),
            Icmpv6Types::NeighborAdvert => (Kind::advertisement(fixed[4]), TARGET_LINK_LAYER),
            _ => return Err(Malformed::NotNeighbour),
        };
        let [_, _, _, _, _, _, _, _, target @ ..] = *fixed;
        let parsed = Self {
            destination: ethernet.get_destination(),
            source: ethernet.get_source(),
            from,
            to,
            kind,
            target: Ipv6Addr::from(target),
            link_layer: link_layer(options, option)?,
        };
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), Malformed> {
        if self.target.is_multicast() {
            return Err(Malformed::Target);
        }
        match self.kind {
            Kind::Solicitation => {
                let checks_address =
                    self.to == solicited_node(self.target) && self.link_layer.is_none();
                if self.from.is_unspecified() && !checks_address {
                    return Err(Malformed::Unspecified);
                }
            }
            Kind::Advertisement { solicited, .. } => {
                if solicited && self.to.is_multicast() {
                    return Err(Malformed::Solicited);
                }
            }
        }
        Ok(())
    }

    /// Whether it is from nowhere: then it must not have the option (section 4.3).
    fn has_no_option(&self) -> bool {
        self.kind == Kind::Solicitation && self.from.is_unspecified() && self.link_layer.is_none()
    }

    /// How much of the built frame is the message; the rest is not to be sent.
    pub fn length(&self) -> usize {
        match self.has_no_option() {
            true => FRAME_LENGTH - OPTION,
            false => FRAME_LENGTH,
        }
    }

    /// Builds the frame, of which [`Self::length`] is to be sent. It has the option with a link-layer
    /// address wherever it may: that of the message, or else the source of the frame.
    pub fn emit(&self) -> Frame {
        let mut frame = [0; FRAME_LENGTH];
        let (header, rest) = frame.split_at_mut(ETHERNET_HEADER);
        if let Some(mut ethernet) = MutableEthernetPacket::new(header) {
            ethernet.set_destination(self.destination);
            ethernet.set_source(self.source);
            ethernet.set_ethertype(EtherTypes::Ipv6);
        }
        let (header, message) = rest.split_at_mut(IPV6_HEADER);
        if let Some(mut ip) = MutableIpv6Packet::new(header) {
            ip.set_version(6);
            ip.set_payload_length((self.length() - ETHERNET_HEADER - IPV6_HEADER) as u16);
            ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
            ip.set_hop_limit(HOP_LIMIT);
            ip.set_source(self.from);
            ip.set_destination(self.to);
        }
        let length = self.length() - ETHERNET_HEADER - IPV6_HEADER;
        self.emit_message(&mut message[..length]);
        frame
    }

    fn emit_message(&self, message: &mut [u8]) {
        let (icmp_type, flags, option) = match self.kind {
            Kind::Solicitation => (Icmpv6Types::NeighborSolicit, 0, SOURCE_LINK_LAYER),
            Kind::Advertisement {
                router,
                solicited,
                overrides,
            } => {
                let bit = |set: bool, bit: u8| if set { bit } else { 0 };
                let flags =
                    bit(router, ROUTER) | bit(solicited, SOLICITED) | bit(overrides, OVERRIDE);
                (Icmpv6Types::NeighborAdvert, flags, TARGET_LINK_LAYER)
            }
        };
        let link_layer = self.link_layer.unwrap_or(self.source);
        message[4] = flags;
        message[8..FIXED].copy_from_slice(&self.target.octets());
        if let [kind, units, address @ ..] = &mut message[FIXED..] {
            (*kind, *units) = (option, 1);
            address.copy_from_slice(&link_layer.octets());
        }
        if let Some(mut icmp) = MutableIcmpv6Packet::new(message) {
            icmp.set_icmpv6_type(icmp_type);
            let sum = checksum(&icmp.to_immutable(), &self.from, &self.to);
            icmp.set_checksum(sum);
        }
    }

    /// Tells `asker`, who has this address itself, that `address` is at `mac`. An asker without an
    /// address checks whether `address` is free: then everybody is told that it is not (RFC 4862).
    ///
    /// Answers come from the address itself, as those of Linux do. Some only listen to that: ndisc6
    /// does not hear about a global address from a link-local one.
    pub fn answer(asker: (MacAddr, Ipv6Addr), address: Ipv6Addr, mac: MacAddr) -> Self {
        let everybody = Self::unsolicited(address, mac);
        let (asker_mac, asker_ip) = asker;
        if asker_ip.is_unspecified() {
            return everybody;
        }
        Self {
            destination: asker_mac,
            to: asker_ip,
            kind: Kind::Advertisement {
                router: false,
                solicited: true,
                overrides: true,
            },
            ..everybody
        }
    }

    /// Asks who has an address, from `own`, the link-local address of the interface. Not from nowhere:
    /// whoever has it would then tell everybody that it does.
    pub fn question(address: Ipv6Addr, mac: MacAddr, own: Ipv6Addr) -> Self {
        let group = solicited_node(address);
        Self {
            destination: ethernet_group(group),
            source: mac,
            from: own,
            to: group,
            kind: Kind::Solicitation,
            target: address,
            link_layer: Some(mac),
        }
    }

    /// Asks whether anybody has an address, without saying that we do (RFC 4862 section 5.4.2).
    pub fn probe(address: Ipv6Addr, mac: MacAddr) -> Self {
        Self {
            link_layer: None,
            ..Self::question(address, mac, Ipv6Addr::UNSPECIFIED)
        }
    }

    /// Tells everybody that `address` is at `mac` (section 7.2.6).
    pub fn unsolicited(address: Ipv6Addr, mac: MacAddr) -> Self {
        Self {
            destination: ethernet_group(ALL_NODES),
            source: mac,
            from: address,
            to: ALL_NODES,
            kind: Kind::Advertisement {
                router: false,
                solicited: false,
                overrides: true,
            },
            target: address,
            link_layer: Some(mac),
        }
    }
}

impl Kind {
    fn advertisement(flags: u8) -> Self {
        Self::Advertisement {
            router: flags & ROUTER != 0,
            solicited: flags & SOLICITED != 0,
            overrides: flags & OVERRIDE != 0,
        }
    }
}

/// The multicast group in which solicitations for an address are sent (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    )
}

/// The Ethernet address of a multicast group (RFC 2464 section 7).
pub fn ethernet_group(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr(0x33, 0x33, a, b, c, d)
}

/// Checks the IPv6 header, and gives what follows it.
fn parse_ip<'a>(ip: &Ipv6Packet<'_>, packet: &'a [u8]) -> Result<&'a [u8], Malformed> {
    if ip.get_version() != 6 {
        return Err(Malformed::NotIpv6);
    }
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 {
        return Err(Malformed::NotNeighbour);
    }
    if ip.get_hop_limit() != HOP_LIMIT {
        return Err(Malformed::HopLimit);
    }
    if ip.get_source().is_multicast() {
        return Err(Malformed::Source);
    }
    let length = usize::from(ip.get_payload_length());
    packet
        .get(IPV6_HEADER..IPV6_HEADER + length)
        .ok_or(Malformed::Short)
}

/// Walks through the options; gives the link-layer address of the first of the wanted type.
fn link_layer(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, Malformed> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * OPTION;
        if length == 0 {
            return Err(Malformed::Option);
        }
        let (option, rest) = options.split_at_checked(length).ok_or(Malformed::Option)?;
        if let [_, _, a, b, c, d, e, f] = *option
            && kind == wanted
            && found.is_none()
        {
            found = Some(MacAddr(a, b, c, d, e, f));
        }
        options = rest;
    }
    match options.is_empty() {
        true => Ok(found),
        false => Err(Malformed::Option),
    }
}
