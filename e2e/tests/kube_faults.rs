//! Topology: one Kubernetes API, one adapter behind a proxy that makes bad days (e2e/src/adapters/proxy.rs), one
//! ipam-service.
//!
//! Whatever the API server, or the way to it, does to calls: while it lasts `/readyz` says so where the adapter
//! cannot do its job; when it is over every Service has its address, no address was given back, nothing that was
//! right is written again, and what had to be written was written once.
//!
//! A replica that starts while every call is slow takes the Lease, and writes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::adapters::{Call, Harm, Proxy, Stage};
use pharos_testbed::wait;
use serde_json::json;

const EAST: &str = "east";

/// What happens to the proxy beside harming new calls.
#[derive(Clone, Copy)]
enum Event {
    /// Watches end as they do now and then; new ones meet the harm.
    WatchesEnd,
    /// Watches break in the middle of their next event.
    WatchesBreak,
    /// The API server is gone, and comes back.
    Restart,
    Nothing,
}

/// Calls that are harmed, and how.
type Harmed = (fn(&Call) -> bool, Harm);

struct Scenario {
    what: &'static str,
    harms: &'static [Harmed],
    event: Event,
    /// What `/readyz` says while it lasts; none: it goes on saying that all is well, or nobody looks.
    told: Option<&'static str>,
    /// The new Service has its address while it lasts.
    served_meanwhile: bool,
}

fn any(_: &Call) -> bool {
    true
}

fn watches(call: &Call) -> bool {
    call.verb == "watch"
}

fn reads_of_services(call: &Call) -> bool {
    call.resource == "services" && !call.is_write()
}

fn lists_and_watches(call: &Call) -> bool {
    watches(call) || call.verb == "list"
}

fn next_pages(call: &Call) -> bool {
    call.goes_on
}

fn lists(call: &Call) -> bool {
    call.verb == "list"
}

fn lists_of_services(call: &Call) -> bool {
    lists(call) && call.resource == "services"
}

fn writes(call: &Call) -> bool {
    call.is_write()
}

fn status_writes(call: &Call) -> bool {
    call.resource == "services/status"
}

fn events(call: &Call) -> bool {
    call.resource == "events"
}

fn lease(call: &Call) -> bool {
    call.resource == "leases" && call.is_write()
}

const GONE: Harm = Harm::Refuse(410, None);
const BUSY: Harm = Harm::Refuse(429, Some(1));

const READS: &[Scenario] = &[
    Scenario {
        what: "a watch is told that its version is gone",
        harms: &[(watches, Harm::ErrorEvent(410))],
        event: Event::WatchesEnd,
        told: None,
        served_meanwhile: false,
    },
    Scenario {
        what: "a watch is refused, as its version is gone",
        harms: &[(reads_of_services_by_watch, GONE)],
        event: Event::WatchesEnd,
        told: None,
        // It is listed anew, each time.
        served_meanwhile: true,
    },
    Scenario {
        what: "a watch is told of an error inside",
        harms: &[(watches, Harm::ErrorEvent(500))],
        event: Event::WatchesEnd,
        told: None,
        served_meanwhile: false,
    },
    Scenario {
        what: "the second page of a list is gone",
        harms: &[
            (lists, Harm::SmallPages),
            (next_pages, GONE),
            (watches, Harm::ErrorEvent(410)),
        ],
        event: Event::WatchesEnd,
        told: Some("services: cannot be listed: a bad day (410)"),
        served_meanwhile: false,
    },
    Scenario {
        what: "watches break in the middle of an event",
        harms: &[],
        event: Event::WatchesBreak,
        told: None,
        served_meanwhile: true,
    },
    Scenario {
        what: "watches are refused with 429",
        harms: &[(watches, BUSY)],
        event: Event::WatchesEnd,
        told: Some("services: cannot be watched: a bad day (429)"),
        served_meanwhile: false,
    },
    Scenario {
        what: "reads fail with 500",
        harms: &[(lists_and_watches, Harm::Refuse(500, None))],
        event: Event::WatchesEnd,
        told: Some("kubernetes: "),
        served_meanwhile: false,
    },
    Scenario {
        what: "lists of Services hang",
        harms: &[
            (lists_of_services, Harm::Hang),
            (watches, Harm::ErrorEvent(410)),
        ],
        event: Event::WatchesEnd,
        told: Some("services: no page of a list within"),
        served_meanwhile: false,
    },
];

const OTHERS: &[Scenario] = &[
    Scenario {
        what: "writes are turned away with 503",
        harms: &[(writes, Harm::Refuse(503, None))],
        event: Event::Nothing,
        told: Some("lease: a bad day (503)"),
        served_meanwhile: false,
    },
    Scenario {
        what: "writes of statuses are turned away with 429",
        harms: &[(status_writes, BUSY)],
        event: Event::Nothing,
        told: None,
        served_meanwhile: false,
    },
    Scenario {
        what: "every call takes more than a second",
        harms: &[(any, Harm::Delay(Duration::from_millis(1200)))],
        event: Event::WatchesEnd,
        told: None,
        served_meanwhile: true,
    },
    Scenario {
        what: "every call hangs",
        harms: &[(any, Harm::Hang)],
        event: Event::WatchesEnd,
        told: Some("kubernetes: the API server does not answer"),
        served_meanwhile: false,
    },
    Scenario {
        what: "the API server restarts",
        harms: &[],
        event: Event::Restart,
        told: Some("kubernetes: "),
        served_meanwhile: false,
    },
    Scenario {
        what: "answers to writes of statuses are lost",
        harms: &[(status_writes, Harm::LoseAnswer)],
        event: Event::Nothing,
        told: None,
        served_meanwhile: true,
    },
    Scenario {
        what: "answers to events are lost",
        harms: &[(events, Harm::LoseAnswer)],
        event: Event::Nothing,
        told: None,
        served_meanwhile: true,
    },
    Scenario {
        what: "answers to renewals of the Lease are lost",
        harms: &[(lease, Harm::LoseAnswer)],
        event: Event::Nothing,
        told: None,
        served_meanwhile: true,
    },
];

