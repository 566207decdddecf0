//! Keeping the assignments of one cluster up to date.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::group::{self, Announced, Component};
use super::policy::{Memory, Offer};
use super::probe::Told;
use super::{
    Assignment, AssignmentKey, ClusterAssignments, ClusterDelta, Dirt, Fencing, Group, Member,
    NodeSet, Refresh, fence, keys_of, remove_placement,
};
use crate::state::State;
use crate::state::change::{Change, Edit};
use crate::state::model::{AllocationId, Placement};
use crate::state::names::Name;
use crate::state::placement::{NodeNo, Seat, place};

/// An old and a new value of everything that a refresh touches.
#[derive(Default)]
pub(super) struct Work {
    /// Announced groups that are being looked at again, as they were.
    old: BTreeMap<AllocationId, Group>,
    /// Which of them each address was in.
    pub(super) old_group: BTreeMap<AssignmentKey, AllocationId>,
    /// All components of the addresses, announced or not.
    pub(super) components: BTreeMap<AllocationId, Component>,
}

impl ClusterAssignments {
    /// By key.
    pub fn assignments(&self) -> impl ExactSizeIterator<Item = &Arc<Assignment>> {
        self.assignments.values()
    }

    /// The fenced addresses.
    pub(super) fn fenced(&self) -> impl Iterator<Item = &AssignmentKey> {
        let fenced = self.assignments.values().filter(|it| it.fenced.is_some());
        fenced.map(|assignment| &assignment.key)
    }

    /// Whether nobody is named for a fenced address.
    pub(super) fn waits_for_owner(&self, key: &AssignmentKey) -> bool {
        let fenced = self.assignments.get(key).and_then(|it| it.fenced.as_ref());
        fenced.is_some_and(|fenced| fenced.owner.is_none())
    }

    /// The sets that the assignments refer to, by id.
    pub fn node_sets(&self) -> impl Iterator<Item = &Arc<NodeSet>> {
        self.node_sets.values().map(|(set, _)| set)
    }

    /// All nodes with an announcer, by name.
    pub fn members(&self) -> Vec<Member> {
        self.nodes.members()
    }

    /// Whether the announcers may remove what is not assigned.
    pub fn is_authoritative(&self) -> bool {
        self.authoritative
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.members().is_empty()
    }

    pub(super) fn everything(&self) -> ClusterDelta {
        ClusterDelta {
            authoritative: Some(self.authoritative),
            members: Some(self.members()),
            node_sets: self.node_sets().cloned().collect(),
            upserts: self.assignments().cloned().collect(),
            bgp_peers: (!self.peers.is_empty()).then(|| Arc::clone(&self.peers)),
            ..ClusterDelta::default()
        }
    }

    pub(super) fn refresh(
        &mut self,
        state: &State,
        cluster: &Name,
        mut dirt: Dirt,
        refresh: &mut Refresh,
    ) {
        let mut delta = ClusterDelta::default();
        let authoritative = state
            .cluster(cluster)
            .is_none_or(|cluster| cluster.inventory.is_authoritative());
        if std::mem::replace(&mut self.authoritative, authoritative) != authoritative {
            delta.authoritative = Some(authoritative);
        }
        if dirt.members {
            delta.members = Some(self.members());
        }
        if dirt.policy {
            self.memory = Memory::default();
            self.note_everything(state, cluster, &mut dirt);
        }
        let work = self.take_out(state, cluster, &dirt);
        let mut announced = self.evaluate(state, cluster, &work);
        let lists = self.place(state, &dirt, &work, &announced);
        let told = Told::gather(state, &dirt, &work);
        refresh.choices.extend(placement_changes(
            state, cluster, self, &dirt, &work, &lists, &told,
        ));
        self.name_nodes(&mut announced, &lists);
        told.mark(&work, &mut announced);
        let tenures = name_owners(state, cluster, &dirt, &mut announced);
        refresh.choices.extend(tenures);
        if dirt.peers || dirt.members || dirt.policy {
            self.refresh_peers(state, cluster, &mut delta);
        }
        self.put_in(work, announced, lists, &mut delta);
        if dirt.leases || dirt.deleted || dirt.policy || !delta.removals.is_empty() {
            let is_fenced = |key: &AssignmentKey| {
                let assignment = self.assignments.get(key);
                assignment.is_some_and(|assignment| assignment.fenced.is_some())
            };
            refresh
                .choices
                .extend(fence::ended(state, cluster, is_fenced));
        }
        if !delta.is_empty() {
            refresh.deltas.insert(cluster.clone(), delta);
        }
    }

