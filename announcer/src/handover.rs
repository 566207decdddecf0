//! How one group of addresses passes from one node to another: the machine of one node.
//!
//! Pure: no socket, no clock, no task. Messages and time come in, [`Action`]s come out; the caller
//! performs them in order before it hands in anything else.
//!
//! ```text
//!   old owner                        new owner
//!     | -- prepare(claim n) ---------> |   holds the requests that it sees
//!     | <--------------- ack(claim n) -|
//!   stops                              |
//!     | -- go(claim n+1, answered) --> |   answers what it holds and the old one did not,
//!     | <------- claim n+1 (gossip) ---|   then announces
//! ```
//!
//! So a living owner is replaced without a lost answer and without two that answer. Every message
//! may be lost, repeated or late: each is repeated until its effect is seen, and each may be
//! received in every role. Only a dead owner is replaced without the handshake.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::election::{Candidacy, Claim, GroupId, NodeName, Roster, Statement, Verdict};
use crate::l2::hold::Report;

mod action;
mod hear;
mod look;
#[cfg(test)]
mod tests;

pub use action::{Action, Duty, Event, Gained, Lost, Message};

/// How long an owner waits for an ack before it tries the next node.
pub const ACK_TIMEOUT: Duration = Duration::from_millis(300);
/// After which time without an ack a prepare is sent again: several LAN round trips.
const PREPARE_REPEAT: Duration = Duration::from_millis(50);
/// After which time a go is sent again while nobody answers for the group: every repetition not
/// sent is time in which requests wait.
const GO_REPEAT: Duration = Duration::from_millis(20);
/// How long a new owner holds requests without hearing from the old one; longer than a resolver
/// waits before it asks again helps nobody.
pub const HOLD_TIMEOUT: Duration = Duration::from_millis(600);
/// How long an old owner waits to hear that the new one took over.
const PASSED_TIMEOUT: Duration = Duration::from_secs(1);
/// After a planned change that nobody acked, when it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The same while the node is to stop. Who did not ack in time may have been suspended, or its stream
/// may be behind: it is tried until it acks, or is found dead.
const DRAIN_RETRY: Duration = Duration::from_millis(100);
/// For so long a node keeps what it was handed, unless it must go. While a new list has reached one
/// of two nodes only, each hands the group to the other: a thousand times a second without this.
pub const TENURE: Duration = Duration::from_millis(500);
/// How long each living node gets to take an unowned group before the next one does.
pub const QUEUE_STEP: Duration = Duration::from_secs(1);
/// How long an owner that is no candidate any more answers at most.
pub const UNLISTED_LIMIT: Duration = Duration::from_secs(2);

/// Where an event happens.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    pub candidacy: &'a Candidacy,
    pub roster: &'a Roster,
    pub now: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    Idle {
        /// Since when it is this node's turn, or will be, to take the group.
        queued: Option<Instant>,
    },
    Holding {
        from: NodeName,
        claim: Claim,
        until: Instant,
    },
    Owner {
        claim: Claim,
        /// A planned change found nobody; not to be tried before.
        retry_at: Option<Instant>,
    },
    Handing {
        claim: Claim,
        to: NodeName,
        give_up_at: Instant,
        repeat_at: Instant,
        tried: BTreeSet<NodeName>,
    },
    Passed {
        /// That of the new owner.
        claim: Claim,
        to: NodeName,
        until: Instant,
        repeat_at: Instant,
    },
}

/// The role of this node for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    role: Role,
    unlisted_since: Option<Instant>,
    /// From whom this node has the group, if by handshake, and since when.
    predecessor: Option<(NodeName, Instant)>,
    /// Another node owns the group too, by a weaker claim.
    contested: bool,
    /// All that could own the group were asked, and none of them acked.
    asked_in_vain: bool,
    deadline: Option<Instant>,
}

impl Default for Seat {
    fn default() -> Self {
        Self {
            role: Role::Idle { queued: None },
            unlisted_since: None,
            predecessor: None,
            contested: false,
            asked_in_vain: false,
            deadline: None,
        }
    }
}

impl Seat {
    /// When [`Event::Look`] is to be handed in at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The claim by which this node owns the group (also while it hands it over).
    pub fn claim(&self) -> Option<Claim> {
        match &self.role {
            Role::Owner { claim, .. } | Role::Handing { claim, .. } => Some(*claim),
            Role::Idle { .. } | Role::Holding { .. } | Role::Passed { .. } => None,
        }
    }

    /// Whether this node answers for the group, or holds requests that it may come to answer.
    pub fn may_answer(&self) -> bool {
        match &self.role {
            Role::Owner { .. } | Role::Handing { .. } | Role::Holding { .. } => true,
            Role::Idle { .. } | Role::Passed { .. } => false,
        }
    }

