//! Assignments -> wire.

use pharos_proto::v1;
use pharos_proto::v1::assignment::ByNodes;

use crate::state::announce::{Assignment, AssignmentKey, Fenced, Interfaces, Member, NodeSet};
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
        l2: Some(interfaces_to_wire(&assignment.interfaces)),
        owners,
        probe: assignment.probe,
        fenced: assignment.fenced.as_ref().map(fenced_to_wire),
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
