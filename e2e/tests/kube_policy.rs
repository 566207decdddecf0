//! Topology: one Kubernetes API, one adapter, one ipam-service (e2e/src/adapters.rs).
//!
//! 1. Without the custom resources' definitions the adapter says so, and serves once they come.
//! 2. A pool that comes after a Service serves it; so does one that grows.
//! 3. A bad pool leaves the whole earlier configuration in force, and says so in a metric.
//! 4. A pool that goes takes its addresses with it; a renamed pool moves no address.
//! 5. Labels of namespaces and Services decide who may use a pool, and are followed.
//! 6. `--lb-class` serves that class only.
//! 7. A range that goes over to another pool in one `kubectl apply` moves no address.
//! 8. What users of MetalLB have is taken without an error. BGP kinds are judged together with all else: a
//!    bad one is told in the same metric, and changes nothing for pools and Services.
//! 9. A pool with any priority that MetalLB takes is served.
//! 10. Definitions that were removed and applied again take no address, as an empty list says nothing; nor do
//!     those that go while the adapter runs, and one that stays away stops no other kind. What people delete
//!     under a living definition goes.
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

fn wait_metric(stage: &Stage, line: &str) {
    wait::until_ok(&format!("metric {line}"), DEADLINE, || {
        let (_, text) = stage.admin(EAST, "/metrics")?;
        let name = line.split([' ', '{']).next().unwrap_or(line);
        let found: Vec<&str> = text
            .lines()
            .filter(|found| found.starts_with(name))
            .collect();
        anyhow::ensure!(found.contains(&line), "{found:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn pools_come_change_and_go() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.start_adapter_as(EAST, EAST, &[]).unwrap();
    stage
        .wait_readiness(
            EAST,
            "ipaddresspools: the API server does not know this kind",
        )
        .unwrap();
    stage
        .apply_service(EAST, "early", &none(), &none())
        .unwrap();
    stage
        .wait_event(EAST, "early", "AllocationFailed", &["no available IPs"])
        .unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.8/32"]).unwrap();
    stage.wait_addresses(EAST, "early", &["192.0.2.8"]).unwrap();
    stage
        .apply_service(EAST, "second", &none(), &none())
        .unwrap();
    stage
        .wait_event(EAST, "second", "AllocationFailed", &["no available IPs"])
        .unwrap();
    stage
        .apply_pool(EAST, "pool", &["192.0.2.8/32", "192.0.2.16/31"])
        .unwrap();
    stage
        .wait_addresses(EAST, "second", &["192.0.2.16"])
        .unwrap();
    wait_metric(&stage, "metallb_k8s_client_config_loaded_bool 1");
    wait_metric(&stage, "metallb_k8s_client_config_stale_bool 0");
    a_bad_pool_changes_nothing(&stage);
    a_renamed_pool_moves_nothing(&stage);
    // The pool goes: nothing may be shown that is not held.
    stage
        .kubectl(
            EAST,
            &["delete", "ipaddresspool", "renamed", "-n", "metallb-system"],
        )
        .unwrap();
    stage.wait_addresses(EAST, "early", &[]).unwrap();
    stage
        .wait_event(
            EAST,
            "early",
            "ClearAssignment",
            &["current IP for \"default/early\" not allowed by config"],
        )
        .unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.32/31"]).unwrap();
    stage.wait_any_address(EAST, "early").unwrap();
    stage.wait_any_address(EAST, "second").unwrap();
}

fn a_bad_pool_changes_nothing(stage: &Stage) {
    stage.apply_pool(EAST, "bad", &["192.0.2.0/24"]).unwrap();
    wait_metric(stage, "metallb_k8s_client_config_stale_bool 1");
    stage.apply_pool(EAST, "bad", &["not an address"]).unwrap();
    stage
        .apply_service(EAST, "third", &none(), &none())
        .unwrap();
    stage
        .wait_addresses(EAST, "third", &["192.0.2.17"])
        .unwrap();
    assert_eq!(
        addresses(&stage.service(EAST, "early").unwrap()),
        ["192.0.2.8"]
    );
    stage
        .kubectl(
            EAST,
            &["delete", "ipaddresspool", "bad", "-n", "metallb-system"],
        )
        .unwrap();
    wait_metric(stage, "metallb_k8s_client_config_stale_bool 0");
    stage
        .kubectl(EAST, &["delete", "service", "third"])
        .unwrap();
}

/// The old name goes and the new one comes in one look of the adapter, which is what GitOps does;
/// here the adapter sleeps meanwhile.
fn a_renamed_pool_moves_nothing(stage: &Stage) {
    let overlapping = ["192.0.2.8/32", "192.0.2.16/31"];
    stage.apply_pool(EAST, "renamed", &overlapping).unwrap();
    wait_metric(stage, "metallb_k8s_client_config_stale_bool 1");
    stage
        .kubectl(
            EAST,
            &["delete", "ipaddresspool", "pool", "-n", "metallb-system"],
        )
        .unwrap();
    wait_metric(stage, "metallb_k8s_client_config_stale_bool 0");
    for (name, address) in [("early", "192.0.2.8"), ("second", "192.0.2.16")] {
        wait::until_ok("the annotation names the new pool", DEADLINE, || {
            let service = stage.service(EAST, name)?;
            let pool = annotation(&service, "metallb.io/ip-allocated-from-pool");
            anyhow::ensure!(pool == Some("renamed"), "{pool:?}");
            anyhow::ensure!(addresses(&service) == [address]);
            Ok(())
        })
        .unwrap();
        let events = stage.events(EAST, name).unwrap();
        assert!(
            !events
                .iter()
                .any(|(_, reason, _, _)| reason == "ClearAssignment"),
            "{events:?}"
        );
    }
}

#[test]
fn labels_decide_who_may_use_a_pool() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": "team", "namespace": "metallb-system" },
        "spec": {
            "addresses": ["192.0.2.0/30"],
            "serviceAllocation": { "namespaceSelectors": [{ "matchLabels": { "team": "a" } }] },
        },
    });
    stage.apply(EAST, &pool.to_string()).unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage
        .wait_event(EAST, "web", "AllocationFailed", &["no available IPs"])
        .unwrap();
    stage
        .kubectl(EAST, &["label", "namespace", "default", "team=a"])
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    // Pools of other namespaces are none of the adapter's business.
    let mut elsewhere = pool;
    elsewhere["metadata"]["namespace"] = json!("default");
    elsewhere["spec"] = json!({ "addresses": ["198.51.100.0/30"] });
    stage.apply(EAST, &elsewhere.to_string()).unwrap();
    let other = json!({ "metallb.io/loadBalancerIPs": "198.51.100.1" });
    stage.apply_service(EAST, "other", &other, &none()).unwrap();
    stage
        .wait_event(EAST, "other", "AllocationFailed", &["198.51.100.1"])
        .unwrap();
}

