//! What must hold of every state, and whether two are the same: for tests and fuzzing.

use std::sync::Arc;

use super::State;
use super::address::Address;
use super::change::{Change, Edit};
use super::model::{Allocation, PoolKey, Standing};

/// All that a store would hold, as edits without a before.
pub(crate) fn rows(state: &State) -> Vec<Change> {
    fn row<T>(value: &Arc<T>) -> Edit<T> {
        Edit {
            before: None,
            after: Some(Arc::clone(value)),
        }
    }
    let mut rows: Vec<Change> = Vec::new();
    rows.extend(state.allocations().map(|one| Change::Allocation(row(one))));
    rows.extend(state.pools().map(|one| Change::Pool(row(one))));
    rows.extend(state.quotas().map(|one| Change::Quota(row(one))));
    let spaces = state.address_spaces();
    rows.extend(spaces.map(|one| Change::AddressSpace(row(one))));
    rows.extend(
        state
            .advertisements()
            .map(|one| Change::Advertisement(row(one))),
    );
    let bgp = state.bgp();
    rows.extend(bgp.peers().map(|one| Change::BgpPeer(row(one))));
    rows.extend(bgp.profiles().map(|one| Change::BfdProfile(row(one))));
    let reservations = state.reservations();
    rows.extend(reservations.map(|one| Change::Reservation(row(one))));
    let unavailable = state.all_unavailable();
    rows.extend(unavailable.map(|one| Change::Unavailable(row(one))));
    for cluster in state.clusters() {
        rows.push(Change::Cluster(row(cluster)));
        rows.extend(
            state
                .nodes_of(&cluster.name)
                .map(|one| Change::Node(row(one))),
        );
        let backends = state.backends_of(&cluster.name);
        rows.extend(backends.map(|one| Change::Backends(row(one))));
    }
    rows.extend(state.placements().map(|one| Change::Placement(row(one))));
    rows.extend(state.tenures().map(|one| Change::Tenure(row(one))));
    rows
}

/// Whether two states hold the same, marks for new decisions aside.
pub(crate) fn assert_same_book(one: &State, other: &State) {
    assert_eq!(one.revision, other.revision);
    let by_id = |state: &State| -> Vec<Arc<Allocation>> {
        let entries = state.by_id.iter();
        entries.map(|entry| Arc::clone(&entry.0)).collect()
    };
    assert_eq!(by_id(one), by_id(other));
    assert_eq!(one.tenants, other.tenants);
    assert_eq!(one.spaces, other.spaces);
    assert_eq!(one.pools, other.pools);
    assert_eq!(one.quotas, other.quotas);
    assert_eq!(one.advertisements, other.advertisements);
    assert_eq!(one.bgp, other.bgp);
    assert_eq!(one.placements, other.placements);
    assert_eq!(one.tenures, other.tenures);
    assert_eq!(one.reservations, other.reservations);
    assert_eq!(one.recovering, other.recovering);
    assert_eq!(one.waiting.lists, other.waiting.lists);
}

/// Invariants of a settled state, looked at without its indexes: by plain loops over all rows.
pub(crate) fn assert_sound(state: &State) {
    assert_same_book(&State::restore(state.revision(), rows(state)), state);
    let all: Vec<&Arc<Allocation>> = state.allocations().collect();
    for (index, one) in all.iter().enumerate() {
        assert_eq!(one.addresses.is_empty(), one.pool.is_none());
        let is_pending = matches!(one.standing, Standing::Pending(_));
        assert_eq!(one.addresses.is_empty(), is_pending, "{one:?}");
        assert_eq!(one.held().count(), one.addresses.len());
        for (held, key) in one.held() {
            let pool = state.pool(key).expect("the pool exists");
            assert!(
                pool.ranges.iter().any(|range| range.contains(held)),
                "{one:?}"
            );
            assert!(!(pool.avoid_buggy_ips && held.is_buggy()), "{one:?}");
        }
        let granted = |(held, key): (Address, &PoolKey)| {
            let record = state.address_space(&key.space);
            let grants = record.filter(|record| !record.grants.is_empty());
            grants.is_none_or(|record| {
                let ranges = record.grants.get(&one.owner.key.cluster);
                ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(held)))
            })
        };
        assert_eq!(one.outside_grant, !one.held().all(granted), "{one:?}");
        if let Some(second) = &one.second_pool {
            assert_eq!(one.addresses.len(), 2, "{one:?}");
            assert_ne!(one.pool.as_ref(), Some(second), "{one:?}");
            assert_eq!(
                one.pool.as_ref().map(|pool| &pool.space),
                Some(&second.space)
            );
            assert!(one.effective_claim().allows_two_pools(), "{one:?}");
        }
        for other in &all[index + 1..] {
            let same_space = one.pool.as_ref().map(|pool| &pool.space)
                == other.pool.as_ref().map(|pool| &pool.space);
            let common = one.addresses.iter().any(|a| other.addresses.contains(a));
            if same_space && common {
                assert_may_share(one, other);
            }
        }
    }
}

fn assert_may_share(one: &Allocation, other: &Allocation) {
    let (mine, theirs) = (one.effective_claim(), other.effective_claim());
    assert_eq!(one.owner.key.cluster, other.owner.key.cluster);
    assert!(!mine.sharing_key.is_empty(), "{one:?} {other:?}");
    assert_eq!(mine.sharing_key, theirs.sharing_key);
    assert_eq!(mine.backend_key, theirs.backend_key);
    assert!(mine.ports.iter().all(|port| !theirs.ports.contains(port)));
}
