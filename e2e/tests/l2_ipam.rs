//! Announcers behind the real ipam-service, without Kubernetes.
//!
//! Topology: `e2e::fleet`, with n1 and n2.
//!
//! 1. An allocated address is answered by exactly one node; a released one by nobody.
//! 2. ipam-service killed: the address is still answered, also after its owner was killed.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use e2e::fleet::{Fleet, SOON};
use pharos_testbed::arp::Prober;
use pharos_testbed::wait;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);

#[test]
fn an_allocated_address_is_answered_with_and_without_ipam_service() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    fleet.advertise("default", &[], &[])?;
    fleet.allocate("web", ADDRESS)?;
    let first = prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    wait::until("a second of answers", SOON, || {
        (prober.now() > first.at + Duration::from_secs(1)).then_some(())
    })?;
    let answerers = prober
        .record()
        .answerers(ADDRESS, Duration::ZERO, prober.now());
    assert_eq!(answerers.len(), 1, "{answerers:?}");

    fleet.release("web")?;
    wait::until("nobody answers any more", SOON, || {
        let since = prober.now().saturating_sub(Duration::from_millis(300));
        let record = prober.record();
        record
            .answerers(ADDRESS, since, prober.now())
            .is_empty()
            .then_some(())
    })?;
    fleet.allocate("web", ADDRESS)?;
    let again = prober.wait_answer(ADDRESS, prober.now(), None, SOON)?;

    fleet.kill_ipam()?;
    let owner = fleet.lan.host_by_mac(again.mac);
    let owner = owner.context("a node answers")?.name.clone();
    fleet.announcer(&owner)?.kill()?;
    let killed = prober.now();
    let answer = prober.wait_answer(ADDRESS, killed, Some(again.mac), SOON)?;
    eprintln!("failover without ipam-service: {:?}", answer.at - killed);
    Ok(())
}
