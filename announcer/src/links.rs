//! The network interfaces of this node: which there are, and which may answer ARP.
//!
//! They are learnt from the kernel by events (rtnetlink), never by polling. What makes an
//! interface usable is [`Link::unusable`], which is pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use pnet_base::MacAddr;
use regex::Regex;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::watch;

use crate::l2::responder::Port;

/// The interfaces that MetalLB excludes by default, as it writes them.
const DEFAULT_EXCLUSIONS: [&str; 14] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
];

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<MacAddr>,
    pub up: bool,
    pub carrier: bool,
    pub broadcast: bool,
    pub no_arp: bool,
    pub has_master: bool,
}

/// Why ARP is not answered on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    NotAllowed,
    Down,
    NoCarrier,
    NoBroadcast,
    NoArp,
    /// Part of a bond, bridge or VRF, which answers instead.
    HasMaster,
    NoMac,
}

/// All interfaces, by index.
pub type Links = Arc<BTreeMap<u32, Link>>;

/// Which interfaces may answer.
#[derive(Debug, Clone)]
pub struct InterfaceRules {
    /// Whole names; empty: all but the default exclusions.
    allowed: Vec<Regex>,
    excluded: Vec<Regex>,
}

impl InterfaceRules {
    /// Patterns for whole names; none: all interfaces but MetalLB's default exclusions.
    pub fn new(patterns: &[String]) -> Result<Self, regex::Error> {
        let whole = |pattern: &String| Regex::new(&format!("^(?:{pattern})$"));
        let excluded: &[&str] = if patterns.is_empty() {
            &DEFAULT_EXCLUSIONS
        } else {
            &[]
        };
        Ok(Self {
            allowed: patterns.iter().map(whole).collect::<Result<_, _>>()?,
            excluded: excluded
                .iter()
                .map(|pattern| Regex::new(pattern))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether an interface of this name may answer.
    pub fn allows(&self, name: &str) -> bool {
        if self.allowed.is_empty() {
            !self.excluded.iter().any(|pattern| pattern.is_match(name))
        } else {
            self.allowed.iter().any(|pattern| pattern.is_match(name))
        }
    }

    /// The interfaces that can answer now.
    pub fn usable(&self, links: &Links) -> Vec<Port> {
        links
            .values()
            .filter(|link| link.unusable(self).is_none())
            .filter_map(|link| {
                Some(Port {
                    index: link.index,
                    name: link.name.clone(),
                    mac: link.mac?,
                })
            })
            .collect()
    }
}

impl Link {
    /// Why it cannot answer ARP; `None` if it can.
    pub fn unusable(&self, rules: &InterfaceRules) -> Option<Unusable> {
        if !rules.allows(&self.name) {
            return Some(Unusable::NotAllowed);
        }
        let checks = [
            (!self.up, Unusable::Down),
            (!self.carrier, Unusable::NoCarrier),
            (!self.broadcast, Unusable::NoBroadcast),
            (self.no_arp, Unusable::NoArp),
            (self.has_master, Unusable::HasMaster),
            (self.mac.is_none(), Unusable::NoMac),
        ];
        checks
            .into_iter()
            .find_map(|(failed, why)| failed.then_some(why))
    }

    fn from_message(message: &LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            broadcast: flags.contains(LinkFlags::Broadcast),
            no_arp: flags.contains(LinkFlags::Noarp),
            has_master: false,
        };
        for attribute in &message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                link.name.clone_from(name);
            } else if let LinkAttribute::Address(bytes) = attribute {
                let octets: Option<[u8; 6]> = bytes.as_slice().try_into().ok();
                link.mac = octets.map(MacAddr::from).filter(|mac| !mac.is_zero());
            } else if let LinkAttribute::Controller(index) = attribute {
                link.has_master = *index != 0;
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

/// Follows the interfaces of this network namespace for ever; ends only with an error. The first
/// value is published once all of them are known.
pub async fn follow(publish: watch::Sender<Option<Links>>) -> anyhow::Result<()> {
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).context("netlink socket")?;
    // Ends with the handle below.
    let connection = tokio::spawn(connection);
    let _stop = AbortOnDrop(connection);
    let mut links = dump(&handle).await?;
    publish.send_replace(Some(Arc::new(links.clone())));
    while let Some((message, _)) = messages.next().await {
        let before = links.clone();
        let inner = match message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            NetlinkPayload::Overrun(_) => {
                tracing::warn!("interface events were lost: reading all interfaces again");
                links = dump(&handle).await?;
                publish.send_replace(Some(Arc::new(links.clone())));
                continue;
            }
            other @ (NetlinkPayload::Done(_)
            | NetlinkPayload::Error(_)
            | NetlinkPayload::Noop
            | _) => {
                tracing::debug!(?other, "not an event of an interface");
                continue;
            }
        };
        if let RouteNetlinkMessage::NewLink(message) = inner {
            if let Some(link) = Link::from_message(&message) {
                links.insert(link.index, link);
            }
        } else if let RouteNetlinkMessage::DelLink(message) = inner
            // A bridge reports a port that leaves it in the same way, under its own family.
            && u8::from(message.header.interface_family) == 0
        {
            links.remove(&message.header.index);
        }
        if links != before {
            publish.send_replace(Some(Arc::new(links.clone())));
        }
    }
    anyhow::bail!("netlink connection ended")
}

async fn dump(handle: &rtnetlink::Handle) -> anyhow::Result<BTreeMap<u32, Link>> {
    let messages: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .context("cannot list interfaces")?;
    Ok(messages
        .iter()
        .filter_map(Link::from_message)
        .map(|link| (link.index, link))
        .collect())
}

/// Stops a task when its owner ends.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(change: impl Fn(&mut Link)) -> Link {
        let mut link = Link {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some(MacAddr(2, 0, 0, 0, 0, 1)),
            up: true,
            carrier: true,
            broadcast: true,
            no_arp: false,
            has_master: false,
        };
        change(&mut link);
        link
    }

