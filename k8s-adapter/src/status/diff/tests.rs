use std::collections::BTreeSet;

use super::super::object::{Validity, Verdict};
use super::*;
use crate::crd::{Interface, ServiceL2, SessionState};

fn web() -> ServiceKey {
    ServiceKey::new("default", "web")
}

fn topic() -> Topic {
    Topic::L2(web())
}

fn l2(node: &str, interfaces: &[&str]) -> Body {
    let interfaces = interfaces.iter().map(|&name| Interface {
        name: name.to_owned(),
    });
    Body::L2(ServiceL2 {
        node: node.to_owned(),
        service_name: "web".to_owned(),
        service_namespace: "default".to_owned(),
        interfaces: interfaces.collect(),
    })
}

fn seen(name: &str, is_ours: bool, topic: Topic, body: Option<Body>) -> Seen {
    Seen {
        kind: topic.kind(),
        name: name.to_owned(),
        uid: format!("uid of {name}"),
        version: "1".to_owned(),
        is_ours,
        topic,
        body,
        since: None,
    }
}

fn ours(name: &str, body: Body) -> Seen {
    seen(name, true, topic(), Some(body))
}

fn foreign(name: &str, body: Body) -> Seen {
    seen(name, false, topic(), Some(body))
}

fn wants(body: Option<Body>) -> Desired {
    Desired {
        objects: body.into_iter().map(|body| (topic(), body)).collect(),
        known: BTreeSet::from([StatusKind::L2]),
        kept: BTreeSet::new(),
    }
}

fn changes(desired: &Desired, seen: &[Seen]) -> Vec<Change> {
    let all = diff(desired, seen, |service| *service == web());
    all.into_values().flatten().collect()
}

fn create(body: Body, is_news: bool) -> Change {
    Change::Create { body, is_news }
}

#[test]
fn what_says_the_right_thing_is_not_written() {
    let body = l2("n1", &["eth0"]);
    assert_eq!(changes(&wants(Some(body.clone())), &[ours("a", body)]), []);
    assert_eq!(changes(&wants(None), &[]), []);
}

#[test]
fn another_node_is_another_object_and_the_old_one_goes_after_it() {
    let after = l2("n2", &["eth0"]);
    let before = ours("a", l2("n1", &["eth0"]));
    assert_eq!(
        changes(&wants(Some(after.clone())), std::slice::from_ref(&before)),
        [create(after, true), delete(&before)]
    );
}

#[test]
fn other_interfaces_of_the_same_node_are_another_word_in_the_same_object() {
    let after = l2("n1", &["eth0", "eth1"]);
    let before = ours("a", l2("n1", &["eth0"]));
    assert_eq!(
        changes(&wants(Some(after.clone())), std::slice::from_ref(&before)),
        [Change::Say {
            seen: Box::new(before),
            body: after
        }]
    );
}

#[test]
fn an_object_without_a_status_is_made_use_of() {
    let body = l2("n1", &["eth0"]);
    let blank = seen("a", true, topic(), None);
    assert_eq!(
        changes(&wants(Some(body.clone())), std::slice::from_ref(&blank)),
        [Change::Say {
            seen: Box::new(blank),
            body
        }]
    );
}

#[test]
fn what_is_said_twice_is_said_once() {
    let body = l2("n1", &["eth0"]);
    let twice = [ours("a", body.clone()), ours("b", body.clone())];
    assert_eq!(changes(&wants(Some(body)), &twice), [delete(&twice[1])]);
}

#[test]
fn what_speakers_of_metallb_said_of_our_services_is_replaced_and_no_news_if_it_was_so() {
    let body = l2("n1", &["eth0"]);
    let same = foreign("a", l2("n1", &[]));
    let other = foreign("b", l2("n2", &[]));
    assert_eq!(
        changes(&wants(Some(body.clone())), &[same.clone(), other.clone()]),
        [create(body.clone(), false), delete(&same), delete(&other)]
    );
    // Nobody of this adapter's answers: they may well.
    assert_eq!(changes(&wants(None), &[same]), []);
    // Of a Service of another controller.
    let desired = Desired {
        objects: [(Topic::L2(ServiceKey::new("default", "other")), body)].into(),
        ..wants(None)
    };
    let others = Topic::L2(ServiceKey::new("default", "other"));
    let theirs = seen("c", false, others, Some(l2("n2", &[])));
    let all = changes(&desired, &[theirs]);
    assert!(matches!(&all[..], [Change::Create { .. }]), "{all:?}");
}

#[test]
fn what_is_not_true_any_more_goes_unless_it_is_not_known() {
    let before = ours("a", l2("n1", &["eth0"]));
    let seen = std::slice::from_ref(&before);
    assert_eq!(changes(&wants(None), seen), [delete(&before)]);
    assert_eq!(changes(&Desired::default(), seen), []);
    let kept = Desired {
        kept: BTreeSet::from([topic()]),
        ..wants(None)
    };
    assert_eq!(changes(&kept, seen), []);
}

#[test]
fn sessions_of_others_are_left_alone() {
    let topic = Topic::Session {
        node: "n1".to_owned(),
        peer: "192.0.2.1".to_owned(),
        vrf: String::new(),
    };
    let state = |status: &str| {
        Some(Body::Session(SessionState {
            bgp_status: status.to_owned(),
            ..SessionState::default()
        }))
    };
    let known = BTreeSet::from([StatusKind::Session]);
    let none = Desired {
        known: known.clone(),
        ..Desired::default()
    };
    let theirs = seen("a", false, topic.clone(), state("Established"));
    let mine = seen("b", true, topic.clone(), state("Idle"));
    let both = [theirs, mine.clone()];
    assert_eq!(changes(&none, &both), [delete(&mine)]);
    let idle = Desired {
        objects: [(topic, state("Idle").expect("said"))].into(),
        known,
        ..Desired::default()
    };
    assert_eq!(changes(&idle, &both), []);
}

#[test]
fn a_verdict_has_its_name_whoever_wrote_it() {
    let topic = Topic::Configuration("controller".to_owned());
    let verdict = |result| {
        Body::Configuration(Verdict {
            result,
            summary: String::new(),
        })
    };
    let desired = Desired {
        objects: [(topic.clone(), verdict(Validity::Valid))].into(),
        known: BTreeSet::from([StatusKind::Configuration]),
        ..Desired::default()
    };
    let theirs = seen("controller", false, topic, Some(verdict(Validity::Invalid)));
    assert_eq!(
        changes(&desired, std::slice::from_ref(&theirs)),
        [Change::Say {
            seen: Box::new(theirs),
            body: verdict(Validity::Valid)
        }]
    );
    // Deleted by somebody.
    let all = changes(&desired, &[]);
    assert_eq!(all, [create(verdict(Validity::Valid), true)]);
}

#[test]
fn an_event_counts_as_a_write() {
    // The object and its status, and `nodeAssigned`.
    let body = l2("n1", &["eth0"]);
    assert_eq!(create(body.clone(), true).writes(), 3);
    assert_eq!(create(body, false).writes(), 2);
}
