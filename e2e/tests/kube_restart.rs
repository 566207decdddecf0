//! Topology: one Kubernetes API, one adapter, one ipam-service (e2e/src/adapters.rs).
//!
//! 1. A restart of the adapter writes nothing that is already right, and moves no address.
//! 2. What was deleted, and what changed its type, while the adapter was down is released.
//! 3. Without ipam-service Services wait and are told; when it returns everything drains.
//! 4. A kill of the adapter in the middle of a burst loses nothing.
//! 5. A store that was lost gets back what the Services' status holds.
//! 6. An adoption that is refused never clears a status.
//! 7. Allocations that people made under the cluster's name are left alone.
//! 8. Two replicas at once write nothing twice and do no harm.
//! 9. A cluster that an operator deletes from the address book is there again by itself.
//! 10. An API server that falls silent costs nobody anything, not even across a restart.

use std::collections::BTreeMap;

use e2e::adapters::{Stage, addresses};
use e2e::site::DEADLINE;
use nix::sys::signal::Signal;
use pharos_proto::v1;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";

fn none() -> Value {
    json!({})
}

#[test]
fn a_restart_writes_nothing_and_moves_no_address() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/29"]).unwrap();
    let names: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
    for name in &names {
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
        stage.wait_any_address(EAST, name).unwrap();
    }
    let unknown = json!({ "metallb.io/address-pool": "missing" });
    stage
        .apply_service(EAST, "waiting", &unknown, &none())
        .unwrap();
    stage
        .wait_event(EAST, "waiting", "AllocationFailed", &["missing"])
        .unwrap();
    stage
        .wait_condition(EAST, "waiting", "pharos.io/Assigned", "UnknownPool")
        .unwrap();
    // A hole below, which nobody may fall into.
    stage.kubectl(EAST, &["delete", "service", "s0"]).unwrap();
    stage
        .wait_owners(
            EAST,
            &[
                "default/s1",
                "default/s2",
                "default/s3",
                "default/s4",
                "default/s5",
                "default/waiting",
            ],
        )
        .unwrap();
    let before = stage.versions(EAST).unwrap();
    let held = stage.allocations(EAST).unwrap();
    let pool = [
        "get",
        "ipaddresspool",
        "pool",
        "-n",
        "metallb-system",
        "-o",
        "json",
    ];
    let settled = |stage: &Stage| {
        let text = stage.kubectl(EAST, &pool).unwrap();
        text.contains("\"assignedIPv4\": 5").then_some(text)
    };
    let pool_before =
        wait::until("the pool's status is written", DEADLINE, || settled(&stage)).unwrap();
    for restart in 0..3 {
        if restart == 2 {
            stage.kill_adapter(EAST).unwrap();
        } else {
            stage.stop_adapter(EAST).unwrap();
        }
        stage.start_adapter(EAST, &[]).unwrap();
        // A new Service has been served: the adapter has looked at all that was there before.
        stage
            .apply_service(EAST, "marker", &none(), &none())
            .unwrap();
        stage
            .wait_addresses(EAST, "marker", &["192.0.2.0"])
            .unwrap();
        stage
            .kubectl(EAST, &["delete", "service", "marker"])
            .unwrap();
        wait::until("the marker is released", DEADLINE, || {
            (stage.allocations(EAST).unwrap() == held).then_some(())
        })
        .unwrap();
        assert_eq!(stage.versions(EAST).unwrap(), before, "restart {restart}");
    }
    let events = stage.events(EAST, "waiting").unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    let writes = stage.admin(EAST, "/metrics").unwrap().1;
    assert!(
        writes.contains("pharos_adapter_status_writes_total 1\n"),
        "{writes}"
    );
    let status = |text: &str| serde_json::from_str::<Value>(text).unwrap()["status"].clone();
    let pool_after = wait::until("the pool's status counts the marker out", DEADLINE, || {
        settled(&stage)
    });
    assert_eq!(status(&pool_after.unwrap()), status(&pool_before));
}

