//! Who held what when, against a model that looks at the whole state after each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use pharos_proto::v1;
use proptest::prelude::*;

use super::super::plan::addresses_of;
use super::super::{
    Batch, ChangeFilter, HoldingFilter, LogFilter, Logged, Origin, OwnerFilter, Reader, check,
};
use super::compaction::changes_of;
use super::{execute, to_schema_8, to_schema_12};
use crate::state::address::Address;
use crate::state::command::Command;
use crate::state::model::Timestamp;
use crate::state::{State, decide};
use crate::store::Store;
use crate::testing::{Folder, allocate, apply_pool, apply_pool_in, release};

/// Space, address, allocation.
type Key = (String, String, u64);

/// What the table must say, found by comparing the states after each change.
#[derive(Default)]
struct Model {
    open: BTreeMap<Key, v1::Holding>,
    all: Vec<v1::Holding>,
}

impl Model {
    fn see(&mut self, state: &State, revision: u64, time: Timestamp) {
        let mut now = BTreeMap::new();
        for one in state.allocations() {
            let space = one.effective_claim().space.to_string();
            for address in &one.addresses {
                now.insert((space.clone(), address.to_string(), one.id), one);
            }
        }
        let time = Some(crate::api::convert_history::time_to_wire(time));
        let ended: Vec<Key> = self.open.keys().cloned().collect();
        for key in ended.into_iter().filter(|key| !now.contains_key(key)) {
            let mut gone = self.open.remove(&key).expect("it was open");
            gone.end_time = time;
            gone.end_revision = revision;
            self.all.push(gone);
        }
        for (key, one) in now {
            let uid = one.owner.uid.clone();
            let holding = self.open.entry(key.clone()).or_insert_with(|| v1::Holding {
                owner: Some(crate::api::convert::owner_to_wire(&one.owner)),
                address: key.1,
                address_space: key.0,
                pool: one.pool.as_ref().expect("a pool").name.to_string(),
                allocation_id: one.id,
                start_time: time,
                start_revision: revision,
                ..v1::Holding::default()
            });
            holding.owner.as_mut().expect("an owner").uid = uid;
        }
    }

    /// Newest beginning first; what began with one change in no order.
    fn sorted(&self) -> Vec<v1::Holding> {
        let mut all: Vec<v1::Holding> =
            self.all.iter().chain(self.open.values()).cloned().collect();
        sort(&mut all);
        all
    }
}

fn sort(all: &mut [v1::Holding]) {
    all.sort_by_key(|one| (u64::MAX - one.start_revision, one.address.clone()));
}

/// A state, its store and the model.
struct Book {
    state: State,
    store: Store,
    model: Model,
    time: i64,
    /// Which decisions tell of an address.
    touched: BTreeMap<Touched, Vec<u64>>,
}

/// Space and address.
type Touched = (String, [u8; 16]);

impl Book {
    async fn open(folder: &Folder) -> Self {
        let mut store = folder.open().await;
        store.writer.load().await.expect("readable");
        Self {
            state: State::new(),
            store,
            model: Model::default(),
            time: 100,
            touched: BTreeMap::new(),
        }
    }

    /// One batch, ten microseconds later.
    async fn commit(&mut self, commands: &[Command]) {
        self.time += 10;
        let mut batch = Batch {
            time: Timestamp(self.time),
            ..Batch::default()
        };
        for command in commands {
            let mut next = Some(command.clone());
            while let Some(command) = next {
                for change in decide(&self.state, &command, batch.time).unwrap_or_default() {
                    self.state.apply(&change);
                    let revision = change.is_decision().then(|| self.state.revision());
                    if let Some(revision) = revision {
                        self.model.see(&self.state, revision, batch.time);
                        for (space, address) in addresses_of(&change) {
                            let touched = self.touched.entry((space.to_string(), address));
                            touched.or_default().push(revision);
                        }
                    }
                    batch.changes.push(Logged {
                        revision,
                        change,
                        origin: Arc::new(Origin::default()),
                    });
                }
                next = self.state.follow_up();
            }
        }
        self.store.writer.commit(&batch).await.expect("committed");
    }

