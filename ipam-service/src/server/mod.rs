//! Wiring: flags -> database -> state -> writer -> services -> listeners, and back down again.

mod files;
mod layers;
mod maintenance;
mod methods;
mod services;
mod watched;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pharos_process::{Health, Readiness, Shutdown, UsageError, serve_admin};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::api::call::Api;
use crate::config::{Command, Config};
use crate::engine::{self, EngineMetrics, Opened, wall_time};
use crate::retention::Retention;
use crate::store::{Beside, Location, OpenError, Store};
use files::DatabaseFiles;
use layers::{AdmitLayer, ObserveLayer};
use methods::Methods;
use watched::Watched;

/// Calls on one connection at once. The default of hyper, which tonic would switch off: without a
/// limit one client can open streams as fast as it can write (CVE-2023-44487).
const MAX_STREAMS: u32 = 200;

/// Streams that a client opened and cancelled before they were accepted, until the connection is
/// closed (the same attack).
const MAX_PENDING_RESETS: usize = 20;

/// Longest header list in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// How long calls may go on after the stop signal. Streams end at once and unary calls are over long
/// before; only a client that does not answer any more takes all of it.
const DRAIN: Duration = Duration::from_secs(5);

/// What to do about a database that is damaged.
const CANNOT_BE_READ: &str = "the database cannot be read; `ipam-service check` says more, and \
    `ipam-service restore --from BACKUP --force` makes a new one out of a backup";

/// Runs ipam-service: serves until `shutdown`, or carries out a subcommand.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    match &config.command {
        None => serve(config, shutdown).await,
        Some(Command::Init { fresh: _, recover }) => {
            maintenance::init(&config.database, recover).await
        }
        Some(Command::Check) => maintenance::check(&config.database).await,
        Some(Command::Backup { to }) => maintenance::backup(&config.database, to).await,
        Some(Command::Export {
            to,
            history,
            passwords,
        }) => {
            let beside = Beside {
                history: *history,
                passwords: *passwords,
            };
            maintenance::export(&config.database, to.as_deref(), beside).await
        }
        Some(Command::Import { from, recover }) => {
            maintenance::import(&config.database, from, recover).await
        }
        Some(Command::Restore {
            from,
            force,
            recover,
        }) => maintenance::restore(&config.database, from, *force, recover).await,
    }
}

async fn serve(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    config.check()?;
    // Both ports first: a start that cannot be must not leave a new, empty database behind.
    let listener = Bound::to("--listen", config.listen)?;
    let admin = Bound::to("--admin", config.admin)?;
    let store = Store::open(&config.database, config.missing(), wall_time())
        .await
        .map_err(usage)?;
    let (listener, admin) = (listener.listen()?, admin.listen()?);
    let mut registry = Registry::default();
    let readiness = Readiness::default();
    let mut metrics = EngineMetrics::register(&mut registry);
    if config.metallb_metrics {
        metrics.add_metallb_names(&mut registry);
    }
    let Location::Sqlite(path) = &config.database;
    registry.register_collector(Box::new(DatabaseFiles::of(path)));
    let started = Started::new(
        store,
        &config,
        &mut registry,
        metrics,
        &readiness,
        &shutdown,
    )
    .await?;
    let methods = Arc::new(Methods::register(&mut registry)?);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %listener.local_addr()?,
        admin = %admin.local_addr()?,
        database = %config.database,
        store_id = %started.api.store_id,
        created = started.created,
        revision = started.revision,
        "serving"
    );
    let health = Health {
        registry,
        readiness: readiness.clone(),
    };
    // The admin listener outlives the drain, so that it can be watched.
    let admin_stop = Shutdown::default();
    let admin = serve_admin(admin, health, Default::default(), admin_stop.clone());
    let mut admin = AbortOnDropHandle::new(tokio::spawn(admin));
    tokio::select! {
        outcome = started.serve(listener, methods, readiness, shutdown) => outcome?,
        ended = &mut admin => {
            ended.context("the admin listener failed")??;
            anyhow::bail!("the admin listener ended");
        }
    }
    admin_stop.stop();
    admin.await.context("the admin listener failed")??;
    Ok(())
}

/// A server whose state is loaded and whose writer runs.
struct Started {
    api: Api,
    created: bool,
    revision: u64,
    writer: AbortOnDropHandle<()>,
    stop_writer: Shutdown,
    checkpoints: AbortOnDropHandle<()>,
    retention: AbortOnDropHandle<()>,
}

