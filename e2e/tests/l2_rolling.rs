//! Planned moves: whatever stops, and whoever takes over, no request is lost and none is answered
//! by two.
//!
//! Topology: `e2e::segment`. One client asks by ARP every 10 ms; another one has a neighbour entry
//! and sends every 10 ms to servers on the nodes.
//!
//! 1. All announcers are restarted one after the other (SIGTERM) while ipam-service is away.
//! 2. A node with 1,000 addresses is drained.
//! 3. Who has handed an address over announces it no more, and nobody does once it is removed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment, many};
use pharos_testbed::arp::{Frame, Prober};
use pharos_testbed::record::Recorder as _;
use pharos_testbed::warm::Warm;
use pharos_testbed::{skip, wait};
use pnet_base::MacAddr;

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 102);
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Rounds of a burst go on for 4.4 s.
const BURST: Duration = Duration::from_secs(5);

#[test]
fn a_rolling_restart_without_ipam_service_loses_nothing() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let addresses = [FIRST, SECOND, THIRD];
    let _servers = segment.echo(&addresses)?;
    let prober = segment.probe(&addresses)?;
    // Each node owns one of them, so that each restart moves one, there and back.
    let lists = [["n1", "n2", "n3"], ["n2", "n3", "n1"], ["n3", "n1", "n2"]];
    for (group, (address, nodes)) in (1..).zip(addresses.iter().zip(lists)) {
        segment.peer.assign(*address, group, &nodes);
        segment.wait_owner(&prober, *address, nodes[0])?;
    }
    let warm: Vec<Warm> = addresses
        .iter()
        .map(|address| segment.warm(*address))
        .collect::<Result<_, _>>()?;
    for node in NODES {
        segment.wait_on_disk(node, THIRD)?;
    }
    segment.peer.stop();
    let asked = prober.now();
    let sent: Vec<Duration> = warm.iter().map(|client| client.now()).collect();
    for (node, address) in NODES.iter().zip(addresses) {
        let status = segment.announcer(node)?.terminate(SOON)?;
        assert!(status.success(), "{node}: {status}");
        segment.start_announcer(node)?;
        // It takes its own back after its hold-down.
        let back = segment.wait_owner(&prober, address, node)?;
        assert!(back - asked >= Duration::from_secs(1), "{node}: {back:?}");
    }
    let (record, until) = (prober.record(), prober.now());
    for ((address, warm), sent) in addresses.into_iter().zip(&warm).zip(sent) {
        let answerers = record.answerers(address, asked, until);
        assert_eq!(answerers.len(), 2, "it moved once: {answerers:?}");
        segment.check_moves(&prober, address, asked)?;
        segment.check_moves(warm, address, sent)?;
        let reached = warm.record().answerers(address, sent, warm.now());
        assert_eq!(reached, answerers, "where the client's datagrams went");
    }
    Ok(())
}

#[test]
fn a_thousand_addresses_are_handed_over_at_once() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &[])?;
    let addresses = many(1000);
    segment.peer.assign_all(&addresses, &NODES, &[]);
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "1000")?;
    // Asking for all of them would measure the prober: some stand for the rest.
    let sample: Vec<Ipv4Addr> = addresses.iter().step_by(111).map(|one| one.0).collect();
    let _servers = segment.echo(&sample[9..])?;
    let prober = segment.probe(&sample)?;
    for address in &sample {
        segment.wait_owner(&prober, *address, "n1")?;
    }
    // Among the last that are announced.
    let warm = segment.warm(sample[9])?;
    let (asked, sent) = (prober.now(), warm.now());
    let status = segment.announcer("n1")?.terminate(SOON)?;
    eprintln!(
        "SIGTERM to exit with 1,000 addresses: {:?}",
        prober.now() - asked
    );
    assert!(status.success(), "{status}");
    segment.wait_metric("n2", "pharos_announcer_owned_groups", "1000")?;
    let mac = segment.lan.host("n2")?.mac;
    wait::until("the new owner announces every address", SOON, || {
        let frames = announcements(&prober, asked, mac);
        let told: BTreeSet<Ipv4Addr> = frames.iter().map(|frame| frame.sender).collect();
        (told.len() == 1000).then_some(())
    })?;
    for address in &sample {
        segment.check_moves(&prober, *address, asked)?;
    }
    segment.check_moves(&warm, sample[9], sent)
}

#[test]
fn nobody_announces_what_it_no_longer_has() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1", "n2"], &["--hold-down", "0"])?;
    let prober = segment.probe(&[FIRST])?;
    let [one, two] = ["n1", "n2"].map(|node| segment.lan.host(node).map(|host| host.mac));
    let (one, two) = (one?, two?);
    segment.peer.assign(FIRST, 1, &["n1", "n2"]);
    // Four rounds of n1 are still to come when the address moves on.
    wait::until("n1 announces the address", SOON, || {
        (!announcements(&prober, Duration::ZERO, one).is_empty()).then_some(())
    })?;
    segment.peer.assign(FIRST, 1, &["n2", "n1"]);
    let moved = segment.wait_owner(&prober, FIRST, "n2")?;
    wait::until("the rounds of n2", SOON, || {
        (prober.now() > moved + BURST).then_some(())
    })?;
    assert_eq!(announcements(&prober, moved, one), []);
    assert!(announcements(&prober, moved, two).len() >= 8);

    segment.peer.assign(FIRST, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    segment.peer.unassign(FIRST);
    for node in ["n1", "n2"] {
        segment.peer.wait_applied(node)?;
        segment.wait_metric(node, "pharos_announcer_owned_groups", "0")?;
    }
    let removed = prober.now();
    wait::until("the time of the rounds of n1", SOON, || {
        (prober.now() > removed + BURST).then_some(())
    })?;
    assert_eq!(announcements(&prober, removed, one), []);
    assert_eq!(announcements(&prober, removed, two), []);
    Ok(())
}

/// What a node has announced since then.
fn announcements(prober: &Prober, since: Duration, mac: MacAddr) -> Vec<Frame> {
    let mut frames = prober.frames();
    frames.retain(|frame| frame.at > since && frame.is_gratuitous() && frame.sender_mac == mac);
    frames
}
