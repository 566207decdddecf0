//! Who held an address when, by the change log (I1, I2, I5, and the halves of I4).

use std::collections::BTreeMap;

use pharos_proto::v1;
use pharos_proto::v1::allocation::State;
use pharos_proto::v1::change::{Subject, UnavailableChange};
use pharos_proto::v1::claim::FamilyPolicy;
use pharos_proto::v1::unavailable::Reason;

use crate::log::{allocation_change, subject};
use crate::ranges::parse;
use crate::records::Records;
use crate::{Invariant, Rules, Violation, owner_key};

/// Actor of what follows from other changes.
pub(crate) const SERVICE: &str = "ipam-service";

/// One who holds an address now.
#[derive(Debug, Clone)]
struct Holder {
    owner: String,
    cluster: String,
    /// Under which the address is held; not always the newest.
    claim: v1::Claim,
}

impl Holder {
    fn is_of_group(&self, other: &Self) -> bool {
        self.cluster == other.cluster
            && !self.claim.sharing_key.is_empty()
            && self.claim.sharing_key == other.claim.sharing_key
    }
}

/// An address that nobody holds any more.
#[derive(Debug)]
struct Freed {
    by: String,
    /// From when the delay counts, in microseconds of log time.
    since: i64,
    /// In microseconds.
    delay: i64,
}

/// Holders by space and address, while the log is gone through.
#[derive(Debug, Default)]
struct Book<'a> {
    records: Records<'a>,
    holders: BTreeMap<(String, String), BTreeMap<u64, Holder>>,
    freed: BTreeMap<(String, String), Freed>,
    /// What keeps an address from its next owner, by reason.
    kept: BTreeMap<(String, String), BTreeMap<i32, v1::Unavailable>>,
    /// The claims under which allocations were last assigned.
    assigned: BTreeMap<u64, v1::Claim>,
    violations: Vec<Violation>,
}

pub(crate) fn check(log: &[v1::Change], rules: &Rules) -> Vec<Violation> {
    let mut book = Book::default();
    for (index, change) in log.iter().enumerate() {
        book.records.note(change);
        if let Some(Subject::Unavailable(edit)) = &change.subject {
            book.keep(edit);
            book.follow_rest(edit, change);
        }
        let Some(edit) = allocation_change(change) else {
            continue;
        };
        let time = micros(change);
        if let Some(before) = &edit.before {
            book.let_go(before, time);
        }
        if let Some(after) = &edit.after {
            book.check_kept(edit.before.as_ref(), after, change.revision);
            book.hold(after, change.revision, time, rules);
            book.check_whole(after, change.revision);
        } else {
            book.check_rebirth(change, log.get(index + 1));
        }
    }
    book.violations
}

