//! After an error of the disk: nothing is written any more until the store has a fresh copy that is
//! on disk and holds what this process knows. Reads go on meanwhile.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;

use super::batch::{refresh, undo};
use super::fair::Turns;
use super::task::{BATCH, EngineTask};
use super::{Request, SubmitError};
use crate::state::State;
use crate::state::announce::Owners;
use crate::store::{Batch, Loaded, RenewError};

/// Between the first two attempts; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two attempts: a copy of a large database is work, and a disk that stays
/// broken needs a person.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Writing has stopped.
#[derive(Debug)]
pub(super) struct Stopped {
    /// One line, for callers and `/readyz`.
    pub(super) reason: String,
    /// The batch whose outcome nobody knows: the copy holds all of it, or nothing.
    pub(super) in_doubt: Option<Batch>,
    /// Whether a fresh copy can cure it.
    pub(super) curable: bool,
}

/// What a fresh copy holds, compared with the state.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    AsKnown,
    /// The batch in doubt as well.
    WithTheBatchInDoubt,
    Other(String),
}

impl EngineTask {
    /// Tries until writing goes on, or the process stops, or it turns out to be hopeless.
    pub(super) async fn renew(&mut self) {
        let mut pause = FIRST_PAUSE;
        while self.is_curable() && !self.parts.stop.is_stopping() && !self.queue.is_closed() {
            match self.attempt().await {
                Ok(true) => return,
                // The process is stopping, nobody is there any more, or the copy holds something else.
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "no fresh copy of the database yet");
                    self.refuse_writes(format!("writing has stopped: {error}"));
                    self.read_only(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn is_curable(&self) -> bool {
        self.stopped.as_ref().is_some_and(|stopped| stopped.curable)
    }

    /// One copy; true: writing goes on with it.
    async fn attempt(&mut self) -> Result<bool, RenewError> {
        let loaded = {
            let reason = self.stopped.as_ref().map_or("", |stopped| &stopped.reason);
            let mut reads = Reads {
                state: &self.parts.state,
                queue: &mut self.queue,
                waiting: &mut self.waiting,
                reason,
            };
            let mut copying = pin!(self.parts.writer.copy_afresh());
            loop {
                tokio::select! {
                    loaded = &mut copying => break loaded?,
                    () = self.parts.stop.stopping() => return Ok(false),
                    more = reads.serve() => if !more {
                        return Ok(false);
                    }
                }
            }
        };
        let stopped = self.stopped.take();
        let in_doubt = stopped.and_then(|stopped| stopped.in_doubt);
        let (verdict, loaded, in_doubt) = self.compare(loaded, in_doubt).await;
        if let Verdict::Other(difference) = &verdict {
            tracing::error!(
                difference,
                "the database does not hold what was acknowledged"
            );
            self.stop(Stopped {
                reason: format!(
                    "writing has stopped: the database does not hold what was acknowledged \
                     ({difference}); restore a backup, or restart ipam-service to go on with \
                     what is there"
                ),
                in_doubt: None,
                curable: false,
            });
            return Ok(false);
        }
        let adopted = self.parts.writer.adopt_copy(&loaded).await;
        if let Err(error) = adopted {
            // The copy stays a copy; the next attempt makes another.
            self.stop(Stopped {
                reason: format!("writing has stopped: {error}"),
                in_doubt,
                curable: true,
            });
            return Err(error);
        }
        if let (Verdict::WithTheBatchInDoubt, Some(batch)) = (verdict, in_doubt) {
            self.take_in(&batch);
        }
        self.parts.readiness.ready("store");
        self.parts.metrics.renewed();
        self.more_follow_ups = true;
        tracing::warn!("writing goes on, with a fresh copy of the database");
        Ok(true)
    }

    /// Holds the copy against the state, on a thread that may block: a large store takes seconds. Reads
    /// wait meanwhile, calls and streams that need no state do not.
    async fn compare(
        &mut self,
        loaded: Loaded,
        in_doubt: Option<Batch>,
    ) -> (Verdict, Loaded, Option<Batch>) {
        let parts = &mut self.parts;
        let mut state = std::mem::take(&mut parts.state);
        for change in parts.owed.iter().rev() {
            state.undo(change);
        }
        let compared = tokio::task::spawn_blocking(move || {
            let verdict = compare(&mut state, &loaded, in_doubt.as_ref());
            (state, (verdict, loaded, in_doubt))
        });
        let compared = compared.await.expect("comparing does not panic");
        parts.state = compared.0;
        for change in &parts.owed {
            parts.state.apply(change);
        }
        compared.1
    }

    /// Writing stops, for this reason.
    pub(super) fn stop(&mut self, stopped: Stopped) {
        self.parts
            .readiness
            .not_ready("store", stopped.reason.clone());
        self.parts.metrics.stopped();
        if !stopped.curable {
            self.parts.leases.close();
        }
        self.stopped = Some(stopped);
    }

    fn refuse_writes(&mut self, reason: String) {
        self.parts.readiness.not_ready("store", reason.clone());
        if let Some(stopped) = &mut self.stopped {
            stopped.reason = reason;
        }
    }

    /// Answers reads, and refuses the rest.
    async fn read_only(&mut self, period: Duration) {
        let mut over = pin!(tokio::time::sleep(period));
        let reason = self.stopped.as_ref().map_or("", |stopped| &stopped.reason);
        let mut reads = Reads {
            state: &self.parts.state,
            queue: &mut self.queue,
            waiting: &mut self.waiting,
            reason,
        };
        loop {
            tokio::select! {
                () = &mut over => return,
                () = self.parts.stop.stopping() => return,
                more = reads.serve() => if !more {
                    return;
                }
            }
        }
    }

    /// A batch that was taken back turns out to be on disk: it is so again, for everybody.
    fn take_in(&mut self, batch: &Batch) {
        let parts = &mut self.parts;
        for change in std::mem::take(&mut parts.owed).iter().rev() {
            parts.state.undo(change);
        }
        for logged in &batch.changes {
            parts.state.apply(&logged.change);
        }
        // What is published here is not stored yet, so nobody is named now.
        let mut refresh = refresh(
            &mut parts.state,
            &mut parts.announcements,
            &batch.changes,
            Owners::AsStored,
        );
        parts.state.touch_leases();
        parts.owed = std::mem::take(&mut refresh.choices);
        parts.metrics.committed(batch, 0, 0.0);
        self.publish(batch, &refresh.deltas);
    }
}

/// Holds the copy against a state from which what is owed to the database was taken back.
fn compare(state: &mut State, loaded: &Loaded, in_doubt: Option<&Batch>) -> Verdict {
    let Some(other) = difference(state, loaded) else {
        return Verdict::AsKnown;
    };
    let Some(batch) = in_doubt else {
        return Verdict::Other(other);
    };
    for logged in &batch.changes {
        state.apply(&logged.change);
    }
    let is_same = difference(state, loaded).is_none();
    undo(state, batch);
    match is_same {
        true => Verdict::WithTheBatchInDoubt,
        false => Verdict::Other(other),
    }
}

/// The first thing in which they differ.
fn difference(state: &State, loaded: &Loaded) -> Option<String> {
    if state.revision() != loaded.revision {
        return Some(format!(
            "it is at revision {}, and {} was acknowledged",
            loaded.revision,
            state.revision()
        ));
    }
    state.difference(&loaded.rows)
}

/// What can be answered without a disk.
struct Reads<'a> {
    state: &'a State,
    queue: &'a mut mpsc::Receiver<Request>,
    waiting: &'a mut Turns<Request>,
    reason: &'a str,
}

impl Reads<'_> {
    /// Answers what waits, then what comes next; false when nothing can come any more. Cancel safe.
    async fn serve(&mut self) -> bool {
        let waiting = self.waiting.take(BATCH);
        if !waiting.is_empty() {
            self.answer(waiting);
            return true;
        }
        let next = self.queue.recv().await;
        let more = next.is_some();
        self.answer(next.into_iter().collect());
        more
    }

    fn answer(&self, requests: Vec<Request>) {
        for request in requests {
            match request {
                Request::Command(command) => {
                    command.answer(Err(SubmitError::Unavailable(self.reason.to_owned())));
                }
                Request::Read(read) => read(self.state),
                // Dropped, it tells its caller that it was not done.
                Request::Between(_) => {}
            }
        }
    }
}
