//! What every connection to SQLite has in common, and the numbers that SQLite and we tell one another.

use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};

/// `PRAGMA application_id` of our databases: "PHAR".
pub(super) const APPLICATION_ID: i32 = 0x5048_4152;

/// How long a statement waits for a lock of SQLite. Only backups and checkpoints take any.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Length of the log at which the writer copies it into the database file although nobody asked it to,
/// in frames of one page: 128 MiB. The [`Checkpointer`](super::Checkpointer) does so long before,
/// beside the writer.
pub(super) const WRITER_CHECKPOINT_FRAMES: u32 = 32_768;

/// Size that the log's file is cut to when it is begun anew after it was longer, in bytes.
pub(super) const LOG_LIMIT: u32 = WRITER_CHECKPOINT_FRAMES * (4096 + 24);

/// What a statement needs for itself (its journal, a sort) lies in memory: where the database is the only
/// thing that may be written, as in a container, there is no directory for temporary files.
pub(super) const TEMP_STORE: &str = "memory";

/// SQLite's result code (sqlite.org/rescode.html).
pub(super) fn code_of(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// What every connection has in common.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("temp_store", TEMP_STORE)
        .disable_statement_logging()
}

/// For who prepares a database. The journal is set by [`prepare`](super::open::prepare): it is written into the file,
/// which may not be ours.
pub(super) fn schema_options(path: &Path) -> SqliteConnectOptions {
    options(path).synchronous(SqliteSynchronous::Full)
}

pub(super) fn reader_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .read_only(true)
        .thread_name(|id| format!("store-reader-{id}"))
}

pub(super) fn compactor_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "0")
        .thread_name(|_| "store-compactor".to_owned())
}

/// The application that a database belongs to, and how many tables and indexes it has.
pub(super) const OWNER: &str = "
select (select application_id from pragma_application_id), (select count(*) from sqlite_schema)";

/// What is empty may become ours.
pub(super) fn is_foreign(application: i32, tables: i64) -> bool {
    tables > 0 && application != APPLICATION_ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_id_is_written_as_it_is_checked() {
        assert_eq!(APPLICATION_ID, 1_346_912_594);
    }
}
