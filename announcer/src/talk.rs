//! What this node hears from the others, and what it says to them.
//!
//! Pure: it joins [`crate::members`], which says who lives and what they say, to
//! [`crate::ownership`], which says what follows. The driver, [`crate::engine`], hands in datagrams
//! and time; then it performs the effects of `ownership`, in order, and tells by [`Talk::say`] and
//! [`Talk::step`] what the others are to know of that; then it sends what there is to send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use crate::election::{Claim, Condition, GroupId, NodeName, Standing, Statement};
use crate::fenced::Fenced;
use crate::handover::Message;
use crate::members::Peer;
use crate::members::namesake::{self, Namesake};
use crate::members::peers::{self, Peers};
use crate::members::reports::{Due, Learnt, OwnReport, Reports};
use crate::members::swim::{self, Swim};
use crate::members::wire::{Body, Datagram, Greeting};
use crate::ownership::Ownership;

mod relay;
mod steps;
#[cfg(test)]
mod tests;

/// Something that people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Another announcer runs under this node's name, there.
    Namesake(SocketAddr),
    /// It does no longer.
    NoNamesake,
    /// A handover was meant for, or came from, another run of a node.
    Rejected,
}

/// Something that arrived, or came due in the membership protocol.
#[derive(Debug)]
pub enum Heard {
    /// What the membership protocol says about it.
    Members(Vec<swim::Event>),
    /// What a node says, and when that arrived.
    Said(Body, Instant),
}

impl Heard {
    /// What is to be answered whatever this node is busy with: one that does not answer for long enough
    /// is taken for dead. What is taken here is not sent again.
    pub fn take_answers(&mut self) -> Vec<(SocketAddr, Datagram)> {
        let Self::Members(events) = self else {
            return Vec::new();
        };
        let is_answer = |event: &mut swim::Event| matches!(event, swim::Event::Send(..));
        let answers = events.extract_if(.., is_answer);
        let datagram = |event| match event {
            swim::Event::Send(to, bytes) => Some((to.endpoint, Body::Swim(bytes).into())),
            swim::Event::Up(_)
            | swim::Event::Down(_)
            | swim::Event::News { .. }
            | swim::Event::Renewed(_) => None,
        };
        answers.filter_map(datagram).collect()
    }

    /// Whether nothing follows from it.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Members(events) if events.is_empty())
    }
}

/// One node among the others.
#[derive(Debug)]
pub struct Talk {
    /// What this node owns. Its effects are to be performed after every call.
    pub ownership: Ownership,
    /// The same for fenced addresses, whose owners ipam-service names.
    pub fenced: Fenced,
    swim: Swim,
    peers: Peers,
    namesake: Namesake,
    reports: Reports,
    own_report: OwnReport,
    /// What others are to be told.
    steps: BTreeMap<NodeName, Vec<(GroupId, Message)>>,
    statements: BTreeMap<GroupId, Statement>,
    inform: BTreeSet<NodeName>,
    condition_changed: bool,
    unsent: Vec<(SocketAddr, Datagram)>,
    notes: Vec<Note>,
    /// Grows with each question, so that others are asked each time.
    turn: u32,
}

impl Talk {
    /// A node that knows nobody. All chance comes from the seed.
    pub fn new(me: Peer, own: Condition, seed: u64, now: Instant) -> Self {
        Self {
            ownership: Ownership::new(me.node.clone(), own),
            fenced: Fenced::new(me.node.clone()),
            own_report: OwnReport::new(me.node.clone(), me.epoch),
            swim: Swim::new(me, seed, now),
            peers: Peers::default(),
            namesake: Namesake::default(),
            reports: Reports::default(),
            steps: BTreeMap::new(),
            statements: BTreeMap::new(),
            inform: BTreeSet::new(),
            condition_changed: false,
            unsent: Vec::new(),
            notes: Vec::new(),
            turn: 0,
        }
    }

    /// This node's own run.
    pub fn me(&self) -> &Peer {
        self.swim.me()
    }

    /// Who is named, and who lives.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// What is to be sent now, in order. One that cannot be sent is lost, like any other may be.
    pub fn take_unsent(&mut self) -> Vec<(SocketAddr, Datagram)> {
        std::mem::take(&mut self.unsent)
    }

    /// What people are to be told now.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// When [`Self::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        [
            self.swim.next_deadline(),
            self.peers.next_deadline(),
            self.namesake.next_deadline(),
            self.reports.next_deadline(),
            self.ownership.next_deadline(),
            self.fenced.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When [`Self::tick_members`] is to be called next.
    pub fn members_deadline(&self) -> Option<Instant> {
        self.swim.next_deadline()
    }

