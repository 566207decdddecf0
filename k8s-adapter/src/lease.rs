//! One replica writes what people look at, by a Lease in the cluster; the others stand by.
//!
//! It guards what two at once would write twice or against each other: Services' status and events, pools'
//! status and events, status objects, and the metrics of MetalLB's allocator. It guards nothing that
//! addresses depend on: every replica makes claims, hands pools over and reports facts.
//! [`machine`] decides; this module calls and keeps the time.

pub mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{Patch, PatchParams};
use pharos_process::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Context;
use crate::kubernetes::{KubeError, short, within};
use machine::{Action, DURATION, Machine, RENEW, Record};

/// The Lease, in the namespace of the custom resources. It comes with the permissions: whoever may create
/// one Lease may create any.
pub const NAME: &str = "pharos-k8s-adapter";
/// Longest time for a call: half of the time that a renewal counts. A slower one could not be followed by
/// another in time, and this replica would write, and not, over and over.
const CALL: Duration = Duration::from_secs(3);
/// Wait after a call that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether this replica is the one that writes.
#[derive(Debug)]
pub struct Leadership {
    until: watch::Sender<Option<Instant>>,
    /// Another replica holds it, by the last look at the Lease.
    stands_by: AtomicBool,
}

/// What became of a look at the Lease.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("no answer within {} s", CALL.as_secs())]
    Slow,
    #[error("{}", short(.0))]
    Kube(#[from] kube::Error),
}

/// A write that was not made, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum GuardedError {
    /// Another replica may write by now.
    #[error("this replica does not hold the lease any more")]
    Lost,
    #[error(transparent)]
    Kube(#[from] KubeError),
}

impl Default for Leadership {
    /// It is not.
    fn default() -> Self {
        Self {
            until: watch::Sender::new(None),
            stands_by: AtomicBool::new(false),
        }
    }
}

impl Leadership {
    /// Whether this replica writes. To be asked just before each write, or see [`Leadership::guard`].
    pub fn is_held(&self) -> bool {
        let until = *self.until.borrow();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether another replica writes, as far as is known: what is to be told, it tells.
    pub fn stands_by(&self) -> bool {
        self.stands_by.load(Ordering::Relaxed) && !self.is_held()
    }

    /// Waits until this replica writes. Cancel safe.
    pub async fn gained(&self) {
        let mut until = self.until.subscribe();
        while !self.is_held() {
            // The sender lives as long as `self`.
            let _ = until.changed().await;
        }
    }

    /// Waits until this replica does not write. Cancel safe.
    pub async fn lost(&self) {
        let mut until = self.until.subscribe();
        loop {
            let end = *until.borrow_and_update();
            match end {
                Some(end) if Instant::now() < end => tokio::select! {
                    _ = until.changed() => {}
                    () = tokio::time::sleep_until(end) => {}
                },
                Some(_) | None => return,
            }
        }
    }

    /// A write for as long as this replica is the one that writes: it does not begin otherwise, and it is
    /// given up when that ends.
    pub async fn guard<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, GuardedError> {
        tokio::select! {
            biased;
            () = self.lost() => Err(GuardedError::Lost),
            outcome = within(call) => Ok(outcome?),
        }
    }

    /// It is held until then; whether that is news.
    pub(crate) fn hold(&self, end: Instant) -> bool {
        let is_news = !self.is_held();
        self.stands_by.store(false, Ordering::Relaxed);
        self.until.send_replace(Some(end));
        is_news
    }

    fn end(&self) {
        self.until.send_replace(None);
    }

    /// Another replica holds it.
    fn stand_by(&self) {
        self.end();
        self.stands_by.store(true, Ordering::Relaxed);
    }
}

/// Keeps the lease, or stands by, until it is `stopped`, and gives it back then. Whoever writes must have
/// ended before.
pub async fn run(context: Arc<Context>, stopped: Shutdown) {
    context.readiness.not_ready("lease", "not read yet");
    let mut candidate = Candidate::new(&context);
    let mut told = None;
    loop {
        let next = tokio::select! {
            () = stopped.stopping() => break,
            next = candidate.step(&context, &mut told) => next,
        };
        context
            .metrics
            .leader
            .set(i64::from(context.leadership.is_held()));
        tokio::select! {
            () = stopped.stopping() => break,
            () = tokio::time::sleep_until(next) => {}
        }
    }
    candidate.release(&context).await;
}

/// This replica at the Lease.
struct Candidate {
    machine: Machine,
    api: Api<Lease>,
    /// What the Lease says, with its version: as this replica wrote it.
    written: Option<(Record, String)>,
}

impl Candidate {
    fn new(context: &Context) -> Self {
        Self {
            machine: Machine::new(identity()),
            api: Api::namespaced(context.kube.watches.clone(), &context.namespace),
            written: None,
        }
    }

