//! Who may answer for a fenced address: the node that [`pharos_lease::next`] names.
//!
//! Of the nodes of a group, in the order of its list and then by rendezvous hash, the first that is
//! ready and has a lease is wanted; of a group of both families the first that can answer both, and if
//! there is none, for each address one that can answer it. One that holds down takes over only from an
//! owner that is gone, and one that drains only if there is no other.

use std::sync::Arc;

use pharos_lease::{Next, Owner, OwnersTerm, next};
use pharos_proto::digest::rendezvous_rank;

use super::{Assignment, AssignmentKey};
use crate::state::State;
use crate::state::address::Family;
use crate::state::change::{Change, Edit};
use crate::state::leases::{Leases, Readiness, Standing};
use crate::state::model::{AllocationId, NodeKey, Tenure, TenureKey};
use crate::state::names::Name;

/// What the announcers are told of a fenced address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fenced {
    /// Who may answer, and under which term; `None`: nobody yet.
    pub owner: Option<Owner<Name>>,
    /// 0 as long as there is no owner.
    pub epoch: u64,
    /// For whom the owner is to stop.
    pub next: Option<Name>,
}

/// The tenure of an address in a cluster.
pub(super) fn tenure_key(cluster: &Name, key: &AssignmentKey) -> TenureKey {
    TenureKey {
        cluster: cluster.clone(),
        space: key.space.clone(),
        address: key.address,
    }
}

/// What is stored of it.
pub(super) fn stored(state: &State, key: &TenureKey) -> Fenced {
    state
        .tenure(key)
        .map_or_else(Fenced::default, |it| named(it))
}

/// What is to be told now, and what has to be stored before. `moves`: whether the owner may be asked to
/// make room.
pub(super) fn decide(
    state: &State,
    key: TenureKey,
    (assignment, families): (&Assignment, Families),
    candidates: &[Name],
    moves: bool,
) -> (Fenced, Option<Change>) {
    let before = state.tenure(&key);
    let leases = state.leases();
    let owner = before.map(|tenure| (&tenure.owner, leases.term_of(tenure)));
    let wanted = Choice {
        leases,
        cluster: &key.cluster,
        assignment,
        families,
        candidates,
    };
    let wanted = wanted.wanted(owner);
    match next(owner, wanted, leases.is_quiet(before.is_some())) {
        Next::Stay => (stored(state, &key), None),
        Next::Move(_) if !moves => (stored(state, &key), None),
        Next::Move(to) => {
            let fenced = Fenced {
                next: Some(to),
                ..stored(state, &key)
            };
            (fenced, None)
        }
        // It was another cluster's, and whoever was named there has not been heard to stop.
        Next::Name(_) if is_owned_elsewhere(state, &key) => (stored(state, &key), None),
        Next::Name(owner) => {
            let after = Arc::new(Tenure {
                key,
                owner,
                epoch: before.map_or(0, |before| before.epoch) + 1,
            });
            let fenced = named(&after);
            let edit = Edit {
                before: before.cloned(),
                after: Some(after),
            };
            (fenced, Some(Change::Tenure(edit)))
        }
    }
}

/// Whether the owner of the address in another cluster may answer for it.
fn is_owned_elsewhere(state: &State, key: &TenureKey) -> bool {
    let mut others = state.tenures_elsewhere(key);
    others.any(|tenure| state.leases().term_of(tenure) == OwnersTerm::Running)
}

/// Addresses whose owner in a cluster has stopped: they may be waited for in others.
pub(super) fn let_go<'a>(
    state: &'a State,
    cluster: &'a Name,
) -> impl Iterator<Item = AssignmentKey> + 'a {
    let tenures = state.tenures().filter(|it| it.key.cluster == *cluster);
    let over = tenures.filter(|it| state.leases().term_of(it) != OwnersTerm::Running);
    over.map(|tenure| AssignmentKey {
        space: tenure.key.space.clone(),
        address: tenure.key.address,
    })
}

/// The end of tenures of a cluster whose address is not fenced any more, and whose term is over.
pub(super) fn ended<'a>(
    state: &'a State,
    cluster: &'a Name,
    is_fenced: impl Fn(&AssignmentKey) -> bool + 'a,
) -> impl Iterator<Item = Change> + 'a {
    let tenures = state.tenures().filter(|it| it.key.cluster == *cluster);
    let ended = tenures.filter(move |tenure| {
        let key = AssignmentKey {
            space: tenure.key.space.clone(),
            address: tenure.key.address,
        };
        !is_fenced(&key) && state.leases().term_of(tenure) == OwnersTerm::Over
    });
    ended.map(|tenure| {
        Change::Tenure(Edit {
            before: Some(Arc::clone(tenure)),
            after: None,
        })
    })
}

