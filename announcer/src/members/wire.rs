//! The datagrams between announcers, before they are sealed: protobuf, written by hand because no
//! other program reads them.
//!
//! Field numbers are kept for ever: during an upgrade old and new announcers talk to each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use pnet_base::MacAddr;
use prost::{Message, Oneof};

use super::Peer;
use crate::election::{Claim, Condition, GroupId, Statement};
use crate::handover;
use crate::l2::hold::{Answered, Report};

/// Most bytes of a datagram before it is sealed: with the seal, UDP, IPv6 and Ethernet headers it
/// fits into 1500.
pub const MAX_DATAGRAM: usize = 1350;
/// Most bytes of statements in one part of a state, if it has more than one: leaves room for the
/// longest name and some dozens of interfaces.
pub const STATEMENTS_PER_PART: usize = 700;

#[derive(Clone, PartialEq, Message)]
pub struct Datagram {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub body: Option<Body>,
}

impl From<Body> for Datagram {
    fn from(body: Body) -> Self {
        Self { body: Some(body) }
    }
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// Bytes of the SWIM protocol.
    #[prost(bytes, tag = "1")]
    Swim(Vec<u8>),
    /// Who are you? Answered by a welcome. Another node may send it in the name of one that it knows
    /// to live.
    #[prost(message, tag = "2")]
    Hello(Greeting),
    #[prost(message, tag = "3")]
    Welcome(Greeting),
    /// All that a node says about itself, or a part of it.
    #[prost(message, tag = "4")]
    State(State),
    /// What changed in it.
    #[prost(message, tag = "5")]
    Delta(Delta),
    /// Send me your state.
    #[prost(message, tag = "6")]
    Ask(Greeting),
    /// Of the handshake by which a group changes its owner.
    #[prost(message, tag = "7")]
    Handover(Handover),
    /// What do you know of another node, which does not answer me? An
    /// older announcer does not answer this.
    #[prost(message, tag = "8")]
    AskAbout(AskAbout),
    /// What another node says about itself, as far as the sender knows.
    #[prost(message, tag = "9")]
    Relayed(State),
}

