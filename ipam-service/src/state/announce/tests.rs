//! A small world in which the tests make facts and look at assignments.

mod by_node;
mod explained;
mod fenced;
mod groups;
mod peers;
mod probes;
mod properties;
mod routed;
mod silent;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use pharos_proto::feature::FENCED;

use super::*;
use crate::state::address::AddressRange;
use crate::state::model::{
    AdvertisementProtocol, Announcer, Backends, BackendsPolicy, Claim, Cluster, DualStackPools,
    EntryNodes, Families, Inventory, Labels, NodeKey, Owner, PoolKey, PreferredNodes, ReportedNode,
    RouteAttributes, Standing, Timestamp,
};
use crate::state::selector::LabelSelector;

const SPACE: &str = "default";

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid name")
}

fn names(texts: &[&str]) -> BTreeSet<Name> {
    texts.iter().map(|text| name(text)).collect()
}

fn owned(list: Vec<&str>) -> Vec<String> {
    list.into_iter().map(str::to_owned).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: labels(&[(key, value)]),
        match_expressions: Vec::new(),
    }
}

fn address(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().expect("valid address"))
}

fn owner_key(cluster: &str, owner: &str) -> OwnerKey {
    OwnerKey {
        cluster: name(cluster),
        namespace: Some(name("default")),
        name: name(owner),
    }
}

/// What an owner holds, and how it is served.
#[derive(Debug, Clone)]
struct Held {
    addresses: Vec<Address>,
    pool: PoolKey,
    second_pool: Option<PoolKey>,
    reported: bool,
    labels: Labels,
}

fn held(addresses: &[&str]) -> Held {
    Held {
        addresses: addresses.iter().map(|text| address(text)).collect(),
        pool: pool_key(None, "pool"),
        second_pool: None,
        reported: false,
        labels: Labels::new(),
    }
}

impl Held {
    fn reported(self) -> Self {
        Self {
            reported: true,
            ..self
        }
    }

    fn labelled(self, pairs: &[(&str, &str)]) -> Self {
        Self {
            labels: labels(pairs),
            ..self
        }
    }

    fn out_of(self, pool: PoolKey) -> Self {
        Self { pool, ..self }
    }

    fn and(self, second: PoolKey) -> Self {
        let second_pool = Some(second);
        Self {
            second_pool,
            ..self
        }
    }
}

fn pool_key(cluster: Option<&str>, pool: &str) -> PoolKey {
    PoolKey::new(name(SPACE), cluster.map(name), name(pool))
}

fn advertisement(cluster: Option<&str>, own_name: &str) -> Advertisement {
    let key = cluster.map(|cluster| format!("{cluster}/{own_name}"));
    crate::testing::advertisement(key.as_deref().unwrap_or(own_name))
}

fn with_l2(
    one: Advertisement,
    interfaces: &[&str],
    preferred: &[(u32, LabelSelector)],
) -> Advertisement {
    let preferred = preferred.iter().map(|(weight, selector)| PreferredNodes {
        weight: *weight,
        selector: selector.clone(),
    });
    Advertisement {
        protocol: AdvertisementProtocol::L2 {
            interfaces: interfaces.iter().map(|text| (*text).to_owned()).collect(),
            preferred_nodes: preferred.collect(),
            ownership: crate::state::model::Ownership::Available,
        },
        ..one
    }
}

/// The state, the announcements made from it, and what an announcer would have by the deltas.
struct World {
    state: State,
    announcements: Announcements,
    followed: BTreeMap<Name, Follower>,
    /// Whether owners of fenced addresses may be asked to make room.
    moves: bool,
    /// Deltas of the last batch.
    last: BTreeMap<Name, ClusterDelta>,
}

#[derive(Debug, Default, PartialEq)]
struct Follower {
    authoritative: bool,
    members: Vec<Member>,
    peers: Arc<Peers>,
    node_sets: BTreeMap<u64, Arc<NodeSet>>,
    assignments: BTreeMap<AssignmentKey, Arc<Assignment>>,
}

