//! AnnouncementService over gRPC, with announcers that say what they answer for.

use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcer_report::{Conflict, Hello, Report, Status as Told};
use pharos_proto::v1::claim::Backends;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::api::testing::{TestServer, owner, until, within};

/// A node with a stream, whose frames nobody reads.
struct Node {
    reports: mpsc::Sender<v1::AnnouncerReport>,
    _updates: tonic::Streaming<v1::AssignmentUpdate>,
}

impl Node {
    async fn connect(server: &TestServer, node: &str) -> Self {
        let (reports, receiver) = mpsc::channel(16);
        let hello = Report::Hello(Hello {
            cluster: "east".to_owned(),
            node: node.to_owned(),
            ..Hello::default()
        });
        let report = Some(hello);
        let sent = reports.send(v1::AnnouncerReport { report }).await;
        sent.expect("there is room");
        let mut announcers = server.announcers().await;
        let updates = announcers.announce(ReceiverStream::new(receiver)).await;
        Self {
            reports,
            _updates: updates.expect("welcome").into_inner(),
        }
    }

    async fn say(&self, report: Report) {
        let report = Some(report);
        let sent = self.reports.send(v1::AnnouncerReport { report }).await;
        sent.expect("there is room");
    }

    async fn own(&self, group: u64) {
        let ownership = v1::Ownership {
            group,
            interfaces: vec!["eth0".to_owned()],
            ..v1::Ownership::default()
        };
        let told = Told {
            whole: true,
            node: Some(v1::NodeStatus::default()),
            owned: vec![ownership],
            ..Told::default()
        };
        self.say(Report::Status(told)).await;
    }
}

async fn server() -> TestServer {
    let server = TestServer::start().await.with_pool().await;
    server.with_advertisement().await
}

async fn list(server: &TestServer, page_token: &str) -> v1::ListAnnouncementsResponse {
    let mut announcements = server.announcements().await;
    let request = v1::ListAnnouncementsRequest {
        cluster: "east".to_owned(),
        page_size: 2,
        page_token: page_token.to_owned(),
        ..v1::ListAnnouncementsRequest::default()
    };
    let listed = announcements.list_announcements(request).await;
    listed.expect("listed").into_inner()
}

fn nodes(announcement: &v1::Announcement) -> Vec<(&str, bool)> {
    let answerers = announcement.answerers.iter();
    answerers
        .map(|one| (one.node.as_str(), one.unknown_since.is_some()))
        .collect()
}

#[tokio::test]
async fn who_says_that_it_answers_is_shown_and_for_a_while_after_its_stream() {
    let server = server().await;
    let a = Node::connect(&server, "a").await;
    let _b = Node::connect(&server, "b").await;
    server.allocate(owner("web"), Backends::Unmanaged).await;
    let group = list(&server, "").await.announcements[0].group;
    a.own(group).await;
    until("a answers", async || {
        nodes(&list(&server, "").await.announcements[0]) == [("a", false)]
    })
    .await;
    drop(a);
    until("a is away", async || {
        nodes(&list(&server, "").await.announcements[0]) == [("a", true)]
    })
    .await;
    server.stopped().await;
}

#[tokio::test]
async fn announcements_are_listed_page_by_page() {
    let server = server().await;
    let _a = Node::connect(&server, "a").await;
    for number in 0..5 {
        let owner = owner(&format!("s{number}"));
        server.allocate(owner, Backends::Unmanaged).await;
    }
    let mut addresses = Vec::new();
    let mut token = String::new();
    for count in [2, 2, 1] {
        let page = list(&server, &token).await;
        assert_eq!(page.announcements.len(), count);
        addresses.extend(page.announcements.into_iter().map(|one| one.address));
        token = page.next_page_token;
    }
    assert_eq!(token, "");
    addresses.dedup();
    assert_eq!(addresses.len(), 5);
    server.stopped().await;
}

#[tokio::test]
async fn a_watcher_is_told_everything_and_then_what_changes() {
    let server = server().await;
    let a = Node::connect(&server, "a").await;
    server.allocate(owner("web"), Backends::Unmanaged).await;
    let mut announcements = server.announcements().await;
    let request = v1::WatchAnnouncementsRequest {
        cluster: "east".to_owned(),
    };
    let watch = announcements.watch_announcements(request).await;
    let mut watch = watch.expect("watched").into_inner();
    let first = within(watch.message()).await.expect("goes on");
    let first = first.expect("goes on");
    assert!(first.synced);
    assert_eq!(first.announcements.len(), 1);
    let group = first.announcements[0].group;
    a.own(group).await;
    let told = within(watch.message()).await.expect("goes on");
    assert_eq!(
        nodes(&told.expect("goes on").announcements[0]),
        [("a", false)]
    );
    server.release(owner("web")).await;
    let told = within(watch.message()).await.expect("goes on");
    assert_eq!(told.expect("goes on").removed.len(), 1);
    drop(watch);
    server.stopped().await;
}

