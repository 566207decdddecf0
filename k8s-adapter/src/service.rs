//! A Kubernetes Service as far as the adapter cares, parsed once at the edge. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use pharos_proto::net::parse_address;

use crate::status::condition::Conditions;

/// Prefix of the annotations that users write.
pub const PREFIX: &str = "metallb.io/";
/// The same annotations under MetalLB's old prefix; deprecated, and still in many manifests.
pub const LEGACY_PREFIX: &str = "metallb.universe.tf/";

/// Prefix of annotations for what MetalLB has no word for.
pub const OWN_PREFIX: &str = "pharos.io/";

/// Addresses of this address space.
pub const ADDRESS_SPACE: &str = "pharos.io/address-space";
/// An address of this reservation only.
pub const RESERVATION: &str = "pharos.io/reservation";
/// Which pools the two addresses of a dual-stack Service may come from: [`ANY_POOLS`] or
/// [`ONE_POOL`], which is the default.
pub const DUAL_STACK_POOLS: &str = "pharos.io/dual-stack-pools";
/// See [`DUAL_STACK_POOLS`].
pub const ANY_POOLS: &str = "AnyPools";
/// See [`DUAL_STACK_POOLS`].
pub const ONE_POOL: &str = "OnePool";

/// Whoever has one of these labels was made for a Gateway of the Gateway API, which asks for addresses by
/// its `spec.addresses`. Envoy Gateway hands them on as `spec.externalIPs`.
const GATEWAY_LABELS: [&str; 2] = [
    "gateway.envoyproxy.io/owning-gateway-name",
    "gateway.networking.k8s.io/gateway-name",
];

/// From this pool only.
pub const ADDRESS_POOL: &str = "address-pool";
/// Exactly these addresses: one, or one of each family, with commas between.
pub const ADDRESSES: &str = "loadBalancerIPs";
/// Services with the same value may share an address.
pub const SHARING_KEY: &str = "allow-shared-ip";
/// Written by the adapter: the pool that the addresses come from.
pub const FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";

/// Name of a Service in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: String,
    pub name: String,
}

impl ServiceKey {
    /// Both parts as given.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `spec.externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Any node takes traffic in and forwards it.
    #[default]
    Cluster,
    /// Only nodes with an endpoint of their own.
    Local,
}

/// `spec.ipFamilyPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FamilyPolicy {
    #[default]
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingress {
    /// An address and nothing else, as this adapter writes it.
    Address(IpAddr),
    /// Something that this adapter never writes, by its address or host name: a host name, per-port
    /// errors, a bad address.
    Other(String),
}

/// A Service as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    pub key: ServiceKey,
    pub uid: String,
    pub resource_version: String,
    /// Of its spec, where the API server counts it.
    pub generation: Option<i64>,
    /// `spec.type` is LoadBalancer. Otherwise only `class` and what may have to be cleaned up
    /// are kept below.
    pub load_balancer: bool,
    pub class: Option<String>,
    pub cluster_ips: Vec<String>,
    pub family_policy: FamilyPolicy,
    /// `spec.loadBalancerIP`; empty: none.
    pub load_balancer_ip: String,
    /// `spec.externalIPs` of a Service that was made for a Gateway; of no other.
    pub gateway_addresses: Vec<String>,
    pub traffic_policy: TrafficPolicy,
    /// Protocol as written (default TCP) and number.
    pub ports: Vec<(String, i32)>,
    pub selector: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Those with one of the three prefixes, by their whole name.
    pub annotations: BTreeMap<String, String>,
    pub ingress: Vec<Ingress>,
    pub conditions: Conditions,
}

