//! Whole sequences of steps, from any beginning: they end, and a restart after them writes nothing.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{A, B, answer, assigned, held, refused, service, settings};
use super::*;
use crate::claim::{Labels, claim};
use crate::status::condition::{Said, Truth};

/// A Service, what ipam-service would answer, and what Kubernetes was made to say.
#[derive(Debug)]
struct World {
    service: ServiceState,
    entry: Option<Entry>,
    told: Option<Notice>,
    link: Link,
    /// What ipam-service answers to a claim; its addresses are also what it would let be adopted.
    verdict: Verdict,
    writes: usize,
}

impl World {
    /// Performs the next step; `false` when there is none.
    fn step(&mut self) -> bool {
        let wanted = claim(&self.service, Some(&Labels::new()), &settings()).map(Arc::new);
        let step = plan(&Situation {
            service: &self.service,
            wanted: wanted.as_ref(),
            entry: self.entry.as_ref(),
            former: false,
            unsure: false,
            link: &self.link,
            told: self.told.as_ref(),
        });
        match step {
            Step::Settled | Step::Wait => return false,
            Step::Verify => unreachable!("it is never unsure"),
            Step::Ask(asked) => {
                self.entry = Some(Entry {
                    answer: Some(answer("u", self.verdict.clone())),
                    asked: Some((asked, Outcome::Answered)),
                });
            }
            Step::Adopt(asked) => {
                let would = answer("u", self.verdict.clone());
                let held = self.service.addresses();
                let given = held
                    .iter()
                    .all(|address| would.addresses().contains(address));
                let outcome = if given {
                    Outcome::Answered
                } else {
                    Outcome::AdoptionRefused("because".to_owned())
                };
                self.entry = Some(Entry {
                    answer: given.then_some(would),
                    asked: Some((asked, outcome)),
                });
            }
            Step::Release { .. } => self.entry = None,
            Step::Write(target, _) => {
                assert!(
                    !target.is_met(&self.service),
                    "written though it is right already"
                );
                let now = Time(jiff::Timestamp::UNIX_EPOCH);
                let conditions = &mut self.service.conditions;
                conditions.set(Type::Assigned, &target.assigned, &now);
                if target.addresses.is_empty() {
                    conditions.set(Type::Announced, &None, &now);
                }
                self.service.ingress = target
                    .addresses
                    .iter()
                    .copied()
                    .map(Ingress::Address)
                    .collect();
                self.service.annotations.remove(FROM_POOL);
                if let Some(pool) = target.pool {
                    self.service.annotations.insert(FROM_POOL.to_owned(), pool);
                }
                self.writes += 1;
            }
            Step::Tell(notice) => self.told = Some(notice),
        }
        true
    }
}

fn any_addresses() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::select(vec![vec![], vec!["192.0.2.1"], vec!["192.0.2.2"]])
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let reason = proptest::sample::select(vec![
        v1::refusal::Reason::NoFreeAddress,
        v1::refusal::Reason::AddressTaken,
        v1::refusal::Reason::Recovering,
    ]);
    (0..3, proptest::sample::select(vec![A, B]), reason).prop_map(|(kind, addresses, reason)| {
        match kind {
            0 => assigned(addresses),
            1 => Verdict::Pending(refused(reason)),
            _ => Verdict::Stale(held(addresses), refused(reason)),
        }
    })
}

fn any_spec() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![
        json!({}),
        json!({ "type": "ClusterIP" }),
        json!({ "loadBalancerClass": "other" }),
        json!({ "loadBalancerIP": "192.0.2.1" }),
        json!({ "loadBalancerIP": "nonsense" }),
        json!({ "ipFamilyPolicy": "RequireDualStack" }),
    ])
}

fn any_link() -> impl Strategy<Value = Link> {
    proptest::sample::select(vec![
        Link::Up,
        Link::Up,
        Link::Connecting,
        Link::Adopting,
        Link::Down("gone".to_owned()),
        Link::Blocked("pools are wrong".to_owned()),
    ])
}

fn any_condition() -> impl Strategy<Value = Wanted> {
    let truth = proptest::sample::select(vec![Truth::True, Truth::False, Truth::Unknown]);
    let reason = proptest::sample::select(vec!["Assigned", "NoFreeAddress", "Announced"]);
    let said = (truth, reason).prop_map(|(truth, reason)| Said::new(truth, reason, "because"));
    proptest::option::of(said)
}

proptest! {
    /// Whatever the beginning: it ends soon, and what a restart would find is right already.
    #[test]
    fn every_service_settles_and_a_restart_writes_nothing(
        ingress in any_addresses(),
        marked in any::<bool>(),
        spec in any_spec(),
        verdict in any_verdict(),
        known in proptest::option::of(any_verdict()),
        link in any_link(),
        said in [any_condition(), any_condition()],
    ) {
        let mut world = World {
            service: service(&ingress, marked.then_some("p"), spec),
            entry: known.map(|verdict| Entry { answer: Some(answer("u", verdict)), asked: None }),
            told: None,
            link,
            verdict,
            writes: 0,
        };
        for (of, said) in Type::ALL.into_iter().zip(&said) {
            world.service.conditions.set(of, said, &Time(jiff::Timestamp::UNIX_EPOCH));
        }
        let before = world.service.ingress.clone();
        let unknown = world.entry.is_none();
        let steps = (0..8).take_while(|_| world.step()).count();
        prop_assert!(steps < 8, "no end: {world:?}");
        prop_assert!(world.writes <= 1, "{world:?}");
        let refused = world.entry.as_ref().and_then(|entry| entry.asked.as_ref());
        if unknown && matches!(refused, Some((_, Outcome::AdoptionRefused(_)))) {
            prop_assert_eq!(&world.service.ingress, &before);
        }
        // A restart: what was told and asked is forgotten, what is held is in the snapshot.
        let written = world.writes;
        world.told = None;
        if let Some(entry) = &mut world.entry {
            entry.asked = None;
        }
        world.entry = world.entry.take().filter(|entry| entry.answer.is_some());
        while world.step() {}
        prop_assert_eq!(world.writes, written, "a restart wrote: {:?}", world);
    }
}
