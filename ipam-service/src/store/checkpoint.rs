//! Moving the log into the database file, beside the writer.
//!
//! A checkpoint writes and syncs for many milliseconds; run by the writer it would make every
//! caller wait. Here it is passive: it never waits for the writer, nor the writer for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions as _;

use super::open::checkpoint_options;

/// How often the log's size is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Size from which a checkpoint is worth its syncs, in bytes. SQLite's own default.
const WORTH_IT: u64 = 1000 * 4096;

/// Runs checkpoints until it is dropped.
#[derive(Debug, Clone)]
pub struct Checkpointer {
    database: PathBuf,
}

impl Checkpointer {
    pub(super) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
        }
    }

    /// Never returns, and may be dropped at any time: a checkpoint that is cut short is repeated.
    /// Failures are logged; without checkpoints the log grows until the writer itself does one.
    pub async fn run(self) {
        let mut wal = self.database.clone().into_os_string();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let mut timer = tokio::time::interval(PERIOD);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            timer.tick().await;
            let size = std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
            if size < WORTH_IT {
                continue;
            }
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => checkpoint_options(&self.database).connect().await,
            };
            let outcome = match open {
                Ok(mut open) => {
                    let done = sqlx::query("pragma wal_checkpoint(passive)")
                        .execute(&mut open)
                        .await;
                    connection = Some(open);
                    done.map(|_| ())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "a checkpoint of the database failed");
            }
        }
    }
}
