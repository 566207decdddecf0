//! The assignments that a node has: what the stream told, and what follows from it.
//!
//! Pure. It applies the frames of the stream by the client rules of `announcer.proto`: nothing
//! between `header` and `synced` takes effect before `synced`; a synchronisation is applied as a
//! difference; while the server is not authoritative nothing is removed. Disconnecting changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use pharos_lease::Term;
use pharos_proto::digest::{BUCKETS, Digests, assignment_digest, bucket_of};
use pharos_proto::net::parse_address;
use pharos_proto::v1;
use pharos_proto::v1::assignment::L2;
use pharos_proto::v1::assignment_update::{Bucket, Changes, Header, Update};

use crate::election::{GroupId, NodeName, Wanted, WantedBy};
use crate::fenced::Told;

mod peers;
mod shelf;
#[cfg(test)]
mod tests;

use shelf::Shelf;

/// An address in its address space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub space: String,
    pub address: IpAddr,
}

/// One address that is to be announced, with its candidates spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    pub key: Key,
    pub group: GroupId,
    pub listed: Vec<NodeName>,
    pub candidates: Arc<[NodeName]>,
    /// `None`: not by layer 2.
    pub wanted: Option<WantedBy>,
    /// `cluster/namespace/name` of who uses it.
    pub owners: Vec<String>,
    /// Nobody has answered for it yet: who is the first asks whether another machine has it.
    pub probe: bool,
    /// Set: only who is named here answers. Whether this node is a candidate is not said.
    pub fenced: Option<Told>,
}

/// A node that runs an announcer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub node: String,
    /// `address:port`.
    pub endpoint: String,
}

/// What a frame changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    pub upserts: Vec<Assigned>,
    pub removals: Vec<Key>,
    /// The whole list, if it was told.
    pub members: Option<Vec<Member>>,
    /// The BGP peers with the nodes that are to have the sessions, all of them, if they changed.
    pub bgp_peers: Option<Vec<(String, Arc<[NodeName]>)>>,
    /// The position that has been reached.
    pub position: Option<u64>,
    /// A synchronisation was completed.
    pub synced: bool,
    /// Something that was there before is gone, or may be for this node: removed, or with other
    /// candidates, or fenced from now on.
    pub takes_away: bool,
    /// What the frame said that is of no use here, for people.
    pub ignored: Vec<String>,
}

/// A stream that does not keep to the protocol; it is left and begun anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("{0} before header")]
    NoHeader(&'static str),
    #[error("changes before synced")]
    ChangesBeforeSynced,
    #[error("bucket {0} does not exist")]
    NoSuchBucket(u32),
    #[error("the stream is for cluster {0:?}")]
    OtherCluster(String),
}

/// An assignment that names no address that a host can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an assignment of {0:?}, which is no address of a host")]
struct BadAddress(String);

/// Everything that is kept, in the form in which it was told. This is what the disk has too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    pub store_id: String,
    pub assignments: Vec<v1::Assignment>,
    pub node_sets: Vec<v1::NodeSet>,
    pub members: Vec<Member>,
    pub bgp_peers: v1::BgpPeers,
}

/// The assignments of a cluster.
#[derive(Debug)]
pub struct Book {
    cluster: String,
    store_id: String,
    shelf: Shelf,
    node_sets: HashMap<u64, Arc<[NodeName]>>,
    members: Vec<Member>,
    bgp_peers: v1::BgpPeers,
    sync: Sync,
    /// Assignments or BGP peers changed since the last node set was told.
    changed_since_set: bool,
}

#[derive(Debug)]
enum Sync {
    /// No header yet.
    Waiting,
    /// Between header and synced.
    Collecting {
        header: Header,
        buckets: BTreeMap<usize, BTreeMap<Key, v1::Assignment>>,
        members: Option<Vec<Member>>,
        bgp_peers: v1::BgpPeers,
    },
    /// After synced.
    Live { authoritative: bool },
}

