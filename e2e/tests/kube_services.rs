//! Topology: one Kubernetes API, one adapter, one ipam-service (e2e/src/adapters.rs).
//!
//! 1. A Service gets an address: status, annotation and event.
//! 2. Addresses are asked for by annotation in both prefixes and by spec.loadBalancerIP.
//! 3. Pools are asked for by annotation; an unknown one is refused in MetalLB's words.
//! 4. Services share an address on different ports, and not on the same one.
//! 5. Requests that make no sense are told, and cost nobody its address.
//! 6. Dual-stack and single-stack IPv6.
//! 7. A Service that changes its type, its class or goes away gives its address back.
//! 8. Services of another class are never touched.
//! 9. A claim that somebody changed by hand is the Service's again at once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::{Stage, addresses, annotation};
use e2e::site::DEADLINE;
use pharos_proto::v1;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";

fn none() -> Value {
    json!({})
}

#[test]
fn services_get_and_lose_addresses_as_with_metallb() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "first", &["192.0.2.0/29"]).unwrap();
    stage
        .apply_pool(EAST, "second", &["198.51.100.0/29"])
        .unwrap();
    for pool in ["first", "second"] {
        stage.wait_in_force(EAST, pool).unwrap();
    }
    a_service_gets_an_address(&stage);
    addresses_are_asked_for(&stage);
    pools_are_asked_for(&stage);
    services_share_an_address(&stage);
    senseless_requests_are_told(&stage);
    other_classes_are_never_touched(&stage);
    a_claim_taken_by_hand_is_taken_back(&stage);
    addresses_are_given_back(&stage);
}

fn a_service_gets_an_address(stage: &Stage) {
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    let service = stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    assert_eq!(
        annotation(&service, "metallb.io/ip-allocated-from-pool"),
        Some("first")
    );
    stage
        .wait_event(EAST, "web", "IPAllocated", &["Assigned IP [\"192.0.2.0\"]"])
        .unwrap();
    let events = stage.events(EAST, "web").unwrap();
    let told = (
        "Normal".to_owned(),
        "IPAllocated".to_owned(),
        "metallb-controller".to_owned(),
    );
    let (kind, reason, component, _) = events.first().unwrap().clone();
    assert_eq!((kind, reason, component), told);
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(service.metadata.finalizers.is_none());
    let shown = stage.kubectl(EAST, &["get", "service", "web"]).unwrap();
    assert!(shown.contains("192.0.2.0"), "{shown}");
    let pools = stage
        .kubectl(EAST, &["get", "ipaddresspools", "-n", "metallb-system"])
        .unwrap();
    assert!(
        pools.contains("AUTO ASSIGN") && pools.contains("192.0.2.0/29"),
        "{pools}"
    );
    stage.wait_usage(EAST, "first", "1 7").unwrap();
    let (_, metrics) = stage.admin(EAST, "/metrics").unwrap();
    let line = "metallb_allocator_addresses_in_use_total{pool=\"first\"} 1.0";
    assert!(metrics.contains(line), "{metrics}");
    wait::until_ok("the Service is counted as served", DEADLINE, || {
        let (_, metrics) = stage.admin(EAST, "/metrics")?;
        let line = "pharos_adapter_services_served 1\n";
        anyhow::ensure!(metrics.contains(line), "{metrics}");
        Ok(())
    })
    .unwrap();
}

fn addresses_are_asked_for(stage: &Stage) {
    let new = json!({ "metallb.io/loadBalancerIPs": "192.0.2.5" });
    stage.apply_service(EAST, "new", &new, &none()).unwrap();
    stage.wait_addresses(EAST, "new", &["192.0.2.5"]).unwrap();
    let old = json!({ "metallb.universe.tf/loadBalancerIPs": "192.0.2.6" });
    stage.apply_service(EAST, "old", &old, &none()).unwrap();
    stage.wait_addresses(EAST, "old", &["192.0.2.6"]).unwrap();
    stage
        .wait_event(
            EAST,
            "old",
            "deprecatedAnnotation",
            &["metallb.universe.tf"],
        )
        .unwrap();
    let field = json!({ "loadBalancerIP": "198.51.100.3" });
    stage.apply_service(EAST, "field", &none(), &field).unwrap();
    let service = stage
        .wait_addresses(EAST, "field", &["198.51.100.3"])
        .unwrap();
    assert_eq!(
        annotation(&service, "metallb.io/ip-allocated-from-pool"),
        Some("second")
    );
    // Somebody has it; the first keeps it.
    let taken = json!({ "metallb.io/loadBalancerIPs": "192.0.2.5" });
    stage.apply_service(EAST, "late", &taken, &none()).unwrap();
    let start = "Failed to allocate IP for \"default/late\": ";
    let told = stage
        .wait_event(EAST, "late", "AllocationFailed", &[start, "192.0.2.5"])
        .unwrap();
    eprintln!("taken: {told}");
    assert!(addresses(&stage.service(EAST, "late").unwrap()).is_empty());
    // The holder goes, and the one that waited gets it without a hand.
    stage.kubectl(EAST, &["delete", "service", "new"]).unwrap();
    stage.wait_addresses(EAST, "late", &["192.0.2.5"]).unwrap();
    // Another address is asked for.
    let other = json!({ "metallb.io/loadBalancerIPs": "192.0.2.7" });
    stage.apply_service(EAST, "late", &other, &none()).unwrap();
    stage.wait_addresses(EAST, "late", &["192.0.2.7"]).unwrap();
}

