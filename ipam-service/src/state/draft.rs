//! The changes of one decision while it is being made.

use std::sync::Arc;

use super::State;
use super::bgp::model::{BfdProfile, BgpPeer};
use super::change::{Change, Edit};
use super::model::{
    AddressSpace, Advertisement, Allocation, AllocationId, Backends, Cluster, Node, Placement,
    Pool, Quota, Reservation, Revision, Timestamp, Unavailable,
};
use super::unavailable;

/// Changes in the order of the log; gives each decision its revision.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) state: &'a State,
    pub(super) now: Timestamp,
    revision: Revision,
    changes: Vec<Change>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a State, now: Timestamp) -> Self {
        Self {
            state,
            now,
            revision: state.revision(),
            changes: Vec::new(),
        }
    }

    pub(super) fn finish(mut self) -> Vec<Change> {
        unavailable::follow(&mut self);
        self.changes
    }

    /// Stores an allocation, under the revision that this change takes.
    pub(super) fn put_allocation(
        &mut self,
        before: Option<&Arc<Allocation>>,
        mut after: Allocation,
    ) {
        after.revision = self.take_revision();
        self.changes
            .push(Change::Allocation(edit(before, Some(after))));
    }

    pub(super) fn drop_allocation(&mut self, before: &Arc<Allocation>) {
        self.take_revision();
        self.changes
            .push(Change::Allocation(edit(Some(before), None)));
    }

    /// The id of the allocation that the next [`Draft::put_allocation`] creates.
    pub(super) fn next_id(&self) -> AllocationId {
        self.revision + 1
    }

    pub(super) fn put_pool(&mut self, before: Option<&Arc<Pool>>, after: &Pool) {
        let mut after = after.clone();
        after.revision = self.take_revision();
        self.changes.push(Change::Pool(edit(before, Some(after))));
    }

    pub(super) fn drop_pool(&mut self, before: &Arc<Pool>) {
        self.take_revision();
        self.changes.push(Change::Pool(edit(Some(before), None)));
    }

    pub(super) fn put_advertisement(
        &mut self,
        before: Option<&Arc<Advertisement>>,
        after: &Advertisement,
    ) {
        let mut after = after.clone();
        after.revision = self.take_revision();
        let edit = edit(before, Some(after));
        self.changes.push(Change::Advertisement(edit));
    }

    pub(super) fn drop_advertisement(&mut self, before: &Arc<Advertisement>) {
        self.take_revision();
        let edit = edit(Some(before), None);
        self.changes.push(Change::Advertisement(edit));
    }

    /// A password that is new is of the revision that this change takes.
    pub(super) fn bgp_peer(&mut self, before: Option<&Arc<BgpPeer>>, after: Option<&BgpPeer>) {
        let revision = self.take_revision();
        let after = after.map(|after| BgpPeer {
            revision,
            password_revision: match (&after.password, after.password_revision) {
                (Some(_), 0) => revision,
                (_, known) => known,
            },
            ..after.clone()
        });
        self.changes.push(Change::BgpPeer(edit(before, after)));
    }

    pub(super) fn bfd_profile(
        &mut self,
        before: Option<&Arc<BfdProfile>>,
        after: Option<&BfdProfile>,
    ) {
        let revision = self.take_revision();
        let after = after.map(|after| BfdProfile {
            revision,
            ..after.clone()
        });
        self.changes.push(Change::BfdProfile(edit(before, after)));
    }

    pub(super) fn put_cluster(&mut self, before: Option<&Arc<Cluster>>, mut after: Cluster) {
        after.revision = self.take_revision();
        self.changes
            .push(Change::Cluster(edit(before, Some(after))));
    }

    pub(super) fn drop_cluster(&mut self, before: &Arc<Cluster>) {
        self.take_revision();
        self.changes.push(Change::Cluster(edit(Some(before), None)));
    }

    pub(super) fn put_reservation(
        &mut self,
        before: Option<&Arc<Reservation>>,
        mut after: Reservation,
    ) {
        after.revision = self.take_revision();
        self.changes
            .push(Change::Reservation(edit(before, Some(after))));
    }

    pub(super) fn drop_reservation(&mut self, before: &Arc<Reservation>) {
        self.take_revision();
        self.changes
            .push(Change::Reservation(edit(Some(before), None)));
    }

    pub(super) fn put_quota(&mut self, before: Option<&Arc<Quota>>, after: &Quota) {
        let mut after = after.clone();
        after.revision = self.take_revision();
        self.changes.push(Change::Quota(edit(before, Some(after))));
    }

    pub(super) fn drop_quota(&mut self, before: &Arc<Quota>) {
        self.take_revision();
        self.changes.push(Change::Quota(edit(Some(before), None)));
    }

    pub(super) fn put_address_space(
        &mut self,
        before: Option<&Arc<AddressSpace>>,
        mut after: AddressSpace,
    ) {
        after.revision = self.take_revision();
        self.changes
            .push(Change::AddressSpace(edit(before, Some(after))));
    }

    pub(super) fn drop_address_space(&mut self, before: &Arc<AddressSpace>) {
        self.take_revision();
        self.changes
            .push(Change::AddressSpace(edit(Some(before), None)));
    }

    pub(super) fn put_unavailable(
        &mut self,
        before: Option<&Arc<Unavailable>>,
        mut after: Unavailable,
    ) -> Arc<Unavailable> {
        after.revision = self.take_revision();
        let after = Arc::new(after);
        self.changes.push(Change::Unavailable(Edit {
            before: before.cloned(),
            after: Some(Arc::clone(&after)),
        }));
        after
    }

    pub(super) fn drop_unavailable(&mut self, before: &Arc<Unavailable>) {
        self.take_revision();
        self.changes
            .push(Change::Unavailable(edit(Some(before), None)));
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(super) fn node(&mut self, before: Option<&Arc<Node>>, after: Option<Node>) {
        self.changes.push(Change::Node(edit(before, after)));
    }

    pub(super) fn backends(&mut self, before: Option<&Arc<Backends>>, after: Option<Backends>) {
        self.changes.push(Change::Backends(edit(before, after)));
    }

    /// What equals what is stored is no change.
    pub(super) fn placement(&mut self, before: Option<&Arc<Placement>>, after: Placement) {
        if before.map(Arc::as_ref) != Some(&after) {
            let change = Change::Placement(edit(before, Some(after)));
            self.changes.push(change);
        }
    }

    fn take_revision(&mut self) -> Revision {
        self.revision += 1;
        self.revision
    }
}

fn edit<T>(before: Option<&Arc<T>>, after: Option<T>) -> Edit<T> {
    Edit {
        before: before.cloned(),
        after: after.map(Arc::new),
    }
}
