//! What is known of the nodes of one cluster, and for how long.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::owned::Owned;
use super::{
    AWAY_KEPT, Answerer, CONFLICT_KEPT, CONFLICTS_SHOWN, ConflictKey, KEPT, MAX_CONFLICTS, Matter,
    SeenConflict,
};
use crate::state::announce::AssignmentKey;
use crate::state::model::{AllocationId, Timestamp};
use crate::state::names::Name;

#[derive(Debug, Default)]
pub(super) struct OfCluster {
    pub(super) nodes: BTreeMap<Name, OfNode>,
    /// Who has told of a group, for as long as it is kept.
    by_group: BTreeMap<AllocationId, BTreeSet<Name>>,
    /// Who sees another machine use an address.
    by_address: BTreeMap<AssignmentKey, BTreeSet<Name>>,
}

#[derive(Debug, Default)]
pub(super) struct OfNode {
    /// The newest, which counts; for a moment a node may have two. 0: it had none.
    stream: u64,
    /// All that are open, with what has them begun again.
    open: BTreeMap<u64, CancellationToken>,
    ended: Option<Ended>,
    /// When time alone changes what is known of it: by then it is to have told all, or what it told is not
    /// shown any more.
    until: Option<Instant>,
    /// It has told all that it answers for, on this stream or one shortly before.
    told: bool,
    status: Option<v1::NodeStatus>,
    owned: Owned,
    conflicts: Conflicts,
}

/// By address and hardware address.
type Conflicts = BTreeMap<(AssignmentKey, String), Seen>;

#[derive(Debug, Clone, Copy)]
struct Ended {
    at: Instant,
    wall: Timestamp,
}

#[derive(Debug, Clone)]
struct Seen {
    conflict: Conflict,
    first: Timestamp,
    last: Timestamp,
    until: Instant,
}

/// What is known of a node that may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may tell yet, or connect.
    Expected,
    /// It has a stream and has not told all, or told more than is kept.
    Mute,
    /// It has no stream; since when, if that is known.
    Away(Option<Timestamp>),
    Told,
}

/// What is known of all that a node answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Knowledge {
    has_told: bool,
    /// It told more than is kept.
    pub(super) is_cut: bool,
}

impl OfCluster {
    pub(super) fn knowledge(&self, node: &Name) -> Knowledge {
        let of_node = self.nodes.get(node);
        of_node.map_or_else(Knowledge::default, |of_node| Knowledge {
            has_told: of_node.told,
            is_cut: of_node.owned.is_cut(),
        })
    }

    /// A node has a new stream. Says which groups it has told of.
    pub(super) fn enter(&mut self, node: &Name, stream: u64, at: Instant) -> Vec<AllocationId> {
        let of_node = self.nodes.entry(node.clone()).or_default();
        of_node.stream = stream;
        of_node.open.insert(stream, CancellationToken::new());
        of_node.owned.give_up();
        of_node.ended = None;
        of_node.until = (!of_node.told).then(|| at + KEPT);
        of_node.owned.groups().collect()
    }

    /// A stream has ended. Says which groups its node has told of; `None`: it has a newer one.
    pub(super) fn leave(
        &mut self,
        node: &Name,
        stream: u64,
        (at, wall): (Instant, Timestamp),
    ) -> Option<Vec<AllocationId>> {
        self.nodes.get_mut(node)?.open.remove(&stream);
        let of_node = newest(&mut self.nodes, node, stream)?;
        // They told in vain as long as this one was open.
        for other in std::mem::take(&mut of_node.open).into_values() {
            other.cancel();
        }
        of_node.ended = Some(Ended { at, wall });
        of_node.until = Some(at + KEPT);
        Some(of_node.owned.groups().collect())
    }

    pub(super) fn begin_again(&self, node: &Name, stream: u64) -> Option<CancellationToken> {
        self.nodes.get(node)?.open.get(&stream).cloned()
    }

