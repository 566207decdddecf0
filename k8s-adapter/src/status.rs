//! Writes what only tells: which node answers for a Service, how nodes stand with routers, what is wrong with the
//! configuration, and why a Service is not reached. Only the replica that holds the lease does.
//!
//! [`announced`] brings in who answers for what; [`desired`] says what objects should follow, [`diff`] what has
//! to be written for that; [`why`] says what [conditions](condition) of Services should say, and [`lasting`]
//! when it has lasted; [`pace`] says when which is written, and [`writer`] writes it.

pub mod announced;
pub mod condition;
pub mod desired;
pub mod diff;
pub mod lasting;
pub mod object;
pub mod pace;
pub mod picture;
pub mod silence;
pub mod why;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pharos_process::Shutdown;
use tokio::time::Instant;

use crate::claim::{address_space, is_ours};
use crate::context::Context;
use crate::index::Kind;
use crate::lease::GuardedError;
use crate::plan::Link;
use crate::policy::{self, Configuration};
use crate::service::ServiceKey;
use crate::world::World;
use condition::{Type, Wanted};
use desired::{Sources, desired, served};
use diff::diff;
use lasting::Lasting;
use object::Topic;
use pace::{Next, Pace};
use silence::Silences;
use writer::Job;

/// At most one look in this time, whatever changes.
const PAUSE: Duration = Duration::from_millis(100);
/// At least one look in this time.
const TICK: Duration = Duration::from_secs(30);
/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What a write is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// An object that only tells.
    Object(Topic),
    /// The conditions of a Service.
    Service(ServiceKey),
}

/// Writes whenever this replica is the one that writes, until the process stops.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.stopping() => return,
            () = context.leadership.gained() => {}
        }
        tokio::select! {
            () = shutdown.stopping() => return,
            () = context.leadership.lost() => {}
            () = announced::follow(&context) => {}
            () = write(&context) => {}
        }
        // The next one hears it anew.
        context.world().announced = None;
    }
}

/// What the looks remember.
#[derive(Default)]
struct Memory {
    pace: Pace<Subject>,
    silences: Silences,
    /// What conditions of Services do not say yet.
    lasting: Lasting<(ServiceKey, Type), Wanted>,
    /// How often ipam-service was reached, at the last look.
    reached: u64,
    /// What ipam-service does not take of what is declared is known.
    heard: bool,
    /// The verdict on the policy objects, and how often they had changed by then.
    configuration: Option<(u64, Arc<Configuration>)>,
    owner: Option<serde_json::Value>,
    /// The last failure that was logged.
    told: Option<String>,
}

/// When to look.
struct Looks {
    last: Instant,
    next: Instant,
}

impl Looks {
    /// Something changed: soon, but not all the time.
    fn hint(&mut self) {
        self.next = self.next.min(self.last + PAUSE);
    }
}

