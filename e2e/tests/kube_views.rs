//! Topology: one Kubernetes API, adapters behind relays that can hold back what they see, one
//! ipam-service (e2e/src/adapters.rs).
//!
//! 1. A replica that sees the cluster late frees nothing that another one serves.
//! 2. An API server that lost its store says nothing about what its cluster holds.
//! 3. A replica that sees a Service as it was does not ask for what it asked for then.
//! 4. A write that is never answered is given up, and done when the API server answers again.
//! 5. A replica that sees pools as they were does not put the old set back.
//! 6. A replica that sees nothing any more gives the word about endpoints to one that does, and speaks
//!    again when it sees.

use e2e::adapters::Stage;
use e2e::site::DEADLINE;
use pharos_testbed::wait;
use serde_json::json;

const EAST: &str = "east";

#[test]
fn a_replica_that_sees_the_cluster_late_frees_nothing() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    let relay = stage.start_adapter_behind_relay(EAST).unwrap();
    stage.start_replica(EAST, "seeing").unwrap();
    // From now on the first knows of new Services only what the address book says of them.
    relay.hold();
    for name in ["a", "b"] {
        stage
            .apply_service(EAST, name, &json!({}), &json!({}))
            .unwrap();
        stage.wait_any_address(EAST, name).unwrap();
    }
    let held = stage.allocations(EAST).unwrap();
    wait::until(
        "the late one has noticed that it sees nothing",
        DEADLINE,
        || {
            let log = stage.adapter(EAST).unwrap().log();
            assert_eq!(stage.allocations(EAST).unwrap(), held, "{log}");
            log.contains("nothing is released").then_some(())
        },
    )
    .unwrap();
    relay.release();
    stage.wait_readiness(EAST, "ok").unwrap();
    assert_eq!(stage.allocations(EAST).unwrap(), held);
}

#[test]
fn another_cluster_at_the_same_address_frees_nothing() {
    let Some(mut stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    for name in ["a", "b"] {
        stage
            .apply_service(EAST, name, &json!({}), &json!({}))
            .unwrap();
        stage.wait_any_address(EAST, name).unwrap();
    }
    let held = stage.allocations(EAST).unwrap();
    stage.lose_cluster(EAST).unwrap();
    wait::until("the adapter ends", DEADLINE, || {
        let adapter = stage.adapter(EAST).unwrap();
        (!adapter.is_running()).then_some(())
    })
    .unwrap();
    let log = stage.adapter(EAST).unwrap().log();
    assert!(log.contains("another cluster answers"), "{log}");
    assert_eq!(stage.allocations(EAST).unwrap(), held);
    // One that starts now is not taken for the cluster that was there.
    stage.apply_crds(EAST).unwrap();
    stage.start_adapter_as(EAST, EAST, &[]).unwrap();
    stage.wait_readiness(EAST, "ipam: cluster east").unwrap();
    assert_eq!(stage.allocations(EAST).unwrap(), held);
}

#[test]
fn a_write_that_is_never_answered_is_given_up_and_done_later() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/31"]).unwrap();
    let relay = stage.start_adapter_behind_relay(EAST).unwrap();
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    // With this the Service is done with, and the next write is the one that is held up.
    stage.wait_event(EAST, "web", "IPAllocated", &[]).unwrap();
    relay.hold();
    // The address book moves the Service, which the adapter has to write down.
    stage.force_pool(EAST, "pool", &["192.0.2.1/32"]).unwrap();
    wait::until("the write is given up", DEADLINE, || {
        let (_, metrics) = stage.admin(EAST, "/metrics").unwrap();
        (!metrics.contains("metallb_k8s_client_update_errors_total 0")).then_some(())
    })
    .unwrap();
    relay.release();
    stage.wait_addresses(EAST, "web", &["192.0.2.1"]).unwrap();
}

