//! The types against the schemas that users apply.

use std::borrow::Cow;

use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::*;

const POOLS: &str = include_str!("../../crds/ipaddresspools.yaml");
const L2: &str = include_str!("../../crds/l2advertisements.yaml");
const BGP: &str = include_str!("../../crds/bgpadvertisements.yaml");
const PEERS: &str = include_str!("../../crds/bgppeers.yaml");
const PROFILES: &str = include_str!("../../crds/bfdprofiles.yaml");
const COMMUNITIES: &str = include_str!("../../crds/communities.yaml");
const SERVICE_L2: &str = include_str!("../../crds/servicel2statuses.yaml");
const SERVICE_BGP: &str = include_str!("../../crds/servicebgpstatuses.yaml");
const CONFIGURATION: &str = include_str!("../../crds/configurationstates.yaml");
const SESSIONS: &str = include_str!("../../crds/bgpsessionstates.yaml");

fn definition(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).expect("the file is YAML")
}

/// Of the version that the files list last, which is the one that is read.
fn schema(yaml: &str) -> Value {
    let versions = definition(yaml)["spec"]["versions"].clone();
    let version = versions.as_array().and_then(|it| it.last().cloned());
    version.expect("a version")["schema"]["openAPIV3Schema"].clone()
}

/// A value of a type that matters to a reader: other texts would not parse.
fn text(schema: &Value) -> Value {
    if let Some(values) = schema.get("enum") {
        return values[0].clone();
    }
    match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => json!("2026-01-01T00:00:00Z"),
        Some(_) | None => json!("text"),
    }
}

/// An object in which every property that the schema knows has a value.
fn fullest(schema: &Value) -> Value {
    match schema["type"].as_str().expect("a type") {
        "string" => text(schema),
        "boolean" => json!(true),
        "integer" => schema.get("maximum").cloned().unwrap_or(json!(7)),
        "array" => json!([fullest(&schema["items"])]),
        "object" => match (schema.get("properties"), schema.get("additionalProperties")) {
            (Some(properties), _) => properties
                .as_object()
                .expect("properties are an object")
                .iter()
                .map(|(name, schema)| (name.clone(), fullest(schema)))
                .collect::<Map<_, _>>()
                .into(),
            (None, Some(values)) => json!({ "name": fullest(values) }),
            (None, None) => json!({}),
        },
        other => panic!("the schema uses type {other}, which this test does not know"),
    }
}

/// An object with only what the schema requires.
fn barest(schema: &Value) -> Value {
    let required = schema.get("required").and_then(Value::as_array);
    match schema["type"].as_str() {
        Some("object") => required
            .into_iter()
            .flatten()
            .map(|name| name.as_str().expect("names are strings"))
            .map(|name| (name.to_owned(), barest(&schema["properties"][name])))
            .collect::<Map<_, _>>()
            .into(),
        _ => fullest(schema),
    }
}

/// A part of the fullest object comes out of its type as it went in.
fn keeps_all_of<T: DeserializeOwned + Serialize>(yaml: &str, part: &str) {
    let full = fullest(&schema(yaml)["properties"][part]);
    let parsed: T = serde_json::from_value(full.clone()).expect("accepted");
    assert_eq!(serde_json::to_value(parsed).expect("serializes"), full);
}

fn takes_the_barest<T: DeserializeOwned>(yaml: &str, part: &str) -> T {
    let bare = barest(&schema(yaml)["properties"][part]);
    serde_json::from_value(bare).expect("accepted")
}

#[test]
fn the_types_keep_every_field_of_the_schemas() {
    keeps_all_of::<PoolSpec>(POOLS, "spec");
    keeps_all_of::<PoolStatus>(POOLS, "status");
    keeps_all_of::<L2Spec>(L2, "spec");
    keeps_all_of::<BgpSpec>(BGP, "spec");
    keeps_all_of::<PeerSpec>(PEERS, "spec");
    keeps_all_of::<ProfileSpec>(PROFILES, "spec");
    keeps_all_of::<CommunitySpec>(COMMUNITIES, "spec");
    keeps_all_of::<ServiceL2>(SERVICE_L2, "status");
    keeps_all_of::<ServiceBgp>(SERVICE_BGP, "status");
    keeps_all_of::<ConfigurationStatus>(CONFIGURATION, "status");
    keeps_all_of::<SessionState>(SESSIONS, "status");
}

#[test]
fn the_types_accept_the_barest_objects_of_the_schemas() {
    let pool: PoolSpec = takes_the_barest(POOLS, "spec");
    assert_eq!((pool.auto_assign, pool.avoid_buggy_ips), (None, false));
    assert_eq!(takes_the_barest::<L2Spec>(L2, "spec"), L2Spec::default());
    assert_eq!(takes_the_barest::<BgpSpec>(BGP, "spec"), BgpSpec::default());
    let peer: PeerSpec = takes_the_barest(PEERS, "spec");
    let expected = PeerSpec {
        my_asn: u32::MAX,
        ..PeerSpec::default()
    };
    assert_eq!(peer, expected);
    let profile: ProfileSpec = takes_the_barest(PROFILES, "spec");
    assert_eq!(profile, ProfileSpec::default());
    let names: CommunitySpec = takes_the_barest(COMMUNITIES, "spec");
    assert_eq!(names, CommunitySpec::default());
    let state: ConfigurationStatus = takes_the_barest(CONFIGURATION, "status");
    assert_eq!(state, ConfigurationStatus::default());
}

