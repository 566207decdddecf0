//! From what is known of a Service to exactly one next step. Pure: `reconcile` performs it, looks
//! again, and asks for the next, until nothing is left to do.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pharos_proto::v1;

use crate::book::{Answer, Entry, Held, Outcome, Refused, Verdict};
use crate::claim::{Claim, NoClaim, Rejection, gateway_asks_for, quoted};
use crate::notice::{Cause, Notice};
use crate::service::{FROM_POOL, Ingress, ServiceState};
use crate::status::condition::{Type, Wanted};
use crate::status::why::{self, Standing};

/// Whether ipam-service can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not yet, but it has not been long.
    Connecting,
    /// No, because of this.
    Down(String),
    /// It is being told what this cluster holds; Services without an address wait for that.
    Adopting,
    /// It cannot be told, because of this.
    Blocked(String),
    Up,
}

/// What is known of a Service.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub service: &'a ServiceState,
    pub wanted: Result<&'a Arc<Claim>, &'a NoClaim>,
    pub entry: Option<&'a Entry>,
    /// What the entry holds belongs to an earlier incarnation, which is certainly gone.
    pub former: bool,
    /// What the entry holds was granted to another claim than the Service makes now, and it is not
    /// certain that the Service was seen as it is.
    pub unsure: bool,
    pub link: &'a Link,
    /// The last trouble that was told to the Service's owner, which is not told again.
    pub told: Option<&'a Notice>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be.
    Settled,
    /// Nothing can be done now; what can change that will cause another look.
    Wait,
    /// See whether the Service is what it was seen to be, before its claim takes the place of
    /// another: that one may be the newer, made by a replica that saw more.
    Verify,
    /// Ask for addresses; those in the status are a wish.
    Ask(Arc<Claim>),
    /// Ask for the addresses in the status, and for nothing else: the address book has never heard
    /// of this Service, which was served before it came.
    Adopt(Arc<Claim>),
    /// Give back what the incarnation `uid` holds.
    Release { uid: String },
    /// Write status and annotation, then tell.
    Write(Target, Vec<Notice>),
    /// Tell, and change nothing.
    Tell(Notice),
}

/// What status and annotation are to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// In this order; empty: no ingress at all.
    pub addresses: Vec<IpAddr>,
    /// Value of `metallb.io/ip-allocated-from-pool`; `None`: no such annotation.
    pub pool: Option<String>,
    /// The condition [`Type::Assigned`]; none: no condition of this adapter at all.
    pub assigned: Wanted,
}

impl Target {
    /// Whether the Service says so already. A condition that tells of trouble is no reason to write: it is
    /// written when the trouble lasts ([`why::differing`]).
    pub fn is_met(&self, service: &ServiceState) -> bool {
        let conditions = &service.conditions;
        let condition_is_met = match &self.assigned {
            None => conditions.is_empty(),
            Some(said) if Type::Assigned.is_good(said) => {
                !conditions.lacks(Type::Assigned, &self.assigned)
            }
            Some(_) => true,
        };
        self.ingress_is_met(service)
            && self.pool.as_deref() == service.from_pool()
            && condition_is_met
    }

    /// No address, because of this.
    fn nothing(notice: &Notice) -> Self {
        Self {
            assigned: why::assigned(notice, Standing::Nothing),
            ..Self::default()
        }
    }

    /// The same for the status alone. Their order says nothing: MetalLB turns it round now and then,
    /// and whatever is there stays.
    pub fn ingress_is_met(&self, service: &ServiceState) -> bool {
        let is_there = |address: &IpAddr| service.ingress.contains(&Ingress::Address(*address));
        service.ingress.len() == self.addresses.len() && self.addresses.iter().all(is_there)
    }
}

