//! Pools: which of them a cluster sees, in which order they are tried, whom they admit.

mod holding;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Address, AddressRange, Family};
use super::address_set::usable_count;
use super::change::Edit;
use super::grants::{Fence, Reach};
use super::model::{AddressSpace, Claim, OwnerKey, Pool, PoolKey};
use super::names::Name;
use super::runs::Runs;
use super::selector::any_matches;
use super::space::Space;
pub(super) use holding::{Holding, Homes};
pub(super) use view::View;

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUsage {
    pub v4: FamilyUsage,
    pub v6: FamilyUsage,
}

/// How full a pool is in one family. A shared address counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FamilyUsage {
    /// All addresses that somebody may get from the pool.
    pub total: u128,
    /// Held through this pool.
    pub held: u128,
    /// Held through other pools that overlap this one.
    pub held_by_others: u128,
    /// Reserved, and held by nobody.
    pub reserved: u128,
    /// Held by nobody, and not to be given away yet.
    pub draining: u128,
    /// What automatic choice may give to anybody.
    pub free: u128,
    /// Addresses of the pool that are not granted to anybody who may use it.
    pub outside_grant: u128,
}

/// `reuse_unacknowledged` of a pool that says nothing else.
pub const REUSE_UNACKNOWLEDGED: Duration = Duration::from_secs(300);

/// How long an address waits when it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) delay: Duration,
    pub(super) unacknowledged: Duration,
}

/// All pools, and who may use which addresses. A clone shares what neither of the two edits: it costs one step per cluster, and an
/// edit of it copies the index of one author.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pools {
    by_space: BTreeMap<Name, SpacePools>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SpacePools {
    operator: Arc<Scope>,
    by_cluster: BTreeMap<Name, Arc<Scope>>,
    fence: Option<Arc<Fence>>,
}

impl SpacePools {
    fn is_empty(&self) -> bool {
        self.operator.is_empty() && self.by_cluster.is_empty() && self.fence.is_none()
    }
}

/// The pools of one cluster, or of the operator, in one space. Their ranges do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Scope {
    by_name: BTreeMap<Name, Arc<Pool>>,
    /// Pools that are chosen from without being named, in the order in which they are tried.
    auto: BTreeSet<(Turn, Name)>,
    /// By first address: last address and pool. Within one decision ranges may overlap for a
    /// moment (two pools that swap ranges), which is why there can be several.
    ranges: BTreeMap<Address, Vec<(Address, Name)>>,
}

/// When a pool's turn comes in automatic choice.
///
/// As in MetalLB: pools with a policy for whom they are (namespaces, selectors or a priority) come
/// first, by ascending priority with 0 last; then the others. MetalLB leaves the order among equals
/// to chance; here it is the name's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    for_everybody: bool,
    no_priority: bool,
    priority: i32,
}

impl Turn {
    fn of(pool: &Pool) -> Self {
        Self {
            for_everybody: pool.priority == 0
                && pool.namespaces.is_empty()
                && pool.namespace_selectors.is_empty()
                && pool.service_selectors.is_empty(),
            no_priority: pool.priority == 0,
            priority: pool.priority,
        }
    }
}

impl Pools {
    pub(super) fn get(&self, key: &PoolKey) -> Option<&Arc<Pool>> {
        self.scope(&key.space, key.cluster.as_ref())?
            .by_name
            .get(&key.name)
    }

