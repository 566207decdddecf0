//! What clients were told, against one another and against the change log (I1, I3, I4).

use std::collections::{BTreeMap, BTreeSet};

use pharos_proto::v1;
use pharos_proto::v1::allocation::State;
use pharos_proto::v1::change::Subject;

use crate::log::allocation_change;
use crate::{Invariant, Violation, owner_key};

/// One call of one client. Moments are of one clock of the observer, in any unit.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it was sent.
    pub start: u64,
    /// From when on it has no further effect: the moment of its answer; without one the moment at
    /// which the server that had it was dead. `None`: it may still take effect.
    pub end: Option<u64>,
    pub request: Request,
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Debug, Clone)]
pub enum Request {
    Allocate(Box<v1::AllocateRequest>),
    Release(v1::ReleaseRequest),
    Edit(Edit),
}

/// A change of anything else than an allocation.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    pub request_id: String,
    pub validate_only: bool,
    /// Of the adapter that asks; 0: none.
    pub fence: u64,
    /// Whose it is, with a fence.
    pub cluster: String,
    /// Whether it may take addresses from holders.
    pub moves: bool,
    /// Whether an acknowledgement means that something is gone.
    pub deletes: bool,
    /// Whether fences of `cluster` are forgotten with it.
    pub forgets_fences: bool,
}

/// What was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Allocated(Box<v1::Allocation>),
    /// What was released, if anything was.
    Released(Option<Box<v1::Allocation>>),
    /// What is there now, where the answer shows it: only the `after` of it.
    Edited(Option<Box<Subject>>),
    /// An error that says that nothing was changed.
    Refused,
    /// No answer, or one that leaves it open.
    Unknown,
}

impl Call {
    fn owner(&self) -> Option<&v1::Owner> {
        match &self.request {
            Request::Allocate(request) => request.owner.as_ref(),
            Request::Release(request) => request.owner.as_ref(),
            Request::Edit(_) => None,
        }
    }

    fn edit(&self) -> Option<&Edit> {
        match &self.request {
            Request::Edit(edit) => Some(edit),
            Request::Allocate(_) | Request::Release(_) => None,
        }
    }

    fn key(&self) -> Option<String> {
        self.owner().map(|owner| owner_key(Some(owner)))
    }

    fn cluster(&self) -> &str {
        match self.edit() {
            Some(edit) => &edit.cluster,
            None => self.owner().map_or("", |owner| &owner.cluster),
        }
    }

    fn fence(&self) -> u64 {
        match &self.request {
            Request::Allocate(request) => request.fence,
            Request::Release(request) => request.fence,
            Request::Edit(edit) => edit.fence,
        }
    }

    fn request_id(&self) -> &str {
        match &self.request {
            Request::Allocate(request) => &request.request_id,
            Request::Release(request) => &request.request_id,
            Request::Edit(edit) => &edit.request_id,
        }
    }

    fn is_validation(&self) -> bool {
        match &self.request {
            Request::Allocate(request) => request.validate_only,
            Request::Release(request) => request.validate_only,
            Request::Edit(edit) => edit.validate_only,
        }
    }

    /// Whether nothing of it may be in the log.
    fn must_be_absent(&self) -> bool {
        self.outcome == Outcome::Refused || self.is_validation()
    }

    fn is_acknowledged(&self) -> bool {
        match self.outcome {
            Outcome::Allocated(_) | Outcome::Released(_) | Outcome::Edited(_) => true,
            Outcome::Refused | Outcome::Unknown => false,
        }
    }

    /// Whether its fence is known from then on: nothing that was only tried out leaves one, nor a
    /// release of what nobody had, perhaps not even the cluster. (Of edits it is not asked.)
    fn leaves_fence(&self) -> bool {
        let changed = match &self.outcome {
            Outcome::Allocated(_) | Outcome::Released(Some(_)) => true,
            Outcome::Released(None) | Outcome::Edited(_) | Outcome::Refused | Outcome::Unknown => {
                false
            }
        };
        changed && self.fence() > 0 && !self.is_validation()
    }

    /// The moment of the acknowledgement.
    fn acknowledged_at(&self) -> Option<u64> {
        self.end.filter(|_| self.is_acknowledged())
    }

    fn may_act_after(&self, moment: u64) -> bool {
        self.end.is_none_or(|end| end > moment)
    }
}

pub(crate) fn check(calls: &[Call], log: &[v1::Change]) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_durable(calls, log, &mut violations);
    check_order(calls, &mut violations);
    check_fences(calls, &mut violations);
    check_held(calls, &mut violations);
    violations
}

