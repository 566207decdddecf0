//! What each event of a watch touches.

use serde_json::json;

use super::*;
use crate::crd::{BgpSpec, L2Spec, PeerSpec, PoolSpec, PoolStatus};
use crate::policy::Declared;

fn service(name: &str, version: &str) -> ServiceState {
    let service = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": name, "uid": "u", "resourceVersion": version,
        },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"] },
    }));
    ServiceState::parse(&service.expect("a Service")).expect("with a name")
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn namespace(label: &str) -> Namespace {
    Namespace {
        name: "default".to_owned(),
        labels: Labels::from([("team".to_owned(), label.to_owned())]),
    }
}

fn slice(name: &str, usable: bool) -> SliceState {
    SliceState {
        key: SliceKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        },
        service: Some(key("web")),
        usable,
        nodes: BTreeSet::new(),
    }
}

fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    }
}

#[test]
fn a_kind_counts_once_it_has_been_listed_even_empty() {
    let mut index = Index::default();
    assert!(!index.has(Kind::Services));
    index.replace_services(Vec::new());
    assert!(index.has(Kind::Services) && !index.has(Kind::Nodes));
}

#[test]
fn a_service_that_a_list_lacks_is_unlisted_and_not_gone() {
    let mut index = Index::default();
    index.replace_services(vec![service("a", "1"), service("b", "1")]);
    let touched = index.replace_services(vec![service("a", "1")]);
    assert!(touched.unlisted && touched.services.is_empty());
    assert_eq!(touched.backends, BTreeSet::from([key("b")]));
    assert!(index.service(&key("b")).is_none() && !index.is_gone(&key("b"), "u"));
    index.confirm_gone(key("b"), "u".to_owned());
    assert!(index.is_gone(&key("b"), "u") && !index.is_gone(&key("b"), "v"));
    // Whoever has no uid is whoever went.
    assert!(index.is_gone(&key("b"), "") && !index.is_gone(&key("a"), ""));
    index.forget_gone(&key("b"));
    assert!(!index.is_gone(&key("b"), "u"));
}

#[test]
fn an_incarnation_is_gone_when_its_deletion_or_its_successor_was_seen() {
    let successor = || ServiceState {
        uid: "v".to_owned(),
        ..service("a", "2")
    };
    let mut index = Index::default();
    index.replace_services(vec![service("a", "1")]);
    index.apply_service(service("a", "2"));
    assert!(!index.is_gone(&key("a"), "u"));
    index.delete_service(&service("a", "3"));
    assert!(index.is_gone(&key("a"), "u") && index.service(&key("a")).is_none());
    index.apply_service(successor());
    assert!(index.is_gone(&key("a"), "u") && !index.is_gone(&key("a"), "v"));

    let mut index = Index::default();
    index.replace_services(vec![service("a", "1")]);
    index.replace_services(vec![successor()]);
    assert!(index.is_gone(&key("a"), "u") && !index.is_gone(&key("a"), "v"));
}

#[test]
fn a_relist_touches_only_what_changed() {
    let mut index = Index::default();
    index.replace_services(vec![service("a", "1"), service("b", "1")]);
    let touched = index.replace_services(vec![service("a", "1"), service("b", "2")]);
    assert_eq!(touched.services, BTreeSet::from([key("b")]));
}

#[test]
fn an_answer_to_a_call_never_replaces_something_newer() {
    let mut index = Index::default();
    index.apply_service(service("a", "10"));
    index.answered(service("a", "9"));
    assert_eq!(
        index
            .service(&key("a"))
            .map(|it| it.resource_version.as_str()),
        Some("10")
    );
    index.answered(service("a", "11"));
    assert_eq!(
        index
            .service(&key("a"))
            .map(|it| it.resource_version.as_str()),
        Some("11")
    );
    index.answered(service("gone", "12"));
    assert!(index.service(&key("gone")).is_none());
    let successor = |version: &str| ServiceState {
        uid: "v".to_owned(),
        ..service("a", version)
    };
    index.answered(successor("10"));
    assert!(!index.is_gone(&key("a"), "u"));
    index.answered(successor("12"));
    assert!(index.is_gone(&key("a"), "u"));
}