    /// By space, cluster (the operator's first) and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.by_space.values().flat_map(|space| {
            let scopes = std::iter::once(&space.operator).chain(space.by_cluster.values());
            scopes.flat_map(|scope| scope.by_name.values())
        })
    }

    /// All pools of one cluster, by space and name.
    pub(super) fn of_cluster(&self, cluster: &Name) -> impl Iterator<Item = &Arc<Pool>> {
        self.by_space
            .values()
            .filter_map(|space| space.by_cluster.get(cluster))
            .flat_map(|scope| scope.by_name.values())
    }

    /// How long an address has to wait when it is given back: the longest of all pools that
    /// contain it, whoever sees them. What a cluster's pool has beyond the cluster's grant it does
    /// not contain: else one cluster could keep the addresses of another from being given again.
    pub(super) fn waits(&self, space: &Name, address: Address) -> Waits {
        let scopes = self.by_space.get(space).into_iter().flat_map(|space| {
            let fence = space.fence.as_deref();
            let granted = move |cluster: &Name| {
                fence.is_none_or(|fence| fence.reach_of(cluster).contains(address))
            };
            let own = space.by_cluster.iter();
            let own = own.filter(move |(cluster, _)| granted(cluster));
            std::iter::once(&space.operator).chain(own.map(|(_, scope)| scope))
        });
        let pools = scopes.filter_map(|scope| scope.containing(address));
        let longest = pools
            .map(|pool| (pool.reuse_delay, pool.reuse_unacknowledged))
            .reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)));
        let (delay, unacknowledged) = longest.unwrap_or((Duration::ZERO, REUSE_UNACKNOWLEDGED));
        Waits {
            delay,
            unacknowledged,
        }
    }

    /// What a cluster sees of a space.
    pub(super) fn view(&self, space: &Name, cluster: &Name) -> View<'_> {
        let space = self.by_space.get(space);
        View {
            own: space.and_then(|space| space.by_cluster.get(cluster).map(Arc::as_ref)),
            operator: space.map(|space| space.operator.as_ref()),
            reach: match space.and_then(|space| space.fence.as_deref()) {
                None => Reach::Everything,
                Some(fence) => fence.reach_of(cluster),
            },
        }
    }

    /// What the operator says of an address space.
    pub(super) fn fence(&self, space: &str) -> Option<&Fence> {
        self.by_space.get(space)?.fence.as_deref()
    }

    /// Whether grants cut the pools of an address space.
    pub(super) fn are_cut(&self, space: &str) -> bool {
        let fence = self.fence(space);
        fence.is_some_and(|fence| fence.reach_of_all() != Reach::Everything)
    }

    /// By address space, behind one.
    pub(super) fn fences_after(&self, after: Option<&Name>) -> impl Iterator<Item = &Fence> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let spaces = self.by_space.range::<Name, _>((first, Bound::Unbounded));
        spaces.filter_map(|(_, space)| space.fence.as_deref())
    }

    /// What those may use who may use a pool: its cluster, or one cluster or another.
    pub(super) fn reach_of_pool(&self, pool: &PoolKey) -> Reach<'_> {
        match (self.fence(&pool.space), &pool.cluster) {
            (None, _) => Reach::Everything,
            (Some(fence), Some(cluster)) => fence.reach_of(cluster),
            (Some(fence), None) => fence.reach_of_all(),
        }
    }

    /// Sets what the operator says of an address space, or that it says nothing.
    pub(super) fn set_fence(&mut self, name: &Name, record: Option<Arc<AddressSpace>>) {
        let space = self.by_space.entry(name.clone()).or_default();
        space.fence = record.map(|record| Arc::new(Fence::of(record)));
        if space.is_empty() {
            self.by_space.remove(name);
        }
    }

    /// A range of another pool of the same cluster (or of the operator) in that space that has an
    /// address in common with this one.
    pub(super) fn overlapping(
        &self,
        key: &PoolKey,
        range: AddressRange,
    ) -> Option<(&Arc<Pool>, AddressRange)> {
        let scope = self.scope(&key.space, key.cluster.as_ref())?;
        // Ranges are disjoint, so their order by last address is that by first address: going back
        // from the last one that begins within reach, the first that ends too early ends the walk.
        scope
            .ranges
            .range(..=range.last())
            .rev()
            .flat_map(|(first, ends)| ends.iter().map(move |(last, name)| (*first, *last, name)))
            .take_while(|(_, last, _)| *last >= range.first())
            .filter(|(_, _, name)| **name != key.name)
            .find_map(|(first, last, name)| {
                let other = scope.by_name.get(name)?;
                Some((other, AddressRange::new(first, last)?))
            })
    }

    /// Makes an edit true.
    pub(super) fn replace(&mut self, edit: &Edit<Pool>) {
        if let Some(before) = &edit.before {
            self.remove(&before.key);
        }
        if let Some(after) = &edit.after {
            self.insert(Arc::clone(after));
        }
    }

    /// Adds a pool that is not there.
    pub(super) fn insert(&mut self, pool: Arc<Pool>) {
        let space = self.by_space.entry(pool.key.space.clone()).or_default();
        let scope = match &pool.key.cluster {
            None => &mut space.operator,
            Some(cluster) => space.by_cluster.entry(cluster.clone()).or_default(),
        };
        let scope = Arc::make_mut(scope);
        let name = &pool.key.name;
        for range in &pool.ranges {
            let ends = scope.ranges.entry(range.first()).or_default();
            ends.push((range.last(), name.clone()));
        }
        if pool.auto_assign {
            scope.auto.insert((Turn::of(&pool), name.clone()));
        }
        scope.by_name.insert(name.clone(), pool);
    }

    /// Takes a pool away.
    pub(super) fn remove(&mut self, key: &PoolKey) {
        let Some(space) = self.by_space.get_mut(&key.space) else {
            return;
        };
        let scope = match &key.cluster {
            None => Some(&mut space.operator),
            Some(cluster) => space.by_cluster.get_mut(cluster),
        };
        if let Some(scope) = scope.map(Arc::make_mut)
            && let Some(pool) = scope.by_name.remove(&key.name)
        {
            for range in &pool.ranges {
                if let Some(ends) = scope.ranges.get_mut(&range.first()) {
                    ends.retain(|(_, name)| *name != key.name);
                    if ends.is_empty() {
                        scope.ranges.remove(&range.first());
                    }
                }
            }
            scope.auto.remove(&(Turn::of(&pool), key.name.clone()));
        }
        space.by_cluster.retain(|_, scope| !scope.is_empty());
        if space.is_empty() {
            self.by_space.remove(&key.space);
        }
    }

    /// Takes all pools of a cluster away.
    pub(super) fn remove_cluster(&mut self, cluster: &Name) {
        for space in self.by_space.values_mut() {
            space.by_cluster.remove(cluster);
        }
        self.by_space.retain(|_, space| !space.is_empty());
    }

    fn scope(&self, space: &Name, cluster: Option<&Name>) -> Option<&Scope> {
        let space = self.by_space.get(space)?;
        match cluster {
            None => Some(&space.operator),
            Some(cluster) => space.by_cluster.get(cluster).map(Arc::as_ref),
        }
    }
}

