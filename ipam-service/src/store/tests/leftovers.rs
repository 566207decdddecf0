//! What a restore leaves that was cut short, and a server that finds it.

use std::collections::BTreeSet;

use super::super::files::{RESTORING, beside};
use super::super::restore::change_over;
use super::super::{CommitError, From, Missing, OpenError, Restore, RestoreError, Store, restore};
use super::backups::{Book, some_book};
use super::power::{after, files_of, outcomes};
use crate::state::model::Timestamp;
use crate::testing::{Folder, allocate};

const FILES: [&str; 4] = ["", "-wal", "-shm", RESTORING];

/// Opens the old store with its log, or the new one, or refuses: a new, empty database would say that
/// nobody holds anything.
#[tokio::test]
async fn a_restore_that_is_cut_short_leaves_the_old_store_or_the_new_one_or_no_start() {
    let backup = Folder::new();
    some_book(&backup).await.close().await;
    let backup_file = backup.file();
    let folder = Folder::new();
    let mut old = some_book(&folder).await;
    old.commit(&allocate("east/ns/late", |_| ())).await;
    std::fs::copy(&backup_file, beside(&folder.file(), RESTORING)).expect("a copy");
    let files = files_of(&folder, &FILES);
    assert!(
        files["-wal"].len() > 4096,
        "nothing in the log would prove nothing"
    );
    let steps = |folder: &Folder| {
        let (file, scratch) = (folder.file(), beside(&folder.file(), RESTORING));
        change_over(&scratch, &file, Some(&aside(folder)))
    };
    let count = steps(&after(&files, |_| Vec::new())).len();
    let (mut olds, mut news, mut refusals) = (0, 0, 0);
    for done in 0..=count {
        let plan = steps(&after(&files, |_| Vec::new()));
        for outcome in outcomes(&plan[..done]) {
            let when = format!("{done} steps, of which {outcome:?} last");
            let crashed = after(&files, |folder| {
                let steps = steps(folder);
                outcome.iter().map(|step| steps[*step].clone()).collect()
            });
            match Store::open(&crashed.location(), Missing::Create, Timestamp(1)).await {
                Err(OpenError::LogWithoutDatabase(_) | OpenError::RestoreCutShort(_)) => {
                    refusals += 1;
                    repeated(&crashed, &backup, &when).await;
                }
                Err(error) => panic!("{when}: {error}"),
                Ok(mut store) => {
                    let loaded = store.writer.load().await.expect(&when);
                    if store.store_id == old.store_id() {
                        assert_eq!(loaded.revision, old.state.revision(), "{when}");
                        olds += 1;
                    } else {
                        assert_eq!(loaded.revision + 1, old.state.revision(), "{when}");
                        assert!(!store.created, "{when}");
                        news += 1;
                    }
                }
            }
        }
    }
    assert!(
        olds > 0 && news > 0 && refusals > 3,
        "{olds} {news} {refusals}"
    );
    old.close().await;
}

fn aside(folder: &Folder) -> std::path::PathBuf {
    beside(&folder.file(), ".replaced-5")
}

/// It is repeated, after the log was moved to its database if need be.
async fn repeated(crashed: &Folder, backup: &Folder, when: &str) {
    let (location, none) = (crashed.location(), BTreeSet::new());
    let task = Restore {
        from: From::Backup(&backup.file()),
        to: &location,
        also_expected: &none,
        move_aside: true,
        now: Timestamp(9_000_000),
    };
    let mut restored = restore(task.clone()).await;
    if let Err(RestoreError::Open(OpenError::LogWithoutDatabase(_))) = restored {
        let log = beside(&aside(crashed), "-wal");
        std::fs::rename(beside(&crashed.file(), "-wal"), log).expect("moved");
        restored = restore(task).await;
    }
    restored.expect(when);
    let kept = super::super::Location::Sqlite(aside(crashed));
    let kept = Book::open(&kept).await;
    let late = |it: &crate::state::model::Allocation| it.owner.key.name.as_str() == "late";
    assert!(kept.held().iter().any(|it| late(it)), "{when}");
}

