use super::*;
use crate::crd::Interface;

fn metadata(topic: &Topic, body: &Body) -> ObjectMeta {
    let mut metadata = topic.metadata(body);
    let name = metadata.generate_name.clone().unwrap_or_default() + "x1";
    metadata.name.get_or_insert(name);
    metadata.uid = Some("u".to_owned());
    metadata
}

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).expect("a time"))
}

fn l2(node: &str) -> (Topic, Body) {
    let body = ServiceL2 {
        node: node.to_owned(),
        service_name: "web".to_owned(),
        service_namespace: "default".to_owned(),
        interfaces: vec![Interface {
            name: "eth0".to_owned(),
        }],
    };
    let topic = Topic::L2(ServiceKey::new("default", "web"));
    (topic, Body::L2(body))
}

fn configuration(result: Validity, summary: &str) -> (Topic, Body) {
    let verdict = Verdict {
        result,
        summary: summary.to_owned(),
    };
    let topic = Topic::Configuration("controller".to_owned());
    (topic, Body::Configuration(verdict))
}

#[test]
fn an_object_is_read_as_it_was_written() {
    let session = SessionState {
        node: "n1".to_owned(),
        peer: "2001-0db8".to_owned(),
        vrf: "red".to_owned(),
        bgp_status: "Idle".to_owned(),
        bfd_status: "N/A".to_owned(),
    };
    let session_topic = Topic::Session {
        node: "n1".to_owned(),
        peer: "2001-0db8".to_owned(),
        vrf: "red".to_owned(),
    };
    for (topic, body) in [
        l2("n1"),
        (session_topic, Body::Session(session)),
        configuration(Validity::Valid, ""),
        configuration(Validity::Invalid, "a\nb"),
        configuration(Validity::Unknown, "c"),
    ] {
        let metadata = metadata(&topic, &body);
        let status = body.status(None, at(0));
        let seen = Seen::parse(topic.kind(), &metadata, status).expect("about something");
        assert!(seen.is_ours, "{topic:?}");
        assert_eq!((&seen.topic, seen.body.as_ref()), (&topic, Some(&body)));
        // Its status is not written yet: the labels say what it is about.
        let blank = Seen::parse(topic.kind(), &metadata, json!({})).expect("about something");
        assert_eq!((&blank.topic, blank.body), (&topic, None));
    }
}

#[test]
fn labels_and_names_are_metallbs() {
    let (topic, body) = l2("n1");
    let metadata = topic.metadata(&body);
    assert_eq!(metadata.generate_name.as_deref(), Some("l2-"));
    for (name, value) in [
        ("metallb.io/node", "n1"),
        ("metallb.io/service-name", "web"),
        ("metallb.io/service-namespace", "default"),
    ] {
        assert_eq!(label(&metadata, name), Some(value));
    }
    let (topic, body) = configuration(Validity::Valid, "");
    let metadata = topic.metadata(&body);
    assert_eq!(metadata.name.as_deref(), Some("controller"));
    assert_eq!(
        label(&metadata, "metallb.io/component-type"),
        Some("controller")
    );
    // What cannot be a label: the API server would take no object with it.
    let topic = Topic::Session {
        node: "n1".to_owned(),
        peer: "p".to_owned(),
        vrf: "red_".to_owned(),
    };
    let session = Body::Session(SessionState::default());
    let names = topic.metadata(&session);
    assert_eq!(label(&names, "frrk8s.metallb.io/vrf"), None);
    assert_eq!(label(&names, "frrk8s.metallb.io/peer"), Some("p"));
    // A name of a node that is no label.
    let (topic, body) = l2(&"n".repeat(64));
    assert_eq!(label(&topic.metadata(&body), "metallb.io/node"), None);
}

#[test]
fn a_condition_is_as_old_as_what_it_says() {
    let (topic, before) = configuration(Validity::Invalid, "a");
    let metadata = metadata(&topic, &before);
    let status = before.status(None, at(100));
    let seen = Seen::parse(topic.kind(), &metadata, status).expect("about something");
    for (result, summary, since) in [
        (Validity::Invalid, "b", at(100)),
        (Validity::Valid, "", at(200)),
    ] {
        let (_, after) = configuration(result, summary);
        let status = after.status(Some(&seen), at(200));
        let found = &status["conditions"][0]["lastTransitionTime"];
        assert_eq!(*found, json!(since), "{result:?}");
    }
}

#[test]
fn what_is_going_says_nothing() {
    let (topic, body) = l2("n1");
    let mut metadata = metadata(&topic, &body);
    metadata.deletion_timestamp = Some(at(0));
    let seen = Seen::parse(topic.kind(), &metadata, body.status(None, at(0)));
    assert_eq!(seen.expect("about something").body, None);
}
