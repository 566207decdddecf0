//! The clock of the drivers. What decides is handed the time and never asks for it.

use std::time::Instant;

/// Now, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where drivers read the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, for what must grow from one process to the next.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where drivers read the wall clock"
)]
pub fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
