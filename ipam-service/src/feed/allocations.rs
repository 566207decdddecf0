//! WatchAllocations: a snapshot out of the database, then what was committed since.
//!
//! A watcher has no task and no queue of its own. It pulls: pages of rows, then the log, then the
//! live feed. One that falls behind the live feed goes back to the log, however far it is.

use std::collections::VecDeque;
use std::sync::Arc;

use pharos_process::Shutdown;
use pharos_proto::v1;
use pharos_proto::v1::watch_allocations_response::Type;
use prost::Message as _;
use tokio::sync::broadcast;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::Status;

use super::{BOOKMARK, LIVE_BATCHES, PAGE};
use crate::api::convert::allocation_to_wire;
use crate::api::status;
use crate::state::change::{Change, Edit};
use crate::state::model::{Allocation, Revision};
use crate::state::names::Name;
use crate::store::{AllocationFilter, Batch, LogFilter, ReadError, Reader};

/// The live feed. Clones share it.
#[derive(Debug, Clone)]
pub struct AllocationFeed {
    sender: broadcast::Sender<Arc<Published>>,
}

/// A committed batch, as watchers need it.
#[derive(Debug)]
struct Published {
    /// Of the store after the batch.
    revision: Revision,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Event {
    cluster: Name,
    response: v1::WatchAllocationsResponse,
}

impl Default for AllocationFeed {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(LIVE_BATCHES),
        }
    }
}

impl AllocationFeed {
    /// Shows a committed batch to all watchers. Never waits.
    pub fn publish(&self, batch: &Batch) {
        let Some(revision) = batch.last_revision() else {
            return;
        };
        if self.sender.receiver_count() == 0 {
            return;
        }
        let events = batch
            .changes
            .iter()
            .filter_map(|logged| event_of(&logged.change, logged.revision?))
            .collect();
        // Fails when the last watcher has just left.
        let _ = self.sender.send(Arc::new(Published { revision, events }));
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.sender.receiver_count()
    }

    /// A watcher of `cluster` (of all if empty) that starts after `from`, or with a snapshot.
    pub fn watch(&self, source: Source, cluster: String, from: Option<Revision>) -> Watcher {
        let first = tokio::time::Instant::now() + BOOKMARK;
        let mut bookmark = tokio::time::interval_at(first, BOOKMARK);
        bookmark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watcher {
            live: self.sender.subscribe(),
            source,
            cluster,
            ready: VecDeque::new(),
            position: from.unwrap_or(0),
            phase: match from {
                None => Phase::Snapshot { after: None },
                Some(_) => Phase::CatchUp { synced: false },
            },
            bookmark,
        }
    }
}

fn event_of(change: &Change, revision: Revision) -> Option<Event> {
    let Change::Allocation(edit) = change else {
        return None;
    };
    Some(Event {
        cluster: edit.subject().owner.key.cluster.clone(),
        response: response_of(edit, revision),
    })
}

fn response_of(edit: &Edit<Allocation>, revision: Revision) -> v1::WatchAllocationsResponse {
    let kind = match edit.after {
        Some(_) => Type::Allocation,
        None => Type::Released,
    };
    v1::WatchAllocationsResponse {
        r#type: kind.into(),
        allocation: Some(allocation_to_wire(edit.subject())),
        revision,
        store_id: String::new(),
    }
}

/// Where watchers read what is not live.
#[derive(Debug, Clone)]
pub struct Source {
    pub reader: Reader,
    pub store_id: Arc<str>,
    pub shutdown: Shutdown,
}

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    live: broadcast::Receiver<Arc<Published>>,
    source: Source,
    cluster: String,
    ready: VecDeque<v1::WatchAllocationsResponse>,
    /// Everything up to here is in `ready` or has been handed out. While the snapshot is read: the
    /// revision of its first page.
    position: Revision,
    phase: Phase,
    bookmark: Interval,
}

/// Where a watcher reads.
#[derive(Debug)]
enum Phase {
    /// Pages of rows, after an owner. Rows that changed since the first page are left out: the log
    /// brings them.
    Snapshot {
        after: Option<(String, String, String)>,
    },
    /// The log; `synced` once SYNCED was sent.
    CatchUp {
        synced: bool,
    },
    Live,
}

