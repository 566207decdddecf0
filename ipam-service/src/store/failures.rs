//! Reads that failed, counted by what went wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sqlite::code_of;
use super::write::is_storage_failure;
use super::{LogError, ReadError, Reader};

/// What went wrong in a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// The file, or the disk below it.
    Storage,
    /// A row is not what this program writes.
    Damaged,
    /// A row is of a newer version.
    Newer,
    /// Anything else: no connection was free, or the store is being closed.
    Unavailable,
}

impl ReadFailure {
    pub const ALL: [Self; 4] = [Self::Storage, Self::Damaged, Self::Newer, Self::Unavailable];

    /// As a label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Damaged => "damaged",
            Self::Newer => "newer",
            Self::Unavailable => "unavailable",
        }
    }

    fn of(error: &ReadError) -> Self {
        let code = match error {
            ReadError::Corrupt(_) => return Self::Damaged,
            ReadError::Newer { .. } => return Self::Newer,
            ReadError::Sql(error) => code_of(error),
            ReadError::Load(error) => error.sqlite_error().map(|error| error.extended_code),
        };
        match code.is_some_and(is_storage_failure) {
            true => Self::Storage,
            false => Self::Unavailable,
        }
    }
}

/// How many reads failed so. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures(Arc<[AtomicU64; ReadFailure::ALL.len()]>);

impl Failures {
    fn of(&self, kind: ReadFailure) -> &AtomicU64 {
        let [storage, damaged, newer, unavailable] = &*self.0;
        match kind {
            ReadFailure::Storage => storage,
            ReadFailure::Damaged => damaged,
            ReadFailure::Newer => newer,
            ReadFailure::Unavailable => unavailable,
        }
    }
}

/// The outcome of something that reads.
pub(super) trait Reads {
    /// The read that failed, if it was one.
    fn failed(&self) -> Option<&ReadError>;
}

impl Reads for ReadError {
    fn failed(&self) -> Option<&ReadError> {
        Some(self)
    }
}

impl Reads for LogError {
    fn failed(&self) -> Option<&ReadError> {
        match self {
            Self::Read(error) => Some(error),
            Self::Compacted { .. } | Self::Future { .. } => None,
        }
    }
}

impl Reader {
    /// Reads that failed so since the start.
    pub fn failures(&self, kind: ReadFailure) -> u64 {
        self.failures.of(kind).load(Ordering::Relaxed)
    }

    /// Carries a read out, and counts it if it fails.
    pub(super) async fn counted<T, E: Reads>(
        &self,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let outcome = read.await;
        if let Err(error) = &outcome
            && let Some(error) = error.failed()
        {
            let kind = ReadFailure::of(error);
            self.failures.of(kind).fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}
