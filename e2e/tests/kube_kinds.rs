//! MetalLB's kinds, by the definitions in `k8s-adapter/crds`, as a real kube-apiserver sees them.
//!
//! 1. The definitions apply on the server's side, and again over themselves.
//! 2. It accepts what users of MetalLB have (`e2e/manifests/metallb-samples.yaml`), and has no field
//!    of it that it does not know.
//! 3. It rejects what MetalLB's definitions reject, in the words that people search for.
//! 4. `kubectl get` shows MetalLB's columns.
//! 5. A peer of the old version is warned of, and reads as one of the new version.
//! 6. What must not change cannot be changed.

use anyhow::Context as _;
use e2e::site::repository;
use pharos_testbed::kube::{Assets, Kube};
use serde_json::{Value, json};

const NAMESPACE: &str = "metallb-system";
const EXCLUSIVE: &str = "serviceSelectors and aggregationLength are mutually exclusive";

#[test]
fn a_kube_apiserver_takes_metallbs_kinds_as_metallbs_users_have_them() -> anyhow::Result<()> {
    let Some(assets) = Assets::or_skip() else {
        return Ok(());
    };
    let kube = Kube::start(&assets)?;
    definitions_apply_twice(&kube)?;
    samples_are_accepted(&kube)?;
    what_is_wrong_is_rejected(&kube)?;
    columns_are_metallbs(&kube)?;
    an_old_peer_is_a_new_one(&kube)?;
    some_fields_never_change(&kube)
}

fn definitions_apply_twice(kube: &Kube) -> anyhow::Result<()> {
    let crds = repository().join("k8s-adapter/crds").display().to_string();
    for _ in 0..2 {
        let applied = kube.kubectl(&["apply", "--server-side", "-f", &crds])?;
        assert_eq!(applied.lines().count(), 10, "{applied}");
    }
    let established = ["wait", "--for=condition=Established", "--timeout=60s"];
    kube.kubectl(&[&established[..], &["crd", "--all"]].concat())?;
    Ok(())
}

fn samples_are_accepted(kube: &Kube) -> anyhow::Result<()> {
    let samples = repository().join("e2e/manifests/metallb-samples.yaml");
    let samples = samples.display().to_string();
    let applied = kube.kubectl(&["apply", "--validate=strict", "-f", &samples])?;
    assert!(
        applied.lines().all(|line| line.ends_with("created")),
        "{applied}"
    );
    // What people leave out gets MetalLB's values.
    for (kind, name, path, expected) in [
        ("ipaddresspool", "office", "autoAssign", "true"),
        ("ipaddresspool", "office", "avoidBuggyIPs", "false"),
        (
            "bgpadvertisement",
            "aggregate",
            "aggregationLengthV6",
            "128",
        ),
        ("bgppeer", "rack", "peerPort", "179"),
        ("bgppeer", "rack", "dualStackAddressFamily", "false"),
        ("bgppeer", "rack", "disableMP", "false"),
        ("bfdprofile", "quick", "echoInterval", ""),
    ] {
        let found = get(kube, kind, name, &format!("{{.spec.{path}}}"))?;
        assert_eq!(found, expected, "{kind} {name} {path}");
    }
    Ok(())
}

fn get(kube: &Kube, kind: &str, name: &str, path: &str) -> anyhow::Result<String> {
    let output = format!("jsonpath={path}");
    kube.kubectl(&["get", kind, name, "-n", NAMESPACE, "-o", &output])
}

fn object(version: &str, kind: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
    .to_string()
}

/// A peer that is sound but for what is given.
fn peer(field: &str, value: Value) -> Value {
    let mut spec = json!({ "myASN": 64500, "peerASN": 64501, "peerAddress": "10.9.0.99" });
    spec[field] = value;
    spec
}

