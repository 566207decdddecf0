//! The store on real SQLite files.

mod backups;
mod checkpoints;
mod closing;
mod compaction;
mod damage;
mod holdings;
mod leftovers;
mod power;
mod refusals;
mod renewal;
mod round_trip;
mod schema;
mod spoiled;
mod transfers;

use std::os::unix::fs::PermissionsExt as _;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection};

use self::power::{after, files_of};
use super::files::beside;
use super::history::query::{Timeline, changes_query, holdings_query, log_query};
use super::read::allocations_query;
use super::sql::Statement;
use super::sqlite::reader_options;
use super::{
    AllocationFilter, ChangeFilter, HoldingFilter, Kind, Location, LogFilter, Missing, OpenError,
    OwnerFilter, Store,
};
use crate::state::address::Address;
use crate::state::model::Timestamp;
use crate::testing::Folder;

#[tokio::test]
async fn a_new_database_is_private_named_and_locked() {
    let folder = Folder::new();
    let store = folder.open().await;
    assert!(store.created);
    let mode = std::fs::metadata(folder.file())
        .expect("file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // Who can read the lock file can take the lock.
    let lock = folder.file().with_extension("db.lock");
    let mode = std::fs::metadata(lock).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = folder.try_open().await.expect_err("locked").to_string();
    assert!(
        refused.contains("is in use by another ipam-service"),
        "{refused}"
    );
    let store_id = store.store_id.clone();
    drop(store);
    let again = folder.open().await;
    assert!(!again.created && again.store_id == store_id);
}

#[tokio::test]
async fn what_is_missing_foreign_or_from_the_future_is_refused_by_name() {
    let folder = Folder::new();
    let missing = Store::open(&folder.location(), Missing::Refuse, Timestamp(1)).await;
    assert!(matches!(missing, Err(OpenError::Missing(_))), "{missing:?}");
    std::fs::write(
        folder.file(),
        "this is no database, but long enough to look at",
    )
    .expect("write");
    let text = folder.try_open().await;
    assert!(matches!(text, Err(OpenError::NotOurs(_))), "{text:?}");

    let other = Folder::new();
    let Location::Sqlite(path) = other.location();
    execute(&path, true, "create table theirs (id integer)").await;
    let beside_it = [".fresh", ".fresh-wal", ".fresh-shm", ".fresh-log"];
    let beside_it = beside_it.map(|suffix| beside(&path, suffix));
    for file in &beside_it {
        std::fs::write(file, "theirs too").expect("written");
    }
    let before = std::fs::read(&path).expect("file");
    let foreign = other.try_open().await;
    assert!(matches!(foreign, Err(OpenError::NotOurs(_))), "{foreign:?}");
    let after = std::fs::read(&path).expect("file");
    assert!(before == after, "what is not ours was changed");
    for file in &beside_it {
        assert!(file.exists(), "{} is gone", file.display());
    }

    let newer = Folder::new();
    drop(newer.open().await);
    execute(
        &newer.file(),
        false,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (99, 'later', true, x'00', 0)",
    )
    .await;
    let refused = newer.try_open().await;
    assert!(
        matches!(refused, Err(OpenError::Newer { version: 99, .. })),
        "{refused:?}"
    );
}

/// Its owner may append to it at any moment.
#[tokio::test]
async fn the_log_of_another_program_is_left_alone() {
    let theirs = Folder::new();
    let owner = rusqlite::Connection::open(theirs.file()).expect("a database");
    let used = "pragma journal_mode = wal; create table theirs (id integer)";
    owner.execute_batch(used).expect("written");
    let (foreign, written) = opened_beside(&theirs).await;
    assert!(matches!(foreign, OpenError::NotOurs(_)), "{foreign}");
    assert!(!written, "what is not ours was written");

    // As a crash of it leaves them: who closes a database last moves its log.
    let files = files_of(&theirs, &["", "-wal"]);
    let crashed = after(&files, |_| Vec::new());
    let (foreign, written) = opened_beside(&crashed).await;
    assert!(matches!(foreign, OpenError::NotOurs(_)), "{foreign}");
    let left = files_of(&crashed, &["", "-wal"]);
    assert!(!written && left == files, "what is not ours was changed");
}

/// What was read of the log would be written over what that one has acknowledged since.
#[tokio::test]
async fn a_log_is_not_rewritten_while_another_process_writes() {
    let folder = Folder::new();
    let store = folder.open().await;
    // Somebody took its lock for one that was left behind.
    std::fs::remove_file(beside(&folder.file(), ".lock")).expect("a lock");
    let other = rusqlite::Connection::open(folder.file()).expect("a database");
    let busy = "update meta set epoch = epoch + 1; begin immediate";
    other.execute_batch(busy).expect("begun");
    let (refused, written) = opened_beside(&folder).await;
    assert!(matches!(refused, OpenError::Unusable { .. }), "{refused}");
    assert!(!written, "the other may have written meanwhile");
    other.execute_batch("rollback").expect("over");
    drop(store);
}

/// Why a database was not opened, and whether its log was written nevertheless.
async fn opened_beside(folder: &Folder) -> (OpenError, bool) {
    let log = beside(&folder.file(), "-wal");
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    let file = std::fs::OpenOptions::new().write(true).open(&log);
    file.and_then(|file| file.set_modified(long_ago))
        .expect("set");
    let refused = folder.try_open().await.expect_err("in use");
    let modified = std::fs::metadata(&log).and_then(|file| file.modified());
    (refused, modified.expect("a time") != long_ago)
}

#[tokio::test]
async fn a_database_is_one_under_whatever_name_it_is_opened() {
    let folder = Folder::new();
    let link = Folder::new();
    // Made through a link to its folder, and opened through one to the file.
    let entry = folder.file().with_file_name("folder");
    std::os::unix::fs::symlink(folder.file().parent().expect("folder"), &entry).expect("link");
    let by_folder = Location::Sqlite(entry.join("pharos.db"));
    let store = Store::open(&by_folder, Missing::Create, Timestamp(1)).await;
    let store = store.expect("database");
    std::os::unix::fs::symlink(folder.file(), link.file()).expect("link");
    let refused = link.try_open().await;
    assert!(matches!(refused, Err(OpenError::Lock(_))), "{refused:?}");
    drop(store);
    assert!(!link.open().await.created);

    std::fs::remove_file(link.file()).expect("link");
    let nowhere = link.file().with_file_name("nowhere");
    std::os::unix::fs::symlink(&nowhere, link.file()).expect("link");
    let refused = link.try_open().await;
    assert!(
        matches!(refused, Err(OpenError::File { .. })),
        "{refused:?}"
    );

    std::fs::hard_link(folder.file(), nowhere).expect("link");
    let refused = folder.try_open().await;
    assert!(matches!(refused, Err(OpenError::Linked(_))), "{refused:?}");
}

/// Runs a statement behind the store's back.
async fn execute(path: &std::path::Path, create: bool, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create);
    let mut connection = options.connect().await.expect("connection");
    sqlx::query(sql).execute(&mut connection).await.expect(sql);
}

