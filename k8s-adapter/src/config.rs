//! Flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use pharos_process::{Flags, LogOptions, UsageError};

use crate::claim::Settings;
use crate::webhook;

/// Connects one Kubernetes cluster to the address book.
///
/// Gives Services of type LoadBalancer their addresses, and tells ipam-service which nodes can
/// announce them. Understands MetalLB's resources and annotations.
#[derive(Debug, Parser)]
#[command(name = "k8s-adapter", version)]
pub struct Args {
    /// Address of ipam-service
    #[arg(
        long,
        env = "PHAROS_IPAM",
        value_name = "URL",
        default_value = "http://127.0.0.1:7471"
    )]
    pub ipam: tonic::transport::Uri,
    /// Name of this cluster in the address book; no two clusters may have the same
    #[arg(long, env = "PHAROS_CLUSTER", value_name = "NAME", value_parser = parse_name)]
    pub cluster: String,
    /// How to reach the Kubernetes API [default: KUBECONFIG, ~/.kube/config, or the pod's own
    /// ServiceAccount]
    #[arg(long, env = "PHAROS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where MetalLB's resources are read; others are ignored
    #[arg(
        long,
        env = "PHAROS_NAMESPACE",
        value_name = "NAME",
        default_value = "metallb-system"
    )]
    pub namespace: String,
    /// Serve only Services of this loadBalancerClass [default: only those without a class]
    #[arg(long, env = "PHAROS_LB_CLASS", value_name = "CLASS", value_parser = parse_name)]
    pub lb_class: Option<String>,
    /// Address space of this cluster's pools: addresses in different spaces are different
    #[arg(
        long,
        env = "PHAROS_ADDRESS_SPACE",
        value_name = "NAME",
        default_value = pharos_proto::DEFAULT_ADDRESS_SPACE,
        value_parser = parse_name
    )]
    pub address_space: String,
    /// Let nodes announce that have the label node.kubernetes.io/exclude-from-external-load-balancers
    #[arg(long, env = "PHAROS_IGNORE_EXCLUDE_LB")]
    pub ignore_exclude_lb: bool,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(
        long,
        env = "PHAROS_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:7474"
    )]
    pub admin: SocketAddr,
    /// Where admission webhooks are served over HTTPS [default: nowhere]
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_LISTEN",
        value_name = "ADDR:PORT",
        requires_all = ["webhook_cert", "webhook_key"]
    )]
    pub webhook_listen: Option<SocketAddr>,
    /// Certificate of the webhooks in PEM, and those that it was signed with; read again when it changes
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_CERT",
        value_name = "FILE",
        requires_all = ["webhook_listen", "webhook_key"]
    )]
    pub webhook_cert: Option<PathBuf>,
    /// Key of that certificate in PEM
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_KEY",
        value_name = "FILE",
        requires_all = ["webhook_listen", "webhook_cert"]
    )]
    pub webhook_key: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogOptions,
}

impl Flags for Args {
    fn log_options(&self) -> &LogOptions {
        &self.log
    }
}

impl Args {
    /// What decides about Services.
    pub fn settings(&self) -> Settings {
        Settings {
            cluster: self.cluster.clone(),
            lb_class: self.lb_class.clone(),
            address_space: self.address_space.clone(),
            ignore_exclude_lb: self.ignore_exclude_lb,
        }
    }

    /// What is said of webhooks; `None`: there are none.
    pub fn webhook(&self) -> Option<webhook::Settings> {
        Some(webhook::Settings {
            listen: self.webhook_listen?,
            certificate: self.webhook_cert.clone()?,
            key: self.webhook_key.clone()?,
        })
    }

    /// How to reach the Kubernetes API. Nothing is called yet.
    pub async fn kube_config(&self) -> anyhow::Result<kube::Config> {
        Ok(match &self.kubeconfig {
            Some(path) => {
                let usage = |error: &dyn std::fmt::Display| {
                    UsageError(format!("--kubeconfig {}: {error}", path.display()))
                };
                let file =
                    kube::config::Kubeconfig::read_from(path).map_err(|error| usage(&error))?;
                kube::Config::from_custom_kubeconfig(
                    file,
                    &kube::config::KubeConfigOptions::default(),
                )
                .await
                .map_err(|error| usage(&error))?
            }
            None => kube::Config::infer().await.map_err(|error| {
                UsageError(format!("no way to reach the Kubernetes API: {error}"))
            })?,
        })
    }
}

/// A name as the API takes it: 1 to 253 bytes without control characters.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 || text.chars().any(char::is_control) {
        return Err("must have 1 to 253 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_required_and_the_rest_has_defaults() {
        let args = Args::try_parse_from(["k8s-adapter", "--cluster", "east"]).expect("accepted");
        assert_eq!(args.ipam.to_string(), "http://127.0.0.1:7471/");
        assert_eq!(args.namespace, "metallb-system");
        assert_eq!(args.admin.to_string(), "127.0.0.1:7474");
        assert_eq!(
            (args.lb_class, args.address_space.as_str()),
            (None, "default")
        );
        assert!(!args.ignore_exclude_lb);
        assert!(Args::try_parse_from(["k8s-adapter"]).is_err());
    }

    #[test]
    fn names_that_the_api_would_refuse_are_refused_here() {
        for name in ["", "a\nb", &"x".repeat(254)] {
            let parsed = Args::try_parse_from(["k8s-adapter", "--cluster", name]);
            assert!(parsed.is_err(), "{name:?}");
        }
    }
}
