//! What is told and refuses nothing.

use serde_json::{Value, json};

use super::site::{Site, accepted, warnings};
use crate::policy::{Known, Objects, examine};

fn full() -> Value {
    json!({
        "l2": { "ad": { "ipAddressPools": ["p"] } },
        "bgp": { "ad": { "ipAddressPools": ["q"], "peers": ["a", "b"], "communities": ["NAME", "1:2"] } },
        "peers": {
            "a": { "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "bfdProfile": "quick" },
        },
    })
}

#[test]
fn names_that_stand_for_nothing_are_told_and_refuse_nothing() {
    let site = full();
    accepted(&site);
    assert_eq!(
        warnings(&site),
        [
            "L2Advertisement \"ad\": spec.ipAddressPools[0]: there is no IPAddressPool \"p\"",
            "BGPAdvertisement \"ad\": spec.communities: no Community gives the name \"NAME\"",
            "BGPAdvertisement \"ad\": spec.ipAddressPools[0]: there is no IPAddressPool \"q\"",
            "BGPAdvertisement \"ad\": spec.peers[1]: there is no BGPPeer \"b\"",
            "BGPPeer \"a\": spec.bfdProfile: there is no BFDProfile \"quick\"",
        ]
    );
}

#[test]
fn what_is_not_known_is_not_missed() {
    let site = Site::of(&full());
    let unknown = Objects {
        l2: Known::all(&site.l2),
        bgp: Known::all(&site.bgp),
        peers: site.objects().peers,
        ..Objects::default()
    };
    let configuration = examine(&unknown, &super::settings());
    let findings = configuration.findings();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(findings[0].message.contains("BGPPeer"), "peers are known");
}

#[test]
fn a_pool_with_addresses_of_nodes_is_told() {
    let site = |addresses: &[&str]| {
        json!({
            "pools": { "p": { "addresses": addresses } },
            "nodes": {
                "n1": { "address": "192.0.2.1" },
                "n2": { "address": "192.0.2.2" },
                "n3": { "address": "2001:db8::3" },
            },
        })
    };
    assert_eq!(
        warnings(&site(&["192.0.2.3-192.0.2.9", "192.0.2.0/32"])),
        [""; 0]
    );
    let object = "IPAddressPool \"p\": spec.addresses";
    assert_eq!(
        warnings(&site(&["192.0.3.0/24", "192.0.2.0/24", "2001:db8::/64"])),
        [
            format!("{object}[1]: holds the address 192.0.2.1 of node \"n1\", and 1 more of nodes"),
            format!("{object}[2]: holds the address 2001:db8::3 of node \"n3\""),
        ]
    );
    accepted(&site(&["192.0.2.0/24"]));
}

#[test]
fn what_has_no_effect_is_told() {
    let peer = |field: &str, value: Value| {
        let mut spec = json!({ "myASN": 1, "dynamicASN": "internal", "peerAddress": "192.0.2.1" });
        spec[field] = value;
        json!({ "peers": { "p": spec } })
    };
    for (site, words) in [
        (
            peer("disableMP", json!(true)),
            "disable mp is deprecated and has no effect since it's the default behavior now",
        ),
        (
            peer("ebgpMultiHop", json!(true)),
            "has no effect: the peer is internal",
        ),
        (
            peer("sourceAddress", json!("2001:db8::1")),
            "no connection can go from 2001:db8::1 to 192.0.2.1",
        ),
        (
            json!({ "profiles": { "p": { "echoMode": true } } }),
            "has no effect: there are no echo packets",
        ),
    ] {
        accepted(&site);
        let warnings = warnings(&site);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(words), "{}", warnings[0]);
    }
    // A profile with echo for routers that get IPv6 routes is no error, as there is no echo.
    accepted(&json!({
        "pools": { "p": { "addresses": ["2001:db8::/64"] } },
        "bgp": { "ad": {} },
        "profiles": { "echo": { "echoMode": true } },
        "peers": { "p": { "myASN": 1, "peerASN": 1, "peerAddress": "192.0.2.1", "bfdProfile": "echo" } },
    }));
}
