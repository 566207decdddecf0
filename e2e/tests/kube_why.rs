//! Topology: e2e/src/site.rs, cluster east with nodes n1 and n2 (a real announcer each) and n3, which is excluded
//! and has none.
//!
//! 1. A Service that is well is written once, with its address; no condition or event speaks of who answers.
//! 2. Endpoints that go and come back at once are told to nobody.
//! 3. Each Service that nobody reaches has a condition and one event that say why: no advertisement, no node, no
//!    interface, no endpoint, none where it is announced, another machine; and one that waits for an address
//!    has a condition, too.
//! 4. Conditions of others are left as they are.
//! 5. What is over is taken back.
//! 6. A restart writes nothing, and tells nothing again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::site::{DEADLINE, Site};
use e2e::workload::set_endpoints;
use pharos_testbed::{Host, http, wait};
use serde_json::{Value, json};

const EAST: &str = "east";
const ANNOUNCED: &str = "pharos.io/Announced";
const ASSIGNED: &str = "pharos.io/Assigned";
/// The client has it.
const TAKEN: &str = "192.168.12.116";
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7474);

/// Services that nobody reaches: the reason, that of the event, and words of both.
const SILENT: [(&str, &str, &str, &[&str]); 6] = [
    (
        "bare",
        "NoReadyEndpoint",
        "NoReadyEndpoint",
        &["no ready endpoint"],
    ),
    (
        "silent",
        "NotAdvertised",
        "NotAdvertised",
        &["no advertisement selects pool \"silent\""],
    ),
    (
        "nowhere",
        "NoNodeSelected",
        "NoNodeSelected",
        &[
            "no live node matches",
            "excluded: n3 (ExcludedFromExternalLoadBalancers)",
        ],
    ),
    (
        "dark",
        "NotYetAnnounced",
        "NotYetAnnounced",
        &["is to announce it", "on interfaces eth9 only"],
    ),
    (
        "second",
        "NotAnnouncedHere",
        "NotAnnouncedHere",
        &["shared with default/first"],
    ),
    (
        "taken",
        "AddressConflict",
        "AddressConflict",
        &["another machine with MAC", "interface eth0"],
    ),
];

#[test]
fn a_service_that_is_not_reached_says_why() {
    let Some(mut site) = Site::start().unwrap() else {
        return;
    };
    site.add_cluster(EAST, "192.168.12.5").unwrap();
    site.add_node(EAST, "n1", "192.168.12.11").unwrap();
    site.add_node(EAST, "n2", "192.168.12.12").unwrap();
    let excluded = json!({ "apiVersion": "v1", "kind": "Node", "metadata": {
        "name": "n3", "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "" },
    } });
    apply(&site, &excluded);
    take_an_address(&site);
    declare(&site);
    let of_others = json!({ "status": { "conditions": [{
        "type": "example.com/Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2024-01-01T00:00:00Z",
    }] } });
    patch_status(&site, "bare", &of_others);
    what_comes_back_at_once(&site);

    for (name, reason, event, words) in SILENT {
        let found = wait_condition(&site, name, ANNOUNCED, reason);
        let message = found["message"].as_str().unwrap();
        eprintln!("{name}: {reason}: {message}");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {found}");
        }
        assert_eq!(found["status"], "False", "{found}");
        wait_event(&site, name, event, message);
    }
    let mac = site.client().unwrap().mac.to_string();
    let taken = wait_condition(&site, "taken", ANNOUNCED, "AddressConflict");
    assert!(taken["message"].as_str().unwrap().contains(&mac), "{taken}");
    let waits = wait_condition(&site, "waits", ASSIGNED, "UnknownPool");
    assert_eq!(waits["status"], "False");
    assert!(
        waits["message"].as_str().unwrap().contains("missing"),
        "{waits}"
    );

    // All of that, and no more.
    for name in ["web", "first"] {
        let conditions = conditions(&service(&site, name));
        let types: Vec<&String> = conditions.keys().collect();
        assert_eq!(types, [ASSIGNED], "{name}");
        assert_eq!(conditions[ASSIGNED]["status"], "True");
        assert_eq!(events(&site, name, "NoReadyEndpoint"), 0);
    }
    let written = [("status_writes", 8.0), ("condition_writes", 7.0)];
    for (series, expected) in written {
        assert_eq!(metric(&site, series), expected, "{series}");
    }
    what_is_over_is_taken_back(&site);
    a_restart_writes_nothing(&mut site);
}

fn apply(site: &Site, object: &Value) {
    let east = site.cluster(EAST).unwrap();
    east.kube.apply(&object.to_string()).unwrap();
}

fn take_an_address(site: &Site) {
    let client = &site.client().unwrap().namespace;
    let address = format!("{TAKEN}/32");
    let add = ["ip", "addr", "add", &address, "dev", "eth0"];
    client.exec(&add).unwrap();
}

