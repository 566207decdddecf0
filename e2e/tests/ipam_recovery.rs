//! Topology: one ipam-service whose database is lost or replaced by an old backup; this test as the
//! adapters of `east` and `west`, as an announcer, and as those who want new addresses meanwhile.
//!
//! 1. A lost volume: `init --recover`, the adapters report what is in use, and nothing moves.
//! 2. A backup that is older than half of what is in use: the same.
//! 3. Meanwhile nobody gets a live address, newcomers wait, and the node stream says that it does not
//!    know everything.
//! 4. An operator ends the wait for a cluster without an adapter; another installation adopts a name.
//! 5. The beginning and the end of an inventory can be tried out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::ipam::{Ipam, SOON, claim, release};
use pharos_proto::v1;
use pharos_proto::v1::allocate_request::IfRefused;
use pharos_proto::v1::allocation::State;
use pharos_proto::v1::announcer_report::{Hello, Report};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::assignment_update::Update;
use pharos_proto::v1::refusal::Reason;
use pharos_testbed::{http, wait};
use tokio_stream::StreamExt as _;
use tonic::Code;

/// Owner and address.
type Held = BTreeMap<String, String>;

async fn take(ipam: &Ipam, name: &str) -> String {
    let mut client = ipam.allocations().unwrap();
    let answer = client.allocate(claim(name)).await.unwrap().into_inner();
    answer.allocation.unwrap().addresses[0].clone()
}

/// A claim that waits rather than fails, of an owner that uses `address`, or nothing.
async fn queue(ipam: &Ipam, name: &str, address: Option<&str>) -> v1::Allocation {
    let mut request = claim(name);
    request.if_refused = IfRefused::Queue.into();
    request.held_addresses = address.map(str::to_owned).into_iter().collect();
    let mut client = ipam.allocations().unwrap();
    client
        .allocate(request)
        .await
        .unwrap()
        .into_inner()
        .allocation
        .unwrap()
}

async fn held(ipam: &Ipam) -> Held {
    let mut client = ipam.allocations().unwrap();
    let request = v1::ListAllocationsRequest {
        page_size: 1000,
        ..v1::ListAllocationsRequest::default()
    };
    let list = client.list_allocations(request).await.unwrap().into_inner();
    let pairs = list.allocations.into_iter().filter_map(|it| {
        let owner = it.owner.unwrap();
        let name = format!("{}/{}/{}", owner.cluster, owner.namespace, owner.name);
        Some((name, it.addresses.first()?.clone()))
    });
    pairs.collect()
}

/// What an adapter does when it meets a store that it does not know: says all that its Services use.
async fn report(ipam: &Ipam, cluster: &str, in_use: &Held) {
    let mut client = ipam.clusters().unwrap();
    let begin = v1::BeginSyncRequest {
        cluster: cluster.to_owned(),
        cluster_uid: format!("uid of {cluster}"),
        ..v1::BeginSyncRequest::default()
    };
    client.begin_sync(begin).await.unwrap();
    let prefix = format!("{cluster}/");
    for (name, address) in in_use.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        let allocation = queue(ipam, name, Some(address)).await;
        assert_eq!(
            &allocation.addresses[..],
            std::slice::from_ref(address),
            "{name} moved"
        );
    }
    let end = v1::EndSyncRequest {
        cluster: cluster.to_owned(),
        ..v1::EndSyncRequest::default()
    };
    client.end_sync(end).await.unwrap();
}

/// Whether a node of `east` would be told that the server knows everything.
async fn is_authoritative(ipam: &Ipam) -> bool {
    let mut client = AnnouncerServiceClient::new(ipam.channel().unwrap());
    let hello = v1::AnnouncerReport {
        report: Some(Report::Hello(Hello {
            cluster: "east".to_owned(),
            node: "a".to_owned(),
            member_endpoint: "192.0.2.1:7946".to_owned(),
            ..Hello::default()
        })),
    };
    let reports = tokio_stream::iter([hello]).chain(tokio_stream::pending());
    let mut updates = client.announce(reports).await.unwrap().into_inner();
    loop {
        let update = tokio::time::timeout(SOON, updates.message()).await.unwrap();
        if let Some(Update::Header(header)) = update.unwrap().unwrap().update {
            return header.authoritative;
        }
    }
}

/// Two clusters with adapters, and five addresses each.
async fn in_use() -> (Ipam, Held) {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/26"]).await.unwrap();
    for cluster in ["east", "west"] {
        report(&ipam, cluster, &Held::new()).await;
        for number in 0..5 {
            take(&ipam, &format!("{cluster}/default/web-{number}")).await;
        }
    }
    let before = held(&ipam).await;
    assert_eq!(before.len(), 10);
    (ipam, before)
}

