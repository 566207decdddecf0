//! Which advertisements concern an allocation, and whom they select.
//!
//! Everything here is remembered until an advertisement, a pool or a node changes, because most
//! allocations of a cluster have the same answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::nodes::Nodes;
use super::{Interfaces, NodeSet, interfaces};
use crate::state::State;
use crate::state::model::{
    Advertisement, AdvertisementKey, AdvertisementProtocol, Allocation, Labels, Ownership, Pool,
    PoolKey, PreferredNodes,
};
use crate::state::names::Name;
use crate::state::placement::{Candidates, NodeNo};
use crate::state::selector::{any_matches, none_or_any};

/// Advertisements that concern something together, by key.
pub(super) type Policy = Vec<Arc<Advertisement>>;

/// Nodes that are offered a group.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) candidates: Candidates,
    pub(super) set: Arc<NodeSet>,
}

/// The candidates, and the advertisements that weigh them.
type OfferKey = (Arc<[NodeNo]>, Vec<AdvertisementKey>);

/// The advertisements, and the candidates where those make a difference.
type InterfacesKey = (Vec<AdvertisementKey>, Option<u64>);

/// Nodes that the same advertisements select.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) advertisements: Policy,
    pub(super) nodes: Arc<NodeSet>,
}

/// The advertisements that select a pool, by protocol.
#[derive(Debug, Clone)]
pub(super) struct OfPool {
    pub(super) l2: Arc<Policy>,
    /// `None`: there is none.
    pub(super) bgp: Option<Arc<Policy>>,
}

impl OfPool {
    pub(super) fn is_empty(&self) -> bool {
        self.l2.is_empty() && self.bgp.is_none()
    }
}

/// What was found out since the last change of an advertisement, a pool or a node of the cluster.
#[derive(Debug, Default)]
pub(super) struct Memory {
    by_pool: HashMap<PoolKey, OfPool>,
    selected: HashMap<Vec<AdvertisementKey>, Arc<[NodeNo]>>,
    /// Of all whom the advertisements select: what most groups are offered, found without looking
    /// at every node.
    whole: HashMap<Vec<AdvertisementKey>, Arc<Offer>>,
    /// Of fewer.
    offers: HashMap<OfferKey, Arc<Offer>>,
    interfaces: HashMap<InterfacesKey, Arc<Interfaces>>,
    /// Of all whom advertisements by BGP select, as `whole`.
    whole_classes: HashMap<Vec<AdvertisementKey>, Arc<[Class]>>,
    /// Of fewer.
    classes: HashMap<OfferKey, Arc<[Class]>>,
}

/// Most remembered offers. Groups whose owners have few endpoints each have an offer of their own,
/// which changes as those do; forgetting costs one computation, remembering 100 bytes and more.
const MAX_OFFERS: usize = 16_384;

impl Memory {
    /// The advertisements that select a pool for a cluster.
    pub(super) fn of_pool(&mut self, state: &State, cluster: &Name, key: &PoolKey) -> OfPool {
        if let Some(policy) = self.by_pool.get(key) {
            return policy.clone();
        }
        let selecting = state.pool(key).into_iter().flat_map(|pool| {
            let all = state.advertisements();
            all.filter(|one| selects_pool(state, one, cluster, pool))
        });
        let (bgp, l2): (Policy, Policy) = selecting.cloned().partition(|one| one.protocol.is_bgp());
        let policy = OfPool {
            l2: Arc::new(l2),
            bgp: (!bgp.is_empty()).then(|| Arc::new(bgp)),
        };
        self.by_pool.insert(key.clone(), policy.clone());
        policy
    }

    /// Those of them that select the allocation, for what it holds from that pool.
    pub(super) fn of_allocation(
        &mut self,
        state: &State,
        cluster: &Name,
        allocation: &Allocation,
        pool: &PoolKey,
    ) -> OfPool {
        let OfPool { l2, bgp } = self.of_pool(state, cluster, pool);
        let labels = &allocation.effective_claim().labels;
        OfPool {
            l2: that_select(l2, labels),
            bgp: bgp
                .map(|bgp| that_select(bgp, labels))
                .filter(|bgp| !bgp.is_empty()),
        }
    }

