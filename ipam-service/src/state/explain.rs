//! Why an owner holds what it holds, or waits: everything that the rules say about one claim.
//!
//! Nothing is decided in here. What would come of the claim is what [`claim`] makes of it; what a pool
//! or an address says to it is the answer to the same claim, asked for that pool or address alone.
//! So a rule that is added to the choice appears here by itself.

mod mismatch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::State;
use super::address::{Address, Family};
use super::change::Change;
use super::choice::{Asking, MAX_ATTEMPTS};
use super::claim::{self, newcomer, wished_after};
use super::command::{Allocate, IfRefused};
use super::draft::Draft;
use super::model::{
    Allocation, Claim, DualStackPools, Families, OwnerKey, Pool, PoolKey, Revision, Standing,
    Timestamp,
};
use super::names::Name;
use super::pool::{self, PoolUsage, View};
use super::refusal::{Reason, Refusal, Rejection};
use super::sharing::ShareKey;
use mismatch::mismatch;

/// Holders that are counted in all pools together: an explanation runs on the writer.
const MAX_COUNTED: usize = 10_000;

/// Holders of one address that are named.
const MAX_HOLDERS: usize = 8;

/// Addresses that could be shared of which a pool tells why not.
const MAX_SHARED: usize = 4;

/// Everything about one claim.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub revision: Revision,
    pub stored: Option<Arc<Allocation>>,
    /// As it would be after a new decision; a refusal is queued.
    pub outcome: Arc<Allocation>,
    /// Those that are tried, in that order, then the others by name.
    pub pools: Vec<PoolReport>,
    /// How many are left out.
    pub more_pools: usize,
    pub addresses: Vec<AddressReport>,
    pub waiting: Option<WaitingReport>,
}

/// What a pool says to a claim.
#[derive(Debug, Clone)]
pub struct PoolReport {
    pub key: PoolKey,
    pub tried: bool,
    /// At most one of each family.
    pub gives: Vec<Address>,
    pub obstacles: Vec<Obstacle>,
    pub usage: PoolUsage,
    /// Addresses in its ranges that are held, by cluster; `None`: by others, where the address space
    /// hides which.
    pub held_by: BTreeMap<Option<Name>, u64>,
    pub held_by_is_partial: bool,
    /// What stands against sharing an address of the claim's sharing key.
    pub sharing: Vec<Obstacle>,
}

/// A rule that refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: Reason,
    /// `None`: for both.
    pub family: Option<Family>,
    pub message: String,
}

/// What is known of an address.
#[derive(Debug, Clone)]
pub struct AddressReport {
    pub address: Address,
    /// Those that the cluster sees.
    pub pools: Vec<PoolKey>,
    pub holders: Vec<Holder>,
    pub more_holders: usize,
    /// Why the owner cannot hold it.
    pub refusal: Option<Refusal>,
}

/// Somebody, as the cluster that asks may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Owner(OwnerKey),
    Cluster(Name),
    /// The address space hides which one.
    AnotherCluster,
}

/// What a claim waits for.
#[derive(Debug, Clone)]
pub struct WaitingReport {
    /// When it was created, and its place in the queue; `None`: it is not stored.
    pub since: Option<(Timestamp, Revision)>,
    pub older: usize,
    pub first: Option<Holder>,
    pub wakes_on: Vec<String>,
}

/// Explains what is stored of an owner.
///
/// # Errors
/// [`Rejection::UnknownOwner`]
pub fn explain_stored(state: &State, owner: &OwnerKey) -> Result<Explanation, Rejection> {
    let stored = state
        .allocation(owner)
        .ok_or_else(|| Rejection::UnknownOwner(owner.clone()))?;
    let redecide = |draft: &mut Draft<'_>| {
        claim::redecide(draft, owner);
        Ok(())
    };
    let outcome = after(state, owner, redecide)?.unwrap_or_else(|| Arc::clone(stored));
    let asking = Asking::again(state, stored);
    Ok(Subject {
        asking,
        stored: Some(stored),
    }
    .explain(outcome))
}

