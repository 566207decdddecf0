use std::time::Duration;

use super::super::picture::tests::{announcement, answerer, picture, service};
use super::super::silence::GRACE;
use super::*;
use crate::claim::Settings;
use crate::crd::{PeerSpec, PoolSpec};
use crate::eligibility::NodeState;
use crate::index::PoolState;
use crate::policy::{Declared, examine};
use crate::service::ServiceKey;
use pharos_proto::v1;

fn world() -> World {
    World::new(Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make one"
)]
fn start() -> Instant {
    Instant::now()
}

fn judged(world: &World) -> Configuration {
    examine(&world.index.objects(), &world.settings)
}

fn look(world: &World, silences: &Silences, now: Instant) -> Desired {
    let configuration = judged(world);
    desired(Sources {
        world,
        configuration: Some(&configuration),
        heard: true,
        silences,
        now,
    })
}

fn web() -> Topic {
    Topic::L2(ServiceKey::new("default", "web"))
}

fn node_of(desired: &Desired) -> Option<&str> {
    match desired.objects.get(&web())? {
        Body::L2(it) => Some(&it.node),
        other @ (Body::Session(_) | Body::Configuration(_)) => panic!("{other:?}"),
    }
}

#[test]
fn a_service_is_told_to_be_announced_by_the_node_that_answers() {
    let mut world = world();
    let now = start();
    world
        .index
        .replace_services(vec![service("web", &["192.0.2.1"])]);
    // Nobody has said yet who answers for what.
    let unknown = look(&world, &Silences::default(), now);
    assert!(!unknown.known.contains(&StatusKind::L2));
    let answers = |answerers| Some(picture(vec![announcement("192.0.2.1", answerers)]));
    world.announced = answers(vec![answerer("n1", &["eth0"], false)]);
    let told = look(&world, &Silences::default(), now);
    assert_eq!(node_of(&told), Some("n1"));
    // Its stream has ended: what was said stays true for as long as ipam-service says so.
    world.announced = answers(vec![answerer("n1", &["eth0"], true)]);
    assert_eq!(
        node_of(&look(&world, &Silences::default(), now)),
        Some("n1")
    );
}

#[test]
fn a_service_that_nobody_answers_for_is_told_so_when_that_lasts() {
    let mut world = world();
    let now = start();
    world
        .index
        .replace_services(vec![service("web", &["192.0.2.1"])]);
    world.announced = Some(picture(vec![]));
    let mut silences = Silences::default();
    silences.note([ServiceKey::new("default", "web")].into(), now);
    let soon = look(&world, &silences, now);
    assert!(soon.kept.contains(&web()) && !soon.objects.contains_key(&web()));
    let later = look(&world, &silences, now + GRACE + Duration::from_secs(1));
    assert!(later.kept.is_empty() && !later.objects.contains_key(&web()));
}

#[test]
fn services_that_were_not_listed_yet_are_not_gone() {
    let mut world = world();
    world.announced = Some(picture(vec![]));
    let known = |world: &World| {
        let desired = look(world, &Silences::default(), start());
        desired.known.contains(&StatusKind::L2)
    };
    assert!(!known(&world));
    world.index.replace_services(vec![]);
    assert!(known(&world));
}

fn node(name: &str, labels: &[(&str, &str)]) -> NodeState {
    let labels = labels.iter();
    NodeState {
        fact: v1::NodeFact {
            name: name.to_owned(),
            labels: labels
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            ..v1::NodeFact::default()
        },
        addresses: BTreeSet::new(),
    }
}

fn peer(name: &str, spec: serde_json::Value) -> Declared<PeerSpec> {
    Declared {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: Ok(serde_json::from_value(spec).expect("a peer")),
    }
}

