//! ExplainAllocation: the question to the state, and its answer to the wire.

mod summary;

use pharos_proto::v1;
use tonic::Status;

use super::convert::{
    FieldErrors, allocate_from_wire, allocation_to_wire, family_to_wire, owner_from_wire,
    owner_key_to_wire,
};
use super::convert_allocation::pool_ref_to_wire;
use super::convert_history::time_to_wire;
use super::convert_refusal::{reason_to_wire, refusal_to_wire};
use super::pools::usage_to_wire;
use super::status;
use crate::engine::Engine;
use crate::state::address::Address;
use crate::state::command::Allocate;
use crate::state::model::Owner;
use crate::state::names::Name;
use crate::state::refusal::Rejection;
use crate::state::{
    AddressReport, Explanation, Holder, Obstacle, PoolReport, State, WaitingReport,
    explain_request, explain_stored,
};

/// What is to be explained.
enum Question {
    Stored(Owner),
    Request(Box<Allocate>),
}

/// Explains, as a read of the writer.
pub(super) async fn explain(
    engine: &Engine,
    message: v1::ExplainAllocationRequest,
) -> Result<v1::ExplainAllocationResponse, Status> {
    let question = question(&message).map_err(|error| status::of_rejection(&error))?;
    let is_request = matches!(question, Question::Request(_));
    let explained = engine.read(move |state| answer(state, &question)).await;
    let explained = explained.map_err(|error| status::of_submit(&error))?;
    let explanation = explained.map_err(|error| status::of_rejection(&error))?;
    Ok(to_wire(&explanation, is_request))
}

fn question(message: &v1::ExplainAllocationRequest) -> Result<Question, Rejection> {
    match (&message.owner, &message.request) {
        (None, Some(request)) => {
            let request = allocate_from_wire(request)?;
            Ok(Question::Request(Box::new(request)))
        }
        (owner, request) => {
            let mut errors = FieldErrors::new();
            if request.is_some() {
                errors.add("request", "must be absent where owner is given");
            }
            let owner = owner_from_wire(&mut errors, "owner", owner.as_ref());
            errors.finish(owner).map(Question::Stored)
        }
    }
}

fn answer(state: &State, question: &Question) -> Result<Explanation, Rejection> {
    match question {
        Question::Request(request) => explain_request(state, request),
        Question::Stored(owner) => {
            let stored = state.allocation(&owner.key);
            // Another incarnation is another owner.
            if stored.is_some_and(|stored| !stored.owner.is_incarnation(&owner.uid)) {
                return Err(Rejection::UnknownOwner(owner.key.clone()));
            }
            explain_stored(state, &owner.key)
        }
    }
}

fn to_wire(it: &Explanation, is_request: bool) -> v1::ExplainAllocationResponse {
    let mut outcome = allocation_to_wire(&it.outcome);
    if it
        .stored
        .as_ref()
        .is_none_or(|stored| stored.id != it.outcome.id)
    {
        // It has none yet.
        (outcome.id, outcome.revision, outcome.create_time) = (0, 0, None);
    }
    v1::ExplainAllocationResponse {
        summary: summary::of(it, is_request),
        stored: it.stored.as_ref().map(|stored| allocation_to_wire(stored)),
        outcome: Some(outcome),
        pools: it.pools.iter().map(pool_to_wire).collect(),
        more_pools: count(it.more_pools),
        addresses: it.addresses.iter().map(address_to_wire).collect(),
        waiting: it.waiting.as_ref().map(waiting_to_wire),
        revision: it.revision,
    }
}

fn pool_to_wire(pool: &PoolReport) -> v1::PoolExplanation {
    let held_by = pool.held_by.iter();
    v1::PoolExplanation {
        pool: Some(pool_ref_to_wire(&pool.key)),
        tried: pool.tried,
        gives: pool.gives.iter().map(Address::to_string).collect(),
        obstacles: pool.obstacles.iter().map(obstacle_to_wire).collect(),
        usage: Some(usage_to_wire(pool.usage)),
        held_by: held_by
            .map(|(cluster, addresses)| v1::pool_explanation::ClusterCount {
                cluster: cluster.as_ref().map_or_else(String::new, Name::to_string),
                addresses: *addresses,
            })
            .collect(),
        held_by_is_partial: pool.held_by_is_partial,
        sharing: pool.sharing.iter().map(obstacle_to_wire).collect(),
    }
}

fn obstacle_to_wire(obstacle: &Obstacle) -> v1::pool_explanation::Obstacle {
    v1::pool_explanation::Obstacle {
        reason: reason_to_wire(obstacle.reason).into(),
        family: obstacle.family.map_or(0, family_to_wire),
        message: obstacle.message.clone(),
    }
}

fn address_to_wire(address: &AddressReport) -> v1::AddressExplanation {
    v1::AddressExplanation {
        address: address.address.to_string(),
        pools: address.pools.iter().map(pool_ref_to_wire).collect(),
        holders: address.holders.iter().map(holder_to_wire).collect(),
        more_holders: count(address.more_holders),
        available: address.refusal.is_none(),
        refusal: address.refusal.as_ref().map(refusal_to_wire),
    }
}

fn holder_to_wire(holder: &Holder) -> v1::Owner {
    match holder {
        Holder::Owner(owner) => owner_key_to_wire(owner),
        Holder::Cluster(cluster) => v1::Owner {
            cluster: cluster.as_str().to_owned(),
            ..v1::Owner::default()
        },
        Holder::AnotherCluster => v1::Owner::default(),
    }
}

fn waiting_to_wire(waiting: &WaitingReport) -> v1::WaitingExplanation {
    v1::WaitingExplanation {
        since: waiting.since.map(|(time, _)| time_to_wire(time)),
        since_revision: waiting.since.map_or(0, |(_, revision)| revision),
        older_claims: count(waiting.older),
        first: waiting.first.as_ref().map(holder_to_wire),
        wakes_on: waiting.wakes_on.clone(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
