//! What the tests of store, writer and server share: commands out of wire messages, so that the
//! edge is tested along, and a database in a temporary folder.

use std::collections::BTreeSet;
use std::time::Duration;

use pharos_proto::v1;
use tempfile::TempDir;

use crate::api::convert::{FieldErrors, allocate_from_wire, pool_from_wire, release_from_wire};
use crate::api::convert_address_space::address_space_from_wire;
use crate::api::convert_bgp::peer_from_wire;
use crate::api::convert_quota::quota_from_wire;
use crate::api::convert_reservation::{reservation_from_wire, reservation_key};
use crate::state::bgp::model::BgpPeer;
use crate::state::command::{AddressSpaceFields, ApplyAddressSpace, Command, InUse};
use crate::state::model::{Advertisement, AdvertisementKey, AdvertisementProtocol, Timestamp};
use crate::state::names::Name;
use crate::store::{Location, Missing, OpenError, Store};

/// Longest that a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The outcome of something that must happen.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.expect("it happens in time")
}

/// A folder for one database.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary folder"))
    }

    pub(crate) fn location(&self) -> Location {
        Location::Sqlite(self.file())
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.0.path().join("pharos.db")
    }

    pub(crate) async fn try_open(&self) -> Result<Store, OpenError> {
        Store::open(&self.location(), Missing::Create, Timestamp(1)).await
    }

    pub(crate) async fn open(&self) -> Store {
        self.try_open().await.expect("database")
    }
}

/// `cluster/namespace/name`.
pub(crate) fn wire_owner(text: &str) -> v1::Owner {
    let parts: Vec<&str> = text.split('/').collect();
    v1::Owner {
        cluster: parts[0].to_owned(),
        namespace: parts[1].to_owned(),
        name: parts[2].to_owned(),
        uid: String::new(),
    }
}

/// An operator's pool.
pub(crate) fn apply_pool(name: &str, ranges: &[&str]) -> Command {
    apply_pool_in("", name, ranges)
}

/// An operator's pool of an address space.
pub(crate) fn apply_pool_in(space: &str, name: &str, ranges: &[&str]) -> Command {
    let wire = v1::Pool {
        name: name.to_owned(),
        address_space: space.to_owned(),
        addresses: ranges.iter().map(|range| (*range).to_owned()).collect(),
        ..v1::Pool::default()
    };
    let mut errors = FieldErrors::new();
    let pool = pool_from_wire(&mut errors, "pool", Some(&wire));
    Command::ApplyPool {
        pool: Box::new(errors.finish(pool).expect("valid pool")),
        in_use: InUse::Move,
    }
}

/// As [`apply_pool`], and addresses that are given back rest for a second.
pub(crate) fn resting_pool(name: &str, ranges: &[&str]) -> Command {
    let mut command = apply_pool(name, ranges);
    if let Command::ApplyPool { pool, .. } = &mut command {
        pool.reuse_delay = std::time::Duration::from_secs(1);
    }
    command
}

/// A reservation for a cluster, or for nobody.
pub(crate) fn apply_reservation(name: &str, addresses: &[&str], cluster: Option<&str>) -> Command {
    let wire = v1::Reservation {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        kept_for: cluster.map(|cluster| v1::KeptFor {
            cluster: cluster.to_owned(),
            ..v1::KeptFor::default()
        }),
        ..v1::Reservation::default()
    };
    let mut errors = FieldErrors::new();
    let reservation = reservation_from_wire(&mut errors, "reservation", Some(&wire));
    let reservation = errors.finish(reservation).expect("valid reservation");
    Command::ApplyReservation(Box::new(reservation))
}

pub(crate) fn delete_reservation(name: &str) -> Command {
    Command::DeleteReservation(reservation_key("", name).expect("a name"))
}

