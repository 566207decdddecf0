//! SQLite's write-ahead log as a killed server left it (file format: sqlite.org/fileformat2.html,
//! section 4; its index: sqlite.org/walformat.html, section 2).
//!
//! [`lose_transactions`] is a disk that loses its last writes: it cuts the log off some transactions
//! before its end. This is what a power cut can do under `synchronous=OFF`, and what `kill -9` never
//! does. [`in_checkpoint`] says whether the kill met a checkpoint that copied; the sync
//! behind that makes no difference to a kill.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Bytes of the header of the log and of a frame.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Where the index of the log says how many of its frames surely are in the database file, and how
/// many a checkpoint has begun to copy there.
const BACKFILLED: u64 = 96;
const BACKFILL_BEGUN: u64 = 128;

/// Cuts the last `transactions` off the log of a database that nobody has open. Says how many were
/// there to be cut off: what a checkpoint has begun to copy stays, since without the log the database
/// file would be neither the old nor the new one.
pub fn lose_transactions(database: &Path, transactions: usize) -> anyhow::Result<usize> {
    let path = beside(database, "-wal");
    let log = std::fs::read(&path)?;
    let copied = index_entry(database, BACKFILL_BEGUN)?;
    let commits = ends_of_transactions(&log).context("not a write-ahead log")?;
    let page = number(&log, 8).context("no page size")?;
    let frame = FRAME_HEADER + usize::try_from(page)?;
    let copied_to = LOG_HEADER + usize::try_from(copied)? * frame;
    let fixed = commits.iter().filter(|end| **end <= copied_to).count();
    let kept = commits.len().saturating_sub(transactions).max(fixed);
    let length = match kept.checked_sub(1) {
        Some(last) => commits[last],
        None => LOG_HEADER,
    };
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(u64::try_from(length)?)?;
    Ok(commits.len() - kept)
}

/// Whether a checkpoint had begun to copy, and had not ended, when the last user of the database was
/// killed. If that was while it opened a log that another kill had left, the index says so, too, and it
/// is not true.
pub fn in_checkpoint(database: &Path) -> anyhow::Result<bool> {
    Ok(index_entry(database, BACKFILL_BEGUN)? > index_entry(database, BACKFILLED)?)
}

/// A number of the index, which is in the byte order of the machine. No index: nothing was copied.
fn index_entry(database: &Path, at: u64) -> anyhow::Result<u32> {
    let index = match File::open(beside(database, "-shm")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        index => index?,
    };
    let mut bytes = [0; 4];
    match index.read_exact_at(&mut bytes, at) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
        read => read.map(|()| u32::from_ne_bytes(bytes)).map_err(Into::into),
    }
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

/// Where in the log each transaction ends. Frames behind the last one are of an earlier round of
/// the log: their salts differ from the header's.
fn ends_of_transactions(log: &[u8]) -> Option<Vec<usize>> {
    let page = usize::try_from(number(log, 8)?).ok()?;
    let salts = log.get(16..24)?;
    let mut ends = Vec::new();
    let mut start = LOG_HEADER;
    while let Some(frame) = log.get(start..start + FRAME_HEADER + page) {
        if frame.get(8..16)? != salts {
            break;
        }
        start += FRAME_HEADER + page;
        // The size of the database after a commit; 0 in all other frames.
        if number(frame, 4)? != 0 {
            ends.push(start);
        }
    }
    Some(ends)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
