//! ReservationService.

use std::ops::Bound;

use pharos_proto::v1;
use pharos_proto::v1::reservation_service_server::ReservationService;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer};
use super::consequences;
use super::convert_reservation::{reservation_from_wire, reservation_key, reservation_to_wire};
use super::fields::FieldErrors;
use super::paging::{PageToken, page_size};
use super::status;
use crate::state::State;
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{Reservation, ReservationKey};
use crate::state::refusal::Rejection;

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
        let size = usize::try_from(page_size(message.page_size)?).expect("32 bits fit");
        let shape = ("reservations", &message.cluster, &message.address_space);
        let token = PageToken::read(&message.page_token, &shape, 2)?;
        let after = token.as_ref().map(key_of_token).transpose()?;
        let (cluster, space) = (message.cluster.clone(), message.address_space.clone());
        let read = move |state: &State| {
            let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let asked_for = |one: &&std::sync::Arc<Reservation>| {
                let of = one.kept_for.as_ref().map(|scope| scope.cluster.as_str());
                (cluster.is_empty() || of == Some(&cluster))
                    && (space.is_empty() || one.key.space.as_str() == space)
            };
            let found = state.reservations_after(after).filter(asked_for);
            let page: Vec<_> = found
                .take(size + 1)
                .map(|one| reservation_to_wire(one))
                .collect();
            (page, state.revision())
        };
        let read = self.0.engine.read(read).await;
        let (mut page, now) = read.map_err(|error| status::of_submit(&error))?;
        let more = page.len() > size;
        page.truncate(size);
        let revision = token.map_or(now, |token| token.revision);
        let next_page_token = match page.last().filter(|_| more) {
            Some(last) => PageToken {
                key: vec![last.address_space.clone(), last.name.clone()],
                revision,
            }
            .write(&shape),
            None => String::new(),
        };
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
        let key = reservation.key.clone();
        let command = Command::ApplyReservation(Box::new(reservation));
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        // Without a change it is what it was.
        let changed = reply.changes.iter().find_map(as_it_is_left);
        let reservation = match changed {
            Some(reservation) => Some(reservation),
            None => self.stored(key).await?,
        };
        Ok(v1::ApplyReservationResponse {
            reservation,
            consequences: consequences::of(&reply, None),
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
            consequences: consequences::of(&reply, None),
        })
    }

    async fn stored(&self, key: ReservationKey) -> Result<Option<v1::Reservation>, Status> {
        let read = move |state: &State| state.reservation(&key).map(|one| reservation_to_wire(one));
        let read = self.0.engine.read(read).await;
        read.map_err(|error| status::of_submit(&error))
    }
}

fn as_it_is_left(change: &Change) -> Option<v1::Reservation> {
    let Change::Reservation(edit) = change else {
        return None;
    };
    edit.after.as_deref().map(reservation_to_wire)
}

fn key_of_token(token: &PageToken) -> Result<ReservationKey, Status> {
    let [space, name] = &token.key[..] else {
        unreachable!("a token is read with two parts");
    };
    reservation_key(space, name).map_err(|error| status::of_rejection(&error))
}
