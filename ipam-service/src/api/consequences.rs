//! What a call changes beside what its response says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pharos_proto::v1;
use pharos_proto::v1::consequences::allocation_effect::Kind;
use pharos_proto::v1::consequences::object_effect::{Kind as ObjectKind, Object};
use pharos_proto::v1::consequences::{AllocationEffect, ObjectEffect};

use tonic::Status;

use super::call::Api;
use super::convert::owner_to_wire;
use super::convert_refusal::reason_to_wire;
use crate::engine::Reply;
use crate::state::State;
use crate::state::address::Address;
use crate::state::change::{Change, Edit};
use crate::state::model::{
    Allocation, AllocationId, OwnerKey, Pool, PoolKey, Standing, Unavailable,
};
use crate::state::names::Name;

/// Most effects of each kind that are listed: a response stays readable, and below the size limit of
/// clients.
const MAX_LISTED: usize = 100;

/// Most ranges of a pool that are told.
const MAX_OUTSIDE: usize = 8;

/// What is told of the owner of an allocation.
type Named<'a> = &'a dyn Fn(&Allocation) -> Option<v1::Owner>;

/// The consequences of an operator's command.
pub(super) fn of(reply: &Reply) -> Option<v1::Consequences> {
    let named = |one: &Allocation| Some(owner_to_wire(&one.owner));
    listed(reply, None, &named, &BTreeMap::new())
}

/// The same of an edit of pools, with what of them is granted to nobody.
pub(super) async fn of_pools(api: &Api, reply: &Reply) -> Result<Option<v1::Consequences>, Status> {
    let outside = outside_grants(api, reply).await?;
    let named = |one: &Allocation| Some(owner_to_wire(&one.owner));
    Ok(listed(reply, None, &named, &outside))
}

/// The same of a command that a cluster gave: it learns no other cluster's owners. `own` is the owner
/// whose allocation the response tells otherwise.
pub(super) async fn for_cluster(
    api: &Api,
    reply: &Reply,
    cluster: &Name,
    own: Option<&OwnerKey>,
) -> Result<Option<v1::Consequences>, Status> {
    let hiding = hiding_spaces(api, reply, cluster).await?;
    let named = |one: &Allocation| match &one.owner.key.cluster {
        itself if itself == cluster => Some(owner_to_wire(&one.owner)),
        _ if hiding.contains(&one.effective_claim().space) => None,
        other => Some(v1::Owner {
            cluster: other.to_string(),
            ..v1::Owner::default()
        }),
    };
    let outside = outside_grants(api, reply).await?;
    Ok(listed(reply, own, &named, &outside))
}

/// Those address spaces of other clusters' allocations that hide holders.
async fn hiding_spaces(api: &Api, reply: &Reply, cluster: &Name) -> Result<BTreeSet<Name>, Status> {
    let edits = reply.changes.iter().filter_map(Change::allocation);
    let others = edits.flat_map(|edit| [&edit.before, &edit.after]).flatten();
    let others = others.filter(|one| one.owner.key.cluster != *cluster);
    let spaces: BTreeSet<Name> = others
        .map(|one| one.effective_claim().space.clone())
        .collect();
    if spaces.is_empty() {
        return Ok(spaces);
    }
    let hides = move |state: &State| {
        let hiding = spaces
            .into_iter()
            .filter(|space| state.hides_holders(space));
        hiding.collect()
    };
    api.read(hides).await
}

/// What of the edited pools is granted to nobody who may use them.
async fn outside_grants(api: &Api, reply: &Reply) -> Result<Outside, Status> {
    let edits = reply.changes.iter().filter_map(Change::pool);
    let pools: Vec<Arc<Pool>> = edits.filter_map(|edit| edit.after.clone()).collect();
    if pools.is_empty() {
        return Ok(Outside::new());
    }
    let read = move |state: &State| {
        let all = pools.iter().map(|pool| {
            let outside = state.outside_grants(pool, MAX_OUTSIDE).into_iter();
            let texts = outside.map(|range| range.written()).collect();
            (pool.key.clone(), texts)
        });
        all.collect()
    };
    api.read(read).await
}

/// Ranges, by pool.
type Outside = BTreeMap<PoolKey, Vec<String>>;

fn listed(
    reply: &Reply,
    own: Option<&OwnerKey>,
    named: Named<'_>,
    outside: &Outside,
) -> Option<v1::Consequences> {
    let mut allocations = allocation_effects(&reply.changes, own, named);
    let mut objects = object_effects(&reply.changes, outside);
    let consequences = v1::Consequences {
        more_allocations: cut(&mut allocations),
        allocations,
        more_objects: cut(&mut objects),
        objects,
        unfinished: reply.unfinished,
        remaining: u32::try_from(reply.remaining).unwrap_or(u32::MAX),
    };
    (consequences != v1::Consequences::default()).then_some(consequences)
}

/// Shortens a list to what is told; how many are left out.
fn cut<T>(effects: &mut Vec<T>) -> u32 {
    let more = effects.len().saturating_sub(MAX_LISTED);
    effects.truncate(MAX_LISTED);
    u32::try_from(more).unwrap_or(u32::MAX)
}

