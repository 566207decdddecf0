//! What Kubernetes has said, indexed for the questions of this adapter. Pure and synchronous:
//! watches put objects in, and are told what that touched.
//!
//! A kind counts only when it has been listed completely once. Until then nothing that depends on
//! it is decided: an empty list is not "none".

mod declarations;
mod statuses;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pharos_proto::v1;

use crate::claim::{Claim, Labels, NoClaim, Settings, claim, in_use, is_ours};
use crate::eligibility::{NodeState, SliceKey, SliceState, backends};
use crate::service::{ServiceKey, ServiceState};
use crate::status::object::{Seen, StatusKind};

pub use declarations::{Declares, PoolState};

use declarations::Policy;

/// The kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Namespaces,
    Services,
    EndpointSlices,
    Nodes,
    Pools,
    L2Advertisements,
    BgpAdvertisements,
    Communities,
    BgpPeers,
    BfdProfiles,
    Statuses(StatusKind),
}

impl Kind {
    /// As in logs and `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Pools => "ipaddresspools",
            Self::L2Advertisements => "l2advertisements",
            Self::BgpAdvertisements => "bgpadvertisements",
            Self::Communities => "communities",
            Self::BgpPeers => "bgppeers",
            Self::BfdProfiles => "bfdprofiles",
            Self::Statuses(StatusKind::L2) => "servicel2statuses",
            Self::Statuses(StatusKind::Session) => "bgpsessionstates",
            Self::Statuses(StatusKind::Configuration) => "configurationstates",
        }
    }
}

/// What an event touched: who has to look again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services to be looked at.
    pub services: BTreeSet<ServiceKey>,
    /// Services whose backends may be others now.
    pub backends: BTreeSet<ServiceKey>,
    /// Nodes that changed or went.
    pub nodes: BTreeSet<String>,
    /// The verdict on what is declared may be another one now.
    pub policy: bool,
    /// What status objects say, or should say, may be another thing now.
    pub statuses: bool,
    /// Services may be missing from a list without having been seen to be deleted.
    pub unlisted: bool,
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    listed: BTreeSet<Kind>,
    namespaces: BTreeMap<String, Namespace>,
    services: BTreeMap<ServiceKey, Arc<ServiceState>>,
    /// Incarnations of Services, by uid, that are certainly gone: their deletion was seen, or
    /// another incarnation in their place, or a list made later lacks them.
    gone: BTreeMap<ServiceKey, BTreeSet<String>>,
    slices: BTreeMap<SliceKey, SliceState>,
    /// Names of the slices of each Service, in its namespace.
    slices_of: HashMap<ServiceKey, BTreeSet<String>>,
    /// Shared with the copies that are judged by.
    nodes: Arc<BTreeMap<String, NodeState>>,
    /// The same.
    policy: Arc<Policy>,
    statuses: BTreeMap<(StatusKind, String), Seen>,
    /// Status objects that were written since the list began that is being made of their kind.
    written: BTreeMap<StatusKind, BTreeSet<String>>,
}

/// A namespace as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
}

// === reading ===

impl Index {
    /// Whether a kind has been listed completely.
    pub fn has(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// A Service, if it exists.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceState>> {
        self.services.get(key)
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.services.values()
    }

    /// What a Service asks for.
    pub fn claim(&self, service: &ServiceState, settings: &Settings) -> Result<Claim, NoClaim> {
        claim(service, self.namespace_labels(service), settings)
    }

    /// The claim that stands for what a Service has in its status.
    pub fn in_use(&self, service: &ServiceState, settings: &Settings) -> Option<Claim> {
        // A list of Services may be newer than that of namespaces. What is in use is reported all the
        // same; the claim is made again when the labels are known.
        let unknown = Labels::new();
        let labels = self.namespace_labels(service).unwrap_or(&unknown);
        in_use(service, labels, settings)
    }

    fn namespace_labels(&self, service: &ServiceState) -> Option<&Labels> {
        let namespace = self.namespaces.get(&service.key.namespace)?;
        Some(&namespace.labels)
    }

    /// Whether an incarnation of a Service is known to be gone, and not just absent from a list.
    /// Where no uid was recorded, any incarnation that went counts.
    pub fn is_gone(&self, key: &ServiceKey, uid: &str) -> bool {
        let gone = self.gone.get(key);
        gone.is_some_and(|uids| uid.is_empty() || uids.contains(uid))
    }

