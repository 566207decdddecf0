//! Writes the objects that only tell: which node answers for a Service, how nodes stand with routers, and what
//! is wrong with the configuration. Only the replica that holds the lease does.
//!
//! [`announced`] brings in who answers for what; [`desired`] says what follows, [`diff`] what has to be
//! written, and [`pace`] when; [`writer`] writes it.

pub mod announced;
pub mod desired;
pub mod diff;
pub mod object;
pub mod pace;
pub mod picture;
pub mod silence;
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
use desired::{Sources, desired, served};
use diff::{Change, diff};
use object::Topic;
use pace::{Next, Pace};
use silence::Silences;

/// At most one look in this time, whatever changes.
const PAUSE: Duration = Duration::from_millis(100);
/// At least one look in this time.
const TICK: Duration = Duration::from_secs(30);
/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(2);

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
    pace: Pace<Topic>,
    silences: Silences,
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
            Next::Write(topic) => {
                let Some(changes) = todo.remove(&topic) else {
                    continue;
                };
                let writes: u32 = changes.iter().map(Change::writes).sum();
                memory.pace.also(writes.saturating_sub(1), now.into_std());
                let outcome =
                    perform(context, &topic, changes, memory.owner.as_ref(), &mut looks).await;
                let now = Instant::now();
                match outcome {
                    Ok(()) => {
                        memory.pace.arrived(&topic);
                        memory.told = None;
                    }
                    Err(error) => {
                        looks.next = looks.next.min(now + RETRY);
                        if !is_refused(&mut memory, &topic, &error, now) {
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
    topic: &Topic,
    changes: Vec<Change>,
    owner: Option<&serde_json::Value>,
    looks: &mut Looks,
) -> Result<(), GuardedError> {
    let mut writing = pin!(writer::write(context, topic, changes, owner));
    loop {
        tokio::select! {
            outcome = &mut writing => return outcome,
            () = context.status.notified() => looks.hint(),
        }
    }
}

/// Whether a write failed for what it says, and not because nothing can be written now. Says so in the log,
/// once for each row of failures.
fn is_refused(memory: &mut Memory, topic: &Topic, error: &GuardedError, now: Instant) -> bool {
    if writer::is_refusal(error) {
        if memory.pace.refused(topic, now.into_std()) == 1 {
            tracing::warn!(?topic, %error, "refused, to be tried again now and then");
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
) -> (BTreeMap<Topic, Vec<Change>>, Option<Instant>) {
    let now = now.into_std();
    let reached = context.reached();
    if std::mem::replace(&mut memory.reached, reached) != reached {
        memory.silences.reached(now);
    }
    let world = context.world();
    // Then everything was handed over once.
    memory.heard |= reached > 0 || matches!(world.link, Link::Up | Link::Blocked(_));
    let changed = context.policy_changes();
    let configuration = judged(&world, &mut memory.configuration, changed);
    memory.silences.note(silent(&world), now);
    let desired = desired(Sources {
        world: &world,
        configuration: configuration.as_deref(),
        heard: memory.heard,
        silences: &memory.silences,
        now,
    });
    let ours = |key: &ServiceKey| {
        let service = world.index.service(key);
        service.is_some_and(|service| is_ours(service, &world.settings).is_ok())
    };
    let seen = world.index.statuses();
    let absent = &world.absent;
    let changes: BTreeMap<Topic, Vec<Change>> = diff(&desired, seen, ours)
        .into_iter()
        // Until they were listed, all there is may be there already.
        .filter(|(topic, _)| {
            let kind = Kind::Statuses(topic.kind());
            world.index.has(kind) && !absent.contains(&kind)
        })
        .collect();
    drop(world);
    memory.pace.ask(changes.keys());
    (changes, memory.silences.next(now).map(Into::into))
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
