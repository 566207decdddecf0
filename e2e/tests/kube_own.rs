//! What MetalLB has no word for. Topology: one Kubernetes API, one adapter, one ipam-service
//! (e2e/src/adapters.rs).
//!
//! 1. A Service claims an address of a reservation by name.
//! 2. A dual-stack Service may have its addresses from two pools.
//! 3. A pool that reaches beyond its cluster's grant is told so by an event and a metric, and when it
//!    does no more.
//! 4. An ipam-service that lacks what the adapter needs is asked for nothing, facts aside, and the adapter
//!    says what it lacks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::{Stage, annotation};
use e2e::site::DEADLINE;
use pharos_proto::v1;
use pharos_proto::v1::address_space_service_client::AddressSpaceServiceClient;
use pharos_proto::v1::reservation_service_client::ReservationServiceClient;
use pharos_testbed::wait;
use serde_json::json;

const EAST: &str = "east";

fn reserve(stage: &Stage, address: &str) {
    let request = v1::ApplyReservationRequest {
        reservation: Some(v1::Reservation {
            name: "web".to_owned(),
            addresses: vec![address.to_owned()],
            kept_for: Some(v1::KeptFor {
                cluster: EAST.to_owned(),
                ..v1::KeptFor::default()
            }),
            ..v1::Reservation::default()
        }),
        ..v1::ApplyReservationRequest::default()
    };
    stage
        .call(|channel| async move {
            let mut client = ReservationServiceClient::new(channel);
            client.apply_reservation(request).await
        })
        .unwrap();
}

fn grant(stage: &Stage, range: &str) {
    let request = v1::ApplyAddressSpaceRequest {
        address_space: Some(v1::AddressSpace {
            name: "default".to_owned(),
            grants: vec![v1::address_space::Grant {
                cluster: EAST.to_owned(),
                ranges: vec![range.to_owned()],
            }],
            ..v1::AddressSpace::default()
        }),
        ..v1::ApplyAddressSpaceRequest::default()
    };
    stage
        .call(|channel| async move {
            let mut client = AddressSpaceServiceClient::new(channel);
            client.apply_address_space(request).await
        })
        .unwrap();
}

#[test]
fn a_reservation_is_claimed_by_annotation() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    let named = |name: &str| json!({ "pharos.io/reservation": name });
    stage
        .apply_service(EAST, "web", &named("web"), &json!({}))
        .unwrap();
    stage
        .wait_event(EAST, "web", "AllocationFailed", &["web"])
        .unwrap();
    reserve(&stage, "192.0.2.7");
    stage.wait_addresses(EAST, "web", &["192.0.2.7"]).unwrap();
    // It is full, and the pool is not.
    stage
        .apply_service(EAST, "other", &named("web"), &json!({}))
        .unwrap();
    stage
        .wait_event(EAST, "other", "AllocationFailed", &["no available IPs"])
        .unwrap();
}

#[test]
fn the_addresses_of_a_dual_stack_service_come_from_two_pools_where_it_says_so() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "four", &["192.0.2.0/28"]).unwrap();
    stage.apply_pool(EAST, "six", &["2001:db8::/120"]).unwrap();
    let two = json!({ "ipFamilyPolicy": "RequireDualStack" });
    stage.apply_service(EAST, "web", &json!({}), &two).unwrap();
    stage
        .wait_event(EAST, "web", "AllocationFailed", &["no available IPs"])
        .unwrap();
    let any = json!({ "pharos.io/dual-stack-pools": "AnyPools" });
    stage.apply_service(EAST, "web", &any, &two).unwrap();
    stage
        .wait_addresses(EAST, "web", &["192.0.2.0", "2001:db8::"])
        .unwrap();
    let service = stage.service(EAST, "web").unwrap();
    assert_eq!(
        annotation(&service, "metallb.io/ip-allocated-from-pool"),
        Some("four")
    );
    let wrong = json!({ "pharos.io/dual-stack-pools": "Any" });
    stage.apply_service(EAST, "web", &wrong, &two).unwrap();
    stage
        .wait_event(EAST, "web", "LoadBalancerFailed", &["AnyPools or OnePool"])
        .unwrap();
    stage
        .wait_addresses(EAST, "web", &["192.0.2.0", "2001:db8::"])
        .unwrap();
}

#[test]
fn a_pool_beyond_the_grant_of_its_cluster_is_told_so() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    let wait_event = |reason: &str, words: &str| {
        wait::until_ok(&format!("pool has an event {reason}"), DEADLINE, || {
            let events = stage.events_in(EAST, "metallb-system", "pool")?;
            let found = events
                .iter()
                .any(|(_, its, _, message)| its == reason && message.contains(words));
            anyhow::ensure!(found, "its events are {events:?}");
            Ok(())
        })
        .unwrap();
    };
    let gauge = "pharos_adapter_pool_addresses_outside_grant{pool=\"pool\"}";
    let wait_gauge = |value: &str| {
        wait::until_ok(&format!("{gauge} is {value}"), DEADLINE, || {
            let (_, text) = stage.admin(EAST, "/metrics")?;
            let line = format!("{gauge} {value}");
            anyhow::ensure!(text.lines().any(|found| found == line), "{text}");
            Ok(())
        })
        .unwrap();
    };
    wait_gauge("0.0");
    assert_eq!(
        stage.events_in(EAST, "metallb-system", "pool").unwrap(),
        [],
        "there are no grants"
    );
    grant(&stage, "192.0.2.0/30");
    wait_event("OutsideGrant", "12 of 16 addresses");
    wait_gauge("12.0");
    grant(&stage, "192.0.2.0/24");
    wait_event("WithinGrant", "all addresses");
    wait_gauge("0.0");
    let events = stage.events_in(EAST, "metallb-system", "pool").unwrap();
    assert_eq!(events.len(), 2, "each is said once: {events:?}");
}

#[test]
fn an_ipam_service_that_lacks_something_is_asked_for_nothing_else() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    stage.kill_book().unwrap();
    let old = stage.start_old_book().unwrap();
    stage.start_adapter_as(EAST, EAST, &[]).unwrap();
    let lacks = "ipam-service 0.0.1 lacks inventory";
    stage
        .wait_readiness(EAST, &format!("ipam: {lacks}"))
        .unwrap();
    stage
        .wait_event(EAST, "web", "AllocationFailed", &[lacks])
        .unwrap();
    let (info, others) = old.asked();
    assert!(info > 1, "it asks again");
    assert_eq!(others, 0);
    drop(old);
    stage.start_book().unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
}
