//! Who answers for an address, while nodes come, go, die and lose each other.
//!
//! Topology: `e2e::segment`. A client asks every 10 ms and sees every answer.
//!
//! 1. Exactly one node answers each address, the first of its list; `arping` agrees.
//! 2. A killed owner (-9) is replaced within half a second.
//! 3. A stopped owner (SIGTERM) hands over: no answer is lost, and no two nodes answer.
//! 4. A node that comes back takes its address back after its hold-down, without a lost answer.
//! 5. An owner cut off from the others is replaced within a second; when the cut heals one is left.
//! 6. A new list moves an address without a lost answer; a removed one falls silent.
//! 7. An owner whose cable is pulled is replaced, and announces itself when it is back.
//! 8. An address that changes its election group is answered all the time.
//! 9. An owner that was suspended answers nothing of what was asked meanwhile, and one is left.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use nix::sys::signal::Signal;
use pharos_testbed::record::Answer;
use pharos_testbed::{skip, wait};

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn exactly_one_node_answers_each_address() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&NODES, &[])?;
    let prober = segment.probe(&[FIRST, SECOND])?;
    segment.peer.assign(FIRST, 1, &["n2", "n1", "n3"]);
    segment.peer.assign(SECOND, 2, &["n3", "n1", "n2"]);
    let first = segment.wait_owner(&prober, FIRST, "n2")?;
    let second = segment.wait_owner(&prober, SECOND, "n3")?;
    let since = first.max(second);
    wait::until("a second of answers", SOON, || {
        (prober.now() > since + Duration::from_secs(1)).then_some(())
    })?;
    let record = prober.record();
    for (address, node) in [(FIRST, "n2"), (SECOND, "n3")] {
        let answerers = record.answerers(address, Duration::ZERO, prober.now());
        let expected = [segment.lan.host(node)?.mac];
        assert!(answerers.iter().eq(&expected), "{address}: {answerers:?}");
    }
    let announced = "metallb_speaker_announced{service=\"default/web-1\",protocol=\"layer2\",\
                     node=\"n2\",ip=\"192.168.12.100\"}";
    segment.wait_metric("n2", announced, "1")?;
    assert_eq!(segment.admin("n2", "/readyz")?.0, 200);
    if skip::has_programs(&["arping"]) {
        // It would count the answers that the prober gets, and the other way round.
        drop(prober);
        let client = segment.lan.host("client")?;
        let arping = ["arping", "-c", "3", "-i", "eth0", "192.168.12.100"];
        let said = client.namespace.exec(&arping)?;
        let mac = segment.lan.host("n2")?.mac.to_string();
        let counted = "3 packets transmitted, 3 packets received";
        assert!(said.contains(&mac) && said.contains(counted), "{said}");
    }
    Ok(())
}

#[test]
fn a_killed_owner_is_replaced_within_half_a_second() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    let mut figures = Vec::new();
    for _ in 0..4 {
        let owner = segment.lan.host("n1")?.mac;
        segment.wait_owner(&prober, FIRST, "n1")?;
        segment.announcer("n1")?.kill()?;
        let killed = prober.now();
        let answer = prober.wait_answer(FIRST, killed, Some(owner), SOON)?;
        assert_eq!(answer.mac, segment.lan.host("n2")?.mac);
        figures.push(answer.at - killed);
        segment.start_announcer("n1")?;
    }
    eprintln!("failover after kill -9: {figures:?}");
    figures.sort();
    let typical = figures[figures.len() / 2];
    assert!(typical <= Duration::from_millis(500), "{figures:?}");
    Ok(())
}

#[test]
fn a_stopped_owner_hands_over_and_takes_back_after_its_hold_down() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "2"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    let before = prober.now();
    let stopped = prober.now();
    let status = segment.announcer("n1")?.terminate(SOON)?;
    let took = prober.now() - stopped;
    assert!(status.success(), "{status}");
    segment.wait_owner(&prober, FIRST, "n2")?;
    eprintln!("SIGTERM to exit: {took:?}");
    segment.check_moves(&prober, FIRST, before)?;

    segment.start_announcer("n1")?;
    let back = prober.now();
    let again = segment.wait_owner(&prober, FIRST, "n1")?;
    assert!(
        again - back >= Duration::from_secs(2),
        "no hold-down: {:?}",
        again - back
    );
    segment.check_moves(&prober, FIRST, before)
}

#[test]
fn a_cut_owner_is_replaced_and_one_is_left_when_the_cut_heals() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["nft"]) {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    let owner = segment.lan.host("n1")?.mac;
    segment.lan.isolate("n1")?;
    let cut = prober.now();
    let answer = prober.wait_answer(FIRST, cut, Some(owner), SOON)?;
    eprintln!("failover after a cut: {:?}", answer.at - cut);
    assert!(
        answer.at - cut <= Duration::from_secs(1),
        "{:?}",
        answer.at - cut
    );
    // Both sides answer now, each on its own side.
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "1")?;
    segment.lan.heal()?;
    let healed = prober.now();
    segment.wait_owner(&prober, FIRST, "n1")?;
    wait::until("two seconds of answers", SOON, || {
        (prober.now() > healed + Duration::from_secs(4)).then_some(())
    })?;
    // Both answer in turn, then only the one with the stronger claim, which then hands over: the
    // last change but one is the end of two owners.
    let record = prober.record();
    let since: Vec<&Answer> = record
        .of(FIRST)
        .filter(|answer| answer.at > healed)
        .collect();
    let changes = since.windows(2).filter(|pair| pair[0].mac != pair[1].mac);
    let mut changes: Vec<Duration> = changes.map(|pair| pair[1].at - healed).collect();
    let handed_over = changes.pop();
    let alone = changes.pop().unwrap_or_default();
    eprintln!("one owner {alone:?} after the heal; handed over: {handed_over:?}");
    assert!(alone <= Duration::from_secs(1), "{alone:?}");
    Ok(())
}

