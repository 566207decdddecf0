//! Announcers on one Ethernet segment, fed by a real gRPC peer that says exactly what a scenario
//! wants to be said.
//!
//! ```text
//!   ipam     192.168.12.1     the peer in place of ipam-service
//!   n1..n3   192.168.12.11+   announcers
//!   client   192.168.12.200   asks, and sees every ARP frame
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use pharos_proto::digest::{BUCKETS, Digests, assignment_digest, bucket_of, node_set_id};
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Hello, Report};
use pharos_proto::v1::announcer_service_server::{AnnouncerService, AnnouncerServiceServer};
use pharos_proto::v1::assignment_update::{Bucket, Changes, Header, Synced, Update};
use pharos_testbed::arp::Prober;
use pharos_testbed::{Host, Lan, Launch, Program, http, wait, workspace_binary};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Cluster of every announcer here.
pub const CLUSTER: &str = "east";
/// Longest wait for anything that should happen soon; machines that run tests are busy.
pub const SOON: Duration = Duration::from_secs(20);
/// How long after a request a second answer may still come, from a handover under way.
const STEADY: Duration = Duration::from_millis(400);
/// How long a request may wait for its answer on a busy machine.
const SETTLED: Duration = Duration::from_secs(3);
/// Frames that may wait for one announcer: more than any scenario sends.
const FRAMES: usize = 1024;
/// How many requests a scenario of one or two moves may have answered twice.
const TWICE: usize = 2;
const SPACE: &str = "default";

/// What the peer says, and what it heard.
#[derive(Debug, Default)]
struct Feed {
    assignments: BTreeMap<Ipv4Addr, v1::Assignment>,
    node_sets: BTreeMap<u64, v1::NodeSet>,
    members: BTreeMap<String, String>,
    streams: Vec<mpsc::Sender<Result<v1::AssignmentUpdate, Status>>>,
    hellos: Vec<Hello>,
    applied: BTreeMap<String, u64>,
    position: u64,
    not_authoritative: bool,
}

#[derive(Debug, Clone, Default)]
struct SharedFeed(Arc<Mutex<Feed>>);

