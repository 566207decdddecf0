//! Clusters: first contact, fences, inventories, deletion.

use std::sync::Arc;

use super::State;
use super::bgp;
use super::draft::Draft;
use super::model::{Allocation, Cluster, Inventory};
use super::names::Name;
use super::refusal::Rejection;
use super::unavailable;

/// A command of this cluster arrived: registers a cluster that is not known yet, and holds the
/// command against the fences seen before. A `fence` of 0 was not given.
///
/// # Errors
/// [`Rejection::StaleFence`]
pub(super) fn contact(draft: &mut Draft<'_>, name: &Name, fence: u64) -> Result<(), Rejection> {
    let cluster = seen(draft, name, fence)?;
    put_if_changed(draft, cluster);
    Ok(())
}

/// A program of this cluster says which installation it belongs to. An empty uid equals any.
///
/// # Errors
/// [`Rejection::ClusterUidMismatch`]
pub(super) fn introduce(draft: &mut Draft<'_>, name: &Name, uid: &str) -> Result<(), Rejection> {
    let mut cluster = seen(draft, name, 0)?;
    identify(&mut cluster, uid)?;
    put_if_changed(draft, cluster);
    Ok(())
}

/// An adapter is about to report all that its cluster holds.
///
/// # Errors
/// [`Rejection::ClusterUidMismatch`], [`Rejection::StaleFence`]
pub(super) fn begin_sync(
    draft: &mut Draft<'_>,
    name: &Name,
    uid: &str,
    fence: u64,
) -> Result<(), Rejection> {
    let mut cluster = seen(draft, name, fence)?;
    identify(&mut cluster, uid)?;
    cluster.inventory = match cluster.inventory {
        Inventory::Complete => Inventory::Reporting { resync: true },
        Inventory::Expected => Inventory::Reporting { resync: false },
        Inventory::New => Inventory::FirstReport { missing: false },
        Inventory::Missing => Inventory::FirstReport { missing: true },
        reporting @ (Inventory::FirstReport { .. } | Inventory::Reporting { .. }) => reporting,
    };
    put_if_changed(draft, cluster);
    Ok(())
}

/// The adapter has reported everything.
///
/// # Errors
/// [`Rejection::NotSyncing`], [`Rejection::StaleFence`]
pub(super) fn end_sync(draft: &mut Draft<'_>, name: &Name, fence: u64) -> Result<(), Rejection> {
    let mut cluster = seen(draft, name, fence)?;
    match cluster.inventory {
        Inventory::FirstReport { .. } | Inventory::Reporting { .. } => {
            cluster.inventory = Inventory::Complete;
        }
        Inventory::New | Inventory::Complete | Inventory::Expected | Inventory::Missing => {
            return Err(Rejection::NotSyncing(name.clone()));
        }
    }
    put_if_changed(draft, cluster);
    Ok(())
}

/// Waits no longer for what a cluster, or any, has yet to report.
///
/// # Errors
/// [`Rejection::UnknownCluster`]
pub(super) fn finish_recovery(draft: &mut Draft<'_>, name: Option<&Name>) -> Result<(), Rejection> {
    let state = draft.state;
    let clusters: Vec<&Arc<Cluster>> = match name {
        Some(name) => vec![known(draft, name)?],
        None => state.clusters().collect(),
    };
    for cluster in clusters {
        let inventory = match cluster.inventory {
            Inventory::Expected | Inventory::Missing => Inventory::Complete,
            // Its adapter is about to say that it is done, and shall not be told that it never began.
            Inventory::FirstReport { .. } | Inventory::Reporting { resync: false } => {
                Inventory::Reporting { resync: true }
            }
            as_it_is @ (Inventory::New
            | Inventory::Complete
            | Inventory::Reporting { resync: true }) => as_it_is,
        };
        let finished = Cluster {
            inventory,
            ..Cluster::clone(cluster)
        };
        put_if_changed(draft, finished);
    }
    Ok(())
}

/// A node of this cluster has assignments of another store. If this one knows of nothing that the
/// cluster holds, it was made in place of one that was lost.
///
/// Everybody waits then, as in a recovery that was asked for: what the cluster uses must not be given
/// away. Where others already use this store they do not wait, or a node that was forgotten in a
/// drawer would stop them.
pub(super) fn report_loss(draft: &mut Draft<'_>, name: &Name) {
    if !draft.state.may_have_lost(name) {
        return;
    }
    let Ok(mut cluster) = seen(draft, name, 0) else {
        return;
    };
    let state = draft.state;
    let mut others = state.clusters().filter(|other| other.name != *name);
    let in_use =
        others.any(|other| other.inventory.was_complete()) || state.allocations().any(holds);
    cluster.inventory = match (cluster.inventory, in_use) {
        (Inventory::FirstReport { .. }, _) => Inventory::FirstReport { missing: true },
        (_, true) => Inventory::Missing,
        (_, false) => Inventory::Expected,
    };
    put_if_changed(draft, cluster);
}

