use super::*;

fn good() -> v1::BgpPeer {
    v1::BgpPeer {
        name: "tor".to_owned(),
        cluster: "east".to_owned(),
        my_asn: 64512,
        peer_asn: 64513,
        address: "192.0.2.254".to_owned(),
        ..v1::BgpPeer::default()
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// The bad fields of a peer, or none.
fn bad(edit: impl FnOnce(&mut v1::BgpPeer)) -> Vec<String> {
    let mut wire = good();
    edit(&mut wire);
    let mut errors = FieldErrors::new();
    let peer = peer_from_wire(&mut errors, "peer", Some(&wire));
    fields_of(errors.finish(peer))
}

fn fields_of<T>(outcome: Result<T, Rejection>) -> Vec<String> {
    match outcome {
        Ok(_) => Vec::new(),
        Err(Rejection::Invalid(fields)) => fields.into_iter().map(|bad| bad.field).collect(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_with_a_peer_is_said_by_field() {
    type Edit = fn(&mut v1::BgpPeer);
    let table: [(&str, Edit); 31] = [
        ("name", |it| it.name.clear()),
        ("my_asn", |it| it.my_asn = 0),
        ("peer_asn", |it| it.peer_asn = 0),
        ("peer_asn", |it| it.dynamic_asn = 1),
        ("dynamic_asn", |it| it.dynamic_asn = 7),
        ("address", |it| it.address.clear()),
        ("address", |it| it.interface = "eth0".to_owned()),
        ("address", |it| it.address = "router.example".to_owned()),
        ("address", |it| it.address = "0.0.0.0".to_owned()),
        ("address", |it| it.address = "ff02::1".to_owned()),
        ("interface", |it| {
            it.address.clear();
            it.interface = "a/b".to_owned();
        }),
        ("port", |it| it.port = Some(65_536)),
        ("port", |it| it.port = Some(0)),
        ("source_address", |it| {
            it.source_address = "2001:db8::1".to_owned();
        }),
        ("source_address", |it| {
            it.source_address = "224.0.0.1".to_owned();
        }),
        ("router_id", |it| it.router_id = "0.0.0.0".to_owned()),
        ("router_id", |it| it.router_id = "2001:db8::1".to_owned()),
        ("hold_time", |it| it.hold_time = seconds(2)),
        ("hold_time", |it| it.hold_time = seconds(-3)),
        ("hold_time", |it| it.hold_time = seconds(65_536)),
        ("keepalive_time", |it| {
            it.hold_time = seconds(9);
            it.keepalive_time = seconds(10);
        }),
        ("keepalive_time", |it| {
            it.hold_time = seconds(0);
            it.keepalive_time = seconds(1);
        }),
        ("keepalive_time", |it| {
            it.keepalive_time = Some(prost_types::Duration {
                seconds: 0,
                nanos: 900_000_000,
            });
        }),
        ("keepalive_time", |it| it.keepalive_time = seconds(21_846)),
        ("connect_time", |it| it.connect_time = seconds(0)),
        ("connect_time", |it| it.connect_time = seconds(65_536)),
        ("connect_time", |it| {
            it.connect_time = Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            });
        }),
        ("password", |it| it.password = "x".repeat(81)),
        ("ebgp_multihop", |it| {
            it.peer_asn = it.my_asn;
            it.ebgp_multihop = true;
        }),
        ("vrf", |it| it.vrf = "a name of 16 by.".to_owned()),
        ("node_selectors[0].match_expressions[0].operator", |it| {
            it.node_selectors = vec![v1::LabelSelector {
                match_expressions: vec![v1::LabelSelectorRequirement {
                    key: "rack".to_owned(),
                    ..v1::LabelSelectorRequirement::default()
                }],
                ..v1::LabelSelector::default()
            }];
        }),
    ];
    for (index, (field, edit)) in table.into_iter().enumerate() {
        assert_eq!(bad(edit), [format!("peer.{field}")], "row {index}");
    }
    let mut errors = FieldErrors::new();
    let nothing = peer_from_wire(&mut errors, "peer", None);
    assert_eq!(fields_of(errors.finish(nothing)), ["peer"]);
}

#[test]
fn what_is_allowed_of_a_peer_is_taken_in() {
    type Edit = fn(&mut v1::BgpPeer);
    let table: [Edit; 8] = [
        |it| it.hold_time = seconds(0),
        |it| {
            it.hold_time = seconds(3);
            it.keepalive_time = seconds(3);
        },
        |it| it.keepalive_time = seconds(21_845),
        |it| it.connect_time = seconds(65_535),
        |it| {
            it.peer_asn = 0;
            it.dynamic_asn = DynamicAsn::External.into();
            it.ebgp_multihop = true;
        },
        |it| it.peer_asn = it.my_asn,
        |it| it.my_asn = u32::MAX,
        |it| {
            it.address.clear();
            it.interface = "eth0.100".to_owned();
        },
    ];
    for edit in table {
        assert_eq!(bad(edit), [""; 0]);
    }
}

#[test]
fn a_peer_comes_back_as_it_was_given_but_for_its_password() {
    let wire = v1::BgpPeer {
        local_asn: 64999,
        port: Some(1790),
        source_address: "192.0.2.1".to_owned(),
        router_id: "192.0.2.2".to_owned(),
        hold_time: seconds(9),
        keepalive_time: seconds(3),
        connect_time: seconds(5),
        bfd_profile: "fast".to_owned(),
        ebgp_multihop: true,
        graceful_restart: true,
        dual_stack: true,
        vrf: "red".to_owned(),
        node_selectors: vec![v1::LabelSelector::default()],
        revision: 7,
        ..good()
    };
    let given = v1::BgpPeer {
        password: "hush".to_owned(),
        ..wire.clone()
    };
    let mut errors = FieldErrors::new();
    let peer = peer_from_wire(&mut errors, "peer", Some(&given));
    let mut peer = errors.finish(peer).expect("a good peer");
    assert_eq!(peer.password.as_ref().map(Password::reveal), Some("hush"));
    assert_eq!(peer_to_wire(&peer), wire);
    // A store that was filled without passwords says so.
    (peer.password, peer.password_revision) = (None, 5);
    assert!(peer_to_wire(&peer).password_missing);
}

#[test]
fn what_is_wrong_with_a_profile_is_said_by_field() {
    let wire = v1::BfdProfile {
        name: "fast".to_owned(),
        receive_interval_ms: Some(10),
        transmit_interval_ms: Some(60_000),
        detect_multiplier: Some(255),
        passive_mode: true,
        minimum_ttl: Some(254),
        ..v1::BfdProfile::default()
    };
    let read = |wire: &v1::BfdProfile| {
        let mut errors = FieldErrors::new();
        let profile = profile_from_wire(&mut errors, "profile", Some(wire));
        errors.finish(profile)
    };
    assert_eq!(profile_to_wire(&read(&wire).expect("a good profile")), wire);
    type Edit = fn(&mut v1::BfdProfile);
    let table: [(&str, Edit); 9] = [
        ("name", |it| it.name.clear()),
        ("receive_interval_ms", |it| it.receive_interval_ms = Some(9)),
        ("receive_interval_ms", |it| {
            it.receive_interval_ms = Some(60_001)
        }),
        ("transmit_interval_ms", |it| {
            it.transmit_interval_ms = Some(9)
        }),
        ("transmit_interval_ms", |it| {
            it.transmit_interval_ms = Some(0)
        }),
        ("detect_multiplier", |it| it.detect_multiplier = Some(1)),
        ("detect_multiplier", |it| it.detect_multiplier = Some(256)),
        ("minimum_ttl", |it| it.minimum_ttl = Some(255)),
        ("minimum_ttl", |it| it.minimum_ttl = Some(0)),
    ];
    for (field, edit) in table {
        let mut bad = wire.clone();
        edit(&mut bad);
        assert_eq!(fields_of(read(&bad)), [format!("profile.{field}")]);
    }
}

#[test]
fn a_set_is_of_the_cluster_of_the_request() {
    let request = v1::SyncBgpPeersRequest {
        cluster: "west".to_owned(),
        peers: vec![good()],
        profiles: vec![v1::BfdProfile {
            name: "fast".to_owned(),
            ..v1::BfdProfile::default()
        }],
        ..v1::SyncBgpPeersRequest::default()
    };
    assert_eq!(fields_of(bgp_set(&request)), ["peers[0].cluster"]);
    let request = v1::SyncBgpPeersRequest {
        peers: vec![v1::BgpPeer {
            cluster: String::new(),
            ..good()
        }],
        ..request
    };
    let (_, set) = bgp_set(&request).expect("a good set");
    let BgpCommand::Sync {
        peers, profiles, ..
    } = set
    else {
        panic!("{set:?}");
    };
    let west = Name::parse("west").ok();
    assert_eq!(
        (&peers[0].key.cluster, &profiles[0].key.cluster),
        (&west, &west)
    );
}
