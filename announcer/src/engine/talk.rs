//! Datagrams, and what they say about other nodes.

use std::net::SocketAddr;
use std::time::Instant;

use prost::Message as _;

use super::Engine;
use crate::election::{NodeName, Standing};
use crate::members::replay::{Stamp, sender_of};
use crate::members::reports::{Due, Learnt};
use crate::members::seal::OpenError;
use crate::members::wire::{Body, Datagram, Greeting, Handover};
use crate::members::{Peer, namesake, peers, swim};
use crate::stamped::Received;

impl Engine {
    pub(super) fn on_datagram(&mut self, bytes: &[u8], received: Received, now: Instant) {
        let opened = self.seal.open(bytes).and_then(|(stamp, plain)| {
            let is_new = stamp.is_none_or(|stamp| self.seen.is_new(stamp));
            if is_new {
                Ok(plain)
            } else {
                Err(OpenError::Replayed)
            }
        });
        let plain = match opened {
            Ok(plain) => plain,
            Err(error) => {
                self.metrics.members_rejected.inc();
                tracing::debug!(from = ?received.from, %error, "datagram not accepted");
                return;
            }
        };
        let Ok(Datagram { body: Some(body) }) = Datagram::decode(plain.as_slice()) else {
            self.metrics.members_rejected.inc();
            tracing::debug!(from = ?received.from, "datagram not understood");
            return;
        };
        match body {
            Body::Swim(bytes) => {
                let events = self.swim.receive(&bytes, now);
                self.on_swim(events, now);
            }
            Body::Hello(greeting) => {
                if let Some(namesake) = self.namesake_in(&greeting) {
                    // So that it learns of this one as well.
                    let welcome = Body::Welcome(self.greeting(None));
                    self.send(namesake, &datagram(welcome));
                }
                if let Some(peer) = self.on_greeting(greeting, now) {
                    let welcome = Body::Welcome(self.greeting(Some(&peer.node)));
                    self.send(peer.endpoint, &datagram(welcome));
                }
            }
            Body::Welcome(greeting) => {
                if let Some(peer) = self.on_greeting(greeting, now) {
                    self.peers.answered(&peer.node);
                }
            }
            Body::State(state) => {
                let node = NodeName::from(state.version.node.as_str());
                let learnt = self.reports.state(state);
                self.on_learnt(&node, learnt, now);
            }
            Body::Delta(delta) => {
                let node = NodeName::from(delta.version.node.as_str());
                let learnt = self.reports.delta(delta, now);
                self.on_learnt(&node, learnt, now);
            }
            Body::Ask(greeting) => {
                if let Some(peer) = self.on_greeting(greeting, now) {
                    self.send_state(peer.endpoint);
                }
            }
            Body::Handover(handover) => self.on_handover(handover, received.at, now),
        }
    }

    /// Somebody made itself known; gives who, unless it is this node itself or nonsense.
    fn on_greeting(&mut self, greeting: Greeting, now: Instant) -> Option<Peer> {
        if let Some(endpoint) = self.namesake_in(&greeting) {
            self.namesake.heard(endpoint, now);
        }
        let peer = Peer::try_from(greeting.from).ok()?;
        if peer.node == self.swim.me().node {
            return None;
        }
        self.ownership.set_reached(now);
        if greeting.dead_epoch >= self.swim.me().epoch {
            let events = self.swim.outlive(greeting.dead_epoch, now);
            self.on_swim(events, now);
            let hello = Body::Hello(self.greeting(Some(&peer.node)));
            self.send(peer.endpoint, &datagram(hello));
        }
        let events = self.swim.introduce(peer.clone(), now);
        self.on_swim(events, now);
        Some(peer)
    }

    /// Where another announcer under this node's name is, if the greeting is from one. One's own come
    /// back where a list of members to join names this host.
    fn namesake_in(&self, greeting: &Greeting) -> Option<SocketAddr> {
        let peer = Peer::try_from(greeting.from.clone()).ok()?;
        let me = self.swim.me();
        let is_other = peer.epoch != me.epoch && peer.endpoint != me.endpoint;
        (peer.node == me.node && is_other).then_some(peer.endpoint)
    }

    pub(super) fn on_namesake(&mut self, event: &namesake::Event) {
        match event {
            namesake::Event::Greet(endpoint) => {
                let hello = Body::Hello(self.greeting(None));
                self.send(*endpoint, &datagram(hello));
            }
            namesake::Event::Present(endpoint) => {
                let node = &*self.swim.me().node;
                tracing::error!(
                    node,
                    %endpoint,
                    "another announcer runs under this node's name: both answer for the same \
                     addresses until one gets another --node"
                );
                let reason = format!("another announcer, at {endpoint}, is named {node:?} too");
                self.readiness.not_ready("node", reason);
                self.metrics.namesakes.set(1);
            }
            namesake::Event::Gone => {
                tracing::info!("no other announcer runs under this node's name any more");
                self.readiness.ready("node");
                self.metrics.namesakes.set(0);
            }
        }
    }

    fn on_handover(&mut self, handover: Handover, at: Instant, now: Instant) {
        let from = NodeName::from(handover.node.as_str());
        let me = self.swim.me();
        let is_for_me = *handover.to == *me.node && handover.to_epoch == me.epoch;
        let sender = self.swim.active(&from);
        if !is_for_me || sender.is_none_or(|sender| sender.epoch != handover.epoch) {
            self.metrics.members_rejected.inc();
            tracing::debug!(from = &*from, "handover of another run");
            return;
        }
        for (group, message) in handover.steps.into_iter().filter_map(|step| step.read(at)) {
            self.ownership.hear(group, from.clone(), message, now);
        }
        self.perform();
    }

