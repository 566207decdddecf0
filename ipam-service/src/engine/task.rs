//! The writer task: drives batches from the queue to the disk, and answers.

use std::collections::BTreeMap;
use std::time::Duration;

use pharos_process::{Readiness, Shutdown};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::{OpenBatch, undo};
use super::clock::LogClock;
use super::fair::{Asker, Turns};
use super::leases::LeaseBook;
use super::renew::Stopped;
use super::seen::LastSeen;
use super::{CommandRequest, Engine, EngineMetrics, QUEUE, Reply, Request, SubmitError};
use crate::feed::Feeds;
use crate::state::announce::{Announcements, ClusterDelta};
use crate::state::change::Change;
use crate::state::intern::Interner;
use crate::state::model::{Moment, Timestamp};
use crate::state::names::Name;
use crate::state::{Published, State, StreamPlace};
use crate::store::{Batch, CommitError, Writer};

/// Requests that share a transaction. At 30 us each this keeps a batch below 10 ms, and with it
/// the wait of everybody behind; a sync is long since paid for.
pub(super) const BATCH: usize = 256;

/// How often gauges of the whole state are brought up to date at most.
const OBSERVE: Duration = Duration::from_secs(1);

/// How long internal commands rest after the database refused a batch of them: whatever is wrong
/// needs a person, and must not keep the writer busy.
const REST_AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// How long they rest after a batch could not be written: space may come back.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What the writer works with.
pub(super) struct EngineParts {
    pub(super) state: State,
    pub(super) announcements: Announcements,
    /// Changes that the state already has and the database does not.
    pub(super) owed: Vec<Change>,
    /// Newest time in the log.
    pub(super) last_time: Timestamp,
    /// When clusters were last heard of.
    pub(super) seen: Vec<(Name, Timestamp)>,
    /// Names and claims that many allocations have in common.
    pub(super) interner: Interner,
    pub(super) writer: Writer,
    pub(super) feeds: Feeds,
    pub(super) leases: LeaseBook,
    pub(super) metrics: EngineMetrics,
    pub(super) readiness: Readiness,
    /// When it fires, the writer serves what is in its queue, takes no more, and ends. A client
    /// that never closes its connection keeps a handle for ever.
    pub(super) stop: Shutdown,
}

/// Makes the handle and the task behind it.
pub(super) fn start(mut parts: EngineParts) -> (Engine, EngineTask) {
    let (sender, queue) = mpsc::channel(QUEUE);
    parts.metrics.loaded(&parts.state);
    let assignments = &parts.feeds.assignments;
    parts.state.published(Published {
        deltas: &parts.announcements.everything(),
        ended: &BTreeMap::new(),
        place: &|cluster| assignments.place(cluster),
    });
    let task = EngineTask {
        clock: LogClock::after(parts.last_time),
        begun: Instant::now(),
        seen: LastSeen::restore(std::mem::take(&mut parts.seen)),
        queue,
        waiting: Turns::new(),
        more_follow_ups: true,
        unfinished: String::new(),
        resting_until: None,
        failing: false,
        stopped: None,
        observed: Instant::now(),
        unobserved: false,
        parts,
    };
    (Engine { queue: sender }, task)
}

/// The writer. Only it touches the state.
pub struct EngineTask {
    pub(super) parts: EngineParts,
    pub(super) queue: mpsc::Receiver<Request>,
    /// Taken off the queue, at most [`QUEUE`] beside what came with the last wait.
    pub(super) waiting: Turns<Request>,
    clock: LogClock,
    /// Where the state's own time begins.
    begun: Instant,
    seen: LastSeen,
    /// Whether internal commands may be waiting.
    pub(super) more_follow_ups: bool,
    /// Request id of the call that made them necessary.
    unfinished: String,
    resting_until: Option<Instant>,
    /// The last batch could not be written.
    failing: bool,
    /// Why nothing can be written now.
    pub(super) stopped: Option<Stopped>,
    observed: Instant,
    unobserved: bool,
}

impl EngineTask {
    /// So many claims of each cluster may wait. To be said before it runs.
    pub fn limit_pending(&mut self, most: usize) {
        self.parts.state.limit_pending(most);
    }

    /// The times of the log are of this clock. To be said before it runs.
    #[cfg(test)]
    pub(crate) fn set_wall_clock(&mut self, wall: impl Fn() -> Timestamp + Send + 'static) {
        self.clock.set_wall(Box::new(wall));
    }

