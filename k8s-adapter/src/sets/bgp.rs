//! Hands over what is declared about BGP: first the peers with the profiles that they name, then what is said
//! to them.

use std::collections::BTreeSet;

use super::{Outcome, accepted, tell, wrong};
use crate::client::CallError;
use crate::confirm::View;
use crate::context::Context;
use crate::index::Kind;
use crate::policy::{Bgp, Configuration, Passwords};
use crate::secrets::{self, SecretError};

/// In `/readyz`: that a kind is in doubt.
const PEERS: (&str, Kind) = ("declared bgppeers", Kind::BgpPeers);
const ADVERTISEMENTS: (&str, Kind) = ("declared bgpadvertisements", Kind::BgpAdvertisements);

/// What the API server has of it.
pub(super) struct Views {
    pub(super) peers: View,
    pub(super) advertisements: View,
}

/// Peers, and advertisements. `pools`: what came of those that the advertisements are about.
pub(super) async fn hand_over(
    context: &Context,
    configuration: &Configuration,
    views: Views,
    pools: Outcome,
) -> Result<[Outcome; 2], CallError> {
    tell(context, PEERS, &views.peers);
    tell(context, ADVERTISEMENTS, &views.advertisements);
    let bgp = configuration.bgp().ok();
    let peers = match (views.peers, bgp) {
        (View::Silent, _) => Outcome::Nothing,
        (View::Changing | View::Doubtful(_), _) => Outcome::Unconfirmed,
        (View::Current, None) => wrong(context, Kind::BgpPeers),
        (View::Current, Some(bgp)) => hand_over_peers(context, bgp).await?,
    };
    let are_there = |outcome| matches!(outcome, Outcome::InForce | Outcome::Nothing);
    let advertisements = match (views.advertisements, bgp) {
        (View::Silent, _) => Outcome::Nothing,
        (View::Changing | View::Doubtful(_), _) => Outcome::Unconfirmed,
        (View::Current, None) => wrong(context, Kind::BgpAdvertisements),
        (View::Current, Some(_)) if !are_there(pools) || !are_there(peers) => Outcome::Waits,
        (View::Current, Some(bgp)) => hand_over_advertisements(context, bgp).await?,
    };
    Ok([peers, advertisements])
}

async fn hand_over_peers(context: &Context, bgp: &Bgp) -> Result<Outcome, CallError> {
    let names: BTreeSet<String> = bgp.secrets().into_iter().map(str::to_owned).collect();
    let answer = match secrets::read(context, &names).await {
        Ok(passwords) => sync_peers(context, bgp, &passwords).await,
        // A peer without its password would be another one.
        Err(SecretError::Wrong(why)) => Err(CallError::Refused(format!("BGPPeers wait: {why}"))),
        Err(SecretError::Unread(why)) => {
            tell(context, PEERS, &View::Doubtful(why));
            return Ok(Outcome::Unconfirmed);
        }
    };
    accepted(context, Kind::BgpPeers, answer)
}

async fn sync_peers(context: &Context, bgp: &Bgp, passwords: &Passwords) -> Result<(), CallError> {
    let (peers, profiles) = (bgp.peer_messages(passwords), bgp.profile_messages());
    context.ipam.sync_bgp_peers(peers, profiles).await
}

async fn hand_over_advertisements(context: &Context, bgp: &Bgp) -> Result<Outcome, CallError> {
    let answer = match bgp.advertisement_messages() {
        Ok(set) => context.ipam.sync_bgp_advertisements(set).await,
        Err(why) => Err(CallError::Refused(format!("BGPAdvertisements wait: {why}"))),
    };
    accepted(context, Kind::BgpAdvertisements, answer)
}
