//! `IPAddressPool`: its ranges, and who may use it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use pharos_proto::net::address_bytes;
use pharos_proto::v1;

use super::findings::{Finding, Problems};
use super::limits::MAX_RANGES;
use super::objects::{ResourceKind, Subject};
use super::{Declared, limits, own, selector};
use crate::claim::Settings;
use crate::crd::{PoolSpec, ServiceAllocation};

/// A pool, and what of it matters to other objects.
#[derive(Debug, Clone)]
pub(super) struct Pool<'a> {
    pub(super) name: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    /// Those that can be read.
    pub(super) ranges: Vec<Range>,
    pub(super) message: v1::Pool,
}

/// One entry of `spec.addresses`, as numbers in which IPv4 lies at `::ffff:0:0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u128,
    pub(super) last: u128,
    /// Length of the shortest prefix that lies in it.
    pub(super) prefix: u8,
    pub(super) text: String,
    pub(super) field: String,
    /// As ipam-service reads it.
    given: String,
    is_ipv4: bool,
}

impl Range {
    pub(super) fn is_ipv4(&self) -> bool {
        self.is_ipv4
    }
}

pub(super) fn parse<'a>(
    declared: &'a Declared<PoolSpec>,
    spec: &PoolSpec,
    settings: &Settings,
    problems: &mut Problems<'_>,
) -> Pool<'a> {
    let ranges = ranges(&declared.name, spec, problems);
    let mut message = convert(declared, spec, &ranges, settings, problems);
    own::pool(&mut message, &declared.annotations, problems);
    Pool {
        name: &declared.name,
        labels: &declared.labels,
        ranges,
        message,
    }
}

fn convert(
    declared: &Declared<PoolSpec>,
    spec: &PoolSpec,
    ranges: &[Range],
    settings: &Settings,
    problems: &mut Problems<'_>,
) -> v1::Pool {
    let none = ServiceAllocation::default();
    let who = spec.service_allocation.as_ref().unwrap_or(&none);
    let namespaces = "spec.serviceAllocation.namespaces";
    let words = "duplicate definition in namespaces field";
    problems.no_repetition_or(words, namespaces, &who.namespaces);
    limits::check_names(namespaces, &who.namespaces, problems);
    v1::Pool {
        name: declared.name.clone(),
        cluster: settings.cluster.clone(),
        address_space: settings.address_space.clone(),
        addresses: ranges.iter().map(|range| range.given.clone()).collect(),
        auto_assign: Some(spec.auto_assign.unwrap_or(true)),
        avoid_buggy_ips: spec.avoid_buggy_ips,
        allocation_priority: priority(who.priority, problems),
        namespaces: who.namespaces.clone(),
        namespace_selectors: selector::convert_all(
            "spec.serviceAllocation.namespaceSelectors",
            &who.namespace_selectors,
            problems,
        ),
        service_selectors: selector::convert_all(
            "spec.serviceAllocation.serviceSelectors",
            &who.service_selectors,
            problems,
        ),
        labels: declared.labels.clone().into_iter().collect(),
        // MetalLB has no word for what follows: see `own`.
        protected: false,
        usage: None,
        reuse_delay: None,
        reuse_unacknowledged: None,
        revision: 0,
    }
}

/// Zero and below mean none, as in MetalLB.
fn priority(declared: i64, problems: &mut Problems<'_>) -> i32 {
    i32::try_from(declared.max(0)).unwrap_or_else(|_| {
        let message = format!("counts as {}", i32::MAX);
        problems.warn("spec.serviceAllocation.priority", message);
        i32::MAX
    })
}

/// The ranges that can be read; what is wrong with the others is added to `problems`.
fn ranges(pool: &str, spec: &PoolSpec, problems: &mut Problems<'_>) -> Vec<Range> {
    if spec.addresses.is_empty() {
        problems.add("spec.addresses", "pool has no prefixes defined");
    }
    if spec.addresses.len() > MAX_RANGES {
        let message = format!("at most {MAX_RANGES} ranges are allowed");
        problems.add("spec.addresses", message);
    }
    let mut ranges = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        match bounds(text) {
            Ok((first, last)) => ranges.push(Range {
                first: number(first),
                last: number(last),
                prefix: shortest_prefix(first, last),
                text: text.clone(),
                field,
                given: if text.contains('-') {
                    format!("{first}-{last}")
                } else {
                    text.trim().to_owned()
                },
                is_ipv4: first.is_ipv4(),
            }),
            Err(message) => {
                let message = format!("invalid CIDR {text:?} in pool {pool:?}: {message}");
                problems.add(field, message);
            }
        }
    }
    ranges
}

