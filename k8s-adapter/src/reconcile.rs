//! Performs the steps that [`crate::plan`] decides, for one Service after the other and many
//! Services at once.

use std::sync::Arc;
use std::time::Duration;

use pharos_process::Shutdown;
use tokio::task::JoinSet;

use crate::ask::{adopt, ask};
use crate::client::CallError;
use crate::context::Context;
use crate::kubernetes::{KubeError, fetch_service};
use crate::notice::{Cause, Notice};
use crate::plan::Step;
use crate::queue::Looked;
use crate::service::{ServiceKey, ServiceState};
use crate::world::Next;
use crate::write::{WriteError, write_event, write_service};

/// Services that are worked on at once. Each waits for one call at a time; the API server handles
/// some hundred requests at once before it makes clients queue.
const AT_ONCE: usize = 64;
/// Steps in one look. Ask, write and tell are three; a Service that needs more is not converging
/// and has to wait for its turn.
const MOST_STEPS: usize = 8;
/// After so many failed looks in a row, which take three seconds, the Service's owner is told: what lasts
/// shorter is told to nobody.
const TOLD_AFTER: u32 = 6;
/// Longest time for the work at hand when the process stops.
const DRAIN: Duration = Duration::from_secs(5);

/// A step that failed, and may go well later.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("ipam-service: {0}")]
    Ipam(#[from] CallError),
    #[error("API server: {0}")]
    Write(#[from] WriteError),
    #[error("API server: {0}")]
    Fetch(#[from] KubeError),
    #[error("no end after {MOST_STEPS} steps")]
    Endless,
}

/// Works until the process stops.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    let mut looks = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.stopping() => break,
            // A look that panicked left its Service in the queue's hands for ever.
            Some(ended) = looks.join_next(), if !looks.is_empty() => {
                ended.expect("a look at a Service ends without a panic");
            }
            key = context.queue.next(), if looks.len() < AT_ONCE => {
                looks.spawn(look(Arc::clone(&context), key));
            }
        }
    }
    // What is left is done again at the next start.
    let _ = tokio::time::timeout(DRAIN, looks.join_all()).await;
}

async fn look(context: Arc<Context>, key: ServiceKey) {
    context.metrics.updates.inc();
    let outcome = perform_all(&context, &key).await;
    let how = match &outcome {
        Ok(()) => Looked::Done,
        // The newer version causes its own look, unless it came before this one ended.
        Err(StepError::Write(WriteError::Changed)) => {
            tracing::debug!(service = %key, "changed meanwhile");
            Looked::Failed
        }
        Err(error) => {
            context.metrics.update_errors.inc();
            tracing::warn!(service = %key, %error, "failed, to be tried again");
            Looked::Failed
        }
    };
    context.world().looked(&key);
    let failures = context.queue.looked(key.clone(), how);
    if let Err(error) = outcome
        && failures >= TOLD_AFTER
        && context.leadership.is_held()
        && context.queue.is_untold(&key)
    {
        tell_failure(&context, &key, &error).await;
    }
}

/// Once for each row of failures.
async fn tell_failure(context: &Context, key: &ServiceKey, error: &StepError) {
    let service = context.world().index.service(key).cloned();
    if let Some(service) = service {
        let notice = Notice::AllocationFailed {
            cause: Cause::Failing,
            why: error.to_string(),
        };
        remember(context, &service, notice.clone());
        tell(context, &service, &notice).await;
    }
}

async fn perform_all(context: &Context, key: &ServiceKey) -> Result<(), StepError> {
    for _ in 0..MOST_STEPS {
        let next = context.world().next(key);
        let more = match next {
            Next::Nothing => false,
            Next::ReleaseGone { uid } => {
                release(context, key, &uid).await?;
                true
            }
            Next::Of(service, step) => perform(context, &service, step).await?,
        };
        if !more {
            return Ok(());
        }
    }
    Err(StepError::Endless)
}

/// Performs one step; says whether another look may find more to do.
async fn perform(context: &Context, service: &ServiceState, step: Step) -> Result<bool, StepError> {
    match step {
        Step::Settled => {
            context.world().untell(&service.key);
            return Ok(false);
        }
        Step::Wait => return Ok(false),
        // Another replica does, or this one when the lease is its own: all is looked at again then.
        Step::Write(..) if !context.leadership.is_held() => return Ok(false),
        Step::Tell(notice) if !context.leadership.is_held() => {
            if context.leadership.stands_by() {
                let now = tokio::time::Instant::now().into_std();
                context.world().leave(service, notice, now);
            }
            return Ok(false);
        }
        Step::Verify => {
            tracing::debug!(service = %service.key, "fetched before its claim replaces another");
            let fetched = fetch_service(&context.kube.calls, &service.key).await?;
            // That it is gone is the watch's to say.
            let fetched = fetched.ok_or(WriteError::Changed)?;
            context.world().verified(fetched);
        }
        Step::Ask(claim) => ask(context, &claim, &service.addresses()).await?,
        Step::Adopt(claim) => adopt(context, &claim, &service.addresses()).await?,
        Step::Release { uid } => release(context, &service.key, &uid).await?,
        Step::Write(target, notices) => {
            write_service(context, service, &target).await?;
            tracing::info!(
                service = %service.key,
                addresses = ?target.addresses,
                pool = target.pool.as_deref().unwrap_or_default(),
                "status written"
            );
            for notice in &notices {
                tell(context, service, notice).await;
            }
        }
        Step::Tell(notice) => {
            remember(context, service, notice.clone());
            tell(context, service, &notice).await;
        }
    }
    Ok(true)
}

/// A condition will say it, if it lasts.
fn remember(context: &Context, service: &ServiceState, notice: Notice) {
    context.world().tell(service, notice);
    context.status.notify_one();
}

async fn tell(context: &Context, service: &ServiceState, notice: &Notice) {
    let text = notice.message(&service.key);
    tracing::info!(service = %service.key, reason = notice.reason(), text, "event");
    write_event(context, service, notice).await;
}

async fn release(context: &Context, key: &ServiceKey, uid: &str) -> Result<(), StepError> {
    match context.ipam.release(key, uid).await {
        Ok(()) => {
            tracing::info!(service = %key, "released");
        }
        // It holds nothing that we could release.
        Err(CallError::Refused(why)) => tracing::warn!(service = %key, why, "not released"),
        Err(again @ CallError::Again(_)) => return Err(again.into()),
    }
    context.world().book.forget(key, uid);
    context.usage.notify_one();
    Ok(())
}
