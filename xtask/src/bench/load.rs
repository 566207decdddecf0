//! What the benchmarks of ipam-service have in common: the server under test, its clients, and what
//! they met.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::{AllocateRequest, ApplyPoolRequest, Owner, Pool, ReleaseRequest};
use pharos_testbed::{Launch, Program, free_port, wait};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{quantile, report, report_ratio};
use crate::cargo::root;

/// Clients of a measurement, each with one call under way.
pub(super) const CLIENTS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
pub(super) const MEASURED: Duration = Duration::from_secs(8);
pub(super) const TIMEOUT: Duration = Duration::from_mins(3);

// === The server ===

/// ipam-service with a database of its own.
pub(super) struct Service {
    pub(super) program: Program,
    pub(super) address: SocketAddr,
    directory: TempDir,
}

impl Service {
    pub(super) fn start() -> anyhow::Result<Self> {
        Self::launch(directory()?).map(|(service, _)| service)
    }

    /// On a copy of a database; gives the time until it was ready, too.
    pub(super) fn start_on(database: &Path) -> anyhow::Result<(Self, Duration)> {
        let directory = directory()?;
        let copy = database_in(&directory);
        std::fs::copy(database, &copy).context("copying the database")?;
        // The disk is not to be busy with the copy while the service writes.
        std::fs::File::open(copy)?.sync_all()?;
        Self::launch(directory)
    }

    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        self.program.terminate(TIMEOUT)?;
        Ok(())
    }

    /// After a stop, on the same database; gives the time until it was ready, too.
    pub(super) fn start_again(self) -> anyhow::Result<(Self, Duration)> {
        Self::launch(self.directory)
    }

    /// One file while the service is stopped.
    pub(super) fn database(&self) -> PathBuf {
        database_in(&self.directory)
    }

    fn launch(directory: TempDir) -> anyhow::Result<(Self, Duration)> {
        let start = wait::now();
        let (program, address) = launch(&directory)?;
        let service = Self {
            program,
            address,
            directory,
        };
        Ok((service, start.elapsed()))
    }

    /// A connection per client, as separate programs would have.
    pub(super) async fn connect(&self, clients: usize) -> anyhow::Result<Vec<Channel>> {
        let mut channels = Vec::with_capacity(clients);
        for _ in 0..clients {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
                .timeout(TIMEOUT)
                .tcp_nodelay(true);
            channels.push(endpoint.connect().await.context("connecting")?);
        }
        Ok(channels)
    }
}

/// On the disk of the repository: a temporary folder may be memory, where fsync costs nothing.
fn directory() -> anyhow::Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(root().join("target"))?;
    Ok(directory)
}

fn database_in(directory: &TempDir) -> PathBuf {
    directory.path().join("pharos.db")
}

fn launch(directory: &TempDir) -> anyhow::Result<(Program, SocketAddr)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let database = format!("sqlite:{}", database_in(directory).display());
    let mut program = Launch::workspace("ipam-service")?
        .args([
            "--listen",
            &address.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .args(["--database", &database])
        .env("RUST_LOG", "warn")
        .start()?;
    program.wait_ready(None, admin, TIMEOUT)?;
    Ok((program, address))
}

// === Calls ===

/// `Health/Check`: all that gRPC costs, and nothing else.
pub(super) async fn health(channel: Channel) -> Result<(), tonic::Status> {
    let request = HealthCheckRequest::default();
    HealthClient::new(channel).check(request).await.map(drop)
}

pub(super) async fn allocate(
    channel: Channel,
    request: AllocateRequest,
) -> Result<(), tonic::Status> {
    let mut client = AllocationServiceClient::new(channel);
    client.allocate(request).await.map(drop)
}

/// Fails unless something was released.
pub(super) async fn release(channel: Channel, owner: Owner) -> Result<(), tonic::Status> {
    let request = ReleaseRequest {
        owner: Some(owner),
        ..ReleaseRequest::default()
    };
    let mut client = AllocationServiceClient::new(channel);
    client.release(request).await.map(drop)
}

pub(super) async fn create_pool(
    channel: Channel,
    name: &str,
    range: &str,
) -> Result<(), tonic::Status> {
    let pool = Pool {
        name: name.to_owned(),
        addresses: vec![range.to_owned()],
        ..Pool::default()
    };
    let request = ApplyPoolRequest {
        pool: Some(pool),
        ..ApplyPoolRequest::default()
    };
    PoolServiceClient::new(channel).apply_pool(request).await?;
    Ok(())
}

pub(super) fn owner(client: usize, number: usize) -> Owner {
    Owner {
        cluster: "bench".to_owned(),
        namespace: format!("client-{client}"),
        name: format!("service-{number}"),
        uid: String::new(),
    }
}

// === Measurements ===

/// What the clients met in one measurement.
pub(super) struct Load {
    pub(super) calls: usize,
    pub(super) failed: usize,
    /// Sorted.
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// CPU time of the server.
    server: Duration,
    /// The first error, in words.
    error: Option<String>,
}

impl Load {
    pub(super) fn rate(&self) -> f64 {
        count(self.calls) / self.elapsed.as_secs_f64()
    }

    pub(super) fn server_microseconds(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / count(self.calls.max(1))
    }

    pub(super) fn milliseconds(&self, part: f64) -> f64 {
        quantile(&self.latencies, part).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }

    /// Two lines, for what others are compared with.
    pub(super) fn report_reference(&self, name: &str) {
        report(&format!("{name}.rate"), self.rate(), "calls/s");
        let microseconds = self.server_microseconds();
        report(&format!("{name}.server_cpu"), microseconds, "us/call");
    }

    /// Five lines; rate and CPU time beside those of `reference`.
    pub(super) fn report(&self, name: &str, reference_name: &str, reference: &Self) {
        report_ratio(
            &format!("{name}.rate"),
            self.rate(),
            "calls/s",
            &format!("{reference_name}.rate"),
            reference.rate(),
        );
        report(&format!("{name}.p50"), self.milliseconds(0.50), "ms");
        report(&format!("{name}.p99"), self.milliseconds(0.99), "ms");
        report(&format!("{name}.failed"), count(self.failed), "calls");
        report_ratio(
            &format!("{name}.server_cpu"),
            self.server_microseconds(),
            "us/call",
            &format!("{reference_name}.server_cpu"),
            reference.server_microseconds(),
        );
    }

    /// An error if any call failed.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match &self.error {
            Some(error) => anyhow::bail!("{} calls failed, first: {error}", self.failed),
            None => Ok(()),
        }
    }
}

