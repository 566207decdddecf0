//! Rows of other bytes than were written: for tests and fuzzing.

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::ReadError;
use super::load::{LOADERS, Names};

/// Columns of the widest row.
pub(super) const WIDEST: usize = 6;

/// Reads rows as if they were in the tables, `(table, cells)` each; a cell is `(type, length, bytes)`.
/// What is not as it was written is an error. Says how many rows were read.
pub(crate) fn rows(mut bytes: &[u8]) -> usize {
    let connection = Connection::open_in_memory().expect("memory");
    let mut names = Names::default();
    let mut read = 0;
    while let Some(table) = taken(&mut bytes, 1) {
        let loader = &LOADERS[usize::from(table[0]) % LOADERS.len()];
        let cells = [(); WIDEST].map(|()| ToSqlOutput::Borrowed(cell(&mut bytes)));
        let mut statement = connection
            .prepare_cached("select ?1, ?2, ?3, ?4, ?5, ?6")
            .expect("good SQL");
        let row = statement.query_one(rusqlite::params_from_iter(cells), |row| {
            Ok((loader.read)(row, &mut names))
        });
        match row.expect("one row") {
            Ok(_row) => read += 1,
            Err(error @ (ReadError::Corrupt(_) | ReadError::Load(_))) => {
                assert!(!error.to_string().is_empty());
            }
            Err(error) => panic!("a row is read or damaged: {error}"),
        }
    }
    read
}

fn cell<'a>(bytes: &mut &'a [u8]) -> ValueRef<'a> {
    let Some(&[kind, length]) = taken(bytes, 2) else {
        return ValueRef::Null;
    };
    let rest = bytes.len();
    let content = taken(bytes, usize::from(length).min(rest)).unwrap_or_default();
    match kind % 4 {
        0 => ValueRef::Null,
        1 => {
            let mut number = [0; 8];
            let known = content.len().min(8);
            number[..known].copy_from_slice(&content[..known]);
            ValueRef::Integer(i64::from_le_bytes(number))
        }
        2 => ValueRef::Text(content),
        _ => ValueRef::Blob(content),
    }
}

/// Takes so many bytes off the front, if there are as many.
fn taken<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}