#[test]
fn what_went_while_the_adapter_was_down_is_released() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/27"]).unwrap();
    // More than 5 and more than 20 %: a second list has to agree, and does.
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    for name in names.iter().map(String::as_str).chain(["kept", "changed"]) {
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
        stage.wait_any_address(EAST, name).unwrap();
    }
    let by_hand = v1::AllocateRequest {
        owner: Some(v1::Owner {
            cluster: EAST.to_owned(),
            namespace: "default".to_owned(),
            name: "by-hand".to_owned(),
            uid: String::new(),
        }),
        ..v1::AllocateRequest::default()
    };
    stage
        .call(|channel| async move {
            let mut client = v1::allocation_service_client::AllocationServiceClient::new(channel);
            client.allocate(by_hand).await
        })
        .unwrap();
    let kept = addresses(&stage.service(EAST, "kept").unwrap());
    stage.stop_adapter(EAST).unwrap();
    let mut delete = vec!["delete", "service"];
    delete.extend(names.iter().map(String::as_str));
    stage.kubectl(EAST, &delete).unwrap();
    let patch = [
        "patch",
        "service",
        "changed",
        "--type=merge",
        "-p",
        r#"{"spec":{"type":"NodePort"}}"#,
    ];
    stage.kubectl(EAST, &patch).unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    stage
        .wait_owners(EAST, &["default/by-hand", "default/kept"])
        .unwrap();
    assert_eq!(addresses(&stage.service(EAST, "kept").unwrap()), kept);
    wait::until_ok("the other type's status is cleared", DEADLINE, || {
        let service = stage.service(EAST, "changed")?;
        anyhow::ensure!(addresses(&service).is_empty(), "{:?}", service.status);
        Ok(())
    })
    .unwrap();
    // The same name again is another Service.
    stage.apply_service(EAST, "s3", &none(), &none()).unwrap();
    stage.wait_any_address(EAST, "s3").unwrap();
}

#[test]
fn services_wait_for_ipam_service_and_drain_when_it_returns() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    stage
        .apply_service(EAST, "served", &none(), &none())
        .unwrap();
    stage
        .wait_addresses(EAST, "served", &["192.0.2.0"])
        .unwrap();
    stage
        .apply_service(EAST, "leaving", &none(), &none())
        .unwrap();
    stage
        .wait_addresses(EAST, "leaving", &["192.0.2.1"])
        .unwrap();
    let before = stage.service(EAST, "served").unwrap();
    stage.kill_book().unwrap();
    stage.wait_readiness(EAST, "ipam: ").unwrap();
    for name in ["a", "b", "c"] {
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
    }
    stage
        .kubectl(EAST, &["delete", "service", "leaving"])
        .unwrap();
    let told = stage
        .wait_event(EAST, "a", "AllocationFailed", &["cannot be reached"])
        .unwrap();
    eprintln!("without ipam-service: {told}");
    assert!(stage.adapter(EAST).unwrap().is_running());
    stage.start_book().unwrap();
    for name in ["a", "b", "c"] {
        stage.wait_any_address(EAST, name).unwrap();
    }
    stage.wait_readiness(EAST, "ok").unwrap();
    stage
        .wait_owners(
            EAST,
            &["default/a", "default/b", "default/c", "default/served"],
        )
        .unwrap();
    let after = stage.service(EAST, "served").unwrap();
    assert_eq!(
        after.metadata.resource_version,
        before.metadata.resource_version
    );
}

#[test]
fn kills_in_a_burst_lose_nothing_and_give_nothing_twice() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/25"]).unwrap();
    let services: Vec<String> = (0..60)
        .map(|number| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}}}, \
                 spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"
            )
        })
        .collect();
    let manifest = services.join("\n---\n");
    // The adapter is killed while kubectl is still at it, however fast both are.
    let mut kubectl = stage.apply_in_background(EAST, &manifest).unwrap();
    for begun in [5, 20, 40] {
        wait::until_ok("some Services are there", DEADLINE, || {
            let services = stage.services(EAST)?.len();
            anyhow::ensure!(services >= begun, "{services}");
            Ok(())
        })
        .unwrap();
        stage.kill_adapter(EAST).unwrap();
        stage.start_adapter(EAST, &[]).unwrap();
    }
    assert!(kubectl.wait().unwrap().success());
    let mut seen = BTreeMap::new();
    for number in 0..60 {
        let name = format!("s{number}");
        let address = stage.wait_any_address(EAST, &name).unwrap();
        if let Some(other) = seen.insert(address.clone(), name.clone()) {
            panic!("{address} is in the status of {other} and of {name}");
        }
    }
    let held = stage.allocations(EAST).unwrap();
    assert_eq!(held.len(), 60);
    for (address, name) in seen {
        assert_eq!(held[&format!("default/{name}")].addresses, [address]);
    }
}