/// Explains what a request would get.
///
/// # Errors
/// Those of the request that are not about addresses.
pub fn explain_request(state: &State, request: &Allocate) -> Result<Explanation, Rejection> {
    let request = &Allocate {
        if_refused: IfRefused::Queue,
        ..request.clone()
    };
    let owner = &request.owner;
    let stored = state.allocation(&owner.key);
    // Also of a claim that would not be kept, because too many wait, it is told what it would wait for.
    let allocate = |draft: &mut Draft<'_>| claim::allocate(draft, request);
    let outcome = after(state, &owner.key, allocate)?
        .or_else(|| stored.cloned())
        .expect("a claim that is queued is stored");
    let wished;
    let asking = match stored {
        Some(held) if held.owner.is_incarnation(&owner.uid) => Asking {
            wished: &request.held,
            ..Asking::renewed(state, held, &request.claim)
        },
        former => {
            wished = former.map_or_else(
                || request.held.clone(),
                |former| wished_after(former, request),
            );
            newcomer(state, request, &wished)
        }
    };
    Ok(Subject { asking, stored }.explain(outcome))
}

/// An owner's allocation after a decision; `None`: it stays as it is.
fn after(
    state: &State,
    owner: &OwnerKey,
    decide: impl FnOnce(&mut Draft<'_>) -> Result<(), Rejection>,
) -> Result<Option<Arc<Allocation>>, Rejection> {
    let mut draft = Draft::new(state, Timestamp(0));
    decide(&mut draft)?;
    let changes = draft.finish();
    let mut news = changes.iter().rev().filter_map(Change::allocation);
    let news = news.find_map(|edit| {
        let after = edit.after.as_ref();
        after.filter(|after| after.owner.key == *owner)
    });
    Ok(news.cloned())
}

/// A claim and what is stored of its owner.
struct Subject<'a> {
    asking: Asking<'a>,
    stored: Option<&'a Arc<Allocation>>,
}

impl<'a> Subject<'a> {
    fn explain(&self, outcome: Arc<Allocation>) -> Explanation {
        let state = self.asking.state;
        let seen = self.pools();
        let all = seen.len();
        let mut left_to_count = MAX_COUNTED;
        let pools: Vec<PoolReport> = seen
            .into_iter()
            .take(MAX_ATTEMPTS)
            .map(|(pool, why)| self.pool(pool, why, &mut left_to_count))
            .collect();
        Explanation {
            revision: state.revision(),
            stored: self.stored.cloned(),
            more_pools: all - pools.len(),
            pools,
            addresses: self.addresses(),
            waiting: self.waiting(&outcome),
            outcome,
        }
    }

    /// The pools that the cluster sees: those that are tried for the claim, and those that are not
    /// with the reason.
    fn pools(&self) -> Vec<(&'a Arc<Pool>, Option<Obstacle>)> {
        let claim = self.asking.claim;
        let view = self.view();
        if !claim.addresses.is_empty() {
            let contains = |pool: &&Arc<Pool>| {
                let mut asked = claim.addresses.iter();
                asked.any(|address| pool::contains(pool, *address))
            };
            let all = view.all().filter(contains);
            return all.map(|pool| (pool, None)).collect();
        }
        let named = claim.pool.as_ref().map(|name| view.named(name));
        let tried: Vec<&Arc<Pool>> = match named {
            Some(None) => Vec::new(),
            Some(named) => self.asking.pools_in_order(named).collect(),
            None => self.asking.pools_in_order(None).collect(),
        };
        let keys: BTreeSet<&PoolKey> = tried.iter().map(|pool| &pool.key).collect();
        let others = view.all().filter(|pool| !keys.contains(&pool.key));
        let others = others.map(|pool| {
            let (reason, message) = match (&claim.pool, &claim.reservation) {
                (Some(name), _) => (
                    Reason::OtherPoolNamed,
                    format!("the claim names pool \"{name}\""),
                ),
                (None, Some(name)) => (
                    Reason::AddressNotInReservation,
                    format!("it has no address of reservation \"{name}\""),
                ),
                (None, None) => (
                    Reason::PoolNotAutomatic,
                    "auto_assign is false, and the claim does not name the pool".to_owned(),
                ),
            };
            let why = Obstacle {
                reason,
                family: None,
                message,
            };
            (pool, Some(why))
        });
        let mut others: Vec<_> = others.collect();
        others.sort_by(|(one, _), (other, _)| one.key.name.cmp(&other.key.name));
        tried
            .into_iter()
            .map(|pool| (pool, None))
            .chain(others)
            .collect()
    }

