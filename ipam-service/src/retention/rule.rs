//! Which part of the log may go, and whether the clock can be trusted with the question.
//!
//! Reads no clock: the wall clock comes in as an argument, beside what is known of it.

use std::fmt;
use std::str::FromStr;

use crate::state::model::{Revision, Timestamp};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// How far behind the log or behind itself the wall clock may be: what clocks that are kept in step
/// never reach.
const BEHIND: i64 = HOUR;

/// How long the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Forever,
    /// In microseconds, more than 0.
    For(i64),
}

/// A text that says no time to keep something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is neither `forever` nor a whole number with a unit: 400d, 36h, 90m, 30s")]
pub struct KeepError;

impl FromStr for Keep {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let unit = text.chars().next_back().ok_or(KeepError)?;
        let micros = match unit {
            'd' => DAY,
            'h' => HOUR,
            'm' => 60 * SECOND,
            's' => SECOND,
            _ => return Err(KeepError),
        };
        let digits = &text[..text.len() - 1];
        let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = digits.parse().map_err(|_| KeepError)?;
        match number.checked_mul(micros) {
            Some(micros) if micros > 0 && all_digits => Ok(Self::For(micros)),
            Some(_) | None => Err(KeepError),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::For(micros) => {
                let units = [('d', DAY), ('h', HOUR), ('m', 60 * SECOND), ('s', SECOND)];
                let whole = units.iter().find(|(_, unit)| micros % unit == 0);
                let (name, unit) = whole.unwrap_or(&('s', SECOND));
                write!(f, "{}{name}", micros / unit)
            }
        }
    }
}

/// What is kept in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub keep: Keep,
    /// So many of the newest revisions stay, however old they are; one does in any case, for its
    /// time.
    pub floor: u64,
}

/// What is known of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The wall clock now.
    pub wall: Timestamp,
    /// The wall clock when it was last found to be right; 0 if it never was looked at.
    pub seen: Timestamp,
    /// Newest log time; 0 if the log is empty.
    pub newest: Timestamp,
    /// Newest log time of which an operator said that it may be ahead of the wall clock.
    pub accepted: Timestamp,
}

/// Why the wall clock is not trusted. The distances are microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It is far ahead of when it was last seen: it has jumped, or the service was away for long.
    Ahead(i64),
    /// It is behind what it showed before.
    Behind(i64),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead(micros) => write!(
                f,
                "the wall clock is {} h ahead of when it was last seen",
                micros / HOUR
            ),
            Self::Behind(micros) => write!(
                f,
                "the wall clock is {} h behind what it showed before",
                micros / HOUR
            ),
        }
    }
}

/// What to do with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of it stays.
    KeepAll,
    /// What is older than `before` goes, up to but without the revision `end`.
    Compact { before: Timestamp, end: Revision },
    /// Nothing goes until an operator has confirmed the clock, or the clock is right again.
    Stopped(Doubt),
}

/// The verdict about a log whose newest revision is `newest`.
pub fn decide(policy: Policy, clocks: Clocks, newest: Revision) -> Verdict {
    let Keep::For(keep) = policy.keep else {
        return Verdict::KeepAll;
    };
    if let Some(doubt) = doubt(keep, clocks) {
        return Verdict::Stopped(doubt);
    }
    let before = clocks.wall.0.saturating_sub(keep);
    let end = newest.saturating_sub(policy.floor.max(1)).saturating_add(1);
    if before <= 0 || end <= 1 {
        return Verdict::KeepAll;
    }
    Verdict::Compact {
        before: Timestamp(before),
        end,
    }
}

/// What is wrong with the wall clock. Ahead is measured from when it was last trusted, and not from
/// the newest log time: the first change after a jump carries the jump.
fn doubt(keep: i64, clocks: Clocks) -> Option<Doubt> {
    let wall = clocks.wall.0;
    let newest = match clocks.newest > clocks.accepted {
        true => clocks.newest.0,
        false => 0,
    };
    let behind = clocks.seen.0.max(newest).saturating_sub(wall);
    if behind > BEHIND {
        return Some(Doubt::Behind(behind));
    }
    let last = if clocks.seen.0 == 0 {
        newest
    } else {
        clocks.seen.0
    };
    let ahead = wall.saturating_sub(last);
    (last != 0 && ahead > tolerated(keep)).then_some(Doubt::Ahead(ahead))
}

