//! When an address that is given back may be given away again, and what ends the wait.
//!
//! A freed address that was announced drains: nodes may still answer for it, even cut-off ones that
//! have to, and reuse at once would make two answerers. Then it rests, where its pool wants that. A
//! conflict quarantines it for its next owner. Who holds an address is never moved by any of this.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::State;
use super::address::Address;
use super::announce::{AssignmentKey, NodeSet};
use super::change::{Change, Edit};
use super::command::{Command, End};
use super::draft::Draft;
use super::model::{Allocation, Moment, OwnerKey, Unavailable, UnavailableKey, UnavailableReason};
use super::names::Name;
use super::refusal::Rejection;
use super::space_mut;

/// How long a conflict keeps an address from its next owner: the other machine may be a laptop that
/// leaves, or a misconfigured one that somebody has to find first. An hour is long enough for a
/// person to look, and short enough not to lose addresses for ever to a conflict that is over; a
/// machine that is still there is reported again.
pub(super) const QUARANTINE: Duration = Duration::from_secs(3600);

/// Adds to the changes of a decision what follows from them for addresses that came free or were
/// taken: a freed one may have to wait, a taken one waits no more.
pub(super) fn follow(draft: &mut Draft<'_>) {
    let Traffic { freed, taken } = Traffic::of(draft);
    for (space, address) in taken {
        for row in draft.state.unavailable(&space, address).to_vec() {
            // A conflict is not over because somebody holds the address.
            if row.key.reason != UnavailableReason::Quarantined {
                draft.drop_unavailable(&row);
            }
        }
    }
    let gone = clusters_that_go(draft);
    let mut sets = KnownSets::default();
    for ((space, address), owner) in freed {
        let state = draft.state;
        let wait = state.pools.waits(&space, address);
        let cluster = owner.cluster.clone();
        let key = AssignmentKey { space, address };
        let exposed = state.exposed(&cluster, &key, wait.unacknowledged, &mut sets);
        if let Some(set) = exposed {
            let awaited = Some((cluster, set));
            let row = row(draft, key, UnavailableReason::Draining, wait.unacknowledged);
            let for_owner = Some(owner).filter(|owner| !gone.contains(&owner.cluster));
            draft.put_unavailable(
                None,
                Unavailable {
                    awaited,
                    for_owner,
                    ..row
                },
            );
        } else if wait.delay > Duration::ZERO {
            let row = row(draft, key, UnavailableReason::ReuseDelay, wait.delay);
            let for_owner = Some(owner).filter(|owner| !gone.contains(&owner.cluster));
            draft.put_unavailable(None, Unavailable { for_owner, ..row });
        }
    }
}

/// Clusters that go in this decision. Their owners may not take an address back at once: whoever bears
/// the names afterwards is another installation, with other nodes.
fn clusters_that_go(draft: &Draft<'_>) -> BTreeSet<Name> {
    let edits = draft.changes().iter().filter_map(Change::cluster);
    let gone = edits.filter(|edit| edit.after.is_none());
    gone.map(|edit| edit.subject().name.clone()).collect()
}

/// A cluster goes: whoever bears the names of its owners afterwards takes nothing back, and whoever
/// bears those of its nodes acknowledges nothing for them.
pub(super) fn disown(draft: &mut Draft<'_>, cluster: &Name) {
    for row in draft.state.all_unavailable() {
        let owner = row.for_owner.as_ref();
        if owner.is_some_and(|owner| owner.cluster == *cluster) {
            let disowned = Unavailable {
                for_owner: None,
                ..Unavailable::clone(row)
            };
            draft.put_unavailable(Some(row), disowned);
        }
    }
}

/// A reason is over. What drained may have to rest then.
pub(super) fn end(draft: &mut Draft<'_>, key: &UnavailableKey, end: End) {
    let state = draft.state;
    let rows = state.unavailable(&key.space, key.address);
    let Some(known) = rows.iter().find(|row| row.key == *key).map(Arc::clone) else {
        return;
    };
    let mut last = known;
    if key.reason == UnavailableReason::Draining {
        if end == End::Expired {
            let awaited = last.awaited.as_ref().map(|(cluster, set)| {
                let missing = state.exposure.unacknowledged(set, key);
                (cluster.clone(), Arc::new(NodeSet::new(missing)))
            });
            let told = Unavailable {
                awaited,
                unacknowledged: true,
                ..Unavailable::clone(&last)
            };
            last = draft.put_unavailable(Some(&last), told);
        }
        let delay = state.pools.waits(&key.space, key.address).delay;
        if delay > Duration::ZERO {
            let place = AssignmentKey {
                space: key.space.clone(),
                address: key.address,
            };
            let rest = row(draft, place, UnavailableReason::ReuseDelay, delay);
            let for_owner = last.for_owner.clone();
            draft.put_unavailable(None, Unavailable { for_owner, ..rest });
        }
    }
    draft.drop_unavailable(&last);
}

