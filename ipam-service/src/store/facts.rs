//! How facts are encoded in their rows.

use std::collections::BTreeSet;

use pharos_proto::v1::announcer_report::Hello;
use pharos_proto::v1::sync_facts_request;
use pharos_proto::{net, v1};
use prost::{DecodeError, Message as _};

use crate::api::convert::{labels_to_wire, owner_key_to_wire};
use crate::state::address::Address;
use crate::state::model::{Announcer, Backends, EntryNodes, Labels, Node, Placement, ReportedNode};
use crate::state::names::{InvalidName, Name};

/// A stored fact cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFact {
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    #[error("name of a node: {0}")]
    Name(#[from] InvalidName),
    #[error("not an address: {0:?}")]
    Address(String),
}

/// `node.reported` and `node.announcer`.
pub(super) fn encode_node(node: &Node) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let name = || node.key.node.as_str().to_owned();
    let reported = node.reported.as_ref().map(|reported| {
        sync_facts_request::Fact::Node(v1::NodeFact {
            name: name(),
            labels: labels_to_wire(&reported.labels),
            unavailable_reason: reported.unavailable_reason.clone(),
        })
    });
    let removed = || {
        node.removed
            .then(|| sync_facts_request::Fact::NodeRemoved(name()))
    };
    let reported = reported
        .or_else(removed)
        .map(|fact| v1::SyncFactsRequest { fact: Some(fact) }.encode_to_vec());
    let announcer = node.announcer.as_ref().map(|announcer| {
        // The name keeps the bytes from being empty: an empty blob is bound as null, and would say
        // that the node has no announcer.
        let hello = Hello {
            node: name(),
            labels: labels_to_wire(&announcer.labels),
            member_endpoint: announcer.member_endpoint.clone(),
            features: announcer.features.iter().cloned().collect(),
            ..Hello::default()
        };
        hello.encode_to_vec()
    });
    (reported, announcer)
}

/// `node.reported`: the last thing that an adapter said of the node; `None`: that it is gone.
pub(super) fn decode_reported(bytes: &[u8]) -> Result<Option<ReportedNode>, BadFact> {
    let request = v1::SyncFactsRequest::decode(bytes)?;
    Ok(match request.fact {
        Some(sync_facts_request::Fact::Node(fact)) => Some(ReportedNode {
            labels: Labels::from_iter(fact.labels),
            unavailable_reason: fact.unavailable_reason,
        }),
        Some(
            sync_facts_request::Fact::NodeRemoved(_)
            | sync_facts_request::Fact::Hello(_)
            | sync_facts_request::Fact::Backends(_)
            | sync_facts_request::Fact::BackendsRemoved(_)
            | sync_facts_request::Fact::Complete(_),
        )
        | None => None,
    })
}

/// `node.announcer`.
pub(super) fn decode_announcer(bytes: &[u8]) -> Result<Announcer, BadFact> {
    let hello = Hello::decode(bytes)?;
    Ok(Announcer {
        labels: Labels::from_iter(hello.labels),
        member_endpoint: hello.member_endpoint,
        features: BTreeSet::from_iter(hello.features),
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
    let announced = placement.announced.iter();
    let announced = announced.map(|address| net::format_address(address.to_ip()));
    let fact = v1::PlacementFact {
        nodes: placement.nodes.iter().map(Name::to_string).collect(),
        announced: announced.collect(),
    };
    fact.encode_to_vec()
}

/// `placement.entry`: the nodes, and the addresses that were announced.
pub(super) fn decode_placement(bytes: &[u8]) -> Result<(Vec<Name>, BTreeSet<Address>), BadFact> {
    let fact = v1::PlacementFact::decode(bytes)?;
    let nodes: Result<Vec<Name>, _> = fact.nodes.iter().map(|it| Name::parse(it)).collect();
    let announced = fact.announced.iter().map(|it| {
        let parsed = net::parse_address(it);
        parsed
            .map(Address::from)
            .map_err(|_| BadFact::Address(it.clone()))
    });
    Ok((nodes?, announced.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::model::NodeKey;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn what_is_known_of_a_node_reads_back_as_it_was_written() {
        let reported = ReportedNode {
            labels: Labels::new(),
            unavailable_reason: String::new(),
        };
        let announcer = Announcer {
            labels: Labels::new(),
            member_endpoint: String::new(),
            features: BTreeSet::from(["fenced".to_owned(), "of the future".to_owned()]),
        };
        for (reported, removed) in [(Some(reported), false), (None, true), (None, false)] {
            let node = Node {
                key: NodeKey {
                    cluster: name("east"),
                    node: name("a"),
                },
                reported,
                removed,
                announcer: Some(announcer.clone()),
            };
            let (said, called) = encode_node(&node);
            let called = called.expect("an announcer called");
            assert!(!called.is_empty(), "an empty blob would be bound as null");
            assert_eq!(decode_announcer(&called).ok(), node.announcer);
            let said = said.map(|bytes| decode_reported(&bytes).expect("just written"));
            assert_eq!(said == Some(None), node.removed);
            assert_eq!(said.flatten(), node.reported);
        }
    }

    #[test]
    fn a_placement_reads_back_as_it_was_written_and_one_of_before_was_not_announced() {
        let address = |text: &str| Address::from(text.parse::<std::net::IpAddr>().expect("one"));
        let placement = Placement {
            group: 7,
            cluster: name("east"),
            nodes: vec![name("b"), name("a")],
            announced: [address("192.0.2.1"), address("2001:db8::1")].into(),
        };
        let read = decode_placement(&encode_placement(&placement)).expect("just written");
        assert_eq!(read, (placement.nodes.clone(), placement.announced));
        let before = v1::NodeSet {
            id: 0,
            nodes: vec!["b".to_owned(), "a".to_owned()],
        };
        let read = decode_placement(&before.encode_to_vec()).expect("readable");
        assert_eq!(read, (placement.nodes, BTreeSet::new()));
    }
}
