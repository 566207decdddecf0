//! What the writer measures.

mod pools;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use self::pools::PoolMetrics;
use super::SubmitError;
use crate::state::State;
use crate::state::change::Change;
use crate::state::model::{Allocation, Standing, Timestamp};
use crate::state::names::Name;
use crate::state::refusal::{Reason, Rejection};
use crate::store::{Batch, CommitError};

/// Handles of the writer's metrics.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    batch_size: Histogram,
    commit_seconds: Histogram,
    errors: Family<ErrorLabel, Counter>,
    queue: Gauge,
    renewals: Counter,
    revision: Gauge,
    allocations: Family<StandingLabel, Gauge>,
    waiting: Family<ReasonLabel, Gauge>,
    pools: PoolMetrics,
    recovering: Gauge,
    writing_stopped: Gauge,
    unacknowledged: Counter,
    too_many_pending: Counter,
    last_seen: Family<ClusterLabel, Gauge>,
}

/// Values of the label `state` of `pharos_ipam_allocations`.
const ASSIGNED: &str = "assigned";
const PENDING: &str = "pending";
const STALE: &str = "stale";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StandingLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabel {
    cluster: String,
}

impl EngineMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            commit_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            errors: Family::default(),
            queue: Gauge::default(),
            renewals: Counter::default(),
            revision: Gauge::default(),
            allocations: Family::default(),
            waiting: Family::default(),
            pools: PoolMetrics::register(registry),
            recovering: Gauge::default(),
            writing_stopped: Gauge::default(),
            unacknowledged: Counter::default(),
            too_many_pending: Counter::default(),
            last_seen: Family::default(),
        };
        registry.register(
            "pharos_ipam_batch_requests",
            "Requests decided in one transaction",
            metrics.batch_size.clone(),
        );
        registry.register(
            "pharos_ipam_reuse_unacknowledged",
            "Addresses given away although not every node acknowledged that it stopped",
            metrics.unacknowledged.clone(),
        );
        registry.register(
            "pharos_ipam_too_many_pending",
            "Claims that were not kept because as many of their cluster wait as may",
            metrics.too_many_pending.clone(),
        );
        registry.register_with_unit(
            "pharos_ipam_commit",
            "Time to write a transaction to disk",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "pharos_ipam_database_errors",
            "Transactions that were not written, by what went wrong",
            metrics.errors.clone(),
        );
        for kind in ERRORS {
            drop(metrics.errors.get_or_create(&ErrorLabel { kind }));
        }
        registry.register(
            "pharos_ipam_writing_stopped",
            "1 while nothing can be written; /readyz says why",
            metrics.writing_stopped.clone(),
        );
        registry.register(
            "pharos_ipam_queue_requests",
            "Requests that wait for the writer while it serves others",
            metrics.queue.clone(),
        );
        registry.register(
            "pharos_ipam_database_renewals",
            "Fresh copies of the database that writing went on with after an error of the disk",
            metrics.renewals.clone(),
        );
        registry.register(
            "pharos_ipam_revision",
            "Position of the change log",
            metrics.revision.clone(),
        );
        registry.register(
            "pharos_ipam_allocations",
            "Claims by what became of them",
            metrics.allocations.clone(),
        );
        registry.register(
            "pharos_ipam_waiting_claims",
            "Claims that do not fit (pending and stale), by the reason",
            metrics.waiting.clone(),
        );
        registry.register(
            "pharos_ipam_recovering_clusters",
            "Clusters that have yet to report what they hold; until then nobody gets a new address",
            metrics.recovering.clone(),
        );
        registry.register_with_unit(
            "pharos_ipam_cluster_last_seen_timestamp",
            "When a call about the cluster was last decided, since 1970",
            Unit::Seconds,
            metrics.last_seen.clone(),
        );
        metrics
    }

    /// Serves `metallb_allocator_*` as well.
    pub fn add_metallb_names(&mut self, registry: &mut Registry) {
        self.pools.add_metallb_names(registry);
    }

    /// Counts what was loaded.
    pub(super) fn loaded(&self, state: &State) {
        for state in [ASSIGNED, PENDING, STALE] {
            drop(self.allocations.get_or_create(&StandingLabel { state }));
        }
        for allocation in state.allocations() {
            self.count(allocation, 1);
        }
        self.observe_state(state);
    }

    /// A batch is on disk.
    pub(super) fn committed(&self, batch: &Batch, requests: usize, seconds: f64) {
        self.batch_size
            .observe(f64::from(u32::try_from(requests).unwrap_or(u32::MAX)));
        self.commit_seconds.observe(seconds);
        for logged in &batch.changes {
            if let Change::Unavailable(edit) = &logged.change
                && edit
                    .after
                    .as_ref()
                    .is_some_and(|after| after.unacknowledged)
            {
                self.unacknowledged.inc();
            }
            if let Change::Allocation(edit) = &logged.change {
                if let Some(before) = &edit.before {
                    self.count(before, -1);
                }
                if let Some(after) = &edit.after {
                    self.count(after, 1);
                }
            }
        }
    }

    /// A batch, or what was done between two, is not on disk.
    pub(super) fn failed(&self, error: &CommitError) {
        let kind = kind_of(error);
        self.errors.get_or_create(&ErrorLabel { kind }).inc();
    }

    /// A command was turned down.
    pub(super) fn rejected(&self, error: &SubmitError) {
        if let SubmitError::Rejected(rejection) = error
            && let Rejection::Refused(refusal) = &**rejection
            && refusal.reason == Reason::TooManyPending
        {
            self.too_many_pending.inc();
        }
    }

    /// So many requests wait.
    pub(super) fn queued(&self, requests: usize) {
        self.queue.set(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    /// Nothing is written any more.
    pub(super) fn stopped(&self) {
        self.writing_stopped.set(1);
    }

    /// Writing goes on with a fresh copy of the database.
    pub(super) fn renewed(&self) {
        self.writing_stopped.set(0);
        self.renewals.inc();
    }

    /// Publishes what is derived from the whole state.
    pub(super) fn observe_state(&self, state: &State) {
        self.revision
            .set(i64::try_from(state.revision()).unwrap_or(i64::MAX));
        let recovering = state.clusters();
        let recovering = recovering.filter(|cluster| !cluster.inventory.is_authoritative());
        self.recovering
            .set(i64::try_from(recovering.count()).unwrap_or(i64::MAX));
        self.pools.observe(state);
    }

    /// Publishes when clusters were last heard of.
    pub(super) fn observe_seen<'a>(&self, seen: impl Iterator<Item = (&'a Name, Timestamp)>) {
        self.last_seen.clear();
        for (name, time) in seen {
            let label = ClusterLabel {
                cluster: name.to_string(),
            };
            let seconds = time.0 / 1_000_000;
            self.last_seen.get_or_create(&label).set(seconds);
        }
    }

    fn count(&self, allocation: &Allocation, by: i64) {
        let (state, refusal) = match &allocation.standing {
            Standing::Assigned => (ASSIGNED, None),
            Standing::Pending(refusal) => (PENDING, Some(refusal)),
            Standing::Stale { refusal, .. } => (STALE, Some(refusal)),
        };
        let label = StandingLabel { state };
        self.allocations.get_or_create(&label).inc_by(by);
        if let Some(refusal) = refusal {
            let reason = refusal.reason.as_str();
            let label = ReasonLabel { reason };
            self.waiting.get_or_create(&label).inc_by(by);
        }
    }
}

/// Values of the label `kind` of `pharos_ipam_database_errors`.
const ERRORS: [&str; 5] = ["refused", "full", "not_written", "unknown", "deposed"];

fn kind_of(error: &CommitError) -> &'static str {
    match error {
        CommitError::Refused(_) => "refused",
        CommitError::Full => "full",
        CommitError::NotWritten(_) => "not_written",
        CommitError::Unknown(_) => "unknown",
        CommitError::Deposed => "deposed",
    }
}