    /// One attempt; when to make the next.
    async fn step(&mut self, context: &Context, told: &mut Option<String>) -> Instant {
        let begun = Instant::now();
        let trouble = match self.attempt(context).await {
            Ok(next) => {
                context.readiness.ready("lease");
                *told = None;
                return next;
            }
            Err(error) => describe(&error, context),
        };
        // It may have arrived, or somebody else was faster.
        self.written = None;
        if told.as_ref() != Some(&trouble) {
            tracing::warn!(error = trouble, "the lease cannot be kept");
        }
        context.readiness.not_ready("lease", trouble.clone());
        *told = Some(trouble);
        Instant::now().max(begun + PAUSE)
    }

    async fn attempt(&mut self, context: &Context) -> Result<Instant, KeepError> {
        let (record, version) = match self.written.take() {
            Some(written) => written,
            None => parse(&in_time(self.api.get(NAME)).await?),
        };
        let begun = Instant::now();
        let (transitions, taken) = match self.machine.observe(&record, begun.into_std()) {
            Action::Look { at } => {
                context.leadership.stand_by();
                return Ok(at.into());
            }
            Action::Renew => (record.transitions, false),
            Action::Take { transitions } => (transitions, true),
        };
        // By a renewal whose answer was lost.
        self.believe(context, transitions, begun);
        // As exact as the Lease has it.
        let now = jiff::Timestamp::now().as_microsecond();
        let now = jiff::Timestamp::from_microsecond(now).unwrap_or_default();
        self.machine.tries(now.to_string(), begun.into_std());
        let patch = claim(self.machine.identity(), transitions, taken, &version, now);
        let parameters = PatchParams::default();
        let patch = Patch::Merge(patch);
        match in_time(self.api.patch(NAME, &parameters, &patch)).await {
            Ok(lease) => self.written = Some(parse(&lease)),
            // It is not what it was: look at once.
            Err(KeepError::Kube(kube::Error::Api(status))) if status.is_conflict() => {
                return Ok(begun);
            }
            Err(error) => return Err(error),
        }
        self.machine.wrote(begun.into_std());
        self.believe(context, transitions, Instant::now());
        Ok(begun + RENEW)
    }

    /// Writes, for as long as the Lease counts.
    fn believe(&self, context: &Context, transitions: i32, now: Instant) {
        let Some(until) = self.machine.held_until(now.into_std()) else {
            return;
        };
        if context.leadership.hold(until.into()) {
            tracing::info!(
                identity = self.machine.identity(),
                transitions,
                "this replica writes"
            );
            // What the former one saw shortly before its end it may not have told.
            let since = self.machine.other_since();
            context.take_over(since.and_then(|since| since.checked_sub(RENEW)));
        }
    }

    /// Gives it back, so that nobody has to wait.
    async fn release(mut self, context: &Context) {
        let held = context.leadership.is_held();
        context.leadership.end();
        let Some((_, version)) = self.written.take().filter(|_| held) else {
            return;
        };
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": version },
            "spec": { "holderIdentity": null },
        });
        let parameters = PatchParams::default();
        let patch = Patch::Merge(patch);
        let call = self.api.patch(NAME, &parameters, &patch);
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(_)) => tracing::info!("lease given back"),
            Ok(Err(error)) => tracing::warn!(error = short(&error), "lease not given back"),
            Err(_) => tracing::warn!("lease not given back in time"),
        }
    }
}

