//! Claims that wait for room within a quota.
//!
//! Room that appears is offered to the claims of the quota one after the other in arrival order, as
//! long as there is some: like a free address, and unlike it to claims for any pool.

use std::ops::Bound::{Excluded, Unbounded};

use super::again::LOOKED_AT;
use super::{Ids, State, Waiting};
use crate::state::address::Address;
use crate::state::model::{Allocation, AllocationId, Families, OwnerKey, Quota};
use crate::state::quota::{Opened, Placed, Slot};

impl Waiting {
    /// Marks the claims that a change of a quota can concern.
    pub(in crate::state) fn mark_for_quota(&mut self, quota: &Quota) {
        if let Some(ids) = self.lists.by_owner.of_quota(quota, None) {
            self.marks.again.mark_all(ids);
        }
    }

    /// Whether so many claims that wait since before `arrival` and of which a quota speaks are about
    /// to be decided. Looks at [`LOOKED_AT`] only: who finds more in its way waits behind them.
    /// `own` does not count.
    fn are_due(
        &self,
        (quota, slot): (&Quota, &Slot),
        enough: usize,
        arrival: AllocationId,
        own: Option<AllocationId>,
    ) -> bool {
        let marks = &self.marks;
        let waiting = self.lists.by_owner.of_quota(quota, Some(&slot.bucket));
        let Some(waiting) = waiting else {
            return false;
        };
        let marked = marks.again.of_quota(quota, &slot.bucket);
        // Those from whom on room is offered to one after the other.
        let offered = match marks.everyone {
            true => Some(0),
            false => marks.next_for_room.get(slot).copied(),
        };
        let at_most = marked.map_or(0, Ids::len) + offered.map_or(0, |_| waiting.len());
        if at_most < enough {
            return false;
        }
        let offered = offered.map_or(arrival, |first| first.min(arrival));
        let marked = marked.into_iter().flat_map(|ids| ids.range(..offered));
        let mut due = 0;
        for (looks, id) in marked.chain(waiting.range(offered..arrival)).enumerate() {
            if looks == LOOKED_AT {
                return true;
            }
            marks.count_look();
            due += usize::from(waiting.contains(id) && Some(*id) != own);
            if due == enough {
                return true;
            }
        }
        false
    }
}

impl State {
    /// Offers what appeared within a quota to those who wait for it.
    pub(in crate::state) fn offer_opened(&mut self, opened: Opened) {
        match opened {
            Opened::Room(slot) => self.offer_room_after(slot, 0),
            Opened::Exchange { address, slot } => self.mark_holders_of(address, &slot),
        }
    }

    /// Marks who waits and holds an address, of those of whom a quota speaks.
    fn mark_holders_of(&mut self, address: Address, slot: &Slot) {
        let Some(quota) = self.quota(&slot.quota) else {
            return;
        };
        let by_owner = &self.waiting.lists.by_owner;
        let Some(waiting) = by_owner.of_quota(quota, Some(&slot.bucket)) else {
            return;
        };
        let holders = self.space(&quota.space).holders(address);
        let holders = holders.map(|one| one.id).filter(|id| waiting.contains(id));
        let holders: Vec<AllocationId> = holders.collect();
        self.waiting.marks.again.mark_all(&holders);
    }

    /// Takes an offer of room off the marks, and says whether it is still there. If so the next
    /// claim is offered what this one leaves.
    pub(super) fn use_room(&mut self, id: AllocationId, slot: Slot) -> bool {
        self.waiting.marks.next_for_room.remove(&slot);
        let has_room = self.quotas.has_room(&slot);
        self.waiting.marks.rooms.remove(&(id, slot.clone()));
        if has_room {
            self.offer_room_after(slot, id);
        }
        has_room
    }

    fn offer_room_after(&mut self, slot: Slot, after: AllocationId) {
        let next = self.next_for_room(&slot, after);
        let marks = &mut self.waiting.marks;
        if let Some(old) = marks.next_for_room.remove(&slot) {
            marks.rooms.remove(&(old, slot.clone()));
        }
        if let Some(id) = next {
            marks.next_for_room.insert(slot.clone(), id);
            marks.rooms.insert((id, slot));
        }
    }

    /// The first claim after `after` that waits and that the room may help.
    fn next_for_room(&self, slot: &Slot, after: AllocationId) -> Option<AllocationId> {
        let quota = self.quota(&slot.quota)?;
        let by_owner = &self.waiting.lists.by_owner;
        let ids = by_owner.of_quota(quota, Some(&slot.bucket))?;
        let mut later = ids.range((Excluded(after), Unbounded)).copied();
        later.find(|id| {
            let one = self.allocation_by_id(*id);
            one.is_some_and(|one| may_help(quota, one))
        })
    }

    /// Whether claims that wait since before `arrival` are about to be decided and may take all
    /// the room that a quota has for this address. One of the owner who asks does not count: its
    /// earlier incarnation goes in the same decision.
    pub(in crate::state) fn has_older_for_room(
        &self,
        owner: &OwnerKey,
        wanted: Placed<'_>,
        arrival: AllocationId,
    ) -> bool {
        let marks = &self.waiting.marks;
        if marks.again.is_empty() && marks.rooms.is_empty() && !marks.everyone {
            return false;
        }
        let own = self.allocation(owner).map(|one| one.id);
        self.quotas.slots_for(owner, wanted).any(|slot| {
            let Some(quota) = self.quota(&slot.quota) else {
                return false;
            };
            // Each of them may take two. Where there is none, only an exchange is allowed, and that
            // takes none away.
            let enough = self.quotas.room(&slot).div_ceil(2);
            let of = (&**quota, &slot);
            enough > 0 && self.waiting.are_due(of, enough, arrival, own)
        })
    }
}

/// Whether room within a quota may be what a claim lacks, as far as that is told by what it asks for.
fn may_help(quota: &Quota, one: &Allocation) -> bool {
    let claim = &one.claim;
    let family = match claim.families {
        Families::One(family) => quota.family.is_none_or(|only| only == family),
        Families::Any | Families::Both | Families::PreferBoth { .. } => true,
    };
    let pool = match (&quota.pool, &claim.pool) {
        (Some(only), Some(named)) => only == named,
        (None, _) | (_, None) => true,
    };
    family && pool
}