impl Book<'_> {
    fn keep(&mut self, edit: &UnavailableChange) {
        let Some(row) = edit.after.as_ref().or(edit.before.as_ref()) else {
            return;
        };
        let place = (row.address_space.clone(), row.address.clone());
        let rows = self.kept.entry(place).or_default();
        match &edit.after {
            Some(after) => drop(rows.insert(after.reason, after.clone())),
            None => drop(rows.remove(&row.reason)),
        }
    }

    /// The delay comes after the drain; an operator may end both.
    fn follow_rest(&mut self, edit: &UnavailableChange, change: &v1::Change) {
        let Some(row) = edit.before.as_ref().filter(|_| edit.after.is_none()) else {
            return;
        };
        let place = (row.address_space.clone(), row.address.clone());
        if change.actor != SERVICE {
            self.freed.remove(&place);
        } else if row.reason() == Reason::Draining
            && let Some(freed) = self.freed.get_mut(&place)
        {
            freed.since = micros(change);
            freed.delay = self.records.reuse_delay(&place.0, parse(&place.1));
        }
    }

    /// What drains, rests or is quarantined goes to nobody but whom it waits for (I5). Whoever shares
    /// an address with a holder, or holds it already, does not get it anew.
    fn check_kept(
        &mut self,
        before: Option<&v1::Allocation>,
        after: &v1::Allocation,
        revision: u64,
    ) {
        let owner = owner_key(after.owner.as_ref());
        for address in &after.addresses {
            let place = (after.address_space.clone(), address.clone());
            let had = before.is_some_and(|before| {
                before.address_space == after.address_space && before.addresses.contains(address)
            });
            if had || self.holders.contains_key(&place) {
                continue;
            }
            for row in self.kept.get(&place).into_iter().flat_map(BTreeMap::values) {
                let for_owner = row.for_owner.as_ref();
                if for_owner.is_none_or(|one| owner_key(Some(one)) != owner) {
                    let what = format!(
                        "{address} of {} passed to {owner} at revision {revision}, and is {:?}",
                        place.0,
                        row.reason()
                    );
                    self.violations.push(Invariant::ReuseDelay.broken(what));
                }
            }
        }
    }

    fn let_go(&mut self, before: &v1::Allocation, time: i64) {
        for address in &before.addresses {
            let place = (before.address_space.clone(), address.clone());
            let Some(holders) = self.holders.get_mut(&place) else {
                continue;
            };
            let gone = holders.remove(&before.id);
            if holders.is_empty() {
                self.holders.remove(&place);
                if let Some(gone) = gone {
                    let freed = Freed {
                        by: gone.owner,
                        since: time,
                        delay: self.records.reuse_delay(&place.0, parse(&place.1)),
                    };
                    self.freed.insert(place, freed);
                }
            }
        }
    }

    fn hold(&mut self, after: &v1::Allocation, revision: u64, time: i64, rules: &Rules) {
        let newest = after.claim.clone().unwrap_or_default();
        let claim = if after.state() == State::AssignedStale {
            let earlier = self.assigned.get(&after.id).cloned();
            earlier.unwrap_or_else(|| newest.clone())
        } else {
            newest
        };
        if after.state() == State::Assigned {
            self.assigned.insert(after.id, claim.clone());
        }
        let owner = after.owner.clone().unwrap_or_default();
        let new = Holder {
            owner: owner_key(Some(&owner)),
            cluster: owner.cluster,
            claim,
        };
        for address in &after.addresses {
            let place = (after.address_space.clone(), address.clone());
            if let Some(freed) = self.freed.remove(&place) {
                self.check_delay(&freed, &new, (&place, revision, time), rules);
            }
            let holders = self.holders.entry(place.clone()).or_default();
            for (id, other) in holders.iter().filter(|(id, _)| **id != after.id) {
                if let Some(violation) = clash(&new, other, &place, revision) {
                    self.violations.push(violation);
                }
                debug_assert_ne!(*id, after.id);
            }
            holders.insert(after.id, new.clone());
        }
    }

    /// I5
    fn check_delay(
        &mut self,
        freed: &Freed,
        new: &Holder,
        (place, revision, time): (&(String, String), u64, i64),
        rules: &Rules,
    ) {
        let Freed { by, since, delay } = freed;
        if *by != new.owner && time - since + rules.clock_slack < *delay {
            let what = format!(
                "{} of {} passed from {} to {} at revision {revision} after {} us, before {delay}",
                place.1,
                place.0,
                by,
                new.owner,
                time - since
            );
            self.violations.push(Invariant::ReuseDelay.broken(what));
        }
    }

    /// Who asked for both families or nothing has both (I4).
    fn check_whole(&mut self, after: &v1::Allocation, revision: u64) {
        let claim = after.claim.as_ref();
        let needs_both =
            claim.is_some_and(|claim| claim.family_policy() == FamilyPolicy::RequireDualStack);
        if needs_both && after.state() == State::Assigned && after.addresses.len() != 2 {
            let owner = owner_key(after.owner.as_ref());
            let what = format!("{owner} has half of what it asked for at revision {revision}");
            self.violations.push(Invariant::Durable.broken(what));
        }
        let has_none = after.addresses.is_empty();
        if has_none != (after.state() == State::Pending) {
            let owner = owner_key(after.owner.as_ref());
            let what = format!("{owner} is {:?} with {:?}", after.state(), after.addresses);
            self.violations.push(Invariant::Durable.broken(what));
        }
    }

    /// Another incarnation is a release and an allocation in one: not the release alone (I4). Which
    /// request did it is told by its id; one that allocates says so by the prefix `allocate`.
    fn check_rebirth(&mut self, deleted: &v1::Change, next: Option<&v1::Change>) {
        if !deleted.request_id.starts_with("allocate") {
            return;
        }
        let owner_of = |change: &v1::Change| {
            let edit = allocation_change(change)?;
            Some(owner_key(subject(edit)?.owner.as_ref()))
        };
        let owner = owner_of(deleted);
        let reborn = next
            .is_some_and(|next| next.request_id == deleted.request_id && owner_of(next) == owner);
        if !reborn {
            let what = format!(
                "{} was released at revision {} by a request that allocates, and did only that",
                owner.unwrap_or_default(),
                deleted.revision
            );
            self.violations.push(Invariant::Durable.broken(what));
        }
    }
}

