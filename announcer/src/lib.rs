//! The announcer: runs on each node, and answers ARP and neighbour
//! solicitations for the addresses that the node owns.
//!
//! ```text
//!  ipam-service --stream--> assignments --> book --> cache (disk)
//!                                            |
//!  kernel --netlink--> links ----------> [ engine: plan, election, handover ] <--UDP--> other nodes
//!                                            |            members (SWIM)
//!                                        responder (thread) <--AF_PACKET--> the segment
//! ```
//!
//! A request is answered: [`l2::socket`] -> [`l2::table`] ([`l2::reply`]) -> socket. An address is announced:
//! [`assignments`] -> [`book`] -> [`plan`] -> [`talk`]: [`ownership`] ([`election`],
//! [`handover`]) -> [`engine`] -> [`l2::responder`].
//!
//! Losing ipam-service withdraws nothing. This program never talks to Kubernetes.

pub mod assignments;
pub mod bind;
pub mod book;
pub mod cache;
pub mod clock;
pub mod config;
pub mod dial;
pub mod election;
pub mod endpoint;
pub mod engine;
pub mod fenced;
pub mod handover;
pub mod heap;
pub mod l2;
pub mod lease;
pub mod links;
pub mod members;
pub mod metrics;
pub mod names;
pub mod ownership;
pub mod plan;
pub mod progress;
#[cfg(test)]
mod simulation;
pub mod stamped;
pub mod status;
pub mod talk;
pub mod untried;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use pharos_process::{Health, Readiness, Shutdown, serve_admin};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use assignments::{Complaints, Follower, SharedBook};
use bind::Binder;
use book::{Book, Difference};
use cache::{Cache, Identity};
use config::{Args, Config};
use endpoint::Advertised;
use engine::{Command, EngineThread, FenceOutlets};
use l2::responder::Responder;
use lease::Renewer;
use links::Network;
use links::rules::InterfaceRules;
use members::Peer;
use metrics::Metrics;
use names::Names;

