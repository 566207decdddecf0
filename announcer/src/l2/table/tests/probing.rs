use super::*;

fn first(address: IpAddr) -> Report {
    Report {
        probing: [address].into(),
        ..Report::default()
    }
}

/// All that is sent until then, with the time in milliseconds.
fn sent(table: &mut Table, start: Instant, from: u64, until: u64) -> Vec<(u64, Packet)> {
    let mut all = Vec::new();
    for at in from..until {
        let due = table.due(start + ms(at), || 0.5).into_iter();
        all.extend(due.map(|sending| (at, sending.packet)));
        let answers = answer_free(table, start + ms(at)).into_iter();
        all.extend(answers.map(|sending| (at, sending.packet)));
    }
    all
}

/// All is ready for the answers to what proved to be free.
fn answer_free(table: &mut Table, now: Instant) -> Vec<Sending> {
    let free = table.take_free();
    table.answer_free(&free, now).1
}

fn probe() -> Packet {
    Packet::Arp(Arp::probe(ADDRESS, NODE))
}

#[test]
fn a_new_address_is_asked_for_three_times_and_then_answered_and_announced() {
    let (mut table, start) = table();
    assert!(
        table
            .answer(&[SPOT], &first(SPOT.address), start)
            .is_empty()
    );
    assert!(matches!(ask(&mut table, 1, start), Outcome::Nothing));
    let all = sent(&mut table, start, 0, 601);
    let probes = [(0, probe()), (200, probe()), (400, probe())];
    assert_eq!(all[..3], probes);
    let answer = Arp::answer((CLIENT, client(1)), ADDRESS, NODE);
    assert!(
        all[3..].contains(&(600, Packet::Arp(answer))),
        "held until then"
    );
    let announced = Packet::Arp(Arp::gratuitous_request(ADDRESS, NODE));
    assert!(
        sent(&mut table, start, 601, 605)
            .iter()
            .any(|(_, packet)| *packet == announced)
    );
    assert!(is_answered(&ask(&mut table, 2, start + ms(610))));
}

#[test]
fn a_new_address_is_answered_only_when_all_is_ready_for_it() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &first(SPOT.address), start);
    for at in [0, 200, 400] {
        assert_eq!(table.due(start + ms(at), || 0.5).len(), 1, "{at}");
    }
    assert!(!is_answered(&ask(&mut table, 1, start + ms(599))));
    let at = start + ms(600);
    assert!(table.due(at, || 0.5).is_empty(), "it may not be bound yet");
    assert!(!is_answered(&ask(&mut table, 2, at)));
    let answers = answer_free(&mut table, at + ms(5));
    assert_eq!(answered(&answers), [client(1), client(2)]);
}

#[test]
fn what_a_member_seemed_to_have_is_asked_for_when_it_turns_out_to_be_one() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &first(SPOT.address), start);
    let answer = Arp::answer((NODE, Ipv4Addr::UNSPECIFIED), ADDRESS, STRANGER);
    table.on_frame(ARP, &answer.emit(), start, start);
    assert!(sent(&mut table, start, 1, 1_000).len() <= 1, "a check");
    let at = start + ms(1_000);
    table.set_members([(STRANGER, "n2".into())].into(), at);
    sent(&mut table, start, 1_000, 1_601);
    assert!(is_answered(&ask(&mut table, 1, start + ms(1_601))));
}

#[test]
fn whoever_shows_that_it_has_a_new_address_keeps_it_until_it_is_gone() {
    let shows: [Arp; 3] = [
        // An answer, an announcement, and somebody who is about to use it as well.
        Arp::answer((NODE, Ipv4Addr::UNSPECIFIED), ADDRESS, STRANGER),
        Arp::gratuitous_request(ADDRESS, STRANGER),
        Arp::probe(ADDRESS, STRANGER),
    ];
    for arp in shows {
        let (mut table, start) = table();
        table.answer(&[SPOT], &first(SPOT.address), start);
        ask(&mut table, 1, start);
        sent(&mut table, start, 0, 10);
        let at = start + ms(10);
        let Outcome::Conflict(defence) = table.on_frame(ARP, &arp.emit(), at, at) else {
            panic!("not seen: {arp:?}");
        };
        assert!(defence.is_empty(), "it is not ours");
        let told = table.take_news();
        let is_told =
            |one: &News| matches!(one, News::Begun(it) if it.while_probing && it.mac == STRANGER);
        assert!(matches!(told.as_slice(), [one] if is_told(one)), "{told:?}");
        assert!(!is_answered(&ask(&mut table, 2, at)));
        // Asked whether it is still there; nobody answers that, nor the next probes.
        let meanwhile = sent(&mut table, start, 10, 10_010);
        assert!(
            meanwhile.iter().all(|(_, packet)| *packet == probe()),
            "{meanwhile:?}"
        );
        let later = sent(&mut table, start, 10_010, 10_611);
        let probes: Vec<u64> = later
            .iter()
            .filter(|(_, one)| *one == probe())
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(probes, [10_010, 10_210, 10_410]);
        assert!(is_answered(&ask(&mut table, 3, start + ms(10_611))));
    }
}

