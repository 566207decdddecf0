//! All that is known: what Kubernetes said, what ipam-service said, and what was told to people.
//! Pure and synchronous; [`crate::context::Context`] keeps it behind a lock.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::book::Book;
use crate::claim::{Claim, NoClaim, Settings, is_ours};
use crate::index::{Index, Kind};
use crate::notice::Notice;
use crate::plan::{Link, Situation, Step, must_adopt, plan};
use crate::service::{ServiceKey, ServiceState};

/// What is known.
#[derive(Debug)]
pub struct World {
    pub settings: Settings,
    pub index: Index,
    pub book: Book,
    pub link: Link,
    /// Kinds that the API server does not have: their CRD is not installed.
    pub absent: BTreeSet<Kind>,
    /// The last trouble told to each Service, with the Service's uid.
    told: HashMap<ServiceKey, (String, Notice)>,
}

/// The next step for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// For a Service as it was seen.
    Of(Arc<ServiceState>, Step),
    /// The Service is gone; give back what the incarnation `uid` holds.
    ReleaseGone { uid: String },
    /// There is no such Service, and nothing to do about it now.
    Nothing,
}

/// A Service that has addresses, to be claimed before anybody else gets some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub claim: Arc<Claim>,
    pub held: Vec<IpAddr>,
    /// The address book does not know the Service.
    pub unknown: bool,
}

impl World {
    /// Nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            index: Index::default(),
            book: Book::default(),
            link: Link::Connecting,
            absent: BTreeSet::new(),
            told: HashMap::new(),
        }
    }

    /// Whether enough has been listed to say what this cluster holds. Pools that the API server
    /// does not know stay unknown: they are then left as ipam-service has them.
    pub fn can_start(&self) -> bool {
        let known = |kind| self.index.has(kind) || self.absent.contains(&kind);
        self.index.has(Kind::Services)
            && self.index.has(Kind::Namespaces)
            && known(Kind::Pools)
            && known(Kind::L2Advertisements)
    }

    /// Whether enough has been listed to say which nodes serve what.
    pub fn can_report_facts(&self) -> bool {
        [
            Kind::Services,
            Kind::Namespaces,
            Kind::EndpointSlices,
            Kind::Nodes,
        ]
        .iter()
        .all(|kind| self.index.has(*kind))
    }

    /// The next step for a key.
    pub fn next(&self, key: &ServiceKey) -> Next {
        let entry = self.book.get(key);
        let Some(service) = self.index.service(key) else {
            let answer = entry.and_then(|entry| entry.answer.as_ref());
            return match answer {
                Some(answer) if self.index.is_deleted(key) && self.link == Link::Up => {
                    Next::ReleaseGone {
                        uid: answer.uid.clone(),
                    }
                }
                Some(_) | None => Next::Nothing,
            };
        };
        let claim = self.claim(service);
        let step = plan(&Situation {
            service,
            wanted: claim.as_ref(),
            entry,
            link: &self.link,
            told: self.told(service),
        });
        Next::Of(Arc::clone(service), step)
    }

    /// Our Services that have addresses in their status, with their claims.
    pub fn holders(&self) -> Vec<Holder> {
        let services = self.index.services();
        services
            .filter_map(|service| {
                let held = service.addresses();
                let claim = self.claim(service).ok().filter(|_| !held.is_empty())?;
                let unknown = must_adopt(
                    &Situation {
                        service,
                        wanted: Ok(&claim),
                        entry: self.book.get(&service.key),
                        link: &self.link,
                        told: None,
                    },
                    &claim,
                );
                Some(Holder {
                    claim,
                    held,
                    unknown,
                })
            })
            .collect()
    }

    /// Holders of addresses whose Service is absent from a complete list, though nobody saw it
    /// being deleted. Empty while there is no complete list.
    pub fn unlisted(&self) -> Vec<ServiceKey> {
        if !self.index.has(Kind::Services) {
            return Vec::new();
        }
        let holders = self.book.holders();
        holders
            .filter(|key| self.index.service(key).is_none() && !self.index.is_deleted(key))
            .cloned()
            .collect()
    }

    /// Everything that may need a look: all of our Services and all holders.
    pub fn everything(&self) -> Vec<ServiceKey> {
        let services = self.index.services().map(|service| service.key.clone());
        services.chain(self.book.holders().cloned()).collect()
    }

    /// Our Services, and how many of them have an address.
    pub fn count(&self) -> (usize, usize) {
        let ours = self
            .index
            .services()
            .filter(|service| is_ours(service, &self.settings).is_ok());
        ours.fold((0, 0), |(all, served), service| {
            (
                all + 1,
                served + usize::from(!service.addresses().is_empty()),
            )
        })
    }

    /// Remembers what was told.
    pub fn tell(&mut self, service: &ServiceState, notice: Notice) {
        self.told
            .insert(service.key.clone(), (service.uid.clone(), notice));
    }

    /// The Service is well, or gone: the next trouble is news.
    pub fn untell(&mut self, key: &ServiceKey) {
        self.told.remove(key);
    }

    fn claim(&self, service: &ServiceState) -> Result<Arc<Claim>, NoClaim> {
        self.index.claim(service, &self.settings).map(Arc::new)
    }

    fn told(&self, service: &ServiceState) -> Option<&Notice> {
        let (uid, notice) = self.told.get(&service.key)?;
        (*uid == service.uid).then_some(notice)
    }
}

