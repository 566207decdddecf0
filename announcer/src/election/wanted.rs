//! On which interfaces a group may be answered, by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::NodeName;

/// The interfaces on which a node may answer for a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Every interface that the announcer may use.
    Any,
    /// These, by exact name.
    Named(BTreeSet<String>),
}

impl Wanted {
    /// As on the wire: none means every one.
    pub fn named(names: &[String]) -> Self {
        match names {
            [] => Self::Any,
            names => Self::Named(names.iter().cloned().collect()),
        }
    }

    /// Whether an interface of this name is wanted.
    pub fn includes(&self, interface: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => names.contains(interface),
        }
    }

    /// Both together: sharers of a group each bring their own (MetalLB ors them as well).
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, Self::Any | Self::Named(_)) | (Self::Named(_), Self::Any) => Self::Any,
            (Self::Named(a), Self::Named(b)) => Self::Named(a.union(b).cloned().collect()),
        }
    }
}

/// The same for every node: advertisements may name other interfaces for other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedBy {
    /// Of nodes that no entry of `by_nodes` names.
    rest: Wanted,
    by_nodes: Vec<(Arc<[NodeName]>, Wanted)>,
}

impl WantedBy {
    /// Of some nodes these, of all others `rest`.
    pub fn new(rest: Wanted, by_nodes: Vec<(Arc<[NodeName]>, Wanted)>) -> Self {
        Self { rest, by_nodes }
    }

    /// What is wanted of a node.
    pub fn of(&self, node: &str) -> &Wanted {
        let names = |nodes: &[NodeName]| nodes.iter().any(|name| &**name == node);
        let mut by_nodes = self.by_nodes.iter();
        let own = by_nodes.find(|(nodes, _)| names(nodes));
        own.map_or(&self.rest, |(_, wanted)| wanted)
    }

    /// Both together, for each node.
    pub fn union(&self, other: &Self) -> Self {
        let rest = self.rest.union(&other.rest);
        let mut by_nodes: BTreeMap<Wanted, BTreeSet<&NodeName>> = BTreeMap::new();
        for (nodes, _) in self.by_nodes.iter().chain(&other.by_nodes) {
            for node in &**nodes {
                let wanted = self.of(node).union(other.of(node));
                by_nodes.entry(wanted).or_default().insert(node);
            }
        }
        by_nodes.remove(&rest);
        let by_nodes = by_nodes.into_iter();
        Self {
            rest,
            by_nodes: by_nodes
                .map(|(wanted, nodes)| (nodes.into_iter().cloned().collect(), wanted))
                .collect(),
        }
    }
}

impl From<Wanted> for WantedBy {
    fn from(of_every_node: Wanted) -> Self {
        Self::new(of_every_node, Vec::new())
    }
}
