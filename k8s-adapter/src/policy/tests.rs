//! What an IPAddressPool and an L2Advertisement become, and what is refused.

mod bgp;
mod changes;
mod conflicts;
mod limits;
mod messages;
mod peers;
mod properties;
mod selectors;
mod site;
mod warnings;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::crd::{L2Spec, PoolSpec};

fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "lab".to_owned(),
        ignore_exclude_lb: false,
    }
}

fn declared<S: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Declared<S> {
    Declared {
        name: name.to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "edge".to_owned())]),
        annotations: BTreeMap::new(),
        spec: serde_json::from_value(spec).map_err(|error| error.to_string()),
    }
}

fn pools(
    declared: &[Declared<PoolSpec>],
    settings: &Settings,
) -> Result<Vec<v1::Pool>, Vec<Finding>> {
    let objects = Objects {
        pools: Known::all(declared),
        ..Objects::default()
    };
    let configuration = examine(&objects, settings);
    let owned = |errors: Vec<&Finding>| errors.into_iter().cloned().collect();
    configuration.pools().map(<[_]>::to_vec).map_err(owned)
}

fn advertisements(
    declared: &[Declared<L2Spec>],
    settings: &Settings,
) -> Result<Vec<v1::Advertisement>, Vec<Finding>> {
    let objects = Objects {
        l2: Known::all(declared),
        ..Objects::default()
    };
    let configuration = examine(&objects, settings);
    let owned = |errors: Vec<&Finding>| errors.into_iter().cloned().collect();
    configuration.l2().map(<[_]>::to_vec).map_err(owned)
}

fn one_pool(spec: Value) -> Result<v1::Pool, Vec<Finding>> {
    pools(&[declared("p", spec)], &settings()).map(|mut pools| pools.remove(0))
}

/// The errors of a set of pools as (object, field, message).
fn pool_errors(sets: &[(&str, Value)]) -> Vec<(String, String, String)> {
    let declared: Vec<Declared<PoolSpec>> = sets
        .iter()
        .map(|(name, spec)| declared(name, spec.clone()))
        .collect();
    let errors = pools(&declared, &settings()).expect_err("refused");
    errors
        .into_iter()
        .map(|error| (error.object.to_string(), error.field, error.message))
        .collect()
}

#[test]
fn every_field_of_a_pool_arrives() {
    let pool = one_pool(json!({
        "addresses": ["192.0.2.0/28", "192.0.2.100 - 192.0.2.120", "2001:db8::/120"],
        "autoAssign": false, "avoidBuggyIPs": true,
        "serviceAllocation": {
            "priority": 50, "namespaces": ["a", "b"],
            "namespaceSelectors": [{ "matchLabels": { "team": "x" } }],
            "serviceSelectors": [{ "matchExpressions": [
                { "key": "tier", "operator": "NotIn", "values": ["back"] },
                { "key": "public", "operator": "Exists" },
            ] }],
        },
    }))
    .expect("accepted");
    assert_eq!((pool.name.as_str(), pool.cluster.as_str()), ("p", "east"));
    assert_eq!(pool.address_space, "lab");
    assert_eq!(pool.addresses.len(), 3);
    assert_eq!(
        (pool.auto_assign, pool.avoid_buggy_ips),
        (Some(false), true)
    );
    assert_eq!((pool.allocation_priority, pool.namespaces.len()), (50, 2));
    assert_eq!(pool.namespace_selectors[0].match_labels["team"], "x");
    let expressions = &pool.service_selectors[0].match_expressions;
    assert_eq!(
        expressions
            .iter()
            .map(v1::LabelSelectorRequirement::operator)
            .collect::<Vec<_>>(),
        [
            v1::label_selector_requirement::Operator::NotIn,
            v1::label_selector_requirement::Operator::Exists
        ]
    );
    assert_eq!(pool.labels["zone"], "edge");
}

#[test]
fn defaults_are_metallbs() {
    let pool = one_pool(json!({ "addresses": ["192.0.2.0/28"] })).expect("accepted");
    assert_eq!(
        (pool.auto_assign, pool.avoid_buggy_ips),
        (Some(true), false)
    );
    assert_eq!(pool.allocation_priority, 0);
    let allocation =
        json!({ "addresses": ["192.0.2.0/28"], "serviceAllocation": { "priority": 3 } });
    assert_eq!(
        one_pool(allocation).expect("accepted").allocation_priority,
        3
    );
}

