use std::net::Ipv4Addr;

use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcer_report::{Conflict, Status};
use proptest::prelude::*;

use super::*;
use crate::api::announcements::describe::Descriptions;
use crate::feed::allocations::AllocationFeed;
use crate::feed::changes::ChangeFeed;
use crate::feed::status::KEPT;
use crate::state::address::Address;
use crate::state::announce::{Assignment, ClusterDelta};
use crate::state::announce::{NodeSet, Silence};
use crate::state::model::{NodeKey, Timestamp};

mod cost;

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn feeds(now: Instant) -> Feeds {
    Feeds {
        allocations: AllocationFeed::default(),
        assignments: AssignmentFeed::new("store".to_owned(), &BTreeMap::new()),
        changes: ChangeFeed::default(),
        status: StatusFeed::new(now),
    }
}

fn key(number: u8) -> AssignmentKey {
    AssignmentKey {
        space: name("default"),
        address: Address::from(Ipv4Addr::new(192, 0, 2, number)),
    }
}

/// An announcement as far as it changes here: address, group, who answers, with whether that one is away, and
/// why nobody does.
type Seen = BTreeMap<String, (u64, Vec<(String, bool)>, Reason)>;

fn seen(announcements: impl IntoIterator<Item = v1::Announcement>) -> Seen {
    let seen = announcements.into_iter().map(|one| {
        let reason = one.reason();
        let answerers = one.answerers.into_iter();
        let answerers = answerers.map(|it| (it.node, it.unknown_since.is_some()));
        (one.address, (one.group, answerers.collect(), reason))
    });
    seen.collect()
}

#[derive(Debug, Clone)]
enum Step {
    Assign(u8, u64),
    /// It is held, and nobody may announce it.
    Hold(u8, u64),
    Remove(u8),
    /// A machine uses it, or does not any more.
    See(usize, u8, bool),
    Enter(usize),
    Leave(usize),
    /// Whether it is all of it; groups that it has; groups that it lost.
    Tell(usize, bool, BTreeSet<u64>, BTreeSet<u64>),
    Pass(u64),
    /// The watcher looks.
    Look,
}

/// Id of the set of all nodes.
const CANDIDATES: u64 = 7;
const NODES: [&str; 3] = ["a", "b", "c"];

fn groups() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(0..5_u64, 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES.len();
    prop_oneof![
        4 => (0..8_u8, 0..5_u64).prop_map(|(number, group)| Step::Assign(number, group)),
        2 => (0..8_u8, 0..5_u64).prop_map(|(number, group)| Step::Hold(number, group)),
        2 => (0..8_u8).prop_map(Step::Remove),
        1 => (node.clone(), 0..8_u8, any::<bool>())
            .prop_map(|(node, number, over)| Step::See(node, number, over)),
        2 => node.clone().prop_map(Step::Enter),
        2 => node.clone().prop_map(Step::Leave),
        5 => (node, any::<bool>(), groups(), groups())
            .prop_map(|(node, whole, owned, lost)| Step::Tell(node, whole, owned, lost)),
        2 => (1..40_u64).prop_map(Step::Pass),
        4 => Just(Step::Look),
    ]
}

/// What is true, told naively.
#[derive(Debug, Default)]
struct Model {
    /// Group, and whether nodes are to announce it.
    held: BTreeMap<u8, (u64, bool)>,
    nodes: BTreeMap<usize, Told>,
}

#[derive(Debug, Default)]
struct Told {
    stream: u64,
    entered: Option<Instant>,
    ended: Option<Instant>,
    told: bool,
    owned: BTreeSet<u64>,
}

impl Model {
    fn seen(&mut self, began: Instant, now: Instant) -> Seen {
        let is_over = |ended: Option<Instant>| ended.is_some_and(|at| at + KEPT <= now);
        self.nodes.retain(|_, told| !is_over(told.ended));
        let held = self.held.iter().map(|(number, (group, assigned))| {
            let answer = self.nodes.iter();
            let answer = answer.filter(|(_, told)| told.owned.contains(group));
            let answer = answer.map(|(node, told)| (NODES[*node].to_owned(), told.ended.is_some()));
            let answer: Vec<_> = answer.collect();
            let reason = match (assigned, answer.is_empty()) {
                (false, _) => Reason::NotAdvertised,
                (true, false) => Reason::Unspecified,
                (true, true) => self.why_nobody(began, now),
            };
            (format!("192.0.2.{number}"), (*group, answer, reason))
        });
        held.collect()
    }

    fn why_nobody(&self, began: Instant, now: Instant) -> Reason {
        let may_tell = |node: usize| match self.nodes.get(&node) {
            Some(told) => {
                let since = told.ended.or(told.entered).expect("it was there");
                !told.told && now < since + KEPT
            }
            None => now < began + KEPT,
        };
        let is_there = |node: &usize| {
            let told = self.nodes.get(node);
            told.is_some_and(|told| told.ended.is_none())
        };
        let all = 0..NODES.len();
        let there: Vec<usize> = all.clone().filter(is_there).collect();
        let is_mute = |node: &usize| !self.nodes[node].told;
        if all.clone().any(may_tell) || there.iter().any(is_mute) {
            Reason::Unknown
        } else if there.is_empty() {
            Reason::NoLiveNode
        } else if there.len() < all.len() {
            Reason::NodeAway
        } else {
            Reason::NotYetAnnounced
        }
    }
}