/// How long a stop may take for handing everything over.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// How often something that cannot be had yet is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often names of members to join are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// Changes within so long are written to the disk together.
const WRITE_PAUSE: Duration = Duration::from_millis(100);
/// The same when something was taken away: ipam-service waits for the acknowledgement, which waits
/// for the disk. Long enough for what one call takes away to arrive.
const LOSS_PAUSE: Duration = Duration::from_millis(5);
/// After which time a failed write is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Runs until it is stopped; then hands over what it owns.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = Config::from_args(args)?;
    if !config.seal.has_keys() {
        tracing::warn!("no --members-key-file: announcers talk to each other in the clear");
    }
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::default();
    readiness.not_ready("assignments", "none yet");
    readiness.not_ready("interfaces", "not known yet");

    let cache = open_cache(&config)?;
    let kept = load(&cache);
    let (responder, responder_thread, conflicts) =
        l2::responder::start(&metrics).context("cannot start the thread that answers")?;
    let advertised = Advertised::new(
        config.members_advertise,
        config.members_listen,
        &config.ipam,
        &config.interfaces,
    );
    let member_endpoint = advertised.told();
    let parts = (responder.clone(), metrics.clone(), readiness.clone());
    let (standing, standing_seen) = watch::channel(None);
    let (released, released_seen) = watch::channel(BTreeSet::new());
    let fence = FenceOutlets { standing, released };
    let mut engine = start_engine(&config, *member_endpoint.borrow(), parts, fence)?;
    let commands = engine
        .commands()
        .context("the engine has just been started")?;

    let (synced, is_synced) = watch::channel(false);
    let (book, waits) = begin(&config.cluster, kept, &commands, &readiness, &synced).await?;
    let (network, network_seen) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(links::follow(network));
    let rules = config.interfaces;
    tasks.spawn(pass_network(
        network_seen,
        rules,
        advertised,
        commands.clone(),
    ));
    let names = Names::open(&config.state_dir);
    tasks.spawn(pass_joins(
        config.members_join,
        names.clone(),
        commands.clone(),
    ));
    if waits {
        tasks.spawn(act_after_boot(
            config.announce_after_boot,
            is_synced,
            commands.clone(),
            readiness.clone(),
        ));
    }
    let mut writer = tokio::spawn(write_cache(cache, book.clone(), shutdown.clone()));
    let health = Health {
        registry,
        readiness: readiness.clone(),
    };
    tasks.spawn(admin(config.admin, health, shutdown.clone()));
    let stop_lease = CancellationToken::new();
    let renewer = Renewer {
        servers: config.ipam.clone(),
        names: names.clone(),
        book: book.clone(),
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        standing: standing_seen,
        engine: commands.clone(),
        responder,
        metrics: metrics.clone(),
        stop: stop_lease.clone(),
    };
    let mut lease = tokio::spawn(renewer.run());
    let follower = Follower {
        servers: config.ipam,
        names,
        cluster: config.cluster,
        node: config.node,
        labels: config.labels,
        member_endpoint,
        book,
        engine: commands.clone(),
        metrics,
        readiness,
        synced,
        status: engine.status(),
        applied: engine.applied(),
        conflicts,
        told_conflicts: BTreeMap::new(),
        released: released_seen,
        marks: 0,
        complaints: Complaints::default(),
    };
    tasks.spawn(follower.run());

    tokio::select! {
        // First: what ends because the process stops has not failed.
        biased;
        () = shutdown.stopping() => {
            hand_over(&commands).await;
            stop_lease.cancel();
            finish([("the lease", lease), ("the disk cache", writer)]).await;
            tasks.abort_all();
            tracing::info!("stopped");
            Ok(())
        }
        error = first_failure(&mut tasks) => Err(error),
        ended = &mut lease => Err(anyhow::anyhow!("the lease ended unexpectedly: {ended:?}")),
        ended = &mut writer => Err(anyhow::anyhow!("the disk cache ended unexpectedly: {ended:?}")),
        () = engine.ended() => Err(anyhow::anyhow!("the engine ended unexpectedly")),
        () = responder_thread.ended() => Err(anyhow::anyhow!("the thread that answers ended unexpectedly")),
    }
}

fn start_engine(
    config: &Config,
    advertised: SocketAddr,
    (responder, metrics, readiness): (Responder, Metrics, Readiness),
    fence: FenceOutlets,
) -> anyhow::Result<EngineThread> {
    let interface = config.bind_addresses.as_deref();
    let binder = interface.map(|interface| Binder::open(interface, readiness.clone()));
    let binder = binder.transpose()?;
    engine::start(engine::Settings {
        me: Peer {
            node: config.node.as_str().into(),
            endpoint: advertised,
            epoch: clock::unix_millis(),
        },
        listen: config.members_listen,
        seal: config.seal.clone(),
        hold_down: config.hold_down,
        metrics,
        readiness,
        responder,
        binder,
        fence,
    })
    .context("cannot start the engine")
}

/// Hands over, within a limit.
async fn hand_over(commands: &mpsc::Sender<Command>) {
    let (done, drained) = oneshot::channel();
    let hand_over = async {
        if commands.send(Command::Drain(done)).await.is_ok() {
            // An error means that the engine ended: nothing is left to hand over.
            let _ = drained.await;
        }
    };
    if tokio::time::timeout(DRAIN_LIMIT, hand_over).await.is_err() {
        tracing::warn!("not everything could be handed over in time");
    }
}

/// Lets those end by themselves that have something to finish.
async fn finish(tasks: [(&str, JoinHandle<anyhow::Result<()>>); 2]) {
    let end = clock::now() + RETRY;
    for (what, task) in tasks {
        if tokio::time::timeout_at(end.into(), task).await.is_err() {
            tracing::warn!("{what} could not be finished in time");
        }
    }
}