    async fn held_by(&self, filter: HoldingFilter) -> Vec<String> {
        let found = list(&self.store.reader, &filter, 100).await;
        found.iter().map(name).collect()
    }
}

/// The history of each address is that of the decisions that tell of it.
async fn check_touched(reader: &Reader, touched: &BTreeMap<Touched, Vec<u64>>) {
    for ((space, address), revisions) in touched {
        let address = Some((space.clone(), Address::from_bytes(*address)));
        let listed = ChangeFilter {
            address: address.clone(),
            ..ChangeFilter::default()
        };
        let mut found = changes_of(reader, &listed).await;
        found.reverse();
        assert_eq!(&found, revisions, "{space} {address:?}");
        let watched = LogFilter {
            address,
            ..LogFilter::default()
        };
        let part = reader.log_part(0, &watched, 1000).await;
        let part = part.expect("readable").entries.into_iter();
        let found: Vec<u64> = part.map(|(revision, _)| revision).collect();
        assert_eq!(&found, revisions, "{space} watched");
    }
}

fn name(holding: &v1::Holding) -> String {
    let owner = holding.owner.clone().unwrap_or_default();
    format!("{} {}/{}", holding.address, owner.name, owner.uid)
}

/// All pages.
async fn list(reader: &Reader, filter: &HoldingFilter, size: u32) -> Vec<v1::Holding> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = reader
            .holdings(filter, before, size)
            .await
            .expect("readable");
        before = page.items.last().map(|(id, _)| *id);
        all.extend(page.items.into_iter().map(|(_, holding)| holding));
        if !page.more {
            return all;
        }
    }
}

fn address(text: &str) -> Option<(String, Address)> {
    Some((
        "default".to_owned(),
        Address::from(text.parse::<std::net::IpAddr>().expect(text)),
    ))
}

fn at(time: i64) -> HoldingFilter {
    HoldingFilter {
        ended_after: Some(Timestamp(time)),
        begun_before: Some(Timestamp(time + 1)),
        ..HoldingFilter::default()
    }
}

/// Few owners and addresses, so that they meet; several incarnations; shared addresses; pools that
/// shrink and change their names.
fn commands() -> impl Strategy<Value = Command> {
    let owner = (0..2_u8, 0..5_u8).prop_map(|(cluster, name)| format!("c{cluster}/ns/svc{name}"));
    let claim = (
        owner.clone(),
        0..4_u16,
        0..2_u8,
        0..3_u8,
        any::<bool>(),
        0..10_u8,
    );
    prop_oneof![
        6 => claim.prop_map(|(owner, port, key, uid, queue, pick)| allocate(&owner, |wire| {
            wire.ports[0].port = 80 + u32::from(port);
            if key > 0 {
                wire.sharing_key = "key".to_owned();
            }
            if uid > 0 {
                wire.owner.as_mut().expect("an owner").uid = format!("uid{uid}");
            }
            if queue {
                wire.if_refused = v1::allocate_request::IfRefused::Queue.into();
            }
            match pick {
                0..=3 => wire.addresses = vec![format!("192.0.2.{pick}")],
                4 => wire.families = vec![1, 2],
                5 => wire.address_space = "other".to_owned(),
                _ => {}
            }
        })),
        3 => owner.prop_map(|owner| release(&owner)),
        1 => (1..6_u8).prop_map(|last| {
            apply_pool("pool", &[&format!("192.0.2.0-192.0.2.{last}"), "2001:db8::/126"])
        }),
    ]
}

