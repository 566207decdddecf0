//! Every situation that a Service can be in, and the one step that it leads to.

use serde_json::{Value, json};

use super::*;
use crate::claim::{Labels, Settings, claim};
use crate::status::condition::{Said, Truth};

pub(super) fn settings() -> Settings {
    Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    }
}

pub(super) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect()
}

/// A Service with these addresses in its status, marked with the pool they came from.
pub(super) fn service(ingress: &[&str], mark: Option<&str>, spec: Value) -> ServiceState {
    let mut whole =
        json!({ "type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": [{ "port": 80 }] });
    for (name, value) in spec.as_object().expect("an object") {
        whole[name] = value.clone();
    }
    let points: Vec<Value> = ingress
        .iter()
        .map(|ip| json!({ "ip": ip, "ipMode": "VIP" }))
        .collect();
    let service = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": "web", "uid": "u", "resourceVersion": "5",
            "annotations": mark.map(|pool| json!({ FROM_POOL: pool })),
        },
        "spec": whole,
        "status": { "loadBalancer": { "ingress": points } },
    }));
    ServiceState::parse(&service.expect("a Service")).expect("with a name")
}

pub(super) fn answer(uid: &str, verdict: Verdict) -> Answer {
    let (_, mut answer) = Answer::parse(&v1::Allocation {
        owner: Some(v1::Owner {
            uid: uid.to_owned(),
            ..v1::Owner::default()
        }),
        state: v1::allocation::State::Pending as i32,
        ..v1::Allocation::default()
    })
    .expect("makes sense");
    answer.verdict = verdict;
    answer
}

pub(super) fn assigned(addresses: &[&str]) -> Verdict {
    Verdict::Assigned(held(addresses))
}

pub(super) fn held(addresses: &[&str]) -> Held {
    Held {
        addresses: ips(addresses),
        pool: "p".to_owned(),
    }
}

pub(super) fn refused(reason: v1::refusal::Reason) -> Refused {
    Refused {
        reason,
        message: "because".to_owned(),
    }
}

fn pending() -> Verdict {
    Verdict::Pending(refused(v1::refusal::Reason::NoFreeAddress))
}

/// What the address book knows when the case begins.
enum Known {
    Nothing,
    /// From a snapshot: not yet asked in this session.
    Snapshot(Verdict),
    Answered(Verdict),
    Came(Outcome),
}

struct Case {
    service: ServiceState,
    known: Known,
    link: Link,
    told: Option<Notice>,
}

impl Case {
    fn new(service: ServiceState, known: Known) -> Self {
        Self {
            service,
            known,
            link: Link::Up,
            told: None,
        }
    }

    fn link(self, link: Link) -> Self {
        Self { link, ..self }
    }

    fn told(self, notice: Notice) -> Self {
        Self {
            told: Some(notice),
            ..self
        }
    }

    fn claim(&self) -> Result<Arc<Claim>, NoClaim> {
        claim(&self.service, Some(&Labels::new()), &settings()).map(Arc::new)
    }

    fn plan(&self) -> Step {
        let wanted = self.claim();
        let asked = |outcome: Outcome| {
            wanted
                .as_ref()
                .ok()
                .map(|claim| (Arc::clone(claim), outcome))
        };
        let entry = match &self.known {
            Known::Nothing => None,
            Known::Snapshot(verdict) => Some(Entry {
                answer: Some(answer("u", verdict.clone())),
                asked: None,
            }),
            Known::Answered(verdict) => Some(Entry {
                answer: Some(answer("u", verdict.clone())),
                asked: asked(Outcome::Answered),
            }),
            Known::Came(outcome) => Some(Entry {
                answer: None,
                asked: asked(outcome.clone()),
            }),
        };
        plan(&Situation {
            service: &self.service,
            wanted: wanted.as_ref(),
            entry: entry.as_ref(),
            former: false,
            unsure: false,
            link: &self.link,
            told: self.told.as_ref(),
        })
    }
}

