//! Topology: one Kubernetes API, one adapter behind a proxy that counts (e2e/src/adapters/proxy.rs), one
//! ipam-service.
//!
//! 1. A thousand Services wait for ipam-service, each is told why, and all are served when it returns.
//! 2. What was deleted while the adapter was down is given back once, and not before a list is complete.
//! 3. A start of the adapter beside thousands of Services that are served, and a restart, write nothing.
//! 4. What an EndpointSlice says reaches announcers at once; what changes faster than it can be told is told as
//!    it is in the end.
//!
//! Times are printed, and are not what fails a test: machines differ.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::adapters::{Call, Harm, Stage};
use e2e::site::DEADLINE;
use nix::sys::signal::Signal;
use pharos_testbed::wait;
use serde_json::json;

const EAST: &str = "east";
const WAITING: usize = 1000;
/// For a thousand calls of the API on a busy machine.
const LONG: Duration = Duration::from_secs(180);

/// Services beside which an adapter restarts: `PHAROS_SERVICES`. Most of the time goes into making them.
fn many() -> usize {
    let many = std::env::var("PHAROS_SERVICES").unwrap_or_default();
    many.parse().unwrap_or(WAITING)
}

/// A cluster without an adapter, and a pool with room for all.
fn cluster() -> Option<Stage> {
    let mut stage = Stage::start().unwrap()?;
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["198.18.0.0/19"]).unwrap();
    Some(stage)
}

fn wait_served(stage: &Stage, count: usize) {
    let what = format!("{count} Services have an address");
    wait::until_ok(&what, LONG, || {
        let served = stage.served(EAST)?;
        anyhow::ensure!(served == count, "{served} have");
        Ok(())
    })
    .unwrap();
}

fn next_page_of_services(call: &Call) -> bool {
    call.resource == "services" && call.goes_on
}

