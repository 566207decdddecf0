//! What was last published to the announcers of one cluster. Synchronous: changes go in, frames
//! come out.

use std::collections::BTreeMap;
use std::sync::Arc;

use pharos_proto::digest::{BUCKETS, Digests, assignment_digest, bucket_of};
use pharos_proto::v1;

use super::{Assigned, Frame, frames};
use crate::api::convert_announce::assignments::{
    assignment_to_wire, key_to_wire, members_to_wire, node_set_to_wire, peers_to_wire,
};
use crate::state::announce::{Assignment, AssignmentKey, ClusterDelta, NodeSet, Peers};
use crate::state::names::Name;

#[derive(Debug)]
pub(super) struct Book {
    store_id: String,
    cluster: Name,
    authoritative: bool,
    members: v1::Members,
    members_frame: Frame,
    node_sets: BTreeMap<u64, (Arc<NodeSet>, Frame)>,
    /// `None`: there are none.
    peers: Option<(Arc<Peers>, Frame)>,
    buckets: Vec<Bucket>,
    digests: Digests,
    /// Number of the last frame of changes, or of the last time that everything was sent again.
    position: u64,
    /// From here on what a client lacks it has removed; `None` while nothing may be removed.
    authoritative_since: Option<u64>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// With the digest of each.
    assignments: BTreeMap<AssignmentKey, (Arc<Assignment>, u64)>,
    /// The whole bucket, once somebody has asked for it; none after a change.
    frame: Option<Frame>,
}

impl Book {
    /// A cluster of which nothing is known yet: nothing may be removed for its sake.
    pub(super) fn new(store_id: String, cluster: &Name) -> Self {
        Self {
            store_id,
            cluster: cluster.clone(),
            authoritative: false,
            members: v1::Members::default(),
            members_frame: frames::members(v1::Members::default()),
            node_sets: BTreeMap::new(),
            peers: None,
            buckets: std::iter::repeat_with(Bucket::default)
                .take(BUCKETS)
                .collect(),
            digests: Digests::default(),
            position: 0,
            authoritative_since: None,
        }
    }

    /// Takes in a change, and says what the subscribers have to be sent for it.
    pub(super) fn apply(&mut self, delta: &ClusterDelta) -> Vec<Frame> {
        let mut out = Vec::new();
        if let Some(members) = &delta.members {
            self.members = members_to_wire(members);
            self.members_frame = frames::members(self.members.clone());
            out.push(self.members_frame.clone());
        }
        for set in &delta.node_sets {
            let frame = frames::node_set(node_set_to_wire(set));
            self.node_sets
                .insert(set.id, (Arc::clone(set), frame.clone()));
            out.push(frame);
        }
        if let Some(peers) = &delta.bgp_peers {
            let frame = frames::bgp_peers(peers_to_wire(peers));
            out.push(frame.clone());
            self.peers = (!peers.is_empty()).then(|| (Arc::clone(peers), frame));
        }
        for key in &delta.removals {
            self.remove(key);
        }
        let upserts = delta.upserts.iter();
        let upserts = upserts.filter_map(|assignment| self.upsert(assignment));
        let upserts = upserts.collect();
        let removals = delta.removals.iter().map(key_to_wire).collect();
        out.extend(frames::changes(&mut self.position, upserts, removals));
        for id in &delta.unused_node_sets {
            self.node_sets.remove(id);
        }
        if let Some(authoritative) = delta.authoritative
            && authoritative != self.authoritative
        {
            self.authoritative = authoritative;
            // A position of its own: who had the one before may still have what was removed.
            self.position += 1;
            self.authoritative_since = authoritative.then_some(self.position);
            out.extend(self.resynchronisation());
        }
        out
    }

