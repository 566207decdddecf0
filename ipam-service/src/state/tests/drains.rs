//! Random sequences with announcers that are cut off, lag behind, and belong to clusters that are
//! deleted and made again, under a server that restarts.
//!
//! Whatever happens: nobody holds an address that a machine still answers for on behalf of somebody
//! else, unless that machine has been away for longer than the pool waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::state::address::Address;
use crate::state::announce::{Announcements, AssignmentKey, Owners};
use crate::state::change::{Change, Edit};
use crate::state::command::{Command, Fact};
use crate::state::model::*;
use crate::state::testing::*;
use crate::state::{Acknowledged, Published, State, StreamPlace};
use crate::testing::advertisement;

/// As long as a pool waits for nodes that are away.
const LIMIT: Duration = Duration::from_secs(300);

const CLUSTERS: [&str; 2] = ["east", "west"];
const NODES: [&str; 2] = ["a", "b"];
const OWNERS: [&str; 3] = ["x/web", "x/dns", "x/ntp"];

#[derive(Debug, Clone)]
enum Step {
    Ask(usize, usize),
    GiveBack(usize, usize),
    /// The cluster sees that a node is cut off; or that it is back.
    Cut(usize, usize),
    /// A machine applies all that its stream has.
    Apply(usize),
    /// What it has applied is acknowledged.
    Acknowledge(usize),
    Delete(usize),
    Restart,
    Pass(u64),
}

fn some_step() -> impl Strategy<Value = Step> {
    let cluster = || 0..CLUSTERS.len();
    prop_oneof![
        6 => (cluster(), 0..OWNERS.len()).prop_map(|(c, owner)| Step::Ask(c, owner)),
        5 => (cluster(), 0..OWNERS.len()).prop_map(|(c, owner)| Step::GiveBack(c, owner)),
        3 => (cluster(), 0..NODES.len()).prop_map(|(c, node)| Step::Cut(c, node)),
        8 => (0..8_usize).prop_map(Step::Apply),
        8 => (0..8_usize).prop_map(Step::Acknowledge),
        1 => cluster().prop_map(Step::Delete),
        1 => Just(Step::Restart),
        2 => prop_oneof![Just(1_u64), Just(100), Just(301)].prop_map(Step::Pass),
    ]
}

/// A host that answers for what it was told last. It outlives the cluster that it was made for.
#[derive(Debug)]
struct Machine {
    node: NodeKey,
    /// `None`: it has no stream now.
    stream: Option<u64>,
    cut_off: bool,
    answers: BTreeMap<AssignmentKey, Vec<OwnerKey>>,
    /// Since when what it answers for is no longer its.
    wrong_since: BTreeMap<AssignmentKey, Duration>,
    unacknowledged: Option<StreamPlace>,
}

/// The stream of a cluster.
#[derive(Debug, Clone, Copy)]
struct Stream {
    id: u64,
    position: u64,
}