fn plain(ingress: &[&str], mark: Option<&str>) -> ServiceState {
    service(ingress, mark, json!({}))
}

fn target(addresses: &[&str]) -> Target {
    Target {
        addresses: ips(addresses),
        pool: Some("p".to_owned()),
        assigned: granted(&held(addresses)),
    }
}

/// By the rule of [`refused`].
fn by_rule(rule: v1::refusal::Reason) -> Notice {
    failed(Cause::Rule(rule), "because")
}

pub(super) const A: &[&str] = &["192.0.2.1"];
pub(super) const B: &[&str] = &["192.0.2.2"];

#[test]
fn a_new_service_asks() {
    let case = Case::new(plain(&[], None), Known::Nothing);
    assert_eq!(case.plan(), Step::Ask(case.claim().expect("a claim")));
}

#[test]
fn a_service_that_the_book_knows_asks_again_after_a_snapshot() {
    let case = Case::new(plain(A, Some("p")), Known::Snapshot(assigned(A)));
    assert_eq!(case.plan(), Step::Ask(case.claim().expect("a claim")));
}

#[test]
fn a_served_service_that_the_book_has_never_heard_of_is_adopted() {
    let case = Case::new(plain(A, Some("p")), Known::Nothing);
    assert_eq!(case.plan(), Step::Adopt(case.claim().expect("a claim")));
    let same = service(A, None, json!({ "loadBalancerIP": "192.0.2.1" }));
    assert!(matches!(
        Case::new(same, Known::Nothing).plan(),
        Step::Adopt(_)
    ));
}

#[test]
fn a_service_that_asks_for_another_address_than_it_has_is_not_adopted() {
    let other = service(A, Some("p"), json!({ "loadBalancerIP": "192.0.2.9" }));
    assert!(matches!(
        Case::new(other, Known::Nothing).plan(),
        Step::Ask(_)
    ));
}

#[test]
fn another_incarnation_does_not_inherit_the_answer() {
    let fresh = plain(&[], None);
    let wanted = Case::new(fresh.clone(), Known::Nothing)
        .claim()
        .expect("a claim");
    let entry = Entry {
        answer: Some(answer("earlier", assigned(A))),
        asked: Some((Arc::clone(&wanted), Outcome::Answered)),
    };
    let step = plan(&Situation {
        service: &fresh,
        wanted: Ok(&wanted),
        entry: Some(&entry),
        former: false,
        unsure: false,
        link: &Link::Up,
        told: None,
    });
    assert_eq!(step, Step::Ask(wanted));
}

#[test]
fn what_another_incarnation_holds_is_released_only_when_that_one_is_certainly_gone() {
    let release = Step::Release {
        uid: "other".to_owned(),
    };
    for spec in [
        json!({ "type": "ClusterIP" }),
        json!({ "loadBalancerClass": "other" }),
        json!({ "loadBalancerIP": "nonsense" }),
        json!({ "ipFamilyPolicy": "RequireDualStack" }),
    ] {
        let service = service(&[], None, spec);
        let wanted = claim(&service, Some(&Labels::new()), &settings()).map(Arc::new);
        let entry = Entry {
            answer: Some(answer("other", assigned(A))),
            asked: None,
        };
        let mut situation = Situation {
            service: &service,
            wanted: wanted.as_ref(),
            entry: Some(&entry),
            former: true,
            unsure: false,
            link: &Link::Up,
            told: None,
        };
        assert_eq!(plan(&situation), release);
        // It may be the newer one, which has not been seen yet.
        situation.former = false;
        assert!(!matches!(plan(&situation), Step::Release { .. }));
        situation.former = true;
        situation.link = &Link::Connecting;
        assert_eq!(plan(&situation), Step::Wait);
    }
}