#[test]
fn every_kind_but_a_pool_may_have_no_spec_at_all() {
    let bare = json!({ "metadata": { "name": "default" } });
    for yaml in [L2, BGP, PEERS, PROFILES, COMMUNITIES] {
        assert_eq!(barest(&schema(yaml)), json!({}));
    }
    let l2: L2Advertisement = serde_json::from_value(bare.clone()).expect("accepted");
    assert_eq!(l2.spec, L2Spec::default());
    let bgp: BGPAdvertisement = serde_json::from_value(bare.clone()).expect("accepted");
    assert_eq!(bgp.spec, BgpSpec::default());
    let peer: BGPPeer = serde_json::from_value(bare.clone()).expect("accepted");
    assert_eq!(peer.spec, PeerSpec::default());
    let profile: BFDProfile = serde_json::from_value(bare.clone()).expect("accepted");
    assert_eq!(profile.spec, ProfileSpec::default());
    let names: Community = serde_json::from_value(bare).expect("accepted");
    assert_eq!(names.spec, CommunitySpec::default());
    assert_eq!(
        barest(&schema(POOLS)),
        json!({ "spec": { "addresses": ["text"] } })
    );
}

#[test]
fn a_peer_of_either_version_is_one_type() {
    let crd = definition(PEERS);
    let [old, new] = [0, 1].map(|index| &crd["spec"]["versions"][index]);
    assert_eq!([&old["name"], &new["name"]], ["v1beta1", "v1beta2"]);
    assert_eq!([&old["storage"], &new["storage"]], [false, true]);
    assert_eq!([&old["served"], &new["served"]], [true, true]);
    assert_eq!(old["deprecated"], true);
    let warning = "v1beta1 is deprecated, please use v1beta2";
    assert_eq!(old["deprecationWarning"], warning);
    assert_eq!(crd["spec"]["conversion"], json!({ "strategy": "None" }));
    // Without a conversion a field of the old version that the new one lacks would be lost.
    let spec = |version: &Value| {
        let spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
        spec["properties"].as_object().cloned().expect("properties")
    };
    let (old, new) = (spec(old), spec(new));
    let lost: Vec<&String> = old.keys().filter(|name| !new.contains_key(*name)).collect();
    assert_eq!(lost, [&""; 0]);
    let full: Map<String, Value> = old
        .iter()
        .map(|(name, schema)| (name.clone(), fullest(schema)))
        .collect();
    let parsed: PeerSpec = serde_json::from_value(full.clone().into()).expect("accepted");
    let again = serde_json::to_value(parsed).expect("serializes");
    for (name, value) in full {
        assert_eq!(again[&name], value, "{name}");
    }
}

/// What a file must say of its kind, by the type that reads it.
fn defines<K: Resource<DynamicType = ()>>(yaml: &str, columns: &[&str]) {
    let crd = definition(yaml);
    let plural: Cow<'_, str> = K::plural(&());
    assert_eq!(crd["spec"]["group"], K::group(&()).as_ref());
    assert_eq!(
        crd["metadata"]["name"],
        format!("{plural}.{}", K::group(&()))
    );
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    assert_eq!(crd["spec"]["names"]["plural"], plural.as_ref());
    assert_eq!(crd["spec"]["names"]["kind"], K::kind(&()).as_ref());
    assert_eq!(crd["spec"]["names"].get("shortNames"), None);
    let versions = crd["spec"]["versions"].as_array().expect("versions");
    let last = versions.last().expect("a version");
    assert_eq!(last["name"], K::version(&()).as_ref());
    assert_eq!(last["storage"], true);
    for version in versions {
        assert_eq!(version["subresources"]["status"], json!({}));
        let shown: Vec<&Value> = version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|column| &column["name"])
            .collect();
        assert_eq!(shown, columns, "{plural}");
    }
}

#[test]
fn the_files_define_what_the_types_ask_for() {
    defines::<IPAddressPool>(POOLS, &["Auto Assign", "Avoid Buggy IPs", "Addresses"]);
    let selects = ["IPAddressPools", "IPAddressPool Selectors"];
    let l2 = [&selects[..], &["Interfaces", "Node Selectors"]].concat();
    defines::<L2Advertisement>(L2, &l2);
    let bgp = [&selects[..], &["Peers", "Node Selectors"]].concat();
    defines::<BGPAdvertisement>(BGP, &bgp);
    defines::<BGPPeer>(PEERS, &["Address", "ASN", "BFD Profile", "Multi Hops"]);
    let intervals = ["Transmit Interval", "Receive Interval"];
    let profile = [&["Passive Mode"], &intervals[..], &["Multiplier"]].concat();
    defines::<BFDProfile>(PROFILES, &profile);
    defines::<Community>(COMMUNITIES, &[]);
    let service = ["Service Name", "Service Namespace"];
    let l2 = [&["Allocated Node"], &service[..]].concat();
    defines::<ServiceL2Status>(SERVICE_L2, &l2);
    let bgp = [&["Node"], &service[..]].concat();
    defines::<ServiceBGPStatus>(SERVICE_BGP, &bgp);
    defines::<ConfigurationState>(CONFIGURATION, &["Result", "ErrorSummary", "Age"]);
    defines::<BGPSessionState>(SESSIONS, &["Node", "Peer", "VRF", "BGP", "BFD"]);
}
