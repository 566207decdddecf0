//! `BGPAdvertisement`, and what all objects about BGP amount to.

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;

use super::community::Community;
use super::findings::Problems;
use super::peer::Peer;
use super::profile::Profile;
use super::{Declared, limits, messages, own, selector};
use crate::claim::Settings;
use crate::crd::BgpSpec;

/// Without aggregation each address is announced by itself.
const WHOLE_V4: u8 = 32;
const WHOLE_V6: u8 = 128;

/// What is declared about BGP: who is talked to, and what is announced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bgp {
    pub peers: Vec<Peer>,
    pub profiles: Vec<Profile>,
    pub advertisements: Vec<Advertisement>,
}

/// Announces pools to routers.
#[derive(Debug, Clone, PartialEq)]
pub struct Advertisement {
    pub name: String,
    /// Bits of the prefixes that are announced, IPv4.
    pub length_v4: u8,
    /// The same for IPv6.
    pub length_v6: u8,
    /// 0: none is sent.
    pub local_pref: u32,
    pub communities: BTreeSet<Community>,
    /// Names that no Community gives yet. Its routes have to wait for them: the one that is missing
    /// may be what keeps them from spreading.
    pub unknown_communities: Vec<String>,
    pub pools: Vec<String>,
    pub pool_selectors: Vec<v1::LabelSelector>,
    pub node_selectors: Vec<v1::LabelSelector>,
    pub service_selectors: Vec<v1::LabelSelector>,
    /// Of the pools.
    pub address_space: String,
    /// BGPPeers by name; none: all.
    pub peers: Vec<String>,
}

pub(super) fn parse(
    (declared, spec): (&Declared<BgpSpec>, &BgpSpec),
    aliases: &BTreeMap<&str, Community>,
    settings: &Settings,
    problems: &mut Problems<'_>,
) -> Advertisement {
    let name = format!("{}{}", messages::PREFIX, declared.name);
    limits::check_name("metadata.name".to_owned(), &name, problems);
    for (field, names) in [
        ("spec.ipAddressPools", &spec.pools),
        ("spec.peers", &spec.peers),
    ] {
        limits::check_names(field, names, problems);
    }
    for (field, names) in [
        ("spec.ipAddressPools", &spec.pools),
        ("spec.communities", &spec.communities),
        ("spec.peers", &spec.peers),
    ] {
        limits::check_parts(field, names, problems);
    }
    for (field, selectors) in [
        ("spec.ipAddressPoolSelectors", &spec.pool_selectors),
        ("spec.nodeSelectors", &spec.node_selectors),
        ("spec.serviceSelectors", &spec.service_selectors),
    ] {
        limits::check_parts(field, selectors, problems);
    }
    problems.no_repetition("spec.ipAddressPools", &spec.pools);
    let words = "duplicate definition of community";
    problems.no_repetition_or(words, "spec.communities", &spec.communities);
    problems.no_repetition("spec.peers", &spec.peers);
    let (length_v4, length_v6) = lengths(spec, problems);
    let (communities, unknown_communities) = communities(spec, aliases, problems);
    let mut selectors = |field: &str, selectors| selector::convert_all(field, selectors, problems);
    Advertisement {
        name: declared.name.clone(),
        length_v4,
        length_v6,
        local_pref: spec.local_pref,
        communities,
        unknown_communities,
        pools: spec.pools.clone(),
        pool_selectors: selectors("spec.ipAddressPoolSelectors", &spec.pool_selectors),
        node_selectors: selectors("spec.nodeSelectors", &spec.node_selectors),
        service_selectors: selectors("spec.serviceSelectors", &spec.service_selectors),
        address_space: own::space_of(&declared.annotations, settings, problems),
        peers: spec.peers.clone(),
    }
}

/// One that cannot be is told, and counts as no aggregation.
fn lengths(spec: &BgpSpec, problems: &mut Problems<'_>) -> (u8, u8) {
    let mut length = |field: &str, given: Option<i32>, least: u8, whole: u8, family: &str| {
        let given = given.unwrap_or_else(|| i32::from(whole));
        let length = u8::try_from(given).ok();
        let length = length.filter(|length| (least..=whole).contains(length));
        let field = format!("spec.{field}");
        match length {
            None => {
                let message = format!("invalid aggregation length {given} for {family}");
                problems.add(field, message);
            }
            Some(length) if length != whole && !spec.service_selectors.is_empty() => {
                let name = field.trim_start_matches("spec.");
                let message = format!(
                    "serviceSelectors and {name} are mutually exclusive: with serviceSelectors it \
                     must be {whole}"
                );
                problems.add(field, message);
            }
            Some(_) => {}
        }
        length.unwrap_or(whole)
    };
    (
        length(
            "aggregationLength",
            spec.aggregation_length,
            1,
            WHOLE_V4,
            "IPv4",
        ),
        length(
            "aggregationLengthV6",
            spec.aggregation_length_v6,
            0,
            WHOLE_V6,
            "IPv6",
        ),
    )
}

/// What a text stands for, and the names that stand for nothing yet.
fn communities(
    spec: &BgpSpec,
    aliases: &BTreeMap<&str, Community>,
    problems: &mut Problems<'_>,
) -> (BTreeSet<Community>, Vec<String>) {
    let mut known = BTreeSet::new();
    let mut unknown = Vec::new();
    for (index, text) in spec.communities.iter().enumerate() {
        let field = format!("spec.communities[{index}]");
        if let Some(community) = aliases.get(text.as_str()) {
            known.insert(*community);
        } else if text.contains(':') {
            match Community::parse(text) {
                Ok(community) => {
                    known.insert(community);
                }
                Err(error) => {
                    let message =
                        format!("invalid community {text:?} in BGP advertisement: {error}");
                    problems.add(field, message);
                }
            }
        } else {
            unknown.push(text.clone());
        }
    }
    (known, unknown)
}
