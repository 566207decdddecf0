//! Groups that end, and are back a moment later: with the same number, because it is that of their
//! oldest allocation. The last endpoint of a local Service went, and the next one is ready elsewhere.

use super::streams::{actions_of, said};
use super::*;

/// For so long nobody may answer for a group that is back elsewhere.
const GAP: u64 = 250;

fn end(world: &mut World) {
    for index in 0..NAMES.len() {
        world.act(index, |node, now| node.ownership.remove_group(GROUP, now));
    }
    world.run(100);
}

fn begin(world: &mut World, order: &[usize]) {
    for index in 0..NAMES.len() {
        world.act(index, |node, now| {
            node.ownership.set_group(candidacy(order), now)
        });
    }
}

#[test]
fn a_group_that_is_back_elsewhere_is_taken_although_its_owner_said_that_it_is_gone() {
    with_seeds(|world, what| {
        end(world);
        begin(world, &[1]);
        world.run(GAP);
        assert_eq!(world.owners(), [1], "{what}");
        let from = world.asked + 1;
        world.run(1500);
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn who_owns_again_what_was_gone_may_hand_it_over_at_once() {
    with_seeds(|world, what| {
        // So that the claim by which it is owned again could be a lower one.
        for order in [[1, 0, 2], [0, 1, 2]] {
            begin(world, &order);
            world.run(1000);
        }
        assert_eq!(world.owners(), [0], "{what}");
        end(world);
        begin(world, &[0, 1, 2]);
        world.run(GAP);
        assert_eq!(world.owners(), [0], "{what}");
        let from = world.asked + 1;
        world.act(0, |node, _| node.own.draining = true);
        world.run(1000);
        let owners = world.owners();
        assert!(owners.len() == 1 && owners != [0], "{what}: {owners:?}");
        world.assert_each_answered_once(from, what);
    });
}

#[test]
fn what_was_given_up_with_its_group_is_no_dead_owners() {
    for what_is_unknown in [None, Some(GroupId(1000))] {
        let mut world = World::new(1, 0.0);
        world.run(400);
        let now = world.now;
        let next = &mut world.nodes[1].ownership;
        if let Some(unknown) = what_is_unknown {
            next.learn_changes(&name(2), condition(), &[said(unknown, None, Some(5))], now);
        }
        let gone = said(GROUP, Some(0), Some(1));
        next.learn_changes(&name(0), condition(), &[gone], now);
        next.set_group(candidacy(&[1, 2]), now);
        assert_eq!(
            actions_of(next, GROUP),
            [],
            "others may not know that it is gone"
        );
        // It is back there, too.
        next.learn_changes(&name(0), condition(), &[said(GROUP, None, None)], now);
        let takes = [
            Action::Duty(Duty::Answer(Report::default())),
            Action::Claim(Claim(2), Gained::Unowned),
        ];
        assert_eq!(actions_of(next, GROUP), takes, "{what_is_unknown:?}");
    }
}

#[test]
fn who_owns_again_what_was_gone_has_a_higher_claim_than_before() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let owner = &mut world.nodes[0].ownership;
    owner.remove_group(GROUP, now);
    owner.take_effects();
    owner.set_group(candidacy(&[0, 1, 2]), now);
    let takes_it_again = [
        Action::Returned,
        Action::Duty(Duty::Answer(Report::default())),
        Action::Claim(Claim(2), Gained::Unowned),
    ];
    assert_eq!(actions_of(owner, GROUP), takes_it_again);
    // An earlier build begins anew: what it said before is over.
    let heir = &mut world.nodes[1].ownership;
    for (holder, claim) in [(Some(0), 7), (None, 1)] {
        let told = [said(GROUP, holder, Some(claim))];
        heir.learn_changes(&name(0), condition(), &told, now);
    }
    heir.hear(GROUP, name(0), Message::Prepare(Claim(1)), now);
    heir.take_effects();
    heir.hear(
        GROUP,
        name(0),
        Message::Go(Claim(2), Report::default()),
        now,
    );
    let owns = Action::Claim(Claim(2), Gained::HandedOver(name(0)));
    assert_eq!(actions_of(heir, GROUP).last(), Some(&owns));
}