    /// Runs until every handle is gone or it is told to stop, and every request is answered.
    ///
    /// Not cancel safe: dropped, it leaves the outcome of the last batch unknown to its callers.
    pub async fn run(mut self) {
        let mut arrived = Vec::with_capacity(BATCH);
        loop {
            self.heed_the_disk();
            self.renew().await;
            if self.parts.stop.is_stopping() {
                self.queue.close();
            }
            let has_work = self.has_own_work() || !self.waiting.is_empty();
            if !has_work && !self.receive(&mut arrived).await {
                break;
            }
            // Once more: it may have waited for long.
            self.heed_the_disk();
            self.line_up(&mut arrived);
            let mut requests = self.waiting.take(BATCH);
            self.parts.metrics.queued(self.waiting.len());
            self.serve(&mut requests).await;
        }
        self.parts.writer.close().await;
    }

    /// Writing stops when a checkpoint, which runs beside it, has met an error of the disk.
    fn heed_the_disk(&mut self) {
        if self.parts.writer.is_distrusted() && self.stopped.is_none() {
            let reason = "writing has stopped: a checkpoint met an error of the disk";
            self.stop(Stopped {
                reason: reason.to_owned(),
                in_doubt: None,
                curable: true,
            });
        }
    }

    /// Everything that has arrived is put in line, so that turns are taken among all of it.
    fn line_up(&mut self, arrived: &mut Vec<Request>) {
        for request in arrived.drain(..) {
            self.waiting.push(Asker::of(&request), request);
        }
        while self.waiting.len() < QUEUE
            && let Ok(request) = self.queue.try_recv()
        {
            self.waiting.push(Asker::of(&request), request);
        }
    }

    fn has_own_work(&mut self) -> bool {
        if self
            .resting_until
            .is_some_and(|until| until <= Instant::now())
        {
            self.resting_until = None;
            self.more_follow_ups = true;
        }
        // What is left of it when the process stops is found again when it starts.
        self.stopped.is_none()
            && !self.queue.is_closed()
            && (self.more_follow_ups || !self.parts.owed.is_empty())
            && self.resting_until.is_none()
    }

    /// Waits for requests; false when there will be none any more.
    async fn receive(&mut self, requests: &mut Vec<Request>) -> bool {
        let observe_at = self.observed + OBSERVE;
        // While nothing can be written, nothing ends.
        let may_end =
            self.stopped.is_none() && self.resting_until.is_none() && !self.queue.is_closed();
        let deadline = self.next_deadline();
        let awaited = self.parts.state.awaits_acknowledgements();
        let lease_end = self.parts.leases.next_end();
        tokio::select! {
            biased;
            // First, so that callers without end cannot keep it from being seen.
            () = self.parts.stop.stopping(), if !self.queue.is_closed() => {
                self.queue.close();
                true
            }
            () = self.parts.writer.distrusted(), if self.stopped.is_none() => true,
            count = self.queue.recv_many(requests, BATCH) => count > 0,
            () = tokio::time::sleep_until(observe_at), if self.unobserved => {
                self.observe();
                true
            }
            () = until(self.resting_until) => true,
            () = until(deadline), if may_end => true,
            () = self.parts.feeds.assignments.acknowledged(), if may_end && awaited => true,
            () = self.parts.leases.changed(), if may_end => true,
            () = until(lease_end), if may_end => true,
        }
    }

    /// When a reason for which an address is unavailable ends by itself.
    fn next_deadline(&self) -> Option<Instant> {
        let deadline = self.parts.state.next_deadline()?;
        // Later than any process lives.
        self.begun.checked_add(deadline.0)
    }

    /// Tells the state how late it is, what announcers have acknowledged, and what became of leases.
    fn tell_time(&mut self) {
        let parts = &mut self.parts;
        parts.state.advance(Moment(self.begun.elapsed()));
        let acks = parts.feeds.assignments.take_acknowledged();
        if !acks.is_empty() {
            parts.state.acknowledged(acks);
        }
        let news = parts.leases.take_news();
        let leases = parts.state.leases_mut();
        for (node, terms) in news.nodes {
            leases.set(node, terms);
        }
        if news.settled {
            leases.settle(parts.announcements.names().cloned());
        }
        parts.state.forget_past_releases();
        for released in news.released {
            parts.state.release(released);
        }
    }

    fn observe(&mut self) {
        let state = &self.parts.state;
        self.seen.keep_only(|name| state.cluster(name).is_some());
        self.parts.metrics.observe_state(state);
        self.parts.metrics.observe_seen(self.seen.iter());
        self.observed = Instant::now();
        self.unobserved = false;
    }