/// Tasks that end well are done with their work; one that fails is the end of the process.
async fn first_failure(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return error.into(),
        }
    }
    anyhow::anyhow!("every task has ended")
}

/// A directory that cannot be made is a mistake in a flag. One that cannot be written to (later) is
/// not: the announcer works, but does not survive a restart alone.
fn open_cache(config: &Config) -> anyhow::Result<Cache> {
    let identity = Identity {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        boot_id: cache::boot_id(),
    };
    Cache::open(&config.state_dir, identity).map_err(|error| {
        let directory = config.state_dir.display();
        let reason = format!("--state-dir {directory}: cannot create it: {error}");
        pharos_process::UsageError(reason).into()
    })
}

fn load(cache: &Cache) -> Option<cache::Kept> {
    match cache.load() {
        Ok(kept) => kept,
        Err(error) => {
            let path = cache.path();
            tracing::warn!(path = %path.display(), %error, "ignoring the assignments on the disk");
            None
        }
    }
}

/// Tells the engine what the disk has, and whether it may only be acted on later.
async fn begin(
    cluster: &str,
    kept: Option<cache::Kept>,
    commands: &mpsc::Sender<Command>,
    readiness: &Readiness,
    synced: &watch::Sender<bool>,
) -> anyhow::Result<(SharedBook, bool)> {
    let Some(kept) = kept else {
        return Ok((SharedBook::new(Book::new(cluster)), false));
    };
    let book = Book::restore(cluster, kept.contents);
    tracing::info!(
        addresses = book.len(),
        same_boot = kept.same_boot,
        "starting with the assignments on the disk"
    );
    let assigned = book.assigned();
    // What is on the disk was announced by somebody before, or might have been: it is answered at once, and
    // that it is answered is told to ipam-service where it does not know.
    let tried = assigned.iter().map(|one| one.key.address).collect();
    commands.send(Command::Tried(tried)).await?;
    let difference = Difference {
        upserts: assigned,
        members: Some(book.members().to_vec()),
        bgp_peers: Some(book.bgp_peers()),
        ..Difference::default()
    };
    let mark = 0;
    let command = Command::Assignments { difference, mark };
    commands.send(command).await?;
    if kept.same_boot {
        commands.send(Command::Ready).await?;
        synced.send_replace(true);
        if !book.is_empty() {
            readiness.ready("assignments");
        }
    } else {
        let reason = "kept from before a reboot: waiting for ipam-service to confirm them";
        readiness.not_ready("assignments", reason);
    }
    let waits = !kept.same_boot && !book.is_empty();
    Ok((SharedBook::new(book), waits))
}

/// Assignments kept before a reboot are acted on when the stream confirmed them, or after a while
/// without it: until then this host may not forward what it would attract.
async fn act_after_boot(
    wait: Duration,
    mut synced: watch::Receiver<bool>,
    commands: mpsc::Sender<Command>,
    readiness: Readiness,
) -> anyhow::Result<()> {
    let confirmed = async { synced.wait_for(|synced| *synced).await.is_ok() };
    if tokio::time::timeout(wait, confirmed).await.is_err() {
        tracing::warn!("ipam-service is away: acting on what was assigned before the reboot");
        // No time to wait for says that nothing on this host needs any.
        let command = if wait.is_zero() {
            Command::Ready
        } else {
            Command::ReadyAfterBoot
        };
        commands.send(command).await?;
        readiness.ready("assignments");
    }
    Ok(())
}

