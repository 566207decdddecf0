//! Finds what incarnations of Services hold that nobody has shown, and lets it be released once a
//! list that was made later lacks them too.
//!
//! A deletion that was watched is certain. A Service that the watch has not shown may be gone, or
//! it may not have been shown yet: another replica saw it first, or the watch stands still. So
//! whatever the index says is held against a second complete list, of the same cluster.

use std::sync::Arc;
use std::time::Duration;

use pharos_process::Shutdown;

use crate::context::Context;
use crate::identity;
use crate::kubernetes::list_services;

/// How often it is looked at without a hint.
const TICK: Duration = Duration::from_secs(30);

/// Looks until the process stops.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.stopping() => return,
            () = context.unlisted.notified() => {}
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = shutdown.stopping() => return,
            () = sweep(&context) => {}
        }
    }
}

async fn sweep(context: &Context) {
    let unlisted = context.world().unlisted();
    if unlisted.is_empty() {
        return;
    }
    let holders = unlisted.len();
    let list = match list_services(&context.kube.calls).await {
        Ok(list) => list,
        Err(error) => {
            tracing::warn!(holders, %error, "no second list of Services, nothing is released");
            return;
        }
    };
    // The list before this answer came from the same cluster.
    if let Err(error) = identity::verify(context).await {
        tracing::warn!(holders, %error, "unsure of the second list of Services, nothing is released");
        return;
    }
    let gone = context.world().confirm_gone(unlisted, &list);
    if !gone.is_empty() {
        tracing::info!(gone = gone.len(), "Services vanished unseen");
        context.queue.push(gone);
    }
}
