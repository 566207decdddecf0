//! Rules about one BGPPeer, and about two on one node.

use std::time::Duration;

use serde_json::{Value, json};

use super::site::{Site, accepted, errors, refused};
use crate::policy::{Authentication, Endpoint, RemoteAs, Timers};

/// A sound peer with other fields; `null` takes one away.
fn peer(fields: Value) -> Value {
    let mut spec = json!({ "myASN": 42, "peerASN": 142, "peerAddress": "1.2.3.4" });
    let spec = spec.as_object_mut().expect("an object");
    for (field, value) in fields.as_object().expect("fields") {
        if value.is_null() {
            spec.remove(field);
        } else {
            spec.insert(field.clone(), value.clone());
        }
    }
    Value::Object(spec.clone())
}

fn one(fields: Value) -> Value {
    json!({ "peers": { "peer": peer(fields) } })
}

#[test]
fn every_field_of_a_peer_arrives() {
    let site = Site::of(&one(json!({
        "localASN": 7, "peerPort": 1179, "sourceAddress": "1.2.3.9", "holdTime": "1m30s",
        "connectTime": "10s", "routerID": "10.10.10.10", "vrf": "red", "bfdProfile": "quick",
        "nodeSelectors": [{ "matchLabels": { "rack": "1" } }], "passwordSecret": { "name": "s" },
        "enableGracefulRestart": true, "ebgpMultiHop": true, "dualStackAddressFamily": true,
    })));
    let configuration = site.examine();
    let peer = &configuration.bgp().expect("accepted").peers[0];
    assert_eq!(
        (peer.name.as_str(), peer.my_asn, peer.remote),
        ("peer", 42, RemoteAs::Is(142))
    );
    assert_eq!((peer.local_asn, peer.port), (Some(7), 1179));
    let address = "1.2.3.4".parse().expect("an address");
    assert_eq!(peer.endpoint, Endpoint::Address(address));
    assert_eq!(peer.source, Some("1.2.3.9".parse().expect("an address")));
    let timers = Timers {
        hold: Duration::from_secs(90),
        keepalive: Duration::from_secs(30),
    };
    assert_eq!(peer.timers, Some(timers));
    assert_eq!(peer.connect_time, Some(Duration::from_secs(10)));
    assert_eq!(
        peer.router_id,
        Some("10.10.10.10".parse().expect("an address"))
    );
    assert_eq!(
        (peer.vrf.as_deref(), peer.bfd_profile.as_deref()),
        (Some("red"), Some("quick"))
    );
    assert_eq!(peer.node_selectors[0].match_labels["rack"], "1");
    assert_eq!(
        peer.authentication,
        Some(Authentication::Secret("s".to_owned()))
    );
    assert!(peer.graceful_restart && peer.multi_hop && peer.dual_stack);
}

#[test]
fn what_a_peer_leaves_out_is_left_to_the_announcer() {
    let site = Site::of(&one(json!({ "peerPort": 0, "password": "x" })));
    let configuration = site.examine();
    let peer = &configuration.bgp().expect("accepted").peers[0];
    assert_eq!((peer.port, peer.local_asn, peer.timers), (179, None, None));
    assert_eq!(
        (peer.connect_time, peer.router_id, &peer.vrf),
        (None, None, &None)
    );
    assert!(peer.node_selectors.is_empty() && peer.bfd_profile.is_none());
    let password = peer.authentication.as_ref().expect("a password");
    assert_eq!(*password, Authentication::Password("x".to_owned()));
    assert_eq!(format!("{password:?}"), "Password", "it is in no log");
}

#[test]
fn sound_peers_are_accepted() {
    let external = json!({ "peerASN": null, "dynamicASN": "external", "ebgpMultiHop": true });
    for fields in [
        json!({}),
        json!({ "peerASN": 42 }),
        json!({ "holdTime": "180s" }),
        json!({ "keepaliveTime": "60s" }),
        json!({ "holdTime": "0s", "keepaliveTime": "0s" }),
        json!({ "holdTime": "9m0s", "keepaliveTime": "0s" }),
        json!({ "peerASN": null, "dynamicASN": "internal" }),
        external,
        json!({ "peerAddress": null, "interface": "eth0" }),
        json!({ "peerAddress": "2001:db8::1", "sourceAddress": "2001:db8::2" }),
        json!({ "disableMP": true }),
        json!({ "localASN": 100 }),
        json!({ "bfdProfile": "not there yet", "passwordSecret": { "name": "nor this" } }),
        json!({ "nodeSelectors": [] }),
        json!({ "nodeSelectors": [{ "matchExpressions": [{ "key": "a", "operator": "DoesNotExist" }] }] }),
    ] {
        accepted(&one(fields));
    }
}

