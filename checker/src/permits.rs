//! Whether whoever comes to hold an address may: by the pools, grants, reservations (I8) and quotas
//! (I9) that the log has at that point.
//!
//! Not for histories in which a store recovers: there what is in use is believed.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use pharos_proto::v1::ip_family::Value as Family;

use crate::log::allocation_change;
use crate::ranges::{any_has, parse};
use crate::records::Records;
use crate::{Invariant, Violation, owner_key};

/// The log, gone through.
#[derive(Debug, Default)]
struct Book<'a> {
    records: Records<'a>,
    /// By owner.
    held: BTreeMap<String, &'a v1::Allocation>,
    violations: Vec<Violation>,
}

pub(crate) fn check(log: &[v1::Change]) -> Vec<Violation> {
    let mut book = Book::default();
    // The incarnation that went in the change before, if another one of the same request takes over.
    let mut earlier: Option<(&str, &v1::Allocation)> = None;
    for change in log {
        book.records.note(change);
        let Some(edit) = allocation_change(change) else {
            continue;
        };
        let (before, after) = (edit.before.as_ref(), edit.after.as_ref());
        if let Some(after) = after {
            book.check_places(before, after, change.revision);
            let reborn = earlier.filter(|(id, gone)| {
                let same = owner_key(gone.owner.as_ref()) == owner_key(after.owner.as_ref());
                *id == change.request_id && before.is_none() && same
            });
            let before = before.or(reborn.map(|(_, gone)| gone));
            book.check_quotas(before, after, change.revision);
        }
        earlier = match (before, after) {
            (Some(gone), None) => Some((&change.request_id, gone)),
            (_, _) => None,
        };
        let one = after.or(before).and_then(|one| one.owner.as_ref());
        match after {
            Some(after) => book.held.insert(owner_key(one), after),
            None => book.held.remove(&owner_key(one)),
        };
    }
    book.violations
}

impl Book<'_> {
    /// I8
    fn check_places(
        &mut self,
        before: Option<&v1::Allocation>,
        after: &v1::Allocation,
        revision: u64,
    ) {
        for (address, pool) in after.addresses.iter().zip(&after.pools) {
            if holds(before, &after.address_space, address) {
                continue;
            }
            if let Some(why) = self.forbidden(after, address, pool) {
                let owner = owner_key(after.owner.as_ref());
                let what = format!("{owner} got {address} at revision {revision}: {why}");
                self.violations.push(Invariant::Permitted.broken(what));
            }
        }
    }

    /// Why an owner may not come to hold an address through a pool.
    fn forbidden(
        &self,
        after: &v1::Allocation,
        address: &str,
        pool: &v1::PoolRef,
    ) -> Option<String> {
        let owner = after.owner.clone().unwrap_or_default();
        let claim = after.claim.clone().unwrap_or_default();
        let space = after.address_space.as_str();
        let parsed = parse(address);
        if !pool.cluster.is_empty() && pool.cluster != owner.cluster {
            return Some(format!("pool {} is of {}", pool.name, pool.cluster));
        }
        if self.records.pool_with(space, pool, parsed).is_none() {
            return Some(format!("pool {} does not have it", pool.name));
        }
        if !self.records.grants(space, &owner.cluster, parsed) {
            return Some("it is not granted".to_owned());
        }
        let reservation = self.records.reservation_with(space, parsed);
        if let Some(reservation) = reservation
            && !is_for(reservation.kept_for.as_ref(), &owner)
        {
            return Some(format!("reservation {} has it", reservation.name));
        }
        // A stale one may have got it under another claim.
        let is_answer = after.state() == v1::allocation::State::Assigned;
        if is_answer && !claim.addresses.is_empty() && !any_has(&claim.addresses, parsed) {
            return Some("it asked for another one".to_owned());
        }
        let named = Some(claim.reservation.as_str()).filter(|name| is_answer && !name.is_empty());
        if named.is_some() && reservation.map(|one| one.name.as_str()) != named {
            return Some(format!("it asked for one of {}", claim.reservation));
        }
        None
    }

    /// I9: who is at a limit, or beyond it since that was lowered, gets no more than it gives up.
    fn check_quotas(
        &mut self,
        before: Option<&v1::Allocation>,
        after: &v1::Allocation,
        revision: u64,
    ) {
        let owner = after.owner.clone().unwrap_or_default();
        let key = owner_key(Some(&owner));
        let others = self.held.iter().filter(|(other, _)| **other != key);
        let others: Vec<&v1::Allocation> = others.map(|(_, one)| *one).collect();
        for quota in self.records.quotas().filter(|it| concerns(it, &owner)) {
            let tally = |own| counted(quota, &owner.namespace, others.iter().copied().chain(own));
            let (had, has) = (tally(before), tally(Some(after)));
            let new = has.difference(&had);
            let new = new.filter(|new| !holds(before, &after.address_space, new));
            let more = new.count() > had.difference(&has).count();
            let limit = usize::try_from(quota.limit()).expect("32 bits");
            if more && has.len() > limit {
                let what = format!(
                    "{key} got {:?} at revision {revision}: {} are held of quota {}, which allows \
                     {limit}",
                    after.addresses,
                    has.len(),
                    quota.name
                );
                self.violations.push(Invariant::WithinQuota.broken(what));
            }
        }
    }
}

