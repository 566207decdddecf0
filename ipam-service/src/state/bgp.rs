//! BGP peers and BFD profiles: what is stored of them. No session is kept here.

pub mod community;
pub mod model;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use super::cluster;
use super::draft::Draft;
use super::names::Name;
use super::refusal::{InvalidField, Rejection};
use model::{BfdProfile, Bgp, BgpCommand, BgpKey, BgpPeer};

impl State {
    /// BGP peers and BFD profiles.
    pub fn bgp(&self) -> &Bgp {
        &self.bgp
    }
}

/// # Errors
/// [`Rejection::UnknownBgpPeer`], [`Rejection::UnknownBfdProfile`], [`Rejection::StaleFence`];
/// [`Rejection::Invalid`] if a name appears twice, or a password is to be kept that is not there
pub(super) fn decide(draft: &mut Draft<'_>, command: &BgpCommand) -> Result<(), Rejection> {
    match command {
        BgpCommand::ApplyPeer(wanted) => {
            contact(draft, &wanted.key)?;
            let with_password = with_password(draft.state, wanted, "peer")?;
            put_peer(draft, &with_password);
        }
        BgpCommand::DeletePeer(key) => {
            let known = draft.state.bgp.peer(key);
            let known = known.ok_or_else(|| Rejection::UnknownBgpPeer(key.to_string()))?;
            draft.bgp_peer(Some(known), None);
        }
        BgpCommand::ApplyProfile(wanted) => {
            contact(draft, &wanted.key)?;
            put_profile(draft, wanted);
        }
        BgpCommand::DeleteProfile(key) => {
            let known = draft.state.bgp.profile(key);
            let known = known.ok_or_else(|| Rejection::UnknownBfdProfile(key.to_string()))?;
            draft.bfd_profile(Some(known), None);
        }
        BgpCommand::Sync {
            cluster,
            peers,
            profiles,
            fence,
        } => sync(draft, cluster, (peers, profiles), *fence)?,
    }
    Ok(())
}

/// Forgets what a cluster declared.
pub(super) fn delete_of_cluster(draft: &mut Draft<'_>, cluster: &Name) {
    keep_of_cluster(draft, cluster, &BTreeSet::new(), &BTreeSet::new());
}

fn contact(draft: &mut Draft<'_>, key: &BgpKey) -> Result<(), Rejection> {
    match &key.cluster {
        Some(cluster) => cluster::contact(draft, cluster, 0),
        None => Ok(()),
    }
}

fn sync(
    draft: &mut Draft<'_>,
    cluster: &Name,
    (peers, profiles): (&[BgpPeer], &[BfdProfile]),
    fence: u64,
) -> Result<(), Rejection> {
    let (peer_keys, mut twice) = keys("peers", peers.iter().map(|peer| &peer.key));
    let (profile_keys, more) = keys("profiles", profiles.iter().map(|profile| &profile.key));
    twice.extend(more);
    if !twice.is_empty() {
        return Err(Rejection::Invalid(twice));
    }
    let with_passwords: Result<Vec<BgpPeer>, Rejection> = (peers.iter().enumerate())
        .map(|(index, peer)| with_password(draft.state, peer, &format!("peers[{index}]")))
        .collect();
    let peers = with_passwords?;
    cluster::contact(draft, cluster, fence)?;
    keep_of_cluster(draft, cluster, &peer_keys, &profile_keys);
    // A peer never names a profile that comes after it.
    for profile in profiles {
        put_profile(draft, profile);
    }
    for peer in &peers {
        put_peer(draft, peer);
    }
    Ok(())
}

/// The keys of a set, and which of them are there twice.
fn keys<'a>(
    field: &str,
    all: impl Iterator<Item = &'a BgpKey>,
) -> (BTreeSet<&'a BgpKey>, Vec<InvalidField>) {
    let mut keys = BTreeSet::new();
    let twice = (0_usize..)
        .zip(all)
        .filter(|(_, key)| !keys.insert(*key))
        .map(|(index, key)| InvalidField {
            field: format!("{field}[{index}].name"),
            message: format!("duplicate definition of {:?}", key.name.as_str()),
        })
        .collect();
    (keys, twice)
}

/// Deletes what a cluster has but for these.
fn keep_of_cluster(
    draft: &mut Draft<'_>,
    cluster: &Name,
    peers: &BTreeSet<&BgpKey>,
    profiles: &BTreeSet<&BgpKey>,
) {
    let bgp = &draft.state.bgp;
    let of_cluster = |key: &BgpKey| key.cluster.as_ref() == Some(cluster);
    let gone = |known: &&Arc<BgpPeer>| of_cluster(&known.key) && !peers.contains(&known.key);
    for known in bgp.peers().filter(gone) {
        draft.bgp_peer(Some(known), None);
    }
    let gone = |known: &&Arc<BfdProfile>| of_cluster(&known.key) && !profiles.contains(&known.key);
    for known in bgp.profiles().filter(gone) {
        draft.bfd_profile(Some(known), None);
    }
}

/// A peer as it is to be stored: with the password that it keeps, or the revision of the one that
/// it has already. A new one has no revision yet.
fn with_password(state: &State, wanted: &BgpPeer, field: &str) -> Result<BgpPeer, Rejection> {
    let known = state.bgp.peer(&wanted.key);
    let revision = known.map_or(0, |known| known.password_revision);
    let mut peer = wanted.clone();
    match &wanted.password {
        Some(_) => {
            let same = known.is_some_and(|known| known.password == wanted.password);
            peer.password_revision = if same { revision } else { 0 };
        }
        None if wanted.password_revision == 0 => {}
        None if wanted.password_revision == revision => {
            peer.password = known.and_then(|known| known.password.clone());
        }
        None => {
            let message = match revision {
                0 => "there is no password to keep: give one, or leave this out".to_owned(),
                _ => format!("the password is of revision {revision}: give it anew, or read again"),
            };
            return Err(Rejection::Invalid(vec![InvalidField {
                field: format!("{field}.password_revision"),
                message,
            }]));
        }
    }
    Ok(peer)
}

fn put_peer(draft: &mut Draft<'_>, wanted: &BgpPeer) {
    let known = draft.state.bgp.peer(&wanted.key);
    let same = known.is_some_and(|known| {
        let wanted = BgpPeer {
            revision: known.revision,
            ..wanted.clone()
        };
        **known == wanted
    });
    if !same {
        draft.bgp_peer(known, Some(wanted));
    }
}

fn put_profile(draft: &mut Draft<'_>, wanted: &BfdProfile) {
    let known = draft.state.bgp.profile(&wanted.key);
    let same = known.is_some_and(|known| {
        let wanted = BfdProfile {
            revision: known.revision,
            ..wanted.clone()
        };
        **known == wanted
    });
    if !same {
        draft.bfd_profile(known, Some(wanted));
    }
}

#[cfg(test)]
mod tests;
