//! The thread that answers ARP and neighbour solicitations, and sends gratuitous frames.
//!
//! It is a thread of its own, off the async runtime: a busy stream must not delay an answer. What
//! it answers is a table behind a short lock. Whoever changes a duty holds that lock, and a frame
//! is decided and answered under it: after a duty was taken away, no answer goes out any more.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use pharos_lease::{Moment, Term};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::burst::Spot;
use super::conflict::{self, Members, News};
use super::hold::{Notes, Report};
use super::multicast::Memberships;
use super::reply::{AddressDuty, Ignored};
use super::socket::PacketSocket;
use super::sockets::Failure;
pub use super::table::Port;
use super::table::{Outcome, Place, Protocol, Sending, Table};
use crate::clock;
use crate::metrics::Metrics;
use crate::stamped::Received;

mod news;
mod state;

use state::State;

/// Frames read from one socket before the others get their turn.
const READ_BATCH: usize = 64;
/// More frames than one socket can hold: what has arrived is among so many.
const ARRIVED_LIMIT: usize = 4096;
/// A longer frame is no question: solicitations have few and small options.
const FRAME_BUFFER: usize = 1514;
/// The thread wakes so often, to notice when it did not run for a while.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How often frames are looked for while the kernel refuses to wait for them.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

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
    state: Mutex<State>,
    wake: EventFd,
    /// Grows when sockets come or go.
    generation: AtomicU64,
    stop: AtomicBool,
    ended: tokio::sync::Notify,
    metrics: Metrics,
    conflicts: mpsc::Sender<News>,
    /// An address that was asked for proved to be free.
    free: tokio::sync::Notify,
    ignored_arp: Vec<(Ignored, Counter)>,
    ignored_ndp: Vec<(Ignored, Counter)>,
    /// Apart from the table: the kernel takes its time for them.
    memberships: Mutex<Memberships>,
}

impl Shared {
    fn new(metrics: &Metrics) -> io::Result<(Arc<Self>, mpsc::Receiver<News>)> {
        let (conflicts, seen) = mpsc::channel(conflict::LIMIT);
        let shared = Self {
            state: Mutex::new(State::new(Table::new(metrics.clone(), clock::now()))),
            wake: EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            generation: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ended: tokio::sync::Notify::new(),
            metrics: metrics.clone(),
            conflicts,
            free: tokio::sync::Notify::new(),
            ignored_arp: metrics.of_arp_reasons(),
            ignored_ndp: metrics.of_ndp_reasons(),
            memberships: Mutex::new(Memberships::default()),
        };
        Ok((Arc::new(shared), seen))
    }
}

/// Starts the thread. The third part tells of other machines that use addresses of ours, again and
/// again; what nobody fetches in time is left out.
pub fn start(metrics: &Metrics) -> io::Result<(Responder, ResponderThread, mpsc::Receiver<News>)> {
    let (shared, seen) = Shared::new(metrics)?;
    let for_thread = shared.clone();
    let thread = std::thread::Builder::new()
        .name("neighbours".to_owned())
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
    Ok((responder, thread, seen))
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
            tracing::error!("the thread that answers neighbours panicked");
        }
    }
}

impl Responder {
    /// Answers on exactly these interfaces. Gives what could not be opened. An interface that is new, or
    /// has a new MAC address, has no duties yet.
    pub fn set_ports(&self, ports: &[Port]) -> Vec<Failure> {
        let mut state = self.shared.lock();
        let failed = state.set_ports(ports);
        self.unlock(state);
        self.shared.generation.fetch_add(1, Ordering::Release);
        self.shared.wake();
        failed
    }

    /// Keeps requests for these, or goes on answering them while noting which.
    pub fn set(&self, spots: &[Spot], duty: AddressDuty) {
        let mut state = self.shared.lock();
        state.widen(spots);
        state.table.set(spots, duty, clock::now());
        self.unlock(state);
        self.shared.wake();
    }

    /// Goes on with a duty on these; see [`Table::resume`].
    pub fn resume(&self, spots: &[Spot], duty: AddressDuty, first: &BTreeSet<IpAddr>) {
        self.change(spots, |table| {
            table.resume(spots, duty, first, clock::now())
        });
    }

