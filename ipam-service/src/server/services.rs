//! All gRPC services behind the listener, their health and their reflection.

use pharos_process::Readiness;
use pharos_proto::DESCRIPTOR_SET;
use pharos_proto::v1::address_space_service_server::{self, AddressSpaceServiceServer};
use pharos_proto::v1::advertisement_service_server::{self, AdvertisementServiceServer};
use pharos_proto::v1::allocation_service_server::{self, AllocationServiceServer};
use pharos_proto::v1::announcement_service_server::{self, AnnouncementServiceServer};
use pharos_proto::v1::announcer_service_server;
use pharos_proto::v1::cluster_service_server::{self, ClusterServiceServer};
use pharos_proto::v1::history_service_server;
use pharos_proto::v1::pool_service_server::{self, PoolServiceServer};
use pharos_proto::v1::quota_service_server::{self, QuotaServiceServer};
use pharos_proto::v1::reservation_service_server::{self, ReservationServiceServer};
use pharos_proto::v1::status_service_server::{self, StatusServiceServer};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::address_spaces::AddressSpaces;
use crate::api::advertisements::Advertisements;
use crate::api::allocations::Allocations;
use crate::api::announcements::Announcements;
use crate::api::announcer::{AnnouncerApi, AnnouncerServer};
use crate::api::call::Api;
use crate::api::clusters::Clusters;
use crate::api::history::{History, HistoryServer};
use crate::api::pools::Pools;
use crate::api::quotas::Quotas;
use crate::api::reservations::Reservations;
use crate::api::server_info::ServerInfo;

/// Largest message that is read, in bytes. Whole sets of pools come in one message; and a field of
/// 1 MB still gets an answer that names it.
const MAX_MESSAGE: usize = 2 * 1024 * 1024;

/// Names of the services, for `grpc.health.v1`; the empty one is the server as a whole.
const SERVICES: [&str; 12] = [
    "",
    address_space_service_server::SERVICE_NAME,
    advertisement_service_server::SERVICE_NAME,
    allocation_service_server::SERVICE_NAME,
    announcement_service_server::SERVICE_NAME,
    announcer_service_server::SERVICE_NAME,
    cluster_service_server::SERVICE_NAME,
    history_service_server::SERVICE_NAME,
    pool_service_server::SERVICE_NAME,
    reservation_service_server::SERVICE_NAME,
    quota_service_server::SERVICE_NAME,
    status_service_server::SERVICE_NAME,
];

/// Those that need a database that can be written; the others go on without.
const WRITERS: [&str; 8] = [
    "",
    address_space_service_server::SERVICE_NAME,
    advertisement_service_server::SERVICE_NAME,
    allocation_service_server::SERVICE_NAME,
    cluster_service_server::SERVICE_NAME,
    pool_service_server::SERVICE_NAME,
    reservation_service_server::SERVICE_NAME,
    quota_service_server::SERVICE_NAME,
];

/// Says to health checks whether the server serves.
pub(super) struct HealthStatus {
    reporter: HealthReporter,
}

impl HealthStatus {
    /// The server is about to stop.
    pub(super) async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// Follows `/readyz`: while the database cannot be written, the server as a whole and the
    /// services that write are not serving. Never returns.
    pub(super) async fn follow(&self, readiness: &Readiness) {
        let mut changes = readiness.changes();
        loop {
            let status = match readiness.reason() {
                None => ServingStatus::Serving,
                Some(_) => ServingStatus::NotServing,
            };
            for name in WRITERS {
                self.reporter.set_service_status(name, status).await;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn set(&self, status: ServingStatus) {
        for name in SERVICES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

/// Every service, with health and reflection (v1, and v1alpha for older clients).
pub(super) async fn routes(api: Api) -> anyhow::Result<(Routes, HealthStatus)> {
    let (reporter, health_server) = tonic_health::server::health_reporter();
    let health = HealthStatus { reporter };
    health.set(ServingStatus::Serving).await;
    let mut routes = Routes::builder();
    routes.add_service(health_server);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Not a service, but what grpcurl needs to show the details of an error.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    routes.add_service(reflection().build_v1()?);
    routes.add_service(reflection().build_v1alpha()?);
    macro_rules! add {
        ($($server:ident <- $service:expr),+ $(,)?) => {$(
            routes.add_service($server::new($service).max_decoding_message_size(MAX_MESSAGE));
        )+};
    }
    routes.add_service(AnnouncerServer::new(AnnouncerApi::new(api.clone())));
    add!(
        AddressSpaceServiceServer <- AddressSpaces(api.clone()),
        AdvertisementServiceServer <- Advertisements::new(api.clone()),
        AllocationServiceServer <- Allocations(api.clone()),
        AnnouncementServiceServer <- Announcements(api.clone()),
        ClusterServiceServer <- Clusters(api.clone()),
        HistoryServer <- History(api.clone()),
        PoolServiceServer <- Pools(api.clone()),
        ReservationServiceServer <- Reservations(api.clone()),
        QuotaServiceServer <- Quotas(api.clone()),
        StatusServiceServer <- ServerInfo(api),
    );
    Ok((routes.routes(), health))
}