#[test]
fn a_claim_that_would_replace_another_is_made_only_from_what_is_certain() {
    let service = plain(A, Some("p"));
    let wanted = claim(&service, Some(&Labels::new()), &settings()).map(Arc::new);
    let entry = Entry {
        answer: Some(answer("u", assigned(A))),
        asked: None,
    };
    let mut situation = Situation {
        service: &service,
        wanted: wanted.as_ref(),
        entry: Some(&entry),
        former: false,
        unsure: true,
        link: &Link::Up,
        told: None,
    };
    assert_eq!(plan(&situation), Step::Verify);
    situation.link = &Link::Adopting;
    assert_eq!(plan(&situation), Step::Wait);
}

#[test]
fn the_order_of_addresses_in_a_status_is_no_other_request() {
    let mut dual = service(
        &["2001:db8::1", "192.0.2.1"],
        Some("p"),
        json!({ "clusterIPs": ["10.0.0.1", "fd00::1"] }),
    );
    dual.annotations.insert(
        "metallb.io/loadBalancerIPs".to_owned(),
        "192.0.2.1,2001:db8::1".to_owned(),
    );
    let step = Case::new(dual, Known::Nothing).plan();
    assert!(matches!(step, Step::Adopt(_)), "{step:?}");
}

#[test]
fn an_assigned_address_is_written_and_told_once() {
    let case = Case::new(plain(&[], None), Known::Answered(assigned(A)));
    assert_eq!(
        case.plan(),
        Step::Write(target(A), vec![Notice::Assigned(ips(A))])
    );
    let done = Case::new(plain(A, Some("p")), Known::Answered(assigned(A)));
    assert_eq!(done.plan(), Step::Settled);
}

#[test]
fn what_is_right_already_is_not_written_again() {
    // Only the annotation is missing: no address is announced as new.
    let case = Case::new(plain(A, None), Known::Answered(assigned(A)));
    assert_eq!(case.plan(), Step::Write(target(A), Vec::new()));
    // The pool was renamed.
    let case = Case::new(plain(A, Some("old")), Known::Answered(assigned(A)));
    assert_eq!(case.plan(), Step::Write(target(A), Vec::new()));
}

#[test]
fn the_order_of_addresses_in_a_status_is_left_as_it_is() {
    let dual = json!({ "clusterIPs": ["10.0.0.1", "fd00::1"] });
    let turned = service(&["2001:db8::1", "192.0.2.1"], Some("p"), dual);
    let given = assigned(&["192.0.2.1", "2001:db8::1"]);
    let case = Case::new(turned, Known::Answered(given));
    assert_eq!(case.plan(), Step::Settled);
}

#[test]
fn a_status_that_nobody_can_route_to_is_told_and_replaced() {
    let both_v4 = plain(&["192.0.2.1", "192.0.2.9"], Some("p"));
    let case = Case::new(both_v4, Known::Answered(assigned(A)));
    let Step::Write(written, notices) = case.plan() else {
        panic!("{:?}", case.plan());
    };
    let texts = ["192.0.2.1", "192.0.2.9"].map(str::to_owned).to_vec();
    assert_eq!(written, target(A));
    assert_eq!(notices.first(), Some(&Notice::StrangeStatus(texts)));
}

#[test]
fn what_a_service_lacks_that_prefers_two_addresses_is_told_once() {
    let dual = |policy: &str| {
        let spec = json!({ "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilyPolicy": policy });
        Case::new(service(A, Some("p"), spec), Known::Answered(assigned(A)))
    };
    let lacks = Notice::NoAdditional {
        pool: "p".to_owned(),
        family: "IPv6",
    };
    assert_eq!(dual("PreferDualStack").plan(), Step::Tell(lacks.clone()));
    assert_eq!(dual("PreferDualStack").told(lacks).plan(), Step::Wait);
    assert_eq!(dual("RequireDualStack").plan(), Step::Settled);
}