#[test]
fn each_node_that_a_peer_selects_has_a_session_that_is_idle() {
    let mut world = world();
    world.index.replace_nodes(vec![
        node("n1", &[("rack", "a")]),
        node("n2", &[("rack", "b")]),
    ]);
    world.index.replace_declared(vec![
        peer(
            "one",
            serde_json::json!({
                "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1",
                "nodeSelectors": [{ "matchLabels": { "rack": "a" } }],
            }),
        ),
        peer(
            "all",
            serde_json::json!({
                "myASN": 64512, "peerASN": 64514, "peerAddress": "2001:db8::1",
            }),
        ),
    ]);
    let desired = look(&world, &Silences::default(), start());
    assert!(desired.known.contains(&StatusKind::Session));
    let sessions: Vec<(String, String)> = desired
        .objects
        .values()
        .filter_map(|body| match body {
            Body::Session(it) => {
                assert_eq!(
                    (it.bgp_status.as_str(), it.bfd_status.as_str()),
                    ("Idle", "N/A")
                );
                Some((it.node.clone(), it.peer.clone()))
            }
            Body::L2(_) | Body::Configuration(_) => None,
        })
        .collect();
    let expected = [
        ("n1", "192.0.2.1"),
        ("n1", "2001-0db8-0000-0000-0000-0000-0000-0001"),
        ("n2", "2001-0db8-0000-0000-0000-0000-0000-0001"),
    ];
    let expected = expected.map(|(node, peer)| (node.to_owned(), peer.to_owned()));
    assert_eq!(sessions, expected);
}

#[test]
fn sessions_are_not_known_without_peers_and_nodes() {
    let mut world = world();
    let known = |world: &World| {
        let desired = look(world, &Silences::default(), start());
        desired.known.contains(&StatusKind::Session)
    };
    assert!(!known(&world));
    world.index.replace_nodes(vec![node("n1", &[])]);
    assert!(!known(&world));
    world.index.replace_declared::<PeerSpec>(vec![]);
    assert!(known(&world));
    // What is wrong is not in force, and nobody knows what is.
    world
        .index
        .replace_declared(vec![peer("bad", serde_json::json!({ "myASN": 0 }))]);
    assert!(!known(&world));
}

fn pool(name: &str, addresses: &str) -> PoolState {
    PoolState {
        uid: name.to_owned(),
        declared: Declared {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: Ok(PoolSpec {
                addresses: vec![addresses.to_owned()],
                ..PoolSpec::default()
            }),
        },
        status: None,
    }
}

fn verdict_of(world: &World) -> Verdict {
    verdict(&judged(world), world)
}

#[test]
fn the_verdict_names_what_is_wrong_and_what_is_not_taken() {
    let mut world = world();
    world.index.replace_pools(vec![pool("a", "192.0.2.0/29")]);
    let sound = Verdict {
        result: Validity::Valid,
        summary: String::new(),
    };
    assert_eq!(verdict_of(&world), sound);
    world.doubts(Kind::Pools, Some("in doubt".to_owned()));
    let doubtful = Verdict {
        result: Validity::Unknown,
        summary: "in doubt".to_owned(),
    };
    assert_eq!(verdict_of(&world), doubtful);
    world.refuses(Kind::Pools, Some("ipam-service\nsays no".to_owned()));
    world.index.apply_pool(pool("b", "192.0.2.4/31"));
    let Verdict { result, summary } = verdict_of(&world);
    assert_eq!(result, Validity::Invalid);
    let lines: Vec<&str> = summary.lines().collect();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("IPAddressPool \"b\": ")),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"ipam-service says no") && lines.contains(&"in doubt"),
        "{lines:?}"
    );
    world.doubts(Kind::Pools, None);
    world.refuses(Kind::Pools, None);
    world.index.apply_pool(pool("b", "192.0.2.8/31"));
    assert_eq!(verdict_of(&world), sound);
}

#[test]
fn that_nothing_is_wrong_is_said_when_ipam_service_was_heard() {
    let mut world = world();
    world.index.replace_pools(vec![pool("a", "192.0.2.0/29")]);
    let said = |world: &World, heard| {
        let configuration = judged(world);
        let desired = desired(Sources {
            world,
            configuration: Some(&configuration),
            heard,
            silences: &Silences::default(),
            now: start(),
        });
        desired.known.contains(&StatusKind::Configuration)
    };
    assert!(said(&world, true));
    // It may refuse what looks sound, and what was said before the restart was its word.
    assert!(!said(&world, false));
    // That something is wrong needs nobody's word.
    world.index.apply_pool(pool("b", "192.0.2.4/31"));
    assert!(said(&world, false));
}

#[test]
fn a_summary_has_as_many_lines_as_fit() {
    let lines: Vec<String> = (0..1000)
        .map(|number| format!("{number} {}", "x".repeat(100)))
        .collect();
    let summary = summary(&lines);
    assert!(
        (LONGEST - 200..=LONGEST).contains(&summary.len()),
        "{}",
        summary.len()
    );
    let told = summary.lines().count() - 1;
    assert!(
        summary.ends_with(&format!("\nand {} more", 1000 - told)),
        "{told}"
    );
    assert_eq!(super::summary(&lines[..2]).lines().count(), 2);
}