#[test]
fn a_lost_store_gets_back_what_the_services_have_and_a_conflict_clears_nothing() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    // Not in the order in which a fresh book would give them.
    let pinned = json!({ "metallb.io/loadBalancerIPs": "192.0.2.9" });
    stage
        .apply_service(EAST, "pinned", &pinned, &none())
        .unwrap();
    stage
        .wait_addresses(EAST, "pinned", &["192.0.2.9"])
        .unwrap();
    stage
        .apply_service(EAST, "pinned", &none(), &none())
        .unwrap();
    stage
        .apply_service(EAST, "plain", &none(), &none())
        .unwrap();
    stage.wait_addresses(EAST, "plain", &["192.0.2.0"]).unwrap();
    let before = stage.versions(EAST).unwrap();
    stage.stop_adapter(EAST).unwrap();
    stage.lose_book().unwrap();
    // Somebody else was faster with one of them.
    let pool = v1::Pool {
        name: "operators".to_owned(),
        addresses: vec!["192.0.2.0/28".to_owned()],
        ..v1::Pool::default()
    };
    let thief = v1::AllocateRequest {
        owner: Some(v1::Owner {
            cluster: "west".to_owned(),
            namespace: "shop".to_owned(),
            name: "thief".to_owned(),
            uid: String::new(),
        }),
        addresses: vec!["192.0.2.0".to_owned()],
        ..v1::AllocateRequest::default()
    };
    stage
        .call(|channel| async move {
            let apply = v1::ApplyPoolRequest {
                pool: Some(pool),
                ..Default::default()
            };
            let mut pools = v1::pool_service_client::PoolServiceClient::new(channel.clone());
            pools.apply_pool(apply).await?;
            let mut client = v1::allocation_service_client::AllocationServiceClient::new(channel);
            client.allocate(thief).await
        })
        .unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    let told = stage
        .wait_event(
            EAST,
            "plain",
            "AdoptionConflict",
            &["192.0.2.0", "held by cluster west"],
        )
        .unwrap();
    eprintln!("conflict: {told}");
    stage.wait_owners(EAST, &["default/pinned"]).unwrap();
    assert_eq!(
        stage.allocations(EAST).unwrap()["default/pinned"].addresses,
        ["192.0.2.9"]
    );
    // No status was cleared; what is wrong is said, and not again by a second start.
    let addresses = |versions: BTreeMap<String, (String, Vec<String>)>| {
        let all = versions.into_iter().map(|(name, (_, held))| (name, held));
        all.collect::<Vec<_>>()
    };
    assert_eq!(addresses(stage.versions(EAST).unwrap()), addresses(before));
    let assigned = "pharos.io/Assigned";
    stage
        .wait_condition(EAST, "plain", assigned, "AdoptionConflict")
        .unwrap();
    stage
        .wait_condition(EAST, "plain", "pharos.io/Announced", "NotHeld")
        .unwrap();
    let before = stage.versions(EAST).unwrap();
    stage.stop_adapter(EAST).unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    assert_eq!(stage.versions(EAST).unwrap(), before);
    // A decision: the status is cleared by hand.
    let clear = r#"{"status":{"loadBalancer":{"ingress":null}}}"#;
    let patch = [
        "patch",
        "service",
        "plain",
        "--subresource=status",
        "--type=merge",
        "-p",
        clear,
    ];
    stage.kubectl(EAST, &patch).unwrap();
    stage.wait_addresses(EAST, "plain", &["192.0.2.1"]).unwrap();
}

