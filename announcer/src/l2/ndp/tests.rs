use proptest::prelude::*;

use super::*;

const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const NODE: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
const CLIENT_IP: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0x12, 0x3456);

fn solicitation() -> Ndp {
    Ndp {
        destination: ethernet_group(solicited_node(ADDRESS)),
        source: CLIENT,
        from: CLIENT_IP,
        to: solicited_node(ADDRESS),
        kind: Kind::Solicitation,
        target: ADDRESS,
        link_layer: Some(CLIENT),
    }
}

/// Writes bytes into a frame and makes its checksum right again.
fn changed(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    with_checksum(frame)
}

fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let ip = Ipv6Packet::new(&frame[ETHERNET_HEADER..]).expect("long enough");
    let (from, to) = (ip.get_source(), ip.get_destination());
    let length = usize::from(ip.get_payload_length());
    let start = ETHERNET_HEADER + IPV6_HEADER;
    let end = (start + length).min(frame.len());
    if let Some(mut icmp) = MutableIcmpv6Packet::new(&mut frame[start..end]) {
        let sum = checksum(&icmp.to_immutable(), &from, &to);
        icmp.set_checksum(sum);
    }
    frame
}

#[test]
fn an_answer_has_these_bytes() {
    let frame = Ndp::answer((CLIENT, CLIENT_IP), ADDRESS, NODE).emit();
    let expected = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, // Ethernet
        0x60, 0, 0, 0, 0, 32, 58, 255, // version, length, ICMPv6, hop limit
        0xfd, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, // from
        0xfd, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // to
        136, 0, 0xb3, 0xb2, 0x60, 0, 0, 0, // advertisement, checksum, solicited and override
        0xfd, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, // target
        2, 1, 2, 0, 0, 0, 0, 2, // its link-layer address
    ];
    assert_eq!(frame, expected, "{frame:02x?}");
}

#[test]
fn who_checks_whether_an_address_is_free_is_told_with_everybody_else() {
    let answer = Ndp::answer((CLIENT, Ipv6Addr::UNSPECIFIED), ADDRESS, NODE);
    assert_eq!(answer, Ndp::unsolicited(ADDRESS, NODE));
    assert_eq!(answer.destination, MacAddr(0x33, 0x33, 0, 0, 0, 1));
    assert_eq!(answer.to, ALL_NODES);
    let expected = Kind::Advertisement {
        router: false,
        solicited: false,
        overrides: true,
    };
    assert_eq!((answer.kind, answer.link_layer), (expected, Some(NODE)));
}

#[test]
fn the_group_of_an_address_is_made_of_its_last_three_bytes() {
    let group = solicited_node(ADDRESS);
    assert_eq!(group.to_string(), "ff02::1:ff12:3456");
    assert_eq!(
        ethernet_group(group),
        MacAddr(0x33, 0x33, 0xff, 0x12, 0x34, 0x56)
    );
}

#[test]
fn every_way_to_be_malformed_has_its_name() {
    let good = solicitation().emit();
    let group = solicited_node(ADDRESS).octets();
    let cases: &[(usize, &[u8], Malformed)] = &[
        (12, &[8, 0], Malformed::NotIpv6),
        (12, &[0x81, 0], Malformed::NotIpv6),
        (14, &[0x40], Malformed::NotIpv6),
        // Hop by hop options, a fragment, UDP.
        (20, &[0], Malformed::NotNeighbour),
        (20, &[44], Malformed::NotNeighbour),
        (20, &[17], Malformed::NotNeighbour),
        (21, &[254], Malformed::HopLimit),
        (21, &[1], Malformed::HopLimit),
        (22, &[0xff], Malformed::Source),
        (18, &[0, 33], Malformed::Short),
        (18, &[0, 23], Malformed::Length),
        (18, &[0, 3], Malformed::Length),
        (18, &[0, 31], Malformed::Option),
        (18, &[0, 25], Malformed::Option),
        // Echo, router solicitation, redirect.
        (54, &[128], Malformed::NotNeighbour),
        (54, &[133], Malformed::NotNeighbour),
        (54, &[137], Malformed::NotNeighbour),
        (55, &[1], Malformed::Code),
        (62, &group, Malformed::Target),
        (79, &[0], Malformed::Option),
        (79, &[2], Malformed::Option),
        // From nowhere, but with a link-layer address.
        (22, &[0; 16], Malformed::Unspecified),
        // An advertisement to a group that claims to be an answer.
        (54, &[136, 0, 0, 0, 0x40], Malformed::Solicited),
    ];
    for (at, bytes, expected) in cases {
        let frame = changed(&good, *at, bytes);
        assert_eq!(Ndp::parse(&frame), Err(*expected), "{bytes:?} at {at}");
    }
    for at in [56, 57, 62, 77, 85, 22, 38] {
        let mut frame = good;
        frame[at] ^= 1;
        assert_eq!(Ndp::parse(&frame), Err(Malformed::Checksum), "byte {at}");
    }
    for length in 0..good.len() {
        assert!(Ndp::parse(&good[..length]).is_err(), "{length} bytes");
    }
}

