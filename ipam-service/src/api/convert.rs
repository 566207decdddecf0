//! Owners and claims: wire <-> domain; and the door to the other conversions. The store encodes
//! its rows with the same ones.
//!
//! Reading from the wire makes values canonical: sorted, without repetition, defaults filled in.

use std::sync::Arc;

use pharos_proto::v1;

pub use super::convert_allocation::{
    AllocationExtras, allocation_from_wire, allocation_to_wire, allocation_with_claim,
};
pub use super::convert_history::{change_to_wire, cluster_to_wire};
pub use super::convert_pool::{in_use_from_wire, pool_from_wire, pool_key, pool_to_wire};
pub use super::fields::{
    FieldErrors, MAX_KEY_BYTES, labels_to_wire, selector_to_wire, selectors_to_wire,
};
use crate::state::address::{Address, Family};
use crate::state::command::{Allocate, IfRefused, Release};
use crate::state::model::{
    BackendsPolicy, Claim, DualStackPools, Families, Owner, OwnerKey, Port, Protocol,
};
use crate::state::names::{MAX_NAME_BYTES, Name};
use crate::state::refusal::Rejection;

/// Most entries of `held_addresses`: one of each family under the old and the new claim, and room
/// for what a broken status may list.
const MAX_HELD: usize = 16;

/// Most ports of a claim (Kubernetes itself gives up well below).
const MAX_PORTS: usize = 1000;

// === Owners ===

/// An owner; `field` is the path of the message.
pub fn owner_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::Owner>,
) -> Option<Owner> {
    let wire = errors.required(field, wire)?;
    let cluster = errors.name(format_args!("{field}.cluster"), &wire.cluster);
    let namespace = errors.optional_name(format_args!("{field}.namespace"), &wire.namespace);
    let name = errors.name(format_args!("{field}.name"), &wire.name);
    let uid = errors.text(format_args!("{field}.uid"), &wire.uid, MAX_NAME_BYTES);
    Some(Owner {
        key: OwnerKey {
            cluster: cluster?,
            namespace: namespace?,
            name: name?,
        },
        uid: uid?,
    })
}

/// An owner, back to the wire.
pub fn owner_to_wire(owner: &Owner) -> v1::Owner {
    v1::Owner {
        uid: owner.uid.clone(),
        ..owner_key_to_wire(&owner.key)
    }
}

/// An owner's key, back to the wire.
pub fn owner_key_to_wire(key: &OwnerKey) -> v1::Owner {
    v1::Owner {
        cluster: key.cluster.as_str().to_owned(),
        namespace: key
            .namespace
            .as_ref()
            .map_or_else(String::new, |namespace| namespace.as_str().to_owned()),
        name: key.name.as_str().to_owned(),
        uid: String::new(),
    }
}

// === Claims ===

/// `Allocate`, checked and canonical.
pub fn allocate_from_wire(wire: &v1::AllocateRequest) -> Result<Allocate, Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(&wire.request_id);
    errors.fence(wire.fence);
    let owner = owner_from_wire(&mut errors, "owner", wire.owner.as_ref());
    let claim = claim_fields(&mut errors, &ClaimFields::of_request(wire));
    if wire.held_addresses.len() > MAX_HELD {
        errors.add("held_addresses", format!("at most {MAX_HELD} are allowed"));
    }
    let held = addresses(&mut errors, "held_addresses", &wire.held_addresses);
    let if_refused = if_refused(&mut errors, wire.if_refused);
    let if_revision = errors.if_revision(wire.if_revision);
    let allocate = (|| {
        Some(Allocate {
            owner: owner?,
            claim: Arc::new(claim?),
            held: held?,
            if_refused: if_refused?,
            if_revision: if_revision?,
            fence: wire.fence,
        })
    })();
    errors.finish(allocate)
}

/// `Release`, checked.
pub fn release_from_wire(wire: &v1::ReleaseRequest) -> Result<Release, Rejection> {
    let mut errors = FieldErrors::new();
    errors.request_id(&wire.request_id);
    errors.fence(wire.fence);
    let owner = owner_from_wire(&mut errors, "owner", wire.owner.as_ref());
    let if_revision = errors.if_revision(wire.if_revision);
    let release = (|| {
        Some(Release {
            owner: owner?,
            allow_missing: wire.allow_missing,
            if_revision: if_revision?,
            fence: wire.fence,
        })
    })();
    errors.finish(release)
}

