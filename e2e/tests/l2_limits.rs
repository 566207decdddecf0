//! An announcer that runs for long, and one whose limits were set too tight.
//!
//! Topology: `e2e::segment` with one node.
//!
//! 1. Addresses that come and go leave no series behind.
//! 2. When the kernel refuses to wait for frames, it says so once and goes on answering.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::{run, skip, wait};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const PASSING: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);

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
