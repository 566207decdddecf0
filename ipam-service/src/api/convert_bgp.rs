//! BGP peers and BFD profiles: wire <-> domain. No password goes back to the wire here.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::bgp_peer::DynamicAsn;

use super::convert_announce::bound;
use super::convert_unavailable::{duration_from_wire, duration_to_wire};
use super::fields::{FieldErrors, selectors_to_wire};
use crate::state::address::Address;
use crate::state::bgp::model::{
    BfdProfile, BgpCommand, BgpKey, BgpPeer, Password, PeerAsn, PeerPlace,
};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// Longest hold time, and time between attempts (RFC 4271 section 4.2: two octets of seconds).
const MAX_TIME: Duration = Duration::from_secs(65_535);

/// Shortest hold time that is not 0 (RFC 4271 section 4.2).
const MIN_HOLD_TIME: Duration = Duration::from_secs(3);

/// How many times as long as the keepalive time the hold time is, if only one of them is given
/// (RFC 4271 section 10).
const HOLD_PER_KEEPALIVE: u32 = 3;

/// Longest password in bytes (`TCP_MD5SIG_MAXKEYLEN` of Linux).
const MAX_PASSWORD_BYTES: usize = 80;

/// Longest name of an interface in bytes (`IFNAMSIZ` of Linux, with its NUL).
const MAX_INTERFACE_BYTES: usize = 15;

/// Interval of BFD in milliseconds.
const BFD_INTERVAL: std::ops::RangeInclusive<u32> = 10..=60_000;

// === Peers ===

/// A peer; `field` is the path of the message.
pub fn peer_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::BgpPeer>,
) -> Option<BgpPeer> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let key = key_from_wire(errors, field, &wire.cluster, &wire.name);
    if wire.my_asn == 0 {
        errors.add(at("my_asn"), "is required: 1 to 4294967295");
    }
    let peer_asn = asn_from_wire(errors, field, wire);
    let place = place_from_wire(errors, field, wire);
    let port = narrow(errors, &at("port"), wire.port, 1..=65_535);
    let source_address = source_from_wire(errors, &at("source_address"), wire);
    let router_id = router_id_from_wire(errors, &at("router_id"), &wire.router_id);
    let times = times_from_wire(errors, field, wire);
    let password = errors.text(at("password"), &wire.password, MAX_PASSWORD_BYTES);
    let bfd_profile = errors.optional_name(at("bfd_profile"), &wire.bfd_profile);
    let vrf = optional_interface(errors, &at("vrf"), &wire.vrf);
    bound(errors, &at("node_selectors"), wire.node_selectors.len());
    let node_selectors = errors.selectors(&at("node_selectors"), &wire.node_selectors);
    let (hold_time, keepalive_time, connect_time) = times?;
    Some(BgpPeer {
        key: key?,
        my_asn: wire.my_asn,
        peer_asn: peer_asn?,
        local_asn: (wire.local_asn != 0).then_some(wire.local_asn),
        place: place?,
        port: port?,
        source_address: source_address?,
        router_id: router_id?,
        hold_time,
        keepalive_time,
        connect_time,
        password: Some(password?)
            .filter(|text| !text.is_empty())
            .map(Password::new),
        password_revision: wire.password_revision,
        bfd_profile: bfd_profile?,
        ebgp_multihop: wire.ebgp_multihop,
        graceful_restart: wire.graceful_restart,
        dual_stack: wire.dual_stack,
        vrf: vrf?,
        node_selectors: node_selectors?,
        revision: wire.revision,
    })
}

