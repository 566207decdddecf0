//! Random sequences of commands. After each the state is compared with the naive model.

use proptest::prelude::*;

use super::naive::{Naive, Question};
use crate::state::State;
use crate::state::address::{Address, AddressRange, Family};
use crate::state::change::Change;
use crate::state::command::{Allocate, Command, IfRefused, InUse};
use crate::state::model::*;
use crate::state::refusal::{Reason, Rejection};
use crate::state::testing::*;

pub(super) const OWNERS: [&str; 10] = [
    "east/red/a",
    "east/red/b",
    "east/red/c",
    "east/blue/d",
    "east/blue/e",
    "west/red/a",
    "west/red/b",
    "west/blue/c",
    "west/blue/d",
    "west/blue/e",
];

/// Blocks of a few addresses, so that sequences fill them; some with .0 and .255.
const BLOCKS: [&str; 7] = [
    "10.0.0.253-10.0.1.1",
    "10.0.2.1-10.0.2.2",
    "10.0.2.2-10.0.2.4",
    "10.0.3.0/32",
    "2001:db8::1-2001:db8::2",
    "2001:db8::2-2001:db8::4",
    "10.0.1.2-10.0.1.3",
];

pub(super) const POOLS: [&str; 3] = ["p", "q", "r"];

/// Names of reservations, and what they may be kept for.
const RESERVATIONS: [&str; 3] = ["v", "w", "x"];
const SCOPES: [&str; 5] = ["east", "east/red", "east/red/a", "west/blue", "west/red/a"];
const KEPT: [&str; 6] = [
    "10.0.0.254",
    "10.0.0.255-10.0.1.0",
    "10.0.2.2-10.0.2.3",
    "10.0.1.2/31",
    "2001:db8::2",
    "2001:db8::1",
];

#[derive(Debug, Clone)]
enum Step {
    Allocate(Box<Allocate>),
    Release(usize),
    ApplyPool(Box<Pool>, InUse),
    DeletePool(usize, InUse),
    SyncPools(&'static str, Vec<Pool>),
    DeleteCluster(&'static str),
    Reserve(Box<Reservation>),
    DeleteReservation(usize),
    ApplyQuota(Box<Quota>),
    DeleteQuota(usize),
    Fence(Box<AddressSpace>, InUse),
    Unfence,
    /// So many seconds pass.
    Pass(u64),
    /// Another machine is seen to use an address of a cluster.
    Conflict(&'static str, &'static str),
    /// Only so many follow-ups are decided before the next command.
    Hurry(Box<Step>, usize),
    /// The command is taken back, as after a commit that failed, and then given again.
    FailFirst(Box<Step>),
    /// The command and so many follow-ups are taken back, while others may still be due.
    TakeBack(Box<Step>, usize),
}

fn some_families() -> impl Strategy<Value = Families> {
    prop_oneof![
        6 => Just(Families::One(Family::V4)),
        2 => Just(Families::One(Family::V6)),
        2 => Just(Families::Any),
        2 => Just(Families::Both),
        2 => Just(Families::PreferBoth { first: Family::V4 }),
        1 => Just(Families::PreferBoth { first: Family::V6 }),
    ]
}

fn some_addresses() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        10 => Just(vec![]),
        1 => Just(vec!["10.0.0.254"]),
        1 => Just(vec!["10.0.0.255"]),
        1 => Just(vec!["10.0.2.2"]),
        1 => Just(vec!["2001:db8::2"]),
        1 => Just(vec!["10.0.2.2", "2001:db8::2"]),
        1 => Just(vec!["10.9.9.9"]),
    ]
}

prop_compose! {
    pub(super) fn some_claim()(
        families in some_families(),
        any_pools in any::<bool>(),
        pool in prop_oneof![5 => Just(None), 2 => (0..POOLS.len()).prop_map(Some)],
        kept in prop_oneof![8 => Just(None), 1 => (0..RESERVATIONS.len()).prop_map(Some)],
        addresses in some_addresses(),
        ports in proptest::collection::btree_set(1_u16..4, 0..3),
        key in prop_oneof![3 => Just(""), 3 => Just("k"), 1 => Just("l")],
        backend in prop_oneof![5 => Just(""), 1 => Just("b")],
        team in prop_oneof![Just("red"), Just("blue")],
    ) -> Claim {
        let two_pools = any_pools && pool.is_none() && matches!(
            families,
            Families::Both | Families::PreferBoth { .. }
        );
        Claim {
            families,
            dual_stack_pools: if two_pools {
                DualStackPools::AnyPools
            } else {
                DualStackPools::OnePool
            },
            pool: pool.map(|index| name(POOLS[index])),
            reservation: kept.map(|index| name(RESERVATIONS[index])),
            addresses: super::super::testing::addresses(&addresses),
            ports: ports.into_iter().map(tcp).collect(),
            sharing_key: key.to_owned(),
            backend_key: backend.to_owned(),
            namespace_labels: labels(&[("team", team)]),
            ..claim()
        }
    }
}

