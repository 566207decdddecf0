//! A cluster for tests: what MetalLB's manifests bring, a pool, an advertisement and a Service.

use serde_json::{Value, json};

use super::facts::{Facts, Listed};
use crate::claim::Settings;

pub(super) fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    }
}

fn listed(group: &str, kind: &str, plural: &str, objects: Vec<Value>) -> Listed {
    Listed {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        objects: Ok(objects),
    }
}

pub(super) fn facts() -> Facts {
    let definitions = [
        ("ipaddresspools", "IPAddressPool"),
        ("l2advertisements", "L2Advertisement"),
        ("bgpadvertisements", "BGPAdvertisement"),
        ("bgppeers", "BGPPeer"),
    ];
    let defined = definitions.map(|(plural, kind)| definition("metallb.io", plural, kind));
    let mut facts = Facts {
        kubernetes: "v1.36.3".to_owned(),
        cluster_uid: "c".to_owned(),
        namespace: "metallb-system".to_owned(),
        lists: vec![
            listed(
                "",
                "Namespace",
                "namespaces",
                vec![named("Namespace", "", "default")],
            ),
            listed("", "Node", "nodes", Vec::new()),
            listed(
                "",
                "Service",
                "services",
                vec![service("web", json!({}), &["192.0.2.1"])],
            ),
            listed(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                defined.to_vec(),
            ),
            listed(
                "apps",
                "Deployment",
                "deployments",
                vec![workload("controller", &[])],
            ),
            listed(
                "apps",
                "DaemonSet",
                "daemonsets",
                vec![workload("speaker", &[])],
            ),
            listed("", "ConfigMap", "configmaps", Vec::new()),
            listed(
                "admissionregistration.k8s.io",
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                Vec::new(),
            ),
        ],
    };
    let kinds = definitions.map(|(plural, kind)| listed("metallb.io", kind, plural, Vec::new()));
    facts.lists.extend(kinds);
    facts.add("metallb.io", "ipaddresspools", pool("a", "192.0.2.0/28"));
    let all = named("L2Advertisement", "metallb-system", "all");
    facts.add("metallb.io", "l2advertisements", all);
    facts
}

impl Facts {
    pub(super) fn add(&mut self, group: &str, plural: &str, object: Value) {
        self.objects(group, plural).push(object);
    }

    pub(super) fn replace(&mut self, group: &str, plural: &str, object: Value) {
        *self.objects(group, plural) = vec![object];
    }

    pub(super) fn fail(&mut self, group: &str, plural: &str, why: &str) {
        self.find(group, plural).objects = Err(why.to_owned());
    }

    /// A kind that has no list yet.
    pub(super) fn know(&mut self, group: &str, plural: &str, kind: &str, objects: Vec<Value>) {
        self.lists.push(listed(group, kind, plural, objects));
    }

    fn objects(&mut self, group: &str, plural: &str) -> &mut Vec<Value> {
        self.find(group, plural)
            .objects
            .as_mut()
            .expect("it can be read")
    }

    fn find(&mut self, group: &str, plural: &str) -> &mut Listed {
        let mut lists = self.lists.iter_mut();
        let found = lists.find(|list| list.group == group && list.plural == plural);
        found.expect("a list of the kind")
    }
}

/// An object with nothing but a name.
pub(super) fn named(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "uid": "u" },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

pub(super) fn pool(name: &str, addresses: &str) -> Value {
    let mut pool = named("IPAddressPool", "metallb-system", name);
    pool["spec"] = json!({ "addresses": [addresses] });
    pool
}

/// A Service of `default` with these addresses, and what differs in its spec from the least.
pub(super) fn service(name: &str, spec: Value, addresses: &[&str]) -> Value {
    let mut service = named("Service", "default", name);
    service["metadata"]["resourceVersion"] = json!("1");
    service["spec"] = json!({ "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"] });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    service["status"] = json!({ "loadBalancer": { "ingress": ingress } });
    service
}

/// The Deployment or DaemonSet of one of MetalLB's programs.
pub(super) fn workload(role: &str, arguments: &[&str]) -> Value {
    let kind = if role == "controller" {
        "Deployment"
    } else {
        "DaemonSet"
    };
    let mut workload = named(kind, "metallb-system", role);
    workload["metadata"]["labels"] = json!({ "app": "metallb", "component": role });
    workload["spec"] = json!({ "template": { "spec": { "containers": [{
        "name": role,
        "image": format!("quay.io/metallb/{role}:v0.15.2"),
        "args": arguments,
    }] } } });
    workload
}

pub(super) fn definition(group: &str, plural: &str, kind: &str) -> Value {
    let mut definition = named("CustomResourceDefinition", "", &format!("{plural}.{group}"));
    definition["spec"] = json!({
        "group": group,
        "names": { "kind": kind, "plural": plural },
        "conversion": { "strategy": "None" },
    });
    definition["status"] = json!({ "storedVersions": ["v1beta1"] });
    definition
}

pub(super) fn config_map(name: &str, key: &str, text: &str) -> Value {
    let mut map = named("ConfigMap", "metallb-system", name);
    map["data"] = json!({ key: text });
    map
}
