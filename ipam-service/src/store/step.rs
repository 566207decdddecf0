//! Changes of names on the disk, as values: a crash or a loss of power may come between any two, and
//! the tests stop at each.

use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::files::sync_folder;

/// One call to the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Whatever had the second name has none then.
    Rename(PathBuf, PathBuf),
    /// Or there is no such file.
    Remove(PathBuf),
    /// Makes durable what was done in the folder of this file. Until then any of it may be undone by
    /// a loss of power, in any order.
    Sync(PathBuf),
}

impl Step {
    pub(super) fn perform(&self) -> Result<()> {
        match self {
            Self::Rename(from, to) => std::fs::rename(from, to),
            Self::Remove(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            Self::Sync(path) => sync_folder(path),
        }
    }

    /// The file that it is about.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Rename(path, _) | Self::Remove(path) | Self::Sync(path) => path,
        }
    }
}
