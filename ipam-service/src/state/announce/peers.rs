//! The routers that the nodes of a cluster have BGP sessions with, and which nodes those are. No session is known
//! here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClusterAssignments, ClusterDelta, NodeSet};
use crate::state::State;
use crate::state::bgp::model::{BfdProfile, BgpPeer};
use crate::state::model::Node;
use crate::state::names::Name;
use crate::state::selector::{LabelSelector, none_or_any};

/// What the announcers of a cluster are told of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// By name.
    pub peers: Vec<Peer>,
    /// Those that the peers name and that exist, by name.
    pub profiles: Vec<Arc<BfdProfile>>,
}

/// A router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub peer: Arc<BgpPeer>,
    /// Who has a session with it.
    pub nodes: Arc<NodeSet>,
}

impl Peers {
    /// Those of a cluster.
    fn of(state: &State, cluster: &Name) -> Self {
        let bgp = state.bgp();
        let mut sets: Vec<(&[LabelSelector], Arc<NodeSet>)> = Vec::new();
        let mut profiles = BTreeMap::new();
        let mut peers = Vec::new();
        for peer in bgp.visible_peers(cluster).into_values() {
            let selectors = &peer.node_selectors[..];
            let known = sets.iter().find(|(known, _)| *known == selectors);
            let nodes = match known {
                Some((_, nodes)) => Arc::clone(nodes),
                None => {
                    let selected = state.nodes_of(cluster).filter(|node| selects(peer, node));
                    let names = selected.map(|node| node.key.node.clone());
                    let nodes = Arc::new(NodeSet::new(names));
                    sets.push((selectors, Arc::clone(&nodes)));
                    nodes
                }
            };
            if let Some(name) = &peer.bfd_profile
                && let Some(profile) = bgp.visible_profile(cluster, name)
            {
                profiles.insert(name, Arc::clone(profile));
            }
            peers.push(Peer {
                peer: Arc::clone(peer),
                nodes,
            });
        }
        Self {
            peers,
            profiles: profiles.into_values().collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

/// Whether a node has a session with a peer, whether or not it may announce anything now.
pub fn selects(peer: &BgpPeer, node: &Node) -> bool {
    let has_announcer = node.announcer.is_some() && !node.removed;
    has_announcer && none_or_any(&peer.node_selectors, &node.labels())
}

impl ClusterAssignments {
    /// Finds out who the peers are now.
    pub(super) fn refresh_peers(
        &mut self,
        state: &State,
        cluster: &Name,
        delta: &mut ClusterDelta,
    ) {
        let now = Peers::of(state, cluster);
        if *self.peers == now {
            return;
        }
        for peer in &now.peers {
            self.retain_set(&peer.nodes, delta);
        }
        let before = std::mem::replace(&mut self.peers, Arc::new(now));
        for peer in &before.peers {
            self.release_set(peer.nodes.id, delta);
        }
        delta.bgp_peers = Some(Arc::clone(&self.peers));
    }
}