fn what_is_wrong_is_rejected(kube: &Kube) -> anyhow::Result<()> {
    let selected = |field: &str, length: u8| json!({ "serviceSelectors": [{ "matchLabels": { "a": "b" } }], field: length });
    let between = "connect time should be between 1 seconds to 65535";
    let values = json!([{ "matchExpressions": [{ "key": "a", "operator": "Exists" }] }]);
    for (version, kind, spec, words) in [
        (
            "v1beta1",
            "IPAddressPool",
            json!({}),
            "spec.addresses: Required",
        ),
        (
            "v1beta1",
            "L2Advertisement",
            json!({ "preferredNodeSelectors": [{ "weight": 101, "preference": {} }] }),
            "less than or equal to 100",
        ),
        (
            "v1beta1",
            "BGPAdvertisement",
            selected("aggregationLength", 24),
            EXCLUSIVE,
        ),
        (
            "v1beta1",
            "BGPAdvertisement",
            selected("aggregationLengthV6", 64),
            EXCLUSIVE,
        ),
        (
            "v1beta1",
            "BGPAdvertisement",
            json!({ "aggregationLength": 0 }),
            "greater than or equal to 1",
        ),
        (
            "v1beta1",
            "BFDProfile",
            json!({ "receiveInterval": 9 }),
            "greater than or equal to 10",
        ),
        (
            "v1beta1",
            "BFDProfile",
            json!({ "transmitInterval": 60_001 }),
            "less than or equal to 60000",
        ),
        (
            "v1beta1",
            "BFDProfile",
            json!({ "detectMultiplier": 1 }),
            "greater than or equal to 2",
        ),
        (
            "v1beta1",
            "BFDProfile",
            json!({ "minimumTtl": 255 }),
            "less than or equal to 254",
        ),
        (
            "v1beta2",
            "BGPPeer",
            json!({ "peerASN": 1 }),
            "spec.myASN: Required",
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("peerASN", json!(4_294_967_296_u64)),
            "less than or equal to 4294967295",
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("localASN", json!(0)),
            "greater than or equal to 1",
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("peerPort", json!(16_385)),
            "less than or equal to 16384",
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("peerPort", json!(0)),
            "greater than or equal to 1",
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("dynamicASN", json!("any")),
            "supported values: \"internal\", \"external\"",
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("connectTime", json!("500ms")),
            between,
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("connectTime", json!("65536s")),
            between,
        ),
        (
            "v1beta2",
            "BGPPeer",
            peer("connectTime", json!("2500ms")),
            "connect time should contain a whole number of seconds",
        ),
        (
            "v1beta1",
            "BGPPeer",
            json!({ "myASN": 1, "peerASN": 2 }),
            "spec.peerAddress: Required",
        ),
        (
            "v1beta1",
            "BGPPeer",
            peer("nodeSelectors", values),
            "values: Required",
        ),
    ] {
        let manifest = object(version, kind, "wrong", &spec);
        let answer = kube.apply(&manifest);
        let error = answer
            .err()
            .with_context(|| format!("accepted: {manifest}"))?;
        assert!(error.to_string().contains(words), "{manifest}: {error}");
    }
    Ok(())
}

/// Names of the columns that the server prints, as kubectl shows them.
fn columns(kube: &Kube, kind: &str, wide: bool) -> anyhow::Result<Vec<String>> {
    let output: &[&str] = if wide { &["-o", "wide"] } else { &[] };
    let table = kube.kubectl(&[&["get", kind, "-n", NAMESPACE][..], output].concat())?;
    let header = table.lines().next().context("nothing is shown")?;
    // Columns are three spaces apart, at least.
    let names = header.split("   ").map(str::trim);
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

fn columns_are_metallbs(kube: &Kube) -> anyhow::Result<()> {
    for (kind, status) in [
        (
            "ServiceL2Status",
            json!({ "node": "n1", "serviceName": "web", "serviceNamespace": "default", "interfaces": [{ "name": "eth0" }] }),
        ),
        (
            "ServiceBGPStatus",
            json!({ "node": "n1", "serviceName": "web", "serviceNamespace": "default", "peers": ["rack"] }),
        ),
        (
            "ConfigurationState",
            json!({ "result": "Invalid", "errorSummary": "x", "conditions": [condition()] }),
        ),
    ] {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": kind,
            "metadata": { "name": "one", "namespace": NAMESPACE },
        });
        kube.apply(&object.to_string())?;
        write_status(kube, kind, &status)?;
    }
    let session = json!({
        "apiVersion": "frrk8s.metallb.io/v1beta1", "kind": "BGPSessionState",
        "metadata": { "name": "one", "namespace": NAMESPACE },
    });
    kube.apply(&session.to_string())?;
    let selects = ["IPADDRESSPOOLS", "IPADDRESSPOOL SELECTORS"];
    let service = ["SERVICE NAME", "SERVICE NAMESPACE"];
    let bfd = [
        "PASSIVE MODE",
        "TRANSMIT INTERVAL",
        "RECEIVE INTERVAL",
        "MULTIPLIER",
    ];
    let table: [(&str, Vec<&str>, &[&str]); 10] = [
        (
            "ipaddresspools",
            vec!["AUTO ASSIGN", "AVOID BUGGY IPS", "ADDRESSES"],
            &[],
        ),
        (
            "l2advertisements",
            [&selects[..], &["INTERFACES"]].concat(),
            &["NODE SELECTORS"],
        ),
        (
            "bgpadvertisements",
            [&selects[..], &["PEERS"]].concat(),
            &["NODE SELECTORS"],
        ),
        (
            "bgppeers.v1beta1.metallb.io",
            vec!["ADDRESS", "ASN", "BFD PROFILE", "MULTI HOPS"],
            &[],
        ),
        (
            "bgppeers.v1beta2.metallb.io",
            vec!["ADDRESS", "ASN", "BFD PROFILE", "MULTI HOPS"],
            &[],
        ),
        ("bfdprofiles", bfd.to_vec(), &[]),
        (
            "servicel2statuses",
            [&["ALLOCATED NODE"], &service[..]].concat(),
            &[],
        ),
        (
            "servicebgpstatuses",
            [&["NODE"], &service[..]].concat(),
            &[],
        ),
        (
            "configurationstates",
            vec!["RESULT", "ERRORSUMMARY", "AGE"],
            &[],
        ),
        (
            "bgpsessionstates.frrk8s.metallb.io",
            vec!["NODE", "PEER", "VRF", "BGP", "BFD"],
            &[],
        ),
    ];
    for (kind, always, wide) in table {
        let named = [&["NAME"], &always[..]].concat();
        assert_eq!(columns(kube, kind, false)?, named, "{kind}");
        assert_eq!(
            columns(kube, kind, true)?,
            [&named[..], wide].concat(),
            "{kind}"
        );
    }
    // Where no column is declared, Kubernetes shows the age.
    assert_eq!(columns(kube, "communities", true)?, ["NAME", "AGE"]);
    Ok(())
}

