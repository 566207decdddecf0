//! Topology: one ipam-service; grpcurl as its client.
//!
//! 1. A BGP peer with every field of the manual, and a BFD profile, are taken in, told, changed and
//!    deleted, and outlive a kill.
//! 2. A wrong field is named, and nothing is changed.
//! 3. No answer, change of the history, log or export has a password, unless the export was asked for
//!    it. A store filled without passwords says which peers lack theirs.
//! 4. A whole set replaces that of the cluster, and no other.
//! 5. An advertisement by BGP with every field is taken in, told, exported and imported, and outlives a kill; a
//!    wrong field is named.
//! 6. Its routes, and the peers, reach an announcer; people are told that there is no session. The node is told
//!    the passwords of its own peers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use e2e::ipam::{Ipam, SOON, grpcurl, run};
use pharos_proto::v1;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::assignment_update::Update;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

const PASSWORD: &str = "hush-hush";

fn call(ipam: &Ipam, method: &str, request: &Value) -> anyhow::Result<Value> {
    let method = format!("pharos.v1.AdvertisementService/{method}");
    ipam.grpcurl(Some(&request.to_string()), &method)
}

/// Every field of a peer.
fn whole_peer() -> Value {
    json!({
        "name": "tor", "cluster": "east", "my_asn": 64512, "peer_asn": 64513, "local_asn": 64999,
        "address": "192.0.2.254", "port": 1790, "source_address": "192.0.2.1",
        "router_id": "192.0.2.1", "hold_time": "9s", "keepalive_time": "3s", "connect_time": "5s",
        "password": PASSWORD, "bfd_profile": "fast", "ebgp_multihop": true,
        "graceful_restart": true, "dual_stack": true, "vrf": "red",
        "node_selectors": [{"match_labels": {"rack": "a"}}],
    })
}

fn whole_profile() -> Value {
    json!({
        "name": "fast", "cluster": "east", "receive_interval_ms": 50, "transmit_interval_ms": 60,
        "detect_multiplier": 4, "passive_mode": true, "minimum_ttl": 250,
    })
}

/// `ipam-service import` of a file into a new database; the server on it.
fn imported(folder: &std::path::Path, name: &str, from: &str) -> Ipam {
    let database = folder.join(name);
    let (code, log) = run(&database, &["import", "--from", from]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    Ipam::start_on(&database, Vec::new()).unwrap()
}

#[test]
fn a_peer_and_a_profile_are_told_as_they_were_given_and_outlive_a_kill() {
    if grpcurl().is_none() {
        return;
    }
    let mut ipam = Ipam::start().unwrap();
    call(
        &ipam,
        "ApplyBfdProfile",
        &json!({"profile": whole_profile()}),
    )
    .unwrap();
    call(&ipam, "ApplyBgpPeer", &json!({"peer": whole_peer()})).unwrap();
    ipam.restart().unwrap();

    let key = json!({"cluster": "east", "name": "tor"});
    let told = call(&ipam, "GetBgpPeer", &key).unwrap()["peer"].clone();
    let expected = json!({
        "name": "tor", "cluster": "east", "myAsn": 64512, "peerAsn": 64513, "localAsn": 64999,
        "address": "192.0.2.254", "port": 1790, "sourceAddress": "192.0.2.1",
        "routerId": "192.0.2.1", "holdTime": "9s", "keepaliveTime": "3s", "connectTime": "5s",
        "bfdProfile": "fast", "ebgpMultihop": true, "gracefulRestart": true, "dualStack": true,
        "vrf": "red", "nodeSelectors": [{"matchLabels": {"rack": "a"}}],
        "passwordRevision": "3", "revision": "3",
    });
    assert_eq!(told, expected);
    let all = call(&ipam, "ListBgpPeers", &json!({"cluster": "east"})).unwrap();
    assert_eq!(all["peers"], json!([expected]));
    let key = json!({"cluster": "east", "name": "fast"});
    let told = call(&ipam, "GetBfdProfile", &key).unwrap()["profile"].clone();
    let expected = json!({
        "name": "fast", "cluster": "east", "receiveIntervalMs": 50, "transmitIntervalMs": 60,
        "detectMultiplier": 4, "passiveMode": true, "minimumTtl": 250, "revision": "2",
    });
    assert_eq!(told, expected);
    let all = call(&ipam, "ListBfdProfiles", &json!({})).unwrap();
    assert_eq!(all["profiles"], json!([expected]));

    // What was read can be given back, and changes nothing.
    let mut read = call(
        &ipam,
        "GetBgpPeer",
        &json!({"cluster": "east", "name": "tor"}),
    )
    .unwrap();
    let again = call(&ipam, "ApplyBgpPeer", &read).unwrap();
    assert_eq!(again["peer"], read["peer"]);
    read["peer"]["passwordRevision"] = json!("2");
    let error = call(&ipam, "ApplyBgpPeer", &read).unwrap_err().to_string();
    assert!(error.contains("peer.password_revision"), "{error}");

    let key = json!({"cluster": "east", "name": "tor"});
    call(&ipam, "DeleteBgpPeer", &key).unwrap();
    let error = call(&ipam, "GetBgpPeer", &key).unwrap_err().to_string();
    assert!(
        error.contains("NotFound") && error.contains("no BGP peer east/tor"),
        "{error}"
    );
}

#[test]
fn a_wrong_field_of_a_peer_or_profile_is_named_and_nothing_changes() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let table = [
        ("my_asn", json!(0)),
        ("peer_asn", json!(0)),
        ("address", json!("router.example")),
        ("address", json!("")),
        ("port", json!(70_000)),
        ("source_address", json!("2001:db8::1")),
        ("router_id", json!("2001:db8::1")),
        ("hold_time", json!("1s")),
        ("keepalive_time", json!("10s")),
        ("connect_time", json!("1.500s")),
        ("password", json!("x".repeat(81))),
        ("vrf", json!("longer than an interface")),
    ];
    for (field, value) in table {
        let mut peer = whole_peer();
        peer[field] = value;
        let error = call(&ipam, "ApplyBgpPeer", &json!({"peer": peer})).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("InvalidArgument"), "{field}: {error}");
        assert!(
            error.contains(&format!("peer.{field}: ")),
            "{field}: {error}"
        );
        assert!(!error.contains(PASSWORD), "{error}");
        let set = json!({"cluster": "east", "peers": [peer]});
        let error = call(&ipam, "SyncBgpPeers", &set).unwrap_err().to_string();
        assert!(
            error.contains(&format!("peers[0].{field}: ")),
            "{field}: {error}"
        );
    }
    let mut profile = whole_profile();
    profile["detect_multiplier"] = json!(1);
    let error = call(&ipam, "ApplyBfdProfile", &json!({"profile": profile})).unwrap_err();
    assert!(
        error.to_string().contains("profile.detect_multiplier"),
        "{error}"
    );
    // Validated only.
    let only = json!({"peer": whole_peer(), "validate_only": true});
    let answer = call(&ipam, "ApplyBgpPeer", &only).unwrap();
    let effect = &answer["consequences"]["objects"];
    assert!(effect.to_string().contains("BGP_PEER"), "{answer}");

    let changes = ipam
        .grpcurl(None, "pharos.v1.HistoryService/ListChanges")
        .unwrap();
    assert_eq!(changes.get("changes"), None, "{changes}");
    assert_eq!(call(&ipam, "ListBgpPeers", &json!({})).unwrap(), json!({}));
}

