//! Calls on their way to a server, and what becomes of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use pharos_checker::calls::{Call, Edit, Outcome, Request as Asked};
use pharos_proto::v1;
use pharos_proto::v1::address_space_service_server::AddressSpaceService as _;
use pharos_proto::v1::allocation_service_server::AllocationService as _;
use pharos_proto::v1::change::{
    AddressSpaceChange, PoolChange, QuotaChange, ReservationChange, Subject,
};
use pharos_proto::v1::cluster_service_server::ClusterService as _;
use pharos_proto::v1::pool_service_server::PoolService as _;
use pharos_proto::v1::quota_service_server::QuotaService as _;
use pharos_proto::v1::reservation_service_server::ReservationService as _;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::requests::Message;
use crate::api::address_spaces::AddressSpaces;
use crate::api::allocations::Allocations;
use crate::api::call::{Admission, Api};
use crate::api::clusters::Clusters;
use crate::api::pools::Pools;
use crate::api::quotas::Quotas;
use crate::api::reservations::Reservations;

/// A message that was sent and has not arrived.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) message: Message,
    /// When it was sent, by the clock of the history.
    pub(super) at: u64,
    pub(super) deadline: Option<Instant>,
}

impl Sent {
    /// The call as a history has it.
    pub(super) fn call(&self, end: u64, outcome: Outcome) -> Call {
        Call {
            start: self.at,
            end: Some(end),
            request: asked(&self.message),
            outcome,
        }
    }

    /// The same without its fence.
    pub(super) fn without_fence(mut self) -> Self {
        if let Some(fence) = self.message.fence() {
            *fence = 0;
        }
        self
    }
}

/// What the checker has to know of a request.
fn asked(message: &Message) -> Asked {
    let mut edit = Edit {
        request_id: message.clone().request_id().clone(),
        ..Edit::default()
    };
    match message {
        Message::Allocate(request) => return Asked::Allocate(request.clone()),
        Message::Release(request) => return Asked::Release(request.clone()),
        Message::ApplyPool(request) => {
            edit.validate_only = request.validate_only;
            edit.moves = true;
        }
        Message::DeletePool(request) => {
            edit.validate_only = request.validate_only;
            (edit.moves, edit.deletes) = (true, true);
        }
        Message::SyncPools(request) => {
            edit.validate_only = request.validate_only;
            edit.moves = true;
            edit.fence = request.fence;
            edit.cluster.clone_from(&request.cluster);
        }
        Message::ApplyAddressSpace(request) => {
            edit.validate_only = request.validate_only;
            edit.moves = true;
        }
        Message::ApplyReservation(request) => edit.validate_only = request.validate_only,
        Message::DeleteReservation(request) => {
            edit.validate_only = request.validate_only;
            edit.deletes = true;
        }
        Message::ApplyQuota(request) => edit.validate_only = request.validate_only,
        Message::DeleteQuota(request) => {
            edit.validate_only = request.validate_only;
            edit.deletes = true;
        }
        Message::BeginSync(request) => {
            edit.fence = request.fence;
            edit.cluster.clone_from(&request.cluster);
        }
        Message::EndSync(request) => {
            edit.fence = request.fence;
            edit.cluster.clone_from(&request.cluster);
        }
        Message::DeleteCluster(request) => {
            edit.validate_only = request.validate_only;
            (edit.moves, edit.deletes) = (true, true);
            edit.forgets_fences = true;
            edit.cluster.clone_from(&request.name);
        }
    }
    Asked::Edit(edit)
}

/// A call that a server has.
pub(super) struct UnderWay {
    pub(super) sent: Sent,
    answer: Pin<Box<dyn Future<Output = Outcome>>>,
    pub(super) outcome: Option<Outcome>,
}

impl UnderWay {
    /// Hands a call to a server: afterwards it is in the queue of the writer, or answered already.
    pub(super) async fn begin(api: &Api, sent: Sent) -> Self {
        let answer = Box::pin(carry_out(api.clone(), sent.message.clone(), sent.deadline));
        let mut call = Self {
            sent,
            answer,
            outcome: None,
        };
        call.look().await;
        call
    }

