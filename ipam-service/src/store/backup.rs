//! `ipam-service backup`: a copy of a database that may be in use.
//!
//! One read transaction, so the copy is the store as it was at one commit; the writer is not
//! held up. A copy has its final name only when it is whole, on disk and has been read back.

use std::fs::OpenOptions;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::check::{first_damage, read_only};
use super::files::sync_folder;
use super::sqlite::{code_of, reader_options};
use super::transfer::{self, ExportError, Exported};
use super::{CheckError, Location, ReadError};
use crate::state::model::Revision;

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Of the store that was copied.
    pub store_id: String,
    /// Every decision up to this one is in it, and none after.
    pub revision: Revision,
    pub bytes: u64,
}

/// Why there is no backup. Nothing is left of an attempt that failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Source(#[from] CheckError),
    #[error("{} exists already; a backup overwrites nothing", .0.display())]
    Exists(PathBuf),
    #[error("no space left for {}", .0.display())]
    Full(PathBuf),
    #[error("{}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("copying the database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the copy is damaged, and so is probably the database (ipam-service check): {0}")]
    Damaged(String),
}

impl From<ReadError> for BackupError {
    fn from(error: ReadError) -> Self {
        Self::Source(error.into())
    }
}

/// Copies a database into a new file. Needs no lock; a server may be running.
pub async fn backup(location: &Location, to: &Path) -> Result<Backup, BackupError> {
    let mut source = read_only(location).await?;
    let target = Target::claim(to)?;
    copy_into(&mut source, &target.partial).await?;
    source.close().await?;
    let backup = inspect(&target.partial).await?;
    target.finish()?;
    Ok(backup)
}

/// What is exported beside the state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    pub history: bool,
    pub passwords: bool,
}

/// Writes everything as JSON lines, into a new file, or to standard output. Needs no lock; a server
/// may be running.
pub async fn export(
    location: &Location,
    to: Option<&Path>,
    beside: Beside,
) -> Result<Exported, BackupError> {
    read_only(location).await?.close().await?;
    let Location::Sqlite(path) = location.clone();
    let target = to.map(Target::claim).transpose()?;
    let partial = target.as_ref().map(|target| target.partial.clone());
    let exported = tokio::task::spawn_blocking(move || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(ExportError::from)?;
        let Some(partial) = partial else {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let exported = transfer::export(&connection, &mut out, beside)?;
            out.flush().map_err(ExportError::from)?;
            return Ok(exported);
        };
        let open = OpenOptions::new().write(true).open(&partial);
        let mut out = BufWriter::new(file(&partial, open)?);
        let exported = transfer::export(&connection, &mut out, beside)?;
        file(&partial, out.flush())?;
        Ok::<_, BackupError>(exported)
    });
    let exported = exported.await.expect("exporting does not panic")?;
    if let Some(target) = target {
        target.finish()?;
    }
    Ok(exported)
}

/// Copies a database into a file that is missing or empty, without its free space and its log.
/// What is committed while it runs is not in the copy.
pub(super) async fn copy_into(source: &mut SqliteConnection, to: &Path) -> Result<(), BackupError> {
    let name = to.to_str().ok_or_else(|| BackupError::File {
        path: to.to_owned(),
        source: ErrorKind::InvalidFilename.into(),
    })?;
    let copied = sqlx::query("vacuum into ?1")
        .bind(name)
        .execute(source)
        .await;
    match copied {
        Ok(_) => Ok(()),
        Err(error) if is_full(&error) => Err(BackupError::Full(to.to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// Reads a copy back: is the file whole, and what is in it?
async fn inspect(copy: &Path) -> Result<Backup, BackupError> {
    let mut connection = reader_options(copy).connect().await?;
    if let Some(problem) = first_damage(&mut connection).await? {
        return Err(BackupError::Damaged(problem));
    }
    let row = sqlx::query("select store_id, revision from meta where id = 1")
        .fetch_one(&mut connection)
        .await?;
    let revision: i64 = row.try_get(1)?;
    let backup = Backup {
        store_id: row.try_get(0)?,
        revision: u64::try_from(revision).map_err(|error| ReadError::Corrupt(error.to_string()))?,
        bytes: file(copy, std::fs::metadata(copy))?.len(),
    };
    connection.close().await?;
    Ok(backup)
}

/// SQLITE_FULL
fn is_full(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| code & 0xff == 13)
}

/// Names the file of an I/O error.
fn file<T>(path: &Path, outcome: std::io::Result<T>) -> Result<T, BackupError> {
    outcome.map_err(|source| {
        let path = path.to_owned();
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            return BackupError::Full(path);
        }
        BackupError::File { path, source }
    })
}

/// A new file: an empty one holds its name while the content is made beside it. Dropped before it
/// is finished, it leaves nothing.
pub(super) struct Target {
    name: PathBuf,
    /// Where the content is made.
    pub(super) partial: PathBuf,
    finished: bool,
}

impl Target {
    /// Takes the name, which must be free.
    pub(super) fn claim(name: &Path) -> Result<Self, BackupError> {
        match create_new(name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(BackupError::Exists(name.to_owned()));
            }
            made => file(name, made)?,
        }
        let mut partial = name.as_os_str().to_owned();
        partial.push(".partial");
        let target = Self {
            name: name.to_owned(),
            partial: PathBuf::from(partial),
            finished: false,
        };
        // What an earlier attempt left that was killed.
        match std::fs::remove_file(&target.partial) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => file(&target.partial, removed)?,
        }
        file(&target.partial, create_new(&target.partial))?;
        Ok(target)
    }

    /// Makes the content durable, and gives it its name.
    pub(super) fn finish(mut self) -> Result<(), BackupError> {
        let synced = std::fs::File::open(&self.partial).and_then(|content| content.sync_all());
        file(&self.partial, synced)?;
        file(&self.name, std::fs::rename(&self.partial, &self.name))?;
        self.finished = true;
        file(&self.name, sync_folder(&self.name))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            // The error that is on its way matters more than one of these.
            let _ = std::fs::remove_file(&self.partial);
            let _ = std::fs::remove_file(&self.name);
        }
    }
}

/// Readable by its owner only: it holds the whole history.
fn create_new(path: &Path) -> std::io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}
