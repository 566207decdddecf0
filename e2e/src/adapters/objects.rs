//! Objects of a cluster that several tests write or compare.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use pharos_testbed::wait;
use serde_json::json;

use super::{Stage, addresses};
use crate::site::DEADLINE;

impl Stage {
    /// The administrator's kubeconfig of a cluster.
    pub fn kubeconfig(&self, cluster: &str) -> anyhow::Result<PathBuf> {
        Ok(self.cluster(cluster)?.kube.kubeconfig())
    }

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

    /// All pools are announced from everywhere by layer 2. (A Service whose pool nobody announces is told so by
    /// a condition, after ten seconds; where there is no announcer, after a minute.)
    pub fn advertise_all(&self, cluster: &str) -> anyhow::Result<()> {
        let everywhere = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": { "name": "default", "namespace": "metallb-system" },
        });
        self.apply(cluster, &everywhere.to_string())
    }

    /// Waits until a condition of a Service has this reason.
    pub fn wait_condition(
        &self,
        cluster: &str,
        name: &str,
        of: &str,
        reason: &str,
    ) -> anyhow::Result<()> {
        let what = format!("{cluster}: condition {of} of {name} has reason {reason}");
        wait::until_ok(&what, DEADLINE, || {
            let status = self.service(cluster, name)?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let found = conditions.iter().find(|condition| condition.type_ == of);
            let is_so = found.is_some_and(|condition| condition.reason == reason);
            anyhow::ensure!(is_so, "{conditions:?}");
            Ok(())
        })
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
