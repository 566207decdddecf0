//! A fresh copy of a store whose file is not trusted any more, and a crash at every step of it.

use std::path::Path;
use std::sync::Arc;

use super::super::{Batch, Loaded, Logged, Missing, Origin, Store, check};
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::Timestamp;
use crate::state::{State, decide};
use crate::testing::{Folder, allocate, apply_pool};

async fn commit(store: &mut Store, state: &mut State, command: &Command) {
    let mut batch = Batch {
        time: Timestamp(7),
        ..Batch::default()
    };
    for change in decide(state, command, batch.time).expect("allowed") {
        state.apply(&change);
        batch.changes.push(Logged {
            revision: change.is_decision().then(|| state.revision()),
            change,
            origin: Arc::new(Origin::default()),
        });
    }
    store.writer.commit(&batch).await.expect("committed");
}

/// A store of which most is in the log only.
async fn in_use(folder: &Folder) -> (Store, State) {
    let mut store = folder.open().await;
    store.writer.load().await.expect("readable");
    let mut state = State::new();
    commit(
        &mut store,
        &mut state,
        &apply_pool("pool", &["192.0.2.0/24"]),
    )
    .await;
    for number in 0..20 {
        let command = allocate(&format!("east/ns/{number}"), |_| ());
        commit(&mut store, &mut state, &command).await;
    }
    (store, state)
}

fn is_same(state: &State, loaded: &Loaded) {
    assert_eq!(loaded.revision, state.revision());
    assert_eq!(state.difference(&loaded.rows), None);
}

fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[tokio::test]
async fn writer_readers_and_checkpoints_go_on_with_the_fresh_copy() {
    let folder = Folder::new();
    let (mut store, mut state) = in_use(&folder).await;
    let list = Default::default();
    store
        .reader
        .allocations(&list, None, 1)
        .await
        .expect("read");
    let copy = store.writer.copy_afresh().await.expect("copied");
    is_same(&state, &copy);
    // Cut short and repeated.
    let copy_again = store.writer.copy_afresh().await.expect("copied");
    is_same(&state, &copy_again);
    store.writer.adopt_copy(&copy_again).await.expect("adopted");
    for suffix in [".fresh", ".fresh-wal", ".fresh-shm"] {
        assert!(!beside(&folder.file(), suffix).exists(), "{suffix}");
    }
    commit(&mut store, &mut state, &allocate("east/ns/after", |_| ())).await;
    let page = store.reader.allocations(&list, None, 100).await;
    assert_eq!(page.expect("read").items.len(), 21);
    drop(store);
    assert_eq!(check(&folder.location()).await.expect("checked"), [""; 0]);
    let loaded = folder.open().await.writer.load().await.expect("readable");
    is_same(&state, &loaded);
}

/// The old log beside the new file, with and without its index, and the half-made copy.
#[tokio::test]
async fn a_crash_at_any_step_of_the_change_over_loses_nothing() {
    let folder = Folder::new();
    let (mut store, state) = in_use(&folder).await;
    let file = folder.file();
    store.writer.copy_afresh().await.expect("copied");
    let old = std::fs::read(&file).expect("file");
    let fresh = std::fs::read(beside(&file, ".fresh")).expect("file");
    let wal = std::fs::read(beside(&file, "-wal")).expect("a log");
    assert!(wal.len() > 4096, "nothing in the log would prove nothing");
    let shm = std::fs::read(beside(&file, "-shm")).expect("an index");
    let cases = [
        (
            "before the rename",
            &old,
            Some(&wal),
            None,
            Some(&fresh[..]),
        ),
        (
            "in the middle of the copy",
            &old,
            Some(&wal),
            None,
            Some(&fresh[..5000]),
        ),
        ("after the rename", &fresh, Some(&wal), Some(&shm), None),
        (
            "after the rename, without the index",
            &fresh,
            Some(&wal),
            None,
            None,
        ),
        ("after the log was removed", &fresh, None, Some(&shm), None),
    ];
    for (name, database, wal, shm, copy) in cases {
        let crashed = Folder::new();
        let write = |suffix: &str, bytes: Option<&[u8]>| {
            if let Some(bytes) = bytes {
                std::fs::write(beside(&crashed.file(), suffix), bytes).expect("written");
            }
        };
        write("", Some(database));
        write("-wal", wal.map(Vec::as_slice));
        write("-shm", shm.map(Vec::as_slice));
        write(".fresh", copy);
        let opened = Store::open(&crashed.location(), Missing::Refuse, Timestamp(1)).await;
        let mut opened = opened.expect(name);
        is_same(&state, &opened.writer.load().await.expect(name));
        opened.writer.copy_afresh().await.expect(name);
        drop(opened);
        let problems = check(&crashed.location()).await.expect(name);
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
    drop(store);
}

#[tokio::test]
async fn a_copy_that_holds_something_else_is_told_from_what_was_acknowledged() {
    let folder = Folder::new();
    let (mut store, mut state) = in_use(&folder).await;
    let copy = store.writer.copy_afresh().await.expect("copied");
    is_same(&state, &copy);
    let mut fewer = copy.rows.clone();
    let one = |row: &Change| matches!(row, Change::Allocation(_));
    fewer.remove(fewer.iter().position(one).expect("an allocation"));
    let difference = state.difference(&fewer).expect("one row is missing");
    assert_eq!(difference, "19 allocations instead of 20");
    let other = allocate("east/ns/7", |wire| wire.ports[0].port = 81);
    for change in decide(&state, &other, Timestamp(8)).expect("allowed") {
        state.apply(&change);
    }
    let difference = state.difference(&copy.rows).expect("another claim");
    assert_eq!(difference, "allocation east/ns/7 is not as it was");
}
