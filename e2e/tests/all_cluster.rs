//! Topology: e2e/src/site.rs, cluster east with nodes n1, n2, n3 (announcer and kube-proxy each).
//!
//! 1. The manifests of an existing user of MetalLB apply unchanged.
//! 2. kubectl shows pools and Services as it did.
//! 3. Exactly one node answers ARP for each address.
//! 4. An HTTP request from the client is served by a backend behind the node that answers.
//! 5. The owner is killed: another node answers, and the request works again.
//! 6. ipam-service, the adapter and the API server die: nobody notices.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::site::{DEADLINE, Site, manifest};
use e2e::workload;
use pharos_testbed::arp::Prober;
use pharos_testbed::{http, wait};

const ENVOY: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SHARED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const PINNED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 200);
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// How long exactly one node must answer: 100 requests for each address.
const WATCH: Duration = Duration::from_secs(1);

/// A machine busy with something else may hold back an answer this long.
const SILENT: Duration = Duration::from_millis(250);

#[test]
fn the_manifests_of_an_existing_user_lead_to_answered_requests() {
    let Some(mut site) = Site::start().unwrap() else {
        return;
    };
    site.add_cluster("east", "192.168.12.5").unwrap();
    for (node, address) in NODES
        .iter()
        .zip(["192.168.12.11", "192.168.12.12", "192.168.12.13"])
    {
        site.add_node("east", node, address).unwrap();
    }
    apply_manifests(&site);
    kubectl_shows_what_it_did(&site);

    let _backends = start_backends(&site);
    let proxied = NODES
        .iter()
        .all(|node| site.start_kube_proxy("east", node).unwrap());
    let prober = Prober::start(site.client().unwrap(), &[ENVOY, SHARED, PINNED]).unwrap();
    for address in [ENVOY, SHARED, PINNED] {
        prober
            .wait_answer(address, Duration::ZERO, None, DEADLINE)
            .unwrap();
    }
    let owner = one_node_answers_for_each(&site, &prober);
    if proxied {
        served(&site, &owner);
    }
    let owner = kill_and_see_another(&mut site, &prober, &owner);
    if proxied {
        served(&site, &owner);
    }
    losing_every_control_plane_changes_nothing(site, &prober);
}

fn apply_manifests(site: &Site) {
    let east = site.cluster("east").unwrap();
    let apply = |name: &str| {
        site.kubectl("east", &["apply", "-f", &manifest(name)])
            .unwrap()
    };
    apply("00-namespaces.yaml");
    apply("10-default-pool.yaml");
    apply("11-database-pool.yaml");
    apply("20-envoy-gateway.yaml");
    workload::wait_for_address(east, "envoy-gateway-system", "envoy-gateway", ENVOY).unwrap();
    apply("30-shared-address.yaml");
    workload::wait_for_address(east, "shop", "web", SHARED).unwrap();
    workload::wait_for_address(east, "shop", "mail", SHARED).unwrap();
    apply("40-pinned-to-a-pool.yaml");
    workload::wait_for_address(east, "shop", "postgres", PINNED).unwrap();
}

fn kubectl_shows_what_it_did(site: &Site) {
    let pools = ["get", "ipaddresspools", "-n", "metallb-system"];
    let pools = site.kubectl("east", &pools).unwrap();
    let rows = columns(&pools);
    assert_eq!(
        rows[0],
        ["NAME", "AUTO ASSIGN", "AVOID BUGGY IPS", "ADDRESSES"],
        "{pools}"
    );
    let default_pool = [
        "default-pool",
        "true",
        "false",
        r#"["192.168.12.100-192.168.12.120"]"#,
    ];
    assert!(
        rows.contains(&default_pool.map(str::to_owned).to_vec()),
        "{pools}"
    );
    let database_pool = [
        "database-pool",
        "false",
        "false",
        r#"["192.168.12.200/30"]"#,
    ];
    assert!(
        rows.contains(&database_pool.map(str::to_owned).to_vec()),
        "{pools}"
    );

    let services = [
        "get",
        "svc",
        "-A",
        "--field-selector",
        "spec.type=LoadBalancer",
    ];
    let services = site.kubectl("east", &services).unwrap();
    // NAMESPACE NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE
    let shown: BTreeSet<(String, String)> = columns(&services)[1..]
        .iter()
        .map(|row| (row[1].clone(), row[4].clone()))
        .collect();
    let expected = [
        ("envoy-gateway", "192.168.12.100"),
        ("mail", "192.168.12.101"),
        ("postgres", "192.168.12.200"),
        ("web", "192.168.12.101"),
    ];
    let expected = expected.map(|(name, address)| (name.to_owned(), address.to_owned()));
    assert_eq!(shown, BTreeSet::from(expected), "{services}");

    let east = site.cluster("east").unwrap();
    let words = ["Assigned IP", "192.168.12.100"];
    workload::wait_for_event(
        east,
        "envoy-gateway-system",
        "envoy-gateway",
        "IPAllocated",
        &words,
    )
    .unwrap();
}

