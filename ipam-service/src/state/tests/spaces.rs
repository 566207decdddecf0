//! Random sequences over two address spaces, with a recovery in the middle: who holds what is
//! sound at all times, and nobody waits for what a new decision would give.

use proptest::prelude::*;

use super::naive::Naive;
use super::random::{OWNERS, POOLS, some_claim, some_pool, some_space};
use crate::state::State;
use crate::state::change::{Change, Edit};
use crate::state::command::{Allocate, Command, IfRefused, InUse};
use crate::state::decide;
use crate::state::model::*;
use crate::state::testing::*;

const CLUSTERS: [&str; 2] = ["east", "west"];
const SPACES: [&str; 2] = ["default", "other"];

#[derive(Debug, Clone)]
enum Step {
    Do(Box<Command>),
    /// Decided, applied with so many follow-ups, and taken back.
    TakeBack(Box<Command>, usize),
    /// Another process on the same rows.
    Restart,
    /// The same, but what these clusters hold is not known any more.
    Lose(usize),
}

prop_compose! {
    fn some_allocate()(
        owner in 0..OWNERS.len(),
        claim in some_claim(),
        space in prop_oneof![3 => Just(0_usize), 2 => Just(1)],
        queue in prop_oneof![4 => Just(true), 1 => Just(false)],
        uid in prop_oneof![8 => Just(""), 1 => Just("one"), 1 => Just("two")],
    ) -> Command {
        let claim = Claim { space: name(SPACES[space]), ..claim };
        let mut command = allocate(OWNERS[owner], claim);
        command.owner.uid = uid.to_owned();
        // What it holds now, as an adapter would say after a loss.
        command.held = addresses(&["10.0.2.1", "2001:db8::1"]);
        command.if_refused = if queue { IfRefused::Queue } else { IfRefused::Fail };
        Command::from(Allocate { ..command })
    }
}

fn in_space(pool: Pool, space: usize) -> Pool {
    let key = key_in_space(&pool.key, name(SPACES[space]));
    Pool { key, ..pool }
}

fn some_command() -> impl Strategy<Value = Command> {
    let cluster = || (0..CLUSTERS.len()).prop_map(|index| name(CLUSTERS[index]));
    let in_use = || prop_oneof![1 => Just(InUse::Refuse), 2 => Just(InUse::Move)];
    let pools = proptest::collection::vec((some_pool(Some("east")), 0..SPACES.len()), 0..4);
    prop_oneof![
        12 => some_allocate(),
        4 => (0..OWNERS.len()).prop_map(|owner| release(OWNERS[owner]).into()),
        4 => (some_pool(None), 0..SPACES.len(), in_use()).prop_map(|(pool, space, in_use)| {
            let pool = Box::new(in_space(pool, space));
            Command::ApplyPool { pool, in_use }
        }),
        1 => (0..POOLS.len(), 0..SPACES.len()).prop_map(|(pool, space)| Command::DeletePool {
            key: key_in_space(&pool_key(POOLS[pool]), name(SPACES[space])),
            in_use: InUse::Move,
        }),
        1 => pools.prop_map(|pools| Command::SyncPools {
            cluster: name("east"),
            pools: pools.into_iter().map(|(pool, space)| in_space(pool, space)).collect(),
            fence: 0,
        }),
        3 => (some_space(), 0..SPACES.len(), in_use()).prop_map(|(space, index, in_use)| {
            let space = AddressSpace { name: name(SPACES[index]), ..space };
            apply_space(space, in_use)
        }),
        1 => (0..SPACES.len()).prop_map(|index| Command::DeleteAddressSpace {
            name: name(SPACES[index]),
            if_revision: None,
        }),
        1 => cluster().prop_map(|cluster| Command::DeleteCluster { cluster }),
        2 => cluster().prop_map(|cluster| Command::BeginSync {
            cluster,
            uid: String::new(),
            fence: 0,
        }),
        3 => cluster().prop_map(|cluster| Command::EndSync { cluster, fence: 0 }),
        1 => cluster().prop_map(|cluster| Command::ReportLoss { cluster }),
    ]
}

fn some_step() -> impl Strategy<Value = Step> {
    (some_command(), 0_usize..24).prop_map(|(command, luck)| match luck {
        0 => Step::Restart,
        1 => Step::Lose(0),
        2 => Step::Lose(1),
        3 => Step::TakeBack(Box::new(command), 0),
        4 => Step::TakeBack(Box::new(command), 1),
        5 => Step::TakeBack(Box::new(command), 100),
        _ => Step::Do(Box::new(command)),
    })
}

