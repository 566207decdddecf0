mod privacy;

use proptest::prelude::*;

use super::*;
use crate::api::testing::{TestServer, owner};
use pharos_proto::v1::address_space_service_client::AddressSpaceServiceClient;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;

/// Who is concerned, in short.
fn told(consequences: Option<v1::Consequences>) -> Vec<String> {
    let consequences = consequences.unwrap_or_default();
    let allocations = consequences.allocations.iter().map(|one| {
        let owner = one.owner.clone().unwrap_or_default();
        let (before, after) = (one.before.join(" "), one.after.join(" "));
        format!("{} {:?} [{before}] [{after}]", owner.name, one.kind())
    });
    let objects = consequences.objects.iter();
    let objects = objects.map(|one| format!("{:?} {} {:?}", one.object(), one.name, one.kind()));
    allocations.chain(objects).collect()
}

fn allocate(name: &str, queue: bool) -> v1::AllocateRequest {
    let if_refused = match queue {
        true => v1::allocate_request::IfRefused::Queue,
        false => v1::allocate_request::IfRefused::Fail,
    };
    v1::AllocateRequest {
        owner: Some(owner(name)),
        if_refused: if_refused.into(),
        ..v1::AllocateRequest::default()
    }
}

fn small_pool(name: &str, range: &str) -> v1::Pool {
    v1::Pool {
        name: name.to_owned(),
        addresses: vec![range.to_owned()],
        ..v1::Pool::default()
    }
}

#[tokio::test]
async fn a_call_that_is_only_validated_lists_what_it_then_does() {
    let server = TestServer::start().await;
    let mut pools = server.pools().await;
    let mut allocations = AllocationServiceClient::new(server.channel().await);
    let apply = |pool, validate_only| v1::ApplyPoolRequest {
        pool: Some(pool),
        if_in_use: v1::in_use::Policy::Move.into(),
        validate_only,
        ..v1::ApplyPoolRequest::default()
    };
    for (name, queue) in [("a", true), ("b", true), ("c", true)] {
        allocations
            .allocate(allocate(name, queue))
            .await
            .expect("queued");
    }
    let wake = |validate_only| apply(small_pool("p", "192.0.2.0/31"), validate_only);
    for validate_only in [true, false] {
        let answer = pools
            .apply_pool(wake(validate_only))
            .await
            .expect("applied");
        assert_eq!(
            told(answer.into_inner().consequences),
            [
                "a Granted [] [192.0.2.0]",
                "b Granted [] [192.0.2.1]",
                "c Updated [] []",
                "Pool p Created"
            ]
        );
    }
    // Whoever waits gets what is given back.
    for validate_only in [true, false] {
        let request = v1::ReleaseRequest {
            owner: Some(owner("a")),
            validate_only,
            ..v1::ReleaseRequest::default()
        };
        let answer = allocations
            .release(request)
            .await
            .expect("released")
            .into_inner();
        assert_eq!(
            answer.released.map(|one| one.addresses),
            Some(vec!["192.0.2.0".to_owned()])
        );
        assert_eq!(told(answer.consequences), ["c Granted [] [192.0.2.0]"]);
    }
    for validate_only in [true, false] {
        let request = apply(small_pool("p", "192.0.2.1-192.0.2.2"), validate_only);
        let answer = pools.apply_pool(request).await.expect("applied");
        let expected = ["c Moved [192.0.2.0] [192.0.2.2]", "Pool p Updated"];
        assert_eq!(told(answer.into_inner().consequences), expected);
    }
    for validate_only in [true, false] {
        let request = v1::DeletePoolRequest {
            name: "p".to_owned(),
            if_in_use: v1::in_use::Policy::Move.into(),
            validate_only,
            ..v1::DeletePoolRequest::default()
        };
        let answer = pools.delete_pool(request).await.expect("deleted");
        let expected = [
            "b Lost [192.0.2.1] []",
            "c Lost [192.0.2.2] []",
            "Pool p Deleted",
        ];
        assert_eq!(told(answer.into_inner().consequences), expected);
    }
    let mut clusters = server.clusters().await;
    for validate_only in [true, false] {
        let request = v1::DeleteClusterRequest {
            name: "east".to_owned(),
            validate_only,
            ..v1::DeleteClusterRequest::default()
        };
        let answer = clusters.delete_cluster(request).await.expect("deleted");
        let expected = [
            "b Released [] []",
            "c Released [] []",
            "Cluster east Deleted",
        ];
        assert_eq!(told(answer.into_inner().consequences), expected);
    }
    server.stopped().await;
}