fn pools_are_asked_for(stage: &Stage) {
    for (name, prefix) in [
        ("pool-new", "metallb.io"),
        ("pool-old", "metallb.universe.tf"),
    ] {
        let pinned = json!({ format!("{prefix}/address-pool"): "second" });
        stage.apply_service(EAST, name, &pinned, &none()).unwrap();
        let address = stage.wait_any_address(EAST, name).unwrap();
        assert!(address.starts_with("198.51.100."), "{address}");
    }
    let unknown = json!({ "metallb.io/address-pool": "third" });
    stage
        .apply_service(EAST, "unknown", &unknown, &none())
        .unwrap();
    let words = "Failed to allocate IP for \"default/unknown\": unknown pool \"third\"";
    stage
        .wait_event(EAST, "unknown", "AllocationFailed", &[words])
        .unwrap();
    // The pool comes after the Service.
    stage
        .apply_pool(EAST, "third", &["203.0.113.0/30"])
        .unwrap();
    stage
        .wait_addresses(EAST, "unknown", &["203.0.113.0"])
        .unwrap();
    // Told once, not on every pass.
    let events = stage.events(EAST, "unknown").unwrap();
    let failed = events
        .iter()
        .filter(|(_, reason, _, _)| reason == "AllocationFailed");
    assert_eq!(failed.count(), 1, "{events:?}");
}

fn services_share_an_address(stage: &Stage) {
    let shared = json!({
        "metallb.universe.tf/allow-shared-ip": "dns", "metallb.io/loadBalancerIPs": "203.0.113.2",
    });
    let port = |protocol: &str, port: u16| json!({ "ports": [{ "name": "p", "port": port, "protocol": protocol }] });
    stage
        .apply_service(EAST, "tcp", &shared, &port("TCP", 53))
        .unwrap();
    stage.wait_addresses(EAST, "tcp", &["203.0.113.2"]).unwrap();
    stage
        .apply_service(EAST, "udp", &shared, &port("UDP", 53))
        .unwrap();
    stage.wait_addresses(EAST, "udp", &["203.0.113.2"]).unwrap();
    stage
        .apply_service(EAST, "clash", &shared, &port("TCP", 53))
        .unwrap();
    let words = "port TCP/53 is already in use on \"203.0.113.2\"";
    stage
        .wait_event(EAST, "clash", "AllocationFailed", &[words])
        .unwrap();
    // A port is freed on the shared address.
    stage.kubectl(EAST, &["delete", "service", "tcp"]).unwrap();
    stage
        .wait_addresses(EAST, "clash", &["203.0.113.2"])
        .unwrap();
    // No key, no sharing.
    let alone = json!({ "metallb.io/loadBalancerIPs": "203.0.113.2" });
    stage
        .apply_service(EAST, "alone", &alone, &port("TCP", 80))
        .unwrap();
    stage
        .wait_event(EAST, "alone", "AllocationFailed", &["203.0.113.2"])
        .unwrap();
    stage
        .kubectl(EAST, &["delete", "service", "udp", "clash", "alone"])
        .unwrap();
}

fn senseless_requests_are_told(stage: &Stage) {
    let bad = json!({ "metallb.io/loadBalancerIPs": "nonsense" });
    stage.apply_service(EAST, "bad", &bad, &none()).unwrap();
    stage
        .wait_event(EAST, "bad", "AllocationFailed", &["invalid", "nonsense"])
        .unwrap();
    // One that has an address keeps it.
    stage.apply_service(EAST, "web", &bad, &none()).unwrap();
    stage
        .wait_event(EAST, "web", "LoadBalancerFailed", &["nonsense"])
        .unwrap();
    assert_eq!(
        addresses(&stage.service(EAST, "web").unwrap()),
        ["192.0.2.0"]
    );
    let both = json!({ "metallb.io/loadBalancerIPs": "192.0.2.0" });
    stage
        .apply_service(
            EAST,
            "bad",
            &both,
            &json!({ "loadBalancerIP": "192.0.2.1" }),
        )
        .unwrap();
    let words = "service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP";
    stage
        .wait_event(EAST, "bad", "AllocationFailed", &[words])
        .unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.kubectl(EAST, &["delete", "service", "bad"]).unwrap();
}

