//! Topology: one announcer as a whole (stream, engine, disk) that follows a server made for the
//! test.
//!
//! 1. When it acknowledges that addresses are gone, or that others announce them, its disk says so.
//! 2. While the disk cannot be written it acknowledges nothing that takes an address away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use announcer::cache::{Cache, Identity, boot_id};
use announcer::config::Args;
use clap::Parser as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use pharos_process::Shutdown;
use pharos_proto::digest::node_set_id;
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::Report;
use pharos_proto::v1::announcer_service_server::{AnnouncerService, AnnouncerServiceServer};
use pharos_proto::v1::assignment_update::{Bucket, Changes, Header, Synced, Update};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "a";

/// A server that says what the test says, to one announcer.
struct Server {
    updates: Mutex<Option<mpsc::Receiver<Result<v1::AssignmentUpdate, Status>>>>,
    reports: mpsc::Sender<Report>,
}

#[tonic::async_trait]
impl AnnouncerService for Server {
    type AnnounceStream = BoxStream<'static, Result<v1::AssignmentUpdate, Status>>;

    async fn announce(
        &self,
        request: Request<Streaming<v1::AnnouncerReport>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        let mut from_announcer = request.into_inner();
        let reports = self.reports.clone();
        tokio::spawn(async move {
            while let Ok(Some(report)) = from_announcer.message().await {
                let _nobody_listens = reports.send(report.report.unwrap()).await;
            }
        });
        let updates = self.updates.lock().unwrap().take();
        let updates = updates.ok_or_else(|| Status::unavailable("one stream only"))?;
        Ok(Response::new(ReceiverStream::new(updates).boxed()))
    }

