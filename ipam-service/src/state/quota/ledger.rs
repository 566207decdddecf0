//! How much is held of each quota: counters that follow every change of an allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Placed, QuotaUsage};
use crate::state::address::Address;
use crate::state::change::Edit;
use crate::state::model::{Allocation, OwnerKey, Quota, QuotaSubject};
use crate::state::names::Name;

/// All quotas, and what is held of each.
#[derive(Debug, Default)]
pub(in crate::state) struct Quotas {
    by_name: BTreeMap<Name, Arc<Quota>>,
    /// By address space and cluster. Never empty.
    ledgers: BTreeMap<Name, BTreeMap<Name, Ledgers>>,
    /// What appeared since somebody last looked.
    opened: Vec<Opened>,
}

impl PartialEq for Quotas {
    /// What was opened is a mark, not a part of the book.
    fn eq(&self, other: &Self) -> bool {
        (&self.by_name, &self.ledgers) == (&other.by_name, &other.ledgers)
    }
}

/// The quotas of one cluster in one space.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ledgers {
    of_cluster: Vec<Ledger>,
    of_each_namespace: Vec<Ledger>,
    by_namespace: BTreeMap<Name, Vec<Ledger>>,
}

/// A quota and what is held of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) quota: Arc<Quota>,
    /// One without a name, or one for each namespace. Never empty.
    pub(super) tallies: BTreeMap<Bucket, Tally>,
}

/// The namespace for which an `each_namespace` quota counts (owners without one together); `None`
/// for other quotas.
pub(in crate::state) type Bucket = Option<Name>;

/// Who holds how many: the addresses, and how many owners each of them has.
pub(super) type Tally = BTreeMap<Address, u32>;

/// One number that a quota limits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::state) struct Slot {
    pub(in crate::state) quota: Name,
    pub(in crate::state) bucket: Bucket,
}

/// What somebody who let go of an address left to others.
#[derive(Debug)]
pub(in crate::state) enum Opened {
    /// Room for whoever waits for it.
    Room(Slot),
    /// An address that only one owner counts for now: it may exchange it, which needs no room.
    Exchange { address: Address, slot: Slot },
}

impl Quota {
    /// Whether an address counts, as far as what it is goes.
    pub(super) fn counts(&self, (address, pool): Placed<'_>) -> bool {
        pool.space == self.space
            && self.pool.as_ref().is_none_or(|name| *name == pool.name)
            && self.family.is_none_or(|family| family == address.family())
    }

    pub(super) fn bucket(&self, owner: &OwnerKey) -> Bucket {
        match self.subject {
            QuotaSubject::EachNamespace => owner.namespace.clone(),
            QuotaSubject::Cluster | QuotaSubject::Namespace(_) => None,
        }
    }

    /// Whether both limit the same number.
    fn is_about_the_same(&self, other: &Self) -> bool {
        (
            &self.space,
            &self.cluster,
            &self.subject,
            &self.pool,
            self.family,
        ) == (
            &other.space,
            &other.cluster,
            &other.subject,
            &other.pool,
            other.family,
        )
    }
}

impl Ledgers {
    /// Those that concern an owner.
    pub(super) fn of<'a>(&'a self, owner: &OwnerKey) -> impl Iterator<Item = &'a Ledger> {
        let namespace = owner.namespace.as_ref();
        let named = namespace.and_then(|namespace| self.by_namespace.get(namespace));
        let all = self.of_cluster.iter().chain(&self.of_each_namespace);
        all.chain(named.into_iter().flatten())
    }

    fn of_mut<'a>(&'a mut self, owner: &OwnerKey) -> impl Iterator<Item = &'a mut Ledger> {
        let namespace = owner.namespace.as_ref();
        let named = namespace.and_then(|namespace| self.by_namespace.get_mut(namespace));
        let all = self
            .of_cluster
            .iter_mut()
            .chain(&mut self.of_each_namespace);
        all.chain(named.into_iter().flatten())
    }

    fn list(&self, subject: &QuotaSubject) -> &[Ledger] {
        match subject {
            QuotaSubject::Cluster => &self.of_cluster,
            QuotaSubject::EachNamespace => &self.of_each_namespace,
            QuotaSubject::Namespace(name) => self.by_namespace.get(name).map_or(&[], Vec::as_slice),
        }
    }

    fn list_mut(&mut self, subject: &QuotaSubject) -> &mut Vec<Ledger> {
        match subject {
            QuotaSubject::Cluster => &mut self.of_cluster,
            QuotaSubject::EachNamespace => &mut self.of_each_namespace,
            QuotaSubject::Namespace(name) => self.by_namespace.entry(name.clone()).or_default(),
        }
    }
}

