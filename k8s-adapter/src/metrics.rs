//! Metrics. Names that MetalLB's dashboards and alerts use are kept (`metallb_*`).

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A gauge that can tell the size of an IPv6 pool.
pub type WideGauge = Gauge<f64, AtomicU64>;

/// Label `pool`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolLabel {
    pub pool: String,
}

/// Labels `kind` and `answer` (`allowed`, `warned`, `denied`, `converted`, `failed`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookLabels {
    pub kind: &'static str,
    pub answer: &'static str,
}

/// The handles that drivers use. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Looks at Services.
    pub updates: Counter,
    /// Looks at Services that failed.
    pub update_errors: Counter,
    /// 1 once a configuration was accepted.
    pub config_loaded: Gauge,
    /// 1 while the newest configuration is not the one in force.
    pub config_stale: Gauge,
    /// Addresses of a pool: all, IPv4, IPv6.
    pub total: ByFamily,
    /// The same, in use.
    pub in_use: ByFamily,
    /// Addresses of a pool that are outside the cluster's grant.
    pub outside_grant: Family<PoolLabel, WideGauge>,
    /// Writes of Services' status or annotations.
    pub status_writes: Counter,
    /// Writes of Services' conditions and nothing else.
    pub condition_writes: Counter,
    /// Writes of status objects.
    pub objects: Counter,
    /// Events written.
    pub events: Counter,
    /// 1 while ipam-service is connected and knows what this cluster holds.
    pub connected: Gauge,
    /// Facts (nodes and backends) sent.
    pub facts: Counter,
    /// 1 while this replica is the one that writes.
    pub leader: Gauge,
    /// Our Services.
    pub services: Gauge,
    /// Our Services that have an address.
    pub served: Gauge,
    /// Questions that webhooks were asked.
    pub webhook_requests: Family<WebhookLabels, Counter>,
    /// When the certificate of the webhooks ends, in seconds since 1970; 0 without webhooks.
    pub webhook_certificate_expiry: Gauge,
}

/// A gauge per pool and family.
#[derive(Debug, Clone, Default)]
pub struct ByFamily {
    pub all: Family<PoolLabel, WideGauge>,
    pub ipv4: Family<PoolLabel, WideGauge>,
    pub ipv6: Family<PoolLabel, WideGauge>,
}

impl ByFamily {
    /// Sets the three gauges of a pool.
    pub fn set(&self, pool: &str, ipv4: f64, ipv6: f64) {
        let label = PoolLabel {
            pool: pool.to_owned(),
        };
        self.ipv4.get_or_create(&label).set(ipv4);
        self.ipv6.get_or_create(&label).set(ipv6);
        self.all.get_or_create(&label).set(ipv4 + ipv6);
    }

    /// Forgets a pool.
    pub fn remove(&self, pool: &str) {
        let label = PoolLabel {
            pool: pool.to_owned(),
        };
        for family in [&self.all, &self.ipv4, &self.ipv6] {
            family.remove(&label);
        }
    }

    fn register(&self, registry: &mut Registry, what: &str, help: &str) {
        for (prefix, family) in [
            ("", &self.all),
            ("ipv4_", &self.ipv4),
            ("ipv6_", &self.ipv6),
        ] {
            let name = format!("metallb_allocator_{prefix}addresses_{what}");
            registry.register(name, help, family.clone());
        }
    }
}

