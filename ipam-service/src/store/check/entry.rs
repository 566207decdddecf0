//! Whether a row's columns say what its entry says.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::Problems;
use crate::store::ReadError;

/// What an entry says of itself: the key of its row, and its revision.
pub(super) type Said<const KEYS: usize> = ([String; KEYS], u64);

/// Compares a row of key columns, revision and entry; the last column of the key is its name.
pub(super) fn compare<const KEYS: usize>(
    table: &str,
    row: &SqliteRow,
    read: fn(&[u8]) -> Result<Said<KEYS>, String>,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let key: Vec<String> = (0..KEYS)
        .map(|column| row.try_get(column))
        .collect::<Result<_, _>>()?;
    let name = key.last().map_or("", String::as_str);
    let revision: i64 = row.try_get(KEYS)?;
    match read(row.try_get(KEYS + 1)?) {
        Err(error) => problems.add(format!("{table} {name}: {error}")),
        Ok((said, at)) if said[..] != key[..] || i64::try_from(at) != Ok(revision) => {
            problems.add(format!("{table} {name}: its columns and its entry differ"));
        }
        Ok(_) => {}
    }
    Ok(())
}
