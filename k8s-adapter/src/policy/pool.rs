//! `IPAddressPool`: its ranges, and who may use it.

use std::net::IpAddr;

use ipnet::IpNet;
use pharos_proto::net::{address_bytes, parse_address};
use pharos_proto::v1;

use super::{Declared, FieldError, Problems, selector};
use crate::claim::Settings;
use crate::crd::{PoolSpec, ServiceAllocation};

/// One entry of `spec.addresses`, as numbers in which IPv4 lies at `::ffff:0:0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    first: u128,
    last: u128,
    text: String,
    field: String,
}

pub(super) fn convert(
    declared: &Declared<PoolSpec>,
    spec: &PoolSpec,
    settings: &Settings,
    problems: &mut Problems<'_>,
) -> v1::Pool {
    let none = ServiceAllocation::default();
    let who = spec.service_allocation.as_ref().unwrap_or(&none);
    problems.no_repetition("spec.serviceAllocation.namespaces", &who.namespaces);
    let priority = i32::try_from(who.priority).unwrap_or_else(|_| {
        problems.add("spec.serviceAllocation.priority", "is out of range");
        0
    });
    v1::Pool {
        name: declared.name.clone(),
        cluster: settings.cluster.clone(),
        address_space: settings.address_space.clone(),
        addresses: spec.addresses.clone(),
        auto_assign: Some(spec.auto_assign.unwrap_or(true)),
        avoid_buggy_ips: spec.avoid_buggy_ips,
        allocation_priority: priority,
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
        protected: false,
        usage: None,
        // MetalLB has no word for them.
        reuse_delay: None,
        reuse_unacknowledged: None,
        revision: 0,
    }
}

/// The ranges that can be read; what is wrong with the others is added to `problems`.
pub(super) fn ranges(spec: &PoolSpec, problems: &mut Problems<'_>) -> Vec<Range> {
    if spec.addresses.is_empty() {
        problems.add("spec.addresses", "pool has no prefixes defined");
    }
    let mut ranges = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        match parse(text) {
            Ok((first, last)) => ranges.push(Range {
                first: number(first),
                last: number(last),
                text: text.clone(),
                field,
            }),
            Err(message) => problems.add(field, message),
        }
    }
    ranges
}

/// Every range that overlaps one that was defined before it, in whatever pool.
pub(super) fn check_overlaps(ranges: &mut [(&str, Range)], errors: &mut Vec<FieldError>) {
    ranges.sort_by_key(|(_, range)| (range.first, range.last));
    // The range that reaches furthest so far; one that starts before its end overlaps it.
    let mut furthest: Option<&(&str, Range)> = None;
    for entry in ranges.iter() {
        let (pool, range) = entry;
        if let Some((other_pool, other)) = furthest
            && range.first <= other.last
        {
            errors.push(FieldError {
                object: format!("IPAddressPool {pool:?}"),
                field: range.field.clone(),
                message: format!(
                    "CIDR {:?} in pool {pool:?} overlaps with already defined CIDR {:?} in pool \
                     {other_pool:?}",
                    range.text, other.text
                ),
            });
        }
        if furthest.is_none_or(|(_, other)| range.last > other.last) {
            furthest = Some(entry);
        }
    }
}

fn parse(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let Some((start, end)) = text.split_once('-') else {
        return parse_cidr(text.trim()).ok_or_else(|| format!("invalid CIDR {text:?}"));
    };
    let bound = |name: &str, bound: &str| {
        parse_address(bound.trim()).map_err(|_| {
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
            "invalid IP range {text:?}: start IP is after the end IP"
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
