//! Which nodes may announce, and which can take in traffic for a Service. Pure.
//!
//! The rules are MetalLB's, so that a Service goes silent exactly when it did before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use pharos_proto::v1;

use crate::claim::{Settings, owner};
use crate::service::{ServiceKey, ServiceState, TrafficPolicy};

/// A node with this label, whatever its value, takes no load balancer traffic.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Why such a node may not announce.
const EXCLUDED: &str = "ExcludedFromExternalLoadBalancers";
/// Names the Service of an EndpointSlice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Name of an EndpointSlice in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    pub namespace: String,
    pub name: String,
}

/// What counts of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceState {
    pub key: SliceKey,
    /// Of its own namespace; `None`: it belongs to no Service.
    pub service: Option<ServiceKey>,
    /// At least one endpoint is usable, whether its node is known or not.
    pub usable: bool,
    /// Nodes of usable endpoints.
    pub nodes: BTreeSet<String>,
}

impl SliceState {
    /// `None` for an object without a name or namespace, which no API server sends.
    pub fn parse(slice: &EndpointSlice) -> Option<Self> {
        let meta = &slice.metadata;
        let key = SliceKey {
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
        };
        let labels = meta.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_LABEL));
        let usable: Vec<&Endpoint> = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|it| usable(it))
            .collect();
        Some(Self {
            service: service.map(|name| ServiceKey::new(&key.namespace, name)),
            key,
            usable: !usable.is_empty(),
            nodes: usable
                .into_iter()
                .filter_map(|endpoint| endpoint.node_name.clone())
                .collect(),
        })
    }
}

/// Ready, or not known to be unready; or terminating but still serving.
fn usable(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready);
    let serving = conditions.and_then(|conditions| conditions.serving);
    ready.unwrap_or(true) || serving == Some(true)
}

/// Which nodes can take in traffic for a Service, from all its slices.
pub fn backends<'a>(
    service: &ServiceState,
    slices: impl IntoIterator<Item = &'a SliceState>,
    cluster: &str,
) -> v1::BackendsFact {
    let mut any_node = false;
    let mut nodes = BTreeSet::new();
    for slice in slices {
        match service.traffic_policy {
            TrafficPolicy::Cluster => any_node |= slice.usable,
            TrafficPolicy::Local => nodes.extend(slice.nodes.iter().cloned()),
        }
    }
    v1::BackendsFact {
        owner: Some(owner(&service.key, &service.uid, cluster)),
        any_node,
        nodes: nodes.into_iter().collect(),
    }
}

/// What counts of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// As ipam-service is to know it.
    pub fact: v1::NodeFact,
    /// Those that it says it has.
    pub addresses: BTreeSet<IpAddr>,
}

impl NodeState {
    /// `None` for an object without a name.
    pub fn parse(node: &Node) -> Option<Self> {
        let addresses = node.status.as_ref().and_then(|it| it.addresses.as_ref());
        let addresses = addresses.into_iter().flatten();
        Some(Self {
            fact: fact(node)?,
            // A host name is none.
            addresses: addresses.filter_map(|it| it.address.parse().ok()).collect(),
        })
    }
}

fn fact(node: &Node) -> Option<v1::NodeFact> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let cut_off = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "NetworkUnavailable" && condition.status == "True");
    let unavailable_reason = if cut_off {
        "NetworkUnavailable"
    } else if labels.contains_key(EXCLUDE_LABEL) {
        EXCLUDED
    } else {
        ""
    };
    Some(v1::NodeFact {
        name: node.metadata.name.clone()?,
        labels: labels.into_iter().collect(),
        unavailable_reason: unavailable_reason.to_owned(),
    })
}