/// Every range that overlaps another, in whatever pool of its address space: addresses of different
/// spaces are different.
pub(super) fn check_overlaps(pools: &[Pool<'_>], findings: &mut Vec<Finding>) {
    let mut spaces: BTreeMap<&str, Vec<(&str, &Range)>> = BTreeMap::new();
    for pool in pools {
        let named = pool.ranges.iter().map(|range| (pool.name, range));
        let space = spaces.entry(&pool.message.address_space).or_default();
        space.extend(named);
    }
    for ranges in spaces.into_values() {
        check_overlaps_within(ranges, findings);
    }
}

/// The ranges of one address space, with the names of their pools.
fn check_overlaps_within(mut ranges: Vec<(&str, &Range)>, findings: &mut Vec<Finding>) {
    ranges.sort_by_key(|(pool, range)| (range.first, range.last, *pool, &range.field));
    // The range that reaches furthest so far; one that starts before its end overlaps it.
    let mut furthest: Option<(&str, &Range)> = None;
    for (index, (pool, range)) in ranges.iter().enumerate() {
        let before = furthest.filter(|(_, other)| range.first <= other.last);
        let after = ranges.get(index + 1).copied();
        let after = after.filter(|(_, other)| other.first <= range.last);
        if let Some((other_pool, other)) = before.or(after) {
            let message = format!(
                "CIDR {:?} in pool {pool:?} overlaps with already defined CIDR {:?} in pool \
                 {other_pool:?}",
                range.text, other.text
            );
            let other = Some(Subject::new(ResourceKind::Pool, other_pool));
            let with = other.filter(|other| other.name != *pool);
            Problems::new(ResourceKind::Pool, pool, findings).add_with(
                range.field.clone(),
                message,
                with.into_iter().collect(),
            );
        }
        if furthest.is_none_or(|(_, other)| range.last > other.last) {
            furthest = Some((pool, range));
        }
    }
}

/// Of those that make up a range.
fn shortest_prefix(first: IpAddr, last: IpAddr) -> u8 {
    let subnets = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)),
        (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("both ends of a range are of one family")
        }
    };
    let lengths = subnets.map(|subnet| subnet.prefix_len());
    lengths.min().expect("a range is not empty")
}

fn bounds(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => parse_range(text, start, end)?,
        None => parse_cidr(text.trim()).ok_or_else(|| format!("invalid CIDR {text:?}"))?,
    };
    let ipv4 = number(Ipv4Addr::UNSPECIFIED.into());
    if start.is_ipv6() && number(start) < ipv4 && number(end) >= ipv4 {
        let message = "the IPv4-mapped addresses (::ffff:0:0/96) lie within it";
        return Err(format!("invalid IP range {text:?}: {message}"));
    }
    Ok((start, end))
}

/// An IPv4-mapped address is another name of an IPv4 address, as in MetalLB.
fn parse_range(text: &str, start: &str, end: &str) -> Result<(IpAddr, IpAddr), String> {
    let bound = |name: &str, bound: &str| {
        let address: Result<IpAddr, _> = bound.trim().parse();
        address.map(|address| address.to_canonical()).map_err(|_| {
            format!(
                "invalid IP range {text:?}: invalid {name} IP {:?}",
                bound.trim()
            )
        })
    };
    let (start, end) = (bound("start", start)?, bound("end", end)?);
    if start.is_ipv4() != end.is_ipv4() {
        return Err(format!(
            "invalid IP range {text:?}: start and end are of different families"
        ));
    }
    if start > end {
        return Err(format!(
            "invalid IP range {text:?}: start IP \"{start}\" is after the end IP \"{end}\""
        ));
    }
    Ok((start, end))
}

/// Host bits are masked off, as in MetalLB. A lone address is no CIDR.
fn parse_cidr(text: &str) -> Option<(IpAddr, IpAddr)> {
    let net: IpNet = text.parse().ok()?;
    match net.addr() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        IpAddr::V4(_) | IpAddr::V6(_) => Some((net.network(), net.broadcast())),
    }
}

fn number(address: IpAddr) -> u128 {
    u128::from_be_bytes(address_bytes(address))
}