#[test]
fn a_class_is_served_alone() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    let flags = ["--lb-class", "example.com/pharos"];
    stage.start_adapter(EAST, &flags).unwrap();
    stage
        .apply_service(EAST, "classless", &none(), &none())
        .unwrap();
    let class = json!({ "loadBalancerClass": "example.com/pharos" });
    stage.apply_service(EAST, "ours", &none(), &class).unwrap();
    stage.wait_addresses(EAST, "ours", &["192.0.2.0"]).unwrap();
    stage.wait_owners(EAST, &["default/ours"]).unwrap();
    assert!(addresses(&stage.service(EAST, "classless").unwrap()).is_empty());
    // It loses its class with its type, and gives its address back all the same.
    let patch = [
        "patch",
        "service",
        "ours",
        "--type=merge",
        "-p",
        r#"{"spec":{"type":"ClusterIP"}}"#,
    ];
    stage.kubectl(EAST, &patch).unwrap();
    stage.wait_owners(EAST, &[]).unwrap();
    stage.wait_addresses(EAST, "ours", &[]).unwrap();
}

fn pool(name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": name, "namespace": "metallb-system" },
        "spec": { "addresses": addresses },
    })
}

#[test]
fn a_change_of_several_pools_is_not_taken_in_halves() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let (low, high) = ("192.0.2.0/30", "198.51.100.0/30");
    stage
        .apply(EAST, &pool("a", &[low, high]).to_string())
        .unwrap();
    let pinned = json!({ "metallb.io/loadBalancerIPs": "198.51.100.2" });
    stage.apply_service(EAST, "web", &pinned, &none()).unwrap();
    stage
        .wait_addresses(EAST, "web", &["198.51.100.2"])
        .unwrap();
    // It keeps the address without asking for it.
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    let both = json!({
        "apiVersion": "v1", "kind": "List", "items": [pool("a", &[low]), pool("b", &[high])],
    });
    stage.apply(EAST, &both.to_string()).unwrap();
    wait::until_ok("the annotation names the new pool", DEADLINE, || {
        let service = stage.service(EAST, "web")?;
        let pool = annotation(&service, "metallb.io/ip-allocated-from-pool");
        anyhow::ensure!(pool == Some("b"), "{pool:?}");
        Ok(())
    })
    .unwrap();
    let service = stage.service(EAST, "web").unwrap();
    assert_eq!(addresses(&service), ["198.51.100.2"]);
    let events = stage.events(EAST, "web").unwrap();
    let cleared = events
        .iter()
        .filter(|(_, reason, _, _)| reason == "ClearAssignment");
    assert_eq!(cleared.count(), 0, "{events:?}");
    wait_metric(&stage, "metallb_k8s_client_config_stale_bool 0");
}

