//! Watchers of a real database, driven step by step.

use std::collections::BTreeMap;

use super::*;
use crate::state::command::Command;
use crate::state::model::Timestamp;
use crate::state::{State, decide};
use crate::store::{Logged, Origin, Store};
use crate::testing::{Folder, allocate, apply_pool, release};

/// A writer without its task.
struct Book {
    state: State,
    store: Store,
    feed: AllocationFeed,
    time: i64,
    _folder: Folder,
}

impl Book {
    async fn new() -> Self {
        let folder = Folder::new();
        let mut store = folder.open().await;
        store.writer.load().await.expect("empty");
        let mut book = Self {
            state: State::new(),
            store,
            feed: AllocationFeed::default(),
            time: 0,
            _folder: folder,
        };
        book.commit(&[apply_pool("pool", &["192.0.2.0/24"])]).await;
        book
    }

    /// Writes the commands as one batch, and publishes it.
    async fn commit(&mut self, commands: &[Command]) {
        self.time += 1;
        let mut batch = Batch {
            time: Timestamp(self.time),
            ..Batch::default()
        };
        for command in commands {
            for change in decide(&self.state, command, batch.time).expect("granted") {
                self.state.apply(&change);
                batch.changes.push(Logged {
                    revision: change.is_decision().then(|| self.state.revision()),
                    change,
                    origin: Arc::new(Origin::default()),
                });
            }
        }
        self.store.writer.commit(&batch).await.expect("committed");
        self.feed.publish(&batch);
    }

    fn watch(&self, cluster: &str, from: Option<Revision>) -> Client {
        let source = Source {
            reader: self.store.reader.clone(),
            store_id: Arc::from("store"),
            shutdown: Shutdown::default(),
        };
        Client {
            watcher: self.feed.watch(source, cluster.to_owned(), from),
            held: BTreeMap::new(),
            last: 0,
        }
    }

    fn held(&self, cluster: &str) -> BTreeMap<String, u64> {
        let all = self.state.allocations();
        all.filter(|one| cluster.is_empty() || one.owner.key.cluster.as_str() == cluster)
            .map(|one| (one.owner.key.to_string(), one.revision))
            .collect()
    }
}

/// A client that applies what it is told.
struct Client {
    watcher: Watcher,
    /// Owner and revision.
    held: BTreeMap<String, u64>,
    last: Revision,
}

impl Client {
    async fn next(&mut self) -> Type {
        let next = tokio::time::timeout(Duration::from_secs(20), self.watcher.next()).await;
        let response = next.expect("in time").expect("the watch goes on");
        if let Some(allocation) = &response.allocation {
            let owner = allocation.owner.as_ref().expect("an owner");
            let owner = format!("{}/{}/{}", owner.cluster, owner.namespace, owner.name);
            match response.r#type() {
                Type::Allocation => drop(self.held.insert(owner, allocation.revision)),
                Type::Released => drop(self.held.remove(&owner)),
                mark @ (Type::Synced | Type::Bookmark | Type::Unspecified) => {
                    panic!("{mark:?} with an allocation")
                }
            }
        } else {
            assert!(response.revision >= self.last, "marks never go back");
            self.last = response.revision;
        }
        response.r#type()
    }

    async fn synced(&mut self) {
        while self.next().await != Type::Synced {}
    }

    async fn until(&mut self, expected: &BTreeMap<String, u64>) {
        while self.held != *expected {
            self.next().await;
        }
    }
}

fn owner(number: usize) -> String {
    format!("c{}/ns/svc{number}", number % 2)
}

#[tokio::test]
async fn a_watcher_that_falls_behind_the_live_feed_misses_nothing() {
    for cluster in ["", "c1"] {
        let mut book = Book::new().await;
        let mut client = book.watch(cluster, None);
        client.synced().await;
        for number in 0..LIVE_BATCHES * 3 {
            book.commit(&[allocate(&owner(number), |_| {})]).await;
            if number % 3 == 2 {
                book.commit(&[release(&owner(number - 1))]).await;
            }
        }
        client.until(&book.held(cluster)).await;
        // And it is live again.
        book.commit(&[release(&owner(0)), release(&owner(3))]).await;
        client.until(&book.held(cluster)).await;
    }
}

#[tokio::test]
async fn a_snapshot_of_several_pages_converges_while_others_write() {
    let mut book = Book::new().await;
    let many = usize::try_from(PAGE).expect("32 bits fit") * 2 + 7;
    book.commit(&[apply_pool("large", &["10.0.0.0/16"])]).await;
    let all: Vec<Command> = (0..many).map(|n| allocate(&owner(n), |_| {})).collect();
    book.commit(&all).await;
    let mut client = book.watch("", None);
    for number in (0..many).step_by(97) {
        book.commit(&[release(&owner(number))]).await;
        book.commit(&[allocate(&owner(number + 1), |wire| wire.ports[0].port = 81)])
            .await;
        client.next().await;
    }
    client.synced().await;
    assert_eq!(client.held, book.held(""));
}

#[tokio::test]
async fn a_watcher_that_resumes_gets_what_came_after_and_then_synced() {
    let mut book = Book::new().await;
    book.commit(&[allocate(&owner(1), |_| {})]).await;
    let seen = book.state.revision();
    book.commit(&[allocate(&owner(2), |_| {}), release(&owner(1))])
        .await;
    let mut client = book.watch("", Some(seen));
    let mut kinds = Vec::new();
    while kinds.last() != Some(&Type::Synced) {
        kinds.push(client.next().await);
    }
    assert_eq!(kinds, [Type::Allocation, Type::Released, Type::Synced]);
    assert_eq!(client.last, book.state.revision());
}