fn other_classes_are_never_touched(stage: &Stage) {
    let other = json!({ "loadBalancerClass": "example.com/other" });
    stage.apply_service(EAST, "other", &none(), &other).unwrap();
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9"}]}}}"#;
    let patch = [
        "patch",
        "service",
        "other",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    stage.kubectl(EAST, &patch).unwrap();
    let before = stage.service(EAST, "other").unwrap();
    // A Service made later has been served, so this one has been seen.
    stage
        .apply_service(EAST, "marker", &none(), &none())
        .unwrap();
    stage.wait_any_address(EAST, "marker").unwrap();
    let after = stage.service(EAST, "other").unwrap();
    assert_eq!(
        after.metadata.resource_version,
        before.metadata.resource_version
    );
    assert!(
        !stage
            .allocations(EAST)
            .unwrap()
            .contains_key("default/other")
    );
}

fn a_claim_taken_by_hand_is_taken_back(stage: &Stage) {
    let before = stage.allocations(EAST).unwrap()["default/web"].clone();
    let by_hand = v1::AllocateRequest {
        owner: Some(v1::Owner {
            cluster: EAST.to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: String::new(),
        }),
        ..v1::AllocateRequest::default()
    };
    let taken = stage.call(|channel| async move {
        let mut client = v1::allocation_service_client::AllocationServiceClient::new(channel);
        client.allocate(by_hand).await
    });
    let taken = taken.unwrap().into_inner().allocation.unwrap();
    assert_ne!(taken.claim, before.claim);
    wait::until_ok("the claim is the Service's again", DEADLINE, || {
        let now = stage.allocations(EAST)?["default/web"].clone();
        anyhow::ensure!(now.claim == before.claim, "{:?}", now.claim);
        anyhow::ensure!(now.addresses == before.addresses, "{:?}", now.addresses);
        Ok(())
    })
    .unwrap();
}

fn addresses_are_given_back(stage: &Stage) {
    let held = |name: &str| {
        stage
            .allocations(EAST)
            .unwrap()
            .contains_key(&format!("default/{name}"))
    };
    assert!(held("web") && held("marker"));
    stage
        .kubectl(EAST, &["delete", "service", "marker"])
        .unwrap();
    let patch = [
        "patch",
        "service",
        "web",
        "--type=merge",
        "-p",
        r#"{"spec":{"type":"ClusterIP"}}"#,
    ];
    stage.kubectl(EAST, &patch).unwrap();
    let what = "the address of a Service of another type is free, and its status is empty";
    wait::until_ok(what, DEADLINE, || {
        let service = stage.service(EAST, "web")?;
        anyhow::ensure!(addresses(&service).is_empty(), "{:?}", service.status);
        anyhow::ensure!(annotation(&service, "metallb.io/ip-allocated-from-pool").is_none());
        anyhow::ensure!(!held("web") && !held("marker"));
        Ok(())
    })
    .unwrap();
    // And back.
    let patch = [
        "patch",
        "service",
        "web",
        "--type=merge",
        "-p",
        r#"{"spec":{"type":"LoadBalancer"}}"#,
    ];
    stage.kubectl(EAST, &patch).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
}

#[test]
fn both_families_are_served() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage
        .apply_pool(EAST, "both", &["192.0.2.0/30", "2001:db8::/126"])
        .unwrap();
    let six = json!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack" });
    stage.apply_service(EAST, "six", &none(), &six).unwrap();
    stage.wait_addresses(EAST, "six", &["2001:db8::"]).unwrap();
    let two = json!({ "ipFamilyPolicy": "RequireDualStack" });
    stage.apply_service(EAST, "two", &none(), &two).unwrap();
    stage
        .wait_addresses(EAST, "two", &["192.0.2.0", "2001:db8::1"])
        .unwrap();
    let words = "Assigned IP [\"192.0.2.0\" \"2001:db8::1\"]";
    stage
        .wait_event(EAST, "two", "IPAllocated", &[words])
        .unwrap();
    // A request of one family only makes no sense for a Service of two.
    let one = json!({ "metallb.io/loadBalancerIPs": "192.0.2.2" });
    stage.apply_service(EAST, "half", &one, &two).unwrap();
    let words = "does not match the ipFamily of the service";
    stage
        .wait_event(EAST, "half", "AllocationFailed", &[words])
        .unwrap();
}