    /// Time passed for the membership protocol. Changes nothing else before [`Self::follow`].
    pub fn tick_members(&mut self, now: Instant) -> Heard {
        Heard::Members(self.swim.tick(now))
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) {
        let heard = self.tick_members(now);
        self.follow(heard, now);
        for event in self.peers.tick(now) {
            self.on_peer(event, now);
        }
        for event in self.namesake.tick(now) {
            self.on_namesake(event);
        }
        for due in self.reports.tick(now) {
            self.on_report_due(due, now);
        }
        self.ownership.tick(now);
        self.fenced.tick(now);
    }

    /// For so long this process did not run.
    pub fn postpone(&mut self, by: std::time::Duration) {
        self.swim.postpone(by);
    }

    /// This node's own condition, as it is now.
    pub fn set_own(&mut self, own: &Condition, now: Instant) {
        if self.ownership.roster().own != *own {
            self.ownership.set_own(own.clone(), now);
            self.condition_changed = true;
        }
    }

    /// The members that the stream or the disk names, and where they are reached.
    pub fn set_members(&mut self, members: &[(NodeName, Option<SocketAddr>)], now: Instant) {
        for (node, endpoint) in members {
            let Some(endpoint) = *endpoint else { continue };
            if *node == self.me().node {
                if endpoint != self.me().endpoint {
                    self.namesake.suspect(endpoint, now);
                }
            } else if self.peers.name(node, endpoint, now) {
                self.ownership.set_standing(node, Standing::Presumed, now);
            }
        }
        let named: BTreeSet<&str> = members.iter().map(|(node, _)| &**node).collect();
        for node in self.peers.keep_only(|node| named.contains(node)) {
            self.ownership.forget(&node, now);
        }
    }

    /// Bare addresses of members.
    pub fn set_joins(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.peers.set_joins(addresses, now);
    }

    /// Where this node is reached changed.
    pub fn set_endpoint(&mut self, endpoint: SocketAddr, now: Instant) {
        if self.me().endpoint != endpoint {
            let events = self.swim.set_endpoint(endpoint, now);
            self.on_swim(events, now);
        }
    }

    /// Tells everybody that this node leaves.
    pub fn leave(&mut self, now: Instant) {
        let events = self.swim.leave(now);
        self.on_swim(events, now);
    }

    /// The host at this address refused a datagram.
    pub fn refused(&mut self, endpoint: SocketAddr, now: Instant) {
        // Whoever refuses lives next to a network that works.
        self.ownership.set_reached(now);
        for event in self.peers.refused(endpoint, now) {
            self.on_peer(event, now);
        }
    }

    /// A datagram that arrived at `at` is read now. To be called also while effects are being performed:
    /// it changes nothing but the membership protocol before [`Self::follow`].
    pub fn hear(&mut self, body: Body, at: Instant, now: Instant) -> Heard {
        match body {
            Body::Swim(bytes) => Heard::Members(self.swim.receive(&bytes, now)),
            said => Heard::Said(said, at),
        }
    }

