//! After an error of the disk: a fresh copy of the database, synced, to go on with.
//!
//! A sync that failed may have dropped what it was to write, and the next one then says that all is
//! well. So nothing more is written to a file whose sync failed. What can be read of it is copied,
//! the copy is synced, and if it holds what this process knows it takes the name of the original.
//!
//! The copy is made of the same pages, not of the same rows. So wherever a crash strikes, the log
//! beside the new file repeats what is in it already, and does no harm: if it is the whole log. Of the
//! old one some frames may never reach the disk, and a loss of power would leave a log that takes
//! pages of the new file back to what they were before. So a whole copy of it takes its name first.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::files::{beside, create_file};
use super::load::load;
use super::step::Step;
use super::write::{connect, empty_log};
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
        let readers = self.readers.hold().await;
        // They are held until the last step also where nobody waits for it any more.
        let swapped = tokio::task::spawn_blocking(move || {
            for step in change_over(&path) {
                at(step.path(), step.perform())?;
            }
            Ok::<_, RenewError>((connect(&path)?, readers))
        });
        let (connection, readers) = swapped.await.expect("renaming does not panic")?;
        // SQLite sees that the old file is no longer behind its name, and leaves the new log alone.
        drop(self.connection.take());
        readers.reopen(&self.path).await.map_err(ReadError::from)?;
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
    copy_files(path)?;
    let fresh = beside(path, FRESH);
    let connection = connect(&fresh)?;
    if !empty_log(&connection)? {
        return Err(RenewError::Busy);
    }
    check_pages(&connection)?;
    let loaded = load(&connection)?;
    connection.close().map_err(|(_, error)| error)?;
    sync_file(&fresh)?;
    Ok(loaded)
}

/// Where the copy is made.
const FRESH: &str = ".fresh";

/// The whole log that led to the copy, on disk.
const FRESH_LOG: &str = ".fresh-log";

/// Copies database and log, and makes the copy durable. Nobody may write to either: the writer has
/// stopped, and checkpoints rest.
fn copy_files(path: &Path) -> Result<(), RenewError> {
    let fresh = beside(path, FRESH);
    let log = beside(path, FRESH_LOG);
    remove_copy(path)?;
    copy_file(path, &fresh)?;
    // Read once: what was not written may be there now and gone in a moment.
    match copy_file(&beside(path, "-wal"), &log) {
        // Without a log everything is in the database.
        Err(RenewError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            at(&log, create_file(&log))?;
        }
        copied => copied?,
    }
    copy_file(&log, &beside(&fresh, "-wal"))
}

/// Removes a copy, whole or not. Until it has the name of the database nobody needs it.
pub(super) fn remove_copy(path: &Path) -> Result<(), RenewError> {
    let fresh = beside(path, FRESH);
    let files = ["", "-wal", "-shm"].map(|suffix| beside(&fresh, suffix));
    for part in files.into_iter().chain([beside(path, FRESH_LOG)]) {
        at(&part, Step::Remove(part.clone()).perform())?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), RenewError> {
    let mut source = at(from, std::fs::File::open(from))?;
    at(to, create_file(to))?;
    let mut target = at(to, std::fs::OpenOptions::new().write(true).open(to))?;
    at(to, std::io::copy(&mut source, &mut target))?;
    at(to, target.sync_all())
}

fn sync_file(path: &Path) -> Result<(), RenewError> {
    at(path, std::fs::File::open(path).and_then(|it| it.sync_all()))
}

/// How the copy takes the name of the original. Before the log of the old file goes, the new file has
/// its name for good; before anybody writes a new log, the old one is gone for good.
pub(super) fn change_over(path: &Path) -> [Step; 7] {
    let sync = || Step::Sync(path.to_owned());
    let log = beside(path, "-wal");
    [
        Step::Rename(beside(path, FRESH_LOG), log.clone()),
        sync(),
        Step::Rename(beside(path, FRESH), path.to_owned()),
        sync(),
        Step::Remove(log),
        Step::Remove(beside(path, "-shm")),
        sync(),
    ]
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
