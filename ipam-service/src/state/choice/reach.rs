//! What the grant of a cluster leaves of pools and addresses.

use super::Asking;
use crate::state::address::{Address, AddressRange, Family};
use crate::state::grants::Reach;
use crate::state::model::{Inventory, Pool, PoolKey};
use crate::state::pool;
use crate::state::refusal::text;

impl Asking<'_> {
    /// Ranges of a family that a pool may give to the owner's cluster, in the order of the pool.
    pub(super) fn ranges<'p>(
        &self,
        pool: &'p Pool,
        family: Family,
    ) -> impl Iterator<Item = AddressRange> + use<'_, 'p> {
        self.view().ranges(pool, family)
    }

    /// Whether a pool may give this address to the owner, others aside.
    pub(in crate::state) fn may_give(&self, pool: &Pool, address: Address) -> bool {
        pool::gives(pool, address) && self.is_in_reach(address)
    }

    /// Whether the owner may have the address as far as grants are concerned.
    ///
    /// A store that recovers holds no grant against an address that is in use (see
    /// [`Asking::takes_back`]): refusing it would give a live address away. What was taken back so
    /// is kept.
    pub(in crate::state) fn is_in_reach(&self, address: Address) -> bool {
        self.view().reach().contains(address)
            || (self.keeps_outside_grant && self.current.contains(&address))
            || self.takes_back(address)
    }

    /// Whether the owner's word is taken that it uses an address. While the store does not know who
    /// holds what, it is that of a cluster that is still to report, or is reporting; also of one that
    /// nobody expected. Of a cluster that has reported the store knows what it holds, and its nodes
    /// have stopped answering for anything else.
    pub(super) fn takes_back(&self, address: Address) -> bool {
        let cluster = self.state.cluster(&self.owner.cluster);
        self.state.is_recovering()
            && self.wished.contains(&address)
            && cluster.is_some_and(|own| match own.inventory {
                Inventory::New | Inventory::Complete => false,
                Inventory::Expected
                | Inventory::Missing
                | Inventory::FirstReport { .. }
                | Inventory::Reporting { .. } => true,
            })
    }

    /// Whether it is known that nobody but the owner, and who shares with it, uses an address that
    /// the store says to be open to it.
    ///
    /// A store that recovers does not know what clusters use that are still to report, so only what
    /// the owner uses itself is: what the store has as its own, also of an earlier incarnation, and
    /// what its word is taken for.
    pub(super) fn is_known(&self, address: Address) -> bool {
        let mut holders = self.space().holders(address);
        !self.state.is_recovering()
            || holders.any(|holder| holder.owner.key == *self.owner)
            || self.takes_back(address)
    }

    /// Whether grants leave nothing of the address space to the cluster.
    pub(super) fn has_no_grant(&self) -> bool {
        self.view().reach() == Reach::Only(&[])
    }

    /// Whether the grant has some of a pool's addresses of a family, and not all.
    pub(super) fn is_cut_short(&self, pool: &PoolKey, family: Family) -> bool {
        let reach = self.view().reach();
        let pool = self.state.pool(pool).into_iter();
        let mut ranges = pool.flat_map(|pool| &pool.ranges);
        ranges.any(|range| range.family() == family && !reach.outside(*range).is_empty())
    }

    /// What the cluster may use, as the beginning of a refusal.
    pub(super) fn grant_text(&self) -> String {
        let granted = match self.view().reach() {
            Reach::Everything => &[],
            Reach::Only(ranges) => ranges,
        };
        text::outside_grant(self.owner, &self.claim.space, granted)
    }
}