#[test]
fn pools_are_served_whatever_their_priority() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    for (name, address, priority) in [
        ("least", "192.0.2.1", -1),
        ("last", "192.0.2.2", 3_000_000_000_i64),
    ] {
        let mut pool = pool(name, &[&format!("{address}/32")]);
        pool["spec"]["serviceAllocation"] = json!({ "priority": priority });
        stage.apply(EAST, &pool.to_string()).unwrap();
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
        stage.wait_addresses(EAST, name, &[address]).unwrap();
    }
    wait_metric(&stage, "metallb_k8s_client_config_stale_bool 0");
}

#[test]
fn definitions_that_are_applied_again_take_no_address() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    // A chart that carries them is taken out, and another one put in.
    stage.stop_adapter(EAST).unwrap();
    stage
        .kubectl(EAST, &["delete", "crd", "ipaddresspools.metallb.io"])
        .unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    stage
        .apply_service(EAST, "marker", &none(), &none())
        .unwrap();
    stage
        .wait_addresses(EAST, "marker", &["192.0.2.1"])
        .unwrap();
    let service = stage.service(EAST, "web").unwrap();
    assert_eq!(addresses(&service), ["192.0.2.0"]);
    // Once there is a pool again, what is declared counts.
    stage.apply_pool(EAST, "other", &["192.0.2.1/32"]).unwrap();
    stage.wait_addresses(EAST, "web", &[]).unwrap();
    let marker = stage.service(EAST, "marker").unwrap();
    assert_eq!(addresses(&marker), ["192.0.2.1"]);
}

#[test]
fn definitions_that_go_while_the_adapter_runs_take_no_address() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let mut held = pool("held", &["198.51.100.0/30"]);
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    stage.apply(EAST, &held.to_string()).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    let pinned = json!({ "metallb.io/loadBalancerIPs": "192.0.2.2" });
    stage.apply_service(EAST, "web", &pinned, &none()).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.2"]).unwrap();
    // It goes, but not to its end: one of its objects stays.
    let delete = ["delete", "crd", "ipaddresspools.metallb.io"];
    stage
        .kubectl(EAST, &[&delete[..], &["--wait=false"]].concat())
        .unwrap();
    stage
        .wait_readiness(EAST, "the definition of this kind is being deleted")
        .unwrap();
    let release = [
        "patch",
        "ipaddresspool",
        "held",
        "-n",
        "metallb-system",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ];
    stage.kubectl(EAST, &release).unwrap();
    let gone = ["wait", "--for=delete", "--timeout=60s"];
    stage
        .kubectl(EAST, &[&gone[..], &delete[1..]].concat())
        .unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    // Once more, with none that stays.
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    wait_metric(&stage, "metallb_k8s_client_config_stale_bool 0");
    stage.kubectl(EAST, &delete).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    stage.apply_pool(EAST, "more", &["192.0.2.8/32"]).unwrap();
    let more = json!({ "metallb.io/loadBalancerIPs": "192.0.2.8" });
    stage.apply_service(EAST, "more", &more, &none()).unwrap();
    stage.wait_addresses(EAST, "more", &["192.0.2.8"]).unwrap();
    no_address_went(&stage, "web", "192.0.2.2");
    one_that_stays_away_stops_no_other_kind(&stage);
    no_address_went(&stage, "web", "192.0.2.2");
    let all = ["delete", "ipaddresspool", "--all", "-n", "metallb-system"];
    stage.kubectl(EAST, &all).unwrap();
    stage.wait_addresses(EAST, "web", &[]).unwrap();
}

fn one_that_stays_away_stops_no_other_kind(stage: &Stage) {
    let advertisement = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "all", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &advertisement.to_string()).unwrap();
    let delete = ["delete", "crd", "l2advertisements.metallb.io"];
    stage.kubectl(EAST, &delete).unwrap();
    let late = json!({ "metallb.io/loadBalancerIPs": "192.0.2.16" });
    stage.apply_pool(EAST, "late", &["192.0.2.16/32"]).unwrap();
    stage.apply_service(EAST, "late", &late, &none()).unwrap();
    stage.wait_addresses(EAST, "late", &["192.0.2.16"]).unwrap();
    stage
        .wait_readiness(
            EAST,
            "l2advertisements: the API server does not know this kind",
        )
        .unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
}

