//! After an error of the disk: a fresh copy of the database, synced, to go on with.
//!
//! A sync that failed may have dropped what it was to write, and the next one then says that all is
//! well. So nothing more is written to a file whose sync failed. What can be read of it is copied,
//! the copy is synced, and if it holds what this process knows it takes the name of the original.
//!
//! The copy is made of the same pages, not of the same rows. So wherever a crash strikes, the old log
//! beside the new file repeats what is in it already, and does no harm.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::load::load;
use super::open::{create_file, sync_folder};
use super::write::connect;
use super::{Loaded, ReadError, Writer};

/// Why there is no fresh copy yet. The original is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("{}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the copy: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("the copy: {0}")]
    Read(#[from] ReadError),
    #[error("the copy is damaged: {0}")]
    Damaged(String),
    #[error("the copy is in use")]
    Busy,
}

impl Writer {
    /// Makes a fresh copy and says what is in it. Checkpoints rest until [`Writer::adopt_copy`].
    ///
    /// May be dropped, and repeated.
    pub async fn copy_afresh(&mut self) -> Result<Loaded, RenewError> {
        if self.paused.is_none() {
            self.paused = Some(self.gate.pause().await);
        }
        let path = self.path.clone();
        let copied = tokio::task::spawn_blocking(move || copy(&path)).await;
        copied.expect("copying does not panic")
    }

    /// Gives the fresh copy the name of the original, and goes on with it: the writer, the readers
    /// and the checkpoints. `loaded` is what [`Writer::copy_afresh`] found in it.
    pub async fn adopt_copy(&mut self, loaded: &Loaded) -> Result<(), RenewError> {
        let path = self.path.clone();
        // SQLite sees that the old file is no longer behind its name, and leaves the new log alone.
        let old = self.connection.take();
        let swapped = tokio::task::spawn_blocking(move || {
            swap(&path)?;
            drop(old);
            Ok::<_, RenewError>(connect(&path)?)
        });
        let connection = swapped.await.expect("renaming does not panic")?;
        self.readers
            .reopen(&self.path)
            .await
            .map_err(ReadError::from)?;
        self.connection = Some(connection);
        self.revision = loaded.revision;
        self.fact_seq = loaded.fact_seq;
        if let Some(mut paused) = self.paused.take() {
            self.gate.renewed(&mut paused);
        }
        Ok(())
    }
}

/// Copies, empties the copy's log into it, and reads it.
fn copy(path: &Path) -> Result<Loaded, RenewError> {
    let fresh = fresh_path(path);
    copy_files(path, &fresh)?;
    let connection = connect(&fresh)?;
    let empty = "pragma wal_checkpoint(truncate)";
    let busy: i64 = connection.query_row(empty, (), |row| row.get(0))?;
    if busy != 0 {
        return Err(RenewError::Busy);
    }
    check_pages(&connection)?;
    let loaded = load(&connection)?;
    connection.close().map_err(|(_, error)| error)?;
    sync_file(&fresh)?;
    Ok(loaded)
}

/// `PATH.fresh`.
fn fresh_path(path: &Path) -> PathBuf {
    with_suffix(path, ".fresh")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies database and log, and makes the copy durable. Nobody may write to either: the writer has
/// stopped, and checkpoints rest.
fn copy_files(path: &Path, fresh: &Path) -> Result<(), RenewError> {
    for suffix in ["", "-wal", "-shm"] {
        let part = with_suffix(fresh, suffix);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => at(&part, removed)?,
        }
    }
    for suffix in ["", "-wal"] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(fresh, suffix));
        let mut source = match std::fs::File::open(&from) {
            // Without a log everything is in the database.
            Err(error) if error.kind() == ErrorKind::NotFound && !suffix.is_empty() => continue,
            opened => at(&from, opened)?,
        };
        at(&to, create_file(&to))?;
        let mut target = at(&to, std::fs::OpenOptions::new().write(true).open(&to))?;
        at(&to, std::io::copy(&mut source, &mut target))?;
        at(&to, target.sync_all())?;
    }
    Ok(())
}

fn sync_file(path: &Path) -> Result<(), RenewError> {
    at(path, std::fs::File::open(path).and_then(|it| it.sync_all()))
}

/// The new file first, durably; then away with the log of the old one, durably too, before anybody
/// writes a new log under its name.
fn swap(path: &Path) -> Result<(), RenewError> {
    at(path, std::fs::rename(fresh_path(path), path))?;
    at(path, sync_folder(path))?;
    for suffix in ["-wal", "-shm"] {
        let part = with_suffix(path, suffix);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => at(&part, removed)?,
        }
    }
    at(path, sync_folder(path))
}

fn at<T>(path: &Path, outcome: std::io::Result<T>) -> Result<T, RenewError> {
    outcome.map_err(|source| RenewError::File {
        path: path.to_owned(),
        source,
    })
}

fn check_pages(connection: &Connection) -> Result<(), RenewError> {
    let found: String = connection.query_row("pragma quick_check(1)", (), |row| row.get(0))?;
    match found.as_str() {
        "ok" => Ok(()),
        problem => Err(RenewError::Damaged(problem.to_owned())),
    }
}