    /// Commands first, in one batch; then reads, which see nothing that is not on disk.
    async fn serve(&mut self, requests: &mut Vec<Request>) {
        let mut commands = Vec::with_capacity(requests.len());
        let mut reads = Vec::new();
        let mut interludes = Vec::new();
        for request in requests.drain(..) {
            match request {
                Request::Command(command) => commands.push(command),
                Request::Read(read) => reads.push(read),
                Request::Between(work) => interludes.push(work),
            }
        }
        self.serve_commands(commands).await;
        for read in reads {
            read(&self.parts.state);
        }
        for work in interludes {
            // Dropped, it tells its caller that it was not done.
            if self.stopped.is_some() {
                break;
            }
            let span = work.span().clone();
            let outcome = work.await;
            span.in_scope(|| self.between(outcome));
        }
        if self.unobserved && self.observed.elapsed() >= OBSERVE {
            self.observe();
        }
    }

    async fn serve_commands(&mut self, commands: Vec<CommandRequest>) {
        if let Some(stopped) = &self.stopped {
            for command in commands {
                command.answer(Err(SubmitError::Unavailable(stopped.reason.clone())));
            }
            return;
        }
        let follow_ups = self.resting_until.is_none();
        let Err(refused) = self.one_batch(commands, follow_ups).await else {
            return;
        };
        // One by one, so that only the culprit fails; without internal commands, so that none of
        // those can be the culprit.
        if refused.is_empty() {
            tracing::error!(
                request_id = %self.unfinished,
                "internal commands rest: the database refuses what they decide"
            );
            self.rest(REST_AFTER_REFUSAL);
        }
        for command in refused {
            if let Some(stopped) = &self.stopped {
                command.answer(Err(SubmitError::Unavailable(stopped.reason.clone())));
                continue;
            }
            if let Err(culprit) = self.one_batch(vec![command], false).await {
                for command in culprit {
                    tracing::error!(
                        request_id = %command.meta.request_id,
                        command = ?command.command,
                        "the database refuses a change that the rules allow"
                    );
                    command.answer(Err(SubmitError::Internal));
                }
            }
        }
        self.more_follow_ups = true;
    }

    /// Decides, writes and answers one batch. `Err`: the database refused a row; the batch has
    /// been undone and its commands come back unanswered.
    async fn one_batch(
        &mut self,
        commands: Vec<CommandRequest>,
        follow_ups: bool,
    ) -> Result<(), Vec<CommandRequest>> {
        self.tell_time();
        let parts = &mut self.parts;
        let time = self.clock.tick();
        let mut open = OpenBatch::new(time, follow_ups);
        let owed = std::mem::take(&mut parts.owed);
        open.add_applied(owed.clone());
        // First what an earlier call made necessary: it came before these.
        open.follow_up(&mut parts.state, &self.unfinished);
        let now = Instant::now();
        let mut decided = Vec::with_capacity(commands.len());
        for mut command in commands {
            if command.reply.is_closed() {
                continue;
            }
            if command
                .meta
                .deadline
                .is_some_and(|deadline| deadline <= now)
            {
                command.answer(Err(SubmitError::DeadlineExceeded));
                continue;
            }
            parts.interner.share(&mut command.command);
            let outcome = open.decide(&mut parts.state, &command.command, &command.meta);
            match (command.command.sender(), &outcome) {
                (Some(cluster), Ok(_)) => self.seen.note(cluster, time),
                (None, Ok(_)) => {}
                (_, Err(error)) => parts.metrics.rejected(error),
            }
            decided.push((command, outcome));
        }
        open.follow_up(&mut parts.state, "");
        self.more_follow_ups = open.is_full() && follow_ups;
        open.unfinished().clone_into(&mut self.unfinished);
        let refresh = open.refresh(&mut parts.state, &mut parts.announcements, !self.failing);
        let mut batch = open.close();
        batch.seen = self.seen.due();
        if batch.is_empty() {
            answer(decided);
            // For whom an owner is to make room is told, and not stored.
            self.publish_assignments(&refresh.deltas);
            return Ok(());
        }
        let started = Instant::now();
        match parts.writer.commit(&batch).await {
            Ok(()) => {
                let seconds = started.elapsed().as_secs_f64();
                parts.metrics.committed(&batch, decided.len(), seconds);
                self.seen.stored(&batch.seen);
                self.unobserved = true;
                if std::mem::take(&mut self.failing) {
                    self.parts.state.touch_leases();
                    self.more_follow_ups = true;
                }
                answer(decided);
                self.publish(&batch, &refresh.deltas);
                Ok(())
            }
            Err(error) => self.not_committed(error, &batch, owed, decided),
        }
    }

