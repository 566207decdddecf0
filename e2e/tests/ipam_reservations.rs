//! Topology: one ipam-service; grpcurl, and gRPC clients of clusters `east` and `west`.
//!
//! 1. The walk of the how-to works to the letter.
//! 2. Errors have the code, the reason and the field that the proto promises.
//! 3. What is reserved, and who waits for it, survives `kill -9`; `check` finds nothing to object to.
//! 4. Lists come in pages and can be filtered.
//! 5. An edit that is only validated says what it would do, and does nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::how_to::calls_of;
use e2e::ipam::{Ipam, claim, grpcurl, reason, release};
use pharos_proto::v1;
use pharos_proto::v1::allocate_request::IfRefused;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

fn reservation(name: &str, addresses: &[&str], cluster: &str) -> v1::Reservation {
    v1::Reservation {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        kept_for: (!cluster.is_empty()).then(|| v1::KeptFor {
            cluster: cluster.to_owned(),
            ..v1::KeptFor::default()
        }),
        ..v1::Reservation::default()
    }
}

async fn apply(ipam: &Ipam, wanted: v1::Reservation) -> Result<v1::Reservation, tonic::Status> {
    let request = v1::ApplyReservationRequest {
        reservation: Some(wanted),
        ..v1::ApplyReservationRequest::default()
    };
    let answer = ipam
        .reservations()
        .unwrap()
        .apply_reservation(request)
        .await;
    Ok(answer?.into_inner().reservation.expect("an answer"))
}

async fn delete(ipam: &Ipam, name: &str) -> Result<(), tonic::Status> {
    let request = v1::DeleteReservationRequest {
        name: name.to_owned(),
        ..v1::DeleteReservationRequest::default()
    };
    let deleted = ipam
        .reservations()
        .unwrap()
        .delete_reservation(request)
        .await;
    deleted.map(drop)
}

/// A claim for one address; a refusal is queued.
fn queued(owner: &str, address: &str) -> v1::AllocateRequest {
    v1::AllocateRequest {
        addresses: vec![address.to_owned()],
        if_refused: IfRefused::Queue.into(),
        ..claim(owner)
    }
}