/// The next step for a Service.
pub fn plan(situation: &Situation<'_>) -> Step {
    match situation.wanted {
        Ok(claim) => plan_claim(situation, claim),
        // It makes no claim that could take the place of the former's.
        Err(_) if situation.former => release(situation).unwrap_or(Step::Wait),
        Err(NoClaim::NamespaceUnknown) => Step::Wait,
        Err(NoClaim::OtherClass) => release(situation).unwrap_or(Step::Settled),
        Err(NoClaim::NotLoadBalancer) => plan_other_type(situation),
        Err(NoClaim::Rejected(rejection)) if rejection.keeps_address() => {
            let notice = if situation.service.ingress.is_empty() {
                failed(Cause::InvalidRequest, &rejection.to_string())
            } else {
                Notice::LoadBalancerFailed(rejection.clone())
            };
            tell(situation, notice)
        }
        Err(NoClaim::Rejected(rejection)) => plan_no_family(situation, rejection),
    }
}

/// The Service may have been served before: status and annotation go first, so that nobody reads
/// an address that is already somebody else's.
fn plan_other_type(situation: &Situation<'_>) -> Step {
    let service = situation.service;
    let served =
        service.from_pool().is_some() || has_answer(situation) || !service.conditions.is_empty();
    let target = Target::default();
    if served && !target.is_met(service) {
        return Step::Write(target, Vec::new());
    }
    release(situation).unwrap_or(Step::Settled)
}

fn plan_no_family(situation: &Situation<'_>, rejection: &Rejection) -> Step {
    let notice = Notice::NoFamily(rejection.clone());
    let target = Target::nothing(&notice);
    if !target.is_met(situation.service) {
        return Step::Write(target, vec![notice]);
    }
    release(situation).unwrap_or_else(|| tell(situation, notice))
}

fn plan_claim(situation: &Situation<'_>, claim: &Arc<Claim>) -> Step {
    let asked = situation
        .entry
        .and_then(|entry| entry.asked.as_ref())
        .filter(|(asked, _)| asked == claim)
        .map(|(_, outcome)| outcome);
    match asked {
        None => ask(situation, claim),
        Some(Outcome::Refused(why)) => tell(situation, failed(Cause::NotTaken, why)),
        Some(Outcome::AdoptionRefused(why)) => {
            let has = situation.service.addresses();
            if has.is_empty() {
                // Somebody cleared the status: there is nothing left to take over.
                return ask(situation, claim);
            }
            tell(
                situation,
                Notice::AdoptionConflict {
                    has,
                    why: why.clone(),
                },
            )
        }
        Some(Outcome::Answered) => match answer_of(situation, claim) {
            Some(answer) => follow(situation, claim, answer),
            // It was released behind our back.
            None => ask(situation, claim),
        },
    }
}

fn ask(situation: &Situation<'_>, claim: &Arc<Claim>) -> Step {
    match situation.link {
        Link::Connecting | Link::Adopting => Step::Wait,
        Link::Down(why) if situation.service.ingress.is_empty() => {
            let why = format!("ipam-service cannot be reached: {why}");
            tell(situation, failed(Cause::IpamServiceAway, &why))
        }
        Link::Blocked(why) if situation.service.ingress.is_empty() => {
            tell(situation, failed(Cause::InventoryOpen, why))
        }
        // It keeps what it has.
        Link::Down(_) | Link::Blocked(_) => Step::Wait,
        Link::Up if situation.unsure => Step::Verify,
        Link::Up if must_adopt(situation, claim) => Step::Adopt(Arc::clone(claim)),
        Link::Up => Step::Ask(Arc::clone(claim)),
    }
}

/// Whether the Service's addresses are to be taken over: it has some, the address book has never
/// heard of it, and it does not itself ask for others.
pub fn must_adopt(situation: &Situation<'_>, claim: &Claim) -> bool {
    let held = situation.service.addresses();
    let same = held.len() == claim.addresses.len()
        && held.iter().all(|address| claim.addresses.contains(address));
    let asks_for_others = !claim.addresses.is_empty() && !same;
    !held.is_empty() && answer_of(situation, claim).is_none() && !asks_for_others
}

