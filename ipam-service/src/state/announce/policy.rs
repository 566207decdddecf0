//! Which advertisements concern an allocation, and whom they select.
//!
//! Everything here is remembered until an advertisement, a pool or a node changes, because most
//! allocations of a cluster have the same answer.

use std::collections::{BTreeSet, HashMap};
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
use crate::state::selector::{LabelSelector, any_matches};

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

/// What was found out since the last change of an advertisement, a pool or a node of the cluster.
#[derive(Debug, Default)]
pub(super) struct Memory {
    by_pool: HashMap<PoolKey, Arc<Policy>>,
    selected: HashMap<Vec<AdvertisementKey>, Arc<[NodeNo]>>,
    /// Of all whom the advertisements select: what most groups are offered, found without looking
    /// at every node.
    whole: HashMap<Vec<AdvertisementKey>, Arc<Offer>>,
    /// Of fewer.
    offers: HashMap<OfferKey, Arc<Offer>>,
    interfaces: HashMap<InterfacesKey, Arc<Interfaces>>,
}

/// Most remembered offers. Groups whose owners have few endpoints each have an offer of their own,
/// which changes as those do; forgetting costs one computation, remembering 100 bytes and more.
const MAX_OFFERS: usize = 16_384;

impl Memory {
    /// The advertisements that select a pool for a cluster.
    pub(super) fn of_pool(&mut self, state: &State, cluster: &Name, key: &PoolKey) -> Arc<Policy> {
        if let Some(policy) = self.by_pool.get(key) {
            return Arc::clone(policy);
        }
        let policy: Arc<Policy> = Arc::new(match state.pool(key) {
            Some(pool) => state
                .advertisements()
                .filter(|advertisement| selects_pool(state, advertisement, cluster, pool))
                .cloned()
                .collect(),
            None => Policy::new(),
        });
        self.by_pool.insert(key.clone(), Arc::clone(&policy));
        policy
    }

    /// Those of them that select the allocation, for what it holds from that pool.
    pub(super) fn of_allocation(
        &mut self,
        state: &State,
        cluster: &Name,
        allocation: &Allocation,
        pool: &PoolKey,
    ) -> Arc<Policy> {
        let policy = self.of_pool(state, cluster, pool);
        let labels = &allocation.effective_claim().labels;
        let applies = |advertisement: &Arc<Advertisement>| {
            none_or_any(&advertisement.service_selectors, labels)
        };
        if policy.iter().all(applies) {
            return policy;
        }
        Arc::new(policy.iter().filter(|one| applies(one)).cloned().collect())
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

/// The interfaces that an advertisement names, and the nodes that it prefers.
pub(super) fn l2(advertisement: &Advertisement) -> (&BTreeSet<String>, &[PreferredNodes]) {
    match &advertisement.protocol {
        AdvertisementProtocol::L2 {
            interfaces,
            preferred_nodes,
            ..
        } => (interfaces, preferred_nodes),
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

fn none_or_any(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || any_matches(selectors, labels)
}