    fn pool(
        &self,
        pool: &'a Arc<Pool>,
        not_tried: Option<Obstacle>,
        left_to_count: &mut usize,
    ) -> PoolReport {
        let (held_by, held_by_is_partial) = self.count_holders(pool, left_to_count);
        let tried = not_tried.is_none();
        let mut report = PoolReport {
            key: pool.key.clone(),
            tried,
            gives: Vec::new(),
            obstacles: not_tried.into_iter().collect(),
            usage: pool::usage(
                pool,
                self.asking.state.space(&pool.key.space),
                self.view().reach(),
            ),
            held_by,
            held_by_is_partial,
            sharing: Vec::new(),
        };
        if tried {
            self.ask(pool, &mut report);
            self.ask_to_share(pool, &mut report);
        }
        report
    }

    /// Asks the claim of this pool alone.
    fn ask(&self, pool: &Pool, report: &mut PoolReport) {
        let claim = self.asking.claim;
        let alone = Claim {
            pool: Some(pool.key.name.clone()),
            dual_stack_pools: DualStackPools::OnePool,
            ..claim.clone()
        };
        for (family, claim) in questions(pool, claim, &alone) {
            match self.asked(&claim) {
                Ok(addresses) => report.gives.extend(addresses),
                Err(refusal) => {
                    let obstacle = self.obstacle(pool, family, refusal);
                    let mut known = report.obstacles.iter_mut();
                    // What is not about a family is told once.
                    match known.find(|other| other.message == obstacle.message) {
                        Some(same) => same.family = None,
                        None => report.obstacles.push(obstacle),
                    }
                }
            }
        }
    }

    /// What a claim of the owner would get, in place of its own.
    fn asked(&self, claim: &Claim) -> Result<Vec<Address>, Refusal> {
        let asking = Asking {
            claim,
            ..self.asking
        };
        asking.choose().map(|grant| grant.addresses)
    }

    fn obstacle(&self, pool: &Pool, family: Option<Family>, refusal: Refusal) -> Obstacle {
        // The pool is the last that was tried; before it stands why what is held does not fit.
        let (reason, mut message) = match refusal.attempts.into_iter().last() {
            Some(attempt) => (attempt.reason, attempt.message),
            None => (refusal.reason, refusal.message),
        };
        if reason == Reason::PoolNotForOwner {
            message = mismatch(pool, self.asking.owner, self.asking.claim);
        }
        Obstacle {
            reason,
            family,
            message,
        }
    }

    fn ask_to_share(&self, pool: &Pool, report: &mut PoolReport) {
        let asking = &self.asking;
        let Some(key) = ShareKey::of(asking.owner, asking.claim) else {
            return;
        };
        let space = asking.state.space(&asking.claim.space);
        let ranges = pool.ranges.iter();
        let shared = ranges.flat_map(|range| space.shared_in(&key, *range));
        // Looked at are as many as could be of one group and still be told of.
        for address in shared.take(MAX_COUNTED) {
            if report.sharing.len() == MAX_SHARED {
                return;
            }
            if let Err(obstacle) = asking.admitted(address) {
                let (reason, message) = asking.conflict(address, &pool.key, obstacle);
                report.sharing.push(Obstacle {
                    reason,
                    family: Some(address.family()),
                    message,
                });
            }
        }
    }

