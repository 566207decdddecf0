//! A batch whose outcome nobody knew, and which is on disk.

use pharos_proto::digest::Digests;
use pharos_proto::v1;
use prost::Message as _;

use super::super::batch::OpenBatch;
use super::*;
use crate::api::convert::FieldErrors;
use crate::api::convert_announce::advertisement_from_wire;
use crate::feed::assignments::testing::Client;
use crate::feed::assignments::{PREFIX, Subscription};
use crate::state::command::Fact;
use crate::state::model::{Announcer, NodeKey, UnavailableReason};
use crate::state::names::Name;

fn node() -> NodeKey {
    NodeKey {
        cluster: Name::parse("east").expect("a name"),
        node: Name::parse("a").expect("a name"),
    }
}

/// A pool that one node of `east` announces.
async fn announced(folder: &Folder) {
    let running = Running::start(folder).await;
    let pool = apply_pool("pool", &["192.0.2.1-192.0.2.9"]);
    running.submit(pool).await.expect("pool");
    let wire = v1::Advertisement {
        name: "l2".to_owned(),
        protocol: Some(v1::advertisement::Protocol::L2(Default::default())),
        ..v1::Advertisement::default()
    };
    let mut errors = FieldErrors::new();
    let advertisement = advertisement_from_wire(&mut errors, "advertisement", Some(&wire));
    let advertisement = Box::new(errors.finish(advertisement).expect("valid"));
    let advertisement = Command::ApplyAdvertisement(advertisement);
    running.submit(advertisement).await.expect("advertisement");
    let facts = vec![Fact::Announcer {
        key: node(),
        announcer: Announcer {
            labels: Default::default(),
            member_endpoint: "192.0.2.200:7946".to_owned(),
            features: Default::default(),
        },
    }];
    let cluster = node().cluster;
    let facts = Command::Facts { cluster, facts };
    running.submit(facts).await.expect("facts");
    running.stop().await;
}

/// Follows the stream until the node announces so many addresses.
async fn follow(client: &mut Client, stream: &mut Subscription, count: usize) {
    while client.assignments.len() != count || client.synchronisations == 0 {
        let next = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
        let frame = next.expect("in time").expect("it goes on");
        let update = v1::AssignmentUpdate::decode(&frame[PREFIX..]).expect("an update");
        client.apply(update);
    }
}

/// It is the first to name a set of nodes: who does not know of it cannot know who may be answering
/// for an address that is given to the same nodes later.
#[tokio::test]
async fn what_was_in_doubt_is_published_and_what_comes_later_drains() {
    let folder = Folder::new();
    announced(&folder).await;
    let mut parts = Parts::open(&folder).await;
    let feed = parts.opened.feeds.assignments.clone();
    let task = &mut parts.opened.task;
    let mut open = OpenBatch::new(wall_time(), true);
    let first = allocate("east/default/first", |_| {});
    let reply = open.decide(&mut task.parts.state, &first, &Meta::default());
    assert_eq!(addresses(&reply.expect("granted")), ["192.0.2.1"]);
    open.refresh(&mut task.parts.state, &mut task.parts.announcements, true);
    let batch = open.close();
    task.parts.writer.commit(&batch).await.expect("on disk");
    let unknown = CommitError::Unknown("a sync failed".to_owned());
    let undone = task.not_committed(unknown, &batch, Vec::new(), Vec::new());
    assert!(undone.is_ok() && task.parts.state.allocations().count() == 0);
    assert_eq!(feed.list(&node().cluster).assignments, []);

    let running = Running::run(parts);
    running.until_ready(None).await;
    let mut stream = feed.subscribe(&node().cluster, &Digests::default());
    let mut client = Client::default();
    follow(&mut client, &mut stream, 1).await;
    let again = running.submit(allocate("east/default/first", |_| {})).await;
    let again = again.expect("it has it");
    assert_eq!(
        (addresses(&again), again.changes.len()),
        (vec!["192.0.2.1".to_owned()], 0)
    );

    // So long after a start, only what this process published counts.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(600)).await;
    tokio::time::resume();
    let later = running.submit(allocate("east/default/later", |_| {})).await;
    assert_eq!(addresses(&later.expect("granted")), ["192.0.2.2"]);
    follow(&mut client, &mut stream, 2).await;
    let released = running.submit(release("east/default/later")).await;
    let released = released.expect("released");
    let drains = released.changes.iter().filter_map(Change::unavailable);
    let drains: Vec<_> = drains.filter_map(|edit| edit.after.as_ref()).collect();
    assert_eq!(drains.len(), 1, "{:?}", released.changes);
    assert_eq!(drains[0].key.reason, UnavailableReason::Draining);
    assert_eq!(
        drains[0].awaited.as_ref().expect("a node").1.nodes,
        [node().node]
    );
    follow(&mut client, &mut stream, 1).await;
    let heir = |owner: &str| {
        allocate(owner, |wire| {
            queued(wire);
            wire.addresses = vec!["192.0.2.2".to_owned()];
        })
    };
    let waits = running
        .submit(heir("west/default/heir"))
        .await
        .expect("queued");
    let standing = &waits.allocation.expect("kept").standing;
    assert!(matches!(standing, Standing::Pending(_)), "{standing:?}");
    stream.acknowledge(&node(), client.position);
    let has = |state: &State| state.allocations().all(|one| !one.addresses.is_empty());
    let served = async { while !running.engine.read(has).await.expect("running") {} };
    let served = tokio::time::timeout(Duration::from_secs(60), served).await;
    served.expect("nobody answers for it any more");
    running.stop().await;
}
