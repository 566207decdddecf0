//! The address book as a pure, synchronous value: what is held, and the rules for changing it.
//!
//! [`decide`] says what a command changes, or why not. [`State::apply`] makes a change true and
//! [`State::undo`] takes it back; the same `apply` serves the live path and start-up.
//! [`State::follow_up`] names the next command that earlier changes made necessary.
//!
//! | room | its one matter |
//! |---|---|
//! | `claim` | Allocate, Release, a new decision about a stored claim |
//! | `choice` | which addresses satisfy a claim, or why none do |
//! | `pool` | which pools a cluster sees, their order, whom they admit |
//! | `pool_edit` | ApplyPool, DeletePool, SyncPools |
//! | `quota` | how many addresses may be held, and how many are |
//! | `sharing` | who may hold one address together |
//! | `unavailable` | when an address that is given back may be given away again |
//! | `exposure` | which nodes may still answer for an address |
//! | `grants` | ApplyAddressSpace, DeleteAddressSpace; how much of a space a cluster may use |
//! | `reservation` | ApplyReservation, DeleteReservation |
//! | `withheld` | what a space keeps for somebody, or from everybody |
//! | `space` | occupied addresses, holders, the next free one |
//! | `runs`, `address_set` | sets of numbers, and of addresses, with a fast first gap |
//! | `pending` | claims that wait, and what wakes them |
//! | `explain` | why: all that the rules say about one claim |
//! | `bgp` | BGP peers and BFD profiles |
//! | `cluster`, `advertisement`, `facts` | the other commands |
//! | `reading` | what can be asked of the state |
//! | `rows` | the state held against rows that were read anew |
//! | `announce`, `placement` | which nodes announce what is held |
//! | `intern`, `packing` | one copy of equal names and claims; trees with full nodes |
//! | `tenants`, `draft` | allocations and facts by cluster; changes being drawn up |
//!
//! In here there is no I/O, no clock and no randomness.

pub mod address;
pub mod announce;
pub mod bgp;
pub mod change;
pub mod command;
pub mod intern;
pub mod inventory;
pub mod model;
pub mod names;
pub mod placement;
pub mod refusal;
pub mod selector;

mod address_set;
mod advertisement;
mod choice;
mod claim;
mod cluster;
mod draft;
mod explain;
mod exposure;
mod facts;
mod grants;
pub mod leases;
mod packing;
mod pending;
mod pool;
mod pool_edit;
mod quota;
mod reading;
mod reservation;
mod rows;
mod runs;
mod sharing;
mod space;
mod tenants;
mod unavailable;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pharos_lease::Term;

use address::AddressRange;
use announce::AssignmentKey;
use bgp::model::Bgp;
use change::{Change, Edit};
use command::Command;
use draft::Draft;
use exposure::Exposure;
use leases::{Leases, Released};
use model::{
    Advertisement, AdvertisementKey, Allocation, AllocationId, Cluster, Moment, NodeKey, Placement,
    Pool, Reservation, ReservationKey, Revision, Tenure, TenureKey, Timestamp, UnavailableKey,
};
use names::Name;
use packing::pack_set;
use pending::Waiting;
use pool::Pools;
use quota::Quotas;
use refusal::Rejection;
use space::Space;
use tenants::{ById, Tenants};

pub use explain::{
    AddressReport, Explanation, Holder, Obstacle, PoolReport, WaitingReport, explain_request,
    explain_stored,
};
pub use exposure::{Acknowledged, Published, StreamPlace};
pub use pool::{FamilyUsage, PoolUsage, REUSE_UNACKNOWLEDGED};
pub use pool_edit::errors_of_set;
pub use quota::QuotaUsage;