    fn on_learnt(&mut self, node: &NodeName, learnt: Learnt, now: Instant) {
        match learnt {
            Learnt::Whole(condition, statements) => {
                self.ownership
                    .learn_whole(node, condition, &statements, now);
            }
            Learnt::Changed(condition, statements) => {
                self.ownership
                    .learn_changes(node, condition, &statements, now);
            }
            Learnt::Nothing => {}
        }
        self.perform();
    }

    /// A node is presumed to live: the stream or the disk named it.
    pub(super) fn presume(&mut self, node: &NodeName, now: Instant) {
        self.ownership.set_standing(node, Standing::Presumed, now);
    }

    pub(super) fn on_swim(&mut self, events: Vec<swim::Event>, now: Instant) {
        for event in events {
            match event {
                swim::Event::Send(to, bytes) => {
                    self.send(to.endpoint, &datagram(Body::Swim(bytes)));
                }
                swim::Event::Up(peer) => {
                    self.ownership.set_reached(now);
                    if self.peers.up(&peer.node, peer.endpoint, now) {
                        tracing::info!(node = &*peer.node, endpoint = %peer.endpoint, "member lives");
                    }
                    self.reports.up(&peer.node, peer.epoch, now);
                    self.ownership
                        .set_standing(&peer.node, Standing::Silent, now);
                    self.send_state(peer.endpoint);
                }
                swim::Event::Down(peer) => {
                    tracing::warn!(node = &*peer.node, endpoint = %peer.endpoint, "member is dead");
                    self.peers.down(&peer.node, now);
                    self.reports.down(&peer.node);
                    self.ownership.set_standing(&peer.node, Standing::Dead, now);
                }
                swim::Event::News {
                    node,
                    epoch,
                    version,
                } => self.reports.news(&node, epoch, version, now),
                swim::Event::Renewed(epoch) => {
                    // With a namesake each of the two takes the other's place in turn, all the time.
                    if !self.namesake.is_there() {
                        tracing::info!(epoch, "others believed this node dead: going on anew");
                    }
                    self.own_report.renew(epoch);
                    self.greet_all();
                }
            }
        }
        self.perform();
    }

    pub(super) fn on_peers(&mut self, events: Vec<peers::Event>, now: Instant) {
        for event in events {
            match event {
                peers::Event::Greet(endpoint) => {
                    let node = self.peers.at(endpoint).cloned();
                    let hello = Body::Hello(self.greeting(node.as_ref()));
                    self.send(endpoint, &datagram(hello));
                }
                peers::Event::Failed(node) => {
                    tracing::warn!(node = &*node, "member does not answer");
                    self.ownership.set_standing(&node, Standing::Dead, now);
                }
                peers::Event::Forgotten(node) => {
                    tracing::info!(
                        node = &*node,
                        "a dead member that the list does not name is forgotten"
                    );
                    self.ownership.forget(&node, now);
                }
                peers::Event::Killed(node) => {
                    tracing::warn!(node = &*node, "the host of a member refuses: it is gone");
                    let events = self.swim.declare_dead(&node, now);
                    self.on_swim(events, now);
                }
            }
        }
        self.perform();
    }

    pub(super) fn on_report_due(&mut self, due: Due, now: Instant) {
        match due {
            Due::Ask(node) => {
                if let Some(endpoint) = self.peers.endpoint(&node) {
                    let ask = Body::Ask(self.greeting(Some(&node)));
                    self.send(endpoint, &datagram(ask));
                }
            }
            Due::GaveUp(node) => {
                tracing::warn!(node = &*node, "member does not say what it owns");
                self.ownership
                    .set_standing(&node, Standing::Known(None), now);
            }
        }
        self.perform();
    }

    /// All that this node says about itself.
    pub(super) fn send_state(&mut self, to: SocketAddr) {
        let statements = self.ownership.statements();
        for state in self.own_report.whole(&self.own, &statements) {
            self.send(to, &datagram(Body::State(state)));
        }
    }

    pub(super) fn send_to_all(&self, message: &Datagram) {
        let endpoints: Vec<SocketAddr> = self.peers.live().map(|(_, endpoint)| endpoint).collect();
        for endpoint in endpoints {
            self.send(endpoint, message);
        }
    }

    fn greet_all(&self) {
        for (node, endpoint) in self.peers.live() {
            let hello = Body::Hello(self.greeting(Some(node)));
            self.send(endpoint, &datagram(hello));
        }
    }

    fn greeting(&self, to: Option<&NodeName>) -> Greeting {
        Greeting {
            from: self.swim.me().into(),
            dead_epoch: to.map_or(0, |node| self.swim.dead_epoch(node)),
        }
    }

    /// Sends a datagram; one that cannot be sent now is lost, like any other may be.
    pub(super) fn send(&self, to: SocketAddr, message: &Datagram) {
        let Some(socket) = &self.socket else { return };
        let number = self.sent.get() + 1;
        self.sent.set(number);
        let me = self.swim.me();
        let stamp = Stamp {
            sender: sender_of(&me.node),
            epoch: me.epoch,
            number,
        };
        let sealed = self.seal.seal(stamp, &message.encode_to_vec());
        // The socket reports errors of earlier datagrams first, and then has not sent this one.
        for _ in 0..3 {
            match socket.try_send_to(&sealed, to) {
                Ok(_) => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::debug!(%to, %error, "cannot send to a member");
                    return;
                }
            }
        }
    }
}

fn datagram(body: Body) -> Datagram {
    Datagram { body: Some(body) }
}
