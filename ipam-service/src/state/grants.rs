//! Address spaces: which ranges each cluster may use, and what ApplyAddressSpace and
//! DeleteAddressSpace change.
//!
//! A pool says what could be given, a grant what of it a cluster may get: every decision looks at
//! their intersection, through [`View`](super::pool::View). Grants are the operator's, and name
//! clusters that need not be known.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use super::address::{Address, AddressRange};
use super::change::Edit;
use super::command::{ApplyAddressSpace, InUse};
use super::draft::Draft;
use super::model::{AddressSpace, Allocation, Pool, PoolKey, Revision, Timestamp};
use super::names::Name;
use super::pool::{Holding, Pools};
use super::refusal::{Rejection, Stranded};

/// Holders that a refused edit lists.
const MAX_LISTED: usize = 8;

/// How much of an address space somebody may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach<'a> {
    /// The address space has no grants.
    Everything,
    /// These ranges: sorted and disjoint, possibly none.
    Only(&'a [AddressRange]),
}

impl<'a> Reach<'a> {
    pub(super) fn contains(self, address: Address) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(ranges) => {
                let after = ranges.partition_point(|range| range.first() <= address);
                after > 0 && ranges[after - 1].contains(address)
            }
        }
    }

    /// The parts of a range that may be used, lowest first. O(log n) until the first.
    pub(super) fn within(
        self,
        range: AddressRange,
    ) -> impl Iterator<Item = AddressRange> + use<'a> {
        let (whole, ranges) = match self {
            Self::Everything => (Some(range), &[][..]),
            Self::Only(ranges) => {
                let start = ranges.partition_point(|one| one.last() < range.first());
                (None, &ranges[start..])
            }
        };
        let parts = ranges.iter().map_while(move |one| {
            let first = one.first().max(range.first());
            AddressRange::new(first, one.last().min(range.last()))
        });
        whole.into_iter().chain(parts)
    }

    /// The parts of a range that may not be used, lowest first.
    pub(super) fn outside(self, range: AddressRange) -> Vec<AddressRange> {
        let mut outside = Vec::new();
        let mut rest = Some(range);
        for part in self.within(range) {
            let before = rest.filter(|rest| rest.first() < part.first());
            let before = before.zip(part.first().previous());
            outside.extend(before.and_then(|(rest, last)| AddressRange::new(rest.first(), last)));
            let next = part.last().next();
            rest = next.and_then(|next| AddressRange::new(next, range.last()));
        }
        outside.extend(rest);
        outside
    }
}

/// A record, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) record: Arc<AddressSpace>,
    /// What any grant has: sorted and disjoint.
    granted: Vec<AddressRange>,
}

impl Fence {
    pub(super) fn of(record: Arc<AddressSpace>) -> Self {
        let mut all: Vec<AddressRange> = record.grants.values().flatten().copied().collect();
        all.sort();
        let mut granted: Vec<AddressRange> = Vec::new();
        for range in all {
            match granted.last_mut() {
                Some(last) if range.first() <= last.last() => {
                    let end = last.last().max(range.last());
                    *last = AddressRange::new(last.first(), end).expect("they overlap");
                }
                Some(_) | None => granted.push(range),
            }
        }
        Self { record, granted }
    }

    /// What a cluster may use.
    pub(super) fn reach_of(&self, cluster: &Name) -> Reach<'_> {
        if self.record.grants.is_empty() {
            return Reach::Everything;
        }
        Reach::Only(self.record.grants.get(cluster).map_or(&[], Vec::as_slice))
    }

    /// What may be used by one cluster or another.
    pub(super) fn reach_of_all(&self) -> Reach<'_> {
        match self.record.grants.is_empty() {
            true => Reach::Everything,
            false => Reach::Only(&self.granted),
        }
    }
}

// === commands ===

/// Creates or replaces a record. An equal one changes nothing, but that holders outside the grants
/// are moved where that is wanted.
///
/// # Errors
/// [`Rejection::StaleAddressSpace`]; [`Rejection::AddressSpaceInUse`] unless holders may be moved;
/// [`Rejection::PoolProtected`].
pub(super) fn apply(draft: &mut Draft<'_>, command: &ApplyAddressSpace) -> Result<(), Rejection> {
    let state = draft.state;
    let known = state.address_space(&command.wanted.name);
    check_revision(&command.wanted.name, known, command.if_revision)?;
    let wanted = merged(known, command, draft.now);
    let mut end = state.pools.clone();
    end.set_fence(&wanted.name, Some(Arc::new(wanted.clone())));
    let outside = match command.in_use {
        InUse::Refuse => Vec::new(),
        InUse::Move => state.left_outside(&wanted.name, &end),
    };
    check_in_use(state, &wanted.name, &end, command.in_use, &outside)?;
    if known.map(Arc::as_ref) != Some(&wanted) {
        draft.put_address_space(known, wanted);
    }
    for holder in outside {
        // From now on it holds as everybody does, and so it is decided again.
        let unmarked = Allocation {
            outside_grant: false,
            ..Allocation::clone(holder)
        };
        draft.put_allocation(Some(holder), unmarked);
    }
    Ok(())
}

