//! The writer: one connection, one transaction per batch.

use sqlx::{Connection as _, SqliteConnection};

use super::Batch;
use super::lock::Lock;
use super::plan::Plan;
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
#[derive(Debug)]
pub struct Writer {
    pub(super) connection: SqliteConnection,
    lock: Lock,
    epoch: i64,
    /// As `meta` has them.
    pub(super) revision: Revision,
    pub(super) fact_seq: u64,
}

impl Writer {
    /// `revision` and `fact_seq` are known after [`Writer::load`].
    pub(super) fn new(connection: SqliteConnection, lock: Lock, epoch: i64) -> Self {
        Self {
            connection,
            lock,
            epoch,
            revision: 0,
            fact_seq: 0,
        }
    }

    /// Moves the whole log into the database file, so that one file can be copied, closes the
    /// connection and then gives the lock back. To be called when nobody reads any more.
    pub async fn close(self) {
        if let Err(error) = self.into_one_file().await {
            tracing::warn!(%error, "the database was not closed in good order; keep its -wal file");
        }
    }

    /// Does the same for who has to know how it went, and keeps the lock.
    pub(super) async fn into_one_file(mut self) -> Result<Lock, sqlx::Error> {
        let emptied = sqlx::query("pragma wal_checkpoint(truncate)")
            .execute(&mut self.connection)
            .await
            .map(drop);
        emptied.and(self.connection.close().await)?;
        Ok(self.lock)
    }

    /// Writes a batch durably, in one transaction. When this returns `Ok` it is on disk.
    ///
    /// Not cancel safe: the future must be driven to its end.
    pub async fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let revision = batch.last_revision().unwrap_or(self.revision);
        let plan = Plan::of(batch, self.fact_seq);
        let fact_seq = self.fact_seq + plan.facts();
        if let Err(error) = self.write(plan, revision, fact_seq).await {
            return Err(self.roll_back(error).await);
        }
        if let Err(error) = sqlx::query("commit").execute(&mut self.connection).await {
            let error = match classify(&error) {
                // Both leave the transaction open and the file as it was (sqlite.org/lang_transaction).
                Failure::Full => CommitError::Full,
                Failure::Busy => CommitError::NotWritten(error.to_string()),
                Failure::Refused | Failure::Storage | Failure::Other => {
                    return Err(CommitError::Unknown(error.to_string()));
                }
            };
            return Err(self.roll_back(error).await);
        }
        self.revision = revision;
        self.fact_seq = fact_seq;
        Ok(())
    }

    /// Everything up to the commit.
    async fn write(
        &mut self,
        plan: Plan,
        revision: Revision,
        fact_seq: u64,
    ) -> Result<(), CommitError> {
        sqlx::query("begin immediate")
            .execute(&mut self.connection)
            .await
            .map_err(|error| statement_error(&error))?;
        let number = |number: u64| i64::try_from(number).expect("revisions stay below 2^63");
        let updated = sqlx::query(
            "update meta set revision = ?1, fact_seq = ?2
            where id = 1 and epoch = ?3 and revision = ?4",
        )
        .bind(number(revision))
        .bind(number(fact_seq))
        .bind(self.epoch)
        .bind(number(self.revision))
        .execute(&mut self.connection)
        .await
        .map_err(|error| statement_error(&error))?;
        if updated.rows_affected() != 1 {
            return Err(CommitError::Deposed);
        }
        for (statement, rows) in plan.into_statements() {
            let (json, blobs) = rows.into_parameters();
            sqlx::query(statement.sqlite())
                .bind(json)
                .bind(blobs)
                .execute(&mut self.connection)
                .await
                .map_err(|error| statement_error(&error))?;
        }
        Ok(())
    }

    /// Ends the transaction without a trace; `error` is why. If even that fails, nobody knows.
    async fn roll_back(&mut self, error: CommitError) -> CommitError {
        match sqlx::query("rollback").execute(&mut self.connection).await {
            Ok(_) => error,
            // SQLite rolls back by itself after some errors.
            Err(rollback) if rollback.to_string().contains("no transaction is active") => error,
            Err(rollback) => CommitError::Unknown(format!("{error}; and: {rollback}")),
        }
    }
}

/// Kinds of failure of a statement.
enum Failure {
    /// What was asked for, whenever it is asked.
    Refused,
    Full,
    Busy,
    /// The file or the disk below it.
    Storage,
    Other,
}

fn statement_error(error: &sqlx::Error) -> CommitError {
    match classify(error) {
        Failure::Refused => CommitError::Refused(error.to_string()),
        Failure::Full => CommitError::Full,
        Failure::Busy | Failure::Other => CommitError::NotWritten(error.to_string()),
        Failure::Storage => CommitError::Unknown(error.to_string()),
    }
}

/// By the primary result code (sqlite.org/rescode.html).
fn classify(error: &sqlx::Error) -> Failure {
    let Some(code) = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<i32>().ok())
    else {
        // The worker thread of the connection is gone.
        return Failure::Storage;
    };
    match code & 0xff {
        // CONSTRAINT, ERROR, TOOBIG, MISMATCH, RANGE
        19 | 1 | 18 | 20 | 25 => Failure::Refused,
        13 => Failure::Full,
        5 | 6 => Failure::Busy,
        // IOERR, CORRUPT, CANTOPEN, NOTADB, READONLY
        10 | 11 | 14 | 26 | 8 => Failure::Storage,
        _ => Failure::Other,
    }
}
