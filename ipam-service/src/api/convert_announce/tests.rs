use proptest::prelude::*;

use pharos_proto::feature::FENCED;

use super::*;
use pharos_proto::v1::advertisement as wire_advertisement;

use crate::state::bgp::community::Community;
use crate::state::model::{
    AdvertisementProtocol, Labels, Ownership as Promise, PreferredNodes, RouteAttributes,
};
use crate::state::refusal::InvalidField;
use crate::state::selector::{LabelSelector, Operator, Requirement};

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn fields(rejection: Rejection) -> Vec<String> {
    let Rejection::Invalid(invalid) = rejection else {
        panic!("{rejection}");
    };
    invalid.into_iter().map(|bad| bad.field).collect()
}

fn read(wire: &v1::Advertisement) -> Result<Advertisement, Rejection> {
    let mut errors = FieldErrors::new();
    let read = advertisement_from_wire(&mut errors, "advertisement", Some(wire));
    errors.finish(read)
}

fn l2(l2: wire_advertisement::L2) -> Option<wire_advertisement::Protocol> {
    Some(wire_advertisement::Protocol::L2(l2))
}

fn simple() -> v1::Advertisement {
    v1::Advertisement {
        name: "default".to_owned(),
        protocol: l2(wire_advertisement::L2::default()),
        ..v1::Advertisement::default()
    }
}

#[test]
fn defaults_are_filled_in() {
    let advertisement = read(&simple()).expect("valid");
    assert_eq!(advertisement.space, name("default"));
    assert_eq!(advertisement.key.cluster, None);
    let back = advertisement_to_wire(&advertisement);
    assert_eq!(back.address_space, "default");
}

#[test]
fn all_that_is_wrong_with_an_advertisement_is_said_at_once() {
    let preference = |weight, selector| wire_advertisement::PreferredNodes { weight, selector };
    let selector = Some(v1::LabelSelector::default());
    let bad_requirement = v1::LabelSelectorRequirement {
        key: "zone".to_owned(),
        operator: 99,
        values: Vec::new(),
    };
    let bad_selector = v1::LabelSelector {
        match_expressions: vec![bad_requirement],
        ..v1::LabelSelector::default()
    };
    let wire = v1::Advertisement {
        name: String::new(),
        pools: vec!["good".to_owned(), "b\nd".to_owned()],
        node_selectors: vec![bad_selector],
        protocol: l2(wire_advertisement::L2 {
            interfaces: vec![String::new()],
            preferred_nodes: vec![
                preference(0, selector.clone()),
                preference(101, selector.clone()),
                preference(100, None),
                preference(1, selector),
            ],
            ownership: 77,
        }),
        ..v1::Advertisement::default()
    };
    let expected = [
        "advertisement.name",
        "advertisement.pools[1]",
        "advertisement.node_selectors[0].match_expressions[0].operator",
        "advertisement.l2.ownership",
        "advertisement.l2.interfaces[0]",
        "advertisement.l2.preferred_nodes[0].weight",
        "advertisement.l2.preferred_nodes[1].weight",
        "advertisement.l2.preferred_nodes[2].selector",
    ];
    let mut found = fields(read(&wire).expect_err("invalid"));
    found.retain(|field| !field.ends_with(".values"));
    assert_eq!(found, expected);
}

#[test]
fn all_that_is_wrong_with_an_advertisement_by_bgp_is_said_at_once() {
    let by_bgp = |bgp: wire_advertisement::Bgp| v1::Advertisement {
        protocol: Some(wire_advertisement::Protocol::Bgp(bgp)),
        ..simple()
    };
    let bad = by_bgp(wire_advertisement::Bgp {
        peers: vec!["tor".to_owned(), String::new()],
        aggregation_length: Some(0),
        aggregation_length_v6: Some(129),
        local_pref: 0,
        communities: ["1:2", "1:70000", "no-export"].map(str::to_owned).to_vec(),
    });
    let expected = [
        "advertisement.bgp.peers[1]",
        "advertisement.bgp.aggregation_length",
        "advertisement.bgp.aggregation_length_v6",
        "advertisement.bgp.communities[1]",
        "advertisement.bgp.communities[2]",
    ];
    assert_eq!(fields(read(&bad).expect_err("invalid")), expected);
    // A wider prefix is about services that are not selected, too.
    let of_some = |length, length_v6| v1::Advertisement {
        service_selectors: vec![v1::LabelSelector::default()],
        ..by_bgp(wire_advertisement::Bgp {
            aggregation_length: length,
            aggregation_length_v6: length_v6,
            ..Default::default()
        })
    };
    for good in [(None, None), (Some(32), Some(128))] {
        read(&of_some(good.0, good.1)).expect("valid");
    }
    let both = fields(read(&of_some(Some(24), Some(64))).expect_err("invalid"));
    assert_eq!(both, expected[1..3]);
}