proptest! {
    // Each case opens a database and syncs some ten times.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn holdings_are_the_intervals_in_which_the_state_had_a_holder(
        batches in proptest::collection::vec(proptest::collection::vec(commands(), 1..16), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let folder = Folder::new();
            let mut book = Book::open(&folder).await;
            book.commit(&[
                apply_pool("pool", &["192.0.2.0-192.0.2.3", "2001:db8::/126"]),
                apply_pool_in("other", "other", &["192.0.2.0-192.0.2.3"]),
            ]).await;
            for batch in &batches {
                book.commit(batch).await;
            }
            let mut found = list(&book.store.reader, &HoldingFilter::default(), 7).await;
            let starts: Vec<u64> = found.iter().map(|one| one.start_revision).collect();
            assert!(starts.is_sorted_by(|a, b| a >= b), "newest first: {starts:?}");
            sort(&mut found);
            assert_eq!(found, book.model.sorted());
            check_touched(&book.store.reader, &book.touched).await;
            for time in (100..book.time + 20).step_by(5) {
                let mut then = list(&book.store.reader, &at(time), 100).await;
                sort(&mut then);
                let mut expected = book.model.sorted();
                let micros = |time: &Option<prost_types::Timestamp>| {
                    time.as_ref().map(|time| i64::from(time.nanos) / 1000)
                };
                expected.retain(|one| {
                    micros(&one.start_time).is_some_and(|start| start <= time)
                        && micros(&one.end_time).is_none_or(|end| end > time)
                });
                assert_eq!(then, expected, "at {time}");
            }
            drop(book.store);

            // The same, out of what a version without the table left.
            to_schema_8(&folder.file());
            execute(&folder.file(), false, "drop table holding").await;
            execute(&folder.file(), false, "drop table history_meta").await;
            execute(&folder.file(), false, "drop index change_log_cluster").await;
            execute(&folder.file(), false, "drop index change_log_other").await;
            execute(&folder.file(), false, "drop table former_owner").await;
            execute(&folder.file(), false, "drop index change_log_allocation").await;
            execute(&folder.file(), false, "alter table change_log drop column allocation_id").await;
            let by_owner = "create index change_log_owner on change_log (name)";
            execute(&folder.file(), false, by_owner).await;
            let forget = "delete from _sqlx_migrations where version in (4, 6)";
            execute(&folder.file(), false, forget).await;
            let again = folder.open().await;
            let mut filled = list(&again.reader, &HoldingFilter::default(), 1000).await;
            sort(&mut filled);
            assert_eq!(filled, book.model.sorted());
            check_touched(&again.reader, &book.touched).await;
            drop(again);
            assert_eq!(check(&folder.location()).await.expect("checked"), Vec::<String>::new());
        });
    }
}

#[tokio::test]
async fn who_held_an_address_is_found_by_address_time_owner_and_cluster() {
    let folder = Folder::new();
    let mut book = Book::open(&folder).await;
    let with_uid = |owner: &str, uid: &str, port: u32| {
        allocate(owner, |wire| {
            wire.owner.as_mut().expect("an owner").uid = uid.to_owned();
            wire.sharing_key = "key".to_owned();
            wire.ports[0].port = port;
            wire.addresses = vec!["192.0.2.1".to_owned()];
        })
    };
    book.commit(&[apply_pool("pool", &["192.0.2.0/24"])]).await; // 110
    book.commit(&[with_uid("east/ns/web", "one", 80)]).await; // 120
    book.commit(&[with_uid("east/ns/api", "", 81)]).await; // 130
    book.commit(&[with_uid("east/ns/web", "two", 80)]).await; // 140
    book.commit(&[release("east/ns/web"), release("east/ns/api")])
        .await; // 150
    book.commit(&[allocate("west/ns/web", |wire| {
        wire.addresses = vec!["192.0.2.1".to_owned()]
    })])
    .await; // 160
    // A port more, and another name of the pool, are no news here.
    book.commit(&[
        allocate("west/ns/web", |wire| {
            wire.addresses = vec!["192.0.2.1".to_owned()];
            wire.ports[0].port = 8080;
        }),
        allocate("west/ns/made-and-gone", |_| {}),
        release("west/ns/made-and-gone"),
    ])
    .await; // 170
    let of = |time: i64| HoldingFilter {
        address: address("192.0.2.1"),
        ..at(time)
    };
    for (time, expected) in [
        (119, &[][..]),
        (120, &["192.0.2.1 web/one"][..]),
        (135, &["192.0.2.1 api/", "192.0.2.1 web/one"]),
        (140, &["192.0.2.1 web/two", "192.0.2.1 api/"]),
        (150, &[]),
        (1_000_000, &["192.0.2.1 web/"]),
    ] {
        assert_eq!(book.held_by(of(time)).await, expected, "at {time}");
    }
    let window = HoldingFilter {
        ended_after: Some(Timestamp(145)),
        begun_before: Some(Timestamp(160)),
        ..of(0)
    };
    assert_eq!(
        book.held_by(window).await,
        ["192.0.2.1 web/two", "192.0.2.1 api/"]
    );
    let owner = |cluster: &str, namespace: Option<&str>, name: Option<&str>| HoldingFilter {
        owner: Some(OwnerFilter {
            cluster: cluster.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }),
        ..HoldingFilter::default()
    };
    let web = owner("east", Some("ns"), Some("web"));
    assert_eq!(
        book.held_by(web.clone()).await,
        ["192.0.2.1 web/two", "192.0.2.1 web/one"]
    );
    let first = HoldingFilter {
        uid: "one".to_owned(),
        ..web
    };
    assert_eq!(book.held_by(first).await, ["192.0.2.1 web/one"]);
    let west = ["192.0.2.0 made-and-gone/", "192.0.2.1 web/"];
    assert_eq!(book.held_by(owner("west", None, None)).await, west);
    assert_eq!(book.held_by(owner("west", Some("ns"), None)).await, west);
    let none: [&str; 0] = [];
    assert_eq!(book.held_by(owner("west", Some("none"), None)).await, none);
}

