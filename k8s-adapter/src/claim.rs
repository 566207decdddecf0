//! From a Service to a claim, or to the named reason why there is none. Pure: it knows nothing of
//! who holds what, which is ipam-service's to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pharos_proto::net::{format_address, parse_address};
use pharos_proto::v1;

use crate::service::{
    ADDRESS_POOL, ADDRESS_SPACE, ADDRESSES, ANY_POOLS, DUAL_STACK_POOLS, FamilyPolicy, ONE_POOL,
    PREFIX, RESERVATION, SHARING_KEY, ServiceKey, ServiceState, TrafficPolicy,
};

/// Labels of a namespace or Service.
pub type Labels = BTreeMap<String, String>;

/// What the adapter was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of this cluster in the address book.
    pub cluster: String,
    /// Serve only Services of this class; `None`: only those without a class.
    pub lb_class: Option<String>,
    /// Address space of all pools and claims of this cluster.
    pub address_space: String,
    /// Nodes that are excluded from external load balancers announce like others.
    pub ignore_exclude_lb: bool,
}

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub key: ServiceKey,
    pub uid: String,
    /// Sorted, without repetition.
    pub ports: Vec<(v1::port::Protocol, u16)>,
    /// In the order of the Service's cluster addresses: one, or two that differ.
    pub families: Vec<v1::ip_family::Value>,
    pub family_policy: v1::claim::FamilyPolicy,
    /// Empty: that of the settings.
    pub address_space: String,
    /// Empty: any.
    pub pool: String,
    /// Name of the reservation that an address must be of. Empty: any.
    pub reservation: String,
    /// Whether two addresses may come from two pools.
    pub any_pools: bool,
    /// Exactly these; IPv4 first. Empty: any.
    pub addresses: Vec<IpAddr>,
    /// Empty: not to be shared.
    pub sharing_key: String,
    pub backend_key: String,
    pub labels: Labels,
    pub namespace_labels: Labels,
}

/// Why a Service makes no claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoClaim {
    /// It is of another type.
    NotLoadBalancer,
    /// Another controller serves it; it is never touched.
    OtherClass,
    /// Its namespace has not been seen yet, and pools may select by the namespace's labels.
    NamespaceUnknown,
    /// What it asks for makes no sense.
    Rejected(Rejection),
}

/// What is wrong with what a Service asks for. The texts are for the people who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("service has no clusterIPs")]
    NoClusterIps,
    #[error(
        "Failed to retrieve ClusterIPs IPFamily for {} {}: they are not one address, or one of each family",
        list(.0),
        .0.first().map_or("", String::as_str)
    )]
    BadClusterIps(Vec<String>),
    #[error("Service requires dual stack but not enough clusterips [{}]", .0.join(" "))]
    NotEnoughClusterIps(Vec<String>),
    #[error("service can not have both {PREFIX}{ADDRESSES} and svc.Spec.LoadBalancerIP")]
    TwoRequests,
    #[error("invalid spec.loadBalancerIP {0:?}")]
    BadLoadBalancerIp(String),
    #[error("invalid {PREFIX}{ADDRESSES} {0:?}")]
    BadAddresses(String),
    #[error("invalid {PREFIX}{ADDRESSES} {0:?}: at most one IPv4 and one IPv6 address")]
    TooManyAddresses(String),
    #[error("invalid spec.addresses of the Gateway {0:?}: at most one IPv4 and one IPv6 address")]
    BadGatewayAddresses(String),
    #[error("requested loadBalancer IP(s) {0} does not match the ipFamily of the service")]
    FamilyMismatch(String),
    #[error("invalid {DUAL_STACK_POOLS} {0:?}: it is {ANY_POOLS} or {ONE_POOL}")]
    BadDualStackPools(String),
    #[error("service can not have both {PREFIX}{ADDRESS_POOL} and {DUAL_STACK_POOLS} {ANY_POOLS}")]
    OnePoolOfAny,
    #[error("port {protocol}/{port} cannot be served")]
    BadPort { protocol: String, port: i32 },
}

