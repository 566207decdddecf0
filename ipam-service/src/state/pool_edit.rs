//! What ApplyPool, DeletePool and SyncPools change, and when they are refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::address::Address;
use super::cluster;
use super::command::InUse;
use super::draft::Draft;
use super::model::{Allocation, Pool, PoolKey};
use super::names::Name;
use super::pool::{Holding, Pools, same_for_holders};
use super::refusal::{InvalidField, Rejection};

/// Creates or replaces a pool. An equal one changes nothing.
///
/// # Errors
/// [`Rejection::Invalid`] if ranges overlap; [`Rejection::PoolInUse`] unless holders may be moved.
pub(super) fn apply(draft: &mut Draft<'_>, wanted: &Pool, in_use: InUse) -> Result<(), Rejection> {
    let state = draft.state;
    let mut end = state.pools.clone();
    end.remove(&wanted.key);
    let invalid = overlaps(&end, wanted, "pool");
    if !invalid.is_empty() {
        return Err(Rejection::Invalid(invalid));
    }
    end.insert(Arc::new(wanted.clone()));
    let known = state.pool(&wanted.key);
    if known.is_some_and(|known| is_same(known, wanted)) {
        return Ok(());
    }
    check_in_use(draft, &wanted.key, &end, in_use)?;
    if let Some(cluster) = &wanted.key.cluster {
        cluster::contact(draft, cluster, 0)?;
    }
    draft.put_pool(known, wanted);
    Ok(())
}

/// # Errors
/// [`Rejection::UnknownPool`]; [`Rejection::PoolInUse`] unless holders may be moved.
pub(super) fn delete(draft: &mut Draft<'_>, key: &PoolKey, in_use: InUse) -> Result<(), Rejection> {
    let Some(known) = draft.state.pool(key) else {
        return Err(Rejection::UnknownPool(key.clone()));
    };
    let mut end = draft.state.pools.clone();
    end.remove(key);
    check_in_use(draft, key, &end, in_use)?;
    draft.drop_pool(known);
    Ok(())
}

/// Replaces all pools of a cluster, of every space. Only the end counts: a range that moves from
/// one pool to another moves no address.
///
/// # Errors
/// [`Rejection::Invalid`] with every bad field of every pool; [`Rejection::StaleFence`].
pub(super) fn sync(
    draft: &mut Draft<'_>,
    cluster: &Name,
    wanted: &[Pool],
    fence: u64,
) -> Result<(), Rejection> {
    let mut end = Pools::default();
    let mut keys = BTreeSet::new();
    let mut invalid = Vec::new();
    for (index, pool) in wanted.iter().enumerate() {
        let field = format!("pools[{index}]");
        if !keys.insert(&pool.key) {
            invalid.push(InvalidField {
                field: format!("{field}.name"),
                message: format!("duplicate definition of pool \"{}\"", pool.key.name),
            });
            continue;
        }
        let bad = overlaps(&end, pool, &field);
        if bad.is_empty() {
            end.insert(Arc::new(pool.clone()));
        }
        invalid.extend(bad);
    }
    if !invalid.is_empty() {
        return Err(Rejection::Invalid(invalid));
    }
    cluster::contact(draft, cluster, fence)?;
    let state = draft.state;
    for gone in state.pools.of_cluster(cluster) {
        if !keys.contains(&gone.key) {
            draft.drop_pool(gone);
        }
    }
    for pool in wanted {
        let known = state.pool(&pool.key);
        if !known.is_some_and(|known| is_same(known, pool)) {
            draft.put_pool(known, pool);
        }
    }
    Ok(())
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

/// Refuses an edit after which somebody could not keep an address, unless that is wanted.
fn check_in_use(
    draft: &Draft<'_>,
    key: &PoolKey,
    end: &Pools,
    in_use: InUse,
) -> Result<(), Rejection> {
    if in_use == InUse::Move {
        return Ok(());
    }
    let state = draft.state;
    let concerned = state.concerned_by_pool(key, state.pool(key), end.get(key));
    let stranded: Vec<(Address, &Arc<Allocation>)> = concerned
        .into_iter()
        .filter(|(_, holder)| {
            let holding = Holding::of(holder);
            holding.is_some_and(|it| it.permitted_by(end, &holder.claim).is_none())
        })
        .collect();
    match stranded.first() {
        None => Ok(()),
        Some((address, first)) => Err(Rejection::PoolInUse {
            pool: key.clone(),
            holders: stranded.len(),
            first: first.owner.key.clone(),
            address: *address,
        }),
    }
}

/// Whether two pools differ in nothing but their revision.
fn is_same(known: &Pool, wanted: &Pool) -> bool {
    let wanted = Pool {
        revision: known.revision,
        ..wanted.clone()
    };
    *known == wanted
}

impl super::State {
    /// Holders whose addresses may be in question after an edit of a pool, each once, with the
    /// first of them: those who hold through it, and, where it appears or goes, those who hold
    /// through the operator's pool of the same name, which it hides from its cluster.
    pub(super) fn concerned_by_pool(
        &self,
        key: &PoolKey,
        before: Option<&Arc<Pool>>,
        after: Option<&Arc<Pool>>,
    ) -> Vec<(Address, &Arc<Allocation>)> {
        let mut through = Vec::new();
        match (before, after) {
            (Some(before), Some(after)) if same_for_holders(before, after) => {}
            (Some(before), _) => through.push(before),
            (None, _) => {
                let operators = key.cluster.as_ref().and_then(|_| {
                    self.pool(&PoolKey {
                        cluster: None,
                        ..key.clone()
                    })
                });
                through.extend(operators);
            }
        }
        let space = self.space(&key.space);
        let mut seen = BTreeSet::new();
        let mut concerned = Vec::new();
        for pool in through {
            for (address, holder) in pool
                .ranges
                .iter()
                .flat_map(|range| space.holders_in(*range))
            {
                let sees_edit = key
                    .cluster
                    .as_ref()
                    .is_none_or(|own| *own == holder.owner.key.cluster);
                let is_through = holder.pool.as_ref() == Some(&pool.key);
                if sees_edit && is_through && seen.insert(holder.id) {
                    concerned.push((address, holder));
                }
            }
        }
        concerned
    }
}

#[cfg(test)]
mod tests;
