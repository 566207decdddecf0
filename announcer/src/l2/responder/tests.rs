use prometheus_client::registry::Registry;

use super::*;

const SPOT: Spot = Spot {
    interface: 1,
    address: Ipv4Addr::new(192, 0, 2, 100),
};

fn responder() -> Option<(Responder, ResponderThread)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a raw socket needs root");
        return None;
    }
    let metrics = Metrics::register(&mut Registry::default());
    let (responder, thread) = start(&metrics).expect("starts");
    let loopback = Port {
        index: 1,
        name: "lo".to_owned(),
        mac: MacAddr::zero(),
    };
    assert!(responder.set_ports(&[loopback]).is_empty());
    Some((responder, thread))
}

fn since(responder: &Responder) -> Option<Instant> {
    let table = responder.shared.lock();
    let entry = table.ports[&1].duties.get(&SPOT.address)?;
    Some(entry.since)
}

fn request() -> Arp {
    Arp {
        sender_ip: Ipv4Addr::new(192, 0, 2, 1),
        ..Arp::gratuitous_request(SPOT.address, MacAddr(2, 0, 0, 0, 0, 1))
    }
}

#[test]
fn a_held_address_that_is_mentioned_again_remembers_since_when_it_is_held() {
    let Some((responder, _thread)) = responder() else {
        return;
    };
    responder.set(&[SPOT], AddressDuty::Hold);
    let first = since(&responder);
    assert!(first.is_some());
    responder.resume(&[SPOT], AddressDuty::Hold);
    assert_eq!(since(&responder), first);
}

#[test]
fn a_recorded_address_that_is_mentioned_again_keeps_what_was_noted() {
    let Some((responder, _thread)) = responder() else {
        return;
    };
    responder.set(&[SPOT], AddressDuty::Record);
    let noted = Noted {
        at: clock::now(),
        request: request(),
    };
    responder.shared.lock().note(noted);
    responder.resume(&[SPOT], AddressDuty::Record);
    assert_eq!(responder.silence(&[SPOT]), [noted]);
}

#[test]
fn a_duty_that_is_new_to_an_interface_begins_there() {
    let Some((responder, _thread)) = responder() else {
        return;
    };
    for duty in [AddressDuty::Hold, AddressDuty::Answer, AddressDuty::Record] {
        responder.silence(&[SPOT]);
        responder.resume(&[SPOT], duty);
        assert_eq!(responder.shared.lock().duty(SPOT), Some(duty));
        let announces = responder.shared.lock().bursts.next_deadline().is_some();
        assert_eq!(announces, duty != AddressDuty::Hold);
    }
}
