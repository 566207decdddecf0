//! A raw socket for ARP or for neighbour discovery on one interface.
//!
//! The kernel filter is attached before the socket is bound, so that nothing else ever wakes the
//! process. Needs the capability NET_RAW.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::filter::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, Instruction};
use super::table::Protocol;
use crate::stamped::{self, Received};

/// Room for a storm of some thousand requests while the thread does not run.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Sends and receives frames of one protocol on one interface. Never blocks.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// Opens it on the interface with this index. Everything of the protocol passes.
    pub fn open(interface: u32, protocol: Protocol) -> io::Result<Self> {
        let ethertype = match protocol {
            Protocol::Arp => ETHERTYPE_ARP,
            Protocol::Ndp => ETHERTYPE_IPV6,
        };
        // Protocol 0: nothing is queued before the filter is in place.
        let socket = Socket::new(
            Domain::PACKET,
            Type::RAW.nonblocking(),
            Some(socket2::Protocol::from(0)),
        )?;
        let opened = Self { socket };
        opened.filter(&filter::program(protocol, None))?;
        opened.socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        stamped::enable(&opened.socket)?;
        opened.socket.bind(&link_address(interface, ethertype)?)?;
        Ok(opened)
    }

    /// Receives only what this program passes, from now on: one is replaced by the other in one step. The
    /// kernel has room for a program of some length only (net.core.optmem_max).
    pub fn filter(&self, program: &[Instruction]) -> io::Result<()> {
        let steps = program
            .iter()
            .map(|one| SockFilter::new(one.code, one.if_true, one.if_false, one.operand));
        self.socket.attach_filter(&steps.collect::<Vec<_>>())
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
