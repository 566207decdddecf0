//! Topology: one ipam-service; grpcurl, and gRPC clients of clusters `east`, `west` and `north`.
//!
//! 1. The walk of the how-to works to the letter.
//! 2. Wrong input is refused with the field, the code and the reason, also as grpcurl shows it.
//! 3. Grants, who waits because of them and who is moved survive `kill -9`; `check` finds nothing to
//!    object to.
//! 4. After the restore of a backup that knows an older grant, what is in use outside stays in use,
//!    until an operator moves it.
//! 5. Lists come in pages and can be filtered.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::how_to::calls_of;
use e2e::ipam::{Ipam, claim, grpcurl, queued, reason, release};
use pharos_proto::v1;
use pharos_proto::v1::allocation::State;
use pharos_proto::v1::in_use::Policy;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const LOW: &str = "192.0.2.0/25";
const HIGH: &str = "192.0.2.128/25";

/// Ranges by cluster.
type Grants<'a> = &'a [(&'a str, &'a [&'a str])];

fn record(grants: Grants<'_>) -> v1::AddressSpace {
    let grants = grants.iter();
    v1::AddressSpace {
        name: "default".to_owned(),
        grants: grants
            .map(|(cluster, ranges)| v1::address_space::Grant {
                cluster: (*cluster).to_owned(),
                ranges: ranges.iter().map(|range| (*range).to_owned()).collect(),
            })
            .collect(),
        ..v1::AddressSpace::default()
    }
}

async fn apply(
    ipam: &Ipam,
    record: v1::AddressSpace,
    if_in_use: Policy,
) -> Result<v1::ApplyAddressSpaceResponse, Status> {
    let request = v1::ApplyAddressSpaceRequest {
        address_space: Some(record),
        if_in_use: if_in_use.into(),
        ..v1::ApplyAddressSpaceRequest::default()
    };
    let mut client = ipam.address_spaces().unwrap();
    let answer = client.apply_address_space(request).await;
    answer.map(tonic::Response::into_inner)
}

#[test]
fn the_walk_of_the_how_to_works_to_the_letter() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let how_to = include_str!("../../docs/how-to/address-spaces.md");
    let calls = calls_of(how_to).into_iter();
    let mut answers = calls.map(|(data, method)| {
        let answer = ipam.grpcurl(data.as_deref(), &method);
        answer.map_err(|error| error.to_string())
    });
    let mut next = || answers.next().expect("as many answers as calls");
    let addresses = |answer: &Value| answer["allocation"]["addresses"].clone();

    // The order is that of the page.
    next().unwrap();
    assert_eq!(addresses(&next().unwrap()), json!(["192.0.2.0"]));
    let refused = next().unwrap_err();
    for expected in [
        "FailedPrecondition",
        "ADDRESS_SPACE_IN_USE",
        "1 holder would lose an address: west/default/web with 192.0.2.0",
        "allocations/west/default/web",
        "address_space.grants",
    ] {
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    for _validated_and_done in 0..2 {
        let moved = next().unwrap();
        let effects = &moved["consequences"]["allocations"];
        assert_eq!(effects[0]["kind"], "MOVED");
        assert_eq!(effects[0]["after"], json!(["192.0.2.128"]));
        let east = &moved["addressSpace"]["grants"][0];
        assert_eq!(east, &json!({"cluster": "east", "ranges": [LOW]}));
    }
    assert_eq!(addresses(&next().unwrap()), json!(["192.0.2.128"]));
    assert_eq!(addresses(&next().unwrap()), json!(["192.0.2.0"]));
    let refused = next().unwrap_err();
    let text = "cluster west may use only 192.0.2.128/25 of address space default: address \
                192.0.2.9 of pool \"lab\" lies outside";
    for expected in ["FailedPrecondition", "OUTSIDE_GRANT", text] {
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    let waits = next().unwrap();
    assert_eq!(waits["allocation"]["state"], "PENDING");
    assert_eq!(waits["allocation"]["refusal"]["reason"], "OUTSIDE_GRANT");
    let explained = next().unwrap();
    let pool = &explained["pools"][0];
    assert_eq!(pool["obstacles"][0]["reason"], "OUTSIDE_GRANT");
    assert_eq!(pool["usage"]["ipv4"]["outsideGrant"], "256");
    let wakes = explained["waiting"]["wakesOn"].to_string();
    assert!(wakes.contains("give more to cluster north"), "{wakes}");
    let granted = next().unwrap();
    let effect = &granted["consequences"]["allocations"][0];
    assert_eq!(effect["owner"]["cluster"], "north");
    assert_eq!(effect["after"], json!(["192.0.2.64"]));
    let synced = next().unwrap();
    let usage = &synced["pools"][0]["usage"]["ipv4"];
    assert_eq!(
        (&usage["total"], &usage["outsideGrant"]),
        (&json!("13"), &json!("8"))
    );
    let objects = synced["consequences"]["objects"].as_array().unwrap();
    let pool = objects.iter().find(|one| one["object"] == "POOL").unwrap();
    assert_eq!(pool["outsideGrant"], json!(["192.0.2.120/29"]));
    let hiding = next().unwrap();
    assert_eq!(hiding["addressSpace"]["hideHolders"], true);
    assert_eq!(
        hiding["addressSpace"]["grants"].as_array().map(Vec::len),
        Some(3)
    );
    let refused = next().unwrap_err();
    assert!(refused.contains("is held by another cluster"), "{refused}");
    assert!(!refused.contains("north"), "{refused}");
    let listed = next().unwrap();
    assert_eq!(listed["addressSpaces"][0]["name"], "default");
    let history = next().unwrap();
    let types: Vec<&Value> = history["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| &change["type"])
        .collect();
    assert_eq!(types, ["UPDATED", "UPDATED", "CREATED"]);
    next().unwrap();
    assert!(answers.next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_refused_with_its_field() {
    let ipam = Ipam::start().unwrap();
    let long: Vec<String> = (0..1001)
        .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
        .collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let cases: [(Grants<'_>, &str); 7] = [
        (
            &[("east", &[LOW]), ("west", &["192.0.2.0/33"])],
            "grants[1].ranges[0]",
        ),
        (&[("east", &["192.0.2.9-192.0.2.1"])], "grants[0].ranges[0]"),
        (
            &[("east", &["192.0.2.1-2001:db8::1"])],
            "grants[0].ranges[0]",
        ),
        (&[("east", &[LOW, "192.0.2.5"])], "grants[0].ranges[1]"),
        (&[("east", &[LOW]), ("east", &[HIGH])], "grants[1].cluster"),
        (&[("", &[LOW])], "grants[0].cluster"),
        (&[("east", &[])], "grants[0].ranges"),
    ];
    let too_long: [(&str, &[&str]); 1] = [("east", &long)];
    let cases = cases
        .into_iter()
        .chain([(&too_long[..], "grants[0].ranges")]);
    for (grants, field) in cases {
        let status = apply(&ipam, record(grants), Policy::Refuse)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("BadRequest").field_violations;
        assert_eq!(violations[0].field, format!("address_space.{field}"));
    }
    let mut client = ipam.address_spaces().unwrap();
    let mut request = v1::ApplyAddressSpaceRequest {
        address_space: Some(record(&[("east", &[LOW])])),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["revision".to_owned()],
        }),
        ..v1::ApplyAddressSpaceRequest::default()
    };
    let status = client
        .apply_address_space(request.clone())
        .await
        .unwrap_err();
    assert!(
        status.message().starts_with("update_mask.paths[0]: "),
        "{status:?}"
    );
    request.update_mask = None;
    // Nothing was stored by all that, so there is no revision to have seen.
    request.if_revision = Some(7);
    let status = client.apply_address_space(request).await.unwrap_err();
    let expected = (Code::Aborted, "STALE_REVISION".to_owned());
    assert_eq!((status.code(), reason(&status)), expected);
    let gone = v1::DeleteAddressSpaceRequest {
        name: "default".to_owned(),
        ..v1::DeleteAddressSpaceRequest::default()
    };
    let status = client.delete_address_space(gone).await.unwrap_err();
    let expected = (Code::NotFound, "UNKNOWN_ADDRESS_SPACE".to_owned());
    assert_eq!((status.code(), reason(&status)), expected);
    if grpcurl().is_some() {
        let data = r#"{"address_space":{"name":"default","grants":[{"cluster":"east"}]}}"#;
        let method = "pharos.v1.AddressSpaceService/ApplyAddressSpace";
        let shown = ipam.grpcurl(Some(data), method).unwrap_err().to_string();
        for expected in [
            "InvalidArgument",
            "address_space.grants[0].ranges",
            "must not be empty",
        ] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_and_who_waits_because_of_them_survive_kill_9() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("lab", &["192.0.2.0/24"]).await.unwrap();
    ipam.allocate(claim("east/x/a")).await.unwrap();
    ipam.allocate(claim("west/x/a")).await.unwrap();
    let halves = record(&[("east", &[LOW]), ("west", &[HIGH])]);
    apply(&ipam, halves.clone(), Policy::Move).await.unwrap();
    let waits = ipam.allocate(queued("north/x/a")).await.unwrap();
    assert_eq!(waits.state(), State::Pending);
    ipam.kill().unwrap();
    let (code, output) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{output}");
    ipam.restart().unwrap();
    assert_eq!(ipam.get("east/x/a").await.unwrap().addresses, ["192.0.2.0"]);
    assert_eq!(
        ipam.get("west/x/a").await.unwrap().addresses,
        ["192.0.2.128"]
    );
    let again = apply(&ipam, halves, Policy::Refuse).await.unwrap();
    assert_eq!(again.consequences, None, "it is so already");
    let refused = ipam.allocate(claim("north/x/b")).await.unwrap_err();
    let expected = (Code::FailedPrecondition, "OUTSIDE_GRANT".to_owned());
    assert_eq!((refused.code(), reason(&refused)), expected);
    let name = "default".to_owned();
    let delete = v1::DeleteAddressSpaceRequest {
        name,
        ..v1::DeleteAddressSpaceRequest::default()
    };
    let mut client = ipam.address_spaces().unwrap();
    client.delete_address_space(delete).await.unwrap();
    assert_eq!(
        ipam.get("north/x/a").await.unwrap().addresses,
        ["192.0.2.1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_outside_an_older_grant_stays_until_an_operator_moves_it() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("lab", &["192.0.2.0/24"]).await.unwrap();
    let narrow = record(&[("west", &["192.0.2.128/31"])]);
    apply(&ipam, narrow.clone(), Policy::Refuse).await.unwrap();
    ipam.allocate(claim("west/x/a")).await.unwrap();
    let file = ipam.database().with_file_name("backup.db");
    let file = file.to_str().unwrap();
    let (code, log) = ipam.run(&["backup", "--to", file]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    // What the backup does not know: a wider grant, and an address of it that is in use.
    let wide = record(&[("west", &[LOW, HIGH])]);
    apply(&ipam, wide.clone(), Policy::Refuse).await.unwrap();
    let in_use = v1::AllocateRequest {
        addresses: vec!["192.0.2.9".to_owned()],
        ..claim("west/x/b")
    };
    ipam.allocate(in_use).await.unwrap();
    ipam.kill().unwrap();
    let (code, log) = ipam.run(&["restore", "--from", file, "--force"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    ipam.restart().unwrap();

    let mut clusters = ipam.clusters().unwrap();
    let begin = v1::BeginSyncRequest {
        cluster: "west".to_owned(),
        ..v1::BeginSyncRequest::default()
    };
    clusters.begin_sync(begin).await.unwrap();
    for (owner, held) in [("west/x/a", "192.0.2.128"), ("west/x/b", "192.0.2.9")] {
        let report = v1::AllocateRequest {
            held_addresses: vec![held.to_owned()],
            ..queued(owner)
        };
        let kept = ipam.allocate(report).await.unwrap();
        assert_eq!(kept.addresses, [held]);
    }
    let end = v1::EndSyncRequest {
        cluster: "west".to_owned(),
        ..v1::EndSyncRequest::default()
    };
    clusters.end_sync(end).await.unwrap();
    ipam.restart().unwrap();
    let kept = ipam.get("west/x/b").await.unwrap();
    assert_eq!(
        (kept.state(), kept.outside_grant, kept.addresses),
        (State::Assigned, true, vec!["192.0.2.9".to_owned()])
    );
    assert!(!ipam.get("west/x/a").await.unwrap().outside_grant);
    // The grants as they are, and moving: now it goes.
    apply(&ipam, narrow, Policy::Move).await.unwrap();
    let moved = ipam.get("west/x/b").await.unwrap();
    assert_eq!(
        (moved.addresses, moved.outside_grant),
        (vec!["192.0.2.129".to_owned()], false)
    );
    let mut client = ipam.allocations().unwrap();
    client.release(release("west/x/b")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_by_cluster() {
    let ipam = Ipam::start().unwrap();
    for (number, cluster) in ["east", "west", "east", "west", "east"].iter().enumerate() {
        let wanted = v1::AddressSpace {
            name: format!("site-{number}"),
            ..record(&[(cluster, &[LOW])])
        };
        apply(&ipam, wanted, Policy::Refuse).await.unwrap();
    }
    let mut request = v1::ListAddressSpacesRequest {
        cluster: "east".to_owned(),
        page_size: 2,
        ..v1::ListAddressSpacesRequest::default()
    };
    let mut names = Vec::new();
    let mut client = ipam.address_spaces().unwrap();
    loop {
        let page = client.list_address_spaces(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.address_spaces.len() <= 2);
        names.extend(page.address_spaces.into_iter().map(|one| one.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["site-0", "site-2", "site-4"]);
    request.page_token = "nonsense".to_owned();
    let status = client.list_address_spaces(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
