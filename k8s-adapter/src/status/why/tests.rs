//! Every reason that a Service is not reached for, and what is said of it.

use pharos_proto::v1::announcer_report::conflict::Kind;
use serde_json::{Value, json};

use super::super::picture::tests::{answerer, picture};
use super::*;
use crate::book::Answer;
use crate::claim::{Rejection, Settings};
use crate::crd::L2Spec;
use crate::eligibility::{NodeState, SliceState};
use crate::index;
use crate::policy::Declared;
use crate::service::ServiceKey;

const ADDRESS: &str = "192.0.2.1";

fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    }
}

fn service(name: &str, local: bool, addresses: &[&str]) -> ServiceState {
    let ingress: Vec<Value> = addresses.iter().map(|it| json!({ "ip": it })).collect();
    let policy = if local { "Local" } else { "Cluster" };
    let service = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": name, "uid": name,
            "annotations": { "metallb.io/ip-allocated-from-pool": "pool-x" },
        },
        "spec": { "type": "LoadBalancer", "externalTrafficPolicy": policy },
        "status": { "loadBalancer": { "ingress": ingress } },
    }));
    ServiceState::parse(&service.expect("a Service")).expect("with a name")
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// A world that has been seen whole, with one Service `web` that has one address.
fn world(local: bool) -> World {
    let mut world = World::new(settings());
    world.link = Link::Up;
    world
        .index
        .replace_services(vec![service("web", local, &[ADDRESS])]);
    world.index.replace_namespaces(vec![index::Namespace {
        name: "default".to_owned(),
        labels: [].into(),
    }]);
    world.index.replace_slices(Vec::new());
    world.index.replace_nodes(Vec::new());
    let seen = [
        index::Kind::Services,
        index::Kind::Namespaces,
        index::Kind::EndpointSlices,
        index::Kind::Nodes,
    ];
    world.fresh.extend(seen);
    world
}

fn node(name: &str, unavailable: Option<&str>) -> NodeState {
    let mut node = json!({ "metadata": { "name": name } });
    match unavailable {
        Some("NetworkUnavailable") => {
            node["status"] = json!({ "conditions": [
                { "type": "NetworkUnavailable", "status": "True" },
            ] });
        }
        Some(_) => {
            let label = "node.kubernetes.io/exclude-from-external-load-balancers";
            node["metadata"]["labels"] = json!({ label: "" });
        }
        None => {}
    }
    let node = serde_json::from_value(node).expect("a Node");
    NodeState::parse(&node).expect("with a name")
}

fn endpoints(service: &str, nodes: &[&str]) -> SliceState {
    let endpoints = nodes.iter().map(|node| {
        json!({ "addresses": ["10.244.0.9"], "nodeName": node, "conditions": { "ready": true } })
    });
    let slice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": format!("{service}-1"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(), "ports": [],
    }));
    SliceState::parse(&slice.expect("an EndpointSlice")).expect("of a Service")
}

/// What ipam-service says of the address.
fn place(reason: Reason, answerers: Vec<v1::Answerer>) -> v1::Announcement {
    v1::Announcement {
        address_space: "default".to_owned(),
        address: ADDRESS.to_owned(),
        owners: vec!["east/default/web".to_owned()],
        nodes: vec!["n1".to_owned(), "n2".to_owned()],
        answerers,
        reason: reason.into(),
        detail: "as ipam-service says".to_owned(),
        ..v1::Announcement::default()
    }
}

fn answered() -> v1::Announcement {
    place(Reason::Unspecified, vec![answerer("n1", &["eth0"], false)])
}

fn conflict(node: &str, kind: Kind) -> v1::SeenConflict {
    v1::SeenConflict {
        node: node.to_owned(),
        conflict: Some(v1::announcer_report::Conflict {
            mac: "02:00:00:00:00:07".to_owned(),
            interface: "eth0".to_owned(),
            kind: kind.into(),
            member: "n9".to_owned(),
            ..v1::announcer_report::Conflict::default()
        }),
        ..v1::SeenConflict::default()
    }
}

