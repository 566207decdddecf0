//! `BGPPeer`. Its versions name the same fields alike, and `v1beta1` only lacks some: what is stored
//! is read as `v1beta2`, whichever it was written as.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{METALLB, custom_resource};

/// A router to announce addresses to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct BGPPeer {
    pub metadata: ObjectMeta,
    // The schema lets a peer without a spec pass; the checks do not.
    #[serde(default)]
    pub spec: PeerSpec,
}

custom_resource!(BGPPeer, "bgppeers", METALLB, "v1beta2");

/// `BGPPeer.spec`. Durations are written as Go writes them (`1m30s`); empty texts and 0 mean that
/// nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerSpec {
    #[serde(rename = "myASN")]
    pub my_asn: u32,
    #[serde(rename = "peerASN")]
    pub peer_asn: u32,
    /// `internal` or `external`.
    #[serde(rename = "dynamicASN")]
    pub dynamic_asn: String,
    #[serde(rename = "localASN")]
    pub local_asn: u32,
    #[serde(rename = "peerAddress")]
    pub address: String,
    pub interface: String,
    pub source_address: String,
    /// 0 means 179: `v1beta1` allows it.
    #[serde(rename = "peerPort")]
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_time: Option<String>,
    #[serde(rename = "routerID")]
    pub router_id: String,
    pub node_selectors: Vec<LabelSelector>,
    pub password: String,
    pub password_secret: SecretRef,
    pub bfd_profile: String,
    pub enable_graceful_restart: bool,
    pub ebgp_multi_hop: bool,
    pub vrf: String,
    #[serde(rename = "disableMP")]
    pub disable_mp: bool,
    pub dual_stack_address_family: bool,
}

/// Names a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretRef {
    pub name: String,
    pub namespace: String,
}
