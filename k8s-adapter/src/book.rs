//! What ipam-service has said about this cluster's Services, and what it was asked. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use pharos_proto::net::{InvalidAddress, parse_address};
use pharos_proto::v1;

use crate::claim::Claim;
use crate::service::ServiceKey;

/// Addresses that a Service holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The pool that they come from.
    pub pool: String,
}

/// Why a claim is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reason: v1::refusal::Reason,
    pub message: String,
}

/// The state of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Assigned(Held),
    /// Nothing is held; it is decided again whenever that can change.
    Pending(Refused),
    /// Held under an earlier claim; the newest does not fit yet.
    Stale(Held, Refused),
}

/// An allocation as ipam-service reported it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Incarnation of the Service that it belongs to.
    pub uid: String,
    pub revision: u64,
    pub verdict: Verdict,
    /// Of the claim that it answers, to notice that somebody else changed it.
    claim: u64,
    /// Whether that claim named addresses.
    pub by_name: bool,
}

/// An allocation that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum BadAllocation {
    #[error("an allocation without an owner")]
    NoOwner,
    #[error("allocation state {0} is not known")]
    UnknownState(i32),
    #[error(transparent)]
    Address(#[from] InvalidAddress),
}

/// What came of the last request for a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// See the entry's answer.
    Answered,
    /// An error that asking again does not cure.
    Refused(String),
    /// The addresses in the Service's status could not be had; nothing was stored.
    AdoptionRefused(String),
}

/// All that is known of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    pub answer: Option<Answer>,
    pub asked: Option<(Arc<Claim>, Outcome)>,
}

/// The entries of one cluster.
#[derive(Debug, Default)]
pub struct Book {
    entries: BTreeMap<ServiceKey, Entry>,
    /// Everything up to this revision has been heard from the stream of allocations.
    heard: u64,
}

/// Whether an allocation is an adapter's. Others of the same cluster were made by people or
/// scripts, and are not touched.
pub fn is_adapters(allocation: &v1::Allocation) -> bool {
    let reported = allocation
        .claim
        .as_ref()
        .is_some_and(|claim| claim.backends() == v1::claim::Backends::Reported);
    let namespaced = allocation
        .owner
        .as_ref()
        .is_some_and(|owner| !owner.namespace.is_empty());
    reported && namespaced
}

impl Answer {
    /// Reads an allocation from the wire.
    pub fn parse(allocation: &v1::Allocation) -> Result<(ServiceKey, Self), BadAllocation> {
        let owner = allocation.owner.as_ref().ok_or(BadAllocation::NoOwner)?;
        let held = || -> Result<Held, BadAllocation> {
            let addresses = allocation.addresses.iter();
            Ok(Held {
                addresses: addresses
                    .map(|text| parse_address(text))
                    .collect::<Result<_, _>>()?,
                pool: allocation.pool.clone(),
            })
        };
        let refused = || Refused {
            reason: allocation
                .refusal
                .as_ref()
                .map(v1::Refusal::reason)
                .unwrap_or_default(),
            message: allocation
                .refusal
                .as_ref()
                .map(|refusal| refusal.message.clone())
                .unwrap_or_default(),
        };
        let verdict = match allocation.state() {
            v1::allocation::State::Assigned => Verdict::Assigned(held()?),
            v1::allocation::State::Pending => Verdict::Pending(refused()),
            v1::allocation::State::AssignedStale => Verdict::Stale(held()?, refused()),
            v1::allocation::State::Unspecified => {
                return Err(BadAllocation::UnknownState(allocation.state));
            }
        };
        let answer = Self {
            uid: owner.uid.clone(),
            revision: allocation.revision,
            verdict,
            claim: allocation
                .claim
                .as_ref()
                .map(fingerprint)
                .unwrap_or_default(),
            by_name: allocation
                .claim
                .as_ref()
                .is_some_and(|claim| !claim.addresses.is_empty()),
        };
        Ok((ServiceKey::new(&owner.namespace, &owner.name), answer))
    }

