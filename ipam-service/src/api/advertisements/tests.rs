//! `AdvertisementService` over gRPC.

use pharos_proto::v1::announcer_report::{Hello, Report};
use pharos_proto::v1::claim::Backends;
use pharos_proto::v1::sync_facts_request::{Complete, Fact, Hello as FactsHello};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic_types::StatusExt as _;

use super::*;
use crate::api::testing::{TestServer, l2_advertisement, owner, until, within};

fn apply(advertisement: v1::Advertisement) -> v1::ApplyAdvertisementRequest {
    v1::ApplyAdvertisementRequest {
        advertisement: Some(advertisement),
        ..v1::ApplyAdvertisementRequest::default()
    }
}

fn of_cluster(cluster: &str, name: &str) -> v1::Advertisement {
    v1::Advertisement {
        cluster: cluster.to_owned(),
        ..l2_advertisement(name)
    }
}

async fn listed(server: &TestServer, cluster: &str) -> Vec<String> {
    let request = v1::ListAdvertisementsRequest {
        cluster: cluster.to_owned(),
        ..v1::ListAdvertisementsRequest::default()
    };
    let mut client = server.advertisements().await;
    let response = client.list_advertisements(request).await.expect("listed");
    let found = response.into_inner().advertisements.into_iter();
    found
        .map(|one| format!("{}/{}", one.cluster, one.name))
        .collect()
}

#[tokio::test]
async fn an_advertisement_is_created_replaced_found_and_deleted() {
    let server = TestServer::start().await;
    let mut client = server.advertisements().await;
    let one = v1::Advertisement {
        pools: vec!["b".to_owned(), "a".to_owned()],
        ..l2_advertisement("default")
    };
    let applied = client.apply_advertisement(apply(one.clone())).await;
    let applied = applied.expect("applied").into_inner().advertisement;
    let applied = applied.expect("an advertisement");
    assert_eq!(applied.pools, ["a", "b"], "canonical");
    assert!(applied.revision > 0);
    let again = client.apply_advertisement(apply(one)).await;
    let again = again.expect("applied").into_inner().advertisement;
    assert_eq!(
        again.as_ref(),
        Some(&applied),
        "an equal one changes nothing"
    );

    let get = v1::GetAdvertisementRequest {
        name: "default".to_owned(),
        cluster: String::new(),
    };
    let found = client.get_advertisement(get.clone()).await;
    assert_eq!(
        found.expect("found").into_inner().advertisement,
        Some(applied)
    );

    let delete = v1::DeleteAdvertisementRequest {
        name: "default".to_owned(),
        ..v1::DeleteAdvertisementRequest::default()
    };
    let deleted = client.delete_advertisement(delete.clone()).await;
    deleted.expect("deleted");
    let gone = client.get_advertisement(get).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    let gone = client.delete_advertisement(delete).await;
    assert_eq!(gone.expect_err("gone").code(), Code::NotFound);
    server.stopped().await;
}

#[tokio::test]
async fn what_is_only_validated_changes_nothing() {
    let server = TestServer::start().await;
    let mut client = server.advertisements().await;
    let request = v1::ApplyAdvertisementRequest {
        validate_only: true,
        ..apply(l2_advertisement("default"))
    };
    let response = client.apply_advertisement(request).await.expect("valid");
    let would_be = response.into_inner().advertisement.expect("what would be");
    assert_eq!(would_be.name, "default");
    assert!(listed(&server, "").await.is_empty());
    let sync = |validate_only| v1::SyncAdvertisementsRequest {
        cluster: "east".to_owned(),
        advertisements: vec![l2_advertisement("b"), l2_advertisement("a")],
        validate_only,
        ..v1::SyncAdvertisementsRequest::default()
    };
    let would_be = client.sync_advertisements(sync(true)).await.expect("valid");
    assert!(listed(&server, "").await.is_empty());
    let done = client.sync_advertisements(sync(false)).await;
    assert_eq!(would_be.into_inner(), done.expect("synced").into_inner());
    server.stopped().await;
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let server = TestServer::start().await;
    let mut client = server.advertisements().await;
    let bad = v1::Advertisement {
        pools: vec![String::new()],
        ..v1::Advertisement::default()
    };
    let refused = client.apply_advertisement(apply(bad)).await;
    let refused = refused.expect_err("invalid");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    let violations = &details.bad_request().expect("BadRequest").field_violations;
    let fields: Vec<_> = violations.iter().map(|bad| bad.field.as_str()).collect();
    let expected = [
        "advertisement.name",
        "advertisement.pools[0]",
        "advertisement.l2",
    ];
    assert_eq!(fields, expected);
    server.stopped().await;
}