impl ServiceState {
    /// `None` for an object without a name, namespace or uid, which no API server sends.
    pub fn parse(service: &Service) -> Option<Self> {
        let meta = &service.metadata;
        let spec = service.spec.clone().unwrap_or_default();
        let load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
        let annotations = meta.annotations.iter().flatten();
        let mut parsed = Self {
            key: ServiceKey::new(meta.namespace.clone()?, meta.name.clone()?),
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.filter(|generation| *generation != 0),
            load_balancer,
            class: spec.load_balancer_class,
            cluster_ips: Vec::new(),
            family_policy: FamilyPolicy::default(),
            load_balancer_ip: String::new(),
            gateway_addresses: Vec::new(),
            traffic_policy: TrafficPolicy::default(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: annotations
                .filter(|(name, _)| {
                    let prefixes = [PREFIX, LEGACY_PREFIX, OWN_PREFIX];
                    prefixes.iter().any(|prefix| name.starts_with(prefix))
                })
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            ingress: parse_ingress(service),
            conditions: Conditions::parse(service),
        };
        if !load_balancer {
            return Some(parsed);
        }
        // clusterIP alone is how API servers before dual-stack said it.
        parsed.cluster_ips = spec
            .cluster_ips
            .unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        parsed.cluster_ips.retain(|ip| !ip.is_empty());
        parsed.family_policy = match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
            Some(_) | None => FamilyPolicy::SingleStack,
        };
        parsed.load_balancer_ip = spec.load_balancer_ip.unwrap_or_default();
        parsed.traffic_policy = match spec.external_traffic_policy.as_deref() {
            Some("Local") => TrafficPolicy::Local,
            Some(_) | None => TrafficPolicy::Cluster,
        };
        parsed.ports = spec
            .ports
            .into_iter()
            .flatten()
            .map(|port| (port.protocol.unwrap_or_else(|| "TCP".to_owned()), port.port))
            .collect();
        parsed.selector = spec.selector.unwrap_or_default().into_iter().collect();
        parsed.labels = meta
            .labels
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        let is_gateways = |label: &&str| parsed.labels.contains_key(*label);
        if GATEWAY_LABELS.iter().any(is_gateways) {
            parsed.gateway_addresses = spec.external_ips.unwrap_or_default();
        }
        Some(parsed)
    }

    /// What only its Gateway asks for: nothing nearer to the Service names addresses.
    pub fn asked_by_gateway(&self) -> &[String] {
        let nearer = self.annotation(ADDRESSES).unwrap_or_default();
        if nearer.is_empty() && self.load_balancer_ip.is_empty() {
            &self.gateway_addresses
        } else {
            &[]
        }
    }

    /// Value of an annotation by its name without prefix. The new prefix wins by its mere
    /// presence, even with an empty value (as in MetalLB).
    pub fn annotation(&self, name: &str) -> Option<&str> {
        [PREFIX, LEGACY_PREFIX]
            .iter()
            .find_map(|prefix| self.annotations.get(&format!("{prefix}{name}")))
            .map(String::as_str)
    }

    /// Value of an annotation by its whole name; empty if there is none.
    pub fn own_annotation(&self, name: &str) -> &str {
        self.annotations.get(name).map_or("", String::as_str)
    }

    /// Whole names of the annotations with the deprecated prefix.
    pub fn legacy_annotations(&self) -> impl Iterator<Item = &str> {
        self.annotations
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with(LEGACY_PREFIX))
    }

    /// The pool that a controller wrote down: the mark of a Service that has been served.
    pub fn from_pool(&self) -> Option<&str> {
        self.annotations.get(FROM_POOL).map(String::as_str)
    }

    /// Everything in the status, if there is something in it that nobody can route to: no address, or
    /// not one of each family.
    pub fn strange_ingress(&self) -> Option<Vec<String>> {
        let of = |v6| {
            self.addresses()
                .iter()
                .filter(|it| it.is_ipv6() == v6)
                .count()
        };
        let strange = self.ingress.iter().any(is_strange) || of(false) > 1 || of(true) > 1;
        let text = |ingress: &Ingress| match ingress {
            Ingress::Address(address) => address.to_string(),
            Ingress::Other(text) => text.clone(),
        };
        strange.then(|| self.ingress.iter().map(text).collect())
    }

    /// The addresses in the status.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ingress
            .iter()
            .filter_map(|ingress| match ingress {
                Ingress::Address(address) => Some(*address),
                Ingress::Other(_) => None,
            })
            .collect()
    }
}

fn is_strange(ingress: &Ingress) -> bool {
    matches!(ingress, Ingress::Other(_))
}

