//! A stream that says much, more than this version understands, or nonsense.
//!
//! Topology: `e2e::segment` with one node.
//!
//! 1. What is no address of a host is ignored with one line in the log each; everything else, also in the
//!    same frame, is announced.
//! 2. While thousands of assignments arrive every request is answered.

use std::net::Ipv4Addr;

use e2e::segment::{SOON, Segment};
use pharos_proto::v1;
use pharos_testbed::skip;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);

fn assignment(address: &str, group: u64) -> v1::Assignment {
    v1::Assignment {
        address_space: "default".to_owned(),
        address: address.to_owned(),
        group,
        nodes: vec!["n1".to_owned()],
        l2: Some(v1::assignment::L2::default()),
        ..v1::Assignment::default()
    }
}

#[test]
fn what_is_of_no_use_is_ignored_with_one_line_and_the_rest_is_announced() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    let odd = ["192.168.12.300", "224.0.0.18", "ff02::1", "ff05::2"];
    for round in 0..5 {
        let group = 10 * (1 + round);
        let mut frame: Vec<v1::Assignment> = (1..)
            .zip(odd)
            .map(|(n, odd)| assignment(odd, group + n))
            .collect();
        frame.insert(2, assignment(&ADDRESS.to_string(), 7));
        segment.peer.say(frame);
    }
    segment.peer.wait_applied("n1")?;
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let hellos = segment.peer.hellos().len();
    assert_eq!(hellos, 1, "the stream went on");
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("ff05::2", SOON)?;
    let log = announcer.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("192.168.12.300"), 1, "{log}");
    assert_eq!(count("224.0.0.18"), 1, "{log}");
    assert_eq!(count("ff02::1"), 1, "{log}");
    assert_eq!(count("ff05::2"), 1, "{log}");
    Ok(())
}

#[test]
fn requests_are_answered_while_thousands_of_assignments_arrive() -> anyhow::Result<()> {
    const FRAMES: u16 = 50;
    const ASSIGNMENTS: u16 = 100;
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let before = prober.now();
    let said = prober.now();
    for frame in 0..FRAMES {
        let numbers = frame * ASSIGNMENTS..(frame + 1) * ASSIGNMENTS;
        let assignments = numbers.map(|number| {
            let [high, low] = number.to_be_bytes();
            let address = Ipv4Addr::new(10, 50, high, low);
            assignment(&address.to_string(), 10 + u64::from(number))
        });
        segment.peer.say(assignments.collect());
    }
    let all = u32::from(FRAMES) * u32::from(ASSIGNMENTS) + 1;
    segment.wait_metric("n1", "pharos_announcer_owned_groups", &all.to_string())?;
    eprintln!("{all} addresses announced within {:?}", prober.now() - said);
    segment.check_moves(&prober, ADDRESS, before)?;
    Ok(())
}