#[test]
fn a_password_is_in_no_answer_history_log_or_export_that_did_not_ask_for_it() {
    if grpcurl().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut ipam = Ipam::start().unwrap();
    let answer = call(&ipam, "ApplyBgpPeer", &json!({"peer": whole_peer()})).unwrap();
    let changes = ipam
        .grpcurl(None, "pharos.v1.HistoryService/ListChanges")
        .unwrap();
    assert!(changes.to_string().contains("bgpPeer"), "{changes}");
    for told in [&answer, &changes] {
        assert!(!told.to_string().contains(PASSWORD), "{told}");
    }
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (plain, whole) = (path("plain.jsonl"), path("whole.jsonl"));
    for (file, more) in [(&plain, None), (&whole, Some("--passwords"))] {
        let mut arguments = vec!["export", "--history", "--to", file];
        arguments.extend(more);
        let (code, log) = ipam.run(&arguments).unwrap();
        assert_eq!(code, Some(0), "{log}");
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text.contains(PASSWORD), more.is_some(), "{text}");
    }
    ipam.kill().unwrap();
    assert!(!ipam.program().log().contains(PASSWORD));
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");

    // With its password: the same one given again changes nothing.
    let with = imported(folder.path(), "with.db", &whole);
    let again = call(&with, "ApplyBgpPeer", &json!({"peer": whole_peer()})).unwrap();
    assert_eq!(again["peer"], answer["peer"]);
    // Without: it says so, until it is set.
    let without = imported(folder.path(), "without.db", &plain);
    let key = json!({"cluster": "east", "name": "tor"});
    let told = call(&without, "GetBgpPeer", &key).unwrap();
    assert_eq!(told["peer"]["passwordMissing"], true, "{told}");
    let set = call(&without, "ApplyBgpPeer", &json!({"peer": whole_peer()})).unwrap();
    assert_eq!(set["peer"].get("passwordMissing"), None, "{set}");
    assert_eq!(
        set["peer"]["passwordRevision"], set["peer"]["revision"],
        "{set}"
    );
}

