//! One copy of what many allocations have in common: names, keys of pools, and whole claims. A million Services
//! have a few clusters and namespaces, and those of one application the same ports and labels.
//!
//! It changes no value, only how often it lies in memory.

use std::collections::HashSet;
use std::sync::Arc;

use super::command::Command;
use super::model::{Claim, OwnerKey, PoolKey};
use super::names::Name;

/// Entries beyond which unused ones are looked for at the earliest.
const SWEEP_AT_LEAST: usize = 1024;

/// Names, keys of pools and claims in use. Those that are not any more are dropped when twice as many are known
/// as were in use at the last look.
#[derive(Debug, Default)]
pub struct Interner {
    names: HashSet<Name>,
    pools: HashSet<PoolKey>,
    claims: HashSet<Arc<Claim>>,
    sweep_at: usize,
}

impl Interner {
    /// Makes a command's values the known ones where they are equal.
    pub fn share(&mut self, command: &mut Command) {
        if let Command::Allocate(allocate) = command {
            self.owner(&mut allocate.owner.key);
            self.claim(&mut allocate.claim);
        }
    }

    /// What an owner shares with its neighbours: all but its own name.
    pub fn owner(&mut self, owner: &mut OwnerKey) {
        self.name(&mut owner.cluster);
        if let Some(namespace) = &mut owner.namespace {
            self.name(namespace);
        }
    }

    pub fn name(&mut self, name: &mut Name) {
        match self.names.get(name.as_str()) {
            Some(known) => *name = known.clone(),
            None => {
                self.make_room();
                self.names.insert(name.clone());
            }
        }
    }

    pub fn pool(&mut self, pool: &mut PoolKey) {
        match self.pools.get(pool) {
            Some(known) => *pool = known.clone(),
            None => {
                self.make_room();
                self.pools.insert(pool.clone());
            }
        }
    }

    pub fn claim(&mut self, claim: &mut Arc<Claim>) {
        match self.claims.get(&**claim) {
            Some(known) => *claim = Arc::clone(known),
            None => {
                self.make_room();
                let own = Arc::make_mut(claim);
                self.name(&mut own.space);
                if let Some(pool) = &mut own.pool {
                    self.name(pool);
                }
                self.claims.insert(Arc::clone(claim));
            }
        }
    }

    fn make_room(&mut self) {
        if self.known() < self.sweep_at.max(SWEEP_AT_LEAST) {
            return;
        }
        self.claims.retain(|claim| Arc::strong_count(claim) > 1);
        self.pools.retain(PoolKey::is_shared);
        self.names.retain(Name::is_shared);
        self.sweep_at = 2 * self.known();
    }

    fn known(&self) -> usize {
        self.names.len() + self.pools.len() + self.claims.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{claim, from_pool, name, owner};
    use super::*;

    #[test]
    fn equal_names_and_claims_become_one_value() {
        let mut interner = Interner::default();
        let mut owners = [owner("east/default/web"), owner("east/default/api")];
        for owner in &mut owners {
            interner.owner(owner);
        }
        let [web, api] = &owners;
        assert!(std::ptr::eq(web.cluster.as_str(), api.cluster.as_str()));
        let mut claims = [claim(), claim(), from_pool("pool")].map(Arc::new);
        for claim in &mut claims {
            interner.claim(claim);
        }
        assert!(Arc::ptr_eq(&claims[0], &claims[1]));
        assert_ne!(claims[0], claims[2]);
        assert!(std::ptr::eq(
            claims[0].space.as_str(),
            claims[2].space.as_str()
        ));
    }

    #[test]
    fn what_nobody_uses_any_more_is_dropped_and_what_is_used_stays() {
        let mut interner = Interner::default();
        let mut used = Vec::new();
        for number in 0..10 * SWEEP_AT_LEAST {
            let mut claim = Arc::new(from_pool(&format!("pool-{number}")));
            interner.claim(&mut claim);
            interner.name(&mut name(&format!("name-{number}")));
            if number < 10 {
                used.push(claim);
            }
        }
        let known = interner.known();
        assert!(known <= 2 * SWEEP_AT_LEAST, "{known}");
        for claim in &used {
            let mut again = Arc::new(Claim::clone(claim));
            interner.claim(&mut again);
            assert!(Arc::ptr_eq(claim, &again));
        }
    }
}
