//! Follows the stream of ipam-service for ever, with whichever server answers.
//!
//! Losing the stream changes nothing: what was applied stays applied, here and on the disk. Each
//! new stream begins with digests of what is there, so that only what differs is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use pharos_process::Readiness;
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::conflict::Kind as WireKind;
use pharos_proto::v1::announcer_report::released::Tenure;
use pharos_proto::v1::announcer_report::{Hello, Report};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pnet_base::MacAddr;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::book::{Book, Contents, Difference, StreamError};
use crate::clock;
use crate::dial::{DialError, dial};
use crate::engine::Command;
use crate::fenced::Released;
use crate::l2::conflict::{self, Kind, News};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::progress::{Progress, Step};
use crate::status::{Standing, Teller};
use pharos_proto::feature::FENCED;

/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause. Each pause is a random part of its length, so that a thousand announcers do
/// not come back at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A stream that lasted so long was a good one.
const STABLE: Duration = Duration::from_secs(10);
/// Pauses before a server that can be reached are 1.6 s at most.
const MOST_FAILURES_OF_REACHED: u32 = 4;
/// How long a server may take to accept the stream, and for each frame until all is synchronised.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Changes of what is told of this node within so long are told together: a node that dies moves hundreds
/// of groups at once.
const STATUS_PAUSE: Duration = Duration::from_millis(100);
/// Tenures that are told together: some 50 KiB, as frames of the stream are.
const RELEASED_AT_ONCE: usize = 1000;
/// A frame is at most 64 KiB unless one bucket is larger; this is a bucket of 100,000 addresses.
const MAX_FRAME: usize = 16 << 20;

/// The assignments, shared with the writer of the disk cache. Its changes are counted.
#[derive(Debug, Clone)]
pub struct SharedBook {
    book: Arc<Mutex<Book>>,
    /// The last change.
    changed: watch::Sender<u64>,
    /// The last change that took something away.
    lost: watch::Sender<u64>,
    /// The last change that took something away and that the disk has.
    saved: watch::Sender<u64>,
}

impl SharedBook {
    /// Begins with this.
    pub fn new(book: Book) -> Self {
        Self {
            book: Arc::new(Mutex::new(book)),
            changed: watch::Sender::new(0),
            lost: watch::Sender::new(0),
            saved: watch::Sender::new(0),
        }
    }

    /// The book; the lock is held for a moment only.
    pub fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes with each change that takes something away.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    /// Everything, to be kept, and the change that it goes up to.
    pub fn snapshot(&self) -> (Contents, u64) {
        let book = self.lock();
        (book.contents(), *self.changed.borrow())
    }

    /// The disk has nothing any more that changes up to this one took away.
    pub fn set_saved(&self, change: u64) {
        self.saved.send_replace(change);
    }

    fn apply(&self, frame: v1::AssignmentUpdate) -> Result<Difference, StreamError> {
        let mut book = self.lock();
        let store_before = book.store_id().to_owned();
        let difference = book.apply(frame)?;
        let nothing = difference.upserts.is_empty()
            && difference.removals.is_empty()
            && difference.members.is_none()
            && difference.bgp_peers.is_none()
            && book.store_id() == store_before;
        // Counted before anybody else sees the change.
        if !nothing {
            self.changed.send_modify(|count| *count += 1);
            if difference.takes_away {
                self.lost.send_replace(*self.changed.borrow());
            }
        }
        drop(book);
        Ok(difference)
    }
}

/// What has been complained about, each once: a server that says nonsense says it again with every
/// frame or stream.
#[derive(Debug, Default)]
pub struct Complaints(BTreeSet<String>);

impl Complaints {
    /// Enough to see what is wrong.
    const LIMIT: usize = 1000;

    fn about(&mut self, ignored: &[String]) {
        for what in ignored {
            if self.0.len() < Self::LIMIT && self.0.insert(what.clone()) {
                tracing::warn!(what, "ignoring a part of the stream");
            }
        }
    }
}

