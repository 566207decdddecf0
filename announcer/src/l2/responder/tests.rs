use std::net::{IpAddr, Ipv4Addr};

use pharos_testbed::skip;
use pnet_base::MacAddr;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;
use crate::l2::arp::Arp;
use crate::l2::hold::Noted;
use crate::l2::question::Question;

const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
/// Tests run at the same time, on one loopback interface: each has an address of its own.
const HELD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const RECORDED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const ANSWERED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 102);
const ASKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// More than is read in one turn.
const ARRIVED: u8 = 200;

#[test]
fn what_had_arrived_when_the_old_owner_stopped_is_held_against_what_it_answered() {
    if !skip::can_use_namespaces() {
        return;
    }
    let (heir, registry) = alone();
    let spot = spot(HELD);
    heir.set(&[spot], AddressDuty::Hold);
    let question = Arp {
        sender_ip: ASKER,
        sender_mac: CLIENT,
        ..Arp::probe(HELD, CLIENT)
    };
    let client = PacketSocket::open(1, Protocol::Arp).expect("opens");
    client.send(&question.emit()).expect("sends");
    // The old owner has read it, answered and stopped before this node has read it.
    let answered = Noted {
        at: clock::now(),
        question: Question {
            asker: CLIENT,
            from: IpAddr::V4(ASKER),
            target: HELD.into(),
        },
    };
    heir.read_arrived();
    heir.answer(&[spot], &Report::new(&[answered]));
    heir.read_arrived();
    assert_eq!(answers(&registry, HELD), 0, "answered twice");
    // The next one is this node's.
    client.send(&question.emit()).expect("sends");
    heir.read_arrived();
    assert_eq!(answers(&registry, HELD), 1);
}

#[test]
fn what_had_arrived_before_an_owner_stops_is_answered_by_it() {
    if !skip::can_use_namespaces() {
        return;
    }
    let (owner, registry) = alone();
    owner.set(&[spot(RECORDED)], AddressDuty::Record);
    let client = PacketSocket::open(1, Protocol::Arp).expect("opens");
    for number in 0..ARRIVED {
        let question = Arp {
            sender_ip: Ipv4Addr::new(198, 51, 100, number),
            ..Arp::probe(RECORDED, CLIENT)
        };
        client.send(&question.emit()).expect("sends");
    }
    owner.read_arrived();
    let notes = owner.silence(&[spot(RECORDED)]);
    assert_eq!(answers(&registry, RECORDED), ARRIVED);
    assert!(notes.report().truncated, "all of them are noted");
}

#[test]
fn who_reads_first_after_a_pause_answers_nothing_of_it() {
    if !skip::can_use_namespaces() {
        return;
    }
    let (owner, registry) = alone();
    owner.answer(&[spot(ANSWERED)], &Report::default());
    // Neither the thread nor anybody else ran for a second.
    {
        let mut state = owner.shared.lock();
        let second = Duration::from_secs(1);
        state
            .table
            .runs(clock::now(), clock::since_boot().saturating_sub(second));
    }
    let client = PacketSocket::open(1, Protocol::Arp).expect("opens");
    let question = Arp::probe(ANSWERED, CLIENT);
    client.send(&question.emit()).expect("sends");
    owner.read_arrived();
    assert_eq!(answers(&registry, ANSWERED), 0);
    client.send(&question.emit()).expect("sends");
    owner.read_arrived();
    assert_eq!(answers(&registry, ANSWERED), 1);
}

fn spot(address: Ipv4Addr) -> Spot {
    Spot {
        interface: 1,
        address: address.into(),
    }
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

fn answers(registry: &Registry, address: Ipv4Addr) -> u8 {
    let mut text = String::new();
    encode(&mut text, registry).expect("encodes");
    let name = format!("responses_sent{{ip=\"{address}\"}} ");
    let line = text.lines().find_map(|line| line.split_once(&name));
    let (_, count) = line.expect("the answers are counted");
    count.parse().expect("a small number")
}