impl State {
    /// Whether a cluster may have held something in a store before this one: nobody has reported all
    /// that it holds, and it holds nothing, or what it holds is being reported just now.
    pub fn may_have_lost(&self, cluster: &Name) -> bool {
        match self.cluster(cluster).map(|known| known.inventory) {
            None | Some(Inventory::New) => !self.allocations_of(cluster).any(holds),
            Some(Inventory::FirstReport { missing }) => !missing,
            Some(
                Inventory::Complete
                | Inventory::Expected
                | Inventory::Missing
                | Inventory::Reporting { .. },
            ) => false,
        }
    }
}

/// Another installation takes a cluster over. Its fences are counted by a Lease of its own.
///
/// # Errors
/// [`Rejection::UnknownCluster`]
pub(super) fn adopt(draft: &mut Draft<'_>, name: &Name, uid: &str) -> Result<(), Rejection> {
    let cluster = known(draft, name)?;
    if cluster.uid != uid {
        let adopted = Cluster {
            uid: uid.to_owned(),
            fence: 0,
            ..Cluster::clone(cluster)
        };
        draft.put_cluster(Some(cluster), adopted);
    }
    Ok(())
}

fn known<'a>(draft: &Draft<'a>, name: &Name) -> Result<&'a Arc<Cluster>, Rejection> {
    let unknown = || Rejection::UnknownCluster(name.clone());
    draft.state.cluster(name).ok_or_else(unknown)
}

/// Frees all that a cluster holds and forgets all that it declared.
///
/// # Errors
/// [`Rejection::UnknownCluster`]
pub(super) fn delete(draft: &mut Draft<'_>, name: &Name) -> Result<(), Rejection> {
    let state = draft.state;
    let cluster = known(draft, name)?;
    for allocation in state.allocations_of(name) {
        draft.drop_allocation(allocation);
    }
    for pool in state.pools.of_cluster(name) {
        draft.drop_pool(pool);
    }
    let advertisements = state.advertisements();
    for advertisement in advertisements.filter(|one| one.key.cluster.as_ref() == Some(name)) {
        draft.drop_advertisement(advertisement);
    }
    bgp::delete_of_cluster(draft, name);
    for node in state.nodes_of(name) {
        draft.node(Some(node), None);
    }
    for backends in state.backends_of(name) {
        draft.backends(Some(backends), None);
    }
    unavailable::disown(draft, name);
    draft.drop_cluster(cluster);
    Ok(())
}

fn holds(allocation: &Arc<Allocation>) -> bool {
    !allocation.addresses.is_empty()
}

/// The cluster as it is after this contact.
fn seen(draft: &Draft<'_>, name: &Name, fence: u64) -> Result<Cluster, Rejection> {
    let Some(known) = draft.state.cluster(name) else {
        return Ok(Cluster {
            name: name.clone(),
            uid: String::new(),
            // Whoever is expected after a loss of the store is in it already, unless it was lost
            // unnoticed: see [`report_loss`].
            inventory: Inventory::New,
            fence,
            create_time: draft.now,
            revision: 0,
        });
    };
    let mut cluster = Cluster::clone(known);
    if fence != 0 && fence < cluster.fence {
        return Err(Rejection::StaleFence {
            cluster: name.clone(),
            current: cluster.fence,
            given: fence,
        });
    }
    cluster.fence = cluster.fence.max(fence);
    Ok(cluster)
}

/// Two installations with copied values must not become one owner.
fn identify(cluster: &mut Cluster, uid: &str) -> Result<(), Rejection> {
    if cluster.uid.is_empty() {
        uid.clone_into(&mut cluster.uid);
    } else if !uid.is_empty() && cluster.uid != uid {
        return Err(Rejection::ClusterUidMismatch {
            cluster: cluster.name.clone(),
            registered: cluster.uid.clone(),
            given: uid.to_owned(),
        });
    }
    Ok(())
}

fn put_if_changed(draft: &mut Draft<'_>, cluster: Cluster) {
    let known = draft.state.cluster(&cluster.name);
    if known.map(Arc::as_ref) != Some(&cluster) {
        draft.put_cluster(known, cluster);
    }
}

#[cfg(test)]
mod tests;
