//! Which addresses satisfy a claim, or why none do. Reads the state and changes nothing.

mod adopt;
mod exact;
mod grant;
mod reach;
mod refused;
mod reserved;
mod resting;
mod two_pools;
mod within;

use std::sync::Arc;

use super::State;
use super::address::{Address, AddressRange, Family};
use super::model::{
    Allocation, AllocationId, Claim, Families, OwnerKey, OwnerScope, Pool, PoolKey,
};
use super::pool::{self, View};
use super::quota::{Exceeded, Placed};
use super::refusal::text;
use super::refusal::{Attempt, Reason, Refusal};
use super::sharing::ShareKey;
use super::space::{Obstacle, Space};
pub(super) use grant::Grant;
use grant::grant;
use refused::refusal;

/// Attempts that a refusal lists. A claim that waits keeps its refusal, so with very many pools
/// the list would weigh more than the claim; nobody reads further than this. How many are left out
/// is told.
pub(super) const MAX_ATTEMPTS: usize = 32;

/// A claim on its way to an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) state: &'a State,
    pub(super) owner: &'a OwnerKey,
    pub(super) claim: &'a Claim,
    /// Place in the queue: claims that wait since a smaller id go first. A newcomer has
    /// [`NEWCOMER`].
    pub(super) arrival: AllocationId,
    /// What the owner holds now: kept if it fits.
    pub(super) current: &'a [Address],
    /// Which pools that comes from: the first address, and the second.
    pub(super) current_pools: [Option<&'a PoolKey>; 2],
    /// Tried before any other address, but nobody's yet.
    pub(super) wished: &'a [Address],
    /// What the owner holds now it keeps even outside its cluster's grant.
    pub(super) keeps_outside_grant: bool,
}

/// Place in the queue of a claim that is not stored yet.
pub(super) const NEWCOMER: AllocationId = AllocationId::MAX;

/// Why a pool has no address of a family for this claim.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lack {
    Family,
    /// The pool has some, and the grant of the cluster has none of them.
    Grant,
    FreeAddress,
    /// There is one, but older claims that wait come first.
    BehindOlder,
    /// There is one, but the owner may hold no more.
    Quota(Box<Exceeded>),
    /// There may be one, but until all clusters have reported nobody knows.
    Recovering,
}

impl<'a> Asking<'a> {
    /// A stored claim, asked again.
    pub(super) fn again(state: &'a State, allocation: &'a Allocation) -> Self {
        Self::renewed(state, allocation, &allocation.claim)
    }

    /// The owner of an allocation asks with this claim.
    pub(super) fn renewed(state: &'a State, held: &'a Allocation, claim: &'a Claim) -> Self {
        // Addresses of another space are not the same addresses.
        let pool = held.pool.as_ref().filter(|pool| pool.space == claim.space);
        let second = pool.and(held.second_pool.as_ref());
        Self {
            state,
            owner: &held.owner.key,
            claim,
            arrival: held.id,
            current: pool.map_or(&[], |_| &held.addresses),
            current_pools: [pool, second.or(pool)],
            wished: &[],
            keeps_outside_grant: held.outside_grant,
        }
    }

    /// The addresses to give.
    ///
    /// # Errors
    /// Why none can be given now.
    pub(super) fn choose(&self) -> Result<Grant, Refusal> {
        if !self.claim.addresses.is_empty() {
            return self.exactly();
        }
        let named = self.named_pool()?;
        self.named_reservation()?;
        let known = self.taken_back().or_else(|| self.adopt(self.current));
        if let Some(grant) = known.or_else(|| self.adopt(self.wished)) {
            return Ok(grant);
        }
        if self.state.is_recovering() {
            return self.adopt_part().ok_or_else(|| self.recovering());
        }
        match self.claim.families {
            Families::One(family) => self.search(named, |pool| self.one(pool, family)),
            Families::Any => self.search(named, |pool| self.either(pool, self.kept_first(pool))),
            Families::Both => match self.adopt_part() {
                Some(grant) => Ok(grant),
                None => self.pair(named),
            },
            Families::PreferBoth { first } => {
                let kept = self.adopt_part();
                let stays =
                    |kept: &Grant| kept.addresses.len() == 2 || self.claim.allows_two_pools();
                let dual = match kept.as_ref().is_some_and(stays) {
                    true => kept,
                    false => self.pair(named).ok().or(kept),
                };
                if let Some(grant) = dual {
                    return Ok(grant);
                }
                let second = other(first);
                self.search(named, |pool| self.one(pool, first))
                    .or_else(|_| self.search(named, |pool| self.one(pool, second)))
                    .or_else(|_| self.search(named, |pool| self.either(pool, [first, second])))
            }
        }
    }