#[tokio::test]
async fn a_sync_replaces_the_set_of_its_cluster_and_of_no_other() {
    let server = TestServer::start().await;
    let mut client = server.advertisements().await;
    for one in [
        of_cluster("", "all"),
        of_cluster("west", "w"),
        of_cluster("east", "old"),
    ] {
        client
            .apply_advertisement(apply(one))
            .await
            .expect("applied");
    }
    let sync = |names: &[&str]| v1::SyncAdvertisementsRequest {
        cluster: "east".to_owned(),
        advertisements: names.iter().map(|name| l2_advertisement(name)).collect(),
        ..v1::SyncAdvertisementsRequest::default()
    };
    let response = client.sync_advertisements(sync(&["one", "two"])).await;
    let response = response.expect("synced").into_inner();
    assert_eq!(response.advertisements.len(), 2);
    assert!(response.advertisements.iter().all(|one| one.revision > 0));
    assert_eq!(listed(&server, "east").await, ["east/one", "east/two"]);
    assert_eq!(
        listed(&server, "").await,
        ["/all", "east/one", "east/two", "west/w"]
    );
    client.sync_advertisements(sync(&[])).await.expect("synced");
    assert_eq!(listed(&server, "").await, ["/all", "west/w"]);
    server.stopped().await;
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let server = TestServer::start().await;
    let mut client = server.advertisements().await;
    for number in 0..5 {
        let one = l2_advertisement(&format!("ad{number}"));
        client
            .apply_advertisement(apply(one))
            .await
            .expect("applied");
    }
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListAdvertisementsRequest {
            page_size: 2,
            page_token,
            ..v1::ListAdvertisementsRequest::default()
        };
        let page = client.list_advertisements(request).await.expect("listed");
        let page = page.into_inner();
        assert!(page.advertisements.len() <= 2);
        found.extend(page.advertisements.into_iter().map(|one| one.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["ad0", "ad1", "ad2", "ad3", "ad4"]);
    server.stopped().await;
}

/// An adapter's stream of facts.
struct Adapter {
    messages: mpsc::Sender<v1::SyncFactsRequest>,
    call: JoinHandle<Result<(), Status>>,
}

impl Adapter {
    async fn connect(server: &TestServer, uid: &str) -> Self {
        let (messages, receiver) = mpsc::channel(64);
        let mut client = server.advertisements().await;
        let call = tokio::spawn(async move {
            let stream = ReceiverStream::new(receiver);
            client.sync_facts(stream).await.map(|_| ())
        });
        let adapter = Self { messages, call };
        let hello = FactsHello {
            cluster: "east".to_owned(),
            cluster_uid: uid.to_owned(),
            session: "test".to_owned(),
        };
        adapter.say(Fact::Hello(hello)).await;
        adapter
    }

    async fn say(&self, fact: Fact) {
        let message = v1::SyncFactsRequest { fact: Some(fact) };
        // A stream that the server has refused takes no more; its status tells.
        let _refused = self.messages.send(message).await;
    }

    async fn serve(&self, name: &str, nodes: &[&str]) {
        let fact = v1::BackendsFact {
            owner: Some(owner(name)),
            any_node: false,
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        };
        self.say(Fact::Backends(fact)).await;
    }

    async fn complete(&self) {
        self.say(Fact::Complete(Complete {})).await;
    }

    /// Ends the stream in good order.
    async fn end(self) -> Result<(), Status> {
        drop(self.messages);
        within(self.call).await.expect("the call does not panic")
    }

    /// As if the adapter had been killed.
    async fn kill(self) {
        self.call.abort();
        let aborted = within(self.call).await.expect_err("aborted");
        assert!(aborted.is_cancelled());
    }
}

/// A server with nodes a, b and c and an allocation `web` whose backends are reported.
async fn with_nodes() -> (TestServer, Vec<Streaming<v1::AssignmentUpdate>>) {
    let server = TestServer::start()
        .await
        .with_pool()
        .await
        .with_advertisement()
        .await;
    let mut announcers = Vec::new();
    for node in ["a", "b", "c"] {
        let hello = Hello {
            cluster: "east".to_owned(),
            node: node.to_owned(),
            ..Hello::default()
        };
        let report = v1::AnnouncerReport {
            report: Some(Report::Hello(hello)),
        };
        let mut client = server.announcers().await;
        let stream = client.announce(tokio_stream::iter([report])).await;
        announcers.push(stream.expect("welcome").into_inner());
    }
    server.allocate(owner("web"), Backends::Reported).await;
    (server, announcers)
}

async fn announced_by(server: &TestServer, expected: &[&str]) {
    until(&format!("announced by {expected:?}"), || async {
        let listed = server.assignments("east").await;
        let candidates = listed.assignments.first().map(|one| one.candidates);
        let set = listed
            .node_sets
            .iter()
            .find(|set| Some(set.id) == candidates);
        set.map_or(Vec::new(), |set| set.nodes.clone()) == expected
    })
    .await;
}

#[tokio::test]
async fn backends_that_are_reported_become_candidates() {
    let (server, announcers) = with_nodes().await;
    announced_by(&server, &[]).await;
    let adapter = Adapter::connect(&server, "uid-1").await;
    adapter.serve("web", &["a", "b"]).await;
    announced_by(&server, &["a", "b"]).await;
    let node = v1::NodeFact {
        name: "a".to_owned(),
        unavailable_reason: "NetworkUnavailable".to_owned(),
        ..v1::NodeFact::default()
    };
    adapter.say(Fact::Node(node)).await;
    announced_by(&server, &["b"]).await;
    let back = v1::NodeFact {
        name: "a".to_owned(),
        ..v1::NodeFact::default()
    };
    adapter.say(Fact::NodeRemoved("a".to_owned())).await;
    adapter.serve("web", &["a", "b", "c"]).await;
    announced_by(&server, &["b", "c"]).await;
    adapter.say(Fact::Node(back)).await;
    announced_by(&server, &["a", "b", "c"]).await;
    adapter.say(Fact::BackendsRemoved(owner("web"))).await;
    announced_by(&server, &[]).await;
    adapter.end().await.expect("a good end");
    drop(announcers);
    server.stopped().await;
}

#[tokio::test]
async fn what_a_complete_stream_has_not_named_is_dropped() {
    let (server, announcers) = with_nodes().await;
    let first = Adapter::connect(&server, "uid-1").await;
    first.serve("web", &["a"]).await;
    first.complete().await;
    announced_by(&server, &["a"]).await;
    first.end().await.expect("a good end");
    announced_by(&server, &["a"]).await;
    let second = Adapter::connect(&server, "uid-1").await;
    second.complete().await;
    announced_by(&server, &[]).await;
    second.end().await.expect("a good end");
    drop(announcers);
    server.stopped().await;
}

#[tokio::test]
async fn when_the_newest_adapter_is_killed_the_values_of_another_count() {
    let (server, announcers) = with_nodes().await;
    let old = Adapter::connect(&server, "uid-1").await;
    old.serve("web", &["a"]).await;
    old.complete().await;
    announced_by(&server, &["a"]).await;
    let new = Adapter::connect(&server, "uid-1").await;
    new.serve("web", &["b"]).await;
    new.complete().await;
    announced_by(&server, &["b"]).await;
    new.kill().await;
    announced_by(&server, &["a"]).await;
    old.serve("web", &["c"]).await;
    announced_by(&server, &["c"]).await;
    old.end().await.expect("a good end");
    announced_by(&server, &["c"]).await;
    drop(announcers);
    server.stopped().await;
}

#[tokio::test]
async fn facts_survive_a_restart() {
    let (server, announcers) = with_nodes().await;
    let adapter = Adapter::connect(&server, "uid-1").await;
    adapter.serve("web", &["b"]).await;
    announced_by(&server, &["b"]).await;
    adapter.end().await.expect("a good end");
    drop(announcers);
    let server = server.restarted().await;
    announced_by(&server, &["b"]).await;
    server.stopped().await;
}

#[tokio::test]
async fn another_installation_under_the_same_name_is_refused() {
    let server = TestServer::start().await;
    let first = Adapter::connect(&server, "uid-1").await;
    first.complete().await;
    first.end().await.expect("a good end");
    let second = Adapter::connect(&server, "uid-2").await;
    let refused = second.end().await.expect_err("another uid");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = refused.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!(info.reason, "CLUSTER_UID_MISMATCH");
    server.stopped().await;
}

#[tokio::test]
async fn a_bad_fact_ends_the_stream_with_its_field() {
    let server = TestServer::start().await;
    let adapter = Adapter::connect(&server, "").await;
    adapter.say(Fact::NodeRemoved(String::new())).await;
    let refused = adapter.end().await.expect_err("invalid");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("node_removed"), "{refused}");

    let (messages, receiver) = mpsc::channel(1);
    let complete = Some(Fact::Complete(Complete {}));
    let first = v1::SyncFactsRequest { fact: complete };
    messages.send(first).await.expect("open");
    let mut client = server.advertisements().await;
    let refused = within(client.sync_facts(ReceiverStream::new(receiver))).await;
    let refused = refused.expect_err("no hello");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("hello"), "{refused}");
    drop(messages);
    server.stopped().await;
}

