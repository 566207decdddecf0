//! Topology: one ipam-service that lost its database; grpcurl as its client.
//!
//! 1. Every call that changes something leaves changes that say what, when, by whom and with which
//!    request id, before and after; what only followed from it says so, with the same request id.
//!    The table names every method that takes a request id: a new one is missed here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use e2e::ipam::{Ipam, grpcurl};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::{Value, json};

/// Takes a request id, but decides nothing about addresses.
const NO_DECISION: [&str; 1] = ["HistoryService/ConfirmClock"];

/// Takes a request id to find changes by.
const FILTERS: [&str; 1] = ["HistoryService/ListChanges"];

/// Method, request, and the changes that it makes: type, kind, name. A name that ends with `+`
/// followed from the call.
fn table() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let owner = |name: &str| json!({"cluster": "east", "namespace": "ns", "name": name});
    let pool = |name: &str, range: &str| json!({"name": name, "addresses": [range]});
    let advertisement = |name: &str| json!({"name": name, "l2": {}});
    vec![
        (
            "ClusterService/FinishRecovery",
            json!({"cluster": "lost"}),
            vec!["UPDATED cluster lost"],
        ),
        (
            "PoolService/ApplyPool",
            json!({"pool": pool("pool", "192.0.2.1-192.0.2.1")}),
            vec!["CREATED pool pool"],
        ),
        (
            "ReservationService/ApplyReservation",
            json!({"reservation": {"name": "gateway", "addresses": ["192.0.2.99"]}}),
            vec!["CREATED reservation gateway"],
        ),
        (
            "ReservationService/ApplyReservation",
            json!({"reservation": {"name": "gateway", "addresses": ["192.0.2.98"]}}),
            vec!["UPDATED reservation gateway"],
        ),
        (
            "ReservationService/DeleteReservation",
            json!({"name": "gateway"}),
            vec!["DELETED reservation gateway"],
        ),
        (
            "QuotaService/ApplyQuota",
            json!({"quota": {"name": "few", "cluster": "east", "limit": 5}}),
            vec!["CREATED quota few"],
        ),
        (
            "QuotaService/DeleteQuota",
            json!({"name": "few"}),
            vec!["DELETED quota few"],
        ),
        (
            "AddressSpaceService/ApplyAddressSpace",
            json!({"address_space": {
                "name": "default", "grants": [{"cluster": "east", "ranges": ["192.0.2.0/24"]}],
            }}),
            vec!["CREATED addressSpace default"],
        ),
        (
            "AddressSpaceService/ApplyAddressSpace",
            json!({
                "address_space": {"name": "default", "hide_holders": true},
                "update_mask": {"paths": ["hide_holders"]},
            }),
            vec!["UPDATED addressSpace default"],
        ),
        (
            "AddressSpaceService/DeleteAddressSpace",
            json!({"name": "default"}),
            vec!["DELETED addressSpace default"],
        ),
        (
            "AdvertisementService/ApplyAdvertisement",
            json!({"advertisement": advertisement("all")}),
            vec!["CREATED advertisement all"],
        ),
        (
            "AdvertisementService/DeleteAdvertisement",
            json!({"name": "all"}),
            vec!["DELETED advertisement all"],
        ),
        (
            "AllocationService/Allocate",
            json!({"owner": owner("first")}),
            vec!["CREATED cluster east", "CREATED allocation first"],
        ),
        (
            "AllocationService/Allocate",
            json!({"owner": owner("second"), "if_refused": "QUEUE"}),
            vec!["CREATED allocation second"],
        ),
        // Whoever waited gets what came free, in the same commit.
        (
            "AllocationService/Release",
            json!({"owner": owner("first")}),
            vec!["DELETED allocation first", "UPDATED allocation second+"],
        ),
        // Its address goes: it is decided again.
        (
            "PoolService/ApplyPool",
            json!({"pool": pool("pool", "192.0.2.2-192.0.2.2"), "if_in_use": "MOVE"}),
            vec!["UPDATED pool pool", "UPDATED allocation second+"],
        ),
        (
            "PoolService/DeletePool",
            json!({"name": "pool", "if_in_use": "MOVE"}),
            vec!["DELETED pool pool", "UPDATED allocation second+"],
        ),
        (
            "PoolService/SyncPools",
            json!({"cluster": "east", "pools": [pool("own", "198.51.100.0/28")]}),
            vec!["CREATED pool own", "UPDATED allocation second+"],
        ),
        (
            "AdvertisementService/SyncAdvertisements",
            json!({"cluster": "east", "advertisements": [advertisement("own")]}),
            vec!["CREATED advertisement own"],
        ),
        (
            "ClusterService/BeginSync",
            json!({"cluster": "east", "cluster_uid": "uid"}),
            vec!["UPDATED cluster east"],
        ),
        (
            "ClusterService/EndSync",
            json!({"cluster": "east"}),
            vec!["UPDATED cluster east"],
        ),
        (
            "ClusterService/AdoptCluster",
            json!({"name": "east", "cluster_uid": "other"}),
            vec!["UPDATED cluster east"],
        ),
        (
            "ClusterService/DeleteCluster",
            json!({"name": "east"}),
            vec![
                "DELETED allocation second",
                "DELETED pool own",
                "DELETED advertisement own",
                "DELETED cluster east",
            ],
        ),
    ]
    .into_iter()
    .chain(rest())
    .chain(bgp())
    .collect()
}