#[test]
fn an_answer_that_gives_nothing_clears_nothing_and_is_told() {
    let case = Case::new(plain(A, Some("p")), Known::Answered(assigned(&[])));
    assert_eq!(case.plan(), Step::Tell(Notice::NothingGiven));
}

#[test]
fn a_second_address_is_told_as_additional() {
    let dual = json!({ "clusterIPs": ["10.0.0.1", "fd00::1"] });
    let both = &["192.0.2.1", "2001:db8::1"];
    let case = Case::new(service(A, Some("p"), dual), Known::Answered(assigned(both)));
    let added = Notice::AlsoAssigned("2001:db8::1".parse().expect("an address"));
    assert_eq!(case.plan(), Step::Write(target(both), vec![added]));
}

#[test]
fn a_moved_address_is_told_with_its_reason() {
    let case = Case::new(plain(A, Some("p")), Known::Answered(assigned(B)));
    let cleared = Notice::Cleared {
        had: ips(A),
        why: "pool \"p\" gives another one".to_owned(),
    };
    assert_eq!(
        case.plan(),
        Step::Write(target(B), vec![cleared, Notice::Assigned(ips(B))])
    );
    // The owner asked for it: no surprise, no reason.
    let asked = service(A, Some("p"), json!({ "loadBalancerIP": "192.0.2.2" }));
    let case = Case::new(asked, Known::Answered(assigned(B)));
    assert_eq!(
        case.plan(),
        Step::Write(target(B), vec![Notice::Assigned(ips(B))])
    );
}

#[test]
fn a_pending_claim_is_told_once_and_clears_what_is_no_longer_held() {
    let case = Case::new(plain(&[], None), Known::Answered(pending()));
    assert_eq!(
        case.plan(),
        Step::Tell(by_rule(v1::refusal::Reason::NoFreeAddress))
    );
    assert_eq!(
        case.told(by_rule(v1::refusal::Reason::NoFreeAddress))
            .plan(),
        Step::Wait
    );
    let case = Case::new(plain(&[], None), Known::Answered(pending()))
        .told(failed(Cause::NotTaken, "another"));
    assert_eq!(
        case.plan(),
        Step::Tell(by_rule(v1::refusal::Reason::NoFreeAddress))
    );
    let lost = Case::new(plain(A, Some("p")), Known::Answered(pending()));
    let cleared = Notice::Cleared {
        had: ips(A),
        why: "because".to_owned(),
    };
    let nothing = Target::nothing(&by_rule(v1::refusal::Reason::NoFreeAddress));
    assert_eq!(lost.plan(), Step::Write(nothing, vec![cleared]));
}

#[test]
fn a_recovering_store_clears_nothing() {
    let recovering = Verdict::Pending(refused(v1::refusal::Reason::Recovering));
    let case = Case::new(plain(A, Some("p")), Known::Answered(recovering));
    assert_eq!(
        case.plan(),
        Step::Tell(by_rule(v1::refusal::Reason::Recovering))
    );
}

#[test]
fn a_stale_claim_keeps_its_addresses_and_says_why() {
    let stale = Verdict::Stale(held(A), refused(v1::refusal::Reason::AddressTaken));
    let case = Case::new(plain(A, Some("p")), Known::Answered(stale.clone()));
    assert_eq!(
        case.plan(),
        Step::Tell(by_rule(v1::refusal::Reason::AddressTaken))
    );
    let case = Case::new(plain(&[], None), Known::Answered(stale));
    let kept = Target {
        assigned: why::assigned(&by_rule(v1::refusal::Reason::AddressTaken), Standing::Holds),
        ..target(A)
    };
    assert_eq!(
        case.plan(),
        Step::Write(kept, vec![Notice::Assigned(ips(A))])
    );
}

