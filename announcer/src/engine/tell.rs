//! What is told upstream of this node.

use std::collections::BTreeSet;

use super::Engine;
use crate::clock;
use crate::election::GroupId;
use crate::handover::Gained;
use crate::l2::burst::Spot;

impl Engine {
    pub(super) fn tell_gained(&self, group: GroupId, why: &Gained, spots: &[Spot]) {
        let names = self.names_of(spots);
        let at = clock::since_epoch();
        self.status
            .send_modify(|standing| standing.gain(group, at, why, names));
    }

    pub(super) fn tell_interfaces(&self, group: GroupId, spots: &[Spot]) {
        let names = self.names_of(spots);
        self.status
            .send_if_modified(|standing| standing.set_interfaces(group, names));
    }

    pub(super) fn tell_lost(&self, group: GroupId) {
        self.status.send_modify(|standing| standing.lose(group));
    }

    pub(super) fn tell_node(&self) {
        let unreachable = self.are_members_unreachable();
        self.status.send_if_modified(|standing| {
            standing.set_node(&self.own, unreachable, self.uplinks.deaf())
        });
    }

    fn names_of(&self, spots: &[Spot]) -> BTreeSet<String> {
        let indices: BTreeSet<u32> = spots.iter().map(|spot| spot.interface).collect();
        let ports = self.plan.ports().iter();
        ports
            .filter(|port| indices.contains(&port.index))
            .map(|port| port.name.clone())
            .collect()
    }
}