pub(super) fn count(value: usize) -> f64 {
    value as f64
}

/// Lets every client call, one call after the other, and counts what happens after the warm-up.
/// `call` is given the client's channel and number, and the number of the call.
pub(super) async fn measure<C, F>(
    service: &Program,
    channels: &[Channel],
    call: C,
) -> anyhow::Result<Load>
where
    C: Fn(Channel, usize, usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), tonic::Status>> + Send + 'static,
{
    let from = wait::now() + WARM_UP;
    let to = from + MEASURED;
    let mut clients = tokio::task::JoinSet::new();
    for (client, channel) in channels.iter().cloned().enumerate() {
        clients.spawn(one_client(call.clone(), channel, client, from, to));
    }
    tokio::time::sleep_until(from.into()).await;
    let cpu_before = service.cpu_time()?;
    tokio::time::sleep_until(to.into()).await;
    let server = service.cpu_time()?.saturating_sub(cpu_before);
    let mut load = Load {
        calls: 0,
        failed: 0,
        latencies: Vec::new(),
        elapsed: MEASURED,
        server,
        error: None,
    };
    while let Some(client) = clients.join_next().await {
        let client = client?;
        load.calls += client.latencies.len();
        load.failed += client.failed;
        load.error = load.error.or(client.error);
        load.latencies.extend(client.latencies);
    }
    load.latencies.sort_unstable();
    Ok(load)
}

#[derive(Debug, Default)]
struct Client {
    latencies: Vec<Duration>,
    failed: usize,
    error: Option<String>,
}

/// Calls until `to`; counts the calls that end between `from` and `to`.
async fn one_client<C, F>(
    call: C,
    channel: Channel,
    client: usize,
    from: Instant,
    to: Instant,
) -> Client
where
    C: Fn(Channel, usize, usize) -> F + Send,
    F: Future<Output = Result<(), tonic::Status>> + Send,
{
    let mut result = Client::default();
    let mut number = 0;
    loop {
        let start = wait::now();
        if start >= to {
            return result;
        }
        let outcome = call(channel.clone(), client, number).await;
        number += 1;
        let end = wait::now();
        match outcome {
            Ok(()) if end >= from && end < to => result.latencies.push(end - start),
            Ok(()) => {}
            Err(status) => {
                result.failed += 1;
                result.error.get_or_insert_with(|| status.to_string());
            }
        }
    }
}

/// Calls made at once on one connection while a database is filled: with 64 connections three
/// quarters of what the server takes in from one client.
const AT_ONCE: usize = 6;

/// Makes `calls` calls as fast as the server takes them; ends with the first error. `call` is given
/// a channel, and the number of the call.
pub(super) async fn fill<C, F>(channels: &[Channel], calls: usize, call: C) -> anyhow::Result<()>
where
    C: Fn(Channel, usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), tonic::Status>> + Send + 'static,
{
    let step = channels.len() * AT_ONCE;
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..step {
        let channel = channels[worker % channels.len()].clone();
        let call = call.clone();
        workers.spawn(async move {
            for number in (worker..calls).step_by(step) {
                call(channel.clone(), number).await?;
            }
            Ok::<(), tonic::Status>(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}
