//! Routes by BGP: tables, and a model that says for each node and peer what it is to be told.

use proptest::prelude::*;

use super::properties::policy_of_node;
use super::*;
use crate::state::bgp::community::Community;

const A1: &str = "192.0.2.1";
const A6: &str = "2001:db8::1";

/// An advertisement by BGP.
pub(super) fn with_routes(one: Advertisement, routes: RouteAttributes) -> Advertisement {
    Advertisement {
        protocol: AdvertisementProtocol::Bgp(routes),
        ..one
    }
}

fn plain() -> RouteAttributes {
    RouteAttributes {
        peers: BTreeSet::new(),
        length_v4: 32,
        length_v6: 128,
        local_pref: 0,
        communities: BTreeSet::new(),
    }
}

fn by_bgp(own_name: &str) -> Advertisement {
    with_routes(advertisement(Some("east"), own_name), plain())
}

fn to_peers(peers: &[&str], communities: &[&str]) -> RouteAttributes {
    RouteAttributes {
        peers: names(peers),
        communities: communities
            .iter()
            .map(|text| text.parse().expect("a community"))
            .collect(),
        ..plain()
    }
}

/// Nodes, and no advertisement.
fn east(nodes: &[&str]) -> World {
    let mut world = World::east(nodes);
    world.drop_advertisement(Some("east"), "all");
    world
}

/// What each node announces for an address, as people would write it.
fn routes(world: &World, text: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let Some(routes) = world
        .assignment("east", text)
        .and_then(|it| it.bgp.as_ref())
    else {
        return Vec::new();
    };
    let entries = routes.by_nodes.iter().map(|entry| {
        let nodes = entry.nodes.nodes.iter().map(Name::to_string);
        (nodes.collect(), entry.routes.iter().map(written).collect())
    });
    entries.collect()
}

fn written(route: &Route) -> String {
    let mut text = route.prefix.to_string();
    if !route.peers.is_empty() {
        let peers: Vec<&str> = route.peers.iter().map(Name::as_str).collect();
        text.push_str(&format!(" to {}", peers.join(",")));
    }
    if route.local_pref != 0 {
        text.push_str(&format!(" pref {}", route.local_pref));
    }
    for community in &route.communities {
        text.push_str(&format!(" {community}"));
    }
    text
}

fn entry(nodes: &[&str], routes: &[&str]) -> (Vec<String>, Vec<String>) {
    (owned(nodes.to_vec()), owned(routes.to_vec()))
}

#[test]
fn each_selected_node_announces_and_none_answers() {
    let mut world = east(&["a", "b", "c"]);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "a"), selector("host", "c")],
        ..by_bgp("bgp")
    });
    world.hold("east", "web", held(&[A1, A6]));
    for (text, prefix) in [(A1, "192.0.2.1/32"), (A6, "2001:db8::1/128")] {
        assert_eq!(routes(&world, text), [entry(&["a", "c"], &[prefix])]);
        let assignment = world.assignment("east", text).expect("announced");
        assert!(assignment.interfaces.is_none() && assignment.nodes.is_empty());
        assert!(!assignment.probe && assignment.fenced.is_none());
    }
    world.report("east", "a", &[], "NetworkUnavailable");
    assert_eq!(routes(&world, A1), [entry(&["c"], &["192.0.2.1/32"])]);
    world.release("east", "web");
    assert!(world.assignment("east", A1).is_none());
}

#[test]
fn with_backends_of_their_own_only_nodes_that_have_one_announce() {
    let mut world = east(&["a", "b", "c"]);
    world.advertise(by_bgp("bgp"));
    world.hold("east", "web", held(&[A1]).reported());
    assert_eq!(routes(&world, A1), []);
    world.serve("east", "web", &["b", "elsewhere"]);
    assert_eq!(routes(&world, A1), [entry(&["b"], &["192.0.2.1/32"])]);
    world.serve("east", "web", &[]);
    assert_eq!(routes(&world, A1), []);
    world.serve_anywhere("east", "web");
    let all = entry(&["a", "b", "c"], &["192.0.2.1/32"]);
    assert_eq!(routes(&world, A1), [all]);
}

#[test]
fn a_prefix_has_the_bits_that_the_advertisement_says() {
    for (length_v4, length_v6, v4, v6) in [
        (32, 128, "192.0.2.1/32", "2001:db8::1/128"),
        (24, 64, "192.0.2.0/24", "2001:db8::/64"),
        (1, 0, "128.0.0.0/1", "::/0"),
        (31, 127, "192.0.2.0/31", "2001:db8::/127"),
    ] {
        let mut world = east(&["a"]);
        let attributes = RouteAttributes {
            length_v4,
            length_v6,
            ..plain()
        };
        world.advertise(with_routes(by_bgp("bgp"), attributes));
        world.hold("east", "web", held(&[A1, A6]));
        assert_eq!(routes(&world, A1), [entry(&["a"], &[v4])]);
        assert_eq!(routes(&world, A6), [entry(&["a"], &[v6])]);
    }
}

