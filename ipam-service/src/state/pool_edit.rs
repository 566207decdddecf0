//! What ApplyPool, DeletePool and SyncPools change, and when they are refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use super::address::{Address, AddressRange};
use super::cluster;
use super::command::InUse;
use super::draft::Draft;
use super::model::{Allocation, Pool, PoolKey};
use super::names::Name;
use super::pool::{Holding, Pools, ranges_in_question};
use super::refusal::{InvalidField, Rejection};

/// Creates or replaces a pool. An equal one changes nothing.
///
/// # Errors
/// [`Rejection::Invalid`] if ranges overlap; [`Rejection::PoolInUse`] unless holders may be moved;
/// [`Rejection::PoolProtected`].
pub(super) fn apply(draft: &mut Draft<'_>, wanted: &Pool, in_use: InUse) -> Result<(), Rejection> {
    let state = draft.state;
    let invalid = overlaps(&state.pools, wanted, "pool");
    if !invalid.is_empty() {
        return Err(Rejection::Invalid(invalid));
    }
    let known = state.pool(&wanted.key);
    if known.is_some_and(|known| is_same(known, wanted)) {
        return Ok(());
    }
    let mut end = state.pools.clone();
    end.remove(&wanted.key);
    end.insert(Arc::new(wanted.clone()));
    check_in_use(state, &wanted.key, &end, in_use)?;
    if let Some(cluster) = &wanted.key.cluster {
        cluster::contact(draft, cluster, 0)?;
    }
    draft.put_pool(known, wanted);
    Ok(())
}

/// # Errors
/// [`Rejection::UnknownPool`]; [`Rejection::PoolInUse`] unless holders may be moved;
/// [`Rejection::PoolProtected`].
pub(super) fn delete(draft: &mut Draft<'_>, key: &PoolKey, in_use: InUse) -> Result<(), Rejection> {
    let Some(known) = draft.state.pool(key) else {
        return Err(Rejection::UnknownPool(key.clone()));
    };
    let mut end = draft.state.pools.clone();
    end.remove(key);
    check_in_use(draft.state, key, &end, in_use)?;
    draft.drop_pool(known);
    Ok(())
}

/// Replaces all pools of a cluster, of every space. Only the end counts: a range that moves from
/// one pool to another moves no address.
///
/// # Errors
/// [`Rejection::Invalid`] with every bad field of every pool; [`Rejection::StaleFence`];
/// [`Rejection::PoolProtected`].
pub(super) fn sync(
    draft: &mut Draft<'_>,
    cluster: &Name,
    wanted: &[Pool],
    fence: u64,
) -> Result<(), Rejection> {
    let state = draft.state;
    let invalid = errors_of_set(wanted.iter().enumerate());
    if !invalid.is_empty() {
        return Err(Rejection::Invalid(invalid));
    }
    let keys: BTreeSet<&PoolKey> = wanted.iter().map(|pool| &pool.key).collect();
    let mut end = state.pools.clone();
    end.remove_cluster(cluster);
    for pool in wanted {
        end.insert(Arc::new(pool.clone()));
    }
    let all = state.pools.of_cluster(cluster);
    let gone: Vec<&Arc<Pool>> = all.filter(|pool| !keys.contains(&pool.key)).collect();
    let differs = |pool: &&Pool| {
        !state
            .pool(&pool.key)
            .is_some_and(|known| is_same(known, pool))
    };
    let put: Vec<&Pool> = wanted.iter().filter(differs).collect();
    let edited = gone.iter().map(|pool| &pool.key);
    for key in edited.chain(put.iter().map(|pool| &pool.key)) {
        check_in_use(state, key, &end, InUse::Move)?;
    }
    cluster::contact(draft, cluster, fence)?;
    for pool in gone {
        draft.drop_pool(pool);
    }
    for pool in put {
        draft.put_pool(state.pool(&pool.key), pool);
    }
    Ok(())
}

/// What is wrong with a whole set of a cluster's pools, whatever else there is: names that are given
/// twice, and ranges that overlap. By the place that each pool has in the set.
pub fn errors_of_set<'a>(set: impl IntoIterator<Item = (usize, &'a Pool)>) -> Vec<InvalidField> {
    // Pools of others may overlap it.
    let mut earlier = Pools::default();
    let mut keys = BTreeSet::new();
    let mut invalid = Vec::new();
    for (index, pool) in set {
        let field = format!("pools[{index}]");
        if !keys.insert(&pool.key) {
            invalid.push(InvalidField {
                field: format!("{field}.name"),
                message: format!("duplicate definition of pool \"{}\"", pool.key.name),
            });
            continue;
        }
        let bad = overlaps(&earlier, pool, &field);
        if bad.is_empty() {
            earlier.insert(Arc::new(pool.clone()));
        }
        invalid.extend(bad);
    }
    invalid
}

