//! Why not: every way in which a command can be turned down has a name here.

use std::fmt;

use super::address::Address;
use super::model::{OwnerKey, PoolKey, ReservationKey, Revision};
use super::names::Name;

/// A claim that was not granted. What a later change can cure may be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// One sentence: which pool, which address, which holder.
    pub message: String,
    /// Every pool that was looked at, in that order.
    pub attempts: Vec<Attempt>,
    /// With [`Reason::QuotaExceeded`]: name of the quota.
    pub quota: Option<String>,
}

/// One pool that was tried for a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// As people read it: what a [`PoolKey`] displays. The pool may be gone since.
    pub pool: String,
    pub reason: Reason,
    pub message: String,
}

/// The closed set of reasons (`Refusal.Reason` in the API).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    NoFreeAddress,
    UnknownPool,
    AddressNotInPool,
    AddressTaken,
    PortInUse,
    SharingMismatch,
    PoolNotForOwner,
    AddressNotInRequestedPool,
    BuggyAddress,
    FamilyNotInPool,
    Recovering,
    BehindOlderClaims,
    AddressReserved,
    AddressDraining,
    AddressQuarantined,
    UnknownReservation,
    AddressNotInReservation,
    /// Only said in an explanation: pools that are not chosen from are not tried.
    PoolNotAutomatic,
    /// Only said in an explanation, like the one before.
    OtherPoolNamed,
    QuotaExceeded,
    OutsideGrant,
    /// Only said to who asks: such a claim is not kept.
    TooManyPending,
}

/// A command that changes nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A claim with `if_refused: FAIL`.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    #[error("no allocation of {0}")]
    UnknownOwner(OwnerKey),
    #[error("no pool {0}")]
    UnknownPool(PoolKey),
    #[error("no advertisement {0}")]
    UnknownAdvertisement(String),
    #[error("no BGP peer {0}")]
    UnknownBgpPeer(String),
    #[error("no BFD profile {0}")]
    UnknownBfdProfile(String),
    #[error("no reservation {0}")]
    UnknownReservation(ReservationKey),
    #[error("no quota {0}")]
    UnknownQuota(Name),
    #[error("nothing keeps {address} of address space {space} from being given away")]
    UnknownUnavailable { space: Name, address: Address },
    #[error("no record of address space {0}")]
    UnknownAddressSpace(Name),
    #[error("no cluster {0}")]
    UnknownCluster(Name),
    /// Fields that cannot be accepted in this state, such as a range that overlaps another pool.
    #[error("{}", .0.iter().map(|bad| format!("{}: {}", bad.field, bad.message))
        .collect::<Vec<_>>().join("; "))]
    Invalid(Vec<InvalidField>),
    #[error(
        "pool {pool} is in use: {} would lose {} address, first {first} with {address}; say \
             if_in_use: MOVE to move them", counted(*.holders), their(*.holders)
    )]
    PoolInUse {
        pool: PoolKey,
        holders: usize,
        first: OwnerKey,
        address: Address,
    },
    #[error(
        "pool {pool} is protected: {} would lose {} address, first {first} with {address}; clear \
             `protected` in an edit of its own to allow that", counted(*.holders), their(*.holders)
    )]
    PoolProtected {
        pool: PoolKey,
        holders: usize,
        first: OwnerKey,
        address: Address,
    },
    #[error(
        "address space {space} is in use: {} would lose an address: {}; say if_in_use: MOVE to \
             move them", counted(*.holders), listed(.first, *.holders)
    )]
    AddressSpaceInUse {
        space: Name,
        holders: usize,
        /// Some of them.
        first: Vec<Stranded>,
    },
    #[error(
        "cluster {cluster} is registered with uid {registered:?}, not {given:?}: two \
             installations use one name"
    )]
    ClusterUidMismatch {
        cluster: Name,
        registered: String,
        given: String,
    },
    #[error("cluster {0} has not called BeginSync")]
    NotSyncing(Name),
    #[error("the record of address space {space} is at revision {current}, not {given}")]
    StaleAddressSpace {
        space: Name,
        /// 0: there is none.
        current: Revision,
        given: Revision,
    },
    #[error("{owner} is at revision {current}, not {given}")]
    StaleRevision {
        owner: OwnerKey,
        current: Revision,
        given: Revision,
    },
    #[error(
        "fence {given} of cluster {cluster} is older than {current}: another leader has \
             taken over"
    )]
    StaleFence {
        cluster: Name,
        current: u64,
        given: u64,
    },
}

/// Who would lose an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    pub owner: OwnerKey,
    pub address: Address,
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.owner, self.address)
    }
}

fn counted(holders: usize) -> String {
    match holders {
        1 => "1 holder".to_owned(),
        holders => format!("{holders} holders"),
    }
}

fn their(holders: usize) -> &'static str {
    match holders {
        1 => "its",
        _ => "their",
    }
}

