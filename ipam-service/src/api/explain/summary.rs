//! An explanation in plain sentences, most important first.

use crate::api::convert_history::time_to_wire;
use crate::state::address::Address;
use crate::state::model::{Allocation, Families, Standing};
use crate::state::names::Name;
use crate::state::refusal::Refusal;
use crate::state::{
    AddressReport, Explanation, FamilyUsage, Holder, Obstacle, PoolReport, WaitingReport,
};

/// The sentences. `is_request`: about a request instead of what is stored.
pub(super) fn of(it: &Explanation, is_request: bool) -> Vec<String> {
    let mut lines = vec![now(it)];
    if is_request {
        lines.push(request(it));
    }
    let mut place = 0;
    for pool in &it.pools {
        if pool.tried {
            place += 1;
            lines.push(format!("{place}. {}", tried(pool)));
            lines.extend(pool.sharing.iter().map(|one| sharing(pool, one)));
        } else {
            let why = pool.obstacles.iter().map(|one| one.message.as_str());
            let why: Vec<&str> = why.collect();
            lines.push(format!(
                "Pool \"{}\" is not tried: {}.",
                pool.key,
                why.join("; ")
            ));
        }
    }
    if it.pools.is_empty() && it.outcome.claim.addresses.is_empty() {
        lines.push("The cluster sees no pool in this address space.".to_owned());
    }
    if it.more_pools > 0 {
        lines.push(format!("And {} more pools.", it.more_pools));
    }
    lines.extend(it.addresses.iter().filter_map(|one| address(it, one)));
    if let Some(waits) = &it.waiting {
        lines.extend(waiting(waits));
    }
    lines
}

/// What is stored.
fn now(it: &Explanation) -> String {
    let owner = &it.outcome.owner.key;
    let Some(stored) = &it.stored else {
        return format!("Nothing is stored of {owner}.");
    };
    match &stored.standing {
        Standing::Assigned => {
            let more = match stored.claim.families {
                Families::PreferBoth { .. } if stored.addresses.len() < 2 => {
                    "; it would take one of the other family as well"
                }
                Families::Any | Families::One(_) | Families::Both | Families::PreferBoth { .. } => {
                    ", which is what it asks for"
                }
            };
            let outside = match stored.outside_grant {
                true => {
                    "; it lies outside the grant of its cluster, and is kept since a lost store was \
                     recovered"
                }
                false => "",
            };
            format!("{owner} holds {}{more}{outside}.", held(stored))
        }
        Standing::Pending(refusal) => format!(
            "{owner} holds nothing and waits since {} (revision {}): {}.",
            time_to_wire(stored.create_time),
            stored.id,
            refusal.message
        ),
        Standing::Stale { refusal, .. } => format!(
            "{owner} holds {} under an earlier claim; what it asks for now does not fit: {}.",
            held(stored),
            refusal.message
        ),
    }
}

/// What a request would come to.
fn request(it: &Explanation) -> String {
    let refused = |refusal: &Refusal| format!("({}): {}", refusal.reason.as_str(), refusal.message);
    match &it.outcome.standing {
        Standing::Assigned => match &it.stored {
            Some(stored) if stored.addresses == it.outcome.addresses => {
                format!("With this request it would keep {}.", held(&it.outcome))
            }
            Some(_) | None => format!("This request would get {}.", held(&it.outcome)),
        },
        Standing::Pending(refusal) => format!(
            "This request would be refused {}; with if_refused QUEUE it would wait.",
            refused(refusal)
        ),
        Standing::Stale { refusal, .. } => format!(
            "This request would be refused {}; what is held would stay held.",
            refused(refusal)
        ),
    }
}

/// `192.0.2.1 (pool "a") and 2001:db8::1 (pool "b")`.
fn held(allocation: &Allocation) -> String {
    let each = allocation.held();
    let each = each.map(|(address, pool)| format!("{address} (pool \"{pool}\")"));
    each.collect::<Vec<_>>().join(" and ")
}