/// A solicitation with these options, or none.
fn with_options(from: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let mut frame = solicitation().emit()[..ETHERNET_HEADER + IPV6_HEADER + FIXED].to_vec();
    frame.extend(options);
    frame[18..20].copy_from_slice(&((FIXED + options.len()) as u16).to_be_bytes());
    frame[22..38].copy_from_slice(&from.octets());
    with_checksum(frame)
}

#[test]
fn a_solicitation_without_options_or_with_others_is_read() {
    let link_layer =
        |options: &[u8]| Ndp::parse(&with_options(CLIENT_IP, options)).map(|ndp| ndp.link_layer);
    let nonce = [14, 1, 9, 9, 9, 9, 9, 9];
    let source = [1, 1, 2, 0, 0, 0, 0, 1];
    let long = [&[200, 2], [7; 14].as_slice()].concat();
    assert_eq!(link_layer(&[]), Ok(None));
    assert_eq!(link_layer(&nonce), Ok(None));
    assert_eq!(link_layer(&[nonce, source].concat()), Ok(Some(CLIENT)));
    assert_eq!(
        link_layer(&[&long, source.as_slice()].concat()),
        Ok(Some(CLIENT))
    );
    // That of the target has no meaning here.
    assert_eq!(link_layer(&[2, 1, 2, 0, 0, 0, 0, 9]), Ok(None));
    // Padding of the frame.
    let mut padded = with_options(CLIENT_IP, &[]);
    padded.extend([0; 30]);
    assert_eq!(Ndp::parse(&padded).map(|ndp| ndp.link_layer), Ok(None));
}

#[test]
fn a_solicitation_from_nowhere_is_one_to_the_group_of_its_target_without_an_option() {
    let nowhere = Ipv6Addr::UNSPECIFIED;
    let good = with_options(nowhere, &[]);
    let parsed = Ndp::parse(&good).expect("good");
    assert_eq!((parsed.from, parsed.link_layer), (nowhere, None));
    let nonce = with_options(nowhere, &[14, 1, 9, 9, 9, 9, 9, 9]);
    assert!(Ndp::parse(&nonce).is_ok());
    for to in [ALL_NODES, ADDRESS, solicited_node(CLIENT_IP)] {
        let other = changed(&good, 38, &to.octets());
        assert_eq!(Ndp::parse(&other), Err(Malformed::Unspecified), "{to}");
    }
}

fn ndp() -> impl Strategy<Value = Ndp> {
    let mac = || any::<[u8; 6]>().prop_map(MacAddr::from);
    let ip = || {
        any::<[u8; 16]>().prop_map(|mut octets| {
            octets[0] &= 0x7f;
            Ipv6Addr::from(octets)
        })
    };
    let kind = prop_oneof![Just(0), 1..=0xff_u8].prop_map(|flags| match flags {
        0 => Kind::Solicitation,
        flags => Kind::advertisement(flags),
    });
    (mac(), mac(), ip(), ip(), kind, ip(), mac()).prop_map(
        |(destination, source, from, to, kind, target, link_layer)| Ndp {
            destination,
            source,
            from,
            to,
            kind,
            target,
            link_layer: Some(link_layer),
        },
    )
}

proptest! {
    #[test]
    fn a_frame_reads_back_as_it_was_built(ndp in ndp()) {
        prop_assert_eq!(Ndp::parse(&ndp.emit()), Ok(ndp));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        dressed in any::<bool>(),
    ) {
        if dressed && bytes.len() >= 80 {
            let length = (bytes.len() - 54) as u16;
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            bytes[18..22].copy_from_slice(&[length.to_be_bytes()[0], length.to_be_bytes()[1], 58, 255]);
            bytes[22] = 0xfe;
            bytes[54..56].copy_from_slice(&[135, 0]);
            bytes[62] = 0xfd;
            bytes = with_checksum(bytes);
        }
        if let Ok(ndp) = Ndp::parse(&bytes) {
            prop_assert_eq!(bytes[21], 255);
            prop_assert_eq!(&ndp.target.octets()[..], &bytes[62..78]);
        }
    }
}