async fn write(context: &Context) {
    let mut memory = Memory {
        owner: writer::owner(context).await,
        ..Memory::default()
    };
    let mut todo = BTreeMap::new();
    let now = Instant::now();
    let mut looks = Looks {
        last: now,
        next: now,
    };
    // Nothing is written before.
    let mut rested = now;
    loop {
        let now = Instant::now();
        if now >= looks.next {
            let (jobs, next) = look(context, &mut memory, now);
            todo = jobs;
            looks.last = now;
            looks.next = next.unwrap_or(now + TICK).min(now + TICK);
        }
        let next = match rested > now {
            true => Next::At(rested.into_std()),
            false => memory.pace.next(now.into_std()),
        };
        let wake = match next {
            Next::Write(subject) => {
                let Some(job) = todo.remove(&subject) else {
                    continue;
                };
                let more = job.writes().saturating_sub(1);
                memory.pace.also(more, now.into_std());
                let outcome = perform(context, job, memory.owner.as_ref(), &mut looks).await;
                let now = Instant::now();
                match outcome {
                    Ok(()) => {
                        memory.pace.arrived(&subject);
                        memory.told = None;
                    }
                    Err(error) => {
                        looks.next = looks.next.min(now + RETRY);
                        if !is_refused(&mut memory, &subject, &error, now) {
                            rested = now + RETRY;
                        }
                    }
                }
                continue;
            }
            Next::At(at) => looks.next.min(at.into()),
            Next::Idle => looks.next,
        };
        tokio::select! {
            () = context.status.notified() => looks.hint(),
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Writes, and listens: however long it takes, what is written next is what is true then.
async fn perform(
    context: &Context,
    job: Job,
    owner: Option<&serde_json::Value>,
    looks: &mut Looks,
) -> Result<(), GuardedError> {
    let mut writing = pin!(writer::write(context, job, owner));
    loop {
        tokio::select! {
            outcome = &mut writing => return outcome,
            () = context.status.notified() => looks.hint(),
        }
    }
}

/// Whether a write failed for what it says, and not because nothing can be written now. Says so in the log,
/// once for each row of failures.
fn is_refused(memory: &mut Memory, subject: &Subject, error: &GuardedError, now: Instant) -> bool {
    if writer::is_refusal(error) {
        if memory.pace.refused(subject, now.into_std()) == 1 {
            tracing::warn!(?subject, %error, "refused, to be tried again now and then");
        }
        return true;
    }
    let told = Some(error.to_string());
    if memory.told != told {
        tracing::warn!(%error, "nothing that only tells is written, to be tried again");
        memory.told = told;
    }
    false
}

/// What is to be written now, and when to look again without a hint.
fn look(
    context: &Context,
    memory: &mut Memory,
    now: Instant,
) -> (BTreeMap<Subject, Job>, Option<Instant>) {
    let now = now.into_std();
    let reached = context.reached();
    if std::mem::replace(&mut memory.reached, reached) != reached {
        memory.silences.reached(now);
        memory.lasting.forget();
    }
    let world = context.world();
    // Then everything was handed over once.
    memory.heard |= reached > 0 || matches!(world.link, Link::Up | Link::Blocked(_));
    let changed = context.policy_changes();
    let configuration = judged(&world, &mut memory.configuration, changed);
    memory.silences.note(silent(&world), now);
    memory.lasting.note(why::differing(&world), now);
    let desired = desired(Sources {
        world: &world,
        configuration: configuration.as_deref(),
        heard: memory.heard,
        silences: &memory.silences,
        now,
    });
    let mut jobs = objects(&world, &desired);
    jobs.extend(conditions(&world, &memory.lasting, now));
    drop(world);
    memory.pace.ask(jobs.keys());
    let next = [
        memory.silences.next(now),
        memory.lasting.next(why::patience, now),
    ];
    (jobs, next.into_iter().flatten().min().map(Into::into))
}

/// What has to be written for objects to say what they should.
fn objects(world: &World, desired: &desired::Desired) -> BTreeMap<Subject, Job> {
    let ours = |key: &ServiceKey| {
        let service = world.index.service(key);
        service.is_some_and(|service| is_ours(service, &world.settings).is_ok())
    };
    let changes = diff(desired, world.index.statuses(), ours).into_iter();
    // Until they were listed, all there is may be there already.
    let possible = changes.filter(|(topic, _)| {
        let kind = Kind::Statuses(topic.kind());
        world.index.has(kind) && !world.absent.contains(&kind)
    });
    possible
        .map(|(topic, changes)| (Subject::Object(topic.clone()), Job::Objects(topic, changes)))
        .collect()
}

/// The same of conditions of Services, as far as it has lasted.
fn conditions(
    world: &World,
    lasting: &Lasting<(ServiceKey, Type), Wanted>,
    now: std::time::Instant,
) -> BTreeMap<Subject, Job> {
    let mut by_service: BTreeMap<&ServiceKey, Vec<(Type, Wanted)>> = BTreeMap::new();
    for ((key, of), wanted) in lasting.due(why::patience, now) {
        by_service
            .entry(key)
            .or_default()
            .push((*of, wanted.clone()));
    }
    by_service
        .into_iter()
        .filter_map(|(key, wanted)| {
            let service = Arc::clone(world.index.service(key)?);
            let subject = Subject::Service(key.clone());
            Some((subject, Job::Conditions(service, wanted)))
        })
        .collect()
}

/// The verdict on what is declared; none, while that is not known.
fn judged(
    world: &World,
    last: &mut Option<(u64, Arc<Configuration>)>,
    changed: u64,
) -> Option<Arc<Configuration>> {
    if !world.can_judge() {
        return None;
    }
    if let Some((_, configuration)) = last.as_ref().filter(|(then, _)| *then == changed) {
        return Some(Arc::clone(configuration));
    }
    let configuration = policy::examine(&world.index.objects(), &world.settings);
    let configuration = Arc::new(configuration);
    *last = Some((changed, Arc::clone(&configuration)));
    Some(configuration)
}

/// Services that have an address that nobody answers for, as far as is known.
fn silent(world: &World) -> BTreeSet<ServiceKey> {
    let Some(picture) = &world.announced else {
        return BTreeSet::new();
    };
    served(world)
        .filter(|service| {
            let space = address_space(service, &world.settings);
            picture.answerer(space, service).is_none()
        })
        .map(|service| service.key.clone())
        .collect()
}

#[cfg(test)]
mod tests;
