//! Topology: one Kubernetes API, two replicas of its adapter, one ipam-service (e2e/src/adapters.rs).
//!
//! 1. One replica writes, each status and event once; the other takes over when that one is killed, within the
//!    time of the lease, and at once when it stops well. What troubles a Service is not told again by it.
//! 2. A replica that was paused while it wrote writes nothing when it goes on.
//! 3. Facts about endpoints are reported by every replica: they go on at once when the holder is killed.
//! 4. Without the Lease nobody writes, and the adapter says what is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::adapters::Stage;
use e2e::site::{DEADLINE, repository};
use nix::sys::signal::Signal;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";
const REPLICA: &str = "replica";
const IN_USE: &str = "metallb_allocator_addresses_in_use_total{pool=\"pool\"}";
/// How long a holder that was killed is respected, and the time between two looks at the Lease.
const TAKEOVER: Duration = Duration::from_secs(9);
/// What a busy machine adds to it.
const SLACK: Duration = Duration::from_secs(4);

fn none() -> Value {
    json!({})
}

fn two_replicas() -> Option<Stage> {
    let mut stage = Stage::with_cluster(EAST).unwrap()?;
    stage.advertise_all(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/25"]).unwrap();
    stage.wait_leader(EAST).unwrap();
    stage.start_replica(EAST, REPLICA).unwrap();
    Some(stage)
}

/// Applies these Services and waits until each has an address.
fn serve(stage: &Stage, names: &[String]) {
    for name in names {
        stage.apply_service(EAST, name, &none(), &none()).unwrap();
    }
    for name in names {
        stage.wait_any_address(EAST, name).unwrap();
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect()
}

/// How often each Service was told that it has an address.
fn assigned(stage: &Stage, names: &[String]) -> Vec<usize> {
    let told = |name: &String| {
        let events = stage.events(EAST, name).unwrap().into_iter();
        events
            .filter(|(_, reason, ..)| reason == "IPAllocated")
            .count()
    };
    names.iter().map(told).collect()
}

fn wait_renewals(stage: &Stage, count: usize) {
    for _ in 0..count {
        let before = lease(stage, "renewTime");
        wait::until("the lease is renewed", DEADLINE, || {
            (lease(stage, "renewTime") != before).then_some(())
        })
        .unwrap();
    }
}

fn troubles(stage: &Stage, service: &str) -> usize {
    let told = stage.events(EAST, service).unwrap().into_iter();
    told.filter(|(_, reason, ..)| reason == "AllocationFailed")
        .count()
}

/// A Service that asks for a pool that there is not, and is told so once.
fn wait_in_vain(stage: &Stage, name: &str) {
    let missing = json!({ "metallb.io/address-pool": "missing" });
    stage.apply_service(EAST, name, &missing, &none()).unwrap();
    stage
        .wait_event(EAST, name, "AllocationFailed", &["missing"])
        .unwrap();
    assert_eq!(troubles(stage, name), 1);
}

fn lease(stage: &Stage, field: &str) -> String {
    let path = format!("jsonpath={{.spec.{field}}}");
    let get = [
        "get",
        "lease",
        "pharos-k8s-adapter",
        "-n",
        "metallb-system",
        "-o",
        &path,
    ];
    stage.kubectl(EAST, &get).unwrap()
}

#[test]
fn one_replica_writes_and_another_takes_over() {
    let Some(mut stage) = two_replicas() else {
        return;
    };
    let first = names("a", 20);
    serve(&stage, &first);
    wait_in_vain(&stage, "vain0");
    wait::until_ok("the pool's usage is shown", DEADLINE, || {
        let shown = stage.metric(EAST, IN_USE)?;
        anyhow::ensure!(shown == Some(20.0), "{shown:?}");
        Ok(())
    })
    .unwrap();
    wait::until("every Service is told", DEADLINE, || {
        let told = assigned(&stage, &first);
        (!told.contains(&0)).then_some(())
    })
    .unwrap();
    assert_eq!(stage.status_writes(EAST).unwrap(), 20);
    assert_eq!(assigned(&stage, &first), vec![1; 20]);
    // The other one has seen all that, and shows nothing that would be counted twice.
    assert_eq!(stage.status_writes(REPLICA).unwrap(), 0);
    assert_eq!(stage.metric(REPLICA, IN_USE).unwrap(), None);
    assert_eq!(lease(&stage, "leaseTransitions"), "1");

    // Both know since long that one waits in vain.
    wait_renewals(&stage, 3);
    stage.kill_adapter(EAST).unwrap();
    let killed = wait::now();
    let second = names("b", 5);
    serve(&stage, &second[..1]);
    let taken = killed.elapsed();
    eprintln!("killed, and {taken:?} later another one had written");
    assert!(taken < TAKEOVER + SLACK, "{taken:?}");
    serve(&stage, &second[1..]);
    assert_eq!(stage.status_writes(REPLICA).unwrap(), 5);
    wait_in_vain(&stage, "vain1");
    assert_eq!(troubles(&stage, "vain0"), 1, "told by both");
    stage.wait_leader(REPLICA).unwrap();
    wait::until_ok("the pool's usage is shown by the other", DEADLINE, || {
        let shown = stage.metric(REPLICA, IN_USE)?;
        anyhow::ensure!(shown == Some(25.0), "{shown:?}");
        Ok(())
    })
    .unwrap();

    stage.start_adapter(EAST, &[]).unwrap();
    stage.stop_adapter(REPLICA).unwrap();
    let stopped = wait::now();
    assert_eq!(stage.status_writes(EAST).unwrap(), 0);
    let third = names("c", 1);
    serve(&stage, &third);
    let taken = stopped.elapsed();
    eprintln!("stopped, and {taken:?} later another one had written");
    assert!(taken < TAKEOVER / 2, "{taken:?}");
    assert_eq!(lease(&stage, "leaseTransitions"), "3");
    assert_eq!(assigned(&stage, &first), vec![1; 20]);
    assert_eq!(stage.status_writes(EAST).unwrap(), 1);
    // Who was last leaves it to nobody.
    stage.stop_adapter(EAST).unwrap();
    assert_eq!(lease(&stage, "holderIdentity"), "");
}

#[test]
fn a_paused_leader_writes_nothing_late() {
    let Some(mut stage) = two_replicas() else {
        return;
    };
    let services = names("s", 40);
    let manifest: Vec<String> = services
        .iter()
        .map(|name| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                 spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"
            )
        })
        .collect();
    // It is paused while it writes.
    let mut kubectl = stage
        .apply_in_background(EAST, &manifest.join("\n---\n"))
        .unwrap();
    wait::until_ok("some Services are there", DEADLINE, || {
        let services = stage.services(EAST)?.len();
        anyhow::ensure!(services >= 15, "{services}");
        Ok(())
    })
    .unwrap();
    let paused = stage.adapter(EAST).unwrap();
    paused.signal(Signal::SIGSTOP).unwrap();
    assert!(kubectl.wait().unwrap().success());
    for name in &services {
        stage.wait_any_address(EAST, name).unwrap();
    }
    stage.wait_leader(REPLICA).unwrap();
    // These moved while it was away: it remembers them as they were.
    stage
        .force_pool(EAST, "pool", &["198.51.100.0/25"])
        .unwrap();
    stage
        .apply_pool(EAST, "pool", &["198.51.100.0/25"])
        .unwrap();
    wait::until_ok("all have moved", DEADLINE, || {
        let all = stage.versions(EAST).unwrap().into_values();
        let left = all.filter(|(_, it)| !it.iter().all(|it| it.starts_with("198.51.")));
        let left = left.count();
        anyhow::ensure!(left == 0, "{left} have not");
        Ok(())
    })
    .unwrap();
    let before = stage.versions(EAST).unwrap();
    let by_other = stage.status_writes(REPLICA).unwrap();
    stage
        .adapter(EAST)
        .unwrap()
        .signal(Signal::SIGCONT)
        .unwrap();
    stage.wait_no_leader(EAST).unwrap();
    // Both have looked at all of them when both have seen this one.
    serve(&stage, &names("marker", 1));
    stage.wait_readiness(EAST, "ok").unwrap();
    stage.stop_adapter(EAST).unwrap();
    let mut after = stage.versions(EAST).unwrap();
    after.remove("marker0");
    assert_eq!(after, before);
    assert_eq!(stage.status_writes(REPLICA).unwrap(), by_other + 1);
    // The first address and the second; one more if the pause fell between the two ends of a write.
    for (name, told) in services.iter().zip(assigned(&stage, &services)) {
        assert!(told <= 2, "{name} was told {told} times");
    }
}

