//! Objects of a cluster that several tests write or compare.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::json;

use super::{Stage, addresses};

impl Stage {
    /// Resource version and addresses of each Service: equal only if nobody wrote anything.
    pub fn versions(
        &self,
        cluster: &str,
    ) -> anyhow::Result<BTreeMap<String, (String, Vec<String>)>> {
        let services = self.services(cluster)?.into_iter();
        services
            .map(|(name, service)| {
                let version = service.metadata.resource_version.clone();
                let version = version.context("a Service has a version")?;
                Ok((name, (version, addresses(&service))))
            })
            .collect()
    }

    /// The Service `web` has one endpoint, on node `n1`, which is ready or not.
    pub fn set_endpoint(&self, cluster: &str, ready: bool) -> anyhow::Result<()> {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": "IPv4", "ports": [{ "name": "p", "port": 8080 }],
            "endpoints": [{
                "addresses": ["10.244.0.9"], "nodeName": "n1", "conditions": { "ready": ready },
            }],
        });
        self.apply(cluster, &slice.to_string())
    }
}
