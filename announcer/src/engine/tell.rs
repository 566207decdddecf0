//! What is told upstream of this node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Engine;
use crate::clock;
use crate::election::{GroupId, NodeName};
use crate::handover::Gained;
use crate::l2::burst::Spot;
use crate::status::Addresses;

impl Engine {
    pub(super) fn tell_gained(&self, group: GroupId, why: &Gained) {
        let names = self.names_of(&self.own_spots(group));
        let at = clock::since_epoch();
        self.status.send_modify(|standing| {
            standing.gain(group, at, why, (names, self.addresses_of(group)))
        });
    }

    pub(super) fn tell_interfaces(&self, group: GroupId) {
        let names = self.names_of(&self.own_spots(group));
        self.status
            .send_if_modified(|standing| standing.set_interfaces(group, names));
    }

    /// Where this node is to answer for what it owns of a group: each fenced address has an owner of its own.
    fn own_spots(&self, group: GroupId) -> Vec<Spot> {
        let mut spots = match self.shown.contains_key(&group) {
            true => self.plan.spots(group),
            false => Vec::new(),
        };
        spots.extend(self.fence.own_spots(group));
        spots
    }

    /// What this node says of the addresses of a group that it owns.
    fn addresses_of(&self, group: GroupId) -> Addresses {
        let mut owned: BTreeSet<IpAddr> = match self.shown.contains_key(&group) {
            true => self.plan.addresses(group).collect(),
            false => BTreeSet::new(),
        };
        owned.extend(self.fence.own(group));
        let mut new = self.plan.unannounced(group);
        new.extend(self.fence.unannounced(group));
        let spots = self.own_spots(group).into_iter();
        let answerable: BTreeSet<IpAddr> = spots.map(|spot| spot.address).collect();
        let probing = owned.iter().filter(|it| self.untried.has(**it));
        let probing: BTreeSet<IpAddr> = probing.copied().collect();
        let mut answers = &owned & &answerable;
        answers.retain(|address| self.untried.is_answered(*address));
        let told = |all: &BTreeSet<IpAddr>| all.iter().map(IpAddr::to_string).collect();
        Addresses {
            probing: told(&probing),
            answered: told(&(&new & &answers)),
            answers: told(&answers),
            nowhere: told(&(&owned - &answerable)),
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

    /// The sessions that this node is to have.
    pub(super) fn tell_sessions(&self, peers: &[(String, Arc<[NodeName]>)]) {
        let me = self.plan.me();
        let own = peers.iter().filter(|(_, nodes)| nodes.contains(me));
        let own: BTreeSet<String> = own.map(|(peer, _)| peer.clone()).collect();
        let count = own.len();
        let news = self
            .status
            .send_if_modified(|standing| standing.set_sessions(own));
        if news && count > 0 {
            tracing::warn!(
                peers = count,
                "this version speaks no BGP: no session is held, and no route is announced"
            );
        }
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
