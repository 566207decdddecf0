//! The constraints repeat the rules: what no rule would decide cannot be written either.

use std::sync::Arc;

use super::super::{AllocationFilter, Batch, CommitError, Logged, Origin, Writer, check};
use super::execute;
use crate::state::change::{Change, Edit};
use crate::state::command::Command;
use crate::state::model::{Allocation, Timestamp};
use crate::state::{State, decide};
use crate::testing::{Folder, allocate, apply_pool};

/// Two granted allocations that share nothing.
fn two() -> (Arc<Allocation>, Arc<Allocation>) {
    let mut state = State::new();
    for command in [
        apply_pool("pool", &["192.0.2.1-192.0.2.9"]),
        allocate("east/default/web", |_| {}),
        allocate("west/default/web", |_| {}),
    ] {
        run(&mut state, &command);
    }
    let mut allocations = state.allocations().cloned();
    (
        allocations.next().expect("east"),
        allocations.next().expect("west"),
    )
}

fn run(state: &mut State, command: &Command) {
    for change in decide(state, command, Timestamp(1)).expect("granted") {
        state.apply(&change);
    }
}

/// With its revision as its id.
fn created(revision: u64, mut allocation: Allocation) -> Logged {
    allocation.id = revision;
    Logged {
        revision: Some(revision),
        change: Change::Allocation(Edit {
            before: None,
            after: Some(Arc::new(allocation)),
        }),
        origin: Arc::new(Origin::default()),
    }
}

async fn commit(writer: &mut Writer, changes: Vec<Logged>) -> Result<(), CommitError> {
    let batch = Batch {
        time: Timestamp(1),
        changes,
        ..Batch::default()
    };
    writer.commit(&batch).await
}

#[tokio::test]
async fn one_address_cannot_have_two_owners_and_one_port_cannot_either() {
    let (east, west) = two();
    let folder = Folder::new();
    let mut store = folder.open().await;
    store.writer.load().await.expect("readable");
    commit(&mut store.writer, vec![created(1, (*east).clone())])
        .await
        .expect("free");

    let with_address_of_east = |mut allocation: Allocation| {
        allocation.addresses.clone_from(&east.addresses);
        allocation
    };
    let other_cluster = with_address_of_east((*west).clone());
    let mut same_cluster = other_cluster.clone();
    same_cluster.owner.key.cluster = east.owner.key.cluster.clone();
    same_cluster.owner.key.name = crate::state::names::Name::parse("other").expect("name");
    let mut second_claim = (*east).clone();
    second_claim.addresses.clone_from(&west.addresses);
    let without_ports = |mut allocation: Allocation| {
        Arc::make_mut(&mut allocation.claim).ports.clear();
        allocation
    };
    for (what, allocation) in [
        (
            "another cluster's, no port",
            without_ports(other_cluster.clone()),
        ),
        (
            "another owner's, no port",
            without_ports(same_cluster.clone()),
        ),
        ("an address of another cluster", other_cluster),
        ("an address of another owner", same_cluster),
        ("a second claim of one owner", second_claim),
    ] {
        let refused = commit(&mut store.writer, vec![created(2, allocation)]).await;
        assert!(
            matches!(refused, Err(CommitError::Refused(_))),
            "{what}: {refused:?}"
        );
    }

    let sharer = |name: &str, port: u16| {
        let mut allocation = (*west).clone();
        allocation.owner.key.name = crate::state::names::Name::parse(name).expect("name");
        let claim = Arc::make_mut(&mut allocation.claim);
        claim.sharing_key = "key".to_owned();
        claim.ports[0].number = port;
        allocation
    };
    let shared = vec![created(2, sharer("a", 80)), created(3, sharer("b", 443))];
    commit(&mut store.writer, shared).await.expect("may share");
    let clash = commit(&mut store.writer, vec![created(4, sharer("c", 443))]).await;
    assert!(matches!(clash, Err(CommitError::Refused(_))), "{clash:?}");
    let mut stranger = sharer("d", 8080);
    Arc::make_mut(&mut stranger.claim).sharing_key = "other key".to_owned();
    let mut elsewhere = sharer("d", 8080);
    elsewhere.owner.key.cluster = east.owner.key.cluster.clone();
    let mut other_backends = sharer("d", 8080);
    Arc::make_mut(&mut other_backends.claim).backend_key = "other".to_owned();
    for joining in [stranger, elsewhere, other_backends] {
        let mismatch = commit(&mut store.writer, vec![created(4, joining)]).await;
        assert!(
            matches!(mismatch, Err(CommitError::Refused(_))),
            "{mismatch:?}"
        );
    }

    let mut alone = sharer("d", 8080);
    Arc::make_mut(&mut alone.claim).sharing_key.clear();
    let over_sharers = commit(&mut store.writer, vec![created(4, alone)]).await;
    let sharer_of_sole = with_address_of_east(sharer("d", 8080));
    let over_sole = commit(&mut store.writer, vec![created(4, sharer_of_sole)]).await;
    for refused in [over_sharers, over_sole] {
        assert!(
            matches!(refused, Err(CommitError::Refused(_))),
            "{refused:?}"
        );
    }

    // What was refused left no trace, and the writer goes on.
    commit(&mut store.writer, vec![created(4, sharer("e", 8080))])
        .await
        .expect("may share");
    drop(store);
    assert_eq!(
        check(&folder.location()).await.expect("checked"),
        Vec::<String>::new()
    );
}

