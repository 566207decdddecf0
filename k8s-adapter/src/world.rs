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
        let answer = entry.and_then(|entry| entry.answer.as_ref());
        let former = answer.filter(|answer| self.index.is_gone(key, &answer.uid));
        let Some(service) = self.index.service(key) else {
            return match former {
                Some(answer) if self.link == Link::Up => Next::ReleaseGone {
                    uid: answer.uid.clone(),
                },
                Some(_) | None => Next::Nothing,
            };
        };
        let claim = self.claim(service);
        let step = plan(&Situation {
            service,
            wanted: claim.as_ref(),
            entry,
            former: former.is_some(),
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
                        former: false,
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

    /// Incarnations of Services that hold something, though no list or watch has shown them: gone
    /// unseen, or not seen yet. Empty while it cannot be known.
    pub fn unlisted(&self) -> Vec<(ServiceKey, String)> {
        if self.link != Link::Up || !self.index.has(Kind::Services) {
            return Vec::new();
        }
        let holders = self.book.holders();
        holders
            .filter(|(key, answer)| {
                let service = self.index.service(key);
                let shown = service.is_some_and(|service| answer.is_of(&service.uid));
                !shown && !self.index.is_gone(key, &answer.uid)
            })
            .map(|(key, answer)| (key.clone(), answer.uid.clone()))
            .collect()
    }

    /// A complete list of Services with their uids, made after `unlisted` was asked for: of these,
    /// what it lacks is gone. Says whose Services that are.
    pub fn confirm_gone(
        &mut self,
        unlisted: Vec<(ServiceKey, String)>,
        list: &HashMap<ServiceKey, String>,
    ) -> Vec<ServiceKey> {
        let mut gone = Vec::new();
        for (key, uid) in unlisted {
            let exists = list
                .get(&key)
                .is_some_and(|listed| uid.is_empty() || *listed == uid);
            if !exists {
                self.index.confirm_gone(key.clone(), uid);
                gone.push(key);
            }
        }
        gone
    }

    /// Everything that may need a look: all Services and all holders.
    pub fn everything(&self) -> BTreeSet<ServiceKey> {
        let services = self.index.services().map(|service| &service.key);
        let holders = self.book.holders().map(|(key, _)| key);
        services.chain(holders).cloned().collect()
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

    /// The Service is well: the next trouble is news.
    pub fn untell(&mut self, key: &ServiceKey) {
        self.told.remove(key);
    }

    /// A look at a key has ended: forgets what only a Service that is there, or an incarnation that
    /// still holds something, needs to be remembered for.
    pub fn looked(&mut self, key: &ServiceKey) {
        let service = self.index.service(key);
        let entry = self.book.get(key);
        let answer = entry.and_then(|entry| entry.answer.as_ref());
        let uid = service.map(|service| service.uid.as_str());
        let former_holds = answer.is_some_and(|answer| uid.is_none_or(|uid| answer.uid != uid));
        if service.is_none() {
            self.told.remove(key);
        }
        if !former_holds {
            self.index.forget_gone(key);
        }
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

    fn know(world: &mut World, name: &str) {
        let (key, answer) = answer(name);
        world.book.changed(key, answer);
    }

    fn again(name: &str) -> ServiceState {
        ServiceState {
            uid: "v".to_owned(),
            ..service(name, None)
        }
    }

    #[test]
    fn what_was_not_shown_is_released_only_if_a_later_list_lacks_it_too() {
        let mut world = world();
        world.link = Link::Up;
        for name in ["late", "gone", "again"] {
            know(&mut world, name);
        }
        assert!(world.unlisted().is_empty(), "nothing has been listed yet");
        world.index.replace_services(vec![again("again")]);
        let unlisted = world.unlisted();
        let missing = |name: &str| (key(name), "u".to_owned());
        assert_eq!(
            unlisted,
            [missing("again"), missing("gone"), missing("late")]
        );
        for name in ["late", "gone"] {
            assert_eq!(world.next(&key(name)), Next::Nothing);
        }
        let list = HashMap::from([
            (key("late"), "u".to_owned()),
            (key("again"), "v".to_owned()),
        ]);
        let gone = world.confirm_gone(unlisted, &list);
        assert_eq!(gone, [key("again"), key("gone")]);
        assert_eq!(world.unlisted(), [missing("late")]);
        assert_eq!(world.next(&key("late")), Next::Nothing);
        let release = Next::ReleaseGone {
            uid: "u".to_owned(),
        };
        assert_eq!(world.next(&key("gone")), release);
        // The one that came after asks for itself.
        assert!(matches!(
            world.next(&key("again")),
            Next::Of(_, Step::Ask(_))
        ));
        world.link = Link::Connecting;
        assert_eq!(world.next(&key("gone")), Next::Nothing);
        assert!(world.unlisted().is_empty());
    }

    #[test]
    fn the_deletion_of_one_incarnation_releases_no_newer_one() {
        let mut world = world();
        world.link = Link::Up;
        world.index.apply_service(service("web", None));
        world.index.delete_service(&service("web", None));
        // Another replica has seen its successor already.
        let (name, mut newer) = answer("web");
        newer.uid = "v".to_owned();
        world.book.changed(name, newer);
        assert_eq!(world.next(&key("web")), Next::Nothing);
        world.looked(&key("web"));
        world.index.apply_service(again("web"));
        assert!(matches!(world.next(&key("web")), Next::Of(_, Step::Ask(_))));
        world.looked(&key("web"));
        world.index.delete_service(&again("web"));
        assert_eq!(
            world.next(&key("web")),
            Next::ReleaseGone {
                uid: "v".to_owned()
            }
        );
    }

    #[test]
    fn that_a_service_went_is_remembered_as_long_as_it_holds_something() {
        let mut world = world();
        world.link = Link::Up;
        know(&mut world, "web");
        world.index.delete_service(&service("web", None));
        // Its successor makes no sense, and must not keep the address from others.
        let mut bad = again("web");
        bad.load_balancer_ip = "nonsense".to_owned();
        world.index.apply_service(bad);
        world.looked(&key("web"));
        let Next::Of(_, Step::Release { uid }) = world.next(&key("web")) else {
            panic!("nothing is released");
        };
        world.book.forget(&key("web"), &uid);
        world.looked(&key("web"));
        assert!(!world.index.is_gone(&key("web"), "u"));
    }

    #[test]
    fn holders_are_our_services_with_an_address() {
        let mut world = world();
        world.index.replace_services(vec![
            service("known", Some("192.0.2.1")),
            service("unknown", Some("192.0.2.2")),
            service("new", None),
        ]);
        know(&mut world, "known");
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
