//! Short ways to write histories.

use std::collections::BTreeMap;

use pharos_proto::v1;
use pharos_proto::v1::change::{
    AddressSpaceChange, AllocationChange, PoolChange, QuotaChange, ReservationChange, Subject,
    Type, UnavailableChange,
};

use crate::holding::SERVICE;
use crate::{Invariant, Violation, owner_key};

/// `cluster/name`.
pub(crate) fn owner(text: &str) -> v1::Owner {
    let (cluster, name) = text.split_once('/').expect("cluster/name");
    v1::Owner {
        cluster: cluster.to_owned(),
        name: name.to_owned(),
        ..v1::Owner::default()
    }
}

/// An assigned allocation of TCP port 80. Its id and revision are given by [`Log`].
pub(crate) fn allocation(text: &str, addresses: &[&str]) -> v1::Allocation {
    v1::Allocation {
        owner: Some(owner(text)),
        state: v1::allocation::State::Assigned.into(),
        addresses: addresses.iter().map(|it| (*it).to_owned()).collect(),
        pool: "pool".to_owned(),
        pools: addresses.iter().map(|_| of_pool("pool")).collect(),
        address_space: "default".to_owned(),
        claim: Some(v1::Claim {
            ports: vec![tcp(80)],
            ..v1::Claim::default()
        }),
        ..v1::Allocation::default()
    }
}

/// The same under a sharing key, on a port.
pub(crate) fn shared(text: &str, address: &str, key: &str, port: u32) -> v1::Allocation {
    let mut allocation = allocation(text, &[address]);
    let claim = allocation.claim.as_mut().expect("a claim");
    key.clone_into(&mut claim.sharing_key);
    claim.ports = vec![tcp(port)];
    allocation
}

fn of_pool(name: &str) -> v1::PoolRef {
    v1::PoolRef {
        name: name.to_owned(),
        ..v1::PoolRef::default()
    }
}

/// An operator's pool of one range.
pub(crate) fn pool(name: &str, range: &str) -> v1::Pool {
    v1::Pool {
        name: name.to_owned(),
        address_space: "default".to_owned(),
        addresses: vec![range.to_owned()],
        ..v1::Pool::default()
    }
}

/// Grants of one range to one cluster.
pub(crate) fn grant(cluster: &str, range: &str) -> v1::AddressSpace {
    v1::AddressSpace {
        name: "default".to_owned(),
        grants: vec![v1::address_space::Grant {
            cluster: cluster.to_owned(),
            ranges: vec![range.to_owned()],
        }],
        ..v1::AddressSpace::default()
    }
}

/// `kept_for`: `cluster` or `cluster/name`; empty: nobody.
pub(crate) fn reservation(range: &str, kept_for: &str) -> v1::Reservation {
    let (cluster, name) = kept_for.split_once('/').unwrap_or((kept_for, ""));
    let kept_for = v1::KeptFor {
        cluster: cluster.to_owned(),
        name: name.to_owned(),
        ..v1::KeptFor::default()
    };
    v1::Reservation {
        name: "kept".to_owned(),
        address_space: "default".to_owned(),
        addresses: vec![range.to_owned()],
        kept_for: Some(kept_for).filter(|kept| !kept.cluster.is_empty()),
        ..v1::Reservation::default()
    }
}

/// Of all that a cluster holds.
pub(crate) fn quota(cluster: &str, limit: u32) -> v1::Quota {
    v1::Quota {
        name: "few".to_owned(),
        cluster: cluster.to_owned(),
        address_space: "default".to_owned(),
        limit: Some(limit),
        ..v1::Quota::default()
    }
}

fn tcp(port: u32) -> v1::Port {
    v1::Port {
        protocol: v1::port::Protocol::Tcp.into(),
        port,
    }
}

/// A change log that is being written. Each change takes a second.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) changes: Vec<v1::Change>,
    now: BTreeMap<String, v1::Allocation>,
}

