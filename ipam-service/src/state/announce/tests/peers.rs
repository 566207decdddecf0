//! BGP peers as the announcers of a cluster are told of them.

use std::time::Duration;

use super::*;
use crate::state::bgp::model::{BfdProfile, BgpKey, BgpPeer};

fn key(cluster: Option<&str>, own_name: &str) -> BgpKey {
    BgpKey {
        cluster: cluster.map(name),
        name: name(own_name),
    }
}

fn peer(cluster: Option<&str>, own_name: &str) -> BgpPeer {
    BgpPeer {
        key: key(cluster, own_name),
        ..crate::testing::bgp_peer(own_name, |_| {})
    }
}

fn profile(cluster: Option<&str>, own_name: &str) -> BfdProfile {
    BfdProfile {
        key: key(cluster, own_name),
        receive_interval: Some(Duration::from_millis(100)),
        transmit_interval: None,
        detect_multiplier: None,
        passive_mode: false,
        minimum_ttl: None,
        revision: 1,
    }
}

impl World {
    fn put_peer(&mut self, peer: BgpPeer) {
        self.one(Change::BgpPeer(Edit {
            before: self.state.bgp().peer(&peer.key).cloned(),
            after: Some(Arc::new(peer)),
        }));
    }

    fn drop_peer(&mut self, key: &BgpKey) {
        self.one(Change::BgpPeer(Edit {
            before: self.state.bgp().peer(key).cloned(),
            after: None,
        }));
    }

    fn put_profile(&mut self, profile: BfdProfile) {
        self.one(Change::BfdProfile(Edit {
            before: self.state.bgp().profile(&profile.key).cloned(),
            after: Some(Arc::new(profile)),
        }));
    }
}

/// Each peer as `cluster/name`, with its nodes, and the profiles.
fn told(world: &World, cluster: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let Some(followed) = world.followed.get(&name(cluster)) else {
        return Default::default();
    };
    let peers = followed.peers.peers.iter().map(|one| {
        let nodes = one.nodes.nodes.iter().map(Name::to_string);
        (one.peer.key.to_string(), nodes.collect())
    });
    let profiles = followed.peers.profiles.iter();
    (
        peers.collect(),
        profiles.map(|it| it.key.to_string()).collect(),
    )
}

fn of(peer: &str, nodes: &[&str]) -> (String, Vec<String>) {
    (peer.to_owned(), owned(nodes.to_vec()))
}

#[test]
fn a_cluster_is_told_of_its_peers_and_of_those_of_the_operator_that_have_other_names() {
    let mut world = World::east(&["a"]);
    world.cluster("west");
    world.announcer("west", "w");
    world.put_peer(peer(None, "tor"));
    world.put_peer(peer(None, "spine"));
    world.put_peer(peer(Some("east"), "tor"));
    let east = [of("spine", &["a"]), of("east/tor", &["a"])];
    assert_eq!(told(&world, "east").0, east);
    let west = [of("spine", &["w"]), of("tor", &["w"])];
    assert_eq!(told(&world, "west").0, west);
    // Of a cluster that comes later, too.
    world.cluster("north");
    let north = [of("spine", &[]), of("tor", &[])];
    assert_eq!(told(&world, "north").0, north);
    world.drop_peer(&key(Some("east"), "tor"));
    world.drop_peer(&key(None, "spine"));
    assert_eq!(told(&world, "east").0, [of("tor", &["a"])]);
    world.drop_peer(&key(None, "tor"));
    for cluster in ["east", "west", "north"] {
        assert_eq!(told(&world, cluster).0, []);
    }
}

#[test]
fn nodes_that_a_peer_selects_have_a_session_whether_or_not_they_may_announce() {
    let mut world = World::east(&["a", "b"]);
    let of_zone = BgpPeer {
        node_selectors: vec![selector("zone", "1")],
        ..peer(Some("east"), "zone")
    };
    world.put_peer(of_zone);
    world.put_peer(peer(Some("east"), "all"));
    let all = |nodes: &[&str]| of("east/all", nodes);
    assert_eq!(
        told(&world, "east").0,
        [all(&["a", "b"]), of("east/zone", &[])]
    );
    world.report("east", "b", &[("zone", "1")], "NetworkUnavailable");
    let expected = [all(&["a", "b"]), of("east/zone", &["b"])];
    assert_eq!(told(&world, "east").0, expected);
    // Its labels change while it is unavailable.
    world.report("east", "b", &[("zone", "2")], "NetworkUnavailable");
    assert_eq!(
        told(&world, "east").0,
        [all(&["a", "b"]), of("east/zone", &[])]
    );
    world.lose_node("east", "b");
    assert_eq!(told(&world, "east").0, [all(&["a"]), of("east/zone", &[])]);
}

#[test]
fn profiles_come_with_the_peers_that_name_them() {
    let mut world = World::east(&["a"]);
    world.put_profile(profile(None, "fast"));
    world.put_profile(profile(Some("east"), "unused"));
    assert_eq!(told(&world, "east").1, Vec::<String>::new());
    let watched = BgpPeer {
        bfd_profile: Some(name("fast")),
        ..peer(Some("east"), "tor")
    };
    world.put_peer(watched);
    assert_eq!(told(&world, "east").1, ["fast"]);
    world.put_profile(profile(Some("east"), "fast"));
    assert_eq!(told(&world, "east").1, ["east/fast"]);
    let missing = BgpPeer {
        bfd_profile: Some(name("missing")),
        ..peer(Some("east"), "tor")
    };
    world.put_peer(missing);
    assert_eq!(told(&world, "east").1, Vec::<String>::new());
}

#[test]
fn what_concerns_no_session_of_a_cluster_is_not_told_to_it() {
    let mut world = World::east(&["a"]);
    world.put_peer(peer(Some("east"), "tor"));
    let is_told = |world: &World| {
        let delta = world.last.get(&name("east"));
        delta.is_some_and(|delta| delta.bgp_peers.is_some())
    };
    assert!(is_told(&world));
    world.hold("east", "web", held(&["192.0.2.1"]));
    world.put_peer(peer(Some("west"), "tor"));
    assert!(!is_told(&world));
    world.advertise(advertisement(Some("east"), "more"));
    assert!(!is_told(&world));
}
