//! Assignments -> wire.

use pharos_proto::v1;
use pharos_proto::v1::assignment::ByNodes;

use crate::api::convert_bgp::{peer_to_wire, profile_to_wire};
use crate::state::announce::{
    Assignment, AssignmentKey, Fenced, Interfaces, Member, NodeRoutes, NodeSet, Peers,
};
use crate::state::bgp::community::Community;
use crate::state::model::OwnerKey;
use crate::state::names::Name;

/// An assignment. Equal assignments have equal encodings, on which digests rest.
pub fn assignment_to_wire(assignment: &Assignment) -> v1::Assignment {
    let key = key_to_wire(&assignment.key);
    let mut owners: Vec<_> = assignment.owners.iter().map(OwnerKey::to_string).collect();
    owners.sort();
    v1::Assignment {
        address_space: key.address_space,
        address: key.address,
        group: assignment.group,
        nodes: assignment.nodes.iter().map(Name::to_string).collect(),
        candidates: assignment.candidates,
        l2: assignment
            .interfaces
            .as_ref()
            .map(|interfaces| interfaces_to_wire(interfaces)),
        owners,
        probe: assignment.probe,
        fenced: assignment.fenced.as_ref().map(fenced_to_wire),
        bgp: assignment
            .bgp
            .iter()
            .flat_map(|routes| &routes.by_nodes)
            .map(routes_to_wire)
            .collect(),
    }
}

fn routes_to_wire(entry: &NodeRoutes) -> v1::assignment::NodeRoutes {
    let routes = entry.routes.iter().map(|route| v1::assignment::Route {
        prefix: route.prefix.to_string(),
        peers: route.peers.iter().map(Name::to_string).collect(),
        local_pref: route.local_pref,
        communities: route.communities.iter().map(Community::to_string).collect(),
    });
    v1::assignment::NodeRoutes {
        nodes: entry.nodes.id,
        routes: routes.collect(),
    }
}

/// The BGP peers of a cluster. Nothing here has a password.
pub fn peers_to_wire(peers: &Peers) -> v1::BgpPeers {
    let routers = peers.peers.iter().map(|one| v1::bgp_peers::Peer {
        peer: Some(v1::BgpPeer {
            // Every announcer would have to know every node's labels.
            node_selectors: Vec::new(),
            ..peer_to_wire(&one.peer)
        }),
        nodes: one.nodes.id,
    });
    v1::BgpPeers {
        peers: routers.collect(),
        profiles: peers
            .profiles
            .iter()
            .map(|it| profile_to_wire(it))
            .collect(),
    }
}

fn interfaces_to_wire(interfaces: &Interfaces) -> v1::assignment::L2 {
    let by_nodes = interfaces.by_nodes.iter().map(|entry| ByNodes {
        nodes: entry.nodes.id,
        interfaces: entry.interfaces.clone(),
    });
    v1::assignment::L2 {
        interfaces: interfaces.names.clone(),
        by_nodes: by_nodes.collect(),
    }
}

/// What an assignment is about.
pub fn key_to_wire(key: &AssignmentKey) -> v1::AssignmentKey {
    v1::AssignmentKey {
        address_space: key.space.to_string(),
        address: pharos_proto::net::format_address(key.address.to_ip()),
    }
}

/// A set of nodes.
pub fn node_set_to_wire(set: &NodeSet) -> v1::NodeSet {
    v1::NodeSet {
        id: set.id,
        nodes: set.nodes.iter().map(Name::to_string).collect(),
    }
}

/// All nodes of a cluster that run an announcer.
pub fn members_to_wire(members: &[Member]) -> v1::Members {
    let members = members.iter().map(|member| v1::members::Member {
        node: member.node.to_string(),
        endpoint: member.endpoint.clone(),
    });
    v1::Members {
        members: members.collect(),
    }
}

/// Who may answer for a fenced address.
pub fn fenced_to_wire(fenced: &Fenced) -> v1::assignment::Fenced {
    let owner = fenced.owner.as_ref();
    let name = |node: Option<&Name>| node.map_or_else(String::new, Name::to_string);
    v1::assignment::Fenced {
        owner: name(owner.map(|owner| &owner.node)),
        term: owner.map_or(0, |owner| owner.term.0),
        epoch: fenced.epoch,
        next: name(fenced.next.as_ref()),
    }
}
