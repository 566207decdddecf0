//! When to look whether another machine answers for an address of this node.
//!
//! Pure. A foreign machine answers whoever asks, by unicast: this node does not see that. So it asks
//! itself, soon after somebody else asked everybody. Where nobody asks, nobody is misled; but a
//! machine that was seen once is asked until it is gone ([`super::conflict`]).

use std::time::{Duration, Instant};

use super::burst::Pace;

/// An address is looked at no more often: each look is a frame to everybody.
const INTERVAL: Duration = Duration::from_millis(800);
/// A new owner does not look for so long: the last answers of the old one may still be on their way.
const AFTER_TAKE_OVER: Duration = Duration::from_secs(1);
/// Looks per second, for all addresses.
const RATE: u32 = 500;

/// When the next look may be taken at anything.
#[derive(Debug)]
pub struct Checks {
    pace: Pace,
}

impl Checks {
    /// At once.
    pub fn new(now: Instant) -> Self {
        Self {
            pace: Pace::per_second(RATE, now),
        }
    }

    /// Whether this node has answered for long enough to hold another machine's frame against it.
    pub fn is_settled(since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= AFTER_TAKE_OVER
    }

    /// From when on a look may be taken at anything.
    pub fn next(&self) -> Instant {
        self.pace.next()
    }

    /// Whether to look now at an address that is answered `since` then, and was looked at `last`.
    pub fn is_due(&mut self, since: Instant, last: Option<Instant>, now: Instant) -> bool {
        let rested = last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        let due = rested && Self::is_settled(since, now) && self.pace.allows(now);
        if due {
            self.pace.spend(1, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn an_address_is_looked_at_about_once_a_second_and_not_by_a_new_owner() {
        let start = Instant::now();
        let mut checks = Checks::new(start);
        let mut looks = Vec::new();
        let mut last = None;
        for ms in (0..4000).step_by(10) {
            let now = start + Duration::from_millis(ms);
            if checks.is_due(start, last, now) {
                last = Some(now);
                looks.push(ms);
            }
        }
        assert_eq!(looks, [1000, 1800, 2600, 3400]);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn all_addresses_together_are_looked_at_at_a_bounded_rate() {
        let start = Instant::now();
        let mut checks = Checks::new(start);
        let mut looks = 0;
        for ms in 2000..3000 {
            for _ in 0..100 {
                let now = start + Duration::from_millis(ms);
                looks += u32::from(checks.is_due(start, None, now));
            }
        }
        assert!((490..=510).contains(&looks), "{looks} looks in a second");
    }
}
