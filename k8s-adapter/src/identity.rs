//! Which cluster answers. An API server may lose its store, or another cluster may come to answer
//! at its address: whatever that one says tells nothing of what this cluster's Services hold.

use std::sync::Arc;
use std::time::Duration;

use pharos_process::Shutdown;

use crate::context::Context;
use crate::kubernetes::{KubeError, cluster_uid};

/// How often the API server is asked who it is. A watch that is taken up again would not notice:
/// another store may well know its resource version.
const PROBE: Duration = Duration::from_secs(5);
/// Longest time for its answer. One that is missed is asked for again after the other time, so that nothing
/// follows from a pause of the network.
const ANSWER: Duration = Duration::from_secs(3);
/// See [`ANSWER`].
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Another cluster answers. The process ends: everything that it knows is of the first, and an
/// adapter that starts anew is told by ipam-service that this is not the cluster of that name.
#[derive(Debug, thiserror::Error)]
#[error(
    "another cluster answers at the API server's address: namespace kube-system has uid {found} \
     and no longer {expected}"
)]
pub struct AnotherCluster {
    expected: String,
    found: String,
}

/// Why it is not certain that this cluster answers.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("namespace kube-system cannot be read: {0}")]
    Kube(#[from] KubeError),
    #[error("the API server does not answer within {} s", ANSWER.as_secs())]
    Slow,
    #[error("namespace kube-system does not exist")]
    NoKubeSystem,
    #[error(transparent)]
    Another(#[from] AnotherCluster),
}

/// Makes sure that the cluster that answers now is the one that answered first.
pub async fn verify(context: &Context) -> Result<(), IdentityError> {
    let found = cluster_uid(&context.kube.calls).await?;
    let found = found.ok_or(IdentityError::NoKubeSystem)?;
    let expected = context.cluster_uid.get_or_init(|| found.clone());
    if *expected == found {
        return Ok(());
    }
    let expected = expected.clone();
    Err(AnotherCluster { expected, found }.into())
}

/// Notices that the API server does not answer, which is never an essential matter: what is known stays in
/// force, but this replica has no more to say of it ([`Context::api_server_lost`]). Ends when another
/// cluster answers.
pub async fn probe(context: Arc<Context>, shutdown: Shutdown) -> Result<(), AnotherCluster> {
    let mut ticks = tokio::time::interval(PROBE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.stopping() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let outcome = tokio::select! {
            () = shutdown.stopping() => return Ok(()),
            outcome = ask_twice(&context) => outcome,
        };
        match outcome {
            Ok(()) => {
                context.readiness.ready("kubernetes");
                context.answers.send_replace(true);
            }
            Err(IdentityError::Another(error)) => return Err(error),
            Err(
                error
                @ (IdentityError::Kube(_) | IdentityError::Slow | IdentityError::NoKubeSystem),
            ) => {
                context.readiness.not_ready("kubernetes", error.to_string());
                if context.answers.send_replace(false) {
                    tracing::warn!(%error, "the API server is lost");
                }
            }
        }
    }
}

async fn ask_twice(context: &Context) -> Result<(), IdentityError> {
    match ask(context).await {
        decided @ (Ok(()) | Err(IdentityError::Another(_))) => decided,
        Err(_) => {
            tokio::time::sleep(ASK_AGAIN).await;
            ask(context).await
        }
    }
}

async fn ask(context: &Context) -> Result<(), IdentityError> {
    let answer = tokio::time::timeout(ANSWER, verify(context)).await;
    answer.unwrap_or(Err(IdentityError::Slow))
}
