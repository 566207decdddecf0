//! The steps of handovers, on their way out and in.

use std::time::Instant;

use super::{Note, Talk};
use crate::election::{GroupId, NodeName};
use crate::handover::Message;
use crate::members::Peer;
use crate::members::wire::{Handover, Step, pack_steps};

/// Steps of a handover that are packed together: about a datagram of them.
const STEPS_AT_ONCE: usize = 50;

#[cfg(test)]
mod tests;

impl Talk {
    pub(super) fn on_handover(&mut self, handover: Handover, at: Instant, now: Instant) {
        let from = NodeName::from(handover.node.as_str());
        // By what has been followed so far: the last words of a node that leaves come before its end.
        let is_for_me = *handover.to == *self.me().node && handover.to_epoch == self.followed_epoch;
        let sender = self.reports.known(&from);
        if !is_for_me || sender.is_none_or(|sender| sender.epoch != handover.epoch) {
            tracing::debug!(from = &*from, "handover of another run");
            self.notes.push(Note::Rejected);
            return;
        }
        let then = self.time(now);
        for step in handover.steps {
            let addresses = step.addresses;
            let Some((group, message)) = step.read(at) else {
                continue;
            };
            let is_prepared = matches!(message, Message::Prepare(_));
            let ownership = &self.ownership;
            if is_prepared && addresses.is_some_and(|it| ownership.has_others(group, it)) {
                // One of the two streams is behind: soon they know the same.
                tracing::debug!(
                    group = group.0,
                    from = &*from,
                    "prepared for other addresses"
                );
                continue;
            }
            match self.fenced.knows(group) {
                true => self.fenced.hear(group, &from, message, now),
                false => self.ownership.hear(group, from.clone(), message, then),
            }
        }
    }

    /// A node is to be sent a step of the handover of a group.
    pub fn step(&mut self, to: NodeName, group: GroupId, message: Message) {
        self.steps.entry(to).or_default().push((group, message));
    }

    /// Packs some of the steps; tells whether there were any. A few at a time, so that the ages in
    /// them are those at which they are sent.
    pub fn pack_steps(&mut self, now: Instant) -> bool {
        let Some((to, mut steps)) = self.steps.pop_first() else {
            return false;
        };
        let Some(peer) = self.swim.active(&to) else {
            return true;
        };
        let later = steps.split_off(steps.len().min(STEPS_AT_ONCE));
        let step = |(group, message): &(GroupId, Message)| {
            let step = Step::new(*group, message, now);
            let addresses = match message {
                Message::Prepare(_) => self.ownership.told_addresses(*group),
                Message::Ack(_) | Message::Go(..) => step.addresses,
            };
            Step { addresses, ..step }
        };
        // As what this node says of itself is: others may not have heard of a later run yet.
        let me = Peer {
            epoch: self.own_report.epoch(),
            ..self.me().clone()
        };
        let packed = pack_steps(&me, &peer, steps.iter().map(step).collect());
        self.unsent
            .extend(packed.into_iter().map(|datagram| (peer.endpoint, datagram)));
        if !later.is_empty() {
            self.steps.insert(to, later);
        }
        true
    }
}
