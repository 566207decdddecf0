//! A deterministic simulation of a cluster: on each node everything that decides (membership, reports,
//! election, handover, the table of answers) as it is; between them a network that delays, reorders,
//! doubles and loses, and parts; and steps that people and machines take. All is chosen by a seed.
//!
//! | module | what it does |
//! |---|---|
//! | `node` | one host: an announcer that starts, stops, is killed, is suspended |
//! | `world` | the network, the streams, a client that asks for every address every 10 ms, the clock |
//! | `steps` | what happens to a cluster, at random |
//! | `judge` | who answered what: every question once, but nothing that a stranger had first |
//!
//! A failure prints its seed. `PHAROS_SEED=n` runs that one again, with `PHAROS_HISTORY=1` prints what
//! happened, and `PHAROS_SIMULATIONS=n` runs so many, from `PHAROS_FIRST_SEED` on. The usual run tries
//! the same ones every time; new ones are tried by `cargo xtask explore`.

mod judge;
mod node;
mod steps;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use pnet_base::MacAddr;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use steps::Kind;
use world::World;

/// How many seeds the usual run tries of each kind, of which a debug build does two per second.
const USUAL_SEEDS: u64 = 10;
/// Steps of one run.
const STEPS: u32 = 15;
/// After so long without a step, a cut or a loss everything has settled.
const QUIET: Duration = Duration::from_secs(3);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect(variable))
}

/// The seeds of this run: one that is to be repeated, or as many as asked for.
fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = number("PHAROS_SEED") {
        return seed..seed + 1;
    }
    let count = number("PHAROS_SIMULATIONS").unwrap_or(USUAL_SEEDS);
    let first = number("PHAROS_FIRST_SEED").unwrap_or(1);
    first..first + count
}

/// Runs every seed; `judge` says what is wrong with how one of them ended.
fn with_seeds(kind: Kind, judge: impl Fn(&World) -> Vec<String>) {
    let seeds = seeds();
    eprintln!("seeds {seeds:?}");
    for seed in seeds {
        let mut world = World::new(seed, kind);
        for _ in 0..STEPS {
            world.step();
        }
        world.calm_down();
        world.run(QUIET);
        world.settled();
        world.run(Duration::from_secs(1));
        if std::env::var_os("PHAROS_HISTORY").is_some() {
            world.print_history();
        }
        let wrong = judge(&world);
        assert!(
            wrong.is_empty(),
            "{wrong:#?}, replay with PHAROS_SEED={seed} and PHAROS_HISTORY=1"
        );
    }
}

#[test]
fn planned_moves_of_any_kind_and_order_lose_no_answer_and_double_none() {
    with_seeds(Kind::Planned, |world| {
        let mut wrong = world.not_answered_once(world.begun());
        wrong.extend(world.not_left_to_strangers());
        wrong
    });
}

#[test]
fn after_three_quiet_seconds_exactly_one_node_answers_whatever_happened() {
    with_seeds(Kind::Faults, |world| {
        world.not_answered_once(world.settled_at())
    });
}

#[test]
fn two_nodes_that_cannot_hear_each_other_know_what_they_own_by_the_others() {
    with_seeds(Kind::PartlyHealed, |world| {
        world.not_answered_once(world.settled_at())
    });
}

#[test]
fn exactly_one_node_answers_also_while_nodes_have_different_lists() {
    with_seeds(Kind::Disagreeing, |world| {
        world.not_answered_once(world.settled_at())
    });
}

#[test]
fn what_a_stranger_has_is_left_to_it_whatever_becomes_of_interfaces() {
    for seed in 0..20 {
        let mut world = World::of_size(Kind::Planned, 3, 1, StdRng::seed_from_u64(seed));
        world.run(QUIET);
        world.add(Duration::from_secs(30));
        world.run(Duration::from_secs(1));
        for round in 0..3 {
            for index in 0..3 {
                let mac = MacAddr(
                    2,
                    0,
                    0,
                    0,
                    1 + round,
                    10 + u8::try_from(index).expect("few"),
                );
                world.set_mac(index, Some(mac));
                world.run(Duration::from_millis(700));
                // Whoever has the address hands it over.
                world.set_mac(index, None);
                world.run(Duration::from_millis(700));
                world.set_mac(index, Some(mac));
                world.run(Duration::from_millis(700));
            }
        }
        world.run(Duration::from_secs(30));
        assert_eq!(world.not_left_to_strangers(), [""; 0], "seed {seed}");
    }
}

/// An hour, or as many as asked for, in which nothing is streamed and one of three nodes is away.
#[test]
fn without_any_control_plane_owners_go_on_for_hours_and_one_that_comes_back_is_in_its_place() {
    let hours = number("PHAROS_HOURS").unwrap_or(1);
    let mut world = World::of_size(Kind::Planned, 3, 2, StdRng::seed_from_u64(1));
    world.end(2, false);
    world.run(QUIET);
    // Often enough to see a gap, seldom enough to see a day.
    world.pause = Duration::from_secs(1);
    world.settled();
    let owners = world.owners();
    world.run(Duration::from_secs(3600 * hours));
    assert_eq!(world.owners(), owners);
    world.start(2, Duration::ZERO);
    world.run(QUIET);
    assert_eq!(world.not_answered_once(world.settled_at()), [""; 0]);
    let all = BTreeSet::from([0, 1, 2]);
    assert_eq!(world.alive(), [all.clone(), all.clone(), all]);
}

#[test]
fn at_rest_a_thousand_groups_cost_as_much_as_one() {
    let cost = |addresses: u16| {
        let mut world = World::of_size(Kind::Planned, 5, addresses, StdRng::seed_from_u64(1));
        world.pause = Duration::from_secs(3600);
        world.run(Duration::from_secs(10));
        let (datagrams, bytes) = world.sent;
        world.run(Duration::from_secs(60));
        (world.sent.0 - datagrams, world.sent.1 - bytes)
    };
    let (one, thousand) = (cost(1), cost(1000));
    eprintln!(
        "datagrams and bytes of 5 nodes in a minute: {one:?} with 1 group, {thousand:?} with 1000"
    );
    let is_near = |a: u64, b: u64| a.abs_diff(b) * 20 <= a.max(b);
    assert!(is_near(one.0, thousand.0) && is_near(one.1, thousand.1));
}
