//! One batch while it is decided: pure bookkeeping around the state, no I/O.

use std::sync::Arc;

use super::left::left;
use super::{Meta, Reply, SubmitError};
use crate::state::announce::{Announcements, Owners, Refresh};
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{OwnerKey, Timestamp};
use crate::state::refusal::Rejection;
use crate::state::{State, decide};
use crate::store::{Batch, Logged, Origin};

/// Internal commands that one batch takes on: more would make its callers wait. The rest goes into
/// the next batch.
const FOLLOW_UPS: usize = 256;

/// Actor of decisions that nobody asked for.
const SELF: &str = "ipam-service";

/// A batch that is being decided. The state already has everything that is in it.
pub(super) struct OpenBatch {
    time: Timestamp,
    changes: Vec<Logged>,
    follow_ups_left: usize,
    unfinished: String,
}

impl OpenBatch {
    /// `follow_ups`: whether internal commands are taken on.
    pub(super) fn new(time: Timestamp, follow_ups: bool) -> Self {
        Self {
            time,
            changes: Vec::new(),
            follow_ups_left: if follow_ups { FOLLOW_UPS } else { 0 },
            unfinished: String::new(),
        }
    }

    /// Adds changes that were decided elsewhere and are in the state already.
    pub(super) fn add_applied(&mut self, changes: Vec<Change>) {
        let origin = Arc::new(Origin {
            actor: SELF.to_owned(),
            ..Origin::default()
        });
        self.changes
            .extend(changes.into_iter().map(|change| Logged {
                revision: None,
                change,
                origin: Arc::clone(&origin),
            }));
    }

    /// Decides a command, applies it, and decides what it makes necessary.
    pub(super) fn decide(
        &mut self,
        state: &mut State,
        command: &Command,
        meta: &Meta,
    ) -> Result<Reply, SubmitError> {
        let from = self.changes.len();
        let origin = Origin {
            actor: meta.actor.clone(),
            request_id: meta.request_id.clone(),
        };
        self.apply(state, command, &Arc::new(origin))?;
        self.follow_up(state, &meta.request_id);
        let would = match meta.validate_only {
            true => &self.changes[from..],
            false => &[],
        };
        let reply = Reply {
            revision: state.revision(),
            changes: self.changes[from..]
                .iter()
                .map(|logged| logged.change.clone())
                .collect(),
            unfinished: self.follow_ups_left == 0 && state.has_follow_up(),
            remaining: match self.follow_ups_left {
                0 => state.marked(),
                _ => 0,
            },
            allocation: owner_of(command).and_then(|owner| state.allocation(owner).cloned()),
            left: left(state, command, would),
        };
        if meta.validate_only {
            for logged in self.changes.drain(from..).rev() {
                state.undo(&logged.change);
            }
        }
        Ok(reply)
    }

    /// Decides internal commands that wait, as many as the batch may still take.
    pub(super) fn follow_up(&mut self, state: &mut State, request_id: &str) {
        if self.follow_ups_left == 0 {
            return;
        }
        let mut origin = None;
        while self.follow_ups_left > 0 {
            let Some(command) = state.follow_up() else {
                return;
            };
            self.follow_ups_left -= 1;
            if self.follow_ups_left == 0 {
                request_id.clone_into(&mut self.unfinished);
            }
            let origin = origin.get_or_insert_with(|| {
                Arc::new(Origin {
                    actor: SELF.to_owned(),
                    request_id: request_id.to_owned(),
                })
            });
            // That it still does not fit is no news; the state keeps what waits.
            if let Err(rejection) = self.apply(state, &command, &Arc::clone(origin)) {
                tracing::debug!(request_id, %rejection, "an internal command changes nothing");
            }
        }
    }

    fn apply(
        &mut self,
        state: &mut State,
        command: &Command,
        origin: &Arc<Origin>,
    ) -> Result<(), Rejection> {
        for change in decide(state, command, self.time)? {
            state.apply(&change);
            self.changes.push(Logged {
                revision: change.is_decision().then(|| state.revision()),
                change,
                origin: Arc::clone(origin),
            });
        }
        Ok(())
    }

    /// Request id of the call that the batch had no room left for: what remains to be done because
    /// of it is to say so. Only known when the batch is full.
    pub(super) fn unfinished(&self) -> &str {
        &self.unfinished
    }

    /// Whether the batch took on as many internal commands as it may: there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.follow_ups_left == 0
    }

    /// Finds out what the batch means for announcers; to be called once, after everything else.
    /// `moves`: whether owners of fenced addresses may be asked to make room.
    pub(super) fn refresh(
        &mut self,
        state: &mut State,
        announcements: &mut Announcements,
        moves: bool,
    ) -> Refresh {
        let touched = state.leases_mut().take_touched();
        let owners = Owners::Named { touched, moves };
        let mut refresh = refresh(state, announcements, &self.changes, owners);
        let choices = std::mem::take(&mut refresh.choices);
        self.add_applied(choices);
        refresh
    }

    /// What is to be written.
    pub(super) fn close(self) -> Batch {
        Batch {
            time: self.time,
            changes: self.changes,
            ..Batch::default()
        }
    }
}

/// Finds out what changes that the state has, and leases, mean for announcers. The state has what was
/// chosen then, too.
pub(super) fn refresh(
    state: &mut State,
    announcements: &mut Announcements,
    changes: &[Logged],
    owners: Owners,
) -> Refresh {
    let changes: Vec<Change> = changes.iter().map(|logged| logged.change.clone()).collect();
    let refresh = announcements.refresh(state, &changes, owners);
    for change in &refresh.choices {
        state.apply(change);
    }
    refresh
}

/// Takes a batch that is surely not on disk back out of the state.
pub(super) fn undo(state: &mut State, batch: &Batch) {
    for logged in batch.changes.iter().rev() {
        state.undo(&logged.change);
    }
}

/// The owner whose allocation a command is about.
fn owner_of(command: &Command) -> Option<&OwnerKey> {
    match command {
        Command::Allocate(allocate) => Some(&allocate.owner.key),
        Command::Release(release) => Some(&release.owner.key),
        Command::Redecide(owner) => Some(owner),
        Command::ApplyPool { .. }
        | Command::DeletePool { .. }
        | Command::SyncPools { .. }
        | Command::ApplyAdvertisement(_)
        | Command::DeleteAdvertisement(_)
        | Command::SyncAdvertisements { .. }
        | Command::Bgp(_)
        | Command::ApplyReservation(_)
        | Command::DeleteReservation(_)
        | Command::EndUnavailable { .. }
        | Command::ClearUnavailable { .. }
        | Command::ReportConflict { .. }
        | Command::ReportLoss { .. }
        | Command::Introduce { .. }
        | Command::BeginSync { .. }
        | Command::EndSync { .. }
        | Command::DeleteCluster { .. }
        | Command::FinishRecovery { .. }
        | Command::AdoptCluster { .. }
        | Command::ApplyQuota(_)
        | Command::ApplyAddressSpace(_)
        | Command::DeleteAddressSpace { .. }
        | Command::DeleteQuota(_)
        | Command::Facts { .. } => None,
    }
}
