//! IPv6 on the wire: what an announcer answers, to whom, and what it does not answer.
//!
//! Topology: `e2e::segment`; every host has a link-local address, the client also one of fd12::/64.
//!
//! 1. Solicitations are answered with the right fields, each once; a new owner advertises the address
//!    three times, and its group is reported to the switches.
//! 2. Linux (the client's kernel) and ndisc6 find the address.
//! 3. A kernel that wants the address for itself learns that it is taken.
//! 4. Whoever asks in another way that is right is answered: without its link-layer address, by
//!    unicast, from nowhere.
//! 5. Frames that are no proper solicitations get no answer.
//! 6. Without a link-local address IPv6 is not answered, which /readyz tells; with one it is again.
//! 7. Thousands of addresses are in their groups, and leave them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::ndp::{self, Frame, Prober, solicited_node, with_checksum};
use pharos_testbed::record::Recorder as _;
use pharos_testbed::{Host, skip, wait};
use pnet_base::MacAddr;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0x12, 0x3456);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Asks instead of the client, so that its answers can be told apart.
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x77);
const STRANGER_IP: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x77);

fn wait_answered(segment: &Segment, prober: &Prober) -> anyhow::Result<()> {
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.wait_owner(prober, ADDRESS, "n1")?;
    Ok(())
}

/// What was advertised of the address so far; kernels have addresses of their own.
fn of_address(prober: &Prober) -> Vec<Frame> {
    let mut frames = prober.frames();
    frames.retain(|frame| frame.advertisement && frame.target == ADDRESS);
    frames
}

/// The client's kernel gets an address in the network of the announced one.
fn with_address(host: &Host) -> anyhow::Result<()> {
    let add = ["ip", "-6", "addr", "add", "fd12::200/64", "dev", "eth0"];
    host.namespace.exec(&add)?;
    Ok(())
}

/// A segment on which n1 answers; `None`, after a loud line, where that cannot run.
fn answered() -> anyhow::Result<Option<(Segment, Prober)>> {
    if !skip::can_use_namespaces() {
        return Ok(None);
    }
    let segment = Segment::start(&["n1"], &[])?;
    let prober = Prober::start(segment.lan.host("client")?, &[ADDRESS])?;
    wait_answered(&segment, &prober)?;
    Ok(Some((segment, prober)))
}

