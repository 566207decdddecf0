//! Follows the Kubernetes API: each kind's complete list, then its changes, into the index.
//!
//! Nothing that is decided depends on whether a watch is healthy. A list replaces what is known
//! only when its last page has arrived, and only if it came from the cluster that was there first
//! ([`identity`]); an error leaves everything as it was.
//!
//! When the API server is lost all watches end: one may have died without a word, and would be missed only
//! after [`SILENCE`]. They begin with a list when it answers again.

pub mod kinds;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use pharos_process::Shutdown;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::identity::{self, AnotherCluster, IdentityError};
use crate::index::{Index, Kind, Touched};
use crate::kubernetes::short;

/// A watch ends after this many seconds and starts again where it was.
pub const WATCH_SECONDS: u32 = 60;
/// A connection that was silent for longer than a watch lasts died without a word.
pub const SILENCE: Duration = Duration::from_secs(65);
/// Longest time for a page of a list and the wait before it: what hangs is asked for again.
const PAGE: Duration = Duration::from_secs(15);
/// A watch that was refused and then no more for this long goes on: longer than any wait between two
/// attempts.
const GRANTED: Duration = Duration::from_secs(8);
/// Refusals in a row that are told: a single one is made good before anybody has read of it.
const TOLD: u32 = 2;
/// First and longest wait after an error.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// After this long without an error the waits are small again.
const CALM: Duration = Duration::from_secs(15);
/// Of a kind without a definition.
pub const MISSING: &str = "the API server does not know this kind; apply k8s-adapter/crds";

/// A kind that is watched: what is kept of it, and where it goes.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync
{
    const KIND: Kind;
    /// Only tells. A replica without it does all that addresses depend on, and is ready: what it lacks is in
    /// the log.
    const OPTIONAL: bool = false;
    type Kept: Send;
    /// `None` for an object that does not count.
    fn keep(self) -> Option<Self::Kept>;
    /// A list begins.
    fn begin(_index: &mut Index) {}
    fn replace(index: &mut Index, list: Vec<Self::Kept>) -> Touched;
    fn apply(index: &mut Index, object: Self::Kept) -> Touched;
    fn delete(index: &mut Index, object: &Self::Kept) -> Touched;
}

/// Follows one kind until the process stops, or another cluster answers.
pub async fn watch<K: Watched + 'static>(
    api: Api<K>,
    context: Arc<Context>,
    shutdown: Shutdown,
) -> Result<(), AnotherCluster> {
    let kind = K::KIND.as_str();
    context.readiness.not_ready(kind, "not listed yet");
    let mut pauses = Doubling::default();
    loop {
        tokio::select! {
            () = shutdown.stopping() => return Ok(()),
            () = context.api_server_answers() => {}
        }
        let error = tokio::select! {
            () = shutdown.stopping() => return Ok(()),
            () = context.api_server_lost() => {
                context.world().fresh.remove(&K::KIND);
                continue;
            }
            error = follow(&api, &context) => error,
        };
        if let Ended::Unsure(IdentityError::Another(error)) = error {
            return Err(error);
        }
        tracing::warn!(kind, %error, "all is listed again");
        unready::<K>(&context, error.to_string(), matches!(error, Ended::Gone));
        tokio::select! {
            () = shutdown.stopping() => return Ok(()),
            () = tokio::time::sleep(pauses.pause()) => {}
        }
    }
}

/// Why a kind has to be listed again.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// Nothing of that list is taken.
    #[error("nobody knows whose list it was: {0}")]
    Unsure(#[from] IdentityError),
    /// Taken up again where it was, the watch would fail for ever, and never say so.
    #[error("{MISSING}")]
    Gone,
    /// The same, as the API server has forgotten that version.
    #[error("the version that was watched from is gone")]
    Expired,
    #[error("no page of a list within {} s", PAGE.as_secs())]
    Slow,
}

/// Follows one kind for as long as its watch can be taken up again.
async fn follow<K: Watched + 'static>(api: &Api<K>, context: &Context) -> Ended {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let events = watcher(api.clone(), config).backoff(Doubling::default());
    let mut events = std::pin::pin!(events);
    let mut listing = Vec::new();
    // A list is what a watcher begins with.
    let mut lists = true;
    let mut refused = Refused::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event.expect("a watcher has no end"),
            () = tokio::time::sleep(PAGE), if lists => return Ended::Slow,
            () = refused.granted() => {
                refused = Refused::default();
                context.readiness.ready(K::KIND.as_str());
                continue;
            }
        };
        match event {
            Ok(event) => {
                lists = matches!(event, Event::Init | Event::InitApply(_));
                if matches!(event, Event::InitDone)
                    && let Err(error) = identity::verify(context).await
                {
                    return error.into();
                }
                if refused.is_told() {
                    context.readiness.ready(K::KIND.as_str());
                }
                refused = Refused::default();
                take(context, event, &mut listing);
            }
            Err(watcher::Error::WatchStartFailed(cause)) if is_missing(&cause) => {
                lack::<K>(context);
                return Ended::Gone;
            }
            Err(watcher::Error::WatchStartFailed(cause)) if has_code(&cause, 410) => {
                return Ended::Expired;
            }
            // The API server is there and says no. Without watches nothing that changes is seen.
            Err(watcher::Error::WatchStartFailed(cause @ kube::Error::Api(_))) => {
                refused.again();
                if refused.is_told() {
                    let reason = format!("cannot be watched: {}", short(&cause));
                    unready::<K>(context, reason, false);
                }
            }
            Err(error) => complain::<K>(context, &error),
        }
    }
}

