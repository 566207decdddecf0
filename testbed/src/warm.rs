//! A client that has a neighbour entry already: it asks nobody who has an address, and sends.
//!
//! Its kernel learns of a new owner by what that one announces, as the kernel of any host with a
//! running connection does. Datagrams are numbered, one every 10 ms; a server on each node echoes
//! them, so that a [`Record`] says which were lost, and which node each one reached.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pnet_base::MacAddr;

use crate::record::{Answer, INTERVAL, Record, Recorder};
use crate::{Host, wait};

/// Where the servers listen.
const PORT: u16 = 7007;
/// How soon a thread notices that it is to stop.
const TIMEOUT: Duration = Duration::from_millis(20);
const NUMBER: usize = size_of::<u64>();
const MAC: usize = 6;

/// Servers of one node that echo what comes for some addresses, and tell by whom. The addresses are
/// on `lo`, and the kernel is told not to answer ARP for them: whoever answers is an announcer.
/// (With Kubernetes, kube-proxy's rules stand here.)
#[derive(Debug)]
pub struct Echo {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Starts a server for each address on a node.
    pub fn start(host: &Host, addresses: &[Ipv4Addr]) -> anyhow::Result<Self> {
        host.keep_quiet_about_local_addresses()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for address in addresses {
            let local = format!("{address}/32");
            host.namespace
                .exec(&["ip", "addr", "add", &local, "dev", "lo"])?;
            let socket = host
                .namespace
                .run(|| UdpSocket::bind((*address, PORT)))?
                .with_context(|| format!("listening on {address}"))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            let (stopping, mac) = (Arc::clone(&stopping), host.mac);
            threads.push(std::thread::spawn(move || echo(&socket, mac, &stopping)));
        }
        Ok(Self { stopping, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        stop(&self.stopping, &mut self.threads);
    }
}

/// The client. Dropping it stops it.
#[derive(Debug)]
pub struct Warm {
    started: Instant,
    record: Arc<Mutex<Record>>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Warm {
    /// Sends to an address from a host every 10 ms, and waits until the first datagram came back:
    /// from then on the host has a neighbour entry. The address need not be of its subnet.
    pub fn start(host: &Host, address: Ipv4Addr, deadline: Duration) -> anyhow::Result<Self> {
        let to = format!("{address}/32");
        host.namespace
            .exec(&["ip", "route", "replace", &to, "dev", "eth0"])?;
        let socket = host.namespace.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect((address, PORT))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            io::Result::Ok(socket)
        })??;
        let receiver = socket.try_clone()?;
        let started = wait::now();
        let record = Arc::new(Mutex::new(Record::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let sending = (Arc::clone(&record), Arc::clone(&stopping));
        let receiving = (Arc::clone(&record), Arc::clone(&stopping));
        let threads = vec![
            std::thread::spawn(move || send(&socket, started, &sending.0, &sending.1)),
            std::thread::spawn(move || {
                receive(&receiver, address, started, &receiving.0, &receiving.1);
            }),
        ];
        let warm = Self {
            started,
            record,
            stopping,
            threads,
        };
        wait::until(&format!("an echo from {address}"), deadline, || {
            (!lock(&warm.record).answers.is_empty()).then_some(())
        })?;
        Ok(warm)
    }
}

impl Recorder for Warm {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn record(&self) -> Record {
        lock(&self.record).clone()
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        stop(&self.stopping, &mut self.threads);
    }
}

fn stop(stopping: &AtomicBool, threads: &mut Vec<JoinHandle<()>>) {
    stopping.store(true, Ordering::Relaxed);
    for thread in threads.drain(..) {
        // A panic in the thread was printed by it.
        let _ = thread.join();
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn echo(socket: &UdpSocket, mac: MacAddr, stopping: &AtomicBool) {
    let mut buffer = [0; NUMBER + MAC];
    buffer[NUMBER..].copy_from_slice(&mac.octets());
    while !stopping.load(Ordering::Relaxed) {
        // An error is a timeout, or news of a datagram that did not reach the client.
        if let Ok((NUMBER, client)) = socket.recv_from(&mut buffer[..NUMBER]) {
            let _ = socket.send_to(&buffer, client);
        }
    }
}

fn send(socket: &UdpSocket, started: Instant, record: &Mutex<Record>, stopping: &AtomicBool) {
    let mut next = started.elapsed();
    while !stopping.load(Ordering::Relaxed) {
        let number = {
            let asked = &mut lock(record).asked;
            asked.push(started.elapsed());
            asked.len() as u64 - 1
        };
        // An error says that an earlier datagram reached nobody.
        let _ = socket.send(&number.to_be_bytes());
        next += INTERVAL;
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
}

fn receive(
    socket: &UdpSocket,
    address: Ipv4Addr,
    started: Instant,
    record: &Mutex<Record>,
    stopping: &AtomicBool,
) {
    let mut buffer = [0; NUMBER + MAC];
    while !stopping.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        let at = started.elapsed();
        if let Some((round, mac)) = parse(&buffer[..length]) {
            lock(record).answers.push(Answer {
                at,
                address: address.into(),
                mac,
                round,
            });
        }
    }
}

/// The number of an echo, and the node that sent it.
fn parse(bytes: &[u8]) -> Option<(usize, MacAddr)> {
    let (number, mac) = bytes.split_first_chunk::<NUMBER>()?;
    let mac: [u8; MAC] = mac.try_into().ok()?;
    let number = usize::try_from(u64::from_be_bytes(*number)).ok()?;
    Some((number, mac.into()))
}
