//! A book whose batches are published, and what it held at every revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use pharos_process::Shutdown;
use pharos_proto::v1;

use super::allocations::{AllocationFeed, Source};
use super::changes::ChangeFeed;
use crate::api::convert::{allocation_to_wire, cluster_to_wire, pool_to_wire};
use crate::state::command::Command;
use crate::state::model::{Revision, Timestamp};
use crate::state::{State, decide};
use crate::store::{Batch, Logged, Origin, Store};
use crate::testing::{Folder, apply_pool};

/// Everything that decisions are about, as the wire has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    pub(super) allocations: BTreeMap<String, v1::Allocation>,
    pub(super) pools: BTreeMap<String, v1::Pool>,
    pub(super) clusters: BTreeMap<String, v1::Cluster>,
}

impl Snapshot {
    fn of(state: &State) -> Self {
        let allocations = state.allocations().map(|one| allocation_to_wire(one));
        Self {
            allocations: allocations.map(|one| (key(&one), one)).collect(),
            pools: state
                .pools()
                .map(|pool| (pool.key.to_string(), pool_to_wire(pool)))
                .collect(),
            clusters: state
                .clusters()
                .map(|one| (one.name.to_string(), cluster_to_wire(one, 0)))
                .collect(),
        }
    }
}

/// `cluster/namespace/name` of its owner.
pub(super) fn key(allocation: &v1::Allocation) -> String {
    let owner = allocation.owner.clone().unwrap_or_default();
    format!("{}/{}/{}", owner.cluster, owner.namespace, owner.name)
}

/// A writer without its task.
pub(super) struct Book {
    pub(super) state: State,
    pub(super) store: Store,
    pub(super) allocations: AllocationFeed,
    pub(super) changes: ChangeFeed,
    /// By revision.
    pub(super) snapshots: BTreeMap<Revision, Snapshot>,
    time: i64,
    _folder: Folder,
}

impl Book {
    pub(super) async fn new() -> Self {
        let folder = Folder::new();
        let mut store = folder.open().await;
        store.writer.load().await.expect("empty");
        let mut book = Self {
            state: State::new(),
            store,
            allocations: AllocationFeed::default(),
            changes: ChangeFeed::default(),
            snapshots: BTreeMap::from([(0, Snapshot::default())]),
            time: 0,
            _folder: folder,
        };
        book.commit(&[apply_pool("pool", &["192.0.2.0/24"])]).await;
        book
    }

    /// Writes the commands and what follows from them as one batch, and publishes it.
    pub(super) async fn commit(&mut self, commands: &[Command]) {
        self.time += 1;
        let mut batch = Batch {
            time: Timestamp(self.time),
            ..Batch::default()
        };
        for command in commands {
            let mut next = Some(command.clone());
            while let Some(command) = next {
                for change in decide(&self.state, &command, batch.time).unwrap_or_default() {
                    self.state.apply(&change);
                    let revision = change.is_decision().then(|| self.state.revision());
                    if let Some(revision) = revision
                        && commands.len() < 20
                    {
                        self.snapshots.insert(revision, Snapshot::of(&self.state));
                    }
                    batch.changes.push(Logged {
                        revision,
                        change,
                        origin: Arc::new(Origin::default()),
                    });
                }
                next = self.state.follow_up();
            }
        }
        self.store.writer.commit(&batch).await.expect("committed");
        self.allocations.publish(&batch);
        self.changes.publish(&batch);
    }

    pub(super) fn source(&self) -> Source {
        Source {
            reader: self.store.reader.clone(),
            store_id: Arc::from("store"),
            shutdown: Shutdown::default(),
        }
    }

    pub(super) fn held(&self, cluster: &str) -> BTreeMap<String, u64> {
        let all = self.state.allocations();
        all.filter(|one| cluster.is_empty() || one.owner.key.cluster.as_str() == cluster)
            .map(|one| (one.owner.key.to_string(), one.revision))
            .collect()
    }
}

/// Owners of two clusters.
pub(super) fn owner(number: usize) -> String {
    format!("c{}/ns/svc{number}", number % 2)
}
