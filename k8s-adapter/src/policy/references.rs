//! What an author should know of an object that is right by itself: names that stand for nothing
//! (yet), and pools that hold addresses of nodes.

use std::net::IpAddr;

use pharos_proto::net::address_bytes;

use super::bgp::Bgp;
use super::findings::{Finding, Problems};
use super::objects::{Known, Objects, ResourceKind};
use super::pool::Pool;
use crate::eligibility::NodeState;

/// All of it. What is not known is not missed.
pub(super) fn find(
    objects: &Objects<'_>,
    pools: &[Pool<'_>],
    bgp: &Bgp,
    findings: &mut Vec<Finding>,
) {
    for declared in objects.l2.iter() {
        let kind = ResourceKind::L2Advertisement;
        let mut problems = Problems::new(kind, &declared.name, findings);
        if let Ok(spec) = &declared.spec {
            pool_names(&spec.pools, objects, &mut problems);
        }
    }
    for advertisement in &bgp.advertisements {
        let kind = ResourceKind::BgpAdvertisement;
        let mut problems = Problems::new(kind, &advertisement.name, findings);
        pool_names(&advertisement.pools, objects, &mut problems);
        let peers = ResourceKind::Peer;
        names(
            "spec.peers",
            &advertisement.peers,
            &objects.peers,
            peers,
            &mut problems,
        );
        if objects.communities.is_complete() {
            for name in &advertisement.unknown_communities {
                let message = format!("no Community gives the name {name:?}");
                problems.warn("spec.communities", message);
            }
        }
    }
    for peer in &bgp.peers {
        let mut problems = Problems::new(ResourceKind::Peer, &peer.name, findings);
        if let Some(name) = &peer.bfd_profile
            && objects.profiles.lacks(name)
        {
            let message = nobody(ResourceKind::Profile, name);
            problems.warn("spec.bfdProfile", message);
        }
    }
    if let Some(nodes) = &objects.nodes {
        addresses_of_nodes(pools, nodes, findings);
    }
}

fn pool_names(pools: &[String], objects: &Objects<'_>, problems: &mut Problems<'_>) {
    let kind = ResourceKind::Pool;
    names("spec.ipAddressPools", pools, &objects.pools, kind, problems);
}

fn names<S>(
    field: &str,
    names: &[String],
    known: &Known<'_, S>,
    kind: ResourceKind,
    problems: &mut Problems<'_>,
) {
    for (index, name) in names.iter().enumerate() {
        if known.lacks(name) {
            problems.warn(format!("{field}[{index}]"), nobody(kind, name));
        }
    }
}

fn nobody(kind: ResourceKind, name: &str) -> String {
    format!("there is no {} {name:?}", kind.as_str())
}

/// A Service that gets the address of a node takes it from that node.
fn addresses_of_nodes(pools: &[Pool<'_>], nodes: &[&NodeState], findings: &mut Vec<Finding>) {
    let mut taken: Vec<(u128, &str, IpAddr)> = nodes
        .iter()
        .flat_map(|node| {
            let addresses = node.addresses.iter();
            addresses.map(|address| (number(*address), node.fact.name.as_str(), *address))
        })
        .collect();
    taken.sort_unstable();
    for pool in pools {
        let mut problems = Problems::new(ResourceKind::Pool, pool.name, findings);
        for range in &pool.ranges {
            let start = taken.partition_point(|(number, _, _)| *number < range.first);
            let end = taken.partition_point(|(number, _, _)| *number <= range.last);
            if let [(_, node, address), more @ ..] = &taken[start..end] {
                let more = match more.len() {
                    0 => String::new(),
                    count => format!(", and {count} more of nodes"),
                };
                let message = format!("holds the address {address} of node {node:?}{more}");
                problems.warn(range.field.clone(), message);
            }
        }
    }
}

fn number(address: IpAddr) -> u128 {
    u128::from_be_bytes(address_bytes(address))
}
