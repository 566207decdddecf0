//! Backups of a store in use, and what is restored from them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};

use super::super::sqlite::reader_options;
use super::super::{
    BackupError, Batch, ChangeFilter, From, Location, Logged, Missing, OpenError, Origin, Reader,
    Restore, RestoreError, Store, backup, check, restore,
};
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{Allocation, Revision, Timestamp};
use crate::state::names::Name;
use crate::state::{State, decide};
use crate::testing::{Folder, allocate, apply_grants, apply_pool, release};

pub(super) const AHEAD: u64 = 1 << 32;

/// A store and the state that it should have.
pub(super) struct Book {
    pub(super) state: State,
    pub(super) store: Store,
}

impl Book {
    pub(super) async fn open(location: &Location) -> Self {
        let store = Store::open(location, Missing::Create, Timestamp(1)).await;
        let mut store = store.expect("database");
        let loaded = store.writer.load().await.expect("readable");
        let state = State::restore(loaded.revision, loaded.rows);
        Self { state, store }
    }

    pub(super) async fn commit(&mut self, command: &Command) {
        let batch = self.decide(command);
        self.store.writer.commit(&batch).await.expect("committed");
    }

    pub(super) fn decide(&mut self, command: &Command) -> Batch {
        let mut batch = Batch {
            time: Timestamp(7),
            ..Batch::default()
        };
        for change in decide(&self.state, command, batch.time).expect("allowed") {
            self.state.apply(&change);
            batch.changes.push(Logged {
                revision: change.is_decision().then(|| self.state.revision()),
                change,
                origin: Arc::new(Origin::default()),
            });
        }
        batch
    }

    /// Commits facts that no command asks for.
    pub(super) async fn commit_facts(&mut self, changes: Vec<Change>) {
        let mut batch = Batch::default();
        for change in changes {
            self.state.apply(&change);
            batch.changes.push(Logged {
                revision: None,
                change,
                origin: Arc::new(Origin::default()),
            });
        }
        self.store.writer.commit(&batch).await.expect("committed");
    }

    /// Until nobody has the files open any more: connections of readers end on threads of their own.
    pub(super) async fn close(self) {
        self.store.reader.close().await;
        self.store.writer.close().await;
    }

    pub(super) fn store_id(&self) -> &str {
        &self.store.store_id
    }

    pub(super) fn held(&self) -> Vec<Arc<Allocation>> {
        self.state.allocations().cloned().collect()
    }
}

/// A store with something in every table that decisions fill.
pub(super) async fn some_book(folder: &Folder) -> Book {
    let mut book = Book::open(&folder.location()).await;
    book.commit(&apply_pool("pool", &["192.0.2.0/24", "2001:db8::/120"]))
        .await;
    for name in ["a", "b", "c"] {
        let owner = format!("east/ns/{name}");
        book.commit(&allocate(&owner, |wire| wire.families = vec![1, 2]))
            .await;
    }
    book.commit(&allocate("west/ns/shared", |wire| {
        wire.sharing_key = "key".to_owned();
    }))
    .await;
    book.commit(&release("east/ns/b")).await;
    let both: &[&str] = &["192.0.2.0/24", "2001:db8::/64"];
    book.commit(&apply_grants(&[("east", both), ("west", &both[..1])]))
        .await;
    book
}

/// Every row of every table, as text that tells types apart.
async fn dump(path: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut connection = reader_options(path).connect().await.expect("a database");
    let tables = "select name from sqlite_schema where type = 'table' order by name";
    let tables = sqlx::query(tables).fetch_all(&mut connection).await;
    let mut dump = BTreeMap::new();
    for table in tables.expect("tables") {
        let table: String = table.try_get(0).expect("a name");
        let columns = format!("select name from pragma_table_info('{table}')");
        let columns = sqlx::query(AssertSqlSafe(columns))
            .fetch_all(&mut connection)
            .await;
        let columns: Vec<String> = columns
            .expect("columns")
            .iter()
            .map(|row| format!("'{0}=' || quote(\"{0}\")", row.get::<String, _>(0)))
            .collect();
        let rows = format!("select {} from \"{table}\"", columns.join(" || ' ' || "));
        let rows = sqlx::query(AssertSqlSafe(rows))
            .fetch_all(&mut connection)
            .await;
        let rows = rows.expect("rows").iter().map(|row| row.get(0)).collect();
        dump.insert(table, rows);
    }
    assert!(dump.len() > 10, "too few tables to be all: {dump:?}");
    dump
}

fn task<'a>(from: &'a Path, to: &'a Location, also: &'a BTreeSet<Name>) -> Restore<'a> {
    Restore {
        from: From::Backup(from),
        to,
        also_expected: also,
        move_aside: false,
        now: Timestamp(9_000_000),
    }
}