impl Rejection {
    /// Whether a Service with this mistake keeps the address that it has. A request that cannot be
    /// read does not cost the address; a Service without a usable family cannot have one.
    pub fn keeps_address(&self) -> bool {
        match self {
            Self::NoClusterIps | Self::BadClusterIps(_) | Self::NotEnoughClusterIps(_) => false,
            Self::TwoRequests
            | Self::BadLoadBalancerIp(_)
            | Self::BadAddresses(_)
            | Self::TooManyAddresses(_)
            | Self::BadGatewayAddresses(_)
            | Self::FamilyMismatch(_)
            | Self::BadDualStackPools(_)
            | Self::OnePoolOfAny
            | Self::BadPort { .. } => true,
        }
    }
}

/// Whether this adapter serves the Service: its type and its class (`--lb-class`) are ours.
pub fn is_ours(service: &ServiceState, settings: &Settings) -> Result<(), NoClaim> {
    // A Service that stops being a load balancer loses its class in the API, so the type goes
    // first: otherwise its address would never be released.
    if !service.load_balancer {
        return Err(NoClaim::NotLoadBalancer);
    }
    if service.class != settings.lb_class {
        return Err(NoClaim::OtherClass);
    }
    Ok(())
}

/// The claim of a Service. `namespace` are the labels of its namespace, `None` if not known yet.
pub fn claim(
    service: &ServiceState,
    namespace: Option<&Labels>,
    settings: &Settings,
) -> Result<Claim, NoClaim> {
    is_ours(service, settings)?;
    let namespace = namespace.ok_or(NoClaim::NamespaceUnknown)?;
    asked_for(service, namespace).map_err(NoClaim::Rejected)
}

/// The address space that a Service's addresses are of.
pub fn address_space<'a>(service: &'a ServiceState, settings: &'a Settings) -> &'a str {
    match service.own_annotation(ADDRESS_SPACE) {
        "" => &settings.address_space,
        named => named,
    }
}

/// The claim that stands for what a Service has in its status. One that keeps its address although
/// what it asks for cannot be read asks for no more than that meanwhile.
pub fn in_use(service: &ServiceState, namespace: &Labels, settings: &Settings) -> Option<Claim> {
    match claim(service, Some(namespace), settings) {
        Ok(claim) => Some(claim),
        Err(NoClaim::Rejected(rejection)) if rejection.keeps_address() => {
            let mut plain = service.clone();
            plain.load_balancer_ip.clear();
            plain.gateway_addresses.clear();
            let odd = |name: &str| name.ends_with(ADDRESSES) || name == DUAL_STACK_POOLS;
            plain.annotations.retain(|name, _| !odd(name));
            claim(&plain, Some(namespace), settings).ok()
        }
        Err(_) => None,
    }
}

fn asked_for(service: &ServiceState, namespace: &Labels) -> Result<Claim, Rejection> {
    let (families, family_policy) = families(service)?;
    let addresses = requested_addresses(service)?;
    if !addresses.is_empty() {
        let requested: BTreeSet<_> = addresses.iter().map(|ip| family(*ip) as i32).collect();
        let served: BTreeSet<_> = families.iter().map(|family| *family as i32).collect();
        if requested != served {
            return Err(Rejection::FamilyMismatch(quoted(&addresses)));
        }
    }
    let backend_key = match service.traffic_policy {
        TrafficPolicy::Cluster => String::new(),
        TrafficPolicy::Local => selector_text(&service.selector),
    };
    let annotation = |name| service.annotation(name).unwrap_or_default().to_owned();
    let any_pools = any_pools(service, &families)?;
    Ok(Claim {
        key: service.key.clone(),
        uid: service.uid.clone(),
        ports: ports(service)?,
        families,
        family_policy,
        address_space: service.own_annotation(ADDRESS_SPACE).to_owned(),
        pool: annotation(ADDRESS_POOL),
        reservation: service.own_annotation(RESERVATION).to_owned(),
        any_pools,
        addresses,
        sharing_key: annotation(SHARING_KEY),
        backend_key,
        labels: service.labels.clone(),
        namespace_labels: namespace.clone(),
    })
}

/// Whether a Service of these families may have addresses of two pools. One with a single family has
/// no use for that, and may say so all the same: it may become dual-stack.
fn any_pools(service: &ServiceState, families: &[v1::ip_family::Value]) -> Result<bool, Rejection> {
    let pool = service.annotation(ADDRESS_POOL).unwrap_or_default();
    match service.own_annotation(DUAL_STACK_POOLS) {
        "" | ONE_POOL => Ok(false),
        ANY_POOLS if families.len() != 2 => Ok(false),
        ANY_POOLS if !pool.is_empty() => Err(Rejection::OnePoolOfAny),
        ANY_POOLS => Ok(true),
        other => Err(Rejection::BadDualStackPools(other.to_owned())),
    }
}

