//! What is told upstream of this node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Engine;
use crate::clock;
use crate::election::GroupId;
use crate::handover::Gained;
use crate::l2::burst::Spot;
use crate::status::Addresses;

impl Engine {
    pub(super) fn tell_gained(&self, group: GroupId, why: &Gained, spots: &[Spot]) {
        let names = self.names_of(spots);
        let at = clock::since_epoch();
        self.status.send_modify(|standing| {
            standing.gain(group, at, why, (names, self.addresses_of(group)))
        });
    }

    pub(super) fn tell_interfaces(&self, group: GroupId, spots: &[Spot]) {
        let names = self.names_of(spots);
        self.status
            .send_if_modified(|standing| standing.set_interfaces(group, names));
    }

    /// Which addresses of a group this node does not answer yet, although it owns the group; and which it
    /// does that ipam-service does not know of.
    fn addresses_of(&self, group: GroupId) -> Addresses {
        let mut probing = self.untried.of(&self.plan, group);
        probing.extend(self.fence.unanswered(group, &self.untried));
        let new = self.plan.unannounced(group);
        let mut answered: BTreeSet<IpAddr> = match new.is_empty() {
            true => BTreeSet::new(),
            false => &new & &self.plan.answerable(group),
        };
        answered.retain(|address| self.untried.is_answered(*address));
        answered.extend(self.fence.answered(group, &self.untried));
        let told = |all: BTreeSet<IpAddr>| all.iter().map(IpAddr::to_string).collect();
        Addresses {
            probing: told(probing),
            answered: told(answered),
        }
    }

    /// Which addresses of these groups are answered changed, perhaps.
    pub(super) fn tell_addresses(&self, groups: impl IntoIterator<Item = GroupId>) {
        let told = groups.into_iter();
        let told: Vec<_> = told
            .map(|group| (group, self.addresses_of(group)))
            .collect();
        self.status.send_if_modified(|standing| {
            let news = told
                .into_iter()
                .map(|(group, addresses)| standing.set_addresses(group, addresses));
            news.fold(false, |any, is_news| any | is_news)
        });
    }

    pub(super) fn tell_lost(&self, group: GroupId) {
        self.status.send_modify(|standing| standing.lose(group));
    }

    pub(super) fn tell_node(&self) {
        let unreachable = self.are_members_unreachable();
        let lacking = self.plan.lack_link_local();
        let silent =
            lacking.map(|port| format!("{} answers no ndp: no link-local address", port.name));
        let deaf = self.uplinks.deaf().into_iter().chain(silent).collect();
        self.status
            .send_if_modified(|standing| standing.set_node(&self.own, unreachable, deaf));
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
