//! Receiving with the time at which the kernel got it.
//!
//! A busy machine may leave a frame in its queue for milliseconds. Two nodes that compare what
//! they saw when (`l2::hold`) have to compare arrivals, not when a thread got round to them.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;

use crate::clock;

/// Something received.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub length: usize,
    /// Who sent it, for sockets of the Internet protocols.
    pub from: Option<SocketAddr>,
    /// When it arrived.
    pub at: Instant,
}

/// Makes the kernel stamp what a socket receives.
pub fn enable(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::ReceiveTimestampns, &true)?)
}

/// Receives without blocking; `WouldBlock` when there is nothing.
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let mut at = None;
    for one in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampns(stamp) = one {
            at = Some(instant_of(stamp.into()));
        }
    }
    Ok(Received {
        length: message.bytes,
        from: message.address.as_ref().and_then(address),
        at: at.unwrap_or_else(clock::now),
    })
}

/// The address of an Internet socket.
pub fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddr::from((v6.ip(), v6.port())))
}

/// The kernel stamps by the wall clock. Where that was set forward meanwhile, what was waiting seems
/// older than it is: whoever drops what is old then drops that as well, once.
fn instant_of(since_epoch: Duration) -> Instant {
    let now = clock::now();
    let age = clock::since_epoch().saturating_sub(since_epoch);
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_datagram_has_the_time_of_its_arrival_not_of_its_reading() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        enable(&socket).expect("enables");
        let to = socket.local_addr().expect("bound");
        let mut buffer = [0; 16];
        // The kernel begins to stamp arrivals a moment after the first socket asks for it.
        let is_of_arrival = (0..100).any(|_| {
            let before = clock::now();
            socket.send_to(b"hello", to).expect("sends");
            let sent = clock::now();
            while clock::now() < sent + Duration::from_millis(20) {
                std::thread::yield_now();
            }
            let received = receive(&socket, &mut buffer).expect("is there");
            assert_eq!((received.length, received.from), (5, Some(to)));
            // The two clocks are read one after the other: a pause in between is a small error.
            let slack = Duration::from_millis(5);
            (before - slack..sent + slack).contains(&received.at)
        });
        assert!(is_of_arrival, "never stamped on arrival");
        let nothing = receive(&socket, &mut buffer).expect_err("is empty");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
