//! Topology: one ipam-service.
//!
//! 1. Lists come in pages, filtered, and a page token of another request is refused.
//! 2. History tells who held an address, newest first, in pages.
//! 3. A watch is a snapshot, SYNCED and every change; it resumes from a revision, also after a
//!    restart, and refuses a revision that is not its own.
//! 4. Pages and a watch from their revision together miss nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::ipam::{Ipam, SOON, claim, owner, release};
use pharos_proto::v1;
use pharos_proto::v1::watch_allocations_response::Type;
use tonic::{Code, Streaming};

async fn with_pool() -> Ipam {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/16"]).await.unwrap();
    ipam
}

async fn take(ipam: &Ipam, text: &str) -> v1::Allocation {
    let answer = ipam
        .allocations()
        .unwrap()
        .allocate(claim(text))
        .await
        .unwrap();
    answer.into_inner().allocation.expect("granted")
}

async fn give_back(ipam: &Ipam, text: &str) {
    ipam.allocations()
        .unwrap()
        .release(release(text))
        .await
        .unwrap();
}

fn name(allocation: &v1::Allocation) -> String {
    let owner = allocation.owner.clone().unwrap_or_default();
    format!("{}/{}/{}", owner.cluster, owner.namespace, owner.name)
}

/// All pages.
async fn list(ipam: &Ipam, request: v1::ListAllocationsRequest) -> (Vec<String>, u64) {
    let mut client = ipam.allocations().unwrap();
    let (mut names, mut token, mut revision) = (Vec::new(), String::new(), None);
    loop {
        let page = v1::ListAllocationsRequest {
            page_token: token,
            ..request.clone()
        };
        let page = client.list_allocations(page).await.unwrap().into_inner();
        assert_eq!(*revision.get_or_insert(page.revision), page.revision);
        names.extend(page.allocations.iter().map(name));
        token = page.next_page_token;
        if token.is_empty() {
            return (names, page.revision);
        }
        assert!(!page.allocations.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_can_be_filtered() {
    let ipam = with_pool().await;
    let mut expected = Vec::new();
    for cluster in ["east", "west"] {
        for index in 0..25 {
            let text = format!("{cluster}/ns{}/svc{index:02}", index % 2);
            take(&ipam, &text).await;
            expected.push(text);
        }
    }
    expected.sort();
    let all = v1::ListAllocationsRequest {
        page_size: 7,
        ..v1::ListAllocationsRequest::default()
    };
    assert_eq!(list(&ipam, all.clone()).await.0, expected);

    let mut some = all.clone();
    some.cluster = "west".to_owned();
    some.namespace = "ns1".to_owned();
    let of_west: Vec<String> = expected
        .iter()
        .filter(|text| text.starts_with("west/ns1/"))
        .cloned()
        .collect();
    assert_eq!(list(&ipam, some).await.0, of_west);

    let mut one = all.clone();
    one.address = "10.0.0.3".to_owned();
    assert_eq!(list(&ipam, one).await.0, ["east/ns1/svc03"]);
    let mut none = all.clone();
    none.state = v1::allocation::State::Pending.into();
    assert_eq!(list(&ipam, none).await.0, Vec::<String>::new());

    let mut client = ipam.allocations().unwrap();
    let page = client
        .list_allocations(all.clone())
        .await
        .unwrap()
        .into_inner();
    let mut foreign = all.clone();
    foreign.cluster = "west".to_owned();
    foreign.page_token = page.next_page_token;
    let mut negative = all;
    negative.page_size = -1;
    for request in [foreign, negative] {
        let refused = client.list_allocations(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_who_held_an_address() {
    let mut ipam = with_pool().await;
    for text in ["east/default/a", "west/default/b", "east/default/c"] {
        let allocation = take(&ipam, text).await;
        assert_eq!(allocation.addresses, ["10.0.0.0"]);
        give_back(&ipam, text).await;
    }
    ipam.restart().unwrap();
    let mut client = ipam.history().unwrap();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListChangesRequest {
            address: "10.0.0.0".to_owned(),
            page_size: 4,
            page_token: token,
            ..v1::ListChangesRequest::default()
        };
        let page = client.list_changes(request).await.unwrap().into_inner();
        for change in page.changes {
            let kind = change.r#type();
            let Some(v1::change::Subject::Allocation(edit)) = change.subject else {
                panic!("only allocations hold addresses");
            };
            let holder = edit.after.or(edit.before).map(|it| name(&it)).unwrap();
            seen.push((holder, kind));
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    use v1::change::Type::{Created, Deleted};
    let expected = ["east/default/c", "west/default/b", "east/default/a"]
        .into_iter()
        .flat_map(|text| [(text.to_owned(), Deleted), (text.to_owned(), Created)]);
    assert_eq!(seen, expected.collect::<Vec<_>>());

    let of_cluster = v1::ListChangesRequest {
        owner: Some(v1::Owner {
            cluster: "west".to_owned(),
            ..v1::Owner::default()
        }),
        ..v1::ListChangesRequest::default()
    };
    let changes = client
        .list_changes(of_cluster)
        .await
        .unwrap()
        .into_inner()
        .changes;
    assert_eq!(changes.len(), 2);
    let nobody = v1::ListChangesRequest {
        owner: Some(owner("east/default/nobody")),
        ..v1::ListChangesRequest::default()
    };
    assert_eq!(
        client
            .list_changes(nobody)
            .await
            .unwrap()
            .into_inner()
            .changes
            .len(),
        0
    );
}

/// A client that applies what it is sent.
struct Watch {
    stream: Streaming<v1::WatchAllocationsResponse>,
    held: BTreeMap<String, Vec<String>>,
    revision: u64,
}

impl Watch {
    async fn open(ipam: &Ipam, from: u64) -> Result<Self, tonic::Status> {
        let request = v1::WatchAllocationsRequest {
            from_revision: from,
            ..v1::WatchAllocationsRequest::default()
        };
        let stream = ipam
            .allocations()
            .unwrap()
            .watch_allocations(request)
            .await?;
        Ok(Self {
            stream: stream.into_inner(),
            held: BTreeMap::new(),
            revision: from,
        })
    }

    async fn next(&mut self) -> v1::WatchAllocationsResponse {
        let next = tokio::time::timeout(SOON, self.stream.message()).await;
        let event = next.expect("in time").expect("no error").expect("no end");
        let allocation = event.allocation.clone().unwrap_or_default();
        match event.r#type() {
            Type::Allocation => {
                self.held.insert(name(&allocation), allocation.addresses);
            }
            Type::Released => {
                self.held.remove(&name(&allocation));
            }
            Type::Synced | Type::Bookmark | Type::Unspecified => {}
        }
        self.revision = self.revision.max(event.revision);
        event
    }

    /// Up to SYNCED.
    async fn sync(&mut self) -> v1::WatchAllocationsResponse {
        loop {
            let event = self.next().await;
            if event.r#type() == Type::Synced {
                return event;
            }
        }
    }

    async fn until(&mut self, revision: u64) {
        while self.revision < revision {
            self.next().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_a_snapshot_and_every_change_and_resumes_after_a_restart() {
    let mut ipam = with_pool().await;
    for index in 0..1200 {
        take(&ipam, &format!("east/default/{index:04}")).await;
    }
    let mut watch = Watch::open(&ipam, 0).await.unwrap();
    let synced = watch.sync().await;
    assert_eq!(watch.held.len(), 1200);
    assert!(!synced.store_id.is_empty());
    give_back(&ipam, "east/default/0007").await;
    let last = take(&ipam, "west/default/new").await;
    watch.until(last.revision).await;
    assert!(!watch.held.contains_key("east/default/0007"));
    assert_eq!(watch.held["west/default/new"], ["10.0.0.7"]);
    let seen = watch.revision;

    ipam.restart().unwrap();
    let after = take(&ipam, "west/default/after").await;
    give_back(&ipam, "west/default/new").await;
    let mut resumed = Watch::open(&ipam, seen).await.unwrap();
    resumed.sync().await;
    assert_eq!(
        resumed.held.keys().collect::<Vec<_>>(),
        ["west/default/after"]
    );
    assert!(resumed.revision > after.revision);

    let future = Watch::open(&ipam, 1_000_000)
        .await
        .err()
        .expect("from the future");
    assert_eq!(future.code(), Code::OutOfRange);
    let foreign = v1::WatchAllocationsRequest {
        from_revision: seen,
        store_id: "another".to_owned(),
        ..v1::WatchAllocationsRequest::default()
    };
    let foreign = ipam.allocations().unwrap().watch_allocations(foreign).await;
    assert_eq!(foreign.expect_err("foreign").code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_a_watch_from_their_revision_miss_nothing_while_others_write() {
    let ipam = with_pool().await;
    for index in 0..50 {
        take(&ipam, &format!("east/default/{index}")).await;
    }
    let mut client = ipam.allocations().unwrap();
    let request = v1::ListAllocationsRequest {
        page_size: 10,
        ..v1::ListAllocationsRequest::default()
    };
    let first = client
        .list_allocations(request.clone())
        .await
        .unwrap()
        .into_inner();
    // Before and behind the place where the pages are.
    take(&ipam, "aaa/default/early").await;
    give_back(&ipam, "east/default/0").await;
    let last = take(&ipam, "zzz/default/late").await;
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut page = first.clone();
    loop {
        held.extend(
            page.allocations
                .iter()
                .map(|it| (name(it), it.addresses.clone())),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        let next = v1::ListAllocationsRequest {
            page_token: page.next_page_token,
            ..request.clone()
        };
        page = client.list_allocations(next).await.unwrap().into_inner();
        assert_eq!(page.revision, first.revision);
    }
    let mut watch = Watch::open(&ipam, first.revision).await.unwrap();
    watch.held = held;
    watch.until(last.revision).await;
    let truth = list(&ipam, v1::ListAllocationsRequest::default()).await.0;
    assert_eq!(watch.held.keys().cloned().collect::<Vec<_>>(), truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_watch_gets_bookmarks_and_ends_when_the_server_stops() {
    let mut ipam = with_pool().await;
    let mut watch = Watch::open(&ipam, 0).await.unwrap();
    watch.sync().await;
    let started = tokio::time::Instant::now();
    let bookmark = watch.next().await;
    assert_eq!(bookmark.r#type(), Type::Bookmark);
    assert!(
        started.elapsed() <= Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(ipam.terminate().unwrap(), Some(0));
    let end = watch.stream.message().await.expect_err("a reason");
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
}
