//! Verdicts on one change, as a webhook gives them.

use serde_json::{Value, json};

use super::settings;
use super::site::Site;
use crate::policy::admission::{Change, Verdict, review};
use crate::policy::{Object, ResourceKind, Subject};

const OURS: &str = "metallb-system";

/// The one object of a site.
fn object(site: &Site) -> Object<'_> {
    let mut objects = Vec::new();
    objects.extend(site.pools.iter().map(Object::Pool));
    objects.extend(site.l2.iter().map(Object::L2Advertisement));
    objects.extend(site.bgp.iter().map(Object::BgpAdvertisement));
    objects.extend(site.communities.iter().map(Object::Community));
    objects.extend(site.peers.iter().map(Object::Peer));
    objects.extend(site.profiles.iter().map(Object::Profile));
    assert_eq!(objects.len(), 1);
    objects[0]
}

/// What is said to an object that is created, or that takes the place of its namesake.
fn judged(existing: &Value, new: &Value) -> Verdict {
    let (existing, new) = (Site::of(existing), Site::of(new));
    let change = Change::Create(object(&new));
    let created = review(&existing.objects(), &change, OURS, OURS, &settings());
    let change = Change::Update(object(&new));
    let updated = review(&existing.objects(), &change, OURS, OURS, &settings());
    assert_eq!(created, updated);
    created
}

#[track_caller]
fn refused(existing: &Value, new: &Value, words: &str) {
    let verdict = judged(existing, new);
    assert!(!verdict.errors.is_empty(), "{new} was accepted");
    let contains = |error: &String| error.contains(words);
    assert!(verdict.errors.iter().all(contains), "{:?}", verdict.errors);
}

#[track_caller]
fn accepted(existing: &Value, new: &Value) {
    let verdict = judged(existing, new);
    assert!(verdict.errors.is_empty(), "{:?}", verdict.errors);
}

fn pool(name: &str, addresses: &[&str]) -> Value {
    json!({ "pools": { name: { "addresses": addresses } } })
}

