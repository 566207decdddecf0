//! A client of the node stream for tests.

use std::collections::BTreeMap;

use pharos_proto::digest::{Digests, assignment_digest, bucket_of};
use pharos_proto::v1;
use pharos_proto::v1::assignment_update::Update;

/// A client that keeps to the rules of `announcer.proto`.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// What it announces.
    pub(crate) assignments: BTreeMap<(String, String), v1::Assignment>,
    pub(crate) node_sets: BTreeMap<u64, v1::NodeSet>,
    pub(crate) members: Vec<v1::members::Member>,
    pub(crate) authoritative: bool,
    /// `None`: there are none.
    pub(crate) bgp_peers: Option<v1::BgpPeers>,
    /// Buckets received since the last header.
    pending: Option<Vec<v1::assignment_update::Bucket>>,
    pub(crate) position: u64,
    pub(crate) buckets_received: usize,
    pub(crate) synchronisations: usize,
    pub(crate) store_id: String,
}

impl Client {
    pub(crate) fn digests(&self) -> Digests {
        let mut digests = Digests::default();
        for one in self.assignments.values() {
            let bucket = bucket_of(&one.address_space, &one.address).expect("valid");
            digests.toggle(bucket, assignment_digest(one));
        }
        digests
    }

    /// Takes in an update.
    pub(crate) fn apply(&mut self, update: v1::AssignmentUpdate) {
        match update.update.expect("not empty") {
            Update::Header(header) => {
                self.store_id = header.store_id;
                self.authoritative = header.authoritative;
                self.pending = Some(Vec::new());
                // None on start means none.
                self.bgp_peers = None;
            }
            Update::Members(members) => self.members = members.members,
            Update::NodeSet(set) => {
                self.node_sets.insert(set.id, set);
            }
            Update::BgpPeers(told) => {
                let mut peers = told.peers.iter();
                assert!(peers.all(|peer| self.node_sets.contains_key(&peer.nodes)));
                self.bgp_peers = Some(told).filter(|told| !told.peers.is_empty());
            }
            Update::Bucket(bucket) => {
                self.buckets_received += 1;
                let pending = self.pending.as_mut();
                pending.expect("only while synchronising").push(bucket);
            }
            Update::Synced(synced) => {
                assert!(synced.position >= self.position);
                self.position = synced.position;
                self.synchronisations += 1;
                for bucket in self.pending.take().expect("a header came before") {
                    self.replace(bucket);
                }
            }
            Update::Changes(changes) => {
                assert!(self.pending.is_none(), "no change while synchronising");
                assert_eq!(changes.position, self.position + 1, "no gap, no repetition");
                self.position = changes.position;
                for one in changes.removals {
                    if self.authoritative {
                        self.assignments.remove(&(one.address_space, one.address));
                    }
                }
                for one in changes.upserts {
                    self.insert(one);
                }
            }
        }
    }

    fn insert(&mut self, one: v1::Assignment) {
        let candidates = one.l2.iter().map(|_| one.candidates);
        let mut sets = candidates.chain(one.bgp.iter().map(|entry| entry.nodes));
        assert!(
            sets.all(|id| self.node_sets.contains_key(&id)),
            "sent before"
        );
        let key = (one.address_space.clone(), one.address.clone());
        self.assignments.insert(key, one);
    }

    fn replace(&mut self, bucket: v1::assignment_update::Bucket) {
        let index = usize::try_from(bucket.index).expect("small");
        if self.authoritative {
            self.assignments
                .retain(|(space, address), _| bucket_of(space, address) != Ok(index));
        }
        for one in bucket.assignments {
            self.insert(one);
        }
    }

    /// A new connection begins: positions start again.
    pub(crate) fn begin(&mut self) {
        self.position = 0;
        self.pending = None;
        self.buckets_received = 0;
    }

    /// Has exactly what the server lists.
    pub(crate) fn equals(&self, listed: &v1::ListAssignmentsResponse) -> bool {
        let key = |one: &v1::Assignment| (one.address_space.clone(), one.address.clone());
        let expected = listed.assignments.iter();
        let expected: BTreeMap<_, _> = expected.map(|one| (key(one), one.clone())).collect();
        let members = listed.members.clone().unwrap_or_default().members;
        self.assignments == expected
            && self.members == members
            && self.bgp_peers == listed.bgp_peers
            && self.authoritative == listed.authoritative
    }
}