/// The families follow clusterIPs, not ipFamilyPolicy: that is what the cluster can serve.
fn families(
    service: &ServiceState,
) -> Result<(Vec<v1::ip_family::Value>, v1::claim::FamilyPolicy), Rejection> {
    let bad = || Rejection::BadClusterIps(service.cluster_ips.clone());
    let families = service
        .cluster_ips
        .iter()
        .map(|ip| parse_address(ip).map(family).map_err(|_| bad()))
        .collect::<Result<Vec<_>, _>>()?;
    match (families.as_slice(), service.family_policy) {
        ([], _) => Err(Rejection::NoClusterIps),
        ([_], FamilyPolicy::RequireDualStack) => {
            Err(Rejection::NotEnoughClusterIps(service.cluster_ips.clone()))
        }
        ([_], FamilyPolicy::SingleStack | FamilyPolicy::PreferDualStack) => {
            Ok((families, v1::claim::FamilyPolicy::SingleStack))
        }
        ([first, second], policy) if first != second => {
            let policy = match policy {
                FamilyPolicy::PreferDualStack => v1::claim::FamilyPolicy::PreferDualStack,
                FamilyPolicy::SingleStack | FamilyPolicy::RequireDualStack => {
                    v1::claim::FamilyPolicy::RequireDualStack
                }
            };
            Ok((families, policy))
        }
        (_, _) => Err(bad()),
    }
}

fn requested_addresses(service: &ServiceState) -> Result<Vec<IpAddr>, Rejection> {
    let text = service.annotation(ADDRESSES).unwrap_or_default();
    let field = service.load_balancer_ip.as_str();
    match (text, field) {
        ("", "") => parse_gateway(service.asked_by_gateway()),
        ("", field) => parse_address(field)
            .map(|address| vec![address])
            .map_err(|_| Rejection::BadLoadBalancerIp(field.to_owned())),
        (text, "") => parse_list(text),
        (_, _) => Err(Rejection::TwoRequests),
    }
}

/// Whether its Gateway's request is for what a Service has.
pub fn gateway_asks_for(service: &ServiceState, addresses: &[IpAddr]) -> bool {
    parse_gateway(service.asked_by_gateway()).is_ok_and(|asked| {
        asked.len() == addresses.len() && asked.iter().all(|address| addresses.contains(address))
    })
}

fn parse_list(text: &str) -> Result<Vec<IpAddr>, Rejection> {
    let addresses = text
        .split(',')
        .map(|part| parse_address(part.trim()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Rejection::BadAddresses(text.to_owned()))?;
    one_of_each_family(addresses).ok_or_else(|| Rejection::TooManyAddresses(text.to_owned()))
}

/// What a Gateway asks for, if anything.
fn parse_gateway(texts: &[String]) -> Result<Vec<IpAddr>, Rejection> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let bad = || Rejection::BadGatewayAddresses(texts.join(","));
    let addresses = texts.iter().map(|text| parse_address(text));
    let addresses = addresses.collect::<Result<_, _>>().map_err(|_| bad())?;
    one_of_each_family(addresses).ok_or_else(bad)
}

/// One address, or two of different families, IPv4 first.
fn one_of_each_family(mut addresses: Vec<IpAddr>) -> Option<Vec<IpAddr>> {
    addresses.sort_by_key(IpAddr::is_ipv6);
    let fits = match addresses.as_slice() {
        [_] => true,
        [first, second] => family(*first) != family(*second),
        _ => false,
    };
    fits.then_some(addresses)
}

fn ports(service: &ServiceState) -> Result<Vec<(v1::port::Protocol, u16)>, Rejection> {
    let mut ports = service
        .ports
        .iter()
        .map(|(protocol, port)| {
            let bad = || Rejection::BadPort {
                protocol: protocol.clone(),
                port: *port,
            };
            let known = match protocol.as_str() {
                "TCP" => v1::port::Protocol::Tcp,
                "UDP" => v1::port::Protocol::Udp,
                "SCTP" => v1::port::Protocol::Sctp,
                _ => return Err(bad()),
            };
            let number = u16::try_from(*port).ok().filter(|number| *number != 0);
            Ok((known, number.ok_or_else(bad)?))
        })
        .collect::<Result<Vec<_>, _>>()?;
    ports.sort_by_key(|(protocol, port)| (*protocol as i32, *port));
    ports.dedup();
    Ok(ports)
}