/// Follows the stream.
#[derive(Debug)]
pub struct Follower {
    pub servers: Vec<Endpoint>,
    /// Where they are.
    pub names: Names,
    pub cluster: String,
    pub node: String,
    pub labels: BTreeMap<String, String>,
    /// Where other announcers reach this one.
    pub member_endpoint: watch::Receiver<SocketAddr>,
    pub book: SharedBook,
    pub engine: mpsc::Sender<Command>,
    pub metrics: Metrics,
    pub readiness: Readiness,
    /// Set once something was synchronised.
    pub synced: watch::Sender<bool>,
    /// What this node is and answers for.
    pub status: watch::Receiver<Standing>,
    /// How far the engine is.
    pub applied: watch::Receiver<u64>,
    /// Other machines that use addresses of this node.
    pub conflicts: mpsc::Receiver<News>,
    /// The spaces in which each of them was told: as many as layer 2 watches.
    pub told_conflicts: BTreeMap<(IpAddr, MacAddr), Vec<String>>,
    /// Tenures of fenced addresses that this node has ended: told on each stream.
    pub released: watch::Receiver<BTreeSet<Released>>,
    /// Differences handed to the engine so far.
    pub marks: u64,
    pub complaints: Complaints,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the server did not answer in time")]
    AnswerTimeout,
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
    #[error("the server ended the stream")]
    Ended,
    #[error("not a valid stream: {0}")]
    Invalid(#[from] StreamError),
    #[error("this node is reached elsewhere now")]
    Moved,
    #[error("the engine has ended")]
    NoEngine,
}

/// What happens while a stream is followed.
#[derive(Debug)]
enum Event {
    Frame(Box<v1::AssignmentUpdate>),
    /// The engine or the disk has come further.
    Applied,
    Conflict(News),
}

impl From<tonic::Status> for FollowError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Follower {
    /// Follows until the engine ends.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        for index in (0..self.servers.len()).cycle() {
            let server = self.servers[index].clone();
            let mut reached = false;
            let began = clock::now();
            let outcome = self.follow(&server, &mut reached).await;
            self.book.lock().disconnected();
            self.metrics.stream_connected.set(0);
            if reached {
                let lasted = clock::now().saturating_duration_since(began);
                failures = failures_before(failures, lasted);
            }
            let pause = match outcome {
                FollowError::NoEngine => return Ok(()),
                FollowError::Moved => Duration::ZERO,
                FollowError::Dial(_)
                | FollowError::AnswerTimeout
                | FollowError::Status(_)
                | FollowError::Ended
                | FollowError::Invalid(_) => pause(failures, rand::random()),
            };
            let reason = describe(&outcome);
            tracing::warn!(
                server = %server.uri(),
                reason,
                pause_ms = pause.as_millis(),
                "not following ipam-service: what was assigned stays announced"
            );
            if self.book.lock().is_empty() {
                let reason = format!("ipam-service not reached: {reason}");
                self.readiness.not_ready("assignments", reason);
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(pause).await;
        }
        anyhow::bail!("no server to follow")
    }

    /// Follows one server until that ends; says why.
    async fn follow(&mut self, server: &Endpoint, reached: &mut bool) -> FollowError {
        match self.follow_until_error(server, reached).await {
            Ok(()) => FollowError::Ended,
            Err(error) => error,
        }
    }

