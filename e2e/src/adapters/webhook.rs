//! The webhooks of an adapter on loopback: the objects of `deploy/kubernetes/webhook.yaml`, with a URL
//! where a cluster has a Service.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use pharos_testbed::free_port;
use serde_json::{Value, json};

use super::{Stage, repository};

/// The name of the configuration, in MetalLB's manifests and in ours.
pub const CONFIGURATION: &str = "metallb-webhook-configuration";

/// Where one adapter serves webhooks.
#[derive(Debug, Clone, Copy)]
pub struct Webhook {
    pub address: SocketAddr,
}

impl Webhook {
    /// A port that is free now.
    pub fn new() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, free_port()).into(),
        }
    }

    /// The manifest's configuration, which asks this adapter. Who trusts `ca` (PEM) has it in it.
    pub fn configuration(&self, ca: Option<&str>) -> anyhow::Result<Value> {
        let path = repository().join("deploy/kubernetes/webhook.yaml");
        let text = std::fs::read_to_string(path)?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        let mut found = objects
            .into_iter()
            .find(|object| object["kind"] == "ValidatingWebhookConfiguration")
            .context("there is no configuration")?;
        for webhook in found["webhooks"].as_array_mut().into_iter().flatten() {
            let client = &mut webhook["clientConfig"];
            let path = client["service"]["path"].as_str().context("no path")?;
            *client = json!({ "url": format!("https://{}{path}", self.address) });
            if let Some(ca) = ca {
                client["caBundle"] = json!(k8s_openapi::ByteString(ca.as_bytes().to_vec()));
            }
        }
        Ok(found)
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Self::new()
    }
}

impl Stage {
    /// Applies an object as if, for nothing is stored; an error is what the API server says.
    pub fn would_apply(&self, cluster: &str, object: &Value) -> anyhow::Result<()> {
        let file = self.directory.path().join("would-apply.json");
        std::fs::write(&file, object.to_string())?;
        let file = file.display().to_string();
        let arguments = [
            "apply",
            "--dry-run=server",
            "--warnings-as-errors",
            "-f",
            &file,
        ];
        self.kubectl(cluster, &arguments).map(drop)
    }
}
