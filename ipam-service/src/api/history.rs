//! `HistoryService`.
//!
//! The stream of changes is made of frames that [`crate::feed::changes`] has encoded once for all who
//! watch, so [`HistoryServer`] passes bytes through instead of using the generated server.

mod server;

use futures::stream::BoxStream;
use pharos_proto::v1;
use pharos_proto::v1::change::Kind as WireKind;
use tonic::{Request, Response, Status};

pub use self::server::HistoryServer;
use super::call::{Api, Call, answer, resume};
use super::codec::Frame;
use super::convert::FieldErrors;
use super::convert_history::{time_from_wire, time_to_wire};
use super::fields::MAX_REQUEST_ID_BYTES;
use super::paging::{PageToken, page_size};
use super::status;
use crate::engine::wall_time;
use crate::retention::{RetentionError, Verdict};
use crate::state::address::Address;
use crate::state::model::Timestamp;
use crate::state::names::MAX_NAME_BYTES;
use crate::state::refusal::Rejection;
use crate::store::{ChangeFilter, HoldingFilter, Kind, LogFilter, OwnerFilter};

/// The service. Clones share it.
#[derive(Debug, Clone)]
pub struct History(pub Api);

/// Frames for one watcher.
type Frames = BoxStream<'static, Result<Frame, Status>>;

