//! Who announces what: advertisements x pools x nodes x backends x allocations -> assignments.
//!
//! Pure. [`Announcements`] is derived from [`State`] and kept up to date from the changes of each
//! batch alone, so that a change costs what it touches. It contains no rule about who may hold an
//! address, and knows neither the wire nor time.
//!
//! The rules (DESIGN.md "Who announces"; MetalLB's are in its `speaker/layer2_controller.go`):
//!
//! - Addresses that must be owned by one node together form an *election group*: the connected
//!   component of addresses over allocations. Its id is that of the oldest allocation.
//! - The announcers of the owners' cluster announce it: nodes that run an announcer, are not
//!   reported unavailable, and are selected by an advertisement that selects the pool and the
//!   allocation ([`policy`]); reduced to those that can serve every owner ([`group`]).
//! - Each group has an ordered list of up to three of them ([`super::placement`]). The list is
//!   stored, and stays with the addresses when the id of their group changes.
//! - By BGP every node announces by itself ([`routes`]), over sessions with [`peers`].
//! - Interfaces: per node, the union over the advertisements of the address's owners that select
//!   the node; one that names none means all ([`interfaces`]).

mod cluster;
mod explain;
mod fence;
mod group;
mod held;
mod interfaces;
mod nodes;
mod peers;
mod policy;
mod probe;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::explain::{Explained, ExplainedNode, Question, Verdict};
pub use self::fence::Fenced;
use self::group::Component;
pub use self::held::{Contradiction, Held, HeldPage, Inquiry, Silence};
pub use self::interfaces::{ByNodes, Interfaces};
pub use self::nodes::Member;
use self::nodes::Nodes;
pub use self::peers::{Peer, Peers, selects};
use self::policy::{Memory, Offer};
pub use self::probe::unannounced;
pub use self::routes::{NodeRoutes, Prefix, Route, Routes};
use super::State;
use super::address::Address;
use super::change::{Change, Edit};
use super::model::{Advertisement, Allocation, AllocationId, Node, OwnerKey, Placement, Pool};
use super::names::Name;
use super::placement::NodeNo;

/// What an assignment is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssignmentKey {
    pub space: Name,
    pub address: Address,
}

/// One address that is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub key: AssignmentKey,
    pub group: AllocationId,
    /// In order of preference, at most three: the owner is the first that lives.
    pub nodes: Vec<Name>,
    /// Id of the [`NodeSet`] of all candidates; of none without `interfaces`.
    pub candidates: u64,
    /// Shared by all addresses with the same answer. `None`: it is not announced by layer 2.
    pub interfaces: Option<Arc<Interfaces>>,
    /// All who hold the address, sorted.
    pub owners: Vec<OwnerKey>,
    /// Those of them for whom not every candidate can take traffic in: they share with an older owner
    /// whose nodes have none in common with theirs. For people; announcers are not told.
    pub left_out: Vec<OwnerKey>,
    /// It was chosen automatically, and nobody has answered for it yet.
    pub probe: bool,
    /// Set: only the owner that is named here answers.
    pub fenced: Option<Fenced>,
    /// What is announced for it by BGP, whoever answers for it. `None`: nothing, and nothing is withheld.
    pub bgp: Option<Arc<Routes>>,
}

impl Assignment {
    /// Ids of the sets that it refers to; one may come twice.
    fn node_sets(&self) -> impl Iterator<Item = u64> {
        let candidates = self.interfaces.as_ref().map(|_| self.candidates);
        candidates
            .into_iter()
            .chain(self.own_sets().map(|set| set.id))
    }

    /// The sets that it has at hand: all but the candidates.
    fn own_sets(&self) -> impl Iterator<Item = &Arc<NodeSet>> {
        let by_nodes = self.interfaces.iter().flat_map(|it| &it.by_nodes);
        let by_nodes = by_nodes.map(|entry| &entry.nodes);
        by_nodes.chain(self.announcers())
    }

    /// The nodes that announce it by BGP.
    pub fn announcers(&self) -> impl Iterator<Item = &Arc<NodeSet>> {
        let routes = self.bgp.iter().flat_map(|routes| &routes.by_nodes);
        routes.map(|entry| &entry.nodes)
    }

    /// The interfaces on which a node announces it by layer 2; empty: every one.
    fn interfaces_of(&self, node: &Name) -> &[String] {
        self.interfaces.as_ref().map_or(&[], |it| it.of(node))
    }
}