fn if_refused(errors: &mut FieldErrors, wire: i32) -> Option<IfRefused> {
    use v1::allocate_request::IfRefused as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Unspecified | Wire::Fail) => Some(IfRefused::Fail),
        Ok(Wire::Queue) => Some(IfRefused::Queue),
        Err(_) => {
            errors.add("if_refused", format!("unknown value {wire}"));
            None
        }
    }
}

/// Labels, in whatever map the message has them.
type Pairs<'a> = Vec<(&'a String, &'a String)>;

/// The fields that `AllocateRequest` and `Claim` have in common.
struct ClaimFields<'a> {
    ports: &'a [v1::Port],
    families: &'a [i32],
    family_policy: i32,
    dual_stack_pools: i32,
    space: &'a str,
    pool: &'a str,
    reservation: &'a str,
    addresses: &'a [String],
    sharing_key: &'a str,
    backend_key: &'a str,
    labels: Pairs<'a>,
    namespace_labels: Pairs<'a>,
    backends: i32,
}

impl<'a> ClaimFields<'a> {
    fn of_request(wire: &'a v1::AllocateRequest) -> Self {
        Self {
            ports: &wire.ports,
            families: &wire.families,
            family_policy: wire.family_policy,
            dual_stack_pools: wire.dual_stack_pools,
            space: &wire.address_space,
            pool: &wire.pool,
            reservation: &wire.reservation,
            addresses: &wire.addresses,
            sharing_key: &wire.sharing_key,
            backend_key: &wire.backend_key,
            labels: wire.labels.iter().collect(),
            namespace_labels: wire.namespace_labels.iter().collect(),
            backends: wire.backends,
        }
    }

    fn of_claim(wire: &'a v1::Claim) -> Self {
        Self {
            ports: &wire.ports,
            families: &wire.families,
            family_policy: wire.family_policy,
            dual_stack_pools: wire.dual_stack_pools,
            space: &wire.address_space,
            pool: &wire.pool,
            reservation: &wire.reservation,
            addresses: &wire.addresses,
            sharing_key: &wire.sharing_key,
            backend_key: &wire.backend_key,
            labels: wire.labels.iter().collect(),
            namespace_labels: wire.namespace_labels.iter().collect(),
            backends: wire.backends,
        }
    }
}

fn claim_fields(errors: &mut FieldErrors, wire: &ClaimFields<'_>) -> Option<Claim> {
    let ports = ports(errors, wire.ports);
    let families = families(errors, wire.families, wire.family_policy);
    let space = errors.space("address_space", wire.space);
    let pool = errors.optional_name("pool", wire.pool);
    let reservation = errors.optional_name("reservation", wire.reservation);
    let addresses = addresses(errors, "addresses", wire.addresses);
    let families = match (&addresses, families) {
        (Some(addresses), Some(families)) => explicit_families(errors, addresses, families),
        (_, families) => families,
    };
    let dual_stack_pools = match (families, &pool) {
        (Some(families), Some(pool)) => {
            dual_stack_pools(errors, wire.dual_stack_pools, families, pool.as_ref())
        }
        (None, _) | (_, None) => None,
    };
    let sharing_key = errors.text("sharing_key", wire.sharing_key, MAX_KEY_BYTES);
    let backend_key = errors.text("backend_key", wire.backend_key, MAX_KEY_BYTES);
    let labels = errors.labels("labels", wire.labels.iter().copied());
    let namespace_labels = errors.labels("namespace_labels", wire.namespace_labels.iter().copied());
    let backends = backends_policy(errors, wire.backends);
    Some(Claim {
        space: space?,
        families: families?,
        dual_stack_pools: dual_stack_pools?,
        pool: pool?,
        reservation: reservation?,
        addresses: addresses?,
        ports: ports?,
        sharing_key: sharing_key?,
        backend_key: backend_key?,
        labels: labels?,
        namespace_labels: namespace_labels?,
        backends: backends?,
    })
}

