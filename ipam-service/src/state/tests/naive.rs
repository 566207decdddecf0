//! The rules once more, written from the specification by plain loops over all rows: slow, without
//! a single index, and sharing nothing with the rooms but the values and whom a pool admits.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::state::State;
use crate::state::address::{Address, Family};
use crate::state::model::*;
use crate::state::names::Name;
use crate::state::pool::{PoolUsage, admits};

/// All rows that rules look at.
pub(super) struct Naive {
    pub(super) allocations: Vec<Arc<Allocation>>,
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) reservations: Vec<Arc<Reservation>>,
    pub(super) quotas: Vec<Arc<Quota>>,
    pub(super) unavailable: Vec<Arc<Unavailable>>,
    pub(super) spaces: Vec<Arc<AddressSpace>>,
    pub(super) clusters: Vec<Arc<Cluster>>,
}

/// An owner that asks.
pub(super) struct Question<'a> {
    pub(super) owner: &'a OwnerKey,
    pub(super) claim: &'a Claim,
    pub(super) current: &'a [Address],
    /// The pool of each address of `current`.
    pub(super) current_pools: Vec<&'a PoolKey>,
    pub(super) wished: &'a [Address],
}

impl<'a> Question<'a> {
    pub(super) fn again(one: &'a Allocation) -> Self {
        Self {
            owner: &one.owner.key,
            claim: &one.claim,
            current: &one.addresses,
            current_pools: one.held().map(|(_, pool)| pool).collect(),
            wished: &[],
        }
    }

    fn held_through(&self, address: Address) -> Option<&'a PoolKey> {
        let mut held = self.current.iter().zip(&self.current_pools);
        held.find_map(|(one, pool)| (*one == address).then_some(*pool))
    }
}

/// Addresses, and the pool of each.
type Answer = Option<Vec<(Address, PoolKey)>>;

/// All of them from one pool.
fn from_one(addresses: &[Address], pool: &PoolKey) -> Vec<(Address, PoolKey)> {
    let each = addresses.iter();
    each.map(|address| (*address, pool.clone())).collect()
}

fn all_of(pool: &Pool) -> impl Iterator<Item = Address> {
    pool.ranges
        .iter()
        .flat_map(|range| (range.first().bits()..=range.last().bits()).map(Address::from_bits))
}

fn gives(pool: &Pool, address: Address) -> bool {
    let buggy = pool.avoid_buggy_ips && address.is_buggy();
    !buggy && all_of(pool).any(|one| one == address)
}

/// Whether a quota speaks of an owner.
fn is_subject(quota: &Quota, owner: &OwnerKey) -> bool {
    let namespace = match &quota.subject {
        QuotaSubject::Namespace(only) => owner.namespace.as_ref() == Some(only),
        QuotaSubject::Cluster | QuotaSubject::EachNamespace => true,
    };
    owner.cluster == quota.cluster && namespace
}

/// Whether a quota counts an address that is held through a pool.
fn is_about(quota: &Quota, address: Address, pool: &PoolKey) -> bool {
    pool.space == quota.space
        && quota.pool.as_ref().is_none_or(|only| pool.name == *only)
        && quota.family.is_none_or(|only| address.family() == only)
}

fn limit(quota: &Quota) -> usize {
    usize::try_from(quota.limit).expect("small")
}

impl Naive {
    pub(super) fn of(state: &State) -> Self {
        Self {
            allocations: state.allocations().cloned().collect(),
            pools: state.pools().cloned().collect(),
            reservations: state.reservations().cloned().collect(),
            quotas: state.quotas().cloned().collect(),
            unavailable: state.all_unavailable().cloned().collect(),
            spaces: state.address_spaces().cloned().collect(),
            clusters: state.clusters().cloned().collect(),
        }
    }

