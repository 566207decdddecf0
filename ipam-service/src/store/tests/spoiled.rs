//! Rows as they were written are read, and those that were not are errors.

use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::super::load::LOADERS;
use super::super::spoiled;
use super::backups::some_book;
use crate::testing::{Folder, apply_quota, apply_reservation};

/// The rows of a database, as [`spoiled::rows`] takes them, and their number. Bytes that do not fit
/// into a cell are left out.
fn written(connection: &Connection) -> (Vec<u8>, usize) {
    let (mut bytes, mut count) = (Vec::new(), 0);
    for (table, loader) in LOADERS.iter().enumerate() {
        let mut statement = connection.prepare(loader.sql).expect("good SQL");
        let width = statement.column_count();
        let mut rows = statement.query(()).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            bytes.push(u8::try_from(table).expect("few tables"));
            let mut cell = |kind: u8, content: &[u8]| {
                bytes.extend([kind, u8::try_from(content.len()).expect("short")]);
                bytes.extend(content);
            };
            for column in 0..width {
                match row.get_ref(column).expect("a column") {
                    ValueRef::Null => cell(0, &[]),
                    ValueRef::Integer(number) => cell(1, &number.to_le_bytes()),
                    ValueRef::Text(text) => cell(2, text),
                    ValueRef::Blob(blob) => cell(3, blob),
                    ValueRef::Real(_) => panic!("no table has such a column"),
                }
            }
            (width..spoiled::WIDEST).for_each(|_| cell(0, &[]));
            count += 1;
        }
    }
    (bytes, count)
}

/// Rows of a small database.
fn some_rows() -> (Vec<u8>, usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let folder = Folder::new();
        let mut book = some_book(&folder).await;
        book.commit(&apply_quota("few", |_| ())).await;
        book.commit(&apply_reservation("kept", &["192.0.2.9"], Some("east")))
            .await;
        book.close().await;
        written(&Connection::open(folder.file()).expect("a database"))
    })
}

#[test]
fn rows_as_they_were_written_are_read_and_spoiled_ones_are_not_or_are_errors() {
    let (bytes, count) = some_rows();
    assert!(count > 8, "{count} rows");
    assert_eq!(spoiled::rows(&bytes), count);
    let all_ones = bytes.iter().map(|byte| byte | 0x80).collect::<Vec<u8>>();
    assert!(spoiled::rows(&all_ones) < count);
    let spoils = proptest::collection::vec((0..bytes.len(), any::<u8>()), 1..6);
    proptest!(ProptestConfig::with_cases(500), |(spoils in spoils)| {
        let mut spoiled = bytes.clone();
        for (at, byte) in spoils {
            spoiled[at] = byte;
        }
        spoiled::rows(&spoiled);
    });
}