struct World {
    book: Book,
    announcements: Announcements,
    streams: BTreeMap<usize, Stream>,
    /// Where those of deleted clusters ended, in this run of the server.
    ended: BTreeMap<u64, StreamPlace>,
    streams_so_far: u64,
    machines: Vec<Machine>,
    now: Duration,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            book: Book::with_pools(&[pool("p", &["192.0.2.0/31"])]),
            announcements: Announcements::default(),
            streams: BTreeMap::new(),
            ended: BTreeMap::new(),
            streams_so_far: 0,
            machines: Vec::new(),
            now: Duration::ZERO,
        };
        let everything = Box::new(advertisement("all"));
        world.run(Command::ApplyAdvertisement(everything));
        for cluster in 0..CLUSTERS.len() {
            world.populate(cluster);
        }
        world
    }

    /// New machines bear the names of a cluster's nodes.
    fn populate(&mut self, cluster: usize) {
        for node in NODES {
            let node = NodeKey {
                cluster: name(CLUSTERS[cluster]),
                node: name(node),
            };
            self.run(Command::Facts {
                cluster: node.cluster.clone(),
                facts: vec![Fact::Announcer {
                    key: node.clone(),
                    announcer: Announcer {
                        labels: Labels::new(),
                        member_endpoint: String::new(),
                        features: Default::default(),
                    },
                }],
            });
            self.machines.push(Machine {
                node,
                stream: self.streams.get(&cluster).map(|stream| stream.id),
                cut_off: false,
                answers: BTreeMap::new(),
                wrong_since: BTreeMap::new(),
                unacknowledged: None,
            });
        }
    }

    /// A batch of the engine: decided, applied, published.
    fn run(&mut self, command: Command) {
        let mut changes = self.book.step(command).unwrap_or_default();
        self.book.settle(&mut changes);
        self.publish(&changes);
        // What was published may end something, and so on.
        while self.book.state.has_ended() {
            let mut changes = Vec::new();
            self.book.settle(&mut changes);
            self.publish(&changes);
        }
        self.check();
    }

    fn publish(&mut self, changes: &[Change]) {
        let refresh = self
            .announcements
            .refresh(&self.book.state, changes, Owners::AsStored);
        for change in &refresh.choices {
            self.book.state.apply(change);
        }
        let mut ended = BTreeMap::new();
        for (index, cluster) in CLUSTERS.iter().enumerate() {
            let cluster = name(cluster);
            let Some(delta) = refresh.deltas.get(&cluster) else {
                continue;
            };
            let stream = self.streams.entry(index).or_insert_with(|| {
                self.streams_so_far += 1;
                Stream {
                    id: self.streams_so_far,
                    position: self.streams_so_far * 1000,
                }
            });
            stream.position += 1;
            if delta.deleted.is_some() {
                ended.insert(cluster, place(*stream));
                self.ended.insert(stream.id, place(*stream));
                self.streams.remove(&index);
            }
        }
        let streams = self.streams.clone();
        self.book.state.published(Published {
            deltas: &refresh.deltas,
            ended: &ended,
            place: &|cluster| {
                let index = CLUSTERS.iter().position(|one| *one == cluster.as_str());
                index.and_then(|index| streams.get(&index).copied().map(place))
            },
        });
        self.note_wrong();
    }

    /// What a node is to answer for now.
    fn assigned(&self, node: &NodeKey) -> BTreeMap<AssignmentKey, Vec<OwnerKey>> {
        let Some(cluster) = self.announcements.cluster(node.cluster.as_str()) else {
            return BTreeMap::new();
        };
        let sets: BTreeMap<u64, _> = cluster.node_sets().map(|set| (set.id, set)).collect();
        let own = cluster
            .assignments()
            .filter(|one| sets[&one.candidates].nodes.contains(&node.node));
        own.map(|one| (one.key.clone(), one.owners.clone()))
            .collect()
    }

    /// Whether the machine is the one that bears its node's name now.
    fn is_current(&self, machine: &Machine) -> bool {
        let index = CLUSTERS
            .iter()
            .position(|one| *one == machine.node.cluster.as_str());
        let stream = index.and_then(|index| self.streams.get(&index));
        stream.is_some_and(|stream| machine.stream == Some(stream.id))
    }

    fn note_wrong(&mut self) {
        for index in 0..self.machines.len() {
            let machine = &self.machines[index];
            let assigned = match self.is_current(machine) {
                true => self.assigned(&machine.node),
                false => BTreeMap::new(),
            };
            let is_wrong = |(key, owners): &(&AssignmentKey, &Vec<OwnerKey>)| {
                assigned.get(*key) != Some(*owners)
            };
            let wrong = machine.answers.iter().filter(is_wrong);
            let now = self.now;
            let since = |key: &AssignmentKey| machine.wrong_since.get(key).copied();
            self.machines[index].wrong_since = wrong
                .map(|(key, _)| (key.clone(), since(key).unwrap_or(now)))
                .collect();
        }
    }

    fn check(&self) {
        for machine in &self.machines {
            for (key, since) in &machine.wrong_since {
                let owners = &machine.answers[key];
                let mut holders = self.book.state.holders(&key.space, key.address);
                let other = holders.find(|one| !owners.contains(&one.owner.key));
                if let Some(other) = other {
                    assert!(
                        self.now - *since >= LIMIT,
                        "{} answers for {} of {owners:?}, which {} holds",
                        machine.node.node,
                        key.address,
                        other.owner.key
                    );
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(cluster, index) => {
                let owner = format!("{}/{}", CLUSTERS[*cluster], OWNERS[*index]);
                self.run(queued(&owner, claim()).into());
            }
            Step::GiveBack(cluster, index) => {
                let owner = format!("{}/{}", CLUSTERS[*cluster], OWNERS[*index]);
                self.run(release(&owner).into());
            }
            Step::Cut(cluster, index) => self.cut(*cluster, NODES[*index]),
            Step::Apply(index) => self.apply(*index),
            Step::Acknowledge(index) => self.acknowledge(*index),
            Step::Delete(cluster) => {
                self.run(Command::DeleteCluster {
                    cluster: name(CLUSTERS[*cluster]),
                });
                self.populate(*cluster);
            }
            Step::Restart => self.restart(),
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(*seconds);
                self.book.pass_unsettled(*seconds);
                self.run(Command::Redecide(owner("east/x/web")));
            }
        }
    }

    fn cut(&mut self, cluster: usize, node: &str) {
        let key = NodeKey {
            cluster: name(CLUSTERS[cluster]),
            node: name(node),
        };
        let current = self.machines.iter().rposition(|one| one.node == key);
        let Some(machine) = current.map(|index| &mut self.machines[index]) else {
            return;
        };
        machine.cut_off = !machine.cut_off;
        let unavailable_reason = if machine.cut_off { "cut off" } else { "" };
        let reported = Some(ReportedNode {
            labels: Labels::new(),
            unavailable_reason: unavailable_reason.to_owned(),
        });
        self.run(Command::Facts {
            cluster: key.cluster.clone(),
            facts: vec![Fact::Node { key, reported }],
        });
    }

    fn apply(&mut self, index: usize) {
        let index = index % self.machines.len();
        let machine = &self.machines[index];
        if machine.cut_off {
            return;
        }
        if !self.is_current(machine) {
            // The last that its stream had: that all is gone. One whose stream was cut off by a
            // restart learns nothing any more.
            let end = machine.stream.and_then(|stream| self.ended.get(&stream));
            if let Some(end) = end.copied() {
                let machine = &mut self.machines[index];
                machine.answers.clear();
                machine.unacknowledged = Some(end);
            }
            self.note_wrong();
            return;
        }
        let answers = self.assigned(&machine.node);
        let cluster = CLUSTERS
            .iter()
            .position(|one| *one == machine.node.cluster.as_str());
        let stream = cluster.and_then(|cluster| self.streams.get(&cluster).copied());
        let machine = &mut self.machines[index];
        machine.answers = answers;
        machine.unacknowledged = stream.map(place);
        self.note_wrong();
    }

    fn acknowledge(&mut self, index: usize) {
        let index = index % self.machines.len();
        let machine = &mut self.machines[index];
        if machine.cut_off {
            return;
        }
        let Some(place) = machine.unacknowledged.take() else {
            return;
        };
        let node = machine.node.clone();
        self.book.state.acknowledged([Acknowledged { node, place }]);
        self.run(Command::Redecide(owner("east/x/web")));
    }

    /// `kill -9`: what is in memory is lost, streams and acknowledgements that were under way too.
    fn restart(&mut self) {
        let mut loaded = rows(&self.book.state);
        for change in &mut loaded {
            if let Change::Unavailable(edit) = change {
                let mut row = Unavailable::clone(edit.subject());
                row.deadline = Moment(row.period);
                *edit = Edit {
                    before: None,
                    after: Some(Arc::new(row)),
                };
            }
        }
        self.book.state = State::restore(self.book.state.revision(), loaded);
        let (announcements, placements) = Announcements::rebuild(&self.book.state);
        for change in &placements {
            self.book.state.apply(change);
        }
        self.announcements = announcements;
        let streams_before = std::mem::take(&mut self.streams);
        self.ended.clear();
        for cluster in streams_before.keys() {
            self.streams_so_far += 1;
            let (id, position) = (self.streams_so_far, 1);
            self.streams.insert(*cluster, Stream { id, position });
        }
        for machine in &mut self.machines {
            let cluster = CLUSTERS
                .iter()
                .position(|one| *one == machine.node.cluster.as_str());
            let next = cluster.and_then(|cluster| self.streams.get(&cluster));
            let was = cluster.and_then(|cluster| streams_before.get(&cluster));
            // One of a deleted cluster is no node of the next one, whatever its name.
            machine.stream = match machine.stream == was.map(|was| was.id) {
                true => next.map(|next| next.id),
                false => None,
            };
            machine.unacknowledged = None;
        }
        let streams = self.streams.clone();
        self.book.state.published(Published {
            deltas: &self.announcements.everything(),
            ended: &BTreeMap::new(),
            place: &|cluster| {
                let index = CLUSTERS.iter().position(|one| *one == cluster.as_str());
                index.and_then(|index| streams.get(&index).copied().map(place))
            },
        });
        self.note_wrong();
        self.run(Command::Redecide(owner("east/x/web")));
    }
}

fn place(stream: Stream) -> StreamPlace {
    StreamPlace {
        stream: stream.id,
        position: stream.position,
    }
}

/// An address that drains comes free once all who are there have acknowledged.
fn everybody_catches_up(world: &mut World) {
    for index in 0..world.machines.len() {
        let key = world.machines[index].node.clone();
        if world.machines[index].cut_off && world.is_current(&world.machines[index]) {
            let cluster = CLUSTERS.iter().position(|one| *one == key.cluster.as_str());
            world.cut(cluster.expect("one of them"), key.node.as_str());
        }
    }
    for _ in 0..3 {
        for index in 0..world.machines.len() {
            world.apply(index);
            world.acknowledge(index);
        }
    }
    let state = &world.book.state;
    let of_living = |row: &&Arc<Unavailable>| row.for_owner.is_some();
    let rows: Vec<Address> = state
        .all_unavailable()
        .filter(of_living)
        .map(|row| row.key.address)
        .collect();
    assert_eq!(rows, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::sequences(1000), ..ProptestConfig::default() })]

    #[test]
    fn nobody_holds_what_somebody_else_still_answers_for(
        steps in proptest::collection::vec(some_step(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        everybody_catches_up(&mut world);
    }
}
