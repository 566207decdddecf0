//! Which nodes may be answering for an address: the candidates of its assignment, and those that
//! were candidates and have not acknowledged yet that they no longer are.
//!
//! Derived from what was published to the announcers and from what they acknowledged; no part of
//! the store. Positions are those of a cluster's assignment stream in this run of the server. When a
//! cluster is deleted its stream ends, and whoever bears its name afterwards has another one: an
//! acknowledgement counts for the stream that it came on, and for no other.
//!
//! | room | its one matter |
//! |---|---|
//! | `waits` | what waits until every node of a set has acknowledged |
//! | `former` | who was a candidate of an address |
//! | `unheard` | fenced addresses that somebody may still answer for freely |

mod former;
mod unheard;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::former::{Departure, Differences, Former, Left};
use self::unheard::{Limit, Unheard};
use self::waits::{Acks, Waits};
use super::announce::{Assignment, AssignmentKey, ClusterDelta, NodeSet};
use super::model::{Moment, NodeKey, Revision, Unavailable, UnavailableKey};
use super::names::Name;

/// How often it is looked whether former candidates can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Where a cluster's stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPlace {
    /// Which one of those that the name had in this run of the server.
    pub stream: u64,
    pub position: u64,
}

/// A node has applied its stream up to here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub node: NodeKey,
    pub place: StreamPlace,
}

/// What was published to the announcers.
pub struct Published<'a> {
    pub deltas: &'a BTreeMap<Name, ClusterDelta>,
    /// How far the streams were that ended, because their cluster was deleted.
    pub ended: &'a BTreeMap<Name, StreamPlace>,
    /// How far the stream of a cluster is since, if it has one.
    pub place: &'a dyn Fn(&Name) -> Option<StreamPlace>,
}

/// Who may be answering, by cluster.
#[derive(Debug, Default)]
pub(super) struct Exposure {
    clusters: BTreeMap<Name, ClusterExposure>,
    /// Streams that have ended, and for which something drains.
    ended: BTreeMap<(Name, u64), Draining>,
    /// Rows that drain and whose end of the stream is not known yet.
    unpublished: BTreeSet<UnavailableKey>,
    /// Where each row that drains is filed.
    filed: BTreeMap<UnavailableKey, Filed>,
    /// Rows that have ended since the last publication: what is not committed is taken back.
    ending: BTreeMap<UnavailableKey, Ending>,
    /// Rows for which everybody has acknowledged.
    drained: BTreeSet<UnavailableKey>,
    forgotten_at: Moment,
}

#[derive(Debug)]
struct Filed {
    cluster: Name,
    set: Arc<NodeSet>,
    /// The cluster went with the address: its nodes follow its last stream, if any.
    orphan: bool,
    /// From here on the address is not in the stream. `None`: not published yet, or of a stream
    /// that ended before this run of the server, which nobody can acknowledge any more.
    place: Option<StreamPlace>,
}

/// A row that has ended.
#[derive(Debug)]
struct Ending {
    revision: Revision,
    /// Where it was filed.
    filed: Filed,
    /// Everybody had acknowledged.
    drained: bool,
}

#[derive(Debug, Default)]
struct ClusterExposure {
    sets: BTreeMap<u64, Arc<NodeSet>>,
    /// Candidates as they were last published.
    announced: BTreeMap<AssignmentKey, Arc<NodeSet>>,
    /// Those of them that are fenced.
    fenced: BTreeSet<AssignmentKey>,
    former: Former,
    unheard: Unheard,
    stream: u64,
    draining: Draining,
}

/// What drains for one stream, and who has acknowledged it how far.
#[derive(Debug, Default)]
struct Draining {
    acks: Acks,
    rows: Waits<UnavailableKey>,
}

/// Nodes that may answer for an address, by what makes them do so.
#[derive(Debug, Default)]
pub(super) struct Exposed<'a> {
    pub(super) announced: Option<&'a Arc<NodeSet>>,
    former: Vec<&'a Left>,
}

impl Exposed<'_> {
    /// Whether there are no others than the candidates.
    pub(super) fn is_as_announced(&self) -> bool {
        self.former.is_empty()
    }

    /// Equal for addresses of a cluster that the same nodes may answer for.
    pub(super) fn fingerprint(&self) -> Vec<(u64, u64)> {
        let announced = self.announced.iter().map(|set| (set.id, 0));
        let former = self.former.iter();
        announced
            .chain(former.map(|left| (left.set.id, left.position)))
            .collect()
    }
}