#[test]
fn a_thousand_services_wait_drain_and_are_given_back_once() {
    let Some(mut stage) = cluster() else {
        return;
    };
    let proxy = stage.proxy(EAST).unwrap();
    stage.start_adapter_behind(EAST, &proxy, &[]).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    stage.kill_book().unwrap();
    stage.wait_readiness(EAST, "ipam: ").unwrap();
    stage.create_services(EAST, "s", WAITING).unwrap();
    wait::until_ok("every Service is told why it waits", LONG, || {
        let told = stage.count_events(EAST, "AllocationFailed")?;
        anyhow::ensure!(told == WAITING, "{told} are");
        Ok(())
    })
    .unwrap();
    stage.start_book().unwrap();
    let returned = wait::now();
    wait_served(&stage, WAITING);
    eprintln!(
        "{WAITING} Services that waited were served {:?} after ipam-service returned",
        returned.elapsed()
    );
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for write in proxy.written() {
        if let Some(name) = write.strip_prefix("patch services/status ") {
            *writes.entry(name.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(writes.len(), WAITING);
    // One brings the address. One before it says why there is none, to those that waited for long, and where
    // the two met the former is repeated.
    let most = writes.values().max().copied();
    assert!(most <= Some(3), "{writes:?}");
    given_back_once_by_a_complete_list(&mut stage);
}

fn given_back_once_by_a_complete_list(stage: &mut Stage) {
    stage.stop_adapter(EAST).unwrap();
    let gone: Vec<String> = (0..WAITING / 5).map(|it| format!("s{}", it * 5)).collect();
    stage.delete_services(EAST, &gone).unwrap();
    let held: BTreeSet<String> = stage.allocations(EAST).unwrap().into_keys().collect();
    // Of the list the first page comes, and never the second.
    let proxy = stage.proxy(EAST).unwrap();
    proxy.harm(&[(next_page_of_services, Harm::Refuse(410, None))]);
    stage.start_adapter_behind(EAST, &proxy, &[]).unwrap();
    stage
        .wait_readiness(EAST, "services: cannot be listed: a bad day (410)")
        .unwrap();
    stage
        .wait_readiness(EAST, "ipam: not connected yet")
        .unwrap();
    let now: BTreeSet<String> = stage.allocations(EAST).unwrap().into_keys().collect();
    assert_eq!(now, held, "something was given back by half a list");
    proxy.heal();
    let expected: BTreeSet<String> = gone.iter().map(|name| format!("default/{name}")).collect();
    let left: BTreeSet<String> = held.difference(&expected).cloned().collect();
    wait::until_ok("what went is given back", DEADLINE, || {
        let now: BTreeSet<String> = stage.allocations(EAST)?.into_keys().collect();
        anyhow::ensure!(now == left, "{} hold something", now.len());
        Ok(())
    })
    .unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    let releases = stage.releases(EAST).unwrap();
    let released: BTreeSet<String> = releases.keys().cloned().collect();
    assert_eq!(released, expected);
    assert!(releases.values().all(|&times| times == 1), "{releases:?}");
}

#[test]
fn a_restart_beside_thousands_of_services_writes_nothing() {
    let Some(mut stage) = cluster() else {
        return;
    };
    let many = many();
    let begun = wait::now();
    // As another adapter left them: this one adopts all of them, and then knows them.
    stage
        .create_served_services(EAST, "s", many, "pool")
        .unwrap();
    eprintln!("{many} Services made in {:?}", begun.elapsed());
    let before = stage.versions(EAST).unwrap();
    for start in ["the first start", "a restart"] {
        let proxy = stage.proxy(EAST).unwrap();
        let begun = wait::now();
        stage.start_adapter_behind(EAST, &proxy, &[]).unwrap();
        stage.wait_readiness(EAST, "ok").unwrap();
        eprintln!("{start}: ready after {:?}", begun.elapsed());
        assert_eq!(stage.allocations(EAST).unwrap().len(), many);
        // It is looked at after all the others.
        stage
            .apply_service(EAST, "marker", &json!({}), &json!({}))
            .unwrap();
        stage.wait_any_address(EAST, "marker").unwrap();
        stage
            .wait_event(EAST, "marker", "IPAllocated", &[])
            .unwrap();
        let assigned = many + 1;
        stage.wait_assigned(EAST, "pool", assigned).unwrap();
        let written = proxy.written();
        let of_services: Vec<&String> = written
            .iter()
            .filter(|write| !write.contains("ipaddresspools/status"))
            .filter(|write| !write.contains("configurationstates"))
            .collect();
        assert_eq!(
            of_services,
            ["patch services/status marker", "create events "],
            "{start}: {written:?}"
        );
        let mut after = stage.versions(EAST).unwrap();
        after.remove("marker");
        assert_eq!(after, before, "{start}");
        stage.delete_services(EAST, &["marker".to_owned()]).unwrap();
        stage.wait_assigned(EAST, "pool", many).unwrap();
        stage.stop_adapter(EAST).unwrap();
    }
}

/// The share of these that is not slower.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[test]
fn endpoint_changes_reach_announcers_at_once_and_coalesce() {
    let Some(mut stage) = cluster() else {
        return;
    };
    let mut announcer = stage.pretend_announcer(EAST, "n1").unwrap();
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    stage.put(EAST, &node).unwrap();
    let everywhere = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "default", "namespace": "metallb-system" },
    });
    stage.put(EAST, &everywhere).unwrap();
    let proxy = stage.proxy(EAST).unwrap();
    stage.start_adapter_behind(EAST, &proxy, &[]).unwrap();
    stage
        .apply_service(EAST, "web", &json!({}), &json!({}))
        .unwrap();
    let address = stage.wait_any_address(EAST, "web").unwrap();
    let mut times = Vec::new();
    for change in 0..200 {
        let ready = change % 2 == 0;
        let begun = wait::now();
        stage.set_endpoint(EAST, ready).unwrap();
        announcer.wait_told(&address, ready).unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    eprintln!(
        "from a change of an EndpointSlice until the announcer was told: p50 {:?}, p99 {:?}",
        quantile(&times, 0.5),
        quantile(&times, 0.99)
    );

    // As fast as the API server takes it, also while ipam-service takes nothing.
    let services: Vec<String> = (0..5).map(|it| format!("s{it}")).collect();
    stage.create_services(EAST, "s", services.len()).unwrap();
    let addresses: Vec<String> = services
        .iter()
        .map(|name| stage.wait_any_address(EAST, name).unwrap())
        .collect();
    let facts = |stage: &Stage| {
        let facts = stage.metric(EAST, "pharos_adapter_facts_total").unwrap();
        facts.unwrap_or_default()
    };
    proxy.forget();
    let before = facts(&stage);
    stage.book().unwrap().signal(Signal::SIGSTOP).unwrap();
    let rounds = 200;
    let begun = wait::now();
    for round in 0..rounds {
        stage
            .set_endpoints(EAST, &services, round % 2 == 0)
            .unwrap();
    }
    stage.set_endpoints(EAST, &services, true).unwrap();
    let took = begun.elapsed();
    let told = facts(&stage) - before;
    stage.book().unwrap().signal(Signal::SIGCONT).unwrap();
    let changes = (rounds + 1) * services.len();
    eprintln!("{changes} changes of endpoints in {took:?} were told by {told} facts");
    // Each is told ten times a second.
    let most =
        (took.as_secs_f64() * 10.0 + 2.0) * f64::from(u32::try_from(services.len()).unwrap());
    assert!(told <= most, "{told} in {took:?}");
    for address in &addresses {
        stage.wait_nodes(EAST, address, &["n1"]).unwrap();
    }
    let mut written = proxy.written();
    // Of the Services that came.
    written.retain(|write| !write.contains("ipaddresspools/status"));
    assert_eq!(
        written,
        Vec::<String>::new(),
        "endpoints are no news for Services"
    );
}