impl Follower {
    fn apply(&mut self, delta: &ClusterDelta) {
        if let Some(authoritative) = delta.authoritative {
            self.authoritative = authoritative;
        }
        if let Some(members) = &delta.members {
            self.members = members.clone();
        }
        if let Some(peers) = &delta.bgp_peers {
            assert_ne!(self.peers, *peers, "told without a change");
            self.peers = Arc::clone(peers);
        }
        for set in &delta.node_sets {
            self.node_sets.insert(set.id, Arc::clone(set));
        }
        for key in &delta.removals {
            assert!(self.assignments.remove(key).is_some(), "removal of nothing");
        }
        for assignment in &delta.upserts {
            let before = self
                .assignments
                .insert(assignment.key.clone(), Arc::clone(assignment));
            assert_ne!(before.as_ref(), Some(assignment), "upsert without a change");
        }
        for id in &delta.unused_node_sets {
            assert!(self.node_sets.remove(id).is_some(), "unknown set");
        }
    }
}

/// Whom the owner of a fenced address is to make room for is found out again after a start.
fn as_stored(assignment: &Assignment) -> Assignment {
    let fenced = assignment.fenced.clone();
    Assignment {
        fenced: fenced.map(|fenced| Fenced {
            next: None,
            ..fenced
        }),
        ..assignment.clone()
    }
}

impl World {
    /// A cluster `east` with an operator's pool `pool`, an advertisement of all pools and these
    /// nodes.
    fn east(nodes: &[&str]) -> Self {
        let mut world = Self::empty();
        world.cluster("east");
        world.pool(pool_key(None, "pool"), &[]);
        world.advertise(advertisement(Some("east"), "all"));
        for node in nodes {
            world.announcer("east", node);
        }
        world
    }

    fn empty() -> Self {
        Self {
            state: State::new(),
            announcements: Announcements::default(),
            followed: BTreeMap::new(),
            moves: true,
            last: BTreeMap::new(),
        }
    }

    /// A batch: applied, refreshed, followed; and compared with doing everything from scratch.
    fn batch(&mut self, changes: Vec<Change>) {
        for change in &changes {
            self.state.apply(change);
        }
        self.publish(&changes);
    }

    /// The second half of a batch that is applied.
    fn publish(&mut self, changes: &[Change]) {
        let touched = self.state.leases_mut().take_touched();
        let moves = self.moves;
        let owners = Owners::Named { touched, moves };
        let refresh = self.announcements.refresh(&self.state, changes, owners);
        for change in &refresh.choices {
            self.state.apply(change);
        }
        for (cluster, delta) in &refresh.deltas {
            let followed = self.followed.entry(cluster.clone());
            followed.or_default().apply(delta);
        }
        self.last = refresh.deltas;
        self.check();
    }

    /// Incremental = from scratch = what the deltas add up to.
    fn check(&self) {
        let (rebuilt, changes) = Announcements::rebuild(&self.state);
        assert_eq!(changes, [], "the stored lists are settled");
        for cluster in self.state.clusters() {
            let name = &cluster.name;
            let read = |announcements: &Announcements| {
                let mut follower = Follower::default();
                if let Some(cluster) = announcements.cluster(name) {
                    follower.apply(&cluster.everything());
                }
                follower
            };
            let now = read(&self.announcements);
            let mut stored = read(&self.announcements);
            for assignment in stored.assignments.values_mut() {
                *assignment = Arc::new(as_stored(assignment));
            }
            assert_eq!(stored, read(&rebuilt), "incremental and from scratch");
            let empty = Follower::default();
            assert_eq!(&now, self.followed.get(name).unwrap_or(&empty));
            let used: BTreeSet<_> = now
                .assignments
                .values()
                .flat_map(|one| one.node_sets())
                .chain(now.peers.peers.iter().map(|peer| peer.nodes.id))
                .collect();
            assert!(
                used.iter().eq(now.node_sets.keys()),
                "sets are those in use"
            );
            silent::check(self, name);
        }
    }

