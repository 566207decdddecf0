//! Far more ARP requests than any segment has.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::{Host, arp, packet, wait};

/// Requests go out in bursts, one each millisecond: so finely does a thread sleep.
const BURST: Duration = Duration::from_millis(1);
/// What was late is made up for up to so many bursts.
const BEHIND: u32 = 20;

/// Broadcast requests for one address from a host's eth0, so many a second, until it is dropped.
#[derive(Debug)]
pub struct Storm {
    started: Instant,
    sent: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    /// Begins to ask.
    pub fn start(host: &Host, target: Ipv4Addr, per_second: u32) -> anyhow::Result<Self> {
        let IpAddr::V4(own) = host.address else {
            anyhow::bail!("{} has no IPv4 address", host.name);
        };
        let (interface, socket) = host.namespace.run(|| {
            let interface = packet::interface("eth0")?;
            anyhow::Ok((interface, packet::sending_socket(interface)?))
        })??;
        let request = arp::request(interface.mac, own, target);
        let sent = Arc::new(AtomicU64::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let (counter, stop) = (Arc::clone(&sent), Arc::clone(&stopping));
        let started = wait::now();
        let thread = std::thread::spawn(move || {
            blow(
                socket,
                &request,
                per_second / 1000,
                started,
                &counter,
                &stop,
            );
        });
        Ok(Self {
            started,
            sent,
            stopping,
            thread: Some(thread),
        })
    }

    /// Requests so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests a second so far: a busy machine may not reach what was asked for.
    pub fn rate(&self) -> f64 {
        self.sent() as f64 / self.started.elapsed().as_secs_f64()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was printed by it.
            let _ = thread.join();
        }
    }
}

fn blow(
    mut socket: Socket,
    request: &[u8],
    per_burst: u32,
    started: Instant,
    sent: &AtomicU64,
    stopping: &AtomicBool,
) {
    let mut next = started.elapsed();
    while !stopping.load(Ordering::Relaxed) {
        for _ in 0..per_burst {
            if socket.write(request).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        next = (next + BURST).max(started.elapsed().saturating_sub(BURST * BEHIND));
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
}
