//! Whom to greet, and when a node that does not answer counts as dead.
//!
//! SWIM probes only members that it has heard of. Here are the others: members that the stream or
//! the disk named and that are presumed to live until they were greeted in vain; members believed
//! dead, which are greeted twice a second so that a heal is noticed, for as long as they are named;
//! and bare addresses to join.
//! Also: a member whose host refuses datagrams is greeted once more, and only if that fails too it
//! is dead. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::election::NodeName;

#[cfg(test)]
mod tests;

/// Greetings to a node that is presumed to live: at once and after these.
const FIRST_GREETINGS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(80),
    Duration::from_millis(100),
];
/// How often nodes believed dead, and bare addresses, are greeted.
const LATER_GREETINGS: Duration = Duration::from_millis(500);
/// Time for datagrams that were under way to be refused as well, before a refusing member is
/// greeted once more.
const REFUSAL_PAUSE: Duration = Duration::from_millis(10);
/// How long a refusing member has to answer that greeting.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(60);
/// How often it is told at most that a node which lives goes on under a new epoch.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// How long a dead node is greeted that the list does not name: the list of a service that is
/// behind may lack a node which is about to be in it, and one that is out of it stays away.
const FORGET_UNNAMED: Duration = Duration::from_secs(60);
/// Most greetings sent at once: half of them to dead nodes of a large cluster would be a storm.
const BATCH: usize = 64;

/// Something that the table asks for or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Greet whoever is there.
    Greet(SocketAddr),
    /// A node that was presumed to live does not answer.
    Failed(NodeName),
    /// A member refused two datagrams, or one and did not answer the next.
    Killed(NodeName),
    /// A dead node that the list does not name is no member any more.
    Forgotten(NodeName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Presumed to live; so many greetings were sent, so many refused.
    Presumed {
        greetings: usize,
        refusals: u8,
    },
    Live,
    /// Live, but its host refused a datagram; greeted again or about to be.
    Doubted {
        greeted: bool,
    },
    Dead {
        since: Instant,
    },
}

#[derive(Debug)]
struct Entry {
    endpoint: SocketAddr,
    phase: Phase,
    next: Option<Instant>,
    /// When it was last told that it lives.
    told: Option<Instant>,
    /// Whether the last list named it; `true` also before there is one.
    named: bool,
}

/// All nodes that were ever named.
#[derive(Debug, Default)]
pub struct Peers {
    nodes: BTreeMap<NodeName, Entry>,
    joins: BTreeMap<SocketAddr, Instant>,
    /// Whether there ever was a list.
    is_listed: bool,
}

impl Peers {
    /// Nodes that are named, other than this one.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no other node is named.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Nodes that SWIM reports alive.
    pub fn live(&self) -> impl Iterator<Item = (&NodeName, SocketAddr)> {
        self.nodes
            .iter()
            .filter(|(_, entry)| matches!(entry.phase, Phase::Live | Phase::Doubted { .. }))
            .map(|(node, entry)| (node, entry.endpoint))
    }

    /// Where a node is reached.
    pub fn endpoint(&self, node: &str) -> Option<SocketAddr> {
        self.nodes.get(node).map(|entry| entry.endpoint)
    }