/// Rows of a kubectl table; columns are at least three blanks apart.
fn columns(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect()
    };
    table.lines().map(cells).collect()
}

/// envoy-gateway keeps its traffic local, and has no pod on n3. The others run everywhere.
fn start_backends(site: &Site) -> Vec<http::Server> {
    let east = site.cluster("east").unwrap();
    let hosts: Vec<_> = NODES
        .iter()
        .map(|node| site.lan().host(node).unwrap())
        .collect();
    let set = |namespace: &str, service: &str, port: &str, hosts: &[_]| {
        workload::set_endpoints(east, namespace, service, port, hosts).unwrap();
    };
    set("envoy-gateway-system", "envoy-gateway", "http", &hosts[..2]);
    set("shop", "web", "http", &hosts);
    set("shop", "mail", "smtp", &hosts);
    set("shop", "postgres", "postgres", &hosts);
    hosts
        .iter()
        .map(|host| workload::serve(host).unwrap())
        .collect()
}

/// Watches for a second; gives the name of the node that answers for envoy-gateway.
fn one_node_answers_for_each(site: &Site, prober: &Prober) -> String {
    let from = prober.now();
    wait::until("a second of requests", DEADLINE, || {
        (prober.now() > from + WATCH).then_some(())
    })
    .unwrap();
    let record = prober.record();
    let owner = |address| {
        let answerers = record.answerers(address, from, prober.now());
        assert_eq!(answerers.len(), 1, "{address} is answered by {answerers:?}");
        workload::name_of(site, *answerers.first().unwrap()).unwrap()
    };
    for address in [SHARED, PINNED] {
        assert!(NODES.contains(&owner(address).as_str()));
    }
    let owner = owner(ENVOY);
    assert!(
        ["n1", "n2"].contains(&owner.as_str()),
        "{owner} has no pod of envoy-gateway"
    );
    owner
}

fn served(site: &Site, owner: &str) {
    let client = &site.client().unwrap().namespace;
    // Local traffic: the pod behind the very node that answers.
    workload::wait_served_by(client, ENVOY, 80, owner).unwrap();
    for (address, port) in [(SHARED, 80), (SHARED, 25), (PINNED, 5432)] {
        let any = wait::until_ok("an answer from any node", DEADLINE, || {
            workload::ask(client, address, port)
        });
        assert!(NODES.contains(&any.unwrap().as_str()));
    }
}

/// kill -9 of the announcer that answers for envoy-gateway; gives the name of the next one.
fn kill_and_see_another(site: &mut Site, prober: &Prober, owner: &str) -> String {
    let mac = site.lan().host(owner).unwrap().mac;
    let killed = prober.now();
    site.announcer(owner).unwrap().kill().unwrap();
    let answer = prober
        .wait_answer(ENVOY, killed, Some(mac), DEADLINE)
        .unwrap();
    eprintln!(
        "announcer of {owner} killed: another answered {:?} later",
        answer.at - killed
    );
    let next = workload::name_of(site, answer.mac).unwrap();
    assert_eq!(
        BTreeSet::from([owner, next.as_str()]),
        BTreeSet::from(["n1", "n2"])
    );
    // Whatever else the dead node owned has an owner again as well.
    for address in [SHARED, PINNED] {
        prober
            .wait_answer(address, killed, Some(mac), DEADLINE)
            .unwrap();
    }
    assert_eq!(one_node_answers_for_each(site, prober), next);
    next
}

fn losing_every_control_plane_changes_nothing(mut site: Site, prober: &Prober) {
    let before = prober.now();
    site.book().kill().unwrap();
    site.stop_cluster("east").unwrap();
    one_node_answers_for_each(&site, prober);
    for address in [ENVOY, SHARED, PINNED] {
        let (record, after) = (prober.record(), prober.now());
        let gap = record.longest_gap(address, before, after);
        let allowed = SILENT + record.longest_unasked(before, after);
        let timeline = record.timeline(address);
        assert!(
            gap < allowed,
            "{address} was silent for {gap:?} after {before:?}:\n{timeline}"
        );
        assert_eq!(record.overlaps(address), [], "{timeline}");
    }
}
