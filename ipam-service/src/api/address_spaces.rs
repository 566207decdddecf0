//! AddressSpaceService.

use std::sync::Arc;

use pharos_proto::v1;
use pharos_proto::v1::address_space_service_server::AddressSpaceService;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer, one_name};
use super::consequences;
use super::convert_address_space::{
    address_space_from_wire, address_space_to_wire, fields_from_wire,
};
use super::convert_pool::in_use_from_wire;
use super::fields::FieldErrors;
use super::listing::{Asked, list};
use super::status;
use crate::engine::{Left, Reply};
use crate::state::State;
use crate::state::command::{ApplyAddressSpace, Command};
use crate::state::model::AddressSpace;
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// Serves AddressSpaceService.
#[derive(Debug, Clone)]
pub struct AddressSpaces(pub Api);

#[tonic::async_trait]
impl AddressSpaceService for AddressSpaces {
    async fn apply_address_space(
        &self,
        request: Request<v1::ApplyAddressSpaceRequest>,
    ) -> Result<Response<v1::ApplyAddressSpaceResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.apply(&call, &message).await)
    }

    async fn get_address_space(
        &self,
        request: Request<v1::GetAddressSpaceRequest>,
    ) -> Result<Response<v1::GetAddressSpaceResponse>, Status> {
        let name = one_name("name", &request.into_inner().name, "")?;
        let Some(address_space) = self.stored(name.clone()).await? else {
            return Err(status::of_rejection(&Rejection::UnknownAddressSpace(name)));
        };
        Ok(Response::new(v1::GetAddressSpaceResponse {
            address_space: Some(address_space),
        }))
    }

    async fn list_address_spaces(
        &self,
        request: Request<v1::ListAddressSpacesRequest>,
    ) -> Result<Response<v1::ListAddressSpacesResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        let cluster = errors.optional_name("cluster", &message.cluster);
        let cluster = errors
            .finish(cluster)
            .map_err(|error| status::of_rejection(&error))?;
        let asked = Asked {
            page_size: message.page_size,
            page_token: &message.page_token,
        };
        let shape = ("address spaces", &message.cluster);
        let read = move |state: &State, after: Option<&Name>, most| {
            let later = state.address_spaces_after(after);
            let is_asked_for = |one: &&Arc<AddressSpace>| {
                cluster
                    .as_ref()
                    .is_none_or(|cluster| one.grants.contains_key(cluster))
            };
            let found = later.filter(is_asked_for);
            let found = found.map(|one| (one.name.clone(), Arc::clone(one)));
            found.take(most).collect()
        };
        // Each may have thousands of ranges, which are not written while the writer waits.
        let (found, next_page_token) = list(&self.0, asked, &shape, read).await?;
        Ok(Response::new(v1::ListAddressSpacesResponse {
            address_spaces: found.iter().map(|one| address_space_to_wire(one)).collect(),
            next_page_token,
        }))
    }

    async fn delete_address_space(
        &self,
        request: Request<v1::DeleteAddressSpaceRequest>,
    ) -> Result<Response<v1::DeleteAddressSpaceResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.delete(&call, &message).await)
    }
}

impl AddressSpaces {
    async fn apply(
        &self,
        call: &Call,
        message: &v1::ApplyAddressSpaceRequest,
    ) -> Result<v1::ApplyAddressSpaceResponse, Status> {
        let apply = apply_from_wire(message).map_err(|error| status::of_rejection(&error))?;
        let command = Command::ApplyAddressSpace(Box::new(apply));
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::ApplyAddressSpaceResponse {
            address_space: left(&reply),
            consequences: consequences::of(&reply),
        })
    }

    async fn delete(
        &self,
        call: &Call,
        message: &v1::DeleteAddressSpaceRequest,
    ) -> Result<v1::DeleteAddressSpaceResponse, Status> {
        let name = one_name("name", &message.name, &message.request_id)?;
        let mut errors = FieldErrors::new();
        let if_revision = errors.if_revision(message.if_revision);
        let if_revision = errors
            .finish(if_revision)
            .map_err(|error| status::of_rejection(&error))?;
        let command = Command::DeleteAddressSpace { name, if_revision };
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::DeleteAddressSpaceResponse {
            consequences: consequences::of(&reply),
        })
    }

    async fn stored(&self, name: Name) -> Result<Option<v1::AddressSpace>, Status> {
        let read = move |state: &State| state.address_space(&name).cloned();
        let known = self.0.read(read).await?;
        Ok(known.map(|one| address_space_to_wire(&one)))
    }
}

pub(super) fn apply_from_wire(
    message: &v1::ApplyAddressSpaceRequest,
) -> Result<ApplyAddressSpace, Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(&message.request_id);
    let wire = message.address_space.as_ref();
    let wanted = address_space_from_wire(&mut errors, "address_space", wire);
    let fields = fields_from_wire(&mut errors, message.update_mask.as_ref());
    let in_use = in_use_from_wire(&mut errors, message.if_in_use);
    let if_revision = errors.if_revision(message.if_revision);
    let read = wanted.zip(fields).zip(in_use).zip(if_revision);
    let read = read.map(
        |(((wanted, fields), in_use), if_revision)| ApplyAddressSpace {
            wanted,
            fields,
            in_use,
            if_revision,
        },
    );
    errors.finish(read)
}

fn left(reply: &Reply) -> Option<v1::AddressSpace> {
    let Left::AddressSpace(record) = &reply.left else {
        return None;
    };
    Some(address_space_to_wire(record))
}