#[track_caller]
fn said(world: &World) -> Said {
    let web = world.index.service(&key("web")).expect("there");
    announced(world, web).expect("known").expect("said")
}

#[track_caller]
fn check(world: &World, truth: Truth, reason: &str, words: &[&str]) {
    let said = said(world);
    assert_eq!(
        (said.truth, said.reason.as_str()),
        (truth, reason),
        "{said:?}"
    );
    for word in words {
        assert!(said.message.contains(word), "{word:?} is not in {said:?}");
    }
    if !Type::Announced.is_good(&said) {
        assert!(said.message.starts_with(ADDRESS), "{said:?}");
    }
}

#[test]
fn each_reason_of_ipam_service_has_a_word_and_a_sentence() {
    let no = Truth::False;
    let detail = "as ipam-service says";
    let idle = || vec![answerer("n1", &[], false)];
    for (reason, answerers, truth, word, sentence) in [
        (
            Reason::NotAdvertised,
            vec![],
            no,
            "NotAdvertised",
            "no advertisement selects pool \"pool-x\"",
        ),
        (
            Reason::NoAnnouncer,
            vec![],
            no,
            "NoAnnouncer",
            "no live node matches: no announcer",
        ),
        (
            Reason::NoNodeSelected,
            vec![],
            no,
            "NoNodeSelected",
            "no live node matches: as ipam",
        ),
        (
            Reason::NoReadyEndpoint,
            vec![],
            no,
            "NoReadyEndpoint",
            "no ready endpoint",
        ),
        (Reason::FeatureMissing, vec![], no, "FeatureMissing", detail),
        (Reason::BgpNoSession, vec![], no, "NoBgpSession", detail),
        (
            Reason::ConflictingAdvertisements,
            vec![],
            no,
            "ConflictingAdvertisements",
            detail,
        ),
        (
            Reason::NoLiveNode,
            vec![],
            Truth::Unknown,
            "NoLiveNode",
            "no live node matches: as ipam",
        ),
        (Reason::NodeAway, vec![], Truth::Unknown, "NodeAway", detail),
        (Reason::NoOwnerNamed, vec![], no, "NoLiveLease", detail),
        (Reason::Probing, idle(), no, "Probing", detail),
        (
            Reason::NoInterface,
            idle(),
            no,
            "NoInterface",
            "node n1 is to announce it and has none",
        ),
        (
            Reason::NotYetAnnounced,
            vec![],
            no,
            "NotYetAnnounced",
            "node n1 is to announce it and does not",
        ),
    ] {
        let mut world = world(false);
        world.announced = Some(picture(vec![place(reason, answerers)]));
        check(&world, truth, word, &[sentence]);
    }
}

#[test]
fn what_is_not_known_leaves_what_is_said() {
    let web = |world: &World| {
        let web = world.index.service(&key("web")).expect("there");
        announced(world, web)
    };
    let mut world = world(false);
    // Nobody has said yet who answers for what.
    assert_eq!(web(&world), None);
    // A node is still to tell.
    world.announced = Some(picture(vec![place(Reason::Unknown, vec![])]));
    assert_eq!(web(&world), None);
    // Without ipam-service nodes go on.
    world.announced = Some(picture(vec![place(Reason::NoReadyEndpoint, vec![])]));
    for link in [Link::Connecting, Link::Down("gone".to_owned())] {
        world.link = link;
        assert_eq!(web(&world), None);
    }
    // It was given the address a moment ago.
    world.link = Link::Up;
    world.announced = Some(picture(vec![]));
    world.book.changed(key("web"), holds("web"));
    assert_eq!(web(&world), None);
}

fn holds(uid: &str) -> Answer {
    let allocation = v1::Allocation {
        owner: Some(v1::Owner {
            uid: uid.to_owned(),
            ..v1::Owner::default()
        }),
        state: v1::allocation::State::Assigned.into(),
        addresses: vec![ADDRESS.to_owned()],
        revision: 1,
        ..v1::Allocation::default()
    };
    Answer::parse(&allocation).expect("makes sense").1
}