#[test]
fn each_advertisement_makes_a_route_and_those_to_one_prefix_are_one() {
    let mut world = east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    world.advertise(with_routes(by_bgp("one"), to_peers(&[], &["1:1"])));
    world.advertise(with_routes(
        by_bgp("two"),
        to_peers(&[], &["1:2", "large:1:2:3"]),
    ));
    let one = entry(&["a"], &["192.0.2.1/32 1:1 1:2 large:1:2:3"]);
    assert_eq!(routes(&world, A1), [one]);
    // A peer that one of them names hears both; all others hear the other one.
    world.advertise(with_routes(
        by_bgp("two"),
        to_peers(&["tor", "spine"], &["1:2"]),
    ));
    let two = entry(
        &["a"],
        &["192.0.2.1/32 to spine,tor 1:1 1:2", "192.0.2.1/32 1:1"],
    );
    assert_eq!(routes(&world, A1), [two]);
    // Another prefix is another route.
    let wide = RouteAttributes {
        length_v4: 24,
        ..to_peers(&["tor"], &[])
    };
    world.advertise(with_routes(by_bgp("two"), wide));
    let both = entry(&["a"], &["192.0.2.0/24 to tor", "192.0.2.1/32 1:1"]);
    assert_eq!(routes(&world, A1), [both]);
    // To name a peer says nothing where all hear the same.
    world.advertise(with_routes(by_bgp("two"), to_peers(&["tor"], &["1:1"])));
    assert_eq!(routes(&world, A1), [entry(&["a"], &["192.0.2.1/32 1:1"])]);
}

#[test]
fn nodes_announce_what_the_advertisements_say_that_select_them() {
    let mut world = east(&["a", "b", "c"]);
    world.advertise(with_routes(by_bgp("all"), to_peers(&[], &["1:1"])));
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "b")],
        ..with_routes(by_bgp("b"), to_peers(&[], &["1:2"]))
    });
    world.hold("east", "web", held(&[A1]));
    let expected = [
        entry(&["a", "c"], &["192.0.2.1/32 1:1"]),
        entry(&["b"], &["192.0.2.1/32 1:1 1:2"]),
    ];
    assert_eq!(routes(&world, A1), expected);
}

#[test]
fn advertisements_that_contradict_one_another_announce_nothing_where_they_meet() {
    let preferred = |peers: &[&str], local_pref| RouteAttributes {
        local_pref,
        ..to_peers(peers, &[])
    };
    let mut world = east(&["a", "b"]);
    world.hold("east", "web", held(&[A1]));
    world.advertise(with_routes(by_bgp("one"), preferred(&["tor"], 100)));
    world.advertise(with_routes(by_bgp("two"), preferred(&["spine"], 200)));
    // No peer hears both.
    let apart = entry(
        &["a", "b"],
        &[
            "192.0.2.1/32 to spine pref 200",
            "192.0.2.1/32 to tor pref 100",
        ],
    );
    assert_eq!(routes(&world, A1), [apart]);
    world.advertise(Advertisement {
        node_selectors: vec![selector("host", "b")],
        ..with_routes(by_bgp("two"), preferred(&[], 200))
    });
    let left = entry(&["a"], &["192.0.2.1/32 to tor pref 100"]);
    assert_eq!(routes(&world, A1), [left]);
    let key = world.assignment("east", A1).expect("announced").key.clone();
    let question = Question::collect(&world.state, &name("east"), key.clone());
    let explained = question.expect("held").answer();
    assert_eq!(explained.nodes[0].verdict, Verdict::Candidate);
    let Verdict::Conflicting(contradiction) = &explained.nodes[1].verdict else {
        panic!("{explained:?}");
    };
    let message = contradiction.to_string();
    assert!(message.contains("one and two"), "{message}");
    assert!(message.contains("192.0.2.1/32"), "{message}");
    // Nowhere is it announced then.
    world.advertise(with_routes(by_bgp("two"), preferred(&[], 200)));
    assert!(world.assignment("east", A1).is_none());
    let held = Inquiry::collect(&world.state, &name("east"), &[key].into()).answer();
    assert!(
        matches!(&held[0].silence, Some(Silence::Conflicting(_))),
        "{held:?}"
    );
}