#[test]
fn a_whole_set_of_peers_and_profiles_replaces_that_of_its_cluster_only() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let mut operators = whole_peer();
    operators["cluster"] = json!("");
    call(&ipam, "ApplyBgpPeer", &json!({"peer": operators})).unwrap();
    let mut second = whole_peer();
    second["name"] = json!("spine");
    let set = json!({
        "cluster": "east", "fence": 2, "peers": [whole_peer(), second], "profiles": [whole_profile()],
    });
    let synced = call(&ipam, "SyncBgpPeers", &set).unwrap();
    assert_eq!(synced["peers"].as_array().unwrap().len(), 2);
    let again = call(&ipam, "SyncBgpPeers", &set).unwrap();
    assert_eq!(again["peers"], synced["peers"], "nothing changed");
    assert_eq!(again["revision"], synced["revision"]);
    let fewer = json!({"cluster": "east", "fence": 2, "peers": [whole_peer()]});
    call(&ipam, "SyncBgpPeers", &fewer).unwrap();
    let stale = json!({"cluster": "east", "fence": 1});
    let error = call(&ipam, "SyncBgpPeers", &stale).unwrap_err().to_string();
    assert!(error.contains("Aborted"), "{error}");
    let twice = json!({"cluster": "east", "fence": 2, "peers": [whole_peer(), whole_peer()]});
    let error = call(&ipam, "SyncBgpPeers", &twice).unwrap_err().to_string();
    assert!(error.contains("peers[1].name"), "{error}");
    let all = call(&ipam, "ListBgpPeers", &json!({})).unwrap();
    let names = |peer: &Value| (peer["cluster"].clone(), peer["name"].clone());
    let found: Vec<_> = all["peers"].as_array().unwrap().iter().map(names).collect();
    let expected = [(Value::Null, json!("tor")), (json!("east"), json!("tor"))];
    assert_eq!(found, expected);
    assert_eq!(
        call(&ipam, "ListBfdProfiles", &json!({})).unwrap(),
        json!({})
    );
}

/// Every field of an advertisement by BGP.
fn whole_advertisement() -> Value {
    json!({
        "name": "racks", "cluster": "east", "pools": ["default-pool"],
        "pool_selectors": [{"match_labels": {"tier": "gold"}}],
        "node_selectors": [{"match_labels": {"rack": "1"}}],
        "bgp": {
            "peers": ["tor"], "aggregation_length": 24, "aggregation_length_v6": 64,
            "local_pref": 100, "communities": ["64512:7", "large:64512:1:2"],
        },
    })
}

