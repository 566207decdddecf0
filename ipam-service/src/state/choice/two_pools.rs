//! Claims whose two addresses may come from two pools.

use std::sync::Arc;

use super::{Asking, Grant, other};
use crate::state::address::{Address, Family};
use crate::state::model::Pool;
use crate::state::pool;
use crate::state::quota::Placed;
use crate::state::refusal::Refusal;

impl<'a> Asking<'a> {
    /// One address of each family from one pool, else each from the first pool that has its
    /// family.
    pub(super) fn apart(&self) -> Result<Grant, Refusal> {
        if let Ok(grant) = self.search(None, |pool| self.both(pool)) {
            return Ok(grant);
        }
        // A quota of one pool may have no room for both, and the other family be in another.
        let v4_first = self.one_after_the_other(Family::V4);
        v4_first.or_else(|refusal| self.one_after_the_other(Family::V6).map_err(|_| refusal))
    }

    fn one_after_the_other(&self, first: Family) -> Result<Grant, Refusal> {
        let one = self.search(None, |pool| self.one(pool, first))?;
        let beside = one.addresses.first().map(|address| (*address, &one.pool));
        let added = self.search(None, |pool| self.one_beside(pool, other(first), beside))?;
        let (v4, v6) = match first {
            Family::V4 => (one, added),
            Family::V6 => (added, one),
        };
        Ok(Grant {
            addresses: [v4.addresses, v6.addresses].concat(),
            second_pool: (v4.pool != v6.pool).then_some(v6.pool),
            pool: v4.pool,
        })
    }

    /// The first address of a family, in the order in which pools are tried without being named.
    pub(super) fn first_of(
        &self,
        family: Family,
        beside: Option<Placed<'_>>,
    ) -> Option<(Address, &'a Arc<Pool>)> {
        let mut open = self.open_pools();
        open.find_map(|pool| Some((self.candidate(pool, family, beside).ok()?, pool)))
    }

    /// The pools that the owner may draw from without naming one, in the order in which they are
    /// tried.
    pub(super) fn open_pools(&self) -> impl Iterator<Item = &'a Arc<Pool>> {
        let pools = self.pools_in_order(None);
        pools.filter(|pool| pool::admits(pool, self.owner, self.claim))
    }

    /// Whether any pool has an address of a family for the claim, were it not for older claims.
    pub(in crate::state) fn has_room_anywhere(&self, family: Family) -> bool {
        let may_stay = |address: &Address| {
            address.family() == family
                && self.permitted(&[*address]).is_some()
                && self.is_of_reservation(*address)
                && self.admitted(*address).is_ok()
        };
        let mut open = self.open_pools();
        self.current.iter().any(may_stay) || open.any(|pool| self.gives(pool, family))
    }

    pub(super) fn gives(&self, pool: &Pool, family: Family) -> bool {
        self.lowest_in(pool, family).is_some()
            || self.own_resting(pool, family).is_some()
            || (self.may_have_kept() && self.lowest_kept(pool, family).is_some())
    }
}
