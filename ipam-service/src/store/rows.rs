//! Rows on their way into SQL: one JSON text and one block of bytes per statement, instead of one
//! statement per row. Rows, more than fsyncs, set the rate.

/// Rows of one statement. `?1` is a JSON array with one array per row, `?2` the bytes of all blobs
/// one after the other; a blob is two cells, its position in `?2` (from 1) and its length.
#[derive(Debug, Default)]
pub(super) struct Rows {
    json: String,
    blobs: Vec<u8>,
    count: usize,
}

impl Rows {
    /// Adds a row.
    pub(super) fn push(&mut self, cells: &[Cell<'_>]) {
        self.json.push(if self.count == 0 { '[' } else { ',' });
        self.count += 1;
        for (index, cell) in cells.iter().enumerate() {
            self.json.push(if index == 0 { '[' } else { ',' });
            self.push_cell(cell);
        }
        self.json.push(']');
    }

    /// Whether there is nothing to run.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push_cell(&mut self, cell: &Cell<'_>) {
        use std::fmt::Write as _;
        match cell {
            Cell::Text(text) => push_json_text(&mut self.json, text),
            Cell::Int(number) => {
                // Writing to a String cannot fail.
                let _ = write!(self.json, "{number}");
            }
            Cell::Blob(None) => self.json.push_str("null,null"),
            Cell::Blob(Some(bytes)) => {
                let _ = write!(self.json, "{},{}", self.blobs.len() + 1, bytes.len());
                self.blobs.extend_from_slice(bytes);
            }
        }
    }

    /// The two parameters of the statement.
    pub(super) fn into_parameters(mut self) -> (String, Vec<u8>) {
        self.json.push(']');
        if self.blobs.is_empty() {
            // An empty parameter would be bound as null, and every empty blob in it would be null.
            self.blobs.push(0);
        }
        (self.json, self.blobs)
    }
}

/// One value; a blob takes two places in the JSON array.
#[derive(Debug, Clone, Copy)]
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

/// A JSON string literal (RFC 8259 section 7).
fn push_json_text(json: &mut String, text: &str) {
    use std::fmt::Write as _;
    json.push('"');
    let mut plain_from = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        json.push_str(&text[plain_from..index]);
        plain_from = index + 1;
        // Writing to a String cannot fail.
        let _ = write!(json, "\\u{byte:04x}");
    }
    json.push_str(&text[plain_from..]);
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_one_json_text_and_one_block_of_bytes() {
        let mut rows = Rows::default();
        rows.push(&[Cell::Text("a\"b\\c\nd"), Cell::Int(-1), Cell::bytes(b"xy")]);
        rows.push(&[Cell::Text("ü"), Cell::number(7), Cell::Blob(None)]);
        rows.push(&[Cell::Text(""), Cell::Int(0), Cell::bytes(b"z")]);
        let (json, blobs) = rows.into_parameters();
        let read: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
        let expected = serde_json::json!([
            ["a\"b\\c\nd", -1, 1, 2],
            ["ü", 7, null, null],
            ["", 0, 3, 1]
        ]);
        assert_eq!(read, expected);
        assert_eq!(blobs, b"xyz");
    }
}
