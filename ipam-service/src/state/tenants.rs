//! What belongs to each cluster: its registration, allocations and facts.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::Edit;
use super::model::{Allocation, Backends, Cluster, Node, NodeKey, OwnerKey};
use super::names::Name;

/// All clusters, by name. One without content does not exist.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tenants(BTreeMap<Name, Tenant>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Tenant {
    cluster: Option<Arc<Cluster>>,
    allocations: BTreeSet<ByOwner>,
    /// How many of them wait for their claim.
    waiting: usize,
    nodes: BTreeMap<Name, Arc<Node>>,
    backends: BTreeMap<OwnerKey, Arc<Backends>>,
}

/// An allocation, found by its owner without keeping the owner's key a second time.
#[derive(Debug)]
struct ByOwner(Arc<Allocation>);

impl Borrow<OwnerKey> for ByOwner {
    fn borrow(&self) -> &OwnerKey {
        &self.0.owner.key
    }
}

impl Ord for ByOwner {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.owner.key.cmp(&other.0.owner.key)
    }
}

impl PartialOrd for ByOwner {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByOwner {
    fn eq(&self, other: &Self) -> bool {
        self.0.owner.key == other.0.owner.key
    }
}

impl Eq for ByOwner {}

impl Tenants {
    pub(super) fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.0.get(name)?.cluster.as_ref()
    }

    /// Of every cluster that has anything, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    /// By name.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.values().filter_map(|tenant| tenant.cluster.as_ref())
    }

    pub(super) fn allocation(&self, owner: &OwnerKey) -> Option<&Arc<Allocation>> {
        let tenant = self.0.get(&owner.cluster)?;
        tenant.allocations.get(owner).map(|entry| &entry.0)
    }

    /// By owner.
    pub(super) fn allocations(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let tenants = self.0.values();
        tenants.flat_map(|tenant| tenant.allocations.iter().map(|entry| &entry.0))
    }

    /// By owner.
    pub(super) fn allocations_of(&self, cluster: &str) -> impl Iterator<Item = &Arc<Allocation>> {
        let tenant = self.0.get(cluster).into_iter();
        tenant.flat_map(|tenant| tenant.allocations.iter().map(|entry| &entry.0))
    }

    /// How many allocations a cluster has.
    pub(super) fn allocation_count(&self, cluster: &str) -> usize {
        let tenant = self.0.get(cluster);
        tenant.map_or(0, |tenant| tenant.allocations.len())
    }

    /// How many claims of a cluster wait.
    pub(super) fn waiting_count(&self, cluster: &str) -> usize {
        self.0.get(cluster).map_or(0, |tenant| tenant.waiting)
    }

    pub(super) fn node(&self, key: &NodeKey) -> Option<&Arc<Node>> {
        self.0.get(&key.cluster)?.nodes.get(&key.node)
    }

    /// By name.
    pub(super) fn nodes_of(&self, cluster: &str) -> impl Iterator<Item = &Arc<Node>> {
        let tenant = self.0.get(cluster).into_iter();
        tenant.flat_map(|tenant| tenant.nodes.values())
    }

    pub(super) fn backends(&self, owner: &OwnerKey) -> Option<&Arc<Backends>> {
        self.0.get(&owner.cluster)?.backends.get(owner)
    }

    /// By owner.
    pub(super) fn backends_of(&self, cluster: &str) -> impl Iterator<Item = &Arc<Backends>> {
        let tenant = self.0.get(cluster).into_iter();
        tenant.flat_map(|tenant| tenant.backends.values())
    }

    /// How many nodes there are, and how many owners with backends.
    pub(super) fn fact_counts(&self) -> (usize, usize) {
        let tenants = self.0.values();
        tenants.fold((0, 0), |(nodes, backends), tenant| {
            (nodes + tenant.nodes.len(), backends + tenant.backends.len())
        })
    }

    pub(super) fn replace_cluster(&mut self, edit: &Edit<Cluster>) {
        let after = edit.after.clone();
        self.edit(&edit.subject().name, |tenant| tenant.cluster = after);
    }

    pub(super) fn replace_allocation(&mut self, edit: &Edit<Allocation>) {
        let owner = &edit.subject().owner.key;
        let waits = |one: &Option<Arc<Allocation>>| one.as_ref().is_some_and(|one| one.waits());
        self.edit(&owner.cluster, |tenant| {
            tenant.waiting -= usize::from(waits(&edit.before));
            tenant.waiting += usize::from(waits(&edit.after));
            match &edit.after {
                Some(after) => drop(tenant.allocations.replace(ByOwner(Arc::clone(after)))),
                None => drop(tenant.allocations.remove(owner)),
            }
        });
    }

    pub(super) fn replace_node(&mut self, edit: &Edit<Node>) {
        let key = &edit.subject().key;
        self.edit(&key.cluster, |tenant| match &edit.after {
            Some(after) => drop(tenant.nodes.insert(key.node.clone(), Arc::clone(after))),
            None => drop(tenant.nodes.remove(&key.node)),
        });
    }

    pub(super) fn replace_backends(&mut self, edit: &Edit<Backends>) {
        let owner = &edit.subject().owner;
        self.edit(&owner.cluster, |tenant| match &edit.after {
            Some(after) => drop(tenant.backends.insert(owner.clone(), Arc::clone(after))),
            None => drop(tenant.backends.remove(owner)),
        });
    }

    fn edit(&mut self, cluster: &Name, change: impl FnOnce(&mut Tenant)) {
        let tenant = self.0.entry(cluster.clone()).or_default();
        change(tenant);
        if *tenant == Tenant::default() {
            self.0.remove(cluster);
        }
    }
}
