//! What the tests of the rooms share: short ways to write values, and a book that drives the
//! state as the engine does.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{Address, AddressRange, Family};
use super::change::{Change, Edit};
use super::command::{
    AddressSpaceFields, Allocate, ApplyAddressSpace, Command, IfRefused, InUse, Release,
};
use super::model::*;
use super::names::Name;
use super::refusal::{Reason, Refusal, Rejection};
use super::selector::LabelSelector;
use super::{State, decide};

pub(super) use super::invariants::*;

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).expect(text)
}

pub(super) fn space() -> Name {
    name("default")
}

pub(super) fn address(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().expect(text))
}

pub(super) fn addresses(texts: &[&str]) -> Vec<Address> {
    texts.iter().map(|text| address(text)).collect()
}

/// `cluster/namespace/name`.
pub(super) fn owner(text: &str) -> OwnerKey {
    let mut parts = text.split('/').map(name);
    OwnerKey {
        cluster: parts.next().expect("cluster"),
        namespace: parts.next(),
        name: parts.next().expect("name"),
    }
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(super) fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector {
        match_labels: labels(pairs),
        match_expressions: Vec::new(),
    }
}

pub(super) fn tcp(number: u16) -> Port {
    Port {
        protocol: Protocol::Tcp,
        number,
    }
}

/// A claim for one IPv4 address of any pool.
pub(super) fn claim() -> Claim {
    Claim {
        space: space(),
        families: Families::One(Family::V4),
        dual_stack_pools: DualStackPools::OnePool,
        pool: None,
        reservation: None,
        addresses: Vec::new(),
        ports: vec![tcp(80)],
        sharing_key: String::new(),
        backend_key: String::new(),
        labels: Labels::new(),
        namespace_labels: Labels::new(),
        backends: BackendsPolicy::Unmanaged,
    }
}

pub(super) fn for_addresses(texts: &[&str]) -> Claim {
    Claim {
        addresses: addresses(texts),
        families: Families::Any,
        ..claim()
    }
}

pub(super) fn from_pool(pool: &str) -> Claim {
    Claim {
        pool: Some(name(pool)),
        ..claim()
    }
}

pub(super) fn shared(key: &str, port: u16) -> Claim {
    Claim {
        sharing_key: key.to_owned(),
        ports: vec![tcp(port)],
        ..claim()
    }
}

pub(super) fn families(families: Families) -> Claim {
    Claim {
        families,
        ..claim()
    }
}

/// A claim of both families that may come from two pools.
pub(super) fn from_two_pools(families: Families) -> Claim {
    Claim {
        families,
        dual_stack_pools: DualStackPools::AnyPools,
        ..claim()
    }
}

/// `cluster/name`, or `name` for an operator's pool.
pub(super) fn pool_key(text: &str) -> PoolKey {
    let (cluster, pool) = match text.split_once('/') {
        Some((cluster, pool)) => (Some(name(cluster)), pool),
        None => (None, text),
    };
    PoolKey::new(space(), cluster, name(pool))
}

/// The same in another space.
pub(super) fn key_in_space(key: &PoolKey, space: Name) -> PoolKey {
    PoolKey::new(space, key.cluster.clone(), key.name.clone())
}

pub(super) fn pool(key: &str, ranges: &[&str]) -> Pool {
    Pool {
        key: pool_key(key),
        addresses: ranges.iter().map(|text| (*text).to_owned()).collect(),
        ranges: ranges
            .iter()
            .map(|text| AddressRange::parse(text).expect(text))
            .collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        priority: 0,
        namespaces: Default::default(),
        namespace_selectors: Vec::new(),
        service_selectors: Vec::new(),
        labels: Labels::new(),
        protected: false,
        reuse_delay: std::time::Duration::ZERO,
        reuse_unacknowledged: std::time::Duration::from_secs(300),
        revision: 0,
    }
}

pub(super) fn reservation_key(text: &str) -> ReservationKey {
    ReservationKey {
        space: space(),
        name: name(text),
    }
}

/// `kept_for`: `cluster`, `cluster/namespace` or `cluster/namespace/name`.
pub(super) fn reservation(key: &str, ranges: &[&str], kept_for: Option<&str>) -> Reservation {
    let parse = |text: &&str| match text.parse::<IpAddr>() {
        Ok(one) => AddressRange::new(one.into(), one.into()).expect("one"),
        Err(_) => AddressRange::parse(text).expect(text),
    };
    let scope = |text: &str| {
        let mut parts = text.split('/').map(name);
        OwnerScope {
            cluster: parts.next().expect("cluster"),
            namespace: parts.next(),
            name: parts.next(),
        }
    };
    Reservation {
        key: reservation_key(key),
        addresses: ranges.iter().map(|text| (*text).to_owned()).collect(),
        ranges: ranges.iter().map(parse).collect(),
        kept_for: kept_for.map(scope),
        description: String::new(),
        create_time: Timestamp(0),
        revision: 0,
    }
}

