//! An address that was announced and becomes fenced: who could answer for it has to know first.

use std::time::Duration;

use super::*;
use crate::state::model::Moment;
use crate::state::{Acknowledged, Published, StreamPlace};

/// What is told of the address, whatever is stored: the owner with its term.
fn owner(world: &World) -> Option<(String, u64)> {
    let fenced = world.assigned().fenced.clone().expect("fenced");
    let owner = fenced.owner;
    owner.map(|owner| (owner.node.to_string(), owner.term.0))
}

/// The announcers are sent the last batch.
fn send(world: &mut World, position: u64) {
    let deltas = std::mem::take(&mut world.last);
    world.state.published(Published {
        deltas: &deltas,
        ended: &BTreeMap::new(),
        place: &|_| {
            Some(StreamPlace {
                stream: 1,
                position,
            })
        },
    });
}

/// These nodes have applied it.
fn acknowledge(world: &mut World, nodes: &[&str], position: u64) {
    world
        .state
        .acknowledged(nodes.iter().map(|node| Acknowledged {
            node: node_key(node),
            place: StreamPlace {
                stream: 1,
                position,
            },
        }));
    world.publish(&[]);
}

/// Three nodes, one of them with a lease, announce an address, which becomes fenced. The order of
/// the nodes.
fn fenced_later() -> (World, [String; 3]) {
    let mut world = World::east(&["a", "b", "c"]);
    let nodes: Vec<_> = world.state.nodes_of(&name("east")).cloned().collect();
    assert_eq!(nodes.len(), 3);
    world.hold("east", "web", held(&[ADDRESS]));
    let order: Vec<String> = world.assigned().nodes.iter().map(Name::to_string).collect();
    let everything = world.announcements.everything();
    world.last = everything;
    send(&mut world, 1);
    let order: [String; 3] = order.try_into().expect("three nodes");
    world.leases(&order[0], &[1], Readiness::Ready);
    world.advertise(fenced(advertisement(Some("east"), "all")));
    assert_eq!(owner(&world), None, "in the same batch");
    send(&mut world, 2);
    world.state.touch_leases();
    world.publish(&[]);
    assert_eq!(owner(&world), None, "before anybody has heard");
    (world, order)
}

#[test]
fn nobody_is_named_before_every_node_that_answered_freely_knows_that_it_is_fenced() {
    let (mut world, [first, second, third]) = fenced_later();
    assert!(world.state.awaits_acknowledgements());
    acknowledge(&mut world, &[&first, &second], 2);
    acknowledge(&mut world, &[&third], 1);
    assert_eq!(owner(&world), None);
    acknowledge(&mut world, &[&third], 2);
    assert_eq!(owner(&world), Some((first, 1)));
    assert!(!world.state.awaits_acknowledgements());
}

#[test]
fn a_node_that_is_away_is_waited_for_as_long_as_for_a_freed_address() {
    let (mut world, [first, second, _]) = fenced_later();
    acknowledge(&mut world, &[&first, &second], 2);
    let end = Moment(Duration::from_secs(300));
    assert_eq!(world.state.next_deadline(), Some(end));
    world.state.advance(Moment(Duration::from_secs(299)));
    world.publish(&[]);
    assert_eq!(owner(&world), None);
    world.state.advance(end);
    world.publish(&[]);
    assert_eq!(owner(&world), Some((first, 1)));
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn an_address_that_was_fenced_from_the_beginning_waits_for_nobody() {
    let (mut world, [first, ..]) = World::fenced();
    world.last = world.announcements.everything();
    send(&mut world, 1);
    world.leases(&first, &[1], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 1, ""));
    // Nor does who has it lose it when candidates go.
    send(&mut world, 2);
    let gone = world.node_edit("east", "c", |node| node.announcer = None);
    world.one(gone);
    send(&mut world, 3);
    world.state.touch_leases();
    world.publish(&[]);
    assert!(owner(&world).is_some());
}

#[test]
fn an_owner_from_before_it_was_announced_freely_waits_too() {
    let (mut world, [first, second, third]) = World::fenced();
    world.leases(&first, &[1], Readiness::Ready);
    world.last = world.announcements.everything();
    send(&mut world, 1);
    world.advertise(advertisement(Some("east"), "all"));
    send(&mut world, 2);
    world.advertise(fenced(advertisement(Some("east"), "all")));
    send(&mut world, 3);
    assert!(world.state.tenure(&tenure()).is_some(), "its term runs");
    assert_eq!(owner(&world), None);
    acknowledge(&mut world, &[&first, &second, &third], 3);
    assert_eq!(owner(&world), Some((first, 1)));
}

#[test]
fn an_address_that_went_and_came_back_fenced_waits_for_those_that_have_not_heard() {
    let (mut world, [first, second, third]) = World::fenced();
    world.advertise(advertisement(Some("east"), "all"));
    world.last = world.announcements.everything();
    send(&mut world, 1);
    world.leases(&first, &[1], Readiness::Ready);
    world.release("east", "web");
    send(&mut world, 2);
    acknowledge(&mut world, &[&first, &third], 2);
    world.advertise(fenced(advertisement(Some("east"), "all")));
    world.hold("east", "web", held(&[ADDRESS]));
    assert_eq!(owner(&world), None);
    send(&mut world, 3);
    acknowledge(&mut world, &[&second], 2);
    assert_eq!(owner(&world), Some((first, 1)));
}
