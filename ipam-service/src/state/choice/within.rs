//! What quotas leave to a claim.

use super::{Asking, Lack};
use crate::state::address::{Address, AddressRange, Family};
use crate::state::model::Pool;
use crate::state::quota::{Exceeded, Placed};
use crate::state::sharing::ShareKey;

/// Addresses of its sharing key that a claim is tried on when its owner may hold no new one. Owners
/// of one key rarely hold more than a few together.
const MAX_SHARED_TRIED: usize = 64;

impl Asking<'_> {
    /// Whether the quotas let the owner hold these addresses, and nothing else of the space.
    pub(in crate::state) fn within_quotas(
        &self,
        wanted: &[Placed<'_>],
    ) -> Result<(), Box<Exceeded>> {
        self.state
            .within_quotas(self.owner, &self.claim.space, wanted)
    }

    /// Whether claims that wait longer come first for the room that an address takes.
    pub(super) fn is_behind_for_room(&self, wanted: Placed<'_>) -> bool {
        let state = self.state;
        !state.is_recovering() && state.has_older_for_room(self.owner, wanted, self.arrival)
    }

    /// Whether an address is the owner's to take beside what else is granted, as far as quotas are
    /// concerned.
    pub(super) fn may_take(&self, address: Placed<'_>, beside: Option<Placed<'_>>) -> bool {
        // Mostly there are none, and this is on every claim's way.
        if !self.state.has_quotas() {
            return true;
        }
        let wanted = [Some(address), beside];
        let wanted: Vec<Placed<'_>> = wanted.into_iter().flatten().collect();
        self.within_quotas(&wanted).is_ok() && !self.is_behind_for_room(address)
    }

    /// The address that a pool would give, if the quotas allow it beside what else is granted; else
    /// one that counts already, because others share it under the owner's key.
    pub(super) fn counted_or(
        &self,
        address: Address,
        pool: &Pool,
        beside: Option<Placed<'_>>,
    ) -> Result<Address, Lack> {
        if !self.state.has_quotas() {
            return Ok(address);
        }
        let allowed = |address: Address| {
            let wanted = [Some((address, &pool.key)), beside];
            let wanted: Vec<Placed<'_>> = wanted.into_iter().flatten().collect();
            self.within_quotas(&wanted)
        };
        match allowed(address) {
            Ok(()) if self.is_behind_for_room((address, &pool.key)) => Err(Lack::BehindOlder),
            Ok(()) => Ok(address),
            Err(full) => self
                .lowest_joined(pool, address.family(), |joined| allowed(joined).is_ok())
                .ok_or(Lack::Quota(full)),
        }
    }

    /// The lowest address of a pool that owners of the claim's key hold and that passes.
    fn lowest_joined(
        &self,
        pool: &Pool,
        family: Family,
        passes: impl Fn(Address) -> bool,
    ) -> Option<Address> {
        let key = ShareKey::of(self.owner, self.claim)?;
        let ports = &self.claim.ports;
        let mut left = MAX_SHARED_TRIED;
        for range in self.ranges(pool, family) {
            let mut reach = Some(range);
            while let Some(within) = reach
                && left > 0
                && let Some(found) =
                    self.space()
                        .lowest_shared(&key, ports, within, pool.avoid_buggy_ips)
            {
                if self.is_of_reservation(found) && self.is_clear(found) && passes(found) {
                    return Some(found);
                }
                left -= 1;
                reach = found
                    .next()
                    .and_then(|next| AddressRange::new(next, range.last()));
            }
        }
        None
    }
}
