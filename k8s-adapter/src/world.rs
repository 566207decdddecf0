//! All that is known: what Kubernetes said, what ipam-service said, and what was told to people.
//! Pure and synchronous; [`crate::context::Context`] keeps it behind a lock.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::book::Book;
use crate::claim::{Claim, NoClaim, Settings, gateway_asks_for, is_ours, stored};
use crate::index::{Index, Kind};
use crate::notice::Notice;
use crate::plan::{Link, Situation, Step, must_adopt, plan};
use crate::policy::Finding;
use crate::service::{ServiceKey, ServiceState};
use crate::status::picture::Picture;

/// What is known.
#[derive(Debug)]
pub struct World {
    pub settings: Settings,
    pub index: Index,
    pub book: Book,
    pub link: Link,
    /// Kinds that were listed since the API server was lost last: what is known of the others is what was
    /// true then.
    pub fresh: BTreeSet<Kind>,
    /// Kinds that the API server does not have: their CRD is not installed.
    pub absent: BTreeSet<Kind>,
    /// Kinds that only tell, and cannot be listed.
    pub unseen: BTreeSet<Kind>,
    /// The uid of the definition that each kind of what is handed over had objects of.
    pub definitions: BTreeMap<Kind, String>,
    /// Why it is in doubt whether what is seen of a kind was declared by anybody.
    doubts: BTreeMap<Kind, String>,
    /// What ipam-service does not take of what is declared, and why.
    refused: BTreeMap<Kind, String>,
    /// Which node answers for which address; none: not known.
    pub announced: Option<Picture>,
    /// The last trouble told to each Service.
    told: HashMap<ServiceKey, Told>,
    /// What was found wrong with the configuration, and told.
    found: BTreeSet<Finding>,
    /// Services that are being looked at, and the version that was fetched for that.
    verified: HashMap<ServiceKey, String>,
}

