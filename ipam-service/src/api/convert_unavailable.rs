//! What makes addresses unavailable: wire <-> domain.

use std::sync::Arc;
use std::time::Duration;

use pharos_proto::v1;

use super::convert::{owner_from_wire, owner_key_to_wire};
use super::convert_history::{time_from_wire, time_to_wire};
use super::fields::FieldErrors;
use crate::state::announce::NodeSet;
use crate::state::model::{Moment, Timestamp, Unavailable, UnavailableKey, UnavailableReason};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// Most nodes that are named: who has more looks at the stream.
const MAX_NODES: usize = 16;

/// A row, to the wire.
pub fn unavailable_to_wire(row: &Unavailable) -> v1::Unavailable {
    let (cluster, nodes) = match &row.awaited {
        None => (String::new(), &[][..]),
        Some((cluster, set)) => (cluster.to_string(), set.nodes.as_slice()),
    };
    v1::Unavailable {
        address_space: row.key.space.to_string(),
        address: row.key.address.to_string(),
        reason: reason_to_wire(row.key.reason).into(),
        since: Some(time_to_wire(row.since)),
        period: Some(duration_to_wire(row.period)),
        for_owner: row.for_owner.as_ref().map(owner_key_to_wire),
        cluster,
        awaited_nodes: nodes.iter().take(MAX_NODES).map(Name::to_string).collect(),
        awaited: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        unacknowledged: row.unacknowledged,
        revision: row.revision,
    }
}

fn reason_to_wire(reason: UnavailableReason) -> v1::unavailable::Reason {
    match reason {
        UnavailableReason::Draining => v1::unavailable::Reason::Draining,
        UnavailableReason::ReuseDelay => v1::unavailable::Reason::ReuseDelay,
        UnavailableReason::Quarantined => v1::unavailable::Reason::Quarantined,
    }
}

/// A row as it was stored, and the nodes that it waits for, which have a table of their own. Its
/// period counts from the beginning again.
pub fn unavailable_from_wire(
    wire: &v1::Unavailable,
    awaited: Option<NodeSet>,
) -> Result<Unavailable, Rejection> {
    let mut errors = FieldErrors::new();
    let space = errors.space("address_space", &wire.address_space);
    let address = errors.address("address", &wire.address);
    let reason = match v1::unavailable::Reason::try_from(wire.reason) {
        Ok(v1::unavailable::Reason::Draining) => Some(UnavailableReason::Draining),
        Ok(v1::unavailable::Reason::ReuseDelay) => Some(UnavailableReason::ReuseDelay),
        Ok(v1::unavailable::Reason::Quarantined) => Some(UnavailableReason::Quarantined),
        Ok(v1::unavailable::Reason::Unspecified) | Err(_) => {
            errors.add("reason", format!("unknown value {}", wire.reason));
            None
        }
    };
    let for_owner = match &wire.for_owner {
        None => Some(None),
        owner => owner_from_wire(&mut errors, "for_owner", owner.as_ref()).map(|it| Some(it.key)),
    };
    let awaited = match awaited {
        None => Some(None),
        Some(set) => {
            let cluster = errors.name("cluster", &wire.cluster);
            cluster.map(|cluster| Some((cluster, Arc::new(set))))
        }
    };
    let period = duration_from_wire(&mut errors, "period", wire.period.as_ref(), Duration::MAX);
    let row = (|| {
        let period = period?.unwrap_or_default();
        Some(Unavailable {
            key: UnavailableKey {
                space: space?,
                address: address?,
                reason: reason?,
            },
            for_owner: for_owner?,
            since: wire.since.as_ref().map_or(Timestamp(0), time_from_wire),
            period,
            deadline: Moment(period),
            awaited: awaited?,
            unacknowledged: wire.unacknowledged,
            revision: wire.revision,
        })
    })();
    errors.finish(row)
}

/// A duration, to the wire.
pub fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("less than a second"),
    }
}

/// A duration of at most so much; `Some(None)`: not given.
pub fn duration_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&prost_types::Duration>,
    most: Duration,
) -> Option<Option<Duration>> {
    let Some(wire) = wire else {
        return Some(None);
    };
    let nanos = u32::try_from(wire.nanos).ok();
    let nanos = nanos.filter(|nanos| *nanos < 1_000_000_000);
    let (Ok(seconds), Some(nanos)) = (u64::try_from(wire.seconds), nanos) else {
        errors.add(field, "must not be negative");
        return None;
    };
    let duration = Duration::new(seconds, nanos);
    if duration > most {
        errors.add(field, format!("must be at most {} s", most.as_secs()));
        return None;
    }
    Some(Some(duration))
}
