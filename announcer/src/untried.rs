//! Which addresses that this node owns nobody has answered for yet: they are asked for before the first
//! answer, whatever becomes of the interfaces that they are answered on.
//!
//! Pure. [`crate::l2`] asks, and knows only where it does so now; this belongs to the addresses, from when
//! this node owns them until it does not any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::election::GroupId;
use crate::handover::Gained;
use crate::l2::hold::Report;
use crate::plan::Plan;

/// The addresses that this node owns, and whether nobody has answered for them yet.
#[derive(Debug, Default)]
pub struct Untried {
    owned: BTreeMap<IpAddr, bool>,
    /// Those that this process began with: somebody answered for them, or may have.
    tried: BTreeSet<IpAddr>,
}

impl Untried {
    /// A group came to this node, with what its former owner tells; or, without a reason, it is still
    /// here and may have other addresses. Gives what of it is to be asked for first.
    pub fn own(
        &mut self,
        plan: &Plan,
        group: GroupId,
        why: Option<&Gained>,
        told: &Report,
    ) -> BTreeSet<IpAddr> {
        let new = plan.unannounced(group);
        // Who has other addresses of the group does not tell of all that this node knows.
        let own = plan.candidacy(group).map(|candidacy| candidacy.addresses);
        let tells_of_all = told.addresses.is_none() || told.addresses == own;
        for address in plan.addresses(group) {
            match why {
                Some(Gained::HandedOver(_)) if tells_of_all || !new.contains(&address) => {
                    self.hand(address, told.probing.contains(&address));
                }
                Some(Gained::HandedOver(_)) => self.add(address, true),
                // Whoever had it most likely answered, and nobody waits for a probe then.
                Some(Gained::Orphaned) => self.add(address, false),
                Some(Gained::Unowned | Gained::Inherited) | None => {
                    self.add(address, new.contains(&address));
                }
            }
        }
        self.of(plan, group)
    }

    /// This process begins with these addresses.
    pub fn begin_with(&mut self, addresses: Vec<IpAddr>) {
        self.tried.extend(addresses);
    }

    /// This node owns an address. What it had already is what it was.
    pub fn add(&mut self, address: IpAddr, is_untried: bool) {
        let is_untried = is_untried && !self.tried.contains(&address);
        self.owned.entry(address).or_insert(is_untried);
    }

    /// An address was handed to this node by one that knows.
    pub fn hand(&mut self, address: IpAddr, is_untried: bool) {
        let own = self.owned.entry(address).or_insert(is_untried);
        *own &= is_untried;
    }

    /// An address is answered.
    pub fn answered(&mut self, address: IpAddr) {
        if let Some(is_untried) = self.owned.get_mut(&address) {
            *is_untried = false;
        }
    }

    /// This node does not own an address any more.
    pub fn lose(&mut self, address: IpAddr) {
        self.owned.remove(&address);
    }

    /// An address is nobody's any more.
    pub fn forget(&mut self, address: IpAddr) {
        self.tried.remove(&address);
        self.lose(address);
    }

    /// Whether this node owns an address for which nobody has answered yet.
    pub fn has(&self, address: IpAddr) -> bool {
        self.owned
            .get(&address)
            .is_some_and(|is_untried| *is_untried)
    }

    /// Whether this node owns an address that is answered, or was.
    pub fn is_answered(&self, address: IpAddr) -> bool {
        self.owned
            .get(&address)
            .is_some_and(|is_untried| !is_untried)
    }

    /// Those of a group.
    pub fn of(&self, plan: &Plan, group: GroupId) -> BTreeSet<IpAddr> {
        let addresses = plan.addresses(group);
        addresses.filter(|address| self.has(*address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Assigned, Key};
    use crate::election::Wanted;

    const GROUP: GroupId = GroupId(1);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn plan(addresses: &[(u8, bool)]) -> Plan {
        let mut plan = Plan::new("a".into());
        let assigned = addresses.iter().map(|(last, probe)| Assigned {
            key: Key {
                space: "default".to_owned(),
                address: address(*last),
            },
            group: GROUP,
            listed: vec!["a".into()],
            candidates: ["a".into()].into(),
            wanted: Some(Wanted::Any.into()),
            owners: Vec::new(),
            probe: *probe,
            fenced: None,
        });
        plan.apply(&assigned.collect::<Vec<_>>(), &[]);
        plan
    }

    fn set(all: &[u8]) -> BTreeSet<IpAddr> {
        all.iter().map(|last| address(*last)).collect()
    }

    /// As an earlier build tells it.
    fn told(probing: &[u8]) -> Report {
        Report {
            probing: set(probing),
            ..Report::default()
        }
    }

    #[test]
    fn what_its_predecessor_did_not_know_is_asked_for_if_nobody_has_answered_for_it() {
        let digest = |plan: &Plan| plan.candidacy(GROUP).map(|one| one.addresses);
        let own = plan(&[(1, true), (2, true), (3, false)]);
        let handed = Gained::HandedOver("b".into());
        let former_owners = [
            (digest(&own), set(&[]), "it answered for all of them"),
            (
                digest(&plan(&[(1, true)])),
                set(&[1, 2]),
                "it did not know all",
            ),
            (None, set(&[]), "an earlier build"),
        ];
        for (addresses, expected, what) in former_owners {
            let report = Report {
                addresses,
                ..Report::default()
            };
            let mut untried = Untried::default();
            let first = untried.own(&own, GROUP, Some(&handed), &report);
            assert_eq!(first, expected, "{what}");
        }
    }

    #[test]
    fn who_is_handed_a_group_knows_from_its_predecessor_what_to_ask_for() {
        let plan = plan(&[(1, true), (2, true), (3, false)]);
        let handed = Gained::HandedOver("b".into());
        let mut untried = Untried::default();
        let first = untried.own(&plan, GROUP, Some(&handed), &told(&[1, 3]));
        assert_eq!(first, set(&[1, 3]));
        assert!(untried.is_answered(address(2)));
        // It gives the group away, and gets it back when the other one has answered.
        let first = untried.own(&plan, GROUP, Some(&handed), &told(&[3]));
        assert_eq!(first, set(&[3]));
        untried.answered(address(3));
        let first = untried.own(&plan, GROUP, Some(&handed), &told(&[3]));
        assert_eq!(first, set(&[]), "it has answered");
    }

    #[test]
    fn who_takes_back_what_it_handed_over_goes_on_asking_and_who_takes_over_asks_nobody() {
        let plan = plan(&[(1, true), (2, true)]);
        let none = Report::default();
        let mut untried = Untried::default();
        let first = untried.own(&plan, GROUP, Some(&Gained::Unowned), &none);
        assert_eq!(first, set(&[1, 2]));
        untried.answered(address(2));
        // Its heir died before it said anything.
        let first = untried.own(&plan, GROUP, Some(&Gained::Orphaned), &none);
        assert_eq!(first, set(&[1]));
        assert_eq!(untried.own(&plan, GROUP, None, &none), set(&[1]));
        untried.lose(address(1));
        let first = untried.own(&plan, GROUP, Some(&Gained::Orphaned), &none);
        assert_eq!(first, set(&[]));
    }
}
