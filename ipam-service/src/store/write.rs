//! The writer: one connection, one transaction per batch.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Statement};

use super::checkpoint::{Gate, LogSize, Paused, copy_log, log_size};
use super::lock::Lock;
use super::plan::Plan;
use super::rows::Cell;
use super::sqlite::{BUSY_TIMEOUT, LOG_LIMIT, TEMP_STORE};
use super::{Batch, OpenError, Reader};
use crate::state::model::Revision;

/// Why a batch is not, or perhaps not, in the database.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It is surely not, and never will be: a row breaks a constraint, or the statement fails on it.
    /// Says which.
    #[error("the database refuses a row: {0}")]
    Refused(String),
    /// It is surely not: the disk or the quota is full.
    #[error("no space left for the database")]
    Full,
    /// It is surely not, for a reason that may pass.
    #[error("the batch was not written: {0}")]
    NotWritten(String),
    /// Nobody knows, or the file can no longer be trusted: the writer must stop.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
    /// Another writer has taken the database over: this one must stop.
    #[error("another ipam-service has taken over the database")]
    Deposed,
}

/// Commits batches. Belongs to the engine, and holds the lock of the database.
///
/// SQLite is called directly, on a thread that may block, once per batch: a driver that crosses
/// threads for each statement costs more than most statements do.
#[derive(Debug)]
pub struct Writer {
    /// `None` while a batch is being written, and for ever if that did not end.
    pub(super) connection: Option<Connection>,
    lock: Lock,
    epoch: i64,
    /// As `meta` has them.
    pub(super) revision: Revision,
    pub(super) fact_seq: u64,
    /// What else has the file open, and must change over with the writer to a fresh copy.
    pub(super) path: PathBuf,
    pub(super) readers: Reader,
    pub(super) gate: Gate,
    /// While the file is not to be trusted.
    pub(super) paused: Option<Paused>,
}

impl Writer {
    /// Opens the writing connection of a database that is prepared. Revision and number of facts
    /// are known after [`Writer::load`].
    pub(super) async fn open(
        path: &Path,
        lock: Lock,
        epoch: i64,
        readers: Reader,
    ) -> Result<Self, OpenError> {
        let file = path.to_owned();
        let connection = tokio::task::spawn_blocking(move || connect(&file)).await;
        let connection = connection.expect("opening a database does not panic");
        Ok(Self {
            connection: Some(connection.map_err(|error| OpenError::Unusable {
                path: path.to_owned(),
                reason: error.to_string(),
            })?),
            lock,
            epoch,
            revision: 0,
            fact_seq: 0,
            path: path.to_owned(),
            readers,
            gate: Gate::default(),
            paused: None,
        })
    }

    /// For the checkpoints of the same database.
    pub(super) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Whether the file is not to be trusted any more, whoever found that out.
    pub fn is_distrusted(&self) -> bool {
        self.gate.is_distrusted()
    }

    /// Waits until the file is not to be trusted any more. Cancel safe.
    pub fn distrusted(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.gate.clone();
        async move { gate.distrusted().await }
    }

