//! Committed changes to everybody who watches. Only the writer publishes, after each commit.

pub mod allocations;
pub mod assignments;
pub mod changes;

#[cfg(test)]
mod testing;

use allocations::AllocationFeed;
use assignments::AssignmentFeed;
use changes::ChangeFeed;

/// Everything that the writer publishes to.
#[derive(Debug, Clone)]
pub struct Feeds {
    pub allocations: AllocationFeed,
    pub assignments: AssignmentFeed,
    pub changes: ChangeFeed,
}
