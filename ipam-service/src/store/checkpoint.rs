//! Moving the log into the database file, beside the writer.
//!
//! A checkpoint writes and syncs for many milliseconds; run by the writer it would make every
//! caller wait. Here it is passive: it never waits for the writer, nor the writer for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::open::checkpoint_options;
use super::write::is_storage_failure;

/// How often the log's size is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Size from which a checkpoint is worth its syncs, in bytes. SQLite's own default.
const WORTH_IT: u64 = 1000 * 4096;

/// What the writer and the checkpoints have to say to one another. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// Held while a checkpoint runs, and while checkpoints rest. The connection is to the file that
    /// had the database's name last.
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    /// A checkpoint met an error of the disk.
    disk_failed: Arc<AtomicBool>,
    /// Grows when another file takes the database's name.
    generation: Arc<AtomicU64>,
}

/// While it lives no checkpoint runs.
pub(super) type Paused = OwnedMutexGuard<Option<SqliteConnection>>;

impl Gate {
    /// Waits for the checkpoint that runs, and keeps others from beginning.
    pub(super) async fn pause(&self) -> Paused {
        Arc::clone(&self.connection).lock_owned().await
    }

    /// Whether a checkpoint met an error of the disk since the file is what it is.
    pub(super) fn disk_failed(&self) -> bool {
        self.disk_failed.load(Ordering::Acquire)
    }

    /// Which file has the database's name.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Another file has the database's name.
    pub(super) fn renewed(&self, paused: &mut Paused) {
        **paused = None;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.disk_failed.store(false, Ordering::Release);
    }
}

/// Runs checkpoints until it is dropped.
#[derive(Debug, Clone)]
pub struct Checkpointer {
    database: PathBuf,
    gate: Gate,
}

impl Checkpointer {
    pub(super) fn new(database: &Path, gate: Gate) -> Self {
        Self {
            database: database.to_owned(),
            gate,
        }
    }

    /// Never returns, and may be dropped at any time: a checkpoint that is cut short is repeated.
    /// Without checkpoints the log grows until the writer itself does one. An error of the disk ends
    /// writing, as one that the writer meets itself.
    pub async fn run(self) {
        let mut wal = self.database.clone().into_os_string();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let mut timer = tokio::time::interval(PERIOD);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let size = std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
            if size < WORTH_IT || self.gate.disk_failed() {
                continue;
            }
            if let Err(error) = self.checkpoint().await {
                tracing::warn!(%error, "a checkpoint of the database failed");
                let code = error
                    .as_database_error()
                    .and_then(|error| error.code()?.parse().ok());
                if code.is_some_and(is_storage_failure) {
                    self.gate.disk_failed.store(true, Ordering::Release);
                }
            }
        }
    }

    async fn checkpoint(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.gate.pause().await;
        let mut open = match connection.take() {
            Some(open) => open,
            None => checkpoint_options(&self.database).connect().await?,
        };
        let done = sqlx::query("pragma wal_checkpoint(passive)")
            .execute(&mut open)
            .await;
        *connection = Some(open);
        done.map(drop)
    }
}