    /// The available nodes that one of the advertisements selects, by number.
    pub(super) fn selected(&mut self, nodes: &Nodes, policy: &Policy) -> Arc<[NodeNo]> {
        let keys = keys(policy);
        if let Some(selected) = self.selected.get(&keys) {
            return Arc::clone(selected);
        }
        let selected: Arc<[NodeNo]> = nodes
            .available()
            .filter(|(_, labels)| {
                let mut policy = policy.iter();
                policy.any(|advertisement| selects_node(advertisement, labels))
            })
            .map(|(number, _)| number)
            .collect();
        self.selected.insert(keys, Arc::clone(&selected));
        selected
    }

    /// Candidates with their weights, as a value that groups with the same answer share.
    pub(super) fn offer(
        &mut self,
        nodes: &Nodes,
        policy: &Policy,
        candidates: Arc<[NodeNo]>,
    ) -> Arc<Offer> {
        let keys = keys(policy);
        let selected = self.selected.get(&keys);
        if selected.is_some_and(|selected| Arc::ptr_eq(selected, &candidates)) {
            let make = || make_offer(nodes, policy, &candidates);
            return Arc::clone(self.whole.entry(keys).or_insert_with(make));
        }
        let key = (candidates, keys);
        if let Some(offer) = self.offers.get(&key) {
            return Arc::clone(offer);
        }
        let offer = make_offer(nodes, policy, &key.0);
        if self.offers.len() >= MAX_OFFERS {
            self.offers.clear();
        }
        self.offers.insert(key, Arc::clone(&offer));
        offer
    }

    /// Where an address is announced for which these advertisements stand, on the nodes that it is
    /// offered.
    pub(super) fn interfaces(
        &mut self,
        nodes: &Nodes,
        policy: &Policy,
        offer: &Offer,
    ) -> Arc<Interfaces> {
        let of_whom = (!interfaces::are_alike(policy)).then_some(offer.set.id);
        let key = (keys(policy), of_whom);
        if let Some(interfaces) = self.interfaces.get(&key) {
            return Arc::clone(interfaces);
        }
        let candidates = offer.candidates.nodes();
        let made = Arc::new(interfaces::of(nodes, policy, candidates));
        if self.interfaces.len() >= MAX_OFFERS {
            self.interfaces.clear();
        }
        self.interfaces.insert(key, Arc::clone(&made));
        made
    }

    /// Some of the nodes that advertisements by BGP select, by which of them does.
    pub(super) fn classes(
        &mut self,
        nodes: &Nodes,
        policy: &Policy,
        able: &Arc<[NodeNo]>,
    ) -> Arc<[Class]> {
        let keys = keys(policy);
        let of = |able: &[NodeNo]| classes(nodes, policy, able.iter().copied(), |_, _| true);
        let selected = self.selected.get(&keys);
        if selected.is_some_and(|selected| Arc::ptr_eq(selected, able)) {
            let whole = self.whole_classes.entry(keys);
            return Arc::clone(whole.or_insert_with(|| of(able)));
        }
        let key = (Arc::clone(able), keys);
        if let Some(classes) = self.classes.get(&key) {
            return Arc::clone(classes);
        }
        let made = of(able);
        if self.classes.len() >= MAX_OFFERS {
            self.classes.clear();
        }
        self.classes.insert(key, Arc::clone(&made));
        made
    }
}

/// Those of the advertisements that select labels of an allocation; the same value if all do.
fn that_select(policy: Arc<Policy>, labels: &Labels) -> Arc<Policy> {
    let applies = |one: &Arc<Advertisement>| none_or_any(&one.service_selectors, labels);
    if policy.iter().all(applies) {
        return policy;
    }
    Arc::new(policy.iter().filter(|one| applies(one)).cloned().collect())
}