/// Deletes a record. Nobody loses anything: without grants everything is allowed.
///
/// # Errors
/// [`Rejection::UnknownAddressSpace`], [`Rejection::StaleAddressSpace`]
pub(super) fn delete(
    draft: &mut Draft<'_>,
    name: &Name,
    if_revision: Option<Revision>,
) -> Result<(), Rejection> {
    let Some(known) = draft.state.address_space(name) else {
        return Err(Rejection::UnknownAddressSpace(name.clone()));
    };
    check_revision(name, Some(known), if_revision)?;
    draft.drop_address_space(known);
    Ok(())
}

fn check_revision(
    name: &Name,
    known: Option<&Arc<AddressSpace>>,
    seen: Option<Revision>,
) -> Result<(), Rejection> {
    let current = known.map_or(0, |known| known.revision);
    match seen {
        Some(given) if given != current => Err(Rejection::StaleAddressSpace {
            space: name.clone(),
            current,
            given,
        }),
        Some(_) | None => Ok(()),
    }
}

/// The record as the command wants it: what is not named stays.
fn merged(
    known: Option<&Arc<AddressSpace>>,
    command: &ApplyAddressSpace,
    now: Timestamp,
) -> AddressSpace {
    let ApplyAddressSpace { wanted, fields, .. } = command;
    let mut merged = known.map_or_else(
        || AddressSpace {
            create_time: now,
            ..AddressSpace::new(wanted.name.clone())
        },
        |known| AddressSpace::clone(known),
    );
    if fields.description {
        merged.description.clone_from(&wanted.description);
    }
    if fields.grants {
        merged.grants.clone_from(&wanted.grants);
    }
    if fields.hide_holders {
        merged.hide_holders = wanted.hide_holders;
    }
    merged
}

/// Refuses an edit after which somebody could not keep an address, unless that is wanted and no pool
/// through which it is held is protected.
fn check_in_use(
    state: &State,
    space: &Name,
    end: &Pools,
    in_use: InUse,
    outside: &[&Arc<Allocation>],
) -> Result<(), Rejection> {
    let mut stranded: Vec<Stranded> = Vec::new();
    let mut holders = 0;
    let mut protected: Option<(PoolKey, usize, Stranded)> = None;
    for holder in state.stranded(space, end).chain(outside.iter().copied()) {
        let reach = end.view(space, &holder.owner.key.cluster).reach();
        let mut lost = holder.held().filter(|(held, _)| !reach.contains(*held));
        let Some((address, through)) = lost.next() else {
            continue;
        };
        let first = || Stranded {
            owner: holder.owner.key.clone(),
            address,
        };
        if state.pool(through).is_some_and(|pool| pool.protected) {
            let (_, count, _) = protected.get_or_insert_with(|| (through.clone(), 0, first()));
            *count += 1;
        }
        holders += 1;
        if stranded.len() < MAX_LISTED {
            stranded.push(first());
        }
    }
    if let Some((pool, holders, first)) = protected {
        return Err(Rejection::PoolProtected {
            pool,
            holders,
            first: first.owner,
            address: first.address,
        });
    }
    if holders == 0 || in_use == InUse::Move {
        return Ok(());
    }
    Err(Rejection::AddressSpaceInUse {
        space: space.clone(),
        holders,
        first: stranded,
    })
}

// === reading ===

impl State {
    /// What the operator says of an address space.
    pub fn address_space(&self, name: &str) -> Option<&Arc<AddressSpace>> {
        Some(&self.pools.fence(name)?.record)
    }

    /// By name.
    pub fn address_spaces(&self) -> impl Iterator<Item = &Arc<AddressSpace>> {
        self.address_spaces_after(None)
    }

    /// The same behind a name.
    pub fn address_spaces_after(
        &self,
        after: Option<&Name>,
    ) -> impl Iterator<Item = &Arc<AddressSpace>> {
        self.pools.fences_after(after).map(|fence| &fence.record)
    }

    /// Whether clusters are not to learn which other cluster holds an address.
    pub fn hides_holders(&self, space: &str) -> bool {
        self.address_space(space)
            .is_some_and(|record| record.hide_holders)
    }

    /// The same of any address space: for what is told of all of them together.
    pub fn hides_any_holders(&self) -> bool {
        self.address_spaces().any(|record| record.hide_holders)
    }

