//! Rules about one BGPAdvertisement, one Community, one BFDProfile.

use serde_json::{Value, json};

use super::site::{Site, accepted, errors, refused};
use crate::policy::Community;

fn one(spec: Value) -> Value {
    json!({ "bgp": { "ad": spec } })
}

#[test]
fn every_field_of_a_bgp_advertisement_arrives() {
    let site = Site::of(&json!({
        "bgp": { "ad": {
            "aggregationLength": 24, "aggregationLengthV6": 64, "localPref": 4_000_000_000_u32,
            "communities": ["1:2", "large:1:2:3", "NAMED", "LATER"], "ipAddressPools": ["a"],
            "ipAddressPoolSelectors": [{ "matchLabels": { "zone": "edge" } }],
            "nodeSelectors": [{ "matchLabels": { "rack": "1" } }], "peers": ["rack"],
        } },
        "communities": { "names": { "communities": [{ "name": "NAMED", "value": "3:4" }] } },
    }));
    let configuration = site.examine();
    let ad = &configuration.bgp().expect("accepted").advertisements[0];
    assert_eq!(
        (ad.name.as_str(), ad.length_v4, ad.length_v6),
        ("ad", 24, 64)
    );
    assert_eq!(ad.local_pref, 4_000_000_000);
    let expected = [
        Community::Standard([1, 2]),
        Community::Standard([3, 4]),
        Community::Large([1, 2, 3]),
    ];
    assert!(ad.communities.iter().eq(&expected), "{:?}", ad.communities);
    assert_eq!(ad.unknown_communities, ["LATER"]);
    assert_eq!(
        (&ad.pools[..], &ad.peers[..]),
        (&["a".to_owned()][..], &["rack".to_owned()][..])
    );
    assert_eq!(ad.pool_selectors[0].match_labels["zone"], "edge");
    assert_eq!(ad.node_selectors[0].match_labels["rack"], "1");
    assert!(ad.service_selectors.is_empty());
}

#[test]
fn a_bgp_advertisement_without_a_spec_announces_every_address_by_itself() {
    let site = Site::of(&one(json!({})));
    let configuration = site.examine();
    let ad = &configuration.bgp().expect("accepted").advertisements[0];
    assert_eq!((ad.length_v4, ad.length_v6, ad.local_pref), (32, 128, 0));
    assert!(ad.pools.is_empty() && ad.peers.is_empty() && ad.communities.is_empty());
}

#[test]
fn service_selectors_are_for_single_addresses() {
    let selecting = |lengths: Value| {
        let mut spec = lengths;
        spec["serviceSelectors"] = json!([{ "matchLabels": { "app": "web" } }]);
        one(spec)
    };
    accepted(&selecting(json!({})));
    accepted(&selecting(json!({ "aggregationLength": 32 })));
    accepted(&selecting(json!({ "aggregationLengthV6": 128 })));
    for field in ["aggregationLength", "aggregationLengthV6"] {
        let words = format!("serviceSelectors and {field} are mutually exclusive");
        let object = format!("BGPAdvertisement \"ad\": spec.{field}: ");
        refused(&selecting(json!({ field: 24 })), &object, &words);
    }
}