prop_compose! {
    pub(super) fn some_pool(cluster: Option<&'static str>)(
        index in 0..POOLS.len(),
        blocks in proptest::collection::vec(0..BLOCKS.len(), 1..4),
        auto_assign in prop_oneof![4 => Just(true), 1 => Just(false)],
        avoid_buggy_ips in any::<bool>(),
        priority in prop_oneof![4 => Just(0), 1 => Just(1), 1 => Just(2)],
        for_red in prop_oneof![5 => Just(0), 1 => Just(1), 1 => Just(2)],
        protected in prop_oneof![7 => Just(false), 1 => Just(true)],
        delay in prop_oneof![4 => Just(0_u64), 1 => Just(10), 1 => Just(60)],
    ) -> Pool {
        let key = match cluster {
            Some(cluster) => format!("{cluster}/{}", POOLS[index]),
            None => POOLS[index].to_owned(),
        };
        let ranges: Vec<&str> = blocks.into_iter().map(|block| BLOCKS[block]).collect();
        let mut pool = Pool {
            auto_assign,
            avoid_buggy_ips,
            priority,
            protected,
            reuse_delay: std::time::Duration::from_secs(delay),
            ..pool(&key, &ranges)
        };
        match for_red {
            1 => drop(pool.namespaces.insert(name("red"))),
            2 => pool.namespace_selectors.push(selector(&[("team", "red")])),
            _ => {}
        }
        pool
    }
}

prop_compose! {
    fn some_reservation()(
        index in 0..RESERVATIONS.len(),
        ranges in proptest::collection::btree_set(0..KEPT.len(), 1..3),
        scope in prop_oneof![1 => Just(None), 3 => (0..SCOPES.len()).prop_map(Some)],
    ) -> Step {
        let ranges: Vec<&str> = ranges.into_iter().map(|range| KEPT[range]).collect();
        let scope = scope.map(|scope| SCOPES[scope]);
        Step::Reserve(Box::new(reservation(RESERVATIONS[index], &ranges, scope)))
    }
}

fn some_pools(cluster: &'static str) -> impl Strategy<Value = Step> {
    proptest::collection::vec(some_pool(Some(cluster)), 0..3)
        .prop_map(move |pools| Step::SyncPools(cluster, pools))
}

prop_compose! {
    fn some_allocate()(
        owner in 0..OWNERS.len(),
        claim in some_claim(),
        queue in prop_oneof![3 => Just(true), 1 => Just(false)],
        held in prop_oneof![4 => Just(vec![]), 1 => some_addresses()],
        uid in prop_oneof![6 => Just(""), 1 => Just("one"), 1 => Just("two")],
    ) -> Step {
        let mut command = allocate(OWNERS[owner], claim);
        command.owner.uid = uid.to_owned();
        command.held = super::super::testing::addresses(&held);
        if queue {
            command.if_refused = IfRefused::Queue;
        }
        Step::Allocate(Box::new(command))
    }
}

const QUOTAS: [&str; 3] = ["few", "some", "more"];

prop_compose! {
    fn some_quota()(
        index in 0..QUOTAS.len(),
        cluster in prop_oneof![3 => Just("east"), 1 => Just("west")],
        subject in prop_oneof![
            2 => Just(QuotaSubject::Cluster),
            1 => Just(QuotaSubject::Namespace(name("red"))),
            1 => Just(QuotaSubject::EachNamespace),
        ],
        pool in prop_oneof![3 => Just(None), 1 => (0..POOLS.len()).prop_map(Some)],
        family in prop_oneof![
            3 => Just(None),
            1 => Just(Some(Family::V4)),
            1 => Just(Some(Family::V6)),
        ],
        limit in 0_u32..5,
    ) -> Quota {
        Quota {
            subject,
            pool: pool.map(|index| name(POOLS[index])),
            family,
            ..quota(QUOTAS[index], cluster, limit)
        }
    }
}