    /// Says which groups it is about.
    pub(super) fn tell(
        &mut self,
        node: &Name,
        stream: u64,
        status: &Status,
    ) -> BTreeSet<AllocationId> {
        let mut touched = BTreeSet::new();
        let Some(of_node) = newest(&mut self.nodes, node, stream) else {
            return touched;
        };
        if status.whole {
            of_node.owned.begin_anew();
        }
        if let Some(own) = &status.node {
            of_node.status = Some(own.clone());
        }
        for group in &status.lost {
            of_node.owned.remove(*group);
            touched.insert(*group);
        }
        for ownership in &status.owned {
            touched.extend(of_node.owned.insert(ownership));
            touched.insert(ownership.group);
        }
        if !status.more
            && let Some(former) = of_node.owned.end_anew()
        {
            touched.extend(former);
            of_node.told = true;
            of_node.until = None;
        }
        for group in &touched {
            match of_node.owned.get(*group).is_some() {
                true => {
                    let of_group = self.by_group.entry(*group).or_default();
                    of_group.insert(node.clone());
                }
                false => leave(&mut self.by_group, group, node),
            }
        }
        touched
    }

    /// A node saw another machine answer for an address, or does not any more.
    pub(super) fn see(
        &mut self,
        node: &Name,
        address: &AssignmentKey,
        conflict: &Conflict,
        (at, wall): (Instant, Timestamp),
    ) {
        let of_node = self.nodes.entry(node.clone()).or_default();
        let conflicts = &mut of_node.conflicts;
        let key = (address.clone(), conflict.mac.clone());
        if conflict.over {
            conflicts.remove(&key);
            if !sees(conflicts, address) {
                leave(&mut self.by_address, address, node);
            }
            return;
        }
        let first = conflicts.get(&key).map(|known| known.first);
        if first.is_none() && conflicts.len() >= MAX_CONFLICTS {
            return;
        }
        let seen = Seen {
            conflict: conflict.clone(),
            first: first.unwrap_or(wall),
            last: wall,
            until: at + CONFLICT_KEPT,
        };
        conflicts.insert(key, seen);
        let of_address = self.by_address.entry(address.clone()).or_default();
        of_address.insert(node.clone());
    }

    /// Who says that it answers, by name. A node that stopped may have had no time to say that it gave the
    /// group away: whom it was handed to says so as well.
    pub(super) fn answerers(&self, group: AllocationId) -> Vec<Answerer> {
        let nodes = self.by_group.get(&group).into_iter().flatten();
        let told = nodes.filter_map(|name| {
            let of_node = self.nodes.get(name)?;
            Some(Answerer {
                node: name.clone(),
                ownership: of_node.owned.get(group)?.clone(),
                unknown_since: of_node.ended.map(|ended| ended.wall),
            })
        });
        let mut all: Vec<Answerer> = told.collect();
        let heirs = all.clone();
        all.retain(|one| {
            let handed = heirs.iter().any(|heir| one.was_handed_to(heir));
            one.unknown_since.is_none() || !handed
        });
        all
    }

    /// Other machines that nodes see use an address, by node, and whether there are more of them.
    pub(super) fn conflicts(&self, address: &AssignmentKey) -> (Vec<SeenConflict>, bool) {
        let nodes = self.by_address.get(address).into_iter().flatten();
        let nodes = nodes.filter_map(|node| Some((node, self.nodes.get(node)?)));
        let mut seen = nodes.flat_map(|(node, of_node)| {
            let of_address = of_address(&of_node.conflicts, address);
            of_address.map(move |(_, seen)| seen.by(node))
        });
        let shown = seen.by_ref().take(CONFLICTS_SHOWN).collect();
        (shown, seen.next().is_some())
    }

    /// What was seen, behind one of them.
    pub(super) fn conflicts_after<'a>(
        &'a self,
        after: Option<&'a ConflictKey>,
    ) -> impl Iterator<Item = (ConflictKey, SeenConflict)> + 'a {
        let nodes = match after {
            Some(after) => self.nodes.range(after.node.clone()..),
            None => self.nodes.range::<Name, _>(..),
        };
        nodes.flat_map(move |(node, of_node)| {
            let seen = of_node.conflicts.iter().map(move |((address, mac), seen)| {
                let key = ConflictKey {
                    node: node.clone(),
                    address: address.clone(),
                    mac: mac.clone(),
                };
                (key, seen.by(node))
            });
            seen.filter(move |(key, _)| after.is_none_or(|after| key > after))
        })
    }

    /// Says what is not shown any more, and of whom something else is known.
    pub(super) fn forget(&mut self, now: Instant) -> BTreeSet<Matter> {
        let mut touched = BTreeSet::new();
        let (by_group, by_address) = (&mut self.by_group, &mut self.by_address);
        self.nodes.retain(|name, of_node| {
            for address in of_node.forget_conflicts(now) {
                if !sees(&of_node.conflicts, &address) {
                    leave(by_address, &address, name);
                }
                touched.insert(Matter::Address(address));
            }
            if of_node.until.take_if(|until| *until <= now).is_some() {
                touched.insert(Matter::Node(name.clone()));
                for group in of_node.forget_told() {
                    leave(by_group, &group, name);
                    touched.insert(Matter::Group(group));
                }
            }
            of_node.is_remembered(now)
        });
        touched
    }

    /// When there is something to forget, or somebody's time is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.nodes.values().filter_map(OfNode::due).min()
    }
}