impl Book {
    /// Knows nothing.
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            store_id: String::new(),
            shelf: Shelf::default(),
            node_sets: HashMap::new(),
            members: Vec::new(),
            bgp_peers: v1::BgpPeers::default(),
            sync: Sync::Waiting,
            changed_since_set: false,
        }
    }

    /// Knows what was kept. Assignments that cannot be read are left out, so that the digests of
    /// their buckets differ and the server sends them again.
    pub fn restore(cluster: &str, contents: Contents) -> Self {
        let mut book = Self::new(cluster);
        book.store_id = contents.store_id;
        book.members = contents.members;
        book.bgp_peers = contents.bgp_peers;
        for set in contents.node_sets {
            book.add_node_set(set);
        }
        for assignment in contents.assignments {
            if let Ok(place) = place(&assignment) {
                book.shelf.insert(place, &assignment);
            }
        }
        book
    }

    /// Everything, to be kept.
    pub fn contents(&self) -> Contents {
        let mut node_sets: Vec<v1::NodeSet> = self
            .node_sets
            .iter()
            .map(|(id, nodes)| v1::NodeSet {
                id: *id,
                nodes: nodes.iter().map(ToString::to_string).collect(),
            })
            .collect();
        node_sets.sort_by_key(|set| set.id);
        Contents {
            store_id: self.store_id.clone(),
            assignments: self.shelf.iter().map(|(_, _, one)| one).collect(),
            node_sets,
            members: self.members.clone(),
            bgp_peers: self.bgp_peers.clone(),
        }
    }

    /// The store that the assignments are from; empty if none.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// The members as last told.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.shelf.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that is to be announced.
    pub fn assigned(&self) -> Vec<Assigned> {
        let all = self.shelf.iter();
        all.map(|(_, key, assignment)| self.resolve(key, &assignment))
            .collect()
    }

    /// The spaces in which an address is to be announced.
    pub fn spaces_of(&self, address: IpAddr) -> Vec<String> {
        let keys = self.shelf.keys().filter(|key| key.address == address);
        keys.map(|key| key.space.clone()).collect()
    }

    /// Digests of everything; `None` if there is nothing.
    pub fn digests(&self) -> Option<Digests> {
        if self.is_empty() {
            return None;
        }
        let mut digests = Digests::default();
        for (bucket, _, assignment) in self.shelf.iter() {
            digests.toggle(bucket, assignment_digest(&assignment));
        }
        Some(digests)
    }

    /// The stream ended, or a new one begins: what was not complete is dropped, nothing else.
    pub fn disconnected(&mut self) {
        self.sync = Sync::Waiting;
    }

    /// Takes in a frame: all of it, or, with an error, nothing.
    pub fn apply(&mut self, frame: v1::AssignmentUpdate) -> Result<Difference, StreamError> {
        let Some(update) = frame.update else {
            return Ok(Difference {
                ignored: vec!["a frame of a kind that this version does not know".to_owned()],
                ..Difference::default()
            });
        };
        match update {
            Update::Header(header) => self.on_header(header),
            Update::Members(members) => self.on_members(members),
            Update::NodeSet(set) => {
                // A set says nothing by itself: it may be known before `synced`.
                self.make_room_for_sets();
                self.add_node_set(set);
                Ok(Difference::default())
            }
            Update::BgpPeers(told) => self.on_bgp_peers(told),
            Update::Bucket(bucket) => self.on_bucket(bucket),
            Update::Synced(synced) => self.on_synced(synced.position),
            Update::Changes(changes) => self.on_changes(changes),
        }
    }

    fn on_header(&mut self, header: Header) -> Result<Difference, StreamError> {
        if header.cluster != self.cluster {
            return Err(StreamError::OtherCluster(header.cluster));
        }
        self.sync = Sync::Collecting {
            header,
            buckets: BTreeMap::new(),
            members: None,
            // None on start means none.
            bgp_peers: v1::BgpPeers::default(),
        };
        Ok(Difference::default())
    }

    fn on_members(&mut self, told: v1::Members) -> Result<Difference, StreamError> {
        let told: Vec<Member> = told
            .members
            .into_iter()
            .map(|member| Member {
                node: member.node,
                endpoint: member.endpoint,
            })
            .collect();
        match &mut self.sync {
            Sync::Waiting => Err(StreamError::NoHeader("members")),
            Sync::Collecting { members, .. } => {
                *members = Some(told);
                Ok(Difference::default())
            }
            Sync::Live { authoritative } => {
                let authoritative = *authoritative;
                Ok(Difference {
                    members: Some(self.take_members(told, authoritative)),
                    ..Difference::default()
                })
            }
        }
    }

    /// A server that does not know everything yet may not know every member either.
    fn take_members(&mut self, mut told: Vec<Member>, authoritative: bool) -> Vec<Member> {
        if !authoritative {
            let named: BTreeSet<String> = told.iter().map(|member| member.node.clone()).collect();
            let kept = self
                .members
                .iter()
                .filter(|member| !named.contains(&member.node));
            told.extend(kept.cloned());
        }
        self.members.clone_from(&told);
        told
    }

    fn on_bgp_peers(&mut self, told: v1::BgpPeers) -> Result<Difference, StreamError> {
        match &mut self.sync {
            Sync::Waiting => Err(StreamError::NoHeader("bgp_peers")),
            Sync::Collecting { bgp_peers, .. } => {
                *bgp_peers = told;
                Ok(Difference::default())
            }
            Sync::Live { authoritative } => {
                // The sets of those that were before may be in use no more.
                self.changed_since_set = true;
                let is_news = peers::take(&mut self.bgp_peers, told, *authoritative);
                Ok(Difference {
                    bgp_peers: is_news.then(|| self.bgp_peers()),
                    ..Difference::default()
                })
            }
        }
    }

    /// The BGP peers by name, with the nodes that are to have a session with each.
    pub fn bgp_peers(&self) -> Vec<(String, Arc<[NodeName]>)> {
        let peers = self.bgp_peers.peers.iter();
        let named = peers.map(|one| {
            let nodes = self.node_sets.get(&one.nodes).cloned();
            (peers::name(one).to_owned(), nodes.unwrap_or_default())
        });
        named.collect()
    }

    fn on_bucket(&mut self, bucket: Bucket) -> Result<Difference, StreamError> {
        let Sync::Collecting { buckets, .. } = &mut self.sync else {
            return Err(StreamError::NoHeader("bucket"));
        };
        let index = usize::try_from(bucket.index)
            .ok()
            .filter(|index| *index < BUCKETS)
            .ok_or(StreamError::NoSuchBucket(bucket.index))?;
        let mut contents = BTreeMap::new();
        let mut ignored = Vec::new();
        for assignment in bucket.assignments {
            match place(&assignment) {
                Ok((own, key)) if own == index => {
                    contents.insert(key, assignment);
                }
                Ok((own, key)) => ignored.push(format!(
                    "an assignment of {} in bucket {index} instead of {own}",
                    key.address
                )),
                Err(bad) => ignored.push(bad.to_string()),
            }
        }
        buckets.insert(index, contents);
        Ok(Difference {
            ignored,
            ..Difference::default()
        })
    }

    fn on_synced(&mut self, position: u64) -> Result<Difference, StreamError> {
        let Sync::Collecting {
            header,
            buckets,
            members,
            bgp_peers,
        } = std::mem::replace(&mut self.sync, Sync::Waiting)
        else {
            return Err(StreamError::NoHeader("synced"));
        };
        let authoritative = header.authoritative;
        let mut difference = Difference {
            position: Some(position),
            synced: true,
            ..Difference::default()
        };
        for (index, told) in buckets {
            self.replace_bucket(index, told, authoritative, &mut difference);
        }
        self.store_id = header.store_id;
        self.sync = Sync::Live { authoritative };
        difference.members = members.map(|told| self.take_members(told, authoritative));
        let is_news = peers::take(&mut self.bgp_peers, bgp_peers, authoritative);
        difference.bgp_peers = is_news.then(|| self.bgp_peers());
        self.drop_unused_node_sets();
        Ok(difference)
    }

    fn replace_bucket(
        &mut self,
        index: usize,
        mut told: BTreeMap<Key, v1::Assignment>,
        authoritative: bool,
        difference: &mut Difference,
    ) {
        let before = self.shelf.take(index);
        for (key, assignment) in &told {
            let known = before.get(key);
            if known != Some(assignment) {
                difference.takes_away |= self.is_taken_away(known, assignment);
                difference.upserts.push(self.resolve(key, assignment));
            }
        }
        for (key, assignment) in before {
            if told.contains_key(&key) {
                continue;
            }
            if authoritative {
                difference.takes_away = true;
                difference.removals.push(key);
            } else {
                told.insert(key, assignment);
            }
        }
        for (key, assignment) in told {
            self.shelf.insert((index, key), &assignment);
        }
    }

    fn on_changes(&mut self, changes: Changes) -> Result<Difference, StreamError> {
        let authoritative = match &self.sync {
            Sync::Live { authoritative } => *authoritative,
            Sync::Collecting { .. } => return Err(StreamError::ChangesBeforeSynced),
            Sync::Waiting => return Err(StreamError::NoHeader("changes")),
        };
        let mut difference = Difference {
            position: Some(changes.position),
            ..Difference::default()
        };
        self.changed_since_set = true;
        // What is both removed and told anew is there afterwards.
        for removal in changes.removals {
            match place_key(&removal.address_space, &removal.address) {
                Ok(place) => {
                    if authoritative && self.shelf.remove(&place) {
                        difference.takes_away = true;
                        difference.removals.push(place.1);
                    }
                }
                Err(bad) => difference.ignored.push(bad.to_string()),
            }
        }
        for assignment in changes.upserts {
            match place(&assignment) {
                Ok(place) => {
                    difference.upserts.push(self.resolve(&place.1, &assignment));
                    let known = self.shelf.get(&place);
                    difference.takes_away |= self.is_taken_away(known.as_ref(), &assignment);
                    self.shelf.insert(place, &assignment);
                }
                Err(bad) => difference.ignored.push(bad.to_string()),
            }
        }
        Ok(difference)
    }

    /// Whether an address may have lost this node, by what was known of it and what is told now.
    fn is_taken_away(&self, known: Option<&v1::Assignment>, told: &v1::Assignment) -> bool {
        let is_set_known = self.node_sets.contains_key(&told.candidates);
        known.is_some_and(|known| {
            known.candidates != told.candidates
                || (!is_set_known && known.nodes != told.nodes)
                || known.bgp != told.bgp
                || (known.fenced.is_none() && told.fenced.is_some())
        })
    }

    fn add_node_set(&mut self, set: v1::NodeSet) {
        let nodes = set.nodes.iter().map(|node| NodeName::from(node.as_str()));
        self.node_sets.insert(set.id, nodes.collect());
    }

    /// Sets come before the changes that refer to them. So when one comes after changes, those that
    /// nothing refers to belong to changes that are past.
    fn make_room_for_sets(&mut self) {
        let is_live = matches!(self.sync, Sync::Live { .. });
        if is_live && std::mem::take(&mut self.changed_since_set) {
            self.drop_unused_node_sets();
        }
    }

    /// The server tells a set again before it refers to it again.
    fn drop_unused_node_sets(&mut self) {
        let mut used = BTreeSet::new();
        for (_, _, assignment) in self.shelf.iter() {
            used.extend(sets_of(&assignment));
        }
        used.extend(peers::sets_of(&self.bgp_peers));
        self.node_sets.retain(|id, _| used.contains(id));
    }

    fn resolve(&self, key: &Key, assignment: &v1::Assignment) -> Assigned {
        let candidates = self.node_sets.get(&assignment.candidates).cloned();
        let known = |node: &String| {
            let mut names = candidates.iter().flat_map(|names| names.iter());
            let known = names.find(|name| ***name == **node).cloned();
            // A name stands once in memory, not once for each address.
            known.unwrap_or_else(|| NodeName::from(node.as_str()))
        };
        let listed: Vec<NodeName> = assignment.nodes.iter().map(known).collect();
        Assigned {
            key: key.clone(),
            group: GroupId(assignment.group),
            candidates: candidates.unwrap_or_else(|| listed.as_slice().into()),
            listed,
            wanted: assignment.l2.as_ref().map(|l2| self.wanted(l2)),
            owners: assignment.owners.clone(),
            probe: assignment.probe,
            fenced: assignment.fenced.as_ref().map(told),
        }
    }

    /// A server that refers to a set has told it; without it the nodes are not told apart.
    fn wanted(&self, l2: &L2) -> WantedBy {
        let by_nodes = l2.by_nodes.iter().filter_map(|entry| {
            let nodes = Arc::clone(self.node_sets.get(&entry.nodes)?);
            Some((nodes, Wanted::named(&entry.interfaces)))
        });
        WantedBy::new(Wanted::named(&l2.interfaces), by_nodes.collect())
    }
}

