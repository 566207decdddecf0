use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A cluster in which the groups, the nodes and the preferences change.
#[derive(Clone)]
struct World {
    balance: Balance,
    numbers: BTreeMap<String, NodeNo>,
    present: BTreeSet<String>,
    weights: BTreeMap<String, u32>,
    /// Groups that only some nodes can serve.
    local: BTreeMap<AllocationId, BTreeSet<String>>,
    lists: BTreeMap<AllocationId, (Candidates, Vec<NodeNo>)>,
    waiting: BTreeSet<AllocationId>,
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let mut world = Self {
            balance: Balance::default(),
            numbers: BTreeMap::new(),
            present: BTreeSet::new(),
            weights: BTreeMap::new(),
            local: BTreeMap::new(),
            lists: BTreeMap::new(),
            waiting: BTreeSet::new(),
        };
        for node in nodes {
            world.gain(node);
        }
        world
    }

    fn numbered(count: usize) -> Self {
        let names: Vec<_> = (0..count).map(|node| format!("n{node}")).collect();
        Self::new(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn gain(&mut self, node: &str) {
        if !self.numbers.contains_key(node) {
            let name = Name::parse(node).expect("valid");
            self.numbers
                .insert(node.to_owned(), self.balance.add_node(&name));
        }
        self.present.insert(node.to_owned());
        self.settle();
    }

    fn lose(&mut self, node: &str) {
        self.present.remove(node);
        self.settle();
    }

    fn add(&mut self, group: AllocationId) {
        self.waiting.insert(group);
        self.settle();
    }

    fn remove(&mut self, group: AllocationId) {
        self.waiting.remove(&group);
        if let Some((_, list)) = self.lists.remove(&group) {
            self.balance.leave(&list);
        }
    }

    fn prefer(&mut self, node: &str, weight: u32) {
        self.weights.insert(node.to_owned(), weight);
        self.settle();
    }

    fn candidates(&self, group: AllocationId) -> Candidates {
        let local = self.local.get(&group);
        Candidates::new(
            self.present
                .iter()
                .filter(|node| local.is_none_or(|local| local.contains(*node)))
                .map(|node| {
                    let weight = self.weights.get(node).copied().unwrap_or(0);
                    (self.numbers[node], weight)
                }),
        )
    }

    /// Places every group again, as a change of all policies would.
    fn settle(&mut self) {
        let groups: BTreeSet<_> = self.lists.keys().chain(&self.waiting).copied().collect();
        let candidates: Vec<_> = groups
            .into_iter()
            .map(|group| (group, self.candidates(group)))
            .collect();
        let mut seats = Vec::new();
        for (group, candidates) in &candidates {
            let before = self.lists.remove(group);
            if let Some((_, list)) = &before {
                self.balance.leave(list);
            }
            if candidates.nodes().is_empty() {
                self.waiting.insert(*group);
                continue;
            }
            self.waiting.remove(group);
            let gained = before
                .as_ref()
                .is_some_and(|(before, _)| candidates.gained_over(before));
            seats.push(Seat {
                group: *group,
                candidates,
                list: before.map(|(_, list)| list).unwrap_or_default(),
                gained,
            });
        }
        place(&mut self.balance, &mut seats);
        for seat in seats {
            let entry = (seat.candidates.clone(), seat.list);
            self.lists.insert(seat.group, entry);
        }
    }

    fn names(&self, group: AllocationId) -> Vec<String> {
        let list = &self.lists[&group].1;
        let name_of = |number: &NodeNo| {
            let found = self.numbers.iter().find(|(_, other)| *other == number);
            found.expect("known").0.clone()
        };
        list.iter().map(name_of).collect()
    }

    fn lists(&self) -> BTreeMap<AllocationId, Vec<String>> {
        let groups = self.lists.keys();
        groups.map(|group| (*group, self.names(*group))).collect()
    }

    fn firsts(&self) -> BTreeMap<AllocationId, String> {
        let lists = self.lists().into_iter();
        lists
            .map(|(group, list)| (group, list[0].clone()))
            .collect()
    }

    fn places_of(&self, node: &str) -> u64 {
        self.balance.first_places(self.numbers[node])
    }

    fn check(&self) {
        let mut counted: BTreeMap<NodeNo, u64> = BTreeMap::new();
        for (candidates, list) in self.lists.values() {
            *counted.entry(list[0]).or_default() += 1;
            assert_eq!(list.len(), LIST_LEN.min(candidates.nodes().len()));
            let distinct: BTreeSet<_> = list.iter().collect();
            assert_eq!(distinct.len(), list.len(), "a node is in a list once");
            let weights: Vec<_> = list.iter().map(|node| candidates.weight(*node)).collect();
            assert!(weights.iter().all(Option::is_some), "only candidates");
            assert!(weights.is_sorted_by(|one, two| one >= two), "{weights:?}");
            let outside = candidates.nodes().iter();
            let heaviest_outside = outside
                .filter(|node| !list.contains(node))
                .map(|node| candidates.weight(*node))
                .max();
            assert!(heaviest_outside <= weights.last().copied());
        }
        for number in self.numbers.values() {
            let expected = counted.get(number).copied().unwrap_or(0);
            assert_eq!(self.balance.first_places(*number), expected);
        }
    }

    fn check_bound(&self) {
        for (candidates, list) in self.lists.values() {
            let cap = self.balance.cap(candidates.nodes());
            let places = self.balance.first_places(list[0]);
            assert!(places <= cap, "{places} first places, and the cap is {cap}");
        }
    }
}

#[test]
fn three_groups_on_seven_nodes_sit_on_three_nodes() {
    let mut world = World::numbered(7);
    for group in 1..=3 {
        world.add(group);
    }
    let firsts: BTreeSet<_> = world.firsts().into_values().collect();
    assert_eq!(firsts.len(), 3);
    world.check();
}

#[test]
fn a_list_has_three_nodes_or_as_many_as_there_are() {
    for (nodes, expected) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
        let mut world = World::numbered(nodes);
        world.add(1);
        assert_eq!(world.names(1).len(), expected);
    }
}

