//! What the address book holds. Plain values; every rule about them lives in the rooms beside.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Address, AddressRange, Family};
use super::announce::NodeSet;
use super::bgp::community::Community;
pub use super::inventory::Inventory;
use super::names::Name;
use super::refusal::Refusal;
use super::selector::LabelSelector;
pub use pharos_lease::Owner as LeaseOwner;

/// Key/value labels.
pub type Labels = BTreeMap<String, String>;

/// Microseconds since 1970-01-01 UTC. Given by the engine, never read from a clock in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// Position in the change log.
pub type Revision = u64;

/// Name of an allocation for ever: the revision at which it was created.
pub type AllocationId = u64;

/// Who holds an allocation: the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey {
    pub cluster: Name,
    /// `None` outside Kubernetes.
    pub namespace: Option<Name>,
    pub name: Name,
}

impl fmt::Display for OwnerKey {
    /// `cluster/namespace/name`; an absent namespace leaves its place empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_ref().map_or("", Name::as_str);
        write!(f, "{}/{namespace}/{}", self.cluster, self.name)
    }
}

/// Who holds an allocation: the key and its incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub key: OwnerKey,
    /// Empty: unknown, and equal to any.
    pub uid: String,
}

impl Owner {
    /// Whether a uid is that of this incarnation.
    pub fn is_incarnation(&self, uid: &str) -> bool {
        self.uid.is_empty() || uid.is_empty() || self.uid == uid
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port that an owner uses on its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub protocol: Protocol,
    /// Never 0.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.number)
    }
}

/// Which families a claim asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Families {
    /// One address of the first family that a pool gives, IPv4 first.
    Any,
    /// One address of this family.
    One(Family),
    /// One of each if they can be had, else one, of `first` if possible.
    PreferBoth { first: Family },
    /// One of each, or nothing.
    Both,
}

/// Which pools the two addresses of a dual-stack claim may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum DualStackPools {
    /// Both from one pool.
    #[default]
    OnePool,
    /// From one pool if one has both; else each from the first pool that has its family.
    AnyPools,
}

/// Who says which nodes can serve an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendsPolicy {
    /// Nobody: every node that an advertisement selects is a candidate.
    Unmanaged,
    /// An adapter, by facts; until it has, no node is a candidate.
    Reported,
}

/// What an owner asks for, in canonical form: built only by the edge, which sorts and fills in
/// defaults, so that equal claims are equal values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    pub space: Name,
    pub families: Families,
    /// `OnePool` unless two families are asked for and no pool is named.
    pub dual_stack_pools: DualStackPools,
    /// From this pool only.
    pub pool: Option<Name>,
    /// Only addresses of the reservation of this name.
    pub reservation: Option<Name>,
    /// Exactly these, at most one of each family, sorted.
    pub addresses: Vec<Address>,
    /// Sorted, without repetition.
    pub ports: Vec<Port>,
    /// Empty: not shared.
    pub sharing_key: String,
    pub backend_key: String,
    pub labels: Labels,
    pub namespace_labels: Labels,
    pub backends: BackendsPolicy,
}

impl Claim {
    /// Whether its two addresses may come from two pools.
    pub fn allows_two_pools(&self) -> bool {
        let both = match self.families {
            Families::Both | Families::PreferBoth { .. } => true,
            Families::Any | Families::One(_) => false,
        };
        both && self.dual_stack_pools == DualStackPools::AnyPools && self.pool.is_none()
    }
}

/// A pool's key: each of its allocations has it, so it lies in memory once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey(Arc<PoolKeyParts>);

/// What a [`PoolKey`] consists of. `cluster: None` is an operator's pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKeyParts {
    pub space: Name,
    pub cluster: Option<Name>,
    pub name: Name,
}

impl PoolKey {
    pub fn new(space: Name, cluster: Option<Name>, name: Name) -> Self {
        Self(Arc::new(PoolKeyParts {
            space,
            cluster,
            name,
        }))
    }

    /// The operator's pool of this name, which a cluster's own hides from it.
    pub fn of_operator(&self) -> Self {
        Self::new(self.space.clone(), None, self.name.clone())
    }