/// Everything that is held, with the indexes that make each rule cheap.
#[derive(Debug, Default)]
pub struct State {
    revision: Revision,
    tenants: Tenants,
    by_id: BTreeSet<ById>,
    /// Only spaces in which something is held or withheld.
    spaces: BTreeMap<Name, Space>,
    pools: Pools,
    quotas: Quotas,
    advertisements: BTreeMap<AdvertisementKey, Arc<Advertisement>>,
    bgp: Bgp,
    reservations: BTreeMap<ReservationKey, Arc<Reservation>>,
    placements: BTreeMap<AllocationId, Arc<Placement>>,
    tenures: BTreeMap<TenureKey, Arc<Tenure>>,
    leases: Leases,
    /// How many clusters have yet to report what they hold.
    recovering: usize,
    waiting: Waiting,
    /// Most claims of a cluster that may wait; no part of the store.
    max_pending: Option<usize>,
    /// How far time has come.
    moment: Moment,
    /// When reasons for being unavailable end by themselves.
    timers: BTreeSet<(Moment, UnavailableKey)>,
    exposure: Exposure,
}

/// What a command changes, in the order of the log. Empty: it is so already.
///
/// The k-th decision among the changes carries the revision `state.revision() + k`.
///
/// # Errors
/// Why the command changes nothing.
pub fn decide(state: &State, command: &Command, now: Timestamp) -> Result<Vec<Change>, Rejection> {
    let mut draft = Draft::new(state, now);
    let to = &mut draft;
    match command {
        Command::Allocate(allocate) => {
            claim::allocate(to, allocate)?;
            pending::limit::check(to, allocate)?;
        }
        Command::Release(release) => claim::release(to, release)?,
        Command::Redecide(owner) => claim::redecide(to, owner),
        Command::ApplyPool { pool, in_use } => pool_edit::apply(to, pool, *in_use)?,
        Command::DeletePool { key, in_use } => pool_edit::delete(to, key, *in_use)?,
        Command::SyncPools {
            cluster,
            pools,
            fence,
        } => pool_edit::sync(to, cluster, pools, *fence)?,
        Command::ApplyAdvertisement(advertisement) => advertisement::apply(to, advertisement)?,
        Command::DeleteAdvertisement(key) => advertisement::delete(to, key)?,
        Command::SyncAdvertisements {
            cluster,
            advertisements,
            scope,
            fence,
        } => advertisement::sync(to, cluster, advertisements, (*scope, *fence))?,
        Command::Bgp(command) => bgp::decide(to, command)?,
        Command::ApplyReservation(reservation) => reservation::apply(to, reservation)?,
        Command::DeleteReservation(key) => reservation::delete(to, key)?,
        Command::EndUnavailable { key, end } => unavailable::end(to, key, *end),
        Command::ClearUnavailable { space, address } => unavailable::clear(to, space, *address)?,
        Command::ReportConflict {
            cluster,
            space,
            address,
        } => unavailable::conflict(to, cluster, space, *address),
        Command::ReportLoss { cluster } => cluster::report_loss(to, cluster),
        Command::Introduce { cluster, uid } => cluster::introduce(to, cluster, uid)?,
        Command::BeginSync {
            cluster,
            uid,
            fence,
        } => cluster::begin_sync(to, cluster, uid, *fence)?,
        Command::EndSync { cluster, fence } => cluster::end_sync(to, cluster, *fence)?,
        Command::DeleteCluster { cluster } => cluster::delete(to, cluster)?,
        Command::FinishRecovery { cluster } => cluster::finish_recovery(to, cluster.as_ref())?,
        Command::AdoptCluster { cluster, uid } => cluster::adopt(to, cluster, uid)?,
        Command::ApplyQuota(quota) => quota::apply(to, quota)?,
        Command::DeleteQuota(name) => quota::delete(to, name)?,
        Command::ApplyAddressSpace(apply) => grants::apply(to, apply)?,
        Command::DeleteAddressSpace { name, if_revision } => {
            grants::delete(to, name, *if_revision)?;
        }
        Command::Facts { cluster, facts } => facts::report(to, cluster, facts)?,
    }
    Ok(draft.finish())
}

// === starting ===

/// A state whose rows are still being read: what [`State::restore`] does, row by row.
#[derive(Debug, Default)]
pub struct Restoring(State);

impl State {
    /// What was entered in order left the nodes of the trees half full. They are made anew out of
    /// what is in order already, which costs little and saves a tenth of the memory.
    fn pack(&mut self) {
        pack_set(&mut self.by_id);
        self.tenants.pack();
        self.spaces.values_mut().for_each(Space::pack);
    }
}

