//! `BGPAdvertisement`, `Community` and `BFDProfile`. Each may come without a spec.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{METALLB, custom_resource};

/// Announces pools to routers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct BGPAdvertisement {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: BgpSpec,
}

custom_resource!(BGPAdvertisement, "bgpadvertisements", METALLB, "v1beta1");

/// `BGPAdvertisement.spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpSpec {
    /// None means 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation_length: Option<i32>,
    /// None means 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation_length_v6: Option<i32>,
    pub local_pref: u32,
    pub communities: Vec<String>,
    #[serde(rename = "ipAddressPools")]
    pub pools: Vec<String>,
    #[serde(rename = "ipAddressPoolSelectors")]
    pub pool_selectors: Vec<LabelSelector>,
    pub node_selectors: Vec<LabelSelector>,
    pub peers: Vec<String>,
    pub service_selectors: Vec<LabelSelector>,
}

/// Names for communities.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Community {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: CommunitySpec,
}

custom_resource!(Community, "communities", METALLB, "v1beta1");

/// `Community.spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommunitySpec {
    pub communities: Vec<CommunityAlias>,
}

/// A name and what it stands for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommunityAlias {
    pub name: String,
    pub value: String,
}

/// How BFD watches routers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct BFDProfile {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: ProfileSpec,
}

custom_resource!(BFDProfile, "bfdprofiles", METALLB, "v1beta1");

/// `BFDProfile.spec`. None: the announcer's own value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileSpec {
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<u32>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect_multiplier: Option<u32>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_mode: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_mode: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ttl: Option<u32>,
}