/// An operator says that an address can be given away.
///
/// # Errors
/// [`Rejection::UnknownUnavailable`]
pub(super) fn clear(
    draft: &mut Draft<'_>,
    space: &Name,
    address: Address,
) -> Result<(), Rejection> {
    let rows = draft.state.unavailable(space, address).to_vec();
    if rows.is_empty() {
        let space = space.clone();
        return Err(Rejection::UnknownUnavailable { space, address });
    }
    for row in rows {
        draft.drop_unavailable(&row);
    }
    Ok(())
}

/// A node of a cluster saw another machine use an address. Of an address that the cluster does not
/// hold its word does not count.
pub(super) fn conflict(draft: &mut Draft<'_>, cluster: &Name, space: &Name, address: Address) {
    let state = draft.state;
    let mut holders = state.holders(space, address);
    if !holders.any(|holder| holder.owner.key.cluster == *cluster) {
        return;
    }
    let key = AssignmentKey {
        space: space.clone(),
        address,
    };
    let row = row(draft, key, UnavailableReason::Quarantined, QUARANTINE);
    let mut known = state.unavailable(space, address).iter();
    // Seen again within a minute is no news.
    let known = known.find(|known| known.key.reason == UnavailableReason::Quarantined);
    let is_news =
        known.is_none_or(|known| known.deadline.0 + Duration::from_secs(60) < row.deadline.0);
    if is_news {
        let known = known.cloned();
        draft.put_unavailable(known.as_ref(), row);
    }
}

fn row(
    draft: &Draft<'_>,
    place: AssignmentKey,
    reason: UnavailableReason,
    period: Duration,
) -> Unavailable {
    Unavailable {
        key: UnavailableKey {
            space: place.space,
            address: place.address,
            reason,
        },
        for_owner: None,
        since: draft.now,
        period,
        deadline: Moment(draft.state.moment.0 + period),
        awaited: None,
        unacknowledged: false,
        revision: 0,
    }
}

/// Addresses that came free in a decision, with their last holder, and those that were taken.
#[derive(Default)]
struct Traffic {
    freed: BTreeMap<(Name, Address), OwnerKey>,
    taken: Vec<(Name, Address)>,
}

impl Traffic {
    fn of(draft: &Draft<'_>) -> Self {
        let mut left: BTreeMap<(Name, Address), Vec<&Arc<Allocation>>> = BTreeMap::new();
        let mut traffic = Self::default();
        for change in draft.changes() {
            let Change::Allocation(edit) = change else {
                continue;
            };
            let before: Vec<_> = edit.before.iter().flat_map(held_by).collect();
            let after: Vec<_> = edit.after.iter().flat_map(held_by).collect();
            if let Some(holder) = &edit.before {
                for key in before.iter().filter(|key| !after.contains(key)) {
                    left.entry(key.clone()).or_default().push(holder);
                }
            }
            let gained = after.into_iter().filter(|key| !before.contains(key));
            traffic.taken.extend(gained);
        }
        for (key, leaving) in left {
            if traffic.taken.contains(&key) {
                continue;
            }
            let left_by = |holder: &Arc<Allocation>| leaving.iter().any(|one| one.id == holder.id);
            if draft.state.holders(&key.0, key.1).all(left_by) {
                let owner = leaving[0].owner.key.clone();
                traffic.freed.insert(key, owner);
            }
        }
        traffic
    }
}

fn held_by(allocation: &Arc<Allocation>) -> impl Iterator<Item = (Name, Address)> {
    let space = allocation.pool.as_ref().map(|pool| pool.space.clone());
    let addresses = allocation.addresses.iter();
    addresses.filter_map(move |address| Some((space.clone()?, *address)))
}