/// Writers take over with ever higher epochs.
pub(crate) fn check_epochs(epochs: &[u64]) -> Vec<Violation> {
    let pairs = epochs.windows(2).filter(|pair| pair[0] >= pair[1]);
    pairs
        .map(|pair| {
            let what = format!("epoch {} came after epoch {}", pair[1], pair[0]);
            Invariant::FencesGrow.broken(what)
        })
        .collect()
}

/// What was acknowledged is in the log as it was told, and what was refused is not there (I4).
fn check_durable(calls: &[Call], log: &[v1::Change], violations: &mut Vec<Violation>) {
    let by_revision: BTreeMap<u64, &v1::Change> =
        log.iter().map(|change| (change.revision, change)).collect();
    let deleted: BTreeMap<u64, &v1::Change> = log
        .iter()
        .filter_map(|change| {
            let edit = allocation_change(change)?;
            let before = edit.before.as_ref().filter(|_| edit.after.is_none())?;
            Some((before.id, change))
        })
        .collect();
    let by_request: BTreeMap<&str, u64> = log
        .iter()
        .map(|change| (change.request_id.as_str(), change.revision))
        .collect();
    // The network may double a message: one of the two can do what the other is refused.
    let effective: BTreeSet<&str> = calls
        .iter()
        .filter(|call| !call.must_be_absent())
        .map(Call::request_id)
        .collect();
    for call in calls {
        let id = call.request_id();
        if call.must_be_absent() {
            let known = !id.is_empty() && !effective.contains(id);
            if let Some(revision) = by_request.get(id).filter(|_| known) {
                let what = format!("request {id} changed nothing, yet revision {revision} is its");
                violations.push(Invariant::Durable.broken(what));
            }
            continue;
        }
        match &call.outcome {
            Outcome::Allocated(told) => {
                let change = by_revision.get(&told.revision);
                let logged = change.and_then(|change| allocation_change(change)?.after.as_ref());
                if logged != Some(&**told) {
                    let what = format!("what {id} was told is not in the log: {told:?}");
                    violations.push(Invariant::Durable.broken(what));
                }
            }
            Outcome::Released(Some(told)) if !deleted.contains_key(&told.id) => {
                let what = format!("what {id} released is not deleted in the log: {told:?}");
                violations.push(Invariant::Durable.broken(what));
            }
            Outcome::Edited(Some(told)) if !is_logged(told, &by_revision) => {
                let what = format!("what {id} was told is not in the log: {told:?}");
                violations.push(Invariant::Durable.broken(what));
            }
            Outcome::Edited(_)
                if call.edit().is_some_and(|edit| edit.deletes) && !by_request.contains_key(id) =>
            {
                let what = format!("what {id} deleted is not deleted in the log");
                violations.push(Invariant::Durable.broken(what));
            }
            Outcome::Released(_) | Outcome::Edited(_) | Outcome::Refused | Outcome::Unknown => {}
        }
    }
}

/// Whether a record was left so by the change of its revision.
fn is_logged(told: &Subject, by_revision: &BTreeMap<u64, &v1::Change>) -> bool {
    let revision = match told {
        Subject::Pool(edit) => edit.after.as_ref().map(|it| it.revision),
        Subject::AddressSpace(edit) => edit.after.as_ref().map(|it| it.revision),
        Subject::Reservation(edit) => edit.after.as_ref().map(|it| it.revision),
        Subject::Quota(edit) => edit.after.as_ref().map(|it| it.revision),
        Subject::Allocation(_)
        | Subject::Advertisement(_)
        | Subject::BgpPeer(_)
        | Subject::BfdProfile(_)
        | Subject::Cluster(_)
        | Subject::Unavailable(_) => None,
    };
    let change = revision.and_then(|revision| by_revision.get(&revision));
    let mut logged = change.and_then(|change| change.subject.clone());
    match &mut logged {
        Some(Subject::Pool(edit)) => edit.before = None,
        Some(Subject::AddressSpace(edit)) => edit.before = None,
        Some(Subject::Reservation(edit)) => edit.before = None,
        Some(Subject::Quota(edit)) => edit.before = None,
        Some(
            Subject::Allocation(_)
            | Subject::Advertisement(_)
            | Subject::BgpPeer(_)
            | Subject::BfdProfile(_)
            | Subject::Cluster(_)
            | Subject::Unavailable(_),
        )
        | None => {}
    }
    logged.as_ref() == Some(told)
}

