//! Watchers of a real database, driven step by step.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::feed::testing::{Book, Snapshot, key, owner};
use crate::state::address::Address;
use crate::state::command::Command;
use crate::store::OwnerFilter;
use crate::testing::{allocate, apply_pool, release};

/// A client that applies what it is told.
struct Client {
    watcher: ChangeWatcher,
    held: Snapshot,
    revision: Revision,
}

impl Client {
    fn of(book: &Book, after: Revision) -> Self {
        Self {
            watcher: book
                .changes
                .watch(book.source(), LogFilter::default(), after),
            held: book.snapshots[&after].clone(),
            revision: after,
        }
    }

    /// Begins again where it stopped.
    fn reconnect(self, book: &Book) -> Self {
        let (filter, after) = (LogFilter::default(), self.revision);
        Self {
            watcher: book.changes.watch(book.source(), filter, after),
            ..self
        }
    }

    /// Takes one response: the next revision, or a bookmark at the present one.
    async fn next(&mut self, book: &Book) {
        let response = next(&mut self.watcher).await;
        match response.r#type() {
            Type::Bookmark => {
                assert_eq!(response.revision, self.revision);
                assert_eq!(response.store_id, "store");
            }
            Type::Change => {
                let change = response.change.expect("a change");
                assert_eq!(change.revision, response.revision);
                assert_eq!(
                    change.revision,
                    self.revision + 1,
                    "no gap and no repetition"
                );
                self.revision = change.revision;
                apply(&mut self.held, change);
                assert_eq!(self.held, book.snapshots[&self.revision]);
            }
            Type::Unspecified => panic!("a type"),
        }
    }

    async fn until(&mut self, book: &Book, revision: Revision) {
        while self.revision < revision {
            self.next(book).await;
        }
    }
}

async fn next(watcher: &mut ChangeWatcher) -> v1::WatchChangesResponse {
    let next = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await;
    let frame = next.expect("in time").expect("the watch goes on");
    v1::WatchChangesResponse::decode(frame).expect("a response")
}

fn apply(held: &mut Snapshot, change: v1::Change) {
    use v1::change::Subject;
    match change.subject.expect("a subject") {
        Subject::Allocation(edit) => {
            let name = key(edit
                .after
                .as_ref()
                .or(edit.before.as_ref())
                .expect("an end"));
            let before = match edit.after {
                Some(after) => held.allocations.insert(name, after),
                None => held.allocations.remove(&name),
            };
            assert_eq!(before, edit.before, "what the change says was before");
        }
        Subject::Pool(edit) => {
            let after = edit.after.expect("pools are not deleted here");
            let before = held.pools.insert(after.name.clone(), after);
            assert_eq!(before, edit.before, "what the change says was before");
        }
        Subject::Cluster(edit) => {
            let after = edit.after.expect("clusters are not deleted here");
            let before = held.clusters.insert(after.name.clone(), after);
            assert_eq!(before, edit.before, "what the change says was before");
        }
        other @ (Subject::Advertisement(_)
        | Subject::BgpPeer(_)
        | Subject::BfdProfile(_)
        | Subject::Reservation(_)
        | Subject::Unavailable(_)
        | Subject::Quota(_)
        | Subject::AddressSpace(_)) => {
            panic!("{other:?}")
        }
    }
}

/// Few owners, so that they meet; a pool that shrinks, so that decisions follow.
fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => (0..6_usize, 0..3_u16, any::<bool>()).prop_map(|(number, port, queue)| {
            allocate(&owner(number), |wire| {
                wire.ports[0].port = 80 + u32::from(port);
                if queue {
                    wire.if_refused = v1::allocate_request::IfRefused::Queue.into();
                }
            })
        }),
        3 => (0..6_usize).prop_map(|number| release(&owner(number))),
        1 => (0..4_u8).prop_map(|last| {
            apply_pool("pool", &[&format!("192.0.2.0-192.0.2.{last}")])
        }),
    ]
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Command>),
    /// The client of this number takes so many responses, if it has so many to come.
    Take(usize, u64),
    Reconnect(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => proptest::collection::vec(commands(), 1..6).prop_map(Step::Commit),
        4 => (0..3_usize, 1..9_u64).prop_map(|(client, count)| Step::Take(client, count)),
        1 => (0..3_usize).prop_map(Step::Reconnect),
    ]
}

proptest! {
    // Each case opens a database and syncs some ten times.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// I7: at every revision the snapshot where a client began and the changes since then are the
    /// state at that revision, whenever it reads and however often it begins again.
    #[test]
    fn a_snapshot_and_the_changes_after_it_are_the_state_at_every_revision(
        steps in proptest::collection::vec(steps(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let mut book = Book::new().await;
            let begin = book.state.revision();
            let mut clients: Vec<Option<Client>> =
                [0, begin, begin].map(|after| Some(Client::of(&book, after))).into();
            for step in steps {
                match step {
                    Step::Commit(commands) => book.commit(&commands).await,
                    Step::Take(client, count) => {
                        let client = clients[client].as_mut().expect("connected");
                        let until = book.state.revision().min(client.revision + count);
                        client.until(&book, until).await;
                    }
                    Step::Reconnect(client) => {
                        let gone = clients[client].take().expect("connected");
                        clients[client] = Some(gone.reconnect(&book));
                    }
                }
            }
            for client in clients.iter_mut().flatten() {
                client.until(&book, book.state.revision()).await;
            }
        });
    }
}

