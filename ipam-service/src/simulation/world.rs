//! One run: rounds of clients, network and faults, and the history of it.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use pharos_checker::History;
use pharos_checker::calls::Outcome;
use pharos_checker::log::Snapshot;
use pharos_checker::usage::{QuotaUsage, Usage};
use pharos_checker::watch::{Connection, Watch};
use pharos_proto::v1;
use pharos_proto::v1::allocation_service_server::AllocationService;
use pharos_proto::v1::watch_allocations_response::Type;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Request;

use super::announcers::{Announcers, announce_everything};
use super::network::{Sent, UnderWay, pools_with_usage, quotas_with_usage};
use super::requests::{Message, Requests, pool};
use super::server::{Clock, Server, cut_log, new_folder};
use crate::api::allocations::Allocations;
use crate::state::address::AddressRange;
use crate::store::{AllocationFilter, ChangeFilter};

/// What is wrong with the world on purpose, so that the judge can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Sound,
    /// A crash takes back what was answered, as if answers left before the commit.
    AnswersBeforeCommit,
    /// The server never sees a fence.
    ForgetsFences,
    /// Now and then a watcher is not given an event.
    WatchLosesEvent,
    /// The log shows less time than passes.
    SlowWallClock,
}

/// How a round ends for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    /// Killed before the commit.
    DiesBefore,
    /// Killed in the middle of the commit: a part of it is on disk.
    DiesWithin,
    /// Killed after the commit, before some of the answers.
    DiesAfter,
    Restarts,
}

/// The longest that a message may be under way, in time of the run.
const DEADLINE: Duration = Duration::from_secs(5);

/// Watchers get a bookmark within this time.
const NEXT_BOOKMARK: Duration = Duration::from_secs(9);

/// Time that a watch takes, longer than any needs. How many bookmarks come before the last event
/// is left to chance, and must not decide how late it is afterwards. All of a run take less than an
/// hour: see the pools.
const WATCH: Duration = Duration::from_secs(30);

pub(super) struct World {
    random: StdRng,
    plan: Plan,
    /// Of the history: one step per observation.
    now: u64,
    server: Option<Server>,
    clock: Clock,
    requests: Requests,
    in_flight: Vec<Sent>,
    /// Streams that are open, by watcher.
    watchers: Vec<Option<Stream>>,
    announcers: Announcers,
    history: History,
}