    /// Reads all that has arrived until now; to be called once before addresses are handed over, in either
    /// direction, however many they are. What the old owner answered before it stopped has arrived at the
    /// new one, and is held against its report, not answered after it. What has arrived at the old one is
    /// its to answer still: the next owner may have read it before it began to hold.
    pub fn read_arrived(&self) {
        self.shared.read_arrived(&mut self.shared.lock());
    }

    /// Answers these, and announces what is new; see [`Table::answer`].
    pub fn answer(&self, spots: &[Spot], report: &Report) {
        self.change(spots, |table| table.answer(spots, report, clock::now()));
    }

    /// The other nodes of the cluster: what they use is not foreign.
    pub fn set_members(&self, members: Members) {
        let mut state = self.shared.lock();
        state.table.set_members(members, clock::now());
        drop(state);
        self.shared.wake();
    }

    /// Resolves when addresses that were asked for proved to be free: [`Self::take_free`] gives them.
    /// Cancel safe.
    pub async fn found_free(&self) {
        self.shared.free.notified().await;
    }

    /// The addresses that proved to be free since the last call.
    pub fn take_free(&self) -> BTreeSet<IpAddr> {
        self.shared.lock().table.take_free()
    }

    /// Answers these for the first time; gives those that no other machine uses by now. See
    /// [`Table::answer_free`].
    pub fn answer_free(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut begun = BTreeSet::new();
        self.change(&[], |table| {
            let (free, answers) = table.answer_free(addresses, clock::now());
            begun = free;
            answers
        });
        begun
    }

    /// Announces these again, as far as they are answered.
    pub fn announce(&self, spots: &[Spot]) {
        self.change(&[], |table| {
            table.announce(spots, clock::now());
            Vec::new()
        });
    }

    /// Stops answering these, and gives what was noted.
    pub fn silence(&self, spots: &[Spot]) -> Notes {
        let mut state = self.shared.lock();
        let notes = state.silence(spots);
        self.unlock(state);
        notes
    }

    /// The lease of this node, and until when it is good, by the clock since boot.
    pub fn set_lease(&self, lease: Option<(Term, Moment)>) {
        self.shared.lock().table.fences().set_lease(lease);
    }

    /// An address is answered only under this term; `None`: it is not fenced.
    pub fn fence(&self, address: IpAddr, term: Option<Term>) {
        self.shared.lock().table.fences().set(address, term);
    }

    #[cfg(test)]
    pub fn duty(&self, spot: Spot) -> Option<AddressDuty> {
        self.shared.lock().table.duty(spot)
    }

    /// Sends what follows from a change to these, under the lock under which it is made; then lets the
    /// thread look at what is to be announced.
    fn change(&self, gained: &[Spot], change: impl FnOnce(&mut Table) -> Vec<Sending>) {
        let mut state = self.shared.lock();
        state.widen(gained);
        state.tell_time();
        for sending in change(&mut state.table) {
            state.send(&sending);
        }
        self.unlock(state);
        self.shared.wake();
    }

    /// Joins and leaves the multicast groups that a change asks for. Before the caller goes on: an
    /// heir that says that it is ready hears what is asked.
    fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let changes = state.table.take_group_changes();
        let news = state.table.take_news();
        drop(state);
        self.shared.tell(&news);
        if !changes.is_empty() {
            let memberships = self.shared.memberships.lock();
            let mut memberships = memberships.unwrap_or_else(PoisonError::into_inner);
            memberships.apply(&changes);
        }
    }
}

