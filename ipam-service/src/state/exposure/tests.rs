//! What it costs, counted in nodes that are looked at and sets that are made up.

use super::*;
use crate::state::announce::Assignment;
use crate::state::model::UnavailableReason;
use crate::state::testing::{name, space};

const ADDRESSES: u32 = 10_000;
const NODES: u32 = 1_000;

fn key(number: u32) -> AssignmentKey {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    AssignmentKey {
        space: space(),
        address: std::net::IpAddr::from(address).into(),
    }
}

fn node(number: u32) -> Name {
    name(&format!("n{number:04}"))
}

fn nodes(numbers: impl Iterator<Item = u32>) -> Arc<NodeSet> {
    Arc::new(NodeSet::new(numbers.map(node)))
}

fn all_to(set: &Arc<NodeSet>) -> ClusterDelta {
    let upsert = |number| Assignment {
        key: key(number),
        group: u64::from(number),
        nodes: Vec::new(),
        candidates: set.id,
        interfaces: Some(Arc::default()),
        left_out: Vec::new(),
        owners: Vec::new(),
        probe: false,
        fenced: None,
        bgp: None,
    };
    ClusterDelta {
        node_sets: vec![Arc::clone(set)],
        upserts: (0..ADDRESSES)
            .map(|number| Arc::new(upsert(number)))
            .collect(),
        ..ClusterDelta::default()
    }
}

/// 10,000 addresses that are announced by these.
struct World {
    exposure: Exposure,
    position: u64,
    now: Moment,
}

impl World {
    fn announced_by(set: &Arc<NodeSet>) -> Self {
        let mut world = Self {
            exposure: Exposure::default(),
            position: 0,
            now: Moment::default(),
        };
        world.publish(all_to(set));
        world
    }

    fn publish(&mut self, delta: ClusterDelta) {
        self.position += 1;
        let position = self.position;
        let published = Published {
            deltas: &BTreeMap::from([(name("east"), delta)]),
            ended: &BTreeMap::new(),
            place: &|_| {
                Some(StreamPlace {
                    stream: 1,
                    position,
                })
            },
        };
        self.exposure.published(published, self.now);
    }

    /// One after the other, as they arrive.
    fn acknowledge(&mut self, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            self.exposure.acknowledged([Acknowledged {
                node: NodeKey {
                    cluster: name("east"),
                    node: node(number),
                },
                place: StreamPlace {
                    stream: 1,
                    position: self.position,
                },
            }]);
        }
    }

    fn former(&self) -> &Former {
        &self.exposure.clusters[&name("east")].former
    }

    fn drain_all(&mut self, set: &Arc<NodeSet>) {
        for number in 0..ADDRESSES {
            self.exposure.start_draining(&draining(number, set));
        }
    }

    /// The cluster is deleted, and its stream ends where it is.
    fn end_stream(&mut self) {
        let (stream, position) = (1, self.position);
        let ended = BTreeMap::from([(name("east"), StreamPlace { stream, position })]);
        let published = Published {
            deltas: &BTreeMap::new(),
            ended: &ended,
            place: &|_| None,
        };
        self.exposure.published(published, self.now);
    }
}

fn draining(number: u32, set: &Arc<NodeSet>) -> Unavailable {
    let AssignmentKey { space, address } = key(number);
    Unavailable {
        key: UnavailableKey {
            space,
            address,
            reason: UnavailableReason::Draining,
        },
        for_owner: Some(crate::state::testing::owner("east/x/a")),
        since: crate::state::model::Timestamp(0),
        period: Duration::ZERO,
        deadline: Moment::default(),
        awaited: Some((name("east"), Arc::clone(set))),
        unacknowledged: false,
        revision: 0,
    }
}

/// More ends than one batch takes on: by the next one nothing waits for the stream any more, and it is
/// forgotten.
#[test]
fn who_announces_by_bgp_may_be_announcing_until_it_acknowledges() {
    use crate::state::announce::{NodeRoutes, Routes};

    let (both, routed) = (nodes(0..2), nodes(1..4));
    let with = |interfaces: bool, announcers: Option<&Arc<NodeSet>>| {
        let l2 = all_to(&both).upserts.swap_remove(0);
        let entry = announcers.map(|nodes| NodeRoutes {
            nodes: Arc::clone(nodes),
            routes: Vec::new(),
        });
        ClusterDelta {
            upserts: vec![Arc::new(Assignment {
                candidates: if interfaces { both.id } else { 0 },
                interfaces: l2.interfaces.clone().filter(|_| interfaces),
                bgp: Some(Arc::new(Routes {
                    by_nodes: entry.into_iter().collect(),
                    ..Routes::default()
                })),
                ..Assignment::clone(&l2)
            })],
            ..ClusterDelta::default()
        }
    };
    let mut world = World::announced_by(&both);
    let exposed = |world: &World| {
        let limit = Duration::from_secs(300);
        let exposed = world
            .exposure
            .exposed(&name("east"), &key(0), world.now, limit);
        world.exposure.names(&name("east"), &exposed)
    };
    let named = |numbers: std::ops::Range<u32>| numbers.map(node).collect::<BTreeSet<Name>>();
    world.publish(with(true, Some(&routed)));
    assert_eq!(exposed(&world), named(0..4));
    world.publish(with(false, Some(&routed)));
    assert_eq!(
        exposed(&world),
        named(0..4),
        "0 has not said that it stopped"
    );
    world.acknowledge(0..1);
    assert_eq!(exposed(&world), named(1..4));
    let gone = ClusterDelta {
        removals: vec![key(0)],
        ..ClusterDelta::default()
    };
    world.publish(gone);
    assert_eq!(exposed(&world), named(1..4));
    world.acknowledge(1..3);
    assert_eq!(exposed(&world), named(3..4));
}

