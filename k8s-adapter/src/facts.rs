//! Tells ipam-service which nodes there are, and which of them serve what: all of it when the
//! stream opens, then every change at once, but nothing more than ten times a second.
//!
//! The stream is independent of the conversation about addresses: announcing must follow the
//! endpoints even while a claim is stuck.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pharos_process::Shutdown;
use pharos_proto::v1;
use pharos_proto::v1::sync_facts_request::{Complete, Fact, Hello};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::CallError;
use crate::context::{Context, Dirty};
use crate::eligibility;
use crate::service::ServiceKey;
use crate::world::World;
use spacing::Spacing;

mod spacing;

/// First and longest wait before the stream is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A stream that lived this long starts the waits anew.
const STABLE: Duration = Duration::from_secs(10);
/// Facts between this task and the connection: enough to keep the connection busy. What does not
/// fit waits in the set of what is dirty, where a fact that changes twice is sent once.
const QUEUE: usize = 256;

/// What has been sent on the stream.
#[derive(Debug, Default)]
struct Sent {
    backends: BTreeMap<ServiceKey, v1::BackendsFact>,
    nodes: BTreeSet<String>,
}

/// Reports until the process stops.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    context.readiness.not_ready("facts", "not reported yet");
    let mut wait = BACKOFF.0;
    loop {
        let opened = tokio::time::Instant::now();
        let error = tokio::select! {
            () = shutdown.stopping() => return,
            error = report(&context) => error,
        };
        tracing::warn!(%error, "facts are not reported");
        context.readiness.not_ready("facts", error.to_string());
        if opened.elapsed() >= STABLE {
            wait = BACKOFF.0;
        }
        tokio::select! {
            () = shutdown.stopping() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// One stream; says why it ended. Dropping it ends the stream, which takes nothing back.
async fn report(context: &Context) -> CallError {
    context.api_server_answers().await;
    context.wait_for_lists(World::can_report_facts).await;
    let lost = context.api_server_lost();
    let mut lost = std::pin::pin!(lost);
    let (sender, receiver) = mpsc::channel(QUEUE);
    let call = context.ipam.sync_facts(ReceiverStream::new(receiver));
    let mut stream = Stream {
        sender,
        call: Box::pin(call),
    };
    let mut sent = Sent::default();
    // What is dirty now is in the first report.
    drop(context.facts.take());
    let hello = hello(context);
    let first = first_report(&context.world(), hello, &mut sent);
    tracing::info!(facts = first.len(), "reporting facts");
    if let Err(error) = send_all(context, &mut stream, first).await {
        return error;
    }
    context.readiness.ready("facts");
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            error = stream.lost() => return error,
            // Another replica may see what this one does not, and the newest stream is believed.
            () = &mut lost => {
                return CallError::Refused("the API server does not answer".to_owned());
            }
            () = context.facts.wait() => {}
            () = until(waiting.next_deadline()) => {}
        }
        waiting.changed(context.facts.take());
        let due = waiting.take_due(tokio::time::Instant::now().into_std());
        let news = news(&context.world(), due, &mut sent);
        if let Err(error) = send_all(context, &mut stream, news).await {
            return error;
        }
    }
}

/// What is to be told.
#[derive(Debug, Default)]
struct Waiting {
    backends: Spacing<ServiceKey>,
    nodes: Spacing<String>,
}

impl Waiting {
    fn changed(&mut self, dirty: Dirty) {
        self.backends.changed(dirty.backends);
        self.nodes.changed(dirty.nodes);
    }

    fn take_due(&mut self, now: Instant) -> Dirty {
        Dirty {
            backends: self.backends.take_due(now),
            nodes: self.nodes.take_due(now),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.backends.next_deadline(), self.nodes.next_deadline()];
        deadlines.into_iter().flatten().min()
    }
}

/// Resolves then; never if there is no such time. Cancel safe.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// A stream that is being sent, and the call that ends with it.
struct Stream<C> {
    sender: mpsc::Sender<v1::SyncFactsRequest>,
    call: Pin<Box<C>>,
}

impl<C: Future<Output = Result<(), CallError>>> Stream<C> {
    /// Resolves when the call is over. Cancel safe.
    async fn lost(&mut self) -> CallError {
        match self.call.as_mut().await {
            Ok(()) => CallError::Refused("ipam-service ended the stream of facts".to_owned()),
            Err(error) => error,
        }
    }

    async fn send(&mut self, fact: Fact) -> Result<(), CallError> {
        let sender = self.sender.clone();
        let permit = tokio::select! {
            // The call moves only when it is polled, so it goes first.
            biased;
            error = self.lost() => return Err(error),
            permit = sender.reserve() => permit,
        };
        match permit {
            Ok(permit) => {
                permit.send(v1::SyncFactsRequest { fact: Some(fact) });
                Ok(())
            }
            // The call has dropped its end: it is about to say why.
            Err(_) => Err(self.lost().await),
        }
    }
}

async fn send_all<C: Future<Output = Result<(), CallError>>>(
    context: &Context,
    stream: &mut Stream<C>,
    facts: Vec<Fact>,
) -> Result<(), CallError> {
    for fact in facts {
        stream.send(fact).await?;
        context.metrics.facts.inc();
    }
    Ok(())
}