/// Makes a database what schema 8 had. (Rows of `change_address` are told by others, so nobody misses
/// them.)
fn to_schema_8(path: &std::path::Path) {
    to_schema_12(path);
    let database = rusqlite::Connection::open(path).expect("a database");
    let older = include_str!("tests/to_schema_8.sql");
    database.execute_batch(older).expect("good SQL");
}

/// Makes a database what schema 12 had: what ended an allocation was written with each of its intervals.
fn to_schema_12(path: &std::path::Path) {
    let database = rusqlite::Connection::open(path).expect("a database");
    let older = include_str!("tests/to_schema_12.sql");
    database.execute_batch(older).expect("good SQL");
}

/// A connection that only reads.
async fn reading(folder: &Folder) -> SqliteConnection {
    let connection = reader_options(&folder.file()).connect().await;
    connection.expect("connection")
}

async fn plan_of(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(format!("explain query plan {sql}")))
        .fetch_all(connection)
        .await
        .expect(sql);
    rows.iter()
        .map(|row| row.try_get(3).expect("detail"))
        .collect()
}

#[tokio::test]
async fn no_statement_of_a_batch_scans_a_table() {
    let folder = Folder::new();
    let _store = folder.open().await;
    let mut connection = reading(&folder).await;
    for statement in Statement::ALL.iter().copied() {
        let plan = plan_of(&mut connection, statement.sqlite()).await;
        let scans = plan.iter().filter(|step| step.starts_with("SCAN"));
        let scans: Vec<&String> = scans.collect();
        assert!(scans.is_empty(), "{statement:?}: {plan:?}");
    }
}

#[tokio::test]
async fn hot_queries_use_their_index() {
    let folder = Folder::new();
    let _store = folder.open().await;
    let mut connection = reading(&folder).await;
    let address = Address::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let of_cluster = AllocationFilter {
        cluster: "east".to_owned(),
        ..AllocationFilter::default()
    };
    let of_address = AllocationFilter {
        space: "default".to_owned(),
        address: Some(address),
        ..AllocationFilter::default()
    };
    let key = ("a".to_owned(), "b".to_owned(), "c".to_owned());
    let all = AllocationFilter::default();
    let cases = [
        (
            allocations_query(&all, Some(&key), 1),
            "sqlite_autoindex_allocation",
        ),
        (
            allocations_query(&of_cluster, Some(&key), 1),
            "sqlite_autoindex_allocation",
        ),
        (
            allocations_query(&of_address, None, 1),
            "SEARCH held_address",
        ),
    ];
    for (query, expected) in cases {
        let sql = query.sql();
        let plan = plan_of(&mut connection, sql.as_str()).await;
        assert!(
            plan.iter().any(|step| step.contains(expected)),
            "{}: {plan:?}",
            sql.as_str()
        );
        let sorts = plan
            .iter()
            .any(|step| step.contains("ORDER BY") && !step.contains("LAST"));
        let few = expected.contains("held_address");
        assert!(few || !sorts, "{}: {plan:?}", sql.as_str());
    }
}

fn owner(cluster: &str, namespace: Option<&str>, name: Option<&str>) -> Option<OwnerFilter> {
    Some(OwnerFilter {
        cluster: cluster.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
    })
}