/// Tells the engine which interfaces can answer, and where others reach this node.
async fn pass_network(
    mut network: watch::Receiver<Option<Network>>,
    rules: InterfaceRules,
    advertised: Advertised,
    commands: mpsc::Sender<Command>,
) -> anyhow::Result<()> {
    let mut told = None;
    let mut addresses = None;
    loop {
        let current = network.borrow_and_update().clone();
        if let Some(current) = current {
            let uplinks = rules.usable(&current.links);
            if told.as_ref() != Some(&uplinks) {
                told = Some(uplinks.clone());
                commands.send(Command::Uplinks(uplinks)).await?;
            }
            if addresses.replace(current.addresses_changed) != Some(current.addresses_changed) {
                commands.send(Command::AddressesChanged).await?;
                if let Some(endpoint) = advertised.look_again() {
                    commands.send(Command::Endpoint(endpoint)).await?;
                }
            }
        }
        network.changed().await?;
    }
}

/// Looks up the members to join, again and again: their names may get other addresses.
async fn pass_joins(
    joins: Vec<(String, u16)>,
    names: Names,
    commands: mpsc::Sender<Command>,
) -> anyhow::Result<()> {
    let mut told = Vec::new();
    while !joins.is_empty() {
        let mut found = Vec::new();
        for (host, port) in &joins {
            match names.resolve(host).await {
                Ok(addresses) => {
                    let sockets = addresses.into_iter().map(|ip| SocketAddr::new(ip, *port));
                    found.extend(sockets);
                }
                Err(error) => tracing::debug!(%error, "cannot look up a member to join"),
            }
        }
        found.sort();
        found.dedup();
        if found != told {
            commands.send(Command::Joins(found.clone())).await?;
            told = found;
        }
        tokio::time::sleep(LOOKUP_INTERVAL).await;
    }
    Ok(())
}

/// Keeps the disk in step with the book. A disk that fails costs a restart without ipam-service, and
/// the acknowledgements of what was taken away: the file still has it.
async fn write_cache(cache: Cache, book: SharedBook, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut changes = book.changes();
    let mut losses = book.losses();
    let mut failed = false;
    let mut took = Duration::ZERO;
    loop {
        tokio::select! {
            // A change that is there is written, also when the process is about to stop.
            biased;
            changed = changes.changed() => changed?,
            () = tokio::time::sleep(WRITE_AGAIN), if failed => {}
            () = shutdown.stopping() => return Ok(()),
        }
        tokio::select! {
            () = tokio::time::sleep(WRITE_PAUSE) => {}
            () = gathered(&mut losses, took) => {}
            () = shutdown.stopping() => {}
        }
        changes.mark_unchanged();
        losses.mark_unchanged();
        let (contents, change) = book.snapshot();
        let writer = cache.clone();
        let began = clock::now();
        let written = tokio::task::spawn_blocking(move || writer.save(contents)).await?;
        took = clock::now().saturating_duration_since(began);
        let path = cache.path();
        match written {
            // A full disk stays full for long: it is told once.
            Err(error) if !failed => {
                failed = true;
                tracing::error!(
                    path = %path.display(),
                    %error,
                    "cannot keep the assignments on the disk: a restart without ipam-service would \
                     announce older ones"
                );
            }
            Err(_) => {}
            Ok(()) => {
                book.set_saved(change);
                heap::give_back();
                if std::mem::take(&mut failed) {
                    tracing::info!(path = %path.display(), "the assignments are on the disk again");
                }
            }
        }
        // A restart would announce nothing. That the file cannot be seen says nothing of what is in it.
        if failed && matches!(path.try_exists(), Ok(false)) {
            book.set_saved(change);
        }
    }
}

/// Waits for something to be taken away, and then for what comes with it; for no less than the last
/// write `took`, so that half of the disk's time is left to others.
async fn gathered(losses: &mut watch::Receiver<u64>, took: Duration) {
    if losses.changed().await.is_ok() {
        tokio::time::sleep(took.max(LOSS_PAUSE)).await;
    } else {
        std::future::pending().await
    }
}

/// Serves the admin listener. A busy port is tried again for ever: it stops no announcement.
async fn admin(address: SocketAddr, health: Health, shutdown: Shutdown) -> anyhow::Result<()> {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot open the admin listener, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    serve_admin(listener, health, axum::Router::new(), shutdown).await?;
    Ok(())
}
