//! The log of a store in use: how it gets into the database file, and how it is begun anew.

use std::fs::{File, OpenOptions};
use std::mem::ManuallyDrop;
use std::path::Path;

use sqlx::Row as _;

use super::super::checkpoint::{Files, LONG, LogSize, WORTH_IT, log_size};
use super::super::files::beside;
use super::super::sqlite::{LOG_LIMIT, WRITER_CHECKPOINT_FRAMES};
use super::super::write::connect;
use super::super::{CommitError, Compaction, check};
use super::backups::{Book, some_book};
use crate::state::model::Timestamp;
use crate::testing::{Folder, allocate, within};

/// Pages of a table of our own: so many frames it adds to the log to change them all.
const PAGES: u32 = 1500;

/// A store, and what makes its log long.
async fn with_pages(folder: &Folder) -> Book {
    let mut book = some_book(folder).await;
    let made = book.store.writer.with_connection(|connection| {
        connection.execute_batch("create table filler (page blob not null)")?;
        let fill = "with recursive n (n) as (select 1 union all select n + 1 from n where n < ?1)
            insert into filler select randomblob(4000) from n";
        connection.execute(fill, [PAGES])
    });
    made.await.expect("connected").expect("filled");
    book
}

/// Makes the log longer, and has the writer tell of it.
async fn lengthen(book: &mut Book) {
    let changed = book.store.writer.with_connection(|connection| {
        connection.execute("update filler set page = randomblob(4000)", ())
    });
    changed.await.expect("connected").expect("changed");
    next_commit(book).await;
}

async fn next_commit(book: &mut Book) {
    let owner = format!("east/ns/{}", book.state.revision());
    book.commit(&allocate(&owner, |_| ())).await;
}

/// As its writers have told it.
fn told(book: &Book) -> LogSize {
    book.store.writer.gate().log.borrow().size
}

/// As it is.
async fn found(book: &mut Book) -> LogSize {
    let size = book.store.writer.with_connection(log_size);
    size.await.expect("connected").expect("a log")
}

/// A transaction that has read, and keeps later frames out of the database file.
async fn reading(book: &Book) -> sqlx::Transaction<'static, sqlx::Sqlite> {
    let mut reading = book.store.reader.begin().await.expect("begun");
    let count = sqlx::query("select count(*) from allocation");
    let row = count.fetch_one(&mut *reading).await.expect("read");
    assert!(row.get::<i64, _>(0) > 0);
    reading
}

#[tokio::test]
async fn beside_a_busy_writer_the_log_is_begun_anew_long_before_the_writer_would_do_it_alone() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    let passes = tokio::spawn(book.store.checkpointer.clone().run());
    let (mut begun, mut last) = (0, told(&book).frames);
    while begun < 2 {
        lengthen(&mut book).await;
        let frames = told(&book).frames;
        assert!(frames < WRITER_CHECKPOINT_FRAMES, "nobody copies the log");
        begun += u32::from(frames < last);
        last = frames;
    }
    passes.abort();
    book.close().await;
    let file = std::fs::metadata(folder.file()).expect("a database").len();
    assert!(file > u64::from(PAGES) * 4096, "{file}");
    assert_eq!(check(&folder.location()).await.expect("checked"), [""; 0]);
}

#[tokio::test]
async fn the_writer_is_left_only_what_came_after_the_last_pass() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    let mut reader = reading(&book).await;
    while told(&book).frames < LONG {
        lengthen(&mut book).await;
    }
    // What it reads stands for what the writer has come to when a pass begins.
    reader.rollback().await.expect("ended");
    reader = reading(&book).await;
    next_commit(&mut book).await;
    assert!(!book.store.writer.gate().must_finish(), "not yet");
    assert!(book.store.checkpointer.pass().await.expect("passed"));
    let size = found(&mut book).await;
    assert!(size.frames > LONG && size.copied < size.frames, "{size:?}");
    assert!(size.frames - size.copied < WORTH_IT / 10, "{size:?}");
    reader.rollback().await.expect("ended");
    assert!(book.store.writer.gate().must_finish(), "little is left");
    next_commit(&mut book).await;
    assert!(!book.store.writer.gate().must_finish());
    let size = found(&mut book).await;
    assert!(size.frames < WORTH_IT / 10, "begun anew: {size:?}");
    assert_eq!(told(&book), size);
}