/// Who asks later is not told an earlier state of the same owner (I4).
fn check_order(calls: &[Call], violations: &mut Vec<Violation>) {
    let mut told: BTreeMap<String, Vec<(&Call, u64)>> = BTreeMap::new();
    for call in calls.iter().filter(|call| !call.is_validation()) {
        if let (Some(key), Outcome::Allocated(allocation)) = (call.key(), &call.outcome) {
            told.entry(key)
                .or_default()
                .push((call, allocation.revision));
        }
    }
    for (key, mut told) in told {
        told.sort_by_key(|(call, _)| call.start);
        for (index, (later, revision)) in told.iter().enumerate() {
            let earlier = told[..index]
                .iter()
                .filter(|(call, _)| call.end.is_some_and(|end| end < later.start));
            let newest = earlier.map(|(_, revision)| *revision).max();
            if let Some(newest) = newest.filter(|newest| newest > revision) {
                let what = format!("{key} was told revision {revision} after revision {newest}");
                violations.push(Invariant::Durable.broken(what));
            }
        }
    }
}

/// A caller of an older leadership is not served once a newer one was (I3), as long as the cluster is
/// not deleted in between, and its fence with it.
fn check_fences(calls: &[Call], violations: &mut Vec<Violation>) {
    let fenced = |call: &&Call| call.fence() > 0 && call.is_acknowledged();
    for late in calls.iter().filter(fenced) {
        let passed = calls.iter().filter(fenced).find(|earlier| {
            let same = earlier.cluster() == late.cluster();
            let before = earlier.end.is_some_and(|end| end < late.start);
            let left = earlier.leaves_fence() && earlier.fence() > late.fence();
            same && before && left && !deleted_since(calls, earlier)
        });
        if let Some(earlier) = passed {
            let what = format!(
                "{} was served with fence {} after {} with fence {}",
                late.request_id(),
                late.fence(),
                earlier.request_id(),
                earlier.fence()
            );
            violations.push(Invariant::FencesGrow.broken(what));
        }
    }
}

/// Whether the cluster may have been deleted since.
fn deleted_since(calls: &[Call], earlier: &Call) -> bool {
    calls.iter().any(|call| {
        call.edit().is_some_and(|edit| edit.forgets_fences)
            && call.cluster() == earlier.cluster()
            && call.outcome != Outcome::Refused
            && call.may_act_after(earlier.start)
    })
}

/// An interval in which an owner surely holds an address, since it was told so and nobody has begun
/// to change that.
#[derive(Debug)]
struct Held<'a> {
    told: &'a v1::Allocation,
    from: u64,
    /// `None`: to the end.
    until: Option<u64>,
}

/// Nobody is granted what another one surely holds at that time (I1, by the clients alone).
fn check_held(calls: &[Call], violations: &mut Vec<Violation>) {
    let mut by_address: BTreeMap<(&str, &str), Vec<Held<'_>>> = BTreeMap::new();
    let mut by_owner: BTreeMap<String, Vec<&Call>> = BTreeMap::new();
    let mut edits = Vec::new();
    for call in calls {
        match call.key() {
            Some(key) => by_owner.entry(key).or_default().push(call),
            None if call.edit().is_some_and(|edit| edit.moves) => edits.push(call),
            None => {}
        }
    }
    for of_owner in by_owner.values() {
        for call in of_owner {
            let others = of_owner.iter().chain(&edits).copied();
            let Some(held) = surely_held(call, others) else {
                continue;
            };
            for address in &held.told.addresses {
                let place = (held.told.address_space.as_str(), address.as_str());
                by_address.entry(place).or_default().push(Held { ..held });
            }
        }
    }
    for ((space, address), mut intervals) in by_address {
        intervals.sort_by_key(|held| held.from);
        for (index, one) in intervals.iter().enumerate() {
            let overlap = intervals[index + 1..]
                .iter()
                .take_while(|other| one.until.is_none_or(|until| other.from < until))
                .find(|other| !may_share(one.told, other.told));
            if let Some(other) = overlap {
                let what = format!(
                    "{address} of {space} was told to {} and to {} at once",
                    owner_key(one.told.owner.as_ref()),
                    owner_key(other.told.owner.as_ref())
                );
                violations.push(Invariant::OneGroupPerAddress.broken(what));
            }
        }
    }
}

/// `others`: every call that may change what this one was told.
fn surely_held<'a>(call: &'a Call, others: impl Iterator<Item = &'a Call>) -> Option<Held<'a>> {
    let Outcome::Allocated(told) = &call.outcome else {
        return None;
    };
    let from = call.acknowledged_at().filter(|_| !call.is_validation())?;
    let mut until = None;
    for other in others.filter(|other| !std::ptr::eq(*other, call)) {
        if other.start < from {
            if other.may_act_after(call.start) {
                // It may have come after this one.
                return None;
            }
        } else {
            until = Some(until.map_or(other.start, |until: u64| until.min(other.start)));
        }
    }
    // A stale one holds its addresses under an earlier claim, which an answer does not show.
    let assigned = told.state() == State::Assigned;
    assigned.then_some(Held { told, from, until })
}