    /// Goes on from a position of an earlier book of this name.
    pub(super) fn start_at(&mut self, position: u64) {
        self.position = position;
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether a client that has applied the stream up to here answers for nothing else.
    pub(super) fn may_acknowledge(&self, position: u64) -> bool {
        let since = self.authoritative_since;
        since.is_some_and(|since| position >= since && position <= self.position)
    }

    /// Brings a client that has assignments with these digests up to date.
    pub(super) fn snapshot(&mut self, digests: &Digests) -> Vec<Frame> {
        let differing = self.digests.differing(digests);
        self.synchronisation(differing)
    }

    /// All buckets again: what a client kept while nothing could be removed may lie in any of them.
    fn resynchronisation(&mut self) -> Vec<Frame> {
        self.synchronisation((0..BUCKETS).collect())
    }

    fn synchronisation(&mut self, buckets: Vec<usize>) -> Vec<Frame> {
        let header = frames::header(&self.store_id, &self.cluster, self.authoritative);
        let mut out = vec![header, self.members_frame.clone()];
        out.extend(self.node_sets.values().map(|(_, frame)| frame.clone()));
        out.extend(self.peers.iter().map(|(_, frame)| frame.clone()));
        for index in buckets {
            out.push(self.buckets[index].frame(index));
        }
        out.push(frames::synced(self.position));
        out
    }

    /// What is assigned at an address.
    pub(super) fn get(&self, key: &AssignmentKey) -> Option<Assigned> {
        let (assignment, _) = self.buckets[index_of(key)].assignments.get(key)?;
        let candidates = self.node_sets.get(&assignment.candidates);
        Some(Assigned {
            assignment: Arc::clone(assignment),
            candidates: candidates.map(|(set, _)| Arc::clone(set)),
        })
    }

    /// For people.
    pub(super) fn list(&self) -> v1::ListAssignmentsResponse {
        let assignments: BTreeMap<_, _> = self
            .buckets
            .iter()
            .flat_map(|bucket| &bucket.assignments)
            .map(|(key, (assignment, _))| (key, assignment))
            .collect();
        let sets = self.node_sets.values();
        v1::ListAssignmentsResponse {
            store_id: self.store_id.clone(),
            authoritative: self.authoritative,
            assignments: assignments
                .into_values()
                .map(|assignment| assignment_to_wire(assignment))
                .collect(),
            node_sets: sets.map(|(set, _)| node_set_to_wire(set)).collect(),
            members: Some(self.members.clone()),
            bgp_peers: self.peers.as_ref().map(|(peers, _)| peers_to_wire(peers)),
        }
    }

    /// What the announcers are to be told; `None`: they know it already.
    fn upsert(&mut self, assignment: &Arc<Assignment>) -> Option<v1::Assignment> {
        let wire = assignment_to_wire(assignment);
        let index = index_of(&assignment.key);
        let digest = assignment_digest(&wire);
        let bucket = &mut self.buckets[index];
        let entry = (Arc::clone(assignment), digest);
        let before = bucket.assignments.insert(assignment.key.clone(), entry);
        if before.as_ref().is_some_and(|(_, before)| *before == digest) {
            return None;
        }
        bucket.frame = None;
        if let Some((_, before)) = before {
            self.digests.toggle(index, before);
        }
        self.digests.toggle(index, digest);
        Some(wire)
    }

    fn remove(&mut self, key: &AssignmentKey) {
        let index = index_of(key);
        let bucket = &mut self.buckets[index];
        if let Some((_, digest)) = bucket.assignments.remove(key) {
            bucket.frame = None;
            self.digests.toggle(index, digest);
        }
    }
}

impl Bucket {
    fn frame(&mut self, index: usize) -> Frame {
        let assignments = self.assignments.values();
        let encode = || {
            let wire = assignments.map(|(assignment, _)| assignment_to_wire(assignment));
            frames::bucket(index, wire.collect())
        };
        self.frame.get_or_insert_with(encode).clone()
    }
}

fn index_of(key: &AssignmentKey) -> usize {
    let wire = key_to_wire(key);
    bucket_of(&wire.address_space, &wire.address).expect("an address in canonical form parses")
}
