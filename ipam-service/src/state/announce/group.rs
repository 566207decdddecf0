//! Election groups: which allocations must be announced together, and by whom they can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pharos_proto::feature::FENCED;

use super::held::Contradiction;
use super::nodes::Nodes;
use super::policy::{self, Memory, OfPool, Offer, Policy};
use super::routes;
use super::{Assignment, AssignmentKey, Fenced, Interfaces, Silence, Verdict};
use crate::state::State;
use crate::state::address::Address;
use crate::state::model::{
    Allocation, AllocationId, Backends, BackendsPolicy, EntryNodes, OwnerKey, PoolKey,
};
use crate::state::names::Name;
use crate::state::placement::NodeNo;

/// Stands for the set of candidates where there are none.
const NO_SET: u64 = 0;

/// A connected component of addresses over allocations: sharing joins owners, dual-stack joins
/// addresses.
#[derive(Debug)]
pub(super) struct Component {
    /// Oldest first; never empty.
    pub(super) allocations: BTreeMap<AllocationId, Arc<Allocation>>,
    pub(super) addresses: BTreeSet<AssignmentKey>,
}

/// What a component amounts to now.
#[derive(Debug)]
pub(super) struct Announced {
    /// Of layer 2; `None`: nobody is to announce any of it so.
    pub(super) offer: Option<Arc<Offer>>,
    /// Everything but the list, which placement fills in.
    pub(super) assignments: Vec<Assignment>,
}

/// What the state says of an owner who may take part: whoever has it needs the state no more. One
/// that holds through two pools may take part for each, as advertisements select by pool.
#[derive(Debug)]
pub(super) struct Part {
    allocation: Arc<Allocation>,
    pool: PoolKey,
    /// Of layer 2.
    policy: Arc<Policy>,
    /// Of BGP, if there is any.
    bgp: Option<Arc<Policy>>,
    /// Where its traffic may enter; `None`: nobody has said.
    backends: Option<Arc<Backends>>,
}

/// The nodes of an owner who may take part. Of layer 2, but for `bgp`.
pub(super) struct Standing<'a> {
    part: &'a Part,
    /// Those that its advertisements select.
    selected: Arc<[NodeNo]>,
    /// Those of them that can serve it; none: it does not take part.
    nodes: Arc<[NodeNo]>,
    /// Those that could serve it, whatever their announcers know of.
    able: Arc<[NodeNo]>,
    /// What an announcer has to know of.
    feature: Option<&'static str>,
    /// If the part has advertisements by BGP.
    bgp: Option<BgpStanding>,
}

/// The nodes of an owner by BGP: each that can serve it announces it.
struct BgpStanding {
    selected: Arc<[NodeNo]>,
    able: Arc<[NodeNo]>,
}