    fn one(&mut self, change: Change) {
        self.batch(vec![change]);
    }

    fn next_revision(&self) -> u64 {
        self.state.revision() + 1
    }

    fn cluster(&mut self, cluster: &str) {
        self.inventory(cluster, Inventory::Complete);
    }

    fn inventory(&mut self, cluster: &str, inventory: Inventory) {
        let after = Cluster {
            name: name(cluster),
            uid: String::new(),
            inventory,
            fence: 0,
            create_time: Timestamp(0),
            revision: self.next_revision(),
        };
        self.one(Change::Cluster(Edit {
            before: self.state.cluster(cluster).cloned(),
            after: Some(Arc::new(after)),
        }));
    }

    fn pool(&mut self, key: PoolKey, pairs: &[(&str, &str)]) {
        let texts = ["192.0.2.0/24", "2001:db8::/64"];
        let ranges = texts.map(|text| AddressRange::parse(text).expect("valid"));
        let pool = Pool {
            key: key.clone(),
            addresses: texts.map(str::to_owned).to_vec(),
            ranges: ranges.to_vec(),
            auto_assign: true,
            avoid_buggy_ips: false,
            priority: 0,
            namespaces: BTreeSet::new(),
            namespace_selectors: Vec::new(),
            service_selectors: Vec::new(),
            labels: labels(pairs),
            protected: false,
            reuse_delay: std::time::Duration::ZERO,
            reuse_unacknowledged: std::time::Duration::from_secs(300),
            revision: self.next_revision(),
        };
        self.one(Change::Pool(Edit {
            before: self.state.pool(&key).cloned(),
            after: Some(Arc::new(pool)),
        }));
    }

    fn drop_pool(&mut self, key: &PoolKey) {
        let before = self.state.pool(key).cloned();
        self.one(Change::Pool(Edit {
            before,
            after: None,
        }));
    }

    fn advertise(&mut self, advertisement: Advertisement) {
        let advertisement = Advertisement {
            revision: self.next_revision(),
            ..advertisement
        };
        let before = self.state.advertisement(&advertisement.key).cloned();
        self.one(Change::Advertisement(Edit {
            before,
            after: Some(Arc::new(advertisement)),
        }));
    }

    fn drop_advertisement(&mut self, cluster: Option<&str>, own_name: &str) {
        let key = advertisement(cluster, own_name).key;
        let before = self.state.advertisement(&key).cloned();
        self.one(Change::Advertisement(Edit {
            before,
            after: None,
        }));
    }

    fn node_edit(&self, cluster: &str, node: &str, edit: impl FnOnce(&mut Node)) -> Change {
        let key = NodeKey {
            cluster: name(cluster),
            node: name(node),
        };
        let before = self.state.node(&key).cloned();
        let mut after = before.as_deref().cloned().unwrap_or(Node {
            key,
            reported: None,
            removed: false,
            announcer: None,
        });
        edit(&mut after);
        let gone = after.reported.is_none() && after.announcer.is_none();
        Change::Node(Edit {
            before,
            after: (!gone).then(|| Arc::new(after)),
        })
    }

    fn announcer(&mut self, cluster: &str, node: &str) {
        let change = self.node_edit(cluster, node, |after| {
            after.announcer = Some(Announcer {
                labels: labels(&[("host", node)]),
                member_endpoint: format!("{node}:7946"),
                features: [FENCED.to_owned()].into(),
            });
        });
        self.one(change);
    }

    fn report(&mut self, cluster: &str, node: &str, pairs: &[(&str, &str)], reason: &str) {
        let change = self.node_edit(cluster, node, |after| {
            after.reported = Some(ReportedNode {
                labels: labels(pairs),
                unavailable_reason: reason.to_owned(),
            });
        });
        self.one(change);
    }

    fn lose_node(&mut self, cluster: &str, node: &str) {
        let change = self.node_edit(cluster, node, |after| {
            after.reported = None;
            after.announcer = None;
        });
        self.one(change);
    }