    /// Does what follows from what was heard, in the order in which it was.
    pub fn follow(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Members(events) => self.on_swim(events, now),
            Heard::Said(body, at) => self.on_said(body, at, now),
        }
    }

    /// A datagram that arrived at `at` is read now, and followed at once.
    pub fn receive(&mut self, body: Body, at: Instant, now: Instant) {
        let heard = self.hear(body, at, now);
        self.follow(heard, now);
    }

    fn on_said(&mut self, body: Body, at: Instant, now: Instant) {
        match body {
            // By `hear`.
            Body::Swim(_) => {}
            Body::Hello(greeting) => {
                if let Some(namesake) = self.namesake_in(&greeting) {
                    // So that it learns of this one as well.
                    self.send(namesake, Body::Welcome(self.greeting(None)));
                }
                if let Some(peer) = self.on_greeting(greeting, now) {
                    let welcome = Body::Welcome(self.greeting(Some(&peer.node)));
                    self.send(peer.endpoint, welcome);
                }
            }
            Body::Welcome(greeting) => {
                if let Some(peer) = self.on_greeting(greeting, now) {
                    self.peers.answered(&peer.node);
                }
            }
            Body::State(state) | Body::Relayed(state) => {
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
            Body::AskAbout(question) => self.on_ask_about(question),
            Body::Handover(handover) => self.on_handover(handover, at, now),
        }
    }

    /// Somebody made itself known; gives who, unless it is this node itself or nonsense.
    fn on_greeting(&mut self, greeting: Greeting, now: Instant) -> Option<Peer> {
        if let Some(endpoint) = self.namesake_in(&greeting) {
            self.namesake.heard(endpoint, now);
        }
        let peer = Peer::try_from(greeting.from).ok()?;
        if peer.node == self.me().node {
            return None;
        }
        self.ownership.set_reached(now);
        if greeting.dead_epoch >= self.me().epoch {
            let events = self.swim.outlive(greeting.dead_epoch, now);
            self.on_swim(events, now);
            let hello = Body::Hello(self.greeting(Some(&peer.node)));
            self.send(peer.endpoint, hello);
        }
        let events = self.swim.introduce(peer.clone(), now);
        self.on_swim(events, now);
        Some(peer)
    }

    /// Where another announcer under this node's name is, if the greeting is from one. One's own come
    /// back where a list of members to join names this host.
    fn namesake_in(&self, greeting: &Greeting) -> Option<SocketAddr> {
        let peer = Peer::try_from(greeting.from.clone()).ok()?;
        let me = self.me();
        let is_other = peer.epoch != me.epoch && peer.endpoint != me.endpoint;
        (peer.node == me.node && is_other).then_some(peer.endpoint)
    }

    fn on_namesake(&mut self, event: namesake::Event) {
        match event {
            namesake::Event::Greet(endpoint) => {
                self.send(endpoint, Body::Hello(self.greeting(None)));
            }
            namesake::Event::Present(endpoint) => self.notes.push(Note::Namesake(endpoint)),
            namesake::Event::Gone => self.notes.push(Note::NoNamesake),
        }
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
    }

    fn on_swim(&mut self, events: Vec<swim::Event>, now: Instant) {
        for event in events {
            match event {
                swim::Event::Send(to, bytes) => self.send(to.endpoint, Body::Swim(bytes)),
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
    }

    fn on_peer(&mut self, event: peers::Event, now: Instant) {
        match event {
            peers::Event::Greet(endpoint) => {
                let node = self.peers.at(endpoint).cloned();
                let greeting = self.greeting(node.as_ref());
                let roster = self.ownership.roster();
                let is_dead = |node: &NodeName| roster.standing(node) == Some(&Standing::Dead);
                if let Some(node) = node.filter(is_dead) {
                    self.ask_about_dead(&node, greeting.dead_epoch);
                }
                self.send(endpoint, Body::Hello(greeting));
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

    fn on_report_due(&mut self, due: Due, now: Instant) {
        match due {
            Due::Ask(node) => {
                if let Some(endpoint) = self.peers.endpoint(&node) {
                    self.send(endpoint, Body::Ask(self.greeting(Some(&node))));
                }
            }
            Due::AskAbout(node, turn) => self.ask_about(&node, turn),
            Due::GaveUp(node) => {
                tracing::warn!(node = &*node, "member does not say what it owns");
                self.ownership
                    .set_standing(&node, Standing::Known(None), now);
            }
        }
    }

    /// Everybody is to know who owns a group: `None` as holder is this node, as claim nobody.
    pub fn say(&mut self, group: GroupId, holder: Option<NodeName>, claim: Option<Claim>) {
        let statement = Statement {
            group,
            holder,
            claim,
        };
        self.statements.insert(group, statement);
    }

    /// A node is to be told all that this one owns.
    pub fn inform(&mut self, node: NodeName) {
        self.inform.insert(node);
    }

    /// Tells everybody what changed. To be called after the steps are packed: who receives them
    /// holds requests.
    pub fn publish(&mut self, now: Instant) {
        let statements: Vec<Statement> =
            std::mem::take(&mut self.statements).into_values().collect();
        if std::mem::take(&mut self.condition_changed) || !statements.is_empty() {
            let own = &self.ownership.roster().own;
            for delta in self.own_report.changes(own, &statements) {
                self.send_to_all(&Body::Delta(delta));
            }
            let events = self.swim.announce_version(self.own_report.version(), now);
            self.on_swim(events, now);
        }
        for node in std::mem::take(&mut self.inform) {
            if let Some(endpoint) = self.peers.endpoint(&node) {
                self.send_state(endpoint);
            }
        }
    }

    /// All that this node says about itself.
    fn send_state(&mut self, to: SocketAddr) {
        let statements = self.ownership.statements();
        let own = &self.ownership.roster().own;
        for state in self.own_report.whole(own, &statements) {
            self.send(to, Body::State(state));
        }
    }

    fn send_to_all(&mut self, body: &Body) {
        let endpoints: Vec<SocketAddr> = self.peers.live().map(|(_, endpoint)| endpoint).collect();
        for endpoint in endpoints {
            self.send(endpoint, body.clone());
        }
    }

    fn greet_all(&mut self) {
        let greetings: Vec<(SocketAddr, Greeting)> = self
            .peers
            .live()
            .map(|(node, endpoint)| (endpoint, self.greeting(Some(node))))
            .collect();
        for (endpoint, greeting) in greetings {
            self.send(endpoint, Body::Hello(greeting));
        }
    }

    fn greeting(&self, to: Option<&NodeName>) -> Greeting {
        Greeting {
            from: self.me().into(),
            dead_epoch: to.map_or(0, |node| self.swim.dead_epoch(node)),
        }
    }

    fn send(&mut self, to: SocketAddr, body: Body) {
        self.unsent.push((to, body.into()));
    }
}
