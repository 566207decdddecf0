//! What the drivers share: the world behind its lock, and the bells that wake them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pharos_process::Readiness;
use tokio::sync::{Notify, watch};

use crate::client::Ipam;
use crate::index::Touched;
use crate::kubernetes::Clients;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::queue::WorkQueue;
use crate::service::ServiceKey;
use crate::webhook::judge::Views;
use crate::world::World;

/// Shared by all drivers. The lock on the world is never held across an await.
pub struct Context {
    world: Mutex<World>,
    pub kube: Clients,
    /// Of the cluster that answered first; known once anything has been listed.
    pub cluster_uid: OnceLock<String>,
    pub ipam: Ipam,
    /// Where the custom resources live.
    pub namespace: String,
    pub queue: WorkQueue,
    /// Whether this replica is the one that writes.
    pub leadership: Leadership,
    pub facts: DirtyFacts,
    /// Pools or advertisements changed.
    pub policy: Notify,
    /// Something may be held by Services that nobody has shown.
    pub unlisted: Notify,
    /// A conversation with ipam-service has begun.
    pub connected: Notify,
    /// What status objects say, or should say, may be another thing now.
    pub status: Notify,
    /// The adapter's own Deployment, if it is known.
    pub deployment: Option<String>,
    /// What confirms refusals of webhooks.
    pub views: Views,
    policy_changes: AtomicU64,
    reached: AtomicU64,
    /// Allocations or pools changed: how full pools are has to be looked up.
    pub usage: Notify,
    /// Whether the API server answers, as far as is known; it does not before it has.
    pub answers: watch::Sender<bool>,
    /// Counts up with each complete list, and each time a kind is found to be absent.
    pub listed: watch::Sender<u64>,
    pub readiness: Readiness,
    pub metrics: Metrics,
}

/// Whose facts are to be sent again. Bounded by the number of nodes and Services.
#[derive(Debug, Default)]
pub struct DirtyFacts {
    dirty: Mutex<Dirty>,
    bell: Notify,
}

/// See [`DirtyFacts`].
#[derive(Debug, Default)]
pub struct Dirty {
    pub backends: BTreeSet<ServiceKey>,
    pub nodes: BTreeSet<String>,
}

impl Context {
    /// Nothing is known yet.
    pub fn new(
        world: World,
        kube: Clients,
        ipam: Ipam,
        namespace: String,
        deployment: Option<String>,
        readiness: Readiness,
        metrics: Metrics,
    ) -> Self {
        Self {
            world: Mutex::new(world),
            kube,
            cluster_uid: OnceLock::new(),
            ipam,
            namespace,
            queue: WorkQueue::default(),
            leadership: Leadership::default(),
            facts: DirtyFacts::default(),
            policy: Notify::new(),
            unlisted: Notify::new(),
            connected: Notify::new(),
            status: Notify::new(),
            deployment,
            views: Views::default(),
            policy_changes: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            usage: Notify::new(),
            answers: watch::Sender::new(false),
            listed: watch::Sender::new(0),
            readiness,
            metrics,
        }
    }

    /// The world. Not to be held across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever has to look again.
    pub fn touched(&self, touched: Touched) {
        let Touched {
            services,
            backends,
            nodes,
            policy,
            statuses,
            unlisted,
        } = touched;
        if policy {
            self.policy_changes.fetch_add(1, Ordering::Relaxed);
        }
        if policy || statuses || !services.is_empty() || !nodes.is_empty() {
            self.status.notify_one();
        }
        if !services.is_empty() {
            self.queue.push(services);
        }
        self.facts.mark(backends, nodes);
        if policy {
            self.policy.notify_one();
        }
        if unlisted {
            self.unlisted.notify_one();
        }
    }

    /// How often what is declared has changed.
    pub fn policy_changes(&self) -> u64 {
        self.policy_changes.load(Ordering::Relaxed)
    }

    /// All announcements have been heard, on a new stream.
    pub fn announcements_reached(&self) {
        self.reached.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }

    /// Whatever is to be written is to be written by this replica from now on. Another one told all that
    /// was to be told until then, if there was one.
    pub fn take_over(&self, told_until: Option<std::time::Instant>) {
        let mut world = self.world();
        world.doubt_told(told_until);
        let everything = world.everything();
        drop(world);
        self.queue.push(everything);
        self.usage.notify_one();
    }

    /// What was refused may be granted now: it is asked for again.
    pub fn ask_refused_again(&self) {
        let refused = self.world().book.forget_refusals();
        if !refused.is_empty() {
            self.queue.push(refused);
        }
    }

    /// Waits until the API server answers. Cancel safe.
    pub async fn api_server_answers(&self) {
        // The sender lives as long as `self`.
        let _ = self.answers.subscribe().wait_for(|answers| *answers).await;
    }

    /// Waits until the API server is known not to answer. Cancel safe.
    pub async fn api_server_lost(&self) {
        let _ = self.answers.subscribe().wait_for(|answers| !answers).await;
    }

    /// Waits until enough has been listed. Cancel safe.
    pub async fn wait_for_lists(&self, enough: fn(&World) -> bool) {
        let mut listed = self.listed.subscribe();
        while !enough(&self.world()) {
            // The sender lives as long as `self`.
            let _ = listed.changed().await;
        }
    }
}

impl DirtyFacts {
    fn mark(&self, backends: BTreeSet<ServiceKey>, nodes: BTreeSet<String>) {
        if backends.is_empty() && nodes.is_empty() {
            return;
        }
        let mut dirty = self.lock();
        dirty.backends.extend(backends);
        dirty.nodes.extend(nodes);
        drop(dirty);
        self.bell.notify_one();
    }

    /// Takes out what is marked, at once.
    pub fn take(&self) -> Dirty {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until something may be marked. Cancel safe.
    pub async fn wait(&self) {
        self.bell.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