impl Started {
    async fn new(
        store: Store,
        config: &Config,
        registry: &mut Registry,
        metrics: EngineMetrics,
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let stop_writer = Shutdown::default();
        let opened = engine::open(store, metrics, readiness.clone(), stop_writer.clone());
        let Opened {
            engine,
            mut task,
            feeds,
            reader,
            checkpointer,
            compactor,
            leases,
            store_id,
            created,
            revision,
            epoch: _,
        } = opened.await.context(CANNOT_BE_READ)?;
        task.limit_pending(config.max_pending);
        let retention = Retention::new(
            config.retention(),
            engine.clone(),
            reader.clone(),
            compactor,
            registry,
            readiness.clone(),
        );
        registry.register_collector(Box::new(Watched {
            feeds: feeds.clone(),
            reader: reader.clone(),
        }));
        let api = Api {
            retention: retention.clone(),
            engine,
            reader,
            feeds,
            leases,
            store_id: Arc::from(store_id),
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            api,
            created,
            revision,
            writer: AbortOnDropHandle::new(tokio::spawn(task.run())),
            stop_writer,
            checkpoints: AbortOnDropHandle::new(tokio::spawn(checkpointer.run())),
            retention: AbortOnDropHandle::new(tokio::spawn(retention.run())),
        })
    }

    /// Serves until the stop signal; ends with an error if anything essential ends before.
    async fn serve(
        self,
        listener: TcpListener,
        methods: Arc<Methods>,
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let Self {
            api,
            mut writer,
            stop_writer,
            mut checkpoints,
            mut retention,
            ..
        } = self;
        let reader = api.reader.clone();
        let (routes, health) = services::routes(api).await?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .layer(ObserveLayer::new(Arc::clone(&methods)))
            .layer(AdmitLayer::new(methods))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, shutdown.stopping_owned());
        let drain = async {
            tokio::select! {
                () = shutdown.stopping() => {}
                () = health.follow(&readiness) => {}
            }
            readiness.not_ready("server", "stopping");
            health.not_serving().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = server => served.context("gRPC listener")?,
            () = drain => tracing::warn!("some clients did not let go in time and are cut off"),
            ended = &mut writer => {
                ended.context("the writer failed")?;
                anyhow::bail!("the writer ended");
            }
            ended = &mut checkpoints => {
                ended.context("the checkpoints failed")?;
                anyhow::bail!("the checkpoints ended");
            }
            ended = &mut retention => {
                ended.context("the retention failed")?;
                anyhow::bail!("the retention ended");
            }
        }
        drop((checkpoints, retention));
        // A read that goes on would keep the writer from emptying the log.
        let closed = tokio::time::timeout(DRAIN, reader.close()).await;
        if closed.is_err() {
            tracing::warn!("some reads did not end; the database keeps its -wal file");
        }
        stop_writer.stop();
        let ended = tokio::time::timeout(DRAIN, writer).await;
        ended
            .context("the writer did not end")?
            .context("the writer failed")?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Connections that wait to be accepted: all announcers of a large installation come back at once
/// when a server starts, and what finds no place is reset or tries again a second later. (The
/// kernel's own bound, `net.core.somaxconn`, is 4096 as well.)
const BACKLOG: u32 = 4096;

/// A port that is ours. Nobody can connect to it before the server [listens](Self::listen).
#[derive(Debug)]
struct Bound {
    flag: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl Bound {
    fn to(flag: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // A server that is started again must not wait for the connections of the one before.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        Ok(Self {
            flag,
            address,
            socket: bind().map_err(|error| cannot_listen(flag, address, &error))?,
        })
    }

    fn listen(self) -> anyhow::Result<TcpListener> {
        let listener = self.socket.listen(BACKLOG);
        listener.map_err(|error| cannot_listen(self.flag, self.address, &error).into())
    }
}

fn cannot_listen(flag: &str, address: SocketAddr, error: &std::io::Error) -> UsageError {
    UsageError(format!("{flag} {address}: cannot listen there: {error}"))
}

/// What a person can put right without reading code is a mistake in how the process was started.
fn usage(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Missing(_)
        | OpenError::Lock(_)
        | OpenError::File { .. }
        | OpenError::NotOurs(_)
        | OpenError::Linked(_)
        | OpenError::LogWithoutDatabase(_)
        | OpenError::RestoreCutShort(_)
        | OpenError::MovedAside { .. }
        | OpenError::Unusable { .. }
        | OpenError::Newer { .. }
        | OpenError::NewerLog { .. } => UsageError(error.to_string()).into(),
        OpenError::Damaged { .. }
        | OpenError::Sql { .. }
        | OpenError::Schema { .. }
        | OpenError::Fill { .. } => anyhow::Error::new(error).context(CANNOT_BE_READ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thousand_connections_at_once_find_a_place_before_any_is_accepted() {
        let bound = Bound::to("--listen", "127.0.0.1:0".parse().expect("valid"));
        let listener = bound.and_then(Bound::listen).expect("free");
        let address = listener.local_addr().expect("bound");
        let mut connections = Vec::new();
        for number in 0..1000 {
            let connect = tokio::net::TcpStream::connect(address);
            let connected = tokio::time::timeout(Duration::from_secs(10), connect).await;
            let connected = connected.unwrap_or_else(|_| panic!("connection {number} waits"));
            connections.push(connected.expect("connected"));
        }
    }
}
