//! MetalLB's custom resources as Rust types. Their schema is `crds/*.yaml`, which users apply;
//! a test here holds the types to it.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

const GROUP: &str = "metallb.io";
const VERSION: &str = "v1beta1";

/// A pool of addresses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct IPAddressPool {
    pub metadata: ObjectMeta,
    pub spec: PoolSpec,
    pub status: Option<PoolStatus>,
}

/// Announces pools on the local network.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct L2Advertisement {
    pub metadata: ObjectMeta,
    // Written by hand and not derived, because MetalLB's users leave the whole spec out: it then
    // means every pool from every node.
    #[serde(default)]
    pub spec: L2Spec,
}

/// The same for both kinds: what `kube` must know to find them.
macro_rules! custom_resource {
    ($type:ident, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($type).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                VERSION.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

custom_resource!(IPAddressPool, "ipaddresspools");
custom_resource!(L2Advertisement, "l2advertisements");

/// `IPAddressPool.spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    pub addresses: Vec<String>,
    /// None means true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_assign: Option<bool>,
    #[serde(rename = "avoidBuggyIPs", default)]
    pub avoid_buggy_ips: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

/// Who may use a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceAllocation {
    pub priority: i64,
    pub namespaces: Vec<String>,
    pub namespace_selectors: Vec<LabelSelector>,
    pub service_selectors: Vec<LabelSelector>,
}

/// `IPAddressPool.status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    #[serde(rename = "assignedIPv4", default)]
    pub assigned_ipv4: i64,
    #[serde(rename = "assignedIPv6", default)]
    pub assigned_ipv6: i64,
    #[serde(rename = "availableIPv4", default)]
    pub available_ipv4: i64,
    #[serde(rename = "availableIPv6", default)]
    pub available_ipv6: i64,
}

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

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::{Map, Value, json};

    use super::*;

    const POOLS: &str = include_str!("../crds/ipaddresspools.yaml");
    const L2: &str = include_str!("../crds/l2advertisements.yaml");

    fn schema(yaml: &str) -> Value {
        let crd: Value = serde_saphyr::from_str(yaml).expect("the file is YAML");
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// An object in which every property that the schema knows has a value.
    fn fullest(schema: &Value) -> Value {
        match schema["type"].as_str().expect("a type") {
            "string" => json!("text"),
            "boolean" => json!(true),
            "integer" => schema.get("maximum").cloned().unwrap_or(json!(7)),
            "array" => json!([fullest(&schema["items"])]),
            "object" => match (schema.get("properties"), schema.get("additionalProperties")) {
                (Some(properties), _) => properties
                    .as_object()
                    .expect("properties are an object")
                    .iter()
                    .map(|(name, schema)| (name.clone(), fullest(schema)))
                    .collect::<Map<_, _>>()
                    .into(),
                (None, Some(values)) => json!({ "name": fullest(values) }),
                (None, None) => json!({}),
            },
            other => panic!("the schema uses type {other}, which this test does not know"),
        }
    }

    /// An object with only what the schema requires.
    fn barest(schema: &Value) -> Value {
        let required = schema.get("required").and_then(Value::as_array);
        match schema["type"].as_str() {
            Some("object") => required
                .into_iter()
                .flatten()
                .map(|name| name.as_str().expect("names are strings"))
                .map(|name| (name.to_owned(), barest(&schema["properties"][name])))
                .collect::<Map<_, _>>()
                .into(),
            _ => fullest(schema),
        }
    }

    #[test]
    fn the_pool_type_keeps_every_field_of_the_schema() {
        let schema = schema(POOLS);
        let spec = fullest(&schema["properties"]["spec"]);
        let parsed: PoolSpec = serde_json::from_value(spec.clone()).expect("accepted");
        assert_eq!(serde_json::to_value(parsed).expect("serializes"), spec);

        let status = fullest(&schema["properties"]["status"]);
        let parsed: PoolStatus = serde_json::from_value(status.clone()).expect("accepted");
        assert_eq!(serde_json::to_value(parsed).expect("serializes"), status);
    }

    #[test]
    fn the_l2_type_keeps_every_field_of_the_schema() {
        let spec = fullest(&schema(L2)["properties"]["spec"]);
        let parsed: L2Spec = serde_json::from_value(spec.clone()).expect("accepted");
        assert_eq!(serde_json::to_value(parsed).expect("serializes"), spec);
    }

    #[test]
    fn the_types_accept_the_barest_objects_of_the_schemas() {
        let spec = barest(&schema(POOLS)["properties"]["spec"]);
        let parsed: PoolSpec = serde_json::from_value(spec).expect("accepted");
        assert_eq!((parsed.auto_assign, parsed.avoid_buggy_ips), (None, false));
        let spec = barest(&schema(L2)["properties"]["spec"]);
        let parsed: L2Spec = serde_json::from_value(spec).expect("accepted");
        assert_eq!(parsed, L2Spec::default());
    }

    #[test]
    fn an_l2_advertisement_may_have_no_spec_at_all() {
        assert_eq!(barest(&schema(L2)), json!({}));
        let parsed: L2Advertisement =
            serde_json::from_value(json!({ "metadata": { "name": "default" } })).expect("accepted");
        assert_eq!(parsed.spec, L2Spec::default());
    }

    #[test]
    fn the_files_define_what_the_types_ask_for() {
        for (yaml, plural, kind, columns) in [
            (
                POOLS,
                IPAddressPool::plural(&()),
                IPAddressPool::kind(&()),
                vec!["Auto Assign", "Avoid Buggy IPs", "Addresses"],
            ),
            (
                L2,
                L2Advertisement::plural(&()),
                L2Advertisement::kind(&()),
                vec![
                    "IPAddressPools",
                    "IPAddressPool Selectors",
                    "Interfaces",
                    "Node Selectors",
                ],
            ),
        ] {
            let crd: Value = serde_saphyr::from_str(yaml).expect("the file is YAML");
            assert_eq!(crd["spec"]["names"]["plural"], plural.as_ref());
            assert_eq!(crd["spec"]["names"]["kind"], kind.as_ref());
            assert_eq!(crd["spec"]["names"].get("shortNames"), None);
            let version = &crd["spec"]["versions"][0];
            assert_eq!(version["name"], "v1beta1");
            assert_eq!(version["subresources"]["status"], json!({}));
            let shown: Vec<&Value> = version["additionalPrinterColumns"]
                .as_array()
                .expect("columns")
                .iter()
                .map(|column| &column["name"])
                .collect();
            assert_eq!(shown, columns);
        }
    }
}
