//! What is told upstream of this node.

use std::collections::BTreeSet;
use std::net::IpAddr;

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
            .send_modify(|standing| standing.gain(group, at, why, (names, self.unanswered(group))));
    }

    pub(super) fn tell_interfaces(&self, group: GroupId, spots: &[Spot]) {
        let names = self.names_of(spots);
        self.status
            .send_if_modified(|standing| standing.set_interfaces(group, names));
    }

    /// Addresses of a group that this node does not answer yet, although it owns the group.
    fn unanswered(&self, group: GroupId) -> Vec<String> {
        let probing = self.probing.borrow();
        let addresses = self.plan.addresses(group);
        let probed = addresses.filter(|address| probing.contains(address));
        let fenced = self.fence.unanswered(group, &probing);
        let all: BTreeSet<IpAddr> = probed.chain(fenced).collect();
        all.iter().map(IpAddr::to_string).collect()
    }

    /// Which addresses are not answered yet changed: tells that, and binds what is answered now.
    pub(super) fn on_probing(&mut self) {
        // What is expected here and not there was answered already, or by now.
        let as_expected = self.probed.len() == self.probing.borrow().len();
        if as_expected && !self.probing.has_changed().unwrap_or_default() {
            return;
        }
        let probing = self.probing.borrow_and_update().clone();
        let changed = self.probed.symmetric_difference(&probing);
        let changed: Vec<IpAddr> = changed.copied().collect();
        self.probed = probing;
        let mut groups = BTreeSet::new();
        for address in changed {
            let planned = self.plan.groups_of(address);
            self.bind_answered(address, &planned);
            groups.extend(planned);
            groups.extend(self.fence.groups_of(address));
        }
        self.tell_unanswered(groups);
    }

    /// Which addresses of these groups are not answered yet changed, perhaps.
    pub(super) fn tell_unanswered(&self, groups: impl IntoIterator<Item = GroupId>) {
        let told = groups.into_iter();
        let told: Vec<_> = told.map(|group| (group, self.unanswered(group))).collect();
        self.status.send_if_modified(|standing| {
            let news = told
                .into_iter()
                .map(|(group, probing)| standing.set_probing(group, probing));
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
