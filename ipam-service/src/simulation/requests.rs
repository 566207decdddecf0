//! What clients ask: few owners, few addresses, every kind of claim, so that they meet.

use pharos_proto::v1;
use pharos_proto::v1::claim::{DualStackPools, FamilyPolicy};
use pharos_proto::v1::ip_family::Value as Family;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

pub(super) const CLUSTERS: [&str; 2] = ["east", "west"];

const OWNERS: [&str; 3] = ["a", "b", "c"];

const NAMESPACES: [&str; 2] = ["blue", "red"];

/// Ranges that overlap those of other pools in part; small enough to run out.
const V4_RANGES: [&[&str]; 4] = [
    &["192.0.2.0/30"],
    &["192.0.2.2-192.0.2.5"],
    &["192.0.2.254-192.0.3.1", "192.0.2.0/31"],
    &["192.0.2.3/32", "192.0.2.5-192.0.2.6"],
];

const V6_RANGES: [&[&str]; 3] = [&[], &["2001:db8::/127"], &["2001:db8::1-2001:db8::3"]];

const POOLS: [&str; 2] = ["p", "q"];

/// Parts of the ranges, which reservations keep.
const KEPT: [&[&str]; 5] = [
    &["192.0.2.0"],
    &["192.0.2.2-192.0.2.3"],
    &["192.0.2.4/31", "2001:db8::1"],
    &["192.0.2.255-192.0.3.0"],
    &["2001:db8::"],
];

const RESERVATIONS: [&str; 2] = ["v", "w"];

const QUOTAS: [&str; 3] = ["few", "some", "more"];

/// A call on its way.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Allocate(Box<v1::AllocateRequest>),
    Release(v1::ReleaseRequest),
    ApplyPool(Box<v1::ApplyPoolRequest>),
    DeletePool(v1::DeletePoolRequest),
    SyncPools(v1::SyncPoolsRequest),
    ApplyAddressSpace(Box<v1::ApplyAddressSpaceRequest>),
    ApplyReservation(Box<v1::ApplyReservationRequest>),
    DeleteReservation(v1::DeleteReservationRequest),
    ApplyQuota(Box<v1::ApplyQuotaRequest>),
    DeleteQuota(v1::DeleteQuotaRequest),
    BeginSync(v1::BeginSyncRequest),
    EndSync(v1::EndSyncRequest),
    DeleteCluster(v1::DeleteClusterRequest),
}

impl Message {
    pub(super) fn request_id(&mut self) -> &mut String {
        match self {
            Self::Allocate(request) => &mut request.request_id,
            Self::Release(request) => &mut request.request_id,
            Self::ApplyPool(request) => &mut request.request_id,
            Self::DeletePool(request) => &mut request.request_id,
            Self::SyncPools(request) => &mut request.request_id,
            Self::ApplyAddressSpace(request) => &mut request.request_id,
            Self::ApplyReservation(request) => &mut request.request_id,
            Self::DeleteReservation(request) => &mut request.request_id,
            Self::ApplyQuota(request) => &mut request.request_id,
            Self::DeleteQuota(request) => &mut request.request_id,
            Self::BeginSync(request) => &mut request.request_id,
            Self::EndSync(request) => &mut request.request_id,
            Self::DeleteCluster(request) => &mut request.request_id,
        }
    }

    /// Of those that have one.
    pub(super) fn fence(&mut self) -> Option<&mut u64> {
        match self {
            Self::Allocate(request) => Some(&mut request.fence),
            Self::Release(request) => Some(&mut request.fence),
            Self::SyncPools(request) => Some(&mut request.fence),
            Self::BeginSync(request) => Some(&mut request.fence),
            Self::EndSync(request) => Some(&mut request.fence),
            Self::ApplyPool(_)
            | Self::DeletePool(_)
            | Self::ApplyAddressSpace(_)
            | Self::ApplyReservation(_)
            | Self::DeleteReservation(_)
            | Self::ApplyQuota(_)
            | Self::DeleteQuota(_)
            | Self::DeleteCluster(_) => None,
        }
    }
}

/// Makes requests, each with an id of its own.
#[derive(Debug, Default)]
pub(super) struct Requests {
    made: u64,
    /// Fence of the leader of each cluster's adapter.
    pub(super) fences: [u64; 2],
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    *from.choose(random).expect("not empty")
}

impl Requests {
    /// A new request of some client.
    pub(super) fn any(&mut self, random: &mut StdRng) -> Message {
        let which = random.random_range(..CLUSTERS.len());
        let cluster = CLUSTERS[which].to_owned();
        let mut message = match random.random_range(0..10) {
            0..6 => Message::Allocate(Box::new(allocate(random, cluster))),
            6..8 => Message::Release(v1::ReleaseRequest {
                owner: Some(owner(random, cluster)),
                allow_missing: random.random(),
                validate_only: tried_out(random),
                ..v1::ReleaseRequest::default()
            }),
            _ => edit(random, cluster),
        };
        let fence = self.fence(random, which);
        if let Some(own) = message.fence() {
            *own = fence;
        }
        *message.request_id() = self.id(kind(&message));
        message
    }

    fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{}", self.made)
    }

    /// The same request once more, as a client sends it that got no answer.
    pub(super) fn again(&mut self, message: &Message) -> Message {
        let mut again = message.clone();
        *again.request_id() = self.id(kind(message));
        again
    }

    /// Most callers are the leader or have no fence; some were the leader once, and do not know.
    fn fence(&mut self, random: &mut StdRng, cluster: usize) -> u64 {
        let fence = &mut self.fences[cluster];
        match random.random_range(0..10) {
            0 => {
                *fence += 1;
                *fence
            }
            1 => fence.saturating_sub(1),
            2..6 => *fence,
            _ => 0,
        }
    }
}

/// The checker knows by it what a request may do.
fn kind(message: &Message) -> &'static str {
    match message {
        Message::Allocate(_) => "allocate",
        Message::Release(_) => "release",
        Message::ApplyPool(_)
        | Message::DeletePool(_)
        | Message::SyncPools(_)
        | Message::ApplyAddressSpace(_)
        | Message::ApplyReservation(_)
        | Message::DeleteReservation(_)
        | Message::ApplyQuota(_)
        | Message::DeleteQuota(_)
        | Message::BeginSync(_)
        | Message::EndSync(_)
        | Message::DeleteCluster(_) => "edit",
    }
}

/// Some only want to know what would be.
fn tried_out(random: &mut StdRng) -> bool {
    random.random_bool(0.05)
}

/// Of pools, of what the operator says, or of a cluster as a whole.
fn edit(random: &mut StdRng, cluster: String) -> Message {
    match random.random_range(0..20) {
        0..4 => Message::ApplyPool(Box::new(v1::ApplyPoolRequest {
            pool: Some(pool(random, "")),
            if_in_use: in_use(random).into(),
            validate_only: tried_out(random),
            ..v1::ApplyPoolRequest::default()
        })),
        4 => Message::DeletePool(v1::DeletePoolRequest {
            name: pick(random, &POOLS).to_owned(),
            if_in_use: in_use(random).into(),
            validate_only: tried_out(random),
            ..v1::DeletePoolRequest::default()
        }),
        5..7 => Message::SyncPools(v1::SyncPoolsRequest {
            pools: vec![pool(random, &cluster)],
            cluster,
            validate_only: tried_out(random),
            ..v1::SyncPoolsRequest::default()
        }),
        7..9 => Message::ApplyAddressSpace(Box::new(v1::ApplyAddressSpaceRequest {
            address_space: Some(address_space(random)),
            if_in_use: in_use(random).into(),
            validate_only: tried_out(random),
            ..v1::ApplyAddressSpaceRequest::default()
        })),
        9..12 => Message::ApplyReservation(Box::new(v1::ApplyReservationRequest {
            reservation: Some(reservation(random, cluster)),
            validate_only: tried_out(random),
            ..v1::ApplyReservationRequest::default()
        })),
        12 => Message::DeleteReservation(v1::DeleteReservationRequest {
            name: pick(random, &RESERVATIONS).to_owned(),
            validate_only: tried_out(random),
            ..v1::DeleteReservationRequest::default()
        }),
        13..16 => Message::ApplyQuota(Box::new(v1::ApplyQuotaRequest {
            quota: Some(quota(random, cluster)),
            validate_only: tried_out(random),
            ..v1::ApplyQuotaRequest::default()
        })),
        16 => Message::DeleteQuota(v1::DeleteQuotaRequest {
            name: pick(random, &QUOTAS).to_owned(),
            validate_only: tried_out(random),
            ..v1::DeleteQuotaRequest::default()
        }),
        17 => Message::BeginSync(v1::BeginSyncRequest {
            cluster,
            ..v1::BeginSyncRequest::default()
        }),
        18 => Message::EndSync(v1::EndSyncRequest {
            cluster,
            ..v1::EndSyncRequest::default()
        }),
        _ => Message::DeleteCluster(v1::DeleteClusterRequest {
            name: cluster,
            validate_only: tried_out(random),
            ..v1::DeleteClusterRequest::default()
        }),
    }
}

/// Kept for nobody, a cluster, a namespace of it or one owner.
fn reservation(random: &mut StdRng, cluster: String) -> v1::Reservation {
    let mut kept_for = v1::KeptFor {
        cluster,
        ..v1::KeptFor::default()
    };
    let precision = random.random_range(0..4);
    if precision > 1 {
        pick(random, &NAMESPACES).clone_into(&mut kept_for.namespace);
    }
    if precision > 2 {
        pick(random, &OWNERS).clone_into(&mut kept_for.name);
    }
    v1::Reservation {
        name: pick(random, &RESERVATIONS).to_owned(),
        addresses: texts(pick(random, &KEPT)),
        kept_for: (precision > 0).then_some(kept_for),
        ..v1::Reservation::default()
    }
}