/// Feeds, the model, and somebody who watches and folds what he is told.
struct World {
    feeds: Feeds,
    model: Model,
    picture: Picture,
    folded: BTreeMap<AssignmentKey, v1::Announcement>,
    began: Instant,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let began = Instant::now();
        let feeds = feeds(began);
        let world = Self {
            model: Model::default(),
            picture: Picture::new(&feeds, name("east")),
            folded: BTreeMap::new(),
            began,
            now: began,
            feeds,
        };
        let candidates = NodeSet {
            id: CANDIDATES,
            nodes: NODES.map(name).into(),
        };
        world.publish(ClusterDelta {
            node_sets: vec![std::sync::Arc::new(candidates)],
            ..ClusterDelta::default()
        });
        world
    }

    fn publish(&self, delta: ClusterDelta) {
        let deltas = BTreeMap::from([(name("east"), delta)]);
        let _ended = self.feeds.assignments.publish(&deltas);
    }

    fn take(&mut self, step: Step) {
        let of = |node: usize| NodeKey {
            cluster: name("east"),
            node: name(NODES[node]),
        };
        let status = &self.feeds.status;
        match step {
            Step::Assign(number, group) => {
                self.model.held.insert(number, (group, true));
                self.publish(ClusterDelta {
                    upserts: vec![assignment(number, group)],
                    ..ClusterDelta::default()
                });
            }
            Step::Hold(number, group) => {
                self.model.held.insert(number, (group, false));
                self.take_away(number);
            }
            Step::Remove(number) => {
                self.model.held.remove(&number);
                self.take_away(number);
            }
            Step::See(node, number, over) => {
                let is_there = |told: &&Told| told.ended.is_none();
                if self.model.nodes.get(&node).filter(is_there).is_some() {
                    let conflict = Conflict {
                        mac: "02:00:00:00:00:09".to_owned(),
                        over,
                        ..Conflict::default()
                    };
                    status.see(&of(node), &key(number), &conflict, self.now, Timestamp(1));
                }
            }
            Step::Enter(node) => {
                self.model.seen(self.began, self.now);
                let told = self.model.nodes.entry(node).or_default();
                told.stream = status.enter(&of(node), self.now);
                told.entered = Some(self.now);
                told.ended = None;
            }
            Step::Leave(node) => {
                let told = self.model.nodes.get_mut(&node);
                if let Some(told) = told.filter(|told| told.ended.is_none()) {
                    told.ended = Some(self.now);
                    status.leave(&of(node), told.stream, self.now, Timestamp(1));
                }
            }
            Step::Tell(node, whole, owned, lost) => {
                let told = self.model.nodes.get_mut(&node);
                if let Some(told) = told.filter(|told| told.ended.is_none()) {
                    status.tell(&of(node), told.stream, &told_status(whole, &owned, &lost));
                    told.told |= whole;
                    if whole {
                        told.owned.clear();
                    }
                    told.owned.retain(|group| !lost.contains(group));
                    told.owned.extend(owned);
                }
            }
            Step::Pass(seconds) => self.now += std::time::Duration::from_secs(seconds),
            Step::Look => self.look(),
        }
    }

    fn take_away(&self, number: u8) {
        self.publish(ClusterDelta {
            removals: vec![key(number)],
            ..ClusterDelta::default()
        });
        let concern = Concern::Address(key(number));
        self.feeds.assignments.touch(&name("east"), concern);
    }

    /// What the state would say.
    fn answer(&self, ask: &Ask) -> Answer {
        let mut page = HeldPage::default();
        if let Walk::Behind(after) = &ask.walk {
            let keys = self.model.held.keys().map(|number| key(*number));
            let mut rest = keys.filter(|key| after.as_ref().is_none_or(|after| key > after));
            page.keys = rest.by_ref().take(2).collect();
            page.next = page.keys.last().filter(|_| rest.next().is_some()).cloned();
        }
        Answer {
            page,
            of_owners: Vec::new(),
            held: held(&self.model, &ask.keys),
        }
    }

    /// Takes in what the watcher is told, which then equals what is true.
    fn look(&mut self) {
        loop {
            let ask = self.picture.ask(self.now);
            let answer = self.answer(&ask);
            let difference = self.picture.take_in(answer, self.now);
            self.fold(difference);
            if self.picture.is_complete() {
                break;
            }
        }
        let folded = seen(self.folded.values().cloned());
        assert_eq!(folded, self.model.seen(self.began, self.now));
        let listed = self.listed().into_iter();
        let listed: BTreeMap<_, _> = listed.map(|(key, one)| (key, one.wire)).collect();
        assert_eq!(self.folded, listed);
    }

    fn fold(&mut self, difference: Difference) {
        for key in difference.gone {
            assert!(
                self.folded.remove(&key).is_some(),
                "only what was shown goes"
            );
        }
        for one in difference.changed {
            let ip: std::net::IpAddr = one.address.parse().expect("canonical");
            let key = AssignmentKey {
                space: name("default"),
                address: Address::from(ip),
            };
            let before = self.folded.insert(key, one.clone());
            assert_ne!(before.as_ref(), Some(&one), "only what changed is told");
        }
    }

    /// What ListAnnouncements puts together.
    fn listed(&self) -> Descriptions {
        let all = self.model.held.keys().map(|number| key(*number)).collect();
        let cluster = name("east");
        let assigned = self.feeds.assignments.assigned_at(&cluster, &all);
        let view = self.feeds.status.view(&cluster, self.now);
        describe(&view, &assigned, &held(&self.model, &all))
    }
}

