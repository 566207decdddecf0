//! What is asked of an ipam-service before anything is changed there.

use std::sync::Mutex;

use pharos_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use pharos_proto::v1::status_service_server::{StatusService, StatusServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Response;

use super::*;

/// An ipam-service that has these features and tells who begins an inventory.
struct Server {
    features: Mutex<Vec<&'static str>>,
    begun: mpsc::Sender<String>,
}

#[tonic::async_trait]
impl StatusService for Server {
    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let features = self.features.lock().expect("nobody panics");
        Ok(Response::new(v1::GetServerInfoResponse {
            version: "0.0.1".to_owned(),
            features: features.iter().map(|one| (*one).to_owned()).collect(),
            ..v1::GetServerInfoResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl ClusterService for Server {
    async fn begin_sync(
        &self,
        request: Request<v1::BeginSyncRequest>,
    ) -> Result<Response<v1::BeginSyncResponse>, Status> {
        let cluster = request.into_inner().cluster;
        self.begun.send(cluster).await.expect("somebody listens");
        Ok(Response::new(v1::BeginSyncResponse {
            store_id: "store".to_owned(),
            ..v1::BeginSyncResponse::default()
        }))
    }

    async fn end_sync(
        &self,
        _: Request<v1::EndSyncRequest>,
    ) -> Result<Response<v1::EndSyncResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_clusters(
        &self,
        _: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_cluster(
        &self,
        _: Request<v1::DeleteClusterRequest>,
    ) -> Result<Response<v1::DeleteClusterResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn finish_recovery(
        &self,
        _: Request<v1::FinishRecoveryRequest>,
    ) -> Result<Response<v1::FinishRecoveryResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn adopt_cluster(
        &self,
        _: Request<v1::AdoptClusterRequest>,
    ) -> Result<Response<v1::AdoptClusterResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

/// A client of such a server, and the clusters that begin an inventory there.
async fn client_of(features: &[&'static str]) -> (Ipam, mpsc::Receiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (begun, heard) = mpsc::channel(8);
    let server = std::sync::Arc::new(Server {
        features: Mutex::new(features.to_vec()),
        begun,
    });
    let server = tonic::transport::Server::builder()
        .add_service(StatusServiceServer::from_arc(server.clone()))
        .add_service(ClusterServiceServer::from_arc(server))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let settings = Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    };
    let uri = format!("http://{address}").parse().expect("a URI");
    (Ipam::new(uri, settings), heard)
}

#[tokio::test]
async fn nothing_is_begun_at_a_server_that_lacks_a_feature_which_this_adapter_depends_on() {
    let (ipam, mut begun) = client_of(&FEATURES).await;
    assert_eq!(ipam.begin_sync("uid").await.expect("begun"), "store");
    assert_eq!(begun.recv().await.as_deref(), Some("east"));
    for missing in FEATURES {
        let others: Vec<_> = FEATURES.into_iter().filter(|one| *one != missing).collect();
        let (ipam, mut begun) = client_of(&others).await;
        let refused = ipam.begin_sync("uid").await.expect_err("it would do harm");
        assert_eq!(
            refused.to_string(),
            format!(
                "ipam-service 0.0.1 lacks {missing}, which this adapter depends on: upgrade it"
            )
        );
        assert!(begun.try_recv().is_err(), "{missing}");
    }
}

/// Services that ask for nothing of the kind are served all the same.
#[tokio::test]
async fn a_claim_is_not_made_at_a_server_that_does_not_understand_it() {
    let (ipam, _begun) = client_of(&FEATURES).await;
    ipam.begin_sync("uid").await.expect("begun");
    let plain = crate::claim::least_claim();
    let reserved = Claim {
        reservation: "kept".to_owned(),
        ..plain.clone()
    };
    let two_pools = Claim {
        any_pools: true,
        ..plain.clone()
    };
    for (claim, missing) in [(reserved, RESERVATIONS), (two_pools, DUAL_STACK_POOLS)] {
        let refused = ipam.allocate(&claim, &[], false).await;
        assert_eq!(
            refused.expect_err("another address").to_string(),
            format!("ipam-service 0.0.1 lacks {missing}, which the Service asks for: upgrade it")
        );
    }
    // The call is made: this server has no such service.
    let made = ipam.allocate(&plain, &[], false).await;
    let error = made.expect_err("not implemented").to_string();
    assert!(!error.contains("lacks"), "{error}");
}

/// One that does not know the scope of a set would take it for all advertisements of the cluster.
#[tokio::test]
async fn nothing_about_bgp_goes_to_a_server_that_does_not_understand_it() {
    let (ipam, _begun) = client_of(&FEATURES).await;
    let unasked = ipam.sync_bgp_advertisements(Vec::new()).await;
    assert!(matches!(unasked, Err(CallError::Again(_))), "{unasked:?}");
    ipam.begin_sync("uid").await.expect("begun");
    let advertisements = ipam.sync_bgp_advertisements(Vec::new()).await;
    let peers = ipam.sync_bgp_peers(Vec::new(), Vec::new()).await;
    for (refused, missing) in [
        (
            advertisements,
            "bgp-advertisements, which BGPAdvertisements need",
        ),
        (peers, "bgp-peers, which BGPPeers and BFDProfiles need"),
    ] {
        assert_eq!(
            refused.expect_err("it would do harm").to_string(),
            format!("ipam-service 0.0.1 lacks {missing}: upgrade it")
        );
    }
}

/// A feature that the server calls otherwise would never be found.
#[test]
fn every_feature_that_is_depended_on_is_in_the_reference() {
    let reference = include_str!("../../../proto/pharos/v1/status.proto");
    let sometimes = [
        RESERVATIONS,
        DUAL_STACK_POOLS,
        FENCED_OWNERSHIP,
        BGP_PEERS,
        BGP_ADVERTISEMENTS,
    ];
    for feature in FEATURES.into_iter().chain(sometimes) {
        assert!(
            reference.contains(&format!("// - `{feature}`:")),
            "{feature}"
        );
    }
}
