//! One host, and the announcer on it: what [`crate::engine`] does, without sockets and threads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pnet_base::MacAddr;
use prometheus_client::registry::Registry;

use crate::book::Assigned;
use crate::election::{Condition, GroupId, NodeName, Standing};
use crate::handover::{Action, Duty, Message};
use crate::l2::arp::Arp;
use crate::l2::burst::Spot;
use crate::l2::hold::{Notes, Report};
use crate::l2::reply::AddressDuty;
use crate::l2::table::{Outcome, Packet, Port, Protocol, Sending, Table};
use crate::members::Peer;
use crate::members::wire::Datagram;
use crate::metrics::Metrics;
use crate::ownership::Effect;
use crate::plan::Plan;
use crate::talk::{Sendings, Talk};
use crate::untried::Untried;

const INTERFACE: u32 = 2;
const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 1, 0);
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);
/// Its thread runs ten times a second: here it is told of pauses only.
const PAUSE: Duration = Duration::from_millis(250);
/// What it follows before it looks at the time.
const FOLLOWED_AT_ONCE: usize = 3;
/// A timer that fires so much later than planned means that the process did not run.
const STALL: Duration = Duration::from_millis(60);

pub(super) fn name(index: usize) -> NodeName {
    NodeName::from(format!("n{index}"))
}

pub(super) fn endpoint(index: usize) -> SocketAddr {
    let last = u8::try_from(index + 1).expect("few nodes");
    SocketAddr::from(([10, 0, 0, last], 7946))
}

/// The number is carried by the address that asks.
fn question(number: u32, address: Ipv4Addr) -> Vec<u8> {
    let request = Arp {
        sender_ip: Ipv4Addr::from(number),
        ..Arp::gratuitous_request(address, CLIENT)
    };
    request.emit().to_vec()
}

/// A running announcer.
pub(super) struct Node {
    pub(super) talk: Talk,
    table: Table,
    plan: Plan,
    own: Condition,
    began: Instant,
    hold_down_until: Instant,
    applied: BTreeMap<GroupId, (AddressDuty, Vec<Spot>)>,
    noted: BTreeMap<GroupId, Notes>,
    untried: Untried,
    /// By address.
    lists: BTreeMap<Ipv4Addr, Assigned>,
    /// Numbers of requests that were answered since the last call of [`Self::take_answers`].
    answers: Vec<u32>,
    /// Addresses that it asked for since the last call of [`Self::take_probed`].
    probed: Vec<Ipv4Addr>,
    /// What it did since the last call of [`Self::take_notes`], for the history.
    notes: Vec<String>,
    /// What it thought of the others when that was noted last.
    thought: Vec<String>,
    /// It has heard more than it has followed, since then.
    has_more: Option<Instant>,
    /// Until then it hears and answers, and follows nothing.
    busy_until: Option<Instant>,
    unsent: Sendings,
    /// What its stream said meanwhile.
    told: Option<BTreeMap<Ipv4Addr, Assigned>>,
    refused: Vec<SocketAddr>,
}

/// What a node starts with.
pub(super) struct Start {
    pub(super) index: usize,
    pub(super) epoch: u64,
    pub(super) seed: u64,
    pub(super) hold_down: Duration,
    pub(super) members: usize,
    /// From its disk.
    pub(super) lists: BTreeMap<Ipv4Addr, Assigned>,
}

impl Node {
    pub(super) fn new(start: Start, now: Instant) -> Self {
        let own = Condition {
            ready: true,
            hold_down: !start.hold_down.is_zero(),
            draining: false,
            interfaces: BTreeSet::from(["eth0".to_owned()]),
            interfaces6: BTreeSet::from(["eth0".to_owned()]),
            macs: BTreeSet::new(),
        };
        let not_ready = Condition {
            ready: false,
            ..own.clone()
        };
        let me = Peer {
            node: name(start.index),
            endpoint: endpoint(start.index),
            epoch: start.epoch,
        };
        let last = u8::try_from(start.index).expect("few nodes");
        let port = port(MacAddr(2, 0, 0, 0, 0, last));
        let mut table = Table::new(Metrics::register(&mut Registry::default()), now);
        table.open(port.clone());
        let mut plan = Plan::new(me.node.clone());
        plan.set_ports(vec![port], BTreeSet::new());
        let mut node = Self {
            talk: Talk::new(me, not_ready, start.seed, now),
            table,
            plan,
            own,
            began: now,
            hold_down_until: now + start.hold_down,
            applied: BTreeMap::new(),
            noted: BTreeMap::new(),
            untried: Untried::default(),
            lists: BTreeMap::new(),
            answers: Vec::new(),
            probed: Vec::new(),
            notes: Vec::new(),
            thought: Vec::new(),
            has_more: None,
            busy_until: None,
            unsent: Vec::new(),
            told: None,
            refused: Vec::new(),
        };
        let members: Vec<(NodeName, Option<SocketAddr>)> = (0..start.members)
            .map(|index| (name(index), Some(endpoint(index))))
            .collect();
        node.talk.set_members(&members, now);
        // As what is on a disk is.
        node.lists = start.lists.clone();
        let known = start.lists.into_values().map(|list| Assigned {
            probe: false,
            ..list
        });
        node.take_in(known.collect(), now);
        node
    }

