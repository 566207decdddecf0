//! `ipam-service restore`: a new store out of a backup.
//!
//! A backup is older than what its users saw since. So the restored store is another one: a new
//! `store_id`, an epoch and revisions far above all that the lost one can have given out, and every
//! cluster expected to report what it holds before anybody gets a new address.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;
use rusqlite::config::DbConfig;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::backup::copy_into;
use super::check::{check, first_damage, read_only};
use super::files::{REPLACED, RESTORING, beside, create_file, resolve};
use super::inspect::{is_used, log_without_database, rewrite_log_of};
use super::lock::Lock;
use super::open::prepare;
use super::sqlite::schema_options;
use super::step::Step;
use super::transfer::{self, ImportError};
use super::write::connect;
use super::{
    BackupError, Batch, CheckError, CommitError, Location, Logged, OpenError, Origin, ReadError,
    Reader, Writer,
};
use crate::state::change::{Change, Edit};
use crate::state::model::{Cluster, Inventory, Revision, Timestamp};
use crate::state::names::Name;

/// How far a restored store is ahead of its backup: more decisions than the lost one can have made
/// since (at 10,000 a second they take five days), so that nothing it gave out (revisions, epochs,
/// numbers of facts) is given out again with another meaning.
const AHEAD: i64 = 1 << 32;

/// What is to be restored, and where.
#[derive(Debug, Clone)]
pub struct Restore<'a> {
    pub from: From<'a>,
    pub to: &'a Location,
    /// Clusters that came after the backup: they are expected too.
    pub also_expected: &'a BTreeSet<Name>,
    /// Whether an existing database may be moved aside. Nothing is ever deleted.
    pub move_aside: bool,
    pub now: Timestamp,
}