#[test]
fn bad_peers_are_refused_with_their_field() {
    let timers = "invalid BGPPeer timers: ";
    for (fields, field, words) in [
        (json!({ "myASN": 0 }), "myASN", "missing local ASN"),
        (
            json!({ "peerASN": null }),
            "peerASN",
            "missing peer ASN and dynamicASN",
        ),
        (
            json!({ "dynamicASN": "external" }),
            "dynamicASN",
            "both peer ASN and dynamicASN specified",
        ),
        (
            json!({ "peerASN": 0, "dynamicASN": "any" }),
            "dynamicASN",
            "invalid dynamicASN any",
        ),
        (
            json!({ "peerASN": 42, "ebgpMultiHop": true }),
            "ebgpMultiHop",
            "invalid ebgp-multihop parameter set for an ibgp peer",
        ),
        (
            json!({ "peerAddress": null }),
            "peerAddress",
            "peer has no Address or Interface specified",
        ),
        (
            json!({ "interface": "eth0" }),
            "interface",
            "peer has both Address and Interface specified",
        ),
        (
            json!({ "peerAddress": "1.2.3.400" }),
            "peerAddress",
            "invalid BGPPeer address \"1.2.3.400\"",
        ),
        (
            json!({ "peerAddress": "1.1.1" }),
            "peerAddress",
            "invalid BGPPeer address",
        ),
        (
            json!({ "peerAddress": "router.example" }),
            "peerAddress",
            "invalid BGPPeer address",
        ),
        (
            json!({ "peerAddress": "fe80::1%eth0" }),
            "peerAddress",
            "invalid BGPPeer address",
        ),
        (
            json!({ "sourceAddress": "here" }),
            "sourceAddress",
            "invalid source IP \"here\"",
        ),
        (
            json!({ "routerID": "me" }),
            "routerID",
            "invalid router ID \"me\"",
        ),
        // The identifier has 32 bits.
        (
            json!({ "routerID": "2001:db8::1" }),
            "routerID",
            "invalid router ID",
        ),
        (
            json!({ "holdTime": "30s", "keepaliveTime": "90s" }),
            "keepaliveTime",
            "must be lower than holdTime 30s",
        ),
        (json!({ "holdTime": "1s" }), "holdTime", "must be 0 or >=3s"),
        (json!({ "holdTime": "long" }), "holdTime", timers),
        (json!({ "keepaliveTime": "often" }), "keepaliveTime", timers),
        (
            json!({ "connectTime": "500ms" }),
            "connectTime",
            "connect time should be between 1 seconds to 65535",
        ),
        (
            json!({ "connectTime": "65536s" }),
            "connectTime",
            "connect time should be between 1 seconds to 65535",
        ),
        (
            json!({ "connectTime": "1500ms" }),
            "connectTime",
            "connect time should contain a whole number of seconds",
        ),
        (
            json!({ "password": "x", "passwordSecret": { "name": "s" } }),
            "passwordSecret",
            "can not have both password and secret ref set in peer config",
        ),
        (
            selected(json!([{ "operator": "In", "values": ["x"] }])),
            "nodeSelectors[0]",
            "name part must be non-empty",
        ),
        (
            selected(json!([{ "key": "a", "operator": "", "values": ["x"] }])),
            "nodeSelectors[0]",
            "is not a valid label selector operator",
        ),
        (
            selected(json!([{ "key": "a", "operator": "surrounds", "values": ["x"] }])),
            "nodeSelectors[0]",
            "is not a valid label selector operator",
        ),
        (
            selected(json!([{ "key": "a", "operator": "In", "values": ["x", "x"] }])),
            "nodeSelectors[0]",
            "duplicate definition of values",
        ),
        (
            json!({ "nodeSelectors": [{ "matchLabels": { "a": "b" } }, { "matchLabels": { "a": "b" } }] }),
            "nodeSelectors[1]",
            "duplicate definition of nodeSelectors",
        ),
    ] {
        // A requirement without a key is read with an empty one.
        let site = one(fields);
        refused(&site, &format!("BGPPeer \"peer\": spec.{field}"), words);
    }
    refused(
        &json!({ "peers": { "peer": { "peerASN": -1 } } }),
        "BGPPeer \"peer\": ",
        "invalid value",
    );
}

fn selected(mut expressions: Value) -> Value {
    for expression in expressions.as_array_mut().expect("expressions") {
        let expression = expression.as_object_mut().expect("an expression");
        expression.entry("key").or_insert(json!(""));
    }
    json!({ "nodeSelectors": [{ "matchLabels": { "foo": "bar" }, "matchExpressions": expressions }] })
}

#[test]
fn all_that_is_wrong_with_a_peer_is_told_at_once() {
    let errors = errors(&json!({ "peers": { "peer": {} } }));
    assert_eq!(errors.len(), 3, "{errors:#?}");
}

