//! Announcers that find and trust one another, and those that do not.
//!
//! Topology: `e2e::segment`.
//!
//! 1. With a key file they talk sealed: nothing readable is on the wire, and a failover works.
//! 2. One with another key is not heard: it counts as dead, and the metric shows what was refused.
//! 3. A mistake in a flag is one line on stderr and exit code 2.
//! 4. A busy port stops nothing: addresses are answered, and /readyz says what is wrong.
//! 5. Hundreds of addresses are handed over at once without a lost answer.
//! 6. Two announcers under one name both say so, without flooding the log.
//! 7. Sealed datagrams that were recorded and are sent again are refused.
//! 8. Two that cannot hear each other know by the third what each of them owns.

use std::io::Read as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use e2e::segment::{SOON, Segment};
use pharos_testbed::{Launch, skip, wait};

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const KEYS: [&str; 2] = [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "//////////////////////////////////////////8=",
];

#[test]
fn with_keys_the_members_talk_sealed_and_a_stranger_is_not_heard() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let file = |name: &str, keys: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, keys.join("\n"))?;
        anyhow::Ok(path.display().to_string())
    };
    let good = file("good", &KEYS)?;
    let other = file("other", &[KEYS[1], KEYS[0]])?;
    let bad = file("bad", &["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="])?;
    let mut segment = Segment::start(&["n1", "n2"], &["--members-key-file", &good])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, FIRST, "n1")?;

    // Rotation: one that encrypts with the second key is understood all the same.
    segment.announcer("n2")?.terminate(SOON)?;
    segment.set_flags(&["--members-key-file", &other]);
    segment.start_announcer("n2")?;
    segment.wait_metric("n2", "pharos_announcer_members_alive", "1")?;
    segment.wait_metric("n1", "pharos_announcer_members_alive", "1")?;
    segment.announcer("n1")?.kill()?;
    segment.wait_owner(&prober, FIRST, "n2")?;

    segment.set_flags(&["--members-key-file", &bad]);
    segment.start_announcer("n1")?;
    wait::until("n2 refuses what n1 says", SOON, || {
        (rejected(&segment, "n2").ok()? > 0).then_some(())
    })?;
    segment.wait_metric("n2", "pharos_announcer_members_alive", "0")?;
    wait::until("n1 says that it reaches nobody", SOON, || {
        let (code, reason) = segment.admin("n1", "/readyz").ok()?;
        (code == 503 && reason.contains("members_unreachable")).then_some(())
    })?;
    for (node, unreachable) in [("n1", "1"), ("n2", "0")] {
        segment.wait_metric(node, "pharos_announcer_members_unreachable", unreachable)?;
    }
    Ok(())
}

#[test]
fn a_mistake_in_a_flag_is_one_line_and_exit_code_2() -> anyhow::Result<()> {
    for flag in [
        "--ipam=nonsense",
        "--interface=(",
        "--label=x",
        "--no-such-flag",
    ] {
        let mut program = Launch::workspace("announcer")?
            .args(["--node", "a", flag])
            .start()?;
        let status = program.wait(SOON)?;
        assert_eq!(status.code(), Some(2), "{flag}");
        assert_eq!(program.log().lines().count(), 1, "{}", program.log());
    }
    Ok(())
}

#[test]
fn a_busy_port_stops_no_announcement() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1"], &[])?;
    segment.announcer("n1")?.kill()?;
    let node = segment.lan.host("n1")?;
    let busy = node
        .namespace
        .run(|| std::net::UdpSocket::bind("0.0.0.0:7946"))??;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1"]);
    segment.start_announcer("n1")?;
    segment.wait_owner(&prober, FIRST, "n1")?;
    let (code, reason) = segment.admin("n1", "/readyz")?;
    assert_eq!(code, 503);
    assert!(reason.contains("cannot listen on 0.0.0.0:7946"), "{reason}");
    drop(busy);
    wait::until("it listens after all", SOON, || {
        (segment.admin("n1", "/readyz").ok()?.0 == 200).then_some(())
    })?;
    Ok(())
}

#[test]
fn hundreds_of_addresses_are_handed_over_at_once() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2", "n3"], &[])?;
    let addresses: Vec<Ipv4Addr> = (0..500_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(192, 168, 20 + high, low)
        })
        .collect();
    for (group, address) in (1..).zip(&addresses) {
        segment.peer.assign(*address, group, &["n1", "n2", "n3"]);
    }
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "500")?;
    let rss = segment.announcer("n1")?.resident_bytes()? / 1024;
    eprintln!("resident with 500 addresses: {rss} KiB");
    // Probing all of them would measure the prober: some stand for the rest.
    let sample: Vec<Ipv4Addr> = addresses.iter().step_by(100).copied().collect();
    let prober = segment.probe(&sample)?;
    for address in &sample {
        segment.wait_owner(&prober, *address, "n1")?;
    }
    let stopped = prober.now();
    let status = segment.announcer("n1")?.terminate(SOON)?;
    eprintln!(
        "SIGTERM to exit with 500 addresses: {:?}",
        prober.now() - stopped
    );
    assert!(status.success(), "{status}");
    segment.wait_metric("n2", "pharos_announcer_owned_groups", "500")?;
    for address in &sample {
        segment.check_moves(&prober, *address, stopped)?;
    }
    let killed = prober.now();
    let old = segment.lan.host("n2")?.mac;
    segment.announcer("n2")?.kill()?;
    let mut slowest = Duration::ZERO;
    for address in &sample {
        let answer = prober.wait_answer(*address, killed, Some(old), SOON)?;
        slowest = slowest.max(answer.at - killed);
    }
    eprintln!("failover of 500 addresses after kill -9: {slowest:?}");
    segment.wait_metric("n3", "pharos_announcer_owned_groups", "500")?;
    Ok(())
}

