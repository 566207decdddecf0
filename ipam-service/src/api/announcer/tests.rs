//! The node stream over gRPC, against a client that keeps to the rules of `announcer.proto`.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::digest::bucket_of;
use pharos_proto::feature::FENCED;
use pharos_proto::v1::announcer_report::Hello;
use pharos_proto::v1::claim::Backends;
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::TestRunner;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::api::testing::{TestServer, owner, until, within};
use crate::feed::assignments::testing::Client;

mod bgp;
mod leases;
mod losses;

fn report(report: Report) -> v1::AnnouncerReport {
    v1::AnnouncerReport {
        report: Some(report),
    }
}

fn hello(node: &str) -> Hello {
    Hello {
        cluster: "east".to_owned(),
        node: node.to_owned(),
        member_endpoint: "192.0.2.250:7946".to_owned(),
        features: vec![FENCED.to_owned()],
        ..Hello::default()
    }
}

/// An announcer: what it has, and its stream while it is connected.
struct Follower {
    node: String,
    client: Client,
    stream: Option<(
        mpsc::Sender<v1::AnnouncerReport>,
        Streaming<v1::AssignmentUpdate>,
    )>,
}

impl Follower {
    fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            client: Client::default(),
            stream: None,
        }
    }

    async fn connect(&mut self, server: &TestServer) {
        self.client.begin();
        let (reports, receiver) = mpsc::channel(16);
        let hello = Hello {
            store_id: self.client.store_id.clone(),
            digests: self.client.digests().to_wire(),
            ..hello(&self.node)
        };
        let sent = reports.send(report(Report::Hello(hello))).await;
        sent.expect("the stream is open");
        let mut announcers = server.announcers().await;
        let stream = announcers.announce(ReceiverStream::new(receiver)).await;
        let stream = stream.expect("welcome").into_inner();
        self.stream = Some((reports, stream));
    }

    fn disconnect(&mut self) {
        self.stream = None;
    }

    async fn next(&mut self) -> Result<Option<v1::AssignmentUpdate>, Status> {
        let (_, stream) = self.stream.as_mut().expect("connected");
        within(stream.message()).await
    }

    /// Follows the stream until it has what the server lists.
    async fn converge(&mut self, server: &TestServer) {
        let converge = async {
            loop {
                let listed = server.assignments("east").await;
                if self.client.synchronisations > 0 && self.client.equals(&listed) {
                    return;
                }
                let update = self.next().await.expect("the stream goes on");
                self.client.apply(update.expect("the stream goes on"));
            }
        };
        within(converge).await;
    }

    /// Reads up to the end of the synchronisation that a new connection opens with.
    async fn synchronise(&mut self) {
        let before = self.client.synchronisations;
        while self.client.synchronisations == before {
            let update = self.next().await.expect("the stream goes on");
            self.client.apply(update.expect("the stream goes on"));
        }
    }
}

