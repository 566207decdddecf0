//! Addresses that are held, whether somebody is to announce them or not, and why nobody is. Decides nothing
//! itself: it asks the functions that decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::AssignmentKey;
use super::explain::list;
use super::group::{Component, Part, silence, standings};
use super::nodes::Nodes;
use super::policy::Memory;
use super::routes::{Prefix, Withheld};
use crate::state::State;
use crate::state::model::{AdvertisementKey, AllocationId, Node, OwnerKey};
use crate::state::names::Name;

/// Most addresses that one page of a walk looks at, whoever holds them: the writer waits for it, a millisecond
/// or two.
const MOST_LOOKED_AT: usize = 10_000;

/// An address that a cluster holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub key: AssignmentKey,
    pub group: AllocationId,
    /// Sorted.
    pub owners: Vec<OwnerKey>,
    /// `None`: nodes are to announce it.
    pub silence: Option<Silence>,
}

/// Why no node is to announce an address, the least that is missing first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    #[error(
        "the announcers of all nodes that could are of an earlier version, without the feature {0:?}"
    )]
    FeatureMissing(&'static str),
    #[error("no node can take traffic in for {0}")]
    NoReadyEndpoint(OwnerKey),
    #[error("of {owner} none of the advertisements selects a node that may announce: {}", list(.by))]
    NoNodeSelected {
        owner: OwnerKey,
        by: Vec<AdvertisementKey>,
    },
    #[error("no node may announce: none has an announcer, or all are reported to be unavailable")]
    NoAnnouncer,
    #[error("no advertisement selects the pool and the labels of {0}")]
    NotAdvertised(OwnerKey),
    #[error("{0}")]
    Conflicting(Contradiction),
}

/// Two advertisements by BGP that give one route different local preferences.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the advertisements {} and {} give the route {prefix} different local preferences: it is not announced", .one.name, .other.name
)]
pub struct Contradiction {
    prefix: Prefix,
    one: AdvertisementKey,
    other: AdvertisementKey,
}

impl Contradiction {
    pub(super) fn of(withheld: &Withheld) -> Self {
        Self {
            prefix: withheld.prefix,
            one: withheld.one.clone(),
            other: withheld.other.clone(),
        }
    }
}

impl Silence {
    /// How far the address is from being announced.
    pub(super) fn distance(&self) -> u8 {
        match self {
            Self::FeatureMissing(_) | Self::Conflicting(_) => 0,
            Self::NoReadyEndpoint(_) => 1,
            Self::NoNodeSelected { .. } => 2,
            Self::NoAnnouncer => 3,
            Self::NotAdvertised(_) => 4,
        }
    }
}

/// What the state knows of some addresses, to be asked for without the state.
#[derive(Debug, Default)]
pub struct Inquiry {
    components: Vec<(Component, Vec<Part>)>,
    nodes: Vec<Arc<Node>>,
}

impl Inquiry {
    /// Of those that a cluster holds, and of all that are announced together with them.
    pub fn collect(state: &State, cluster: &Name, keys: &BTreeSet<AssignmentKey>) -> Self {
        let mut memory = Memory::default();
        let mut seen = BTreeSet::new();
        let mut components = Vec::new();
        for key in keys {
            if seen.contains(key) {
                continue;
            }
            let component = Component::of(state, key);
            if let Some(component) = component.filter(|it| it.is_of(cluster)) {
                seen.extend(component.addresses.iter().cloned());
                let parts = component.parts(state, cluster, &mut memory);
                components.push((component, parts));
            }
        }
        let nodes = match components.is_empty() {
            true => Vec::new(),
            false => state.nodes_of(cluster).cloned().collect(),
        };
        Self { components, nodes }
    }

    /// Each of them.
    pub fn answer(self) -> Vec<Held> {
        let mut nodes = Nodes::default();
        for node in &self.nodes {
            nodes.update(&node.key.node, Some(node));
        }
        let mut memory = Memory::default();
        let mut held = Vec::new();
        for (component, parts) in &self.components {
            let standings = standings(parts, &nodes, &mut memory);
            held.extend(component.addresses.iter().map(|key| Held {
                silence: silence(&standings, key, &nodes, &mut memory),
                group: component.id(),
                owners: component.owners_of(key),
                key: key.clone(),
            }));
        }
        held
    }
}

/// Some of the addresses that a cluster holds, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldPage {
    pub keys: Vec<AssignmentKey>,
    /// Where to go on; `None`: there are no more.
    pub next: Option<AssignmentKey>,
}

impl HeldPage {
    /// At most so many behind an address; there may be none on a page that is not the last.
    pub fn after(
        state: &State,
        cluster: &Name,
        after: Option<&AssignmentKey>,
        most: usize,
    ) -> Self {
        let mut page = Self::default();
        let mut held = state.held_after(after);
        for (space, address, holder) in held.by_ref().take(MOST_LOOKED_AT) {
            let key = AssignmentKey {
                space: space.clone(),
                address,
            };
            // Nobody shares with another cluster.
            if holder.owner.key.cluster == *cluster {
                page.keys.push(key.clone());
            }
            page.next = Some(key);
            if page.keys.len() >= most {
                break;
            }
        }
        if held.next().is_none() {
            page.next = None;
        }
        page
    }

    /// An address in each space in which a cluster holds it.
    pub fn at(state: &State, cluster: &Name, address: crate::state::address::Address) -> Self {
        let held = state.held_at(address);
        let own = held.filter(|(_, holder)| holder.owner.key.cluster == *cluster);
        let keys = own.map(|(space, _)| AssignmentKey {
            space: space.clone(),
            address,
        });
        Self {
            keys: keys.collect(),
            next: None,
        }
    }
}
