//! What the announcer counts. Names that MetalLB's dashboards use are kept to the letter.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use crate::clock;
use crate::l2::conflict::Conflict;
use crate::l2::reply::Ignored;
use crate::l2::table::Protocol;

/// Counts up under exactly the name that it is registered by: OpenMetrics counters get `_total`
/// appended, which the names of MetalLB do not have.
#[derive(Debug, Clone, Default)]
pub struct PlainCounter(Arc<AtomicU64>);

impl PlainCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl TypedMetric for PlainCounter {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for PlainCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_gauge(&self.0.load(Ordering::Relaxed))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Label `ip`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IpLabel {
    ip: String,
}

/// Labels of `metallb_speaker_announced`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnnouncedLabels {
    service: String,
    protocol: &'static str,
    node: String,
    ip: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConflictLabels {
    ip: String,
    kind: &'static str,
    mac: String,
    own_mac: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeafLabels {
    interface: String,
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counters of one address.
#[derive(Debug, Clone)]
pub struct AddressCounters {
    pub requests: PlainCounter,
    pub responses: PlainCounter,
    pub gratuitous: PlainCounter,
}

/// Handles to everything that is counted. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<IpLabel, PlainCounter>,
    responses: Family<IpLabel, PlainCounter>,
    gratuitous: Family<IpLabel, PlainCounter>,
    announced: Family<AnnouncedLabels, Gauge>,
    ignored_arp: Family<ReasonLabel, Counter>,
    ignored_ndp: Family<ReasonLabel, Counter>,
    conflicts: Family<ConflictLabels, Gauge>,
    deaf: Family<DeafLabels, Gauge>,
    /// Questions that were asked to see whether another machine answers.
    pub conflict_checks: PlainCounter,
    /// Questions that were asked before an address was answered for the first time.
    pub probes: PlainCounter,
    /// Groups taken over because their owner died.
    pub failovers: Counter,
    /// Groups that went from or to this node by handshake.
    pub handovers: Counter,
    /// Groups that this node owns.
    pub owned: Gauge,
    /// Other nodes that live.
    pub members_alive: Gauge,
    pub members_unreachable: Gauge,
    /// Other nodes that are known.
    pub members_known: Gauge,
    /// Datagrams of the membership that could not be opened or read.
    pub members_rejected: Counter,
    /// Other announcers under this node's name.
    pub namesakes: Gauge,
    /// Whether this node has a lease, by which it may own fenced addresses.
    pub lease: Gauge,
    /// Whether the stream is connected and has been synchronised.
    pub stream_connected: Gauge,
    last_update: LastUpdate,
}

#[derive(Debug, Clone, Default)]
struct LastUpdate(Arc<Mutex<Option<Instant>>>);

impl Collector for LastUpdate {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = last else { return Ok(()) };
        let age = ConstGauge::new(clock::now().saturating_duration_since(last).as_secs_f64());
        let descriptor = encoder.encode_descriptor(
            "pharos_announcer_seconds_since_update",
            "Seconds since the stream told anything",
            None,
            MetricType::Gauge,
        )?;
        age.encode(descriptor)
    }
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            responses: Family::default(),
            gratuitous: Family::default(),
            announced: Family::default(),
            ignored_arp: Family::default(),
            ignored_ndp: Family::default(),
            conflicts: Family::default(),
            deaf: Family::default(),
            conflict_checks: PlainCounter::default(),
            probes: PlainCounter::default(),
            failovers: Counter::default(),
            handovers: Counter::default(),
            owned: Gauge::default(),
            members_alive: Gauge::default(),
            members_unreachable: Gauge::default(),
            members_known: Gauge::default(),
            members_rejected: Counter::default(),
            namesakes: Gauge::default(),
            lease: Gauge::default(),
            stream_connected: Gauge::default(),
            last_update: LastUpdate::default(),
        };
        metrics.register_metallb(registry);
        metrics.register_own(registry);
        metrics
    }

    fn register_metallb(&self, registry: &mut Registry) {
        registry.register(
            "metallb_layer2_requests_received",
            "ARP requests and neighbour solicitations received for an address of this node",
            self.requests.clone(),
        );
        registry.register(
            "metallb_layer2_responses_sent",
            "ARP answers and solicited neighbour advertisements sent",
            self.responses.clone(),
        );
        registry.register(
            "metallb_layer2_gratuitous_sent",
            "Gratuitous ARP frames and unsolicited neighbour advertisements sent",
            self.gratuitous.clone(),
        );
        registry.register(
            "metallb_speaker_announced",
            "Services that this node announces",
            self.announced.clone(),
        );
    }

    fn register_own(&self, registry: &mut Registry) {
        let mut own = |name: &str, help: &str, counter: &Counter| {
            registry.register(format!("pharos_announcer_{name}"), help, counter.clone());
        };
        own(
            "failovers",
            "Groups taken over from a dead owner",
            &self.failovers,
        );
        own(
            "handovers",
            "Groups that came or went by handshake",
            &self.handovers,
        );
        own(
            "members_rejected",
            "Datagrams not accepted",
            &self.members_rejected,
        );
        let mut own = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(format!("pharos_announcer_{name}"), help, gauge.clone());
        };
        own(
            "owned_groups",
            "Groups of addresses that this node owns",
            &self.owned,
        );
        own(
            "members_alive",
            "Other announcers that live",
            &self.members_alive,
        );
        own(
            "members_unreachable",
            "1 while this node has reached none of the others since it started",
            &self.members_unreachable,
        );
        own(
            "members_known",
            "Other announcers that are known",
            &self.members_known,
        );
        own(
            "namesakes",
            "Other announcers under this node's name; must be 0",
            &self.namesakes,
        );
        own(
            "lease",
            "1 while this node has a lease, by which it may own fenced addresses",
            &self.lease,
        );
        own(
            "stream_connected",
            "1 while assignments are followed",
            &self.stream_connected,
        );
        registry.register(
            "pharos_announcer_deaf",
            "1 for each interface and protocol of which no socket could be opened",
            self.deaf.clone(),
        );
        registry.register(
            "pharos_announcer_conflicts",
            "1 for each other machine that uses an address of this node",
            self.conflicts.clone(),
        );
        registry.register(
            "pharos_announcer_conflict_checks_total",
            "Questions asked to see whether another machine answers",
            self.conflict_checks.clone(),
        );
        registry.register(
            "pharos_announcer_probes_total",
            "Questions asked before an address is answered for the first time",
            self.probes.clone(),
        );
        registry.register(
            "pharos_announcer_arp_ignored",
            "ARP frames not answered, by reason",
            self.ignored_arp.clone(),
        );
        registry.register(
            "pharos_announcer_ndp_ignored",
            "Neighbour solicitations and advertisements not answered, by reason",
            self.ignored_ndp.clone(),
        );
        registry.register_collector(Box::new(self.last_update.clone()));
    }

    /// The counters of an address.
    pub fn of_address(&self, address: IpAddr) -> AddressCounters {
        let label = IpLabel {
            ip: address.to_string(),
        };
        AddressCounters {
            requests: self.requests.get_or_create(&label).clone(),
            responses: self.responses.get_or_create(&label).clone(),
            gratuitous: self.gratuitous.get_or_create(&label).clone(),
        }
    }

    /// An address is not to be announced any more: its series end. Without this, addresses that come
    /// and go would leave series behind for ever.
    pub fn forget(&self, address: IpAddr) {
        let label = IpLabel {
            ip: address.to_string(),
        };
        for family in [&self.requests, &self.responses, &self.gratuitous] {
            family.remove(&label);
        }
    }

    /// Shows, or stops showing, that another machine uses an address.
    pub fn set_conflict(&self, conflict: &Conflict, there: bool) {
        let labels = ConflictLabels {
            ip: conflict.address.to_string(),
            kind: conflict.kind().label(),
            mac: conflict.mac.to_string(),
            own_mac: conflict.by.mac.to_string(),
        };
        if there {
            self.conflicts.get_or_create(&labels).set(1);
        } else {
            self.conflicts.remove(&labels);
        }
    }

    /// Shows on which interfaces, by name, which protocols cannot be answered.
    pub fn set_deaf<'a>(&self, deaf: impl Iterator<Item = &'a (String, Protocol)>) {
        self.deaf.clear();
        for (interface, protocol) in deaf {
            let labels = DeafLabels {
                interface: interface.clone(),
                protocol: protocol.label(),
            };
            self.deaf.get_or_create(&labels).set(1);
        }
    }

    /// One handle per reason why ARP is not answered, so that counting costs no look-up.
    pub fn of_arp_reasons(&self) -> Vec<(Ignored, Counter)> {
        of_reasons(&self.ignored_arp, &Ignored::ARP)
    }

    /// The same for neighbour discovery.
    pub fn of_ndp_reasons(&self) -> Vec<(Ignored, Counter)> {
        of_reasons(&self.ignored_ndp, &Ignored::NDP)
    }

    /// Shows, or stops showing, that this node announces an address for its owners
    /// (`cluster/namespace/name`; MetalLB's label has no cluster).
    pub fn set_announced(&self, node: &str, address: IpAddr, owners: &[String], announced: bool) {
        for owner in owners {
            let service = owner
                .split_once('/')
                .map_or(owner.as_str(), |(_, rest)| rest);
            let labels = AnnouncedLabels {
                service: service.to_owned(),
                protocol: "layer2",
                node: node.to_owned(),
                ip: address.to_string(),
            };
            if announced {
                self.announced.get_or_create(&labels).set(1);
            } else {
                self.announced.remove(&labels);
            }
        }
    }

    /// The stream told something.
    pub fn updated(&self) {
        let mut last = self
            .last_update
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(clock::now());
    }
}

