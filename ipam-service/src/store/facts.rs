//! How facts are encoded in their rows.

use std::collections::BTreeSet;

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::Hello;
use prost::{DecodeError, Message as _};

use crate::api::convert::{labels_to_wire, owner_key_to_wire};
use crate::state::model::{Announcer, Backends, EntryNodes, Labels, Node, Placement, ReportedNode};
use crate::state::names::{InvalidName, Name};

/// A stored fact cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFact {
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    #[error("name of a node: {0}")]
    Name(#[from] InvalidName),
}

/// `node.reported` and `node.announcer`.
pub(super) fn encode_node(node: &Node) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let reported = node.reported.as_ref().map(|reported| {
        let fact = v1::NodeFact {
            name: node.key.node.as_str().to_owned(),
            labels: labels_to_wire(&reported.labels),
            unavailable_reason: reported.unavailable_reason.clone(),
        };
        fact.encode_to_vec()
    });
    let announcer = node.announcer.as_ref().map(|announcer| {
        // The name keeps the bytes from being empty: an empty blob is bound as null, and would say
        // that the node has no announcer.
        let hello = Hello {
            node: node.key.node.as_str().to_owned(),
            labels: labels_to_wire(&announcer.labels),
            member_endpoint: announcer.member_endpoint.clone(),
            ..Hello::default()
        };
        hello.encode_to_vec()
    });
    (reported, announcer)
}

/// `node.reported`.
pub(super) fn decode_reported(bytes: &[u8]) -> Result<ReportedNode, BadFact> {
    let fact = v1::NodeFact::decode(bytes)?;
    Ok(ReportedNode {
        labels: Labels::from_iter(fact.labels),
        unavailable_reason: fact.unavailable_reason,
    })
}

/// `node.announcer`.
pub(super) fn decode_announcer(bytes: &[u8]) -> Result<Announcer, BadFact> {
    let hello = Hello::decode(bytes)?;
    Ok(Announcer {
        labels: Labels::from_iter(hello.labels),
        member_endpoint: hello.member_endpoint,
    })
}

/// `backends.entry`.
pub(super) fn encode_backends(backends: &Backends) -> Vec<u8> {
    let (any_node, nodes) = match &backends.entry {
        EntryNodes::Any => (true, Vec::new()),
        EntryNodes::Only(nodes) => (false, nodes.iter().map(Name::to_string).collect()),
    };
    let fact = v1::BackendsFact {
        owner: Some(owner_key_to_wire(&backends.owner)),
        any_node,
        nodes,
    };
    fact.encode_to_vec()
}

/// `backends.entry`.
pub(super) fn decode_backends(bytes: &[u8]) -> Result<EntryNodes, BadFact> {
    let fact = v1::BackendsFact::decode(bytes)?;
    if fact.any_node {
        return Ok(EntryNodes::Any);
    }
    let nodes: Result<BTreeSet<Name>, _> = fact.nodes.iter().map(|it| Name::parse(it)).collect();
    Ok(EntryNodes::Only(nodes?))
}

/// `placement.entry`.
pub(super) fn encode_placement(placement: &Placement) -> Vec<u8> {
    let set = v1::NodeSet {
        id: 0,
        nodes: placement.nodes.iter().map(Name::to_string).collect(),
    };
    set.encode_to_vec()
}

/// `placement.entry`.
pub(super) fn decode_placement(bytes: &[u8]) -> Result<Vec<Name>, BadFact> {
    let set = v1::NodeSet::decode(bytes)?;
    let nodes: Result<Vec<Name>, _> = set.nodes.iter().map(|it| Name::parse(it)).collect();
    Ok(nodes?)
}