/// A peer, back to the wire, without its password.
pub fn peer_to_wire(peer: &BgpPeer) -> v1::BgpPeer {
    let (peer_asn, dynamic_asn) = match peer.peer_asn {
        PeerAsn::Number(asn) => (asn, DynamicAsn::Unspecified),
        PeerAsn::Internal => (0, DynamicAsn::Internal),
        PeerAsn::External => (0, DynamicAsn::External),
    };
    let (address, interface) = match &peer.place {
        PeerPlace::Address(address) => (address.to_string(), String::new()),
        PeerPlace::Interface(interface) => (String::new(), interface.clone()),
    };
    v1::BgpPeer {
        name: peer.key.name.to_string(),
        cluster: text_of(peer.key.cluster.as_ref()),
        my_asn: peer.my_asn,
        peer_asn,
        dynamic_asn: dynamic_asn.into(),
        local_asn: peer.local_asn.unwrap_or(0),
        address,
        interface,
        port: peer.port.map(u32::from),
        source_address: peer
            .source_address
            .map_or_else(String::new, |address| address.to_string()),
        router_id: peer
            .router_id
            .map_or_else(String::new, |router_id| router_id.to_string()),
        hold_time: peer.hold_time.map(duration_to_wire),
        keepalive_time: peer.keepalive_time.map(duration_to_wire),
        connect_time: peer.connect_time.map(duration_to_wire),
        password: String::new(),
        bfd_profile: text_of(peer.bfd_profile.as_ref()),
        ebgp_multihop: peer.ebgp_multihop,
        graceful_restart: peer.graceful_restart,
        dual_stack: peer.dual_stack,
        vrf: peer.vrf.clone().unwrap_or_default(),
        node_selectors: selectors_to_wire(&peer.node_selectors),
        password_revision: peer.password_revision,
        password_missing: peer.password.is_none() && peer.password_revision != 0,
        revision: peer.revision,
    }
}

fn asn_from_wire(errors: &mut FieldErrors, field: &str, wire: &v1::BgpPeer) -> Option<PeerAsn> {
    let dynamic = match DynamicAsn::try_from(wire.dynamic_asn) {
        Ok(DynamicAsn::Unspecified) => None,
        Ok(DynamicAsn::Internal) => Some(PeerAsn::Internal),
        Ok(DynamicAsn::External) => Some(PeerAsn::External),
        Err(_) => {
            let message = format!("unknown value {}", wire.dynamic_asn);
            errors.add(format!("{field}.dynamic_asn"), message);
            return None;
        }
    };
    let number = (wire.peer_asn != 0).then_some(PeerAsn::Number(wire.peer_asn));
    if number.is_some() == dynamic.is_some() {
        let message = "exactly one of peer_asn (1 to 4294967295) and dynamic_asn is required";
        errors.add(format!("{field}.peer_asn"), message);
        return None;
    }
    if wire.ebgp_multihop && wire.peer_asn == wire.my_asn {
        let message = "is not for an internal peer: peer_asn is my_asn";
        errors.add(format!("{field}.ebgp_multihop"), message);
    }
    number.or(dynamic)
}

fn place_from_wire(errors: &mut FieldErrors, field: &str, wire: &v1::BgpPeer) -> Option<PeerPlace> {
    if wire.address.is_empty() == wire.interface.is_empty() {
        let message = "exactly one of address and interface is required";
        errors.add(format!("{field}.address"), message);
        return None;
    }
    if wire.address.is_empty() {
        let path = format!("{field}.interface");
        let interface = optional_interface(errors, &path, &wire.interface)?;
        return interface.map(PeerPlace::Interface);
    }
    let address = host(errors, &format!("{field}.address"), &wire.address)?;
    Some(PeerPlace::Address(address))
}

fn source_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: &v1::BgpPeer,
) -> Option<Option<Address>> {
    if wire.source_address.is_empty() {
        return Some(None);
    }
    let source = host(errors, field, &wire.source_address)?;
    let peer = pharos_proto::net::parse_address(&wire.address);
    if peer.is_ok_and(|peer| Address::from(peer).family() != source.family()) {
        errors.add(field, "is not of the family of the peer's address");
        return None;
    }
    Some(Some(source))
}

/// The address of a machine.
fn host(errors: &mut FieldErrors, field: &str, text: &str) -> Option<Address> {
    let address = errors.address(field, text)?;
    let ip: Result<IpAddr, _> = text.parse();
    if ip.is_ok_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
        errors.add(field, "is not the address of a machine");
        return None;
    }
    Some(address)
}

