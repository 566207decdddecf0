//! The methods of `AdvertisementService` that are about BGP peers and BFD profiles.

use std::sync::Arc;

use pharos_proto::v1;
use tonic::Status;

use super::call::{Api, Call};
use super::consequences;
use super::convert_bgp::{
    bgp_key, bgp_set, peer_from_wire, peer_to_wire, profile_from_wire, profile_to_wire,
};
use super::fields::FieldErrors;
use super::listing::{Asked, list};
use super::status;
use crate::engine::{Left, Reply};
use crate::state::State;
use crate::state::bgp::model::{BgpCommand, BgpKey, BgpPeer};
use crate::state::command::Command;
use crate::state::names::Name;
use crate::state::refusal::Rejection;

fn refused(rejection: Rejection) -> Status {
    status::of_rejection(&rejection)
}

// === Peers ===

pub(super) async fn apply_peer(
    api: &Api,
    call: &Call,
    message: &v1::ApplyBgpPeerRequest,
) -> Result<v1::ApplyBgpPeerResponse, Status> {
    let mut errors = FieldErrors::new();
    errors.request_id(&message.request_id);
    let wanted = peer_from_wire(&mut errors, "peer", message.peer.as_ref());
    // What is output only is left out.
    let wanted = BgpPeer {
        revision: 0,
        ..errors.finish(wanted).map_err(refused)?
    };
    let command = Command::Bgp(BgpCommand::ApplyPeer(Box::new(wanted)));
    let (id, validate_only) = (&message.request_id, message.validate_only);
    let reply = call.submit(api, command, id, validate_only).await?;
    Ok(v1::ApplyBgpPeerResponse {
        peer: left(&reply).0.pop(),
        consequences: consequences::of(&reply),
    })
}

pub(super) async fn get_peer(
    api: &Api,
    message: &v1::GetBgpPeerRequest,
) -> Result<v1::GetBgpPeerResponse, Status> {
    let key = bgp_key(&message.cluster, &message.name, "").map_err(refused)?;
    let unknown = Rejection::UnknownBgpPeer(key.to_string());
    let read = move |state: &State| state.bgp().peer(&key).cloned();
    let found = api.read(read).await?.ok_or_else(|| refused(unknown))?;
    Ok(v1::GetBgpPeerResponse {
        peer: Some(peer_to_wire(&found)),
    })
}

pub(super) async fn list_peers(
    api: &Api,
    message: &v1::ListBgpPeersRequest,
) -> Result<v1::ListBgpPeersResponse, Status> {
    let cluster = one_cluster(&message.cluster)?;
    let asked = Asked {
        page_size: message.page_size,
        page_token: &message.page_token,
    };
    let shape = ("bgp peers", &message.cluster);
    let read = move |state: &State, after: Option<&BgpKey>, most| {
        let all = state.bgp().peers().map(|one| (&one.key, one));
        page(all, cluster.as_ref(), after, most)
    };
    let (found, next_page_token) = list(api, asked, &shape, read).await?;
    Ok(v1::ListBgpPeersResponse {
        peers: found.iter().map(|one| peer_to_wire(one)).collect(),
        next_page_token,
    })
}

pub(super) async fn delete_peer(
    api: &Api,
    call: &Call,
    message: &v1::DeleteBgpPeerRequest,
) -> Result<v1::DeleteBgpPeerResponse, Status> {
    let key = bgp_key(&message.cluster, &message.name, &message.request_id).map_err(refused)?;
    let command = Command::Bgp(BgpCommand::DeletePeer(key));
    let (id, validate_only) = (&message.request_id, message.validate_only);
    let reply = call.submit(api, command, id, validate_only).await?;
    Ok(v1::DeleteBgpPeerResponse {
        consequences: consequences::of(&reply),
    })
}

/// Peers and profiles of a cluster, as a whole set.
pub(super) async fn sync(
    api: &Api,
    call: &Call,
    message: &v1::SyncBgpPeersRequest,
) -> Result<v1::SyncBgpPeersResponse, Status> {
    let (cluster, set) = bgp_set(message).map_err(refused)?;
    let (id, validate_only) = (&message.request_id, message.validate_only);
    let reply = call
        .submit(api, Command::Bgp(set), id, validate_only)
        .await?;
    let (peers, profiles) = left(&reply);
    Ok(v1::SyncBgpPeersResponse {
        peers,
        profiles,
        revision: reply.revision,
        consequences: consequences::for_cluster(api, &reply, &cluster, None).await?,
    })
}