#[test]
fn when_the_first_is_lost_the_second_moves_up_and_the_end_is_filled() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.add(1);
    let before = world.names(1);
    world.lose(&before[0]);
    let after = world.names(1);
    assert_eq!(after[..2], before[1..]);
    assert_eq!(after.len(), 3);
    assert!(!after.contains(&before[0]));
}

#[test]
fn losing_a_later_node_of_a_list_leaves_the_first_and_fills_the_place() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.add(1);
    let before = world.names(1);
    world.lose(&before[1]);
    let after = world.names(1);
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1], before[2]);
    assert_eq!(after.len(), 3);
}

#[test]
fn a_node_that_returns_changes_nothing_while_the_balance_holds() {
    let mut world = World::new(&["a", "b", "c", "d", "e"]);
    world.add(1);
    let first = world.names(1)[0].clone();
    world.lose(&first);
    let without = world.lists();
    world.gain(&first);
    assert_eq!(world.lists(), without);
}

#[test]
fn a_node_that_returns_fills_short_lists_at_the_end() {
    let mut world = World::new(&["a", "b", "c"]);
    world.add(1);
    let first = world.names(1)[0].clone();
    world.lose(&first);
    let without = world.names(1);
    assert_eq!(without.len(), 2);
    world.gain(&first);
    assert_eq!(world.names(1), [without, vec![first]].concat());
}