#[test]
fn the_kernel_of_another_node_keeps_a_new_address_from_nobody() {
    let (mut table, start) = table();
    table.set_members([(STRANGER, "n2".into())].into(), start);
    table.answer(&[SPOT], &first(SPOT.address), start);
    let answer = Arp::answer((NODE, Ipv4Addr::UNSPECIFIED), ADDRESS, STRANGER);
    table.on_frame(ARP, &answer.emit(), start, start);
    sent(&mut table, start, 0, 601);
    assert!(is_answered(&ask(&mut table, 1, start + ms(601))));
}

#[test]
fn a_new_ipv6_address_is_asked_for_from_nowhere_and_left_to_who_has_it() {
    let (mut table, start) = table();
    table.answer(&[SPOT6], &first(SPOT6.address), start);
    let packets = sent(&mut table, start, 0, 1);
    let [(0, Packet::Ndp(asked))] = packets.as_slice() else {
        panic!("{packets:?}");
    };
    assert!(asked.from.is_unspecified() && asked.link_layer.is_none());
    assert_eq!(asked.to, solicited_node(ADDRESS6));
    let read = Ndp::parse(&asked.emit()[..asked.length()]);
    assert_eq!(
        read,
        Ok(*asked),
        "it has no option, and its checksum is right"
    );
    for other in [
        Ndp::unsolicited(ADDRESS6, STRANGER),
        Ndp::probe(ADDRESS6, STRANGER),
    ] {
        let at = start + ms(10);
        let outcome = table.on_frame(NDP, &other.emit()[..other.length()], at, at);
        assert!(matches!(outcome, Outcome::Conflict(_)), "{other:?}");
    }
    assert!(
        !sent(&mut table, start, 11, 9_000).iter().any(
            |(_, packet)| matches!(packet, Packet::Ndp(ndp) if ndp.kind != Kind::Solicitation)
        )
    );
}

#[test]
fn what_is_answered_is_not_asked_for_again_and_what_fell_silent_is_not_asked_for() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &first(SPOT.address), start);
    table.set(&[SPOT], AddressDuty::Record, start + ms(100));
    assert!(!is_answered(&ask(&mut table, 1, start + ms(100))));
    table.silence(&[SPOT]);
    assert_eq!(table.next_probe(), None);
    // Nobody gives it back unasked.
    table.answer(&[SPOT], &Report::default(), start + ms(200));
    assert!(is_answered(&ask(&mut table, 1, start + ms(200))));
    table.answer(&[SPOT], &first(SPOT.address), start + ms(300));
    assert!(is_answered(&ask(&mut table, 1, start + ms(300))));
}

#[test]
fn who_hands_over_while_asking_notes_what_it_answers_then() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &first(SPOT.address), start);
    table.set(&[SPOT], AddressDuty::Record, start + ms(500));
    ask(&mut table, 1, start + ms(550));
    sent(&mut table, start, 0, 601);
    assert!(is_answered(&ask(&mut table, 2, start + ms(601))));
    assert_eq!(table.silence(&[SPOT]).report().answered.len(), 2);
}

#[test]
fn who_took_over_a_moment_ago_reports_what_it_answered_then() {
    let (mut table, start) = table();
    table.set(&[SPOT], AddressDuty::Hold, start);
    ask(&mut table, 1, start + ms(10));
    let answers = table.answer(&[SPOT], &Report::default(), start + ms(12));
    assert_eq!(answers.len(), 1);
    table.set(&[SPOT], AddressDuty::Record, start + ms(14));
    assert_eq!(table.silence(&[SPOT]).report().answered.len(), 1);
}

#[test]
fn a_machine_that_showed_itself_while_nothing_was_read_keeps_the_address() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &first(SPOT.address), start);
    for at in [0, 200, 400] {
        assert_eq!(table.due_probes(start + ms(at)).len(), 1, "{at}");
    }
    let (at, now) = (start + ms(500), start + ms(5_000));
    let shown = Arp::gratuitous_request(ADDRESS, STRANGER).emit();
    table.on_frame(ARP, &shown, at, now);
    let rest = table.due(now, || 0.5).into_iter();
    let rest: Vec<Packet> = rest.map(|sending| sending.packet).collect();
    assert!(rest.iter().all(|packet| *packet == probe()), "{rest:?}");
    assert!(!is_answered(&ask(&mut table, 1, now + ms(100))));
}
