//! Performing what [`crate::ownership`] asks for, and telling the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Engine;
use crate::election::{Claim, GroupId, NodeName, Standing};
use crate::handover::{Action, Duty, Gained, Lost, Message};
use crate::l2::burst::Spot;
use crate::l2::hold::{Notes, Report};
use crate::l2::reply::AddressDuty;
use crate::l2::responder::Responder;
use crate::ownership::Effect;
use crate::talk::Note;

/// What the responder does for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    duty: AddressDuty,
    spots: Vec<Spot>,
}

impl Applied {
    /// Has the responder do this there; `None`: nothing.
    pub(super) fn begin(duty: &Duty, spots: Vec<Spot>, responder: &Responder) -> Option<Self> {
        let duty = match duty {
            Duty::Silent => return None,
            Duty::Hold => {
                // What is held for a group that came with the addresses of another one goes on.
                responder.resume(&spots, AddressDuty::Hold, &BTreeSet::new());
                AddressDuty::Hold
            }
            Duty::Record => {
                responder.set(&spots, AddressDuty::Record);
                AddressDuty::Record
            }
            Duty::Answer(report) => {
                responder.answer(&spots, report);
                AddressDuty::Answer
            }
        };
        Some(Self { duty, spots })
    }

    /// Goes on only there: what is answered elsewhere falls silent. Says what is to be gone on with.
    pub(super) fn leave(&mut self, responder: &Responder, spots: &[Spot]) -> AddressDuty {
        let is_gone = |spot: &&Spot| !spots.contains(spot);
        let gone: Vec<Spot> = self.spots.iter().filter(is_gone).copied().collect();
        responder.silence(&gone);
        self.spots = spots.to_vec();
        self.duty
    }

    /// Where.
    pub(super) fn spots(&self) -> &[Spot] {
        &self.spots
    }
}

impl Engine {
    /// Performs all effects that are there.
    pub(super) fn perform(&mut self) {
        let effects = self.talk.ownership.take_effects();
        if effects.iter().any(|effect| effect.action.hands_over()) {
            self.responder.read_arrived();
        }
        let mut lost = BTreeSet::new();
        let mut effects = effects.into_iter().peekable();
        while let Some(Effect { group, action }) = effects.next() {
            self.breathe();
            match action {
                Action::Send(to, message) => self.talk.step(to, group, message),
                Action::Duty(Duty::Answer(mut report)) => {
                    let why = effects.peek().and_then(|next| next.gained(group));
                    report.probing = self.untried.own(&self.plan, group, why, &report);
                    self.set_duty(group, &Duty::Answer(report));
                }
                Action::Duty(duty) => self.set_duty(group, &duty),
                Action::Release(to, claim) => {
                    // From here on nothing is answered any more: only now may the other begin.
                    let mut noted = self.silence(group);
                    noted.probing = self.untried.of(&self.plan, group);
                    let candidacy = self.plan.candidacy(group);
                    noted.addresses = candidacy.map(|candidacy| candidacy.addresses);
                    self.noted.insert(group, noted);
                    self.talk.say(group, Some(to.clone()), Some(claim));
                    self.send_go(to, group, claim);
                }
                Action::RepeatGo(to, claim) => self.send_go(to, group, claim),
                Action::Claim(claim, why) => {
                    self.talk.say(group, None, Some(claim));
                    self.gained.insert(group, (claim, why));
                }
                Action::Raise(claim) => self.talk.say(group, None, Some(claim)),
                Action::Unclaim(why) => {
                    self.tell_of(group);
                    self.on_lost(group, &why);
                    lost.insert(group);
                }
                Action::Gone(claim) => {
                    self.tell_of(group);
                    self.on_lost(group, &Lost::Removed);
                    let me = self.talk.me().node.clone();
                    self.talk.say(group, Some(me), Some(claim));
                }
                Action::Returned => self.talk.say(group, None, None),
                Action::Announce => {
                    if let Some(applied) = self.applied.get(&group) {
                        self.responder.announce(&applied.spots);
                    }
                }
                Action::Inform(node) => self.talk.inform(node),
            }
        }
        for group in lost {
            self.disown(group);
        }
        for note in self.talk.take_notes() {
            self.on_note(note);
        }
    }

