//! What ipam-service is told of BGP.

use pharos_proto::v1;
use pharos_proto::v1::bgp_peer::DynamicAsn;
use serde_json::{Value, json};

use super::site::{Site, warnings};
use crate::policy::{Configuration, Passwords};

fn configuration(site: &Value) -> Configuration {
    Site::of(site).examine()
}

fn passwords() -> Passwords {
    [("s".to_owned(), "of the secret".to_owned())].into()
}

#[test]
fn every_field_of_an_advertisement_is_handed_over_under_a_name_of_its_own() {
    let configuration = configuration(&json!({
        "bgp": { "ad": {
            "aggregationLength": 24, "aggregationLengthV6": 64, "localPref": 7,
            "communities": ["large:1:2:3", "NAMED"], "ipAddressPools": ["a"],
            "ipAddressPoolSelectors": [{ "matchLabels": { "zone": "edge" } }],
            "nodeSelectors": [{ "matchLabels": { "rack": "1" } }], "peers": ["rack"],
        }, "plain": {} },
        "communities": { "names": { "communities": [{ "name": "NAMED", "value": "3:4" }] } },
    }));
    let bgp = configuration.bgp().expect("accepted");
    let messages = bgp.advertisement_messages().expect("all names are known");
    let [ad, plain] = &messages[..] else {
        panic!("{messages:?}");
    };
    // An L2Advertisement may be called `ad`, and no object of Kubernetes `bgp/ad`.
    assert_eq!(
        (ad.name.as_str(), ad.address_space.as_str()),
        ("bgp/ad", "lab")
    );
    assert_eq!(ad.pools, ["a"]);
    assert_eq!(ad.pool_selectors[0].match_labels["zone"], "edge");
    assert_eq!(ad.node_selectors[0].match_labels["rack"], "1");
    let expected = v1::advertisement::Bgp {
        peers: vec!["rack".to_owned()],
        aggregation_length: Some(24),
        aggregation_length_v6: Some(64),
        local_pref: 7,
        communities: vec!["3:4".to_owned(), "large:1:2:3".to_owned()],
    };
    assert_eq!(
        ad.protocol,
        Some(v1::advertisement::Protocol::Bgp(expected))
    );
    let whole = v1::advertisement::Bgp {
        aggregation_length: Some(32),
        aggregation_length_v6: Some(128),
        ..v1::advertisement::Bgp::default()
    };
    assert_eq!(
        plain.protocol,
        Some(v1::advertisement::Protocol::Bgp(whole))
    );
}

#[test]
fn a_name_that_no_community_gives_holds_all_advertisements_back() {
    let configuration = configuration(&json!({
        "bgp": { "ad": { "communities": ["LATER"] }, "plain": {} },
    }));
    let bgp = configuration.bgp().expect("accepted");
    let why = bgp.advertisement_messages().expect_err("not known");
    assert_eq!(
        why,
        "no Community gives \"LATER\" of BGPAdvertisement \"ad\""
    );
}

#[test]
fn every_field_of_a_peer_and_a_profile_is_handed_over() {
    let peer = json!({
        "myASN": 42, "peerASN": 142, "peerAddress": "1.2.3.4", "localASN": 7, "peerPort": 1179,
        "sourceAddress": "1.2.3.9", "holdTime": "1m30s", "connectTime": "10s",
        "routerID": "10.10.10.10", "vrf": "red", "bfdProfile": "quick",
        "nodeSelectors": [{ "matchLabels": { "rack": "1" } }], "passwordSecret": { "name": "s" },
        "enableGracefulRestart": true, "ebgpMultiHop": true, "dualStackAddressFamily": true,
    });
    let unnumbered = json!({
        "myASN": 42, "dynamicASN": "external", "interface": "eth1", "password": "plain",
        "nodeSelectors": [{ "matchLabels": { "rack": "2" } }], "routerID": "0.0.0.0",
    });
    let configuration = configuration(&json!({
        "peers": { "peer": peer, "unnumbered": unnumbered },
        // Peers of one node have one router ID.
        "nodes": { "n1": { "rack": "1" }, "n2": { "rack": "2" } },
        "profiles": { "quick": {
            "receiveInterval": 100, "transmitInterval": 150, "detectMultiplier": 4,
            "passiveMode": true, "minimumTtl": 250,
        } },
    }));
    let bgp = configuration.bgp().expect("accepted");
    assert!(bgp.secrets().into_iter().eq(["s"]));
    let messages = bgp.peer_messages(&passwords());
    let [peer, unnumbered] = &messages[..] else {
        panic!("two peers");
    };
    let expected = v1::BgpPeer {
        name: "peer".to_owned(),
        my_asn: 42,
        peer_asn: 142,
        local_asn: 7,
        address: "1.2.3.4".to_owned(),
        port: Some(1179),
        source_address: "1.2.3.9".to_owned(),
        router_id: "10.10.10.10".to_owned(),
        password: "of the secret".to_owned(),
        bfd_profile: "quick".to_owned(),
        ebgp_multihop: true,
        graceful_restart: true,
        dual_stack: true,
        vrf: "red".to_owned(),
        hold_time: peer.hold_time,
        keepalive_time: peer.keepalive_time,
        connect_time: peer.connect_time,
        node_selectors: peer.node_selectors.clone(),
        ..v1::BgpPeer::default()
    };
    assert!(*peer == expected, "they differ");
    let times = [&peer.hold_time, &peer.keepalive_time, &peer.connect_time];
    let times = times.map(|time| time.as_ref().map(|it| (it.seconds, it.nanos)));
    assert_eq!(times, [Some((90, 0)), Some((30, 0)), Some((10, 0))]);
    assert_eq!(peer.node_selectors[0].match_labels["rack"], "1");
    assert_eq!(unnumbered.dynamic_asn(), DynamicAsn::External);
    assert_eq!((unnumbered.peer_asn, unnumbered.address.as_str()), (0, ""));
    assert_eq!(unnumbered.interface, "eth1");
    assert_eq!(unnumbered.password, "plain");
    assert_eq!(
        (unnumbered.router_id.as_str(), unnumbered.port),
        ("", Some(179))
    );
    assert!(unnumbered.hold_time.is_none() && unnumbered.connect_time.is_none());
    let profile = v1::BfdProfile {
        name: "quick".to_owned(),
        receive_interval_ms: Some(100),
        transmit_interval_ms: Some(150),
        detect_multiplier: Some(4),
        passive_mode: true,
        minimum_ttl: Some(250),
        ..v1::BfdProfile::default()
    };
    assert_eq!(bgp.profile_messages(), [profile]);
}

#[test]
fn a_peer_that_no_session_can_come_about_with_is_told_and_left_out() {
    for (field, value) in [
        ("peerAddress", json!("0.0.0.0")),
        ("peerAddress", json!("224.0.0.5")),
        ("sourceAddress", json!("2001:db8::1")),
        ("sourceAddress", json!("0.0.0.0")),
        ("vrf", json!("a-name-of-16-byte")),
        ("password", json!("p".repeat(81))),
        ("password", json!("p\n")),
        ("bfdProfile", json!("b".repeat(254))),
        ("bfdProfile", json!("b\u{7}")),
    ] {
        let mut peer = json!({ "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1" });
        peer[field] = value;
        let site = json!({ "peers": { "p": peer } });
        let mut told = warnings(&site);
        told.retain(|text| text.contains("no session with this peer"));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&format!("spec.{field}")), "{}", told[0]);
        let configuration = configuration(&site);
        let bgp = configuration.bgp().expect("as MetalLB takes it");
        assert!(bgp.peer_messages(&passwords()).is_empty(), "{field}");
    }
}
