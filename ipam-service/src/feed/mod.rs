//! Committed changes to everybody who watches. Only the writer publishes, after each commit.

pub mod allocations;
pub mod assignments;
pub mod changes;
pub mod status;
pub mod touched;

#[cfg(test)]
mod testing;

use std::time::Duration;

use allocations::AllocationFeed;
use assignments::AssignmentFeed;
use changes::ChangeFeed;
use status::StatusFeed;

/// Batches that a live feed keeps for watchers that are busy. A watcher further behind reads the log
/// instead, so this bounds memory and nothing else.
const LIVE_BATCHES: usize = 64;

/// Rows that a watcher reads at once.
const PAGE: u32 = 500;

/// Watchers are promised a bookmark every 10 s.
const BOOKMARK: Duration = Duration::from_secs(8);

/// Everything that the writer publishes to.
#[derive(Debug, Clone)]
pub struct Feeds {
    pub allocations: AllocationFeed,
    pub assignments: AssignmentFeed,
    pub changes: ChangeFeed,
    pub status: StatusFeed,
}
