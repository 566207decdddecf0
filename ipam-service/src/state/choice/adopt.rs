//! Addresses that are an owner's already, or that it wishes for: whether the claim may have them, and
//! through which pools.

use super::grant::{Grant, grant, grant_apart, grant_of};
use super::{Asking, other};
use crate::state::address::{Address, Family};
use crate::state::model::{Families, PoolKey};
use crate::state::pool::{Holding, Homes};
use crate::state::quota::Placed;

impl<'a> Asking<'a> {
    /// Addresses that are the owner's, or wished for, if they satisfy the whole claim; a missing
    /// family may be added from the same pool. Nothing is said of why not: the search follows.
    pub(super) fn adopt(&self, from: &[Address]) -> Option<Grant> {
        let of = |family| from.iter().copied().find(|a| a.family() == family);
        match self.claim.families {
            Families::One(family) => self.first_at_home(from, &[family]),
            Families::Any => self.first_at_home(from, &Family::ALL),
            Families::Both | Families::PreferBoth { .. } => {
                match (of(Family::V4), of(Family::V6)) {
                    (Some(v4), Some(v6)) => {
                        let pair = [v4, v6];
                        let homes = self.homes(&pair)?;
                        Some(grant_of(&pair, homes))
                    }
                    (Some(one), None) | (None, Some(one)) => self.with_second(one),
                    (None, None) => None,
                }
            }
        }
    }

    /// What the owner says to use, where the store has something else on record for it: that may be
    /// older than what was lost, and somebody else may use it by now.
    pub(in crate::state) fn taken_back(&self) -> Option<Grant> {
        let is_news = |one: &Address| !self.current.contains(one) && self.takes_back(*one);
        let is_told = self.claim.addresses.is_empty() && self.wished.iter().any(is_news);
        is_told.then(|| self.adopt(self.wished)).flatten()
    }

    /// For a claim of both families that has lost one: one address that is the owner's or wished
    /// for, and another beside it.
    pub(super) fn adopt_part(&self) -> Option<Grant> {
        match self.claim.families {
            Families::Both | Families::PreferBoth { .. } => {
                let mut known = self.current.iter().chain(self.wished);
                known.find_map(|one| self.with_second(*one))
            }
            Families::One(_) | Families::Any => None,
        }
    }

    /// An address with one of the other family from its pool, or from another where the claim allows
    /// that; alone if the claim allows that.
    fn with_second(&self, one: Address) -> Option<Grant> {
        let pool = self.homes(&[one])?.first;
        let missing = other(one.family());
        let beside = Some((one, &pool.key));
        if let Ok(added) = self.candidate(pool, missing, beside) {
            return Some(grant(pool, &[one, added]));
        }
        if self.claim.allows_two_pools()
            && let Some((added, second)) = self.first_of(missing, beside)
        {
            return Some(grant_apart((one, pool), (added, second)));
        }
        (self.claim.families != Families::Both).then(|| grant(pool, &[one]))
    }

    fn first_at_home(&self, from: &[Address], families: &[Family]) -> Option<Grant> {
        families.iter().find_map(|family| {
            let mut of_family = from.iter().filter(|a| a.family() == *family);
            of_family.find_map(|one| Some(grant(self.homes(&[*one])?.first, &[*one])))
        })
    }

    /// The pools from which the claim could hold these addresses.
    pub(super) fn homes(&self, addresses: &[Address]) -> Option<Homes<'a>> {
        let homes = self.permitted(addresses)?;
        let named = self.claim.pool.as_ref();
        let as_named = named.is_none_or(|name| homes.first.key.name == *name);
        let is_clear = |a: &Address| self.is_of_reservation(*a) && self.is_clear(*a);
        if !as_named || !addresses.iter().all(is_clear) {
            return None;
        }
        if !self.state.has_quotas() {
            return Some(homes);
        }
        let pools = [homes.first, homes.second.unwrap_or(homes.first)];
        let placed = addresses.iter().zip(pools);
        let placed: Vec<Placed<'_>> = placed.map(|(a, pool)| (*a, &pool.key)).collect();
        let is_first = !placed.iter().any(|one| self.is_behind_for_room(*one));
        (is_first && self.within_quotas(&placed).is_ok()).then_some(homes)
    }

    /// The pools from which the owner could hold these addresses, others aside.
    pub(super) fn permitted(&self, addresses: &[Address]) -> Option<Homes<'a>> {
        let preferred = |address: &Address| match &self.claim.pool {
            Some(name) => self.view().named(name).map(|pool| &pool.key),
            None => self.held_through(*address).or(self.current_pools[0]),
        };
        let claim = self.claim;
        let holding = Holding {
            owner: self.owner,
            space: &claim.space,
            addresses,
            preferred: [0, 1].map(|index| addresses.get(index).and_then(preferred)),
            apart: claim.allows_two_pools(),
            outside_grant: addresses.iter().all(|address| self.is_in_reach(*address)),
        };
        holding.permitted_by(&self.state.pools, claim)
    }

    /// The pool that an address of the owner comes from.
    pub(super) fn held_through(&self, address: Address) -> Option<&'a PoolKey> {
        let held = self.current.iter().zip(self.current_pools);
        held.into_iter()
            .find_map(|(one, pool)| pool.filter(|_| *one == address))
    }
}
