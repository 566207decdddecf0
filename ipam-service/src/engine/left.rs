//! What a command leaves of the records that it names. It is part of the reply: a later command of the
//! same batch may change or delete them before anybody can look.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::state::bgp::model::{BfdProfile, BgpCommand, BgpPeer};
use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{AddressSpace, Advertisement, Pool, PoolKey, Quota, Reservation};
use crate::state::{PoolUsage, QuotaUsage, State};
use crate::store::Logged;

/// The records that a command names, as it leaves them, in its order. Those that it only would change
/// have no usage.
#[derive(Debug, Clone)]
pub enum Left {
    /// It names none, or deletes it.
    Nothing,
    Pools(Vec<(Arc<Pool>, Option<PoolUsage>)>),
    Advertisements(Vec<Arc<Advertisement>>),
    Bgp(Vec<Arc<BgpPeer>>, Vec<Arc<BfdProfile>>),
    Reservation(Arc<Reservation>),
    Quota(Arc<Quota>, Option<QuotaUsage>),
    AddressSpace(Arc<AddressSpace>),
}

/// `state`: right after the command. `would`: what it changed, if that is taken back afterwards.
pub(super) fn left(state: &State, command: &Command, would: &[Logged]) -> Left {
    let edits = would.iter().filter_map(|logged| logged.change.pool());
    let would_change: BTreeSet<&PoolKey> = edits.map(|edit| &edit.subject().key).collect();
    let pool = |named: &Pool| {
        let pool = state.pool(&named.key)?;
        let usage = match would_change.contains(&named.key) {
            true => None,
            false => state.pool_usage(&named.key),
        };
        Some((Arc::clone(pool), usage))
    };
    let advertisement = |named: &Advertisement| state.advertisement(&named.key).cloned();
    let left = match command {
        Command::ApplyPool { pool: named, .. } => {
            Some(Left::Pools(pool(named).into_iter().collect()))
        }
        Command::SyncPools { pools, .. } => {
            Some(Left::Pools(pools.iter().filter_map(pool).collect()))
        }
        Command::ApplyAdvertisement(named) => {
            let left = advertisement(named);
            Some(Left::Advertisements(left.into_iter().collect()))
        }
        Command::SyncAdvertisements { advertisements, .. } => {
            let left = advertisements.iter().filter_map(advertisement);
            Some(Left::Advertisements(left.collect()))
        }
        Command::Bgp(command) => Some(left_of_bgp(state, command)),
        Command::ApplyReservation(named) => {
            let known = state.reservation(&named.key);
            known.map(|known| Left::Reservation(Arc::clone(known)))
        }
        Command::ApplyQuota(named) => {
            let known = state.quota(&named.name);
            let is_edit = |logged: &Logged| matches!(logged.change, Change::Quota(_));
            let usage = |known| (!would.iter().any(is_edit)).then(|| state.quota_usage(known));
            known.map(|known| Left::Quota(Arc::clone(known), usage(known)))
        }
        Command::ApplyAddressSpace(apply) => {
            let known = state.address_space(&apply.wanted.name);
            known.map(|known| Left::AddressSpace(Arc::clone(known)))
        }
        Command::Allocate(_)
        | Command::Release(_)
        | Command::Redecide(_)
        | Command::DeletePool { .. }
        | Command::DeleteAdvertisement(_)
        | Command::DeleteReservation(_)
        | Command::DeleteQuota(_)
        | Command::DeleteAddressSpace { .. }
        | Command::EndUnavailable { .. }
        | Command::ClearUnavailable { .. }
        | Command::ReportConflict { .. }
        | Command::ReportLoss { .. }
        | Command::Introduce { .. }
        | Command::BeginSync { .. }
        | Command::EndSync { .. }
        | Command::DeleteCluster { .. }
        | Command::FinishRecovery { .. }
        | Command::AdoptCluster { .. }
        | Command::Facts { .. } => None,
    };
    left.unwrap_or(Left::Nothing)
}

fn left_of_bgp(state: &State, command: &BgpCommand) -> Left {
    let peer = |named: &BgpPeer| state.bgp().peer(&named.key).cloned();
    let profile = |named: &BfdProfile| state.bgp().profile(&named.key).cloned();
    match command {
        BgpCommand::ApplyPeer(named) => Left::Bgp(peer(named).into_iter().collect(), Vec::new()),
        BgpCommand::ApplyProfile(named) => {
            Left::Bgp(Vec::new(), profile(named).into_iter().collect())
        }
        BgpCommand::Sync {
            peers, profiles, ..
        } => {
            let peers = peers.iter().filter_map(peer).collect();
            Left::Bgp(peers, profiles.iter().filter_map(profile).collect())
        }
        BgpCommand::DeletePeer(_) | BgpCommand::DeleteProfile(_) => Left::Nothing,
    }
}
