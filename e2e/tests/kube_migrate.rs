//! From MetalLB to Pharos, with MetalLB v0.15.2 itself.
//!
//! Topology: e2e/src/site.rs, cluster east with nodes n1 and n2. Each node has a speaker of MetalLB, and later an
//! announcer; etcd, kube-apiserver and MetalLB's controller, later the adapter, run on host `east`. A client asks by
//! ARP every 10 ms, and another sends every 10 ms over a neighbour entry that it has.
//!
//! 1. MetalLB gives Services their addresses, and its speakers answer.
//! 2. `migrate` says that all would be unchanged, as a user who may only list, and changes nothing anywhere.
//! 3. `migrate --apply` writes a backup, and has ipam-service hold the addresses; no Service is written.
//! 4. MetalLB's controller stops, and Pharos starts while the speakers go on answering: no Service is written, no
//!    address is quarantined.
//! 5. The speakers stop: the gap is measured; each address is answered by one node from then on.
//! 6. Back again: MetalLB finds the same addresses.
//!
//! What stands in the way of a migration: e2e/tests/kube_migrate_obstacles.rs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use e2e::incumbent::{Incumbent, Migrated, WEBHOOKS};
use e2e::site::{BOOK, DEADLINE, READER, Site, manifest, repository};
use e2e::workload;
use pharos_proto::v1;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::reservation_service_client::ReservationServiceClient;
use pharos_testbed::arp::Prober;
use pharos_testbed::record::Recorder;
use pharos_testbed::warm::{Echo, Warm};
use pharos_testbed::{http, wait};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

const ENVOY: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SHARED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const PINNED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 200);
const ADDRESSES: [Ipv4Addr; 3] = [ENVOY, SHARED, PINNED];
const NODES: [(&str, &str); 2] = [("n1", "192.168.12.11"), ("n2", "192.168.12.12")];
const SERVICES: [&str; 4] = [
    "envoy-gateway-system/envoy-gateway",
    "shop/mail",
    "shop/postgres",
    "shop/web",
];
/// Where announcers hear one another: MetalLB's speakers have the usual port.
const MEMBERS: u16 = 7947;
/// How long exactly one node must answer: 200 requests for each address.
const ALONE: Duration = Duration::from_secs(2);
/// The bar for the cut-over: announcers answer before the speakers stop, so nothing but the machine makes a gap. What
/// it paused for is allowed beside.
const GAP: Duration = Duration::from_millis(500);

#[test]
fn a_cluster_goes_from_metallb_to_pharos_and_back_and_no_address_changes() {
    let Some(mut site) = Site::start().unwrap() else {
        return;
    };
    site.add_api("east", "192.168.12.5").unwrap();
    site.kubectl("east", &["apply", "-f", &manifest("00-namespaces.yaml")])
        .unwrap();
    let Some(mut metallb) = Incumbent::install(&site, "east").unwrap() else {
        return;
    };
    for (node, address) in NODES {
        site.add_bare_node("east", node, address).unwrap();
    }
    metallb.start_controller(&site).unwrap();
    for (node, _) in NODES {
        metallb.start_speaker(&site, node).unwrap();
    }
    served_by_metallb(&site);
    metallb.apply_manifest(&site).unwrap();
    let _echoes =
        NODES.map(|(node, _)| Echo::start(site.lan().host(node).unwrap(), &ADDRESSES).unwrap());
    let client = site.client().unwrap();
    let prober = Prober::start(client, &ADDRESSES).unwrap();
    for address in ADDRESSES {
        prober
            .wait_answer(address, Duration::ZERO, None, DEADLINE)
            .unwrap();
    }
    let warm = Warm::start(client, ENVOY, DEADLINE).unwrap();
    let before = services(&site);

    dry_run(&site);
    let directory = tempfile::tempdir().unwrap();
    let backup = directory.path().join("backup.yaml");
    apply(&site, &backup);
    assert_eq!(services(&site), before, "migrate writes no Service");

    metallb.stop_controller().unwrap();
    pharos_starts(&mut site);
    nothing_changed(&site, &before);

    let stopped = prober.now();
    let stopped_warm = warm.now();
    metallb.stop_speakers().unwrap();
    one_node_answers_for_each(&site, &prober);
    let paused = measure("ARP", &prober, stopped);
    measure("a client with a neighbour entry", &warm, stopped_warm);
    let record = prober.record();
    for address in ADDRESSES {
        let gap = record.longest_gap(address, stopped, prober.now());
        assert!(
            gap <= GAP + paused,
            "{address} was silent for {gap:?}:\n{}",
            record.timeline(address)
        );
    }
    nothing_changed(&site, &before);

    site.stop_adapter("east").unwrap();
    let file = backup.display().to_string();
    site.kubectl("east", &["apply", "-f", &file]).unwrap();
    metallb.start_controller(&site).unwrap();
    for (node, _) in NODES {
        metallb.start_speaker(&site, node).unwrap();
    }
    for (node, _) in NODES {
        site.stop_announcer(node).unwrap();
    }
    let back = prober.now();
    for address in ADDRESSES {
        prober.wait_answer(address, back, None, DEADLINE).unwrap();
    }
    one_node_answers_for_each(&site, &prober);
    assert_eq!(
        addresses(&services(&site)),
        addresses(&before),
        "MetalLB has them again"
    );
}