/// Whether a quota counts what an owner holds.
fn concerns(quota: &v1::Quota, owner: &v1::Owner) -> bool {
    let namespace = &quota.namespace;
    quota.cluster == owner.cluster && (namespace.is_empty() || *namespace == owner.namespace)
}

/// The addresses that count for a quota; with `each_namespace` those of one namespace.
pub(crate) fn counted<'a>(
    quota: &v1::Quota,
    namespace: &str,
    allocations: impl Iterator<Item = &'a v1::Allocation>,
) -> BTreeSet<String> {
    let of_it = allocations.filter(|one| {
        let owner = one.owner.as_ref();
        owner.is_some_and(|owner| {
            concerns(quota, owner) && (!quota.each_namespace || owner.namespace == namespace)
        }) && one.address_space == quota.address_space
    });
    let held = of_it.flat_map(|one| one.addresses.iter().zip(&one.pools));
    let counts = held.filter(|(address, pool)| {
        let family = match quota.family() {
            Family::Unspecified => true,
            Family::Ipv4 => parse(address).is_ipv4(),
            Family::Ipv6 => parse(address).is_ipv6(),
        };
        family && (quota.pool.is_empty() || quota.pool == pool.name)
    });
    counts.map(|(address, _)| address.clone()).collect()
}

fn is_for(kept_for: Option<&v1::KeptFor>, owner: &v1::Owner) -> bool {
    kept_for.is_some_and(|kept| {
        let all = kept.name.is_empty() && kept.namespace.is_empty();
        kept.cluster == owner.cluster
            && (all || kept.namespace == owner.namespace)
            && (kept.name.is_empty() || kept.name == owner.name)
    })
}

