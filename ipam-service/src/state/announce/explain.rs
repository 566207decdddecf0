//! What speaks for and against each node of a cluster for an address. Decides nothing itself: it asks
//! the same functions that decide.

use super::group::Component;
use super::nodes::Nodes;
use super::policy::Memory;
use super::{Assignment, AssignmentKey};
use crate::state::State;
use crate::state::model::{AdvertisementKey, Node, OwnerKey};
use crate::state::names::Name;

/// An address, and all nodes of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// `None`: it is not to be announced.
    pub assignment: Option<Assignment>,
    /// By name.
    pub nodes: Vec<ExplainedNode>,
}

/// What becomes of a node, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedNode {
    pub node: Name,
    pub verdict: Verdict,
    /// Of a candidate; 0 also where all weigh the same.
    pub weight: u32,
    /// Of a candidate. Sorted; empty: every interface.
    pub interfaces: Vec<String>,
}

/// Why a node may announce an address, or may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    #[error("it may announce the address")]
    Candidate,
    #[error("Kubernetes has deleted the node")]
    Removed,
    #[error("no announcer of this node has introduced itself")]
    NoAnnouncer,
    #[error("the node is reported to be unavailable: {0}")]
    Unavailable(String),
    #[error("no advertisement selects the pool and the labels of {0}")]
    NotAdvertised(OwnerKey),
    #[error("of {owner} none of the advertisements selects the node: {}", list(.by))]
    NotSelected {
        owner: OwnerKey,
        by: Vec<AdvertisementKey>,
    },
    #[error("it can take no traffic in for {0}")]
    NoEndpoint(OwnerKey),
}

fn list(keys: &[AdvertisementKey]) -> String {
    let names = keys.iter().map(|key| key.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// Explains an address of a cluster; `None`: nobody of the cluster holds it.
pub fn explain(state: &State, cluster: &Name, key: &AssignmentKey) -> Option<Explained> {
    let component = Component::of(state, key).filter(|component| component.is_of(cluster))?;
    let mut nodes = Nodes::default();
    for node in state.nodes_of(cluster) {
        nodes.update(&node.key.node, Some(node));
    }
    let mut memory = Memory::default();
    let announced = component.evaluate(state, cluster, &nodes, &mut memory);
    let stored = state.placement(component.id());
    let listed = stored.map(|placement| placement.nodes.clone());
    let assignment = announced.as_ref().and_then(|announced| {
        let mut all = announced.assignments.iter();
        let own = all.find(|assignment| assignment.key == *key)?;
        Some(Assignment {
            nodes: listed.unwrap_or_default(),
            ..own.clone()
        })
    });
    let explained = state.nodes_of(cluster).map(|node| {
        let name = &node.key.node;
        let number = nodes.find(name);
        let offer = announced.as_ref().map(|announced| &announced.offer);
        let weight = offer
            .zip(number)
            .and_then(|(offer, number)| offer.candidates.weight(number));
        let verdict = match (weight, &assignment) {
            (Some(_), Some(_)) => Verdict::Candidate,
            (Some(_) | None, Some(_) | None) => unfit(node)
                .unwrap_or_else(|| component.obstacle(state, cluster, &nodes, &mut memory, number)),
        };
        let interfaces = match (&verdict, &assignment) {
            (Verdict::Candidate, Some(assignment)) => assignment.interfaces.of(name).to_vec(),
            (_, _) => Vec::new(),
        };
        ExplainedNode {
            node: name.clone(),
            weight: weight.unwrap_or_default(),
            verdict,
            interfaces,
        }
    });
    let nodes = explained.collect();
    Some(Explained { assignment, nodes })
}

/// What keeps a node from announcing anything.
fn unfit(node: &Node) -> Option<Verdict> {
    if node.removed {
        return Some(Verdict::Removed);
    }
    if node.announcer.is_none() {
        return Some(Verdict::NoAnnouncer);
    }
    let reported = node.reported.as_ref()?;
    let reason = &reported.unavailable_reason;
    (!reason.is_empty()).then(|| Verdict::Unavailable(reason.clone()))
}
