//! Judges what is declared, and hands pools, advertisements and BGP peers over to ipam-service, each as a
//! whole set.
//!
//! A set that would take an address from a Service may be half of a change that people make in
//! several objects: a range that goes from one pool to another, a pool with a new name. It is
//! handed over once nothing has changed for a while; every other set goes at once. Advertisements may be
//! about pools that were changed with them: they go after the pools, and stay as they were while those do.
//!
//! Every replica hands over what it knows, and only when a list that it has just made says the same
//! ([`crate::confirm`]): a replica that sees the cluster late puts no old set back, and a definition that
//! goes takes nothing along.

mod bgp;

use std::time::Duration;

use pharos_proto::v1;
use tokio::time::Instant;

use crate::client::CallError;
use crate::confirm::{Live, View};
use crate::context::Context;
use crate::index::Kind;
use crate::policy::{self, Severity};

/// One `kubectl apply`, or one commit of GitOps, follows its objects up faster than this.
const QUIET: Duration = Duration::from_secs(2);
/// Longest wait of a set, however busily pools change.
const LONGEST: Duration = Duration::from_secs(15);

/// In `/readyz`: that a kind is in doubt.
const DOUBTS: [(&str, Kind); 2] = [
    ("declared ipaddresspools", Kind::Pools),
    ("declared l2advertisements", Kind::L2Advertisements),
];

/// How long pools that would move somebody still wait.
#[derive(Debug, Default)]
pub struct Patience {
    waits: Option<Waits>,
}

#[derive(Debug)]
struct Waits {
    pools: Vec<v1::Pool>,
    since: Instant,
    until: Instant,
}

impl Patience {
    /// Resolves when a set has waited for long enough; never if none waits. Cancel safe.
    pub async fn ends(&self) {
        match &self.waits {
            Some(waits) => tokio::time::sleep_until(waits.until).await,
            None => std::future::pending().await,
        }
    }

    /// Whether these pools have waited for long enough. What another set has waited counts only when
    /// pools never come to rest.
    fn is_over(&self, pools: &[v1::Pool], now: Instant) -> bool {
        self.waits.as_ref().is_some_and(|waits| {
            now >= waits.since + LONGEST || (now >= waits.until && waits.pools == pools)
        })
    }

    fn wait(&mut self, pools: &[v1::Pool], now: Instant) {
        let since = self.waits.as_ref().map_or(now, |waits| waits.since);
        self.waits = Some(Waits {
            pools: pools.to_vec(),
            since,
            until: (now + QUIET).min(since + LONGEST),
        });
    }

    /// Nobody knows whether what waits is still declared: the time until now does not count.
    fn begin_again(&mut self, now: Instant) {
        if let Some(waits) = &mut self.waits {
            waits.since = now;
            waits.until = now + QUIET;
        }
    }

    fn end(&mut self) {
        self.waits = None;
    }
}

/// What came of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    InForce,
    /// It is wrong; the earlier one stays in force.
    Refused,
    /// It would move somebody, or is about pools that are not in force; the earlier one stays in force for
    /// now.
    Waits,
    /// It may be another one, or none that anybody declared; the earlier one stays in force.
    Unconfirmed,
    /// There is nothing to hand over: what ipam-service has stays in force.
    Nothing,
}

/// Whether ipam-service has the pools that are declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has, or none are declared.
    Settled,
    /// Not yet, because of this.
    Open(&'static str),
}