    /// Whether anybody else has this very copy.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Deref for PoolKey {
    type Target = PoolKeyParts;
    fn deref(&self) -> &PoolKeyParts {
        &self.0
    }
}

impl fmt::Display for PoolKey {
    /// `name`, or `cluster/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            Some(cluster) => write!(f, "{cluster}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// A named view on an address space: ranges and policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub key: PoolKey,
    /// As written by its author, one text per range.
    pub addresses: Vec<String>,
    /// What `addresses` mean, in the same order. Disjoint.
    pub ranges: Vec<AddressRange>,
    pub auto_assign: bool,
    pub avoid_buggy_ips: bool,
    /// Lower is tried first; 0 is last.
    pub priority: i32,
    pub namespaces: BTreeSet<Name>,
    pub namespace_selectors: Vec<LabelSelector>,
    pub service_selectors: Vec<LabelSelector>,
    pub labels: Labels,
    /// No edit of pools takes an address from who holds it through this one.
    pub protected: bool,
    /// How long an address rests after it was given back.
    pub reuse_delay: Duration,
    /// How long an address that was announced waits for nodes that are away.
    pub reuse_unacknowledged: Duration,
    /// Of its last change.
    pub revision: Revision,
}

/// Time since the process began, by a clock that only goes forward. Given by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

/// Why an address is not to be given away yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnavailableReason {
    /// Nodes may still answer for it.
    Draining,
    /// It rests, as its pool wants.
    ReuseDelay,
    /// Another machine uses it.
    Quarantined,
}

/// Key of what makes an address unavailable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnavailableKey {
    pub space: Name,
    pub address: Address,
    pub reason: UnavailableReason,
}

/// One reason for which an address is not to be given away yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    pub key: UnavailableKey,
    /// Who may take it nevertheless: its last holder.
    pub for_owner: Option<OwnerKey>,
    pub since: Timestamp,
    /// How long at most.
    pub period: Duration,
    /// When that is over. Not stored: after a restart the period counts in full again.
    pub deadline: Moment,
    /// Draining: whose nodes, and which of them have to acknowledge.
    pub awaited: Option<(Name, Arc<NodeSet>)>,
    /// The period ended before all of them did.
    pub unacknowledged: bool,
    /// Of its last change.
    pub revision: Revision,
}

/// A reservation's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationKey {
    pub space: Name,
    pub name: Name,
}

impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of address space {}", self.name, self.space)
    }
}

/// Addresses that are kept for an owner, or that nobody is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub key: ReservationKey,
    /// As written by its author, one text per range.
    pub addresses: Vec<String>,
    /// What `addresses` mean, in the same order. Disjoint, also from those of other reservations.
    pub ranges: Vec<AddressRange>,
    /// `None`: for nobody.
    pub kept_for: Option<OwnerScope>,
    pub description: String,
    pub create_time: Timestamp,
    /// Of its last change.
    pub revision: Revision,
}

/// How many addresses may be held, by whom, of what. The operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Unique.
    pub name: Name,
    pub cluster: Name,
    pub subject: QuotaSubject,
    pub space: Name,
    /// Only what is held through the pool of this name, the cluster's own or the operator's.
    pub pool: Option<Name>,
    /// Only addresses of this family.
    pub family: Option<Family>,
    pub limit: u32,
    /// Of its last change.
    pub revision: Revision,
}

/// What the operator says of an address space. One without a record is in use all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSpace {
    pub name: Name,
    pub description: String,
    /// What each cluster may use: sorted, disjoint, never empty. Without grants: everything.
    pub grants: BTreeMap<Name, Vec<AddressRange>>,
    /// Clusters do not learn which other cluster holds an address.
    pub hide_holders: bool,
    pub create_time: Timestamp,
    /// Of its last change.
    pub revision: Revision,
}

impl AddressSpace {
    /// A record that says nothing.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            description: String::new(),
            grants: BTreeMap::new(),
            hide_holders: false,
            create_time: Timestamp(0),
            revision: 0,
        }
    }
}

/// One owner, or all of a namespace, or all of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerScope {
    pub cluster: Name,
    /// `None` with a name: the owner of no namespace; `None` without: every namespace.
    pub namespace: Option<Name>,
    /// `None`: every owner of the namespace.
    pub name: Option<Name>,
}