#[test]
fn a_set_of_one_protocol_has_no_advertisement_of_the_other() {
    let mut by_bgp = simple();
    by_bgp.name = "bgp".to_owned();
    by_bgp.protocol = Some(wire_advertisement::Protocol::Bgp(Default::default()));
    let all = [simple(), by_bgp];
    for (scope, wrong) in [
        (0, &[][..]),
        (1, &["advertisements[1].bgp"]),
        (2, &["advertisements[0].l2"]),
        (3, &["scope"]),
    ] {
        let read = advertisement_set(&v1::SyncAdvertisementsRequest {
            cluster: "east".to_owned(),
            advertisements: all.to_vec(),
            scope,
            ..v1::SyncAdvertisementsRequest::default()
        });
        assert_eq!(read.map_or_else(fields, |_| Vec::new()), wrong, "{scope}");
    }
}

#[test]
fn an_advertisement_must_say_how() {
    let wire = v1::Advertisement {
        protocol: None,
        ..simple()
    };
    assert_eq!(
        fields(read(&wire).expect_err("invalid")),
        ["advertisement.l2"]
    );
}

#[test]
fn a_set_belongs_to_its_cluster_and_names_each_advertisement_once() {
    let of = |own_name: &str, cluster: &str| v1::Advertisement {
        name: own_name.to_owned(),
        cluster: cluster.to_owned(),
        ..simple()
    };
    let request = |advertisements| v1::SyncAdvertisementsRequest {
        cluster: "east".to_owned(),
        advertisements,
        ..v1::SyncAdvertisementsRequest::default()
    };
    let good = request(vec![of("one", ""), of("two", "east")]);
    let (cluster, command) = advertisement_set(&good).expect("valid");
    assert_eq!(cluster, name("east"));
    let Command::SyncAdvertisements {
        advertisements: set,
        ..
    } = command
    else {
        panic!("{command:?}");
    };
    assert!(
        set.iter()
            .all(|one| one.key.cluster == Some(cluster.clone()))
    );
    let bad = request(vec![of("one", "west"), of("one", "")]);
    let found = fields(advertisement_set(&bad).expect_err("invalid"));
    assert_eq!(
        found,
        ["advertisements[0].cluster", "advertisements[1].name"]
    );
}

#[test]
fn facts_belong_to_the_cluster_of_their_stream() {
    let owner = |cluster: &str| v1::Owner {
        cluster: cluster.to_owned(),
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        uid: String::new(),
    };
    let removed = |cluster: &str| v1::SyncFactsRequest {
        fact: Some(wire_facts::Fact::BackendsRemoved(owner(cluster))),
    };
    let east = name("east");
    let expected = OwnerKey {
        cluster: east.clone(),
        namespace: Some(name("default")),
        name: name("web"),
    };
    for cluster in ["", "east"] {
        let said = said_from_wire(&east, &removed(cluster)).expect("valid");
        assert_eq!(said, Said::Backends(expected.clone(), None));
    }
    let found = fields(said_from_wire(&east, &removed("west")).expect_err("invalid"));
    assert_eq!(found, ["backends_removed.cluster"]);
}

#[test]
fn streams_open_with_hello_and_have_it_once() {
    let node_removed = v1::SyncFactsRequest {
        fact: Some(wire_facts::Fact::NodeRemoved("a".to_owned())),
    };
    let hello = v1::SyncFactsRequest {
        fact: Some(wire_facts::Fact::Hello(wire_facts::Hello {
            cluster: "east".to_owned(),
            ..wire_facts::Hello::default()
        })),
    };
    for wrong in [None, Some(&node_removed)] {
        assert_eq!(fields(facts_hello(wrong).expect_err("invalid")), ["hello"]);
    }
    assert!(facts_hello(Some(&hello)).is_ok());
    let again = said_from_wire(&name("east"), &hello).expect_err("invalid");
    assert_eq!(fields(again), ["hello"]);
}

#[test]
fn all_that_is_wrong_with_an_announcers_hello_is_said_at_once() {
    let report = |hello: Hello| v1::AnnouncerReport {
        report: Some(v1::announcer_report::Report::Hello(hello)),
    };
    let good = Hello {
        cluster: "east".to_owned(),
        node: "a".to_owned(),
        member_endpoint: "192.0.2.7:7946".to_owned(),
        digests: Digests::default().to_wire(),
        ..Hello::default()
    };
    assert!(announcer_hello(Some(&report(good.clone()))).is_ok());
    let later = Hello {
        features: vec!["of the future".to_owned(), FENCED.to_owned()],
        ..good.clone()
    };
    let read = announcer_hello(Some(&report(later))).expect("valid");
    assert!(read.announcer.features.contains(FENCED));
    let bad = Hello {
        cluster: String::new(),
        node: "x".repeat(254),
        member_endpoint: "here".to_owned(),
        digests: vec![0; 7],
        features: vec![FENCED.to_owned(), String::new(), "x".repeat(254)],
        ..good.clone()
    };
    let found = fields(announcer_hello(Some(&report(bad))).expect_err("invalid"));
    let expected = [
        "hello.cluster",
        "hello.node",
        "hello.member_endpoint",
        "hello.features[1]",
        "hello.features[2]",
        "hello.digests",
    ];
    assert_eq!(found, expected);
    let many = Hello {
        features: vec![FENCED.to_owned(); MAX_FEATURES + 1],
        ..good
    };
    let found = fields(announcer_hello(Some(&report(many))).expect_err("invalid"));
    assert_eq!(found, ["hello.features"]);
    assert_eq!(
        fields(announcer_hello(None).expect_err("invalid")),
        ["hello"]
    );
}