#[test]
fn every_solicitation_is_answered_once_and_a_new_owner_advertises_itself() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = Prober::start(segment.lan.host("client")?, &[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    let since = segment.wait_owner(&prober, ADDRESS, "n1")?;
    let mac = segment.lan.host("n1")?.mac;
    let unsolicited = || -> Vec<Frame> {
        let frames = of_address(&prober).into_iter();
        frames.filter(|frame| frame.to == ALL_NODES).collect()
    };
    let rounds = wait::until("three rounds of advertisements", SOON, || {
        Some(unsolicited()).filter(|frames| frames.len() >= 3)
    })?;
    segment.check_moves(&prober, ADDRESS, since)?;
    for frame in &rounds {
        assert_eq!(frame.flags, 0x20, "override only: {frame:?}");
        assert_eq!(
            frame.destination,
            MacAddr(0x33, 0x33, 0, 0, 0, 1),
            "{frame:?}"
        );
    }
    for pair in rounds.windows(2) {
        let apart = pair[1].at - pair[0].at;
        let expected = Duration::from_millis(1000)..Duration::from_millis(1600);
        assert!(expected.contains(&apart), "rounds are {apart:?} apart");
    }
    let all = of_address(&prober);
    let answers = all
        .iter()
        .filter(|frame| frame.advertisement && frame.to != ALL_NODES);
    for frame in answers.clone() {
        assert_eq!(frame.flags, 0x60, "solicited and override: {frame:?}");
    }
    assert!(answers.count() > 100);
    for frame in all.iter().filter(|frame| frame.advertisement) {
        assert_eq!(
            (frame.source, frame.link_layer),
            (mac, Some(mac)),
            "{frame:?}"
        );
        assert_eq!((frame.target, frame.hop_limit), (ADDRESS, 255), "{frame:?}");
        assert!(frame.is_valid && frame.from == ADDRESS, "{frame:?}");
    }
    assert!(prober.joined(mac).contains(&solicited_node(ADDRESS)));
    let text = segment.admin("n1", "/metrics")?.1;
    for name in ["requests_received", "responses_sent", "gratuitous_sent"] {
        let series = format!("metallb_layer2_{name}{{ip=\"{ADDRESS}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        assert!(value.is_some_and(|value| value != "0"), "{series}{value:?}");
    }
    Ok(())
}

/// Makes a kernel ask for an address: it has something to send there.
fn touch(host: &Host, address: Ipv6Addr) -> anyhow::Result<()> {
    host.namespace.run(|| -> anyhow::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        socket.send_to(b"hello", SocketAddr::from((address, 9)))?;
        Ok(())
    })?
}

#[test]
fn linux_and_ndisc6_find_the_address() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let client = segment.lan.host("client")?;
    with_address(client)?;
    let prober = Prober::start(client, &[ADDRESS])?;
    wait_answered(&segment, &prober)?;
    drop(prober);
    let mac = segment.lan.host("n1")?.mac.to_string();
    touch(client, ADDRESS)?;
    let text = ADDRESS.to_string();
    let show = ["ip", "-6", "neigh", "show", &text, "dev", "eth0"];
    let known = format!("lladdr {mac} REACHABLE");
    wait::until("the kernel knows the address", SOON, || {
        let said = client.namespace.exec(&show).ok()?;
        said.contains(&known).then_some(())
    })?;
    if skip::has_programs(&["ndisc6"]) {
        let said = client
            .namespace
            .exec(&["ndisc6", "-1", "-n", &text, "eth0"])?;
        assert!(said.to_lowercase().contains(&mac), "{said}");
    }
    Ok(())
}

#[test]
fn a_kernel_that_wants_the_address_learns_that_it_is_taken() -> anyhow::Result<()> {
    let Some((segment, _prober)) = answered()? else {
        return Ok(());
    };
    let other = segment.lan.host("n3")?;
    other
        .namespace
        .write_sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
    let wanted = format!("{ADDRESS}/64");
    other
        .namespace
        .exec(&["ip", "-6", "addr", "add", &wanted, "dev", "eth0"])?;
    wait::until("the address is found to be a duplicate", SOON, || {
        let said = other
            .namespace
            .exec(&["ip", "-6", "addr", "show", "dev", "eth0"])
            .ok()?;
        said.contains("dadfailed").then_some(())
    })
}

/// What the stranger was told so far, in frames to it alone or to everybody.
fn told(prober: &Prober, since: Duration) -> Vec<Frame> {
    let frames = prober.frames().into_iter();
    let of_interest = frames.filter(|frame| {
        frame.advertisement
            && frame.at > since
            && (frame.destination == STRANGER || frame.to == ALL_NODES)
    });
    of_interest.collect()
}

