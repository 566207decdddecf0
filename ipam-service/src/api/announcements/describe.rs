//! An announcement as people are told it: what is assigned, what nodes say of it, who else uses the address,
//! and why nobody answers ([`why`]). Reads the feeds, asks nobody.

mod says;
mod why;

use std::collections::BTreeMap;
use std::sync::Arc;

use pharos_proto::v1;

use self::says::Says;
use self::why::{Presences, Why};
use crate::api::convert_announce::assignments::{fenced_to_wire, key_to_wire};
use crate::api::convert_history::time_to_wire;
use crate::feed::assignments::Assigned;
use crate::feed::status::{Answerer, Presence, SeenConflict, View};
use crate::state::address::Address;
use crate::state::announce::{AssignmentKey, Held, NodeSet};
use crate::state::model::{AllocationId, OwnerKey};

/// Announcements by address.
pub(super) type Descriptions = BTreeMap<AssignmentKey, Description>;

/// What is told of an address, and what that rests on beside what is assigned and what nodes say of its group.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub(super) wire: v1::Announcement,
    pub(super) rests_on: RestsOn,
}

/// What else is to be looked at, to know whether something else is to be told.
#[derive(Debug, Clone)]
pub(super) enum RestsOn {
    /// Nothing.
    Answerers,
    /// Advertisements, pools and nodes, as the state has them: it is not assigned.
    Policy,
    /// What is known of these nodes.
    Nodes(Arc<NodeSet>, Arc<Presence>),
}

/// What is assigned, and what is held and not assigned; of what is both the first counts.
pub(super) fn describe(view: &View<'_>, assigned: &[Assigned], held: &[Held]) -> Descriptions {
    let mut presences = Presences::new(view);
    let silent = held.iter().map(|one| (one.key.clone(), silent(view, one)));
    let mut all: Descriptions = silent.collect();
    for one in assigned {
        let key = one.assignment.key.clone();
        all.insert(key, announced(view, &mut presences, one));
    }
    all
}

/// One that nodes may announce.
fn announced(view: &View<'_>, presences: &mut Presences<'_>, assigned: &Assigned) -> Description {
    let assignment = &assigned.assignment;
    let address = assignment.key.address;
    // Who owns the group does so for what is announced by layer 2.
    let answerers = match &assignment.interfaces {
        Some(_) => answerers(view, assignment.group, address),
        None => Vec::new(),
    };
    let says = answerers.iter().map(|(says, _)| *says);
    let why = why::of_assigned(presences, assigned, says);
    let key = key_to_wire(&assignment.key);
    let (conflicts, more_conflicts) = conflicts(view, &assignment.key);
    let wire = v1::Announcement {
        address_space: key.address_space,
        address: key.address,
        group: assignment.group,
        owners: sorted(&assignment.owners),
        not_announced_here: sorted(&assignment.left_out),
        nodes: assignment.nodes.iter().map(ToString::to_string).collect(),
        answerers: to_wire(&answerers, address),
        reason: why.reason.into(),
        detail: why.detail,
        conflicts,
        more_conflicts,
        fenced: assignment.fenced.as_ref().map(fenced_to_wire),
    };
    let rests_on = why.rests_on;
    Description { wire, rests_on }
}

/// One that nobody may announce. A node that was to until a moment ago may answer yet.
fn silent(view: &View<'_>, held: &Held) -> Description {
    let key = key_to_wire(&held.key);
    let address = held.key.address;
    let Why {
        reason,
        detail,
        rests_on,
    } = why::of_held(held);
    let (conflicts, more_conflicts) = conflicts(view, &held.key);
    let wire = v1::Announcement {
        address_space: key.address_space,
        address: key.address,
        group: held.group,
        owners: sorted(&held.owners),
        not_announced_here: Vec::new(),
        nodes: Vec::new(),
        answerers: to_wire(&answerers(view, held.group, address), address),
        reason: reason.into(),
        detail,
        conflicts,
        more_conflicts,
        fenced: None,
    };
    Description { wire, rests_on }
}

/// Those who own an address of a group, and what they say of it.
fn answerers(view: &View<'_>, group: AllocationId, address: Address) -> Vec<(Says, Answerer)> {
    let all = view.answerers(group).into_iter();
    let own = all.filter_map(|one| Some((Says::of(address, &one.ownership)?, one)));
    own.collect()
}

fn to_wire(answerers: &[(Says, Answerer)], address: Address) -> Vec<v1::Answerer> {
    let answerers = answerers.iter();
    answerers
        .map(|(says, one)| v1::Answerer {
            node: one.node.to_string(),
            ownership: Some(says.of_address(address, &one.ownership)),
            unknown_since: one.unknown_since.map(time_to_wire),
        })
        .collect()
}

fn conflicts(view: &View<'_>, key: &AssignmentKey) -> (Vec<v1::SeenConflict>, bool) {
    let (seen, is_more) = view.conflicts(key);
    let seen = seen.into_iter().map(conflict_to_wire);
    (seen.collect(), is_more)
}

pub(super) fn conflict_to_wire(seen: SeenConflict) -> v1::SeenConflict {
    v1::SeenConflict {
        node: seen.node.to_string(),
        conflict: Some(seen.conflict),
        first_seen: Some(time_to_wire(seen.first_seen)),
        last_seen: Some(time_to_wire(seen.last_seen)),
    }
}

fn sorted(owners: &[OwnerKey]) -> Vec<String> {
    let mut owners: Vec<String> = owners.iter().map(OwnerKey::to_string).collect();
    owners.sort();
    owners
}

#[cfg(test)]
mod tests;
