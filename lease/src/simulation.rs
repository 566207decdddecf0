//! One service and some nodes under crashes, restarts, cuts and clocks of different speed, by seed.
//!
//! Judged after every event: at most one node can send an answer for an address. And in the end,
//! when everything is whole again: exactly one does.
//!
//! A failure prints its seed. `PHAROS_SEED=n` runs that one alone, `PHAROS_SIMULATIONS=n` so many
//! from `PHAROS_FIRST_SEED` on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::{
    Answer, Ask, CUSHION, Granter, Holder, LENGTH, Moment, News, Next, Owner, OwnersTerm, Term,
    next,
};

const USUAL_SEEDS: u64 = 300;
const ADDRESSES: usize = 4;

/// How much faster or slower than real time a clock may run: what [`crate::GRACE`] is made for.
const DRIFT: f64 = 0.01;

/// How often the service looks by itself; a connection that broke is made anew within ten looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const QUIET_END: Duration = Duration::from_secs(12);

type NodeNo = usize;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Row {
    owner: Option<Owner<NodeNo>>,
    epoch: u64,
    next: Option<NodeNo>,
}

/// Which process of the service says it, and the how-manieth thing it says.
type Version = (u64, u64);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The service looks at the time.
    Look(u64),
    /// A node looks at the time.
    Wake(NodeNo, u64),
    /// A question of a node reaches the service.
    Asked(NodeNo, u64, u64, Option<Term>),
    /// An answer reaches the node.
    Answered(NodeNo, u64, u64, Option<Term>),
    /// What is assigned reaches the node.
    Table(NodeNo, u64, Version, Vec<Row>),
    /// A node has stopped.
    Released(NodeNo, usize, u64),
    GivenBack(NodeNo, Term),
    /// Something fails or is mended.
    Fate,
}

/// A clock of its own speed.
#[derive(Debug, Clone, Copy)]
struct Clock {
    speed: f64,
    zero: Duration,
}

impl Clock {
    fn at(&self, real: Duration) -> Moment {
        (real - self.zero).mul_f64(self.speed)
    }

    fn real(&self, own: Moment) -> Duration {
        self.zero + own.div_f64(self.speed)
    }
}

struct Service {
    process: u64,
    clock: Clock,
    granter: Granter<NodeNo>,
    running: BTreeMap<NodeNo, Term>,
    in_use: BTreeSet<(NodeNo, Term)>,
    released: BTreeSet<(usize, u64)>,
    said: u64,
    is_new: bool,
}

struct Node {
    process: u64,
    clock: Clock,
    holder: Holder,
    question: u64,
    version: Version,
    table: Vec<Row>,
    released: BTreeSet<(usize, u64)>,
}

