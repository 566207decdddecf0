//! ReservationService.

use std::ops::Bound;
use std::sync::Arc;

use pharos_proto::v1;
use pharos_proto::v1::reservation_service_server::ReservationService;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer};
use super::consequences;
use super::convert_reservation::{reservation_from_wire, reservation_key, reservation_to_wire};
use super::convert_unavailable::unavailable_to_wire;
use super::fields::FieldErrors;
use super::listing::{Asked, list};
use super::paging::{PageToken, page_size};
use super::status;
use crate::engine::{Left, Reply};
use crate::state::State;
use crate::state::address::Address;
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{
    Reservation, ReservationKey, Unavailable, UnavailableKey, UnavailableReason,
};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// Rows that are looked at for one page: it is read on the writer, and most rows may be of another
/// reason than the one that is asked for. A page with fewer rows than it may have is not the last.
const LOOKED_AT: usize = 10_000;

/// Serves ReservationService.
#[derive(Debug, Clone)]
pub struct Reservations(pub Api);

#[tonic::async_trait]
impl ReservationService for Reservations {
    async fn apply_reservation(
        &self,
        request: Request<v1::ApplyReservationRequest>,
    ) -> Result<Response<v1::ApplyReservationResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.apply(&call, &message).await)
    }

    async fn get_reservation(
        &self,
        request: Request<v1::GetReservationRequest>,
    ) -> Result<Response<v1::GetReservationResponse>, Status> {
        let message = request.into_inner();
        let key = reservation_key(&message.address_space, &message.name)
            .map_err(|error| status::of_rejection(&error))?;
        let Some(reservation) = self.stored(key.clone()).await? else {
            return Err(status::of_rejection(&Rejection::UnknownReservation(key)));
        };
        Ok(Response::new(v1::GetReservationResponse {
            reservation: Some(reservation),
        }))
    }

    async fn list_reservations(
        &self,
        request: Request<v1::ListReservationsRequest>,
    ) -> Result<Response<v1::ListReservationsResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        errors.optional_name("address_space", &message.address_space);
        errors.optional_name("cluster", &message.cluster);
        errors
            .finish(Some(()))
            .map_err(|error| status::of_rejection(&error))?;
        let asked = Asked {
            page_size: message.page_size,
            page_token: &message.page_token,
        };
        let shape = ("reservations", &message.cluster, &message.address_space);
        let (cluster, space) = (message.cluster.clone(), message.address_space.clone());
        let read = move |state: &State, after: Option<&ReservationKey>, most| {
            let after = after.map_or(Bound::Unbounded, Bound::Excluded);
            let asked_for = |one: &&Arc<Reservation>| {
                let of = one.kept_for.as_ref().map(|scope| scope.cluster.as_str());
                (cluster.is_empty() || of == Some(&cluster))
                    && (space.is_empty() || one.key.space.as_str() == space)
            };
            let found = state.reservations_after(after).filter(asked_for);
            let found = found.map(|one| (one.key.clone(), reservation_to_wire(one)));
            found.take(most).collect()
        };
        let (page, next_page_token) = list(&self.0, asked, &shape, read).await?;
        Ok(Response::new(v1::ListReservationsResponse {
            reservations: page,
            next_page_token,
        }))
    }

    async fn delete_reservation(
        &self,
        request: Request<v1::DeleteReservationRequest>,
    ) -> Result<Response<v1::DeleteReservationResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.delete(&call, &message).await)
    }

    async fn list_unavailable(
        &self,
        request: Request<v1::ListUnavailableRequest>,
    ) -> Result<Response<v1::ListUnavailableResponse>, Status> {
        let listed = self.listed_unavailable(&request.into_inner()).await?;
        Ok(Response::new(listed))
    }

    async fn clear_unavailable(
        &self,
        request: Request<v1::ClearUnavailableRequest>,
    ) -> Result<Response<v1::ClearUnavailableResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.clear(&call, &message).await)
    }
}

impl Reservations {
    async fn apply(
        &self,
        call: &Call,
        message: &v1::ApplyReservationRequest,
    ) -> Result<v1::ApplyReservationResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let wire = message.reservation.as_ref();
        let reservation = reservation_from_wire(&mut errors, "reservation", wire);
        let reservation = errors
            .finish(reservation)
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::ApplyReservation(Box::new(reservation));
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::ApplyReservationResponse {
            reservation: left(&reply),
            consequences: consequences::of(&reply),
        })
    }

    async fn delete(
        &self,
        call: &Call,
        message: &v1::DeleteReservationRequest,
    ) -> Result<v1::DeleteReservationResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        errors
            .finish(Some(()))
            .map_err(|error| status::of_rejection(&error))?;
        let key = reservation_key(&message.address_space, &message.name)
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::DeleteReservation(key);
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::DeleteReservationResponse {
            consequences: consequences::of(&reply),
        })
    }

    async fn stored(&self, key: ReservationKey) -> Result<Option<v1::Reservation>, Status> {
        let read = move |state: &State| state.reservation(&key).map(|one| reservation_to_wire(one));
        self.0.read(read).await
    }
}

