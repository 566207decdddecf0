//! Questions as an API server asks them.

use super::*;
use crate::policy::Known;

const OURS: &str = "metallb-system";

fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    }
}

/// A question; `fields` differ from one that creates `object`.
fn question(object: &Value, fields: &Value) -> Vec<u8> {
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": "CREATE", "name": object["metadata"]["name"],
            "kind": { "group": "metallb.io", "version": "v1beta1", "kind": object["kind"] },
            "namespace": OURS, "object": object, "oldObject": null, "dryRun": false,
        },
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        review["request"][field] = value.clone();
    }
    review.to_string().into_bytes()
}

fn object(kind: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": kind,
        "metadata": { "name": "x", "namespace": OURS, "labels": { "a": "b" } }, "spec": spec,
    })
}

fn pool(addresses: &[&str]) -> Value {
    object("IPAddressPool", &json!({ "addresses": addresses }))
}

fn asked(kind: ResourceKind, object: &Value, fields: &Value) -> Value {
    let review = Review::parse(kind, &question(object, fields)).expect("a question");
    let verdict = review.judge(&Objects::default(), OURS, &settings());
    review.answer(&verdict)
}

#[test]
fn paths_are_metallbs_and_no_others() {
    let paths = [
        ("v1beta1-ipaddresspool", ResourceKind::Pool),
        ("v1beta1-l2advertisement", ResourceKind::L2Advertisement),
        ("v1beta1-bgpadvertisement", ResourceKind::BgpAdvertisement),
        ("v1beta1-community", ResourceKind::Community),
        ("v1beta1-bfdprofile", ResourceKind::Profile),
        ("v1beta2-bgppeer", ResourceKind::Peer),
    ];
    for (path, kind) in paths {
        assert_eq!(kind_of(&format!("/validate-metallb-io-{path}")), Some(kind));
    }
    for path in ["", "/", "/validate-metallb-io-v1beta1-bgppeer", "/metrics"] {
        assert_eq!(kind_of(path), None, "{path}");
    }
}

#[test]
fn an_answer_has_the_uid_of_its_question() {
    let allowed = asked(ResourceKind::Pool, &pool(&["192.0.2.0/28"]), &json!({}));
    let expected = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": { "uid": "705ab4f5", "allowed": true },
    });
    assert_eq!(allowed, expected);
}

#[test]
fn a_refusal_is_one_of_kubernetes_with_all_that_is_wrong() {
    let bad = pool(&["192.0.2.0/33", "192.0.2.9-192.0.2.1"]);
    let answer = asked(ResourceKind::Pool, &bad, &json!({}));
    let response = &answer["response"];
    assert_eq!(response["allowed"], json!(false));
    assert_eq!(response["status"]["code"], json!(403));
    assert_eq!(response["status"]["reason"], json!("Forbidden"));
    let message = response["status"]["message"].as_str().expect("a message");
    for words in [
        "spec.addresses[0]: ",
        "invalid CIDR",
        "; spec.addresses[1]: ",
        "is after the end",
    ] {
        assert!(message.contains(words), "{words} is not in {message}");
    }
}

