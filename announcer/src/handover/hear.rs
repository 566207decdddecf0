//! What a node does when another one says something about a group.

use super::{
    Action, Duty, GO_REPEAT, Gained, HOLD_TIMEOUT, Lost, Message, PASSED_TIMEOUT, Role, Scene, Seat,
};
use crate::election::{Claim, NodeName, is_stronger};
use crate::l2::hold::Report;

impl Seat {
    pub(super) fn on_prepare(
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
                !is_stronger(scene.candidacy.id, (&from, claim), (&scene.roster.me, *own))
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

    pub(super) fn on_ack(
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

    pub(super) fn on_go(
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
}
