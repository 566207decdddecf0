//! Why a node may announce an address, or may not.

use super::*;

const A1: &str = "192.0.2.1";

fn explained(world: &World, text: &str) -> Explained {
    let key = AssignmentKey {
        space: name(SPACE),
        address: address(text),
    };
    let question = Question::collect(&world.state, &name("east"), key);
    question.expect("held").answer()
}

pub(super) fn verdict(world: &World, node: &str) -> Verdict {
    let explained = explained(world, A1);
    let mut nodes = explained.nodes.into_iter();
    let own = nodes.find(|one| one.node.as_str() == node);
    own.expect("every node is named").verdict
}

#[test]
fn every_node_has_a_reason() {
    let mut world = World::east(&["a", "b", "c", "d"]);
    world.report("east", "silent", &[], "");
    world.report("east", "b", &[], "NetworkUnavailable");
    let removed = world.node_edit("east", "c", |node| node.removed = true);
    world.one(removed);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "a"), selector("host", "e")],
        ..advertisement(Some("east"), "all")
    });
    world.announcer("east", "e");
    world.hold("east", "web", held(&[A1]).reported());
    world.serve("east", "web", &["a", "d"]);
    assert_eq!(verdict(&world, "a"), Verdict::Candidate);
    let unavailable = Verdict::Unavailable("NetworkUnavailable".to_owned());
    assert_eq!(verdict(&world, "b"), unavailable);
    assert_eq!(verdict(&world, "c"), Verdict::Removed);
    let by = vec![advertisement(Some("east"), "all").key];
    let owner = owner_key("east", "web");
    let not_selected = Verdict::NotSelected {
        owner: owner.clone(),
        by,
    };
    assert_eq!(verdict(&world, "d"), not_selected);
    assert_eq!(verdict(&world, "e"), Verdict::NoEndpoint(owner.clone()));
    assert_eq!(verdict(&world, "silent"), Verdict::NoAnnouncer);
    // Where nobody announces, each has a reason too.
    world.serve("east", "web", &[]);
    assert_eq!(explained(&world, A1).assignment, None);
    assert_eq!(verdict(&world, "a"), Verdict::NoEndpoint(owner.clone()));
    world.drop_advertisement(Some("east"), "all");
    assert_eq!(verdict(&world, "a"), Verdict::NotAdvertised(owner));
}

#[test]
fn a_sharer_that_vetoes_is_named_and_one_that_is_left_out_is_told_of() {
    let mut world = World::east(&["a", "b", "c"]);
    for owner in ["web", "db"] {
        world.hold("east", owner, held(&[A1]).reported());
    }
    world.serve("east", "web", &["a", "b"]);
    world.serve("east", "db", &["b", "c"]);
    assert_eq!(world.candidates("east", A1), ["b"]);
    let left_out = |world: &World| {
        let assignment = world.assignment("east", A1).expect("announced");
        assignment.left_out.clone()
    };
    assert_eq!(left_out(&world), []);
    let of_db = Verdict::NoEndpoint(owner_key("east", "db"));
    assert_eq!(verdict(&world, "a"), of_db);
    // No node is left for both: those of the older one announce.
    world.serve("east", "db", &["c"]);
    assert_eq!(world.candidates("east", A1), ["a", "b"]);
    assert_eq!(left_out(&world), [owner_key("east", "db")]);
    let of_web = Verdict::NoEndpoint(owner_key("east", "web"));
    assert_eq!(verdict(&world, "c"), of_web);
}

#[test]
fn only_who_holds_it_can_ask() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    let key = AssignmentKey {
        space: name(SPACE),
        address: address(A1),
    };
    let question = Question::collect(&world.state, &name("west"), key);
    assert!(question.is_none());
}

/// Each address is looked at once, and each owner's nodes are found once.
#[test]
fn a_thousand_sharers_on_a_hundred_nodes_are_explained() {
    const SHARERS: usize = 1000;
    const NODES: usize = 100;
    let nodes: Vec<String> = (0..NODES).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let mut world = World::east(&names);
    let owners: Vec<String> = (0..SHARERS).map(|number| format!("s{number}")).collect();
    let (youngest, older) = owners.split_last().expect("many");
    let mut changes = Vec::new();
    let mut take = |world: &mut World, change: Change| {
        world.state.apply(&change);
        changes.push(change);
    };
    for owner in &owners {
        let held = world.hold_edit("east", owner, Some(held(&[A1]).reported()));
        take(&mut world, held);
    }
    for owner in older {
        let anywhere = world.backends_edit("east", owner, Some(EntryNodes::Any));
        take(&mut world, anywhere);
    }
    let only = EntryNodes::Only(BTreeSet::from([name("n0")]));
    let only = world.backends_edit("east", youngest, Some(only));
    take(&mut world, only);
    world.publish(&changes);

    let explained = explained(&world, A1);
    assert_eq!(explained.nodes.len(), NODES);
    let vetoes = Verdict::NoEndpoint(owner_key("east", youngest));
    for node in &explained.nodes {
        let expected = match node.node.as_str() {
            "n0" => &Verdict::Candidate,
            _ => &vetoes,
        };
        assert_eq!(node.verdict, *expected, "{}", node.node);
    }
}