impl Restoring {
    /// Takes in a row, as an edit without a before.
    pub fn enter(&mut self, row: &Change) {
        self.0.enter(row);
    }

    /// All rows are in.
    pub fn finish(self, revision: Revision) -> State {
        let mut state = self.0;
        state.revision = revision;
        state.pack();
        state.waiting.mark_everyone();
        let out_of_place: Vec<AllocationId> = state
            .allocations()
            .filter(|one| one.outside_grant || !state.is_in_place(one))
            .map(|allocation| allocation.id)
            .collect();
        for id in out_of_place {
            state.waiting.mark(id);
        }
        state.enter_marks();
        state
    }
}

// === changing ===

impl State {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a store: its rows, as edits without a before, in any order. What has to be
    /// decided again (claims that wait, holders whose address is in no pool) is marked.
    pub fn restore(revision: Revision, rows: impl IntoIterator<Item = Change>) -> Self {
        let mut restoring = Restoring::default();
        for row in rows {
            restoring.enter(&row);
        }
        restoring.finish(revision)
    }

    /// Makes a change true. A decision takes one revision.
    pub fn apply(&mut self, change: &Change) {
        if change.is_decision() {
            self.revision += 1;
        }
        self.make_true(change);
    }

    /// Takes the newest change back. That is a change like any other, and wakes whom it can concern;
    /// so it does not matter which marks were used up since. The allocation that is restored is
    /// decided again, as it may have been changed by the use of one.
    pub fn undo(&mut self, change: &Change) {
        if change.is_decision() {
            self.revision -= 1;
        }
        self.make_true(&change.inverse());
        if let Change::Allocation(edit) = change
            && let Some(restored) = &edit.before
        {
            self.waiting.mark(restored.id);
            self.enter_marks();
        }
    }

    /// The next internal command that applied changes made necessary, in arrival order; pops it.
    /// To be decided and applied before any other command.
    pub fn follow_up(&mut self) -> Option<Command> {
        // What has come free is offered before anything else is decided.
        self.next_ended().or_else(|| self.next_marked())
    }

    /// Whether [`State::follow_up`] may have a next one.
    pub fn has_follow_up(&self) -> bool {
        self.waiting.has_marks()
    }

    /// How many allocations are certain to be decided again.
    pub fn marked(&self) -> usize {
        self.waiting.marked()
    }

    /// What was committed has been published to the announcers.
    pub fn published(&mut self, published: Published<'_>) {
        self.exposure.published(published, self.moment);
        let pools = &self.pools;
        let limit = |key: &AssignmentKey| pools.waits(&key.space, key.address).unacknowledged;
        self.exposure.schedule(&limit);
    }

    /// Nodes have applied the stream of their cluster up to here.
    pub fn acknowledged(&mut self, acks: impl IntoIterator<Item = Acknowledged>) {
        self.exposure.acknowledged(acks);
        self.leases.touch(self.exposure.take_heard());
    }

    /// The leases begin anew, with a store: the terms that may run, as something is owned under them.
    pub fn begin_leases(&mut self) -> BTreeSet<(NodeKey, Term)> {
        let unsure = self.recovering > 0;
        let tenures = self.tenures.values().map(Arc::as_ref);
        self.leases.begin(tenures, unsure)
    }

    /// A node says that it ended this tenure: it counts if the node has it, as it is stored.
    pub fn release(&mut self, released: Released) {
        let tenure = self.tenures.get(&released.key);
        if tenure.is_some_and(|tenure| released.is_of(tenure)) {
            self.leases.release(released);
        }
    }

    /// Forgets what was said of tenures that are past. To be called between two batches: what a
    /// batch does may be undone.
    pub fn forget_past_releases(&mut self) {
        let tenures = &self.tenures;
        let is_of = |released: &Released| {
            tenures
                .get(&released.key)
                .is_some_and(|it| released.is_of(it))
        };
        self.leases.retain_released(is_of);
    }