/// Hands over what is declared. What has never been listed, or what a list has none of, is left
/// alone: an empty list is what a kind answers with whose definition was removed and applied again.
pub async fn hand_over(context: &Context, patience: &mut Patience) -> Result<Standing, CallError> {
    let live = match Live::read(context).await {
        Ok(live) => live,
        Err(error) => {
            tracing::warn!(%error, "unsure of pools and advertisements, nothing is handed over");
            patience.begin_again(Instant::now());
            return Ok(Standing::Open("pools cannot be listed"));
        }
    };
    let (configuration, views, bgp_views, news) = {
        let mut world = context.world();
        let views = [live.pools(&mut world), live.advertisements(&mut world)];
        let bgp_views = bgp::Views {
            peers: live.bgp_peers(&mut world),
            advertisements: live.bgp_advertisements(&mut world),
        };
        let configuration = policy::examine(&world.index.objects(), &world.settings);
        let news = world.news(configuration.findings());
        (configuration, views, bgp_views, news)
    };
    for finding in news {
        match finding.severity {
            Severity::Warning => tracing::warn!(warning = %finding, "configuration accepted"),
            Severity::Error => tracing::error!(
                error = %finding,
                "configuration refused, the earlier one stays in force"
            ),
        }
    }
    tell(context, DOUBTS[0], &views[0]);
    tell(context, DOUBTS[1], &views[1]);
    let [pools_view, l2_view] = views;
    let pools = match (pools_view, configuration.pools()) {
        (View::Silent, _) => Outcome::Nothing,
        (View::Changing | View::Doubtful(_), _) => Outcome::Unconfirmed,
        (View::Current, Err(_)) => wrong(context, Kind::Pools),
        (View::Current, Ok(pools)) => hand_over_pools(context, pools, patience).await?,
    };
    match pools {
        Outcome::Waits => {}
        Outcome::Unconfirmed => patience.begin_again(Instant::now()),
        Outcome::InForce | Outcome::Refused | Outcome::Nothing => patience.end(),
    }
    let advertisements = match (l2_view, configuration.l2()) {
        (View::Silent, _) => Outcome::Nothing,
        (View::Changing | View::Doubtful(_), _) => Outcome::Unconfirmed,
        (View::Current, Err(_)) => wrong(context, Kind::L2Advertisements),
        (View::Current, Ok(_)) if !matches!(pools, Outcome::InForce | Outcome::Nothing) => {
            Outcome::Waits
        }
        (View::Current, Ok(set)) => {
            let answer = context.ipam.sync_l2_advertisements(set.to_vec()).await;
            accepted(context, Kind::L2Advertisements, answer)?
        }
    };
    let by_bgp = bgp::hand_over(context, &configuration, bgp_views, pools).await?;
    let is_stale = |outcome| {
        matches!(
            outcome,
            Outcome::Refused | Outcome::Waits | Outcome::Unconfirmed
        )
    };
    let [peers, bgp_advertisements] = by_bgp;
    let outcomes = [pools, advertisements, peers, bgp_advertisements];
    let stale = outcomes.into_iter().any(is_stale);
    context.metrics.config_stale.set(i64::from(stale));
    if !is_stale(pools) {
        context.metrics.config_loaded.set(1);
    }
    context.usage.notify_one();
    Ok(match pools {
        Outcome::InForce | Outcome::Nothing => Standing::Settled,
        Outcome::Refused => Standing::Open("pools are wrong"),
        Outcome::Waits | Outcome::Unconfirmed => Standing::Open("pools are changing"),
    })
}