/// Two peers, and whether their nodes meet: on three nodes of which each has its name as a label.
fn pair(one: Value, two: Value) -> Value {
    let host = |name: &str| json!({ "host": name, "all": "yes" });
    json!({
        "nodes": { "n1": host("n1"), "n2": host("n2"), "n3": host("n3") },
        "peers": { "one": peer(one), "two": peer(two) },
    })
}

fn on(host: &str) -> Value {
    json!({ "matchLabels": { "host": host } })
}

#[test]
fn two_peers_of_one_node_are_one_speaker_with_two_sessions() {
    let other = "2.3.4.5";
    for two in [
        json!({ "peerAddress": other }),
        json!({ "vrf": "red" }),
        json!({ "peerAddress": other, "vrf": "red", "myASN": 43 }),
        json!({ "peerAddress": null, "interface": "eth1" }),
        json!({ "peerPort": 1179 }),
    ] {
        accepted(&pair(json!({}), two));
    }
    let id = json!({ "routerID": "10.1.0.1" });
    accepted(&pair(
        id.clone(),
        json!({ "routerID": "10.1.0.1", "peerAddress": other }),
    ));
    let different_id = "has RouterID different from";
    let different_asn = "has myAsn different from";
    let exists = "already exists";
    let interface = json!({ "peerAddress": null, "interface": "eth0" });
    let in_red = json!({ "vrf": "red" });
    for (one, two, field, words) in [
        (
            id.clone(),
            json!({ "routerID": "10.1.0.2", "peerAddress": other }),
            "routerID",
            different_id,
        ),
        (
            id,
            json!({ "peerAddress": other }),
            "routerID",
            different_id,
        ),
        (
            json!({}),
            json!({ "myASN": 43, "peerAddress": other }),
            "myASN",
            different_asn,
        ),
        (
            in_red.clone(),
            json!({ "myASN": 43, "peerAddress": other, "vrf": "red" }),
            "myASN",
            different_asn,
        ),
        (json!({}), json!({}), "peerAddress", exists),
        (
            json!({}),
            json!({ "peerPort": 179, "peerASN": 143 }),
            "peerAddress",
            exists,
        ),
        // Another name of the same address.
        (
            json!({}),
            json!({ "peerAddress": "::ffff:1.2.3.4" }),
            "peerAddress",
            exists,
        ),
        (in_red.clone(), in_red, "peerAddress", exists),
        (interface.clone(), interface, "peerAddress", exists),
    ] {
        let errors = errors(&pair(one, two));
        assert_eq!(errors.len(), 2, "each is told of the other: {errors:#?}");
        for (error, (name, other)) in errors.iter().zip([("one", "two"), ("two", "one")]) {
            let beginning = format!("BGPPeer {name:?}: spec.{field}: ");
            assert!(error.starts_with(&beginning), "{error}");
            assert!(
                error.contains(words) && error.contains(&format!("{other:?}")),
                "{error}"
            );
        }
    }
}

#[test]
fn peers_of_different_nodes_have_nothing_to_do_with_each_other() {
    let either = |hosts: &[&str]| json!({ "nodeSelectors": hosts.iter().map(|it| on(it)).collect::<Vec<_>>() });
    let nodes = |one: &[&str], two: &[&str]| pair(either(one), either(two));
    accepted(&nodes(&["n1"], &["n2"]));
    accepted(&nodes(&["n1", "n2"], &["n3"]));
    for (one, two) in [
        (&["n1"][..], &["n1"][..]),
        (&["n1"], &[]),
        (&["n1", "n2"], &["n3", "n2"]),
    ] {
        assert_eq!(errors(&nodes(one, two)).len(), 2);
    }
    // Who selects no node at all is nowhere.
    accepted(&nodes(&["n1"], &["n9"]));
    let mut three = nodes(&["n1"], &["n2"]);
    three["peers"]["three"] = peer(either(&["n3"]));
    accepted(&three);
    three["peers"]["three"] = peer(either(&["n1"]));
    assert_eq!(errors(&three).len(), 2, "two is not concerned");
}

#[test]
fn without_nodes_peers_may_meet_anywhere_but_nodes_that_are_not_known_count_for_nothing() {
    let mut site = pair(
        json!({ "nodeSelectors": [on("n1")] }),
        json!({ "nodeSelectors": [on("n2")] }),
    );
    site["nodes"] = json!({});
    assert_eq!(errors(&site).len(), 2);
    let site = Site::of(&site);
    let unknown = crate::policy::Objects {
        nodes: None,
        ..site.objects()
    };
    let configuration = crate::policy::examine(&unknown, &super::settings());
    assert!(configuration.bgp().is_ok());
}
