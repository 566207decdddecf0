//! On which interfaces an address is announced, by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::NodeSet;
use super::nodes::Nodes;
use super::policy::{Policy, l2, selects_node};
use crate::state::model::{Advertisement, Labels};
use crate::state::names::Name;
use crate::state::placement::NodeNo;

/// The interfaces on which an address is announced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    /// Of a node that no entry of `by_nodes` names. Sorted; empty: every interface.
    pub names: Vec<String>,
    /// Where other nodes have others. No node is in two of them.
    pub by_nodes: Vec<ByNodes>,
}

impl Interfaces {
    /// Those of a node.
    pub fn of(&self, node: &Name) -> &[String] {
        let names = |entry: &&ByNodes| entry.nodes.nodes.binary_search(node).is_ok();
        let own = self.by_nodes.iter().find(names);
        own.map_or(&self.names, |entry| &entry.interfaces)
    }
}

/// The interfaces of some nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByNodes {
    pub nodes: Arc<NodeSet>,
    /// Sorted; empty: every interface.
    pub interfaces: Vec<String>,
}

/// Whether the advertisements mean the same on all nodes, whichever of them each selects.
pub(super) fn are_alike(policy: &Policy) -> bool {
    let Some((first, others)) = policy.split_first() else {
        return true;
    };
    let mut by_selectors = others.iter();
    let mut by_interfaces = others.iter();
    by_selectors.all(|other| other.node_selectors == first.node_selectors)
        || by_interfaces.all(|other| l2(other).0 == l2(first).0)
}

/// What these advertisements say of these nodes.
///
/// A node that none of them selects has what they name together: there are such only where the
/// owners of a group have no node in common, and it is announced by those of the oldest.
pub(super) fn of(nodes: &Nodes, policy: &Policy, candidates: &[NodeNo]) -> Interfaces {
    let mut alike: BTreeMap<BTreeSet<String>, Vec<NodeNo>> = BTreeMap::new();
    for number in candidates {
        let names = of_node(policy, nodes.labels(*number));
        alike.entry(names).or_default().push(*number);
    }
    let together = union(alike.keys());
    alike.remove(&together);
    let by_nodes = alike.into_iter().map(|(names, numbers)| {
        let numbers = numbers.into_iter();
        ByNodes {
            nodes: Arc::new(NodeSet::new(
                numbers.map(|number| nodes.name(number).clone()),
            )),
            interfaces: names.into_iter().collect(),
        }
    });
    Interfaces {
        by_nodes: by_nodes.collect(),
        names: together.into_iter().collect(),
    }
}

fn of_node(policy: &Policy, labels: Option<&Labels>) -> BTreeSet<String> {
    let selecting = |one: &&Arc<Advertisement>| labels.is_some_and(|it| selects_node(one, it));
    let mut selecting = policy.iter().filter(selecting).peekable();
    match selecting.peek() {
        Some(_) => union(selecting.map(|one| l2(one).0)),
        None => union(policy.iter().map(|one| l2(one).0)),
    }
}

/// One that names none means every interface, and so does the union then.
fn union<'a>(all: impl IntoIterator<Item = &'a BTreeSet<String>>) -> BTreeSet<String> {
    let mut union = BTreeSet::new();
    for names in all {
        if names.is_empty() {
            return BTreeSet::new();
        }
        union.extend(names.iter().cloned());
    }
    union
}
