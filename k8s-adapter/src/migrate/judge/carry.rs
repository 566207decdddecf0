//! What stands in the way of a migration, what is lost by it, and what has to be done beside it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::backup::judges_metallb;
use super::facts::{FRR_K8S, Facts, Listed, METALLB, PoolsOf, entry, items, named, text};
use super::fields;
use super::metallb::MetalLb;
use super::report::Remark;
use super::versions::parse;
use crate::claim::Settings;
use crate::policy::{Configuration, Severity};

/// Below it there are no EndpointSlices in the form that is read.
const OLDEST_KUBERNETES: (u32, u32) = (1, 21);
/// Below it the API server does not know the rules in the definitions.
const KUBERNETES_WITH_RULES: (u32, u32) = (1, 25);
/// Below it MetalLB was configured by a ConfigMap.
const OLDEST_METALLB: (u32, u32) = (0, 13);
/// What a migration was tried with.
const TRIED_METALLB: &str = "v0.15.2";
/// The newest whose sources were read.
const NEWEST_METALLB: (u32, u32) = (0, 16);
/// Kinds that are read, or written, and the versions that their definitions serve.
const KINDS: [(&str, &[&str]); 10] = [
    ("ipaddresspools.metallb.io", &["v1beta1"]),
    ("l2advertisements.metallb.io", &["v1beta1"]),
    ("bgpadvertisements.metallb.io", &["v1beta1"]),
    ("bgppeers.metallb.io", &["v1beta1", "v1beta2"]),
    ("bfdprofiles.metallb.io", &["v1beta1"]),
    ("communities.metallb.io", &["v1beta1"]),
    ("servicel2statuses.metallb.io", &["v1beta1"]),
    ("servicebgpstatuses.metallb.io", &["v1beta1"]),
    ("configurationstates.metallb.io", &["v1beta1"]),
    ("bgpsessionstates.frrk8s.metallb.io", &["v1beta1"]),
];
/// The object under whose name webhooks are served from now on.
const WEBHOOKS: &str = "metallb-webhook-configuration";
/// Interfaces that MetalLB leaves out unless it is told otherwise; announcers leave out the same.
const EXCLUDED: [&str; 13] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
];
/// What MetalLB added to that list after v0.15.
const EXCLUDED_SINCE: &str = "^lxc.*";

/// All there is to say, the gravest first.
pub fn remarks(
    facts: &Facts,
    metallb: &MetalLb,
    settings: &Settings,
    configuration: &Configuration,
) -> Vec<Remark> {
    let mut found = Vec::new();
    unread(facts, &mut found);
    versions(facts, metallb, &mut found);
    flags(metallb, settings, &mut found);
    definitions(facts, &mut found);
    for list in facts.lists.iter().filter(|list| list.group == METALLB) {
        objects(facts, list, &mut found);
    }
    bgp(facts, &mut found);
    config_maps(facts, &mut found);
    webhooks(facts, &mut found);
    found.extend(configuration.findings().iter().map(|finding| {
        let message = match finding.field.as_str() {
            "" => finding.message.clone(),
            field => format!("{field}: {}", finding.message),
        };
        match finding.severity {
            Severity::Error => Remark::blocks(finding.object.to_string(), message),
            Severity::Warning => Remark::attention(finding.object.to_string(), message),
        }
    }));
    found.sort();
    found
}

/// Of what could not be read nothing is known.
fn unread(facts: &Facts, found: &mut Vec<Remark>) {
    for list in &facts.lists {
        let Err(why) = &list.objects else {
            continue;
        };
        let message = format!("cannot be read: {why}");
        found.push(match list.group.as_str() {
            METALLB | FRR_K8S => Remark::blocks(&list.plural, message),
            _ => Remark::attention(
                &list.plural,
                format!("{message}; what depends on them was not looked at"),
            ),
        });
    }
}

