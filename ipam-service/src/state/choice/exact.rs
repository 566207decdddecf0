//! Claims for certain addresses.

use std::sync::Arc;

use super::grant::{Grant, grant_of};
use super::{Asking, refusal};
use crate::state::address::{Address, Family};
use crate::state::model::{Families, OwnerKey, Pool};
use crate::state::pool::{self, Homes};
use crate::state::quota::Placed;
use crate::state::refusal::{Reason, Refusal, text};
use crate::state::space::Obstacle;

impl<'a> Asking<'a> {
    /// The very addresses that the claim asks for.
    pub(super) fn exactly(&self) -> Result<Grant, Refusal> {
        let addresses = &self.claim.addresses;
        self.check_families()?;
        if let Some(reservation) = self.named_reservation()?
            && let Some(address) = addresses.iter().find(|a| !self.is_of_reservation(**a))
        {
            let name = &reservation.key.name;
            let message = format!("address {address} is not one of reservation \"{name}\"");
            return Err(refusal(Reason::AddressNotInReservation, message));
        }
        let homes = self.homes_of_exactly()?;
        let pools = [homes.first, homes.second.unwrap_or(homes.first)];
        for (address, pool) in addresses.iter().zip(pools) {
            if let Err(obstacle) = self.admitted(*address) {
                let (reason, message) = self.conflict(*address, &pool.key, obstacle);
                return Err(refusal(reason, message));
            }
        }
        if !addresses.iter().all(|address| self.is_known(*address)) {
            return Err(self.recovering());
        }
        let placed = addresses.iter().zip(pools);
        let placed: Vec<Placed<'_>> = placed.map(|(a, pool)| (*a, &pool.key)).collect();
        if let Err(full) = self.within_quotas(&placed) {
            return Err(Refusal {
                quota: Some(full.quota.name.to_string()),
                ..refusal(Reason::QuotaExceeded, full.to_string())
            });
        }
        let is_behind = |one: &&Placed<'_>| self.is_behind(one.0) || self.is_behind_for_room(**one);
        match placed.iter().find(is_behind) {
            None => Ok(grant_of(addresses, homes)),
            Some((address, _)) => Err(refusal(
                Reason::BehindOlderClaims,
                format!("older claims wait for address {address}"),
            )),
        }
    }

    /// Whether the claim could have the addresses that it asks for, if this one of them was to be had,
    /// and what `vacated_by` alone holds.
    pub(in crate::state) fn lacks_only(
        &self,
        address: Address,
        vacated_by: Option<&OwnerKey>,
    ) -> bool {
        let addresses = &self.claim.addresses;
        let mut others = addresses.iter().filter(|other| **other != address);
        let is_vacated = |other: Address| {
            let mut holders = self.space().holders(other);
            holders.all(|holder| Some(&holder.owner.key) == vacated_by)
        };
        let is_there = |other: &Address| {
            self.is_of_reservation(*other)
                && match self.admitted(*other) {
                    Ok(()) => true,
                    Err(Obstacle::Holder(..)) => is_vacated(*other),
                    Err(Obstacle::Withheld(_)) => false,
                }
        };
        let could_hold = |homes: Homes<'_>| {
            let pools = [homes.first, homes.second.unwrap_or(homes.first)];
            let placed = addresses.iter().zip(pools);
            let placed: Vec<Placed<'_>> = placed.map(|(a, pool)| (*a, &pool.key)).collect();
            self.within_quotas(&placed).is_ok()
        };
        addresses.contains(&address)
            && self.check_families().is_ok()
            && others.all(is_there)
            && self.homes_of_exactly().is_ok_and(could_hold)
    }

    fn check_families(&self) -> Result<(), Refusal> {
        let mut given: Vec<Family> = self.claim.addresses.iter().map(|a| a.family()).collect();
        given.sort();
        let fits = match self.claim.families {
            Families::Any | Families::PreferBoth { .. } => true,
            Families::One(family) => given == [family],
            Families::Both => given == Family::ALL,
        };
        if fits {
            return Ok(());
        }
        let message = format!(
            "{} the families that the claim asks for",
            match given.as_slice() {
                [one] => format!("one {one} address is not of"),
                _ => "the addresses are not of".to_owned(),
            }
        );
        Err(refusal(Reason::FamilyNotInPool, message))
    }

    /// The pools that give the addresses that the claim asks for: one for both, unless the claim
    /// allows two and no one pool has both.
    fn homes_of_exactly(&self) -> Result<Homes<'a>, Refusal> {
        let together = self.pool_of_exactly(&self.claim.addresses);
        match (together, self.claim.addresses.as_slice()) {
            (Err(_), [first, second]) if self.claim.allows_two_pools() => {
                let first = self.pool_of_exactly(&[*first])?;
                let second = self.pool_of_exactly(&[*second])?;
                let is_other = first.key != second.key;
                Ok(Homes {
                    first,
                    second: is_other.then_some(second),
                })
            }
            (together, _) => together.map(Homes::one),
        }
    }

    /// The pool that gives addresses that the claim asks for.
    fn pool_of_exactly(&self, addresses: &[Address]) -> Result<&'a Arc<Pool>, Refusal> {
        if let Some(name) = &self.claim.pool
            && self.view().named(name).is_none()
        {
            return Err(refusal(Reason::UnknownPool, text::unknown_pool(name)));
        }
        let mut homes: Vec<&Arc<Pool>> = self
            .view()
            .containing(addresses[0])
            .filter(|pool| addresses.iter().all(|a| pool::contains(pool, *a)))
            .collect();
        // What is held is kept through the pool that it is held through.
        let through = self.held_through(addresses[0]).or(self.current_pools[0]);
        homes.sort_by_key(|pool| Some(&pool.key) != through);
        if homes.is_empty() {
            let message = text::in_no_pool(addresses, self.owner, &self.claim.space);
            return Err(refusal(Reason::AddressNotInPool, message));
        }
        if let Some(name) = &self.claim.pool {
            homes.retain(|pool| pool.key.name == *name);
            if homes.is_empty() {
                let message = text::not_in_requested_pool(addresses, name);
                return Err(refusal(Reason::AddressNotInRequestedPool, message));
            }
        }
        let mut first_refusal = None;
        for pool in homes {
            let refused = if !pool::admits(pool, self.owner, self.claim) {
                self.not_for_owner(pool)
            } else if !addresses.iter().all(|a| pool::gives(pool, *a)) {
                let message = format!(
                    "{}: pool {} avoids addresses that end in .0 or .255",
                    text::not_in_config(addresses),
                    pool.key
                );
                refusal(Reason::BuggyAddress, message)
            } else if let Some(outside) = addresses.iter().find(|a| !self.is_in_reach(**a)) {
                let granted = self.grant_text();
                let message = format!(
                    "{granted}: address {outside} of pool \"{}\" lies outside",
                    pool.key
                );
                refusal(Reason::OutsideGrant, message)
            } else {
                return Ok(pool);
            };
            first_refusal.get_or_insert(refused);
        }
        Err(first_refusal.expect("there was a pool, and it was not returned"))
    }
}