#[test]
fn an_address_that_ipam_service_has_not_given_is_announced_by_nobody() {
    let mut world = world(false);
    world.announced = Some(picture(vec![]));
    check(
        &world,
        Truth::False,
        "NotHeld",
        &["has not given it to this Service"],
    );
    let mut others = answered();
    others.owners = vec!["east/default/other".to_owned()];
    world.announced = Some(picture(vec![others]));
    check(&world, Truth::False, "NotHeld", &[]);
}

#[test]
fn that_all_is_well_is_known_of_all_addresses() {
    let mut world = world(false);
    world.announced = Some(picture(vec![answered()]));
    assert!(Type::Announced.is_good(&said(&world)));
    // Its stream has ended: it most likely goes on.
    let unknown = place(Reason::Unspecified, vec![answerer("n1", &["eth0"], true)]);
    world.announced = Some(picture(vec![unknown]));
    assert!(Type::Announced.is_good(&said(&world)));
    let both = service("web", false, &["2001:db8::1", ADDRESS]);
    world.index.apply_service(both);
    let mut second = place(Reason::NoInterface, vec![answerer("n1", &[], false)]);
    second.address = "2001:db8::1".to_owned();
    world.announced = Some(picture(vec![answered(), second]));
    let said = said(&world);
    assert_eq!(
        (said.truth, said.reason.as_str()),
        (Truth::False, "NoInterface")
    );
    assert!(said.message.starts_with("2001:db8::1: "), "{said:?}");
}

#[test]
fn a_service_without_an_address_says_nothing_of_who_answers() {
    let mut world = world(false);
    world.index.apply_service(service("web", false, &[]));
    let web = world.index.service(&key("web")).expect("there");
    assert_eq!(announced(&world, web), Some(None));
}

#[test]
fn nodes_that_are_excluded_are_named_with_the_reason() {
    let mut world = world(false);
    let all = vec![
        node("n1", Some("NetworkUnavailable")),
        node("n2", Some("excluded")),
    ];
    world.index.replace_nodes(all);
    world.announced = Some(picture(vec![place(Reason::NoAnnouncer, vec![])]));
    let names = [
        "n1 (NetworkUnavailable)",
        "n2 (ExcludedFromExternalLoadBalancers)",
    ];
    check(&world, Truth::False, "NodesUnavailable", &names);
    // Some may, and have no announcer, or are not selected.
    world.index.apply_node(node("n2", None));
    check(&world, Truth::False, "NoAnnouncer", &names[..1]);
    world.announced = Some(picture(vec![place(Reason::NoNodeSelected, vec![])]));
    check(&world, Truth::False, "NoNodeSelected", &names[..1]);
    // --ignore-exclude-lb
    world.settings.ignore_exclude_lb = true;
    world
        .index
        .replace_nodes(vec![node("n2", Some("excluded"))]);
    world.announced = Some(picture(vec![place(Reason::NoAnnouncer, vec![])]));
    check(&world, Truth::False, "NoAnnouncer", &[]);
}

#[test]
fn under_local_the_nodes_that_have_endpoints_are_named() {
    let mut world = world(true);
    world.announced = Some(picture(vec![place(Reason::NoReadyEndpoint, vec![])]));
    check(
        &world,
        Truth::False,
        "NoReadyEndpoint",
        &["no ready endpoint"],
    );
    world.index.apply_slice(endpoints("web", &["n7", "n8"]));
    check(
        &world,
        Truth::False,
        "NoReadyEndpoint",
        &["n7, n8", "externalTrafficPolicy is Local"],
    );
    // What is not seen is not said.
    world.fresh.clear();
    check(
        &world,
        Truth::False,
        "NoReadyEndpoint",
        &["as ipam-service says"],
    );
}

