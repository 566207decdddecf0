//! 1,000 announcers of one cluster that connect at once, each on a connection of its own, while
//! 10,000 addresses are assigned: with nothing, and with all that there is.
//!
//! The clients look at frames without decoding them, so that they take little of the machine.

use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use pharos_proto::digest::{Digests, assignment_digest, bucket_of};
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Hello, Report};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_testbed::wait;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::load::{CLIENTS, Service, TIMEOUT, allocate, count, fill};
use super::{mebibytes, report};
use crate::scene;

const ANNOUNCERS: usize = 1_000;
const ASSIGNMENTS: usize = 10_000;
const CLUSTER: &str = "herd";

pub(super) fn run() -> anyhow::Result<()> {
    let service = Service::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Once before there is anything to announce, so that every node is known.
        gather(&service, &Digests::default()).await?;
        let channels = service.connect(CLIENTS).await?;
        scene::configure(channels[0].clone(), "10.0.0.0/16").await?;
        fill(&channels, ASSIGNMENTS, |channel, number| {
            let owner = v1::Owner {
                cluster: CLUSTER.to_owned(),
                namespace: "default".to_owned(),
                name: format!("service-{number}"),
                uid: String::new(),
            };
            let request = v1::AllocateRequest {
                owner: Some(owner),
                ..v1::AllocateRequest::default()
            };
            allocate(channel, request)
        })
        .await?;
        let digests = digests(channels[0].clone()).await?;
        let cold = gather(&service, &Digests::default()).await?;
        cold.report("herd.cold");
        let resumed = gather(&service, &digests).await?;
        resumed.report("herd.resumed");
        let peak = mebibytes(service.program.peak_resident_bytes()?);
        report("herd.rss.peak", peak, "MiB");
        Ok(())
    })
}

/// What it took to bring all announcers up to date.
struct Gathering {
    elapsed: Duration,
    /// CPU time of the server.
    server: Duration,
    bytes: usize,
}

impl Gathering {
    fn report(&self, name: &str) {
        report(
            &format!("{name}.elapsed"),
            self.elapsed.as_secs_f64(),
            "s until all are synced",
        );
        report(
            &format!("{name}.server_cpu"),
            self.server.as_secs_f64(),
            "s",
        );
        let sent = count(self.bytes) / (1024.0 * 1024.0);
        report(&format!("{name}.sent"), sent, "MiB");
    }
}

/// Connects all announcers at once; each stays until the last is up to date.
async fn gather(service: &Service, digests: &Digests) -> anyhow::Result<Gathering> {
    let digests = digests.to_wire();
    let cpu_before = service.program.cpu_time()?;
    let start = wait::now();
    let mut announcers = tokio::task::JoinSet::new();
    for node in 0..ANNOUNCERS {
        let hello = Hello {
            cluster: CLUSTER.to_owned(),
            node: format!("node-{node}"),
            member_endpoint: format!("10.200.{}.{}:7946", node / 250, node % 250),
            digests: digests.clone(),
            ..Hello::default()
        };
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", service.address))?;
        announcers.spawn(tokio::time::timeout(TIMEOUT, async move {
            let channel = endpoint.connect().await?;
            let mut stream = announce(channel.clone(), hello).await?;
            let bytes = until_synced(&mut stream).await?;
            anyhow::Ok((channel, stream, bytes))
        }));
    }
    let mut open = Vec::with_capacity(ANNOUNCERS);
    let mut bytes = 0;
    while let Some(announcer) = announcers.join_next().await {
        let (channel, stream, received) =
            announcer?.context("an announcer was not synced in time")??;
        bytes += received;
        open.push((channel, stream));
    }
    let elapsed = start.elapsed();
    let server = service.program.cpu_time()?.saturating_sub(cpu_before);
    Ok(Gathering {
        elapsed,
        server,
        bytes,
    })
}

async fn announce(channel: Channel, hello: Hello) -> Result<Streaming<Bytes>, Status> {
    let report = v1::AnnouncerReport {
        report: Some(Report::Hello(hello)),
    };
    let reports = futures::stream::iter([report]).chain(futures::stream::pending());
    let mut client = tonic::client::Grpc::new(channel);
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    client.ready().await.map_err(unavailable)?;
    let path = PathAndQuery::from_static("/pharos.v1.AnnouncerService/Announce");
    let answer = client.streaming(Request::new(reports), path, FrameCodec);
    Ok(answer.await?.into_inner())
}

/// Reads until the client is up to date; gives the number of bytes.
async fn until_synced(stream: &mut Streaming<Bytes>) -> anyhow::Result<usize> {
    // Field 5 (`synced`), length-delimited.
    const SYNCED: u8 = 5 << 3 | 2;
    let mut bytes = 0;
    loop {
        let frame = stream.message().await?.context("the stream ended")?;
        bytes += frame.len();
        if frame.first() == Some(&SYNCED) {
            return Ok(bytes);
        }
    }
}

/// The digests of a client that has everything.
async fn digests(channel: Channel) -> anyhow::Result<Digests> {
    let request = v1::ListAssignmentsRequest {
        cluster: CLUSTER.to_owned(),
    };
    let mut client = AnnouncerServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let list = client.list_assignments(request).await?.into_inner();
    anyhow::ensure!(
        list.assignments.len() == ASSIGNMENTS,
        "{} assignments instead of {ASSIGNMENTS}",
        list.assignments.len()
    );
    let mut digests = Digests::default();
    for assignment in &list.assignments {
        let bucket = bucket_of(&assignment.address_space, &assignment.address)?;
        digests.toggle(bucket, assignment_digest(assignment));
    }
    Ok(digests)
}

/// Writes reports, and leaves frames as they are.
#[derive(Debug, Clone, Copy, Default)]
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = v1::AnnouncerReport;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = v1::AnnouncerReport;
    type Error = Status;

    fn encode(
        &mut self,
        report: v1::AnnouncerReport,
        buffer: &mut EncodeBuf<'_>,
    ) -> Result<(), Status> {
        report
            .encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
