//! ARP over Ethernet for IPv4 (RFC 826): parsing and building frames.
//!
//! Pure. It does not decide what is answered: that is [`super::reply`].

use std::net::Ipv4Addr;

use pnet_base::MacAddr;
use pnet_packet::Packet as _;
use pnet_packet::arp::{
    ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket,
};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};

const ETHERNET_HEADER: usize = 14;
const ARP_LENGTH: usize = 28;
/// The shortest frame on the wire without its checksum (IEEE 802.3); shorter ones are padded.
pub const FRAME_LENGTH: usize = 60;

/// A built frame.
pub type Frame = [u8; FRAME_LENGTH];

/// The two operations of ARP proper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Request,
    Reply,
}

/// An ARP frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Destination in the Ethernet header.
    pub destination: MacAddr,
    /// Source in the Ethernet header.
    pub source: MacAddr,
    pub operation: Operation,
    pub sender_mac: MacAddr,
    pub sender_ip: Ipv4Addr,
    pub target_mac: MacAddr,
    pub target_ip: Ipv4Addr,
}

/// Why bytes are no ARP frame for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Malformed {
    /// Shorter than the two headers.
    Short,
    /// Another EtherType, a VLAN tag among them.
    NotArp,
    /// Hardware type other than Ethernet.
    HardwareType,
    /// Protocol type other than IPv4.
    ProtocolType,
    /// Address lengths other than 6 and 4.
    AddressLength,
    /// Neither request nor reply.
    Operation,
}