#[tokio::test]
async fn a_backup_is_row_by_row_what_was_saved_and_so_is_what_is_restored_from_it() {
    let folder = Folder::new();
    let book = some_book(&folder).await;
    let file = folder.file().with_file_name("backup.db");
    let made = backup(&folder.location(), &file).await.expect("a backup");
    assert_eq!(made.revision, book.state.revision());
    assert_eq!(made.store_id, book.store.store_id);
    let mode = std::fs::metadata(&file).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let original = dump(&folder.file()).await;
    assert_eq!(dump(&file).await, original);

    let other = Folder::new();
    let location = other.location();
    let none = BTreeSet::new();
    let restored = restore(task(&file, &location, &none)).await;
    let restored = restored.expect("restored");
    assert_eq!(restored.expected, 2);
    assert_eq!(restored.revision, made.revision + AHEAD + 2);
    assert_ne!(restored.store_id, made.store_id);
    let mut again = dump(&other.file()).await;
    // What says that it is another store, and that its clusters are expected, is new; nothing else.
    for table in ["meta", "cluster"] {
        let (then, now) = (&original[table], again.remove(table).expect("a table"));
        assert_eq!(then.len(), now.len());
        assert!(then.is_disjoint(&now), "{now:?}");
        again.insert(table.to_owned(), then.clone());
    }
    let log = again.get_mut("change_log").expect("a table");
    let before = log.len();
    log.retain(|row| original["change_log"].contains(row));
    assert_eq!(before - log.len(), 2, "one decision per cluster");
    assert_eq!(again, original);
    assert_eq!(check(&location).await.expect("checked"), [""; 0]);
    assert!(!std::fs::exists(other.file().with_extension("db.restoring")).expect("a folder"));
}

#[tokio::test]
async fn a_restored_store_expects_every_cluster_and_repeats_no_revision() {
    let folder = Folder::new();
    let book = some_book(&folder).await;
    let file = folder.file().with_file_name("backup.db");
    let made = backup(&folder.location(), &file).await.expect("a backup");
    let epoch = book.store.writer.epoch();
    book.close().await;
    let other = Folder::new();
    let location = other.location();
    let north = Name::parse("north").expect("a name");
    restore(task(&file, &location, &BTreeSet::from([north])))
        .await
        .expect("restored");
    let mut again = Book::open(&location).await;
    assert!(again.state.is_recovering());
    assert!(again.store.writer.epoch() > epoch + AHEAD);
    let expected: Vec<(String, String)> = again
        .state
        .clusters()
        .map(|it| (it.name.to_string(), format!("{:?}", it.inventory)))
        .collect();
    let pairs = ["east", "north", "west"].map(|it| (it.to_owned(), "Expected".to_owned()));
    assert_eq!(expected, pairs);
    let span = again.store.reader.log_span().await.expect("readable");
    assert_eq!(
        (span.oldest, span.revision),
        (made.revision + AHEAD + 1, made.revision + AHEAD + 3),
        "nobody goes on from a revision of the lost store"
    );
    // Who holds something holds it still, and may say so; others wait.
    let held = again.held();
    let newcomer = allocate("east/ns/new", |_| ());
    decide(&again.state, &newcomer, Timestamp(8)).expect_err("recovering");
    let address = held[0].addresses[0].to_string();
    let said = allocate("east/ns/a", |wire| {
        wire.families = vec![1, 2];
        wire.held_addresses = vec![address];
    });
    again.commit(&said).await;
    assert_eq!(again.held(), held);
}

/// Checked against what the writer had acknowledged when the backup began and when it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_the_store_as_it_was_at_one_commit() {
    let folder = Folder::new();
    let mut book = some_book(&folder).await;
    let mut held: BTreeMap<Revision, Vec<Arc<Allocation>>> = BTreeMap::new();
    held.insert(book.state.revision(), book.held());
    let location = folder.location();
    let mut seen = BTreeSet::new();
    for round in 0..6 {
        let file = folder.file().with_file_name(format!("backup-{round}.db"));
        let (first, from) = (book.state.revision(), location.clone());
        let saving = tokio::spawn({
            let file = file.clone();
            async move { backup(&from, &file).await }
        });
        let mut number = 0;
        while !saving.is_finished() || number < 5 {
            let owner = format!("east/ns/{round}-{number}");
            book.commit(&allocate(&owner, |_| ())).await;
            if number % 2 == 0 {
                held.insert(book.state.revision(), book.held());
                book.commit(&release(&owner)).await;
            }
            held.insert(book.state.revision(), book.held());
            number += 1;
        }
        let made = saving.await.expect("ended").expect("a backup");
        assert!(
            (first..=book.state.revision()).contains(&made.revision),
            "{made:?}"
        );
        seen.insert(made.revision - first);
        let copy = Location::Sqlite(file);
        assert_eq!(check(&copy).await.expect("checked"), [""; 0]);
        let copy = Book::open(&copy).await;
        assert_eq!(copy.state.revision(), made.revision);
        assert_eq!(Some(&copy.held()), held.get(&made.revision));
    }
    eprintln!("commits before each backup's own: {seen:?}");
}

