//! The thread that answers ARP and sends gratuitous frames.
//!
//! It is a thread of its own, off the async runtime: a busy stream must not delay an answer. What
//! it answers is a table behind a short lock. Whoever changes a duty holds that lock, and a frame
//! is decided and answered under it: after a duty was taken away, no answer goes out any more.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use pnet_base::MacAddr;
use prometheus_client::metrics::counter::Counter;

use super::arp::{Arp, Operation};
use super::burst::{Bursts, Gratuitous, Spot};
use super::hold::{HELD_LIMIT, Held, Noted, Report};
use super::reply::{AddressDuty, Decision, Freshness, Ignored, decide};
use super::socket::ArpSocket;
use crate::clock;
use crate::metrics::{AddressCounters, Metrics};
use crate::stamped::Received;

/// Frames read from one socket before the others get their turn.
const READ_BATCH: usize = 64;
/// ARP frames are at most this long with any padding that is of interest.
const FRAME_BUFFER: usize = 128;

/// An interface to answer on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub index: u32,
    pub name: String,
    pub mac: MacAddr,
}

/// The way to tell the thread what to do. Clones speak to the same thread.
#[derive(Debug, Clone)]
pub struct Responder {
    shared: Arc<Shared>,
}

/// The running thread; dropping it stops it.
#[derive(Debug)]
pub struct ResponderThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    wake: EventFd,
    /// Grows when sockets come or go.
    generation: AtomicU64,
    stop: AtomicBool,
    ended: tokio::sync::Notify,
    metrics: Metrics,
    ignored: Vec<(Ignored, Counter)>,
}

#[derive(Debug)]
struct Table {
    ports: BTreeMap<u32, OpenPort>,
    bursts: Bursts,
    held: Vec<Held>,
    noted: Vec<Noted>,
    freshness: Freshness,
}

#[derive(Debug)]
struct OpenPort {
    port: Port,
    socket: Arc<ArpSocket>,
    duties: HashMap<Ipv4Addr, Entry>,
}

#[derive(Debug)]
struct Entry {
    duty: AddressDuty,
    since: Instant,
    counters: AddressCounters,
}

/// Starts the thread.
pub fn start(metrics: &Metrics) -> io::Result<(Responder, ResponderThread)> {
    let shared = Arc::new(Shared {
        table: Mutex::new(Table {
            ports: BTreeMap::new(),
            bursts: Bursts::new(clock::now()),
            held: Vec::new(),
            noted: Vec::new(),
            freshness: Freshness::default(),
        }),
        wake: EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        generation: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        ended: tokio::sync::Notify::new(),
        metrics: metrics.clone(),
        ignored: metrics.of_reasons(),
    });
    let for_thread = shared.clone();
    let thread = std::thread::Builder::new()
        .name("arp".to_owned())
        .spawn(move || {
            // Also when it panics: whoever waits for its end must learn of it.
            let _ended = NotifyOnDrop(&for_thread);
            for_thread.run();
        })?;
    let responder = Responder {
        shared: shared.clone(),
    };
    let thread = ResponderThread {
        shared,
        thread: Some(thread),
    };
    Ok((responder, thread))
}

struct NotifyOnDrop<'a>(&'a Shared);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended.notify_one();
    }
}

impl ResponderThread {
    /// Resolves if the thread ends although nobody stopped it. Cancel safe.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }
}

impl Drop for ResponderThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("arp thread panicked");
        }
    }
}

impl Responder {
    /// Answers on exactly these interfaces. Gives those that could not be opened. An interface
    /// that is new, or has a new MAC address, has no duties yet.
    pub fn set_ports(&self, ports: &[Port]) -> Vec<(Port, io::Error)> {
        let mut table = self.shared.lock();
        let gone: Vec<u32> = table
            .ports
            .values()
            .filter(|open| !ports.contains(&open.port))
            .map(|open| open.port.index)
            .collect();
        for index in gone {
            table.close(index);
        }
        let mut failed = Vec::new();
        for port in ports {
            if table.ports.contains_key(&port.index) {
                continue;
            }
            match ArpSocket::open(port.index) {
                Ok(socket) => {
                    let open = OpenPort {
                        port: port.clone(),
                        socket: Arc::new(socket),
                        duties: HashMap::new(),
                    };
                    table.ports.insert(port.index, open);
                }
                Err(error) => failed.push((port.clone(), error)),
            }
        }
        drop(table);
        self.shared.generation.fetch_add(1, Ordering::Release);
        self.shared.wake();
        failed
    }

    /// Keeps requests for these, or goes on answering them while noting which.
    pub fn set(&self, spots: &[Spot], duty: AddressDuty) {
        let mut table = self.shared.lock();
        // What was noted before belongs to an earlier attempt.
        table.take_noted(spots);
        for spot in spots {
            table.assign(*spot, duty, &self.shared.metrics);
        }
    }