fn hello(context: &Context) -> Hello {
    Hello {
        cluster: context.world().settings.cluster.clone(),
        // Known, as something has been listed.
        cluster_uid: context.cluster_uid.get().cloned().unwrap_or_default(),
        session: uuid::Uuid::new_v4().to_string(),
    }
}

/// Everything, from `hello` to `complete`.
fn first_report(world: &World, hello: Hello, sent: &mut Sent) -> Vec<Fact> {
    let dirty = Dirty {
        backends: world
            .index
            .services()
            .map(|service| service.key.clone())
            .collect(),
        nodes: world.index.nodes().map(|node| node.name.clone()).collect(),
    };
    let mut facts = vec![Fact::Hello(hello)];
    facts.extend(news(world, dirty, sent));
    facts.push(Fact::Complete(Complete {}));
    facts
}

/// What is to be said about what is dirty, given what was said before.
fn news(world: &World, dirty: Dirty, sent: &mut Sent) -> Vec<Fact> {
    let mut facts = Vec::new();
    for name in dirty.nodes {
        match world.index.node(&name) {
            Some(node) => {
                facts.push(Fact::Node(eligibility::told(node, &world.settings)));
                sent.nodes.insert(name);
            }
            None if sent.nodes.remove(&name) => facts.push(Fact::NodeRemoved(name)),
            None => {}
        }
    }
    for key in dirty.backends {
        match world.index.backends(&key, &world.settings) {
            Some(fact) if sent.backends.get(&key) == Some(&fact) => {}
            Some(fact) => {
                facts.push(Fact::Backends(fact.clone()));
                sent.backends.insert(key, fact);
            }
            None => {
                let owner = sent.backends.remove(&key).and_then(|fact| fact.owner);
                facts.extend(owner.map(Fact::BackendsRemoved));
            }
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::claim::Settings;
    use crate::eligibility::{NodeState, SliceKey, SliceState};
    use crate::service::ServiceState;

    fn world() -> World {
        World::new(Settings {
            cluster: "east".to_owned(),
            lb_class: None,
            address_space: "default".to_owned(),
            ignore_exclude_lb: false,
        })
    }

    fn key() -> ServiceKey {
        ServiceKey::new("default", "web")
    }

    fn service(kind: &str) -> ServiceState {
        let service = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "web", "uid": "u" },
            "spec": { "type": kind },
        }));
        ServiceState::parse(&service.expect("a Service")).expect("with a name")
    }

    fn slice(usable: bool) -> SliceState {
        SliceState {
            key: SliceKey {
                namespace: "default".to_owned(),
                name: "s".to_owned(),
            },
            service: Some(key()),
            usable,
            nodes: BTreeSet::new(),
        }
    }

    fn node(name: &str) -> NodeState {
        let fact = v1::NodeFact {
            name: name.to_owned(),
            ..v1::NodeFact::default()
        };
        NodeState {
            fact,
            addresses: BTreeSet::new(),
        }
    }

    fn dirty() -> Dirty {
        Dirty {
            backends: BTreeSet::from([key()]),
            nodes: BTreeSet::new(),
        }
    }

    #[test]
    fn the_first_report_says_hello_then_everything_then_that_it_is_complete() {
        let mut world = world();
        world.index.replace_nodes(vec![node("n1")]);
        world.index.apply_service(service("LoadBalancer"));
        let hello = Hello {
            cluster: "east".to_owned(),
            ..Hello::default()
        };
        let facts = first_report(&world, hello, &mut Sent::default());
        let [
            Fact::Hello(hello),
            Fact::Node(_),
            Fact::Backends(fact),
            Fact::Complete(_),
        ] = &facts[..]
        else {
            panic!("{facts:?}");
        };
        assert_eq!(hello.cluster, "east");
        // No slice has been seen, and all have been listed: it is known to have no backends.
        assert!(!fact.any_node && fact.nodes.is_empty());
    }

    #[test]
    fn a_fact_is_sent_when_it_changes_and_not_otherwise() {
        let mut world = world();
        let mut sent = Sent::default();
        world.index.apply_service(service("LoadBalancer"));
        assert_eq!(news(&world, dirty(), &mut sent).len(), 1);
        assert!(news(&world, dirty(), &mut sent).is_empty());
        world.index.apply_slice(slice(true));
        assert!(
            matches!(&news(&world, dirty(), &mut sent)[..], [Fact::Backends(it)] if it.any_node)
        );
        // It is no load balancer any more.
        world.index.apply_service(service("ClusterIP"));
        assert!(matches!(
            &news(&world, dirty(), &mut sent)[..],
            [Fact::BackendsRemoved(_)]
        ));
        assert!(news(&world, dirty(), &mut sent).is_empty());
    }

    #[test]
    fn a_node_that_goes_is_removed_once() {
        let mut world = world();
        let mut sent = Sent::default();
        let dirty = || Dirty {
            backends: BTreeSet::new(),
            nodes: BTreeSet::from(["n1".to_owned()]),
        };
        world.index.apply_node(node("n1"));
        assert!(matches!(
            &news(&world, dirty(), &mut sent)[..],
            [Fact::Node(_)]
        ));
        world.index.delete_node("n1");
        assert!(matches!(
            &news(&world, dirty(), &mut sent)[..],
            [Fact::NodeRemoved(_)]
        ));
        assert!(news(&world, dirty(), &mut sent).is_empty());
    }
}
