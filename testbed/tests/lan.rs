//! Topology: hosts a, b, c and a client on one switch. No Pharos program runs here: the kernels
//! answer, so that what the prober says can be known beforehand.
//!
//! 1. The prober hears the host that has an address, every 10 ms, and no other.
//! 2. An unplugged or isolated host falls silent, and answers again when it is back.
//! 3. Two hosts with one address are seen as an overlap.
//! 4. Gratuitous frames are recorded.
//! 5. A client with a neighbour entry reaches the host that has an address, and no other; each
//!    datagram that is lost is told.
//! 6. A host may have several interfaces, and is cut off with all of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::time::Duration;

use pharos_testbed::arp::Prober;
use pharos_testbed::record::Recorder as _;
use pharos_testbed::warm::{Echo, Warm};
use pharos_testbed::{Lan, http, skip, wait};

const DEADLINE: Duration = Duration::from_secs(20);
const SHARED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);

fn lan() -> Option<Lan> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["nft", "arping"]) {
        return None;
    }
    let hosts = [
        ("a", "10.9.0.1/24"),
        ("b", "10.9.0.2/24"),
        ("client", "10.9.0.9/24"),
    ];
    Some(Lan::new(&hosts).unwrap())
}

fn give(lan: &Lan, host: &str, address: Ipv4Addr) {
    let address = format!("{address}/32");
    let namespace = &lan.host(host).unwrap().namespace;
    namespace
        .exec(&["ip", "addr", "add", &address, "dev", "eth0"])
        .unwrap();
}

#[test]
fn the_prober_hears_the_host_that_has_the_address_and_no_other() {
    let Some(lan) = lan() else { return };
    let a = lan.host("a").unwrap();
    let prober = Prober::start(
        lan.host("client").unwrap(),
        &[Ipv4Addr::new(10, 9, 0, 1), SHARED],
    )
    .unwrap();
    wait::until("50 answers", DEADLINE, || {
        (prober.record().answers.len() >= 50).then_some(())
    })
    .unwrap();
    let (record, _) = prober.stop().unwrap();
    assert!(record.answers.iter().all(|answer| answer.mac == a.mac));
    // A port of a bridge takes a moment before it forwards.
    let own = Ipv4Addr::new(10, 9, 0, 1);
    let from = record.asked[record.answers[0].round];
    let to = record.asked[record.answers[49].round];
    let lost = record.lost(own, from, to);
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(record.doubled(own, from, to), []);
    assert_eq!(record.of(SHARED).count(), 0);
    assert_eq!(lan.host_by_mac(a.mac).unwrap().name, "a");
}

#[test]
fn an_unplugged_or_isolated_host_falls_silent_until_it_is_back() {
    let Some(mut lan) = lan() else { return };
    let address = Ipv4Addr::new(10, 9, 0, 1);
    let prober = Prober::start(lan.host("client").unwrap(), &[address]).unwrap();
    let hear = |since| prober.wait_answer(address, since, None, DEADLINE).unwrap();
    hear(Duration::ZERO);
    lan.unplug("a").unwrap();
    let gone = prober.now();
    // Long against the pace of 10 ms; what is waited for is that nothing happens.
    std::thread::sleep(Duration::from_millis(300));
    assert!(prober.record().longest_gap(address, gone, prober.now()) >= Duration::from_millis(290));
    lan.plug("a").unwrap();
    hear(prober.now());
    lan.isolate("a").unwrap();
    let gone = prober.now() + Duration::from_millis(20);
    std::thread::sleep(Duration::from_millis(300));
    assert!(prober.record().longest_gap(address, gone, prober.now()) >= Duration::from_millis(270));
    lan.heal().unwrap();
    hear(prober.now());
}

#[test]
fn two_hosts_with_one_address_are_seen_as_an_overlap() {
    let Some(lan) = lan() else { return };
    give(&lan, "a", SHARED);
    give(&lan, "b", SHARED);
    let prober = Prober::start(lan.host("client").unwrap(), &[SHARED]).unwrap();
    wait::until("50 answers", DEADLINE, || {
        (prober.record().answers.len() >= 50).then_some(())
    })
    .unwrap();
    let now = prober.now();
    let (record, _) = prober.stop().unwrap();
    assert_eq!(record.answerers(SHARED, Duration::ZERO, now).len(), 2);
    assert!(!record.overlaps(SHARED).is_empty());
    let both = record.doubled(SHARED, Duration::ZERO, now);
    assert!(both.len() >= 24, "{}", both.len());
    let macs = record.answered_by(SHARED, record.answers[49].round - 1);
    assert!(macs.len() == 2 && macs[0] != macs[1], "{macs:?}");
}

