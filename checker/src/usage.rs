//! How full a pool said it was (I6).

use std::collections::BTreeSet;
use std::net::IpAddr;

use pharos_proto::v1;
use pharos_proto::v1::change::Subject;

use crate::log::Replay;
use crate::permits::counted;
use crate::ranges::{common, parse, range_of, size, within};
use crate::records::Records;
use crate::{Invariant, Violation};

/// What a quota said at a revision, with its usage.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaUsage {
    pub revision: u64,
    pub quota: v1::Quota,
}

/// What one family of a pool said at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub revision: u64,
    pub space: String,
    /// Of the pool; empty: an operator's.
    pub cluster: String,
    /// For messages.
    pub pool: String,
    /// First and last address of each range of this family that the pool has; disjoint.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    pub total: u128,
    pub held: u128,
    pub held_by_others: u128,
    /// Held by nobody, and kept for somebody or for nobody.
    pub reserved: u128,
    /// Held by nobody, and not to be had yet: draining, in its reuse delay, quarantined.
    pub draining: u128,
    pub free: u128,
    /// Granted to nobody, so not in `total`.
    pub outside_grant: u128,
}

pub(crate) fn check(usages: &[Usage], log: &[v1::Change]) -> Vec<Violation> {
    let mut sorted: Vec<&Usage> = usages.iter().collect();
    sorted.sort_by_key(|usage| usage.revision);
    let mut replay = Replay::new(log);
    let mut violations = Vec::new();
    for usage in sorted {
        let Usage { revision, pool, .. } = usage;
        let granted = granted(usage, log);
        let all: u128 = usage.ranges.iter().map(|range| size(*range)).sum();
        let size: u128 = granted.iter().map(|range| size(*range)).sum();
        let sum = usage.held + usage.held_by_others + usage.reserved + usage.draining + usage.free;
        if usage.total != size || sum != size || usage.outside_grant != all - size {
            let what = format!("{pool} of {size} at revision {revision} says {usage:?}");
            violations.push(Invariant::SumOfPool.broken(what));
        }
        let mut held: BTreeSet<IpAddr> = BTreeSet::new();
        for one in replay.advance(*revision).values() {
            if one.address_space == usage.space {
                let addresses = one.addresses.iter().filter_map(|text| text.parse().ok());
                held.extend(addresses.filter(|it| granted.iter().any(|r| within(*it, *r))));
            }
        }
        let said = usage.held + usage.held_by_others;
        if u128::try_from(held.len()) != Ok(said) {
            let what = format!(
                "{pool} says that {said} are held at revision {revision}, and the log {}",
                held.len()
            );
            violations.push(Invariant::SumOfPool.broken(what));
        }
        let (reserved, draining) = withheld(usage, &granted, &held, log);
        if (usage.reserved, usage.draining) != (reserved, draining) {
            let what = format!(
                "{pool} says at revision {revision} that {} are reserved and {} drain, and the log \
                 {reserved} and {draining}",
                usage.reserved, usage.draining
            );
            violations.push(Invariant::SumOfPool.broken(what));
        }
    }
    violations
}

/// How many addresses are reserved, and how many rest, of those that nobody holds. What is both
/// counts as resting.
fn withheld(
    usage: &Usage,
    granted: &[(IpAddr, IpAddr)],
    held: &BTreeSet<IpAddr>,
    log: &[v1::Change],
) -> (u128, u128) {
    let seen = log
        .iter()
        .filter(|change| change.revision <= usage.revision);
    let mut rows = BTreeSet::new();
    for change in seen.clone() {
        let Some(Subject::Unavailable(edit)) = &change.subject else {
            continue;
        };
        let row = edit.after.as_ref().or(edit.before.as_ref());
        let Some(row) = row.filter(|row| row.address_space == usage.space) else {
            continue;
        };
        let row = (parse(&row.address), row.reason);
        match &edit.after {
            Some(_) => rows.insert(row),
            None => rows.remove(&row),
        };
    }
    let resting: BTreeSet<IpAddr> = rows.into_iter().map(|(address, _)| address).collect();
    let is_granted = |address: &IpAddr| granted.iter().any(|range| within(*address, *range));
    let resting: BTreeSet<&IpAddr> = resting
        .difference(held)
        .filter(|it| is_granted(it))
        .collect();
    let records = Records::of(seen);
    let mut reserved = 0;
    for kept in records.reservations_of(&usage.space) {
        let kept = kept.addresses.iter().map(|text| range_of(text));
        let parts = kept.flat_map(|kept| granted.iter().filter_map(move |it| common(kept, *it)));
        for part in parts {
            let taken = resting.iter().copied().chain(held);
            let taken = taken.filter(|address| within(**address, part)).count();
            reserved += size(part) - count(taken);
        }
    }
    (reserved, count(resting.len()))
}