    /// Goes on with a duty on these: where it is there already nothing changes, not even since when
    /// requests are held, or which answers were noted; elsewhere it begins.
    pub fn resume(&self, spots: &[Spot], duty: AddressDuty) {
        let table = self.shared.lock();
        let begins = |spot: &&Spot| table.duty(**spot) != Some(duty);
        let begun: Vec<Spot> = spots.iter().filter(begins).copied().collect();
        drop(table);
        match duty {
            AddressDuty::Hold => self.set(&begun, duty),
            AddressDuty::Answer => self.answer(&begun, &Report::default()),
            AddressDuty::Record => {
                self.answer(&begun, &Report::default());
                self.set(&begun, duty);
            }
        }
    }

    /// Answers these: first the requests that are held, except those that the former owner reports
    /// as answered; then announces what was not answered here before.
    pub fn answer(&self, spots: &[Spot], report: &Report) {
        let now = clock::now();
        let mut table = self.shared.lock();
        let mut new = Vec::new();
        let mut holding_since = now;
        for spot in spots {
            let before = table.assign(*spot, AddressDuty::Answer, &self.shared.metrics);
            match before {
                Some((AddressDuty::Answer | AddressDuty::Record, _)) => {}
                Some((AddressDuty::Hold, since)) => {
                    holding_since = holding_since.min(since);
                    new.push(*spot);
                }
                None => new.push(*spot),
            }
        }
        table.take_noted(spots);
        let held = table.take_held(spots);
        for one in report.unanswered(held, holding_since) {
            table.send_answer(one.interface, &one.request);
        }
        for spot in new {
            table.bursts.start(spot, now);
        }
        drop(table);
        self.shared.wake();
    }

    /// Announces these again, as far as they are answered.
    pub fn announce(&self, spots: &[Spot]) {
        let now = clock::now();
        let mut table = self.shared.lock();
        for spot in spots {
            match table.duty(*spot) {
                Some(AddressDuty::Answer | AddressDuty::Record) => table.bursts.start(*spot, now),
                Some(AddressDuty::Hold) | None => {}
            }
        }
        drop(table);
        self.shared.wake();
    }

    /// Stops answering these, and gives the answers that were noted.
    pub fn silence(&self, spots: &[Spot]) -> Vec<Noted> {
        let mut table = self.shared.lock();
        for spot in spots {
            table.bursts.stop(*spot);
            if let Some(open) = table.ports.get_mut(&spot.interface) {
                open.duties.remove(&spot.address);
            }
        }
        table.take_held(spots);
        table.take_noted(spots)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the counter is full: then the thread has been woken already.
        let _ = self.wake.write(1);
    }

    fn run(&self) {
        let mut generation = None;
        let mut sockets: Vec<(u32, Arc<ArpSocket>)> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let current = self.generation.load(Ordering::Acquire);
            if generation != Some(current) {
                generation = Some(current);
                // Closing a raw socket waits for the kernel: it must not happen under the lock.
                sockets = self.sockets();
            }
            for index in self.wait(&sockets) {
                if let Some((interface, socket)) = sockets.get(index) {
                    self.read(*interface, socket);
                }
            }
            self.announce();
        }
    }

    fn sockets(&self) -> Vec<(u32, Arc<ArpSocket>)> {
        let table = self.lock();
        let sockets = table.ports.iter();
        sockets
            .map(|(index, open)| (*index, open.socket.clone()))
            .collect()
    }

    /// Sleeps until a frame, a change or a gratuitous frame is due; gives the sockets to read.
    fn wait(&self, sockets: &[(u32, Arc<ArpSocket>)]) -> Vec<usize> {
        let deadline = self.lock().bursts.next_deadline();
        let timeout = deadline.map_or(PollTimeout::NONE, timeout_until);
        let mut waiting = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        waiting.extend(
            sockets
                .iter()
                .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut waiting, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, "poll failed");
                return Vec::new();
            }
        }
        let is_ready = |one: &PollFd<'_>| one.any().unwrap_or(true);
        if is_ready(&waiting[0]) {
            // Only resets the counter.
            let _ = self.wake.read();
        }
        (0..sockets.len())
            .filter(|index| is_ready(&waiting[index + 1]))
            .collect()
    }

    fn read(&self, interface: u32, socket: &ArpSocket) {
        let mut buffer = [0; FRAME_BUFFER];
        for _ in 0..READ_BATCH {
            match socket.receive(&mut buffer) {
                Ok(Received { length, at, .. }) => self.on_frame(interface, &buffer[..length], at),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The interface went down or away; its link event takes it out of the table.
                Err(error) => {
                    tracing::debug!(interface, %error, "cannot read frames");
                    return;
                }
            }
        }
    }

    fn on_frame(&self, interface: u32, frame: &[u8], at: Instant) {
        let mut guard = self.lock();
        let table = &mut *guard;
        let Some(open) = table.ports.get(&interface) else {
            return;
        };
        let duty = |address: Ipv4Addr| open.duties.get(&address).map(|entry| entry.duty);
        let is_own = |mac| table.ports.values().any(|own| own.port.mac == mac);
        let decision = if table.freshness.allows(at, clock::now()) {
            decide(frame, open.port.mac, is_own, duty)
        } else {
            Decision::Ignore(Ignored::Stale)
        };
        match decision {
            Decision::Answer(request, note) => {
                open.count_request(request.target_ip);
                table.send_answer(interface, &request);
                if note {
                    table.note(Noted { at, request });
                }
            }
            Decision::Hold(request) => {
                open.count_request(request.target_ip);
                if table.held.len() < HELD_LIMIT {
                    table.held.push(Held {
                        at,
                        interface,
                        request,
                    });
                }
            }
            Decision::Ignore(reason) => {
                drop(guard);
                let counter = self.ignored.iter().find(|(counted, _)| *counted == reason);
                if let Some((_, counter)) = counter {
                    counter.inc();
                }
            }
        }
    }

    fn announce(&self) {
        let mut table = self.lock();
        let frames = table.bursts.due(clock::now(), rand::random::<f64>);
        for Gratuitous { spot, form } in frames {
            let Some(open) = table.ports.get(&spot.interface) else {
                continue;
            };
            let mac = open.port.mac;
            let frame = match form {
                Operation::Request => Arp::gratuitous_request(spot.address, mac),
                Operation::Reply => Arp::gratuitous_reply(spot.address, mac),
            };
            if open.send(&frame)
                && let Some(entry) = open.duties.get(&spot.address)
            {
                entry.counters.gratuitous.inc();
            }
        }
    }
}

