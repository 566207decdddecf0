//! The nodes of one cluster, as far as announcing is concerned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::state::model::{Labels, Node};
use crate::state::names::Name;
use crate::state::placement::{Balance, NodeNo};

/// A node that runs an announcer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: Name,
    /// `address:port` of its membership protocol.
    pub endpoint: String,
}

/// What is known of the nodes of a cluster, under small numbers. A number is never used again: a
/// node that comes back has its old one.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    numbers: HashMap<Name, NodeNo>,
    /// By number.
    entries: Vec<Entry>,
    /// Nodes with an announcer, with their endpoints.
    members: BTreeMap<Name, String>,
    pub(super) balance: Balance,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    /// Labels, if the node may be a candidate: it has an announcer and is not unavailable.
    available: Option<Labels>,
    /// What its announcer knows of.
    features: BTreeSet<String>,
}

/// What an edit of a node means for the announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeEffect {
    /// Who is selected by advertisements may have changed.
    pub(super) candidates: bool,
    pub(super) members: bool,
}

impl Nodes {
    /// Takes in the newest value of a node; `None`: it is gone.
    pub(super) fn update(&mut self, name: &Name, node: Option<&Node>) -> NodeEffect {
        let endpoint = node
            .filter(|node| !node.removed)
            .and_then(|node| node.announcer.as_ref())
            .map(|announcer| announcer.member_endpoint.clone());
        let available = node.filter(|node| may_announce(node)).map(Node::labels);
        let announcer = node.and_then(|node| node.announcer.as_ref());
        let features = announcer.map_or_else(BTreeSet::new, |it| it.features.clone());
        let members = match endpoint {
            Some(endpoint) => self.members.insert(name.clone(), endpoint.clone()) != Some(endpoint),
            None => self.members.remove(name).is_some(),
        };
        let known = self.numbers.contains_key(name);
        if !known && available.is_none() {
            return NodeEffect {
                candidates: false,
                members,
            };
        }
        let number = self.number(name);
        let entry = &mut self.entries[number.index()];
        let candidates = entry.available != available || entry.features != features;
        entry.available = available;
        entry.features = features;
        NodeEffect {
            candidates,
            members,
        }
    }

    /// The number of a node, made at first sight.
    pub(super) fn number(&mut self, name: &Name) -> NodeNo {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.balance.add_node(name);
        self.numbers.insert(name.clone(), number);
        self.entries.push(Entry {
            name: name.clone(),
            available: None,
            features: BTreeSet::new(),
        });
        number
    }

    /// The number of a node, if it has one.
    pub(super) fn find(&self, name: &str) -> Option<NodeNo> {
        self.numbers.get(name).copied()
    }

    pub(super) fn name(&self, number: NodeNo) -> &Name {
        &self.entries[number.index()].name
    }

    /// Labels of a node that may be a candidate.
    pub(super) fn labels(&self, number: NodeNo) -> Option<&Labels> {
        self.entries[number.index()].available.as_ref()
    }

    /// Whether the announcer of a node knows of a feature.
    pub(super) fn knows(&self, number: NodeNo, feature: &str) -> bool {
        self.entries[number.index()].features.contains(feature)
    }

    /// All nodes that may be candidates, by number.
    pub(super) fn available(&self) -> impl Iterator<Item = (NodeNo, &Labels)> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| {
            let labels = entry.available.as_ref()?;
            Some((self.find(&entry.name)?, labels))
        })
    }

    /// By name.
    pub(super) fn members(&self) -> Vec<Member> {
        let members = self.members.iter();
        members
            .map(|(node, endpoint)| Member {
                node: node.clone(),
                endpoint: endpoint.clone(),
            })
            .collect()
    }
}

fn may_announce(node: &Node) -> bool {
    node.announcer.is_some()
        && !node.removed
        && node
            .reported
            .as_ref()
            .is_none_or(|reported| reported.unavailable_reason.is_empty())
}
