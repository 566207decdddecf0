use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pharos_lease::Term;
use pnet_base::MacAddr;
use prometheus_client::registry::Registry;

use super::super::conflict::{Conflict, Seer};
use super::super::groups::Membership;
use super::super::hold::Noted;
use super::super::ndp::{Kind, ethernet_group, solicited_node};
use super::super::question::Question;
use super::*;
use crate::clock::now as start;

mod interfaces;
mod pauses;
mod probing;

const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const NODE: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const SPOT: Spot = spot(ADDRESS);
const ARP: Place = (2, Protocol::Arp);
const NDP: Place = (2, Protocol::Ndp);
const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x100);
const SPOT6: Spot = Spot {
    interface: 2,
    address: IpAddr::V6(ADDRESS6),
};

const fn spot(address: Ipv4Addr) -> Spot {
    Spot {
        interface: 2,
        address: IpAddr::V4(address),
    }
}

/// A table with one port, and the time at which it began.
fn table() -> (Table, Instant) {
    let start = start();
    let metrics = Metrics::register(&mut Registry::default());
    let mut table = Table::new(metrics, start);
    table.open(Port {
        index: 2,
        name: "eth0".to_owned(),
        mac: NODE,
        link_local: Some(OWN),
    });
    (table, start)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn request(from: Ipv4Addr, target: Ipv4Addr) -> Arp {
    Arp {
        sender_ip: from,
        ..Arp::gratuitous_request(target, CLIENT)
    }
}

fn client(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

/// The client with this last octet asks for the address.
fn ask(table: &mut Table, last: u8, at: Instant) -> Outcome {
    let frame = request(client(last), ADDRESS).emit();
    table.on_frame(ARP, &frame, at, at)
}

fn is_answered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Send(_) | Outcome::SendAndCheck(..))
}

/// Who is answered by these.
fn answered(sendings: &[Sending]) -> Vec<Ipv4Addr> {
    let to = |sending: &Sending| match sending.packet {
        Packet::Arp(arp) => arp.target_ip,
        Packet::Ndp(ndp) => panic!("{ndp:?}"),
    };
    sendings.iter().map(to).collect()
}

#[test]
fn a_fenced_address_is_neither_answered_nor_announced_without_its_lease() {
    let (mut table, start) = table();
    let until = Duration::from_secs(100);
    table.fences().set(SPOT.address, Some(Term(1)));
    table.answer(&[SPOT], &Report::default(), start);
    let no_lease = |outcome| matches!(outcome, Outcome::Ignored(Ignored::NoLease));
    assert!(no_lease(ask(&mut table, 1, start)));
    assert!(table.due(start, || 0.5).is_empty(), "nothing is announced");
    table.fences().set_lease(Some((Term(1), until)));
    assert!(is_answered(&ask(&mut table, 1, start)));
    table.announce(&[SPOT], start);
    assert!(!table.due(start + ms(2_000), || 0.5).is_empty());
    table.fences().tell_time(until);
    assert!(no_lease(ask(&mut table, 1, start)));
    // What was held is not answered either.
    table.set(&[SPOT], AddressDuty::Hold, start);
    ask(&mut table, 2, start + ms(1));
    let late = table.answer(&[SPOT], &Report::default(), start + ms(2));
    assert!(late.is_empty());
}

#[test]
fn a_question_is_answered_from_the_moment_of_the_duty_to_its_end() {
    let (mut table, start) = table();
    assert!(matches!(
        ask(&mut table, 1, start),
        Outcome::Ignored(Ignored::NotOwned)
    ));
    assert!(table.answer(&[SPOT], &Report::default(), start).is_empty());
    let Outcome::Send(sending) = ask(&mut table, 1, start) else {
        panic!("not answered");
    };
    let expected = Arp::answer((CLIENT, client(1)), ADDRESS, NODE);
    assert_eq!(
        (sending.interface, sending.packet),
        (2, Packet::Arp(expected))
    );
    assert_eq!(table.silence(&[SPOT]), Notes::default());
    assert!(!is_answered(&ask(&mut table, 1, start)));
}

