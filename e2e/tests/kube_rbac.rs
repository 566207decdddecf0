//! Topology: one Kubernetes API with RBAC and an audit log, one adapter with all that it can do and the token of
//! its ServiceAccount, one ipam-service, announcers that say what a test wants them to (e2e/src/adapters.rs).
//!
//! 1. Nothing that the adapter asks for is refused, and nothing is granted to it by any other permission than
//!    those of `deploy/k8s-adapter-rbac.yaml`.
//! 2. Each permission in there, one verb of one resource at a time, is used.
//! 3. With them it reads Secrets of its own namespace that it knows by name, lists none, and reads none elsewhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::{Audit, Grant, Pretender, Stage, Webhook, grants, uncovered, unused};
use e2e::site::DEADLINE;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";
const NAMESPACE: &str = "metallb-system";

fn in_namespace(version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
}

/// The password of the router, and one of the same name that is not the adapter's business.
fn secret(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": { "name": "password", "namespace": namespace },
        "stringData": { "password": "of the router" },
    })
}

fn router(node_selectors: &Value) -> Value {
    json!({
        "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.200", "bfdProfile": "fast",
        "passwordSecret": { "name": "password" }, "nodeSelectors": node_selectors,
    })
}

/// A cluster where the adapter has something to do for each of its features, and announcers on two nodes.
fn stage(audit: &Audit) -> Option<(Stage, [Pretender; 2])> {
    let mut stage = Stage::start().unwrap()?;
    stage.add_cluster_with(EAST, &audit.flags()).unwrap();
    stage.apply_crds(EAST).unwrap();
    let webhook = Webhook::new();
    let configuration = webhook.configuration(None).unwrap();
    stage.apply(EAST, &configuration.to_string()).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    let pod = json!({
        "metadata": { "labels": { "app": "k8s-adapter" } },
        "spec": { "containers": [{ "name": "k8s-adapter", "image": "k8s-adapter" }] },
    });
    let deployment = json!({
        "selector": { "matchLabels": { "app": "k8s-adapter" } }, "template": pod,
    });
    let named = json!({ "communities": [{ "name": "OURS", "value": "64512:1" }] });
    for namespace in [NAMESPACE, "default"] {
        stage.put(EAST, &secret(namespace)).unwrap();
    }
    for (version, kind, name, spec) in [
        ("metallb.io/v1beta1", "L2Advertisement", "all", json!({})),
        ("metallb.io/v1beta1", "Community", "names", named),
        ("metallb.io/v1beta1", "BFDProfile", "fast", json!({})),
        (
            "metallb.io/v1beta2",
            "BGPPeer",
            "router",
            router(&json!([])),
        ),
        (
            "metallb.io/v1beta1",
            "BGPAdvertisement",
            "all",
            json!({ "communities": ["OURS"] }),
        ),
        ("apps/v1", "Deployment", "k8s-adapter", deployment),
    ] {
        let object = in_namespace(version, kind, name, &spec);
        stage.put(EAST, &object).unwrap();
    }
    let announcers = ["n1", "n2"].map(|node| {
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        stage.put(EAST, &object).unwrap();
        stage.pretend_announcer(EAST, node).unwrap()
    });
    let listen = webhook.address.to_string();
    let flags = ["--webhook-listen", &listen, "--deployment", "k8s-adapter"];
    stage.start_adapter_with_token(EAST, &flags).unwrap();
    Some((stage, announcers))
}

/// What kubectl says to the adapter's ServiceAccount.
fn as_adapter(stage: &Stage, arguments: &[&str]) -> anyhow::Result<String> {
    let account = ["--as", "system:serviceaccount:metallb-system:k8s-adapter"];
    let group = ["--as-group", "system:serviceaccounts"];
    stage.kubectl(EAST, &[arguments, &account, &group].concat())
}

/// The only object of a kind of which there is one; its name.
fn wait_one(stage: &Stage, kind: &str, node: &str) -> String {
    wait::until_ok(&format!("one of {kind} is about {node}"), DEADLINE, || {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.node}{\"\\n\"}{end}";
        let found = stage.kubectl(EAST, &["get", kind, "-n", NAMESPACE, "-o", path])?;
        let mut lines = found.lines();
        match (
            lines.next().and_then(|line| line.split_once(' ')),
            lines.next(),
        ) {
            (Some((name, its)), None) if its == node => Ok(name.to_owned()),
            _ => anyhow::bail!("{found:?}"),
        }
    })
    .unwrap()
}

#[test]
fn the_adapter_may_do_exactly_what_it_does() {
    let audit = Audit::new().unwrap();
    let Some((mut stage, [n1, n2])) = stage(&audit) else {
        return;
    };
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    stage
        .wait_event(EAST, "web", "IPAllocated", &["192.0.2.0"])
        .unwrap();
    stage.set_endpoint(EAST, true).unwrap();
    let group = stage.wait_group(EAST, "192.0.2.0").unwrap();
    // Another node is another object, and the old one goes.
    n1.owns(group, &["eth0"]).unwrap();
    let first = wait_one(&stage, "servicel2statuses.metallb.io", "n1");
    n1.loses(group).unwrap();
    n2.owns(group, &["eth0"]).unwrap();
    assert_ne!(
        wait_one(&stage, "servicel2statuses.metallb.io", "n2"),
        first
    );
    // A node that is to hold no session has no state of one.
    let sessions = "bgpsessionstates.frrk8s.metallb.io";
    wait::until_ok("each node has a session", DEADLINE, || {
        let found = stage.kubectl(EAST, &["get", sessions, "-n", NAMESPACE, "-o", "name"])?;
        anyhow::ensure!(found.lines().count() == 2, "{found}");
        Ok(())
    })
    .unwrap();
    let label = ["label", "node", "n1", "rack=a"];
    stage.kubectl(EAST, &label).unwrap();
    let some = router(&json!([{ "matchLabels": { "rack": "a" } }]));
    let peer = in_namespace("metallb.io/v1beta2", "BGPPeer", "router", &some);
    stage.put(EAST, &peer).unwrap();
    wait_one(&stage, sessions, "n1");

    let grants = grants().unwrap();
    wait::until_ok("every permission is used", DEADLINE, || {
        let (used, _) = audit.requests()?;
        let unused: Vec<&Grant> = unused(&grants, &used);
        anyhow::ensure!(unused.is_empty(), "not used: {unused:#?}");
        Ok(())
    })
    .unwrap();
    stage.stop_adapter(EAST).unwrap();
    let (used, refused) = audit.requests().unwrap();
    assert!(refused.is_empty(), "refused: {refused:#?}");
    let uncovered = uncovered(&grants, &used);
    assert!(
        uncovered.is_empty(),
        "granted by somebody else: {uncovered:#?}"
    );
    let own = ["get", "secret/password", "-n", NAMESPACE];
    as_adapter(&stage, &own).unwrap();
    for more in [
        ["get", "secrets", "-n", NAMESPACE],
        ["get", "secret/password", "-n", "default"],
    ] {
        let error = as_adapter(&stage, &more).unwrap_err();
        assert!(format!("{error:#}").contains("(Forbidden)"), "{error:#}");
    }
    eprintln!("{} permissions, each of them used", grants.len());
}