    /// Every cluster that has leases, tenures or anything to announce is to be looked at again.
    pub fn touch_leases(&mut self) {
        let clusters = self.tenants.clusters().map(|cluster| &cluster.name);
        let of_tenures = self.tenures.keys().map(|key| &key.cluster);
        let all: Vec<Name> = clusters.chain(of_tenures).cloned().collect();
        self.leases.touch(all);
    }

    /// What became of the leases of nodes.
    pub fn leases_mut(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// Enters a change and marks what it concerns.
    fn make_true(&mut self, change: &Change) {
        match change {
            Change::Allocation(edit) => {
                self.enter(change);
                self.mark_if_unmarked(edit);
                self.offer_what_changed_hands(edit);
                for opened in self.quotas.take_opened() {
                    self.offer_opened(opened);
                }
            }
            Change::Quota(edit) => {
                self.enter(change);
                for quota in [&edit.before, &edit.after].into_iter().flatten() {
                    self.waiting.mark_for_quota(quota);
                }
            }
            Change::AddressSpace(edit) => self.enter_address_space(edit),
            Change::Pool(edit) => {
                // Before and after: either may be the one through which somebody holds.
                self.mark_for_pool(edit);
                self.enter(change);
                self.mark_holders(edit);
            }
            Change::Cluster(_) => {
                let was_recovering = self.is_recovering();
                self.enter(change);
                if was_recovering && !self.is_recovering() {
                    self.waiting.mark_everyone();
                }
            }
            Change::Reservation(edit) => {
                self.enter(change);
                self.mark_for_reservation(edit);
            }
            Change::Unavailable(edit) => {
                self.enter(change);
                let UnavailableKey { space, address, .. } = &edit.subject().key;
                self.offer(space, *address);
            }
            Change::Advertisement(_)
            | Change::BgpPeer(_)
            | Change::BfdProfile(_)
            | Change::Node(_)
            | Change::Backends(_)
            | Change::Placement(_)
            | Change::Tenure(_) => self.enter(change),
        }
        self.enter_marks();
    }

    /// Brings all maps up to date with a change.
    fn enter(&mut self, change: &Change) {
        match change {
            Change::Allocation(edit) => self.enter_allocation(edit),
            Change::Pool(edit) => self.pools.replace(edit),
            Change::AddressSpace(edit) => {
                self.set_fence(&edit.subject().name, edit.after.clone());
            }
            Change::Advertisement(edit) => {
                let key = &edit.subject().key;
                match &edit.after {
                    Some(after) => self.advertisements.insert(key.clone(), Arc::clone(after)),
                    None => self.advertisements.remove(key),
                };
            }
            Change::BgpPeer(edit) => self.bgp.enter_peer(edit),
            Change::BfdProfile(edit) => self.bgp.enter_profile(edit),
            Change::Reservation(edit) => self.enter_reservation(edit),
            Change::Unavailable(edit) => self.enter_unavailable(edit),
            Change::Cluster(edit) => {
                let waits = |cluster: &Option<Arc<Cluster>>| {
                    let cluster = cluster.as_ref();
                    cluster.is_some_and(|one| one.inventory.is_awaited())
                };
                self.recovering -= usize::from(waits(&edit.before));
                self.recovering += usize::from(waits(&edit.after));
                self.tenants.replace_cluster(edit);
            }
            Change::Quota(edit) => {
                let held = self.tenants.allocations_of(&edit.subject().cluster);
                self.quotas.replace(edit, held);
            }
            Change::Node(edit) => self.tenants.replace_node(edit),
            Change::Backends(edit) => self.tenants.replace_backends(edit),
            Change::Placement(edit) => {
                let group = edit.subject().group;
                match &edit.after {
                    Some(after) => self.placements.insert(group, Arc::clone(after)),
                    None => self.placements.remove(&group),
                };
            }
            Change::Tenure(edit) => {
                let key = &edit.subject().key;
                match &edit.after {
                    Some(after) => self.tenures.insert(key.clone(), Arc::clone(after)),
                    None => self.tenures.remove(key),
                };
            }
        }
    }

    fn enter_reservation(&mut self, edit: &Edit<Reservation>) {
        let key = &edit.subject().key;
        let space = space_mut(&mut self.spaces, &self.pools, &key.space);
        if let Some(before) = &edit.before {
            space.unreserve(before);
        }
        if let Some(after) = &edit.after {
            space.reserve(after);
        }
        if space.is_empty() {
            self.spaces.remove(&key.space);
        }
        match &edit.after {
            Some(after) => self.reservations.insert(key.clone(), Arc::clone(after)),
            None => self.reservations.remove(key),
        };
    }

    fn enter_allocation(&mut self, edit: &Edit<Allocation>) {
        if let Some(before) = &edit.before {
            self.by_id.remove(&before.id);
            if let Some(pool) = &before.pool
                && let Some(space) = self.spaces.get_mut(&pool.space)
            {
                for address in &before.addresses {
                    space.let_go(*address, before);
                }
                if space.is_empty() {
                    self.spaces.remove(&pool.space);
                }
            }
        }
        if let Some(after) = &edit.after {
            self.by_id.replace(ById(Arc::clone(after)));
            if let Some(pool) = &after.pool {
                let space = space_mut(&mut self.spaces, &self.pools, &pool.space);
                for address in &after.addresses {
                    space.hold(*address, after);
                }
            }
        }
        self.tenants.replace_allocation(edit);
        self.quotas.follow(edit);
        self.waiting
            .replace(edit.before.as_deref(), edit.after.as_deref());
    }

    /// Offers each address that came free, or that may be shared otherwise than before, to those
    /// who wait.
    fn offer_what_changed_hands(&mut self, edit: &Edit<Allocation>) {
        let (before, after) = (edit.before.as_deref(), edit.after.as_deref());
        if let (Some(before), Some(after)) = (before, after)
            && before.pools().eq(after.pools())
            && before.addresses == after.addresses
            && before.effective_claim() == after.effective_claim()
        {
            return;
        }
        for held in [before, after].into_iter().flatten() {
            if let Some(pool) = &held.pool {
                for address in &held.addresses {
                    self.offer(&pool.space, *address);
                }
            }
        }
    }

    fn mark_for_pool(&mut self, edit: &Edit<Pool>) {
        let key = &edit.subject().key;
        let own = key.cluster.as_ref();
        for pool in [&edit.before, &edit.after].into_iter().flatten() {
            self.waiting.mark_for_pool(pool, own);
        }
        // A cluster's pool hides the operator's pool of its name.
        if own.is_some()
            && (edit.before.is_none() || edit.after.is_none())
            && let Some(hidden) = self.pools.get(&key.of_operator())
        {
            self.waiting.mark_for_pool(hidden, own);
        }
    }

    /// Marks those whose addresses may not stay as they are after an edit of a pool.
    fn mark_holders(&mut self, edit: &Edit<Pool>) {
        let key = &edit.subject().key;
        let (before, after) = (edit.before.as_ref(), edit.after.as_ref());
        let concerned = self.concerned_by_pool(key, before, after);
        let out_of_place: Vec<AllocationId> = concerned
            .into_iter()
            .filter(|(_, holder)| !self.is_in_place(holder))
            .map(|(_, holder)| holder.id)
            .collect();
        // A cluster's pool hides the operator's pool of its name, and does so no more when it goes.
        let own = key.cluster.as_ref();
        let hidden = own.and_then(|_| self.pools.get(&key.of_operator()));
        let pools = [before, after, hidden].into_iter().flatten();
        let ranges: Vec<AddressRange> = pools.flat_map(|pool| pool.ranges.clone()).collect();
        let marked = self.marked_in(&key.space, &ranges);
        self.unmark_content(marked);
        for id in out_of_place {
            self.waiting.mark(id);
        }
    }
}

/// A space in which something is about to be held or withheld.
fn space_mut<'s>(
    spaces: &'s mut BTreeMap<Name, Space>,
    pools: &Pools,
    name: &Name,
) -> &'s mut Space {
    spaces.entry(name.clone()).or_insert_with(|| {
        let mut space = Space::default();
        space.count_parts(pools.are_cut(name));
        space
    })
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod invariants;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), expect(dead_code, reason = "fuzzing needs a part of it"))]
mod testing;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "fuzzing needs a part of it")
)]
pub(crate) mod tests;
