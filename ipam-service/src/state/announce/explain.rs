//! What speaks for and against each node of a cluster for an address. Decides nothing itself: it asks
//! the same functions that decide.

use std::sync::Arc;

use super::group::{Component, Part, obstacle, standings};
use super::held::Contradiction;
use super::nodes::Nodes;
use super::policy::{Memory, Offer};
use super::{Assignment, AssignmentKey, routes};
use crate::state::State;
use crate::state::model::{AdvertisementKey, Node, OwnerKey, Placement};
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
    /// Of a candidate by layer 2; 0 also where all weigh the same.
    pub weight: u32,
    /// Of a candidate by layer 2. Sorted; empty: every interface.
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
    #[error("its announcer is of an earlier version, without the feature {0:?}")]
    FeatureMissing(&'static str),
    #[error("{0}")]
    Conflicting(Contradiction),
}

pub(super) fn list(keys: &[AdvertisementKey]) -> String {
    let names = keys.iter().map(|key| key.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// What the state knows about an address, to be asked for without the state: collecting it costs a
/// reference to each owner and node, the answer a look at each owner for each node.
#[derive(Debug)]
pub struct Question {
    key: AssignmentKey,
    component: Component,
    parts: Vec<Part>,
    nodes: Vec<Arc<Node>>,
    /// The list that is stored.
    listed: Vec<Name>,
    probe: bool,
}

fn is_probed(stored: Option<&Arc<Placement>>, component: &Component, key: &AssignmentKey) -> bool {
    let is_new = |it: &Arc<Placement>| !it.announced.contains(&key.address);
    stored.is_some_and(is_new) && component.chose(key.address)
}

impl Question {
    /// Of an address of a cluster; `None`: nobody of the cluster holds it.
    pub fn collect(state: &State, cluster: &Name, key: AssignmentKey) -> Option<Self> {
        let component = Component::of(state, &key).filter(|it| it.is_of(cluster))?;
        let stored = state.placement(component.id());
        Some(Self {
            parts: component.parts(state, cluster, &mut Memory::default()),
            nodes: state.nodes_of(cluster).cloned().collect(),
            listed: stored
                .map(|stored| stored.nodes.clone())
                .unwrap_or_default(),
            probe: is_probed(stored, &component, &key),
            key,
            component,
        })
    }

    /// What speaks for and against each node.
    pub fn answer(self) -> Explained {
        let mut nodes = Nodes::default();
        for node in &self.nodes {
            nodes.update(&node.key.node, Some(node));
        }
        let mut memory = Memory::default();
        let standings = standings(&self.parts, &nodes, &mut memory);
        let announced = self.component.evaluate(&standings, &nodes, &mut memory);
        let (offer, assignments) = announced.map(|it| (it.offer, it.assignments)).unzip();
        let offer: Option<Arc<Offer>> = offer.flatten();
        let mut assignments = assignments.into_iter().flatten();
        let assignment = assignments.find(|assignment| assignment.key == self.key);
        let assignment = assignment.map(|assignment| match assignment.interfaces {
            Some(_) => Assignment {
                nodes: self.listed,
                probe: self.probe,
                ..assignment
            },
            None => assignment,
        });
        // Also where none of them is announced.
        let routes = routes::of(&standings, &self.key, &nodes, &mut memory);
        let explained = self.nodes.iter().map(|node| {
            let name = &node.key.node;
            let number = nodes.find(name);
            let weight = offer.as_ref().zip(number);
            let weight = weight.and_then(|(offer, number)| offer.candidates.weight(number));
            let interfaces = assignment.as_ref().and_then(|it| it.interfaces.as_ref());
            // Of a candidate by layer 2.
            let weight = weight.zip(interfaces);
            let (weight, interfaces) = weight.map(|(weight, it)| (weight, it.of(name))).unzip();
            let verdict = match (weight, &routes) {
                (Some(_), _) => Verdict::Candidate,
                (None, Some(routes)) if routes.are_of(name) => Verdict::Candidate,
                (None, routes) => {
                    let withheld = routes.as_ref().and_then(|it| it.withheld_from(name));
                    let verdict = unfit(node)
                        .or_else(|| withheld.map(|it| Verdict::Conflicting(Contradiction::of(it))))
                        .or_else(|| obstacle(&standings, number));
                    // A component is never without a holder, nor a holder without a pool.
                    let oldest =
                        || Verdict::NotAdvertised(self.component.oldest().owner.key.clone());
                    verdict.unwrap_or_else(oldest)
                }
            };
            ExplainedNode {
                node: name.clone(),
                interfaces: interfaces.unwrap_or_default().to_vec(),
                weight: weight.unwrap_or_default(),
                verdict,
            }
        });
        Explained {
            nodes: explained.collect(),
            assignment,
        }
    }
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