impl Arp {
    /// Parses a frame; padding after it is ignored.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let ethernet = EthernetPacket::new(frame).ok_or(Malformed::Short)?;
        if ethernet.get_ethertype() != EtherTypes::Arp {
            return Err(Malformed::NotArp);
        }
        let arp = ArpPacket::new(ethernet.payload()).ok_or(Malformed::Short)?;
        if arp.get_hardware_type() != ArpHardwareTypes::Ethernet {
            return Err(Malformed::HardwareType);
        }
        if arp.get_protocol_type() != EtherTypes::Ipv4 {
            return Err(Malformed::ProtocolType);
        }
        if (arp.get_hw_addr_len(), arp.get_proto_addr_len()) != (6, 4) {
            return Err(Malformed::AddressLength);
        }
        let operation = match arp.get_operation() {
            ArpOperations::Request => Operation::Request,
            ArpOperations::Reply => Operation::Reply,
            ArpOperation(_) => return Err(Malformed::Operation),
        };
        Ok(Self {
            destination: ethernet.get_destination(),
            source: ethernet.get_source(),
            operation,
            sender_mac: arp.get_sender_hw_addr(),
            sender_ip: arp.get_sender_proto_addr(),
            target_mac: arp.get_target_hw_addr(),
            target_ip: arp.get_target_proto_addr(),
        })
    }

    /// Builds the frame, padded to the shortest length that Ethernet knows.
    pub fn emit(&self) -> Frame {
        let mut frame = [0; FRAME_LENGTH];
        let (header, rest) = frame.split_at_mut(ETHERNET_HEADER);
        if let Some(mut ethernet) = MutableEthernetPacket::new(header) {
            ethernet.set_destination(self.destination);
            ethernet.set_source(self.source);
            ethernet.set_ethertype(EtherTypes::Arp);
        }
        if let Some(mut arp) = MutableArpPacket::new(&mut rest[..ARP_LENGTH]) {
            arp.set_hardware_type(ArpHardwareTypes::Ethernet);
            arp.set_protocol_type(EtherTypes::Ipv4);
            arp.set_hw_addr_len(6);
            arp.set_proto_addr_len(4);
            arp.set_operation(match self.operation {
                Operation::Request => ArpOperations::Request,
                Operation::Reply => ArpOperations::Reply,
            });
            arp.set_sender_hw_addr(self.sender_mac);
            arp.set_sender_proto_addr(self.sender_ip);
            arp.set_target_hw_addr(self.target_mac);
            arp.set_target_proto_addr(self.target_ip);
        }
        frame
    }

    /// Tells `asker`, who has this address itself, that `address` is at `mac`.
    pub fn answer(asker: (MacAddr, Ipv4Addr), address: Ipv4Addr, mac: MacAddr) -> Self {
        let (asker_mac, asker_ip) = asker;
        Self {
            destination: asker_mac,
            source: mac,
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: address,
            target_mac: asker_mac,
            target_ip: asker_ip,
        }
    }

    /// Asks whether anybody has an address, without saying that we do (RFC 5227 section 1.1).
    pub fn probe(address: Ipv4Addr, mac: MacAddr) -> Self {
        Self {
            sender_ip: Ipv4Addr::UNSPECIFIED,
            ..Self::gratuitous_request(address, mac)
        }
    }

    /// The gratuitous request: the address is at `mac` (RFC 5227 section 3).
    pub fn gratuitous_request(address: Ipv4Addr, mac: MacAddr) -> Self {
        Self {
            destination: MacAddr::broadcast(),
            source: mac,
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: address,
            target_mac: MacAddr::zero(),
            target_ip: address,
        }
    }

    /// The gratuitous reply. Its target is `mac` itself: Linux ignores one to the broadcast
    /// address while an entry is younger than its lock time of 1 s.
    pub fn gratuitous_reply(address: Ipv4Addr, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            target_mac: mac,
            ..Self::gratuitous_request(address, mac)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const NODE: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    fn request() -> Arp {
        Arp {
            destination: MacAddr::broadcast(),
            source: CLIENT,
            operation: Operation::Request,
            sender_mac: CLIENT,
            sender_ip: Ipv4Addr::new(192, 0, 2, 1),
            target_mac: MacAddr::zero(),
            target_ip: Ipv4Addr::new(192, 0, 2, 100),
        }
    }

    #[test]
    fn an_answer_has_these_bytes() {
        let asker = (CLIENT, Ipv4Addr::new(192, 0, 2, 1));
        let frame = Arp::answer(asker, Ipv4Addr::new(192, 0, 2, 100), NODE).emit();
        let expected = [
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // Ethernet, IPv4, 6, 4, reply
            2, 0, 0, 0, 0, 2, 192, 0, 2, 100, // sender
            2, 0, 0, 0, 0, 1, 192, 0, 2, 1, // target
        ];
        assert_eq!(&frame[..42], expected);
        assert_eq!(frame[42..], [0; 18]);
    }

    #[test]
    fn both_gratuitous_forms_name_the_address_twice_and_go_to_everybody() {
        let address = Ipv4Addr::new(192, 0, 2, 100);
        let request = Arp::gratuitous_request(address, NODE);
        let reply = Arp::gratuitous_reply(address, NODE);
        for form in [request, reply] {
            assert_eq!((form.sender_ip, form.target_ip), (address, address));
            assert_eq!((form.source, form.sender_mac), (NODE, NODE));
            assert_eq!(form.destination, MacAddr::broadcast());
        }
        assert_eq!(
            (request.operation, request.target_mac),
            (Operation::Request, MacAddr::zero())
        );
        assert_eq!(
            (reply.operation, reply.target_mac),
            (Operation::Reply, NODE)
        );
    }

    #[test]
    fn every_way_to_be_malformed_has_its_name() {
        let good = request().emit();
        let cases: &[(usize, &[u8], Malformed)] = &[
            (12, &[8, 0], Malformed::NotArp),
            (12, &[0x81, 0], Malformed::NotArp),
            (14, &[0, 6], Malformed::HardwareType),
            (16, &[0x86, 0xdd], Malformed::ProtocolType),
            (18, &[8], Malformed::AddressLength),
            (19, &[16], Malformed::AddressLength),
            (20, &[0, 0], Malformed::Operation),
            (20, &[0, 3], Malformed::Operation),
            (20, &[1, 1], Malformed::Operation),
        ];
        for (at, bytes, expected) in cases {
            let mut frame = good;
            frame[*at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Arp::parse(&frame), Err(*expected), "{bytes:?} at {at}");
        }
        for length in 0..42 {
            assert!(Arp::parse(&good[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(Arp::parse(&good[..42]), Ok(request()));
    }

    fn arp() -> impl Strategy<Value = Arp> {
        let mac = || any::<[u8; 6]>().prop_map(MacAddr::from);
        let ip = || any::<[u8; 4]>().prop_map(Ipv4Addr::from);
        let operation = prop_oneof![Just(Operation::Request), Just(Operation::Reply)];
        (mac(), mac(), operation, mac(), ip(), mac(), ip()).prop_map(
            |(destination, source, operation, sender_mac, sender_ip, target_mac, target_ip)| Arp {
                destination,
                source,
                operation,
                sender_mac,
                sender_ip,
                target_mac,
                target_ip,
            },
        )
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_as_it_was_built(arp in arp()) {
            prop_assert_eq!(Arp::parse(&arp.emit()), Ok(arp));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(arp) = Arp::parse(&bytes) {
                prop_assert_eq!(&arp.emit()[..42], &bytes[..42]);
            }
        }
    }
}
