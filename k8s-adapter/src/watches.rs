//! Follows the Kubernetes API: each kind's complete list, then its changes, into the index.
//!
//! Nothing that is decided depends on whether a watch is healthy. A list replaces what is known
//! only when its last page has arrived, and only if it came from the cluster that was there first
//! ([`identity`]); an error leaves everything as it was.
//!
//! When the API server is lost all watches end: one may have died without a word, and would be missed only
//! after [`SILENCE`]. They begin with a list when it answers again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use pharos_process::Shutdown;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, BGPSessionState, BgpSpec, Community, CommunitySpec,
    ConfigurationState, IPAddressPool, L2Advertisement, L2Spec, PeerSpec, ProfileSpec,
    ServiceL2Status,
};
use crate::eligibility::{NodeState, SliceState};
use crate::identity::{self, AnotherCluster, IdentityError};
use crate::index::{self, Declares, Index, Kind, PoolState, Touched};
use crate::kubernetes::short;
use crate::policy::Declared;
use crate::service::{OWN_PREFIX, ServiceState};
use crate::status::object::{Seen, StatusKind};

/// A watch ends after this many seconds and starts again where it was.
pub const WATCH_SECONDS: u32 = 60;
/// A connection that was silent for longer than a watch lasts died without a word.
pub const SILENCE: Duration = Duration::from_secs(65);
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
}