    /// Which nodes serve a Service; `None` if it is not ours to say.
    pub fn backends(&self, key: &ServiceKey, settings: &Settings) -> Option<v1::BackendsFact> {
        let service = self.services.get(key)?;
        is_ours(service, settings).ok()?;
        let names = self.slices_of.get(key).into_iter().flatten();
        let slices = names.filter_map(|name| {
            self.slices.get(&SliceKey {
                namespace: key.namespace.clone(),
                name: name.clone(),
            })
        });
        Some(backends(service, slices, &settings.cluster))
    }

    /// A node, if it exists.
    pub fn node(&self, name: &str) -> Option<&v1::NodeFact> {
        self.nodes.get(name).map(|node| &node.fact)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &v1::NodeFact> {
        self.nodes.values().map(|node| &node.fact)
    }
}

// === Services ===

impl Index {
    /// A complete list of Services. Those that vanished are not taken for gone.
    pub fn replace_services(&mut self, list: Vec<ServiceState>) -> Touched {
        self.listed.insert(Kind::Services);
        let mut touched = Touched {
            unlisted: true,
            ..Touched::default()
        };
        let mut before = std::mem::take(&mut self.services);
        for service in list {
            let known = before.remove(&service.key);
            if known.as_deref() != Some(&service) {
                touched.services.insert(service.key.clone());
                touched.backends.insert(service.key.clone());
            }
            self.succeeds(known.as_deref(), &service);
            let service = known
                .filter(|known| **known == service)
                .unwrap_or_else(|| Arc::new(service));
            self.services.insert(service.key.clone(), service);
        }
        touched.backends.extend(before.into_keys());
        touched
    }

    /// A Service was created or changed.
    pub fn apply_service(&mut self, service: ServiceState) -> Touched {
        let key = service.key.clone();
        let known = self.services.remove(&key);
        self.succeeds(known.as_deref(), &service);
        self.services.insert(key.clone(), Arc::new(service));
        touched_service(key)
    }

    /// A Service was deleted.
    pub fn delete_service(&mut self, service: &ServiceState) -> Touched {
        let key = service.key.clone();
        self.services.remove(&key);
        self.confirm_gone(key.clone(), service.uid.clone());
        touched_service(key)
    }

    /// A name has one incarnation at a time.
    fn succeeds(&mut self, known: Option<&ServiceState>, service: &ServiceState) {
        if let Some(former) = known.filter(|known| known.uid != service.uid) {
            self.confirm_gone(former.key.clone(), former.uid.clone());
        }
    }

    /// What a call answered with: the Service as it is after a write, or as it was fetched. Ignored
    /// if a watch has brought something newer, or that it is gone. (Resource versions are compared
    /// as numbers, which they are on every API server over etcd.)
    pub fn answered(&mut self, service: ServiceState) {
        let number = |version: &str| version.parse::<u64>().unwrap_or_default();
        let newest = number(&service.resource_version);
        let known = self.services.get(&service.key).cloned();
        if let Some(known) = known.filter(|known| number(&known.resource_version) <= newest) {
            self.succeeds(Some(&known), &service);
            self.services.insert(service.key.clone(), Arc::new(service));
        }
    }

    /// This incarnation of a Service does not exist any more.
    pub fn confirm_gone(&mut self, key: ServiceKey, uid: String) {
        self.gone.entry(key).or_default().insert(uid);
    }

    /// No earlier incarnation holds anything any more: that they went need not be remembered.
    pub fn forget_gone(&mut self, key: &ServiceKey) {
        self.gone.remove(key);
    }
}

fn touched_service(key: ServiceKey) -> Touched {
    Touched {
        services: BTreeSet::from([key.clone()]),
        backends: BTreeSet::from([key]),
        ..Touched::default()
    }
}

// === namespaces ===

impl Index {
    /// A complete list of namespaces.
    pub fn replace_namespaces(&mut self, list: Vec<Namespace>) -> Touched {
        self.listed.insert(Kind::Namespaces);
        let before = std::mem::take(&mut self.namespaces);
        self.namespaces = list.into_iter().map(|it| (it.name.clone(), it)).collect();
        let mut touched = Touched::default();
        for (name, namespace) in &self.namespaces {
            if before.get(name).map(|it| &it.labels) != Some(&namespace.labels) {
                touched.services.extend(self.services_in(name));
            }
        }
        touched
    }