/// What the next message says of the only address.
async fn next(
    watch: &mut tonic::Streaming<v1::WatchAnnouncementsResponse>,
) -> v1::WatchAnnouncementsResponse {
    let told = within(watch.message()).await.expect("goes on");
    told.expect("goes on")
}

/// Reads on until the only address is so.
async fn next_with(
    watch: &mut tonic::Streaming<v1::WatchAnnouncementsResponse>,
    is_wanted: impl Fn(&v1::Announcement) -> bool,
) -> v1::Announcement {
    loop {
        let told = next(watch).await.announcements.pop();
        if let Some(told) = told.filter(&is_wanted) {
            return told;
        }
    }
}

#[tokio::test]
async fn an_address_that_nobody_answers_for_is_told_with_the_reason() {
    let server = TestServer::start().await.with_pool().await;
    server.allocate(owner("web"), Backends::Reported).await;
    let mut announcements = server.announcements().await;
    let request = v1::WatchAnnouncementsRequest {
        cluster: "east".to_owned(),
    };
    let watch = announcements.watch_announcements(request).await;
    let mut watch = watch.expect("watched").into_inner();
    let first = next(&mut watch).await;
    assert!(first.synced);
    let told = &first.announcements[0];
    assert_eq!(told.reason(), Reason::NotAdvertised);
    assert_eq!(told.owners, ["east/default/web"]);
    assert!(told.detail.contains("east/default/web"), "{}", told.detail);
    let listed = list(&server, "").await.announcements;
    assert_eq!(listed, first.announcements);

    let because = |reason: Reason| move |told: &v1::Announcement| told.reason() == reason;
    let server = server.with_advertisement().await;
    next_with(&mut watch, because(Reason::NoAnnouncer)).await;
    let a = Node::connect(&server, "a").await;
    next_with(&mut watch, because(Reason::NoReadyEndpoint)).await;
    // Claimed anew: every selected node is good.
    server.allocate(owner("web"), Backends::Unmanaged).await;
    let told = next_with(&mut watch, because(Reason::Unknown)).await;
    assert_eq!(told.nodes, ["a"]);
    a.say(Report::Status(Told {
        whole: true,
        ..Told::default()
    }))
    .await;
    let told = next_with(&mut watch, because(Reason::NotYetAnnounced)).await;
    a.own(told.group).await;
    let told = next_with(&mut watch, because(Reason::Unspecified)).await;
    assert_eq!((nodes(&told), &*told.detail), (vec![("a", false)], ""));
    let seen = Conflict {
        address: told.address.clone(),
        mac: "02:00:00:00:00:09".to_owned(),
        ..Conflict::default()
    };
    a.say(Report::Conflict(seen.clone())).await;
    let told = next_with(&mut watch, |told| !told.conflicts.is_empty()).await;
    assert_eq!(told.conflicts[0].node, "a");
    assert_eq!(told.conflicts[0].conflict.as_ref(), Some(&seen));
    let over = Conflict { over: true, ..seen };
    a.say(Report::Conflict(over)).await;
    next_with(&mut watch, |told| told.conflicts.is_empty()).await;

    server.release(owner("web")).await;
    let last = next(&mut watch).await;
    assert_eq!(last.removed.len(), 1);
    assert!(list(&server, "").await.announcements.is_empty());
    drop(watch);
    server.stopped().await;
}

#[tokio::test]
async fn conflicts_are_listed_with_both_hardware_addresses() {
    let server = server().await;
    let a = Node::connect(&server, "a").await;
    server.allocate(owner("web"), Backends::Unmanaged).await;
    let seen = Conflict {
        address: list(&server, "").await.announcements[0].address.clone(),
        mac: "02:00:00:00:00:09".to_owned(),
        own_mac: "02:00:00:00:00:01".to_owned(),
        interface: "eth0".to_owned(),
        member: "b".to_owned(),
        ..Conflict::default()
    };
    a.say(Report::Conflict(seen.clone())).await;
    let conflicts = async || {
        let request = v1::ListConflictsRequest {
            cluster: "east".to_owned(),
            ..v1::ListConflictsRequest::default()
        };
        let listed = server.announcements().await.list_conflicts(request).await;
        listed.expect("listed").into_inner().conflicts
    };
    until("it is listed", async || !conflicts().await.is_empty()).await;
    let listed = conflicts().await;
    assert_eq!(listed[0].node, "a");
    assert_eq!(listed[0].conflict.as_ref(), Some(&seen));
    assert!(listed[0].first_seen.is_some());
    drop(a);
    server.stopped().await;
}