    async fn follow_until_error(
        &mut self,
        server: &Endpoint,
        reached: &mut bool,
    ) -> Result<(), FollowError> {
        let channel = dial(&self.names, server).await?;
        let mut client = AnnouncerServiceClient::new(channel).max_decoding_message_size(MAX_FRAME);
        let (position, positions) = watch::channel(0);
        let hello = self.hello();
        let hello = futures::stream::once(std::future::ready(Report::Hello(hello)));
        let applied = WatchStream::from_changes(positions).map(Report::AppliedPosition);
        // Both end with this call, as the positions do.
        let (_following, left) = oneshot::channel::<()>();
        let left = left.shared();
        let status = statuses(self.status.clone()).take_until(left.clone());
        let released = releases(self.released.clone()).take_until(left);
        let (conflicts, told) = mpsc::channel(conflict::LIMIT);
        let told = ReceiverStream::new(told).map(Report::Conflict);
        let of_node = futures::stream::select(status, released);
        let later = futures::stream::select(futures::stream::select(applied, of_node), told);
        let reports = hello.chain(later).map(|report| v1::AnnouncerReport {
            report: Some(report),
        });
        let accepted = tokio::time::timeout(ANSWER_TIMEOUT, client.announce(reports)).await;
        let mut stream = accepted
            .map_err(|_| FollowError::AnswerTimeout)??
            .into_inner();
        tracing::info!(server = %server.uri(), "following ipam-service");
        let mut progress = Progress::default();
        let mut saved = self.book.saved.subscribe();
        loop {
            let next = self.next(&mut stream, &mut saved);
            let event = if *reached {
                next.await?
            } else {
                // Afterwards silence means that nothing changes.
                let next = tokio::time::timeout(ANSWER_TIMEOUT, next).await;
                next.map_err(|_| FollowError::AnswerTimeout)??
            };
            match event {
                Event::Frame(frame) => self.take_in(*frame, &mut progress, reached).await?,
                Event::Conflict(news) => {
                    for wire in self.in_spaces(&news) {
                        // A server that takes in none is told again in a minute.
                        let _ = conflicts.try_send(wire);
                    }
                }
                Event::Applied => {}
            }
            let applied = *self.applied.borrow_and_update();
            if let Some(reached) = progress.acknowledge(applied, *saved.borrow_and_update()) {
                position.send_replace(reached);
            }
        }
    }

    /// Cancel safe: all that it waits for is.
    async fn next(
        &mut self,
        stream: &mut Streaming<v1::AssignmentUpdate>,
        saved: &mut watch::Receiver<u64>,
    ) -> Result<Event, FollowError> {
        tokio::select! {
            frame = stream.message() => {
                frame?.map(|frame| Event::Frame(Box::new(frame))).ok_or(FollowError::Ended)
            }
            moved = self.member_endpoint.changed() => match moved {
                Ok(()) => Err(FollowError::Moved),
                Err(_) => Err(FollowError::NoEngine),
            },
            changed = self.applied.changed() => match changed {
                Ok(()) => Ok(Event::Applied),
                Err(_) => Err(FollowError::NoEngine),
            },
            // Closed when the thread that answers has ended, and then the process ends.
            Some(conflict) = self.conflicts.recv() => Ok(Event::Conflict(conflict)),
            // The sender is part of the book that this follower has.
            Ok(()) = saved.changed() => Ok(Event::Applied),
        }
    }

    async fn take_in(
        &mut self,
        frame: v1::AssignmentUpdate,
        progress: &mut Progress,
        reached: &mut bool,
    ) -> Result<(), FollowError> {
        self.metrics.updated();
        let difference = self.book.apply(frame)?;
        self.complaints.about(&difference.ignored);
        let (synced, position) = (difference.synced, difference.position);
        self.marks += 1;
        let mark = self.marks;
        self.tell(Command::Assignments { difference, mark }).await?;
        if synced {
            *reached = true;
            self.on_synced().await?;
        }
        if let Some(position) = position {
            let loss = *self.book.lost.borrow();
            progress.reached(Step {
                position,
                mark,
                loss,
            });
        }
        Ok(())
    }

    /// Layer 2 does not know of address spaces: it is told in each that has the address.
    fn in_spaces(&mut self, news: &News) -> Vec<v1::announcer_report::Conflict> {
        let conflict = news.conflict();
        let key = (conflict.address, conflict.mac);
        let over = matches!(news, News::Over(_));
        // Where it is over the address may be gone already: then as it was told before.
        let told = self.told_conflicts.remove(&key).unwrap_or_default();
        let spaces = if over {
            told
        } else {
            let spaces = self.book.lock().spaces_of(conflict.address);
            if self.told_conflicts.len() < conflict::LIMIT {
                self.told_conflicts.insert(key, spaces.clone());
            }
            spaces
        };
        let kind = match conflict.kind() {
            Kind::Foreign => WireKind::Foreign,
            Kind::KernelAnswers => WireKind::KernelAnswers,
        };
        let told = spaces
            .into_iter()
            .map(|space| v1::announcer_report::Conflict {
                address_space: space,
                address: conflict.address.to_string(),
                mac: conflict.mac.to_string(),
                own_mac: conflict.by.mac.to_string(),
                kind: kind.into(),
                over,
                while_probing: conflict.while_probing,
                interface: conflict.by.name.to_string(),
                member: conflict.member.as_deref().unwrap_or_default().to_owned(),
            });
        told.collect()
    }