/// What grants are made of: parts of the blocks.
const PARTS: [&str; 8] = [
    "10.0.0.253-10.0.0.255",
    "10.0.0.255-10.0.1.1",
    "10.0.1.2/31",
    "10.0.2.1-10.0.2.2",
    "10.0.2.2-10.0.2.4",
    "10.0.2.0/24",
    "2001:db8::1-2001:db8::2",
    "2001:db8::2-2001:db8::4",
];

/// Ranges of a grant: those of some parts that do not overlap.
fn some_grant() -> impl Strategy<Value = Vec<AddressRange>> {
    proptest::collection::btree_set(0..PARTS.len(), 1..5).prop_map(|parts| {
        let ranges = parts
            .into_iter()
            .map(|part| AddressRange::parse(PARTS[part]).expect("a range"));
        let mut chosen: Vec<AddressRange> = Vec::new();
        for range in ranges {
            if !chosen.iter().any(|one| one.overlaps(range)) {
                chosen.push(range);
            }
        }
        chosen.sort();
        chosen
    })
}

/// Grants of none, one or both clusters.
pub(super) fn some_space() -> impl Strategy<Value = AddressSpace> {
    let grant = || proptest::option::of(some_grant());
    (grant(), grant(), any::<bool>()).prop_map(|(east, west, hide_holders)| {
        let grants = [("east", east), ("west", west)].into_iter();
        let grants = grants.filter_map(|(cluster, ranges)| Some((name(cluster), ranges?)));
        AddressSpace {
            grants: grants.collect(),
            hide_holders,
            ..AddressSpace::new(space())
        }
    })
}

fn some_step() -> impl Strategy<Value = Step> {
    let in_use = || prop_oneof![Just(InUse::Refuse), Just(InUse::Move)];
    let plain = prop_oneof![
        12 => some_allocate(),
        5 => (0..OWNERS.len()).prop_map(Step::Release),
        3 => (some_pool(None), in_use()).prop_map(|(pool, in_use)| {
            Step::ApplyPool(Box::new(pool), in_use)
        }),
        1 => (0..POOLS.len(), in_use()).prop_map(|(pool, in_use)| Step::DeletePool(pool, in_use)),
        1 => some_pools("east"),
        1 => some_pools("west"),
        1 => prop_oneof![Just("east"), Just("west")].prop_map(Step::DeleteCluster),
        2 => some_reservation(),
        1 => (0..RESERVATIONS.len()).prop_map(Step::DeleteReservation),
        2 => some_quota().prop_map(|quota| Step::ApplyQuota(Box::new(quota))),
        1 => (0..QUOTAS.len()).prop_map(Step::DeleteQuota),
        2 => (some_space(), in_use()).prop_map(|(space, in_use)| {
            Step::Fence(Box::new(space), in_use)
        }),
        1 => Just(Step::Unfence),
        2 => prop_oneof![Just(5_u64), Just(30), Just(3600)].prop_map(Step::Pass),
        1 => (prop_oneof![Just("east"), Just("west")], prop_oneof![Just("10.0.2.2"), Just("2001:db8::1")])
            .prop_map(|(cluster, address)| Step::Conflict(cluster, address)),
    ];
    (plain, 0_usize..16).prop_map(|(step, luck)| match luck {
        0 => Step::FailFirst(Box::new(step)),
        1 => Step::Hurry(Box::new(step), 0),
        2 => Step::Hurry(Box::new(step), 1),
        3 => Step::TakeBack(Box::new(step), 0),
        4 => Step::TakeBack(Box::new(step), 2),
        5 => Step::TakeBack(Box::new(step), 100),
        _ => step,
    })
}

