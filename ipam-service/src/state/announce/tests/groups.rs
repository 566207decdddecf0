use super::*;

const A1: &str = "192.0.2.1";
const A2: &str = "192.0.2.2";
const V6: &str = "2001:db8::1";

#[test]
fn sharers_and_both_families_are_one_group_named_by_the_oldest() {
    let mut world = World::east(&["a", "b", "c"]);
    world.hold("east", "web", held(&[A1, V6]));
    world.hold("east", "dns", held(&[A1]));
    let oldest = world.id("east", "web");
    let v4 = world.assignment("east", A1).expect("announced");
    let v6 = world.assignment("east", V6).expect("announced");
    assert_eq!((v4.group, v6.group), (oldest, oldest));
    assert_eq!(v4.nodes, v6.nodes);
    assert_eq!(
        v4.owners,
        [owner_key("east", "dns"), owner_key("east", "web")]
    );
    assert_eq!(v6.owners, [owner_key("east", "web")]);
}

#[test]
fn candidates_of_sharers_are_the_nodes_that_can_serve_all_of_them() {
    let mut world = World::east(&["a", "b", "c"]);
    world.hold("east", "web", held(&[A1]).reported());
    world.hold("east", "dns", held(&[A1]).reported());
    let steps: [(&str, &[&str], &[&str], &str); 5] = [
        ("web", &["a", "b"], &["a", "b"], "dns does not veto"),
        ("dns", &["b", "c"], &["b"], "the intersection"),
        ("dns", &["c"], &["a", "b"], "nothing common: the oldest"),
        ("web", &[], &["c"], "web does not withdraw dns"),
        ("dns", &[], &[], "nobody is left"),
    ];
    for (owner, nodes, expected, why) in steps {
        world.serve("east", owner, nodes);
        assert_eq!(world.candidates("east", A1), expected, "{why}");
    }
}

#[test]
fn an_address_whose_only_holder_has_no_endpoint_is_not_announced_with_its_group() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1, V6]).reported());
    world.hold("east", "dns", held(&[A1]));
    assert!(world.assignment("east", A1).is_some());
    assert_eq!(world.assignment("east", V6), None);
}

#[test]
fn when_the_oldest_sharer_goes_the_others_keep_their_nodes_under_a_new_group() {
    let mut world = World::east(&["a", "b", "c", "d", "e"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "dns", held(&[A1]));
    let old_group = world.id("east", "web");
    let before = owned(world.list("east", A1));
    world.release("east", "web");
    let assignment = world.assignment("east", A1).expect("dns is still there");
    assert_eq!(assignment.group, world.id("east", "dns"));
    assert_eq!(world.list("east", A1), before);
    assert!(world.state.placement(old_group).is_none());
}

#[test]
fn the_list_survives_a_change_of_group_even_while_nothing_is_announced() {
    let mut world = World::east(&["a", "b", "c", "d", "e"]);
    world.hold("east", "web", held(&[A1]).reported());
    world.hold("east", "dns", held(&[A1]).reported());
    world.serve_anywhere("east", "web");
    let before = owned(world.list("east", A1));
    world.serve("east", "web", &[]);
    let released = world.hold_edit("east", "web", None);
    let served = world.backends_edit("east", "dns", Some(EntryNodes::Any));
    world.batch(vec![released, served]);
    assert_eq!(world.list("east", A1), before);
}

#[test]
fn an_address_that_passes_to_another_cluster_within_a_batch_is_announced_by_that_one_only() {
    let mut world = World::east(&["a"]);
    world.cluster("west");
    world.advertise(advertisement(Some("west"), "all"));
    world.announcer("west", "z");
    world.hold("east", "web", held(&[A1]));
    let given_back = world.hold_edit("east", "web", None);
    let taken = world.hold_edit("west", "web", Some(held(&[A1])));
    world.batch(vec![given_back, taken]);
    assert_eq!(world.assignment("east", A1), None);
    assert_eq!(world.list("west", A1), ["z"]);
}

#[test]
fn a_list_is_handed_on_also_to_a_group_that_nobody_announces() {
    let mut world = World::east(&["a", "b", "c", "d", "e"]);
    world.hold("east", "web", held(&[A1]).reported());
    world.hold("east", "dns", held(&[A1]).reported());
    world.serve_anywhere("east", "web");
    let before = owned(world.list("east", A1));
    world.serve("east", "web", &[]);
    world.release("east", "web");
    let kept = world.state.placement(world.id("east", "dns"));
    assert!(kept.is_some(), "nodes were told to announce the address");
    world.serve_anywhere("east", "dns");
    assert_eq!(world.list("east", A1), before);
    // Also when the older group, which goes on, was never announced.
    world.serve("east", "dns", &[]);
    world.hold("east", "old", held(&[V6]).reported());
    world.hold("east", "new", held(&[A2]).reported());
    world.serve_anywhere("east", "new");
    world.serve("east", "new", &[]);
    world.hold("east", "both", held(&[V6, A2]).reported());
    assert!(world.state.placement(world.id("east", "old")).is_some());
}

#[test]
fn groups_that_join_go_on_with_the_list_of_the_older_and_part_with_it() {
    let mut world = World::east(&["a", "b", "c", "d", "e"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "dns", held(&[V6]));
    let younger = world.id("east", "dns");
    let before = owned(world.list("east", A1));
    world.hold("east", "both", held(&[A1, V6]));
    assert_eq!(world.list("east", A1), before);
    assert_eq!(world.list("east", V6), before);
    assert!(world.state.placement(younger).is_none());
    world.release("east", "both");
    assert_eq!(world.list("east", A1), before);
    assert_eq!(world.list("east", V6), before);
    assert!(world.state.placement(younger).is_some());
}

#[test]
fn a_list_of_a_group_that_joins_while_unannounced_is_forgotten() {
    let mut world = World::east(&["a", "b"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "dns", held(&[V6]).reported());
    world.serve_anywhere("east", "dns");
    world.serve("east", "dns", &[]);
    let younger = world.id("east", "dns");
    assert!(world.state.placement(younger).is_some());
    world.hold("east", "both", held(&[A1, V6]));
    assert!(world.state.placement(younger).is_none());
}
