//! Groups that come, go and get other numbers, while the streams of the nodes are apart.

use super::*;

#[test]
fn a_group_that_is_gone_is_answered_by_nobody() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    for index in 0..NAMES.len() {
        world.act(index, |node, now| node.ownership.remove_group(GROUP, now));
    }
    world.run(50);
    let from = world.asked + 1;
    world.run(4500);
    let all = world.asked.saturating_sub(2) - from;
    assert_eq!(world.answered(from, 0).len(), all as usize);
    assert!(
        world
            .nodes
            .iter()
            .all(|node| node.ownership.next_deadline().is_none())
    );
}

#[test]
fn a_group_that_is_gone_for_its_owner_is_not_taken_by_a_node_that_learns_of_it_later() {
    with_seeds(|world, what| {
        // The first of the list, but another one owns it.
        for index in [1, 2, 0] {
            world.act(index, |node, now| {
                node.ownership.set_group(candidacy(&[1, 0, 2]), now)
            });
        }
        world.run(2500);
        assert_eq!(world.owners(), [1], "{what}");
        for index in 0..NAMES.len() {
            world.act(index, |node, _| node.own.hold_down = index != 1);
        }
        world.run(500);
        for index in 0..NAMES.len() {
            world.act(index, |node, now| {
                node.ownership.set_group(candidacy(&[0, 1, 2]), now)
            });
        }
        world.run(100);
        assert_eq!(world.owners(), [1], "{what}");
        world.act(1, |node, now| node.ownership.remove_group(GROUP, now));
        world.run(1500);
        assert_eq!(
            world.owners(),
            [0_usize; 0],
            "{what}: their streams are behind"
        );
        for index in [0, 2] {
            world.act(index, |node, now| node.ownership.remove_group(GROUP, now));
        }
        world.run(4500);
        for node in &world.nodes {
            assert_eq!(node.ownership.next_deadline(), None, "{what}");
            assert_eq!(node.ownership.roster().peak(GROUP), Claim(0), "{what}");
        }
    });
}

#[test]
fn a_group_that_succeeds_another_has_its_owner_until_that_one_hands_it_over() {
    let successor = Candidacy {
        id: GroupId(9),
        ..candidacy(&[1, 0, 2])
    };
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let mut of = |index: usize| {
        let ownership = &mut world.nodes[index].ownership;
        ownership.succeed(GROUP, successor.clone(), now);
        ownership.set_group(successor.clone(), now);
        ownership.remove_group(GROUP, now);
        let effects = ownership.take_effects().into_iter();
        let of_successor = effects.filter(|effect| effect.group == successor.id);
        of_successor.map(|effect| effect.action).collect::<Vec<_>>()
    };
    let claim = Claim(2);
    let takes_and_hands_over = [
        Action::Duty(Duty::Answer(Report::default())),
        Action::Claim(claim, Gained::Inherited),
        Action::Duty(Duty::Record),
        Action::Send(name(1), Message::Prepare(claim)),
    ];
    assert_eq!(of(0), takes_and_hands_over);
    assert_eq!(of(1), [], "the first of the list waits for the owner");
    assert_eq!(of(2), []);
    // The owner may have failed to take it up: then it is nobody's.
    let ownership = &mut world.nodes[1].ownership;
    ownership.tick(now + Duration::from_secs(2));
    let taken = ownership.take_effects();
    assert!(
        taken
            .iter()
            .any(|effect| effect.action == Action::Claim(Claim(3), Gained::Orphaned)),
        "{taken:?}"
    );
}

#[test]
fn claims_on_groups_that_are_gone_leave_nothing_behind() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let ownership = &mut world.nodes[1].ownership;
    let said = |group: u64, claim: u64| Statement {
        group: GroupId(group),
        holder: None,
        claim: (claim != 0).then_some(Claim(claim)),
    };
    for group in 100..110 {
        let told = [said(group, 5)];
        ownership.learn_changes(&name(0), condition(), &told, now);
        assert_eq!(
            ownership.roster().peak(GroupId(group)),
            Claim(5),
            "kept: it may come"
        );
        let prepare = Message::Prepare(Claim(5));
        ownership.hear(GroupId(group + 1000), name(0), prepare, now);
        assert_eq!(ownership.roster().peak(GroupId(group + 1000)), Claim(0));
    }
    ownership.learn_changes(&name(0), condition(), &[said(100, 0)], now);
    assert_eq!(ownership.roster().peak(GroupId(100)), Claim(0));
    ownership.learn_whole(&name(0), condition(), &[said(101, 5)], now);
    assert_eq!(ownership.roster().peak(GroupId(101)), Claim(5));
    assert_eq!(ownership.roster().peak(GroupId(102)), Claim(0));
}