    /// Ranges of a pool from which nobody gets anything, because no grant of who may use it has
    /// them; at most so many.
    pub fn outside_grants(&self, pool: &Pool, most: usize) -> Vec<AddressRange> {
        let reach = self.pools.reach_of_pool(&pool.key);
        let ranges = pool.ranges.iter();
        let outside = ranges.flat_map(|range| reach.outside(*range));
        outside.take(most).collect()
    }

    /// Who could not go on holding under other grants what it holds under those of now.
    fn stranded<'a>(
        &'a self,
        space: &'a Name,
        end: &'a Pools,
    ) -> impl Iterator<Item = &'a Arc<Allocation>> {
        let outside = self.fenced_differently(space, end).filter(|holder| {
            let reach = end.view(space, &holder.owner.key.cluster).reach();
            holder.addresses.iter().any(|held| !reach.contains(*held))
        });
        outside.filter(|holder| {
            let permitted = |pools| {
                let holding = Holding::of(holder);
                holding.is_some_and(|it| it.permitted_by(pools, &holder.claim).is_some())
            };
            permitted(&self.pools) && !permitted(end)
        })
    }

    /// Who holds an address that neither the grants of now nor the other ones have.
    fn left_outside(&self, space: &Name, end: &Pools) -> Vec<&Arc<Allocation>> {
        let is_outside = |holder: &&Arc<Allocation>| {
            let reach = end.view(space, &holder.owner.key.cluster).reach();
            holder.outside_grant && holder.addresses.iter().any(|held| !reach.contains(*held))
        };
        let marked = self.allocations().filter(|one| one.outside_grant);
        let here = marked.filter(|one| one.pool.as_ref().is_some_and(|pool| pool.space == *space));
        here.filter(is_outside).collect()
    }

    /// Who holds something in the space and is of a cluster that other grants treat differently.
    fn fenced_differently<'a>(
        &'a self,
        space: &'a Name,
        end: &'a Pools,
    ) -> impl Iterator<Item = &'a Arc<Allocation>> {
        let clusters = self.tenants.names();
        let differs = clusters.filter(move |cluster| {
            self.pools.view(space, cluster).reach() != end.view(space, cluster).reach()
        });
        let held = differs.flat_map(|cluster| self.allocations_of(cluster));
        held.filter(move |one| one.pool.as_ref().is_some_and(|pool| pool.space == *space))
    }
}

// === changing ===

impl State {
    pub(super) fn set_fence(&mut self, name: &Name, record: Option<Arc<AddressSpace>>) {
        self.pools.set_fence(name, record);
        if let Some(space) = self.spaces.get_mut(name) {
            space.count_parts(self.pools.are_cut(name));
        }
    }

    /// Marks a holder that was outside the grants and is not to be kept there any longer.
    pub(super) fn mark_if_unmarked(&mut self, edit: &Edit<Allocation>) {
        if let (Some(before), Some(after)) = (&edit.before, &edit.after)
            && before.outside_grant
            && !after.outside_grant
        {
            self.waiting.mark(after.id);
        }
    }

    /// Makes an edit true, and marks whom it concerns: claims that wait and whose cluster may use
    /// something else now, or would be told something else; and holders of what is not granted any
    /// more, or was not until now.
    pub(super) fn enter_address_space(&mut self, edit: &Edit<AddressSpace>) {
        let space = edit.subject().name.clone();
        let before = self.pools.clone();
        self.set_fence(&space, edit.after.clone());
        let hides = |record: &Option<Arc<AddressSpace>>| {
            record.as_ref().is_some_and(|record| record.hide_holders)
        };
        let everybody = hides(&edit.before) != hides(&edit.after);
        let waiting: BTreeSet<Name> = self.waiting.clusters(&space).cloned().collect();
        for cluster in waiting {
            let differs =
                before.view(&space, &cluster).reach() != self.pools.view(&space, &cluster).reach();
            if differs || everybody {
                self.waiting.mark_for_cluster(&space, &cluster);
            }
        }
        let holders: Vec<_> = self.fenced_differently(&space, &before).collect();
        let treated_otherwise: Vec<_> = holders.iter().map(|one| one.id).collect();
        // Whom the grants leave what it holds, they do not move.
        let is_outside = |one: &Allocation| {
            let reach = self.pools.view(&space, &one.owner.key.cluster).reach();
            one.addresses.iter().any(|held| !reach.contains(*held))
        };
        let concerned = holders
            .into_iter()
            .filter(|one| one.outside_grant || (is_outside(one) && !self.is_in_place(one)));
        let concerned: Vec<_> = concerned.map(|one| one.id).collect();
        self.unmark_content(treated_otherwise);
        for id in concerned {
            self.waiting.mark(id);
        }
    }
}

#[cfg(test)]
mod tests;
