//! BGP peers and BFD profiles, as values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::state::address::Address;
use crate::state::change::Edit;
use crate::state::model::Revision;
use crate::state::names::Name;
use crate::state::selector::LabelSelector;

/// Key of a BGP peer or a BFD profile. `cluster: None` concerns every cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BgpKey {
    pub cluster: Option<Name>,
    pub name: Name,
}

impl fmt::Display for BgpKey {
    /// `name`, or `cluster/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            Some(cluster) => write!(f, "{cluster}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// A password. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// For the store, and for who needs it to connect.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The autonomous system of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAsn {
    /// Never 0.
    Number(u32),
    /// Whatever the peer says, if it is the own one.
    Internal,
    /// Whatever the peer says, if it is another one.
    External,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPlace {
    Address(Address),
    /// On the link of this interface.
    Interface(String),
}

/// A router that announcers have a session with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpPeer {
    pub key: BgpKey,
    /// Never 0.
    pub my_asn: u32,
    pub peer_asn: PeerAsn,
    pub local_asn: Option<u32>,
    pub place: PeerPlace,
    /// `None`: the port of BGP, 179.
    pub port: Option<u16>,
    pub source_address: Option<Address>,
    pub router_id: Option<Ipv4Addr>,
    pub hold_time: Option<Duration>,
    pub keepalive_time: Option<Duration>,
    pub connect_time: Option<Duration>,
    /// `None` with a `password_revision`: it is not in this store.
    pub password: Option<Password>,
    /// At which the password was set; 0: there is none.
    pub password_revision: Revision,
    pub bfd_profile: Option<Name>,
    pub ebgp_multihop: bool,
    pub graceful_restart: bool,
    pub dual_stack: bool,
    pub vrf: Option<String>,
    pub node_selectors: Vec<LabelSelector>,
    pub revision: Revision,
}

/// How BFD watches sessions. `None`: as BFD's implementations have it by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdProfile {
    pub key: BgpKey,
    pub receive_interval: Option<Duration>,
    pub transmit_interval: Option<Duration>,
    pub detect_multiplier: Option<u8>,
    pub passive_mode: bool,
    pub minimum_ttl: Option<u8>,
    pub revision: Revision,
}

/// What is asked of peers and profiles.
#[derive(Debug, Clone, PartialEq)]
pub enum BgpCommand {
    /// Without a password, and with the revision of the one that is known: that one stays.
    ApplyPeer(Box<BgpPeer>),
    DeletePeer(BgpKey),
    ApplyProfile(BfdProfile),
    DeleteProfile(BgpKey),
    /// Replaces all peers and profiles of a cluster.
    Sync {
        cluster: Name,
        peers: Vec<BgpPeer>,
        profiles: Vec<BfdProfile>,
        fence: u64,
    },
}

impl BgpCommand {
    /// The cluster that it is about; `None`: it is the operator's.
    pub fn cluster(&self) -> Option<&Name> {
        match self {
            Self::ApplyPeer(peer) => peer.key.cluster.as_ref(),
            Self::ApplyProfile(profile) => profile.key.cluster.as_ref(),
            Self::DeletePeer(key) | Self::DeleteProfile(key) => key.cluster.as_ref(),
            Self::Sync { cluster, .. } => Some(cluster),
        }
    }
}

/// All that are stored, by cluster (the operator's first) and name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bgp {
    pub(in crate::state) peers: BTreeMap<BgpKey, Arc<BgpPeer>>,
    pub(in crate::state) profiles: BTreeMap<BgpKey, Arc<BfdProfile>>,
}

impl Bgp {
    pub fn peer(&self, key: &BgpKey) -> Option<&Arc<BgpPeer>> {
        self.peers.get(key)
    }

    pub fn peers(&self) -> impl Iterator<Item = &Arc<BgpPeer>> {
        self.peers.values()
    }

    pub fn profile(&self, key: &BgpKey) -> Option<&Arc<BfdProfile>> {
        self.profiles.get(key)
    }

    /// Those that a cluster's announcers have sessions with, by name: its own, and the operator's of
    /// other names.
    pub fn visible_peers(&self, cluster: &Name) -> BTreeMap<&Name, &Arc<BgpPeer>> {
        let of = |whose: Option<&Name>| {
            let peers = self.peers.values();
            let own = peers.filter(move |peer| peer.key.cluster.as_ref() == whose);
            own.map(|peer| (&peer.key.name, peer)).collect::<Vec<_>>()
        };
        // The later of two of one name stays.
        of(None).into_iter().chain(of(Some(cluster))).collect()
    }

    /// The one that a name means to a cluster: its own, else the operator's.
    pub fn visible_profile(&self, cluster: &Name, name: &Name) -> Option<&Arc<BfdProfile>> {
        let of = |cluster: Option<&Name>| {
            self.profiles.get(&BgpKey {
                cluster: cluster.cloned(),
                name: name.clone(),
            })
        };
        of(Some(cluster)).or_else(|| of(None))
    }

    pub fn profiles(&self) -> impl Iterator<Item = &Arc<BfdProfile>> {
        self.profiles.values()
    }

    pub(in crate::state) fn enter_peer(&mut self, edit: &Edit<BgpPeer>) {
        enter(&mut self.peers, &edit.subject().key, edit);
    }

    pub(in crate::state) fn enter_profile(&mut self, edit: &Edit<BfdProfile>) {
        enter(&mut self.profiles, &edit.subject().key, edit);
    }
}

fn enter<T>(map: &mut BTreeMap<BgpKey, Arc<T>>, key: &BgpKey, edit: &Edit<T>) {
    match &edit.after {
        Some(after) => map.insert(key.clone(), Arc::clone(after)),
        None => map.remove(key),
    };
}
