//! The thread that decides: who lives, what this node owns, and what it tells the others.
//!
//! It owns the membership socket and drives the pure parts: `plan` says what there is to announce,
//! `talk` who lives, what they say, and what is to be done; [`effects`] does it by way of the
//! responder. It is a thread of its own with a runtime of its own, so that nothing else that this
//! process does delays a probe or a handover.
//!
//! Commands come in by one bounded channel. What each may do when it is dropped: nothing is lost
//! but the thread, which then ends, and with it the process.

mod effects;
mod fence;
mod macs;
mod ports;
mod socket;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pharos_process::Readiness;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use self::macs::MemberMacs;
use crate::bind::Binder;
use crate::book::{Difference, Member};
use crate::clock;
use crate::election::{Claim, Condition, GroupId, NodeName};
use crate::fenced::DRAIN_TIMEOUT;
use crate::handover::Gained;
use crate::l2::hold::Notes;
use crate::l2::responder::Responder;
use crate::links::table::Uplink;
use crate::members::Peer;
use crate::members::replay::Seen;
use crate::members::seal::Seal;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::status::Standing;
use crate::talk::Talk;
use crate::untried::Untried;
use fence::Fence;
pub use fence::FenceOutlets;
use pharos_lease::Term;

/// Commands that may wait: a synchronisation is one, so this is far more than a burst of events.
const COMMANDS: usize = 256;
/// How often a socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// After so long a node that is to stop says its farewell, whatever it still owns: before the whole
/// process ends without one.
pub const LEAVE_LIMIT: Duration = Duration::from_millis(2500);
/// How long a node that was not told anything since its boot takes nothing from a living owner: what
/// it attracts it may not be able to forward yet.
const UNCONFIRMED: Duration = Duration::from_secs(24 * 3600);

/// What the engine is told.
#[derive(Debug)]
pub enum Command {
    /// The assignments changed. `mark` is told back when nothing is answered any more that this took
    /// away.
    Assignments { difference: Difference, mark: u64 },
    /// Addresses that somebody answered for before this process began, or may have: none is asked for.
    Tried(Vec<IpAddr>),
    /// The assignments may be acted on.
    Ready,
    /// The assignments are from before a reboot, and ipam-service does not confirm them: they may be
    /// acted on where nobody else does.
    ReadyAfterBoot,
    /// Addresses of this host came or went.
    AddressesChanged,
    /// This node may answer for fenced addresses under this term; `None`: not at all.
    Lease(Option<Term>),
    /// The interfaces that can answer, or something about them, changed.
    Uplinks(Vec<Uplink>),
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
    /// Binds what is answered for; `None`: somebody else takes it in.
    pub binder: Option<Binder>,
    pub fence: FenceOutlets,
}

/// The running thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct EngineThread {
    commands: Option<mpsc::Sender<Command>>,
    applied: watch::Receiver<u64>,
    status: watch::Receiver<Standing>,
    ended: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread.
