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

use crate::election::{Candidacy, Claim, GroupId, Leave, NodeName, Roster, Statement, Verdict};
use crate::l2::hold::Report;

mod action;
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
    deadline: Option<Instant>,
}

impl Default for Seat {
    fn default() -> Self {
        Self {
            role: Role::Idle { queued: None },
            unlisted_since: None,
            predecessor: None,
            contested: false,
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

    /// Whether a handover is under way, also to this node, or would be tried at once.
    pub fn is_moving(&self, scene: &Scene<'_>) -> bool {
        match &self.role {
            Role::Handing { .. } | Role::Passed { .. } | Role::Holding { .. } => true,
            Role::Owner { claim, retry_at } => {
                retry_at.is_none()
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

    fn on_prepare(
        &mut self,
        from: NodeName,
        claim: Claim,
        scene: &Scene<'_>,
        actions: &mut Vec<Action>,
    ) {
        let outbid = match &self.role {
            Role::Idle { .. } => false,
            Role::Holding { claim: held, .. } => claim < *held,
            // A new owner may give back at once what it was just given.
            Role::Passed { claim: passed, .. } => claim < *passed,
            Role::Owner { claim: own, .. } | Role::Handing { claim: own, .. } => {
                claim < *own || (claim == *own && !scene.candidacy.prefers(&from, &scene.roster.me))
            }
        };
        if outbid {
            if self.claim().is_some() {
                actions.push(Action::Inform(from));
            }
            return;
        }
        let rival = scene.roster.strongest_other(scene.candidacy);
        let stale = rival.is_some_and(|(node, theirs)| *node != from && theirs > claim);
        if stale || !scene.roster.can_serve(scene.candidacy) {
            return;
        }
        match &self.role {
            Role::Owner { .. } | Role::Handing { .. } | Role::Passed { .. } => {
                actions.push(Action::Unclaim(Lost::Outbid(from.clone())));
                actions.push(Action::Duty(Duty::Hold));
            }
            Role::Idle { .. } => actions.push(Action::Duty(Duty::Hold)),
            // A repetition.
            Role::Holding {
                from: held_for,
                claim: held,
                ..
            } if *held_for == from && *held == claim => {}
            // What was held until now has been answered by owners before this one.
            Role::Holding { .. } => actions.push(Action::Duty(Duty::Hold)),
        }
        actions.push(Action::Send(from.clone(), Message::Ack(claim)));
        self.role = Role::Holding {
            from,
            claim,
            until: scene.now + HOLD_TIMEOUT,
        };
    }

    fn on_ack(
        &mut self,
        from: NodeName,
        claim: Claim,
        scene: &Scene<'_>,
        actions: &mut Vec<Action>,
    ) {
        match &self.role {
            Role::Handing { claim: own, to, .. } if *to == from && *own == claim => {
                let claim = scene.roster.peak(scene.candidacy.id).max(claim).next();
                actions.push(Action::Release(from.clone(), claim));
                self.role = Role::Passed {
                    claim,
                    to: from,
                    until: scene.now + PASSED_TIMEOUT,
                    repeat_at: scene.now + GO_REPEAT,
                };
            }
            Role::Passed { claim, to, .. } if *to == from => {
                actions.push(Action::RepeatGo(from, *claim));
            }
            // Late: this node waits for another ack, or for none.
            Role::Handing { .. }
            | Role::Passed { .. }
            | Role::Idle { .. }
            | Role::Holding { .. }
            | Role::Owner { .. } => {}
        }
    }

    fn on_go(
        &mut self,
        from: NodeName,
        claim: Claim,
        report: Report,
        scene: &Scene<'_>,
        actions: &mut Vec<Action>,
    ) {
        let rival = scene.roster.strongest_other(scene.candidacy);
        if rival.is_some_and(|(_, theirs)| theirs >= claim) {
            return;
        }
        let accepted = match &self.role {
            Role::Idle { .. } | Role::Holding { .. } => true,
            Role::Owner { claim: own, .. } | Role::Handing { claim: own, .. } => {
                if claim <= *own {
                    // A repetition: the sender does not know yet that it has arrived.
                    actions.push(Action::Inform(from));
                    return;
                }
                true
            }
            Role::Passed { claim: passed, .. } => claim > *passed,
        };
        if accepted {
            self.own(claim, report, Gained::HandedOver(from), scene, actions);
        }
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
    }

    fn lose(&mut self, why: Lost, actions: &mut Vec<Action>) {
        self.role = Role::Idle { queued: None };
        self.end_tenure();
        actions.push(Action::Duty(Duty::Silent));
        actions.push(Action::Unclaim(why));
    }

    fn look(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        match &self.role {
            Role::Idle { .. } => self.look_idle(scene, actions),
            Role::Holding { .. } => self.look_holding(scene, actions),
            Role::Owner { .. } | Role::Handing { .. } => self.look_owning(scene, actions),
            Role::Passed { .. } => self.look_passed(scene, actions),
        }
    }

    fn look_idle(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        let since = match &self.role {
            Role::Idle { queued } => queued.unwrap_or(scene.now),
            Role::Holding { .. }
            | Role::Owner { .. }
            | Role::Handing { .. }
            | Role::Passed { .. } => scene.now,
        };
        let (queued, take) = match scene.roster.judge_unowned(scene.candidacy) {
            Verdict::Take => (None, true),
            Verdict::Queue(ahead) => (Some(since), queue_end(since, ahead) <= scene.now),
            Verdict::Leave(
                Leave::Owned
                | Leave::NotCandidate
                | Leave::Unfit
                | Leave::Asking
                | Leave::Wondering
                | Leave::Isolated,
            )
            | Verdict::Keep
            | Verdict::HandTo(_)
            | Verdict::Yield(_) => (None, false),
        };
        self.role = Role::Idle { queued };
        if take {
            let peak = scene.roster.peak(scene.candidacy.id);
            let why = if peak == Claim::default() {
                Gained::Unowned
            } else {
                Gained::Orphaned
            };
            self.own(peak.next(), Report::default(), why, scene, actions);
        }
    }

    fn look_holding(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        let Role::Holding { from, claim, until } = &self.role else {
            return;
        };
        let rival = scene.roster.strongest_other(scene.candidacy);
        let rival_took_it = rival.is_some_and(|(node, theirs)| node != from && theirs > *claim);
        let from_died = !scene.roster.lives(from);
        if scene.now < *until && !from_died && !rival_took_it {
            return;
        }
        self.role = Role::Idle { queued: None };
        self.look_idle(scene, actions);
        if self.claim().is_none() {
            actions.push(Action::Duty(Duty::Silent));
        }
    }

    fn look_owning(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        let Some(claim) = self.claim() else { return };
        match scene.roster.judge_owned(scene.candidacy, claim) {
            Verdict::Yield(to) => return self.lose(Lost::Outbid(to), actions),
            Verdict::Keep => self.keep(claim, None, actions),
            Verdict::HandTo(_) => self.hand_over(claim, scene, actions),
            Verdict::Take | Verdict::Queue(_) | Verdict::Leave(_) => {}
        }
        self.look_contested(scene, actions);
        if scene.candidacy.includes(&scene.roster.me) {
            self.unlisted_since = None;
            return;
        }
        let since = *self.unlisted_since.get_or_insert(scene.now);
        if scene.now >= since + UNLISTED_LIMIT {
            self.lose(Lost::Unlisted, actions);
        }
    }

    /// After a partition, or a pause of the other node, neighbours may believe what that one said
    /// last: once it has stopped, they are told again who it is.
    fn look_contested(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        let rival = scene.roster.strongest_other(scene.candidacy);
        // The predecessor has stopped before this node began; its claim is just not taken back yet.
        let contested = rival.is_some_and(|(node, _)| {
            let predecessor = self.predecessor.as_ref();
            predecessor.is_none_or(|(predecessor, _)| predecessor != node)
        });
        if std::mem::replace(&mut self.contested, contested) && !contested {
            actions.push(Action::Announce);
        }
    }

    /// Goes on owning, whatever was planned.
    fn keep(&mut self, claim: Claim, retry_at: Option<Instant>, actions: &mut Vec<Action>) {
        if let Role::Handing { .. } = &self.role {
            actions.push(Action::Duty(Duty::Answer(Report::default())));
        }
        self.role = Role::Owner { claim, retry_at };
    }

    fn hand_over(&mut self, claim: Claim, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        let now = scene.now;
        let (current, mut tried) = match &mut self.role {
            Role::Handing {
                to,
                give_up_at,
                tried,
                ..
            } => {
                if now >= *give_up_at {
                    tried.insert(to.clone());
                }
                (Some(to.clone()), std::mem::take(tried))
            }
            Role::Owner { retry_at, .. } => {
                if retry_at.is_some_and(|at| now < at) {
                    return;
                }
                let tenure = self.predecessor.as_ref().map(|(_, since)| *since + TENURE);
                if tenure.is_some_and(|end| now < end) && scene.roster.can_serve(scene.candidacy) {
                    *retry_at = tenure;
                    return;
                }
                (None, BTreeSet::new())
            }
            Role::Idle { .. } | Role::Holding { .. } | Role::Passed { .. } => return,
        };
        let Some(heir) = scene.roster.heir(scene.candidacy, &tried) else {
            return self.keep(claim, Some(now + RETRY), actions);
        };
        if current.as_ref() == Some(&heir) {
            if let Role::Handing {
                repeat_at,
                tried: kept,
                ..
            } = &mut self.role
            {
                *kept = std::mem::take(&mut tried);
                if now >= *repeat_at {
                    *repeat_at = now + PREPARE_REPEAT;
                    actions.push(Action::Send(heir, Message::Prepare(claim)));
                }
            }
            return;
        }
        if current.is_none() {
            actions.push(Action::Duty(Duty::Record));
        }
        actions.push(Action::Send(heir.clone(), Message::Prepare(claim)));
        self.role = Role::Handing {
            claim,
            to: heir,
            give_up_at: now + ACK_TIMEOUT,
            repeat_at: now + PREPARE_REPEAT,
            tried,
        };
    }

    fn look_passed(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
        let Role::Passed {
            claim,
            to,
            until,
            repeat_at,
        } = &mut self.role
        else {
            return;
        };
        let taken = scene
            .roster
            .strongest_other(scene.candidacy)
            .is_some_and(|(_, theirs)| theirs >= *claim);
        if taken || !scene.roster.lives(to) || scene.now >= *until {
            let why = Lost::HandedOver(to.clone());
            self.role = Role::Idle { queued: None };
            self.end_tenure();
            actions.push(Action::Unclaim(why));
            if !taken {
                self.look_idle(scene, actions);
            }
        } else if scene.now >= *repeat_at {
            *repeat_at = scene.now + GO_REPEAT;
            actions.push(Action::RepeatGo(to.clone(), *claim));
        }
    }

    fn next_deadline(&self, scene: &Scene<'_>) -> Option<Instant> {
        let owning = self.claim().is_some();
        let unlisted = self
            .unlisted_since
            .filter(|_| owning)
            .map(|since| since + UNLISTED_LIMIT);
        let own = match &self.role {
            Role::Idle { queued } => {
                queued.and_then(|since| match scene.roster.judge_unowned(scene.candidacy) {
                    Verdict::Queue(ahead) => Some(queue_end(since, ahead)),
                    Verdict::Take
                    | Verdict::Keep
                    | Verdict::HandTo(_)
                    | Verdict::Yield(_)
                    | Verdict::Leave(_) => None,
                })
            }
            Role::Holding { until, .. } => Some(*until),
            Role::Owner { retry_at, .. } => *retry_at,
            Role::Handing {
                give_up_at,
                repeat_at,
                ..
            } => Some(*give_up_at.min(repeat_at)),
            Role::Passed {
                until, repeat_at, ..
            } => Some(*until.min(repeat_at)),
        };
        [own, unlisted].into_iter().flatten().min()
    }
}

/// When a node with so many living nodes before it takes a group that stayed unowned.
fn queue_end(since: Instant, ahead: usize) -> Instant {
    // More than an hour is never waited for; the cap keeps the product in range.
    since + QUEUE_STEP * u32::try_from(ahead).unwrap_or(3600).min(3600)
}