/// Version 12 wrote it into each interval of the allocation, this one writes it once.
#[tokio::test]
async fn an_interval_ends_with_its_allocation_whichever_version_wrote_that() {
    let folder = Folder::new();
    let mut book = Book::open(&folder).await;
    let both = |wire: &mut v1::AllocateRequest| wire.families = vec![1, 2];
    book.commit(&[
        apply_pool("pool", &["192.0.2.0/24", "2001:db8::/64"]),
        allocate("east/ns/before", both),
        allocate("east/ns/after", both),
        allocate("east/ns/stays", both),
    ])
    .await;
    book.commit(&[release("east/ns/before")]).await;
    drop(book.store);
    to_schema_12(&folder.file());
    book.store = folder.open().await;
    book.store.writer.load().await.expect("readable");
    book.commit(&[release("east/ns/after")]).await;
    let mut found = list(&book.store.reader, &HoldingFilter::default(), 4).await;
    sort(&mut found);
    assert_eq!(found, book.model.sorted());
    for (time, count) in [(115, 6), (125, 4), (135, 2)] {
        let then = list(&book.store.reader, &at(time), 10).await;
        assert_eq!(then.len(), count, "at {time}");
    }
    check_touched(&book.store.reader, &book.touched).await;
    drop(book.store);
    let problems = || async { check(&folder.location()).await.expect("checked") };
    assert_eq!(problems().await, Vec::<String>::new());
    let database = rusqlite::Connection::open(folder.file()).expect("a database");
    let ended = "select count(*) from holding where end_revision <> 0";
    let ended: i64 = database
        .query_row(ended, (), |row| row.get(0))
        .expect("a number");
    assert_eq!(ended, 2, "by the older version");
    let forget = "update former_owner set end_time = 0 where name = 'after'";
    database.execute(forget, ()).expect("good SQL");
    let nobody = "former_owner: nobody knows when an interval ended of 4";
    assert_eq!(problems().await, [nobody; 2]);
}

#[tokio::test]
async fn check_tells_of_intervals_that_do_not_agree_with_what_is_held() {
    let folder = Folder::new();
    let mut book = Book::open(&folder).await;
    book.commit(&[
        apply_pool("pool", &["192.0.2.0/24"]),
        allocate("east/ns/web", |_| {}),
    ])
    .await;
    drop(book);
    let problems = || async { check(&folder.location()).await.expect("checked") };
    assert_eq!(problems().await, Vec::<String>::new());
    execute(
        &folder.file(),
        false,
        "update holding set end_revision = 3, end_time = 3",
    )
    .await;
    let missing = problems().await;
    assert_eq!(missing, ["holding: none for 192.0.2.0 in default by 3"]);
    let wrong =
        "update holding set end_revision = 0, address = x'00000000000000000000ffffc0000209'";
    execute(&folder.file(), false, wrong).await;
    let wrong = problems().await;
    let expected = [
        "holding: none for 192.0.2.0 in default by 3",
        "holding: 192.0.2.9 in default by 3 goes on, but is not held",
    ];
    assert_eq!(wrong, expected);
}