fn condition() -> Value {
    json!({
        "type": "poolReconcilerValid", "status": "False", "reason": "ConfigurationError",
        "message": "x", "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

fn write_status(kube: &Kube, kind: &str, status: &Value) -> anyhow::Result<String> {
    let patch = json!({ "status": status }).to_string();
    let target = ["patch", kind, "one", "-n", NAMESPACE];
    let how = ["--subresource=status", "--type=merge", "-p", &patch];
    kube.kubectl(&[&target[..], &how[..]].concat())
}

fn an_old_peer_is_a_new_one(kube: &Kube) -> anyhow::Result<()> {
    // Written as v1beta1, without timers: nothing was said, and nothing is read.
    let old = "bgppeer.v1beta1.metallb.io";
    let new = "bgppeer.v1beta2.metallb.io";
    assert_eq!(get(kube, new, "before", "{.spec.peerPort}")?, "179");
    for timer in ["holdTime", "keepaliveTime"] {
        let path = format!("{{.spec.{timer}}}");
        assert_eq!(get(kube, new, "before", &path)?, "");
    }
    let selector = "{.spec.nodeSelectors[0].matchExpressions[0].values[0]}";
    assert_eq!(get(kube, new, "before", selector)?, "fast");
    assert_eq!(get(kube, old, "rack", "{.spec.holdTime}")?, "1m30s");
    let warned = kube.kubectl(&[
        "get",
        old,
        "before",
        "-n",
        NAMESPACE,
        "--warnings-as-errors",
    ]);
    let error = warned.err().context("no warning")?.to_string();
    assert!(
        error.contains("v1beta1 is deprecated, please use v1beta2"),
        "{error}"
    );
    Ok(())
}

fn some_fields_never_change(kube: &Kube) -> anyhow::Result<()> {
    let patch = r#"{"spec":{"enableGracefulRestart":false}}"#;
    let answer = kube.kubectl(&[
        "patch",
        "bgppeer",
        "rack",
        "-n",
        NAMESPACE,
        "--type=merge",
        "-p",
        patch,
    ]);
    let error = answer.err().context("changed")?.to_string();
    assert!(
        error.contains("EnableGracefulRestart cannot be changed after creation"),
        "{error}"
    );
    for kind in ["ServiceL2Status", "ServiceBGPStatus"] {
        for field in ["node", "serviceName", "serviceNamespace"] {
            let answer = write_status(kube, kind, &json!({ field: "other" }));
            let error = answer.err().with_context(|| format!("{kind} {field}"))?;
            assert!(error.to_string().contains("Value is immutable"), "{error}");
        }
    }
    let answer = write_status(kube, "ConfigurationState", &json!({ "result": "Fine" }));
    let error = answer.err().context("taken")?.to_string();
    assert!(error.contains("supported values"), "{error}");
    Ok(())
}