impl Component {
    /// The component of an address; `None` if nobody holds it.
    pub(super) fn of(state: &State, start: &AssignmentKey) -> Option<Self> {
        let mut found = Self {
            allocations: BTreeMap::new(),
            addresses: BTreeSet::new(),
        };
        // Each address is looked at once, however many share it.
        let mut seen = BTreeSet::from([start.address]);
        let mut open: Vec<Address> = vec![start.address];
        while let Some(address) = open.pop() {
            for allocation in state.holders(&start.space, address) {
                if found.allocations.contains_key(&allocation.id) {
                    continue;
                }
                let held = allocation.addresses.iter().copied();
                open.extend(held.filter(|address| seen.insert(*address)));
                let shared = Arc::clone(allocation);
                found.allocations.insert(allocation.id, shared);
            }
        }
        let keys = seen.into_iter().map(|address| AssignmentKey {
            space: start.space.clone(),
            address,
        });
        found.addresses = keys.collect();
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

    /// Who may take part, the oldest first: to be handed to [`standings`].
    pub(super) fn parts(&self, state: &State, cluster: &Name, memory: &mut Memory) -> Vec<Part> {
        let all = self.allocations.values();
        let by_pool =
            all.flat_map(|allocation| allocation.pools().map(move |pool| (allocation, pool)));
        by_pool
            .map(|(allocation, pool)| {
                let OfPool { l2, bgp } = memory.of_allocation(state, cluster, allocation, pool);
                Part {
                    policy: l2,
                    bgp,
                    backends: state.backends(&allocation.owner.key).cloned(),
                    allocation: Arc::clone(allocation),
                    pool: pool.clone(),
                }
            })
            .collect()
    }

    /// Who is to announce it how; `None`: nobody.
    pub(super) fn evaluate(
        &self,
        standings: &[Standing<'_>],
        nodes: &Nodes,
        memory: &mut Memory,
    ) -> Option<Announced> {
        let by_layer_2 = self.by_layer_2(standings, nodes, memory);
        if standings.iter().all(|one| one.bgp.is_none()) {
            return by_layer_2;
        }
        let mut announced = by_layer_2.unwrap_or_else(|| Announced {
            offer: None,
            assignments: Vec::new(),
        });
        for key in &self.addresses {
            let Some(routes) = routes::of(standings, key, nodes, memory) else {
                continue;
            };
            let mut known = announced.assignments.iter_mut();
            if let Some(known) = known.find(|known| known.key == *key) {
                known.bgp = Some(routes);
            } else if !routes.by_nodes.is_empty() {
                announced.assignments.push(Assignment {
                    bgp: Some(routes),
                    ..self.assignment(key, NO_SET, None, &BTreeSet::new())
                });
            }
        }
        (!announced.assignments.is_empty()).then_some(announced)
    }

    /// The same by layer 2 alone.
    ///
    /// An owner takes part if an advertisement selects it, and if there are nodes that are both
    /// selected and able to serve it. One that does not take part neither vetoes the others nor
    /// withdraws their address. Candidates are the nodes that can serve all who take part; where
    /// there are none, those of the oldest.
    fn by_layer_2(
        &self,
        standings: &[Standing<'_>],
        nodes: &Nodes,
        memory: &mut Memory,
    ) -> Option<Announced> {
        let all = standings.iter();
        let participants: Vec<_> = all.filter(|one| one.takes_part()).collect();
        let oldest = participants.first()?;
        let common = intersection(&participants);
        let left_out = match common.is_empty() {
            true => left_out(&oldest.nodes, &participants),
            false => BTreeSet::new(),
        };
        let offer = if common.is_empty() {
            memory.offer(nodes, &oldest.part.policy, Arc::clone(&oldest.nodes))
        } else {
            let policy = union(participants.iter().copied()).unwrap_or_default();
            memory.offer(nodes, &policy, common)
        };
        let addresses = self.addresses.iter();
        let mut assignments: Vec<Assignment> = addresses
            .filter_map(|key| {
                let own = participants.iter().copied().filter(|it| it.part.is_of(key));
                let interfaces = memory.interfaces(nodes, &*union(own)?, &offer);
                Some(self.assignment(key, offer.set.id, Some(interfaces), &left_out))
            })
            .collect();
        // Who it is, is found out once the nodes are known.
        if oldest.feature == Some(FENCED) {
            for assignment in &mut assignments {
                assignment.fenced = Some(Fenced::default());
            }
        }
        Some(Announced {
            offer: Some(offer),
            assignments,
        })
    }

    fn assignment(
        &self,
        key: &AssignmentKey,
        candidates: u64,
        interfaces: Option<Arc<Interfaces>>,
        left_out: &BTreeSet<&OwnerKey>,
    ) -> Assignment {
        let owners = self.owners_of(key);
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
            owners,
            probe: false,
            fenced: None,
            bgp: None,
        }
    }

    /// Who holds an address of it, sorted.
    pub(super) fn owners_of(&self, key: &AssignmentKey) -> Vec<OwnerKey> {
        let holders = self.allocations.values();
        let holders = holders.filter(|one| one.addresses.contains(&key.address));
        let owners: BTreeSet<_> = holders.map(|one| one.owner.key.clone()).collect();
        owners.into_iter().collect()
    }

    pub(super) fn oldest(&self) -> &Arc<Allocation> {
        let (_, oldest) = self
            .allocations
            .first_key_value()
            .expect("a component is made from a holder");
        oldest
    }
}

/// The nodes of each of these.
pub(super) fn standings<'a>(
    parts: &'a [Part],
    nodes: &Nodes,
    memory: &mut Memory,
) -> Vec<Standing<'a>> {
    // Whoever of the group has endpoints.
    let is_fenced = parts.iter().any(|one| policy::is_fenced(&one.policy));
    let feature = is_fenced.then_some(FENCED);
    let parts = parts.iter();
    parts
        .map(|part| {
            let selected = memory.selected(nodes, &part.policy);
            let able = part.able(nodes, &selected);
            let bgp = part.bgp.as_ref().map(|policy| {
                let selected = memory.selected(nodes, policy);
                let able = part.able(nodes, &selected);
                BgpStanding { selected, able }
            });
            Standing {
                part,
                selected,
                nodes: knowing(nodes, &able, feature),
                able,
                feature,
                bgp,
            }
        })
        .collect()
}