fn command(step: &Step) -> Command {
    match step {
        Step::Allocate(allocate) => Command::Allocate(allocate.clone()),
        Step::Release(index) => release(OWNERS[*index]).into(),
        Step::ApplyPool(pool, in_use) => Command::ApplyPool {
            pool: pool.clone(),
            in_use: *in_use,
        },
        Step::DeletePool(index, in_use) => Command::DeletePool {
            key: pool_key(POOLS[*index]),
            in_use: *in_use,
        },
        Step::SyncPools(cluster, pools) => Command::SyncPools {
            cluster: name(cluster),
            pools: pools.clone(),
            fence: 0,
        },
        Step::DeleteCluster(cluster) => Command::DeleteCluster {
            cluster: name(cluster),
        },
        // Time is no command; what is due then is.
        Step::Pass(_) => Command::Redecide(owner(OWNERS[0])),
        Step::Conflict(cluster, seen) => Command::ReportConflict {
            cluster: name(cluster),
            space: space(),
            address: address(seen),
        },
        Step::Reserve(reservation) => Command::ApplyReservation(reservation.clone()),
        Step::DeleteReservation(index) => {
            Command::DeleteReservation(reservation_key(RESERVATIONS[*index]))
        }
        Step::ApplyQuota(quota) => Command::ApplyQuota(quota.clone()),
        Step::DeleteQuota(index) => Command::DeleteQuota(name(QUOTAS[*index])),
        Step::Fence(space, in_use) => apply_space(AddressSpace::clone(space), *in_use),
        Step::Unfence => delete_space(),
        Step::Hurry(inner, _) | Step::FailFirst(inner) | Step::TakeBack(inner, _) => command(inner),
    }
}

/// What an Allocate does in a state in which nothing is left to do, from the naive model.
fn check_allocate(before: &Naive, command: &Allocate, after: &State, done: bool) {
    let owner = &command.owner.key;
    let mut known = before.allocations.iter();
    let known = known.find(|one| one.owner.key == *owner);
    let other_uid = |stored: &str| {
        !stored.is_empty() && !command.owner.uid.is_empty() && stored != command.owner.uid
    };
    if known.is_some_and(|known| other_uid(&known.owner.uid)) {
        // Whether it gets its predecessor's address depends on who waits; the invariants hold.
        return;
    }
    let now = after.allocation(owner);
    if let Some(known) = known
        && known.claim == command.claim
        && known.standing == Standing::Assigned
    {
        let now = now.expect("still there");
        assert!(now.held().eq(known.held()), "{now:?} {known:?}");
        return;
    }
    let question = Question {
        owner,
        claim: &command.claim,
        current: known.map_or(&[], |known| &known.addresses),
        current_pools: known.map_or_else(Vec::new, |known| {
            known.held().map(|(_, pool)| pool).collect()
        }),
        wished: &command.held,
    };
    match before.answer(&question) {
        Some(granted) => {
            let now = now.expect("granted");
            assert_eq!(held(now), granted);
            assert_eq!(now.standing, Standing::Assigned);
        }
        None if command.if_refused == IfRefused::Fail
            || before.would_be_too_many(owner, after.max_pending) =>
        {
            assert!(!done, "{command:?} should be refused");
            assert_eq!(now, known, "a refusal changes nothing");
        }
        None => check_refused(before, known.map(|known| &**known), now.expect("queued")),
    }
}

/// Whoever had what it asked for through such pools only holds the same afterwards.
fn check_kept(before: &Naive, after: &State, such: impl Fn(&Pool) -> bool) {
    for one in &before.allocations {
        let is_such = |key: &PoolKey| {
            let mut pools = before.pools.iter();
            pools.any(|pool| pool.key == *key && such(pool))
        };
        if one.pools().all(is_such) && one.standing == Standing::Assigned {
            let now = after.allocation(&one.owner.key).expect("still there");
            let kept = one
                .addresses
                .iter()
                .all(|held| now.addresses.contains(held));
            assert!(kept, "{one:?} became {now:?}");
        }
    }
}

/// A refused claim leaves what its owner had, as far as the pools permit it.
fn check_refused(before: &Naive, known: Option<&Allocation>, now: &Allocation) {
    let kept = known.and_then(|known| before.keeps(known, &now.claim));
    let is_stale = matches!(now.standing, Standing::Stale { .. });
    assert_eq!(is_stale, kept.is_some(), "{now:?}");
    assert_eq!(held(now), kept.unwrap_or_default());
}

fn held(one: &Allocation) -> Vec<(Address, PoolKey)> {
    one.held().map(|(a, pool)| (a, pool.clone())).collect()
}

