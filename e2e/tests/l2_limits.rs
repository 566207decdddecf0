//! An announcer that runs for long, and one whose limits were set too tight.
//!
//! Topology: `e2e::segment` with one node.
//!
//! 1. Addresses that come and go leave no series behind.
//! 2. When the kernel refuses to wait for frames, it says so once and goes on answering.
//! 3. Where the kernel opens no socket for neighbour discovery, IPv4 addresses are answered all the same; it
//!    says so, and answers IPv6 when it can.
//!    Where another node can answer IPv6, that one does.
//! 4. Questions for addresses of others do not wake the thread that answers.
//! 5. Who floods it with questions for one address is answered no more than a few hundred times a second; others
//!    lose nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context as _;
use e2e::segment::{SOON, Segment};
use pharos_testbed::record::Recorder as _;
use pharos_testbed::storm::Storm;
use pharos_testbed::{ndp, run, skip, wait};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const PASSING: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x100);
/// Room for the filter of ARP and of one address, not for that of neighbour discovery, in bytes.
const ROOM_FOR_ARP: &str = "600";
const DEFAULT_ROOM: &str = "131072";
/// Questions a second.
const FLOOD: u32 = 5000;
const WINDOW: Duration = Duration::from_millis(500);
/// Questions within that.
const IN_WINDOW: u64 = FLOOD as u64 / 2;
/// How often one neighbour is answered in a second, and at once.
const RATE: f64 = 200.0;
/// How often the prober is.
const PROBES: f64 = 100.0;

#[test]
fn addresses_that_come_and_go_leave_no_series_behind() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS, PASSING])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let series = |address: Ipv4Addr| -> anyhow::Result<usize> {
        let (_, text) = segment.admin("n1", "/metrics")?;
        let label = format!("ip=\"{address}\"");
        Ok(text.lines().filter(|line| line.contains(&label)).count())
    };
    let of_one = series(ADDRESS)?;
    assert!(of_one >= 4, "requests, responses, gratuitous and announced");
    for group in 2..5 {
        segment.peer.assign(PASSING, group, &["n1"]);
        segment.wait_owner(&prober, PASSING, "n1")?;
        assert_eq!(series(PASSING)?, of_one);
        segment.peer.unassign(PASSING);
        segment.peer.wait_applied("n1")?;
        wait::until("its series end", SOON, || {
            (series(PASSING).ok()? == 0).then_some(())
        })?;
    }
    assert_eq!(series(ADDRESS)?, of_one);
    Ok(())
}

#[test]
fn when_the_kernel_refuses_to_wait_it_says_so_once_and_goes_on_answering() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["prlimit"]) {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let pid = segment.announcer("n1")?.pid().to_string();
    let limit = |files: &str| run(&["prlimit", "--pid", &pid, &format!("--nofile={files}")]);
    // poll(2) with more descriptors than a process may have is an error.
    limit("1:")?;
    segment
        .announcer("n1")?
        .wait_log("cannot wait for frames", SOON)?;
    let began = prober.now();
    wait::until("a second of answers", SOON, || {
        let record = prober.record();
        let later = record.of(ADDRESS).filter(|answer| answer.at > began);
        (later.count() > 50 && prober.now() > began + Duration::from_secs(1)).then_some(())
    })?;
    limit("1024:")?;
    segment
        .announcer("n1")?
        .wait_log("the kernel waits for frames again", SOON)?;
    let log = segment.announcer("n1")?.log();
    assert_eq!(log.matches("cannot wait for frames").count(), 1, "{log}");
    Ok(())
}

/// How much memory the kernel gives a socket of a node for its filter and the like.
fn set_room(segment: &Segment, bytes: &str) -> anyhow::Result<()> {
    let namespace = &segment.lan.host("n1")?.namespace;
    let command = format!("echo {bytes} > /proc/sys/net/core/optmem_max");
    namespace.exec(&["sh", "-c", &command])?;
    Ok(())
}

#[test]
fn without_a_socket_for_ndp_ipv4_is_answered_all_the_same() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1"], &[])?;
    if set_room(&segment, ROOM_FOR_ARP).is_err() {
        skip::skip("this kernel has no such limit for one namespace");
        return Ok(());
    }
    let ipv4 = segment.probe(&[ADDRESS])?;
    let ipv6 = ndp::Prober::start(segment.lan.host("client")?, &[IPV6])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.peer.assign(IPV6, 2, &["n1"]);
    segment.announcer("n1")?.terminate(SOON)?;
    // The one before may have answered.
    let restarted = ipv6.now();
    segment.start_announcer("n1")?;
    let began = segment.wait_owner(&ipv4, ADDRESS, "n1")?;
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("cannot answer on an interface", SOON)?;
    let deaf = "pharos_announcer_deaf{interface=\"eth0\",protocol=\"ndp\"}";
    segment.wait_metric("n1", deaf, "1")?;
    let (_, ready) = segment.admin("n1", "/readyz")?;
    assert!(ready.contains("eth0 answers no ndp"), "{ready}");
    let record = ipv6.record();
    assert!(!record.of(IPV6).any(|answer| answer.at > restarted));

    set_room(&segment, DEFAULT_ROOM)?;
    segment.wait_owner(&ipv6, IPV6, "n1")?;
    let (_, text) = segment.admin("n1", "/metrics")?;
    assert!(!text.contains(deaf), "{text}");
    // Nothing of that was a failure of ARP.
    segment.check_moves(&ipv4, ADDRESS, began)?;
    let log = segment.announcer("n1")?.log();
    let told = log.matches("cannot answer on an interface").count();
    assert_eq!(told, 1, "{log}");
    Ok(())
}