fn versions(facts: &Facts, metallb: &MetalLb, found: &mut Vec<Remark>) {
    let kubernetes = format!("Kubernetes {}", facts.kubernetes);
    match parse(&facts.kubernetes) {
        Some(version) if version < OLDEST_KUBERNETES => {
            found.push(Remark::blocks(kubernetes, "1.21 is the oldest that is served"));
        }
        Some(version) if version < KUBERNETES_WITH_RULES => found.push(Remark::attention(
            kubernetes,
            "before 1.25 the API server ignores the rules in the definitions; the adapter applies them itself",
        )),
        Some(_) => {}
        None => found.push(Remark::attention(kubernetes, "is no version that is understood")),
    }
    if metallb.components().next().is_none() {
        found.push(Remark::attention(
            format!("namespace {}", facts.namespace),
            "has no Deployment or DaemonSet of MetalLB: it was stopped before, or lives elsewhere (--namespace)",
        ));
    }
    for component in metallb.components() {
        let message = match parse(&component.version) {
            Some(version) if version < OLDEST_METALLB => {
                let message =
                    "is configured by a ConfigMap: upgrade MetalLB to 0.13 or later first";
                found.push(Remark::blocks(&component.object, message));
                continue;
            }
            Some(version) if version <= NEWEST_METALLB => continue,
            Some(_) => format!(
                "{} is newer than what is known here; a migration was tried with {TRIED_METALLB}",
                component.version
            ),
            None => format!(
                "image {} does not tell its version; a migration was tried with {TRIED_METALLB}",
                component.image
            ),
        };
        found.push(Remark::attention(&component.object, message));
    }
}

/// What MetalLB's programs were told, and ours have to be told as well.
fn flags(metallb: &MetalLb, settings: &Settings, found: &mut Vec<Remark>) {
    if let Some(controller) = &metallb.controller {
        let theirs = controller.flag("lb-class").unwrap_or_default();
        let ours = settings.lb_class.as_deref().unwrap_or_default();
        if theirs != ours {
            let class = |class| match class {
                "" => "Services without a loadBalancerClass".to_owned(),
                class => format!("those of loadBalancerClass {class:?}"),
            };
            let message = format!(
                "serves {}, and this adapter {}: give the same --lb-class",
                class(theirs),
                class(ours)
            );
            found.push(Remark::blocks(&controller.object, message));
        }
    }
    if let Some(speaker) = &metallb.speaker
        && speaker.is_set("ignore-exclude-lb")
        && !settings.ignore_exclude_lb
    {
        let message = "nodes that are excluded from load balancers announce: give the adapter --ignore-exclude-lb";
        found.push(Remark::attention(&speaker.object, message));
    }
}

fn definitions(facts: &Facts, found: &mut Vec<Remark>) {
    let has_pools = |it: &Value| text(it, "/metadata/name") == "ipaddresspools.metallb.io";
    if !facts.definitions().any(has_pools) {
        let message =
            "the API server does not know this kind: there is no MetalLB of 0.13 or later here";
        found.push(Remark::blocks("IPAddressPool", message));
    }
    for definition in facts.definitions() {
        let name = text(definition, "/metadata/name");
        let object = named(definition);
        if let Some((_, versions)) = KINDS.iter().find(|(kind, _)| *kind == name) {
            let stored = items(definition, "/status/storedVersions");
            let strange = stored.iter().filter_map(Value::as_str);
            for version in strange.filter(|version| !versions.contains(version)) {
                let message = format!(
                    "objects may be stored as {version}, which our definition does not have: the API server would \
                     refuse it"
                );
                found.push(Remark::blocks(&object, message));
            }
            if text(definition, "/spec/conversion/strategy") == "Webhook" {
                let message = "versions are converted by MetalLB's controller, and cannot be read when it is gone: \
                               apply k8s-adapter/crds before you stop it";
                found.push(Remark::attention(&object, message));
            }
        }
        let release = entry(
            definition,
            "/metadata/annotations",
            "meta.helm.sh/release-name",
        );
        if !release.is_empty() {
            let message = format!(
                "belongs to Helm release {release:?}: `helm uninstall` would delete it, and with it every object of \
                 the kind. Do not uninstall; docs/how-to/migrate.md says how the release is forgotten"
            );
            found.push(Remark::attention(&object, message));
        }
    }
}

