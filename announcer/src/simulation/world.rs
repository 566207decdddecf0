//! The network between the nodes, the client, the streams and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::node::{Node, Start, endpoint, name};
use super::steps::Kind;
use crate::book::{Assigned, Key};
use crate::election::{GroupId, NodeName, Wanted};
use crate::members::wire::Datagram;

/// How often the client asks for each address.
const ASK: Duration = Duration::from_millis(10);
/// Longest time that the first lists take to a node.
const START_LAG: Duration = Duration::from_millis(300);
/// How long a node may take to hand everything over when it is stopped.
const DRAIN_LIMIT: Duration = crate::engine::LEAVE_LIMIT;

/// What is under way to a node.
#[derive(Debug, Clone)]
enum Packet {
    Member(Datagram),
    /// The host there refuses datagrams.
    Refused(SocketAddr),
    Question(u32, Ipv4Addr),
    /// A stranger says that it has this address.
    Shown(Ipv4Addr),
    /// These lists, of this version.
    Lists(usize),
    Start,
    Resume(Instant),
}

/// One of the hosts.
pub(super) struct Host {
    pub(super) node: Option<Node>,
    /// Whether it refuses datagrams while no announcer runs there.
    pub(super) is_on: bool,
    pub(super) stopping: Option<Instant>,
    pub(super) suspended: Option<Instant>,
    waiting: Vec<(Instant, Packet)>,
    disk: BTreeMap<Ipv4Addr, Assigned>,
    version: usize,
}

pub(super) struct World {
    pub(super) kind: Kind,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) hosts: Vec<Host>,
    under_way: BTreeMap<(Instant, u64), (usize, Packet)>,
    sequence: u64,
    pub(super) chance: StdRng,
    pub(super) loss: f64,
    pub(super) doubled: f64,
    /// Longest time that a change takes to a node by its stream.
    pub(super) lag: Duration,
    /// (from, to): what is sent there by that one does not arrive.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) lists: Vec<BTreeMap<Ipv4Addr, Assigned>>,
    pub(super) next_group: u64,
    asked: u32,
    next_question: Instant,
    /// How often the client asks for each address.
    pub(super) pause: Duration,
    pub(super) answers: BTreeMap<u32, Vec<usize>>,
    pub(super) questions: BTreeMap<u32, (Instant, Ipv4Addr)>,
    /// Addresses that came later, and until when a stranger has them; they are not answered before.
    pub(super) newcomers: BTreeMap<Ipv4Addr, Instant>,
    /// What some node has answered for: ipam-service was told.
    announced: BTreeSet<Ipv4Addr>,
    begun: u32,
    settled: u32,
    history: Vec<String>,
    /// Datagrams and their bytes, before they are sealed.
    pub(super) sent: (u64, u64),
}

/// The how-manieth address, from 1.
pub(super) fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(192, 0, high, low)
}