#[test]
fn the_endpoint_of_a_member_is_an_address_and_a_port() {
    let cases = [
        ("", Some("")),
        ("192.0.2.7:7946", Some("192.0.2.7:7946")),
        ("[2001:DB8::7]:7946", Some("[2001:db8::7]:7946")),
        ("192.0.2.7", None),
        ("192.0.2.7:0", None),
        ("node-a:7946", None),
    ];
    for (text, expected) in cases {
        let mut errors = FieldErrors::new();
        let read = endpoint(&mut errors, "endpoint", text);
        assert_eq!(read.as_deref(), expected, "{text}");
    }
}

#[test]
fn field_errors_carry_a_sentence() {
    let wire = v1::Advertisement::default();
    let Rejection::Invalid(invalid) = read(&wire).expect_err("invalid") else {
        panic!("invalid fields are expected");
    };
    let plain = |bad: &InvalidField| !bad.message.is_empty();
    assert!(invalid.iter().all(plain));
}

fn selectors() -> impl Strategy<Value = Vec<LabelSelector>> {
    let label = || ("[a-z]{1,5}", "[a-z]{0,5}");
    let labels = proptest::collection::btree_map(label().0, label().1, 0..3);
    let operators = [
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
    ];
    let operator = proptest::sample::select(operators.to_vec());
    let values = proptest::collection::btree_set("[a-z]{0,4}", 1..4);
    let requirement = ("[a-z]{1,5}", operator, values).prop_map(|(key, operator, values)| {
        let listed = matches!(operator, Operator::In | Operator::NotIn);
        Requirement {
            key,
            operator,
            values: values.into_iter().filter(|_| listed).collect(),
        }
    });
    let requirements = proptest::collection::vec(requirement, 0..3);
    let selector = (labels, requirements).prop_map(|(labels, match_expressions)| LabelSelector {
        match_labels: Labels::from_iter(labels),
        match_expressions,
    });
    proptest::collection::vec(selector, 0..3)
}

fn routes() -> impl Strategy<Value = RouteAttributes> {
    let community = prop_oneof![
        any::<[u16; 2]>().prop_map(Community::Standard),
        any::<[u32; 3]>().prop_map(Community::Large),
    ];
    let communities = proptest::collection::btree_set(community, 0..4);
    let peers = proptest::collection::btree_set("[a-z]{1,8}", 0..3);
    let lengths = prop_oneof![Just((32, 128)), (1..=32_u8, 0..=128_u8)];
    (peers, lengths, any::<u32>(), communities).prop_map(
        |(peers, (length_v4, length_v6), local_pref, communities)| RouteAttributes {
            peers: peers.iter().map(|text| name(text)).collect(),
            length_v4,
            length_v6,
            local_pref,
            communities,
        },
    )
}

proptest! {
    #[test]
    fn an_advertisement_survives_the_wire(
        key in (proptest::option::of("[a-z]{1,8}"), "[a-z]{1,8}"),
        pools in proptest::collection::btree_set("[a-z]{1,8}", 0..3),
        selectors in (selectors(), selectors(), selectors(), selectors()),
        interfaces in proptest::collection::btree_set("[a-z0-9]{1,8}", 0..3),
        weight in 1..=100_u32,
        revision in any::<u64>(),
        fenced in any::<bool>(),
        routes in proptest::option::of(routes()),
    ) {
        let (pool_selectors, node_selectors, mut service_selectors, preferred) = selectors;
        if routes.as_ref().is_some_and(|it| (it.length_v4, it.length_v6) != (32, 128)) {
            service_selectors.clear();
        }
        let preferred = preferred.into_iter();
        let advertisement = Advertisement {
            key: AdvertisementKey {
                cluster: key.0.map(|text| name(&text)),
                name: name(&key.1),
            },
            space: name("default"),
            pools: pools.iter().map(|text| name(text)).collect(),
            pool_selectors,
            node_selectors,
            service_selectors,
            protocol: match routes {
                Some(routes) => AdvertisementProtocol::Bgp(routes),
                None => AdvertisementProtocol::L2 {
                    interfaces,
                    preferred_nodes: preferred
                        .map(|selector| PreferredNodes { weight, selector })
                        .collect(),
                    ownership: if fenced { Promise::Fenced } else { Promise::Available },
                },
            },
            revision,
        };
        let read = read(&advertisement_to_wire(&advertisement));
        prop_assert_eq!(read, Ok(advertisement));
    }
}
