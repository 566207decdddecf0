//! The log loses its oldest decisions, and nothing else.

use std::sync::Arc;

use sqlx::ConnectOptions as _;

use super::super::{
    Batch, ChangeFilter, CommitError, Compaction, HoldingFilter, LogError, LogFilter, Logged,
    OpenError, Origin, Reader, Store, check,
};
use super::execute;
use crate::state::command::Command;
use crate::state::model::Timestamp;
use crate::state::{State, decide};
use crate::testing::{Folder, allocate, apply_pool, release};

/// Batch number n is of time n.
async fn fill(store: &mut Store, batches: &[Vec<Command>]) -> State {
    store.writer.load().await.expect("readable");
    let mut state = State::new();
    for (time, commands) in (1..).zip(batches) {
        let mut batch = Batch {
            time: Timestamp(time),
            ..Batch::default()
        };
        for command in commands {
            for change in decide(&state, command, batch.time).expect("granted") {
                state.apply(&change);
                batch.changes.push(Logged {
                    revision: change.is_decision().then(|| state.revision()),
                    change,
                    origin: Arc::new(Origin::default()),
                });
            }
        }
        store.writer.commit(&batch).await.expect("committed");
    }
    state
}

fn step(before: i64, end: u64, limit: u32) -> Compaction {
    Compaction {
        before: Timestamp(before),
        end,
        limit,
    }
}

#[tokio::test]
async fn the_log_begins_later_and_everything_else_stays() {
    let folder = Folder::new();
    let mut store = folder.open().await;
    // Revisions 1 (pool), 2 and 3 (cluster, web), 4 to 11.
    let mut batches = vec![
        vec![apply_pool("pool", &["192.0.2.0/24", "2001:db8::/64"])],
        vec![allocate("east/ns/web", |wire| wire.families = vec![1, 2])],
    ];
    for _ in 0..4 {
        batches.push(vec![allocate("east/ns/api", |_| {})]);
        batches.push(vec![release("east/ns/api")]);
    }
    let state = fill(&mut store, &batches).await;
    assert_eq!(state.revision(), 11);
    let all = HoldingFilter::default();
    let holdings = store
        .reader
        .holdings(&all, None, 100)
        .await
        .expect("readable");
    assert_eq!(holdings.items.len(), 6);

    // Neither what is young nor what lies behind the end nor more than the limit.
    for (step, deleted, oldest) in [
        (step(1, 100, 10), 0, 1),
        (step(100, 1, 10), 0, 1),
        (step(2, 100, 10), 1, 2),
        (step(100, 100, 2), 2, 4),
        (step(100, 8, 100), 4, 8),
        (step(100, 8, 100), 0, 8),
    ] {
        let done = store.compactor.compact(step).await.expect("compacted");
        let span = store.reader.log_span().await.expect("readable");
        assert_eq!((done, span.oldest), (deleted, oldest), "{step:?}");
    }
    let left = store
        .reader
        .changes(&ChangeFilter::default(), None, 100)
        .await
        .expect("readable");
    let left: Vec<u64> = left.items.iter().map(|change| change.revision).collect();
    assert_eq!(left, [11, 10, 9, 8]);
    let after = |revision| {
        let reader = store.reader.clone();
        async move { reader.log_part(revision, &LogFilter::default(), 100).await }
    };
    assert!(matches!(
        after(6).await,
        Err(LogError::Compacted { after: 6, .. })
    ));
    assert_eq!(after(7).await.expect("in the log").entries.len(), 4);
    assert!(matches!(
        after(12).await,
        Err(LogError::Future { after: 12, .. })
    ));
    let again = store
        .reader
        .holdings(&all, None, 100)
        .await
        .expect("readable");
    assert_eq!(again, holdings);

    drop(store);
    assert_eq!(
        check(&folder.location()).await.expect("checked"),
        Vec::<String>::new()
    );
    let mut store = folder.open().await;
    let loaded = store.writer.load().await.expect("readable");
    assert_eq!((loaded.revision, loaded.last_time), (11, Timestamp(10)));
    let again = State::restore(loaded.revision, loaded.rows);
    assert!(again.allocations().eq(state.allocations()));
}

