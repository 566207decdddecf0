//! What an announcer puts on the wire, and what it does not answer.
//!
//! Topology: `e2e::segment` with one node.
//!
//! 1. Gratuitous frames of both forms are sent at once and repeated, with the right fields.
//! 2. Frames that are no proper requests get no answer, and the announcer goes on answering.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::arp::Frame;
use pharos_testbed::{skip, wait};
use pnet_base::MacAddr;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
/// Asks instead of the client, so that its answers can be told apart.
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

#[test]
fn a_new_owner_announces_itself_in_both_forms() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let listener = segment.probe(&[])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    let gratuitous = |reply: bool| -> Vec<Frame> {
        let frames = listener.frames().into_iter();
        frames
            .filter(|frame| frame.is_gratuitous() && frame.reply == reply)
            .collect()
    };
    wait::until("three rounds of gratuitous frames", SOON, || {
        (gratuitous(false).len() >= 3 && gratuitous(true).len() >= 3).then_some(())
    })?;
    let mac = segment.lan.host("n1")?.mac;
    for (reply, target_mac) in [(false, MacAddr::zero()), (true, mac)] {
        let frames = gratuitous(reply);
        for frame in &frames {
            assert_eq!((frame.source, frame.sender_mac), (mac, mac), "{frame:?}");
            assert_eq!(
                (frame.sender, frame.target),
                (ADDRESS, ADDRESS),
                "{frame:?}"
            );
            assert_eq!(frame.target_mac, target_mac, "{frame:?}");
            assert!(frame.destination.is_broadcast(), "{frame:?}");
        }
        for pair in frames.windows(2) {
            let apart = pair[1].at - pair[0].at;
            let expected = Duration::from_millis(1000)..Duration::from_millis(1600);
            assert!(expected.contains(&apart), "rounds are {apart:?} apart");
        }
    }
    Ok(())
}

/// A proper request from the stranger.
fn request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(STRANGER);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(STRANGER);
    frame.extend([192, 168, 12, 77]);
    frame.extend([0; 6]);
    frame.extend(ADDRESS.octets());
    frame.resize(60, 0);
    frame
}

/// Each changes a proper request into one that must not be answered.
fn spoiled(node: MacAddr) -> Vec<(&'static str, Vec<u8>)> {
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = request();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let mut tagged = request();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    vec![
        ("hardware type", with(14, &[0, 6])),
        ("protocol type", with(16, &[0x86, 0xdd])),
        ("hardware length", with(18, &[8])),
        ("protocol length", with(19, &[16])),
        ("operation 0", with(20, &[0, 0])),
        ("a reply", with(20, &[0, 2])),
        ("reverse ARP", with(20, &[0, 3])),
        (
            "another node's MAC as destination",
            with(0, &[2, 0, 0, 0, 0, 0x55]),
        ),
        (
            "a group address as sender",
            with(22, &[1, 0, 0x5e, 0, 0, 1]),
        ),
        ("no sender", with(22, &[0; 6])),
        ("our own MAC as sender", with(22, &node.octets())),
        ("our own address as sender", with(28, &ADDRESS.octets())),
        ("an address that is not ours", with(38, &[192, 168, 12, 99])),
        ("cut short", request()[..30].to_vec()),
        ("a VLAN tag", tagged),
    ]
}

#[test]
fn what_is_no_proper_request_is_not_answered() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let node = segment.lan.host("n1")?.mac;
    let client = segment.lan.host("client")?;
    // The bridge has to know the stranger, or it floods what is sent to it anyway.
    let mut socket = client.namespace.run(|| raw_socket("eth0"))??;

    let to_stranger = |frames: &[Frame]| {
        let mine = frames.iter();
        mine.filter(|frame| frame.destination == MacAddr::from(STRANGER))
            .count()
    };
    for (what, frame) in spoiled(node) {
        socket.write_all(&frame)?;
        // The node reads in order: once it answers the next proper request, it has seen this one.
        let before = prober.now();
        prober.wait_answer(ADDRESS, before + Duration::from_millis(20), None, SOON)?;
        assert_eq!(to_stranger(&prober.frames()), 0, "answered: {what}");
    }
    let mut chance = StdRng::seed_from_u64(7);
    for _ in 0..20_000 {
        let mut frame: Vec<u8> = (0..chance.random_range(14..100))
            .map(|_| chance.random())
            .collect();
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame[6..12].copy_from_slice(&STRANGER);
        frame[12..14].copy_from_slice(&[8, 6]);
        // A full queue loses one, as any wire may.
        let _ = socket.write(&frame);
    }
    let before = prober.now();
    prober.wait_answer(ADDRESS, before + Duration::from_millis(50), None, SOON)?;
    assert_eq!(to_stranger(&prober.frames()), 0, "answered garbage");
    socket.write_all(&request())?;
    wait::until("the answer to a proper request", SOON, || {
        (to_stranger(&prober.frames()) == 1).then_some(())
    })?;
    Ok(())
}

/// A socket that sends any frame. It receives nothing.
fn raw_socket(interface: &str) -> anyhow::Result<socket2::Socket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let link = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| {
            entry
                .address
                .and_then(|address| address.as_link_addr().copied())
        });
    let link = link.ok_or_else(|| anyhow::anyhow!("no {interface}"))?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    nix::sys::socket::bind(descriptor, &link)?;
    Ok(socket)
}