#[test]
fn what_is_too_much_to_list_is_counted() {
    let mut many = vec![(); MAX_LISTED + 7];
    assert_eq!((cut(&mut many), many.len()), (7, MAX_LISTED));
    assert_eq!((cut(&mut many), many.len()), (0, MAX_LISTED));
}

/// One call, by number, that may be only validated.
#[derive(Debug, Clone)]
enum Call {
    Allocate(u8, bool),
    Release(u8),
    ApplyPool(u8, u8),
    DeletePool(u8),
    DeleteCluster,
}

fn some_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (0..6_u8, any::<bool>()).prop_map(|(who, dual)| Call::Allocate(who, dual)),
        3 => (0..6_u8).prop_map(Call::Release),
        3 => (0..2_u8, 0..4_u8).prop_map(|(pool, last)| Call::ApplyPool(pool, last)),
        1 => (0..2_u8).prop_map(Call::DeletePool),
        1 => Just(Call::DeleteCluster),
    ]
}

/// Makes a call; its consequences, or the code of the refusal.
async fn make(
    server: &TestServer,
    call: &Call,
    validate_only: bool,
) -> Result<Option<v1::Consequences>, tonic::Code> {
    let mut allocations = AllocationServiceClient::new(server.channel().await);
    let answer = match call {
        Call::Allocate(who, dual) => {
            let mut request = allocate(&who.to_string(), true);
            request.validate_only = validate_only;
            if *dual {
                request.families = vec![1, 2];
                request.family_policy = v1::claim::FamilyPolicy::PreferDualStack.into();
            }
            let answer = allocations.allocate(request).await;
            answer.map(|answer| answer.into_inner().consequences)
        }
        Call::Release(who) => {
            let request = v1::ReleaseRequest {
                owner: Some(owner(&who.to_string())),
                validate_only,
                ..v1::ReleaseRequest::default()
            };
            let answer = allocations.release(request).await;
            answer.map(|answer| answer.into_inner().consequences)
        }
        Call::ApplyPool(pool, last) => {
            let base = 16 * pool;
            let mut wire = small_pool(
                &format!("p{pool}"),
                &format!("192.0.2.{base}-192.0.2.{}", base + last),
            );
            wire.addresses.push(format!("2001:db8:{pool}::/127"));
            let request = v1::ApplyPoolRequest {
                pool: Some(wire),
                if_in_use: v1::in_use::Policy::Move.into(),
                validate_only,
                ..v1::ApplyPoolRequest::default()
            };
            let answer = server.pools().await.apply_pool(request).await;
            answer.map(|answer| answer.into_inner().consequences)
        }
        Call::DeletePool(pool) => {
            let request = v1::DeletePoolRequest {
                name: format!("p{pool}"),
                if_in_use: v1::in_use::Policy::Move.into(),
                validate_only,
                ..v1::DeletePoolRequest::default()
            };
            let answer = server.pools().await.delete_pool(request).await;
            answer.map(|answer| answer.into_inner().consequences)
        }
        Call::DeleteCluster => {
            let request = v1::DeleteClusterRequest {
                name: "east".to_owned(),
                validate_only,
                ..v1::DeleteClusterRequest::default()
            };
            let answer = server.clusters().await.delete_cluster(request).await;
            answer.map(|answer| answer.into_inner().consequences)
        }
    };
    answer.map_err(|status| status.code())
}

proptest! {
    // Each case starts a server.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_is_validated_is_what_happens(calls in proptest::collection::vec(some_call(), 1..40)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let server = TestServer::start().await;
            for call in calls {
                let would = make(&server, &call, true).await;
                let does = make(&server, &call, false).await;
                assert_eq!(would, does, "{call:?}");
            }
            server.stopped().await;
        });
    }
}

fn of_cluster(cluster: &str, name: &str) -> v1::Owner {
    v1::Owner {
        cluster: cluster.to_owned(),
        ..owner(name)
    }
}

fn grants(grants: &[(&str, &str)], hide_holders: bool) -> v1::ApplyAddressSpaceRequest {
    let grants = grants.iter();
    v1::ApplyAddressSpaceRequest {
        address_space: Some(v1::AddressSpace {
            name: "default".to_owned(),
            grants: grants
                .map(|(cluster, range)| v1::address_space::Grant {
                    cluster: (*cluster).to_owned(),
                    ranges: vec![(*range).to_owned()],
                })
                .collect(),
            hide_holders,
            ..v1::AddressSpace::default()
        }),
        if_in_use: v1::in_use::Policy::Move.into(),
        ..v1::ApplyAddressSpaceRequest::default()
    }
}

