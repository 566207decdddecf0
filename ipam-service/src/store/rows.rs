//! Rows on their way into SQL.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// Rows of one statement, each with as many cells as the statement has parameters. The texts of all
/// cells lie one after the other in one block, and so do their bytes: a row costs no allocation of
/// its own.
#[derive(Debug, Default)]
pub(super) struct Rows {
    cells: Vec<Stored>,
    texts: String,
    bytes: Vec<u8>,
    /// Cells of a row.
    width: usize,
}

/// A cell; texts and blobs by where they begin and end.
#[derive(Debug, Clone, Copy)]
enum Stored {
    Null,
    Int(i64),
    Text(usize, usize),
    Blob(usize, usize),
}

impl Rows {
    /// Adds a row, as wide as the others.
    pub(super) fn push(&mut self, cells: &[Cell<'_>]) {
        self.width = cells.len();
        for cell in cells {
            let stored = match cell {
                Cell::Int(number) => Stored::Int(*number),
                Cell::Blob(None) => Stored::Null,
                Cell::Text(text) => {
                    let first = self.texts.len();
                    self.texts.push_str(text);
                    Stored::Text(first, self.texts.len())
                }
                Cell::Blob(Some(bytes)) => {
                    let first = self.bytes.len();
                    self.bytes.extend_from_slice(bytes);
                    Stored::Blob(first, self.bytes.len())
                }
            };
            self.cells.push(stored);
        }
    }

    /// Whether there is nothing to run.
    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The parameters of each row.
    pub(super) fn iter(&self) -> impl Iterator<Item = impl Iterator<Item = Cell<'_>>> {
        // A row has a cell at least; without rows there is nothing to cut into pieces.
        let rows = self.cells.chunks_exact(self.width.max(1));
        rows.map(|row| row.iter().map(|cell| self.cell(*cell)))
    }

    fn cell(&self, stored: Stored) -> Cell<'_> {
        match stored {
            Stored::Null => Cell::Blob(None),
            Stored::Int(number) => Cell::Int(number),
            Stored::Text(first, end) => Cell::Text(&self.texts[first..end]),
            Stored::Blob(first, end) => Cell::bytes(&self.bytes[first..end]),
        }
    }
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Text(&'a str),
    Int(i64),
    Blob(Option<&'a [u8]>),
}

impl<'a> Cell<'a> {
    /// A number that a table holds as a signed one: revisions and ids stay below 2^63.
    pub(super) fn number(number: u64) -> Self {
        Self::Int(i64::try_from(number).expect("revisions and fences stay below 2^63"))
    }

    /// Bytes that are not null.
    pub(super) fn bytes(bytes: &'a [u8]) -> Self {
        Self::Blob(Some(bytes))
    }
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Blob(Some(bytes)) => ValueRef::Blob(bytes),
            Self::Blob(None) => ValueRef::Null,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_cell_by_cell_as_they_went_in() {
        let mut rows = Rows::default();
        assert!(rows.is_empty() && rows.iter().next().is_none());
        let written = [
            [Cell::Text("a\"b"), Cell::Int(-1), Cell::bytes(b"xy")],
            [Cell::Text("ü"), Cell::number(7), Cell::Blob(None)],
            [Cell::Text(""), Cell::Int(0), Cell::bytes(b"")],
        ];
        for row in &written {
            rows.push(row);
        }
        let read: Vec<Vec<Cell<'_>>> = rows.iter().map(Iterator::collect).collect();
        assert_eq!(read, written);
    }
}