    async fn list_assignments(
        &self,
        _: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get_peer_secrets(
        &self,
        _: Request<v1::GetPeerSecretsRequest>,
    ) -> Result<Response<v1::GetPeerSecretsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn renew_lease(
        &self,
        _: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

struct World {
    updates: mpsc::Sender<Result<v1::AssignmentUpdate, Status>>,
    reports: mpsc::Receiver<Report>,
    state: tempfile::TempDir,
    shutdown: Shutdown,
    announcer: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl World {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (updates, to_announcer) = mpsc::channel(64);
        let (reports_in, reports) = mpsc::channel(64);
        let server = Server {
            updates: Mutex::new(Some(to_announcer)),
            reports: reports_in,
        };
        let server = tonic::transport::Server::builder()
            .add_service(AnnouncerServiceServer::new(server))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let state = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::default();
        let args = args(address, state.path());
        Self {
            updates,
            reports,
            state,
            shutdown: shutdown.clone(),
            announcer: tokio::spawn(announcer::run(args, shutdown)),
        }
    }

    async fn say(&self, update: Update) {
        let update = Some(update);
        let update = Ok(v1::AssignmentUpdate { update });
        self.updates.send(update).await.unwrap();
    }

    /// Waits until the announcer has acknowledged this position.
    async fn acknowledged(&mut self, position: u64) {
        loop {
            let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
            let report = report.expect("acknowledged in time").expect("a stream");
            if matches!(report, Report::AppliedPosition(applied) if applied >= position) {
                return;
            }
        }
    }

    /// What an announcer that starts now would announce.
    fn on_disk(&self) -> usize {
        let identity = Identity {
            cluster: "east".to_owned(),
            node: NODE.to_owned(),
            boot_id: boot_id(),
        };
        let cache = Cache::open(self.state.path(), identity).unwrap();
        let kept = cache.load().unwrap();
        kept.map_or(0, |kept| kept.contents.assignments.len())
    }

    /// What only adds is acknowledged before it is on the disk.
    async fn kept(&self, count: usize) {
        let wait = async {
            while self.on_disk() != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("kept in time");
    }

    async fn stop(self) {
        self.shutdown.stop();
        self.announcer.await.unwrap().unwrap();
    }
}

fn args(server: SocketAddr, state: &Path) -> Args {
    let server = format!("http://{server}");
    let state = state.to_str().unwrap();
    Args::parse_from([
        "announcer",
        "--ipam",
        &server,
        "--cluster",
        "east",
        "--node",
        NODE,
        "--state-dir",
        state,
        "--admin",
        "127.0.0.1:0",
        "--members-listen",
        "127.0.0.1:0",
    ])
}

/// An assignment in the bucket in which it lies.
fn assignment(number: u16, nodes: &[&str]) -> (usize, v1::Assignment) {
    let [high, low] = number.to_be_bytes();
    let address = format!("10.0.{high}.{low}");
    let bucket = pharos_proto::digest::bucket_of("default", &address).unwrap();
    let assignment = v1::Assignment {
        address_space: "default".to_owned(),
        address,
        group: u64::from(number) + 1,
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        candidates: node_set_id(nodes.iter().copied()),
        l2: Some(v1::assignment::L2::default()),
        ..v1::Assignment::default()
    };
    (bucket, assignment)
}

async fn synchronise(world: &World, count: u16, position: u64) {
    world
        .say(Update::Header(Header {
            store_id: "store".to_owned(),
            authoritative: true,
            cluster: "east".to_owned(),
        }))
        .await;
    world.say(set(&[NODE])).await;
    let all: Vec<_> = (0..count)
        .map(|number| assignment(number, &[NODE]))
        .collect();
    for index in 0..256 {
        let of_bucket = all.iter().filter(|(bucket, _)| *bucket == index);
        world
            .say(Update::Bucket(Bucket {
                index: u32::try_from(index).unwrap(),
                assignments: of_bucket.map(|(_, one)| one.clone()).collect(),
            }))
            .await;
    }
    world.say(Update::Synced(Synced { position })).await;
}

fn set(nodes: &[&str]) -> Update {
    Update::NodeSet(v1::NodeSet {
        id: node_set_id(nodes.iter().copied()),
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
    })
}

fn removals(count: u16, position: u64) -> Update {
    let removals = (0..count).map(|number| v1::AssignmentKey {
        address_space: "default".to_owned(),
        address: assignment(number, &[]).1.address,
    });
    Update::Changes(Changes {
        position,
        upserts: Vec::new(),
        removals: removals.collect(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_as_gone_is_gone_from_the_disk_too() {
    let mut world = World::start().await;
    synchronise(&world, 500, 5).await;
    world.acknowledged(5).await;
    world.kept(500).await;
    world.say(removals(400, 6)).await;
    world.acknowledged(6).await;
    assert_eq!(world.on_disk(), 100);
    // Who is no candidate any more must not be one again after a restart.
    world.say(set(&["b"])).await;
    world
        .say(Update::Changes(Changes {
            position: 7,
            upserts: (400..500)
                .map(|number| assignment(number, &["b"]).1)
                .collect(),
            removals: Vec::new(),
        }))
        .await;
    world.acknowledged(7).await;
    let identity = Identity {
        cluster: "east".to_owned(),
        node: NODE.to_owned(),
        boot_id: boot_id(),
    };
    let kept = Cache::open(world.state.path(), identity).unwrap().load();
    let kept = kept.unwrap().unwrap().contents.assignments;
    assert!(kept.iter().all(|one| one.nodes == ["b"]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_cannot_be_written_nothing_is_acknowledged_as_gone() {
    let mut world = World::start().await;
    synchronise(&world, 50, 5).await;
    world.acknowledged(5).await;
    world.kept(50).await;
    // A pipe in the place of the temporary file: writing waits for its reader, and then fails, as a
    // pipe cannot be synced.
    let pipe = world.state.path().join("assignments.bin.tmp");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    world.say(removals(50, 6)).await;
    let read = tokio::task::spawn_blocking(move || std::fs::read(pipe));
    let written = tokio::time::timeout(PATIENCE, read).await;
    written.expect("a write in time").unwrap().unwrap();
    assert_eq!(world.on_disk(), 50);
    while let Ok(report) = world.reports.try_recv() {
        assert_ne!(report, Report::AppliedPosition(6));
    }
    world.acknowledged(6).await;
    assert_eq!(world.on_disk(), 0);
    world.stop().await;
}
