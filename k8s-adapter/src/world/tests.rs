//! What is decided from all that is known.

use pharos_proto::v1;
use serde_json::json;

use super::*;
use crate::book::Answer;
use crate::index::Namespace;
use crate::policy::{ResourceKind, Severity, Subject};

fn world() -> World {
    let mut world = World::new(Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    });
    world.index.replace_namespaces(vec![Namespace {
        name: "default".to_owned(),
        labels: Default::default(),
    }]);
    world
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn service(name: &str, address: Option<&str>) -> ServiceState {
    let ingress: Vec<_> = address.iter().map(|ip| json!({ "ip": ip })).collect();
    let service = serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": name, "uid": "u", "resourceVersion": "1" },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"] },
        "status": { "loadBalancer": { "ingress": ingress } },
    }));
    ServiceState::parse(&service.expect("a Service")).expect("with a name")
}

/// What a Service holds, granted to a claim or to nobody knows which.
fn granted(name: &str, claim: Option<v1::Claim>) -> Answer {
    let (_, answer) = Answer::parse(&v1::Allocation {
        owner: Some(v1::Owner {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: "u".to_owned(),
            ..v1::Owner::default()
        }),
        state: v1::allocation::State::Assigned as i32,
        addresses: vec!["192.0.2.1".to_owned()],
        revision: 1,
        claim,
        ..v1::Allocation::default()
    })
    .expect("makes sense");
    answer
}

fn know(world: &mut World, name: &str) {
    world.book.changed(key(name), granted(name, None));
}

fn again(name: &str) -> ServiceState {
    ServiceState {
        uid: "v".to_owned(),
        ..service(name, None)
    }
}

fn step(world: &World, name: &str) -> Step {
    match world.next(&key(name)) {
        Next::Of(_, step) => step,
        next @ (Next::ReleaseGone { .. } | Next::Nothing) => panic!("{next:?}"),
    }
}

#[test]
fn what_was_not_shown_is_released_only_if_a_later_list_lacks_it_too() {
    let mut world = world();
    world.link = Link::Up;
    for name in ["late", "gone", "again"] {
        know(&mut world, name);
    }
    assert!(world.unlisted().is_empty(), "nothing has been listed yet");
    world.index.replace_services(vec![again("again")]);
    let unlisted = world.unlisted();
    let missing = |name: &str| (key(name), "u".to_owned());
    assert_eq!(
        unlisted,
        [missing("again"), missing("gone"), missing("late")]
    );
    for name in ["late", "gone"] {
        assert_eq!(world.next(&key(name)), Next::Nothing);
    }
    let list = HashMap::from([
        (key("late"), "u".to_owned()),
        (key("again"), "v".to_owned()),
    ]);
    let gone = world.confirm_gone(unlisted, &list);
    assert_eq!(gone, [key("again"), key("gone")]);
    assert_eq!(world.unlisted(), [missing("late")]);
    assert_eq!(world.next(&key("late")), Next::Nothing);
    let release = Next::ReleaseGone {
        uid: "u".to_owned(),
    };
    assert_eq!(world.next(&key("gone")), release);
    // The one that came after asks for itself.
    assert_eq!(step(&world, "again"), Step::Verify);
    world.link = Link::Connecting;
    assert_eq!(world.next(&key("gone")), Next::Nothing);
    assert!(world.unlisted().is_empty());
}

/// What it has would be given to the next who asks, after the store was lost.
#[test]
fn a_service_that_asks_for_what_cannot_be_read_is_reported_with_what_it_has() {
    let mut world = world();
    world.link = Link::Up;
    for (name, annotation, value) in [
        ("pools", "pharos.io/dual-stack-pools", "Any"),
        ("addresses", "metallb.io/loadBalancerIPs", "nonsense"),
    ] {
        let mut odd = service(name, Some("192.0.2.1"));
        odd.annotations
            .insert(annotation.to_owned(), value.to_owned());
        world.index.apply_service(odd);
    }
    let holders = world.holders();
    let names: Vec<&str> = holders.iter().map(|one| &*one.claim.key.name).collect();
    assert_eq!(names, ["addresses", "pools"]);
    assert!(
        holders
            .iter()
            .all(|one| one.unknown && !one.held.is_empty())
    );
}

