//! Which node answers for which address, as ipam-service tells it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pharos_proto::net::parse_address;
use pharos_proto::v1;
use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcer_report::conflict::Kind;

use crate::service::{ServiceKey, ServiceState};

/// All addresses of the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// By address space and address.
    places: BTreeMap<String, BTreeMap<IpAddr, Place>>,
}

/// An address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Who uses it.
    pub owners: BTreeSet<ServiceKey>,
    /// Those of its users whom its nodes take no traffic in for.
    pub elsewhere: BTreeSet<ServiceKey>,
    /// Nodes that may answer, in order of preference.
    pub nodes: Vec<String>,
    pub answerers: Vec<Answerer>,
    /// Why nobody answers, or is to; unspecified: somebody does.
    pub reason: Reason,
    /// The same in a sentence.
    pub detail: String,
    /// Others that nodes see use the address, by node.
    pub conflicts: Vec<Conflict>,
}

/// Somebody else who uses an address, as one node saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub node: String,
    /// Of the other.
    pub mac: String,
    /// Of the node, on which it was seen.
    pub interface: String,
    /// The node whose kernel it is; none: a machine that is no node.
    pub kernel_of: Option<String>,
}

/// A node that says that it answers for an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answerer {
    pub node: String,
    /// By name; none: nowhere, as it has none of those that are wanted.
    pub interfaces: Vec<String>,
    /// Its stream has ended: it may have died, or go on.
    pub is_unknown: bool,
}

impl Picture {
    /// Takes in what changed.
    pub fn note(&mut self, message: &v1::WatchAnnouncementsResponse) {
        for key in &message.removed {
            if let Ok(address) = parse_address(&key.address)
                && let Some(space) = self.places.get_mut(&key.address_space)
            {
                space.remove(&address);
            }
        }
        for announcement in &message.announcements {
            if let Ok(address) = parse_address(&announcement.address) {
                let space = self.places.entry(announcement.address_space.clone());
                let place = Place::parse(announcement);
                space.or_default().insert(address, place);
            }
        }
    }

    /// An address that is to be announced.
    pub fn place(&self, space: &str, address: IpAddr) -> Option<&Place> {
        self.places.get(space)?.get(&address)
    }

    /// Who answers for a Service, by the first of its addresses that somebody answers for.
    pub fn answerer(&self, space: &str, service: &ServiceState) -> Option<&Answerer> {
        let addresses = service.addresses();
        let mut places = addresses.iter().filter_map(|it| self.place(space, *it));
        places.find_map(|place| place.answerer(&service.key))
    }
}

impl Place {
    fn parse(announcement: &v1::Announcement) -> Self {
        let owners = |texts: &[String]| texts.iter().filter_map(|it| owner(it)).collect();
        let answerers = announcement.answerers.iter().map(Answerer::parse);
        let conflicts = announcement.conflicts.iter().filter_map(Conflict::parse);
        let mut conflicts: Vec<Conflict> = conflicts.collect();
        conflicts.sort_by(|one, other| one.node.cmp(&other.node));
        Self {
            owners: owners(&announcement.owners),
            elsewhere: owners(&announcement.not_announced_here),
            nodes: announcement.nodes.clone(),
            answerers: answerers.collect(),
            reason: announcement.reason(),
            detail: announcement.detail.clone(),
            conflicts,
        }
    }

    /// Who else uses the address: rather a machine that is no node, as the first node saw it.
    pub fn conflict(&self) -> Option<&Conflict> {
        let mut all = self.conflicts.iter();
        let foreign = all.find(|conflict| conflict.kernel_of.is_none());
        foreign.or_else(|| self.conflicts.first())
    }

    /// The node that is to answer, and has no interface for it; empty: there is none.
    pub fn first_without_interface(&self) -> &str {
        let without = self.answerers.iter().filter(|it| it.interfaces.is_empty());
        let first = without.min_by_key(|it| (self.position(it), &it.node));
        first.map_or("", |it| it.node.as_str())
    }

    /// Who answers for one of its users. Of several, while it moves, the one that will go on.
    pub fn answerer(&self, service: &ServiceKey) -> Option<&Answerer> {
        if self.elsewhere.contains(service) {
            return None;
        }
        let answers = self.answerers.iter().filter(|it| !it.interfaces.is_empty());
        answers.min_by_key(|it| (it.is_unknown, self.position(it), &it.node))
    }

    fn position(&self, answerer: &Answerer) -> usize {
        let position = self.nodes.iter().position(|node| *node == answerer.node);
        position.unwrap_or(usize::MAX)
    }
}

impl Conflict {
    fn parse(seen: &v1::SeenConflict) -> Option<Self> {
        let conflict = seen.conflict.as_ref()?;
        Some(Self {
            node: seen.node.clone(),
            mac: conflict.mac.clone(),
            interface: conflict.interface.clone(),
            kernel_of: match conflict.kind() {
                Kind::Unspecified | Kind::Foreign => None,
                Kind::KernelAnswers => Some(conflict.member.clone()),
            },
        })
    }
}

