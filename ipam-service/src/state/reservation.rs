//! What ApplyReservation and DeleteReservation change, and whom that wakes.

use std::sync::Arc;

use super::State;
use super::address::AddressRange;
use super::change::Edit;
use super::draft::Draft;
use super::model::{Reservation, ReservationKey};
use super::refusal::{InvalidField, Rejection};

/// Creates or replaces a reservation. An equal one changes nothing, and holders stay where they are.
///
/// # Errors
/// [`Rejection::Invalid`] if it has an address in common with another one.
pub(super) fn apply(draft: &mut Draft<'_>, wanted: &Reservation) -> Result<(), Rejection> {
    let state = draft.state;
    let invalid = overlaps(state, wanted);
    if !invalid.is_empty() {
        return Err(Rejection::Invalid(invalid));
    }
    let known = state.reservation(&wanted.key);
    let wanted = Reservation {
        create_time: known.map_or(draft.now, |known| known.create_time),
        revision: known.map_or(0, |known| known.revision),
        ..wanted.clone()
    };
    if known.map(Arc::as_ref) != Some(&wanted) {
        draft.put_reservation(known, wanted);
    }
    Ok(())
}

/// # Errors
/// [`Rejection::UnknownReservation`]
pub(super) fn delete(draft: &mut Draft<'_>, key: &ReservationKey) -> Result<(), Rejection> {
    let Some(known) = draft.state.reservation(key) else {
        return Err(Rejection::UnknownReservation(key.clone()));
    };
    draft.drop_reservation(known);
    Ok(())
}

/// Every range that has an address in common with another reservation of the space.
fn overlaps(state: &State, wanted: &Reservation) -> Vec<InvalidField> {
    let space = state.space(&wanted.key.space);
    let mut invalid = Vec::new();
    for (index, range) in wanted.ranges.iter().enumerate() {
        let Some((other, hit)) = space.overlapping_reservation(*range, wanted) else {
            continue;
        };
        let written = |of: &Reservation, range: AddressRange| {
            let place = of.ranges.iter().position(|one| *one == range);
            let text = place.and_then(|place| of.addresses.get(place).cloned());
            text.unwrap_or_else(|| range.to_string())
        };
        invalid.push(InvalidField {
            field: format!("reservation.addresses[{index}]"),
            message: format!(
                "{} overlaps {} of reservation \"{}\"",
                written(wanted, *range),
                written(other, hit),
                other.key.name
            ),
        });
    }
    invalid
}

impl State {
    /// Marks those whom an edit of a reservation can concern: who waits for an address in it, or
    /// names it.
    pub(super) fn mark_for_reservation(&mut self, edit: &Edit<Reservation>) {
        for reservation in [&edit.before, &edit.after].into_iter().flatten() {
            let key = &reservation.key;
            self.waiting.mark_for_reservation(key);
            self.waiting
                .mark_for_ranges(&self.pools, &key.space, &reservation.ranges);
        }
    }
}

#[cfg(test)]
mod tests;
