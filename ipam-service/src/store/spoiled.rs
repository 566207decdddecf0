//! Rows of other bytes than were written: for tests and fuzzing.
//!
//! What can be read is written into a database, as far as its constraints take it, and loaded: it makes a
//! state that has all of it, and the same again in a second database.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::load::{LOADERS, Loaded, Names, load};
use super::open::empty_in_memory;
use super::write::{CommitError, write_at_once};
use super::{Batch, Logged, Origin, ReadError};
use crate::state::State;
use crate::state::change::Change;
use crate::state::invariants::assert_same_book;

/// Columns of the widest row.
pub(super) const WIDEST: usize = 6;

/// Reads rows as if they were in the tables, `(table, cells)` each; a cell is `(type, length, bytes)`.
/// What is not as it was written is an error. Says how many rows were read.
pub(crate) fn rows(mut bytes: &[u8]) -> usize {
    let connection = Connection::open_in_memory().expect("memory");
    let mut names = Names::default();
    let mut read = Vec::new();
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
            Ok(row) => read.push(row),
            Err(error @ (ReadError::Corrupt(_) | ReadError::Load(_))) => {
                assert!(!error.to_string().is_empty());
            }
            Err(error) => panic!("a row is read or damaged: {error}"),
        }
    }
    let count = read.len();
    load_twice(read);
    count
}

fn load_twice(rows: Vec<Change>) {
    let (_, first) = filled(rows);
    let state = State::restore(first.revision, first.rows.clone());
    assert_eq!(state.difference(&first.rows), None);
    let (refused, second) = filled(first.rows);
    assert_eq!(refused, 0, "rows that were taken are taken again");
    assert_eq!(state.difference(&second.rows), None);
    assert_same_book(&State::restore(first.revision, second.rows), &state);
}

/// A database of these rows, loaded, and how many it refused. Each is written by itself, so that no
/// other has to go with one that is refused.
fn filled(rows: Vec<Change>) -> (usize, Loaded) {
    let connection = empty_in_memory();
    let (mut refused, mut revision) = (0, 0);
    for change in rows {
        let next = revision + u64::from(change.is_decision());
        let batch = Batch {
            changes: vec![Logged {
                revision: change.is_decision().then_some(next),
                change,
                origin: Arc::new(Origin::default()),
            }],
            ..Batch::default()
        };
        match write_at_once(&connection, &batch, revision) {
            Ok(()) => revision = next,
            Err(CommitError::Refused(_)) => refused += 1,
            Err(error) => panic!("a row is taken or refused: {error}"),
        }
    }
    let loaded = load(&connection).expect("what was written is read");
    (refused, loaded)
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
