//! Why a Service has no address, or one that nobody answers for: what its conditions are to say. Pure.
//!
//! ipam-service has the reasons; what it cannot know, as which node is cut off and where endpoints are, the
//! adapter adds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::announcement::Reason;

use super::condition::{Said, Truth, Type, Wanted};
use super::lasting::STEADY;
use super::picture::{Conflict, Place};
use crate::claim::{address_space, is_ours};
use crate::eligibility::told;
use crate::notice::{Cause, Notice};
use crate::plan::Link;
use crate::service::{ServiceKey, ServiceState, TrafficPolicy};
use crate::world::World;

/// A trouble shorter than this is not said: endpoints flap, nodes are replaced, pods start.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same for what concerns all Services at once: announcers that are still being installed, or replaced.
pub const PATIENCE_WITH_NODES: Duration = Duration::from_mins(1);
/// Words for what concerns all Services at once.
const OF_ALL_SERVICES: [&str; 4] = [NO_ANNOUNCER, NODES_UNAVAILABLE, NO_LIVE_NODE, NODE_AWAY];
const NO_ANNOUNCER: &str = "NoAnnouncer";
const NODES_UNAVAILABLE: &str = "NodesUnavailable";
const NO_LIVE_NODE: &str = "NoLiveNode";
const NODE_AWAY: &str = "NodeAway";
/// Most nodes that a message names.
const MOST_NAMES: usize = 5;

/// How a Service stands with ipam-service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds addresses.
    Holds,
    /// It has some in its status, and does not hold them as far as is known.
    Shows,
    /// It has none.
    Nothing,
}

impl Standing {
    /// Of a Service that holds addresses, or does not.
    pub fn of(service: &ServiceState, holds: bool) -> Self {
        match (holds, service.ingress.is_empty()) {
            (true, _) => Self::Holds,
            (false, false) => Self::Shows,
            (false, true) => Self::Nothing,
        }
    }
}

/// What the last thing that was told to a Service's owner makes of [`Type::Assigned`]; none if that is no
/// trouble.
pub fn assigned(notice: &Notice, standing: Standing) -> Wanted {
    let (reason, message) = match notice {
        Notice::AllocationFailed { cause, why } => (cause_word(*cause), why.clone()),
        Notice::LoadBalancerFailed(rejection) => {
            ("InvalidRequest".to_owned(), rejection.to_string())
        }
        Notice::NoFamily(rejection) => ("NoUsableFamily".to_owned(), rejection.to_string()),
        Notice::AdoptionConflict { why, .. } => ("AdoptionConflict".to_owned(), why.clone()),
        Notice::NothingGiven => {
            let message = "ipam-service answered without an address and without a reason";
            ("InternalError".to_owned(), message.to_owned())
        }
        Notice::Assigned(_)
        | Notice::AlsoAssigned(_)
        | Notice::Cleared { .. }
        | Notice::NoAdditional { .. }
        | Notice::GatewayNotFollowed { .. }
        | Notice::StrangeStatus(_)
        | Notice::NodeAssigned(_)
        | Notice::NotAnnounced { .. }
        | Notice::DeprecatedAnnotation(_) => return None,
    };
    let truth = match (standing, notice) {
        (_, Notice::AdoptionConflict { .. }) | (Standing::Nothing, _) => Truth::False,
        // It keeps an address, and not by what it asks for now.
        (Standing::Holds, _) => Truth::True,
        // Nobody knows whose the address is.
        (Standing::Shows, _) => Truth::Unknown,
    };
    Some(Said::new(truth, reason, message))
}

fn cause_word(cause: Cause) -> String {
    match cause {
        Cause::Rule(v1::refusal::Reason::Unspecified) | Cause::NotTaken => "Refused".to_owned(),
        Cause::Rule(rule) => camel_case(rule.as_str_name()),
        Cause::InvalidRequest => "InvalidRequest".to_owned(),
        Cause::IpamServiceAway => "IpamServiceAway".to_owned(),
        Cause::InventoryOpen => "InventoryOpen".to_owned(),
        Cause::Failing => "Failing".to_owned(),
    }
}

/// `NO_FREE_ADDRESS` as `NoFreeAddress`.
fn camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        format!("{first}{}", rest.to_ascii_lowercase())
    });
    words.collect()
}

/// How long something has to last before it is said.
pub fn patience(wanted: &Wanted) -> Duration {
    match wanted {
        None => STEADY,
        Some(said) if Type::ALL.iter().any(|of| of.is_good(said)) => STEADY,
        Some(said) if OF_ALL_SERVICES.contains(&said.reason.as_str()) => PATIENCE_WITH_NODES,
        Some(_) => PATIENCE,
    }
}

