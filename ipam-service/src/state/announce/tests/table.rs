use super::*;

const A1: &str = "192.0.2.1";
const A2: &str = "192.0.2.2";
const A3: &str = "192.0.2.3";

#[test]
fn an_unmanaged_allocation_goes_to_every_selected_node() {
    let mut world = World::east(&["a", "b", "c", "d"]);
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.candidates("east", A1), ["a", "b", "c", "d"]);
    assert_eq!(world.list("east", A1).len(), 3);
    let assignment = world.assignment("east", A1).expect("announced");
    assert_eq!(assignment.group, world.id("east", "web"));
    assert_eq!(assignment.owners, [owner_key("east", "web")]);
    let interfaces = assignment.interfaces.as_deref();
    assert_eq!(interfaces, Some(&Interfaces::default()));
}

#[test]
fn a_released_address_is_withdrawn_and_its_list_forgotten() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    let group = world.id("east", "web");
    assert!(world.state.placement(group).is_some());
    world.release("east", "web");
    assert_eq!(world.assignment("east", A1), None);
    assert_eq!(world.last[&name("east")].removals.len(), 1);
    assert!(world.state.placement(group).is_none());
}

#[test]
fn an_allocation_that_moves_to_another_address_keeps_its_nodes() {
    let mut world = World::east(&["a", "b", "c", "d"]);
    world.hold("east", "web", held(&[A1]));
    let before = owned(world.list("east", A1));
    world.hold("east", "web", held(&[A2]));
    assert_eq!(world.assignment("east", A1), None);
    assert_eq!(world.list("east", A2), before);
}

#[test]
fn without_an_announcer_a_node_is_no_candidate() {
    let mut world = World::east(&["a"]);
    world.report("east", "silent", &[], "");
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.candidates("east", A1), ["a"]);
    world.announcer("east", "silent");
    assert_eq!(world.candidates("east", A1), ["a", "silent"]);
}

#[test]
fn an_unavailable_node_is_no_candidate_and_still_a_member() {
    let mut world = World::east(&["a", "b"]);
    world.hold("east", "web", held(&[A1]));
    world.report("east", "a", &[], "NetworkUnavailable");
    assert_eq!(world.candidates("east", A1), ["b"]);
    let members = world
        .announcements
        .cluster("east")
        .expect("known")
        .members();
    let members: Vec<_> = members.iter().map(|member| member.node.as_str()).collect();
    assert_eq!(members, ["a", "b"]);
    world.report("east", "a", &[], "");
    assert_eq!(world.candidates("east", A1), ["a", "b"]);
}

#[test]
fn a_node_that_its_adapter_removed_is_neither_a_candidate_nor_a_member() {
    let mut world = World::east(&["a", "b"]);
    world.hold("east", "web", held(&[A1]));
    let change = world.node_edit("east", "a", |node| node.removed = true);
    world.one(change);
    assert_eq!(world.candidates("east", A1), ["b"]);
    let east = world.announcements.cluster("east").expect("known");
    assert_eq!(east.members().len(), 1);
    let change = world.node_edit("east", "a", |node| node.removed = false);
    world.one(change);
    assert_eq!(world.candidates("east", A1), ["a", "b"]);
}

#[test]
fn without_any_node_nothing_is_announced() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    world.lose_node("east", "a");
    assert_eq!(world.assignment("east", A1), None);
}

#[test]
fn a_new_endpoint_of_a_member_reaches_the_members_and_touches_no_assignment() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    let change = world.node_edit("east", "a", |node| {
        let announcer = node.announcer.as_mut().expect("there");
        announcer.member_endpoint = "other:1".to_owned();
    });
    world.one(change);
    let delta = &world.last[&name("east")];
    assert_eq!(delta.members.as_ref().map(Vec::len), Some(1));
    assert!(delta.upserts.is_empty() && delta.removals.is_empty());
}

#[test]
fn an_allocation_without_an_advertisement_is_not_announced() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    world.drop_advertisement(Some("east"), "all");
    assert_eq!(world.assignment("east", A1), None);
    world.advertise(advertisement(None, "everywhere"));
    assert_eq!(world.candidates("east", A1), ["a"]);
}

#[test]
fn an_advertisement_concerns_only_its_own_cluster_and_space() {
    let mut world = World::east(&["a"]);
    world.drop_advertisement(Some("east"), "all");
    world.hold("east", "web", held(&[A1]));
    world.advertise(advertisement(Some("west"), "all"));
    assert_eq!(world.assignment("east", A1), None);
    let elsewhere = Advertisement {
        space: name("lab"),
        ..advertisement(None, "lab")
    };
    world.advertise(elsewhere);
    assert_eq!(world.assignment("east", A1), None);
}