    /// The pool that the claim names.
    fn named_pool(&self) -> Result<Option<&'a Arc<Pool>>, Refusal> {
        let Some(name) = &self.claim.pool else {
            return Ok(None);
        };
        let unknown = || refusal(Reason::UnknownPool, text::unknown_pool(name));
        let pool = self.view().named(name).ok_or_else(unknown)?;
        if pool::admits(pool, self.owner, self.claim) {
            Ok(Some(pool))
        } else {
            Err(self.not_for_owner(pool))
        }
    }

    /// The first pool that has what `take` looks for, in the order in which pools are tried.
    fn search(
        &self,
        named: Option<&'a Arc<Pool>>,
        take: impl Fn(&Pool) -> Result<Vec<Address>, (Family, Lack)>,
    ) -> Result<Grant, Refusal> {
        let mut tried = Vec::new();
        let mut untold = 0_usize;
        let mut quota = None;
        for pool in self.pools_in_order(named) {
            let (reason, message) = if pool::admits(pool, self.owner, self.claim) {
                match take(pool) {
                    Ok(addresses) => return Ok(grant(pool, &addresses)),
                    Err((family, lack)) => {
                        if let Lack::Quota(full) = &lack {
                            quota.get_or_insert_with(|| full.quota.name.to_string());
                        }
                        self.describe(lack, &pool.key, family)
                    }
                }
            } else {
                let message = text::pool_not_for_owner(&pool.key, self.owner);
                (Reason::PoolNotForOwner, message)
            };
            if tried.len() < MAX_ATTEMPTS {
                tried.push(Attempt {
                    pool: pool.key.to_string(),
                    reason,
                    message,
                });
            } else {
                untold += 1;
            }
        }
        let mut refusal = Refusal {
            quota,
            ..self.summary(tried, named.is_some())
        };
        if untold > 0 {
            let more = format!("; and {untold} more pools were tried");
            refusal.message.push_str(&more);
        }
        Err(refusal)
    }

    fn one(&self, pool: &Pool, family: Family) -> Result<Vec<Address>, (Family, Lack)> {
        self.one_beside(pool, family, None)
    }

    fn one_beside(
        &self,
        pool: &Pool,
        family: Family,
        beside: Option<Placed<'_>>,
    ) -> Result<Vec<Address>, (Family, Lack)> {
        match self.candidate(pool, family, beside) {
            Ok(address) => Ok(vec![address]),
            Err(lack) => Err((family, lack)),
        }
    }

    fn either(&self, pool: &Pool, families: [Family; 2]) -> Result<Vec<Address>, (Family, Lack)> {
        let [first, second] = families;
        self.one(pool, first).or_else(|why| {
            self.one(pool, second)
                .map_err(|why_second| match (&why.1, &why_second.1) {
                    (Lack::Grant, Lack::Family) => why,
                    (Lack::Family | Lack::Grant, _)
                    | (_, Lack::BehindOlder)
                    | (Lack::FreeAddress, Lack::Quota(_)) => why_second,
                    (
                        Lack::FreeAddress | Lack::BehindOlder | Lack::Quota(_) | Lack::Recovering,
                        _,
                    ) => why,
                })
        })
    }

    /// One address of each family, of which nothing is the owner's yet.
    fn pair(&self, named: Option<&'a Arc<Pool>>) -> Result<Grant, Refusal> {
        match self.claim.allows_two_pools() {
            true => self.apart(),
            false => self.search(named, |pool| self.both(pool)),
        }
    }

    fn both(&self, pool: &Pool) -> Result<Vec<Address>, (Family, Lack)> {
        let [v4, v6] = match self.in_turn(pool, Family::V4) {
            // What room there is may be for the other family, beside an address that counts already.
            Err(why @ (_, Lack::Quota(_))) => match self.in_turn(pool, Family::V6) {
                Ok([v6, v4]) => [v4, v6],
                Err(_) => return Err(why),
            },
            in_turn => in_turn?,
        };
        Ok(vec![v4, v6])
    }

    /// An address of a family, then one of the other beside it.
    fn in_turn(&self, pool: &Pool, first: Family) -> Result<[Address; 2], (Family, Lack)> {
        let second = other(first);
        let taken = self.candidate(pool, first, None);
        let taken = taken.map_err(|lack| (first, lack))?;
        let added = self.candidate(pool, second, Some((taken, &pool.key)));
        Ok([taken, added.map_err(|lack| (second, lack))?])
    }

    /// An address of a family from a pool: the owner's own, else a wished one, else the lowest that
    /// is free or that the owner may share, in the order of the pool's ranges. `beside`: what else is
    /// granted.
    fn candidate(
        &self,
        pool: &Pool,
        family: Family,
        beside: Option<Placed<'_>>,
    ) -> Result<Address, Lack> {
        let mut known = self.current.iter().chain(self.wished);
        let known = known.find(|address| {
            address.family() == family
                && self.may_give(pool, **address)
                && self.is_of_reservation(**address)
                && self.is_clear(**address)
                && self.may_take((**address, &pool.key), beside)
        });
        if let Some(address) = known {
            return Ok(*address);
        }
        if !pool::has_family(pool, family) {
            return Err(Lack::Family);
        }
        if self.ranges(pool, family).next().is_none() {
            return Err(Lack::Grant);
        }
        if self.state.is_recovering() {
            return Err(Lack::Recovering);
        }
        let kept = self.may_have_kept().then(|| self.lowest_kept(pool, family));
        let kept = kept.flatten().map(|(_, kept)| kept);
        let kept = kept.filter(|kept| !self.is_behind(*kept));
        if let Some(kept) = kept
            && self.may_take((kept, &pool.key), beside)
        {
            return Ok(kept);
        }
        let own_resting = || self.own_resting(pool, family);
        match self.lowest_in(pool, family).or_else(own_resting).or(kept) {
            None => Err(Lack::FreeAddress),
            Some(address) if self.is_behind(address) => Err(Lack::BehindOlder),
            Some(address) => self.counted_or(address, pool, beside),
        }
    }

    /// Whether a pool has an address of a family for the claim, were it not for older claims.
    pub(super) fn has_room(&self, pool: &Pool, family: Family) -> bool {
        let may_stay = |address: &Address| {
            address.family() == family
                && self.may_give(pool, *address)
                && self.is_of_reservation(*address)
                && self.admitted(*address).is_ok()
        };
        self.current.iter().any(may_stay) || self.gives(pool, family)
    }

    fn lowest_in(&self, pool: &Pool, family: Family) -> Option<Address> {
        let key = ShareKey::of(self.owner, self.claim);
        let mut ranges = self.ranges(pool, family);
        ranges.find_map(|range| self.lowest(range, pool.avoid_buggy_ips, key.as_ref()))
    }

    fn lowest(
        &self,
        range: AddressRange,
        avoid_buggy: bool,
        key: Option<&ShareKey>,
    ) -> Option<Address> {
        let space = self.space();
        if let Some(name) = &self.claim.reservation {
            let parts = space.reserved_in(range, name);
            return parts.into_iter().find_map(|part| {
                let mut scopes = OwnerScope::around(self.owner);
                let free = scopes.find_map(|scope| space.lowest_kept(&scope, part, avoid_buggy));
                self.lower_shared(part, avoid_buggy, key, free)
            });
        }
        let free = space.lowest_free(range, avoid_buggy);
        self.lower_shared(range, avoid_buggy, key, free)
    }

    /// A shared address counts only below the lowest free one, as in MetalLB's scan.
    fn lower_shared(
        &self,
        range: AddressRange,
        avoid_buggy: bool,
        key: Option<&ShareKey>,
        free: Option<Address>,
    ) -> Option<Address> {
        let reach = AddressRange::new(range.first(), free.unwrap_or(range.last()))?;
        let shared = |mut from: AddressRange| {
            let ports = &self.claim.ports;
            let key = key?;
            loop {
                let found = self.space().lowest_shared(key, ports, from, avoid_buggy)?;
                // The key agrees and the ports are free; it may be withheld from this owner.
                if self.admitted(found).is_ok() {
                    return Some(found);
                }
                from = AddressRange::new(found.next()?, from.last())?;
            }
        };
        shared(reach).or(free)
    }

    /// Whether the owner could hold the address as far as others are concerned.
    fn is_clear(&self, address: Address) -> bool {
        self.is_known(address) && self.admitted(address).is_ok() && !self.is_behind(address)
    }

    pub(super) fn admitted(&self, address: Address) -> Result<(), Obstacle<'a>> {
        let space = self.space();
        // What an incarnation before it holds is no more its own than anybody else's. In recovery the
        // store's word is not held against somebody who uses the address.
        if self.current.contains(&address) || self.takes_back(address) {
            return space.agrees(address, self.owner, self.claim);
        }
        space.admits(address, self.owner, self.claim)
    }

    /// Whether a claim that waits longer comes first for this address.
    fn is_behind(&self, address: Address) -> bool {
        // Until all clusters have reported nobody is given anything but what it uses.
        if self.current.contains(&address) || self.state.is_recovering() {
            return false;
        }
        let state = self.state;
        let mut holders = self.space().holders(address);
        let vacated = match (holders.next(), holders.next()) {
            // An earlier incarnation of the owner gives it back in this very decision.
            (Some(holder), None) if holder.owner.key == *self.owner => true,
            (_, _) => false,
        };
        if vacated {
            state.has_taker(&self.claim.space, address, self.owner)
        } else {
            state.has_older_taker(&self.claim.space, address, self.arrival, self.owner)
        }
    }

    fn view(&self) -> View<'a> {
        self.state
            .pools
            .view(&self.claim.space, &self.owner.cluster)
    }

    fn space(&self) -> &'a Space {
        self.state.space(&self.claim.space)
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

#[cfg(test)]
mod tests;
