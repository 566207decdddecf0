//! Objects that only tell, as they are and as they should be. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::crd::{ConfigurationStatus, ServiceL2, SessionState};
use crate::policy::label;
use crate::service::ServiceKey;

/// Kinds of objects that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusKind {
    L2,
    Session,
    Configuration,
}

/// What an object is about. One object says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Which node answers for a Service.
    L2(ServiceKey),
    /// How one node stands with one router.
    Session {
        node: String,
        peer: String,
        vrf: String,
    },
    /// What a component makes of the configuration, by its name.
    Configuration(String),
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    L2(ServiceL2),
    Session(SessionState),
    Configuration(Verdict),
}

/// On the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    pub result: Validity,
    /// A line for each error.
    pub summary: String,
}

/// The result of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validity {
    Valid,
    Invalid,
    #[default]
    Unknown,
}

/// Marks what this adapter wrote, whichever of its replicas it was.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "pharos-k8s-adapter");
const NODE: &str = "metallb.io/node";
const SERVICE_NAME: &str = "metallb.io/service-name";
const SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";
const COMPONENT_TYPE: &str = "metallb.io/component-type";
const SESSION_NODE: &str = "frrk8s.metallb.io/node";
const SESSION_PEER: &str = "frrk8s.metallb.io/peer";
const SESSION_VRF: &str = "frrk8s.metallb.io/vrf";
/// A longer prefix of a name would be cut by the API server.
const LONGEST_PREFIX: usize = 200;
/// The condition of MetalLB's controller.
const CONDITION: &str = "poolReconcilerValid";

/// An object as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: StatusKind,
    pub name: String,
    pub uid: String,
    pub version: String,
    /// This adapter wrote it.
    pub is_ours: bool,
    pub topic: Topic,
    /// None: nothing was said yet.
    pub body: Option<Body>,
    /// Of a verdict: what the condition says, and since when.
    pub since: Option<(String, Time)>,
}

impl Validity {
    /// Result, condition and its reason, as MetalLB has them.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Valid => ("Valid", "True", "Reconciled"),
            Self::Invalid => ("Invalid", "False", "ConfigurationError"),
            Self::Unknown => ("Unknown", "Unknown", "UnknownError"),
        }
    }
}

impl Topic {
    /// The kind of object that is about it.
    pub fn kind(&self) -> StatusKind {
        match self {
            Self::L2(_) => StatusKind::L2,
            Self::Session { .. } => StatusKind::Session,
            Self::Configuration(_) => StatusKind::Configuration,
        }
    }

    /// The metadata of a new object that says this.
    pub fn metadata(&self, body: &Body) -> ObjectMeta {
        let mut metadata = ObjectMeta::default();
        let labels = match (self, body) {
            (Self::L2(service), Body::L2(it)) => {
                metadata.generate_name = Some("l2-".to_owned());
                vec![
                    (NODE, it.node.as_str()),
                    (SERVICE_NAME, &service.name),
                    (SERVICE_NAMESPACE, &service.namespace),
                ]
            }
            (Self::Session { node, peer, vrf }, _) => {
                let prefix = &node[..node.floor_char_boundary(LONGEST_PREFIX)];
                metadata.generate_name = Some(format!("{prefix}-"));
                vec![
                    (SESSION_NODE, node.as_str()),
                    (SESSION_PEER, peer),
                    (SESSION_VRF, vrf),
                ]
            }
            (Self::Configuration(name), _) => {
                metadata.name = Some(name.clone());
                vec![(COMPONENT_TYPE, "controller")]
            }
            (Self::L2(_), Body::Session(_) | Body::Configuration(_)) => Vec::new(),
        };
        let fitting = labels
            .into_iter()
            .chain([MANAGED_BY])
            // The API takes no object with one that is none.
            .filter(|(_, value)| label::check_value(value).is_ok());
        let owned = fitting.map(|(key, value)| (key.to_owned(), value.to_owned()));
        metadata.labels = Some(owned.collect());
        metadata
    }
}

