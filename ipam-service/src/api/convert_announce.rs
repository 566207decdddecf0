//! Advertisements and facts: wire <-> domain.

pub mod assignments;
mod protocol;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use pharos_proto::digest::{Digests, WIRE_LEN};
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::Hello;
use pharos_proto::v1::sync_facts_request as wire_facts;

use self::protocol::{protocol_from_wire, protocol_to_wire};
use super::convert::owner_from_wire;
use super::fields::{FieldErrors, selectors_to_wire};
use crate::state::command::{Command, Scope};
use crate::state::model::{
    Advertisement, AdvertisementKey, Announcer, EntryNodes, NodeKey, OwnerKey, ReportedNode,
};
use crate::state::names::{MAX_NAME_BYTES, Name};
use crate::state::refusal::Rejection;

/// Most pools, selectors, interfaces or preferences of one advertisement, each: it is matched
/// against every node and pool.
const MAX_PARTS: usize = 1000;
/// Most features that an announcer names.
const MAX_FEATURES: usize = 64;

// === Advertisements ===

/// An advertisement; `field` is the path of the message.
pub fn advertisement_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::Advertisement>,
) -> Option<Advertisement> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let cluster = errors.optional_name(at("cluster"), &wire.cluster);
    let name = errors.name(at("name"), &wire.name);
    let space = errors.space(at("address_space"), &wire.address_space);
    bound(errors, &at("pools"), wire.pools.len());
    let pools = names(errors, &at("pools"), &wire.pools);
    let mut selectors = |name: &str, wire: &[v1::LabelSelector]| {
        bound(errors, &at(name), wire.len());
        errors.selectors(&at(name), wire)
    };
    let pool_selectors = selectors("pool_selectors", &wire.pool_selectors);
    let node_selectors = selectors("node_selectors", &wire.node_selectors);
    let service_selectors = selectors("service_selectors", &wire.service_selectors);
    let protocol = protocol_from_wire(errors, field, wire);
    Some(Advertisement {
        key: AdvertisementKey {
            cluster: cluster?,
            name: name?,
        },
        space: space?,
        pools: pools?,
        pool_selectors: pool_selectors?,
        node_selectors: node_selectors?,
        service_selectors: service_selectors?,
        protocol: protocol?,
        revision: wire.revision,
    })
}

pub(super) fn bound(errors: &mut FieldErrors, field: &str, count: usize) {
    if count > MAX_PARTS {
        errors.add(field, format!("at most {MAX_PARTS} are allowed"));
    }
}

pub(super) fn names(
    errors: &mut FieldErrors,
    field: &str,
    wire: &[String],
) -> Option<BTreeSet<Name>> {
    let read: Vec<_> = wire
        .iter()
        .enumerate()
        .map(|(index, text)| errors.name(format!("{field}[{index}]"), text))
        .collect();
    read.into_iter().collect()
}

/// An advertisement, back to the wire.
pub fn advertisement_to_wire(advertisement: &Advertisement) -> v1::Advertisement {
    let cluster = advertisement.key.cluster.as_ref();
    v1::Advertisement {
        name: advertisement.key.name.to_string(),
        cluster: cluster.map_or_else(String::new, Name::to_string),
        pools: advertisement.pools.iter().map(Name::to_string).collect(),
        pool_selectors: selectors_to_wire(&advertisement.pool_selectors),
        node_selectors: selectors_to_wire(&advertisement.node_selectors),
        service_selectors: selectors_to_wire(&advertisement.service_selectors),
        address_space: advertisement.space.to_string(),
        revision: advertisement.revision,
        protocol: Some(protocol_to_wire(&advertisement.protocol)),
    }
}

/// The key that a request gives in `cluster` and `name`.
pub fn advertisement_key(cluster: &str, name: &str) -> Result<AdvertisementKey, Rejection> {
    let mut errors = FieldErrors::new();
    let cluster = errors.optional_name("cluster", cluster);
    let name = errors.name("name", name);
    let key = (|| {
        Some(AdvertisementKey {
            cluster: cluster?,
            name: name?,
        })
    })();
    errors.finish(key)
}

