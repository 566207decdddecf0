//! What a node has of one fenced address.

use std::time::Instant;

use pharos_lease::Term;

use super::effect::{Handle, Told};
use super::index::Entry;
use crate::election::{Claim, GroupId, NodeName};
use crate::handover::UNLISTED_LIMIT;
use crate::l2::hold::Report;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Role {
    #[default]
    Idle,
    Owner,
    Leaving {
        to: NodeName,
        until: Instant,
        repeat_at: Instant,
    },
    /// It has stopped, for good as far as this epoch is concerned.
    Released,
    /// It is the next one, and was asked to hold questions.
    Holding {
        attempt: Claim,
        until: Instant,
        go: Option<(NodeName, Report)>,
    },
    /// It is named, and does not know yet what the former owner answered.
    Waiting {
        attempt: Claim,
        until: Instant,
        /// When it says once more that it holds: the answer was lost, or this was.
        repeat_at: Instant,
    },
}

/// A tenure that this node has handed over, as its heir may ask for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) to: NodeName,
    pub(super) handle: Handle,
    /// From here on the heir waits no more.
    pub(super) until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) told: Told,
    pub(super) role: Role,
    /// The tenure that other nodes may talk of: of this node, or of the owner that it follows.
    pub(super) id: Option<GroupId>,
    /// The last attempt of this node to hand it over.
    pub(super) attempt: Claim,
    /// What it has handed over last.
    pub(super) passed: Option<Passed>,
    /// Another node that was told of as the owner since this one was last.
    pub(super) other: Option<NodeName>,
    /// Since when this node answers without being a candidate.
    pub(super) unlisted_since: Option<Instant>,
    /// What the index has of it.
    pub(super) entry: Entry,
}

impl Seat {
    /// What the index is to have of it.
    pub(super) fn summary(&self, me: &NodeName) -> Entry {
        let owner = self.told.owner.as_ref();
        let answers = self.answers();
        Entry {
            deadline: self.deadline(),
            needs_lease: self.told.candidate || owner.is_some_and(|(node, _)| node == me),
            answers,
            answers_unlisted: answers && !self.told.candidate,
            released: self.released(),
        }
    }

    /// The tenure that ipam-service is to be told of as ended.
    fn released(&self) -> Option<(Term, u64)> {
        match self.role {
            Role::Released => Some((self.told.owner.as_ref()?.1, self.told.epoch)),
            Role::Idle
            | Role::Owner
            | Role::Leaving { .. }
            | Role::Holding { .. }
            | Role::Waiting { .. } => None,
        }
    }

    pub(super) fn answers(&self) -> bool {
        match self.role {
            Role::Owner | Role::Leaving { .. } => true,
            Role::Idle | Role::Released | Role::Holding { .. } | Role::Waiting { .. } => false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let unlisted = self.unlisted_since.filter(|_| self.answers());
        let unlisted = unlisted.map(|since| since + UNLISTED_LIMIT);
        let passed = self.passed.as_ref().map(|passed| passed.until);
        let others = unlisted.into_iter().chain(passed);
        self.own_deadline().into_iter().chain(others).min()
    }

    fn own_deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Leaving {
                until, repeat_at, ..
            }
            | Role::Waiting {
                until, repeat_at, ..
            } => Some(*until.min(repeat_at)),
            Role::Holding { until, .. } => Some(*until),
            Role::Idle | Role::Owner | Role::Released => None,
        }
    }
}