fn ports(errors: &mut FieldErrors, wire: &[v1::Port]) -> Option<Vec<Port>> {
    if wire.len() > MAX_PORTS {
        errors.add("ports", format!("at most {MAX_PORTS} are allowed"));
        return None;
    }
    let read: Vec<Option<Port>> = wire
        .iter()
        .enumerate()
        .map(|(index, port)| {
            let protocol = match v1::port::Protocol::try_from(port.protocol) {
                Ok(v1::port::Protocol::Tcp) => Some(Protocol::Tcp),
                Ok(v1::port::Protocol::Udp) => Some(Protocol::Udp),
                Ok(v1::port::Protocol::Sctp) => Some(Protocol::Sctp),
                Ok(v1::port::Protocol::Unspecified) | Err(_) => {
                    let path = format!("ports[{index}].protocol");
                    errors.add(path, "must be TCP, UDP or SCTP");
                    None
                }
            };
            let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
            if number.is_none() {
                let message = format!("must be 1 to 65535, not {}", port.port);
                errors.add(format!("ports[{index}].port"), message);
            }
            Some(Port {
                protocol: protocol?,
                number: number?,
            })
        })
        .collect();
    let mut ports = read.into_iter().collect::<Option<Vec<Port>>>()?;
    ports.sort();
    ports.dedup();
    Some(ports)
}

/// Reads addresses, sorts them and drops repetitions.
pub(super) fn addresses(
    errors: &mut FieldErrors,
    field: &str,
    wire: &[String],
) -> Option<Vec<Address>> {
    let read: Vec<Option<Address>> = wire
        .iter()
        .enumerate()
        .map(|(index, text)| errors.address(format_args!("{field}[{index}]"), text))
        .collect();
    let mut addresses = read.into_iter().collect::<Option<Vec<Address>>>()?;
    addresses.sort_by_key(|address| (address.family(), *address));
    addresses.dedup();
    Some(addresses)
}

fn families(errors: &mut FieldErrors, wire: &[i32], policy: i32) -> Option<Families> {
    use v1::claim::FamilyPolicy;
    let mut families = Vec::with_capacity(wire.len());
    for (index, value) in wire.iter().enumerate() {
        match v1::ip_family::Value::try_from(*value) {
            Ok(v1::ip_family::Value::Ipv4) => families.push(Family::V4),
            Ok(v1::ip_family::Value::Ipv6) => families.push(Family::V6),
            Ok(v1::ip_family::Value::Unspecified) | Err(_) => {
                errors.add(format!("families[{index}]"), "must be IPV4 or IPV6");
                return None;
            }
        }
    }
    let Ok(policy) = FamilyPolicy::try_from(policy) else {
        errors.add("family_policy", format!("unknown value {policy}"));
        return None;
    };
    let mut refuse = |field: &str, message: &str| {
        errors.add(field, message);
        None
    };
    match (families.as_slice(), policy) {
        ([], FamilyPolicy::Unspecified | FamilyPolicy::SingleStack) => Some(Families::Any),
        ([one], FamilyPolicy::Unspecified | FamilyPolicy::SingleStack) => Some(Families::One(*one)),
        ([] | [_], FamilyPolicy::PreferDualStack | FamilyPolicy::RequireDualStack) => {
            refuse("family_policy", "a dual-stack policy needs both families")
        }
        ([first, second], _) if first == second => refuse("families[1]", "is given twice"),
        ([_, _], FamilyPolicy::Unspecified | FamilyPolicy::RequireDualStack) => {
            Some(Families::Both)
        }
        ([first, _], FamilyPolicy::PreferDualStack) => Some(Families::PreferBoth { first: *first }),
        ([_, _], FamilyPolicy::SingleStack) => {
            refuse("family_policy", "SINGLE_STACK takes at most one family")
        }
        ([_, _, ..], _) => refuse("families", "at most one of each family"),
    }
}

/// Explicit addresses must fit the families; two of them without families mean both.
fn explicit_families(
    errors: &mut FieldErrors,
    addresses: &[Address],
    families: Families,
) -> Option<Families> {
    let mut refuse = |message: String| {
        errors.add("addresses", message);
        None
    };
    match (addresses, families) {
        ([], _) => Some(families),
        ([first, second], _) if first.family() == second.family() => refuse(format!(
            "{first} and {second} are of one family; at most one address of each family"
        )),
        ([_, _, _, ..], _) => refuse("at most one address of each family".to_owned()),
        ([one], Families::One(family)) if one.family() != family => refuse(format!(
            "{one} is an {} address, but families asks for {family}",
            one.family()
        )),
        ([one], Families::Both) => refuse(format!(
            "families asks for both families, but {one} is the only address"
        )),
        ([_, _], Families::One(family)) => refuse(format!(
            "two addresses, but families asks for {family} only"
        )),
        ([_], Families::Any | Families::One(_) | Families::PreferBoth { .. }) => Some(families),
        ([_, _], Families::Any) => Some(Families::Both),
        ([_, _], Families::PreferBoth { .. } | Families::Both) => Some(families),
    }
}