/// Every range of a pool that has an address in common with an earlier one of its own, or with one
/// of another pool of the same cluster (or of the operator).
fn overlaps(others: &Pools, pool: &Pool, field: &str) -> Vec<InvalidField> {
    let mut invalid = Vec::new();
    for (index, range) in pool.ranges.iter().enumerate() {
        let earlier = pool.ranges[..index].iter().position(|r| r.overlaps(*range));
        let with = match earlier {
            Some(earlier) => Some((&pool.key, pool.addresses.get(earlier).cloned())),
            None => others.overlapping(&pool.key, *range).map(|(other, hit)| {
                let place = other.ranges.iter().position(|range| *range == hit);
                let text = place.and_then(|place| other.addresses.get(place).cloned());
                (&other.key, text.or_else(|| Some(hit.to_string())))
            }),
        };
        if let Some((key, text)) = with {
            let written = pool.addresses.get(index).cloned();
            invalid.push(InvalidField {
                field: format!("{field}.addresses[{index}]"),
                message: format!(
                    "CIDR \"{}\" in pool \"{}\" overlaps with already defined CIDR \"{}\" of \
                     pool \"{key}\"",
                    written.unwrap_or_else(|| range.to_string()),
                    pool.key,
                    text.unwrap_or_default(),
                ),
            });
        }
    }
    invalid
}

/// Refuses an edit after which somebody could not keep an address, unless that is wanted and the
/// pool through which it is held is not protected.
fn check_in_use(state: &State, key: &PoolKey, end: &Pools, in_use: InUse) -> Result<(), Rejection> {
    let Some((through, ranges)) = state.in_question(key, state.pool(key), end.get(key)) else {
        return Ok(());
    };
    if in_use == InUse::Move && !through.protected {
        return Ok(());
    }
    let mut first = None;
    let mut holders = 0;
    for (address, holder) in state.holders_in_question(key, through, &ranges) {
        let holding = Holding::of(holder);
        if holding.is_some_and(|it| it.permitted_by(end, &holder.claim).is_none()) {
            holders += 1;
            first.get_or_insert((address, holder));
        }
    }
    let Some((address, first)) = first else {
        return Ok(());
    };
    let (pool, first) = (through.key.clone(), first.owner.key.clone());
    Err(if through.protected {
        Rejection::PoolProtected {
            pool,
            holders,
            first,
            address,
        }
    } else {
        Rejection::PoolInUse {
            pool: key.clone(),
            holders,
            first,
            address,
        }
    })
}

/// Whether two pools differ in nothing but their revision.
fn is_same(known: &Pool, wanted: &Pool) -> bool {
    let wanted = Pool {
        revision: known.revision,
        ..wanted.clone()
    };
    *known == wanted
}

impl State {
    /// Holders whose addresses may be in question after an edit of a pool, each once, with the
    /// first of them. One ordered walk over the holders of the ranges that the edit can concern.
    pub(super) fn concerned_by_pool(
        &self,
        key: &PoolKey,
        before: Option<&Arc<Pool>>,
        after: Option<&Arc<Pool>>,
    ) -> Vec<(Address, &Arc<Allocation>)> {
        match self.in_question(key, before, after) {
            Some((through, ranges)) => self.holders_in_question(key, through, &ranges).collect(),
            None => Vec::new(),
        }
    }

    /// The pool through which those hold whom an edit can concern, and which of its ranges: the
    /// edited one, or, where it appears, the operator's pool of its name, which it hides from its
    /// cluster.
    fn in_question<'a>(
        &'a self,
        key: &PoolKey,
        before: Option<&'a Arc<Pool>>,
        after: Option<&Arc<Pool>>,
    ) -> Option<(&'a Arc<Pool>, Vec<AddressRange>)> {
        match before {
            Some(before) => Some((before, ranges_in_question(before, after.map(Arc::as_ref)))),
            None => {
                key.cluster.as_ref()?;
                let hidden = self.pool(&key.of_operator())?;
                Some((hidden, hidden.ranges.clone()))
            }
        }
    }

    /// Who holds an address of these ranges through the pool, and sees edits of `key`.
    fn holders_in_question<'a>(
        &'a self,
        key: &PoolKey,
        through: &Pool,
        ranges: &[AddressRange],
    ) -> impl Iterator<Item = (Address, &'a Arc<Allocation>)> {
        let space = self.space(&key.space);
        let holders = ranges.iter().flat_map(|range| space.holders_in(*range));
        holders.filter(move |(address, holder)| {
            let sees_edit = key
                .cluster
                .as_ref()
                .is_none_or(|own| *own == holder.owner.key.cluster);
            // Who holds two addresses there counts at the first of them.
            let mut here = holder.held().filter(|(held, pool)| {
                let within = |range: &AddressRange| range.contains(*held);
                **pool == through.key && ranges.iter().any(within)
            });
            sees_edit && here.next().is_some_and(|(first, _)| first == *address)
        })
    }
}

#[cfg(test)]
mod tests;