// === Profiles ===

pub(super) async fn apply_profile(
    api: &Api,
    call: &Call,
    message: &v1::ApplyBfdProfileRequest,
) -> Result<v1::ApplyBfdProfileResponse, Status> {
    let mut errors = FieldErrors::new();
    errors.request_id(&message.request_id);
    let wanted = profile_from_wire(&mut errors, "profile", message.profile.as_ref());
    let wanted = errors.finish(wanted).map_err(refused)?;
    let command = Command::Bgp(BgpCommand::ApplyProfile(wanted));
    let (id, validate_only) = (&message.request_id, message.validate_only);
    let reply = call.submit(api, command, id, validate_only).await?;
    Ok(v1::ApplyBfdProfileResponse {
        profile: left(&reply).1.pop(),
        consequences: consequences::of(&reply),
    })
}

pub(super) async fn get_profile(
    api: &Api,
    message: &v1::GetBfdProfileRequest,
) -> Result<v1::GetBfdProfileResponse, Status> {
    let key = bgp_key(&message.cluster, &message.name, "").map_err(refused)?;
    let unknown = Rejection::UnknownBfdProfile(key.to_string());
    let read = move |state: &State| state.bgp().profile(&key).cloned();
    let found = api.read(read).await?.ok_or_else(|| refused(unknown))?;
    Ok(v1::GetBfdProfileResponse {
        profile: Some(profile_to_wire(&found)),
    })
}

pub(super) async fn list_profiles(
    api: &Api,
    message: &v1::ListBfdProfilesRequest,
) -> Result<v1::ListBfdProfilesResponse, Status> {
    let cluster = one_cluster(&message.cluster)?;
    let asked = Asked {
        page_size: message.page_size,
        page_token: &message.page_token,
    };
    let shape = ("bfd profiles", &message.cluster);
    let read = move |state: &State, after: Option<&BgpKey>, most| {
        let all = state.bgp().profiles().map(|one| (&one.key, one));
        page(all, cluster.as_ref(), after, most)
    };
    let (found, next_page_token) = list(api, asked, &shape, read).await?;
    Ok(v1::ListBfdProfilesResponse {
        profiles: found.iter().map(|one| profile_to_wire(one)).collect(),
        next_page_token,
    })
}

pub(super) async fn delete_profile(
    api: &Api,
    call: &Call,
    message: &v1::DeleteBfdProfileRequest,
) -> Result<v1::DeleteBfdProfileResponse, Status> {
    let key = bgp_key(&message.cluster, &message.name, &message.request_id).map_err(refused)?;
    let command = Command::Bgp(BgpCommand::DeleteProfile(key));
    let (id, validate_only) = (&message.request_id, message.validate_only);
    let reply = call.submit(api, command, id, validate_only).await?;
    Ok(v1::DeleteBfdProfileResponse {
        consequences: consequences::of(&reply),
    })
}

// === Both ===

/// The peers and profiles that a command named, as it leaves them, or would.
fn left(reply: &Reply) -> (Vec<v1::BgpPeer>, Vec<v1::BfdProfile>) {
    let Left::Bgp(peers, profiles) = &reply.left else {
        return (Vec::new(), Vec::new());
    };
    let peers = peers.iter().map(|one| peer_to_wire(one)).collect();
    let profiles = profiles.iter().map(|one| profile_to_wire(one)).collect();
    (peers, profiles)
}

fn one_cluster(text: &str) -> Result<Option<Name>, Status> {
    let mut errors = FieldErrors::new();
    let cluster = errors.optional_name("cluster", text);
    errors.finish(cluster).map_err(refused)
}

/// By key; of one cluster, if there is one.
fn page<'a, T: 'a>(
    all: impl Iterator<Item = (&'a BgpKey, &'a Arc<T>)>,
    cluster: Option<&Name>,
    after: Option<&BgpKey>,
    most: usize,
) -> Vec<(BgpKey, Arc<T>)> {
    all.filter(|(key, _)| after.is_none_or(|after| *key > after))
        .filter(|(key, _)| cluster.is_none() || key.cluster.as_ref() == cluster)
        .take(most)
        .map(|(key, one)| (key.clone(), Arc::clone(one)))
        .collect()
}
