//! What MetalLB has no word for. Topology: one Kubernetes API, one adapter, one ipam-service
//! (e2e/src/adapters.rs).
//!
//! 1. A Service claims an address of a reservation by name.
//! 2. A dual-stack Service may have its addresses from two pools.
//! 3. A pool that reaches beyond its cluster's grant is told so by an event and a metric, and when it
//!    does no more.
//! 4. Annotations on pools and advertisements: an address space of their own, protection, a rest between two
//!    owners, and one owner that is named.
//! 5. An ipam-service that lacks what the adapter needs is asked for nothing, facts aside, and the adapter
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

fn annotated(kind: &str, annotations: &serde_json::Value, spec: &serde_json::Value) -> String {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": kind,
        "metadata": { "name": "lab", "namespace": "metallb-system", "annotations": annotations },
        "spec": spec,
    })
    .to_string()
}

fn apply_lab_pool(stage: &Stage, protect: &str, range: &str) {
    let annotations = json!({
        "pharos.io/address-space": "lab", "pharos.io/protect": protect,
        "pharos.io/reuse-delay": "15m",
    });
    let spec = json!({ "addresses": [range] });
    let pool = annotated("IPAddressPool", &annotations, &spec);
    stage.apply(EAST, &pool).unwrap();
}

#[track_caller]
fn wait_stale(stage: &Stage, stale: u8) {
    wait::until_ok("the configuration is in force, or is not", DEADLINE, || {
        let (_, metrics) = stage.admin(EAST, "/metrics")?;
        let line = format!("metallb_k8s_client_config_stale_bool {stale}\n");
        anyhow::ensure!(metrics.contains(&line), "{metrics}");
        Ok(())
    })
    .unwrap();
}

fn lab_pool(stage: &Stage) -> anyhow::Result<v1::Pool> {
    let request = v1::ListPoolsRequest {
        cluster: EAST.to_owned(),
        address_space: "lab".to_owned(),
        ..v1::ListPoolsRequest::default()
    };
    let response = stage.call(|channel| async move {
        let mut client = v1::pool_service_client::PoolServiceClient::new(channel);
        client.list_pools(request).await
    })?;
    let pool = response.into_inner().pools.into_iter().next();
    pool.ok_or_else(|| anyhow::anyhow!("there is none"))
}

#[test]
fn annotations_on_metallbs_resources_say_what_it_has_no_word_for() {
    let Some(stage) = Stage::with_cluster(EAST).unwrap() else {
        return;
    };
    stage.apply_pool(EAST, "pool", &["192.0.2.0/28"]).unwrap();
    // The same range, in a space of its own.
    apply_lab_pool(&stage, "true", "192.0.2.0/28");
    let fenced = json!({ "pharos.io/ownership": "Fenced", "pharos.io/address-space": "lab" });
    let advertisement = annotated("L2Advertisement", &fenced, &json!({}));
    stage.apply(EAST, &advertisement).unwrap();
    let in_lab = json!({ "pharos.io/address-space": "lab" });
    stage
        .apply_service(EAST, "web", &in_lab, &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    stage
        .apply_service(EAST, "other", &json!({}), &json!({}))
        .unwrap();
    stage.wait_addresses(EAST, "other", &["192.0.2.0"]).unwrap();
    let claim = stage.allocations(EAST).unwrap()["default/web"]
        .claim
        .clone();
    assert_eq!(claim.unwrap().address_space, "lab");
    let pool = lab_pool(&stage).unwrap();
    assert!(pool.protected);
    assert_eq!(pool.reuse_delay.map(|it| it.seconds), Some(900));
    let advertisement = wait::until_ok("the advertisement is known", DEADLINE, || {
        let request = v1::GetAdvertisementRequest {
            name: "lab".to_owned(),
            cluster: EAST.to_owned(),
        };
        let got = stage.call(|channel| async move {
            let mut client =
                v1::advertisement_service_client::AdvertisementServiceClient::new(channel);
            client.get_advertisement(request).await
        })?;
        let advertisement = got.into_inner().advertisement;
        advertisement.ok_or_else(|| anyhow::anyhow!("there is none"))
    })
    .unwrap();
    let Some(v1::advertisement::Protocol::L2(l2)) = advertisement.protocol else {
        panic!("no layer 2");
    };
    assert_eq!(l2.ownership(), v1::advertisement::l2::Ownership::Fenced);
    assert_eq!(advertisement.address_space, "lab");
    // Its status counts what is in its space.
    stage.wait_usage(EAST, "lab", "1 15").unwrap();
    // An edit that would take the address is refused as long as the pool is protected.
    apply_lab_pool(&stage, "true", "198.51.100.0/28");
    wait_stale(&stage, 1);
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    // What counts is the pool that is in force: protection goes first, alone.
    apply_lab_pool(&stage, "false", "192.0.2.0/28");
    wait_stale(&stage, 0);
    assert!(!lab_pool(&stage).unwrap().protected);
    apply_lab_pool(&stage, "false", "198.51.100.0/28");
    stage
        .wait_addresses(EAST, "web", &["198.51.100.0"])
        .unwrap();
}