/// A set of nodes, named by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSet {
    pub id: u64,
    /// Sorted.
    pub nodes: Vec<Name>,
}

impl NodeSet {
    /// The set of these nodes.
    pub fn new(nodes: impl IntoIterator<Item = Name>) -> Self {
        let nodes: BTreeSet<Name> = nodes.into_iter().collect();
        Self {
            id: pharos_proto::digest::node_set_id(nodes.iter().map(Name::as_str)),
            nodes: nodes.into_iter().collect(),
        }
    }
}

/// What changed for the announcers of a cluster. Keys are disjoint: each address is at most once in
/// `upserts` and `removals` together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterDelta {
    /// Set if it changed: whether the announcers may remove what is not assigned.
    pub authoritative: Option<bool>,
    /// Set if they changed: all of them, by name.
    pub members: Option<Vec<Member>>,
    /// That `upserts` and `bgp_peers` refer to, and that were not in use before.
    pub node_sets: Vec<Arc<NodeSet>>,
    /// Set if they changed: all of them.
    pub bgp_peers: Option<Arc<Peers>>,
    /// By key.
    pub upserts: Vec<Arc<Assignment>>,
    /// By key.
    pub removals: Vec<AssignmentKey>,
    /// Ids of the sets that nothing refers to any more.
    pub unused_node_sets: Vec<u64>,
    /// The cluster was deleted: its announcers have to introduce themselves again.
    pub deleted: Option<Deleted>,
}

/// What is left of a cluster that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Nothing.
    Gone,
    /// A later command of the same batch made it known again, and this is what it has now.
    MadeAgain,
}

impl ClusterDelta {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a batch of changes means for the announcers.
#[derive(Debug, Default)]
pub struct Refresh {
    /// Placements and tenures, to be applied to the state and stored together with the batch.
    pub choices: Vec<Change>,
    /// By cluster; to be published once the batch is committed.
    pub deltas: BTreeMap<Name, ClusterDelta>,
}

/// Who owns fenced addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// Those that are stored: what is chosen now might be published before it is on disk.
    AsStored,
    /// Nodes may be named.
    Named {
        /// Clusters in which leases changed.
        touched: BTreeSet<Name>,
        /// Whether an owner may be asked to make room: not while whom it makes room for could not be
        /// stored.
        moves: bool,
    },
}

/// All assignments of all clusters.
#[derive(Debug, Default)]
pub struct Announcements {
    clusters: BTreeMap<Name, ClusterAssignments>,
}

/// The assignments of one cluster.
#[derive(Debug, Default)]
pub struct ClusterAssignments {
    nodes: Nodes,
    memory: Memory,
    groups: BTreeMap<AllocationId, Group>,
    assignments: BTreeMap<AssignmentKey, Arc<Assignment>>,
    /// With the number of references to each.
    node_sets: BTreeMap<u64, (Arc<NodeSet>, usize)>,
    peers: Arc<Peers>,
    authoritative: bool,
}

/// An election group that is announced.
#[derive(Debug)]
struct Group {
    addresses: Vec<AssignmentKey>,
    /// `None`: by BGP only.
    offer: Option<Arc<Offer>>,
    list: Vec<NodeNo>,
}

/// What a batch of changes may have touched in a cluster.
#[derive(Debug, Default)]
struct Dirt {
    /// Addresses whose groups are to be looked at again.
    addresses: BTreeSet<AssignmentKey>,
    /// Allocations that may have named a group, with the addresses that they held.
    former: BTreeMap<AllocationId, Vec<AssignmentKey>>,
    /// Advertisements, pools or available nodes changed: everything is to be looked at again.
    policy: bool,
    members: bool,
    /// Who the BGP peers are, or who has sessions with them.
    peers: bool,
    deleted: bool,
    /// Leases of its nodes changed.
    leases: bool,
    fencing: Fencing,
}

/// What may become of the owners of fenced addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fencing {
    /// They are those that are stored; nobody is named now.
    #[default]
    AsStored,
    Named {
        moves: bool,
    },
}

