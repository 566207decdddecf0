//! What this node hears from the others, and what it says to them.
//!
//! Pure: it joins [`crate::members`], which says who lives and what they say, to
//! [`crate::ownership`], which says what follows. The driver, [`crate::engine`], hands in datagrams
//! and time; then it performs the effects of `ownership`, in order, and tells by [`Talk::say`] and
//! [`Talk::step`] what the others are to know of that; then it sends what there is to send.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
use heard::Waiting;

mod heard;
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

/// What is to be sent, and where to.
pub type Sendings = Vec<(SocketAddr, Datagram)>;

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
    unsent: Sendings,
    heard: VecDeque<Waiting>,
    /// By how much the time of all limits but those of leases and of the membership protocol is behind.
    lag: Duration,
    /// That time, as it was last.
    latest: Instant,
    /// This node's epoch, as far as it was followed.
    followed_epoch: u64,
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
            followed_epoch: me.epoch,
            swim: Swim::new(me, seed, now),
            peers: Peers::default(),
            namesake: Namesake::default(),
            reports: Reports::default(),
            steps: BTreeMap::new(),
            statements: BTreeMap::new(),
            inform: BTreeSet::new(),
            condition_changed: false,
            unsent: Vec::new(),
            heard: VecDeque::new(),
            lag: Duration::ZERO,
            latest: now,
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
    pub fn take_unsent(&mut self) -> Sendings {
        std::mem::take(&mut self.unsent)
    }

    /// What people are to be told now.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// When [`Self::tick_members`] or [`Self::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let limits = [
            self.peers.next_deadline(),
            self.namesake.next_deadline(),
            self.reports.next_deadline(),
            self.ownership.next_deadline(),
        ];
        let limit = limits.into_iter().flatten().min();
        let limit = limit.map(|limit| limit + self.lag);
        let others = [self.swim.next_deadline(), self.fenced.next_deadline()];
        others.into_iter().flatten().chain(limit).min()
    }

    /// When [`Self::tick_members`] is to be called next.
    pub fn members_deadline(&self) -> Option<Instant> {
        self.swim.next_deadline()
    }

    /// Time passed for the membership protocol. As [`Self::hear`].
    pub fn tick_members(&mut self, now: Instant) -> Sendings {
        let events = self.swim.tick(now);
        self.keep(events, now)
    }

    /// Time passed, see [`Self::time`].
    pub fn tick(&mut self, now: Instant) {
        let then = self.time(now);
        for event in self.peers.tick(then) {
            self.on_peer(event, now);
        }
        for event in self.namesake.tick(then) {
            self.on_namesake(event);
        }
        for due in self.reports.tick(then) {
            self.on_report_due(due, now);
        }
        self.ownership.tick(then);
        // By the lease this node must stop, whatever it may hear.
        self.fenced.tick(now);
    }

    /// For so long this process did not run.
    pub fn postpone(&mut self, by: Duration) {
        self.swim.postpone(by);
    }

    /// This node's own condition, as it is now.
    pub fn set_own(&mut self, own: &Condition, now: Instant) {
        if self.ownership.roster().own != *own {
            let then = self.time(now);
            self.ownership.set_own(own.clone(), then);
            self.condition_changed = true;
        }
    }

    /// The members that the stream or the disk names, and where they are reached.
    pub fn set_members(&mut self, members: &[(NodeName, Option<SocketAddr>)], now: Instant) {
        let now = self.time(now);
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
        let then = self.time(now);
        self.peers.set_joins(addresses, then);
    }

    /// Where this node is reached changed.
    pub fn set_endpoint(&mut self, endpoint: SocketAddr, now: Instant) {
        if self.me().endpoint != endpoint {
            let events = self.swim.set_endpoint(endpoint, now);
            self.keep_and_send(events, now);
        }
    }

    /// Tells everybody that this node leaves.
    pub fn leave(&mut self, now: Instant) {
        let events = self.swim.leave(now);
        self.keep_and_send(events, now);
    }

    /// The host at this address refused a datagram.
    pub fn refused(&mut self, endpoint: SocketAddr, now: Instant) {
        let then = self.time(now);
        // Whoever refuses lives next to a network that works.
        self.ownership.set_reached(then);
        for event in self.peers.refused(endpoint, then) {
            self.on_peer(event, now);
        }
    }

    fn on_said(&mut self, body: Body, at: Instant, now: Instant) {
        let then = self.time(now);
        match body {
            // By `hear`.
            Body::Swim(_) => {}
            Body::Hello(greeting) => drop(self.on_greeting(&greeting, then)),
            Body::Welcome(greeting) => {
                if let Some(peer) = self.on_greeting(&greeting, then) {
                    self.peers.answered(&peer.node);
                    self.reports.answered(&peer.node, then);
                }
            }
            Body::State(state) | Body::Relayed(state) => {
                let node = NodeName::from(state.version.node.as_str());
                let learnt = self.reports.state(state);
                self.on_learnt(&node, learnt, then);
            }
            Body::Delta(delta) => {
                let node = NodeName::from(delta.version.node.as_str());
                let learnt = self.reports.delta(delta, then);
                self.on_learnt(&node, learnt, then);
            }
            Body::Ask(greeting) => {
                if let Some(peer) = self.on_greeting(&greeting, then) {
                    self.send_state(peer.endpoint);
                }
            }
            Body::AskAbout(question) => self.on_ask_about(question),
            Body::Handover(handover) => self.on_handover(handover, at, now),
        }
    }

    /// Somebody made itself known; gives who, unless it is this node itself or nonsense.
    fn on_greeting(&mut self, greeting: &Greeting, now: Instant) -> Option<Peer> {
        if let Some(endpoint) = self.namesake_in(greeting) {
            self.namesake.heard(endpoint, now);
        }
        let peer = self.sender_of(greeting)?;
        self.ownership.set_reached(now);
        Some(peer)
    }

    fn sender_of(&self, greeting: &Greeting) -> Option<Peer> {
        let peer = Peer::try_from(greeting.from.clone()).ok()?;
        (peer.node != self.me().node).then_some(peer)
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

    fn on_swim(&mut self, event: swim::Event, now: Instant) {
        let now = self.time(now);
        match event {
            // By `keep`.
            swim::Event::Send(..) => {}
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
                self.followed_epoch = epoch;
            }
        }
    }

    fn on_peer(&mut self, event: peers::Event, now: Instant) {
        let then = self.time(now);
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
                self.ownership.set_standing(&node, Standing::Dead, then);
            }
            peers::Event::Forgotten(node) => {
                tracing::info!(
                    node = &*node,
                    "a dead member that the list does not name is forgotten"
                );
                self.ownership.forget(&node, then);
            }
            peers::Event::Killed(node) => {
                tracing::warn!(node = &*node, "the host of a member refuses: it is gone");
                // The run that refused, and none that was heard of since.
                let followed = self.reports.known(&node).map(|known| known.epoch);
                let present = self.swim.active(&node).map(|peer| peer.epoch);
                if followed == present {
                    let events = self.swim.declare_dead(&node, now);
                    self.keep_and_send(events, now);
                }
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
                let then = self.time(now);
                self.ownership
                    .set_standing(&node, Standing::Known(None), then);
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
            self.keep_and_send(events, now);
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

    /// For everybody who lives.
    fn greetings(&self) -> Sendings {
        let live = self.peers.live();
        let greeting = |(node, endpoint)| {
            let hello = Body::Hello(self.greeting(Some(node)));
            (endpoint, hello.into())
        };
        live.map(greeting).collect()
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
