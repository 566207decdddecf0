//! What each open `SyncFacts` stream of a cluster has said, and what follows from all of them.
//!
//! Pure. Every replica of an adapter keeps a stream; the rule is: of a node or an owner, that is
//! true which the newest stream that speaks of it says. A stream speaks of what it has named, and
//! once it is complete of everything: what it has not named is gone. A stream that ends gives the
//! word to the next older one; with nobody left to speak the last values stay in force.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::convert_announce::Said;
use crate::state::command::Fact;
use crate::state::model::{EntryNodes, NodeKey, OwnerKey, ReportedNode};
use crate::state::names::Name;

/// A stream; newer ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

/// The open streams of a cluster.
#[derive(Debug)]
pub(super) struct Sessions {
    cluster: Name,
    last: u64,
    open: BTreeMap<SessionId, Session>,
}

#[derive(Debug, Default)]
struct Session {
    nodes: Named<Name, ReportedNode>,
    backends: Named<OwnerKey, EntryNodes>,
    complete: bool,
}

/// What a stream said last of each key; `None`: it is gone.
type Named<K, V> = BTreeMap<K, Option<V>>;

impl Sessions {
    pub(super) fn new(cluster: Name) -> Self {
        Self {
            cluster,
            last: 0,
            open: BTreeMap::new(),
        }
    }

    /// A stream opens. It is the newest, and has not said anything yet.
    pub(super) fn open(&mut self) -> SessionId {
        self.last += 1;
        let id = SessionId(self.last);
        self.open.insert(id, Session::default());
        id
    }

    /// A stream says something; the facts that follow.
    pub(super) fn say(&mut self, id: SessionId, said: Said) -> Vec<Fact> {
        match said {
            Said::Node(name, reported) => self.say_node(id, name, reported),
            Said::Backends(owner, entry) => self.say_backends(id, owner, entry),
            Said::Complete => self.say_complete(id),
        }
    }

    /// A stream ends; the facts that follow from what the others say.
    pub(super) fn close(&mut self, id: SessionId) -> Vec<Fact> {
        let Some(closed) = self.open.remove(&id) else {
            return Vec::new();
        };
        if self.newer(id).any(|newer| newer.complete) {
            return Vec::new();
        }
        // What the stream spoke of: what it named; and if it was complete, all that others name.
        let mut nodes: BTreeSet<&Name> = closed.nodes.keys().collect();
        let mut owners: BTreeSet<&OwnerKey> = closed.backends.keys().collect();
        if closed.complete {
            for older in self.open.range(..id).map(|(_, older)| older) {
                nodes.extend(older.nodes.keys());
                owners.extend(older.backends.keys());
            }
        }
        let mut facts = Vec::new();
        for name in nodes {
            let unsaid = !self.newer(id).any(|newer| newer.nodes.contains_key(name));
            if let Some(reported) = self.node(name).filter(|_| unsaid) {
                facts.push(self.node_fact(name.clone(), reported.cloned()));
            }
        }
        for owner in owners {
            let unsaid = !self
                .newer(id)
                .any(|newer| newer.backends.contains_key(owner));
            if let Some(entry) = self.entry(owner).filter(|_| unsaid) {
                facts.push(Fact::Backends {
                    owner: owner.clone(),
                    entry: entry.cloned(),
                });
            }
        }
        facts
    }

    fn say_node(&mut self, id: SessionId, name: Name, reported: Option<ReportedNode>) -> Vec<Fact> {
        let unsaid = !self
            .newer(id)
            .any(|newer| newer.complete || newer.nodes.contains_key(&name));
        let Some(session) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        put(&mut session.nodes, session.complete, &name, &reported);
        let fact = unsaid.then(|| self.node_fact(name, reported));
        fact.into_iter().collect()
    }

    fn say_backends(
        &mut self,
        id: SessionId,
        owner: OwnerKey,
        entry: Option<EntryNodes>,
    ) -> Vec<Fact> {
        let unsaid = !self
            .newer(id)
            .any(|newer| newer.complete || newer.backends.contains_key(&owner));
        let Some(session) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        put(&mut session.backends, session.complete, &owner, &entry);
        let fact = unsaid.then_some(Fact::Backends { owner, entry });
        fact.into_iter().collect()
    }

    fn say_complete(&mut self, id: SessionId) -> Vec<Fact> {
        let Some(session) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        session.complete = true;
        session.nodes.retain(|_, value| value.is_some());
        session.backends.retain(|_, value| value.is_some());
        if self.newer(id).any(|newer| newer.complete) {
            return Vec::new();
        }
        // Of the older ones nothing counts any more.
        let speakers = || self.open.range(id..).map(|(_, session)| session);
        let nodes: BTreeSet<_> = speakers().flat_map(|one| one.nodes.keys()).collect();
        let owners: BTreeSet<_> = speakers().flat_map(|one| one.backends.keys()).collect();
        let there = |name: &&&Name| self.node(name).flatten().is_some();
        let served = |owner: &&&OwnerKey| self.entry(owner).flatten().is_some();
        vec![Fact::Complete {
            nodes: nodes.iter().filter(there).copied().cloned().collect(),
            owners: owners.iter().filter(served).copied().cloned().collect(),
        }]
    }

    fn newer(&self, id: SessionId) -> impl Iterator<Item = &Session> {
        let newer = self.open.range(id..).filter(move |(other, _)| **other > id);
        newer.map(|(_, session)| session)
    }

    /// `None`: nobody speaks of it; `Some(None)`: it is gone.
    fn node(&self, name: &Name) -> Option<Option<&ReportedNode>> {
        self.spoken(|session| session.nodes.get(name))
    }

    fn entry(&self, owner: &OwnerKey) -> Option<Option<&EntryNodes>> {
        self.spoken(|session| session.backends.get(owner))
    }

    fn spoken<'a, V>(
        &'a self,
        named: impl Fn(&'a Session) -> Option<&'a Option<V>>,
    ) -> Option<Option<&'a V>> {
        let newest_first = self.open.values().rev();
        newest_first
            .filter_map(|session| match named(session) {
                Some(value) => Some(value.as_ref()),
                None => session.complete.then_some(None),
            })
            .next()
    }

    fn node_fact(&self, node: Name, reported: Option<ReportedNode>) -> Fact {
        let cluster = self.cluster.clone();
        Fact::Node {
            key: NodeKey { cluster, node },
            reported,
        }
    }
}

/// Once a stream is complete, what it has not named is gone anyway.
fn put<K: Ord + Clone, V: Clone>(
    named: &mut Named<K, V>,
    complete: bool,
    key: &K,
    value: &Option<V>,
) {
    if complete && value.is_none() {
        named.remove(key);
    } else {
        named.insert(key.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests;