fn declare(site: &Site) {
    for (pool, range, spec) in [
        ("main", "192.168.12.100-192.168.12.109", Some(json!({}))),
        ("silent", "192.168.12.110-192.168.12.111", None),
        (
            "nowhere",
            "192.168.12.112-192.168.12.113",
            Some(json!({ "nodeSelectors": [{ "matchLabels": { "rack": "none" } }] })),
        ),
        (
            "dark",
            "192.168.12.114-192.168.12.115",
            Some(json!({ "interfaces": ["eth9"] })),
        ),
        // It is asked for before its first answer, as nobody named it.
        ("taken", "192.168.12.116-192.168.12.116", Some(json!({}))),
    ] {
        apply(
            site,
            &json!({
                "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": { "name": pool, "namespace": "metallb-system" },
                "spec": { "addresses": [range], "autoAssign": pool == "main" },
            }),
        );
        if let Some(spec) = spec {
            advertise(site, pool, spec);
        }
    }
    // Before their Services, so that nobody waits for an endpoint.
    let [n1, n2] = hosts(site);
    for name in ["web", "silent", "nowhere", "dark", "first", "taken"] {
        endpoints(site, name, &[n1]);
    }
    endpoints(site, "second", &[n2]);
    let from = |pool: &str| json!({ "metallb.io/address-pool": pool });
    let shared = json!({
        "metallb.io/allow-shared-ip": "k", "metallb.io/loadBalancerIPs": "192.168.12.107",
    });
    let local = |port: u16| {
        json!({
            "externalTrafficPolicy": "Local", "selector": { "app": "x" },
            "ports": [{ "name": "p", "port": port }],
        })
    };
    for (name, annotations, spec) in [
        ("web", json!({}), json!({})),
        ("bare", json!({}), json!({})),
        ("silent", from("silent"), json!({})),
        ("nowhere", from("nowhere"), json!({})),
        ("dark", from("dark"), json!({})),
        ("first", shared.clone(), local(81)),
        ("taken", from("taken"), json!({})),
        ("waits", from("missing"), json!({})),
    ] {
        create(site, name, &annotations, &spec);
    }
    wait_address(site, "first");
    create(site, "second", &shared, &local(82));
    for (name, ..) in SILENT {
        wait_address(site, name);
    }
}

fn advertise(site: &Site, pool: &str, mut spec: Value) {
    spec["ipAddressPools"] = json!([pool]);
    apply(
        site,
        &json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": { "name": pool, "namespace": "metallb-system" }, "spec": spec,
        }),
    );
}

fn create(site: &Site, name: &str, annotations: &Value, spec: &Value) {
    let mut whole = json!({ "type": "LoadBalancer", "ports": [{ "name": "p", "port": 80 }] });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    apply(
        site,
        &json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": "default", "annotations": annotations },
            "spec": whole,
        }),
    );
}

fn hosts(site: &Site) -> [&Host; 2] {
    ["n1", "n2"].map(|name| site.lan().host(name).unwrap())
}

fn endpoints(site: &Site, name: &str, nodes: &[&Host]) {
    let east = site.cluster(EAST).unwrap();
    set_endpoints(east, "default", name, "p", nodes).unwrap();
}

/// The endpoint goes, which the status object tells when it has lasted for a moment, and comes back.
fn what_comes_back_at_once(site: &Site) {
    let [n1, _] = hosts(site);
    let told = |expected: bool| {
        let what = format!("that web is announced is told: {expected}");
        wait::until_ok(&what, DEADLINE, || {
            let get = [
                "get",
                "servicel2statuses",
                "-n",
                "metallb-system",
                "-o",
                "json",
            ];
            let list: Value = serde_json::from_str(&site.kubectl(EAST, &get)?)?;
            let mut all = list["items"].as_array().unwrap().iter();
            let found = all.any(|it| it["status"]["serviceName"] == "web");
            anyhow::ensure!(found == expected, "{list}");
            Ok(())
        })
        .unwrap();
    };
    told(true);
    endpoints(site, "web", &[]);
    told(false);
    endpoints(site, "web", &[n1]);
    told(true);
}

fn what_is_over_is_taken_back(site: &Site) {
    let [n1, _] = hosts(site);
    endpoints(site, "bare", &[n1]);
    advertise(site, "silent", json!({}));
    create(site, "waits", &json!({}), &json!({}));
    for name in ["bare", "silent"] {
        let found = wait_condition(site, name, ANNOUNCED, "Announced");
        assert_eq!(found["status"], "True");
    }
    let found = wait_condition(site, "waits", ASSIGNED, "Assigned");
    assert_eq!(found["status"], "True");
    let all = conditions(&service(site, "bare"));
    let theirs = &all["example.com/Ready"];
    assert_eq!(
        theirs["lastTransitionTime"], "2024-01-01T00:00:00Z",
        "{all:?}"
    );
}

