//! `AnnouncerService`: registers announcers and streams the assignments of their cluster to them.
//!
//! The stream is made of frames that [`crate::feed::assignments`] has encoded once for all announcers of a
//! cluster, so [`AnnouncerServer`] passes bytes through instead of using the generated server.

mod body;
mod connections;
mod secrets;
mod server;
mod told;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use pharos_lease::Term;
use pharos_process::Shutdown;
use pharos_proto::digest::Digests;
use pharos_proto::v1;
use pharos_proto::v1::announcer_report::Report;
use pharos_proto::v1::announcer_report::conflict::Kind;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use self::connections::Place;
pub use self::connections::{Applied, Connections};
pub use self::server::AnnouncerServer;
use self::told::Told;
use super::call::{Api, Call};
use super::convert_announce::{AnnouncerHello, announcer_hello};
use super::convert_lease::{Renewal, lease_renewal, released_from_wire};
use super::convert_status::{check_conflict, check_status};
use super::fields::FieldErrors;
use super::status;
use crate::engine::NotRenewed;
use crate::feed::assignments::{Ended, Frame, Subscription};
use crate::state::address::Address;
use crate::state::announce::{AssignmentKey, unannounced};
use crate::state::command::{Command, Fact};

/// How long a new stream may take to say who it is; then its place is free again.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long an announcer may take to acknowledge the end of its cluster: it has to write to its disk
/// first. Afterwards the addresses wait for it as for a node that is away.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The service. Clones share it.
#[derive(Debug, Clone)]
pub struct AnnouncerApi {
    api: Api,
    connections: Arc<Connections>,
}

/// Frames for one announcer.
type Frames = BoxStream<'static, Result<Frame, Status>>;

impl AnnouncerApi {
    /// Streams end when `api.shutdown` begins.
    pub fn new(api: Api) -> Self {
        Self {
            api,
            connections: Arc::default(),
        }
    }

    /// Who is connected, and what each has applied.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    async fn announce(
        &self,
        request: Request<Streaming<v1::AnnouncerReport>>,
    ) -> Result<Response<Frames>, Status> {
        let call = Call::of(&request);
        let mut reports = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, reports.message());
        let first = first.await.map_err(|_| {
            let message = "no hello within 10 s";
            status::plain(Code::DeadlineExceeded, "NO_HELLO", message)
        })??;
        let hello = announcer_hello(first.as_ref()).map_err(|bad| status::of_rejection(&bad))?;
        self.notice_loss(&call, &hello).await?;
        self.register(&call, &hello).await?;
        tracing::info!(
            cluster = %hello.key.cluster,
            node = %hello.key.node,
            version = %hello.version,
            "an announcer follows its assignments"
        );
        let assignments = &self.api.feeds.assignments;
        let connection = Connection {
            reports: Some(reports),
            subscription: assignments.subscribe(&hello.key.cluster, &hello.digests),
            shutdown: self.api.shutdown.clone(),
            api: self.api.clone(),
            call,
            told: Told::begin(&self.api.feeds.status, &hello.key),
            place: Connections::enter(&self.connections, hello.key),
        };
        let frames = futures::stream::unfold(Some(connection), |connection| async {
            let mut connection = connection?;
            match connection.next().await {
                Step::Frame(frame) => Some((Ok(frame), Some(connection))),
                Step::Refuse(status) => Some((Err(status), None)),
                Step::Gone => None,
            }
        });
        Ok(Response::new(Box::pin(frames)))
    }

    /// A node with assignments of another store is the only sign of a store that was lost and made
    /// anew: what it sees then must be told before its stream begins, or it would withdraw all.
    async fn notice_loss(&self, call: &Call, hello: &AnnouncerHello) -> Result<(), Status> {
        let has_some = hello.digests != Digests::default();
        if !has_some || hello.store_id.is_empty() || hello.store_id == *self.api.store_id {
            return Ok(());
        }
        let cluster = hello.key.cluster.clone();
        let lost = self.api.engine.read({
            let cluster = cluster.clone();
            move |state| state.may_have_lost(&cluster)
        });
        if !lost.await.map_err(|error| status::of_submit(&error))? {
            return Ok(());
        }
        tracing::warn!(
            %cluster,
            node = %hello.key.node,
            other_store = %hello.store_id.escape_debug(),
            "a node has assignments of another store, and nothing is known here of what its cluster \
             holds: nothing is withdrawn until its adapter has reported, or FinishRecovery is called"
        );
        let command = Command::ReportLoss { cluster };
        call.submit(&self.api, command, "", false).await?;
        Ok(())
    }

    /// Makes the node a candidate and a member. One that is known needs no write, so that streams
    /// go on when nothing can be written.
    async fn register(&self, call: &Call, hello: &AnnouncerHello) -> Result<(), Status> {
        let (key, announcer) = (hello.key.clone(), hello.announcer.clone());
        let known = self.api.engine.read(move |state| {
            let node = state.node(&key);
            node.is_some_and(|node| node.announcer.as_ref() == Some(&announcer))
        });
        if known.await.map_err(|error| status::of_submit(&error))? {
            return Ok(());
        }
        let command = Command::Facts {
            cluster: hello.key.cluster.clone(),
            facts: vec![Fact::Announcer {
                key: hello.key.clone(),
                announcer: hello.announcer.clone(),
            }],
        };
        call.submit(&self.api, command, "", false).await?;
        Ok(())
    }

    fn list_assignments(
        &self,
        request: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        let mut errors = FieldErrors::new();
        let cluster = errors.name("cluster", &request.get_ref().cluster);
        let cluster = errors.finish(cluster);
        let cluster = cluster.map_err(|bad| status::of_rejection(&bad))?;
        Ok(Response::new(self.api.feeds.assignments.list(&cluster)))
    }
}