impl Metrics {
    /// New handles, known to `registry`. Counters get `_total` from the encoder.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter(
            "metallb_k8s_client_updates",
            "Looks at Services",
            &metrics.updates,
        );
        counter(
            "metallb_k8s_client_update_errors",
            "Looks at Services that failed",
            &metrics.update_errors,
        );
        counter(
            "pharos_adapter_status_writes",
            "Writes of Services",
            &metrics.status_writes,
        );
        counter(
            "pharos_adapter_condition_writes",
            "Writes of conditions of Services alone",
            &metrics.condition_writes,
        );
        counter(
            "pharos_adapter_status_objects",
            "Writes of objects that only tell",
            &metrics.objects,
        );
        counter("pharos_adapter_events", "Events written", &metrics.events);
        counter(
            "pharos_adapter_facts",
            "Facts sent to ipam-service",
            &metrics.facts,
        );
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        gauge(
            "metallb_k8s_client_config_loaded_bool",
            "1 once a configuration was accepted",
            &metrics.config_loaded,
        );
        gauge(
            "metallb_k8s_client_config_stale_bool",
            "1 while the newest configuration is not in force",
            &metrics.config_stale,
        );
        gauge(
            "pharos_adapter_ipam_connected",
            "1 while ipam-service is connected and knows what this cluster holds",
            &metrics.connected,
        );
        gauge(
            "pharos_adapter_leader",
            "1 while this replica is the one that writes status and events",
            &metrics.leader,
        );
        gauge(
            "pharos_adapter_services",
            "Services of type LoadBalancer",
            &metrics.services,
        );
        gauge(
            "pharos_adapter_services_served",
            "Those with an address",
            &metrics.served,
        );
        gauge(
            "pharos_adapter_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate of the webhooks ends; 0 without webhooks",
            &metrics.webhook_certificate_expiry,
        );
        registry.register(
            "pharos_adapter_webhook_requests",
            "Questions of the API server about changes, by kind and answer",
            metrics.webhook_requests.clone(),
        );
        metrics
            .total
            .register(registry, "total", "Addresses of the pool");
        metrics
            .in_use
            .register(registry, "in_use_total", "Addresses of the pool in use");
        registry.register(
            "pharos_adapter_pool_addresses_outside_grant",
            "Addresses of the pool that nobody gets, as they are outside the cluster's grant",
            metrics.outside_grant.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_an_alert_is_served_and_what_is_served_is_on_the_page() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.total.set("p", 1.0, 1.0);
        metrics.in_use.set("p", 1.0, 1.0);
        let pool = PoolLabel {
            pool: "p".to_owned(),
        };
        drop(metrics.outside_grant.get_or_create(&pool));
        let webhook = WebhookLabels {
            kind: "IPAddressPool",
            answer: "denied",
        };
        drop(metrics.webhook_requests.get_or_create(&webhook));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let served: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let page = include_str!("../../docs/how-to/monitoring.md");
        for series in &served {
            let name = series.split(['{', ' ']).next().unwrap_or(series);
            assert!(page.contains(name), "{name} is not on the page");
        }
        let rules = include_str!("../../deploy/alerts/k8s-adapter.rules.yaml");
        let expressions = rules
            .lines()
            .filter(|line| line.trim().starts_with("expr:"));
        let words = expressions
            .flat_map(|line| line.split(|it: char| !it.is_ascii_alphanumeric() && it != '_'));
        let wanted: Vec<&str> = words
            .filter(|it| it.starts_with("pharos_") || it.starts_with("metallb_"))
            .collect();
        assert_eq!(wanted.len(), 7, "{wanted:?}");
        for name in wanted {
            let is_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
            assert!(served.iter().any(is_it), "{name} is not in\n{text}");
        }
    }

    #[test]
    fn the_names_of_metallbs_dashboards_are_served() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.total.set("p", 16.0, 0.0);
        metrics.in_use.set("p", 3.0, 0.0);
        metrics.updates.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "metallb_k8s_client_updates_total 1",
            "metallb_k8s_client_update_errors_total 0",
            "metallb_k8s_client_config_loaded_bool 0",
            "metallb_k8s_client_config_stale_bool 0",
            "metallb_allocator_addresses_total{pool=\"p\"} 16.0",
            "metallb_allocator_ipv4_addresses_in_use_total{pool=\"p\"} 3.0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        metrics.total.remove("p");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        assert!(!text.contains("addresses_total{pool=\"p\"}"), "{text}");
    }
}
