//! Assignments and interfaces -> which addresses of which group are to be answered where.
//!
//! Pure. It gathers addresses into election groups, and knows their spots: each address of a group
//! on each usable interface on which it is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Bound;

use sha2::{Digest as _, Sha256};

use crate::book::{Assigned, Key};
use crate::election::{Candidacy, Families, GroupId, NodeName, WantedBy};
use crate::l2::burst::Spot;
use crate::l2::table::{Place, Port, Protocol};

#[cfg(test)]
mod tests;

/// No address of a space is greater.
const LAST_ADDRESS: IpAddr = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));

/// An address of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    wanted: WantedBy,
    owners: Vec<String>,
    probe: bool,
}

/// What is to be announced by layer 2, by group.
#[derive(Debug)]
pub struct Plan {
    me: NodeName,
    groups: BTreeMap<GroupId, Group>,
    group_of: BTreeMap<Key, GroupId>,
    ports: Vec<Port>,
    /// What cannot be answered on them for now.
    deaf: BTreeSet<Place>,
    /// How many of the addresses are of IPv6.
    ipv6: usize,
}

#[derive(Debug)]
struct Group {
    /// By key. Nearly every group has one, for which a tree would take ten times the memory.
    addresses: Vec<(Key, Address)>,
    candidacy: Candidacy,
}

/// What a change touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Groups that changed, came or went.
    pub groups: BTreeSet<GroupId>,
    /// Groups that came with an address of another one, with that one.
    pub successors: BTreeMap<GroupId, GroupId>,
    /// Addresses that are not to be announced by layer 2 any more, in any address space.
    pub gone: BTreeSet<IpAddr>,
}

/// An address of a group with those who use it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub address: IpAddr,
    pub owners: Vec<String>,
}

impl Plan {
    /// A plan of this node.
    pub fn new(me: NodeName) -> Self {
        Self {
            me,
            groups: BTreeMap::new(),
            group_of: BTreeMap::new(),
            ports: Vec::new(),
            deaf: BTreeSet::new(),
            ipv6: 0,
        }
    }

    /// This node.
    pub fn me(&self) -> &NodeName {
        &self.me
    }

    /// Answers on these interfaces from now on, but for what is `deaf`.
    pub fn set_ports(&mut self, ports: Vec<Port>, deaf: BTreeSet<Place>) {
        self.ports = ports;
        self.deaf = deaf;
    }

    /// The interfaces that are answered on.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The interfaces on which IPv6 addresses cannot be answered, if there are any such addresses.
    pub fn lack_link_local(&self) -> impl Iterator<Item = &Port> {
        let lacks = |port: &&Port| self.ipv6 > 0 && port.link_local.is_none();
        self.ports.iter().filter(lacks)
    }

    /// Every group.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is nothing to announce.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Who may own a group; `None`: there is no such group (any more).
    pub fn candidacy(&self, group: GroupId) -> Option<&Candidacy> {
        self.groups.get(&group).map(|group| &group.candidacy)
    }

    /// The addresses of a group with those who use them.
    pub fn used(&self, group: GroupId) -> Vec<Used> {
        let Some(group) = self.groups.get(&group) else {
            return Vec::new();
        };
        let used = |(_, address): &(Key, Address)| Used {
            address: address.ip,
            owners: address.owners.clone(),
        };
        group.addresses.iter().map(used).collect()
    }

    /// The addresses of a group.
    pub fn addresses(&self, group: GroupId) -> impl Iterator<Item = IpAddr> {
        let group = self.groups.get(&group).into_iter();
        group.flat_map(|group| group.addresses.iter().map(|(_, address)| address.ip))
    }

    /// Addresses of a group that nobody has answered for yet.
    pub fn unannounced(&self, group: GroupId) -> BTreeSet<IpAddr> {
        let group = self.groups.get(&group).into_iter();
        let addresses = group.flat_map(|group| &group.addresses);
        let unannounced = addresses.filter(|(_, address)| address.probe);
        unannounced.map(|(_, address)| address.ip).collect()
    }

    /// Where a group is to be answered: each address on every interface on which it is wanted and
    /// can be answered.
    pub fn spots(&self, group: GroupId) -> Vec<Spot> {
        let Some(group) = self.groups.get(&group) else {
            return Vec::new();
        };
        let addresses = group.addresses.iter();
        let spots = addresses.flat_map(|(_, one)| self.spots_of(one.ip, &one.wanted));
        spots.collect::<BTreeSet<Spot>>().into_iter().collect()
    }

    /// The addresses of a group that are to be answered somewhere.
    pub fn answerable(&self, group: GroupId) -> BTreeSet<IpAddr> {
        let spots = self.spots(group).into_iter();
        spots.map(|spot| spot.address).collect()
    }

    /// Where an address is to be answered that is wanted there.
    pub fn spots_of(&self, address: IpAddr, wanted: &WantedBy) -> Vec<Spot> {
        let wanted = wanted.of(&self.me);
        let ports = self.ports.iter();
        let ports = ports.filter(|port| wanted.includes(&port.name) && self.answers(port, address));
        let spots = ports.map(|port| Spot {
            interface: port.index,
            address,
        });
        spots.collect()
    }

    /// Names of the interfaces on which this protocol can be answered.
    pub fn names_that_speak(&self, protocol: Protocol) -> BTreeSet<String> {
        let ports = self.ports.iter();
        let speaking = ports.filter(|port| self.speaks(port, protocol));
        speaking.map(|port| port.name.clone()).collect()
    }