/// Attempts to watch that the API server refused, one after the other.
#[derive(Debug, Default)]
struct Refused {
    count: u32,
    last: Option<tokio::time::Instant>,
}

impl Refused {
    fn again(&mut self) {
        self.count = self.count.saturating_add(1);
        self.last = Some(tokio::time::Instant::now());
    }

    fn is_told(&self) -> bool {
        self.count >= TOLD
    }

    /// Waits until the last attempt, of which nothing was heard, must have been granted. Cancel safe.
    async fn granted(&self) {
        match self.last {
            Some(last) if self.is_told() => tokio::time::sleep_until(last + GRANTED).await,
            Some(_) | None => std::future::pending().await,
        }
    }
}

fn take<K: Watched>(context: &Context, event: Event<K>, listing: &mut Vec<K::Kept>) {
    match event {
        Event::Init => {
            listing.clear();
            K::begin(&mut context.world().index);
        }
        Event::InitApply(object) => listing.extend(object.keep()),
        Event::InitDone => {
            let list = std::mem::take(listing);
            tracing::info!(kind = K::KIND.as_str(), objects = list.len(), "listed");
            let mut world = context.world();
            let touched = K::replace(&mut world.index, list);
            world.absent.remove(&K::KIND);
            world.unseen.remove(&K::KIND);
            world.fresh.insert(K::KIND);
            drop(world);
            context.readiness.ready(K::KIND.as_str());
            context.listed.send_modify(|count| *count += 1);
            context.touched(touched);
        }
        Event::Apply(object) => {
            if let Some(object) = object.keep() {
                let touched = K::apply(&mut context.world().index, object);
                context.touched(touched);
            }
        }
        Event::Delete(object) => {
            if let Some(object) = object.keep() {
                let touched = K::delete(&mut context.world().index, &object);
                context.touched(touched);
            }
        }
    }
}

/// A failed list makes the adapter unready until one succeeds; a watch that breaks off is taken up
/// again where it was, and is no news.
fn complain<K: Watched>(context: &Context, error: &watcher::Error) {
    let kind = K::KIND.as_str();
    match error {
        watcher::Error::InitialListFailed(cause) => {
            let missing = is_missing(cause);
            let reason = if missing {
                lack::<K>(context);
                MISSING.to_owned()
            } else {
                format!("cannot be listed: {}", short(cause))
            };
            unready::<K>(context, reason, missing);
        }
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => {
            tracing::debug!(kind, %error, "watch interrupted");
        }
    }
}

/// Says why a kind is not followed; `missing`: there is no such kind.
fn unready<K: Watched>(context: &Context, reason: String, missing: bool) {
    let kind = K::KIND.as_str();
    if K::OPTIONAL {
        let is_new = context.world().unseen.insert(K::KIND);
        if is_new && !missing {
            tracing::warn!(kind, reason, "list failed, what only tells is not written");
        }
        context.readiness.ready(kind);
        return;
    }
    tracing::warn!(kind, reason, "list failed");
    context.readiness.not_ready(kind, reason);
}

/// Without a CRD the answer is no Status but a plain 404.
fn is_missing(error: &kube::Error) -> bool {
    has_code(error, 404)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Notes that the API server does not know a kind.
fn lack<K: Watched>(context: &Context) {
    let mut world = context.world();
    world.index.undeclare(K::KIND);
    let is_new = world.absent.insert(K::KIND);
    drop(world);
    if is_new {
        context.listed.send_modify(|count| *count += 1);
        context.policy.notify_one();
    }
}

/// Waits that double up to a limit. Only time without an error makes them small again: a list
/// that begins well may still fail, again and again.
#[derive(Debug)]
pub struct Doubling {
    next: Duration,
    last: Option<tokio::time::Instant>,
}

impl Default for Doubling {
    fn default() -> Self {
        Self {
            next: BACKOFF.0,
            last: None,
        }
    }
}

impl Doubling {
    /// How long to wait now.
    pub fn pause(&mut self) -> Duration {
        if self.last.is_some_and(|last| last.elapsed() > CALM) {
            self.next = BACKOFF.0;
        }
        self.last = Some(tokio::time::Instant::now());
        let wait = self.next;
        self.next = (wait * 2).min(BACKOFF.1);
        wait
    }
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.pause())
    }
}

impl Backoff for Doubling {
    /// Called at every sign of life, which is too early.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_from_the_second_on_and_end_when_none_follows() {
        let mut refused = Refused::default();
        refused.again();
        assert!(!refused.is_told());
        tokio::time::advance(GRANTED * 2).await;
        let granted = futures::poll!(std::pin::pin!(refused.granted()));
        assert!(granted.is_pending(), "nothing was told");
        refused.again();
        assert!(refused.is_told());
        let begun = tokio::time::Instant::now();
        tokio::time::advance(GRANTED / 2).await;
        refused.again();
        refused.granted().await;
        assert_eq!(begun.elapsed(), GRANTED + GRANTED / 2);
        // No wait between two attempts is as long.
        assert!(GRANTED > BACKOFF.1);
    }
}