#[test]
fn what_is_held_is_answered_on_the_take_over_except_what_the_former_owner_answered() {
    let (mut table, start) = table();
    table.set(&[SPOT], AddressDuty::Hold, start);
    for last in 1..=3 {
        let at = start + ms(20 * u64::from(last));
        assert!(matches!(ask(&mut table, last, at), Outcome::Nothing));
    }
    // All of them share one MAC address, so the time tells which was answered.
    let question = Question {
        asker: CLIENT,
        from: client(2).into(),
        target: ADDRESS.into(),
    };
    let at = start + ms(40);
    let report = Notes::new(vec![Noted { at, question }], None).report();
    let sent = table.answer(&[SPOT], &report, start + ms(70));
    assert_eq!(answered(&sent), [client(1), client(3)]);
}

#[test]
fn a_held_address_that_is_mentioned_again_remembers_since_when_it_is_held() {
    let (mut table, start) = table();
    table.set(&[SPOT], AddressDuty::Hold, start);
    ask(&mut table, 1, start + ms(10));
    let question = Question {
        asker: CLIENT,
        from: client(1).into(),
        target: ADDRESS.into(),
    };
    // The answer of the former owner was given before the second mention.
    table.resume(&[SPOT], AddressDuty::Hold, &BTreeSet::new(), start + ms(20));
    let at = start + ms(10);
    let report = Notes::new(vec![Noted { at, question }], None).report();
    let sent = table.answer(&[SPOT], &report, start + ms(30));
    assert_eq!(answered(&sent), [Ipv4Addr::UNSPECIFIED; 0]);
}

#[test]
fn a_recorded_address_that_is_mentioned_again_keeps_what_was_noted() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &Report::default(), start);
    table.set(&[SPOT], AddressDuty::Record, start);
    assert!(is_answered(&ask(&mut table, 1, start)));
    table.resume(
        &[SPOT],
        AddressDuty::Record,
        &BTreeSet::new(),
        start + ms(10),
    );
    assert_eq!(table.silence(&[SPOT]).report().answered.len(), 1);
    assert_eq!(table.silence(&[SPOT]), Notes::default());
}

#[test]
fn a_duty_that_is_new_to_an_interface_begins_there() {
    for (duty, announces) in [
        (AddressDuty::Hold, false),
        (AddressDuty::Answer, true),
        (AddressDuty::Record, true),
    ] {
        let (mut table, start) = table();
        table.resume(&[SPOT], duty, &BTreeSet::new(), start);
        assert_eq!(table.duty(SPOT), Some(duty));
        assert_eq!(table.next_deadline().is_some(), announces, "{duty:?}");
        // An interface that comes back knows nothing of its duties.
        let port = table.ports().next().cloned();
        table.close(2);
        port.into_iter().for_each(|port| table.open(port));
        assert_eq!(table.duty(SPOT), None);
    }
}

#[test]
fn what_is_announced_stops_with_the_duty_and_with_the_interface() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &Report::default(), start);
    assert_eq!(table.due(start, || 0.5).len(), 1);
    table.close(2);
    assert_eq!(table.due(start + ms(2000), || 0.5).len(), 0);
    assert_eq!(table.next_deadline(), None);
}

fn solicit(table: &mut Table, from: Ipv6Addr, at: Instant) -> Outcome {
    let group = solicited_node(ADDRESS6);
    let frame = Ndp {
        destination: ethernet_group(group),
        source: CLIENT,
        from,
        to: group,
        kind: Kind::Solicitation,
        target: ADDRESS6,
        link_layer: Some(CLIENT),
    };
    table.on_frame(NDP, &frame.emit(), at, at)
}

#[test]
fn a_solicitation_is_answered_while_the_address_has_a_duty() {
    let (mut table, start) = table();
    assert!(!is_answered(&solicit(&mut table, ASKER6, start)));
    table.answer(&[SPOT6], &Report::default(), start);
    let Outcome::Send(sending) = solicit(&mut table, ASKER6, start) else {
        panic!("not answered");
    };
    let expected = Ndp::answer((CLIENT, ASKER6), ADDRESS6, NODE);
    assert_eq!(sending.packet, Packet::Ndp(expected));
    table.silence(&[SPOT6]);
    assert!(!is_answered(&solicit(&mut table, ASKER6, start)));
}