    #[test]
    fn every_way_to_be_unusable_has_its_name() {
        let rules = InterfaceRules::new(&[]).expect("valid");
        type Change = fn(&mut Link);
        let cases: [(Change, Option<Unusable>); 9] = [
            (|_| {}, None),
            (
                |link| link.name = "veth1".to_owned(),
                Some(Unusable::NotAllowed),
            ),
            (
                |link| link.name = "lo".to_owned(),
                Some(Unusable::NotAllowed),
            ),
            (|link| link.up = false, Some(Unusable::Down)),
            (|link| link.carrier = false, Some(Unusable::NoCarrier)),
            (|link| link.broadcast = false, Some(Unusable::NoBroadcast)),
            (|link| link.no_arp = true, Some(Unusable::NoArp)),
            (|link| link.has_master = true, Some(Unusable::HasMaster)),
            (|link| link.mac = None, Some(Unusable::NoMac)),
        ];
        for (change, expected) in cases {
            let link = link(change);
            assert_eq!(link.unusable(&rules), expected, "{link:?}");
        }
    }

    #[test]
    fn the_default_exclusions_are_those_of_metallb() {
        let rules = InterfaceRules::new(&[]).expect("valid");
        for name in [
            "docker0",
            "cali123",
            "lo",
            "kube-ipvs0",
            "cni0",
            "lxc5",
            "flannel.1",
        ] {
            assert!(!rules.allows(name), "{name}");
        }
        for name in ["eth0", "lo1", "bond0", "enp3s0", "br0", "myveth"] {
            assert!(rules.allows(name), "{name}");
        }
    }

    #[test]
    fn named_interfaces_are_matched_whole_and_replace_the_exclusions() {
        let patterns = ["veth0".to_owned(), "bond[01]".to_owned()];
        let rules = InterfaceRules::new(&patterns).expect("valid");
        for name in ["veth0", "bond0", "bond1"] {
            assert!(rules.allows(name), "{name}");
        }
        for name in ["veth01", "xveth0", "bond2", "eth0"] {
            assert!(!rules.allows(name), "{name}");
        }
        assert!(InterfaceRules::new(&["(".to_owned()]).is_err());
    }
}
