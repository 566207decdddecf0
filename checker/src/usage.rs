//! How full a pool said it was (I6).

use std::collections::BTreeSet;
use std::net::IpAddr;

use pharos_proto::v1;
use pharos_proto::v1::change::Subject;

use crate::log::Replay;
use crate::{Invariant, Violation};

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
    /// Held by nobody, and not to be had now: reserved, draining, in its reuse delay.
    pub unavailable: u128,
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
        let sum = usage.held + usage.held_by_others + usage.unavailable + usage.free;
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
            let (first, last) = (grant.0.max(pool.0), grant.1.min(pool.1));
            if grant.0.is_ipv4() == pool.0.is_ipv4() && first <= last {
                parts.push((first, last));
            }
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

/// `192.0.2.0/28` or `192.0.2.1-192.0.2.9`.
fn range_of(text: &str) -> (IpAddr, IpAddr) {
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address in the log");
    if let Some((first, last)) = text.split_once('-') {
        return (parse(first), parse(last));
    }
    let (first, length) = text.split_once('/').expect("a range in the log");
    let length: u32 = length.parse().expect("a length in the log");
    let first = parse(first);
    let host = |width: u32| u128::MAX.checked_shr(128 - (width - length)).unwrap_or(0);
    let last = match first {
        IpAddr::V4(v4) => {
            let host = u32::try_from(host(32)).expect("32 bits");
            IpAddr::V4((v4.to_bits() | host).into())
        }
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() | host(128)).into()),
    };
    (first, last)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn size((first, last): (IpAddr, IpAddr)) -> u128 {
    bits(last) - bits(first) + 1
}

fn within(address: IpAddr, (first, last): (IpAddr, IpAddr)) -> bool {
    address.is_ipv4() == first.is_ipv4() && (first..=last).contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, allocation, broken, shared};

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
            unavailable: 1,
            free: 2,
            outside_grant: 0,
        }
    }

    #[test]
    fn a_sum_that_is_the_size_of_the_pool_is_right_and_a_shared_address_counts_once() {
        assert_eq!(check(&[usage()], &log()), []);
        let before = Usage {
            revision: 1,
            held_by_others: 0,
            free: 3,
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
            free: 3,
            ..usage()
        };
        assert_eq!(broken(&check(&[total], &log())), [Invariant::SumOfPool]);
    }

    #[test]
    fn what_is_held_and_not_counted_is_found() {
        let wrong = Usage {
            held_by_others: 0,
            free: 3,
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
            unavailable: 0,
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
            ..operators
        };
        let found = check(&[wrong], &fenced.changes);
        assert_eq!(broken(&found), [Invariant::SumOfPool]);
    }
}