/// The rows of a state in which a cluster is expected to report what it holds.
fn losing(state: &State, lost: &str) -> Vec<Change> {
    let mut rows = rows(state);
    rows.retain(|row| match row {
        Change::Allocation(edit) => edit.subject().owner.key.cluster.as_str() != lost,
        Change::Cluster(edit) => edit.subject().name.as_str() != lost,
        Change::Pool(_)
        | Change::Quota(_)
        | Change::AddressSpace(_)
        | Change::Advertisement(_)
        | Change::BgpPeer(_)
        | Change::BfdProfile(_)
        | Change::Reservation(_)
        | Change::Unavailable(_)
        | Change::Node(_)
        | Change::Backends(_)
        | Change::Placement(_)
        | Change::Tenure(_) => true,
    });
    rows.push(Change::Cluster(Edit {
        before: None,
        after: Some(std::sync::Arc::new(Cluster {
            name: name(lost),
            uid: String::new(),
            inventory: Inventory::Expected,
            fence: 0,
            create_time: Timestamp(0),
            revision: state.revision(),
        })),
    }));
    rows
}

fn run(book: &mut Book, step: &Step) {
    match step {
        Step::Do(command) => {
            let before = Naive::of(&book.state);
            let changes = book.step((**command).clone()).unwrap_or_default();
            if let Command::Allocate(asked) = command.as_ref() {
                assert_taken_by_right(&before, asked, &changes);
            }
        }
        Step::TakeBack(command, follow_ups) => {
            let before = rows(&book.state);
            let revision = book.state.revision();
            let mut changes = book.step((**command).clone()).unwrap_or_default();
            for _ in 0..*follow_ups {
                if let Some(command) = book.state.follow_up() {
                    changes.extend(book.step(command).expect("follow-ups are never rejected"));
                }
            }
            for change in changes.iter().rev() {
                book.state.undo(change);
            }
            assert_same_book(&book.state, &State::restore(revision, before));
        }
        Step::Restart => {
            book.settle(&mut Vec::new());
            let held: Vec<_> = book.state.allocations().cloned().collect();
            book.state = State::restore(book.state.revision(), rows(&book.state));
            book.settle(&mut Vec::new());
            let after = book.state.allocations();
            let changed: Vec<_> = after
                .zip(&held)
                .filter(|(after, before)| after.addresses != before.addresses)
                .collect();
            assert_eq!(changed, [], "a restart moves nobody");
        }
        Step::Lose(cluster) => {
            let left = losing(&book.state, CLUSTERS[*cluster]);
            book.state = State::restore(book.state.revision(), left);
        }
    }
}

/// What a request took it may have taken, as far as grants and a recovery are concerned.
fn assert_taken_by_right(before: &Naive, asked: &Allocate, changes: &[Change]) {
    for change in changes {
        let Change::Allocation(Edit {
            after: Some(after), ..
        }) = change
        else {
            continue;
        };
        let space_of = |one: &Allocation| one.pool.as_ref().map(|pool| pool.space.clone());
        // Also what the incarnation before this one gives back.
        let had = |address| {
            let mut own = before.allocations.iter();
            own.any(|one| {
                one.owner.key == after.owner.key
                    && space_of(one) == space_of(after)
                    && one.addresses.contains(address)
            })
        };
        for address in after.addresses.iter().filter(|address| !had(address)) {
            let space = &after.pool.as_ref().expect("of the address").space;
            let may_take = before.may_take(&after.owner.key, space, *address, &asked.held);
            assert!(may_take, "{address} of {asked:?}");
        }
    }
}

/// Nobody waits for what a new decision would give, and nobody holds what it would take away.
fn assert_settled(state: &State) {
    assert_sound(state);
    for one in state.allocations() {
        let again = Command::Redecide(one.owner.key.clone());
        for change in decide(state, &again, Timestamp(0)).expect("never rejected") {
            let Change::Allocation(edit) = &change else {
                panic!("{change:?}");
            };
            let after = edit.after.as_ref().expect("it stays");
            let same = (&after.addresses, &after.pool) == (&one.addresses, &one.pool);
            assert!(same && after.standing != Standing::Assigned, "{change:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::sequences(1000), ..ProptestConfig::default() })]

    #[test]
    fn nobody_waits_for_what_could_be_had_in_any_space(
        pools in proptest::collection::vec((some_pool(None), 0..SPACES.len()), 1..5),
        steps in proptest::collection::vec((some_step(), any::<bool>()), 1..80),
    ) {
        let mut book = Book::default();
        for (pool, space) in pools {
            let pool = Box::new(in_space(pool, space));
            // Some overlap others.
            let _refused = book.step(Command::ApplyPool { pool, in_use: InUse::Move });
        }
        for (step, settle) in steps {
            run(&mut book, &step);
            if settle {
                book.settle(&mut Vec::new());
                assert_settled(&book.state);
            }
        }
        book.settle(&mut Vec::new());
        assert_settled(&book.state);
    }
}
