//! Topology: one ipam-service; bare gRPC clients as announcers `a` and `b` of cluster `east`, and
//! owners of `east` and `west` on a pool of one address.
//!
//! 1. An announced address goes to another owner only when every node has acknowledged.
//! 2. It comes back to its own owner at once.
//! 3. After `kill -9` a node that has synced without the address has acknowledged it.
//! 4. A node that is away is waited for no longer than the pool says; that is counted and recorded.
//! 5. A pool's reuse delay holds an address back, and ends by itself.
//! 6. When a cluster is deleted its nodes acknowledge on the streams that they have; a node of its
//!    name in a later installation acknowledges nothing for them.
//! 7. After a restart a cut-off node is waited for although its address has no candidate left.
//! 8. A conflict that a node reports keeps the address from its next owner, until an operator
//!    clears it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::ipam::{Ipam, SOON, claim, release};
use pharos_proto::v1;
use pharos_proto::v1::allocate_request::IfRefused;
use pharos_proto::v1::announcer_report::{Conflict, Hello, Report};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::assignment_update::Update;
use pharos_proto::v1::unavailable::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// A node that reads its stream and acknowledges when the test says so.
struct Node {
    reports: mpsc::Sender<v1::AnnouncerReport>,
    updates: Streaming<v1::AssignmentUpdate>,
    assigned: Vec<String>,
    position: u64,
}

impl Node {
    async fn connect(ipam: &Ipam, name: &str) -> Self {
        let (reports, receiver) = mpsc::channel(16);
        let hello = Hello {
            cluster: "east".to_owned(),
            node: name.to_owned(),
            member_endpoint: "192.0.2.1:7946".to_owned(),
            ..Hello::default()
        };
        let hello = v1::AnnouncerReport {
            report: Some(Report::Hello(hello)),
        };
        reports.send(hello).await.unwrap();
        let mut client = AnnouncerServiceClient::new(ipam.channel().unwrap());
        let updates = client
            .announce(ReceiverStream::new(receiver))
            .await
            .unwrap();
        let mut node = Self {
            reports,
            updates: updates.into_inner(),
            assigned: Vec::new(),
            position: 0,
        };
        node.read(|update| matches!(update, Update::Synced(_)))
            .await;
        node
    }

    /// Reads up to an update of which this holds.
    async fn read(&mut self, mut is_last: impl FnMut(&Update) -> bool) {
        loop {
            let update = tokio::time::timeout(SOON, self.updates.message()).await;
            let update = update.expect("in time").expect("no error").expect("no end");
            let update = update.update.expect("not empty");
            let last = is_last(&update);
            match update {
                Update::Bucket(bucket) => {
                    let all = bucket.assignments.into_iter();
                    self.assigned.extend(all.map(|one| one.address));
                }
                Update::Synced(synced) => self.position = synced.position,
                Update::Changes(changes) => {
                    self.position = changes.position;
                    self.assigned.retain(|one| {
                        let mut removed = changes.removals.iter();
                        !removed.any(|key| key.address == *one)
                    });
                    let upserts = changes.upserts.into_iter();
                    self.assigned.extend(upserts.map(|one| one.address));
                }
                Update::Header(_)
                | Update::Members(_)
                | Update::NodeSet(_)
                | Update::BgpPeers(_) => {}
            }
            if last {
                return;
            }
        }
    }

    /// Reads until an address is assigned, or is no more.
    async fn read_until(&mut self, address: &str, assigned: bool) {
        while self.assigned.iter().any(|one| one == address) != assigned {
            self.read(|_| true).await;
        }
    }

    async fn report(&self, report: Report) {
        let report = v1::AnnouncerReport {
            report: Some(report),
        };
        self.reports.send(report).await.unwrap();
    }

    async fn acknowledge(&self) {
        self.report(Report::AppliedPosition(self.position)).await;
    }
}