impl Body {
    /// The status of an object that says this from now on, and may have said something before.
    pub fn status(&self, seen: Option<&Seen>, now: Time) -> Value {
        match self {
            Self::L2(it) => json!(it),
            Self::Session(it) => json!(it),
            Self::Configuration(it) => {
                let (result, status, reason) = it.result.words();
                let since = seen.and_then(|seen| seen.since.as_ref());
                let since = since.filter(|(before, _)| before == status);
                json!({
                    "result": result,
                    "errorSummary": it.summary,
                    "conditions": [{
                        "type": CONDITION,
                        "status": status,
                        "reason": reason,
                        "message": it.summary,
                        "lastTransitionTime": since.map_or(now, |(_, since)| since.clone()),
                    }],
                })
            }
        }
    }

    /// Whether an object that says the one can be made to say the other.
    pub fn can_become(&self, other: &Self) -> bool {
        match (self, other) {
            // What it is about cannot be changed, and the node is a part of that.
            (Self::L2(before), Self::L2(after)) => before.node == after.node,
            (before, after) => std::mem::discriminant(before) == std::mem::discriminant(after),
        }
    }
}

impl Seen {
    /// `None` for an object of which nobody knows what it is about.
    pub fn parse(kind: StatusKind, metadata: &ObjectMeta, status: Value) -> Option<Self> {
        let labels = metadata.labels.clone().unwrap_or_default();
        let name = metadata.name.clone()?;
        let mut since = None;
        let (topic, body) = match kind {
            StatusKind::L2 => {
                let status: ServiceL2 = serde_json::from_value(status).ok()?;
                let service = ServiceKey::new(
                    told(&status.service_namespace, &labels, SERVICE_NAMESPACE),
                    told(&status.service_name, &labels, SERVICE_NAME),
                );
                let said = !status.node.is_empty();
                (Topic::L2(service), said.then_some(Body::L2(status)))
            }
            StatusKind::Session => {
                let status: SessionState = serde_json::from_value(status).ok()?;
                let topic = Topic::Session {
                    node: told(&status.node, &labels, SESSION_NODE),
                    peer: told(&status.peer, &labels, SESSION_PEER),
                    vrf: told(&status.vrf, &labels, SESSION_VRF),
                };
                let said = !status.node.is_empty();
                (topic, said.then_some(Body::Session(status)))
            }
            StatusKind::Configuration => {
                let status: ConfigurationStatus = serde_json::from_value(status).ok()?;
                let conditions = status.conditions.iter();
                let condition = conditions.clone().find(|it| it.type_ == CONDITION);
                since = condition.map(|it| (it.status.clone(), it.last_transition_time.clone()));
                let body = verdict(&status).map(Body::Configuration);
                (Topic::Configuration(name.clone()), body)
            }
        };
        Some(Self {
            kind,
            uid: metadata.uid.clone()?,
            version: metadata.resource_version.clone().unwrap_or_default(),
            is_ours: labels
                .get(MANAGED_BY.0)
                .is_some_and(|it| it == MANAGED_BY.1),
            topic,
            // One that is going says nothing any more.
            body: body.filter(|_| metadata.deletion_timestamp.is_none()),
            since,
            name,
        })
    }

    /// The number of its version.
    pub fn number(&self) -> u64 {
        self.version.parse().unwrap_or_default()
    }
}

/// As the status has it, or the labels where it was not written yet.
fn told(status: &str, labels: &BTreeMap<String, String>, label: &str) -> String {
    if status.is_empty() {
        labels.get(label).cloned().unwrap_or_default()
    } else {
        status.to_owned()
    }
}

/// `None` where something is missing, or says another thing than the rest.
fn verdict(status: &ConfigurationStatus) -> Option<Verdict> {
    let all = [Validity::Valid, Validity::Invalid, Validity::Unknown];
    let result = all.into_iter().find(|it| it.words().0 == status.result)?;
    let [condition] = status.conditions.as_slice() else {
        return None;
    };
    let (_, said, reason) = result.words();
    let consistent = condition.type_ == CONDITION
        && condition.status == said
        && condition.reason == reason
        && condition.message == status.error_summary;
    consistent.then(|| Verdict {
        result,
        summary: status.error_summary.clone(),
    })
}

#[cfg(test)]
mod tests;
