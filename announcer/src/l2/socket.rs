//! A raw socket for ARP or for neighbour discovery on one interface.
//!
//! The kernel filter is attached before the socket is bound, so that nothing else ever wakes the
//! process. Needs the capability NET_RAW.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::table::Protocol;
use crate::stamped::{self, Received};

/// Room for a storm of some thousand requests while the thread does not run.
const RECEIVE_BUFFER: usize = 1 << 20;

// Classic BPF (linux/filter.h). Operations:
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
// Loads from here on read what the kernel knows about the frame instead of its bytes.
const ANCILLARY: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const VLAN_TAG_PRESENT: u32 = ANCILLARY + 48;
/// Not for this host (packet(7)); those above it were sent by this host or looped back. A frame
/// with a tag of a VLAN that this host does not have is of this type too: the kernel takes the tag
/// out before the socket sees the frame, and leaves only this trace of it.
const PACKET_OTHERHOST: u32 = 3;
const ETHERTYPE_OFFSET: u32 = 12;
const ETHERTYPE_ARP: u32 = 0x0806;
const ETHERTYPE_IPV6: u32 = 0x86dd;
// In the IPv6 header, and right behind it: with an extension header in between it is no neighbour
// discovery (RFC 6980).
const NEXT_HEADER_OFFSET: u32 = 14 + 6;
const HOP_LIMIT_OFFSET: u32 = 14 + 7;
const ICMPV6_TYPE_OFFSET: u32 = 14 + 40;
const ICMPV6: u32 = 58;
const LARGEST_HOP_LIMIT: u32 = 255;
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;
const WHOLE_FRAME: u32 = 0xffff;

/// Passes ARP that is for this host or for everybody and has no VLAN tag.
const ARP: [SockFilter; 8] = [
    SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
    SockFilter::new(JUMP_IF_AT_LEAST, 5, 0, PACKET_OTHERHOST),
    SockFilter::new(LOAD_BYTE, 0, 0, VLAN_TAG_PRESENT),
    SockFilter::new(JUMP_IF_EQUAL, 0, 3, 0),
    SockFilter::new(LOAD_HALF, 0, 0, ETHERTYPE_OFFSET),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, ETHERTYPE_ARP),
    SockFilter::new(RETURN, 0, 0, WHOLE_FRAME),
    SockFilter::new(RETURN, 0, 0, 0),
];

/// Passes solicitations and advertisements of this link that are for this host or for a group and
/// have no VLAN tag.
const NDP: [SockFilter; 15] = [
    SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
    SockFilter::new(JUMP_IF_AT_LEAST, 12, 0, PACKET_OTHERHOST),
    SockFilter::new(LOAD_BYTE, 0, 0, VLAN_TAG_PRESENT),
    SockFilter::new(JUMP_IF_EQUAL, 0, 10, 0),
    SockFilter::new(LOAD_HALF, 0, 0, ETHERTYPE_OFFSET),
    SockFilter::new(JUMP_IF_EQUAL, 0, 8, ETHERTYPE_IPV6),
    SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER_OFFSET),
    SockFilter::new(JUMP_IF_EQUAL, 0, 6, ICMPV6),
    SockFilter::new(LOAD_BYTE, 0, 0, HOP_LIMIT_OFFSET),
    SockFilter::new(JUMP_IF_EQUAL, 0, 4, LARGEST_HOP_LIMIT),
    SockFilter::new(LOAD_BYTE, 0, 0, ICMPV6_TYPE_OFFSET),
    SockFilter::new(JUMP_IF_EQUAL, 1, 0, SOLICITATION),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, ADVERTISEMENT),
    SockFilter::new(RETURN, 0, 0, WHOLE_FRAME),
    SockFilter::new(RETURN, 0, 0, 0),
];

/// Sends and receives frames of one protocol on one interface. Never blocks.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// Opens it on the interface with this index.
    pub fn open(interface: u32, protocol: Protocol) -> io::Result<Self> {
        let (filter, ethertype): (&[SockFilter], u32) = match protocol {
            Protocol::Arp => (&ARP, ETHERTYPE_ARP),
            Protocol::Ndp => (&NDP, ETHERTYPE_IPV6),
        };
        // Protocol 0: nothing is queued before the filter is in place.
        let socket = Socket::new(
            Domain::PACKET,
            Type::RAW.nonblocking(),
            Some(socket2::Protocol::from(0)),
        )?;
        socket.attach_filter(filter)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        stamped::enable(&socket)?;
        socket.bind(&link_address(interface, ethertype)?)?;
        Ok(Self { socket })
    }

    /// Reads one frame; `WouldBlock` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        stamped::receive(&self.socket, buffer)
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.socket).write(frame).map(|_| ())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The address of all traffic of one EtherType on an interface (packet(7)).
#[expect(
    unsafe_code,
    reason = "no safe constructor of sockaddr_ll exists in std, socket2 or nix"
)]
fn link_address(interface: u32, ethertype: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(interface)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index out of range"))?;
    let protocol = u16::try_from(ethertype)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "protocol out of range"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain old data no larger than sockaddr_storage, of which the storage
    // has the size and alignment; all zero is a valid value of it.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll, and the length is that of sockaddr_ll.
    Ok(unsafe { SockAddr::new(storage, length) })
}
