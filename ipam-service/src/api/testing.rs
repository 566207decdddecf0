//! A server on loopback for tests: real writer, real database in a temporary folder, real gRPC.

use std::sync::Arc;
use std::time::Duration;

use pharos_process::{Readiness, Shutdown};
use pharos_proto::v1;
use pharos_proto::v1::address_space_service_server::AddressSpaceServiceServer;
use pharos_proto::v1::advertisement_service_client::AdvertisementServiceClient;
use pharos_proto::v1::advertisement_service_server::AdvertisementServiceServer;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::allocation_service_server::AllocationServiceServer;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::announcement_service_server::AnnouncementServiceServer;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::cluster_service_client::ClusterServiceClient;
use pharos_proto::v1::cluster_service_server::ClusterServiceServer;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::pool_service_server::PoolServiceServer;
use pharos_proto::v1::reservation_service_server::ReservationServiceServer;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use super::address_spaces::AddressSpaces;
use super::advertisements::Advertisements;
use super::allocations::Allocations;
use super::announcements::Announcements;
use super::announcer::{AnnouncerApi, AnnouncerServer, Connections};
use super::call::Api;
use super::clusters::Clusters;
use super::pools::Pools;
use super::reservations::Reservations;
use crate::engine::{self, EngineMetrics};
use crate::retention::{Keep, Policy, Retention};
use crate::state::change::{Change, Edit};
use crate::state::model::{Cluster, Timestamp};
use crate::state::names::Name;
use crate::store::{Batch, Location, Logged, Missing, Store, expected_cluster};
use crate::testing::PATIENCE;
pub(super) use crate::testing::within;

/// A running server.
pub(super) struct TestServer {
    pub(super) connections: Arc<Connections>,
    endpoint: Endpoint,
    shutdown: Shutdown,
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl TestServer {
    /// With an empty database.
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start_in(folder).await
    }

    /// With a database that takes the place of a lost one: these clusters have yet to report what they
    /// hold.
    pub(super) async fn recovering(clusters: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let location = Location::Sqlite(folder.path().join("pharos.db"));
        let store = Store::open(&location, Missing::Create, Timestamp(0)).await;
        let mut writer = store.expect("the database opens").writer;
        writer.load().await.expect("the database loads");
        let changes = (1..).zip(clusters).map(|(revision, name)| {
            let name = Name::parse(name).expect("a name");
            let after = Cluster {
                revision,
                ..expected_cluster(name, Timestamp(0))
            };
            Logged {
                revision: Some(revision),
                change: Change::Cluster(Edit {
                    before: None,
                    after: Some(Arc::new(after)),
                }),
                origin: Arc::default(),
            }
        });
        let batch = Batch {
            changes: changes.collect(),
            ..Batch::default()
        };
        writer.commit(&batch).await.expect("committed");
        writer.close().await;
        Self::start_in(folder).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Self {
        let location = Location::Sqlite(folder.path().join("pharos.db"));
        let store = Store::open(&location, Missing::Create, Timestamp(0));
        let store = store.await.expect("the database opens");
        let metrics = EngineMetrics::register(&mut Registry::default());
        let opened = engine::open(store, metrics, Readiness::default(), Shutdown::default());
        let opened = opened.await.expect("the database loads");
        let shutdown = Shutdown::default();
        let policy = Policy {
            keep: Keep::Forever,
            floor: 0,
        };
        let retention = Retention::new(
            policy,
            opened.engine.clone(),
            opened.reader.clone(),
            opened.compactor,
            &mut Registry::default(),
            Readiness::default(),
        );
        let api = Api {
            retention,
            engine: opened.engine,
            reader: opened.reader,
            feeds: opened.feeds,
            leases: opened.leases,
            store_id: Arc::from(opened.store_id),
            shutdown: shutdown.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let announcers = AnnouncerApi::new(api.clone());
        let connections = Arc::clone(announcers.connections());
        let serving = Server::builder()
            .add_service(AnnouncerServer::new(announcers))
            .add_service(AdvertisementServiceServer::new(Advertisements::new(
                api.clone(),
            )))
            .add_service(AllocationServiceServer::new(Allocations(api.clone())))
            .add_service(AnnouncementServiceServer::new(Announcements(api.clone())))
            .add_service(ClusterServiceServer::new(Clusters(api.clone())))
            .add_service(PoolServiceServer::new(Pools(api.clone())))
            .add_service(AddressSpaceServiceServer::new(AddressSpaces(api.clone())))
            .add_service(ReservationServiceServer::new(Reservations(api)))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.stopping_owned());
        Self {
            connections,
            endpoint: Endpoint::from_shared(format!("http://{address}")).expect("a URL"),
            shutdown,
            folder,
            server: tokio::spawn(async move { serving.await.expect("the server serves") }),
            writer: tokio::spawn(opened.task.run()),
        }
    }

    /// Begins to stop, as SIGTERM would.
    pub(super) fn stop(&self) {
        self.shutdown.stop();
    }

    /// Stops, and waits until every task has ended.
    pub(super) async fn stopped(self) -> tempfile::TempDir {
        self.shutdown.stop();
        within(self.server).await.expect("the server ends");
        within(self.writer).await.expect("the writer ends");
        self.folder
    }

    /// Another process on the same database.
    pub(super) async fn restarted(self) -> Self {
        let folder = self.stopped().await;
        Self::start_in(folder).await
    }

    /// A connection of its own.
    pub(super) async fn channel(&self) -> Channel {
        self.endpoint.connect().await.expect("the server listens")
    }

    pub(super) async fn announcers(&self) -> AnnouncerServiceClient<Channel> {
        AnnouncerServiceClient::new(self.channel().await)
    }

    pub(super) async fn announcements(&self) -> AnnouncementServiceClient<Channel> {
        AnnouncementServiceClient::new(self.channel().await)
    }

    pub(super) async fn clusters(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel().await)
    }