impl Exposure {
    /// What was committed has been published.
    pub(super) fn published(&mut self, published: Published<'_>, now: Moment) {
        let Published {
            deltas,
            ended,
            place,
        } = published;
        self.ending.clear();
        self.ended.retain(|_, draining| !draining.rows.is_empty());
        for (name, delta) in deltas {
            let reached = ended.get(name).copied().or_else(|| place(name));
            if let Some(StreamPlace { stream, position }) = reached {
                let cluster = self.clusters.entry(name.clone()).or_default();
                cluster.stream = stream;
                cluster.publish(delta, position, now);
            }
        }
        let (orphans, others) = std::mem::take(&mut self.unpublished)
            .into_iter()
            .partition(|key| self.filed.get(key).is_some_and(|filed| filed.orphan));
        // Whose cluster ended before this run of the server waits for nobody who could acknowledge.
        self.file(orphans, &|name| ended.get(name).copied());
        for (name, reached) in ended {
            self.end_stream(name, *reached, place(name));
        }
        self.file(others, place);
    }

    /// Files rows whose end of the stream is known now.
    fn file(
        &mut self,
        keys: BTreeSet<UnavailableKey>,
        place: &dyn Fn(&Name) -> Option<StreamPlace>,
    ) {
        let mut touched = BTreeSet::new();
        for key in keys {
            let Some(filed) = self.filed.get_mut(&key) else {
                continue;
            };
            filed.place = place(&filed.cluster);
            if let Some(StreamPlace { stream, position }) = filed.place {
                let cluster = self.clusters.entry(filed.cluster.clone()).or_default();
                cluster.stream = stream;
                cluster.draining.rows.insert(&filed.set, position, key);
                touched.insert(filed.cluster.clone());
            }
        }
        for name in touched {
            self.settle(&name);
        }
    }

    /// Keeps apart what drains for a stream that has ended. `next`: of the cluster, if there is one
    /// again.
    fn end_stream(&mut self, name: &Name, reached: StreamPlace, next: Option<StreamPlace>) {
        let Some(cluster) = self.clusters.get_mut(name) else {
            return;
        };
        let draining = std::mem::take(&mut cluster.draining);
        if !draining.rows.is_empty() {
            let stream = (name.clone(), reached.stream);
            self.ended.insert(stream, draining);
        }
        match next {
            Some(next) => cluster.stream = next.stream,
            None => drop(self.clusters.remove(name)),
        }
    }

    /// Nodes have applied their stream up to here.
    pub(super) fn acknowledged(&mut self, acks: impl IntoIterator<Item = Acknowledged>) {
        let mut touched = BTreeSet::new();
        for Acknowledged { node, place } in acks {
            let current = self.clusters.get_mut(&node.cluster);
            if let Some(cluster) = current.filter(|one| one.stream == place.stream) {
                cluster.draining.acks.note(node.node, place.position);
                touched.insert(node.cluster);
            } else if let Some(draining) = self.ended.get_mut(&(node.cluster.clone(), place.stream))
            {
                draining.acks.note(node.node, place.position);
                touched.insert(node.cluster);
            }
        }
        for name in touched {
            self.settle(&name);
        }
    }

    /// Whether an acknowledgement can end anything.
    pub(super) fn is_awaited(&self) -> bool {
        let mut clusters = self.clusters.values();
        !self.filed.is_empty() || clusters.any(|cluster| !cluster.unheard.is_empty())
    }

    /// Whether a node of a cluster may answer for an address, or go on doing so, as if it were not
    /// fenced. `limit`: how long a node that is away counts.
    pub(super) fn is_answered_freely(
        &self,
        cluster: &Name,
        key: &AssignmentKey,
        now: Moment,
        limit: Duration,
    ) -> bool {
        let Some(cluster) = self.clusters.get(cluster) else {
            return false;
        };
        if cluster.fenced.contains(key) {
            return cluster.unheard.contains(key);
        }
        let mut former = cluster.former.answering_freely(key);
        cluster.announced.contains_key(key) || former.any(|left| left.is_within(limit, now))
    }

    /// Finds out how long fenced addresses wait for those who may answer freely.
    pub(super) fn schedule(&mut self, limit: Limit<'_>) {
        for cluster in self.clusters.values_mut() {
            cluster.unheard.schedule(&cluster.former, limit);
        }
    }

    /// When [`Self::pass`] has something to do.
    pub(super) fn next_end(&self) -> Option<Moment> {
        let clusters = self.clusters.values();
        clusters.filter_map(|one| one.unheard.next_end()).min()
    }