/// The merge patch that makes a replica the holder, if the Lease is the one that was read.
fn claim(
    identity: &str,
    transitions: i32,
    taken: bool,
    version: &str,
    now: jiff::Timestamp,
) -> serde_json::Value {
    let now = MicroTime(now);
    let mut patch = serde_json::json!({
        "metadata": { "resourceVersion": version },
        "spec": {
            "holderIdentity": identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "leaseTransitions": transitions,
            "renewTime": now,
        },
    });
    if taken {
        patch["spec"]["acquireTime"] = serde_json::json!(now);
    }
    patch
}

fn parse(lease: &Lease) -> (Record, String) {
    let version = lease.metadata.resource_version.clone();
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds;
    let seconds = seconds.and_then(|it| u64::try_from(it).ok());
    let record = Record {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec
            .renew_time
            .map(|it| it.0.to_string())
            .unwrap_or_default(),
        duration: seconds.map(Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    (record, version.unwrap_or_default())
}

/// A call of the API, given up when it takes too long.
async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, KeepError> {
    let outcome = tokio::time::timeout(CALL, call).await;
    Ok(outcome.map_err(|_| KeepError::Slow)??)
}

fn describe(error: &KeepError, context: &Context) -> String {
    let is_missing =
        matches!(error, KeepError::Kube(kube::Error::Api(status)) if status.code == 404);
    if is_missing {
        let namespace = &context.namespace;
        return format!(
            "there is no Lease {NAME} in {namespace}; apply deploy/k8s-adapter-rbac.yaml"
        );
    }
    error.to_string()
}

/// A name that no other process has, which begins with what people know it by: of a pod, its name.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => NAME,
        host => host,
    };
    format!("{host}_{}", uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_begins_only_while_the_lease_is_held_and_is_given_up_when_it_ends() {
        let leadership = Leadership::default();
        let done = || async { Ok::<_, kube::Error>(()) };
        let outcome = leadership.guard(done()).await;
        assert!(matches!(outcome, Err(GuardedError::Lost)));
        assert!(leadership.hold(Instant::now() + DURATION));
        assert!(leadership.guard(done()).await.is_ok());
        let begun = Instant::now();
        let never = std::future::pending::<Result<(), kube::Error>>();
        let outcome = leadership.guard(never).await;
        assert!(matches!(outcome, Err(GuardedError::Lost)));
        assert_eq!(begun.elapsed(), DURATION);
        // Whoever has lost it gains it anew.
        assert!(leadership.hold(Instant::now() + DURATION));
        assert!(!leadership.hold(Instant::now() + DURATION));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_keeps_a_write_under_way() {
        let leadership = Leadership::default();
        leadership.hold(Instant::now() + DURATION);
        let slow = async {
            tokio::time::sleep(DURATION - Duration::from_secs(1)).await;
            leadership.hold(Instant::now() + DURATION);
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok::<_, kube::Error>(())
        };
        assert!(leadership.guard(slow).await.is_ok());
        leadership.end();
        assert!(!leadership.is_held());
        leadership.lost().await;
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let now = jiff::Timestamp::from_microsecond(1_800_000_000_000_007).expect("a time");
        let patch = claim("a", 7, true, "5", now);
        let lease: Lease = serde_json::from_value(patch).expect("a Lease");
        let (record, version) = parse(&lease);
        assert_eq!(
            (record.holder.as_str(), record.transitions, version.as_str()),
            ("a", 7, "5")
        );
        assert_eq!(record.duration, Some(DURATION));
        assert_eq!(record.renewed, now.to_string());
        assert_eq!(parse(&Lease::default()), (Record::default(), String::new()));
    }

    #[test]
    fn no_two_replicas_have_the_same_name() {
        assert_ne!(identity(), identity());
    }
}