#[test]
fn an_address_may_be_announced_by_both_protocols_or_each_family_by_one() {
    let mut world = World::east(&["a", "b"]);
    world.advertise(by_bgp("bgp"));
    world.hold("east", "web", held(&[A1]));
    let all = entry(&["a", "b"], &["192.0.2.1/32"]);
    assert_eq!(routes(&world, A1), std::slice::from_ref(&all));
    assert_eq!(world.candidates("east", A1), ["a", "b"]);
    // One pool is announced by layer 2, the other by BGP.
    let v6 = pool_key(None, "six");
    world.pool(v6.clone(), &[]);
    let of = |pool: &str, one: Advertisement| Advertisement {
        pools: [name(pool)].into(),
        ..one
    };
    world.advertise(of("pool", advertisement(Some("east"), "all")));
    world.advertise(of("six", by_bgp("bgp")));
    world.hold("east", "web", held(&[A1, A6]).and(v6));
    assert_eq!(routes(&world, A1), []);
    assert_eq!(world.candidates("east", A1), ["a", "b"]);
    assert_eq!(
        routes(&world, A6),
        [entry(&["a", "b"], &["2001:db8::1/128"])]
    );
    let six = world.assignment("east", A6).expect("announced");
    assert!(six.interfaces.is_none() && six.nodes.is_empty());
}

#[test]
fn who_shares_an_address_by_bgp_vetoes_nobody() {
    let mut world = east(&["a", "b", "c"]);
    world.advertise(by_bgp("bgp"));
    world.advertise(Advertisement {
        service_selectors: vec![selector("tier", "front")],
        ..with_routes(by_bgp("front"), to_peers(&[], &["1:1"]))
    });
    world.hold("east", "db", held(&[A1]).reported());
    let front = held(&[A1]).reported().labelled(&[("tier", "front")]);
    world.hold("east", "web", front);
    world.serve("east", "db", &["a", "b"]);
    world.serve("east", "web", &["b", "c"]);
    let expected = [
        entry(&["a"], &["192.0.2.1/32"]),
        entry(&["b", "c"], &["192.0.2.1/32 1:1"]),
    ];
    assert_eq!(routes(&world, A1), expected);
}

#[test]
fn what_is_advertised_by_bgp_alone_and_not_announced_says_what_is_missing() {
    let mut world = World::empty();
    world.cluster("east");
    world.pool(pool_key(None, "pool"), &[]);
    world.hold("east", "web", held(&[A1]).reported());
    let silence = |world: &World| {
        let key = AssignmentKey {
            space: name(SPACE),
            address: address(A1),
        };
        let held = Inquiry::collect(&world.state, &name("east"), &[key].into());
        held.answer().pop().expect("held").silence
    };
    let verdict = |world: &World, index: usize| {
        let key = AssignmentKey {
            space: name(SPACE),
            address: address(A1),
        };
        let question = Question::collect(&world.state, &name("east"), key);
        question.expect("held").answer().nodes[index]
            .verdict
            .clone()
    };
    let owner = owner_key("east", "web");
    let own = Advertisement {
        node_selectors: vec![selector("host", "b")],
        ..by_bgp("bgp")
    };
    let by = vec![own.key.clone()];
    world.advertise(own);
    assert_eq!(silence(&world), Some(Silence::NoAnnouncer));
    world.announcer("east", "a");
    let no_node = Silence::NoNodeSelected {
        owner: owner.clone(),
        by: by.clone(),
    };
    assert_eq!(silence(&world), Some(no_node));
    world.announcer("east", "b");
    let no_endpoint = Silence::NoReadyEndpoint(owner.clone());
    assert_eq!(silence(&world), Some(no_endpoint));
    let not_selected = Verdict::NotSelected {
        owner: owner.clone(),
        by,
    };
    assert_eq!(verdict(&world, 0), not_selected);
    assert_eq!(verdict(&world, 1), Verdict::NoEndpoint(owner));
    world.serve_anywhere("east", "web");
    assert_eq!(silence(&world), None);
    assert_eq!(verdict(&world, 1), Verdict::Candidate);
}

#[test]
fn addresses_that_go_to_bgp_and_back_are_answered_where_they_were() {
    let mut world = World::east(&["a", "b", "c", "d"]);
    for (number, owner) in ["one", "two", "three"].into_iter().enumerate() {
        world.hold("east", owner, held(&[&format!("192.0.2.{number}")]));
    }
    let lists = |world: &World| -> Vec<Vec<String>> {
        let texts = (0..3).map(|number| format!("192.0.2.{number}"));
        texts.map(|text| owned(world.list("east", &text))).collect()
    };
    let before = lists(&world);
    world.advertise(with_routes(advertisement(Some("east"), "all"), plain()));
    assert_eq!(lists(&world), [(); 3].map(|()| Vec::<String>::new()));
    world.advertise(advertisement(Some("east"), "all"));
    assert_eq!(lists(&world), before);
}