    /// Whether all that could own the group were asked, and none of them acked.
    pub fn asked_in_vain(&self) -> bool {
        self.asked_in_vain
    }

    /// The seat for a group that gets this one's addresses, if this node holds requests for those.
    pub fn held_for_successor(&self) -> Option<Self> {
        matches!(self.role, Role::Holding { .. }).then(|| Self {
            role: self.role.clone(),
            ..Self::default()
        })
    }

    /// Whether it holds requests for this owner, which has this claim.
    pub fn holds_for(&self, owner: &str, claim: Claim) -> bool {
        matches!(&self.role, Role::Holding { from, claim: held, .. } if **from == *owner && *held == claim)
    }

    /// What others are told about who owns the group; `None`: nothing.
    pub fn statement(&self, group: GroupId) -> Option<Statement> {
        let (holder, claim) = match &self.role {
            Role::Owner { claim, .. } | Role::Handing { claim, .. } => (None, *claim),
            Role::Passed { claim, to, .. } => (Some(to.clone()), *claim),
            Role::Idle { .. } | Role::Holding { .. } => return None,
        };
        Some(Statement {
            group,
            holder,
            claim: Some(claim),
        })
    }

    /// Whether a handover is under way, also to this node, or would be tried at once. One that must
    /// stop tries again and again while there is a node that could have the group.
    pub fn is_moving(&self, scene: &Scene<'_>) -> bool {
        match &self.role {
            Role::Handing { .. } | Role::Passed { .. } | Role::Holding { .. } => true,
            Role::Owner { claim, retry_at } => {
                (retry_at.is_none() || scene.roster.own.draining)
                    && scene.roster.judge_owned(scene.candidacy, *claim) != Verdict::Keep
            }
            Role::Idle { .. } => false,
        }
    }

    /// Forgets that a planned change found nobody a moment ago: the reasons are new ones.
    pub fn retry_now(&mut self) {
        if let Role::Owner { retry_at, .. } = &mut self.role {
            *retry_at = None;
        }
    }

    /// Stops whatever it does: the group is gone.
    pub fn dissolve(self) -> Vec<Action> {
        match self.role {
            Role::Idle { .. } => Vec::new(),
            Role::Holding { .. } => vec![Action::Duty(Duty::Silent)],
            Role::Passed { .. } => vec![Action::Unclaim(Lost::Removed)],
            Role::Owner { claim, .. } | Role::Handing { claim, .. } => {
                vec![Action::Duty(Duty::Silent), Action::Gone(claim)]
            }
        }
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: Event, scene: &Scene<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Look => {}
            // Who is prepared is so for the addresses that it was asked for.
            Event::Readdressed => {
                if let Role::Handing { claim, .. } = &self.role {
                    self.keep(*claim, None, scene, &mut actions);
                }
            }
            Event::Inherited(claim) => {
                self.own(
                    claim,
                    Report::default(),
                    Gained::Inherited,
                    scene,
                    &mut actions,
                );
            }
            Event::Heard(from, Message::Prepare(claim)) => {
                self.on_prepare(from, claim, scene, &mut actions);
            }
            Event::Heard(from, Message::Ack(claim)) => {
                self.on_ack(from, claim, scene, &mut actions);
            }
            Event::Heard(from, Message::Go(claim, report)) => {
                self.on_go(from, claim, report, scene, &mut actions);
            }
        }
        self.look(scene, &mut actions);
        self.deadline = self.next_deadline(scene);
        actions
    }

    fn own(
        &mut self,
        claim: Claim,
        report: Report,
        why: Gained,
        scene: &Scene<'_>,
        actions: &mut Vec<Action>,
    ) {
        self.end_tenure();
        self.predecessor = match &why {
            Gained::HandedOver(from) => Some((from.clone(), scene.now)),
            Gained::Unowned | Gained::Inherited | Gained::Orphaned => None,
        };
        self.role = Role::Owner {
            claim,
            retry_at: None,
        };
        actions.push(Action::Duty(Duty::Answer(report)));
        actions.push(Action::Claim(claim, why));
    }

    /// Forgets what belongs to one time of owning the group.
    fn end_tenure(&mut self) {
        self.unlisted_since = None;
        self.predecessor = None;
        self.contested = false;
        self.asked_in_vain = false;
    }

    fn lose(&mut self, why: Lost, actions: &mut Vec<Action>) {
        self.role = Role::Idle { queued: None };
        self.end_tenure();
        actions.push(Action::Duty(Duty::Silent));
        actions.push(Action::Unclaim(why));
    }
}