/// Says once why a kind is in doubt, for as long as it is.
fn tell(context: &Context, (part, kind): (&'static str, Kind), view: &View) {
    let doubt = match view {
        View::Doubtful(why) => Some(why.clone()),
        View::Current | View::Silent => None,
        // Nothing is known of it either way.
        View::Changing => {
            tracing::info!(kind = kind.as_str(), "changing, nothing is handed over");
            return;
        }
    };
    match &doubt {
        Some(why) => context.readiness.not_ready(part, why.clone()),
        None => context.readiness.ready(part),
    }
    if context.world().doubts(kind, doubt.clone()) {
        context.status.notify_one();
        if let Some(why) = doubt {
            tracing::warn!(
                kind = kind.as_str(),
                why,
                "in doubt, what was declared stays in force"
            );
        }
    }
}

async fn hand_over_pools(
    context: &Context,
    pools: &[v1::Pool],
    patience: &mut Patience,
) -> Result<Outcome, CallError> {
    if !patience.is_over(pools, Instant::now()) {
        let moves = match context.ipam.sync_pools(pools.to_vec(), true).await {
            Ok(moves) => moves,
            Err(error) => return accepted(context, Kind::Pools, Err(error)),
        };
        if let Some(owner) = moves.first() {
            tracing::info!(
                services = moves.len(),
                first = format!("{}/{}", owner.namespace, owner.name),
                "pools that would take addresses from Services wait for further changes"
            );
            patience.wait(pools, Instant::now());
            return Ok(Outcome::Waits);
        }
    }
    let answer = context.ipam.sync_pools(pools.to_vec(), false).await;
    let outcome = accepted(context, Kind::Pools, answer.map(drop))?;
    context.ask_refused_again();
    Ok(outcome)
}

/// What is wrong is not even asked for: what ipam-service did not take before is declared no more.
fn wrong(context: &Context, kind: Kind) -> Outcome {
    context.world().refuses(kind, None);
    Outcome::Refused
}

/// Says once what ipam-service does not take, for as long as it does not.
fn accepted(
    context: &Context,
    kind: Kind,
    answer: Result<(), CallError>,
) -> Result<Outcome, CallError> {
    let refusal = match answer {
        Ok(()) => None,
        Err(CallError::Refused(error)) => Some(error),
        Err(again @ CallError::Again(_)) => return Err(again),
    };
    let outcome = match &refusal {
        Some(_) => Outcome::Refused,
        None => Outcome::InForce,
    };
    if context.world().refuses(kind, refusal.clone()) {
        context.status.notify_one();
        if let Some(error) = refusal {
            tracing::error!(
                error,
                "configuration refused, the earlier one stays in force"
            );
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(range: &str) -> Vec<v1::Pool> {
        vec![v1::Pool {
            name: "pool".to_owned(),
            addresses: vec![range.to_owned()],
            ..v1::Pool::default()
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_waits_until_nothing_changes_but_not_for_ever() {
        let set = pools("192.0.2.0/30");
        let mut patience = Patience::default();
        assert!(!patience.is_over(&set, Instant::now()));
        let start = Instant::now();
        patience.wait(&set, start);
        patience.ends().await;
        assert_eq!(start.elapsed(), QUIET);
        assert!(patience.is_over(&set, Instant::now()));
        patience.end();

        // Something changes each second.
        let start = Instant::now();
        let mut last = 0;
        let mut next = || {
            last += 1;
            pools(&format!("192.0.2.{last}/32"))
        };
        let mut set = next();
        while !patience.is_over(&set, Instant::now()) {
            patience.wait(&set, Instant::now());
            let second = Duration::from_secs(1);
            let _ = tokio::time::timeout(second, patience.ends()).await;
            set = next();
        }
        assert_eq!(start.elapsed(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_could_not_be_confirmed_waits_again() {
        let set = pools("192.0.2.0/30");
        let mut patience = Patience::default();
        patience.begin_again(Instant::now());
        assert!(futures::poll!(std::pin::pin!(patience.ends())).is_pending());
        patience.wait(&set, Instant::now());
        // The API server is away for longer than any set waits.
        let start = Instant::now();
        while start.elapsed() < LONGEST * 2 {
            patience.ends().await;
            patience.begin_again(Instant::now());
            assert!(futures::poll!(std::pin::pin!(patience.ends())).is_pending());
            assert!(!patience.is_over(&set, Instant::now()));
        }
        patience.ends().await;
        assert!(patience.is_over(&set, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_inherits_no_time_from_another() {
        let mut patience = Patience::default();
        patience.wait(&pools("192.0.2.0/30"), Instant::now());
        patience.ends().await;
        let half = pools("192.0.2.0/31");
        assert!(!patience.is_over(&half, Instant::now()));
        let start = Instant::now();
        patience.wait(&half, start);
        patience.ends().await;
        assert_eq!(start.elapsed(), QUIET);
        assert!(patience.is_over(&half, Instant::now()));
    }
}