pub fn start(settings: Settings) -> std::io::Result<EngineThread> {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (applied, applied_seen) = watch::channel(0);
    let (status, status_seen) = watch::channel(Standing::default());
    let (ending, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            runtime.block_on(Engine::new(settings, applied, status).run(inbox));
            // Dropped also when the engine panics: either way the receiver learns of the end.
            drop(ending);
        })?;
    Ok(EngineThread {
        commands: Some(commands),
        applied: applied_seen,
        status: status_seen,
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

    /// What this node is and answers for.
    pub fn status(&self) -> watch::Receiver<Standing> {
        self.status.clone()
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
    binder: Option<Binder>,
    /// What is asked for before it is answered: another machine may have it.
    untried: Untried,

    socket: Option<Arc<UdpSocket>>,
    bind_again: Option<Instant>,
    seen: Seen,
    /// Datagrams sent so far.
    sent: u64,
    /// When it was last listened.
    breathed: Instant,
    /// When time last passed for the membership protocol.
    ticked: Instant,
    talk: Talk,
    plan: Plan,
    fence: Fence,

    own: Condition,
    hold_down_until: Option<Instant>,
    /// Until when it takes nothing back because it acts on what was assigned before a reboot.
    unconfirmed_until: Option<Instant>,
    uplinks: ports::Uplinks,
    drain: Option<Drain>,
    applied: BTreeMap<GroupId, effects::Applied>,
    noted: BTreeMap<GroupId, Notes>,
    shown: BTreeMap<GroupId, Vec<crate::plan::Used>>,
    /// What this node owns and people are still to be told of.
    gained: BTreeMap<GroupId, (Claim, Gained)>,
    member_macs: MemberMacs,
    /// Of the last assignments that were taken in.
    mark: u64,
    done: watch::Sender<u64>,
    status: watch::Sender<Standing>,
}

struct Drain {
    done: oneshot::Sender<()>,
    since: Instant,
}

/// When it is to be looked next at what keeps a node from leaving that is to stop since then.
fn next_of_drain(since: Instant, now: Instant) -> Option<Instant> {
    let limits = [since + DRAIN_TIMEOUT, since + LEAVE_LIMIT];
    // One that is over is nothing to wait for: every wait would seem to be late.
    limits.into_iter().find(|at| *at > now)
}

impl Engine {
    fn new(settings: Settings, done: watch::Sender<u64>, status: watch::Sender<Standing>) -> Self {
        let now = clock::now();
        let own = Condition {
            ready: false,
            hold_down: !settings.hold_down.is_zero(),
            draining: false,
            interfaces: BTreeSet::new(),
            interfaces6: BTreeSet::new(),
            macs: BTreeSet::new(),
        };
        Self {
            listen: settings.listen,
            seal: settings.seal,
            hold_down: settings.hold_down,
            metrics: settings.metrics,
            readiness: settings.readiness,
            untried: Untried::default(),
            responder: settings.responder,
            binder: settings.binder,
            socket: None,
            bind_again: Some(now),
            seen: Seen::default(),
            sent: 0,
            breathed: now,
            ticked: now,
            plan: Plan::new(settings.me.node.clone()),
            fence: Fence::new(settings.fence),
            talk: Talk::new(settings.me, own.clone(), rand::random(), now),
            hold_down_until: own.hold_down.then_some(now + settings.hold_down),
            unconfirmed_until: None,
            own,
            uplinks: ports::Uplinks::default(),
            drain: None,
            applied: BTreeMap::new(),
            noted: BTreeMap::new(),
            shown: BTreeMap::new(),
            gained: BTreeMap::new(),
            member_macs: MemberMacs::default(),
            mark: 0,
            done,
            status,
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
            let deadline = self.next_deadline(clock::now());
            let planned = match self.talk.has_heard() {
                true => now,
                false => deadline.unwrap_or(now + RETRY),
            };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.on_command(command, clock::now()),
                    None => return,
                },
                () = socket::readable(self.socket.as_deref()) => {}
                () = self.responder.found_free() => self.on_free(),
                () = tokio::time::sleep_until(planned.into()) => {}
            }
            self.read();
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let drain = self.drain.as_ref();
        [
            self.bind_again,
            self.talk.next_deadline(),
            drain.and_then(|drain| next_of_drain(drain.since, now)),
            self.hold_down_until,
            self.unconfirmed_until,
            self.uplinks.next_deadline(),
            self.binder.as_ref().and_then(Binder::next_deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn tick(&mut self, now: Instant) {
        if self.bind_again.is_some_and(|at| at <= now) {
            self.bind(now);
        }
        if self.hold_down_until.is_some_and(|at| at <= now) {
            self.hold_down_until = None;
        }
        self.unconfirmed_until.take_if(|until| *until <= now);
        self.tick_uplinks(now);
        if let Some(binder) = &mut self.binder {
            binder.tick(now);
        }
        self.hear();
        self.talk.tick(clock::now());
    }

    /// Performs what follows, until nothing follows any more; then sends.
    fn settle(&mut self, now: Instant) {
        self.own.hold_down = self.hold_down_until.or(self.unconfirmed_until).is_some();
        self.talk.set_own(&self.own, now);
        self.perform();
        self.perform_fenced();
        self.pack_steps();
        self.talk.publish(now);
        self.perform();
        self.pack_steps();
        self.tell_of_fenced();
        self.send();
        self.tell_of_gained();
        self.observe();
        self.tell_node();
        // A node that is no candidate any more may answer until another one does.
        if *self.done.borrow() < self.mark && !self.answers_unlisted() {
            self.done.send_replace(self.mark);
        }
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Assignments { difference, mark } => {
                self.on_assignments(difference, now);
                self.mark = mark;
            }
            Command::Tried(addresses) => self.untried.begin_with(addresses),
            Command::Ready => {
                self.own.ready = true;
                self.unconfirmed_until = None;
            }
            // The stream may have been faster.
            Command::ReadyAfterBoot if self.own.ready => {}
            Command::ReadyAfterBoot => {
                self.own.ready = true;
                self.unconfirmed_until = Some(now + UNCONFIRMED);
            }
            Command::AddressesChanged => {
                if let Some(binder) = &mut self.binder {
                    binder.changed(now);
                }
            }
            Command::Lease(term) => self.talk.fenced.set_term(term, now),
            Command::Uplinks(uplinks) => self.on_uplinks(uplinks, now),
            Command::Joins(addresses) => self.talk.set_joins(&addresses, now),
            Command::Endpoint(endpoint) => self.talk.set_endpoint(endpoint, now),
            Command::Drain(done) => {
                self.own.draining = true;
                self.drain = Some(Drain { done, since: now });
            }
        }
    }

    fn on_assignments(&mut self, difference: Difference, now: Instant) {
        if let Some(members) = &difference.members {
            self.on_members(members, now);
        }
        if let Some(peers) = &difference.bgp_peers {
            self.tell_sessions(peers);
        }
        let Difference {
            mut upserts,
            mut removals,
            ..
        } = difference;
        let unfenced = self.take_fenced(&mut upserts, &mut removals, now);
        let touched = self.plan.apply(&upserts, &removals);
        let then = self.talk.time(now);
        self.note_link_local();
        let moved = self.detach_moved(&touched.groups);
        for (group, before) in touched.successors {
            if let Some(candidacy) = self.plan.candidacy(group) {
                self.talk.ownership.succeed(before, candidacy.clone(), then);
            }
        }
        for (group, owner) in unfenced.owners {
            if let Some(candidacy) = self.plan.candidacy(group) {
                let candidacy = candidacy.clone();
                self.talk.ownership.unfence(&owner, candidacy, then);
            }
        }
        self.perform();
        for group in touched.groups {
            match self.plan.candidacy(group) {
                Some(candidacy) => self.talk.ownership.set_group(candidacy.clone(), then),
                None => self.talk.ownership.remove_group(group, then),
            }
            // Effects first: they need the spots as they were.
            self.perform();
            self.reapply(group);
            self.disown(group);
            self.breathe();
        }
        self.silence_moved(&moved);
        for address in touched.gone.into_iter().chain(unfenced.addresses) {
            if !self.plan.has(address) && !self.fence.has(address) {
                self.metrics.forget(address);
                self.untried.forget(address);
            } else {
                // It is fenced now, or is no longer: what this node knew of it goes with the owner.
                self.disown_address(address);
            }
        }
        self.perform_fenced();
    }

    fn answers_unlisted(&self) -> bool {
        self.talk.ownership.answers_unlisted() || self.talk.fenced.answers_unlisted()
    }

    fn on_members(&mut self, members: &[Member], now: Instant) {
        let read = members.iter().map(|member| {
            let endpoint = member.endpoint.parse().ok();
            if endpoint.is_none() {
                tracing::warn!(
                    node = member.node,
                    endpoint = member.endpoint,
                    "not an endpoint"
                );
            }
            (NodeName::from(member.node.as_str()), endpoint)
        });
        self.talk.set_members(&read.collect::<Vec<_>>(), now);
    }

    fn is_drained(&mut self, now: Instant) -> bool {
        let then = self.talk.time(now);
        let Some(drain) = &self.drain else {
            return false;
        };
        let is_over = now >= drain.since + LEAVE_LIMIT;
        // What waits to be followed may say who takes what is still owned.
        let is_settled = !self.talk.has_heard() && self.talk.ownership.is_settled(then);
        (is_over || is_settled) && self.is_fence_drained(drain.since, now)
    }

    fn leave(&mut self) {
        let now = clock::now();
        let then = self.talk.time(now);
        if !self.talk.ownership.is_settled(then) {
            tracing::warn!("leaving with addresses that no other node accepted in time");
        }
        self.talk.ownership.fall_silent();
        self.perform();
        self.pack_steps();
        if let Some(binder) = &mut self.binder {
            binder.unbind_all();
        }
        self.send();
        self.talk.leave(now);
        self.farewell();
        if let Some(drain) = self.drain.take() {
            // Nobody waits any more if the time for a drain is over.
            let _ = drain.done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