/// The manifests of an existing user, and what a cluster's controllers write for them.
fn served_by_metallb(site: &Site) {
    let east = site.cluster("east").unwrap();
    for (name, namespace, service, address) in [
        ("10-default-pool.yaml", "", "", None),
        ("11-database-pool.yaml", "", "", None),
        (
            "20-envoy-gateway.yaml",
            "envoy-gateway-system",
            "envoy-gateway",
            Some(ENVOY),
        ),
        ("30-shared-address.yaml", "shop", "web", Some(SHARED)),
        ("40-pinned-to-a-pool.yaml", "shop", "postgres", Some(PINNED)),
    ] {
        site.kubectl("east", &["apply", "-f", &manifest(name)])
            .unwrap();
        if let Some(address) = address {
            workload::wait_for_address(east, namespace, service, address).unwrap();
        }
    }
    workload::wait_for_address(east, "shop", "mail", SHARED).unwrap();
    let hosts = NODES.map(|(node, _)| site.lan().host(node).unwrap());
    for (namespace, service, port) in [
        ("envoy-gateway-system", "envoy-gateway", "http"),
        ("shop", "web", "http"),
        ("shop", "mail", "smtp"),
        ("shop", "postgres", "postgres"),
    ] {
        workload::set_endpoints(east, namespace, service, port, &hosts).unwrap();
    }
}

