//! What one cluster sees of the pools of an address space, and what of them it may get.

use std::sync::Arc;

use super::Scope;
use crate::state::address::{Address, AddressRange, Family};
use crate::state::grants::Reach;
use crate::state::model::Pool;

/// The pools of a space that one cluster may use: its own, and those of the operator whose name it
/// does not use itself; and which addresses it may get from them.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct View<'a> {
    pub(super) own: Option<&'a Scope>,
    pub(super) operator: Option<&'a Scope>,
    pub(super) reach: Reach<'a>,
}

impl<'a> View<'a> {
    /// What a name means: the cluster's own pool, else the operator's.
    pub(in crate::state) fn named(self, name: &str) -> Option<&'a Arc<Pool>> {
        let own = self.own.and_then(|scope| scope.by_name.get(name));
        own.or_else(|| self.operator.and_then(|scope| scope.by_name.get(name)))
    }

    /// Which addresses the cluster may get, whatever pool they come from.
    pub(in crate::state) fn reach(self) -> Reach<'a> {
        self.reach
    }

    /// Ranges of a family that a pool may give to the cluster, in the order of the pool.
    pub(in crate::state) fn ranges<'p>(
        self,
        pool: &'p Pool,
        family: Family,
    ) -> impl Iterator<Item = AddressRange> + use<'a, 'p> {
        let ranges = pool
            .ranges
            .iter()
            .filter(move |range| range.family() == family);
        ranges.flat_map(move |range| self.reach.within(*range))
    }

    /// Whether this very pool is among them.
    pub(in crate::state) fn sees(self, pool: &Pool) -> bool {
        self.named(&pool.key.name)
            .is_some_and(|visible| visible.key == pool.key)
    }

    /// All of them: the cluster's own by name, then the operator's.
    pub(in crate::state) fn all(self) -> impl Iterator<Item = &'a Arc<Pool>> {
        [self.own, self.operator]
            .into_iter()
            .flatten()
            .flat_map(|scope| scope.by_name.values())
            .filter(move |pool| self.sees(pool))
    }

    /// Those that contain an address: at most one of the cluster's own, then one of the operator's.
    pub(in crate::state) fn containing(
        self,
        address: Address,
    ) -> impl Iterator<Item = &'a Arc<Pool>> {
        [self.own, self.operator]
            .into_iter()
            .flatten()
            .filter_map(move |scope| scope.containing(address))
            .filter(move |pool| self.sees(pool))
    }

    /// Those that are chosen from without being named, in the order in which they are tried.
    pub(in crate::state) fn auto(self) -> impl Iterator<Item = &'a Arc<Pool>> {
        let mut own = self.own.into_iter().flat_map(|s| s.auto.iter()).peekable();
        let operator = self.operator.into_iter().flat_map(|s| s.auto.iter());
        let mut operator = operator
            .filter(move |(_, name)| self.own.is_none_or(|own| !own.by_name.contains_key(name)))
            .peekable();
        std::iter::from_fn(move || {
            let next = match (own.peek(), operator.peek()) {
                (Some(mine), Some(theirs)) if mine > theirs => operator.next(),
                (None, _) => operator.next(),
                (Some(_), _) => own.next(),
            };
            next.and_then(|(_, name)| self.named(name))
        })
    }
}