    /// Takes the answer if it is there.
    async fn look(&mut self) {
        let answer = &mut self.answer;
        let polled = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context)));
        if let Poll::Ready(outcome) = polled.await {
            self.outcome = Some(outcome);
        }
    }

    /// Waits for the answer.
    pub(super) async fn answered(&mut self) {
        if self.outcome.is_none() {
            self.outcome = Some(self.answer.as_mut().await);
        }
    }
}

async fn carry_out(api: Api, message: Message, deadline: Option<Instant>) -> Outcome {
    let admission = Admission {
        request_id: Arc::from("none"),
        deadline,
    };
    fn with<T>(message: T, admission: Admission) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(admission);
        request
    }
    let (pools, clusters) = (Pools(api.clone()), Clusters(api.clone()));
    let allocations = Allocations(api.clone());
    let (reservations, quotas) = (Reservations(api.clone()), Quotas(api.clone()));
    let outcome = match message {
        Message::Allocate(request) => {
            let answer = allocations.allocate(with(*request, admission)).await;
            answer.map(|answer| {
                let told = answer.into_inner().allocation;
                Outcome::Allocated(Box::new(told.expect("an allocation")))
            })
        }
        Message::Release(request) => {
            let answer = allocations.release(with(request, admission)).await;
            answer.map(|answer| Outcome::Released(answer.into_inner().released.map(Box::new)))
        }
        Message::ApplyPool(request) => {
            let answer = pools.apply_pool(with(*request, admission)).await;
            applied(answer, |answer| {
                let pool = answer.pool.map(|pool| v1::Pool {
                    usage: None,
                    ..pool
                });
                let (before, after) = (None, pool);
                Subject::Pool(PoolChange { before, after })
            })
        }
        Message::DeletePool(request) => done(pools.delete_pool(with(request, admission)).await),
        Message::SyncPools(request) => done(pools.sync_pools(with(request, admission)).await),
        Message::ApplyAddressSpace(request) => {
            let spaces = AddressSpaces(api);
            let answer = spaces.apply_address_space(with(*request, admission)).await;
            applied(answer, |answer| {
                let (before, after) = (None, answer.address_space);
                Subject::AddressSpace(AddressSpaceChange { before, after })
            })
        }
        Message::ApplyReservation(request) => {
            let answer = reservations.apply_reservation(with(*request, admission));
            applied(answer.await, |answer| {
                let (before, after) = (None, answer.reservation);
                Subject::Reservation(ReservationChange { before, after })
            })
        }
        Message::DeleteReservation(request) => {
            let answer = reservations.delete_reservation(with(request, admission));
            done(answer.await)
        }
        Message::ApplyQuota(request) => {
            let answer = quotas.apply_quota(with(*request, admission)).await;
            applied(answer, |answer| {
                let quota = answer.quota.map(|quota| v1::Quota {
                    usage: None,
                    ..quota
                });
                let (before, after) = (None, quota);
                Subject::Quota(QuotaChange { before, after })
            })
        }
        Message::DeleteQuota(request) => done(quotas.delete_quota(with(request, admission)).await),
        Message::BeginSync(request) => done(clusters.begin_sync(with(request, admission)).await),
        Message::EndSync(request) => done(clusters.end_sync(with(request, admission)).await),
        Message::DeleteCluster(request) => {
            done(clusters.delete_cluster(with(request, admission)).await)
        }
    };
    outcome.unwrap_or_else(|status| refused(&status))
}

/// An edit whose answer shows what it left.
fn applied<T>(
    answer: Result<Response<T>, Status>,
    told: impl FnOnce(T) -> Subject,
) -> Result<Outcome, Status> {
    let told = told(answer?.into_inner());
    Ok(Outcome::Edited(Some(Box::new(told))))
}

/// One whose answer does not.
fn done<T>(answer: Result<Response<T>, Status>) -> Result<Outcome, Status> {
    answer.map(|_| Outcome::Edited(None))
}