#[test]
fn a_namespaces_labels_touch_its_services_and_no_others() {
    let mut index = Index::default();
    let mut elsewhere = service("c", "1");
    elsewhere.key.namespace = "defaults".to_owned();
    index.replace_services(vec![service("a", "1"), service("b", "1"), elsewhere]);
    let touched = index.apply_namespace(namespace("x"));
    assert_eq!(touched.services, BTreeSet::from([key("a"), key("b")]));
    assert_eq!(index.apply_namespace(namespace("x")), Touched::default());
    assert_eq!(
        index.replace_namespaces(vec![namespace("x")]),
        Touched::default()
    );
    assert_eq!(
        index
            .replace_namespaces(vec![namespace("y")])
            .services
            .len(),
        2
    );
}

#[test]
fn backends_follow_all_slices_of_our_services() {
    let mut index = Index::default();
    index.replace_services(vec![service("web", "1")]);
    assert_eq!(
        index
            .backends(&key("web"), &settings())
            .map(|it| it.any_node),
        Some(false)
    );
    assert_eq!(
        index.apply_slice(slice("s1", true)).backends,
        BTreeSet::from([key("web")])
    );
    assert_eq!(index.apply_slice(slice("s1", true)), Touched::default());
    index.apply_slice(slice("s2", false));
    assert_eq!(
        index
            .backends(&key("web"), &settings())
            .map(|it| it.any_node),
        Some(true)
    );
    index.delete_slice(&slice("s1", true).key);
    assert_eq!(
        index
            .backends(&key("web"), &settings())
            .map(|it| it.any_node),
        Some(false)
    );
    assert_eq!(
        index.replace_slices(vec![slice("s2", false)]),
        Touched::default()
    );
    assert_eq!(index.replace_slices(Vec::new()).backends.len(), 1);
    let other = Settings {
        lb_class: Some("x".to_owned()),
        ..settings()
    };
    assert_eq!(index.backends(&key("web"), &other), None);
}

#[test]
fn a_slice_that_goes_over_to_another_service_leaves_the_first() {
    let mut index = Index::default();
    index.replace_services(vec![service("web", "1"), service("other", "1")]);
    let any_node = |index: &Index, name: &str| {
        let backends = index.backends(&key(name), &settings());
        backends.map(|it| it.any_node)
    };
    let of = |service: Option<&str>| SliceState {
        service: service.map(key),
        ..slice("s", true)
    };
    index.apply_slice(of(Some("web")));
    let both = BTreeSet::from([key("web"), key("other")]);
    assert_eq!(index.apply_slice(of(Some("other"))).backends, both);
    assert_eq!(any_node(&index, "web"), Some(false));
    assert_eq!(any_node(&index, "other"), Some(true));
    let touched = index.apply_slice(of(None));
    assert_eq!(touched.backends, BTreeSet::from([key("other")]));
    assert_eq!(any_node(&index, "other"), Some(false));
    assert_eq!(index.replace_slices(vec![of(None)]), Touched::default());
}

#[test]
fn a_heartbeat_of_a_node_touches_nothing() {
    let mut index = Index::default();
    let fact = |reason: &str| v1::NodeFact {
        name: "n1".to_owned(),
        unavailable_reason: reason.to_owned(),
        ..v1::NodeFact::default()
    };
    let node = |reason: &str| NodeState {
        fact: fact(reason),
        addresses: BTreeSet::new(),
    };
    assert_eq!(index.replace_nodes(vec![node("")]).nodes.len(), 1);
    assert_eq!(index.apply_node(node("")), Touched::default());
    assert_eq!(index.apply_node(node("x")).nodes.len(), 1);
    assert_eq!(index.replace_nodes(vec![node("x")]), Touched::default());
    assert_eq!(index.replace_nodes(Vec::new()).nodes.len(), 1);
}

#[test]
fn an_empty_list_declares_nothing_unless_something_was_declared() {
    let mut index = Index::default();
    let declared = |name: &str| Declared {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: Ok(L2Spec::default()),
    };
    let kind = Kind::L2Advertisements;
    index.replace_declared::<L2Spec>(Vec::new());
    assert!(index.has(kind) && !index.declares(kind));
    index.apply_declared(declared("a"));
    assert!(index.declares(kind));
    index.delete_declared::<L2Spec>("a");
    assert!(index.declares(kind), "the last one was seen to go");
    index.replace_declared(vec![declared("a")]);
    assert!(index.declares(kind));
    index.replace_declared::<L2Spec>(Vec::new());
    assert!(index.declares(kind), "the last one went unseen");
    assert!(index.objects().l2.iter().next().is_none());
    // The API server does not know the kind any more, and then knows it again.
    index.undeclare(kind);
    index.replace_declared::<L2Spec>(Vec::new());
    assert!(!index.declares(kind));
}

