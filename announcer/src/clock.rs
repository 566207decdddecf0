//! The clock of the drivers. What decides is handed the time and never asks for it.

use std::time::{Duration, Instant};

/// Now, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where drivers read the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since the machine was booted, also while it slept.
pub fn since_boot() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    // A clock that cannot be read makes every lease a thing of the past.
    now.map_or(Duration::MAX, Duration::from)
}

/// Time since 1970 on the wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where drivers read the wall clock"
)]
pub fn since_epoch() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Milliseconds since 1970, for what must grow from one process to the next.
pub fn unix_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}