    fn hold_edit(&self, cluster: &str, owner: &str, held: Option<Held>) -> Change {
        let key = owner_key(cluster, owner);
        let before = self.state.allocation(&key).cloned();
        let id = before.as_ref().map_or(self.next_revision(), |one| one.id);
        let after = held.map(|held| {
            let claim = Claim {
                space: name(SPACE),
                families: Families::Any,
                dual_stack_pools: DualStackPools::OnePool,
                pool: None,
                reservation: None,
                addresses: Vec::new(),
                ports: Vec::new(),
                sharing_key: "shared".to_owned(),
                backend_key: String::new(),
                labels: held.labels,
                namespace_labels: Labels::new(),
                backends: if held.reported {
                    BackendsPolicy::Reported
                } else {
                    BackendsPolicy::Unmanaged
                },
            };
            Arc::new(Allocation {
                id,
                owner: Owner {
                    key,
                    uid: String::new(),
                },
                claim: Arc::new(claim),
                standing: Standing::Assigned,
                addresses: held.addresses,
                pool: Some(held.pool),
                second_pool: held.second_pool,
                outside_grant: false,
                revision: self.next_revision(),
                create_time: Timestamp(0),
            })
        });
        Change::Allocation(Edit { before, after })
    }

    fn hold(&mut self, cluster: &str, owner: &str, held: Held) {
        let change = self.hold_edit(cluster, owner, Some(held));
        self.one(change);
    }

    fn release(&mut self, cluster: &str, owner: &str) {
        let change = self.hold_edit(cluster, owner, None);
        self.one(change);
    }

    fn backends_edit(&self, cluster: &str, owner: &str, entry: Option<EntryNodes>) -> Change {
        let owner = owner_key(cluster, owner);
        let before = self.state.backends(&owner).cloned();
        let after = entry.map(|entry| Arc::new(Backends { owner, entry }));
        Change::Backends(Edit { before, after })
    }

    fn serve(&mut self, cluster: &str, owner: &str, nodes: &[&str]) {
        let entry = EntryNodes::Only(names(nodes));
        let change = self.backends_edit(cluster, owner, Some(entry));
        self.one(change);
    }

    fn serve_anywhere(&mut self, cluster: &str, owner: &str) {
        let change = self.backends_edit(cluster, owner, Some(EntryNodes::Any));
        self.one(change);
    }

    fn assignment(&self, cluster: &str, text: &str) -> Option<&Assignment> {
        let mut all = self.announcements.cluster(cluster)?.assignments();
        all.find(|one| one.key.address == address(text))
            .map(|one| &**one)
    }

    fn list(&self, cluster: &str, text: &str) -> Vec<&str> {
        let assignment = self.assignment(cluster, text);
        assignment.map_or(Vec::new(), |one| {
            one.nodes.iter().map(Name::as_str).collect()
        })
    }

    fn candidates(&self, cluster: &str, text: &str) -> Vec<&str> {
        let Some(assignment) = self.assignment(cluster, text) else {
            return Vec::new();
        };
        let cluster = self.announcements.cluster(cluster).expect("known");
        let set = cluster
            .node_sets()
            .find(|set| set.id == assignment.candidates)
            .expect("a set that is referred to is there");
        set.nodes.iter().map(Name::as_str).collect()
    }

    /// The interfaces of a node.
    fn interfaces(&self, cluster: &str, text: &str, node: &str) -> Vec<String> {
        let assignment = self.assignment(cluster, text).expect("announced");
        let interfaces = assignment.interfaces.as_ref().expect("by layer 2");
        let mut by_nodes = interfaces.by_nodes.iter();
        let own = by_nodes.find(|entry| entry.nodes.nodes.contains(&name(node)));
        own.map_or(&interfaces.names, |entry| &entry.interfaces)
            .clone()
    }

    fn id(&self, cluster: &str, owner: &str) -> AllocationId {
        let key = owner_key(cluster, owner);
        self.state.allocation(&key).expect("held").id
    }
}
