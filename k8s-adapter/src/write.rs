//! Writes to the Kubernetes API: Services' status, events, and pools' status. All of them are for the holder
//! of the lease, and begin only while this replica is.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{DeserializeGuard, Status};
use kube::{Api, Resource as _};

use crate::context::Context;
use crate::crd::{IPAddressPool, PoolStatus};
use crate::kubernetes::KubeError;
use crate::lease::GuardedError;
use crate::notice::{Notice, PoolNotice, Severity, Speaker};
use crate::plan::{Target, patch};
use crate::service::ServiceState;
use crate::status::condition::{Type, Wanted};

/// Name of the writer in `managedFields`.
const MANAGER: &str = "pharos-k8s-adapter";
/// The component that MetalLB's users look for in events.
const COMPONENT: &str = "metallb-controller";
/// And where it is about who announces.
const SPEAKER: &str = "metallb-speaker";
/// The cause that an API server gives for what it refuses in a namespace that is being deleted.
const TERMINATING: &str = "NamespaceTerminating";

/// A status that was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The Service is not the one that was seen: look again when its newer version is here.
    #[error("the Service has changed meanwhile")]
    Changed,
    #[error(transparent)]
    Failed(GuardedError),
}

/// Makes a Service say what it is to say, if it is still the one that was seen.
pub async fn write_service(
    context: &Context,
    service: &ServiceState,
    target: &Target,
) -> Result<(), WriteError> {
    let now = Time(jiff::Timestamp::now());
    patch_service(context, service, patch(service, target, &now)).await?;
    context.metrics.status_writes.inc();
    // How many Services have an address.
    context.usage.notify_one();
    Ok(())
}

/// Makes conditions of a Service say something else, and changes nothing beside them, if it is still the one
/// that was seen.
pub async fn write_conditions(
    context: &Context,
    service: &ServiceState,
    wanted: &[(Type, Wanted)],
) -> Result<(), WriteError> {
    let now = Time(jiff::Timestamp::now());
    let wanted = wanted.iter().map(|(of, wanted)| (*of, wanted));
    let entries = service.conditions.patch(wanted, service.generation, &now);
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": service.resource_version },
        "status": { "conditions": entries },
    });
    patch_service(context, service, patch).await?;
    context.metrics.condition_writes.inc();
    Ok(())
}

/// The entries of a list of conditions are told apart by their type only in a strategic merge patch.
async fn patch_service(
    context: &Context,
    service: &ServiceState,
    patch: serde_json::Value,
) -> Result<(), WriteError> {
    let client = context.kube.calls.clone();
    let api: Api<Service> = Api::namespaced(client, &service.key.namespace);
    let parameters = parameters();
    let patch = Patch::Strategic(patch);
    let call = api.patch_status(&service.key.name, &parameters, &patch);
    let written = context.leadership.guard(call).await.map_err(|error| {
        let changed = matches!(
            &error,
            GuardedError::Kube(KubeError::Failed(kube::Error::Api(status)))
                if status.is_conflict() || status.is_not_found()
        );
        if changed {
            WriteError::Changed
        } else {
            WriteError::Failed(error)
        }
    })?;
    if let Some(written) = ServiceState::parse(&written) {
        context.world().index.answered(written);
    }
    Ok(())
}

/// Writes an event on a Service. That it could not be written is logged, and changes nothing.
pub async fn write_event(context: &Context, service: &ServiceState, notice: &Notice) {
    let event = event(service, notice, jiff::Timestamp::now());
    create(context, event).await;
}

/// Writes an event on a pool. That it could not be written is logged, and changes nothing.
pub async fn write_pool_event(context: &Context, pool: &str, uid: &str, notice: &PoolNotice) {
    let about = ObjectReference {
        api_version: Some(IPAddressPool::api_version(&()).into_owned()),
        kind: Some(IPAddressPool::kind(&()).into_owned()),
        namespace: Some(context.namespace.clone()),
        name: Some(pool.to_owned()),
        uid: Some(uid.to_owned()),
        resource_version: None,
        field_path: None,
    };
    let said = Said {
        severity: notice.severity(),
        reason: notice.reason().to_owned(),
        message: notice.message(),
        component: COMPONENT,
    };
    create(context, event_about(about, said, jiff::Timestamp::now())).await;
}

