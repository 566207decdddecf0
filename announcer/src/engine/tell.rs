//! What is told upstream of this node.

use std::collections::BTreeSet;

use super::Engine;
use crate::clock;
use crate::election::GroupId;
use crate::handover::Gained;

impl Engine {
    pub(super) fn tell_gained(&self, group: GroupId, why: &Gained) {
        let names = self.answered_on(group);
        let at = clock::since_epoch();
        self.status
            .send_modify(|standing| standing.gain(group, at, why, names));
    }

    pub(super) fn tell_interfaces(&self, group: GroupId) {
        let names = self.answered_on(group);
        self.status
            .send_if_modified(|standing| standing.set_interfaces(group, names));
    }

    pub(super) fn tell_lost(&self, group: GroupId) {
        self.status.send_modify(|standing| standing.lose(group));
    }

    pub(super) fn tell_node(&self) {
        let unreachable = self.are_members_unreachable();
        self.status
            .send_if_modified(|standing| standing.set_node(&self.own, unreachable));
    }

    fn answered_on(&self, group: GroupId) -> BTreeSet<String> {
        let spots = self.plan.spots(group);
        let indices: BTreeSet<u32> = spots.iter().map(|spot| spot.interface).collect();
        let ports = self.plan.ports().iter();
        ports
            .filter(|port| indices.contains(&port.index))
            .map(|port| port.name.clone())
            .collect()
    }
}
