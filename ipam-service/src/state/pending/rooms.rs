//! Claims that wait for room within a quota.
//!
//! Room that appears is offered to the claims of the quota one after the other in arrival order, as
//! long as there is some: like a free address, and unlike it to claims for any pool.

use std::ops::Bound::{Excluded, Unbounded};

use super::{Ids, State, Waiting};
use crate::state::model::{Allocation, AllocationId, Families, OwnerKey, Quota, QuotaSubject};
use crate::state::quota::{Bucket, Placed, Slot};

impl Waiting {
    /// Marks the claims that a change of a quota can concern.
    pub(in crate::state) fn mark_for_quota(&mut self, quota: &Quota) {
        let ids: Ids = self.lists_of(quota, None).flatten().copied().collect();
        self.marks.again.mark_all(&ids);
    }

    /// Those that wait, by namespace, of whom a quota speaks; `bucket`: only those of a bucket.
    fn lists_of<'a>(
        &'a self,
        quota: &'a Quota,
        bucket: Option<&'a Bucket>,
    ) -> impl Iterator<Item = &'a Ids> {
        let clusters = self.lists.by_owner.get(&quota.space);
        let namespaces = clusters.and_then(|clusters| clusters.get(&quota.cluster));
        let all = namespaces.into_iter().flatten();
        all.filter(move |(namespace, _)| match &quota.subject {
            QuotaSubject::Cluster => true,
            QuotaSubject::Namespace(only) => namespace.as_ref() == Some(only),
            QuotaSubject::EachNamespace => bucket.is_none_or(|bucket| bucket == *namespace),
        })
        .map(|(_, ids)| ids)
    }
}

impl State {
    /// Offers room within a quota to those who wait for it.
    pub(in crate::state) fn offer_room(&mut self, slot: Slot) {
        self.offer_room_after(slot, 0);
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
        let lists = self.waiting.lists_of(quota, Some(&slot.bucket));
        let first = lists.filter_map(|ids| {
            let mut later = ids.range((Excluded(after), Unbounded)).copied();
            later.find(|id| {
                self.allocation_by_id(*id)
                    .is_some_and(|one| may_help(quota, one))
            })
        });
        first.min()
    }

    /// Whether claims that wait since before `arrival` are about to be decided and may take all
    /// the room that a quota has for this address. Looks at no more of them than there is room for.
    /// One of the owner who asks does not count: its earlier incarnation goes in the same decision.
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
        self.quotas.slots_for(owner, wanted).any(|slot| {
            let Some(quota) = self.quota(&slot.quota) else {
                return false;
            };
            let offered = marks.next_for_room.get(&slot);
            let is_due = |id: &&AllocationId| {
                marks.everyone
                    || offered.is_some_and(|next| next <= *id)
                    || marks.again.contains(**id)
            };
            let is_other = |id: &&AllocationId| {
                let one = self.allocation_by_id(**id);
                one.is_some_and(|one| one.owner.key != *owner)
            };
            let lists = self.waiting.lists_of(quota, Some(&slot.bucket));
            let older = lists.flat_map(|ids| ids.range(..arrival));
            let older = older.filter(is_other);
            // Each of them may take two. Where there is none, only an exchange is allowed, and that
            // takes none away.
            let enough = self.quotas.room(&slot).div_ceil(2);
            enough > 0 && older.filter(is_due).take(enough).count() >= enough
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
