//! What holds for any configuration, however odd.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use pharos_proto::v1;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::settings;
use super::site::Site;
use crate::crd::{
    BgpSpec, CommunityAlias, CommunitySpec, L2Spec, PeerSpec, PoolSpec, ProfileSpec, SecretRef,
    ServiceAllocation,
};
use crate::eligibility::NodeState;
use crate::policy::admission::{Change, review};
use crate::policy::{Configuration, Declared, Finding, Object, Severity, Subject};

/// Names are few, so that objects meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Mostly from the list, sometimes anything.
fn text(usual: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![9 => select(usual).prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn names() -> impl Strategy<Value = Vec<String>> {
    vec(text(&NAMES), 0..3)
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let labels = option::of(vec((text(&["x", "y"]), text(&["1", "2"])), 0..2));
    let operators = &["In", "NotIn", "Exists", "DoesNotExist"];
    let values = option::of(vec(text(&["1", "2"]), 0..3));
    let expression =
        (text(&["x", "y"]), text(operators), values).prop_map(|(key, operator, values)| {
            LabelSelectorRequirement {
                key,
                operator,
                values,
            }
        });
    let expressions = option::of(vec(expression, 0..2));
    (labels, expressions).prop_map(|(labels, match_expressions)| LabelSelector {
        match_labels: labels.map(BTreeMap::from_iter),
        match_expressions,
    })
}

fn selectors() -> impl Strategy<Value = Vec<LabelSelector>> {
    prop_oneof![2 => Just(Vec::new()), 1 => vec(selector(), 1..3)]
}

fn addresses() -> impl Strategy<Value = Vec<String>> {
    let usual = &[
        "192.0.2.0/24",
        "192.0.2.0/28",
        "192.0.2.16/28",
        "192.0.2.3 - 192.0.2.9",
        "198.51.100.7-198.51.100.30",
        "203.0.113.0/24",
        "2001:db8::/64",
        "2001:db8::1-2001:db8::ffff",
        "0.0.0.0/0",
        "::/0",
        "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "192.0.2.9-192.0.2.1",
        "10.0.0.1-2001:db8::1",
    ];
    vec(text(usual), 0..3)
}

fn pool() -> impl Strategy<Value = PoolSpec> {
    let who = (any::<i64>(), names(), selectors(), selectors()).prop_map(
        |(priority, namespaces, namespace_selectors, service_selectors)| ServiceAllocation {
            priority,
            namespaces,
            namespace_selectors,
            service_selectors,
        },
    );
    (addresses(), option::of(who)).prop_map(|(addresses, service_allocation)| PoolSpec {
        addresses,
        service_allocation,
        ..PoolSpec::default()
    })
}

fn l2() -> impl Strategy<Value = L2Spec> {
    (names(), selectors(), selectors()).prop_map(|(pools, pool_selectors, node_selectors)| L2Spec {
        pools,
        pool_selectors,
        node_selectors,
        ..L2Spec::default()
    })
}

fn bgp() -> impl Strategy<Value = BgpSpec> {
    let length = || option::of(prop_oneof![9 => 20..130_i32, 1 => any::<i32>()]);
    let communities = vec(
        text(&["1:2", "large:1:2:3", "NAME", "lar:1:2:3", "1:2:3"]),
        0..3,
    );
    let lists = (names(), selectors(), selectors(), names(), selectors());
    (length(), length(), 0..3_u32, communities, lists).prop_map(
        |(aggregation_length, aggregation_length_v6, local_pref, communities, lists)| {
            let (pools, pool_selectors, node_selectors, peers, service_selectors) = lists;
            BgpSpec {
                aggregation_length,
                aggregation_length_v6,
                local_pref,
                communities,
                pools,
                pool_selectors,
                node_selectors,
                peers,
                service_selectors,
            }
        },
    )
}

fn communities() -> impl Strategy<Value = CommunitySpec> {
    let alias = (
        text(&["NAME", "OTHER"]),
        text(&["1:2", "large:1:2:3", "lar:1:2:3"]),
    )
        .prop_map(|(name, value)| CommunityAlias { name, value });
    vec(alias, 0..3).prop_map(|communities| CommunitySpec { communities })
}

/// Most are sound: what is wrong with two of them is looked for only then.
fn peer() -> impl Strategy<Value = PeerSpec> {
    prop_oneof![3 => sound_peer(), 1 => any_peer()]
}

fn sound_peer() -> impl Strategy<Value = PeerSpec> {
    let texts = (
        select(&["192.0.2.1", "192.0.2.2"]),
        select(&["", "10.0.0.1"]),
        select(&["", "red"]),
    );
    (1..3_u32, texts).prop_map(|(my_asn, (address, router_id, vrf))| PeerSpec {
        my_asn,
        peer_asn: 7,
        address: address.to_owned(),
        router_id: router_id.to_owned(),
        vrf: vrf.to_owned(),
        ..PeerSpec::default()
    })
}

fn any_peer() -> impl Strategy<Value = PeerSpec> {
    let time = || {
        option::of(text(&[
            "0s",
            "3s",
            "90s",
            "1m30s",
            "1.5h",
            "-1s",
            "2562047h47m",
        ]))
    };
    let address = || {
        text(&[
            "",
            "192.0.2.1",
            "192.0.2.2",
            "2001:db8::1",
            "::ffff:192.0.2.1",
        ])
    };
    let numbers = (0..3_u32, 0..3_u32, select(&[0, 179, 1179]), any::<bool>());
    let texts = (
        text(&["", "internal", "external"]),
        text(&["", "eth0"]),
        text(&["", "red"]),
    );
    let places = (
        address(),
        address(),
        text(&["", "10.0.0.1"]),
        text(&["", "a"]),
    );
    (
        numbers,
        texts,
        places,
        (time(), time(), time()),
        selectors(),
    )
        .prop_map(|(numbers, texts, places, times, node_selectors)| PeerSpec {
            my_asn: numbers.0,
            peer_asn: numbers.1,
            port: numbers.2,
            ebgp_multi_hop: numbers.3,
            dynamic_asn: texts.0,
            interface: texts.1,
            vrf: texts.2.clone(),
            password: texts.2,
            address: places.0,
            source_address: places.1,
            router_id: places.2,
            bfd_profile: places.3.clone(),
            password_secret: SecretRef {
                name: places.3,
                namespace: String::new(),
            },
            hold_time: times.0,
            keepalive_time: times.1,
            connect_time: times.2,
            node_selectors,
            ..PeerSpec::default()
        })
}

fn profile() -> impl Strategy<Value = ProfileSpec> {
    let value = || option::of(prop_oneof![0..300_u32, any::<u32>()]);
    (value(), value(), option::of(any::<bool>())).prop_map(|(interval, multiplier, echo_mode)| {
        ProfileSpec {
            receive_interval: interval,
            detect_multiplier: multiplier,
            echo_mode,
            ..ProfileSpec::default()
        }
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    vec((text(&["x", "y"]), text(&["1", "2"])), 0..2).prop_map(BTreeMap::from_iter)
}

/// One of them may be unreadable.
fn declared<S: Clone + std::fmt::Debug>(
    name: &str,
    spec: impl Strategy<Value = S>,
) -> impl Strategy<Value = Declared<S>> {
    let name = name.to_owned();
    let spec = prop_oneof![19 => spec.prop_map(Ok), 1 => Just(Err("unreadable".to_owned()))];
    (labels(), spec).prop_map(move |(labels, spec)| Declared {
        name: name.clone(),
        labels,
        annotations: BTreeMap::new(),
        spec,
    })
}

/// Some objects of a kind, each with a name of its own.
fn some<S, T>(spec: impl Fn() -> T) -> impl Strategy<Value = Vec<Declared<S>>>
where
    S: Clone + std::fmt::Debug,
    T: Strategy<Value = S>,
{
    let each: Vec<_> = NAMES
        .iter()
        .map(|name| option::of(declared(name, spec())))
        .collect();
    each.prop_map(|objects| objects.into_iter().flatten().collect())
}

fn nodes() -> impl Strategy<Value = Vec<NodeState>> {
    vec((labels(), text(&["192.0.2.1", "2001:db8::1"])), 0..4).prop_map(|nodes| {
        let nodes = nodes.into_iter().enumerate();
        nodes
            .map(|(index, (labels, address))| NodeState {
                fact: v1::NodeFact {
                    name: format!("n{index}"),
                    labels: labels.into_iter().collect(),
                    ..v1::NodeFact::default()
                },
                addresses: address.parse().into_iter().collect(),
            })
            .collect()
    })
}

fn site() -> impl Strategy<Value = Site> {
    let kinds = (
        some(pool),
        some(l2),
        some(bgp),
        some(communities),
        some(peer),
        some(profile),
    );
    (kinds, nodes()).prop_map(|(kinds, nodes)| {
        let (pools, l2, bgp, communities, peers, profiles) = kinds;
        Site {
            pools,
            l2,
            bgp,
            communities,
            peers,
            profiles,
            nodes,
        }
    })
}

/// Names in the opposite order: objects are looked at by name.
fn renamed(name: &str) -> String {
    let index = NAMES.iter().position(|it| *it == name);
    let other = index.map(|index| NAMES[NAMES.len() - 1 - index]);
    other.unwrap_or(name).to_owned()
}

fn rename_all<'a>(names: impl IntoIterator<Item = &'a mut String>) {
    for name in names {
        *name = renamed(name);
    }
}

/// The same site under other names, so that everything is looked at in another order.
fn reversed(site: &Site) -> Site {
    let mut site = site.clone();
    rename_all(site.pools.iter_mut().map(|it| &mut it.name));
    rename_all(site.l2.iter_mut().map(|it| &mut it.name));
    rename_all(site.bgp.iter_mut().map(|it| &mut it.name));
    rename_all(site.communities.iter_mut().map(|it| &mut it.name));
    rename_all(site.peers.iter_mut().map(|it| &mut it.name));
    rename_all(site.profiles.iter_mut().map(|it| &mut it.name));
    for spec in site.l2.iter_mut().flat_map(|it| &mut it.spec) {
        rename_all(&mut spec.pools);
    }
    for spec in site.bgp.iter_mut().flat_map(|it| &mut it.spec) {
        rename_all(spec.pools.iter_mut().chain(&mut spec.peers));
    }
    for spec in site.peers.iter_mut().flat_map(|it| &mut it.spec) {
        rename_all([&mut spec.bfd_profile]);
    }
    site.nodes.reverse();
    site
}

/// What is found where, whatever the words, which name others.
fn places(
    configuration: &Configuration,
    name: impl Fn(&str) -> String,
) -> BTreeSet<(Subject, String, Severity)> {
    let findings = configuration.findings().iter();
    let place = |it: &Finding| {
        let object = Subject::new(it.object.kind, &name(&it.object.name));
        (object, it.field.clone(), it.severity)
    };
    findings.map(place).collect()
}

/// Who is wrong, and where, leaving out what is wrong only because of one object.
fn wrong(configuration: &Configuration, without: &Subject) -> BTreeSet<(Subject, String)> {
    let findings = configuration.findings().iter();
    let errors = findings.filter(|finding| finding.severity == Severity::Error);
    let concerned = |it: &&Finding| it.object != *without && !it.with.contains(without);
    let place = |finding: &Finding| (finding.object.clone(), finding.field.clone());
    errors.filter(concerned).map(place).collect()
}

proptest! {
    /// Also: the parser gets through whatever is given.
    #[test]
    fn the_verdict_does_not_depend_on_the_order_of_objects(site in site()) {
        let one = site.examine();
        let two = reversed(&site).examine();
        prop_assert_eq!(places(&one, renamed), places(&two, str::to_owned));
    }

    #[test]
    fn an_object_makes_nobody_wrong_whom_it_has_nothing_to_do_with(
        site in site(),
        pool in declared("new", pool()),
        ad in declared("new", bgp()),
        peer in declared("new", peer()),
        names in declared("new", communities()),
    ) {
        for new in [
            Object::Pool(&pool),
            Object::BgpAdvertisement(&ad),
            Object::Peer(&peer),
            Object::Community(&names),
        ] {
            let subject = new.subject();
            let before = site.examine();
            let after = crate::policy::examine(&site.objects().with(new), &settings());
            let (before, after) = (wrong(&before, &subject), wrong(&after, &subject));
            // A name that a Community gives may be what a text with a colon was meant to be.
            let names = |place: &&(Subject, String)| !place.1.starts_with("spec.communities");
            let added: Vec<_> = after.difference(&before).filter(names).collect();
            prop_assert!(added.is_empty(), "{added:?}");
        }
    }

    #[test]
    fn a_change_that_is_admitted_makes_nobody_wrong(
        site in site(),
        pool in declared("a", pool()),
        ad in declared("a", bgp()),
        peer in declared("a", peer()),
    ) {
        for new in [Object::Pool(&pool), Object::BgpAdvertisement(&ad), Object::Peer(&peer)] {
            let existing = site.objects();
            let verdict = review(&existing, &Change::Update(new), "ours", "ours", &settings());
            if !verdict.errors.is_empty() {
                continue;
            }
            let in_error = |configuration: &Configuration| {
                let findings = configuration.findings().iter();
                let errors = findings.filter(|it| it.severity == Severity::Error);
                errors.map(|it| it.object.clone()).collect::<BTreeSet<_>>()
            };
            let before = in_error(&site.examine());
            let after = in_error(&crate::policy::examine(&existing.with(new), &settings()));
            let added: Vec<_> = after.difference(&before).collect();
            prop_assert!(added.is_empty(), "{added:?}");
        }
    }
}