fn router_id_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    text: &str,
) -> Option<Option<Ipv4Addr>> {
    if text.is_empty() {
        return Some(None);
    }
    match text.parse() {
        Ok(Ipv4Addr::UNSPECIFIED) | Err(_) => {
            errors.add(field, "must be an IPv4 address other than 0.0.0.0");
            None
        }
        Ok(router_id) => Some(Some(router_id)),
    }
}

/// Hold, keepalive and connect time.
type Times = (Option<Duration>, Option<Duration>, Option<Duration>);

fn times_from_wire(errors: &mut FieldErrors, field: &str, wire: &v1::BgpPeer) -> Option<Times> {
    let at = |name: &str| format!("{field}.{name}");
    let mut read = |name: &str, wire: Option<&prost_types::Duration>| {
        duration_from_wire(errors, &at(name), wire, MAX_TIME)
    };
    let hold = read("hold_time", wire.hold_time.as_ref());
    let keepalive = read("keepalive_time", wire.keepalive_time.as_ref());
    let connect = read("connect_time", wire.connect_time.as_ref());
    let (hold, keepalive, connect) = (hold?, keepalive?, connect?);
    let meant = hold.or(keepalive.map(|keepalive| keepalive * HOLD_PER_KEEPALIVE));
    let mut good = true;
    let mut bad = |name: &str, message: &str| {
        errors.add(at(name), message);
        good = false;
    };
    if meant.is_some_and(|hold| !hold.is_zero() && hold < MIN_HOLD_TIME) {
        match hold {
            Some(_) => bad("hold_time", "must be 0 or at least 3 s"),
            None => bad(
                "keepalive_time",
                "must be 0 or at least 1 s without hold_time",
            ),
        }
    }
    if meant.is_some_and(|hold| hold > MAX_TIME) {
        bad(
            "keepalive_time",
            "must be at most 21845 s without hold_time",
        );
    }
    if hold.is_some_and(|hold| keepalive.is_some_and(|keepalive| keepalive > hold)) {
        bad("keepalive_time", "must not be longer than hold_time");
    }
    if connect.is_some_and(|connect| connect.is_zero() || connect.subsec_nanos() != 0) {
        bad("connect_time", "must be whole seconds, 1 s to 65535 s");
    }
    good.then_some((hold, keepalive, connect))
}

/// The name of an interface or VRF, or none.
fn optional_interface(errors: &mut FieldErrors, field: &str, text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    let name = errors.text(field, text, MAX_INTERFACE_BYTES)?;
    if name.contains(|c: char| c == '/' || c.is_whitespace()) {
        errors.add(field, "must contain neither `/` nor white space");
        return None;
    }
    Some(Some(name))
}

// === Profiles ===

/// A profile; `field` is the path of the message.
pub fn profile_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::BfdProfile>,
) -> Option<BfdProfile> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let key = key_from_wire(errors, field, &wire.cluster, &wire.name);
    let mut interval = |name: &str, wire: Option<u32>| -> Option<Option<Duration>> {
        let millis: Option<u32> = narrow(errors, &at(name), wire, BFD_INTERVAL)?;
        Some(millis.map(|millis| Duration::from_millis(millis.into())))
    };
    let receive = interval("receive_interval_ms", wire.receive_interval_ms);
    let transmit = interval("transmit_interval_ms", wire.transmit_interval_ms);
    let path = at("detect_multiplier");
    let detect_multiplier = narrow(errors, &path, wire.detect_multiplier, 2..=255);
    let minimum_ttl = narrow(errors, &at("minimum_ttl"), wire.minimum_ttl, 1..=254);
    Some(BfdProfile {
        key: key?,
        receive_interval: receive?,
        transmit_interval: transmit?,
        detect_multiplier: detect_multiplier?,
        passive_mode: wire.passive_mode,
        minimum_ttl: minimum_ttl?,
        revision: wire.revision,
    })
}

