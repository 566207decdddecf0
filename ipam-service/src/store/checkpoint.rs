//! Moving the log into the database file, beside the writer.
//!
//! SQLite begins its log anew only when a checkpoint has copied all of it while nobody appended, and
//! syncs the database file only then. Beside a busy writer that is a checkpoint of the writer's own,
//! for which every caller waits. So here passes follow one another, passive ones, which never wait
//! for the writer nor let it wait, and each is followed by a sync of the database file. When little is
//! left the writer is asked to [finish](Gate::must_finish): it finds a few pages to copy and to sync.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::CommitError;
use super::sqlite::WRITER_CHECKPOINT_FRAMES;
use super::write::{Failure, classify, connect};

/// Frames from which a pass is worth its syncs. SQLite's own default.
pub(super) const WORTH_IT: u32 = 1000;

/// Length of the log from which the writer is asked to finish, in frames: 32 MiB. It waits for a sync
/// each time, so not too often.
pub(super) const LONG: u32 = 8192;

/// How long a pass rests that had nothing to copy, as somebody reads what is older, or that failed.
const REST: Duration = Duration::from_millis(50);

// === What the log holds ===

/// How long the log is, in frames: pages of 4 KiB as they were after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LogSize {
    pub(super) frames: u32,
    /// So many of them, from the first on, are in the database file.
    pub(super) copied: u32,
}

impl LogSize {
    fn left(self) -> u32 {
        self.frames.saturating_sub(self.copied)
    }
}

/// How long the log is. Writes nothing.
pub(super) fn log_size(connection: &Connection) -> Result<LogSize, rusqlite::Error> {
    let size = checkpoint(connection, LOG_SIZE)?;
    Ok(size.unwrap_or_default())
}

/// The same for another binding: gives a flag, then frames and how many of them are copied.
pub(super) const LOG_SIZE: &str = "pragma wal_checkpoint(noop)";

/// Copies of the log what nobody's reading is in the way of, and says what it was then; `None`: somebody
/// else does so at the moment.
pub(super) fn copy_log(connection: &Connection) -> Result<Option<LogSize>, rusqlite::Error> {
    checkpoint(connection, "pragma wal_checkpoint(passive)")
}

fn checkpoint(connection: &Connection, sql: &str) -> Result<Option<LogSize>, rusqlite::Error> {
    let mut prepared = connection.prepare_cached(sql)?;
    prepared.query_row((), |row| {
        let size = size_of(row.get(1)?, row.get(2)?);
        Ok((row.get::<_, i64>(0)? == 0).then_some(size))
    })
}

/// As SQLite says it: below 0 where there is no log yet.
pub(super) fn size_of(frames: i64, copied: i64) -> LogSize {
    LogSize {
        frames: u32::try_from(frames).unwrap_or(0),
        copied: u32::try_from(copied).unwrap_or(0),
    }
}

// === The gate ===

/// What those who write to the file have to say to one another. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// Held while a checkpoint runs, and while checkpoints rest.
    files: Arc<Mutex<Option<Files>>>,
    /// Somebody met an error of the disk, or found the file to be another writer's.
    distrusted: watch::Sender<bool>,
    pub(super) log: watch::Sender<Log>,
}

/// While it lives no checkpoint runs.
pub(super) type Paused = OwnedMutexGuard<Option<Files>>;

/// The log as its writers have left it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Log {
    pub(super) size: LogSize,
    /// The writer is to finish the checkpoint.
    pub(super) finish: bool,
}

impl Log {
    /// Two do not copy at the same time: who is asked to finish is waited for.
    fn is_due(&self) -> bool {
        !self.finish && self.size.left() >= WORTH_IT
    }
}

impl Gate {
    /// Waits for the checkpoint that runs, and keeps others from beginning.
    pub(super) async fn pause(&self) -> Paused {
        Arc::clone(&self.files).lock_owned().await
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
        self.until_distrusted_is(true).await;
    }

    async fn until_distrusted_is(&self, wanted: bool) {
        let mut seen = self.distrusted.subscribe();
        seen.wait_for(|distrusted| *distrusted == wanted)
            .await
            .expect("this gate has a sender");
    }

