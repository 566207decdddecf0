//! Topology: one ipam-service; cluster `east` floods it from 127.0.0.1 over eight connections, with
//! more calls at once than the server takes; cluster `west` calls from 127.0.0.2.
//!
//! 1. The calls of `west` are answered while `east` gets as much as one client may.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use e2e::ipam::{Ipam, SOON, claim, release};
use pharos_proto::v1;
use pharos_proto::v1::allocate_request::IfRefused;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

const CONNECTIONS: u64 = 8;
const CALLS_AT_ONCE: u64 = 150;

async fn connect(ipam: &Ipam, from: Ipv4Addr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", ipam.address())).unwrap();
    let endpoint = endpoint.local_address(Some(IpAddr::V4(from)));
    endpoint.connect().await.unwrap()
}

#[derive(Debug, Default)]
struct Flood {
    stop: AtomicBool,
    answered: AtomicU64,
    shed: AtomicU64,
}

impl Flood {
    /// Claims that wait, one after the other, and now and then a whole set of pools.
    async fn call(self: Arc<Self>, channel: Channel, number: u64) {
        let mut client = AllocationServiceClient::new(channel.clone());
        let mut pools = PoolServiceClient::new(channel);
        for round in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let request = v1::AllocateRequest {
                if_refused: IfRefused::Queue.into(),
                ..claim(&format!("east/x/{number}-{}", round % 2))
            };
            let status = match number % 600 {
                0 => pools.sync_pools(pools_of_east(round)).await.err(),
                _ => client.allocate(request).await.err(),
            };
            let counter = match status.map(|status| reason(&status)).as_deref() {
                Some("OVERLOADED") => &self.shed,
                Some(_) | None => &self.answered,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn pools_of_east(round: u64) -> v1::SyncPoolsRequest {
    let pool = |index: u64| v1::Pool {
        name: format!("pool-{index}"),
        cluster: "east".to_owned(),
        addresses: vec![format!("10.{}.{index}.0/28", round % 2)],
        ..v1::Pool::default()
    };
    v1::SyncPoolsRequest {
        cluster: "east".to_owned(),
        pools: (0..8).map(pool).collect(),
        ..v1::SyncPoolsRequest::default()
    }
}

fn reason(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    info.map_or_else(String::new, |info| info.reason.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_client_leaves_room_for_another() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool_of("west", "pool", &["192.0.2.0/24"])
        .await
        .unwrap();
    let flood = Arc::new(Flood::default());
    let mut calls = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = connect(&ipam, Ipv4Addr::LOCALHOST).await;
        for call in 0..CALLS_AT_ONCE {
            let number = connection * CALLS_AT_ONCE + call;
            calls.spawn(Arc::clone(&flood).call(channel.clone(), number));
        }
    }
    // The flood is at its height.
    let height = async {
        while flood.shed.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let height = tokio::time::timeout(SOON, height).await;
    height.expect("the server turns calls away");
    let before = flood.answered.load(Ordering::Relaxed);
    let mut west = AllocationServiceClient::new(connect(&ipam, Ipv4Addr::new(127, 0, 0, 2)).await);
    for _ in 0..5 {
        let taken = tokio::time::timeout(SOON, west.allocate(claim("west/x/a"))).await;
        taken.expect("answered in time").expect("not refused");
        let given = tokio::time::timeout(SOON, west.release(release("west/x/a"))).await;
        given.expect("answered in time").expect("not refused");
    }
    let meanwhile = flood.answered.load(Ordering::Relaxed) - before;
    flood.stop.store(true, Ordering::Relaxed);
    while calls.join_next().await.is_some() {}
    assert!(meanwhile > 0, "the flood went on");
}