async fn create(context: &Context, event: Event) {
    let about = &event.involved_object;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let namespace = text(&about.namespace);
    let object = format!("{} {namespace}/{}", text(&about.kind), text(&about.name));
    let client = context.kube.calls.clone();
    let api: Api<Event> = Api::namespaced(client, &namespace);
    let parameters = PostParams::default();
    let call = api.create(&parameters, &event);
    match context.leadership.guard(call).await {
        Ok(_) => {
            context.metrics.events.inc();
        }
        Err(GuardedError::Kube(KubeError::Failed(kube::Error::Api(status))))
            if is_leaving(&status) =>
        {
            tracing::debug!(object, error = status.message, "event not written");
        }
        Err(error) => {
            tracing::warn!(object, %error, "event not written");
        }
    }
}

/// Whether a write was refused because the namespace is being deleted, or is gone: nobody is missing an
/// event there. Permissions that lack something are refused with the same code.
fn is_leaving(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let terminating = causes.into_iter().any(|cause| cause.reason == TERMINATING);
    status.is_not_found() || status.is_forbidden() && terminating
}

fn event(service: &ServiceState, notice: &Notice, now: jiff::Timestamp) -> Event {
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(service.key.namespace.clone()),
        name: Some(service.key.name.clone()),
        uid: Some(service.uid.clone()),
        resource_version: Some(service.resource_version.clone()),
        field_path: None,
    };
    let said = Said {
        severity: notice.severity(),
        reason: notice.reason().to_owned(),
        message: notice.message(&service.key),
        component: match notice.speaker() {
            Speaker::Controller => COMPONENT,
            Speaker::Speaker => SPEAKER,
        },
    };
    event_about(about, said, now)
}

/// What an event says.
struct Said {
    severity: Severity,
    reason: String,
    message: String,
    component: &'static str,
}

fn event_about(about: ObjectReference, said: Said, now: jiff::Timestamp) -> Event {
    let name = about.name.clone().unwrap_or_default();
    let component = said.component;
    Event {
        metadata: ObjectMeta {
            namespace: about.namespace.clone(),
            name: Some(format!("{name}.{}", uuid::Uuid::new_v4().simple())),
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some(said.severity.as_str().to_owned()),
        reason: Some(said.reason),
        message: Some(said.message),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: None,
        }),
        reporting_component: Some(component.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

/// Writes how full a pool is.
pub async fn write_pool_status(
    context: &Context,
    pool: &str,
    status: &PoolStatus,
) -> Result<(), GuardedError> {
    let api: Api<DeserializeGuard<IPAddressPool>> =
        Api::namespaced(context.kube.calls.clone(), &context.namespace);
    let patch = Patch::Merge(serde_json::json!({ "status": status }));
    let parameters = parameters();
    let call = api.patch_status(pool, &parameters, &patch);
    context.leadership.guard(call).await?;
    Ok(())
}

/// As whom this adapter writes.
pub fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::Cause;
    use crate::service::ServiceKey;

    #[test]
    fn only_a_namespace_that_goes_explains_an_event_that_is_missing() {
        for (status, expected) in [
            (
                serde_json::json!({ "code": 403, "reason": "Forbidden", "details": { "causes": [
                    { "reason": "NamespaceTerminating", "message": "namespace a is being terminated" },
                ] } }),
                true,
            ),
            (
                serde_json::json!({ "code": 404, "reason": "NotFound" }),
                true,
            ),
            // A verb that is missing in the permissions.
            (
                serde_json::json!({ "code": 403, "reason": "Forbidden", "details": {} }),
                false,
            ),
            (
                serde_json::json!({ "code": 500, "reason": "InternalError" }),
                false,
            ),
        ] {
            let status: Status = serde_json::from_value(status).expect("a Status");
            assert_eq!(is_leaving(&status), expected, "{status:?}");
        }
    }

    #[test]
    fn an_event_names_the_service_and_metallbs_component() {
        let service = serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "default", "name": "web", "uid": "u", "resourceVersion": "5" },
        }));
        let service = ServiceState::parse(&service.expect("a Service")).expect("with a name");
        assert_eq!(service.key, ServiceKey::new("default", "web"));
        let notice = Notice::AllocationFailed {
            cause: Cause::NotTaken,
            why: "why".to_owned(),
        };
        let event = event(&service, &notice, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(event.involved_object.name.as_deref(), Some("web"));
        assert_eq!(event.involved_object.uid.as_deref(), Some("u"));
        assert_eq!(
            event.source.and_then(|it| it.component).as_deref(),
            Some("metallb-controller")
        );
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reason.as_deref(), Some("AllocationFailed"));
        assert_eq!(event.message, Some(notice.message(&service.key)));
    }
}
