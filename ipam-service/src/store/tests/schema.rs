//! What the schema promises, whatever is in the tables.

use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

use super::super::sqlite::{compactor_options, reader_options, schema_options};
use super::super::write::connect;
use super::super::{AllocationFilter, ChangeFilter, Location, Missing, Store, check};
use super::backups::Book;
use super::compaction::changes_of;
use super::{execute, owner, reading, to_schema_8};
use crate::state::address::Address;
use crate::state::model::Timestamp;
use crate::testing::{Folder, allocate, apply_pool};

async fn texts(connection: &mut SqliteConnection, sql: &'static str) -> Vec<String> {
    let rows = sqlx::query(sql).fetch_all(connection).await.expect(sql);
    rows.iter()
        .map(|row| row.try_get(0).expect("a text"))
        .collect()
}

#[tokio::test]
async fn every_database_has_a_name_of_its_own_and_each_start_a_later_epoch() {
    let (folder, other) = (Folder::new(), Folder::new());
    let store = folder.open().await;
    let (store_id, epoch) = (store.store_id.clone(), store.writer.epoch());
    assert_ne!(store_id, other.open().await.store_id);
    drop(store);
    let again = folder.open().await;
    assert_eq!(
        (again.store_id, again.writer.epoch()),
        (store_id, epoch + 1)
    );
}

/// A start would be refused, so nobody is told to try one.
#[tokio::test]
async fn check_tells_a_newer_database_from_an_older_one() {
    let folder = Folder::new();
    folder.open().await.writer.close().await;
    execute(
        &folder.file(),
        false,
        "update _sqlx_migrations set version = 1000
            where version = (select max(version) from _sqlx_migrations)",
    )
    .await;
    let newer = check(&folder.location()).await.expect_err("newer");
    let text = newer.to_string();
    assert!(text.contains("a newer ipam-service wrote it"), "{text}");
    assert!(!text.contains("brings it up"), "{text}");
    execute(
        &folder.file(),
        false,
        "delete from _sqlx_migrations where version = 1000",
    )
    .await;
    let older = check(&folder.location()).await.expect_err("older");
    let text = older.to_string();
    assert!(text.contains("brings it up to this version"), "{text}");
}

/// What one engine has and another lacks would be a rule that holds on one of them only.
#[tokio::test]
async fn tables_are_strict_and_have_plain_types_no_triggers_and_no_collations() {
    let folder = Folder::new();
    let _store = folder.open().await;
    let mut connection = reading(&folder).await;
    let odd = "select type || ' ' || name from sqlite_schema where type not in ('table', 'index')";
    assert_eq!(texts(&mut connection, odd).await, [""; 0]);
    let tables = "select sql from sqlite_schema
        where type = 'table' and name <> '_sqlx_migrations' and name not like 'sqlite_%'";
    let tables = texts(&mut connection, tables).await;
    assert!(tables.len() > 10, "{tables:?}");
    for table in tables {
        let is_strict = table.ends_with(") strict") || table.ends_with(") strict, without rowid");
        assert!(is_strict, "{table}");
        // Text is compared byte by byte.
        assert!(!table.contains("collate"), "{table}");
    }
    let types = "select distinct lower(c.type) from sqlite_schema t, pragma_table_info(t.name) c
        where t.type = 'table' and t.name <> '_sqlx_migrations' order by 1";
    let types = texts(&mut connection, types).await;
    assert_eq!(types, ["blob", "integer", "text"]);
}

/// In a container there may be no folder for temporary files: a statement that needs one would fail there.
#[tokio::test]
async fn no_connection_needs_a_folder_for_temporary_files() {
    let folder = Folder::new();
    let _store = folder.open().await;
    let file = folder.file();
    for options in [
        schema_options(&file),
        reader_options(&file),
        compactor_options(&file),
    ] {
        let mut connection = options.connect().await.expect("a connection");
        let stored: i64 = sqlx::query_scalar("pragma temp_store")
            .fetch_one(&mut connection)
            .await
            .expect("a number");
        assert_eq!(stored, IN_MEMORY);
    }
    let writing = connect(&file).expect("a connection");
    let stored = writing.pragma_query_value(None, "temp_store", |row| row.get::<_, i64>(0));
    assert_eq!(stored.expect("a number"), IN_MEMORY);
}

/// As SQLite numbers it.
const IN_MEMORY: i64 = 2;

/// Nothing is taken away that cannot be made anew from what stays.
#[test]
fn migrations_take_away_only_what_others_repeat() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
    let files = std::fs::read_dir(folder).expect("migrations");
    let mut statements = 0;
    for file in files {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let code: Vec<&str> = text
            .lines()
            .map(|line| line.split_once("--").map_or(line, |(code, _)| code))
            .collect();
        for statement in code.join(" ").split(';').map(str::trim) {
            let words: Vec<&str> = statement.split_whitespace().collect();
            let adds = match words.as_slice() {
                // An index holds nothing that its table does not.
                ["create", "table" | "index", ..] | ["drop", "index", ..] | [] => true,
                ["alter", "table", _, "add", ..] | ["alter", "table", _, "rename", "to", _] => true,
                ["insert", "into", ..] => true,
                // Guards repeat what `allocation` has.
                ["delete", "from", table, ..] | ["drop", "table", table] => matches!(
                    *table,
                    "allocation_port" | "allocation_address" | "held_address" | "change_address"
                ),
                // What a new column is filled with.
                ["update", "former_owner", "set", "end_revision", ..] => true,
                // Said of clusters whose uid is empty, which stays.
                ["update", "cluster", "set", "inventory", ..] => true,
                _ => false,
            };
            assert!(adds, "{statement}");
            statements += usize::from(!words.is_empty());
        }
    }
    assert!(statements > 20);
}

