//! The hardware addresses of the other nodes of the cluster, so that layer 2 can tell them from
//! strangers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use pnet_base::MacAddr;

use crate::election::{NodeName, Roster, Standing};
use crate::l2::conflict::Members;

/// What each node said last of its own.
#[derive(Debug, Default)]
pub(super) struct MemberMacs(BTreeMap<NodeName, BTreeSet<MacAddr>>);

impl MemberMacs {
    /// Takes in what is known now; gives all addresses if they changed. Those of a dead node stay:
    /// its kernel may live.
    pub(super) fn update(&mut self, roster: &Roster) -> Option<Members> {
        let before = self.0.len();
        self.0.retain(|node, _| roster.standing(node).is_some());
        let mut changed = self.0.len() != before;
        for (node, standing) in roster.others() {
            if let Standing::Known(Some(condition)) = standing
                && self.0.get(node) != Some(&condition.macs)
            {
                self.0.insert(node.clone(), condition.macs.clone());
                changed = true;
            }
        }
        changed.then(|| {
            let nodes = self.0.iter();
            let macs = nodes.flat_map(|(node, macs)| macs.iter().map(|mac| (*mac, node.clone())));
            macs.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::Condition;

    fn known(macs: &[u8]) -> Standing {
        let macs = macs.iter().map(|last| MacAddr(2, 0, 0, 0, 0, *last));
        Standing::Known(Some(condition(macs.collect())))
    }

    fn condition(macs: BTreeSet<MacAddr>) -> Condition {
        Condition {
            ready: true,
            hold_down: false,
            draining: false,
            interfaces: BTreeSet::new(),
            interfaces6: BTreeSet::new(),
            macs,
        }
    }

    #[test]
    fn the_addresses_of_a_node_are_known_until_it_is_no_member_any_more() {
        let mut roster = Roster::new("a".into(), condition(BTreeSet::new()));
        let mut macs = MemberMacs::default();
        let set = |lasts: &[(u8, &str)]| -> Members {
            lasts
                .iter()
                .map(|(last, node)| (MacAddr(2, 0, 0, 0, 0, *last), (*node).into()))
                .collect()
        };
        roster.set_standing("b".into(), known(&[1, 2]));
        roster.set_standing("c".into(), known(&[3]));
        assert_eq!(
            macs.update(&roster),
            Some(set(&[(1, "b"), (2, "b"), (3, "c")]))
        );
        assert_eq!(macs.update(&roster), None);
        roster.set_standing("b".into(), Standing::Dead);
        assert_eq!(macs.update(&roster), None);
        roster.set_standing("c".into(), known(&[4]));
        assert_eq!(
            macs.update(&roster),
            Some(set(&[(1, "b"), (2, "b"), (4, "c")]))
        );
        roster.forget("b");
        assert_eq!(macs.update(&roster), Some(set(&[(4, "c")])));
    }
}
