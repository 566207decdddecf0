//! What is said of a cluster.

use serde_json::{Value, json};

use crate::claim::Settings;
use crate::migrate::judge::testing::{
    config_map, definition, facts, named, pool, settings, workload,
};
use crate::migrate::judge::{Facts, MetalLb, Remark, Weight, remarks};
use crate::migrate::read;
use crate::policy::examine;

fn judged(facts: &Facts, settings: &Settings) -> Vec<Remark> {
    let index = read::index(facts).expect("it can be read");
    let configuration = examine(&index.objects(), settings);
    remarks(facts, &MetalLb::find(facts), settings, &configuration)
}

/// What is said once this was done to a cluster of which there is nothing to say.
fn after(change: impl FnOnce(&mut Facts)) -> Vec<Remark> {
    let mut facts = facts();
    change(&mut facts);
    judged(&facts, &settings())
}

#[test]
fn a_usual_cluster_needs_no_remark() {
    assert_eq!(after(|_| {}), []);
}

type Change = fn(&mut Facts);

#[test]
fn each_obstacle_is_named_with_its_object() {
    let cases: [(Change, Weight, &str, &str); 24] = [
        (
            |it| it.kubernetes = "v1.20.9".to_owned(),
            Weight::Blocks,
            "Kubernetes v1.20.9",
            "1.21 is the oldest",
        ),
        (
            |it| it.kubernetes = "v1.24.1".to_owned(),
            Weight::Attention,
            "Kubernetes v1.24.1",
            "ignores the rules",
        ),
        (
            |it| it.kubernetes = "devel".to_owned(),
            Weight::Attention,
            "Kubernetes devel",
            "no version",
        ),
        (
            |it| {
                it.replace(
                    "apps",
                    "deployments",
                    image("quay.io/metallb/controller:v0.12.1"),
                )
            },
            Weight::Blocks,
            "Deployment metallb-system/controller",
            "upgrade MetalLB to 0.13",
        ),
        (
            |it| {
                it.replace(
                    "apps",
                    "deployments",
                    image("quay.io/metallb/controller:v0.99.0"),
                )
            },
            Weight::Attention,
            "Deployment metallb-system/controller",
            "newer than what is known",
        ),
        (
            |it| {
                it.replace(
                    "apps",
                    "deployments",
                    image("quay.io/metallb/controller@sha256:1"),
                )
            },
            Weight::Attention,
            "Deployment metallb-system/controller",
            "does not tell its version",
        ),
        (
            |it| {
                for list in ["deployments", "daemonsets"] {
                    it.replace("apps", list, named("Deployment", "metallb-system", "other"));
                }
            },
            Weight::Attention,
            "namespace metallb-system",
            "no Deployment or DaemonSet",
        ),
        (
            |it| {
                it.replace(
                    "apps",
                    "deployments",
                    workload("controller", &["--lb-class=metallb"]),
                )
            },
            Weight::Blocks,
            "Deployment metallb-system/controller",
            "give the same --lb-class",
        ),
        (
            |it| {
                it.replace(
                    "apps",
                    "daemonsets",
                    workload("speaker", &["--ignore-exclude-lb"]),
                )
            },
            Weight::Attention,
            "DaemonSet metallb-system/speaker",
            "give the adapter --ignore-exclude-lb",
        ),
        (
            |it| {
                let mut peers = definition("metallb.io", "bgppeers", "BGPPeer");
                peers["status"]["storedVersions"] = json!(["v1beta1", "v1alpha1"]);
                it.add("apiextensions.k8s.io", "customresourcedefinitions", peers);
            },
            Weight::Blocks,
            "CustomResourceDefinition bgppeers.metallb.io",
            "stored as v1alpha1",
        ),
        (
            |it| {
                let mut peers = definition("metallb.io", "bgppeers", "BGPPeer");
                peers["spec"]["conversion"]["strategy"] = json!("Webhook");
                it.add("apiextensions.k8s.io", "customresourcedefinitions", peers);
            },
            Weight::Attention,
            "CustomResourceDefinition bgppeers.metallb.io",
            "apply k8s-adapter/crds before",
        ),
        (
            |it| {
                let mut pools = definition("metallb.io", "ipaddresspools", "IPAddressPool");
                pools["metadata"]["annotations"] =
                    json!({ "meta.helm.sh/release-name": "metallb" });
                it.add("apiextensions.k8s.io", "customresourcedefinitions", pools);
            },
            Weight::Attention,
            "CustomResourceDefinition ipaddresspools.metallb.io",
            "Helm release \"metallb\"",
        ),
        (
            |it| {
                let none = named("CustomResourceDefinition", "", "other");
                it.replace("apiextensions.k8s.io", "customresourcedefinitions", none);
            },
            Weight::Blocks,
            "IPAddressPool",
            "no MetalLB of 0.13",
        ),
        (
            |it| {
                let old = named("AddressPool", "metallb-system", "old");
                it.know("metallb.io", "addresspools", "AddressPool", vec![old]);
            },
            Weight::Blocks,
            "AddressPool metallb-system/old",
            "this kind is not read",
        ),
        (
            |it| it.fail("metallb.io", "bgppeers", "conversion webhook failed"),
            Weight::Blocks,
            "bgppeers",
            "cannot be read: conversion webhook failed",
        ),
        (
            |it| it.fail("", "configmaps", "forbidden"),
            Weight::Attention,
            "configmaps",
            "was not looked at",
        ),
        (
            |it| {
                let mut other = pool("b", "192.0.2.64/28");
                other["metadata"]["namespace"] = json!("default");
                it.add("metallb.io", "ipaddresspools", other);
            },
            Weight::Attention,
            "IPAddressPool default/b",
            "ignored, as by MetalLB",
        ),
        (
            |it| {
                let mut newer = pool("b", "192.0.2.64/28");
                newer["spec"]["serviceAllocation"] = json!({ "priority": 1, "zones": ["a"] });
                it.add("metallb.io", "ipaddresspools", newer);
            },
            Weight::Blocks,
            "IPAddressPool metallb-system/b",
            "spec.serviceAllocation.zones is not known here",
        ),
        (
            |it| it.add("metallb.io", "ipaddresspools", pool("b", "nonsense")),
            Weight::Blocks,
            "IPAddressPool \"b\"",
            "invalid CIDR",
        ),
        (
            |it| {
                let all = named("BGPAdvertisement", "metallb-system", "all");
                it.add("metallb.io", "bgpadvertisements", all);
            },
            Weight::Blocks,
            "BGPAdvertisement metallb-system/all",
            "nothing is announced by BGP yet",
        ),
        (
            |it| {
                let objects =
                    ["metallb-n1", "own"].map(|name| named("FRRConfiguration", "frr", name));
                let plural = "frrconfigurations";
                it.know(
                    "frrk8s.metallb.io",
                    plural,
                    "FRRConfiguration",
                    objects.to_vec(),
                );
            },
            Weight::Blocks,
            "FRRConfiguration frr/own",
            "configures FRR directly",
        ),
        (
            |it| {
                it.add(
                    "",
                    "configmaps",
                    config_map("bgpextras", "extras", "ip prefix-list"),
                )
            },
            Weight::Blocks,
            "ConfigMap metallb-system/bgpextras",
            "lines of FRR's configuration",
        ),
        (
            |it| {
                let list = "announcedInterfacesToExclude: [\"^docker.*\", \"^eth1$\"]";
                it.add(
                    "",
                    "configmaps",
                    config_map("metallb-excludel2", "excludel2.yaml", list),
                );
            },
            Weight::Attention,
            "ConfigMap metallb-system/metallb-excludel2",
            "give it to the announcers",
        ),
        (
            |it| {
                let list = "admissionregistration.k8s.io";
                it.add(
                    list,
                    "validatingwebhookconfigurations",
                    webhooks("own-webhooks"),
                );
            },
            Weight::Attention,
            "ValidatingWebhookConfiguration own-webhooks",
            "delete it",
        ),
    ];
    for (change, weight, object, words) in cases {
        let found = after(change);
        let is_it =
            |it: &&Remark| it.weight == weight && it.object == object && it.message.contains(words);
        assert_eq!(
            found.iter().filter(is_it).count(),
            1,
            "{object}: {words}: {found:#?}"
        );
        // Nothing else is said of it.
        assert_eq!(found.len(), 1, "{object}: {found:#?}");
    }
}