#[test]
fn who_cannot_answer_ipv6_leaves_it_to_others_and_keeps_ipv4() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &["--hold-down", "0"])?;
    if set_room(&segment, ROOM_FOR_ARP).is_err() {
        skip::skip("this kernel has no such limit for one namespace");
        return Ok(());
    }
    let ipv4 = segment.probe(&[ADDRESS])?;
    let ipv6 = ndp::Prober::start(segment.lan.host("client")?, &[IPV6])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    segment.peer.assign(IPV6, 2, &["n1", "n2"]);
    segment.wait_owner(&ipv6, IPV6, "n1")?;
    segment.announcer("n1")?.terminate(SOON)?;
    segment.start_announcer("n1")?;
    segment.wait_owner(&ipv4, ADDRESS, "n1")?;
    let began = segment.wait_owner(&ipv6, IPV6, "n2")?;
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "1")?;
    segment.check_moves(&ipv6, IPV6, began)?;
    set_room(&segment, DEFAULT_ROOM)?;
    segment.wait_owner(&ipv6, IPV6, "n1")?;
    segment.check_moves(&ipv6, IPV6, began)
}

/// How often the thread that answers has waited for something.
fn wakeups(pid: u32) -> anyhow::Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        if !status.starts_with("Name:\tneighbours\n") {
            continue;
        }
        let waits = status.lines().filter_map(|line| line.split_once(":\t"));
        let mut waits = waits.filter(|(name, _)| *name == "voluntary_ctxt_switches");
        let (_, waits) = waits.next().context("it has waited")?;
        return Ok(waits.parse()?);
    }
    anyhow::bail!("no such thread")
}

#[test]
fn questions_for_addresses_of_others_wake_nobody() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    let began = segment.wait_owner(&prober, ADDRESS, "n1")?;
    let pid = segment.announcer("n1")?.pid();
    let storm = Storm::start(segment.lan.host("n3")?, PASSING, FLOOD)?;
    wait::until("a window in which it sleeps", SOON, || {
        let (sent, before, since) = (storm.sent(), wakeups(pid).ok()?, wait::now());
        wait::until("the end of a window", SOON, || {
            (since.elapsed() > WINDOW).then_some(())
        })
        .ok()?;
        // The prober alone wakes it 50 times, and each burst of the storm would once in a millisecond.
        let slept = wakeups(pid).ok()? - before < IN_WINDOW / 20;
        (slept && storm.sent() - sent > IN_WINDOW / 2).then_some(())
    })?;
    segment.check_moves(&prober, ADDRESS, began)?;
    // It is heard as soon as it is ours.
    segment.peer.assign(PASSING, 2, &["n1"]);
    let gained = segment.probe(&[PASSING])?;
    segment.wait_owner(&gained, PASSING, "n1")?;
    segment.check_moves(&prober, ADDRESS, began)
}

#[test]
fn who_floods_is_answered_a_few_hundred_times_and_others_lose_nothing() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    let began = segment.wait_owner(&prober, ADDRESS, "n1")?;
    let count = |series: &str| -> anyhow::Result<f64> {
        let (_, text) = segment.admin("n1", "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(value.context("it is counted")?.trim().parse()?)
    };
    let answers = format!("metallb_layer2_responses_sent{{ip=\"{ADDRESS}\"}}");
    let refusals = "pharos_announcer_arp_ignored_total{reason=\"too_often\"}";
    let (answered, since) = (count(&answers)?, wait::now());
    let storm = Storm::start(segment.lan.host("n3")?, ADDRESS, FLOOD)?;
    wait::until(
        "two seconds of questions that are not answered",
        SOON,
        || (count(refusals).ok()? > 2.0 * f64::from(FLOOD)).then_some(()),
    )?;
    let answered = count(&answers)? - answered;
    let seconds = since.elapsed().as_secs_f64();
    drop(storm);
    // Its first burst, and whatever a machine that is busy makes up for.
    let most = RATE + (RATE + PROBES) * seconds + RATE;
    assert!(answered <= most, "{answered} answers in {seconds} s");
    assert!(answered >= RATE + RATE, "{answered} answers in {seconds} s");
    segment.check_moves(&prober, ADDRESS, began)
}
