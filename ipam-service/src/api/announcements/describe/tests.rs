use std::time::Duration;

use pharos_lease::{Owner, Term};
use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcer_report::Status;
use tokio::time::Instant;

use super::*;
use crate::feed::status::{KEPT, StatusFeed};
use crate::state::announce::{Assignment, Fenced};
use crate::state::model::{NodeKey, Timestamp};
use crate::state::names::Name;

const GROUP: u64 = 7;
const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn node(text: &str) -> NodeKey {
    NodeKey {
        cluster: name("east"),
        node: name(text),
    }
}

/// What nodes `a` and `b`, which may announce both addresses of a group, have said.
struct World {
    feed: StatusFeed,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            feed: StatusFeed::new(now),
            now,
        }
    }

    fn enter(&self, who: &str) -> u64 {
        self.feed.enter(&node(who), self.now)
    }

    /// It tells all: what it owns of the group, if anything.
    fn tell(&self, who: &str, stream: u64, owned: Option<v1::Ownership>) {
        let status = Status {
            whole: true,
            node: Some(v1::NodeStatus::default()),
            owned: owned.into_iter().collect(),
            ..Status::default()
        };
        self.feed.tell(&node(who), stream, &status);
    }

    fn described(&self, address: &str, fenced: Option<Fenced>) -> v1::Announcement {
        let address: std::net::IpAddr = address.parse().expect("an address");
        let key = AssignmentKey {
            space: name("default"),
            address: address.into(),
        };
        let candidates = Arc::new(NodeSet::new([name("a"), name("b")]));
        let assignment = Assignment {
            key: key.clone(),
            group: GROUP,
            nodes: vec![name("b"), name("a")],
            candidates: candidates.id,
            interfaces: Some(Arc::default()),
            owners: Vec::new(),
            left_out: Vec::new(),
            probe: false,
            fenced,
            bgp: None,
        };
        let assigned = Assigned {
            assignment: Arc::new(assignment),
            candidates: Some(candidates),
        };
        let cluster = name("east");
        let view = self.feed.view(&cluster, self.now);
        let mut described = describe(&view, &[assigned], &[]);
        described.remove(&key).expect("described").wire
    }

    fn reason(&self, address: &str) -> Reason {
        self.described(address, None).reason()
    }
}

/// It answers these, and those nowhere.
fn owns(answered: &[&str], nowhere: &[&str]) -> v1::Ownership {
    let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    v1::Ownership {
        answers: Some(v1::ownership::Answers {
            addresses: texts(answered),
            nowhere: texts(nowhere),
        }),
        ..of_earlier(&["eth0"])
    }
}

/// As an announcer tells that says nothing of single addresses.
fn of_earlier(interfaces: &[&str]) -> v1::Ownership {
    v1::Ownership {
        group: GROUP,
        interfaces: interfaces.iter().map(ToString::to_string).collect(),
        ..v1::Ownership::default()
    }
}

/// Who is shown as an owner, and whether it is where it answers.
fn shown(announcement: &v1::Announcement) -> Vec<(&str, bool)> {
    let answerers = announcement.answerers.iter();
    let shown = answerers.map(|one| {
        let interfaces = one.ownership.as_ref().map(|it| it.interfaces.as_slice());
        (
            one.node.as_str(),
            !interfaces.unwrap_or_default().is_empty(),
        )
    });
    shown.collect()
}

fn named(owner: &str) -> Option<Fenced> {
    Some(Fenced {
        owner: Some(Owner {
            node: name(owner),
            term: Term(1),
        }),
        epoch: 1,
        next: None,
    })
}

#[test]
fn an_address_that_its_owner_answers_nowhere_is_not_shown_as_answered() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|who| world.enter(who));
    world.tell("b", b, None);
    world.tell("a", a, Some(owns(&[V4], &[V6])));
    let told = world.described(V4, None);
    assert_eq!(told.reason(), Reason::Unspecified);
    assert_eq!(shown(&told), [("a", true)]);
    let told = world.described(V6, None);
    assert_eq!(told.reason(), Reason::NoInterface);
    assert_eq!(shown(&told), [("a", false)]);
    // Of one address nothing is said of the other.
    let ownership = told.answerers[0].ownership.clone().expect("told");
    assert_eq!(ownership.answers, owns(&[], &[V6]).answers);
    world.tell("a", a, Some(owns(&[V4, V6], &[])));
    assert_eq!(world.reason(V6), Reason::Unspecified);
}

