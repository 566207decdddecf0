//! Topology: one ipam-service under the load of 32 clients, killed with SIGKILL: at random moments,
//! in the middle of checkpoints, and while it starts.
//!
//! 1. Over 200 kills and 10,000 acknowledged allocations nothing acknowledged is lost and nothing is
//!    given twice; the database is whole; the server serves again within a second.
//! 2. Control: acknowledged when sent, that is before the commit. The checker must see it.
//! 3. Control: a disk that loses its last transactions. The checker must see it.
//!
//! The same checker (`e2e::crash::ledger`) judges all three, and `pharos-checker` all calls and the
//! whole change log of the first, in which what a small pool gives back rests before it is given away
//! again. `PHAROS_KILLS=2000` makes the first one longer; `PHAROS_SEED`
//! repeats the choices of a run (not the moments at which the kernel kills).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::crash::kills::{Kills, Moment};
use e2e::crash::ledger::Violation;
use e2e::crash::load::{Acknowledged, Load};
use e2e::crash::wal::lose_transactions;
use e2e::ipam::{Ipam, SOON};
use e2e::seed::{number, seed};
use pharos_checker::{History, Rules, check};
use pharos_proto::v1;
use pharos_proto::v1::change::Subject;
use pharos_testbed::Launch;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

const CLIENTS: u32 = 32;

/// Of seven kills, five come at any moment, one in a checkpoint and one while the server starts.
const MOMENTS: [Moment; 7] = [
    Moment::UnderLoad,
    Moment::UnderLoad,
    Moment::StartUp,
    Moment::UnderLoad,
    Moment::Checkpoint,
    Moment::UnderLoad,
    Moment::UnderLoad,
];

/// How long addresses of the first pool rest: about as long as a server lives, so that some are given
/// away again, and some are not before the next kill.
const REST: Duration = Duration::from_millis(100);

/// Far longer than lies between the looks at two clocks, and still a part of the rest.
const CLOCK_SLACK: Duration = Duration::from_millis(50);

/// The first pool is small, so that everybody waits for what rests there.
async fn start() -> anyhow::Result<Ipam> {
    let ipam = Ipam::start()?;
    let resting = v1::Pool {
        name: "a-small".to_owned(),
        addresses: vec!["10.16.0.0/28".to_owned()],
        reuse_delay: Some(REST.try_into()?),
        ..v1::Pool::default()
    };
    let request = v1::ApplyPoolRequest {
        pool: Some(resting),
        ..v1::ApplyPoolRequest::default()
    };
    ipam.pools()?.apply_pool(request).await?;
    ipam.apply_pool("pool", &["10.0.0.0/12"]).await?;
    Ok(ipam)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_is_given_twice_over_200_kills() {
    let at_least = number("PHAROS_KILLS").unwrap_or(200);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut load = Load::new(CLIENTS, Acknowledged::OnAnswer, seed);
    let mut ipam = start().await.unwrap();
    let mut kills = Kills::default();
    for moment in MOMENTS.into_iter().cycle() {
        kills
            .round(&mut ipam, &mut load, moment, &mut random, &|_| ())
            .await
            .unwrap();
        let seen = load.ledger().violations().to_vec();
        let first = &seen[..seen.len().min(5)];
        assert!(
            seen.is_empty(),
            "seed {seed}: {} broken promises, first {first:?}",
            seen.len()
        );
        // As many as a kill of the long run has on average.
        let enough = load.ledger().allocations() >= (50 * at_least).min(10_000);
        if u64::from(kills.count()) >= at_least && enough {
            break;
        }
        assert!(u64::from(kills.count()) < 4 * at_least, "too little load");
    }
    let allocations = load.ledger().allocations();
    let releases = load.ledger().releases();
    let (middle, longest) = kills.restart_times();
    eprintln!(
        "{} kills ({} in a checkpoint, {} while starting), {allocations} allocations and \
         {releases} releases acknowledged, 0 lost, 0 double; restart to serving p50 {middle:?}, \
         longest {longest:?}",
        kills.count(),
        kills.in_checkpoint,
        kills.starting
    );
    assert!(
        kills.in_checkpoint >= kills.count() / 20,
        "too few checkpoints were met: {kills:?}"
    );
    // The longest is that of a machine that builds something else at the time.
    assert!(middle <= Duration::from_secs(1), "{middle:?}");
    assert_explained(&ipam, &load).await;
    assert_whole(ipam);
}

/// Judges all calls, the whole change log and what is listed at the end by all invariants.
async fn assert_explained(ipam: &Ipam, load: &Load) {
    let history = History {
        calls: load.calls(),
        log: ipam.log().await.unwrap(),
        snapshots: vec![ipam.list().await.unwrap()],
        ..History::default()
    };
    let rules = Rules {
        clock_slack: i64::try_from(CLOCK_SLACK.as_micros()).unwrap(),
    };
    let found = check(&history, &rules);
    let rested = history
        .log
        .iter()
        .filter(|change| has_rested(change))
        .count();
    eprintln!(
        "{} calls and {} changes judged; {rested} addresses rested to the end",
        history.calls.len(),
        history.log.len()
    );
    assert!(rested > 0, "no delay came to its end");
    assert!(found.is_empty(), "{} violations: {}", found.len(), found[0]);
}

/// Whether an address may be given away because its time is over, not because its owner came back.
fn has_rested(change: &v1::Change) -> bool {
    let Some(Subject::Unavailable(edit)) = &change.subject else {
        return false;
    };
    edit.after.is_none() && change.request_id.is_empty()
}

/// Stops the server, and has the database checked row by row.
fn assert_whole(mut ipam: Ipam) {
    ipam.terminate().unwrap();
    let check = Launch::workspace("ipam-service")
        .unwrap()
        .arg("check")
        .arg("--database");
    let mut check = check
        .arg(format!("sqlite:{}", ipam.database().display()))
        .start()
        .unwrap();
    let status = check.wait(SOON).unwrap();
    assert!(status.success(), "{}", check.log());
}

/// Five kills at any moment; `between` is done to the files each time.
async fn killed(load: &mut Load, seed: u64, between: &dyn Fn(&Ipam)) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ipam = start().await?;
    let mut kills = Kills::default();
    for _ in 0..5 {
        let moment = Moment::UnderLoad;
        kills
            .round(&mut ipam, load, moment, &mut random, between)
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn control_an_acknowledgement_before_the_commit_is_seen() {
    let seed = seed();
    let mut load = Load::new(CLIENTS, Acknowledged::OnSend, seed);
    killed(&mut load, seed, &|_| ()).await.unwrap();
    let seen = load.ledger().violations().to_vec();
    let lost =
        |it: &&Violation| matches!(it, Violation::Lost { .. } | Violation::Resurrected { .. });
    assert!(
        seen.iter().filter(lost).count() >= 5,
        "seed {seed}: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn control_a_disk_that_loses_its_last_writes_is_seen() {
    let seed = seed();
    let mut load = Load::new(CLIENTS, Acknowledged::OnAnswer, seed);
    let between = |ipam: &Ipam| {
        // Fewer than a round has at least: without its pool the server would refuse every claim.
        // A log that has just been begun anew has nothing to lose; the other rounds have.
        lose_transactions(&ipam.database(), 3).expect("a log that was cut");
    };
    killed(&mut load, seed, &between).await.unwrap();
    let seen = load.ledger().violations().to_vec();
    let lost = |it: &&Violation| matches!(it, Violation::Lost { .. });
    assert!(
        seen.iter().filter(lost).count() >= 5,
        "seed {seed}: {seen:?}"
    );
}
