//! Pools, grants, reservations and quotas, at a point of the log.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pharos_proto::v1;
use pharos_proto::v1::change::Subject;

use crate::ranges::any_has;

/// What clusters and the operator have said so far.
#[derive(Debug, Default)]
pub(crate) struct Records<'a> {
    /// By space, cluster and name.
    pools: BTreeMap<[&'a str; 3], &'a v1::Pool>,
    spaces: BTreeMap<&'a str, &'a v1::AddressSpace>,
    /// By space and name.
    reservations: BTreeMap<[&'a str; 2], &'a v1::Reservation>,
    quotas: BTreeMap<&'a str, &'a v1::Quota>,
}

/// Enters a record, or takes it out.
fn replace<'a, K: Ord, T>(
    records: &mut BTreeMap<K, &'a T>,
    (before, after): (Option<&'a T>, Option<&'a T>),
    key: impl Fn(&'a T) -> K,
) {
    if let Some(before) = before {
        records.remove(&key(before));
    }
    if let Some(after) = after {
        records.insert(key(after), after);
    }
}

impl<'a> Records<'a> {
    /// Those of the first changes of a log.
    pub(crate) fn of(log: impl IntoIterator<Item = &'a v1::Change>) -> Self {
        let mut records = Self::default();
        for change in log {
            records.note(change);
        }
        records
    }

    /// Goes on by one change.
    pub(crate) fn note(&mut self, change: &'a v1::Change) {
        match &change.subject {
            Some(Subject::Pool(edit)) => {
                let edit = (edit.before.as_ref(), edit.after.as_ref());
                replace(&mut self.pools, edit, |pool| {
                    [&pool.address_space, &pool.cluster, &pool.name]
                });
            }
            Some(Subject::AddressSpace(edit)) => {
                let edit = (edit.before.as_ref(), edit.after.as_ref());
                replace(&mut self.spaces, edit, |space| space.name.as_str());
            }
            Some(Subject::Reservation(edit)) => {
                let edit = (edit.before.as_ref(), edit.after.as_ref());
                replace(&mut self.reservations, edit, |one| {
                    [&one.address_space, &one.name]
                });
            }
            Some(Subject::Quota(edit)) => {
                let edit = (edit.before.as_ref(), edit.after.as_ref());
                replace(&mut self.quotas, edit, |quota| quota.name.as_str());
            }
            Some(
                Subject::Allocation(_)
                | Subject::Advertisement(_)
                | Subject::BgpPeer(_)
                | Subject::BfdProfile(_)
                | Subject::Cluster(_)
                | Subject::Unavailable(_),
            )
            | None => {}
        }
    }

    /// A pool, if it has an address.
    pub(crate) fn pool_with(
        &self,
        space: &str,
        pool: &v1::PoolRef,
        address: IpAddr,
    ) -> Option<&'a v1::Pool> {
        let known = self.pools.get(&[space, &pool.cluster, &pool.name])?;
        any_has(&known.addresses, address).then_some(*known)
    }

    /// Whether a cluster may use an address, as far as grants go.
    pub(crate) fn grants(&self, space: &str, cluster: &str, address: IpAddr) -> bool {
        let Some(record) = self.spaces.get(space) else {
            return true;
        };
        let mut own = record.grants.iter().filter(|one| one.cluster == cluster);
        record.grants.is_empty() || own.any(|grant| any_has(&grant.ranges, address))
    }

    pub(crate) fn reservation_with(
        &self,
        space: &str,
        address: IpAddr,
    ) -> Option<&'a v1::Reservation> {
        let mut here = self.reservations_of(space);
        here.find(|one| any_has(&one.addresses, address))
    }

    pub(crate) fn reservations_of(&self, space: &str) -> impl Iterator<Item = &'a v1::Reservation> {
        let all = self.reservations.values().copied();
        all.filter(move |one| one.address_space == space)
    }

    pub(crate) fn quotas(&self) -> impl Iterator<Item = &'a v1::Quota> {
        self.quotas.values().copied()
    }

    /// How long an address rests that is given back now, in microseconds: of all pools that have it,
    /// and may give it, the longest counts.
    pub(crate) fn reuse_delay(&self, space: &str, address: IpAddr) -> i64 {
        let here = self.pools.values().filter(|pool| {
            pool.address_space == space
                && any_has(&pool.addresses, address)
                && (pool.cluster.is_empty() || self.grants(space, &pool.cluster, address))
        });
        let delays = here.filter_map(|pool| pool.reuse_delay);
        let micros = delays.map(|it| it.seconds * 1_000_000 + i64::from(it.nanos / 1000));
        micros.max().unwrap_or(0)
    }
}