impl World {
    pub(super) fn new(seed: u64, kind: Kind) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let size = chance.random_range(3..=7);
        let addresses = chance.random_range(1..=3);
        Self::of_size(kind, size, addresses, chance)
    }

    /// So many nodes and addresses; all nodes are up and every address is owned.
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    pub(super) fn of_size(kind: Kind, size: usize, addresses: u16, chance: StdRng) -> Self {
        let start = Instant::now();
        let hosts = (0..size).map(|_| Host {
            node: None,
            is_on: true,
            stopping: None,
            suspended: None,
            waiting: Vec::new(),
            disk: BTreeMap::new(),
            version: 0,
        });
        let mut world = Self {
            kind,
            now: start,
            start,
            hosts: hosts.collect(),
            under_way: BTreeMap::new(),
            sequence: 0,
            chance,
            loss: kind.loss(),
            doubled: 0.1,
            lag: START_LAG,
            cut: BTreeSet::new(),
            lists: vec![BTreeMap::new()],
            next_group: 1,
            asked: 0,
            next_question: start,
            pause: ASK,
            answers: BTreeMap::new(),
            questions: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            announced: BTreeSet::new(),
            begun: 0,
            settled: 0,
            history: Vec::new(),
            sent: (0, 0),
        };
        let mut lists = BTreeMap::new();
        for number in 1..=addresses {
            let address = address(number);
            lists.insert(address, world.new_list(address));
        }
        world.lists.push(lists);
        for index in 0..world.hosts.len() {
            world.start(index, Duration::ZERO);
        }
        world.run(Duration::from_millis(1500));
        world.lag = kind.lag();
        world.begun = world.asked + 1;
        world
    }

    pub(super) fn note(&mut self, what: String) {
        let at = (self.now - self.start).as_micros();
        self.history.push(format!("{at:>10} {what}"));
    }

    pub(super) fn print_history(&self) {
        for line in &self.history {
            eprintln!("H {line}");
        }
    }

    /// The first request after all nodes had started.
    pub(super) fn begun(&self) -> u32 {
        self.begun
    }

    /// Now everything has settled.
    pub(super) fn settled(&mut self) {
        self.settled = self.asked + 1;
        self.note("settled".to_owned());
    }

    pub(super) fn settled_at(&self) -> u32 {
        self.settled
    }

    /// An address gets a new list, in a new group if it has none or `renumber` is said.
    pub(super) fn list(&mut self, address: Ipv4Addr) {
        let list = self.new_list(address);
        let mut lists = self.lists[self.lists.len() - 1].clone();
        lists.insert(address, list);
        self.lists.push(lists);
        for index in 0..self.hosts.len() {
            self.stream(index);
        }
    }

    fn new_list(&mut self, address: Ipv4Addr) -> Assigned {
        let before = self.lists[self.lists.len() - 1].get(&address).cloned();
        let only_order = self.kind == Kind::Disagreeing;
        let keeps = before
            .as_ref()
            .filter(|_| only_order || self.chance.random_bool(0.6));
        let group = keeps.map_or_else(
            || {
                self.next_group += 1;
                GroupId(self.next_group)
            },
            |before| before.group,
        );
        let mut nodes: Vec<NodeName> = match keeps.filter(|_| only_order) {
            Some(before) => before.candidates.to_vec(),
            None => (0..self.hosts.len()).map(name).collect(),
        };
        for index in (1..nodes.len()).rev() {
            let other = self.chance.random_range(0..=index);
            nodes.swap(index, other);
        }
        // One of three may be away, and the others cannot hear each other.
        let mut candidates = nodes;
        if keeps.is_none() || !only_order {
            candidates.truncate(self.chance.random_range(3..=candidates.len()));
        }
        let list = Assigned {
            key: Key {
                space: "default".to_owned(),
                address: IpAddr::V4(address),
            },
            group,
            listed: candidates[..3].to_vec(),
            candidates: candidates.into(),
            wanted: Some(Wanted::Any.into()),
            owners: Vec::new(),
            probe: !self.announced.contains(&address),
            fenced: None,
        };
        self.note(format!("list {address} {group:?} {:?}", list.candidates));
        list
    }

    /// One more address, which a stranger has for so long.
    pub(super) fn add(&mut self, stranger: Duration) {
        let count = self.lists[self.lists.len() - 1].len();
        let address = address(u16::try_from(count + 1).expect("few"));
        self.note(format!("new {address}, a stranger's for {stranger:?}"));
        self.newcomers.insert(address, self.now + stranger);
        self.list(address);
    }

    /// What is streamed to a node arrives some time later.
    fn stream(&mut self, index: usize) {
        let lag = self.chance.random_range(Duration::ZERO..=self.lag);
        self.deliver(index, lag, Packet::Lists(self.lists.len() - 1));
    }

    pub(super) fn start(&mut self, index: usize, after: Duration) {
        self.deliver(index, after, Packet::Start);
    }

    fn started(&mut self, index: usize) {
        if self.hosts[index].node.is_some() {
            return;
        }
        let since = (self.now - self.start).as_millis();
        let hold_down = Duration::from_millis(self.chance.random_range(0..2000));
        let start = Start {
            index,
            epoch: 1_000_000 + u64::try_from(since).expect("soon"),
            seed: self.chance.random(),
            hold_down,
            members: self.hosts.len(),
            lists: self.hosts[index].disk.clone(),
        };
        self.note(format!("start n{index} hold-down {hold_down:?}"));
        let host = &mut self.hosts[index];
        host.node = Some(Node::new(start, self.now));
        host.is_on = true;
        host.stopping = None;
        host.suspended = None;
        host.version = 0;
        self.stream(index);
    }

    /// The process ends at once.
    pub(super) fn end(&mut self, index: usize, is_on: bool) {
        let host = &mut self.hosts[index];
        if let Some(node) = host.node.take() {
            host.disk = node.lists().clone();
        }
        host.is_on = is_on;
        host.stopping = None;
        host.suspended = None;
        host.waiting.clear();
    }

    pub(super) fn suspend(&mut self, index: usize, time: Duration) {
        self.hosts[index].suspended = Some(self.now);
        self.deliver(index, time, Packet::Resume(self.now));
    }

    fn resume(&mut self, index: usize, since: Instant) {
        if self.hosts[index].suspended != Some(since) {
            return;
        }
        self.note(format!("resume n{index}"));
        let host = &mut self.hosts[index];
        host.suspended = None;
        let waiting = std::mem::take(&mut host.waiting);
        if let Some(node) = &mut host.node {
            node.resume(since, self.now);
        }
        for (at, packet) in waiting {
            self.receive(index, packet, at);
        }
        self.tick(index);
    }

    pub(super) fn stop(&mut self, index: usize) {
        let now = self.now;
        self.hosts[index].stopping = Some(now + DRAIN_LIMIT);
        if let Some(node) = &mut self.hosts[index].node {
            node.drain(now);
        }
        self.after(index);
    }

    fn deliver(&mut self, to: usize, after: Duration, packet: Packet) {
        self.sequence += 1;
        let at = self.now + after;
        self.under_way.insert((at, self.sequence), (to, packet));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.next();
            if next > end {
                self.now = end;
                return;
            }
            self.now = next.max(self.now);
            self.pass();
        }
    }

    fn next(&self) -> Instant {
        let arrival = self.under_way.keys().next().map(|(at, _)| *at);
        let nodes = self.hosts.iter().filter(|host| host.suspended.is_none());
        let timers = nodes.filter_map(|host| {
            let deadline = host.node.as_ref()?.next_deadline();
            [deadline, host.stopping].into_iter().flatten().min()
        });
        let soonest = timers.chain(arrival).min();
        soonest.map_or(self.next_question, |at| at.min(self.next_question))
    }

    fn pass(&mut self) {
        if self.now >= self.next_question {
            self.next_question += self.pause;
            self.ask();
        }
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, packet) = entry.remove();
            self.arrive(to, packet);
        }
        for index in 0..self.hosts.len() {
            let host = &self.hosts[index];
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
            let deadline = host.node.as_ref().and_then(Node::next_deadline);
            if host.suspended.is_none() && (due(deadline) || due(host.stopping)) {
                self.tick(index);
            }
        }
    }

    fn ask(&mut self) {
        let addresses: Vec<Ipv4Addr> = self.lists[self.lists.len() - 1].keys().copied().collect();
        for address in addresses {
            self.asked += 1;
            self.questions.insert(self.asked, (self.now, address));
            for to in 0..self.hosts.len() {
                // One frame reaches all hosts of a segment nearly at once.
                let delay = Duration::from_micros(self.chance.random_range(10..20));
                self.deliver(to, delay, Packet::Question(self.asked, address));
            }
        }
    }

    fn arrive(&mut self, to: usize, packet: Packet) {
        match packet {
            Packet::Start => self.started(to),
            Packet::Resume(since) => self.resume(to, since),
            packet @ (Packet::Member(_)
            | Packet::Refused(_)
            | Packet::Question(..)
            | Packet::Shown(_)
            | Packet::Lists(_)) => {
                let host = &mut self.hosts[to];
                if host.suspended.is_some() {
                    host.waiting.push((self.now, packet));
                } else {
                    self.receive(to, packet, self.now);
                }
            }
        }
    }

    fn receive(&mut self, to: usize, packet: Packet, at: Instant) {
        let now = self.now;
        let host = &mut self.hosts[to];
        let Some(node) = &mut host.node else { return };
        match packet {
            Packet::Member(datagram) => node.receive(datagram, at, now),
            Packet::Refused(endpoint) => node.refused(endpoint, now),
            Packet::Question(number, address) => node.ask(number, address, at, now),
            Packet::Shown(address) => node.hear_stranger(address, at, now),
            Packet::Lists(version) if version > host.version => {
                host.version = version;
                let at = (now - self.start).as_micros();
                self.history
                    .push(format!("{at:>10} n{to} has list {version}"));
                node.assign(self.lists[version].clone(), now);
            }
            Packet::Lists(_) | Packet::Start | Packet::Resume(_) => {}
        }
        self.after(to);
    }

    fn tick(&mut self, index: usize) {
        if let Some(node) = &mut self.hosts[index].node {
            node.tick(self.now);
        }
        self.after(index);
    }

    /// Takes out what a node answered and sends.
    pub(super) fn after(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(node) = &mut host.node else { return };
        let is_over = host.stopping.is_some_and(|limit| limit <= now);
        let is_drained = host.stopping.is_some() && node.is_drained(now);
        if is_over || is_drained {
            node.leave(now);
        }
        let answers = node.take_answers();
        let probed = node.take_probed();
        let unsent = node.take_unsent();
        node.talk.take_notes();
        for note in node.take_notes() {
            self.note(format!("n{index} {note}"));
        }
        for number in answers {
            self.answers.entry(number).or_default().push(index);
            let question = self.questions.get(&number);
            self.announced.extend(question.map(|(_, address)| *address));
        }
        for address in probed {
            if self
                .newcomers
                .get(&address)
                .is_some_and(|until| *until > now)
            {
                let delay = Duration::from_micros(self.chance.random_range(100..500));
                self.deliver(index, delay, Packet::Shown(address));
            }
        }
        for (to, datagram) in unsent {
            self.send(index, to, datagram);
        }
        if is_over || is_drained {
            self.note(format!("stopped n{index}, drained: {is_drained}"));
            self.end(index, true);
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, datagram: Datagram) {
        self.sent.0 += 1;
        self.sent.1 += u64::try_from(prost::Message::encoded_len(&datagram)).expect("small");
        let Some(to) = (0..self.hosts.len()).find(|index| endpoint(*index) == to) else {
            return;
        };
        let host = &self.hosts[to];
        if self.cut.contains(&(from, to)) || (host.node.is_none() && !host.is_on) {
            return;
        }
        let copies = 1 + u32::from(self.chance.random_bool(self.doubled));
        for _ in 0..copies {
            if self.chance.random_bool(self.loss) {
                continue;
            }
            let delay = Duration::from_micros(self.chance.random_range(50..600));
            if self.hosts[to].node.is_some() {
                self.deliver(to, delay, Packet::Member(datagram.clone()));
            } else if !self.cut.contains(&(to, from)) {
                self.deliver(from, delay, Packet::Refused(endpoint(to)));
            }
        }
    }
}
