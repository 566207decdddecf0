//! What is declared about BGP, as ipam-service is told it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use pharos_proto::v1;

use super::bgp::{Advertisement, Bgp};
use super::community::Community;
use super::peer::{Authentication, Endpoint, Peer, RemoteAs};
use super::profile::Profile;

/// Goes before the name of a BGPAdvertisement: an L2Advertisement may have the same, and no object of
/// Kubernetes has a `/` in its name.
pub(super) const PREFIX: &str = "bgp/";

/// Passwords by the Secret that has them.
pub type Passwords = BTreeMap<String, String>;

impl Bgp {
    /// The advertisements; or the names that no Community gives yet, with who uses them: without the
    /// one that is missing a route might go where it must not.
    pub fn advertisement_messages(&self) -> Result<Vec<v1::Advertisement>, String> {
        let missing = self.advertisements.iter().flat_map(|one| {
            let names = one.unknown_communities.iter();
            names.map(move |name| format!("{name:?} of BGPAdvertisement {:?}", one.name))
        });
        let missing: Vec<String> = missing.collect();
        match missing.is_empty() {
            true => Ok(self.advertisements.iter().map(advertisement).collect()),
            false => Err(format!("no Community gives {}", missing.join(", "))),
        }
    }

    /// The Secrets with the passwords of the peers, by name.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let peers = self.peers.iter();
        let secrets = peers.filter_map(|peer| match &peer.authentication {
            Some(Authentication::Secret(name)) => Some(name.as_str()),
            Some(Authentication::Password(_)) | None => None,
        });
        secrets.collect()
    }

    /// The peers, but for those that no session can come about with. `passwords`: of all [`Bgp::secrets`].
    pub fn peer_messages(&self, passwords: &Passwords) -> Vec<v1::BgpPeer> {
        let peers = self.peers.iter().filter(|peer| peer.is_possible);
        peers.map(|one| peer(one, passwords)).collect()
    }

    /// The BFD profiles.
    pub fn profile_messages(&self) -> Vec<v1::BfdProfile> {
        self.profiles.iter().map(profile).collect()
    }
}

fn advertisement(one: &Advertisement) -> v1::Advertisement {
    let bgp = v1::advertisement::Bgp {
        peers: one.peers.clone(),
        aggregation_length: Some(one.length_v4.into()),
        aggregation_length_v6: Some(one.length_v6.into()),
        local_pref: one.local_pref,
        communities: one.communities.iter().map(Community::to_string).collect(),
    };
    v1::Advertisement {
        name: format!("{PREFIX}{}", one.name),
        pools: one.pools.clone(),
        pool_selectors: one.pool_selectors.clone(),
        node_selectors: one.node_selectors.clone(),
        service_selectors: one.service_selectors.clone(),
        address_space: one.address_space.clone(),
        protocol: Some(v1::advertisement::Protocol::Bgp(bgp)),
        ..v1::Advertisement::default()
    }
}

fn peer(one: &Peer, passwords: &Passwords) -> v1::BgpPeer {
    let (peer_asn, dynamic_asn) = match one.remote {
        RemoteAs::Is(asn) => (asn, v1::bgp_peer::DynamicAsn::Unspecified),
        RemoteAs::Internal => (0, v1::bgp_peer::DynamicAsn::Internal),
        RemoteAs::External => (0, v1::bgp_peer::DynamicAsn::External),
    };
    let (address, interface) = match &one.endpoint {
        Endpoint::Address(address) => (address.to_string(), String::new()),
        Endpoint::Interface(interface) => (String::new(), interface.clone()),
    };
    let password = match &one.authentication {
        Some(Authentication::Password(password)) => Some(password),
        Some(Authentication::Secret(name)) => passwords.get(name),
        None => None,
    };
    // It means that none is given, as in MetalLB.
    let router_id = one.router_id.filter(|id| *id != Ipv4Addr::UNSPECIFIED);
    v1::BgpPeer {
        name: one.name.clone(),
        my_asn: one.my_asn,
        peer_asn,
        dynamic_asn: dynamic_asn.into(),
        local_asn: one.local_asn.unwrap_or_default(),
        address,
        interface,
        port: Some(one.port.into()),
        source_address: text(one.source),
        router_id: text(router_id),
        // Checked to have 16 bits of seconds.
        hold_time: one.timers.and_then(|it| it.hold.try_into().ok()),
        keepalive_time: one.timers.and_then(|it| it.keepalive.try_into().ok()),
        connect_time: one.connect_time.and_then(|time| time.try_into().ok()),
        password: password.cloned().unwrap_or_default(),
        bfd_profile: one.bfd_profile.clone().unwrap_or_default(),
        ebgp_multihop: one.multi_hop,
        graceful_restart: one.graceful_restart,
        dual_stack: one.dual_stack,
        vrf: one.vrf.clone().unwrap_or_default(),
        node_selectors: one.node_selectors.clone(),
        ..v1::BgpPeer::default()
    }
}

fn profile(one: &Profile) -> v1::BfdProfile {
    v1::BfdProfile {
        name: one.name.clone(),
        receive_interval_ms: one.receive_interval,
        transmit_interval_ms: one.transmit_interval,
        detect_multiplier: one.detect_multiplier,
        passive_mode: one.passive,
        minimum_ttl: one.minimum_ttl,
        ..v1::BfdProfile::default()
    }
}

fn text(it: Option<impl ToString>) -> String {
    it.map(|it| it.to_string()).unwrap_or_default()
}