fn of_reasons(
    family: &Family<ReasonLabel, Counter>,
    reasons: &[Ignored],
) -> Vec<(Ignored, Counter)> {
    let counter = |reason: &Ignored| {
        let label = ReasonLabel {
            reason: reason.label(),
        };
        (*reason, family.get_or_create(&label).clone())
    };
    reasons.iter().map(counter).collect()
}

#[cfg(test)]
mod tests {
    use pnet_base::MacAddr;

    use super::*;
    use crate::l2::conflict::Seer;

    #[test]
    fn every_metric_of_an_alert_is_served_and_what_is_served_is_on_the_page() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        drop(metrics.of_arp_reasons());
        drop(metrics.of_ndp_reasons());
        let address = IpAddr::from([192, 0, 2, 1]);
        drop(metrics.of_address(address));
        metrics.set_announced("node-a", address, &["east/default/web".to_owned()], true);
        let conflict = Conflict {
            while_probing: false,
            address,
            mac: MacAddr::zero(),
            by: Seer {
                index: 1,
                name: "eth0".into(),
                mac: MacAddr::zero(),
            },
            member: None,
        };
        metrics.set_conflict(&conflict, true);
        metrics.set_deaf([("eth0".to_owned(), Protocol::Ndp)].iter());
        metrics.updated();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let served: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let page = include_str!("../../docs/how-to/monitoring.md");
        for series in &served {
            let name = series.split(['{', ' ']).next().unwrap_or(series);
            assert!(page.contains(name), "{name} is not on the page");
        }
        let rules = include_str!("../../deploy/alerts/announcer.rules.yaml");
        let words = rules.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
        let wanted: Vec<&str> = words.filter(|it| it.starts_with("pharos_")).collect();
        assert!(wanted.len() >= 6, "{wanted:?}");
        for name in wanted {
            let is_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
            assert!(served.iter().any(is_it), "{name} is not in\n{text}");
        }
        let conflict = "pharos_announcer_arp_ignored_total{reason=\"conflict\"} 0";
        assert!(served.contains(&conflict), "{text}");
    }

    #[test]
    fn names_of_metallb_are_kept_to_the_letter() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let address = IpAddr::from([192, 0, 2, 1]);
        metrics.of_address(address).requests.inc();
        let owners = ["east/default/web".to_owned()];
        metrics.set_announced("node-a", address, &owners, true);
        metrics.updated();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let announced = "metallb_speaker_announced{service=\"default/web\",protocol=\"layer2\",\
                         node=\"node-a\",ip=\"192.0.2.1\"} 1";
        for line in [
            "metallb_layer2_requests_received{ip=\"192.0.2.1\"} 1",
            "metallb_layer2_responses_sent{ip=\"192.0.2.1\"} 0",
            "metallb_layer2_gratuitous_sent{ip=\"192.0.2.1\"} 0",
            announced,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} not in\n{text}"
            );
        }
        assert!(
            text.contains("pharos_announcer_seconds_since_update"),
            "{text}"
        );
        metrics.set_announced("node-a", address, &owners, false);
        text.clear();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        assert!(!text.contains(announced));
    }

    #[test]
    fn addresses_that_come_and_go_leave_no_series_behind() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let stays = IpAddr::from([192, 0, 2, 1]);
        metrics.of_address(stays).requests.inc();
        let mut empty = String::new();
        prometheus_client::encoding::text::encode(&mut empty, &registry).expect("encodes");
        for last in 2..=200 {
            let address = IpAddr::from([192, 0, 2, last]);
            metrics.of_address(address).responses.inc();
            metrics.forget(address);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        assert_eq!(text, empty);
    }
}
