//! Judges histories of ipam-service: what clients asked and were told, what the change log says, what
//! was listed and streamed. Pure bookkeeping over messages of the API, without a server, so that
//! real processes and a simulation have the same judge.
//!
//! | invariant | room |
//! |---|---|
//! | I1 intervals in which different sharing groups hold an address never overlap | [`holding`] by the log, [`calls`] by the clients |
//! | I2 who shares an address is of one cluster, sharing key and backend key, with disjoint ports | [`holding`] |
//! | I3 fences and epochs do not go back | [`calls`] |
//! | I4 what was acknowledged is there after any crash; what was not is there or not, never half | [`calls`], [`holding`] |
//! | I5 an address does not pass to another group before its reuse delay is over | [`holding`] |
//! | I6 of a pool, what is held, reserved, resting and free are all there is, and as many as the log says; of a quota what is held | [`usage`] |
//! | I7 revisions without gap or repeat; a snapshot and the changes behind it give the state | [`log`], [`watch`] |
//! | I8 nobody gets an address that its pool, its grant or a reservation does not give it | [`permits`] |
//! | I9 nobody gets more than a quota allows | [`permits`] |
//!
//! Each has a test in which a planted violation must be found.

pub mod calls;
pub mod holding;
pub mod log;
pub mod permits;
mod ranges;
mod records;
pub mod usage;
pub mod watch;

#[cfg(test)]
mod testing;

use std::fmt;

use pharos_proto::v1;

use calls::Call;
use log::Snapshot;
use usage::{QuotaUsage, Usage};
use watch::Watch;

/// What happened, as seen from outside.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub calls: Vec<Call>,
    /// The change log from its first revision to the end, oldest first.
    pub log: Vec<v1::Change>,
    /// What was listed when the store had a revision.
    pub snapshots: Vec<Snapshot>,
    pub watches: Vec<Watch>,
    pub usages: Vec<Usage>,
    pub quotas: Vec<QuotaUsage>,
    /// Of the writers, in the order in which they took over.
    pub epochs: Vec<u64>,
}

/// How exactly a history is to be taken.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// By how much the log may show less time than has passed, in microseconds: its times are those of
    /// the wall clock, and delays count by another one.
    pub clock_slack: i64,
}

/// An invariant, and how it was broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub invariant: Invariant,
    /// One sentence: which address, owner and revision.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// The invariants, as the table of this crate numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// I1
    OneGroupPerAddress,
    /// I2
    SharersAgree,
    /// I3
    FencesGrow,
    /// I4
    Durable,
    /// I5
    ReuseDelay,
    /// I6
    SumOfPool,
    /// I7
    Revisions,
    /// I8
    Permitted,
    /// I9
    WithinQuota,
}

impl Invariant {
    fn broken(self, what: String) -> Violation {
        Violation {
            invariant: self,
            what,
        }
    }
}

/// Everything that is wrong with a history; empty if nothing is.
pub fn check(history: &History, rules: &Rules) -> Vec<Violation> {
    let mut violations = log::check(&history.log, &history.snapshots);
    violations.extend(holding::check(&history.log, rules));
    violations.extend(calls::check(&history.calls, &history.log));
    violations.extend(calls::check_epochs(&history.epochs));
    violations.extend(permits::check(&history.log));
    violations.extend(usage::check(&history.usages, &history.log));
    violations.extend(usage::check_quotas(&history.quotas, &history.log));
    violations.extend(watch::check(&history.watches, &history.log));
    violations
}

/// `cluster/namespace/name`: the key of an owner.
pub(crate) fn owner_key(owner: Option<&v1::Owner>) -> String {
    owner.map_or_else(String::new, |owner| {
        format!("{}/{}/{}", owner.cluster, owner.namespace, owner.name)
    })
}