    /// All that is announced or could be.
    fn note_everything(&mut self, state: &State, cluster: &Name, dirt: &mut Dirt) {
        dirt.addresses.extend(self.assignments.keys().cloned());
        for allocation in state.allocations_of(cluster) {
            let is_selected = |pool| !self.memory.of_pool(state, cluster, pool).is_empty();
            if allocation.pools().any(is_selected) {
                dirt.addresses.extend(keys_of(allocation));
            }
        }
    }

    /// Takes the groups of the dirty addresses out, and finds the components that now are there.
    fn take_out(&mut self, state: &State, cluster: &Name, dirt: &Dirt) -> Work {
        let mut work = Work::default();
        let mut seen = BTreeSet::new();
        let mut open: Vec<AssignmentKey> = dirt.addresses.iter().cloned().collect();
        while let Some(key) = open.pop() {
            if let Some(assignment) = self.assignments.get(&key)
                && let Some(group) = self.groups.remove(&assignment.group)
            {
                self.nodes.balance.leave(&group.list);
                for address in &group.addresses {
                    work.old_group.insert(address.clone(), assignment.group);
                    open.push(address.clone());
                }
                work.old.insert(assignment.group, group);
            }
            if seen.contains(&key) {
                continue;
            }
            seen.insert(key.clone());
            // An address that the cluster gave back may be another one's within the same batch.
            let component = Component::of(state, &key);
            if let Some(component) = component.filter(|it| it.is_of(cluster)) {
                let addresses = component.addresses.iter();
                open.extend(addresses.filter(|key| !seen.contains(*key)).cloned());
                seen.extend(component.addresses.iter().cloned());
                work.components.insert(component.id(), component);
            }
        }
        work
    }

    fn evaluate(
        &mut self,
        state: &State,
        cluster: &Name,
        work: &Work,
    ) -> BTreeMap<AllocationId, Announced> {
        let components = work.components.iter();
        components
            .filter_map(|(id, component)| {
                let parts = component.parts(state, cluster, &mut self.memory);
                let standings = group::standings(&parts, &self.nodes, &mut self.memory);
                let announced = component.evaluate(&standings, &self.nodes, &mut self.memory)?;
                Some((*id, announced))
            })
            .collect()
    }

    /// Gives every announced group its list.
    fn place(
        &mut self,
        state: &State,
        dirt: &Dirt,
        work: &Work,
        announced: &BTreeMap<AllocationId, Announced>,
    ) -> BTreeMap<AllocationId, Vec<NodeNo>> {
        let mut seats = Vec::with_capacity(announced.len());
        let mut gains = Gains::default();
        for (id, announced) in announced {
            let Some(offer) = &announced.offer else {
                continue;
            };
            let before = work.predecessor(*id);
            let before = before.and_then(|before| work.old.get(&before));
            let list = match before.filter(|group| group.offer.is_some()) {
                Some(group) => group.list.clone(),
                None => self.stored_list(state, dirt, work, *id),
            };
            let old = work.old.get(id).and_then(|group| group.offer.as_ref());
            let gained = old.is_some_and(|old| gains.gained(old, offer));
            seats.push(Seat {
                group: *id,
                candidates: &offer.candidates,
                list,
                gained,
            });
        }
        place(&mut self.nodes.balance, &mut seats);
        seats
            .into_iter()
            .map(|seat| (seat.group, seat.list))
            .collect()
    }

    /// The list of a group that is not announced now: its own, or that of an allocation which
    /// named the group of one of its addresses until this batch.
    fn stored_list(
        &mut self,
        state: &State,
        dirt: &Dirt,
        work: &Work,
        id: AllocationId,
    ) -> Vec<NodeNo> {
        let stored = state
            .placement(id)
            .filter(|known| !known.nodes.is_empty())
            .or_else(|| dirt.former_list(state, work.components.get(&id)?));
        let names = stored.map(|placement| placement.nodes.clone());
        let names = names.unwrap_or_default();
        names.iter().map(|name| self.nodes.number(name)).collect()
    }