impl Reservations {
    async fn listed_unavailable(
        &self,
        message: &v1::ListUnavailableRequest,
    ) -> Result<v1::ListUnavailableResponse, Status> {
        let mut errors = FieldErrors::new();
        let space = errors.optional_name("address_space", &message.address_space);
        if v1::unavailable::Reason::try_from(message.reason).is_err() {
            errors.add("reason", format!("unknown value {}", message.reason));
        }
        let space = errors
            .finish(space)
            .map_err(|error| status::of_rejection(&error))?;
        let size = usize::try_from(page_size(message.page_size)?).expect("32 bits fit");
        let shape = ("unavailable", &message.address_space, message.reason);
        let token = PageToken::read(&message.page_token, &shape, 3)?;
        let after = token.as_ref().map(unavailable_key_of_token).transpose()?;
        let reason = message.reason;
        let read = move |state: &State| {
            let page = unavailable_page(state, space.as_ref(), reason, after.as_ref(), size);
            (page, state.revision())
        };
        let (page, now) = self.0.read(read).await?;
        let revision = token.map_or(now, |token| token.revision);
        let next = page.next.map(|key| PageToken { key, revision });
        Ok(v1::ListUnavailableResponse {
            unavailable: page.rows,
            next_page_token: next.map_or_else(String::new, |token| token.write(&shape)),
        })
    }

    async fn clear(
        &self,
        call: &Call,
        message: &v1::ClearUnavailableRequest,
    ) -> Result<v1::ClearUnavailableResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let space = errors.space("address_space", &message.address_space);
        let address = errors.address("address", &message.address);
        let (space, address) = errors
            .finish(space.zip(address))
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::ClearUnavailable { space, address };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let cleared = reply.changes.iter().filter_map(Change::unavailable);
        let cleared = cleared.filter(|edit| edit.after.is_none());
        let cleared = cleared.filter_map(|edit| edit.before.as_deref().map(unavailable_to_wire));
        Ok(v1::ClearUnavailableResponse {
            cleared: cleared.collect(),
        })
    }
}

/// Rows of one page, and behind which one the next page begins, if there may be one.
#[derive(Debug, Default)]
struct UnavailablePage {
    rows: Vec<v1::Unavailable>,
    next: Option<Vec<String>>,
}

fn unavailable_page(
    state: &State,
    space: Option<&Name>,
    reason: i32,
    after: Option<&UnavailableKey>,
    size: usize,
) -> UnavailablePage {
    let mut page = UnavailablePage::default();
    let mut last = None;
    for (index, row) in state.unavailable_after(space, after).enumerate() {
        if page.rows.len() == size || index == LOOKED_AT {
            page.next = last.map(place);
            break;
        }
        let wire = unavailable_to_wire(row);
        if reason == 0 || wire.reason == reason {
            page.rows.push(wire);
        }
        last = Some(row);
    }
    page
}

/// Where a row is in the list, as a page token has it.
fn place(row: &Arc<Unavailable>) -> Vec<String> {
    let UnavailableKey {
        space,
        address,
        reason,
    } = &row.key;
    let address = format!("{:032x}", address.bits());
    vec![space.to_string(), address, (*reason as u8).to_string()]
}

fn unavailable_key_of_token(token: &PageToken) -> Result<UnavailableKey, Status> {
    let [space, address, reason] = &token.key[..] else {
        unreachable!("a token is read with three parts");
    };
    let reasons = [
        UnavailableReason::Draining,
        UnavailableReason::ReuseDelay,
        UnavailableReason::Quarantined,
    ];
    let reason = reasons
        .into_iter()
        .find(|one| (*one as u8).to_string() == *reason);
    let address = u128::from_str_radix(address, 16).ok();
    let key = Name::parse(space).ok().zip(address).zip(reason);
    let key = key.map(|((space, address), reason)| UnavailableKey {
        space,
        address: Address::from_bits(address),
        reason,
    });
    key.ok_or_else(|| status::invalid("page_token", "is not a token of this server"))
}

fn left(reply: &Reply) -> Option<v1::Reservation> {
    let Left::Reservation(reservation) = &reply.left else {
        return None;
    };
    Some(reservation_to_wire(reservation))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::change::Edit;
    use crate::state::model::{Moment, Timestamp};

    fn row(space: &str, address: usize, reason: UnavailableReason) -> Change {
        Change::Unavailable(Edit {
            before: None,
            after: Some(Arc::new(Unavailable {
                key: UnavailableKey {
                    space: Name::parse(space).expect("valid"),
                    address: Address::from_bits(address as u128),
                    reason,
                },
                for_owner: None,
                since: Timestamp(0),
                period: Duration::ZERO,
                deadline: Moment::default(),
                awaited: None,
                unacknowledged: false,
                revision: 0,
            })),
        })
    }

    #[test]
    fn a_page_looks_at_few_rows_and_goes_on_where_it_stopped() {
        let (rare, frequent) = (
            UnavailableReason::Quarantined,
            UnavailableReason::ReuseDelay,
        );
        let many = (0..LOOKED_AT).map(|address| row("a", address, frequent));
        let few = [("a", LOOKED_AT), ("a", LOOKED_AT + 1), ("b", 1)];
        let few = few.map(|(space, address)| row(space, address, rare));
        let state = State::restore(1, many.chain(few));
        let only = Name::parse("a").expect("valid");
        let reason = v1::unavailable::Reason::Quarantined as i32;
        for (space, expected) in [(None, 3_usize), (Some(&only), 2)] {
            let (mut after, mut pages, mut listed) = (None, 0, Vec::new());
            loop {
                let page = unavailable_page(&state, space, reason, after.as_ref(), 2);
                listed.extend(page.rows.into_iter().map(|row| row.address_space));
                pages += 1;
                let Some(key) = page.next else { break };
                let token = PageToken { key, revision: 1 };
                after = Some(unavailable_key_of_token(&token).expect("our own"));
            }
            assert_eq!((listed.len(), pages), (expected, expected.div_ceil(2) + 1));
        }
    }
}
