//! `L2Advertisement`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{METALLB, custom_resource};

/// Announces pools on the local network.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct L2Advertisement {
    pub metadata: ObjectMeta,
    // Written by hand and not derived, because MetalLB's users leave the whole spec out: it then
    // means every pool from every node.
    #[serde(default)]
    pub spec: L2Spec,
}

custom_resource!(L2Advertisement, "l2advertisements", METALLB, "v1beta1");

/// `L2Advertisement.spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L2Spec {
    #[serde(rename = "ipAddressPools")]
    pub pools: Vec<String>,
    #[serde(rename = "ipAddressPoolSelectors")]
    pub pool_selectors: Vec<LabelSelector>,
    pub node_selectors: Vec<LabelSelector>,
    pub interfaces: Vec<String>,
    pub service_selectors: Vec<LabelSelector>,
    pub preferred_node_selectors: Vec<PreferredNodes>,
}

/// A preference for some nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferredNodes {
    /// 1 to 100.
    pub weight: i32,
    pub preference: LabelSelector,
}
