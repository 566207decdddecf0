//! Topology: one Kubernetes API, two adapters that serve webhooks with certificates of their own, one
//! ipam-service (e2e/src/adapters.rs).
//!
//! 1. MetalLB's Service and configuration are replaced in place by `deploy/kubernetes/webhook.yaml`.
//! 2. Each replica makes itself a certificate, and the API server is told to trust all of them, beside
//!    whom it trusted before.
//! 3. Somebody who overwrites that is overwritten; another configuration is never touched.
//! 4. A certificate is exchanged for a new one without a change that nobody judges.
//! 5. Where the configuration cannot be written, or is not there, `/readyz` has a note, and Services are served.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::{CONFIGURATION, Stage, Webhook};
use e2e::site::{DEADLINE, repository};
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";
const OTHER: &str = "the other replica";
const NAMESPACE: &str = "metallb-system";
const SERVICE: &str = "metallb-webhook-service";
const EXPIRY: &str = "pharos_adapter_webhook_certificate_expiry_timestamp_seconds";
const KIND: &str = "validatingwebhookconfiguration";
/// As short as the adapter lets it be.
const LIFETIME: &str = "30s";

/// What is wrong by itself, of the kind that a replica is asked about.
fn wrong(kind: &str) -> Value {
    let spec = match kind {
        "IPAddressPool" => json!({ "addresses": ["nonsense"] }),
        _ => json!({ "ipAddressPools": ["p", "p"] }),
    };
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": kind,
        "metadata": { "name": "wrong", "namespace": NAMESPACE }, "spec": spec,
    })
}