#[test]
fn interfaces_that_advertisements_name_are_named_where_nobody_answers() {
    let mut world = world(false);
    let advertisement = |name: &str, pool: &str, interfaces: &[&str]| Declared {
        name: name.to_owned(),
        labels: [].into(),
        annotations: [].into(),
        spec: Ok(L2Spec {
            pools: vec![pool.to_owned()],
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            ..L2Spec::default()
        }),
    };
    world.announced = Some(picture(vec![place(Reason::NotYetAnnounced, vec![])]));
    let declared = vec![
        advertisement("a", "pool-x", &["eth8", "eth9"]),
        advertisement("b", "another", &[]),
    ];
    world.index.replace_declared(declared);
    check(
        &world,
        Truth::False,
        "NotYetAnnounced",
        &["on interfaces eth8, eth9 only"],
    );
    world
        .index
        .apply_declared(advertisement("c", "pool-x", &[]));
    let message = said(&world).message;
    assert!(!message.contains("eth8"), "{message}");
}

#[test]
fn who_shares_an_address_is_told_what_keeps_its_own_traffic_away() {
    let mut world = world(false);
    let mut shared = answered();
    shared.owners = vec![
        "east/default/other".to_owned(),
        "east/default/web".to_owned(),
    ];
    world.announced = Some(picture(vec![shared.clone()]));
    // The other has an endpoint, and this one has none.
    check(
        &world,
        Truth::False,
        "NoReadyEndpoint",
        &["no ready endpoint"],
    );
    world.index.apply_slice(endpoints("web", &["n1"]));
    assert!(Type::Announced.is_good(&said(&world)));
    shared.not_announced_here = vec!["east/default/web".to_owned()];
    world.announced = Some(picture(vec![shared]));
    check(
        &world,
        Truth::False,
        "NotAnnouncedHere",
        &["shared with default/other"],
    );
}

#[test]
fn another_machine_is_named_with_its_address_and_where_it_was_seen() {
    let mut world = world(false);
    let words = ["MAC 02:00:00:00:00:07", "interface eth0", "node n1"];
    let seen = |mut announcement: v1::Announcement, conflicts: &[(&str, Kind)]| {
        let all = conflicts.iter().map(|(node, kind)| conflict(node, *kind));
        announcement.conflicts = all.collect();
        Some(picture(vec![announcement]))
    };
    world.announced = seen(answered(), &[("n2", Kind::Foreign), ("n1", Kind::Foreign)]);
    check(&world, Truth::Unknown, "AddressConflict", &words);
    let probing = place(Reason::Probing, vec![answerer("n1", &["eth0"], false)]);
    world.announced = seen(probing, &[("n1", Kind::Foreign)]);
    check(&world, Truth::False, "AddressConflict", &words);
    world.announced = seen(answered(), &[("n1", Kind::KernelAnswers)]);
    check(
        &world,
        Truth::True,
        "KernelAnswers",
        &["node n9", "strictARP"],
    );
    world.announced = seen(
        answered(),
        &[("n1", Kind::KernelAnswers), ("n2", Kind::Foreign)],
    );
    check(&world, Truth::Unknown, "AddressConflict", &["node n2"]);
}

