//! What can be told about a claim that waits: who goes first, and what leads to a new decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cluster_list::families_waited_for;
use super::{WaitsFor, lacks_second_family, waits_for};
use crate::state::State;
use crate::state::model::{
    Allocation, AllocationId, Pool, PoolKey, Standing, Unavailable, UnavailableReason,
};

/// Claims that are counted: an explanation runs on the writer, and nobody needs a greater number.
const MAX_COUNTED: usize = 10_000;

/// Claims that wait for something that another one waits for too, and that go first.
#[derive(Debug, Clone)]
pub(in crate::state) struct Ahead<'a> {
    /// At most [`MAX_COUNTED`].
    pub(in crate::state) count: usize,
    pub(in crate::state) first: Option<&'a Arc<Allocation>>,
}

impl State {
    /// Who goes before an allocation that waits. It need not be stored; its id is its place.
    pub(in crate::state) fn ahead_of(&self, one: &Allocation) -> Ahead<'_> {
        let mut ids = BTreeSet::new();
        if let Some(waits) = waits_for(one) {
            self.collect_ahead(one, &waits, &mut ids);
        }
        let first = ids.first().and_then(|id| self.allocation_by_id(*id));
        Ahead {
            count: ids.len(),
            first,
        }
    }

    fn collect_ahead(
        &self,
        one: &Allocation,
        waits: &WaitsFor<'_>,
        ids: &mut BTreeSet<AllocationId>,
    ) {
        let lists = &self.waiting.lists;
        let space = &one.claim.space;
        let mut add = |list: Option<&BTreeSet<AllocationId>>| {
            let older = list.into_iter().flat_map(|list| list.range(..one.id));
            for id in older.take(MAX_COUNTED) {
                if ids.len() < MAX_COUNTED {
                    ids.insert(*id);
                }
            }
        };
        for address in &waits.addresses {
            add(lists.by_address.get(&(space.clone(), *address)));
        }
        for address in &one.claim.addresses {
            self.waiting_through_pools(&lists.by_cluster, space, *address)
                .for_each(|list| add(Some(list)));
        }
        if let Some(key) = &waits.reservation {
            add(lists.by_reservation.get(key));
        }
        let families = families_waited_for(one);
        let pools = self.pools_waited_for(one, waits);
        let clusters = lists.by_cluster.get(space);
        for (cluster, list) in clusters.into_iter().flatten() {
            let view = self.pools.view(space, cluster);
            let mut any_pool = false;
            for pool in pools.iter().filter(|pool| view.sees(pool)) {
                any_pool |= pool.auto_assign;
                if let Some(named) = list.in_pool(&pool.key.name) {
                    families
                        .iter()
                        .for_each(|family| add(Some(named.of(*family))));
                }
            }
            for family in families.iter().filter(|_| any_pool) {
                add(Some(list.any_pool.of(*family)));
            }
        }
        if let Some(key) = &waits.share_key {
            add(lists.by_share_key.get(&(space.clone(), key.clone())));
        }
        // Those for an address of these pools.
        let ranges = pools.iter().flat_map(|pool| &pool.ranges);
        let ranges = ranges.filter(|range| families.contains(&range.first().family()));
        let asked_for = ranges.take(MAX_COUNTED).flat_map(|range| {
            let [first, last] = [range.first(), range.last()].map(|end| (space.clone(), end));
            lists.by_address.range(first..=last)
        });
        let older = asked_for.flat_map(|((_, address), list)| {
            let older = list.range(..one.id);
            older.filter(move |id| {
                let asking = self.allocation_by_id(**id);
                asking.is_some_and(|asking| asking.claim.addresses.contains(address))
            })
        });
        let left = MAX_COUNTED - ids.len();
        ids.extend(older.take(left));
    }

    fn pools_waited_for(&self, one: &Allocation, waits: &WaitsFor<'_>) -> Vec<&Arc<Pool>> {
        let view = self.pools.view(&one.claim.space, &one.owner.key.cluster);
        let named = waits.pools.iter().filter_map(|name| view.named(name));
        let auto = view.auto().filter(|_| waits.any_pool);
        named.chain(auto).collect()
    }

    /// What leads to a new decision about an allocation, in words; nothing if it does not wait.
    pub(in crate::state) fn wakes_on(&self, one: &Allocation) -> Vec<String> {
        let Some(waits) = waits_for(one) else {
            return Vec::new();
        };
        let space = &one.claim.space;
        let mut wakes = Vec::new();
        for address in &waits.addresses {
            wakes.push(format!(
                "{address} comes free, or who holds it changes its ports or its sharing key"
            ));
        }
        if !waits.addresses.is_empty() && waits.pools.is_empty() {
            wakes.push("a pool that contains the address is added, edited or deleted".to_owned());
        }
        for name in &waits.pools {
            wakes.push(match lacks_second_family(one) {
                Some(own) if own.name == **name => format!(
                    "an address of the other family comes free in pool \"{name}\", or the pool is \
                     edited"
                ),
                Some(_) | None => format!(
                    "an address comes free in pool \"{name}\", or a pool of that name is added or \
                     edited"
                ),
            });
        }
        if waits.any_pool {
            let text = "an address comes free in a pool that is open to the claim, or such a pool \
                        is added or edited";
            wakes.push(text.to_owned());
        }
        if waits.share_key.is_some() {
            let key = &one.claim.sharing_key;
            let text =
                format!("a port comes free on an address that is shared under key \"{key}\"");
            wakes.push(text);
        }
        if let Some(key) = &waits.reservation {
            let name = &key.name;
            wakes.push(format!(
                "an address of reservation \"{name}\" comes free, or the reservation is added, edited \
                 or deleted"
            ));
        }
        self.wakes_by_time(one, &waits, &mut wakes);
        self.wakes_by_quota(one, &mut wakes);
        if self.address_space(space).is_some() {
            wakes.push(format!(
                "the grants of address space {space} give more to cluster {}",
                one.owner.key.cluster
            ));
        }
        if self.is_recovering() {
            wakes.push("the last cluster has reported what it holds".to_owned());
        }
        wakes
    }

    /// The end of what keeps an address from being given away.
    fn wakes_by_time(&self, one: &Allocation, waits: &WaitsFor<'_>, wakes: &mut Vec<String>) {
        let view = self.pools.view(&one.claim.space, &one.owner.key.cluster);
        let (space, reach) = (self.space(&one.claim.space), view.reach());
        for address in &waits.addresses {
            wakes.extend(space.resting(*address).iter().map(|row| end_of(row)));
            if let Some(reservation) = space.reservation(*address) {
                let scope = reservation.kept_for.as_ref();
                let is_known = scope.is_none_or(|it| it.cluster == one.owner.key.cluster);
                // That of another cluster is not named.
                wakes.push(match is_known {
                    true => format!(
                        "reservation \"{}\", which keeps {address}, is edited or deleted",
                        reservation.key.name
                    ),
                    false => format!("the reservation that keeps {address} is edited or deleted"),
                });
            }
        }
        for pool in self.pools_waited_for(one, waits) {
            let ranges = pool.ranges.iter();
            let mut ranges = ranges.flat_map(|range| reach.within(*range));
            if ranges.any(|range| space.idle_in(range).next().is_some()) {
                wakes.push(format!(
                    "an address of pool {} that drains, rests or is quarantined may be given away",
                    quoted(&pool.key)
                ));
            }
        }
    }

    /// Room within the quotas that have none, and within the one that refused.
    fn wakes_by_quota(&self, one: &Allocation, wakes: &mut Vec<String>) {
        let refused = match &one.standing {
            Standing::Assigned => None,
            Standing::Pending(refusal) | Standing::Stale { refusal, .. } => refusal.quota.clone(),
        };
        let full = self.full_quotas_of(&one.claim.space, &one.owner.key);
        let names: BTreeSet<String> = full
            .map(|quota| quota.name.to_string())
            .chain(refused)
            .collect();
        for name in names {
            wakes.push(format!(
                "an address that counts for quota \"{name}\" is given back, or the quota is edited \
                 or deleted"
            ));
        }
    }
}

fn end_of(row: &Unavailable) -> String {
    let address = row.key.address;
    let seconds = row.period.as_secs();
    match row.key.reason {
        UnavailableReason::Draining => format!(
            "every node that may answer for {address} has acknowledged that it does not any more, at \
             the latest {seconds} s after it was given back"
        ),
        UnavailableReason::ReuseDelay => format!("{address} has rested for {seconds} s"),
        UnavailableReason::Quarantined => format!(
            "the quarantine of {address} is over after {seconds} s, or an operator clears it"
        ),
    }
}

fn quoted(key: &PoolKey) -> String {
    format!("\"{key}\"")
}
