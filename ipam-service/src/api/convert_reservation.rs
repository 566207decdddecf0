//! Reservations: wire <-> domain.

use pharos_proto::v1;

use super::convert_history::{time_from_wire, time_to_wire};
use super::convert_pool::{Written, ranges};
use super::fields::{FieldErrors, MAX_DESCRIPTION_BYTES};
use crate::state::model::{OwnerScope, Reservation, ReservationKey, Timestamp};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// A reservation; `field` is the path of the message.
pub fn reservation_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::Reservation>,
) -> Option<Reservation> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let space = errors.space(at("address_space"), &wire.address_space);
    let name = errors.name(at("name"), &wire.name);
    let ranges = ranges(
        errors,
        &at("addresses"),
        &wire.addresses,
        Written::OrOneAddress,
    );
    let kept_for = match &wire.kept_for {
        None => Some(None),
        Some(scope) => scope_from_wire(errors, &at("kept_for"), scope).map(Some),
    };
    let description = &wire.description;
    let description = errors.text(at("description"), description, MAX_DESCRIPTION_BYTES);
    let addresses = wire.addresses.iter().map(|text| text.trim().to_owned());
    let create_time = wire.create_time.as_ref().map(time_from_wire);
    Some(Reservation {
        key: ReservationKey {
            space: space?,
            name: name?,
        },
        addresses: addresses.collect(),
        ranges: ranges?,
        kept_for: kept_for?,
        description: description?,
        create_time: create_time.unwrap_or(Timestamp(0)),
        revision: wire.revision,
    })
}

fn scope_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: &v1::KeptFor,
) -> Option<OwnerScope> {
    let cluster = errors.name(format!("{field}.cluster"), &wire.cluster);
    let namespace = errors.optional_name(format!("{field}.namespace"), &wire.namespace);
    let name = errors.optional_name(format!("{field}.name"), &wire.name);
    Some(OwnerScope {
        cluster: cluster?,
        namespace: namespace?,
        name: name?,
    })
}

/// A reservation, back to the wire.
pub fn reservation_to_wire(reservation: &Reservation) -> v1::Reservation {
    v1::Reservation {
        name: reservation.key.name.to_string(),
        address_space: reservation.key.space.to_string(),
        addresses: reservation.addresses.clone(),
        kept_for: reservation.kept_for.as_ref().map(scope_to_wire),
        description: reservation.description.clone(),
        revision: reservation.revision,
        create_time: Some(time_to_wire(reservation.create_time)),
    }
}

fn scope_to_wire(scope: &OwnerScope) -> v1::KeptFor {
    let text = |name: &Option<Name>| name.as_ref().map_or_else(String::new, Name::to_string);
    v1::KeptFor {
        cluster: scope.cluster.to_string(),
        namespace: text(&scope.namespace),
        name: text(&scope.name),
    }
}

/// The key of a reservation that a request names in `address_space` and `name`.
pub fn reservation_key(space: &str, name: &str) -> Result<ReservationKey, Rejection> {
    let mut errors = FieldErrors::new();
    let (space, name) = (
        errors.space("address_space", space),
        errors.name("name", name),
    );
    let key = space
        .zip(name)
        .map(|(space, name)| ReservationKey { space, name });
    errors.finish(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &v1::Reservation) -> Result<Reservation, Rejection> {
        let mut errors = FieldErrors::new();
        let reservation = reservation_from_wire(&mut errors, "reservation", Some(wire));
        errors.finish(reservation)
    }

    #[test]
    fn a_reservation_is_of_addresses_cidrs_and_ranges_of_both_families() {
        let wire = v1::Reservation {
            name: "r".to_owned(),
            addresses: [
                "192.0.2.5",
                "192.0.2.16/28",
                "2001:db8::1",
                "2001:db8::a - 2001:db8::c",
            ]
            .map(str::to_owned)
            .to_vec(),
            kept_for: Some(v1::KeptFor {
                cluster: "east".to_owned(),
                ..v1::KeptFor::default()
            }),
            ..v1::Reservation::default()
        };
        let reservation = read(&wire).expect("valid");
        let ranges: Vec<String> = reservation.ranges.iter().map(ToString::to_string).collect();
        let expected = [
            "192.0.2.5-192.0.2.5",
            "192.0.2.16-192.0.2.31",
            "2001:db8::1-2001:db8::1",
            "2001:db8::a-2001:db8::c",
        ];
        assert_eq!(ranges, expected);
        let again = reservation_to_wire(&reservation);
        assert_eq!(read(&again), Ok(reservation));
    }

    #[test]
    fn every_bad_field_of_a_reservation_is_named() {
        let wire = v1::Reservation {
            name: String::new(),
            addresses: ["192.0.2.300", "192.0.2.8/30", "192.0.2.9"]
                .map(str::to_owned)
                .to_vec(),
            kept_for: Some(v1::KeptFor::default()),
            description: "\n".to_owned(),
            ..v1::Reservation::default()
        };
        let Err(Rejection::Invalid(bad)) = read(&wire) else {
            panic!("nothing of it is good");
        };
        let fields: Vec<&str> = bad.iter().map(|bad| bad.field.as_str()).collect();
        let expected = [
            "reservation.name",
            "reservation.addresses[0]",
            "reservation.kept_for.cluster",
            "reservation.description",
        ];
        assert_eq!(fields, expected);
        let wire = v1::Reservation {
            name: "r".to_owned(),
            addresses: ["192.0.2.8/30", "192.0.2.9"].map(str::to_owned).to_vec(),
            ..v1::Reservation::default()
        };
        let refused = read(&wire).expect_err("they overlap").to_string();
        let expected = "reservation.addresses[1]: overlaps reservation.addresses[0] (192.0.2.8/30)";
        assert_eq!(refused, expected);
    }
}
