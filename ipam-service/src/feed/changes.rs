//! WatchChanges: every decision after a revision, in order, without a gap and without repetition.
//!
//! A watcher has no task and no queue of its own. It pulls: the log first, then what is committed.
//! A change is encoded once for all who watch. One that falls behind goes back to the log, however
//! far it is, so a slow client costs no memory; one whose place in the log was compacted ends with
//! a reason.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pharos_proto::v1;
use pharos_proto::v1::watch_changes_response::Type;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::broadcast;
use tokio::time::Instant;
use tonic::Status;

use super::allocations::Source;
use super::{BOOKMARK, LIVE_BATCHES, PAGE};
use crate::api::convert_history::{LogContext, change_to_wire};
use crate::api::status;
use crate::state::model::{Revision, Timestamp};
use crate::store::{Batch, LogFilter, Logged};

/// The live feed. Clones share it.
#[derive(Debug, Clone)]
pub struct ChangeFeed {
    sender: broadcast::Sender<Arc<Published>>,
}

/// A committed batch.
#[derive(Debug)]
struct Published {
    time: Timestamp,
    /// Of its first decision, and of the store after it.
    first: Revision,
    last: Revision,
    decisions: Vec<Decision>,
}

#[derive(Debug)]
struct Decision {
    revision: Revision,
    logged: Logged,
    /// Made by the first watcher that wants it.
    frame: OnceLock<Bytes>,
}

impl Default for ChangeFeed {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(LIVE_BATCHES),
        }
    }
}

impl ChangeFeed {
    /// Shows a committed batch to all watchers. Never waits, and encodes nothing.
    pub fn publish(&self, batch: &Batch) {
        let Some(last) = batch.last_revision() else {
            return;
        };
        if self.sender.receiver_count() == 0 {
            return;
        }
        let decision = |logged: &Logged| {
            Some(Decision {
                revision: logged.revision?,
                logged: logged.clone(),
                frame: OnceLock::new(),
            })
        };
        let decisions: Vec<Decision> = batch.changes.iter().filter_map(decision).collect();
        let published = Published {
            time: batch.time,
            first: decisions.first().map_or(last, |decision| decision.revision),
            last,
            decisions,
        };
        // Fails when the last watcher has just left.
        let _ = self.sender.send(Arc::new(published));
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.sender.receiver_count()
    }

    /// A watcher of what the filter wants, after the revision `after`.
    pub fn watch(&self, source: Source, filter: LogFilter, after: Revision) -> ChangeWatcher {
        ChangeWatcher {
            live: self.sender.subscribe(),
            source,
            filter,
            ready: VecDeque::new(),
            position: after,
            phase: Phase::Begin,
            bookmark_at: Instant::now() + BOOKMARK,
        }
    }
}

/// One watcher.
#[derive(Debug)]
pub struct ChangeWatcher {
    live: broadcast::Receiver<Arc<Published>>,
    source: Source,
    filter: LogFilter,
    ready: VecDeque<Bytes>,
    /// Everything up to here is in `ready`, has been handed out, or is not wanted.
    position: Revision,
    phase: Phase,
    bookmark_at: Instant,
}

/// Where a watcher reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing yet: a bookmark says where it begins.
    Begin,
    Log,
    Live,
}

impl ChangeWatcher {
    /// The next response, encoded; the stream ends with an error only. Cancel safe.
    pub async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            if self.source.shutdown.is_stopping() {
                return Err(status::unavailable("STOPPING", "the server is stopping"));
            }
            if self.bookmark_at <= Instant::now() {
                return Ok(self.bookmark());
            }
            self.advance().await?;
        }
    }

    /// One step. Nothing is changed before its only await has returned.
    async fn advance(&mut self) -> Result<(), Status> {
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::Log;
                let bookmark = self.bookmark();
                self.ready.push_back(bookmark);
            }
            Phase::Log => {
                let reader = &self.source.reader;
                let part = reader.log_part(self.position, &self.filter, PAGE).await;
                let part = part.map_err(|error| status::of_log(&error, &self.source.store_id))?;
                let frames = part.entries.iter();
                self.ready
                    .extend(frames.map(|(revision, entry)| change_frame(*revision, entry)));
                self.position = part.up_to;
                if part.up_to >= part.newest {
                    self.phase = Phase::Live;
                }
            }
            Phase::Live => self.follow().await?,
        }
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), Status> {
        tokio::select! {
            received = self.live.recv() => match received {
                Ok(published) => self.take(&published),
                Err(broadcast::error::RecvError::Lagged(_)) => self.phase = Phase::Log,
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(status::unavailable("STOPPING", "the server is stopping"));
                }
            },
            () = tokio::time::sleep_until(self.bookmark_at) => {}
            () = self.source.shutdown.stopping() => {}
        }
        Ok(())
    }

    fn take(&mut self, published: &Published) {
        if published.last <= self.position {
            return;
        }
        if published.first > self.position + 1 {
            // Whatever lies between, the log has it.
            self.phase = Phase::Log;
            return;
        }
        let position = self.position;
        let wanted = published.decisions.iter().filter(|decision| {
            decision.revision > position && self.filter.matches(&decision.logged.change)
        });
        self.ready
            .extend(wanted.map(|decision| decision.frame(published.time)));
        self.position = published.last;
    }

    fn bookmark(&mut self) -> Bytes {
        self.bookmark_at = Instant::now() + BOOKMARK;
        let response = v1::WatchChangesResponse {
            r#type: Type::Bookmark.into(),
            change: None,
            revision: self.position,
            store_id: self.source.store_id.to_string(),
        };
        response.encode_to_vec().into()
    }
}

impl Decision {
    fn frame(&self, time: Timestamp) -> Bytes {
        let frame = self.frame.get_or_init(|| {
            let context = LogContext {
                revision: self.revision,
                time,
                actor: &self.logged.origin.actor,
                request_id: &self.logged.origin.request_id,
            };
            let entry = change_to_wire(context, &self.logged.change)
                .expect("what has a revision is a decision");
            change_frame(self.revision, &entry.encode_to_vec())
        });
        frame.clone()
    }
}

/// A `WatchChangesResponse` around a `Change` that is encoded already.
fn change_frame(revision: Revision, entry: &[u8]) -> Bytes {
    let head = v1::WatchChangesResponse {
        r#type: Type::Change.into(),
        change: None,
        revision,
        store_id: String::new(),
    };
    let mut frame = Vec::with_capacity(head.encoded_len() + entry.len() + 6);
    head.encode_raw(&mut frame);
    // Field 2, `change`. The order of fields means nothing to a reader.
    encode_key(2, WireType::LengthDelimited, &mut frame);
    encode_varint(u64::try_from(entry.len()).expect("64 bits fit"), &mut frame);
    frame.extend_from_slice(entry);
    frame.into()
}

#[cfg(test)]
mod tests;
