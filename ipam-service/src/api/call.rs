//! What every call has in common: who calls, under which request id, until when.

use std::sync::Arc;

use pharos_process::Shutdown;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::fields::FieldErrors;
use super::status;
use crate::engine::{Engine, LeaseBook, Meta, Reply};
use crate::feed::Feeds;
use crate::feed::allocations::Source;
use crate::retention::Retention;
use crate::state::State;
use crate::state::command::Command;
use crate::state::model::Revision;
use crate::state::names::Name;
use crate::store::Reader;

/// Header of the request id, both ways.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// What the services work with. Clones share it.
#[derive(Debug, Clone)]
pub struct Api {
    pub engine: Engine,
    pub reader: Reader,
    pub feeds: Feeds,
    pub retention: Retention,
    pub leases: LeaseBook,
    /// Random name of the database.
    pub store_id: Arc<str>,
    pub shutdown: Shutdown,
}

impl Api {
    /// What a watcher reads from.
    pub fn source(&self) -> Source {
        Source {
            reader: self.reader.clone(),
            store_id: Arc::clone(&self.store_id),
            shutdown: self.shutdown.clone(),
        }
    }

    /// Looks into the state, between two batches of the writer.
    pub async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let read = self.engine.read(read).await;
        read.map_err(|error| status::of_submit(&error))
    }
}

/// A watch goes on after `from` if that is a revision of this store and the log still has
/// everything behind it; otherwise OUT_OF_RANGE. `store_id` may be empty: not given.
pub async fn resume(api: &Api, from: Revision, store_id: &str) -> Result<Revision, Status> {
    if !store_id.is_empty() && store_id != &*api.store_id {
        let span = api.reader.log_span().await;
        let span = span.map_err(|error| status::of_read(&error))?;
        return Err(status::foreign_store(store_id, span, &api.store_id));
    }
    let reached = api.reader.log_reaches(from).await;
    reached.map_err(|error| status::of_log(&error, &api.store_id))?;
    Ok(from)
}

/// Added to each request by the server's layers.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Of the header, or made.
    pub request_id: Arc<str>,
    /// Nobody waits for the answer after it.
    pub deadline: Option<Instant>,
}

/// Who calls, and how.
#[derive(Debug, Clone)]
pub struct Call {
    actor: String,
    admission: Admission,
}

impl Call {
    /// Reads it off a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        // Nobody proves an identity yet, so the address is all there is to record.
        let actor = match request.remote_addr() {
            Some(address) => format!("anonymous@{}", address.ip()),
            None => "anonymous".to_owned(),
        };
        Self {
            actor,
            admission: request.extensions().get().cloned().unwrap_or_default(),
        }
    }

    /// What the engine is told. `request_id` of the message wins over the header's.
    pub fn meta(&self, request_id: &str, validate_only: bool) -> Meta {
        if !request_id.is_empty() {
            tracing::Span::current().record("request_id", request_id);
        }
        Meta {
            actor: self.actor.clone(),
            request_id: match request_id {
                "" => self.admission.request_id.to_string(),
                given => given.to_owned(),
            },
            validate_only,
            deadline: self.admission.deadline,
        }
    }

    /// Submits a command for this call.
    pub async fn submit(
        &self,
        api: &Api,
        command: Command,
        request_id: &str,
        validate_only: bool,
    ) -> Result<Reply, Status> {
        let meta = self.meta(request_id, validate_only);
        let reply = api.engine.submit(command, meta).await;
        reply.map_err(|error| status::of_submit(&error))
    }
}

/// An answer that carries the message's own request id, if it had one. (The server's layers add
/// the header's to all others.)
pub fn answer<T>(request_id: &str, outcome: Result<T, Status>) -> Result<Response<T>, Status> {
    let header = match request_id {
        "" => None,
        // A header takes visible ASCII only; the log has the id in any case.
        given => MetadataValue::try_from(given).ok(),
    };
    match outcome {
        Ok(message) => {
            let mut response = Response::new(message);
            if let Some(header) = header {
                response.metadata_mut().insert(REQUEST_ID_HEADER, header);
            }
            Ok(response)
        }
        Err(mut status) => {
            if let Some(header) = header {
                status.metadata_mut().insert(REQUEST_ID_HEADER, header);
            }
            Err(status)
        }
    }
}

/// What a request is about, by its name alone; `request_id` is checked beside it.
pub fn one_name(field: &str, text: &str, request_id: &str) -> Result<Name, Status> {
    let mut errors = FieldErrors::new();
    errors.request_id(request_id);
    let name = errors.name(field, text);
    errors
        .finish(name)
        .map_err(|error| status::of_rejection(&error))
}