#[test]
fn a_node_that_returns_takes_only_what_is_above_the_cap() {
    let mut world = World::new(&["a", "b", "c"]);
    for group in 1..=30 {
        world.add(group);
    }
    world.lose("a");
    // ceil(1.15 * 30 / 2) = 18
    assert!(world.places_of("b") <= 18 && world.places_of("c") <= 18);
    let before = world.firsts();
    world.gain("a");
    // ceil(1.15 * 30 / 3) = 12
    assert_eq!((world.places_of("b"), world.places_of("c")), (12, 12));
    assert_eq!(world.places_of("a"), 6);
    let after = world.firsts();
    let moved: Vec<_> = after
        .iter()
        .filter(|(id, node)| before[*id] != **node)
        .collect();
    assert_eq!(moved.len(), 6);
    assert!(moved.iter().all(|(_, node)| *node == "a"));
}

#[test]
fn of_the_groups_above_the_cap_the_youngest_move() {
    let mut world = World::new(&["a"]);
    for group in 1..=4 {
        world.add(group);
    }
    world.gain("b");
    // ceil(1.15 * 4 / 2) = 3
    let firsts: Vec<_> = world.firsts().into_values().collect();
    assert_eq!(firsts, ["a", "a", "a", "b"]);
    assert_eq!(world.names(4), ["b", "a"]);
}

#[test]
fn a_preferred_node_is_first_however_many_groups_it_has() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.prefer("b", 10);
    for group in 1..=9 {
        world.add(group);
    }
    assert_eq!(world.places_of("b"), 9);
}

#[test]
fn lists_follow_the_weights_and_a_preferred_node_takes_its_groups_back() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.prefer("b", 10);
    world.prefer("c", 5);
    world.add(1);
    assert_eq!(world.names(1)[..2], ["b", "c"]);
    world.lose("b");
    assert_eq!(world.names(1)[0], "c");
    world.gain("b");
    assert_eq!(world.names(1)[..2], ["b", "c"]);
}

#[test]
fn a_new_preference_moves_the_group_and_keeps_the_old_first_next() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.add(1);
    let before = world.names(1);
    let other = ["a", "b", "c", "d"]
        .into_iter()
        .find(|node| !before.contains(&(*node).to_owned()))
        .expect("four nodes, three places");
    world.prefer(other, 1);
    assert_eq!(world.names(1), [other, &before[0], &before[1]]);
}

#[test]
fn equally_preferred_nodes_share_their_groups() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.prefer("a", 10);
    world.prefer("b", 10);
    for group in 1..=10 {
        world.add(group);
    }
    assert_eq!((world.places_of("a"), world.places_of("b")), (5, 5));
}

#[test]
fn a_group_that_one_node_can_serve_stays_there_and_moves_nobody() {
    let mut world = World::new(&["a", "b", "c"]);
    for group in 1..=6 {
        world.local.insert(group, BTreeSet::from(["a".to_owned()]));
        world.add(group);
    }
    for group in 7..=10 {
        world.add(group);
    }
    assert_eq!(world.places_of("a"), 6);
    assert_eq!((world.places_of("b"), world.places_of("c")), (2, 2));
}

#[test]
fn ties_fall_by_group_and_not_always_on_the_same_node() {
    let firsts: BTreeSet<_> = (1..=20)
        .map(|group| {
            let mut world = World::new(&["a", "b", "c"]);
            world.add(group);
            world.names(group)[0].clone()
        })
        .collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn the_groups_of_a_lost_node_spread_over_the_others() {
    let mut world = World::numbered(6);
    for group in 1..=60 {
        world.add(group);
    }
    world.lose("n0");
    let gained: Vec<_> = (1..6)
        .map(|node| world.places_of(&format!("n{node}")))
        .collect();
    assert_eq!(gained.iter().sum::<u64>(), 60);
    // ceil(1.15 * 60 / 5) = 14
    assert!(gained.iter().all(|places| *places <= 14), "{gained:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Add(AllocationId, Option<Vec<usize>>),
    Remove(AllocationId),
    Lose(usize),
    Gain(usize),
    Prefer(usize, u32),
}

const NODES: usize = 7;

fn node(number: usize) -> String {
    format!("n{number}")
}

fn alike() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..60_u64).prop_map(|group| Step::Add(group, None)),
        2 => (0..NODES).prop_map(Step::Lose),
        2 => (0..NODES).prop_map(Step::Gain),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let local = proptest::option::of(proptest::collection::vec(0..NODES, 1..4));
    prop_oneof![
        6 => (1..40_u64, local).prop_map(|(group, local)| Step::Add(group, local)),
        3 => (1..40_u64).prop_map(Step::Remove),
        2 => (0..NODES).prop_map(Step::Lose),
        2 => (0..NODES).prop_map(Step::Gain),
        1 => (0..NODES, 0..3_u32).prop_map(|(node, weight)| Step::Prefer(node, weight)),
    ]
}

