//! What is known of a cluster at one moment: who answers, who else does, and whether that is all there is to
//! know. A node that has not told yet may answer for anything that it is a candidate for, and so may one that
//! has no stream.

use std::sync::MutexGuard;

use super::cluster::{OfCluster, OfNode, Standing};
use super::{Answerer, SeenConflict, Told};
use crate::state::announce::AssignmentKey;
use crate::state::model::{AllocationId, Timestamp};
use crate::state::names::Name;

/// What is known of one cluster now.
#[derive(Debug)]
pub struct View<'a> {
    told: MutexGuard<'a, Told>,
    cluster: &'a Name,
}

/// What is known of the candidates of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// One of them may tell yet whether it answers: it has connected, or ipam-service has begun, a moment ago.
    Unknown,
    /// These have a stream and have not told all, or have told more than is kept.
    Mute(Vec<Name>),
    /// None of them has a stream.
    Away(Vec<Absent>),
    /// These have none, and the others have told.
    Missing(Vec<Absent>),
    /// All have told.
    Told,
}

/// A node without a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    pub node: Name,
    /// `None`: it had none since the service began, or for a day.
    pub since: Option<Timestamp>,
}

impl<'a> View<'a> {
    /// `told` has forgotten what is over.
    pub(super) fn new(told: MutexGuard<'a, Told>, cluster: &'a Name) -> Self {
        Self { told, cluster }
    }

    /// Who says that it answers for a group, by name.
    pub fn answerers(&self, group: AllocationId) -> Vec<Answerer> {
        let of_cluster = self.of_cluster();
        of_cluster.map_or_else(Vec::new, |it| it.answerers(group))
    }

    /// Other machines that nodes see use an address, by node, and whether there are more of them than
    /// [`super::CONFLICTS_SHOWN`].
    pub fn conflicts(&self, address: &AssignmentKey) -> (Vec<SeenConflict>, bool) {
        let of_cluster = self.of_cluster();
        of_cluster
            .map(|it| it.conflicts(address))
            .unwrap_or_default()
    }

    /// What is known of these nodes.
    pub fn presence(&self, candidates: &[Name]) -> Presence {
        let (mut is_expected, mut is_anyone_there) = (false, false);
        let (mut mute, mut absent) = (Vec::new(), Vec::new());
        for node in candidates {
            match self.standing(node) {
                Standing::Expected => is_expected = true,
                Standing::Mute => mute.push(node.clone()),
                Standing::Away(since) => absent.push(Absent {
                    node: node.clone(),
                    since,
                }),
                Standing::Told => is_anyone_there = true,
            }
        }
        if is_expected {
            Presence::Unknown
        } else if !mute.is_empty() {
            Presence::Mute(mute)
        } else if !is_anyone_there {
            Presence::Away(absent)
        } else if !absent.is_empty() {
            Presence::Missing(absent)
        } else {
            Presence::Told
        }
    }

    fn standing(&self, node: &Name) -> Standing {
        let known = self.of_cluster().and_then(|it| it.nodes.get(node));
        let standing = known.and_then(OfNode::standing);
        standing.unwrap_or(match self.told.settles {
            Some(_) => Standing::Expected,
            None => Standing::Away(None),
        })
    }

    fn of_cluster(&self) -> Option<&OfCluster> {
        self.told.clusters.get(self.cluster)
    }
}