/// `SyncAdvertisements`: its cluster and the whole set, each advertisement of that cluster.
pub fn advertisement_set(
    wire: &v1::SyncAdvertisementsRequest,
) -> Result<(Name, Command), Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(&wire.request_id);
    errors.fence(wire.fence);
    let cluster = errors.name("cluster", &wire.cluster);
    let scope = scope_from_wire(&mut errors, wire.scope);
    let mut seen = BTreeSet::new();
    let mut set = Vec::with_capacity(wire.advertisements.len());
    for (index, one) in wire.advertisements.iter().enumerate() {
        let field = format!("advertisements[{index}]");
        if !one.cluster.is_empty() && one.cluster != wire.cluster {
            let message = "must be empty or equal to the cluster of the request";
            errors.add(format!("{field}.cluster"), message);
        }
        if !seen.insert(&one.name) {
            errors.add(format!("{field}.name"), "is given twice");
        }
        let read = advertisement_from_wire(&mut errors, &field, Some(one));
        if let (Some(scope), Some(read)) = (scope, &read)
            && !scope.includes(&read.protocol)
        {
            let name = if read.protocol.is_bgp() { "bgp" } else { "l2" };
            errors.add(format!("{field}.{name}"), "is not in the scope of the set");
        }
        set.push(read);
    }
    let set = (|| {
        let cluster = cluster?;
        let set: Option<Vec<_>> = set.into_iter().collect();
        let own = set?.into_iter().map(|advertisement| Advertisement {
            key: AdvertisementKey {
                cluster: Some(cluster.clone()),
                ..advertisement.key
            },
            ..advertisement
        });
        let command = Command::SyncAdvertisements {
            advertisements: own.collect(),
            scope: scope?,
            fence: wire.fence,
            cluster: cluster.clone(),
        };
        Some((cluster, command))
    })();
    errors.finish(set)
}

fn scope_from_wire(errors: &mut FieldErrors, wire: i32) -> Option<Scope> {
    use v1::sync_advertisements_request::Scope as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Unspecified) => Some(Scope::Every),
        Ok(Wire::L2) => Some(Scope::L2),
        Ok(Wire::Bgp) => Some(Scope::Bgp),
        Err(_) => {
            errors.add("scope", format!("unknown value {wire}"));
            None
        }
    }
}

// === Facts ===

/// What an adapter says on its `SyncFacts` stream after `hello`.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// `None`: the node is gone.
    Node(Name, Option<ReportedNode>),
    /// `None`: the owner is gone.
    Backends(OwnerKey, Option<EntryNodes>),
    /// All nodes and backends have been named.
    Complete,
}

/// One message of a `SyncFacts` stream of `cluster`, after the first.
pub fn said_from_wire(cluster: &Name, wire: &v1::SyncFactsRequest) -> Result<Said, Rejection> {
    use wire_facts::Fact;
    let mut errors = FieldErrors::new();
    let said = match &wire.fact {
        Some(Fact::Hello(_)) => {
            errors.add("hello", "only the first message is a hello");
            None
        }
        Some(Fact::Node(node)) => node_from_wire(&mut errors, node),
        Some(Fact::NodeRemoved(name)) => errors
            .name("node_removed", name)
            .map(|name| Said::Node(name, None)),
        Some(Fact::Backends(backends)) => {
            let owner = cluster_owner(
                &mut errors,
                "backends.owner",
                cluster,
                backends.owner.as_ref(),
            );
            let entry = if backends.any_node {
                Some(EntryNodes::Any)
            } else {
                names(&mut errors, "backends.nodes", &backends.nodes).map(EntryNodes::Only)
            };
            owner
                .zip(entry)
                .map(|(owner, entry)| Said::Backends(owner, Some(entry)))
        }
        Some(Fact::BackendsRemoved(owner)) => {
            cluster_owner(&mut errors, "backends_removed", cluster, Some(owner))
                .map(|owner| Said::Backends(owner, None))
        }
        Some(Fact::Complete(_)) => Some(Said::Complete),
        None => {
            errors.add("fact", "is required");
            None
        }
    };
    errors.finish(said)
}

fn node_from_wire(errors: &mut FieldErrors, wire: &v1::NodeFact) -> Option<Said> {
    let name = errors.name("node.name", &wire.name);
    let labels = errors.labels("node.labels", &wire.labels);
    let reason = errors.text(
        "node.unavailable_reason",
        &wire.unavailable_reason,
        MAX_NAME_BYTES,
    );
    Some(Said::Node(
        name?,
        Some(ReportedNode {
            labels: labels?,
            unavailable_reason: reason?,
        }),
    ))
}

/// The key of an owner of the stream's own cluster, which may be left empty.
fn cluster_owner(
    errors: &mut FieldErrors,
    field: &str,
    cluster: &Name,
    wire: Option<&v1::Owner>,
) -> Option<OwnerKey> {
    let wire = errors.required(field, wire)?;
    if !wire.cluster.is_empty() && wire.cluster != cluster.as_str() {
        let message = format!("must be empty or {cluster:?}, the cluster of the stream");
        errors.add(format!("{field}.cluster"), message);
        return None;
    }
    let wire = v1::Owner {
        cluster: cluster.to_string(),
        ..wire.clone()
    };
    owner_from_wire(errors, field, Some(&wire)).map(|owner| owner.key)
}

