//! Log time: the wall clock, but never back.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::state::model::Timestamp;

/// Where the time of the wall is read.
pub(super) type WallClock = Box<dyn Fn() -> Timestamp + Send>;

/// Gives times that never fall, whatever the wall clock does.
pub(super) struct LogClock {
    last: Timestamp,
    wall: WallClock,
}

impl LogClock {
    /// `last`: the newest time in the log.
    pub(super) fn after(last: Timestamp) -> Self {
        Self {
            last,
            wall: Box::new(wall_time),
        }
    }

    /// Another wall clock, which a simulation moves.
    #[cfg(test)]
    pub(super) fn set_wall(&mut self, wall: WallClock) {
        self.wall = wall;
    }

    /// The time of a batch.
    pub(super) fn tick(&mut self) -> Timestamp {
        self.last = self.last.max((self.wall)());
        self.last
    }
}

/// The wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where log time enters the program"
)]
pub fn wall_time() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_does_not_go_back_behind_what_is_in_the_log() {
        let future = Timestamp(wall_time().0 + 3_600_000_000);
        let mut clock = LogClock::after(future);
        assert_eq!(clock.tick(), future);
        let mut clock = LogClock::after(Timestamp(0));
        let first = clock.tick();
        assert!(first.0 > 0 && clock.tick() >= first);
    }
}