#[track_caller]
fn wait_announced(stage: &Stage, nodes: &[&str]) -> Duration {
    let start = wait::now();
    stage.wait_nodes(EAST, "192.0.2.0", nodes).unwrap();
    start.elapsed()
}

#[test]
fn facts_need_no_lease() {
    let Some(mut stage) = two_replicas() else {
        return;
    };
    let _announcer = stage.pretend_announcer(EAST, "n1").unwrap();
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    stage.apply(EAST, &node.to_string()).unwrap();
    let everywhere = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "default", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &everywhere.to_string()).unwrap();
    serve(&stage, &["web".to_owned()]);
    stage.set_endpoint(EAST, true).unwrap();
    wait_announced(&stage, &["n1"]);
    stage.kill_adapter(EAST).unwrap();
    stage.set_endpoint(EAST, false).unwrap();
    let taken = wait_announced(&stage, &[]);
    // It has not taken over yet.
    let leads = stage.metric(REPLICA, "pharos_adapter_leader").unwrap();
    assert_eq!(leads, Some(0.0));
    eprintln!("killed, and {taken:?} after the endpoint went it was announced no more");
    assert!(taken < Duration::from_secs(1), "{taken:?}");
}

#[test]
fn without_the_lease_nobody_writes_and_it_is_told() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    let delete = [
        "delete",
        "lease",
        "pharos-k8s-adapter",
        "-n",
        "metallb-system",
    ];
    stage.kubectl(EAST, &delete).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/29"]).unwrap();
    stage.start_adapter_as(EAST, EAST, &[]).unwrap();
    stage
        .wait_readiness(EAST, "lease: there is no Lease pharos-k8s-adapter")
        .unwrap();
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.wait_owners(EAST, &["default/web"]).unwrap();
    assert_eq!(stage.status_writes(EAST).unwrap(), 0);
    let manifest = repository().join("deploy/k8s-adapter-rbac.yaml");
    let manifest = manifest.display().to_string();
    stage.kubectl(EAST, &["apply", "-f", &manifest]).unwrap();
    stage.wait_addresses(EAST, "web", &["192.0.2.0"]).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    assert_eq!(stage.status_writes(EAST).unwrap(), 1);
    // Taken away while it is held, it is missed too.
    stage.kubectl(EAST, &delete).unwrap();
    stage
        .wait_readiness(EAST, "lease: there is no Lease pharos-k8s-adapter")
        .unwrap();
    stage.wait_no_leader(EAST).unwrap();
}