#[test]
fn pools_are_selected_by_name_or_by_label() {
    let cases: [(&[&str], Option<LabelSelector>, bool); 5] = [
        (&["pool"], None, true),
        (&["other"], None, false),
        (&[], Some(selector("tier", "gold")), true),
        (&[], Some(selector("tier", "tin")), false),
        (&["other"], Some(selector("tier", "gold")), true),
    ];
    for (pools, by_label, expected) in cases {
        let mut world = World::east(&["a"]);
        world.drop_advertisement(Some("east"), "all");
        world.pool(pool_key(None, "pool"), &[("tier", "gold")]);
        world.hold("east", "web", held(&[A1]));
        world.advertise(Advertisement {
            pools: names(pools),
            pool_selectors: by_label.iter().cloned().collect(),
            ..advertisement(Some("east"), "some")
        });
        let announced = world.assignment("east", A1).is_some();
        assert_eq!(announced, expected, "{pools:?} {by_label:?}");
    }
}

#[test]
fn of_two_pools_each_is_announced_by_the_advertisements_that_select_it() {
    const V6: &str = "2001:db8::1";
    let mut world = World::east(&["a", "b", "c"]);
    world.drop_advertisement(Some("east"), "all");
    world.pool(pool_key(None, "six"), &[]);
    for node in ["a", "b"] {
        world.report("east", node, &[("rack", "1")], "");
    }
    let of_pool = |pool: &str, interface: &str| Advertisement {
        pools: names(&[pool]),
        ..with_l2(advertisement(Some("east"), pool), &[interface], &[])
    };
    let six = pool_key(None, "six");
    world.hold("east", "web", held(&[A1, V6]).and(six.clone()));
    assert_eq!(world.assignment("east", A1), None);
    world.advertise(of_pool("six", "eth6"));
    assert_eq!(
        world.assignment("east", A1),
        None,
        "its pool is not advertised"
    );
    assert_eq!(world.candidates("east", V6), ["a", "b", "c"]);
    world.advertise(Advertisement {
        node_selectors: vec![selector("rack", "1")],
        ..of_pool("pool", "eth4")
    });
    // One node announces both, so only those that both advertisements select are candidates.
    for (at, interface) in [(A1, "eth4"), (V6, "eth6")] {
        assert_eq!(world.candidates("east", at), ["a", "b"]);
        let assignment = world.assignment("east", at).expect("announced");
        let interfaces = assignment.interfaces.as_ref().expect("by layer 2");
        assert_eq!(interfaces.names, [interface]);
        assert_eq!(interfaces.by_nodes, []);
        assert_eq!(assignment.group, world.id("east", "web"));
    }
    world.drop_advertisement(Some("east"), "six");
    assert_eq!(world.assignment("east", V6), None);
    assert!(world.assignment("east", A1).is_some());
    world.drop_pool(&six);
    assert!(world.assignment("east", A1).is_some());
}

#[test]
fn a_pool_that_is_labelled_later_is_announced_then() {
    let mut world = World::east(&["a"]);
    world.advertise(Advertisement {
        pool_selectors: vec![selector("tier", "gold")],
        ..advertisement(Some("east"), "all")
    });
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.assignment("east", A1), None);
    world.pool(pool_key(None, "pool"), &[("tier", "gold")]);
    assert!(world.assignment("east", A1).is_some());
}

#[test]
fn a_clusters_advertisement_means_its_own_pool_before_the_operators() {
    let mut world = World::east(&["a"]);
    world.drop_advertisement(Some("east"), "all");
    world.advertise(Advertisement {
        pools: names(&["pool"]),
        ..advertisement(Some("east"), "named")
    });
    world.hold("east", "web", held(&[A1]));
    assert!(world.assignment("east", A1).is_some());
    let own = pool_key(Some("east"), "pool");
    world.pool(own.clone(), &[]);
    assert_eq!(
        world.assignment("east", A1),
        None,
        "the name means another pool now"
    );
    world.hold("east", "db", held(&[A2]).out_of(own.clone()));
    assert!(world.assignment("east", A2).is_some());
    world.release("east", "db");
    world.drop_pool(&own);
    assert!(world.assignment("east", A1).is_some());
}

