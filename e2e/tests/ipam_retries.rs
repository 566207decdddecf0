//! Topology: one ipam-service.
//!
//! 1. The same claim gets the same answer for ever, also after a restart and from many at once.
//! 2. A changed claim keeps its address where it fits, and changes nothing where it is refused.
//! 3. A claim, a release or a leader that is out of date does nothing.
//! 4. What is only validated changes nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::ipam::{Ipam, claim, owner, release, tcp};
use pharos_proto::v1;
use tonic::Code;

async fn take(ipam: &Ipam, request: v1::AllocateRequest) -> Result<v1::Allocation, tonic::Status> {
    let answer = ipam.allocations().unwrap().allocate(request).await?;
    Ok(answer.into_inner().allocation.expect("an allocation"))
}

async fn revision(ipam: &Ipam) -> u64 {
    let mut client = ipam.allocations().unwrap();
    let list = client
        .list_allocations(v1::ListAllocationsRequest::default())
        .await;
    list.unwrap().into_inner().revision
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_claim_gets_the_same_answer_for_ever() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.99"])
        .await
        .unwrap();
    let mut request = claim("east/default/web");
    request.ports = vec![tcp(443), tcp(80)];
    let first = take(&ipam, request.clone()).await.unwrap();
    let before = revision(&ipam).await;

    request.ports = vec![tcp(80), tcp(443), tcp(80)];
    request.request_id = "another".to_owned();
    request.held_addresses = vec!["192.0.2.50".to_owned()];
    let retries = (0..20).map(|_| take(&ipam, request.clone()));
    for retry in futures::future::join_all(retries).await {
        assert_eq!(retry.unwrap(), first);
    }
    ipam.restart().unwrap();
    assert_eq!(take(&ipam, request).await.unwrap(), first);
    assert_eq!(revision(&ipam).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_claim_keeps_its_address_where_it_fits() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.99"])
        .await
        .unwrap();
    take(&ipam, claim("east/default/first")).await.unwrap();
    let mut request = claim("east/default/web");
    let web = take(&ipam, request.clone()).await.unwrap();
    ipam.allocations()
        .unwrap()
        .release(release("east/default/first"))
        .await
        .unwrap();

    request.ports = vec![tcp(8080)];
    let changed = take(&ipam, request.clone()).await.unwrap();
    assert_eq!(changed.addresses, web.addresses);
    assert!(changed.revision > web.revision && changed.id == web.id);

    let mut refused = request.clone();
    refused.pool = "none".to_owned();
    assert_eq!(
        take(&ipam, refused).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(take(&ipam, request).await.unwrap(), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_date_does_nothing() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.99"])
        .await
        .unwrap();
    let mut request = claim("east/default/web");
    request.owner.as_mut().unwrap().uid = "one".to_owned();
    request.fence = 5;
    let web = take(&ipam, request.clone()).await.unwrap();
    let mut client = ipam.allocations().unwrap();

    let mut stale = request.clone();
    stale.ports = vec![tcp(81)];
    stale.if_revision = Some(web.revision + 7);
    assert_eq!(
        take(&ipam, stale.clone()).await.unwrap_err().code(),
        Code::Aborted
    );
    stale.if_revision = None;
    stale.fence = 4;
    assert_eq!(take(&ipam, stale).await.unwrap_err().code(), Code::Aborted);

    let mut other = release("east/default/web");
    other.owner.as_mut().unwrap().uid = "two".to_owned();
    let nothing = client.release(other).await.unwrap().into_inner();
    assert_eq!(nothing.released, None);
    let mut paused = release("east/default/web");
    paused.fence = 4;
    assert_eq!(
        client.release(paused).await.unwrap_err().code(),
        Code::Aborted
    );
    assert_eq!(take(&ipam, request.clone()).await.unwrap(), web);

    request.owner.as_mut().unwrap().uid = "two".to_owned();
    let reborn = take(&ipam, request).await.unwrap();
    assert!(
        reborn.id > web.id,
        "another incarnation is another allocation"
    );

    let gone = client
        .release(release("east/default/web"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(gone.released.unwrap().id, reborn.id);
    let again = client.release(release("east/default/web")).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);
    let mut tolerant = release("east/default/web");
    tolerant.allow_missing = true;
    let nothing = client.release(tolerant).await.unwrap().into_inner();
    assert_eq!(nothing.released, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_validated_changes_nothing() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.2"])
        .await
        .unwrap();
    let web = take(&ipam, claim("east/default/web")).await.unwrap();
    let before = revision(&ipam).await;

    let mut would = claim("east/default/other");
    would.validate_only = true;
    let answer = take(&ipam, would).await.unwrap();
    assert_eq!(answer.addresses, ["192.0.2.2"]);

    let mut pools = ipam.pools().unwrap();
    let delete = v1::DeletePoolRequest {
        name: "pool".to_owned(),
        validate_only: true,
        ..v1::DeletePoolRequest::default()
    };
    let refused = pools.delete_pool(delete.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("east/default/web"),
        "{}",
        refused.message()
    );
    let moving = v1::DeletePoolRequest {
        if_in_use: v1::in_use::Policy::Move.into(),
        ..delete
    };
    pools.delete_pool(moving).await.unwrap();

    let mut would = release("east/default/web");
    would.validate_only = true;
    let mut client = ipam.allocations().unwrap();
    let answer = client.release(would).await.unwrap().into_inner();
    assert_eq!(answer.released.as_ref(), Some(&web));
    let get = v1::GetAllocationRequest {
        owner: Some(owner("east/default/web")),
    };
    let held = client
        .get_allocation(get)
        .await
        .unwrap()
        .into_inner()
        .allocation;
    assert_eq!(held, Some(web));
    assert_eq!(revision(&ipam).await, before);
}
