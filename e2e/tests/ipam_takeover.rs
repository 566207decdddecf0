//! Topology: two ipam-service on one database, although the lock of the database forbids it: somebody
//! removed the lock file of a process that did not answer, or the file system has no locks.
//!
//! 1. The second takes over from a first one that was stopped at any moment under load, and serves.
//! 2. The first, woken up, acknowledges nothing more, says why, and goes on reading.
//! 3. It is stopped, and what it leaves of the files is what the second works with.
//!
//! Nothing acknowledged by either is lost, nothing is given twice (`e2e::crash::ledger`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::crash::load::{Acknowledged, Load, all_turned_away};
use e2e::ipam::{Ipam, claim};
use e2e::seed::seed;
use tonic::Code;

const CLIENTS: u32 = 32;

/// So often the first one may be met in the midst of a transaction, which keeps the second out.
const MOST_ATTEMPTS: usize = 30;

/// A second server on the database of the first, which is stopped meanwhile.
fn take_over(first: &mut Ipam) -> Ipam {
    for _ in 0..MOST_ATTEMPTS {
        first.pause().unwrap();
        let lock = first.database().with_extension("db.lock");
        std::fs::remove_file(lock).unwrap();
        match Ipam::start_on(&first.database(), Vec::new()) {
            Ok(second) => return second,
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains("cannot be opened for writing"), "{error}");
            }
        }
        first.resume().unwrap();
    }
    panic!("the database is never free");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_on_one_database_the_older_acknowledges_nothing_any_more() {
    let mut first = Ipam::start().unwrap();
    first.apply_pool("pool", &["10.0.0.0/12"]).await.unwrap();
    let mut load = Load::new(CLIENTS, Acknowledged::OnAnswer, seed());
    let of_first = load.start(&first).unwrap();
    load.acknowledged(300).await.unwrap();
    let mut second = take_over(&mut first);
    load.audit(&second).await.unwrap();
    let of_second = load.start(&second).unwrap();
    load.acknowledged(300).await.unwrap();

    first.resume().unwrap();
    all_turned_away(of_first).await.unwrap();
    let reason = first.wait_ready(false).unwrap();
    assert!(
        reason.contains("another ipam-service has taken over"),
        "{reason}"
    );
    let mut client = first.allocations().unwrap();
    let refused = client
        .allocate(claim("east/default/late"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("has taken over"), "{refused:?}");
    assert!(first.list().await.unwrap().allocations.len() > 100);

    load.acknowledged(300).await.unwrap();
    assert_eq!(first.terminate().unwrap(), Some(0));
    load.acknowledged(300).await.unwrap();
    second.kill().unwrap();
    all_turned_away(of_second).await.unwrap();
    second.restart().unwrap();
    load.audit(&second).await.unwrap();
    let seen = load.ledger().violations().to_vec();
    assert!(
        seen.is_empty(),
        "{} broken promises: {:?}",
        seen.len(),
        seen[0]
    );
    let (code, log) = second.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}
