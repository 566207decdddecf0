//! Several advertisements, each of which selects some of the nodes.

use super::*;

const A1: &str = "192.0.2.1";
const A2: &str = "192.0.2.2";

/// Of a node with the label `host` of this value.
fn on(host: &str, own_name: &str) -> Advertisement {
    Advertisement {
        node_selectors: vec![selector("host", host)],
        ..advertisement(Some("east"), own_name)
    }
}

#[test]
fn preferences_count_only_for_nodes_that_their_advertisement_selects() {
    let mut world = World::east(&["a", "b"]);
    let all = advertisement(Some("east"), "all");
    world.advertise(with_l2(all, &[], &[(10, selector("host", "a"))]));
    let of_b = (60, selector("host", "b"));
    world.advertise(with_l2(on("a", "some"), &[], std::slice::from_ref(&of_b)));
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.list("east", A1), ["a", "b"]);
    world.advertise(with_l2(on("b", "some"), &[], &[of_b]));
    assert_eq!(world.list("east", A1), ["b", "a"]);
}

#[test]
fn a_node_announces_on_the_interfaces_of_the_advertisements_that_select_it() {
    let mut world = World::east(&["a", "b", "c"]);
    world.drop_advertisement(Some("east"), "all");
    world.advertise(with_l2(on("a", "of-a"), &["eth0"], &[]));
    world.advertise(with_l2(on("b", "of-b"), &["eth1"], &[]));
    let both = Advertisement {
        node_selectors: vec![selector("host", "b"), selector("host", "c")],
        ..with_l2(advertisement(None, "of-b-and-c"), &["eth2"], &[])
    };
    world.advertise(both);
    world.hold("east", "web", held(&[A1]));
    let interfaces =
        |world: &World| ["a", "b", "c"].map(|node| world.interfaces("east", A1, node).join(" "));
    assert_eq!(interfaces(&world), ["eth0", "eth1 eth2", "eth2"]);
    // One that names none means every interface, on the nodes that it selects.
    world.advertise(on("a", "any"));
    assert_eq!(interfaces(&world), ["", "eth1 eth2", "eth2"]);
}

#[test]
fn nodes_that_agree_are_not_told_apart() {
    let mut world = World::east(&["a", "b", "c"]);
    world.drop_advertisement(Some("east"), "all");
    for (node, interface) in [("a", "eth0"), ("b", "eth0"), ("elsewhere", "eth9")] {
        world.advertise(with_l2(on(node, &format!("of-{node}")), &[interface], &[]));
    }
    world.hold("east", "web", held(&[A1]));
    let assignment = world.assignment("east", A1).expect("announced");
    let interfaces = assignment.interfaces.as_ref().expect("by layer 2");
    assert_eq!(interfaces.names, ["eth0"]);
    assert_eq!(interfaces.by_nodes, []);
    world.advertise(with_l2(on("c", "of-c"), &["eth1"], &[]));
    let assignment = world.assignment("east", A1).expect("announced");
    let interfaces = assignment.interfaces.as_ref().expect("by layer 2");
    assert_eq!(interfaces.names, ["eth0", "eth1"]);
    assert_eq!(interfaces.by_nodes.len(), 2);
    // Sets of nodes that only interfaces refer to come and go like others: that of c goes, that of
    // a and b is that of the candidates now.
    world.drop_advertisement(Some("east"), "of-c");
    let delta = &world.last[&name("east")];
    assert_eq!(delta.unused_node_sets.len(), 2);
    assert_eq!(delta.node_sets, []);
}

/// Sharers of one address that have no node in common are announced by the nodes of the oldest.
#[test]
fn a_node_that_no_advertisement_of_the_address_selects_has_what_they_name_together() {
    let mut world = World::east(&["a", "b"]);
    world.drop_advertisement(Some("east"), "all");
    for (tier, node, interface) in [("one", "a", "eth0"), ("two", "b", "eth1")] {
        world.advertise(Advertisement {
            service_selectors: vec![selector("tier", tier)],
            ..with_l2(on(node, tier), &[interface], &[])
        });
    }
    world.hold("east", "one", held(&[A1]).labelled(&[("tier", "one")]));
    world.hold("east", "two", held(&[A1, A2]).labelled(&[("tier", "two")]));
    assert_eq!(world.candidates("east", A2), ["a"]);
    assert_eq!(world.interfaces("east", A1, "a"), ["eth0"]);
    assert_eq!(world.interfaces("east", A2, "a"), ["eth1"]);
}
