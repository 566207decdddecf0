//! The BGP peers of the cluster, as the stream tells them. No session is made of them: this version speaks no
//! BGP, and keeps what it is told for one that does.

use std::collections::BTreeSet;

use pharos_proto::v1;

/// Takes in the whole list. A server that does not know everything yet may not know every peer either.
pub(super) fn take(known: &mut v1::BgpPeers, told: v1::BgpPeers, authoritative: bool) -> bool {
    let mut now = told;
    let before = known.clone();
    if !authoritative {
        let named: BTreeSet<String> = now.peers.iter().map(|one| name(one).to_owned()).collect();
        let profiles: BTreeSet<String> = now.profiles.iter().map(|it| it.name.clone()).collect();
        let kept = before.clone();
        let peers = kept.peers.into_iter();
        now.peers
            .extend(peers.filter(|one| !named.contains(name(one))));
        let kept = kept.profiles.into_iter();
        now.profiles
            .extend(kept.filter(|it| !profiles.contains(&it.name)));
    }
    let is_news = before != now;
    *known = now;
    is_news
}

/// The name of a peer.
pub(super) fn name(one: &v1::bgp_peers::Peer) -> &str {
    one.peer.as_ref().map_or("", |peer| &peer.name)
}

/// The sets of nodes that peers refer to.
pub(super) fn sets_of(peers: &v1::BgpPeers) -> impl Iterator<Item = u64> {
    peers.peers.iter().map(|peer| peer.nodes)
}
