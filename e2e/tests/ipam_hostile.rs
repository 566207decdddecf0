//! Topology: one ipam-service; clients that are careless or mean harm, and one that only works.
//!
//! 1. A message over the limit is refused, and the connection's other calls go on.
//! 2. A flood of claims that wait stops at `--max-pending`, and another cluster is served.
//! 3. Calls that are cancelled in flight leave no place taken and no claim half done.
//! 4. Streams that nobody reads stop nobody else.
//! 5. An announcer that tells a text beyond its limit loses its stream, is told why, and is counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use e2e::ipam::{Ipam, SOON, claim, release};
use pharos_proto::v1;
use pharos_proto::v1::allocate_request::IfRefused;
use pharos_proto::v1::allocation::State;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::announcer_report::{Conflict, Hello, Report, Status as Told};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::watch_allocations_response::Type;
use pharos_testbed::{http, wait};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

type Client = AllocationServiceClient<Channel>;

async fn connect(ipam: &Ipam) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", ipam.address())).unwrap();
    AllocationServiceClient::new(endpoint.connect().await.unwrap())
}

/// One claim; what its owner holds then.
async fn take(mut client: Client, request: v1::AllocateRequest) -> Result<v1::Allocation, Status> {
    let answer = client.allocate(request).await?;
    Ok(answer.into_inner().allocation.unwrap())
}

/// One address taken and given back, each in time.
async fn works(client: &Client, owner: &str) {
    let taken = tokio::time::timeout(SOON, take(client.clone(), claim(owner))).await;
    let taken = taken.expect("answered in time").expect("not refused");
    assert_eq!(taken.state(), State::Assigned);
    let mut client = client.clone();
    let given = tokio::time::timeout(SOON, client.release(release(owner))).await;
    given.expect("answered in time").expect("not refused");
}

async fn get(mut client: Client, owner: &str) -> Option<v1::Allocation> {
    let request = v1::GetAllocationRequest {
        owner: Some(e2e::ipam::owner(owner)),
    };
    match client.get_allocation(request).await {
        Ok(answer) => answer.into_inner().allocation,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
            None
        }
    }
}