/// Why two may not hold one address together.
fn clash(
    one: &Holder,
    other: &Holder,
    (space, address): &(String, String),
    revision: u64,
) -> Option<Violation> {
    let who = format!(
        "{address} of {space} is held by {} and {} at revision {revision}",
        other.owner, one.owner
    );
    if !one.is_of_group(other) {
        return Some(Invariant::OneGroupPerAddress.broken(who));
    }
    if one.claim.backend_key != other.claim.backend_key {
        let what = format!("{who} with different backend keys");
        return Some(Invariant::SharersAgree.broken(what));
    }
    let port = one
        .claim
        .ports
        .iter()
        .find(|port| other.claim.ports.contains(port))?;
    let what = format!("{who}, both on {:?}/{}", port.protocol(), port.port);
    Some(Invariant::SharersAgree.broken(what))
}

fn micros(change: &v1::Change) -> i64 {
    change.time.map_or(0, |time| {
        time.seconds * 1_000_000 + i64::from(time.nanos / 1000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, allocation, broken, pool, shared};

    fn checked(log: &Log) -> Vec<Invariant> {
        broken(&check(&log.changes, &Rules::default()))
    }

    #[test]
    fn one_group_after_the_other_and_sharers_that_agree_are_right() {
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.delete("east/a");
        log.create(shared("west/b", "192.0.2.1", "key", 80));
        log.create(shared("west/c", "192.0.2.1", "key", 81));
        log.delete("west/b");
        log.create(shared("west/d", "192.0.2.1", "key", 80));
        assert_eq!(checked(&log), []);
    }

    #[test]
    fn the_same_address_in_another_space_is_another_address() {
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        let mut other = allocation("west/a", &["192.0.2.1"]);
        other.address_space = "lab".to_owned();
        log.create(other);
        assert_eq!(checked(&log), []);
    }

    #[test]
    fn two_groups_on_one_address_are_found() {
        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.create(allocation("west/b", &["192.0.2.1"]));
        assert_eq!(checked(&log), [Invariant::OneGroupPerAddress]);
        let mut log = Log::default();
        log.create(shared("east/a", "192.0.2.1", "key", 80));
        log.create(shared("west/b", "192.0.2.1", "key", 81));
        assert_eq!(checked(&log), [Invariant::OneGroupPerAddress]);
    }

    #[test]
    fn sharers_with_a_port_in_common_or_other_backends_are_found() {
        let mut log = Log::default();
        log.create(shared("east/a", "192.0.2.1", "key", 80));
        log.create(shared("east/b", "192.0.2.1", "key", 80));
        assert_eq!(checked(&log), [Invariant::SharersAgree]);
        let mut log = Log::default();
        log.create(shared("east/a", "192.0.2.1", "key", 80));
        let mut other = shared("east/b", "192.0.2.1", "key", 81);
        other.claim.as_mut().expect("a claim").backend_key = "b".to_owned();
        log.create(other);
        assert_eq!(checked(&log), [Invariant::SharersAgree]);
    }

    #[test]
    fn a_stale_owner_holds_under_its_earlier_claim() {
        let stale = |log: &mut Log, port| {
            log.update("east/a", |one| {
                one.state = State::AssignedStale.into();
                one.claim.as_mut().expect("a claim").ports[0].port = port;
            });
        };
        let mut log = Log::default();
        log.create(shared("east/a", "192.0.2.1", "key", 80));
        stale(&mut log, 81);
        log.create(shared("east/b", "192.0.2.1", "key", 81));
        assert_eq!(checked(&log), []);
        log.create(shared("east/c", "192.0.2.1", "key", 80));
        assert_eq!(checked(&log), [Invariant::SharersAgree]);
    }

    /// East gives an address back and takes it again, and then it passes to another owner: `between`
    /// says what happens then. Each change takes a second.
    fn passed_on(delay: i64, between: impl FnOnce(&mut Log)) -> Vec<Invariant> {
        let mut log = Log::default();
        log.pool(v1::Pool {
            reuse_delay: Some(prost_types::Duration {
                seconds: delay,
                nanos: 0,
            }),
            ..pool("pool", "192.0.2.0/28")
        });
        for _ in 0..2 {
            log.create(allocation("east/a", &["192.0.2.1"]));
            log.delete("east/a");
        }
        between(&mut log);
        log.create(allocation("east/b", &["192.0.2.1"]));
        checked(&log)
    }

    #[test]
    fn a_reuse_before_its_delay_is_found() {
        assert_eq!(passed_on(1, |_| ()), []);
        assert_eq!(passed_on(2, |_| ()), [Invariant::ReuseDelay]);
        let elsewhere = |log: &mut Log| log.pool(pool("other", "198.51.100.0/28"));
        assert_eq!(passed_on(2, elsewhere), []);
    }

    #[test]
    fn the_delay_counts_from_the_end_of_the_drain() {
        let drained = |log: &mut Log| {
            let row = log.rest("192.0.2.1", Reason::Draining);
            log.wake(&row);
        };
        assert_eq!(passed_on(1, drained), []);
        assert_eq!(passed_on(3, drained), [Invariant::ReuseDelay]);
        let cleared = |log: &mut Log| {
            drained(log);
            log.changes.last_mut().expect("a change").actor = "somebody".to_owned();
        };
        assert_eq!(passed_on(3, cleared), []);
    }

    #[test]
    fn a_clock_that_is_a_little_off_is_forgiven() {
        let mut log = Log::default();
        log.pool(v1::Pool {
            reuse_delay: Some(prost_types::Duration {
                seconds: 1,
                nanos: 5_000_000,
            }),
            ..pool("pool", "192.0.2.0/28")
        });
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.delete("east/a");
        log.create(allocation("east/b", &["192.0.2.1"]));
        let found = |clock_slack| broken(&check(&log.changes, &Rules { clock_slack }));
        assert_eq!(found(4_999), [Invariant::ReuseDelay]);
        assert_eq!(found(5_000), []);
    }

    #[test]
    fn an_address_that_is_kept_passes_to_nobody_but_whom_it_waits_for() {
        let with_row = |for_owner: Option<&str>, end: bool| {
            let mut log = Log::default();
            log.create(allocation("east/a", &["192.0.2.1"]));
            log.delete("east/a");
            let mut row = log.rest("192.0.2.1", Reason::Draining);
            row.for_owner = for_owner.and_then(|text| allocation(text, &[]).owner);
            log.amend(&row);
            if end {
                log.wake(&row);
            }
            log.create(allocation("east/b", &["192.0.2.1"]));
            checked(&log)
        };
        assert_eq!(with_row(None, false), [Invariant::ReuseDelay]);
        assert_eq!(with_row(Some("east/a"), false), [Invariant::ReuseDelay]);
        assert_eq!(with_row(Some("east/b"), false), []);
        assert_eq!(with_row(None, true), []);
    }

    #[test]
    fn half_a_claim_and_half_a_rebirth_are_found() {
        let mut log = Log::default();
        let mut half = allocation("east/a", &["192.0.2.1"]);
        let claim = half.claim.as_mut().expect("a claim");
        claim.family_policy = FamilyPolicy::RequireDualStack.into();
        log.create(half);
        assert_eq!(checked(&log), [Invariant::Durable]);

        let mut log = Log::default();
        log.create(allocation("east/a", &["192.0.2.1"]));
        log.delete("east/a");
        log.create(allocation("east/a", &["192.0.2.1"]));
        for change in &mut log.changes[1..] {
            change.request_id = "allocate-7".to_owned();
        }
        assert_eq!(checked(&log), []);
        log.changes.pop();
        assert_eq!(checked(&log), [Invariant::Durable]);
    }

    #[test]
    fn a_pending_claim_that_holds_something_is_found() {
        let mut log = Log::default();
        let mut wrong = allocation("east/a", &["192.0.2.1"]);
        wrong.state = State::Pending.into();
        log.create(wrong);
        assert_eq!(checked(&log), [Invariant::Durable]);
    }
}
