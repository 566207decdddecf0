//! Topology: one Kubernetes API with two Nodes and no kubelets, one adapter, one ipam-service
//! (e2e/src/adapters.rs). What the adapter reports is read where it counts: in the assignments.
//!
//! 1. Under Cluster any node announces as soon as one endpoint is usable anywhere, and none before.
//! 2. Under Local only nodes with a usable endpoint of their own announce.
//! 3. Usable: ready, not known to be unready, or terminating but still serving.
//! 4. A node that is cut off or excluded announces nothing; one that is excluded does with --ignore-exclude-lb.
//! 5. A restart of the adapter, or of ipam-service, changes no assignment.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::Stage;
use e2e::site::DEADLINE;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";
const ADDRESS: &str = "192.0.2.0";

#[test]
fn assignments_follow_endpoints_and_nodes() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let mut announcers = Vec::new();
    for name in ["n1", "n2"] {
        announcers.push(stage.pretend_announcer(EAST, name).unwrap());
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        stage.apply(EAST, &node.to_string()).unwrap();
    }
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    let everywhere = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "default", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &everywhere.to_string()).unwrap();
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "web", &[ADDRESS]).unwrap();
    endpoints_are_followed(&stage);
    nodes_are_followed(&stage);
    excluded_nodes_can_be_let_in(&mut stage);
    restarts_change_nothing(&mut stage);
}

fn endpoint(node: &str, conditions: &Value) -> Value {
    json!({ "addresses": ["10.244.0.9"], "nodeName": node, "conditions": conditions })
}

fn set_endpoints(stage: &Stage, endpoints: &[Value]) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "p", "port": 8080 }],
    });
    stage.apply(EAST, &slice.to_string()).unwrap();
}

#[track_caller]
fn wait_nodes(stage: &Stage, nodes: &[&str]) {
    wait::until_ok(
        &format!("{ADDRESS} is to be announced by {nodes:?}"),
        DEADLINE,
        || {
            let assignments = stage.assignments(EAST)?;
            let found = assignments.get(ADDRESS).cloned().unwrap_or_default();
            anyhow::ensure!(found == nodes, "by {found:?}");
            Ok(())
        },
    )
    .unwrap();
}

fn set_policy(stage: &Stage, policy: &str) {
    let spec = format!(r#"{{"spec":{{"externalTrafficPolicy":"{policy}"}}}}"#);
    stage
        .kubectl(
            EAST,
            &["patch", "service", "web", "--type=merge", "-p", &spec],
        )
        .unwrap();
}

fn endpoints_are_followed(stage: &Stage) {
    wait_nodes(stage, &[]);
    set_endpoints(stage, &[endpoint("n1", &json!({ "ready": true }))]);
    wait_nodes(stage, &["n1", "n2"]);
    set_endpoints(stage, &[endpoint("n1", &json!({ "ready": false }))]);
    wait_nodes(stage, &[]);
    set_policy(stage, "Local");
    for (conditions, usable) in [
        (json!({ "ready": true }), true),
        (
            json!({ "ready": false, "serving": true, "terminating": true }),
            true,
        ),
        (
            json!({ "ready": false, "serving": false, "terminating": true }),
            false,
        ),
        (json!({}), true),
    ] {
        set_endpoints(stage, &[endpoint("n2", &conditions)]);
        wait_nodes(stage, if usable { &["n2"] } else { &[] });
    }
    set_endpoints(
        stage,
        &[endpoint("n1", &json!({})), endpoint("n2", &json!({}))],
    );
    wait_nodes(stage, &["n1", "n2"]);
    stage
        .kubectl(EAST, &["delete", "endpointslice", "web-1"])
        .unwrap();
    wait_nodes(stage, &[]);
    set_policy(stage, "Cluster");
    set_endpoints(stage, &[endpoint("n1", &json!({ "ready": true }))]);
    wait_nodes(stage, &["n1", "n2"]);
    // The slice belongs to nobody any more.
    let label = "kubernetes.io/service-name";
    stage
        .kubectl(
            EAST,
            &["label", "endpointslice", "web-1", &format!("{label}-")],
        )
        .unwrap();
    wait_nodes(stage, &[]);
    set_endpoints(stage, &[endpoint("n1", &json!({ "ready": true }))]);
    wait_nodes(stage, &["n1", "n2"]);
}

fn nodes_are_followed(stage: &Stage) {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    stage
        .kubectl(EAST, &["label", "node", "n1", &format!("{label}=")])
        .unwrap();
    wait_nodes(stage, &["n2"]);
    stage
        .kubectl(EAST, &["label", "node", "n1", &format!("{label}-")])
        .unwrap();
    wait_nodes(stage, &["n1", "n2"]);
    let condition = |status: &str| {
        let patch = json!({ "status": { "conditions": [
            { "type": "NetworkUnavailable", "status": status },
        ] } });
        let patch = patch.to_string();
        let arguments = [
            "patch",
            "node",
            "n2",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        stage.kubectl(EAST, &arguments).unwrap();
    };
    condition("True");
    wait_nodes(stage, &["n1"]);
    condition("False");
    wait_nodes(stage, &["n1", "n2"]);
}

fn excluded_nodes_can_be_let_in(stage: &mut Stage) {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    stage
        .kubectl(EAST, &["label", "node", "n1", &format!("{label}=")])
        .unwrap();
    wait_nodes(stage, &["n2"]);
    for (flags, nodes) in [
        (&["--ignore-exclude-lb"][..], &["n1", "n2"][..]),
        (&[], &["n2"]),
    ] {
        stage.stop_adapter(EAST).unwrap();
        stage.start_adapter(EAST, flags).unwrap();
        wait_nodes(stage, nodes);
    }
    stage
        .kubectl(EAST, &["label", "node", "n1", &format!("{label}-")])
        .unwrap();
    wait_nodes(stage, &["n1", "n2"]);
}

fn restarts_change_nothing(stage: &mut Stage) {
    stage.stop_adapter(EAST).unwrap();
    wait_nodes(stage, &["n1", "n2"]);
    stage.start_adapter(EAST, &[]).unwrap();
    wait_nodes(stage, &["n1", "n2"]);
    stage.kill_book().unwrap();
    stage.start_book().unwrap();
    wait_nodes(stage, &["n1", "n2"]);
    stage.wait_readiness(EAST, "ok").unwrap();
    // The stream of facts is open again.
    stage
        .kubectl(EAST, &["delete", "endpointslice", "web-1"])
        .unwrap();
    wait_nodes(stage, &[]);
}