    fn answers(&self, port: &Port, address: IpAddr) -> bool {
        self.speaks(port, Protocol::of(address))
    }

    fn speaks(&self, port: &Port, protocol: Protocol) -> bool {
        port.speaks(protocol) && !self.deaf.contains(&(port.index, protocol))
    }

    /// Takes in changes; gives the groups that they touched, also those that are gone.
    pub fn apply(&mut self, upserts: &[Assigned], removals: &[Key]) -> Touched {
        let mut touched = Touched::default();
        let unwanted = upserts.iter().filter(|assigned| assigned.wanted.is_none());
        let left = removals
            .iter()
            .chain(unwanted.map(|assigned| &assigned.key));
        let known = left.filter(|key| self.group_of.contains_key(*key));
        let left: Vec<IpAddr> = known.map(|key| key.address).collect();
        for key in removals {
            touched.groups.extend(self.remove(key));
        }
        for assigned in upserts {
            self.upsert(assigned, &mut touched);
        }
        touched.gone = left
            .into_iter()
            .filter(|address| !self.has(*address))
            .collect();
        touched
    }

    /// Whether an address is to be announced, in whichever space.
    pub fn has(&self, address: IpAddr) -> bool {
        !self.groups_of(address).is_empty()
    }

    /// The groups that have this address, in whichever space.
    pub fn groups_of(&self, address: IpAddr) -> Vec<GroupId> {
        let mut groups = Vec::new();
        let mut next = self.group_of.keys().next();
        while let Some(Key { space, .. }) = next {
            let space = space.clone();
            let key = Key { space, address };
            groups.extend(self.group_of.get(&key));
            // There are few spaces, and many addresses in each.
            let last = Key {
                address: LAST_ADDRESS,
                ..key
            };
            let behind = (Bound::Excluded(last), Bound::Unbounded);
            next = self.group_of.range(behind).next().map(|(key, _)| key);
        }
        groups
    }

    fn upsert(&mut self, assigned: &Assigned, touched: &mut Touched) {
        let old = self.group_of.get(&assigned.key).copied();
        let moved_from = old.filter(|old| *old != assigned.group);
        if moved_from.is_some() || assigned.wanted.is_none() {
            touched.groups.extend(self.remove(&assigned.key));
        }
        let Some(wanted) = assigned.wanted.clone() else {
            return;
        };
        if let Some(old) = moved_from
            && !self.groups.contains_key(&assigned.group)
        {
            touched.successors.insert(assigned.group, old);
        }
        let group = self.groups.entry(assigned.group).or_insert_with(|| Group {
            addresses: Vec::with_capacity(1),
            candidacy: Candidacy {
                id: assigned.group,
                listed: Vec::new(),
                candidates: [].into(),
                wanted: wanted.clone(),
                families: families_of(assigned.key.address),
                addresses: 0,
            },
        });
        // The addresses of a group come with the same nodes; while they change, the last one rules.
        group.candidacy.listed.clone_from(&assigned.listed);
        group.candidacy.candidates = assigned.candidates.clone();
        let address = Address {
            ip: assigned.key.address,
            wanted,
            owners: assigned.owners.clone(),
            probe: assigned.probe,
        };
        group.insert(assigned.key.clone(), address);
        group.gather();
        let known = self.group_of.insert(assigned.key.clone(), assigned.group);
        if known.is_none() && assigned.key.address.is_ipv6() {
            self.ipv6 += 1;
        }
        touched.groups.insert(assigned.group);
    }

    fn remove(&mut self, key: &Key) -> Option<GroupId> {
        let id = self.group_of.remove(key)?;
        if key.address.is_ipv6() {
            self.ipv6 -= 1;
        }
        let group = self.groups.get_mut(&id)?;
        group.addresses.retain(|(other, _)| other != key);
        group.candidacy.addresses ^= digest_of(key);
        group.gather();
        if group.addresses.is_empty() {
            self.groups.remove(&id);
        }
        Some(id)
    }
}

impl Group {
    fn insert(&mut self, key: Key, address: Address) {
        match self
            .addresses
            .binary_search_by(|(other, _)| other.cmp(&key))
        {
            Ok(index) => self.addresses[index].1 = address,
            Err(index) => {
                self.candidacy.addresses ^= digest_of(&key);
                self.addresses.insert(index, (key, address));
            }
        }
    }

    /// What its addresses ask for together.
    fn gather(&mut self) {
        let addresses = self.addresses.iter().map(|(_, address)| address);
        let wanted = addresses.clone().map(|address| address.wanted.clone());
        if let Some(all) = wanted.reduce(|all, one| all.union(&one)) {
            self.candidacy.wanted = all;
        }
        let families = addresses.map(|address| families_of(address.ip));
        if let Some(all) = families.reduce(Families::union) {
            self.candidacy.families = all;
        }
    }
}

/// What an address adds to the digest of its group, the same for every build that has one.
fn digest_of(key: &Key) -> u64 {
    let mut hash = Sha256::new();
    hash.update(key.space.as_bytes());
    hash.update([0]);
    match key.address {
        IpAddr::V4(address) => hash.update(address.octets()),
        IpAddr::V6(address) => hash.update(address.octets()),
    }
    let digest = <[u8; 32]>::from(hash.finalize());
    let first = digest.into_iter().take(8);
    first.fold(0, |bits, byte| bits << 8 | u64::from(byte))
}

fn families_of(address: IpAddr) -> Families {
    match address {
        IpAddr::V4(_) => Families::Ipv4,
        IpAddr::V6(_) => Families::Ipv6,
    }
}