/// The node as it is told: one that is excluded may announce where that label is ignored.
pub fn told(node: &v1::NodeFact, settings: &Settings) -> v1::NodeFact {
    let mut told = node.clone();
    if settings.ignore_exclude_lb && told.unavailable_reason == EXCLUDED {
        told.unavailable_reason.clear();
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, endpoints: Value) -> SliceState {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": name,
                "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": endpoints, "ports": [],
        }))
        .expect("an EndpointSlice");
        SliceState::parse(&slice).expect("of a Service")
    }

    fn service(policy: &str) -> ServiceState {
        let service = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "web", "uid": "u" },
            "spec": { "type": "LoadBalancer", "externalTrafficPolicy": policy },
        }));
        ServiceState::parse(&service.expect("a Service")).expect("with a name")
    }

    #[test]
    fn an_endpoint_is_usable_unless_it_is_known_not_to_serve() {
        for (conditions, expected) in [
            (json!({}), true),
            (json!({ "ready": true }), true),
            (json!({ "ready": false }), false),
            (json!({ "ready": false, "serving": false }), false),
            (json!({ "ready": true, "serving": false }), true),
            (
                json!({ "ready": false, "serving": true, "terminating": true }),
                true,
            ),
            (
                json!({ "ready": false, "serving": false, "terminating": true }),
                false,
            ),
            (json!({ "ready": null, "serving": null }), true),
        ] {
            let endpoint = json!([{
                "addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": conditions,
            }]);
            assert_eq!(slice("s", endpoint).usable, expected, "{conditions}");
        }
        assert!(slice("s", json!([{ "addresses": ["10.1.0.1"] }])).usable);
        assert!(!slice("s", json!([])).usable);
    }

    #[test]
    fn under_cluster_one_usable_endpoint_anywhere_serves_every_node() {
        let none = slice(
            "a",
            json!([{ "addresses": ["10.1.0.1"], "conditions": { "ready": false } }]),
        );
        let nodeless = slice("b", json!([{ "addresses": ["10.1.0.2"] }]));
        let fact = backends(&service("Cluster"), [&none], "east");
        assert_eq!((fact.any_node, fact.nodes.len()), (false, 0));
        let fact = backends(&service("Cluster"), [&none, &nodeless], "east");
        assert_eq!((fact.any_node, fact.nodes.len()), (true, 0));
        let owner = fact.owner.expect("an owner");
        assert_eq!(
            (
                owner.cluster.as_str(),
                owner.name.as_str(),
                owner.uid.as_str()
            ),
            ("east", "web", "u")
        );
    }

    #[test]
    fn under_local_only_nodes_with_a_usable_endpoint_serve() {
        let one = slice(
            "a",
            json!([
                { "addresses": ["10.1.0.1"], "nodeName": "n2" },
                { "addresses": ["10.1.0.2"], "nodeName": "n1", "conditions": { "ready": false, "serving": true } },
                { "addresses": ["10.1.0.3"], "nodeName": "n3", "conditions": { "ready": false } },
                { "addresses": ["10.1.0.4"] },
            ]),
        );
        let two = slice(
            "b",
            json!([{ "addresses": ["10.1.0.5"], "nodeName": "n2" }]),
        );
        let fact = backends(&service("Local"), [&one, &two], "east");
        assert_eq!(
            (fact.any_node, fact.nodes),
            (false, vec!["n1".to_owned(), "n2".to_owned()])
        );
    }

    #[test]
    fn a_slice_may_belong_to_no_service() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "s" },
            "addressType": "IPv4", "endpoints": [], "ports": [],
        }))
        .expect("an EndpointSlice");
        let slice = SliceState::parse(&slice).expect("with a name");
        assert_eq!(slice.service, None);
    }

    #[test]
    fn a_node_says_which_addresses_it_has() {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "n1" },
            "status": { "addresses": [
                { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "ExternalIP", "address": "2001:db8::1" },
                { "type": "Hostname", "address": "n1.example" },
            ] },
        }))
        .expect("a Node");
        let state = NodeState::parse(&node).expect("with a name");
        let addresses: Vec<String> = state.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            (state.fact.name.as_str(), addresses),
            ("n1", vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()])
        );
    }

    #[test]
    fn a_node_says_why_it_may_not_announce() {
        let condition = |kind: &str, status: &str| json!([{ "type": kind, "status": status }]);
        for (labels, conditions, reason) in [
            (json!({}), json!([]), ""),
            (json!({}), condition("NetworkUnavailable", "False"), ""),
            (
                json!({}),
                condition("NetworkUnavailable", "True"),
                "NetworkUnavailable",
            ),
            // Neither readiness nor a cordon counts.
            (json!({}), condition("Ready", "False"), ""),
            (
                json!({ EXCLUDE_LABEL: "" }),
                json!([]),
                "ExcludedFromExternalLoadBalancers",
            ),
            (
                json!({ EXCLUDE_LABEL: "false" }),
                json!([]),
                "ExcludedFromExternalLoadBalancers",
            ),
            (
                json!({ EXCLUDE_LABEL: "" }),
                condition("NetworkUnavailable", "True"),
                "NetworkUnavailable",
            ),
        ] {
            let parsed: Node = serde_json::from_value(json!({
                "metadata": { "name": "n1", "labels": labels }, "status": { "conditions": conditions },
            }))
            .expect("a Node");
            let fact = fact(&parsed).expect("with a name");
            assert_eq!(fact.unavailable_reason, reason, "{labels} {conditions}");
            assert_eq!(fact.name, "n1");
            let settings = |ignore_exclude_lb| Settings {
                cluster: "east".to_owned(),
                lb_class: None,
                address_space: "default".to_owned(),
                ignore_exclude_lb,
            };
            assert_eq!(told(&fact, &settings(false)), fact);
            // A node that is cut off may not announce, whatever its labels say.
            let ignored = told(&fact, &settings(true));
            let left = if reason == EXCLUDED { "" } else { reason };
            assert_eq!(ignored.unavailable_reason, left, "{labels} {conditions}");
            assert_eq!(ignored.labels, fact.labels);
        }
    }
}