/// All that conditions should say and do not, and that only this module says: a good word about an address
/// goes with the address itself ([`crate::plan`]).
pub fn differing(world: &World) -> BTreeMap<(ServiceKey, Type), Wanted> {
    let mut differing = BTreeMap::new();
    let services = world.index.services().map(std::convert::AsRef::as_ref);
    for service in services.filter(|service| is_ours(service, &world.settings).is_ok()) {
        let trouble = world.told(service).and_then(|notice| {
            let standing = Standing::of(service, world.holds(service));
            assigned(notice, standing)
        });
        let wanted = [
            (Type::Assigned, trouble.map(Some)),
            (Type::Announced, announced(world, service)),
        ];
        for (of, wanted) in wanted {
            if let Some(wanted) = wanted.filter(|wanted| service.conditions.lacks(of, wanted)) {
                differing.insert((service.key.clone(), of), wanted);
            }
        }
    }
    differing
}

/// What is to be said about who answers for a Service's addresses; `None`: not known, and what is said stays.
pub fn announced(world: &World, service: &ServiceState) -> Option<Wanted> {
    let mut addresses = service.addresses();
    if addresses.is_empty() {
        return Some(None);
    }
    // Without ipam-service nodes go on, and so does what is said of them.
    let picture = world.announced.as_ref()?;
    if world.link != Link::Up {
        return None;
    }
    addresses.sort_unstable();
    let space = address_space(service, &world.settings);
    let mut all_known = true;
    for address in addresses {
        let about = About {
            world,
            service,
            address,
        };
        match about.judge(picture.place(space, address)) {
            Judged::Well => {}
            Judged::NotKnown => all_known = false,
            Judged::Trouble(said) => return Some(Some(said)),
        }
    }
    let good = || Type::Announced.good("nodes answer for all addresses");
    all_known.then(|| Some(good()))
}

/// One address of one Service.
#[derive(Clone, Copy)]
struct About<'a> {
    world: &'a World,
    service: &'a ServiceState,
    address: IpAddr,
}

enum Judged {
    Well,
    NotKnown,
    Trouble(Said),
}