#[test]
fn bad_addresses_are_refused_with_their_field() {
    for (address, message) in [
        ("192.0.2.1", "invalid CIDR \"192.0.2.1\""),
        ("192.0.2.0/33", "invalid CIDR \"192.0.2.0/33\""),
        (
            "::ffff:192.0.2.0/120",
            "invalid CIDR \"::ffff:192.0.2.0/120\"",
        ),
        ("", "invalid CIDR \"\""),
        (
            "x-192.0.2.9",
            "invalid IP range \"x-192.0.2.9\": invalid start IP \"x\"",
        ),
        (
            "192.0.2.1-y",
            "invalid IP range \"192.0.2.1-y\": invalid end IP \"y\"",
        ),
        (
            "192.0.2.9-192.0.2.1",
            "invalid IP range \"192.0.2.9-192.0.2.1\": start IP \"192.0.2.9\" is after the end IP \"192.0.2.1\"",
        ),
        (
            "192.0.2.1-2001:db8::1",
            "invalid IP range \"192.0.2.1-2001:db8::1\": start and end are of different families",
        ),
    ] {
        assert_eq!(
            pool_errors(&[("p", json!({ "addresses": ["198.51.100.0/24", address] }))]),
            [(
                "IPAddressPool \"p\"".to_owned(),
                "spec.addresses[1]".to_owned(),
                format!("invalid CIDR {address:?} in pool \"p\": {message}")
            )]
        );
    }
    let errors = pool_errors(&[("p", json!({ "addresses": [] }))]);
    assert_eq!(errors[0].2, "pool has no prefixes defined");
}

#[test]
fn overlapping_ranges_are_refused_in_one_pool_and_across_pools() {
    for sets in [
        vec![(
            "a",
            json!({ "addresses": ["192.0.2.0/28", "192.0.2.15-192.0.2.20"] }),
        )],
        vec![
            ("a", json!({ "addresses": ["192.0.2.0/24"] })),
            ("b", json!({ "addresses": ["192.0.2.7/32"] })),
        ],
        vec![
            (
                "a",
                json!({ "addresses": ["2001:db8::/64", "192.0.2.0/24"] }),
            ),
            ("b", json!({ "addresses": ["2001:db8::5-2001:db8::9"] })),
        ],
    ] {
        let errors = pool_errors(&sets);
        // Each of the two ranges is told of the other.
        assert_eq!(errors.len(), 2, "{errors:?}");
        for (_, _, message) in &errors {
            assert!(
                message.contains("overlaps with already defined CIDR"),
                "{message}"
            );
        }
    }
    let apart = [
        declared("a", json!({ "addresses": ["192.0.2.0/28"] })),
        declared("b", json!({ "addresses": ["192.0.2.16-192.0.2.31"] })),
    ];
    assert!(pools(&apart, &settings()).is_ok());
}

#[test]
fn a_range_inside_a_wide_one_is_found_behind_a_narrow_one() {
    let errors = pool_errors(&[
        ("wide", json!({ "addresses": ["192.0.2.0/24"] })),
        ("one", json!({ "addresses": ["192.0.2.3/32"] })),
        ("two", json!({ "addresses": ["192.0.2.200/32"] })),
    ]);
    let objects = errors.iter().map(|(object, _, _)| object.as_str());
    let expected = ["one", "two", "wide"].map(|name| format!("IPAddressPool {name:?}"));
    assert_eq!(objects.collect::<Vec<_>>(), expected);
}

#[test]
fn repetitions_and_bad_selectors_are_refused() {
    let allocation = |field: &str, value: Value| {
        let spec = json!({ "addresses": ["192.0.2.0/28"], "serviceAllocation": { field: value } });
        let errors = pool_errors(&[("p", spec)]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        (errors[0].1.clone(), errors[0].2.clone())
    };
    let field = |text: &str| format!("spec.serviceAllocation.{text}");
    let expression = |key: &str, operator: &str, values: Value| json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]);
    for (found, expected) in [
        (
            allocation("namespaces", json!(["a", "b", "a"])),
            (
                field("namespaces[2]"),
                "duplicate definition in namespaces field",
            ),
        ),
        (
            allocation(
                "serviceSelectors",
                json!([{ "matchLabels": { "a": "b" } }, { "matchLabels": { "a": "b" } }]),
            ),
            (
                field("serviceSelectors[1]"),
                "duplicate definition of serviceSelectors",
            ),
        ),
        (
            allocation("serviceSelectors", expression("a", "In", json!(["x", "x"]))),
            (
                field("serviceSelectors[0].matchExpressions[0].values[1]"),
                "duplicate definition of values",
            ),
        ),
        (
            allocation("namespaceSelectors", expression("a", "Near", json!([]))),
            (
                field("namespaceSelectors[0].matchExpressions[0].operator"),
                "\"Near\" is not a valid label selector operator",
            ),
        ),
        (
            allocation("namespaceSelectors", expression("a", "In", json!([]))),
            (
                field("namespaceSelectors[0].matchExpressions[0].values"),
                "must be given for In and NotIn",
            ),
        ),
        (
            allocation(
                "namespaceSelectors",
                expression("a", "Exists", json!(["x"])),
            ),
            (
                field("namespaceSelectors[0].matchExpressions[0].values"),
                "must be empty for Exists and DoesNotExist",
            ),
        ),
    ] {
        assert_eq!(found, (expected.0, expected.1.to_owned()));
    }
}