    /// Tells everybody who watches what was committed, and the state what the announcers were told.
    pub(super) fn publish(&mut self, batch: &Batch, deltas: &BTreeMap<Name, ClusterDelta>) {
        let feeds = &self.parts.feeds;
        feeds.allocations.publish(batch);
        feeds.changes.publish(batch);
        self.publish_assignments(deltas);
        let changes = batch.changes.iter().map(|logged| &logged.change);
        self.parts.feeds.assignments.note(changes);
    }

    fn publish_assignments(&mut self, deltas: &BTreeMap<Name, ClusterDelta>) {
        let ended = self.parts.feeds.assignments.publish(deltas);
        self.published(deltas, &ended);
    }

    /// The announcers have been sent what was committed.
    fn published(
        &mut self,
        deltas: &BTreeMap<Name, ClusterDelta>,
        ended: &BTreeMap<Name, StreamPlace>,
    ) {
        let parts = &mut self.parts;
        let assignments = &parts.feeds.assignments;
        parts.state.published(Published {
            deltas,
            ended,
            place: &|cluster| assignments.place(cluster),
        });
        self.more_follow_ups |= parts.state.has_ended();
    }

    pub(super) fn not_committed(
        &mut self,
        error: CommitError,
        batch: &Batch,
        owed: Vec<Change>,
        decided: Vec<(CommandRequest, Result<Reply, SubmitError>)>,
    ) -> Result<(), Vec<CommandRequest>> {
        self.parts.metrics.failed(&error);
        self.take_back(batch, owed);
        self.failing = true;
        tracing::error!(
            %error,
            requests = decided.len(),
            request_ids = %named(&decided),
            "a batch was not written"
        );
        let text = error.to_string();
        let commands = decided.into_iter().map(|(command, _)| command);
        match error {
            CommitError::Refused(_) => return Err(commands.collect()),
            CommitError::Full => {
                self.rest(REST_AFTER_FAILURE);
                commands.for_each(|command| command.answer(Err(SubmitError::StorageFull)));
            }
            CommitError::NotWritten(_) => {
                self.rest(REST_AFTER_FAILURE);
                commands.for_each(|command| {
                    command.answer(Err(SubmitError::Unavailable(text.clone())));
                });
            }
            CommitError::Unknown(_) | CommitError::Deposed => {
                let reason = format!("writing has stopped: {text}");
                commands.for_each(|command| {
                    command.answer(Err(SubmitError::Unavailable(reason.clone())));
                });
                let curable = matches!(error, CommitError::Unknown(_));
                self.stop(Stopped {
                    reason,
                    in_doubt: curable.then(|| batch.clone()),
                    curable,
                });
            }
        }
        Ok(())
    }

    /// Work between batches has ended. The file that it used is that of the batches.
    pub(super) fn between(&mut self, outcome: Result<(), CommitError>) {
        let Err(error) = outcome else {
            return;
        };
        self.parts.metrics.failed(&error);
        match error {
            CommitError::Refused(_) | CommitError::Full | CommitError::NotWritten(_) => {}
            CommitError::Unknown(_) | CommitError::Deposed => {
                tracing::error!(%error, "work on the database between two batches has failed");
                self.stop(Stopped {
                    reason: format!("writing has stopped: {error}"),
                    in_doubt: None,
                    curable: matches!(error, CommitError::Unknown(_)),
                });
            }
        }
    }

    fn rest(&mut self, period: Duration) {
        self.resting_until = Some(Instant::now() + period);
    }

    /// Takes a batch out of the state, and with it what the announcements made of it.
    fn take_back(&mut self, batch: &Batch, owed: Vec<Change>) {
        let parts = &mut self.parts;
        undo(&mut parts.state, batch);
        for change in &owed {
            parts.state.apply(change);
        }
        let (announcements, placements) = Announcements::rebuild(&parts.state);
        parts.announcements = announcements;
        for change in &placements {
            parts.state.apply(change);
        }
        parts.owed = owed;
        parts.owed.extend(placements);
        parts.state.touch_leases();
        self.more_follow_ups = true;
    }
}

/// How many calls of a batch are named in one line of the log.
const NAMED: usize = 20;

/// Request ids of the first calls of a batch.
fn named(decided: &[(CommandRequest, Result<Reply, SubmitError>)]) -> String {
    let ids = decided.iter().take(NAMED);
    let ids: Vec<&str> = ids.map(|(one, _)| &*one.meta.request_id).collect();
    ids.join(" ")
}

fn answer(decided: Vec<(CommandRequest, Result<Reply, SubmitError>)>) {
    for (command, outcome) in decided {
        command.answer(outcome);
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
