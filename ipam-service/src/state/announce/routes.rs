//! Routes by BGP: what is announced for an address, by which nodes and to which peers.
//!
//! An advertisement by BGP makes a route of each address of a pool and an owner that it selects, on each node
//! that it selects and that can take in traffic for the owner. Nodes do so each by itself: there is no
//! group, no list and no owner here, and who shares an address vetoes nobody. Routes of a node to one prefix
//! are one route to each peer (MetalLB's `speaker/bgp_controller.go`): with the communities of all of them;
//! and where they differ in LOCAL_PREF there is none, as nobody said which is meant.
//!
//! No session is known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::group::Standing;
use super::nodes::Nodes;
use super::policy::{Class, Memory, Policy, classes, union};
use super::{AssignmentKey, NodeSet};
use crate::state::address::{Address, Family};
use crate::state::bgp::community::Community;
use crate::state::model::{
    Advertisement, AdvertisementKey, AdvertisementProtocol, RouteAttributes,
};
use crate::state::names::Name;
use crate::state::placement::NodeNo;

/// The routes of an address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// No node is in two of them.
    pub by_nodes: Vec<NodeRoutes>,
    /// For people; announcers are not told.
    pub withheld: Vec<Withheld>,
}

/// What some nodes announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRoutes {
    pub nodes: Arc<NodeSet>,
    /// By prefix, and what goes to all other peers last. No peer is in two of one prefix.
    pub routes: Vec<Route>,
}

/// A route to some peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: Prefix,
    /// Sorted. Empty: all whom no other route to the prefix names.
    pub peers: Vec<Name>,
    /// 0: none is given.
    pub local_pref: u32,
    pub communities: BTreeSet<Community>,
}

/// A route that some nodes do not announce: the advertisements give it different local preferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    pub nodes: Arc<NodeSet>,
    pub prefix: Prefix,
    pub one: AdvertisementKey,
    pub other: AdvertisementKey,
}

impl Routes {
    /// Whether a node announces any.
    pub fn are_of(&self, node: &Name) -> bool {
        let mut entries = self.by_nodes.iter();
        entries.any(|entry| entry.nodes.nodes.binary_search(node).is_ok())
    }

    /// A route that a node does not announce.
    pub(super) fn withheld_from(&self, node: &Name) -> Option<&Withheld> {
        let mut withheld = self.withheld.iter();
        withheld.find(|one| one.nodes.nodes.binary_search(node).is_ok())
    }
}

/// The first bits of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: Address,
    /// As it is written: of an IPv4 prefix at most 32.
    length: u8,
}

/// Bits of an address before those of an IPv4 address.
const BEFORE_V4: u32 = 96;