async fn refusal_of(server: &TestServer, reports: Vec<v1::AnnouncerReport>) -> Status {
    let mut announcers = server.announcers().await;
    let outcome = within(announcers.announce(tokio_stream::iter(reports))).await;
    match outcome {
        Err(status) => status,
        Ok(response) => {
            let mut updates = response.into_inner();
            loop {
                match within(updates.message()).await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ended without a status"),
                    Err(status) => return status,
                }
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_does_not_open_with_a_good_hello_is_refused() {
    let server = TestServer::start().await;
    let nameless = Hello {
        node: String::new(),
        digests: vec![1, 2, 3],
        ..hello("a")
    };
    let cases = [
        (vec![], vec!["hello"]),
        (vec![report(Report::AppliedPosition(7))], vec!["hello"]),
        (vec![v1::AnnouncerReport::default()], vec!["hello"]),
        (
            vec![report(Report::Hello(nameless))],
            vec!["hello.node", "hello.digests"],
        ),
        (
            vec![
                report(Report::Hello(hello("a"))),
                report(Report::Hello(hello("a"))),
            ],
            vec!["hello"],
        ),
    ];
    for (reports, fields) in cases {
        let status = refusal_of(&server, reports).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        for field in fields {
            assert!(status.message().contains(field), "{status}");
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn an_announcer_that_calls_becomes_a_member_and_a_candidate() {
    let server = TestServer::start()
        .await
        .with_pool()
        .await
        .with_advertisement()
        .await;
    let address = server.allocate(owner("web"), Backends::Unmanaged).await;
    assert!(server.assignments("east").await.assignments.is_empty());
    let mut follower = Follower::new("a");
    follower.connect(&server).await;
    follower.converge(&server).await;
    let assignments: Vec<_> = follower.client.assignments.values().collect();
    assert_eq!(assignments.len(), 1);
    assert_eq!(assignments[0].address, address);
    assert_eq!(assignments[0].nodes, ["a"]);
    assert_eq!(assignments[0].owners, ["east/default/web"]);
    assert_eq!(follower.client.members[0].node, "a");
    assert!(follower.client.authoritative);
    drop(follower);
    server.stopped().await;
}

#[tokio::test]
async fn an_announcer_that_only_listens_after_its_hello_is_served() {
    let server = TestServer::start().await;
    let mut announcers = server.announcers().await;
    let only_hello = tokio_stream::iter([report(Report::Hello(hello("a")))]);
    let updates = announcers.announce(only_hello).await.expect("welcome");
    let mut updates = updates.into_inner();
    let mut client = Client::default();
    while client.synchronisations == 0 {
        let update = within(updates.message()).await.expect("an update");
        client.apply(update.expect("the stream goes on"));
    }
    let mut other = Follower::new("b");
    other.connect(&server).await;
    while client.members.len() < 2 {
        let update = within(updates.message()).await.expect("an update");
        client.apply(update.expect("the stream goes on"));
    }
    drop((updates, announcers, other));
    server.stopped().await;
}

#[tokio::test]
async fn applied_positions_are_known_while_a_stream_is_open() {
    let server = TestServer::start().await;
    let mut follower = Follower::new("a");
    follower.connect(&server).await;
    follower.synchronise().await;
    let (reports, _) = follower.stream.as_ref().expect("connected");
    let of_a_later_version = v1::AnnouncerReport::default();
    for told in [of_a_later_version, report(Report::AppliedPosition(3))] {
        reports.send(told).await.expect("the stream is open");
    }
    let connections = || server.connections.list();
    until("the position arrives", || async {
        connections()
            .first()
            .is_some_and(|one| one.position == Some(3))
    })
    .await;
    follower.disconnect();
    until("the stream is gone", || async { connections().is_empty() }).await;
    server.stopped().await;
}

#[tokio::test]
async fn only_what_a_node_says_to_answer_for_was_announced() {
    let server = TestServer::start()
        .await
        .with_pool()
        .await
        .with_advertisement()
        .await;
    let address = server.allocate(owner("web"), Backends::Unmanaged).await;
    let mut follower = Follower::new("a");
    follower.connect(&server).await;
    follower.converge(&server).await;
    let probed = async || {
        let listed = server.assignments("east").await.assignments;
        listed.iter().map(|one| one.probe).collect::<Vec<bool>>()
    };
    assert_eq!(probed().await, [true]);
    let group = server.assignments("east").await.assignments[0].group;
    let owns = |answered: &[&str]| {
        report(Report::Status(v1::announcer_report::Status {
            owned: vec![v1::Ownership {
                group,
                answered: answered.iter().map(ToString::to_string).collect(),
                ..v1::Ownership::default()
            }],
            ..v1::announcer_report::Status::default()
        }))
    };
    let (reports, _) = follower.stream.as_ref().expect("connected");
    // It has no interface for it, or does not know yet that it is in the group.
    for told in [owns(&[]), report(Report::AppliedPosition(3))] {
        reports.send(told).await.expect("the stream is open");
    }
    until("both are read", || async {
        let mut connections = server.connections.list().into_iter();
        connections.any(|one| one.position == Some(3))
    })
    .await;
    assert_eq!(probed().await, [true]);
    let told = reports.send(owns(&[&address])).await;
    told.expect("the stream is open");
    until("it is remembered", async || probed().await == [false]).await;
    drop(follower);
    server.stopped().await;
}

#[tokio::test]
async fn a_stream_is_ended_when_a_later_one_of_its_node_has_ended() {
    let server = TestServer::start().await;
    let [mut first, mut second] = [(); 2].map(|()| Follower::new("a"));
    for follower in [&mut first, &mut second] {
        follower.connect(&server).await;
        follower.synchronise().await;
    }
    second.disconnect();
    let status = loop {
        match first.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("a later stream"), "{status}");
    first.connect(&server).await;
    first.synchronise().await;
    drop(first);
    server.stopped().await;
}

#[tokio::test]
async fn streams_end_as_unavailable_when_the_server_stops() {
    let server = TestServer::start().await;
    let mut follower = Follower::new("a");
    follower.connect(&server).await;
    follower.synchronise().await;
    server.stop();
    let status = loop {
        match follower.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    drop(follower);
    server.stopped().await;
}

#[tokio::test]
async fn a_restart_changes_no_assignment_and_sends_no_bucket_again() {
    let server = TestServer::start()
        .await
        .with_pool()
        .await
        .with_advertisement()
        .await;
    let mut followers = ["a", "b", "c", "d"].map(Follower::new);
    for follower in &mut followers {
        follower.connect(&server).await;
    }
    for number in 0..20 {
        let owner = owner(&format!("s{number}"));
        server.allocate(owner, Backends::Unmanaged).await;
    }
    for follower in &mut followers {
        follower.converge(&server).await;
        follower.disconnect();
    }
    let before = server.assignments("east").await;
    let server = server.restarted().await;
    assert_eq!(server.assignments("east").await, before);
    for follower in &mut followers {
        follower.connect(&server).await;
        follower.synchronise().await;
        assert_eq!(follower.client.buckets_received, 0);
        assert!(follower.client.equals(&before));
    }
    drop(followers);
    server.stopped().await;
}

#[tokio::test]
async fn listing_needs_a_cluster_and_knows_nothing_of_a_strange_one() {
    let server = TestServer::start().await;
    let mut announcers = server.announcers().await;
    let refused = announcers
        .list_assignments(v1::ListAssignmentsRequest::default())
        .await
        .expect_err("no cluster");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let listed = server.assignments("strange").await;
    assert!(listed.assignments.is_empty() && !listed.authoritative);
    server.stopped().await;
}

#[derive(Debug, Clone)]
enum Edit {
    Allocate(usize),
    Release(usize),
    Advertise(bool),
    Connect(usize),
    Disconnect(usize),
    Converge(usize),
}

fn edits() -> Vec<Edit> {
    let edit = proptest::prop_oneof![
        6 => (0..12_usize).prop_map(Edit::Allocate),
        4 => (0..12_usize).prop_map(Edit::Release),
        1 => proptest::bool::ANY.prop_map(Edit::Advertise),
        3 => (0..3_usize).prop_map(Edit::Connect),
        2 => (0..3_usize).prop_map(Edit::Disconnect),
        2 => (0..3_usize).prop_map(Edit::Converge),
    ];
    let mut runner = TestRunner::default();
    let edits = proptest::collection::vec(edit, 60..=60);
    let tree = edits.new_tree(&mut runner).expect("edits");
    tree.current()
}

async fn advertise(server: &TestServer, present: bool) {
    let mut client = server.advertisements().await;
    if present {
        let request = v1::ApplyAdvertisementRequest {
            advertisement: Some(crate::api::testing::l2_advertisement("default")),
            ..v1::ApplyAdvertisementRequest::default()
        };
        client.apply_advertisement(request).await.expect("applied");
    } else {
        let request = v1::DeleteAdvertisementRequest {
            name: "default".to_owned(),
            ..v1::DeleteAdvertisementRequest::default()
        };
        // It may be gone already.
        let _gone = client.delete_advertisement(request).await;
    }
}

/// Buckets in which what the client has differs from what the server lists.
fn differing(client: &Client, listed: &v1::ListAssignmentsResponse) -> BTreeSet<usize> {
    let own: BTreeSet<_> = client.assignments.values().map(encoded).collect();
    let theirs: BTreeSet<_> = listed.assignments.iter().map(encoded).collect();
    let different = own.symmetric_difference(&theirs);
    different.map(|(bucket, _)| *bucket).collect()
}

fn encoded(one: &v1::Assignment) -> (usize, Vec<u8>) {
    use prost::Message as _;
    let bucket = bucket_of(&one.address_space, &one.address).expect("an address");
    (bucket, one.encode_to_vec())
}

#[tokio::test]
async fn announcers_that_come_and_go_through_random_edits_always_converge() {
    for _ in 0..4 {
        let edits = edits();
        let server = TestServer::start()
            .await
            .with_pool()
            .await
            .with_advertisement()
            .await;
        let mut followers = ["a", "b", "c"].map(Follower::new);
        for follower in &mut followers {
            follower.connect(&server).await;
        }
        for edit in &edits {
            match edit {
                Edit::Allocate(number) => {
                    let owner = owner(&format!("s{number}"));
                    server.allocate(owner, Backends::Unmanaged).await;
                }
                Edit::Release(number) => server.release(owner(&format!("s{number}"))).await,
                Edit::Advertise(present) => advertise(&server, *present).await,
                Edit::Connect(number) => {
                    let follower = &mut followers[*number];
                    follower.connect(&server).await;
                    let expected = differing(&follower.client, &server.assignments("east").await);
                    follower.synchronise().await;
                    let received = follower.client.buckets_received;
                    assert_eq!(
                        received,
                        expected.len(),
                        "only what differs is sent: {edits:?}"
                    );
                }
                Edit::Disconnect(number) => followers[*number].disconnect(),
                Edit::Converge(number) => {
                    if followers[*number].stream.is_some() {
                        followers[*number].converge(&server).await;
                    }
                }
            }
        }
        for follower in &mut followers {
            follower.connect(&server).await;
            follower.converge(&server).await;
        }
        drop(followers);
        server.stopped().await;
    }
}
