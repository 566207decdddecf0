//! What is wrong only with several objects together: an advertisement and a pool, two
//! advertisements, two peers of one node.

use std::collections::{BTreeMap, BTreeSet};

use super::bgp::{Advertisement, Bgp};
use super::findings::{Finding, Problems};
use super::objects::{ResourceKind, Subject};
use super::peer::Peer;
use super::pool::Pool;
use super::selector;
use crate::eligibility::NodeState;

/// Every conflict, told of each object that is wrong by it. `nodes`: None if they are not known.
pub(super) fn find(
    pools: &[Pool<'_>],
    bgp: &Bgp,
    nodes: Option<&[&NodeState]>,
    findings: &mut Vec<Finding>,
) {
    for advertisement in &bgp.advertisements {
        for pool in pools.iter().filter(|pool| reaches(advertisement, pool)) {
            check_length(advertisement, pool, findings);
        }
    }
    let Some(nodes) = nodes else { return };
    local_preferences(pools, bgp, nodes, findings);
    peers_of_one_node(&bgp.peers, nodes, findings);
}

fn reaches(advertisement: &Advertisement, pool: &Pool<'_>) -> bool {
    let everything = advertisement.pools.is_empty() && advertisement.pool_selectors.is_empty();
    everything
        || advertisement.pools.iter().any(|name| name == pool.name)
        || selector::any_matches(&advertisement.pool_selectors, |key| {
            pool.labels.get(key).map(String::as_str)
        })
}

// === an advertisement and a pool ===

/// A prefix that is announced lies within the pool.
fn check_length(advertisement: &Advertisement, pool: &Pool<'_>, findings: &mut Vec<Finding>) {
    let too_short = pool.ranges.iter().find_map(|range| {
        let (field, length) = if range.is_ipv4() {
            ("spec.aggregationLength", advertisement.length_v4)
        } else {
            ("spec.aggregationLengthV6", advertisement.length_v6)
        };
        (length < range.prefix).then_some((field, length, range))
    });
    let Some((field, length, range)) = too_short else {
        return;
    };
    let message = format!(
        "invalid aggregation length {length}: prefix {} in this pool is more specific than the \
         aggregation length for addresses {}",
        range.prefix, range.text
    );
    let with = vec![Subject::new(ResourceKind::Pool, pool.name)];
    bgp_problems(&advertisement.name, findings).add_with(field, message, with);
}

fn bgp_problems<'a>(name: &str, findings: &'a mut Vec<Finding>) -> Problems<'a> {
    Problems::new(ResourceKind::BgpAdvertisement, name, findings)
}

// === two advertisements ===