    /// Forgets what is known of the addresses of a group, unless this node owns it, or owns it again:
    /// whoever takes back what it has just handed over goes on asking.
    pub(super) fn disown(&mut self, group: GroupId) {
        if self.owns(group) {
            return;
        }
        for address in self.plan.addresses(group).collect::<Vec<_>>() {
            self.disown_address(address);
        }
    }

    /// Forgets what is known of an address, unless this node owns it in another group or space.
    pub(super) fn disown_address(&mut self, address: IpAddr) {
        let groups = self.plan.groups_of(address);
        let is_owned = groups.iter().any(|group| self.owns(*group));
        if !is_owned && !self.fence.owns(address) {
            self.untried.lose(address);
        }
    }

    fn on_note(&self, note: Note) {
        match note {
            Note::Rejected => {
                self.metrics.members_rejected.inc();
            }
            Note::Namesake(endpoint) => {
                let node = &*self.talk.me().node;
                tracing::error!(
                    node,
                    %endpoint,
                    "another announcer runs under this node's name: both answer for the same \
                     addresses until one gets another --node"
                );
                let reason = format!("another announcer, at {endpoint}, is named {node:?} too");
                self.readiness.not_ready("node", reason);
                self.metrics.namesakes.set(1);
            }
            Note::NoNamesake => {
                tracing::info!("no other announcer runs under this node's name any more");
                self.readiness.ready("node");
                self.metrics.namesakes.set(0);
            }
        }
    }

    /// The addresses or interfaces of a group changed: answers where it is to be answered now.
    pub(super) fn reapply(&mut self, group: GroupId) {
        if let Some(applied) = self.applied.get_mut(&group) {
            let spots = self.plan.spots(group);
            let duty = applied.leave(&self.responder, &spots);
            let first = match duty {
                AddressDuty::Answer | AddressDuty::Record | AddressDuty::Probe { .. } => {
                    let told = Report::default();
                    self.untried.own(&self.plan, group, None, &told)
                }
                AddressDuty::Hold => BTreeSet::new(),
            };
            self.bind_addresses(group, duty, &first);
            self.responder.resume(&spots, duty, &first);
        }
        if self.shown.contains_key(&group) {
            self.show(group, true);
            self.tell_interfaces(group);
            self.tell_addresses([group]);
        }
    }

    /// Takes what went from one of these groups to another of them out of the one that had it, so
    /// that nothing which becomes of that one concerns it any more. Its spots are still answered:
    /// to be handed to [`Self::silence_moved`] when all of the groups have been looked at.
    pub(super) fn detach_moved(&mut self, touched: &BTreeSet<GroupId>) -> Vec<(GroupId, Spot)> {
        let mut home = BTreeMap::new();
        for group in touched {
            home.extend(self.plan.addresses(*group).map(|address| (address, *group)));
        }
        let new_home = |group: GroupId, address: IpAddr| {
            let found = home.get(&address).copied();
            found.filter(|new| *new != group)
        };
        let node = self.talk.me().node.clone();
        let mut moved = Vec::new();
        for group in touched {
            if let Some(applied) = self.applied.get_mut(group) {
                applied.spots.retain(|spot| {
                    let new = new_home(*group, spot.address);
                    moved.extend(new.map(|new| (new, *spot)));
                    new.is_none()
                });
            }
            if let Some(shown) = self.shown.get_mut(group) {
                shown.retain(|used| {
                    let stays = new_home(*group, used.address).is_none();
                    if !stays {
                        self.metrics
                            .set_announced(&node, used.address, &used.owners, false);
                    }
                    stays
                });
            }
        }
        moved
    }

    /// Silences those spots that their new group did not take up.
    pub(super) fn silence_moved(&mut self, moved: &[(GroupId, Spot)]) {
        let unused = moved.iter().filter(|(group, spot)| {
            let applied = self.applied.get(group);
            !applied.is_some_and(|applied| applied.spots.contains(spot))
        });
        let unused: Vec<Spot> = unused.map(|(_, spot)| *spot).collect();
        self.responder.silence(&unused);
        let addresses: BTreeSet<IpAddr> = unused.iter().map(|spot| spot.address).collect();
        for address in addresses {
            tracing::info!(%address, reason = "group_changed", "stopped answering an address");
        }
    }