struct World {
    chance: StdRng,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, What)>>,
    sequence: u64,
    /// Stored, and so survives every process.
    rows: Vec<Row>,
    /// Of some earlier moment.
    backup: Vec<Row>,
    epochs: u64,
    lists: Vec<Vec<NodeNo>>,
    service: Option<Service>,
    nodes: Vec<Option<Node>>,
    cut: BTreeSet<NodeNo>,
    processes: u64,
    /// Nothing fails from here on.
    healed: bool,
    moves: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let count = chance.random_range(3..=7);
        let mut world = Self {
            chance,
            now: Duration::from_secs(100),
            events: BinaryHeap::new(),
            sequence: 0,
            rows: vec![Row::default(); ADDRESSES],
            backup: vec![Row::default(); ADDRESSES],
            epochs: 0,
            lists: Vec::new(),
            service: None,
            nodes: (0..count).map(|_| None).collect(),
            cut: BTreeSet::new(),
            processes: 0,
            healed: false,
            moves: 0,
        };
        world.lists = (0..ADDRESSES).map(|_| world.random_list()).collect();
        world.start_service(true);
        for node in 0..count {
            world.start_node(node);
        }
        world
    }

    fn random_list(&mut self) -> Vec<NodeNo> {
        let mut nodes: Vec<NodeNo> = (0..self.nodes.len()).collect();
        let mut list = Vec::new();
        while !nodes.is_empty() && list.len() < 3 {
            let one = self.chance.random_range(0..nodes.len());
            list.push(nodes.swap_remove(one));
        }
        list
    }

    fn clock(&mut self) -> Clock {
        let drift = self.chance.random_range(-DRIFT..=DRIFT);
        Clock {
            speed: 1.0 + drift,
            zero: self.now,
        }
    }

    fn at(&mut self, when: Duration, what: What) {
        self.sequence += 1;
        self.events
            .push(Reverse((when.max(self.now), self.sequence, what)));
    }

    /// Over the network, if it is whole when it is sent: mostly fast, at times very late.
    fn send(&mut self, node: NodeNo, what: What) {
        if self.cut.contains(&node) {
            return;
        }
        let late = !self.healed && self.chance.random_bool(0.05);
        let most = if late { 4_000_000 } else { 20_000 };
        let delay = Duration::from_micros(self.chance.random_range(100..most));
        self.at(self.now + delay, what);
    }

    /// `is_new`: its store is not the one that the process before it had.
    fn start_service(&mut self, is_new: bool) {
        self.processes += 1;
        let clock = self.clock();
        let owners = self.rows.iter().filter_map(|row| row.owner.clone());
        let in_use: BTreeSet<_> = owners.map(|owner| (owner.node, owner.term)).collect();
        self.service = Some(Service {
            process: self.processes,
            clock,
            granter: Granter::new(Duration::ZERO, in_use.clone()),
            running: BTreeMap::new(),
            in_use,
            released: BTreeSet::new(),
            said: 0,
            is_new,
        });
        self.at(self.now, What::Look(self.processes));
    }

    fn start_node(&mut self, node: NodeNo) {
        self.processes += 1;
        let clock = self.clock();
        self.nodes[node] = Some(Node {
            process: self.processes,
            clock,
            holder: Holder::default(),
            question: 0,
            version: (0, 0),
            table: Vec::new(),
            released: BTreeSet::new(),
        });
        self.at(self.now, What::Wake(node, self.processes));
    }

    fn step(&mut self) {
        let Reverse((now, _, what)) = self.events.pop().expect("somebody always looks");
        self.now = now;
        match what {
            What::Look(process) => self.on_look(process),
            What::Wake(node, process) => self.on_wake(node, process),
            What::Asked(node, process, question, term) => {
                self.on_asked(node, process, question, term);
            }
            What::Answered(node, process, question, term) => {
                self.on_answered(node, process, question, term);
            }
            What::Table(node, process, version, table) => {
                self.on_table(node, process, version, table);
            }
            What::Released(node, address, epoch) => {
                let row = &self.rows[address];
                let is_owner = row.owner.as_ref().is_some_and(|owner| owner.node == node);
                if let Some(service) = &mut self.service
                    && is_owner
                    && row.epoch == epoch
                {
                    service.released.insert((address, epoch));
                }
                self.decide();
            }
            What::GivenBack(node, term) => {
                if let Some(service) = &mut self.service {
                    service.granter.end(&node, term);
                }
                self.decide();
            }
            What::Fate => self.on_fate(),
        }
        self.judge();
    }

    fn on_look(&mut self, process: u64) {
        let Some(service) = &self.service else { return };
        if service.process != process {
            return;
        }
        let end = service
            .granter
            .next_end()
            .map(|end| service.clock.real(end));
        let look = self.now + LOOK_EVERY;
        let at = end
            .filter(|end| *end > self.now)
            .map_or(look, |end| end.min(look));
        self.at(at, What::Look(process));
        self.decide();
        if self.chance.random_bool(0.1) {
            for node in 0..self.nodes.len() {
                self.tell(node);
            }
        }
    }

    fn decide(&mut self) {
        let Some(service) = &mut self.service else {
            return;
        };
        let now = service.clock.at(self.now);
        service.granter.pass(now);
        for news in service.granter.take_news() {
            match news {
                News::Began(node, term) => {
                    service.running.insert(node, term);
                    service.in_use.insert((node, term));
                }
                News::Over(node, term) => {
                    service.in_use.remove(&(node, term));
                    if service.running.get(&node) == Some(&term) {
                        service.running.remove(&node);
                    }
                }
            }
        }
        // A term that an earlier process granted counts as long as it is renewed.
        for (node, term) in &service.in_use {
            service.running.entry(*node).or_insert(*term);
        }
        let begins = now < service.granter.quiet_until();
        let mut changed = false;
        for address in 0..ADDRESSES {
            let row = &mut self.rows[address];
            let wanted = self.lists[address].iter().find_map(|node| {
                let term = *service.running.get(node)?;
                Some(Owner { node: *node, term })
            });
            let state = row.owner.as_ref().map(|owner| {
                let state = if service.released.contains(&(address, row.epoch)) {
                    OwnersTerm::Released
                } else if service.in_use.contains(&(owner.node, owner.term)) {
                    OwnersTerm::Running
                } else {
                    OwnersTerm::Over
                };
                (owner, state)
            });
            let quiet = begins && (service.is_new || state.is_none());
            let after = match next(state, wanted, quiet) {
                Next::Stay => Row {
                    next: None,
                    ..row.clone()
                },
                Next::Move(node) => Row {
                    next: Some(node),
                    ..row.clone()
                },
                Next::Name(owner) => {
                    self.epochs += 1;
                    self.moves += 1;
                    Row {
                        owner: Some(owner),
                        epoch: self.epochs,
                        next: None,
                    }
                }
            };
            changed |= after != *row;
            *row = after;
        }
        if changed {
            for node in 0..self.nodes.len() {
                self.tell(node);
            }
        }
    }

    fn tell(&mut self, node: NodeNo) {
        let (Some(service), Some(to)) = (&mut self.service, &self.nodes[node]) else {
            return;
        };
        service.said += 1;
        let version = (service.process, service.said);
        let table = self.rows.clone();
        let process = to.process;
        self.send(node, What::Table(node, process, version, table));
    }

    fn on_wake(&mut self, number: NodeNo, process: u64) {
        let Some(node) = self.node(number, process) else {
            return;
        };
        let now = node.clock.at(self.now);
        let node = self.nodes[number].as_mut().expect("it runs");
        let question = if now >= node.holder.ask_at() {
            node.question += 1;
            let term = match node.holder.ask(now) {
                Ask::Begin => None,
                Ask::Renew(term) => Some(term),
            };
            Some(What::Asked(number, process, node.question, term))
        } else {
            None
        };
        let wake = node.clock.real(node.holder.ask_at()) + Duration::from_micros(1);
        self.at(wake, What::Wake(number, process));
        if let Some(question) = question {
            self.send(number, question);
        }
    }

    fn on_asked(&mut self, node: NodeNo, process: u64, question: u64, term: Option<Term>) {
        let fresh = Term(self.chance.random());
        let Some(service) = &mut self.service else {
            return;
        };
        let now = service.clock.at(self.now);
        let granted = match term {
            None => {
                service.granter.begin(&node, fresh, now);
                Some(fresh)
            }
            Some(term) => service.granter.renew(&node, term, now).ok().map(|()| term),
        };
        self.decide();
        self.send(node, What::Answered(node, process, question, granted));
    }

    fn on_answered(&mut self, number: NodeNo, process: u64, question: u64, term: Option<Term>) {
        let Some(node) = self.node(number, process) else {
            return;
        };
        if node.question != question {
            return;
        }
        let answer = term.map_or(Answer::Over, Answer::Granted);
        let now = node.clock.at(self.now);
        let node = self.nodes[number].as_mut().expect("it runs");
        node.holder.answered(answer, now);
        let wake = node.clock.real(node.holder.ask_at());
        self.at(wake, What::Wake(number, process));
    }

    fn on_table(&mut self, number: NodeNo, process: u64, version: Version, table: Vec<Row>) {
        let Some(node) = self.node(number, process) else {
            return;
        };
        if node.version >= version {
            return;
        }
        let held = node.holder.until().map(|(term, _)| term);
        let node = self.nodes[number].as_mut().expect("it runs");
        node.version = version;
        node.table = table;
        let mut stopped = Vec::new();
        for (address, row) in node.table.iter().enumerate() {
            let mine = row.owner.as_ref();
            let mine = mine.is_some_and(|owner| owner.node == number && Some(owner.term) == held);
            if mine && row.next.is_some_and(|next| next != number) {
                node.released.insert((address, row.epoch));
            }
            if mine && node.released.contains(&(address, row.epoch)) {
                stopped.push(What::Released(number, address, row.epoch));
            }
        }
        for one in stopped {
            self.send(number, one);
        }
    }

    fn node(&self, number: NodeNo, process: u64) -> Option<&Node> {
        self.nodes[number]
            .as_ref()
            .filter(|node| node.process == process)
    }

    fn on_fate(&mut self) {
        if self.healed {
            return;
        }
        let node = self.chance.random_range(0..self.nodes.len());
        match self.chance.random_range(0..10) {
            0 => self.service = None,
            1 if self.service.is_none() => self.start_service(false),
            2 if self.service.is_none() => {
                self.rows = match self.chance.random_bool(0.5) {
                    true => self.backup.clone(),
                    false => vec![Row::default(); ADDRESSES],
                };
                self.start_service(true);
            }
            2 => self.backup = self.rows.clone(),
            3 => self.nodes[node] = None,
            4 | 5 if self.nodes[node].is_none() => self.start_node(node),
            6 => drop(self.cut.insert(node)),
            7 => drop(self.cut.remove(&node)),
            8 => {
                let address = self.chance.random_range(0..ADDRESSES);
                self.lists[address] = self.random_list();
            }
            // Stopped as it should be, and started again.
            _ => {
                let given_back = self.nodes[node]
                    .as_mut()
                    .and_then(|node| node.holder.give_up());
                if let Some(term) = given_back {
                    self.nodes[node] = None;
                    self.send(node, What::GivenBack(node, term));
                    self.start_node(node);
                }
            }
        }
        let pause = self.chance.random_range(0..1500);
        self.at(self.now + Duration::from_millis(pause), What::Fate);
    }

    fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
        if self.service.is_none() {
            self.start_service(false);
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_none() {
                self.start_node(node);
            }
        }
    }

    /// Nodes that can send an answer now: what they began to send before their term was over may
    /// leave somewhat later.
    fn answerers(&self, address: usize) -> Vec<NodeNo> {
        let can = |(number, node): (NodeNo, &Option<Node>)| {
            let node = node.as_ref()?;
            let row = node.table.get(address)?;
            let owner = row.owner.as_ref().filter(|owner| owner.node == number)?;
            let (term, until) = node.holder.until()?;
            let in_time = node.clock.at(self.now) < until + CUSHION;
            let stopped = node.released.contains(&(address, row.epoch));
            (owner.term == term && in_time && !stopped).then_some(number)
        };
        self.nodes.iter().enumerate().filter_map(can).collect()
    }

    fn judge(&self) {
        for address in 0..ADDRESSES {
            let answerers = self.answerers(address);
            assert!(
                answerers.len() <= 1,
                "{answerers:?} all answer for address {address} at {:?}",
                self.now
            );
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self
            .events
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= end)
        {
            self.step();
        }
        self.now = end;
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect(variable))
}