#[test]
fn the_walk_of_the_how_to_works_to_the_letter() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let how_to = include_str!("../../docs/how-to/reservations.md");
    let mut answers: Vec<Result<Value, String>> = Vec::new();
    for call in calls_of(how_to) {
        let (data, method) = call;
        let answer = ipam.grpcurl(data.as_deref(), &method);
        answers.push(answer.map_err(|error| error.to_string()));
    }
    let mut answers = answers.into_iter();
    let mut next = || answers.next().expect("as many answers as calls");

    // The order is that of the page.
    let kept = next().unwrap();
    assert_eq!(kept["reservation"]["keptFor"]["cluster"], "east");
    let nobody = next().unwrap();
    assert_eq!(
        nobody["reservation"]["addresses"],
        json!(["192.0.2.1", "192.0.2.250/31"])
    );
    let pool = next().unwrap();
    let usage = &pool["pool"]["usage"]["ipv4"];
    assert_eq!(
        (&usage["reserved"], &usage["free"]),
        (&json!("13"), &json!("243"))
    );
    let web = next().unwrap();
    assert_eq!(web["allocation"]["addresses"], json!(["192.0.2.10"]));
    let other = next().unwrap();
    assert_eq!(other["allocation"]["addresses"], json!(["192.0.2.0"]));
    let refused = next().unwrap_err();
    assert!(refused.contains("FailedPrecondition"), "{refused}");
    assert!(
        refused.contains("is reserved for cluster east"),
        "{refused}"
    );
    assert!(refused.contains("ADDRESS_RESERVED"), "{refused}");
    let named = next().unwrap();
    assert_eq!(named["allocation"]["addresses"], json!(["192.0.2.11"]));
    assert_eq!(named["allocation"]["claim"]["reservation"], "web");
    let released = next().unwrap();
    assert_eq!(released["released"]["addresses"], json!(["192.0.2.10"]));
    let again = next().unwrap();
    assert_eq!(again["allocation"]["addresses"], json!(["192.0.2.10"]));
    let waiting = next().unwrap();
    assert_eq!(waiting["allocation"]["state"], "PENDING");
    assert_eq!(
        waiting["allocation"]["refusal"]["reason"],
        "ADDRESS_RESERVED"
    );
    next().unwrap();
    let granted = next().unwrap();
    assert_eq!(granted["allocation"]["addresses"], json!(["192.0.2.1"]));
    let listed = next().unwrap();
    assert_eq!(listed["reservations"].as_array().map(Vec::len), Some(1));
    let history = next().unwrap();
    let kinds: Vec<&Value> = history["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .filter(|change| change["reservation"].is_object())
        .map(|change| &change["type"])
        .collect();
    assert_eq!(kinds, ["DELETED", "CREATED", "CREATED"]);
    assert!(answers.next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_field_the_reservation_and_the_reason() {
    let ipam = Ipam::start().unwrap();
    apply(&ipam, reservation("a", &["192.0.2.0/29"], "east"))
        .await
        .unwrap();
    let overlapping = apply(&ipam, reservation("b", &["192.0.2.200", "192.0.2.7"], "")).await;
    let overlapping = overlapping.unwrap_err();
    assert_eq!(overlapping.code(), Code::InvalidArgument);
    let details = overlapping.get_error_details();
    let violations = &details.bad_request().expect("BadRequest").field_violations;
    assert_eq!(violations[0].field, "reservation.addresses[1]");
    assert!(
        violations[0].description.contains("reservation \"a\""),
        "{violations:?}"
    );

    let bad = apply(&ipam, reservation("", &["192.0.2.300"], ""))
        .await
        .unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let gone = delete(&ipam, "missing").await.unwrap_err();
    assert_eq!(
        (gone.code(), reason(&gone)),
        (Code::NotFound, "UNKNOWN_RESERVATION".into())
    );
    let get = v1::GetReservationRequest {
        name: "missing".to_owned(),
        ..v1::GetReservationRequest::default()
    };
    let gone = ipam.reservations().unwrap().get_reservation(get).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);

    ipam.apply_pool("pool", &["192.0.2.0/24"]).await.unwrap();
    let naming = |owner: &str, reservation: &str| v1::AllocateRequest {
        reservation: reservation.to_owned(),
        ..claim(owner)
    };
    let unknown = ipam
        .allocate(naming("east/x/a", "missing"))
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code(), reason(&unknown)),
        (Code::NotFound, "UNKNOWN_RESERVATION".into())
    );
    let foreign = ipam.allocate(naming("west/x/a", "a")).await.unwrap_err();
    let expected = (Code::FailedPrecondition, "ADDRESS_RESERVED".into());
    assert_eq!((foreign.code(), reason(&foreign)), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_and_who_waits_for_it_survives_kill_9() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/30"]).await.unwrap();
    apply(&ipam, reservation("all", &["192.0.2.0/30"], "east"))
        .await
        .unwrap();
    let first = ipam.allocate(claim("east/x/a")).await.unwrap();
    assert_eq!(first.addresses, ["192.0.2.0"]);
    for (owner, address) in [("west/x/one", "192.0.2.2"), ("west/x/two", "192.0.2.2")] {
        let waits = ipam.allocate(queued(owner, address)).await.unwrap();
        assert_eq!(waits.state(), v1::allocation::State::Pending);
    }
    ipam.restart().unwrap();
    let refused = ipam.allocate(claim("west/x/three")).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_FREE_ADDRESS");
    delete(&ipam, "all").await.unwrap();
    assert_eq!(
        ipam.get("west/x/one").await.unwrap().addresses,
        ["192.0.2.2"]
    );
    let two = ipam.get("west/x/two").await.unwrap();
    let refusal = two.refusal.expect("it waits");
    assert_eq!(refusal.reason(), v1::refusal::Reason::AddressTaken);
    apply(&ipam, reservation("rest", &["192.0.2.2-192.0.2.3"], ""))
        .await
        .unwrap();
    ipam.allocations()
        .unwrap()
        .release(release("west/x/one"))
        .await
        .unwrap();
    let two = ipam.get("west/x/two").await.unwrap();
    let refusal = two.refusal.expect("it waits");
    assert_eq!(refusal.reason(), v1::refusal::Reason::AddressReserved);
    assert_eq!(ipam.terminate().unwrap(), Some(0));
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_listed_in_pages_and_by_cluster() {
    let ipam = Ipam::start().unwrap();
    let mut expected = Vec::new();
    for index in 0..7 {
        let cluster = if index % 2 == 0 { "east" } else { "" };
        let name = format!("r{index}");
        let wanted = reservation(&name, &[&format!("192.0.2.{index}")], cluster);
        expected.push(apply(&ipam, wanted).await.unwrap());
    }
    for (cluster, expected) in [
        ("", expected.clone()),
        ("east", expected.iter().step_by(2).cloned().collect()),
        ("west", Vec::new()),
    ] {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListReservationsRequest {
                cluster: cluster.to_owned(),
                page_size: 2,
                page_token,
                ..v1::ListReservationsRequest::default()
            };
            let page = ipam
                .reservations()
                .unwrap()
                .list_reservations(request)
                .await;
            let page = page.unwrap().into_inner();
            found.extend(page.reservations);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "{cluster}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_validated_is_answered_and_not_done() {
    let ipam = Ipam::start().unwrap();
    let request = |validate_only| v1::ApplyReservationRequest {
        reservation: Some(reservation("r", &["192.0.2.1"], "east")),
        validate_only,
        ..v1::ApplyReservationRequest::default()
    };
    let mut client = ipam.reservations().unwrap();
    let would_be = client
        .apply_reservation(request(true))
        .await
        .unwrap()
        .into_inner();
    let would_be = would_be.reservation.expect("an answer");
    let missing = v1::GetReservationRequest {
        name: "r".to_owned(),
        ..v1::GetReservationRequest::default()
    };
    let missing = client.get_reservation(missing).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let done = client
        .apply_reservation(request(false))
        .await
        .unwrap()
        .into_inner();
    let done = done.reservation.expect("an answer");
    let timeless = v1::Reservation {
        create_time: done.create_time,
        ..would_be
    };
    assert_eq!(done, timeless);
    let delete = v1::DeleteReservationRequest {
        name: "r".to_owned(),
        validate_only: true,
        ..v1::DeleteReservationRequest::default()
    };
    client.delete_reservation(delete).await.unwrap();
    let again = client
        .apply_reservation(request(false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.reservation, Some(done));
}
