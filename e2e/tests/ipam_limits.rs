//! Topology: one ipam-service; clients of several clusters and an operator.
//!
//! 1. A claim beyond a quota is refused with its details; one that waits is woken in its turn.
//! 2. Quotas outlive a restart, and are in the history.
//! 3. A protected pool keeps its holders.
//! 4. No more claims of a cluster wait than may, others are served, and that is counted.
//! 5. A large edit of a pool goes on after `kill -9`, and meanwhile others are served.

use e2e::ipam::{Ipam, claim, queued, reason, release};
use futures::StreamExt as _;
use pharos_proto::v1;
use pharos_proto::v1::allocation::State;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn quota(name: &str, limit: u32) -> v1::Quota {
    v1::Quota {
        name: name.to_owned(),
        cluster: "east".to_owned(),
        limit: Some(limit),
        ..v1::Quota::default()
    }
}

async fn apply_quota(ipam: &Ipam, quota: v1::Quota) -> Result<v1::Quota, Status> {
    let request = v1::ApplyQuotaRequest {
        quota: Some(quota),
        ..v1::ApplyQuotaRequest::default()
    };
    let answer = ipam
        .quotas()
        .expect("a client")
        .apply_quota(request)
        .await?;
    Ok(answer.into_inner().quota.expect("a quota"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_beyond_a_quota_is_refused_or_waits_for_its_turn() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.0/24"]).await.unwrap();
    let made = apply_quota(&ipam, quota("team", 2)).await.unwrap();
    assert_eq!(made.usage.unwrap().held, 0);
    for owner in ["east/red/a", "east/blue/b"] {
        ipam.allocate(claim(owner)).await.unwrap();
    }
    let status = ipam.allocate(claim("east/red/c")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "QUOTA_EXCEEDED");
    let message = "quota \"team\" allows cluster east 2 addresses of address space default; 2 are \
                   held";
    assert_eq!(status.message(), message);
    let details = status.get_error_details();
    let violations = &details.quota_failure().expect("QuotaFailure").violations;
    assert_eq!(violations[0].subject, "quotas/team");
    assert_eq!(violations[0].description, message);

    let first = ipam.allocate(queued("east/red/c")).await.unwrap();
    assert_eq!(first.state(), State::Pending);
    assert_eq!(first.refusal.unwrap().quota, "team");
    ipam.allocate(queued("east/red/d")).await.unwrap();
    // Another cluster goes on; an address that comes free goes to the first who waits.
    ipam.allocate(claim("west/red/a")).await.unwrap();
    let answer = ipam
        .allocations()
        .unwrap()
        .release(release("east/blue/b"))
        .await;
    answer.unwrap();
    let served = ipam.get("east/red/c").await.unwrap();
    assert_eq!(served.state(), State::Assigned);
    assert_eq!(served.addresses, ["192.0.2.1"]);
    assert_eq!(
        ipam.get("east/red/d").await.unwrap().state(),
        State::Pending
    );

    // What would be, is shown; then a higher limit serves who is left.
    let mut raise = v1::ApplyQuotaRequest {
        quota: Some(quota("team", 3)),
        validate_only: true,
        ..v1::ApplyQuotaRequest::default()
    };
    let answer = ipam.quotas().unwrap().apply_quota(raise.clone()).await;
    let would_be = answer.unwrap().into_inner().quota.expect("a quota");
    assert_eq!((would_be.limit, would_be.usage), (Some(3), None));
    assert_eq!(
        ipam.get("east/red/d").await.unwrap().state(),
        State::Pending
    );
    raise.validate_only = false;
    ipam.quotas().unwrap().apply_quota(raise).await.unwrap();
    assert_eq!(
        ipam.get("east/red/d").await.unwrap().state(),
        State::Assigned
    );

    ipam.restart().unwrap();
    let listed = ipam
        .quotas()
        .unwrap()
        .list_quotas(v1::ListQuotasRequest::default())
        .await;
    let listed = listed.unwrap().into_inner().quotas;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].usage.as_ref().unwrap().held, 3);
    assert_eq!(
        reason(&ipam.allocate(claim("east/x/y")).await.unwrap_err()),
        "QUOTA_EXCEEDED"
    );
    // Lowered below what is held, it evicts nobody.
    let low = apply_quota(&ipam, quota("team", 1)).await.unwrap();
    assert_eq!(low.usage.unwrap().held, 3);
    assert_eq!(
        ipam.get("east/red/c").await.unwrap().addresses,
        ["192.0.2.1"]
    );

    let name = "team".to_owned();
    let delete = v1::DeleteQuotaRequest {
        name,
        ..v1::DeleteQuotaRequest::default()
    };
    ipam.quotas()
        .unwrap()
        .delete_quota(delete.clone())
        .await
        .unwrap();
    let gone = ipam
        .quotas()
        .unwrap()
        .delete_quota(delete)
        .await
        .unwrap_err();
    assert_eq!(
        (gone.code(), reason(&gone).as_str()),
        (Code::NotFound, "UNKNOWN_QUOTA")
    );
    ipam.allocate(claim("east/x/y")).await.unwrap();
    let newest = v1::ListChangesRequest::default();
    let history = ipam.history().unwrap().list_changes(newest).await.unwrap();
    let of_quota = history
        .into_inner()
        .changes
        .into_iter()
        .filter_map(|it| match it.subject {
            Some(v1::change::Subject::Quota(edit)) => Some(edit),
            _ => None,
        });
    let limits: Vec<_> = of_quota
        .map(|edit| [edit.before, edit.after].map(|it| it.and_then(|it| it.limit)))
        .collect();
    let expected = [
        [Some(1), None],
        [Some(3), Some(1)],
        [Some(2), Some(3)],
        [None, Some(2)],
    ];
    assert_eq!(limits, expected, "newest first");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_listed_page_by_page_and_bad_ones_named() {
    let ipam = Ipam::start().unwrap();
    for cluster in ["east", "west"] {
        for number in 0..3 {
            let one = v1::Quota {
                cluster: cluster.to_owned(),
                namespace: format!("ns{number}"),
                ..quota(&format!("{cluster}-{number}"), number)
            };
            apply_quota(&ipam, one).await.unwrap();
        }
    }
    let mut names = Vec::new();
    let mut request = v1::ListQuotasRequest {
        cluster: "west".to_owned(),
        page_size: 2,
        ..v1::ListQuotasRequest::default()
    };
    loop {
        let page = ipam.quotas().unwrap().list_quotas(request.clone()).await;
        let page = page.unwrap().into_inner();
        names.push(
            page.quotas
                .into_iter()
                .map(|it| it.name)
                .collect::<Vec<_>>(),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, [vec!["west-0", "west-1"], vec!["west-2"]]);
    let twin = v1::Quota {
        cluster: "west".to_owned(),
        namespace: "ns1".to_owned(),
        ..quota("twin", 1)
    };
    for (bad, field) in [
        (quota("", 1), "quota.name"),
        (
            v1::Quota {
                limit: None,
                ..quota("q", 1)
            },
            "quota.limit",
        ),
        (twin, "quota.name"),
    ] {
        let status = apply_quota(&ipam, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("BadRequest").field_violations;
        assert_eq!(violations[0].field, field, "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_pool_keeps_its_holders() {
    let ipam = Ipam::start().unwrap();
    let pool = |range: &str, protected| v1::ApplyPoolRequest {
        pool: Some(v1::Pool {
            name: "pool".to_owned(),
            addresses: vec![range.to_owned()],
            protected,
            ..v1::Pool::default()
        }),
        if_in_use: v1::in_use::Policy::Move.into(),
        ..v1::ApplyPoolRequest::default()
    };
    let mut pools = ipam.pools().unwrap();
    let made = pools.apply_pool(pool("192.0.2.0/24", true)).await.unwrap();
    assert!(made.into_inner().pool.unwrap().protected);
    ipam.allocate(claim("east/red/a")).await.unwrap();
    let delete = v1::DeletePoolRequest {
        name: "pool".to_owned(),
        if_in_use: v1::in_use::Policy::Move.into(),
        ..v1::DeletePoolRequest::default()
    };
    let message = "pool pool is protected: 1 holder would lose its address, first east/red/a \
                   with 192.0.2.0; clear `protected` in an edit of its own to allow that";
    for status in [
        pools
            .apply_pool(pool("192.0.2.8/29", false))
            .await
            .unwrap_err(),
        pools.delete_pool(delete.clone()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(reason(&status), "POOL_PROTECTED");
        assert_eq!(status.message(), message);
    }
    pools.apply_pool(pool("192.0.2.0/24", false)).await.unwrap();
    pools.apply_pool(pool("192.0.2.8/29", true)).await.unwrap();
    assert_eq!(
        ipam.get("east/red/a").await.unwrap().addresses,
        ["192.0.2.8"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_claims_of_a_cluster_wait_than_may() {
    let ipam = Ipam::start_with(&["--max-pending", "2"]).unwrap();
    for owner in ["east/red/a", "east/red/b", "west/red/a"] {
        let waits = ipam.allocate(queued(owner)).await.unwrap();
        assert_eq!(waits.state(), State::Pending);
    }
    let status = ipam.allocate(queued("east/red/c")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "TOO_MANY_PENDING");
    let details = status.get_error_details();
    assert!(
        details
            .retry_info()
            .is_some_and(|retry| retry.retry_delay.is_some())
    );
    // One that waits may ask for something else.
    let named = v1::AllocateRequest {
        pool: "pool".to_owned(),
        ..queued("east/red/b")
    };
    let waits = ipam.allocate(named).await.unwrap();
    assert_eq!(waits.state(), State::Pending);
    let metrics = pharos_testbed::http::get(ipam.admin(), "/metrics", e2e::ipam::SOON);
    let counted = "pharos_ipam_too_many_pending_total 1";
    assert!(metrics.unwrap().1.contains(counted));
    ipam.apply_pool("pool", &["192.0.2.0/24"]).await.unwrap();
    ipam.allocate(claim("east/red/c")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_edit_of_a_pool_goes_on_after_a_kill() {
    const HOLDERS: usize = 2000;
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/16"]).await.unwrap();
    // Of no use to those who are moved.
    let spare = v1::ApplyPoolRequest {
        pool: Some(v1::Pool {
            name: "spare".to_owned(),
            addresses: vec!["192.0.2.0/24".to_owned()],
            auto_assign: Some(false),
            ..v1::Pool::default()
        }),
        ..v1::ApplyPoolRequest::default()
    };
    ipam.pools().unwrap().apply_pool(spare).await.unwrap();
    let all = futures::stream::iter(0..HOLDERS).map(|number| {
        let request = claim(&format!("east/red/{number}"));
        let mut client = ipam.allocations().expect("a client");
        async move { client.allocate(request).await }
    });
    let granted: Vec<_> = all.buffer_unordered(64).collect().await;
    assert!(granted.iter().all(Result::is_ok));
    let edit = |validate_only| v1::ApplyPoolRequest {
        pool: Some(v1::Pool {
            name: "pool".to_owned(),
            addresses: vec!["10.1.0.0/16".to_owned()],
            ..v1::Pool::default()
        }),
        if_in_use: v1::in_use::Policy::Move.into(),
        validate_only,
        ..v1::ApplyPoolRequest::default()
    };
    for validate_only in [true, false] {
        let mut pools = ipam.pools().unwrap();
        let answer = pools.apply_pool(edit(validate_only)).await.unwrap();
        let told = answer.into_inner().consequences.expect("consequences");
        assert!(told.unfinished);
        let listed = told.allocations.len() + usize::try_from(told.more_allocations).unwrap();
        let remaining = usize::try_from(told.remaining).unwrap();
        assert_eq!(listed + remaining, HOLDERS);
    }
    ipam.restart().unwrap();
    let stranger = v1::AllocateRequest {
        pool: "spare".to_owned(),
        ..claim("west/red/a")
    };
    ipam.allocate(stranger).await.unwrap();
    let mut client = ipam.allocations().unwrap();
    let moved = async {
        loop {
            let request = v1::ListAllocationsRequest {
                cluster: "east".to_owned(),
                page_size: 1000,
                ..v1::ListAllocationsRequest::default()
            };
            let page = client.list_allocations(request.clone()).await.unwrap();
            let page = page.into_inner();
            let next = v1::ListAllocationsRequest {
                page_token: page.next_page_token,
                ..request
            };
            let second = client.list_allocations(next).await.unwrap().into_inner();
            let mut all = page.allocations.iter().chain(&second.allocations);
            let is_new = |one: &v1::Allocation| one.addresses[0].starts_with("10.1.");
            if all.all(is_new) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(e2e::ipam::SOON, moved)
        .await
        .expect("everybody has moved");
    ipam.terminate().unwrap();
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}