    /// The node that is reached there.
    pub fn at(&self, endpoint: SocketAddr) -> Option<&NodeName> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(_, entry)| entry.endpoint == endpoint)
            .map(|(node, _)| node)
    }

    /// The stream or the disk named a node. Tells whether it is a new one.
    pub fn name(&mut self, node: &NodeName, endpoint: SocketAddr, now: Instant) -> bool {
        let Some(entry) = self.nodes.get_mut(node) else {
            let entry = Entry {
                endpoint,
                phase: Phase::Presumed {
                    greetings: 0,
                    refusals: 0,
                },
                next: Some(now),
                told: None,
                named: true,
            };
            self.nodes.insert(node.clone(), entry);
            return true;
        };
        entry.named = true;
        match entry.phase {
            Phase::Presumed { .. } | Phase::Dead { .. } if entry.endpoint != endpoint => {
                entry.endpoint = endpoint;
                entry.next = Some(now);
            }
            // A live member knows best where it is.
            Phase::Presumed { .. } | Phase::Dead { .. } | Phase::Live | Phase::Doubted { .. } => {}
        }
        false
    }

    /// Keeps only members that are in this list or live; gives those that are forgotten. Who lives
    /// is kept until some time after its death.
    pub fn keep_only(&mut self, named: impl Fn(&str) -> bool) -> Vec<NodeName> {
        self.is_listed = true;
        let mut gone = Vec::new();
        for (node, entry) in &mut self.nodes {
            entry.named = named(node);
            match entry.phase {
                Phase::Presumed { .. } | Phase::Dead { .. } if !entry.named => {
                    gone.push(node.clone());
                }
                Phase::Presumed { .. }
                | Phase::Dead { .. }
                | Phase::Live
                | Phase::Doubted { .. } => {}
            }
        }
        for node in &gone {
            self.nodes.remove(node);
        }
        gone
    }

    /// Addresses to join, whoever is there.
    pub fn set_joins(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.joins.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.joins.entry(*address).or_insert(now);
        }
    }

    /// SWIM says that a node lives. Tells whether people should be told: two announcers under one
    /// name take each other's place many times a second.
    pub fn up(&mut self, node: &NodeName, endpoint: SocketAddr, now: Instant) -> bool {
        let before = self.nodes.get(node);
        let lived = before.is_some_and(|entry| !matches!(entry.phase, Phase::Dead { .. }));
        let named = before.map_or(!self.is_listed, |entry| entry.named);
        let told = before.and_then(|entry| entry.told);
        let tells = !lived || told.is_none_or(|at| now >= at + TELL_AGAIN);
        let entry = Entry {
            endpoint,
            phase: Phase::Live,
            next: None,
            told: if tells { Some(now) } else { told },
            named,
        };
        self.nodes.insert(node.clone(), entry);
        tells
    }

    /// SWIM says that a node is dead.
    pub fn down(&mut self, node: &NodeName, now: Instant) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.die(now);
        }
    }

    /// A node answered a greeting.
    pub fn answered(&mut self, node: &NodeName) {
        if let Some(entry) = self.nodes.get_mut(node)
            && matches!(entry.phase, Phase::Doubted { .. })
        {
            entry.phase = Phase::Live;
            entry.next = None;
        }
    }

    /// The host at this address refused a datagram.
    pub fn refused(&mut self, endpoint: SocketAddr, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for (node, entry) in &mut self.nodes {
            if entry.endpoint != endpoint {
                continue;
            }
            match entry.phase {
                Phase::Live => {
                    entry.phase = Phase::Doubted { greeted: false };
                    entry.next = Some(now + REFUSAL_PAUSE);
                }
                Phase::Doubted { greeted: true } => {
                    entry.die(now);
                    events.push(Event::Killed(node.clone()));
                }
                Phase::Presumed {
                    greetings,
                    refusals: 0,
                } => {
                    entry.phase = Phase::Presumed {
                        greetings,
                        refusals: 1,
                    };
                }
                Phase::Presumed { .. } => {
                    entry.die(now);
                    events.push(Event::Failed(node.clone()));
                }
                Phase::Doubted { greeted: false } | Phase::Dead { .. } => {}
            }
        }
        events
    }

    /// When [`Self::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let nodes = self.nodes.values().filter_map(|entry| entry.next);
        nodes.chain(self.joins.values().copied()).min()
    }

    /// What is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for (node, entry) in &mut self.nodes {
            if events.len() >= BATCH {
                break;
            }
            if entry.next.is_none_or(|next| next > now) {
                continue;
            }
            entry.tick(node, now, &mut events);
        }
        for event in &events {
            if let Event::Forgotten(node) = event {
                self.nodes.remove(node);
            }
        }
        let live: Vec<SocketAddr> = self.live().map(|(_, endpoint)| endpoint).collect();
        for (address, next) in &mut self.joins {
            if *next <= now {
                *next = now + LATER_GREETINGS;
                if !live.contains(address) {
                    events.push(Event::Greet(*address));
                }
            }
        }
        events
    }
}

impl Entry {
    fn die(&mut self, now: Instant) {
        self.phase = Phase::Dead { since: now };
        self.next = Some(now + LATER_GREETINGS);
    }

    fn tick(&mut self, node: &NodeName, now: Instant, events: &mut Vec<Event>) {
        match self.phase {
            Phase::Presumed {
                greetings,
                refusals,
            } => {
                if greetings > FIRST_GREETINGS.len() {
                    self.die(now);
                    events.push(Event::Failed(node.clone()));
                    return;
                }
                // The last greeting gets as long as the one before.
                let pause = FIRST_GREETINGS[greetings.min(FIRST_GREETINGS.len() - 1)];
                self.phase = Phase::Presumed {
                    greetings: greetings + 1,
                    refusals,
                };
                self.next = Some(now + pause);
                events.push(Event::Greet(self.endpoint));
            }
            Phase::Live => self.next = None,
            Phase::Doubted { greeted: false } => {
                self.phase = Phase::Doubted { greeted: true };
                self.next = Some(now + REFUSAL_TIMEOUT);
                events.push(Event::Greet(self.endpoint));
            }
            Phase::Doubted { greeted: true } => {
                self.die(now);
                events.push(Event::Killed(node.clone()));
            }
            Phase::Dead { since } if !self.named && now >= since + FORGET_UNNAMED => {
                events.push(Event::Forgotten(node.clone()));
            }
            Phase::Dead { .. } => {
                self.next = Some(now + LATER_GREETINGS);
                events.push(Event::Greet(self.endpoint));
            }
        }
    }
}
