//! A deterministic simulation: the real services, engine, state, store and feeds, under clients that
//! retry, are late, are doubled and go away, and under crashes. Everything is chosen by a seed.
//!
//! | module | what it does |
//! |---|---|
//! | `server` | one process on files in a folder: start, stop, crash |
//! | `requests` | what clients ask |
//! | `network` | calls on their way, and what becomes of them |
//! | `world` | one run: rounds of clients, network and faults; records a history |
//!
//! How it is deterministic. One thread; a clock that only the run moves; all chance from one seed.
//! SQLite has threads of its own, so nothing may depend on how fast they are: calls enter the writer's
//! queue while it waits, and a crash takes a copy of the files while the writer is idle. What is lost
//! between two such moments is cut off the copy: the whole batch, or the log in the middle of it. As
//! only a commit makes a change durable, this is every outcome that a crash can have.
//!
//! The history is judged by `pharos-checker`. A failure prints its seed; `PHAROS_SEED=n` runs that
//! one again, with `PHAROS_HISTORY=1` prints what happened, and `PHAROS_SIMULATIONS=n` runs so many,
//! from `PHAROS_FIRST_SEED` on. The usual run tries the same ones every time; new ones are tried by
//! `cargo xtask explore`.

mod announcers;
mod network;
mod requests;
mod server;
mod world;

use pharos_checker::calls::Outcome;
use pharos_checker::{History, Invariant, Rules, check};
use pharos_proto::v1::change::Subject;

use world::{Plan, World};

/// How many seeds the usual run tries, of which a debug build does a few per second.
const USUAL_SEEDS: u64 = 120;

/// Rounds of one run: enough to fill the pools and to crash several times.
const ROUNDS: u32 = 40;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect(variable))
}

/// One run on a thread and a clock of its own.
fn run(seed: u64, plan: Plan) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    // A paused clock jumps to the next timer when nothing runs but SQLite's threads, which the
    // runtime does not know. It does not while this task blocks.
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let still = runtime.spawn_blocking(move || {
        // Ends with an error, as nothing is ever sent.
        let _ended = blocked.recv();
    });
    let history = runtime.block_on(async move {
        let mut world = World::new(seed, plan).await;
        for _ in 0..ROUNDS {
            world.round().await;
        }
        world.finish().await
    });
    drop(release);
    runtime.block_on(still).expect("it only waits");
    history
}

/// The seeds of this run: one that is to be repeated, or as many as asked for.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("PHAROS_SEED") {
        return seed..seed + 1;
    }
    let count = number("PHAROS_SIMULATIONS").unwrap_or(usual);
    let first = number("PHAROS_FIRST_SEED").unwrap_or(1);
    first..first + count
}

#[test]
fn whatever_crashes_and_whoever_retries_the_promises_are_kept() {
    let seeds = seeds(USUAL_SEEDS);
    eprintln!("seeds {seeds:?}");
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed, Plan::Sound));
        let history = outcome.unwrap_or_else(|panic| {
            eprintln!("replay with PHAROS_SEED={seed}");
            std::panic::resume_unwind(panic);
        });
        if std::env::var_os("PHAROS_HISTORY").is_some() {
            for line in gist(&history) {
                eprintln!("H {line}");
            }
        }
        let violations = check(&history, &Rules::default());
        let first: Vec<String> = violations.iter().take(3).map(ToString::to_string).collect();
        assert!(
            violations.is_empty(),
            "{} violations, replay with PHAROS_SEED={seed}; first {first:#?}",
            violations.len()
        );
    }
}

/// What was told and what was done.
fn gist(history: &History) -> Vec<String> {
    let calls = history.calls.iter().map(|call| {
        let told = match &call.outcome {
            Outcome::Allocated(told) => format!("{:?} {:?}", told.addresses, told.state()),
            Outcome::Released(_) => "released".to_owned(),
            Outcome::Edited(told) => format!("edited {told:?}"),
            other @ (Outcome::Refused | Outcome::Unknown) => format!("{other:?}"),
        };
        format!("{} {:?} {told}", call.start, call.end)
    });
    let log = history.log.iter().map(|change| format!("{change:?}"));
    calls.chain(log).collect()
}

#[test]
fn the_same_seed_makes_the_same_history() {
    for seed in seeds(3) {
        let [first, second] = [0, 1].map(|_| gist(&run(seed, Plan::Sound)));
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// Seeds after which a planted defect must have been found: one run may not meet it.
const CONTROL_SEEDS: u64 = 20;

fn finds(plan: Plan, invariant: Invariant) {
    let found = seeds(CONTROL_SEEDS).find(|seed| {
        let violations = check(&run(*seed, plan), &Rules::default());
        violations.iter().any(|one| one.invariant == invariant)
    });
    assert!(found.is_some(), "{plan:?} was not found");
}

#[test]
fn control_an_answer_before_the_commit_is_found() {
    finds(Plan::AnswersBeforeCommit, Invariant::Durable);
}

#[test]
fn control_a_fence_that_is_not_looked_at_is_found() {
    finds(Plan::ForgetsFences, Invariant::FencesGrow);
}

#[test]
fn control_a_watch_that_loses_an_event_is_found() {
    finds(Plan::WatchLosesEvent, Invariant::Revisions);
}

#[test]
fn control_a_delay_that_is_cut_short_is_found() {
    finds(Plan::SlowWallClock, Invariant::ReuseDelay);
}

/// Finds out that runs come to where a rule forbids something: in a history that is told otherwise
/// somebody must have broken it.
fn finds_in_spoiled(spoil: fn(&mut Subject), invariant: Invariant) {
    let found = seeds(CONTROL_SEEDS).find(|seed| {
        let mut history = run(*seed, Plan::Sound);
        history
            .log
            .iter_mut()
            .filter_map(|change| change.subject.as_mut())
            .for_each(spoil);
        let violations = check(&history, &Rules::default());
        violations.iter().any(|one| one.invariant == invariant)
    });
    assert!(found.is_some(), "{invariant:?} was not found");
}

#[test]
fn control_a_quota_that_was_lower_is_found_to_be_exceeded() {
    let lower = |subject: &mut Subject| {
        if let Subject::Quota(edit) = subject
            && let Some(limit) = edit.after.as_mut().and_then(|quota| quota.limit.as_mut())
        {
            *limit = limit.saturating_sub(1);
        }
    };
    finds_in_spoiled(lower, Invariant::WithinQuota);
}

#[test]
fn control_a_reservation_that_was_for_nobody_is_found_to_be_used() {
    let for_nobody = |subject: &mut Subject| {
        if let Subject::Reservation(edit) = subject
            && let Some(reservation) = edit.after.as_mut()
        {
            reservation.kept_for = None;
        }
    };
    finds_in_spoiled(for_nobody, Invariant::Permitted);
}
