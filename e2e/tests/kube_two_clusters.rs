//! Topology: two Kubernetes APIs, an adapter each, one ipam-service (e2e/src/adapters.rs).
//!
//! 1. Both apply the same pool; no address is given twice.
//! 2. A Service that asks for what the other cluster holds is told who holds it.
//! 3. What one releases the other gets, without a hand.
//! 4. Each cluster's pool shows what the other one takes and gives back.
//! 5. A second installation under a known name is refused, and says so.
//! 6. After a lost store a cluster whose pools are wrong has not reported what it holds, and nobody is given
//!    any of it.

use e2e::adapters::{Stage, addresses};
use serde_json::json;

/// East and west with their adapters, and the same pool in both; `None` where that cannot run.
fn two_clusters() -> anyhow::Result<Option<Stage>> {
    let Some(mut stage) = Stage::start()? else {
        return Ok(None);
    };
    for cluster in ["east", "west"] {
        stage.add_cluster(cluster)?;
        stage.apply_crds(cluster)?;
        stage.start_adapter(cluster, &[])?;
        stage.apply_pool(cluster, "default-pool", &["192.0.2.0/30"])?;
    }
    Ok(Some(stage))
}

#[test]
fn two_clusters_draw_from_one_range() {
    let Some(mut stage) = two_clusters().unwrap() else {
        return;
    };
    let mut all = Vec::new();
    for (cluster, name) in [("east", "a"), ("west", "a"), ("east", "b"), ("west", "b")] {
        stage
            .apply_service(cluster, name, &json!({}), &json!({}))
            .unwrap();
        all.push(stage.wait_any_address(cluster, name).unwrap());
    }
    all.sort();
    assert_eq!(all, ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);

    let wanted = addresses(&stage.service("east", "b").unwrap()).remove(0);
    let pinned = json!({ "metallb.io/loadBalancerIPs": wanted });
    stage
        .apply_service("west", "late", &pinned, &json!({}))
        .unwrap();
    let words = ["held by cluster east", wanted.as_str()];
    let told = stage
        .wait_event("west", "late", "AllocationFailed", &words)
        .unwrap();
    eprintln!("west is told: {told}");
    assert!(
        !told.contains("default/b"),
        "another cluster's Service is named: {told}"
    );
    stage.kubectl("east", &["delete", "service", "b"]).unwrap();
    stage.wait_addresses("west", "late", &[&wanted]).unwrap();
    stage.wait_usage("east", "default-pool", "1 0").unwrap();
    stage.kubectl("west", &["delete", "service", "a"]).unwrap();
    stage.wait_usage("east", "default-pool", "1 1").unwrap();

    stage.stop_adapter("west").unwrap();
    stage.start_adapter_as("west", "east", &[]).unwrap();
    stage
        .wait_readiness("west", "two installations use one name")
        .unwrap();
    assert_eq!(addresses(&stage.service("west", "late").unwrap()), [wanted]);
    assert_eq!(stage.allocations("west").unwrap().len(), 2);
    assert_eq!(stage.allocations("east").unwrap().len(), 1);
}

#[test]
fn a_bad_pool_does_not_end_an_inventory() {
    let Some(mut stage) = two_clusters().unwrap() else {
        return;
    };
    stage
        .apply_service("east", "web", &json!({}), &json!({}))
        .unwrap();
    stage.wait_addresses("east", "web", &["192.0.2.0"]).unwrap();
    stage.apply_pool("east", "bad", &["nonsense"]).unwrap();
    stage.lose_book_of(&["east", "west"]).unwrap();
    stage
        .apply_service("west", "web", &json!({}), &json!({}))
        .unwrap();
    stage
        .wait_readiness("east", "what Services hold is not reported")
        .unwrap();
    stage
        .wait_event("west", "web", "AllocationFailed", &["east"])
        .unwrap();
    // So do new Services where the inventory stands still.
    stage
        .apply_service("east", "new", &json!({}), &json!({}))
        .unwrap();
    stage
        .wait_event("east", "new", "AllocationFailed", &["pools are wrong"])
        .unwrap();
    assert_eq!(stage.allocations("east").unwrap().len(), 0);
    assert!(addresses(&stage.service("west", "web").unwrap()).is_empty());
    stage
        .kubectl(
            "east",
            &["delete", "ipaddresspool", "bad", "-n", "metallb-system"],
        )
        .unwrap();
    stage.wait_readiness("east", "ok").unwrap();
    stage.wait_addresses("west", "web", &["192.0.2.1"]).unwrap();
    stage.wait_addresses("east", "web", &["192.0.2.0"]).unwrap();
}
