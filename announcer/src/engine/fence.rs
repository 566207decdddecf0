//! The fenced addresses: performing what [`crate::fenced`] asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use pharos_proto::v1::renew_lease_request::Readiness;
use tokio::sync::watch;

use super::Engine;
use super::effects::Applied;
use crate::book::{Assigned, Key};
use crate::election::{GroupId, NodeName};
use crate::fenced::{DRAIN_TIMEOUT, Effect, Handle, Lost, Released, Told};
use crate::handover::{Duty, Gained, Message};
use crate::l2::burst::Spot;
use crate::l2::hold::Notes;
use crate::l2::reply::AddressDuty;
use crate::lease::Standing;
use assignments::Assignments;

mod assignments;

/// Whom the engine tells of the fenced addresses.
#[derive(Debug)]
pub struct FenceOutlets {
    /// What the lease is renewed with; `None`: none is needed.
    pub standing: watch::Sender<Option<Standing>>,
    /// Tenures that this node has ended.
    pub released: watch::Sender<BTreeSet<Released>>,
}

/// Addresses that were fenced and are not any more.
#[derive(Debug)]
pub(super) struct Unfenced {
    pub(super) addresses: Vec<IpAddr>,
    /// Who owned what is in these groups now.
    pub(super) owners: BTreeMap<GroupId, NodeName>,
}

/// What the engine has of fenced addresses.
#[derive(Debug)]
pub(super) struct Fence {
    outlets: FenceOutlets,
    assigned: Assignments,
    applied: BTreeMap<Key, Applied>,
    noted: BTreeMap<Key, Notes>,
    /// What `metallb_speaker_announced` says this node owns, with those who use it.
    shown: BTreeMap<Key, Vec<String>>,
}

impl Fence {
    pub(super) fn new(outlets: FenceOutlets) -> Self {
        Self {
            outlets,
            assigned: Assignments::default(),
            applied: BTreeMap::new(),
            noted: BTreeMap::new(),
            shown: BTreeMap::new(),
        }
    }

    /// What is answered where.
    pub(super) fn spots(&self) -> impl Iterator<Item = &Spot> {
        self.applied.values().flat_map(Applied::spots)
    }

    /// Whether there is such an address.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.assigned.of_address(address).next().is_some()
    }

    /// Those addresses of a group that this node owns.
    pub(super) fn own(&self, group: GroupId) -> impl Iterator<Item = IpAddr> {
        self.own_keys(group).map(|key| key.address)
    }

    /// Where they are answered, or will be.
    pub(super) fn own_spots(&self, group: GroupId) -> impl Iterator<Item = Spot> {
        let applied = self.own_keys(group).filter_map(|key| self.applied.get(key));
        applied.flat_map(Applied::spots).copied()
    }

    /// Addresses of a group that ipam-service does not know to be answered.
    pub(super) fn unannounced(&self, group: GroupId) -> impl Iterator<Item = IpAddr> {
        let keys = self.assigned.of_group(group);
        let new = keys.filter(|key| self.assigned.get(key).is_some_and(|one| one.probe));
        new.map(|key| key.address)
    }

    fn own_keys(&self, group: GroupId) -> impl Iterator<Item = &Key> {
        let keys = self.assigned.of_group(group);
        keys.filter(|key| self.shown.contains_key(*key))
    }

    /// Whether this node owns an address, in whichever space.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        let mut keys = self.assigned.of_address(address);
        keys.any(|key| self.shown.contains_key(key))
    }

    /// The groups that have this address.
    pub(super) fn groups_of(&self, address: IpAddr) -> impl Iterator<Item = GroupId> {
        let keys = self.assigned.of_address(address);
        let assigned = keys.filter_map(|key| self.assigned.get(key));
        assigned.map(|assigned| assigned.group)
    }

    /// How many addresses this node owns.
    pub(super) fn owned(&self) -> usize {
        self.shown.len()
    }
}

impl Engine {
    /// Takes in what concerns fenced addresses, and leaves the rest. Tells of those that were fenced.
    pub(super) fn take_fenced(
        &mut self,
        upserts: &mut Vec<Assigned>,
        removals: &mut Vec<Key>,
        now: Instant,
    ) -> Unfenced {
        let (fenced, rest): (Vec<Assigned>, Vec<Assigned>) = std::mem::take(upserts)
            .into_iter()
            .partition(|assigned| assigned.fenced.is_some() && assigned.wanted.is_some());
        *upserts = rest;
        let owners = self.former_owners(upserts);
        let gone = removals.iter().chain(upserts.iter().map(|one| &one.key));
        let addresses = self.unfence(gone);
        // It may have been announced otherwise until now.
        removals.extend(fenced.iter().map(|assigned| assigned.key.clone()));
        for assigned in fenced {
            self.fence(assigned, now);
            self.breathe();
        }
        Unfenced { addresses, owners }
    }

