//! Durations as Go writes them, and the timers of a BGP session.

use std::time::Duration;

/// RFC 4271 section 4.2: a hold time of 1 or 2 seconds is not acceptable.
const SHORTEST_HOLD: Duration = Duration::from_secs(3);
/// It has 16 bits.
const LONGEST_HOLD: Duration = Duration::from_secs(u16::MAX as u64);
/// How many signs of life the hold time is long (RFC 4271 section 4.4).
const KEEPALIVES_PER_HOLD: u32 = 3;
/// Of a second, the part after the point counts to this many digits.
const FRACTION_DIGITS: usize = 18;

/// Hold time and keepalive time of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// 0: a silent router is never given up.
    pub hold: Duration,
    /// 0: no sign of life is sent.
    pub keepalive: Duration,
}

/// What is wrong with timers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid BGPPeer timers: {message}")]
pub(super) struct BadTimers {
    /// `holdTime` or `keepaliveTime`.
    pub(super) field: &'static str,
    message: String,
}

impl Timers {
    /// Of what is given; whichever is missing follows from the other. None if neither is given.
    pub(super) fn parse(
        hold: Option<&str>,
        keepalive: Option<&str>,
    ) -> Result<Option<Self>, BadTimers> {
        let given = |field, text: Option<&str>| {
            let parse = |text| duration(text).ok_or_else(|| format!("{text:?} is no duration"));
            text.map(parse)
                .transpose()
                .map_err(|message| BadTimers { field, message })
        };
        let timers = match (given("holdTime", hold)?, given("keepaliveTime", keepalive)?) {
            (None, None) => return Ok(None),
            (Some(hold), None) => Self {
                hold,
                keepalive: hold / KEEPALIVES_PER_HOLD,
            },
            (None, Some(keepalive)) => Self {
                hold: keepalive.saturating_mul(KEEPALIVES_PER_HOLD),
                keepalive,
            },
            (Some(hold), Some(keepalive)) => Self { hold, keepalive },
        };
        timers.check().map(Some)
    }

    fn check(self) -> Result<Self, BadTimers> {
        let Self { hold, keepalive } = self;
        if !hold.is_zero() && !(SHORTEST_HOLD..=LONGEST_HOLD).contains(&hold) {
            return Err(BadTimers {
                field: "holdTime",
                message: format!(
                    "invalid hold time {hold:?}: must be 0 or >=3s, and at most {LONGEST_HOLD:?}"
                ),
            });
        }
        if keepalive > hold {
            return Err(BadTimers {
                field: "keepaliveTime",
                message: format!(
                    "invalid keepaliveTime {keepalive:?}, must be lower than holdTime {hold:?}"
                ),
            });
        }
        Ok(self)
    }
}

/// Go's `time.ParseDuration`, without what is negative: `1h2m3.5s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let letters = |it: char| it == '.' || it.is_ascii_digit();
        let (unit, after) = after.split_at(after.find(letters).unwrap_or(after.len()));
        let unit = nanoseconds_of(unit)?;
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        nanoseconds = nanoseconds.checked_add(u128::from(whole).checked_mul(unit)?)?;
        nanoseconds = nanoseconds.checked_add(part_of(fraction, unit)?)?;
        rest = after;
    }
    // Go counts in a signed number of 64 bits.
    let nanoseconds = i64::try_from(nanoseconds).ok()?;
    let nanoseconds = u64::try_from(nanoseconds).ok()?;
    (!text.is_empty() && text != "+").then(|| Duration::from_nanos(nanoseconds))
}

/// The digits after the point, of a unit.
fn part_of(fraction: &str, unit: u128) -> Option<u128> {
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    if fraction.is_empty() {
        return Some(0);
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(fraction.parse::<u128>().ok()? * unit / scale)
}

fn nanoseconds_of(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(hold: &str, keepalive: &str) -> Result<Option<(u64, u64)>, String> {
        let given = |text: &'static str| Some(text).filter(|text| *text != "-");
        let (hold, keepalive) = (hold.to_owned().leak(), keepalive.to_owned().leak());
        let timers = Timers::parse(given(hold), given(keepalive));
        let milliseconds = |it: Duration| u64::try_from(it.as_millis()).expect("a short time");
        timers
            .map(|timers| timers.map(|it| (milliseconds(it.hold), milliseconds(it.keepalive))))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90s", Some(90_000_000_000)),
            ("9m0s", Some(540_000_000_000)),
            ("1h2m3.5s", Some(3_723_500_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("5.s", Some(5_000_000_000)),
            ("+3s", Some(3_000_000_000)),
            ("3us", Some(3_000)),
            ("3\u{b5}s", Some(3_000)),
            ("3\u{3bc}s", Some(3_000)),
            ("1ns1ms", Some(1_000_001)),
            ("0.3333333333333333333h", Some(1_200_000_000_000 - 1)),
            ("", None),
            ("+", None),
            ("-1s", None),
            ("3", None),
            ("s", None),
            (".s", None),
            ("3d", None),
            ("3 s", None),
            ("2562048h", None),
            ("99999999999999999999s", None),
        ] {
            let found = duration(text).map(|it| it.as_nanos());
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn one_timer_follows_from_the_other() {
        assert_eq!(parse("-", "-"), Ok(None));
        assert_eq!(parse("180s", "-"), Ok(Some((180_000, 60_000))));
        assert_eq!(parse("-", "60s"), Ok(Some((180_000, 60_000))));
        assert_eq!(parse("90s", "20s"), Ok(Some((90_000, 20_000))));
    }

    #[test]
    fn a_hold_time_is_none_at_all_or_three_seconds_and_longer_than_the_keepalive_time() {
        for (hold, keepalive) in [
            ("0s", "0s"),
            ("0s", "-"),
            ("3s", "-"),
            ("9m0s", "0s"),
            ("30s", "30s"),
            ("65535s", "1s"),
        ] {
            assert!(parse(hold, keepalive).is_ok(), "{hold} {keepalive}");
        }
        for (hold, keepalive, message) in [
            ("1s", "-", "invalid hold time 1s: must be 0 or >=3s"),
            ("2.9s", "-", "invalid hold time 2.9s: must be 0 or >=3s"),
            // It would become 0 seconds on the wire, which is "for ever".
            ("500ms", "-", "invalid hold time 500ms: must be 0 or >=3s"),
            ("-", "900ms", "invalid hold time 2.7s: must be 0 or >=3s"),
            ("65536s", "-", "and at most 65535s"),
            (
                "30s",
                "90s",
                "invalid keepaliveTime 90s, must be lower than holdTime 30s",
            ),
            (
                "0s",
                "1s",
                "invalid keepaliveTime 1s, must be lower than holdTime 0ns",
            ),
            ("soon", "-", "\"soon\" is no duration"),
            ("30s", "-3s", "\"-3s\" is no duration"),
        ] {
            let error = parse(hold, keepalive).expect_err(hold);
            assert!(error.starts_with("invalid BGPPeer timers: "), "{error}");
            assert!(error.contains(message), "{error}");
        }
    }
}
