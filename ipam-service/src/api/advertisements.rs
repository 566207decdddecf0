//! `AdvertisementService`: advertisements, and the facts on which announcing rests.

mod fact_streams;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::advertisement_service_server::AdvertisementService;
use tonic::{Code, Request, Response, Status, Streaming};

use self::fact_streams::FactStreams;
use super::bgp;
use super::call::{Api, Call, answer};
use super::consequences;
use super::convert_announce::{
    advertisement_from_wire, advertisement_key, advertisement_set, advertisement_to_wire,
    facts_hello,
};
use super::fields::FieldErrors;
use super::listing::{Asked, list};
use super::status;
use crate::engine::{Left, Reply};
use crate::state::State;
use crate::state::command::Command;
use crate::state::model::{Advertisement, AdvertisementKey};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// How long a new stream may take to say who it is; then its place is free again.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Serves AdvertisementService.
#[derive(Debug, Clone)]
pub struct Advertisements {
    api: Api,
    fact_streams: FactStreams,
}

impl Advertisements {
    /// Streams end when `api.shutdown` begins.
    pub fn new(api: Api) -> Self {
        Self {
            fact_streams: FactStreams::new(api.clone()),
            api,
        }
    }

    async fn apply(
        &self,
        call: &Call,
        message: &v1::ApplyAdvertisementRequest,
    ) -> Result<v1::ApplyAdvertisementResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let wire = message.advertisement.as_ref();
        let wanted = advertisement_from_wire(&mut errors, "advertisement", wire);
        let wanted = errors.finish(wanted);
        let wanted = wanted.map_err(|bad| status::of_rejection(&bad))?;
        let command = Command::ApplyAdvertisement(Box::new(wanted));
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.api, command, id, validate_only).await?;
        Ok(v1::ApplyAdvertisementResponse {
            advertisement: left(&reply).pop(),
            consequences: consequences::of(&reply),
        })
    }

    async fn sync(
        &self,
        call: &Call,
        message: &v1::SyncAdvertisementsRequest,
    ) -> Result<v1::SyncAdvertisementsResponse, Status> {
        let read = advertisement_set(message);
        let (cluster, command) = read.map_err(|bad| status::of_rejection(&bad))?;
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.api, command, id, validate_only).await?;
        Ok(v1::SyncAdvertisementsResponse {
            advertisements: left(&reply),
            revision: reply.revision,
            consequences: consequences::for_cluster(&self.api, &reply, &cluster, None).await?,
        })
    }

    async fn delete(
        &self,
        call: &Call,
        message: &v1::DeleteAdvertisementRequest,
    ) -> Result<v1::DeleteAdvertisementResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let checked = errors.finish(Some(()));
        checked.map_err(|bad| status::of_rejection(&bad))?;
        let key = advertisement_key(&message.cluster, &message.name);
        let key = key.map_err(|bad| status::of_rejection(&bad))?;
        let command = Command::DeleteAdvertisement(key);
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.api, command, id, validate_only).await?;
        Ok(v1::DeleteAdvertisementResponse {
            consequences: consequences::of(&reply),
        })
    }

    async fn list(
        &self,
        message: &v1::ListAdvertisementsRequest,
    ) -> Result<v1::ListAdvertisementsResponse, Status> {
        let mut errors = FieldErrors::new();
        let cluster = errors.optional_name("cluster", &message.cluster);
        let cluster = errors.finish(cluster);
        cluster.map_err(|bad| status::of_rejection(&bad))?;
        let asked = Asked {
            page_size: message.page_size,
            page_token: &message.page_token,
        };
        let shape = ("advertisements", &message.cluster);
        let cluster = message.cluster.clone();
        let read = move |state: &State, after: Option<&AdvertisementKey>, most| {
            page(state, &cluster, after, most)
        };
        let (found, next_page_token) = list(&self.api, asked, &shape, read).await?;
        Ok(v1::ListAdvertisementsResponse {
            advertisements: found.iter().map(|one| advertisement_to_wire(one)).collect(),
            next_page_token,
        })
    }

    async fn sync_stream(
        &self,
        call: &Call,
        mut messages: Streaming<v1::SyncFactsRequest>,
    ) -> Result<v1::SyncFactsResponse, Status> {
        let first = tokio::time::timeout(HELLO_WITHIN, messages.message());
        let first = first.await.map_err(|_| {
            let message = "no hello within 10 s";
            status::plain(Code::DeadlineExceeded, "NO_HELLO", message)
        })??;
        let hello = facts_hello(first.as_ref()).map_err(|bad| status::of_rejection(&bad))?;
        let introduce = Command::Introduce {
            cluster: hello.cluster.clone(),
            uid: hello.cluster_uid.clone(),
        };
        call.submit(&self.api, introduce, "", false).await?;
        let meta = call.meta("", false);
        self.fact_streams.follow(hello, meta, messages).await?;
        Ok(v1::SyncFactsResponse {})
    }

    async fn find(&self, key: AdvertisementKey) -> Result<Option<Arc<Advertisement>>, Status> {
        self.api
            .read(move |state| state.advertisement(&key).cloned())
            .await
    }
}

