//! A fresh copy of a store whose file is not trusted any more, and a crash at every step of it.

use std::sync::Arc;

use super::super::files::beside;
use super::super::renew::change_over;
use super::super::{Batch, Loaded, Logged, Missing, Origin, Store, check};
use super::power::{after, files_of, outcomes};
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
    for suffix in [".fresh", ".fresh-wal", ".fresh-shm", ".fresh-log"] {
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

/// A connection that is opened in the midst of a change-over would have files of both.
#[tokio::test]
async fn no_read_begins_while_the_files_change_and_none_that_runs_ends() {
    let folder = Folder::new();
    let (mut store, state) = in_use(&folder).await;
    let list = Default::default();
    let mut running = store.reader.begin().await.expect("begun");
    let held = store.reader.hold().await;
    let mut waiting = Box::pin(store.reader.allocations(&list, None, 100));
    let mut other = Box::pin(store.reader.log_span());
    for _ in 0..100 {
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert!(futures::poll!(other.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(held);
    assert_eq!(waiting.await.expect("read").items.len(), 20);
    assert_eq!(other.await.expect("read").revision, state.revision());
    let copy = store.writer.copy_afresh().await.expect("copied");
    store.writer.adopt_copy(&copy).await.expect("adopted");
    let count = sqlx::query("select count(*) from allocation");
    let row = count.fetch_one(&mut *running).await.expect("read");
    assert_eq!(sqlx::Row::get::<i64, _>(&row, 0), 20);
    drop(running);
    let page = store.reader.allocations(&list, None, 100).await;
    assert_eq!(page.expect("read").items.len(), 20);
}

const FILES: [&str; 5] = ["", "-wal", "-shm", ".fresh", ".fresh-log"];

/// The store has what was acknowledged; and the batch whose sync failed is all there, or not at all.
async fn is_one_of(states: [&State; 2], crashed: &Folder, when: &str) {
    let opened = Store::open(&crashed.location(), Missing::Refuse, Timestamp(1)).await;
    let mut opened = opened.expect(when);
    let loaded = opened.writer.load().await.expect(when);
    let state = states.iter().find(|it| it.revision() == loaded.revision);
    let state = state.unwrap_or_else(|| panic!("{when}: revision {}", loaded.revision));
    assert_eq!(state.difference(&loaded.rows), None, "{when}");
    opened.writer.copy_afresh().await.expect(when);
    drop(opened);
    let problems = check(&crashed.location()).await.expect(when);
    assert!(problems.is_empty(), "{when}: {problems:?}");
}

/// The last batch touches pages that no earlier one in the log touches, and its frames reach the disk
/// or not.
#[tokio::test]
async fn a_loss_of_power_at_any_step_of_the_change_over_loses_nothing() {
    let folder = Folder::new();
    let (mut store, mut state) = in_use(&folder).await;
    let emptied = store.writer.with_connection(|connection| {
        connection.query_row("pragma wal_checkpoint(truncate)", (), |row| row.get(0))
    });
    assert_eq!(emptied.await.expect("connected"), Ok(0_i64));
    let pool = apply_pool("other", &["198.51.100.0/24"]);
    commit(&mut store, &mut state, &pool).await;
    let acknowledged = std::fs::read(beside(&folder.file(), "-wal")).expect("a log");
    let loaded = store.writer.load().await.expect("readable");
    let mut in_doubt = State::restore(loaded.revision, loaded.rows);
    commit(&mut store, &mut in_doubt, &allocate("east/ns/late", |_| ())).await;
    store.writer.copy_afresh().await.expect("copied");

    let kept = files_of(&folder, &FILES);
    assert!(kept["-wal"].len() > acknowledged.len(), "frames to lose");
    let mut cut = kept.clone();
    cut.insert("-wal", acknowledged.clone());
    let mut zeroed = kept.clone();
    zeroed.get_mut("-wal").expect("a log")[acknowledged.len()..].fill(0);
    let count = change_over(&folder.file()).len();
    let mut cases = 0;
    for (log, files) in [("kept", &kept), ("cut off", &cut), ("zeroed", &zeroed)] {
        for done in 0..=count {
            for outcome in outcomes(&change_over(&folder.file())[..done]) {
                let when = format!("last frames {log}, {done} steps, of which {outcome:?} last");
                let crashed = after(files, |folder| {
                    let steps = change_over(&folder.file());
                    outcome.iter().map(|step| steps[*step].clone()).collect()
                });
                is_one_of([&state, &in_doubt], &crashed, &when).await;
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 3 * (1 + 2 + 1 + 2 + 1 + 2 + 4 + 1));
    drop(store);
}

#[tokio::test]
async fn a_copy_that_is_cut_short_is_removed_and_made_again() {
    let folder = Folder::new();
    let (mut store, state) = in_use(&folder).await;
    store.writer.copy_afresh().await.expect("copied");
    let mut files = files_of(&folder, &FILES);
    for part in [".fresh", ".fresh-log"] {
        files.get_mut(part).expect("a copy").truncate(5000);
    }
    let crashed = after(&files, |_| Vec::new());
    let opened = crashed.open().await;
    for part in [".fresh", ".fresh-log"] {
        assert!(!beside(&crashed.file(), part).exists(), "{part}");
    }
    opened.reader.close().await;
    opened.writer.close().await;
    is_one_of([&state, &state], &crashed, "cut short").await;
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