#[test]
fn a_claim_takes_the_place_of_another_only_from_a_service_that_was_just_fetched() {
    let mut world = world();
    world.link = Link::Up;
    world.index.apply_service(service("web", Some("192.0.2.1")));
    // Whatever it answers, it is not what the Service asks for now.
    know(&mut world, "web");
    assert_eq!(step(&world, "web"), Step::Verify);
    assert!(world.holders().is_empty());
    world.verified(service("web", None));
    assert!(matches!(step(&world, "web"), Step::Ask(_)));
    // The next look has to fetch it again.
    world.looked(&key("web"));
    assert_eq!(step(&world, "web"), Step::Verify);
    // It changes after it was fetched.
    world.verified(service("web", None));
    let changed = ServiceState {
        resource_version: "2".to_owned(),
        ..service("web", None)
    };
    world.index.apply_service(changed);
    assert_eq!(step(&world, "web"), Step::Verify);
}

#[test]
fn the_deletion_of_one_incarnation_releases_no_newer_one() {
    let mut world = world();
    world.link = Link::Up;
    world.index.apply_service(service("web", None));
    world.index.delete_service(&service("web", None));
    // Another replica has seen its successor already.
    let mut newer = granted("web", None);
    newer.uid = "v".to_owned();
    world.book.changed(key("web"), newer);
    assert_eq!(world.next(&key("web")), Next::Nothing);
    world.looked(&key("web"));
    world.index.apply_service(again("web"));
    assert_eq!(step(&world, "web"), Step::Verify);
    world.looked(&key("web"));
    world.index.delete_service(&again("web"));
    assert_eq!(
        world.next(&key("web")),
        Next::ReleaseGone {
            uid: "v".to_owned()
        }
    );
}

#[test]
fn that_a_service_went_is_remembered_as_long_as_it_holds_something() {
    let mut world = world();
    world.link = Link::Up;
    know(&mut world, "web");
    world.index.delete_service(&service("web", None));
    // Its successor makes no sense, and must not keep the address from others.
    let mut bad = again("web");
    bad.load_balancer_ip = "nonsense".to_owned();
    world.index.apply_service(bad);
    world.looked(&key("web"));
    let Next::Of(_, Step::Release { uid }) = world.next(&key("web")) else {
        panic!("nothing is released");
    };
    world.book.forget(&key("web"), &uid);
    world.looked(&key("web"));
    assert!(!world.index.is_gone(&key("web"), "u"));
}

#[test]
fn holders_are_our_services_with_an_address() {
    let mut world = world();
    world.index.replace_services(vec![
        service("known", Some("192.0.2.1")),
        service("unknown", Some("192.0.2.2")),
        service("changed", Some("192.0.2.3")),
        service("new", None),
    ]);
    let known = world.index.service(&key("known")).cloned();
    let claim = world.claim(&known.expect("listed")).expect("a claim");
    world.book.changed(
        key("known"),
        granted("known", Some(stored(&claim, &world.settings))),
    );
    // Whose claim is another one is not in a hurry: nobody else gets what it holds.
    know(&mut world, "changed");
    let holders: Vec<(String, bool)> = world
        .holders()
        .into_iter()
        .map(|holder| (holder.claim.key.name.clone(), holder.unknown))
        .collect();
    assert_eq!(
        holders,
        [("known".to_owned(), false), ("unknown".to_owned(), true)]
    );
}