/// A page of the history costs what the page and its index hold, however long the log is.
#[tokio::test]
async fn no_query_of_the_history_reads_the_whole_log() {
    let folder = Folder::new();
    let _store = folder.open().await;
    let mut connection = reading(&folder).await;
    let address = Address::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let address = Some(("default".to_owned(), address));
    let changes = |filter: ChangeFilter| changes_query(&filter, 1, 9, 1).sql().as_str().to_owned();
    let holdings = |filter: HoldingFilter| holdings_query(&filter, 9, 1).sql().as_str().to_owned();
    let any = ChangeFilter::default;
    let all = HoldingFilter::default;
    let held = || ChangeFilter {
        address: address.clone(),
        ..any()
    };
    let of = |namespace, name| ChangeFilter {
        owner: owner("east", namespace, name),
        ..any()
    };
    let cluster = || ChangeFilter {
        cluster: "east".to_owned(),
        ..any()
    };
    let kind = |kind| ChangeFilter {
        kind: Some(kind),
        ..any()
    };
    let named = ChangeFilter {
        name: "pool".to_owned(),
        ..kind(Kind::Pool)
    };
    let by_key = "change_log USING INTEGER PRIMARY KEY";
    let by_owner = |namespace, name| HoldingFilter {
        owner: owner("east", namespace, name),
        ..all()
    };
    let at = HoldingFilter {
        address: address.clone(),
        ended_after: Some(Timestamp(1)),
        ..all()
    };
    let log = |filter: LogFilter| log_query(&filter, 1, 9, 1).sql().as_str().to_owned();
    let watched = LogFilter {
        address: address.clone(),
        owner: owner("east", Some("ns"), Some("web")),
        cluster: "east".to_owned(),
        allocations_only: true,
    };
    let mut cases = vec![
        (changes(held()), "holding_address (space=? AND address=?"),
        (
            changes(held()),
            "change_log_allocation (allocation_id=? AND rowid>? AND rowid<?",
        ),
        (
            changes(ChangeFilter {
                owner: owner("east", None, None),
                ..held()
            }),
            "holding_address",
        ),
        (
            changes(of(Some("ns"), Some("web"))),
            "change_log_allocation (allocation_id=?",
        ),
        (
            changes(of(Some("ns"), Some("web"))),
            "former_owner USING PRIMARY KEY (cluster=? AND namespace=? AND name=?",
        ),
        (
            changes(of(Some("ns"), None)),
            "former_owner USING PRIMARY KEY (cluster=? AND namespace=?",
        ),
        (changes(of(None, None)), "change_log_cluster (cluster=?"),
        (changes(cluster()), "change_log_cluster (cluster=?"),
        (changes(kind(Kind::Allocation)), by_key),
        (changes(kind(Kind::Pool)), "change_log_other (subject=?"),
        (changes(named), "change_log_other (subject=? AND name=?"),
        (changes(any()), by_key),
        (log(LogFilter::default()), by_key),
        (log(watched.clone()), by_key),
        (log(watched), "holding_allocation (allocation_id=?"),
        (
            holdings(at.clone()),
            "holding_address (space=? AND address=?",
        ),
        (
            holdings(at),
            "gone USING PRIMARY KEY (cluster=? AND namespace=? AND name=? AND allocation_id=?",
        ),
        (
            holdings(by_owner(Some("ns"), Some("web"))),
            "holding_allocation (allocation_id=?",
        ),
        (
            holdings(by_owner(Some("ns"), None)),
            "former_owner USING PRIMARY KEY (cluster=? AND namespace=?",
        ),
        (holdings(by_owner(None, None)), "holding_cluster (cluster=?"),
        (holdings(all()), "holding USING INTEGER PRIMARY KEY"),
    ];
    for timeline in [Timeline::Log, Timeline::Holdings] {
        let (ends, at) = timeline.queries();
        cases.push((ends.to_owned(), "SEARCH"));
        cases.push((at.to_owned(), "USING INTEGER PRIMARY KEY"));
    }
    for (sql, expected) in cases {
        let plan = plan_of(&mut connection, &sql).await;
        let found = plan.iter().any(|step| step.contains(expected));
        assert!(found, "{sql}: wanted {expected}: {plan:?}");
        let scans: Vec<&String> = plan.iter().filter(|step| is_scan(step)).collect();
        assert!(scans.is_empty(), "{sql}: {plan:?}");
        // Only what is ordered by owner is sorted: as much as it has, without its rows.
        let sorts = plan.iter().any(|step| step.contains("FOR ORDER BY"));
        let by_owner = [
            "former_owner",
            "change_log_allocation",
            "holding_allocation",
            "holding_address",
        ];
        let may_sort = by_owner.iter().any(|index| expected.contains(index))
            || expected.contains("change_log_other");
        assert!(may_sort || !sorts, "{sql}: {plan:?}");
    }
}

fn is_scan(step: &str) -> bool {
    let few = ["SCAN CONSTANT ROW", "SCAN span"];
    step.starts_with("SCAN") && !few.contains(&step)
}
