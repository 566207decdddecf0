use std::net::Ipv4Addr;

use pharos_proto::v1::announcer_report::Status;
use proptest::prelude::*;

use super::*;
use crate::feed::allocations::AllocationFeed;
use crate::feed::changes::ChangeFeed;
use crate::feed::status::KEPT;
use crate::state::address::Address;
use crate::state::announce::{Assignment, ClusterDelta};
use crate::state::model::{NodeKey, Timestamp};

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn feeds() -> Feeds {
    Feeds {
        allocations: AllocationFeed::default(),
        assignments: AssignmentFeed::new("store".to_owned(), &BTreeMap::new()),
        changes: ChangeFeed::default(),
        status: StatusFeed::default(),
    }
}

fn key(number: u8) -> AssignmentKey {
    AssignmentKey {
        space: name("default"),
        address: Address::from(Ipv4Addr::new(192, 0, 2, number)),
    }
}

/// An announcement as far as it changes here: address, group, and who answers, with whether that one is away.
type Seen = BTreeMap<String, (u64, Vec<(String, bool)>)>;

fn seen(announcements: impl IntoIterator<Item = v1::Announcement>) -> Seen {
    let seen = announcements.into_iter().map(|one| {
        let answerers = one.answerers.into_iter();
        let answerers = answerers.map(|it| (it.node, it.unknown_since.is_some()));
        (one.address, (one.group, answerers.collect()))
    });
    seen.collect()
}

#[derive(Debug, Clone)]
enum Step {
    Assign(u8, u64),
    Remove(u8),
    Enter(usize),
    Leave(usize),
    /// Whether it is all of it; groups that it has; groups that it lost.
    Tell(usize, bool, BTreeSet<u64>, BTreeSet<u64>),
    Pass(u64),
    /// The watcher looks.
    Look,
}

const NODES: [&str; 3] = ["a", "b", "c"];

fn groups() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(0..5_u64, 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES.len();
    prop_oneof![
        4 => (0..8_u8, 0..5_u64).prop_map(|(number, group)| Step::Assign(number, group)),
        2 => (0..8_u8).prop_map(Step::Remove),
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
    assigned: BTreeMap<u8, u64>,
    nodes: BTreeMap<usize, Told>,
}

#[derive(Debug, Default)]
struct Told {
    stream: u64,
    ended: Option<Instant>,
    owned: BTreeSet<u64>,
}

impl Model {
    fn seen(&mut self, now: Instant) -> Seen {
        let is_over = |ended: Option<Instant>| ended.is_some_and(|at| at + KEPT <= now);
        self.nodes.retain(|_, told| !is_over(told.ended));
        let assigned = self.assigned.iter().map(|(number, group)| {
            let answer = self.nodes.iter();
            let answer = answer.filter(|(_, told)| told.owned.contains(group));
            let answer = answer.map(|(node, told)| (NODES[*node].to_owned(), told.ended.is_some()));
            (format!("192.0.2.{number}"), (*group, answer.collect()))
        });
        assigned.collect()
    }
}

/// Feeds, the model, and somebody who watches and folds what he is told.
struct World {
    feeds: Feeds,
    model: Model,
    picture: Picture,
    folded: BTreeMap<AssignmentKey, v1::Announcement>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let feeds = feeds();
        Self {
            model: Model::default(),
            picture: Picture::new(&feeds, name("east")),
            folded: BTreeMap::new(),
            now: Instant::now(),
            feeds,
        }
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
                self.model.assigned.insert(number, group);
                self.publish(ClusterDelta {
                    upserts: vec![assignment(number, group)],
                    ..ClusterDelta::default()
                });
            }
            Step::Remove(number) => {
                self.model.assigned.remove(&number);
                self.publish(ClusterDelta {
                    removals: vec![key(number)],
                    ..ClusterDelta::default()
                });
            }
            Step::Enter(node) => {
                self.model.seen(self.now);
                status.forget(self.now);
                let told = self.model.nodes.entry(node).or_default();
                told.stream = status.enter(&of(node));
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

    /// Takes in what the watcher is told, which then equals what is true.
    fn look(&mut self) {
        let difference = self.picture.refresh(self.now);
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
        let folded = seen(self.folded.values().cloned());
        assert_eq!(folded, self.model.seen(self.now));
        assert_eq!(self.folded, listed(&self.feeds, self.now));
    }
}

fn assignment(number: u8, group: u64) -> std::sync::Arc<Assignment> {
    std::sync::Arc::new(Assignment {
        key: key(number),
        group,
        nodes: vec![name("a")],
        candidates: 0,
        interfaces: std::sync::Arc::default(),
        owners: Vec::new(),
        left_out: Vec::new(),
        fenced: None,
        probe: false,
    })
}

fn told_status(whole: bool, owned: &BTreeSet<u64>, lost: &BTreeSet<u64>) -> Status {
    let owned = owned.iter().map(|group| v1::Ownership {
        group: *group,
        ..v1::Ownership::default()
    });
    Status {
        whole,
        owned: owned.collect(),
        lost: lost.iter().copied().collect(),
        ..Status::default()
    }
}

/// What ListAnnouncements puts together.
fn listed(feeds: &Feeds, now: Instant) -> BTreeMap<AssignmentKey, v1::Announcement> {
    let assigned = feeds.assignments.assigned(&name("east"));
    let groups = assigned.iter().map(|one| one.group).collect();
    let answerers = feeds.status.answerers(&name("east"), &groups, now);
    let all = assigned
        .iter()
        .map(|one| (one.key.clone(), announcement(one, &answerers)));
    all.collect()
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