#[test]
fn all_errors_of_a_set_are_told_at_once_and_nothing_else_is_taken() {
    let errors = pool_errors(&[
        ("a", json!({ "addresses": ["nonsense"] })),
        ("b", json!({ "addresses": ["192.0.2.0/28"] })),
        ("c", json!({ "addresses": 7 })),
    ]);
    let objects: Vec<&str> = errors
        .iter()
        .map(|(object, _, _)| object.as_str())
        .collect();
    assert_eq!(objects, ["IPAddressPool \"a\"", "IPAddressPool \"c\""]);
}

#[test]
fn every_field_of_an_l2_advertisement_arrives() {
    let declared = [declared(
        "ad",
        json!({
            "ipAddressPools": ["a", "b"],
            "ipAddressPoolSelectors": [{ "matchLabels": { "zone": "edge" } }],
            "nodeSelectors": [{ "matchLabels": { "rack": "1" } }],
            "interfaces": ["eth0", "eth1"],
            "serviceSelectors": [{ "matchLabels": { "tier": "front" } }],
            "preferredNodeSelectors": [{ "weight": 7, "preference": { "matchLabels": { "ssd": "yes" } } }],
        }),
    )];
    let ad = advertisements(&declared, &settings())
        .expect("accepted")
        .remove(0);
    assert_eq!(
        (
            ad.name.as_str(),
            ad.cluster.as_str(),
            ad.address_space.as_str()
        ),
        ("ad", "east", "lab")
    );
    assert_eq!(ad.pools, ["a", "b"]);
    assert_eq!(ad.pool_selectors[0].match_labels["zone"], "edge");
    assert_eq!(ad.node_selectors[0].match_labels["rack"], "1");
    assert_eq!(ad.service_selectors[0].match_labels["tier"], "front");
    let Some(v1::advertisement::Protocol::L2(l2)) = ad.protocol else {
        panic!("no layer 2");
    };
    assert_eq!(l2.interfaces, ["eth0", "eth1"]);
    assert_eq!(l2.ownership(), v1::advertisement::l2::Ownership::Available);
    assert_eq!(l2.preferred_nodes[0].weight, 7);
    let selector = l2.preferred_nodes[0].selector.as_ref().expect("a selector");
    assert_eq!(selector.match_labels["ssd"], "yes");
}

#[test]
fn an_l2_advertisement_without_a_spec_means_every_pool_and_node() {
    let declared: [Declared<L2Spec>; 1] = [declared("default", json!({}))];
    let ad = advertisements(&declared, &settings())
        .expect("accepted")
        .remove(0);
    assert!(ad.pools.is_empty() && ad.pool_selectors.is_empty() && ad.node_selectors.is_empty());
}

#[test]
fn bad_l2_advertisements_are_refused_with_their_field() {
    for (spec, field, message) in [
        (
            json!({ "ipAddressPools": ["a", "a"] }),
            "spec.ipAddressPools[1]",
            "duplicate definition of ipAddressPools",
        ),
        (
            json!({ "preferredNodeSelectors": [{ "weight": 0, "preference": {} }] }),
            "spec.preferredNodeSelectors[0].weight",
            "must be from 1 to 100",
        ),
        (
            json!({ "preferredNodeSelectors": [{ "weight": 101, "preference": {} }] }),
            "spec.preferredNodeSelectors[0].weight",
            "must be from 1 to 100",
        ),
    ] {
        let declared: [Declared<L2Spec>; 1] = [declared("ad", spec)];
        let errors = advertisements(&declared, &settings()).expect_err("refused");
        assert_eq!(
            (errors[0].field.as_str(), errors[0].message.as_str()),
            (field, message)
        );
        assert_eq!(errors.len(), 1);
    }
}

proptest! {
    /// Against the plain definition: two ranges overlap if each begins before the other ends.
    #[test]
    fn a_set_is_refused_exactly_if_two_of_its_ranges_overlap(
        ranges in proptest::collection::vec((0..400_u32, 0..20_u32), 1..12),
    ) {
        let address = |number: u32| std::net::Ipv4Addr::from_bits(0xc000_0200 + number);
        let texts: Vec<String> = ranges
            .iter()
            .map(|(first, length)| format!("{}-{}", address(*first), address(first + length)))
            .collect();
        // Several ranges share a pool.
        let sets: Vec<Declared<PoolSpec>> = texts
            .chunks(2)
            .enumerate()
            .map(|(index, texts)| declared(&format!("p{index}"), json!({ "addresses": texts })))
            .collect();
        let overlap = ranges.iter().enumerate().any(|(index, (first, length))| {
            ranges[..index]
                .iter()
                .any(|(other, its)| first <= &(other + its) && other <= &(first + length))
        });
        prop_assert_eq!(pools(&sets, &settings()).is_err(), overlap);
    }
}

