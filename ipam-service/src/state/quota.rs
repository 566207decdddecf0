//! Quotas: how many addresses a cluster, or a namespace of it, may hold; and how many it does.
//!
//! Counted are distinct addresses: the counters follow every change of an allocation, so that a
//! decision looks at one number for each quota that concerns its owner, however much is held. A quota
//! decides about addresses that are new to whom it counts for, and evicts nobody.

mod ledger;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::State;
use super::address::Address;
use super::draft::Draft;
use super::model::{OwnerKey, PoolKey, Quota, QuotaSubject};
use super::names::Name;
use super::refusal::{InvalidField, Rejection};
use ledger::limit_of;
pub(super) use ledger::{Bucket, Opened, Quotas, Slot};

/// Creates or replaces a quota. An equal one changes nothing.
///
/// # Errors
/// [`Rejection::Invalid`] where another quota is about the same.
pub(super) fn apply(draft: &mut Draft<'_>, wanted: &Quota) -> Result<(), Rejection> {
    let state = draft.state;
    if let Some(other) = state.quotas.same_as(wanted) {
        return Err(Rejection::Invalid(vec![InvalidField {
            field: "quota.name".to_owned(),
            message: format!(
                "quota {:?} says how many addresses the same may hold of the same: change that one",
                other.name.as_str()
            ),
        }]));
    }
    let known = state.quota(&wanted.name);
    let is_same = known.is_some_and(|known| {
        let wanted = Quota {
            revision: known.revision,
            ..wanted.clone()
        };
        **known == wanted
    });
    if !is_same {
        draft.put_quota(known, wanted);
    }
    Ok(())
}

/// # Errors
/// [`Rejection::UnknownQuota`]
pub(super) fn delete(draft: &mut Draft<'_>, name: &Name) -> Result<(), Rejection> {
    let Some(known) = draft.state.quota(name) else {
        return Err(Rejection::UnknownQuota(name.clone()));
    };
    draft.drop_quota(known);
    Ok(())
}

/// A quota that does not allow a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) quota: Arc<Quota>,
    pub(super) bucket: Bucket,
    pub(super) held: usize,
    /// How many the grant would add.
    pub(super) more: usize,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quota = &self.quota;
        write!(f, "quota {:?} allows ", quota.name.as_str())?;
        match (&quota.subject, &self.bucket) {
            (QuotaSubject::Cluster, _) => write!(f, "cluster {}", quota.cluster)?,
            (QuotaSubject::Namespace(namespace), _)
            | (QuotaSubject::EachNamespace, Some(namespace)) => {
                write!(f, "namespace {}/{namespace}", quota.cluster)?;
            }
            (QuotaSubject::EachNamespace, None) => {
                write!(f, "cluster {} outside namespaces", quota.cluster)?;
            }
        }
        write!(f, " {}", quota.limit)?;
        if let Some(family) = quota.family {
            write!(f, " {family}")?;
        }
        f.write_str(" addresses of ")?;
        if let Some(pool) = &quota.pool {
            write!(f, "pool {:?} in ", pool.as_str())?;
        }
        write!(f, "address space {}; {} are held", quota.space, self.held)?;
        if self.more > 1 {
            write!(f, " and {} more are asked for", self.more)?;
        }
        Ok(())
    }
}

/// An address and the pool through which it is, or would be, held.
pub(super) type Placed<'a> = (Address, &'a PoolKey);

/// How much of a quota is in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuotaUsage {
    pub held: usize,
    /// For `each_namespace`: the namespace that holds most.
    pub namespace: Option<Name>,
}

impl State {
    /// The quotas of a space that concern an owner and have no room left.
    pub(super) fn full_quotas_of(
        &self,
        space: &Name,
        owner: &OwnerKey,
    ) -> impl Iterator<Item = &Arc<Quota>> {
        let ledgers = self.quotas.ledgers_of(space, &owner.cluster);
        let concerning = ledgers.into_iter().flat_map(|ledgers| ledgers.of(owner));
        let full = concerning
            .filter(|ledger| ledger.held(&ledger.quota.bucket(owner)) >= limit_of(&ledger.quota));
        full.map(|ledger| &ledger.quota)
    }

    /// Whether the quotas allow an owner to hold these addresses of a space instead of what it holds
    /// there now. One step per quota of its cluster and of its namespace.
    ///
    /// What makes a number no greater is always allowed. While the store does not know what is held,
    /// only what is in use already is given, and no quota takes it away.
    ///
    /// # Errors
    /// The first quota that does not.
    pub(super) fn within_quotas(
        &self,
        owner: &OwnerKey,
        space: &Name,
        wanted: &[Placed<'_>],
    ) -> Result<(), Box<Exceeded>> {
        let Some(ledgers) = self.quotas.ledgers_of(space, &owner.cluster) else {
            return Ok(());
        };
        if self.is_recovering() {
            return Ok(());
        }
        let current = self.allocation(owner);
        for ledger in ledgers.of(owner) {
            let quota = &ledger.quota;
            let bucket = quota.bucket(owner);
            let tally = ledger.tallies.get(&bucket);
            let owners = |address: Address| tally.and_then(|it| it.get(&address)).copied();
            // What the owner holds is kept, whatever pool it is held through from now on.
            let is_own = |address: Address| {
                let mut held = current.into_iter().flat_map(|one| one.held());
                held.any(|(own, pool)| own == address && pool.space == *space)
            };
            let counted = wanted.iter().filter(|placed| quota.counts(**placed));
            let new = counted.filter(|(address, _)| owners(*address).is_none());
            let (kept, added): (Vec<Placed<'_>>, Vec<Placed<'_>>) =
                new.copied().partition(|(address, _)| is_own(*address));
            let (kept, added) = (kept.len(), added.len());
            let given_up = current.into_iter().flat_map(|one| one.held());
            let given_up = given_up.filter(|(address, pool)| {
                let stays = wanted
                    .iter()
                    .any(|placed| placed.0 == *address && quota.counts(*placed));
                quota.counts((*address, pool)) && !stays && owners(*address) == Some(1)
            });
            let given_up = given_up.count();
            let held = tally.map_or(0, BTreeMap::len);
            if added > given_up && held + kept + added - given_up > limit_of(quota) {
                return Err(Box::new(Exceeded {
                    quota: Arc::clone(quota),
                    bucket,
                    held,
                    more: added - given_up,
                }));
            }
        }
        Ok(())
    }

    /// Whether there is any quota.
    pub(super) fn has_quotas(&self) -> bool {
        !self.quotas.is_empty()
    }

    pub fn quota(&self, name: &str) -> Option<&Arc<Quota>> {
        self.quotas.get(name)
    }

    /// By name.
    pub fn quotas(&self) -> impl Iterator<Item = &Arc<Quota>> {
        self.quotas.iter()
    }

    /// What is held of a quota.
    pub fn quota_usage(&self, quota: &Quota) -> QuotaUsage {
        self.quotas.usage(quota)
    }
}

#[cfg(test)]
mod tests;
