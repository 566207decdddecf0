//! Facts about nodes and backends: stored, but no decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::State;
use super::address::Address;
use super::announce::unannounced;
use super::cluster;
use super::command::Fact;
use super::draft::Draft;
use super::model::{AllocationId, Backends, Node, NodeKey, OwnerKey, Placement, ReportedNode};
use super::names::Name;
use super::refusal::Rejection;

/// Takes in facts of one cluster, in order; what is known already changes nothing.
pub(super) fn report(
    draft: &mut Draft<'_>,
    cluster: &Name,
    facts: &[Fact],
) -> Result<(), Rejection> {
    cluster::contact(draft, cluster, 0)?;
    let mut news = News {
        state: draft.state,
        nodes: BTreeMap::new(),
        backends: BTreeMap::new(),
        placements: BTreeMap::new(),
    };
    for fact in facts {
        news.take_in(cluster, fact);
    }
    let News {
        state,
        nodes,
        backends,
        placements,
    } = news;
    for (key, after) in nodes {
        let before = state.node(&key);
        if before.map(Arc::as_ref) != after.as_ref() {
            draft.node(before, after);
        }
    }
    for (owner, after) in backends {
        let before = state.backends(&owner);
        if before.map(Arc::as_ref) != after.as_ref() {
            draft.backends(before, after);
        }
    }
    for (group, after) in placements {
        draft.placement(state.placement(group), after);
    }
    Ok(())
}

/// What the facts so far make of nodes and backends.
struct News<'a> {
    state: &'a State,
    nodes: BTreeMap<NodeKey, Option<Node>>,
    backends: BTreeMap<OwnerKey, Option<Backends>>,
    placements: BTreeMap<AllocationId, Placement>,
}

impl News<'_> {
    fn take_in(&mut self, cluster: &Name, fact: &Fact) {
        match fact {
            Fact::Node { key, reported } => {
                self.edit_node(key, |node| report_node(node, reported.as_ref()));
            }
            Fact::Announcer { key, announcer } => {
                self.edit_node(key, |node| node.announcer = Some(announcer.clone()));
            }
            Fact::Announced { group, addresses } => self.announced(cluster, *group, addresses),
            Fact::Backends { owner, entry } => {
                let after = entry.clone().map(|entry| Backends {
                    owner: owner.clone(),
                    entry,
                });
                self.backends.insert(owner.clone(), after);
            }
            Fact::Complete { nodes, owners } => self.complete(cluster, nodes, owners),
        }
    }

    /// What is not of the group (any more) is not remembered.
    fn announced(&mut self, cluster: &Name, group: AllocationId, addresses: &BTreeSet<Address>) {
        let new = unannounced(self.state, cluster, group);
        let new = new.intersection(addresses).copied();
        if let Some(known) = self.state.placement(group) {
            let news = self.placements.entry(group);
            let placement = news.or_insert_with(|| Placement::clone(known));
            placement.announced.extend(new);
        }
    }

    /// Forgets what an adapter has not named. What announcers said of themselves stays.
    fn complete(&mut self, cluster: &Name, nodes: &[Name], owners: &[OwnerKey]) {
        let nodes: BTreeSet<&Name> = nodes.iter().collect();
        let owners: BTreeSet<&OwnerKey> = owners.iter().collect();
        let stored = self.state.nodes_of(cluster).map(|node| &node.key);
        let unnamed: BTreeSet<NodeKey> = stored
            .chain(self.nodes.keys())
            .filter(|key| !nodes.contains(&key.node))
            .cloned()
            .collect();
        for key in unnamed {
            self.edit_node(&key, |node| report_node(node, None));
        }
        let stored = self.state.backends_of(cluster).map(|one| &one.owner);
        let unnamed: BTreeSet<OwnerKey> = stored
            .chain(self.backends.keys())
            .filter(|owner| !owners.contains(owner))
            .cloned()
            .collect();
        self.backends
            .extend(unnamed.into_iter().map(|owner| (owner, None)));
    }

    fn edit_node(&mut self, key: &NodeKey, change: impl FnOnce(&mut Node)) {
        let known = match self.nodes.get(key) {
            Some(news) => news.clone(),
            None => self.state.node(key).map(|node| Node::clone(node)),
        };
        let mut node = known.unwrap_or_else(|| Node {
            key: key.clone(),
            reported: None,
            removed: false,
            announcer: None,
        });
        change(&mut node);
        let is_known = node.reported.is_some() || node.announcer.is_some();
        self.nodes.insert(key.clone(), is_known.then_some(node));
    }
}

/// What an adapter says of a node; `None`: it is gone.
fn report_node(node: &mut Node, reported: Option<&ReportedNode>) {
    node.removed = reported.is_none() && (node.removed || node.reported.is_some());
    node.reported = reported.cloned();
}

#[cfg(test)]
mod tests;