/// BGP peers and BFD profiles.
fn bgp() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let peer = |name: &str, asn: u32| json!({"name": name, "my_asn": asn, "peer_asn": 64513, "address": "192.0.2.254"});
    vec![
        (
            "AdvertisementService/ApplyBfdProfile",
            json!({"profile": {"name": "fast", "receive_interval_ms": 50}}),
            vec!["CREATED bfdProfile fast"],
        ),
        (
            "AdvertisementService/ApplyBgpPeer",
            json!({"peer": peer("tor", 64512)}),
            vec!["CREATED bgpPeer tor"],
        ),
        (
            "AdvertisementService/ApplyBgpPeer",
            json!({"peer": peer("tor", 64999)}),
            vec!["UPDATED bgpPeer tor"],
        ),
        (
            "AdvertisementService/DeleteBgpPeer",
            json!({"name": "tor"}),
            vec!["DELETED bgpPeer tor"],
        ),
        (
            "AdvertisementService/DeleteBfdProfile",
            json!({"name": "fast"}),
            vec!["DELETED bfdProfile fast"],
        ),
        (
            "AdvertisementService/SyncBgpPeers",
            json!({
                "cluster": "north",
                "peers": [peer("spine", 64512)],
                "profiles": [{"name": "slow"}],
            }),
            vec![
                "CREATED cluster north",
                "CREATED bfdProfile slow",
                "CREATED bgpPeer spine",
            ],
        ),
        (
            "ClusterService/DeleteCluster",
            json!({"name": "north"}),
            vec![
                "DELETED bgpPeer spine",
                "DELETED bfdProfile slow",
                "DELETED cluster north",
            ],
        ),
    ]
}

/// An address that rests before its next owner.
fn rest() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let owner = json!({"cluster": "west", "namespace": "ns", "name": "guest"});
    vec![
        (
            "PoolService/ApplyPool",
            json!({"pool": {
                "name": "calm", "addresses": ["203.0.113.1-203.0.113.1"], "reuse_delay": "600s",
            }}),
            vec!["CREATED pool calm"],
        ),
        (
            "AllocationService/Allocate",
            json!({"owner": owner}),
            vec!["CREATED cluster west", "CREATED allocation guest"],
        ),
        (
            "AllocationService/Release",
            json!({"owner": owner}),
            vec![
                "DELETED allocation guest",
                "CREATED unavailable 203.0.113.1",
            ],
        ),
        (
            "ReservationService/ClearUnavailable",
            json!({"address": "203.0.113.1"}),
            vec!["DELETED unavailable 203.0.113.1"],
        ),
        (
            "PoolService/DeletePool",
            json!({"name": "calm"}),
            vec!["DELETED pool calm"],
        ),
        (
            "ClusterService/DeleteCluster",
            json!({"name": "west"}),
            vec!["DELETED cluster west"],
        ),
    ]
}

