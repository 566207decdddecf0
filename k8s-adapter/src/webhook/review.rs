//! AdmissionReviews (`admission.k8s.io/v1`): what somebody wants to do, and what is said to it. Pure; the
//! verdict is that of [`crate::policy::admission`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::claim::Settings;
use crate::crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, BgpSpec, Community, CommunitySpec, IPAddressPool,
    L2Advertisement, L2Spec, PeerSpec, PoolSpec, ProfileSpec,
};
use crate::policy::admission::{self, Change, Verdict};
use crate::policy::{Declared, Object, Objects, ResourceKind, Subject};
use crate::service::OWN_PREFIX;

/// The only version of AdmissionReview that there is.
const VERSION: &str = "admission.k8s.io/v1";
/// Most errors, and most warnings, of an answer: nobody reads more.
const MOST_SAID: usize = 20;

/// The paths of MetalLB's webhooks.
const PATHS: [(&str, ResourceKind); 6] = [
    (
        "/validate-metallb-io-v1beta1-ipaddresspool",
        ResourceKind::Pool,
    ),
    (
        "/validate-metallb-io-v1beta1-l2advertisement",
        ResourceKind::L2Advertisement,
    ),
    (
        "/validate-metallb-io-v1beta1-bgpadvertisement",
        ResourceKind::BgpAdvertisement,
    ),
    (
        "/validate-metallb-io-v1beta1-community",
        ResourceKind::Community,
    ),
    ("/validate-metallb-io-v1beta2-bgppeer", ResourceKind::Peer),
    (
        "/validate-metallb-io-v1beta1-bfdprofile",
        ResourceKind::Profile,
    ),
];

/// Which kind is judged at a path.
pub fn kind_of(path: &str) -> Option<ResourceKind> {
    let found = PATHS.iter().find(|(known, _)| *known == path);
    found.map(|(_, kind)| *kind)
}

/// A question that cannot be answered, as it is none.
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    #[error("no AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("apiVersion is {0:?}; only {VERSION:?} is answered")]
    Version(String),
    #[error("{found} is not judged here; {expected} is")]
    Kind {
        found: String,
        expected: &'static str,
    },
    #[error("{0} needs an object")]
    NoObject(String),
}

/// A question of the API server.
#[derive(Debug, Clone)]
pub struct Review {
    /// Names the question; its answer has the same.
    pub uid: String,
    namespace: String,
    asked: Asked,
}

#[derive(Debug, Clone)]
enum Asked {
    Create(Resource),
    Update(Resource),
    Delete(Subject),
    /// Of an object that is being deleted anyway: whoever takes its finalizers off must be able to.
    Farewell,
}

/// An object of whatever kind.
#[derive(Debug, Clone)]
enum Resource {
    Pool(Declared<PoolSpec>),
    L2Advertisement(Declared<L2Spec>),
    BgpAdvertisement(Declared<BgpSpec>),
    Community(Declared<CommunitySpec>),
    Peer(Declared<PeerSpec>),
    Profile(Declared<ProfileSpec>),
}

// The fields that count.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: GroupKind,
    operation: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct GroupKind {
    #[serde(default)]
    group: String,
    kind: String,
}

impl Review {
    /// Reads a question that came to the path of this kind.
    pub fn parse(kind: ResourceKind, body: &[u8]) -> Result<Self, BadReview> {
        let Envelope {
            api_version,
            request,
        } = serde_json::from_slice(body)?;
        if api_version != VERSION {
            return Err(BadReview::Version(api_version));
        }
        if request.kind.group != "metallb.io" || request.kind.kind != kind.as_str() {
            let GroupKind { group, kind: found } = request.kind;
            return Err(BadReview::Kind {
                found: format!("{group}/{found}"),
                expected: kind.as_str(),
            });
        }
        let asked = match request.operation.as_str() {
            "CREATE" => Asked::Create(Resource::read(kind, &request)?),
            "UPDATE" if is_going(&request.object) => Asked::Farewell,
            "UPDATE" => Asked::Update(Resource::read(kind, &request)?),
            // Its name is all that counts of it. One of a collection is asked about without it.
            "DELETE" => {
                let named = request.old_object["metadata"]["name"].as_str();
                Asked::Delete(Subject::new(kind, named.unwrap_or(&request.name)))
            }
            // CONNECT, which no custom resource has.
            _ => Asked::Farewell,
        };
        Ok(Self {
            uid: request.uid,
            namespace: request.namespace,
            asked,
        })
    }

