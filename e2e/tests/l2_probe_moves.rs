//! When a new address is not asked for, and what is not done while it is.
//!
//! Topology: `e2e::segment`. The peer says of each new address that nobody has answered for it yet, and goes
//! on to say so. A client asks every 10 ms.
//!
//! 1. When all nodes start at once, each with its disk and nothing else, what they were assigned is answered
//!    within half a second, and nobody asks for it.
//! 2. Whoever takes over from a dead node asks for nothing, nor does that one when it gets it back. What was
//!    asked for by name, or adopted, is never asked for: the stream says so.
//! 3. With `--bind-addresses` an address is bound only once nobody else has it.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::{skip, wait};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const NAMED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const STARTED: Duration = Duration::from_millis(500);
const RUNS: usize = 5;
const PROBES: &str = "pharos_announcer_probes_total";

/// How many questions a node has asked before a first answer, since it started.
fn check_probes(segment: &Segment, node: &str, expected: &str) -> anyhow::Result<()> {
    let (_, text) = segment.admin(node, "/metrics")?;
    let line = format!("{PROBES} {expected}");
    anyhow::ensure!(text.lines().any(|found| found == line), "{node}: {text}");
    Ok(())
}

#[test]
fn all_nodes_that_start_from_their_disks_answer_at_once_and_ask_nobody() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign_new(ADDRESS, 1, &NODES);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    check_probes(&segment, "n1", "3")?;
    for node in NODES {
        segment.wait_on_disk(node, ADDRESS)?;
    }
    segment.peer.stop();
    let mut figures = Vec::new();
    for _ in 0..RUNS {
        for node in NODES {
            segment.announcer(node)?.kill()?;
        }
        let started = prober.now();
        for node in NODES {
            segment.start_announcer(node)?;
        }
        let first = prober.wait_answer(ADDRESS, started, None, SOON)?;
        let pause = prober.record().longest_unasked(started, first.at);
        let took = (first.at - started).saturating_sub(pause);
        anyhow::ensure!(took <= 2 * STARTED, "{took:?}, paused for {pause:?}");
        figures.push(took);
        let began = segment.wait_alone(&prober, ADDRESS, "n1")?;
        segment.check_moves(&prober, ADDRESS, began)?;
        for node in NODES {
            check_probes(&segment, node, "0")?;
        }
    }
    figures.sort();
    eprintln!("all nodes started from their disks: {figures:?}");
    assert!(figures[RUNS / 2] <= STARTED, "{figures:?}");
    Ok(())
}

#[test]
fn who_takes_over_or_gets_it_back_asks_nobody_nor_who_has_what_was_asked_for_by_name()
-> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let prober = segment.probe(&[ADDRESS, NAMED])?;
    segment.peer.assign(NAMED, 2, &NODES);
    segment.wait_owner(&prober, NAMED, "n1")?;
    check_probes(&segment, "n1", "0")?;
    segment.peer.assign_new(ADDRESS, 1, &NODES);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    check_probes(&segment, "n1", "3")?;
    segment.announcer("n1")?.kill()?;
    for address in [ADDRESS, NAMED] {
        segment.wait_owner(&prober, address, "n2")?;
    }
    check_probes(&segment, "n2", "0")?;
    segment.start_announcer("n1")?;
    for address in [ADDRESS, NAMED] {
        segment.wait_owner(&prober, address, "n1")?;
    }
    for node in NODES {
        check_probes(&segment, node, "0")?;
    }
    Ok(())
}

/// Whether the address is on the loopback interface of a node.
fn is_bound(segment: &Segment, node: &str) -> anyhow::Result<bool> {
    let namespace = &segment.lan.host(node)?.namespace;
    let shown = namespace.exec(&["ip", "-o", "addr", "show", "dev", "lo"])?;
    Ok(shown.contains(&format!(" {ADDRESS}/32 ")))
}

#[test]
fn an_address_that_a_stranger_has_is_bound_only_once_it_is_gone() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&[], &["--bind-addresses"])?;
    let node = &segment.lan.host("n1")?.namespace;
    // The kernel leaves the answers to the announcer.
    node.write_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    segment.start_announcers(&["n1"])?;
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "addr", what, "192.168.12.100/32", "dev", "eth0"]);
    segment.lan.host("n3")?.namespace.exec(&add)?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign_new(ADDRESS, 1, &["n1"]);
    wait::until("the conflict", SOON, || {
        let (_, text) = segment.admin("n1", "/metrics").ok()?;
        text.contains("pharos_announcer_conflicts{").then_some(())
    })?;
    // It is this node's, for longer than three probes take.
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "1")?;
    let seen = prober.now();
    wait::until("a second in which it is not bound", SOON, || {
        assert!(!is_bound(&segment, "n1").ok()?, "bound");
        (prober.now() > seen + Duration::from_secs(1)).then_some(())
    })?;
    segment.lan.host("n3")?.namespace.exec(&del)?;
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    wait::until("it is bound", SOON, || {
        is_bound(&segment, "n1").ok()?.then_some(())
    })
}