/// Every decision about the owners that a filter names, read one by one.
pub(super) async fn changes_of(reader: &Reader, filter: &ChangeFilter) -> Vec<u64> {
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = reader.changes(filter, before, 2).await;
        let page = page.expect("readable");
        found.extend(page.items.iter().map(|change| change.revision));
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

/// An owner is found by its allocations, those that are gone included: in a database of this
/// version, in one that an older version wrote, and when the log has lost its beginning.
#[tokio::test]
async fn an_owner_has_its_whole_history() {
    let folder = Folder::new();
    let mut store = folder.open().await;
    let mut batches = vec![vec![apply_pool("pool", &["192.0.2.0/30"])]];
    for round in 0..3 {
        batches.push(vec![
            allocate("east/ns/web", |_| {}),
            allocate("east/ns/api", |_| {}),
        ]);
        batches.push(vec![allocate("east/other/web", |wire| {
            wire.pool = "nowhere".to_owned();
            wire.if_refused = pharos_proto::v1::allocate_request::IfRefused::Queue.into();
        })]);
        batches.push(vec![
            release("east/ns/web"),
            allocate("east/ns/api", |wire| {
                wire.labels.insert("round".to_owned(), round.to_string());
            }),
        ]);
        batches.push(vec![release("east/other/web")]);
    }
    fill(&mut store, &batches).await;
    let all = changes_of(&store.reader, &ChangeFilter::default()).await;
    let rows = store
        .reader
        .changes(&ChangeFilter::default(), None, 100)
        .await;
    let rows = rows.expect("readable").items;
    assert_eq!(all.len(), rows.len());
    let is_of = |change: &pharos_proto::v1::Change, namespace: &str, name: Option<&str>| {
        let Some(pharos_proto::v1::change::Subject::Allocation(edit)) = &change.subject else {
            return false;
        };
        let end = edit.after.as_ref().or(edit.before.as_ref());
        let owner = end.and_then(|end| end.owner.clone()).expect("an owner");
        owner.namespace == namespace && name.is_none_or(|name| name == owner.name)
    };
    let filters = [
        ("ns", Some("web")),
        ("ns", Some("api")),
        ("other", Some("web")),
        ("ns", None),
        ("other", None),
        ("none", None),
    ];
    let intervals = |namespace, name| HoldingFilter {
        owner: super::owner("east", Some(namespace), name),
        ..HoldingFilter::default()
    };
    // Three of web, one of api.
    let held = store.reader.holdings(&intervals("ns", None), None, 9).await;
    assert_eq!(held.expect("readable").items.len(), 4);

    let old = "update holding set end_revision = gone.end_revision, end_time = gone.end_time
            from former_owner gone
            where holding.end_revision = 0 and gone.allocation_id = holding.allocation_id;
        update change_log set allocation_id = 0; delete from former_owner;
        update history_meta set owners_filled = 0";
    for (sql, compacted) in [("select 1", 0), (old, 0), ("select 1", 9), (old, 9)] {
        let done = store
            .compactor
            .compact(step(i64::MAX, compacted + 1, 100))
            .await;
        done.expect("compacted");
        drop(store);
        execute(&folder.file(), false, sql).await;
        store = folder.open().await;
        for (namespace, name) in filters {
            let filter = ChangeFilter {
                owner: super::owner("east", Some(namespace), name),
                ..ChangeFilter::default()
            };
            let expected: Vec<u64> = rows
                .iter()
                .filter(|change| change.revision > compacted && is_of(change, namespace, name))
                .map(|change| change.revision)
                .collect();
            let found = changes_of(&store.reader, &filter).await;
            assert_eq!(found, expected, "{namespace} {name:?}: {sql}");
        }
        let held = store.reader.holdings(&intervals("ns", None), None, 9).await;
        assert_eq!(held.expect("readable").items.len(), 4);
        let problems = check(&folder.location()).await.expect("checked");
        assert_eq!(problems, Vec::<String>::new(), "{sql}");
    }
    // What never held anything leaves no trace but the log.
    let done = store.compactor.compact(step(i64::MAX, u64::MAX, 100)).await;
    done.expect("compacted");
    drop(store);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.file());
    let mut connection = options.connect().await.expect("connection");
    let names: Vec<String> = sqlx::query_scalar("select namespace from former_owner")
        .fetch_all(&mut connection)
        .await
        .expect("readable");
    assert_eq!(names, ["ns"; 3]);
}

#[tokio::test]
async fn a_history_of_a_newer_format_is_refused_by_name() {
    let folder = Folder::new();
    let mut store = folder.open().await;
    fill(&mut store, &[vec![apply_pool("pool", &["192.0.2.0/24"])]]).await;
    execute(
        &folder.file(),
        false,
        "update change_log set min_reader = 2",
    )
    .await;
    let read = store
        .reader
        .changes(&ChangeFilter::default(), None, 10)
        .await;
    let error = read.expect_err("it is newer").to_string();
    assert!(
        error.contains("revision 1 was written by a newer version"),
        "{error}"
    );
    let read = store.reader.log_part(0, &LogFilter::default(), 10).await;
    assert!(
        read.expect_err("it is newer")
            .to_string()
            .contains("upgrade")
    );
    drop(store);
    execute(
        &folder.file(),
        false,
        "update history_meta set min_reader = 2",
    )
    .await;
    let refused = folder.try_open().await;
    assert!(
        matches!(refused, Err(OpenError::NewerLog { needs: 2, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_no_passing_trouble() {
    let folder = Folder::new();
    let mut store = folder.open().await;
    let commands = [
        apply_pool("pool", &["192.0.2.0/24"]),
        apply_pool("other", &["198.51.100.0/24"]),
    ];
    fill(&mut store, &commands.map(|command| vec![command])).await;
    // A table whose pages are those of an index.
    execute(
        &folder.file(),
        false,
        "create table broken (x);
        create trigger reads before delete on change_log begin insert into broken values (1); end;
        pragma writable_schema = on;
        update sqlite_schema set rootpage = (
            select max(rootpage) from sqlite_schema where type = 'index')
        where name = 'broken'",
    )
    .await;
    let error = store.compactor.compact(step(100, 100, 10)).await;
    assert!(matches!(error, Err(CommitError::Unknown(_))), "{error:?}");
    assert!(store.writer.is_distrusted());
}

#[tokio::test]
async fn the_log_of_a_database_that_another_has_taken_over_is_left_alone() {
    let folder = Folder::new();
    let mut store = folder.open().await;
    let commands = [
        apply_pool("pool", &["192.0.2.0/24"]),
        apply_pool("other", &["198.51.100.0/24"]),
    ];
    fill(&mut store, &commands.map(|command| vec![command])).await;
    execute(&folder.file(), false, "update meta set epoch = epoch + 1").await;
    let compacted = store.compactor.compact(step(100, 100, 10)).await;
    assert!(
        matches!(compacted, Err(CommitError::Deposed)),
        "{compacted:?}"
    );
    let noted = store.compactor.note_clock(Timestamp(5), Timestamp(6)).await;
    assert!(matches!(noted, Err(CommitError::Deposed)), "{noted:?}");
    let log = store.reader.log_state().await.expect("readable");
    assert_eq!((log.oldest, log.clock_seen), (1, Timestamp(0)));
}
