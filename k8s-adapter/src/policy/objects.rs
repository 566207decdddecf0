//! The custom resources as they were seen, all together.

use std::collections::BTreeMap;
use std::fmt;

use crate::crd::{BgpSpec, CommunitySpec, L2Spec, PeerSpec, PoolSpec, ProfileSpec};
use crate::eligibility::NodeState;

/// A custom resource as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<S> {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Those with the prefix `pharos.io/`.
    pub annotations: BTreeMap<String, String>,
    /// The text says why the object could not be read.
    pub spec: Result<S, String>,
}

/// Kinds that declare something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    Pool,
    L2Advertisement,
    BgpAdvertisement,
    Community,
    Peer,
    Profile,
}

impl ResourceKind {
    /// As Kubernetes has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::BgpAdvertisement => "BGPAdvertisement",
            Self::Community => "Community",
            Self::Peer => "BGPPeer",
            Self::Profile => "BFDProfile",
        }
    }

    /// Whether it is about BGP. Such objects are right or wrong together.
    pub fn is_bgp(self) -> bool {
        match self {
            Self::BgpAdvertisement | Self::Community | Self::Peer | Self::Profile => true,
            Self::Pool | Self::L2Advertisement => false,
        }
    }
}

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub kind: ResourceKind,
    pub name: String,
}

impl Subject {
    pub fn new(kind: ResourceKind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.as_str(), self.name)
    }
}

/// The objects of one kind.
#[derive(Debug, Clone)]
pub struct Known<'a, S> {
    by_name: BTreeMap<&'a str, &'a Declared<S>>,
    complete: bool,
}

impl<S> Default for Known<'_, S> {
    /// Nothing is known, which does not mean that there is none.
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            complete: false,
        }
    }
}

impl<'a, S> Known<'a, S> {
    /// All objects of the kind.
    pub fn all(objects: impl IntoIterator<Item = &'a Declared<S>>) -> Self {
        let named = |declared: &'a Declared<S>| (declared.name.as_str(), declared);
        Self {
            by_name: objects.into_iter().map(named).collect(),
            complete: true,
        }
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &'a Declared<S>> {
        self.by_name.values().copied()
    }

    /// Whether there is certainly no object of this name.
    pub fn lacks(&self, name: &str) -> bool {
        self.complete && !self.by_name.contains_key(name)
    }

    /// Whether what is not here does not exist.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn has(&self, declared: &Declared<S>) -> bool
    where
        S: PartialEq,
    {
        let known = self.by_name.get(declared.name.as_str());
        known.is_some_and(|known| *known == declared)
    }

    fn put(&mut self, declared: &'a Declared<S>) {
        self.by_name.insert(&declared.name, declared);
    }
}

/// All that is declared, and the nodes that it is about.
#[derive(Debug, Clone, Default)]
pub struct Objects<'a> {
    pub pools: Known<'a, PoolSpec>,
    pub l2: Known<'a, L2Spec>,
    pub bgp: Known<'a, BgpSpec>,
    pub communities: Known<'a, CommunitySpec>,
    pub peers: Known<'a, PeerSpec>,
    pub profiles: Known<'a, ProfileSpec>,
    /// None: not known, and nothing is found that depends on nodes.
    pub nodes: Option<Vec<&'a NodeState>>,
}

/// One object of whatever kind.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    Pool(&'a Declared<PoolSpec>),
    L2Advertisement(&'a Declared<L2Spec>),
    BgpAdvertisement(&'a Declared<BgpSpec>),
    Community(&'a Declared<CommunitySpec>),
    Peer(&'a Declared<PeerSpec>),
    Profile(&'a Declared<ProfileSpec>),
}

impl Object<'_> {
    /// Its kind and name.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Pool(it) => Subject::new(ResourceKind::Pool, &it.name),
            Self::L2Advertisement(it) => Subject::new(ResourceKind::L2Advertisement, &it.name),
            Self::BgpAdvertisement(it) => Subject::new(ResourceKind::BgpAdvertisement, &it.name),
            Self::Community(it) => Subject::new(ResourceKind::Community, &it.name),
            Self::Peer(it) => Subject::new(ResourceKind::Peer, &it.name),
            Self::Profile(it) => Subject::new(ResourceKind::Profile, &it.name),
        }
    }
}

impl<'a> Objects<'a> {
    /// Whether there is an object that says just this.
    pub fn has(&self, object: &Object<'_>) -> bool {
        match object {
            Object::Pool(it) => self.pools.has(it),
            Object::L2Advertisement(it) => self.l2.has(it),
            Object::BgpAdvertisement(it) => self.bgp.has(it),
            Object::Community(it) => self.communities.has(it),
            Object::Peer(it) => self.peers.has(it),
            Object::Profile(it) => self.profiles.has(it),
        }
    }

    /// The same after an object was created, or changed to this.
    #[must_use]
    pub fn with(mut self, object: Object<'a>) -> Self {
        match object {
            Object::Pool(it) => self.pools.put(it),
            Object::L2Advertisement(it) => self.l2.put(it),
            Object::BgpAdvertisement(it) => self.bgp.put(it),
            Object::Community(it) => self.communities.put(it),
            Object::Peer(it) => self.peers.put(it),
            Object::Profile(it) => self.profiles.put(it),
        }
        self
    }
}
