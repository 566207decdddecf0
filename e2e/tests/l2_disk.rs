//! Announcers without ipam-service: what was assigned stays announced.
//!
//! Topology: `e2e::segment`.
//!
//! 1. When the server goes away every address is still answered; when it comes back only what
//!    changed is sent.
//! 2. An announcer that starts without it answers from its disk within half a second.
//! 3. A corrupt file on the disk is noticed and ignored.
//! 4. A server that does not know everything yet removes nothing.
//! 5. After a reboot it waits for the server, or for a while, before it answers from its disk.
//! 6. A disk that cannot be written to is told once, and stops nothing.
//! 7. After that while it takes nothing from a node that answers, until the server confirms it.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::{skip, wait};

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);

#[test]
fn losing_the_server_withdraws_nothing() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &["--hold-down", "0"])?;
    let prober = segment.probe(&[FIRST, SECOND])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    let before = prober.now();
    segment.peer.stop();
    segment.wait_metric("n1", "pharos_announcer_stream_connected", "0")?;
    let lost = prober.now();
    wait::until("a second without the server", SOON, || {
        (prober.now() > lost + Duration::from_secs(1)).then_some(())
    })?;
    assert_eq!(segment.admin("n1", "/readyz")?.0, 200, "it does its job");
    // A change while it is away reaches the announcers when it is back. It is for one of them:
    // which of two hears of it first is chance.
    segment.peer.assign(SECOND, 2, &["n2"]);
    segment.peer.start_again(segment.lan.host("ipam")?)?;
    segment.wait_owner(&prober, SECOND, "n2")?;
    segment.check_moves(&prober, FIRST, before)?;
    let digests = segment
        .peer
        .hellos()
        .iter()
        .map(|hello| hello.digests.len())
        .max();
    assert_eq!(digests, Some(2048), "the second stream begins with digests");

    segment.peer.stop();
    segment.peer.forget();
    segment.peer.start_again(segment.lan.host("ipam")?)?;
    segment.wait_metric("n1", "pharos_announcer_stream_connected", "1")?;
    segment.wait_metric("n2", "pharos_announcer_stream_connected", "1")?;
    let again = prober.now();
    for address in [FIRST, SECOND] {
        prober.wait_answer(address, again + Duration::from_millis(300), None, SOON)?;
    }
    Ok(())
}

#[test]
fn an_announcer_that_starts_without_the_server_answers_from_its_disk() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    segment.wait_on_disk("n1", FIRST)?;
    segment.peer.stop();
    segment.announcer("n1")?.kill()?;
    let started = prober.now();
    segment.start_announcer("n1")?;
    let answer = prober.wait_answer(FIRST, started, None, SOON)?;
    eprintln!(
        "start to first answer from the disk: {:?}",
        answer.at - started
    );
    let limit = Duration::from_millis(500);
    assert!(answer.at - started <= limit, "{:?}", answer.at - started);

    segment.announcer("n1")?.kill()?;
    let file = segment.state_directory("n1")?.join("assignments.bin");
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&file, &bytes)?;
    segment.start_announcer("n1")?;
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("ignoring the assignments on the disk", SOON)?;
    announcer.wait_log("not following ipam-service", SOON)?;
    let silent = prober.now();
    wait::until("half a second", SOON, || {
        (prober.now() > silent + Duration::from_millis(500)).then_some(())
    })?;
    let answerers = prober.record().answerers(FIRST, silent, prober.now());
    assert!(
        answerers.is_empty(),
        "answers what it cannot know: {answerers:?}"
    );
    let (code, reason) = segment.admin("n1", "/readyz")?;
    assert_eq!(code, 503);
    assert!(reason.contains("ipam-service not reached"), "{reason}");
    segment.peer.start_again(segment.lan.host("ipam")?)?;
    segment.wait_owner(&prober, FIRST, "n1")?;
    Ok(())
}