/// The text of a selector, as Kubernetes writes a set of labels: `a=b,c=d`, sorted.
fn selector_text(selector: &Labels) -> String {
    let parts: Vec<String> = selector
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    parts.join(",")
}

/// The family of an address.
pub fn family(address: IpAddr) -> v1::ip_family::Value {
    match address {
        IpAddr::V4(_) => v1::ip_family::Value::Ipv4,
        IpAddr::V6(_) => v1::ip_family::Value::Ipv6,
    }
}

/// Addresses as MetalLB's events show them: `["192.0.2.1" "2001:db8::1"]`.
pub fn quoted(addresses: &[IpAddr]) -> String {
    list(&texts(addresses))
}

/// The same of any texts.
pub fn list(texts: &[String]) -> String {
    let parts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", parts.join(" "))
}

/// The owner under which a Service is known to ipam-service.
pub fn owner(key: &ServiceKey, uid: &str, cluster: &str) -> v1::Owner {
    v1::Owner {
        cluster: cluster.to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: uid.to_owned(),
    }
}

/// The claim as ipam-service stores it and tells it back.
pub fn stored(claim: &Claim, settings: &Settings) -> v1::Claim {
    v1::Claim {
        ports: claim
            .ports
            .iter()
            .map(|(protocol, port)| v1::Port {
                protocol: *protocol as i32,
                port: u32::from(*port),
            })
            .collect(),
        families: claim.families.iter().map(|family| *family as i32).collect(),
        family_policy: claim.family_policy as i32,
        dual_stack_pools: match claim.any_pools {
            true => v1::claim::DualStackPools::AnyPools as i32,
            // Both from one pool, as MetalLB has it.
            false => v1::claim::DualStackPools::Unspecified as i32,
        },
        address_space: match claim.address_space.as_str() {
            "" => settings.address_space.clone(),
            named => named.to_owned(),
        },
        pool: claim.pool.clone(),
        reservation: claim.reservation.clone(),
        addresses: texts(&claim.addresses),
        sharing_key: claim.sharing_key.clone(),
        backend_key: claim.backend_key.clone(),
        labels: claim.labels.clone().into_iter().collect(),
        namespace_labels: claim.namespace_labels.clone().into_iter().collect(),
        backends: v1::claim::Backends::Reported as i32,
    }
}

/// The request that makes the claim. `held` are the addresses in the Service's status.
pub fn request(claim: &Claim, held: &[IpAddr], settings: &Settings) -> v1::AllocateRequest {
    let stored = stored(claim, settings);
    v1::AllocateRequest {
        owner: Some(owner(&claim.key, &claim.uid, &settings.cluster)),
        ports: stored.ports,
        families: stored.families,
        family_policy: stored.family_policy,
        address_space: stored.address_space,
        dual_stack_pools: stored.dual_stack_pools,
        pool: stored.pool,
        reservation: stored.reservation,
        addresses: stored.addresses,
        sharing_key: stored.sharing_key,
        backend_key: stored.backend_key,
        labels: stored.labels.into_iter().collect(),
        namespace_labels: stored.namespace_labels.into_iter().collect(),
        held_addresses: texts(held),
        if_refused: v1::allocate_request::IfRefused::Queue as i32,
        backends: stored.backends,
        ..v1::AllocateRequest::default()
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().copied().map(format_address).collect()
}

/// A claim of `default/web` that asks for as little as can be, for tests to begin with.
#[cfg(test)]
pub(crate) fn least_claim() -> Claim {
    Claim {
        key: ServiceKey::new("default", "web"),
        uid: "u".to_owned(),
        ports: Vec::new(),
        families: Vec::new(),
        family_policy: v1::claim::FamilyPolicy::SingleStack,
        address_space: String::new(),
        pool: String::new(),
        reservation: String::new(),
        any_pools: false,
        addresses: Vec::new(),
        sharing_key: String::new(),
        backend_key: String::new(),
        labels: Labels::new(),
        namespace_labels: Labels::new(),
    }
}

#[cfg(test)]
mod tests;
