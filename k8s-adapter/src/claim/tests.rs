//! The rows of MetalLB's Service surface: annotations, fields, families, classes.

use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    }
}

/// A Service of type LoadBalancer with these annotations and these changes to its spec.
fn service(annotations: Value, spec: Value) -> ServiceState {
    let mut whole = json!({
        "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": [{ "port": 80 }],
        "selector": { "b": "2", "a": "1" },
    });
    for (name, value) in spec.as_object().expect("an object") {
        whole[name] = value.clone();
    }
    let service = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": "web", "uid": "u", "labels": { "tier": "front" },
            "annotations": annotations,
        },
        "spec": whole,
    }));
    ServiceState::parse(&service.expect("a Service")).expect("with a name")
}

fn claim_of(annotations: Value, spec: Value) -> Result<Claim, NoClaim> {
    let namespace = Labels::from([("team".to_owned(), "a".to_owned())]);
    claim(&service(annotations, spec), Some(&namespace), &settings())
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect()
}

fn rejection(annotations: Value, spec: Value) -> Rejection {
    match claim_of(annotations.clone(), spec.clone()) {
        Err(NoClaim::Rejected(rejection)) => rejection,
        other => panic!("{annotations} {spec}: expected a rejection, got {other:?}"),
    }
}

const DUAL: [&str; 2] = ["10.0.0.1", "fd00::1"];

#[test]
fn a_plain_service_claims_any_address_of_its_family() {
    let claim = claim_of(json!({}), json!({})).expect("a claim");
    assert_eq!(claim.families, [v1::ip_family::Value::Ipv4]);
    assert_eq!(claim.family_policy, v1::claim::FamilyPolicy::SingleStack);
    assert_eq!(claim.ports, [(v1::port::Protocol::Tcp, 80)]);
    assert_eq!((claim.pool.as_str(), claim.addresses.len()), ("", 0));
    assert_eq!(
        (claim.sharing_key.as_str(), claim.backend_key.as_str()),
        ("", "")
    );
    assert_eq!(claim.labels["tier"], "front");
    assert_eq!(claim.namespace_labels["team"], "a");
}

#[test]
fn addresses_can_be_asked_for_in_three_ways() {
    for (annotations, spec) in [
        (
            json!({ "metallb.io/loadBalancerIPs": "192.0.2.9" }),
            json!({}),
        ),
        (
            json!({ "metallb.universe.tf/loadBalancerIPs": " 192.0.2.9 " }),
            json!({}),
        ),
        (json!({}), json!({ "loadBalancerIP": "192.0.2.9" })),
    ] {
        let claim = claim_of(annotations.clone(), spec).expect("a claim");
        assert_eq!(claim.addresses, addresses(&["192.0.2.9"]), "{annotations}");
    }
}

#[test]
fn an_empty_new_annotation_hides_the_legacy_one() {
    let claim = claim_of(
        json!({ "metallb.io/loadBalancerIPs": "", "metallb.universe.tf/loadBalancerIPs": "192.0.2.9" }),
        json!({}),
    );
    assert!(claim.expect("a claim").addresses.is_empty());
    // And then the field alone is the request.
    let claim = claim_of(
        json!({ "metallb.io/loadBalancerIPs": "", "metallb.universe.tf/loadBalancerIPs": "192.0.2.9" }),
        json!({ "loadBalancerIP": "192.0.2.8" }),
    );
    assert_eq!(claim.expect("a claim").addresses, addresses(&["192.0.2.8"]));
}

#[test]
fn two_addresses_are_one_of_each_family_with_ipv4_first() {
    let claim = claim_of(
        json!({ "metallb.io/loadBalancerIPs": "2001:db8::9 , 192.0.2.9" }),
        json!({ "clusterIPs": DUAL }),
    );
    assert_eq!(
        claim.expect("a claim").addresses,
        addresses(&["192.0.2.9", "2001:db8::9"])
    );
}