    /// Writes the lists into what is announced.
    fn name_nodes(
        &self,
        announced: &mut BTreeMap<AllocationId, Announced>,
        lists: &BTreeMap<AllocationId, Vec<NodeNo>>,
    ) {
        for (id, announced) in announced {
            let list = lists.get(id).into_iter().flatten();
            let names: Vec<Name> = list
                .map(|number| self.nodes.name(*number).clone())
                .collect();
            let assignments = announced.assignments.iter_mut();
            for assignment in assignments.filter(|one| one.interfaces.is_some()) {
                assignment.nodes.clone_from(&names);
            }
        }
    }

    /// Puts the groups back, and says what changed.
    fn put_in(
        &mut self,
        work: Work,
        announced: BTreeMap<AllocationId, Announced>,
        mut lists: BTreeMap<AllocationId, Vec<NodeNo>>,
        delta: &mut ClusterDelta,
    ) {
        let mut gone = work.old_group;
        for (id, announced) in announced {
            let list = lists.remove(&id).unwrap_or_default();
            let mut addresses = Vec::with_capacity(announced.assignments.len());
            for assignment in announced.assignments {
                gone.remove(&assignment.key);
                addresses.push(assignment.key.clone());
                self.upsert(assignment, announced.offer.as_ref(), delta);
            }
            let offer = announced.offer;
            let group = Group {
                addresses,
                offer,
                list,
            };
            self.groups.insert(id, group);
        }
        for key in gone.into_keys() {
            if let Some(before) = self.assignments.remove(&key) {
                self.release_sets(&before, delta);
                delta.removals.push(key);
            }
        }
        // A set that went out of use and came back within the batch was never gone.
        let (node_sets, unused) = (&mut delta.node_sets, &mut delta.unused_node_sets);
        unused.retain(|id| !self.node_sets.contains_key(id));
        node_sets.retain(|set| self.node_sets.contains_key(&set.id));
        delta.upserts.sort_by(|one, two| one.key.cmp(&two.key));
    }

    fn upsert(
        &mut self,
        assignment: Assignment,
        offer: Option<&Arc<Offer>>,
        delta: &mut ClusterDelta,
    ) {
        let before = self.assignments.get(&assignment.key);
        if before.is_some_and(|before| **before == assignment) {
            return;
        }
        if let Some(offer) = offer.filter(|_| assignment.interfaces.is_some()) {
            self.retain_set(&offer.set, delta);
        }
        for set in assignment.own_sets() {
            self.retain_set(set, delta);
        }
        let assignment = Arc::new(assignment);
        let before = self
            .assignments
            .insert(assignment.key.clone(), Arc::clone(&assignment));
        if let Some(before) = before {
            self.release_sets(&before, delta);
        }
        delta.upserts.push(assignment);
    }

    pub(super) fn retain_set(&mut self, set: &Arc<NodeSet>, delta: &mut ClusterDelta) {
        match self.node_sets.entry(set.id) {
            Entry::Occupied(mut entry) => entry.get_mut().1 += 1,
            Entry::Vacant(entry) => {
                entry.insert((Arc::clone(set), 1));
                delta.node_sets.push(Arc::clone(set));
            }
        }
    }

    fn release_sets(&mut self, assignment: &Assignment, delta: &mut ClusterDelta) {
        for id in assignment.node_sets() {
            self.release_set(id, delta);
        }
    }

    pub(super) fn release_set(&mut self, id: u64, delta: &mut ClusterDelta) {
        if let Entry::Occupied(mut entry) = self.node_sets.entry(id) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
                delta.unused_node_sets.push(id);
            }
        }
    }
}

impl Work {
    /// The announced group whose list a component goes on with: its own, else the oldest of those
    /// that its addresses were in.
    fn predecessor(&self, id: AllocationId) -> Option<AllocationId> {
        if self.old.contains_key(&id) {
            return Some(id);
        }
        let addresses = self.components.get(&id)?.addresses.iter();
        addresses
            .filter_map(|key| self.old_group.get(key))
            .min()
            .copied()
    }
}