impl Scope {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn containing(&self, address: Address) -> Option<&Arc<Pool>> {
        let (_, ends) = self.ranges.range(..=address).next_back()?;
        let (_, name) = ends.iter().find(|(last, _)| *last >= address)?;
        self.by_name.get(name)
    }
}

/// Whether an address lies in a pool. O(number of its ranges).
pub(super) fn contains(pool: &Pool, address: Address) -> bool {
    pool.ranges.iter().any(|range| range.contains(address))
}

/// Whether a pool has this address for somebody: it lies in it and is not avoided. Grants aside.
pub(super) fn gives(pool: &Pool, address: Address) -> bool {
    contains(pool, address) && !(pool.avoid_buggy_ips && address.is_buggy())
}

/// Whether a pool has a range of the family.
pub(super) fn has_family(pool: &Pool, family: Family) -> bool {
    pool.ranges.iter().any(|range| range.family() == family)
}

/// Whether a pool is for this owner. Namespaces and namespace selectors are a union, the service
/// selectors hold in addition; where nothing is said everybody is admitted (MetalLB).
pub(super) fn admits(pool: &Pool, owner: &OwnerKey, claim: &Claim) -> bool {
    admits_namespace(pool, owner, claim) && admits_labels(pool, claim)
}

/// Whether a pool is for the owner's namespace.
pub(super) fn admits_namespace(pool: &Pool, owner: &OwnerKey, claim: &Claim) -> bool {
    let any_namespace = pool.namespaces.is_empty() && pool.namespace_selectors.is_empty();
    any_namespace
        || owner
            .namespace
            .as_ref()
            .is_some_and(|namespace| pool.namespaces.contains(namespace))
        || any_matches(&pool.namespace_selectors, &claim.namespace_labels)
}

