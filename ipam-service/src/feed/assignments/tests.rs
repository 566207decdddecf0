use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures::FutureExt as _;
use pharos_proto::digest::bucket_of;
use pharos_proto::v1::assignment_update::Update;
use proptest::prelude::*;
use prost::Message as _;

use super::testing::Client;
use super::*;
use crate::state::address::Address;
use crate::state::announce::{Assignment, AssignmentKey, Member, NodeSet};

const STORE: &str = "store-1";

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn east() -> Name {
    name("east")
}

fn key(number: u16) -> AssignmentKey {
    let [high, low] = number.to_be_bytes();
    AssignmentKey {
        space: name("default"),
        address: Address::from(Ipv4Addr::new(10, 0, high, low)),
    }
}

fn set(nodes: &[&str]) -> Arc<NodeSet> {
    Arc::new(NodeSet::new(nodes.iter().map(|node| name(node))))
}

fn assignment(number: u16, nodes: &[&str]) -> Arc<Assignment> {
    Arc::new(Assignment {
        key: key(number),
        group: u64::from(number),
        nodes: nodes.iter().take(3).map(|node| name(node)).collect(),
        candidates: set(nodes).id,
        interfaces: Some(Arc::default()),
        left_out: Vec::new(),
        owners: Vec::new(),
        probe: false,
        fenced: None,
        bgp: None,
    })
}

fn upserts(numbers: impl IntoIterator<Item = u16>) -> ClusterDelta {
    ClusterDelta {
        node_sets: vec![set(&["a", "b"])],
        upserts: numbers
            .into_iter()
            .map(|number| assignment(number, &["a", "b"]))
            .collect(),
        ..ClusterDelta::default()
    }
}

fn removal(number: u16) -> ClusterDelta {
    ClusterDelta {
        removals: vec![key(number)],
        ..ClusterDelta::default()
    }
}

fn authoritative(authoritative: bool) -> ClusterDelta {
    ClusterDelta {
        authoritative: Some(authoritative),
        ..ClusterDelta::default()
    }
}

#[test]
fn an_older_stream_of_a_node_takes_no_acknowledgement_back() {
    let feed = feed(&[upserts(0..3), removal(1), removal(2)]);
    let node = NodeKey {
        cluster: east(),
        node: name("a"),
    };
    let newest = feed.place(&east()).expect("a stream");
    let subscribe = || feed.subscribe(&east(), &Digests::default());
    let (mut old, mut new) = (subscribe(), subscribe());
    new.acknowledge(&node, newest.position);
    old.acknowledge(&node, newest.position - 1);
    let place = newest;
    assert_eq!(feed.take_acknowledged(), [Acknowledged { node, place }]);
}

#[test]
fn what_was_acknowledged_before_is_no_news() {
    let feed = feed(&[upserts(0..3)]);
    let node = NodeKey {
        cluster: east(),
        node: name("a"),
    };
    let position = feed.place(&east()).expect("a stream").position;
    let mut subscription = feed.subscribe(&east(), &Digests::default());
    subscription.acknowledge(&node, position);
    assert!(feed.acknowledged().now_or_never().is_some());
    assert_eq!(feed.take_acknowledged().len(), 1);
    for repeated in [position, position - 1] {
        subscription.acknowledge(&node, repeated);
        assert!(feed.acknowledged().now_or_never().is_none());
        assert_eq!(feed.take_acknowledged(), []);
    }
}

#[test]
fn a_deleted_clusters_stream_is_acknowledged_to_its_end_and_is_not_the_next_one() {
    for deleted in [Deleted::Gone, Deleted::MadeAgain] {
        let feed = feed(&[upserts(1..=5)]);
        let node = NodeKey {
            cluster: east(),
            node: name("a"),
        };
        let mut old = feed.subscribe(&east(), &Digests::default());
        let delta = ClusterDelta {
            removals: (1..=5).map(key).collect(),
            deleted: Some(deleted),
            ..ClusterDelta::default()
        };
        let ended = feed.publish(&BTreeMap::from([(east(), delta)]));
        let place = ended[&east()];
        publish(&feed, &authoritative(true));
        assert!(!old.is_acknowledged_to_the_end());
        old.acknowledge(&node, place.position);
        assert!(old.is_acknowledged_to_the_end());
        let end = Acknowledged {
            node: node.clone(),
            place,
        };
        assert_eq!(feed.take_acknowledged(), [end]);
        let mut new = feed.subscribe(&east(), &Digests::default());
        let place = feed.place(&east()).expect("a stream");
        assert!(place.stream > ended[&east()].stream);
        new.acknowledge(&node, place.position);
        assert_eq!(feed.take_acknowledged(), [Acknowledged { node, place }]);
        assert!(!new.is_acknowledged_to_the_end());
    }
}