/// Follows one kind for as long as its watch can be taken up again.
async fn follow<K: Watched + 'static>(api: &Api<K>, context: &Context) -> Ended {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let events = watcher(api.clone(), config).backoff(Doubling::default());
    let mut events = std::pin::pin!(events);
    let mut listing = Vec::new();
    loop {
        match events.next().await.expect("a watcher has no end") {
            Ok(event) => {
                if matches!(event, Event::InitDone)
                    && let Err(error) = identity::verify(context).await
                {
                    return error.into();
                }
                take(context, event, &mut listing);
            }
            Err(watcher::Error::WatchStartFailed(cause)) if is_missing(&cause) => {
                lack::<K>(context);
                return Ended::Gone;
            }
            Err(error) => complain::<K>(context, &error),
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
        // The API server is there and says no. Without watches nothing that changes is seen.
        watcher::Error::WatchStartFailed(cause @ kube::Error::Api(_)) => {
            tracing::warn!(kind, error = short(cause), "watch refused");
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
    matches!(error, kube::Error::Api(status) if status.code == 404)
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

// === the kinds ===

impl Watched for Service {
    const KIND: Kind = Kind::Services;
    type Kept = ServiceState;

    fn keep(self) -> Option<ServiceState> {
        ServiceState::parse(&self)
    }

    fn replace(index: &mut Index, list: Vec<ServiceState>) -> Touched {
        index.replace_services(list)
    }

    fn apply(index: &mut Index, service: ServiceState) -> Touched {
        index.apply_service(service)
    }

    fn delete(index: &mut Index, service: &ServiceState) -> Touched {
        index.delete_service(service)
    }
}

impl Watched for Namespace {
    const KIND: Kind = Kind::Namespaces;
    type Kept = index::Namespace;

    fn keep(self) -> Option<index::Namespace> {
        Some(index::Namespace {
            name: self.metadata.name?,
            labels: self
                .metadata
                .labels
                .unwrap_or_default()
                .into_iter()
                .collect(),
        })
    }

    fn replace(index: &mut Index, list: Vec<index::Namespace>) -> Touched {
        index.replace_namespaces(list)
    }

    fn apply(index: &mut Index, namespace: index::Namespace) -> Touched {
        index.apply_namespace(namespace)
    }

    fn delete(index: &mut Index, namespace: &index::Namespace) -> Touched {
        index.delete_namespace(&namespace.name)
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlices;
    type Kept = SliceState;

    fn keep(self) -> Option<SliceState> {
        SliceState::parse(&self)
    }

    fn replace(index: &mut Index, list: Vec<SliceState>) -> Touched {
        index.replace_slices(list)
    }

    fn apply(index: &mut Index, slice: SliceState) -> Touched {
        index.apply_slice(slice)
    }

    fn delete(index: &mut Index, slice: &SliceState) -> Touched {
        index.delete_slice(&slice.key)
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Nodes;
    type Kept = NodeState;

    fn keep(self) -> Option<NodeState> {
        NodeState::parse(&self)
    }

    fn replace(index: &mut Index, list: Vec<NodeState>) -> Touched {
        index.replace_nodes(list)
    }

    fn apply(index: &mut Index, node: NodeState) -> Touched {
        index.apply_node(node)
    }

    fn delete(index: &mut Index, node: &NodeState) -> Touched {
        index.delete_node(&node.fact.name)
    }
}

/// What counts of an object's annotations. Others change without a meaning here.
fn own_annotations(annotations: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let all = annotations.unwrap_or_default().into_iter();
    all.filter(|(name, _)| name.starts_with(OWN_PREFIX))
        .collect()
}

// An object that cannot be read is kept as what it is: a mistake that has to be told. Without the
// guard it would make the whole list fail.
impl Watched for DeserializeGuard<IPAddressPool> {
    const KIND: Kind = Kind::Pools;
    type Kept = PoolState;

    fn keep(self) -> Option<PoolState> {
        let meta = self.meta().clone();
        let (spec, status) = match self.0 {
            Ok(pool) => (Ok(pool.spec), pool.status),
            Err(error) => (Err(error.to_string()), None),
        };
        Some(PoolState {
            uid: meta.uid.unwrap_or_default(),
            declared: Declared {
                name: meta.name?,
                labels: meta.labels.unwrap_or_default().into_iter().collect(),
                annotations: own_annotations(meta.annotations),
                spec,
            },
            status,
        })
    }

    fn replace(index: &mut Index, list: Vec<PoolState>) -> Touched {
        index.replace_pools(list)
    }

    fn apply(index: &mut Index, pool: PoolState) -> Touched {
        index.apply_pool(pool)
    }

    fn delete(index: &mut Index, pool: &PoolState) -> Touched {
        index.delete_pool(&pool.declared.name)
    }
}

/// A kind of which nothing but what it declares is kept.
pub trait Declaration: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned {
    type Spec: Declares + Send;
    fn spec(self) -> Self::Spec;
}

/// All such kinds have their spec in the same place.
macro_rules! declaration {
    ($kind:ident, $spec:ident) => {
        impl Declaration for $kind {
            type Spec = $spec;

            fn spec(self) -> $spec {
                self.spec
            }
        }
    };
}

declaration!(L2Advertisement, L2Spec);
declaration!(BGPAdvertisement, BgpSpec);
declaration!(Community, CommunitySpec);
declaration!(BGPPeer, PeerSpec);
declaration!(BFDProfile, ProfileSpec);

impl<K: Declaration + Send + Sync> Watched for DeserializeGuard<K> {
    const KIND: Kind = K::Spec::KIND;
    type Kept = Declared<K::Spec>;

    fn keep(self) -> Option<Declared<K::Spec>> {
        let meta = self.meta().clone();
        Some(Declared {
            name: meta.name?,
            labels: meta.labels.unwrap_or_default().into_iter().collect(),
            annotations: own_annotations(meta.annotations),
            spec: self.0.map(K::spec).map_err(|error| error.to_string()),
        })
    }

    fn replace(index: &mut Index, list: Vec<Declared<K::Spec>>) -> Touched {
        index.replace_declared(list)
    }

    fn apply(index: &mut Index, declared: Declared<K::Spec>) -> Touched {
        index.apply_declared(declared)
    }

    fn delete(index: &mut Index, declared: &Declared<K::Spec>) -> Touched {
        index.delete_declared::<K::Spec>(&declared.name)
    }
}

/// Objects that this adapter writes itself: what they say, and that somebody else wrote or deleted one.
macro_rules! status_object {
    ($object:ident, $kind:ident) => {
        impl Watched for DeserializeGuard<$object> {
            const KIND: Kind = Kind::Statuses(StatusKind::$kind);
            const OPTIONAL: bool = true;
            type Kept = Seen;

            fn keep(self) -> Option<Seen> {
                let object = self.0.ok()?;
                let status = serde_json::to_value(&object.status).ok()?;
                Seen::parse(StatusKind::$kind, &object.metadata, status)
            }

            fn begin(index: &mut Index) {
                index.list_statuses(StatusKind::$kind);
            }

            fn replace(index: &mut Index, list: Vec<Seen>) -> Touched {
                index.replace_statuses(StatusKind::$kind, list)
            }

            fn apply(index: &mut Index, seen: Seen) -> Touched {
                index.see_status(seen)
            }

            fn delete(index: &mut Index, seen: &Seen) -> Touched {
                index.forget_status(StatusKind::$kind, &seen.name, &seen.uid)
            }
        }
    };
}

status_object!(ServiceL2Status, L2);
status_object!(BGPSessionState, Session);
status_object!(ConfigurationState, Configuration);
