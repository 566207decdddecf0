//! Advertisements that select some nodes, and name interfaces.
//!
//! Topology: `e2e::fleet`, with a second interface eth1 on n1 and n2, on the same segment.
//!
//! 1. A node answers on the interfaces of the advertisements that select it, and on no other.
//! 2. An owner that loses its last interface of these hands over, although it has others; who follows
//!    answers on its own.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::fleet::{Fleet, SOON};
use pharos_testbed::arp::Prober;
use pharos_testbed::wait;
use pnet_base::MacAddr;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);

/// Waits for an answer from here.
fn wait_answer_from(prober: &Prober, mac: MacAddr) -> anyhow::Result<Duration> {
    let since = prober.now();
    wait::until(&format!("{mac} answers"), SOON, || {
        let record = prober.record();
        let mut answers = record.of(ADDRESS);
        let found = answers.find(|answer| answer.at >= since && answer.mac == mac);
        found.map(|answer| answer.at)
    })
}

/// For a second nobody but this one answers.
fn check_alone(prober: &Prober, mac: MacAddr) -> anyhow::Result<()> {
    let since = wait_answer_from(prober, mac)?;
    wait::until("a second of answers", SOON, || {
        (prober.now() > since + Duration::from_secs(1)).then_some(())
    })?;
    let answerers = prober.record().answerers(ADDRESS, since, prober.now());
    anyhow::ensure!(answerers.iter().eq(&[mac]), "{answerers:?}");
    Ok(())
}

#[test]
fn each_node_answers_on_the_interfaces_of_the_advertisements_that_select_it() -> anyhow::Result<()>
{
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    let eth1_of_n1 = fleet.lan.add_interface("n1")?;
    fleet.lan.add_interface("n2")?;
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    fleet.advertise("first", &["n1"], &["eth1"])?;
    fleet.allocate("web", ADDRESS)?;
    // It stays with n1, which it is given to before there is anybody else.
    fleet.advertise("second", &["n2"], &["eth0"])?;
    let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
    check_alone(&prober, eth1_of_n1)?;

    let n1 = fleet.lan.host("n1")?;
    n1.namespace.exec(&["ip", "link", "set", "eth1", "down"])?;
    check_alone(&prober, fleet.lan.host("n2")?.mac)
}