/// The end of an allocation, with the revision of that.
fn ended(revision: u64, id: u64, mut allocation: Allocation) -> Logged {
    allocation.id = id;
    Logged {
        revision: Some(revision),
        change: Change::Allocation(Edit {
            before: Some(Arc::new(allocation)),
            after: None,
        }),
        origin: Arc::new(Origin::default()),
    }
}

#[tokio::test]
async fn an_address_that_was_given_back_is_taken_over_from_nobody_else() {
    let (east, west) = two();
    let folder = Folder::new();
    let mut store = folder.open().await;
    store.writer.load().await.expect("readable");
    let of_east = |sharing: &str| {
        let mut allocation = (*west).clone();
        allocation.addresses.clone_from(&east.addresses);
        let claim = Arc::make_mut(&mut allocation.claim);
        claim.sharing_key = sharing.to_owned();
        allocation
    };
    let (alone, shared) = (of_east(""), of_east("key"));
    let first = vec![created(1, (*east).clone())];
    commit(&mut store.writer, first).await.expect("free");
    for allocation in [&alone, &shared] {
        let refused = commit(&mut store.writer, vec![created(2, allocation.clone())]).await;
        assert!(
            matches!(refused, Err(CommitError::Refused(_))),
            "{refused:?}"
        );
    }
    // Given back before, given back in the same batch; to one and to many.
    let steps = [
        vec![ended(2, 1, (*east).clone())],
        vec![created(3, alone.clone())],
        vec![ended(4, 3, alone.clone()), created(5, (*east).clone())],
        vec![ended(6, 5, (*east).clone()), created(7, shared.clone())],
        vec![ended(8, 7, shared)],
        vec![created(9, (*east).clone())],
        vec![ended(10, 9, (*east).clone())],
    ];
    for step in steps {
        commit(&mut store.writer, step).await.expect("free");
        let problems = check(&folder.location()).await.expect("checked");
        assert_eq!(problems, [""; 0]);
    }
    let of_address = AllocationFilter {
        space: "default".to_owned(),
        address: east.addresses.first().copied(),
        ..AllocationFilter::default()
    };
    let held = store.reader.allocations(&of_address, None, 10).await;
    assert_eq!(held.expect("readable").items, []);
}

