//! Why nobody is to announce an address that is held.

use super::*;

const A1: &str = "192.0.2.1";

fn asked(world: &World, cluster: &str, texts: &[&str]) -> Vec<super::super::Held> {
    let keys = texts.iter().map(|text| AssignmentKey {
        space: name(SPACE),
        address: address(text),
    });
    Inquiry::collect(&world.state, &name(cluster), &keys.collect()).answer()
}

fn silence(world: &World) -> Option<Silence> {
    let mut found = asked(world, "east", &[A1]);
    found.pop().expect("held").silence
}

#[test]
fn an_address_that_nobody_may_announce_says_what_is_missing() {
    let mut world = World::empty();
    world.cluster("east");
    world.pool(pool_key(None, "pool"), &[]);
    world.hold("east", "web", held(&[A1]).reported());
    let owner = owner_key("east", "web");
    let not_advertised = Some(Silence::NotAdvertised(owner.clone()));
    assert_eq!(silence(&world), not_advertised);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "b")],
        ..advertisement(Some("east"), "all")
    });
    assert_eq!(silence(&world), Some(Silence::NoAnnouncer));
    world.announcer("east", "a");
    let no_node = Silence::NoNodeSelected {
        owner: owner.clone(),
        by: vec![advertisement(Some("east"), "all").key],
    };
    assert_eq!(silence(&world), Some(no_node));
    world.announcer("east", "b");
    let no_endpoint = Some(Silence::NoReadyEndpoint(owner));
    assert_eq!(silence(&world), no_endpoint);
    world.serve("east", "web", &["b"]);
    assert_eq!(silence(&world), None);
    world.report("east", "b", &[], "NetworkUnavailable");
    world.report("east", "a", &[], "NetworkUnavailable");
    assert_eq!(silence(&world), Some(Silence::NoAnnouncer));
}

#[test]
fn of_those_who_share_an_address_the_one_who_is_nearest_has_the_word() {
    let mut world = World::east(&["a"]);
    world.drop_advertisement(Some("east"), "all");
    world.advertise(Advertisement {
        service_selectors: vec![selector("tier", "front")],
        ..advertisement(Some("east"), "front")
    });
    world.hold("east", "db", held(&[A1]));
    let front = held(&[A1]).labelled(&[("tier", "front")]).reported();
    world.hold("east", "web", front);
    let of_web = Silence::NoReadyEndpoint(owner_key("east", "web"));
    assert_eq!(silence(&world), Some(of_web));
}

#[test]
fn what_is_announced_together_is_answered_together_and_only_to_its_cluster() {
    let mut world = World::east(&["a"]);
    const V6: &str = "2001:db8::1";
    world.hold("east", "web", held(&[A1, V6]));
    let held = asked(&world, "east", &[A1]);
    let keys: Vec<_> = held.iter().map(|one| one.key.address).collect();
    assert_eq!(keys, [address(A1), address(V6)]);
    assert!(held.iter().all(|one| one.group == world.id("east", "web")));
    assert_eq!(held[0].owners, [owner_key("east", "web")]);
    assert_eq!(asked(&world, "west", &[A1]), []);
    assert_eq!(asked(&world, "east", &["192.0.2.77"]), []);
}

/// Every address that a cluster holds is walked over once, and nobody is to announce just what is not assigned.
pub(super) fn check(world: &World, cluster: &Name) {
    let mut walked = Vec::new();
    let mut after = None;
    loop {
        let page = HeldPage::after(&world.state, cluster, after.as_ref(), 2);
        walked.extend(page.keys);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let allocations = world.state.allocations_of(cluster);
    let held: BTreeSet<_> = allocations.flat_map(|one| keys_of(one)).collect();
    assert!(walked.iter().eq(&held), "{walked:?}");
    let assigned = world.announcements.cluster(cluster);
    let answer = Inquiry::collect(&world.state, cluster, &held).answer();
    assert_eq!(answer.len(), held.len());
    for one in answer {
        let is_assigned = assigned.is_some_and(|it| it.assignments.contains_key(&one.key));
        assert_eq!(one.silence.is_none(), is_assigned, "{one:?}");
    }
}
