//! Why a database cannot be used, also where it is SQLite that says so.

use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

use super::ReadError;
use super::files::RESTORING;
use super::lock::LockError;
use super::sqlite::code_of;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no database at {}; --create makes one", .0.display())]
    Missing(PathBuf),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("database {}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not a database of ipam-service", .0.display())]
    NotOurs(PathBuf),
    /// SQLite and our lock know a file by its name: another name of it would be another database.
    #[error("database {} has another name (hard link): remove it, or make it a copy",
        .0.display())]
    Linked(PathBuf),
    /// A restore moves the database first and then its log.
    #[error("there is no database at {database}, but its log {database}-wal: a restore was cut \
        short. Move the log to where the database is now (the newest {database}.replaced-TIME; \
        its log is {database}.replaced-TIME-wal)", database = .0.display())]
    LogWithoutDatabase(PathBuf),
    #[error("there is no database at {database}, but {database}{RESTORING}: a restore was cut \
        short. Repeat it (or remove that file, if there is to be a new database)",
        database = .0.display())]
    RestoreCutShort(PathBuf),
    #[error("there is no database at {}, but {}, which a restore moved aside: the restore was cut \
        short, or its database is lost. Repeat it; or give that file its name back, with its -wal (or \
        move it elsewhere, if there is to be a new database)",
        .database.display(), .aside.display())]
    MovedAside { database: PathBuf, aside: PathBuf },
    /// For example: no permission, a file system that is mounted read-only, or another program that
    /// writes.
    #[error("database {} cannot be opened for writing: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
    /// What it holds cannot be: the place, and what is wrong there.
    #[error("database {} is damaged: {problem}", .path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("database {} was written by a newer version of ipam-service (schema {version})",
        .path.display())]
    Newer { path: PathBuf, version: i64 },
    #[error("database {}: {source}", .path.display())]
    Sql {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("schema of database {}: {source}", .path.display())]
    Schema {
        path: PathBuf,
        #[source]
        source: MigrateError,
    },
    #[error("the history of database {} was written by a newer version of ipam-service (log \
        format {needs})", .path.display())]
    NewerLog { path: PathBuf, needs: i64 },
    #[error("filling what is new in the schema of database {}: {source}", .path.display())]
    Fill {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
}

pub(super) fn sql_error(path: &Path, source: sqlx::Error) -> OpenError {
    by_code(path, code_of(&source), source.into())
}

/// What an error of SQLite with this result code means for a database that is opened.
pub(super) fn by_code(
    path: &Path,
    code: Option<i32>,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> OpenError {
    match code {
        // SQLITE_NOTADB
        Some(26) => OpenError::NotOurs(path.to_owned()),
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_READONLY, SQLITE_CANTOPEN, and what they consist of
        Some(code) if matches!(code & 0xff, 5 | 6 | 8 | 14) => OpenError::Unusable {
            path: path.to_owned(),
            reason: source.to_string(),
        },
        Some(_) | None => OpenError::Sql {
            path: path.to_owned(),
            source,
        },
    }
}