#[test]
fn a_request_that_makes_no_sense_is_rejected_by_name_and_keeps_the_address() {
    let listed = |text: &str| json!({ "metallb.io/loadBalancerIPs": text });
    for (annotations, spec, expected) in [
        (
            listed("192.0.2.9"),
            json!({ "loadBalancerIP": "192.0.2.9" }),
            Rejection::TwoRequests,
        ),
        (
            listed("nonsense"),
            json!({}),
            Rejection::BadAddresses("nonsense".to_owned()),
        ),
        (
            listed("192.0.2.9,"),
            json!({}),
            Rejection::BadAddresses("192.0.2.9,".to_owned()),
        ),
        (
            listed("::ffff:192.0.2.9"),
            json!({}),
            Rejection::BadAddresses("::ffff:192.0.2.9".to_owned()),
        ),
        (
            listed("192.0.2.9,192.0.2.8"),
            json!({}),
            Rejection::TooManyAddresses("192.0.2.9,192.0.2.8".to_owned()),
        ),
        (
            listed("192.0.2.9,2001:db8::1,2001:db8::2"),
            json!({ "clusterIPs": DUAL }),
            Rejection::TooManyAddresses("192.0.2.9,2001:db8::1,2001:db8::2".to_owned()),
        ),
        (
            json!({}),
            json!({ "loadBalancerIP": "lb.example" }),
            Rejection::BadLoadBalancerIp("lb.example".to_owned()),
        ),
        (
            listed("2001:db8::9"),
            json!({}),
            Rejection::FamilyMismatch("[\"2001:db8::9\"]".to_owned()),
        ),
        (
            listed("192.0.2.9"),
            json!({ "clusterIPs": DUAL }),
            Rejection::FamilyMismatch("[\"192.0.2.9\"]".to_owned()),
        ),
        (
            json!({}),
            json!({ "ports": [{ "port": 80, "protocol": "DCCP" }] }),
            Rejection::BadPort {
                protocol: "DCCP".to_owned(),
                port: 80,
            },
        ),
    ] {
        let found = rejection(annotations, spec);
        assert_eq!(found, expected);
        assert!(found.keeps_address(), "{found}");
    }
}

#[test]
fn families_follow_the_cluster_addresses() {
    use v1::claim::FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    use v1::ip_family::Value::{Ipv4, Ipv6};
    for (cluster_ips, policy, families, expected) in [
        (json!(["10.0.0.1"]), "SingleStack", vec![Ipv4], SingleStack),
        (json!(["fd00::1"]), "SingleStack", vec![Ipv6], SingleStack),
        (
            json!(["10.0.0.1"]),
            "PreferDualStack",
            vec![Ipv4],
            SingleStack,
        ),
        (
            json!(["10.0.0.1", "fd00::1"]),
            "PreferDualStack",
            vec![Ipv4, Ipv6],
            PreferDualStack,
        ),
        (
            json!(["fd00::1", "10.0.0.1"]),
            "PreferDualStack",
            vec![Ipv6, Ipv4],
            PreferDualStack,
        ),
        (
            json!(["fd00::1", "10.0.0.1"]),
            "RequireDualStack",
            vec![Ipv6, Ipv4],
            RequireDualStack,
        ),
    ] {
        let spec = json!({ "clusterIPs": cluster_ips, "ipFamilyPolicy": policy });
        let claim = claim_of(json!({}), spec.clone()).expect("a claim");
        assert_eq!(
            (claim.families, claim.family_policy),
            (families, expected),
            "{spec}"
        );
    }
}

#[test]
fn a_service_without_usable_cluster_addresses_can_have_none() {
    for (spec, expected) in [
        (json!({ "clusterIPs": [] }), Rejection::NoClusterIps),
        (json!({ "clusterIPs": [""] }), Rejection::NoClusterIps),
        (
            json!({ "clusterIPs": ["None"] }),
            Rejection::BadClusterIps(vec!["None".to_owned()]),
        ),
        (
            json!({ "clusterIPs": ["10.0.0.1", "10.0.0.2"] }),
            Rejection::BadClusterIps(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]),
        ),
        (
            json!({ "ipFamilyPolicy": "RequireDualStack" }),
            Rejection::NotEnoughClusterIps(vec!["10.0.0.1".to_owned()]),
        ),
    ] {
        let found = rejection(json!({}), spec);
        assert_eq!(found, expected);
        assert!(!found.keeps_address(), "{found}");
    }
}

#[test]
fn an_old_api_server_says_cluster_ip_only() {
    let spec = json!({ "clusterIPs": null, "clusterIP": "10.0.0.1" });
    let claim = claim_of(json!({}), spec).expect("a claim");
    assert_eq!(claim.families, [v1::ip_family::Value::Ipv4]);
}

#[test]
fn the_backend_key_is_the_selector_under_local_and_nothing_under_cluster() {
    for (spec, key) in [
        (json!({}), ""),
        (json!({ "externalTrafficPolicy": "Cluster" }), ""),
        (json!({ "externalTrafficPolicy": "Local" }), "a=1,b=2"),
        // As in MetalLB: a Local Service without a selector counts as Cluster here.
        (
            json!({ "externalTrafficPolicy": "Local", "selector": {} }),
            "",
        ),
    ] {
        assert_eq!(
            claim_of(json!({}), spec.clone())
                .expect("a claim")
                .backend_key,
            key,
            "{spec}"
        );
    }
}