/// How far the clock may be ahead of when it was last seen: what it would cost if it were wrong is a
/// tenth of the history, or a day of it.
fn tolerated(keep: i64) -> i64 {
    (keep / 10).max(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * DAY;
    /// Some day in 2024.
    const NOW: i64 = 54 * YEAR;

    fn clocks(wall: i64, seen: i64, newest: i64) -> Clocks {
        Clocks {
            wall: Timestamp(wall),
            seen: Timestamp(seen),
            newest: Timestamp(newest),
            accepted: Timestamp(0),
        }
    }

    #[test]
    fn a_clock_that_cannot_be_is_doubted() {
        let policy = Policy {
            keep: Keep::For(400 * DAY),
            floor: 0,
        };
        for damaged in [i64::MIN, i64::MAX] {
            for clocks in [clocks(NOW, damaged, NOW), clocks(NOW, NOW, damaged)] {
                let verdict = decide(policy, clocks, 100);
                let odd = clocks.seen.0 < 0 || clocks.seen.0 > NOW || clocks.newest.0 > NOW;
                assert_eq!(matches!(verdict, Verdict::Stopped(_)), odd, "{clocks:?}");
            }
        }
    }

    #[test]
    fn what_is_old_goes_and_the_newest_revisions_stay() {
        let policy = |keep, floor| Policy { keep, floor };
        let keep = Keep::For(400 * DAY);
        let compact = |end| Verdict::Compact {
            before: Timestamp(NOW - 400 * DAY),
            end,
        };
        let right = clocks(NOW, NOW - 60 * SECOND, NOW);
        for (policy, newest, expected) in [
            (policy(Keep::Forever, 0), 1000, Verdict::KeepAll),
            (policy(keep, 0), 0, Verdict::KeepAll),
            (policy(keep, 0), 1000, compact(1000)),
            (policy(keep, 1), 1000, compact(1000)),
            (policy(keep, 10), 1000, compact(991)),
            (policy(keep, 999), 1000, compact(2)),
            (policy(keep, 1000), 1000, Verdict::KeepAll),
            (policy(keep, u64::MAX), 1000, Verdict::KeepAll),
        ] {
            assert_eq!(
                decide(policy, right, newest),
                expected,
                "{policy:?} {newest}"
            );
        }
        let eternal = policy(Keep::For(i64::MAX), 0);
        assert_eq!(decide(eternal, right, 1000), Verdict::KeepAll);
    }

    #[test]
    fn a_clock_that_jumped_stops_retention() {
        let keep = 400 * DAY;
        for (name, clocks, expected) in [
            ("right", clocks(NOW, NOW - 60 * SECOND, NOW), None),
            ("never looked at, empty log", clocks(NOW, 0, 0), None),
            ("never looked at, old log", clocks(NOW, 0, NOW - DAY), None),
            (
                "a month away",
                clocks(NOW, NOW - 30 * DAY, NOW - 30 * DAY),
                None,
            ),
            ("an hour back", clocks(NOW, NOW + HOUR, NOW + HOUR), None),
            (
                "ten years ahead, and already in the log",
                clocks(NOW + 10 * YEAR, NOW, NOW + 10 * YEAR),
                Some(Doubt::Ahead(10 * YEAR)),
            ),
            (
                "a year away",
                clocks(NOW, NOW - YEAR, NOW - YEAR),
                Some(Doubt::Ahead(YEAR)),
            ),
            (
                "never looked at, and a year since the last change",
                clocks(NOW, 0, NOW - YEAR),
                Some(Doubt::Ahead(YEAR)),
            ),
            (
                "back again after a jump that is in the log",
                clocks(NOW, NOW, NOW + 10 * YEAR),
                Some(Doubt::Behind(10 * YEAR)),
            ),
            (
                "behind, and nothing was changed meanwhile",
                clocks(NOW - DAY, NOW, NOW - 30 * DAY),
                Some(Doubt::Behind(DAY)),
            ),
            ("1970", clocks(0, NOW, NOW), Some(Doubt::Behind(NOW))),
        ] {
            assert_eq!(doubt(keep, clocks), expected, "{name}");
        }
    }

    #[test]
    fn an_operator_who_confirms_the_clock_ends_the_doubt() {
        let keep = 400 * DAY;
        for before in [
            clocks(NOW, NOW - YEAR, NOW - YEAR),
            clocks(NOW, NOW, NOW + 10 * YEAR),
            clocks(NOW - DAY, NOW, NOW),
        ] {
            assert!(doubt(keep, before).is_some());
            let confirmed = Clocks {
                seen: before.wall,
                accepted: before.newest,
                ..before
            };
            assert_eq!(doubt(keep, confirmed), None);
        }
    }

    #[test]
    fn a_short_history_survives_a_night_without_power() {
        let away = clocks(NOW, NOW - 12 * HOUR, NOW - 12 * HOUR);
        assert_eq!(doubt(10 * SECOND, away), None);
        assert_eq!(tolerated(400 * DAY), 40 * DAY);
    }

    #[test]
    fn times_to_keep_are_whole_numbers_with_a_unit() {
        for (text, micros) in [
            ("400d", 400 * DAY),
            ("36h", 36 * HOUR),
            ("90m", 5400 * SECOND),
        ] {
            assert_eq!(text.parse(), Ok(Keep::For(micros)));
        }
        for text in ["400d", "36h", "90m", "30s", "forever"] {
            assert_eq!(
                text.parse::<Keep>().map(|keep| keep.to_string()),
                Ok(text.to_owned())
            );
        }
        for bad in [
            "",
            "d",
            "0s",
            "-1d",
            "+1d",
            "1.5h",
            "400",
            "400 d",
            "7w",
            "99999999999999d",
            "ü",
        ] {
            assert_eq!(bad.parse::<Keep>(), Err(KeepError), "{bad:?}");
        }
    }
}