/// Grants of the address space `default`, by cluster; whoever loses an address is moved.
pub(crate) fn apply_grants(grants: &[(&str, &[&str])]) -> Command {
    let grants = grants.iter();
    let wire = v1::AddressSpace {
        name: "default".to_owned(),
        grants: grants
            .map(|(cluster, ranges)| v1::address_space::Grant {
                cluster: (*cluster).to_owned(),
                ranges: ranges.iter().map(|text| (*text).to_owned()).collect(),
            })
            .collect(),
        ..v1::AddressSpace::default()
    };
    let mut errors = FieldErrors::new();
    let wanted = address_space_from_wire(&mut errors, "address_space", Some(&wire));
    Command::ApplyAddressSpace(Box::new(ApplyAddressSpace {
        wanted: errors.finish(wanted).expect("valid grants"),
        fields: AddressSpaceFields::ALL,
        in_use: InUse::Move,
        if_revision: None,
    }))
}

/// A BGP peer of every cluster, changed by `edit`.
pub(crate) fn bgp_peer(name: &str, edit: impl FnOnce(&mut v1::BgpPeer)) -> BgpPeer {
    let mut wire = v1::BgpPeer {
        name: name.to_owned(),
        my_asn: 64512,
        peer_asn: 64513,
        address: "192.0.2.254".to_owned(),
        ..v1::BgpPeer::default()
    };
    edit(&mut wire);
    let mut errors = FieldErrors::new();
    let peer = peer_from_wire(&mut errors, "peer", Some(&wire));
    errors.finish(peer).expect("valid peer")
}

/// A quota of one address for cluster `east`, changed by `edit`.
pub(crate) fn apply_quota(name: &str, edit: impl FnOnce(&mut v1::Quota)) -> Command {
    let mut wire = v1::Quota {
        name: name.to_owned(),
        cluster: "east".to_owned(),
        limit: Some(1),
        ..v1::Quota::default()
    };
    edit(&mut wire);
    let mut errors = FieldErrors::new();
    let quota = quota_from_wire(&mut errors, "quota", Some(&wire));
    Command::ApplyQuota(Box::new(errors.finish(quota).expect("valid quota")))
}

/// A claim for one address on TCP port 80, changed by `edit`.
pub(crate) fn allocate(owner: &str, edit: impl FnOnce(&mut v1::AllocateRequest)) -> Command {
    let mut wire = v1::AllocateRequest {
        owner: Some(wire_owner(owner)),
        ports: vec![v1::Port {
            protocol: v1::port::Protocol::Tcp.into(),
            port: 80,
        }],
        ..v1::AllocateRequest::default()
    };
    edit(&mut wire);
    Command::Allocate(Box::new(allocate_from_wire(&wire).expect("valid claim")))
}

pub(crate) fn release(owner: &str) -> Command {
    let wire = v1::ReleaseRequest {
        owner: Some(wire_owner(owner)),
        allow_missing: true,
        ..v1::ReleaseRequest::default()
    };
    Command::Release(release_from_wire(&wire).expect("valid release"))
}

/// An advertisement of everything in the default space, by layer 2: `cluster/name`, or `name` for an
/// operator's.
pub(crate) fn advertisement(key: &str) -> Advertisement {
    let name = |text: &str| Name::parse(text).expect("a good name");
    let (cluster, one) = match key.split_once('/') {
        Some((cluster, one)) => (Some(name(cluster)), one),
        None => (None, key),
    };
    Advertisement {
        key: AdvertisementKey {
            cluster,
            name: name(one),
        },
        space: name(pharos_proto::DEFAULT_ADDRESS_SPACE),
        pools: BTreeSet::new(),
        pool_selectors: Vec::new(),
        node_selectors: Vec::new(),
        service_selectors: Vec::new(),
        protocol: AdvertisementProtocol::L2 {
            interfaces: BTreeSet::new(),
            preferred_nodes: Vec::new(),
            ownership: crate::state::model::Ownership::Available,
        },
        revision: 0,
    }
}