/// Calls under way, of all methods.
fn in_flight(ipam: &Ipam) -> i64 {
    let (_, metrics) = http::get(ipam.admin(), "/metrics", SOON).unwrap();
    let lines = metrics.lines();
    let gauges = lines.filter(|line| line.starts_with("pharos_ipam_grpc_calls_in_flight{"));
    let values = gauges.map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap());
    values.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/24"]).await.unwrap();
    let client = connect(&ipam).await;
    let long = |bytes: usize| v1::AllocateRequest {
        sharing_key: "k".repeat(bytes),
        ..claim("east/x/long")
    };
    let mut others = JoinSet::new();
    for number in 0..20 {
        let client = client.clone();
        others.spawn(async move { works(&client, &format!("east/x/{number}")).await });
    }
    // Below the limit the field is named.
    let refused = take(client.clone(), long(1024 * 1024)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    for _ in 0..5 {
        let refused = take(client.clone(), long(2 * 1024 * 1024)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        assert!(refused.message().contains("too large"), "{refused:?}");
    }
    while let Some(other) = others.join_next().await {
        other.expect("served on the same connection");
    }
    works(&client, "east/x/after").await;
    assert!(get(client, "east/x/long").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_claims_that_wait_stops_at_its_limit_and_another_cluster_is_served() {
    const MAY_WAIT: usize = 50;
    let ipam = Ipam::start_with(&["--max-pending", "50"]).unwrap();
    ipam.apply_pool_of("west", "pool", &["192.0.2.0/24"])
        .await
        .unwrap();
    let mut flood = JoinSet::new();
    for connection in 0..4 {
        let client = connect(&ipam).await;
        for number in 0..100 {
            let request = v1::AllocateRequest {
                if_refused: IfRefused::Queue.into(),
                ..claim(&format!("east/x/{connection}-{number}"))
            };
            flood.spawn(take(client.clone(), request));
        }
    }
    let west = connect(&ipam).await;
    works(&west, "west/x/a").await;
    let mut waiting = 0;
    while let Some(answer) = flood.join_next().await {
        match answer.unwrap() {
            Ok(allocation) => {
                assert_eq!(allocation.state(), State::Pending);
                waiting += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                let details = status.get_error_details();
                let info = details.error_info().expect("a reason");
                assert_eq!(info.reason, "TOO_MANY_PENDING");
            }
        }
    }
    assert_eq!(waiting, MAY_WAIT);
    assert_eq!(ipam.list().await.unwrap().allocations.len(), MAY_WAIT);
    works(&west, "west/x/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_cancelled_in_flight_are_done_or_never_were() {
    const AT_ONCE: usize = 100;
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/22"]).await.unwrap();
    let mut answered: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut owners, mut cancelled) = (Vec::new(), 0);
    for (round, answers) in [0, 1, 5, 20, 50].into_iter().enumerate() {
        let client = connect(&ipam).await;
        let mut calls = JoinSet::new();
        for number in 0..AT_ONCE {
            let owner = format!("east/x/{round}-{number}");
            owners.push(owner.clone());
            let call = take(client.clone(), claim(&owner));
            calls.spawn(async move { (owner, call.await.unwrap().addresses) });
        }
        // The client walks away when it has so many answers.
        let mut after: usize = answers;
        while let Some(call) = calls.join_next().await {
            match call {
                Ok((owner, addresses)) => drop(answered.insert(owner, addresses)),
                Err(error) => {
                    assert!(error.is_cancelled(), "{error}");
                    cancelled += 1;
                }
            }
            if after == 0 {
                calls.abort_all();
            }
            after = after.saturating_sub(1);
        }
    }
    assert_eq!(cancelled + answered.len(), owners.len());
    assert!(cancelled > 0 && !answered.is_empty(), "{cancelled}");
    wait::until("no call to be under way", SOON, || {
        (in_flight(&ipam) == 0).then_some(())
    })
    .unwrap();

    let client = connect(&ipam).await;
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    for owner in &owners {
        let held = get(client.clone(), owner).await;
        let held = held.map(|allocation| {
            assert_eq!(allocation.state(), State::Assigned, "{allocation:?}");
            allocation.addresses
        });
        if let Some(told) = answered.get(owner) {
            assert_eq!(held.as_ref(), Some(told), "{owner} was told something else");
        }
        // Whoever asks again gets what it has.
        let again = take(client.clone(), claim(owner)).await.unwrap().addresses;
        assert_eq!(again.len(), 1);
        if let Some(held) = held {
            assert_eq!(held, again, "{owner}");
        }
        let other = holders.insert(again[0].clone(), owner.clone());
        assert_eq!(other, None, "{} has two holders", again[0]);
    }
    assert_eq!(ipam.terminate().unwrap(), Some(0));
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_stop_nobody_else() {
    const STREAMS: usize = 200;
    const HOLDERS: usize = 200;
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/22"]).await.unwrap();
    let client = connect(&ipam).await;
    // Far more than HTTP/2 lets a server send to a stream that is not read (64 KiB).
    let labels = |number: usize| {
        let label = |key: usize| (format!("k{key}"), format!("{number}-{}", "v".repeat(200)));
        (0..5).map(label).collect()
    };
    for number in 0..HOLDERS {
        let request = v1::AllocateRequest {
            labels: labels(number),
            ..claim(&format!("east/x/{number}"))
        };
        take(client.clone(), request).await.unwrap();
    }
    let mut unread: Vec<Streaming<v1::WatchAllocationsResponse>> = Vec::new();
    for _ in 0..STREAMS {
        let mut client = connect(&ipam).await;
        let request = v1::WatchAllocationsRequest::default();
        let stream = client.watch_allocations(request).await.unwrap();
        unread.push(stream.into_inner());
    }
    let mut read = connect(&ipam).await;
    let request = v1::WatchAllocationsRequest::default();
    let mut read = read.watch_allocations(request).await.unwrap().into_inner();
    for round in 0..30 {
        works(&client, &format!("west/x/{round}")).await;
    }
    // One that is read has it all in time, to the last release.
    let gone = async {
        loop {
            let event = read.message().await.unwrap().expect("it goes on");
            let released = event.r#type() == Type::Released;
            let owner = event.allocation.and_then(|allocation| allocation.owner);
            if released && owner.is_some_and(|owner| owner.name == "29") {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("in time");
    // And the others were not just turned away.
    let first = unread[0].message().await.unwrap();
    assert!(first.is_some(), "the stream was open all the time");
}

/// Why the stream of an announcer ended that told this.
async fn refusal_of(ipam: &Ipam, report: Report) -> Status {
    let hello = Report::Hello(Hello {
        cluster: "east".to_owned(),
        node: "a".to_owned(),
        ..Hello::default()
    });
    let reports = [hello, report].map(|report| v1::AnnouncerReport {
        report: Some(report),
    });
    let reports = tokio_stream::iter(reports).chain(tokio_stream::pending());
    let mut client = AnnouncerServiceClient::new(ipam.channel().unwrap());
    let mut updates = client.announce(reports).await.unwrap().into_inner();
    let ended = async {
        loop {
            if let Err(status) = updates.message().await {
                return status;
            }
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcer_that_tells_a_text_beyond_its_limit_is_refused_by_its_field_and_counted() {
    const COUNTED: &str = "pharos_ipam_announcer_reports_refused_total";
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/24"]).await.unwrap();
    let long = || "x".repeat(100_000);
    let node = v1::NodeStatus {
        interfaces: vec![long()],
        deaf: vec![long()],
        ..v1::NodeStatus::default()
    };
    let owned = v1::Ownership {
        from: long(),
        interfaces: vec!["eth0".to_owned(), long()],
        ..v1::Ownership::default()
    };
    let of_node = Report::Status(Told {
        node: Some(node),
        ..Told::default()
    });
    let of_groups = Report::Status(Told {
        owned: vec![owned],
        ..Told::default()
    });
    let conflict = Report::Conflict(Conflict {
        address: "192.0.2.1".to_owned(),
        mac: long(),
        member: long(),
        ..Conflict::default()
    });
    let cases: [(Report, &[&str]); 3] = [
        (
            of_node,
            &["status.node.interfaces[0]", "status.node.deaf[0]"],
        ),
        (
            of_groups,
            &["status.owned[0].from", "status.owned[0].interfaces[1]"],
        ),
        (conflict, &["conflict.mac", "conflict.member"]),
    ];
    let counted = |ipam: &Ipam| {
        let (_, metrics) = http::get(ipam.admin(), "/metrics", SOON).unwrap();
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with(COUNTED)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    for (number, (report, fields)) in cases.into_iter().enumerate() {
        assert_eq!(counted(&ipam), number);
        let refused = refusal_of(&ipam, report).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        for field in fields {
            assert!(refused.message().contains(field), "{refused:?}");
        }
    }
    assert_eq!(counted(&ipam), 3);
    works(&connect(&ipam).await, "east/x/a").await;
}