/// Out of what a store is made.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// A database file.
    Backup(&'a Path),
    /// JSON lines.
    Export(&'a Path),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// New.
    pub store_id: String,
    pub revision: Revision,
    /// Clusters that are expected to report what they hold.
    pub expected: usize,
    /// Where the database is now that was in the way.
    pub moved_to: Option<PathBuf>,
}

/// Why nothing was restored. Until the last step an existing database is not touched.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the backup: {0}")]
    Source(#[source] CheckError),
    #[error("the backup {} is damaged: {problem}", .path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "there is a database at {} already; --force moves it aside, and deletes nothing",
        .0.display()
    )]
    Exists(PathBuf),
    #[error("somebody writes to the database at {}: stop the process that has it open", .0.display())]
    Written(PathBuf),
    #[error(transparent)]
    Copy(#[from] BackupError),
    #[error("{}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {source}", .path.display())]
    Import { path: PathBuf, source: ImportError },
    /// The rows of an export contradict each other.
    #[error("{}: {problem}", .path.display())]
    Contradicts { path: PathBuf, problem: String },
    #[error("restoring: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("restoring: {0}")]
    Read(#[from] ReadError),
    #[error("restoring: {0}")]
    Commit(#[from] CommitError),
}

/// Makes a store out of a backup. No server may run on it.
pub async fn restore(task: Restore<'_>) -> Result<Restored, RestoreError> {
    let Location::Sqlite(named) = task.to;
    let path = &resolve(named).map_err(|source| RestoreError::File {
        path: named.clone(),
        source,
    })?;
    let lock = Lock::take(path).map_err(OpenError::from)?;
    log_without_database(path)?;
    let in_the_way = files_of(path).iter().any(|part| is_used(part));
    if in_the_way && !task.move_aside {
        return Err(RestoreError::Exists(path.clone()));
    }
    let scratch = Scratch::beside(path);
    let file = |source| RestoreError::File {
        path: path.clone(),
        source,
    };
    create_file(&scratch.0).map_err(file)?;
    let from = match task.from {
        From::Backup(from) => {
            copy(from, &scratch.0).await?;
            from
        }
        From::Export(from) => {
            take_in(from, &scratch.0).await?;
            from
        }
    };
    let mut connection = schema_options(&scratch.0).connect().await?;
    prepare(&mut connection, from).await?;
    let (store_id, epoch) = rename_store(&mut connection).await?;
    connection.close().await?;
    let reader = Reader::open(&scratch.0).await?;
    let mut writer = Writer::open(&scratch.0, lock, epoch, reader.clone()).await?;
    let (revision, expected) = expect_all(&mut writer, &task).await?;
    reader.close().await;
    let lock = writer.into_one_file().await?;
    std::fs::File::open(&scratch.0)
        .and_then(|content| content.sync_all())
        .map_err(file)?;
    if let From::Export(path) = task.from {
        let problems = check(&Location::Sqlite(scratch.0.clone())).await;
        if let Some(problem) = problems.map_err(RestoreError::Source)?.into_iter().next() {
            let path = path.to_owned();
            return Err(RestoreError::Contradicts { path, problem });
        }
    }
    if in_the_way {
        depose(path).await?;
    }
    let moved_to = in_the_way.then(|| free_name(path, task.now));
    for step in change_over(&scratch.0, path, moved_to.as_deref()) {
        step.perform().map_err(file)?;
    }
    drop(lock);
    Ok(Restored {
        store_id,
        revision,
        expected,
        moved_to,
    })
}

/// The content of a backup that is whole, in a file of its own.
async fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let from = Location::Sqlite(from.to_owned());
    let mut source = read_only(&from).await.map_err(RestoreError::Source)?;
    if let Some(problem) = first_damage(&mut source).await? {
        let Location::Sqlite(path) = from;
        return Err(RestoreError::Damaged { path, problem });
    }
    copy_into(&mut source, to).await?;
    source.close().await?;
    Ok(())
}

/// The rows of an export, in a new database.
async fn take_in(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let file_error = |source| RestoreError::File {
        path: from.to_owned(),
        source,
    };
    let lines = std::fs::File::open(from).map_err(file_error)?;
    let mut connection = schema_options(to).connect().await?;
    prepare(&mut connection, to).await?;
    connection.close().await?;
    let path = to.to_owned();
    let imported = tokio::task::spawn_blocking(move || {
        let connection = connect(&path).map_err(|error| ImportError {
            line: 0,
            problem: error.to_string(),
        })?;
        transfer::import(&connection, &mut std::io::BufReader::new(lines))
    });
    let imported = imported.await.expect("importing does not panic");
    imported.map(drop).map_err(|source| RestoreError::Import {
        path: from.to_owned(),
        source,
    })
}

/// The new name, and numbers above all that were given out. What the log has so far is history, and
/// nobody can go on from it: the lost store had other decisions after it.
async fn rename_store(connection: &mut SqliteConnection) -> Result<(String, i64), RestoreError> {
    // Others may have been named since: nobody may answer by what a backup says.
    sqlx::query("delete from tenure")
        .execute(&mut *connection)
        .await?;
    let store_id = uuid::Uuid::new_v4().to_string();
    let row: (i64,) = sqlx::query_as(
        "update meta set store_id = ?1, epoch = epoch + ?2, revision = revision + ?2,
            fact_seq = fact_seq + ?2, log_start = revision + ?2 + 1
        returning epoch",
    )
    .bind(&store_id)
    .bind(AHEAD)
    .fetch_one(connection)
    .await?;
    Ok((store_id, row.0))
}

/// Expects every cluster. Says at which revision the store is then, and how many there are.
async fn expect_all(
    writer: &mut Writer,
    task: &Restore<'_>,
) -> Result<(Revision, usize), RestoreError> {
    let loaded = writer.load().await?;
    let known = loaded.rows.iter().filter_map(Change::cluster);
    let known: Vec<Arc<Cluster>> = known.filter_map(|edit| edit.after.clone()).collect();
    let new = task.also_expected.iter();
    let new = new.filter(|name| known.iter().all(|cluster| cluster.name != **name));
    let new = new.map(|name| (None, expected_cluster(name.clone(), task.now)));
    let expected = known.iter().map(|cluster| {
        let inventory = Inventory::Expected;
        let after = Cluster {
            inventory,
            ..Cluster::clone(cluster)
        };
        (Some(Arc::clone(cluster)), after)
    });
    let origin = Arc::new(Origin {
        actor: "ipam-service restore".to_owned(),
        ..Origin::default()
    });
    let mut revision = loaded.revision;
    let changes = expected.chain(new).map(|(before, after)| {
        revision += 1;
        let after = Some(Arc::new(Cluster { revision, ..after }));
        Logged {
            revision: Some(revision),
            change: Change::Cluster(Edit { before, after }),
            origin: Arc::clone(&origin),
        }
    });
    let batch = Batch {
        time: task.now.max(loaded.last_time),
        changes: changes.collect(),
        ..Batch::default()
    };
    writer.commit(&batch).await?;
    Ok((revision, batch.changes.len()))
}

/// A cluster of which nothing is known but its name: it has yet to report what it holds.
pub fn expected_cluster(name: Name, now: Timestamp) -> Cluster {
    Cluster {
        name,
        uid: String::new(),
        inventory: Inventory::Expected,
        fence: 0,
        create_time: now,
        revision: 0,
    }
}

/// A database, its log and the index of its log.
fn files_of(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| beside(path, suffix))
}

