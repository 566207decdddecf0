//! What is known of the leases of nodes: who may answer for fenced addresses. No part of the store;
//! what is decided by it is ([`super::model::Tenure`]).

use std::collections::{BTreeMap, BTreeSet};

use pharos_lease::{OwnersTerm, Term};

use super::model::{NodeKey, Tenure, TenureKey};
use super::names::Name;

/// The leases of all nodes, as they were told last.
#[derive(Debug, Default)]
pub struct Leases {
    nodes: BTreeMap<NodeKey, NodeLeases>,
    /// Tenures that their owner has ended.
    released: BTreeMap<TenureKey, Released>,
    quiet: Quiet,
    touched: BTreeSet<Name>,
}

/// A tenure that its owner has ended: it does not answer any more, and will not again under this epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Released {
    pub key: TenureKey,
    pub node: Name,
    pub term: Term,
    pub epoch: u64,
}

impl Released {
    /// Whether this is the tenure that was ended.
    pub fn is_of(&self, tenure: &Tenure) -> bool {
        let owner = &tenure.owner;
        (&self.node, self.term, self.epoch) == (&owner.node, owner.term, tenure.epoch)
    }
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeLeases {
    /// Those that may run, that of the process which speaks for the node last. More than one: of one
    /// that was there before.
    pub terms: Vec<Term>,
    /// What the node said last, if anything since the service began.
    pub standing: Option<Standing>,
}

/// What a node says of itself with each renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub readiness: Readiness,
    /// Names of the interfaces that can answer for IPv4 addresses.
    pub interfaces: BTreeSet<String>,
    /// The same for IPv6.
    pub interfaces6: BTreeSet<String>,
}

/// Whether a node wants addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// It takes nothing from a living owner.
    HoldDown,
    /// It hands over what it has.
    Draining,
}

/// Whether somebody may answer of whom nothing is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Quiet {
    /// No: a service knows all that it granted itself.
    #[default]
    No,
    /// For addresses without a tenure: by a term of a process before this one.
    Unnamed,
    /// For every address: the store may be older than what was granted.
    All,
}

impl Leases {
    /// What begins with a store: these tenures may run. `unsure`: whether it may be older than what
    /// was granted by it. Their terms.
    pub(in crate::state) fn begin<'a>(
        &mut self,
        tenures: impl Iterator<Item = &'a Tenure>,
        unsure: bool,
    ) -> BTreeSet<(NodeKey, Term)> {
        let mut running = BTreeSet::new();
        for tenure in tenures {
            let node = NodeKey {
                cluster: tenure.key.cluster.clone(),
                node: tenure.owner.node.clone(),
            };
            let term = tenure.owner.term;
            if running.insert((node.clone(), term)) {
                self.nodes.entry(node).or_default().terms.push(term);
            }
            self.touched.insert(tenure.key.cluster.clone());
        }
        self.quiet = if unsure { Quiet::All } else { Quiet::Unnamed };
        running
    }

    /// Every term that was granted before this service began, and is not known here, is over.
    pub fn settle(&mut self, clusters: impl IntoIterator<Item = Name>) {
        if self.quiet != Quiet::No {
            self.quiet = Quiet::No;
            self.touched.extend(clusters);
        }
    }

    /// The leases of a node changed; none are left if it has no term.
    pub fn set(&mut self, node: NodeKey, leases: NodeLeases) {
        self.touched.insert(node.cluster.clone());
        match leases.terms.is_empty() {
            true => self.nodes.remove(&node),
            false => self.nodes.insert(node, leases),
        };
    }

    pub(super) fn release(&mut self, released: Released) {
        self.touched.insert(released.key.cluster.clone());
        self.released.insert(released.key.clone(), released);
    }

    pub(super) fn retain_released(&mut self, is_of: impl Fn(&Released) -> bool) {
        self.released.retain(|_, released| is_of(released));
    }

    /// These clusters are to be looked at again.
    pub fn touch(&mut self, clusters: impl IntoIterator<Item = Name>) {
        self.touched.extend(clusters);
    }

    /// Clusters of which something changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.touched)
    }

    /// The lease of a node that said something of itself: its newest term, and what it said.
    pub fn of(&self, node: &NodeKey) -> Option<(Term, &Standing)> {
        let leases = self.nodes.get(node)?;
        Some((*leases.terms.last()?, leases.standing.as_ref()?))
    }

    /// What is known of the term of a tenure.
    pub fn term_of(&self, tenure: &Tenure) -> OwnersTerm {
        let released = self.released.get(&tenure.key);
        if released.is_some_and(|released| released.is_of(tenure)) {
            return OwnersTerm::Released;
        }
        let (term, node) = (tenure.owner.term, tenure.owner.node.clone());
        let cluster = tenure.key.cluster.clone();
        let leases = self.nodes.get(&NodeKey { cluster, node });
        match leases.is_some_and(|leases| leases.terms.contains(&term)) {
            true => OwnersTerm::Running,
            false => OwnersTerm::Over,
        }
    }

    /// Whether nobody may be named for an address now.
    pub fn is_quiet(&self, has_tenure: bool) -> bool {
        match self.quiet {
            Quiet::No => false,
            Quiet::Unnamed => !has_tenure,
            Quiet::All => true,
        }
    }
}
