//! When owners may hold one address together, and which address an owner could join.
//!
//! As in MetalLB: equal, non-empty sharing key, equal backend key, and no (protocol, port) used
//! twice. Unlike in MetalLB the sharing key is scoped to the cluster, so that no other cluster can
//! join an address by guessing.

use std::collections::{BTreeMap, BTreeSet};

use super::address::{Address, AddressRange};
use super::model::{Allocation, Claim, OwnerKey, Port};
use super::names::Name;

/// What owners of one address agree on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShareKey {
    cluster: Name,
    sharing_key: String,
    backend_key: String,
}

impl ShareKey {
    /// `None`: the claim is not to be shared.
    pub(super) fn of(owner: &OwnerKey, claim: &Claim) -> Option<Self> {
        (!claim.sharing_key.is_empty()).then(|| Self {
            cluster: owner.cluster.clone(),
            sharing_key: claim.sharing_key.clone(),
            backend_key: claim.backend_key.clone(),
        })
    }
}

/// Why an owner may not hold an address beside its present holders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// Held by another cluster, or the claim has no sharing key.
    Taken,
    /// The holder has another sharing key or backend key, or none.
    OtherKey,
    /// This port is used on the address already.
    PortInUse(Port),
}

/// Whether the keys of a claim allow it to stand beside another owner.
pub(super) fn agree(owner: &OwnerKey, claim: &Claim, holder: &Allocation) -> Result<(), Conflict> {
    let held = holder.effective_claim();
    if owner.cluster != holder.owner.key.cluster || claim.sharing_key.is_empty() {
        Err(Conflict::Taken)
    } else if claim.sharing_key != held.sharing_key || claim.backend_key != held.backend_key {
        Err(Conflict::OtherKey)
    } else {
        Ok(())
    }
}

/// All addresses of one [`ShareKey`] in a space, and which ports are used on each.
///
/// Per port there are runs of addresses on which it is used. They are runs in the order of this
/// group's addresses, whatever lies between them in the number space, so that the first address
/// after those that refuse a port is found in O(log n). An address that enters or leaves the group
/// costs one step per port in use in the group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ShareGroup {
    addresses: BTreeSet<Address>,
    used: BTreeMap<Port, BTreeMap<Address, Address>>,
}

impl ShareGroup {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Adds an address on which no port is used yet.
    pub(super) fn add_address(&mut self, address: Address) {
        if !self.addresses.insert(address) {
            return;
        }
        let (before, after) = (self.before(address), self.after(address));
        for runs in self.used.values_mut() {
            let Some((&first, &last)) = runs.range(..address).next_back() else {
                continue;
            };
            if last > address {
                let before = before.expect("the run begins before the address");
                let after = after.expect("the run ends after the address");
                runs.insert(first, before);
                runs.insert(after, last);
            }
        }
    }

    /// Takes an address away, on which no port is used any more.
    pub(super) fn remove_address(&mut self, address: Address) {
        self.addresses.remove(&address);
        let (Some(before), Some(after)) = (self.before(address), self.after(address)) else {
            return;
        };
        for runs in self.used.values_mut() {
            let Some((&first, &last)) = runs.range(..=before).next_back() else {
                continue;
            };
            if last == before
                && let Some(end) = runs.remove(&after)
            {
                runs.insert(first, end);
            }
        }
    }

    /// A port of an address of the group comes into use.
    pub(super) fn use_port(&mut self, address: Address, port: Port) {
        let (before, after) = (self.before(address), self.after(address));
        let runs = self.used.entry(port).or_default();
        let (mut first, mut last) = (address, address);
        if let Some(before) = before
            && let Some((&run, &end)) = runs.range(..=before).next_back()
            && end == before
        {
            first = run;
        }
        if let Some(after) = after
            && let Some(end) = runs.remove(&after)
        {
            last = end;
        }
        runs.insert(first, last);
    }

    /// A port of an address of the group is used no more.
    pub(super) fn free_port(&mut self, address: Address, port: Port) {
        let (before, after) = (self.before(address), self.after(address));
        let Some(runs) = self.used.get_mut(&port) else {
            return;
        };
        let run = runs.range(..=address).next_back();
        if let Some((&first, &last)) = run
            && last >= address
        {
            runs.remove(&first);
            if let Some(before) = before.filter(|before| *before >= first) {
                runs.insert(first, before);
            }
            if let Some(after) = after.filter(|after| *after <= last) {
                runs.insert(after, last);
            }
        }
        if runs.is_empty() {
            self.used.remove(&port);
        }
    }

    /// The lowest address of `first..=last` on which none of the ports is used.
    pub(super) fn lowest(&self, ports: &[Port], first: Address, last: Address) -> Option<Address> {
        let mut candidate = *self.addresses.range(first..=last).next()?;
        // Each port can push the candidate further, and then the others have to be asked again.
        loop {
            let refused_until = ports
                .iter()
                .filter_map(|port| {
                    let runs = self.used.get(port)?;
                    let (_, end) = runs.range(..=candidate).next_back()?;
                    (*end >= candidate).then_some(*end)
                })
                .max();
            let Some(end) = refused_until else {
                return Some(candidate);
            };
            candidate = self.after(end).filter(|next| *next <= last)?;
        }
    }

    /// Its addresses in a range.
    pub(super) fn addresses_in(&self, range: AddressRange) -> impl Iterator<Item = Address> {
        self.addresses.range(range.first()..=range.last()).copied()
    }

    fn before(&self, address: Address) -> Option<Address> {
        self.addresses.range(..address).next_back().copied()
    }

    fn after(&self, address: Address) -> Option<Address> {
        let next = address.next()?;
        self.addresses.range(next..).next().copied()
    }
}

#[cfg(test)]
mod tests;
