//! How an advertisement announces: wire <-> domain.

use std::collections::BTreeSet;

use pharos_proto::v1;
use pharos_proto::v1::advertisement as wire_advertisement;
use pharos_proto::v1::advertisement::l2::Ownership;

use super::{bound, names};
use crate::api::convert_bgp::narrow;
use crate::api::fields::{FieldErrors, selector_to_wire};
use crate::state::bgp::community::Community;
use crate::state::model::{
    AdvertisementProtocol, Ownership as Promise, PreferredNodes, RouteAttributes,
};
use crate::state::names::Name;

/// Bits of an address: without aggregation each is announced by itself.
const WHOLE_V4: u8 = 32;
const WHOLE_V6: u8 = 128;

/// Greatest weight of a preference (as Kubernetes' `preferredDuringScheduling...`).
const MAX_WEIGHT: u32 = 100;

/// The protocol of an advertisement, whose path is `field`.
pub(super) fn protocol_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: &v1::Advertisement,
) -> Option<AdvertisementProtocol> {
    match &wire.protocol {
        Some(wire_advertisement::Protocol::L2(l2)) => {
            l2_from_wire(errors, &format!("{field}.l2"), l2)
        }
        Some(wire_advertisement::Protocol::Bgp(bgp)) => {
            let of_some = !wire.service_selectors.is_empty();
            bgp_from_wire(errors, &format!("{field}.bgp"), bgp, of_some)
        }
        None => {
            let message = "it or bgp is required: how the addresses are announced";
            errors.add(format!("{field}.l2"), message);
            None
        }
    }
}

/// The same, back to the wire.
pub(super) fn protocol_to_wire(protocol: &AdvertisementProtocol) -> wire_advertisement::Protocol {
    match protocol {
        AdvertisementProtocol::L2 {
            interfaces,
            preferred_nodes,
            ownership,
        } => wire_advertisement::Protocol::L2(wire_advertisement::L2 {
            interfaces: interfaces.iter().cloned().collect(),
            preferred_nodes: preferred_nodes
                .iter()
                .map(|preference| wire_advertisement::PreferredNodes {
                    weight: preference.weight,
                    selector: Some(selector_to_wire(&preference.selector)),
                })
                .collect(),
            ownership: match ownership {
                Promise::Available => Ownership::Available.into(),
                Promise::Fenced => Ownership::Fenced.into(),
            },
        }),
        AdvertisementProtocol::Bgp(attributes) => {
            wire_advertisement::Protocol::Bgp(bgp_to_wire(attributes))
        }
    }
}

// === Layer 2 ===

fn l2_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: &wire_advertisement::L2,
) -> Option<AdvertisementProtocol> {
    let ownership = match Ownership::try_from(wire.ownership) {
        Ok(Ownership::Unspecified | Ownership::Available) => Some(Promise::Available),
        Ok(Ownership::Fenced) => Some(Promise::Fenced),
        Err(_) => {
            let message = format!("unknown value {}", wire.ownership);
            errors.add(format!("{field}.ownership"), message);
            None
        }
    };
    let path = format!("{field}.interfaces");
    bound(errors, &path, wire.interfaces.len());
    let interfaces = names(errors, &path, &wire.interfaces);
    let path = format!("{field}.preferred_nodes");
    bound(errors, &path, wire.preferred_nodes.len());
    let preferred_nodes: Vec<_> = wire
        .preferred_nodes
        .iter()
        .enumerate()
        .map(|(index, wire)| preference(errors, &format!("{path}[{index}]"), wire))
        .collect();
    let ownership = ownership?;
    let interfaces = interfaces?.into_iter();
    Some(AdvertisementProtocol::L2 {
        interfaces: interfaces.map(|name| name.as_str().to_owned()).collect(),
        preferred_nodes: preferred_nodes.into_iter().collect::<Option<_>>()?,
        ownership,
    })
}

fn preference(
    errors: &mut FieldErrors,
    field: &str,
    wire: &wire_advertisement::PreferredNodes,
) -> Option<PreferredNodes> {
    let weight = (1..=MAX_WEIGHT).contains(&wire.weight);
    if !weight {
        let message = format!("must be 1 to {MAX_WEIGHT}, not {}", wire.weight);
        errors.add(format!("{field}.weight"), message);
    }
    let path = format!("{field}.selector");
    let selector = errors
        .required(&path, wire.selector.as_ref())
        .and_then(|selector| errors.selector(&path, selector));
    Some(PreferredNodes {
        weight: weight.then_some(wire.weight)?,
        selector: selector?,
    })
}

// === BGP ===

/// `of_some`: the advertisement selects allocations.
fn bgp_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: &wire_advertisement::Bgp,
    of_some: bool,
) -> Option<AdvertisementProtocol> {
    let path = format!("{field}.peers");
    bound(errors, &path, wire.peers.len());
    let peers = names(errors, &path, &wire.peers);
    let mut length = |name: &str, wire: Option<u32>, least: u32, whole: u8| -> Option<u8> {
        let path = format!("{field}.{name}");
        let length = narrow(errors, &path, wire, least..=u32::from(whole))?;
        let length = length.unwrap_or(whole);
        if of_some && length != whole {
            let message = format!(
                "must be {whole} with service_selectors: the prefix would be about other \
                 services, too"
            );
            errors.add(path, message);
            return None;
        }
        Some(length)
    };
    let length_v4 = length("aggregation_length", wire.aggregation_length, 1, WHOLE_V4);
    let v6 = "aggregation_length_v6";
    let length_v6 = length(v6, wire.aggregation_length_v6, 0, WHOLE_V6);
    let path = format!("{field}.communities");
    bound(errors, &path, wire.communities.len());
    let communities = communities(errors, &path, &wire.communities);
    Some(AdvertisementProtocol::Bgp(RouteAttributes {
        peers: peers?,
        length_v4: length_v4?,
        length_v6: length_v6?,
        local_pref: wire.local_pref,
        communities: communities?,
    }))
}

fn communities(
    errors: &mut FieldErrors,
    path: &str,
    wire: &[String],
) -> Option<BTreeSet<Community>> {
    let read = wire.iter().enumerate().map(|(index, text)| {
        let read = text.parse();
        read.map_err(|error| errors.add(format!("{path}[{index}]"), error))
            .ok()
    });
    // All are looked at, so that each bad one is told of.
    let read: Vec<Option<Community>> = read.collect();
    read.into_iter().collect()
}

fn bgp_to_wire(attributes: &RouteAttributes) -> wire_advertisement::Bgp {
    let communities = attributes.communities.iter();
    wire_advertisement::Bgp {
        peers: attributes.peers.iter().map(Name::to_string).collect(),
        aggregation_length: Some(attributes.length_v4.into()),
        aggregation_length_v6: Some(attributes.length_v6.into()),
        local_pref: attributes.local_pref,
        communities: communities.map(Community::to_string).collect(),
    }
}