    pub(super) async fn pools(&self) -> PoolServiceClient<Channel> {
        PoolServiceClient::new(self.channel().await)
    }

    pub(super) async fn advertisements(&self) -> AdvertisementServiceClient<Channel> {
        AdvertisementServiceClient::new(self.channel().await)
    }

    /// What is announced in a cluster.
    pub(super) async fn assignments(&self, cluster: &str) -> v1::ListAssignmentsResponse {
        let request = v1::ListAssignmentsRequest {
            cluster: cluster.to_owned(),
        };
        let mut client = self.announcers().await;
        let response = client.list_assignments(request).await;
        response.expect("listed").into_inner()
    }

    /// An operator's pool `pool` of 192.0.2.0/24.
    pub(super) async fn with_pool(self) -> Self {
        let pool = v1::Pool {
            name: "pool".to_owned(),
            addresses: vec!["192.0.2.0/24".to_owned()],
            ..v1::Pool::default()
        };
        let request = v1::ApplyPoolRequest {
            pool: Some(pool),
            ..v1::ApplyPoolRequest::default()
        };
        let mut client = self.pools().await;
        client.apply_pool(request).await.expect("applied");
        self
    }

    /// An advertisement of all pools for every cluster.
    pub(super) async fn with_advertisement(self) -> Self {
        let mut client = self.advertisements().await;
        let request = v1::ApplyAdvertisementRequest {
            advertisement: Some(l2_advertisement("default")),
            ..v1::ApplyAdvertisementRequest::default()
        };
        client.apply_advertisement(request).await.expect("applied");
        self
    }

    /// Takes an address; which nodes announce it is reported, or not.
    pub(super) async fn allocate(&self, owner: v1::Owner, backends: v1::claim::Backends) -> String {
        let request = v1::AllocateRequest {
            owner: Some(owner),
            backends: backends.into(),
            ..v1::AllocateRequest::default()
        };
        let mut client = AllocationServiceClient::new(self.channel().await);
        let response = client.allocate(request).await.expect("allocated");
        let allocation = response.into_inner().allocation.expect("an allocation");
        allocation.addresses.first().expect("an address").clone()
    }

    pub(super) async fn release(&self, owner: v1::Owner) {
        let request = v1::ReleaseRequest {
            owner: Some(owner),
            allow_missing: true,
            ..v1::ReleaseRequest::default()
        };
        let mut client = AllocationServiceClient::new(self.channel().await);
        client.release(request).await.expect("released");
    }
}

/// `east/default/NAME`.
pub(super) fn owner(name: &str) -> v1::Owner {
    v1::Owner {
        cluster: "east".to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: String::new(),
    }
}

pub(super) fn l2_advertisement(name: &str) -> v1::Advertisement {
    v1::Advertisement {
        name: name.to_owned(),
        protocol: Some(v1::advertisement::Protocol::L2(
            v1::advertisement::L2::default(),
        )),
        ..v1::Advertisement::default()
    }
}

/// Waits until a condition holds.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, wait).await;
    outcome.unwrap_or_else(|_| panic!("in time: {what}"));
}