#[test]
fn a_missing_crd_does_not_keep_the_adapter_from_starting_but_a_missing_list_does() {
    let mut world = world();
    assert!(!world.can_start());
    world.index.replace_services(Vec::new());
    assert!(!world.can_start());
    world.absent.extend([Kind::Pools, Kind::L2Advertisements]);
    assert!(world.can_start());
}

#[test]
fn what_was_not_all_listed_is_not_judged() {
    let mut world = world();
    world.index.replace_services(Vec::new());
    world.index.replace_pools(Vec::new());
    world
        .index
        .replace_declared::<crate::crd::L2Spec>(Vec::new());
    assert!(world.can_start() && !world.can_judge());
    world
        .index
        .replace_declared::<crate::crd::BgpSpec>(Vec::new());
    world
        .index
        .replace_declared::<crate::crd::CommunitySpec>(Vec::new());
    world
        .index
        .replace_declared::<crate::crd::PeerSpec>(Vec::new());
    assert!(!world.can_judge());
    // It has no definition, so nobody declares one.
    world.absent.insert(Kind::BfdProfiles);
    assert!(world.can_judge());
}

#[test]
fn what_was_seen_before_the_api_server_was_lost_is_no_report() {
    let mut world = world();
    assert!(!world.can_report_facts());
    let facts = [
        Kind::Services,
        Kind::Namespaces,
        Kind::EndpointSlices,
        Kind::Nodes,
    ];
    world.fresh.extend(facts);
    assert!(world.can_report_facts());
    world.fresh.remove(&Kind::Nodes);
    assert!(!world.can_report_facts());
}

#[test]
fn what_is_in_use_is_reported_although_its_namespace_was_not_listed_yet() {
    let mut world = world();
    world.index.delete_namespace("default");
    world
        .index
        .replace_services(vec![service("web", Some("192.0.2.1"))]);
    let holders = world.holders();
    let names: Vec<&str> = holders
        .iter()
        .map(|it| it.claim.key.name.as_str())
        .collect();
    assert_eq!(names, ["web"]);
    // What it asks for beside that is decided when the labels are known.
    world.link = Link::Up;
    assert!(matches!(world.next(&key("web")), Next::Of(_, Step::Wait)));
}

#[test]
fn what_was_told_to_an_earlier_incarnation_is_told_again() {
    let mut world = world();
    world.link = Link::Down("x".to_owned());
    world.index.apply_service(service("web", None));
    let Next::Of(seen, Step::Tell(notice)) = world.next(&key("web")) else {
        panic!("nothing is told");
    };
    world.tell(&seen, notice.clone());
    assert_eq!(world.next(&key("web")), Next::Of(seen, Step::Wait));
    let again = ServiceState {
        uid: "v".to_owned(),
        ..service("web", None)
    };
    world.index.apply_service(again);
    assert!(matches!(
        world.next(&key("web")),
        Next::Of(_, Step::Tell(_))
    ));
    world.untell(&key("web"));
}

#[test]
fn what_another_replica_told_is_not_told_again_but_what_nobody_may_have_told_is() {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to make one"
    )]
    let start = Instant::now();
    let at = |second| start + std::time::Duration::from_secs(second);
    let mut world = world();
    world.link = Link::Down("away".to_owned());
    for name in ["own", "early", "late"] {
        world.index.apply_service(service(name, None));
    }
    let Step::Tell(notice) = step(&world, "own") else {
        panic!("nothing is told");
    };
    world.tell(&service("own", None), notice.clone());
    world.leave(&service("early", None), notice.clone(), at(1));
    world.leave(&service("late", None), notice.clone(), at(2));
    for name in ["own", "early", "late"] {
        assert_eq!(step(&world, name), Step::Wait);
    }
    // The other one was seen to live at that time, and not later.
    world.doubt_told(Some(at(2)));
    assert_eq!(step(&world, "own"), Step::Wait);
    assert_eq!(step(&world, "early"), Step::Wait);
    assert_eq!(step(&world, "late"), Step::Tell(notice.clone()));
    // There never was another one.
    world.doubt_told(None);
    assert_eq!(step(&world, "own"), Step::Wait);
    assert_eq!(step(&world, "early"), Step::Tell(notice));
}