fn told(fenced: &v1::assignment::Fenced) -> Told {
    let name = |node: &str| (!node.is_empty()).then(|| NodeName::from(node));
    Told {
        owner: name(&fenced.owner).map(|owner| (owner, Term(fenced.term))),
        epoch: fenced.epoch,
        next: name(&fenced.next),
        candidate: false,
    }
}

/// The sets of nodes that an assignment refers to.
fn sets_of(assignment: &v1::Assignment) -> impl Iterator<Item = u64> {
    let by_nodes = assignment.l2.iter().flat_map(|l2| &l2.by_nodes);
    let by_nodes = by_nodes.map(|entry| entry.nodes);
    let announcers = assignment.bgp.iter().map(|entry| entry.nodes);
    std::iter::once(assignment.candidates)
        .chain(by_nodes)
        .chain(announcers)
}

fn place(assignment: &v1::Assignment) -> Result<(usize, Key), BadAddress> {
    place_key(&assignment.address_space, &assignment.address)
}

fn place_key(space: &str, address: &str) -> Result<(usize, Key), BadAddress> {
    let bad = || BadAddress(address.chars().take(64).collect());
    let parsed = parse_address(address).map_err(|_| bad())?;
    if !is_of_a_host(parsed) {
        return Err(bad());
    }
    let bucket = bucket_of(space, address).map_err(|_| bad())?;
    let key = Key {
        space: space.to_owned(),
        address: parsed,
    };
    Ok((bucket, key))
}

fn is_of_a_host(address: IpAddr) -> bool {
    let is_broadcast = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}