/// An object with these annotations.
fn annotated<S: serde::de::DeserializeOwned>(
    name: &str,
    annotations: &[(&str, &str)],
    spec: Value,
) -> Declared<S> {
    let annotations = annotations.iter();
    Declared {
        annotations: annotations
            .map(|(name, value)| (format!("pharos.io/{name}"), (*value).to_owned()))
            .collect(),
        ..declared(name, spec)
    }
}

#[test]
fn annotations_say_what_metallb_has_no_word_for() {
    let range = || json!({ "addresses": ["192.0.2.0/28"] });
    let all = [
        ("protect", "true"),
        ("reuse-delay", "15m"),
        ("address-space", "other"),
    ];
    let pool = pools(&[annotated("p", &all, range())], &settings()).expect("accepted");
    assert!(pool[0].protected);
    assert_eq!(pool[0].address_space, "other");
    let delay = pool[0].reuse_delay.expect("a delay");
    assert_eq!((delay.seconds, delay.nanos), (900, 0));
    let pool = pools(&[annotated("p", &[], range())], &settings()).expect("accepted");
    assert!(!pool[0].protected && pool[0].reuse_delay.is_none());
    assert_eq!(pool[0].address_space, "lab");

    let l2 = |annotations: &[(&str, &str)]| {
        let set = advertisements(&[annotated("a", annotations, json!({}))], &settings());
        let advertisement = set.expect("accepted").remove(0);
        let Some(v1::advertisement::Protocol::L2(l2)) = advertisement.protocol else {
            panic!("no layer 2");
        };
        (l2.ownership(), advertisement.address_space)
    };
    let available = v1::advertisement::l2::Ownership::Available;
    let fenced = v1::advertisement::l2::Ownership::Fenced;
    assert_eq!(l2(&[]), (available, "lab".to_owned()));
    assert_eq!(l2(&[("ownership", "Available")]).0, available);
    let said = l2(&[("ownership", "Fenced"), ("address-space", "other")]);
    assert_eq!(said, (fenced, "other".to_owned()));
}

#[test]
fn annotations_that_make_no_sense_are_refused() {
    let range = || json!({ "addresses": ["192.0.2.0/28"] });
    for (name, value) in [
        ("protect", "yes"),
        ("protect", ""),
        ("reuse-delay", "soon"),
        ("address-space", ""),
    ] {
        let refused = pools(&[annotated("p", &[(name, value)], range())], &settings());
        let errors = refused.expect_err("refused");
        assert_eq!(
            errors[0].field,
            format!("metadata.annotations[pharos.io/{name}]")
        );
    }
    for (name, value) in [("ownership", "FENCED"), ("address-space", "")] {
        let declared = [annotated("a", &[(name, value)], json!({}))];
        let errors = advertisements(&declared, &settings()).expect_err("refused");
        assert_eq!(
            errors[0].field,
            format!("metadata.annotations[pharos.io/{name}]")
        );
    }
}

#[test]
fn an_annotation_that_is_misspelt_is_told() {
    let pool = [annotated(
        "p",
        &[("protct", "true")],
        json!({ "addresses": ["192.0.2.0/28"] }),
    )];
    let l2 = [annotated("a", &[("protect", "true")], json!({}))];
    let objects = Objects {
        pools: Known::all(&pool),
        l2: Known::all(&l2),
        ..Objects::default()
    };
    let configuration = examine(&objects, &settings());
    let told: Vec<String> = configuration
        .findings()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "IPAddressPool \"p\": metadata.annotations[pharos.io/protct]: means nothing here; known \
             are pharos.io/address-space, pharos.io/protect, pharos.io/reuse-delay",
            "L2Advertisement \"a\": metadata.annotations[pharos.io/protect]: means nothing here; \
             known are pharos.io/address-space, pharos.io/ownership",
        ]
    );
    assert!(configuration.pools().is_ok() && configuration.l2().is_ok());
}

#[test]
fn pools_of_different_address_spaces_may_overlap() {
    let range = || json!({ "addresses": ["192.0.2.0/28"] });
    let spaces = |first: &str, second: &str| {
        let of = |name, space| annotated(name, &[("address-space", space)], range());
        pools(
            &[of("a", first), of("b", second), declared("c", range())],
            &settings(),
        )
        .is_ok()
    };
    assert!(spaces("x", "y"));
    assert!(!spaces("x", "x"));
    assert!(!spaces("x", "lab"));
}