impl Shared {
    /// Whoever comes to the table, by whichever way, notices first that this process did not run.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.table.runs(clock::now(), clock::since_boot());
        state
    }

    fn wake(&self) {
        // Fails only when the counter is full: then the thread has been woken already.
        let _ = self.wake.write(1);
    }

    fn run(&self) {
        let mut generation = None;
        let mut polls = true;
        let mut sockets: Vec<(Place, Arc<PacketSocket>)> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let current = self.generation.load(Ordering::Acquire);
            if generation != Some(current) {
                generation = Some(current);
                let fresh = self.lock().sockets();
                // Closing a raw socket waits for the kernel: it must not happen under the lock.
                sockets = fresh;
            }
            let ready = self.wait(&sockets, &mut polls);
            for index in ready {
                if let Some((place, socket)) = sockets.get(index) {
                    self.read(*place, socket);
                }
            }
            self.announce();
        }
    }

    /// Sleeps until a frame, a change or a gratuitous frame is due; gives the sockets to read. While
    /// the kernel refuses to wait (`polls`), each is looked at a hundred times a second.
    fn wait(&self, sockets: &[(Place, Arc<PacketSocket>)], polls: &mut bool) -> Vec<usize> {
        let deadline = self.lock().next_deadline();
        let longest = clock::now() + LONGEST_SLEEP;
        let timeout = timeout_until(deadline.map_or(longest, |deadline| deadline.min(longest)));
        let mut waiting = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        waiting.extend(
            sockets
                .iter()
                .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut waiting, timeout) {
            Ok(_) => {
                if !std::mem::replace(polls, true) {
                    tracing::info!("the kernel waits for frames again");
                }
            }
            Err(nix::errno::Errno::EINTR) => return Vec::new(),
            Err(error) => {
                if std::mem::replace(polls, false) {
                    tracing::error!(%error, "cannot wait for frames: looking for them all the time");
                }
                std::thread::sleep(LOOK_INTERVAL);
                return (0..sockets.len()).collect();
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

    /// Reads what is there, in turn with whoever changes a duty.
    fn read(&self, place: Place, socket: &PacketSocket) {
        for _ in 0..READ_BATCH {
            if self.read_frame(&mut self.lock(), place, socket).is_none() {
                return;
            }
        }
    }

    /// Reads all that has arrived until now, whichever duty is about to change, and not what a flood adds
    /// meanwhile.
    fn read_arrived(&self, state: &mut State) {
        let now = clock::now();
        for (place, socket) in state.sockets() {
            for count in 0..ARRIVED_LIMIT {
                match self.read_frame(state, place, &socket) {
                    None => break,
                    // A clock that was set may have one frame look late: the next ones are looked at still.
                    Some(at) if at > now && count >= READ_BATCH => break,
                    Some(_) => {}
                }
            }
        }
    }

    /// Reads one frame and does what follows from it; gives when it arrived, `None` when there is none.
    /// A frame is taken from the socket under the lock as well: none is on its way when a duty changes.
    fn read_frame(
        &self,
        state: &mut State,
        place: Place,
        socket: &PacketSocket,
    ) -> Option<Instant> {
        let mut buffer = [0; FRAME_BUFFER];
        match socket.receive(&mut buffer) {
            Ok(Received { length, at, .. }) => {
                self.on_frame(state, place, &buffer[..length], at);
                Some(at)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // The interface went down or away; its link event takes it out of the table.
            Err(error) => {
                tracing::debug!(?place, %error, "cannot read frames");
                None
            }
        }
    }

    fn on_frame(&self, state: &mut State, place: Place, frame: &[u8], at: Instant) {
        state.tell_time();
        match state.table.on_frame(place, frame, at, clock::now()) {
            Outcome::Send(sending) => state.send(&sending),
            Outcome::SendAndCheck(answer, check) => {
                state.send(&answer);
                state.send(&check);
            }
            Outcome::Nothing => {}
            Outcome::Conflict(defence) => {
                for sending in defence {
                    state.send(&sending);
                }
                let news = state.table.take_news();
                self.count(place.1, Ignored::Conflict);
                self.tell(&news);
            }
            Outcome::Ignored(reason) => {
                self.count(place.1, reason);
            }
        }
    }

    fn count(&self, protocol: Protocol, reason: Ignored) {
        let counters = match protocol {
            Protocol::Arp => &self.ignored_arp,
            Protocol::Ndp => &self.ignored_ndp,
        };
        let counter = counters.iter().find(|(counted, _)| *counted == reason);
        if let Some((_, counter)) = counter {
            counter.inc();
        }
    }

    fn announce(&self) {
        let mut state = self.lock();
        state.tell_time();
        for sending in state.table.due(clock::now(), rand::random::<f64>) {
            state.send(&sending);
        }
        state.narrow();
        let news = state.table.take_news();
        if state.table.has_free() {
            self.free.notify_one();
        }
        drop(state);
        self.tell(&news);
    }
}

/// The rest of the time until then, rounded up so that nothing is woken for in vain.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(clock::now());
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests;
