//! Renews the lease of this process, as long as something needs it: see [`pharos_lease`].
//!
//! Whatever becomes of this task, the responder looks at the lease before each frame: a renewal that
//! is late, lost or refused means silence, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use pharos_lease::{Answer, Ask, Holder, Term};
use pharos_proto::v1;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::renew_lease_request::Readiness;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::assignments::SharedBook;
use crate::clock;
use crate::dial::dial;
use crate::engine::Command;
use crate::l2::responder::Responder;
use crate::metrics::Metrics;
use crate::names::Names;

/// How long a server may take to answer: afterwards it is time to ask again.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
/// How long a stop waits for the lease to be given back.
const END_WITHIN: Duration = Duration::from_millis(300);
/// Names of interfaces that are told: as many as a request may have.
const INTERFACES: usize = 1000;
/// The shortest pause between two questions, whatever is answered.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

/// What this node says of itself with each renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub readiness: Readiness,
    /// Names of the interfaces that can answer for IPv4 addresses.
    pub interfaces: BTreeSet<String>,
    /// The same for IPv6.
    pub interfaces6: BTreeSet<String>,
}

impl Standing {
    /// A renewal of this term; 0: for a new one.
    fn renewal(&self, cluster: &str, node: &str, term: u64) -> v1::RenewLeaseRequest {
        let names = |all: &BTreeSet<String>| all.iter().take(INTERFACES).cloned().collect();
        v1::RenewLeaseRequest {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            term,
            readiness: self.readiness.into(),
            interfaces: names(&self.interfaces),
            ipv6: Some(v1::renew_lease_request::Interfaces {
                names: names(&self.interfaces6),
            }),
            end: false,
        }
    }
}

/// Renews the lease.
#[derive(Debug)]
pub struct Renewer {
    pub servers: Vec<Endpoint>,
    pub names: Names,
    /// Of whose store the lease must be: that store names the owners.
    pub book: SharedBook,
    pub cluster: String,
    pub node: String,
    /// `None`: no lease is needed.
    pub standing: watch::Receiver<Option<Standing>>,
    pub engine: mpsc::Sender<Command>,
    pub responder: Responder,
    pub metrics: Metrics,
    /// The lease is to be given back.
    pub stop: CancellationToken,
}

/// What one run of [`Renewer`] has.
struct Run {
    renewer: Renewer,
    holder: Holder,
    server: usize,
    channel: Option<Channel>,
    /// As the engine was told last.
    told: Option<Term>,
    complained: bool,
}

impl Renewer {
    /// Renews until it is stopped, or the engine ends; gives the lease back then.
    pub async fn run(self) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        let mut run = Run {
            renewer: self,
            holder: Holder::default(),
            server: 0,
            channel: None,
            told: None,
            complained: false,
        };
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = run.renew() => ended,
        };
        run.give_up().await;
        ended
    }
}

impl Run {
    async fn renew(&mut self) -> anyhow::Result<()> {
        loop {
            let changed = self.renewer.standing.has_changed()?;
            let standing = self.renewer.standing.borrow_and_update().clone();
            let Some(standing) = standing else {
                self.give_up().await;
                self.tell().await?;
                self.renewer.standing.changed().await?;
                continue;
            };
            if changed || clock::since_boot() >= self.holder.ask_at() {
                let began = clock::now();
                self.ask(&standing).await;
                // A server that refuses at once is not asked without a pause.
                tokio::time::sleep_until((began + LEAST_PAUSE).into()).await;
            }
            self.tell().await?;
            let now = clock::since_boot();
            let over = self.holder.until().map(|(_, until)| until);
            let over = over.filter(|until| *until > now);
            let wake = self.holder.ask_at().min(over.unwrap_or(Duration::MAX));
            tokio::select! {
                () = tokio::time::sleep(wake.saturating_sub(now)) => {}
                changed = self.renewer.standing.changed() => {
                    changed?;
                    // Looked at again above.
                    self.renewer.standing.mark_changed();
                }
            }
            self.tell().await?;
        }
    }

