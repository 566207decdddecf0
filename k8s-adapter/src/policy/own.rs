//! Annotations on MetalLB's resources, for what MetalLB has no word for.

use std::collections::BTreeMap;
use std::time::Duration;

use pharos_proto::v1;

use super::findings::Problems;
use super::limits;
use crate::claim::Settings;
use crate::service::ADDRESS_SPACE;

/// `true`: no edit takes an address of the pool from who has it.
const PROTECT: &str = "pharos.io/protect";
/// How long an address rests between two owners: a number and `s`, `m`, `h` or `d`.
const REUSE_DELAY: &str = "pharos.io/reuse-delay";
/// Who may answer: [`AVAILABLE`] (the default) or [`FENCED`].
const OWNERSHIP: &str = "pharos.io/ownership";
const AVAILABLE: &str = "Available";
const FENCED: &str = "Fenced";

const OF_POOLS: [&str; 3] = [ADDRESS_SPACE, PROTECT, REUSE_DELAY];
const OF_ADVERTISEMENTS: [&str; 2] = [ADDRESS_SPACE, OWNERSHIP];

/// As long as ipam-service lets an address rest.
const LONGEST_REST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Makes a pool what its annotations say.
pub(super) fn pool(
    pool: &mut v1::Pool,
    annotations: &BTreeMap<String, String>,
    problems: &mut Problems<'_>,
) {
    warn_of_others(annotations, &OF_POOLS, problems);
    let value = |name: &str| annotations.get(name).map(String::as_str);
    if let Some(space) = value(ADDRESS_SPACE) {
        pool.address_space = address_space(space, problems);
    }
    pool.protected = match value(PROTECT) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("{other:?} is neither true nor false");
            problems.add(field(PROTECT), message);
            false
        }
    };
    if let Some(text) = value(REUSE_DELAY) {
        let delay = rest(text);
        if delay.is_none() {
            let message = format!("{text:?} is no time from 0s to 30d, like 90s, 15m, 12h or 7d");
            problems.add(field(REUSE_DELAY), message);
        }
        pool.reuse_delay = delay.and_then(|delay| delay.try_into().ok());
    }
}

/// Makes an advertisement what its annotations say.
pub(super) fn advertisement(
    advertisement: &mut v1::Advertisement,
    annotations: &BTreeMap<String, String>,
    problems: &mut Problems<'_>,
) {
    warn_of_others(annotations, &OF_ADVERTISEMENTS, problems);
    let value = |name: &str| annotations.get(name).map(String::as_str);
    if let Some(space) = value(ADDRESS_SPACE) {
        advertisement.address_space = address_space(space, problems);
    }
    let ownership = match value(OWNERSHIP) {
        None | Some(AVAILABLE) => v1::advertisement::l2::Ownership::Available,
        Some(FENCED) => v1::advertisement::l2::Ownership::Fenced,
        Some(other) => {
            let message = format!("{other:?} is neither {AVAILABLE} nor {FENCED}");
            problems.add(field(OWNERSHIP), message);
            v1::advertisement::l2::Ownership::Available
        }
    };
    if let Some(v1::advertisement::Protocol::L2(l2)) = &mut advertisement.protocol {
        l2.ownership = ownership.into();
    }
}

/// The address space of what has no other word of ours.
pub(super) fn space_of(
    annotations: &BTreeMap<String, String>,
    settings: &Settings,
    problems: &mut Problems<'_>,
) -> String {
    warn_of_others(annotations, &[ADDRESS_SPACE], problems);
    match annotations.get(ADDRESS_SPACE) {
        Some(space) => address_space(space, problems),
        None => settings.address_space.clone(),
    }
}

fn address_space(name: &str, problems: &mut Problems<'_>) -> String {
    limits::check_name(field(ADDRESS_SPACE), name, problems);
    name.to_owned()
}

/// A word that is misspelt would do nothing, without a word.
fn warn_of_others(
    annotations: &BTreeMap<String, String>,
    known: &[&str],
    problems: &mut Problems<'_>,
) {
    for name in annotations
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
    {
        let message = format!("means nothing here; known are {}", known.join(", "));
        problems.warn(field(name), message);
    }
}

fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation}]")
}

fn rest(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| digits)?;
    let rest = Duration::from_secs(number.checked_mul(seconds)?);
    (rest <= LONGEST_REST).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_a_number_and_a_unit() {
        for (text, seconds) in [
            ("0s", Some(0)),
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("12h", Some(43_200)),
            ("30d", Some(2_592_000)),
            ("31d", None),
            ("", None),
            ("s", None),
            ("10", None),
            ("+1s", None),
            ("-1s", None),
            ("1.5h", None),
            ("1µ", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(rest(text), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