/// Makes status and annotation say what the address book says.
fn follow(situation: &Situation<'_>, claim: &Claim, answer: &Answer) -> Step {
    match &answer.verdict {
        Verdict::Assigned(held) if held.addresses.is_empty() => {
            tell(situation, Notice::NothingGiven)
        }
        Verdict::Assigned(held) => show(situation, claim, held, granted(held))
            .or_else(|| Some(tell(situation, lacks(claim, held)?)))
            .or_else(|| Some(tell(situation, not_followed(situation.service, claim)?)))
            .unwrap_or(Step::Settled),
        Verdict::Stale(held, refused) => {
            let notice = failed(Cause::Rule(refused.reason), &refused.message);
            let assigned = why::assigned(&notice, Standing::Holds);
            show(situation, claim, held, assigned).unwrap_or_else(|| tell(situation, notice))
        }
        Verdict::Pending(refused) => {
            let notice = failed(Cause::Rule(refused.reason), &refused.message);
            let target = Target::nothing(&notice);
            // A store that is still recovering cannot know who holds what.
            if refused.reason == v1::refusal::Reason::Recovering || target.is_met(situation.service)
            {
                return tell(situation, notice);
            }
            Step::Write(target, cleared(situation, refused))
        }
    }
}

fn failed(cause: Cause, why: &str) -> Notice {
    Notice::AllocationFailed {
        cause,
        why: why.to_owned(),
    }
}

/// What is said of addresses with which nothing is wrong.
fn granted(held: &Held) -> Wanted {
    let message = format!("{} of pool {:?}", quoted(&held.addresses), held.pool);
    Some(Type::Assigned.good(message))
}

/// What a Service lacks that prefers to have two addresses, and has one.
fn lacks(claim: &Claim, held: &Held) -> Option<Notice> {
    let wanted = claim.family_policy == v1::claim::FamilyPolicy::PreferDualStack;
    let [address] = held.addresses.as_slice() else {
        return None;
    };
    let family = if address.is_ipv4() { "IPv6" } else { "IPv4" };
    wanted.then(|| Notice::NoAdditional {
        pool: held.pool.clone(),
        family,
    })
}

/// What a Gateway asks for, where its Service keeps something else.
fn not_followed(service: &ServiceState, claim: &Claim) -> Option<Notice> {
    let (has, asked) = (service.addresses(), service.asked_by_gateway());
    let other = !asked.is_empty() && claim.addresses.is_empty() && !gateway_asks_for(service, &has);
    other.then(|| Notice::GatewayNotFollowed {
        has,
        asked: asked.to_vec(),
    })
}

fn show(situation: &Situation<'_>, claim: &Claim, held: &Held, assigned: Wanted) -> Option<Step> {
    let service = situation.service;
    let target = Target {
        addresses: held.addresses.clone(),
        pool: Some(held.pool.clone()),
        assigned,
    };
    if target.is_met(service) {
        return None;
    }
    let had = service.addresses();
    let mut notices: Vec<Notice> = service
        .strange_ingress()
        .map(Notice::StrangeStatus)
        .into_iter()
        .collect();
    if !target.ingress_is_met(service) {
        let added: Vec<IpAddr> = held
            .addresses
            .iter()
            .copied()
            .filter(|address| !had.contains(address))
            .collect();
        let keeps_all = had.iter().all(|address| held.addresses.contains(address));
        match added.as_slice() {
            [added] if keeps_all && !had.is_empty() => notices.push(Notice::AlsoAssigned(*added)),
            _ => {
                let moved = !keeps_all && claim.addresses.is_empty();
                if moved {
                    let why = format!("pool {:?} gives another one", held.pool);
                    notices.push(Notice::Cleared { had, why });
                }
                notices.push(Notice::Assigned(held.addresses.clone()));
            }
        }
        notices.extend(deprecated(service));
    }
    Some(Step::Write(target, notices))
}

