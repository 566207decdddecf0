//! Writes status objects, and conditions of Services, to the Kubernetes API.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PostParams, Preconditions};
use kube::core::TypeMeta;
use kube::{Api, Resource as _};
use serde_json::{Value, json};

use super::condition::{Type, Wanted};
use super::diff::Change;
use super::object::{Body, Seen, StatusKind, Topic};
use crate::context::Context;
use crate::crd::{BGPSessionState, ConfigurationState, ServiceL2Status};
use crate::kubernetes::{KubeError, within};
use crate::lease::GuardedError;
use crate::notice::Notice;
use crate::service::ServiceState;
use crate::write::{WriteError, parameters, write_conditions, write_event};

/// What is to be written about one thing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Job {
    Objects(Topic, Vec<Change>),
    /// Of a Service as it was seen.
    Conditions(Arc<ServiceState>, Vec<(Type, Wanted)>),
}

impl Job {
    /// Calls that write.
    pub(super) fn writes(&self) -> u32 {
        match self {
            Self::Objects(_, changes) => changes.iter().map(Change::writes).sum(),
            Self::Conditions(_, wanted) => {
                let events = wanted
                    .iter()
                    .filter(|(of, wanted)| notice(*of, wanted).is_some());
                1 + u32::try_from(events.count()).unwrap_or(u32::MAX)
            }
        }
    }
}

/// Writes all of it, one after the other. Whatever is not done when one fails is found again.
pub(super) async fn write(
    context: &Context,
    job: Job,
    owner: Option<&Value>,
) -> Result<(), GuardedError> {
    match job {
        Job::Objects(topic, changes) => write_objects(context, &topic, changes, owner).await,
        Job::Conditions(service, wanted) => {
            match write_conditions(context, &service, &wanted).await {
                Ok(()) => {}
                // Its newer version is looked at when it is here.
                Err(WriteError::Changed) => return Ok(()),
                Err(WriteError::Failed(error)) => return Err(error),
            }
            for (of, wanted) in &wanted {
                if let Some(notice) = notice(*of, wanted) {
                    write_event(context, &service, &notice).await;
                }
            }
            Ok(())
        }
    }
}

/// The event that comes with a condition. That an address is wanted in vain was told when it happened.
fn notice(of: Type, wanted: &Wanted) -> Option<Notice> {
    let said = wanted.as_ref().filter(|said| !of.is_good(said))?;
    match of {
        Type::Assigned => None,
        Type::Announced => Some(Notice::NotAnnounced {
            reason: said.reason.clone(),
            message: said.message.clone(),
        }),
    }
}

/// Whether the API server takes writes, and not this one: its permissions, a policy, a webhook that fails.
pub(super) fn is_refusal(error: &GuardedError) -> bool {
    match error {
        GuardedError::Kube(KubeError::Failed(kube::Error::Api(status))) => {
            !matches!(status.code, 401 | 429 | 502..=504)
        }
        GuardedError::Kube(_) | GuardedError::Lost => false,
    }
}

async fn write_objects(
    context: &Context,
    topic: &Topic,
    changes: Vec<Change>,
    owner: Option<&Value>,
) -> Result<(), GuardedError> {
    for change in changes {
        match change {
            Change::Create { body, is_news } => {
                create(context, topic, &body, owner).await?;
                if is_news {
                    tell(context, topic, &body).await;
                }
            }
            Change::Say { seen, body } => say(context, &seen, &body).await?,
            Change::Delete { kind, name, uid } => delete(context, kind, &name, uid).await?,
        }
    }
    Ok(())
}

/// A reference to the adapter's Deployment: what it wrote goes with it.
pub(super) async fn owner(context: &Context) -> Option<Value> {
    let name = context.deployment.as_ref()?;
    let api: Api<Deployment> = Api::namespaced(context.kube.calls.clone(), &context.namespace);
    match within(api.get_metadata(name)).await {
        Ok(deployment) => Some(json!({
            "apiVersion": Deployment::api_version(&()),
            "kind": Deployment::kind(&()),
            "name": name,
            "uid": deployment.metadata.uid,
        })),
        Err(error) => {
            tracing::warn!(deployment = name, %error, "status objects have no owner");
            None
        }
    }
}