/// Nobody waits for what could be had, and everybody may hold what is held.
pub(crate) fn check_settled(state: &State) {
    assert_sound(state);
    let naive = Naive::of(state);
    for one in &naive.allocations {
        if one.pool.is_some() {
            assert_eq!(naive.keeps(one, &one.claim), Some(held(one)), "{one:?}");
        }
        let answer = naive.answer(&Question::again(one));
        match &one.standing {
            Standing::Assigned => {
                let has = held(one);
                let more = answer.filter(|found| {
                    found.len() > has.len() && has.iter().all(|one| found.contains(one))
                });
                assert_eq!(more, None, "a second family was missed: {one:?}");
            }
            Standing::Pending(refusal) | Standing::Stale { refusal, .. } => {
                assert_eq!(answer, None, "a wake-up was lost: {one:?}");
                assert_ne!(refusal.reason, Reason::BehindOlderClaims, "{one:?}");
            }
        }
    }
    for quota in &naive.quotas {
        let usage = state.quota_usage(quota);
        assert_eq!(usage.held, naive.most_counted(quota), "{quota:?}");
    }
    for pool in &naive.pools {
        let usage = state.pool_usage(&pool.key);
        assert_eq!(usage, Some(naive.usage(pool)), "{:?}", pool.key);
    }
}

fn is_permitted_rejection(rejection: &Rejection, step: &Step) -> bool {
    match rejection {
        Rejection::Refused(_) => matches!(step, Step::Allocate(_)),
        Rejection::UnknownOwner(_) => matches!(step, Step::Release(_)),
        Rejection::UnknownPool(_) => matches!(step, Step::DeletePool(..)),
        Rejection::PoolProtected { .. } => matches!(
            step,
            Step::ApplyPool(..) | Step::DeletePool(..) | Step::SyncPools(..) | Step::Fence(..)
        ),
        Rejection::AddressSpaceInUse { .. } => matches!(step, Step::Fence(_, InUse::Refuse)),
        Rejection::UnknownAddressSpace(_) => matches!(step, Step::Unfence),
        Rejection::PoolInUse { .. } => matches!(step, Step::ApplyPool(..) | Step::DeletePool(..)),
        Rejection::UnknownReservation(_) => matches!(step, Step::DeleteReservation(_)),
        Rejection::Invalid(_) => matches!(
            step,
            Step::ApplyPool(..) | Step::SyncPools(..) | Step::Reserve(_) | Step::ApplyQuota(_)
        ),
        Rejection::UnknownQuota(_) => matches!(step, Step::DeleteQuota(_)),
        Rejection::UnknownCluster(_) => matches!(step, Step::DeleteCluster(_)),
        Rejection::UnknownAdvertisement(_)
        | Rejection::UnknownUnavailable { .. }
        | Rejection::ClusterUidMismatch { .. }
        | Rejection::NotSyncing(_)
        | Rejection::StaleRevision { .. }
        | Rejection::StaleAddressSpace { .. }
        | Rejection::UnknownBgpPeer(_)
        | Rejection::UnknownBfdProfile(_)
        | Rejection::StaleFence { .. } => false,
    }
}

/// One command on a settled book, with all that follows, compared with the model.
fn run_settled(book: &mut Book, step: &Step) -> Vec<Change> {
    let before = Naive::of(&book.state);
    let result = book.step(command(step));
    if let Step::Allocate(allocate) = step {
        check_allocate(&before, allocate, &book.state, result.is_ok());
    }
    match result {
        Ok(mut changes) => {
            book.settle(&mut changes);
            match step {
                Step::ApplyPool(..)
                | Step::DeletePool(..)
                | Step::SyncPools(..)
                | Step::Fence(_, InUse::Move) => {
                    check_kept(&before, &book.state, |pool| pool.protected);
                }
                Step::ApplyQuota(_)
                | Step::DeleteQuota(_)
                | Step::Fence(_, InUse::Refuse)
                | Step::Unfence => {
                    check_kept(&before, &book.state, |_| true);
                }
                Step::Allocate(_)
                | Step::Release(_)
                | Step::DeleteCluster(_)
                | Step::Reserve(_)
                | Step::DeleteReservation(_)
                | Step::Pass(_)
                | Step::Conflict(..)
                | Step::Hurry(..)
                | Step::FailFirst(_)
                | Step::TakeBack(..) => {}
            }
            changes
        }
        Err(rejection) => {
            assert!(is_permitted_rejection(&rejection, step), "{rejection:?}");
            assert_eq!(
                book.settle(&mut Vec::new()),
                0,
                "a rejected command changes nothing"
            );
            Vec::new()
        }
    }
}

/// A claim that waits may be told a newer reason when it is decided again for another one.
fn says_only_why(change: &Change) -> bool {
    let Change::Allocation(edit) = change else {
        return false;
    };
    let (Some(before), Some(after)) = (&edit.before, &edit.after) else {
        return false;
    };
    let kinds = (&before.standing, &after.standing);
    let both_wait = !matches!(kinds, (Standing::Assigned, _) | (_, Standing::Assigned));
    both_wait && before.held().eq(after.held())
}

