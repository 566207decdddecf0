//! Committed changes to everybody who watches. Only the writer publishes, after each commit.

pub mod allocations;
pub mod assignments;

use allocations::AllocationFeed;
use assignments::AssignmentFeed;

/// Everything that the writer publishes to.
#[derive(Debug, Clone)]
pub struct Feeds {
    pub allocations: AllocationFeed,
    pub assignments: AssignmentFeed,
}
