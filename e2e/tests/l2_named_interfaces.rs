//! Which interface answers, where an advertisement names some.
//!
//! Topology: `e2e::segment`; each node has eth0 and eth1 on the same segment.
//!
//! 1. Only an interface that the advertisement names answers and announces.
//! 2. A node without any interface of these names is no candidate: the next of the list answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::{skip, wait};
use pnet_base::MacAddr;

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 102);
const NODES: [&str; 2] = ["n1", "n2"];
const WATCH: Duration = Duration::from_secs(1);

fn with_two_interfaces(nodes: &[&str]) -> anyhow::Result<Segment> {
    let mut segment = Segment::without_announcers(2, &["--hold-down", "0"])?;
    for node in nodes {
        segment.lan.add_interface(node)?;
    }
    segment.start_announcers(&NODES)?;
    Ok(segment)
}

#[test]
fn only_an_interface_that_is_named_answers_and_announces() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = with_two_interfaces(&NODES)?;
    let prober = segment.probe(&[FIRST, SECOND, THIRD])?;
    segment.peer.assign_on(FIRST, 1, &NODES, &["eth1"]);
    segment.peer.assign_on(SECOND, 2, &NODES, &["eth0"]);
    segment.peer.assign_on(THIRD, 3, &NODES, &[]);
    let host = segment.lan.host("n1")?;
    let (eth0, eth1) = (host.mac, host.more[0]);
    let expected = [
        (FIRST, vec![eth1]),
        (SECOND, vec![eth0]),
        (THIRD, vec![eth0, eth1]),
    ];
    for (address, macs) in &expected {
        for mac in macs {
            let what = format!("{mac} answers for {address}");
            prober.wait_for_answer(&what, SOON, |answer| {
                answer.address == *address && answer.mac == *mac
            })?;
        }
    }
    let since = prober.now();
    wait::until("a second of answers", SOON, || {
        (prober.now() > since + WATCH).then_some(())
    })?;
    let record = prober.record();
    for (address, macs) in expected {
        let mut answerers: Vec<MacAddr> = macs.clone();
        answerers.sort();
        let found = record.answerers(address, Duration::ZERO, prober.now());
        assert!(found.iter().eq(&answerers), "{address}: {found:?}");
        let frames = prober.frames();
        let announced = frames
            .iter()
            .filter(|one| one.is_gratuitous() && one.sender == address);
        let mut announced: Vec<MacAddr> = announced.map(|frame| frame.sender_mac).collect();
        announced.sort();
        announced.dedup();
        assert_eq!(announced, answerers, "{address}");
    }
    Ok(())
}

#[test]
fn a_node_without_an_interface_of_that_name_is_no_candidate() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = with_two_interfaces(&["n2"])?;
    let prober = segment.probe(&[FIRST, SECOND])?;
    segment.peer.assign_on(FIRST, 1, &NODES, &["eth1"]);
    segment.peer.assign_on(SECOND, 2, &NODES, &["eth7"]);
    let second = segment.lan.host("n2")?.more[0];
    let what = "eth1 of n2 answers";
    prober.wait_for_answer(what, SOON, |answer| answer.mac == second)?;
    let since = prober.now();
    wait::until("a second of answers", SOON, || {
        (prober.now() > since + WATCH).then_some(())
    })?;
    let record = prober.record();
    let answerers = record.answerers(FIRST, Duration::ZERO, prober.now());
    assert!(answerers.iter().eq([&second]), "{answerers:?}");
    assert_eq!(record.of(SECOND).count(), 0, "nobody has eth7");
    Ok(())
}