    async fn on_synced(&self) -> Result<(), FollowError> {
        let addresses = self.book.lock().len();
        tracing::info!(addresses, "in step with ipam-service");
        self.metrics.stream_connected.set(1);
        self.readiness.ready("assignments");
        if !self.synced.send_replace(true) {
            self.tell(Command::Ready).await?;
        }
        Ok(())
    }

    async fn tell(&self, command: Command) -> Result<(), FollowError> {
        self.engine
            .send(command)
            .await
            .map_err(|_| FollowError::NoEngine)
    }

    fn hello(&mut self) -> Hello {
        let member_endpoint = self.member_endpoint.borrow_and_update().to_string();
        let book = self.book.lock();
        Hello {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            labels: self.labels.clone().into_iter().collect(),
            member_endpoint,
            store_id: book.store_id().to_owned(),
            digests: book
                .digests()
                .map(|digests| digests.to_wire())
                .unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: vec![FENCED.to_owned()],
        }
    }
}

/// What this node tells of itself on a stream, until the engine ends.
fn statuses(standing: watch::Receiver<Standing>) -> impl Stream<Item = Report> {
    let told = futures::stream::unfold(
        (standing, Teller::default(), true),
        |(mut standing, mut teller, is_first)| async move {
            if !is_first {
                standing.changed().await.ok()?;
                tokio::time::sleep(STATUS_PAUSE).await;
            }
            let now = standing.borrow_and_update().clone();
            let parts = futures::stream::iter(teller.tell(now));
            Some((parts, (standing, teller, false)))
        },
    );
    told.flatten().map(Report::Status)
}

/// What this node has released, all of it first, then what is new.
fn releases(released: watch::Receiver<BTreeSet<Released>>) -> impl Stream<Item = Report> {
    let told = futures::stream::unfold(
        (released, BTreeSet::new(), true),
        |(mut released, told, is_first)| async move {
            if !is_first {
                released.changed().await.ok()?;
            }
            let now = released.borrow_and_update().clone();
            let new: Vec<Tenure> = now.difference(&told).map(tenure_to_wire).collect();
            let parts: Vec<Vec<Tenure>> = new
                .chunks(RELEASED_AT_ONCE)
                .map(<[Tenure]>::to_vec)
                .collect();
            Some((futures::stream::iter(parts), (released, now, false)))
        },
    );
    let parts = told.flatten();
    parts.map(|tenures| Report::Released(v1::announcer_report::Released { tenures }))
}

fn tenure_to_wire(released: &Released) -> Tenure {
    Tenure {
        address_space: released.key.space.clone(),
        address: pharos_proto::net::format_address(released.key.address),
        term: released.term.0,
        epoch: released.epoch,
    }
}

/// The failures that still count after a stream that was synchronised: none if it lasted. A server
/// that ends its streams at once must not be asked again twenty times a second, nor be given up
/// for long.
fn failures_before(failures: u32, lasted: Duration) -> u32 {
    if lasted >= STABLE {
        0
    } else {
        failures.min(MOST_FAILURES_OF_REACHED)
    }
}

/// A random part of a length that doubles with each failure.
fn pause(failures: u32, chance: f64) -> Duration {
    let longest = FIRST_PAUSE
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_PAUSE);
    longest.mul_f64(chance.clamp(0.0, 1.0))
}

/// The error with its causes: those of a transport say what happened.
fn describe(error: &FollowError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_its_streams_at_once_is_asked_less_often() {
        let next = |failures, seconds| failures_before(failures, Duration::from_secs(seconds));
        assert_eq!([next(0, 1), next(1, 1), next(9, 1)], [0, 1, 4]);
        assert_eq!(next(9, 10), 0);
        assert_eq!(pause(next(9, 1), 1.0), Duration::from_millis(1600));
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_are_a_random_part_of_that() {
        let seconds = |failures| pause(failures, 1.0).as_secs_f64();
        assert_eq!([0, 1, 2, 8].map(seconds), [0.1, 0.2, 0.4, 25.6]);
        assert_eq!(pause(9, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(9, 0.5), LONGEST_PAUSE / 2);
        assert_eq!(pause(9, 0.0), Duration::ZERO);
    }
}