/// What they have said is forgotten with the cluster, so they have to say it again.
#[tokio::test]
async fn fact_streams_end_with_their_cluster() {
    let (server, announcers) = with_nodes().await;
    let old = Adapter::connect(&server, "uid-1").await;
    old.serve("web", &["a"]).await;
    old.complete().await;
    announced_by(&server, &["a"]).await;
    let new = Adapter::connect(&server, "uid-1").await;
    new.serve("web", &["b"]).await;
    announced_by(&server, &["b"]).await;
    let mut clusters = server.clusters().await;
    let delete = v1::DeleteClusterRequest {
        name: "east".to_owned(),
        ..v1::DeleteClusterRequest::default()
    };
    clusters.delete_cluster(delete).await.expect("deleted");
    for adapter in [old, new] {
        let ended = within(adapter.call).await.expect("no panic");
        let ended = ended.expect_err("the cluster is gone");
        assert_eq!(ended.code(), Code::Unavailable);
        assert!(ended.message().contains("deleted"), "{ended}");
    }
    // Neither of them has made the cluster known again by giving the word to the other.
    let all = clusters.list_clusters(v1::ListClustersRequest::default());
    assert_eq!(all.await.expect("listed").into_inner().clusters, []);
    drop(announcers);
    server.stopped().await;
}

#[tokio::test]
async fn fact_streams_end_as_unavailable_when_the_server_stops() {
    let server = TestServer::start().await;
    let adapter = Adapter::connect(&server, "uid-1").await;
    adapter.complete().await;
    until("the cluster is known", || async {
        server.assignments("east").await.authoritative
    })
    .await;
    server.stop();
    let ended = within(adapter.call).await.expect("no panic");
    assert_eq!(ended.expect_err("ended").code(), Code::Unavailable);
    server.stopped().await;
}