fn count(of: usize) -> u128 {
    u128::try_from(of).expect("fits")
}

/// What is said to be held of quotas is what the log says.
pub(crate) fn check_quotas(usages: &[QuotaUsage], log: &[v1::Change]) -> Vec<Violation> {
    let mut sorted: Vec<&QuotaUsage> = usages.iter().collect();
    sorted.sort_by_key(|usage| usage.revision);
    let mut replay = Replay::new(log);
    let mut violations = Vec::new();
    for QuotaUsage { revision, quota } in sorted {
        let allocations = replay.advance(*revision);
        let owners = allocations.values().filter_map(|one| one.owner.as_ref());
        let mut namespaces: BTreeSet<&str> = owners.map(|owner| owner.namespace.as_str()).collect();
        namespaces.insert("");
        let most = namespaces
            .into_iter()
            .map(|namespace| counted(quota, namespace, allocations.values()).len())
            .max();
        let said = quota.usage.as_ref().map(|usage| usage.held);
        if said.map(|said| usize::try_from(said).expect("32 bits")) != most {
            let what = format!(
                "quota {} says that {said:?} are held at revision {revision}, and the log {most:?}",
                quota.name
            );
            violations.push(Invariant::SumOfPool.broken(what));
        }
    }
    violations
}

/// What of a pool's ranges those may use who may use the pool, by the grants of the log.
fn granted(usage: &Usage, log: &[v1::Change]) -> Vec<(IpAddr, IpAddr)> {
    let records = log
        .iter()
        .filter(|change| change.revision <= usage.revision);
    let records = records.filter_map(|change| match &change.subject {
        Some(Subject::AddressSpace(edit)) => Some(edit),
        _ => None,
    });
    let named =
        |space: &Option<v1::AddressSpace>| space.as_ref().is_some_and(|it| it.name == usage.space);
    let mut here = records.filter(|edit| named(&edit.before) || named(&edit.after));
    let record = here.next_back().and_then(|edit| edit.after.as_ref());
    let Some(record) = record.filter(|record| !record.grants.is_empty()) else {
        return usage.ranges.clone();
    };
    let grants = record.grants.iter();
    let own = grants.filter(|one| usage.cluster.is_empty() || one.cluster == usage.cluster);
    let mut parts: Vec<(IpAddr, IpAddr)> = Vec::new();
    for grant in own.flat_map(|grant| grant.ranges.iter().map(|text| range_of(text))) {
        for pool in &usage.ranges {
            parts.extend(common(grant, *pool));
        }
    }
    // Grants may overlap.
    parts.sort();
    let mut merged: Vec<(IpAddr, IpAddr)> = Vec::new();
    for part in parts {
        match merged.last_mut() {
            Some(last) if part.0 <= last.1 => last.1 = last.1.max(part.1),
            Some(_) | None => merged.push(part),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, allocation, broken, quota, reservation, shared};

    fn log() -> Vec<v1::Change> {
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1", "2001:db8::1"]));
        log.create(shared("west/b", "192.0.2.2", "key", 80));
        log.create(shared("west/c", "192.0.2.2", "key", 81));
        log.create(allocation("west/d", &["198.51.100.1"]));
        log.changes
    }

    fn usage() -> Usage {
        let range = |first: &str, last: &str| {
            let parse = |text: &str| text.parse().expect("an address");
            (parse(first), parse(last))
        };
        Usage {
            revision: 4,
            space: "default".to_owned(),
            cluster: String::new(),
            pool: "pool".to_owned(),
            ranges: vec![
                range("192.0.2.0", "192.0.2.3"),
                range("192.0.2.8", "192.0.2.8"),
            ],
            total: 5,
            held: 1,
            held_by_others: 1,
            reserved: 0,
            draining: 0,
            free: 3,
            outside_grant: 0,
        }
    }

    #[test]
    fn a_sum_that_is_the_size_of_the_pool_is_right_and_a_shared_address_counts_once() {
        assert_eq!(check(&[usage()], &log()), []);
        let before = Usage {
            revision: 1,
            held_by_others: 0,
            free: 4,
            ..usage()
        };
        assert_eq!(check(&[usage(), before], &log()), []);
    }

    #[test]
    fn a_sum_that_is_not_the_size_of_the_pool_is_found() {
        let lost = Usage { free: 1, ..usage() };
        assert_eq!(broken(&check(&[lost], &log())), [Invariant::SumOfPool]);
        let total = Usage {
            total: 6,
            free: 4,
            ..usage()
        };
        assert_eq!(broken(&check(&[total], &log())), [Invariant::SumOfPool]);
    }

    #[test]
    fn what_is_held_and_not_counted_is_found() {
        let wrong = Usage {
            held_by_others: 0,
            free: 4,
            ..usage()
        };
        assert_eq!(broken(&check(&[wrong], &log())), [Invariant::SumOfPool]);
    }

    #[test]
    fn what_is_granted_to_nobody_who_may_use_the_pool_counts_only_as_such() {
        let mut fenced = Log::default();
        fenced.changes = log();
        let grant = |cluster: &str, range: &str| v1::address_space::Grant {
            cluster: cluster.to_owned(),
            ranges: vec![range.to_owned()],
        };
        let record = v1::AddressSpace {
            name: "default".to_owned(),
            grants: vec![
                grant("east", "192.0.2.0/31"),
                grant("west", "192.0.2.1-192.0.2.2"),
            ],
            ..v1::AddressSpace::default()
        };
        fenced.fence(record);
        let operators = Usage {
            revision: 5,
            total: 3,
            free: 1,
            outside_grant: 2,
            ..usage()
        };
        let of_west = Usage {
            cluster: "west".to_owned(),
            total: 2,
            free: 0,
            outside_grant: 3,
            ..operators.clone()
        };
        let usages = [usage(), operators.clone(), of_west];
        assert_eq!(check(&usages, &fenced.changes), []);
        let wrong = Usage {
            total: 5,
            free: 3,
            outside_grant: 0,
            ..operators
        };
        let found = check(&[wrong], &fenced.changes);
        assert_eq!(broken(&found), [Invariant::SumOfPool]);
    }

    #[test]
    fn what_is_reserved_or_rests_is_counted_apart() {
        let mut log = Log::default();
        log.changes = self::log();
        // One of them is held.
        log.reserve(reservation("192.0.2.2-192.0.2.3", "east"));
        let row = log.rest("192.0.2.0", v1::unavailable::Reason::ReuseDelay);
        let right = Usage {
            revision: 6,
            reserved: 1,
            draining: 1,
            free: 1,
            ..usage()
        };
        assert_eq!(check(std::slice::from_ref(&right), &log.changes), []);
        let swapped = Usage {
            reserved: 2,
            draining: 0,
            ..right.clone()
        };
        let found = check(&[swapped], &log.changes);
        assert_eq!(broken(&found), [Invariant::SumOfPool]);
        log.wake(&row);
        let later = Usage {
            revision: 7,
            draining: 0,
            free: 2,
            ..right
        };
        assert_eq!(check(&[later], &log.changes), []);
    }

    #[test]
    fn a_quota_that_miscounts_is_found() {
        let said = |held, each_namespace| {
            let mut log = Log::default();
            log.create(allocation("east/a", &["192.0.2.1"]));
            let mut other = allocation("east/b", &["192.0.2.2"]);
            other.owner.as_mut().expect("an owner").namespace = "other".to_owned();
            log.create(other);
            let usage = v1::quota::Usage {
                held,
                ..v1::quota::Usage::default()
            };
            let usage = QuotaUsage {
                revision: 2,
                quota: v1::Quota {
                    each_namespace,
                    usage: Some(usage),
                    ..quota("east", 5)
                },
            };
            broken(&check_quotas(&[usage], &log.changes))
        };
        assert_eq!(said(2, false), []);
        assert_eq!(said(1, true), []);
        assert_eq!(said(1, false), [Invariant::SumOfPool]);
        assert_eq!(said(2, true), [Invariant::SumOfPool]);
    }
}