/// A new object is made without its status, which is then written as what it is.
async fn create(
    context: &Context,
    topic: &Topic,
    body: &Body,
    owner: Option<&Value>,
) -> Result<(), GuardedError> {
    let kind = topic.kind();
    let resource = resource(kind);
    let mut metadata = topic.metadata(body);
    metadata.namespace = Some(context.namespace.clone());
    if let Some(owner) = owner {
        metadata.owner_references = serde_json::from_value(json!([owner])).ok();
    }
    let object = DynamicObject {
        types: Some(TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        }),
        metadata,
        data: json!({}),
    };
    let api = api(context, &resource);
    let parameters = PostParams::default();
    let call = api.create(&parameters, &object);
    let created = context.leadership.guard(call).await?;
    let Some(seen) = learn(context, kind, &created) else {
        return Ok(());
    };
    say(context, &seen, body).await
}

async fn say(context: &Context, seen: &Seen, body: &Body) -> Result<(), GuardedError> {
    let status = body.status(Some(seen), Time(jiff::Timestamp::now()));
    let patch = Patch::Merge(json!({ "metadata": { "uid": seen.uid }, "status": status }));
    let resource = resource(seen.kind);
    let api = api(context, &resource);
    let parameters = parameters();
    let call = api.patch_status(&seen.name, &parameters, &patch);
    match context.leadership.guard(call).await {
        Ok(written) => {
            learn(context, seen.kind, &written);
            Ok(())
        }
        Err(GuardedError::Kube(KubeError::Failed(kube::Error::Api(status))))
            if status.is_not_found() =>
        {
            let index = &mut context.world().index;
            index.forget_status(seen.kind, &seen.name, &seen.uid);
            Ok(())
        }
        // It is another one: the watch says so.
        Err(GuardedError::Kube(KubeError::Failed(kube::Error::Api(status))))
            if status.is_conflict() =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn delete(
    context: &Context,
    kind: StatusKind,
    name: &str,
    uid: String,
) -> Result<(), GuardedError> {
    let resource = resource(kind);
    let api = api(context, &resource);
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let call = api.delete(name, &parameters);
    match context.leadership.guard(call).await {
        Ok(_) => {}
        Err(GuardedError::Kube(KubeError::Failed(kube::Error::Api(status))))
            if status.is_not_found() || status.is_conflict() => {}
        Err(error) => return Err(error),
    }
    context.metrics.objects.inc();
    context.world().index.forget_status(kind, name, &uid);
    Ok(())
}

/// Takes what a write answered with for what is there; a watch may take a moment to say so.
fn learn(context: &Context, kind: StatusKind, object: &DynamicObject) -> Option<Seen> {
    context.metrics.objects.inc();
    let status = object.data.get("status").cloned().unwrap_or(json!({}));
    let seen = Seen::parse(kind, &object.metadata, status)?;
    context.world().index.see_status(seen.clone());
    Some(seen)
}

async fn tell(context: &Context, topic: &Topic, body: &Body) {
    let (Topic::L2(key), Body::L2(status)) = (topic, body) else {
        return;
    };
    let service = context.world().index.service(key).cloned();
    if let Some(service) = service {
        let notice = Notice::NodeAssigned(status.node.clone());
        write_event(context, &service, &notice).await;
    }
}

fn api(context: &Context, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(context.kube.calls.clone(), &context.namespace, resource)
}

fn resource(kind: StatusKind) -> ApiResource {
    match kind {
        StatusKind::L2 => ApiResource::erase::<ServiceL2Status>(&()),
        StatusKind::Session => ApiResource::erase::<BGPSessionState>(&()),
        StatusKind::Configuration => ApiResource::erase::<ConfigurationState>(&()),
    }
}