impl OfNode {
    /// Whether it has a stream now.
    pub(super) fn is_there(&self) -> bool {
        self.stream > 0 && self.ended.is_none()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.owned.is_cut()
    }

    /// What it says of itself.
    pub(super) fn status(&self) -> Option<&v1::NodeStatus> {
        self.status.as_ref()
    }

    /// `None`: it had no stream since the service began.
    pub(super) fn standing(&self) -> Option<Standing> {
        if self.stream == 0 {
            return None;
        }
        Some(match self.ended {
            None if self.told && !self.is_cut() => Standing::Told,
            None if !self.told && self.until.is_some() => Standing::Expected,
            None => Standing::Mute,
            // It most likely comes back at once.
            Some(_) if !self.told && self.until.is_some() => Standing::Expected,
            Some(ended) => Standing::Away(Some(ended.wall)),
        })
    }

    /// What is over, because it was not seen again. Gives the addresses.
    fn forget_conflicts(&mut self, now: Instant) -> BTreeSet<AssignmentKey> {
        let over = self.conflicts.extract_if(.., |_, seen| seen.until <= now);
        over.map(|((address, _), _)| address).collect()
    }

    /// What it told is not shown any more, if it has no stream. Gives the groups.
    fn forget_told(&mut self) -> Vec<AllocationId> {
        if self.ended.is_none() {
            return Vec::new();
        }
        self.told = false;
        self.status = None;
        self.owned.take().collect()
    }

    fn is_remembered(&self, now: Instant) -> bool {
        let is_gone = |ended: Ended| ended.at + AWAY_KEPT <= now;
        let had_stream = self.stream > 0 && !self.ended.is_some_and(is_gone);
        had_stream || !self.conflicts.is_empty()
    }

    fn due(&self) -> Option<Instant> {
        let conflicts = self.conflicts.values().map(|seen| seen.until);
        let gone = self.ended.map(|ended| ended.at + AWAY_KEPT);
        conflicts.chain(self.until).chain(gone).min()
    }
}

impl Seen {
    fn by(&self, node: &Name) -> SeenConflict {
        SeenConflict {
            node: node.clone(),
            conflict: self.conflict.clone(),
            first_seen: self.first,
            last_seen: self.last,
        }
    }
}

impl Answerer {
    /// Whether another one says that it has the group from this one.
    fn was_handed_to(&self, heir: &Self) -> bool {
        let since = |one: &Self| {
            one.ownership
                .since
                .map(|since| (since.seconds, since.nanos))
        };
        heir.ownership.why() == v1::ownership::Why::HandedOver
            && heir.ownership.from == self.node.as_str()
            && since(heir) >= since(self)
    }
}

/// The node, if this is its newest stream.
fn newest<'a>(
    nodes: &'a mut BTreeMap<Name, OfNode>,
    node: &Name,
    stream: u64,
) -> Option<&'a mut OfNode> {
    let of_node = nodes.get_mut(node)?;
    (of_node.stream == stream).then_some(of_node)
}

/// What a node sees at an address.
fn of_address<'a>(
    conflicts: &'a Conflicts,
    address: &'a AssignmentKey,
) -> impl Iterator<Item = (&'a (AssignmentKey, String), &'a Seen)> {
    let seen = conflicts.range((address.clone(), String::new())..);
    seen.take_while(move |((seen, _), _)| seen == address)
}

fn sees(conflicts: &Conflicts, address: &AssignmentKey) -> bool {
    of_address(conflicts, address).next().is_some()
}

/// A node is not there any more.
fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Name>>, key: &K, node: &Name) {
    if let Some(nodes) = index.get_mut(key) {
        nodes.remove(node);
        if nodes.is_empty() {
            index.remove(key);
        }
    }
}
