//! What Allocate, Release and a new decision about a stored claim change.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use super::address::Address;
use super::choice::{Asking, Grant, NEWCOMER};
use super::cluster;
use super::command::{Allocate, IfRefused, Release};
use super::draft::Draft;
use super::model::{Allocation, AllocationId, Claim, OwnerKey, Placement, Revision, Standing};
use super::names::Name;
use super::pool::{Holding, Homes};
use super::refusal::{Refusal, Rejection};

/// Takes addresses for an owner.
///
/// An equal claim of the same incarnation changes nothing. A changed one keeps its addresses where
/// they fit; where they do not, and no others do, they stay held under the earlier claim. Another
/// incarnation is a release followed by an allocation, in one decision: it gets the addresses of
/// the one before if they fit and nobody who waits could use them.
pub(super) fn allocate(draft: &mut Draft<'_>, command: &Allocate) -> Result<(), Rejection> {
    let owner = &command.owner;
    cluster::contact(draft, &owner.key.cluster, command.fence)?;
    let existing = draft.state.allocation(&owner.key);
    check_revision(&owner.key, existing, command.if_revision)?;
    match existing {
        Some(held) if held.owner.is_incarnation(&owner.uid) => renew(draft, held, command),
        Some(former) => {
            let wished = wished_after(former, command);
            let answer = first_answer(draft.state, command, &wished)?;
            draft.drop_allocation(former);
            create(draft, command, answer);
            Ok(())
        }
        None => {
            let answer = first_answer(draft.state, command, &command.held)?;
            create(draft, command, answer);
            Ok(())
        }
    }
}

/// Gives an owner's addresses back, or withdraws its claim. Another incarnation's are left alone.
pub(super) fn release(draft: &mut Draft<'_>, command: &Release) -> Result<(), Rejection> {
    let owner = &command.owner;
    if draft.state.cluster(&owner.key.cluster).is_some() {
        cluster::contact(draft, &owner.key.cluster, command.fence)?;
    }
    let Some(held) = draft.state.allocation(&owner.key) else {
        return if command.allow_missing {
            Ok(())
        } else {
            Err(Rejection::UnknownOwner(owner.key.clone()))
        };
    };
    if !held.owner.is_incarnation(&owner.uid) {
        return Ok(());
    }
    check_revision(&owner.key, Some(held), command.if_revision)?;
    draft.drop_allocation(held);
    Ok(())
}

/// Decides a stored claim again. No change if the answer is what it was.
///
/// Who has what it asked for is moved only when the pools forbid what it holds. A pool that is
/// renamed, or a range that goes over to another pool, moves no address, not even where a claim
/// names the pool: the same claim gets the same answer for ever.
pub(super) fn redecide(draft: &mut Draft<'_>, owner: &OwnerKey) {
    let Some(held) = draft.state.allocation(owner) else {
        return;
    };
    let permitted_by = match held.standing {
        Standing::Assigned => kept_by(draft.state, held, &held.claim),
        Standing::Pending(_) | Standing::Stale { .. } => None,
    };
    let answer = Asking::again(draft.state, held).choose();
    let renewed = match (permitted_by, answer) {
        // Only a second family beside it is better than what it has.
        (Some(homes), Ok(grant)) if grant.adds_to(&held.addresses, homes) => {
            answered(draft.state, held, held.claim.clone(), Ok(grant))
        }
        (Some(homes), _) => {
            let mut kept = Allocation::clone(held);
            homes.record(&mut kept);
            kept
        }
        (None, answer) => answered(draft.state, held, held.claim.clone(), answer),
    };
    put_if_changed(draft, held, renewed);
}

/// The same owner asks again, with the same or another claim.
fn renew(
    draft: &mut Draft<'_>,
    held: &Arc<Allocation>,
    command: &Allocate,
) -> Result<(), Rejection> {
    let asking = Asking {
        wished: &command.held,
        ..Asking::renewed(draft.state, held, &command.claim)
    };
    let is_content = held.claim == command.claim && held.standing == Standing::Assigned;
    let answer = match is_content {
        true => asking.taken_back().map(Ok),
        false => Some(asking.choose()),
    };
    if let (Some(Err(refusal)), IfRefused::Fail) = (&answer, command.if_refused) {
        return Err(refusal.clone().into());
    }
    let mut renewed = match answer {
        Some(answer) => answered(draft.state, held, command.claim.clone(), answer),
        None => Allocation::clone(held),
    };
    if renewed.owner.uid.is_empty() {
        renewed.owner.uid.clone_from(&command.owner.uid);
    }
    let adopted = adopted(command, &held.addresses, &renewed.addresses);
    put_if_changed(draft, held, renewed);
    note_announced(draft, held.id, &command.owner.key.cluster, adopted);
    Ok(())
}

