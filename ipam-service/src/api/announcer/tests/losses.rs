//! Nodes that another store has told what they announce.

use super::*;

/// A node that has an assignment of a server that is gone.
async fn follower_of_a_lost_store() -> Follower {
    let lost = TestServer::start().await.with_pool().await;
    let lost = lost.with_advertisement().await;
    lost.allocate(owner("web"), Backends::Unmanaged).await;
    let mut follower = Follower::new("a");
    follower.connect(&lost).await;
    follower.converge(&lost).await;
    assert_eq!(follower.client.assignments.len(), 1);
    follower.disconnect();
    lost.stopped().await;
    follower
}

#[tokio::test]
async fn a_store_made_in_place_of_a_lost_one_takes_nothing_away_until_an_operator_says_so() {
    let mut follower = follower_of_a_lost_store().await;
    let server = TestServer::start().await;
    follower.connect(&server).await;
    follower.synchronise().await;
    assert!(!follower.client.authoritative);
    assert_eq!(follower.client.assignments.len(), 1);
    // It names the new store by now. What was noticed stays.
    follower.connect(&server).await;
    follower.synchronise().await;
    assert_eq!(follower.client.assignments.len(), 1);
    let request = v1::FinishRecoveryRequest::default();
    let mut clusters = server.clusters().await;
    clusters.finish_recovery(request).await.expect("finished");
    follower.converge(&server).await;
    assert!(follower.client.authoritative);
    assert_eq!(follower.client.assignments.len(), 0);
    drop(follower);
    server.stopped().await;
}

#[tokio::test]
async fn a_cluster_that_is_in_use_is_not_stopped_by_what_a_node_remembers() {
    let mut follower = follower_of_a_lost_store().await;
    let server = TestServer::start().await.with_pool().await;
    let server = server.with_advertisement().await;
    server.allocate(owner("db"), Backends::Unmanaged).await;
    follower.connect(&server).await;
    follower.converge(&server).await;
    assert!(follower.client.authoritative);
    drop(follower);
    server.stopped().await;
}