/// What a node does about a group; nothing is lost on the way here.
pub(super) fn actions_of(ownership: &mut Ownership, group: GroupId) -> Vec<Action> {
    let effects = ownership.take_effects().into_iter();
    let of_group = effects.filter(|effect| effect.group == group);
    of_group.map(|effect| effect.action).collect()
}

fn successor(order: &[usize]) -> Candidacy {
    Candidacy {
        id: GroupId(9),
        ..candidacy(order)
    }
}

pub(super) fn said(group: GroupId, holder: Option<usize>, claim: Option<u64>) -> Statement {
    Statement {
        group,
        holder: holder.map(name),
        claim: claim.map(Claim),
    }
}

#[test]
fn a_renumbered_group_is_owned_by_whoever_gets_the_former_one_while_the_streams_are_apart() {
    let new = successor(&[2, 0, 1]);
    let next = Candidacy {
        id: GroupId(10),
        ..new.clone()
    };
    let handed_over = vec![
        (0, said(GROUP, Some(1), Some(2))),
        (1, said(GROUP, None, Some(2))),
        (0, said(GROUP, None, None)),
    ];
    let gone_there = vec![
        (0, said(GROUP, Some(0), Some(1))),
        (0, said(next.id, Some(1), Some(3))),
        (1, said(next.id, None, Some(3))),
    ];
    // What the last node learns from its stream, in order, what the others say then, and whether
    // somebody owns what the last node has in the end.
    let renumbered = vec![(GROUP, new.clone())];
    let twice = vec![(GROUP, new.clone()), (new.id, next)];
    let table = [
        ("nothing is said", renumbered.clone(), vec![], false),
        ("the former", renumbered.clone(), handed_over.clone(), true),
        ("the one before that", twice, handed_over, true),
        ("a later one", renumbered, gone_there.clone(), true),
        ("nothing is learnt", vec![], gone_there, true),
    ];
    for (what, learnt, told, is_owned) in table {
        let mut world = World::new(1, 0.0);
        world.run(400);
        let now = world.now;
        let last = &mut world.nodes[2].ownership;
        for (former, candidacy) in learnt {
            last.succeed(former, candidacy.clone(), now);
            last.set_group(candidacy, now);
            last.remove_group(former, now);
        }
        for (node, statement) in told {
            last.learn_changes(&name(node), condition(), &[statement], now);
        }
        // Who handed it over stops.
        last.set_standing(&name(0), Standing::Dead, now);
        let takes = |ownership: &mut Ownership| {
            let effects = ownership.take_effects();
            effects
                .iter()
                .any(|effect| matches!(effect.action, Action::Claim(..)))
        };
        let mut takes_it = takes(last);
        last.tick(now + Duration::from_millis(1500));
        takes_it |= takes(last);
        assert_eq!(takes_it, !is_owned, "{what}");
        last.tick(now + Duration::from_millis(2000));
        last.tick(now + Duration::from_millis(3600));
        assert_eq!(takes(last), is_owned, "{what}: the streams would have told");
    }
}

#[test]
fn who_handed_over_leaves_only_when_the_others_have_heard_of_that() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let owner = &mut world.nodes[0].ownership;
    let draining = Condition {
        draining: true,
        ..condition()
    };
    owner.set_own(draining, now);
    owner.hear(GROUP, name(1), Message::Ack(Claim(1)), now);
    let taken = [said(GROUP, None, Some(2))];
    owner.learn_changes(&name(1), condition(), &taken, now);
    let actions = actions_of(owner, GROUP);
    let handed_over = Action::Unclaim(Lost::HandedOver(name(1)));
    assert_eq!(actions.last(), Some(&handed_over));
    assert!(!owner.is_settled(now));
    let heard = now + LINGER;
    assert_eq!(owner.next_deadline(), Some(heard));
    owner.tick(heard);
    assert!(owner.is_settled(heard));
}

