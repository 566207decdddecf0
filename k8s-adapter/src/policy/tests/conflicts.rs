//! What is wrong only with several objects together.

use serde_json::{Value, json};

use super::site::{Site, accepted, errors, refused};

fn pool(addresses: &[&str]) -> Value {
    json!({ "addresses": addresses })
}

/// One pool and one advertisement of it.
fn announced(addresses: &[&str], ad: Value) -> Value {
    json!({ "pools": { "p": pool(addresses) }, "bgp": { "ad": ad } })
}

#[test]
fn what_is_announced_lies_within_its_pool() {
    let v4 = |length: u8| json!({ "aggregationLength": length });
    let v6 = |length: u8| json!({ "aggregationLengthV6": length });
    for (addresses, ad) in [
        (&["10.20.0.0/16"][..], v4(16)),
        (&["10.20.30.0/24"], v4(24)),
        (&["3.3.3.0-3.3.3.255"], v4(26)),
        // One /31 of it is wide enough; the ends are announced by what they lie in.
        (&["3.3.3.1-3.3.3.4"], v4(31)),
        (&["2001:db8::/64"], v6(64)),
        // The other family's length says nothing.
        (&["2001:db8::/64"], v4(8)),
        (&["10.20.30.0/24"], v6(0)),
    ] {
        accepted(&announced(addresses, ad));
    }
    for (addresses, ad, field, words) in [
        (
            &["1.1.1.0/28"][..],
            v4(26),
            "aggregationLength",
            "invalid aggregation length 26: prefix 28 in this pool is more specific than the aggregation length for addresses 1.1.1.0/28",
        ),
        (
            &["10.20.30.40/24", "1.2.3.0/28"],
            v4(26),
            "aggregationLength",
            "prefix 28 in this pool is more specific than the aggregation length for addresses 1.2.3.0/28",
        ),
        (
            &["3.3.3.2-3.3.3.254"],
            v4(24),
            "aggregationLength",
            "invalid aggregation length 24: prefix 26 in this pool is more specific than the aggregation length for addresses 3.3.3.2-3.3.3.254",
        ),
        (
            &["10.0.0.0/8", "2001:db8::/64"],
            v6(56),
            "aggregationLengthV6",
            "invalid aggregation length 56: prefix 64 in this pool is more specific than the aggregation length for addresses 2001:db8::/64",
        ),
    ] {
        let object = format!("BGPAdvertisement \"ad\": spec.{field}: ");
        refused(&announced(addresses, ad), &object, words);
    }
}

#[test]
fn an_advertisement_answers_for_every_pool_that_it_reaches() {
    let site = |ad: Value| {
        json!({
            "pools": {
                "wide": pool(&["10.0.0.0/16"]),
                "narrow": { "labels": { "zone": "edge" }, "spec": pool(&["1.1.1.0/28"]) },
            },
            "bgp": { "ad": ad },
        })
    };
    let edge = json!([{ "matchLabels": { "zone": "edge" } }]);
    let elsewhere = json!([{ "matchExpressions": [{ "key": "zone", "operator": "NotIn", "values": ["edge"] }] }]);
    for ad in [
        json!({ "aggregationLength": 24 }),
        json!({ "aggregationLength": 24, "ipAddressPools": ["narrow"] }),
        json!({ "aggregationLength": 24, "ipAddressPools": ["wide"], "ipAddressPoolSelectors": edge }),
    ] {
        refused(
            &site(ad),
            "BGPAdvertisement \"ad\"",
            "for addresses 1.1.1.0/28",
        );
    }
    for ad in [
        json!({ "aggregationLength": 24, "ipAddressPools": ["wide", "nobody"] }),
        json!({ "aggregationLength": 24, "ipAddressPoolSelectors": elsewhere }),
    ] {
        accepted(&site(ad));
    }
}

/// Two advertisements with different preferences on two nodes.
fn rivals(addresses: &[&str], one: Value, two: Value) -> Value {
    let with = |mut ad: Value, local_pref: u32| {
        ad["localPref"] = json!(local_pref);
        ad
    };
    json!({
        "pools": { "p": pool(addresses) },
        "nodes": { "n1": { "host": "n1" }, "n2": { "host": "n2" } },
        "bgp": { "one": with(one, 100), "two": with(two, 200) },
    })
}

#[test]
fn one_route_has_one_local_preference() {
    let v4 = &["10.20.30.0/24"][..];
    let v6 = &["2001:db8::/64"][..];
    let both = &["10.20.30.0/24", "2001:db8::/64"][..];
    let on = |host: &str| json!({ "nodeSelectors": [{ "matchLabels": { "host": host } }] });
    let lengths = json!({ "aggregationLength": 26, "aggregationLengthV6": 80 });
    let chosen = json!({ "serviceSelectors": [{ "matchLabels": { "app": "web" } }] });
    for (addresses, one, two) in [
        (v4, json!({ "aggregationLength": 26 }), json!({})),
        (v6, json!({ "aggregationLengthV6": 80 }), json!({})),
        (both, lengths, json!({})),
        (v4, on("n1"), on("n2")),
        (v4, json!({ "peers": ["a"] }), json!({ "peers": ["b"] })),
        (
            v4,
            json!({ "ipAddressPools": ["p"] }),
            json!({ "ipAddressPools": ["other"] }),
        ),
        // Which Services they share shows later.
        (v4, chosen, json!({})),
    ] {
        accepted(&rivals(addresses, one, two));
    }
    let mut same = rivals(v4, json!({}), json!({}));
    same["bgp"]["two"]["localPref"] = json!(100);
    accepted(&same);
    for (addresses, one, two) in [
        (v4, json!({}), json!({})),
        (v4, json!({ "aggregationLengthV6": 80 }), json!({})),
        (both, json!({ "aggregationLength": 26 }), json!({})),
        (
            v4,
            json!({ "peers": ["a", "b"] }),
            json!({ "peers": ["b"] }),
        ),
        (v4, json!({ "peers": ["a"] }), json!({})),
        (v4, on("n1"), json!({})),
        (v4, on("n1"), on("n1")),
    ] {
        let errors = errors(&rivals(addresses, one, two));
        assert_eq!(errors.len(), 2, "each is told of the other: {errors:#?}");
        assert!(
            errors[0].starts_with("BGPAdvertisement \"one\": spec.localPref: "),
            "{}",
            errors[0]
        );
        assert!(
            errors[0].contains("invalid local preference 100: "),
            "{}",
            errors[0]
        );
        assert!(
            errors[1].contains("invalid local preference 200: "),
            "{}",
            errors[1]
        );
    }
    // Nobody announces anything yet.
    let mut empty = rivals(v4, json!({}), json!({}));
    empty["nodes"] = json!({});
    accepted(&empty);
}

#[test]
fn what_is_wrong_with_bgp_refuses_neither_pools_nor_layer_2() {
    let site = Site::of(&json!({
        "pools": { "p": pool(&["1.1.1.0/28"]) },
        "l2": { "ad": {} },
        "bgp": { "ad": { "aggregationLength": 26 } },
    }));
    let configuration = site.examine();
    assert!(configuration.pools().is_ok() && configuration.l2().is_ok());
    assert_eq!(configuration.bgp().expect_err("refused").len(), 1);
}
