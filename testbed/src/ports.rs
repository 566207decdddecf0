//! Ports for programs under test.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes ports for outgoing connections (32768 and up), so
/// that none of those can take a port between this call and the program's bind.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is free for TCP and UDP on 127.0.0.1 at this moment. Each call of one process gives
/// another one, and processes start far from one another.
///
/// # Panics
/// When all 20,000 ports are taken.
pub fn free_port() -> u16 {
    // Consecutive process ids land 97 ports apart.
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let index = offset.wrapping_add(step) % u32::from(COUNT);
        let port = FIRST + u16::try_from(index).expect("the remainder is below COUNT");
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait;

    #[test]
    fn two_calls_give_two_ports_and_both_can_be_bound() {
        let (a, b) = (free_port(), free_port());
        assert_ne!(a, b);
        // A program that another test is starting has every socket of this process, the one that looked
        // whether the port is free among them, until it is there (fork before exec).
        let soon = Duration::from_secs(10);
        let first = wait::until_ok("the first is bound", soon, || {
            Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, a))?)
        });
        let second = wait::until_ok("the second is bound", soon, || {
            Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, b))?)
        });
        first.unwrap();
        second.unwrap();
    }
}
