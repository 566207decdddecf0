//! Moving the log into the database file, beside the writer.
//!
//! A checkpoint writes and syncs for many milliseconds; run by the writer it would make every
//! caller wait. Here it is passive: it never waits for the writer, nor the writer for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::CommitError;
use super::sqlite::{checkpoint_options, code_of};
use super::write::is_storage_failure;

/// How often the log's size is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Size from which a checkpoint is worth its syncs, in bytes. SQLite's own default.
const WORTH_IT: u64 = 1000 * 4096;

/// What those who write to the file have to say to one another. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// Held while a checkpoint runs, and while checkpoints rest. The connection is to the file that
    /// had the database's name last.
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    /// Somebody met an error of the disk, or found the file to be another writer's.
    distrusted: watch::Sender<bool>,
}

/// While it lives no checkpoint runs.
pub(super) type Paused = OwnedMutexGuard<Option<SqliteConnection>>;

impl Gate {
    /// Waits for the checkpoint that runs, and keeps others from beginning.
    pub(super) async fn pause(&self) -> Paused {
        Arc::clone(&self.connection).lock_owned().await
    }

    /// Nobody may write to the file any more, until another has its name.
    pub(super) fn distrust(&self) {
        self.distrusted.send_replace(true);
    }

    /// What an error says about the file.
    pub(super) fn heed(&self, error: &CommitError) {
        match error {
            CommitError::Unknown(_) | CommitError::Deposed => self.distrust(),
            CommitError::Refused(_) | CommitError::Full | CommitError::NotWritten(_) => {}
        }
    }

    pub(super) fn is_distrusted(&self) -> bool {
        *self.distrusted.borrow()
    }

    /// Waits until the file is not to be trusted. Cancel safe.
    pub(super) async fn distrusted(&self) {
        let mut seen = self.distrusted.subscribe();
        seen.wait_for(|distrusted| *distrusted)
            .await
            .expect("this gate has a sender");
    }

    /// Another file has the database's name.
    pub(super) fn renewed(&self, paused: &mut Paused) {
        **paused = None;
        self.distrusted.send_replace(false);
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
            if size < WORTH_IT || self.gate.is_distrusted() {
                continue;
            }
            if let Err(error) = self.checkpoint().await {
                tracing::warn!(%error, "a checkpoint of the database failed");
                if code_of(&error).is_some_and(is_storage_failure) {
                    self.gate.distrust();
                }
            }
        }
    }

    pub(super) async fn checkpoint(&self) -> Result<(), sqlx::Error> {
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