    /// Runs `work` with the connection, on a thread that may block; `None`: it is gone.
    pub(super) async fn with_connection<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> R + Send + 'static,
    ) -> Option<R> {
        let connection = self.connection.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&connection);
            (connection, result)
        });
        // An error is a panic: what it left behind nobody knows.
        let (connection, result) = done.await.ok()?;
        self.connection = Some(connection);
        Some(result)
    }

    /// Term of this writer: greater than that of every writer of this database before it.
    pub fn epoch(&self) -> u64 {
        u64::try_from(self.epoch).expect("terms are counted from 1")
    }

    /// Moves the whole log into the database file, so that one file can be copied, closes the
    /// connection and then gives the lock back. To be called when nobody reads any more.
    ///
    /// What is left of a file that is not to be trusted stays as it is: a loss of power in the midst of
    /// such a move would leave neither the old file nor the new one.
    pub async fn close(self) {
        if self.is_distrusted() {
            self.leave_log().await;
            tracing::warn!(
                "the database is not to be trusted and stays as it is, with its -wal file"
            );
        } else if let Err(error) = self.into_one_file().await {
            tracing::warn!(%error, "the database was not closed in good order; keep its -wal file");
        }
    }

    /// Moves the whole log into the database file for who has to know how it went, and keeps the lock.
    pub(super) async fn into_one_file(mut self) -> Result<Lock, CommitError> {
        let mut checkpoints = self.gate.pause().await;
        drop(checkpoints.take());
        let emptied = self.with_connection(empty_log).await;
        if let Some(connection) = self.connection.take() {
            let close = move || connection.close().map_err(|(_, error)| error.to_string());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(close).await {
                return Err(CommitError::Unknown(error));
            }
        }
        match emptied {
            Some(Ok(true)) => Ok(self.lock),
            Some(Ok(false)) => Err(CommitError::NotWritten(READ.to_owned())),
            Some(Err(error)) => Err(CommitError::Unknown(error.to_string())),
            None => Err(CommitError::Unknown(GONE.to_owned())),
        }
    }

    /// Closes what writes to the file.
    async fn leave_log(mut self) {
        let mut checkpoints = match self.paused.take() {
            Some(paused) => paused,
            None => self.gate.pause().await,
        };
        // The connection that is closed last would move the log; so the one that knows better is last.
        drop(checkpoints.take());
        let leave = |connection: &Connection| {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        };
        if let Some(Err(error)) = self.with_connection(leave).await {
            tracing::debug!(%error, "the log is not left alone");
        }
    }

    /// Writes a batch durably, in one transaction. When this returns `Ok` it is on disk.
    ///
    /// Not cancel safe: the future must be driven to its end.
    pub async fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let revision = batch.last_revision().unwrap_or(self.revision);
        let plan = Plan::of(batch, self.fact_seq);
        let fact_seq = self.fact_seq + plan.facts();
        let step = Step {
            epoch: self.epoch,
            from: self.revision,
            revision,
            fact_seq,
        };
        let finish = self.gate.must_finish();
        let done = self.with_connection(move |connection| {
            if finish {
                finish_checkpoint(connection)?;
            }
            transaction(connection, &plan, step)?;
            Ok(length_of_log(connection))
        });
        let gone = || Err(CommitError::Unknown(GONE.to_owned()));
        let done = done.await.unwrap_or_else(gone);
        let size = done.inspect_err(|error| self.gate.heed(error))?;
        self.gate.written(size, finish);
        self.revision = revision;
        self.fact_seq = fact_seq;
        Ok(())
    }
}

/// Why there is no connection.
const GONE: &str = "an earlier write did not end";

/// Why the log is not empty.
const READ: &str = "somebody reads the database, and needs its log";

/// Moves the whole log into the database file; false: not all, as somebody reads.
pub(super) fn empty_log(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.query_row("pragma wal_checkpoint(truncate)", (), |row| {
        Ok(row.get::<_, i64>(0)? == 0)
    })
}

/// Pages of the database that the writer keeps, in KiB. The owners of new allocations lie anywhere in
/// the indexes; with SQLite's 2 MiB nearly every one of a large database is read from the file.
pub(super) const CACHE_KIB: i64 = 32 * 1024;

/// Statements that are kept prepared: more than a batch can have.
const PREPARED: usize = 64;

/// The writing connection.
pub(super) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    // The connection is on one thread at a time, and needs no mutex. It makes no file either.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", TEMP_STORE)?;
    keep_pages(&connection, CACHE_KIB)?;
    // SQLite would not tell of an error of its own checkpoints; see [`finish_checkpoint`].
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
    Ok(connection)
}

/// How much of the database the connection keeps in memory at most, in KiB.
pub(super) fn keep_pages(connection: &Connection, kib: i64) -> Result<(), rusqlite::Error> {
    // Negative: KiB instead of pages.
    connection.pragma_update(None, "cache_size", -kib)
}

/// Copies what the passes beside the writer have left of the log, so that the next commit begins it anew
/// (if nobody reads). A sync that fails is none that SQLite would repeat: pages that others have copied
/// may be lost with it.
fn finish_checkpoint(connection: &Connection) -> Result<(), CommitError> {
    let Err(error) = copy_log(connection) else {
        return Ok(());
    };
    if classify(&error) == Failure::Storage {
        return Err(CommitError::Unknown(error.to_string()));
    }
    // The disk is full, for example. There may be room in the log.
    tracing::warn!(%error, "a checkpoint of the database failed");
    Ok(())
}

/// After a commit, which nothing that fails here takes back.
fn length_of_log(connection: &Connection) -> LogSize {
    log_size(connection).unwrap_or_else(|error| {
        tracing::warn!(%error, "the length of the log is not known");
        LogSize::default()
    })
}

/// Writes a batch into a database without a file, whose log ends at `from`.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn write_at_once(
    connection: &Connection,
    batch: &Batch,
    from: Revision,
) -> Result<(), CommitError> {
    let step = Step {
        epoch: 0,
        from,
        revision: batch.last_revision().unwrap_or(from),
        fact_seq: 0,
    };
    transaction(connection, &Plan::of(batch, 0), step)
}

/// From which place in the log a transaction leads to which.
#[derive(Debug, Clone, Copy)]
struct Step {
    epoch: i64,
    from: Revision,
    revision: Revision,
    fact_seq: u64,
}

