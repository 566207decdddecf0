//! 1,000,000 allocations with two ports and ten labels each: how fast the service starts on them,
//! what memory it takes, what calls cost, and whether a full listing makes writers wait.
//!
//! The rows are made by the service itself, so the benchmark takes minutes.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::{AllocateRequest, ListAllocationsRequest, Owner, Port, port};
use pharos_testbed::wait;
use tonic::transport::Channel;

use super::load::{
    CLIENTS, Load, Service, allocate, count, create_pool, fill, health, measure, owner, release,
};
use super::{Options, report, report_ratio, report_rss};

const ROWS: usize = 1_000_000;

/// Namespaces that the rows lie in.
const NAMESPACES: usize = 1_000;

/// Sets of labels: Services of one application have the same.
const APPLICATIONS: usize = 10_000;

/// Coprime to [`ROWS`]: steps of this length come to each row once, in no order.
const STRIDE: usize = 7_368_787;

/// Calls that a client makes before it begins to give back: what it gives back is not what it has
/// just taken.
const LAG: usize = 40;

/// A mixed load on an empty database; then everything on a full one.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let kept = options.rows.as_deref();
    if let Some(rows) = kept.filter(|rows| rows.exists()) {
        return runtime.block_on(full(Service::start_on(rows)?));
    }
    let mut service = Service::start()?;
    runtime.block_on(empty(&service))?;
    report_rss("million.rss.after_fill", &service.program)?;
    service.stop()?;
    if let Some(rows) = kept {
        std::fs::copy(service.database(), rows).context("keeping the rows")?;
    }
    runtime.block_on(full(service.start_again()?))
}

/// The mixed load, and then the rows.
async fn empty(service: &Service) -> anyhow::Result<()> {
    let channels = service.connect(CLIENTS).await?;
    create_pool(channels[0].clone(), "bench", "10.0.0.0/8").await?;
    let nothing = measure(&service.program, &channels, |channel, _, _| health(channel)).await?;
    nothing.report_reference("health");
    let fresh = mixed(service, &channels, 0).await?;
    fresh.report("mixed", "health", &nothing);
    nothing.check()?;
    fresh.check()?;
    let start = wait::now();
    fill(&channels, ROWS, |channel, number| {
        allocate(channel, request(row(number), number))
    })
    .await?;
    let rate = count(ROWS) / start.elapsed().as_secs_f64();
    report("million.fill", rate, "allocations/s");
    Ok(())
}

/// Everything that is measured on the rows. `started`: the service, and how long it took to start.
async fn full((service, started): (Service, Duration)) -> anyhow::Result<()> {
    report("million.start", started.as_secs_f64(), "s");
    report_rss("million.rss.after_start", &service.program)?;
    let channels = service.connect(CLIENTS).await?;
    let nothing = measure(&service.program, &channels, |channel, _, _| health(channel)).await?;
    nothing.report_reference("million.health");
    let full = mixed(&service, &channels, 1).await?;
    full.report("million.mixed", "million.health", &nothing);
    full.check()?;
    listing(&service, &channels, &full).await?;
    report_rss("million.rss.at_the_end", &service.program)
}

/// Writers go on while somebody lists everything, page after page.
async fn listing(service: &Service, channels: &[Channel], alone: &Load) -> anyhow::Result<()> {
    let lister = service.connect(1).await?;
    let channel = lister.first().cloned().context("one channel")?;
    let lists = tokio::spawn(async move {
        let mut rows = 0;
        let mut pages = 0;
        let start = wait::now();
        let mut client = AllocationServiceClient::new(channel);
        let mut request = ListAllocationsRequest {
            page_size: 1000,
            ..ListAllocationsRequest::default()
        };
        loop {
            let page = client.list_allocations(request.clone()).await?.into_inner();
            rows += page.allocations.len();
            pages += 1;
            if page.next_page_token.is_empty() {
                return Ok::<_, tonic::Status>((rows, pages, start.elapsed()));
            }
            request.page_token = page.next_page_token;
        }
    });
    let busy = mixed(service, channels, 2).await?;
    busy.check()?;
    let (rows, pages, elapsed) = lists.await??;
    report(
        "million.list",
        count(rows) / elapsed.as_secs_f64(),
        "rows/s",
    );
    report("million.list.pages", count(pages), "pages");
    report_ratio(
        "million.write_p99_while_listing",
        busy.milliseconds(0.99),
        "ms",
        "million.mixed.p99",
        alone.milliseconds(0.99),
    );
    report_ratio(
        "million.write_worst_while_listing",
        busy.milliseconds(1.0),
        "ms",
        "the worst without",
        alone.milliseconds(1.0),
    );
    Ok(())
}

/// Half of the calls take an address, half give one back: in round 0 what the client took a while
/// ago, in later rounds one of the rows. Rounds have owners of their own.
async fn mixed(service: &Service, channels: &[Channel], round: usize) -> anyhow::Result<Load> {
    let call = move |channel: Channel, client: usize, number: usize| async move {
        let own = |number: usize| owner(client, round * ROWS + number);
        if number < LAG || number.is_multiple_of(2) {
            return allocate(channel, request(own(number), number)).await;
        }
        let released = (number - LAG) / 2;
        let gone = match round {
            // The first LAG calls took one each, later ones every other.
            0 if released < LAG => own(released),
            0 => own(LAG + 2 * (released - LAG)),
            // Never the same row twice, whatever the client and the round.
            _ => row(((released * CLIENTS + client) * 2 + round % 2) * STRIDE % ROWS),
        };
        release(channel, gone).await
    };
    measure(&service.program, channels, call).await
}

/// The owner of one of the rows.
fn row(number: usize) -> Owner {
    Owner {
        cluster: "rows".to_owned(),
        namespace: format!("namespace-{}", number % NAMESPACES),
        name: format!("service-{number}"),
        uid: String::new(),
    }
}

fn request(owner: Owner, number: usize) -> AllocateRequest {
    let ports = [80, 443].map(|port| Port {
        protocol: port::Protocol::Tcp.into(),
        port,
    });
    AllocateRequest {
        owner: Some(owner),
        ports: ports.into(),
        labels: labels(number),
        ..AllocateRequest::default()
    }
}

/// The ten labels that Helm charts and deployment tools usually set.
fn labels(number: usize) -> HashMap<String, String> {
    let application = number % APPLICATIONS;
    let team = application % 50;
    let pairs = [
        ("app.kubernetes.io/name", format!("app-{application}")),
        ("app.kubernetes.io/instance", format!("app-{application}")),
        ("app.kubernetes.io/version", "1.27.3".to_owned()),
        ("app.kubernetes.io/component", "server".to_owned()),
        ("app.kubernetes.io/part-of", format!("product-{team}")),
        ("app.kubernetes.io/managed-by", "Helm".to_owned()),
        ("helm.sh/chart", "chart-1.27.3".to_owned()),
        ("environment", "production".to_owned()),
        ("team", format!("team-{team}")),
        ("tier", "edge".to_owned()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}
