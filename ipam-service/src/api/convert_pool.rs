//! Pools: wire <-> domain.

use std::collections::BTreeSet;
use std::time::Duration;

use pharos_proto::v1;

use super::convert_unavailable::{duration_from_wire, duration_to_wire};
use super::fields::{FieldErrors, labels_to_wire, selectors_to_wire};
use crate::state::REUSE_UNACKNOWLEDGED;
use crate::state::address::{Address, AddressRange, InvalidRange};
use crate::state::command::InUse;
use crate::state::model::{Pool, PoolKey};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// Longest range in bytes: two IPv6 addresses have 79 with the `-` between them.
const MAX_RANGE_BYTES: usize = 128;

/// Longest `reuse_delay`: an address that rests longer is better reserved.
const MAX_REUSE_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest `reuse_unacknowledged`: so long the server remembers which nodes may still answer.
const MAX_REUSE_UNACKNOWLEDGED: Duration = Duration::from_secs(3600);

/// Most ranges of one pool. A pool is read as a whole at every edit; a larger set is several pools.
const MAX_RANGES: usize = 1000;

/// A pool; `field` is the path of the message.
pub fn pool_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::Pool>,
) -> Option<Pool> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let key = key_fields(errors, &at, &wire.address_space, &wire.cluster, &wire.name);
    let texts = &wire.addresses;
    let ranges = ranges(errors, &at("addresses"), texts, Written::AsRange);
    if wire.allocation_priority < 0 {
        errors.add(at("allocation_priority"), "must not be negative");
    }
    let namespaces: Vec<Option<Name>> = wire
        .namespaces
        .iter()
        .enumerate()
        .map(|(index, name)| errors.name(format!("{field}.namespaces[{index}]"), name))
        .collect();
    let namespace_selectors =
        errors.selectors(&at("namespace_selectors"), &wire.namespace_selectors);
    let service_selectors = errors.selectors(&at("service_selectors"), &wire.service_selectors);
    let labels = errors.labels(&at("labels"), &wire.labels);
    let delay = wire.reuse_delay.as_ref();
    let delay = duration_from_wire(errors, &at("reuse_delay"), delay, MAX_REUSE_DELAY);
    let field = at("reuse_unacknowledged");
    let unacknowledged = wire.reuse_unacknowledged.as_ref();
    let unacknowledged =
        duration_from_wire(errors, &field, unacknowledged, MAX_REUSE_UNACKNOWLEDGED);
    Some(Pool {
        key: key?,
        addresses: wire
            .addresses
            .iter()
            .map(|text| text.trim().to_owned())
            .collect(),
        ranges: ranges?,
        auto_assign: wire.auto_assign.unwrap_or(true),
        avoid_buggy_ips: wire.avoid_buggy_ips,
        priority: wire.allocation_priority,
        namespaces: namespaces.into_iter().collect::<Option<BTreeSet<_>>>()?,
        namespace_selectors: namespace_selectors?,
        service_selectors: service_selectors?,
        labels: labels?,
        protected: wire.protected,
        reuse_delay: delay?.unwrap_or_default(),
        reuse_unacknowledged: unacknowledged?.unwrap_or(REUSE_UNACKNOWLEDGED),
        revision: wire.revision,
    })
}

/// How a range may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// As MetalLB wants it: a CIDR, or `first-last`.
    AsRange,
    /// Also as a single address.
    OrOneAddress,
}

/// Disjoint ranges, in the order in which they are written.
pub(super) fn ranges(
    errors: &mut FieldErrors,
    field: &str,
    wire: &[String],
    written: Written,
) -> Option<Vec<AddressRange>> {
    if wire.is_empty() {
        errors.add(field, "must not be empty");
        return None;
    }
    if wire.len() > MAX_RANGES {
        errors.add(field, format!("at most {MAX_RANGES} ranges are allowed"));
        return None;
    }
    let mut ranges: Vec<AddressRange> = Vec::with_capacity(wire.len());
    let mut good = true;
    for (index, text) in wire.iter().enumerate() {
        let path = format!("{field}[{index}]");
        // What is written is kept and shown: it must not be longer than the range that it means.
        let text = errors.text(&path, text.trim(), MAX_RANGE_BYTES);
        match text.map(|text| range(&text, written)) {
            Some(Ok(range)) => ranges.push(range),
            Some(Err(error)) => {
                errors.add(path, error);
                good = false;
            }
            None => good = false,
        }
    }
    if !good {
        return None;
    }
    // Sorted by their start, only neighbours can overlap first.
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|index| ranges[*index]);
    for pair in order.windows(2) {
        let (one, other) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        if ranges[one].overlaps(ranges[other]) {
            let message = format!("overlaps {field}[{one}] ({})", wire[one].trim());
            errors.add(format!("{field}[{other}]"), message);
            good = false;
        }
    }
    good.then_some(ranges)
}

