use std::net::{IpAddr, Ipv4Addr};

use pnet_base::MacAddr;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;
use crate::l2::arp::Arp;
use crate::l2::hold::Noted;
use crate::l2::question::Question;

const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const ASKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const SPOT: Spot = Spot {
    interface: 1,
    address: IpAddr::V4(ADDRESS),
};
/// More than is read in one turn.
const ARRIVED: u8 = 200;

#[test]
fn what_had_arrived_when_the_old_owner_stopped_is_held_against_what_it_answered() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a raw socket needs root");
        return;
    }
    let (heir, registry) = alone();
    let spot = SPOT;
    heir.set(&[spot], AddressDuty::Hold);
    let question = Arp {
        sender_ip: ASKER,
        sender_mac: CLIENT,
        ..Arp::probe(ADDRESS, CLIENT)
    };
    let client = PacketSocket::open(1, Protocol::Arp).expect("opens");
    client.send(&question.emit()).expect("sends");
    // The old owner has read it, answered and stopped before this node has read it.
    let answered = Noted {
        at: clock::now(),
        question: Question {
            asker: CLIENT,
            from: IpAddr::V4(ASKER),
            target: ADDRESS.into(),
        },
    };
    heir.read_arrived();
    heir.answer(&[spot], &Report::new(&[answered]));
    heir.read_arrived();
    assert_eq!(answers(&registry), 0, "answered twice");
    // The next one is this node's.
    client.send(&question.emit()).expect("sends");
    heir.read_arrived();
    assert_eq!(answers(&registry), 1);
}

#[test]
fn what_had_arrived_before_an_owner_stops_is_answered_by_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a raw socket needs root");
        return;
    }
    let (owner, registry) = alone();
    owner.set(&[SPOT], AddressDuty::Record);
    let client = PacketSocket::open(1, Protocol::Arp).expect("opens");
    for number in 0..ARRIVED {
        let question = Arp {
            sender_ip: Ipv4Addr::new(198, 51, 100, number),
            ..Arp::probe(ADDRESS, CLIENT)
        };
        client.send(&question.emit()).expect("sends");
    }
    owner.read_arrived();
    let notes = owner.silence(&[SPOT]);
    assert_eq!(answers(&registry), ARRIVED);
    assert!(notes.report().truncated, "all of them are noted");
}

/// A responder on the loopback interface whose thread does not run: as on a machine that is too busy to
/// let it. And what it counts.
fn alone() -> (Responder, Registry) {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (shared, _seen) = Shared::new(&metrics).expect("made");
    let responder = Responder { shared };
    let loopback = Port {
        index: 1,
        name: "lo".to_owned(),
        mac: MacAddr(2, 0, 0, 0, 0, 1),
        link_local: None,
    };
    assert!(responder.set_ports(&[loopback]).is_empty());
    (responder, registry)
}

fn answers(registry: &Registry) -> u8 {
    let mut text = String::new();
    encode(&mut text, registry).expect("encodes");
    let name = format!("responses_sent{{ip=\"{ADDRESS}\"}} ");
    let line = text.lines().find_map(|line| line.split_once(&name));
    let (_, count) = line.expect("the answers are counted");
    count.parse().expect("a small number")
}
