//! What a call of one cluster tells it of owners of another: its name, or not even that.

use super::*;

/// The only address that anybody can get.
const ADDRESS: &str = "192.0.2.0";

/// A server with a pool of one address, for which an owner of `west` waits or is about to.
async fn prepared(server: &TestServer, hide_holders: bool) {
    let pool = v1::ApplyPoolRequest {
        pool: Some(small_pool("p", "192.0.2.0/32")),
        ..v1::ApplyPoolRequest::default()
    };
    server
        .pools()
        .await
        .apply_pool(pool)
        .await
        .expect("applied");
    let mut spaces = AddressSpaceServiceClient::new(server.channel().await);
    let record = grants(&[], hide_holders);
    spaces.apply_address_space(record).await.expect("applied");
}

async fn secret_waits(server: &TestServer) {
    let waits = v1::AllocateRequest {
        owner: Some(of_cluster("west", "secret")),
        ..allocate("secret", true)
    };
    let mut allocations = AllocationServiceClient::new(server.channel().await);
    let kept = allocations.allocate(waits).await.expect("queued");
    let kept = kept.into_inner().allocation.expect("kept");
    assert_eq!(kept.state(), v1::allocation::State::Pending);
}

/// Of whoever was served the answer says no more than it may.
fn check_told(consequences: Option<v1::Consequences>, hide_holders: bool) {
    let told = consequences.expect("somebody is served");
    let served = told.allocations.iter().find(|one| one.after == [ADDRESS]);
    let served = served.expect("what happens is told, whoever it happens to");
    let west = v1::Owner {
        cluster: "west".to_owned(),
        ..v1::Owner::default()
    };
    assert_eq!(served.owner, (!hide_holders).then_some(west));
    let text = format!("{told:?}");
    assert!(!text.contains("secret"), "{text}");
    assert!(!hide_holders || !text.contains("west"), "{text}");
}

#[tokio::test]
async fn who_ends_an_inventory_is_told_no_owner_of_another_cluster() {
    for hide_holders in [false, true] {
        let server = TestServer::recovering(&["east"]).await;
        prepared(&server, hide_holders).await;
        secret_waits(&server).await;
        let mut clusters = server.clusters().await;
        let begin = v1::BeginSyncRequest {
            cluster: "east".to_owned(),
            ..v1::BeginSyncRequest::default()
        };
        clusters.begin_sync(begin).await.expect("begun");
        // The wait of everybody ends with the inventory of the last cluster.
        for validate_only in [true, false] {
            let end = v1::EndSyncRequest {
                cluster: "east".to_owned(),
                validate_only,
                ..v1::EndSyncRequest::default()
            };
            let ended = clusters.end_sync(end).await.expect("ended");
            check_told(ended.into_inner().consequences, hide_holders);
        }
        server.stopped().await;
    }
}

#[tokio::test]
async fn who_hands_pools_over_is_told_no_owner_of_another_cluster() {
    for hide_holders in [false, true] {
        let server = TestServer::start().await;
        prepared(&server, hide_holders).await;
        let mut allocations = AllocationServiceClient::new(server.channel().await);
        let taken = allocations.allocate(allocate("a", false)).await;
        taken.expect("taken");
        secret_waits(&server).await;
        // A pool that hides the operator's takes its address from the cluster's own holder.
        for validate_only in [true, false] {
            let sync = v1::SyncPoolsRequest {
                cluster: "east".to_owned(),
                pools: vec![small_pool("p", "198.51.100.0/32")],
                validate_only,
                ..v1::SyncPoolsRequest::default()
            };
            let synced = server.pools().await.sync_pools(sync).await.expect("synced");
            check_told(synced.into_inner().consequences, hide_holders);
        }
        server.stopped().await;
    }
}

#[tokio::test]
async fn who_moves_away_is_told_no_owner_of_another_cluster() {
    for hide_holders in [false, true] {
        let server = TestServer::start().await;
        prepared(&server, hide_holders).await;
        let other = v1::ApplyPoolRequest {
            pool: Some(v1::Pool {
                auto_assign: Some(false),
                ..small_pool("other", "198.51.100.0/32")
            }),
            ..v1::ApplyPoolRequest::default()
        };
        server
            .pools()
            .await
            .apply_pool(other)
            .await
            .expect("applied");
        let mut allocations = AllocationServiceClient::new(server.channel().await);
        let taken = allocations.allocate(allocate("a", false)).await;
        taken.expect("taken");
        secret_waits(&server).await;
        for validate_only in [true, false] {
            let moves = v1::AllocateRequest {
                pool: "other".to_owned(),
                validate_only,
                ..allocate("a", false)
            };
            let moved = allocations.allocate(moves).await.expect("moved");
            check_told(moved.into_inner().consequences, hide_holders);
        }
        server.stopped().await;
    }
}
