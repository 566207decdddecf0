//! `BGPPeer`, of either version.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use pharos_proto::v1;

use super::Declared;
use super::findings::Problems;
use super::timers::{Timers, duration};
use super::{limits, selector};
use crate::crd::PeerSpec;

/// Of a router, unless something else is said (RFC 4271 section 8.2.1).
const BGP_PORT: u16 = 179;
const CONNECT_SECONDS: RangeInclusive<u64> = 1..=65_535;
/// Longest name of an interface (`IFNAMSIZ` of Linux, with its NUL).
const LONGEST_INTERFACE: usize = 15;
/// Bytes of the longest password (`TCP_MD5SIG_MAXKEYLEN` of Linux).
pub const LONGEST_PASSWORD: usize = 80;

/// A router to announce addresses to.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub name: String,
    pub my_asn: u32,
    pub remote: RemoteAs,
    /// Shown to this router in place of `my_asn`.
    pub local_asn: Option<u32>,
    pub endpoint: Endpoint,
    pub source: Option<IpAddr>,
    pub port: u16,
    /// None: the announcer's own.
    pub timers: Option<Timers>,
    /// Between attempts to connect, whole seconds. None: the announcer's own.
    pub connect_time: Option<Duration>,
    pub router_id: Option<Ipv4Addr>,
    /// None: every node.
    pub node_selectors: Vec<v1::LabelSelector>,
    pub authentication: Option<Authentication>,
    /// A BFDProfile by name, which need not exist yet.
    pub bfd_profile: Option<String>,
    pub graceful_restart: bool,
    pub multi_hop: bool,
    pub vrf: Option<String>,
    /// Routes of both families go over this session.
    pub dual_stack: bool,
    /// No kernel can make the connection that it asks for, which was told as a warning: it is not handed over.
    pub is_possible: bool,
}

/// Which AS number the router may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteAs {
    Is(u32),
    /// That of this side.
    Internal,
    /// Any but that of this side.
    External,
}

/// Where the router is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Address(IpAddr),
    /// The only other router on a link.
    Interface(String),
}

impl Peer {
    /// Whether a node is to hold a session with it.
    pub fn selects(&self, node: &v1::NodeFact) -> bool {
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        self.node_selectors.is_empty() || selector::any_matches(&self.node_selectors, label)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

/// What signs the connection (RFC 2385).
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication {
    Password(String),
    /// A Secret by name, whose key `password` has it.
    Secret(String),
}

impl fmt::Debug for Authentication {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(_) => f.write_str("Password"),
            Self::Secret(name) => write!(f, "Secret({name:?})"),
        }
    }
}

