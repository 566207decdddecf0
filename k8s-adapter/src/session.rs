//! The conversation with ipam-service, from a connection to its end, over and over.
//!
//! 1. Whether ipam-service can do what is needed; `BeginSync`; a snapshot of what this cluster holds.
//! 2. The pools and advertisements, as the custom resources have them.
//! 3. A claim for each Service that has an address, before anybody else gets one; `EndSync`.
//! 4. Everybody else, and whatever changes on either side, until the connection is lost.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use pharos_process::Shutdown;
use pharos_proto::v1;
use pharos_proto::v1::watch_allocations_response::Type;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::ask::{adopt, ask};
use crate::book::{Answer, Book, is_adapters};
use crate::client::CallError;
use crate::context::Context;
use crate::plan::Link;
use crate::service::ServiceKey;
use crate::sets::{Patience, Standing, hand_over};
use crate::world::{Holder, World};

/// First and longest wait before the next attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A break shorter than this is told to nobody.
const GRACE: Duration = Duration::from_secs(2);
/// Longest time for the snapshot. A million allocations take some seconds.
const SNAPSHOT: Duration = Duration::from_secs(60);
/// The stream carries a bookmark every 10 s; after two and a half of these it is dead.
const SILENCE: Duration = Duration::from_secs(25);
/// How often what is declared is handed over again, and what was refused is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How often the inventory is ended again because another replica was faster. Nothing is between
/// beginning and ending it again, so twice is bad luck already.
const INVENTORY_ENDS: usize = 5;
/// Claims under way at once while the inventory is reported. ipam-service commits them in groups.
const CLAIMS_AT_ONCE: usize = 64;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("no snapshot within {} s", SNAPSHOT.as_secs())]
    SlowSnapshot,
    #[error("ipam-service began with one store and went on with another")]
    AnotherStore,
    #[error("other replicas ended the inventory {INVENTORY_ENDS} times")]
    NeverComplete,
    #[error("silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the stream of allocations ended")]
    Ended,
}

impl From<Status> for SessionError {
    fn from(status: Status) -> Self {
        Self::Call(CallError::Again(status))
    }
}