#[test]
fn an_address_that_is_asked_for_and_has_no_interface_is_told_as_such() {
    let world = World::new();
    let a = world.enter("a");
    let probes = |nowhere: &[&str]| v1::Ownership {
        probing: vec![V4.to_owned(), V6.to_owned()],
        ..owns(&[], nowhere)
    };
    world.tell("a", a, Some(probes(&[V6])));
    let of = |address: &str| {
        let told = world.described(address, None);
        (told.reason(), shown(&told) == [("a", false)])
    };
    assert_eq!(of(V4), (Reason::Probing, true));
    assert_eq!(of(V6), (Reason::NoInterface, true));
}

#[test]
fn the_addresses_of_a_fenced_group_are_shown_with_an_owner_each() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|who| world.enter(who));
    world.tell("a", a, Some(owns(&[V4], &[])));
    world.tell("b", b, Some(owns(&[V6], &[])));
    assert_eq!(shown(&world.described(V4, named("a"))), [("a", true)]);
    assert_eq!(shown(&world.described(V6, named("b"))), [("b", true)]);
}

#[test]
fn an_announcer_of_an_earlier_version_is_believed_of_the_group() {
    let world = World::new();
    let a = world.enter("a");
    world.tell("a", a, Some(of_earlier(&["eth0"])));
    assert_eq!(world.reason(V6), Reason::Unspecified);
    world.tell("a", a, Some(of_earlier(&[])));
    assert_eq!(world.reason(V6), Reason::NoInterface);
    let probes = v1::Ownership {
        probing: vec![V6.to_owned()],
        ..of_earlier(&["eth0"])
    };
    world.tell("a", a, Some(probes));
    assert_eq!(world.reason(V6), Reason::Probing);
    assert_eq!(world.reason(V4), Reason::Unspecified);
}

#[test]
fn what_an_owner_that_is_cut_off_answers_is_not_said_to_be_answered_by_nobody() {
    let mut world = World::new();
    let [a, b] = ["a", "b"].map(|who| world.enter(who));
    world.tell("a", a, Some(owns(&[V4, V6], &[])));
    world.tell("b", b, None);
    world
        .feed
        .leave(&node("a"), a, world.now, Timestamp(7_500_000));
    assert_eq!(
        world.reason(V4),
        Reason::Unspecified,
        "it most likely goes on"
    );
    world.now += KEPT;
    let told = world.described(V4, None);
    assert_eq!(told.reason(), Reason::NodeAway);
    let since = "a (since 1970-01-01T00:00:07Z)";
    assert!(told.detail.ends_with(since), "{}", told.detail);
    world
        .feed
        .leave(&node("b"), b, world.now, Timestamp(9_000_000));
    let told = world.described(V4, None);
    assert_eq!(told.reason(), Reason::NoLiveNode);
    let both = format!("b (since 1970-01-01T00:00:09Z), {since}");
    assert!(
        told.detail.ends_with(&both),
        "first what is first: {}",
        told.detail
    );
    // A day later nobody looks for it.
    let b = world.enter("b");
    world.tell("b", b, None);
    world.now += Duration::from_secs(24 * 3600);
    let told = world.described(V4, None);
    assert_eq!(told.reason(), Reason::NodeAway);
    let long = "a (for a day, or since ipam-service began)";
    assert!(told.detail.ends_with(long), "{}", told.detail);
    let a = world.enter("a");
    world.tell("a", a, None);
    assert_eq!(world.reason(V4), Reason::NotYetAnnounced);
}

#[test]
fn a_node_that_never_connected_may_answer() {
    let mut world = World::new();
    let b = world.enter("b");
    world.tell("b", b, None);
    assert_eq!(world.reason(V4), Reason::Unknown);
    world.now += KEPT;
    assert_eq!(world.reason(V4), Reason::NodeAway);
}

#[test]
fn of_a_node_that_has_a_stream_and_does_not_tell_it_is_not_known() {
    let mut world = World::new();
    let [_, b] = ["a", "b"].map(|who| world.enter(who));
    world.tell("b", b, None);
    world.now += 2 * KEPT;
    let told = world.described(V4, None);
    assert_eq!(told.reason(), Reason::Unknown);
    assert!(told.detail.ends_with(": a"), "{}", told.detail);
}

#[test]
fn of_a_fenced_address_only_the_node_that_is_named_matters() {
    let mut world = World::new();
    let b = world.enter("b");
    world.tell("b", b, None);
    let reason = |world: &World, owner| world.described(V4, named(owner)).reason();
    assert_eq!(reason(&world, "b"), Reason::NotYetAnnounced);
    assert_eq!(reason(&world, "a"), Reason::Unknown);
    world.now += KEPT;
    assert_eq!(reason(&world, "b"), Reason::NotYetAnnounced);
    assert_eq!(reason(&world, "a"), Reason::NodeAway);
    let unnamed = world.described(V4, Some(Fenced::default()));
    assert_eq!(unnamed.reason(), Reason::NoOwnerNamed);
}
