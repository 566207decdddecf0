//! Trees with full nodes: what is entered in order leaves nodes half full.
//!
//! `append` makes a new tree out of two that are in order, entry by entry, and the old nodes go as it
//! comes along. `collect` would gather everything in one block first, which an allocator keeps for a
//! while.

use std::collections::{BTreeMap, BTreeSet};

/// Makes full nodes of half-full ones.
pub(super) fn pack_map<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    let mut rest = std::mem::take(map);
    // An empty tree would only change places with the other.
    map.extend(rest.pop_first());
    map.append(&mut rest);
}

/// Makes full nodes of half-full ones.
pub(super) fn pack_set<T: Ord>(set: &mut BTreeSet<T>) {
    let mut rest = std::mem::take(set);
    set.extend(rest.pop_first());
    set.append(&mut rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_was_there() {
        for count in [0, 1, 2, 100, 1000] {
            let mut set: BTreeSet<u32> = (0..count).collect();
            let mut map: BTreeMap<u32, String> = (0..count).map(|n| (n, n.to_string())).collect();
            let (set_before, map_before) = (set.clone(), map.clone());
            pack_set(&mut set);
            pack_map(&mut map);
            assert_eq!((set, map), (set_before, map_before));
        }
    }
}