/// A profile, back to the wire.
pub fn profile_to_wire(profile: &BfdProfile) -> v1::BfdProfile {
    let millis =
        |interval: Duration| u32::try_from(interval.as_millis()).expect("read from the wire");
    v1::BfdProfile {
        name: profile.key.name.to_string(),
        cluster: text_of(profile.key.cluster.as_ref()),
        receive_interval_ms: profile.receive_interval.map(millis),
        transmit_interval_ms: profile.transmit_interval.map(millis),
        detect_multiplier: profile.detect_multiplier.map(u32::from),
        passive_mode: profile.passive_mode,
        minimum_ttl: profile.minimum_ttl.map(u32::from),
        revision: profile.revision,
    }
}

// === Keys and sets ===

/// The key that a request gives in `cluster` and `name`.
pub fn bgp_key(cluster: &str, name: &str, request_id: &str) -> Result<BgpKey, Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(request_id);
    let cluster = errors.optional_name("cluster", cluster);
    let name = errors.name("name", name);
    let key = cluster.zip(name);
    errors.finish(key.map(|(cluster, name)| BgpKey { cluster, name }))
}

/// `SyncBgpPeers`: all peers and profiles of its cluster.
pub fn bgp_set(wire: &v1::SyncBgpPeersRequest) -> Result<(Name, BgpCommand), Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(&wire.request_id);
    errors.fence(wire.fence);
    let cluster = errors.name("cluster", &wire.cluster);
    let check = |errors: &mut FieldErrors, field: &str, own: &str| {
        if !own.is_empty() && own != wire.cluster {
            let message = "must be empty or equal to the cluster of the request";
            errors.add(format!("{field}.cluster"), message);
        }
    };
    let mut peers = Vec::with_capacity(wire.peers.len());
    for (index, one) in wire.peers.iter().enumerate() {
        let field = format!("peers[{index}]");
        check(&mut errors, &field, &one.cluster);
        let peer = peer_from_wire(&mut errors, &field, Some(one));
        peers.extend(peer.zip(cluster.clone()).map(|(mut peer, cluster)| {
            peer.key.cluster = Some(cluster);
            peer
        }));
    }
    let mut profiles = Vec::with_capacity(wire.profiles.len());
    for (index, one) in wire.profiles.iter().enumerate() {
        let field = format!("profiles[{index}]");
        check(&mut errors, &field, &one.cluster);
        let profile = profile_from_wire(&mut errors, &field, Some(one));
        profiles.extend(profile.zip(cluster.clone()).map(|(mut profile, cluster)| {
            profile.key.cluster = Some(cluster);
            profile
        }));
    }
    let cluster = errors.finish(cluster)?;
    let set = BgpCommand::Sync {
        cluster: cluster.clone(),
        peers,
        profiles,
        fence: wire.fence,
    };
    Ok((cluster, set))
}

fn key_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    cluster: &str,
    name: &str,
) -> Option<BgpKey> {
    let cluster = errors.optional_name(format_args!("{field}.cluster"), cluster);
    let name = errors.name(format_args!("{field}.name"), name);
    Some(BgpKey {
        cluster: cluster?,
        name: name?,
    })
}

fn text_of(name: Option<&Name>) -> String {
    name.map_or_else(String::new, Name::to_string)
}

/// A number of a range, which its type holds; `Some(None)`: not given.
pub(super) fn narrow<T: TryFrom<u32>>(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<u32>,
    range: std::ops::RangeInclusive<u32>,
) -> Option<Option<T>> {
    let Some(wire) = wire else {
        return Some(None);
    };
    let number = range.contains(&wire).then(|| T::try_from(wire).ok());
    let Some(number) = number.flatten() else {
        let message = format!("must be {} to {}, not {wire}", range.start(), range.end());
        errors.add(field, message);
        return None;
    };
    Some(Some(number))
}

#[cfg(test)]
mod tests;