impl AnnouncerApi {
    /// Never waits for the writer: see [`crate::engine::LeaseBook`].
    fn renew_lease(
        &self,
        request: &Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let renewal = lease_renewal(request.get_ref());
        let renewal = renewal.map_err(|bad| status::of_rejection(&bad))?;
        let leases = &self.api.leases;
        let term = match renewal {
            Renewal::End(node, term) => {
                leases.end(&node, term);
                0
            }
            Renewal::Renew(node, term, standing) => {
                let renewed = leases.renew(&node, term, standing, fresh_term());
                renewed.map_err(not_renewed)?.0
            }
        };
        Ok(Response::new(v1::RenewLeaseResponse {
            store_id: self.api.store_id.to_string(),
            term,
        }))
    }
}

fn not_renewed(why: NotRenewed) -> Status {
    match why {
        NotRenewed::Over(_) => {
            status::plain(Code::FailedPrecondition, "LEASE_OVER", why.to_string())
        }
        NotRenewed::Closed => status::unavailable("DEPOSED", why.to_string()),
    }
}

/// A term that nobody else has, or had. 63 bits, as SQL has no unsigned numbers; never 0, which is
/// none.
fn fresh_term() -> Term {
    let random = Uuid::new_v4().as_u128();
    Term((random as u64 >> 1).max(1))
}

/// An open stream: what comes from the announcer, and what goes to it.
struct Connection {
    /// `None`: the announcer says no more, and still listens.
    reports: Option<Streaming<v1::AnnouncerReport>>,
    subscription: Subscription,
    shutdown: Shutdown,
    api: Api,
    call: Call,
    place: Place,
    told: Told,
}

/// What comes next on an open stream.
enum Step {
    Frame(Frame),
    Refuse(Status),
    Gone,
}

