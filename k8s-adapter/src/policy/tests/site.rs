//! A whole configuration from one JSON value: kinds, then names, then specs. A kind that is not
//! mentioned has no objects.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::settings;
use crate::crd::{BgpSpec, CommunitySpec, L2Spec, PeerSpec, PoolSpec, ProfileSpec};
use crate::eligibility::NodeState;
use crate::policy::{Configuration, Declared, Finding, Known, Objects, Severity, examine};

/// Owns what [`Objects`] borrows.
#[derive(Debug, Clone, Default)]
pub(super) struct Site {
    pub(super) pools: Vec<Declared<PoolSpec>>,
    pub(super) l2: Vec<Declared<L2Spec>>,
    pub(super) bgp: Vec<Declared<BgpSpec>>,
    pub(super) communities: Vec<Declared<CommunitySpec>>,
    pub(super) peers: Vec<Declared<PeerSpec>>,
    pub(super) profiles: Vec<Declared<ProfileSpec>>,
    pub(super) nodes: Vec<NodeState>,
}

impl Site {
    pub(super) fn of(value: &Value) -> Self {
        for kind in value.as_object().expect("kinds").keys() {
            let kinds = [
                "pools",
                "l2",
                "bgp",
                "communities",
                "peers",
                "profiles",
                "nodes",
            ];
            assert!(kinds.contains(&kind.as_str()), "{kind}");
        }
        Self {
            pools: declared(&value["pools"]),
            l2: declared(&value["l2"]),
            bgp: declared(&value["bgp"]),
            communities: declared(&value["communities"]),
            peers: declared(&value["peers"]),
            profiles: declared(&value["profiles"]),
            nodes: entries(&value["nodes"])
                .map(|(name, it)| node(name, it))
                .collect(),
        }
    }

    pub(super) fn objects(&self) -> Objects<'_> {
        Objects {
            pools: Known::all(&self.pools),
            l2: Known::all(&self.l2),
            bgp: Known::all(&self.bgp),
            communities: Known::all(&self.communities),
            peers: Known::all(&self.peers),
            profiles: Known::all(&self.profiles),
            nodes: Some(self.nodes.iter().collect()),
        }
    }

    pub(super) fn examine(&self) -> Configuration {
        examine(&self.objects(), &settings())
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A spec, or `labels` and `spec` of an object.
fn declared<S: DeserializeOwned>(kind: &Value) -> Vec<Declared<S>> {
    entries(kind)
        .map(|(name, it)| {
            let spec = it.get("spec").unwrap_or(it);
            Declared {
                name: name.clone(),
                labels: entries(&it["labels"])
                    .map(|(key, value)| (key.clone(), value.as_str().expect("a label").to_owned()))
                    .collect(),
                annotations: BTreeMap::new(),
                spec: serde_json::from_value(spec.clone()).map_err(|error| error.to_string()),
            }
        })
        .collect()
}

/// Labels, of which `address` is none.
fn node(name: &str, value: &Value) -> NodeState {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let labels = entries(value).filter(|(key, _)| *key != "address");
    let address = value
        .get("address")
        .map(|it| text(it).parse().expect("an address"));
    NodeState {
        fact: v1::NodeFact {
            name: name.to_owned(),
            labels: labels
                .map(|(key, value)| (key.clone(), text(value)))
                .collect(),
            ..v1::NodeFact::default()
        },
        addresses: BTreeSet::from_iter(address),
    }
}

/// What is found, as text.
pub(super) fn errors(site: &Value) -> Vec<String> {
    texts(Site::of(site).examine().findings(), Severity::Error)
}

pub(super) fn warnings(site: &Value) -> Vec<String> {
    texts(Site::of(site).examine().findings(), Severity::Warning)
}

fn texts(findings: &[Finding], severity: Severity) -> Vec<String> {
    let findings = findings.iter().filter(|it| it.severity == severity);
    findings.map(ToString::to_string).collect()
}

/// One error, of this object and field, with these words.
#[track_caller]
pub(super) fn refused(site: &Value, beginning: &str, words: &str) {
    let errors = errors(site);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].starts_with(beginning), "{}", errors[0]);
    assert!(errors[0].contains(words), "{}", errors[0]);
}

#[track_caller]
pub(super) fn accepted(site: &Value) {
    let errors = errors(site);
    assert!(errors.is_empty(), "{errors:#?}");
}
