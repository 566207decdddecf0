//! What a claim is told that gets nothing.

use super::{Asking, Lack};
use crate::state::address::{Address, Family};
use crate::state::model::{Pool, PoolKey, Unavailable, UnavailableReason};
use crate::state::refusal::text::{self, Reader};
use crate::state::refusal::{Attempt, Reason, Refusal};
use crate::state::sharing::Conflict;
use crate::state::space::Obstacle;
use crate::state::withheld::Barrier;

impl<'a> Asking<'a> {
    /// The refusal of a search, from what was tried.
    pub(super) fn summary(&self, tried: Vec<Attempt>, in_named_pool: bool) -> Refusal {
        let of = |reason| tried.iter().find(|attempt| attempt.reason == reason);
        let telling = of(Reason::BehindOlderClaims)
            .or_else(|| of(Reason::QuotaExceeded))
            .or_else(|| of(Reason::AddressDraining))
            .or_else(|| of(Reason::AddressQuarantined))
            .or_else(|| of(Reason::NoFreeAddress))
            .or_else(|| of(Reason::OutsideGrant))
            .or(tried.last());
        let (reason, message) = match telling {
            None if self.has_no_grant() => (Reason::OutsideGrant, self.grant_text()),
            None => (
                Reason::NoFreeAddress,
                "no available IPs: no pool is open to this claim".to_owned(),
            ),
            Some(Attempt {
                reason, message, ..
            }) => {
                let says_all = matches!(
                    reason,
                    Reason::NoFreeAddress
                        | Reason::BehindOlderClaims
                        | Reason::AddressDraining
                        | Reason::AddressQuarantined
                        | Reason::QuotaExceeded
                        | Reason::OutsideGrant
                );
                if says_all || in_named_pool {
                    (*reason, message.clone())
                } else {
                    let message = format!("no available IPs: {message}");
                    (Reason::NoFreeAddress, message)
                }
            }
        };
        let mut attempts = self.attempt_to_stay();
        let message = match attempts.first() {
            Some(stay) => format!("{}; and elsewhere: {message}", stay.message),
            None => message,
        };
        attempts.extend(tried);
        Refusal {
            reason,
            message,
            attempts,
            quota: None,
        }
    }

    /// What is held now, and why it does not fit the claim: the first thing to say in a refusal.
    fn attempt_to_stay(&self) -> Vec<Attempt> {
        let conflicts = self.current.iter().filter_map(|address| {
            let pool = self.held_through(*address)?;
            let obstacle = self.admitted(*address).err()?;
            let (reason, message) = self.conflict(*address, pool, obstacle);
            Some(Attempt {
                pool: pool.to_string(),
                reason,
                message,
            })
        });
        conflicts.collect()
    }

    pub(in crate::state) fn conflict(
        &self,
        address: Address,
        pool: &PoolKey,
        obstacle: Obstacle<'_>,
    ) -> (Reason, String) {
        let (conflict, holder) = match obstacle {
            Obstacle::Holder(conflict, holder) => (conflict, holder),
            Obstacle::Withheld(Barrier::Reserved(reservation)) => {
                let whose = text::reservation(reservation, self.reader());
                let message = format!("address {address} of pool \"{pool}\" is {whose}");
                return (Reason::AddressReserved, message);
            }
            Obstacle::Withheld(Barrier::Resting(row)) => {
                let why = text::unavailable(row, self.reader());
                let message = format!("address {address} of pool \"{pool}\" {why}");
                return (reason_of(row), message);
            }
        };
        let holder_name = self.reader().holder(holder);
        match conflict {
            Conflict::PortInUse(port) => {
                let message = text::port_in_use(port, address);
                (Reason::PortInUse, format!("{message} by {holder_name}"))
            }
            // Who stands beside others already is told that its key may not change.
            Conflict::Taken if !self.current.contains(&address) => (
                Reason::AddressTaken,
                text::taken(address, pool, &holder_name),
            ),
            Conflict::Taken | Conflict::OtherKey => (
                Reason::SharingMismatch,
                text::other_sharing_key(self.owner, &holder_name, address),
            ),
        }
    }

    pub(super) fn not_for_owner(&self, pool: &Pool) -> Refusal {
        let message = text::pool_not_for_owner(&pool.key, self.owner);
        refusal(Reason::PoolNotForOwner, message)
    }

    pub(super) fn describe(&self, lack: Lack, pool: &PoolKey, family: Family) -> (Reason, String) {
        match lack {
            Lack::Family => (Reason::FamilyNotInPool, text::no_family(pool, family)),
            Lack::Grant if self.has_no_grant() => (Reason::OutsideGrant, self.grant_text()),
            Lack::Grant => {
                let message = format!(
                    "{}, which has no {family} address of pool \"{pool}\"",
                    self.grant_text()
                );
                (Reason::OutsideGrant, message)
            }
            Lack::FreeAddress => {
                if let Some((address, row)) = self.first_resting(pool, family) {
                    let why = text::unavailable(row, self.reader());
                    let message = text::no_free_address(pool, family);
                    return (reason_of(row), format!("{message}: {address} {why}"));
                }
                let message = text::no_free_address(pool, family);
                let mut message = match &self.claim.reservation {
                    None => message,
                    Some(name) => format!("{message} of reservation \"{name}\""),
                };
                if self.is_cut_short(pool, family) {
                    let cluster = &self.owner.cluster;
                    message.push_str(&format!(" within the grant of cluster {cluster}"));
                }
                (Reason::NoFreeAddress, message)
            }
            Lack::BehindOlder => (
                Reason::BehindOlderClaims,
                format!("older claims wait for {family} addresses of pool \"{pool}\""),
            ),
            Lack::Quota(full) => (Reason::QuotaExceeded, full.to_string()),
            Lack::Recovering => (Reason::Recovering, self.recovering().message),
        }
    }

    pub(super) fn recovering(&self) -> Refusal {
        let clusters = self.state.clusters();
        let awaited = clusters.filter(|cluster| cluster.inventory.is_awaited());
        // They are those of all address spaces.
        let reader = Reader {
            cluster: &self.owner.cluster,
            hides_holders: self.state.hides_any_holders(),
        };
        let message = text::recovering(awaited.map(|cluster| &cluster.name), reader);
        refusal(Reason::Recovering, message)
    }

    /// Who reads the refusal.
    pub(in crate::state) fn reader(&self) -> Reader<'a> {
        Reader {
            cluster: &self.owner.cluster,
            hides_holders: self.state.hides_holders(&self.claim.space),
        }
    }
}

/// What a claim is told that could have had the address.
fn reason_of(row: &Unavailable) -> Reason {
    match row.key.reason {
        UnavailableReason::Draining | UnavailableReason::ReuseDelay => Reason::AddressDraining,
        UnavailableReason::Quarantined => Reason::AddressQuarantined,
    }
}

pub(super) fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal {
        reason,
        message,
        attempts: Vec::new(),
        quota: None,
    }
}
