//! What clients ask: few owners, few addresses, every kind of claim, so that they meet.

use pharos_proto::v1;
use pharos_proto::v1::claim::FamilyPolicy;
use pharos_proto::v1::ip_family::Value as Family;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

pub(super) const CLUSTERS: [&str; 2] = ["east", "west"];

const OWNERS: [&str; 4] = ["a", "b", "c", "d"];

/// Ranges that overlap those of other pools in part; small enough to run out.
const V4_RANGES: [&[&str]; 4] = [
    &["192.0.2.0/30"],
    &["192.0.2.2-192.0.2.5"],
    &["192.0.2.254-192.0.3.1", "192.0.2.0/31"],
    &["192.0.2.3/32", "192.0.2.5-192.0.2.6"],
];

const V6_RANGES: [&[&str]; 3] = [&[], &["2001:db8::/127"], &["2001:db8::1-2001:db8::3"]];

const POOLS: [&str; 2] = ["p", "q"];

/// A call on its way.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Allocate(Box<v1::AllocateRequest>),
    Release(v1::ReleaseRequest),
    ApplyPool(Box<v1::ApplyPoolRequest>),
    DeletePool(v1::DeletePoolRequest),
    SyncPools(v1::SyncPoolsRequest),
    ApplyAddressSpace(Box<v1::ApplyAddressSpaceRequest>),
    BeginSync(v1::BeginSyncRequest),
    EndSync(v1::EndSyncRequest),
    DeleteCluster(v1::DeleteClusterRequest),
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
        self.made += 1;
        let number = self.made;
        let which = random.random_range(..CLUSTERS.len());
        let cluster = CLUSTERS[which].to_owned();
        let fence = self.fence(random, which);
        match random.random_range(0..42) {
            0..24 => {
                let mut request = allocate(random, cluster);
                request.fence = fence;
                request.request_id = format!("allocate-{number}");
                Message::Allocate(Box::new(request))
            }
            24..33 => Message::Release(v1::ReleaseRequest {
                owner: Some(owner(random, cluster)),
                allow_missing: random.random(),
                fence,
                request_id: format!("release-{number}"),
                validate_only: random.random_bool(0.05),
                ..v1::ReleaseRequest::default()
            }),
            33..35 => Message::ApplyPool(Box::new(v1::ApplyPoolRequest {
                pool: Some(pool(random, "")),
                if_in_use: in_use(random).into(),
                request_id: format!("apply-{number}"),
                ..v1::ApplyPoolRequest::default()
            })),
            35 => Message::DeletePool(v1::DeletePoolRequest {
                name: pick(random, &POOLS).to_owned(),
                if_in_use: in_use(random).into(),
                request_id: format!("delete-{number}"),
                ..v1::DeletePoolRequest::default()
            }),
            36 => Message::SyncPools(v1::SyncPoolsRequest {
                pools: vec![pool(random, &cluster)],
                cluster,
                request_id: format!("sync-{number}"),
                fence,
                ..v1::SyncPoolsRequest::default()
            }),
            37 => Message::BeginSync(v1::BeginSyncRequest {
                cluster,
                fence,
                request_id: format!("begin-{number}"),
                ..v1::BeginSyncRequest::default()
            }),
            38..40 => Message::ApplyAddressSpace(Box::new(v1::ApplyAddressSpaceRequest {
                address_space: Some(address_space(random)),
                if_in_use: in_use(random).into(),
                request_id: format!("fence-{number}"),
                ..v1::ApplyAddressSpaceRequest::default()
            })),
            40 => Message::EndSync(v1::EndSyncRequest {
                cluster,
                fence,
                request_id: format!("end-{number}"),
                ..v1::EndSyncRequest::default()
            }),
            _ => Message::DeleteCluster(v1::DeleteClusterRequest {
                name: cluster,
                request_id: format!("gone-{number}"),
                ..v1::DeleteClusterRequest::default()
            }),
        }
    }

    /// The same request once more, as a client sends it that got no answer.
    pub(super) fn again(&mut self, message: &Message) -> Message {
        self.made += 1;
        let mut again = message.clone();
        let id = match &mut again {
            Message::Allocate(request) => &mut request.request_id,
            Message::Release(request) => &mut request.request_id,
            Message::ApplyPool(request) => &mut request.request_id,
            Message::DeletePool(request) => &mut request.request_id,
            Message::SyncPools(request) => &mut request.request_id,
            Message::ApplyAddressSpace(request) => &mut request.request_id,
            Message::BeginSync(request) => &mut request.request_id,
            Message::EndSync(request) => &mut request.request_id,
            Message::DeleteCluster(request) => &mut request.request_id,
        };
        let kind = id.split('-').next().unwrap_or_default();
        *id = format!("{kind}-{}", self.made);
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

fn owner(random: &mut StdRng, cluster: String) -> v1::Owner {
    v1::Owner {
        cluster,
        namespace: "default".to_owned(),
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
        validate_only: random.random_bool(0.05),
        ..v1::AllocateRequest::default()
    };
    if random.random_bool(0.6) {
        request.if_refused = v1::allocate_request::IfRefused::Queue.into();
    }
    if random.random_bool(0.1) {
        request.families.clear();
        request.family_policy = FamilyPolicy::Unspecified.into();
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
        addresses: ranges.into_iter().map(str::to_owned).collect(),
        auto_assign: Some(random.random_bool(0.9)),
        // Less than passes between two rounds in which time passes.
        reuse_delay: random.random_bool(0.3).then_some(prost_types::Duration {
            seconds: 7,
            nanos: 0,
        }),
        // Longer than a run: no node that is away is given up.
        reuse_unacknowledged: Some(prost_types::Duration {
            seconds: 30 * 24 * 3600,
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
                ranges: ranges.into_iter().map(str::to_owned).collect(),
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