impl Announcements {
    /// Everything from scratch, keeping the lists that are stored. Also says which stored lists
    /// have to change; none, if they are those that [`Self::refresh`] asked to be stored.
    pub fn rebuild(state: &State) -> (Self, Vec<Change>) {
        let mut announcements = Self::default();
        let mut refresh = Refresh::default();
        for cluster in state.clusters() {
            let assignments = announcements
                .clusters
                .entry(cluster.name.clone())
                .or_default();
            for node in state.nodes_of(&cluster.name) {
                assignments.nodes.update(&node.key.node, Some(node));
            }
            let dirt = Dirt {
                policy: true,
                members: true,
                ..Dirt::default()
            };
            assignments.refresh(state, &cluster.name, dirt, &mut refresh);
        }
        let gone = state.placements().filter(|placement| {
            let held = state.allocation_by_id(placement.group);
            held.is_none_or(|allocation| allocation.addresses.is_empty())
        });
        let mut changes = refresh.choices;
        changes.extend(gone.map(remove_placement));
        (announcements, changes)
    }

    /// Takes in the changes of a batch, which `state` already has.
    pub fn refresh(&mut self, state: &State, changes: &[Change], owners: Owners) -> Refresh {
        let mut dirt = BTreeMap::new();
        let mut refresh = Refresh::default();
        let (fencing, touched) = match owners {
            Owners::AsStored => (Fencing::AsStored, BTreeSet::new()),
            Owners::Named { touched, moves } => (Fencing::Named { moves }, touched),
        };
        for cluster in &touched {
            self.note_let_go(state, cluster, &mut dirt);
            let Some(assignments) = self.clusters.get(cluster) else {
                // Nothing is announced there: what was, may have ended.
                refresh
                    .choices
                    .extend(fence::ended(state, cluster, |_| false));
                continue;
            };
            let dirt = dirt_of(&mut dirt, cluster);
            dirt.leases = true;
            dirt.addresses.extend(assignments.fenced().cloned());
        }
        for change in changes {
            self.note(state, change, &mut dirt);
        }
        for (cluster, mut dirt) in dirt {
            dirt.fencing = fencing;
            let was_deleted = dirt.deleted;
            let assignments = self.clusters.entry(cluster.clone()).or_default();
            assignments.refresh(state, &cluster, dirt, &mut refresh);
            let deleted = match state.cluster(&cluster) {
                None if assignments.is_empty() => {
                    self.clusters.remove(&cluster);
                    Deleted::Gone
                }
                Some(_) if was_deleted => Deleted::MadeAgain,
                None | Some(_) => continue,
            };
            refresh.deltas.entry(cluster).or_default().deleted = Some(deleted);
        }
        refresh
    }

    /// The assignments of a cluster; `None`: it is not known.
    pub fn cluster(&self, cluster: &str) -> Option<&ClusterAssignments> {
        self.clusters.get(cluster)
    }