#[test]
fn a_cluster_that_was_deleted_by_hand_comes_back() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    let delete = v1::DeleteClusterRequest {
        name: EAST.to_owned(),
        ..v1::DeleteClusterRequest::default()
    };
    stage
        .call(|channel| async move {
            let mut client = v1::cluster_service_client::ClusterServiceClient::new(channel);
            client.delete_cluster(delete).await
        })
        .unwrap();
    wait::until_ok("the Service holds its address again", DEADLINE, || {
        let held = stage.allocations(EAST)?;
        let web = held.get("default/web");
        let addresses = web.map(|web| web.addresses.clone()).unwrap_or_default();
        anyhow::ensure!(addresses == ["192.0.2.0"], "{addresses:?}");
        Ok(())
    })
    .unwrap();
    let web = stage.service(EAST, "web").unwrap();
    assert_eq!(addresses(&web), ["192.0.2.0"]);
    let events = stage.events(EAST, "web").unwrap();
    let cleared = events
        .iter()
        .any(|(_, reason, _, _)| reason == "ClearAssignment");
    assert!(!cleared, "{events:?}");
    // What was said of it meanwhile is taken back.
    stage
        .wait_condition(EAST, "web", "pharos.io/Assigned", "Assigned")
        .unwrap();
}

#[test]
fn two_replicas_at_once_do_no_harm() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/27"]).unwrap();
    stage.start_replica(EAST, "replica").unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    for name in &names {
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
    }
    let mut given = std::collections::BTreeSet::new();
    for name in &names {
        assert!(given.insert(stage.wait_any_address(EAST, name).unwrap()));
    }
    let before = stage.versions(EAST).unwrap();
    // Whichever made the claim: a label changes it, and both make the same claim again.
    for name in &names[..10] {
        stage
            .kubectl(EAST, &["label", "service", name, "tier=front"])
            .unwrap();
    }
    stage.kubectl(EAST, &["delete", "service", "s19"]).unwrap();
    wait::until_ok("both replicas have said that s19 is gone", DEADLINE, || {
        anyhow::ensure!(!stage.allocations(EAST)?.contains_key("default/s19"));
        Ok(())
    })
    .unwrap();
    // Both report their inventory at once, and neither is in the other's way.
    for _ in 0..3 {
        stage.kill_book().unwrap();
        for adapter in [EAST, "replica"] {
            stage.wait_readiness(adapter, "ipam: ").unwrap();
        }
        stage.start_book().unwrap();
        for adapter in [EAST, "replica"] {
            stage.wait_readiness(adapter, "ok").unwrap();
        }
    }
    for adapter in [EAST, "replica"] {
        let log = stage.adapter(adapter).unwrap().log();
        assert!(!log.contains("BeginSync"), "{log}");
    }
    stage.stop_adapter("replica").unwrap();
    stage.apply_service(EAST, "last", &none(), &none()).unwrap();
    stage.wait_any_address(EAST, "last").unwrap();
    let after = stage.versions(EAST).unwrap();
    for name in &names[..19] {
        assert_eq!(after[name].1, before[name].1, "{name} moved");
    }
    for name in &names[10..19] {
        assert_eq!(
            after[name].0, before[name].0,
            "{name} was written without need"
        );
    }
}

#[test]
fn a_silent_api_server_frees_nothing() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    for name in ["a", "b"] {
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
        stage.wait_any_address(EAST, name).unwrap();
    }
    let held = stage.allocations(EAST).unwrap();
    let before = stage.versions(EAST).unwrap();
    stage
        .apiserver(EAST)
        .unwrap()
        .signal(Signal::SIGSTOP)
        .unwrap();
    stage.wait_readiness(EAST, "kubernetes: ").unwrap();
    assert_eq!(stage.allocations(EAST).unwrap(), held);
    // One that starts now knows nothing, and does nothing.
    stage.stop_adapter(EAST).unwrap();
    stage.start_adapter_as(EAST, EAST, &[]).unwrap();
    stage
        .wait_readiness(EAST, "services: not listed yet")
        .unwrap();
    stage.wait_readiness(EAST, "kubernetes: ").unwrap();
    assert_eq!(stage.allocations(EAST).unwrap(), held);
    stage
        .apiserver(EAST)
        .unwrap()
        .signal(Signal::SIGCONT)
        .unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    assert_eq!(stage.versions(EAST).unwrap(), before);
    assert_eq!(stage.allocations(EAST).unwrap(), held);
    stage.apply_service(EAST, "c", &none(), &none()).unwrap();
    stage.wait_any_address(EAST, "c").unwrap();
}
