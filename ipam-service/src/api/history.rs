//! HistoryService.

use pharos_proto::v1;
use pharos_proto::v1::history_service_server::HistoryService;
use tonic::{Request, Response, Status};

use super::call::Api;
use super::convert::FieldErrors;
use super::convert_history::time_from_wire;
use super::paging::{PageToken, page_size};
use super::status;
use crate::state::refusal::Rejection;
use crate::store::ChangeFilter;

/// Serves HistoryService.
#[derive(Debug, Clone)]
pub struct History(pub Api);

#[tonic::async_trait]
impl HistoryService for History {
    async fn list_changes(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Result<Response<v1::ListChangesResponse>, Status> {
        let message = request.into_inner();
        let filter = filter_of(&message).map_err(|error| status::of_rejection(&error))?;
        let size = page_size(message.page_size)?;
        let shape = (
            "changes",
            &filter.address,
            &filter.owner,
            filter.start.map(|time| time.0),
            filter.end.map(|time| time.0),
        );
        let token = PageToken::read(&message.page_token, &shape, 1)?;
        let before = match token.as_ref().map(|token| token.key[0].parse()) {
            None => None,
            Some(Ok(before)) => Some(before),
            Some(Err(_)) => {
                return Err(status::invalid(
                    "page_token",
                    "is not a token of this server",
                ));
            }
        };
        let page = self.0.reader.changes(&filter, before, size).await;
        let page = page.map_err(|error| status::of_read(&error))?;
        let next_page_token = match page.items.last().filter(|_| page.more) {
            Some(last) => PageToken {
                key: vec![last.revision.to_string()],
                revision: token.map_or(page.revision, |token| token.revision),
            }
            .write(&shape),
            None => String::new(),
        };
        Ok(Response::new(v1::ListChangesResponse {
            changes: page.items,
            next_page_token,
        }))
    }
}

fn filter_of(message: &v1::ListChangesRequest) -> Result<ChangeFilter, Rejection> {
    let mut errors = FieldErrors::new();
    let space = errors.space("address_space", &message.address_space);
    let address = match message.address.as_str() {
        "" => None,
        text => errors.address("address", text),
    };
    let owner = message
        .owner
        .as_ref()
        .and_then(|owner| owner_filter(&mut errors, owner));
    let filter = ChangeFilter {
        address: space
            .zip(address)
            .map(|(space, address)| (space.to_string(), address)),
        owner,
        start: message.start_time.as_ref().map(time_from_wire),
        end: message.end_time.as_ref().map(time_from_wire),
    };
    errors.finish(Some(filter))
}

/// Cluster, namespace and name; the last two may be left open.
fn owner_filter(
    errors: &mut FieldErrors,
    owner: &v1::Owner,
) -> Option<(String, Option<String>, Option<String>)> {
    errors.name("owner.cluster", &owner.cluster)?;
    errors.optional_name("owner.namespace", &owner.namespace)?;
    errors.optional_name("owner.name", &owner.name)?;
    let (namespace, name) = match (owner.namespace.as_str(), owner.name.as_str()) {
        ("", "") => (None, None),
        (namespace, "") => (Some(namespace.to_owned()), None),
        (namespace, name) => (Some(namespace.to_owned()), Some(name.to_owned())),
    };
    Some((owner.cluster.clone(), namespace, name))
}
