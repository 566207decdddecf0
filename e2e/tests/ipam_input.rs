//! Topology: one ipam-service.
//!
//! 1. Bad input gets INVALID_ARGUMENT and the path of every bad field.
//! 2. What cannot be granted gets the code and the sentence of the manual.
//! 3. Neither changes anything.

use e2e::ipam::{Ipam, claim, owner, tcp};
use pharos_proto::v1;
use pharos_proto::v1::allocate_request::IfRefused;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn long() -> String {
    "x".repeat(1_000_000)
}

fn edited(edit: impl FnOnce(&mut v1::AllocateRequest)) -> v1::AllocateRequest {
    let mut request = claim("east/default/web");
    edit(&mut request);
    request
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!(info.domain, "pharos.io");
    let request = details.bad_request();
    let violations = request
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

/// What was wrong, the fields that must be named, a part of the message.
type BadClaim = (v1::AllocateRequest, &'static [&'static str], &'static str);

fn bad_claims() -> Vec<BadClaim> {
    let udp_0 = v1::Port {
        protocol: 0,
        port: 0,
    };
    vec![
        (
            edited(|it| it.owner = None),
            &["owner"],
            "owner: is required",
        ),
        (
            edited(|it| it.owner = Some(owner("//"))),
            &["owner.cluster", "owner.name"],
            "not be empty",
        ),
        (
            edited(|it| it.owner = Some(owner(&format!("east/a/{}", long())))),
            &["owner.name"],
            "is 1000000 bytes long; at most 253",
        ),
        (
            edited(|it| it.owner = Some(owner("ea\nst/a/b"))),
            &["owner.cluster"],
            "control character",
        ),
        (
            edited(|it| it.ports = vec![tcp(0)]),
            &["ports[0].port"],
            "1 to 65535, not 0",
        ),
        (
            edited(|it| it.ports = vec![tcp(1), tcp(70_000)]),
            &["ports[1].port"],
            "not 70000",
        ),
        (
            edited(|it| it.ports = vec![udp_0]),
            &["ports[0].protocol", "ports[0].port"],
            "TCP, UDP",
        ),
        (
            edited(|it| it.addresses = vec!["192.0.2.300".into()]),
            &["addresses[0]"],
            "192.0.2.300",
        ),
        (
            edited(|it| it.addresses = vec!["192.0.2.1/32".into()]),
            &["addresses[0]"],
            "not an IPv4",
        ),
        (
            edited(|it| it.families = vec![7]),
            &["families[0]"],
            "IPV4 or IPV6",
        ),
        (
            edited(|it| {
                it.families = vec![2];
                it.addresses = vec!["192.0.2.1".into()];
            }),
            &["addresses"],
            "192.0.2.1 is an IPv4 address, but families asks for IPv6",
        ),
        (
            edited(|it| it.addresses = vec!["192.0.2.1".into(), "192.0.2.2".into()]),
            &["addresses"],
            "at most one address of each family",
        ),
        (
            edited(|it| it.family_policy = v1::claim::FamilyPolicy::RequireDualStack.into()),
            &["family_policy"],
            "needs both families",
        ),
        (
            edited(|it| it.dual_stack_pools = v1::claim::DualStackPools::AnyPools.into()),
            &["dual_stack_pools"],
            "needs both families",
        ),
        (
            edited(|it| {
                it.families = vec![1, 2];
                it.pool = "p".into();
                it.dual_stack_pools = v1::claim::DualStackPools::AnyPools.into();
            }),
            &["dual_stack_pools"],
            "does not go with a pool that is named",
        ),
        (
            edited(|it| it.dual_stack_pools = 9),
            &["dual_stack_pools"],
            "unknown value 9",
        ),
        (
            edited(|it| it.pool = "a\u{7f}".into()),
            &["pool"],
            "control character",
        ),
        (
            edited(|it| it.request_id = "r".repeat(129)),
            &["request_id"],
            "at most 128",
        ),
        (
            edited(|it| it.fence = u64::MAX),
            &["fence"],
            "less than 2^63",
        ),
        (
            edited(|it| it.if_refused = 9),
            &["if_refused"],
            "unknown value 9",
        ),
        (
            edited(|it| {
                it.ports = vec![tcp(0)];
                it.pool = long();
                it.sharing_key = "\t".into();
            }),
            &["ports[0].port", "pool", "sharing_key"],
            "pool: is 1000000 bytes",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_of_a_claim_is_named() {
    let ipam = Ipam::start().unwrap();
    let mut client = ipam.allocations().unwrap();
    for (request, expected, part) in bad_claims() {
        let status = client.allocate(request).await.expect_err(part);
        assert_eq!(status.code(), Code::InvalidArgument, "{part}: {status:?}");
        assert_eq!(fields(&status), expected, "{status:?}");
        assert!(
            status.message().contains(part),
            "{part}: {}",
            status.message()
        );
        assert!(status.message().len() < 4000, "{part}");
    }
    // Too large to be read at all: still an answer, and the server goes on.
    let huge = edited(|it| it.pool = "x".repeat(3_000_000));
    let status = client.allocate(huge).await.expect_err("too large");
    assert!(status.message().contains("too large"), "{status:?}");
    let list = client
        .list_allocations(v1::ListAllocationsRequest::default())
        .await
        .unwrap();
    assert_eq!(list.into_inner(), v1::ListAllocationsResponse::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_of_a_pool_is_named() {
    let ipam = Ipam::start().unwrap();
    let mut client = ipam.pools().unwrap();
    ipam.apply_pool("first", &["192.0.2.0/28"]).await.unwrap();
    let cases: [(&str, &[&str], &str, &str); 8] = [
        ("", &["192.0.2.64/28"], "pool.name", "must not be empty"),
        ("a", &[], "pool.addresses", "must not be empty"),
        ("a", &["192.0.2.1"], "pool.addresses[0]", "neither a CIDR"),
        ("a", &["192.0.2.0/40"], "pool.addresses[0]", "invalid CIDR"),
        (
            "a",
            &["192.0.2.9-192.0.2.1"],
            "pool.addresses[0]",
            "start is after end",
        ),
        (
            "a",
            &["192.0.2.9-2001:db8::1"],
            "pool.addresses[0]",
            "address family",
        ),
        (
            "a",
            &["10.0.0.0/24", "10.0.0.9-10.0.1.9"],
            "pool.addresses[1]",
            "overlaps",
        ),
        ("a", &["192.0.2.8-192.0.2.40"], "pool.addresses[0]", "first"),
    ];
    for (name, ranges, field, part) in cases {
        let pool = v1::Pool {
            name: name.to_owned(),
            addresses: ranges.iter().map(|range| (*range).to_owned()).collect(),
            ..v1::Pool::default()
        };
        let request = v1::ApplyPoolRequest {
            pool: Some(pool),
            ..v1::ApplyPoolRequest::default()
        };
        let status = client.apply_pool(request).await.expect_err(part);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(fields(&status), [field], "{status:?}");
        assert!(
            status.message().contains(part),
            "{part}: {}",
            status.message()
        );
    }
    let pools = client
        .list_pools(v1::ListPoolsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(pools.pools.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_granted_says_which_pool_which_address_and_which_holder() {
    let ipam = Ipam::start().unwrap();
    let mut client = ipam.allocations().unwrap();
    ipam.apply_pool("small", &["192.0.2.1-192.0.2.2"])
        .await
        .unwrap();
    let mut shared = claim("east/default/shared");
    shared.sharing_key = "key".to_owned();
    client.allocate(shared.clone()).await.unwrap();
    client.allocate(claim("west/default/web")).await.unwrap();

    let explicit = |text: &str, address: &str| {
        let mut request = claim(text);
        request.addresses = vec![address.to_owned()];
        request
    };
    let mut same_port = explicit("east/default/b", "192.0.2.1");
    same_port.sharing_key = "key".to_owned();
    let mut other_key = explicit("east/default/c", "192.0.2.1");
    other_key.sharing_key = "other".to_owned();
    other_key.ports = vec![tcp(443)];
    let mut no_pool = claim("east/default/d");
    no_pool.pool = "none".to_owned();
    let mut no_family = claim("east/default/e");
    no_family.families = vec![v1::ip_family::Value::Ipv6.into()];
    no_family.pool = "small".to_owned();
    let cases = [
        (
            claim("east/default/a"),
            Code::ResourceExhausted,
            "NO_FREE_ADDRESS",
            "small",
        ),
        (no_pool, Code::NotFound, "UNKNOWN_POOL", "none"),
        (
            explicit("east/default/f", "192.0.2.2"),
            Code::FailedPrecondition,
            "ADDRESS_TAKEN",
            "west",
        ),
        (
            explicit("east/default/g", "198.51.100.1"),
            Code::FailedPrecondition,
            "ADDRESS_NOT_IN_POOL",
            "198.51.100.1",
        ),
        (
            same_port,
            Code::FailedPrecondition,
            "PORT_IN_USE",
            "192.0.2.1",
        ),
        (
            other_key,
            Code::FailedPrecondition,
            "SHARING_MISMATCH",
            "192.0.2.1",
        ),
        (
            no_family,
            Code::FailedPrecondition,
            "FAMILY_NOT_IN_POOL",
            "IPv6",
        ),
    ];
    for (request, code, reason, part) in cases {
        let status = client.allocate(request.clone()).await.expect_err(reason);
        assert_eq!(status.code(), code, "{reason}: {status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("ErrorInfo").reason, reason);
        assert!(
            status.message().contains(part),
            "{reason}: {}",
            status.message()
        );
        let preconditions = details.precondition_failure().is_some();
        assert_eq!(preconditions, code == Code::FailedPrecondition, "{reason}");

        // The same claim waits if it may.
        let mut queued = request;
        queued.if_refused = IfRefused::Queue.into();
        let kept = client
            .allocate(queued)
            .await
            .expect(reason)
            .into_inner()
            .allocation
            .unwrap();
        assert_eq!(kept.state(), v1::allocation::State::Pending);
        assert_eq!(kept.refusal.unwrap().reason().as_str_name(), reason);
    }
    let missing = client
        .release(e2e::ipam::release("east/default/nobody"))
        .await;
    assert_eq!(missing.expect_err("nobody").code(), Code::NotFound);
    let get = v1::GetAllocationRequest {
        owner: Some(owner("east/default/nobody")),
    };
    assert_eq!(
        client.get_allocation(get).await.expect_err("nobody").code(),
        Code::NotFound
    );
}