/// As long as it reads something old nothing breaks, and no pass runs in vain without a rest.
#[tokio::test]
async fn a_long_read_keeps_the_log_and_the_writer_ends_that_without_any_pass() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    let reader = reading(&book).await;
    lengthen(&mut book).await;
    assert!(book.store.checkpointer.pass().await.expect("passed"));
    assert!(
        !book.store.checkpointer.pass().await.expect("passed"),
        "there was nothing to copy"
    );
    while told(&book).frames < WRITER_CHECKPOINT_FRAMES {
        lengthen(&mut book).await;
    }
    next_commit(&mut book).await;
    let size = told(&book);
    assert!(size.frames > WRITER_CHECKPOINT_FRAMES, "{size:?}");
    assert!(size.copied < PAGES * 2, "what is read was copied over");
    reader.rollback().await.expect("ended");
    next_commit(&mut book).await;
    let size = told(&book);
    assert!(size.frames < WORTH_IT, "begun anew: {size:?}");
    // A log of such a length gives its space back.
    let log = beside(&folder.file(), "-wal");
    let length = || std::fs::metadata(&log).expect("a log").len();
    assert!(length() <= u64::from(LOG_LIMIT), "{}", length());
    book.close().await;
    assert_eq!(check(&folder.location()).await.expect("checked"), [""; 0]);
}

#[tokio::test]
async fn what_compaction_writes_is_told_of_too() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    let step = Compaction {
        before: Timestamp(i64::MAX),
        end: u64::MAX,
        limit: 10,
    };
    next_commit(&mut book).await;
    let before = told(&book);
    book.store.compactor.compact(step).await.expect("done");
    assert!(told(&book).frames > before.frames, "{before:?}");
    let size = found(&mut book).await;
    assert_eq!(told(&book), size);
}

#[tokio::test]
async fn while_checkpoints_rest_nothing_is_copied() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    next_commit(&mut book).await;
    let paused = book.store.writer.gate().pause().await;
    let passes = tokio::spawn(book.store.checkpointer.clone().run());
    let mut pass = Box::pin(book.store.checkpointer.pass());
    for _ in 0..100 {
        assert!(futures::poll!(pass.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(found_at(&folder.file()).copied, 0);
    drop(paused);
    within(pass).await.expect("passed");
    let size = found_at(&folder.file());
    assert!(size.copied > PAGES, "{size:?}");
    passes.abort();
}

/// As another connection finds it.
fn found_at(path: &Path) -> LogSize {
    log_size(&connect(path).expect("a database")).expect("a log")
}

/// The files of a checkpoint whose sync fails: nothing can be synced there.
fn files_without_sync(database: &Path) -> Files {
    Files {
        connection: connect(database).expect("a database"),
        file: ManuallyDrop::new(File::open("/dev/null").expect("it is there")),
    }
}

#[tokio::test]
async fn a_sync_that_fails_after_a_pass_ends_writing() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    next_commit(&mut book).await;
    let mut paused = book.store.writer.gate().pause().await;
    *paused = Some(files_without_sync(&folder.file()));
    drop(paused);
    assert!(!book.store.writer.is_distrusted());
    let passes = tokio::spawn(book.store.checkpointer.clone().run());
    within(book.store.writer.distrusted()).await;
    lengthen(&mut book).await;
    let copied = found(&mut book).await.copied;
    assert!(!book.store.checkpointer.pass().await.expect("no pass"));
    assert_eq!(found(&mut book).await.copied, copied, "not to be trusted");
    // Goes on with a fresh copy, and so do checkpoints.
    let copy = book.store.writer.copy_afresh().await.expect("copied");
    book.store.writer.adopt_copy(&copy).await.expect("adopted");
    lengthen(&mut book).await;
    while found(&mut book).await.copied == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!book.store.writer.is_distrusted());
    passes.abort();
}

/// SQLite would go on after an error of a checkpoint of its own, and say nothing.
#[tokio::test]
async fn an_error_of_the_disk_while_the_writer_finishes_ends_writing_before_the_batch() {
    let folder = Folder::new();
    let mut book = with_pages(&folder).await;
    next_commit(&mut book).await;
    let revision = book.state.revision();
    book.store
        .writer
        .gate()
        .log
        .send_modify(|log| log.finish = true);
    // Frames that cannot be read.
    let log = beside(&folder.file(), "-wal");
    let log = OpenOptions::new().write(true).open(log).expect("a log");
    log.set_len(4096).expect("cut");
    let batch = book.decide(&allocate("east/ns/late", |_| ()));
    let failed = book.store.writer.commit(&batch).await;
    assert!(matches!(failed, Err(CommitError::Unknown(_))), "{failed:?}");
    assert!(book.store.writer.is_distrusted());
    assert!(
        book.store.writer.revision == revision,
        "nothing was written"
    );
}
