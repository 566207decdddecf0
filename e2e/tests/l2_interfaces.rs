//! Advertisements that select some nodes, and name interfaces.
//!
//! Topology: `e2e::fleet`, with a second interface eth1 on n1 and n2, on the same segment.
//!
//! 1. A node answers on the interfaces of the advertisements that select it, and on no other.
//! 2. An owner that loses its last interface of these hands over, although it has others; who follows
//!    answers on its own.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use e2e::fleet::{Fleet, SOON};
use pharos_testbed::arp::Prober;
use pharos_testbed::wait;
use pnet_base::MacAddr;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);

/// Plugs a second interface in.
fn add_interface(fleet: &Fleet, node: &str) -> anyhow::Result<MacAddr> {
    let switch = fleet.lan.switch();
    let port = format!("{node}x");
    let namespace = &fleet.lan.host(node)?.namespace;
    let peer = ["peer", "name", &port, "netns", switch.name()];
    let add = ["ip", "link", "add", "eth1", "type", "veth"];
    namespace.exec(&[&add[..], &peer].concat())?;
    switch.exec(&["ip", "link", "set", "dev", &port, "master", "br0", "up"])?;
    namespace.exec(&["ip", "link", "set", "eth1", "up"])?;
    let shown = namespace.exec(&["ip", "-o", "link", "show", "eth1"])?;
    let mut words = shown.split_whitespace();
    let mac = words.by_ref().find(|word| *word == "link/ether");
    mac.and_then(|_| words.next()?.parse().ok())
        .with_context(|| format!("no address in {shown}"))
}

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
    let Some(fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    let eth1_of_n1 = add_interface(&fleet, "n1")?;
    add_interface(&fleet, "n2")?;
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
