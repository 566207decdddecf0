//! Addresses that are not to be given away yet, in a choice.

use std::sync::Arc;

use super::Asking;
use crate::state::address::{Address, Family};
use crate::state::model::{Pool, PoolKey, Unavailable};
use crate::state::space::Obstacle;
use crate::state::withheld::Barrier;

/// Addresses that are looked at for the one that a refusal names.
const LOOKED_AT: usize = 64;

impl<'a> Asking<'a> {
    /// The lowest address of a family in a pool that waits for others only: the owner gave it back
    /// and may have it again. The last resort of automatic choice.
    pub(super) fn own_resting(&self, pool: &Pool, family: Family) -> Option<Address> {
        let ranges = self.ranges(pool, family);
        let mut all = ranges.flat_map(|range| self.space().resting_for(self.owner, range));
        all.find(|address| {
            self.may_give(pool, *address)
                && self.is_of_reservation(*address)
                && self.admitted(*address).is_ok()
        })
    }

    /// An address of a family in a pool that the claim could have, were it not for that it is to
    /// wait.
    pub(super) fn first_resting(
        &self,
        pool: &PoolKey,
        family: Family,
    ) -> Option<(Address, &'a Arc<Unavailable>)> {
        let pool = self.state.pool(pool)?;
        let ranges = self.ranges(pool, family);
        let idle = ranges.flat_map(|range| self.space().idle_in(range));
        let mut usable = idle
            .take(LOOKED_AT)
            .filter(|address| self.may_give(pool, *address) && self.is_of_reservation(*address));
        usable.find_map(|address| match self.admitted(address) {
            Err(Obstacle::Withheld(Barrier::Resting(row))) => Some((address, row)),
            Err(Obstacle::Withheld(Barrier::Reserved(_)) | Obstacle::Holder(..)) | Ok(()) => None,
        })
    }
}