/// Talks until the process stops.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    context.readiness.not_ready("ipam", "not connected yet");
    let mut wait = BACKOFF.0;
    let mut lost = Instant::now();
    let mut told = None;
    loop {
        let error = tokio::select! {
            () = shutdown.stopping() => return,
            error = session(&context) => error,
        };
        let was_up = std::mem::replace(&mut context.world().link, Link::Connecting) == Link::Up;
        if was_up {
            wait = BACKOFF.0;
            lost = Instant::now();
            told = None;
        }
        tracing::warn!(%error, "no connection to ipam-service");
        context.metrics.connected.set(0);
        context.readiness.not_ready("ipam", error.to_string());
        if lost.elapsed() >= GRACE {
            tell_everybody(&context, error.to_string(), &mut told);
        }
        tokio::select! {
            () = shutdown.stopping() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// From now on Services that wait are told why. They look at it once for each reason, not at every
/// attempt.
fn tell_everybody(context: &Context, why: String, told: &mut Option<String>) {
    let mut world = context.world();
    world.link = Link::Down(why.clone());
    if told.as_ref() != Some(&why) {
        let everything = world.everything();
        drop(world);
        context.queue.push(everything);
        *told = Some(why);
    }
}

/// One conversation; says why it ended. Dropping it in the middle loses nothing: the next one
/// starts from the beginning.
async fn session(context: &Context) -> SessionError {
    match converse(context).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn converse(context: &Context) -> Result<std::convert::Infallible, SessionError> {
    context.wait_for_lists(World::can_start).await;
    let uid = context.cluster_uid.get();
    let uid = uid.expect("nothing counts as listed before it is known which cluster answers");
    let (store_id, mut stream) = learn(context, uid).await?;
    let mut patience = Patience::default();
    report(context, &mut stream, &mut patience).await?;
    end_inventory(context, uid, &store_id).await?;
    context.world().link = Link::Up;
    let everything = context.world().everything();
    tracing::info!(services = everything.len(), "connected to ipam-service");
    context.metrics.connected.set(1);
    context.readiness.ready("ipam");
    context.queue.push(everything);
    context.usage.notify_one();
    context.connected.notify_one();
    context.unlisted.notify_one();
    follow(context, stream, patience).await
}

/// Announces an inventory, and learns what is held already; gives the store's id, and the stream on which it goes
/// on.
pub async fn learn(
    context: &Context,
    cluster_uid: &str,
) -> Result<(String, Streaming<v1::WatchAllocationsResponse>), SessionError> {
    let store_id = context.ipam.begin_sync(cluster_uid).await?;
    let mut stream = context.ipam.watch().await?;
    let snapshot = tokio::time::timeout(SNAPSHOT, read_snapshot(&mut stream, &store_id));
    let book = snapshot.await.map_err(|_| SessionError::SlowSnapshot)??;
    let mut world = context.world();
    // Whatever was asked has to be asked again: this may be another, younger store.
    world.book = book;
    world.link = Link::Adopting;
    drop(world);
    Ok((store_id, stream))
}

/// Says that the inventory is complete. Replicas that connect at the same time announce it
/// together, and the first of them ends it for all: the others do so once more.
async fn end_inventory(
    context: &Context,
    cluster_uid: &str,
    store_id: &str,
) -> Result<(), SessionError> {
    for _ in 0..INVENTORY_ENDS {
        if context.ipam.end_sync().await? {
            return Ok(());
        }
        if context.ipam.begin_sync(cluster_uid).await? != store_id {
            return Err(SessionError::AnotherStore);
        }
    }
    Err(SessionError::NeverComplete)
}

/// Reads what is held, and what changed while that was read.
async fn read_snapshot(
    stream: &mut Streaming<v1::WatchAllocationsResponse>,
    store_id: &str,
) -> Result<Book, SessionError> {
    let mut book = Book::default();
    while let Some(event) = stream.message().await? {
        if event.r#type() != Type::Synced {
            note(&mut book, &event);
        } else if event.store_id == store_id {
            book.hear(event.revision);
            return Ok(book);
        } else {
            return Err(SessionError::AnotherStore);
        }
    }
    Err(SessionError::Ended)
}

/// Notes an event in the book; says whose allocation it concerns.
fn note(book: &mut Book, event: &v1::WatchAllocationsResponse) -> Option<ServiceKey> {
    let allocation = event.allocation.as_ref()?;
    let (key, answer) = Answer::parse(allocation)
        .inspect_err(|error| tracing::warn!(%error, "allocation ignored"))
        .ok()?;
    // What people made is not this adapter's business, unless they took it from a Service.
    if !is_adapters(allocation) && !book.holds(&key) {
        return None;
    }
    match event.r#type() {
        Type::Allocation => book.changed(key.clone(), answer),
        Type::Released => book.released(&key, event.revision),
        Type::Synced | Type::Bookmark | Type::Unspecified => return None,
    }
    Some(key)
}

/// Reports what the cluster's Services have. What cannot be claimed because ipam-service has other pools
/// than the cluster is not left out: then the inventory goes on until it has them, or others would be given
/// what is in use here.
async fn report(
    context: &Context,
    stream: &mut Streaming<v1::WatchAllocationsResponse>,
    patience: &mut Patience,
) -> Result<(), SessionError> {
    loop {
        let standing = hand_over(context, patience).await?;
        report_holders(context).await?;
        let refused = context.world().book.refused_adoptions();
        let why = match standing {
            Standing::Open(why) if refused > 0 => why,
            Standing::Open(_) | Standing::Settled => return Ok(()),
        };
        tracing::warn!(
            services = refused,
            why,
            "what Services hold cannot be reported yet"
        );
        let words = format!("what Services hold is not reported, as {why} ({refused} Services)");
        context.readiness.not_ready("ipam", words);
        block(
            context,
            format!("what other Services hold is not known yet, as {why}"),
        );
        listen_for_a_change(context, stream, patience).await?;
    }
}

/// Whoever waits for an address is told why, once.
fn block(context: &Context, why: String) {
    let mut world = context.world();
    let blocked = Link::Blocked(why);
    if world.link != blocked {
        world.link = blocked;
        let everything = world.everything();
        drop(world);
        context.queue.push(everything);
    }
}

/// Notes what the stream says until the pools may be others, or for a while.
async fn listen_for_a_change(
    context: &Context,
    stream: &mut Streaming<v1::WatchAllocationsResponse>,
    patience: &Patience,
) -> Result<(), SessionError> {
    let mut heard = Instant::now();
    let again = heard + ASK_AGAIN;
    loop {
        tokio::select! {
            event = stream.message() => {
                heard = Instant::now();
                // Everybody is looked at when the report is complete.
                note(&mut context.world().book, &event?.ok_or(SessionError::Ended)?);
            }
            () = tokio::time::sleep_until(heard + SILENCE) => return Err(SessionError::Silent),
            () = changed(context, patience) => return Ok(()),
            () = tokio::time::sleep_until(again) => return Ok(()),
        }
    }
}

/// Claims what the cluster's Services have.
pub async fn report_holders(context: &Context) -> Result<(), SessionError> {
    let holders = context.world().holders();
    futures::stream::iter(holders)
        .map(Ok)
        .try_for_each_concurrent(CLAIMS_AT_ONCE, |holder| async move {
            let Holder {
                claim,
                held,
                unknown,
            } = holder;
            if unknown {
                adopt(context, &claim, &held).await
            } else {
                ask(context, &claim, &held).await
            }
        })
        .await?;
    Ok(())
}

async fn follow(
    context: &Context,
    mut stream: Streaming<v1::WatchAllocationsResponse>,
    mut patience: Patience,
) -> Result<std::convert::Infallible, SessionError> {
    let mut again = tokio::time::interval_at(Instant::now() + ASK_AGAIN, ASK_AGAIN);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            event = stream.message() => {
                heard = Instant::now();
                take(context, &event?.ok_or(SessionError::Ended)?);
            }
            () = tokio::time::sleep_until(heard + SILENCE) => return Err(SessionError::Silent),
            () = changed(context, &patience) => {
                hand_over(context, &mut patience).await?;
                // The wait was not the stream's.
                heard = Instant::now();
            }
            // People may have changed or deleted what this cluster declared.
            _ = again.tick() => {
                hand_over(context, &mut patience).await?;
                context.ask_refused_again();
                heard = Instant::now();
            }
        }
    }
}