fn transaction(connection: &Connection, plan: &Plan, step: Step) -> Result<(), CommitError> {
    if let Err(error) = write(connection, plan, step) {
        return Err(roll_back(connection, error));
    }
    let Err(error) = run(connection, "commit", []) else {
        return Ok(());
    };
    let error = classify(&error).of_commit(error.to_string());
    if matches!(error, CommitError::Unknown(_)) {
        return Err(error);
    }
    Err(roll_back(connection, error))
}

/// Everything up to the commit.
fn write(connection: &Connection, plan: &Plan, step: Step) -> Result<(), CommitError> {
    let number = |number: u64| i64::try_from(number).expect("revisions stay below 2^63");
    let failed = |error: rusqlite::Error| statement_error(&error);
    run(connection, "begin immediate", []).map_err(failed)?;
    let parameters = [
        number(step.revision),
        number(step.fact_seq),
        step.epoch,
        number(step.from),
    ];
    let moved = run(connection, MOVE_ON, parameters.map(Cell::Int));
    if moved.map_err(failed)? != 1 {
        return Err(CommitError::Deposed);
    }
    for (statement, rows) in plan.statements() {
        let prepared = connection.prepare_cached(statement.sqlite());
        let mut prepared = prepared.map_err(failed)?;
        for row in rows.iter() {
            execute(&mut prepared, row).map_err(failed)?;
        }
    }
    Ok(())
}

const MOVE_ON: &str = "
update meta set revision = ?1, fact_seq = ?2 where id = 1 and epoch = ?3 and revision = ?4";

/// Runs one statement; gives the number of rows that it changed.
fn run<'a>(
    connection: &Connection,
    sql: &str,
    parameters: impl IntoIterator<Item = Cell<'a>>,
) -> Result<usize, rusqlite::Error> {
    let mut prepared = connection.prepare_cached(sql)?;
    execute(&mut prepared, parameters)
}

fn execute<'a>(
    statement: &mut Statement<'_>,
    parameters: impl IntoIterator<Item = Cell<'a>>,
) -> Result<usize, rusqlite::Error> {
    for (index, parameter) in (1_usize..).zip(parameters) {
        statement.raw_bind_parameter(index, parameter)?;
    }
    statement.raw_execute()
}

/// Ends the transaction without a trace; `error` is why. If even that fails, nobody knows.
fn roll_back(connection: &Connection, error: CommitError) -> CommitError {
    // SQLite rolls back by itself after some errors.
    if connection.is_autocommit() {
        return error;
    }
    match run(connection, "rollback", []) {
        Ok(_) => error,
        Err(rollback) => CommitError::Unknown(format!("{error}; and: {rollback}")),
    }
}

/// Kinds of failure of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// What was asked for, whenever it is asked.
    Refused,
    Full,
    Busy,
    /// The file or the disk below it.
    Storage,
    Other,
}

impl Failure {
    /// By the result code (sqlite.org/rescode.html); `None`: it is none of SQLite's.
    pub(super) fn of(code: Option<i32>) -> Self {
        match code.map(|code| code & 0xff) {
            // CONSTRAINT, ERROR, TOOBIG, MISMATCH, RANGE
            Some(19 | 1 | 18 | 20 | 25) => Self::Refused,
            Some(13) => Self::Full,
            Some(5 | 6) => Self::Busy,
            Some(code) if is_storage_failure(code) => Self::Storage,
            Some(_) | None => Self::Other,
        }
    }

    /// What the failure of a statement before the commit means.
    pub(super) fn of_statement(self, error: String) -> CommitError {
        match self {
            Self::Refused => CommitError::Refused(error),
            Self::Full => CommitError::Full,
            Self::Busy | Self::Other => CommitError::NotWritten(error),
            Self::Storage => CommitError::Unknown(error),
        }
    }

    /// What the failure of the commit means. FULL and BUSY leave the transaction open and the file as
    /// it was (sqlite.org/lang_transaction).
    pub(super) fn of_commit(self, error: String) -> CommitError {
        match self {
            Self::Full => CommitError::Full,
            Self::Busy => CommitError::NotWritten(error),
            Self::Refused | Self::Storage | Self::Other => CommitError::Unknown(error),
        }
    }
}

fn statement_error(error: &rusqlite::Error) -> CommitError {
    classify(error).of_statement(error.to_string())
}

pub(super) fn classify(error: &rusqlite::Error) -> Failure {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        // Not of the database: a parameter that does not fit the statement, for example.
        return Failure::Refused;
    };
    Failure::of(Some(failure.extended_code))
}

/// Whether a result code means the file or the disk below it: IOERR, CORRUPT, CANTOPEN, NOTADB,
/// READONLY.
pub(super) fn is_storage_failure(code: i32) -> bool {
    matches!(code & 0xff, 10 | 11 | 14 | 26 | 8)
}