fn reads_of_services_by_watch(call: &Call) -> bool {
    watches(call) && reads_of_services(call)
}

/// What must not change: versions and addresses of Services, and who holds what.
type Known = (BTreeMap<String, (String, Vec<String>)>, Vec<String>);

fn known(stage: &Stage) -> Known {
    let owners = stage.allocations(EAST).unwrap().into_keys().collect();
    (stage.versions(EAST).unwrap(), owners)
}

/// The Services of which a condition says that nobody answers, which here is so: it is written once, a minute after
/// the address.
fn unannounced(stage: &Stage) -> BTreeSet<String> {
    let services = stage.services(EAST).unwrap().into_iter();
    let told = services.filter(|(_, service)| {
        let status = service.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "pharos.io/Announced"))
    });
    told.map(|(name, _)| name).collect()
}

#[test]
fn the_adapter_gets_over_reads_that_fail() {
    run_all(READS);
}

#[test]
fn the_adapter_gets_over_writes_that_fail_and_api_servers_that_are_away() {
    run_all(OTHERS);
}

fn run_all(scenarios: &[Scenario]) {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/24"]).unwrap();
    stage.advertise_all(EAST).unwrap();
    let mut proxy = stage.proxy(EAST).unwrap();
    for name in ["a", "b", "c"] {
        stage
            .apply_service(EAST, name, &json!({}), &json!({}))
            .unwrap();
    }
    stage.start_adapter_behind(EAST, &proxy, &[]).unwrap();
    for name in ["a", "b", "c"] {
        stage.wait_any_address(EAST, name).unwrap();
    }
    stage.wait_readiness(EAST, "ok").unwrap();
    for (number, scenario) in scenarios.iter().enumerate() {
        let begun = wait::now();
        run(&mut stage, &mut proxy, number, scenario);
        eprintln!("{}: {:?}", scenario.what, begun.elapsed());
    }
}

#[test]
fn a_replica_writes_at_an_api_server_that_is_slow_from_the_start() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/30"]).unwrap();
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    let proxy = stage.proxy(EAST).unwrap();
    // To read the Lease and to renew it takes longer than a single call may.
    proxy.harm(&[(any, Harm::Delay(Duration::from_millis(1200)))]);
    stage.start_adapter_behind(EAST, &proxy, &[]).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    stage.wait_leader(EAST).unwrap();
}

fn run(stage: &mut Stage, proxy: &mut Proxy, number: usize, scenario: &Scenario) {
    let what = scenario.what;
    let (before, holders) = known(stage);
    let unannounced_before = unannounced(stage);
    proxy.forget();
    proxy.harm(scenario.harms);
    match scenario.event {
        Event::WatchesEnd => proxy.end_watches(),
        Event::WatchesBreak => proxy.break_watches(),
        Event::Restart => proxy.stop(),
        Event::Nothing => {}
    }
    let name = format!("s{number}");
    stage
        .apply_service(EAST, &name, &json!({}), &json!({}))
        .unwrap();
    if let Some(words) = scenario.told {
        stage.wait_readiness(EAST, words).unwrap();
    }
    if scenario.served_meanwhile {
        stage.wait_any_address(EAST, &name).unwrap();
    }
    if matches!(scenario.event, Event::Restart) {
        proxy.resume().unwrap();
    }
    proxy.heal();

    stage.wait_any_address(EAST, &name).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    // The status of the pool follows last.
    let count = holders.len() + 1;
    stage.wait_assigned(EAST, "pool", count).unwrap();
    let written = |resource: &str| proxy.count(|call| call.resource == resource && call.is_write());
    let writes = written("services/status");
    let (after, now_holding) = known(stage);
    let now_unannounced = unannounced(stage);
    let told: BTreeSet<&String> = now_unannounced.difference(&unannounced_before).collect();
    for (name, (version, addresses)) in &before {
        let (now, its) = after.get(name).unwrap();
        assert_eq!(its, addresses, "{what}: {name}");
        assert!(
            now == version || told.contains(name),
            "{what}: {name} was written"
        );
    }
    for holder in &holders {
        assert!(
            now_holding.contains(holder),
            "{what}: {holder} lost its address"
        );
    }
    assert!(
        (1..=1 + told.len()).contains(&writes),
        "{what}: {writes} writes, {told:?}: {:?}",
        proxy.written()
    );
    let told = stage.events(EAST, &name).unwrap();
    let told = told
        .iter()
        .filter(|(_, reason, ..)| reason == "IPAllocated");
    assert!(told.count() <= 1, "{what}: told twice");
    let is_running = stage.adapter(EAST).unwrap().is_running();
    assert!(is_running, "{what}: the adapter has ended");
}