fn parse_ingress(service: &Service) -> Vec<Ingress> {
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|load_balancer| load_balancer.ingress.as_ref());
    ingress.into_iter().flatten().map(parse_point).collect()
}

/// `ipMode` is filled in by the API server and says nothing about who wrote the entry.
fn parse_point(point: &LoadBalancerIngress) -> Ingress {
    let plain = point.hostname.as_deref().unwrap_or_default().is_empty()
        && point.ports.as_deref().unwrap_or_default().is_empty();
    match point.ip.as_deref().map(parse_address) {
        Some(Ok(address)) if plain => Ingress::Address(address),
        Some(Ok(_) | Err(_)) | None => {
            let named = point.ip.as_ref().or(point.hostname.as_ref());
            Ingress::Other(named.cloned().unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: serde_json::Value) -> ServiceState {
        let service: Service = serde_json::from_value(value).expect("a Service");
        ServiceState::parse(&service).expect("with a name")
    }

    #[test]
    fn what_the_adapter_needs_is_kept() {
        let service = parse(json!({
            "metadata": {
                "namespace": "default", "name": "web", "uid": "u1", "resourceVersion": "7",
                "labels": { "app": "web" },
                "annotations": { "metallb.io/address-pool": "a", "unrelated": "x" },
            },
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": "c", "clusterIPs": ["10.0.0.1"],
                "ipFamilyPolicy": "PreferDualStack", "loadBalancerIP": "192.0.2.1",
                "externalTrafficPolicy": "Local", "selector": { "app": "web" },
                "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }],
            },
            "status": { "loadBalancer": { "ingress": [
                { "ip": "192.0.2.1", "ipMode": "VIP" }, { "hostname": "lb.example" },
            ] } },
        }));
        assert_eq!(service.key.to_string(), "default/web");
        assert_eq!(
            (service.uid.as_str(), service.resource_version.as_str()),
            ("u1", "7")
        );
        assert!(service.load_balancer);
        assert_eq!(service.class.as_deref(), Some("c"));
        assert_eq!(service.family_policy, FamilyPolicy::PreferDualStack);
        assert_eq!(service.traffic_policy, TrafficPolicy::Local);
        assert_eq!(
            service.ports,
            [("TCP".to_owned(), 80), ("UDP".to_owned(), 53)]
        );
        assert_eq!(service.annotations.len(), 1);
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(
            service.ingress,
            [
                Ingress::Address(address),
                Ingress::Other("lb.example".to_owned())
            ]
        );
        assert_eq!(service.addresses(), [address]);
    }

    #[test]
    fn the_new_prefix_wins_by_presence_even_when_it_is_empty() {
        let annotated = |annotations: serde_json::Value| {
            parse(json!({ "metadata": {
                "namespace": "a", "name": "b", "uid": "c", "annotations": annotations,
            } }))
        };
        for (annotations, value) in [
            (json!({}), None),
            (json!({ "metallb.io/address-pool": "new" }), Some("new")),
            (
                json!({ "metallb.universe.tf/address-pool": "old" }),
                Some("old"),
            ),
            (
                json!({ "metallb.io/address-pool": "new", "metallb.universe.tf/address-pool": "old" }),
                Some("new"),
            ),
            (
                json!({ "metallb.io/address-pool": "", "metallb.universe.tf/address-pool": "old" }),
                Some(""),
            ),
        ] {
            assert_eq!(
                annotated(annotations.clone()).annotation(ADDRESS_POOL),
                value,
                "{annotations}"
            );
        }
    }

    #[test]
    fn a_service_of_another_type_keeps_its_mark_and_its_status() {
        let service = parse(json!({
            "metadata": { "namespace": "a", "name": "b", "uid": "c",
                "annotations": { "metallb.io/ip-allocated-from-pool": "p" } },
            "spec": { "type": "ClusterIP", "ports": [{ "port": 80 }] },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } },
        }));
        assert!(!service.load_balancer);
        assert_eq!(service.from_pool(), Some("p"));
        assert_eq!(service.ingress.len(), 1);
        assert!(service.ports.is_empty());
    }
}