impl OwnerScope {
    /// Whether the owner is one of them.
    pub fn covers(&self, owner: &OwnerKey) -> bool {
        Self::around(owner).any(|scope| scope == *self)
    }

    /// Every scope that covers an owner, the most precise first.
    pub fn around(owner: &OwnerKey) -> impl Iterator<Item = Self> {
        let scope = |namespace: Option<&Name>, name: Option<&Name>| Self {
            cluster: owner.cluster.clone(),
            namespace: namespace.cloned(),
            name: name.cloned(),
        };
        let namespace = owner.namespace.as_ref();
        let of_namespace = namespace.map(|namespace| scope(Some(namespace), None));
        std::iter::once(scope(namespace, Some(&owner.name)))
            .chain(of_namespace)
            .chain(std::iter::once(scope(None, None)))
    }
}

impl fmt::Display for OwnerScope {
    /// `cluster`, `cluster/namespace` or `cluster/namespace/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cluster.fmt(f)?;
        if self.namespace.is_some() || self.name.is_some() {
            write!(f, "/{}", self.namespace.as_ref().map_or("", Name::as_str))?;
        }
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

/// Whose addresses count together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaSubject {
    /// All of the cluster's.
    Cluster,
    /// Those of one namespace.
    Namespace(Name),
    /// Those of each namespace for itself; owners without a namespace are one.
    EachNamespace,
}

/// State of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// `addresses` satisfy `claim`.
    Assigned,
    /// Nothing is held. (Boxed: few allocations have one, and each would keep room for it.)
    Pending(Box<Refusal>),
    /// `addresses` are held under `held_claim`; the newest claim does not fit yet.
    Stale {
        refusal: Box<Refusal>,
        held_claim: Box<Claim>,
    },
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub id: AllocationId,
    pub owner: Owner,
    /// The newest claim. Owners with equal claims share one ([`super::intern`]).
    pub claim: Arc<Claim>,
    pub standing: Standing,
    /// IPv4 first; empty exactly when pending.
    pub addresses: Vec<Address>,
    /// Where the first address comes from; `None` exactly when pending.
    pub pool: Option<PoolKey>,
    /// Where the second address comes from, if that is another pool. Of the same space.
    pub second_pool: Option<PoolKey>,
    /// It holds an address that its cluster's grant does not have: one that was in use when a lost
    /// store was recovered.
    pub outside_grant: bool,
    pub revision: Revision,
    pub create_time: Timestamp,
}

impl Allocation {
    /// The claim under which the addresses are held: with it others must agree.
    pub fn effective_claim(&self) -> &Claim {
        match &self.standing {
            Standing::Stale { held_claim, .. } => held_claim,
            Standing::Assigned | Standing::Pending(_) => &self.claim,
        }
    }

    /// Whether its claim is not fulfilled.
    pub fn waits(&self) -> bool {
        match self.standing {
            Standing::Pending(_) | Standing::Stale { .. } => true,
            Standing::Assigned => false,
        }
    }

    /// Every address that is held, and the pool that it comes from.
    pub fn held(&self) -> impl Iterator<Item = (Address, &PoolKey)> {
        let first = self.pool.as_ref();
        let second = self.second_pool.as_ref().or(first);
        let pools = first.into_iter().chain(second);
        self.addresses.iter().copied().zip(pools)
    }

    /// The pool that an address comes from; `None` if it is not held.
    pub fn pool_of(&self, address: Address) -> Option<&PoolKey> {
        let mut held = self.held();
        held.find_map(|(one, pool)| (one == address).then_some(pool))
    }

    /// The pools that addresses come from, each once.
    pub fn pools(&self) -> impl Iterator<Item = &PoolKey> {
        self.pool.iter().chain(self.second_pool.as_ref())
    }
}

/// An advertisement's key. `cluster: None` concerns every cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvertisementKey {
    pub cluster: Option<Name>,
    pub name: Name,
}