    fn set_duty(&mut self, group: GroupId, duty: &Duty) {
        match duty {
            // Interfaces may differ from those that were answered on.
            Duty::Silent | Duty::Hold => drop(self.silence(group)),
            // First: what is attracted is to be taken in.
            Duty::Answer(report) => {
                self.bind_addresses(group, AddressDuty::Answer, &report.probing);
            }
            Duty::Record => {}
        }
        let spots = self.plan.spots(group);
        if let Some(applied) = Applied::begin(duty, spots, &self.responder) {
            self.applied.insert(group, applied);
        }
    }

    /// Binds the addresses of a group, if that is asked for and the group is answered for. What is
    /// answered nowhere attracts nothing; where IPv6 is disabled the kernel takes no such address.
    /// Nor is what is not answered yet.
    fn bind_addresses(&mut self, group: GroupId, duty: AddressDuty, first: &BTreeSet<IpAddr>) {
        if let Some(binder) = &mut self.binder {
            let addresses = match duty {
                AddressDuty::Answer | AddressDuty::Record => &self.plan.answerable(group) - first,
                AddressDuty::Hold | AddressDuty::Probe { .. } => BTreeSet::new(),
            };
            binder.want(group, addresses);
        }
    }

    /// Addresses that were asked for proved to be free: they are answered from now on.
    pub(super) fn on_free(&mut self) {
        let free = self.responder.take_free();
        let mut groups = BTreeSet::new();
        for address in &free {
            groups.extend(self.plan.groups_of(*address));
        }
        // First: what is attracted is to be taken in.
        self.bind_free(&groups, &free, &free);
        let answered = self.responder.answer_free(&free);
        for address in &answered {
            self.untried.answered(*address);
        }
        if answered != free {
            // Another machine has shown itself at the last moment.
            self.bind_free(&groups, &free, &BTreeSet::new());
        }
        for address in &free {
            groups.extend(self.fence.groups_of(*address));
        }
        self.tell_addresses(groups);
    }

    /// Binds those of these addresses that are answered by now, and also the ones that are `free`.
    fn bind_free(
        &mut self,
        groups: &BTreeSet<GroupId>,
        addresses: &BTreeSet<IpAddr>,
        free: &BTreeSet<IpAddr>,
    ) {
        if self.binder.is_none() {
            return;
        }
        for group in groups {
            let first = &self.untried.of(&self.plan, *group) - free;
            if let Some(applied) = self.applied.get(group) {
                self.bind_addresses(*group, applied.duty, &first);
            }
        }
        for address in addresses {
            let waits = self.untried.has(*address) && !free.contains(address);
            self.bind_fenced_address(*address, waits);
        }
    }

    fn silence(&mut self, group: GroupId) -> Notes {
        if let Some(binder) = &mut self.binder {
            binder.want(group, BTreeSet::new());
        }
        match self.applied.remove(&group) {
            Some(applied) => self.responder.silence(&applied.spots),
            None => Notes::default(),
        }
    }

    fn send_go(&mut self, to: NodeName, group: GroupId, claim: Claim) {
        let report = self.noted.get(&group).map(Notes::report);
        let message = Message::Go(claim, report.unwrap_or_default());
        self.talk.step(to, group, message);
    }

