//! From an open store to a writer that has everything it works with.

use pharos_process::{Readiness, Shutdown};
use tokio::time::Instant;

use super::leases::LeaseBook;
use super::task::{EngineParts, EngineTask, start};
use super::{Engine, EngineMetrics};
use crate::feed::Feeds;
use crate::feed::allocations::AllocationFeed;
use crate::feed::assignments::AssignmentFeed;
use crate::feed::changes::ChangeFeed;
use crate::feed::status::StatusFeed;
use crate::state::announce::Announcements;
use crate::state::model::Revision;
use crate::store::{Checkpointer, Compactor, ReadError, Reader, Store};

/// A store that can be served: it is loaded, and `task` only has to run.
pub struct Opened {
    pub engine: Engine,
    pub task: EngineTask,
    /// What the writer publishes to.
    pub feeds: Feeds,
    pub reader: Reader,
    pub checkpointer: Checkpointer,
    pub compactor: Compactor,
    /// Who may answer for fenced addresses.
    pub leases: LeaseBook,
    pub store_id: String,
    /// Whether the database is new.
    pub created: bool,
    /// Of the newest decision.
    pub revision: Revision,
    /// Term of the writer.
    pub epoch: u64,
}

/// Loads a store. When `stop` fires, the writer serves what is in its queue, takes no more, and ends.
pub async fn open(
    store: Store,
    metrics: EngineMetrics,
    readiness: Readiness,
    stop: Shutdown,
) -> Result<Opened, ReadError> {
    let Store {
        mut writer,
        reader,
        checkpointer,
        compactor,
        store_id,
        created,
    } = store;
    let (mut state, loaded) = writer.load_state().await?;
    let epoch = writer.epoch();
    let leases = LeaseBook::new(state.begin_leases());
    let (announcements, owed) = Announcements::rebuild(&state);
    for change in &owed {
        state.apply(change);
    }
    let feeds = Feeds {
        allocations: AllocationFeed::default(),
        changes: ChangeFeed::default(),
        assignments: AssignmentFeed::new(store_id.clone(), &announcements.everything()),
        status: StatusFeed::new(Instant::now()),
    };
    let (engine, task) = start(EngineParts {
        state,
        announcements,
        owed,
        last_time: loaded.last_time,
        seen: loaded.seen,
        interner: loaded.interner,
        writer,
        feeds: feeds.clone(),
        leases: leases.clone(),
        metrics,
        readiness,
        stop,
    });
    Ok(Opened {
        engine,
        task,
        feeds,
        reader,
        checkpointer,
        compactor,
        leases,
        store_id,
        created,
        revision: loaded.revision,
        epoch,
    })
}