#[tokio::test]
async fn a_client_that_reads_late_costs_no_queue_and_misses_nothing() {
    let mut book = Book::new().await;
    let mut client = Client::of(&book, book.state.revision());
    client.next(&book).await;
    for number in 0..LIVE_BATCHES * 3 {
        book.commit(&[
            allocate(&owner(number % 7), |_| {}),
            release(&owner((number + 3) % 7)),
        ])
        .await;
    }
    assert!(client.watcher.ready.is_empty());
    client.until(&book, book.state.revision()).await;
    // And it is live again.
    book.commit(&[
        release(&owner(0)),
        release(&owner(3)),
        allocate(&owner(1), |_| {}),
    ])
    .await;
    client.until(&book, book.state.revision()).await;
}

#[tokio::test]
async fn a_change_is_encoded_once_for_all_who_watch() {
    let mut book = Book::new().await;
    let after = book.state.revision();
    let mut watchers = [0; 2].map(|_| {
        book.changes
            .watch(book.source(), LogFilter::default(), after)
    });
    for watcher in &mut watchers {
        // The bookmark, and from the log to the live feed.
        next(watcher).await;
        watcher.advance().await.expect("the log is read");
        assert_eq!(watcher.phase, Phase::Live);
    }
    book.commit(&[allocate(&owner(1), |_| {})]).await;
    let [one, two] = &mut watchers;
    let (one, two) = (
        one.next().await.expect("a frame"),
        two.next().await.expect("a frame"),
    );
    assert_eq!((one.as_ptr(), one.len()), (two.as_ptr(), two.len()));
}

#[tokio::test]
async fn filters_let_the_same_through_live_and_from_the_log() {
    let mut book = Book::new().await;
    let begin = book.state.revision();
    let filters = [
        LogFilter::default(),
        LogFilter {
            cluster: "c1".to_owned(),
            ..LogFilter::default()
        },
        LogFilter {
            owner: Some(OwnerFilter {
                cluster: "c0".to_owned(),
                namespace: Some("ns".to_owned()),
                name: Some("svc2".to_owned()),
            }),
            ..LogFilter::default()
        },
        LogFilter {
            owner: Some(OwnerFilter {
                cluster: "c0".to_owned(),
                ..OwnerFilter::default()
            }),
            ..LogFilter::default()
        },
        LogFilter {
            address: Some((
                "default".to_owned(),
                Address::from(std::net::Ipv4Addr::new(192, 0, 2, 0)),
            )),
            ..LogFilter::default()
        },
        LogFilter {
            allocations_only: true,
            ..LogFilter::default()
        },
    ];
    let mut live: Vec<ChangeWatcher> = filters
        .iter()
        .map(|filter| book.changes.watch(book.source(), filter.clone(), begin))
        .collect();
    for watcher in &mut live {
        next(watcher).await;
        watcher.advance().await.expect("the log is read");
        assert_eq!(watcher.phase, Phase::Live);
    }
    for number in 0..6 {
        book.commit(&[
            allocate(&owner(number), |_| {}),
            apply_pool("more", &["10.0.0.0/24"]),
        ])
        .await;
        book.commit(&[release(&owner(number / 2))]).await;
    }
    let end = book.state.revision();
    let mut counts = Vec::new();
    for (filter, mut live) in filters.into_iter().zip(live) {
        let mut late = book.changes.watch(book.source(), filter.clone(), begin);
        next(&mut late).await;
        let mut seen: [Vec<Bytes>; 2] = Default::default();
        for (watcher, seen) in [&mut live, &mut late].into_iter().zip(&mut seen) {
            while watcher.position < end || !watcher.ready.is_empty() {
                match watcher.ready.pop_front() {
                    Some(frame) => seen.push(frame),
                    None => watcher.advance().await.expect("the watch goes on"),
                }
            }
        }
        let [live, late] = seen;
        assert_eq!(live, late, "{filter:?}");
        counts.push(live.len());
    }
    assert!(
        counts.iter().all(|count| *count > 0 && *count <= counts[0]),
        "{counts:?}"
    );
    assert!(
        counts[1..].iter().all(|count| *count < counts[0]),
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_watcher_whose_place_in_the_log_is_gone_is_told_so() {
    use tonic_types::StatusExt as _;
    let mut book = Book::new().await;
    let begin = book.state.revision();
    let mut late = book
        .changes
        .watch(book.source(), LogFilter::default(), begin);
    let mut live = Client::of(&book, begin);
    let mut allocations = book
        .allocations
        .watch(book.source(), String::new(), Some(begin));
    next(&mut late).await;
    live.next(&book).await;
    for number in 0..LIVE_BATCHES * 2 {
        book.commit(&[
            allocate(&owner(number % 3), |_| {}),
            release(&owner(number % 3)),
        ])
        .await;
    }
    live.until(&book, book.state.revision()).await;
    let all = crate::store::Compaction {
        before: Timestamp(i64::MAX),
        end: book.state.revision(),
        limit: 10_000,
    };
    book.store.compactor.compact(all).await.expect("compacted");
    let ends = [
        late.next().await.map(drop),
        allocations.next().await.map(drop),
    ];
    for end in ends {
        let status = end.expect_err("its place is gone");
        assert_eq!(status.code(), tonic::Code::OutOfRange);
        let info = status.get_details_error_info().expect("a reason");
        assert_eq!(info.reason, "COMPACTED");
        let newest = book.state.revision();
        assert_eq!(info.metadata["oldest_revision"], newest.to_string());
        assert_eq!(info.metadata["resume_from"], (newest - 1).to_string());
        assert_eq!(info.metadata["store_id"], "store");
    }
    // Who is up to date goes on.
    book.commit(&[allocate(&owner(1), |_| {})]).await;
    live.until(&book, book.state.revision()).await;
}
