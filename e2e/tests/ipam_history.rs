//! Topology: one ipam-service.
//!
//! 1. Who held an address at a moment, in a window, as which incarnation: also after a restart.
//! 2. Changes are found by cluster, kind, name, actor, request id, time and revision; pages go on
//!    where the one before ended, and a token of another request is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::ipam::{Ipam, claim, owner, release};
use pharos_proto::v1;
use pharos_proto::v1::change::Kind;
use prost_types::Timestamp;
use tonic::Code;

async fn take(ipam: &Ipam, text: &str, uid: &str, request_id: &str) -> v1::Allocation {
    let mut request = claim(text);
    request.owner.as_mut().unwrap().uid = uid.to_owned();
    request.request_id = request_id.to_owned();
    let answer = ipam.allocations().unwrap().allocate(request).await.unwrap();
    answer.into_inner().allocation.unwrap()
}

async fn give_back(ipam: &Ipam, text: &str) {
    let mut client = ipam.allocations().unwrap();
    client.release(release(text)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_before_it_begins_is_a_mistake() {
    let ipam = Ipam::start().unwrap();
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let changes = |start, end| v1::ListChangesRequest {
        start_time: at(start),
        end_time: at(end),
        ..v1::ListChangesRequest::default()
    };
    let mut client = ipam.history().unwrap();
    client.list_changes(changes(9, 9)).await.unwrap();
    let revisions = v1::ListChangesRequest {
        start_revision: 9,
        end_revision: 8,
        ..v1::ListChangesRequest::default()
    };
    for (request, field) in [(changes(9, 8), "end_time"), (revisions, "end_revision")] {
        let refused = client.list_changes(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let request = v1::ListHoldingsRequest {
        start_time: at(9),
        end_time: at(8),
        ..v1::ListHoldingsRequest::default()
    };
    let refused = client.list_holdings(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().starts_with("end_time"), "{refused:?}");
}

/// All pages, two at a time.
async fn holdings(ipam: &Ipam, request: v1::ListHoldingsRequest) -> Vec<v1::Holding> {
    let mut client = ipam.history().unwrap();
    let (mut all, mut token, mut revision) = (Vec::new(), String::new(), None);
    loop {
        let page = v1::ListHoldingsRequest {
            page_size: 2,
            page_token: token,
            ..request.clone()
        };
        let page = client.list_holdings(page).await.unwrap().into_inner();
        assert_eq!(*revision.get_or_insert(page.revision), page.revision);
        all.extend(page.holdings);
        token = page.next_page_token;
        if token.is_empty() {
            return all;
        }
    }
}

/// All pages, two at a time.
async fn changes(ipam: &Ipam, request: v1::ListChangesRequest) -> Vec<v1::Change> {
    let mut client = ipam.history().unwrap();
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let page = v1::ListChangesRequest {
            page_size: 2,
            page_token: token,
            ..request.clone()
        };
        let page = client.list_changes(page).await.unwrap().into_inner();
        all.extend(page.changes);
        token = page.next_page_token;
        if token.is_empty() {
            return all;
        }
    }
}

fn holders(holdings: &[v1::Holding]) -> Vec<String> {
    let name = |holding: &v1::Holding| {
        let owner = holding.owner.clone().unwrap_or_default();
        format!("{}/{} {}", owner.cluster, owner.name, owner.uid)
    };
    holdings.iter().map(name).collect()
}

fn revisions(changes: &[v1::Change]) -> Vec<u64> {
    changes.iter().map(|change| change.revision).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_held_an_address_is_known_for_every_moment() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.1"])
        .await
        .unwrap();
    take(&ipam, "east/default/web", "one", "").await;
    // Another incarnation is another holder; a port more is none.
    take(&ipam, "east/default/web", "two", "").await;
    let mut more = claim("east/default/web");
    more.owner.as_mut().unwrap().uid = "two".to_owned();
    more.ports.push(e2e::ipam::tcp(443));
    ipam.allocations().unwrap().allocate(more).await.unwrap();
    give_back(&ipam, "east/default/web").await;
    take(&ipam, "west/default/web", "", "").await;
    ipam.restart().unwrap();

    let of_address = v1::ListHoldingsRequest {
        address: "192.0.2.1".to_owned(),
        ..v1::ListHoldingsRequest::default()
    };
    let all = holdings(&ipam, of_address.clone()).await;
    assert_eq!(holders(&all), ["west/web ", "east/web two", "east/web one"]);
    assert_eq!(all[0].end_time, None);
    assert_eq!((all[0].end_revision, &*all[0].pool), (0, "pool"));
    for pair in all.windows(2) {
        let [later, earlier] = pair else {
            unreachable!()
        };
        assert!(earlier.end_revision <= later.start_revision, "{pair:?}");
    }
    let at = |time: Option<Timestamp>| v1::ListHoldingsRequest {
        at_time: time,
        ..of_address.clone()
    };
    for holding in &all {
        let then = holdings(&ipam, at(holding.start_time)).await;
        assert_eq!(holders(&then), holders(std::slice::from_ref(holding)));
    }
    let mut before = all[2].start_time.unwrap();
    before.seconds -= 1;
    assert_eq!(holdings(&ipam, at(Some(before))).await, []);
    let window = v1::ListHoldingsRequest {
        start_time: all[2].start_time,
        end_time: all[0].start_time,
        ..of_address.clone()
    };
    let then = holdings(&ipam, window.clone()).await;
    assert_eq!(holders(&then), ["east/web two", "east/web one"]);

    let of_owner = |uid: &str| v1::ListHoldingsRequest {
        owner: Some(v1::Owner {
            uid: uid.to_owned(),
            ..owner("east/default/web")
        }),
        ..v1::ListHoldingsRequest::default()
    };
    assert_eq!(holdings(&ipam, of_owner("")).await, all[1..]);
    assert_eq!(holdings(&ipam, of_owner("two")).await, all[1..2]);
    let of_cluster = v1::ListHoldingsRequest {
        owner: Some(v1::Owner {
            cluster: "west".to_owned(),
            ..v1::Owner::default()
        }),
        ..v1::ListHoldingsRequest::default()
    };
    assert_eq!(holdings(&ipam, of_cluster).await, all[..1]);

    let contradiction = v1::ListHoldingsRequest {
        at_time: Some(before),
        ..window
    };
    let refused = ipam.history().unwrap().list_holdings(contradiction).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("at_time: "), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_found_by_whatever_is_known_of_them() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/28"]).await.unwrap();
    ipam.apply_pool("spare", &["198.51.100.0/28"])
        .await
        .unwrap();
    let first = take(&ipam, "east/default/web", "", "ticket 7").await;
    for index in 0..5 {
        take(&ipam, &format!("west/ns{}/svc{index}", index % 2), "", "").await;
    }
    give_back(&ipam, "west/ns0/svc2").await;
    let any = v1::ListChangesRequest::default;
    let all = changes(&ipam, any()).await;
    let newest = all[0].revision;
    assert_eq!(revisions(&all), (1..=newest).rev().collect::<Vec<_>>());

    let is_of = |change: &&v1::Change, cluster: &str| {
        use v1::change::Subject;
        match change.subject.as_ref().unwrap() {
            Subject::Allocation(edit) => {
                let end = edit.after.as_ref().or(edit.before.as_ref()).unwrap();
                end.owner.as_ref().unwrap().cluster == cluster
            }
            Subject::Cluster(edit) => edit.after.as_ref().unwrap().name == cluster,
            Subject::Pool(_)
            | Subject::Advertisement(_)
            | Subject::BgpPeer(_)
            | Subject::BfdProfile(_)
            | Subject::Reservation(_)
            | Subject::Quota(_)
            | Subject::AddressSpace(_)
            | Subject::Unavailable(_) => false,
        }
    };
    for cluster in ["east", "west"] {
        let request = v1::ListChangesRequest {
            cluster: cluster.to_owned(),
            ..any()
        };
        let expected: Vec<v1::Change> = all
            .iter()
            .filter(|change| is_of(change, cluster))
            .cloned()
            .collect();
        assert!(expected.len() >= 2);
        assert_eq!(changes(&ipam, request).await, expected);
    }
    let count = |kind: Kind, name: &str| {
        let request = v1::ListChangesRequest {
            kind: kind.into(),
            name: name.to_owned(),
            ..any()
        };
        let ipam = &ipam;
        async move { changes(ipam, request).await.len() }
    };
    assert_eq!(count(Kind::Allocation, "").await, 7);
    assert_eq!(count(Kind::Pool, "").await, 2);
    assert_eq!(count(Kind::Pool, "spare").await, 1);
    assert_eq!(count(Kind::Cluster, "").await, 2);
    assert_eq!(count(Kind::Advertisement, "").await, 0);

    let of_ticket = v1::ListChangesRequest {
        request_id: "ticket 7".to_owned(),
        actor: "anonymous@127.0.0.1".to_owned(),
        ..any()
    };
    let caused = changes(&ipam, of_ticket.clone()).await;
    // The first contact of the cluster, and the allocation.
    assert_eq!(revisions(&caused), [first.revision, first.revision - 1]);
    let nobody = v1::ListChangesRequest {
        actor: "nobody".to_owned(),
        ..of_ticket
    };
    assert_eq!(changes(&ipam, nobody).await, []);

    let range = v1::ListChangesRequest {
        start_revision: 3,
        end_revision: 6,
        ..any()
    };
    assert_eq!(revisions(&changes(&ipam, range).await), [5, 4, 3]);
    let since = v1::ListChangesRequest {
        start_time: all[0].time,
        ..any()
    };
    assert_eq!(changes(&ipam, since).await, all[..1]);
    let namespace = v1::ListChangesRequest {
        owner: Some(v1::Owner {
            cluster: "west".to_owned(),
            namespace: "ns1".to_owned(),
            ..v1::Owner::default()
        }),
        ..any()
    };
    assert_eq!(changes(&ipam, namespace).await.len(), 2);

    let mut client = ipam.history().unwrap();
    let page = v1::ListChangesRequest {
        page_size: 2,
        ..any()
    };
    let page = client.list_changes(page).await.unwrap().into_inner();
    for (request, field) in [
        (
            v1::ListChangesRequest {
                page_token: page.next_page_token,
                start_revision: 1,
                ..any()
            },
            "page_token",
        ),
        (
            v1::ListChangesRequest {
                name: "pool".to_owned(),
                ..any()
            },
            "name",
        ),
        (v1::ListChangesRequest { kind: 77, ..any() }, "kind"),
    ] {
        let refused = client.list_changes(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let message = refused.message();
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
    }
}
