//! An announcement as people are told it: what is assigned, what nodes say of it, who else uses the address,
//! and why nobody answers. Reads the feeds, asks nobody.

use std::collections::BTreeMap;

use pharos_proto::v1;
use pharos_proto::v1::announcement::Reason;

use crate::api::convert_announce::assignments::{fenced_to_wire, key_to_wire};
use crate::api::convert_history::time_to_wire;
use crate::feed::assignments::Assigned;
use crate::feed::status::{Answerer, Presence, SeenConflict, View};
use crate::state::address::Address;
use crate::state::announce::{Assignment, AssignmentKey, Held, Silence};
use crate::state::model::OwnerKey;
use crate::state::names::Name;

/// Announcements by address.
pub(super) type Described = BTreeMap<AssignmentKey, v1::Announcement>;

/// What is assigned, and what is held and not assigned; of what is both the first counts.
pub(super) fn describe(view: &View<'_>, assigned: &[Assigned], held: &[Held]) -> Described {
    let silent = held.iter().map(|one| (one.key.clone(), silent(view, one)));
    let assigned = assigned.iter().map(|one| {
        let candidates = one.candidates.as_ref().map(|set| set.nodes.as_slice());
        let key = one.assignment.key.clone();
        let candidates = candidates.unwrap_or_default();
        (key, announced(view, &one.assignment, candidates))
    });
    silent.chain(assigned).collect()
}

/// One that these nodes may announce.
pub(super) fn announced(
    view: &View<'_>,
    assignment: &Assignment,
    candidates: &[Name],
) -> v1::Announcement {
    let answerers = view.answerers(assignment.group);
    let why = why_nobody(view, assignment, candidates, &answerers);
    let (reason, detail) = why.unwrap_or((Reason::Unspecified, ""));
    let key = key_to_wire(&assignment.key);
    v1::Announcement {
        address_space: key.address_space,
        address: key.address,
        group: assignment.group,
        owners: sorted(&assignment.owners),
        not_announced_here: sorted(&assignment.left_out),
        nodes: assignment.nodes.iter().map(Name::to_string).collect(),
        answerers: answerers.iter().map(answerer_to_wire).collect(),
        reason: reason.into(),
        detail: detail.to_owned(),
        conflicts: conflicts(view, &assignment.key),
        fenced: assignment.fenced.as_ref().map(fenced_to_wire),
    }
}

/// One that nobody may announce. A node that was to until a moment ago may answer yet.
fn silent(view: &View<'_>, held: &Held) -> v1::Announcement {
    let key = key_to_wire(&held.key);
    let (reason, detail) = match &held.silence {
        Some(silence) => (of_silence(silence), silence.to_string()),
        None => (
            Reason::NotYetAnnounced,
            "nodes are about to be told of it".to_owned(),
        ),
    };
    v1::Announcement {
        address_space: key.address_space,
        address: key.address,
        group: held.group,
        owners: sorted(&held.owners),
        not_announced_here: Vec::new(),
        nodes: Vec::new(),
        answerers: view
            .answerers(held.group)
            .iter()
            .map(answerer_to_wire)
            .collect(),
        reason: reason.into(),
        detail,
        conflicts: conflicts(view, &held.key),
        fenced: None,
    }
}

fn of_silence(silence: &Silence) -> Reason {
    match silence {
        Silence::NotAdvertised(_) => Reason::NotAdvertised,
        Silence::NoAnnouncer => Reason::NoAnnouncer,
        Silence::NoNodeSelected { .. } => Reason::NoNodeSelected,
        Silence::NoReadyEndpoint(_) => Reason::NoReadyEndpoint,
        Silence::FeatureMissing(_) => Reason::FeatureMissing,
    }
}

/// `None`: somebody says that it answers.
fn why_nobody(
    view: &View<'_>,
    assignment: &Assignment,
    candidates: &[Name],
    answerers: &[Answerer],
) -> Option<(Reason, &'static str)> {
    let address = assignment.key.address;
    if is_answered(address, answerers) {
        return None;
    }
    if answerers.iter().any(|one| probes(address, one)) {
        let detail =
            "its first owner asks whether another machine has it, or one has: see `conflicts`";
        return Some((Reason::Probing, detail));
    }
    if !answerers.is_empty() {
        let detail = "its owner has none of the interfaces that the advertisements want";
        return Some((Reason::NoInterface, detail));
    }
    Some(match view.presence(candidates) {
        Presence::Unknown => (
            Reason::Unknown,
            "not all nodes that may answer have told yet whether they do",
        ),
        Presence::Away => (
            Reason::NoLiveNode,
            "no node that may announce it is connected: whether one answers is not known",
        ),
        Presence::Told => match &assignment.fenced {
            Some(fenced) if fenced.owner.is_none() => (
                Reason::NoOwnerNamed,
                "it is fenced, and no node is named yet: none has a lease, or an earlier owner's is not over",
            ),
            Some(_) | None => (
                Reason::NotYetAnnounced,
                "nodes may announce it, and none says yet that it answers",
            ),
        },
    })
}

fn is_answered(address: Address, answerers: &[Answerer]) -> bool {
    let mut all = answerers.iter();
    all.any(|one| !one.ownership.interfaces.is_empty() && !probes(address, one))
}

/// Whether it asks for the address before it answers.
fn probes(address: Address, one: &Answerer) -> bool {
    let mut probing = one.ownership.probing.iter();
    probing.any(|text| {
        let probed = pharos_proto::net::parse_address(text).map(Address::from);
        probed.is_ok_and(|probed| probed == address)
    })
}

fn conflicts(view: &View<'_>, key: &AssignmentKey) -> Vec<v1::SeenConflict> {
    let seen = view.conflicts(key).into_iter();
    seen.map(conflict_to_wire).collect()
}

pub(super) fn conflict_to_wire(seen: SeenConflict) -> v1::SeenConflict {
    v1::SeenConflict {
        node: seen.node.to_string(),
        conflict: Some(seen.conflict),
        first_seen: Some(time_to_wire(seen.first_seen)),
        last_seen: Some(time_to_wire(seen.last_seen)),
    }
}

fn answerer_to_wire(answerer: &Answerer) -> v1::Answerer {
    v1::Answerer {
        node: answerer.node.to_string(),
        ownership: Some(answerer.ownership.clone()),
        unknown_since: answerer.unknown_since.map(time_to_wire),
    }
}

fn sorted(owners: &[OwnerKey]) -> Vec<String> {
    let mut owners: Vec<String> = owners.iter().map(OwnerKey::to_string).collect();
    owners.sort();
    owners
}