fn may_share(one: &v1::Allocation, other: &v1::Allocation) -> bool {
    let cluster = |it: &v1::Allocation| it.owner.as_ref().map(|owner| owner.cluster.clone());
    let key = |it: &v1::Allocation| it.claim.as_ref().map(|claim| claim.sharing_key.clone());
    one.owner == other.owner
        || (cluster(one) == cluster(other)
            && key(one) == key(other)
            && key(one).is_some_and(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pharos_proto::v1::change::QuotaChange;

    use crate::testing::{Log, allocation, broken, owner, quota, shared};

    fn take(start: u64, end: Option<u64>, id: &str, told: Option<v1::Allocation>) -> Call {
        let owner = told.as_ref().and_then(|told| told.owner.clone());
        let request = v1::AllocateRequest {
            owner: owner.or_else(|| Some(self::owner("east/a"))),
            request_id: id.to_owned(),
            ..v1::AllocateRequest::default()
        };
        let outcome = told.map_or(Outcome::Unknown, |told| Outcome::Allocated(Box::new(told)));
        Call {
            start,
            end,
            request: Request::Allocate(Box::new(request)),
            outcome,
        }
    }

    fn give_back(start: u64, end: u64, told: v1::Allocation) -> Call {
        let request = v1::ReleaseRequest {
            owner: told.owner.clone(),
            ..v1::ReleaseRequest::default()
        };
        Call {
            start,
            end: Some(end),
            request: Request::Release(request),
            outcome: Outcome::Released(Some(Box::new(told))),
        }
    }

    fn edited(start: u64, edit: Edit, told: Option<Subject>) -> Call {
        Call {
            start,
            end: Some(start + 1),
            request: Request::Edit(edit),
            outcome: Outcome::Edited(told.map(Box::new)),
        }
    }

    fn fenced(mut call: Call, fence: u64) -> Call {
        if let Request::Allocate(request) = &mut call.request {
            request.fence = fence;
        }
        call
    }

    #[test]
    fn what_was_told_and_what_was_never_answered_are_right() {
        let mut log = Log::default();
        let first = log.create(allocation("east/a", &["192.0.2.1"]));
        let gone = log.delete("east/a");
        let next = log.create(allocation("east/b", &["192.0.2.1"]));
        let calls = [
            take(0, Some(1), "r1", Some(first)),
            give_back(2, 3, gone),
            take(2, Some(4), "r2", Some(next)),
            take(5, None, "r3", None),
        ];
        assert_eq!(check(&calls, &log.changes), []);
    }

    #[test]
    fn an_acknowledged_call_that_is_not_in_the_log_is_found() {
        let mut log = Log::default();
        let first = log.create(allocation("east/a", &["192.0.2.1"]));
        let mut lost = first.clone();
        lost.revision = 2;
        let call = take(0, Some(1), "r1", Some(lost));
        assert_eq!(broken(&check(&[call], &log.changes)), [Invariant::Durable]);
        let mut other = first.clone();
        other.addresses = vec!["192.0.2.2".to_owned()];
        let call = take(0, Some(1), "r1", Some(other));
        assert_eq!(broken(&check(&[call], &log.changes)), [Invariant::Durable]);
        let call = give_back(0, 1, first);
        assert_eq!(broken(&check(&[call], &log.changes)), [Invariant::Durable]);
    }

    #[test]
    fn a_refused_request_that_left_something_behind_is_found() {
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        let mut refused = take(0, Some(1), "request-1", None);
        refused.outcome = Outcome::Refused;
        let found = check(std::slice::from_ref(&refused), &log.changes);
        assert_eq!(broken(&found), [Invariant::Durable]);
        let twin = take(0, None, "request-1", None);
        assert_eq!(check(&[refused, twin], &log.changes), []);
    }

    #[test]
    fn an_acknowledged_edit_that_is_not_in_the_log_is_found() {
        let mut log = Log::default();
        log.limit(quota("east", 3));
        let told = |limit| {
            Subject::Quota(QuotaChange {
                before: None,
                after: Some(v1::Quota {
                    revision: 1,
                    ..quota("east", limit)
                }),
            })
        };
        log.changes[0].subject = Some(told(3));
        let edit = |id: &str, deletes| Edit {
            request_id: id.to_owned(),
            deletes,
            ..Edit::default()
        };
        let right = [
            edited(0, edit("request-1", false), Some(told(3))),
            edited(2, edit("request-1", true), None),
        ];
        assert_eq!(check(&right, &log.changes), []);
        for wrong in [
            edited(0, edit("request-1", false), Some(told(4))),
            edited(0, edit("request-9", true), None),
        ] {
            let found = check(&[wrong], &log.changes);
            assert_eq!(broken(&found), [Invariant::Durable]);
        }
        let mut refused = edited(0, edit("request-1", false), None);
        refused.outcome = Outcome::Refused;
        let found = check(&[refused], &log.changes);
        assert_eq!(broken(&found), [Invariant::Durable]);
    }

    #[test]
    fn an_answer_from_the_past_is_found() {
        let mut log = Log::default();
        let old = log.create(allocation("east/a", &["192.0.2.1"]));
        let new = log.update("east/a", |one| one.pool = "other".to_owned());
        let calls = |second_start| {
            let told = Some(new.clone());
            [
                take(0, Some(1), "r1", told),
                take(second_start, Some(9), "r2", Some(old.clone())),
            ]
        };
        assert_eq!(check(&calls(1), &log.changes), []);
        let found = check(&calls(2), &log.changes);
        assert_eq!(broken(&found), [Invariant::Durable]);
    }

    #[test]
    fn an_older_fence_after_a_newer_one_is_found() {
        let mut log = Log::default();
        let told = log.create(allocation("east/a", &["192.0.2.1"]));
        let new = fenced(take(0, Some(1), "r1", Some(told.clone())), 7);
        let old = |start| fenced(take(start, Some(9), "r2", Some(told.clone())), 6);
        assert_eq!(check(&[new.clone(), old(1)], &log.changes), []);
        let found = check(&[new.clone(), old(2)], &log.changes);
        assert_eq!(broken(&found), [Invariant::FencesGrow]);
        let deletion = |cluster: &str| Call {
            start: 1,
            end: Some(2),
            request: Request::Edit(Edit {
                cluster: cluster.to_owned(),
                forgets_fences: true,
                ..Edit::default()
            }),
            outcome: Outcome::Edited(None),
        };
        let calls = [new.clone(), deletion("east"), old(3)];
        assert_eq!(check(&calls, &log.changes), []);
        let found = check(&[new.clone(), deletion("west"), old(3)], &log.changes);
        assert_eq!(broken(&found), [Invariant::FencesGrow]);
        let sync = Edit {
            cluster: "east".to_owned(),
            fence: 6,
            ..Edit::default()
        };
        let found = check(&[new, edited(2, sync, None)], &log.changes);
        assert_eq!(broken(&found), [Invariant::FencesGrow]);
    }

    #[test]
    fn an_epoch_that_does_not_grow_is_found() {
        assert_eq!(check_epochs(&[1, 2, 5]), []);
        assert_eq!(broken(&check_epochs(&[1, 2, 2])), [Invariant::FencesGrow]);
    }

    #[test]
    fn an_address_that_two_are_told_at_once_is_found() {
        let a = allocation("east/a", &["192.0.2.1"]);
        let b = allocation("west/b", &["192.0.2.1"]);
        let calls = |b_start| {
            [
                take(0, Some(1), "r1", Some(a.clone())),
                give_back(5, 6, a.clone()),
                take(b_start, Some(b_start + 1), "r2", Some(b.clone())),
            ]
        };
        let mut seen = Vec::new();
        check_held(&calls(2), &mut seen);
        assert_eq!(broken(&seen), [Invariant::OneGroupPerAddress]);
        // Whoever has begun to give it back may have lost it already.
        let mut seen = Vec::new();
        check_held(&calls(4), &mut seen);
        assert_eq!(seen, []);
    }

    #[test]
    fn sharers_and_calls_that_are_still_under_way_are_no_violation() {
        let mut seen = Vec::new();
        let sharers = ["east/a", "east/b"].map(|name| {
            let told = shared(name, "192.0.2.1", "key", 80);
            take(0, Some(1), name, Some(told))
        });
        check_held(&sharers, &mut seen);
        assert_eq!(seen, []);
        let under_way = [
            take(0, None, "lost", None),
            take(2, Some(3), "r1", Some(allocation("east/a", &["192.0.2.1"]))),
            take(4, Some(5), "r2", Some(allocation("west/b", &["192.0.2.1"]))),
        ];
        check_held(&under_way, &mut seen);
        assert_eq!(seen, []);
    }
}