/// A pool of one address, announced.
async fn start(reuse_delay: u64, reuse_unacknowledged: u64) -> Ipam {
    let ipam = Ipam::start().unwrap();
    let seconds = |seconds: u64| prost_types::Duration {
        seconds: i64::try_from(seconds).unwrap(),
        nanos: 0,
    };
    let pool = v1::Pool {
        name: "pool".to_owned(),
        addresses: vec!["192.0.2.1/32".to_owned()],
        reuse_delay: Some(seconds(reuse_delay)),
        reuse_unacknowledged: Some(seconds(reuse_unacknowledged)),
        ..v1::Pool::default()
    };
    let request = v1::ApplyPoolRequest {
        pool: Some(pool),
        ..v1::ApplyPoolRequest::default()
    };
    ipam.pools().unwrap().apply_pool(request).await.unwrap();
    let advertisement = v1::Advertisement {
        name: "all".to_owned(),
        protocol: Some(v1::advertisement::Protocol::L2(Default::default())),
        ..v1::Advertisement::default()
    };
    let request = v1::ApplyAdvertisementRequest {
        advertisement: Some(advertisement),
        ..v1::ApplyAdvertisementRequest::default()
    };
    let channel = ipam.channel().unwrap();
    let mut client = v1::advertisement_service_client::AdvertisementServiceClient::new(channel);
    client.apply_advertisement(request).await.unwrap();
    ipam
}

const ADDRESS: &str = "192.0.2.1";

async fn take(ipam: &Ipam, owner: &str) -> Result<v1::Allocation, tonic::Status> {
    let answer = ipam.allocations().unwrap().allocate(claim(owner)).await?;
    Ok(answer.into_inner().allocation.expect("an allocation"))
}

async fn queue(ipam: &Ipam, owner: &str) -> v1::Allocation {
    let request = v1::AllocateRequest {
        if_refused: IfRefused::Queue.into(),
        ..claim(owner)
    };
    let answer = ipam.allocations().unwrap().allocate(request).await.unwrap();
    answer.into_inner().allocation.expect("an allocation")
}

async fn give_back(ipam: &Ipam, owner: &str) {
    ipam.allocations()
        .unwrap()
        .release(release(owner))
        .await
        .unwrap();
}

async fn holds(ipam: &Ipam, owner: &str) -> bool {
    let request = v1::GetAllocationRequest {
        owner: claim(owner).owner,
    };
    let mut client = ipam.allocations().unwrap();
    let answer = client.get_allocation(request).await.unwrap().into_inner();
    answer.allocation.expect("an allocation").addresses == [ADDRESS]
}

/// Waits until an owner that waited holds the address.
async fn granted(ipam: &Ipam, owner: &str) {
    let wait = async {
        while !holds(ipam, owner).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, wait)
        .await
        .expect("it comes free in time");
}

/// An adapter says that this node may not announce.
async fn report_unavailable(ipam: &Ipam, node: &str) {
    use v1::sync_facts_request::{Fact, Hello};
    let hello = Hello {
        cluster: "east".to_owned(),
        ..Hello::default()
    };
    let fact = v1::NodeFact {
        name: node.to_owned(),
        unavailable_reason: "NetworkUnavailable".to_owned(),
        ..v1::NodeFact::default()
    };
    let facts = [Fact::Hello(hello), Fact::Node(fact)];
    let facts = facts.map(|fact| v1::SyncFactsRequest { fact: Some(fact) });
    let channel = ipam.channel().unwrap();
    let mut client = v1::advertisement_service_client::AdvertisementServiceClient::new(channel);
    let answer = client.sync_facts(tokio_stream::iter(facts)).await;
    answer.unwrap();
}