impl World {
    pub(super) async fn new(seed: u64, plan: Plan) -> Self {
        let clock = Clock::new(if plan == Plan::SlowWallClock { 1000 } else { 1 });
        let server = Server::start(new_folder(), clock).await;
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            plan,
            now: 0,
            history: History {
                epochs: vec![server.epoch],
                watches: vec![Watch::default(), Watch::default()],
                ..History::default()
            },
            server: Some(server),
            clock,
            requests: Requests::default(),
            in_flight: Vec::new(),
            watchers: vec![None, None],
            announcers: Announcers::of("east"),
        };
        world.begin().await;
        world
    }

    /// There are pools from the start, and everything is announced.
    async fn begin(&mut self) {
        announce_everything(self.server()).await;
        for cluster in ["", "east"] {
            let request = v1::ApplyPoolRequest {
                pool: Some(pool(&mut self.random, cluster)),
                request_id: format!("begin-{cluster}"),
                ..v1::ApplyPoolRequest::default()
            };
            self.send(Message::ApplyPool(Box::new(request)));
        }
        let all = std::mem::take(&mut self.in_flight);
        let mut under_way = self.deliver(all).await;
        self.answers(&mut under_way).await;
        for call in &under_way {
            let is_made = matches!(call.outcome, Some(Outcome::Edited(_)));
            let came_too_late = call.sent.deadline.is_some();
            assert!(is_made || came_too_late, "{:?}", call.outcome);
        }
        self.record(under_way, 1.0);
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a server runs")
    }

    /// One round: clients ask, some messages arrive, and what becomes of them.
    pub(super) async fn round(&mut self) {
        let server = self.server.as_ref().expect("a server runs");
        server.settle().await;
        self.announcers.step(&mut self.random, server).await;
        server.settle().await;
        for _ in 0..self.random.random_range(1..6) {
            let message = self.requests.any(&mut self.random);
            self.send(message);
        }
        let fate = match self.random.random_range(0..20) {
            0 => Fate::DiesBefore,
            1 => Fate::DiesWithin,
            2 => Fate::DiesAfter,
            3 => Fate::Restarts,
            _ => Fate::Lives,
        };
        let arriving = self.arriving();
        let copy = (fate != Fate::Lives).then(|| self.server().copy());
        let log_before = self.server().log_bytes();
        let mut under_way = self.deliver(arriving).await;
        self.hang_up(&mut under_way);
        self.answers(&mut under_way).await;
        // A second batch, so that a crash can meet the first one or the second.
        self.server().settle().await;
        let late = self.arriving();
        let mut late = self.deliver(late).await;
        self.hang_up(&mut late);
        self.answers(&mut late).await;
        under_way.extend(late);
        match fate {
            Fate::Lives => self.record(under_way, 0.9),
            Fate::Restarts => {
                self.record(under_way, 0.9);
                let server = self.server.take().expect("a server runs");
                self.came_up(server.restart().await);
            }
            Fate::DiesBefore => {
                let told = match self.plan {
                    Plan::AnswersBeforeCommit => 1.0,
                    Plan::Sound
                    | Plan::ForgetsFences
                    | Plan::WatchLosesEvent
                    | Plan::SlowWallClock => 0.0,
                };
                self.record(under_way, told);
                self.crash(copy.expect("taken")).await;
            }
            Fate::DiesWithin => {
                let copy = self.server().copy();
                let after = self.server().log_bytes();
                // A log that is as long as before was begun anew, or nothing was written.
                if after > log_before {
                    cut_log(&copy, self.random.random_range(log_before..after));
                }
                let told = if after > log_before { 0.0 } else { 0.5 };
                self.record(under_way, told);
                self.crash(copy).await;
            }
            Fate::DiesAfter => {
                let copy = self.server().copy();
                self.record(under_way, 0.5);
                self.crash(copy).await;
            }
        }
        self.server().check_settled().await;
        self.observe().await;
        self.announcers.check(self.server()).await;
    }

    fn send(&mut self, message: Message) {
        let sent = Sent {
            message,
            at: self.tick(),
            deadline: None,
        };
        // Now and then the network doubles a message.
        if self.random.random_bool(0.1) {
            self.in_flight.push(sent.clone());
        }
        self.in_flight.push(sent);
    }

    /// Some of what is under way, in any order; a few are lost.
    fn arriving(&mut self) -> Vec<Sent> {
        let mut all = std::mem::take(&mut self.in_flight);
        all.shuffle(&mut self.random);
        let mut arriving = Vec::new();
        for sent in all {
            match self.random.random_range(0..20) {
                0 => {
                    let end = self.tick();
                    let lost = sent.call(end, Outcome::Unknown);
                    self.history.calls.push(lost);
                    self.retry(&sent);
                }
                1..8 => self.in_flight.push(sent),
                _ => arriving.push(sent),
            }
        }
        arriving
    }

    /// A client that got no answer asks again, most of the time.
    fn retry(&mut self, sent: &Sent) {
        if self.random.random_bool(0.7) {
            let again = self.requests.again(&sent.message);
            self.send(again);
        }
    }

    /// Hands messages to the server, in this order. A few have a deadline, which may have passed
    /// before the writer comes to them.
    async fn deliver(&mut self, messages: Vec<Sent>) -> Vec<UnderWay> {
        let mut under_way = Vec::new();
        for mut sent in messages {
            if self.random.random_bool(0.2) {
                sent.deadline = Some(Instant::now() + DEADLINE);
            }
            if self.plan == Plan::ForgetsFences {
                let seen = sent.clone().without_fence();
                let mut call = UnderWay::begin(&self.server().api, seen).await;
                call.sent = sent;
                under_way.push(call);
            } else {
                under_way.push(UnderWay::begin(&self.server().api, sent).await);
            }
        }
        if self.random.random_bool(0.05) {
            tokio::time::advance(2 * DEADLINE).await;
        }
        under_way
    }

    /// Some clients go away before the writer comes to their calls.
    fn hang_up(&mut self, under_way: &mut Vec<UnderWay>) {
        let mut stay = Vec::new();
        for call in std::mem::take(under_way) {
            if self.random.random_bool(0.05) {
                // It takes effect at latest when the writer is idle, which the others wait for.
                self.in_doubt(&call.sent);
            } else {
                stay.push(call);
            }
        }
        *under_way = stay;
    }

    /// A call whose client will never know; it is asked again.
    fn in_doubt(&mut self, sent: &Sent) {
        // Effects end with the round; nothing that begins before its end may rely on that.
        let end = self.now + 1_000;
        self.history.calls.push(sent.call(end, Outcome::Unknown));
        self.retry(sent);
    }

    /// Waits until every call has its answer and the writer is idle.
    async fn answers(&mut self, under_way: &mut [UnderWay]) {
        for call in under_way {
            call.answered().await;
        }
        self.server().revision().await;
        // Later than anything that hung up in this round may still act.
        self.now += 1_000;
    }

    /// Writes down what became of calls. `told`: the chance that an answer arrives.
    fn record(&mut self, under_way: Vec<UnderWay>, told: f64) {
        for call in under_way {
            let end = self.tick();
            let outcome = call.outcome.expect("answered");
            if self.random.random_bool(told) {
                self.history.calls.push(call.sent.call(end, outcome));
            } else {
                let lost = call.sent.call(end, Outcome::Unknown);
                self.history.calls.push(lost);
                self.retry(&call.sent);
            }
        }
    }

    /// kill -9, and a new process on what that left.
    async fn crash(&mut self, left: TempDir) {
        self.server.take().expect("a server runs").kill();
        let server = Server::start(left, self.clock).await;
        self.came_up(server);
    }

    fn came_up(&mut self, server: Server) {
        self.history.epochs.push(server.epoch);
        self.server = Some(server);
        // Watchers and announcers have lost their streams.
        self.watchers.fill_with(|| None);
        self.announcers.cut_off();
    }
}

