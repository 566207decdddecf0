//! Durable unary allocations over gRPC, beside what the same server and clients reach with a call
//! that does nothing; and whether they cost more as a pool fills up.

use pharos_proto::v1::{AllocateRequest, Port, port};
use tonic::transport::Channel;

use super::load::{
    CLIENTS, Load, Service, allocate, create_pool, fill, health, measure, owner, release,
};

/// Addresses of the pool that is filled: a /16.
const POOL: usize = 65_536;

/// Owners beyond those that the clients of a measurement use.
const FILLER: usize = 1_000;

pub(super) fn run() -> anyhow::Result<()> {
    let service = Service::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let channels = service.connect(CLIENTS).await?;
        create_pool(channels[0].clone(), "wide", "10.0.0.0/8").await?;
        create_pool(channels[0].clone(), "narrow", "172.16.0.0/16").await?;
        let program = &service.program;
        let nothing = measure(program, &channels, |channel, _, _| health(channel)).await?;
        nothing.report_reference("health");
        nothing.check()?;
        let durable = measure(program, &channels, |channel, client, number| {
            allocate(channel, request("wide", client, number))
        })
        .await?;
        durable.report("alloc", "health", &nothing);
        durable.check()?;
        let empty = turnover(&service, &channels).await?;
        empty.report("alloc.turnover_empty_pool", "health", &nothing);
        empty.check()?;
        // Each client holds one address at most, so the pool is never quite full.
        let held = POOL * 99 / 100 - CLIENTS;
        fill(&channels, held, |channel, number| {
            allocate(channel, request("narrow", FILLER + number % 100, number))
        })
        .await?;
        let full = turnover(&service, &channels).await?;
        full.report(
            "alloc.turnover_99_percent_full",
            "alloc.turnover_empty_pool",
            &empty,
        );
        full.check()
    })
}

/// Every client takes an address of the narrow pool, gives it back, and so on: the pool stays as
/// full as it is.
async fn turnover(service: &Service, channels: &[Channel]) -> anyhow::Result<Load> {
    measure(
        &service.program,
        channels,
        |channel, client, number| async move {
            if number.is_multiple_of(2) {
                allocate(channel, request("narrow", client, usize::MAX)).await
            } else {
                release(channel, owner(client, usize::MAX)).await
            }
        },
    )
    .await
}

fn request(pool: &str, client: usize, number: usize) -> AllocateRequest {
    AllocateRequest {
        owner: Some(owner(client, number)),
        pool: pool.to_owned(),
        ports: vec![Port {
            protocol: port::Protocol::Tcp.into(),
            port: 80,
        }],
        ..AllocateRequest::default()
    }
}