#[test]
fn a_held_solicitation_is_answered_on_the_take_over_and_the_address_announced() {
    let (mut table, start) = table();
    table.set(&[SPOT6], AddressDuty::Hold, start);
    let outcome = solicit(&mut table, ASKER6, start + ms(10));
    assert!(matches!(outcome, Outcome::Nothing));
    let sent = table.answer(&[SPOT6], &Report::default(), start + ms(20));
    let sent: Vec<Packet> = sent.iter().map(|sending| sending.packet).collect();
    let expected = Ndp::answer((CLIENT, ASKER6), ADDRESS6, NODE);
    assert_eq!(sent, [Packet::Ndp(expected)]);
    let announced = table.due(start + ms(20), || 0.5);
    let announced: Vec<Packet> = announced.iter().map(|sending| sending.packet).collect();
    let unsolicited = Ndp::unsolicited(ADDRESS6, NODE);
    assert_eq!(announced, [Packet::Ndp(unsolicited)]);
}

#[test]
fn the_group_of_an_address_is_joined_while_it_has_any_duty() {
    let (mut table, start) = table();
    let membership = Membership {
        interface: 2,
        group: solicited_node(ADDRESS6),
    };
    table.set(&[SPOT, SPOT6], AddressDuty::Hold, start);
    assert_eq!(table.take_group_changes(), [Change::Join(membership)]);
    table.answer(&[SPOT, SPOT6], &Report::default(), start);
    assert_eq!(table.take_group_changes(), []);
    table.silence(&[SPOT, SPOT6]);
    table.silence(&[SPOT6]);
    assert_eq!(table.take_group_changes(), [Change::Leave(membership)]);
    // An interface that goes takes its memberships along.
    table.answer(&[SPOT6], &Report::default(), start);
    table.close(2);
    let changes = [Change::Join(membership), Change::Leave(membership)];
    assert_eq!(table.take_group_changes(), changes);
}

/// The check that a question from the client led to.
fn check(outcome: Outcome) -> Option<Packet> {
    match outcome {
        Outcome::SendAndCheck(_, check) => Some(check.packet),
        Outcome::Send(_) | Outcome::Nothing | Outcome::Conflict(_) | Outcome::Ignored(_) => None,
    }
}

#[test]
fn a_question_to_everybody_leads_to_a_look_at_who_else_answers() {
    let (mut table, start) = table();
    table.answer(&[SPOT, SPOT6], &Report::default(), start);
    assert_eq!(
        check(ask(&mut table, 1, start + ms(10))),
        None,
        "a new owner"
    );
    let probe = Packet::Arp(Arp::probe(ADDRESS, NODE));
    assert_eq!(check(ask(&mut table, 1, start + ms(1000))), Some(probe));
    assert_eq!(
        check(ask(&mut table, 1, start + ms(1100))),
        None,
        "just asked"
    );
    let question = Packet::Ndp(Ndp::question(ADDRESS6, NODE, OWN));
    let solicited = solicit(&mut table, ASKER6, start + ms(1200));
    assert_eq!(check(solicited), Some(question));
    // A neighbour that asks us alone; this node itself by another interface.
    let mut unicast = request(client(1), ADDRESS);
    unicast.destination = NODE;
    let at = start + ms(5000);
    assert_eq!(check(table.on_frame(ARP, &unicast.emit(), at, at)), None);
    let other = MacAddr(2, 0, 0, 0, 0, 3);
    table.open(Port {
        index: 3,
        name: "eth1".to_owned(),
        mac: other,
        link_local: None,
    });
    let own = Arp {
        source: other,
        sender_mac: other,
        ..request(client(1), ADDRESS)
    };
    assert_eq!(check(table.on_frame(ARP, &own.emit(), at, at)), None);
    // Whoever is about to hand over leaves it to the heir.
    table.set(&[SPOT], AddressDuty::Record, start);
    assert_eq!(check(ask(&mut table, 1, at)), None);
}

