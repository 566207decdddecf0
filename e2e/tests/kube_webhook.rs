//! Topology: one Kubernetes API, one adapter that serves webhooks, one ipam-service
//! (e2e/src/adapters.rs). The API server asks the adapter by the objects of
//! `deploy/kubernetes/webhook.yaml`.
//!
//! 1. What MetalLB refuses is refused, in its words, and what spoils objects of other kinds as well.
//! 2. Names that stand for nothing yet are told, and refuse nothing: order never matters.
//! 3. A pool that was just deleted denies nobody.
//! 4. Without ipam-service all is judged; without any adapter all is accepted, and told afterwards.
//! 5. A definition that asks a webhook for conversions gets peers of both versions.
//! 6. A certificate can be given in files, and is exchanged when they are.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::{Stage, Webhook};
use e2e::site::DEADLINE;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";
const NAMESPACE: &str = "metallb-system";
const EXPIRY: &str = "pharos_adapter_webhook_certificate_expiry_timestamp_seconds";

/// Which webhook is asked, about what, and what it says.
type Case<'a> = (&'a str, Value, &'a str);

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let version = match kind {
        "BGPPeer" => "v1beta2",
        _ => "v1beta1",
    };
    json!({
        "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
}

fn pool(name: &str, addresses: &str) -> Value {
    object("IPAddressPool", name, &json!({ "addresses": [addresses] }))
}

/// A peer that is sound but for what is given.
fn peer(name: &str, fields: &Value) -> Value {
    let mut spec = json!({ "myASN": 64500, "peerASN": 64501, "peerAddress": "10.9.0.1" });
    for (field, value) in fields.as_object().unwrap() {
        spec[field] = value.clone();
    }
    object("BGPPeer", name, &spec)
}

/// A certificate for the adapter in files.
struct Given {
    directory: tempfile::TempDir,
    pem: String,
}

impl Given {
    fn new() -> Self {
        let mut given = Self {
            directory: tempfile::tempdir().unwrap(),
            pem: String::new(),
        };
        given.replace(2050);
        given
    }

    /// By one that ends in this year.
    fn replace(&mut self, year: i32) {
        let mut parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        self.pem = parameters.self_signed(&key).unwrap().pem();
        std::fs::write(self.path("tls.crt"), &self.pem).unwrap();
        std::fs::write(self.path("tls.key"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// Waits until the API server asks the adapter, which it does some time after it was told to.
fn wait_asked(stage: &Stage) {
    wait::until_ok("a change is judged", DEADLINE, || {
        match stage.would_apply(EAST, &pool("asked", "nonsense")) {
            Err(error) if error.to_string().contains("denied the request") => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .unwrap();
}

#[track_caller]
fn says(stage: &Stage, object: &Value, words: &str) -> String {
    let error = stage.would_apply(EAST, object).expect_err(words);
    let text = format!("{error:#}");
    assert!(text.contains(words), "{words} is not in: {text}");
    text
}

#[track_caller]
fn denied(stage: &Stage, object: &Value, words: &str) {
    let text = says(stage, object, words);
    assert!(text.contains("denied the request: "), "{text}");
}

fn metric(stage: &Stage, name: &str) -> Option<String> {
    let (_, text) = stage.admin(EAST, "/metrics").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.rsplit(' ').next()?.to_owned())
}

#[test]
fn changes_are_judged_before_they_are_stored() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    let mut given = Given::new();
    let webhook = Webhook::new();
    let listen = webhook.address.to_string();
    let (certificate, key) = (given.path("tls.crt"), given.path("tls.key"));
    let flags = [
        "--webhook-listen",
        &listen,
        "--webhook-cert",
        &certificate,
        "--webhook-key",
        &key,
    ];
    stage.start_adapter(EAST, &flags).unwrap();
    let trusting = |given: &Given| webhook.configuration(Some(&given.pem)).unwrap();
    stage.apply(EAST, &trusting(&given).to_string()).unwrap();
    wait_asked(&stage);

    what_metallb_refuses_is_refused(&stage);
    what_spoils_other_kinds_is_refused(&stage);
    names_that_stand_for_nothing_are_told(&stage);
    what_was_just_deleted_denies_nobody(&stage);

    old_and_new_peers_are_converted(&stage, webhook, &given);

    given.replace(2060);
    wait::until("the other certificate is shown", DEADLINE, || {
        let shown = metric(&stage, EXPIRY)?;
        (shown == "2840140800").then_some(())
    })
    .unwrap();
    stage.apply(EAST, &trusting(&given).to_string()).unwrap();
    wait_asked(&stage);

    stage.kill_book().unwrap();
    stage.wait_readiness(EAST, "ipam: ").unwrap();
    denied(
        &stage,
        &pool("without-book", "1.1.1.50/32"),
        "overlaps with already defined CIDR",
    );
    stage.start_book().unwrap();

    what_slips_through_is_told_afterwards(&mut stage, &flags);
}

fn what_metallb_refuses_is_refused(stage: &Stage) {
    let existing = [
        pool("webhooks-test1", "1.1.1.1-1.1.1.100"),
        peer(
            "first",
            &json!({ "routerID": "10.9.0.7", "bfdProfile": "quick" }),
        ),
        object("BFDProfile", "quick", &json!({})),
        object(
            "Community",
            "names",
            &json!({ "communities": [{ "name": "no-export", "value": "65535:65281" }] }),
        ),
    ];
    for object in &existing {
        stage.apply(EAST, &object.to_string()).unwrap();
    }
    let bgp = |spec: Value| object("BGPAdvertisement", "new", &spec);
    let cases: [Case<'_>; 21] = [
        (
            "ipaddresspool",
            object("IPAddressPool", "new", &json!({ "addresses": [] })),
            "pool has no prefixes defined",
        ),
        ("ipaddresspool", pool("new", "2.2.2.0/33"), "invalid CIDR"),
        (
            "ipaddresspool",
            pool("new", "2.2.2.9-2.2.2.1"),
            "is after the end",
        ),
        (
            "ipaddresspool",
            pool("new", "1.1.1.15-1.1.1.20"),
            "overlaps with already defined CIDR",
        ),
        (
            "l2advertisement",
            object(
                "L2Advertisement",
                "new",
                &json!({ "ipAddressPools": ["p", "p"] }),
            ),
            "duplicate definition of ipAddressPools",
        ),
        (
            "bgpadvertisement",
            bgp(json!({ "aggregationLength": 33 })),
            "invalid aggregation length",
        ),
        (
            "bgpadvertisement",
            bgp(json!({ "communities": ["1:2:3:4"] })),
            "expected community to be of format large",
        ),
        (
            "bgpadvertisement",
            bgp(json!({ "communities": ["99999999:1"] })),
            "invalid community value: invalid section",
        ),
        (
            "bgpadvertisement",
            bgp(json!({ "communities": ["1:2", "1:2"] })),
            "duplicate definition of community",
        ),
        (
            "bgpadvertisement",
            bgp(json!({ "peers": ["a", "a"] })),
            "duplicate definition of peers",
        ),
        (
            "community",
            object(
                "Community",
                "new",
                &json!({ "communities": [{ "name": "no-export", "value": "1:2" }] }),
            ),
            "duplicate definition of community",
        ),
        (
            "bgppeers",
            peer("new", &json!({ "peerAddress": "10.9.0.9", "myASN": 0 })),
            "myASN",
        ),
        (
            "bgppeers",
            peer(
                "new",
                &json!({ "peerAddress": "10.9.0.9", "dynamicASN": "internal" }),
            ),
            "ASN",
        ),
        (
            "bgppeers",
            peer(
                "new",
                &json!({ "peerAddress": "10.9.0.9", "interface": "eth0" }),
            ),
            "interface",
        ),
        (
            "bgppeers",
            peer("new", &json!({ "peerAddress": "10.9.0.999" })),
            "invalid BGPPeer address",
        ),
        (
            "bgppeers",
            peer(
                "new",
                &json!({ "peerAddress": "10.9.0.9", "routerID": "10.9.0.7", "holdTime": "1s" }),
            ),
            "hold time",
        ),
        (
            "bgppeers",
            peer(
                "new",
                &json!({ "peerAddress": "10.9.0.9", "peerASN": 64500, "ebgpMultiHop": true }),
            ),
            "ebgp",
        ),
        (
            "bgppeers",
            peer("new", &json!({ "routerID": "10.9.0.7" })),
            "already exists",
        ),
        (
            "bgppeers",
            peer(
                "new",
                &json!({ "peerAddress": "10.9.0.9", "routerID": "10.9.0.8" }),
            ),
            "router",
        ),
        // An old one is judged as a new one.
        (
            "bgppeers",
            {
                let mut old = peer("new", &json!({ "peerAddress": "10.9.0.999" }));
                old["apiVersion"] = json!("metallb.io/v1beta1");
                old
            },
            "invalid BGPPeer address",
        ),
        (
            "ipaddresspool",
            {
                let mut elsewhere = pool("new", "2.2.2.0/28");
                elsewhere["metadata"]["namespace"] = json!("default");
                elsewhere
            },
            "resource must be created in metallb-system namespace",
        ),
    ];
    for (webhook, object, words) in &cases {
        let webhook = format!(
            "admission webhook \"{webhook}validationwebhook.metallb.io\" denied the request: "
        );
        let text = says(stage, object, words);
        assert!(text.contains(&webhook), "{webhook} is not in: {text}");
    }
    let deletion = ["delete", "bfdprofile", "quick", "-n", NAMESPACE];
    let error = stage.kubectl(EAST, &deletion).unwrap_err().to_string();
    assert!(error.contains("failed to delete BFDProfile"), "{error}");
    stage
        .kubectl(EAST, &["delete", "bgppeer", "first", "-n", NAMESPACE])
        .unwrap();
    stage.kubectl(EAST, &deletion).unwrap();
}

/// MetalLB judges a pool by pools alone.
fn what_spoils_other_kinds_is_refused(stage: &Stage) {
    let aggregate = json!({ "aggregationLength": 26, "ipAddressPools": ["wide"] });
    let wide = pool("wide", "3.3.3.0/24");
    stage.apply(EAST, &wide.to_string()).unwrap();
    let ad = object("BGPAdvertisement", "aggregate", &aggregate);
    stage.apply(EAST, &ad.to_string()).unwrap();
    let words = "invalid aggregation length 26: prefix 28 in this pool is more specific than the aggregation length for addresses 3.3.3.0/28";
    denied(stage, &pool("wide", "3.3.3.0/28"), words);
    stage
        .would_apply(EAST, &pool("wide", "3.3.3.0/25"))
        .unwrap();
    for kind in ["bgpadvertisement/aggregate", "ipaddresspool/wide"] {
        stage
            .kubectl(EAST, &["delete", kind, "-n", NAMESPACE])
            .unwrap();
    }
}

fn names_that_stand_for_nothing_are_told(stage: &Stage) {
    let ad = object(
        "BGPAdvertisement",
        "early",
        &json!({ "ipAddressPools": ["late"], "peers": ["rack"], "communities": ["mine"] }),
    );
    for words in [
        "there is no IPAddressPool \"late\"",
        "there is no BGPPeer \"rack\"",
        "no Community gives the name \"mine\"",
    ] {
        says(stage, &ad, words);
    }
    let multiprotocol = peer("mp", &json!({ "disableMP": true }));
    says(stage, &multiprotocol, "disable mp is deprecated");
    // In whatever order: each is stored.
    let peer = peer("rack", &json!({ "bfdProfile": "slow" }));
    let community = json!({ "communities": [{ "name": "mine", "value": "1:2" }] });
    for object in [
        &ad,
        &peer,
        &object("BFDProfile", "slow", &json!({})),
        &object("Community", "mine", &community),
        &pool("late", "4.4.4.0/28"),
    ] {
        stage.apply(EAST, &object.to_string()).unwrap();
    }
    // Nothing is missing any more.
    wait::until_ok("nothing is missing any more", DEADLINE, || {
        stage.would_apply(EAST, &ad)
    })
    .unwrap();
    for kind in [
        "bgpadvertisement/early",
        "bgppeer/rack",
        "bfdprofile/slow",
        "community/mine",
        "ipaddresspool/late",
    ] {
        stage
            .kubectl(EAST, &["delete", kind, "-n", NAMESPACE])
            .unwrap();
    }
}

fn what_was_just_deleted_denies_nobody(stage: &Stage) {
    for round in 0..10 {
        let name = format!("moves-{round}");
        stage.apply_pool(EAST, &name, &["5.5.5.0/28"]).unwrap();
        let pool = format!("ipaddresspool/{name}");
        stage
            .kubectl(EAST, &["delete", &pool, "-n", NAMESPACE])
            .unwrap();
    }
}

fn old_and_new_peers_are_converted(stage: &Stage, webhook: Webhook, given: &Given) {
    let bundle = k8s_openapi::ByteString(given.pem.clone().into_bytes());
    let client =
        json!({ "url": format!("https://{}/convert", webhook.address), "caBundle": bundle });
    let asks = json!({ "strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": client,
    } });
    let define = |conversion: Value| {
        let patch = json!({ "spec": { "conversion": conversion } }).to_string();
        let patch = [
            "patch",
            "crd",
            "bgppeers.metallb.io",
            "--type=merge",
            "-p",
            &patch,
        ];
        stage.kubectl(EAST, &patch).unwrap();
    };
    let mut old = peer("old", &json!({ "password": "x" }));
    old["apiVersion"] = json!("metallb.io/v1beta1");
    let new = peer(
        "new",
        &json!({ "peerAddress": "10.9.0.2", "vrf": "red", "holdTime": "9s", "connectTime": "5s" }),
    );
    for object in [&old, &new] {
        stage.apply(EAST, &object.to_string()).unwrap();
    }
    let spec = |version: &str, name: &str| -> Value {
        let kind = format!("bgppeers.{version}.metallb.io");
        let arguments = [
            "get",
            &kind,
            name,
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.spec}",
        ];
        serde_json::from_str(&stage.kubectl(EAST, &arguments).unwrap()).unwrap()
    };
    define(asks);
    let converted = "pharos_adapter_webhook_requests_total{kind=\"BGPPeer\",answer=\"converted\"}";
    wait::until("the API server asks for a conversion", DEADLINE, || {
        spec("v1beta1", "new");
        metric(stage, converted)
    })
    .unwrap();
    let lowered = spec("v1beta1", "new");
    assert_eq!(lowered["holdTime"], json!("9s"));
    assert_eq!(
        (lowered.get("vrf"), lowered.get("connectTime")),
        (None, None)
    );
    // One that is made now is raised on its way into the store.
    old["metadata"]["name"] = json!("older");
    old["spec"]["peerAddress"] = json!("10.9.0.3");
    stage.apply(EAST, &old.to_string()).unwrap();
    let raised = spec("v1beta2", "older");
    assert_eq!(raised["password"], json!("x"));
    assert_eq!(
        (raised.get("holdTime"), raised.get("keepaliveTime")),
        (None, None)
    );
    define(json!({ "strategy": "None", "webhook": null }));
    let deletion = ["delete", "bgppeer", "old", "older", "new", "-n", NAMESPACE];
    stage.kubectl(EAST, &deletion).unwrap();
}

fn what_slips_through_is_told_afterwards(stage: &mut Stage, flags: &[&str]) {
    stage.kill_adapter(EAST).unwrap();
    stage.apply_pool(EAST, "bad", &["1.1.1.0/24"]).unwrap();
    stage.start_adapter(EAST, flags).unwrap();
    wait::until("the configuration is told to be stale", DEADLINE, || {
        let stale = metric(stage, "metallb_k8s_client_config_stale_bool")?;
        (stale == "1").then_some(())
    })
    .unwrap();
    // Others are not held back by it, and it may be mended.
    stage.apply_pool(EAST, "good", &["6.6.6.0/28"]).unwrap();
    stage.apply_pool(EAST, "bad", &["7.7.7.0/28"]).unwrap();
    wait::until("the configuration is in force", DEADLINE, || {
        let stale = metric(stage, "metallb_k8s_client_config_stale_bool")?;
        (stale == "0").then_some(())
    })
    .unwrap();
}