/// One route has one LOCAL_PREF. Which Services an advertisement with selectors is about shows only
/// with the Services.
fn local_preferences(
    pools: &[Pool<'_>],
    bgp: &Bgp,
    nodes: &[&NodeState],
    findings: &mut Vec<Finding>,
) {
    if nodes.is_empty() {
        // Nothing is announced.
        return;
    }
    let plain = |advertisement: &&Advertisement| advertisement.service_selectors.is_empty();
    let advertisements: Vec<&Advertisement> = bgp.advertisements.iter().filter(plain).collect();
    let at: Vec<Places<'_>> = advertisements
        .iter()
        .map(|advertisement| Places::of(&advertisement.node_selectors, nodes))
        .collect();
    for (one, advertisement) in advertisements.iter().enumerate() {
        for (two, other) in advertisements.iter().enumerate() {
            if advertisement.local_pref == other.local_pref
                || !share_a_peer(advertisement, other)
                || !at[one].meet(&at[two])
            {
                continue;
            }
            let common: Vec<&Pool<'_>> = pools
                .iter()
                .filter(|pool| reaches(advertisement, pool) && reaches(other, pool))
                .filter(|pool| same_routes(advertisement, other, pool))
                .collect();
            if let [first, ..] = common[..] {
                let message = format!(
                    "invalid local preference {}: BGPAdvertisement {:?} gives {} to the same routes \
                     of pool {:?}",
                    advertisement.local_pref, other.name, other.local_pref, first.name
                );
                let pools = common.iter().map(|pool| (ResourceKind::Pool, pool.name));
                let with = [(ResourceKind::BgpAdvertisement, other.name.as_str())];
                let with = with.into_iter().chain(pools);
                let with = with.map(|(kind, name)| Subject::new(kind, name)).collect();
                let mut problems = bgp_problems(&advertisement.name, findings);
                problems.add_with("spec.localPref", message, with);
            }
        }
    }
}

fn share_a_peer(one: &Advertisement, two: &Advertisement) -> bool {
    one.peers.is_empty()
        || two.peers.is_empty()
        || one.peers.iter().any(|peer| two.peers.contains(peer))
}

/// Whether some prefix of a pool is announced by both.
fn same_routes(one: &Advertisement, two: &Advertisement, pool: &Pool<'_>) -> bool {
    pool.ranges.iter().any(|range| {
        if range.is_ipv4() {
            one.length_v4 == two.length_v4
        } else {
            one.length_v6 == two.length_v6
        }
    })
}

// === two peers ===

/// A node is one BGP speaker in each VRF: it has one identifier (RFC 4271 section 1.1), one AS, and
/// one session with a port of a router.
fn peers_of_one_node(peers: &[Peer], nodes: &[&NodeState], findings: &mut Vec<Finding>) {
    let at: Vec<Places<'_>> = peers
        .iter()
        .map(|peer| Places::of(&peer.node_selectors, nodes))
        .collect();
    for (one, peer) in peers.iter().enumerate() {
        let mut told = BTreeMap::new();
        for (two, other) in peers.iter().enumerate() {
            if one != two && at[one].meet(&at[two]) {
                for (field, message) in clashes(peer, other) {
                    let (_, with) = told.entry(field).or_insert((message, Vec::new()));
                    with.push(Subject::new(ResourceKind::Peer, &other.name));
                }
            }
        }
        for (field, (message, with)) in told {
            let mut problems = Problems::new(ResourceKind::Peer, &peer.name, findings);
            problems.add_with(field, message, with);
        }
    }
}

fn clashes(peer: &Peer, other: &Peer) -> Vec<(&'static str, String)> {
    let mut clashes = Vec::new();
    let name = &other.name;
    let same_vrf = peer.vrf == other.vrf;
    if peer.router_id != other.router_id {
        let message = format!(
            "peer {} has RouterID different from BGPPeer {name:?}: peers selecting the same node must \
             all have the same RouterID",
            peer.endpoint
        );
        clashes.push(("spec.routerID", message));
    }
    if same_vrf && (&peer.endpoint, peer.port) == (&other.endpoint, other.port) {
        let message = format!(
            "peer {} already exists: BGPPeer {name:?} selects the same node, which can have one \
             session with it",
            peer.endpoint
        );
        clashes.push(("spec.peerAddress", message));
    }
    if same_vrf && peer.my_asn != other.my_asn {
        let message = format!(
            "peer {} has myAsn different from BGPPeer {name:?}: peers selecting the same node must \
             have the same myAsn within the same VRF",
            peer.endpoint
        );
        clashes.push(("spec.myASN", message));
    }
    clashes
}

// === nodes ===

/// The nodes that something is about.
enum Places<'a> {
    /// There are no nodes yet. Nobody knows where it will be: it may be anywhere.
    Anywhere,
    At(BTreeSet<&'a str>),
}

impl<'a> Places<'a> {
    fn of(selectors: &[pharos_proto::v1::LabelSelector], nodes: &[&'a NodeState]) -> Self {
        if nodes.is_empty() {
            return Self::Anywhere;
        }
        let selected = nodes.iter().map(|node| &node.fact).filter(|node| {
            selectors.is_empty()
                || selector::any_matches(selectors, |key| node.labels.get(key).map(String::as_str))
        });
        Self::At(selected.map(|node| node.name.as_str()).collect())
    }

    fn meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::At(one), Self::At(two)) => !one.is_disjoint(two),
            (Self::Anywhere, _) | (_, Self::Anywhere) => true,
        }
    }
}