#[test]
fn every_call_that_changes_something_says_so_in_the_history() {
    if grpcurl().is_none() {
        return;
    }
    let mut ipam = Ipam::start().unwrap();
    ipam.kill().unwrap();
    ipam.lose_database().unwrap();
    let (code, output) = ipam.run(&["init", "--recover", "lost"]).unwrap();
    assert_eq!(code, Some(0), "{output}");
    ipam.restart().unwrap();

    let mut now: BTreeMap<String, Value> = BTreeMap::new();
    let (mut seen, mut time) = (0, String::new());
    // What `init` did.
    let changes = changes_from(&ipam, 1);
    assert_eq!(changes.len(), 1);
    take(&changes[0], &mut now, &mut seen, &mut time);
    assert_eq!(changes[0]["actor"], "ipam-service init");

    for (index, (method, mut request, expected)) in table().into_iter().enumerate() {
        let request_id = format!("call {index}");
        request["request_id"] = json!(request_id);
        let done = ipam.grpcurl(Some(&request.to_string()), &format!("pharos.v1.{method}"));
        done.unwrap_or_else(|error| panic!("{method}: {error}"));
        let changes = changes_from(&ipam, seen + 1);
        let mut found = Vec::new();
        for change in &changes {
            assert_eq!(change["requestId"], request_id, "{method}: {change}");
            let what = take(change, &mut now, &mut seen, &mut time);
            let mark = match change["actor"].as_str() {
                Some("anonymous@127.0.0.1") => "",
                Some("ipam-service") => "+",
                other => panic!("{method}: actor {other:?}"),
            };
            found.push(format!("{what}{mark}"));
        }
        assert_eq!(found, expected, "{method}");
    }
    assert_eq!(now.keys().collect::<Vec<_>>(), ["cluster lost"]);

    let tried: BTreeSet<String> = table().iter().map(|row| row.0.to_owned()).collect();
    let known = NO_DECISION
        .iter()
        .chain(&FILTERS)
        .map(|&name| name.to_owned());
    let covered: BTreeSet<String> = tried.into_iter().chain(known).collect();
    assert_eq!(covered, with_request_id());
}

/// Oldest first.
fn changes_from(ipam: &Ipam, revision: u64) -> Vec<Value> {
    let request = json!({"start_revision": revision, "page_size": 1000}).to_string();
    let page = ipam.grpcurl(Some(&request), "pharos.v1.HistoryService/ListChanges");
    let page = page.unwrap();
    let mut changes = page["changes"].as_array().cloned().unwrap_or_default();
    changes.reverse();
    changes
}

/// Checks a change against what was before, and says what it is: type, kind, name.
fn take(
    change: &Value,
    now: &mut BTreeMap<String, Value>,
    seen: &mut u64,
    time: &mut String,
) -> String {
    *seen += 1;
    assert_eq!(change["revision"], seen.to_string(), "{change}");
    let at = change["time"].as_str().expect("a time").to_owned();
    assert!(micros(&at) >= micros(time), "{at} after {time}");
    *time = at;
    let kinds = [
        "allocation",
        "pool",
        "advertisement",
        "bgpPeer",
        "bfdProfile",
        "cluster",
        "reservation",
        "quota",
        "addressSpace",
        "unavailable",
    ];
    let kind = kinds.into_iter().find(|kind| change.get(kind).is_some());
    let kind = kind.unwrap_or_else(|| panic!("no kind: {change}"));
    let (before, after) = (change[kind].get("before"), change[kind].get("after"));
    let subject = after.or(before).expect("a before or an after");
    let name = match kind {
        "allocation" => &subject["owner"]["name"],
        "unavailable" => &subject["address"],
        _ => &subject["name"],
    };
    let key = format!("{kind} {}", name.as_str().expect("a name"));
    let kept = match after {
        Some(after) => now.insert(key.clone(), after.clone()),
        None => now.remove(&key),
    };
    assert_eq!(kept.as_ref(), before, "{change}");
    let kind = change["type"].as_str().expect("a type").to_owned();
    let expected = match (before, after) {
        (None, Some(_)) => "CREATED",
        (Some(_), Some(_)) => "UPDATED",
        (Some(_), None) => "DELETED",
        (None, None) => panic!("{change}"),
    };
    assert_eq!(kind, expected, "{change}");
    format!("{kind} {key}")
}

/// A time as text, so that it can be compared: fractions have no, three or six digits.
fn micros(time: &str) -> String {
    let time = time.trim_end_matches('Z');
    match time.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<9}"),
        None => format!("{time}.000000000"),
    }
}

/// Methods whose request has a request id.
fn with_request_id() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(pharos_proto::DESCRIPTOR_SET).unwrap();
    let messages: BTreeSet<String> = set
        .file
        .iter()
        .flat_map(|file| {
            let package = file.package().to_owned();
            let with = file.message_type.iter().filter(|message| {
                message
                    .field
                    .iter()
                    .any(|field| field.name() == "request_id")
            });
            with.map(move |message| format!(".{package}.{}", message.name()))
        })
        .collect();
    let services = set.file.iter().flat_map(|file| &file.service);
    services
        .flat_map(|service| {
            let methods = service.method.iter();
            let with = methods.filter(|method| messages.contains(method.input_type()));
            with.map(|method| format!("{}/{}", service.name(), method.name()))
        })
        .collect()
}