/// Whether a pool is for claims with these labels.
pub(super) fn admits_labels(pool: &Pool, claim: &Claim) -> bool {
    pool.service_selectors.is_empty() || any_matches(&pool.service_selectors, &claim.labels)
}

/// How full a pool is for those who may use so much of its address space. One step per run of
/// occupied addresses in its ranges.
pub(super) fn usage(pool: &Pool, space: &Space, reach: Reach<'_>) -> PoolUsage {
    let of_family = |family| {
        let ranges = pool.ranges.iter().filter(|range| range.family() == family);
        let (mut all, mut total, mut occupied, mut reserved, mut draining) = (0, 0, 0, 0, 0);
        let mut held_within = 0;
        for range in ranges.clone() {
            all += usable_count(*range, pool.avoid_buggy_ips);
        }
        for range in ranges.flat_map(|range| reach.within(*range)) {
            total += usable_count(range, pool.avoid_buggy_ips);
            occupied += space.occupied_in(range, pool.avoid_buggy_ips);
            reserved += space.kept_in(range, pool.avoid_buggy_ips);
            held_within += space.held_in(&pool.key, range, pool.avoid_buggy_ips);
            let idle = space.idle_in(range);
            let idle = idle.filter(|address| !(pool.avoid_buggy_ips && address.is_buggy()));
            draining += u128::try_from(idle.count()).expect("a count");
        }
        let held_at_all = occupied - reserved - draining;
        let held = match reach {
            // Until the holders that an edit strands have been decided again, more may be held
            // through the pool than lies in it.
            Reach::Everything => u128::from(space.held_through(&pool.key, family)).min(held_at_all),
            // Much may be held through it outside: by other clusters, and by who was outside before.
            Reach::Only(_) => held_within,
        };
        FamilyUsage {
            total,
            held,
            held_by_others: held_at_all - held,
            reserved,
            draining,
            free: total - occupied,
            outside_grant: all - total,
        }
    };
    PoolUsage {
        v4: of_family(Family::V4),
        v6: of_family(Family::V6),
    }
}

/// The ranges whose holders an edit of a pool can concern: all that it had, where the pool goes or
/// is for others than before; else those that it lost.
pub(super) fn ranges_in_question(before: &Pool, after: Option<&Pool>) -> Vec<AddressRange> {
    let Some(after) = after.filter(|after| is_for_the_same(before, after)) else {
        return before.ranges.clone();
    };
    let mut lost = Runs::new();
    for range in &before.ranges {
        lost.insert(range.first().bits(), range.last().bits());
    }
    for range in &after.ranges {
        lost.remove(range.first().bits(), range.last().bits());
    }
    let ranges = lost.iter().map(|(first, last)| {
        AddressRange::new(Address::from_bits(first), Address::from_bits(last))
    });
    // A run that goes from the last IPv4 address on into IPv6 is no range.
    let ranges: Option<Vec<AddressRange>> = ranges.collect();
    ranges.unwrap_or_else(|| before.ranges.clone())
}

/// Whether two pools give the addresses that they have in common to the same owners.
fn is_for_the_same(one: &Pool, other: &Pool) -> bool {
    one.avoid_buggy_ips == other.avoid_buggy_ips
        && one.namespaces == other.namespaces
        && one.namespace_selectors == other.namespace_selectors
        && one.service_selectors == other.service_selectors
}

#[cfg(test)]
mod tests;
