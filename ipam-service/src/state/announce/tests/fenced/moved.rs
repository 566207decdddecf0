//! A fenced address that another cluster had.

use super::*;

/// The time for which a freed address waits for its nodes can pass while one of them still renews its lease.
#[test]
fn an_address_that_came_from_another_cluster_has_no_owner_before_the_one_there_has_stopped() {
    let moved = || {
        let (mut world, [first, ..]) = World::fenced();
        world.leases(&first, &[1], Readiness::Ready);
        assert_eq!(world.told(), told(&first, 1, 1, ""));
        world.cluster("west");
        world.advertise(fenced(advertisement(Some("west"), "all")));
        world.announcer("west", "w");
        let (let_go, taken) = (
            world.hold_edit("east", "web", None),
            world.hold_edit("west", "web", Some(held(&[ADDRESS]))),
        );
        world.batch(vec![let_go, taken]);
        let w = NodeKey {
            cluster: name("west"),
            node: name("w"),
        };
        let leases = NodeLeases {
            terms: vec![Term(9)],
            standing: Some(standing(Readiness::Ready)),
        };
        world.state.leases_mut().set(w, leases);
        world.publish(&[]);
        (world, first)
    };
    let owner = |world: &World| {
        let west = world.announcements.cluster("west").expect("known");
        let fenced = west.assignments[&key()].fenced.clone().expect("fenced");
        fenced
            .owner
            .map(|owner| (owner.node.to_string(), owner.term.0))
    };
    let named = Some(("w".to_owned(), 9));
    // Its lease ends.
    let (mut world, first) = moved();
    assert_eq!(owner(&world), None);
    world.leases(&first, &[1], Readiness::Ready);
    assert_eq!(owner(&world), None);
    world.leases(&first, &[], Readiness::Ready);
    assert_eq!(owner(&world), named);
    // It says that it stopped, and keeps its lease.
    let (mut world, _) = moved();
    world.says_released(1, 1);
    assert_eq!(owner(&world), named);
}