#[test]
fn an_owner_that_may_not_own_the_successor_answers_until_another_node_has_it() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    // It is about to stop, too.
    world.nodes[0].ownership.roster.own.draining = true;
    let now = world.now;
    let new = successor(&[1, 2]);
    let owner = &mut world.nodes[0].ownership;
    owner.succeed(GROUP, new.clone(), now);
    owner.set_group(new.clone(), now);
    owner.remove_group(GROUP, now);
    let hands_over = [
        Action::Duty(Duty::Answer(Report::default())),
        Action::Claim(Claim(2), Gained::Inherited),
        Action::Duty(Duty::Record),
        Action::Send(name(1), Message::Prepare(Claim(2))),
    ];
    assert_eq!(actions_of(owner, new.id), hands_over);
    let heir = &mut world.nodes[1].ownership;
    heir.succeed(GROUP, new.clone(), now);
    heir.set_group(new.clone(), now);
    assert_eq!(actions_of(heir, new.id), [], "it waits to be asked");
}

#[test]
fn what_is_handed_over_when_its_number_changes_is_owned_under_the_new_one() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let heir = &mut world.nodes[1].ownership;
    heir.hear(GROUP, name(0), Message::Prepare(Claim(1)), now);
    let new = successor(&[1, 0, 2]);
    heir.take_effects();
    heir.succeed(GROUP, new.clone(), now);
    heir.set_group(new.clone(), now);
    heir.remove_group(GROUP, now);
    assert_eq!(actions_of(heir, new.id), [Action::Duty(Duty::Hold)]);
    // The ack was lost, and then the go comes under the number that the old owner knows.
    heir.hear(GROUP, name(0), Message::Prepare(Claim(1)), now);
    let ack = Action::Send(name(0), Message::Ack(Claim(1)));
    assert_eq!(actions_of(heir, GROUP), [ack]);
    let go = Message::Go(Claim(2), Report::default());
    heir.hear(GROUP, name(0), go.clone(), now);
    let owns = [
        Action::Duty(Duty::Answer(Report::default())),
        Action::Claim(Claim(2), Gained::HandedOver(name(0))),
    ];
    assert_eq!(actions_of(heir, new.id), owns);
    heir.hear(GROUP, name(0), go.clone(), now);
    assert_eq!(actions_of(heir, new.id), [Action::Inform(name(0))]);
    heir.tick(now + Duration::from_secs(1));
    heir.take_effects();
    heir.hear(GROUP, name(0), go, now + Duration::from_secs(1));
    assert_eq!(heir.take_effects(), [], "a second later nobody means that");
}

#[test]
fn a_newcomer_takes_nothing_at_first_while_others_own_what_it_does_not_know() {
    let world = World::new(1, 0.0);
    let now = world.now;
    let newcomer = |owns: GroupId| {
        let not_ready = Condition {
            ready: false,
            ..condition()
        };
        let mut ownership = Ownership::new(name(0), not_ready);
        ownership.set_reached(now);
        ownership.set_group(candidacy(&[0, 1, 2]), now);
        ownership.set_group(successor(&[1, 0, 2]), now);
        ownership.set_standing(&name(1), Standing::Silent, now);
        ownership.set_own(condition(), now);
        let owned = Statement {
            group: owns,
            holder: None,
            claim: Some(Claim(5)),
        };
        ownership.learn_whole(&name(1), condition(), &[owned], now);
        ownership
    };
    let takes = |ownership: &mut Ownership| {
        let actions = actions_of(ownership, GROUP);
        actions.contains(&Action::Claim(Claim(1), Gained::Unowned))
    };
    assert!(takes(&mut newcomer(GroupId(9))), "it knows that one");
    let mut wondering = newcomer(GroupId(1000));
    assert!(!takes(&mut wondering));
    assert_eq!(wondering.next_deadline(), Some(now + NEWCOMER));
    wondering.tick(now + NEWCOMER);
    assert!(takes(&mut wondering), "its stream would have told");
    // While that one is handed over.
    let mut wondering = newcomer(GroupId(1000));
    let passed = |holder: Option<NodeName>, claim| Statement {
        group: GroupId(1000),
        holder,
        claim,
    };
    for said in [passed(Some(name(2)), Some(Claim(6))), passed(None, None)] {
        wondering.set_standing(&name(2), Standing::Known(Some(condition())), now);
        wondering.learn_changes(&name(1), condition(), &[said], now);
        assert!(!takes(&mut wondering));
    }
    let mut relieved = newcomer(GroupId(1000));
    assert!(!takes(&mut relieved));
    relieved.set_standing(&name(1), Standing::Dead, now);
    assert!(takes(&mut relieved), "who owns that one is dead");
}