#[tonic::async_trait]
impl AdvertisementService for Advertisements {
    async fn apply_advertisement(
        &self,
        request: Request<v1::ApplyAdvertisementRequest>,
    ) -> Result<Response<v1::ApplyAdvertisementResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.apply(&call, &message).await)
    }

    async fn get_advertisement(
        &self,
        request: Request<v1::GetAdvertisementRequest>,
    ) -> Result<Response<v1::GetAdvertisementResponse>, Status> {
        let message = request.into_inner();
        let key = advertisement_key(&message.cluster, &message.name);
        let key = key.map_err(|bad| status::of_rejection(&bad))?;
        let Some(found) = self.find(key).await? else {
            let text = match message.cluster.as_str() {
                "" => message.name,
                cluster => format!("{cluster}/{}", message.name),
            };
            return Err(status::of_rejection(&Rejection::UnknownAdvertisement(text)));
        };
        Ok(Response::new(v1::GetAdvertisementResponse {
            advertisement: Some(advertisement_to_wire(&found)),
        }))
    }

    async fn list_advertisements(
        &self,
        request: Request<v1::ListAdvertisementsRequest>,
    ) -> Result<Response<v1::ListAdvertisementsResponse>, Status> {
        self.list(request.get_ref()).await.map(Response::new)
    }

    async fn delete_advertisement(
        &self,
        request: Request<v1::DeleteAdvertisementRequest>,
    ) -> Result<Response<v1::DeleteAdvertisementResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.delete(&call, &message).await)
    }

    async fn sync_advertisements(
        &self,
        request: Request<v1::SyncAdvertisementsRequest>,
    ) -> Result<Response<v1::SyncAdvertisementsResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.sync(&call, &message).await)
    }

    async fn sync_facts(
        &self,
        request: Request<Streaming<v1::SyncFactsRequest>>,
    ) -> Result<Response<v1::SyncFactsResponse>, Status> {
        let call = Call::of(&request);
        let ended = self.sync_stream(&call, request.into_inner()).await;
        ended.map(Response::new)
    }

    async fn apply_bgp_peer(
        &self,
        request: Request<v1::ApplyBgpPeerRequest>,
    ) -> Result<Response<v1::ApplyBgpPeerResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let done = bgp::apply_peer(&self.api, &call, &message).await;
        answer(&message.request_id, done)
    }

    async fn get_bgp_peer(
        &self,
        request: Request<v1::GetBgpPeerRequest>,
    ) -> Result<Response<v1::GetBgpPeerResponse>, Status> {
        let found = bgp::get_peer(&self.api, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn list_bgp_peers(
        &self,
        request: Request<v1::ListBgpPeersRequest>,
    ) -> Result<Response<v1::ListBgpPeersResponse>, Status> {
        let found = bgp::list_peers(&self.api, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn delete_bgp_peer(
        &self,
        request: Request<v1::DeleteBgpPeerRequest>,
    ) -> Result<Response<v1::DeleteBgpPeerResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let done = bgp::delete_peer(&self.api, &call, &message).await;
        answer(&message.request_id, done)
    }

    async fn sync_bgp_peers(
        &self,
        request: Request<v1::SyncBgpPeersRequest>,
    ) -> Result<Response<v1::SyncBgpPeersResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let done = bgp::sync(&self.api, &call, &message).await;
        answer(&message.request_id, done)
    }

    async fn apply_bfd_profile(
        &self,
        request: Request<v1::ApplyBfdProfileRequest>,
    ) -> Result<Response<v1::ApplyBfdProfileResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let done = bgp::apply_profile(&self.api, &call, &message).await;
        answer(&message.request_id, done)
    }

    async fn get_bfd_profile(
        &self,
        request: Request<v1::GetBfdProfileRequest>,
    ) -> Result<Response<v1::GetBfdProfileResponse>, Status> {
        let found = bgp::get_profile(&self.api, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn list_bfd_profiles(
        &self,
        request: Request<v1::ListBfdProfilesRequest>,
    ) -> Result<Response<v1::ListBfdProfilesResponse>, Status> {
        let found = bgp::list_profiles(&self.api, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn delete_bfd_profile(
        &self,
        request: Request<v1::DeleteBfdProfileRequest>,
    ) -> Result<Response<v1::DeleteBfdProfileResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let done = bgp::delete_profile(&self.api, &call, &message).await;
        answer(&message.request_id, done)
    }
}

/// The advertisements that a command named, as it leaves them, or would.
fn left(reply: &Reply) -> Vec<v1::Advertisement> {
    let Left::Advertisements(all) = &reply.left else {
        return Vec::new();
    };
    all.iter().map(|one| advertisement_to_wire(one)).collect()
}

/// Advertisements by key; of one cluster, unless `cluster` is empty.
fn page(
    state: &State,
    cluster: &str,
    after: Option<&AdvertisementKey>,
    most: usize,
) -> Vec<(AdvertisementKey, Arc<Advertisement>)> {
    let all = state.advertisements();
    all.filter(|one| after.is_none_or(|after| one.key > *after))
        .filter(|one| {
            let own = one.key.cluster.as_ref().map_or("", Name::as_str);
            cluster.is_empty() || own == cluster
        })
        .take(most)
        .map(|one| (one.key.clone(), Arc::clone(one)))
        .collect()
}

#[cfg(test)]
mod tests;
