//! An AF_PACKET socket that sees ARP or IPv6, made safe: the one place of this crate with raw system calls.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use nix::ifaddrs::getifaddrs;
use pnet_base::MacAddr;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// EtherType of ARP (RFC 826).
const ETH_P_ARP: u16 = 0x0806;
/// EtherType of IPv6 (RFC 2464).
const ETH_P_IPV6: u16 = 0x86dd;

/// An interface of the current thread's namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interface {
    pub(crate) index: i32,
    pub(crate) mac: MacAddr,
}

/// Looks an interface up by name, in the namespace of the calling thread.
pub(crate) fn interface(name: &str) -> anyhow::Result<Interface> {
    for entry in getifaddrs()? {
        if entry.interface_name != name {
            continue;
        }
        let link = entry
            .address
            .as_ref()
            .and_then(|address| address.as_link_addr());
        if let Some((index, Some([a, b, c, d, e, f]))) =
            link.map(|link| (link.ifindex(), link.addr()))
        {
            return Ok(Interface {
                index: i32::try_from(index)?,
                mac: MacAddr::new(a, b, c, d, e, f),
            });
        }
    }
    anyhow::bail!("no interface {name} with a hardware address")
}

/// A raw socket bound to ARP on one interface of the calling thread's namespace.
pub(crate) fn arp_socket(interface: Interface) -> anyhow::Result<Socket> {
    listening(interface, ETH_P_ARP)
}

/// The same for IPv6.
pub(crate) fn ipv6_socket(interface: Interface) -> anyhow::Result<Socket> {
    listening(interface, ETH_P_IPV6)
}

fn listening(interface: Interface, protocol: u16) -> anyhow::Result<Socket> {
    let socket = bound(interface, protocol)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

/// A raw socket that sends any frame by one interface, and receives nothing.
pub(crate) fn sending_socket(interface: Interface) -> anyhow::Result<Socket> {
    bound(interface, 0)
}

fn bound(interface: Interface, protocol: u16) -> anyhow::Result<Socket> {
    // Protocol 0 receives nothing until bind names the protocol and the interface together.
    let socket =
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).context("packet socket")?;
    socket
        .bind(&link_address(interface.index, protocol))
        .context("binding to the interface")?;
    Ok(socket)
}

/// One frame, or `None` when the read timeout passed.
pub(crate) fn receive(mut socket: &Socket, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
    match socket.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock
                    | std::io::ErrorKind::TimedOut
                    | std::io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        // The link went down; the socket works again when it comes up.
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
        Err(error) => Err(error),
    }
}

#[expect(unsafe_code, reason = "no safe way to build a sockaddr_ll")]
fn link_address(index: i32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain old data and no larger than the storage, which is zeroed and
    // aligned for every socket address.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index;
    // SAFETY: the storage holds the sockaddr_ll just written, and the length is its size.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
