//! How full the pools are: from ipam-service into metrics and the pools' status, by the one replica that
//! writes. Where the others are scraped too, each pool is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pharos_process::Shutdown;
use pharos_proto::v1;

use crate::client::CallError;
use crate::context::Context;
use crate::crd::PoolStatus;
use crate::lease::GuardedError;
use crate::metrics::{Metrics, PoolLabel};
use crate::notice::PoolNotice;
use crate::plan::Link;
use crate::write::{write_pool_event, write_pool_status};

/// At most one look in this time, however many addresses come and go.
const PAUSE: Duration = Duration::from_secs(1);
/// At least one look in this time: other clusters take addresses from a range that is shared.
const TICK: Duration = Duration::from_secs(10);

/// A look that failed, and may go well later.
#[derive(Debug, thiserror::Error)]
enum UsageLookError {
    #[error("ipam-service: {0}")]
    Ipam(#[from] CallError),
    #[error("API server: {0}")]
    Write(#[from] GuardedError),
}

/// Looks whenever something changed, until the process stops.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    let mut shown = Shown::default();
    let mut told = None;
    loop {
        tokio::select! {
            () = shutdown.stopping() => return,
            () = context.usage.notified() => {}
            () = context.leadership.lost(), if !shown.is_empty() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        let outcome = tokio::select! {
            () = shutdown.stopping() => return,
            outcome = look(&context, &mut shown) => outcome,
        };
        let trouble = outcome.err().map(|error| error.to_string());
        if let Some(error) = &trouble {
            if trouble != told {
                tracing::warn!(error, "usage of pools is not shown, to be tried again");
            }
            context.usage.notify_one();
        }
        told = trouble;
        tokio::select! {
            () = shutdown.stopping() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// What has been shown.
#[derive(Debug, Default)]
struct Shown {
    pools: BTreeSet<String>,
    /// How many of a pool's addresses an event said to be outside the grant; none, if none did.
    outside: BTreeMap<String, u128>,
}

impl Shown {
    fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Of the others, nothing is shown any more.
    fn keep_only(&mut self, names: &BTreeSet<String>, metrics: &Metrics) {
        for gone in self.pools.difference(names) {
            metrics.total.remove(gone);
            metrics.in_use.remove(gone);
            metrics.outside_grant.remove(&label(gone));
            self.outside.remove(gone);
        }
        self.pools.retain(|pool| names.contains(pool));
    }
}

async fn look(context: &Context, shown: &mut Shown) -> Result<(), UsageLookError> {
    let (services, served) = context.world().count();
    context
        .metrics
        .services
        .set(i64::try_from(services).unwrap_or(i64::MAX));
    context
        .metrics
        .served
        .set(i64::try_from(served).unwrap_or(i64::MAX));
    if !context.leadership.is_held() {
        shown.keep_only(&BTreeSet::new(), &context.metrics);
        return Ok(());
    }
    // Who lacks what a conversation needs is asked for nothing else.
    if context.world().link != Link::Up {
        return Ok(());
    }
    show(context, shown).await
}

async fn show(context: &Context, shown: &mut Shown) -> Result<(), UsageLookError> {
    let pools = context.ipam.list_pools().await?;
    let names: BTreeSet<String> = pools.iter().map(|pool| pool.name.clone()).collect();
    shown.keep_only(&names, &context.metrics);
    shown.pools = names;
    let mut outcome = Ok(());
    for pool in &pools {
        let usage = pool.usage.clone().unwrap_or_default();
        let ipv4 = Counts::parse(usage.ipv4.as_ref());
        let ipv6 = Counts::parse(usage.ipv6.as_ref());
        let metrics = &context.metrics;
        metrics
            .total
            .set(&pool.name, wide(ipv4.total), wide(ipv6.total));
        metrics
            .in_use
            .set(&pool.name, wide(ipv4.in_use()), wide(ipv6.in_use()));
        let outside = ipv4.outside_grant.saturating_add(ipv6.outside_grant);
        metrics
            .outside_grant
            .get_or_create(&label(&pool.name))
            .set(wide(outside));
        let status = status(ipv4, ipv6);
        let known = context
            .world()
            .index
            .pools()
            .find(|known| known.declared.name == pool.name)
            .map(|known| (known.status, known.uid.clone()));
        let Some((known, uid)) = known else {
            continue;
        };
        let told = shown.outside.get(&pool.name).copied().unwrap_or_default();
        if let Some(notice) = PoolNotice::of(told, outside, ipv4.total.saturating_add(ipv6.total)) {
            write_pool_event(context, &pool.name, &uid, &notice).await;
            shown.outside.insert(pool.name.clone(), outside);
        }
        // A pool that is being deleted is not there any more, and one that says so already is not
        // written again.
        if known != Some(status) {
            // One that cannot be written keeps no other from it.
            outcome = outcome.and(write_pool_status(context, &pool.name, &status).await);
        }
    }
    Ok(outcome?)
}

/// Numbers of addresses of one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    total: u128,
    held: u128,
    free: u128,
    outside_grant: u128,
}

impl Counts {
    fn parse(usage: Option<&v1::pool_usage::FamilyUsage>) -> Self {
        let number = |text: &str| text.parse().unwrap_or_default();
        usage.map_or_else(Self::default, |usage| Self {
            total: number(&usage.total),
            held: number(&usage.held),
            free: number(&usage.free),
            outside_grant: number(&usage.outside_grant),
        })
    }

    /// By whomever: what alerts on exhaustion have to see.
    fn in_use(self) -> u128 {
        self.total.saturating_sub(self.free)
    }
}

fn status(ipv4: Counts, ipv6: Counts) -> PoolStatus {
    let number = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
    PoolStatus {
        assigned_ipv4: number(ipv4.held),
        assigned_ipv6: number(ipv6.held),
        available_ipv4: number(ipv4.free),
        available_ipv6: number(ipv6.free),
    }
}

fn label(pool: &str) -> PoolLabel {
    PoolLabel {
        pool: pool.to_owned(),
    }
}

/// As a metric has it: exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating point numbers"
)]
fn wide(count: u128) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_ipv6_pool_does_not_overflow() {
        let usage = |total: &str, held: &str, others: &str, free: &str| {
            Counts::parse(Some(&v1::pool_usage::FamilyUsage {
                total: total.to_owned(),
                held: held.to_owned(),
                held_by_others: others.to_owned(),
                free: free.to_owned(),
                ..v1::pool_usage::FamilyUsage::default()
            }))
        };
        let ipv4 = usage("21", "2", "3", "16");
        assert_eq!(ipv4.in_use(), 5);
        let ipv6 = usage("18446744073709551616", "1", "0", "18446744073709551615");
        assert_eq!(
            status(ipv4, ipv6),
            PoolStatus {
                assigned_ipv4: 2,
                assigned_ipv6: 1,
                available_ipv4: 16,
                available_ipv6: i64::MAX,
            }
        );
        assert_eq!(Counts::parse(None), Counts::default());
    }
}