// === Observing ===

type Stream = <Allocations as AllocationService>::WatchAllocationsStream;

/// The revision up to which a watcher has seen everything; `None` before its snapshot is whole.
fn last_revision(connection: &Connection) -> Option<u64> {
    let synced = connection
        .events
        .iter()
        .any(|it| it.r#type() == Type::Synced);
    let known = synced || connection.from_revision > 0;
    let seen = connection.events.iter().map(|event| event.revision).max();
    known.then(|| seen.unwrap_or(0).max(connection.from_revision))
}

impl World {
    /// Looks at the server as others see it, now and then.
    async fn observe(&mut self) {
        if self.random.random_bool(0.3) {
            self.list().await;
        }
        if self.random.random_bool(0.3) {
            self.usage().await;
        }
        for watcher in 0..self.watchers.len() {
            if self.random.random_bool(0.4) {
                self.watch(watcher).await;
            }
        }
    }

    async fn list(&mut self) {
        let filter = AllocationFilter::default();
        let reader = &self.server().api.reader;
        let page = reader.allocations(&filter, None, 1000).await;
        let page = page.expect("readable");
        assert!(!page.more, "a run has few owners");
        self.history.snapshots.push(Snapshot {
            revision: page.revision,
            allocations: page.items,
        });
    }

    async fn usage(&mut self) {
        let server = self.server();
        let pools = pools_with_usage(&server.api).await;
        let quotas = quotas_with_usage(&server.api).await;
        let revision = server.revision().await;
        for pool in pools {
            let usage = pool.usage.clone().unwrap_or_default();
            for (is_v4, family) in [(true, usage.ipv4), (false, usage.ipv6)] {
                let family = family.unwrap_or_default();
                self.history
                    .usages
                    .push(usage_of(&pool, is_v4, &family, revision));
            }
        }
        let quotas = quotas.into_iter();
        let quotas = quotas.map(|quota| QuotaUsage { revision, quota });
        self.history.quotas.extend(quotas);
    }

    /// A watcher reads until it has seen everything.
    async fn watch(&mut self, watcher: usize) {
        let revision = self.server().revision().await;
        let end = Instant::now() + WATCH;
        let mut stream = match self.watchers[watcher].take() {
            Some(stream) => stream,
            None => self.connect(watcher).await,
        };
        loop {
            let event = match stream.next().now_or_never() {
                Some(event) => event,
                None => {
                    // It reads what was before, or has seen everything and waits.
                    if self.has_caught_up(watcher) {
                        tokio::time::advance(NEXT_BOOKMARK).await;
                    }
                    stream.next().await
                }
            };
            let event = event.expect("streams do not end");
            let event = event.expect("the server runs");
            let seen_all = event.r#type() == Type::Bookmark && event.revision >= revision;
            let is_change = matches!(event.r#type(), Type::Allocation | Type::Released);
            let lost = self.plan == Plan::WatchLosesEvent && self.random.random_bool(0.1);
            if !(lost && is_change) {
                let connections = &mut self.history.watches[watcher].connections;
                connections
                    .last_mut()
                    .expect("connected")
                    .events
                    .push(event);
            }
            if seen_all {
                break;
            }
        }
        let left = end.checked_duration_since(Instant::now());
        tokio::time::advance(left.expect("no watch takes so long")).await;
        // Some hang up and come back another time.
        if self.random.random_bool(0.8) {
            self.watchers[watcher] = Some(stream);
        }
    }

    /// Whether the stream that a watcher has is live.
    fn has_caught_up(&self, watcher: usize) -> bool {
        let connection = self.history.watches[watcher].connections.last();
        let mut events = connection.into_iter().flat_map(|it| &it.events);
        events.any(|event| event.r#type() == Type::Synced)
    }

    /// Resumes after what was seen, or begins anew.
    async fn connect(&mut self, watcher: usize) -> Stream {
        let seen = self.history.watches[watcher].connections.last();
        let from_revision = match seen.and_then(last_revision) {
            Some(revision) if self.random.random_bool(0.8) => revision,
            Some(_) | None => 0,
        };
        self.history.watches[watcher].connections.push(Connection {
            from_revision,
            events: Vec::new(),
        });
        let api = &self.server().api;
        let request = Request::new(v1::WatchAllocationsRequest {
            from_revision,
            store_id: api.store_id.to_string(),
            ..v1::WatchAllocationsRequest::default()
        });
        let stream = Allocations(api.clone()).watch_allocations(request).await;
        stream.expect("what was seen is on disk").into_inner()
    }

    /// Everything arrives, one more restart, and the history is whole.
    pub(super) async fn finish(mut self) -> History {
        let all = std::mem::take(&mut self.in_flight);
        let mut under_way = self.deliver(all).await;
        self.answers(&mut under_way).await;
        self.record(under_way, 1.0);
        let server = self.server.take().expect("a server runs");
        self.came_up(server.restart().await);
        self.server().check_settled().await;
        for watcher in 0..self.watchers.len() {
            self.watch(watcher).await;
        }
        self.list().await;
        self.usage().await;
        self.history.log = self.log().await;
        assert_eq!(self.server().problems().await, Vec::<String>::new());
        // Messages that were sent as retries of the last round never arrive.
        let end = self.tick();
        for sent in std::mem::take(&mut self.in_flight) {
            self.history.calls.push(sent.call(end, Outcome::Unknown));
        }
        self.server.take().expect("a server runs").stop().await;
        self.history
    }

    async fn log(&self) -> Vec<v1::Change> {
        let reader = &self.server().api.reader;
        let (mut log, mut before) = (Vec::new(), None);
        loop {
            let page = reader.changes(&ChangeFilter::default(), before, 500).await;
            let page = page.expect("readable");
            log.extend(page.items);
            before = page.next;
            if before.is_none() {
                log.reverse();
                return log;
            }
        }
    }
}

fn usage_of(
    pool: &v1::Pool,
    is_v4: bool,
    family: &v1::pool_usage::FamilyUsage,
    revision: u64,
) -> Usage {
    // A family of which the pool has no address is left out.
    let count = |text: &str| match text {
        "" => 0,
        text => text.parse::<u128>().expect("a count"),
    };
    let ranges = pool.addresses.iter().map(|text| {
        let range = AddressRange::parse(text).expect("a range");
        (range.first().to_ip(), range.last().to_ip())
    });
    Usage {
        revision,
        space: pool.address_space.clone(),
        cluster: pool.cluster.clone(),
        pool: format!("{}/{}", pool.cluster, pool.name),
        ranges: ranges
            .filter(|(first, _)| first.is_ipv4() == is_v4)
            .collect(),
        total: count(&family.total),
        held: count(&family.held),
        held_by_others: count(&family.held_by_others),
        reserved: count(&family.reserved),
        draining: count(&family.draining),
        free: count(&family.free),
        outside_grant: count(&family.outside_grant),
    }
}