/// The first message of a `SyncFacts` stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactsHello {
    pub cluster: Name,
    pub cluster_uid: String,
    /// Names the replica in logs.
    pub session: String,
}

/// The first message of a `SyncFacts` stream, which must be `hello`.
pub fn facts_hello(wire: Option<&v1::SyncFactsRequest>) -> Result<FactsHello, Rejection> {
    let mut errors = FieldErrors::new();
    let hello = match wire.and_then(|wire| wire.fact.as_ref()) {
        Some(wire_facts::Fact::Hello(hello)) => {
            let cluster = errors.name("hello.cluster", &hello.cluster);
            let uid = errors.text("hello.cluster_uid", &hello.cluster_uid, MAX_NAME_BYTES);
            let session = errors.text("hello.session", &hello.session, MAX_NAME_BYTES);
            (|| {
                Some(FactsHello {
                    cluster: cluster?,
                    cluster_uid: uid?,
                    session: session?,
                })
            })()
        }
        Some(
            wire_facts::Fact::Node(_)
            | wire_facts::Fact::NodeRemoved(_)
            | wire_facts::Fact::Backends(_)
            | wire_facts::Fact::BackendsRemoved(_)
            | wire_facts::Fact::Complete(_),
        )
        | None => {
            errors.add("hello", "must be the first message");
            None
        }
    };
    errors.finish(hello)
}

// === Announcers ===

/// The first report of an announcer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnouncerHello {
    pub key: NodeKey,
    pub announcer: Announcer,
    /// The store that made the assignments that it has; empty if it has none.
    pub store_id: String,
    /// Of the assignments that it has.
    pub digests: Digests,
    pub version: String,
}

/// The first report of an announcer, which must be `hello`.
pub fn announcer_hello(wire: Option<&v1::AnnouncerReport>) -> Result<AnnouncerHello, Rejection> {
    use v1::announcer_report::Report;
    let mut errors = FieldErrors::new();
    let hello = match wire.and_then(|wire| wire.report.as_ref()) {
        Some(Report::Hello(hello)) => hello_from_wire(&mut errors, hello),
        Some(
            Report::AppliedPosition(_)
            | Report::Conflict(_)
            | Report::Status(_)
            | Report::Released(_),
        )
        | None => {
            errors.add("hello", "must be the first report");
            None
        }
    };
    errors.finish(hello)
}

fn hello_from_wire(errors: &mut FieldErrors, wire: &Hello) -> Option<AnnouncerHello> {
    let cluster = errors.name("hello.cluster", &wire.cluster);
    let node = errors.name("hello.node", &wire.node);
    let labels = errors.labels("hello.labels", &wire.labels);
    let endpoint = endpoint(errors, "hello.member_endpoint", &wire.member_endpoint);
    let store_id = errors.text("hello.store_id", &wire.store_id, MAX_NAME_BYTES);
    let version = errors.text("hello.version", &wire.version, MAX_NAME_BYTES);
    let features = features(errors, &wire.features);
    let digests = Digests::from_wire(&wire.digests);
    if digests.is_none() {
        let message = format!(
            "must be empty or {WIRE_LEN} bytes long, not {}",
            wire.digests.len()
        );
        errors.add("hello.digests", message);
    }
    Some(AnnouncerHello {
        key: NodeKey {
            cluster: cluster?,
            node: node?,
        },
        announcer: Announcer {
            labels: labels?,
            member_endpoint: endpoint?,
            features: features?,
        },
        store_id: store_id?,
        digests: digests?,
        version: version?,
    })
}

fn features(errors: &mut FieldErrors, wire: &[String]) -> Option<BTreeSet<String>> {
    if wire.len() > MAX_FEATURES {
        let message = format!(
            "has {} names; at most {MAX_FEATURES} are allowed",
            wire.len()
        );
        errors.add("hello.features", message);
        return None;
    }
    let names = wire.iter().enumerate().map(|(index, name)| {
        let field = format!("hello.features[{index}]");
        let name = errors.name(field, name)?;
        Some(name.as_str().to_owned())
    });
    // All are looked at, so that each bad one is told of.
    let names: Vec<Option<String>> = names.collect();
    names.into_iter().collect()
}

/// `address:port`, in canonical form; empty: the node takes no part in membership, and the others
/// cannot see whether it lives.
fn endpoint(errors: &mut FieldErrors, field: &str, wire: &str) -> Option<String> {
    if wire.is_empty() {
        return Some(String::new());
    }
    match wire.parse::<SocketAddr>() {
        Ok(endpoint) if endpoint.port() != 0 => Some(endpoint.to_string()),
        Ok(_) | Err(_) => {
            errors.add(field, "must be address:port, for example 192.0.2.7:7946");
            None
        }
    }
}

#[cfg(test)]
mod tests;