#[tokio::test]
async fn a_backup_overwrites_nothing_and_leaves_nothing_when_it_fails() {
    let folder = Folder::new();
    let missing = backup(&folder.location(), &folder.file().with_file_name("x")).await;
    assert!(
        matches!(missing, Err(BackupError::Source(_))),
        "{missing:?}"
    );
    some_book(&folder).await.close().await;
    let file = folder.file().with_file_name("backup.db");
    std::fs::write(&file, "").expect("written");
    let refused = backup(&folder.location(), &file).await;
    assert!(
        matches!(refused, Err(BackupError::Exists(_))),
        "{refused:?}"
    );
    std::fs::remove_file(&file).expect("removed");
    // A page in the middle, so that the file opens and its content is wrong.
    let mut bytes = std::fs::read(folder.file()).expect("file");
    let page = bytes.len() / 4096 / 2;
    bytes[page * 4096..(page + 1) * 4096].fill(0xff);
    std::fs::write(folder.file(), bytes).expect("written");
    let damaged = backup(&folder.location(), &file).await;
    damaged.expect_err("the database is damaged");
    let left: Vec<_> = std::fs::read_dir(folder.file().parent().expect("folder"))
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name())
        .filter(|name| name.to_string_lossy().starts_with("backup"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_restore_touches_no_database_unless_told_and_then_keeps_it_with_its_log() {
    let folder = Folder::new();
    some_book(&folder).await.close().await;
    let file = folder.file().with_file_name("backup.db");
    backup(&folder.location(), &file).await.expect("a backup");
    let (location, none) = (folder.location(), BTreeSet::new());

    let book = Book::open(&location).await;
    let mut forced = task(&file, &location, &none);
    forced.move_aside = true;
    let running = restore(forced.clone()).await;
    assert!(
        matches!(running, Err(RestoreError::Open(OpenError::Lock(_)))),
        "{running:?}"
    );
    book.close().await;
    let exists = restore(task(&file, &location, &none)).await;
    assert!(matches!(exists, Err(RestoreError::Exists(_))), "{exists:?}");
    let mut nonsense = forced.clone();
    let text = folder.file().with_file_name("text");
    std::fs::write(&text, "this is no backup, but long enough to look at").expect("written");
    nonsense.from = From::Backup(&text);
    let refused = restore(nonsense).await;
    assert!(
        matches!(refused, Err(RestoreError::Source(_))),
        "{refused:?}"
    );

    // A log that was never moved into the database, as a crash leaves it.
    let mut book = Book::open(&location).await;
    book.commit(&allocate("east/ns/late", |_| ())).await;
    let (state, held) = (book.state.revision(), book.held());
    let wal = folder.file().with_extension("db-wal");
    let saved = std::fs::read(&wal).expect("a log");
    let whole = std::fs::read(folder.file()).expect("a database");
    book.close().await;
    std::fs::write(&wal, saved).expect("written");
    std::fs::write(folder.file(), whole).expect("written");

    let restored = restore(forced).await.expect("restored");
    let aside = restored.moved_to.expect("it was there");
    assert_eq!(aside, folder.file().with_extension("db.replaced-9"));
    let kept = Book::open(&Location::Sqlite(aside)).await;
    assert_eq!((kept.state.revision(), kept.held()), (state, held));
    let new = Book::open(&location).await;
    assert_eq!(new.state.revision(), restored.revision);
    let late = new
        .held()
        .iter()
        .any(|it| it.owner.key.name.as_str() == "late");
    assert!(!late, "the old log was read into the new store");
    assert_eq!(new.state.clusters().count(), restored.expected);
}

/// The log that came with the backup is history still: only watchers have to begin anew.
#[tokio::test]
async fn the_history_of_before_a_restore_is_listed() {
    let folder = Folder::new();
    let book = some_book(&folder).await;
    let file = folder.file().with_file_name("backup.db");
    backup(&folder.location(), &file).await.expect("a backup");
    let all = ChangeFilter::default();
    let of_owner = ChangeFilter {
        owner: super::owner("east", Some("ns"), None),
        ..ChangeFilter::default()
    };
    let listed = async |reader: &Reader, filter: &ChangeFilter| -> Vec<u64> {
        let page = reader.changes(filter, None, 1000).await.expect("readable");
        page.items.iter().map(|change| change.revision).collect()
    };
    let before = [
        listed(&book.store.reader, &all).await,
        listed(&book.store.reader, &of_owner).await,
    ];
    assert!(before.iter().all(|list| !list.is_empty()), "{before:?}");
    book.close().await;

    let other = Folder::new();
    let none = BTreeSet::new();
    let restored = restore(task(&file, &other.location(), &none)).await;
    let revision = restored.expect("restored").revision;
    let store = other.open().await;
    let after = [
        listed(&store.reader, &all).await,
        listed(&store.reader, &of_owner).await,
    ];
    // Beside it there is only that each cluster is expected.
    let [mut all, of_owner] = after;
    all.retain(|one| *one <= revision - AHEAD);
    assert_eq!([all, of_owner], before);
}
