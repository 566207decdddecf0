//! A gRPC server of `AnnouncerService` that says exactly what a scenario wants to be said.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use pharos_proto::digest::{BUCKETS, Digests, assignment_digest, bucket_of, node_set_id};
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Hello, Report};
use pharos_proto::v1::announcer_service_server::{AnnouncerService, AnnouncerServiceServer};
use pharos_proto::v1::assignment_update::{Bucket, Changes, Header, Synced, Update};
use pharos_testbed::{Host, wait};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::{CLUSTER, SOON};

/// Frames that may wait for one announcer: more than any scenario sends.
const FRAMES: usize = 1024;
const SPACE: &str = "default";

/// What the peer says, and what it heard.
#[derive(Debug, Default)]
struct Feed {
    assignments: BTreeMap<IpAddr, v1::Assignment>,
    node_sets: BTreeMap<u64, v1::NodeSet>,
    members: BTreeMap<String, String>,
    streams: Vec<mpsc::Sender<Result<v1::AssignmentUpdate, Status>>>,
    hellos: Vec<Hello>,
    applied: BTreeMap<String, u64>,
    conflicts: Vec<(String, Conflict)>,
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
    pub(super) fn start(host: &Host) -> anyhow::Result<Self> {
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
    pub fn assign(&self, address: impl Into<IpAddr>, group: u64, nodes: &[&str]) {
        self.assign_on(address, group, nodes, &[]);
    }

    /// The same, on interfaces of these names only; none: on all.
    pub fn assign_on(
        &self,
        address: impl Into<IpAddr>,
        group: u64,
        nodes: &[&str],
        interfaces: &[&str],
    ) {
        self.assign_all(&[(address.into(), group)], nodes, interfaces);
    }

    /// The same for many at once, each a group of its own.
    pub fn assign_all<A: Copy + Into<IpAddr>>(
        &self,
        addresses: &[(A, u64)],
        nodes: &[&str],
        interfaces: &[&str],
    ) {
        let addresses = addresses.iter();
        let addresses = addresses.map(|(address, group)| ((*address).into(), *group));
        self.tell(&addresses.collect::<Vec<_>>(), nodes, interfaces, false);
    }

    /// Says that an address is to be announced for which nobody has answered yet; it goes on to say so.
    pub fn assign_new(&self, address: impl Into<IpAddr>, group: u64, nodes: &[&str]) {
        self.tell(&[(address.into(), group)], nodes, &[], true);
    }

    fn tell(&self, addresses: &[(IpAddr, u64)], nodes: &[&str], interfaces: &[&str], probe: bool) {
        let mut feed = self.feed.lock();
        let mut sorted: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        sorted.sort();
        let id = node_set_id(sorted.iter().map(String::as_str));
        let set = v1::NodeSet { id, nodes: sorted };
        feed.node_sets.insert(id, set.clone());
        feed.say(Update::NodeSet(set));
        let l2 = v1::assignment::L2 {
            interfaces: interfaces.iter().map(ToString::to_string).collect(),
            by_nodes: Vec::new(),
        };
        let assignments = addresses.iter().map(|(address, group)| v1::Assignment {
            address_space: SPACE.to_owned(),
            address: address.to_string(),
            group: *group,
            nodes: nodes.iter().map(ToString::to_string).collect(),
            candidates: id,
            l2: Some(l2.clone()),
            owners: vec![format!("{CLUSTER}/default/web-{group}")],
            probe,
            fenced: None,
            bgp: Vec::new(),
        });
        let assignments: Vec<v1::Assignment> = assignments.collect();
        for ((address, _), assignment) in addresses.iter().zip(&assignments) {
            feed.assignments.insert(*address, assignment.clone());
        }
        feed.change(assignments, Vec::new());
    }

    /// Says that an address is not to be announced any more.
    pub fn unassign(&self, address: impl Into<IpAddr>) {
        let address = address.into();
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

    /// The conflicts that nodes reported so far, each with the node.
    pub fn conflicts(&self) -> Vec<(String, Conflict)> {
        self.feed.lock().conflicts.clone()
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
                let mut feed = feed.lock();
                match report.report {
                    Some(Report::AppliedPosition(position)) => {
                        feed.applied.insert(node.clone(), position);
                    }
                    Some(Report::Conflict(conflict)) => {
                        feed.conflicts.push((node.clone(), conflict));
                    }
                    Some(_) | None => {}
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

    async fn get_peer_secrets(
        &self,
        _request: Request<v1::GetPeerSecretsRequest>,
    ) -> Result<Response<v1::GetPeerSecretsResponse>, Status> {
        Ok(Response::new(v1::GetPeerSecretsResponse::default()))
    }

    async fn renew_lease(
        &self,
        _: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        Err(Status::unimplemented("nothing is fenced here"))
    }
}