/// Version, addresses and annotations of all Services of type LoadBalancer: equal only if nobody wrote anything.
fn services(site: &Site) -> BTreeMap<String, (String, Vec<String>, Value)> {
    let list = site
        .kubectl("east", &["get", "services", "-A", "-o", "json"])
        .unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let all = list["items"].as_array().unwrap().iter();
    let ours = all.filter(|service| service["spec"]["type"] == "LoadBalancer");
    ours.map(|service| {
        let meta = &service["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        let ingress = ingress.into_iter().flatten();
        let name = format!("{}/{}", text(&meta["namespace"]), text(&meta["name"]));
        let state = (
            text(&meta["resourceVersion"]),
            ingress.map(|point| text(&point["ip"])).collect(),
            meta["annotations"].clone(),
        );
        (name, state)
    })
    .collect()
}

fn addresses(
    services: &BTreeMap<String, (String, Vec<String>, Value)>,
) -> BTreeMap<&str, &[String]> {
    let all = services.iter();
    all.map(|(name, (_, addresses, _))| (name.as_str(), addresses.as_slice()))
        .collect()
}

/// Runs `migrate` beside the API server, as a user.
fn migrate(site: &Site, flags: &[&str]) -> Migrated {
    let host = site.lan().host("east").unwrap();
    let kubeconfig = site.cluster("east").unwrap().kube.kubeconfig_of(READER);
    let ipam = format!("http://{BOOK}");
    let run = || Migrated::run("east", &ipam, &kubeconfig, flags);
    host.namespace.run(run).unwrap().unwrap()
}

fn dry_run(site: &Site) {
    let Migrated {
        code,
        text: _,
        errors,
    } = migrate(site, &[]);
    assert_eq!(code, 1, "may not list yet: {errors}");
    assert!(errors.contains("namespaces"), "{errors}");
    let role = repository().join("deploy/kubernetes/migrate-rbac.yaml");
    let role = role.display().to_string();
    site.kubectl("east", &["apply", "-f", &role]).unwrap();
    let user = format!("--user={READER}");
    let bind = [
        "create",
        "clusterrolebinding",
        "pharos:migrate",
        "--clusterrole=pharos:migrate",
        &user,
    ];
    site.kubectl("east", &bind).unwrap();
    let Migrated { code, text, errors } = migrate(site, &[]);
    eprintln!("{text}");
    assert_eq!(code, 0, "{text}\n{errors}");
    for service in SERVICES {
        let line = text.lines().find(|line| line.starts_with(service));
        assert!(line.unwrap().ends_with("  unchanged"), "{text}");
    }
    for words in [
        "MetalLB       v0.15.2, BGP mode native",
        "4 of 4 Services are unchanged. Nothing was changed",
        "bgppeers.metallb.io: versions are converted by MetalLB's controller",
        "metallb-webhook-configuration: refuses every edit",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
    let pools = call(site, |channel| async {
        let mut client = PoolServiceClient::new(channel);
        client.list_pools(v1::ListPoolsRequest::default()).await
    });
    assert_eq!(pools.pools.len(), 0, "a dry run changes nothing");
}

fn apply(site: &Site, backup: &Path) {
    let file = backup.display().to_string();
    let flags = ["--apply", "--backup", &file, "--output", "json"];
    let Migrated { code, text, errors } = migrate(site, &flags);
    assert_eq!(code, 0, "{text}\n{errors}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["applied"], true, "{text}");
    let fates = report["services"].as_array().unwrap().iter();
    assert!(
        fates.clone().all(|row| row["fate"] == "unchanged"),
        "{text}"
    );
    assert_eq!(fates.len(), SERVICES.len());
    let held = call(site, |channel| async {
        let mut client = AllocationServiceClient::new(channel);
        client
            .list_allocations(v1::ListAllocationsRequest::default())
            .await
    });
    let held: BTreeMap<String, Vec<String>> = held
        .allocations
        .into_iter()
        .map(|it| (it.owner.unwrap_or_default().name, it.addresses))
        .collect();
    let expected = [
        ("envoy-gateway", ENVOY),
        ("mail", SHARED),
        ("postgres", PINNED),
        ("web", SHARED),
    ];
    let expected = expected.map(|(name, address)| (name.to_owned(), vec![address.to_string()]));
    assert_eq!(held, BTreeMap::from(expected));
    let Migrated {
        code,
        text: _,
        errors,
    } = migrate(site, &flags);
    assert_eq!(code, 2, "a backup is never overwritten: {errors}");
    assert!(errors.contains("--backup"), "{errors}");
}

/// While MetalLB's speakers answer.
fn pharos_starts(site: &mut Site) {
    let conversion = r#"[{"op":"replace","path":"/spec/conversion","value":{"strategy":"None"}}]"#;
    let crd = "bgppeers.metallb.io";
    for command in [
        &["patch", "crd", crd, "--type=json", "-p", conversion][..],
        &["delete", "validatingwebhookconfiguration", WEBHOOKS],
    ] {
        site.kubectl("east", command).unwrap();
    }
    // They know one another before there is anything to answer for: no node is a stranger then.
    for (node, _) in NODES {
        site.launch_announcer("east", node, MEMBERS).unwrap();
    }
    for (node, _) in NODES {
        wait::until("announcers have met", DEADLINE, || {
            let text = metrics(site, node).ok()?;
            let met = "pharos_announcer_members_alive 1";
            text.lines().any(|line| line == met).then_some(())
        })
        .unwrap();
    }
    site.install("east").unwrap();
    site.start_adapter("east").unwrap();
    let site = &*site;
    for address in ADDRESSES {
        let series = format!("metallb_layer2_responses_sent{{ip=\"{address}\"}} ");
        wait::until("an announcer answers", DEADLINE, || {
            let answers = |(node, _): &(&str, &str)| {
                let text = metrics(site, node).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix(&series));
                line.and_then(|count| count.parse::<u64>().ok()) > Some(0)
            };
            NODES.iter().any(answers).then_some(())
        })
        .unwrap();
    }
}

fn metrics(site: &Site, node: &str) -> anyhow::Result<String> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 7473));
    let get = || http::get(admin, "/metrics", Duration::from_secs(5));
    let (_, text) = site.lan().host(node)?.namespace.run(get)??;
    Ok(text)
}