#[test]
fn the_status_of_a_pool_is_no_change_of_policy() {
    let mut index = Index::default();
    let pool = |available, addresses: &str| PoolState {
        uid: String::new(),
        declared: Declared {
            name: "p".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: Ok(PoolSpec {
                addresses: vec![addresses.to_owned()],
                ..PoolSpec::default()
            }),
        },
        status: Some(PoolStatus {
            available_ipv4: available,
            ..PoolStatus::default()
        }),
    };
    assert!(index.apply_pool(pool(1, "192.0.2.0/28")).policy);
    assert!(!index.apply_pool(pool(2, "192.0.2.0/28")).policy);
    assert!(index.apply_pool(pool(2, "192.0.2.0/27")).policy);
    assert!(index.delete_pool("p").policy);
    assert!(index.declares(Kind::Pools));
}

/// A node with an address and a label.
fn place(address: &str, rack: &str) -> NodeState {
    NodeState {
        fact: v1::NodeFact {
            name: "n1".to_owned(),
            labels: [("rack".to_owned(), rack.to_owned())].into(),
            ..v1::NodeFact::default()
        },
        addresses: BTreeSet::from([address.parse().expect("an address")]),
    }
}

#[test]
fn a_change_of_a_node_touches_the_verdict_only_if_that_could_be_another_one() {
    let mut index = Index::default();
    assert!(
        index.replace_nodes(Vec::new()).policy,
        "nodes were not known"
    );
    assert!(index.apply_node(place("192.0.2.1", "1")).policy);
    assert!(
        !index.apply_node(place("192.0.2.1", "2")).policy,
        "nobody asks for labels"
    );
    assert!(
        index.apply_node(place("192.0.2.2", "2")).policy,
        "it may be in a pool"
    );
    assert!(!index.replace_nodes(vec![place("192.0.2.2", "2")]).policy);
    index.apply_declared(Declared {
        name: "peer".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: Ok(PeerSpec::default()),
    });
    assert!(index.apply_node(place("192.0.2.2", "1")).policy);
    assert!(index.delete_node("n1").policy);
}

#[test]
fn a_kind_that_was_never_listed_is_not_known_to_have_no_objects() {
    let mut index = Index::default();
    assert!(!index.objects().bgp.lacks("a") && index.objects().nodes.is_none());
    index.replace_declared::<BgpSpec>(Vec::new());
    index.replace_pools(Vec::new());
    index.replace_nodes(Vec::new());
    let objects = index.objects();
    assert!(objects.bgp.lacks("a") && objects.pools.lacks("a") && !objects.peers.lacks("a"));
    assert_eq!(objects.nodes.map(|nodes| nodes.len()), Some(0));
}

fn status_object(name: &str, version: &str) -> Seen {
    let metadata = serde_json::from_value(json!({
        "name": name, "uid": name, "resourceVersion": version,
    }));
    let metadata = metadata.expect("metadata");
    Seen::parse(StatusKind::L2, &metadata, json!({ "node": "n1" })).expect("with a name")
}

#[test]
fn a_list_forgets_no_status_object_that_was_written_since_it_began() {
    let mut index = Index::default();
    let names = |index: &Index| {
        let all = index
            .statuses()
            .map(|seen| format!("{} {}", seen.name, seen.version));
        all.collect::<Vec<String>>()
    };
    index.replace_statuses(StatusKind::L2, vec![status_object("old", "1")]);
    index.see_status(status_object("before", "2"));
    index.list_statuses(StatusKind::L2);
    index.see_status(status_object("made", "5"));
    index.see_status(status_object("changed", "6"));
    // Made when nothing of that was there.
    let list = vec![status_object("before", "2"), status_object("changed", "3")];
    index.replace_statuses(StatusKind::L2, list);
    assert_eq!(names(&index), ["before 2", "changed 6", "made 5"]);
    // The next one begins when it is.
    index.list_statuses(StatusKind::L2);
    index.replace_statuses(StatusKind::L2, vec![status_object("changed", "6")]);
    assert_eq!(names(&index), ["changed 6"]);
}
