//! What Services' events say. Reasons and texts are MetalLB's, because people search for them.
//! Pure.

use std::net::IpAddr;

use pharos_proto::v1;

use crate::claim::{Rejection, list, quoted};
use crate::service::ServiceKey;

/// Longest message of an event, in bytes, as newer event APIs have it.
const LONGEST_MESSAGE: usize = 1024;

/// Something that the owner of a Service should read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The Service has these addresses now.
    Assigned(Vec<IpAddr>),
    /// The Service keeps what it had, and has this too.
    AlsoAssigned(IpAddr),
    /// The Service has no address, or not the one that it asks for.
    AllocationFailed { cause: Cause, why: String },
    /// The Service loses these addresses.
    Cleared { had: Vec<IpAddr>, why: String },
    /// The request makes no sense, and the Service keeps the address that it has.
    LoadBalancerFailed(Rejection),
    /// The Service cannot have an address.
    NoFamily(Rejection),
    /// The status holds addresses that the address book cannot give to this Service. The status
    /// stays as it is.
    AdoptionConflict { has: Vec<IpAddr>, why: String },
    /// The Service would have an address of the other family too, and there is none for it.
    NoAdditional { pool: String, family: &'static str },
    /// The Service keeps what it was given without a request; this is what its Gateway asks for now.
    GatewayNotFollowed {
        has: Vec<IpAddr>,
        asked: Vec<String>,
    },
    /// The status held something that is no address of a Service.
    StrangeStatus(Vec<String>),
    /// The address book said that all is well, and gave nothing.
    NothingGiven,
    /// Another node answers for it than before, this one.
    NodeAssigned(String),
    /// Nobody answers for one of its addresses, or somebody else does: the reason and the words of its
    /// condition.
    NotAnnounced { reason: String, message: String },
    /// The Service uses this annotation, whose prefix is deprecated.
    DeprecatedAnnotation(String),
}

/// What keeps a Service from the address that it asks for, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This rule of ipam-service.
    Rule(v1::refusal::Reason),
    /// ipam-service does not take the claim at all.
    NotTaken,
    /// What the Service asks for makes no sense.
    InvalidRequest,
    /// ipam-service cannot be reached.
    IpamServiceAway,
    /// What Services of this cluster hold cannot be reported yet.
    InventoryOpen,
    /// A step fails again and again.
    Failing,
}

/// MetalLB's word for an owner that has none of the interfaces that are wanted.
const NO_INTERFACE: (&str, &str) = ("NoInterface", "announceFailed");

/// The two types of a Kubernetes event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// The programs of MetalLB, whose names people look for in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    Controller,
    Speaker,
}