impl Watcher {
    /// The next response; the stream ends with an error only. Cancel safe.
    pub async fn next(&mut self) -> Result<v1::WatchAllocationsResponse, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(response);
            }
            if self.source.shutdown.is_stopping() {
                return Err(status::unavailable("STOPPING", "the server is stopping"));
            }
            self.advance().await?;
        }
    }

    /// One step. Nothing is changed before its only await has returned.
    async fn advance(&mut self) -> Result<(), Status> {
        let read_error = |error: ReadError| status::of_read(&error);
        match &self.phase {
            Phase::Snapshot { after } => {
                let filter = AllocationFilter {
                    cluster: self.cluster.clone(),
                    ..AllocationFilter::default()
                };
                let page = self
                    .source
                    .reader
                    .allocations(&filter, after.as_ref(), PAGE);
                let page = page.await.map_err(read_error)?;
                if after.is_none() {
                    self.position = page.revision;
                }
                let last = page.items.last().and_then(|item| item.owner.clone());
                self.phase = match last.filter(|_| page.more) {
                    Some(owner) => Phase::Snapshot {
                        after: Some((owner.cluster, owner.namespace, owner.name)),
                    },
                    None => Phase::CatchUp { synced: false },
                };
                let position = self.position;
                let rows = page
                    .items
                    .into_iter()
                    .filter(|item| item.revision <= position);
                self.ready
                    .extend(rows.map(|item| v1::WatchAllocationsResponse {
                        r#type: Type::Allocation.into(),
                        revision: item.revision,
                        allocation: Some(item),
                        store_id: String::new(),
                    }));
            }
            Phase::CatchUp { synced } => {
                let synced = *synced;
                let filter = LogFilter {
                    cluster: self.cluster.clone(),
                    allocations_only: true,
                    ..LogFilter::default()
                };
                let part = self.source.reader.log_part(self.position, &filter, PAGE);
                let part = part.await;
                let part = part.map_err(|error| status::of_log(&error, &self.source.store_id))?;
                let events: Result<Vec<_>, ReadError> = part.entries.iter().map(replayed).collect();
                self.ready
                    .extend(events.map_err(read_error)?.into_iter().flatten());
                self.position = part.up_to;
                if part.up_to >= part.newest {
                    if !synced {
                        self.ready.push_back(self.mark(Type::Synced));
                    }
                    self.phase = Phase::Live;
                } else {
                    self.phase = Phase::CatchUp { synced };
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
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.phase = Phase::CatchUp { synced: true };
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(status::unavailable("STOPPING", "the server is stopping"));
                }
            },
            _ = self.bookmark.tick() => {
                self.ready.push_back(self.mark(Type::Bookmark));
            }
            () = self.source.shutdown.stopping() => {}
        }
        Ok(())
    }

    fn take(&mut self, published: &Published) {
        if published.revision <= self.position {
            return;
        }
        let events = published.events.iter().filter(|event| {
            event.response.revision > self.position
                && (self.cluster.is_empty() || event.cluster.as_str() == self.cluster)
        });
        self.ready
            .extend(events.map(|event| event.response.clone()));
        self.position = published.revision;
    }

    fn mark(&self, kind: Type) -> v1::WatchAllocationsResponse {
        let synced = kind == Type::Synced;
        v1::WatchAllocationsResponse {
            r#type: kind.into(),
            allocation: None,
            revision: self.position,
            store_id: if synced {
                self.source.store_id.to_string()
            } else {
                String::new()
            },
        }
    }
}

/// A row of the log, as a live event has it.
fn replayed(
    (revision, entry): &(Revision, Vec<u8>),
) -> Result<Option<v1::WatchAllocationsResponse>, ReadError> {
    let change = v1::Change::decode(&entry[..])
        .map_err(|error| ReadError::Corrupt(format!("table change_log: {error}")))?;
    let Some(v1::change::Subject::Allocation(edit)) = change.subject else {
        return Ok(None);
    };
    let (kind, allocation) = match (edit.before, edit.after) {
        (_, Some(after)) => (Type::Allocation, after),
        (Some(before), None) => (Type::Released, before),
        (None, None) => return Ok(None),
    };
    Ok(Some(v1::WatchAllocationsResponse {
        r#type: kind.into(),
        allocation: Some(allocation),
        revision: *revision,
        store_id: String::new(),
    }))
}

#[cfg(test)]
mod tests;