fn image(image: &str) -> Value {
    let mut controller = workload("controller", &[]);
    controller["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    controller
}

fn webhooks(name: &str) -> Value {
    let mut webhooks = named("ValidatingWebhookConfiguration", "", name);
    webhooks["webhooks"] = json!([{ "rules": [{ "apiGroups": ["metallb.io"] }] }]);
    webhooks
}

#[test]
fn the_usual_list_of_interfaces_is_no_remark_in_either_form() {
    let inline = "announcedInterfacesToExclude: [\"^docker.*\", \"^cbr.*\", \"^dummy.*\", \"^virbr.*\", \
                  \"^lxcbr.*\", \"^veth.*\", \"^lo$\", \"^cali.*\", \"^tunl.*\", \"^flannel.*\", \
                  \"^kube-ipvs.*\", \"^cni.*\", \"^nodelocaldns.*\", \"^lxc.*\"]";
    let block = inline
        .replace(": [", ":\n  - ")
        .replace(", ", "\n  - ")
        .replace([']', '"'], "");
    for text in [inline, block.as_str()] {
        let map = config_map("metallb-excludel2", "excludel2.yaml", text);
        assert_eq!(after(|it| it.add("", "configmaps", map)), [], "{text}");
    }
}

#[test]
fn flags_are_understood_in_every_form() {
    let class = |arguments: &[&str]| {
        let mut facts = facts();
        facts.replace("apps", "deployments", workload("controller", arguments));
        let found = MetalLb::find(&facts).controller.expect("a controller");
        found.flag("lb-class").map(str::to_owned)
    };
    for arguments in [
        &["--lb-class=a"][..],
        &["-lb-class=a"],
        &["--port=1", "--lb-class", "a"],
    ] {
        assert_eq!(class(arguments).as_deref(), Some("a"), "{arguments:?}");
    }
    assert_eq!(class(&["--lb-classes=a"]), None);
    let same = Settings {
        lb_class: Some("a".to_owned()),
        ..settings()
    };
    let mut facts = facts();
    facts.replace(
        "apps",
        "deployments",
        workload("controller", &["--lb-class=a"]),
    );
    assert_eq!(judged(&facts, &same), []);
}

#[test]
fn the_bgp_mode_is_that_of_the_variable_or_of_the_containers() {
    let mode = |change: Change| {
        let mut facts = facts();
        change(&mut facts);
        MetalLb::find(&facts).bgp_mode().to_owned()
    };
    assert_eq!(mode(|_| {}), "native");
    let frr = |it: &mut Facts| {
        let mut speaker = workload("speaker", &[]);
        let containers = &mut speaker["spec"]["template"]["spec"]["containers"];
        containers
            .as_array_mut()
            .expect("a list")
            .push(json!({ "name": "frr" }));
        it.replace("apps", "daemonsets", speaker);
    };
    assert_eq!(mode(frr), "frr");
    let said = |it: &mut Facts| {
        let mut speaker = workload("speaker", &[]);
        speaker["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{ "name": "METALLB_BGP_TYPE", "value": "frr-k8s" }]);
        it.replace("apps", "daemonsets", speaker);
    };
    assert_eq!(mode(said), "frr-k8s");
}
