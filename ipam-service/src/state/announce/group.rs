//! Election groups: which allocations must be announced together, and by whom they can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::nodes::Nodes;
use super::policy::{self, Memory, Offer, Policy};
use super::{Assignment, AssignmentKey, Fenced, Interfaces, Verdict};
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
        self.oldest().id
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
            .parts()
            .filter_map(|(allocation, pool)| {
                participant(state, cluster, nodes, memory, allocation, pool)
            })
            .collect();
        let oldest = participants.first()?;
        let common = intersection(&participants);
        let left_out = match common.is_empty() {
            true => left_out(&oldest.nodes, &participants),
            false => BTreeSet::new(),
        };
        let offer = if common.is_empty() {
            memory.offer(nodes, &oldest.policy, Arc::clone(&oldest.nodes))
        } else {
            let policy = union(&participants).unwrap_or_default();
            memory.offer(nodes, &policy, common)
        };
        let addresses = self.addresses.iter();
        let mut assignments: Vec<Assignment> = addresses
            .filter_map(|key| {
                let own = participants
                    .iter()
                    .filter(|it| it.allocation.pool_of(key.address) == Some(it.pool));
                let interfaces = memory.interfaces(nodes, &*union(own)?, &offer);
                Some(self.assignment(key, offer.set.id, interfaces, &left_out))
            })
            .collect();
        // Whoever of the group has endpoints. Who it is, is found out once the nodes are known.
        let is_fenced = self.parts().any(|(allocation, pool)| {
            policy::is_fenced(&memory.of_allocation(state, cluster, allocation, pool))
        });
        if is_fenced {
            for assignment in &mut assignments {
                assignment.fenced = Some(Fenced::default());
            }
        }
        Some(Announced { offer, assignments })
    }

    fn assignment(
        &self,
        key: &AssignmentKey,
        candidates: u64,
        interfaces: Arc<Interfaces>,
        left_out: &BTreeSet<&OwnerKey>,
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
            left_out: owners
                .iter()
                .filter(|owner| left_out.contains(owner))
                .cloned()
                .collect(),
            owners: owners.into_iter().collect(),
            fenced: None,
        }
    }

    /// What keeps an available node from being a candidate: of those who take part, or of all if
    /// nobody does, the oldest has the first word.
    pub(super) fn obstacle(
        &self,
        state: &State,
        cluster: &Name,
        nodes: &Nodes,
        memory: &mut Memory,
        node: Option<NodeNo>,
    ) -> Verdict {
        let mut silent = None;
        for (allocation, pool) in self.parts() {
            let owner = &allocation.owner.key;
            let policy = memory.of_allocation(state, cluster, allocation, pool);
            let selected = memory.selected(nodes, &policy);
            let selects = node.is_some_and(|node| selected.binary_search(&node).is_ok());
            let takes_part = participant(state, cluster, nodes, memory, allocation, pool);
            let serves = |part: &Participant<'_>| {
                node.is_some_and(|node| part.nodes.binary_search(&node).is_ok())
            };
            if takes_part.as_ref().is_some_and(serves) {
                continue;
            }
            let verdict = if policy.is_empty() {
                Verdict::NotAdvertised(owner.clone())
            } else if selects {
                Verdict::NoEndpoint(owner.clone())
            } else {
                let by = policy.iter().map(|one| one.key.clone()).collect();
                let owner = owner.clone();
                Verdict::NotSelected { owner, by }
            };
            if takes_part.is_some() {
                return verdict;
            }
            silent.get_or_insert(verdict);
        }
        // A component is never without a holder, nor a holder without a pool.
        let oldest = || Verdict::NotAdvertised(self.oldest().owner.key.clone());
        silent.unwrap_or_else(oldest)
    }

    /// Who may take part: each owner for each of its pools, the oldest first.
    fn parts(&self) -> impl Iterator<Item = (&Arc<Allocation>, &PoolKey)> {
        let all = self.allocations.values();
        all.flat_map(|allocation| allocation.pools().map(move |pool| (allocation, pool)))
    }

    fn oldest(&self) -> &Arc<Allocation> {
        let (_, oldest) = self
            .allocations
            .first_key_value()
            .expect("a component is made from a holder");
        oldest
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

/// Who cannot be served by every one of these nodes.
fn left_out<'a>(nodes: &[NodeNo], participants: &[Participant<'a>]) -> BTreeSet<&'a OwnerKey> {
    let lacks = |one: &&Participant<'a>| {
        let mut nodes = nodes.iter();
        !nodes.all(|node| one.nodes.binary_search(node).is_ok())
    };
    let lacking = participants.iter().filter(lacks);
    lacking.map(|one| &one.allocation.owner.key).collect()
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
