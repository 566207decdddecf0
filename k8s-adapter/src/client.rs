//! The calls to ipam-service. They say what came of them; what to do about it is decided
//! elsewhere.

mod survey;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pharos_proto::v1::{
    self, advertisement_service_client::AdvertisementServiceClient,
    allocation_service_client::AllocationServiceClient,
    announcement_service_client::AnnouncementServiceClient,
    cluster_service_client::ClusterServiceClient, pool_service_client::PoolServiceClient,
    status_service_client::StatusServiceClient, sync_advertisements_request::Scope,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::book::Answer;
use crate::claim::{Claim, Settings, owner, request};
use crate::service::ServiceKey;

pub use survey::Holder;

/// Longest time for a call that answers once. An allocation takes milliseconds; a burst of
/// thousands waits for its turn.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a connection to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that says nothing for this long is asked whether it lives, and must answer within
/// the other time.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// `ErrorInfo.reason` of an EndSync that no BeginSync precedes.
const NOT_SYNCING: &str = "NOT_SYNCING";
/// What an ipam-service must be able to do: without it an address that a Service has could be given
/// away, or moved by an edit that moves nothing.
const FEATURES: [&str; 3] = ["inventory", "pending-claims", "whole-sets"];
/// What it must be able to do for a Service that asks for it, which would get another address than it
/// asks for otherwise.
const RESERVATIONS: &str = "reservations";
const DUAL_STACK_POOLS: &str = "dual-stack-pools";
/// What it must be able to do for an advertisement that asks for it: one that does not know the word would let
/// two nodes answer.
const FENCED_OWNERSHIP: &str = "fenced-ownership";
/// What it must be able to do for what is declared about BGP.
const BGP_PEERS: &str = "bgp-peers";
const BGP_ADVERTISEMENTS: &str = "bgp-advertisements";
/// Pools per page, the most that the API gives.
const PAGE: i32 = 1000;

/// A call that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The same call may go well later.
    #[error("{}", describe(.0))]
    Again(Status),
    /// The call is wrong as it is; the text is for people.
    #[error("{0}")]
    Refused(String),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => Self::Refused(status.message().to_owned()),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => Self::Again(status),
        }
    }
}

/// What a status means, with the cause that a failed connection hides behind `transport error`.
pub fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// A client of ipam-service. Connects when needed; clones share the connection.
#[derive(Debug, Clone)]
pub struct Ipam {
    settings: Settings,
    pools: PoolServiceClient<Channel>,
    allocations: AllocationServiceClient<Channel>,
    advertisements: AdvertisementServiceClient<Channel>,
    announcements: AnnouncementServiceClient<Channel>,
    clusters: ClusterServiceClient<Channel>,
    status: StatusServiceClient<Channel>,
    /// What the server said of itself when the last session began.
    server: Arc<Mutex<Option<v1::GetServerInfoResponse>>>,
}

impl Ipam {
    /// Nothing is called yet. Must be called inside a tokio runtime.
    pub fn new(uri: Uri, settings: Settings) -> Self {
        let (interval, timeout) = KEEP_ALIVE;
        let channel = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        Self {
            settings,
            pools: PoolServiceClient::new(channel.clone()),
            allocations: AllocationServiceClient::new(channel.clone()),
            advertisements: AdvertisementServiceClient::new(channel.clone()),
            announcements: AnnouncementServiceClient::new(channel.clone()),
            clusters: ClusterServiceClient::new(channel.clone()),
            status: StatusServiceClient::new(channel),
            server: Arc::default(),
        }
    }

    /// Announces a complete inventory; gives the `store_id` that will hold it. A server that lacks
    /// something that this adapter depends on is left alone.
    pub async fn begin_sync(&self, cluster_uid: &str) -> Result<String, CallError> {
        self.check_features().await?;
        let request = v1::BeginSyncRequest {
            cluster: self.settings.cluster.clone(),
            cluster_uid: cluster_uid.to_owned(),
            ..v1::BeginSyncRequest::default()
        };
        let response = self.clusters.clone().begin_sync(timed(request)).await?;
        Ok(response.into_inner().store_id)
    }

