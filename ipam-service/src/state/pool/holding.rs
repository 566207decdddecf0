//! Which pools permit what is held, or is to be.

use std::sync::Arc;

use super::{Pools, admits, gives};
use crate::state::address::Address;
use crate::state::model::{Allocation, Claim, OwnerKey, Pool, PoolKey};
use crate::state::names::Name;

/// Addresses of a space that an owner holds, or would like to.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct Holding<'a> {
    pub(in crate::state) owner: &'a OwnerKey,
    pub(in crate::state) space: &'a Name,
    pub(in crate::state) addresses: &'a [Address],
    /// Where several pools would do: for the first address, and for the second.
    pub(in crate::state) preferred: [Option<&'a PoolKey>; 2],
    /// Whether two addresses may come from two pools.
    pub(in crate::state) apart: bool,
    /// Whether grants do not matter.
    pub(in crate::state) outside_grant: bool,
}

/// The pools of what is held: of the first address, and of the second if that is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) struct Homes<'a> {
    pub(in crate::state) first: &'a Arc<Pool>,
    pub(in crate::state) second: Option<&'a Arc<Pool>>,
}

impl<'a> Homes<'a> {
    /// One pool for all.
    pub(in crate::state) fn one(first: &'a Arc<Pool>) -> Self {
        let second = None;
        Self { first, second }
    }

    /// Whether these are the pools that an allocation has on record.
    pub(in crate::state) fn are_those_of(self, allocation: &Allocation) -> bool {
        let second = self.second.map(|pool| &pool.key);
        Some(&self.first.key) == allocation.pool.as_ref()
            && second == allocation.second_pool.as_ref()
    }

    /// Writes them into an allocation.
    pub(in crate::state) fn record(self, allocation: &mut Allocation) {
        allocation.pool = Some(self.first.key.clone());
        allocation.second_pool = self.second.map(|pool| pool.key.clone());
    }
}

impl<'a> Holding<'a> {
    /// What an allocation holds; `None` if that is nothing.
    pub(in crate::state) fn of(allocation: &'a Allocation) -> Option<Self> {
        let pool = allocation.pool.as_ref()?;
        Some(Self {
            owner: &allocation.owner.key,
            space: &pool.space,
            addresses: &allocation.addresses,
            preferred: [Some(pool), allocation.second_pool.as_ref().or(Some(pool))],
            apart: allocation.effective_claim().allows_two_pools(),
            outside_grant: allocation.outside_grant,
        })
    }

    /// The pools that permit it: such as the cluster sees, as give the addresses, and as are for an
    /// owner with these labels. One for all addresses, unless they may come from two; then two only
    /// where they do already, or where no one pool gives both. What the claim asks for is not
    /// looked at.
    pub(in crate::state) fn permitted_by<'p>(
        self,
        pools: &'p Pools,
        labels: &Claim,
    ) -> Option<Homes<'p>> {
        let [first, second] = self.preferred;
        let together = || {
            let home = self.home(pools, labels, self.addresses, first)?;
            Some(Homes::one(home))
        };
        let [one, other] = self.addresses else {
            return together();
        };
        let apart = || {
            let first = self.home(pools, labels, &[*one], first)?;
            let second = self.home(pools, labels, &[*other], second)?;
            let is_other = first.key != second.key;
            Some(Homes {
                first,
                second: is_other.then_some(second),
            })
        };
        match self.apart {
            false => together(),
            true if first == second => together().or_else(apart),
            true => apart(),
        }
    }

    /// One pool that permits all of some addresses.
    fn home<'p>(
        self,
        pools: &'p Pools,
        labels: &Claim,
        addresses: &[Address],
        preferred: Option<&PoolKey>,
    ) -> Option<&'p Arc<Pool>> {
        let view = pools.view(self.space, &self.owner.cluster);
        let first = *addresses.first()?;
        let granted = |held: &Address| self.outside_grant || view.reach().contains(*held);
        if !addresses.iter().all(granted) {
            return None;
        }
        let fits = |pool: &&'p Arc<Pool>| {
            addresses.iter().all(|held| gives(pool, *held)) && admits(pool, self.owner, labels)
        };
        let fitting = || view.containing(first).filter(fits);
        fitting()
            .find(|pool| Some(&pool.key) == preferred)
            .or_else(|| fitting().next())
    }
}
