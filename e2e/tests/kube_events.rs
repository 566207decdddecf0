//! What a Service's events say. Topology: one Kubernetes API, one adapter, one ipam-service
//! (e2e/src/adapters.rs).
//!
//! 1. Every event has the reason and the words that MetalLB's users search for, and is said once.
//! 2. A status that the API server refuses for long is told on the Service.
//! 3. An event that the permissions do not allow is told in the log.

use e2e::adapters::Stage;
use e2e::site::DEADLINE;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";

fn none() -> Value {
    json!({})
}

#[test]
fn every_event_has_metallbs_reason_and_words() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    for (name, range) in [("a", "192.0.2.0/29"), ("b", "198.51.100.0/29")] {
        stage.apply_pool(EAST, name, &[range]).unwrap();
    }
    let from = |pool: &str| json!({ "metallb.io/address-pool": pool });
    let prefer = json!({ "ipFamilyPolicy": "PreferDualStack" });
    stage
        .apply_service(EAST, "web", &from("a"), &none())
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    stage
        .apply_service(EAST, "two", &from("a"), &prefer)
        .unwrap();
    stage.wait_addresses(EAST, "two", &["192.0.2.1"]).unwrap();
    let old = json!({
        "metallb.universe.tf/address-pool": "a", "metallb.universe.tf/allow-shared-ip": "k",
    });
    stage.apply_service(EAST, "old", &old, &none()).unwrap();
    stage.wait_addresses(EAST, "old", &["192.0.2.2"]).unwrap();
    let bad = json!({ "metallb.io/loadBalancerIPs": "nonsense" });
    stage.apply_service(EAST, "web", &bad, &none()).unwrap();
    stage.apply_service(EAST, "new", &bad, &none()).unwrap();
    // A status that another controller left there.
    stage
        .apply_service(EAST, "strange", &from("none"), &none())
        .unwrap();
    stage
        .wait_event(EAST, "strange", "AllocationFailed", &["none"])
        .unwrap();
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"hostname":"lb.example"}]}}}"#;
    set_status(&stage, "strange", status).unwrap();
    stage
        .apply_service(EAST, "strange", &from("b"), &none())
        .unwrap();
    stage
        .wait_addresses(EAST, "strange", &["198.51.100.0"])
        .unwrap();
    stage
        .kubectl(
            EAST,
            &["delete", "ipaddresspool", "b", "-n", "metallb-system"],
        )
        .unwrap();
    stage.wait_addresses(EAST, "strange", &[]).unwrap();
    for (service, kind, reason, message) in [
        (
            "web",
            "Normal",
            "IPAllocated",
            "Assigned IP [\"192.0.2.0\"]",
        ),
        (
            "two",
            "Normal",
            "AdditionalAssignFailed",
            "cannot assign additional IP in PreferDualStack: ",
        ),
        (
            "old",
            "Warning",
            "deprecatedAnnotation",
            "Service uses deprecated annotation metallb.universe.tf/address-pool",
        ),
        (
            "old",
            "Warning",
            "deprecatedAnnotation",
            "Service uses deprecated annotation metallb.universe.tf/allow-shared-ip",
        ),
        (
            "web",
            "Warning",
            "LoadBalancerFailed",
            "invalid requested loadbalancer IPs: ",
        ),
        (
            "new",
            "Warning",
            "AllocationFailed",
            "Failed to allocate IP for \"default/new\": invalid ",
        ),
        (
            "strange",
            "Warning",
            "nolbIPsIPFamily",
            "Failed to retrieve LBIPs IPFamily for [\"lb.example\"]: ",
        ),
        (
            "strange",
            "Normal",
            "ClearAssignment",
            "current IP for \"default/strange\" not allowed by config, will attempt for new IP \
             assignment: ",
        ),
    ] {
        stage.wait_event(EAST, service, reason, &[message]).unwrap();
        let events = stage.events(EAST, service).unwrap();
        let found: Vec<_> = events
            .iter()
            .filter(|(_, its, _, text)| its == reason && text.starts_with(message))
            .collect();
        assert_eq!(
            found.len(),
            1,
            "{reason} of {service} is said once: {events:?}"
        );
        assert_eq!(
            (found[0].0.as_str(), found[0].2.as_str()),
            (kind, "metallb-controller")
        );
    }
}

fn set_status(stage: &Stage, service: &str, status: &str) -> anyhow::Result<String> {
    let patch = [
        "patch",
        "service",
        service,
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    stage.kubectl(EAST, &patch)
}

#[test]
fn a_status_that_is_refused_for_long_is_told() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/29"]).unwrap();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": "no-status" },
        "spec": {
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"],
                "resources": ["services/status"],
            }] },
            "validations": [{ "expression": "false", "message": "not today" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": "no-status" },
        "spec": { "policyName": "no-status", "validationActions": ["Deny"] },
    });
    let probe = json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/other" });
    stage.apply_service(EAST, "probe", &none(), &probe).unwrap();
    stage.apply(EAST, &policy.to_string()).unwrap();
    stage.apply(EAST, &binding.to_string()).unwrap();
    let mut attempt = 0;
    wait::until("the policy is in force", DEADLINE, || {
        attempt += 1;
        let host = format!("host-{attempt}.example");
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "hostname": host }] } } });
        set_status(&stage, "probe", &status.to_string()).err()
    })
    .unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage
        .wait_event(EAST, "web", "AllocationFailed", &["not today"])
        .unwrap();
    let what = "validatingadmissionpolicybinding";
    stage.kubectl(EAST, &["delete", what, "no-status"]).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    let events = stage.events(EAST, "web").unwrap();
    let failed = events
        .iter()
        .filter(|(_, its, _, _)| its == "AllocationFailed");
    assert_eq!(failed.count(), 1, "{events:?}");
}

#[test]
fn an_event_that_is_not_allowed_is_told_in_the_log() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/29"]).unwrap();
    let role = "pharos:k8s-adapter";
    let get = ["get", "clusterrole", role, "-o", "json"];
    let text = stage.kubectl(EAST, &get).unwrap();
    let mut granted: Value = serde_json::from_str(&text).unwrap();
    let rules = granted["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"] != json!(["events"]));
    let less = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": role }, "rules": rules,
    });
    stage.apply(EAST, &less.to_string()).unwrap();
    let adapter = "system:serviceaccount:metallb-system:k8s-adapter";
    let can = ["auth", "can-i", "create", "events", "--as", adapter];
    wait::until("events are not allowed", DEADLINE, || {
        // It ends with an error when the answer is no.
        stage.kubectl(EAST, &can).err()
    })
    .unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    let adapter = stage.adapter(EAST).unwrap();
    adapter.wait_log("event not written", DEADLINE).unwrap();
}