/// A trouble of which the owner of a Service knows.
#[derive(Debug)]
struct Told {
    uid: String,
    notice: Notice,
    /// When it was left to another replica to tell it; none: this one did.
    left: Option<Instant>,
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
            fresh: BTreeSet::new(),
            absent: BTreeSet::new(),
            unseen: BTreeSet::new(),
            definitions: BTreeMap::new(),
            doubts: BTreeMap::new(),
            refused: BTreeMap::new(),
            announced: None,
            told: HashMap::new(),
            found: BTreeSet::new(),
            verified: HashMap::new(),
        }
    }

    /// Notes a doubt about a kind, or that there is none; whether that is news.
    pub fn doubts(&mut self, kind: Kind, doubt: Option<String>) -> bool {
        let before = match doubt.clone() {
            Some(why) => self.doubts.insert(kind, why),
            None => self.doubts.remove(&kind),
        };
        before != doubt
    }

    /// All doubts that there are.
    pub fn all_doubts(&self) -> impl Iterator<Item = &str> {
        self.doubts.values().map(String::as_str)
    }

    /// Notes that ipam-service does not take what is declared of a kind, or does; whether that is news.
    pub fn refuses(&mut self, kind: Kind, why: Option<String>) -> bool {
        let before = match why.clone() {
            Some(why) => self.refused.insert(kind, why),
            None => self.refused.remove(&kind),
        };
        before != why
    }

    /// What ipam-service does not take, and why.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.refused.values().map(String::as_str)
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

    /// Whether all is known that a verdict on what is declared depends on.
    pub fn can_judge(&self) -> bool {
        let known = |kind: &Kind| self.index.has(*kind) || self.absent.contains(kind);
        self.can_start()
            && [
                Kind::BgpAdvertisements,
                Kind::Communities,
                Kind::BgpPeers,
                Kind::BfdProfiles,
            ]
            .iter()
            .all(known)
    }

    /// Whether enough is seen to say which nodes serve what: another replica may see more, and whoever
    /// speaks last is believed.
    pub fn can_report_facts(&self) -> bool {
        [
            Kind::Services,
            Kind::Namespaces,
            Kind::EndpointSlices,
            Kind::Nodes,
        ]
        .iter()
        .all(|kind| self.fresh.contains(kind))
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
        let replaces = claim.as_ref().is_ok_and(|claim| self.replaces(claim));
        let step = plan(&Situation {
            service,
            wanted: claim.as_ref(),
            entry,
            former: former.is_some(),
            unsure: replaces && self.verified.get(key) != Some(&service.resource_version),
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
                let counts = self.as_it_counts(service);
                let in_use = self.index.in_use(&counts, &self.settings);
                let claim = in_use.map(Arc::new).filter(|_| !held.is_empty())?;
                if self.replaces(&claim) {
                    // The book has it: nobody else gets what it holds, and its turn will come.
                    return None;
                }
                let unknown = must_adopt(
                    &Situation {
                        service,
                        wanted: Ok(&claim),
                        entry: self.book.get(&service.key),
                        former: false,
                        unsure: false,
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

    /// The Service as it is, fetched for the look that goes on.
    pub fn verified(&mut self, service: ServiceState) {
        let version = service.resource_version.clone();
        self.verified.insert(service.key.clone(), version);
        self.index.answered(service);
    }

    /// Remembers what was told.
    pub fn tell(&mut self, service: &ServiceState, notice: Notice) {
        self.note_told(service, notice, None);
    }

    /// Remembers what another replica tells, as this one stands by.
    pub fn leave(&mut self, service: &ServiceState, notice: Notice, now: Instant) {
        self.note_told(service, notice, Some(now));
    }

    fn note_told(&mut self, service: &ServiceState, notice: Notice, left: Option<Instant>) {
        let told = Told {
            uid: service.uid.clone(),
            notice,
            left,
        };
        self.told.insert(service.key.clone(), told);
    }

    /// Nobody knows whether another replica told what was left to it later than then; none: whether it told
    /// anything.
    pub fn doubt_told(&mut self, told_until: Option<Instant>) {
        let is_told = |left| told_until.is_some_and(|until| left < until);
        self.told.retain(|_, told| told.left.is_none_or(is_told));
    }

    /// The Service is well: the next trouble is news.
    pub fn untell(&mut self, key: &ServiceKey) {
        self.told.remove(key);
    }

    /// What is found now and was not told yet. A finding that was away is news again.
    pub fn news(&mut self, findings: &[Finding]) -> Vec<Finding> {
        let now: BTreeSet<Finding> = findings.iter().cloned().collect();
        let before = std::mem::replace(&mut self.found, now);
        self.found.difference(&before).cloned().collect()
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
        self.verified.remove(key);
        if !former_holds {
            self.index.forget_gone(key);
        }
    }

    fn claim(&self, service: &ServiceState) -> Result<Arc<Claim>, NoClaim> {
        let service = self.as_it_counts(service);
        self.index.claim(&service, &self.settings).map(Arc::new)
    }

    /// What a Service asks for. A Gateway's request moves no Service that was given an address without it:
    /// MetalLB did so all the time, and nothing moves because another program serves it now.
    fn as_it_counts<'a>(&self, service: &'a ServiceState) -> Cow<'a, ServiceState> {
        let keeps = !service.asked_by_gateway().is_empty() && self.was_given_another(service);
        if !keeps {
            return Cow::Borrowed(service);
        }
        let mut plain = service.clone();
        plain.gateway_addresses.clear();
        Cow::Owned(plain)
    }

    /// Whether a Service has addresses that its Gateway did not name.
    fn was_given_another(&self, service: &ServiceState) -> bool {
        let entry = self.book.get(&service.key);
        let answer = entry.and_then(|entry| entry.answer.as_ref());
        match answer.filter(|answer| answer.is_of(&service.uid)) {
            Some(answer) => !answer.by_name && !answer.addresses().is_empty(),
            None => {
                let has = service.addresses();
                !has.is_empty() && !gateway_asks_for(service, &has)
            }
        }
    }

    /// Whether a claim would take the place of another one, or of another incarnation's.
    fn replaces(&self, claim: &Claim) -> bool {
        let entry = self.book.get(&claim.key);
        let answer = entry.and_then(|entry| entry.answer.as_ref());
        answer.is_some_and(|answer| !answer.answers(&claim.uid, &stored(claim, &self.settings)))
    }

    /// Whether ipam-service has given a Service an address, as far as is known.
    pub fn holds(&self, service: &ServiceState) -> bool {
        let entry = self.book.get(&service.key);
        let answer = entry.and_then(|entry| entry.answer.as_ref());
        answer.is_some_and(|answer| answer.holds(&service.uid))
    }

    /// The last trouble that was told to a Service's owner, if it was not over since.
    pub fn told(&self, service: &ServiceState) -> Option<&Notice> {
        let told = self.told.get(&service.key)?;
        (told.uid == service.uid).then_some(&told.notice)
    }
}

#[cfg(test)]
mod tests;