#[test]
fn an_operators_advertisement_means_every_pool_of_the_name() {
    let mut world = World::east(&["a"]);
    world.drop_advertisement(Some("east"), "all");
    world.advertise(Advertisement {
        pools: names(&["pool"]),
        ..advertisement(None, "named")
    });
    let own = pool_key(Some("east"), "pool");
    world.pool(own.clone(), &[]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "db", held(&[A2]).out_of(own));
    assert!(world.assignment("east", A1).is_some());
    assert!(world.assignment("east", A2).is_some());
}

#[test]
fn nodes_are_selected_by_label_and_several_advertisements_add_up() {
    let mut world = World::east(&["a", "b", "c"]);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "a")],
        ..advertisement(Some("east"), "all")
    });
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.candidates("east", A1), ["a"]);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "b"), selector("host", "x")],
        ..advertisement(Some("east"), "more")
    });
    assert_eq!(world.candidates("east", A1), ["a", "b"]);
}

#[test]
fn a_reported_label_wins_over_the_announcers_own() {
    let mut world = World::east(&["a"]);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "renamed")],
        ..advertisement(Some("east"), "all")
    });
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.assignment("east", A1), None);
    world.report("east", "a", &[("host", "renamed")], "");
    assert_eq!(world.candidates("east", A1), ["a"]);
}

#[test]
fn allocations_are_selected_by_the_labels_of_their_claim() {
    let mut world = World::east(&["a"]);
    world.advertise(Advertisement {
        service_selectors: vec![selector("tier", "front")],
        ..advertisement(Some("east"), "all")
    });
    world.hold("east", "web", held(&[A1]).labelled(&[("tier", "front")]));
    world.hold("east", "db", held(&[A2]));
    assert!(world.assignment("east", A1).is_some());
    assert_eq!(world.assignment("east", A2), None);
}

#[test]
fn interfaces_add_up_and_one_advertisement_that_names_none_means_all() {
    let mut world = World::east(&["a"]);
    let all = advertisement(Some("east"), "all");
    world.advertise(with_l2(all.clone(), &["eth1", "eth0"], &[]));
    world.advertise(with_l2(advertisement(None, "more"), &["eth2"], &[]));
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.interfaces("east", A1, "a"), ["eth0", "eth1", "eth2"]);
    world.advertise(all);
    assert!(world.interfaces("east", A1, "a").is_empty());
}

#[test]
fn preferred_nodes_come_first_and_weights_add_up() {
    let mut world = World::east(&["a", "b", "c"]);
    let all = advertisement(Some("east"), "all");
    let b = (30, selector("host", "b"));
    let c = (40, selector("host", "c"));
    world.advertise(with_l2(all, &[], &[b.clone(), c]));
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.list("east", A1), ["c", "b", "a"]);
    world.advertise(with_l2(advertisement(None, "more"), &[], &[b]));
    assert_eq!(world.list("east", A1), ["b", "c", "a"]);
}

#[test]
fn a_reported_allocation_waits_for_its_backends() {
    let mut world = World::east(&["a", "b", "c"]);
    world.hold("east", "web", held(&[A1]).reported());
    assert_eq!(world.assignment("east", A1), None);
    world.serve("east", "web", &["b"]);
    assert_eq!(world.candidates("east", A1), ["b"]);
    world.serve_anywhere("east", "web");
    assert_eq!(world.candidates("east", A1), ["a", "b", "c"]);
    world.serve("east", "web", &[]);
    assert_eq!(world.assignment("east", A1), None);
}

#[test]
fn facts_that_come_before_their_allocation_count() {
    let mut world = World::east(&["a", "b"]);
    world.serve("east", "web", &["b"]);
    world.hold("east", "web", held(&[A1]).reported());
    assert_eq!(world.candidates("east", A1), ["b"]);
}

#[test]
fn endpoints_on_nodes_without_an_announcer_do_not_count() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]).reported());
    world.serve("east", "web", &["elsewhere"]);
    assert_eq!(world.assignment("east", A1), None);
}

#[test]
fn an_address_that_comes_back_goes_to_the_nodes_that_it_had() {
    let mut world = World::east(&["a", "b", "c", "d", "e"]);
    world.hold("east", "web", held(&[A1]).reported());
    world.serve_anywhere("east", "web");
    let before = owned(world.list("east", A1));
    world.serve("east", "web", &[]);
    world.hold("east", "db", held(&[A2]));
    world.serve_anywhere("east", "web");
    assert_eq!(world.list("east", A1), before);
}

