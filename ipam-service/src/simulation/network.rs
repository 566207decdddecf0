//! Calls on their way to a server, and what becomes of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use pharos_checker::calls::{Call, Outcome, Request as Asked};
use pharos_proto::v1;
use pharos_proto::v1::address_space_service_server::AddressSpaceService as _;
use pharos_proto::v1::allocation_service_server::AllocationService as _;
use pharos_proto::v1::cluster_service_server::ClusterService as _;
use pharos_proto::v1::pool_service_server::PoolService as _;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use super::requests::Message;
use crate::api::address_spaces::AddressSpaces;
use crate::api::allocations::Allocations;
use crate::api::call::{Admission, Api};
use crate::api::clusters::Clusters;
use crate::api::pools::Pools;

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
        let request = match &self.message {
            Message::Allocate(request) => Asked::Allocate(request.clone()),
            Message::Release(request) => Asked::Release(request.clone()),
            Message::ApplyPool(_)
            | Message::DeletePool(_)
            | Message::SyncPools(_)
            | Message::ApplyAddressSpace(_)
            | Message::BeginSync(_)
            | Message::EndSync(_) => Asked::Edit,
            Message::DeleteCluster(request) => Asked::DeleteCluster(request.name.clone()),
        };
        Call {
            start: self.at,
            end: Some(end),
            request,
            outcome,
        }
    }

    /// The same without its fence.
    pub(super) fn without_fence(mut self) -> Self {
        match &mut self.message {
            Message::Allocate(request) => request.fence = 0,
            Message::Release(request) => request.fence = 0,
            Message::SyncPools(request) => request.fence = 0,
            Message::BeginSync(request) => request.fence = 0,
            Message::EndSync(request) => request.fence = 0,
            Message::ApplyPool(_)
            | Message::DeletePool(_)
            | Message::ApplyAddressSpace(_)
            | Message::DeleteCluster(_) => {}
        }
        self
    }
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
    let edited = |outcome: Result<(), Status>| outcome.map(|()| Outcome::Edited);
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
            edited(answer.map(drop))
        }
        Message::DeletePool(request) => {
            let answer = pools.delete_pool(with(request, admission)).await;
            edited(answer.map(drop))
        }
        Message::SyncPools(request) => {
            let answer = pools.sync_pools(with(request, admission)).await;
            edited(answer.map(drop))
        }
        Message::ApplyAddressSpace(request) => {
            let spaces = AddressSpaces(api);
            let answer = spaces.apply_address_space(with(*request, admission)).await;
            edited(answer.map(drop))
        }
        Message::BeginSync(request) => {
            let answer = clusters.begin_sync(with(request, admission)).await;
            edited(answer.map(drop))
        }
        Message::EndSync(request) => {
            let answer = clusters.end_sync(with(request, admission)).await;
            edited(answer.map(drop))
        }
        Message::DeleteCluster(request) => {
            let answer = clusters.delete_cluster(with(request, admission)).await;
            edited(answer.map(drop))
        }
    };
    outcome.unwrap_or_else(|status| refused(&status))
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