/// None if something essential is wrong.
pub(super) fn parse(
    declared: &Declared<PeerSpec>,
    spec: &PeerSpec,
    problems: &mut Problems<'_>,
) -> Option<Peer> {
    if spec.my_asn == 0 {
        problems.add("spec.myASN", "missing local ASN");
    }
    let remote = remote(spec, problems);
    let endpoint = endpoint(spec, problems);
    let source = source(spec, problems);
    let obstacle = obstacle(spec, endpoint.as_ref(), source);
    limits::check_parts("spec.nodeSelectors", &spec.node_selectors, problems);
    let is_possible = obstacle.is_none();
    if let Some((field, why)) = obstacle {
        problems.warn(
            field,
            format!("{why}: no session with this peer can come about"),
        );
    }
    let peer = Peer {
        name: declared.name.clone(),
        my_asn: spec.my_asn,
        remote: remote.unwrap_or(RemoteAs::External),
        local_asn: Some(spec.local_asn).filter(|asn| *asn != 0),
        endpoint: endpoint?,
        source,
        port: Some(spec.port)
            .filter(|port| *port != 0)
            .unwrap_or(BGP_PORT),
        timers: timers(spec, problems),
        connect_time: connect_time(spec, problems),
        router_id: router_id(spec, problems),
        node_selectors: selector::convert_all("spec.nodeSelectors", &spec.node_selectors, problems),
        authentication: authentication(spec, problems),
        bfd_profile: given(&spec.bfd_profile),
        graceful_restart: spec.enable_graceful_restart,
        multi_hop: spec.ebgp_multi_hop,
        vrf: given(&spec.vrf),
        dual_stack: spec.dual_stack_address_family,
        is_possible,
    };
    if spec.disable_mp {
        problems.warn(
            "spec.disableMP",
            "disable mp is deprecated and has no effect since it's the default behavior now",
        );
    }
    problems.none().then_some(peer)
}

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn remote(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<RemoteAs> {
    let multi_hop = "spec.ebgpMultiHop";
    match (spec.peer_asn, spec.dynamic_asn.as_str()) {
        (0, "") => problems.add("spec.peerASN", "missing peer ASN and dynamicASN"),
        (0, "external") => return Some(RemoteAs::External),
        (0, "internal") => {
            if spec.ebgp_multi_hop {
                // Not refused, as MetalLB takes it.
                problems.warn(multi_hop, "has no effect: the peer is internal");
            }
            return Some(RemoteAs::Internal);
        }
        (0, other) => problems.add("spec.dynamicASN", format!("invalid dynamicASN {other}")),
        (asn, "") => {
            if spec.ebgp_multi_hop && asn == spec.my_asn {
                let message = "invalid ebgp-multihop parameter set for an ibgp peer";
                problems.add(multi_hop, message);
            }
            return Some(RemoteAs::Is(asn));
        }
        (_, _) => problems.add("spec.dynamicASN", "both peer ASN and dynamicASN specified"),
    }
    None
}

fn endpoint(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<Endpoint> {
    match (spec.address.as_str(), spec.interface.as_str()) {
        ("", "") => {
            let message = "peer has no Address or Interface specified";
            problems.add("spec.peerAddress", message);
            None
        }
        ("", interface) => Some(Endpoint::Interface(interface.to_owned())),
        (text, "") => {
            let address = address(text);
            if address.is_none() {
                let message = format!("invalid BGPPeer address {text:?}");
                problems.add("spec.peerAddress", message);
            }
            address.map(Endpoint::Address)
        }
        (_, _) => {
            let message = "peer has both Address and Interface specified";
            problems.add("spec.interface", message);
            None
        }
    }
}

/// An IPv4-mapped address is another name of an IPv4 address, as in MetalLB.
fn address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

fn source(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<IpAddr> {
    let text = given(&spec.source_address)?;
    let field = "spec.sourceAddress";
    let Some(source) = address(&text) else {
        problems.add(field, format!("invalid source IP {text:?}"));
        return None;
    };
    Some(source)
}

/// Why no connection can be made, with the field that says so. MetalLB takes such a peer, and never reaches
/// it.
fn obstacle(
    spec: &PeerSpec,
    endpoint: Option<&Endpoint>,
    source: Option<IpAddr>,
) -> Option<(&'static str, String)> {
    let nobodys = |address: IpAddr| address.is_unspecified() || address.is_multicast();
    let no_interface = |name: &str| {
        let bad = |it: char| it == '/' || it.is_whitespace() || it.is_control();
        name.len() > LONGEST_INTERFACE || name.contains(bad)
    };
    match endpoint? {
        Endpoint::Address(peer) if nobodys(*peer) => {
            let why = format!("{peer} is not the address of a machine");
            return Some(("spec.peerAddress", why));
        }
        Endpoint::Address(peer) => {
            if let Some(source) = source.filter(|it| it.is_ipv4() != peer.is_ipv4()) {
                let why = format!("no connection can go from {source} to {peer}");
                return Some(("spec.sourceAddress", why));
            }
        }
        Endpoint::Interface(name) if no_interface(name) => {
            return Some((
                "spec.interface",
                format!("no interface can be named {name:?}"),
            ));
        }
        Endpoint::Interface(_) => {}
    }
    if let Some(source) = source.filter(|it| nobodys(*it)) {
        let why = format!("{source} is not the address of a machine");
        return Some(("spec.sourceAddress", why));
    }
    if no_interface(&spec.vrf) {
        return Some(("spec.vrf", format!("no VRF can be named {:?}", spec.vrf)));
    }
    if spec.password.len() > LONGEST_PASSWORD {
        let why = format!("a password has at most {LONGEST_PASSWORD} bytes");
        return Some(("spec.password", why));
    }
    if spec.password.chars().any(char::is_control) {
        let why = "a password has no control characters, such as the end of a line".to_owned();
        return Some(("spec.password", why));
    }
    if !limits::can_name(&spec.bfd_profile) {
        let why = "no BFDProfile can have this name".to_owned();
        return Some(("spec.bfdProfile", why));
    }
    None
}

fn timers(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<Timers> {
    let timers = Timers::parse(spec.hold_time.as_deref(), spec.keepalive_time.as_deref());
    timers.unwrap_or_else(|error| {
        problems.add(format!("spec.{}", error.field), error.to_string());
        None
    })
}

fn connect_time(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<Duration> {
    let text = spec.connect_time.as_ref()?;
    let field = "spec.connectTime";
    let Some(time) = duration(text) else {
        problems.add(
            field,
            format!("invalid connect time: {text:?} is no duration"),
        );
        return None;
    };
    if !CONNECT_SECONDS.contains(&time.as_secs()) {
        problems.add(field, "connect time should be between 1 seconds to 65535");
    } else if time.subsec_nanos() != 0 {
        let message = "connect time should contain a whole number of seconds";
        problems.add(field, message);
    }
    Some(time)
}

/// 32 bits that are written as an IPv4 address (RFC 4271 section 4.2).
fn router_id(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<Ipv4Addr> {
    let text = given(&spec.router_id)?;
    let id = text.parse().ok();
    if id.is_none() {
        problems.add("spec.routerID", format!("invalid router ID {text:?}"));
    }
    id
}

fn authentication(spec: &PeerSpec, problems: &mut Problems<'_>) -> Option<Authentication> {
    match (given(&spec.password), given(&spec.password_secret.name)) {
        (None, None) => None,
        (Some(password), None) => Some(Authentication::Password(password)),
        (None, Some(name)) => Some(Authentication::Secret(name)),
        (Some(_), Some(_)) => {
            let message = "can not have both password and secret ref set in peer config";
            problems.add("spec.passwordSecret", message);
            None
        }
    }
}