#[test]
fn an_advertisement_by_bgp_is_told_as_it_was_given_and_a_wrong_field_is_named() {
    if grpcurl().is_none() {
        return;
    }
    let mut ipam = Ipam::start().unwrap();
    let apply = |advertisement: &Value| json!({ "advertisement": advertisement });
    let answer = call(&ipam, "ApplyAdvertisement", &apply(&whole_advertisement())).unwrap();
    let told = answer["advertisement"].clone();
    let bgp = json!({
        "peers": ["tor"], "aggregationLength": 24, "aggregationLengthV6": 64,
        "localPref": 100, "communities": ["64512:7", "large:64512:1:2"],
    });
    assert_eq!(told["bgp"], bgp, "{told}");
    for (field, value, path) in [
        ("aggregation_length", json!(33), "bgp.aggregation_length"),
        (
            "aggregation_length_v6",
            json!(129),
            "bgp.aggregation_length_v6",
        ),
        ("communities", json!(["1:70000"]), "bgp.communities[0]"),
        ("peers", json!([""]), "bgp.peers[0]"),
    ] {
        let mut wrong = whole_advertisement();
        wrong["bgp"][field] = value;
        let error = call(&ipam, "ApplyAdvertisement", &apply(&wrong)).unwrap_err();
        let path = format!("advertisement.{path}");
        assert!(error.to_string().contains(&path), "{error}");
    }
    // By default each address is announced by itself.
    let plain = json!({"name": "plain", "cluster": "east", "bgp": {}});
    let answer = call(&ipam, "ApplyAdvertisement", &apply(&plain)).unwrap();
    let lengths = json!({"aggregationLength": 32, "aggregationLengthV6": 128});
    assert_eq!(answer["advertisement"]["bgp"], lengths, "{answer}");
    // The set of the other protocol, and then all of this one.
    let sets = [("L2", json!([])), ("BGP", json!([whole_advertisement()]))];
    for (scope, set) in sets {
        let set = json!({"cluster": "east", "scope": scope, "advertisements": set});
        call(&ipam, "SyncAdvertisements", &set).unwrap();
        assert!(call(&ipam, "ListAdvertisements", &json!({})).is_ok());
    }
    let list = |ipam: &Ipam| call(ipam, "ListAdvertisements", &json!({})).unwrap();
    let all = json!([told]);
    assert_eq!(list(&ipam)["advertisements"], all);
    ipam.kill().unwrap();
    ipam.restart().unwrap();
    assert_eq!(list(&ipam)["advertisements"], all);
    let changes = ipam
        .grpcurl(None, "pharos.v1.HistoryService/ListChanges")
        .unwrap();
    assert!(changes.to_string().contains("large:64512:1:2"), "{changes}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.jsonl").to_str().unwrap().to_owned();
    let (code, log) = ipam.run(&["export", "--history", "--to", &file]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    let other = imported(folder.path(), "other.db", &file);
    assert_eq!(list(&other)["advertisements"], all);
    let copy = folder.path().join("copy.db");
    let to = copy.to_str().unwrap();
    let (code, log) = ipam.run(&["backup", "--to", to]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    let restored = folder.path().join("restored.db");
    let (code, log) = run(&restored, &["restore", "--from", to]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    let restored = Ipam::start_on(&restored, Vec::new()).unwrap();
    assert_eq!(list(&restored)["advertisements"], all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_and_peers_reach_an_announcer_and_people_are_told_that_there_is_no_session() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("default-pool", &["192.168.12.100/31"])
        .await
        .unwrap();
    let mut advertisement = whole_advertisement();
    advertisement["node_selectors"] = json!([]);
    let apply = json!({ "advertisement": advertisement });
    call(&ipam, "ApplyAdvertisement", &apply).unwrap();
    let mut peer = whole_peer();
    peer["node_selectors"] = json!([]);
    call(&ipam, "ApplyBgpPeer", &json!({"peer": peer})).unwrap();
    call(
        &ipam,
        "ApplyBfdProfile",
        &json!({"profile": whole_profile()}),
    )
    .unwrap();
    let owner = json!({"owner": {"cluster": "east", "namespace": "default", "name": "web"}});
    ipam.grpcurl(
        Some(&owner.to_string()),
        "pharos.v1.AllocationService/Allocate",
    )
    .unwrap();

    let announcement = || {
        let method = "pharos.v1.AnnouncementService/ListAnnouncements";
        let listed = ipam.grpcurl(Some(r#"{"cluster":"east"}"#), method).unwrap();
        listed["announcements"][0].clone()
    };
    assert_eq!(announcement()["reason"], "NO_ANNOUNCER");
    let hello = v1::announcer_report::Hello {
        cluster: "east".to_owned(),
        node: "a".to_owned(),
        ..Default::default()
    };
    let hello = v1::AnnouncerReport {
        report: Some(v1::announcer_report::Report::Hello(hello)),
    };
    let mut client = AnnouncerServiceClient::new(ipam.channel().unwrap());
    let reports = tokio_stream::iter([hello]).chain(tokio_stream::pending());
    let mut updates = client.announce(reports).await.unwrap().into_inner();
    let (mut sets, mut peers, mut routed) = (BTreeMap::new(), None, Vec::new());
    loop {
        let update = tokio::time::timeout(SOON, updates.message());
        let update = update.await.unwrap().unwrap().unwrap().update.unwrap();
        match update {
            Update::NodeSet(set) => drop(sets.insert(set.id, set.nodes)),
            Update::BgpPeers(told) => peers = Some(told),
            Update::Bucket(bucket) => routed.extend(bucket.assignments),
            Update::Changes(changes) => routed.extend(changes.upserts),
            Update::Synced(_) => break,
            Update::Header(_) | Update::Members(_) => {}
        }
    }
    let [assignment] = &routed[..] else {
        panic!("{routed:?}");
    };
    assert!(assignment.l2.is_none() && assignment.nodes.is_empty());
    let entry = &assignment.bgp[0];
    assert_eq!(sets[&entry.nodes], ["a"]);
    let route = &entry.routes[0];
    assert_eq!(
        (route.prefix.as_str(), route.local_pref),
        ("192.168.12.0/24", 100)
    );
    assert_eq!(route.peers, ["tor"]);
    let peers = peers.unwrap();
    assert_eq!(sets[&peers.peers[0].nodes], ["a"]);
    assert_eq!(peers.profiles[0].name, "fast");
    assert!(!format!("{peers:?}").contains(PASSWORD));

    let told = announcement();
    assert_eq!(told["reason"], "BGP_NO_SESSION", "{told}");
    let method = "pharos.v1.AnnouncerService/GetPeerSecrets";
    let secrets = ipam.grpcurl(Some(r#"{"cluster":"east","node":"a"}"#), method);
    assert_eq!(secrets.unwrap()["secrets"][0]["password"], PASSWORD);
    let none = ipam.grpcurl(Some(r#"{"cluster":"east","node":"b"}"#), method);
    assert!(none.unwrap_err().to_string().contains("UNKNOWN_NODE"));
    assert!(!ipam.program().log().contains(PASSWORD));
}
