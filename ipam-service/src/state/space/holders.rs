//! Who holds one address.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::state::address::Address;
use crate::state::model::{Allocation, AllocationId, PoolKey, Port};

/// One, or several.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holders {
    One(Arc<Allocation>),
    Many(Box<Sharers>),
}

/// At least two that share an address, indexed so that one more costs O(log n).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sharers {
    pub(super) by_id: BTreeMap<AllocationId, Arc<Allocation>>,
    pub(super) ports: BTreeMap<Port, AllocationId>,
    pub(super) pools: BTreeMap<PoolKey, usize>,
}

impl Holders {
    /// By id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let (one, many) = match self {
            Self::One(holder) => (Some(holder), None),
            Self::Many(sharers) => (None, Some(sharers.by_id.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl Sharers {
    pub(super) fn insert(&mut self, address: Address, holder: Arc<Allocation>) {
        for port in &holder.effective_claim().ports {
            self.ports.insert(*port, holder.id);
        }
        if let Some(pool) = holder.pool_of(address) {
            *self.pools.entry(pool.clone()).or_default() += 1;
        }
        self.by_id.insert(holder.id, holder);
    }

    pub(super) fn remove(&mut self, address: Address, holder: &Allocation) {
        self.by_id.remove(&holder.id);
        for port in &holder.effective_claim().ports {
            self.ports.remove(port);
        }
        if let Some(pool) = holder.pool_of(address)
            && let Some(count) = self.pools.get_mut(pool)
        {
            *count -= 1;
            if *count == 0 {
                self.pools.remove(pool);
            }
        }
    }
}