fn feed(deltas: &[ClusterDelta]) -> AssignmentFeed {
    let feed = AssignmentFeed::new(STORE.to_owned(), &BTreeMap::new());
    feed.publish(&BTreeMap::from([(east(), authoritative(true))]));
    for delta in deltas {
        publish(&feed, delta);
    }
    feed
}

fn publish(feed: &AssignmentFeed, delta: &ClusterDelta) {
    feed.publish(&BTreeMap::from([(east(), delta.clone())]));
}

/// Takes in all that is there; `Err` if the server has ended the subscription.
fn drain(client: &mut Client, subscription: &mut Subscription) -> Result<(), Ended> {
    while let Some(next) = subscription.next().now_or_never() {
        client.apply(update(next?));
    }
    Ok(())
}

fn update(frame: Frame) -> v1::AssignmentUpdate {
    let (prefix, message) = frame.split_at(PREFIX);
    assert_eq!(prefix[0], 0, "not compressed");
    let length = u32::from_be_bytes(prefix[1..].try_into().expect("4 bytes"));
    assert_eq!(usize::try_from(length), Ok(message.len()));
    v1::AssignmentUpdate::decode(message).expect("an update")
}

fn connect(client: &mut Client, feed: &AssignmentFeed) -> Subscription {
    client.begin();
    feed.subscribe(&east(), &client.digests())
}

fn check_equals(client: &Client, feed: &AssignmentFeed) {
    let listed = feed.list(&east());
    assert!(client.equals(&listed), "{client:?}\n{listed:?}");
}

fn buckets_of(numbers: impl IntoIterator<Item = u16>) -> BTreeSet<usize> {
    let numbers = numbers.into_iter();
    numbers
        .map(|number| {
            let address = key(number).address.to_string();
            bucket_of("default", &address).expect("valid")
        })
        .collect()
}

#[test]
fn a_new_client_gets_header_members_sets_buckets_and_synced_in_this_order() {
    let feed = feed(&[upserts(1..=20)]);
    let mut subscription = feed.subscribe(&east(), &Digests::default());
    let mut kinds = Vec::new();
    while let Some(frame) = subscription.snapshot.pop_front() {
        let update = update(frame);
        kinds.push(match update.update.expect("not empty") {
            Update::Header(_) => "header",
            Update::Members(_) => "members",
            Update::NodeSet(_) => "set",
            Update::BgpPeers(_) => "peers",
            Update::Bucket(_) => "bucket",
            Update::Synced(_) => "synced",
            Update::Changes(_) => "changes",
        });
    }
    kinds.dedup();
    assert_eq!(kinds, ["header", "members", "set", "bucket", "synced"]);
}

