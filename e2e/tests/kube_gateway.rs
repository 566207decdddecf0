//! Topology: one Kubernetes API, one adapter, one ipam-service (e2e/src/adapters.rs). The Services are written
//! here in the shapes in which Envoy Gateway makes them for its Gateways.
//!
//! 1. Addresses of a Gateway (`spec.addresses`) arrive as `spec.externalIPs` of its Service, which gets them.
//! 2. What the Gateway's infrastructure and its EnvoyProxy put on the Service counts before them.
//! 3. Without any of these its Service gets an address like every other.
//! 4. `spec.externalIPs` of a Service that no Gateway made asks for nothing.
//! 5. An address that such a Service had before Pharos came stays, and that the Gateway asks for another one is
//!    told.

use e2e::adapters::{Stage, addresses, annotation};
use serde_json::{Value, json};

const EAST: &str = "east";

/// A Service of Envoy Gateway's in its mode `GatewayNamespace`, where it lies beside its Gateway; in the other
/// mode only the namespace differs.
fn gateway_service(name: &str, annotations: &Value, spec: &Value) -> Value {
    let owner = json!({
        "app.kubernetes.io/component": "proxy",
        "app.kubernetes.io/managed-by": "envoy-gateway",
        "app.kubernetes.io/name": "envoy",
        "gateway.envoyproxy.io/owning-gateway-name": name,
        "gateway.envoyproxy.io/owning-gateway-namespace": "default",
    });
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "default", "labels": owner, "annotations": annotations,
        },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "sessionAffinity": "None",
            "selector": owner,
            "ports": [
                { "name": "http-80", "port": 80, "protocol": "TCP", "targetPort": 10080 },
                { "name": "https-443", "port": 443, "protocol": "TCP", "targetPort": 10443 },
            ],
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

#[test]
fn addresses_of_a_gateway_reach_its_service() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let ranges = ["192.0.2.0/28", "2001:db8::/120"];
    stage.apply_pool(EAST, "pool", &ranges).unwrap();
    let dual = json!({
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": ["2001:db8::7", "192.0.2.7"],
    });
    let pinned = json!({ "metallb.io/loadBalancerIPs": "192.0.2.5" });
    let none = json!({});
    for (name, annotations, spec, expected) in [
        (
            "one",
            &none,
            json!({ "externalIPs": ["192.0.2.9"] }),
            &["192.0.2.9"][..],
        ),
        ("two", &none, dual, &["192.0.2.7", "2001:db8::7"]),
        (
            "annotated",
            &pinned,
            json!({ "externalIPs": ["192.0.2.10"] }),
            &["192.0.2.5"],
        ),
        (
            "field",
            &none,
            json!({ "loadBalancerIP": "192.0.2.6" }),
            &["192.0.2.6"],
        ),
        ("plain", &none, json!({}), &["192.0.2.0"]),
    ] {
        let service = gateway_service(name, annotations, &spec);
        stage.apply(EAST, &service.to_string()).unwrap();
        let service = stage.wait_addresses(EAST, name, expected).unwrap();
        assert_eq!(
            annotation(&service, "metallb.io/ip-allocated-from-pool"),
            Some("pool")
        );
    }
    // Another address on the Gateway, and then one that somebody has.
    let moved = gateway_service("one", &none, &json!({ "externalIPs": ["192.0.2.11"] }));
    stage.apply(EAST, &moved.to_string()).unwrap();
    stage.wait_addresses(EAST, "one", &["192.0.2.11"]).unwrap();
    let taken = gateway_service("one", &none, &json!({ "externalIPs": ["192.0.2.5"] }));
    stage.apply(EAST, &taken.to_string()).unwrap();
    stage
        .wait_event(EAST, "one", "AllocationFailed", &["192.0.2.5"])
        .unwrap();
    assert_eq!(
        addresses(&stage.service(EAST, "one").unwrap()),
        ["192.0.2.11"]
    );
    // Of no Gateway.
    let spec = json!({ "externalIPs": ["192.0.2.12"] });
    stage.apply_service(EAST, "web", &json!({}), &spec).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.1"]).unwrap();
}

#[test]
fn what_the_service_of_a_gateway_had_before_stays() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    // One asks for what is free, the other for what is in no pool; MetalLB read neither.
    for (name, asked, has) in [
        ("free", "192.0.2.9", "192.0.2.5"),
        ("foreign", "198.51.100.9", "192.0.2.6"),
    ] {
        let service = gateway_service(name, &json!({}), &json!({ "externalIPs": [asked] }));
        stage.apply(EAST, &service.to_string()).unwrap();
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": has }] } } });
        let patch = status.to_string();
        let arguments = ["patch", "service", name, "--type=merge", "-p", &patch];
        stage
            .kubectl(EAST, &[&arguments[..], &["--subresource=status"]].concat())
            .unwrap();
    }
    stage.start_adapter(EAST, &[]).unwrap();
    for (name, asked, has) in [
        ("free", "192.0.2.9", "192.0.2.5"),
        ("foreign", "198.51.100.9", "192.0.2.6"),
    ] {
        let reason = "GatewayAddressNotAssigned";
        stage.wait_event(EAST, name, reason, &[asked, has]).unwrap();
        let service = stage.service(EAST, name).unwrap();
        assert_eq!(addresses(&service), [has]);
        let mark = annotation(&service, "metallb.io/ip-allocated-from-pool");
        assert_eq!(mark, Some("pool"));
    }
}