#[test]
fn gratuitous_frames_are_recorded() {
    let Some(lan) = lan() else { return };
    give(&lan, "a", SHARED);
    let listener = Prober::start(lan.host("client").unwrap(), &[]).unwrap();
    let a = &lan.host("a").unwrap().namespace;
    a.exec(&["arping", "-U", "-c", "1", "-i", "eth0", "10.9.0.100"])
        .ok();
    a.exec(&[
        "arping",
        "-P",
        "-U",
        "-c",
        "1",
        "-i",
        "eth0",
        "-S",
        "10.9.0.100",
        "10.9.0.100",
    ])
    .ok();
    let seen = wait::until("a gratuitous frame", DEADLINE, || {
        listener
            .frames()
            .into_iter()
            .find(|frame| frame.is_gratuitous() && frame.sender == SHARED)
    });
    assert_eq!(seen.unwrap().sender_mac, lan.host("a").unwrap().mac);
}

#[test]
fn a_warm_client_tells_which_host_it_reaches_and_what_was_lost() {
    let Some(mut lan) = lan() else { return };
    let echo = |host| Echo::start(lan.host(host).unwrap(), &[SHARED]).unwrap();
    let _servers = [echo("a"), echo("b")];
    // Nobody answers for the address, so the client's kernel is told where it is.
    let mac = lan.host("b").unwrap().mac.to_string();
    let client = lan.host("client").unwrap();
    client
        .namespace
        .exec(&[
            "ip",
            "neigh",
            "add",
            "10.9.0.100",
            "lladdr",
            &mac,
            "dev",
            "eth0",
        ])
        .unwrap();
    let warm = Warm::start(client, SHARED, DEADLINE).unwrap();
    let begin = warm.now();
    let answered = |since: Duration| {
        wait::until("20 echoes", DEADLINE, || {
            let record = warm.record();
            let late = record.answers.iter().filter(|answer| answer.at > since);
            (late.count() >= 20).then_some(())
        })
        .unwrap();
    };
    answered(begin);
    let cut = warm.now();
    lan.isolate("b").unwrap();
    wait::until("20 datagrams into the void", DEADLINE, || {
        (warm.now() > cut + Duration::from_millis(200)).then_some(())
    })
    .unwrap();
    lan.heal().unwrap();
    let healed = warm.now();
    answered(healed);
    let record = warm.record();
    let answerers = record.answerers(SHARED, Duration::ZERO, warm.now());
    assert!(answerers.iter().eq([&lan.host("b").unwrap().mac]));
    assert_eq!(record.doubled(SHARED, begin, warm.now()), []);
    let lost = record.lost(SHARED, begin, healed);
    assert!(lost.len() >= 10, "{lost:?}");
    assert!(lost.iter().all(|at| *at >= cut), "{lost:?}");
    let last = record.asked[record.answers.last().unwrap().round];
    assert!(record.lost(SHARED, healed, last).is_empty());
}

#[test]
fn a_host_with_two_interfaces_is_cut_off_with_both() {
    let Some(mut lan) = lan() else { return };
    let mac = lan.add_interface("a").unwrap();
    assert_eq!(lan.host_by_mac(mac).unwrap().name, "a");
    // The address moves to eth1, which alone answers for it then.
    let a = &lan.host("a").unwrap().namespace;
    a.exec(&["ip", "addr", "add", "10.9.0.100/32", "dev", "eth1"])
        .unwrap();
    a.write_sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    let prober = Prober::start(lan.host("client").unwrap(), &[SHARED]).unwrap();
    let answer = prober.wait_answer(SHARED, Duration::ZERO, None, DEADLINE);
    assert_eq!(answer.unwrap().mac, mac);
    lan.isolate("a").unwrap();
    let gone = prober.now() + Duration::from_millis(20);
    wait::until("a while without answers", DEADLINE, || {
        (prober.now() > gone + Duration::from_millis(200)).then_some(())
    })
    .unwrap();
    assert!(
        prober
            .record()
            .answerers(SHARED, gone, prober.now())
            .is_empty()
    );
}

#[test]
fn a_host_serves_http_to_another() {
    let Some(lan) = lan() else { return };
    let a = lan.host("a").unwrap();
    let server =
        http::Server::start(Some(&a.namespace), "10.9.0.1:80".parse().unwrap(), "a").unwrap();
    let client = lan.host("client").unwrap();
    let answer = client
        .namespace
        .run(|| http::get(server.address(), "/", Duration::from_secs(5)))
        .unwrap();
    assert_eq!(answer.unwrap(), (200, "a".to_owned()));
}
