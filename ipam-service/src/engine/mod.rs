//! The single writer: it collects requests, decides each against the state, writes all their
//! changes in one transaction, and only then answers and publishes.
//!
//! [`Engine`] is the handle that the API holds; [`EngineTask`] is the task behind it.
//!
//! Nothing decided in a batch leaves before the batch is on disk, not even the answer that nothing
//! changed: it may rest on a change of the same batch.

mod batch;
mod clock;
mod fair;
mod leases;
mod left;
mod metrics;
mod open;
mod renew;
mod seen;
mod task;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::instrument::Instrumented;

use crate::state::State;
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{Allocation, Revision};
use crate::state::refusal::Rejection;
use crate::store::CommitError;

pub use clock::wall_time;
pub use leases::{LeaseBook, NotRenewed};
pub use left::Left;
pub use metrics::EngineMetrics;
pub use open::{Opened, open};
pub use task::EngineTask;

/// Requests that wait for the writer. The server admits no more calls than this at once, so a
/// sender waits here only when streams write as well.
pub const QUEUE: usize = 1024;

/// What is known of a request beside its command.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// Who asks, for the log.
    pub actor: String,
    pub request_id: String,
    /// Decide and answer, but change nothing.
    pub validate_only: bool,
    /// After it nobody waits for the answer: the request is dropped undecided.
    pub deadline: Option<Instant>,
}

/// The answer to a command.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Of the store, after the command.
    pub revision: Revision,
    /// What the command changed, and what followed from it.
    pub changes: Vec<Change>,
    /// More is to be decided again than the batch could take on.
    pub unfinished: bool,
    /// Holders and claims of which that is certain.
    pub remaining: usize,
    /// State of the command's owner after the command.
    pub allocation: Option<Arc<Allocation>>,
    /// Records that the command names, after it.
    pub left: Left,
}

/// Why a command has no reply. In all cases but [`SubmitError::Unavailable`] nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Rejected(Box<Rejection>),
    /// The database refused what the rules allow: a defect. Logged.
    #[error("the database refuses this change; the operator finds the reason in the log")]
    Internal,
    /// The batch was not written, or nobody knows.
    #[error("the change could not be stored: {0}")]
    Unavailable(String),
    #[error("the change could not be stored: no space left on the device of the database")]
    StorageFull,
    #[error("the deadline passed before the request was decided; nothing was changed")]
    DeadlineExceeded,
    #[error("the server is stopping")]
    Stopping,
}

impl From<Rejection> for SubmitError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(Box::new(rejection))
    }
}

/// Handle of the writer. Clones share it; when the last one is gone the writer ends.
#[derive(Debug, Clone)]
pub struct Engine {
    queue: mpsc::Sender<Request>,
}

impl Engine {
    /// Hands a command to the writer and waits until its outcome is on disk.
    ///
    /// Cancel safe in this sense: a dropped call is not decided if the writer has not come to it
    /// yet; otherwise it takes effect.
    pub async fn submit(&self, command: Command, meta: Meta) -> Result<Reply, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let request = CommandRequest {
            command: Box::new(command),
            meta,
            reply,
        };
        self.queue
            .send(Request::Command(request))
            .await
            .map_err(|_| SubmitError::Stopping)?;
        answer.await.map_err(|_| SubmitError::Stopping)?
    }

    /// Reads the state, after every write that was answered before this call. Runs on the writer,
    /// between batches: keep it short.
    pub async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let read = Box::new(move |state: &State| {
            // A caller that is gone needs no answer.
            if !reply.is_closed() {
                let _ = reply.send(read(state));
            }
        });
        self.queue
            .send(Request::Read(read))
            .await
            .map_err(|_| SubmitError::Stopping)?;
        answer.await.map_err(|_| SubmitError::Stopping)
    }

    /// Runs a short piece of work on the database between two batches: SQLite has one writer at a
    /// time. Everybody waits meanwhile.
    ///
    /// Cancel safe in this sense: once handed over, the work is driven to its end.
    pub async fn between_batches<R: Send + 'static>(
        &self,
        work: impl Future<Output = Result<R, CommitError>> + Send + 'static,
    ) -> Result<R, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let work: BoxFuture<'static, _> = Box::pin(async move {
            let (outcome, ended) = match work.await {
                Ok(done) => (Ok(done), Ok(())),
                Err(error) => (Err(SubmitError::Unavailable(error.to_string())), Err(error)),
            };
            // A caller that is gone needs no answer.
            let _ = reply.send(outcome);
            ended
        });
        self.queue
            .send(Request::Between(work.in_current_span()))
            .await
            .map_err(|_| SubmitError::Stopping)?;
        answer.await.map_err(|_| SubmitError::Stopping)?
    }
}

/// Work on the database that may not meet a batch, in the span of who asked for it. `Err`: how it
/// failed.
type Interlude = Instrumented<BoxFuture<'static, Result<(), CommitError>>>;

/// What waits for the writer.
enum Request {
    Command(CommandRequest),
    Read(Box<dyn FnOnce(&State) + Send>),
    Between(Interlude),
}

/// A command, and who waits for its outcome.
struct CommandRequest {
    command: Box<Command>,
    meta: Meta,
    reply: oneshot::Sender<Result<Reply, SubmitError>>,
}

impl CommandRequest {
    /// Answers; a caller that is gone needs none.
    fn answer(self, outcome: Result<Reply, SubmitError>) {
        let _ = self.reply.send(outcome);
    }
}