async fn unavailable(ipam: &Ipam) -> Vec<v1::Unavailable> {
    let request = v1::ListUnavailableRequest::default();
    let mut client = ipam.reservations().unwrap();
    let listed = client.list_unavailable(request).await.unwrap();
    listed.into_inner().unavailable
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_address_waits_for_every_node_and_comes_back_to_its_owner_at_once() {
    let ipam = start(0, 300).await;
    let mut a = Node::connect(&ipam, "a").await;
    let mut b = Node::connect(&ipam, "b").await;
    take(&ipam, "east/x/web").await.unwrap();
    for node in [&mut a, &mut b] {
        node.read_until(ADDRESS, true).await;
        node.acknowledge().await;
    }
    give_back(&ipam, "east/x/web").await;
    let refused = take(&ipam, "west/x/web").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("have yet to acknowledge"),
        "{refused:?}"
    );
    let rows = unavailable(&ipam).await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].reason(), rows[0].awaited), (Reason::Draining, 2));
    assert_eq!(rows[0].awaited_nodes, ["a", "b"]);

    take(&ipam, "east/x/web").await.unwrap();
    assert_eq!(unavailable(&ipam).await, []);
    give_back(&ipam, "east/x/web").await;
    assert_eq!(
        queue(&ipam, "west/x/web").await.state(),
        v1::allocation::State::Pending
    );
    // What a node has acknowledged before counts for nothing.
    a.acknowledge().await;
    b.acknowledge().await;
    for node in [&mut a, &mut b] {
        // Once for each time that it was given back.
        node.read_until(ADDRESS, false).await;
        node.read_until(ADDRESS, true).await;
        node.read_until(ADDRESS, false).await;
    }
    a.acknowledge().await;
    assert!(!holds(&ipam, "west/x/web").await);
    b.acknowledge().await;
    granted(&ipam, "west/x/web").await;
    assert_eq!(unavailable(&ipam).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_a_node_that_has_synced_without_the_address_has_acknowledged_it() {
    let mut ipam = start(0, 300).await;
    let mut a = Node::connect(&ipam, "a").await;
    take(&ipam, "east/x/web").await.unwrap();
    a.read_until(ADDRESS, true).await;
    a.acknowledge().await;
    give_back(&ipam, "east/x/web").await;
    queue(&ipam, "west/x/web").await;
    ipam.restart().unwrap();
    assert!(!holds(&ipam, "west/x/web").await);
    let rows = unavailable(&ipam).await;
    assert_eq!(rows[0].awaited_nodes, ["a"]);
    let again = Node::connect(&ipam, "a").await;
    assert_eq!(again.assigned, [""; 0]);
    again.acknowledge().await;
    granted(&ipam, "west/x/web").await;
    ipam.terminate().unwrap();
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_a_deleted_cluster_acknowledge_and_not_their_namesakes() {
    let ipam = start(0, 300).await;
    let mut old = Node::connect(&ipam, "a").await;
    take(&ipam, "east/x/web").await.unwrap();
    old.read_until(ADDRESS, true).await;
    old.acknowledge().await;
    let request = v1::DeleteClusterRequest {
        name: "east".to_owned(),
        ..v1::DeleteClusterRequest::default()
    };
    let channel = ipam.channel().unwrap();
    let mut clusters = v1::cluster_service_client::ClusterServiceClient::new(channel);
    clusters.delete_cluster(request).await.unwrap();
    queue(&ipam, "west/x/web").await;
    old.read_until(ADDRESS, false).await;

    let namesake = Node::connect(&ipam, "a").await;
    assert_eq!(namesake.assigned, [""; 0]);
    namesake.acknowledge().await;
    // A call of the same connection is answered after that.
    assert_eq!(unavailable(&ipam).await[0].awaited_nodes, ["a"]);
    assert!(!holds(&ipam, "west/x/web").await);

    old.acknowledge().await;
    granted(&ipam, "west/x/web").await;
    let ended = tokio::time::timeout(SOON, old.updates.message()).await;
    let ended = ended.expect("in time").expect_err("the stream ends");
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_a_cut_off_node_is_waited_for_although_nobody_is_a_candidate() {
    let mut ipam = start(0, 300).await;
    let mut a = Node::connect(&ipam, "a").await;
    take(&ipam, "east/x/web").await.unwrap();
    a.read_until(ADDRESS, true).await;
    a.acknowledge().await;
    drop(a);
    // The cluster sees that the node is cut off; the node goes on answering.
    report_unavailable(&ipam, "a").await;
    ipam.restart().unwrap();
    give_back(&ipam, "east/x/web").await;
    queue(&ipam, "west/x/web").await;
    assert!(!holds(&ipam, "west/x/web").await);
    assert_eq!(unavailable(&ipam).await[0].awaited_nodes, ["a"]);
    let back = Node::connect(&ipam, "a").await;
    assert_eq!(back.assigned, [""; 0]);
    back.acknowledge().await;
    granted(&ipam, "west/x/web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_waited_for_no_longer_than_the_pool_says() {
    let ipam = start(0, 1).await;
    let mut a = Node::connect(&ipam, "a").await;
    take(&ipam, "east/x/web").await.unwrap();
    a.read_until(ADDRESS, true).await;
    drop(a);
    give_back(&ipam, "east/x/web").await;
    queue(&ipam, "west/x/web").await;
    granted(&ipam, "west/x/web").await;
    let request = v1::ListChangesRequest {
        kind: v1::change::Kind::Unavailable.into(),
        ..v1::ListChangesRequest::default()
    };
    let changes = ipam.history().unwrap().list_changes(request).await.unwrap();
    let mut changes = changes.into_inner().changes.into_iter();
    let told = changes.find_map(|change| match change.subject {
        Some(v1::change::Subject::Unavailable(edit)) => edit.after.filter(|it| it.unacknowledged),
        _ => None,
    });
    assert_eq!(told.expect("an entry").awaited_nodes, ["a"]);
    let metrics = pharos_testbed::http::get(ipam.admin(), "/metrics", SOON)
        .unwrap()
        .1;
    let counted = "pharos_ipam_reuse_unacknowledged_total 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reuse_delay_ends_by_itself() {
    let ipam = start(1, 300).await;
    take(&ipam, "east/x/web").await.unwrap();
    give_back(&ipam, "east/x/web").await;
    let refused = take(&ipam, "west/x/web").await.unwrap_err();
    assert!(refused.message().contains("rests for 1 s"), "{refused:?}");
    let waits = queue(&ipam, "west/x/web").await.refusal.expect("it waits");
    assert_eq!(waits.reason(), v1::refusal::Reason::AddressDraining);
    granted(&ipam, "west/x/web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_keeps_the_address_from_its_next_owner_until_it_is_cleared() {
    let ipam = start(0, 300).await;
    let mut a = Node::connect(&ipam, "a").await;
    take(&ipam, "east/x/web").await.unwrap();
    a.read_until(ADDRESS, true).await;
    let conflict = |address: &str| {
        Report::Conflict(Conflict {
            address: address.to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            own_mac: "02:00:00:00:00:02".to_owned(),
            ..Conflict::default()
        })
    };
    a.report(conflict("192.0.2.77")).await;
    a.report(conflict(ADDRESS)).await;
    let wait = async {
        while unavailable(&ipam).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, wait)
        .await
        .expect("recorded in time");
    let rows = unavailable(&ipam).await;
    assert_eq!((rows.len(), rows[0].reason()), (1, Reason::Quarantined));
    assert!(holds(&ipam, "east/x/web").await);
    give_back(&ipam, "east/x/web").await;
    a.read_until(ADDRESS, false).await;
    a.acknowledge().await;
    queue(&ipam, "west/x/web").await;
    let clear = v1::ClearUnavailableRequest {
        address: ADDRESS.to_owned(),
        ..v1::ClearUnavailableRequest::default()
    };
    let mut client = ipam.reservations().unwrap();
    let cleared = client
        .clear_unavailable(clear.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(
        cleared
            .cleared
            .iter()
            .any(|row| row.reason() == Reason::Quarantined)
    );
    granted(&ipam, "west/x/web").await;
    let nothing = client.clear_unavailable(clear).await.unwrap_err();
    assert_eq!(nothing.code(), Code::NotFound);
}
