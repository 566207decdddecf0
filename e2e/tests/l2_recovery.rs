//! A database that is lost, and made anew without a word by `--create`.
//!
//! Topology: `e2e::fleet`, with n1 and n2.
//!
//! 1. What announcers answer for goes on being answered: no request is lost.
//! 2. Whoever asks for an address meanwhile waits, with the reason RECOVERING, and gets none that is in use.
//! 3. When an operator ends the wait the old addresses fall silent.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::fleet::{Fleet, SOON};
use pharos_proto::v1;
use pharos_proto::v1::cluster_service_client::ClusterServiceClient;
use pharos_testbed::arp::Prober;
use pharos_testbed::wait;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const STREAM: &str = "pharos_announcer_stream_connected";

fn lose_database(fleet: &Fleet) -> anyhow::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = fleet.database().into_os_string();
        path.push(suffix);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn finish_recovery(fleet: &Fleet) -> anyhow::Result<()> {
    fleet.call(|channel| async {
        let mut clusters = ClusterServiceClient::new(channel);
        let request = v1::FinishRecoveryRequest::default();
        clusters.finish_recovery(request).await
    })?;
    Ok(())
}

#[test]
fn a_database_that_is_lost_and_made_anew_withdraws_nothing() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    fleet.advertise("all", &[], &[])?;
    fleet.allocate("web", ADDRESS)?;
    let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
    let first = prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;

    fleet.kill_ipam()?;
    lose_database(&fleet)?;
    fleet.start_ipam()?;
    for node in ["n1", "n2"] {
        fleet.wait_metric(node, STREAM, "1")?;
    }
    let connected = prober.now();
    wait::until("five seconds", SOON, || {
        (prober.now() > connected + Duration::from_secs(5)).then_some(())
    })?;
    let until = prober.now() - Duration::from_millis(500);
    let lost = prober.record().lost(ADDRESS, first.at, until);
    assert!(lost.is_empty(), "{}", prober.record().timeline(ADDRESS));

    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    let refused = fleet.allocate("db", ADDRESS).expect_err("it waits");
    let refused = format!("{refused:#}");
    assert!(refused.contains("yet to report: cluster east"), "{refused}");

    finish_recovery(&fleet)?;
    wait::until("nobody answers any more", SOON, || {
        let since = prober.now().checked_sub(Duration::from_millis(300))?;
        let answerers = prober.record().answerers(ADDRESS, since, prober.now());
        answerers.is_empty().then_some(())
    })
}
