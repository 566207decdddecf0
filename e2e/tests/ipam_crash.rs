//! Topology: one ipam-service under the load of 32 clients, killed with SIGKILL at random moments.
//!
//! 1. Over 60 kills nothing acknowledged is lost and nothing is given twice; the database is whole.
//! 2. Control: acknowledged when sent, that is before the commit. The checker must see it.
//! 3. Control: a disk that loses its last transactions. The checker must see it.
//!
//! The same checker (`e2e::crash::ledger`) judges all three.

use std::time::Duration;

use e2e::crash::ledger::Violation;
use e2e::crash::load::{Acknowledged, Load};
use e2e::crash::wal::lose_transactions;
use e2e::ipam::{Ipam, SOON};
use pharos_testbed::Launch;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const CLIENTS: u32 = 32;

/// Starts a server, and kills it under load `kills` times; `between` is done to its files each
/// time.
async fn killed(
    load: &mut Load,
    kills: u32,
    seed: u64,
    between: impl Fn(&Ipam),
) -> anyhow::Result<Ipam> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ipam = Ipam::start()?;
    ipam.apply_pool("pool", &["10.0.0.0/12"]).await?;
    for _ in 0..kills {
        let mut clients = load.start(&ipam)?;
        let moment = Duration::from_micros(random.random_range(10_000..250_000));
        tokio::time::sleep(moment).await;
        ipam.kill()?;
        while let Some(client) = clients.join_next().await {
            client?;
        }
        between(&ipam);
        ipam.restart()?;
        load.audit(&ipam).await?;
    }
    Ok(ipam)
}

fn seed() -> u64 {
    let seed = rand::random();
    eprintln!("seed {seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_is_given_twice_over_60_kills() {
    let seed = seed();
    let mut load = Load::new(CLIENTS, Acknowledged::OnAnswer, seed);
    let mut ipam = killed(&mut load, 60, seed, |_| ()).await.unwrap();
    let seen = load.ledger().violations().to_vec();
    let first = &seen[..seen.len().min(5)];
    assert!(
        seen.is_empty(),
        "seed {seed}: {} broken promises, first {first:?}",
        seen.len()
    );
    let acknowledged = load.ledger().acknowledged();
    eprintln!("{acknowledged} calls acknowledged");
    assert!(
        acknowledged > 2000,
        "too little load to see anything: {acknowledged}"
    );

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

#[tokio::test(flavor = "multi_thread")]
async fn control_an_acknowledgement_before_the_commit_is_seen() {
    let seed = seed();
    let mut load = Load::new(CLIENTS, Acknowledged::OnSend, seed);
    killed(&mut load, 5, seed, |_| ()).await.unwrap();
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
        // A log that has just been begun anew has nothing to lose; the other rounds have.
        lose_transactions(&ipam.database(), 10).expect("a log that was cut");
    };
    killed(&mut load, 5, seed, between).await.unwrap();
    let seen = load.ledger().violations().to_vec();
    let lost = |it: &&Violation| matches!(it, Violation::Lost { .. });
    assert!(
        seen.iter().filter(lost).count() >= 5,
        "seed {seed}: {seen:?}"
    );
}