/// Policy: the addresses of these pools are announced so, by these nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    pub key: AdvertisementKey,
    pub space: Name,
    pub pools: BTreeSet<Name>,
    pub pool_selectors: Vec<LabelSelector>,
    pub node_selectors: Vec<LabelSelector>,
    pub service_selectors: Vec<LabelSelector>,
    pub protocol: AdvertisementProtocol,
    pub revision: Revision,
}

/// How an advertisement announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvertisementProtocol {
    L2 {
        /// Empty: every interface.
        interfaces: BTreeSet<String>,
        preferred_nodes: Vec<PreferredNodes>,
        ownership: Ownership,
    },
    Bgp(RouteAttributes),
}

impl AdvertisementProtocol {
    pub fn is_bgp(&self) -> bool {
        match self {
            Self::L2 { .. } => false,
            Self::Bgp(_) => true,
        }
    }
}

/// What an advertisement by BGP says of the routes that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAttributes {
    /// By name. Empty: every peer.
    pub peers: BTreeSet<Name>,
    /// Bits of the prefix that is announced for an IPv4 address: 1 to 32.
    pub length_v4: u8,
    /// The same for IPv6: 0 to 128.
    pub length_v6: u8,
    /// 0: none is given.
    pub local_pref: u32,
    pub communities: BTreeSet<Community>,
}

/// What an advertisement promises when nodes cannot reach one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Somebody answers; for a while there may be two.
    Available,
    /// Never two; for a while nobody may answer.
    Fenced,
}

/// A soft preference for nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferredNodes {
    /// 1 to 100.
    pub weight: u32,
    pub selector: LabelSelector,
}

/// A cluster (or tenant), known since its first contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: Name,
    /// Empty outside Kubernetes, or until an adapter has told it.
    pub uid: String,
    pub inventory: Inventory,
    /// Highest fence that its adapters have used.
    pub fence: u64,
    pub create_time: Timestamp,
    pub revision: Revision,
}

/// A node's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    pub cluster: Name,
    pub node: Name,
}

/// A fact: what is known about a node. Only nodes with an announcer are candidates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub key: NodeKey,
    /// As an adapter reports it; `None`: no adapter does.
    pub reported: Option<ReportedNode>,
    /// An adapter reported it and then said that it is gone: neither a candidate nor a member,
    /// whatever its announcer says, until an adapter reports it again.
    pub removed: bool,
    /// As its own announcer told; `None`: none ever called.
    pub announcer: Option<Announcer>,
}

impl Node {
    /// All labels; a reported one wins.
    pub fn labels(&self) -> Labels {
        let mut labels = self
            .announcer
            .as_ref()
            .map_or_else(Labels::new, |own| own.labels.clone());
        if let Some(reported) = &self.reported {
            labels.extend(reported.labels.clone());
        }
        labels
    }
}

/// What an adapter says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedNode {
    pub labels: Labels,
    /// Why it may not announce; empty: it may.
    pub unavailable_reason: String,
}

/// What an announcer says of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcer {
    pub labels: Labels,
    /// `address:port` of its membership protocol.
    pub member_endpoint: String,
    /// What it knows of; see [`pharos_proto::feature`].
    pub features: BTreeSet<String>,
}

/// A fact: which nodes can take in traffic for an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    pub owner: OwnerKey,
    pub entry: EntryNodes,
}

/// Nodes through which traffic may enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryNodes {
    Any,
    /// Possibly none.
    Only(BTreeSet<Name>),
}

/// Which node may answer for a fenced address. Stored like a fact, before anybody is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    pub key: TenureKey,
    pub owner: LeaseOwner<Name>,
    /// Another one each time that a node is named for the address; it grows.
    pub epoch: u64,
}

/// An address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenureKey {
    pub space: Name,
    pub address: Address,
    pub cluster: Name,
}

/// The sticky choice of nodes for an election group. Stored like a fact: it rests on what was
/// chosen before, so a restart must not choose again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Id of the oldest allocation of the group.
    pub group: AllocationId,
    pub cluster: Name,
    /// In order of preference, at most 3.
    pub nodes: Vec<Name>,
    /// Addresses of the group that a node has answered for. The first owner of any other asks first
    /// whether another machine has it.
    pub announced: BTreeSet<Address>,
}