#[tokio::test]
async fn an_explanation_has_every_node_with_what_it_says_of_itself() {
    let server = server().await;
    let a = Node::connect(&server, "a").await;
    let _b = Node::connect(&server, "b").await;
    server.allocate(owner("web"), Backends::Unmanaged).await;
    let announced = list(&server, "").await.announcements[0].clone();
    a.own(announced.group).await;
    let explain = async |address: &str| {
        let request = v1::ExplainAssignmentRequest {
            cluster: "east".to_owned(),
            address: address.to_owned(),
            ..v1::ExplainAssignmentRequest::default()
        };
        let mut announcements = server.announcements().await;
        let explained = announcements.explain_assignment(request).await;
        explained.map(Response::into_inner)
    };
    until("a has told", async || {
        let explained = explain(&announced.address).await.expect("explained");
        explained.nodes[0].status.is_some()
    })
    .await;
    let explained = explain(&announced.address).await.expect("explained");
    let names: Vec<&str> = explained.nodes.iter().map(|node| &*node.node).collect();
    assert_eq!(names, ["a", "b"]);
    for node in &explained.nodes {
        assert_eq!(node.verdict(), WireVerdict::Candidate);
        let place = usize::try_from(node.position).expect("small");
        let listed = &explained.announcement.as_ref().expect("announced").nodes;
        assert_eq!(listed[place - 1], node.node);
    }
    let nobody = explain("203.0.113.9").await.expect_err("not held");
    assert_eq!(nobody.code(), tonic::Code::NotFound);
    drop(a);
    server.stopped().await;
}

#[test]
fn a_page_ends_where_a_message_has_bytes_enough() {
    let key = |number: u8| AssignmentKey {
        space: Name::parse("default").expect("a name"),
        address: std::net::Ipv4Addr::new(192, 0, 2, number).into(),
    };
    let described = |count: u8, bytes: usize| -> BTreeMap<_, _> {
        let one = v1::Announcement {
            detail: "x".repeat(bytes),
            ..v1::Announcement::default()
        };
        (0..count)
            .map(|number| (key(number), one.clone()))
            .collect()
    };
    let page = |count, bytes| {
        let (page, last) = cut(described(count, bytes));
        (page.len(), last)
    };
    assert_eq!(page(0, 1), (0, None));
    assert_eq!(page(3, MOST_BYTES / 3 - 10), (3, None));
    assert_eq!(page(4, MOST_BYTES / 3 - 10), (3, Some(key(2))));
    assert_eq!(
        page(2, MOST_BYTES),
        (1, Some(key(0))),
        "it cannot be smaller"
    );
}

#[tokio::test]
async fn an_address_that_is_advertised_by_bgp_alone_says_that_there_is_no_session() {
    let server = TestServer::start().await.with_pool().await;
    let mut advertisements = server.advertisements().await;
    let by_bgp = v1::Advertisement {
        name: "bgp".to_owned(),
        protocol: Some(v1::advertisement::Protocol::Bgp(Default::default())),
        ..v1::Advertisement::default()
    };
    let applied = advertisements.apply_advertisement(v1::ApplyAdvertisementRequest {
        advertisement: Some(by_bgp),
        ..v1::ApplyAdvertisementRequest::default()
    });
    applied.await.expect("applied");
    let _a = Node::connect(&server, "a").await;
    server.allocate(owner("web"), Backends::Unmanaged).await;
    let told = list(&server, "").await.announcements.remove(0);
    assert_eq!(told.reason(), Reason::BgpNoSession, "{told:?}");
    assert!(told.detail.contains("no BGP"), "{}", told.detail);
    assert!(told.nodes.is_empty() && told.answerers.is_empty());
    // By layer 2, too: then somebody is to answer.
    let server = server.with_advertisement().await;
    let told = list(&server, "").await.announcements.remove(0);
    assert_ne!(told.reason(), Reason::BgpNoSession, "{told:?}");
    assert_eq!(told.nodes, ["a"]);
    server.stopped().await;
}
