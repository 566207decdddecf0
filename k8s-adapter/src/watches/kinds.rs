//! The kinds that are watched: what is kept of each object, and where in the index it goes.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::core::DeserializeGuard;
use serde::de::DeserializeOwned;

use super::Watched;
use crate::crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, BGPSessionState, BgpSpec, Community, CommunitySpec,
    ConfigurationState, IPAddressPool, L2Advertisement, L2Spec, PeerSpec, ProfileSpec,
    ServiceL2Status,
};
use crate::eligibility::{NodeState, SliceState};
use crate::index::{self, Declares, Index, Kind, PoolState, Touched};
use crate::policy::Declared;
use crate::service::{OWN_PREFIX, ServiceState};
use crate::status::object::{Seen, StatusKind};

impl Watched for Service {
    const KIND: Kind = Kind::Services;
    type Kept = ServiceState;

    fn keep(self) -> Option<ServiceState> {
        ServiceState::parse(&self)
    }

    fn replace(index: &mut Index, list: Vec<ServiceState>) -> Touched {
        index.replace_services(list)
    }

    fn apply(index: &mut Index, service: ServiceState) -> Touched {
        index.apply_service(service)
    }

    fn delete(index: &mut Index, service: &ServiceState) -> Touched {
        index.delete_service(service)
    }
}

impl Watched for Namespace {
    const KIND: Kind = Kind::Namespaces;
    type Kept = index::Namespace;

    fn keep(self) -> Option<index::Namespace> {
        Some(index::Namespace {
            name: self.metadata.name?,
            labels: self
                .metadata
                .labels
                .unwrap_or_default()
                .into_iter()
                .collect(),
        })
    }

    fn replace(index: &mut Index, list: Vec<index::Namespace>) -> Touched {
        index.replace_namespaces(list)
    }

    fn apply(index: &mut Index, namespace: index::Namespace) -> Touched {
        index.apply_namespace(namespace)
    }

    fn delete(index: &mut Index, namespace: &index::Namespace) -> Touched {
        index.delete_namespace(&namespace.name)
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlices;
    type Kept = SliceState;

    fn keep(self) -> Option<SliceState> {
        SliceState::parse(&self)
    }

    fn replace(index: &mut Index, list: Vec<SliceState>) -> Touched {
        index.replace_slices(list)
    }

    fn apply(index: &mut Index, slice: SliceState) -> Touched {
        index.apply_slice(slice)
    }

    fn delete(index: &mut Index, slice: &SliceState) -> Touched {
        index.delete_slice(&slice.key)
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Nodes;
    type Kept = NodeState;

    fn keep(self) -> Option<NodeState> {
        NodeState::parse(&self)
    }

    fn replace(index: &mut Index, list: Vec<NodeState>) -> Touched {
        index.replace_nodes(list)
    }

    fn apply(index: &mut Index, node: NodeState) -> Touched {
        index.apply_node(node)
    }

    fn delete(index: &mut Index, node: &NodeState) -> Touched {
        index.delete_node(&node.fact.name)
    }
}

/// What counts of an object's annotations. Others change without a meaning here.
fn own_annotations(annotations: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let all = annotations.unwrap_or_default().into_iter();
    all.filter(|(name, _)| name.starts_with(OWN_PREFIX))
        .collect()
}

// An object that cannot be read is kept as what it is: a mistake that has to be told. Without the
// guard it would make the whole list fail.
impl Watched for DeserializeGuard<IPAddressPool> {
    const KIND: Kind = Kind::Pools;
    type Kept = PoolState;

    fn keep(self) -> Option<PoolState> {
        let meta = self.meta().clone();
        let (spec, status) = match self.0 {
            Ok(pool) => (Ok(pool.spec), pool.status),
            Err(error) => (Err(error.to_string()), None),
        };
        Some(PoolState {
            uid: meta.uid.unwrap_or_default(),
            declared: Declared {
                name: meta.name?,
                labels: meta.labels.unwrap_or_default().into_iter().collect(),
                annotations: own_annotations(meta.annotations),
                spec,
            },
            status,
        })
    }

    fn replace(index: &mut Index, list: Vec<PoolState>) -> Touched {
        index.replace_pools(list)
    }

    fn apply(index: &mut Index, pool: PoolState) -> Touched {
        index.apply_pool(pool)
    }

    fn delete(index: &mut Index, pool: &PoolState) -> Touched {
        index.delete_pool(&pool.declared.name)
    }
}

/// A kind of which nothing but what it declares is kept.
pub trait Declaration: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned {
    type Spec: Declares + Send;
    fn spec(self) -> Self::Spec;
}

/// All such kinds have their spec in the same place.
macro_rules! declaration {
    ($kind:ident, $spec:ident) => {
        impl Declaration for $kind {
            type Spec = $spec;

            fn spec(self) -> $spec {
                self.spec
            }
        }
    };
}

declaration!(L2Advertisement, L2Spec);
declaration!(BGPAdvertisement, BgpSpec);
declaration!(Community, CommunitySpec);
declaration!(BGPPeer, PeerSpec);
declaration!(BFDProfile, ProfileSpec);

impl<K: Declaration + Send + Sync> Watched for DeserializeGuard<K> {
    const KIND: Kind = K::Spec::KIND;
    type Kept = Declared<K::Spec>;

    fn keep(self) -> Option<Declared<K::Spec>> {
        let meta = self.meta().clone();
        Some(Declared {
            name: meta.name?,
            labels: meta.labels.unwrap_or_default().into_iter().collect(),
            annotations: own_annotations(meta.annotations),
            spec: self.0.map(K::spec).map_err(|error| error.to_string()),
        })
    }

    fn replace(index: &mut Index, list: Vec<Declared<K::Spec>>) -> Touched {
        index.replace_declared(list)
    }

    fn apply(index: &mut Index, declared: Declared<K::Spec>) -> Touched {
        index.apply_declared(declared)
    }

    fn delete(index: &mut Index, declared: &Declared<K::Spec>) -> Touched {
        index.delete_declared::<K::Spec>(&declared.name)
    }
}

/// Objects that this adapter writes itself: what they say, and that somebody else wrote or deleted one.
macro_rules! status_object {
    ($object:ident, $kind:ident) => {
        impl Watched for DeserializeGuard<$object> {
            const KIND: Kind = Kind::Statuses(StatusKind::$kind);
            const OPTIONAL: bool = true;
            type Kept = Seen;

            fn keep(self) -> Option<Seen> {
                let object = self.0.ok()?;
                let status = serde_json::to_value(&object.status).ok()?;
                Seen::parse(StatusKind::$kind, &object.metadata, status)
            }

            fn begin(index: &mut Index) {
                index.list_statuses(StatusKind::$kind);
            }

            fn replace(index: &mut Index, list: Vec<Seen>) -> Touched {
                index.replace_statuses(StatusKind::$kind, list)
            }

            fn apply(index: &mut Index, seen: Seen) -> Touched {
                index.see_status(seen)
            }

            fn delete(index: &mut Index, seen: &Seen) -> Touched {
                index.forget_status(StatusKind::$kind, &seen.name, &seen.uid)
            }
        }
    };
}

status_object!(ServiceL2Status, L2);
status_object!(BGPSessionState, Session);
status_object!(ConfigurationState, Configuration);