#[test]
fn pool_and_sharing_key_come_from_either_prefix() {
    for prefix in ["metallb.io", "metallb.universe.tf"] {
        let annotations = json!({
            format!("{prefix}/address-pool"): "edge", format!("{prefix}/allow-shared-ip"): "dns",
        });
        let claim = claim_of(annotations, json!({})).expect("a claim");
        assert_eq!(
            (claim.pool.as_str(), claim.sharing_key.as_str()),
            ("edge", "dns"),
            "{prefix}"
        );
    }
}

#[test]
fn ports_are_sorted_and_named_once() {
    let spec = json!({ "ports": [
        { "port": 53, "protocol": "UDP" }, { "port": 443 }, { "port": 80, "protocol": "TCP" },
        { "port": 80, "protocol": "TCP", "name": "again" }, { "port": 9, "protocol": "SCTP" },
    ] });
    use v1::port::Protocol::{Sctp, Tcp, Udp};
    assert_eq!(
        claim_of(json!({}), spec).expect("a claim").ports,
        [(Tcp, 80), (Tcp, 443), (Udp, 53), (Sctp, 9)]
    );
}

#[test]
fn only_services_of_our_type_and_class_are_ours() {
    for (spec, lb_class, expected) in [
        (json!({}), None, Ok(())),
        (
            json!({ "loadBalancerClass": "a" }),
            None,
            Err(NoClaim::OtherClass),
        ),
        (json!({ "loadBalancerClass": "a" }), Some("a"), Ok(())),
        (
            json!({ "loadBalancerClass": "b" }),
            Some("a"),
            Err(NoClaim::OtherClass),
        ),
        (json!({}), Some("a"), Err(NoClaim::OtherClass)),
        (
            json!({ "type": "ClusterIP" }),
            None,
            Err(NoClaim::NotLoadBalancer),
        ),
        (
            json!({ "type": "NodePort" }),
            Some("a"),
            Err(NoClaim::NotLoadBalancer),
        ),
    ] {
        let settings = Settings {
            lb_class: lb_class.map(str::to_owned),
            ..settings()
        };
        assert_eq!(
            is_ours(&service(json!({}), spec.clone()), &settings),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn nothing_is_claimed_before_the_namespace_is_known() {
    let service = service(json!({}), json!({}));
    assert_eq!(
        claim(&service, None, &settings()),
        Err(NoClaim::NamespaceUnknown)
    );
}

#[test]
fn the_request_queues_and_says_what_is_held_and_who_reports_backends() {
    let claim = claim_of(
        json!({ "metallb.io/loadBalancerIPs": "192.0.2.9" }),
        json!({}),
    );
    let request = request(
        &claim.expect("a claim"),
        &addresses(&["192.0.2.1"]),
        &settings(),
    );
    assert_eq!(
        request.owner,
        Some(owner(&ServiceKey::new("default", "web"), "u", "east"))
    );
    assert_eq!(request.addresses, ["192.0.2.9"]);
    assert_eq!(request.held_addresses, ["192.0.2.1"]);
    assert_eq!(request.if_refused(), v1::allocate_request::IfRefused::Queue);
    assert_eq!(request.backends(), v1::claim::Backends::Reported);
    assert_eq!(request.address_space, "default");
}

#[test]
fn a_reservation_is_claimed_by_name() {
    let claim = claim_of(json!({ "pharos.io/reservation": "web" }), json!({})).expect("a claim");
    assert_eq!(request(&claim, &[], &settings()).reservation, "web");
    assert_eq!(stored(&claim, &settings()).reservation, "web");
    let claim = claim_of(json!({ "metallb.io/reservation": "web" }), json!({})).expect("a claim");
    assert_eq!(request(&claim, &[], &settings()).reservation, "");
}

#[test]
fn the_addresses_of_a_dual_stack_service_may_come_from_two_pools() {
    use v1::claim::DualStackPools;
    let pools = |annotations, ips: &[&str]| {
        let claim = claim_of(annotations, json!({ "clusterIPs": ips })).expect("a claim");
        let request = request(&claim, &[], &settings());
        assert_eq!(
            stored(&claim, &settings()).dual_stack_pools,
            request.dual_stack_pools
        );
        request.dual_stack_pools()
    };
    let any = || json!({ "pharos.io/dual-stack-pools": "AnyPools" });
    let one = json!({ "pharos.io/dual-stack-pools": "OnePool" });
    assert_eq!(pools(any(), &DUAL), DualStackPools::AnyPools);
    assert_eq!(pools(any(), &DUAL[..1]), DualStackPools::Unspecified);
    assert_eq!(pools(one, &DUAL), DualStackPools::Unspecified);
    assert_eq!(pools(json!({}), &DUAL), DualStackPools::Unspecified);
}

#[test]
fn a_choice_of_pools_that_makes_no_sense_is_rejected_by_name() {
    let dual = || json!({ "clusterIPs": DUAL });
    let bad = rejection(json!({ "pharos.io/dual-stack-pools": "any" }), dual());
    assert_eq!(bad, Rejection::BadDualStackPools("any".to_owned()));
    assert!(bad.keeps_address());
    assert!(bad.to_string().contains("AnyPools or OnePool"), "{bad}");
    let both = json!({
        "pharos.io/dual-stack-pools": "AnyPools", "metallb.io/address-pool": "a",
    });
    assert_eq!(rejection(both.clone(), dual()), Rejection::OnePoolOfAny);
    // It has no use for two, and may say so all the same.
    let claim = claim_of(both, json!({})).expect("a claim");
    assert_eq!((claim.any_pools, &*claim.pool), (false, "a"));
}

/// A Service as Envoy Gateway makes it: its labels, and the addresses of the Gateway.
fn gateway_service(
    labels: Value,
    addresses: Value,
    annotations: Value,
    spec: Value,
) -> ServiceState {
    let mut whole = json!({
        "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "externalTrafficPolicy": "Local",
        "ports": [{ "name": "http-80", "port": 80, "targetPort": 10080 }], "externalIPs": addresses,
    });
    for (name, value) in spec.as_object().expect("an object") {
        whole[name] = value.clone();
    }
    let service = serde_json::from_value(json!({
        "metadata": {
            "namespace": "envoy-gateway-system", "name": "envoy-default-eg-e41e7b31", "uid": "u",
            "labels": labels, "annotations": annotations,
        },
        "spec": whole,
    }));
    ServiceState::parse(&service.expect("a Service")).expect("with a name")
}

#[test]
fn addresses_of_a_gateway_are_asked_for_by_its_service_and_by_no_other() {
    let envoy = json!({
        "app.kubernetes.io/managed-by": "envoy-gateway",
        "gateway.envoyproxy.io/owning-gateway-name": "eg",
        "gateway.envoyproxy.io/owning-gateway-namespace": "default",
    });
    let standard = json!({ "gateway.networking.k8s.io/gateway-name": "eg" });
    let one = json!(["192.0.2.9"]);
    let dual = json!({ "clusterIPs": DUAL, "ipFamilyPolicy": "RequireDualStack" });
    let both = json!(["2001:db8::9", "192.0.2.9"]);
    let pinned = json!({ "metallb.io/loadBalancerIPs": "192.0.2.5" });
    let field = json!({ "loadBalancerIP": "192.0.2.6" });
    let none = || json!({});
    for (labels, addresses_, annotations, spec, expected) in [
        (&envoy, &one, none(), none(), &["192.0.2.9"][..]),
        (&standard, &one, none(), none(), &["192.0.2.9"]),
        (&envoy, &both, none(), dual, &["192.0.2.9", "2001:db8::9"]),
        // An annotation of the Gateway's infrastructure, and a field of its EnvoyProxy, are nearer.
        (&envoy, &one, pinned, none(), &["192.0.2.5"]),
        (&envoy, &one, none(), field, &["192.0.2.6"]),
        (&envoy, &json!([]), none(), none(), &[]),
        // Of any other Service they are what kube-proxy makes of them.
        (&json!({ "app": "web" }), &one, none(), none(), &[]),
    ] {
        let service = gateway_service(labels.clone(), addresses_.clone(), annotations, spec);
        let claim = claim(&service, Some(&Labels::new()), &settings()).expect("a claim");
        assert_eq!(
            claim.addresses,
            addresses(expected),
            "{labels} {addresses_}"
        );
    }
    let two = gateway_service(envoy, json!(["192.0.2.8", "192.0.2.9"]), none(), none());
    let refused = claim(&two, Some(&Labels::new()), &settings());
    let expected = Rejection::BadGatewayAddresses("192.0.2.8,192.0.2.9".to_owned());
    assert_eq!(refused, Err(NoClaim::Rejected(expected)));
    assert!(
        in_use(&two, &Labels::new(), &settings()).is_some(),
        "it keeps what it has"
    );
}

#[test]
fn an_address_space_is_that_of_the_annotation_or_that_of_the_settings() {
    for (annotations, expected) in [
        (json!({}), "default"),
        (json!({ "pharos.io/address-space": "" }), "default"),
        (json!({ "pharos.io/address-space": "lab" }), "lab"),
    ] {
        let claim = claim_of(annotations, json!({})).expect("a claim");
        assert_eq!(stored(&claim, &settings()).address_space, expected);
        assert_eq!(request(&claim, &[], &settings()).address_space, expected);
    }
}