#[test]
fn a_refused_adoption_never_clears_the_status() {
    let refused = || Outcome::AdoptionRefused("held by cluster west".to_owned());
    let case = Case::new(plain(A, Some("p")), Known::Came(refused()));
    let conflict = Notice::AdoptionConflict {
        has: ips(A),
        why: "held by cluster west".to_owned(),
    };
    assert_eq!(case.plan(), Step::Tell(conflict.clone()));
    assert_eq!(case.told(conflict).plan(), Step::Wait);
    // Somebody decided by clearing the status.
    let case = Case::new(plain(&[], None), Known::Came(refused()));
    assert!(matches!(case.plan(), Step::Ask(_)));
}

#[test]
fn without_ipam_service_a_service_waits_and_is_told_why() {
    let down = || Link::Down("connection refused".to_owned());
    let case = Case::new(plain(&[], None), Known::Nothing).link(down());
    let told = failed(
        Cause::IpamServiceAway,
        "ipam-service cannot be reached: connection refused",
    );
    assert_eq!(case.plan(), Step::Tell(told.clone()));
    assert_eq!(case.told(told).plan(), Step::Wait);
    // Those that have an address notice nothing.
    let served = Case::new(plain(A, Some("p")), Known::Snapshot(assigned(A))).link(down());
    assert_eq!(served.plan(), Step::Wait);
    // What cannot be reported keeps others waiting.
    let why = "what other Services hold is not known yet, as pools are wrong";
    let blocked = || Link::Blocked(why.to_owned());
    let case = Case::new(plain(&[], None), Known::Nothing).link(blocked());
    assert_eq!(case.plan(), Step::Tell(failed(Cause::InventoryOpen, why)));
    let served = Case::new(plain(A, Some("p")), Known::Snapshot(assigned(A))).link(blocked());
    assert_eq!(served.plan(), Step::Wait);
    // A short interruption is not worth an event; an adoption goes before new claims.
    for link in [Link::Connecting, Link::Adopting] {
        let case = Case::new(plain(&[], None), Known::Nothing).link(link);
        assert_eq!(case.plan(), Step::Wait);
    }
}

#[test]
fn a_service_that_stops_being_a_load_balancer_is_cleaned_up_then_released() {
    let other = |ingress, mark| service(ingress, mark, json!({ "type": "ClusterIP" }));
    let release = Step::Release {
        uid: "u".to_owned(),
    };
    for (service, known, expected) in [
        (
            other(A, Some("p")),
            Known::Snapshot(assigned(A)),
            Step::Write(Target::default(), Vec::new()),
        ),
        (
            other(&[], Some("p")),
            Known::Nothing,
            Step::Write(Target::default(), Vec::new()),
        ),
        (
            other(&[], None),
            Known::Snapshot(assigned(A)),
            release.clone(),
        ),
        (other(&[], None), Known::Nothing, Step::Settled),
        // It was never ours: whoever wrote that status may keep it.
        (other(A, None), Known::Nothing, Step::Settled),
    ] {
        assert_eq!(Case::new(service, known).plan(), expected);
    }
    let waits = Case::new(other(&[], None), Known::Snapshot(assigned(A)));
    assert_eq!(waits.link(Link::Down("x".to_owned())).plan(), Step::Wait);
}

#[test]
fn a_service_of_another_class_is_released_but_never_touched() {
    let other = |ingress, mark| service(ingress, mark, json!({ "loadBalancerClass": "other" }));
    assert_eq!(
        Case::new(other(A, Some("p")), Known::Nothing).plan(),
        Step::Settled
    );
    assert_eq!(
        Case::new(other(A, Some("p")), Known::Snapshot(assigned(A))).plan(),
        Step::Release {
            uid: "u".to_owned()
        }
    );
}