    /// What is said to it, given what there is; objects are read from the namespace `read` only.
    pub fn judge(&self, existing: &Objects<'_>, read: &str, settings: &Settings) -> Verdict {
        let change = match &self.asked {
            Asked::Create(resource) => Change::Create(resource.object()),
            Asked::Update(resource) => Change::Update(resource.object()),
            Asked::Delete(subject) => Change::Delete(subject.clone()),
            Asked::Farewell => return Verdict::default(),
        };
        admission::review(existing, &change, &self.namespace, read, settings)
    }

    /// The answer, as the API server reads it.
    pub fn answer(&self, verdict: &Verdict) -> Value {
        let mut response = json!({ "uid": self.uid, "allowed": verdict.errors.is_empty() });
        if !verdict.errors.is_empty() {
            let message = said(&verdict.errors);
            response["status"] = json!({
                "status": "Failure", "message": message, "reason": "Forbidden", "code": 403,
            });
        }
        if !verdict.warnings.is_empty() {
            let first = verdict.warnings.iter().take(MOST_SAID);
            response["warnings"] = json!(first.collect::<Vec<_>>());
        }
        json!({ "apiVersion": VERSION, "kind": "AdmissionReview", "response": response })
    }
}

/// The first errors, in one text.
pub fn said(errors: &[String]) -> String {
    let first = &errors[..errors.len().min(MOST_SAID)];
    let mut text = first.join("; ");
    if first.len() < errors.len() {
        let more = errors.len() - first.len();
        text.push_str(&format!("; and {more} more"));
    }
    text
}

fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

impl Resource {
    fn read(kind: ResourceKind, request: &Request) -> Result<Self, BadReview> {
        if !request.object.is_object() {
            return Err(BadReview::NoObject(request.operation.clone()));
        }
        Ok(match kind {
            ResourceKind::Pool => Self::Pool(declared(request, |it: IPAddressPool| it.spec)),
            ResourceKind::L2Advertisement => {
                Self::L2Advertisement(declared(request, |it: L2Advertisement| it.spec))
            }
            ResourceKind::BgpAdvertisement => {
                Self::BgpAdvertisement(declared(request, |it: BGPAdvertisement| it.spec))
            }
            ResourceKind::Community => Self::Community(declared(request, |it: Community| it.spec)),
            ResourceKind::Peer => Self::Peer(declared(request, |it: BGPPeer| it.spec)),
            ResourceKind::Profile => Self::Profile(declared(request, |it: BFDProfile| it.spec)),
        })
    }

    fn object(&self) -> Object<'_> {
        match self {
            Self::Pool(it) => Object::Pool(it),
            Self::L2Advertisement(it) => Object::L2Advertisement(it),
            Self::BgpAdvertisement(it) => Object::BgpAdvertisement(it),
            Self::Community(it) => Object::Community(it),
            Self::Peer(it) => Object::Peer(it),
            Self::Profile(it) => Object::Profile(it),
        }
    }
}

/// An object that cannot be read is judged as one: that is what is wrong with it.
fn declared<K: DeserializeOwned, S>(request: &Request, spec: impl FnOnce(K) -> S) -> Declared<S> {
    let metadata = &request.object["metadata"];
    let texts = |field: &str| -> BTreeMap<String, String> {
        let texts = metadata[field].as_object().into_iter().flatten();
        texts
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    };
    let mut annotations = texts("annotations");
    annotations.retain(|name, _| name.starts_with(OWN_PREFIX));
    Declared {
        name: metadata["name"]
            .as_str()
            .unwrap_or(&request.name)
            .to_owned(),
        labels: texts("labels"),
        annotations,
        spec: K::deserialize(&request.object)
            .map(spec)
            .map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests;
