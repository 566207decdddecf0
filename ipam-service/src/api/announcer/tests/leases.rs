//! Leases over gRPC, and what they make of fenced addresses.

use pharos_proto::v1::advertisement::l2::Ownership;
use pharos_proto::v1::announcer_report::Released;
use pharos_proto::v1::announcer_report::released::Tenure;
use pharos_proto::v1::renew_lease_request::Readiness;

use super::*;
use crate::api::testing::l2_advertisement;

fn renewal(node: &str, term: u64) -> v1::RenewLeaseRequest {
    v1::RenewLeaseRequest {
        cluster: "east".to_owned(),
        node: node.to_owned(),
        term,
        readiness: Readiness::Ready.into(),
        interfaces: vec!["eth0".to_owned()],
        ..v1::RenewLeaseRequest::default()
    }
}

async fn renew(server: &TestServer, request: v1::RenewLeaseRequest) -> Result<u64, Status> {
    let mut announcers = server.announcers().await;
    let answer = announcers.renew_lease(request).await?;
    Ok(answer.into_inner().term)
}

async fn fenced_address(server: &TestServer) {
    let fenced = v1::Advertisement {
        protocol: Some(v1::advertisement::Protocol::L2(v1::advertisement::L2 {
            ownership: Ownership::Fenced.into(),
            ..v1::advertisement::L2::default()
        })),
        ..l2_advertisement("default")
    };
    let request = v1::ApplyAdvertisementRequest {
        advertisement: Some(fenced),
        ..v1::ApplyAdvertisementRequest::default()
    };
    let mut advertisements = server.advertisements().await;
    let applied = advertisements.apply_advertisement(request).await;
    applied.expect("applied");
    server.allocate(owner("web"), Backends::Unmanaged).await;
}

/// What is told of the only address, once it is like this.
async fn told(
    server: &TestServer,
    is_wanted: impl Fn(&v1::assignment::Fenced) -> bool,
) -> v1::assignment::Fenced {
    within(async {
        loop {
            let listed = server.assignments("east").await;
            let fenced = listed
                .assignments
                .first()
                .and_then(|one| one.fenced.clone());
            if let Some(fenced) = fenced.filter(&is_wanted) {
                return fenced;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_lease_names_an_owner_and_a_better_one_is_announced_before_it_is_named() {
    let server = TestServer::start().await.with_pool().await;
    let mut nodes = BTreeMap::new();
    for name in ["a", "b"] {
        let mut node = Follower::new(name);
        node.connect(&server).await;
        nodes.insert(name.to_owned(), node);
    }
    fenced_address(&server).await;
    let listed = server.assignments("east").await;
    let [first, second] = &listed.assignments[0].nodes[..] else {
        panic!("two candidates: {listed:?}");
    };
    // A service that has just begun names nobody for as long as a term may run.
    let term = renew(&server, renewal(second, 0)).await.expect("granted");
    let named = told(&server, |fenced| fenced.owner == *second).await;
    assert_eq!((named.term, named.epoch, &*named.next), (term, 1, ""));
    // Renewals keep it.
    let renewed = renew(&server, renewal(second, term)).await;
    assert_eq!(renewed.expect("renewed"), term);

    let better = renew(&server, renewal(first, 0)).await.expect("granted");
    let moved = told(&server, |fenced| !fenced.next.is_empty()).await;
    assert_eq!((&moved.owner, &moved.next), (second, first));
    let tenure = Tenure {
        address_space: String::new(),
        address: listed.assignments[0].address.clone(),
        term,
        epoch: 1,
    };
    let released = Report::Released(Released {
        tenures: vec![tenure],
    });
    let (reports, _) = nodes[second].stream.as_ref().expect("connected");
    reports.send(report(released)).await.expect("told");
    let named = told(&server, |fenced| fenced.owner == *first).await;
    assert_eq!((named.term, named.epoch, &*named.next), (better, 2, ""));

    // Given back, it is the other's at once.
    let end = v1::RenewLeaseRequest {
        end: true,
        ..renewal(first, better)
    };
    assert_eq!(renew(&server, end).await.expect("ended"), 0);
    let named = told(&server, |fenced| fenced.owner == *second).await;
    assert_eq!((named.term, named.epoch), (term, 3));
    server.stopped().await;
}

#[tokio::test]
async fn a_term_that_is_not_known_is_over_and_bad_fields_are_named() {
    let server = TestServer::start().await;
    let over = renew(&server, renewal("a", 77)).await;
    assert_eq!(over.expect_err("over").code(), Code::FailedPrecondition);
    let first = renew(&server, renewal("a", 0)).await.expect("granted");
    let other = renew(&server, renewal("a", 0)).await.expect("granted");
    assert!(first != other && first != 0 && other != 0);
    let bad = v1::RenewLeaseRequest {
        readiness: 0,
        interfaces: vec![String::new()],
        ..renewal("", 0)
    };
    let refused = renew(&server, bad).await.expect_err("bad");
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["node", "readiness", "interfaces[0]"] {
        assert!(refused.message().contains(field), "{field}: {refused}");
    }
    let endless = v1::RenewLeaseRequest {
        end: true,
        ..renewal("a", 0)
    };
    let refused = renew(&server, endless).await.expect_err("bad");
    assert!(refused.message().contains("term"), "{refused}");
    server.stopped().await;
}