impl Severity {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

impl Notice {
    /// The event's reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Assigned(_) | Self::AlsoAssigned(_) => "IPAllocated",
            Self::AllocationFailed { .. } => "AllocationFailed",
            Self::Cleared { .. } => "ClearAssignment",
            Self::LoadBalancerFailed(_) => "LoadBalancerFailed",
            Self::NoFamily(Rejection::NoClusterIps) => "noClusterIPs",
            Self::NoFamily(Rejection::NotEnoughClusterIps(_)) => "not enough clusterips",
            Self::NoFamily(_) => "noclusterIPsIPFamily",
            Self::AdoptionConflict { .. } => "AdoptionConflict",
            Self::NoAdditional { .. } => "AdditionalAssignFailed",
            Self::GatewayNotFollowed { .. } => "GatewayAddressNotAssigned",
            Self::StrangeStatus(_) => "nolbIPsIPFamily",
            Self::NothingGiven => "InternalError",
            Self::NodeAssigned(_) => "nodeAssigned",
            Self::NotAnnounced { reason, .. } if reason == NO_INTERFACE.0 => NO_INTERFACE.1,
            Self::NotAnnounced { reason, .. } => reason,
            Self::DeprecatedAnnotation(_) => "deprecatedAnnotation",
        }
    }

    /// The event's type.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Assigned(_)
            | Self::AlsoAssigned(_)
            | Self::Cleared { .. }
            | Self::NoAdditional { .. }
            | Self::NodeAssigned(_) => Severity::Normal,
            Self::AllocationFailed { .. }
            | Self::LoadBalancerFailed(_)
            | Self::NoFamily(_)
            | Self::AdoptionConflict { .. }
            | Self::GatewayNotFollowed { .. }
            | Self::StrangeStatus(_)
            | Self::NothingGiven
            | Self::NotAnnounced { .. }
            | Self::DeprecatedAnnotation(_) => Severity::Warning,
        }
    }

    /// Which of MetalLB's two programs says it.
    pub fn speaker(&self) -> Speaker {
        match self {
            Self::NodeAssigned(_) | Self::NotAnnounced { .. } => Speaker::Speaker,
            Self::Assigned(_)
            | Self::AlsoAssigned(_)
            | Self::AllocationFailed { .. }
            | Self::Cleared { .. }
            | Self::LoadBalancerFailed(_)
            | Self::NoFamily(_)
            | Self::AdoptionConflict { .. }
            | Self::NoAdditional { .. }
            | Self::StrangeStatus(_)
            | Self::NothingGiven
            | Self::GatewayNotFollowed { .. }
            | Self::DeprecatedAnnotation(_) => Speaker::Controller,
        }
    }

    /// The event's message on a Service: [`LONGEST_MESSAGE`] at most, as it may quote an annotation
    /// of any length.
    pub fn message(&self, service: &ServiceKey) -> String {
        let mut message = self.whole_message(service);
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message
    }

    fn whole_message(&self, service: &ServiceKey) -> String {
        let service = format!("{:?}", service.to_string());
        match self {
            Self::Assigned(addresses) => format!("Assigned IP {}", quoted(addresses)),
            Self::AlsoAssigned(address) => format!("Assigned additional IP \"{address}\""),
            Self::AllocationFailed { cause: _, why } => {
                format!("Failed to allocate IP for {service}: {why}")
            }
            Self::Cleared { had: _, why } => format!(
                "current IP for {service} not allowed by config, will attempt for new IP \
                 assignment: {why}"
            ),
            Self::LoadBalancerFailed(rejection) => {
                format!("invalid requested loadbalancer IPs: {rejection}")
            }
            Self::NoFamily(rejection) => rejection.to_string(),
            Self::AdoptionConflict { has, why } => format!(
                "IP {} of {service} cannot be taken over and stays as it is until that is \
                 decided: {why}",
                quoted(has)
            ),
            Self::NoAdditional { pool, family } => format!(
                "cannot assign additional IP in PreferDualStack: pool {pool:?} has no {family} \
                 address for it"
            ),
            Self::GatewayNotFollowed { has, asked } => format!(
                "{service} keeps IP {}, which it had before its Gateway asked for {}: it gets that when \
                 the Service is deleted and made anew",
                quoted(has),
                list(asked)
            ),
            Self::StrangeStatus(texts) => format!(
                "Failed to retrieve LBIPs IPFamily for {}: they are not one address, or one of each \
                 family",
                list(texts)
            ),
            Self::NothingGiven => "didn't allocate an IP but also did not fail".to_owned(),
            Self::NodeAssigned(node) => {
                format!("announcing from node {node:?} with protocol \"layer2\"")
            }
            Self::NotAnnounced { reason: _, message } => message.clone(),
            Self::DeprecatedAnnotation(name) => {
                format!("Service uses deprecated annotation {name}")
            }
        }
    }
}

/// Something that the author of a pool should read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolNotice {
    /// So many of its addresses go to nobody, as the operator of ipam-service grants them to other
    /// clusters.
    OutsideGrant { addresses: u128, of: u128 },
    /// None any more.
    WithinGrant,
}

impl PoolNotice {
    /// What is to be said now that so many addresses are outside the grant, and was said of `told`
    /// before. `within`: how many are inside.
    pub fn of(told: u128, outside: u128, within: u128) -> Option<Self> {
        match outside {
            same if same == told => None,
            0 => Some(Self::WithinGrant),
            addresses => Some(Self::OutsideGrant {
                addresses,
                of: within.saturating_add(addresses),
            }),
        }
    }