    /// Who owned the addresses of groups that come from fenced ones. Where they are on their way from
    /// one node to another all go by the one with the lowest key.
    fn former_owners(&self, upserts: &[Assigned]) -> BTreeMap<GroupId, NodeName> {
        let mut owners: BTreeMap<GroupId, (&Key, &NodeName)> = BTreeMap::new();
        for Assigned { key, group, .. } in upserts.iter().filter(|one| one.wanted.is_some()) {
            if let Some(owner) = self.talk.fenced.owner(key) {
                let first = owners.entry(*group).or_insert((key, owner));
                *first = (*first).min((key, owner));
            }
        }
        let owners = owners.into_iter();
        owners
            .map(|(group, (_, owner))| (group, owner.clone()))
            .collect()
    }

    fn fence(&mut self, assigned: Assigned, now: Instant) {
        let me = &self.talk.me().node;
        let mut nodes = assigned.listed.iter().chain(&*assigned.candidates);
        let fenced = assigned.fenced.clone().unwrap_or_default();
        let told = Told {
            candidate: nodes.any(|node| node == me),
            ..fenced
        };
        let key = assigned.key.clone();
        let group = assigned.group;
        let before = self.fence.assigned.insert(assigned);
        let before = before.map(|before| before.group);
        if let Some(before) = before.filter(|before| *before != group)
            && self.fence.shown.contains_key(&key)
        {
            self.tell_lost_groups([before].into());
            self.tell_gained(group, &Gained::Inherited);
        }
        self.reapply_address(&key);
        self.talk.fenced.set(key, told, now);
    }