#[test]
fn an_unrelated_allocation_changes_nothing_for_the_others() {
    let mut world = World::east(&["a", "b", "c"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "db", held(&[A2]));
    assert_eq!(world.last[&name("east")].upserts.len(), 1);
    world.release("east", "web");
    let delta = &world.last[&name("east")];
    assert_eq!((delta.upserts.len(), delta.removals.len()), (0, 1));
}

#[test]
fn an_edit_that_leaves_everything_as_it_was_is_no_news() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "web", held(&[A1]));
    assert!(world.last.is_empty());
    world.advertise(advertisement(Some("east"), "all"));
    assert!(world.last.is_empty());
}

#[test]
fn losing_a_node_moves_only_the_groups_that_it_was_first_in() {
    let mut world = World::east(&["a", "b", "c", "d", "e"]);
    for (owner, text) in [("one", A1), ("two", A2), ("three", A3)] {
        world.hold("east", owner, held(&[text]));
    }
    let firsts = |world: &World| [A1, A2, A3].map(|text| world.list("east", text)[0].to_owned());
    let before = firsts(&world);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3);
    world.lose_node("east", &before[1]);
    let after = firsts(&world);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    assert_ne!(after[1], before[1]);
}

#[test]
fn clusters_have_their_own_nodes_and_streams() {
    let mut world = World::east(&["a"]);
    world.cluster("west");
    world.announcer("west", "w");
    world.advertise(advertisement(Some("west"), "all"));
    world.hold("east", "web", held(&[A1]));
    world.hold("west", "web", held(&[A2]));
    assert_eq!(world.candidates("east", A1), ["a"]);
    assert_eq!(world.candidates("west", A2), ["w"]);
    assert_eq!(world.assignment("east", A2), None);
}

#[test]
fn whether_a_stream_is_authoritative_follows_the_inventory() {
    let mut world = World::empty();
    world.inventory("east", Inventory::Expected);
    let authoritative = |world: &World| {
        let cluster = world.announcements.cluster("east").expect("known");
        cluster.is_authoritative()
    };
    assert!(!authoritative(&world));
    world.inventory("east", Inventory::Reporting { resync: false });
    assert!(!authoritative(&world));
    assert!(world.last.is_empty());
    world.inventory("east", Inventory::Complete);
    assert!(authoritative(&world));
    assert_eq!(world.last[&name("east")].authoritative, Some(true));
    // An adapter that reports once more takes nothing of that back.
    world.inventory("east", Inventory::Reporting { resync: true });
    assert!(authoritative(&world));
}

#[test]
fn a_cluster_that_is_deleted_ends_and_may_begin_again() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    let deleted = Change::Cluster(Edit {
        before: world.state.cluster("east").cloned(),
        after: None,
    });
    let gone = world.node_edit("east", "a", |node| node.announcer = None);
    let released = world.hold_edit("east", "web", None);
    world.batch(vec![released, gone, deleted]);
    let delta = &world.last[&name("east")];
    assert_eq!(delta.deleted, Some(Deleted::Gone));
    assert_eq!(delta.removals.len(), 1);
    assert!(world.announcements.cluster("east").is_none());
    world.followed.clear();
    world.cluster("east");
    world.announcer("east", "a");
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.list("east", A1), ["a"]);
}

/// An adapter that is busy while an operator deletes its cluster.
#[test]
fn a_cluster_that_is_deleted_and_made_again_in_one_batch_ends_all_the_same() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    let known = world.state.cluster("east").cloned();
    let edit = |before, after| Change::Cluster(Edit { before, after });
    let gone = world.node_edit("east", "a", |node| node.announcer = None);
    let released = world.hold_edit("east", "web", None);
    let (deleted, made) = (edit(known.clone(), None), edit(None, known));
    world.batch(vec![released, gone, deleted, made]);
    let delta = &world.last[&name("east")];
    assert_eq!(delta.deleted, Some(Deleted::MadeAgain));
    assert_eq!(delta.removals.len(), 1);
    world.announcer("east", "a");
    assert_eq!(world.last[&name("east")].deleted, None);
    world.hold("east", "web", held(&[A1]));
    assert_eq!(world.list("east", A1), ["a"]);
}

#[test]
fn an_allocation_that_loses_its_address_is_withdrawn() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "web", held(&[]));
    assert_eq!(world.assignment("east", A1), None);
    assert!(world.state.placement(world.id("east", "web")).is_none());
}

#[test]
fn a_rebuild_drops_lists_whose_group_is_gone() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    let stale = Change::Placement(Edit {
        before: None,
        after: Some(Arc::new(Placement {
            group: 999,
            cluster: name("east"),
            nodes: vec![name("a")],
            announced: BTreeSet::new(),
        })),
    });
    world.state.apply(&stale);
    let (_, changes) = Announcements::rebuild(&world.state);
    assert_eq!(changes, [stale.inverse()]);
}