#[derive(Clone, PartialEq, Message)]
pub struct WirePeer {
    #[prost(string, tag = "1")]
    pub node: String,
    /// `address:port`.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Greeting {
    #[prost(message, required, tag = "1")]
    pub from: WirePeer,
    /// The epoch of the receiver up to which the sender believes it dead; 0 if not at all.
    #[prost(uint64, tag = "2")]
    pub dead_epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct WireStatement {
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// 0: given up.
    #[prost(uint64, tag = "2")]
    pub claim: u64,
    /// Empty: the sender.
    #[prost(string, tag = "3")]
    pub holder: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct WireCondition {
    #[prost(bool, tag = "1")]
    pub ready: bool,
    #[prost(bool, tag = "2")]
    pub hold_down: bool,
    #[prost(bool, tag = "3")]
    pub draining: bool,
    #[prost(string, repeated, tag = "4")]
    pub interfaces: Vec<String>,
    /// Their hardware addresses, 48 bits each.
    #[prost(fixed64, repeated, tag = "5")]
    pub macs: Vec<u64>,
    /// Which of `interfaces`, from 0, are for IPv4 only. Earlier builds say it of none.
    #[prost(uint32, repeated, tag = "6")]
    pub only_ipv4: Vec<u32>,
    /// Others, which are for IPv6 only.
    #[prost(string, repeated, tag = "7")]
    pub only_ipv6: Vec<String>,
}

/// The version of what a node says about itself: (epoch, version) grows with each change.
#[derive(Clone, PartialEq, Message)]
pub struct Version {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct AskAbout {
    #[prost(message, required, tag = "1")]
    pub from: WirePeer,
    /// What the sender knows already: version 0 if nothing.
    #[prost(message, required, tag = "2")]
    pub known: Version,
    /// The epoch of the node up to which the sender believes it dead; 0 if not at all. If it lives,
    /// it is to be told.
    #[prost(uint64, tag = "3")]
    pub dead_epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct State {
    #[prost(message, required, tag = "1")]
    pub version: Version,
    /// This part of so many, from 0.
    #[prost(uint32, tag = "2")]
    pub part: u32,
    #[prost(uint32, tag = "3")]
    pub parts: u32,
    #[prost(message, required, tag = "4")]
    pub condition: WireCondition,
    #[prost(message, repeated, tag = "5")]
    pub statements: Vec<WireStatement>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Delta {
    #[prost(message, required, tag = "1")]
    pub version: Version,
    #[prost(message, required, tag = "2")]
    pub condition: WireCondition,
    #[prost(message, repeated, tag = "3")]
    pub statements: Vec<WireStatement>,
}

/// It counts only between the runs that it names: claims begin anew with the runs of all nodes, so
/// that one from before could seem to be the strongest.
#[derive(Clone, PartialEq, Message)]
pub struct Handover {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(message, repeated, tag = "2")]
    pub steps: Vec<Step>,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(string, tag = "4")]
    pub to: String,
    #[prost(uint64, tag = "5")]
    pub to_epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Step {
    #[prost(uint64, tag = "1")]
    pub group: u64,
    #[prost(uint64, tag = "2")]
    pub claim: u64,
    #[prost(enumeration = "StepKind", tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub answered: Vec<WireAnswered>,
    #[prost(bool, tag = "5")]
    pub truncated: bool,
    /// Octets of addresses that nobody has ever answered for.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub probing: Vec<Vec<u8>>,
    /// In prepare and go: a digest of the addresses of the group, as the sender knows it. Earlier
    /// builds do not say it.
    #[prost(fixed64, optional, tag = "7")]
    pub addresses: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum StepKind {
    Unspecified = 0,
    Prepare = 1,
    Ack = 2,
    Go = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct WireAnswered {
    /// The 48 bits of the asker's MAC address.
    #[prost(uint64, tag = "1")]
    pub asker: u64,
    /// An IPv4 address.
    #[prost(fixed32, tag = "2")]
    pub target: u32,
    #[prost(uint32, tag = "3")]
    pub age_micros: u32,
    /// An IPv6 address in 16 bytes; empty for an IPv4 address.
    #[prost(bytes, tag = "4")]
    pub target6: Vec<u8>,
    /// Which address it asked from, in 32 bits; earlier builds do not say it.
    #[prost(fixed32, optional, tag = "5")]
    pub from: Option<u32>,
}

impl From<&Peer> for WirePeer {
    fn from(peer: &Peer) -> Self {
        Self {
            node: peer.node.to_string(),
            endpoint: peer.endpoint.to_string(),
            epoch: peer.epoch,
        }
    }
}

/// A peer whose endpoint is no `address:port`, or that has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a peer")]
pub struct BadPeer;

impl TryFrom<WirePeer> for Peer {
    type Error = BadPeer;

    fn try_from(wire: WirePeer) -> Result<Self, BadPeer> {
        if wire.node.is_empty() || wire.node.len() > 253 || wire.epoch > Peer::LAST_EPOCH {
            return Err(BadPeer);
        }
        Ok(Self {
            node: wire.node.into(),
            endpoint: wire.endpoint.parse().map_err(|_| BadPeer)?,
            epoch: wire.epoch,
        })
    }
}

impl From<&Condition> for WireCondition {
    fn from(condition: &Condition) -> Self {
        Self {
            ready: condition.ready,
            hold_down: condition.hold_down,
            draining: condition.draining,
            interfaces: condition.interfaces.iter().cloned().collect(),
            macs: condition.macs.iter().map(|mac| bits_of(*mac)).collect(),
            only_ipv4: (0..)
                .zip(&condition.interfaces)
                .filter(|(_, name)| !condition.interfaces6.contains(*name))
                .map(|(position, _)| position)
                .collect(),
            only_ipv6: condition
                .interfaces6
                .difference(&condition.interfaces)
                .cloned()
                .collect(),
        }
    }
}

impl From<WireCondition> for Condition {
    fn from(wire: WireCondition) -> Self {
        let only_ipv4: BTreeSet<u32> = wire.only_ipv4.into_iter().collect();
        let positions = (0..).zip(&wire.interfaces);
        let both = positions.filter(|(position, _)| !only_ipv4.contains(position));
        let interfaces6 = both.map(|(_, name)| name).chain(&wire.only_ipv6);
        let interfaces6 = interfaces6.cloned().collect();
        Self {
            ready: wire.ready,
            hold_down: wire.hold_down,
            draining: wire.draining,
            interfaces6,
            interfaces: wire.interfaces.into_iter().collect(),
            macs: wire.macs.into_iter().map(mac_of).collect(),
        }
    }
}

impl From<&Statement> for WireStatement {
    fn from(statement: &Statement) -> Self {
        Self {
            group: statement.group.0,
            claim: statement.claim.unwrap_or_default().0,
            holder: statement.holder.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

impl From<WireStatement> for Statement {
    fn from(wire: WireStatement) -> Self {
        Self {
            group: GroupId(wire.group),
            holder: (!wire.holder.is_empty()).then(|| wire.holder.into()),
            claim: (wire.claim != 0).then_some(Claim(wire.claim)),
        }
    }
}

fn bits_of(mac: MacAddr) -> u64 {
    let octets = mac.octets();
    octets
        .iter()
        .fold(0, |bits, octet| bits << 8 | u64::from(*octet))
}

fn octets_of(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What is no address is none that anybody answers for.
fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

fn mac_of(bits: u64) -> MacAddr {
    let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
    MacAddr(a, b, c, d, e, f)
}

/// Cuts statements into parts that fit into a datagram each; at least one part.
pub fn cut(statements: &[Statement]) -> Vec<Vec<WireStatement>> {
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for statement in statements {
        let wire = WireStatement::from(statement);
        let length = wire.encoded_len() + 3;
        if size + length > STATEMENTS_PER_PART && size > 0 {
            parts.push(Vec::new());
            size = 0;
        }
        size += length;
        if let Some(part) = parts.last_mut() {
            part.push(wire);
        }
    }
    parts
}

impl Step {
    /// A message about a group that is sent now. Clocks differ: times go as ages.
    pub fn new(group: GroupId, message: &handover::Message, now: Instant) -> Self {
        let nothing = Report::default();
        let (kind, claim, report) = match message {
            handover::Message::Prepare(claim) => (StepKind::Prepare, claim, &nothing),
            handover::Message::Ack(claim) => (StepKind::Ack, claim, &nothing),
            handover::Message::Go(claim, report) => (StepKind::Go, claim, report),
        };
        Self {
            group: group.0,
            claim: claim.0,
            kind: kind.into(),
            answered: report
                .answered
                .iter()
                .map(|one| WireAnswered::new(one, now))
                .collect(),
            truncated: report.truncated,
            probing: report.probing.iter().map(octets_of).collect(),
            addresses: report.addresses,
        }
    }

    /// The message that arrived at this time; `None` if it is of a kind that this version does not
    /// know.
    pub fn read(self, at: Instant) -> Option<(GroupId, handover::Message)> {
        let claim = Claim(self.claim);
        let message = match StepKind::try_from(self.kind).ok()? {
            StepKind::Unspecified => return None,
            StepKind::Prepare => handover::Message::Prepare(claim),
            StepKind::Ack => handover::Message::Ack(claim),
            StepKind::Go => {
                let report = Report {
                    answered: self.answered.iter().map(|one| one.read(at)).collect(),
                    truncated: self.truncated,
                    probing: self
                        .probing
                        .iter()
                        .filter_map(|it| address_of(it))
                        .collect(),
                    addresses: self.addresses,
                };
                handover::Message::Go(claim, report)
            }
        };
        Some((GroupId(self.group), message))
    }
}

impl WireAnswered {
    fn new(answered: &Answered, now: Instant) -> Self {
        let age = now.saturating_duration_since(answered.at);
        let (target, target6) = match answered.target {
            IpAddr::V4(target) => (target.into(), Vec::new()),
            IpAddr::V6(target) => (0, target.octets().to_vec()),
        };
        Self {
            asker: bits_of(answered.asker),
            target,
            age_micros: u32::try_from(age.as_micros()).unwrap_or(u32::MAX),
            target6,
            from: answered.from,
        }
    }

    fn read(&self, arrived: Instant) -> Answered {
        let age = Duration::from_micros(self.age_micros.into());
        // What is no address of either family is no answer to a question that anybody holds.
        let target = match <[u8; 16]>::try_from(self.target6.as_slice()) {
            Ok(octets) => IpAddr::V6(Ipv6Addr::from(octets)),
            Err(_) => IpAddr::V4(self.target.into()),
        };
        Answered {
            asker: mac_of(self.asker),
            from: self.from,
            target,
            at: arrived.checked_sub(age).unwrap_or(arrived),
        }
    }
}

/// Packs steps for one node into as few datagrams as they fit into.
pub fn pack_steps(from: &Peer, to: &Peer, steps: Vec<Step>) -> Vec<Datagram> {
    let mut datagrams = Vec::new();
    let mut pending: Vec<Step> = Vec::new();
    // The names and epochs, and the headers of the enclosing messages.
    let base = from.node.len() + to.node.len() + 48;
    let mut size = base;
    for step in steps {
        // A key and a length of two bytes each come on top.
        let length = step.encoded_len() + 4;
        if size + length > MAX_DATAGRAM && !pending.is_empty() {
            datagrams.push(handover_datagram(from, to, std::mem::take(&mut pending)));
            size = base;
        }
        size += length;
        pending.push(step);
    }
    if !pending.is_empty() {
        datagrams.push(handover_datagram(from, to, pending));
    }
    datagrams
}

fn handover_datagram(from: &Peer, to: &Peer, steps: Vec<Step>) -> Datagram {
    Datagram {
        body: Some(Body::Handover(Handover {
            node: from.node.to_string(),
            steps,
            epoch: from.epoch,
            to: to.node.to_string(),
            to_epoch: to.epoch,
        })),
    }
}

#[cfg(test)]
mod tests;