fn holds(one: Option<&v1::Allocation>, space: &str, address: &str) -> bool {
    one.is_some_and(|one| {
        one.address_space == space && one.addresses.iter().any(|held| held == address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, allocation, broken, grant, pool, quota, reservation, shared};

    fn checked(log: &Log) -> Vec<Invariant> {
        broken(&check(&log.changes))
    }

    /// A log that begins with a pool.
    fn log() -> Log {
        let mut log = Log::default();
        log.pool(pool("pool", "192.0.2.0/28"));
        log
    }

    #[test]
    fn what_the_pool_has_and_nothing_forbids_is_right() {
        let mut log = log();
        log.fence(grant("east", "192.0.2.0/29"));
        log.reserve(reservation("192.0.2.4/31", "east"));
        log.limit(quota("east", 2));
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.create(allocation("east/b", &["192.0.2.4"]));
        log.update("east/a", |one| one.addresses = vec!["192.0.2.5".to_owned()]);
        assert_eq!(checked(&log), []);
    }

    #[test]
    fn an_address_that_the_pool_does_not_have_is_found() {
        let mut log = log();
        log.create(allocation("east/a", &["192.0.2.16"]));
        assert_eq!(checked(&log), [Invariant::Permitted]);
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        assert_eq!(checked(&log), [Invariant::Permitted], "there is no pool");
        let mut log = Log::default();
        let mut of_west = pool("pool", "192.0.2.0/28");
        of_west.cluster = "west".to_owned();
        log.pool(of_west);
        let mut theirs = allocation("east/a", &["192.0.2.1"]);
        theirs.pools[0].cluster = "west".to_owned();
        log.create(theirs);
        assert_eq!(checked(&log), [Invariant::Permitted], "it is not theirs");
    }

    #[test]
    fn an_address_outside_the_grant_is_found_and_one_that_was_held_before_is_not() {
        let mut log = log();
        log.create(allocation("west/a", &["192.0.2.1"]));
        log.fence(grant("east", "192.0.2.0/29"));
        log.update("west/a", |one| one.id += 1);
        assert_eq!(checked(&log), []);
        log.create(allocation("west/b", &["192.0.2.2"]));
        assert_eq!(checked(&log), [Invariant::Permitted]);
    }

    #[test]
    fn an_address_that_is_kept_for_others_or_for_nobody_is_found() {
        for kept_for in ["west", "west/b", "east/b", ""] {
            let mut log = log();
            log.create(allocation("east/a", &["192.0.2.5"]));
            log.reserve(reservation("192.0.2.4/31", kept_for));
            assert_eq!(checked(&log), [], "{kept_for} came later");
            log.delete("east/a");
            log.create(allocation("east/a", &["192.0.2.5"]));
            assert_eq!(checked(&log), [Invariant::Permitted], "{kept_for}");
        }
    }

    #[test]
    fn another_address_than_was_asked_for_is_found() {
        let asks = |ask: fn(&mut v1::Claim)| {
            let mut log = log();
            log.reserve(reservation("192.0.2.5", "east"));
            let mut wrong = allocation("east/a", &["192.0.2.6"]);
            ask(wrong.claim.as_mut().expect("a claim"));
            log.create(wrong);
            checked(&log)
        };
        assert_eq!(asks(|_| ()), []);
        let address = |claim: &mut v1::Claim| claim.addresses = vec!["192.0.2.5".to_owned()];
        assert_eq!(asks(address), [Invariant::Permitted]);
        let reservation = |claim: &mut v1::Claim| "kept".clone_into(&mut claim.reservation);
        assert_eq!(asks(reservation), [Invariant::Permitted]);
    }

    #[test]
    fn one_more_than_the_quota_allows_is_found() {
        let mut log = log();
        log.limit(quota("east", 1));
        log.create(allocation("west/a", &["192.0.2.1"]));
        log.create(shared("east/a", "192.0.2.2", "key", 80));
        log.create(shared("east/b", "192.0.2.2", "key", 81));
        assert_eq!(checked(&log), [], "a shared address counts once");
        log.create(allocation("east/c", &["192.0.2.3"]));
        assert_eq!(checked(&log), [Invariant::WithinQuota]);
    }

    #[test]
    fn each_namespace_family_and_pool_counts_for_itself() {
        let narrow = |quota: fn(&mut v1::Quota)| {
            let mut log = log();
            log.pool(pool("six", "2001:db8::/120"));
            let mut limit = self::quota("east", 1);
            quota(&mut limit);
            log.limit(limit);
            log.create(allocation("east/a", &["192.0.2.1"]));
            let mut other = allocation("east/b", &["2001:db8::1"]);
            other.owner.as_mut().expect("an owner").namespace = "other".to_owned();
            other.pools[0].name = "six".to_owned();
            log.create(other);
            checked(&log)
        };
        assert_eq!(narrow(|_| ()), [Invariant::WithinQuota]);
        assert_eq!(narrow(|quota| quota.each_namespace = true), []);
        assert_eq!(narrow(|quota| quota.namespace = "other".to_owned()), []);
        assert_eq!(narrow(|quota| quota.pool = "six".to_owned()), []);
        assert_eq!(narrow(|quota| quota.family = Family::Ipv6.into()), []);
    }

    #[test]
    fn who_is_beyond_a_limit_that_was_lowered_may_exchange_and_be_reborn() {
        let mut log = log();
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.create(allocation("east/b", &["192.0.2.2"]));
        log.limit(quota("east", 0));
        log.update("east/a", |one| one.addresses = vec!["192.0.2.3".to_owned()]);
        log.delete("east/b");
        log.create(allocation("east/b", &["192.0.2.4"]));
        let reborn = log.changes.len() - 2;
        for change in &mut log.changes[reborn..] {
            change.request_id = "allocate-1".to_owned();
        }
        assert_eq!(checked(&log), []);
        log.changes[reborn].request_id = "release-1".to_owned();
        assert_eq!(checked(&log), [Invariant::WithinQuota]);
    }
}
