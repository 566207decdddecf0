//! What is told of fenced addresses, and what is to be done about them.

use pharos_lease::Term;

use crate::book::Key;
use crate::election::{Claim, GroupId, NodeName};
#[cfg(doc)]
use crate::handover::UNLISTED_LIMIT;
use crate::handover::{Duty, Gained};

/// What is told of a fenced address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Who may answer, and under which term.
    pub owner: Option<(NodeName, Term)>,
    pub epoch: u64,
    /// For whom the owner is to stop.
    pub next: Option<NodeName>,
    /// Whether this node is a candidate.
    pub candidate: bool,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// From now on do this about an address. To answer is allowed under this term only.
    Duty(Key, Duty, Term),
    /// Stop answering, and tell this node what was answered while recording.
    Release(Key, NodeName, Handle),
    /// Tell it again.
    RepeatGo(Key, NodeName, Handle),
    /// Ask this node to hold questions for the address.
    Prepare(NodeName, Handle),
    /// Tell this node that they are held.
    Ack(NodeName, Handle),
    /// Do nothing about an address any more.
    Silence(Key),
    /// This node is the owner now, under this epoch.
    Gained(Key, u64, Gained),
    Lost(Key, Lost),
}

impl Effect {
    /// Whether it begins or ends answers: what has arrived until then is to be read before.
    pub fn hands_over(&self) -> bool {
        match self {
            Self::Duty(_, Duty::Answer(_) | Duty::Silent, _)
            | Self::Release(..)
            | Self::Silence(_) => true,
            Self::Duty(_, Duty::Hold | Duty::Record, _)
            | Self::RepeatGo(..)
            | Self::Prepare(..)
            | Self::Ack(..)
            | Self::Gained(..)
            | Self::Lost(..) => false,
        }
    }

    /// Why this node owns an address from now on, if this says that it does.
    pub fn gained(&self, address: &Key) -> Option<&Gained> {
        if let Self::Gained(key, _, why) = self
            && key == address
        {
            return Some(why);
        }
        None
    }
}

/// Why a node is not the owner of a fenced address any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It made room for another.
    Released,
    /// It is no candidate any more, and nobody took it within [`UNLISTED_LIMIT`].
    Unlisted,
    /// Its lease was not renewed in time.
    LeaseOver,
    /// There is nothing to announce any more, or another is named.
    Removed,
}

/// An attempt to hand a tenure over, as the nodes of a cluster talk of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle {
    /// Of the tenure.
    pub id: GroupId,
    /// The how-manieth attempt.
    pub attempt: Claim,
}

/// A tenure that this node has ended, as ipam-service is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Released {
    pub key: Key,
    pub term: Term,
    pub epoch: u64,
}

/// The name of a tenure among the nodes of a cluster.
pub(super) fn tenure_id(key: &Key, term: Term, epoch: u64) -> GroupId {
    let text = format!("{}\0{}\0{}\0{epoch}", key.space, key.address, term.0);
    GroupId(pharos_proto::digest::node_set_id([text.as_str()]))
}

impl Told {
    pub(super) fn is_of(&self, node: &NodeName, term: Option<Term>) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|(owner, of)| owner == node && Some(*of) == term)
    }
}