    /// A namespace was created or changed.
    pub fn apply_namespace(&mut self, namespace: Namespace) -> Touched {
        let name = namespace.name.clone();
        let labels = namespace.labels.clone();
        let before = self.namespaces.insert(name.clone(), namespace);
        let mut touched = Touched::default();
        if before.map(|it| it.labels) != Some(labels) {
            touched.services.extend(self.services_in(&name));
        }
        touched
    }

    /// A namespace was deleted. Its Services were deleted before.
    pub fn delete_namespace(&mut self, name: &str) -> Touched {
        self.namespaces.remove(name);
        Touched::default()
    }

    fn services_in(&self, namespace: &str) -> Vec<ServiceKey> {
        let first = ServiceKey::new(namespace, "");
        self.services
            .range(first..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

// === facts ===

impl Index {
    /// A complete list of EndpointSlices.
    pub fn replace_slices(&mut self, list: Vec<SliceState>) -> Touched {
        self.listed.insert(Kind::EndpointSlices);
        let listed: BTreeSet<&SliceKey> = list.iter().map(|slice| &slice.key).collect();
        let gone = self.slices.keys().filter(|key| !listed.contains(key));
        let gone: Vec<SliceKey> = gone.cloned().collect();
        let mut backends = BTreeSet::new();
        for key in &gone {
            backends.extend(self.delete_slice(key).backends);
        }
        for slice in list {
            backends.extend(self.apply_slice(slice).backends);
        }
        Touched {
            backends,
            ..Touched::default()
        }
    }

    /// An EndpointSlice was created or changed. It may go over to another Service, or to none.
    pub fn apply_slice(&mut self, slice: SliceState) -> Touched {
        if self.slices.get(&slice.key) == Some(&slice) {
            return Touched::default();
        }
        let mut touched = self.delete_slice(&slice.key);
        if let Some(service) = &slice.service {
            touched.backends.insert(service.clone());
            let names = self.slices_of.entry(service.clone()).or_default();
            names.insert(slice.key.name.clone());
            self.slices.insert(slice.key.clone(), slice);
        }
        touched
    }

    /// An EndpointSlice was deleted.
    pub fn delete_slice(&mut self, key: &SliceKey) -> Touched {
        let service = self.slices.remove(key).and_then(|slice| slice.service);
        if let Some(service) = &service
            && let Some(names) = self.slices_of.get_mut(service)
        {
            names.remove(&key.name);
            if names.is_empty() {
                self.slices_of.remove(service);
            }
        }
        Touched {
            backends: service.into_iter().collect(),
            ..Touched::default()
        }
    }

    /// A complete list of nodes.
    pub fn replace_nodes(&mut self, list: Vec<NodeState>) -> Touched {
        // Before, nothing that depends on nodes was checked.
        let mut policy = self.listed.insert(Kind::Nodes);
        let list = list.into_iter().map(|it| (it.fact.name.clone(), it));
        let before = std::mem::replace(&mut self.nodes, Arc::new(list.collect()));
        let mut nodes = BTreeSet::new();
        for name in before.keys().chain(self.nodes.keys()) {
            let (old, new) = (before.get(name), self.nodes.get(name));
            if old.map(|it| &it.fact) != new.map(|it| &it.fact) {
                nodes.insert(name.clone());
            }
            policy |= self.policy.depends_on(old, new);
        }
        Touched {
            nodes,
            policy,
            ..Touched::default()
        }
    }

    /// A node was created or changed. Heartbeats change nothing that counts here.
    pub fn apply_node(&mut self, node: NodeState) -> Touched {
        let name = node.fact.name.clone();
        let before = Arc::make_mut(&mut self.nodes).insert(name.clone(), node.clone());
        let same = before.as_ref().map(|it| &it.fact) == Some(&node.fact);
        Touched {
            nodes: Some(name).filter(|_| !same).into_iter().collect(),
            policy: self.policy.depends_on(before.as_ref(), Some(&node)),
            ..Touched::default()
        }
    }

    /// A node was deleted.
    pub fn delete_node(&mut self, name: &str) -> Touched {
        let before = Arc::make_mut(&mut self.nodes).remove(name);
        Touched {
            nodes: BTreeSet::from([name.to_owned()]),
            policy: self.policy.depends_on(before.as_ref(), None),
            ..Touched::default()
        }
    }
}

#[cfg(test)]
mod tests;
