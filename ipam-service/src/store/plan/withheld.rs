//! Rows of reservations, and of what they withhold.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::{Cell, Plan, Statement};
use crate::api::convert_reservation::reservation_to_wire;
use crate::state::address::AddressRange;
use crate::state::change::Edit;
use crate::state::model::{Reservation, ReservationKey};

/// `unavailable.reason` of a range of a reservation.
pub(in crate::store) const RESERVED: i64 = 1;

impl Plan {
    pub(super) fn write_reservations(
        &mut self,
        edits: &BTreeMap<ReservationKey, Edit<Reservation>>,
    ) {
        for (key, edit) in edits {
            let (space, name) = (Cell::Text(&key.space), Cell::Text(&key.name));
            match (&edit.before, &edit.after) {
                (_, Some(after)) => {
                    let entry = reservation_to_wire(after).encode_to_vec();
                    let revision = Cell::number(after.revision);
                    let cells = [space, name, revision, Cell::bytes(&entry)];
                    self.row(Statement::UpsertReservation, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteReservation, &[space, name]),
                (None, None) => {}
            }
            let ranges = |side: Option<&Reservation>| {
                let ranges = side.map(|reservation| reservation.ranges.iter().copied());
                ranges
                    .into_iter()
                    .flatten()
                    .collect::<BTreeSet<AddressRange>>()
            };
            let old = ranges(edit.before.as_deref());
            let new = ranges(edit.after.as_deref());
            for range in old.difference(&new) {
                let first = range.first().to_bytes();
                let cells = [space, Cell::bytes(&first), Cell::Int(RESERVED)];
                self.row(Statement::DeleteUnavailable, &cells);
            }
            for range in new.difference(&old) {
                let (first, last) = (range.first().to_bytes(), range.last().to_bytes());
                let (first, last) = (Cell::bytes(&first), Cell::bytes(&last));
                let cells = [space, first, last, Cell::Int(RESERVED), name];
                self.row(Statement::InsertReserved, &cells);
            }
        }
    }
}