#[test]
fn a_request_that_makes_no_sense_keeps_the_address_and_says_so() {
    let bad = json!({ "loadBalancerIP": "nonsense" });
    let rejection = Rejection::BadLoadBalancerIp("nonsense".to_owned());
    let case = Case::new(
        service(A, Some("p"), bad.clone()),
        Known::Snapshot(assigned(A)),
    );
    assert_eq!(
        case.plan(),
        Step::Tell(Notice::LoadBalancerFailed(rejection.clone()))
    );
    let case = Case::new(service(&[], None, bad), Known::Nothing);
    let told = failed(Cause::InvalidRequest, &rejection.to_string());
    assert_eq!(case.plan(), Step::Tell(told));
}

#[test]
fn a_service_without_a_usable_family_is_cleared_released_and_told() {
    let bad = || json!({ "ipFamilyPolicy": "RequireDualStack" });
    let notice = Notice::NoFamily(Rejection::NotEnoughClusterIps(vec!["10.0.0.1".to_owned()]));
    let case = Case::new(service(A, Some("p"), bad()), Known::Snapshot(assigned(A)));
    assert_eq!(
        case.plan(),
        Step::Write(Target::nothing(&notice), vec![notice.clone()])
    );
    let case = Case::new(service(&[], None, bad()), Known::Snapshot(assigned(A)));
    assert_eq!(
        case.plan(),
        Step::Release {
            uid: "u".to_owned()
        }
    );
    let case = Case::new(service(&[], None, bad()), Known::Nothing);
    assert_eq!(case.plan(), Step::Tell(notice));
}

#[test]
fn a_refused_request_is_told() {
    let case = Case::new(
        plain(&[], None),
        Known::Came(Outcome::Refused("bad field".to_owned())),
    );
    assert_eq!(
        case.plan(),
        Step::Tell(failed(Cause::NotTaken, "bad field"))
    );
}

#[test]
fn legacy_annotations_are_told_when_the_state_changes() {
    let mut legacy = plain(&[], None);
    let names = ["address-pool", "allow-shared-ip"].map(|it| format!("metallb.universe.tf/{it}"));
    for name in &names {
        legacy.annotations.insert(name.clone(), "p".to_owned());
    }
    let [first, second] = names.map(Notice::DeprecatedAnnotation);
    let case = Case::new(legacy, Known::Answered(assigned(A)));
    assert_eq!(
        case.plan(),
        Step::Write(target(A), vec![Notice::Assigned(ips(A)), first, second])
    );
}

#[test]
fn the_patch_says_only_what_differs() {
    let version = json!({ "resourceVersion": "5" });
    let status = |ingress: Value| json!({ "loadBalancer": { "ingress": ingress } });
    for (service, target, expected) in [
        (
            plain(&[], None),
            target(A),
            json!({
                "metadata": { "resourceVersion": "5", "annotations": { FROM_POOL: "p" } },
                "status": status(json!([{ "ip": "192.0.2.1" }])),
            }),
        ),
        (
            plain(A, Some("old")),
            target(A),
            json!({ "metadata": { "resourceVersion": "5", "annotations": { FROM_POOL: "p" } } }),
        ),
        (
            plain(A, Some("p")),
            target(B),
            json!({ "metadata": version, "status": status(json!([{ "ip": "192.0.2.2" }])) }),
        ),
        (
            plain(A, Some("p")),
            Target::default(),
            json!({
                "metadata": { "resourceVersion": "5", "annotations": { FROM_POOL: null } },
                "status": status(Value::Null),
            }),
        ),
    ] {
        // Conditions are the next test's.
        let target = Target {
            assigned: None,
            ..target
        };
        assert_eq!(patch(&service, &target, &now()), expected);
    }
}

fn now() -> Time {
    Time(jiff::Timestamp::UNIX_EPOCH)
}

/// A Service on which conditions say this.
fn with(mut service: ServiceState, conditions: &[(Type, Wanted)]) -> ServiceState {
    for (of, wanted) in conditions {
        service.conditions.set(*of, wanted, &now());
    }
    service
}

fn said(reason: &str) -> Wanted {
    Some(Said::new(Truth::False, reason, "because"))
}