fn range(text: &str, written: Written) -> Result<AddressRange, InvalidRange> {
    if written == Written::OrOneAddress
        && let Ok(address) = pharos_proto::net::parse_address(text)
    {
        let address = Address::from(address);
        return Ok(AddressRange::new(address, address).expect("one address is a range"));
    }
    AddressRange::parse(text)
}

/// The key of a pool that a request names in `address_space`, `cluster` and `name`.
pub fn pool_key(space: &str, cluster: &str, name: &str) -> Result<PoolKey, Rejection> {
    let mut errors = FieldErrors::new();
    let key = key_fields(&mut errors, &|name| name.to_owned(), space, cluster, name);
    errors.finish(key)
}

fn key_fields(
    errors: &mut FieldErrors,
    at: &dyn Fn(&str) -> String,
    space: &str,
    cluster: &str,
    name: &str,
) -> Option<PoolKey> {
    let space = errors.space(at("address_space"), space);
    let cluster = errors.optional_name(at("cluster"), cluster);
    let name = errors.name(at("name"), name);
    Some(PoolKey::new(space?, cluster?, name?))
}

/// `if_in_use`.
pub fn in_use_from_wire(errors: &mut FieldErrors, wire: i32) -> Option<InUse> {
    match v1::in_use::Policy::try_from(wire) {
        Ok(v1::in_use::Policy::Unspecified | v1::in_use::Policy::Refuse) => Some(InUse::Refuse),
        Ok(v1::in_use::Policy::Move) => Some(InUse::Move),
        Err(_) => {
            errors.add("if_in_use", format!("unknown value {wire}"));
            None
        }
    }
}

/// A pool, back to the wire, without its usage.
pub fn pool_to_wire(pool: &Pool) -> v1::Pool {
    v1::Pool {
        name: pool.key.name.as_str().to_owned(),
        cluster: pool
            .key
            .cluster
            .as_ref()
            .map_or_else(String::new, |cluster| cluster.as_str().to_owned()),
        address_space: pool.key.space.as_str().to_owned(),
        addresses: pool.addresses.clone(),
        auto_assign: Some(pool.auto_assign),
        avoid_buggy_ips: pool.avoid_buggy_ips,
        allocation_priority: pool.priority,
        namespaces: pool.namespaces.iter().map(Name::to_string).collect(),
        namespace_selectors: selectors_to_wire(&pool.namespace_selectors),
        service_selectors: selectors_to_wire(&pool.service_selectors),
        labels: labels_to_wire(&pool.labels),
        usage: None,
        protected: pool.protected,
        reuse_delay: Some(duration_to_wire(pool.reuse_delay)),
        reuse_unacknowledged: Some(duration_to_wire(pool.reuse_unacknowledged)),
        revision: pool.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pool_leaves_out_has_its_default_and_what_it_says_counts() {
        let read = |wire: v1::Pool| {
            let mut errors = FieldErrors::new();
            let wire = v1::Pool {
                name: "p".to_owned(),
                addresses: vec!["192.0.2.0/24".to_owned()],
                ..wire
            };
            let pool = pool_from_wire(&mut errors, "pool", Some(&wire));
            errors.finish(pool).expect("a pool")
        };
        let least = read(v1::Pool::default());
        assert_eq!(
            least.key.space.as_str(),
            pharos_proto::DEFAULT_ADDRESS_SPACE
        );
        assert_eq!(least.key.cluster, None);
        assert!(least.auto_assign && !least.avoid_buggy_ips && !least.protected);
        let waits = (least.reuse_delay, least.reuse_unacknowledged);
        assert_eq!(waits, (Duration::ZERO, Duration::from_secs(300)));
        let none = prost_types::Duration::default();
        let said = read(v1::Pool {
            auto_assign: Some(false),
            reuse_unacknowledged: Some(none),
            ..v1::Pool::default()
        });
        assert!(!said.auto_assign);
        assert_eq!(said.reuse_unacknowledged, Duration::ZERO);
        // Who says nothing of holders moves none.
        let mut errors = FieldErrors::new();
        assert_eq!(in_use_from_wire(&mut errors, 0), Some(InUse::Refuse));
    }

    #[test]
    fn every_bad_range_is_named() {
        let padded = format!("192.0.2.1{}-192.0.2.2", " ".repeat(1000));
        let texts = [
            "192.0.2.0/33",
            &padded,
            "192.0.2.8-\n192.0.2.9",
            " 192.0.2.4/30\n",
        ];
        let wire = v1::Pool {
            name: "p".to_owned(),
            addresses: texts.map(str::to_owned).to_vec(),
            ..v1::Pool::default()
        };
        let mut errors = FieldErrors::new();
        let pool = pool_from_wire(&mut errors, "pool", Some(&wire));
        let Err(Rejection::Invalid(bad)) = errors.finish(pool) else {
            panic!("three of them are bad");
        };
        let fields: Vec<&str> = bad.iter().map(|bad| bad.field.as_str()).collect();
        let expected = [
            "pool.addresses[0]",
            "pool.addresses[1]",
            "pool.addresses[2]",
        ];
        assert_eq!(fields, expected);
    }
}
