use proptest::prelude::*;

use super::*;
use crate::l2::ndp::{Malformed, solicited_node};

const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const NODE: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
const OTHER: MacAddr = MacAddr(2, 0, 0, 0, 0, 3);
/// Of another interface of this node.
const OWN_OTHER: MacAddr = MacAddr(2, 0, 0, 0, 0, 4);
const ASKER: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x100);
const HELD: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x101);
const PASSING: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x102);
const FOREIGN: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x200);
const ADVERTISEMENT: Kind = Kind::Advertisement {
    router: false,
    solicited: false,
    overrides: true,
};

fn duty(address: Ipv6Addr) -> Option<AddressDuty> {
    match address {
        OURS => Some(AddressDuty::Answer),
        HELD => Some(AddressDuty::Hold),
        PASSING => Some(AddressDuty::Record),
        _ => None,
    }
}

fn is_own(mac: MacAddr) -> bool {
    [NODE, OWN_OTHER].contains(&mac)
}

fn solicitation(target: Ipv6Addr) -> Ndp {
    let group = solicited_node(target);
    Ndp {
        destination: ethernet_group(group),
        source: CLIENT,
        from: ASKER,
        to: group,
        kind: Kind::Solicitation,
        target,
        link_layer: Some(CLIENT),
    }
}

fn question(ndp: &Ndp) -> Question {
    Question {
        asker: ndp.link_layer.unwrap_or(ndp.source),
        from: IpAddr::V6(ndp.from),
        target: IpAddr::V6(ndp.target),
    }
}

fn decision(ndp: &Ndp) -> Decision {
    decide(&ndp.emit(), NODE, is_own, duty)
}

#[test]
fn solicitations_for_our_addresses_are_answered_however_they_are_asked() {
    let asked: [fn(&mut Ndp); 6] = [
        |_| {},
        // A neighbour that checks whether its entry still holds.
        |ndp| (ndp.destination, ndp.to) = (NODE, OURS),
        // To the group, but in a frame to us alone.
        |ndp| ndp.destination = NODE,
        // From outside the subnet.
        |ndp| ndp.from = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
        // Another source in the frame than in the option.
        |ndp| ndp.source = OTHER,
        // This node itself, by another interface on the same segment.
        |ndp| (ndp.source, ndp.link_layer) = (OWN_OTHER, Some(OWN_OTHER)),
    ];
    for change in asked {
        let mut ndp = solicitation(OURS);
        change(&mut ndp);
        assert_eq!(
            decision(&ndp),
            Decision::Answer(question(&ndp), false),
            "{ndp:?}"
        );
    }
}

/// A solicitation without its option.
fn without_option(ndp: &Ndp) -> Vec<u8> {
    let mut frame = ndp.emit()[..78].to_vec();
    frame[19] = 24;
    frame[56..58].fill(0);
    let icmp = pnet_packet::icmpv6::Icmpv6Packet::new(&frame[54..]).expect("long enough");
    let sum = pnet_packet::icmpv6::checksum(&icmp, &ndp.from, &ndp.to);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn without_the_option_the_source_of_the_frame_is_answered() {
    let ndp = Ndp {
        link_layer: None,
        ..solicitation(OURS)
    };
    let decision = decide(&without_option(&ndp), NODE, is_own, duty);
    assert_eq!(decision, Decision::Answer(question(&ndp), false));
}

#[test]
fn who_checks_whether_our_address_is_free_is_answered() {
    let ndp = Ndp {
        link_layer: None,
        from: Ipv6Addr::UNSPECIFIED,
        ..solicitation(OURS)
    };
    let decision = decide(&without_option(&ndp), NODE, is_own, duty);
    assert_eq!(decision, Decision::Answer(question(&ndp), false));
}

#[test]
fn what_is_not_answered_has_a_reason() {
    type Change = fn(&mut Ndp);
    let cases: [(Change, Ignored); 11] = [
        (|ndp| ndp.destination = OTHER, Ignored::OtherDestination),
        (
            |ndp| ndp.destination = MacAddr::broadcast(),
            Ignored::OtherDestination,
        ),
        // To us alone by IPv6, to everybody by Ethernet.
        (|ndp| ndp.to = OURS, Ignored::OtherDestination),
        (
            |ndp| ndp.link_layer = Some(MacAddr::zero()),
            Ignored::BadSender,
        ),
        (
            |ndp| ndp.link_layer = Some(MacAddr::broadcast()),
            Ignored::BadSender,
        ),
        (
            |ndp| ndp.source = MacAddr(0x33, 0x33, 0, 0, 0, 1),
            Ignored::BadSender,
        ),
        (|ndp| ndp.source = NODE, Ignored::OwnFrame),
        (|ndp| ndp.link_layer = Some(NODE), Ignored::OwnFrame),
        (
            |ndp| (ndp.kind, ndp.link_layer) = (ADVERTISEMENT, Some(OWN_OTHER)),
            Ignored::OwnFrame,
        ),
        (
            |ndp| (ndp.kind, ndp.target) = (ADVERTISEMENT, HELD),
            Ignored::Reply,
        ),
        (|ndp| ndp.target = FOREIGN, Ignored::NotOwned),
    ];
    for (change, reason) in cases {
        let mut ndp = solicitation(OURS);
        change(&mut ndp);
        assert_eq!(decision(&ndp), Decision::Ignore(reason), "{ndp:?}");
    }
    let short = decide(&[0; 13], NODE, is_own, duty);
    assert_eq!(
        short,
        Decision::Ignore(Ignored::MalformedNdp(Malformed::Short))
    );
}

#[test]
fn another_machine_that_uses_our_address_is_a_conflict() {
    let used: [fn(&mut Ndp); 2] = [|ndp| ndp.from = OURS, |ndp| ndp.kind = ADVERTISEMENT];
    for change in used {
        let mut ndp = solicitation(OURS);
        change(&mut ndp);
        let expected = Decision::Conflict(OURS.into(), CLIENT);
        assert_eq!(decision(&ndp), expected, "{ndp:?}");
    }
}

#[test]
fn the_duty_of_the_address_decides_what_becomes_of_a_solicitation() {
    let held = solicitation(HELD);
    assert_eq!(decision(&held), Decision::Hold(question(&held)));
    let passing = solicitation(PASSING);
    assert_eq!(
        decision(&passing),
        Decision::Answer(question(&passing), true)
    );
}

proptest! {
    #[test]
    fn any_bytes_that_are_answered_are_a_solicitation_for_our_address(
        changes in proptest::collection::vec((0..86_usize, any::<u8>()), 0..6),
    ) {
        let mut bytes = solicitation(OURS).emit();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Decision::Answer(question, _) = decide(&bytes, NODE, is_own, duty) {
            prop_assert_eq!(&bytes[12..14], [0x86, 0xdd]);
            prop_assert_eq!(&bytes[18..22], [0, 32, 58, 255]);
            prop_assert_eq!(&bytes[54..56], [135, 0]);
            prop_assert_eq!(&bytes[62..78], OURS.octets());
            prop_assert!(is_station(question.asker));
        }
    }
}