fn nothing_changed(site: &Site, before: &BTreeMap<String, (String, Vec<String>, Value)>) {
    assert_eq!(&services(site), before, "no Service is written");
    let unavailable = call(site, |channel| async {
        let mut client = ReservationServiceClient::new(channel);
        client
            .list_unavailable(v1::ListUnavailableRequest::default())
            .await
    });
    assert_eq!(unavailable.unavailable, [], "nothing is quarantined");
    let conflicts = call(site, |channel| async {
        let mut client = AnnouncementServiceClient::new(channel);
        let request = v1::ListConflictsRequest {
            cluster: "east".to_owned(),
            ..v1::ListConflictsRequest::default()
        };
        client.list_conflicts(request).await
    });
    for seen in &conflicts.conflicts {
        let conflict = seen.conflict.clone().unwrap_or_default();
        eprintln!("told of while both answer: {conflict:?}");
        assert_eq!(
            conflict.kind(),
            v1::announcer_report::conflict::Kind::KernelAnswers,
            "a speaker is a member of the cluster, and no stranger"
        );
    }
}

/// Waits until no two nodes answer for an address, and none is missing.
fn one_node_answers_for_each(site: &Site, prober: &Prober) {
    let from = prober.now();
    wait::until("one node for each address", DEADLINE, || {
        let now = prober.now();
        let since = now.checked_sub(ALONE).filter(|since| *since >= from)?;
        let record = prober.record();
        let single = |address: &Ipv4Addr| {
            let answerers = record.answerers(*address, since, now);
            answerers.len() == 1
                && answerers
                    .iter()
                    .all(|mac| workload::name_of(site, *mac).is_ok())
        };
        ADDRESSES.iter().all(single).then_some(())
    })
    .unwrap();
}

/// Says how long each address was silent since a moment; gives for how long the machine itself paused.
fn measure(who: &str, recorder: &impl Recorder, since: Duration) -> Duration {
    let (record, now) = (recorder.record(), recorder.now());
    let paused = record.longest_unasked(since, now);
    for address in ADDRESSES {
        let answers = record.of(address).count();
        if answers > 0 {
            let gap = record.longest_gap(address, since, now);
            let lost = record.lost(address, since, now).len();
            eprintln!(
                "cut-over, {who}: {address} was silent for up to {gap:?}, {lost} of {} requests without an answer (the \
                 machine paused for up to {paused:?})",
                record.requests(address, since, now).len()
            );
        }
    }
    paused
}

fn call<T, F>(site: &Site, call: impl FnOnce(Channel) -> F + Send) -> T
where
    T: Send,
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let host = site.client().unwrap();
    let asked = host.namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{BOOK}")).unwrap();
            let channel = endpoint.connect().await.unwrap();
            call(channel).await.unwrap().into_inner()
        })
    });
    asked.unwrap()
}