/// What was written after the restart about a new Service tells that the others were looked at for as long.
fn a_restart_writes_nothing(site: &mut Site) {
    // It has no endpoint, either.
    wait_condition(site, "waits", ANNOUNCED, "NoReadyEndpoint");
    let all = |site: &Site| {
        let get = ["get", "services", "-n", "default", "-o", "json"];
        let list: Value = serde_json::from_str(&site.kubectl(EAST, &get).unwrap()).unwrap();
        let all = list["items"].as_array().unwrap().iter();
        let versions = all.map(|it| {
            let metadata = &it["metadata"];
            (
                metadata["name"].to_string(),
                metadata["resourceVersion"].to_string(),
            )
        });
        let mut versions: BTreeMap<String, String> = versions.collect();
        versions.remove("\"late\"");
        versions
    };
    let told = |site: &Site| SILENT.map(|(name, _, event, _)| events(site, name, event));
    let (before, told_before) = (all(site), told(site));
    assert_eq!(told_before, [1; 6]);
    site.stop_adapter(EAST).unwrap();
    site.start_adapter(EAST).unwrap();
    create(site, "late", &json!({}), &json!({}));
    wait_condition(site, "late", ANNOUNCED, "NoReadyEndpoint");
    assert_eq!(all(site), before);
    assert_eq!(told(site), told_before);
    assert_eq!(metric(site, "status_writes"), 1.0);
    assert_eq!(metric(site, "condition_writes"), 1.0);
}

fn service(site: &Site, name: &str) -> Value {
    let get = ["get", "service", name, "-n", "default", "-o", "json"];
    serde_json::from_str(&site.kubectl(EAST, &get).unwrap()).unwrap()
}

fn conditions(service: &Value) -> BTreeMap<String, Value> {
    let all = service["status"]["conditions"].as_array();
    let all = all.into_iter().flatten();
    all.map(|it| (it["type"].as_str().unwrap().to_owned(), it.clone()))
        .collect()
}

#[track_caller]
fn wait_condition(site: &Site, name: &str, of: &str, reason: &str) -> Value {
    wait::until_ok(&format!("{of} of {name} is {reason}"), DEADLINE, || {
        let service = service(site, name);
        let found = conditions(&service).remove(of).unwrap_or_default();
        anyhow::ensure!(found["reason"] == reason, "{}", service["status"]);
        // API servers that do not count it leave both out.
        let generation = &service["metadata"]["generation"];
        assert_eq!(found["observedGeneration"], *generation, "{service}");
        Ok(found)
    })
    .unwrap()
}

#[track_caller]
fn wait_address(site: &Site, name: &str) {
    wait::until_ok(&format!("{name} has an address"), DEADLINE, || {
        let service = service(site, name);
        let ingress = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        anyhow::ensure!(ingress.is_string(), "{service}");
        Ok(())
    })
    .unwrap();
}

/// Events of a Service with this reason, and whether all of MetalLB's speaker.
fn events_of(site: &Site, name: &str, reason: &str) -> anyhow::Result<Vec<Value>> {
    let selector = format!("--field-selector=involvedObject.name={name},reason={reason}");
    let get = ["get", "events", "-n", "default", &selector, "-o", "json"];
    let list: Value = serde_json::from_str(&site.kubectl(EAST, &get)?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn events(site: &Site, name: &str, reason: &str) -> usize {
    events_of(site, name, reason).unwrap().len()
}

#[track_caller]
fn wait_event(site: &Site, name: &str, reason: &str, message: &str) {
    wait::until_ok(&format!("{name} is told {reason} once"), DEADLINE, || {
        let found = events_of(site, name, reason)?;
        let [event] = &found[..] else {
            anyhow::bail!("{found:?}");
        };
        let says = (
            &event["message"],
            &event["type"],
            &event["source"]["component"],
        );
        let expected = (
            &json!(message),
            &json!("Warning"),
            &json!("metallb-speaker"),
        );
        anyhow::ensure!(says == expected, "{event}");
        Ok(())
    })
    .unwrap();
}

fn patch_status(site: &Site, name: &str, patch: &Value) {
    let patch = patch.to_string();
    let arguments = [
        "patch",
        "service",
        name,
        "-n",
        "default",
        "--subresource=status",
        "--type=strategic",
        "-p",
        &patch,
    ];
    site.kubectl(EAST, &arguments).unwrap();
}

fn metric(site: &Site, series: &str) -> f64 {
    let namespace = &site.lan().host(EAST).unwrap().namespace;
    let get = || http::get(ADMIN, "/metrics", Duration::from_secs(5));
    let (_, text) = namespace.run(get).unwrap().unwrap();
    let name = format!("pharos_adapter_{series}_total ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap().parse().unwrap()
}