/// Waits until pools or advertisements are to be handed over. Cancel safe.
async fn changed(context: &Context, patience: &Patience) {
    tokio::select! {
        () = context.policy.notified() => {}
        () = patience.ends() => {}
    }
}

fn take(context: &Context, event: &v1::WatchAllocationsResponse) {
    let key = note(&mut context.world().book, event);
    if let Some(key) = key {
        context.queue.push([key]);
        context.usage.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Type, revision: u64, reported: bool) -> v1::WatchAllocationsResponse {
        let backends = if reported {
            v1::claim::Backends::Reported
        } else {
            v1::claim::Backends::Unmanaged
        };
        v1::WatchAllocationsResponse {
            r#type: kind.into(),
            revision,
            allocation: Some(v1::Allocation {
                owner: Some(v1::Owner {
                    namespace: "default".to_owned(),
                    name: "web".to_owned(),
                    ..v1::Owner::default()
                }),
                state: v1::allocation::State::Assigned.into(),
                revision,
                claim: Some(v1::Claim {
                    backends: backends.into(),
                    ..v1::Claim::default()
                }),
                ..v1::Allocation::default()
            }),
            ..v1::WatchAllocationsResponse::default()
        }
    }

    #[test]
    fn what_was_released_while_the_snapshot_was_read_is_not_held() {
        let mut book = Book::default();
        for event in [
            event(Type::Allocation, 3, true),
            event(Type::Released, 9, true),
        ] {
            assert!(note(&mut book, &event).is_some());
        }
        assert_eq!(book.holders().count(), 0);
    }

    #[test]
    fn what_people_made_is_noted_only_if_they_took_it_from_a_service() {
        let mut book = Book::default();
        let by_hand = |revision| event(Type::Allocation, revision, false);
        assert_eq!(note(&mut book, &by_hand(2)), None);
        note(&mut book, &event(Type::Allocation, 3, true));
        let key = ServiceKey::new("default", "web");
        assert_eq!(note(&mut book, &by_hand(4)), Some(key));
    }
}
