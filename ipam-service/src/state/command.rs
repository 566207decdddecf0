//! What can be asked of the address book.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::address::Address;
use super::bgp::model::BgpCommand;
use super::model::{
    AddressSpace, Advertisement, AdvertisementKey, AdvertisementProtocol, AllocationId, Announcer,
    Claim, EntryNodes, NodeKey, Owner, OwnerKey, Pool, PoolKey, Quota, ReportedNode, Reservation,
    ReservationKey, Revision, UnavailableKey,
};
use super::names::Name;

/// A request, checked and in canonical form.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Allocate(Box<Allocate>),
    Release(Release),
    ApplyPool {
        pool: Box<Pool>,
        in_use: InUse,
    },
    DeletePool {
        key: PoolKey,
        in_use: InUse,
    },
    /// Replaces all pools of a cluster, decided on the end state.
    SyncPools {
        cluster: Name,
        pools: Vec<Pool>,
        fence: u64,
    },
    ApplyAdvertisement(Box<Advertisement>),
    DeleteAdvertisement(AdvertisementKey),
    SyncAdvertisements {
        cluster: Name,
        advertisements: Vec<Advertisement>,
        scope: Scope,
        fence: u64,
    },
    Bgp(BgpCommand),
    ApplyReservation(Box<Reservation>),
    DeleteReservation(ReservationKey),
    /// A reason for which an address is unavailable is over. Made by the state itself.
    EndUnavailable {
        key: UnavailableKey,
        end: End,
    },
    /// An operator knows that an address can be given away.
    ClearUnavailable {
        space: Name,
        address: Address,
    },
    /// A node saw another machine use an address of its cluster.
    ReportConflict {
        cluster: Name,
        space: Name,
        address: Address,
    },
    /// A node has assignments of this cluster that another store made.
    ReportLoss {
        cluster: Name,
    },
    /// A program of this cluster introduces itself. An empty uid is equal to any.
    Introduce {
        cluster: Name,
        uid: String,
    },
    BeginSync {
        cluster: Name,
        uid: String,
        fence: u64,
    },
    EndSync {
        cluster: Name,
        fence: u64,
    },
    DeleteCluster {
        cluster: Name,
    },
    /// Waits no longer for what a cluster (`None`: any) has yet to report.
    FinishRecovery {
        cluster: Option<Name>,
    },
    /// Another installation takes a cluster over; an empty uid: the next that calls.
    AdoptCluster {
        cluster: Name,
        uid: String,
    },
    ApplyQuota(Box<Quota>),
    DeleteQuota(Name),
    ApplyAddressSpace(Box<ApplyAddressSpace>),
    DeleteAddressSpace {
        name: Name,
        if_revision: Option<Revision>,
    },
    /// Facts of one cluster, from one stream.
    Facts {
        cluster: Name,
        facts: Vec<Fact>,
    },
    /// Decides an owner again after something that concerns it changed: a pending or stale claim
    /// that may fit now, or a holder whose address may not be kept. Made by the state itself.
    Redecide(OwnerKey),
}

/// Which advertisements of a cluster a set is all of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Every,
    L2,
    Bgp,
}

impl Scope {
    /// Whether it is about advertisements of this protocol.
    pub fn includes(self, protocol: &AdvertisementProtocol) -> bool {
        match self {
            Self::Every => true,
            Self::L2 => !protocol.is_bgp(),
            Self::Bgp => protocol.is_bgp(),
        }
    }
}

impl Command {
    /// The cluster that shows by this command that it is there: its adapter, or who acts for it.
    pub fn sender(&self) -> Option<&Name> {
        match self {
            Self::Allocate(allocate) => Some(&allocate.owner.key.cluster),
            Self::Release(release) => Some(&release.owner.key.cluster),
            Self::SyncPools { cluster, .. }
            | Self::SyncAdvertisements { cluster, .. }
            | Self::Bgp(BgpCommand::Sync { cluster, .. })
            | Self::Introduce { cluster, .. }
            | Self::BeginSync { cluster, .. }
            | Self::EndSync { cluster, .. } => Some(cluster),
            Self::Facts { cluster, facts } => {
                // Announcers go on without an adapter.
                let of_announcer = |fact: &Fact| matches!(fact, Fact::Announcer { .. });
                (!facts.iter().all(of_announcer)).then_some(cluster)
            }
            Self::ApplyPool { .. }
            | Self::DeletePool { .. }
            | Self::ApplyAdvertisement(_)
            | Self::DeleteAdvertisement(_)
            | Self::Bgp(_)
            | Self::DeleteCluster { .. }
            | Self::FinishRecovery { .. }
            | Self::AdoptCluster { .. }
            | Self::ApplyReservation(_)
            | Self::DeleteReservation(_)
            | Self::ApplyQuota(_)
            | Self::ApplyAddressSpace(_)
            | Self::DeleteAddressSpace { .. }
            | Self::DeleteQuota(_)
            | Self::EndUnavailable { .. }
            | Self::ClearUnavailable { .. }
            | Self::ReportConflict { .. }
            | Self::ReportLoss { .. }
            | Self::Redecide(_) => None,
        }
    }
}

/// Why a reason for being unavailable is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All nodes have acknowledged.
    Acknowledged,
    Expired,
}

/// Take addresses for an owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocate {
    pub owner: Owner,
    pub claim: Arc<Claim>,
    /// In use now: tried first, not part of the claim.
    pub held: Vec<Address>,
    pub if_refused: IfRefused,
    pub if_revision: Option<Revision>,
    /// 0: not given.
    pub fence: u64,
}

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfRefused {
    Fail,
    Queue,
}

/// Give addresses back.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    pub owner: Owner,
    pub allow_missing: bool,
    pub if_revision: Option<Revision>,
    /// 0: not given.
    pub fence: u64,
}

/// Says something of an address space.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplyAddressSpace {
    pub wanted: AddressSpace,
    pub fields: AddressSpaceFields,
    pub in_use: InUse,
    pub if_revision: Option<Revision>,
}

/// Which fields of a record are to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpaceFields {
    pub description: bool,
    pub grants: bool,
    pub hide_holders: bool,
}

impl AddressSpaceFields {
    pub const ALL: Self = Self {
        description: true,
        grants: true,
        hide_holders: true,
    };
}

/// What to do with holders whose address an edit takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    Refuse,
    Move,
}

/// One fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// `None`: the adapter says that the node is gone.
    Node {
        key: NodeKey,
        reported: Option<ReportedNode>,
    },
    /// An announcer of this node called.
    Announcer { key: NodeKey, announcer: Announcer },
    /// A node answers for these addresses of a group.
    Announced {
        group: AllocationId,
        addresses: BTreeSet<Address>,
    },
    /// `None`: the owner is gone.
    Backends {
        owner: OwnerKey,
        entry: Option<EntryNodes>,
    },
    /// The adapter has named all there is: its other nodes and backends are gone.
    Complete {
        nodes: Vec<Name>,
        owners: Vec<OwnerKey>,
    },
}