impl Answerer {
    fn parse(answerer: &v1::Answerer) -> Self {
        let ownership = answerer.ownership.as_ref();
        Self {
            node: answerer.node.clone(),
            interfaces: ownership
                .map(|it| it.interfaces.clone())
                .unwrap_or_default(),
            is_unknown: answerer.unknown_since.is_some(),
        }
    }
}

/// From `cluster/namespace/name`.
fn owner(text: &str) -> Option<ServiceKey> {
    let mut parts = text.splitn(3, '/');
    let (_, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some(ServiceKey::new(namespace, name))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn answerer(node: &str, interfaces: &[&str], is_unknown: bool) -> v1::Answerer {
        v1::Answerer {
            node: node.to_owned(),
            ownership: Some(v1::Ownership {
                interfaces: interfaces.iter().map(|&it| it.to_owned()).collect(),
                ..v1::Ownership::default()
            }),
            unknown_since: is_unknown.then(Default::default),
        }
    }

    pub fn announcement(address: &str, answerers: Vec<v1::Answerer>) -> v1::Announcement {
        v1::Announcement {
            address_space: "default".to_owned(),
            address: address.to_owned(),
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            answerers,
            ..v1::Announcement::default()
        }
    }

    pub fn picture(announcements: Vec<v1::Announcement>) -> Picture {
        let mut picture = Picture::default();
        picture.note(&v1::WatchAnnouncementsResponse {
            announcements,
            ..v1::WatchAnnouncementsResponse::default()
        });
        picture
    }

    pub fn service(name: &str, addresses: &[&str]) -> ServiceState {
        let ingress = addresses.iter().map(|it| serde_json::json!({ "ip": it }));
        let ingress: Vec<serde_json::Value> = ingress.collect();
        let service = serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "default", "name": name, "uid": name },
            "spec": { "type": "LoadBalancer" },
            "status": { "loadBalancer": { "ingress": ingress } },
        }));
        ServiceState::parse(&service.expect("a Service")).expect("with a name")
    }

    fn found(picture: &Picture, service: &ServiceState) -> Option<String> {
        let answerer = picture.answerer("default", service);
        answerer.map(|it| it.node.clone())
    }

    #[test]
    fn the_answerer_is_one_that_lives_and_will_go_on() {
        let web = service("web", &["192.0.2.1", "2001:db8::1"]);
        for (answerers, expected) in [
            (vec![], None),
            (vec![answerer("n2", &["eth0"], false)], Some("n2")),
            (
                vec![
                    answerer("n2", &["eth0"], false),
                    answerer("n1", &["eth0"], false),
                ],
                Some("n1"),
            ),
            (
                vec![
                    answerer("n1", &["eth0"], true),
                    answerer("n2", &["eth0"], false),
                ],
                Some("n2"),
            ),
            // It most likely goes on.
            (vec![answerer("n1", &["eth0"], true)], Some("n1")),
            // It has it, and answers nowhere.
            (vec![answerer("n1", &[], false)], None),
            (
                vec![
                    answerer("n3", &["eth0"], false),
                    answerer("n2", &["eth0"], false),
                ],
                Some("n2"),
            ),
        ] {
            let picture = picture(vec![announcement("192.0.2.1", answerers.clone())]);
            let expected = expected.map(str::to_owned);
            assert_eq!(found(&picture, &web), expected, "{answerers:?}");
        }
        let second = announcement("2001:db8::1", vec![answerer("n2", &["eth0"], false)]);
        let both = picture(vec![announcement("192.0.2.1", vec![]), second]);
        assert_eq!(found(&both, &web).as_deref(), Some("n2"));
    }

    #[test]
    fn who_shares_an_address_but_not_its_nodes_has_no_answerer() {
        let mut shared = announcement("192.0.2.1", vec![answerer("n1", &["eth0"], false)]);
        shared.owners = vec!["east/default/a".to_owned(), "east/default/b".to_owned()];
        shared.not_announced_here = vec!["east/default/b".to_owned()];
        let picture = picture(vec![shared]);
        let found = |name| found(&picture, &service(name, &["192.0.2.1"]));
        assert_eq!(found("a").as_deref(), Some("n1"));
        assert_eq!(found("b"), None);
    }

    #[test]
    fn what_is_not_to_be_announced_any_more_is_forgotten() {
        let mut picture = picture(vec![announcement(
            "192.0.2.1",
            vec![answerer("n1", &["eth0"], false)],
        )]);
        picture.note(&v1::WatchAnnouncementsResponse {
            removed: vec![v1::AssignmentKey {
                address_space: "default".to_owned(),
                address: "192.0.2.1".to_owned(),
            }],
            ..v1::WatchAnnouncementsResponse::default()
        });
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(picture.place("default", address), None);
    }
}