    /// Counts that something came to this node. How the log calls it, and from whom it came.
    pub(super) fn count_gained<'a>(&self, why: &'a Gained) -> (&'static str, Option<&'a NodeName>) {
        match why {
            Gained::Unowned => ("unowned", None),
            Gained::Inherited => ("group_changed", None),
            Gained::Orphaned => {
                self.metrics.failovers.inc();
                ("owner_gone", None)
            }
            Gained::HandedOver(from) => {
                self.metrics.handovers.inc();
                ("handed_over", Some(from))
            }
        }
    }

    /// People are told once all is answered, and all members know: of a thousand groups the last one waits for
    /// that.
    pub(super) fn tell_of_gained(&mut self) {
        for (group, (claim, why)) in std::mem::take(&mut self.gained) {
            self.breathe();
            self.on_gained(group, claim, &why);
        }
    }

    /// What was gained and is lost again is told in this order.
    fn tell_of(&mut self, group: GroupId) {
        if let Some((claim, why)) = self.gained.remove(&group) {
            self.on_gained(group, claim, &why);
        }
    }

    /// Whether this node owns a group, whoever was told of that.
    fn owns(&self, group: GroupId) -> bool {
        self.shown.contains_key(&group) || self.gained.contains_key(&group)
    }

    fn on_gained(&mut self, group: GroupId, claim: Claim, why: &Gained) {
        let (reason, from) = self.count_gained(why);
        self.show(group, true);
        self.tell_gained(group, why);
        for used in self.plan.used(group) {
            tracing::info!(
                address = %used.address,
                owners = used.owners.join(","),
                group = group.0,
                claim = claim.0,
                reason,
                from = from.map(|node| &**node),
                "answering an address"
            );
        }
    }

    fn on_lost(&mut self, group: GroupId, why: &Lost) {
        self.talk.say(group, None, None);
        self.noted.remove(&group);
        let (reason, to) = match why {
            Lost::HandedOver(to) => {
                self.metrics.handovers.inc();
                ("handed_over", Some(to))
            }
            Lost::Outbid(to) => ("outbid", Some(to)),
            Lost::Unlisted => ("no_candidate", None),
            Lost::Removed => ("removed", None),
        };
        for used in self.shown.get(&group).into_iter().flatten() {
            tracing::info!(
                address = %used.address,
                owners = used.owners.join(","),
                group = group.0,
                reason,
                to = to.map(|node| &**node),
                "stopped answering an address"
            );
        }
        self.show(group, false);
        self.tell_lost(group);
    }

    /// Keeps `metallb_speaker_announced` in step.
    fn show(&mut self, group: GroupId, owned: bool) {
        let node = self.talk.me().node.clone();
        for used in self.shown.remove(&group).unwrap_or_default() {
            self.metrics
                .set_announced(&node, used.address, &used.owners, false);
        }
        if owned {
            let all = self.plan.used(group);
            for used in &all {
                self.metrics
                    .set_announced(&node, used.address, &used.owners, true);
            }
            self.shown.insert(group, all);
        }
    }

    /// Tells persons where IPv6 addresses cannot be answered.
    pub(super) fn note_link_local(&self) {
        let lack = self.plan.lack_link_local().map(|port| port.name.as_str());
        let lack: Vec<&str> = lack.collect();
        if lack.is_empty() {
            self.readiness.clear_note("ipv6");
            return;
        }
        let note = format!(
            "IPv6 addresses are not answered on {}: no link-local address",
            lack.join(", ")
        );
        self.readiness.note("ipv6", note);
    }

    /// Whether this node has reached nobody since it started, although there are others.
    pub(super) fn are_members_unreachable(&self) -> bool {
        let roster = self.talk.ownership.roster();
        let mut others = roster.others();
        let all_dead = others.all(|(_, standing)| *standing == Standing::Dead);
        !roster.reached_anyone && !self.talk.peers().is_empty() && all_dead
    }

    /// Keeps metrics and readiness in step.
    pub(super) fn observe(&mut self) {
        let roster = self.talk.ownership.roster();
        if let Some(macs) = self.member_macs.update(roster) {
            self.responder.set_members(macs);
        }
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics
            .owned
            .set(count(self.shown.len() + self.fence.owned()));
        self.metrics
            .members_known
            .set(count(self.talk.peers().len()));
        self.metrics
            .members_alive
            .set(count(self.talk.peers().live().count()));
        let unreachable = self.are_members_unreachable();
        self.metrics.members_unreachable.set(unreachable.into());
        if unreachable {
            let reason = format!(
                "members_unreachable: none of {} members answers since the start",
                self.talk.peers().len()
            );
            self.readiness.not_ready("members", reason);
        } else {
            self.readiness.ready("members");
        }
    }
}
