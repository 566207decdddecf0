//! Reservations in a choice: the one that a claim names, and those that are kept for its owner.

use std::sync::Arc;

use super::{Asking, refusal};
use crate::state::address::{Address, Family};
use crate::state::model::{Families, OwnerScope, Pool, Reservation, ReservationKey};
use crate::state::refusal::{Reason, Refusal, text};

impl<'a> Asking<'a> {
    /// The reservation that the claim names.
    pub(super) fn named_reservation(&self) -> Result<Option<&'a Arc<Reservation>>, Refusal> {
        let Some(name) = &self.claim.reservation else {
            return Ok(None);
        };
        let key = ReservationKey {
            space: self.claim.space.clone(),
            name: name.clone(),
        };
        let Some(reservation) = self.state.reservation(&key) else {
            let message = format!("no reservation \"{name}\"");
            return Err(refusal(Reason::UnknownReservation, message));
        };
        let scope = reservation.kept_for.as_ref();
        if scope.is_some_and(|scope| scope.covers(self.owner)) {
            Ok(Some(reservation))
        } else {
            let message = text::reservation_not_for_owner(reservation, self.owner, self.reader());
            Err(refusal(Reason::AddressReserved, message))
        }
    }

    /// Whether an address is one of the reservation that the claim names, if it names one.
    pub(in crate::state) fn is_of_reservation(&self, address: Address) -> bool {
        self.claim.reservation.as_ref().is_none_or(|name| {
            let reservation = self.space().reservation(address);
            reservation.is_some_and(|reservation| reservation.key.name == *name)
        })
    }

    /// Every pool that could give an address of a reservation, in the order in which they are
    /// tried: who names a reservation names its addresses, so those without automatic choice too.
    fn pools_of(&self, reservation: &Reservation) -> Vec<&'a Arc<Pool>> {
        let view = self.view();
        let others = view.all().filter(|pool| !pool.auto_assign);
        let pools = view.auto().chain(others);
        let ranges = &reservation.ranges;
        let overlap = pools.filter(|pool| {
            let mut of_pool = pool.ranges.iter();
            of_pool.any(|one| ranges.iter().any(|range| range.overlaps(*one)))
        });
        overlap.collect()
    }

    /// The pools that the claim may draw from, in the order in which they are tried.
    pub(in crate::state) fn pools_in_order(
        &self,
        named: Option<&'a Arc<Pool>>,
    ) -> impl Iterator<Item = &'a Arc<Pool>> {
        let sorted = match (named, self.named_reservation()) {
            (Some(_), _) => None,
            (None, Ok(Some(reservation))) => Some(self.pools_of(reservation)),
            (None, Ok(None)) if self.may_have_kept() => Some(self.kept_pools_first()),
            (None, Ok(None)) => None,
            (None, Err(_)) => Some(Vec::new()),
        };
        // Mostly the first one will do, so the others are not even listed.
        let auto = (named.is_none() && sorted.is_none()).then(|| self.view().auto());
        let sorted = sorted.into_iter().flatten();
        sorted.chain(named).chain(auto.into_iter().flatten())
    }

    /// Pools of automatic choice, those first in which something is kept for the owner that the
    /// claim could have.
    fn kept_pools_first(&self) -> Vec<&'a Arc<Pool>> {
        let families: &[Family] = match &self.claim.families {
            Families::One(Family::V4) => &[Family::V4],
            Families::One(Family::V6) => &[Family::V6],
            Families::Any | Families::Both | Families::PreferBoth { .. } => &Family::ALL,
        };
        let mut pools: Vec<_> = self.view().auto().collect();
        pools.sort_by_cached_key(|pool| {
            let kept = families.iter().map(|family| self.precision(pool, *family));
            kept.min()
        });
        pools
    }

    /// Whether automatic choice has to look for addresses that are kept for the owner.
    pub(super) fn may_have_kept(&self) -> bool {
        self.claim.reservation.is_none() && self.space().keeps_for(self.owner)
    }

    /// The families in the order in which a claim for any of them tries a pool.
    pub(super) fn kept_first(&self, pool: &Pool) -> [Family; 2] {
        let mut families = Family::ALL;
        if self.may_have_kept() {
            families.sort_by_key(|family| self.precision(pool, *family));
        }
        families
    }

    /// The address of a family in a pool that is kept for the owner, of the most precise scope that
    /// has one; and how precise that is, 0 being the owner itself.
    pub(super) fn lowest_kept(&self, pool: &Pool, family: Family) -> Option<(usize, Address)> {
        let space = self.space();
        let scopes = OwnerScope::around(self.owner).enumerate();
        scopes.into_iter().find_map(|(precision, scope)| {
            let mut ranges = self.ranges(pool, family);
            let kept =
                ranges.find_map(|range| space.lowest_kept(&scope, range, pool.avoid_buggy_ips))?;
            Some((precision, kept))
        })
    }

    /// How precisely something of a pool is kept for the owner; least where nothing is.
    fn precision(&self, pool: &Pool, family: Family) -> usize {
        let kept = self.lowest_kept(pool, family);
        kept.map_or(usize::MAX, |(precision, _)| precision)
    }
}