impl Connection {
    /// Cancel safe: all that it waits for is.
    async fn next(&mut self) -> Step {
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.stopping() => {
                    return Step::Refuse(status::unavailable("STOPPING", "the server is stopping"));
                }
                () = self.told.to_begin_again() => {
                    let message = "a later stream of this node has ended: introduce yourself again";
                    return Step::Refuse(status::unavailable("SUPERSEDED", message));
                }
                report = next_report(&mut self.reports) => match report {
                    Ok(Some(report)) => {
                        if let Err(status) = self.take_in(&report).await {
                            return Step::Refuse(status);
                        }
                    }
                    Ok(None) => self.reports = None,
                    Err(error) => {
                        tracing::debug!(%error, "the stream of an announcer broke");
                        return Step::Gone;
                    }
                },
                frame = self.subscription.next() => match frame {
                    Ok(frame) => return Step::Frame(frame),
                    Err(end) => {
                        if end == Ended::ClusterDeleted {
                            let last = self.hear_to_the_end();
                            let _in_time = tokio::time::timeout(LAST_WORDS, last).await;
                        }
                        let reason = reason_of(end);
                        return Step::Refuse(status::unavailable(reason, end.to_string()));
                    }
                },
            }
        }
    }

    /// Waits until the announcer has acknowledged that all of the cluster is gone, or says no more.
    /// What it says on a later stream counts for whoever bears the cluster's name then.
    async fn hear_to_the_end(&mut self) {
        let shutdown = self.shutdown.clone();
        while !self.subscription.is_acknowledged_to_the_end() {
            tokio::select! {
                () = shutdown.stopping() => return,
                report = next_report(&mut self.reports) => match report {
                    Ok(Some(report)) => if self.take_in(&report).await.is_err() {
                        return;
                    },
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }

    async fn take_in(&mut self, report: &v1::AnnouncerReport) -> Result<(), Status> {
        match &report.report {
            Some(Report::AppliedPosition(position)) => {
                self.place.applied(*position);
                let node = self.place.node();
                self.subscription.acknowledge(node, *position);
                Ok(())
            }
            Some(Report::Conflict(conflict)) => self.report_conflict(conflict).await,
            Some(Report::Status(told)) => {
                check_status(told).map_err(|bad| self.told.refuse(&bad))?;
                self.told.tell(told);
                self.note_announced(told).await;
                Ok(())
            }
            Some(Report::Released(released)) => {
                let released = released_from_wire(self.place.node(), released);
                let released = released.map_err(|bad| self.told.refuse(&bad))?;
                for one in released {
                    self.api.leases.release(one);
                }
                Ok(())
            }
            Some(Report::Hello(_)) => {
                Err(status::invalid("hello", "only the first report is a hello"))
            }
            // An announcer of a later version may tell what this one does not know.
            None => Ok(()),
        }
    }
}

impl Connection {
    /// Remembers what was answered for. What cannot be stored now is told again on the next stream; until
    /// then a first owner asks before it answers.
    async fn note_announced(&mut self, told: &v1::announcer_report::Status) {
        let cluster = self.place.node().cluster.clone();
        let owned = told.owned.iter();
        let owned = owned.filter(|one| !one.answered.is_empty());
        let owned = owned.map(|one| (one.group, answered(&one.answered)));
        let owned: Vec<_> = owned.collect();
        if owned.is_empty() {
            return;
        }
        let news = self.api.engine.read({
            let cluster = cluster.clone();
            move |state| {
                let news = owned.into_iter().map(|(group, answered)| Fact::Announced {
                    addresses: &unannounced(state, &cluster, group) & &answered,
                    group,
                });
                news.filter(|fact| !matches!(fact, Fact::Announced { addresses, .. } if addresses.is_empty()))
                    .collect::<Vec<_>>()
            }
        });
        let Ok(facts) = news.await else { return };
        if facts.is_empty() {
            return;
        }
        let command = Command::Facts { cluster, facts };
        if let Err(error) = self.call.submit(&self.api, command, "", false).await {
            tracing::warn!(%error, "what a node announced was not recorded");
        }
    }

    /// What cannot be stored now is not worth the stream: a machine that is still there is seen
    /// again.
    async fn report_conflict(&self, wire: &v1::announcer_report::Conflict) -> Result<(), Status> {
        let mut errors = FieldErrors::new();
        let space = errors.space("conflict.address_space", &wire.address_space);
        let address = errors.address("conflict.address", &wire.address);
        check_conflict(&mut errors, wire);
        let read = errors.finish(space.zip(address));
        let (space, address) = read.map_err(|bad| self.told.refuse(&bad))?;
        let node = self.place.node();
        let key = AssignmentKey { space, address };
        self.told.see(&key, wire);
        let AssignmentKey { space, address } = key;
        if wire.over || wire.kind() == Kind::KernelAnswers {
            return Ok(());
        }
        tracing::warn!(
            cluster = %node.cluster,
            node = %node.node,
            %address,
            mac = %wire.mac.escape_debug(),
            own_mac = %wire.own_mac.escape_debug(),
            "a node sees another machine use an address"
        );
        let command = Command::ReportConflict {
            cluster: node.cluster.clone(),
            space,
            address,
        };
        let stored = self.call.submit(&self.api, command, "", false).await;
        match stored {
            Ok(reply) if reply.changes.is_empty() => {
                tracing::debug!(%address, "the conflict is known, or no matter of this cluster");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a conflict was not recorded"),
        }
        Ok(())
    }
}

fn answered(addresses: &[String]) -> BTreeSet<Address> {
    let parsed = addresses
        .iter()
        .map(|it| pharos_proto::net::parse_address(it));
    parsed.flatten().map(Address::from).collect()
}

fn reason_of(end: Ended) -> &'static str {
    match end {
        Ended::FellBehind => "FELL_BEHIND",
        Ended::ClusterDeleted => "CLUSTER_DELETED",
    }
}

/// Waits for ever once there are no more. Cancel safe, as [`Streaming::message`] is.
async fn next_report(
    reports: &mut Option<Streaming<v1::AnnouncerReport>>,
) -> Result<Option<v1::AnnouncerReport>, Status> {
    match reports {
        Some(reports) => reports.message().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