impl About<'_> {
    fn trouble(self, truth: Truth, reason: &str, why: &str) -> Judged {
        let message = format!("{}: {why}", self.address);
        Judged::Trouble(Said::new(truth, reason, message))
    }

    fn silent(self, reason: &str, why: &str) -> Judged {
        self.trouble(Truth::False, reason, why)
    }

    fn judge(self, place: Option<&Place>) -> Judged {
        let Some(place) = place.filter(|place| place.owners.contains(&self.service.key)) else {
            return self.nobodys();
        };
        if place.elsewhere.contains(&self.service.key) {
            return self.left_out(place);
        }
        match place.reason {
            Reason::Unspecified => self.answered(place),
            Reason::Unknown => Judged::NotKnown,
            Reason::NotAdvertised => self.not_advertised(),
            Reason::NoAnnouncer => self.no_announcer(),
            Reason::NoNodeSelected => {
                let why = format!("no live node matches: {}{}", place.detail, self.excluded());
                self.silent("NoNodeSelected", &why)
            }
            Reason::NoReadyEndpoint => self.no_ready_endpoint(place),
            Reason::FeatureMissing => self.silent("FeatureMissing", &place.detail),
            // One may answer all the same.
            Reason::NoLiveNode => {
                let why = format!("no live node matches: {}", place.detail);
                self.trouble(Truth::Unknown, NO_LIVE_NODE, &why)
            }
            Reason::NodeAway => self.trouble(Truth::Unknown, NODE_AWAY, &place.detail),
            Reason::NoOwnerNamed => self.silent("NoLiveLease", &place.detail),
            Reason::Probing => self.probing(place),
            Reason::NoInterface => self.no_interface(place),
            Reason::NotYetAnnounced => self.not_yet(place),
            Reason::BgpNoSession => self.silent("NoBgpSession", &place.detail),
            Reason::ConflictingAdvertisements => {
                self.silent("ConflictingAdvertisements", &place.detail)
            }
        }
    }

    /// It is in the status, and ipam-service does not name the Service as its user.
    fn nobodys(self) -> Judged {
        let entry = self.world.book.get(&self.service.key);
        let answer = entry.and_then(|entry| entry.answer.as_ref());
        let holds = answer.is_some_and(|answer| {
            answer.is_of(&self.service.uid) && answer.addresses().contains(&self.address)
        });
        if holds {
            // It is about to be told.
            return Judged::NotKnown;
        }
        self.silent(
            "NotHeld",
            "ipam-service has not given it to this Service, so no node announces it for it",
        )
    }

    fn left_out(self, place: &Place) -> Judged {
        let others = place.owners.iter();
        let others = others.filter(|owner| !place.elsewhere.contains(*owner));
        let others = listed(others.map(ServiceKey::to_string));
        let why = format!(
            "it is shared with {others}, and no node that announces it can take traffic in for this Service"
        );
        self.silent("NotAnnouncedHere", &why)
    }

    fn not_advertised(self) -> Judged {
        let pool = self.service.from_pool().unwrap_or_default();
        let why = format!("no advertisement selects pool {pool:?} and this Service");
        self.silent("NotAdvertised", &why)
    }

    fn no_announcer(self) -> Judged {
        let mut nodes = self.world.index.nodes();
        let settings = &self.world.settings;
        let is_out = |node: &v1::NodeFact| !told(node, settings).unavailable_reason.is_empty();
        let any = self.world.index.nodes().next().is_some();
        if any && nodes.all(is_out) {
            let why = format!("no live node matches: all are excluded{}", self.excluded());
            return self.silent(NODES_UNAVAILABLE, &why);
        }
        let why = format!(
            "no live node matches: no announcer of a node that may announce has introduced itself{}",
            self.excluded()
        );
        self.silent(NO_ANNOUNCER, &why)
    }

    /// Nodes that may not announce, and why; empty if all may.
    fn excluded(self) -> String {
        let nodes = self.world.index.nodes();
        let nodes = nodes.filter_map(|node| {
            let reason = told(node, &self.world.settings).unavailable_reason;
            (!reason.is_empty()).then(|| format!("{} ({reason})", node.name))
        });
        let names = listed(nodes);
        match names.as_str() {
            "" => names,
            _ => format!("; excluded: {names}"),
        }
    }

    fn no_ready_endpoint(self, place: &Place) -> Judged {
        let why = match (self.backends(), self.service.traffic_policy) {
            (Some(seen), _) if !seen.any_node && seen.nodes.is_empty() => {
                "no ready endpoint".to_owned()
            }
            (Some(seen), TrafficPolicy::Local) => format!(
                "no ready endpoint on a node that may announce it: they are on {}, and \
                 externalTrafficPolicy is Local{}",
                listed(seen.nodes.iter().cloned()),
                self.excluded()
            ),
            // Somebody who shares the address, or the word about endpoints is still on its way.
            (Some(_) | None, _) => place.detail.clone(),
        };
        self.silent("NoReadyEndpoint", &why)
    }

    /// Where the Service has endpoints; none: not known.
    fn backends(self) -> Option<v1::BackendsFact> {
        let world = self.world;
        let backends = world.index.backends(&self.service.key, &world.settings);
        backends.filter(|_| world.can_report_facts())
    }

    /// Somebody answers.
    fn answered(self, place: &Place) -> Judged {
        let has_none = |seen: v1::BackendsFact| !seen.any_node && seen.nodes.is_empty();
        // Who shares an address has no say in it without endpoints.
        if place.owners.len() > 1 && self.backends().is_some_and(has_none) {
            return self.silent("NoReadyEndpoint", "no ready endpoint");
        }
        match place.conflict() {
            None => Judged::Well,
            Some(Conflict {
                node,
                kernel_of: Some(member),
                ..
            }) => {
                let why = format!(
                    "the kernel of node {member} answers for it, too, as node {node} sees \
                     (kube-proxy in ipvs mode needs strictARP)"
                );
                self.trouble(Truth::True, "KernelAnswers", &why)
            }
            // Whom a client reaches is chance.
            Some(conflict) => {
                let why = format!("{}, too", describe(conflict));
                self.trouble(Truth::Unknown, "AddressConflict", &why)
            }
        }
    }

    fn probing(self, place: &Place) -> Judged {
        match place.conflict() {
            Some(conflict) => {
                let why = format!(
                    "{}, and keeps it: it is asked for again every 10 s",
                    describe(conflict)
                );
                self.silent("AddressConflict", &why)
            }
            None => self.silent("Probing", &place.detail),
        }
    }

    fn no_interface(self, place: &Place) -> Judged {
        let node = place.first_without_interface();
        let why = format!(
            "node {node} is to announce it and has none of the interfaces that the advertisements want \
             and its announcer may use"
        );
        self.silent("NoInterface", &why)
    }

    fn not_yet(self, place: &Place) -> Judged {
        let Some(node) = place.nodes.first() else {
            return self.silent("NotYetAnnounced", &place.detail);
        };
        let mut why = format!("node {node} is to announce it and does not say that it does");
        let interfaces = self.named_interfaces();
        if !interfaces.is_empty() {
            let names = listed(interfaces.into_iter().map(str::to_owned));
            why.push_str("; advertisements want it on interfaces ");
            why.push_str(&names);
            why.push_str(" only: a node whose announcer may use none of them answers nowhere");
        }
        self.silent("NotYetAnnounced", &why)
    }

    /// The interfaces that advertisements of the pool name; none, if one that may select it wants every one.
    fn named_interfaces(&self) -> BTreeSet<&str> {
        let pool = self.service.from_pool().unwrap_or_default();
        let mut names = BTreeSet::new();
        for spec in self.world.index.l2_advertisements() {
            let any = spec.pools.is_empty() || !spec.pool_selectors.is_empty();
            if !any && !spec.pools.iter().any(|name| name == pool) {
                continue;
            }
            if spec.interfaces.is_empty() {
                return BTreeSet::new();
            }
            names.extend(spec.interfaces.iter().map(String::as_str));
        }
        names
    }
}

fn describe(conflict: &Conflict) -> String {
    let Conflict {
        node,
        mac,
        interface,
        kernel_of: _,
    } = conflict;
    format!("another machine with MAC {mac} at interface {interface} of node {node} answers for it")
}

/// Names with commas between, as many as people read.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.len().checked_sub(MOST_NAMES) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MOST_NAMES].join(", ")),
    }
}

#[cfg(test)]
mod tests;