impl Ledger {
    pub(super) fn held(&self, bucket: &Bucket) -> usize {
        self.tallies.get(bucket).map_or(0, BTreeMap::len)
    }

    fn hold(&mut self, owner: &OwnerKey, address: Address) {
        let tally = self.tallies.entry(self.quota.bucket(owner)).or_default();
        *tally.entry(address).or_default() += 1;
    }

    /// Says what appeared, if something did. A claim takes two addresses at most, so nobody waited
    /// where there was room for two.
    fn let_go(&mut self, owner: &OwnerKey, address: Address) -> Option<Opened> {
        let bucket = self.quota.bucket(owner);
        let tally = self.tallies.get_mut(&bucket)?;
        let holders = tally.get_mut(&address)?;
        *holders -= 1;
        let holders = *holders;
        let was_tight = tally.len() + 2 > limit_of(&self.quota);
        if holders == 0 {
            tally.remove(&address);
            if tally.is_empty() {
                self.tallies.remove(&bucket);
            }
        }
        let quota = self.quota.name.clone();
        let slot = Slot { quota, bucket };
        match holders {
            0 if was_tight => Some(Opened::Room(slot)),
            1 if was_tight => Some(Opened::Exchange { address, slot }),
            _ => None,
        }
    }
}

pub(super) fn limit_of(quota: &Quota) -> usize {
    usize::try_from(quota.limit).expect("32 bits fit")
}

impl Quotas {
    pub(in crate::state) fn get(&self, name: &str) -> Option<&Arc<Quota>> {
        self.by_name.get(name)
    }

    pub(in crate::state) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// By name.
    pub(in crate::state) fn iter(&self) -> impl Iterator<Item = &Arc<Quota>> {
        self.by_name.values()
    }

    /// Another quota that limits the same number.
    pub(super) fn same_as(&self, wanted: &Quota) -> Option<&Arc<Quota>> {
        let ledgers = self.ledgers_of(&wanted.space, &wanted.cluster)?;
        let list = ledgers.list(&wanted.subject).iter().map(|one| &one.quota);
        let mut others = list.filter(|other| other.name != wanted.name);
        others.find(|other| other.is_about_the_same(wanted))
    }