/// What was moved aside tells that there was a database, also when nothing else does any more.
#[tokio::test]
async fn a_repeated_restore_that_fails_leaves_no_room_for_an_empty_store() {
    let backup = Folder::new();
    some_book(&backup).await.close().await;
    let old = Folder::new();
    let mut book = some_book(&old).await;
    book.commit(&allocate("east/ns/late", |_| ())).await;
    std::fs::copy(backup.file(), beside(&old.file(), RESTORING)).expect("a copy");
    let files = files_of(&old, &FILES);
    book.close().await;
    // Everything is out of the way, and the new store has not got its name.
    let crashed = after(&files, |folder| {
        let (file, scratch) = (folder.file(), beside(&folder.file(), RESTORING));
        let mut steps = change_over(&scratch, &file, Some(&aside(folder)));
        steps.truncate(steps.len() - 2);
        steps
    });
    let (location, none) = (crashed.location(), BTreeSet::new());
    let text = beside(&crashed.file(), "-text");
    std::fs::write(&text, "this is no backup, but long enough to look at").expect("written");
    let mistyped = beside(&crashed.file(), "-mistyped");
    for from in [mistyped, text] {
        let task = Restore {
            from: From::Backup(&from),
            to: &location,
            also_expected: &none,
            move_aside: true,
            now: Timestamp(9_000_000),
        };
        restore(task).await.expect_err("there is no such backup");
        for missing in [Missing::Create, Missing::Refuse] {
            let refused = Store::open(&location, missing, Timestamp(1)).await;
            let refused = refused.expect_err("its database is elsewhere").to_string();
            let aside = aside(&crashed).display().to_string();
            assert!(refused.contains(&aside), "{refused}");
        }
    }
    repeated(&crashed, &backup, "after two that failed").await;
    assert!(!crashed.open().await.created);
}

/// Whoever has it open goes on with the file, whatever its name.
#[tokio::test]
async fn a_server_whose_database_was_moved_aside_acknowledges_nothing_more() {
    let backup = Folder::new();
    some_book(&backup).await.close().await;
    let backup_file = backup.file();
    let folder = Folder::new();
    let mut old = some_book(&folder).await;
    // Somebody took its lock for one that was left behind.
    std::fs::remove_file(beside(&folder.file(), ".lock")).expect("a lock");
    let (location, none) = (folder.location(), BTreeSet::new());
    let task = Restore {
        from: From::Backup(&backup_file),
        to: &location,
        also_expected: &none,
        move_aside: true,
        now: Timestamp(5_000_000),
    };
    let writing = old
        .store
        .writer
        .with_connection(|connection| connection.execute_batch("begin immediate"));
    writing.await.expect("connected").expect("begun");
    let refused = restore(task.clone()).await.expect_err("it is writing");
    assert!(matches!(refused, RestoreError::Written(_)), "{refused}");
    let done = old
        .store
        .writer
        .with_connection(|connection| connection.execute_batch("rollback"));
    done.await.expect("connected").expect("rolled back");
    restore(task).await.expect("restored");
    let batch = old.decide(&allocate("east/ns/late", |_| ()));
    let deposed = old.store.writer.commit(&batch).await;
    assert!(matches!(deposed, Err(CommitError::Deposed)), "{deposed:?}");
    old.close().await;
    let kept = super::super::Location::Sqlite(aside(&folder));
    let kept = Book::open(&kept).await;
    assert!(
        kept.held()
            .iter()
            .all(|it| it.owner.key.name.as_str() != "late")
    );
}

#[tokio::test]
async fn a_log_without_its_database_is_left_alone() {
    let folder = Folder::new();
    let log = beside(&folder.file(), "-wal");
    std::fs::write(&log, "frames").expect("written");
    for missing in [Missing::Create, Missing::Refuse] {
        let refused = Store::open(&folder.location(), missing, Timestamp(1)).await;
        let refused = refused.expect_err("its database is elsewhere").to_string();
        assert!(refused.contains("Move the log"), "{refused}");
    }
    assert_eq!(std::fs::read(&log).expect("left alone"), b"frames");
}
