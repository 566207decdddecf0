//! Gauges of how full pools are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::state::model::{Pool, PoolKey};
use crate::state::{FamilyUsage, PoolUsage, State};

/// A gauge that can tell the size of an IPv6 pool.
type WideGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Addresses of every pool. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct PoolMetrics {
    addresses: Family<PoolLabel, WideGauge>,
    metallb: Option<MetallbNames>,
    /// What is shown now.
    shown: Arc<Mutex<BTreeSet<PoolLabel>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct PoolLabel {
    space: String,
    cluster: String,
    pool: String,
    family: &'static str,
    kind: &'static str,
}

impl PoolMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "pharos_pool_addresses",
            "Addresses of a pool by use; the cluster is empty for an operator's pool",
            metrics.addresses.clone(),
        );
        metrics
    }

    /// Serves the names that MetalLB's dashboards use as well.
    pub(super) fn add_metallb_names(&mut self, registry: &mut Registry) {
        self.metallb = Some(MetallbNames::register(registry));
    }

    /// Shows every pool as it is, and no others. Nothing disappears and comes back meanwhile, as
    /// somebody may be reading.
    pub(super) fn observe(&self, state: &State) {
        let mut now = BTreeSet::new();
        for pool in state.pools() {
            if let Some(usage) = state.pool_usage(&pool.key) {
                self.show(pool, usage, &mut now);
            }
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&now) {
            self.addresses.remove(gone);
            if let Some(metallb) = &self.metallb {
                metallb.remove(gone);
            }
        }
        *shown = now;
    }

    fn show(&self, pool: &Pool, usage: PoolUsage, now: &mut BTreeSet<PoolLabel>) {
        for (family, usage) in [("ipv4", usage.v4), ("ipv6", usage.v6)] {
            if usage.total == 0 {
                continue;
            }
            for (kind, count) in by_use(usage) {
                let label = label_of(&pool.key, family, kind);
                self.addresses.get_or_create(&label).set(approximate(count));
                now.insert(label);
            }
        }
        if let Some(metallb) = &self.metallb {
            metallb.show(&pool.key, usage);
        }
    }
}

fn label_of(key: &PoolKey, family: &'static str, kind: &'static str) -> PoolLabel {
    PoolLabel {
        space: key.space.to_string(),
        cluster: key
            .cluster
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        pool: key.name.to_string(),
        family,
        kind,
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

/// `metallb_allocator_*`, as MetalLB's controller has them: by pool only. Pools that share a name
/// (in other spaces, or of other clusters) would be one series; so the name says whose it is.
#[derive(Debug, Clone, Default)]
struct MetallbNames {
    total: [Family<MetallbLabel, WideGauge>; 3],
    in_use: [Family<MetallbLabel, WideGauge>; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MetallbLabel {
    pool: String,
}

impl MetallbNames {
    fn register(registry: &mut Registry) -> Self {
        let names = Self::default();
        for (what, help, families) in [
            ("total", "Addresses of the pool", &names.total),
            (
                "in_use_total",
                "Addresses of the pool in use",
                &names.in_use,
            ),
        ] {
            for (prefix, family) in ["", "ipv4_", "ipv6_"].iter().zip(families) {
                let name = format!("metallb_allocator_{prefix}addresses_{what}");
                registry.register(name, help, family.clone());
            }
        }
        names
    }

    fn show(&self, key: &PoolKey, usage: PoolUsage) {
        let label = metallb_label(key.space.as_str(), key.cluster.as_deref(), &key.name);
        let in_use = |usage: FamilyUsage| usage.held + usage.held_by_others;
        let set = |families: &[Family<MetallbLabel, WideGauge>; 3], v4: u128, v6: u128| {
            for (family, count) in families.iter().zip([v4.saturating_add(v6), v4, v6]) {
                family.get_or_create(&label).set(approximate(count));
            }
        };
        set(&self.total, usage.v4.total, usage.v6.total);
        set(&self.in_use, in_use(usage.v4), in_use(usage.v6));
    }

    fn remove(&self, gone: &PoolLabel) {
        let cluster = Some(gone.cluster.as_str()).filter(|cluster| !cluster.is_empty());
        let label = metallb_label(&gone.space, cluster, &gone.pool);
        for family in self.total.iter().chain(&self.in_use) {
            family.remove(&label);
        }
    }
}

/// `pool`, `cluster/pool`, `space/pool` or `space/cluster/pool`.
fn metallb_label(space: &str, cluster: Option<&str>, pool: &str) -> MetallbLabel {
    let space = Some(space).filter(|space| *space != pharos_proto::DEFAULT_ADDRESS_SPACE);
    let parts = [space, cluster, Some(pool)];
    MetallbLabel {
        pool: parts.into_iter().flatten().collect::<Vec<_>>().join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::decide;
    use crate::state::model::Timestamp;
    use crate::testing::{allocate, apply_pool};

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("encodes");
        text
    }

    #[test]
    fn pools_are_shown_by_family_and_use_and_under_metallbs_names_if_asked() {
        let mut registry = Registry::default();
        let mut metrics = PoolMetrics::register(&mut registry);
        metrics.add_metallb_names(&mut registry);
        let mut state = State::new();
        let commands = [
            apply_pool("p", &["192.0.2.0/28", "2001:db8::/64"]),
            allocate("east/ns/web", |_| ()),
        ];
        for command in commands {
            for change in decide(&state, &command, Timestamp(1)).expect("allowed") {
                state.apply(&change);
            }
        }
        metrics.observe(&state);
        let shown = text(&registry);
        let labels = r#"space="default",cluster="",pool="p""#;
        for line in [
            format!(r#"pharos_pool_addresses{{{labels},family="ipv4",kind="held"}} 1.0"#),
            format!(r#"pharos_pool_addresses{{{labels},family="ipv4",kind="free"}} 15.0"#),
            r#"metallb_allocator_addresses_in_use_total{pool="p"} 1.0"#.to_owned(),
            r#"metallb_allocator_ipv4_addresses_total{pool="p"} 16.0"#.to_owned(),
        ] {
            assert!(
                shown.lines().any(|it| it == line),
                "{line} is not in\n{shown}"
            );
        }
        // Its pool is gone.
        metrics.observe(&State::new());
        let shown = text(&registry);
        assert!(!shown.contains("pool=\"p\""), "{shown}");
    }

    #[test]
    fn metallbs_label_tells_pools_of_one_name_apart() {
        let label = |space, cluster| metallb_label(space, cluster, "p").pool;
        assert_eq!(label("default", None), "p");
        assert_eq!(label("default", Some("east")), "east/p");
        assert_eq!(label("lab", None), "lab/p");
        assert_eq!(label("lab", Some("east")), "lab/east/p");
    }
}
