//! Finding, making and opening the database.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _, SqliteConnection};

use super::inspect::{leftovers, refuse_cut_short, refuse_impossible, rewrite_log};
use super::lock::{Lock, LockError};
use super::plan::{MIN_READER, READS};
use super::renew::remove_copy;
use super::restore::RESTORING;
use super::{Checkpointer, Compactor, ReadError, Reader, Writer, fill};
use crate::state::model::Timestamp;

/// `PRAGMA application_id` of our databases: "PHAR".
pub(super) const APPLICATION_ID: i32 = 0x5048_4152;

/// How long a statement waits for a lock of SQLite. Only backups and checkpoints take any.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of the log at which the writer itself moves it into the database file, in pages of 4 KiB.
/// The [`Checkpointer`] does so long before, beside the writer.
pub(super) const WRITER_CHECKPOINT_PAGES: u32 = 16_384;

/// Schema, in order. Never edited after a release; later ones only add.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "init",
        include_str!("../../migrations/sqlite/0001_init.sql"),
    ),
    (
        2,
        "limits",
        include_str!("../../migrations/sqlite/0002_limits.sql"),
    ),
    (
        3,
        "unavailable",
        include_str!("../../migrations/sqlite/0003_unavailable.sql"),
    ),
    (
        4,
        "holdings",
        include_str!("../../migrations/sqlite/0004_holdings.sql"),
    ),
    (
        5,
        "operation",
        include_str!("../../migrations/sqlite/0005_operation.sql"),
    ),
    (
        6,
        "owner_history",
        include_str!("../../migrations/sqlite/0006_owner_history.sql"),
    ),
    (
        7,
        "address_spaces",
        include_str!("../../migrations/sqlite/0007_address_spaces.sql"),
    ),
];

/// Of the last of them.
pub(super) const NEWEST_SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file.
    Sqlite(PathBuf),
}

/// A text that names no database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("PostgreSQL is not supported by this version; use sqlite:PATH")]
    Postgres,
    #[error("{0:?} is not sqlite:PATH")]
    Unknown(String),
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.starts_with("postgres:") || text.starts_with("postgresql:") {
            return Err(LocationError::Postgres);
        }
        let path = text
            .strip_prefix("sqlite://")
            .or_else(|| text.strip_prefix("sqlite:"));
        match path {
            Some(path) if !path.is_empty() && !path.starts_with(':') => {
                Ok(Self::Sqlite(PathBuf::from(path)))
            }
            Some(_) | None => Err(LocationError::Unknown(text.chars().take(100).collect())),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// What to do when there is no database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Create,
    Refuse,
}

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

/// An open database.
#[derive(Debug)]
pub struct Store {
    pub writer: Writer,
    pub reader: Reader,
    pub checkpointer: Checkpointer,
    pub compactor: Compactor,
    /// Random name of the database.
    pub store_id: String,
    /// Whether the database was made by this call.
    pub created: bool,
}

impl Store {
    /// Opens the database and takes its lock; makes it where it is missing and `missing` says so.
    /// `now` is recorded as the time of its creation.
    pub async fn open(
        location: &Location,
        missing: Missing,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        let Location::Sqlite(named) = location;
        let file_error = |source| OpenError::File {
            path: named.clone(),
            source,
        };
        let path = &resolve(named).map_err(file_error)?;
        if is_missing(path)? && missing == Missing::Refuse {
            leftovers(path)?;
            return Err(OpenError::Missing(path.clone()));
        }
        let lock = Lock::take(path)?;
        // Before the lock another process may have made it.
        let created = is_missing(path)?;
        if created {
            leftovers(path)?;
            create_file(path).map_err(file_error)?;
        }
        if !created {
            let path = path.clone();
            let rewritten = tokio::task::spawn_blocking(move || make_ready(&path)).await;
            rewritten.expect("writing a file does not panic")?;
        }
        let sql_error = |source| sql_error(path, source);
        let mut connection = schema_options(path).connect().await.map_err(sql_error)?;
        refuse_cut_short(&mut connection, path).await?;
        prepare(&mut connection, path).await?;
        let (store_id, epoch) = take_over(&mut connection, now).await.map_err(sql_error)?;
        connection.close().await.map_err(sql_error)?;
        if created {
            sync_folder(path).map_err(file_error)?;
        }
        let reader = Reader::open(path).await.map_err(sql_error)?;
        let writer = Writer::open(path, lock, epoch, reader.clone()).await?;
        let gate = writer.gate();
        Ok(Self {
            checkpointer: Checkpointer::new(path, gate.clone()),
            writer,
            reader,
            compactor: Compactor::new(path, gate, epoch),
            store_id,
            created,
        })
    }
}

/// What is done to a database that is ours before it is opened.
fn make_ready(path: &Path) -> Result<(), OpenError> {
    rewrite_log(path)?;
    // It may be as large as the database, which is about to grow if its schema is an old one.
    if let Err(error) = remove_copy(path) {
        tracing::warn!(%error, "a copy that is of no use stays");
    }
    Ok(())
}

/// The name of the file itself, behind all symbolic links: lock and log are named after it.
pub(super) fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !path.is_symlink() => {
            let name = path.file_name().ok_or(error)?;
            Ok(folder_of(path).canonicalize()?.join(name))
        }
        found => found,
    }
}

