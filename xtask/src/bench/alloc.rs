//! Durable unary allocations over gRPC, and what the same server and clients reach with a call that
//! does nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::{AllocateRequest, ApplyPoolRequest, Owner, Pool, Port, port};
use pharos_testbed::{Launch, Program, free_port, wait};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{quantile, report, report_ratio};
use crate::cargo::root;

const CLIENTS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(8);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What 64 clients met in one measurement.
struct Load {
    calls: usize,
    failed: usize,
    /// Sorted.
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// CPU time of the server.
    server: Duration,
    /// The first error, in words.
    error: Option<String>,
}

impl Load {
    fn rate(&self) -> f64 {
        count(self.calls) / self.elapsed.as_secs_f64()
    }

    fn server_microseconds(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / count(self.calls.max(1))
    }

    fn milliseconds(&self, part: f64) -> f64 {
        quantile(&self.latencies, part).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

fn count(value: usize) -> f64 {
    value as f64
}

pub(super) fn run() -> anyhow::Result<()> {
    // On the disk of the repository: a temporary folder may be memory, where fsync costs nothing.
    let directory = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(root().join("target"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let service = start(address, directory.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (nothing, durable) = runtime.block_on(async {
        let channels = connect(address).await?;
        create_pool(channels[0].clone()).await?;
        let nothing = measure(&service, &channels, Call::Health).await?;
        let durable = measure(&service, &channels, Call::Allocate).await?;
        anyhow::Ok((nothing, durable))
    })?;
    report("health.rate", nothing.rate(), "calls/s");
    report(
        "health.server_cpu",
        nothing.server_microseconds(),
        "us/call",
    );
    report_ratio(
        "alloc.rate",
        durable.rate(),
        "allocations/s",
        "health.rate",
        nothing.rate(),
    );
    report("alloc.p50", durable.milliseconds(0.50), "ms");
    report("alloc.p99", durable.milliseconds(0.99), "ms");
    report("alloc.failed", count(durable.failed), "calls");
    report_ratio(
        "alloc.server_cpu",
        durable.server_microseconds(),
        "us/call",
        "health.server_cpu",
        nothing.server_microseconds(),
    );
    if let Some(error) = nothing.error.or(durable.error) {
        anyhow::bail!(
            "{} calls failed, first: {error}",
            durable.failed + nothing.failed
        );
    }
    Ok(())
}

fn start(address: SocketAddr, directory: &std::path::Path) -> anyhow::Result<Program> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let database = format!("sqlite:{}", directory.join("pharos.db").display());
    let mut service = Launch::workspace("ipam-service")?
        .args([
            "--listen",
            &address.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .args(["--database", &database])
        .env("RUST_LOG", "warn")
        .start()?;
    service.wait_ready(None, admin, TIMEOUT)?;
    Ok(service)
}

/// A connection per client, as separate programs would have.
async fn connect(address: SocketAddr) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .timeout(TIMEOUT)
            .tcp_nodelay(true);
        channels.push(endpoint.connect().await.context("connecting")?);
    }
    Ok(channels)
}

async fn create_pool(channel: Channel) -> anyhow::Result<()> {
    let pool = Pool {
        name: "bench".to_owned(),
        addresses: vec!["10.0.0.0/8".to_owned()],
        ..Pool::default()
    };
    let request = ApplyPoolRequest {
        pool: Some(pool),
        ..ApplyPoolRequest::default()
    };
    PoolServiceClient::new(channel).apply_pool(request).await?;
    Ok(())
}

/// What the clients call.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// `Health/Check`: all that gRPC costs, and nothing else.
    Health,
    /// `Allocate` for an owner that has nothing yet.
    Allocate,
}

impl Call {
    async fn once(
        self,
        channel: Channel,
        client: usize,
        number: usize,
    ) -> Result<(), tonic::Status> {
        match self {
            Self::Health => {
                let request = HealthCheckRequest::default();
                HealthClient::new(channel).check(request).await?;
            }
            Self::Allocate => {
                let request = AllocateRequest {
                    owner: Some(Owner {
                        cluster: "bench".to_owned(),
                        namespace: format!("client-{client}"),
                        name: format!("service-{number}"),
                        uid: String::new(),
                    }),
                    ports: vec![Port {
                        protocol: port::Protocol::Tcp.into(),
                        port: 80,
                    }],
                    ..AllocateRequest::default()
                };
                AllocationServiceClient::new(channel)
                    .allocate(request)
                    .await?;
            }
        }
        Ok(())
    }
}

/// Lets every client call, one call after the other, and counts what happens after the warm-up.
async fn measure(service: &Program, channels: &[Channel], call: Call) -> anyhow::Result<Load> {
    let from = wait::now() + WARM_UP;
    let to = from + MEASURED;
    let mut clients = tokio::task::JoinSet::new();
    for (client, channel) in channels.iter().cloned().enumerate() {
        clients.spawn(one_client(call, channel, client, from, to));
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
async fn one_client(
    call: Call,
    channel: Channel,
    client: usize,
    from: Instant,
    to: Instant,
) -> Client {
    let mut result = Client::default();
    let mut number = 0;
    loop {
        let start = wait::now();
        if start >= to {
            return result;
        }
        let outcome = call.once(channel.clone(), client, number).await;
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