fn tried(pool: &PoolReport) -> String {
    let mut parts = Vec::new();
    if !pool.gives.is_empty() {
        let gives = pool.gives.iter().map(Address::to_string);
        let gives = gives.collect::<Vec<_>>().join(" and ");
        parts.push(format!("would give {gives}"));
    }
    for obstacle in &pool.obstacles {
        let family = match obstacle.family {
            Some(family) => format!(" {family}"),
            None => String::new(),
        };
        parts.push(format!(
            "refuses{family} ({}): {}",
            obstacle.reason.as_str(),
            obstacle.message
        ));
    }
    format!("Pool \"{}\" {}{}.", pool.key, parts.join(", "), fill(pool))
}

/// How full a pool is, and whose.
fn fill(pool: &PoolReport) -> String {
    let mut parts = Vec::new();
    let usage = pool.usage;
    for (family, usage) in [("IPv4", usage.v4), ("IPv6", usage.v6)] {
        let FamilyUsage { total, free, .. } = usage;
        if total > 0 {
            parts.push(format!("{free} of {total} {family} addresses are free"));
        }
    }
    let clusters = pool.held_by.iter().take(MAX_CLUSTERS);
    let mut clusters: Vec<String> = clusters
        .map(|(cluster, addresses)| {
            let cluster = cluster.as_ref().map_or("other clusters", Name::as_str);
            format!("{cluster} {addresses}")
        })
        .collect();
    match pool.held_by.len().saturating_sub(MAX_CLUSTERS) {
        0 => {}
        more => clusters.push(format!("and {more} more clusters")),
    }
    if !clusters.is_empty() {
        let partial = match pool.held_by_is_partial {
            true => "at least ",
            false => "",
        };
        parts.push(format!("held by {partial}{}", clusters.join(", ")));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!(" [{}]", parts.join("; ")),
    }
}

/// Most clusters that a sentence names.
const MAX_CLUSTERS: usize = 8;

fn sharing(pool: &PoolReport, obstacle: &Obstacle) -> String {
    let (key, reason) = (&pool.key, obstacle.reason.as_str());
    let message = &obstacle.message;
    format!("   Nor can an address of pool \"{key}\" be shared ({reason}): {message}.")
}

/// `None`: the owner holds it and may.
fn address(it: &Explanation, address: &AddressReport) -> Option<String> {
    let is_asked = it.outcome.claim.addresses.contains(&address.address);
    if !is_asked && address.refusal.is_none() {
        return None;
    }
    let pools: Vec<String> = address
        .pools
        .iter()
        .map(|key| format!("\"{key}\""))
        .collect();
    let place = match pools.is_empty() {
        true => "lies in no pool of the cluster".to_owned(),
        false => format!("lies in pool {}", pools.join(" and ")),
    };
    let mut holders: Vec<String> = address.holders.iter().map(name).collect();
    match address.more_holders {
        0 => {}
        more => holders.push(format!("{more} more")),
    }
    let holders = match holders.is_empty() {
        true => "is held by nobody".to_owned(),
        false => format!("is held by {}", holders.join(", ")),
    };
    let verdict = match &address.refusal {
        None => "it can be had".to_owned(),
        Some(refusal) => format!("refused ({}): {}", refusal.reason.as_str(), refusal.message),
    };
    Some(format!(
        "{} {place} and {holders}; {verdict}.",
        address.address
    ))
}

fn name(holder: &Holder) -> String {
    match holder {
        Holder::Owner(owner) => owner.to_string(),
        Holder::Cluster(cluster) => format!("cluster {cluster}"),
        Holder::AnotherCluster => "another cluster".to_owned(),
    }
}

fn waiting(waits: &WaitingReport) -> Vec<String> {
    let first = waits.first.as_ref().map_or_else(String::new, name);
    let ahead = match waits.older {
        0 => "No older claim waits for the same.".to_owned(),
        1 => format!("One older claim waits for the same and goes first: {first}."),
        older => {
            format!("{older} older claims wait for the same and go first; the first is {first}.")
        }
    };
    let wakes = waits.wakes_on.join("; or ");
    vec![ahead, format!("It is decided again as soon as {wakes}.")]
}
