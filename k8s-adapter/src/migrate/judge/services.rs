//! Each Service before and after, by what the adapter would do next with the answers of ipam-service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pharos_proto::net::format_address;
use serde::Serialize;

use crate::book::Verdict;
use crate::claim::{NoClaim, address_space, is_ours};
use crate::notice::Notice;
use crate::plan::{Step, Target};
use crate::service::ServiceState;
use crate::world::{Next, World};

/// What becomes of a Service's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// It has them before and after.
    Unchanged,
    /// It had none, or one of two, and gets one.
    Gains,
    /// It has none, and gets none.
    Waits,
    /// Of another loadBalancerClass: not touched.
    OtherClass,
    /// It would get others.
    Changes,
    /// It would have none.
    Loses,
    /// Its status would stay, and the address book would hold the addresses for somebody else, or not
    /// at all: somebody else may be given them.
    NotHeld,
    /// It could not be found out.
    NotKnown,
}

impl Fate {
    /// Whether nobody who uses the Service will notice.
    pub fn is_fine(self) -> bool {
        match self {
            Self::Unchanged | Self::Gains | Self::Waits | Self::OtherClass => true,
            Self::Changes | Self::Loses | Self::NotHeld | Self::NotKnown => false,
        }
    }
}

/// A Service of type LoadBalancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `namespace/name`.
    pub service: String,
    pub before: Vec<String>,
    pub after: Vec<String>,
    /// Where the addresses come from; empty: from nowhere.
    pub pool: String,
    pub fate: Fate,
    /// Why it is so; empty where there is nothing to explain.
    pub why: String,
}

/// All Services of type LoadBalancer, by name. `taken` is who holds an address in the address book that is
/// to serve the cluster, by address space: Services of this cluster aside.
pub fn rows(world: &World, taken: &BTreeMap<(String, IpAddr), String>) -> Vec<Row> {
    let rows = world.index.services().filter_map(|service| {
        let mut row = row(world, service)?;
        let space = address_space(service, &world.settings);
        let has = service.addresses();
        let holder = |address: &IpAddr| taken.get(&(space.to_owned(), *address));
        let held = has
            .iter()
            .find_map(|address| Some((address, holder(address)?)));
        if let Some((address, holder)) = held
            && row.fate != Fate::OtherClass
        {
            row.fate = Fate::NotHeld;
            row.why = format!("{address} is held by {holder} at ipam-service");
        }
        Some(row)
    });
    rows.collect()
}

/// The same where nobody could be asked.
pub fn unknown_rows(world: &World, why: &str) -> Vec<Row> {
    let ours = world.index.services().filter_map(|service| {
        let fate = match is_ours(service, &world.settings) {
            Ok(()) => Fate::NotKnown,
            Err(NoClaim::OtherClass) => Fate::OtherClass,
            Err(_) => return None,
        };
        let mut row = kept(service, fate, "");
        if fate == Fate::NotKnown {
            row.after = Vec::new();
            why.clone_into(&mut row.why);
        }
        Some(row)
    });
    ours.collect()
}

fn row(world: &World, service: &ServiceState) -> Option<Row> {
    match is_ours(service, &world.settings) {
        Ok(()) => {}
        Err(NoClaim::OtherClass) => {
            let class = service.class.as_deref().unwrap_or("no class");
            return Some(kept(
                service,
                Fate::OtherClass,
                &format!("loadBalancerClass: {class}"),
            ));
        }
        Err(NoClaim::NotLoadBalancer | NoClaim::NamespaceUnknown | NoClaim::Rejected(_)) => {
            return None;
        }
    }
    let Next::Of(_, step) = world.next(&service.key) else {
        return None;
    };
    let mut row = after(service, &step);
    if let Some(answer) = world
        .book
        .get(&service.key)
        .and_then(|it| it.answer.as_ref())
        && let Verdict::Assigned(held) | Verdict::Stale(held, _) = &answer.verdict
    {
        held.pool.clone_into(&mut row.pool);
    }
    Some(row)
}

/// What the next step makes of a Service, which is the last one about its addresses.
fn after(service: &ServiceState, step: &Step) -> Row {
    let has_none = service.ingress.is_empty();
    let or_waits = |fate| if has_none { Fate::Waits } else { fate };
    match step {
        Step::Write(target, notices) => written(service, target, notices),
        Step::Tell(Notice::AdoptionConflict { has: _, why }) => kept(service, Fate::NotHeld, why),
        Step::Tell(notice) => kept(service, or_waits(Fate::Unchanged), &told(service, notice)),
        Step::Settled => kept(service, or_waits(Fate::Unchanged), ""),
        Step::Ask(_) if has_none => kept(service, Fate::Waits, "asked for by the adapter"),
        Step::Ask(_) | Step::Adopt(_) | Step::Wait | Step::Verify | Step::Release { .. } => kept(
            service,
            or_waits(Fate::NotKnown),
            "ipam-service was not asked",
        ),
    }
}

fn written(service: &ServiceState, target: &Target, notices: &[Notice]) -> Row {
    let had = service.addresses();
    let keeps_all = had.iter().all(|address| target.addresses.contains(address));
    let fate = match (target.addresses.len(), keeps_all) {
        (0, _) if had.is_empty() => Fate::Waits,
        (0, _) => Fate::Loses,
        (_, false) => Fate::Changes,
        (count, true) if count == had.len() => Fate::Unchanged,
        (_, true) => Fate::Gains,
    };
    let explain = |notice: &&Notice| {
        !matches!(
            notice,
            Notice::Assigned(_) | Notice::AlsoAssigned(_) | Notice::DeprecatedAnnotation(_)
        )
    };
    let whys = notices.iter().filter(explain);
    let whys: Vec<String> = whys.map(|notice| told(service, notice)).collect();
    Row {
        after: texts(&target.addresses),
        ..kept(service, fate, &whys.join("; "))
    }
}

/// What a notice says, without what the row says already.
fn told(service: &ServiceState, notice: &Notice) -> String {
    if let Notice::AllocationFailed { cause: _, why } | Notice::Cleared { had: _, why } = notice {
        return why.clone();
    }
    notice.message(&service.key)
}

fn kept(service: &ServiceState, fate: Fate, why: &str) -> Row {
    let has = texts(&service.addresses());
    Row {
        service: service.key.to_string(),
        before: has.clone(),
        after: has,
        pool: service.from_pool().unwrap_or_default().to_owned(),
        fate,
        why: why.to_owned(),
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().copied().map(format_address).collect()
}