impl Prefix {
    /// That of an address. `length`: at most the bits of its family.
    pub fn of(address: Address, length: u8) -> Self {
        let before = match address.family() {
            Family::V4 => BEFORE_V4,
            Family::V6 => 0,
        };
        let rest = u128::BITS.saturating_sub(before + u32::from(length));
        let mask = u128::MAX.checked_shl(rest).unwrap_or_default();
        Self {
            first: Address::from_bits(address.bits() & mask),
            length,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Those of an address; `None`: no advertisement by BGP selects it and a node that can serve it.
pub(super) fn of(
    standings: &[Standing<'_>],
    key: &AssignmentKey,
    nodes: &Nodes,
    memory: &mut Memory,
) -> Option<Arc<Routes>> {
    let own = standings.iter().filter_map(|one| one.routed(key));
    let own: Vec<(&Arc<Policy>, &Arc<[NodeNo]>)> = own.collect();
    let (first, others) = own.split_first()?;
    let mut others = others.iter();
    let are_alike = others.all(|it| Arc::ptr_eq(it.0, first.0) && it.1 == first.1);
    let classes = match are_alike {
        true => memory.classes(nodes, first.0, first.1),
        false => joined(nodes, &own),
    };
    let mut routes = Routes::default();
    for class in classes.iter() {
        let mut made = Vec::new();
        for (prefix, advertisements) in by_prefix(&class.advertisements, key.address) {
            match merge(prefix, &advertisements) {
                Ok(merged) => made.extend(merged),
                Err((one, other)) => routes.withheld.push(Withheld {
                    nodes: Arc::clone(&class.nodes),
                    prefix,
                    one: one.clone(),
                    other: other.clone(),
                }),
            }
        }
        if !made.is_empty() {
            routes.by_nodes.push(NodeRoutes {
                nodes: Arc::clone(&class.nodes),
                routes: made,
            });
        }
    }
    Some(Arc::new(routes))
}

/// What the owners of a shared address make of the nodes together: each node has the advertisements of all who
/// can be served there.
fn joined(nodes: &Nodes, owners: &[(&Arc<Policy>, &Arc<[NodeNo]>)]) -> Arc<[Class]> {
    let all = union(owners.iter().map(|(policy, _)| *policy));
    let numbers: BTreeSet<NodeNo> = owners
        .iter()
        .flat_map(|(_, able)| able.iter())
        .copied()
        .collect();
    classes(nodes, &all, numbers, |number, advertisement| {
        owners.iter().any(|(policy, able)| {
            let mut policy = policy.iter();
            able.binary_search(&number).is_ok() && policy.any(|one| one.key == advertisement.key)
        })
    })
}

/// An advertisement, and what it says of its routes.
type Advertised<'a> = (&'a AdvertisementKey, &'a RouteAttributes);

fn by_prefix(
    advertisements: &[Arc<Advertisement>],
    address: Address,
) -> BTreeMap<Prefix, Vec<Advertised<'_>>> {
    let mut by_prefix: BTreeMap<Prefix, Vec<Advertised<'_>>> = BTreeMap::new();
    for advertisement in advertisements {
        let AdvertisementProtocol::Bgp(attributes) = &advertisement.protocol else {
            continue;
        };
        let length = match address.family() {
            Family::V4 => attributes.length_v4,
            Family::V6 => attributes.length_v6,
        };
        let of_prefix = by_prefix.entry(Prefix::of(address, length)).or_default();
        of_prefix.push((&advertisement.key, attributes));
    }
    by_prefix
}

/// One route to each peer, or two advertisements that contradict one another to one.
fn merge<'a>(
    prefix: Prefix,
    all: &[Advertised<'a>],
) -> Result<Vec<Route>, (&'a AdvertisementKey, &'a AdvertisementKey)> {
    for (index, (one, attributes)) in all.iter().enumerate() {
        let mut later = all[index + 1..].iter();
        let contrary = later.find(|(_, other)| {
            other.local_pref != attributes.local_pref && share_a_peer(attributes, other)
        });
        if let Some((other, _)) = contrary {
            return Err((one, other));
        }
    }
    let to_all = all.iter().filter(|(_, it)| it.peers.is_empty());
    let to_others = together(to_all.map(|(_, it)| *it));
    let named: BTreeSet<&Name> = all.iter().flat_map(|(_, it)| &it.peers).collect();
    let mut alike: BTreeMap<(u32, BTreeSet<Community>), Vec<Name>> = BTreeMap::new();
    for peer in named {
        let heard = all.iter().filter(|(_, it)| reaches(it, peer));
        let heard = together(heard.map(|(_, it)| *it));
        if let Some(heard) = heard.filter(|heard| to_others.as_ref() != Some(heard)) {
            alike.entry(heard).or_default().push(peer.clone());
        }
    }
    let mut routes: Vec<Route> = alike
        .into_iter()
        .map(|((local_pref, communities), peers)| Route {
            prefix,
            peers,
            local_pref,
            communities,
        })
        .collect();
    routes.sort_by(|one, other| one.peers.cmp(&other.peers));
    routes.extend(to_others.map(|(local_pref, communities)| Route {
        prefix,
        peers: Vec::new(),
        local_pref,
        communities,
    }));
    Ok(routes)
}

/// Attributes of a route that several advertisements make; `None`: none does.
fn together<'a>(
    mut all: impl Iterator<Item = &'a RouteAttributes>,
) -> Option<(u32, BTreeSet<Community>)> {
    let first = all.next()?;
    let mut communities = first.communities.clone();
    communities.extend(all.flat_map(|other| &other.communities).copied());
    Some((first.local_pref, communities))
}

fn reaches(attributes: &RouteAttributes, peer: &Name) -> bool {
    attributes.peers.is_empty() || attributes.peers.contains(peer)
}

fn share_a_peer(one: &RouteAttributes, other: &RouteAttributes) -> bool {
    one.peers.is_empty() || other.peers.is_empty() || !one.peers.is_disjoint(&other.peers)
}