/// An announcer whose only address is on its disk.
fn with_an_address_on_the_disk(flags: &[&str]) -> anyhow::Result<Segment> {
    let segment = Segment::start(&["n1"], flags)?;
    segment.peer.assign(FIRST, 1, &["n1"]);
    segment.wait_on_disk("n1", FIRST)?;
    Ok(segment)
}

#[test]
fn after_a_reboot_the_disk_alone_is_not_enough_for_a_while() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = with_an_address_on_the_disk(&["--announce-after-boot", "2"])?;
    let prober = segment.probe(&[FIRST])?;
    segment.announcer("n1")?.kill()?;
    segment.peer.stop();
    let started = prober.now();
    segment.start_announcer_after_boot("n1")?;
    wait::until("it says what it waits for", SOON, || {
        let (code, reason) = segment.admin("n1", "/readyz").ok()?;
        (code == 503 && reason.contains("kept from before a reboot")).then_some(())
    })?;
    let answer = prober.wait_answer(FIRST, started, None, SOON)?;
    let after = answer.at - started;
    assert!(after >= Duration::from_secs(2), "answered after {after:?}");
    wait::until("it is ready", SOON, || {
        (segment.admin("n1", "/readyz").ok()?.0 == 200).then_some(())
    })?;

    segment.set_flags(&["--announce-after-boot", "3600"]);
    segment.announcer("n1")?.kill()?;
    segment.start_announcer_after_boot("n1")?;
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("starting with the assignments on the disk", SOON)?;
    let started = prober.now();
    segment.peer.start_again(segment.lan.host("ipam")?)?;
    prober.wait_answer(FIRST, started, None, SOON)?;
    Ok(())
}

#[test]
fn a_disk_that_cannot_be_written_to_is_told_once_and_stops_nothing() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = with_an_address_on_the_disk(&[])?;
    let prober = segment.probe(&[SECOND])?;
    // A file cannot be made where a directory is.
    let in_the_way = segment.state_directory("n1")?.join("assignments.bin.tmp");
    std::fs::create_dir(&in_the_way)?;
    for group in 2..8 {
        segment.peer.assign(SECOND, group, &["n1"]);
        segment.peer.wait_applied("n1")?;
        segment.wait_owner(&prober, SECOND, "n1")?;
        let announcer = segment.announcer("n1")?;
        announcer.wait_log("cannot keep the assignments on the disk", SOON)?;
    }
    let log = segment.announcer("n1")?.log();
    let told = log.matches("cannot keep the assignments").count();
    assert_eq!(told, 1, "{log}");
    std::fs::remove_dir(&in_the_way)?;
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("the assignments are on the disk again", SOON)?;
    Ok(())
}

#[test]
fn after_a_reboot_without_the_server_nothing_is_taken_from_a_node_that_answers()
-> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let flags = ["--announce-after-boot", "1", "--hold-down", "0"];
    let mut segment = Segment::start(&["n1", "n2"], &flags)?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    segment.wait_on_disk("n1", FIRST)?;
    segment.announcer("n1")?.kill()?;
    segment.wait_owner(&prober, FIRST, "n2")?;
    segment.peer.stop();
    segment.start_announcer_after_boot("n1")?;
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("acting on what was assigned before the reboot", SOON)?;
    let acts = prober.now();
    wait::until("three more seconds", SOON, || {
        (prober.now() > acts + Duration::from_secs(3)).then_some(())
    })?;
    let answerers = prober.record().answerers(FIRST, acts, prober.now());
    let n2 = segment.lan.host("n2")?.mac;
    assert!(answerers.iter().eq(&[n2]), "{answerers:?}");
    segment.peer.start_again(segment.lan.host("ipam")?)?;
    segment.wait_owner(&prober, FIRST, "n1")?;
    // Where nobody answers it does not wait for the server.
    segment.peer.stop();
    segment.announcer("n1")?.kill()?;
    segment.announcer("n2")?.kill()?;
    let killed = prober.now();
    segment.start_announcer_after_boot("n1")?;
    prober.wait_answer(FIRST, killed, None, SOON)?;
    Ok(())
}