fn listed(first: &[Stranded], all: usize) -> String {
    let mut texts: Vec<String> = first.iter().map(Stranded::to_string).collect();
    let more = all.saturating_sub(first.len());
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}

/// A field of a request and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// Path as the API has it, for example `pool.addresses[0]`.
    pub field: String,
    pub message: String,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl Reason {
    /// As it appears in logs, metrics and error details.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoFreeAddress => "NO_FREE_ADDRESS",
            Self::UnknownPool => "UNKNOWN_POOL",
            Self::AddressNotInPool => "ADDRESS_NOT_IN_POOL",
            Self::AddressTaken => "ADDRESS_TAKEN",
            Self::PortInUse => "PORT_IN_USE",
            Self::SharingMismatch => "SHARING_MISMATCH",
            Self::PoolNotForOwner => "POOL_NOT_FOR_OWNER",
            Self::AddressNotInRequestedPool => "ADDRESS_NOT_IN_REQUESTED_POOL",
            Self::BuggyAddress => "BUGGY_ADDRESS",
            Self::FamilyNotInPool => "FAMILY_NOT_IN_POOL",
            Self::Recovering => "RECOVERING",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::TooManyPending => "TOO_MANY_PENDING",
            Self::BehindOlderClaims => "BEHIND_OLDER_CLAIMS",
            Self::AddressReserved => "ADDRESS_RESERVED",
            Self::AddressDraining => "ADDRESS_DRAINING",
            Self::AddressQuarantined => "ADDRESS_QUARANTINED",
            Self::UnknownReservation => "UNKNOWN_RESERVATION",
            Self::AddressNotInReservation => "ADDRESS_NOT_IN_RESERVATION",
            Self::PoolNotAutomatic => "POOL_NOT_AUTOMATIC",
            Self::OtherPoolNamed => "OTHER_POOL_NAMED",
            Self::OutsideGrant => "OUTSIDE_GRANT",
        }
    }
}

/// How refusals are worded. Where MetalLB has words for it they are part of the text, as its users
/// search for them.
pub mod text {
    use super::super::address::{Address, AddressRange, Family};
    use super::super::model::{
        Allocation, OwnerKey, PoolKey, Port, Reservation, Unavailable, UnavailableReason,
    };
    use super::super::names::Name;
    use super::Refusal;

    /// Ranges that a text names: a refusal is read by people.
    const MAX_RANGES: usize = 8;

    /// Clusters that a text names.
    const MAX_CLUSTERS: usize = 3;

    /// A port clash, in MetalLB's words.
    pub fn port_in_use(port: Port, address: Address) -> String {
        format!("port {port} is already in use on \"{address}\"")
    }

    /// A sharing key that does not agree with the holders', in MetalLB's words.
    pub fn other_sharing_key(owner: &OwnerKey, holder: &str, address: Address) -> String {
        format!(
            "can't change sharing key for \"{owner}\", address also in use by {holder} ({address})"
        )
    }

    /// A claim that is one too many, and why it would wait.
    pub fn too_many_pending(cluster: &Name, waiting: usize, most: usize, why: &Refusal) -> String {
        format!(
            "{waiting} claims of cluster {cluster} wait, and at most {most} may; this one would wait \
             too: {}",
            why.message
        )
    }

    /// Somebody else's address.
    pub fn taken(address: Address, pool: &PoolKey, holder: &str) -> String {
        format!("address {address} of pool \"{pool}\" is held by {holder}")
    }

