//! `BFDProfile`.

use std::ops::RangeInclusive;

use super::Declared;
use super::findings::Problems;
use crate::crd::ProfileSpec;

const INTERVALS: RangeInclusive<u32> = 10..=60_000;
const MULTIPLIERS: RangeInclusive<u32> = 2..=255;
const TTLS: RangeInclusive<u32> = 1..=254;

/// How BFD watches a router. None: the announcer's own value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    /// Milliseconds.
    pub receive_interval: Option<u32>,
    /// Milliseconds.
    pub transmit_interval: Option<u32>,
    pub detect_multiplier: Option<u32>,
    pub passive: bool,
    pub minimum_ttl: Option<u32>,
}

pub(super) fn parse(
    declared: &Declared<ProfileSpec>,
    spec: &ProfileSpec,
    problems: &mut Problems<'_>,
) -> Profile {
    let mut check = |field: &str, what: &str, value: Option<u32>, range: RangeInclusive<u32>| {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            let (low, high) = range.into_inner();
            let message = format!(
                "invalid {what} value {value}: invalid value, must be in {low}-{high} range"
            );
            problems.add(format!("spec.{field}"), message);
        }
    };
    let interval = INTERVALS;
    check(
        "receiveInterval",
        "receive interval",
        spec.receive_interval,
        interval.clone(),
    );
    check(
        "transmitInterval",
        "transmit interval",
        spec.transmit_interval,
        interval.clone(),
    );
    check(
        "echoInterval",
        "echo interval",
        spec.echo_interval,
        interval,
    );
    check(
        "detectMultiplier",
        "detect multiplier",
        spec.detect_multiplier,
        MULTIPLIERS,
    );
    check("minimumTtl", "minimum ttl", spec.minimum_ttl, TTLS);
    if spec.echo_mode == Some(true) {
        problems.warn("spec.echoMode", "has no effect: there are no echo packets");
    }
    Profile {
        name: declared.name.clone(),
        receive_interval: spec.receive_interval,
        transmit_interval: spec.transmit_interval,
        detect_multiplier: spec.detect_multiplier,
        passive: spec.passive_mode.unwrap_or_default(),
        minimum_ttl: spec.minimum_ttl,
    }
}
