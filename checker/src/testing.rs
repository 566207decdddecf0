//! Short ways to write histories.

use std::collections::BTreeMap;

use pharos_proto::v1;
use pharos_proto::v1::change::{AddressSpaceChange, AllocationChange, Subject, Type};

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
            r#type: kind.into(),
            subject: Some(subject),
            ..v1::Change::default()
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
