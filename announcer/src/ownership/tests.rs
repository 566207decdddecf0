//! Nodes on a lossy, reordering link, in virtual time. A client asks for the address all the time;
//! each request is seen by every node, and every answer is counted.

use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pnet_base::MacAddr;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::election::{Families, Wanted};
use crate::handover::{Duty, Gained, Message};
use crate::l2::hold::{Held, Noted, Report};
use crate::l2::question::Question;

mod addresses;
mod returns;
mod streams;
mod unfenced;

const GROUP: GroupId = GroupId(7);
const STEP: Duration = Duration::from_micros(100);
const NAMES: [&str; 3] = ["a", "b", "c"];

fn name(index: usize) -> NodeName {
    Arc::from(NAMES[index])
}

fn condition() -> Condition {
    Condition {
        ready: true,
        hold_down: false,
        draining: false,
        interfaces: BTreeSet::from(["eth0".to_owned()]),
        interfaces6: BTreeSet::from(["eth0".to_owned()]),
        macs: BTreeSet::new(),
    }
}

fn candidacy(order: &[usize]) -> Candidacy {
    let nodes: Vec<NodeName> = order.iter().map(|index| name(*index)).collect();
    Candidacy {
        id: GROUP,
        listed: nodes.clone(),
        candidates: nodes.into(),
        wanted: Wanted::Any.into(),
        families: Families::Ipv4,
        addresses: 0,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Packet {
    Step(Message),
    /// Version, condition and claims: what `members` spreads.
    State(u64, Condition, Vec<Statement>),
    Request(u32),
}

#[derive(Debug, PartialEq, Eq)]
struct Delivery {
    at: Instant,
    sequence: u64,
    from: usize,
    to: usize,
    packet: Packet,
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the greatest first.
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Node {
    ownership: Ownership,
    own: Condition,
    duty: Option<Duty>,
    since: Instant,
    held: Vec<Held>,
    noted: Vec<Noted>,
    handed: Vec<Noted>,
    version: u64,
    heard: BTreeMap<usize, u64>,
    runs: bool,
}

struct World {
    now: Instant,
    nodes: Vec<Node>,
    wire: BinaryHeap<Delivery>,
    sequence: u64,
    chance: StdRng,
    loss: f64,
    /// Pairs that cannot hear each other.
    cut: BTreeSet<(usize, usize)>,
    asked: u32,
    next_request: Instant,
    next_repair: Instant,
    answers: BTreeMap<u32, Vec<usize>>,
}

fn question(number: u32) -> Question {
    Question {
        asker: MacAddr(2, 0, 0, 0, 0, 99),
        // The number of the request, so that answers can be counted; the nodes do not look at it.
        from: IpAddr::V4(number.into()),
        target: IpAddr::from([192, 0, 2, 1]),
    }
}

impl World {
    /// All nodes know each other; nobody owns anything yet.
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn new(seed: u64, loss: f64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            now,
            nodes: (0..NAMES.len())
                .map(|index| Node::new(index, now))
                .collect(),
            wire: BinaryHeap::new(),
            sequence: 0,
            chance: StdRng::seed_from_u64(seed),
            loss,
            cut: BTreeSet::new(),
            asked: 0,
            next_request: now,
            next_repair: now,
            answers: BTreeMap::new(),
        };
        for index in 0..NAMES.len() {
            world.act(index, |node, now| {
                node.ownership.set_group(candidacy(&[0, 1, 2]), now)
            });
        }
        world
    }

    fn act(&mut self, index: usize, action: impl FnOnce(&mut Node, Instant)) {
        let now = self.now;
        let node = &mut self.nodes[index];
        action(node, now);
        self.settle(index);
    }

    /// Performs what follows, as the engine does.
    fn settle(&mut self, index: usize) {
        let now = self.now;
        let mut spread = false;
        let node = &mut self.nodes[index];
        if node.ownership.roster().own != node.own {
            node.ownership.set_own(node.own.clone(), now);
            spread = true;
        }
        for effect in self.nodes[index].ownership.take_effects() {
            let node = &mut self.nodes[index];
            match effect.action {
                Action::Send(to, message) => self.send(index, &to, Packet::Step(message)),
                Action::Duty(duty) => self.set_duty(index, duty),
                Action::Release(to, claim) => {
                    spread = true;
                    node.duty = None;
                    node.handed = std::mem::take(&mut node.noted);
                    let told = Report::new(&node.handed);
                    self.send(index, &to, Packet::Step(Message::Go(claim, told)));
                }
                Action::RepeatGo(to, claim) => {
                    let told = Report::new(&node.handed);
                    self.send(index, &to, Packet::Step(Message::Go(claim, told)));
                }
                Action::Claim(..)
                | Action::Raise(_)
                | Action::Unclaim(_)
                | Action::Gone(_)
                | Action::Returned
                | Action::Inform(_) => spread = true,
                Action::Announce => {}
            }
        }
        if spread {
            self.nodes[index].version += 1;
            self.spread(index);
        }
    }

    fn set_duty(&mut self, index: usize, duty: Duty) {
        let now = self.now;
        let node = &mut self.nodes[index];
        match &duty {
            Duty::Silent => {
                node.held.clear();
                node.duty = None;
                return;
            }
            Duty::Answer(report) => {
                let held = std::mem::take(&mut node.held);
                for one in report.unanswered(held, node.since) {
                    if let IpAddr::V4(number) = one.question.from {
                        let answers = self.answers.entry(number.into()).or_default();
                        answers.push(index);
                    }
                }
            }
            Duty::Hold => {
                node.since = now;
                node.held.clear();
            }
            Duty::Record => node.noted.clear(),
        }
        self.nodes[index].duty = Some(duty);
    }

    fn send(&mut self, from: usize, to: &NodeName, packet: Packet) {
        let to = NAMES
            .iter()
            .position(|known| *known == &**to)
            .expect("a known node");
        if self.cut.contains(&(from, to)) || self.chance.random_bool(self.loss) {
            return;
        }
        let delay = Duration::from_micros(self.chance.random_range(50..600));
        self.deliver(from, to, delay, packet);
    }

    fn deliver(&mut self, from: usize, to: usize, delay: Duration, packet: Packet) {
        self.sequence += 1;
        self.wire.push(Delivery {
            at: self.now + delay,
            sequence: self.sequence,
            from,
            to,
            packet,
        });
    }

    fn spread(&mut self, from: usize) {
        let node = &self.nodes[from];
        let statements = node.ownership.statements();
        let packet = Packet::State(node.version, node.own.clone(), statements);
        for to in (0..NAMES.len()).filter(|to| *to != from) {
            self.send(from, &name(to), packet.clone());
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        self.next_repair = self.now;
        while self.now < end {
            self.pass(STEP);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.now >= self.next_request {
            self.next_request += Duration::from_millis(10);
            self.ask();
        }
        // What was lost is asked for: here it is simply said again.
        if self.now >= self.next_repair {
            self.next_repair = self.now + Duration::from_millis(50);
            for index in 0..NAMES.len() {
                if self.nodes[index].runs {
                    self.spread(index);
                }
            }
        }
        while self
            .wire
            .peek()
            .is_some_and(|delivery| delivery.at <= self.now)
        {
            if let Some(delivery) = self.wire.pop() {
                self.receive(delivery);
            }
        }
        for index in 0..NAMES.len() {
            if self.nodes[index].runs {
                self.act(index, |node, now| node.ownership.tick(now));
            }
        }
    }

    fn ask(&mut self) {
        self.asked += 1;
        for to in 0..NAMES.len() {
            let delay = Duration::from_micros(self.chance.random_range(10..80));
            self.deliver(0, to, delay, Packet::Request(self.asked));
        }
    }

    fn receive(&mut self, delivery: Delivery) {
        let Delivery {
            from, to, packet, ..
        } = delivery;
        if !self.nodes[to].runs {
            return;
        }
        match packet {
            Packet::Step(message) => {
                self.act(to, |node, now| {
                    node.ownership.hear(GROUP, name(from), message, now)
                });
            }
            Packet::State(version, condition, statements) => {
                let node = &mut self.nodes[to];
                let known = node.heard.insert(from, version);
                let dead = node.ownership.roster().standing(NAMES[from]) == Some(&Standing::Dead);
                if known.is_some_and(|known| known > version) || dead {
                    node.heard
                        .insert(from, known.unwrap_or(version).max(version));
                    return;
                }
                self.act(to, |node, now| {
                    let from = name(from);
                    node.ownership
                        .learn_whole(&from, condition, &statements, now);
                });
            }
            Packet::Request(number) => self.on_request(to, number),
        }
    }

    fn on_request(&mut self, to: usize, number: u32) {
        let at = self.now;
        let node = &mut self.nodes[to];
        match &node.duty {
            Some(Duty::Hold) => node.held.push(Held {
                at,
                interface: 2,
                question: question(number),
            }),
            Some(Duty::Answer(_)) => self.answers.entry(number).or_default().push(to),
            Some(Duty::Record) => {
                node.noted.push(Noted {
                    at,
                    question: question(number),
                });
                self.answers.entry(number).or_default().push(to);
            }
            Some(Duty::Silent) | None => {}
        }
    }

    /// Others find a node dead, each after some time.
    fn kill(&mut self, index: usize) {
        self.nodes[index].runs = false;
        self.nodes[index].duty = None;
    }

    fn find_dead(&mut self, index: usize) {
        for other in (0..NAMES.len()).filter(|other| *other != index) {
            self.act(other, |node, now| {
                node.ownership
                    .set_standing(&name(index), Standing::Dead, now);
            });
        }
    }

    fn find_alive(&mut self, index: usize, by: &[usize]) {
        for other in by {
            self.act(*other, |node, now| {
                node.ownership
                    .set_standing(&name(index), Standing::Silent, now);
                node.heard.clear();
            });
        }
    }

    fn owners(&self) -> Vec<usize> {
        (0..NAMES.len())
            .filter(|index| {
                let node = &self.nodes[*index];
                node.runs && matches!(node.duty, Some(Duty::Answer(_) | Duty::Record))
            })
            .collect()
    }

    /// Requests since number `from` that were answered so often.
    fn answered(&self, from: u32, times: usize) -> Vec<u32> {
        // The last ones may still be under way or held.
        (from..self.asked.saturating_sub(2))
            .filter(|number| self.answers.get(number).map_or(0, Vec::len) == times)
            .collect()
    }

    fn assert_each_answered_once(&self, from: u32, what: &str) {
        assert_eq!(self.answered(from, 0), [0_u32; 0], "{what}: lost");
        for times in 2..=NAMES.len() {
            assert_eq!(
                self.answered(from, times),
                [0_u32; 0],
                "{what}: answered {times} times"
            );
        }
    }
}

impl Node {
    fn new(index: usize, now: Instant) -> Self {
        let mut ownership = Ownership::new(name(index), condition());
        ownership.set_reached(now);
        for other in (0..NAMES.len()).filter(|other| *other != index) {
            ownership.set_standing(&name(other), Standing::Silent, now);
        }
        Self {
            ownership,
            own: condition(),
            duty: None,
            since: now,
            held: Vec::new(),
            noted: Vec::new(),
            handed: Vec::new(),
            version: 1,
            heard: BTreeMap::new(),
            runs: true,
        }
    }
}

/// Runs a scenario under many seeds, without and with loss.
fn with_seeds(scenario: impl Fn(&mut World, &str)) {
    for loss in [0.0, 0.1, 0.3] {
        for seed in 0..20 {
            let mut world = World::new(seed, loss);
            world.run(400);
            let what = format!("seed {seed}, loss {loss}");
            assert_eq!(world.owners(), [0], "{what}");
            scenario(&mut world, &what);
        }
    }
}

#[test]
fn a_cold_start_of_all_nodes_gives_one_owner_and_never_two() {
    for seed in 0..40 {
        let mut world = World::new(seed, 0.3);
        world.run(500);
        assert_eq!(world.owners(), [0], "seed {seed}");
        assert_eq!(world.answered(1, 2), [0_u32; 0], "seed {seed}");
        assert_eq!(world.answered(1, 3), [0_u32; 0], "seed {seed}");
    }
}

#[test]
fn a_drain_loses_no_request_and_no_two_nodes_answer_one() {
    with_seeds(|world, what| {
        let from = world.asked + 1;
        world.act(0, |node, _| node.own.draining = true);
        world.run(3000);
        assert!(world.nodes[0].ownership.is_settled(world.now), "{what}");
        let owners = world.owners();
        assert!(owners.len() == 1 && owners != [0], "{what}: {owners:?}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn without_loss_a_drain_takes_a_few_milliseconds_and_goes_to_the_next_node() {
    for seed in 0..20 {
        let mut world = World::new(seed, 0.0);
        world.run(400);
        world.act(0, |node, _| node.own.draining = true);
        world.run(5);
        assert_eq!(world.owners(), [1], "seed {seed}");
        // The farewell is said when the others have heard of that.
        world.run(20);
        assert!(
            world.nodes[0].ownership.is_settled(world.now),
            "seed {seed}"
        );
    }
}

#[test]
fn all_nodes_draining_one_after_the_other_lose_no_request() {
    with_seeds(|world, what| {
        let from = world.asked + 1;
        for index in [0, 1, 2] {
            world.act(index, |node, _| node.own.draining = true);
            world.run(2500);
            world.act(index, |node, _| node.own.draining = false);
            world.run(2500);
        }
        assert_eq!(world.owners(), [0], "{what}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn an_heir_that_stops_at_the_same_time_hands_on_what_it_is_about_to_get() {
    for seed in 0..500 {
        let mut world = World::new(seed, 0.0);
        world.run(400);
        let from = world.asked + 1;
        // A client asks somewhere within the handshake, and the heir is stopped somewhere else in it.
        world.next_request = world.now + STEP * u32::try_from(seed / 25).unwrap_or_default();
        world.act(0, |node, _| node.own.draining = true);
        for _ in 0..seed % 50 {
            world.pass(STEP / 3);
        }
        world.act(1, |node, _| node.own.draining = true);
        let mut stopped = BTreeSet::new();
        for _ in 0..4000 {
            world.pass(STEP);
            for index in [0, 1] {
                let is_settled = world.nodes[index].ownership.is_settled(world.now);
                if is_settled && stopped.insert(index) {
                    // It tells that it leaves.
                    world.kill(index);
                    world.find_dead(index);
                }
            }
        }
        assert_eq!(world.owners(), [2], "seed {seed}");
        // A request that reaches the heir just after it began to hold may have reached the owner
        // just before: that one is answered twice.
        assert_eq!(world.answered(from, 0), [0_u32; 0], "seed {seed}");
    }
}

#[test]
fn a_new_list_moves_the_group_without_a_lost_answer_whoever_learns_of_it_first() {
    with_seeds(|world, what| {
        let from = world.asked + 1;
        for index in [2, 0, 1] {
            world.act(index, |node, now| {
                node.ownership.set_group(candidacy(&[1, 2]), now)
            });
            world.run(30);
        }
        world.run(2500);
        let owners = world.owners();
        assert!(owners == [1] || owners == [2], "{what}: {owners:?}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn a_killed_owner_is_replaced_and_takes_back_after_its_hold_down_without_a_lost_answer() {
    with_seeds(|world, what| {
        world.kill(0);
        world.run(150);
        world.find_dead(0);
        world.run(20);
        assert_eq!(world.owners(), [1], "{what}");
        let from = world.asked + 1;
        // It comes back with nothing, and knows nobody yet.
        let now = world.now;
        world.nodes[0] = Node::new(0, now);
        world.nodes[0].own.hold_down = true;
        world.nodes[0].version = 100;
        world.act(0, |node, now| {
            node.ownership.set_group(candidacy(&[0, 1, 2]), now)
        });
        world.find_alive(0, &[1, 2]);
        world.run(1000);
        assert_eq!(world.owners(), [1], "{what}: still held down");
        world.act(0, |node, _| node.own.hold_down = false);
        world.run(2500);
        assert_eq!(world.owners(), [0], "{what}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn after_a_partition_one_owner_is_left_and_the_group_goes_home() {
    with_seeds(|world, what| {
        for other in [1, 2] {
            world.cut.extend([(0, other), (other, 0)]);
        }
        world.run(200);
        world.find_dead(0);
        for other in [1, 2] {
            world.act(0, |node, now| {
                node.ownership
                    .set_standing(&name(other), Standing::Dead, now);
            });
        }
        world.run(500);
        assert_eq!(world.owners(), [0, 1], "{what}: both sides answer");
        world.cut.clear();
        world.find_alive(0, &[1, 2]);
        world.find_alive(1, &[0]);
        world.find_alive(2, &[0]);
        world.run(500);
        assert_eq!(world.owners().len(), 1, "{what}");
        let from = world.asked + 1;
        world.run(3000);
        assert_eq!(world.owners(), [0], "{what}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn who_must_go_waits_for_an_heir_that_does_not_answer_for_a_while() {
    with_seeds(|world, what| {
        // Only one other node is left, and that one was suspended a moment ago.
        world.kill(2);
        world.find_dead(2);
        world.run(50);
        let from = world.asked + 1;
        world.cut.extend([(0, 1), (1, 0)]);
        world.act(0, |node, _| node.own.draining = true);
        for _ in 0..80 {
            world.run(10);
            let is_settled = world.nodes[0].ownership.is_settled(world.now);
            assert!(
                !is_settled,
                "{what}: it would leave with what another node can have"
            );
        }
        world.cut.clear();
        world.run(1500);
        assert!(world.nodes[0].ownership.is_settled(world.now), "{what}");
        assert_eq!(world.owners(), [1], "{what}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn who_leaves_falls_silent_where_others_can_take_over() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let owner = &mut world.nodes[0].ownership;
    owner.take_effects();
    owner.fall_silent();
    let silent = Effect {
        group: GROUP,
        action: Action::Duty(Duty::Silent),
    };
    assert_eq!(owner.take_effects(), [silent]);
    for index in [1, 2] {
        owner.set_standing(&name(index), Standing::Dead, world.now);
    }
    owner.fall_silent();
    assert_eq!(owner.take_effects(), [], "until the process ends");
}
