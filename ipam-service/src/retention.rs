//! Makes the log shorter, as its age allows, and watches the clock that says how old it is.
//!
//! Small steps between the writer's batches, with rests between them: nobody who allocates waits for
//! more than one step. A watcher that has not read what goes is told so when it comes back.

mod rule;

use std::sync::Arc;
use std::time::Duration;

use pharos_process::Readiness;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use rule::{Clocks, Doubt, Keep, KeepError, Policy, Verdict, decide};

use crate::engine::{Engine, SubmitError, wall_time};
use crate::state::model::Timestamp;
use crate::store::{Compaction, Compactor, LogState, ReadError, Reader};

/// Rows of a step. About 5 ms with its sync.
const STEP: u32 = 200;

/// Of the time, the share that steps leave to everybody else, in step lengths.
const REST: u32 = 4;

/// How often the log is looked at; more often when little is kept.
const PERIOD: Duration = Duration::from_secs(60);

/// How old what is remembered of the clock may be, in microseconds: it is written that seldom.
const REMEMBER: i64 = 3600 * 1_000_000;

/// Part of the process that the notes of [`Readiness`] are about.
const PART: &str = "history";

/// Clones share everything.
#[derive(Debug, Clone)]
pub struct Retention {
    policy: Policy,
    engine: Engine,
    reader: Reader,
    /// Locked while a step waits and runs: one at a time.
    compactor: Arc<Mutex<Compactor>>,
    metrics: Metrics,
    readiness: Readiness,
}

/// Why the log was not looked at, or not made shorter.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] SubmitError),
}

#[derive(Debug, Clone, Default)]
struct Metrics {
    compacted: Counter,
    oldest: Gauge,
    stopped: Gauge,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "pharos_ipam_history_compacted_changes",
            "Changes taken out of the log because of their age",
            metrics.compacted.clone(),
        );
        registry.register(
            "pharos_ipam_history_oldest_revision",
            "Oldest change in the log, 0 if it is empty",
            metrics.oldest.clone(),
        );
        registry.register(
            "pharos_ipam_history_retention_stopped",
            "1 while the wall clock is not trusted: nothing is taken out of the log",
            metrics.stopped.clone(),
        );
        metrics
    }
}

impl Retention {
    /// Nothing happens before [`Retention::run`].
    pub fn new(
        policy: Policy,
        engine: Engine,
        reader: Reader,
        compactor: Compactor,
        registry: &mut Registry,
        readiness: Readiness,
    ) -> Self {
        Self {
            policy,
            engine,
            reader,
            compactor: Arc::new(Mutex::new(compactor)),
            metrics: Metrics::register(registry),
            readiness,
        }
    }

    /// Never returns. Cancel safe: a step that was handed to the writer is finished by it.
    pub async fn run(self) {
        let period = match self.policy.keep {
            Keep::Forever => PERIOD,
            Keep::For(micros) => {
                let tenth = Duration::from_micros(u64::try_from(micros / 10).unwrap_or(0));
                tenth.clamp(Duration::from_millis(200), PERIOD)
            }
        };
        let mut timer = tokio::time::interval(period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            if let Err(error) = self.once(wall_time()).await {
                tracing::warn!(%error, "the log was not made shorter; it is tried again");
            }
        }
    }

    /// Looks at the log, and makes it as short as it may be.
    async fn once(&self, wall: Timestamp) -> Result<(), RetentionError> {
        loop {
            let state = self.reader.log_state().await?;
            self.metrics
                .oldest
                .set(i64::try_from(state.oldest).unwrap_or(i64::MAX));
            let clocks = clocks(&state, wall);
            let verdict = decide(self.policy, clocks, state.revision);
            self.tell(verdict);
            match verdict {
                Verdict::Stopped(_) => return Ok(()),
                Verdict::KeepAll => return self.remember(clocks).await,
                Verdict::Compact { before, end } => {
                    self.remember(clocks).await?;
                    let started = Instant::now();
                    let limit = STEP;
                    let step = Compaction { before, end, limit };
                    let deleted = self.compact(step).await?;
                    self.metrics.compacted.inc_by(deleted);
                    if deleted < u64::from(STEP) {
                        return Ok(());
                    }
                    tokio::time::sleep(started.elapsed() * REST).await;
                }
            }
        }
    }

    /// The wall clock is right, whatever the log says: an operator confirms it. Says what was known
    /// before.
    pub async fn confirm_clock(
        &self,
        wall: Timestamp,
        validate_only: bool,
    ) -> Result<(Clocks, Verdict), RetentionError> {
        let state = self.reader.log_state().await?;
        let before = clocks(&state, wall);
        if !validate_only {
            self.note(wall, state.newest_time).await?;
            self.readiness.clear_note(PART);
            self.metrics.stopped.set(0);
        }
        Ok((before, decide(self.policy, before, state.revision)))
    }

    /// Remembers the clock that was found to be right, if that is news.
    async fn remember(&self, clocks: Clocks) -> Result<(), RetentionError> {
        if self.policy.keep == Keep::Forever || clocks.wall.0 - clocks.seen.0 < REMEMBER {
            return Ok(());
        }
        self.note(clocks.wall, clocks.accepted).await
    }

    async fn compact(&self, step: Compaction) -> Result<u64, RetentionError> {
        let mut compactor = Arc::clone(&self.compactor).lock_owned().await;
        let work = async move { compactor.compact(step).await };
        Ok(self.engine.between_batches(work).await?)
    }

    async fn note(&self, seen: Timestamp, accepted: Timestamp) -> Result<(), RetentionError> {
        let mut compactor = Arc::clone(&self.compactor).lock_owned().await;
        let work = async move { compactor.note_clock(seen, accepted).await };
        Ok(self.engine.between_batches(work).await?)
    }

    /// Says aloud what changed.
    fn tell(&self, verdict: Verdict) {
        let was_stopped = self.metrics.stopped.get() != 0;
        match verdict {
            Verdict::Stopped(doubt) => {
                let advice = "nothing is taken out of the log until HistoryService/ConfirmClock";
                if !was_stopped {
                    tracing::error!(reason = %doubt, "retention has stopped: {advice}");
                }
                self.readiness.note(PART, format!("{doubt}; {advice}"));
                self.metrics.stopped.set(1);
            }
            Verdict::KeepAll | Verdict::Compact { .. } => {
                if was_stopped {
                    tracing::info!("the clock is trusted again: retention goes on");
                }
                self.readiness.clear_note(PART);
                self.metrics.stopped.set(0);
            }
        }
    }
}

fn clocks(state: &LogState, wall: Timestamp) -> Clocks {
    Clocks {
        wall,
        seen: state.clock_seen,
        newest: state.newest_time,
        accepted: state.clock_accepted,
    }
}

#[cfg(test)]
mod tests;
