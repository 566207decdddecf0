//! What the writer measures.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::state::State;
use crate::state::address::Family as IpFamily;
use crate::state::change::Change;
use crate::state::model::{Allocation, Pool, Standing, Timestamp};
use crate::state::names::Name;
use crate::state::{FamilyUsage, PoolUsage};
use crate::store::Batch;

/// Handles of the writer's metrics.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    batch_size: Histogram,
    commit_seconds: Histogram,
    failed_commits: Counter,
    renewals: Counter,
    revision: Gauge,
    allocations: Family<StandingLabel, Gauge>,
    pool_addresses: Family<PoolLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    recovering: Gauge,
    unacknowledged: Counter,
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
struct PoolLabel {
    address_space: String,
    cluster: String,
    pool: String,
    family: &'static str,
    state: &'static str,
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
            failed_commits: Counter::default(),
            renewals: Counter::default(),
            revision: Gauge::default(),
            allocations: Family::default(),
            pool_addresses: Family::default(),
            recovering: Gauge::default(),
            unacknowledged: Counter::default(),
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
        registry.register_with_unit(
            "pharos_ipam_commit",
            "Time to write a transaction to disk",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "pharos_ipam_failed_commits",
            "Transactions that were not written",
            metrics.failed_commits.clone(),
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
            "pharos_ipam_pool_addresses",
            "Addresses of a pool by use; the cluster is empty for an operator's pool",
            metrics.pool_addresses.clone(),
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

    /// Counts what was loaded.
    pub(super) fn loaded(&self, state: &State) {
        for state in [ASSIGNED, PENDING, STALE] {
            drop(self.allocations.get_or_create(&StandingLabel { state }));
        }
        for allocation in state.allocations() {
            self.count(allocation).inc();
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
                    self.count(before).dec();
                }
                if let Some(after) = &edit.after {
                    self.count(after).inc();
                }
            }
        }
    }

    /// A batch is not on disk.
    pub(super) fn failed(&self) {
        self.failed_commits.inc();
    }

    /// Writing goes on with a fresh copy of the database.
    pub(super) fn renewed(&self) {
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
        self.pool_addresses.clear();
        for pool in state.pools() {
            if let Some(usage) = state.pool_usage(&pool.key) {
                self.observe_pool(pool, usage);
            }
        }
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

    fn observe_pool(&self, pool: &Pool, usage: PoolUsage) {
        for (family, usage) in [(IpFamily::V4, usage.v4), (IpFamily::V6, usage.v6)] {
            if usage.total == 0 {
                continue;
            }
            for (state, count) in by_use(usage) {
                let label = PoolLabel {
                    address_space: pool.key.space.to_string(),
                    cluster: pool
                        .key
                        .cluster
                        .as_ref()
                        .map_or_else(String::new, |it| it.to_string()),
                    pool: pool.key.name.to_string(),
                    family: match family {
                        IpFamily::V4 => "ipv4",
                        IpFamily::V6 => "ipv6",
                    },
                    state,
                };
                self.pool_addresses
                    .get_or_create(&label)
                    .set(approximate(count));
            }
        }
    }

    fn count(&self, allocation: &Allocation) -> impl std::ops::Deref<Target = Gauge> {
        let state = match allocation.standing {
            Standing::Assigned => ASSIGNED,
            Standing::Pending(_) => PENDING,
            Standing::Stale { .. } => STALE,
        };
        self.allocations.get_or_create(&StandingLabel { state })
    }
}

fn by_use(usage: FamilyUsage) -> [(&'static str, u128); 5] {
    [
        ("held", usage.held),
        ("held_by_others", usage.held_by_others),
        ("reserved", usage.reserved),
        ("draining", usage.draining),
        ("free", usage.free),
    ]
}

/// A metric is a floating-point number; an IPv6 pool has more addresses than it can tell apart.
#[expect(clippy::cast_precision_loss, reason = "a metric, not a decision")]
fn approximate(count: u128) -> f64 {
    count as f64
}
