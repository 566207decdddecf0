//! The fenced addresses that were assigned, found by key, by group and by address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::book::{Assigned, Key};
use crate::election::GroupId;

/// All of them. One cluster has thousands, and each gain or loss looks some up.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    by_key: BTreeMap<Key, Assigned>,
    by_group: BTreeMap<GroupId, BTreeSet<Key>>,
    /// An address may be in several address spaces.
    by_address: BTreeMap<IpAddr, BTreeSet<Key>>,
}

impl Assignments {
    /// Gives what was assigned before under the same key.
    pub(super) fn insert(&mut self, assigned: Assigned) -> Option<Assigned> {
        let key = &assigned.key;
        let before = self.remove(key);
        let of_group = self.by_group.entry(assigned.group).or_default();
        of_group.insert(key.clone());
        let of_address = self.by_address.entry(key.address).or_default();
        of_address.insert(key.clone());
        self.by_key.insert(key.clone(), assigned);
        before
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Assigned> {
        let assigned = self.by_key.remove(key)?;
        take(&mut self.by_group, assigned.group, key);
        take(&mut self.by_address, key.address, key);
        Some(assigned)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Assigned> {
        self.by_key.get(key)
    }

    pub(super) fn of_group(&self, group: GroupId) -> impl Iterator<Item = &Key> {
        self.by_group.get(&group).into_iter().flatten()
    }

    pub(super) fn of_address(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.by_address.get(&address).into_iter().flatten()
    }
}

fn take<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, at: K, key: &Key) {
    if let Some(keys) = index.get_mut(&at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fenced::Told;

    use super::*;

    fn assigned(space: &str, last: u8, group: u64) -> Assigned {
        Assigned {
            key: key(space, last),
            group: GroupId(group),
            listed: Vec::new(),
            candidates: [].into(),
            wanted: None,
            owners: Vec::new(),
            probe: false,
            fenced: Some(Told::default()),
        }
    }

    fn key(space: &str, last: u8) -> Key {
        Key {
            space: space.to_owned(),
            address: IpAddr::from([192, 0, 2, last]),
        }
    }

    #[test]
    fn an_address_is_found_by_its_group_and_in_each_space_until_it_is_gone() {
        let mut all = Assignments::default();
        let of_group = |all: &Assignments, group| {
            let keys = all.of_group(GroupId(group));
            keys.cloned().collect::<Vec<Key>>()
        };
        let of_address = |all: &Assignments, last| {
            let keys = all.of_address(IpAddr::from([192, 0, 2, last]));
            keys.cloned().collect::<Vec<Key>>()
        };
        for (space, last, group) in [("a", 1, 7), ("a", 2, 7), ("b", 1, 8)] {
            assert_eq!(all.insert(assigned(space, last, group)), None);
        }
        assert_eq!(of_group(&all, 7), [key("a", 1), key("a", 2)]);
        assert_eq!(of_address(&all, 1), [key("a", 1), key("b", 1)]);
        // It goes into another group.
        let before = all.insert(assigned("a", 1, 9)).map(|before| before.group);
        assert_eq!(before, Some(GroupId(7)));
        assert_eq!(of_group(&all, 7), [key("a", 2)]);
        assert_eq!(of_group(&all, 9), [key("a", 1)]);
        assert_eq!(of_address(&all, 1), [key("a", 1), key("b", 1)]);
        for gone in [key("a", 1), key("a", 2), key("b", 1)] {
            assert_eq!(all.remove(&gone).map(|gone| gone.key), Some(gone.clone()));
            assert!(all.get(&gone).is_none() && all.remove(&gone).is_none());
        }
        assert!(all.by_group.is_empty() && all.by_address.is_empty());
    }
}
