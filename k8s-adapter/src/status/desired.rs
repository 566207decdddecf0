//! What status objects should say, from what is known. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::object::{Body, StatusKind, Topic, Validity, Verdict};
use super::picture::Picture;
use super::silence::Silences;
use crate::claim::{address_space, is_ours};
use crate::crd::{Interface, ServiceL2, SessionState};
use crate::index::Kind;
use crate::policy::{Configuration, Endpoint, Peer, Severity};
use crate::service::ServiceState;
use crate::world::World;

/// Name of the verdict on what is declared.
pub const CONTROLLER: &str = "controller";
/// Longest summary, in bytes: a condition has no room for more.
const LONGEST: usize = 32 * 1024;
/// Room in it for the line that says how many errors are left out.
const ROOM_FOR_REST: usize = 32;
/// A session that nobody has opened yet (RFC 4271 section 8.2.2). No announcer speaks BGP.
const IDLE: &str = "Idle";
/// There is no BFD session either.
const NO_BFD: &str = "N/A";

/// What should be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub objects: BTreeMap<Topic, Body>,
    /// Kinds of which enough is known: nothing but `objects` is true of these.
    pub known: BTreeSet<StatusKind>,
    /// What is said about these stays for now, whatever it is.
    pub kept: BTreeSet<Topic>,
}

/// Where it follows from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    pub world: &'a World,
    /// None: not known.
    pub configuration: Option<&'a Configuration>,
    /// What ipam-service does not take of it is known, if there is such a thing.
    pub heard: bool,
    pub silences: &'a Silences,
    pub now: Instant,
}

/// What should be said.
pub fn desired(sources: Sources<'_>) -> Desired {
    let mut desired = Desired::default();
    // Services that were not listed yet are not gone.
    let listed = sources.world.index.has(Kind::Services);
    if let Some(picture) = sources.world.announced.as_ref().filter(|_| listed) {
        announced(sources, picture, &mut desired);
    }
    if let Some(configuration) = sources.configuration {
        let verdict = verdict(configuration, sources.world);
        // That nothing is wrong with what is declared does not say that ipam-service takes it.
        if sources.heard || verdict.result == Validity::Invalid {
            let topic = Topic::Configuration(CONTROLLER.to_owned());
            desired.objects.insert(topic, Body::Configuration(verdict));
            desired.known.insert(StatusKind::Configuration);
        }
        let index = &sources.world.index;
        let listed = index.has(Kind::Nodes) && index.has(Kind::BgpPeers);
        if let Ok(bgp) = configuration.bgp()
            && listed
        {
            sessions(sources.world, &bgp.peers, &mut desired);
        }
    }
    desired
}

/// Services of this adapter that have an address.
pub fn served(world: &World) -> impl Iterator<Item = &ServiceState> {
    let services = world.index.services().map(std::convert::AsRef::as_ref);
    services.filter(|service| {
        is_ours(service, &world.settings).is_ok() && !service.addresses().is_empty()
    })
}

fn announced(sources: Sources<'_>, picture: &Picture, desired: &mut Desired) {
    desired.known.insert(StatusKind::L2);
    for service in served(sources.world) {
        let space = address_space(service, &sources.world.settings);
        let topic = Topic::L2(service.key.clone());
        match picture.answerer(space, service) {
            Some(answerer) => {
                let interfaces = answerer.interfaces.iter();
                let body = ServiceL2 {
                    node: answerer.node.clone(),
                    service_name: service.key.name.clone(),
                    service_namespace: service.key.namespace.clone(),
                    interfaces: interfaces
                        .map(|name| Interface { name: name.clone() })
                        .collect(),
                };
                desired.objects.insert(topic, Body::L2(body));
            }
            None if sources.silences.lasts(&service.key, sources.now) => {}
            None => {
                desired.kept.insert(topic);
            }
        }
    }
}

fn sessions(world: &World, peers: &[Peer], desired: &mut Desired) {
    desired.known.insert(StatusKind::Session);
    for node in world.index.nodes() {
        for peer in peers.iter().filter(|peer| peer.selects(node)) {
            let state = SessionState {
                node: node.name.clone(),
                peer: router(&peer.endpoint),
                vrf: peer.vrf.clone().unwrap_or_default(),
                bgp_status: IDLE.to_owned(),
                bfd_status: NO_BFD.to_owned(),
            };
            let topic = Topic::Session {
                node: state.node.clone(),
                peer: state.peer.clone(),
                vrf: state.vrf.clone(),
            };
            desired.objects.insert(topic, Body::Session(state));
        }
    }
}

/// As frr-k8s has it, whose label takes no colon.
fn router(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Address(IpAddr::V6(address)) => {
            let parts = address.segments().map(|part| format!("{part:04x}"));
            parts.join("-")
        }
        Endpoint::Address(IpAddr::V4(_)) | Endpoint::Interface(_) => endpoint.to_string(),
    }
}

/// The verdict on what is declared: what is wrong with it, and what keeps it from being in force.
fn verdict(configuration: &Configuration, world: &World) -> Verdict {
    let findings = configuration.findings().iter();
    let errors = findings.filter(|finding| finding.severity == Severity::Error);
    let mut lines: BTreeSet<String> = errors.map(|error| line(&error.to_string())).collect();
    lines.extend(world.refusals().map(line));
    let doubts: Vec<String> = world.all_doubts().map(line).collect();
    let result = match (lines.is_empty(), doubts.is_empty()) {
        (false, _) => Validity::Invalid,
        (true, false) => Validity::Unknown,
        (true, true) => Validity::Valid,
    };
    let lines: Vec<String> = lines.into_iter().chain(doubts).collect();
    Verdict {
        result,
        summary: summary(&lines),
    }
}

fn line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// All lines, or as many as fit.
fn summary(lines: &[String]) -> String {
    let mut summary = String::new();
    for (number, line) in lines.iter().enumerate() {
        if summary.len() + line.len() + 1 + ROOM_FOR_REST > LONGEST {
            return format!("{summary}and {} more", lines.len() - number);
        }
        summary.push_str(line);
        summary.push('\n');
    }
    summary.trim_end().to_owned()
}

#[cfg(test)]
mod tests;
