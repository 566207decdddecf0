//! Nodes that follow the stream of their cluster, lag behind, lose it, and go on answering for what they
//! were told last.

use futures::FutureExt as _;
use pharos_proto::v1;
use prost::Message as _;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::server::Server;
use crate::engine::Meta;
use crate::feed::assignments::testing::Client;
use crate::feed::assignments::{Ended, PREFIX, Subscription};
use crate::state::command::{Command, Fact};
use crate::state::model::{Announcer, Labels, NodeKey};
use crate::state::names::Name;
use crate::testing::advertisement;

/// The announcers of one cluster.
#[derive(Debug, Default)]
pub(super) struct Announcers(Vec<Node>);

#[derive(Debug)]
struct Node {
    key: NodeKey,
    /// What it answers for.
    client: Client,
    stream: Option<Subscription>,
}

impl Announcers {
    pub(super) fn of(cluster: &str) -> Self {
        let name = |text: &str| Name::parse(text).expect("valid");
        let node = |node: &str| Node {
            key: NodeKey {
                cluster: name(cluster),
                node: name(node),
            },
            client: Client::default(),
            stream: None,
        };
        Self(["a", "b"].map(node).into())
    }

    /// Some connect, or lose their stream; most read what there is, and most acknowledge it.
    pub(super) async fn step(&mut self, random: &mut StdRng, server: &Server) {
        for node in &mut self.0 {
            match node.stream {
                Some(_) if random.random_bool(0.05) => node.stream = None,
                Some(_) => {}
                None if random.random_bool(0.8) => node.connect(server).await,
                None => {}
            }
            if random.random_bool(0.8) {
                node.read(random.random_bool(0.8));
            }
        }
    }

    /// The server that they followed is gone.
    pub(super) fn cut_off(&mut self) {
        for node in &mut self.0 {
            node.stream = None;
            // Positions of the next one begin anew.
            node.client.position = 0;
        }
    }

    /// Nobody of another cluster holds what a node answers for.
    pub(super) async fn check(&self, server: &Server) {
        for node in &self.0 {
            let cluster = node.key.cluster.clone();
            let answers: Vec<String> = node
                .client
                .assignments
                .values()
                .map(|one| one.address.clone())
                .collect();
            let others = server.api.engine.read(move |state| {
                let others = state
                    .allocations()
                    .filter(|one| one.owner.key.cluster != cluster);
                let held = others.flat_map(|one| one.addresses.iter().map(ToString::to_string));
                held.filter(|held| answers.contains(held)).collect()
            });
            let others: Vec<String> = others.await.expect("the writer runs");
            assert!(
                others.is_empty(),
                "node {} answers for {others:?}, which another cluster holds",
                node.key.node
            );
        }
    }
}

impl Node {
    async fn connect(&mut self, server: &Server) {
        let command = Command::Facts {
            cluster: self.key.cluster.clone(),
            facts: vec![Fact::Announcer {
                key: self.key.clone(),
                announcer: Announcer {
                    labels: Labels::new(),
                    member_endpoint: "192.0.2.250:7946".to_owned(),
                    features: Default::default(),
                },
            }],
        };
        let known = server.api.engine.submit(command, Meta::default()).await;
        known.expect("a node introduces itself");
        let assignments = &server.api.feeds.assignments;
        let digests = self.client.digests();
        self.stream = Some(assignments.subscribe(&self.key.cluster, &digests));
    }

    fn read(&mut self, acknowledges: bool) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut ended = None;
        while ended.is_none()
            && let Some(next) = stream.next().now_or_never()
        {
            match next {
                Ok(frame) => {
                    let update = v1::AssignmentUpdate::decode(&frame[PREFIX..]);
                    self.client.apply(update.expect("an update"));
                }
                Err(end) => ended = Some(end),
            }
        }
        if acknowledges {
            stream.acknowledge(&self.key, self.client.position);
        }
        match ended {
            // Its last word counts as long as the stream is open.
            Some(Ended::ClusterDeleted) if !acknowledges => {}
            Some(Ended::ClusterDeleted | Ended::FellBehind) => self.stream = None,
            None => {}
        }
    }
}

/// Every node announces what its cluster holds, by layer 2.
pub(super) async fn announce_everything(server: &Server) {
    let command = Command::ApplyAdvertisement(Box::new(advertisement("all")));
    let applied = server.api.engine.submit(command, Meta::default()).await;
    applied.expect("a good advertisement");
}