fn cleared(situation: &Situation<'_>, refused: &Refused) -> Vec<Notice> {
    let service = situation.service;
    let strange = service.strange_ingress().map(Notice::StrangeStatus);
    let had = service.addresses();
    if had.is_empty() {
        return strange.into_iter().collect();
    }
    let cleared = Notice::Cleared {
        had,
        why: refused.message.clone(),
    };
    let told = strange.into_iter().chain([cleared]);
    told.chain(deprecated(service)).collect()
}

fn deprecated(service: &ServiceState) -> impl Iterator<Item = Notice> {
    let names = service.legacy_annotations();
    names.map(|name| Notice::DeprecatedAnnotation(name.to_owned()))
}

/// Tells a trouble, unless it was the last thing that was told: by this replica, or by one before it, which
/// left a condition.
fn tell(situation: &Situation<'_>, notice: Notice) -> Step {
    let is_told = match situation.told {
        Some(told) => *told == notice,
        None => is_said(situation, &notice),
    };
    match is_told {
        true => Step::Wait,
        false => Step::Tell(notice),
    }
}

/// Whether the Service's condition says this already.
fn is_said(situation: &Situation<'_>, notice: &Notice) -> bool {
    let service = situation.service;
    let answer = situation.entry.and_then(|entry| entry.answer.as_ref());
    let standing = Standing::of(
        service,
        answer.is_some_and(|answer| answer.holds(&service.uid)),
    );
    let wanted = why::assigned(notice, standing);
    wanted.is_some() && !service.conditions.lacks(Type::Assigned, &wanted)
}

/// Gives back what the Service holds, or a former one. What belongs to an incarnation that has not
/// been seen may be that of a newer one: it waits until that is known.
fn release(situation: &Situation<'_>) -> Option<Step> {
    let answer = situation.entry?.answer.as_ref()?;
    let certain = situation.former || answer.is_of(&situation.service.uid);
    Some(match situation.link {
        Link::Up if certain => Step::Release {
            uid: answer.uid.clone(),
        },
        Link::Up | Link::Connecting | Link::Down(_) | Link::Adopting | Link::Blocked(_) => {
            Step::Wait
        }
    })
}

fn has_answer(situation: &Situation<'_>) -> bool {
    situation.entry.is_some_and(|entry| entry.answer.is_some())
}

/// What the address book holds for this incarnation of the Service.
fn answer_of<'a>(situation: &Situation<'a>, claim: &Claim) -> Option<&'a Answer> {
    let answer = situation.entry?.answer.as_ref()?;
    (answer.uid == claim.uid).then_some(answer)
}

/// The strategic merge patch that makes a Service say what it is to say, with nothing in it that the Service
/// says already. It applies to no other version of the Service than the one seen.
pub fn patch(service: &ServiceState, target: &Target, now: &Time) -> serde_json::Value {
    let mut patch = serde_json::json!({
        "metadata": { "resourceVersion": service.resource_version },
    });
    if target.pool.as_deref() != service.from_pool() {
        patch["metadata"]["annotations"] = serde_json::json!({ FROM_POOL: target.pool });
    }
    let mut conditions = vec![(Type::Assigned, &target.assigned)];
    if !target.ingress_is_met(service) {
        let ingress: Vec<serde_json::Value> = target
            .addresses
            .iter()
            .map(|address| serde_json::json!({ "ip": address.to_string() }))
            .collect();
        let ingress = (!ingress.is_empty()).then_some(ingress);
        patch["status"] = serde_json::json!({ "loadBalancer": { "ingress": ingress } });
    }
    // It was said of other addresses.
    if !target.ingress_is_met(service) || target.addresses.is_empty() {
        conditions.push((Type::Announced, &None));
    }
    let conditions = service
        .conditions
        .patch(conditions, service.generation, now);
    if !conditions.is_empty() {
        patch["status"]["conditions"] = conditions.into();
    }
    patch
}

#[cfg(test)]
mod sequences;
#[cfg(test)]
mod tests;
