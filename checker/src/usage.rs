//! How full a pool said it was (I6).

use std::collections::BTreeSet;
use std::net::IpAddr;

use pharos_proto::v1;

use crate::log::Replay;
use crate::{Invariant, Violation};

/// What one family of a pool said at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub revision: u64,
    pub space: String,
    /// For messages.
    pub pool: String,
    /// First and last address of each range of this family that the pool may give; disjoint.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    pub total: u128,
    pub held: u128,
    pub held_by_others: u128,
    /// Held by nobody, and not to be had now: reserved, draining, in its reuse delay.
    pub unavailable: u128,
    pub free: u128,
}

pub(crate) fn check(usages: &[Usage], log: &[v1::Change]) -> Vec<Violation> {
    let mut sorted: Vec<&Usage> = usages.iter().collect();
    sorted.sort_by_key(|usage| usage.revision);
    let mut replay = Replay::new(log);
    let mut violations = Vec::new();
    for usage in sorted {
        let Usage { revision, pool, .. } = usage;
        let size: u128 = usage.ranges.iter().map(|range| size(*range)).sum();
        let sum = usage.held + usage.held_by_others + usage.unavailable + usage.free;
        if usage.total != size || sum != size {
            let what = format!("{pool} of {size} at revision {revision} says {usage:?}");
            violations.push(Invariant::SumOfPool.broken(what));
        }
        let mut held: BTreeSet<IpAddr> = BTreeSet::new();
        for one in replay.advance(*revision).values() {
            if one.address_space == usage.space {
                let addresses = one.addresses.iter().filter_map(|text| text.parse().ok());
                held.extend(addresses.filter(|it| usage.ranges.iter().any(|r| within(*it, *r))));
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
}