    /// Gives those addresses that were fenced.
    fn unfence<'a>(&mut self, gone: impl Iterator<Item = &'a Key>) -> Vec<IpAddr> {
        let fenced: Vec<&Key> = gone.filter(|key| self.talk.fenced.contains(key)).collect();
        let answers = |key: &&&Key| self.talk.fenced.owner(key) == Some(&self.talk.me().node);
        let answered = fenced.iter().filter(answers);
        let known: Vec<_> = answered
            .map(|key| (key.address, self.untried.has(key.address)))
            .collect();
        for key in &fenced {
            self.talk.fenced.remove(key);
        }
        self.perform_fenced();
        // If it goes on with them it knows what it knew.
        for (address, is_untried) in known {
            self.untried.add(address, is_untried);
        }
        for key in &fenced {
            self.fence.assigned.remove(key);
            self.fence.noted.remove(*key);
        }
        fenced.iter().map(|key| key.address).collect()
    }

    /// The interfaces changed.
    pub(super) fn reapply_fenced(&mut self) {
        for key in self.fence.applied.keys().cloned().collect::<Vec<_>>() {
            self.reapply_address(&key);
            self.breathe();
        }
    }

    /// Where it is to be answered changed, or who uses it.
    fn reapply_address(&mut self, key: &Key) {
        let spots = self.fenced_spots(key);
        if let Some(applied) = self.fence.applied.get_mut(key) {
            let duty = applied.leave(&self.responder, &spots);
            let waits = self.untried.has(key.address);
            match duty {
                AddressDuty::Answer | AddressDuty::Record => {
                    self.bind_fenced(key, !spots.is_empty() && !waits);
                }
                AddressDuty::Hold | AddressDuty::Probe { .. } => {}
            }
            let first = waits.then_some(key.address).into_iter().collect();
            self.responder.resume(&spots, duty, &first);
        }
        if let Some(assigned) = self.fence.assigned.get(key) {
            self.tell_interfaces(assigned.group);
            self.tell_addresses([assigned.group]);
        }
        if self.fence.shown.contains_key(key) {
            self.show_fenced(key, true);
        }
    }

    fn fenced_spots(&self, key: &Key) -> Vec<Spot> {
        let assigned = self.fence.assigned.get(key);
        let Some(wanted) = assigned.and_then(|assigned| assigned.wanted.as_ref()) else {
            return Vec::new();
        };
        self.plan.spots_of(key.address, wanted)
    }

    /// Performs what is to be done about fenced addresses.
    pub(super) fn perform_fenced(&mut self) {
        let mut lost = BTreeSet::new();
        let effects = self.talk.fenced.take_effects();
        if effects.iter().any(Effect::hands_over) {
            self.responder.read_arrived();
        }
        let mut effects = effects.into_iter().peekable();
        while let Some(effect) = effects.next() {
            self.breathe();
            match effect {
                Effect::Duty(key, mut duty, term) => {
                    if let Duty::Answer(report) = &mut duty {
                        let why = effects.peek().and_then(|next| next.gained(&key));
                        self.own_fenced(&key, why, &mut report.probing);
                    }
                    self.responder.fence(key.address, Some(term));
                    self.set_fenced_duty(&key, &duty);
                }
                Effect::Silence(key) => {
                    self.silence_fenced(&key);
                }
                Effect::Release(key, to, handle) => {
                    // From here on nothing is answered any more: only now may the other begin.
                    let mut noted = self.silence_fenced(&key);
                    let waits = self.untried.has(key.address);
                    noted.probing = waits.then_some(key.address).into_iter().collect();
                    self.fence.noted.insert(key.clone(), noted);
                    self.send_fenced_go(&key, to, handle);
                }
                Effect::RepeatGo(key, to, handle) => self.send_fenced_go(&key, to, handle),
                Effect::Prepare(to, handle) => {
                    self.talk
                        .step(to, handle.id, Message::Prepare(handle.attempt));
                }
                Effect::Ack(to, handle) => {
                    self.talk.step(to, handle.id, Message::Ack(handle.attempt));
                }
                Effect::Gained(key, epoch, why) => self.on_fenced_gained(&key, epoch, &why),
                Effect::Lost(key, why) => lost.extend(self.on_fenced_lost(&key, why)),
            }
        }
        self.tell_lost_groups(lost);
    }

    fn set_fenced_duty(&mut self, key: &Key, duty: &Duty) {
        let spots = self.fenced_spots(key);
        if let Duty::Answer(report) = duty {
            // First: what is attracted is to be taken in. Not yet: what is to be asked for.
            let answers = !spots.is_empty() && !report.probing.contains(&key.address);
            self.bind_fenced(key, answers);
        }
        match Applied::begin(duty, spots, &self.responder) {
            Some(applied) => drop(self.fence.applied.insert(key.clone(), applied)),
            None => drop(self.silence_fenced(key)),
        }
    }

    /// Says of an address that came to this node, or is here still, whether it is to be asked for first.
    /// Who named this node knows whether it was ever answered, unless a former owner knows better.
    fn own_fenced(&mut self, key: &Key, why: Option<&Gained>, told: &mut BTreeSet<IpAddr>) {
        let Key { address, .. } = key;
        match why {
            Some(Gained::HandedOver(_)) => self.untried.hand(*address, told.contains(address)),
            Some(Gained::Unowned | Gained::Inherited | Gained::Orphaned) | None => {
                let assigned = self.fence.assigned.get(key);
                let is_new = assigned.is_some_and(|assigned| assigned.probe);
                self.untried.add(*address, is_new);
            }
        }
        *told = self
            .untried
            .has(*address)
            .then_some(*address)
            .into_iter()
            .collect();
    }

    /// Binds this address where it is fenced and owned, unless it `waits`.
    pub(super) fn bind_fenced_address(&mut self, address: IpAddr, waits: bool) {
        let keys = self.fence.assigned.of_address(address);
        let owned = keys.filter(|key| self.fence.shown.contains_key(*key));
        for key in owned.cloned().collect::<Vec<_>>() {
            let answers = self.fence.applied.get(&key);
            let answers = answers.is_some_and(|applied| !applied.spots().is_empty());
            self.bind_fenced(&key, answers && !waits);
        }
    }

    /// Binds a fenced address, if that is asked for; or does no longer.
    fn bind_fenced(&mut self, key: &Key, answers: bool) {
        if let Some(binder) = &mut self.binder {
            let addresses = answers.then_some(key.address).into_iter().collect();
            binder.want(bound_as(key), addresses);
        }
    }

    fn silence_fenced(&mut self, key: &Key) -> Notes {
        self.bind_fenced(key, false);
        let applied = self.fence.applied.remove(key);
        let notes = applied.map(|applied| self.responder.silence(applied.spots()));
        // Another address space may have the same address.
        let mut others = self.fence.assigned.of_address(key.address);
        if !others.any(|other| self.fence.applied.contains_key(other)) {
            self.responder.fence(key.address, None);
        }
        notes.unwrap_or_default()
    }

    fn send_fenced_go(&mut self, key: &Key, to: NodeName, handle: Handle) {
        let report = self.fence.noted.get(key).map(Notes::report);
        let go = Message::Go(handle.attempt, report.unwrap_or_default());
        self.talk.step(to, handle.id, go);
    }

    fn on_fenced_gained(&mut self, key: &Key, epoch: u64, why: &Gained) {
        let Some(assigned) = self.fence.assigned.get(key) else {
            return;
        };
        let (_, from) = self.count_gained(why);
        tracing::info!(
            address = %key.address,
            owners = assigned.owners.join(","),
            epoch,
            from = from.map(|node| &**node),
            reason = "named",
            "answering a fenced address"
        );
        let group = assigned.group;
        self.show_fenced(key, true);
        self.tell_gained(group, why);
    }

    /// Gives the group of the address.
    fn on_fenced_lost(&mut self, key: &Key, why: Lost) -> Option<GroupId> {
        let assigned = self.fence.assigned.get(key)?;
        let reason = match why {
            Lost::Released => {
                self.metrics.handovers.inc();
                "handed_over"
            }
            Lost::Unlisted => "no_candidate",
            Lost::LeaseOver => "lease_over",
            Lost::Removed => "removed",
        };
        tracing::info!(
            address = %key.address,
            owners = assigned.owners.join(","),
            reason,
            "stopped answering a fenced address"
        );
        let group = assigned.group;
        self.show_fenced(key, false);
        self.disown_address(key.address);
        Some(group)
    }

    /// A group is told of as owned while one of its addresses is.
    fn tell_lost_groups(&self, lost: BTreeSet<GroupId>) {
        for group in lost {
            let mut keys = self.fence.assigned.of_group(group);
            match keys.any(|key| self.fence.shown.contains_key(key)) {
                true => {
                    self.tell_interfaces(group);
                    self.tell_addresses([group]);
                }
                false => self.tell_lost(group),
            }
        }
    }

    /// Keeps `metallb_speaker_announced` in step.
    fn show_fenced(&mut self, key: &Key, owned: bool) {
        let node = &self.talk.me().node;
        if let Some(owners) = self.fence.shown.remove(key) {
            self.metrics
                .set_announced(node, key.address, &owners, false);
        }
        if let Some(assigned) = self.fence.assigned.get(key).filter(|_| owned) {
            self.metrics
                .set_announced(node, key.address, &assigned.owners, true);
            let owners = assigned.owners.clone();
            self.fence.shown.insert(key.clone(), owners);
        }
    }

    /// Whether nothing fenced is answered any more, or nobody else takes it.
    pub(super) fn is_fence_drained(&self, since: Instant, now: Instant) -> bool {
        self.talk.fenced.answers_nothing() || now >= since + DRAIN_TIMEOUT
    }

    /// Tells the lease and the stream what is new.
    pub(super) fn tell_of_fenced(&self) {
        let needed = self.own.ready && self.talk.fenced.needs_lease();
        let readiness = match (self.own.draining, self.own.hold_down) {
            (true, _) => Readiness::Draining,
            (false, true) => Readiness::HoldDown,
            (false, false) => Readiness::Ready,
        };
        let standing = needed.then(|| Standing {
            readiness,
            interfaces: self.own.interfaces.clone(),
            interfaces6: self.own.interfaces6.clone(),
        });
        let outlets = &self.fence.outlets;
        set_if_new(&outlets.standing, &standing);
        set_if_new(&outlets.released, self.talk.fenced.released());
    }
}

/// Fenced addresses are bound one by one, each under a number that no group has: those are small.
fn bound_as(key: &Key) -> GroupId {
    let text = format!("{}\0{}", key.space, key.address);
    GroupId(pharos_proto::digest::node_set_id([text.as_str()]))
}

fn set_if_new<T: PartialEq + Clone>(to: &watch::Sender<T>, value: &T) {
    to.send_if_modified(|told| {
        let is_new = told != value;
        if is_new {
            value.clone_into(told);
        }
        is_new
    });
}
