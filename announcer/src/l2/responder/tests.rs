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

#[test]
fn what_had_arrived_when_the_old_owner_stopped_is_held_against_what_it_answered() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a raw socket needs root");
        return;
    }
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    // No thread runs: as one that a busy machine does not let run.
    let (shared, _seen) = Shared::new(&metrics).expect("made");
    let heir = Responder {
        shared: shared.clone(),
    };
    let loopback = Port {
        index: 1,
        name: "lo".to_owned(),
        mac: MacAddr(2, 0, 0, 0, 0, 1),
        link_local: None,
    };
    assert!(heir.set_ports(&[loopback]).is_empty());
    let spot = Spot {
        interface: 1,
        address: ADDRESS.into(),
    };
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
    heir.answer(&[spot], &Report::new(&[answered]));
    let has_answered = |times: u8| {
        let mut text = String::new();
        encode(&mut text, &registry).expect("encodes");
        text.contains(&format!("responses_sent{{ip=\"{ADDRESS}\"}} {times}\n"))
    };
    shared.read_arrived(&mut shared.lock());
    assert!(has_answered(0), "answered twice");
    // The next one is this node's.
    client.send(&question.emit()).expect("sends");
    shared.read_arrived(&mut shared.lock());
    assert!(has_answered(1));
}
