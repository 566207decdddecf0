//! How a store is closed: as one file, or as it is.

use super::super::files::beside;
use super::super::{CommitError, Compaction, check};
use super::backups::{Book, some_book};
use crate::state::model::Timestamp;
use crate::testing::{Folder, allocate};

#[tokio::test]
async fn a_log_that_somebody_reads_is_not_said_to_be_in_the_file() {
    let folder = Folder::new();
    let book = some_book(&folder).await;
    let reading = book.store.reader.begin().await;
    let mut reading = reading.expect("a connection");
    sqlx::query("select count(*) from allocation")
        .fetch_one(&mut *reading)
        .await
        .expect("read");
    let writer = book.store.writer;
    let at_once = std::time::Duration::ZERO;
    let connection = writer.connection.as_ref().expect("a connection");
    connection.busy_timeout(at_once).expect("set");
    let closed = writer.into_one_file().await;
    assert!(
        matches!(closed, Err(CommitError::NotWritten(_))),
        "{closed:?}"
    );
}

/// Also while a connection for checkpoints is open, which knows nothing of it.
#[tokio::test]
async fn the_log_of_a_file_that_is_not_to_be_trusted_is_left_as_it_is() {
    let folder = Folder::new();
    let mut book = some_book(&folder).await;
    book.store.checkpointer.pass().await.expect("done");
    book.commit(&allocate("east/ns/late", |_| ())).await;
    let files = ["", "-wal"].map(|suffix| beside(&folder.file(), suffix));
    let before = files
        .clone()
        .map(|file| std::fs::read(file).expect("a file"));
    book.store.writer.gate().distrust();
    let (state, held) = (book.state.revision(), book.held());
    book.close().await;
    for (file, before) in files.iter().zip(before) {
        let after = std::fs::read(file).expect("it is there");
        assert!(after == before, "{} was written to", file.display());
    }
    let again = Book::open(&folder.location()).await;
    assert_eq!((again.state.revision(), again.held()), (state, held));
    again.close().await;
    assert_eq!(check(&folder.location()).await.expect("checked"), [""; 0]);
}

/// What is closed later than the writer would move the log, also of a file that is not to be trusted.
#[tokio::test]
async fn what_compacts_the_history_keeps_nothing_open_between_two_steps() {
    let folder = Folder::new();
    let mut book = some_book(&folder).await;
    let step = Compaction {
        before: Timestamp(i64::MAX),
        end: u64::MAX,
        limit: 1,
    };
    // There is more to be done.
    assert_eq!(book.store.compactor.compact(step).await.expect("done"), 1);
    book.store.reader.close().await;
    book.store.writer.close().await;
    let log = beside(&folder.file(), "-wal");
    assert!(!log.exists(), "the writer was not the last to close");
    drop(book.store.compactor);
}