/// Of a cluster, in the space of the tests.
pub(super) fn quota(text: &str, cluster: &str, limit: u32) -> Quota {
    Quota {
        name: name(text),
        cluster: name(cluster),
        subject: QuotaSubject::Cluster,
        space: space(),
        pool: None,
        family: None,
        limit,
        revision: 0,
    }
}

/// Grants by cluster, in the space of the tests.
pub(super) fn fenced(grants: &[(&str, &[&str])]) -> AddressSpace {
    let parse = |text: &&str| AddressRange::parse(text).expect(text);
    let mut record = AddressSpace::new(space());
    for (cluster, ranges) in grants {
        let mut ranges: Vec<AddressRange> = ranges.iter().map(parse).collect();
        ranges.sort();
        record.grants.insert(name(cluster), ranges);
    }
    record
}

pub(super) fn apply_space(wanted: AddressSpace, in_use: InUse) -> Command {
    Command::ApplyAddressSpace(Box::new(ApplyAddressSpace {
        wanted,
        fields: AddressSpaceFields::ALL,
        in_use,
        if_revision: None,
    }))
}

pub(super) fn delete_space() -> Command {
    Command::DeleteAddressSpace {
        name: space(),
        if_revision: None,
    }
}

pub(super) fn allocate(owner_text: &str, claim: Claim) -> Allocate {
    Allocate {
        owner: Owner {
            key: owner(owner_text),
            uid: String::new(),
        },
        claim: claim.into(),
        held: Vec::new(),
        if_refused: IfRefused::Fail,
        if_revision: None,
        fence: 0,
    }
}

pub(super) fn queued(owner_text: &str, claim: Claim) -> Allocate {
    Allocate {
        if_refused: IfRefused::Queue,
        ..allocate(owner_text, claim)
    }
}

pub(super) fn release(owner_text: &str) -> Release {
    Release {
        owner: Owner {
            key: owner(owner_text),
            uid: String::new(),
        },
        allow_missing: false,
        if_revision: None,
        fence: 0,
    }
}

impl From<Allocate> for Command {
    fn from(allocate: Allocate) -> Self {
        Self::Allocate(Box::new(allocate))
    }
}

impl From<Release> for Command {
    fn from(release: Release) -> Self {
        Self::Release(release)
    }
}

/// A state, driven as the engine does: every command is followed by what it makes necessary.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) state: State,
    now: i64,
}

impl Book {
    /// With these operator's pools.
    pub(super) fn with_pools(pools: &[Pool]) -> Self {
        let mut book = Self::default();
        for pool in pools {
            book.apply_pool(pool).expect("a good pool");
        }
        book
    }

    /// Decides and applies one command, without what it makes necessary.
    pub(super) fn step(&mut self, command: impl Into<Command>) -> Result<Vec<Change>, Rejection> {
        self.now += 1;
        let changes = decide(&self.state, &command.into(), Timestamp(self.now))?;
        for change in &changes {
            self.state.apply(change);
        }
        Ok(changes)
    }

    /// Decides what earlier changes made necessary. Returns how many commands that took.
    pub(super) fn settle(&mut self, changes: &mut Vec<Change>) -> usize {
        let mut commands = 0;
        while let Some(command) = self.state.follow_up() {
            changes.extend(self.step(command).expect("follow-ups are never rejected"));
            commands += 1;
            assert!(commands < 100_000, "follow-ups do not end");
        }
        commands
    }

    /// A command with all that it makes necessary; afterwards the book is checked.
    pub(super) fn run(&mut self, command: impl Into<Command>) -> Result<Vec<Change>, Rejection> {
        let mut changes = self.step(command)?;
        self.settle(&mut changes);
        assert_sound(&self.state);
        Ok(changes)
    }

    pub(super) fn apply_pool(&mut self, pool: &Pool) -> Result<Vec<Change>, Rejection> {
        self.edit_pool(pool, InUse::Refuse)
    }

    pub(super) fn edit_pool(
        &mut self,
        pool: &Pool,
        in_use: InUse,
    ) -> Result<Vec<Change>, Rejection> {
        let pool = Box::new(pool.clone());
        self.run(Command::ApplyPool { pool, in_use })
    }

