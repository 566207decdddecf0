//! The thread that decides: who lives, what this node owns, and what it tells the others.
//!
//! It owns the membership socket and drives the pure parts: `swim`, `peers` and `reports` say who
//! lives and what they say; `plan` says what there is to announce; `ownership` says what is to be
//! done; [`effects`] does it by way of the responder. It is a thread of its own with a runtime of
//! its own, so that nothing else that this process does delays a probe or a handover.
//!
//! Commands come in by one bounded channel. What each may do when it is dropped: nothing is lost
//! but the thread, which then ends, and with it the process.

mod effects;
mod talk;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pharos_process::Readiness;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use crate::book::{Difference, Member};
use crate::clock;
use crate::election::{Condition, GroupId, NodeName};
use crate::l2::hold::Noted;
use crate::l2::responder::{Port, Responder};
use crate::members::namesake::Namesake;
use crate::members::peers::Peers;
use crate::members::replay::Seen;
use crate::members::reports::{OwnReport, Reports};
use crate::members::seal::Seal;
use crate::members::swim::Swim;
use crate::members::{Peer, errors};
use crate::metrics::Metrics;
use crate::ownership::Ownership;
use crate::plan::Plan;
use crate::stamped;

/// Commands that may wait: a synchronisation is one, so this is far more than a burst of events.
const COMMANDS: usize = 256;
/// How often a socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A timer that fires so much later than planned means that this process did not run.
const STALL: Duration = Duration::from_millis(60);
/// Datagrams read before anything else gets its turn.
const READ_BATCH: usize = 256;
/// Ours fit into an Ethernet frame, unless a node has very many interfaces.
const LARGEST_DATAGRAM: usize = 16 << 10;
/// Room for a burst of datagrams while the thread does not run.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What the engine is told.
#[derive(Debug)]
pub enum Command {
    /// The assignments changed. `mark` is told back when nothing is answered any more that this took
    /// away.
    Assignments { difference: Difference, mark: u64 },
    /// The assignments may be acted on.
    Ready,
    /// The interfaces that can answer changed.
    Ports(Vec<Port>),
    /// Bare addresses of members.
    Joins(Vec<SocketAddr>),
    /// Where this node is reached changed.
    Endpoint(SocketAddr),
    /// Hand everything over, leave, and answer when that is done; then stop.
    Drain(oneshot::Sender<()>),
}

/// What the engine starts with.
#[derive(Debug)]
pub struct Settings {
    pub me: Peer,
    pub listen: SocketAddr,
    pub seal: Arc<Seal>,
    /// How long this node takes nothing back after it came (back).
    pub hold_down: Duration,
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub responder: Responder,
}

/// The running thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct EngineThread {
    commands: Option<mpsc::Sender<Command>>,
    applied: watch::Receiver<u64>,
    ended: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread.
pub fn start(settings: Settings) -> std::io::Result<EngineThread> {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (applied, applied_seen) = watch::channel(0);
    let (ending, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            runtime.block_on(Engine::new(settings, applied).run(inbox));
            // Dropped also when the engine panics: either way the receiver learns of the end.
            drop(ending);
        })?;
    Ok(EngineThread {
        commands: Some(commands),
        applied: applied_seen,
        ended: Some(ended),
        thread: Some(thread),
    })
}

impl EngineThread {
    /// A way to send commands. All of them must be dropped for the thread to end by itself.
    pub fn commands(&self) -> Option<mpsc::Sender<Command>> {
        self.commands.clone()
    }

    /// The greatest mark of which all is done.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Resolves when the thread has ended. To be awaited once.
    pub async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            let _ = ended.await;
            self.ended = None;
        }
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished())
            && thread.join().is_err()
        {
            tracing::error!("engine thread panicked");
        }
    }
}

struct Engine {
    listen: SocketAddr,
    seal: Arc<Seal>,
    hold_down: Duration,
    metrics: Metrics,
    readiness: Readiness,
    responder: Responder,

    socket: Option<Arc<UdpSocket>>,
    bind_again: Option<Instant>,
    swim: Swim,
    peers: Peers,
    namesake: Namesake,
    seen: Seen,
    /// Datagrams sent so far.
    sent: Cell<u64>,
    reports: Reports,
    own_report: OwnReport,
    ownership: Ownership,
    plan: Plan,

    own: Condition,
    hold_down_until: Option<Instant>,
    ports_again: Option<(Instant, Vec<Port>)>,
    drain: Option<Drain>,
    output: effects::Output,
    applied: BTreeMap<GroupId, effects::Applied>,
    noted: BTreeMap<GroupId, Vec<Noted>>,
    shown: BTreeMap<GroupId, Vec<crate::plan::Used>>,
    told_ipv6: bool,
    /// Of the last assignments that were taken in.
    mark: u64,
    done: watch::Sender<u64>,
}

struct Drain {
    done: oneshot::Sender<()>,
}