impl History {
    async fn list_changes(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Result<Response<v1::ListChangesResponse>, Status> {
        let message = request.into_inner();
        let filter = change_filter(&message).map_err(|error| status::of_rejection(&error))?;
        let size = page_size(message.page_size)?;
        let shape = ("changes", &filter);
        let token = PageToken::read(&message.page_token, &shape, 1)?;
        let page = self.0.reader.changes(&filter, key_of(&token)?, size).await;
        let page = page.map_err(|error| status::of_read(&error))?;
        let revision = token.map_or(page.revision, |token| token.revision);
        let next = page.next.map(|next| PageToken {
            key: vec![next.to_string()],
            revision,
        });
        Ok(Response::new(v1::ListChangesResponse {
            changes: page.items,
            next_page_token: next.map_or_else(String::new, |next| next.write(&shape)),
            revision,
        }))
    }

    async fn list_holdings(
        &self,
        request: Request<v1::ListHoldingsRequest>,
    ) -> Result<Response<v1::ListHoldingsResponse>, Status> {
        let message = request.into_inner();
        let filter = holding_filter(&message).map_err(|error| status::of_rejection(&error))?;
        let size = page_size(message.page_size)?;
        let shape = ("holdings", &filter);
        let token = PageToken::read(&message.page_token, &shape, 1)?;
        let page = self.0.reader.holdings(&filter, key_of(&token)?, size).await;
        let page = page.map_err(|error| status::of_read(&error))?;
        let revision = token.map_or(page.revision, |token| token.revision);
        let last = page.items.last().map(|(id, _)| *id);
        let next = last.filter(|_| page.more).map(|id| PageToken {
            key: vec![id.to_string()],
            revision,
        });
        Ok(Response::new(v1::ListHoldingsResponse {
            holdings: page.items.into_iter().map(|(_, holding)| holding).collect(),
            next_page_token: next.map_or_else(String::new, |next| next.write(&shape)),
            revision,
        }))
    }

    async fn confirm_clock(
        &self,
        request: Request<v1::ConfirmClockRequest>,
    ) -> Result<Response<v1::ConfirmClockResponse>, Status> {
        let call = Call::of(&request);
        let message = request.into_inner();
        let mut errors = FieldErrors::new();
        errors.request_id(&message.request_id);
        errors
            .finish(Some(()))
            .map_err(|error| status::of_rejection(&error))?;
        let meta = call.meta(&message.request_id, message.validate_only);
        let confirmed = self
            .0
            .retention
            .confirm_clock(wall_time(), meta.validate_only);
        let (clocks, verdict) = confirmed.await.map_err(|error| match error {
            RetentionError::Read(error) => status::of_read(&error),
            RetentionError::Write(error) => status::of_submit(&error),
        })?;
        if !meta.validate_only {
            let shown = |time| known(time).map(tracing::field::display);
            tracing::info!(
                actor = %meta.actor,
                wall_time = shown(clocks.wall),
                last_seen_time = shown(clocks.seen),
                newest_change_time = shown(clocks.newest),
                "an operator confirmed the wall clock"
            );
        }
        let response = v1::ConfirmClockResponse {
            wall_time: known(clocks.wall),
            last_seen_time: known(clocks.seen),
            newest_change_time: known(clocks.newest),
            doubt: match verdict {
                Verdict::Stopped(doubt) => doubt.to_string(),
                Verdict::KeepAll | Verdict::Compact { .. } => String::new(),
            },
        };
        answer(&message.request_id, Ok(response))
    }

    async fn watch_changes(
        &self,
        request: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<Frames>, Status> {
        let message = request.into_inner();
        let filter = log_filter(&message).map_err(|error| status::of_rejection(&error))?;
        let span = self.0.reader.log_span().await;
        let span = span.map_err(|error| status::of_read(&error))?;
        let after = match (message.from_revision, message.from_oldest) {
            (0, true) => span.oldest.saturating_sub(1),
            (0, false) => span.revision,
            (from, _) => from,
        };
        let after = resume(&self.0, after, &message.store_id).await?;
        let watcher = self.0.feeds.changes.watch(self.0.source(), filter, after);
        let stream = futures::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(frame) => Some((Ok(frame), Some(watcher))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A time, which is shown as RFC 3339; 0: there is none.
fn known(time: Timestamp) -> Option<prost_types::Timestamp> {
    (time.0 != 0).then(|| time_to_wire(time))
}

/// Where the page before ended.
fn key_of<K: std::str::FromStr>(token: &Option<PageToken>) -> Result<Option<K>, Status> {
    let key = token.as_ref().map(|token| token.key[0].parse());
    key.transpose()
        .map_err(|_| status::invalid("page_token", "is not a token of this server"))
}

fn change_filter(message: &v1::ListChangesRequest) -> Result<ChangeFilter, Rejection> {
    let mut errors = FieldErrors::new();
    let address = address_filter(&mut errors, &message.address, &message.address_space);
    let owner = message.owner.as_ref();
    let owner = owner.and_then(|owner| owner_filter(&mut errors, owner));
    errors.optional_name("cluster", &message.cluster);
    let kind = match WireKind::try_from(message.kind) {
        Ok(WireKind::Unspecified) => None,
        Ok(WireKind::Allocation) => Some(Kind::Allocation),
        Ok(WireKind::Pool) => Some(Kind::Pool),
        Ok(WireKind::Advertisement) => Some(Kind::Advertisement),
        Ok(WireKind::BgpPeer) => Some(Kind::BgpPeer),
        Ok(WireKind::BfdProfile) => Some(Kind::BfdProfile),
        Ok(WireKind::Cluster) => Some(Kind::Cluster),
        Ok(WireKind::Reservation) => Some(Kind::Reservation),
        Ok(WireKind::Quota) => Some(Kind::Quota),
        Ok(WireKind::AddressSpace) => Some(Kind::AddressSpace),
        Ok(WireKind::Unavailable) => Some(Kind::Unavailable),
        Err(_) => {
            errors.add("kind", format!("unknown value {}", message.kind));
            None
        }
    };
    errors.optional_name("name", &message.name);
    if !message.name.is_empty() && matches!(kind, None | Some(Kind::Allocation)) {
        errors.add("name", "needs a `kind` other than ALLOCATION; see `owner`");
    }
    for (field, text, most) in [
        ("actor", &message.actor, MAX_NAME_BYTES),
        ("request_id", &message.request_id, MAX_REQUEST_ID_BYTES),
    ] {
        if !text.is_empty() {
            errors.text(field, text, most);
        }
    }
    let (start, end) = window(&mut errors, &message.start_time, &message.end_time);
    if message.end_revision != 0 && message.end_revision < message.start_revision {
        errors.add("end_revision", "must not be before start_revision");
    }
    let filter = ChangeFilter {
        address,
        owner,
        cluster: message.cluster.clone(),
        kind,
        name: message.name.clone(),
        actor: message.actor.clone(),
        request_id: message.request_id.clone(),
        start,
        end,
        start_revision: message.start_revision,
        end_revision: message.end_revision,
    };
    errors.finish(Some(filter))
}

fn log_filter(message: &v1::WatchChangesRequest) -> Result<LogFilter, Rejection> {
    let mut errors = FieldErrors::new();
    if message.from_oldest && message.from_revision != 0 {
        errors.add("from_oldest", "cannot be combined with from_revision");
    }
    errors.optional_name("cluster", &message.cluster);
    let address = address_filter(&mut errors, &message.address, &message.address_space);
    let owner = message.owner.as_ref();
    let owner = owner.and_then(|owner| owner_filter(&mut errors, owner));
    let filter = LogFilter {
        address,
        owner,
        cluster: message.cluster.clone(),
        allocations_only: false,
    };
    errors.finish(Some(filter))
}

fn holding_filter(message: &v1::ListHoldingsRequest) -> Result<HoldingFilter, Rejection> {
    let mut errors = FieldErrors::new();
    let address = address_filter(&mut errors, &message.address, &message.address_space);
    let owner = message.owner.as_ref();
    let uid = owner.map_or("", |owner| &owner.uid);
    if !uid.is_empty() {
        errors.text("owner.uid", uid, MAX_NAME_BYTES);
    }
    let owner = owner.and_then(|owner| owner_filter(&mut errors, owner));
    let (start, end) = window(&mut errors, &message.start_time, &message.end_time);
    let [ended_after, begun_before] = match message.at_time.as_ref().map(time_from_wire) {
        None => [start, end],
        Some(at) => {
            if (start, end) != (None, None) {
                errors.add("at_time", "cannot be combined with start_time or end_time");
            }
            // Begun at that moment or before: times are whole microseconds.
            [Some(at), Some(Timestamp(at.0.saturating_add(1)))]
        }
    };
    let filter = HoldingFilter {
        address,
        owner,
        uid: uid.to_owned(),
        ended_after,
        begun_before,
    };
    errors.finish(Some(filter))
}

/// From when, and until when.
fn window(
    errors: &mut FieldErrors,
    start: &Option<prost_types::Timestamp>,
    end: &Option<prost_types::Timestamp>,
) -> (Option<Timestamp>, Option<Timestamp>) {
    let [start, end] = [start, end].map(|time| time.as_ref().map(time_from_wire));
    if let (Some(start), Some(end)) = (start, end)
        && end < start
    {
        errors.add("end_time", "must not be before start_time");
    }
    (start, end)
}

fn address_filter(
    errors: &mut FieldErrors,
    address: &str,
    space: &str,
) -> Option<(String, Address)> {
    let space = errors.space("address_space", space);
    let address = match address {
        "" => None,
        text => errors.address("address", text),
    };
    let (space, address) = space.zip(address)?;
    Some((space.to_string(), address))
}

/// Cluster, namespace and name; the last two may be left open.
fn owner_filter(errors: &mut FieldErrors, owner: &v1::Owner) -> Option<OwnerFilter> {
    errors.name("owner.cluster", &owner.cluster)?;
    errors.optional_name("owner.namespace", &owner.namespace)?;
    errors.optional_name("owner.name", &owner.name)?;
    let (namespace, name) = match (owner.namespace.as_str(), owner.name.as_str()) {
        ("", "") => (None, None),
        (namespace, "") => (Some(namespace.to_owned()), None),
        (namespace, name) => (Some(namespace.to_owned()), Some(name.to_owned())),
    };
    Some(OwnerFilter {
        cluster: owner.cluster.clone(),
        namespace,
        name,
    })
}