#[test]
fn whoever_asks_rightly_is_answered() -> anyhow::Result<()> {
    let Some((segment, prober)) = answered()? else {
        return Ok(());
    };
    let node = segment.lan.host("n1")?.mac;
    let group = solicited_node(ADDRESS);
    let nowhere = Ipv6Addr::UNSPECIFIED;
    let usual = ndp::solicitation(STRANGER, STRANGER_IP, ADDRESS);
    let bare = ndp::message(STRANGER, (STRANGER_IP, group), (135, 0), ADDRESS, &[]);
    let nonce = ndp::message(
        STRANGER,
        (STRANGER_IP, group),
        (135, 0),
        ADDRESS,
        &[14, 1, 1, 2, 3, 4, 5, 6],
    );
    // A neighbour that checks whether its entry still holds.
    let mut unicast = usual.clone();
    unicast[..6].copy_from_slice(&node.octets());
    unicast[38..54].copy_from_slice(&ADDRESS.octets());
    for (what, frame) in [
        ("usual", usual),
        ("bare", bare),
        ("nonce", nonce),
        ("unicast", with_checksum(unicast)),
    ] {
        let before = prober.now();
        prober.send(&frame)?;
        let answer = wait::until(what, SOON, || {
            let mut told = told(&prober, before).into_iter();
            told.find(|frame| frame.destination == STRANGER)
        })?;
        assert_eq!(
            (answer.to, answer.flags),
            (STRANGER_IP, 0x60),
            "{what}: {answer:?}"
        );
    }
    // Behind the rounds of the take-over an advertisement to everybody has this one reason.
    let since = prober.now();
    let quiet = Duration::from_millis(1500);
    wait::until("the rounds of the take-over are over", SOON, || {
        let frames = of_address(&prober);
        let last = frames.iter().rfind(|frame| frame.to == ALL_NODES);
        let last = last.map_or(since, |frame| frame.at);
        (prober.now() > last + quiet).then_some(())
    })?;
    let before = prober.now();
    prober.send(&ndp::solicitation(STRANGER, nowhere, ADDRESS))?;
    let defence = wait::until("the defence", SOON, || {
        told(&prober, before).into_iter().next()
    })?;
    assert_eq!(
        (defence.to, defence.flags),
        (ALL_NODES, 0x20),
        "{defence:?}"
    );
    Ok(())
}

/// Each changes a proper solicitation into one that must not be answered.
fn spoiled(node: MacAddr) -> Vec<(&'static str, Vec<u8>)> {
    let usual = ndp::solicitation(STRANGER, STRANGER_IP, ADDRESS);
    let group = solicited_node(ADDRESS);
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = usual.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        with_checksum(frame)
    };
    let of = |from: Ipv6Addr, options: &[u8]| {
        ndp::message(STRANGER, (from, group), (135, 0), ADDRESS, options)
    };
    let mut wrong_sum = usual.clone();
    wrong_sum[57] ^= 1;
    let mut tagged = usual.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut extended = usual.clone();
    extended[20] = 60;
    extended.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    extended[19] += 8;
    let own_option = [&[1, 1], node.octets().as_slice()].concat();
    let source = [&[1, 1], STRANGER.octets().as_slice()].concat();
    let nowhere = Ipv6Addr::UNSPECIFIED;
    vec![
        ("hop limit", with(21, &[254])),
        ("checksum", wrong_sum),
        ("code", with(55, &[1])),
        ("an advertisement", with(54, &[136])),
        ("version", with(14, &[0x40])),
        ("cut short", usual[..70].to_vec()),
        ("a length without the target", with(18, &[0, 23])),
        ("an option without length", with(79, &[0])),
        ("an option that does not fit", with(79, &[2])),
        ("half an option", with(18, &[0, 30])),
        ("a group as target", with(62, &group.octets())),
        ("a group as sender", with(22, &ALL_NODES.octets())),
        (
            "an address that is not ours",
            with(62, &STRANGER_IP.octets()),
        ),
        ("from nowhere with an option", of(nowhere, &source)),
        ("our own MAC in the option", of(STRANGER_IP, &own_option)),
        ("our own address as sender", of(ADDRESS, &source)),
        (
            "another node's MAC as destination",
            with(0, &[2, 0, 0, 0, 0, 0x55]),
        ),
        ("an extension header", with_checksum(extended)),
        ("a VLAN tag", tagged),
    ]
}