    /// The event's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OutsideGrant { .. } => "OutsideGrant",
            Self::WithinGrant => "WithinGrant",
        }
    }

    /// The event's type.
    pub fn severity(&self) -> Severity {
        match self {
            Self::OutsideGrant { .. } => Severity::Warning,
            Self::WithinGrant => Severity::Normal,
        }
    }

    /// The event's message.
    pub fn message(&self) -> String {
        match self {
            Self::OutsideGrant { addresses, of } => format!(
                "{addresses} of {of} addresses are given to nobody: the grants of the address space \
                 do not have them for this cluster"
            ),
            Self::WithinGrant => {
                "the grants of the address space have all addresses for this cluster".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_told_of_its_grant_when_that_changes() {
        assert_eq!(PoolNotice::of(0, 0, 16), None);
        let outside = PoolNotice::of(0, 4, 12);
        let expected = PoolNotice::OutsideGrant {
            addresses: 4,
            of: 16,
        };
        assert_eq!(outside, Some(expected));
        assert!(expected.message().starts_with("4 of 16 addresses"));
        assert_eq!(PoolNotice::of(4, 4, 12), None);
        assert_eq!(PoolNotice::of(4, 0, 16), Some(PoolNotice::WithinGrant));
    }

    #[test]
    fn a_message_that_quotes_an_endless_annotation_ends() {
        let endless = Rejection::BadAddresses("é".repeat(100_000));
        let message = Notice::LoadBalancerFailed(endless).message(&ServiceKey::new("a", "b"));
        assert!((1000..=LONGEST_MESSAGE).contains(&message.len()));
    }

    #[test]
    fn texts_are_those_that_metallbs_users_search_for() {
        let key = ServiceKey::new("default", "web");
        let v4 = "192.0.2.1".parse().expect("an address");
        let v6 = "2001:db8::1".parse().expect("an address");
        for (notice, severity, reason, message) in [
            (
                Notice::Assigned(vec![v4]),
                "Normal",
                "IPAllocated",
                "Assigned IP [\"192.0.2.1\"]",
            ),
            (
                Notice::Assigned(vec![v4, v6]),
                "Normal",
                "IPAllocated",
                "Assigned IP [\"192.0.2.1\" \"2001:db8::1\"]",
            ),
            (
                Notice::AlsoAssigned(v6),
                "Normal",
                "IPAllocated",
                "Assigned additional IP \"2001:db8::1\"",
            ),
            (
                Notice::AllocationFailed {
                    cause: Cause::Rule(v1::refusal::Reason::UnknownPool),
                    why: "unknown pool \"x\"".to_owned(),
                },
                "Warning",
                "AllocationFailed",
                "Failed to allocate IP for \"default/web\": unknown pool \"x\"",
            ),
            (
                Notice::Cleared {
                    had: vec![v4],
                    why: "because".to_owned(),
                },
                "Normal",
                "ClearAssignment",
                "current IP for \"default/web\" not allowed by config, will attempt for new IP \
                 assignment: because",
            ),
            (
                Notice::LoadBalancerFailed(Rejection::BadLoadBalancerIp("x".to_owned())),
                "Warning",
                "LoadBalancerFailed",
                "invalid requested loadbalancer IPs: invalid spec.loadBalancerIP \"x\"",
            ),
            (
                Notice::NoFamily(Rejection::NotEnoughClusterIps(vec!["10.0.0.1".to_owned()])),
                "Warning",
                "not enough clusterips",
                "Service requires dual stack but not enough clusterips [10.0.0.1]",
            ),
            (
                Notice::NoFamily(Rejection::BadClusterIps(vec![
                    "10.0.0.1".to_owned(),
                    "10.0.0.2".to_owned(),
                ])),
                "Warning",
                "noclusterIPsIPFamily",
                "Failed to retrieve ClusterIPs IPFamily for [\"10.0.0.1\" \"10.0.0.2\"] 10.0.0.1: \
                 they are not one address, or one of each family",
            ),
            (
                Notice::StrangeStatus(vec!["lb.example".to_owned()]),
                "Warning",
                "nolbIPsIPFamily",
                "Failed to retrieve LBIPs IPFamily for [\"lb.example\"]: they are not one address, \
                 or one of each family",
            ),
            (
                Notice::NoAdditional {
                    pool: "p".to_owned(),
                    family: "IPv6",
                },
                "Normal",
                "AdditionalAssignFailed",
                "cannot assign additional IP in PreferDualStack: pool \"p\" has no IPv6 address for it",
            ),
            (
                Notice::NothingGiven,
                "Warning",
                "InternalError",
                "didn't allocate an IP but also did not fail",
            ),
            (
                Notice::DeprecatedAnnotation("metallb.universe.tf/address-pool".to_owned()),
                "Warning",
                "deprecatedAnnotation",
                "Service uses deprecated annotation metallb.universe.tf/address-pool",
            ),
        ] {
            assert_eq!(notice.severity().as_str(), severity);
            assert_eq!(
                (notice.reason(), notice.message(&key).as_str()),
                (reason, message)
            );
        }
    }
}
