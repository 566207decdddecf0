//! QuotaService.

use std::sync::Arc;

use pharos_proto::v1;
use pharos_proto::v1::quota_service_server::QuotaService;
use tonic::{Request, Response, Status};

use super::call::{Api, Call, answer, one_name};
use super::consequences;
use super::convert::FieldErrors;
use super::convert_quota::{quota_from_wire, quota_to_wire, quota_usage_to_wire};
use super::listing::{Asked, list};
use super::status;
use crate::engine::Left;
use crate::state::command::Command;
use crate::state::model::Quota;
use crate::state::names::Name;
use crate::state::refusal::Rejection;
use crate::state::{QuotaUsage, State};

/// Serves QuotaService.
#[derive(Debug, Clone)]
pub struct Quotas(pub Api);

/// A quota and how much of it is in use; unknown of one that only would be.
type Used = (Arc<Quota>, Option<QuotaUsage>);

#[tonic::async_trait]
impl QuotaService for Quotas {
    async fn apply_quota(
        &self,
        request: Request<v1::ApplyQuotaRequest>,
    ) -> Result<Response<v1::ApplyQuotaResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.apply(&call, &message).await)
    }

    async fn get_quota(
        &self,
        request: Request<v1::GetQuotaRequest>,
    ) -> Result<Response<v1::GetQuotaResponse>, Status> {
        let name = one_name("name", &request.into_inner().name, "")?;
        let unknown = Rejection::UnknownQuota(name.clone());
        let quota = self.0.read(move |state| used(state, &name)).await?;
        let Some(quota) = quota else {
            return Err(status::of_rejection(&unknown));
        };
        Ok(Response::new(v1::GetQuotaResponse {
            quota: Some(used_to_wire(&quota)),
        }))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        let cluster = errors.optional_name("cluster", &message.cluster);
        let space = errors.optional_name("address_space", &message.address_space);
        let (cluster, space) = errors
            .finish(cluster.zip(space))
            .map_err(|error| status::of_rejection(&error))?;
        let asked = Asked {
            page_size: message.page_size,
            page_token: &message.page_token,
        };
        let shape = ("quotas", &message.cluster, &message.address_space);
        let read = move |state: &State, after: Option<&Name>, most| {
            let all = state.quotas();
            let found = all
                .filter(|one| after.is_none_or(|after| one.name > *after))
                .filter(|one| {
                    cluster
                        .as_ref()
                        .is_none_or(|cluster| one.cluster == *cluster)
                })
                .filter(|one| space.as_ref().is_none_or(|space| one.space == *space));
            let used = |one: &Arc<Quota>| (Arc::clone(one), Some(state.quota_usage(one)));
            let found = found.map(|one| (one.name.clone(), used(one)));
            found.take(most).collect()
        };
        let (page, next_page_token) = list(&self.0, asked, &shape, read).await?;
        Ok(Response::new(v1::ListQuotasResponse {
            quotas: page.iter().map(used_to_wire).collect(),
            next_page_token,
        }))
    }

    async fn delete_quota(
        &self,
        request: Request<v1::DeleteQuotaRequest>,
    ) -> Result<Response<v1::DeleteQuotaResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        answer(&message.request_id, self.delete(&call, &message).await)
    }
}

impl Quotas {
    async fn apply(
        &self,
        call: &Call,
        message: &v1::ApplyQuotaRequest,
    ) -> Result<v1::ApplyQuotaResponse, Status> {
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        let quota = quota_from_wire(&mut errors, "quota", message.quota.as_ref());
        let quota = errors
            .finish(quota)
            .map_err(|error| status::of_rejection(&error))?;
        // What is output only is left out.
        let command = Command::ApplyQuota(Box::new(Quota {
            revision: 0,
            ..quota
        }));
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        let quota = if let Left::Quota(quota, usage) = &reply.left {
            Some(used_to_wire(&(Arc::clone(quota), usage.clone())))
        } else {
            None
        };
        Ok(v1::ApplyQuotaResponse {
            quota,
            consequences: consequences::of(&reply),
        })
    }

    async fn delete(
        &self,
        call: &Call,
        message: &v1::DeleteQuotaRequest,
    ) -> Result<v1::DeleteQuotaResponse, Status> {
        let name = one_name("name", &message.name, &message.request_id)?;
        let (id, validate_only) = (&message.request_id, message.validate_only);
        let command = Command::DeleteQuota(name);
        let reply = call.submit(&self.0, command, id, validate_only).await?;
        Ok(v1::DeleteQuotaResponse {
            consequences: consequences::of(&reply),
        })
    }
}

fn used(state: &State, name: &Name) -> Option<Used> {
    let quota = state.quota(name)?;
    Some((Arc::clone(quota), Some(state.quota_usage(quota))))
}

fn used_to_wire((quota, usage): &Used) -> v1::Quota {
    v1::Quota {
        usage: usage.as_ref().map(quota_usage_to_wire),
        ..quota_to_wire(quota)
    }
}