/// Whether there is no database yet. An empty file is one that was begun.
fn is_missing(path: &Path) -> Result<bool, OpenError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(OpenError::NotOurs(path.to_owned())),
        Ok(metadata) if metadata.nlink() > 1 => Err(OpenError::Linked(path.to_owned())),
        Ok(metadata) => Ok(metadata.len() == 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(OpenError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// SQLite's result code (sqlite.org/rescode.html).
pub(super) fn code_of(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
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

/// Readable by its owner only: history names who uses what.
pub(super) fn create_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?
        .sync_all()
}

/// Makes the directory entry of a new file durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder_of(path))?.sync_all()
}

/// What every connection has in common.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .disable_statement_logging()
}

/// For who prepares a database. The journal is set by [`prepare`]: it is written into the file,
/// which may not be ours.
pub(super) fn schema_options(path: &Path) -> SqliteConnectOptions {
    options(path).synchronous(SqliteSynchronous::Full)
}

pub(super) fn reader_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .read_only(true)
        .thread_name(|id| format!("store-reader-{id}"))
}

pub(super) fn checkpoint_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "0")
        .thread_name(|_| "store-checkpoint".to_owned())
}

/// The application that a database belongs to, and how many tables and indexes it has.
pub(super) const OWNER: &str = "
select (select application_id from pragma_application_id), (select count(*) from sqlite_schema)";

/// What is empty may become ours.
pub(super) fn is_foreign(application: i32, tables: i64) -> bool {
    tables > 0 && application != APPLICATION_ID
}

/// Refuses what is not ours, and brings the schema up to date.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), OpenError> {
    let sql_error = |source| sql_error(path, source);
    let row = sqlx::query(OWNER).fetch_one(&mut *connection).await;
    let row = row.map_err(sql_error)?;
    let application: i32 = row.try_get(0).map_err(sql_error)?;
    let tables: i64 = row.try_get(1).map_err(sql_error)?;
    if tables == 0 {
        sqlx::query("pragma application_id = 1346912594")
            .execute(&mut *connection)
            .await
            .map_err(sql_error)?;
    } else if is_foreign(application, tables) {
        return Err(OpenError::NotOurs(path.to_owned()));
    }
    let journal: String = sqlx::query("pragma journal_mode = wal")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(sql_error)?;
    if journal != "wal" {
        return Err(OpenError::Unusable {
            path: path.to_owned(),
            reason: "its file system has no shared memory for a write-ahead log".to_owned(),
        });
    }
    let migrated = migrator().run(&mut *connection).await;
    migrated.map_err(|source| {
        if let MigrateError::VersionMissing(version) = source {
            let path = path.to_owned();
            return OpenError::Newer { path, version };
        }
        OpenError::Schema {
            path: path.to_owned(),
            source,
        }
    })?;
    let filled = fill::history(&mut *connection).await;
    filled.map_err(|source| match source {
        ReadError::Sql(source) => sql_error(source),
        source @ (ReadError::Load(_) | ReadError::Corrupt(_) | ReadError::Newer { .. }) => {
            let path = path.to_owned();
            OpenError::Fill { path, source }
        }
    })?;
    let needs: i64 = sqlx::query("select min_reader from history_meta where id = 1")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(sql_error)?;
    if needs > READS {
        let path = path.to_owned();
        return Err(OpenError::NewerLog { path, needs });
    }
    refuse_impossible(connection, path).await
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            let kind = MigrationType::Simple;
            Migration::new(*version, (*name).into(), kind, (*sql).into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations)
}

/// Names a new database, and begins a new epoch.
async fn take_over(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<(String, i64), sqlx::Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    sqlx::query(
        "insert into meta (id, store_id, epoch, revision, fact_seq, create_time)
        values (1, ?1, 0, 0, 0, ?2) on conflict (id) do nothing",
    )
    .bind(uuid::Uuid::new_v4().to_string())
    .bind(now.0)
    .execute(&mut *transaction)
    .await?;
    // Its rows need no less from now on.
    sqlx::query("update history_meta set min_reader = max(min_reader, ?1) where id = 1")
        .bind(MIN_READER)
        .execute(&mut *transaction)
        .await?;
    let row = sqlx::query("update meta set epoch = epoch + 1 returning store_id, epoch")
        .fetch_one(&mut *transaction)
        .await?;
    let taken = (row.try_get(0)?, row.try_get(1)?);
    transaction.commit().await?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_sqlite_files_so_far() {
        let sqlite = |path: &str| Ok(Location::Sqlite(PathBuf::from(path)));
        assert_eq!("sqlite:pharos.db".parse(), sqlite("pharos.db"));
        assert_eq!("sqlite:/var/lib/a.db".parse(), sqlite("/var/lib/a.db"));
        assert_eq!("sqlite:///var/lib/a.db".parse(), sqlite("/var/lib/a.db"));
        let postgres = "postgres://db/pharos".parse::<Location>();
        assert_eq!(postgres, Err(LocationError::Postgres));
        for bad in ["", "pharos.db", "sqlite:", "sqlite::memory:", "mysql://x"] {
            let error = bad.parse::<Location>().expect_err(bad);
            assert_eq!(error, LocationError::Unknown(bad.to_owned()));
        }
    }

    #[test]
    fn the_application_id_is_written_as_it_is_checked() {
        assert_eq!(APPLICATION_ID, 1_346_912_594);
    }
}
