//! The last answers, for the begin of a handover. Pure.
//!
//! A question reaches this node and the next owner at the same time, but each reads it when it runs:
//! what was answered here just before this node began to note its answers may be read there after
//! it began to hold. So the notes begin a little in the past.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::burst::Spot;
use super::hold::Noted;

/// How far the notes reach back: longer than a busy machine takes to read a frame, mostly.
const REACH: Duration = Duration::from_millis(50);
/// Most answers that are remembered: those of 50 ms when 10,000 are given in a second; 32 KiB.
const LIMIT: usize = 512;

/// Answers that were given, oldest first.
#[derive(Debug, Default)]
pub struct Recent {
    answers: VecDeque<Noted>,
}

impl Recent {
    /// An answer was given.
    pub fn push(&mut self, one: Noted) {
        if self.answers.len() >= LIMIT {
            self.answers.pop_front();
        }
        self.answers.push_back(one);
    }

    /// Those of the last moments for these addresses, oldest first.
    pub fn of(&self, spots: &[Spot], now: Instant) -> Vec<Noted> {
        let is_late = |one: &&Noted| now.saturating_duration_since(one.at) <= REACH;
        let is_theirs = |one: &&Noted| spots.iter().any(|spot| spot.address == one.question.target);
        let late = self.answers.iter().filter(is_late);
        late.filter(is_theirs).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use pnet_base::MacAddr;

    use super::super::question::Question;
    use super::*;

    fn noted(at: Instant, target: u8) -> Noted {
        let question = Question {
            asker: MacAddr(2, 0, 0, 0, 0, 1),
            from: IpAddr::from([192, 0, 2, 9]),
            target: IpAddr::from([192, 0, 2, target]),
        };
        Noted { at, question }
    }

    fn spot(target: u8) -> Spot {
        Spot {
            interface: 1,
            address: IpAddr::from([192, 0, 2, target]),
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn the_last_answers_for_an_address_are_remembered_for_a_moment_and_bounded() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut recent = Recent::default();
        for (ms, target) in [(0, 100), (60, 100), (70, 101), (80, 100)] {
            recent.push(noted(at(ms), target));
        }
        let of_one = [noted(at(60), 100), noted(at(80), 100)];
        assert_eq!(recent.of(&[spot(100)], at(100)), of_one);
        assert_eq!(recent.of(&[spot(102)], at(100)), []);
        assert_eq!(recent.of(&[spot(100), spot(101)], at(200)), []);
        for _ in 0..2 * LIMIT {
            recent.push(noted(at(100), 101));
        }
        assert_eq!(recent.of(&[spot(100), spot(101)], at(100)).len(), LIMIT);
    }
}
