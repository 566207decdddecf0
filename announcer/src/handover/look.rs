//! What follows for a group from time and from what is known of the others.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{
    ACK_TIMEOUT, Action, DRAIN_RETRY, Duty, GO_REPEAT, Gained, Lost, Message, PREPARE_REPEAT,
    QUEUE_STEP, RETRY, Role, Scene, Seat, TENURE, UNLISTED_LIMIT,
};
use crate::election::{Claim, Leave, Verdict};
use crate::l2::hold::Report;

impl Seat {
    pub(super) fn look(&mut self, scene: &Scene<'_>, actions: &mut Vec<Action>) {
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
            let group = scene.candidacy.id;
            let peak = scene.roster.peak(group);
            let why = if peak == Claim::default() || scene.roster.has_ended(group) {
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
            Verdict::Keep => self.keep(claim, None, scene, actions),
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
        // Of equal claims this one is stronger. An earlier build may think otherwise, but it yields to a
        // higher one.
        if let (Role::Owner { claim, .. }, Some((_, theirs))) = (&mut self.role, rival)
            && contested
            && theirs == *claim
        {
            *claim = scene.roster.peak(scene.candidacy.id).max(*claim).next();
            actions.push(Action::Raise(*claim));
        }
    }

    /// Goes on owning, whatever was planned. Where somebody may hold requests for the attempt, which are
    /// answered from now on, the next attempt is by another claim: so that is not taken for this one.
    pub(super) fn keep(
        &mut self,
        mut claim: Claim,
        retry_at: Option<Instant>,
        scene: &Scene<'_>,
        actions: &mut Vec<Action>,
    ) {
        if let Role::Handing { .. } = &self.role {
            claim = scene.roster.peak(scene.candidacy.id).max(claim).next();
            actions.push(Action::Duty(Duty::Answer(Report::default())));
            actions.push(Action::Raise(claim));
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
            let pause = match scene.roster.own.draining {
                true => DRAIN_RETRY,
                false => RETRY,
            };
            self.asked_in_vain |= !tried.is_empty();
            return self.keep(claim, Some(now + pause), scene, actions);
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

    pub(super) fn next_deadline(&self, scene: &Scene<'_>) -> Option<Instant> {
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