#[test]
fn a_warning_refuses_nothing() {
    let profile = object("BFDProfile", &json!({ "echoMode": true }));
    let answer = asked(ResourceKind::Profile, &profile, &json!({}));
    assert_eq!(answer["response"]["allowed"], json!(true));
    let warnings = answer["response"]["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn every_kind_is_read_with_its_own_fields() {
    let bad = [
        (
            ResourceKind::Pool,
            "IPAddressPool",
            json!({ "addresses": [] }),
            "no prefixes",
        ),
        (
            ResourceKind::L2Advertisement,
            "L2Advertisement",
            json!({ "ipAddressPools": ["p", "p"] }),
            "duplicate definition of ipAddressPools",
        ),
        (
            ResourceKind::BgpAdvertisement,
            "BGPAdvertisement",
            json!({ "communities": ["65536:1"] }),
            "invalid community value",
        ),
        (
            ResourceKind::Community,
            "Community",
            json!({ "communities": [{ "name": "a", "value": "1:2" }, { "name": "a", "value": "1:3" }] }),
            "duplicate definition of community",
        ),
        (ResourceKind::Peer, "BGPPeer", json!({ "myASN": 1 }), "ASN"),
        (
            ResourceKind::Profile,
            "BFDProfile",
            json!({ "detectMultiplier": 1 }),
            "detectMultiplier",
        ),
        // What cannot be read at all is a mistake of its own.
        (
            ResourceKind::Pool,
            "IPAddressPool",
            json!({ "addresses": 1 }),
            "invalid type",
        ),
    ];
    for (kind, name, spec, words) in bad {
        let answer = asked(kind, &object(name, &spec), &json!({}));
        let message = answer["response"]["status"]["message"].as_str();
        let message = message.unwrap_or_else(|| panic!("{name}: {answer}"));
        assert!(message.contains(words), "{words} is not in {message}");
    }
}

#[test]
fn what_is_being_deleted_may_be_changed_and_a_deletion_needs_no_object() {
    let mut going = pool(&["nonsense"]);
    let update = json!({ "operation": "UPDATE" });
    let answer = asked(ResourceKind::Pool, &going, &update);
    assert_eq!(answer["response"]["allowed"], json!(false));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let answer = asked(ResourceKind::Pool, &going, &update);
    assert_eq!(answer["response"]["allowed"], json!(true));

    let deletion = json!({ "operation": "DELETE", "name": "quick", "object": null });
    let body = question(&object("BFDProfile", &json!({})), &deletion);
    let review = Review::parse(ResourceKind::Profile, &body).expect("a question");
    let peer: PeerSpec = serde_json::from_value(json!({ "bfdProfile": "quick" })).expect("a spec");
    let peer = Declared {
        name: "rack".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: Ok(peer),
    };
    let existing = Objects {
        peers: Known::all([&peer]),
        ..Objects::default()
    };
    let refused = review.judge(&existing, OURS, &settings());
    assert_eq!(
        refused.errors,
        ["failed to delete BFDProfile quick, used by BGPPeer rack"]
    );
    let alone = review.judge(&Objects::default(), OURS, &settings());
    assert_eq!(alone, Verdict::default());
    // One of a collection is asked about by its object alone.
    for (name, refused) in [("quick", true), ("slow", false)] {
        let mut old = object("BFDProfile", &json!({}));
        old["metadata"]["name"] = json!(name);
        let deletion =
            json!({ "operation": "DELETE", "name": "", "object": null, "oldObject": old });
        let body = question(&object("BFDProfile", &json!({})), &deletion);
        let review = Review::parse(ResourceKind::Profile, &body).expect("a question");
        let verdict = review.judge(&existing, OURS, &settings());
        assert_eq!(!verdict.errors.is_empty(), refused, "{name}");
    }
}

#[test]
fn the_namespace_comes_first() {
    let elsewhere = json!({ "namespace": "default" });
    let answer = asked(ResourceKind::Pool, &pool(&["nonsense"]), &elsewhere);
    assert_eq!(
        answer["response"]["status"]["message"],
        json!("resource must be created in metallb-system namespace")
    );
}

#[test]
fn labels_and_our_own_annotations_count() {
    let mut object = pool(&["192.0.2.0/28"]);
    object["metadata"]["annotations"] =
        json!({ "pharos.io/protect": "maybe", "other/protect": "maybe" });
    let body = question(&object, &json!({}));
    let review = Review::parse(ResourceKind::Pool, &body).expect("a question");
    let Asked::Create(Resource::Pool(declared)) = &review.asked else {
        panic!("{:?}", review.asked);
    };
    assert_eq!(declared.labels.get("a").map(String::as_str), Some("b"));
    let refused = review.judge(&Objects::default(), OURS, &settings());
    assert_eq!(refused.errors.len(), 1, "{refused:?}");
    assert!(
        refused.errors[0].contains("pharos.io/protect"),
        "{refused:?}"
    );
}

#[test]
fn what_is_no_question_is_told_so() {
    let sound = String::from_utf8(question(&pool(&[]), &json!({}))).expect("text");
    for (body, words) in [
        (String::new(), "EOF"),
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "no AdmissionReview"),
        ("{}".to_owned(), "apiVersion"),
        (
            sound.replace("k8s.io/v1\"", "k8s.io/v1beta1\""),
            "only \"admission.k8s.io/v1\"",
        ),
        (
            sound.replace("metallb.io\"", "example.com\""),
            "example.com/IPAddressPool is not judged here",
        ),
        (
            sound.replace("\"kind\":\"IPAddressPool\"", "\"kind\":\"BGPPeer\""),
            "IPAddressPool is",
        ),
        (
            String::from_utf8(question(&pool(&[]), &json!({ "object": null }))).expect("text"),
            "CREATE needs an object",
        ),
    ] {
        let error = Review::parse(ResourceKind::Pool, body.as_bytes()).expect_err(&body);
        assert!(
            error.to_string().contains(words),
            "{words} is not in {error}"
        );
    }
}

#[test]
fn an_answer_is_as_long_as_people_read() {
    let alias = json!({ "name": "a", "value": "nonsense" });
    let object = object("Community", &json!({ "communities": vec![alias; 1000] }));
    let answer = asked(ResourceKind::Community, &object, &json!({}));
    let message = answer["response"]["status"]["message"]
        .as_str()
        .expect("a text");
    assert!(message.ends_with("and 1980 more"), "{message}");
    assert!(message.len() < 4096, "{} bytes", message.len());
}