impl Engine {
    fn new(settings: Settings, done: watch::Sender<u64>) -> Self {
        let now = clock::now();
        let own = Condition {
            ready: false,
            hold_down: !settings.hold_down.is_zero(),
            draining: false,
            interfaces: BTreeSet::new(),
        };
        let me = settings.me.node.clone();
        Self {
            listen: settings.listen,
            seal: settings.seal,
            hold_down: settings.hold_down,
            metrics: settings.metrics,
            readiness: settings.readiness,
            responder: settings.responder,
            socket: None,
            bind_again: Some(now),
            own_report: OwnReport::new(me.clone(), settings.me.epoch),
            ownership: Ownership::new(me.clone(), own.clone()),
            swim: Swim::new(settings.me, rand::random(), now),
            peers: Peers::default(),
            namesake: Namesake::default(),
            seen: Seen::default(),
            sent: Cell::new(0),
            reports: Reports::default(),
            plan: Plan::new(me),
            hold_down_until: own.hold_down.then_some(now + settings.hold_down),
            own,
            ports_again: None,
            drain: None,
            output: effects::Output::default(),
            applied: BTreeMap::new(),
            noted: BTreeMap::new(),
            shown: BTreeMap::new(),
            told_ipv6: false,
            mark: 0,
            done,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let now = clock::now();
            self.tick(now);
            self.settle(clock::now());
            if self.is_drained(clock::now()) {
                self.leave();
                return;
            }
            let deadline = self.next_deadline();
            let planned = deadline.unwrap_or(now + RETRY);
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.on_command(command, clock::now()),
                    None => return,
                },
                () = readable(self.socket.as_deref()) => {}
                () = tokio::time::sleep_until(planned.into()) => {}
            }
            let now = clock::now();
            let late = now.saturating_duration_since(planned);
            if late > STALL {
                tracing::debug!(
                    late_ms = late.as_millis(),
                    "this process did not run for a while"
                );
                self.swim.postpone(late);
            }
            self.read(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [
            self.bind_again,
            self.swim.next_deadline(),
            self.peers.next_deadline(),
            self.namesake.next_deadline(),
            self.reports.next_deadline(),
            self.ownership.next_deadline(),
            self.hold_down_until,
            self.ports_again.as_ref().map(|(at, _)| *at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn tick(&mut self, now: Instant) {
        if self.bind_again.is_some_and(|at| at <= now) {
            self.bind(now);
        }
        let events = self.swim.tick(now);
        self.on_swim(events, now);
        let events = self.peers.tick(now);
        self.on_peers(events, now);
        for event in self.namesake.tick(now) {
            self.on_namesake(&event);
        }
        for due in self.reports.tick(now) {
            self.on_report_due(due, now);
        }
        if self.hold_down_until.is_some_and(|at| at <= now) {
            self.hold_down_until = None;
            self.own.hold_down = false;
        }
        if let Some((_, ports)) = self.ports_again.take_if(|(at, _)| *at <= now) {
            self.on_ports(ports, now);
        }
        self.ownership.tick(now);
    }

    /// Performs what follows, until nothing follows any more; then sends.
    fn settle(&mut self, now: Instant) {
        if self.ownership.roster().own != self.own {
            self.ownership.set_own(self.own.clone(), now);
            self.output.condition_changed = true;
        }
        self.perform();
        self.publish(now);
        self.flush();
        self.observe();
        // A node that is no candidate any more may answer until another one does.
        if *self.done.borrow() < self.mark && !self.ownership.answers_unlisted() {
            self.done.send_replace(self.mark);
        }
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Assignments { difference, mark } => {
                self.on_assignments(difference, now);
                self.mark = mark;
            }
            Command::Ready => self.own.ready = true,
            Command::Ports(ports) => self.on_ports(ports, now),
            Command::Joins(addresses) => self.peers.set_joins(&addresses, now),
            Command::Endpoint(endpoint) => {
                if self.swim.me().endpoint != endpoint {
                    let events = self.swim.set_endpoint(endpoint, now);
                    self.on_swim(events, now);
                }
            }
            Command::Drain(done) => {
                self.own.draining = true;
                self.drain = Some(Drain { done });
            }
        }
    }

    fn on_assignments(&mut self, difference: Difference, now: Instant) {
        if let Some(members) = &difference.members {
            self.on_members(members, now);
        }
        let touched = self.plan.apply(&difference.upserts, &difference.removals);
        if let Some(address) = touched.ipv6
            && !std::mem::replace(&mut self.told_ipv6, true)
        {
            tracing::warn!(%address, "IPv6 addresses are not announced by this version");
        }
        let moved = self.detach_moved(&touched.groups);
        for (group, before) in touched.successors {
            if let Some(candidacy) = self.plan.candidacy(group) {
                self.ownership.succeed(before, candidacy.clone(), now);
            }
        }
        self.perform();
        for group in touched.groups {
            match self.plan.candidacy(group) {
                Some(candidacy) => self.ownership.set_group(candidacy.clone(), now),
                None => self.ownership.remove_group(group),
            }
            // Effects first: they need the spots as they were.
            self.perform();
            self.reapply(group);
        }
        self.silence_moved(&moved);
    }

    fn on_members(&mut self, members: &[Member], now: Instant) {
        let mut named = BTreeSet::new();
        for member in members {
            named.insert(member.node.clone());
            let node = NodeName::from(member.node.as_str());
            let is_me = node == self.swim.me().node;
            let Ok(endpoint) = member.endpoint.parse() else {
                tracing::warn!(
                    node = member.node,
                    endpoint = member.endpoint,
                    "not an endpoint"
                );
                continue;
            };
            if is_me {
                if endpoint != self.swim.me().endpoint {
                    self.namesake.suspect(endpoint, now);
                }
            } else if self.peers.name(&node, endpoint, now) {
                self.presume(&node, now);
            }
        }
        for node in self.peers.keep_only(|node| named.contains(node)) {
            self.ownership.forget(&node, now);
        }
    }

    fn on_ports(&mut self, ports: Vec<Port>, now: Instant) {
        let failed = self.responder.set_ports(&ports);
        for (port, error) in &failed {
            tracing::error!(interface = port.name, %error, "cannot answer on an interface");
        }
        let retry = (!failed.is_empty()).then(|| (now + RETRY, ports.clone()));
        self.ports_again = retry;
        let opened: Vec<Port> = ports
            .into_iter()
            .filter(|port| !failed.iter().any(|(bad, _)| bad == port))
            .collect();
        let names: BTreeSet<String> = opened.iter().map(|port| port.name.clone()).collect();
        let came_back = names.difference(&self.own.interfaces).next().is_some();
        if names != self.own.interfaces {
            tracing::info!(interfaces = ?names, "usable interfaces changed");
            if came_back && !self.hold_down.is_zero() {
                self.own.hold_down = true;
                self.hold_down_until = Some(now + self.hold_down);
            }
        }
        if names.is_empty() {
            self.readiness.not_ready("interfaces", "none is usable");
        } else {
            self.readiness.ready("interfaces");
        }
        self.own.interfaces = names;
        self.plan.set_ports(opened);
        let groups: Vec<GroupId> = self.applied.keys().copied().collect();
        for group in groups {
            self.reapply(group);
        }
    }

    fn bind(&mut self, now: Instant) {
        match open(self.listen) {
            Ok(socket) => {
                tracing::info!(listen = %self.listen, me = ?self.swim.me(), "watching other members");
                self.socket = Some(Arc::new(socket));
                self.bind_again = None;
                self.readiness.ready("members-listen");
            }
            Err(error) => {
                let reason = format!("cannot listen on {}: {error}", self.listen);
                tracing::warn!(listen = %self.listen, %error, "cannot watch members, trying again");
                self.readiness.not_ready("members-listen", reason);
                self.bind_again = Some(now + RETRY);
            }
        }
    }

    fn read(&mut self, now: Instant) {
        let Some(socket) = self.socket.clone() else {
            return;
        };
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        for _ in 0..READ_BATCH {
            let received = socket.try_io(Interest::READABLE, || {
                stamped::receive(&*socket, &mut buffer)
            });
            match received {
                Ok(received) => self.on_datagram(&buffer[..received.length], received, now),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // An error of an earlier datagram: it is in the queue that is read below.
                Err(_) => {}
            }
        }
        let refused = errors::take_refused(&*socket);
        // Tells the runtime that the errors have been taken.
        let _ = socket.try_io(Interest::ERROR, || {
            Err::<(), _>(std::io::Error::from(std::io::ErrorKind::WouldBlock))
        });
        for endpoint in refused {
            // Whoever refuses lives next to a network that works.
            self.ownership.set_reached(now);
            let events = self.peers.refused(endpoint, now);
            self.on_peers(events, now);
        }
    }

    fn is_drained(&self, now: Instant) -> bool {
        self.drain.is_some() && self.ownership.is_settled(now)
    }

    fn leave(&mut self) {
        let now = clock::now();
        let events = self.swim.leave(now);
        self.on_swim(events, now);
        self.flush();
        if let Some(drain) = self.drain.take() {
            // Nobody waits any more if the time for a drain is over.
            let _ = drain.done.send(());
        }
    }
}

/// Resolves when the socket has something to read, or an error; never without a socket. Cancel
/// safe.
async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        Some(socket) => {
            // An error here is an error of the runtime's driver, which ends with the process.
            let _ = socket.ready(Interest::READABLE | Interest::ERROR).await;
        }
        None => std::future::pending().await,
    }
}

fn open(listen: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    errors::enable(&socket, listen)?;
    stamped::enable(&socket)?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    UdpSocket::from_std(socket)
}

#[cfg(test)]
mod tests;
