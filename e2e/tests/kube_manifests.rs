//! What `deploy/` has for Kubernetes, as a real kube-apiserver sees it.
//!
//! 1. Every object is accepted, and has no field that Kubernetes does not know.
//! 2. Each program is given flags that it has, on ports that others look for, and no privilege but the
//!    announcer's NET_RAW; the namespace admits that.

use std::process::Command;

use anyhow::Context as _;
use e2e::site::repository;
use pharos_testbed::kube::{Assets, Kube};
use pharos_testbed::workspace_binary;
use serde_json::{Value, json};

/// In the order of docs/how-to/kubernetes.md.
const MANIFESTS: [&str; 5] = [
    "k8s-adapter-rbac.yaml",
    "kubernetes/ipam-service.yaml",
    "kubernetes/k8s-adapter.yaml",
    "kubernetes/announcer.yaml",
    "kubernetes/webhook.yaml",
];

#[test]
fn a_kube_apiserver_accepts_the_manifests() -> anyhow::Result<()> {
    let Some(assets) = Assets::or_skip() else {
        return Ok(());
    };
    let kube = Kube::start(&assets)?;
    for manifest in MANIFESTS {
        let path = repository().join("deploy").join(manifest);
        let path = path.to_string_lossy();
        let applied = kube.kubectl(&["apply", "--validate=strict", "-f", &path])?;
        assert!(applied.contains("created"), "{applied}");
    }
    let announcer = container_of(&kube, "daemonset", "announcer")?;
    let capabilities = &announcer["securityContext"]["capabilities"];
    assert_eq!(*capabilities, json!({"add": ["NET_RAW"], "drop": ["ALL"]}));
    for (kind, name) in [
        ("statefulset", "ipam-service"),
        ("deployment", "k8s-adapter"),
    ] {
        let container = container_of(&kube, kind, name)?;
        let nothing = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(container["securityContext"], nothing, "{name}");
        has_these_flags(name, &container)?;
    }
    for (service, program, port) in [
        ("ipam-service", "statefulset", 7471),
        ("metallb-webhook-service", "deployment", 9443),
    ] {
        leads_to(&kube, service, program, port)?;
    }
    // What MetalLB's manifests say of it, too.
    let namespace = object(&kube, &["get", "namespace", "metallb-system"])?;
    for way in ["enforce", "audit", "warn"] {
        let label = format!("pod-security.kubernetes.io/{way}");
        assert_eq!(namespace["metadata"]["labels"][&label], "privileged");
    }
    Ok(())
}

fn object(kube: &Kube, get: &[&str]) -> anyhow::Result<Value> {
    let text = kube.kubectl(&[get, &["-o", "json"]].concat())?;
    Ok(serde_json::from_str(&text)?)
}

/// The one container of a workload.
fn container_of(kube: &Kube, kind: &str, name: &str) -> anyhow::Result<Value> {
    let workload = object(kube, &["get", kind, name, "-n", "metallb-system"])?;
    let containers = &workload["spec"]["template"]["spec"]["containers"];
    let containers = containers.as_array().context("no containers")?;
    assert_eq!(containers.len(), 1, "{name}");
    Ok(containers[0].clone())
}

/// Every flag that a container is given is one that its program has.
fn has_these_flags(program: &str, container: &Value) -> anyhow::Result<()> {
    let help = Command::new(workspace_binary(program)?)
        .arg("--help")
        .output()?;
    let help = String::from_utf8(help.stdout)?;
    let known: Vec<&str> = help.split_whitespace().collect();
    let flags = container["args"].as_array().context("no flags")?;
    assert!(flags.len() >= 4, "{flags:?}");
    for flag in flags {
        let flag = flag.as_str().context("a flag is text")?;
        let name = flag.split('=').next().unwrap_or(flag);
        assert!(known.contains(&name), "{program} has no {name}");
    }
    Ok(())
}

/// A Service selects the pods of a workload, and a port that these listen on.
fn leads_to(kube: &Kube, service: &str, kind: &str, port: u16) -> anyhow::Result<()> {
    let service = object(kube, &["get", "service", service, "-n", "metallb-system"])?;
    let selector = service["spec"]["selector"].as_object();
    let selector = selector.context("no selector")?;
    let list = object(kube, &["get", kind, "-n", "metallb-system"])?;
    let workload = &list["items"][0];
    let template = &workload["spec"]["template"];
    for (label, value) in selector {
        assert_eq!(template["metadata"]["labels"][label], *value, "{label}");
    }
    let ports = &template["spec"]["containers"][0]["ports"];
    let ports = ports.as_array().context("no ports")?;
    let target = &service["spec"]["ports"][0]["targetPort"];
    let found = ports
        .iter()
        .find(|port| port["name"] == *target || port["containerPort"] == *target)
        .with_context(|| format!("no port {target}"))?;
    assert_eq!(found["containerPort"], port);
    Ok(())
}
