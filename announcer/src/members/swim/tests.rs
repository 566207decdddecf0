use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use rand::RngExt as _;

use super::*;

fn peer(number: u16) -> Peer {
    Peer {
        node: NodeName::from(format!("n{number}")),
        endpoint: SocketAddr::from(([192, 0, 2, 1], number)),
        epoch: 100,
    }
}

/// Nodes on a network in which some cannot speak, in virtual time.
struct World {
    now: Instant,
    nodes: Vec<Swim>,
    mute: BTreeSet<usize>,
    seen: Vec<(usize, Event)>,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn new(size: u16) -> Self {
        let now = Instant::now();
        let nodes = (1..=size)
            .map(|number| Swim::new(peer(number), number.into(), now))
            .collect();
        let mut world = Self {
            now,
            nodes,
            mute: BTreeSet::new(),
            seen: Vec::new(),
        };
        for number in 2..=size {
            let events = world.nodes[0].introduce(peer(number), world.now);
            world.carry(0, events);
        }
        world
    }

    fn carry(&mut self, from: usize, events: Vec<Event>) {
        let mut queue: VecDeque<(usize, Event)> =
            events.into_iter().map(|event| (from, event)).collect();
        while let Some((at, event)) = queue.pop_front() {
            let Event::Send(to, bytes) = event else {
                self.seen.push((at, event));
                continue;
            };
            let target = usize::from(to.endpoint.port()) - 1;
            if self.mute.contains(&at) || self.mute.contains(&target) {
                continue;
            }
            let answers = self.nodes[target].receive(&bytes, self.now);
            queue.extend(answers.into_iter().map(|answer| (target, answer)));
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end {
            self.now += Duration::from_millis(1);
            for index in 0..self.nodes.len() {
                let events = self.nodes[index].tick(self.now);
                self.carry(index, events);
            }
        }
    }

    fn alive(&self, index: usize) -> usize {
        self.nodes[index].foca.num_members()
    }
}

#[test]
fn nodes_that_were_introduced_to_one_of_them_all_learn_of_each_other() {
    let mut world = World::new(5);
    world.run(1500);
    for index in 0..5 {
        assert_eq!(world.alive(index), 4, "node {index}");
    }
}

#[test]
fn a_silent_node_is_dead_for_everybody_within_550_ms() {
    for seed in 0..10 {
        let mut world = World::new(3);
        world.run(1000 + seed * 17);
        world.mute.insert(2);
        world.run(550);
        assert_eq!(
            (world.alive(0), world.alive(1)),
            (1, 1),
            "after {} ms",
            1000 + seed * 17
        );
    }
}

#[test]
fn a_node_declared_dead_is_dead_for_everybody_at_once() {
    let mut world = World::new(3);
    world.run(1000);
    world.mute.insert(2);
    let events = world.nodes[0].declare_dead("n3", world.now);
    world.carry(0, events);
    assert_eq!((world.alive(0), world.alive(1)), (1, 1));
    assert_eq!(world.nodes[1].dead_epoch("n3"), 100);
}

#[test]
fn a_node_that_was_wrongly_declared_dead_comes_back_under_a_new_epoch() {
    let mut world = World::new(3);
    world.run(1000);
    let events = world.nodes[0].declare_dead("n3", world.now);
    world.carry(0, events);
    world.run(1000);
    assert!(world.nodes[2].me().epoch > 100);
    assert_eq!((world.alive(0), world.alive(1), world.alive(2)), (2, 2, 2));
}

#[test]
fn a_new_run_of_a_node_replaces_the_old_one() {
    let mut world = World::new(3);
    world.run(1000);
    let again = Peer {
        epoch: 200,
        ..peer(3)
    };
    world.nodes[2] = Swim::new(again.clone(), 9, world.now);
    world.seen.clear();
    let events = world.nodes[2].introduce(peer(1), world.now);
    world.carry(2, events);
    world.run(1000);
    assert_eq!(world.nodes[0].active("n3"), Some(again.clone()));
    assert!(
        world.seen.contains(&(0, Event::Up(again))),
        "{:?}",
        world.seen
    );
}

#[test]
fn a_node_whose_clock_went_back_goes_on_beyond_what_others_know() {
    let mut world = World::new(2);
    let events = world.nodes[0].outlive(5000, world.now);
    assert!(events.contains(&Event::Renewed(5001)), "{events:?}");
    assert_eq!(world.nodes[0].outlive(5000, world.now), []);
    assert_eq!(world.nodes[0].outlive(u64::MAX, world.now), []);
}

#[test]
fn a_renewed_epoch_is_beyond_everything_that_began_before() {
    let mut world = World::new(3);
    world.run(5000);
    let later = Peer {
        epoch: 4000,
        ..peer(3)
    };
    // A namesake of the third node, which began four seconds later.
    world.seen.clear();
    let events = world.nodes[0].introduce(later, world.now);
    world.carry(0, events);
    world.run(400);
    let mut renewed = Vec::new();
    for (at, event) in &world.seen {
        if let (2, Event::Renewed(epoch)) = (at, event) {
            renewed.push(*epoch);
        }
    }
    assert_eq!(renewed.len(), 1, "{renewed:?}");
    assert!(renewed[0] > 5000, "{renewed:?}");
}

#[test]
fn versions_are_gossiped_to_everybody_once() {
    let mut world = World::new(4);
    world.run(1500);
    world.seen.clear();
    let events = world.nodes[1].announce_version(7, world.now);
    world.carry(1, events);
    world.run(1000);
    let news = Event::News {
        node: NodeName::from("n2"),
        epoch: 100,
        version: 7,
    };
    for index in [0, 2, 3] {
        let count = world
            .seen
            .iter()
            .filter(|seen| **seen == (index, news.clone()))
            .count();
        assert_eq!(count, 1, "node {index}");
    }
}

#[test]
fn time_in_which_this_process_did_not_run_is_held_against_nobody() {
    let mut world = World::new(2);
    world.run(1000);
    let before = world.nodes[0].next_deadline();
    world.nodes[0].postpone(Duration::from_secs(3));
    let after = world.nodes[0].next_deadline();
    assert_eq!(before.map(|at| at + Duration::from_secs(3)), after);
}

/// Everything that three nodes say to each other in a second in which one of them dies.
fn spoken() -> (Instant, Vec<Vec<u8>>) {
    let mut world = World::new(3);
    let mut spoken = Vec::new();
    for millis in 0..1000 {
        world.now += Duration::from_millis(1);
        if millis == 500 {
            world.mute.insert(2);
        }
        for index in 0..3 {
            let events = world.nodes[index].tick(world.now);
            for event in &events {
                if let Event::Send(_, bytes) = event {
                    spoken.push(bytes.clone());
                }
            }
            world.carry(index, events);
        }
    }
    (world.now, spoken)
}

#[test]
fn any_bytes_are_survived() {
    let (now, spoken) = spoken();
    assert!(spoken.len() > 20, "{} datagrams", spoken.len());
    let mut chance = StdRng::seed_from_u64(1);
    let mut swim = Swim::new(peer(1), 1, now);
    swim.introduce(peer(2), now);
    for _ in 0..20_000 {
        let mut bytes = spoken[chance.random_range(0..spoken.len())].clone();
        for _ in 0..chance.random_range(0..4) {
            let at = chance.random_range(0..bytes.len());
            bytes[at] = chance.random();
        }
        bytes.truncate(chance.random_range(0..=bytes.len()));
        swim.receive(&bytes, now);
    }
    assert_eq!(&*swim.me().node, "n1");
}

#[test]
fn a_newcomer_learns_at_once_of_members_that_it_cannot_greet() {
    let mut world = World::new(3);
    world.run(1500);
    let start = world.now;
    let newcomer = Swim::new(peer(4), 4, start);
    world.nodes.push(newcomer);
    // It and the first greet each other; of the others it knows nothing, nor they of it.
    for (node, other) in [(3, 1), (0, 4)] {
        let events = world.nodes[node].introduce(peer(other), start);
        world.carry(node, events);
    }
    assert_eq!(world.alive(3), 3);
}

#[test]
fn who_was_away_when_a_version_was_news_is_told_of_it_later() {
    let mut world = World::new(3);
    world.run(1500);
    let now = world.now;
    let events = world.nodes[0].announce_version(7, now);
    world.carry(0, events);
    world.run(3000);
    let newcomer = Swim::new(peer(4), 4, world.now);
    world.nodes.push(newcomer);
    for (node, other) in [(3, 2), (1, 4)] {
        let events = world.nodes[node].introduce(peer(other), world.now);
        world.carry(node, events);
    }
    world.run(1000);
    let news =
        |(at, event): &(usize, Event)| *at == 3 && matches!(event, Event::News { version: 7, .. });
    assert!(world.seen.iter().any(news));
}
