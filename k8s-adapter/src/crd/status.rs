//! Kinds that only tell: what is announced by whom, and whether the configuration is sound.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{FRR_K8S, METALLB, custom_resource};

/// Which node announces a Service on the local network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceL2Status {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: ServiceL2,
}

custom_resource!(ServiceL2Status, "servicel2statuses", METALLB, "v1beta1");

/// `ServiceL2Status.status`. What it is about cannot be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceL2 {
    pub node: String,
    pub service_name: String,
    pub service_namespace: String,
    /// None: all that may be used.
    pub interfaces: Vec<Interface>,
}

/// An interface of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
}

/// Which peers a node announces a Service to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceBGPStatus {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: ServiceBgp,
}

custom_resource!(ServiceBGPStatus, "servicebgpstatuses", METALLB, "v1beta1");

/// `ServiceBGPStatus.status`. What it is about cannot be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceBgp {
    pub node: String,
    pub service_name: String,
    pub service_namespace: String,
    /// BGPPeers by name.
    pub peers: Vec<String>,
}

/// What one component makes of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationState {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: ConfigurationStatus,
}

custom_resource!(
    ConfigurationState,
    "configurationstates",
    METALLB,
    "v1beta1"
);

/// `ConfigurationState.status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigurationStatus {
    /// `Valid`, `Invalid` or `Unknown`; empty: nothing was said yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub result: String,
    /// One line for each error.
    pub error_summary: String,
    pub conditions: Vec<Condition>,
}

/// State of one BGP session of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BGPSessionState {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: SessionState,
}

custom_resource!(BGPSessionState, "bgpsessionstates", FRR_K8S, "v1beta1");

/// `BGPSessionState.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionState {
    pub node: String,
    /// Address or interface of the router.
    pub peer: String,
    pub vrf: String,
    pub bgp_status: String,
    pub bfd_status: String,
}
