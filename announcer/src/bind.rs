//! Keeping the addresses that this node answers for on one of its own interfaces, so that any
//! program that listens on all addresses serves them.
//!
//! [`bound`] decides; this file does it, under the engine: an address is bound before it is
//! answered for, and gone before another node is told to go on. Both wait for the kernel, which
//! takes microseconds; what it refuses is tried again each second.

pub mod bound;
pub mod failures;
pub mod netlink;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use pharos_process::{Readiness, UsageError};

use crate::clock;
use crate::election::GroupId;
use bound::Bound;
use failures::Failures;
use netlink::{Added, Addresses};

/// How often what failed is tried again, and how often is looked at what others changed.
const RETRY: Duration = Duration::from_secs(1);
/// CAP_NET_ADMIN (capabilities(7)).
const NET_ADMIN: u32 = 12;

/// Binds addresses.
#[derive(Debug)]
pub struct Binder {
    interface: String,
    addresses: Addresses,
    bound: Bound,
    /// When the kernel is asked next for what is there.
    look: Option<Instant>,
    readiness: Readiness,
    failures: Failures,
}

impl Binder {
    /// Binds on this interface. Removes what an earlier run left there.
    pub fn open(interface: &str, readiness: Readiness) -> Result<Self, UsageError> {
        let bad = |why: &str| UsageError(format!("--bind-addresses {interface}: {why}"));
        if !is_capable() {
            return Err(bad("needs the capability NET_ADMIN"));
        }
        let mut addresses = Addresses::open(interface).map_err(|error| bad(&error.to_string()))?;
        let left = addresses
            .marked()
            .map_err(|error| bad(&error.to_string()))?;
        let mut binder = Self {
            interface: interface.to_owned(),
            addresses,
            bound: Bound::default(),
            look: None,
            readiness,
            failures: Failures::default(),
        };
        if !left.is_empty() {
            tracing::info!(
                interface,
                addresses = left.len(),
                "removing what was left bound"
            );
            binder.bound.found(left);
            binder.unbind();
        }
        Ok(binder)
    }

    /// A group is answered for with exactly these addresses: what is missing is bound at once. What
    /// is not wanted any more stays until [`Self::unbind`].
    pub fn want(&mut self, group: GroupId, addresses: BTreeSet<IpAddr>) {
        for address in self.bound.want(group, addresses) {
            self.add(address);
        }
    }

    /// Removes what no group wants.
    pub fn unbind(&mut self) {
        for address in self.bound.surplus() {
            match self.addresses.remove(address) {
                Ok(()) => self.bound.unbound(address),
                Err(error) => self.failed(&format!("cannot remove {address}: {error}")),
            }
        }
    }

    /// Removes everything.
    pub fn unbind_all(&mut self) {
        self.bound.want_nothing();
        self.unbind();
    }

    /// Addresses of this host changed, by us or by others: they are looked at soon.
    pub fn changed(&mut self, now: Instant) {
        self.look.get_or_insert(now + RETRY);
    }

    /// When [`Self::tick`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.look
    }

    /// Puts in order what failed, or what others changed.
    pub fn tick(&mut self, now: Instant) {
        if self.look.is_none_or(|at| at > now) {
            return;
        }
        self.look = None;
        self.failures.begin();
        self.put_in_order();
        if self.failures.end() {
            tracing::info!(interface = self.interface, "all addresses are bound");
            self.readiness.ready("bind-addresses");
        }
        self.show();
    }

    fn put_in_order(&mut self) {
        match self.addresses.marked() {
            Ok(there) => self.bound.found(there),
            Err(error) => {
                self.failed(&format!("cannot list addresses: {error}"));
                return;
            }
        }
        for address in self.bound.missing() {
            self.add(address);
        }
        self.unbind();
    }

    fn add(&mut self, address: IpAddr) {
        match self.addresses.add(address) {
            Ok(Added::Ours) => self.bound.bound(address),
            Ok(Added::Foreign) => {}
            Err(error) => self.failed(&format!("cannot add {address}: {error}")),
        }
    }

    fn failed(&mut self, reason: &str) {
        self.look.get_or_insert_with(|| clock::now() + RETRY);
        if self.failures.add(reason) {
            tracing::error!(
                interface = self.interface,
                reason,
                "addresses are not bound"
            );
            self.show();
        }
    }

    fn show(&self) {
        if let Some(reasons) = self.failures.summary() {
            self.readiness.not_ready("bind-addresses", reasons);
        }
    }
}

/// Whether this process may change addresses.
fn is_capable() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // A system that tells nothing is asked by trying.
    bits.is_none_or(|bits| bits & (1 << NET_ADMIN) != 0)
}

/// Says that the kernel answers for what is bound, too, on an interface where it does: then what is
/// asked for is answered twice, and during a handover by two nodes.
pub fn warn_of_answering_kernel(interface: &str) {
    let value = |scope: &str| -> io::Result<u32> {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(scope);
        let text = std::fs::read_to_string(path.join("arp_ignore"))?;
        text.trim().parse().map_err(io::Error::other)
    };
    let (Ok(all), Ok(own)) = (value("all"), value(interface)) else {
        return;
    };
    if all.max(own) == 0 {
        tracing::warn!(
            interface,
            "the kernel answers ARP for bound addresses, too: set net.ipv4.conf.all.arp_ignore=1"
        );
    }
}