#[tokio::test]
async fn a_writer_that_was_deposed_writes_nothing() {
    let (east, _) = two();
    let folder = Folder::new();
    let mut store = folder.open().await;
    store.writer.load().await.expect("readable");
    execute(&folder.file(), false, "update meta set epoch = epoch + 1").await;
    let refused = commit(&mut store.writer, vec![created(1, (*east).clone())]).await;
    assert!(matches!(refused, Err(CommitError::Deposed)), "{refused:?}");
    let span = store.reader.log_span().await.expect("readable");
    assert_eq!(span.revision, 0);
}

#[tokio::test]
async fn check_names_what_does_not_agree() {
    let (east, west) = two();
    let folder = Folder::new();
    let mut store = folder.open().await;
    store.writer.load().await.expect("readable");
    let both = vec![created(1, (*east).clone()), created(2, (*west).clone())];
    commit(&mut store.writer, both).await.expect("free");
    drop(store);
    execute(
        &folder.file(),
        false,
        "delete from held_address where group_key = 'a1'",
    )
    .await;
    execute(
        &folder.file(),
        false,
        "update allocation set pool = 'other' where cluster = 'west'",
    )
    .await;
    execute(
        &folder.file(),
        false,
        "insert into allocation_address select space, address, 2
        from held_address where cluster = 'west'",
    )
    .await;
    execute(
        &folder.file(),
        false,
        "delete from change_log where revision = 2",
    )
    .await;
    let problems = check(&folder.location()).await.expect("checked").join("\n");
    for expected in [
        "not guarded: address 192.0.2.1",
        "allocation_address: 192.0.2.2 in default is held alone",
        "its columns and its entry differ",
        "change_log",
    ] {
        assert!(problems.contains(expected), "{expected}: {problems}");
    }
}

#[tokio::test]
async fn a_limit_that_cannot_be_loaded_is_found_by_check() {
    let folder = Folder::new();
    let store = folder.open().await;
    drop(store);
    execute(
        &folder.file(),
        false,
        "insert into quota (name, revision, entry) values ('odd', 1, x'ff'), ('other', 1, x'')",
    )
    .await;
    let problems = check(&folder.location()).await.expect("checked");
    assert!(problems[0].starts_with("quota odd: "), "{problems:?}");
    assert!(
        problems[1].starts_with("quota other: quota.name: must not"),
        "{problems:?}"
    );
    execute(
        &folder.file(),
        false,
        "delete from quota; insert into address_space (name, revision, entry) values ('odd', 1, x'ff')",
    )
    .await;
    let problems = check(&folder.location()).await.expect("checked");
    assert!(
        problems[0].starts_with("address_space odd: "),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_bgp_peer_or_profile_that_cannot_be_loaded_is_found_by_check() {
    let folder = Folder::new();
    drop(folder.open().await);
    let rows = "insert into bgp_peer (cluster, name, revision, entry, password)
        values ('', 'odd', 1, x'ff', ''), ('', 'other', 1, x'', 'secret');
        insert into bfd_profile (cluster, name, revision, entry) values ('', 'odd', 1, x'ff')";
    execute(&folder.file(), false, rows).await;
    let problems = check(&folder.location()).await.expect("checked");
    for (problem, expected) in problems.iter().zip([
        "bgp_peer odd: ",
        "bgp_peer other: bgp_peer.name: must not",
        "bgp_peer other: its password is of no revision",
        "bfd_profile odd: ",
    ]) {
        assert!(problem.starts_with(expected), "{problems:?}");
    }
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(!problems.concat().contains("secret"), "{problems:?}");
}

/// A backup may be older than the program that looks at it.
#[tokio::test]
async fn check_says_of_a_database_of_another_version_that_it_is_one() {
    let folder = Folder::new();
    drop(folder.open().await);
    let forget = "delete from _sqlx_migrations where version = (
        select max(version) from _sqlx_migrations)";
    execute(&folder.file(), false, forget).await;
    let error = check(&folder.location()).await.expect_err("another schema");
    let text = error.to_string();
    assert!(text.contains("another version (schema "), "{text}");
}