impl State {
    /// Time has come this far. It never goes back.
    pub fn advance(&mut self, moment: Moment) {
        self.moment = self.moment.max(moment);
        let pools = &self.pools;
        let limit = |key: &AssignmentKey| pools.waits(&key.space, key.address).unacknowledged;
        self.exposure.pass(self.moment, &limit);
        self.leases.touch(self.exposure.take_heard());
        self.exposure.forget_before(self.moment);
    }

    /// When [`State::follow_up`] has something to do only because time passes.
    pub fn next_deadline(&self) -> Option<Moment> {
        let timer = self.timers.first().map(|(deadline, _)| *deadline);
        timer.into_iter().chain(self.exposure.next_end()).min()
    }

    /// Whether a node of a cluster may answer for an address, or go on doing so, as if it were not
    /// fenced: then nobody is named for it yet.
    pub(super) fn is_answered_freely(&self, cluster: &Name, key: &AssignmentKey) -> bool {
        let limit = self.pools.waits(&key.space, key.address).unacknowledged;
        self.exposure
            .is_answered_freely(cluster, key, self.moment, limit)
    }

    /// The next reason for being unavailable that is over.
    pub(super) fn next_ended(&self) -> Option<Command> {
        let expired = self.timers.first();
        let expired = expired.filter(|(deadline, _)| *deadline <= self.moment);
        if let Some((_, key)) = expired {
            let (key, end) = (key.clone(), End::Expired);
            return Some(Command::EndUnavailable { key, end });
        }
        let (key, end) = (self.exposure.drained()?.clone(), End::Acknowledged);
        Some(Command::EndUnavailable { key, end })
    }

    /// Whether a reason for being unavailable is over.
    pub fn has_ended(&self) -> bool {
        self.next_ended().is_some()
    }

    /// Enters a row, or takes it out.
    pub(super) fn enter_unavailable(&mut self, edit: &Edit<Unavailable>) {
        let key = &edit.subject().key;
        let space = space_mut(&mut self.spaces, &self.pools, &key.space);
        if let Some(before) = &edit.before {
            space.release(before);
            self.timers.remove(&(before.deadline, key.clone()));
            self.exposure.stop_draining(before);
        }
        if let Some(after) = &edit.after {
            space.withhold(after);
            self.timers.insert((after.deadline, key.clone()));
            self.exposure.start_draining(after);
        }
        if space.is_empty() {
            self.spaces.remove(&key.space);
        }
    }

    /// Nodes that may answer for an address that a cluster gives back; `None`: none. One that has not
    /// been heard of since the server began may go on with what it was told before; so it counts for
    /// as long as a node that is away, whether or not the address has, or had, a candidate in this run:
    /// an owner that takes its own address back ends a drain that only the row knew of.
    fn exposed(
        &self,
        cluster: &Name,
        key: &AssignmentKey,
        limit: Duration,
        known: &mut KnownSets,
    ) -> Option<Arc<NodeSet>> {
        let exposed = self.exposure.exposed(cluster, key, self.moment, limit);
        let with_silent = self.moment.0 < limit;
        if exposed.is_as_announced() && !with_silent {
            return exposed.announced.cloned();
        }
        let like = Likeness {
            cluster: cluster.clone(),
            exposed: exposed.fingerprint(),
            with_silent,
        };
        let set = known.0.entry(like).or_insert_with(|| {
            let mut nodes = self.exposure.names(cluster, &exposed);
            if with_silent {
                nodes.extend(self.silent_nodes(cluster).cloned());
            }
            (!nodes.is_empty()).then(|| Arc::new(NodeSet::new(nodes)))
        });
        set.clone()
    }

    fn silent_nodes<'a>(&'a self, cluster: &'a Name) -> impl Iterator<Item = &'a Name> {
        let known = self.nodes_of(cluster);
        let known = known.filter(|node| node.announcer.is_some());
        let known = known.map(|node| &node.key.node);
        known.filter(|node| !self.exposure.has_been_heard_of(cluster, node))
    }
}

/// Sets of nodes that were made up in a decision: addresses that come free together mostly have the
/// same.
#[derive(Debug, Default)]
struct KnownSets(BTreeMap<Likeness, Option<Arc<NodeSet>>>);

/// Equal for addresses that the same nodes may answer for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    cluster: Name,
    exposed: Vec<(u64, u64)>,
    with_silent: bool,
}

#[cfg(test)]
mod tests;
