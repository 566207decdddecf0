//! Watchers of a real database, driven step by step.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::feed::testing::{Book, owner};
use crate::state::command::Command;
use crate::testing::{allocate, apply_pool, release};

/// A client that applies what it is told.
struct Client {
    watcher: Watcher,
    /// Owner and revision.
    held: BTreeMap<String, u64>,
    last: Revision,
}

impl Client {
    fn of(book: &Book, cluster: &str, from: Option<Revision>) -> Self {
        Self {
            watcher: book
                .allocations
                .watch(book.source(), cluster.to_owned(), from),
            held: BTreeMap::new(),
            last: 0,
        }
    }

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

#[tokio::test]
async fn a_watcher_that_falls_behind_the_live_feed_misses_nothing() {
    for cluster in ["", "c1"] {
        let mut book = Book::new().await;
        let mut client = Client::of(&book, cluster, None);
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
    let mut client = Client::of(&book, "", None);
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
    let mut client = Client::of(&book, "", Some(seen));
    let mut kinds = Vec::new();
    while kinds.last() != Some(&Type::Synced) {
        kinds.push(client.next().await);
    }
    assert_eq!(kinds, [Type::Allocation, Type::Released, Type::Synced]);
    assert_eq!(client.last, book.state.revision());
}