#[cfg(test)]
mod tests {
    use pharos_proto::v1;
    use serde_json::json;

    use super::*;
    use crate::book::Answer;
    use crate::index::Namespace;

    fn world() -> World {
        let mut world = World::new(Settings {
            cluster: "east".to_owned(),
            lb_class: None,
            address_space: "default".to_owned(),
        });
        world.index.replace_namespaces(vec![Namespace {
            name: "default".to_owned(),
            uid: "n".to_owned(),
            labels: Default::default(),
        }]);
        world
    }

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("default", name)
    }

    fn service(name: &str, address: Option<&str>) -> ServiceState {
        let ingress: Vec<_> = address.iter().map(|ip| json!({ "ip": ip })).collect();
        let service = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": name, "uid": "u", "resourceVersion": "1" },
            "spec": { "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"] },
            "status": { "loadBalancer": { "ingress": ingress } },
        }));
        ServiceState::parse(&service.expect("a Service")).expect("with a name")
    }

    fn answer(name: &str) -> (ServiceKey, Answer) {
        Answer::parse(&v1::Allocation {
            owner: Some(v1::Owner {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                uid: "u".to_owned(),
                ..v1::Owner::default()
            }),
            state: v1::allocation::State::Assigned as i32,
            addresses: vec!["192.0.2.1".to_owned()],
            revision: 1,
            ..v1::Allocation::default()
        })
        .expect("makes sense")
    }

    #[test]
    fn only_a_seen_deletion_releases() {
        let mut world = world();
        world.link = Link::Up;
        world.book.restart([answer("web")]);
        assert!(world.unlisted().is_empty(), "nothing has been listed yet");
        world.index.replace_services(Vec::new());
        assert_eq!(world.unlisted(), [key("web")]);
        assert_eq!(world.next(&key("web")), Next::Nothing);
        world.index.confirm_deleted(key("web"));
        assert!(world.unlisted().is_empty());
        assert_eq!(
            world.next(&key("web")),
            Next::ReleaseGone {
                uid: "u".to_owned()
            }
        );
        world.link = Link::Connecting;
        assert_eq!(world.next(&key("web")), Next::Nothing);
    }

    #[test]
    fn holders_are_our_services_with_an_address() {
        let mut world = world();
        world.index.replace_services(vec![
            service("known", Some("192.0.2.1")),
            service("unknown", Some("192.0.2.2")),
            service("new", None),
        ]);
        world.book.restart([answer("known")]);
        let holders: Vec<(String, bool)> = world
            .holders()
            .into_iter()
            .map(|holder| (holder.claim.key.name.clone(), holder.unknown))
            .collect();
        assert_eq!(
            holders,
            [("known".to_owned(), false), ("unknown".to_owned(), true)]
        );
    }

    #[test]
    fn a_missing_crd_does_not_keep_the_adapter_from_starting_but_a_missing_list_does() {
        let mut world = world();
        assert!(!world.can_start());
        world.index.replace_services(Vec::new());
        assert!(!world.can_start());
        world.absent.extend([Kind::Pools, Kind::L2Advertisements]);
        assert!(world.can_start());
        assert!(!world.can_report_facts());
        world.index.replace_slices(Vec::new());
        world.index.replace_nodes(Vec::new());
        assert!(world.can_report_facts());
    }

    #[test]
    fn what_was_told_to_an_earlier_incarnation_is_told_again() {
        let mut world = world();
        world.link = Link::Down("x".to_owned());
        world.index.apply_service(service("web", None));
        let Next::Of(seen, Step::Tell(notice)) = world.next(&key("web")) else {
            panic!("nothing is told");
        };
        world.tell(&seen, notice.clone());
        assert_eq!(world.next(&key("web")), Next::Of(seen, Step::Wait));
        let again = ServiceState {
            uid: "v".to_owned(),
            ..service("web", None)
        };
        world.index.apply_service(again);
        assert!(matches!(
            world.next(&key("web")),
            Next::Of(_, Step::Tell(_))
        ));
        world.untell(&key("web"));
    }
}
