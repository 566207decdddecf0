//! Retention on a real writer and a real database; the wall clock is an argument.

use std::time::Duration;

use pharos_process::Shutdown;

use super::*;
use crate::engine::{self, EngineMetrics, Meta};
use crate::testing::{Folder, PATIENCE, allocate, apply_pool, release};

const DAY: i64 = 24 * 3600 * 1_000_000;

struct Site {
    /// When it was made.
    begin: Timestamp,
    retention: Retention,
    engine: Engine,
    _folder: Folder,
}

impl Site {
    async fn new(policy: Policy) -> Self {
        let folder = Folder::new();
        let readiness = Readiness::default();
        let metrics = EngineMetrics::register(&mut Registry::default());
        let store = folder.open().await;
        let opened = engine::open(store, metrics, readiness.clone(), Shutdown::default()).await;
        let opened = opened.expect("empty");
        tokio::spawn(opened.task.run());
        let retention = Retention::new(
            policy,
            opened.engine.clone(),
            opened.reader,
            opened.compactor,
            &mut Registry::default(),
            readiness,
        );
        let site = Self {
            begin: wall_time(),
            retention,
            engine: opened.engine,
            _folder: folder,
        };
        site.run(apply_pool("pool", &["192.0.2.0/24"])).await;
        site
    }

    async fn run(&self, command: crate::state::command::Command) {
        let done = self.engine.submit(command, Meta::default()).await;
        done.expect("granted");
    }

    /// Two changes each.
    async fn work(&self, rounds: u32) {
        for _ in 0..rounds {
            self.run(allocate("east/ns/web", |_| {})).await;
            self.run(release("east/ns/web")).await;
        }
    }

    async fn log(&self) -> (u64, u64) {
        let state = self.retention.reader.log_state().await.expect("readable");
        (state.oldest, state.revision)
    }

    fn later(&self, days: i64) -> Timestamp {
        Timestamp(self.begin.0 + days * DAY)
    }

    fn is_stopped(&self) -> bool {
        let stopped = self.retention.metrics.stopped.get() == 1;
        assert_eq!(stopped, !self.retention.readiness.notes().is_empty());
        assert_eq!(
            self.retention.readiness.reason(),
            None,
            "it serves all the same"
        );
        stopped
    }
}

#[tokio::test]
async fn the_log_gets_shorter_as_it_grows_older_and_keeps_its_newest() {
    let site = Site::new(Policy {
        keep: Keep::For(10 * DAY),
        floor: 100,
    })
    .await;
    site.work(400).await;
    let (oldest, newest) = site.log().await;
    assert_eq!(oldest, 1);
    assert!(newest > 800);
    // Seen every day, as a service that runs does.
    for day in 0..=11 {
        site.retention
            .once(site.later(day))
            .await
            .expect("looked at");
        assert!(!site.is_stopped(), "day {day}");
        assert_eq!(
            site.log().await.0,
            if day < 11 { 1 } else { newest - 99 },
            "day {day}"
        );
    }
    assert_eq!(site.retention.metrics.compacted.get(), newest - 100);
}

#[tokio::test]
async fn nothing_goes_while_the_clock_is_in_doubt_and_an_operator_can_end_that() {
    let site = Site::new(Policy {
        keep: Keep::For(10 * DAY),
        floor: 1,
    })
    .await;
    site.work(3).await;
    let (_, newest) = site.log().await;
    site.retention.once(site.later(0)).await.expect("looked at");
    site.retention
        .once(site.later(3650))
        .await
        .expect("looked at");
    assert!(site.is_stopped());
    assert_eq!(site.log().await, (1, newest));
    // The clock was put right: no harm was done.
    site.retention.once(site.later(0)).await.expect("looked at");
    assert!(!site.is_stopped());
    // It is ahead, and that is right: the service was away for three weeks.
    let now = site.later(21);
    site.retention.once(now).await.expect("looked at");
    assert!(site.is_stopped());
    let only_asked = site.retention.confirm_clock(now, true).await;
    let (_, verdict) = only_asked.expect("answered");
    assert!(
        matches!(verdict, Verdict::Stopped(Doubt::Ahead(_))),
        "{verdict:?}"
    );
    site.retention.once(now).await.expect("looked at");
    assert!(site.is_stopped());
    site.retention
        .confirm_clock(now, false)
        .await
        .expect("confirmed");
    assert!(!site.is_stopped());
    site.retention.once(now).await.expect("looked at");
    assert_eq!(site.log().await, (newest, newest));
    // And back behind what was confirmed.
    site.retention.once(site.later(0)).await.expect("looked at");
    assert!(site.is_stopped());
}

#[tokio::test]
async fn whoever_allocates_while_the_log_gets_shorter_waits_for_a_step_at_most() {
    let site = Site::new(Policy {
        keep: Keep::For(DAY),
        floor: 1,
    })
    .await;
    site.work(1000).await;
    site.retention
        .note(site.later(1), Timestamp(0))
        .await
        .expect("noted");
    let (retention, now) = (site.retention.clone(), site.later(2));
    let compaction = tokio::spawn(async move { retention.once(now).await });
    let mut longest = Duration::ZERO;
    let mut calls = 0;
    let begun = Instant::now();
    while !compaction.is_finished() {
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        let started = Instant::now();
        site.work(1).await;
        longest = longest.max(started.elapsed());
        calls += 2;
    }
    compaction.await.expect("no panic").expect("looked at");
    let (oldest, _) = site.log().await;
    assert!(oldest > 1900, "{oldest}");
    eprintln!("{calls} calls beside the compaction of 2000 changes, the longest pair {longest:?}");
    assert!(calls > 20, "{calls} calls in all that time");
}