#[test]
fn a_finding_is_told_once_and_again_when_it_comes_back() {
    let finding = |severity, message: &str| Finding {
        object: Subject::new(ResourceKind::Pool, "p"),
        field: String::new(),
        severity,
        message: message.to_owned(),
        with: Vec::new(),
    };
    let warning = finding(Severity::Warning, "w");
    let error = finding(Severity::Error, "e");
    let all = [error.clone(), warning.clone()];
    let mut world = world();
    assert_eq!(world.news(&all), all);
    assert_eq!(world.news(&all), []);
    assert_eq!(world.news(std::slice::from_ref(&error)), []);
    assert_eq!(world.news(&all), [warning]);
}

/// A Service that was made for a Gateway which asks for `asked`.
fn of_gateway(address: Option<&str>, asked: &[&str]) -> ServiceState {
    ServiceState {
        gateway_addresses: asked.iter().map(|&text| text.to_owned()).collect(),
        ..service("eg", address)
    }
}

#[test]
fn a_gateways_request_moves_no_service_that_was_given_an_address_without_it() {
    let by_name = |address: &str| v1::Claim {
        addresses: vec![address.to_owned()],
        ..v1::Claim::default()
    };
    let free = || Some(v1::Claim::default());
    let mine = "192.0.2.1";
    for (has, asked, known, expected) in [
        // Another program gave it, and never read what the Gateway asks for.
        (Some(mine), &["192.0.2.9"][..], None, &[][..]),
        (Some(mine), &["nonsense"], None, &[]),
        (Some(mine), &[mine], None, &[mine]),
        (None, &["192.0.2.9"], None, &["192.0.2.9"]),
        // So it was taken over.
        (Some(mine), &["192.0.2.9"], Some(free()), &[]),
        // What was given as the Gateway asked for it follows the Gateway.
        (
            Some(mine),
            &["192.0.2.9"],
            Some(Some(by_name(mine))),
            &["192.0.2.9"],
        ),
    ] {
        let mut world = world();
        world.index.replace_services(vec![of_gateway(has, asked)]);
        if let Some(claim) = known {
            world.book.changed(key("eg"), granted("eg", claim));
        }
        let service = world.index.service(&key("eg")).expect("it is known");
        let claim = world.claim(service).expect("a claim");
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(claim.addresses, expected, "{has:?} {asked:?}");
    }
}

#[test]
fn what_a_gateway_did_not_ask_for_is_taken_over_and_its_request_is_told() {
    let mut world = world();
    let service = of_gateway(Some("192.0.2.1"), &["192.0.2.9"]);
    world.index.replace_services(vec![service.clone()]);
    let holders = world.holders();
    let [holder] = &holders[..] else {
        panic!("{holders:?}");
    };
    assert!(holder.unknown && holder.claim.addresses.is_empty());
    world.link = Link::Up;
    let Step::Adopt(claim) = step(&world, "eg") else {
        panic!("it is taken over");
    };
    let answer = granted("eg", Some(stored(&claim, &world.settings)));
    world.book.answered(claim, answer);
    // As the status is written already but for the annotation.
    assert!(
        matches!(step(&world, "eg"), Step::Write(target, _) if target.ingress_is_met(&service))
    );
    let mut marked = service;
    let mark = (crate::service::FROM_POOL.to_owned(), String::new());
    marked.annotations.insert(mark.0, mark.1);
    world.index.replace_services(vec![marked]);
    let told = Notice::GatewayNotFollowed {
        has: vec!["192.0.2.1".parse().unwrap()],
        asked: vec!["192.0.2.9".to_owned()],
    };
    assert_eq!(step(&world, "eg"), Step::Tell(told));
}