#[test]
fn a_stranger_is_told_of_and_the_address_defended_but_not_at_once_after_the_take_over() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &Report::default(), start);
    let frame = Arp::gratuitous_request(ADDRESS, STRANGER).emit();
    let seen = |table: &mut Table, at: Instant| {
        let Outcome::Conflict(defence) = table.on_frame(ARP, &frame, at, at) else {
            panic!("no conflict");
        };
        defence.len()
    };
    assert_eq!(seen(&mut table, start + ms(500)), 0);
    assert_eq!(table.take_news(), []);
    let at = start + ms(2000);
    assert_eq!(seen(&mut table, at), 2, "both forms");
    assert_eq!(seen(&mut table, at + ms(9000)), 0);
    let conflict = Conflict {
        while_probing: false,
        address: ADDRESS.into(),
        mac: STRANGER,
        by: Seer {
            index: 2,
            name: "eth0".into(),
            mac: NODE,
        },
        member: None,
    };
    assert_eq!(table.take_news(), [News::Begun(conflict.clone())]);
    let members = [(STRANGER, "b".into())].into();
    table.set_members(members, at);
    table.silence(&[SPOT]);
    assert_eq!(table.take_news(), [News::Over(conflict)]);
}

/// The looks among what is due each 10 ms from this moment on; a machine answers those before `gone`.
fn looks(table: &mut Table, start: Instant, gone: Duration) -> Vec<u64> {
    let probe = Packet::Arp(Arp::probe(ADDRESS, NODE));
    let answer = Arp::gratuitous_reply(ADDRESS, STRANGER).emit();
    let mut looks = Vec::new();
    for after in (0..60_000).step_by(10) {
        let now = start + ms(after);
        let sent = table.due(now, || 0.5);
        if sent.iter().any(|sending| sending.packet == probe) {
            looks.push(after);
            if ms(after) < gone {
                table.on_frame(ARP, &answer, now, now);
            }
        }
    }
    looks
}

#[test]
fn a_conflict_is_looked_at_until_the_machine_is_gone_although_nobody_asks() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &Report::default(), start);
    let none = looks(&mut table, start, ms(0));
    assert!(none.is_empty(), "no conflict: {none:?}");
    let at = start + ms(100_000);
    let frame = Arp::gratuitous_request(ADDRESS, STRANGER).emit();
    table.on_frame(ARP, &frame, at, at);
    assert!(matches!(table.take_news()[..], [News::Begun(_)]));
    // It answers for the last time after 24 s, and is over 10 s later.
    let expected: Vec<u64> = (1..=11).map(|look| look * 3000).collect();
    assert_eq!(looks(&mut table, at, ms(25_000)), expected);
    assert!(matches!(table.take_news()[..], [News::Over(_)]));
}

#[test]
fn conflicts_are_looked_at_in_turn() {
    let (mut table, start) = table();
    let addresses: Vec<Ipv4Addr> = (0..200).map(client).collect();
    let spots: Vec<Spot> = addresses.iter().copied().map(spot).collect();
    table.answer(&spots, &Report::default(), start);
    let at = start + ms(100_000);
    table.due(at, || 0.5);
    for address in &addresses {
        let frame = Arp::gratuitous_request(*address, STRANGER).emit();
        table.on_frame(ARP, &frame, at, at);
    }
    let mut looked = BTreeSet::new();
    let mut first = None;
    let mut now = at + ms(3000);
    while looked.len() < addresses.len() && now < at + ms(6000) {
        for sending in table.due(now, || 0.5) {
            if let Packet::Arp(arp) = sending.packet
                && arp.sender_ip.is_unspecified()
            {
                first.get_or_insert(now);
                assert!(looked.insert(arp.target_ip), "looked at twice");
            }
        }
        now = now.max(table.next_deadline().expect("conflicts")) + ms(1);
    }
    assert_eq!(looked.len(), addresses.len());
    let took = now.saturating_duration_since(first.expect("looks"));
    assert!((ms(390)..ms(700)).contains(&took), "500 a second: {took:?}");
}

