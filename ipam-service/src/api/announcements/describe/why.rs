//! Why nobody answers for an address.

use std::collections::BTreeMap;
use std::sync::Arc;

use pharos_proto::v1::announcement::Reason;

use super::RestsOn;
use super::says::Says;
use crate::api::convert_history::time_to_wire;
use crate::feed::assignments::Assigned;
use crate::feed::status::{Absent, Presence, View};
use crate::state::announce::{Held, NodeSet, Silence};
use crate::state::names::Name;

/// Most nodes that a sentence names.
const NAMED: usize = 3;

/// No announcer tells of a session.
const NO_SESSION: &str = "it is advertised by BGP only, and no node has a session: announcers of this \
                          version speak no BGP";

/// Why nobody answers.
pub(super) struct Why {
    /// Unspecified: somebody says that it answers.
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) rests_on: RestsOn,
}

/// What is known of sets of nodes, each looked at once.
pub(super) struct Presences<'a> {
    view: &'a View<'a>,
    known: BTreeMap<u64, Arc<Presence>>,
}

impl<'a> Presences<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        Self {
            view,
            known: BTreeMap::new(),
        }
    }

    fn of(&mut self, set: &NodeSet) -> Arc<Presence> {
        let known = self.known.entry(set.id);
        let look = || Arc::new(self.view.presence(&set.nodes));
        Arc::clone(known.or_insert_with(look))
    }
}

/// Of an address that is held and not assigned.
pub(super) fn of_held(held: &Held) -> Why {
    let (reason, detail) = match &held.silence {
        Some(silence) => (of_silence(silence), silence.to_string()),
        None => (
            Reason::NotYetAnnounced,
            "nodes are about to be told of it".to_owned(),
        ),
    };
    Why {
        reason,
        detail,
        rests_on: RestsOn::Policy,
    }
}

fn of_silence(silence: &Silence) -> Reason {
    match silence {
        Silence::NotAdvertised(_) => Reason::NotAdvertised,
        Silence::NoAnnouncer => Reason::NoAnnouncer,
        Silence::NoNodeSelected { .. } => Reason::NoNodeSelected,
        Silence::NoReadyEndpoint(_) => Reason::NoReadyEndpoint,
        Silence::FeatureMissing(_) => Reason::FeatureMissing,
        Silence::Conflicting(_) => Reason::ConflictingAdvertisements,
    }
}

/// Of one that nodes may announce. `says`: what those say who own it.
pub(super) fn of_assigned(
    presences: &mut Presences<'_>,
    assigned: &Assigned,
    says: impl Iterator<Item = Says> + Clone,
) -> Why {
    if assigned.assignment.interfaces.is_none() {
        return Why {
            reason: Reason::BgpNoSession,
            detail: NO_SESSION.to_owned(),
            rests_on: RestsOn::Answerers,
        };
    }
    let any = |wanted: Says| says.clone().any(|one| one == wanted);
    let by_owner = if any(Says::Answers) {
        Some((Reason::Unspecified, ""))
    } else if any(Says::Probes) {
        let detail =
            "its first owner asks whether another machine has it, or one has: see `conflicts`";
        Some((Reason::Probing, detail))
    } else if any(Says::Nowhere) {
        let detail = "its owner can answer it on none of the interfaces that the advertisements want: see \
                      `deaf` in the `status` of an explanation";
        Some((Reason::NoInterface, detail))
    } else {
        None
    };
    match by_owner {
        Some((reason, detail)) => Why {
            reason,
            detail: detail.to_owned(),
            rests_on: RestsOn::Answerers,
        },
        None => of_unowned(presences, assigned),
    }
}

/// Of one of which nobody says that it owns it.
fn of_unowned(presences: &mut Presences<'_>, assigned: &Assigned) -> Why {
    let fenced = assigned.assignment.fenced.as_ref();
    let named = fenced.map(|fenced| fenced.owner.as_ref().map(|owner| &owner.node));
    let nodes = match named {
        // Nobody else may answer.
        Some(Some(owner)) => Arc::new(NodeSet::new([owner.clone()])),
        Some(None) | None => {
            let none = || Arc::new(NodeSet::new([]));
            assigned.candidates.clone().unwrap_or_else(none)
        }
    };
    let presence = presences.of(&nodes);
    let listed = &assigned.assignment.nodes;
    let (reason, detail) = match (named, &*presence) {
        (Some(None) | None, Presence::Away(absent)) => (
            Reason::NoLiveNode,
            format!(
                "no node that may announce it has a stream: whether one answers is not known: {}",
                first(listed, absent)
            ),
        ),
        (
            Some(None),
            Presence::Unknown | Presence::Mute(_) | Presence::Missing(_) | Presence::Told,
        ) => (
            Reason::NoOwnerNamed,
            "it is fenced, and no node is named yet: none has a lease, or an earlier owner's is not over"
                .to_owned(),
        ),
        (Some(Some(_)), Presence::Away(absent) | Presence::Missing(absent)) => (
            Reason::NodeAway,
            format!(
                "the node that is named has no stream: whether it answers is not known: {}",
                first(listed, absent)
            ),
        ),
        (None, Presence::Missing(absent)) => (
            Reason::NodeAway,
            format!(
                "no node with a stream says that it answers; one without may: {}",
                first(listed, absent)
            ),
        ),
        (Some(Some(_)) | None, Presence::Unknown) => (
            Reason::Unknown,
            "not all nodes that may answer have told yet whether they do".to_owned(),
        ),
        (Some(Some(_)) | None, Presence::Mute(nodes)) => (
            Reason::Unknown,
            format!(
                "connected, and silent about what they answer for, or about some of it: {}",
                some(nodes.iter().map(Name::to_string), nodes.len())
            ),
        ),
        (Some(Some(_)) | None, Presence::Told) => (
            Reason::NotYetAnnounced,
            "nodes may announce it, and none says yet that it answers".to_owned(),
        ),
    };
    Why {
        reason,
        detail,
        rests_on: RestsOn::Nodes(nodes, presence),
    }
}

/// Those without a stream that are wanted first, and since when they have none.
fn first(listed: &[Name], absent: &[Absent]) -> String {
    let place = |one: &&Absent| {
        let place = listed.iter().position(|node| *node == one.node);
        place.unwrap_or(usize::MAX)
    };
    let mut all: Vec<&Absent> = absent.iter().collect();
    all.sort_by_key(place);
    let named = all.into_iter().map(|Absent { node, since }| match since {
        Some(since) => {
            let since = prost_types::Timestamp {
                nanos: 0,
                ..time_to_wire(*since)
            };
            format!("{node} (since {since})")
        }
        None => format!("{node} (for a day, or since ipam-service began)"),
    });
    some(named, absent.len())
}

/// The first of so many.
fn some(names: impl Iterator<Item = String>, all: usize) -> String {
    let mut text = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if all > NAMED {
        text += &format!(" and {} more", all - NAMED);
    }
    text
}