/// Two pools make sense for two families, and not where one pool is named.
fn dual_stack_pools(
    errors: &mut FieldErrors,
    wire: i32,
    families: Families,
    pool: Option<&Name>,
) -> Option<DualStackPools> {
    use v1::claim::DualStackPools as Wire;
    let both = match families {
        Families::Both | Families::PreferBoth { .. } => true,
        Families::Any | Families::One(_) => false,
    };
    let mut refuse = |message: String| {
        errors.add("dual_stack_pools", message);
        None
    };
    match Wire::try_from(wire) {
        Ok(Wire::Unspecified | Wire::OnePool) => Some(DualStackPools::OnePool),
        Ok(Wire::AnyPools) if !both => refuse("ANY_POOLS needs both families".to_owned()),
        Ok(Wire::AnyPools) if pool.is_some() => {
            refuse("ANY_POOLS does not go with a pool that is named".to_owned())
        }
        Ok(Wire::AnyPools) => Some(DualStackPools::AnyPools),
        Err(_) => refuse(format!("unknown value {wire}")),
    }
}

fn backends_policy(errors: &mut FieldErrors, wire: i32) -> Option<BackendsPolicy> {
    match v1::claim::Backends::try_from(wire) {
        Ok(v1::claim::Backends::Unspecified | v1::claim::Backends::Unmanaged) => {
            Some(BackendsPolicy::Unmanaged)
        }
        Ok(v1::claim::Backends::Reported) => Some(BackendsPolicy::Reported),
        Err(_) => {
            errors.add("backends", format!("unknown value {wire}"));
            None
        }
    }
}

/// A claim as it was stored.
pub fn claim_from_wire(errors: &mut FieldErrors, wire: &v1::Claim) -> Option<Claim> {
    claim_fields(errors, &ClaimFields::of_claim(wire))
}

/// A claim, back to the wire.
pub fn claim_to_wire(claim: &Claim) -> v1::Claim {
    use v1::claim::FamilyPolicy;
    let (families, policy) = match claim.families {
        Families::Any => (vec![], FamilyPolicy::SingleStack),
        Families::One(family) => (vec![family], FamilyPolicy::SingleStack),
        Families::PreferBoth { first } => {
            let second = match first {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            };
            (vec![first, second], FamilyPolicy::PreferDualStack)
        }
        Families::Both => (Family::ALL.to_vec(), FamilyPolicy::RequireDualStack),
    };
    v1::Claim {
        ports: claim.ports.iter().map(|port| port_to_wire(*port)).collect(),
        families: families.into_iter().map(family_to_wire).collect(),
        family_policy: policy.into(),
        // The default is left out: rows that were stored before there was a choice read the same.
        dual_stack_pools: match claim.dual_stack_pools {
            DualStackPools::OnePool => v1::claim::DualStackPools::Unspecified,
            DualStackPools::AnyPools => v1::claim::DualStackPools::AnyPools,
        }
        .into(),
        address_space: claim.space.as_str().to_owned(),
        pool: claim
            .pool
            .as_ref()
            .map_or_else(String::new, |pool| pool.as_str().to_owned()),
        reservation: claim
            .reservation
            .as_ref()
            .map_or_else(String::new, |name| name.as_str().to_owned()),
        addresses: claim.addresses.iter().map(Address::to_string).collect(),
        sharing_key: claim.sharing_key.clone(),
        backend_key: claim.backend_key.clone(),
        labels: claim.labels.clone(),
        namespace_labels: claim.namespace_labels.clone(),
        backends: match claim.backends {
            BackendsPolicy::Unmanaged => v1::claim::Backends::Unmanaged,
            BackendsPolicy::Reported => v1::claim::Backends::Reported,
        }
        .into(),
    }
}

/// A family, to the wire.
pub fn family_to_wire(family: Family) -> i32 {
    match family {
        Family::V4 => v1::ip_family::Value::Ipv4,
        Family::V6 => v1::ip_family::Value::Ipv6,
    }
    .into()
}

fn port_to_wire(port: Port) -> v1::Port {
    v1::Port {
        protocol: match port.protocol {
            Protocol::Tcp => v1::port::Protocol::Tcp,
            Protocol::Udp => v1::port::Protocol::Udp,
            Protocol::Sctp => v1::port::Protocol::Sctp,
        }
        .into(),
        port: u32::from(port.number),
    }
}

#[cfg(test)]
mod tests;