    /// Sets the grants of the space of the tests.
    pub(super) fn grant(
        &mut self,
        grants: &[(&str, &[&str])],
        in_use: InUse,
    ) -> Result<Vec<Change>, Rejection> {
        let record = fenced(grants);
        let known = self.state.address_space(&record.name);
        let hide_holders = known.is_some_and(|known| known.hide_holders);
        self.run(apply_space(
            AddressSpace {
                hide_holders,
                ..record
            },
            in_use,
        ))
    }

    pub(super) fn reserve(&mut self, key: &str, ranges: &[&str], kept_for: Option<&str>) {
        let wanted = Box::new(reservation(key, ranges, kept_for));
        self.run(Command::ApplyReservation(wanted))
            .expect("a good reservation");
    }

    /// The store was replaced, and this cluster has to report what it holds.
    pub(super) fn expect_inventory_of(&mut self, cluster: &str) {
        let mut left = rows(&self.state);
        left.push(Change::Cluster(Edit {
            before: None,
            after: Some(Arc::new(Cluster {
                name: name(cluster),
                uid: String::new(),
                inventory: Inventory::Expected,
                fence: 0,
                create_time: Timestamp(0),
                revision: self.state.revision(),
            })),
        }));
        self.state = State::restore(self.state.revision(), left);
    }

    /// The store is replaced by a backup of what it is now: every cluster has to report.
    pub(super) fn lose_the_store(&mut self) {
        let mut left = rows(&self.state);
        for row in &mut left {
            if let Change::Cluster(edit) = row {
                let known = Cluster::clone(edit.subject());
                edit.after = Some(Arc::new(Cluster {
                    inventory: Inventory::Expected,
                    ..known
                }));
            }
        }
        self.state = State::restore(self.state.revision(), left);
    }

    /// Time passes; what is due then is still to be decided.
    pub(super) fn pass_unsettled(&mut self, seconds: u64) {
        let later = self.state.moment.0 + std::time::Duration::from_secs(seconds);
        self.state.advance(Moment(later));
    }

    pub(super) fn sync_pools(
        &mut self,
        cluster: &str,
        pools: &[Pool],
    ) -> Result<Vec<Change>, Rejection> {
        self.run(Command::SyncPools {
            cluster: name(cluster),
            pools: pools.to_vec(),
            fence: 0,
        })
    }

    /// Allocates and says what the owner holds then.
    pub(super) fn take(&mut self, owner_text: &str, claim: Claim) -> String {
        self.run(allocate(owner_text, claim)).expect("granted");
        self.held(owner_text)
    }

    /// As [`Book::take`], but a refusal is queued.
    pub(super) fn queue(&mut self, owner_text: &str, claim: Claim) -> String {
        self.run(queued(owner_text, claim)).expect("queued");
        self.held(owner_text)
    }

    /// The refusal of a claim that must not be granted.
    pub(super) fn refused(&mut self, owner_text: &str, claim: Claim) -> Refusal {
        match self.run(allocate(owner_text, claim)) {
            Err(Rejection::Refused(refusal)) => *refusal,
            other => panic!("{owner_text}: {other:?}"),
        }
    }

    pub(super) fn get(&self, owner_text: &str) -> Arc<Allocation> {
        let held = self.state.allocation(&owner(owner_text));
        Arc::clone(held.expect(owner_text))
    }

    /// The pools of what an owner holds, one for each address.
    pub(super) fn pools_of(&self, owner_text: &str) -> Vec<String> {
        let allocation = self.get(owner_text);
        let held = allocation.held();
        held.map(|(_, pool)| pool.to_string()).collect()
    }

    /// What an owner holds, in short: the addresses, and in brackets why not what it asks for.
    pub(super) fn held(&self, owner_text: &str) -> String {
        let Some(allocation) = self.state.allocation(&owner(owner_text)) else {
            return "nothing".to_owned();
        };
        let mut words: Vec<String> = Vec::new();
        words.extend(allocation.addresses.iter().map(Address::to_string));
        match &allocation.standing {
            Standing::Assigned => {}
            Standing::Pending(refusal) | Standing::Stale { refusal, .. } => {
                words.push(format!("({})", refusal.reason.as_str()));
            }
        }
        words.join(" ")
    }

    pub(super) fn reason(&self, owner_text: &str) -> Option<Reason> {
        match &self.get(owner_text).standing {
            Standing::Assigned => None,
            Standing::Pending(refusal) | Standing::Stale { refusal, .. } => Some(refusal.reason),
        }
    }
}
