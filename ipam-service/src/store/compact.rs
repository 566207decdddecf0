//! Taking the oldest decisions out of the log, and what is known of the clock.
//!
//! It has a connection of its own, but SQLite has one writer at a time: the engine calls it between
//! two batches, so that neither waits for the other's lock.

use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::checkpoint::{Gate, LOG_SIZE, size_of};
use super::sqlite::{code_of, compactor_options};
use super::write::Failure;
use super::{CommitError, ReadError, Reader};
use crate::state::model::{Revision, Timestamp};

/// Makes the log shorter. Used by one task.
#[derive(Debug)]
pub struct Compactor {
    database: PathBuf,
    gate: Gate,
    /// Term of the writer that it works for.
    epoch: i64,
}

/// A bounded piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// Only what is older.
    pub before: Timestamp,
    /// Only revisions before this one.
    pub end: Revision,
    /// At most so many rows.
    pub limit: u32,
}

/// What the log and its clock are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Of the oldest decision in the log; 0 if it is empty.
    pub oldest: Revision,
    /// Of the store.
    pub revision: Revision,
    /// Of the newest decision; 0 if the log is empty.
    pub newest_time: Timestamp,
    pub clock_seen: Timestamp,
    pub clock_accepted: Timestamp,
}

impl Reader {
    /// What the log and its clock are like.
    pub async fn log_state(&self) -> Result<LogState, ReadError> {
        self.counted(self.read_log_state()).await
    }

    async fn read_log_state(&self) -> Result<LogState, ReadError> {
        let mut connection = self.connection().await?;
        let row = sqlx::query(LOG_STATE).fetch_one(&mut *connection).await?;
        let number =
            |index: usize| -> Result<u64, ReadError> { super::read::unsigned(row.try_get(index)?) };
        Ok(LogState {
            oldest: number(0)?,
            revision: number(1)?,
            newest_time: Timestamp(row.try_get(2)?),
            clock_seen: Timestamp(row.try_get(3)?),
            clock_accepted: Timestamp(row.try_get(4)?),
        })
    }
}

const LOG_STATE: &str = "
select coalesce((select min(revision) from change_log), 0), meta.revision,
    coalesce((select time from change_log order by revision desc limit 1), 0),
    clock_seen, clock_accepted
from meta join history_meta using (id) where id = 1";

impl Compactor {
    pub(super) fn new(database: &Path, gate: Gate, epoch: i64) -> Self {
        Self {
            database: database.to_owned(),
            gate,
            epoch,
        }
    }

    /// Deletes the oldest decisions, as many as the step allows; says how many. The log begins
    /// behind them from then on.
    ///
    /// Not cancel safe: the future must be driven to its end, with no batch beside it.
    pub async fn compact(&mut self, step: Compaction) -> Result<u64, CommitError> {
        let mut connection = self.connected().await?;
        let deleted = delete_oldest(&mut connection, self.epoch, step).await;
        self.settled(connection, deleted).await
    }

    /// Remembers what is known of the clock.
    ///
    /// Not cancel safe: the future must be driven to its end, with no batch beside it.
    pub async fn note_clock(
        &mut self,
        seen: Timestamp,
        accepted: Timestamp,
    ) -> Result<(), CommitError> {
        let mut connection = self.connected().await?;
        let noted = note(&mut connection, self.epoch, seen, accepted).await;
        self.settled(connection, noted).await
    }

    /// A new one for each step. The last connection that is closed moves the write-ahead log into the
    /// database, and that is for the writer to decide; and another file may have the name by now.
    async fn connected(&self) -> Result<SqliteConnection, CommitError> {
        let connection = compactor_options(&self.database).connect().await;
        connection.map_err(|error| self.not_connected(&error))
    }

    /// A file that cannot be opened now (too many are) may be opened later; a damaged one is damaged.
    fn not_connected(&self, error: &sqlx::Error) -> CommitError {
        let failed = match code_of(error) {
            Some(code) if code & 0xff == 14 => CommitError::NotWritten(error.to_string()),
            code => Failure::of(code).of_statement(error.to_string()),
        };
        self.gate.heed(&failed);
        failed
    }