/// While clusters are expected: newcomers wait, also for exact addresses, and the stream says so.
async fn newcomers_wait(ipam: &Ipam, in_use: &Held) {
    for cluster in ["east", "west", "south"] {
        let new = queue(ipam, &format!("{cluster}/default/new"), None).await;
        assert_eq!(new.state(), State::Pending, "{new:?}");
        assert_eq!(new.refusal.unwrap().reason(), Reason::Recovering);
    }
    let mut exact = claim("south/default/thief");
    exact.addresses = in_use.values().next_back().cloned().into_iter().collect();
    let refused = ipam.allocations().unwrap().allocate(exact).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
}

/// When all have reported: nothing moved, and newcomers have what nobody uses.
async fn nothing_moved(ipam: &Ipam, in_use: &Held) {
    let after = held(ipam).await;
    let kept: Held = after
        .iter()
        .filter(|(name, _)| in_use.contains_key(*name))
        .map(|(name, address)| (name.clone(), address.clone()))
        .collect();
    assert_eq!(&kept, in_use);
    let news: Vec<&String> = after.keys().filter(|name| name.ends_with("/new")).collect();
    assert_eq!(news.len(), 3, "{after:?}");
    let distinct: BTreeSet<&String> = after.values().collect();
    assert_eq!(distinct.len(), after.len(), "{after:?}");
    assert!(is_authoritative(ipam).await);
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_volume_adapters_report_what_is_in_use_and_nothing_moves() {
    let (mut ipam, in_use) = in_use().await;
    ipam.kill().unwrap();
    ipam.lose_database().unwrap();
    let (code, log) = ipam.run(&["init", "--recover", "east,west"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    ipam.restart().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/26"]).await.unwrap();
    assert!(!is_authoritative(&ipam).await);
    newcomers_wait(&ipam, &in_use).await;
    report(&ipam, "east", &in_use).await;
    assert!(is_authoritative(&ipam).await, "all of east is known");
    newcomers_wait(&ipam, &in_use).await;
    report(&ipam, "west", &in_use).await;
    nothing_moved(&ipam, &in_use).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_restore_of_an_old_backup_what_was_taken_since_stays_with_its_holders() {
    let (mut ipam, _) = in_use().await;
    let file = ipam.database().with_file_name("backup.db");
    let file = file.to_str().unwrap();
    let (code, log) = ipam.run(&["backup", "--to", file]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    let list = v1::ListChangesRequest::default();
    let seen = ipam.history().unwrap().list_changes(list).await.unwrap();
    let seen = seen.into_inner().changes[0].revision;

    // Half of what is in use now came later, and one address went from hand to hand.
    for number in 5..10 {
        take(&ipam, &format!("east/default/web-{number}")).await;
    }
    let mut client = ipam.allocations().unwrap();
    let given_back = client.release(release("east/default/web-4")).await.unwrap();
    let given_back = given_back.into_inner().released.unwrap().addresses;
    assert_eq!([take(&ipam, "west/default/heir").await], given_back[..]);
    let in_use = held(&ipam).await;

    ipam.kill().unwrap();
    let (code, log) = ipam.run(&["restore", "--from", file]).unwrap();
    assert_eq!((code, log.contains("--force")), (Some(2), true), "{log}");
    let (code, log) = ipam.run(&["restore", "--from", file, "--force"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
    ipam.restart().unwrap();

    assert!(!is_authoritative(&ipam).await);
    newcomers_wait(&ipam, &in_use).await;
    // Nobody goes on from a revision of the lost store, old or new.
    for from_revision in [seen, seen + 5] {
        let watch = v1::WatchAllocationsRequest {
            from_revision,
            ..v1::WatchAllocationsRequest::default()
        };
        let refused = client.watch_allocations(watch).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    }
    // Its Service is gone, so its adapter gives it back.
    client.release(release("east/default/web-4")).await.unwrap();
    report(&ipam, "west", &in_use).await;
    newcomers_wait(&ipam, &in_use).await;
    report(&ipam, "east", &in_use).await;
    nothing_moved(&ipam, &in_use).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_the_wait_and_sees_before_whom_it_would_serve() {
    let (mut ipam, in_use) = in_use().await;
    ipam.kill().unwrap();
    ipam.lose_database().unwrap();
    ipam.run(&["init", "--recover", "east,west"]).unwrap();
    ipam.restart().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/26"]).await.unwrap();
    report(&ipam, "east", &in_use).await;
    let waits = queue(&ipam, "east/default/new", None).await;
    assert_eq!(waits.state(), State::Pending);
    let mut client = ipam.clusters().unwrap();
    let mut finish = v1::FinishRecoveryRequest {
        cluster: "west".to_owned(),
        validate_only: true,
        ..v1::FinishRecoveryRequest::default()
    };
    let would = client.finish_recovery(finish.clone()).await.unwrap();
    let would = would.into_inner();
    assert_eq!(would.clusters[0].name, "west");
    let decided = would.decided.first().unwrap();
    assert_eq!(decided.owner.as_ref().unwrap().name, "new");
    assert_eq!(decided.state(), State::Assigned);
    assert!(!held(&ipam).await.contains_key("east/default/new"));
    finish.validate_only = false;
    let did = client.finish_recovery(finish.clone()).await.unwrap();
    assert_eq!(did.into_inner().decided[0].addresses, decided.addresses);
    let after = held(&ipam).await;
    assert_eq!(after["east/default/new"], decided.addresses[0]);
    let again = client.finish_recovery(finish).await.unwrap().into_inner();
    assert_eq!(again, v1::FinishRecoveryResponse::default());
    let unknown = v1::FinishRecoveryRequest {
        cluster: "nowhere".to_owned(),
        ..v1::FinishRecoveryRequest::default()
    };
    let unknown = client.finish_recovery(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_installation_is_turned_away_until_an_operator_lets_it_adopt_the_name() {
    let (ipam, in_use) = in_use().await;
    let mut client = ipam.clusters().unwrap();
    let begin = |uid: &str| v1::BeginSyncRequest {
        cluster: "east".to_owned(),
        cluster_uid: uid.to_owned(),
        ..v1::BeginSyncRequest::default()
    };
    let refused = client.begin_sync(begin("rebuilt")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("uid of east"), "{refused:?}");
    let adopt = v1::AdoptClusterRequest {
        name: "east".to_owned(),
        cluster_uid: "rebuilt".to_owned(),
        ..v1::AdoptClusterRequest::default()
    };
    let adopted = client.adopt_cluster(adopt.clone()).await.unwrap();
    let adopted = adopted.into_inner().cluster.unwrap();
    assert_eq!(
        (adopted.cluster_uid.as_str(), adopted.allocations),
        ("rebuilt", 5)
    );
    client.begin_sync(begin("rebuilt")).await.unwrap();
    client.begin_sync(begin("uid of east")).await.unwrap_err();
    assert_eq!(held(&ipam).await, in_use);
    let nowhere = v1::AdoptClusterRequest {
        name: "nowhere".to_owned(),
        ..adopt
    };
    let unknown = client.adopt_cluster(nowhere).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_cluster_was_last_heard_of_is_told_and_outlives_a_restart() {
    let (mut ipam, _) = in_use().await;
    let get = |name: &str| v1::GetClusterRequest {
        name: name.to_owned(),
    };
    let mut client = ipam.clusters().unwrap();
    let east = client.get_cluster(get("east")).await.unwrap().into_inner();
    let seen = east.cluster.unwrap().last_seen.unwrap();
    assert!(seen.seconds > 1_700_000_000, "{seen:?}");
    let line = "pharos_ipam_cluster_last_seen_timestamp_seconds{cluster=\"east\"} ";
    let admin = ipam.admin();
    wait::until("the metric", SOON, || {
        let (_, text) = http::get(admin, "/metrics", Duration::from_secs(2)).ok()?;
        let value = text.lines().find_map(|it| it.strip_prefix(line))?;
        let value: i64 = value.parse().ok()?;
        (value >= seen.seconds).then_some(())
    })
    .unwrap();
    ipam.restart().unwrap();
    let mut client = ipam.clusters().unwrap();
    let again = client.get_cluster(get("east")).await.unwrap().into_inner();
    assert_eq!(again.cluster.unwrap().last_seen, Some(seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_that_is_tried_out_begins_and_ends_nothing() {
    let ipam = Ipam::start().unwrap();
    let mut client = ipam.clusters().unwrap();
    let begin = |validate_only| v1::BeginSyncRequest {
        cluster: "east".to_owned(),
        validate_only,
        ..v1::BeginSyncRequest::default()
    };
    let end = |validate_only| v1::EndSyncRequest {
        cluster: "east".to_owned(),
        validate_only,
        ..v1::EndSyncRequest::default()
    };
    for validate_only in [true, false] {
        let begun = client.begin_sync(begin(validate_only)).await.unwrap();
        let told = begun.into_inner().consequences.expect("a new cluster");
        assert_eq!(told.objects[0].name, "east");
        let known = client
            .list_clusters(v1::ListClustersRequest::default())
            .await;
        let known = known.unwrap().into_inner().clusters.len();
        assert_eq!(known, usize::from(!validate_only));
        let ended = client.end_sync(end(true)).await;
        assert_eq!(ended.is_ok(), !validate_only, "{ended:?}");
    }
    client.end_sync(end(false)).await.unwrap();
    let again = client.end_sync(end(true)).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
}