/// What keeps an available node from being a candidate: of those who take part, or of all if nobody
/// does, the oldest has the first word. `None`: nothing, or nobody may take part.
pub(super) fn obstacle(standings: &[Standing<'_>], node: Option<NodeNo>) -> Option<Verdict> {
    let hindered = |one: &&Standing<'_>| !contains(&one.nodes, node);
    let mut all = standings.iter();
    let mut those_in = standings.iter().filter(|one| one.takes_part());
    let first = those_in.find(hindered).or_else(|| all.find(hindered))?;
    Some(first.verdict(node))
}

/// Why nobody is to announce an address: of those who hold it the one who is nearest to be announced has the word,
/// of equals the oldest. `None`: one of them takes part.
pub(super) fn silence(
    standings: &[Standing<'_>],
    key: &AssignmentKey,
    nodes: &Nodes,
    memory: &mut Memory,
) -> Option<Silence> {
    let own = standings.iter().filter(|one| one.part.is_of(key));
    if own.clone().any(Standing::takes_part) {
        return None;
    }
    if let Some(routes) = routes::of(standings, key, nodes, memory) {
        if !routes.by_nodes.is_empty() {
            return None;
        }
        if let Some(withheld) = routes.withheld.first() {
            return Some(Silence::Conflicting(Contradiction::of(withheld)));
        }
    }
    let silences = own.flat_map(|one| one.silences(nodes));
    silences.min_by_key(Silence::distance)
}

impl Part {
    /// Whether it holds the address, and through its pool.
    fn is_of(&self, key: &AssignmentKey) -> bool {
        self.allocation.pool_of(key.address) == Some(&self.pool)
    }

    /// Those of the selected nodes that can serve it.
    fn able(&self, nodes: &Nodes, selected: &Arc<[NodeNo]>) -> Arc<[NodeNo]> {
        match self.allocation.effective_claim().backends {
            BackendsPolicy::Unmanaged => Arc::clone(selected),
            BackendsPolicy::Reported => match self.backends.as_ref().map(|one| &one.entry) {
                None => Arc::default(),
                Some(EntryNodes::Any) => Arc::clone(selected),
                Some(EntryNodes::Only(names)) => restrict(nodes, selected, names),
            },
        }
    }
}

impl Standing<'_> {
    fn takes_part(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Its advertisements by BGP and the nodes that announce an address so; `None`: none does.
    pub(super) fn routed(&self, key: &AssignmentKey) -> Option<(&Arc<Policy>, &Arc<[NodeNo]>)> {
        let able = &self.bgp.as_ref()?.able;
        let policy = self.part.bgp.as_ref()?;
        (!able.is_empty() && self.part.is_of(key)).then_some((policy, able))
    }

    /// Why no node announces it, by each protocol.
    fn silences(&self, nodes: &Nodes) -> impl Iterator<Item = Silence> {
        let by_bgp = self.part.bgp.as_ref().zip(self.bgp.as_ref());
        let by_bgp = by_bgp.map(|(policy, it)| self.silence(nodes, policy, &it.selected));
        let by_layer_2 = match self.feature.filter(|_| !self.able.is_empty()) {
            Some(feature) => Silence::FeatureMissing(feature),
            None => self.silence(nodes, &self.part.policy, &self.selected),
        };
        [Some(by_layer_2), by_bgp].into_iter().flatten()
    }

    fn silence(&self, nodes: &Nodes, policy: &Policy, selected: &[NodeNo]) -> Silence {
        let owner = self.part.allocation.owner.key.clone();
        if policy.is_empty() {
            Silence::NotAdvertised(owner)
        } else if !selected.is_empty() {
            Silence::NoReadyEndpoint(owner)
        } else if nodes.available().next().is_none() {
            Silence::NoAnnouncer
        } else {
            Silence::NoNodeSelected {
                owner,
                by: policy.iter().map(|one| one.key.clone()).collect(),
            }
        }
    }

    /// Why a node cannot serve it.
    fn verdict(&self, node: Option<NodeNo>) -> Verdict {
        let owner = self.part.allocation.owner.key.clone();
        let (mut policy, mut selected) = (&self.part.policy, &self.selected);
        if let (Some(by_bgp), Some(it)) = (&self.part.bgp, &self.bgp)
            && policy.is_empty()
        {
            (policy, selected) = (by_bgp, &it.selected);
        }
        if policy.is_empty() {
            Verdict::NotAdvertised(owner)
        } else if let Some(feature) = self.feature.filter(|_| contains(&self.able, node)) {
            Verdict::FeatureMissing(feature)
        } else if contains(selected, node) {
            Verdict::NoEndpoint(owner)
        } else {
            let by = policy.iter().map(|one| one.key.clone()).collect();
            Verdict::NotSelected { owner, by }
        }
    }
}

/// Those whose announcer knows of a feature; the same value if all do.
fn knowing(nodes: &Nodes, able: &Arc<[NodeNo]>, feature: Option<&str>) -> Arc<[NodeNo]> {
    let knows = |number: &NodeNo| feature.is_none_or(|it| nodes.knows(*number, it));
    match able.iter().all(knows) {
        true => Arc::clone(able),
        false => able.iter().copied().filter(knows).collect(),
    }
}

/// Whether a node is one of these, which are sorted.
fn contains(nodes: &[NodeNo], node: Option<NodeNo>) -> bool {
    node.is_some_and(|node| nodes.binary_search(&node).is_ok())
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

fn intersection(participants: &[&Standing<'_>]) -> Arc<[NodeNo]> {
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
fn left_out<'a>(nodes: &[NodeNo], participants: &[&Standing<'a>]) -> BTreeSet<&'a OwnerKey> {
    let lacks = |one: &&&Standing<'a>| {
        let mut nodes = nodes.iter();
        !nodes.all(|node| one.nodes.binary_search(node).is_ok())
    };
    let lacking = participants.iter().filter(lacks);
    lacking.map(|one| &one.part.allocation.owner.key).collect()
}

/// The advertisements of some who take part, each once; `None`: nobody does, and so nobody could
/// serve what they hold.
fn union<'a>(
    participants: impl IntoIterator<Item = &'a Standing<'a>, IntoIter: Clone>,
) -> Option<Arc<Policy>> {
    let participants = participants.into_iter();
    let mut others = participants.clone();
    let oldest = others.next()?;
    if others.all(|other| Arc::ptr_eq(&other.part.policy, &oldest.part.policy)) {
        return Some(Arc::clone(&oldest.part.policy));
    }
    let policies = participants.map(|participant| &participant.part.policy);
    Some(Arc::new(policy::union(policies)))
}