    /// Whether one of these clusters may use an address, as far as grants are concerned.
    fn granted<'a>(&self, mut to: impl Iterator<Item = &'a Name>, address: Address) -> bool {
        let mut fences = self.spaces.iter().filter(|one| !one.grants.is_empty());
        let Some(fence) = fences.next() else {
            return true;
        };
        to.any(|cluster| {
            let ranges = fence.grants.get(cluster).into_iter().flatten();
            ranges.into_iter().any(|range| range.contains(address))
        })
    }

    /// Whether an owner may get an address that it does not hold, as far as the grants of a space
    /// are concerned. While the store does not know what all clusters hold, it gets back what it says
    /// to use, whatever the grants say, if its cluster is still to tell, or is telling; and nothing
    /// else.
    pub(super) fn may_take(
        &self,
        owner: &OwnerKey,
        space: &Name,
        address: Address,
        in_use: &[Address],
    ) -> bool {
        let named = |one: &&Arc<AddressSpace>| one.name == *space && !one.grants.is_empty();
        let granted = self.spaces.iter().find(named).is_none_or(|fence| {
            let mut ranges = fence.grants.get(&owner.cluster).into_iter().flatten();
            ranges.any(|range| range.contains(address))
        });
        let mut clusters = self.clusters.iter();
        let is_lost = clusters.any(|one| {
            let lost = Inventory::Reporting { resync: false };
            one.inventory == Inventory::Expected || one.inventory == lost
        });
        let own = self.clusters.iter().find(|one| one.name == owner.cluster);
        let silent = [Inventory::New, Inventory::Complete];
        let tells = own.is_some_and(|own| !silent.contains(&own.inventory));
        match is_lost {
            true => tells && in_use.contains(&address),
            false => granted,
        }
    }

    /// Whether an owner may get an address from a pool, others aside.
    fn may_give(&self, owner: &OwnerKey, pool: &Pool, address: Address) -> bool {
        gives(pool, address) && self.granted(std::iter::once(&owner.cluster), address)
    }

    /// Whether an owner whose claim is to wait would be one more of its cluster than may.
    pub(super) fn would_be_too_many(&self, owner: &OwnerKey, most: Option<usize>) -> bool {
        let of_cluster = self.allocations.iter();
        let waiting: Vec<&OwnerKey> = of_cluster
            .filter(|one| one.standing != Standing::Assigned)
            .map(|one| &one.owner.key)
            .filter(|key| key.cluster == owner.cluster)
            .collect();
        most.is_some_and(|most| waiting.len() >= most && !waiting.contains(&owner))
    }

    fn holders(&self, address: Address) -> impl Iterator<Item = &Arc<Allocation>> {
        let all = self.allocations.iter();
        all.filter(move |one| one.addresses.contains(&address))
    }

    fn reservation(&self, address: Address) -> Option<&Arc<Reservation>> {
        let mut all = self.reservations.iter();
        all.find(|one| one.ranges.iter().any(|range| range.contains(address)))
    }

    /// How precisely an address is kept for an owner: 0 by name, 1 by namespace, 2 by cluster.
    fn kept_for(&self, owner: &OwnerKey, address: Address) -> Option<usize> {
        let scope = self.reservation(address)?.kept_for.as_ref()?;
        let same = |one: Option<&Name>, other: Option<&Name>| one == other;
        if scope.cluster != owner.cluster {
            return None;
        }
        let namespace = same(scope.namespace.as_ref(), owner.namespace.as_ref());
        match (&scope.namespace, &scope.name) {
            (_, Some(name)) => (namespace && *name == owner.name).then_some(0),
            (Some(_), None) => namespace.then_some(1),
            (None, None) => Some(2),
        }
    }

    /// Every address that counts for a quota in the same number as an owner's, once.
    fn counted(&self, quota: &Quota, owner: &OwnerKey) -> BTreeSet<Address> {
        let counts_with = |other: &OwnerKey| match &quota.subject {
            QuotaSubject::Cluster => true,
            QuotaSubject::Namespace(only) => other.namespace.as_ref() == Some(only),
            QuotaSubject::EachNamespace => other.namespace == owner.namespace,
        };
        let all = self.allocations.iter();
        let all = all.filter(|one| one.owner.key.cluster == quota.cluster);
        all.filter(|one| counts_with(&one.owner.key))
            .flat_map(|one| one.held())
            .filter(|(address, pool)| is_about(quota, *address, pool))
            .map(|(address, _)| address)
            .collect()
    }

    /// How many addresses of a quota are held where most are.
    pub(super) fn most_counted(&self, quota: &Quota) -> usize {
        let owners = self.allocations.iter().map(|one| &one.owner.key);
        let owners = owners.filter(|owner| is_subject(quota, owner));
        let counts = owners.map(|owner| self.counted(quota, owner).len());
        counts.max().unwrap_or(0)
    }

    /// Whether no quota forbids an owner to hold these instead of what it holds: it holds no more
    /// than allowed then, or no more than before.
    fn within(&self, question: &Question<'_>, wanted: &[(Address, PoolKey)]) -> bool {
        let owner = question.owner;
        let without = Self {
            allocations: self
                .allocations
                .iter()
                .filter(|one| one.owner.key != *owner)
                .cloned()
                .collect(),
            pools: Vec::new(),
            quotas: Vec::new(),
            reservations: Vec::new(),
            unavailable: Vec::new(),
            spaces: Vec::new(),
            clusters: Vec::new(),
        };
        let mut own = self.allocations.iter();
        let own = own.find(|one| one.owner.key == *owner);
        let own: Vec<Address> = own.map_or_else(Vec::new, |own| own.addresses.clone());
        let quotas = self.quotas.iter();
        quotas
            .filter(|quota| is_subject(quota, owner))
            .all(|quota| {
                let before = self.counted(quota, owner);
                let mut after = without.counted(quota, owner);
                let counted = wanted.iter().filter(|(a, pool)| is_about(quota, *a, pool));
                after.extend(counted.map(|(address, _)| *address));
                // What is held already is kept, also where it begins to count through another pool.
                let kept = after
                    .difference(&before)
                    .filter(|a| own.contains(a))
                    .count();
                after.len() <= limit(quota) || after.len() - kept <= before.len()
            })
    }

    fn rests(&self, address: Address) -> impl Iterator<Item = &Arc<Unavailable>> {
        let all = self.unavailable.iter();
        all.filter(move |row| row.key.address == address)
    }

    fn may_join(&self, owner: &OwnerKey, claim: &Claim, address: Address) -> bool {
        let is_mine = self.holders(address).any(|one| one.owner.key == *owner);
        let named = claim.reservation.as_ref();
        let reservation = self.reservation(address);
        if named.is_some() && reservation.map(|one| &one.key.name) != named {
            return false;
        }
        let is_for = |row: &Arc<Unavailable>| row.for_owner.as_ref() == Some(owner);
        if !is_mine && !self.rests(address).all(is_for) {
            return false;
        }
        if reservation.is_some() && !is_mine && self.kept_for(owner, address).is_none() {
            return false;
        }
        let mut others = self.holders(address).filter(|one| one.owner.key != *owner);
        others.all(|other| {
            let theirs = other.effective_claim();
            other.owner.key.cluster == owner.cluster
                && !claim.sharing_key.is_empty()
                && claim.sharing_key == theirs.sharing_key
                && claim.backend_key == theirs.backend_key
                && claim.ports.iter().all(|port| !theirs.ports.contains(port))
        })
    }

    /// The pools that a cluster sees, its own first.
    fn visible(&self, cluster: &Name) -> Vec<&Arc<Pool>> {
        let own = self
            .pools
            .iter()
            .filter(|pool| pool.key.cluster.as_ref() == Some(cluster));
        let own: Vec<&Arc<Pool>> = own.collect();
        let names: BTreeSet<&Name> = own.iter().map(|pool| &pool.key.name).collect();
        let operators = self.pools.iter().filter(|pool| pool.key.cluster.is_none());
        let operators = operators.filter(|pool| !names.contains(&pool.key.name));
        own.iter().copied().chain(operators).collect()
    }

    /// The pools under which an allocation may go on holding its addresses, as far as pools are
    /// concerned. `labels`: those of this claim.
    pub(super) fn keeps(&self, one: &Allocation, labels: &Claim) -> Answer {
        let owner = &one.owner.key;
        let pools: Vec<&PoolKey> = one.held().map(|(_, pool)| pool).collect();
        let together = |pool| {
            let pool = self.permits(owner, labels, &one.addresses, pool)?;
            Some(from_one(&one.addresses, &pool))
        };
        let apart = || {
            one.held()
                .map(|(a, pool)| Some((a, self.permits(owner, labels, &[a], Some(pool))?)))
                .collect::<Answer>()
        };
        match pools.as_slice() {
            [] => None,
            [first, second] if first != second => apart(),
            [first, _] if one.effective_claim().allows_two_pools() => {
                together(Some(first)).or_else(apart)
            }
            [first, ..] => together(Some(first)),
        }
    }

    /// The pool under which somebody may hold these addresses together, as far as pools are
    /// concerned.
    fn permits(
        &self,
        owner: &OwnerKey,
        claim: &Claim,
        addresses: &[Address],
        current_pool: Option<&PoolKey>,
    ) -> Option<PoolKey> {
        let mut pools = self.visible(&owner.cluster);
        pools.retain(|pool| admits(pool, owner, claim));
        pools.retain(|pool| addresses.iter().all(|a| self.may_give(owner, pool, *a)));
        pools.sort_by_key(|pool| Some(&pool.key) != current_pool);
        pools.first().map(|pool| pool.key.clone())
    }

    /// What the owner should get.
    pub(super) fn answer(&self, question: &Question<'_>) -> Answer {
        let Question { owner, claim, .. } = question;
        if let Some(name) = &claim.reservation {
            let reservation = self.reservations.iter().find(|one| one.key.name == *name)?;
            self.kept_for(owner, reservation.ranges[0].first())?;
        }
        let visible = self.visible(&owner.cluster);
        let named = claim.pool.as_ref();
        let pools: Vec<&Arc<Pool>> = match named {
            Some(name) => {
                let found = visible.iter().filter(|pool| pool.key.name == *name);
                found
                    .copied()
                    .filter(|pool| admits(pool, owner, claim))
                    .collect()
            }
            None => {
                let mut auto = visible.clone();
                let any = claim.reservation.is_some();
                auto.retain(|pool| (pool.auto_assign || any) && admits(pool, owner, claim));
                auto.sort_by_key(|pool| (pool.key.name.clone(), pool.key.cluster.is_none()));
                auto.sort_by_key(|pool| pool.priority);
                auto.sort_by_key(|pool| pool.priority == 0);
                let is_plain = |pool: &Arc<Pool>| {
                    pool.priority == 0
                        && pool.namespaces.is_empty()
                        && pool.namespace_selectors.is_empty()
                        && pool.service_selectors.is_empty()
                };
                auto.sort_by_key(|pool| is_plain(pool));
                match any {
                    // The order of the pools that are for automatic choice; the others behind.
                    true => {
                        let mut others = visible.clone();
                        others.retain(|pool| !pool.auto_assign && admits(pool, owner, claim));
                        auto.retain(|pool| pool.auto_assign);
                        auto.extend(others);
                    }
                    false => auto.sort_by_key(|pool| self.most_precise(question, pool)),
                }
                auto
            }
        };
        if !claim.addresses.is_empty() {
            return self.exactly(question);
        }
        if named.is_some() && pools.is_empty() {
            return None;
        }
        self.stay(question, question.current, &pools)
            .or_else(|| self.stay(question, question.wished, &pools))
            .or_else(|| self.search(question, &pools))
    }

    fn exactly(&self, question: &Question<'_>) -> Answer {
        let Question { owner, claim, .. } = question;
        let families: Vec<Family> = claim.addresses.iter().map(|a| a.family()).collect();
        let right_families = match claim.families {
            Families::One(family) => families == [family],
            Families::Both => families == [Family::V4, Family::V6],
            Families::Any | Families::PreferBoth { .. } => true,
        };
        let free = claim
            .addresses
            .iter()
            .all(|a| self.may_join(owner, claim, *a));
        let granted = self.permitted_as_asked(question, &claim.addresses)?;
        let fits = right_families && free && self.within(question, &granted);
        fits.then_some(granted)
    }

    /// As [`Naive::keeps`], for addresses that need not be held, and from the pool that the claim
    /// names.
    fn permitted_as_asked(&self, question: &Question<'_>, some: &[Address]) -> Answer {
        let home = |some: &[Address]| self.home(question, some);
        let together = || Some(from_one(some, &home(some)?));
        let apart = || {
            let each = some.iter();
            each.map(|a| Some((*a, home(&[*a])?))).collect::<Answer>()
        };
        let [first, second] = some else {
            return together();
        };
        let held_apart = match [first, second].map(|a| question.held_through(*a)) {
            [Some(first), Some(second)] => first != second,
            _ => false,
        };
        match question.claim.allows_two_pools() {
            false => together(),
            true if held_apart && question.claim.addresses.is_empty() => apart(),
            true => together().or_else(apart),
        }
    }

    /// One pool as in [`Naive::permits`], and the one that the claim names.
    fn home(&self, question: &Question<'_>, some: &[Address]) -> Option<PoolKey> {
        let Question { owner, claim, .. } = question;
        match &claim.pool {
            None => {
                let through = question.held_through(some[0]);
                let first = question.current_pools.first().copied();
                self.permits(owner, claim, some, through.or(first))
            }
            Some(name) => {
                let visible = self.visible(&owner.cluster);
                let named = visible.iter().find(|pool| pool.key.name == *name)?;
                let given = some.iter().all(|a| self.may_give(owner, named, *a));
                let fits = admits(named, owner, claim) && given;
                fits.then(|| named.key.clone())
            }
        }
    }

    /// Keeping (or adopting) addresses as they are, with a second family added where wanted.
    fn stay(&self, question: &Question<'_>, from: &[Address], pools: &[&Arc<Pool>]) -> Answer {
        let Question { owner, claim, .. } = question;
        let fits = |some: &[Address]| {
            let free = some.iter().all(|a| self.may_join(owner, claim, *a));
            let granted = self.permitted_as_asked(question, some)?;
            (free && self.within(question, &granted)).then_some(granted)
        };
        let single = |families: &[Family]| {
            let sorted = families
                .iter()
                .flat_map(|family| from.iter().copied().filter(move |a| a.family() == *family));
            sorted.into_iter().find_map(|a| fits(&[a]))
        };
        let first_of = |family| from.iter().copied().find(|a| a.family() == family);
        match (claim.families, first_of(Family::V4), first_of(Family::V6)) {
            (Families::One(family), ..) => single(&[family]),
            (Families::Any, ..) => single(&[Family::V4, Family::V6]),
            (_, Some(v4), Some(v6)) => fits(&[v4, v6]),
            (_, None, None) => None,
            (_, v4, v6) => self.with_second(question, v4.or(v6)?, pools),
        }
    }

    /// An address and one of the other family, from the same pool if possible, else from another
    /// where that is allowed; alone if that will do.
    fn with_second(&self, question: &Question<'_>, one: Address, pools: &[&Arc<Pool>]) -> Answer {
        let Question { owner, claim, .. } = question;
        let key = self.home(question, &[one])?;
        let alone = from_one(&[one], &key);
        if !self.may_join(owner, claim, one) || !self.within(question, &alone) {
            return None;
        }
        let pool = self.pools.iter().find(|pool| pool.key == key)?;
        let missing = match one.family() {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        let others = pools.iter().filter(|_| claim.allows_two_pools());
        let second = std::iter::once(&pool).chain(others).find_map(|pool| {
            let second = self.pick(question, pool, missing, &alone)?;
            Some((second, pool.key.clone()))
        });
        let mut all = vec![(one, key)];
        all.extend(second);
        all.sort_by_key(|(a, _)| a.family());
        (all.len() == 2 || claim.families != Families::Both).then_some(all)
    }

    fn search(&self, question: &Question<'_>, pools: &[&Arc<Pool>]) -> Answer {
        let beside = |family: Family, granted: &[(Address, PoolKey)]| {
            pools.iter().find_map(|pool| {
                let picked = self.pick(question, pool, family, granted)?;
                Some(from_one(&[picked], &pool.key))
            })
        };
        let one = |family: Family| beside(family, &[]);
        let both = || {
            pools.iter().find_map(|pool| {
                let in_turn = |first, second| {
                    let one = self.pick(question, pool, first, &[])?;
                    let granted = from_one(&[one], &pool.key);
                    Some([one, self.pick(question, pool, second, &granted)?])
                };
                let mut pair =
                    in_turn(Family::V4, Family::V6).or_else(|| in_turn(Family::V6, Family::V4))?;
                pair.sort_by_key(|one| one.family());
                Some(from_one(&pair, &pool.key))
            })
        };
        let dual = || {
            let part = || self.keep_part(question, pools);
            if !question.claim.allows_two_pools() {
                let completed = part().filter(|all| all.len() == 2);
                return completed.or_else(both).or_else(part);
            }
            let v4_first = || {
                let v4 = one(Family::V4)?;
                let v6 = beside(Family::V6, &v4)?;
                Some([v4, v6].concat())
            };
            let v6_first = || {
                let v6 = one(Family::V6)?;
                let v4 = beside(Family::V4, &v6)?;
                Some([v4, v6].concat())
            };
            let apart = || v4_first().or_else(v6_first);
            part().or_else(both).or_else(apart)
        };
        match question.claim.families {
            Families::One(family) => one(family),
            Families::Any => pools.iter().find_map(|pool| {
                let mut families = Family::ALL;
                if question.claim.reservation.is_none() {
                    families.sort_by_key(|family| self.precision(question.owner, pool, *family));
                }
                let mut picked = families
                    .iter()
                    .map(|family| self.pick(question, pool, *family, &[]));
                Some(from_one(&[picked.find_map(|one| one)?], &pool.key))
            }),
            Families::Both => dual(),
            Families::PreferBoth { first } => dual()
                .or_else(|| one(first))
                .or_else(|| one(Family::V4))
                .or_else(|| one(Family::V6)),
        }
    }

    fn keep_part(&self, question: &Question<'_>, pools: &[&Arc<Pool>]) -> Answer {
        let known = question.current.iter().chain(question.wished);
        known
            .copied()
            .find_map(|one| self.with_second(question, one, pools))
    }

    /// The address that a pool gives, by scanning it. `beside`: what else is granted.
    fn pick(
        &self,
        question: &Question<'_>,
        pool: &Pool,
        family: Family,
        beside: &[(Address, PoolKey)],
    ) -> Option<Address> {
        let Question { owner, claim, .. } = question;
        let fits = |address: &Address| {
            let wanted = [from_one(&[*address], &pool.key), beside.to_vec()].concat();
            address.family() == family
                && self.may_give(owner, pool, *address)
                && self.may_join(owner, claim, *address)
                && self.within(question, &wanted)
        };
        let known = question.current.iter().chain(question.wished);
        let known = known.copied().find(|address| fits(address));
        let kept = || match claim.reservation {
            Some(_) => None,
            None => {
                let kept = self.lowest_kept(owner, pool, family);
                kept.map(|(_, kept)| kept).filter(|kept| fits(kept))
            }
        };
        let rests = |address: &Address| {
            self.rests(*address).next().is_some() && self.holders(*address).next().is_none()
        };
        let settled = || all_of(pool).find(|address| fits(address) && !rests(address));
        let chosen = known.or_else(kept).or_else(settled);
        // What the owner gave back a short time ago comes last.
        chosen.or_else(|| all_of(pool).find(fits))
    }

    /// The address of a pool that nobody holds and that is most precisely kept for an owner.
    fn lowest_kept(
        &self,
        owner: &OwnerKey,
        pool: &Pool,
        family: Family,
    ) -> Option<(usize, Address)> {
        let all = all_of(pool).filter(|address| {
            address.family() == family
                && self.may_give(owner, pool, *address)
                && self.holders(*address).next().is_none()
                && self.rests(*address).next().is_none()
        });
        let kept = all.filter_map(|address| Some((self.kept_for(owner, address)?, address)));
        // The first of the smallest.
        kept.min_by_key(|(precision, _)| *precision)
    }

    fn precision(&self, owner: &OwnerKey, pool: &Pool, family: Family) -> usize {
        let kept = self.lowest_kept(owner, pool, family);
        kept.map_or(9, |(precision, _)| precision)
    }

    fn most_precise(&self, question: &Question<'_>, pool: &Pool) -> usize {
        let precision = |family| self.precision(question.owner, pool, family);
        match question.claim.families {
            Families::One(one) => precision(one),
            Families::Any | Families::Both | Families::PreferBoth { .. } => {
                precision(Family::V4).min(precision(Family::V6))
            }
        }
    }

    /// How full a pool is for those who may use it.
    pub(super) fn usage(&self, pool: &Pool) -> PoolUsage {
        let clusters: Vec<&Name> = match &pool.key.cluster {
            Some(own) => vec![own],
            None => {
                let spaces = self.spaces.iter();
                spaces.flat_map(|one| one.grants.keys()).collect()
            }
        };
        self.usage_for(pool, &clusters)
    }

    /// The same for these clusters, by counting.
    pub(super) fn usage_for(&self, pool: &Pool, clusters: &[&Name]) -> PoolUsage {
        let mut usage = PoolUsage::default();
        for address in all_of(pool).filter(|address| gives(pool, *address)) {
            let family = match address.family() {
                Family::V4 => &mut usage.v4,
                Family::V6 => &mut usage.v6,
            };
            if !self.granted(clusters.iter().copied(), address) {
                family.outside_grant += 1;
                continue;
            }
            family.total += 1;
            let through = |one: &Arc<Allocation>| one.pool_of(address) == Some(&pool.key);
            if self.holders(address).any(through) {
                family.held += 1;
            } else if self.holders(address).next().is_some() {
                family.held_by_others += 1;
            } else if self.rests(address).next().is_some() {
                family.draining += 1;
            } else if self.reservation(address).is_some() {
                family.reserved += 1;
            } else {
                family.free += 1;
            }
        }
        usage
    }
}
