//! Reads the cluster: lists, and nothing else. Also from what was read to what the adapter would know.

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::DeserializeGuard;
use serde_json::Value;

use super::judge::{Facts, Listed, PoolsOf};
use crate::crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement,
};
use crate::index::Index;
use crate::kubernetes::{KubeError, cluster_uid, within};
use crate::watches::Watched;

/// Objects per page, as many as kubectl asks for.
const PAGE: u32 = 500;
/// Groups of which every kind is read.
const GROUPS: [&str; 2] = ["metallb.io", "frrk8s.metallb.io"];
/// The version of BGPPeer in which all that it says can be said.
const NEWEST_PEER: &str = "v1beta2";

/// Why the cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the API server does not answer: {0}")]
    Kube(#[from] KubeError),
    #[error("namespace kube-system does not exist, which names the cluster")]
    NoKubeSystem,
    #[error("{plural} cannot be listed: {why}")]
    Needed { plural: String, why: String },
    #[error("the API server sent {object}, which cannot be read: {error}")]
    Strange {
        object: String,
        error: serde_json::Error,
    },
}

/// A kind that is listed.
struct Wanted {
    resource: ApiResource,
    /// In MetalLB's namespace only.
    here: bool,
    /// Without it there is nothing to tell.
    needed: bool,
}

/// What is listed whatever MetalLB's kinds are: group, version, kind, plural.
const USUAL: [(&str, &str, &str, &str); 8] = [
    ("", "v1", "Namespace", "namespaces"),
    ("", "v1", "Node", "nodes"),
    ("", "v1", "Service", "services"),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    ),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("", "v1", "ConfigMap", "configmaps"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    ),
];

/// Reads everything.
pub async fn read(client: &kube::Client, namespace: &str) -> Result<Facts, ReadError> {
    let version = within(client.apiserver_version()).await?;
    let mut facts = Facts {
        kubernetes: version.git_version,
        cluster_uid: cluster_uid(client).await?.ok_or(ReadError::NoKubeSystem)?,
        namespace: namespace.to_owned(),
        lists: Vec::new(),
    };
    for (group, version, kind, plural) in USUAL {
        let wanted = Wanted {
            resource: resource(group, version, kind, plural),
            here: ["deployments", "daemonsets", "configmaps"].contains(&plural),
            needed: [
                "namespaces",
                "nodes",
                "services",
                "customresourcedefinitions",
            ]
            .contains(&plural),
        };
        let list = list(client, wanted, namespace).await?;
        facts.lists.push(list);
    }
    let definitions = facts.of("apiextensions.k8s.io", "customresourcedefinitions");
    let kinds: Vec<ApiResource> = definitions.iter().filter_map(defined).collect();
    for resource in kinds {
        let wanted = Wanted {
            resource,
            here: false,
            needed: false,
        };
        let list = list(client, wanted, namespace).await?;
        facts.lists.push(list);
    }
    Ok(facts)
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The kind of a definition, if it is of MetalLB or of what it leaves BGP to.
fn defined(definition: &Value) -> Option<ApiResource> {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str);
    let group = text("/spec/group").filter(|group| GROUPS.contains(group))?;
    let (kind, plural) = (text("/spec/names/kind")?, text("/spec/names/plural")?);
    let versions = definition.pointer("/spec/versions")?.as_array()?;
    let served = versions.iter().filter(|it| it["served"] == true);
    let served: Vec<&Value> = served.collect();
    let newest = served
        .iter()
        .find(|it| kind == "BGPPeer" && it["name"] == NEWEST_PEER);
    let stored = served.iter().find(|it| it["storage"] == true);
    let version = newest.or(stored).or(served.first())?;
    Some(resource(group, version["name"].as_str()?, kind, plural))
}

async fn list(client: &kube::Client, wanted: Wanted, namespace: &str) -> Result<Listed, ReadError> {
    let Wanted {
        resource,
        here,
        needed,
    } = wanted;
    let api: Api<DynamicObject> = if here {
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    let objects = match pages(&api, &resource).await {
        Ok(objects) => Ok(objects),
        Err(error) if needed => {
            return Err(ReadError::Needed {
                plural: resource.plural,
                why: error.to_string(),
            });
        }
        Err(error) => Err(error.to_string()),
    };
    Ok(Listed {
        group: resource.group,
        version: resource.version,
        kind: resource.kind,
        plural: resource.plural,
        objects,
    })
}

async fn pages(api: &Api<DynamicObject>, resource: &ApiResource) -> Result<Vec<Value>, KubeError> {
    let mut parameters = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = within(api.list(&parameters)).await?;
        for object in page.items {
            let mut object = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
            // Items of a list do not say what they are.
            object["apiVersion"] = resource.api_version.as_str().into();
            object["kind"] = resource.kind.as_str().into();
            objects.push(object);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// What the adapter would know of the cluster, after its first lists.
pub fn index(facts: &Facts) -> Result<Index, ReadError> {
    let mut index = Index::default();
    put::<Namespace>(&mut index, facts.of("", "namespaces"))?;
    put::<Node>(&mut index, facts.of("", "nodes"))?;
    put::<Service>(&mut index, facts.of("", "services"))?;
    declared::<IPAddressPool>(&mut index, facts)?;
    declared::<L2Advertisement>(&mut index, facts)?;
    declared::<BGPAdvertisement>(&mut index, facts)?;
    declared::<Community>(&mut index, facts)?;
    declared::<BGPPeer>(&mut index, facts)?;
    declared::<BFDProfile>(&mut index, facts)?;
    Ok(index)
}

/// MetalLB's resources of one kind, in the one namespace where they count. What was not read is not known.
fn declared<K>(index: &mut Index, facts: &Facts) -> Result<(), ReadError>
where
    K: kube::Resource<DynamicType = ()>,
    DeserializeGuard<K>: Watched,
{
    let list = facts.list(&K::group(&()), &K::plural(&()));
    let Some(list) = list.filter(|list| list.objects.is_ok()) else {
        return Ok(());
    };
    put::<DeserializeGuard<K>>(index, facts.within(list, PoolsOf::Namespace))
}

fn put<'a, K: Watched>(
    index: &mut Index,
    objects: impl IntoIterator<Item = &'a Value>,
) -> Result<(), ReadError> {
    let mut kept = Vec::new();
    for object in objects {
        let parsed: K = serde_json::from_value(object.clone()).map_err(|error| {
            let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
            let part = |pointer| text(pointer).unwrap_or_default();
            ReadError::Strange {
                object: format!(
                    "{} {}/{}",
                    part("/kind"),
                    part("/metadata/namespace"),
                    part("/metadata/name")
                ),
                error,
            }
        })?;
        kept.extend(parsed.keep());
    }
    K::replace(index, kept);
    Ok(())
}