/// Decides a command and at most so many follow-ups.
fn hurry(book: &mut Book, step: &Step, follow_ups: usize) -> Vec<Change> {
    let mut changes = book.step(command(step)).unwrap_or_default();
    for _ in 0..follow_ups {
        if let Some(command) = book.state.follow_up() {
            changes.extend(book.step(command).expect("follow-ups are never rejected"));
        }
    }
    changes
}

fn run(book: &mut Book, step: &Step) {
    match step {
        Step::FailFirst(inner) => {
            let before = rows(&book.state);
            let revision = book.state.revision();
            for change in run_settled(book, inner).iter().rev() {
                book.state.undo(change);
            }
            assert_same_book(&book.state, &State::restore(revision, before));
            let mut more = Vec::new();
            book.settle(&mut more);
            assert!(more.iter().all(says_only_why), "settled before: {more:?}");
            run_settled(book, inner);
        }
        Step::Hurry(inner, follow_ups) => drop(hurry(book, inner, *follow_ups)),
        Step::TakeBack(inner, follow_ups) => {
            let before = rows(&book.state);
            let revision = book.state.revision();
            for change in hurry(book, inner, *follow_ups).iter().rev() {
                book.state.undo(change);
            }
            assert_same_book(&book.state, &State::restore(revision, before));
        }
        Step::Pass(seconds) => {
            book.pass_unsettled(*seconds);
            book.settle(&mut Vec::new());
        }
        Step::Allocate(_)
        | Step::Conflict(..)
        | Step::Release(_)
        | Step::ApplyPool(..)
        | Step::DeletePool(..)
        | Step::SyncPools(..)
        | Step::DeleteCluster(_)
        | Step::Reserve(_)
        | Step::DeleteReservation(_) => drop(run_settled(book, step)),
        Step::ApplyQuota(_) | Step::DeleteQuota(_) | Step::Fence(..) | Step::Unfence => {
            drop(run_settled(book, step));
        }
    }
}

/// What is tried: pools to begin with, steps, and how many claims of a cluster may wait.
#[derive(Debug)]
struct Sequence {
    pools: Vec<Pool>,
    steps: Vec<Step>,
    max_pending: Option<usize>,
}

fn some_sequence() -> impl Strategy<Value = Sequence> {
    let pools = proptest::collection::vec(some_pool(None), 1..4);
    let steps = proptest::collection::vec(some_step(), 1..80);
    let max_pending = prop_oneof![2 => Just(None), 1 => (0_usize..5).prop_map(Some)];
    (pools, steps, max_pending).prop_map(|(pools, steps, max_pending)| Sequence {
        pools,
        steps,
        max_pending,
    })
}

/// Runs a sequence, and compares with the model after each step that leaves nothing to do.
fn try_out(sequence: Sequence) {
    let mut book = Book::default();
    book.state.max_pending = sequence.max_pending;
    for pool in sequence.pools {
        run(&mut book, &Step::ApplyPool(Box::new(pool), InUse::Move));
    }
    let mut hurried = false;
    for step in sequence.steps {
        let hurries = matches!(step, Step::Hurry(..) | Step::TakeBack(..));
        if hurried && !hurries {
            book.settle(&mut Vec::new());
            check_settled(&book.state);
        }
        hurried = hurries;
        run(&mut book, &step);
        if !hurried {
            check_settled(&book.state);
        }
    }
    book.settle(&mut Vec::new());
    check_settled(&book.state);
}

/// A sequence that these bytes choose: the first says how many claims may wait, and each four of the
/// others make a step, the same wherever they stand.
pub(crate) fn by_choices(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let may_wait = usize::from(first % 8);
    let steps = rest.chunks_exact(4).take(80);
    try_out(Sequence {
        pools: vec![pool("p", &BLOCKS[..2])],
        steps: steps.map(chosen_step).collect(),
        max_pending: (may_wait < 5).then_some(may_wait),
    });
}

fn chosen_step(choice: &[u8]) -> Step {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let mut seed = [0; 32];
    seed[..choice.len()].copy_from_slice(choice);
    let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), chance);
    let step = some_step().new_tree(&mut runner);
    step.expect("no step is out of the question").current()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::sequences(1600), ..ProptestConfig::default() })]

    #[test]
    fn the_state_does_what_a_naive_model_does(sequence in some_sequence()) {
        try_out(sequence);
    }
}