/// These nodes, by which of the advertisements select each and are wanted there; those of none are left out.
pub(super) fn classes(
    nodes: &Nodes,
    policy: &Policy,
    numbers: impl IntoIterator<Item = NodeNo>,
    is_wanted: impl Fn(NodeNo, &Advertisement) -> bool,
) -> Arc<[Class]> {
    let mut alike: BTreeMap<Vec<usize>, Vec<NodeNo>> = BTreeMap::new();
    for number in numbers {
        let Some(labels) = nodes.labels(number) else {
            continue;
        };
        let selecting = policy.iter().enumerate();
        let selecting = selecting
            .filter(|(_, one)| selects_node(one, labels) && is_wanted(number, one))
            .map(|(index, _)| index);
        let selecting: Vec<usize> = selecting.collect();
        if !selecting.is_empty() {
            alike.entry(selecting).or_default().push(number);
        }
    }
    let classes = alike.into_iter().map(|(indices, numbers)| {
        let names = numbers.into_iter().map(|number| nodes.name(number).clone());
        let advertisements = indices.into_iter().map(|index| Arc::clone(&policy[index]));
        Class {
            advertisements: advertisements.collect(),
            nodes: Arc::new(NodeSet::new(names)),
        }
    });
    classes.collect()
}

/// All of these, each once, by key.
pub(super) fn union<'a>(policies: impl IntoIterator<Item = &'a Arc<Policy>>) -> Policy {
    let all = policies.into_iter().flat_map(|policy| policy.iter());
    let by_key: BTreeMap<_, _> = all.map(|one| (&one.key, one)).collect();
    by_key.into_values().cloned().collect()
}

fn make_offer(nodes: &Nodes, policy: &Policy, candidates: &[NodeNo]) -> Arc<Offer> {
    let weighted = candidates
        .iter()
        .map(|number| (*number, weight(nodes.labels(*number), policy)));
    let names = candidates.iter().map(|number| nodes.name(*number).clone());
    Arc::new(Offer {
        candidates: Candidates::new(weighted),
        set: Arc::new(NodeSet::new(names)),
    })
}

/// Whether one of the advertisements wants never two owners.
pub(super) fn is_fenced(policy: &Policy) -> bool {
    policy
        .iter()
        .any(|advertisement| match &advertisement.protocol {
            AdvertisementProtocol::L2 { ownership, .. } => *ownership == Ownership::Fenced,
            AdvertisementProtocol::Bgp(_) => false,
        })
}

/// The sum of the preferences that match a node, of the advertisements that select it; one that has
/// selected a group by two ways counts once.
fn weight(labels: Option<&Labels>, policy: &Policy) -> u32 {
    let Some(labels) = labels else { return 0 };
    let selecting = policy.iter().filter(|one| selects_node(one, labels));
    selecting
        .flat_map(|advertisement| l2(advertisement).1)
        .filter(|preference| preference.selector.matches(labels))
        .fold(0, |sum: u32, preference| {
            sum.saturating_add(preference.weight)
        })
}

/// Whether an advertisement selects a node of these labels.
pub(super) fn selects_node(advertisement: &Advertisement, labels: &Labels) -> bool {
    none_or_any(&advertisement.node_selectors, labels)
}

/// The interfaces that an advertisement by layer 2 names, and the nodes that it prefers.
pub(super) fn l2(advertisement: &Advertisement) -> (&BTreeSet<String>, &[PreferredNodes]) {
    static NO_INTERFACES: BTreeSet<String> = BTreeSet::new();
    match &advertisement.protocol {
        AdvertisementProtocol::L2 {
            interfaces,
            preferred_nodes,
            ..
        } => (interfaces, preferred_nodes),
        AdvertisementProtocol::Bgp(_) => (&NO_INTERFACES, &[]),
    }
}

fn keys(policy: &Policy) -> Vec<AdvertisementKey> {
    let policy = policy.iter();
    policy
        .map(|advertisement| advertisement.key.clone())
        .collect()
}

/// A cluster's advertisement that names a pool means what the name means in that cluster: its own
/// pool, else the operator's. An operator's advertisement means every pool of that name.
fn selects_pool(state: &State, advertisement: &Advertisement, cluster: &Name, pool: &Pool) -> bool {
    let key = &pool.key;
    if advertisement.space != key.space {
        return false;
    }
    let named = advertisement.pools.contains(&key.name);
    let named = named
        && match &advertisement.key.cluster {
            None => true,
            Some(_) => state
                .visible_pool(&key.space, cluster, &key.name)
                .is_some_and(|visible| visible.key == *key),
        };
    let every = advertisement.pools.is_empty() && advertisement.pool_selectors.is_empty();
    let concerned = match &advertisement.key.cluster {
        None => true,
        Some(own) => own == cluster,
    };
    concerned && (named || every || any_matches(&advertisement.pool_selectors, &pool.labels))
}