    /// Whether it answers this very claim of this incarnation. If not, somebody has made another
    /// claim, or the Service has changed.
    pub fn answers(&self, uid: &str, claim: &v1::Claim) -> bool {
        self.uid == uid && self.claim == fingerprint(claim)
    }

    /// Whether it belongs to the incarnation `uid`. One without a uid belongs to any.
    pub fn is_of(&self, uid: &str) -> bool {
        self.uid.is_empty() || self.uid == uid
    }

    /// Whether the incarnation `uid` holds an address.
    pub fn holds(&self, uid: &str) -> bool {
        self.is_of(uid) && !self.addresses().is_empty()
    }

    /// The addresses that are held.
    pub fn addresses(&self) -> &[IpAddr] {
        match &self.verdict {
            Verdict::Assigned(held) | Verdict::Stale(held, _) => &held.addresses,
            Verdict::Pending(_) => &[],
        }
    }
}

impl Book {
    /// What is known of a Service.
    pub fn get(&self, key: &ServiceKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Whether a Service has an allocation or a waiting claim.
    pub fn holds(&self, key: &ServiceKey) -> bool {
        self.get(key).is_some_and(|entry| entry.answer.is_some())
    }

    /// Every Service that has an allocation or a waiting claim, and which.
    pub fn holders(&self) -> impl Iterator<Item = (&ServiceKey, &Answer)> {
        let entries = self.entries.iter();
        entries.filter_map(|(key, entry)| Some((key, entry.answer.as_ref()?)))
    }

    /// Everything up to a revision has been heard.
    pub fn hear(&mut self, revision: u64) {
        self.heard = self.heard.max(revision);
    }

    /// The answer to a request. It may be older than what the stream has said meanwhile: then the
    /// stream is right, and unless it says the same the claim has to be made again.
    pub fn answered(&mut self, claim: Arc<Claim>, answer: Answer) {
        let heard = self.heard;
        let entry = self.entries.entry(claim.key.clone()).or_default();
        let stands = match &entry.answer {
            Some(known) if known.revision > answer.revision => known.claim == answer.claim,
            Some(known) if known.revision == answer.revision => true,
            // What the stream has passed by was released since.
            Some(_) | None if answer.revision <= heard => false,
            Some(_) | None => {
                entry.answer = Some(answer);
                true
            }
        };
        entry.asked = stands.then_some((claim, Outcome::Answered));
    }

    /// A request came to nothing; what was held before is held still.
    pub fn refused(&mut self, claim: Arc<Claim>, outcome: Outcome) {
        let entry = self.entries.entry(claim.key.clone()).or_default();
        entry.asked = Some((claim, outcome));
    }

    /// An allocation changed. Older news than what is known is ignored.
    pub fn changed(&mut self, key: ServiceKey, answer: Answer) {
        self.hear(answer.revision);
        let entry = self.entries.entry(key).or_default();
        if let Some(known) = &entry.answer {
            if known.revision >= answer.revision {
                return;
            }
            if known.claim != answer.claim {
                // Somebody else changed the claim: it has to be made again.
                entry.asked = None;
            }
        }
        entry.answer = Some(answer);
    }

    /// An allocation is gone since `revision`.
    pub fn released(&mut self, key: &ServiceKey, revision: u64) {
        self.hear(revision);
        let newer = self
            .entries
            .get(key)
            .and_then(|entry| entry.answer.as_ref())
            .is_some_and(|answer| answer.revision > revision);
        if !newer {
            self.entries.remove(key);
        }
    }

    /// What this incarnation held was given back.
    pub fn forget(&mut self, key: &ServiceKey, uid: &str) {
        let held = self
            .entries
            .get(key)
            .and_then(|entry| entry.answer.as_ref());
        if held.is_some_and(|answer| answer.uid == uid) {
            self.entries.remove(key);
        }
    }

    /// How many Services could not be given what they have.
    pub fn refused_adoptions(&self) -> usize {
        let outcome = |entry: &&Entry| {
            let outcome = entry.asked.as_ref().map(|(_, outcome)| outcome);
            matches!(outcome, Some(Outcome::AdoptionRefused(_)))
        };
        self.entries.values().filter(outcome).count()
    }

    /// Requests that came to nothing may be made again; says whose.
    pub fn forget_refusals(&mut self) -> Vec<ServiceKey> {
        let refused = |entry: &Entry| {
            let outcome = entry.asked.as_ref().map(|(_, outcome)| outcome);
            matches!(
                outcome,
                Some(Outcome::Refused(_) | Outcome::AdoptionRefused(_))
            )
        };
        let entries = self.entries.iter_mut();
        entries
            .filter(|(_, entry)| refused(entry))
            .map(|(key, entry)| {
                entry.asked = None;
                key.clone()
            })
            .collect()
    }
}

/// Equal for equal claims.
fn fingerprint(claim: &v1::Claim) -> u64 {
    // Every field by name: one that is forgotten would make two claims the same.
    let v1::Claim {
        ports,
        families,
        family_policy,
        dual_stack_pools,
        address_space,
        pool,
        reservation,
        addresses,
        sharing_key,
        backend_key,
        labels,
        namespace_labels,
        backends,
    } = claim;
    let ports: Vec<(i32, u32)> = ports
        .iter()
        .map(|port| (port.protocol, port.port))
        .collect();
    let mut hasher = DefaultHasher::new();
    ports.hash(&mut hasher);
    (families, family_policy, dual_stack_pools, backends).hash(&mut hasher);
    (address_space, pool, reservation, addresses).hash(&mut hasher);
    (sharing_key, backend_key).hash(&mut hasher);
    (labels, namespace_labels).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(revision: u64, pool: &str) -> v1::Allocation {
        v1::Allocation {
            owner: Some(v1::Owner {
                cluster: "east".to_owned(),
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                uid: "u".to_owned(),
            }),
            state: v1::allocation::State::Assigned as i32,
            addresses: vec!["192.0.2.1".to_owned()],
            pool: "p".to_owned(),
            revision,
            claim: Some(v1::Claim {
                pool: pool.to_owned(),
                backends: v1::claim::Backends::Reported as i32,
                ..v1::Claim::default()
            }),
            ..v1::Allocation::default()
        }
    }

    fn answer(revision: u64, pool: &str) -> (ServiceKey, Answer) {
        Answer::parse(&allocation(revision, pool)).expect("makes sense")
    }

    fn claim() -> Arc<Claim> {
        Arc::new(crate::claim::least_claim())
    }

    #[test]
    fn older_news_never_replaces_newer() {
        let mut book = Book::default();
        let (key, newer) = answer(9, "a");
        book.answered(claim(), newer.clone());
        book.changed(key.clone(), answer(8, "b").1);
        book.released(&key, 8);
        assert_eq!(
            book.get(&key).and_then(|entry| entry.answer.clone()),
            Some(newer)
        );
        book.released(&key, 10);
        assert_eq!(book.get(&key), None);
    }

    #[test]
    fn a_claim_that_somebody_else_changed_is_made_again() {
        let mut book = Book::default();
        let (key, first) = answer(3, "a");
        book.answered(claim(), first);
        book.changed(key.clone(), answer(4, "a").1);
        assert!(book.get(&key).is_some_and(|entry| entry.asked.is_some()));
        book.changed(key.clone(), answer(5, "b").1);
        assert!(book.get(&key).is_some_and(|entry| entry.asked.is_none()));
    }

    #[test]
    fn an_answer_that_the_stream_has_overtaken_does_not_bring_back_what_was_released() {
        let mut book = Book::default();
        let (key, first) = answer(5, "a");
        book.changed(key.clone(), first.clone());
        book.released(&key, 6);
        book.answered(claim(), first.clone());
        let entry = book.get(&key).expect("remembered");
        assert_eq!((&entry.answer, &entry.asked), (&None, &None));
        // The same if all that is known is a snapshot.
        let mut book = Book::default();
        book.hear(6);
        book.answered(claim(), first);
        assert!(book.get(&key).is_some_and(|entry| entry.asked.is_none()));
        let (_, next) = answer(7, "a");
        book.answered(claim(), next);
        assert!(book.get(&key).is_some_and(|entry| entry.asked.is_some()));
    }

    #[test]
    fn an_answer_that_the_stream_has_overtaken_with_another_claim_is_asked_for_again() {
        let mut book = Book::default();
        let (key, later) = answer(6, "b");
        book.changed(key.clone(), later);
        book.answered(claim(), answer(5, "a").1);
        assert!(book.get(&key).is_some_and(|entry| entry.asked.is_none()));
        // An answer that says what is known: nothing has changed for long.
        book.answered(claim(), answer(6, "b").1);
        assert!(book.get(&key).is_some_and(|entry| entry.asked.is_some()));
    }

    #[test]
    fn an_answer_to_a_claim_that_differs_in_any_field_is_none_to_this_one() {
        type Change = fn(&mut v1::Claim);
        let asked = allocation(3, "a");
        let (_, answer) = Answer::parse(&asked).expect("makes sense");
        let claim = asked.claim.expect("a claim");
        assert!(answer.answers("u", &claim));
        assert!(!answer.answers("v", &claim));
        let changes: [(&str, Change); 13] = [
            ("ports", |it| it.ports.push(v1::Port::default())),
            ("families", |it| it.families.push(1)),
            ("family_policy", |it| it.family_policy = 2),
            ("dual_stack_pools", |it| it.dual_stack_pools = 1),
            ("address_space", |it| it.address_space.push('x')),
            ("pool", |it| it.pool.push('x')),
            ("reservation", |it| it.reservation.push('x')),
            ("addresses", |it| it.addresses.push(String::new())),
            ("sharing_key", |it| it.sharing_key.push('x')),
            ("backend_key", |it| it.backend_key.push('x')),
            ("labels", |it| {
                drop(it.labels.insert(String::new(), String::new()))
            }),
            ("namespace_labels", |it| {
                drop(it.namespace_labels.insert(String::new(), String::new()));
            }),
            ("backends", |it| it.backends = 0),
        ];
        for (field, change) in changes {
            let mut changed = claim.clone();
            change(&mut changed);
            assert!(!answer.answers("u", &changed), "{field} does not count");
        }
    }

    #[test]
    fn only_what_was_refused_is_forgotten() {
        let mut book = Book::default();
        let (key, first) = answer(3, "a");
        book.answered(claim(), first);
        assert!(book.forget_refusals().is_empty());
        book.refused(claim(), Outcome::Refused("no".to_owned()));
        assert_eq!(book.forget_refusals(), std::slice::from_ref(&key));
        let entry = book.get(&key).expect("kept");
        assert!(entry.answer.is_some() && entry.asked.is_none());
    }

    #[test]
    fn allocations_that_people_made_are_not_the_adapters() {
        assert!(is_adapters(&allocation(1, "a")));
        let mut by_hand = allocation(1, "a");
        by_hand.claim = Some(v1::Claim {
            backends: v1::claim::Backends::Unmanaged as i32,
            ..v1::Claim::default()
        });
        assert!(!is_adapters(&by_hand));
        let mut elsewhere = allocation(1, "a");
        elsewhere.owner = Some(v1::Owner::default());
        assert!(!is_adapters(&elsewhere));
    }

    #[test]
    fn an_allocation_that_makes_no_sense_is_an_error() {
        type Break = fn(&mut v1::Allocation);
        let broken: [(Break, &str); 3] = [
            (|it| it.owner = None, "an allocation without an owner"),
            (|it| it.state = 0, "allocation state 0 is not known"),
            (
                |it| it.addresses = vec!["x".to_owned()],
                "\"x\" is not an IPv4 or IPv6 address",
            ),
        ];
        for (breaks, message) in broken {
            let mut allocation = allocation(1, "a");
            breaks(&mut allocation);
            let error = Answer::parse(&allocation).expect_err("refused");
            assert_eq!(error.to_string(), message);
        }
    }
}