/// The rest of the time until then, rounded up so that nothing is woken for in vain.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(clock::now());
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

impl Table {
    fn duty(&self, spot: Spot) -> Option<AddressDuty> {
        let open = self.ports.get(&spot.interface)?;
        Some(open.duties.get(&spot.address)?.duty)
    }

    /// Gives the duty before, and since when it was.
    fn assign(
        &mut self,
        spot: Spot,
        duty: AddressDuty,
        metrics: &Metrics,
    ) -> Option<(AddressDuty, Instant)> {
        let since = clock::now();
        let open = self.ports.get_mut(&spot.interface)?;
        match open.duties.get_mut(&spot.address) {
            Some(entry) => {
                let before = (entry.duty, entry.since);
                (entry.duty, entry.since) = (duty, since);
                Some(before)
            }
            None => {
                let counters = metrics.of_address(IpAddr::V4(spot.address));
                let entry = Entry {
                    duty,
                    since,
                    counters,
                };
                open.duties.insert(spot.address, entry);
                None
            }
        }
    }

    fn send_answer(&self, interface: u32, request: &Arp) {
        if let Some(open) = self.ports.get(&interface)
            && open.send(&Arp::answer(request, open.port.mac))
            && let Some(entry) = open.duties.get(&request.target_ip)
        {
            entry.counters.responses.inc();
        }
    }

    fn take_held(&mut self, spots: &[Spot]) -> Vec<Held> {
        let (taken, rest) = std::mem::take(&mut self.held).into_iter().partition(|one| {
            spots
                .iter()
                .any(|spot| spot.address == one.request.target_ip)
        });
        self.held = rest;
        taken
    }

    /// The newest answers are those that matter.
    fn note(&mut self, noted: Noted) {
        if self.noted.len() >= HELD_LIMIT {
            self.noted.drain(..HELD_LIMIT / 2);
        }
        self.noted.push(noted);
    }

    fn take_noted(&mut self, spots: &[Spot]) -> Vec<Noted> {
        let (taken, rest) = std::mem::take(&mut self.noted)
            .into_iter()
            .partition(|one| {
                spots
                    .iter()
                    .any(|spot| spot.address == one.request.target_ip)
            });
        self.noted = rest;
        taken
    }

    fn close(&mut self, index: u32) {
        if let Some(open) = self.ports.remove(&index) {
            for address in open.duties.keys() {
                self.bursts.stop(Spot {
                    interface: index,
                    address: *address,
                });
            }
            self.held.retain(|one| one.interface != index);
        }
    }
}

impl OpenPort {
    fn count_request(&self, address: Ipv4Addr) {
        if let Some(entry) = self.duties.get(&address) {
            entry.counters.requests.inc();
        }
    }

    fn send(&self, frame: &Arp) -> bool {
        match self.socket.send(&frame.emit()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(interface = self.port.name, %error, "cannot send a frame");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