#[test]
fn what_everybody_acknowledged_is_still_acknowledged_when_its_end_is_taken_back() {
    let set = nodes(0..2);
    let mut world = World::announced_by(&set);
    let row = Unavailable {
        for_owner: None,
        ..draining(0, &set)
    };
    world.exposure.start_draining(&row);
    world.end_stream();
    assert_eq!(world.exposure.drained(), None);
    world.acknowledge(0..2);
    assert_eq!(world.exposure.drained(), Some(&row.key));
    world.end_stream();
    for _ in 0..2 {
        world.exposure.stop_draining(&row);
        assert_eq!(world.exposure.drained(), None);
        world.exposure.start_draining(&row);
        assert_eq!(world.exposure.drained(), Some(&row.key));
    }
}

#[test]
fn a_difference_of_two_sets_is_made_up_once_for_all_addresses() {
    let (all, fewer) = (nodes(0..NODES), nodes(1..NODES));
    let mut former = Former::default();
    let mut differences = Differences::default();
    for number in 0..ADDRESSES {
        let change = (&all, Some(&*fewer));
        let at = Departure {
            position: 1,
            since: Moment::default(),
            freely: true,
        };
        former.leave(&key(number), change, at, &mut differences);
    }
    assert_eq!((former.len(), differences.len()), (ADDRESSES as usize, 1));
}

#[test]
fn sets_that_only_gained_leave_nothing_to_remember() {
    let mut world = World::announced_by(&nodes(1..NODES));
    world.publish(all_to(&nodes(0..NODES)));
    assert_eq!(world.former().len(), 0);
}

#[test]
fn who_has_acknowledged_is_forgotten_at_once_and_who_stays_away_after_an_hour() {
    let mut world = World::announced_by(&nodes(0..NODES));
    world.publish(all_to(&nodes(2..NODES)));
    assert_eq!(world.former().len(), ADDRESSES as usize);
    world.acknowledge(0..1);
    assert_eq!(world.former().len(), ADDRESSES as usize);
    world.acknowledge(1..2);
    assert_eq!(world.former().len(), 0);

    world.publish(all_to(&nodes(3..NODES)));
    world
        .exposure
        .forget_before(Moment(Duration::from_secs(3599)));
    assert_eq!(world.former().len(), ADDRESSES as usize);
    world
        .exposure
        .forget_before(Moment(Duration::from_secs(3660)));
    assert_eq!(world.former().len(), 0);
}

#[test]
fn an_address_whose_candidates_change_for_ever_remembers_a_few_sets() {
    let mut world = World::announced_by(&nodes(0..NODES));
    for round in 1..50 {
        world.publish(all_to(&nodes(round..NODES)));
    }
    assert!(world.former().len() <= 8 * ADDRESSES as usize);
    let exposed =
        world
            .exposure
            .exposed(&name("east"), &key(7), world.now, Duration::from_secs(300));
    let names = world.exposure.names(&name("east"), &exposed);
    assert_eq!(names.len(), NODES as usize, "nobody is left out");
}

#[test]
fn acknowledgements_of_a_thousand_nodes_look_at_each_node_a_few_times_for_all_addresses() {
    let all = nodes(0..NODES);
    let mut world = World::announced_by(&all);
    world.drain_all(&all);
    world.publish(ClusterDelta {
        removals: (0..ADDRESSES).map(key).collect(),
        ..ClusterDelta::default()
    });
    world.acknowledge(0..NODES - 1);
    let cluster = &world.exposure.clusters[&name("east")];
    let looked_at = cluster.draining.rows.looked_at() + cluster.former.looked_at();
    assert!(
        looked_at <= 6 * NODES as usize,
        "{looked_at} nodes looked at"
    );
    assert_eq!(world.exposure.drained(), None);
    world.acknowledge(NODES - 1..NODES);
    assert_eq!(world.exposure.drained.len(), ADDRESSES as usize);
    assert_eq!(world.former().len(), 0);
}
