//! The custom resources of the index: what people declare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Index, Kind, Touched};
use crate::crd::{BgpSpec, CommunitySpec, L2Spec, PeerSpec, PoolSpec, PoolStatus, ProfileSpec};
use crate::eligibility::NodeState;
use crate::policy::{Declared, Known, Objects};

/// An IPAddressPool as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolState {
    pub uid: String,
    pub declared: Declared<PoolSpec>,
    pub status: Option<PoolStatus>,
}

/// By name.
type ByName<S> = BTreeMap<String, Declared<S>>;

/// Everything that is declared.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Kinds of which an object was seen since the last list, if only to be deleted.
    declared: BTreeSet<Kind>,
    pools: BTreeMap<String, PoolState>,
    l2: ByName<L2Spec>,
    bgp: ByName<BgpSpec>,
    communities: ByName<CommunitySpec>,
    peers: ByName<PeerSpec>,
    profiles: ByName<ProfileSpec>,
}

/// The spec of a kind of which nothing but declarations is kept.
pub trait Declares: Sized {
    const KIND: Kind;
    fn of(policy: &mut Policy) -> &mut ByName<Self>;
}

impl Declares for L2Spec {
    const KIND: Kind = Kind::L2Advertisements;

    fn of(policy: &mut Policy) -> &mut ByName<Self> {
        &mut policy.l2
    }
}

impl Declares for BgpSpec {
    const KIND: Kind = Kind::BgpAdvertisements;

    fn of(policy: &mut Policy) -> &mut ByName<Self> {
        &mut policy.bgp
    }
}

impl Declares for CommunitySpec {
    const KIND: Kind = Kind::Communities;

    fn of(policy: &mut Policy) -> &mut ByName<Self> {
        &mut policy.communities
    }
}

impl Declares for PeerSpec {
    const KIND: Kind = Kind::BgpPeers;

    fn of(policy: &mut Policy) -> &mut ByName<Self> {
        &mut policy.peers
    }
}

impl Declares for ProfileSpec {
    const KIND: Kind = Kind::BfdProfiles;

    fn of(policy: &mut Policy) -> &mut ByName<Self> {
        &mut policy.profiles
    }
}

impl Policy {
    /// Whether a change of a node may change what is found about the declarations.
    pub fn depends_on(&self, before: Option<&NodeState>, after: Option<&NodeState>) -> bool {
        let addresses = |node: Option<&NodeState>| node.map(|it| it.addresses.clone());
        let labels = |node: Option<&NodeState>| node.map(|it| it.fact.labels.clone());
        let selects = !self.bgp.is_empty() || !self.peers.is_empty();
        addresses(before) != addresses(after) || selects && labels(before) != labels(after)
    }
}

impl Index {
    /// Whether what is known of a kind is a declaration, even if nothing is left of it. A list that
    /// is empty from the start is none.
    pub fn declares(&self, kind: Kind) -> bool {
        self.policy.declared.contains(&kind)
    }

    /// What is declared, and the nodes that it is about, as they are now: that, and nothing else. It costs
    /// nothing, however much there is; the next change makes the copy, if this is still looked at then.
    #[must_use]
    pub fn declarations(&self) -> Self {
        Self {
            listed: self.listed.clone(),
            nodes: Arc::clone(&self.nodes),
            policy: Arc::clone(&self.policy),
            ..Self::default()
        }
    }

    /// Knows the nodes that another index knows.
    pub fn share_nodes(&mut self, from: &Self) {
        if from.has(Kind::Nodes) {
            self.listed.insert(Kind::Nodes);
            self.nodes = Arc::clone(&from.nodes);
        }
    }

    /// All pools, by name.
    pub fn pools(&self) -> impl Iterator<Item = &PoolState> {
        self.policy.pools.values()
    }

    /// All that is declared. A kind that was never listed is not known.
    pub fn objects(&self) -> Objects<'_> {
        let policy = &self.policy;
        let pools = policy.pools.values().map(|pool| &pool.declared);
        let pools = self.has(Kind::Pools).then(|| Known::all(pools));
        let nodes = self.has(Kind::Nodes);
        Objects {
            pools: pools.unwrap_or_default(),
            l2: self.known(&policy.l2),
            bgp: self.known(&policy.bgp),
            communities: self.known(&policy.communities),
            peers: self.known(&policy.peers),
            profiles: self.known(&policy.profiles),
            nodes: nodes.then(|| self.nodes.values().collect()),
        }
    }

    /// Layer 2 advertisements that can be read.
    pub fn l2_advertisements(&self) -> impl Iterator<Item = &L2Spec> {
        let all = self.policy.l2.values();
        all.filter_map(|declared| declared.spec.as_ref().ok())
    }

    fn known<'a, S: Declares>(&self, objects: &'a ByName<S>) -> Known<'a, S> {
        let listed = self.has(S::KIND).then(|| Known::all(objects.values()));
        listed.unwrap_or_default()
    }

    /// A complete list of pools.
    pub fn replace_pools(&mut self, list: Vec<PoolState>) -> Touched {
        self.policy_listed(Kind::Pools, !list.is_empty());
        let list = list.into_iter().map(|it| (it.declared.name.clone(), it));
        self.policy_mut().pools = list.collect();
        policy_touched()
    }

    /// A pool was created or changed. A change of its status alone touches nothing.
    pub fn apply_pool(&mut self, pool: PoolState) -> Touched {
        self.policy_mut().declared.insert(Kind::Pools);
        let declared = pool.declared.clone();
        let before = self.policy_mut().pools.insert(declared.name.clone(), pool);
        Touched {
            policy: before.map(|it| it.declared) != Some(declared),
            ..Touched::default()
        }
    }

    /// A pool was deleted.
    pub fn delete_pool(&mut self, name: &str) -> Touched {
        self.policy_mut().declared.insert(Kind::Pools);
        self.policy_mut().pools.remove(name);
        policy_touched()
    }

    /// A complete list of declarations of one kind.
    pub fn replace_declared<S: Declares>(&mut self, list: Vec<Declared<S>>) -> Touched {
        self.policy_listed(S::KIND, !list.is_empty());
        *S::of(self.policy_mut()) = list.into_iter().map(|it| (it.name.clone(), it)).collect();
        policy_touched()
    }

    /// A declaration was made or changed.
    pub fn apply_declared<S: Declares>(&mut self, declared: Declared<S>) -> Touched {
        self.policy_mut().declared.insert(S::KIND);
        S::of(self.policy_mut()).insert(declared.name.clone(), declared);
        policy_touched()
    }

    /// A declaration was deleted.
    pub fn delete_declared<S: Declares>(&mut self, name: &str) -> Touched {
        self.policy_mut().declared.insert(S::KIND);
        S::of(self.policy_mut()).remove(name);
        policy_touched()
    }

    /// The API server does not know a kind. What was seen of it was taken back by nobody.
    pub fn undeclare(&mut self, kind: Kind) {
        self.policy_mut().declared.remove(&kind);
    }

    fn policy_mut(&mut self) -> &mut Policy {
        Arc::make_mut(&mut self.policy)
    }

    /// An empty list declares nothing; that it takes back what was declared before, only the definition
    /// of the kind can tell.
    fn policy_listed(&mut self, kind: Kind, some: bool) {
        self.listed.insert(kind);
        if some {
            self.policy_mut().declared.insert(kind);
        }
    }
}

fn policy_touched() -> Touched {
    Touched {
        policy: true,
        ..Touched::default()
    }
}