#[test]
fn two_announcers_of_one_name_are_told_loudly() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = segment.probe(&[FIRST])?;
    segment.peer.assign(FIRST, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, FIRST, "n1")?;
    segment.start_announcer_as("n3", "n1")?;
    for node in ["n1", "n3"] {
        segment.wait_metric(node, "pharos_announcer_namesakes", "1")?;
        let (code, reason) = segment.admin(node, "/readyz")?;
        assert_eq!(code, 503);
        assert!(reason.contains("is named \"n1\" too"), "{node}: {reason}");
        let announcer = segment.announcer(node)?;
        announcer.wait_log("another announcer runs under this node's name", SOON)?;
        assert!(announcer.log().contains("\"level\":\"ERROR\""));
    }
    let lines = |segment: &mut Segment| -> anyhow::Result<usize> {
        let mut all = 0;
        for node in NODES {
            all += segment.announcer(node)?.log().lines().count();
        }
        Ok(all)
    };
    let before = lines(&mut segment)?;
    let told = prober.now();
    wait::until("two seconds of it", SOON, || {
        (prober.now() > told + Duration::from_secs(2)).then_some(())
    })?;
    let more = lines(&mut segment)? - before;
    assert!(more < 20, "{more} log lines in two seconds");

    segment.announcer("n3")?.kill()?;
    segment.wait_metric("n1", "pharos_announcer_namesakes", "0")?;
    assert_eq!(segment.admin("n1", "/readyz")?.0, 200);
    segment.wait_owner(&prober, FIRST, "n1")?;
    Ok(())
}

/// How many datagrams a node has refused.
fn rejected(segment: &Segment, node: &str) -> anyhow::Result<u64> {
    let (_, text) = segment.admin(node, "/metrics")?;
    let name = "pharos_announcer_members_rejected_total ";
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.context("no such metric")?.parse()?)
}

#[test]
fn what_was_recorded_is_refused_when_it_is_sent_again() -> anyhow::Result<()> {
    const COUNT: usize = 30;
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), KEYS[0])?;
    let flag = keys.path().display().to_string();
    let segment = Segment::start(&["n1", "n2"], &["--members-key-file", &flag])?;
    let recorder = segment.lan.host("n1")?.namespace.run(record_ip)??;
    let mut recorded = Vec::new();
    let mut buffer = [0; 2048];
    while recorded.len() < COUNT {
        let length = match (&recorder).read(&mut buffer) {
            // A debugger, or whoever stops and continues this process.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        // Ethernet, IPv4 without options, UDP.
        let headers = 14 + 20 + 8;
        if length > headers && buffer[23] == 17 && buffer[36..38] == 7946_u16.to_be_bytes() {
            recorded.push(buffer[headers..length].to_vec());
        }
    }
    assert_eq!(rejected(&segment, "n1")?, 0);
    let client = segment.lan.host("client")?;
    let sender = client.namespace.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    for datagram in &recorded {
        sender.send_to(datagram, "192.168.12.11:7946")?;
    }
    wait::until("all of them were refused", SOON, || {
        (rejected(&segment, "n1").ok()? >= COUNT as u64).then_some(())
    })?;
    assert_eq!(rejected(&segment, "n1")?, COUNT as u64);
    segment.wait_metric("n1", "pharos_announcer_members_alive", "1")
}

/// A socket that gets every IPv4 frame that arrives.
fn record_ip() -> anyhow::Result<socket2::Socket> {
    use socket2::{Domain, Protocol, Socket, Type};
    const IPV4: u16 = 0x0800;
    let protocol = Protocol::from(i32::from(IPV4.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(SOON))?;
    Ok(socket)
}

#[test]
fn two_that_cannot_hear_each_other_do_not_both_answer() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let prober = segment.probe(&[FIRST])?;
    for node in NODES {
        segment.wait_metric(node, "pharos_announcer_members_alive", "2")?;
    }
    segment.lan.cut("n1", "n2")?;
    segment.peer.assign(FIRST, 1, &["n1", "n2", "n3"]);
    let owned = segment.wait_owner(&prober, FIRST, "n1")?;
    let n1 = segment.lan.host("n1")?.mac;
    let only_n1_since = |since: Duration| -> anyhow::Result<()> {
        // By then n2 would have had its turn, if it believed that nobody answers.
        wait::until("three seconds of answers", SOON, || {
            (prober.now() > since + Duration::from_secs(3)).then_some(())
        })?;
        let answerers = prober.record().answerers(FIRST, since, prober.now());
        assert!(answerers.iter().eq(&[n1]), "{answerers:?}");
        Ok(())
    };
    only_n1_since(owned)?;
    for node in NODES {
        segment.wait_metric(node, "pharos_announcer_members_alive", "2")?;
    }
    // One that comes back knows nothing, and asks n1 in vain.
    segment.announcer("n2")?.kill()?;
    segment.start_announcer("n2")?;
    segment.wait_metric("n2", "pharos_announcer_members_alive", "2")?;
    only_n1_since(prober.now())
}