#[tokio::test]
async fn an_address_is_sixteen_bytes_of_either_family() {
    let folder = Folder::new();
    let mut book = Book::open(&folder.location()).await;
    let pool = apply_pool("pool", &["192.0.2.1/32", "2001:db8::1/128"]);
    book.commit(&pool).await;
    let both = allocate("east/ns/web", |wire| wire.families = vec![1, 2]);
    book.commit(&both).await;
    book.close().await;
    let mut connection = reading(&folder).await;
    let written = "select hex(address) from held_address order by address";
    assert_eq!(
        texts(&mut connection, written).await,
        [
            "00000000000000000000FFFFC0000201",
            "20010DB8000000000000000000000001"
        ]
    );
    drop(connection);
    let database = rusqlite::Connection::open(folder.file()).expect("a database");
    let four = "insert into held_address (space, address, cluster, group_key, backend_key)
        values ('s', x'c0000209', 'c', 'g', 'b')";
    let refused = database.execute(four, ()).expect_err("four bytes");
    assert!(refused.to_string().contains("CHECK"), "{refused}");
}

/// Rust, SQLite and every other engine agree on it, whatever the language of the names.
#[tokio::test]
async fn lists_are_in_the_order_of_the_bytes_of_names() {
    let folder = Folder::new();
    let mut book = Book::open(&folder.location()).await;
    book.commit(&apply_pool("pool", &["192.0.2.0/24"])).await;
    let mut names = [
        "b",
        "B",
        "a",
        "aa",
        "Z",
        "~",
        "\u{e9}",
        "e",
        "\u{1f600}",
        "10",
        "9",
    ];
    for name in names {
        book.commit(&allocate(&format!("east/ns/{name}"), |_| {}))
            .await;
    }
    names.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    let in_state = book.held();
    let in_state: Vec<&str> = in_state
        .iter()
        .map(|one| one.owner.key.name.as_str())
        .collect();
    let mut by_name = in_state.clone();
    by_name.sort_unstable();
    assert_eq!(by_name, names);
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let all = AllocationFilter::default();
        let page = book.store.reader.allocations(&all, after.as_ref(), 2).await;
        let page = page.expect("readable");
        let owners = page.items.into_iter().filter_map(|one| one.owner);
        listed.extend(owners.map(|owner| owner.name));
        if !page.more {
            break;
        }
        let last = listed.last().expect("a page has something").clone();
        after = Some(("east".to_owned(), "ns".to_owned(), last));
    }
    assert_eq!(listed, names);
    book.close().await;
}

/// A database that is missing is not an empty one, unless somebody says so.
#[tokio::test]
async fn nothing_is_made_where_a_database_was_expected() {
    let folder = Folder::new();
    let Location::Sqlite(path) = folder.location();
    let missing = Store::open(&folder.location(), Missing::Refuse, Timestamp(1)).await;
    missing.expect_err("there is none");
    assert!(!path.exists());
    folder.open().await;
    execute(&path, false, "select 1").await;
    let there = Store::open(&folder.location(), Missing::Refuse, Timestamp(1)).await;
    assert!(!there.expect("it is there").created);
}

/// Version 7 had a row per holder and per port also where somebody holds an address alone; version 8 said
/// of which addresses each decision tells, and did not say which one ended an allocation.
#[tokio::test]
async fn a_database_of_an_older_version_is_brought_up() {
    let folder = Folder::new();
    let mut book = Book::open(&folder.location()).await;
    book.commit(&apply_pool("pool", &["192.0.2.0/24", "2001:db8::/64"]))
        .await;
    book.commit(&allocate("east/ns/alone", |wire| {
        wire.families = vec![1, 2]
    }))
    .await;
    for (name, port) in [("a", 80), ("b", 81)] {
        let shares = allocate(&format!("east/ns/{name}"), |wire| {
            wire.sharing_key = "key".to_owned();
            wire.ports[0].port = port;
        });
        book.commit(&shares).await;
    }
    for owner in ["east/ns/gone", "east/ns/gone"] {
        book.commit(&allocate(owner, |_| {})).await;
        book.commit(&allocate(owner, |wire| wire.ports[0].port = 8080))
            .await;
        book.commit(&crate::testing::release(owner)).await;
    }
    let held = book.held();
    let history = histories(&book.store).await;
    assert!(
        history.iter().all(|revisions| revisions.len() > 1),
        "{history:?}"
    );
    book.close().await;
    to_schema_8(&folder.file());
    for older in [
        "insert into allocation_address select space, address,
            cast(substr(group_key, 2) as integer), cluster, group_key, backend_key
        from held_address where group_key like 'a%'",
        "insert into allocation_port select space, address, 6, 80, allocation_id
        from allocation_address where group_key like 'a%'",
        "delete from _sqlx_migrations where version = 8",
    ] {
        execute(&folder.file(), false, older).await;
    }
    let mut book = Book::open(&folder.location()).await;
    assert_eq!(book.held(), held);
    assert_eq!(histories(&book.store).await, history);
    book.commit(&crate::testing::release("east/ns/alone")).await;
    book.close().await;
    let problems = super::super::check(&folder.location()).await;
    assert_eq!(problems.expect("checked"), [""; 0]);
}

/// Of what an owner and an address went through.
async fn histories(store: &Store) -> [Vec<u64>; 2] {
    let address = Address::from(std::net::Ipv4Addr::new(192, 0, 2, 2));
    let of_address = ChangeFilter {
        address: Some(("default".to_owned(), address)),
        ..ChangeFilter::default()
    };
    let of_owner = ChangeFilter {
        owner: owner("east", Some("ns"), Some("gone")),
        ..ChangeFilter::default()
    };
    [
        changes_of(&store.reader, &of_address).await,
        changes_of(&store.reader, &of_owner).await,
    ]
}