    /// Time has come this far: who is away is not waited for any more.
    pub(super) fn pass(&mut self, now: Moment, limit: Limit<'_>) {
        for cluster in self.clusters.values_mut() {
            cluster.unheard.pass(&cluster.former, now, limit);
        }
    }

    /// Clusters in which somebody may be named for a fenced address now.
    pub(super) fn take_heard(&mut self) -> Vec<Name> {
        let clusters = self.clusters.iter_mut();
        let heard = clusters.filter_map(|(name, one)| one.unheard.take_news().then_some(name));
        heard.cloned().collect()
    }

    /// A row for which everybody has acknowledged.
    pub(super) fn drained(&self) -> Option<&UnavailableKey> {
        self.drained.first()
    }

    /// Nodes of a set that have not acknowledged that the address of a row is gone.
    pub(super) fn unacknowledged(&self, set: &NodeSet, row: &UnavailableKey) -> Vec<Name> {
        let filed = self.filed.get(row);
        let known = filed.and_then(|filed| {
            let draining = self.draining(&filed.cluster, filed.place?.stream)?;
            Some((&draining.acks, filed.place?.position))
        });
        let missing = set
            .nodes
            .iter()
            .filter(|node| known.is_none_or(|(acks, needed)| acks.is_behind(node, needed)));
        missing.cloned().collect()
    }

    /// Nodes that may answer for an address, as far as this run of the server knows. `limit`: how
    /// long a node that is away counts.
    pub(super) fn exposed(
        &self,
        cluster: &Name,
        key: &AssignmentKey,
        now: Moment,
        limit: Duration,
    ) -> Exposed<'_> {
        let Some(cluster) = self.clusters.get(cluster) else {
            return Exposed::default();
        };
        let former = cluster.former.of(key).iter();
        Exposed {
            announced: cluster.announced.get(key),
            former: former.filter(|left| left.is_within(limit, now)).collect(),
        }
    }

    /// The same as names.
    pub(super) fn names(&self, cluster: &Name, exposed: &Exposed<'_>) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        if let Some(set) = exposed.announced {
            names.extend(set.nodes.iter().cloned());
        }
        if let Some(cluster) = self.clusters.get(cluster) {
            let acks = &cluster.draining.acks;
            for left in &exposed.former {
                let nodes = left.set.nodes.iter();
                let away = nodes.filter(|node| acks.is_behind(node, left.position));
                names.extend(away.cloned());
            }
        }
        names
    }

    /// Whether a node has acknowledged anything in this run of the server.
    pub(super) fn has_been_heard_of(&self, cluster: &Name, node: &Name) -> bool {
        let cluster = self.clusters.get(cluster);
        cluster.is_some_and(|cluster| cluster.draining.acks.is_known(node))
    }

    /// Forgets former candidates that nobody waits for any more.
    pub(super) fn forget_before(&mut self, now: Moment) {
        if self.forgotten_at.0 + FORGET_EVERY <= now.0 {
            self.forgotten_at = now;
            for cluster in self.clusters.values_mut() {
                cluster.former.forget_before(now);
            }
        }
    }

    pub(super) fn start_draining(&mut self, row: &Unavailable) {
        let Some((cluster, set)) = row.awaited.as_ref().filter(|_| !row.unacknowledged) else {
            return;
        };
        let known = self.ending.get(&row.key);
        if known.is_some_and(|ending| ending.revision == row.revision) {
            return self.go_on_draining(&row.key);
        }
        let filed = Filed {
            cluster: cluster.clone(),
            set: Arc::clone(set),
            orphan: row.for_owner.is_none(),
            place: None,
        };
        self.filed.insert(row.key.clone(), filed);
        self.unpublished.insert(row.key.clone());
    }

    /// The end of a row is taken back. It is filed where it was: the stream of an orphan has ended,
    /// and nothing else tells where.
    fn go_on_draining(&mut self, key: &UnavailableKey) {
        let Some(Ending { filed, drained, .. }) = self.ending.remove(key) else {
            return;
        };
        if drained {
            // Its stream may be forgotten by now.
            self.filed.insert(key.clone(), filed);
            self.drained.insert(key.clone());
            return;
        }
        let name = filed.cluster.clone();
        if let Some(StreamPlace { stream, position }) = filed.place
            && let Some(draining) = self.draining_mut(&(name.clone(), stream))
        {
            let rows = &mut draining.rows;
            rows.insert(&filed.set, position, key.clone());
        }
        self.filed.insert(key.clone(), filed);
        self.settle(&name);
    }

    pub(super) fn stop_draining(&mut self, row: &Unavailable) {
        self.unpublished.remove(&row.key);
        let drained = self.drained.remove(&row.key);
        let Some(filed) = self.filed.remove(&row.key) else {
            return;
        };
        let Some(place) = filed.place else {
            return;
        };
        let stream = (filed.cluster.clone(), place.stream);
        if let Some(draining) = self.draining_mut(&stream) {
            let rows = &mut draining.rows;
            rows.remove(filed.set.id, place.position, row.key.clone());
        }
        let ending = Ending {
            revision: row.revision,
            filed,
            drained,
        };
        self.ending.insert(row.key.clone(), ending);
    }

    fn draining(&self, cluster: &Name, stream: u64) -> Option<&Draining> {
        let current = self.clusters.get(cluster);
        match current.filter(|current| current.stream == stream) {
            Some(current) => Some(&current.draining),
            None => self.ended.get(&(cluster.clone(), stream)),
        }
    }

    fn draining_mut(&mut self, of: &(Name, u64)) -> Option<&mut Draining> {
        let current = self.clusters.get_mut(&of.0);
        match current.filter(|current| current.stream == of.1) {
            Some(current) => Some(&mut current.draining),
            None => self.ended.get_mut(of),
        }
    }

    /// Finds out what everybody has acknowledged of the streams of a name.
    fn settle(&mut self, name: &Name) {
        if let Some(cluster) = self.clusters.get_mut(name) {
            let Draining { acks, rows } = &mut cluster.draining;
            let drained = rows.take_acknowledged(acks).into_iter();
            self.drained.extend(drained.map(|row| row.what));
            for key in cluster.former.acknowledged(acks) {
                if cluster.former.answering_freely(&key).next().is_none() {
                    cluster.unheard.remove(&key);
                }
            }
        }
        let streams = (name.clone(), 0)..=(name.clone(), u64::MAX);
        for (_, Draining { acks, rows }) in self.ended.range_mut(streams) {
            let drained = rows.take_acknowledged(acks).into_iter();
            self.drained.extend(drained.map(|row| row.what));
        }
    }
}

