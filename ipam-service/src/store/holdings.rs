//! Who holds an address from when to when, as rows. Pure: it runs no SQL.
//!
//! An interval is named by its address and the allocation: another incarnation of an owner has
//! another allocation. It is one row: inserted when it begins, and updated when it ends while the allocation
//! goes on, or when the owner's uid becomes known. That the allocation ended is told by `former_owner`; in a
//! database of an older version by a row of its own.

use std::collections::BTreeMap;

use super::rows::{Cell, Rows};
use crate::state::model::{Allocation, Revision, Timestamp};
use crate::state::names::Name;

/// Names an interval that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    space: &'a str,
    address: [u8; 16],
    allocation: u64,
}

/// An interval that began.
#[derive(Debug)]
struct Begun<'a> {
    key: Key<'a>,
    by: &'a Allocation,
    /// Newest known.
    uid: &'a str,
    start: (Revision, Timestamp),
    end: Option<(Revision, Timestamp)>,
}

/// What becomes of an interval that is in the table already.
#[derive(Debug)]
struct Changed<'a> {
    uid: &'a str,
    end: Option<(Revision, Timestamp)>,
}

/// The intervals that a row of changes begins, ends or completes; each at most one row.
#[derive(Debug, Default)]
pub(super) struct Intervals<'a> {
    begun: Vec<Begun<'a>>,
    /// Where in `begun` those are that go on.
    going_on: BTreeMap<Key<'a>, usize>,
    changed: BTreeMap<Key<'a>, Changed<'a>>,
}

impl<'a> Intervals<'a> {
    /// Takes in a change of an allocation. To be called in order of revision.
    pub(super) fn add(
        &mut self,
        at: (Revision, Timestamp),
        before: Option<&'a Allocation>,
        after: Option<&'a Allocation>,
    ) {
        for key in keys(before) {
            let Some(still) = after.filter(|_| keys(after).any(|other| other == key)) else {
                self.end(key, before, at);
                continue;
            };
            if before.is_some_and(|before| before.owner.uid != still.owner.uid) {
                self.name(key, &still.owner.uid);
            }
        }
        let Some(by) = after else { return };
        for key in keys(after) {
            if !keys(before).any(|other| other == key) {
                self.going_on.insert(key, self.begun.len());
                self.begun.push(Begun {
                    key,
                    by,
                    uid: &by.owner.uid,
                    start: at,
                    end: None,
                });
            }
        }
    }

    fn end(&mut self, key: Key<'a>, before: Option<&'a Allocation>, at: (Revision, Timestamp)) {
        if let Some(index) = self.going_on.remove(&key) {
            self.begun[index].end = Some(at);
            return;
        }
        let uid = before.map_or("", |before| &before.owner.uid);
        let end = Some(at);
        self.changed.insert(key, Changed { uid, end });
    }

    fn name(&mut self, key: Key<'a>, uid: &'a str) {
        match self.going_on.get(&key) {
            Some(index) => self.begun[*index].uid = uid,
            None => drop(self.changed.insert(key, Changed { uid, end: None })),
        }
    }

    /// Rows of `update_holding`, then of `insert_holding`; the updates must run first.
    pub(super) fn into_rows(self) -> (Rows, Rows) {
        let (mut updates, mut inserts) = (Rows::default(), Rows::default());
        for (key, changed) in &self.changed {
            let [revision, time] = end_cells(changed.end);
            updates.push(&[
                Cell::Text(key.space),
                Cell::bytes(&key.address),
                Cell::number(key.allocation),
                Cell::Text(changed.uid),
                revision,
                time,
            ]);
        }
        for interval in &self.begun {
            let (key, owner) = (&interval.key, &interval.by.owner.key);
            let pool = interval.by.pool.as_ref();
            let [end_revision, end_time] = end_cells(interval.end);
            inserts.push(&[
                Cell::Text(key.space),
                Cell::bytes(&key.address),
                Cell::number(key.allocation),
                Cell::Text(&owner.cluster),
                Cell::Text(owner.namespace.as_ref().map_or("", Name::as_str)),
                Cell::Text(&owner.name),
                Cell::Text(interval.uid),
                Cell::Text(pool.map_or("", |pool| pool.name.as_str())),
                Cell::number(interval.start.0),
                Cell::Int(interval.start.1.0),
                end_revision,
                end_time,
            ]);
        }
        (updates, inserts)
    }
}

/// What an allocation holds: at most one address of each family.
fn keys(allocation: Option<&Allocation>) -> impl Iterator<Item = Key<'_>> {
    allocation.into_iter().flat_map(|allocation| {
        let space = allocation.effective_claim().space.as_str();
        allocation.addresses.iter().map(move |address| Key {
            space,
            address: address.to_bytes(),
            allocation: allocation.id,
        })
    })
}

/// 0 while it goes on.
fn end_cells(end: Option<(Revision, Timestamp)>) -> [Cell<'static>; 2] {
    match end {
        Some((revision, time)) => [Cell::number(revision), Cell::Int(time.0)],
        None => [Cell::Int(0), Cell::Int(0)],
    }
}
