//! What goes in and out of the handover of a group.

use crate::election::{Claim, NodeName};
use crate::l2::hold::Report;

/// What nodes say to each other about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// From the owner by this claim: get ready.
    Prepare(Claim),
    /// Ready: requests are held.
    Ack(Claim),
    /// The old owner has stopped; own it by this claim.
    Go(Claim, Report),
}

/// What a node does with requests for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Nothing.
    Silent,
    /// Keep them.
    Hold,
    /// Answer them. On the way from another duty: first those that are held, except what the
    /// former owner answered; then announce.
    Answer(Report),
    /// Answer them, and note which.
    Record,
}

/// Why a node became the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gained {
    /// Nobody ever owned it, or its owner gave it up because it was gone.
    Unowned,
    /// This node owned the group that its addresses came from.
    Inherited,
    /// The owner died or left.
    Orphaned,
    /// The owner handed it over.
    HandedOver(NodeName),
}

/// Why a node is no longer the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// It handed it over.
    HandedOver(NodeName),
    /// Another node owns it by a stronger claim.
    Outbid(NodeName),
    /// It is no candidate any more, and nobody took it within [`super::UNLISTED_LIMIT`].
    Unlisted,
    /// There is nothing to announce any more.
    Removed,
}

/// Everything that the machine asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send to a node.
    Send(NodeName, Message),
    /// From now on do this.
    Duty(Duty),
    /// Fall silent; then send `Go` by this claim with what was answered while recording, and tell
    /// everybody who owns the group now.
    Release(NodeName, Claim),
    /// Send the same `Go` again.
    RepeatGo(NodeName, Claim),
    /// Tell everybody of this claim of ours.
    Claim(Claim, Gained),
    /// Tell everybody that our claim is this one now.
    Raise(Claim),
    /// Tell everybody that it is given up.
    Unclaim(Lost),
    /// Tell everybody that the group is gone which this node owned by this claim: whoever has not
    /// learnt of it from its own stream yet is not to take it.
    Gone(Claim),
    /// Tell everybody that a group which this node said to be gone is to be announced again, and is
    /// nobody's.
    Returned,
    /// Announce the group once more: another node announced it too.
    Announce,
    /// Tell this node what we own: it seems not to know.
    Inform(NodeName),
}

impl Action {
    /// Whether it begins or ends answers: what has arrived until then is to be read before.
    pub fn hands_over(&self) -> bool {
        match self {
            Self::Duty(Duty::Answer(_) | Duty::Silent) | Self::Release(..) => true,
            Self::Duty(Duty::Hold | Duty::Record)
            | Self::Send(..)
            | Self::RepeatGo(..)
            | Self::Claim(..)
            | Self::Raise(_)
            | Self::Unclaim(_)
            | Self::Gone(_)
            | Self::Returned
            | Self::Announce
            | Self::Inform(_) => false,
        }
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed, or the candidacy or the roster changed.
    Look,
    /// The group has other addresses now.
    Readdressed,
    /// A node said something.
    Heard(NodeName, Message),
    /// The group is new, and this node owns the one that its addresses came from: it is to own
    /// this one by this claim.
    Inherited(Claim),
}