#[tokio::test]
async fn an_edit_of_grants_that_is_only_validated_lists_whom_it_then_moves_and_wakes() {
    let server = TestServer::start().await;
    let mut pools = server.pools().await;
    let mut allocations = AllocationServiceClient::new(server.channel().await);
    let mut spaces = AddressSpaceServiceClient::new(server.channel().await);
    let pool = v1::ApplyPoolRequest {
        pool: Some(small_pool("p", "192.0.2.0-192.0.2.3")),
        ..v1::ApplyPoolRequest::default()
    };
    pools.apply_pool(pool).await.expect("applied");
    for name in ["a", "b"] {
        let taken = allocations.allocate(allocate(name, false)).await;
        taken.expect("taken");
    }
    let edit = grants(&[("east", "192.0.2.1-192.0.2.1")], false);
    for validate_only in [true, false] {
        let request = v1::ApplyAddressSpaceRequest {
            validate_only,
            ..edit.clone()
        };
        let answer = spaces.apply_address_space(request).await.expect("good");
        let expected = ["a Lost [192.0.2.0] []", "AddressSpace default Created"];
        assert_eq!(told(answer.into_inner().consequences), expected);
    }
    for validate_only in [true, false] {
        let request = v1::DeleteAddressSpaceRequest {
            name: "default".to_owned(),
            validate_only,
            ..v1::DeleteAddressSpaceRequest::default()
        };
        let answer = spaces.delete_address_space(request).await.expect("good");
        let expected = ["a Granted [] [192.0.2.0]", "AddressSpace default Deleted"];
        assert_eq!(told(answer.into_inner().consequences), expected);
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_cluster_learns_of_no_owner_of_another_one() {
    let server = TestServer::start().await;
    let mut pools = server.pools().await;
    let mut allocations = AllocationServiceClient::new(server.channel().await);
    let mut spaces = AddressSpaceServiceClient::new(server.channel().await);
    let pool = v1::ApplyPoolRequest {
        pool: Some(small_pool("p", "192.0.2.0/32")),
        ..v1::ApplyPoolRequest::default()
    };
    pools.apply_pool(pool).await.expect("applied");
    let named = Some(v1::Owner {
        cluster: "west".to_owned(),
        ..v1::Owner::default()
    });
    for (hide_holders, expected) in [(false, named), (true, None)] {
        spaces
            .apply_address_space(grants(&[], hide_holders))
            .await
            .expect("applied");
        let taken = allocations.allocate(allocate("a", false)).await;
        taken.expect("taken");
        let waits = v1::AllocateRequest {
            owner: Some(of_cluster("west", "secret")),
            ..allocate("secret", true)
        };
        allocations.allocate(waits).await.expect("queued");
        let release = |owner| v1::ReleaseRequest {
            owner: Some(owner),
            ..v1::ReleaseRequest::default()
        };
        let answer = allocations.release(release(owner("a"))).await;
        let told = answer.expect("released").into_inner().consequences;
        let told = told.expect("another one is woken").allocations;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].owner, expected);
        let answer = allocations.release(release(of_cluster("west", "secret")));
        answer.await.expect("released");
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_pool_that_reaches_beyond_the_grant_of_its_cluster_is_told_so() {
    let server = TestServer::start().await;
    let mut pools = server.pools().await;
    let mut spaces = AddressSpaceServiceClient::new(server.channel().await);
    spaces
        .apply_address_space(grants(&[("east", "192.0.2.0/25")], false))
        .await
        .expect("applied");
    for validate_only in [true, false] {
        let request = v1::SyncPoolsRequest {
            cluster: "east".to_owned(),
            pools: vec![small_pool("p", "192.0.2.96-192.0.2.135")],
            validate_only,
            ..v1::SyncPoolsRequest::default()
        };
        let answer = pools.sync_pools(request).await.expect("synced");
        let told = answer.into_inner().consequences.expect("a new pool");
        let pool = told.objects.iter().find(|one| one.object() == Object::Pool);
        let outside = &pool.expect("told").outside_grant;
        assert_eq!(outside, &["192.0.2.128/29"]);
    }
    server.stopped().await;
}
