//! Allocations by whose they are: what a quota can concern.

use std::collections::BTreeMap;

use super::{Ids, take_out};
use crate::state::model::{Allocation, OwnerKey, Quota, QuotaSubject};
use crate::state::names::Name;
use crate::state::quota::Bucket;

/// By address space and cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ByOwner(BTreeMap<Name, BTreeMap<Name, OfCluster>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct OfCluster {
    all: Ids,
    by_namespace: BTreeMap<Option<Name>, Ids>,
}

impl ByOwner {
    pub(super) fn insert(&mut self, one: &Allocation) {
        let OwnerKey {
            cluster, namespace, ..
        } = &one.owner.key;
        let clusters = self.0.entry(one.claim.space.clone()).or_default();
        let list = clusters.entry(cluster.clone()).or_default();
        list.all.insert(one.id);
        let of_namespace = list.by_namespace.entry(namespace.clone()).or_default();
        of_namespace.insert(one.id);
    }

    pub(super) fn remove(&mut self, one: &Allocation) {
        let OwnerKey {
            cluster, namespace, ..
        } = &one.owner.key;
        let Some(clusters) = self.0.get_mut(&one.claim.space) else {
            return;
        };
        if let Some(list) = clusters.get_mut(cluster) {
            list.all.remove(&one.id);
            take_out(&mut list.by_namespace, namespace, one.id);
            if list.all.is_empty() {
                clusters.remove(cluster);
            }
        }
        if clusters.is_empty() {
            self.0.remove(&one.claim.space);
        }
    }

    /// Clusters of whose owners there are some in a space.
    pub(super) fn clusters(&self, space: &Name) -> impl Iterator<Item = &Name> {
        self.0.get(space).into_iter().flat_map(BTreeMap::keys)
    }

    /// Those of a cluster.
    pub(super) fn of_cluster(&self, space: &Name, cluster: &Name) -> Option<&Ids> {
        Some(&self.0.get(space)?.get(cluster)?.all)
    }

    /// Those of whom a quota speaks; `bucket`: only those of a bucket.
    pub(super) fn of_quota(&self, quota: &Quota, bucket: Option<&Bucket>) -> Option<&Ids> {
        let list = self.0.get(&quota.space)?.get(&quota.cluster)?;
        match (&quota.subject, bucket) {
            (QuotaSubject::Cluster, _) | (QuotaSubject::EachNamespace, None) => Some(&list.all),
            (QuotaSubject::Namespace(only), _) => list.by_namespace.get(&Some(only.clone())),
            (QuotaSubject::EachNamespace, Some(bucket)) => list.by_namespace.get(bucket),
        }
    }
}