/// What is held of these and not assigned.
fn held(model: &Model, keys: &BTreeSet<AssignmentKey>) -> Vec<Held> {
    let held = model.held.iter().filter(|(_, (_, assigned))| !assigned);
    let held = held.filter(|(number, _)| keys.contains(&key(**number)));
    let owner = OwnerKey {
        cluster: name("east"),
        namespace: None,
        name: name("web"),
    };
    held.map(|(number, (group, _))| Held {
        key: key(*number),
        group: *group,
        owners: vec![owner.clone()],
        silence: Some(Silence::NotAdvertised(owner.clone())),
    })
    .collect()
}

fn assignment(number: u8, group: u64) -> std::sync::Arc<Assignment> {
    std::sync::Arc::new(Assignment {
        key: key(number),
        group,
        nodes: vec![name("a")],
        candidates: CANDIDATES,
        interfaces: Some(std::sync::Arc::default()),
        owners: Vec::new(),
        left_out: Vec::new(),
        fenced: None,
        probe: false,
        bgp: None,
    })
}

fn told_status(whole: bool, owned: &BTreeSet<u64>, lost: &BTreeSet<u64>) -> Status {
    let owned = owned.iter().map(|group| v1::Ownership {
        group: *group,
        interfaces: vec!["eth0".to_owned()],
        ..v1::Ownership::default()
    });
    Status {
        whole,
        owned: owned.collect(),
        lost: lost.iter().copied().collect(),
        ..Status::default()
    }
}

proptest! {
    #[test]
    fn what_a_watcher_is_told_adds_up_to_what_is_listed(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.look();
    }
}

#[test]
fn time_that_runs_out_while_the_state_is_asked_is_noticed() {
    let mut world = World::new();
    world.take(Step::Assign(1, 1));
    world.look();
    world.take(Step::Assign(2, 2));
    world.now = world.began + KEPT - std::time::Duration::from_millis(1);
    let ask = world.picture.ask(world.now);
    world.now = world.began + KEPT;
    let answer = world.answer(&ask);
    let difference = world.picture.take_in(answer, world.now);
    world.fold(difference);
    // Nobody says anything any more, and both are known to have no node.
    world.look();
}

#[test]
fn what_is_touched_all_the_time_keeps_no_other_waiting() {
    const ALL: u32 = 2500;
    let now = Instant::now();
    let feeds = feeds(now);
    let mut picture = Picture::new(&feeds, name("east"));
    let keys: Vec<AssignmentKey> = (0..ALL)
        .map(|number| AssignmentKey {
            space: name("default"),
            address: Address::from(Ipv4Addr::from(0x0a00_0000 + number)),
        })
        .collect();
    let assigned = keys.iter().map(|key| {
        std::sync::Arc::new(Assignment {
            key: key.clone(),
            ..Assignment::clone(&assignment(0, 1))
        })
    });
    let delta = ClusterDelta {
        upserts: assigned.collect(),
        ..ClusterDelta::default()
    };
    let deltas = BTreeMap::from([(name("east"), delta)]);
    let _ended = feeds.assignments.publish(&deltas);
    let node = NodeKey {
        cluster: name("east"),
        node: name("a"),
    };
    let pages = keys.len().div_ceil(MOST);
    let stream = feeds.status.enter(&node, now);
    for number in 0..2 * pages {
        // A node comes to own all of them, or loses them, before each look.
        let all = BTreeSet::from([1]);
        let (owned, lost) = match number % 2 {
            0 => (all, BTreeSet::new()),
            _ => (BTreeSet::new(), all),
        };
        let told = told_status(false, &owned, &lost);
        feeds.status.tell(&node, stream, &told);
        let ask = picture.ask(now);
        let mut page = HeldPage::default();
        if let Walk::Behind(after) = &ask.walk {
            let mut rest = keys
                .iter()
                .filter(|key| after.as_ref().is_none_or(|after| *key > after));
            page.keys = rest.by_ref().take(MOST).cloned().collect();
            page.next = page.keys.last().filter(|_| rest.next().is_some()).cloned();
        }
        let answer = Answer {
            page,
            ..Answer::default()
        };
        picture.take_in(answer, now);
    }
    assert_eq!(picture.shown.len(), keys.len());
}