fn no_address_went(stage: &Stage, name: &str, address: &str) {
    let service = stage.service(EAST, name).unwrap();
    assert_eq!(addresses(&service), [address]);
    let events = stage.events(EAST, name).unwrap();
    let cleared = events
        .iter()
        .filter(|(_, reason, _, _)| reason == "ClearAssignment");
    assert_eq!(cleared.count(), 0, "{events:?}");
}

#[test]
fn objects_about_bgp_are_judged_and_change_nothing_for_services() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let samples = e2e::site::repository().join("e2e/manifests/metallb-samples.yaml");
    let samples = samples.display().to_string();
    let password = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": { "name": "rack-password", "namespace": "metallb-system" },
        "stringData": { "password": "of the rack" },
    });
    stage.apply(EAST, &password.to_string()).unwrap();
    stage.kubectl(EAST, &["apply", "-f", &samples]).unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.wait_any_address(EAST, "web").unwrap();
    wait_metric(&stage, "metallb_k8s_client_config_loaded_bool 1");
    wait_metric(&stage, "metallb_k8s_client_config_stale_bool 0");
    // One is wrong by itself, then one by another's side, then none.
    let peer = |address: &str| {
        json!({
            "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer",
            "metadata": { "name": "wrong", "namespace": "metallb-system" },
            "spec": { "myASN": 64500, "peerASN": 64501, "peerAddress": address },
        })
        .to_string()
    };
    for (address, stale) in [("10.9.0", 1), ("10.9.0.77", 0), ("10.9.0.1", 1)] {
        stage.apply(EAST, &peer(address)).unwrap();
        let line = format!("metallb_k8s_client_config_stale_bool {stale}");
        wait_metric(&stage, &line);
    }
    // Pools are another matter.
    stage.apply_pool(EAST, "more", &["192.0.2.200/32"]).unwrap();
    let pinned = json!({ "metallb.io/loadBalancerIPs": "192.0.2.200" });
    stage.apply_service(EAST, "more", &pinned, &none()).unwrap();
    stage
        .wait_addresses(EAST, "more", &["192.0.2.200"])
        .unwrap();
    let elsewhere = ["delete", "bgppeer", "wrong", "-n", "metallb-system"];
    stage.kubectl(EAST, &elsewhere).unwrap();
    wait_metric(&stage, "metallb_k8s_client_config_stale_bool 0");
}

fn advertisement(pools: &[&str]) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "ad", "namespace": "metallb-system" },
        "spec": { "ipAddressPools": pools },
    })
}

/// The pools that ipam-service has the advertisement for.
fn advertised(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let request = v1::GetAdvertisementRequest {
        name: "ad".to_owned(),
        cluster: EAST.to_owned(),
    };
    let got = stage.call(|channel| async move {
        let mut client = v1::advertisement_service_client::AdvertisementServiceClient::new(channel);
        client.get_advertisement(request).await
    })?;
    let advertisement = got.into_inner().advertisement;
    Ok(advertisement.map(|it| it.pools).unwrap_or_default())
}

#[test]
fn advertisements_go_after_the_pools_that_were_changed_with_them() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    let change = |range: &str, pools: &[&str]| {
        let items = [pool("a", &[range]), advertisement(pools)];
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        stage.apply(EAST, &list.to_string()).unwrap();
    };
    let wait_advertised = |pools: &[&str]| {
        wait::until_ok("the advertisement is for other pools", DEADLINE, || {
            let now = advertised(&stage)?;
            anyhow::ensure!(now == pools, "{now:?}");
            Ok(())
        })
        .unwrap();
    };
    change("192.0.2.0/30", &["a"]);
    wait_advertised(&["a"]);
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    // It takes an address from a Service, and so it waits for what may follow.
    change("198.51.100.0/30", &["a", "b"]);
    wait_advertised(&["a", "b"]);
    let moved = addresses_held(&stage);
    assert_eq!(moved, ["198.51.100.0"], "the pools came later");
}

/// What ipam-service holds for the Service `web`.
fn addresses_held(stage: &Stage) -> Vec<String> {
    let allocations = stage.allocations(EAST).unwrap();
    allocations["default/web"].addresses.clone()
}
