//! Datagrams that a host refused (ICMP port unreachable): its kernel lives, its announcer does not.
//!
//! With IP_RECVERR (ip(7)) the kernel keeps such errors in a queue of the socket, each with the
//! address that the datagram was sent to. One socket thus learns what one connected socket per
//! peer would.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use crate::stamped;

/// Errors read at once; the queue of the kernel is bounded by the receive buffer.
const BATCH: usize = 64;

/// Makes a UDP socket keep its errors.
pub fn enable(socket: &impl AsFd, local: SocketAddr) -> nix::Result<()> {
    if local.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    // A socket of the other family reaches IPv4 hosts, too.
    setsockopt(socket, sockopt::Ipv4RecvErr, &true)
}

/// Takes the errors that are there; gives the addresses that refused a datagram.
pub fn take_refused(socket: &impl AsRawFd) -> Vec<SocketAddr> {
    let mut refused = Vec::new();
    for _ in 0..BATCH {
        match take_one(socket) {
            Ok(Some(address)) => refused.push(address),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    refused
}

fn take_one(socket: &impl AsRawFd) -> nix::Result<Option<SocketAddr>> {
    let mut payload = [0; 64];
    let mut slices = [IoSliceMut::new(&mut payload)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut is_refusal = false;
    for one in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4RecvErr(error, _)
        | ControlMessageOwned::Ipv6RecvErr(error, _) = one
        {
            is_refusal = i32::try_from(error.ee_errno) == Ok(Errno::ECONNREFUSED as i32);
        }
    }
    let sent_to = message.address.as_ref().and_then(stamped::address);
    let sent_to = sent_to.map(|it| SocketAddr::new(it.ip().to_canonical(), it.port()));
    Ok(sent_to.filter(|_| is_refusal))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;

    /// A socket bound there sends to a port of an IPv4 host on which nobody listens.
    #[expect(clippy::disallowed_methods, reason = "waits for the kernel")]
    fn check(local: &str) {
        let gone = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let address = gone.local_addr().expect("bound");
        drop(gone);
        let socket = UdpSocket::bind(local).expect("binds");
        enable(&socket, socket.local_addr().expect("bound")).expect("enables");
        socket.send_to(b"hello", address).expect("sends");
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let refused = take_refused(&socket);
            if !refused.is_empty() {
                assert_eq!(refused, [address]);
                break;
            }
            assert!(Instant::now() < deadline, "no refusal seen");
            std::thread::yield_now();
        }
        assert_eq!(take_refused(&socket), []);
    }

    #[test]
    fn the_address_that_refused_a_datagram_is_told() {
        check("127.0.0.1:0");
    }

    #[test]
    fn a_socket_for_both_families_learns_which_ipv4_host_refused() {
        check("[::]:0");
    }
}