// === a model ===

pub(super) fn attributes() -> impl Strategy<Value = RouteAttributes> {
    let peers = proptest::collection::btree_set(0..2_u8, 0..3);
    let communities = proptest::collection::btree_set(0..3_u16, 0..3);
    let lengths = prop_oneof![Just((32, 128)), Just((24, 64))];
    (peers, communities, lengths, 0..2_u32).prop_map(
        |(peers, communities, (length_v4, length_v6), local_pref)| RouteAttributes {
            peers: peers.iter().map(|it| name(&format!("p{it}"))).collect(),
            communities: communities
                .iter()
                .map(|it| Community::Standard([1, *it]))
                .collect(),
            length_v4,
            length_v6,
            local_pref,
        },
    )
}

type Heard = BTreeMap<String, (u32, BTreeSet<Community>)>;

/// What a peer hears of a node, said from the advertisements.
fn expected(world: &World, key: &AssignmentKey, node: &Node, peer: &Name) -> Heard {
    let name = &node.key.node;
    let is_away = node.reported.as_ref();
    let is_away = is_away.is_some_and(|it| !it.unavailable_reason.is_empty());
    if node.announcer.is_none() || is_away {
        return Heard::new();
    }
    let holders: Vec<_> = world.state.holders(&key.space, key.address).collect();
    let able = holders.into_iter().filter(|holder| {
        let entry = world.state.backends(&holder.owner.key);
        holder.claim.backends == BackendsPolicy::Unmanaged
            || entry.is_some_and(|it| match &it.entry {
                EntryNodes::Any => true,
                EntryNodes::Only(names) => names.contains(name),
            })
    });
    let able: Vec<_> = able.collect();
    let mut all: BTreeMap<String, Vec<&RouteAttributes>> = BTreeMap::new();
    for advertisement in policy_of_node(world, &able, name) {
        if let AdvertisementProtocol::Bgp(it) = &advertisement.protocol {
            let is_v4 = key.address.to_ip().is_ipv4();
            let length = if is_v4 { it.length_v4 } else { it.length_v6 };
            let prefix = Prefix::of(key.address, length).to_string();
            all.entry(prefix).or_default().push(it);
        }
    }
    let peers = ["p0", "p1", "p9"].map(super::name);
    let reaches =
        |it: &RouteAttributes, peer: &Name| it.peers.is_empty() || it.peers.contains(peer);
    all.retain(|_, all| {
        let mut peers = peers.iter();
        peers.all(|peer| {
            let heard = all.iter().filter(|it| reaches(it, peer));
            heard.map(|it| it.local_pref).collect::<BTreeSet<_>>().len() < 2
        })
    });
    let heard = all.into_iter().filter_map(|(prefix, all)| {
        let heard: Vec<_> = all.into_iter().filter(|it| reaches(it, peer)).collect();
        let communities = heard.iter().flat_map(|it| &it.communities).copied();
        Some((prefix, (heard.first()?.local_pref, communities.collect())))
    });
    heard.collect()
}

/// The same, as an announcer reads it from what it is told.
fn told(assignment: Option<&Assignment>, node: &Name, peer: &Name) -> Heard {
    let routes = assignment.and_then(|it| it.bgp.as_ref());
    let mut own = routes.iter().flat_map(|routes| &routes.by_nodes);
    let entries = own
        .by_ref()
        .filter(|entry| entry.nodes.nodes.contains(node));
    let entries: Vec<_> = entries.collect();
    assert!(entries.len() < 2, "a node in two entries: {entries:?}");
    let mut heard = Heard::new();
    for route in entries.iter().flat_map(|entry| &entry.routes) {
        let of_prefix = entries[0].routes.iter();
        let mut of_prefix = of_prefix.filter(|other| other.prefix == route.prefix);
        let is_named = of_prefix.any(|other| other.peers.contains(peer));
        if route.peers.contains(peer) || (route.peers.is_empty() && !is_named) {
            let said = (route.local_pref, route.communities.clone());
            let before = heard.insert(route.prefix.to_string(), said);
            assert_eq!(before, None, "two routes to one prefix");
        }
    }
    heard
}

/// Each node announces to each peer what the advertisements say, and no other.
pub(super) fn check(world: &World, key: &AssignmentKey, assignment: Option<&Assignment>) {
    for node in world.state.nodes_of(&name("east")) {
        for peer in ["p0", "p1", "p9"].map(name) {
            let told = told(assignment, &node.key.node, &peer);
            assert_eq!(told, expected(world, key, node, &peer), "{key:?} {peer:?}");
        }
    }
}