/// Objects of one kind of MetalLB.
fn objects(facts: &Facts, list: &Listed, found: &mut Vec<Remark>) {
    let definition = format!("{}.{METALLB}", list.plural);
    if !KINDS.iter().any(|(kind, _)| *kind == definition) {
        for object in list.objects.iter().flatten() {
            let message = "this kind is not read: what it declares has to be declared by IPAddressPools and \
                           advertisements";
            found.push(Remark::blocks(named(object), message));
        }
        return;
    }
    for object in facts.within(list, PoolsOf::Elsewhere) {
        let message = format!(
            "is in another namespace than {}: ignored, as by MetalLB",
            facts.namespace
        );
        found.push(Remark::attention(named(object), message));
    }
    for object in facts.within(list, PoolsOf::Namespace) {
        for field in fields::unknown(&list.kind, object) {
            let message = format!("{field} is not known here, and would be lost");
            found.push(Remark::blocks(named(object), message));
        }
    }
}

/// BGP is judged and kept; nobody speaks it yet.
fn bgp(facts: &Facts, found: &mut Vec<Remark>) {
    if let Some(list) = facts.list(METALLB, "bgpadvertisements") {
        for object in facts.within(list, PoolsOf::Namespace) {
            let message =
                "nothing is announced by BGP yet: what only this announces would fall silent";
            found.push(Remark::blocks(named(object), message));
        }
    }
    for object in facts.of(FRR_K8S, "frrconfigurations") {
        // One for each node is what MetalLB's speakers write.
        if !text(object, "/metadata/name").starts_with("metallb-") {
            let message = "configures FRR directly, which there is none of here";
            found.push(Remark::blocks(named(object), message));
        }
    }
}

fn config_maps(facts: &Facts, found: &mut Vec<Remark>) {
    for map in facts.of("", "configmaps") {
        match text(map, "/metadata/name") {
            "bgpextras" if !entry(map, "/data", "extras").trim().is_empty() => {
                let message = "holds lines of FRR's configuration, which nobody reads here";
                found.push(Remark::blocks(named(map), message));
            }
            "config" if !entry(map, "/data", "config").is_empty() => {
                let message = "is how MetalLB was configured before 0.13; nobody reads it here. Delete it if it is a \
                               leftover";
                found.push(Remark::attention(named(map), message));
            }
            "metallb-excludel2" if !is_usual(map) => {
                let message = "excludes other interfaces than MetalLB does by itself: give it to the announcers at \
                               /etc/metallb/excludel2.yaml, or as --exclude-interfaces-file";
                found.push(Remark::attention(named(map), message));
            }
            _ => {}
        }
    }
}

/// Whether the same interfaces are excluded as without any ConfigMap. A list in a form that is not understood
/// counts as another one, which costs a look.
fn is_usual(map: &Value) -> bool {
    let text = entry(map, "/data", "excludel2.yaml");
    let list = text.split_once("announcedInterfacesToExclude:");
    // In brackets with commas between, or each on a line of its own.
    let items = list
        .map_or("", |(_, list)| list)
        .split([',', '\n', '[', ']']);
    let items = items.map(|item| item.trim().trim_start_matches("- "));
    let items = items.map(|item| item.trim().trim_matches(['"', '\'']));
    let items: BTreeSet<&str> = items
        .filter(|item| !item.is_empty() && *item != EXCLUDED_SINCE)
        .collect();
    items == BTreeSet::from(EXCLUDED)
}

fn webhooks(facts: &Facts, found: &mut Vec<Remark>) {
    let all = facts.of(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
    );
    for configuration in all.iter().filter(|it| judges_metallb(it)) {
        let message = if text(configuration, "/metadata/name") == WEBHOOKS {
            "refuses every edit of MetalLB's kinds while nobody answers: apply deploy/kubernetes/webhook.yaml in its \
             place, or delete it, when MetalLB's controller is stopped"
        } else {
            "judges MetalLB's kinds, and is not taken over by its name: delete it when MetalLB's controller is stopped"
        };
        found.push(Remark::attention(named(configuration), message));
    }
}