/// A gRPC server of `AnnouncerService` in a namespace, which can be stopped and started again.
#[derive(Debug)]
pub struct Peer {
    feed: SharedFeed,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Peer {
    fn start(host: &Host) -> anyhow::Result<Self> {
        let mut peer = Self {
            feed: SharedFeed::default(),
            address: SocketAddr::new(host.address, 7471),
            runtime: None,
        };
        peer.start_again(host)?;
        Ok(peer)
    }

    /// Starts it again after [`Self::stop`], with what it knew.
    pub fn start_again(&mut self, host: &Host) -> anyhow::Result<()> {
        // The former one may be closing still.
        let listener = wait::until_ok("the port of the peer is free", SOON, || {
            Ok(host.namespace.run(|| TcpListener::bind(self.address))??)
        })?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let service = AnnouncerServiceServer::new(self.feed.clone());
        let incoming = runtime.block_on(async {
            anyhow::Ok(TcpListenerStream::new(tokio::net::TcpListener::from_std(
                listener,
            )?))
        })?;
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            if let Err(error) = server.serve_with_incoming(incoming).await {
                eprintln!("the peer failed: {error}");
            }
        });
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Ends it and every connection, as if it was killed.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.feed.lock().streams.clear();
    }

    /// Says that an address is to be announced: by the first living of `nodes`.
    pub fn assign(&self, address: Ipv4Addr, group: u64, nodes: &[&str]) {
        self.assign_on(address, group, nodes, &[]);
    }

    /// The same, on interfaces of these names only; none: on all.
    pub fn assign_on(&self, address: Ipv4Addr, group: u64, nodes: &[&str], interfaces: &[&str]) {
        let mut feed = self.feed.lock();
        let mut sorted: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        sorted.sort();
        let id = node_set_id(sorted.iter().map(String::as_str));
        let set = v1::NodeSet { id, nodes: sorted };
        feed.node_sets.insert(id, set.clone());
        feed.say(Update::NodeSet(set));
        let assignment = v1::Assignment {
            address_space: SPACE.to_owned(),
            address: address.to_string(),
            group,
            nodes: nodes.iter().map(ToString::to_string).collect(),
            candidates: id,
            l2: Some(v1::assignment::L2 {
                interfaces: interfaces.iter().map(ToString::to_string).collect(),
                ..v1::assignment::L2::default()
            }),
            owners: vec![format!("{CLUSTER}/default/web-{group}")],
        };
        feed.assignments.insert(address, assignment.clone());
        feed.change(vec![assignment], Vec::new());
    }

    /// Says that an address is not to be announced any more.
    pub fn unassign(&self, address: Ipv4Addr) {
        let mut feed = self.feed.lock();
        feed.assignments.remove(&address);
        let key = v1::AssignmentKey {
            address_space: SPACE.to_owned(),
            address: address.to_string(),
        };
        feed.change(Vec::new(), vec![key]);
    }

    /// Says this to everybody who listens now, and forgets it.
    pub fn say(&self, upserts: Vec<v1::Assignment>) {
        self.feed.lock().change(upserts, Vec::new());
    }

    /// Forgets everything and says that it does not know everything, like a restored store.
    pub fn forget(&self) {
        let mut feed = self.feed.lock();
        feed.assignments.clear();
        feed.not_authoritative = true;
    }

    /// Waits until an announcer has applied everything.
    pub fn wait_applied(&self, node: &str) -> anyhow::Result<()> {
        wait::until(&format!("{node} applied everything"), SOON, || {
            let feed = self.feed.lock();
            (feed.applied.get(node) == Some(&feed.position)).then_some(())
        })
    }

    /// What announcers said at the begin of their streams.
    pub fn hellos(&self) -> Vec<Hello> {
        self.feed.lock().hellos.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl SharedFeed {
    fn lock(&self) -> MutexGuard<'_, Feed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    fn change(&mut self, upserts: Vec<v1::Assignment>, removals: Vec<v1::AssignmentKey>) {
        self.position += 1;
        self.say(Update::Changes(Changes {
            position: self.position,
            upserts,
            removals,
        }));
    }

    fn say(&mut self, update: Update) {
        let frame = v1::AssignmentUpdate {
            update: Some(update),
        };
        self.streams
            .retain(|stream| stream.try_send(Ok(frame.clone())).is_ok());
    }

    fn say_members(&mut self) {
        let members = self.members();
        self.say(members);
    }

    fn members(&self) -> Update {
        let members = self.members.iter();
        Update::Members(v1::Members {
            members: members
                .map(|(node, endpoint)| v1::members::Member {
                    node: node.clone(),
                    endpoint: endpoint.clone(),
                })
                .collect(),
        })
    }

    /// The frames of a synchronisation: buckets that differ from the client's.
    fn synchronisation(&self, theirs: &Digests) -> Vec<Update> {
        let mut ours = Digests::default();
        let mut buckets = vec![Vec::new(); BUCKETS];
        for assignment in self.assignments.values() {
            if let Ok(index) = bucket_of(SPACE, &assignment.address) {
                ours.toggle(index, assignment_digest(assignment));
                buckets[index].push(assignment.clone());
            }
        }
        let header = Update::Header(Header {
            store_id: "a-store".to_owned(),
            authoritative: !self.not_authoritative,
            cluster: CLUSTER.to_owned(),
        });
        let mut frames = vec![header, self.members()];
        frames.extend(self.node_sets.values().cloned().map(Update::NodeSet));
        for index in ours.differing(theirs) {
            frames.push(Update::Bucket(Bucket {
                index: u32::try_from(index).unwrap_or_default(),
                assignments: buckets[index].clone(),
            }));
        }
        let position = self.position;
        frames.push(Update::Synced(Synced { position }));
        frames
    }
}

#[tonic::async_trait]
impl AnnouncerService for SharedFeed {
    type AnnounceStream = Pin<Box<dyn Stream<Item = Result<v1::AssignmentUpdate, Status>> + Send>>;

