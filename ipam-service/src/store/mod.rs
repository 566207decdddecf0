//! The only place that speaks SQL.
//!
//! - [`Store::open`] finds or makes the database and takes its lock.
//! - [`Writer`] belongs to the engine: it loads the state and commits batches.
//! - [`Reader`] reads committed rows: lists, history, logs. Clones share their connections.
//! - [`backup`], [`restore`] and [`check`] are the subcommands of those names.
//!
//! Nothing above this module knows which engine is below.

mod backup;
mod check;
mod checkpoint;
mod compact;
mod encoded;
mod facts;
mod failures;
mod files;
mod fill;
mod history;
mod holdings;
mod inspect;
mod load;
mod lock;
mod open;
mod open_error;
mod plan;
mod read;
mod renew;
mod restore;
mod rows;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod spoiled;
mod sql;
mod sqlite;
mod step;
mod transfer;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::state::change::Change;
use crate::state::model::{Revision, Timestamp};
use crate::state::names::Name;

pub use backup::{Backup, BackupError, Beside, backup, export};
pub use check::{CheckError, MOST_PROBLEMS, check};
pub use checkpoint::Checkpointer;
pub use compact::{Compaction, Compactor, LogState};
pub use failures::ReadFailure;
pub use history::{
    ChangeFilter, ChangePage, HoldingFilter, Kind, LogError, LogFilter, LogPart, LogSpan,
    OwnerFilter,
};
pub use load::Loaded;
pub use open::{Location, LocationError, Missing, Store};
pub use open_error::OpenError;
pub use read::{AllocationFilter, Page, ReadError, Reader};
pub use renew::RenewError;
pub use restore::{From, Restore, RestoreError, Restored, expected_cluster, restore};
pub use transfer::{ExportError, Exported, ImportError};
pub use write::{CommitError, Writer};

/// What one transaction writes: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Log time of its decisions; never lower than that of the batch before.
    pub time: Timestamp,
    /// In order. The decisions among them carry consecutive revisions.
    pub changes: Vec<Logged>,
    /// When clusters were last heard of: a fact, and no part of the state.
    pub seen: Vec<(Name, Timestamp)>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.seen.is_empty()
    }

    /// Revision after the batch; `None` if it holds facts only.
    pub fn last_revision(&self) -> Option<Revision> {
        self.changes.iter().rev().find_map(|logged| logged.revision)
    }
}

/// A change and where it came from.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Of a decision; `None` for a fact.
    pub revision: Option<Revision>,
    pub change: Change,
    pub origin: Arc<Origin>,
}

/// Who caused a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    pub actor: String,
    pub request_id: String,
}
