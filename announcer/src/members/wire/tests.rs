use super::*;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn steps_survive_the_wire_and_every_datagram_fits() {
    let now = Instant::now();
    let answered = |number: u64| Answered {
        asker: MacAddr(2, 0, 0xff, 0, 0, 9),
        from: Some(u32::MAX),
        target: match number % 2 {
            0 => IpAddr::from([192, 0, 2, 1]),
            _ => IpAddr::from([0xfd09, 0, 0xffff, 0, 1, 2, 3, 4]),
        },
        at: now - Duration::from_micros(1234),
    };
    let messages: Vec<(GroupId, handover::Message)> = (0..300)
        .map(|number| {
            let claim = Claim(u64::MAX - number);
            let message = match number % 3 {
                0 => handover::Message::Prepare(claim),
                1 => handover::Message::Ack(claim),
                _ => {
                    let report = Report {
                        probing: [
                            IpAddr::from([192, 0, 2, 7]),
                            IpAddr::V6(Ipv6Addr::LOCALHOST),
                        ]
                        .into(),
                        answered: vec![answered(number); 32],
                        truncated: true,
                        addresses: Some(u64::MAX),
                    };
                    handover::Message::Go(claim, report)
                }
            };
            (GroupId(u64::MAX - number), message)
        })
        .collect();
    let steps = messages
        .iter()
        .map(|(group, message)| Step::new(*group, message, now))
        .collect();
    let mut read = Vec::new();
    let [from, to] = ["node-with-a-name", "another-node-with-a-name"].map(|node| Peer {
        node: node.into(),
        endpoint: std::net::SocketAddr::from(([192, 0, 2, 1], 7946)),
        epoch: u64::MAX,
    });
    for datagram in pack_steps(&from, &to, steps) {
        let bytes = datagram.encode_to_vec();
        assert!(bytes.len() <= MAX_DATAGRAM, "{} bytes", bytes.len());
        let back = Datagram::decode(bytes.as_slice()).expect("decodes");
        if let Some(Body::Handover(handover)) = back.body {
            read.extend(handover.steps.into_iter().filter_map(|step| step.read(now)));
        }
    }
    assert_eq!(read, messages);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn what_an_earlier_build_does_not_say_is_not_said_and_no_address_is_one() {
    // The asker and the target of an earlier build: tags 1 and 2.
    let earlier = [0x08, 0x09, 0x15, 0x01, 0x02, 0x00, 0xc0];
    let now = Instant::now();
    let read = WireAnswered::decode(earlier.as_slice()).expect("decodes");
    assert_eq!(read.read(now).from, None);
    // Who checks whether an address is free asks from none.
    let check = Answered {
        from: Some(0),
        ..read.read(now)
    };
    let bytes = WireAnswered::new(&check, now).encode_to_vec();
    let back = WireAnswered::decode(bytes.as_slice()).expect("decodes");
    assert_eq!(back.read(now).from, Some(0));
}

#[test]
fn every_part_of_a_state_fits() {
    let statements: Vec<Statement> = (0..300)
        .map(|number| Statement {
            group: GroupId(u64::MAX),
            holder: (number % 7 == 0).then(|| "h".repeat(number).into()),
            claim: Some(Claim(u64::MAX)),
        })
        .collect();
    let mut read = Vec::new();
    for part in cut(&statements) {
        read.extend(part.iter().cloned().map(Statement::from));
        let state = State {
            version: Version {
                node: "n".repeat(253),
                epoch: u64::MAX,
                version: u64::MAX,
            },
            part: u32::MAX,
            parts: u32::MAX,
            condition: WireCondition {
                interfaces: vec!["interface-name1".to_owned(); 10],
                macs: vec![u64::MAX; 10],
                only_ipv4: (0..10).collect(),
                ..WireCondition::default()
            },
            statements: part,
        };
        let datagram = Datagram {
            body: Some(Body::State(state)),
        };
        let length = datagram.encoded_len();
        assert!(length <= MAX_DATAGRAM, "{length} bytes");
    }
    let named = |one: &Statement| one.holder.as_deref().unwrap_or_default().len();
    assert_eq!(read.len(), 300);
    assert!(
        read.iter()
            .zip(&statements)
            .all(|(a, b)| named(a) == named(b))
    );
    assert_eq!(cut(&[]).len(), 1);
}

#[test]
fn a_peer_without_a_usable_endpoint_is_refused() {
    for endpoint in ["", "192.0.2.1", "name:7946", "192.0.2.1:70000"] {
        let wire = WirePeer {
            node: "a".to_owned(),
            endpoint: endpoint.to_owned(),
            epoch: 1,
        };
        assert_eq!(Peer::try_from(wire), Err(BadPeer), "{endpoint}");
    }
    let beyond = WirePeer {
        node: "a".to_owned(),
        endpoint: "192.0.2.1:7946".to_owned(),
        epoch: u64::MAX,
    };
    assert_eq!(Peer::try_from(beyond), Err(BadPeer));
}

#[test]
fn which_interfaces_are_for_one_family_only_is_told_and_earlier_builds_mean_both() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let condition = Condition {
        ready: true,
        hold_down: false,
        draining: false,
        interfaces: names(&["a", "b", "c"]),
        interfaces6: names(&["b", "d"]),
        macs: BTreeSet::new(),
    };
    let wire = WireCondition::from(&condition);
    assert_eq!((wire.only_ipv4.len(), wire.only_ipv6.len()), (2, 1));
    assert_eq!(Condition::from(wire.clone()), condition);
    let earlier = WireCondition {
        only_ipv4: Vec::new(),
        only_ipv6: Vec::new(),
        ..wire
    };
    let read = Condition::from(earlier);
    assert_eq!(read.interfaces, read.interfaces6);
}