fn peer(name: &str) -> Value {
    json!({ "peers": { name: { "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "bfdProfile": "quick" } } })
}

#[test]
fn an_object_that_stays_as_it_is_is_admitted_with_its_old_errors() {
    let wrong = json!({ "peers": { "p": { "disableMP": true } } });
    let site = Site::of(&wrong);
    let change = Change::Update(object(&site));
    let verdict = review(&site.objects(), &change, OURS, OURS, &settings());
    assert!(
        verdict.errors.is_empty() && !verdict.warnings.is_empty(),
        "{verdict:?}"
    );
    let none = Site::of(&json!({}));
    let verdict = review(&none.objects(), &change, OURS, OURS, &settings());
    assert!(!verdict.errors.is_empty());
}

#[test]
fn an_object_is_created_in_the_one_namespace_that_is_read() {
    for new in [
        pool("p", &["192.0.2.0/28"]),
        json!({ "l2": { "ad": {} } }),
        json!({ "bgp": { "ad": {} } }),
        json!({ "communities": { "c": {} } }),
        peer("p"),
        // Nothing else is looked at: not even what MetalLB lets pass.
        json!({ "peers": { "p": { "disableMP": true } } }),
        json!({ "profiles": { "b": {} } }),
    ] {
        let site = Site::of(&new);
        let judged = |change: Change<'_>| {
            let nothing = Site::default();
            review(&nothing.objects(), &change, "default", OURS, &settings())
        };
        let created = judged(Change::Create(object(&site)));
        assert_eq!(
            created.errors,
            ["resource must be created in metallb-system namespace"]
        );
        let updated = judged(Change::Update(object(&site)));
        assert_eq!((updated.errors.len(), updated.warnings.len()), (0, 1));
        let deleted = judged(Change::Delete(object(&site).subject()));
        assert_eq!(deleted, Verdict::default());
    }
}

#[test]
fn a_pool_may_not_overlap_what_there_is_but_may_take_its_own_place() {
    let existing = pool("webhooks-test1", &["1.1.1.1-1.1.1.100"]);
    let words = "overlaps with already defined CIDR";
    refused(
        &existing,
        &pool("webhooks-test2", &["1.1.1.15-1.1.1.20"]),
        words,
    );
    refused(&existing, &pool("webhooks-test2", &["1.1.1.0/24"]), words);
    accepted(&existing, &pool("webhooks-test2", &["1.1.1.101-1.1.1.200"]));
    accepted(&existing, &pool("webhooks-test1", &["1.1.1.0/24"]));
}

#[test]
fn references_to_what_does_not_exist_yet_are_told_and_taken() {
    let nothing = json!({});
    let ad = json!({ "bgp": { "ad": { "ipAddressPools": ["p"], "peers": ["x"], "communities": ["NAME"] } } });
    let verdict = judged(&nothing, &ad);
    assert_eq!(
        (verdict.errors.len(), verdict.warnings.len()),
        (0, 3),
        "{verdict:?}"
    );
    let verdict = judged(&nothing, &peer("x"));
    assert_eq!(verdict.errors, [""; 0]);
    assert_eq!(
        verdict.warnings,
        ["spec.bfdProfile: there is no BFDProfile \"quick\""]
    );
}

#[test]
fn a_pool_answers_for_what_it_newly_does_to_advertisements() {
    let ad = json!({ "aggregationLength": 26 });
    let existing =
        json!({ "pools": { "p": { "addresses": ["1.1.1.0/24"] } }, "bgp": { "ad": ad } });
    refused(
        &existing,
        &pool("p", &["1.1.1.0/28"]),
        "prefix 28 in this pool is more specific",
    );
    accepted(&existing, &pool("p", &["1.1.1.0/25"]));
    // Two advertisements with different preferences meet in a pool that gets a label.
    let selects = |label: &str, local_pref: u32| {
        json!({
            "localPref": local_pref, "ipAddressPoolSelectors": [{ "matchLabels": { label: "yes" } }],
        })
    };
    let existing = json!({
        "nodes": { "n": {} }, "bgp": { "one": selects("a", 1), "two": selects("b", 2) },
    });
    let labelled = |labels: Value| json!({ "pools": { "p": { "labels": labels, "spec": { "addresses": ["1.1.1.0/28"] } } } });
    accepted(&existing, &labelled(json!({ "a": "yes" })));
    refused(
        &existing,
        &labelled(json!({ "a": "yes", "b": "yes" })),
        "invalid local preference",
    );
}

#[test]
fn nobody_answers_for_what_was_wrong_before() {
    let existing = json!({
        "pools": { "p": { "addresses": ["1.1.1.0/28"] }, "bad": { "addresses": ["x"] } },
        "bgp": { "ad": { "aggregationLength": 26 } },
        "peers": { "broken": {} },
    });
    accepted(&existing, &pool("p", &["1.1.1.0/29"]));
    accepted(&existing, &pool("q", &["2.2.2.0/24"]));
    accepted(&existing, &json!({ "l2": { "ad": {} } }));
    // Its own mistakes are told, as often as it comes.
    refused(
        &existing,
        &json!({ "bgp": { "ad": { "aggregationLength": 27 } } }),
        "aggregation length 27",
    );
    refused(&existing, &pool("bad", &["y"]), "invalid CIDR \"y\"");
}

#[test]
fn a_profile_in_use_is_not_deleted() {
    let site = Site::of(&json!({
        "profiles": { "quick": {}, "slow": {} },
        "pools": { "quick": { "addresses": ["192.0.2.0/28"] } },
        "peers": { "rack": { "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "bfdProfile": "quick" } },
    }));
    let deleted = |kind, name| {
        let change = Change::Delete(Subject::new(kind, name));
        review(&site.objects(), &change, OURS, OURS, &settings()).errors
    };
    assert_eq!(
        deleted(ResourceKind::Profile, "quick"),
        ["failed to delete BFDProfile quick, used by BGPPeer rack"]
    );
    assert_eq!(deleted(ResourceKind::Profile, "slow"), [""; 0]);
    for kind in [ResourceKind::Pool, ResourceKind::Peer] {
        assert_eq!(deleted(kind, "quick"), [""; 0]);
    }
}
