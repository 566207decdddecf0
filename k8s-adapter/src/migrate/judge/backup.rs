//! Everything that people have told MetalLB, as one file that `kubectl apply -f` takes back.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::facts::{FRR_K8S, Facts, METALLB, entry, items, text};
use super::yaml::document;

/// Kinds that only tell: their programs write them anew.
const TOLD: [&str; 5] = [
    "servicel2statuses",
    "servicebgpstatuses",
    "configurationstates",
    "bgpsessionstates",
    "frrnodestates",
];
/// What `kubectl apply` notes about itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Kubernetes puts it into every namespace.
const CA_OF_THE_CLUSTER: &str = "kube-root-ca.crt";

/// The file. `when` is a time for people.
pub fn file(facts: &Facts, cluster: &str, when: &str) -> String {
    let mut out = format!(
        "# What MetalLB was told in cluster {cluster}, read at {when}.\n\
         # `kubectl apply -f` takes it back; where the definitions were gone, apply it twice. Secrets are not in it,\n\
         # nor MetalLB's programs.\n\
         #\n\
         # Addresses of Services of type LoadBalancer then:\n"
    );
    for service in facts.of("", "services") {
        if text(service, "/spec/type") == "LoadBalancer" {
            let addresses: Vec<&str> = items(service, "/status/loadBalancer/ingress")
                .iter()
                .map(|point| text(point, "/ip"))
                .collect();
            let (namespace, name) = (
                text(service, "/metadata/namespace"),
                text(service, "/metadata/name"),
            );
            // A String takes whatever is written to it.
            let _ = writeln!(out, "#   {namespace}/{name} {}", addresses.join(" "));
        }
    }
    for object in objects(facts) {
        out.push_str("---\n");
        out.push_str(&document(&bare(object)));
    }
    out
}

/// How many objects are in the file.
pub fn count(facts: &Facts) -> usize {
    objects(facts).count()
}

/// Definitions first: what follows is of their kinds.
fn objects(facts: &Facts) -> impl Iterator<Item = &Value> {
    let declared = facts.lists.iter().filter(|list| {
        [METALLB, FRR_K8S].contains(&list.group.as_str()) && !TOLD.contains(&list.plural.as_str())
    });
    let declared = declared.flat_map(|list| list.objects.as_deref().unwrap_or_default());
    let maps = facts.of("", "configmaps").iter();
    let maps = maps.filter(|map| text(map, "/metadata/name") != CA_OF_THE_CLUSTER);
    let webhooks = facts.of(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
    );
    let webhooks = webhooks.iter().filter(|it| judges_metallb(it));
    facts
        .definitions()
        .chain(declared)
        .chain(maps)
        .chain(webhooks)
}

/// Whether a ValidatingWebhookConfiguration is asked about MetalLB's kinds.
pub(super) fn judges_metallb(configuration: &Value) -> bool {
    let webhooks = items(configuration, "/webhooks").iter();
    let mut rules = webhooks.flat_map(|webhook| items(webhook, "/rules"));
    rules.any(|rule| items(rule, "/apiGroups").contains(&Value::from(METALLB)))
}

/// An object without what the API server says of it.
fn bare(object: &Value) -> Value {
    let mut bare = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "status" => {}
            "metadata" => {
                bare.insert(name.clone(), metadata(object, value));
            }
            _ => {
                bare.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(bare)
}

fn metadata(object: &Value, value: &Value) -> Value {
    let kept = ["name", "namespace", "labels", "annotations"];
    let fields = value.as_object().into_iter().flatten();
    let mut metadata: Map<String, Value> = fields
        .filter(|(name, _)| kept.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !entry(object, "/metadata/annotations", LAST_APPLIED).is_empty()
        && let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    Value::Object(metadata)
}
