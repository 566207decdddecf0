//! A cluster of a [`Site`] that MetalLB serves: its own controller beside the API server, and its own speaker on each
//! node, as processes; and its own manifest.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use pharos_testbed::metallb::Metallb;
use pharos_testbed::{Launch, Program, workspace_binary};
use serde_json::json;

use crate::site::{DEADLINE, Site};

const NAMESPACE: &str = "metallb-system";
/// By this name MetalLB has changes judged.
pub const WEBHOOKS: &str = "metallb-webhook-configuration";

/// MetalLB, running. Dropping it ends it.
#[derive(Debug)]
pub struct Incumbent {
    metallb: Metallb,
    cluster: String,
    controller: Option<Program>,
    speakers: BTreeMap<String, Program>,
}

impl Incumbent {
    /// Applies MetalLB's manifest, without its webhooks; nothing runs yet. `None`, after a loud line, where there is
    /// no MetalLB.
    pub fn install(site: &Site, cluster: &str) -> anyhow::Result<Option<Self>> {
        let Some(metallb) = Metallb::or_skip() else {
            return Ok(None);
        };
        let incumbent = Self {
            metallb,
            cluster: cluster.to_owned(),
            controller: None,
            speakers: BTreeMap::new(),
        };
        incumbent.apply_manifest(site)?;
        site.kubectl(
            cluster,
            &[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                "crd",
                "--all",
            ],
        )?;
        // No Service leads to the controller here, and without it nobody could apply a pool.
        site.kubectl(
            cluster,
            &["delete", "validatingwebhookconfiguration", WEBHOOKS],
        )?;
        Ok(Some(incumbent))
    }

    /// Applies the manifest once more: what was taken out of it is there again.
    pub fn apply_manifest(&self, site: &Site) -> anyhow::Result<()> {
        let manifest = self.metallb.manifest.display().to_string();
        site.kubectl(&self.cluster, &["apply", "-f", &manifest])?;
        Ok(())
    }

    /// Starts the controller.
    pub fn start_controller(&mut self, site: &Site) -> anyhow::Result<()> {
        let host = site.lan().host(&self.cluster)?;
        let kube = &site.cluster(&self.cluster)?.kube;
        let controller = Launch::program(&self.metallb.controller)
            .named("MetalLB's controller")
            .env("KUBECONFIG", kube.kubeconfig())
            .args(["--namespace", NAMESPACE])
            // No Service leads here, and nobody made its Secret.
            .args(["--webhook-mode", "disabled", "--disable-cert-rotation"])
            .start_in(&host.namespace)?;
        self.controller = Some(controller);
        Ok(())
    }

    /// Ends the controller.
    pub fn stop_controller(&mut self) -> anyhow::Result<()> {
        let mut controller = self.controller.take().context("no controller runs")?;
        controller.terminate(DEADLINE)?;
        Ok(())
    }

    /// Starts the speaker of a node, and says that its pod runs.
    pub fn start_speaker(&mut self, site: &Site, node: &str) -> anyhow::Result<()> {
        let host = site.lan().host(node)?;
        let kube = &site.cluster(&self.cluster)?.kube;
        let pod = format!("speaker-{node}");
        let labels = json!({"app": "metallb", "component": "speaker"});
        kube.apply(
            &json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod, "namespace": NAMESPACE, "labels": labels},
                "spec": {
                    "nodeName": node, "hostNetwork": true,
                    "containers": [{"name": "speaker", "image": "speaker"}],
                },
            })
            .to_string(),
        )?;
        let status = json!({"status": {
            "phase": "Running", "podIP": host.address, "podIPs": [{"ip": host.address}],
        }});
        kube.kubectl(&[
            "patch",
            "-n",
            NAMESPACE,
            "pod",
            &pod,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status.to_string(),
        ])?;
        let speaker = Launch::program(&self.metallb.speaker)
            .named(&format!("MetalLB's speaker of {node}"))
            .env("KUBECONFIG", kube.kubeconfig())
            .args(["--namespace", NAMESPACE, "--node-name", node])
            .args(["--pod-name", &pod, "--host", "127.0.0.1"])
            .args(["--ml-bindaddr", &host.address.to_string()])
            .args(["--ml-labels", "app=metallb,component=speaker"])
            .start_in(&host.namespace)?;
        self.speakers.insert(node.to_owned(), speaker);
        Ok(())
    }

    /// SIGTERM to all speakers at once, as when their DaemonSet goes.
    pub fn stop_speakers(&mut self) -> anyhow::Result<()> {
        for speaker in self.speakers.values_mut() {
            speaker.signal(nix::sys::signal::Signal::SIGTERM)?;
        }
        for (_, mut speaker) in std::mem::take(&mut self.speakers) {
            speaker.wait(DEADLINE)?;
        }
        Ok(())
    }
}

/// What `k8s-adapter migrate` said.
#[derive(Debug)]
pub struct Migrated {
    /// Its exit code.
    pub code: i32,
    /// The report, from stdout.
    pub text: String,
    /// What it complained of, from stderr.
    pub errors: String,
}

impl Migrated {
    /// Runs it, for a cluster and an ipam-service, as the user of a kubeconfig.
    pub fn run(
        cluster: &str,
        ipam: &str,
        kubeconfig: &Path,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let output = Command::new(workspace_binary("k8s-adapter")?)
            .args(["migrate", "--from", "metallb"])
            .args(["--cluster", cluster, "--ipam", ipam, "--kubeconfig"])
            .arg(kubeconfig)
            .args(flags)
            .output()
            .context("starting k8s-adapter")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self {
            code: output.status.code().context("it was killed")?,
            text: text(&output.stdout),
            errors: text(&output.stderr),
        })
    }
}
