//! Address spaces: wire <-> domain.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use prost_types::FieldMask;

use super::convert_history::{time_from_wire, time_to_wire};
use super::convert_pool::{Written, ranges};
use super::fields::{FieldErrors, MAX_DESCRIPTION_BYTES};
use crate::state::address::AddressRange;
use crate::state::command::AddressSpaceFields;
use crate::state::model::{AddressSpace, Timestamp};
use crate::state::names::Name;

/// Most ranges of all grants of one address space: an edit writes the record as a whole.
const MAX_RANGES: usize = 10_000;

/// A record; `field` is the path of the message.
pub fn address_space_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::AddressSpace>,
) -> Option<AddressSpace> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let name = errors.name(at("name"), &wire.name);
    let description = &wire.description;
    let description = errors.text(at("description"), description, MAX_DESCRIPTION_BYTES);
    let grants = grants_from_wire(errors, &at("grants"), &wire.grants);
    let create_time = wire.create_time.as_ref().map(time_from_wire);
    Some(AddressSpace {
        name: name?,
        description: description?,
        grants: grants?,
        hide_holders: wire.hide_holders,
        create_time: create_time.unwrap_or(Timestamp(0)),
        revision: wire.revision,
    })
}

fn grants_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: &[v1::address_space::Grant],
) -> Option<BTreeMap<Name, Vec<AddressRange>>> {
    let all: usize = wire.iter().map(|grant| grant.ranges.len()).sum();
    if all > MAX_RANGES || wire.len() > MAX_RANGES {
        let message = format!("at most {MAX_RANGES} ranges are allowed in all");
        errors.add(field, message);
        return None;
    }
    let mut grants = BTreeMap::new();
    let mut named = BTreeSet::new();
    let mut good = true;
    for (index, grant) in wire.iter().enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        let cluster = errors.name(at("cluster"), &grant.cluster);
        if let Some(cluster) = &cluster
            && !named.insert(cluster.clone())
        {
            errors.add(at("cluster"), "has a grant already");
            good = false;
        }
        let ranges = ranges(errors, &at("ranges"), &grant.ranges, Written::OrOneAddress);
        let (Some(cluster), Some(mut ranges)) = (cluster, ranges) else {
            good = false;
            continue;
        };
        ranges.sort();
        grants.insert(cluster, ranges);
    }
    good.then_some(grants)
}

/// Which fields an update mask names; without one all of them.
pub fn fields_from_wire(
    errors: &mut FieldErrors,
    mask: Option<&FieldMask>,
) -> Option<AddressSpaceFields> {
    let Some(mask) = mask else {
        return Some(AddressSpaceFields::ALL);
    };
    let mut fields = AddressSpaceFields {
        description: false,
        grants: false,
        hide_holders: false,
    };
    if mask.paths.is_empty() {
        errors.add("update_mask", "must name a field where it is given");
        return None;
    }
    let mut good = true;
    for (index, path) in mask.paths.iter().enumerate() {
        match path.as_str() {
            "description" => fields.description = true,
            "grants" => fields.grants = true,
            "hide_holders" => fields.hide_holders = true,
            _ => {
                let path = format!("update_mask.paths[{index}]");
                errors.add(path, "must be description, grants or hide_holders");
                good = false;
            }
        }
    }
    good.then_some(fields)
}

/// A record, back to the wire.
pub fn address_space_to_wire(space: &AddressSpace) -> v1::AddressSpace {
    let grants = space.grants.iter();
    let grants = grants.map(|(cluster, ranges)| v1::address_space::Grant {
        cluster: cluster.to_string(),
        ranges: ranges.iter().map(|range| range.written()).collect(),
    });
    v1::AddressSpace {
        name: space.name.to_string(),
        description: space.description.clone(),
        grants: grants.collect(),
        hide_holders: space.hide_holders,
        revision: space.revision,
        create_time: Some(time_to_wire(space.create_time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::refusal::Rejection;

    fn grant(cluster: &str, ranges: &[&str]) -> v1::address_space::Grant {
        v1::address_space::Grant {
            cluster: cluster.to_owned(),
            ranges: ranges.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn wire(grants: Vec<v1::address_space::Grant>) -> v1::AddressSpace {
        v1::AddressSpace {
            name: "lab".to_owned(),
            grants,
            ..v1::AddressSpace::default()
        }
    }

    fn read(wire: &v1::AddressSpace) -> Result<AddressSpace, Rejection> {
        let mut errors = FieldErrors::new();
        let space = address_space_from_wire(&mut errors, "address_space", Some(wire));
        errors.finish(space)
    }

    #[test]
    fn grants_are_answered_by_cluster_sorted_and_as_cidrs() {
        let given = v1::AddressSpace {
            description: "two rooms".to_owned(),
            hide_holders: true,
            revision: 7,
            ..wire(vec![
                grant(
                    "west",
                    &["2001:db8::/64", " 192.0.2.9 - 192.0.2.12", "192.0.2.5"],
                ),
                grant("east", &["192.0.2.7/25"]),
            ])
        };
        let space = read(&given).expect("good");
        let answered = address_space_to_wire(&space);
        let expected = [
            grant("east", &["192.0.2.0/25"]),
            grant(
                "west",
                &["192.0.2.5/32", "192.0.2.9-192.0.2.12", "2001:db8::/64"],
            ),
        ];
        assert_eq!(answered.grants, expected);
        assert_eq!(read(&answered), Ok(space));
    }

    #[test]
    fn every_bad_field_of_an_address_space_is_named() {
        let bad = v1::AddressSpace {
            name: String::new(),
            description: "\n".to_owned(),
            ..wire(vec![
                grant("", &["192.0.2.0/24"]),
                grant("east", &["192.0.2.300"]),
                grant("west", &[]),
                grant("north", &["192.0.2.0/24", "192.0.2.9"]),
                grant("south", &["192.0.2.0/24"]),
                grant("south", &["198.51.100.0/24"]),
                grant("west", &[]),
            ])
        };
        let Err(Rejection::Invalid(bad)) = read(&bad) else {
            panic!("nothing of it is good");
        };
        let fields: Vec<&str> = bad.iter().map(|bad| bad.field.as_str()).collect();
        let expected = [
            "name",
            "description",
            "grants[0].cluster",
            "grants[1].ranges[0]",
            "grants[2].ranges",
            "grants[3].ranges[1]",
            "grants[5].cluster",
            "grants[6].cluster",
            "grants[6].ranges",
        ];
        assert_eq!(fields, expected.map(|name| format!("address_space.{name}")));
        let mut errors = FieldErrors::new();
        let mask = FieldMask {
            paths: vec!["grants".to_owned(), "name".to_owned()],
        };
        let fields = fields_from_wire(&mut errors, Some(&mask));
        let refused = errors.finish(fields).expect_err("a name does not change");
        assert!(refused.to_string().starts_with("update_mask.paths[1]: "));
    }
}