#[test]
fn a_drain_of_a_thousand_busy_addresses_answers_every_question_once() {
    const ADDRESSES: u16 = 1000;
    let (mut old, start) = table();
    let (mut new, _) = table();
    let addresses: Vec<Ipv4Addr> = (0..ADDRESSES)
        .map(|number| Ipv4Addr::from(0x0a00_0000 + u32::from(number)))
        .collect();
    for address in &addresses {
        let spots = [spot(*address)];
        old.answer(&spots, &Report::default(), start);
        old.set(&spots, AddressDuty::Record, start);
        new.set(&spots, AddressDuty::Hold, start);
    }
    let mut answers = 0;
    let mut asked = 0;
    // Each is asked for every 10 ms; they are handed over one after the other, 5 in a ms.
    for tick in 0..200 {
        let now = start + ms(tick);
        for (index, address) in addresses.iter().enumerate() {
            if (index as u64 + tick).is_multiple_of(10) {
                let frame = request(client(1), *address).emit();
                asked += 1;
                answers += usize::from(is_answered(&old.on_frame(ARP, &frame, now, now)));
                answers += usize::from(is_answered(&new.on_frame(ARP, &frame, now, now)));
            }
        }
        let first = usize::try_from(tick * 5).expect("small");
        for address in &addresses[first..first + 5] {
            let spots = [spot(*address)];
            let report = old.silence(&spots).report();
            answers += new.answer(&spots, &report, now).len();
        }
    }
    assert_eq!(answers, asked);
}

#[test]
fn one_that_floods_an_heir_leaves_room_for_others() {
    let (mut heir, start) = table();
    heir.set(&[SPOT], AddressDuty::Hold, start);
    for _ in 0..5000 {
        ask(&mut heir, 1, start + ms(1));
    }
    ask(&mut heir, 2, start + ms(2));
    let answers = answered(&heir.answer(&[SPOT], &Report::default(), start + ms(3)));
    assert!(
        answers.contains(&client(2)),
        "one that asked once is answered"
    );
    assert!(answers.len() < 500, "{} answers", answers.len());
}

#[test]
fn what_was_answered_just_before_the_notes_began_is_reported() {
    let (mut old, start) = table();
    let (mut heir, _) = table();
    old.answer(&[SPOT], &Report::default(), start);
    // One frame reaches both at 100 ms. The old owner answers it, and then begins to note; the heir
    // begins to hold, and then reads it.
    assert!(is_answered(&ask(&mut old, 1, start + ms(100))));
    old.set(&[SPOT], AddressDuty::Record, start + ms(101));
    heir.set(&[SPOT], AddressDuty::Hold, start + ms(102));
    assert!(!is_answered(&ask(&mut heir, 1, start + ms(100))));
    // The next one comes after the old owner has stopped.
    let report = old.silence(&[SPOT]).report();
    assert!(!is_answered(&ask(&mut heir, 2, start + ms(104))));
    let answers = heir.answer(&[SPOT], &report, start + ms(105));
    assert_eq!(answered(&answers), [client(2)]);
}

#[test]
fn an_attempt_that_begins_anew_reports_the_last_answers_of_the_former_one() {
    let (mut old, start) = table();
    let (mut heir, _) = table();
    old.answer(&[SPOT], &Report::default(), start);
    old.set(&[SPOT], AddressDuty::Record, start + ms(99));
    assert!(is_answered(&ask(&mut old, 1, start + ms(100))));
    old.set(&[SPOT], AddressDuty::Record, start + ms(101));
    heir.set(&[SPOT], AddressDuty::Hold, start + ms(102));
    assert!(!is_answered(&ask(&mut heir, 1, start + ms(100))));
    let report = old.silence(&[SPOT]).report();
    assert!(heir.answer(&[SPOT], &report, start + ms(105)).is_empty());
}
