//! What belongs to each cluster: its registration, allocations and facts.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::Edit;
use super::model::{Allocation, AllocationId, Backends, Cluster, Node, NodeKey, OwnerKey};
use super::names::Name;
use super::packing::pack_set;

/// All clusters, by name. One without content does not exist.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tenants(BTreeMap<Name, Tenant>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Tenant {
    cluster: Option<Arc<Cluster>>,
    allocations: Allocations,
    /// How many of them wait for their claim.
    waiting: usize,
    nodes: BTreeMap<Name, Arc<Node>>,
    backends: BTreeMap<OwnerKey, Arc<Backends>>,
}

/// The allocations of a cluster, by namespace and name. Those of a namespace lie together: a look
/// for one reads the names of its neighbours only.
#[derive(Debug, Default, PartialEq, Eq)]
struct Allocations {
    by_namespace: BTreeMap<Option<Name>, BTreeSet<ByName>>,
    count: usize,
}

impl Allocations {
    fn get(&self, owner: &OwnerKey) -> Option<&Arc<Allocation>> {
        let namespace = self.by_namespace.get(&owner.namespace)?;
        namespace.get(&owner.name).map(|entry| &entry.0)
    }

    /// By namespace and name.
    fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let namespaces = self.by_namespace.values();
        namespaces.flat_map(|namespace| namespace.iter().map(|entry| &entry.0))
    }

    fn replace(&mut self, allocation: &Arc<Allocation>) {
        let namespace = &allocation.owner.key.namespace;
        let entry = ByName(Arc::clone(allocation));
        let former = match self.by_namespace.get_mut(namespace) {
            Some(namespace) => namespace.replace(entry),
            None => {
                let first = BTreeSet::from([entry]);
                self.by_namespace.insert(namespace.clone(), first);
                None
            }
        };
        self.count += usize::from(former.is_none());
    }

    fn pack(&mut self) {
        self.by_namespace.values_mut().for_each(pack_set);
    }

    fn remove(&mut self, owner: &OwnerKey) {
        let Some(namespace) = self.by_namespace.get_mut(&owner.namespace) else {
            return;
        };
        self.count -= usize::from(namespace.remove(&owner.name));
        if namespace.is_empty() {
            self.by_namespace.remove(&owner.namespace);
        }
    }
}

/// An allocation, found by its owner's name without keeping that a second time.
#[derive(Debug)]
struct ByName(Arc<Allocation>);

/// An allocation, found by its id in the same way.
#[derive(Debug)]
pub(super) struct ById(pub(super) Arc<Allocation>);

/// Orders what wraps an allocation by a part of it, and lets that be looked for.
macro_rules! ordered_by {
    ($wrapper:ty, $key:ty, $($part:ident).+) => {
        impl Borrow<$key> for $wrapper {
            fn borrow(&self) -> &$key {
                &self.0.$($part).+
            }
        }

        impl Ord for $wrapper {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.$($part).+.cmp(&other.0.$($part).+)
            }
        }

        impl PartialOrd for $wrapper {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $wrapper {
            fn eq(&self, other: &Self) -> bool {
                self.0.$($part).+ == other.0.$($part).+
            }
        }

        impl Eq for $wrapper {}
    };
}

ordered_by!(ByName, Name, owner.key.name);
ordered_by!(ById, AllocationId, id);

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
        tenant.allocations.get(owner)
    }

    /// By owner.
    pub(super) fn allocations(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let tenants = self.0.values();
        tenants.flat_map(|tenant| tenant.allocations.iter())
    }

    /// By owner.
    pub(super) fn allocations_of(&self, cluster: &str) -> impl Iterator<Item = &Arc<Allocation>> {
        let tenant = self.0.get(cluster).into_iter();
        tenant.flat_map(|tenant| tenant.allocations.iter())
    }

    /// Makes full nodes of half-full ones.
    pub(super) fn pack(&mut self) {
        let tenants = self.0.values_mut();
        tenants.for_each(|tenant| tenant.allocations.pack());
    }

    /// How many allocations a cluster has.
    pub(super) fn allocation_count(&self, cluster: &str) -> usize {
        let tenant = self.0.get(cluster);
        tenant.map_or(0, |tenant| tenant.allocations.count)
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
                Some(after) => tenant.allocations.replace(after),
                None => tenant.allocations.remove(owner),
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