/// Takes a database from whoever has it open although the lock is ours: with another name the file would
/// still be acknowledged into. One that cannot be read or written needs none of it, and is left as it is.
async fn depose(path: &Path) -> Result<(), RestoreError> {
    let database = path.to_owned();
    let deposed = tokio::task::spawn_blocking(move || begin_last_epoch(&database));
    let deposed = deposed.await.expect("two statements do not panic");
    match deposed {
        Err(DeposeError::Sql(error))
            if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) =>
        {
            Err(RestoreError::Written(path.to_owned()))
        }
        Err(error) => {
            tracing::warn!(%error, "the database that is moved aside is left as it is");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// Why nobody was deposed.
#[derive(Debug, thiserror::Error)]
enum DeposeError {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("its log: {0}")]
    Log(#[from] std::io::Error),
}

/// Of what the log has so far some may never have reached the disk, and what is written behind that would
/// be lost with it: so all of it is written once more.
fn begin_last_epoch(path: &Path) -> Result<(), DeposeError> {
    let connection = connect(path)?;
    // What is moved aside stays what it is, a log and all.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(DEPOSE_WITHIN)?;
    connection.execute_batch("begin immediate")?;
    rewrite_log_of(path)?;
    connection.execute("update meta set epoch = epoch + 1 where id = 1", ())?;
    Ok(connection.execute_batch("commit")?)
}

/// A transaction of a process that runs is long since over.
const DEPOSE_WITHIN: Duration = Duration::from_secs(1);

/// A name for what is in the way.
fn free_name(path: &Path, now: Timestamp) -> PathBuf {
    let mut seconds = now.0 / 1_000_000;
    loop {
        let name = beside(path, &format!("{REPLACED}{seconds}"));
        if !files_of(&name).iter().any(|part| part.exists()) {
            return name;
        }
        seconds += 1;
    }
}

/// How the new store takes its name, after what has it now has got another. A log that stays behind
/// would be taken for that of the next database of this name. Nobody misses a log that went first, but
/// a server sees that a database is gone whose log or successor is there, and makes no new one.
pub(super) fn change_over(scratch: &Path, path: &Path, aside: Option<&Path>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(aside) = aside {
        for (from, to) in files_of(path).into_iter().zip(files_of(aside)) {
            if from.exists() {
                steps.push(Step::Rename(from, to));
                steps.push(Step::Sync(path.to_owned()));
            }
        }
    }
    steps.push(Step::Rename(scratch.to_owned(), path.to_owned()));
    steps.push(Step::Sync(path.to_owned()));
    steps
}

/// The file in which the new store is made; gone when dropped, unless it was renamed.
struct Scratch(PathBuf);

impl Scratch {
    /// The lock of the database guards it too.
    fn beside(path: &Path) -> Self {
        let scratch = Self(beside(path, RESTORING));
        scratch.remove();
        scratch
    }

    fn remove(&self) {
        for part in files_of(&self.0) {
            let _ = std::fs::remove_file(part);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}
