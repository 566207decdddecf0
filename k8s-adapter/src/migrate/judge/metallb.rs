//! MetalLB's own programs in the cluster: which version, started how.

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::{Facts, entry, items, named, text};

/// What its workloads say of MetalLB. Nothing: none was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetalLb {
    pub controller: Option<Component>,
    pub speaker: Option<Component>,
}

/// One of its two programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Component {
    /// For example `Deployment metallb-system/controller`.
    pub object: String,
    pub image: String,
    /// As the image's tag has it, for example `v0.15.2`; empty: it has none.
    pub version: String,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    /// Names of all containers of its pods.
    containers: Vec<String>,
}

impl MetalLb {
    /// Looks for both programs in MetalLB's namespace.
    pub fn find(facts: &Facts) -> Self {
        let deployments = facts.of("apps", "deployments").iter();
        let workloads = deployments.chain(facts.of("apps", "daemonsets"));
        let mut found = Self::default();
        for workload in workloads {
            match role(workload) {
                Some("controller") => found.controller = component(workload, "controller"),
                Some("speaker") => found.speaker = component(workload, "speaker"),
                Some(_) | None => {}
            }
        }
        found
    }

    /// Both programs, as far as there are any.
    pub fn components(&self) -> impl Iterator<Item = &Component> {
        self.controller.iter().chain(&self.speaker)
    }

    /// Who does BGP: `native`, `frr` or `frr-k8s`.
    pub fn bgp_mode(&self) -> &str {
        let said = self
            .components()
            .find_map(|it| it.variable("METALLB_BGP_TYPE"));
        let frr = |it: &Component| it.containers.iter().any(|name| name == "frr");
        match said {
            Some(mode) => mode,
            None if self.speaker.as_ref().is_some_and(frr) => "frr",
            None => "native",
        }
    }
}

impl Component {
    /// The value of a flag, in any form that Go's `flag` takes; empty: it is given without one.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            match flag.split_once('=') {
                Some((given, value)) if given == name => return Some(value),
                None if flag == name => {
                    let value = arguments.clone().next();
                    let value = value.filter(|value| !value.starts_with('-'));
                    return Some(value.map_or("", String::as_str));
                }
                Some(_) | None => {}
            }
        }
        None
    }

    /// Whether a flag that needs no value is set.
    pub fn is_set(&self, name: &str) -> bool {
        self.flag(name).is_some_and(|value| value != "false")
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }
}

/// Which of MetalLB's programs a workload is: its manifests, its chart and its operator label them alike but
/// for the prefix.
fn role(workload: &Value) -> Option<&str> {
    let label = |key| entry(workload, "/metadata/labels", key);
    let image = |it: &Value| text(it, "/image").contains("metallb");
    let containers = items(workload, "/spec/template/spec/containers");
    let is_metallb = label("app") == "metallb"
        || label("app.kubernetes.io/name") == "metallb"
        || containers.iter().any(image);
    let of = |key| Some(label(key)).filter(|role| !role.is_empty());
    let role = of("component").or_else(|| of("app.kubernetes.io/component"));
    role.filter(|_| is_metallb)
}

fn component(workload: &Value, role: &str) -> Option<Component> {
    let containers = items(workload, "/spec/template/spec/containers");
    let is_named = |it: &&Value| text(it, "/name").ends_with(role);
    let container = containers.iter().find(is_named).or(containers.first())?;
    let texts = |list: &str| -> Vec<String> {
        let texts = items(container, list).iter().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let image = text(container, "/image").to_owned();
    Some(Component {
        object: named(workload),
        version: tag(&image).to_owned(),
        image,
        arguments: [texts("/command"), texts("/args")].concat(),
        environment: items(container, "/env")
            .iter()
            .map(|it| (text(it, "/name").to_owned(), text(it, "/value").to_owned()))
            .collect(),
        containers: containers
            .iter()
            .map(|it| text(it, "/name").to_owned())
            .collect(),
    })
}

/// `quay.io:443/metallb/controller:v0.15.2@sha256:...` is of tag `v0.15.2`.
fn tag(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map_or("", |(_, tag)| tag)
}