#[test]
fn one_write_says_the_address_and_that_nothing_is_wrong_with_it() {
    let conditions = |service: &ServiceState, target: &Target| {
        patch(service, target, &now())["status"]["conditions"].clone()
    };
    let waited = with(plain(&[], None), &[(Type::Assigned, said("NoFreeAddress"))]);
    for service in [plain(&[], None), waited] {
        let written = conditions(&service, &target(A));
        let [entry] = written.as_array().expect("a list").as_slice() else {
            panic!("{written}");
        };
        assert_eq!(entry["type"], "pharos.io/Assigned");
        assert_eq!(
            (&entry["status"], &entry["reason"]),
            (&json!("True"), &json!("Assigned"))
        );
    }
    // What was said of who answers was said of another address.
    let gone = json!({ "type": "pharos.io/Announced", "$patch": "delete" });
    let announced = (Type::Announced, said("NotAdvertised"));
    let service = with(plain(A, Some("p")), std::slice::from_ref(&announced));
    let moved = conditions(&service, &target(B));
    assert!(moved.as_array().expect("a list").contains(&gone), "{moved}");
    let lost = conditions(
        &service,
        &Target::nothing(&by_rule(v1::refusal::Reason::NoFreeAddress)),
    );
    assert!(lost.as_array().expect("a list").contains(&gone), "{lost}");
    assert_eq!(lost[0]["reason"], "NoFreeAddress");
    // Only the annotation is missing.
    let service = with(plain(A, None), &[announced]);
    let kept = conditions(&service, &target(A));
    assert!(!kept.as_array().expect("a list").contains(&gone), "{kept}");
}

#[test]
fn a_service_without_conditions_is_not_written_for_their_sake() {
    let served = || Known::Answered(assigned(A));
    let step = |conditions: &[(Type, Wanted)]| {
        Case::new(with(plain(A, Some("p")), conditions), served()).plan()
    };
    assert_eq!(step(&[]), Step::Settled);
    let good = |message: &str| Some(Type::Assigned.good(message));
    assert_eq!(
        step(&[(Type::Assigned, good("in other words"))]),
        Step::Settled
    );
    // Who answers is not this module's to say.
    assert_eq!(
        step(&[(Type::Announced, said("NotAdvertised"))]),
        Step::Settled
    );
    // What is over is taken back.
    let over = step(&[(Type::Assigned, said("AdoptionConflict"))]);
    assert_eq!(over, Step::Write(target(A), Vec::new()));
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_has_no_condition_of_ours() {
    let other = service(&[], None, json!({ "type": "ClusterIP" }));
    let waited = with(other, &[(Type::Assigned, said("NoFreeAddress"))]);
    let case = Case::new(waited.clone(), Known::Nothing);
    assert_eq!(case.plan(), Step::Write(Target::default(), Vec::new()));
    let patch = patch(&waited, &Target::default(), &now());
    let gone = json!([{ "type": "pharos.io/Assigned", "$patch": "delete" }]);
    assert_eq!(patch["status"]["conditions"], gone);
}

#[test]
fn a_trouble_that_a_condition_tells_already_is_not_told_again_after_a_restart() {
    let waits = |reason| {
        let conditions = [(Type::Assigned, said(reason))];
        Case::new(
            with(plain(&[], None), &conditions),
            Known::Answered(pending()),
        )
    };
    assert_eq!(waits("NoFreeAddress").plan(), Step::Wait);
    let trouble = by_rule(v1::refusal::Reason::NoFreeAddress);
    assert_eq!(waits("UnknownPool").plan(), Step::Tell(trouble.clone()));
    // It said another thing meanwhile, and has not lasted long enough for the condition.
    let other = by_rule(v1::refusal::Reason::UnknownPool);
    assert_eq!(
        waits("NoFreeAddress").told(other).plan(),
        Step::Tell(trouble)
    );
}