    fn count_holders(&self, pool: &Pool, left: &mut usize) -> (BTreeMap<Option<Name>, u64>, bool) {
        let space = self.asking.state.space(&pool.key.space);
        let reader = self.asking.reader();
        let mut counts: BTreeMap<Option<Name>, u64> = BTreeMap::new();
        let mut last = None;
        let reach = self.view().reach();
        let ranges = pool.ranges.iter().flat_map(|range| reach.within(*range));
        for (address, holder) in ranges.flat_map(|range| space.holders_in(range)) {
            if *left == 0 {
                return (counts, true);
            }
            *left -= 1;
            // Those who share an address are of one cluster.
            if last.replace(address) != Some(address) {
                let cluster = &holder.owner.key.cluster;
                let is_hidden = reader.hides_holders && cluster != reader.cluster;
                let cluster = (!is_hidden).then(|| cluster.clone());
                *counts.entry(cluster).or_default() += 1;
            }
        }
        (counts, false)
    }

    fn addresses(&self) -> Vec<AddressReport> {
        let asking = &self.asking;
        let asked = &asking.claim.addresses;
        let held = asking.current.iter().filter(|held| !asked.contains(held));
        asked
            .iter()
            .chain(held)
            .map(|address| self.address(*address))
            .collect()
    }

    fn address(&self, address: Address) -> AddressReport {
        let asking = &self.asking;
        let space = asking.state.space(&asking.claim.space);
        let mut holders: Vec<Holder> = space
            .holders(address)
            .map(|holder| self.seen(&holder.owner.key))
            .collect();
        // Of another cluster it is not told how many there are either.
        holders.dedup();
        let more_holders = holders.len().saturating_sub(MAX_HOLDERS);
        holders.truncate(MAX_HOLDERS);
        AddressReport {
            address,
            pools: self
                .view()
                .containing(address)
                .map(|pool| pool.key.clone())
                .collect(),
            holders,
            more_holders,
            refusal: self.asked(&at(asking.claim, address)).err(),
        }
    }

    fn waiting(&self, outcome: &Allocation) -> Option<WaitingReport> {
        let state = self.asking.state;
        let wakes_on = state.wakes_on(outcome);
        if wakes_on.is_empty() {
            return None;
        }
        let ahead = state.ahead_of(outcome);
        let stored = self.stored.filter(|stored| stored.id == outcome.id);
        Some(WaitingReport {
            since: stored.map(|stored| (stored.create_time, stored.id)),
            older: ahead.count,
            first: ahead.first.map(|first| self.seen(&first.owner.key)),
            wakes_on,
        })
    }

    fn seen(&self, owner: &OwnerKey) -> Holder {
        let reader = self.asking.reader();
        match owner.cluster == *reader.cluster {
            true => Holder::Owner(owner.clone()),
            false if reader.hides_holders => Holder::AnotherCluster,
            false => Holder::Cluster(owner.cluster.clone()),
        }
    }

    fn view(&self) -> View<'a> {
        let asking = &self.asking;
        let pools = &asking.state.pools;
        pools.view(&asking.claim.space, &asking.owner.cluster)
    }
}

impl Explanation {
    /// Why the outcome is not all that the claim asks for.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.outcome.standing {
            Standing::Assigned => None,
            Standing::Pending(refusal) | Standing::Stale { refusal, .. } => Some(refusal),
        }
    }
}

/// What a claim asks of one pool, by family; `alone` is the claim for that pool.
fn questions(pool: &Pool, claim: &Claim, alone: &Claim) -> Vec<(Option<Family>, Claim)> {
    if !claim.addresses.is_empty() {
        let here = claim.addresses.iter();
        let here = here.filter(|address| pool::contains(pool, **address));
        return here
            .map(|address| (Some(address.family()), at(alone, *address)))
            .collect();
    }
    match claim.families {
        Families::Any => vec![(None, alone.clone())],
        Families::One(family) => vec![(Some(family), alone.clone())],
        Families::Both | Families::PreferBoth { .. } => Family::ALL
            .map(|family| {
                let families = Families::One(family);
                (
                    Some(family),
                    Claim {
                        families,
                        ..alone.clone()
                    },
                )
            })
            .to_vec(),
    }
}

/// The claim, for one address.
fn at(claim: &Claim, address: Address) -> Claim {
    Claim {
        addresses: vec![address],
        families: Families::Any,
        ..claim.clone()
    }
}

#[cfg(test)]
mod tests;
