//! The `SyncFacts` streams: reads what adapters say, and hands what follows to the writer.
//!
//! Each stream has a task of its own, because the others must take over when it breaks, whatever
//! becomes of the call. The task ends with its stream, or when the server stops; it holds a handle
//! of the engine, for whose end the server waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use pharos_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::Instrument as _;

use super::sessions::{SessionId, Sessions};
use crate::api::call::Api;
use crate::api::convert_announce::{FactsHello, Said, said_from_wire};
use crate::api::status;
use crate::engine::{Meta, SubmitError};
use crate::feed::assignments::Ended;
use crate::state::command::{Command, Fact};
use crate::state::names::Name;

/// Most messages that become one command: a first listing of a large cluster arrives at once, and
/// this many facts are decided in a few milliseconds.
const MAX_TOGETHER: usize = 1024;

/// All open streams. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct FactStreams {
    api: Api,
    clusters: Arc<Mutex<HashMap<Name, Arc<Cluster>>>>,
}

/// The streams of one cluster.
#[derive(Debug)]
struct Cluster {
    /// Held until what follows from a message is committed, so that facts reach the writer in the
    /// order in which the sessions were changed.
    talk: tokio::sync::Mutex<Talk>,
}

#[derive(Debug)]
struct Talk {
    sessions: Sessions,
    /// Ends all streams. What could not be stored has to be said again, by all of them.
    start_again: CancellationToken,
}

/// One stream.
struct Session {
    streams: FactStreams,
    cluster: Arc<Cluster>,
    name: Name,
    id: SessionId,
    /// Who reports, and under which request id.
    meta: Meta,
    start_again: CancellationToken,
    /// The cluster is gone, and with it what this stream has said.
    deleted: CancellationToken,
}

/// Why a session ended.
enum End {
    /// The adapter said so.
    Closed,
    /// It broke, or has to end.
    Failed(Status),
}

impl FactStreams {
    pub(super) fn new(api: Api) -> Self {
        Self {
            api,
            clusters: Arc::default(),
        }
    }

    /// Follows a stream whose hello has been read, to its end.
    pub(super) async fn follow(
        &self,
        hello: FactsHello,
        meta: Meta,
        messages: Streaming<v1::SyncFactsRequest>,
    ) -> Result<(), Status> {
        let cluster = self.cluster(&hello.cluster);
        let deleted = self.api.feeds.assignments.deletion(&hello.cluster);
        let session = {
            let mut talk = cluster.talk.lock().await;
            Session {
                streams: self.clone(),
                cluster: Arc::clone(&cluster),
                name: hello.cluster,
                id: talk.sessions.open(),
                meta,
                start_again: talk.start_again.clone(),
                deleted,
            }
        };
        tracing::info!(cluster = %session.name, session = %hello.session, "facts are reported");
        let run = session.run(messages, hello.session);
        let end = tokio::spawn(run.in_current_span()).await;
        match end {
            Ok(End::Closed) => Ok(()),
            Ok(End::Failed(status)) => Err(status),
            Err(error) => {
                tracing::error!(%error, "a stream of facts failed");
                Err(status::plain(
                    Code::Internal,
                    "STREAM_FAILED",
                    "the stream failed",
                ))
            }
        }
    }

    fn cluster(&self, name: &Name) -> Arc<Cluster> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = clusters.entry(name.clone()).or_insert_with(|| {
            Arc::new(Cluster {
                talk: tokio::sync::Mutex::new(Talk {
                    sessions: Sessions::new(name.clone()),
                    start_again: CancellationToken::new(),
                }),
            })
        });
        Arc::clone(cluster)
    }
}

impl Session {
    async fn run(self, mut messages: Streaming<v1::SyncFactsRequest>, replica: String) -> End {
        let end = self.listen(&mut messages).await;
        match &end {
            End::Closed => tracing::info!(cluster = %self.name, session = %replica, "facts end"),
            End::Failed(status) => {
                let message = status.message();
                tracing::info!(cluster = %self.name, session = %replica, message, "facts end");
            }
        }
        self.close().await;
        end
    }

    async fn listen(&self, messages: &mut Streaming<v1::SyncFactsRequest>) -> End {
        let shutdown = &self.streams.api.shutdown;
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.stopping() => {
                    return failed(status::unavailable("STOPPING", "the server is stopping"));
                }
                () = self.deleted.cancelled() => {
                    let end = Ended::ClusterDeleted;
                    return failed(status::unavailable("CLUSTER_DELETED", end.to_string()));
                }
                () = self.start_again.cancelled() => {
                    let message = "facts could not be stored; report them again";
                    return failed(status::unavailable("FACTS_LOST", message));
                }
                message = messages.message() => message,
            };
            let (waiting, end) = self.collect(first, messages);
            if let Err(status) = self.take_in(waiting).await {
                return failed(status);
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// The first message and all that wait behind it; and the end of the stream, if it is there.
    fn collect(
        &self,
        first: Result<Option<v1::SyncFactsRequest>, Status>,
        messages: &mut Streaming<v1::SyncFactsRequest>,
    ) -> (Vec<Said>, Option<End>) {
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return (waiting, Some(End::Closed)),
                Err(status) => return (waiting, Some(failed(status))),
            };
            match said_from_wire(&self.name, &message) {
                Ok(said) => waiting.push(said),
                Err(bad) => return (waiting, Some(failed(status::of_rejection(&bad)))),
            }
            next = match waiting.len() {
                MAX_TOGETHER.. => None,
                _ => messages.message().now_or_never(),
            };
        }
        (waiting, None)
    }

    async fn take_in(&self, waiting: Vec<Said>) -> Result<(), Status> {
        let mut talk = self.cluster.talk.lock().await;
        let facts = waiting
            .into_iter()
            .flat_map(|said| talk.sessions.say(self.id, said))
            .collect();
        let submitted = self.submit(facts).await;
        submitted.map_err(|error| {
            talk.restart();
            status::of_submit(&error)
        })
    }

    /// Gives the word to the others, unless what they have said counts no more.
    async fn close(&self) {
        let mut talk = self.cluster.talk.lock().await;
        let facts = talk.sessions.close(self.id);
        if self.streams.api.shutdown.is_stopping() || self.deleted.is_cancelled() {
            return;
        }
        if let Err(error) = self.submit(facts).await {
            tracing::warn!(cluster = %self.name, %error, "facts could not be stored");
            talk.restart();
        }
    }

    async fn submit(&self, facts: Vec<Fact>) -> Result<(), SubmitError> {
        if facts.is_empty() {
            return Ok(());
        }
        let command = Command::Facts {
            cluster: self.name.clone(),
            facts,
        };
        let meta = self.meta.clone();
        self.streams.api.engine.submit(command, meta).await?;
        Ok(())
    }
}

impl Talk {
    /// Ends all streams that are open now.
    fn restart(&mut self) {
        self.start_again.cancel();
        self.start_again = CancellationToken::new();
    }
}

fn failed(status: Status) -> End {
    End::Failed(status)
}