    /// The clusters in which there is something to announce, or somebody to do it.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.clusters.keys()
    }

    /// Everything, as deltas to nothing.
    pub fn everything(&self) -> BTreeMap<Name, ClusterDelta> {
        let clusters = self.clusters.iter();
        clusters
            .map(|(name, cluster)| (name.clone(), cluster.everything()))
            .collect()
    }

    fn note(&mut self, state: &State, change: &Change, dirt: &mut BTreeMap<Name, Dirt>) {
        match change {
            Change::Allocation(edit) => {
                for allocation in edit.before.iter().chain(&edit.after) {
                    dirt_of(dirt, &allocation.owner.key.cluster).note_allocation(allocation);
                }
                if let Some(before) = &edit.before {
                    dirt_of(dirt, &before.owner.key.cluster).note_former(before);
                }
            }
            Change::Backends(edit) => {
                let owner = &edit.subject().owner;
                if let Some(allocation) = state.allocation(owner) {
                    dirt_of(dirt, &owner.cluster).note_allocation(allocation);
                }
            }
            Change::Node(edit) => self.note_node(edit, dirt),
            Change::Advertisement(edit) if !same_policy(edit) => {
                let cluster = edit.subject().key.cluster.as_ref();
                self.note_all(cluster, dirt, |dirt| dirt.policy = true);
            }
            Change::Pool(edit) if !same_appearance(edit) => {
                let cluster = edit.subject().key.cluster.as_ref();
                self.note_all(cluster, dirt, |dirt| dirt.policy = true);
            }
            // Whether it is authoritative is looked up in any case.
            Change::Cluster(edit) => {
                let dirt = dirt_of(dirt, &edit.subject().name);
                dirt.deleted |= edit.after.is_none();
                dirt.peers |= edit.before.is_none();
            }
            Change::BgpPeer(edit) => {
                let cluster = edit.subject().key.cluster.as_ref();
                self.note_all(cluster, dirt, |dirt| dirt.peers = true);
            }
            Change::BfdProfile(edit) => {
                let cluster = edit.subject().key.cluster.as_ref();
                self.note_all(cluster, dirt, |dirt| dirt.peers = true);
            }
            Change::Advertisement(_)
            | Change::Pool(_)
            | Change::Reservation(_)
            | Change::Quota(_)
            | Change::AddressSpace(_)
            | Change::Unavailable(_)
            | Change::Tenure(_) => {}
            Change::Placement(edit) => self.note_placement(edit, dirt),
        }
    }

    /// What a node of a cluster has stopped answering for may be waited for in another.
    fn note_let_go(&self, state: &State, cluster: &Name, dirt: &mut BTreeMap<Name, Dirt>) {
        for key in fence::let_go(state, cluster) {
            for (other, assignments) in &self.clusters {
                if other != cluster && assignments.waits_for_owner(&key) {
                    dirt_of(dirt, other).addresses.insert(key.clone());
                }
            }
        }
    }

    /// Which addresses were announced, is told of with them.
    fn note_placement(&self, edit: &Edit<Placement>, dirt: &mut BTreeMap<Name, Dirt>) {
        let Placement { group, cluster, .. } = &**edit.subject();
        let known = self.clusters.get(cluster);
        if let Some(group) = known.and_then(|known| known.groups.get(group)) {
            let addresses = group.addresses.iter().cloned();
            dirt_of(dirt, cluster).addresses.extend(addresses);
        }
    }

    fn note_node(&mut self, edit: &Edit<Node>, dirt: &mut BTreeMap<Name, Dirt>) {
        let key = &edit.subject().key;
        let assignments = self.clusters.entry(key.cluster.clone()).or_default();
        let effect = assignments.nodes.update(&key.node, edit.after.as_deref());
        let peers = !assignments.peers.is_empty();
        if effect.candidates || effect.members || peers {
            let dirt = dirt_of(dirt, &key.cluster);
            dirt.peers |= peers;
            dirt.policy |= effect.candidates;
            dirt.members |= effect.members;
        }
    }

    /// `None`: it concerns every cluster.
    fn note_all(
        &self,
        cluster: Option<&Name>,
        dirt: &mut BTreeMap<Name, Dirt>,
        note: impl Fn(&mut Dirt),
    ) {
        match cluster {
            Some(cluster) => note(dirt_of(dirt, cluster)),
            None => self.clusters.keys().for_each(|it| note(dirt_of(dirt, it))),
        }
    }
}

fn dirt_of<'a>(dirt: &'a mut BTreeMap<Name, Dirt>, cluster: &Name) -> &'a mut Dirt {
    dirt.entry(cluster.clone()).or_default()
}

impl Dirt {
    fn note_allocation(&mut self, allocation: &Allocation) {
        self.addresses.extend(keys_of(allocation));
    }

    /// The list of an allocation that may have named the group of one of these addresses until now.
    fn former_list<'a>(
        &self,
        state: &'a State,
        component: &Component,
    ) -> Option<&'a Arc<Placement>> {
        let shares = |held: &[AssignmentKey]| {
            let mut held = held.iter();
            held.any(|key| component.addresses.contains(key))
        };
        let former = self.former.iter().filter(|(_, held)| shares(held));
        former.into_iter().find_map(|(id, _)| state.placement(*id))
    }

    fn note_former(&mut self, allocation: &Allocation) {
        self.former
            .entry(allocation.id)
            .or_insert_with(|| keys_of(allocation).collect());
    }
}

/// What an allocation holds.
pub fn keys_of(allocation: &Allocation) -> impl Iterator<Item = AssignmentKey> {
    allocation.held().map(|(address, pool)| AssignmentKey {
        space: pool.space.clone(),
        address,
    })
}

/// Whether an edit leaves an advertisement as it was.
fn same_policy(edit: &Edit<Advertisement>) -> bool {
    match (&edit.before, &edit.after) {
        (Some(before), Some(after)) => {
            let before = Advertisement {
                revision: after.revision,
                ..Advertisement::clone(before)
            };
            before == **after
        }
        (None, _) | (_, None) => false,
    }
}

/// Whether an edit of a pool changes nothing that advertisements can see.
fn same_appearance(edit: &Edit<Pool>) -> bool {
    match (&edit.before, &edit.after) {
        (Some(before), Some(after)) => before.labels == after.labels,
        (None, _) | (_, None) => false,
    }
}

fn remove_placement(placement: &Arc<Placement>) -> Change {
    Change::Placement(Edit {
        before: Some(Arc::clone(placement)),
        after: None,
    })
}

#[cfg(test)]
mod tests;
