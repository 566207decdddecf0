//! What `deploy/` has for Kubernetes, as a real kube-apiserver sees it.
//!
//! 1. Every object is accepted, and has no field that Kubernetes does not know.

use e2e::site::repository;
use pharos_testbed::kube::{Assets, Kube};

const MANIFESTS: [&str; 3] = [
    "k8s-adapter-rbac.yaml",
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
    let pods = "jsonpath={.spec.template.spec.containers[0].securityContext.capabilities}";
    let set = [
        "get",
        "daemonset",
        "announcer",
        "-n",
        "metallb-system",
        "-o",
        pods,
    ];
    assert_eq!(kube.kubectl(&set)?, r#"{"add":["NET_RAW"],"drop":["ALL"]}"#);
    Ok(())
}