    /// What its disk has.
    pub(super) fn lists(&self) -> &BTreeMap<Ipv4Addr, Assigned> {
        &self.lists
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.busy_until.is_some() {
            let deadlines = [self.busy_until, self.talk.members_deadline()];
            return deadlines.into_iter().flatten().min();
        }
        let held_down = self.own.hold_down.then_some(self.hold_down_until);
        [
            self.has_more,
            self.talk.next_deadline(),
            held_down,
            self.table.next_probe(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn tick(&mut self, now: Instant) {
        let sendings = self.talk.tick_members(now);
        self.unsent.extend(sendings);
        if self.busy_until.is_some_and(|until| now < until) {
            return;
        }
        self.busy_until = None;
        self.has_more = None;
        if self.own.hold_down && self.hold_down_until <= now {
            self.own.hold_down = false;
        }
        self.follow(now);
        for to in std::mem::take(&mut self.refused) {
            self.talk.refused(to, now);
        }
        if let Some(lists) = self.told.take() {
            self.assign(lists, now);
        }
        let questions = self.table.due_probes(now);
        self.probed.extend(questions.iter().filter_map(probed));
        let free = self.table.take_free();
        let (begun, answers) = self.table.answer_free(&free, now);
        for address in begun {
            self.untried.answered(address);
        }
        self.answered(&answers);
        self.talk.tick(now);
        self.settle(now);
    }

    /// It has much to do until then, and only answers who asks.
    pub(super) fn keep_busy(&mut self, until: Instant) {
        self.busy_until = Some(until);
    }

    fn follow(&mut self, now: Instant) {
        if self.busy_until.is_some() {
            return;
        }
        for _ in 0..FOLLOWED_AT_ONCE {
            if !self.talk.follow(now) {
                return;
            }
            self.settle_once(now);
        }
        self.has_more = Some(now);
    }

    pub(super) fn take_unsent(&mut self) -> Sendings {
        let mut unsent = std::mem::take(&mut self.unsent);
        unsent.extend(self.talk.take_unsent());
        unsent
    }

    /// It did not run since then.
    pub(super) fn resume(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) > PAUSE {
            let boot = |at: Instant| at.saturating_duration_since(self.began);
            self.table.runs(since, boot(since));
            self.table.runs(now, boot(now));
        }
        let planned = self.talk.members_deadline().unwrap_or(now).max(since);
        let late = now.saturating_duration_since(planned);
        if late > STALL {
            self.talk.postpone(late);
        }
    }

    pub(super) fn drain(&mut self, now: Instant) {
        self.own.draining = true;
        if self.busy_until.is_none() {
            self.settle(now);
        }
    }

    pub(super) fn is_drained(&mut self, now: Instant) -> bool {
        let then = self.talk.time(now);
        let is_idle = self.busy_until.is_none() && !self.talk.has_heard();
        self.own.draining && is_idle && self.talk.ownership.is_settled(then)
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.talk.ownership.fall_silent();
        self.perform(now);
        self.talk.leave(now);
        while self.talk.pack_steps(now) {}
    }

    pub(super) fn receive(&mut self, datagram: Datagram, at: Instant, now: Instant) {
        if let Some(body) = datagram.body {
            let answers = self.talk.hear(body, at, now);
            self.unsent.extend(answers);
        }
        self.follow(now);
    }

    pub(super) fn refused(&mut self, to: SocketAddr, now: Instant) {
        if self.busy_until.is_some() {
            self.refused.push(to);
            return;
        }
        self.talk.refused(to, now);
        self.settle(now);
    }

    pub(super) fn ask(&mut self, number: u32, address: Ipv4Addr, at: Instant, now: Instant) {
        let frame = question(number, address);
        let place = (INTERFACE, Protocol::Arp);
        match self.table.on_frame(place, &frame, at, now) {
            // No machine is foreign here, so nobody answers a check.
            Outcome::Send(sending) | Outcome::SendAndCheck(sending, _) => {
                self.answered(&[sending]);
            }
            Outcome::Nothing | Outcome::Conflict(_) | Outcome::Ignored(_) => {}
        }
    }

    /// Its interface has this hardware address now; `None`: it is gone.
    pub(super) fn set_mac(&mut self, mac: Option<MacAddr>, now: Instant) {
        self.table.close(INTERFACE);
        let ports: Vec<Port> = mac.map(port).into_iter().collect();
        for port in &ports {
            self.table.open(port.clone());
        }
        self.plan.set_ports(ports, BTreeSet::new());
        let names = self.plan.names_that_speak(Protocol::Arp);
        self.own.interfaces.clone_from(&names);
        self.own.interfaces6 = names;
        let mut all = Vec::new();
        for (group, (duty, spots)) in &mut self.applied {
            *spots = self.plan.spots(*group);
            let first = match duty {
                AddressDuty::Answer | AddressDuty::Record | AddressDuty::Probe { .. } => {
                    let told = Report::default();
                    self.untried.own(&self.plan, *group, None, &told)
                }
                AddressDuty::Hold => BTreeSet::new(),
            };
            all.extend(self.table.resume(spots, *duty, &first, now));
        }
        self.answered(&all);
        self.settle(now);
    }

    /// A stranger says that it has an address.
    pub(super) fn hear_stranger(&mut self, address: Ipv4Addr, at: Instant, now: Instant) {
        let frame = Arp::gratuitous_request(address, STRANGER).emit();
        self.table
            .on_frame((INTERFACE, Protocol::Arp), &frame, at, now);
    }

    pub(super) fn take_probed(&mut self) -> Vec<Ipv4Addr> {
        std::mem::take(&mut self.probed)
    }

    pub(super) fn take_answers(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.answers)
    }

    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The stream has these lists now.
    pub(super) fn assign(&mut self, lists: BTreeMap<Ipv4Addr, Assigned>, now: Instant) {
        if self.busy_until.is_some() {
            self.told = Some(lists);
            return;
        }
        let changed = lists
            .iter()
            .filter(|(address, list)| self.lists.get(address) != Some(*list));
        let upserts = changed.map(|(_, list)| list.clone()).collect();
        self.lists = lists;
        self.take_in(upserts, now);
    }

    fn take_in(&mut self, upserts: Vec<Assigned>, now: Instant) {
        let touched = self.plan.apply(&upserts, &[]);
        let then = self.talk.time(now);
        let moved = self.detach_moved(&touched.groups);
        for (group, before) in touched.successors {
            if let Some(candidacy) = self.plan.candidacy(group) {
                self.talk.ownership.succeed(before, candidacy.clone(), then);
            }
        }
        self.perform(now);
        for group in touched.groups {
            match self.plan.candidacy(group) {
                Some(candidacy) => self.talk.ownership.set_group(candidacy.clone(), then),
                None => self.talk.ownership.remove_group(group, then),
            }
            self.perform(now);
        }
        for (group, spot) in moved {
            let applied = self.applied.get(&group);
            if !applied.is_some_and(|(_, spots)| spots.contains(&spot)) {
                self.table.silence(&[spot]);
            }
        }
        self.settle(now);
    }

    /// Each group has one address here, and no other group takes it over but a new one.
    fn detach_moved(&mut self, touched: &BTreeSet<GroupId>) -> Vec<(GroupId, Spot)> {
        let mut moved = Vec::new();
        for group in touched {
            for address in self.plan.addresses(*group).collect::<Vec<_>>() {
                for (other, (_, spots)) in &mut self.applied {
                    if other != group {
                        let gone = spots.extract_if(.., |spot| spot.address == address);
                        moved.extend(gone.map(|spot| (*group, spot)));
                    }
                }
            }
        }
        moved
    }

    fn note_thoughts(&mut self) {
        let others = self.talk.ownership.roster().others();
        let thinks = others.map(|(node, standing)| match standing {
            Standing::Known(Some(_)) => format!("{node}: known"),
            Standing::Known(None) | Standing::Presumed | Standing::Silent | Standing::Dead => {
                format!("{node}: {standing:?}")
            }
        });
        let thinks: Vec<String> = thinks.collect();
        if thinks != self.thought {
            self.notes.push(format!("thinks {}", thinks.join(", ")));
            self.thought = thinks;
        }
    }

    fn settle(&mut self, now: Instant) {
        self.settle_once(now);
        self.follow(now);
    }

    fn settle_once(&mut self, now: Instant) {
        self.note_thoughts();
        self.talk.set_own(&self.own, now);
        self.perform(now);
        while self.talk.pack_steps(now) {}
        self.talk.publish(now);
        self.perform(now);
        while self.talk.pack_steps(now) {}
    }

    fn perform(&mut self, now: Instant) {
        let effects = self.talk.ownership.take_effects();
        let mut effects = effects.into_iter().peekable();
        let mut lost = BTreeSet::new();
        while let Some(Effect { group, action }) = effects.next() {
            self.notes.push(format!("{:?} {action:?}", group.0));
            match action {
                Action::Send(to, message) => self.talk.step(to, group, message),
                Action::Duty(Duty::Answer(mut report)) => {
                    let why = effects.peek().and_then(|next| next.gained(group));
                    report.probing = self.untried.own(&self.plan, group, why, &report);
                    self.set_duty(group, Duty::Answer(report), now);
                }
                Action::Duty(duty) => self.set_duty(group, duty, now),
                Action::Release(to, claim) => {
                    let mut noted = self.silence(group);
                    noted.probing = self.untried.of(&self.plan, group);
                    let candidacy = self.plan.candidacy(group);
                    noted.addresses = candidacy.map(|candidacy| candidacy.addresses);
                    self.noted.insert(group, noted);
                    self.talk.say(group, Some(to.clone()), Some(claim));
                    self.go(to, group, claim);
                }
                Action::RepeatGo(to, claim) => self.go(to, group, claim),
                Action::Claim(claim, _) | Action::Raise(claim) => {
                    self.talk.say(group, None, Some(claim));
                    lost.remove(&group);
                }
                Action::Unclaim(_) => {
                    self.talk.say(group, None, None);
                    self.noted.remove(&group);
                    lost.insert(group);
                }
                Action::Gone(claim) => {
                    self.noted.remove(&group);
                    let me = self.talk.me().node.clone();
                    self.talk.say(group, Some(me), Some(claim));
                }
                Action::Returned => self.talk.say(group, None, None),
                Action::Announce => {}
                Action::Inform(node) => self.talk.inform(node),
            }
        }
        for group in lost {
            for address in self.plan.addresses(group) {
                self.untried.lose(address);
            }
        }
    }

    fn go(&mut self, to: NodeName, group: GroupId, claim: crate::election::Claim) {
        let report = self.noted.get(&group).map(Notes::report);
        let message = Message::Go(claim, report.unwrap_or_default());
        self.talk.step(to, group, message);
    }

    fn set_duty(&mut self, group: GroupId, duty: Duty, now: Instant) {
        let spots = self.plan.spots(group);
        let duty = match duty {
            Duty::Silent => {
                self.silence(group);
                return;
            }
            Duty::Hold => {
                self.silence(group);
                self.table
                    .resume(&spots, AddressDuty::Hold, &BTreeSet::new(), now);
                AddressDuty::Hold
            }
            Duty::Record => {
                self.table.set(&spots, AddressDuty::Record, now);
                AddressDuty::Record
            }
            Duty::Answer(report) => {
                let answers = self.table.answer(&spots, &report, now);
                self.answered(&answers);
                AddressDuty::Answer
            }
        };
        self.applied.insert(group, (duty, spots));
    }

    fn silence(&mut self, group: GroupId) -> Notes {
        match self.applied.remove(&group) {
            Some((_, spots)) => self.table.silence(&spots),
            None => Notes::default(),
        }
    }

    fn answered(&mut self, sendings: &[Sending]) {
        let numbers = sendings.iter().filter_map(|sending| match sending.packet {
            Packet::Arp(arp) => Some(u32::from(arp.target_ip)),
            Packet::Ndp(_) => None,
        });
        self.answers.extend(numbers);
    }
}

fn port(mac: MacAddr) -> Port {
    Port {
        index: INTERFACE,
        name: "eth0".to_owned(),
        mac,
        link_local: None,
    }
}

/// The address that is asked for before its first answer.
fn probed(sending: &Sending) -> Option<Ipv4Addr> {
    match sending.packet {
        Packet::Arp(arp) => arp.sender_ip.is_unspecified().then_some(arp.target_ip),
        Packet::Ndp(_) => None,
    }
}