    /// Who is told something. Of another cluster nobody learns more than its name.
    #[derive(Debug, Clone, Copy)]
    pub struct Reader<'a> {
        pub cluster: &'a Name,
        /// Not even the name.
        pub hides_holders: bool,
    }

    impl Reader<'_> {
        /// A cluster.
        pub fn cluster(self, named: &Name) -> String {
            match named != self.cluster && self.hides_holders {
                true => "another cluster".to_owned(),
                false => format!("cluster {named}"),
            }
        }

        /// A holder.
        pub fn holder(self, holder: &Allocation) -> String {
            let key = &holder.owner.key;
            match key.cluster == *self.cluster {
                true => key.to_string(),
                false => self.cluster(&key.cluster),
            }
        }
    }

    /// For whom a reservation is.
    pub fn reservation(reservation: &Reservation, reader: Reader<'_>) -> String {
        let name = &reservation.key.name;
        match &reservation.kept_for {
            None => format!("reserved (reservation \"{name}\")"),
            Some(scope) if scope.cluster == *reader.cluster => {
                format!("reserved for {scope} (reservation \"{name}\")")
            }
            Some(scope) => format!("reserved for {}", reader.cluster(&scope.cluster)),
        }
    }

    /// What an address waits for before another owner may have it, as said of the address.
    pub fn unavailable(row: &Unavailable, reader: Reader<'_>) -> String {
        let seconds = row.period.as_secs_f64();
        match (row.key.reason, &row.awaited) {
            (UnavailableReason::Draining, Some((cluster, set))) => {
                // How many nodes another cluster has is its own matter.
                let nodes = match *cluster == *reader.cluster {
                    true => format!("{} nodes", set.nodes.len()),
                    false => "nodes".to_owned(),
                };
                format!(
                    "is draining: {nodes} of {} have yet to acknowledge that they stopped answering \
                     for it, at most {seconds} s",
                    reader.cluster(cluster)
                )
            }
            (UnavailableReason::Draining, None) => "is draining".to_owned(),
            (UnavailableReason::ReuseDelay, _) => {
                format!("was given back a short time ago and rests for {seconds} s")
            }
            (UnavailableReason::Quarantined, _) => {
                format!("is used by another machine and quarantined for {seconds} s")
            }
        }
    }

    /// What a cluster may use of an address space that has grants: these ranges, sorted.
    pub fn outside_grant(owner: &OwnerKey, space: &str, granted: &[AddressRange]) -> String {
        let cluster = &owner.cluster;
        if granted.is_empty() {
            return format!("cluster {cluster} has no grant in address space {space}");
        }
        let shown = granted.iter().take(MAX_RANGES);
        let mut shown: Vec<String> = shown.map(|range| range.written()).collect();
        let more = granted.len().saturating_sub(MAX_RANGES);
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        let shown = shown.join(", ");
        format!("cluster {cluster} may use only {shown} of address space {space}")
    }

    /// A reservation that is named by an owner that it is not for.
    pub fn reservation_not_for_owner(
        reservation: &Reservation,
        owner: &OwnerKey,
        reader: Reader<'_>,
    ) -> String {
        let name = &reservation.key.name;
        match &reservation.kept_for {
            None => format!("reservation \"{name}\" keeps its addresses for nobody"),
            Some(scope) if scope.cluster == owner.cluster => {
                format!("reservation \"{name}\" is for {scope}, not for {owner}")
            }
            Some(scope) => {
                let whose = reader.cluster(&scope.cluster);
                format!("reservation \"{name}\" is for {whose}")
            }
        }
    }

    /// While a store that was replaced waits for what these clusters hold.
    pub fn recovering<'a>(awaited: impl Iterator<Item = &'a Name>, reader: Reader<'_>) -> String {
        let (mut shown, mut others) = (Vec::new(), 0);
        for name in awaited {
            let is_told = !reader.hides_holders || name == reader.cluster;
            match is_told && shown.len() < MAX_CLUSTERS {
                true => shown.push(format!("cluster {name}")),
                false => others += 1,
            }
        }
        let awaited = match (shown.join(", "), others) {
            (named, 0) => named,
            (named, 1) if named.is_empty() => "another cluster".to_owned(),
            (named, others) if named.is_empty() => format!("{others} other clusters"),
            (named, others) => format!("{named} and {others} more"),
        };
        format!(
            "the store was replaced and waits until every cluster has reported what it holds; yet \
             to report: {awaited}"
        )
    }

    /// A pool name that means nothing to the cluster, in MetalLB's words.
    pub fn unknown_pool(name: &str) -> String {
        format!("unknown pool \"{name}\"")
    }

    /// A pool that is not for this owner, in MetalLB's words.
    pub fn pool_not_for_owner(pool: &PoolKey, owner: &OwnerKey) -> String {
        format!(
            "pool {pool} not compatible for ip assignment: its namespaces and selectors exclude \
             {owner}"
        )
    }

    /// Addresses outside every pool, in MetalLB's words.
    pub fn not_in_config(addresses: &[Address]) -> String {
        format!("{} is not allowed in config", list(addresses))
    }

    /// The same, and whose pools were looked at.
    pub fn in_no_pool(addresses: &[Address], owner: &OwnerKey, space: &str) -> String {
        format!(
            "{}: no pool that cluster {} may use in address space {space} has {}",
            not_in_config(addresses),
            owner.cluster,
            if addresses.len() == 1 { "it" } else { "both" }
        )
    }

    /// Addresses of another pool than the one asked for, in MetalLB's words.
    pub fn not_in_requested_pool(addresses: &[Address], pool: &str) -> String {
        let addresses = list(addresses);
        format!(
            "requested loadBalancer IP(s) {addresses} is not compatible with requested address \
             pool {pool}"
        )
    }

    /// A full pool, in MetalLB's words.
    pub fn no_free_address(pool: &PoolKey, family: Family) -> String {
        format!("no available IPs in pool \"{pool}\" ({family})")
    }

    /// A pool without the family.
    pub fn no_family(pool: &PoolKey, family: Family) -> String {
        format!("pool \"{pool}\" has no {family} range")
    }

    /// `["192.0.2.1" "2001:db8::1"]`, as MetalLB writes lists.
    fn list(addresses: &[Address]) -> String {
        let quoted: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
        format!("[{}]", quoted.join(" "))
    }
}