    /// The responder first: what the engine does about it may take longer.
    async fn tell(&mut self) -> anyhow::Result<()> {
        self.renewer.responder.set_lease(self.holder.until());
        let term = self.holder.term(clock::since_boot());
        self.renewer.metrics.lease.set(i64::from(term.is_some()));
        if std::mem::replace(&mut self.told, term) != term {
            match term {
                Some(_) => tracing::info!("this node has a lease: it may own fenced addresses"),
                None => tracing::warn!("this node has no lease: it answers for no fenced address"),
            }
            self.renewer.engine.send(Command::Lease(term)).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, standing: &Standing) {
        let ask = self.holder.ask(clock::since_boot());
        let term = match ask {
            Ask::Begin => 0,
            Ask::Renew(term) => term.0,
        };
        let request = standing.renewal(&self.renewer.cluster, &self.renewer.node, term);
        let answered = tokio::time::timeout(ANSWER_WITHIN, self.send(request)).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        let answer = match answered {
            Ok(response) if self.is_of_the_book(&response) => Answer::Granted(Term(response.term)),
            Ok(_) => {
                self.next_server();
                Answer::None
            }
            Err(status) if status.code() == Code::FailedPrecondition => Answer::Over,
            Err(status) => {
                if !std::mem::replace(&mut self.complained, true) {
                    let reason = status.message();
                    tracing::warn!(reason, "cannot renew the lease of this node");
                }
                self.next_server();
                Answer::None
            }
        };
        if matches!(answer, Answer::Granted(_)) {
            self.complained = false;
        }
        self.holder.answered(answer, clock::since_boot());
    }

    async fn send(
        &mut self,
        request: v1::RenewLeaseRequest,
    ) -> Result<v1::RenewLeaseResponse, Status> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let server = &self.renewer.servers[self.server];
                let dialled = dial(&self.renewer.names, server).await;
                let dialled = dialled.map_err(|error| Status::unavailable(error.to_string()))?;
                self.channel.insert(dialled).clone()
            }
        };
        let mut client = AnnouncerServiceClient::new(channel);
        Ok(client.renew_lease(request).await?.into_inner())
    }

    /// A term of another store means nothing to the one that names the owners.
    fn is_of_the_book(&self, response: &v1::RenewLeaseResponse) -> bool {
        let book = self.renewer.book.lock();
        let same = book.store_id().is_empty() || book.store_id() == response.store_id;
        same && response.term != 0
    }

    fn next_server(&mut self) {
        self.server = (self.server + 1) % self.renewer.servers.len();
        self.channel = None;
    }

    /// Nothing fenced is answered any more; then the service is told, so that others need not wait.
    async fn give_up(&mut self) {
        let term = self.holder.give_up();
        self.renewer.responder.set_lease(None);
        let Some(term) = term else {
            return;
        };
        let request = v1::RenewLeaseRequest {
            cluster: self.renewer.cluster.clone(),
            node: self.renewer.node.clone(),
            term: term.0,
            end: true,
            ..v1::RenewLeaseRequest::default()
        };
        // Unanswered, it runs out.
        let _in_time = tokio::time::timeout(END_WITHIN, self.send(request)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_tells_of_each_family_where_it_can_be_answered() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let standing = Standing {
            readiness: Readiness::Ready,
            interfaces: names(&["eth0", "eth1"]),
            interfaces6: names(&["eth1"]),
        };
        let renewal = standing.renewal("east", "a", 7);
        assert_eq!(
            (&*renewal.cluster, &*renewal.node, renewal.term),
            ("east", "a", 7)
        );
        assert_eq!(renewal.interfaces, ["eth0", "eth1"]);
        // None is something else than not telling.
        assert_eq!(renewal.ipv6.expect("told").names, ["eth1"]);
        let deaf = Standing {
            interfaces6: BTreeSet::new(),
            ..standing
        };
        assert!(deaf.renewal("east", "a", 7).ipv6.is_some());
    }
}
