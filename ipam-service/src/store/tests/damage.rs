//! Damaged databases that SQLite alone would open.

use std::collections::BTreeSet;

use super::super::{
    AllocationFilter, ChangeFilter, From, LogFilter, Missing, OpenError, ReadFailure, Restore,
    Store, check, restore,
};
use super::backups::{Book, some_book};
use super::execute;
use super::power::{after, files_of};
use crate::state::model::Timestamp;
use crate::testing::{Folder, allocate};

#[tokio::test]
async fn numbers_that_cannot_be_are_refused_with_their_place() {
    for (damage, place) in [
        (
            "update meta set epoch = -5",
            "row 1 of table meta has epoch -5",
        ),
        (
            "update meta set epoch = 9223372036854775807",
            "row 1 of table meta has epoch 9223372036854775807",
        ),
        (
            "update meta set revision = -1",
            "table meta has revision -1",
        ),
        (
            "update meta set revision = 9223372036854775806",
            "table meta has revision 9223372036854775806",
        ),
        (
            "update meta set fact_seq = -1",
            "table meta has fact_seq -1",
        ),
        (
            "update meta set log_start = -1",
            "table meta has log_start -1",
        ),
        ("delete from meta", "table meta has lost its row"),
        (
            "update history_meta set clock_seen = -9223372036854775808",
            "table history_meta has clock_seen -9223372036854775808",
        ),
        (
            "update history_meta set clock_accepted = 9223372036854775807",
            "table history_meta has clock_accepted 9223372036854775807",
        ),
    ] {
        let folder = Folder::new();
        some_book(&folder).await.close().await;
        execute(&folder.file(), false, damage).await;
        let refused = folder.try_open().await;
        let Err(OpenError::Damaged { .. }) = &refused else {
            panic!("{damage}: {refused:?}");
        };
        let text = refused.expect_err("refused").to_string();
        let file = folder.file().display().to_string();
        assert!(text.contains(&file) && text.contains(place), "{text}");
        // Nor is it restored from.
        let (new, none) = (Folder::new(), BTreeSet::new());
        let (from, to) = (folder.file(), new.location());
        let restored = restore(Restore {
            from: From::Backup(&from),
            to: &to,
            also_expected: &none,
            move_aside: false,
            now: Timestamp(9),
        });
        let text = restored.await.expect_err("refused").to_string();
        assert!(text.contains(place), "{text}");
        assert!(!new.file().exists());
    }
}

/// The log says how long the database is, so SQLite takes the missing pages for pages of zeros.
#[tokio::test]
async fn a_file_that_was_cut_short_beside_a_log_is_refused() {
    let folder = Folder::new();
    let mut long = some_book(&folder).await;
    for number in 0..200 {
        let owner = format!("east/ns/{number}");
        long.commit(&allocate(&owner, |_| ())).await;
    }
    let grown = files_of(&folder, &["", "-wal"]);
    long.close().await;
    let mut book = Book::open(&folder.location()).await;
    book.commit(&allocate("east/ns/late", |_| ())).await;
    let whole = files_of(&folder, &["", "-wal"]);
    let (pages, rest) = (whole[""].len() / 4096, whole[""].len() % 4096);
    assert!(pages > 30 && rest == 0, "{pages} pages and {rest} bytes");
    let mut refused = 0;
    for kept in (1..=pages).step_by(3).chain([pages]) {
        let mut files = whole.clone();
        files.get_mut("").expect("a file").truncate(kept * 4096 - 1);
        let crashed = after(&files, |_| Vec::new());
        match Store::open(&crashed.location(), Missing::Refuse, Timestamp(1)).await {
            Err(OpenError::Damaged { problem, .. }) => {
                assert!(problem.contains("cut short"), "{problem}");
                refused += 1;
            }
            // The schema itself is missing: SQLite meets that first.
            Err(OpenError::Sql { source, .. }) if kept < 30 => {
                let text = source.to_string();
                assert!(text.contains("malformed"), "{kept} of {pages}: {text}");
            }
            Err(error) => panic!("{kept} of {pages}: {error}"),
            Ok(mut store) => {
                // All that is missing is in the log.
                let loaded = store.writer.load().await.expect("readable");
                assert_eq!(loaded.revision, book.state.revision());
                assert_eq!(book.state.difference(&loaded.rows), None);
                drop(store);
                let problems = check(&crashed.location()).await;
                assert_eq!(problems.expect("checked"), [""; 0], "{kept} of {pages}");
            }
        }
    }
    assert!(refused > 5, "{refused} of {pages}");
    // Nothing is cut off where the log is longer than the file: it has not been moved there yet.
    assert!(grown["-wal"].len() > grown[""].len());
    let crashed = after(&grown, |_| Vec::new());
    Book::open(&crashed.location()).await.close().await;
    let problems = check(&crashed.location()).await;
    assert_eq!(problems.expect("checked"), [""; 0]);
}

#[tokio::test]
async fn reads_that_fail_are_counted_by_what_went_wrong() {
    let folder = Folder::new();
    let book = some_book(&folder).await;
    let reader = book.store.reader.clone();
    let counts = || ReadFailure::ALL.map(|kind| reader.failures(kind));
    let all = ChangeFilter::default();
    reader.changes(&all, None, 10).await.expect("readable");
    // What is asked for too late is no failure of the database.
    reader
        .log_part(1000, &LogFilter::default(), 10)
        .await
        .expect_err("in the future");
    assert_eq!(counts(), [0, 0, 0, 0]);
    let newer = "update change_log set min_reader = 99 where revision = 1";
    execute(&folder.file(), false, newer).await;
    reader.changes(&all, None, 10).await.expect_err("newer");
    let damaged = "update change_log set entry = x'ff', min_reader = 1 where revision = 1";
    execute(&folder.file(), false, damaged).await;
    reader.changes(&all, None, 10).await.expect_err("damaged");
    assert_eq!(counts(), [0, 1, 1, 0]);
    // A table whose pages are those of an index.
    let mixed = "pragma writable_schema = on;
        update sqlite_schema set rootpage = (
            select max(rootpage) from sqlite_schema where type = 'index')
        where name = 'allocation'; pragma schema_version = 4711";
    execute(&folder.file(), false, mixed).await;
    let all = AllocationFilter::default();
    reader
        .allocations(&all, None, 10)
        .await
        .expect_err("no table");
    reader.close().await;
    reader.cluster("east").await.expect_err("closed");
    assert_eq!(counts(), [1, 1, 1, 1]);
}
