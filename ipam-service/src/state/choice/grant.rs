//! The answer to a claim that is granted.

use crate::state::address::{Address, Family};
use crate::state::model::{Pool, PoolKey};
use crate::state::pool::Homes;

/// Addresses for a claim, IPv4 first, and the pools that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct Grant {
    pub(in crate::state) addresses: Vec<Address>,
    /// Of the first address.
    pub(in crate::state) pool: PoolKey,
    /// Of the second one, if that is another.
    pub(in crate::state) second_pool: Option<PoolKey>,
}

impl Grant {
    /// Whether it is all of these addresses from the same pools, and more.
    pub(in crate::state) fn adds_to(&self, held: &[Address], homes: Homes<'_>) -> bool {
        let is_kept = |address: &Address| {
            let place = self.addresses.iter().position(|one| one == address);
            let pool = match (place, self.second_pool.as_ref()) {
                (None, _) => return false,
                (Some(0), _) | (Some(_), None) => &self.pool,
                (Some(_), Some(second)) => second,
            };
            *pool == homes.first.key
        };
        held.len() < self.addresses.len() && held.iter().all(is_kept)
    }
}

/// Addresses of one pool.
pub(super) fn grant(pool: &Pool, addresses: &[Address]) -> Grant {
    let mut addresses = addresses.to_vec();
    addresses.sort_by_key(|address| address.family());
    Grant {
        addresses,
        pool: pool.key.clone(),
        second_pool: None,
    }
}

/// Two addresses, each with its pool.
pub(super) fn grant_apart(one: (Address, &Pool), other: (Address, &Pool)) -> Grant {
    let (first, second) = match one.0.family() {
        Family::V4 => (one, other),
        Family::V6 => (other, one),
    };
    let (pool, second_pool) = (&first.1.key, &second.1.key);
    Grant {
        addresses: vec![first.0, second.0],
        pool: pool.clone(),
        second_pool: (pool != second_pool).then(|| second_pool.clone()),
    }
}

/// Addresses, IPv4 first, with the pools of each.
pub(super) fn grant_of(addresses: &[Address], homes: Homes<'_>) -> Grant {
    Grant {
        second_pool: homes.second.map(|pool| pool.key.clone()),
        ..grant(homes.first, addresses)
    }
}