impl ClusterExposure {
    fn publish(&mut self, delta: &ClusterDelta, position: u64, now: Moment) {
        for set in &delta.node_sets {
            self.sets.insert(set.id, Arc::clone(set));
        }
        let at = |freely| Departure {
            position,
            since: now,
            freely,
        };
        let mut differences = Differences::default();
        for key in &delta.removals {
            if let Some(before) = self.announced.remove(key) {
                let at = at(!self.fenced.remove(key));
                self.former
                    .leave(key, (&before, None), at, &mut differences);
                self.unheard.remove(key);
            }
        }
        let mut together = BTreeMap::new();
        for upsert in &delta.upserts {
            let Some(set) = self.exposed_by(upsert, &mut together) else {
                continue;
            };
            let key = &upsert.key;
            let before = self.announced.insert(key.clone(), Arc::clone(&set));
            let is_fenced = upsert.fenced.is_some();
            let was_fenced = match is_fenced {
                true => !self.fenced.insert(key.clone()),
                false => self.fenced.remove(key),
            };
            // Also who stays a candidate goes on until it knows that it is fenced.
            let stay = (was_fenced || !is_fenced).then_some(&*set);
            if let Some(before) = before.filter(|one| stay.is_none() || one.id != set.id) {
                let at = at(!was_fenced);
                self.former
                    .leave(key, (&before, stay), at, &mut differences);
            }
            if !is_fenced {
                self.unheard.remove(key);
            } else if !was_fenced && self.former.answering_freely(key).next().is_some() {
                self.unheard.insert(key);
            }
        }
        for id in &delta.unused_node_sets {
            self.sets.remove(id);
        }
    }

    /// The nodes that an assignment lets announce the address, by either protocol. `together`: sets that
    /// were made up, each once for the many addresses that have it.
    fn exposed_by(
        &self,
        assignment: &Assignment,
        together: &mut BTreeMap<Vec<u64>, Arc<NodeSet>>,
    ) -> Option<Arc<NodeSet>> {
        let candidates = self.sets.get(&assignment.candidates);
        let sets: Vec<&Arc<NodeSet>> = candidates
            .into_iter()
            .chain(assignment.announcers())
            .collect();
        if let [] | [_] = sets[..] {
            return sets.first().map(|set| Arc::clone(set));
        }
        let ids = sets.iter().map(|set| set.id).collect();
        let all = together.entry(ids).or_insert_with(|| {
            let nodes = sets.iter().flat_map(|set| &set.nodes);
            Arc::new(NodeSet::new(nodes.cloned()))
        });
        Some(Arc::clone(all))
    }
}

#[cfg(test)]
mod tests;
