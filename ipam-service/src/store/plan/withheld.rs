//! Rows of reservations, and of what they withhold.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::{Cell, Plan, Statement};
use crate::api::convert_announce::assignments::node_set_to_wire;
use crate::api::convert_reservation::reservation_to_wire;
use crate::api::convert_unavailable::unavailable_to_wire;
use crate::state::address::AddressRange;
use crate::state::change::Edit;
use crate::state::model::{
    Reservation, ReservationKey, Unavailable, UnavailableKey, UnavailableReason,
};

/// `unavailable.reason` of a range of a reservation.
pub(in crate::store) const RESERVED: i64 = 1;

/// `unavailable.reason`.
fn code(reason: UnavailableReason) -> i64 {
    match reason {
        UnavailableReason::Draining => 2,
        UnavailableReason::ReuseDelay => 3,
        UnavailableReason::Quarantined => 4,
    }
}

impl Plan {
    pub(super) fn write_unavailable(
        &mut self,
        edits: &BTreeMap<UnavailableKey, Edit<Unavailable>>,
    ) {
        for (key, edit) in edits {
            let address = key.address.to_bytes();
            let (space, address) = (Cell::Text(&key.space), Cell::bytes(&address));
            let reason = Cell::Int(code(key.reason));
            if let Some(before) = &edit.before {
                self.row(Statement::DeleteUnavailable, &[space, address, reason]);
                if let Some((_, set)) = &before.awaited {
                    let id = set.id.to_be_bytes();
                    self.row(Statement::DeleteAwaited, &[Cell::bytes(&id)]);
                }
            }
            let Some(after) = &edit.after else {
                continue;
            };
            let id = after.awaited.as_ref().map(|(_, set)| set.id.to_be_bytes());
            let id = id.as_ref().map(|id| &id[..]);
            if let (Some((_, set)), Some(id)) = (&after.awaited, id) {
                let entry = node_set_to_wire(set).encode_to_vec();
                let cells = [Cell::bytes(id), Cell::bytes(&entry)];
                self.row(Statement::InsertAwaited, &cells);
            }
            let entry = unavailable_to_wire(after).encode_to_vec();
            let cells = [space, address, reason, Cell::Blob(id), Cell::bytes(&entry)];
            self.row(Statement::InsertUnavailable, &cells);
        }
    }

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
