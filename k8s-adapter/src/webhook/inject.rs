//! Makes the API server trust this replica: keeps its certificate in the `caBundle` of one configuration,
//! by name, beside those of other replicas. Every other configuration is left alone.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use pharos_process::Shutdown;

use super::bundle::{self, Wanted};
use super::certificate::{Keeper, Made};
use super::tls::Shown;
use crate::context::Context;
use crate::kubernetes::{KubeError, short, within};
use crate::watches::{Doubling, WATCH_SECONDS};

/// In `/readyz`. Trouble is a note: who gets no webhook judges afterwards, as before. A replica that API
/// servers do not trust yet is not ready, so that no other one makes room for it.
const PART: &str = "webhook";
const NOT_TRUSTED: &str = "API servers do not trust this replica yet";
/// Who owns the field, for the API server.
const MANAGER: &str = "pharos-k8s-adapter";
/// Longest time between two looks: clocks may jump, and certificates of others end.
const LOOK: Duration = Duration::from_secs(60);

/// What this replica needs to be trusted.
#[derive(Debug)]
pub struct Own {
    /// Of the ValidatingWebhookConfiguration.
    pub configuration: String,
    /// How long a certificate lasts, in seconds.
    pub life: i64,
    /// Names this replica in its certificates.
    pub replica: String,
    pub shown: Shown,
}

type Events = Pin<
    Box<dyn Stream<Item = Result<Event<ValidatingWebhookConfiguration>, watcher::Error>> + Send>,
>;

/// Until the process stops.
pub async fn run(own: Own, context: Arc<Context>, shutdown: Shutdown) {
    let api = |client: &kube::Client| Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", own.configuration))
        .timeout(WATCH_SECONDS);
    let events = watcher(api(&context.kube.watches), config).backoff(Doubling::default());
    context.readiness.not_ready(PART, NOT_TRUSTED);
    let mut injector = Injector {
        own,
        api: api(&context.kube.calls),
        events: Box::pin(events),
        found: Found::Unknown,
        listed: None,
        keeper: Keeper::default(),
        pauses: Doubling::default(),
        told: None,
        context,
    };
    loop {
        tokio::select! {
            () = shutdown.stopping() => return,
            () = injector.look() => {}
        }
        tokio::select! {
            () = shutdown.stopping() => return,
            () = injector.wait() => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Found {
    Unknown,
    Missing,
    It(Box<ValidatingWebhookConfiguration>),
}

struct Injector {
    own: Own,
    api: Api<ValidatingWebhookConfiguration>,
    events: Events,
    found: Found,
    /// What a list that is not complete has brought.
    listed: Option<Box<ValidatingWebhookConfiguration>>,
    keeper: Keeper,
    /// Between writes: somebody else may write the same field, over and over.
    pauses: Doubling,
    told: Option<String>,
    context: Arc<Context>,
}

impl Injector {
    /// Does what is to be done now. Cancel safe: what was written is seen again.
    async fn look(&mut self) {
        let trouble = match self.found.clone() {
            Found::Unknown => return,
            Found::Missing => Some(format!(
                "there is no ValidatingWebhookConfiguration {:?}: nobody asks",
                self.own.configuration
            )),
            Found::It(configuration) => self.serve(&configuration).await.err(),
        };
        self.tell(trouble);
    }

    async fn serve(
        &mut self,
        configuration: &ValidatingWebhookConfiguration,
    ) -> Result<(), String> {
        let names = bundle::names(configuration);
        if names.is_empty() {
            let name = &self.own.configuration;
            return Err(format!(
                "ValidatingWebhookConfiguration {name:?} asks for nothing that is served here"
            ));
        }
        let now = now();
        if self.keeper.is_due(&names, now) {
            let made = Made::new(&self.own.replica, &names, now, self.own.life);
            let made = made.map_err(|error| format!("no certificate could be made: {error}"))?;
            tracing::info!(?names, "a certificate is made");
            self.keeper.put(made);
        }
        if let Some(made) = self.keeper.shown(now) {
            let expiry = &self.context.metrics.webhook_certificate_expiry;
            expiry.set(made.identity.not_after);
            self.own.shown.show(made.identity.clone());
        }
        let wanted = Wanted {
            replica: &self.own.replica,
            certificates: self.keeper.wanted(),
        };
        let Some(patch) = bundle::patch(configuration, &wanted, now) else {
            self.keeper.is_trusted(true, now);
            return Ok(());
        };
        self.keeper.is_trusted(false, now);
        self.write(&patch).await
    }

    /// What comes of it is seen by the watch. Somebody who wrote before makes it fail, and is seen
    /// there, too.
    async fn write(&mut self, patch: &serde_json::Value) -> Result<(), String> {
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = self.own.configuration.clone();
        let patch = Patch::Strategic(patch);
        let outcome = within(self.api.patch(&name, &parameters, &patch)).await;
        tokio::time::sleep(self.pauses.pause()).await;
        match outcome {
            Ok(written) => {
                tracing::info!(name, "the API server is told to trust this replica");
                self.found = Found::It(Box::new(written));
                Ok(())
            }
            Err(KubeError::Failed(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Err(error) => Err(format!(
                "the API server is not told to trust this replica: {error}"
            )),
        }
    }

    /// Until something changes, or it is time to look.
    async fn wait(&mut self) {
        let due = self.keeper.wakes().map_or(LOOK, |wakes| {
            let left = u64::try_from(wakes - now()).unwrap_or_default();
            Duration::from_secs(left.max(1)).min(LOOK)
        });
        let event = tokio::select! {
            () = tokio::time::sleep(due) => return,
            event = self.events.next() => event.expect("a watcher has no end"),
        };
        match event {
            Ok(Event::Init) => self.listed = None,
            Ok(Event::InitApply(found)) => self.listed = Some(Box::new(found)),
            Ok(Event::InitDone) => {
                self.found = self.listed.take().map_or(Found::Missing, Found::It);
            }
            Ok(Event::Apply(found)) => self.found = Found::It(Box::new(found)),
            Ok(Event::Delete(_)) => self.found = Found::Missing,
            Err(
                watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error),
            ) => {
                let name = &self.own.configuration;
                self.tell(Some(format!(
                    "ValidatingWebhookConfiguration {name:?} cannot be read: {}",
                    short(&error)
                )));
            }
            Err(error) => tracing::debug!(%error, "watch interrupted"),
        }
    }

    fn tell(&mut self, trouble: Option<String>) {
        if trouble.is_some() || self.keeper.is_believed(now()) {
            self.context.readiness.ready(PART);
        }
        if self.told == trouble {
            return;
        }
        match &trouble {
            Some(trouble) => {
                tracing::warn!(trouble, "changes are not judged before they are stored");
                self.context.readiness.note(PART, trouble.clone());
            }
            None => self.context.readiness.clear_note(PART),
        }
        self.told = trouble;
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