    /// Commits what was done, or takes it back.
    async fn settled<T>(
        &self,
        mut connection: SqliteConnection,
        done: Result<T, Undone>,
    ) -> Result<T, CommitError> {
        let settled = match done {
            Ok(done) => match sqlx::query("commit").execute(&mut connection).await {
                Ok(_) => Ok(done),
                Err(error) => Err(Failure::of(code_of(&error)).of_commit(error.to_string())),
            },
            Err(Undone::Deposed) => Err(CommitError::Deposed),
            Err(Undone::Sql(error)) => {
                Err(Failure::of(code_of(&error)).of_statement(error.to_string()))
            }
        };
        match &settled {
            Ok(_) => self.tell_length(&mut connection).await,
            Err(failed) => self.gate.heed(failed),
        }
        // It ends a transaction that was not committed, too.
        if let Err(error) = connection.close().await {
            tracing::debug!(%error, "a connection was not closed in good order");
        }
        settled
    }

    /// For checkpoints: where nobody writes, this is all that makes the log longer.
    async fn tell_length(&self, connection: &mut SqliteConnection) {
        let length = sqlx::query_as::<_, (i64, i64, i64)>(LOG_SIZE);
        match length.fetch_one(connection).await {
            Ok((_, frames, copied)) => self.gate.written(size_of(frames, copied), true),
            Err(error) => tracing::warn!(%error, "the length of the log is not known"),
        }
    }
}

/// Why there is nothing to commit.
enum Undone {
    Deposed,
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Undone {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// Begins a transaction, if the database is still that of the writer of this term.
async fn begin(connection: &mut SqliteConnection, epoch: i64) -> Result<(), Undone> {
    sqlx::query("begin immediate")
        .execute(&mut *connection)
        .await?;
    let own = sqlx::query("select 1 from meta where id = 1 and epoch = ?1").bind(epoch);
    match own.fetch_optional(connection).await? {
        Some(_) => Ok(()),
        None => Err(Undone::Deposed),
    }
}

async fn note(
    connection: &mut SqliteConnection,
    epoch: i64,
    seen: Timestamp,
    accepted: Timestamp,
) -> Result<(), Undone> {
    begin(connection, epoch).await?;
    sqlx::query("update history_meta set clock_seen = ?1, clock_accepted = ?2 where id = 1")
        .bind(seen.0)
        .bind(accepted.0)
        .execute(connection)
        .await?;
    Ok(())
}

async fn delete_oldest(
    connection: &mut SqliteConnection,
    epoch: i64,
    step: Compaction,
) -> Result<u64, Undone> {
    begin(connection, epoch).await?;
    let rows = sqlx::query("select revision, time from change_log order by revision limit ?1")
        .bind(i64::from(step.limit))
        .fetch_all(&mut *connection)
        .await?;
    let end = i64::try_from(step.end).unwrap_or(i64::MAX);
    let mut last = None;
    let mut count = 0;
    for row in rows {
        let (revision, time): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if revision >= end || time >= step.before.0 {
            break;
        }
        last = Some(revision);
        count += 1;
    }
    let Some(last) = last else { return Ok(0) };
    sqlx::query(DELETE_FORMER_OWNERS)
        .bind(last)
        .execute(&mut *connection)
        .await?;
    sqlx::query("delete from change_log where revision <= ?1")
        .bind(last)
        .execute(&mut *connection)
        .await?;
    sqlx::query("update meta set log_start = max(log_start, ?1 + 1) where id = 1")
        .bind(last)
        .execute(connection)
        .await?;
    Ok(count)
}

/// Of allocations whose end goes from the log now, and that no interval tells of.
const DELETE_FORMER_OWNERS: &str = "
delete from former_owner where (cluster, namespace, name, allocation_id) in (
    select cluster, namespace, name, allocation_id from change_log
    where revision <= ?1 and subject = 1 and kind = 3)
and not exists (select 1 from holding where holding.allocation_id = former_owner.allocation_id)";