#[test]
fn a_replica_that_sees_a_service_as_it_was_puts_no_old_claim_back() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    for (name, range) in [("a", "192.0.2.0/30"), ("b", "198.51.100.0/30")] {
        stage.apply_pool(EAST, name, &[range]).unwrap();
    }
    let relay = stage.start_adapter_behind_relay(EAST).unwrap();
    stage.start_replica(EAST, "seeing").unwrap();
    let from = |pool: &str| json!({ "metallb.io/address-pool": pool });
    stage
        .apply_service(EAST, "web", &from("a"), &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    relay.hold();
    stage
        .apply_service(EAST, "web", &from("b"), &json!({}))
        .unwrap();
    stage
        .wait_addresses(EAST, "web", &["198.51.100.0"])
        .unwrap();
    let moved = stage.allocations(EAST).unwrap();
    wait::until("the late one has tried to look again", DEADLINE, || {
        let log = stage.adapter(EAST).unwrap().log();
        assert_eq!(stage.allocations(EAST).unwrap(), moved, "{log}");
        log.contains("no answer within").then_some(())
    })
    .unwrap();
    relay.release();
    stage.wait_readiness(EAST, "ok").unwrap();
    assert_eq!(stage.allocations(EAST).unwrap(), moved);
}

#[test]
fn a_replica_that_sees_pools_as_they_were_puts_no_old_set_back() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "a", &["192.0.2.0/30"]).unwrap();
    let relay = stage.start_adapter_behind_relay(EAST).unwrap();
    stage.start_replica(EAST, "seeing").unwrap();
    relay.hold();
    stage.apply_pool(EAST, "b", &["198.51.100.0/30"]).unwrap();
    let from = json!({ "metallb.io/address-pool": "b" });
    stage.apply_service(EAST, "web", &from, &json!({})).unwrap();
    stage
        .wait_addresses(EAST, "web", &["198.51.100.0"])
        .unwrap();
    let held = stage.allocations(EAST).unwrap();
    // Each replica hands its set over every 30 s, and when it reaches ipam-service anew.
    stage.kill_book().unwrap();
    stage.start_book().unwrap();
    wait::until("the late one has kept its set to itself", DEADLINE, || {
        let log = stage.adapter(EAST).unwrap().log();
        assert_eq!(stage.allocations(EAST).unwrap(), held, "{log}");
        log.contains("nothing is handed over").then_some(())
    })
    .unwrap();
    relay.release();
    stage.wait_readiness(EAST, "ok").unwrap();
    assert_eq!(stage.allocations(EAST).unwrap(), held);
}

#[test]
fn a_replica_that_sees_nothing_gives_the_word_to_one_that_does() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    let _announcer = stage.pretend_announcer(EAST, "n1").unwrap();
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    stage.apply(EAST, &node.to_string()).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    let everywhere = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "default", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &everywhere.to_string()).unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    stage.rename_adapter(EAST, "seeing").unwrap();
    // What the newest stream says counts.
    let relay = stage.start_adapter_behind_relay(EAST).unwrap();
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    stage.set_endpoint(EAST, true).unwrap();
    stage.wait_nodes(EAST, "192.0.2.0", &["n1"]).unwrap();
    relay.hold();
    stage.set_endpoint(EAST, false).unwrap();
    stage.wait_nodes(EAST, "192.0.2.0", &[]).unwrap();
    stage.set_endpoint(EAST, true).unwrap();
    stage.wait_nodes(EAST, "192.0.2.0", &["n1"]).unwrap();
    stage.set_endpoint(EAST, false).unwrap();
    relay.release();
    stage.wait_readiness(EAST, "ok").unwrap();
    stage.wait_nodes(EAST, "192.0.2.0", &[]).unwrap();
    // It is the newest again, and says what is true now.
    stage.stop_adapter("seeing").unwrap();
    stage.set_endpoint(EAST, true).unwrap();
    stage.wait_nodes(EAST, "192.0.2.0", &["n1"]).unwrap();
}