/// An allocation after its claim got this answer.
fn answered(
    state: &State,
    held: &Allocation,
    claim: Arc<Claim>,
    answer: Result<Grant, Refusal>,
) -> Allocation {
    let mut after = held.clone();
    match answer {
        Ok(grant) => {
            after.standing = Standing::Assigned;
            after.addresses = grant.addresses;
            after.pool = Some(grant.pool);
            after.second_pool = grant.second_pool;
            // Only a store that recovers gives such an address, and only to who had it in use.
            after.outside_grant = is_outside(state, &after);
        }
        // Make before break: what is held stays, unless a rule of the pools forbids it.
        Err(refusal) => match kept_by(state, held, &claim) {
            Some(homes) => {
                after.standing = Standing::Stale {
                    refusal: Box::new(refusal),
                    held_claim: Box::new(held.effective_claim().clone()),
                };
                homes.record(&mut after);
            }
            None => {
                after.standing = Standing::Pending(Box::new(refusal));
                after.addresses = Vec::new();
                after.pool = None;
                after.second_pool = None;
            }
        },
    }
    after.claim = claim;
    after
}

/// The pools that permit what is held under the labels that the owner has now.
fn kept_by<'a>(state: &'a State, held: &Allocation, labels: &Claim) -> Option<Homes<'a>> {
    Holding::of(held)?.permitted_by(&state.pools, labels)
}

/// Whether something is held outside the grant of its cluster.
fn is_outside(state: &State, held: &Allocation) -> bool {
    let cluster = &held.owner.key.cluster;
    held.held().any(|(address, pool)| {
        let view = state.pools.view(&pool.space, cluster);
        !view.reach().contains(address)
    })
}

fn put_if_changed(draft: &mut Draft<'_>, held: &Arc<Allocation>, mut renewed: Allocation) {
    renewed.outside_grant &= is_outside(draft.state, &renewed);
    if renewed != **held {
        draft.put_allocation(Some(held), renewed);
    }
}

/// What an incarnation that follows another wishes for: what it uses now, then what that one gives
/// back.
pub(super) fn wished_after(former: &Allocation, command: &Allocate) -> Vec<Address> {
    let pool = former.pool.as_ref();
    let vacated = match pool.is_some_and(|pool| pool.space == command.claim.space) {
        true => former.addresses.as_slice(),
        false => &[],
    };
    [&command.held, vacated].concat()
}

/// The question of an owner that is not stored.
pub(super) fn newcomer<'a>(
    state: &'a State,
    command: &'a Allocate,
    wished: &'a [Address],
) -> Asking<'a> {
    Asking {
        state,
        owner: &command.owner.key,
        claim: &command.claim,
        arrival: NEWCOMER,
        current: &[],
        current_pools: [None, None],
        wished,
        keeps_outside_grant: false,
    }
}

/// The answer to a claim of an owner that is not stored; a refusal is to be queued.
fn first_answer(
    state: &State,
    command: &Allocate,
    wished: &[Address],
) -> Result<Result<Grant, Refusal>, Rejection> {
    let answer = newcomer(state, command, wished).choose();
    match (answer, command.if_refused) {
        (Err(refusal), IfRefused::Fail) => Err(refusal.into()),
        (answer, IfRefused::Fail | IfRefused::Queue) => Ok(answer),
    }
}

fn create(draft: &mut Draft<'_>, command: &Allocate, answer: Result<Grant, Refusal>) {
    let (standing, grant) = match answer {
        Ok(grant) => (Standing::Assigned, Some(grant)),
        Err(refusal) => (Standing::Pending(Box::new(refusal)), None),
    };
    let (addresses, pool, second_pool) = match grant {
        Some(grant) => (grant.addresses, Some(grant.pool), grant.second_pool),
        None => (Vec::new(), None, None),
    };
    let id = draft.next_id();
    let mut allocation = Allocation {
        id,
        owner: command.owner.clone(),
        claim: command.claim.clone(),
        standing,
        addresses,
        pool,
        second_pool,
        outside_grant: false,
        revision: id,
        create_time: draft.now,
    };
    allocation.outside_grant = is_outside(draft.state, &allocation);
    let adopted = adopted(command, &[], &allocation.addresses);
    draft.put_allocation(None, allocation);
    note_announced(draft, id, &command.owner.key.cluster, adopted);
}

/// What an owner came to hold because it has it in use: that is announced already, by somebody.
fn adopted(command: &Allocate, before: &[Address], after: &[Address]) -> BTreeSet<Address> {
    let after = after.iter().copied();
    let is_new = |address: &Address| !before.contains(address);
    after
        .filter(|address| is_new(address) && command.held.contains(address))
        .collect()
}

fn note_announced(
    draft: &mut Draft<'_>,
    group: AllocationId,
    cluster: &Name,
    addresses: BTreeSet<Address>,
) {
    if addresses.is_empty() {
        return;
    }
    let known = draft.state.placement(group);
    let mut placement = known.map_or_else(
        || Placement {
            group,
            cluster: cluster.clone(),
            nodes: Vec::new(),
            announced: BTreeSet::new(),
        },
        |known| Placement::clone(known),
    );
    placement.announced.extend(addresses);
    draft.placement(known, placement);
}

fn check_revision(
    owner: &OwnerKey,
    held: Option<&Arc<Allocation>>,
    seen: Option<Revision>,
) -> Result<(), Rejection> {
    let current = held.map_or(0, |held| held.revision);
    match seen {
        Some(given) if given != current => Err(Rejection::StaleRevision {
            owner: owner.clone(),
            current,
            given,
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
