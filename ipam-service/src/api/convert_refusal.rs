//! Refusals: wire <-> domain.

use pharos_proto::v1;

use super::fields::FieldErrors;
use crate::state::refusal::{Attempt, Reason, Refusal};

/// A refusal, to the wire.
pub fn refusal_to_wire(refusal: &Refusal) -> v1::Refusal {
    let attempt = |attempt: &Attempt| v1::refusal::Attempt {
        pool: attempt.pool.clone(),
        reason: reason_to_wire(attempt.reason).into(),
        message: attempt.message.clone(),
    };
    v1::Refusal {
        reason: reason_to_wire(refusal.reason).into(),
        message: refusal.message.clone(),
        attempts: refusal.attempts.iter().map(attempt).collect(),
        quota: refusal.quota.clone().unwrap_or_default(),
    }
}

/// A refusal as it was stored with its claim.
pub fn refusal_from_wire(errors: &mut FieldErrors, wire: &v1::Refusal) -> Option<Refusal> {
    let mut attempts = Vec::with_capacity(wire.attempts.len());
    for attempt in &wire.attempts {
        attempts.push(Attempt {
            pool: attempt.pool.clone(),
            reason: reason_from_wire(errors, attempt.reason)?,
            message: attempt.message.clone(),
        });
    }
    Some(Refusal {
        reason: reason_from_wire(errors, wire.reason)?,
        message: wire.message.clone(),
        attempts,
        quota: (!wire.quota.is_empty()).then(|| wire.quota.clone()),
    })
}

/// A reason, to the wire.
pub fn reason_to_wire(reason: Reason) -> v1::refusal::Reason {
    use v1::refusal::Reason as Wire;
    match reason {
        Reason::NoFreeAddress => Wire::NoFreeAddress,
        Reason::UnknownPool => Wire::UnknownPool,
        Reason::AddressNotInPool => Wire::AddressNotInPool,
        Reason::AddressTaken => Wire::AddressTaken,
        Reason::PortInUse => Wire::PortInUse,
        Reason::SharingMismatch => Wire::SharingMismatch,
        Reason::PoolNotForOwner => Wire::PoolNotForOwner,
        Reason::AddressNotInRequestedPool => Wire::AddressNotInRequestedPool,
        Reason::BuggyAddress => Wire::BuggyAddress,
        Reason::FamilyNotInPool => Wire::FamilyNotInPool,
        Reason::Recovering => Wire::Recovering,
        Reason::BehindOlderClaims => Wire::BehindOlderClaims,
        Reason::AddressReserved => Wire::AddressReserved,
        Reason::AddressDraining => Wire::AddressDraining,
        Reason::AddressQuarantined => Wire::AddressQuarantined,
        Reason::UnknownReservation => Wire::UnknownReservation,
        Reason::AddressNotInReservation => Wire::AddressNotInReservation,
        Reason::PoolNotAutomatic => Wire::PoolNotAutomatic,
        Reason::OtherPoolNamed => Wire::OtherPoolNamed,
        Reason::QuotaExceeded => Wire::QuotaExceeded,
        Reason::OutsideGrant => Wire::OutsideGrant,
        Reason::TooManyPending => Wire::TooManyPending,
    }
}

fn reason_from_wire(errors: &mut FieldErrors, wire: i32) -> Option<Reason> {
    use v1::refusal::Reason as Wire;
    Some(match Wire::try_from(wire) {
        Ok(Wire::NoFreeAddress) => Reason::NoFreeAddress,
        Ok(Wire::UnknownPool) => Reason::UnknownPool,
        Ok(Wire::AddressNotInPool) => Reason::AddressNotInPool,
        Ok(Wire::AddressTaken) => Reason::AddressTaken,
        Ok(Wire::PortInUse) => Reason::PortInUse,
        Ok(Wire::SharingMismatch) => Reason::SharingMismatch,
        Ok(Wire::PoolNotForOwner) => Reason::PoolNotForOwner,
        Ok(Wire::AddressNotInRequestedPool) => Reason::AddressNotInRequestedPool,
        Ok(Wire::BuggyAddress) => Reason::BuggyAddress,
        Ok(Wire::FamilyNotInPool) => Reason::FamilyNotInPool,
        Ok(Wire::Recovering) => Reason::Recovering,
        Ok(Wire::BehindOlderClaims) => Reason::BehindOlderClaims,
        Ok(Wire::AddressReserved) => Reason::AddressReserved,
        Ok(Wire::AddressDraining) => Reason::AddressDraining,
        Ok(Wire::AddressQuarantined) => Reason::AddressQuarantined,
        Ok(Wire::UnknownReservation) => Reason::UnknownReservation,
        Ok(Wire::AddressNotInReservation) => Reason::AddressNotInReservation,
        Ok(Wire::PoolNotAutomatic) => Reason::PoolNotAutomatic,
        Ok(Wire::OtherPoolNamed) => Reason::OtherPoolNamed,
        Ok(Wire::QuotaExceeded) => Reason::QuotaExceeded,
        Ok(Wire::OutsideGrant) => Reason::OutsideGrant,
        Ok(Wire::TooManyPending) => Reason::TooManyPending,
        Ok(Wire::Unspecified) | Err(_) => {
            errors.add("refusal.reason", format!("unknown value {wire}"));
            return None;
        }
    })
}
