//! What can be asked of the state, beside what each room answers itself.

use std::ops::Bound;
use std::sync::Arc;

use super::State;
use super::address::Address;
use super::announce::AssignmentKey;
use super::leases::Leases;
use super::model::{
    Advertisement, AdvertisementKey, Allocation, AllocationId, Backends, Cluster, Node, NodeKey,
    OwnerKey, Placement, Pool, PoolKey, Reservation, ReservationKey, Revision, Tenure, TenureKey,
    Unavailable, UnavailableKey,
};
use super::names::Name;
use super::pool::{self, PoolUsage};
use super::space::{NOTHING_HELD, Space};

impl State {
    /// Revision of the last applied decision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether some cluster has yet to report what it holds: until then nobody gets an address
    /// that somebody may be using.
    pub fn is_recovering(&self) -> bool {
        self.recovering > 0
    }

    pub fn allocation(&self, owner: &OwnerKey) -> Option<&Arc<Allocation>> {
        self.tenants.allocation(owner)
    }

    pub fn allocation_by_id(&self, id: AllocationId) -> Option<&Arc<Allocation>> {
        self.by_id.get(&id).map(|entry| &entry.0)
    }

    /// By owner.
    pub fn allocations(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.tenants.allocations()
    }

    /// Of one cluster, by owner.
    pub fn allocations_of(&self, cluster: &str) -> impl Iterator<Item = &Arc<Allocation>> {
        self.tenants.allocations_of(cluster)
    }

    /// How many allocations a cluster has.
    pub fn allocation_count(&self, cluster: &str) -> usize {
        self.tenants.allocation_count(cluster)
    }

    /// Everyone who holds this address, by id.
    pub fn holders(
        &self,
        space: &Name,
        address: Address,
    ) -> impl Iterator<Item = &Arc<Allocation>> {
        self.space(space).holders(address)
    }