/// What a client makes of an error.
fn refused(status: &Status) -> Outcome {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::DeadlineExceeded => Outcome::Refused,
        Code::Unavailable => Outcome::Unknown,
        // INTERNAL: the schema refused what the rules allow.
        other @ (Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated) => panic!("{other:?}: {}", status.message()),
    }
}

/// Fields of a pool's usage by family, as GetPool gives them.
pub(super) async fn pools_with_usage(api: &Api) -> Vec<v1::Pool> {
    let answer = Pools(api.clone())
        .list_pools(Request::new(v1::ListPoolsRequest::default()))
        .await;
    answer.expect("readable").into_inner().pools
}

/// The same of quotas.
pub(super) async fn quotas_with_usage(api: &Api) -> Vec<v1::Quota> {
    let answer = Quotas(api.clone())
        .list_quotas(Request::new(v1::ListQuotasRequest::default()))
        .await;
    answer.expect("readable").into_inner().quotas
}

#[cfg(test)]
mod tests {
    use super::super::server::{Clock, Server, new_folder};
    use super::*;

    /// An edit, and the deletion of the same.
    fn edits() -> [[Message; 2]; 3] {
        let named = || "x".to_owned();
        let pool = v1::Pool {
            name: named(),
            addresses: vec!["192.0.2.0/24".to_owned()],
            ..v1::Pool::default()
        };
        let reservation = v1::Reservation {
            name: named(),
            addresses: vec!["192.0.2.1".to_owned()],
            ..v1::Reservation::default()
        };
        let quota = v1::Quota {
            name: named(),
            cluster: "east".to_owned(),
            limit: Some(1),
            ..v1::Quota::default()
        };
        [
            [
                Message::ApplyPool(Box::new(v1::ApplyPoolRequest {
                    pool: Some(pool),
                    ..v1::ApplyPoolRequest::default()
                })),
                Message::DeletePool(v1::DeletePoolRequest {
                    name: named(),
                    ..v1::DeletePoolRequest::default()
                }),
            ],
            [
                Message::ApplyReservation(Box::new(v1::ApplyReservationRequest {
                    reservation: Some(reservation),
                    ..v1::ApplyReservationRequest::default()
                })),
                Message::DeleteReservation(v1::DeleteReservationRequest {
                    name: named(),
                    ..v1::DeleteReservationRequest::default()
                }),
            ],
            [
                Message::ApplyQuota(Box::new(v1::ApplyQuotaRequest {
                    quota: Some(quota),
                    ..v1::ApplyQuotaRequest::default()
                })),
                Message::DeleteQuota(v1::DeleteQuotaRequest {
                    name: named(),
                    ..v1::DeleteQuotaRequest::default()
                }),
            ],
        ]
    }

    #[tokio::test]
    async fn an_edit_is_answered_with_what_it_left_and_not_with_what_came_after() {
        let server = Server::start(new_folder(), Clock::new(1)).await;
        for [apply, delete] in edits() {
            // The second edit changes nothing.
            let mut calls = Vec::new();
            for message in [apply.clone(), apply, delete] {
                let sent = Sent {
                    message,
                    at: 0,
                    deadline: None,
                };
                calls.push(UnderWay::begin(&server.api, sent).await);
            }
            for call in &mut calls {
                call.answered().await;
            }
            let outcomes: Vec<_> = calls.into_iter().map(|call| call.outcome).collect();
            assert_eq!(outcomes[2], Some(Outcome::Edited(None)));
            assert_eq!(outcomes[0], outcomes[1]);
            let Some(Outcome::Edited(Some(told))) = &outcomes[0] else {
                panic!("{outcomes:?}");
            };
            let is_there = match &**told {
                Subject::Pool(edit) => edit.after.is_some(),
                Subject::Reservation(edit) => edit.after.is_some(),
                Subject::Quota(edit) => edit.after.is_some(),
                Subject::Allocation(_)
                | Subject::Advertisement(_)
                | Subject::Cluster(_)
                | Subject::Unavailable(_)
                | Subject::BgpPeer(_)
                | Subject::BfdProfile(_)
                | Subject::AddressSpace(_) => false,
            };
            assert!(is_there, "{told:?}");
        }
        server.stop().await;
    }
}