    /// Another file has the database's name, and no log.
    pub(super) fn renewed(&self, paused: &mut Paused) {
        if let Some(files) = paused.take() {
            files.close();
        }
        self.log.send_replace(Log::default());
        self.distrusted.send_replace(false);
    }

    /// Whether the writer is to copy what is left of the log before it writes on: it was asked to, or
    /// checkpoints beside it do not keep up.
    pub(super) fn must_finish(&self) -> bool {
        let log = *self.log.borrow();
        log.finish || log.size.frames >= WRITER_CHECKPOINT_FRAMES
    }

    /// A commit has left the log so long. `finished`: nobody is to be waited for any more.
    pub(super) fn written(&self, size: LogSize, finished: bool) {
        self.log.send_if_modified(|log| {
            log.size = size;
            log.finish &= !finished;
            log.is_due()
        });
    }

    /// A pass has left the log so. As passes follow one another, there will hardly be less to finish.
    /// (Where nothing is left a transaction that runs may go on with the log all the same.)
    fn passed(&self, size: LogSize) {
        self.log.send_if_modified(|log| {
            log.size = size;
            log.finish = size.frames >= LONG;
            log.is_due()
        });
    }

    /// Waits until a pass is worth it. Cancel safe.
    async fn pass_is_due(&self) {
        self.until_distrusted_is(false).await;
        let mut seen = self.log.subscribe();
        seen.wait_for(Log::is_due)
            .await
            .expect("this gate has a sender");
    }
}

// === Passes ===

/// Why a pass was not made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("opening the database: {0}")]
    Open(std::io::Error),
    #[error("syncing the database: {0}")]
    Sync(std::io::Error),
}

impl PassError {
    /// Whether the file is not to be trusted any more.
    fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Sql(error) => classify(error) == Failure::Storage,
            // SQLite has opened it: there are too many files, for example.
            Self::Open(_) => false,
            Self::Sync(_) => true,
        }
    }
}

/// What a pass needs of the file that had the database's name last.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) connection: Connection,
    /// Not closed when it is dropped: to close any descriptor of a file gives back all locks that this
    /// process has on it, SQLite's too, and then another program could delete the log in use.
    pub(super) file: ManuallyDrop<File>,
}

impl Files {
    fn open(path: &Path) -> Result<Self, PassError> {
        Ok(Self {
            connection: connect(path)?,
            file: ManuallyDrop::new(File::open(path).map_err(PassError::Open)?),
        })
    }

    /// For a file that has lost its name: nobody can open it any more, and its space is needed.
    fn close(self) {
        drop(self.connection);
        drop(ManuallyDrop::into_inner(self.file));
    }

    /// Copies what can be copied, and syncs it; `None`: that was nothing.
    ///
    /// Linux tells of pages that could not be written once on each descriptor that was open then. So this
    /// sync takes no error away from SQLite's own on the same file.
    fn pass(&self) -> Result<Option<LogSize>, PassError> {
        let before = log_size(&self.connection)?;
        match copy_log(&self.connection)? {
            Some(after) if after.copied != before.copied => {}
            Some(_) | None => return Ok(None),
        }
        self.file.sync_data().map_err(PassError::Sync)?;
        Ok(Some(log_size(&self.connection)?))
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

    /// Never returns, and may be dropped at any time: a pass that runs ends by itself. Without passes
    /// the log grows until the writer itself copies it. An error of the disk ends writing, as one that
    /// the writer meets itself.
    pub async fn run(self) {
        loop {
            self.gate.pass_is_due().await;
            match self.pass().await {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(REST).await,
                Err(error) => {
                    tracing::warn!(%error, "a checkpoint of the database failed");
                    if error.is_of_the_disk() {
                        self.gate.distrust();
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Says whether anything was copied.
    pub(super) async fn pass(&self) -> Result<bool, PassError> {
        let mut files = self.gate.pause().await;
        if self.gate.is_distrusted() {
            return Ok(false);
        }
        let path = self.database.clone();
        // Who waits for the gate waits for the thread, also if this future is dropped.
        let done = tokio::task::spawn_blocking(move || {
            let files = match &mut *files {
                Some(open) => open,
                none => none.insert(Files::open(&path)?),
            };
            files.pass()
        });
        let size = done.await.expect("a checkpoint does not panic")?;
        if let Some(size) = size {
            self.gate.passed(size);
        }
        Ok(size.is_some())
    }
}