/// Each allocation from its first before to its last after, by owner.
fn allocation_effects(
    changes: &[Change],
    own: Option<&OwnerKey>,
    named: Named<'_>,
) -> Vec<AllocationEffect> {
    let mut edits: BTreeMap<(&OwnerKey, AllocationId), Edit<Allocation>> = BTreeMap::new();
    for change in changes {
        let Change::Allocation(edit) = change else {
            continue;
        };
        let subject = edit.subject();
        if Some(&subject.owner.key) == own {
            continue;
        }
        edits
            .entry((&subject.owner.key, subject.id))
            .and_modify(|merged| merged.after.clone_from(&edit.after))
            .or_insert_with(|| edit.clone());
    }
    let effects = edits.values();
    effects
        .filter_map(|edit| allocation_effect(edit, named))
        .collect()
}

fn allocation_effect(edit: &Edit<Allocation>, named: Named<'_>) -> Option<AllocationEffect> {
    let held = |one: &Option<Arc<Allocation>>| -> Vec<Address> {
        one.as_ref()
            .map_or_else(Vec::new, |one| one.addresses.clone())
    };
    let (before, after) = (held(&edit.before), held(&edit.after));
    let kind = match (&edit.before, &edit.after) {
        (None, None) => return None,
        (Some(_), None) => Kind::Released,
        (None, Some(_)) if after.is_empty() => Kind::Queued,
        (None, Some(_)) => Kind::Granted,
        (Some(_), Some(_)) if before == after => Kind::Updated,
        (Some(_), Some(_)) if before.is_empty() => Kind::Granted,
        (Some(_), Some(_)) if after.is_empty() => Kind::Lost,
        (Some(_), Some(_)) => Kind::Moved,
    };
    let reason = edit.after.as_ref().and_then(|after| match &after.standing {
        Standing::Assigned => None,
        Standing::Pending(refusal) | Standing::Stale { refusal, .. } => Some(refusal.reason),
    });
    let texts = |all: &[Address]| all.iter().map(Address::to_string).collect();
    Some(AllocationEffect {
        owner: named(edit.subject()),
        kind: kind.into(),
        before: texts(&before),
        after: texts(&after),
        reason: reason.map_or(0, |reason| reason_to_wire(reason).into()),
    })
}

/// In the order of the log.
fn object_effects(changes: &[Change], outside: &Outside) -> Vec<ObjectEffect> {
    let text = |name: Option<&Name>| name.map_or_else(String::new, |name| name.as_str().to_owned());
    let objects = changes.iter().filter_map(|change| {
        let (kind, object, name, cluster, space) = match change {
            Change::Pool(edit) => {
                let key = &edit.subject().key;
                let (cluster, space) = (key.cluster.as_ref(), Some(&key.space));
                (kind_of(edit), Object::Pool, &key.name, cluster, space)
            }
            Change::Advertisement(edit) => {
                let one = edit.subject();
                let (cluster, space) = (one.key.cluster.as_ref(), Some(&one.space));
                let object = Object::Advertisement;
                (kind_of(edit), object, &one.key.name, cluster, space)
            }
            Change::BgpPeer(edit) => {
                let key = &edit.subject().key;
                let cluster = key.cluster.as_ref();
                (kind_of(edit), Object::BgpPeer, &key.name, cluster, None)
            }
            Change::BfdProfile(edit) => {
                let key = &edit.subject().key;
                let cluster = key.cluster.as_ref();
                (kind_of(edit), Object::BfdProfile, &key.name, cluster, None)
            }
            Change::Reservation(edit) => {
                let key = &edit.subject().key;
                let object = Object::Reservation;
                (kind_of(edit), object, &key.name, None, Some(&key.space))
            }
            Change::Quota(edit) => {
                let one = edit.subject();
                let (cluster, space) = (Some(&one.cluster), Some(&one.space));
                (kind_of(edit), Object::Quota, &one.name, cluster, space)
            }
            Change::Cluster(edit) => {
                let name = &edit.subject().name;
                (kind_of(edit), Object::Cluster, name, Some(name), None)
            }
            Change::AddressSpace(edit) => {
                let name = &edit.subject().name;
                (kind_of(edit), Object::AddressSpace, name, None, Some(name))
            }
            Change::Unavailable(edit) => return Some(unavailable_effect(edit)),
            Change::Allocation(_)
            | Change::Node(_)
            | Change::Backends(_)
            | Change::Placement(_)
            | Change::Tenure(_) => return None,
        };
        Some(ObjectEffect {
            kind: kind.into(),
            object: object.into(),
            name: name.as_str().to_owned(),
            cluster: text(cluster),
            address_space: text(space),
            outside_grant: change
                .pool()
                .and_then(|edit| outside.get(&edit.subject().key).cloned())
                .unwrap_or_default(),
        })
    });
    objects.collect()
}

/// The address is the name: rows that keep one from its next owner have no other.
fn unavailable_effect(edit: &Edit<Unavailable>) -> ObjectEffect {
    let key = &edit.subject().key;
    ObjectEffect {
        kind: kind_of(edit).into(),
        object: Object::Unavailable.into(),
        name: key.address.to_string(),
        cluster: String::new(),
        address_space: key.space.as_str().to_owned(),
        outside_grant: Vec::new(),
    }
}

fn kind_of<T>(edit: &Edit<T>) -> ObjectKind {
    match (&edit.before, &edit.after) {
        (None, _) => ObjectKind::Created,
        (Some(_), Some(_)) => ObjectKind::Updated,
        (Some(_), None) => ObjectKind::Deleted,
    }
}

#[cfg(test)]
mod tests;