fn perform(world: &mut World, step: &Step) {
    match step {
        Step::Add(group, local) => {
            if world.lists.contains_key(group) || world.waiting.contains(group) {
                return;
            }
            world.local.remove(group);
            if let Some(local) = local {
                let nodes = local.iter().map(|number| node(*number)).collect();
                world.local.insert(*group, nodes);
            }
            world.add(*group);
        }
        Step::Remove(group) => world.remove(*group),
        Step::Lose(number) => world.lose(&node(*number)),
        Step::Gain(number) => world.gain(&node(*number)),
        Step::Prefer(number, weight) => world.prefer(&node(*number), *weight),
    }
}

proptest! {
    #[test]
    fn no_node_is_above_the_cap_after_groups_are_added_and_nodes_come_and_go(
        steps in proptest::collection::vec(alike(), 1..80)
    ) {
        let mut world = World::numbered(NODES);
        for step in &steps {
            perform(&mut world, step);
            world.check();
            world.check_bound();
        }
    }

    #[test]
    fn after_any_removals_a_new_node_restores_the_bound(
        steps in proptest::collection::vec(alike(), 1..60),
        removed in proptest::collection::btree_set(1..60_u64, 0..50),
    ) {
        let mut world = World::numbered(NODES);
        for step in &steps {
            perform(&mut world, step);
        }
        for group in removed {
            world.remove(group);
        }
        world.gain("new");
        world.check_bound();
    }

    #[test]
    fn only_what_is_forced_moves(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut world = World::numbered(NODES);
        for step in &steps {
            let before = world.clone();
            perform(&mut world, step);
            world.check();
            let (old, new) = (before.lists(), world.lists());
            let common = || old.iter().filter_map(|(id, list)| Some((id, list, new.get(id)?)));
            match step {
                Step::Add(..) | Step::Remove(_) => {
                    for (_, before, after) in common() {
                        prop_assert_eq!(before, after, "another group came or went");
                    }
                }
                Step::Lose(number) => {
                    for (_, before, after) in common() {
                        if !before.contains(&node(*number)) {
                            prop_assert_eq!(before, after, "the lost node was not in the list");
                        } else if before[0] != node(*number) {
                            prop_assert_eq!(&before[0], &after[0], "it was not first");
                        }
                    }
                }
                Step::Gain(number) => {
                    let gained = node(*number);
                    for (id, before_list, after) in common() {
                        if before_list[0] == after[0] {
                            continue;
                        }
                        let weight = |name: &String| {
                            world.weights.get(name).copied().unwrap_or(0)
                        };
                        let outweighed = weight(&gained) > weight(&before_list[0]);
                        let (candidates, list) = &world.lists[id];
                        prop_assert!(list.iter().all(|node| candidates.weight(*node).is_some()));
                        let heaviest = &candidates.heaviest;
                        let old_first = before.numbers[&before_list[0]];
                        let was_above = before.balance.first_places(old_first)
                            > before.balance.cap(heaviest);
                        prop_assert!(outweighed || was_above, "moved without need");
                    }
                }
                Step::Prefer(..) => {}
            }
        }
    }
}
