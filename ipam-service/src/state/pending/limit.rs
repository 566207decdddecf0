//! How many claims of one cluster may wait.
//!
//! What waits is kept, and every change looks at who waits for it: without a bound a cluster whose
//! pool is gone, or a client that makes names up, fills the store for everybody.

use crate::state::State;
use crate::state::command::Allocate;
use crate::state::draft::Draft;
use crate::state::model::Standing;
use crate::state::refusal::{Reason, Refusal, Rejection, text};

/// Refuses a claim by which more claims of its cluster would wait than may. One that waits already
/// may change in place, and nobody is put off to whom a change of the pools did it.
///
/// # Errors
/// [`Reason::TooManyPending`]
pub(in crate::state) fn check(draft: &Draft<'_>, command: &Allocate) -> Result<(), Rejection> {
    let state = draft.state;
    let owner = &command.owner.key;
    let waited = state.allocation(owner).is_some_and(|one| one.waits());
    let waiting = state.tenants.waiting_count(owner.cluster.as_str());
    let Some(most) = state.max_pending.filter(|most| waiting >= *most && !waited) else {
        return Ok(());
    };
    let edits = draft
        .changes()
        .iter()
        .filter_map(|change| change.allocation());
    let mut after = edits.filter_map(|edit| edit.after.as_ref());
    let refusal = match after
        .find(|after| after.owner.key == *owner)
        .map(|one| &one.standing)
    {
        None | Some(Standing::Assigned) => return Ok(()),
        Some(Standing::Pending(refusal) | Standing::Stale { refusal, .. }) => refusal,
    };
    Err(Refusal {
        reason: Reason::TooManyPending,
        message: text::too_many_pending(&owner.cluster, waiting, most, refusal),
        ..Refusal::clone(refusal)
    }
    .into())
}

impl State {
    /// So many claims of each cluster may wait.
    pub fn limit_pending(&mut self, most: usize) {
        self.max_pending = Some(most);
    }
}
