//! A raw socket for ARP on one interface.
//!
//! The kernel filter is attached before the socket is bound, so that nothing but ARP ever wakes the
//! process. Needs the capability NET_RAW.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

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
const WHOLE_FRAME: u32 = 0xffff;

/// Passes ARP that is for this host or for everybody and has no VLAN tag.
const FILTER: [SockFilter; 8] = [
    SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
    SockFilter::new(JUMP_IF_AT_LEAST, 5, 0, PACKET_OTHERHOST),
    SockFilter::new(LOAD_BYTE, 0, 0, VLAN_TAG_PRESENT),
    SockFilter::new(JUMP_IF_EQUAL, 0, 3, 0),
    SockFilter::new(LOAD_HALF, 0, 0, ETHERTYPE_OFFSET),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, ETHERTYPE_ARP),
    SockFilter::new(RETURN, 0, 0, WHOLE_FRAME),
    SockFilter::new(RETURN, 0, 0, 0),
];

/// Sends and receives ARP frames on one interface. Never blocks.
#[derive(Debug)]
pub struct ArpSocket {
    socket: Socket,
}

impl ArpSocket {
    /// Opens it on the interface with this index.
    pub fn open(interface: u32) -> io::Result<Self> {
        // Protocol 0: nothing is queued before the filter is in place.
        let socket = Socket::new(
            Domain::PACKET,
            Type::RAW.nonblocking(),
            Some(Protocol::from(0)),
        )?;
        socket.attach_filter(&FILTER)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        stamped::enable(&socket)?;
        socket.bind(&link_address(interface)?)?;
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

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The address of all ARP traffic of an interface (packet(7)).
#[expect(
    unsafe_code,
    reason = "no safe constructor of sockaddr_ll exists in std, socket2 or nix"
)]
fn link_address(interface: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(interface)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index out of range"))?;
    let protocol = u16::try_from(libc::ETH_P_ARP)
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