fn named(tenure: &Tenure) -> Fenced {
    Fenced {
        owner: Some(tenure.owner.clone()),
        epoch: tenure.epoch,
        next: None,
    }
}

/// Among whom the owner of an address is chosen.
struct Choice<'a> {
    leases: &'a Leases,
    cluster: &'a Name,
    assignment: &'a Assignment,
    families: Families,
    candidates: &'a [Name],
}

/// Of which families the addresses of a group are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    One,
    Both,
}

impl Families {
    /// Of these addresses.
    pub(super) fn of<'a>(keys: impl Iterator<Item = &'a AssignmentKey>) -> Self {
        let mut families = keys.map(|key| key.address.family());
        let first = families.next();
        match families.all(|family| Some(family) == first) {
            true => Self::One,
            false => Self::Both,
        }
    }
}

impl Choice<'_> {
    fn wanted(&self, owner: Option<(&Owner<Name>, OwnersTerm)>) -> Option<Owner<Name>> {
        let living = owner.filter(|(_, term)| *term == OwnersTerm::Running);
        let living = living.map(|(owner, _)| owner);
        // Nothing was heard of it since the service began: it is waited for until its term is over.
        if let Some(living) = living
            && self.lease(&living.node).is_none()
        {
            return Some(living.clone());
        }
        let first = |accept: &dyn Fn(Readiness) -> bool| {
            let wholly = match self.families {
                Families::Both => self.first(accept, &|node, standing| {
                    let mut both = [Family::V4, Family::V6].into_iter();
                    both.all(|family| self.serves(node, standing, family))
                }),
                Families::One => None,
            };
            wholly.or_else(|| {
                self.first(accept, &|node, standing| {
                    self.serves_address(node, standing)
                })
            })
        };
        let still = || {
            let node = &living?.node;
            let (_, standing) = self.lease(node)?;
            let stays = standing.readiness != Readiness::Draining
                && self.serves_address(node, standing)
                && self.candidates.contains(node);
            living.filter(|_| stays).cloned()
        };
        first(&|readiness| readiness == Readiness::Ready)
            .or_else(still)
            .or_else(|| first(&|readiness| readiness != Readiness::Draining))
            .or_else(|| first(&|_| true))
    }

    /// The first that is accepted and serves it.
    fn first(
        &self,
        accept: &dyn Fn(Readiness) -> bool,
        serves: &dyn Fn(&Name, &Standing) -> bool,
    ) -> Option<Owner<Name>> {
        let fits = |node: &Name| {
            let (owner, standing) = self.lease(node)?;
            let fits = accept(standing.readiness) && serves(node, standing);
            fits.then_some(owner)
        };
        let listed = &self.assignment.nodes;
        let found = listed.iter().find_map(fits);
        found.or_else(|| self.unlisted().into_iter().find_map(fits))
    }

    fn lease(&self, node: &Name) -> Option<(Owner<Name>, &Standing)> {
        let (term, standing) = self.leases.of(&NodeKey {
            cluster: self.cluster.clone(),
            node: node.clone(),
        })?;
        let node = node.clone();
        Some((Owner { node, term }, standing))
    }

    /// The candidates behind the list, in their order.
    fn unlisted(&self) -> Vec<&Name> {
        let listed = &self.assignment.nodes;
        let mut others: Vec<&Name> = self
            .candidates
            .iter()
            .filter(|node| !listed.contains(*node))
            .collect();
        let group: AllocationId = self.assignment.group;
        others.sort_by_cached_key(|node| rendezvous_rank(group, node));
        others
    }

    fn serves_address(&self, node: &Name, standing: &Standing) -> bool {
        self.serves(node, standing, self.assignment.key.address.family())
    }

    /// Whether a node can answer a family on an interface that is wanted.
    fn serves(&self, node: &Name, standing: &Standing, family: Family) -> bool {
        let interfaces = match family {
            Family::V4 => &standing.interfaces,
            Family::V6 => &standing.interfaces6,
        };
        let wanted = self.assignment.interfaces_of(node);
        match wanted.is_empty() {
            true => !interfaces.is_empty(),
            false => wanted.iter().any(|one| interfaces.contains(one)),
        }
    }
}