    /// Every held address behind one, with one who holds it; by address space and address.
    pub fn held_after<'a>(
        &'a self,
        after: Option<&'a AssignmentKey>,
    ) -> impl Iterator<Item = (&'a Name, Address, &'a Arc<Allocation>)> {
        let first = after.map_or(Bound::Unbounded, |after| Bound::Included(&after.space));
        let spaces = self.spaces.range::<Name, _>((first, Bound::Unbounded));
        spaces.flat_map(move |(name, space)| {
            let behind = after.filter(|after| after.space == *name);
            let from = behind.map_or(Bound::Unbounded, |after| Bound::Excluded(after.address));
            let held = space.held_from(from);
            held.map(move |(address, holder)| (name, address, holder))
        })
    }

    /// Where an address is held, with one who holds it there; by address space.
    pub fn held_at(&self, address: Address) -> impl Iterator<Item = (&Name, &Arc<Allocation>)> {
        let spaces = self.spaces.iter();
        spaces.filter_map(move |(name, space)| Some((name, space.holders(address).next()?)))
    }

    pub fn pool(&self, key: &PoolKey) -> Option<&Arc<Pool>> {
        self.pools.get(key)
    }

    /// By address space, cluster (the operator's first) and name.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter()
    }

    /// What a pool name means to a cluster: its own pool, else the operator's.
    pub fn visible_pool(&self, space: &Name, cluster: &Name, name: &Name) -> Option<&Arc<Pool>> {
        self.pools.view(space, cluster).named(name)
    }

    /// How full a pool is. Costs one step per run of occupied addresses in it.
    pub fn pool_usage(&self, key: &PoolKey) -> Option<PoolUsage> {
        let pool = self.pool(key)?;
        let reach = self.pools.reach_of_pool(key);
        Some(pool::usage(pool, self.space(&key.space), reach))
    }

    pub fn advertisement(&self, key: &AdvertisementKey) -> Option<&Arc<Advertisement>> {
        self.advertisements.get(key)
    }

    /// By cluster (the operator's first) and name.
    pub fn advertisements(&self) -> impl Iterator<Item = &Arc<Advertisement>> {
        self.advertisements.values()
    }

    pub fn reservation(&self, key: &ReservationKey) -> Option<&Arc<Reservation>> {
        self.reservations.get(key)
    }

    /// By address space and name.
    pub fn reservations(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.reservations.values()
    }

    /// The same from somewhere on.
    pub fn reservations_after(
        &self,
        after: Bound<&ReservationKey>,
    ) -> impl Iterator<Item = &Arc<Reservation>> {
        let found = self.reservations.range((after, Bound::Unbounded));
        found.map(|(_, reservation)| reservation)
    }

    /// Why an address is not to be given away yet, by reason.
    pub fn unavailable(&self, space: &Name, address: Address) -> &[Arc<Unavailable>] {
        self.space(space).resting(address)
    }

    /// All of that, by address space and address.
    pub fn all_unavailable(&self) -> impl Iterator<Item = &Arc<Unavailable>> {
        self.spaces.values().flat_map(Space::all_resting)
    }

    /// The same behind a key; at most `only` of one space.
    pub fn unavailable_after<'a>(
        &'a self,
        only: Option<&'a Name>,
        after: Option<&'a UnavailableKey>,
    ) -> impl Iterator<Item = &'a Arc<Unavailable>> {
        let (space, address) = match after {
            Some(after) => (Some(&after.space), Some(after.address)),
            None => (only, None),
        };
        let rest_of_first = space.into_iter().flat_map(move |name| {
            let space = self.space(name);
            space.resting_from(address.unwrap_or(Address::from_bits(0)))
        });
        let later = space.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.spaces.range::<Name, _>((later, Bound::Unbounded));
        let later = later.take_while(move |_| only.is_none());
        let rows = rest_of_first.chain(later.flat_map(|(_, space)| space.all_resting()));
        rows.skip_while(move |row| after.is_some_and(|after| row.key <= *after))
    }

    /// Whether an acknowledgement can end anything.
    pub fn awaits_acknowledgements(&self) -> bool {
        self.exposure.is_awaited()
    }

    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.tenants.cluster(name)
    }

    /// By name.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.tenants.clusters()
    }

    pub fn node(&self, key: &NodeKey) -> Option<&Arc<Node>> {
        self.tenants.node(key)
    }

    /// By name.
    pub fn nodes_of(&self, cluster: &Name) -> impl Iterator<Item = &Arc<Node>> {
        self.tenants.nodes_of(cluster)
    }

    pub fn backends(&self, owner: &OwnerKey) -> Option<&Arc<Backends>> {
        self.tenants.backends(owner)
    }

    /// By owner.
    pub fn backends_of(&self, cluster: &Name) -> impl Iterator<Item = &Arc<Backends>> {
        self.tenants.backends_of(cluster)
    }

    pub fn placement(&self, group: AllocationId) -> Option<&Arc<Placement>> {
        self.placements.get(&group)
    }

    /// Who may answer for a fenced address.
    pub fn tenure(&self, key: &TenureKey) -> Option<&Arc<Tenure>> {
        self.tenures.get(key)
    }

    /// Those of the same address in other clusters.
    pub fn tenures_elsewhere<'a>(
        &'a self,
        key: &'a TenureKey,
    ) -> impl Iterator<Item = &'a Arc<Tenure>> {
        let is_of_address = |it: &TenureKey| it.space == key.space && it.address == key.address;
        let before = self.tenures.range(..key).rev();
        let behind = (Bound::Excluded(key), Bound::Unbounded);
        let before = before.take_while(move |(it, _)| is_of_address(it));
        let behind = self.tenures.range(behind);
        let behind = behind.take_while(move |(it, _)| is_of_address(it));
        before.chain(behind).map(|(_, tenure)| tenure)
    }

    /// By address space, address and cluster.
    pub fn tenures(&self) -> impl Iterator<Item = &Arc<Tenure>> {
        self.tenures.values()
    }

    /// The leases of nodes, as far as they are known.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// By group.
    pub fn placements(&self) -> impl Iterator<Item = &Arc<Placement>> {
        self.placements.values()
    }

    pub(super) fn space(&self, name: &Name) -> &Space {
        self.spaces.get(name).unwrap_or(&NOTHING_HELD)
    }
}