    /// Makes sure that ipam-service can do all that this adapter depends on.
    async fn check_features(&self) -> Result<(), CallError> {
        let request = timed(v1::GetServerInfoRequest {});
        let info = self.status.clone().get_server_info(request).await?;
        let info = info.into_inner();
        let checked = FEATURES
            .iter()
            .try_for_each(|feature| has_feature(&info, feature, "this adapter depends on"));
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(info);
        checked
    }

    /// Makes sure that the server understands all that a claim asks for.
    fn check_claim(&self, claim: &Claim) -> Result<(), CallError> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let used = [
            (!claim.reservation.is_empty(), RESERVATIONS),
            (claim.any_pools, DUAL_STACK_POOLS),
        ];
        let mut used = used.iter().filter(|(used, _)| *used);
        match &*server {
            Some(info) => {
                used.try_for_each(|(_, feature)| has_feature(info, feature, "the Service asks for"))
            }
            None => Ok(()),
        }
    }

    /// Makes sure that the server knows of something that it would overlook otherwise.
    fn check(&self, feature: &str, whose: &str) -> Result<(), CallError> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        match &*server {
            Some(info) => has_feature(info, feature, whose),
            None => {
                let message = "ipam-service has not said yet what it can do";
                Err(CallError::Again(Status::unavailable(message)))
            }
        }
    }

    /// The inventory is complete. `false` if none was announced, or if somebody has said so before:
    /// another replica of this adapter.
    pub async fn end_sync(&self) -> Result<bool, CallError> {
        let request = v1::EndSyncRequest {
            cluster: self.settings.cluster.clone(),
            ..v1::EndSyncRequest::default()
        };
        match self.clusters.clone().end_sync(timed(request)).await {
            Ok(_) => Ok(true),
            Err(status) if reason(&status) == NOT_SYNCING => Ok(false),
            Err(status) => Err(status.into()),
        }
    }

    /// Replaces this cluster's pools; says whose addresses that moves, or would move.
    pub async fn sync_pools(
        &self,
        pools: Vec<v1::Pool>,
        validate_only: bool,
    ) -> Result<Vec<v1::Owner>, CallError> {
        let request = v1::SyncPoolsRequest {
            cluster: self.settings.cluster.clone(),
            pools,
            validate_only,
            ..v1::SyncPoolsRequest::default()
        };
        let response = self.pools.clone().sync_pools(timed(request)).await?;
        Ok(response.into_inner().moved)
    }

    /// Replaces this cluster's advertisements by layer 2. A server that knows no others has no others.
    pub async fn sync_l2_advertisements(
        &self,
        advertisements: Vec<v1::Advertisement>,
    ) -> Result<(), CallError> {
        if advertisements.iter().any(is_fenced) {
            self.check(FENCED_OWNERSHIP, "an L2Advertisement asks for")?;
        }
        let scope = match self.check(BGP_ADVERTISEMENTS, "") {
            Ok(()) => Scope::L2,
            Err(_) => Scope::Unspecified,
        };
        self.sync_advertisements(advertisements, scope).await
    }

    /// Replaces this cluster's advertisements by BGP. A server that does not know the scope would replace all.
    pub async fn sync_bgp_advertisements(
        &self,
        advertisements: Vec<v1::Advertisement>,
    ) -> Result<(), CallError> {
        self.check(BGP_ADVERTISEMENTS, "BGPAdvertisements need")?;
        self.sync_advertisements(advertisements, Scope::Bgp).await
    }

    /// Replaces this cluster's BGP peers and BFD profiles.
    pub async fn sync_bgp_peers(
        &self,
        peers: Vec<v1::BgpPeer>,
        profiles: Vec<v1::BfdProfile>,
    ) -> Result<(), CallError> {
        self.check(BGP_PEERS, "BGPPeers and BFDProfiles need")?;
        let request = v1::SyncBgpPeersRequest {
            cluster: self.settings.cluster.clone(),
            peers,
            profiles,
            ..v1::SyncBgpPeersRequest::default()
        };
        let mut client = self.advertisements.clone();
        client.sync_bgp_peers(timed(request)).await?;
        Ok(())
    }

    async fn sync_advertisements(
        &self,
        advertisements: Vec<v1::Advertisement>,
        scope: Scope,
    ) -> Result<(), CallError> {
        let request = v1::SyncAdvertisementsRequest {
            cluster: self.settings.cluster.clone(),
            advertisements,
            scope: scope.into(),
            ..v1::SyncAdvertisementsRequest::default()
        };
        self.advertisements
            .clone()
            .sync_advertisements(timed(request))
            .await?;
        Ok(())
    }

    /// Makes a claim; `held` are the addresses in the Service's status.
    pub async fn allocate(
        &self,
        claim: &Claim,
        held: &[IpAddr],
        validate_only: bool,
    ) -> Result<Answer, CallError> {
        self.check_claim(claim)?;
        let request = v1::AllocateRequest {
            validate_only,
            ..request(claim, held, &self.settings)
        };
        let response = self
            .allocations
            .clone()
            .allocate(timed(request))
            .await?
            .into_inner();
        let allocation = response.allocation.unwrap_or_default();
        let (_, answer) = Answer::parse(&allocation)
            .map_err(|error| Status::internal(format!("ipam-service answered with {error}")))?;
        Ok(answer)
    }

    /// Gives back what this incarnation of a Service holds.
    pub async fn release(&self, key: &ServiceKey, uid: &str) -> Result<(), CallError> {
        let request = v1::ReleaseRequest {
            owner: Some(owner(key, uid, &self.settings.cluster)),
            allow_missing: true,
            ..v1::ReleaseRequest::default()
        };
        self.allocations.clone().release(timed(request)).await?;
        Ok(())
    }

    /// Follows this cluster's allocations from a snapshot on.
    pub async fn watch(&self) -> Result<Streaming<v1::WatchAllocationsResponse>, CallError> {
        let request = v1::WatchAllocationsRequest {
            cluster: self.settings.cluster.clone(),
            ..v1::WatchAllocationsRequest::default()
        };
        Ok(self
            .allocations
            .clone()
            .watch_allocations(request)
            .await?
            .into_inner())
    }

    /// Follows who answers for which address of this cluster: first all of it.
    pub async fn watch_announcements(
        &self,
    ) -> Result<Streaming<v1::WatchAnnouncementsResponse>, CallError> {
        let request = v1::WatchAnnouncementsRequest {
            cluster: self.settings.cluster.clone(),
        };
        let mut client = self.announcements.clone();
        Ok(client.watch_announcements(request).await?.into_inner())
    }

    /// Reports facts until the stream or the connection ends.
    pub async fn sync_facts(
        &self,
        facts: ReceiverStream<v1::SyncFactsRequest>,
    ) -> Result<(), CallError> {
        self.advertisements.clone().sync_facts(facts).await?;
        Ok(())
    }

    /// This cluster's pools of all address spaces, with their usage.
    pub async fn list_pools(&self) -> Result<Vec<v1::Pool>, CallError> {
        let mut pools = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListPoolsRequest {
                cluster: self.settings.cluster.clone(),
                address_space: String::new(),
                page_size: PAGE,
                page_token,
            };
            let page = self
                .pools
                .clone()
                .list_pools(timed(request))
                .await?
                .into_inner();
            pools.extend(page.pools);
            if page.next_page_token.is_empty() {
                return Ok(pools);
            }
            page_token = page.next_page_token;
        }
    }
}

fn is_fenced(advertisement: &v1::Advertisement) -> bool {
    match &advertisement.protocol {
        Some(v1::advertisement::Protocol::L2(l2)) => {
            l2.ownership() == v1::advertisement::l2::Ownership::Fenced
        }
        Some(v1::advertisement::Protocol::Bgp(_)) | None => false,
    }
}

/// The machine's word for what went wrong; empty if there is none.
fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn has_feature(
    info: &v1::GetServerInfoResponse,
    feature: &str,
    whose: &str,
) -> Result<(), CallError> {
    if info.features.iter().any(|known| known == feature) {
        return Ok(());
    }
    let version = &info.version;
    Err(CallError::Refused(format!(
        "ipam-service {version} lacks {feature}, which {whose}: upgrade it"
    )))
}

#[cfg(test)]
mod tests;