fn is_denied(stage: &Stage, kind: &str) -> anyhow::Result<()> {
    match stage.would_apply(EAST, &wrong(kind)) {
        Err(error) if error.to_string().contains("denied the request") => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

fn wait_denied(stage: &Stage, kind: &str) {
    wait::until_ok(&format!("a wrong {kind} is denied"), DEADLINE, || {
        is_denied(stage, kind)
    })
    .unwrap();
}

fn get(stage: &Stage, kind: &str, name: &str, path: &str) -> String {
    let path = format!("jsonpath={path}");
    let arguments = ["get", kind, name, "-n", NAMESPACE, "-o", &path];
    stage.kubectl(EAST, &arguments).unwrap()
}

/// How many certificates each entry of the configuration has.
fn bundles(stage: &Stage) -> Vec<usize> {
    let found = get(stage, KIND, CONFIGURATION, "{.webhooks}");
    let found: Value = serde_json::from_str(&found).unwrap();
    let entries = found.as_array().unwrap().iter();
    let count = |entry: &Value| {
        let bundle = entry["clientConfig"].get("caBundle").cloned();
        let bundle: k8s_openapi::ByteString = serde_json::from_value(bundle?).ok()?;
        Some(
            String::from_utf8(bundle.0)
                .ok()?
                .matches("BEGIN CERTIFICATE")
                .count(),
        )
    };
    entries
        .map(|entry| count(entry).unwrap_or_default())
        .collect()
}

fn wait_bundles(stage: &Stage, each: usize) {
    wait::until_ok(
        &format!("each bundle has {each} certificates"),
        DEADLINE,
        || {
            let found = bundles(stage);
            anyhow::ensure!(found == [each; 6], "{found:?}");
            Ok(())
        },
    )
    .unwrap();
}

fn expiry(stage: &Stage, adapter: &str) -> Option<String> {
    let (_, text) = stage.admin(adapter, "/metrics").ok()?;
    let line = text.lines().find(|line| line.starts_with(EXPIRY))?;
    Some(line.rsplit(' ').next()?.to_owned())
}

#[test]
fn certificates_are_made_injected_and_rotated() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    metallbs_objects_are_replaced_in_place(&stage);

    // Another configuration asks the same adapter.
    let (one, two) = (Webhook::new(), Webhook::new());
    let mut another = one.configuration(None).unwrap();
    another["metadata"]["name"] = json!("somebody-elses");
    stage.apply(EAST, &another.to_string()).unwrap();
    let version = "{.metadata.resourceVersion}";
    let before = get(&stage, KIND, "somebody-elses", version);

    // What the Service does in a cluster: some questions come to one replica, some to the other.
    let mut both = one.configuration(None).unwrap();
    let other = two.configuration(None).unwrap();
    for (entry, other) in both["webhooks"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(other["webhooks"].as_array().unwrap())
    {
        entry["clientConfig"]["service"] = Value::Null;
        if other["name"] == "l2advertisementvalidationwebhook.metallb.io" {
            entry["clientConfig"]["url"] = other["clientConfig"]["url"].clone();
        }
    }
    // Whom MetalLB made it trust it goes on to trust.
    stage.apply(EAST, &both.to_string()).unwrap();
    assert_eq!(bundles(&stage), [1; 6]);

    let listen = [one, two].map(|webhook| webhook.address.to_string());
    let flags = |listen| {
        [
            "--webhook-listen",
            listen,
            "--webhook-certificate-lifetime",
            LIFETIME,
        ]
    };
    stage.start_adapter(EAST, &flags(&listen[0])).unwrap();
    wait_denied(&stage, "IPAddressPool");
    stage.rename_adapter(EAST, OTHER).unwrap();
    stage.start_adapter(EAST, &flags(&listen[1])).unwrap();
    wait_denied(&stage, "L2Advertisement");
    is_denied(&stage, "IPAddressPool").unwrap();
    // MetalLB's, and one of each replica.
    wait_bundles(&stage, 3);
    let rotated = expiry(&stage, EAST).unwrap();

    let overwritten = json!({ "webhooks": [{
        "name": "ipaddresspoolvalidationwebhook.metallb.io", "clientConfig": { "caBundle": "Cg==" },
    }] });
    let patch = ["patch", KIND, CONFIGURATION, "-p", &overwritten.to_string()];
    stage.kubectl(EAST, &patch).unwrap();
    wait_denied(&stage, "IPAddressPool");

    // Neither replica is ever not trusted, until both show another certificate.
    wait::until_ok("a new certificate is shown", DEADLINE, || {
        is_denied(&stage, "L2Advertisement").unwrap();
        is_denied(&stage, "IPAddressPool").unwrap();
        anyhow::ensure!(expiry(&stage, EAST).unwrap() != rotated);
        Ok(())
    })
    .unwrap();
    is_denied(&stage, "L2Advertisement").unwrap();
    assert_eq!(get(&stage, KIND, "somebody-elses", version), before);

    trouble_is_a_note(&stage);
}

/// As MetalLB's manifests have them, with its own certificate.
fn metallbs_objects_are_replaced_in_place(stage: &Stage) {
    let certificate = rcgen::generate_simple_self_signed(["metallb".to_owned()]).unwrap();
    let mut configuration = Webhook::new()
        .configuration(Some(&certificate.cert.pem()))
        .unwrap();
    configuration["metadata"]["labels"] = Value::Null;
    for entry in configuration["webhooks"].as_array_mut().unwrap() {
        let url = entry["clientConfig"]["url"].take();
        let (_, path) = url.as_str().unwrap().rsplit_once('/').unwrap();
        entry["clientConfig"] = json!({
            "service": { "name": SERVICE, "namespace": NAMESPACE, "path": format!("/{path}") },
            "caBundle": entry["clientConfig"]["caBundle"],
        });
        entry["failurePolicy"] = json!("Fail");
        entry.as_object_mut().unwrap().remove("timeoutSeconds");
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE },
        "spec": {
            "selector": { "component": "controller" },
            "ports": [{ "port": 443, "targetPort": 9443 }],
        },
    });
    // By a chart: there is no annotation of kubectl.
    for object in [&configuration, &service] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        let file = file.path().display().to_string();
        stage.kubectl(EAST, &["create", "-f", &file]).unwrap();
    }
    let manifest = repository().join("deploy/kubernetes/webhook.yaml");
    let manifest = manifest.display().to_string();
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        &manifest,
    ];
    stage.kubectl(EAST, &apply).unwrap();

    let selector = get(stage, "service", SERVICE, "{.spec.selector}");
    assert_eq!(selector, r#"{"app.kubernetes.io/name":"k8s-adapter"}"#);
    let ports = get(
        stage,
        "service",
        SERVICE,
        "{.spec.ports[*].port} {.spec.publishNotReadyAddresses}",
    );
    assert_eq!(ports, "443 true");
    let policies = get(stage, KIND, CONFIGURATION, "{.webhooks[*].failurePolicy}");
    assert_eq!(policies, ["Ignore"; 6].join(" "));
    assert_eq!(
        get(stage, KIND, CONFIGURATION, "{.webhooks[0].timeoutSeconds}"),
        "2"
    );
    assert_eq!(bundles(stage), [1; 6]);
}

fn trouble_is_a_note(stage: &Stage) {
    stage
        .kubectl(EAST, &["delete", KIND, CONFIGURATION])
        .unwrap();
    stage
        .wait_readiness(
            EAST,
            "note: webhook: there is no ValidatingWebhookConfiguration",
        )
        .unwrap();
    let (status, text) = stage.admin(EAST, "/readyz").unwrap();
    assert_eq!(status, 200, "{text}");
}