/// Low enough to be reached.
fn quota(random: &mut StdRng, cluster: String) -> v1::Quota {
    let namespace = pick(random, &["", "", "red"]);
    v1::Quota {
        name: pick(random, &QUOTAS).to_owned(),
        cluster,
        namespace: namespace.to_owned(),
        each_namespace: namespace.is_empty() && random.random_bool(0.3),
        pool: pick(random, &["", "", "p"]).to_owned(),
        family: pick(
            random,
            &[Family::Unspecified, Family::Unspecified, Family::Ipv4],
        )
        .into(),
        limit: Some(random.random_range(0..5)),
        ..v1::Quota::default()
    }
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

fn owner(random: &mut StdRng, cluster: String) -> v1::Owner {
    v1::Owner {
        cluster,
        namespace: pick(random, &NAMESPACES).to_owned(),
        name: pick(random, &OWNERS).to_owned(),
        uid: pick(random, &["", "", "", "one", "two"]).to_owned(),
    }
}

fn allocate(random: &mut StdRng, cluster: String) -> v1::AllocateRequest {
    let both = vec![Family::Ipv4.into(), Family::Ipv6.into()];
    let (families, policy) = match random.random_range(0..6) {
        0 => (both, FamilyPolicy::RequireDualStack),
        1 => (both, FamilyPolicy::PreferDualStack),
        2 => (vec![Family::Ipv6.into()], FamilyPolicy::Unspecified),
        3 => (vec![], FamilyPolicy::Unspecified),
        _ => (vec![Family::Ipv4.into()], FamilyPolicy::Unspecified),
    };
    let mut request = v1::AllocateRequest {
        owner: Some(owner(random, cluster)),
        ports: vec![v1::Port {
            protocol: v1::port::Protocol::Tcp.into(),
            port: random.random_range(80..83),
        }],
        families,
        family_policy: policy.into(),
        sharing_key: pick(random, &["", "", "k", "k", "l"]).to_owned(),
        pool: pick(random, &["", "", "", "p", "q"]).to_owned(),
        validate_only: tried_out(random),
        ..v1::AllocateRequest::default()
    };
    if request.families.len() == 2 && request.pool.is_empty() && random.random() {
        request.dual_stack_pools = DualStackPools::AnyPools.into();
    }
    if random.random_bool(0.1) {
        pick(random, &RESERVATIONS).clone_into(&mut request.reservation);
    }
    if random.random_bool(0.6) {
        request.if_refused = v1::allocate_request::IfRefused::Queue.into();
    }
    if random.random_bool(0.1) {
        request.families.clear();
        request.family_policy = FamilyPolicy::Unspecified.into();
        request.dual_stack_pools = DualStackPools::Unspecified.into();
        request.addresses = vec!["192.0.2.3".to_owned()];
    }
    if random.random_bool(0.1) {
        request.held_addresses = vec!["192.0.2.2".to_owned(), "2001:db8::1".to_owned()];
    }
    request
}

/// Of `cluster`, or of an operator if that is empty.
pub(super) fn pool(random: &mut StdRng, cluster: &str) -> v1::Pool {
    let ranges = [pick(random, &V4_RANGES), pick(random, &V6_RANGES)].concat();
    v1::Pool {
        name: pick(random, &POOLS).to_owned(),
        cluster: cluster.to_owned(),
        addresses: texts(&ranges),
        auto_assign: Some(random.random_bool(0.9)),
        // Less than passes between two rounds in which time passes.
        reuse_delay: random.random_bool(0.3).then_some(prost_types::Duration {
            seconds: 7,
            nanos: 0,
        }),
        // Longer than a run: no node that is away is given up.
        reuse_unacknowledged: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        ..v1::Pool::default()
    }
}

/// With grants of none, one or both clusters.
fn address_space(random: &mut StdRng) -> v1::AddressSpace {
    let mut grants = Vec::new();
    for cluster in CLUSTERS {
        if random.random() {
            let ranges = [pick(random, &V4_RANGES), pick(random, &V6_RANGES)].concat();
            grants.push(v1::address_space::Grant {
                cluster: cluster.to_owned(),
                ranges: texts(&ranges),
            });
        }
    }
    v1::AddressSpace {
        name: "default".to_owned(),
        grants,
        hide_holders: random.random(),
        ..v1::AddressSpace::default()
    }
}

fn in_use(random: &mut StdRng) -> v1::in_use::Policy {
    if random.random() {
        v1::in_use::Policy::Move
    } else {
        v1::in_use::Policy::Refuse
    }
}
