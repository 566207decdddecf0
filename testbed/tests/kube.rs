//! A real etcd and kube-apiserver, on loopback and inside a namespace.

use pharos_testbed::kube::{Assets, Kube, Options, User};
use pharos_testbed::{Lan, skip};

#[test]
fn the_api_answers_kubectl_keeps_objects_and_enforces_rbac() {
    let Some(assets) = Assets::or_skip() else {
        return;
    };
    let options = Options {
        users: vec![User::new("nobody", &[])],
        ..Options::default()
    };
    let kube = Kube::start_with(&assets, None, &options).unwrap();
    kube.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: default}}")
        .unwrap();
    let names = kube.kubectl(&["get", "configmaps", "-o", "name"]).unwrap();
    assert!(names.contains("configmap/a"), "{names}");
    let nobody = kube.kubeconfig_of("nobody").display().to_string();
    let refused = kube
        .kubectl(&["--kubeconfig", &nobody, "get", "configmaps"])
        .unwrap_err();
    assert!(
        refused.to_string().contains("cannot list resource"),
        "{refused}"
    );
}

#[test]
fn the_api_can_live_on_a_lan() {
    if !skip::can_use_namespaces() {
        return;
    }
    let Some(assets) = Assets::or_skip() else {
        return;
    };
    let lan = Lan::new(&[("api", "10.9.0.1/24"), ("node", "10.9.0.2/24")]).unwrap();
    let api = lan.host("api").unwrap();
    let options = Options {
        address: api.address,
        ..Options::default()
    };
    let kube = Kube::start_with(&assets, Some(&api.namespace), &options).unwrap();
    let config = kube.kubeconfig().display().to_string();
    let kubectl = assets.kubectl.display().to_string();
    let node = &lan.host("node").unwrap().namespace;
    let ready = node
        .exec(&[&kubectl, "--kubeconfig", &config, "get", "--raw=/readyz"])
        .unwrap();
    assert_eq!(ready, "ok");
}