#[test]
fn what_is_no_proper_solicitation_is_not_answered() -> anyhow::Result<()> {
    let Some((segment, prober)) = answered()? else {
        return Ok(());
    };
    let node = segment.lan.host("n1")?.mac;
    // Behind an answer everything that was sent before the question has been seen.
    let seen = |what: &str, ago: u64| -> anyhow::Result<()> {
        let since = prober.now() + Duration::from_millis(ago);
        prober.wait_for_answer(what, SOON, |answer| answer.at > since)?;
        Ok(())
    };
    let to_stranger = || {
        let frames = prober.frames();
        frames
            .iter()
            .filter(|frame| frame.destination == STRANGER)
            .count()
    };
    for (what, frame) in spoiled(node) {
        prober.send(&frame)?;
        seen(what, 20)?;
        assert_eq!(to_stranger(), 0, "answered: {what}");
    }
    let mut chance = StdRng::seed_from_u64(7);
    let usual = ndp::solicitation(STRANGER, STRANGER_IP, ADDRESS);
    for _ in 0..20_000 {
        let mut frame = usual.clone();
        for _ in 0..chance.random_range(1..8) {
            // What lies before is not covered by the checksum, and may be anything.
            let at = chance.random_range(18..frame.len());
            frame[at] = chance.random();
        }
        if frame == usual {
            continue;
        }
        // A full queue loses one, as any wire may.
        let _ = prober.send(&frame);
    }
    seen("an answer after the garbage", 50)?;
    assert_eq!(to_stranger(), 0, "answered garbage");
    prober.send(&usual)?;
    wait::until("the answer to a proper solicitation", SOON, || {
        (to_stranger() == 1).then_some(())
    })?;
    let text = segment.admin("n1", "/metrics")?.1;
    for reason in [
        "checksum",
        "code",
        "option",
        "source",
        "unspecified",
        "own_frame",
        "conflict",
    ] {
        let series = format!("pharos_announcer_ndp_ignored_total{{reason=\"{reason}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        assert!(value.is_some_and(|value| value != "0"), "{series}{value:?}");
    }
    Ok(())
}

#[test]
fn without_a_link_local_address_ipv6_is_silent_until_there_is_one() -> anyhow::Result<()> {
    let Some((segment, prober)) = answered()? else {
        return Ok(());
    };
    let node = &segment.lan.host("n1")?.namespace;
    node.exec(&["ip", "-6", "addr", "flush", "dev", "eth0", "scope", "link"])?;
    let note = "IPv6 addresses are not answered on eth0: no link-local address";
    wait::until("/readyz tells", SOON, || {
        let (code, text) = segment.admin("n1", "/readyz").ok()?;
        (code == 200 && text.contains(note)).then_some(())
    })?;
    let silent = prober.now();
    wait::until("a tenth of a second of questions", SOON, || {
        (prober.now() > silent + Duration::from_millis(100)).then_some(())
    })?;
    let record = prober.record();
    let answered = record.of(ADDRESS).any(|answer| answer.at > silent);
    assert!(!answered, "not silent");
    node.exec(&[
        "ip",
        "-6",
        "addr",
        "add",
        "fe80::77/64",
        "dev",
        "eth0",
        "nodad",
    ])?;
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    wait::until("/readyz tells nothing any more", SOON, || {
        let (_, text) = segment.admin("n1", "/readyz").ok()?;
        (!text.contains("IPv6")).then_some(())
    })
}

#[test]
fn thousands_of_addresses_are_in_their_groups_and_leave_them() -> anyhow::Result<()> {
    const ADDRESSES: u16 = 4096;
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let address = |number: u16| Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 1, number);
    let last = address(ADDRESSES - 1);
    let prober = Prober::start(segment.lan.host("client")?, &[last])?;
    let numbers = 0..ADDRESSES;
    let all: Vec<_> = numbers
        .map(|number| (address(number), 10 + u64::from(number)))
        .collect();
    segment.peer.assign_all(&all, &["n1"], &[]);
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "4096")?;
    segment.wait_owner(&prober, IpAddr::V6(last), "n1")?;
    let node = &segment.lan.host("n1")?.namespace;
    let groups = || -> anyhow::Result<usize> {
        let said = node.exec(&["cat", "/proc/net/igmp6"])?;
        let ours =
            |line: &&str| line.contains(" eth0 ") && line.contains("ff0200000000000000000001ff01");
        Ok(said.lines().filter(ours).count())
    };
    wait::until("every group is joined", SOON, || {
        (groups().ok()? == usize::from(ADDRESSES)).then_some(())
    })?;
    for number in 0..ADDRESSES {
        segment.peer.unassign(address(number));
    }
    wait::until("every group is left", SOON, || {
        (groups().ok()? == 0).then_some(())
    })
}