/// Whether one offer has a node more than another, remembered for the many groups that go from the
/// same offer to the same.
#[derive(Default)]
struct Gains<'a> {
    last: Option<(&'a Arc<Offer>, &'a Arc<Offer>, bool)>,
}

impl<'a> Gains<'a> {
    fn gained(&mut self, before: &'a Arc<Offer>, after: &'a Arc<Offer>) -> bool {
        if let Some((last_before, last_after, gained)) = self.last
            && Arc::ptr_eq(last_before, before)
            && Arc::ptr_eq(last_after, after)
        {
            return gained;
        }
        let gained = after.candidates.gained_over(&before.candidates);
        self.last = Some((before, after, gained));
        gained
    }
}

/// Says who may answer for each fenced address. What has to be stored for it.
fn name_owners(
    state: &State,
    cluster: &Name,
    dirt: &Dirt,
    announced: &mut BTreeMap<AllocationId, Announced>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for announced in announced.values_mut() {
        let Some(offer) = &announced.offer else {
            continue;
        };
        let candidates = &offer.set.nodes;
        let by_layer_2 = announced.assignments.iter();
        let by_layer_2 = by_layer_2.filter(|one| one.interfaces.is_some());
        let families = fence::Families::of(by_layer_2.map(|one| &one.key));
        for assignment in &mut announced.assignments {
            if assignment.fenced.is_none() {
                continue;
            }
            let key = fence::tenure_key(cluster, &assignment.key);
            let fenced = match dirt.fencing {
                // Nobody is to answer beside who has not heard yet that it is fenced.
                _ if state.is_answered_freely(cluster, &assignment.key) => fence::Fenced::default(),
                Fencing::AsStored => fence::stored(state, &key),
                Fencing::Named { moves } => {
                    let (fenced, change) =
                        fence::decide(state, key, (assignment, families), candidates, moves);
                    changes.extend(change);
                    fenced
                }
            };
            assignment.fenced = Some(fenced);
        }
    }
    changes
}

/// What has to be stored: lists that changed, and the end of those whose group is gone. The list of
/// a group that is not announced now is kept, so that it comes back where it was.
fn placement_changes(
    state: &State,
    cluster: &Name,
    assignments: &ClusterAssignments,
    dirt: &Dirt,
    work: &Work,
    lists: &BTreeMap<AllocationId, Vec<NodeNo>>,
    told: &Told,
) -> Vec<Change> {
    let mut changes = Vec::new();
    // Only the oldest allocation of a component names a group.
    let joined = work.components.values().flat_map(Component::younger);
    let former: BTreeSet<_> = work
        .old
        .keys()
        .chain(dirt.former.keys())
        .copied()
        .chain(joined)
        .collect();
    for id in former {
        if !work.components.contains_key(&id)
            && let Some(placement) = state.placement(id)
        {
            changes.push(remove_placement(placement));
        }
    }
    // A list says too that somebody was told to announce the addresses: it goes on also while nobody
    // is.
    for (id, component) in &work.components {
        let own = state.placement(*id);
        if !lists.contains_key(id)
            && own.is_none_or(|own| own.nodes.is_empty())
            && let Some(list) = component
                .younger()
                .find_map(|joined| state.placement(joined))
                .or_else(|| dirt.former_list(state, component))
        {
            changes.push(Change::Placement(Edit {
                before: own.cloned(),
                after: Some(Arc::new(Placement {
                    group: *id,
                    announced: told.of(*id),
                    ..Placement::clone(list)
                })),
            }));
        }
    }
    for (id, list) in lists {
        let before = state.placement(*id);
        let names = list.iter().map(|number| assignments.nodes.name(*number));
        let announced = told.of(*id);
        let is_same = |before: &Arc<Placement>| {
            before.nodes.iter().eq(names.clone()) && before.announced == announced
        };
        if before.is_some_and(is_same) {
            continue;
        }
        changes.push(Change::Placement(Edit {
            before: before.cloned(),
            after: Some(Arc::new(Placement {
                group: *id,
                cluster: cluster.clone(),
                nodes: names.cloned().collect(),
                announced,
            })),
        }));
    }
    changes
}