#[test]
fn a_new_list_moves_an_address_and_a_removed_one_falls_silent() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&NODES, &["--hold-down", "0"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    let before = prober.now();
    segment.peer.assign(FIRST, 1, &["n3", "n2"]);
    segment.wait_owner(&prober, FIRST, "n3")?;
    segment.peer.assign(FIRST, 1, &["n2", "n3", "n1"]);
    segment.wait_owner(&prober, FIRST, "n2")?;
    segment.check_moves(&prober, FIRST, before)?;
    segment.peer.unassign(FIRST);
    for node in NODES {
        segment.peer.wait_applied(node)?;
        segment.wait_metric(node, "pharos_announcer_owned_groups", "0")?;
    }
    let silent = prober.now();
    wait::until("half a second without answers", SOON, || {
        (prober.now() > silent + Duration::from_millis(500)).then_some(())
    })?;
    let late = prober.record().answerers(FIRST, silent, prober.now());
    assert!(late.is_empty(), "{late:?}");
    Ok(())
}

#[test]
fn an_owner_whose_cable_is_pulled_is_replaced_and_comes_back() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    segment.lan.unplug("n1")?;
    let pulled = prober.now();
    let taken = segment.wait_owner(&prober, FIRST, "n2")?;
    eprintln!("failover after a pulled cable: {:?}", taken - pulled);
    assert!(
        taken - pulled <= Duration::from_secs(1),
        "{:?}",
        taken - pulled
    );
    assert_eq!(segment.admin("n1", "/readyz")?.0, 503);
    segment.lan.plug("n1")?;
    let plugged = prober.now();
    segment.wait_owner(&prober, FIRST, "n1")?;
    let mac = segment.lan.host("n1")?.mac;
    wait::until("gratuitous frames after the cable is back", SOON, || {
        let frames = prober.frames();
        let mut since = frames.iter().filter(|frame| frame.at > plugged);
        since
            .any(|frame| frame.is_gratuitous() && frame.sender_mac == mac)
            .then_some(())
    })?;
    Ok(())
}

#[test]
fn an_address_that_joins_and_leaves_groups_of_its_owner_is_answered_all_the_time()
-> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&NODES, &["--hold-down", "0"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(SECOND, 5, &NODES);
    segment.peer.assign(FIRST, 7, &NODES);
    segment.wait_owner(&prober, FIRST, "n1")?;
    let before = prober.now();
    // It joins a group and parts from it, and its own gets a higher and a lower number.
    for group in [5, 9, 3, 5, 7] {
        segment.peer.assign(FIRST, group, &NODES);
        segment.peer.wait_applied("n1")?;
        prober.wait_answer(FIRST, prober.now(), None, SOON)?;
    }
    let announced = "metallb_speaker_announced{service=\"default/web-7\",protocol=\"layer2\",\
                     node=\"n1\",ip=\"192.168.12.100\"}";
    segment.wait_metric("n1", announced, "1")?;
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "2")?;
    segment.check_moves(&prober, FIRST, before)
}

#[test]
fn an_address_whose_group_is_renumbered_moves_without_a_lost_answer() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&NODES, &["--hold-down", "0"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 7, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    let before = prober.now();
    for (group, nodes) in [(5, ["n2", "n3", "n1"]), (9, ["n3", "n1", "n2"])] {
        segment.peer.assign(FIRST, group, &nodes);
        segment.wait_owner(&prober, FIRST, nodes[0])?;
        for node in NODES {
            segment.peer.wait_applied(node)?;
        }
    }
    segment.check_moves(&prober, FIRST, before)
}

#[test]
fn a_suspended_owner_answers_nothing_of_what_was_asked_meanwhile() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    segment.announcer("n1")?.signal(Signal::SIGSTOP)?;
    segment.wait_owner(&prober, FIRST, "n2")?;
    let taken = prober.now();
    wait::until("three seconds in which n2 answers", SOON, || {
        (prober.now() > taken + Duration::from_secs(3)).then_some(())
    })?;
    let resumed = prober.now();
    segment.announcer("n1")?.signal(Signal::SIGCONT)?;
    segment.wait_owner(&prober, FIRST, "n1")?;
    let record = prober.record();
    let since: Vec<&Answer> = record
        .of(FIRST)
        .filter(|answer| answer.at >= resumed)
        .collect();
    let mac = segment.lan.host("n1")?.mac;
    let last_of_n2 = since.iter().rposition(|answer| answer.mac != mac);
    let while_n2_owned = &since[..last_of_n2.unwrap_or_default()];
    let early = while_n2_owned
        .iter()
        .filter(|answer| answer.mac == mac)
        .count();
    eprintln!("{early} answers of n1 before n2 stopped");
    assert!(early <= 5, "{early} answers");
    Ok(())
}