#[test]
fn bad_bgp_advertisements_are_refused_with_their_field() {
    let twice = json!([{ "matchLabels": { "a": "b" } }, { "matchLabels": { "a": "b" } }]);
    let shuffled = json!([
        { "matchExpressions": [{ "key": "a", "operator": "In", "values": ["x", "y"] }] },
        { "matchExpressions": [{ "key": "a", "operator": "In", "values": ["y", "x"] }] },
    ]);
    let expressions = json!([{ "matchExpressions": [
        { "key": "a", "operator": "In", "values": ["x", "y"] },
        { "key": "a", "operator": "In", "values": ["y", "x"] },
    ] }]);
    for (spec, field, words) in [
        (
            json!({ "aggregationLength": 33 }),
            "aggregationLength",
            "invalid aggregation length 33 for IPv4",
        ),
        (
            json!({ "aggregationLength": 0 }),
            "aggregationLength",
            "invalid aggregation length 0 for IPv4",
        ),
        (
            json!({ "aggregationLengthV6": 129 }),
            "aggregationLengthV6",
            "invalid aggregation length 129 for IPv6",
        ),
        (
            json!({ "aggregationLengthV6": -1 }),
            "aggregationLengthV6",
            "invalid aggregation length -1 for IPv6",
        ),
        (
            json!({ "ipAddressPools": ["a", "a"] }),
            "ipAddressPools[1]",
            "duplicate definition of ipAddressPools",
        ),
        (
            json!({ "communities": ["1:2", "1:2"] }),
            "communities[1]",
            "duplicate definition of community",
        ),
        (
            json!({ "peers": ["a", "b", "a"] }),
            "peers[2]",
            "duplicate definition of peers",
        ),
        (
            json!({ "ipAddressPoolSelectors": twice }),
            "ipAddressPoolSelectors[1]",
            "duplicate definition of ipAddressPoolSelectors",
        ),
        (
            json!({ "nodeSelectors": twice }),
            "nodeSelectors[1]",
            "duplicate definition of nodeSelectors",
        ),
        (
            json!({ "serviceSelectors": twice }),
            "serviceSelectors[1]",
            "duplicate definition of serviceSelectors",
        ),
        // In another order it is the same.
        (
            json!({ "nodeSelectors": shuffled }),
            "nodeSelectors[1]",
            "duplicate definition of nodeSelectors",
        ),
        (
            json!({ "nodeSelectors": expressions }),
            "nodeSelectors[0].matchExpressions[1]",
            "duplicate definition of matchExpressions",
        ),
        (
            json!({ "communities": ["99999999:1"] }),
            "communities[0]",
            "invalid community value: invalid section \"99999999\"",
        ),
        (
            json!({ "communities": ["1:99999999"] }),
            "communities[0]",
            "invalid community value: invalid section \"99999999\"",
        ),
        (
            json!({ "communities": ["1:+2"] }),
            "communities[0]",
            "invalid community value: invalid section \"+2\"",
        ),
        (
            json!({ "communities": ["1:"] }),
            "communities[0]",
            "invalid community value: invalid section \"\"",
        ),
        (
            json!({ "communities": ["1:2:3"] }),
            "communities[0]",
            "invalid community format: 1:2:3",
        ),
        (
            json!({ "communities": ["lar:123:9999:123"] }),
            "communities[0]",
            "expected community to be of format large",
        ),
        (
            json!({ "communities": ["large:1:2:4294967296"] }),
            "communities[0]",
            "invalid community value: invalid section",
        ),
    ] {
        let object = format!("BGPAdvertisement \"ad\": spec.{field}: ");
        refused(&one(spec), &object, words);
    }
    refused(
        &one(json!({ "localPref": -1 })),
        "BGPAdvertisement \"ad\": ",
        "invalid value",
    );
}

fn names(names: &[(&str, &str)]) -> Value {
    let names = names
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }));
    json!({ "communities": names.collect::<Vec<_>>() })
}

#[test]
fn bad_communities_are_refused_with_their_field() {
    for (value, words) in [
        ("99999999:1", "invalid community value: invalid section"),
        ("1:99999999", "invalid community value: invalid section"),
        (
            "lar:123:9999:123",
            "expected community to be of format large",
        ),
        ("12345", "invalid community format"),
        ("", "invalid community format"),
    ] {
        let site = json!({ "communities": { "names": names(&[("A", "1:1"), ("B", value)]) } });
        let object = "Community \"names\": spec.communities[1].value: parsing community \"B\": ";
        refused(&site, object, words);
    }
}

#[test]
fn a_name_is_given_once_in_whatever_object() {
    let words = "duplicate definition of community \"DUP\"";
    let once = names(&[("DUP", "1111:2222")]);
    let twice = names(&[("DUP", "1111:2222"), ("DUP", "large:123:9999:123")]);
    let one = json!({ "communities": { "one": once } });
    accepted(&one);
    for site in [
        json!({ "communities": { "one": twice } }),
        json!({ "communities": { "one": once, "two": once } }),
    ] {
        let errors = errors(&site);
        assert_eq!(errors.len(), 2, "{errors:#?}");
        assert!(
            errors.iter().all(|error| error.contains(words)),
            "{errors:#?}"
        );
    }
}

#[test]
fn every_field_of_a_bfd_profile_arrives_within_its_limits() {
    let full = json!({
        "receiveInterval": 100, "transmitInterval": 150, "echoInterval": 50, "detectMultiplier": 4,
        "passiveMode": true, "minimumTtl": 250,
    });
    let site = Site::of(&json!({ "profiles": { "quick": full, "none": {} } }));
    let configuration = site.examine();
    let profiles = &configuration.bgp().expect("accepted").profiles;
    let [none, quick] = &profiles[..] else {
        panic!("{profiles:?}");
    };
    assert_eq!((none.receive_interval, none.passive), (None, false));
    assert_eq!(
        (quick.receive_interval, quick.transmit_interval),
        (Some(100), Some(150))
    );
    assert_eq!(
        (quick.detect_multiplier, quick.minimum_ttl, quick.passive),
        (Some(4), Some(250), true)
    );
    for (field, low, high, words) in [
        (
            "receiveInterval",
            10,
            60_000,
            "invalid receive interval value",
        ),
        (
            "transmitInterval",
            10,
            60_000,
            "invalid transmit interval value",
        ),
        ("echoInterval", 10, 60_000, "invalid echo interval value"),
        (
            "detectMultiplier",
            2,
            255,
            "invalid detect multiplier value",
        ),
        ("minimumTtl", 1, 254, "invalid minimum ttl value"),
    ] {
        let site = |value: u32| json!({ "profiles": { "p": { field: value } } });
        accepted(&site(low));
        accepted(&site(high));
        for value in [low - 1, high + 1] {
            let object = format!("BFDProfile \"p\": spec.{field}: ");
            refused(&site(value), &object, words);
        }
    }
}
