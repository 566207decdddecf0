//! Election groups: which allocations must be announced together, and by whom they can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::nodes::Nodes;
use super::policy::{Memory, Offer, Policy};
use super::{Assignment, AssignmentKey, Interfaces};
use crate::state::State;
use crate::state::address::Address;
use crate::state::model::{
    Allocation, AllocationId, BackendsPolicy, EntryNodes, OwnerKey, PoolKey,
};
use crate::state::names::Name;
use crate::state::placement::NodeNo;

/// A connected component of addresses over allocations: sharing joins owners, dual-stack joins
/// addresses.
#[derive(Debug)]
pub(super) struct Component {
    /// Oldest first; never empty.
    allocations: BTreeMap<AllocationId, Arc<Allocation>>,
    pub(super) addresses: BTreeSet<AssignmentKey>,
}

/// What a component amounts to now.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) offer: Arc<Offer>,
    /// Everything but the list, which placement fills in.
    pub(super) assignments: Vec<Assignment>,
}

/// An owner who has somewhere to send traffic, and nodes to send it through. One that holds through
/// two pools takes part for each, as advertisements select by pool.
struct Participant<'a> {
    allocation: &'a Arc<Allocation>,
    pool: &'a PoolKey,
    policy: Arc<Policy>,
    nodes: Arc<[NodeNo]>,
}

impl Component {
    /// The component of an address; `None` if nobody holds it.
    pub(super) fn of(state: &State, start: &AssignmentKey) -> Option<Self> {
        let mut found = Self {
            allocations: BTreeMap::new(),
            addresses: BTreeSet::new(),
        };
        let mut open: Vec<Address> = vec![start.address];
        while let Some(address) = open.pop() {
            for allocation in state.holders(&start.space, address) {
                if found.allocations.contains_key(&allocation.id) {
                    continue;
                }
                open.extend(&allocation.addresses);
                let keys = allocation.addresses.iter().map(|address| AssignmentKey {
                    space: start.space.clone(),
                    address: *address,
                });
                found.addresses.extend(keys);
                found
                    .allocations
                    .insert(allocation.id, Arc::clone(allocation));
            }
        }
        (!found.allocations.is_empty()).then_some(found)
    }

    /// Whether a cluster holds it. Nobody shares with another cluster.
    pub(super) fn is_of(&self, cluster: &Name) -> bool {
        let mut all = self.allocations.values();
        all.all(|allocation| allocation.owner.key.cluster == *cluster)
    }

    /// The id of the oldest allocation: it survives that younger ones join.
    pub(super) fn id(&self) -> AllocationId {
        let (id, _) = self
            .allocations
            .first_key_value()
            .expect("a component is made from a holder");
        *id
    }

    /// The ids of all but the oldest.
    pub(super) fn younger(&self) -> impl Iterator<Item = AllocationId> {
        self.allocations.keys().skip(1).copied()
    }

    /// Who is to announce it how; `None`: nobody.
    ///
    /// An owner takes part if an advertisement selects it, and if there are nodes that are both
    /// selected and able to serve it. One that does not take part neither vetoes the others nor
    /// withdraws their address. Candidates are the nodes that can serve all who take part; where
    /// there are none, those of the oldest.
    pub(super) fn evaluate(
        &self,
        state: &State,
        cluster: &Name,
        nodes: &Nodes,
        memory: &mut Memory,
    ) -> Option<Announced> {
        let participants: Vec<_> = self
            .allocations
            .values()
            .flat_map(|allocation| allocation.pools().map(move |pool| (allocation, pool)))
            .filter_map(|(allocation, pool)| {
                participant(state, cluster, nodes, memory, allocation, pool)
            })
            .collect();
        let oldest = participants.first()?;
        let common = intersection(&participants);
        let offer = if common.is_empty() {
            memory.offer(nodes, &oldest.policy, Arc::clone(&oldest.nodes))
        } else {
            let policy = union(&participants).unwrap_or_default();
            memory.offer(nodes, &policy, common)
        };
        let addresses = self.addresses.iter();
        let assignments = addresses
            .filter_map(|key| {
                let own = participants
                    .iter()
                    .filter(|it| it.allocation.pool_of(key.address) == Some(it.pool));
                let interfaces = memory.interfaces(nodes, &*union(own)?, &offer);
                Some(self.assignment(key, offer.set.id, interfaces))
            })
            .collect();
        Some(Announced { offer, assignments })
    }

    fn assignment(
        &self,
        key: &AssignmentKey,
        candidates: u64,
        interfaces: Arc<Interfaces>,
    ) -> Assignment {
        let holds = |allocation: &Allocation| allocation.addresses.contains(&key.address);
        let owners: BTreeSet<OwnerKey> = self
            .allocations
            .values()
            .filter(|allocation| holds(allocation))
            .map(|allocation| allocation.owner.key.clone())
            .collect();
        Assignment {
            key: key.clone(),
            group: self.id(),
            nodes: Vec::new(),
            candidates,
            interfaces,
            owners: owners.into_iter().collect(),
        }
    }
}

fn participant<'a>(
    state: &State,
    cluster: &Name,
    nodes: &Nodes,
    memory: &mut Memory,
    allocation: &'a Arc<Allocation>,
    pool: &'a PoolKey,
) -> Option<Participant<'a>> {
    let policy = memory.of_allocation(state, cluster, allocation, pool);
    let selected = memory.selected(nodes, &policy);
    let able = match allocation.effective_claim().backends {
        BackendsPolicy::Unmanaged => selected,
        BackendsPolicy::Reported => match &state.backends(&allocation.owner.key)?.entry {
            EntryNodes::Any => selected,
            EntryNodes::Only(names) => restrict(nodes, &selected, names),
        },
    };
    (!able.is_empty()).then_some(Participant {
        allocation,
        pool,
        policy,
        nodes: able,
    })
}

fn restrict(nodes: &Nodes, selected: &[NodeNo], names: &BTreeSet<Name>) -> Arc<[NodeNo]> {
    let mut able: Vec<_> = names
        .iter()
        .filter_map(|name| nodes.find(name))
        .filter(|number| selected.binary_search(number).is_ok())
        .collect();
    able.sort_unstable();
    able.into()
}

fn intersection(participants: &[Participant<'_>]) -> Arc<[NodeNo]> {
    let Some((oldest, others)) = participants.split_first() else {
        return Arc::default();
    };
    if others.iter().all(|other| other.nodes == oldest.nodes) {
        return Arc::clone(&oldest.nodes);
    }
    let in_all = |number: &NodeNo| {
        let mut others = others.iter();
        others.all(|other| other.nodes.binary_search(number).is_ok())
    };
    oldest.nodes.iter().copied().filter(in_all).collect()
}

/// The advertisements of some who take part, each once; `None`: nobody does, and so nobody could
/// serve what they hold.
fn union<'a>(
    participants: impl IntoIterator<Item = &'a Participant<'a>, IntoIter: Clone>,
) -> Option<Arc<Policy>> {
    let participants = participants.into_iter();
    let mut others = participants.clone();
    let oldest = others.next()?;
    if others.all(|other| Arc::ptr_eq(&other.policy, &oldest.policy)) {
        return Some(Arc::clone(&oldest.policy));
    }
    let by_key: BTreeMap<_, _> = participants
        .flat_map(|participant| participant.policy.iter())
        .map(|advertisement| (&advertisement.key, advertisement))
        .collect();
    Some(Arc::new(by_key.into_values().cloned().collect()))
}
