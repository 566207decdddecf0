//! Finding, making and opening the database.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _, SqliteConnection};

use super::files::{create_file, resolve, sync_folder};
use super::inspect::{leftovers, refuse_cut_short, refuse_impossible, rewrite_log};
use super::lock::Lock;
use super::open_error::{OpenError, sql_error};
use super::plan::{MIN_READER, READS};
use super::renew::remove_copy;
use super::sqlite::{OWNER, is_foreign, schema_options};
use super::{Checkpointer, Compactor, ReadError, Reader, Writer, fill};
use crate::state::model::Timestamp;

/// Schema, in order. Never edited after a release; later ones take away only what others repeat.
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
    (
        8,
        "sole_holders",
        include_str!("../../migrations/sqlite/0008_sole_holders.sql"),
    ),
    (
        9,
        "fewer_pages",
        include_str!("../../migrations/sqlite/0009_fewer_pages.sql"),
    ),
    (
        10,
        "first_reports",
        include_str!("../../migrations/sqlite/0010_first_reports.sql"),
    ),
    (
        11,
        "tenures",
        include_str!("../../migrations/sqlite/0011_tenures.sql"),
    ),
    (
        12,
        "bgp",
        include_str!("../../migrations/sqlite/0012_bgp.sql"),
    ),
    (
        13,
        "ends",
        include_str!("../../migrations/sqlite/0013_ends.sql"),
    ),
    (
        14,
        "given_back",
        include_str!("../../migrations/sqlite/0014_given_back.sql"),
    ),
    (
        15,
        "bgp_advertisements",
        include_str!("../../migrations/sqlite/0015_bgp_advertisements.sql"),
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

/// A database without a file, as a new one is.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn empty_in_memory() -> rusqlite::Connection {
    let connection = rusqlite::Connection::open_in_memory().expect("memory");
    connection
        .pragma_update(None, "foreign_keys", true)
        .expect("they can be turned on");
    for (_, _, sql) in MIGRATIONS {
        connection.execute_batch(sql).expect("good SQL");
    }
    let meta = "insert into meta (id, store_id, epoch, revision, fact_seq, create_time)
        values (1, 'in memory', 0, 0, 0, 0) on conflict (id) do nothing";
    connection.execute(meta, ()).expect("good SQL");
    connection
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
}