impl Log {
    /// Returns it with its id and revision.
    pub(crate) fn create(&mut self, mut allocation: v1::Allocation) -> v1::Allocation {
        allocation.id = self.next();
        allocation.revision = self.next();
        let key = owner_key(allocation.owner.as_ref());
        self.push(Type::Created, None, Some(allocation.clone()));
        self.now.insert(key, allocation.clone());
        allocation
    }

    /// Returns it with its new revision.
    pub(crate) fn update(
        &mut self,
        text: &str,
        edit: impl FnOnce(&mut v1::Allocation),
    ) -> v1::Allocation {
        let key = owner_key(Some(&owner(text)));
        let before = self.now.remove(&key).expect("known");
        let mut after = before.clone();
        edit(&mut after);
        after.revision = self.next();
        self.push(Type::Updated, Some(before), Some(after.clone()));
        self.now.insert(key, after.clone());
        after
    }

    pub(crate) fn delete(&mut self, text: &str) -> v1::Allocation {
        let before = self.now.remove(&owner_key(Some(&owner(text))));
        let before = before.expect("known");
        self.push(Type::Deleted, Some(before.clone()), None);
        before
    }

    fn next(&self) -> u64 {
        u64::try_from(self.changes.len()).expect("few") + 1
    }

    /// A new record of an address space.
    pub(crate) fn fence(&mut self, record: v1::AddressSpace) {
        let (before, after) = (None, Some(record));
        let subject = Subject::AddressSpace(AddressSpaceChange { before, after });
        self.push_subject(Type::Created, subject);
    }

    pub(crate) fn pool(&mut self, pool: v1::Pool) {
        let (before, after) = (None, Some(pool));
        self.push_subject(Type::Created, Subject::Pool(PoolChange { before, after }));
    }

    pub(crate) fn reserve(&mut self, reservation: v1::Reservation) {
        let (before, after) = (None, Some(reservation));
        let subject = Subject::Reservation(ReservationChange { before, after });
        self.push_subject(Type::Created, subject);
    }

    pub(crate) fn limit(&mut self, quota: v1::Quota) {
        let (before, after) = (None, Some(quota));
        self.push_subject(Type::Created, Subject::Quota(QuotaChange { before, after }));
    }

    /// Something stands for an address.
    pub(crate) fn rest(
        &mut self,
        address: &str,
        reason: v1::unavailable::Reason,
    ) -> v1::Unavailable {
        let row = v1::Unavailable {
            address_space: "default".to_owned(),
            address: address.to_owned(),
            reason: reason.into(),
            ..v1::Unavailable::default()
        };
        self.say(Type::Created, None, Some(&row));
        row
    }

    /// It stands otherwise.
    pub(crate) fn amend(&mut self, row: &v1::Unavailable) {
        self.say(Type::Updated, None, Some(row));
    }

    /// And stands no more.
    pub(crate) fn wake(&mut self, row: &v1::Unavailable) {
        self.say(Type::Deleted, Some(row), None);
    }

    fn say(
        &mut self,
        kind: Type,
        before: Option<&v1::Unavailable>,
        after: Option<&v1::Unavailable>,
    ) {
        let subject = Subject::Unavailable(UnavailableChange {
            before: before.cloned(),
            after: after.cloned(),
        });
        self.push_subject(kind, subject);
    }

    fn push(&mut self, kind: Type, before: Option<v1::Allocation>, after: Option<v1::Allocation>) {
        self.push_subject(
            kind,
            Subject::Allocation(AllocationChange { before, after }),
        );
    }

    fn push_subject(&mut self, kind: Type, subject: Subject) {
        let revision = self.next();
        self.changes.push(v1::Change {
            revision,
            time: Some(prost_types::Timestamp {
                seconds: i64::try_from(revision).expect("few"),
                nanos: 0,
            }),
            request_id: format!("request-{revision}"),
            actor: SERVICE.to_owned(),
            r#type: kind.into(),
            subject: Some(subject),
        });
    }
}

/// The invariants that are broken, each once.
pub(crate) fn broken(violations: &[Violation]) -> Vec<Invariant> {
    let mut broken: Vec<Invariant> = violations.iter().map(|one| one.invariant).collect();
    broken.sort_unstable();
    broken.dedup();
    broken
}