    /// Makes an edit true. `held`: all that the cluster of the quota holds; it is looked at only
    /// where a quota is new or is about something else than before.
    pub(in crate::state) fn replace<'a>(
        &mut self,
        edit: &Edit<Quota>,
        held: impl Iterator<Item = &'a Arc<Allocation>>,
    ) {
        let mut tallies = None;
        if let Some(before) = &edit.before {
            let removed = self.take_out(before);
            let same = edit
                .after
                .as_ref()
                .is_some_and(|it| it.is_about_the_same(before));
            tallies = removed.filter(|_| same).map(|ledger| ledger.tallies);
        }
        let Some(after) = &edit.after else {
            return;
        };
        let ledger = match tallies {
            Some(tallies) => Ledger {
                quota: Arc::clone(after),
                tallies,
            },
            None => Self::counted(after, held),
        };
        self.by_name.insert(after.name.clone(), Arc::clone(after));
        let clusters = self.ledgers.entry(after.space.clone()).or_default();
        let ledgers = clusters.entry(after.cluster.clone()).or_default();
        let list = ledgers.list_mut(&after.subject);
        list.push(ledger);
        list.sort_by(|one, other| one.quota.name.cmp(&other.quota.name));
    }

    fn counted<'a>(quota: &Arc<Quota>, held: impl Iterator<Item = &'a Arc<Allocation>>) -> Ledger {
        let mut ledger = Ledger {
            quota: Arc::clone(quota),
            tallies: BTreeMap::new(),
        };
        for one in held {
            let owner = &one.owner.key;
            let concerned = match &quota.subject {
                QuotaSubject::Cluster | QuotaSubject::EachNamespace => true,
                QuotaSubject::Namespace(name) => owner.namespace.as_ref() == Some(name),
            };
            for placed in one
                .held()
                .filter(|placed| concerned && quota.counts(*placed))
            {
                ledger.hold(owner, placed.0);
            }
        }
        ledger
    }

    fn take_out(&mut self, quota: &Quota) -> Option<Ledger> {
        self.by_name.remove(&quota.name);
        let clusters = self.ledgers.get_mut(&quota.space)?;
        let ledgers = clusters.get_mut(&quota.cluster)?;
        let list = ledgers.list_mut(&quota.subject);
        let place = list.iter().position(|one| one.quota.name == quota.name);
        let removed = place.map(|place| list.remove(place));
        ledgers.by_namespace.retain(|_, list| !list.is_empty());
        if *ledgers == Ledgers::default() {
            clusters.remove(&quota.cluster);
        }
        if clusters.is_empty() {
            self.ledgers.remove(&quota.space);
        }
        removed
    }

    /// Follows a change of an allocation.
    pub(in crate::state) fn follow(&mut self, edit: &Edit<Allocation>) {
        if self.ledgers.is_empty() {
            return;
        }
        // First what comes, so that what stays is never counted as gone.
        if let Some(after) = &edit.after {
            self.each_ledger(after, |ledger, owner, address| {
                ledger.hold(owner, address);
                None
            });
        }
        if let Some(before) = &edit.before {
            self.each_ledger(before, Ledger::let_go);
        }
    }

    fn each_ledger(
        &mut self,
        allocation: &Allocation,
        act: impl Fn(&mut Ledger, &OwnerKey, Address) -> Option<Opened>,
    ) {
        let owner = &allocation.owner.key;
        for placed in allocation.held() {
            let ledgers = self
                .ledgers
                .get_mut(&placed.1.space)
                .and_then(|clusters| clusters.get_mut(&owner.cluster));
            for ledger in ledgers
                .into_iter()
                .flat_map(|ledgers| ledgers.of_mut(owner))
            {
                if ledger.quota.counts(placed) {
                    self.opened.extend(act(ledger, owner, placed.0));
                }
            }
        }
    }

    /// What appeared since this was last asked.
    pub(in crate::state) fn take_opened(&mut self) -> Vec<Opened> {
        std::mem::take(&mut self.opened)
    }

    /// How many more addresses may be held; none of a quota that is not there.
    pub(in crate::state) fn room(&self, slot: &Slot) -> usize {
        self.by_name.get(&slot.quota).map_or(0, |quota| {
            let held = self.ledger(quota).map_or(0, |one| one.held(&slot.bucket));
            limit_of(quota).saturating_sub(held)
        })
    }

    pub(in crate::state) fn has_room(&self, slot: &Slot) -> bool {
        self.room(slot) > 0
    }

    pub(in crate::state) fn usage(&self, quota: &Quota) -> QuotaUsage {
        let tallies = self.ledger(quota).map(|ledger| &ledger.tallies);
        let mut fullest = QuotaUsage::default();
        for (bucket, tally) in tallies.into_iter().flatten() {
            if tally.len() > fullest.held {
                fullest = QuotaUsage {
                    held: tally.len(),
                    namespace: bucket.clone(),
                };
            }
        }
        fullest
    }

    fn ledger(&self, quota: &Quota) -> Option<&Ledger> {
        let ledgers = self.ledgers_of(&quota.space, &quota.cluster)?;
        let mut list = ledgers.list(&quota.subject).iter();
        list.find(|one| one.quota.name == quota.name)
    }

    pub(super) fn ledgers_of(&self, space: &Name, cluster: &Name) -> Option<&Ledgers> {
        self.ledgers.get(space)?.get(cluster)
    }

    /// The slots that would count one of these addresses anew for an owner.
    pub(in crate::state) fn slots_for<'a>(
        &'a self,
        owner: &'a OwnerKey,
        wanted: Placed<'a>,
    ) -> impl Iterator<Item = Slot> + 'a {
        let ledgers = self.ledgers_of(&wanted.1.space, &owner.cluster);
        let concerned = ledgers.into_iter().flat_map(|ledgers| ledgers.of(owner));
        concerned.filter_map(move |ledger| {
            let bucket = ledger.quota.bucket(owner);
            let tally = ledger.tallies.get(&bucket);
            let is_new = tally.is_none_or(|tally| !tally.contains_key(&wanted.0));
            (ledger.quota.counts(wanted) && is_new).then(|| Slot {
                quota: ledger.quota.name.clone(),
                bucket,
            })
        })
    }
}
