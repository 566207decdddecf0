//! Changes, clusters and times: domain -> wire.

use std::sync::Arc;

use pharos_proto::v1;
use prost_types::Timestamp as WireTime;

use super::convert::{allocation_to_wire, pool_to_wire};
use super::convert_address_space::address_space_to_wire;
use super::convert_announce::advertisement_to_wire;
use super::convert_bgp::{peer_to_wire, profile_to_wire};
use super::convert_quota::quota_to_wire;
use super::convert_reservation::reservation_to_wire;
use super::convert_unavailable::unavailable_to_wire;
use crate::state::change::{Change, Edit};
use crate::state::model::{Cluster, Revision, Timestamp};

/// Microseconds per second.
const MICROS: i64 = 1_000_000;

/// A time, to the wire.
pub fn time_to_wire(time: Timestamp) -> WireTime {
    let micros = i32::try_from(time.0.rem_euclid(MICROS)).expect("less than a million");
    WireTime {
        seconds: time.0.div_euclid(MICROS),
        nanos: micros * 1000,
    }
}

/// A time from the wire, rounded down to microseconds; times out of range are cut off.
pub fn time_from_wire(wire: &WireTime) -> Timestamp {
    let seconds = wire.seconds.saturating_mul(MICROS);
    Timestamp(seconds.saturating_add(i64::from(wire.nanos / 1000)))
}

/// A cluster, to the wire. `allocations`: how many it has.
pub fn cluster_to_wire(cluster: &Cluster, allocations: u64) -> v1::Cluster {
    v1::Cluster {
        name: cluster.name.as_str().to_owned(),
        cluster_uid: cluster.uid.clone(),
        create_time: Some(time_to_wire(cluster.create_time)),
        authoritative: cluster.inventory.is_authoritative(),
        allocations,
        revision: cluster.revision,
        // A fact, which decisions do not carry.
        last_seen: None,
    }
}

/// What is known of a decision beside what it changed.
#[derive(Debug, Clone, Copy)]
pub struct LogContext<'a> {
    pub revision: Revision,
    pub time: Timestamp,
    pub actor: &'a str,
    pub request_id: &'a str,
}

/// A decision, as the change log has it; `None` for a fact.
pub fn change_to_wire(context: LogContext<'_>, change: &Change) -> Option<v1::Change> {
    use v1::change::Subject;
    let (kind, subject) = match change {
        Change::Allocation(edit) => {
            let (before, after) = ends(edit, allocation_to_wire);
            let subject = v1::change::AllocationChange { before, after };
            (kind_of(edit), Subject::Allocation(subject))
        }
        Change::Pool(edit) => {
            let (before, after) = ends(edit, pool_to_wire);
            (
                kind_of(edit),
                Subject::Pool(v1::change::PoolChange { before, after }),
            )
        }
        Change::Advertisement(edit) => {
            let (before, after) = ends(edit, advertisement_to_wire);
            let subject = v1::change::AdvertisementChange { before, after };
            (kind_of(edit), Subject::Advertisement(subject))
        }
        Change::BgpPeer(edit) => {
            let (before, after) = ends(edit, peer_to_wire);
            let subject = v1::change::BgpPeerChange { before, after };
            (kind_of(edit), Subject::BgpPeer(subject))
        }
        Change::BfdProfile(edit) => {
            let (before, after) = ends(edit, profile_to_wire);
            let subject = v1::change::BfdProfileChange { before, after };
            (kind_of(edit), Subject::BfdProfile(subject))
        }
        Change::Cluster(edit) => {
            let (before, after) = ends(edit, |cluster| cluster_to_wire(cluster, 0));
            let subject = v1::change::ClusterChange { before, after };
            (kind_of(edit), Subject::Cluster(subject))
        }
        Change::Unavailable(edit) => {
            let (before, after) = ends(edit, unavailable_to_wire);
            let subject = v1::change::UnavailableChange { before, after };
            (kind_of(edit), Subject::Unavailable(subject))
        }
        Change::Reservation(edit) => {
            let (before, after) = ends(edit, reservation_to_wire);
            let subject = v1::change::ReservationChange { before, after };
            (kind_of(edit), Subject::Reservation(subject))
        }
        Change::Quota(edit) => {
            let (before, after) = ends(edit, quota_to_wire);
            let subject = v1::change::QuotaChange { before, after };
            (kind_of(edit), Subject::Quota(subject))
        }
        Change::AddressSpace(edit) => {
            let (before, after) = ends(edit, address_space_to_wire);
            let subject = v1::change::AddressSpaceChange { before, after };
            (kind_of(edit), Subject::AddressSpace(subject))
        }
        Change::Node(_) | Change::Backends(_) | Change::Placement(_) | Change::Tenure(_) => {
            return None;
        }
    };
    Some(v1::Change {
        revision: context.revision,
        time: Some(time_to_wire(context.time)),
        actor: context.actor.to_owned(),
        request_id: context.request_id.to_owned(),
        r#type: kind.into(),
        subject: Some(subject),
    })
}

fn ends<T, W>(edit: &Edit<T>, to_wire: impl Fn(&T) -> W) -> (Option<W>, Option<W>) {
    let end = |value: &Option<Arc<T>>| value.as_deref().map(&to_wire);
    (end(&edit.before), end(&edit.after))
}

/// Whether an edit creates, updates or deletes.
pub fn kind_of<T>(edit: &Edit<T>) -> v1::change::Type {
    match (&edit.before, &edit.after) {
        (None, _) => v1::change::Type::Created,
        (Some(_), Some(_)) => v1::change::Type::Updated,
        (Some(_), None) => v1::change::Type::Deleted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire_to_the_microsecond() {
        for micros in [0, 1, 999_999, 1_700_000_000_123_456, -1, -1_000_001] {
            let time = Timestamp(micros);
            assert_eq!(time_from_wire(&time_to_wire(time)), time);
        }
    }
}