#[test]
fn a_client_that_has_everything_gets_no_bucket() {
    let feed = feed(&[upserts(1..=500)]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    check_equals(&client, &feed);
    let mut again = connect(&mut client, &feed);
    drain(&mut client, &mut again).expect("not behind");
    assert_eq!(client.buckets_received, 0);
    check_equals(&client, &feed);
}

#[test]
fn a_client_that_returns_gets_only_the_buckets_that_changed() {
    let feed = feed(&[upserts(1..=500)]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    drop(subscription);
    publish(&feed, &removal(7));
    publish(&feed, &upserts([1000]));
    let mut again = connect(&mut client, &feed);
    drain(&mut client, &mut again).expect("not behind");
    assert_eq!(client.buckets_received, buckets_of([7, 1000]).len());
    check_equals(&client, &feed);
}

#[test]
fn a_client_of_another_store_gets_all_buckets_that_differ_and_loses_what_is_not_there() {
    let other = feed(&[upserts(1..=50)]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &other);
    drain(&mut client, &mut subscription).expect("not behind");
    let new = feed(&[upserts(40..=90)]);
    let mut subscription = connect(&mut client, &new);
    drain(&mut client, &mut subscription).expect("not behind");
    check_equals(&client, &new);
}

#[test]
fn changes_follow_the_snapshot_without_gap_or_repetition() {
    let feed = feed(&[upserts(1..=10)]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    publish(&feed, &removal(3));
    publish(&feed, &upserts([11]));
    drain(&mut client, &mut subscription).expect("not behind");
    check_equals(&client, &feed);
    publish(&feed, &removal(11));
    drain(&mut client, &mut subscription).expect("not behind");
    check_equals(&client, &feed);
}

#[test]
fn while_the_stream_is_not_authoritative_a_client_keeps_what_it_has() {
    let feed = AssignmentFeed::new(STORE.to_owned(), &BTreeMap::new());
    publish(&feed, &authoritative(false));
    publish(&feed, &upserts([1]));
    let mut client = Client::default();
    let old = AssignmentFeed::new(STORE.to_owned(), &BTreeMap::new());
    publish(&old, &authoritative(true));
    publish(&old, &upserts([1, 2, 3]));
    let mut subscription = connect(&mut client, &old);
    drain(&mut client, &mut subscription).expect("not behind");
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    assert_eq!(client.assignments.len(), 3, "nothing is removed");
    publish(&feed, &removal(1));
    drain(&mut client, &mut subscription).expect("not behind");
    assert_eq!(client.assignments.len(), 3);
    publish(&feed, &upserts([3]));
    publish(&feed, &authoritative(true));
    drain(&mut client, &mut subscription).expect("not behind");
    assert_eq!(client.synchronisations, 3, "the header is repeated");
    check_equals(&client, &feed);
    assert_eq!(client.assignments.len(), 1);
}

#[test]
fn the_header_names_the_store() {
    let feed = feed(&[]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    assert_eq!(client.store_id, STORE);
}

#[test]
fn a_cluster_of_which_nothing_is_known_removes_nothing() {
    let feed = AssignmentFeed::new(STORE.to_owned(), &BTreeMap::new());
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    assert_eq!((client.synchronisations, client.authoritative), (1, false));
}

#[test]
fn members_are_sent_when_they_change() {
    let feed = feed(&[]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    assert!(client.members.is_empty());
    let delta = ClusterDelta {
        members: Some(vec![Member {
            node: name("a"),
            endpoint: "192.0.2.1:7946".to_owned(),
        }]),
        ..ClusterDelta::default()
    };
    publish(&feed, &delta);
    drain(&mut client, &mut subscription).expect("not behind");
    assert_eq!(client.members.len(), 1);
    check_equals(&client, &feed);
}

#[test]
fn frames_of_changes_are_at_most_64_kib_long() {
    let mut subscription = feed(&[]).subscribe(&east(), &Digests::default());
    subscription.snapshot.clear();
    let feed = feed(&[]);
    let mut client = Client::default();
    let mut subscription = connect(&mut client, &feed);
    drain(&mut client, &mut subscription).expect("not behind");
    publish(&feed, &upserts(1..=5000));
    let mut frames = 0;
    while let Some(frame) = subscription.next().now_or_never() {
        let frame = frame.expect("not behind");
        assert!(frame.len() <= 64 * 1024, "{} bytes", frame.len());
        client.apply(update(frame));
        frames += 1;
    }
    assert!(
        frames > 2,
        "5000 assignments do not fit into {frames} frames"
    );
    check_equals(&client, &feed);
}

#[test]
fn subscribers_share_the_bytes() {
    let feed = feed(&[upserts(1..=10)]);
    let mut one = feed.subscribe(&east(), &Digests::default());
    let mut other = feed.subscribe(&east(), &Digests::default());
    let pairs = one.snapshot.iter().zip(&other.snapshot);
    let shared = pairs.filter(|(one, other)| one.as_ptr() == other.as_ptr());
    // All but the header and the end, which are small.
    assert_eq!(shared.count(), one.snapshot.len() - 2);
    one.snapshot.clear();
    other.snapshot.clear();
    publish(&feed, &removal(1));
    let live = |one: &mut Subscription| one.next().now_or_never().expect("a change").expect("live");
    assert_eq!(live(&mut one).as_ptr(), live(&mut other).as_ptr());
}

#[test]
fn a_subscriber_that_falls_behind_is_ended_and_catches_up_with_its_digests() {
    let feed = feed(&[upserts(1..=5)]);
    let mut client = Client::default();
    let mut slow = connect(&mut client, &feed);
    drain(&mut client, &mut slow).expect("not behind");
    for round in 0..=LIVE_FRAMES {
        let number = u16::try_from(round).expect("small") + 100;
        publish(&feed, &upserts([number]));
    }
    assert_eq!(drain(&mut client, &mut slow), Err(Ended::FellBehind));
    let mut again = connect(&mut client, &feed);
    drain(&mut client, &mut again).expect("not behind");
    check_equals(&client, &feed);
}

#[test]
fn when_a_cluster_is_deleted_its_last_changes_arrive_and_the_subscription_ends() {
    for deleted in [Deleted::Gone, Deleted::MadeAgain] {
        let feed = feed(&[authoritative(true), upserts(1..=5)]);
        let mut client = Client::default();
        let mut subscription = connect(&mut client, &feed);
        let deletion = feed.deletion(&east());
        let delta = ClusterDelta {
            removals: (1..=5).map(key).collect(),
            deleted: Some(deleted),
            ..ClusterDelta::default()
        };
        publish(&feed, &delta);
        let ended = drain(&mut client, &mut subscription);
        assert_eq!(ended, Err(Ended::ClusterDeleted));
        assert!(client.assignments.is_empty());
        assert!(deletion.is_cancelled() && !feed.deletion(&east()).is_cancelled());
        // What is known of a cluster that was made again goes on.
        let is_known = feed.list(&east()).authoritative;
        assert_eq!(is_known, deleted == Deleted::MadeAgain);
        let mut again = connect(&mut client, &feed);
        publish(&feed, &upserts(6..=7));
        drain(&mut client, &mut again).expect("it goes on");
        check_equals(&client, &feed);
    }
}

#[test]
fn clusters_do_not_see_each_other() {
    let feed = feed(&[upserts(1..=5)]);
    assert_eq!(feed.list(&name("west")).assignments.len(), 0);
    assert_eq!(feed.list(&east()).assignments.len(), 5);
}

#[derive(Debug, Clone)]
enum Step {
    Upsert(u16, usize),
    Remove(u16),
    Disconnect,
    Connect,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u16, 1..4_usize).prop_map(|(number, nodes)| Step::Upsert(number, nodes)),
        4 => (0..40_u16).prop_map(Step::Remove),
        2 => Just(Step::Disconnect),
        3 => Just(Step::Connect),
        3 => Just(Step::Drain),
    ]
}

proptest! {
    #[test]
    fn a_client_that_comes_and_goes_always_converges(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let feed = feed(&[]);
        let mut client = Client::default();
        let mut subscription = None;
        let mut present = BTreeSet::new();
        for step in steps {
            match step {
                Step::Upsert(number, count) => {
                    let nodes = &["a", "b", "c"][..count];
                    present.insert(number);
                    publish(&feed, &ClusterDelta {
                        node_sets: vec![set(nodes)],
                        upserts: vec![assignment(number, nodes)],
                        ..ClusterDelta::default()
                    });
                }
                Step::Remove(number) => {
                    if present.remove(&number) {
                        publish(&feed, &removal(number));
                    }
                }
                Step::Disconnect => subscription = None,
                Step::Connect => subscription = Some(connect(&mut client, &feed)),
                Step::Drain => {
                    if let Some(subscription) = &mut subscription {
                        drain(&mut client, subscription).expect("not behind");
                        check_equals(&client, &feed);
                    }
                }
            }
        }
        let before = client.digests();
        let expected = feed.list(&east());
        let mut now = Client::default();
        let mut fresh = connect(&mut now, &feed);
        drain(&mut now, &mut fresh).expect("not behind");
        let differing = before.differing(&now.digests()).len();
        let mut last = connect(&mut client, &feed);
        drain(&mut client, &mut last).expect("not behind");
        prop_assert_eq!(client.buckets_received, differing, "only what differs is sent");
        prop_assert_eq!(client.assignments.len(), expected.assignments.len());
        check_equals(&client, &feed);
    }
}
