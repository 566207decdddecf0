//! A group whose addresses were fenced, while the streams of the nodes are apart.

use super::*;

/// Every stream may be the first, and each comes a while after the other.
#[test]
fn whoever_owned_what_was_fenced_hands_it_over_though_others_learn_of_it_first() {
    let orders = [[0, 2, 1], [1, 2, 0], [2, 1, 0]];
    for (seed, order) in (0..30).zip(orders.into_iter().cycle()) {
        let loss = if seed < 15 { 0.0 } else { 0.2 };
        let what = format!("seed {seed}, loss {loss}, {order:?}");
        let mut world = World::new(seed, loss);
        world.run(400);
        for index in 0..NAMES.len() {
            world.act(index, |node, now| node.ownership.remove_group(GROUP, now));
        }
        world.run(4500);
        // Not the first of the list, and it answers under its lease.
        world.set_duty(1, Duty::Answer(Report::default()));
        let from = world.asked + 1;
        for index in order {
            world.run(300);
            world.act(index, |node, now| {
                let candidacy = candidacy(&[0, 1, 2]);
                node.ownership.unfence(&name(1), candidacy.clone(), now);
                node.ownership.set_group(candidacy, now);
            });
        }
        world.run(1500);
        assert_eq!(world.owners(), [0], "{what}");
        world.assert_each_answered_once(from, &what);
    }
}

#[test]
fn an_owner_of_what_was_fenced_that_says_nothing_is_waited_for_for_two_seconds() {
    let mut world = World::new(1, 0.0);
    for index in 0..NAMES.len() {
        world.act(index, |node, now| node.ownership.remove_group(GROUP, now));
    }
    world.run(4500);
    world.act(0, |node, now| {
        let candidacy = candidacy(&[0, 1, 2]);
        node.ownership.unfence(&name(1), candidacy.clone(), now);
        node.ownership.set_group(candidacy, now);
    });
    world.run(1900);
    assert_eq!(world.owners(), [0_usize; 0]);
    world.run(200);
    assert_eq!(world.owners(), [0]);
    // Of a node that is lost nobody believes that it owns anything.
    world.act(0, |node, now| node.ownership.remove_group(GROUP, now));
    world.run(4500);
    world.kill(1);
    world.find_dead(1);
    world.act(0, |node, now| {
        let candidacy = candidacy(&[0, 1, 2]);
        node.ownership.unfence(&name(1), candidacy.clone(), now);
        node.ownership.set_group(candidacy, now);
    });
    assert_eq!(world.owners(), [0]);
}