    async fn announce(
        &self,
        request: Request<Streaming<v1::AnnouncerReport>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|report| report.report);
        let Some(Report::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let theirs = Digests::from_wire(&hello.digests)
            .ok_or_else(|| Status::invalid_argument("digests"))?;
        let (sender, receiver) = mpsc::channel(FRAMES);
        let node = hello.node.clone();
        {
            let mut feed = self.lock();
            feed.members
                .insert(node.clone(), hello.member_endpoint.clone());
            feed.hellos.push(hello);
            feed.say_members();
            for update in feed.synchronisation(&theirs) {
                let update = Some(update);
                let _ = sender.try_send(Ok(v1::AssignmentUpdate { update }));
            }
            feed.streams.push(sender);
        }
        let feed = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                if let Some(Report::AppliedPosition(position)) = report.report {
                    feed.lock().applied.insert(node.clone(), position);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_assignments(
        &self,
        _request: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        let assignments = self.lock().assignments.values().cloned().collect();
        Ok(Response::new(v1::ListAssignmentsResponse {
            assignments,
            ..v1::ListAssignmentsResponse::default()
        }))
    }
}

/// The segment. Dropping it stops everything.
#[derive(Debug)]
pub struct Segment {
    announcers: BTreeMap<String, Program>,
    states: BTreeMap<String, TempDir>,
    /// The peer in place of ipam-service.
    pub peer: Peer,
    /// The hosts.
    pub lan: Lan,
    flags: Vec<String>,
}

impl Segment {
    /// Starts announcers on these nodes (of n1, n2, n3), each with these flags besides the usual
    /// ones, and waits until they have met.
    pub fn start(nodes: &[&str], flags: &[&str]) -> anyhow::Result<Self> {
        let lan = Lan::new(&[
            ("ipam", "192.168.12.1/24"),
            ("n1", "192.168.12.11/24"),
            ("n2", "192.168.12.12/24"),
            ("n3", "192.168.12.13/24"),
            ("client", "192.168.12.200/24"),
        ])?;
        let peer = Peer::start(lan.host("ipam")?)?;
        let mut segment = Self {
            announcers: BTreeMap::new(),
            states: BTreeMap::new(),
            peer,
            lan,
            flags: flags.iter().map(ToString::to_string).collect(),
        };
        for node in nodes {
            segment.start_announcer(node)?;
        }
        for node in nodes {
            let others = (nodes.len() - 1).to_string();
            segment.wait_metric(node, "pharos_announcer_members_alive", &others)?;
            segment.wait_metric(node, "pharos_announcer_stream_connected", "1")?;
        }
        Ok(segment)
    }

    /// Starts the announcer of a node, with the state directory that it had.
    pub fn start_announcer(&mut self, node: &str) -> anyhow::Result<()> {
        self.start_announcer_as(node, node)
    }

    /// Starts an announcer on the host of a node, under any name.
    pub fn start_announcer_as(&mut self, node: &str, name: &str) -> anyhow::Result<()> {
        let launch = Launch::workspace("announcer")?;
        self.start_launch(launch, node, name)
    }

    /// Starts the announcer of a node as if its host had booted since: it reads another boot id.
    pub fn start_announcer_after_boot(&mut self, node: &str) -> anyhow::Result<()> {
        let boot_id = self.state_directory(node)?.join("boot_id");
        std::fs::write(&boot_id, "another boot")?;
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let launch = Launch::program("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(boot_id)
            .arg(workspace_binary("announcer")?);
        self.start_launch(launch, node, node)
    }

    /// Makes the state directory of a node, for an announcer that runs as this user.
    pub fn make_state_directory(&mut self, node: &str, user: u32) -> anyhow::Result<PathBuf> {
        let state = match self.states.entry(node.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(tempfile::tempdir()?),
        };
        std::os::unix::fs::chown(state.path(), Some(user), Some(user))?;
        Ok(state.path().to_owned())
    }

    /// Starts what is to become the announcer of a node; its usual flags are added.
    pub fn start_launch(&mut self, launch: Launch, node: &str, name: &str) -> anyhow::Result<()> {
        let state = match self.states.entry(node.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(tempfile::tempdir()?),
        };
        let state = Path::new(state.path()).to_owned();
        let host = self.lan.host(node)?;
        let program = launch
            .named(&format!("announcer of {node}"))
            .args(["--cluster", CLUSTER, "--node", name])
            .args(["--ipam", "http://192.168.12.1:7471"])
            .arg("--state-dir")
            .arg(state)
            .args(&self.flags)
            .start_in(&host.namespace)?;
        self.announcers.insert(node.to_owned(), program);
        Ok(())
    }

    /// Announcers that are started from now on get these flags instead.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(ToString::to_string).collect();
    }

    /// Where a node keeps its state.
    pub fn state_directory(&self, node: &str) -> anyhow::Result<PathBuf> {
        let state = self.states.get(node).context("no such node")?;
        Ok(Path::new(state.path()).to_owned())
    }

    /// The announcer of a node.
    pub fn announcer(&mut self, node: &str) -> anyhow::Result<&mut Program> {
        self.announcers.get_mut(node).context("no such announcer")
    }

    /// Asks for addresses every 10 ms from the client, and records every ARP frame.
    pub fn probe(&self, addresses: &[Ipv4Addr]) -> anyhow::Result<Prober> {
        Prober::start(self.lan.host("client")?, addresses)
    }

    /// Waits until an address is answered by a node.
    pub fn wait_owner(
        &self,
        prober: &Prober,
        address: Ipv4Addr,
        node: &str,
    ) -> anyhow::Result<Duration> {
        let mac = self.lan.host(node)?.mac;
        let since = prober.now();
        let what = format!("{node} answers for {address}");
        let answer = prober.wait_for_answer(&what, SOON, |answer| {
            answer.address == address && answer.at >= since && answer.mac == mac
        });
        Ok(answer.with_context(|| self.log_tails())?.at)
    }

    /// What the announcers wrote last, for a failure that is to be understood.
    fn log_tails(&self) -> String {
        let announcers = self.announcers.iter();
        let tails = announcers.map(|(node, program)| {
            let log = program.log_tail();
            format!("the announcer of {node} wrote:\n{log}")
        });
        tails.collect::<Vec<_>>().join("\n")
    }

    /// Every request for an address since `since` has exactly one answer, and no two nodes answered at
    /// the same time. What is being asked now is waited for.
    ///
    /// A few requests may have two answers: when the old owner's report of what it answered takes
    /// longer than is allowed for, as it may on a busy machine, the new one answers once more rather
    /// than not.
    pub fn check_moves(
        &self,
        prober: &Prober,
        address: Ipv4Addr,
        since: Duration,
    ) -> anyhow::Result<()> {
        let until = prober.now();
        let settled = wait::until("every request is answered", SETTLED, || {
            let late = prober.now() > until + STEADY;
            let record = late.then(|| prober.record());
            record.filter(|record| record.lost(address, since, until).is_empty())
        });
        let record = settled.unwrap_or_else(|_| prober.record());
        let told = || {
            let pause = record.longest_unasked(since, until);
            let timeline = record.timeline(address);
            format!("(the machine paused for up to {pause:?}; began at {since:?})\n{timeline}")
        };
        let lost = record.lost(address, since, until);
        anyhow::ensure!(
            lost.is_empty(),
            "{address}: requests of {lost:?} were lost {}",
            told()
        );
        let doubled = record.doubled(address, since, until);
        anyhow::ensure!(
            doubled.len() <= TWICE,
            "{address}: answered twice: {doubled:?} {}",
            told()
        );
        let overlaps = record.overlaps(address);
        anyhow::ensure!(overlaps.is_empty(), "two at once: {overlaps:?} {}", told());
        Ok(())
    }

    /// `/metrics` of a node, or another path of its admin listener.
    pub fn admin(&self, node: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], 7473));
        let host = self.lan.host(node)?;
        host.namespace
            .run(|| http::get(address, path, Duration::from_secs(5)))?
    }

    /// Waits until a metric of a node has a value; `name` with its labels.
    pub fn wait_metric(&self, node: &str, name: &str, value: &str) -> anyhow::Result<()> {
        let line = format!("{name} {value}");
        wait::until(&format!("{node} shows {line}"), SOON, || {
            let (_, text) = self.admin(node, "/metrics").ok()?;
            text.lines().any(|found| found == line).then_some(())
        })
    }
}