#[test]
fn never_two_that_answer_whatever_fails_and_one_when_all_is_whole() {
    let seeds = match number("PHAROS_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("PHAROS_FIRST_SEED").unwrap_or(1);
            first..first + number("PHAROS_SIMULATIONS").unwrap_or(USUAL_SEEDS)
        }
    };
    let mut moves = 0;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.at(world.now, What::Fate);
            world.run_for(Duration::from_secs(60));
            world.heal();
            world.run_for(QUIET_END);
            for address in 0..ADDRESSES {
                assert_eq!(world.answerers(address).len(), 1, "address {address}");
            }
            world.moves
        });
        match run {
            Ok(counted) => moves += counted,
            Err(panic) => {
                eprintln!("PHAROS_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(moves > 0, "the owners never changed");
}

#[test]
fn a_dead_owner_is_replaced_within_its_lease_and_half_a_second() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.healed = true;
        world.run_for(QUIET_END);
        let owner = world.answerers(0)[0];
        world.nodes[owner] = None;
        let killed = world.now;
        while world.answerers(0).is_empty() {
            world.step();
        }
        let gap = world.now - killed;
        assert!(
            gap <= LENGTH + Duration::from_millis(500),
            "{seed}: {gap:?}"
        );
    }
}

#[test]
fn a_planned_move_takes_no_lease() {
    let mut world = World::new(1);
    world.healed = true;
    world.run_for(QUIET_END);
    let owner = world.answerers(0)[0];
    world.lists[0].retain(|node| *node != owner);
    let changed = world.now;
    while world.answerers(0).is_empty() || world.answerers(0) == [owner] {
        world.step();
    }
    let gap = world.now - changed;
    assert!(gap <= LOOK_EVERY + Duration::from_millis(100), "{gap:?}");
}