#[test]
fn each_trouble_with_an_address_has_a_word_of_its_own() {
    use v1::refusal::Reason as Rule;
    let failed = |cause| Notice::AllocationFailed {
        cause,
        why: "because".to_owned(),
    };
    for (notice, word) in [
        (failed(Cause::Rule(Rule::NoFreeAddress)), "NoFreeAddress"),
        (failed(Cause::Rule(Rule::QuotaExceeded)), "QuotaExceeded"),
        (failed(Cause::Rule(Rule::OutsideGrant)), "OutsideGrant"),
        (failed(Cause::Rule(Rule::Recovering)), "Recovering"),
        (failed(Cause::Rule(Rule::Unspecified)), "Refused"),
        (failed(Cause::NotTaken), "Refused"),
        (failed(Cause::InvalidRequest), "InvalidRequest"),
        (failed(Cause::IpamServiceAway), "IpamServiceAway"),
        (failed(Cause::InventoryOpen), "InventoryOpen"),
        (failed(Cause::Failing), "Failing"),
        (
            Notice::LoadBalancerFailed(Rejection::TwoRequests),
            "InvalidRequest",
        ),
        (Notice::NoFamily(Rejection::NoClusterIps), "NoUsableFamily"),
        (Notice::NothingGiven, "InternalError"),
    ] {
        let said = assigned(&notice, Standing::Nothing).expect("trouble");
        assert_eq!((said.truth, said.reason.as_str()), (Truth::False, word));
        assert!(!said.message.is_empty());
        let truth = |standing| assigned(&notice, standing).expect("trouble").truth;
        // It keeps what it has.
        assert_eq!(truth(Standing::Holds), Truth::True);
        assert_eq!(truth(Standing::Shows), Truth::Unknown);
    }
    let conflict = Notice::AdoptionConflict {
        has: Vec::new(),
        why: "held by cluster west".to_owned(),
    };
    let said = assigned(&conflict, Standing::Shows).expect("trouble");
    assert_eq!(
        (said.truth, said.reason.as_str()),
        (Truth::False, "AdoptionConflict")
    );
    let lacks = Notice::NoAdditional {
        pool: "p".to_owned(),
        family: "IPv6",
    };
    assert_eq!(assigned(&lacks, Standing::Holds), None);
}

#[test]
fn only_trouble_and_its_end_differ_from_what_is_said() {
    let mut world = world(false);
    let web = (key("web"), Type::Announced);
    world.announced = Some(picture(vec![answered()]));
    assert_eq!(differing(&world), BTreeMap::new());
    world.announced = Some(picture(vec![place(Reason::NoReadyEndpoint, vec![])]));
    let differs = differing(&world);
    let [(found, wanted)] = differs.iter().collect::<Vec<_>>()[..] else {
        panic!("{differs:?}");
    };
    assert_eq!(*found, web);
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
    let mut says = service("web", false, &[ADDRESS]);
    says.conditions.set(Type::Announced, wanted, &now);
    world.index.apply_service(says);
    assert_eq!(differing(&world), BTreeMap::new());
    world.announced = Some(picture(vec![answered()]));
    let over = differing(&world);
    let good = over.get(&web).and_then(Option::as_ref);
    assert!(
        good.is_some_and(|said| Type::Announced.is_good(said)),
        "{over:?}"
    );
    // What was told of its claim.
    let trouble = Notice::AllocationFailed {
        cause: Cause::NotTaken,
        why: "because".to_owned(),
    };
    let waits = service("waits", false, &[]);
    world.index.apply_service(waits.clone());
    world.tell(&waits, trouble);
    assert!(differing(&world).contains_key(&(key("waits"), Type::Assigned)));
    world.untell(&key("waits"));
    assert!(!differing(&world).contains_key(&(key("waits"), Type::Assigned)));
}

#[test]
fn what_concerns_all_services_at_once_has_to_last_longer() {
    let trouble = |reason| Some(Said::new(Truth::False, reason, "m"));
    for (wanted, expected) in [
        (trouble("NoReadyEndpoint"), PATIENCE),
        (trouble("NoAnnouncer"), PATIENCE_WITH_NODES),
        (trouble("NodesUnavailable"), PATIENCE_WITH_NODES),
        (trouble("NoLiveNode"), PATIENCE_WITH_NODES),
        (trouble("NodeAway"), PATIENCE_WITH_NODES),
        (Some(Type::Announced.good("")), STEADY),
        (None, STEADY),
    ] {
        assert_eq!(patience(&wanted), expected, "{wanted:?}");
    }
}

#[test]
fn a_message_names_as_many_as_people_read() {
    let names = |count| listed((0..count).map(|number| format!("n{number}")));
    assert_eq!(names(5), "n0, n1, n2, n3, n4");
    assert_eq!(names(7), "n0, n1, n2, n3, n4 and 2 more");
}
