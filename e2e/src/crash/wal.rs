//! A disk that loses its last writes: SQLite's write-ahead log, cut off some transactions before its
//! end (file format: sqlite.org/fileformat2.html, section 4). This is what a power cut can do under
//! `synchronous=OFF`, and what `kill -9` never does.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::Context as _;

/// Bytes of the header of the log and of a frame.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Cuts the last `transactions` off the log of a database that nobody has open. Says how many were
/// there to be cut off.
pub fn lose_transactions(database: &Path, transactions: usize) -> anyhow::Result<usize> {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    let log = std::fs::read(&path)?;
    let commits = ends_of_transactions(&log).context("not a write-ahead log")?;
    let kept = commits.len().saturating_sub(transactions);
    let length = match kept.checked_sub(1) {
        Some(last) => commits[last],
        None => LOG_HEADER,
    };
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(u64::try_from(length)?)?;
    Ok(commits.len() - kept)
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
