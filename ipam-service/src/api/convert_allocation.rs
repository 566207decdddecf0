//! Allocations: wire <-> domain. What is stored of one is its wire form and [`AllocationExtras`].

use std::sync::Arc;

use pharos_proto::v1;

use super::convert::{
    FieldErrors, addresses, claim_from_wire, claim_to_wire, owner_from_wire, owner_to_wire,
};
use super::convert_history::{time_from_wire, time_to_wire};
use super::convert_refusal::{refusal_from_wire, refusal_to_wire};
use crate::state::address::Address;
use crate::state::model::{Allocation, Claim, PoolKey, Standing, Timestamp};
use crate::state::refusal::Rejection;

/// An allocation, as answers, streams, history and the store have it.
pub fn allocation_to_wire(allocation: &Allocation) -> v1::Allocation {
    use v1::allocation::State;
    let (state, refusal) = match &allocation.standing {
        Standing::Assigned => (State::Assigned, None),
        Standing::Pending(refusal) => (State::Pending, Some(refusal)),
        Standing::Stale { refusal, .. } => (State::AssignedStale, Some(refusal)),
    };
    v1::Allocation {
        owner: Some(owner_to_wire(&allocation.owner)),
        state: state.into(),
        addresses: allocation
            .addresses
            .iter()
            .map(Address::to_string)
            .collect(),
        pool: allocation
            .pool
            .as_ref()
            .map_or_else(String::new, |pool| pool.name.as_str().to_owned()),
        refusal: refusal.map(|refusal| refusal_to_wire(refusal)),
        revision: allocation.revision,
        create_time: Some(time_to_wire(allocation.create_time)),
        claim: Some(claim_to_wire(&allocation.claim)),
        id: allocation.id,
        address_space: allocation.effective_claim().space.as_str().to_owned(),
        pools: allocation
            .held()
            .map(|(_, pool)| pool_ref_to_wire(pool))
            .collect(),
        outside_grant: allocation.outside_grant,
    }
}

/// A pool by name, to the wire.
pub fn pool_ref_to_wire(pool: &PoolKey) -> v1::PoolRef {
    v1::PoolRef {
        name: pool.name.as_str().to_owned(),
        cluster: pool
            .cluster
            .as_ref()
            .map_or_else(String::new, |cluster| cluster.as_str().to_owned()),
    }
}

/// What an allocation holds beside its wire form: the parts that the API does not show.
#[derive(Debug, Default)]
pub struct AllocationExtras {
    /// Cluster of the pool; empty for an operator's pool.
    pub pool_cluster: String,
    /// The claim under which a stale allocation holds its addresses.
    pub held_claim: Option<v1::Claim>,
}

/// An allocation as it was stored.
pub fn allocation_from_wire(
    wire: &v1::Allocation,
    extras: &AllocationExtras,
) -> Result<Allocation, Rejection> {
    let mut errors = FieldErrors::new();
    let claim = errors.required("claim", wire.claim.as_ref());
    let claim = claim.and_then(|claim| claim_from_wire(&mut errors, claim));
    let claim = errors.finish(claim)?;
    allocation_with_claim(wire, Arc::new(claim), extras)
}

/// The same for who has read the claim already; that of `wire` is not looked at.
pub fn allocation_with_claim(
    wire: &v1::Allocation,
    claim: Arc<Claim>,
    extras: &AllocationExtras,
) -> Result<Allocation, Rejection> {
    let mut errors = FieldErrors::new();
    let allocation = stored_allocation(&mut errors, wire, claim, extras);
    errors.finish(allocation)
}

fn stored_allocation(
    errors: &mut FieldErrors,
    wire: &v1::Allocation,
    claim: Arc<Claim>,
    extras: &AllocationExtras,
) -> Option<Allocation> {
    use v1::allocation::State;
    let owner = owner_from_wire(errors, "owner", wire.owner.as_ref())?;
    let addresses = addresses(errors, "addresses", &wire.addresses)?;
    let refusal = match &wire.refusal {
        Some(refusal) => Some(refusal_from_wire(errors, refusal)?),
        None => None,
    };
    let held_claim = match &extras.held_claim {
        Some(held) => Some(Box::new(claim_from_wire(errors, held)?)),
        None => None,
    };
    let pool = match errors.optional_name("pool", &wire.pool)? {
        None => None,
        // The newest claim may be for another space than the one in which something is held.
        Some(name) => Some(PoolKey::new(
            held_claim.as_deref().unwrap_or(&claim).space.clone(),
            errors.optional_name("pool_cluster", &extras.pool_cluster)?,
            name,
        )),
    };
    let second_pool = match (&pool, wire.pools.get(1)) {
        (Some(first), Some(second)) => {
            let second = PoolKey::new(
                first.space.clone(),
                errors.optional_name("pools[1].cluster", &second.cluster)?,
                errors.name("pools[1].name", &second.name)?,
            );
            (second != *first).then_some(second)
        }
        (None, _) | (_, None) => None,
    };
    let standing = match (State::try_from(wire.state), refusal, held_claim) {
        (Ok(State::Assigned), None, None) => Standing::Assigned,
        (Ok(State::Pending), Some(refusal), None) => Standing::Pending(Box::new(refusal)),
        (Ok(State::AssignedStale), Some(refusal), Some(held_claim)) => Standing::Stale {
            refusal: Box::new(refusal),
            held_claim,
        },
        (Ok(_) | Err(_), _, _) => {
            errors.add("state", "does not agree with refusal and held claim");
            return None;
        }
    };
    Some(Allocation {
        id: wire.id,
        owner,
        claim,
        standing,
        addresses,
        pool,
        second_pool,
        outside_grant: wire.outside_grant,
        revision: wire.revision,
        create_time: wire
            .create_time
            .as_ref()
            .map_or(Timestamp(0), time_from_wire),
    })
}

#[cfg(test)]
mod tests;
