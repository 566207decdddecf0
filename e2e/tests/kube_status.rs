//! Topology: one Kubernetes API with Nodes and no kubelets, one adapter, one ipam-service, announcers that say
//! what a test wants them to (e2e/src/adapters.rs).
//!
//! 1. A ServiceL2Status names the node that answers for a Service, goes with it from node to node, and goes
//!    when nobody answers. An event tells of a node that is another one, and of nothing else.
//! 2. What MetalLB's speakers have said of our Services is replaced; what they said of others is not touched.
//! 3. Each node that is to hold a session with a router has a state that says that there is none.
//! 4. The verdict on the configuration names what is wrong, and heals itself.
//! 5. What changes all the time is written now and then, and as it is in the end.
//! 6. A replica that may not see what only tells does all else, and is ready; when it may, it writes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::adapters::{Pretender, Stage};
use e2e::site::DEADLINE;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";
const L2: &str = "servicel2statuses.metallb.io";
const SESSIONS: &str = "bgpsessionstates.frrk8s.metallb.io";
const CONFIGURATION: &str = "configurationstates.metallb.io";

fn none() -> Value {
    json!({})
}

/// A cluster with these nodes, an announcer on each, a pool and an advertisement.
fn stage(flags: &[&str], nodes: &[&str]) -> Option<(Stage, Vec<Pretender>)> {
    let mut stage = Stage::start().unwrap()?;
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/25"]).unwrap();
    let everywhere = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "default", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &everywhere.to_string()).unwrap();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "k8s-adapter", "namespace": "metallb-system" },
        "spec": {
            "selector": { "matchLabels": { "app": "k8s-adapter" } },
            "template": {
                "metadata": { "labels": { "app": "k8s-adapter" } },
                "spec": { "containers": [{ "name": "k8s-adapter", "image": "k8s-adapter" }] },
            },
        },
    });
    stage.apply(EAST, &deployment.to_string()).unwrap();
    let announcers = nodes.iter().map(|node| {
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        stage.apply(EAST, &object.to_string()).unwrap();
        stage.pretend_announcer(EAST, node).unwrap()
    });
    let announcers = announcers.collect();
    stage.start_adapter(EAST, flags).unwrap();
    Some((stage, announcers))
}

/// A Service with an endpoint and an address; gives the election group of the address.
fn serve(stage: &Stage, name: &str) -> u64 {
    stage.apply_service(EAST, name, &none(), &none()).unwrap();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4", "ports": [{ "name": "p", "port": 8080 }],
        "endpoints": [{ "addresses": ["10.244.0.9"], "conditions": { "ready": true } }],
    });
    stage.apply(EAST, &slice.to_string()).unwrap();
    let address = stage.wait_any_address(EAST, name).unwrap();
    stage.wait_group(EAST, &address).unwrap()
}

fn objects(stage: &Stage, kind: &str) -> Vec<Value> {
    let get = ["get", kind, "-n", "metallb-system", "-o", "json"];
    let text = stage.kubectl(EAST, &get).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// Waits until there is exactly one object, whose status is this.
#[track_caller]
fn wait_status(stage: &Stage, kind: &str, status: &Value) -> Value {
    wait::until_ok(&format!("{kind} says {status}"), DEADLINE, || {
        let found = objects(stage, kind);
        let [object] = &found[..] else {
            anyhow::bail!("{found:?}");
        };
        anyhow::ensure!(object["status"] == *status, "{object}");
        Ok(object.clone())
    })
    .unwrap()
}

#[track_caller]
fn wait_none(stage: &Stage, kind: &str) {
    wait::until_ok(&format!("there are no {kind}"), DEADLINE, || {
        let found = objects(stage, kind);
        anyhow::ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
    .unwrap();
}

fn l2(service: &str, node: &str, interfaces: &[&str]) -> Value {
    let interfaces = interfaces.iter().map(|name| json!({ "name": name }));
    json!({
        "node": node, "serviceName": service, "serviceNamespace": "default",
        "interfaces": interfaces.collect::<Vec<_>>(),
    })
}

/// Nodes that events name as the one that announces, in any order.
fn assigned(stage: &Stage, service: &str) -> Vec<String> {
    let events = stage.events(EAST, service).unwrap().into_iter();
    let told = events.filter(|(_, reason, ..)| reason == "nodeAssigned");
    let mut told: Vec<String> = told
        .map(|(kind, _, component, message)| {
            assert_eq!(
                (kind.as_str(), component.as_str()),
                ("Normal", "metallb-speaker")
            );
            message
        })
        .collect();
    told.sort();
    told
}

fn announcing(node: &str) -> String {
    format!("announcing from node \"{node}\" with protocol \"layer2\"")
}

#[test]
fn l2_status_names_the_node_that_answers_and_follows_it() {
    let flags = ["--deployment", "k8s-adapter"];
    let Some((mut stage, nodes)) = stage(&flags, &["n1", "n2"]) else {
        return;
    };
    let [n1, n2] = &nodes[..] else {
        panic!("two nodes");
    };
    let group = serve(&stage, "web");
    assert_eq!(objects(&stage, L2), Vec::<Value>::new());
    n1.owns(group, &["eth0"]).unwrap();
    let object = wait_status(&stage, L2, &l2("web", "n1", &["eth0"]));
    let metadata = &object["metadata"];
    assert!(metadata["name"].as_str().unwrap().starts_with("l2-"));
    for (label, value) in [
        ("metallb.io/node", "n1"),
        ("metallb.io/service-name", "web"),
        ("metallb.io/service-namespace", "default"),
    ] {
        assert_eq!(metadata["labels"][label], value);
    }
    let owner = &metadata["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("Deployment"), &json!("k8s-adapter"))
    );
    let shown = stage
        .kubectl(EAST, &["get", L2, "-n", "metallb-system"])
        .unwrap();
    assert!(
        shown.contains("ALLOCATED NODE") && shown.contains("n1"),
        "{shown}"
    );

    n1.loses(group).unwrap();
    n2.owns(group, &["eth0"]).unwrap();
    let moved = wait_status(&stage, L2, &l2("web", "n2", &["eth0"]));
    assert_ne!(moved["metadata"]["name"], object["metadata"]["name"]);
    n2.owns(group, &["eth0", "eth1"]).unwrap();
    let object = wait_status(&stage, L2, &l2("web", "n2", &["eth0", "eth1"]));
    assert_eq!(object["metadata"]["name"], moved["metadata"]["name"]);
    wait::until("both nodes were told", DEADLINE, || {
        (assigned(&stage, "web") == [announcing("n1"), announcing("n2")]).then_some(())
    })
    .unwrap();

    // A restart changes nothing of that. What it does write tells that it has looked.
    stage.stop_adapter(EAST).unwrap();
    stage.start_adapter(EAST, &flags).unwrap();
    let other = serve(&stage, "other");
    n1.owns(other, &["eth0"]).unwrap();
    wait::until("the other is told", DEADLINE, || {
        (assigned(&stage, "other") == [announcing("n1")]).then_some(())
    })
    .unwrap();
    assert_eq!(assigned(&stage, "web").len(), 2);
    assert!(objects(&stage, L2).contains(&object));
    stage
        .kubectl(EAST, &["delete", "service", "other"])
        .unwrap();
    wait_status(&stage, L2, &l2("web", "n2", &["eth0", "eth1"]));

    // Without ipam-service nodes go on, and so does what is said of them; with it nobody answers any more.
    stage.kill_book().unwrap();
    stage.wait_readiness(EAST, "ipam: ").unwrap();
    assert_eq!(objects(&stage, L2), [object]);
    stage.start_book().unwrap();
    wait_none(&stage, L2);
}

/// What a speaker of MetalLB has said.
fn by_speaker(stage: &Stage, name: &str, service: &str, node: &str) {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status",
        "metadata": {
            "name": name, "namespace": "metallb-system",
            "labels": {
                "metallb.io/node": node, "metallb.io/service-name": service,
                "metallb.io/service-namespace": "default",
            },
        },
    });
    stage.apply(EAST, &object.to_string()).unwrap();
    let status = json!({ "status": {
        "node": node, "serviceName": service, "serviceNamespace": "default",
    } });
    let patch = [
        "patch",
        L2,
        name,
        "-n",
        "metallb-system",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ];
    stage.kubectl(EAST, &patch).unwrap();
}

#[test]
fn metallbs_own_status_objects_are_replaced() {
    let Some((stage, nodes)) = stage(&[], &["n1"]) else {
        return;
    };
    let theirs = json!({ "loadBalancerClass": "example.com/other" });
    stage
        .apply_service(EAST, "theirs", &none(), &theirs)
        .unwrap();
    by_speaker(&stage, "l2-a", "web", "n1");
    by_speaker(&stage, "l2-b", "web", "n0");
    by_speaker(&stage, "l2-c", "theirs", "n0");
    let group = serve(&stage, "web");
    // No announcer answers: the speakers may well.
    assert_eq!(objects(&stage, L2).len(), 3);
    nodes[0].owns(group, &["eth0"]).unwrap();
    wait::until_ok("the speakers' word is replaced", DEADLINE, || {
        let found = objects(&stage, L2);
        let names: Vec<&Value> = found.iter().map(|it| &it["metadata"]["name"]).collect();
        anyhow::ensure!(
            names.len() == 2 && names.contains(&&json!("l2-c")),
            "{names:?}"
        );
        let ours = found
            .iter()
            .find(|it| it["metadata"]["name"] != "l2-c")
            .unwrap();
        anyhow::ensure!(ours["status"] == l2("web", "n1", &["eth0"]), "{ours}");
        Ok(())
    })
    .unwrap();
    // It is the node that it was.
    assert_eq!(assigned(&stage, "web"), Vec::<String>::new());
}

#[test]
fn a_peer_has_a_session_state_that_says_there_is_none() {
    let Some((stage, _nodes)) = stage(&[], &["n1", "n2"]) else {
        return;
    };
    let peer = |name: &str, address: &str, node: &str| {
        json!({
            "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer",
            "metadata": { "name": name, "namespace": "metallb-system" },
            "spec": {
                "myASN": 64512, "peerASN": 64513, "peerAddress": address,
                "nodeSelectors": [{ "matchLabels": { "rack": node } }],
            },
        })
    };
    stage
        .kubectl(EAST, &["label", "node", "n1", "rack=a"])
        .unwrap();
    stage
        .apply(EAST, &peer("router", "192.0.2.200", "a").to_string())
        .unwrap();
    let idle = |node: &str, peer: &str| {
        json!({
            "node": node, "peer": peer, "vrf": "", "bgpStatus": "Idle", "bfdStatus": "N/A",
        })
    };
    let object = wait_status(&stage, SESSIONS, &idle("n1", "192.0.2.200"));
    assert!(
        object["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("n1-")
    );
    assert_eq!(
        object["metadata"]["labels"]["frrk8s.metallb.io/peer"],
        "192.0.2.200"
    );
    stage
        .kubectl(EAST, &["label", "node", "n1", "rack-"])
        .unwrap();
    stage
        .kubectl(EAST, &["label", "node", "n2", "rack=a"])
        .unwrap();
    wait_status(&stage, SESSIONS, &idle("n2", "192.0.2.200"));
    // No session, so nothing is announced over one.
    assert_eq!(
        objects(&stage, "servicebgpstatuses.metallb.io"),
        Vec::<Value>::new()
    );
    let delete = ["delete", "bgppeer", "router", "-n", "metallb-system"];
    stage.kubectl(EAST, &delete).unwrap();
    wait_none(&stage, SESSIONS);
}

#[track_caller]
fn wait_verdict(stage: &Stage, result: &str, words: &str) -> Value {
    wait::until_ok(&format!("the configuration is {result}"), DEADLINE, || {
        let found = objects(stage, CONFIGURATION);
        let [object] = &found[..] else {
            anyhow::bail!("{found:?}");
        };
        let status = &object["status"];
        let summary = status["errorSummary"].as_str().unwrap_or_default();
        anyhow::ensure!(
            status["result"] == result && summary.contains(words),
            "{object}"
        );
        Ok(object.clone())
    })
    .unwrap()
}

#[test]
fn configuration_state_says_what_is_wrong_and_heals_itself() {
    let Some((mut stage, _nodes)) = stage(&[], &[]) else {
        return;
    };
    let valid = wait_verdict(&stage, "Valid", "");
    assert_eq!(valid["metadata"]["name"], "controller");
    assert_eq!(
        valid["metadata"]["labels"]["metallb.io/component-type"],
        "controller"
    );
    let condition = &valid["status"]["conditions"][0];
    assert_eq!(
        (
            &condition["type"],
            &condition["status"],
            &condition["reason"]
        ),
        (
            &json!("poolReconcilerValid"),
            &json!("True"),
            &json!("Reconciled")
        )
    );
    stage
        .apply_pool(EAST, "overlapping", &["192.0.2.8/29"])
        .unwrap();
    let words = "IPAddressPool \"overlapping\"";
    let invalid = wait_verdict(&stage, "Invalid", words);
    let condition = &invalid["status"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("ConfigurationError"))
    );
    // Whoever asks Kubernetes to wait for it gets an answer.
    let shown = stage
        .kubectl(EAST, &["get", CONFIGURATION, "-n", "metallb-system"])
        .unwrap();
    assert!(shown.contains("Invalid"), "{shown}");
    let delete = [
        "delete",
        CONFIGURATION,
        "controller",
        "-n",
        "metallb-system",
    ];
    stage.kubectl(EAST, &delete).unwrap();
    let again = wait_verdict(&stage, "Invalid", words);
    assert_ne!(again["metadata"]["uid"], invalid["metadata"]["uid"]);
    let pool = [
        "delete",
        "ipaddresspool",
        "overlapping",
        "-n",
        "metallb-system",
    ];
    stage.kubectl(EAST, &pool).unwrap();
    let valid = wait_verdict(&stage, "Valid", "");
    // A restart says the same, and writes nothing.
    stage.stop_adapter(EAST).unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    stage.wait_leader(EAST).unwrap();
    stage
        .apply_pool(EAST, "more", &["198.51.100.0/29"])
        .unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    let from = json!({ "metallb.io/address-pool": "more" });
    stage.apply_service(EAST, "web", &from, &none()).unwrap();
    stage.wait_any_address(EAST, "web").unwrap();
    assert_eq!(wait_verdict(&stage, "Valid", ""), valid);
}

#[test]
fn status_writes_are_paced_and_coalesced() {
    let Some((stage, nodes)) = stage(&[], &["n1", "n2"]) else {
        return;
    };
    let written = || {
        let series = "pharos_adapter_status_objects_total";
        stage.metric(EAST, series).unwrap().unwrap_or_default()
    };
    let group = serve(&stage, "web");
    let before = written();
    let start = wait::now();
    let changes = 200;
    for change in 0..changes {
        let (winner, loser) = (&nodes[change % 2], &nodes[(change + 1) % 2]);
        loser.loses(group).unwrap();
        winner.owns(group, &["eth0"]).unwrap();
        // As long as a change is gathered for.
        wait::until("its time", Duration::from_millis(400), || {
            (start.elapsed() > Duration::from_millis(25) * u32::try_from(change).unwrap())
                .then_some(())
        })
        .unwrap();
    }
    nodes[0].loses(group).unwrap();
    nodes[1].owns(group, &["eth9"]).unwrap();
    wait_status(&stage, L2, &l2("web", "n2", &["eth9"]));
    // Each second one object is made, with its status, and one deleted.
    let most = 3.0 * (start.elapsed().as_secs_f64() + 2.0);
    let made = written() - before;
    eprintln!("{changes} changes, {made} writes in {:?}", start.elapsed());
    assert!(made <= most, "{made} writes, {most} at most");
}

#[test]
fn a_replica_that_may_not_see_what_only_tells_is_ready() {
    let Some(mut stage) = Stage::start().unwrap() else {
        return;
    };
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    stage.apply_pool(EAST, "pool", &["192.0.2.0/25"]).unwrap();
    stage.advertise_all(EAST).unwrap();
    stage.kubectl(EAST, &["delete", "crd", SESSIONS]).unwrap();
    // Permissions of an earlier version.
    let role = "pharos:k8s-adapter";
    let get = ["get", "role", role, "-n", "metallb-system", "-o", "json"];
    let text = stage.kubectl(EAST, &get).unwrap();
    let granted: Value = serde_json::from_str(&text).unwrap();
    let rules = granted["rules"].as_array().unwrap().iter();
    let older: Vec<&Value> = rules
        .filter(|rule| rule["resources"] != json!(["servicel2statuses"]))
        .collect();
    let with = |rules: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": { "name": role, "namespace": "metallb-system" }, "rules": rules,
        })
    };
    stage.apply(EAST, &with(json!(older)).to_string()).unwrap();
    let adapter = "system:serviceaccount:metallb-system:k8s-adapter";
    let can = [
        "auth",
        "can-i",
        "list",
        L2,
        "-n",
        "metallb-system",
        "--as",
        adapter,
    ];
    wait::until("they may not be listed", DEADLINE, || {
        // It ends with an error when the answer is no.
        stage.kubectl(EAST, &can).err()
    })
    .unwrap();
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    stage.apply(EAST, &node.to_string()).unwrap();
    let announcer = stage.pretend_announcer(EAST, "n1").unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    let group = serve(&stage, "web");
    announcer.owns(group, &["eth0"]).unwrap();
    let log = "list failed, what only tells is not written";
    let adapter = stage.adapter(EAST).unwrap();
    adapter.wait_log(log, DEADLINE).unwrap();
    stage.wait_readiness(EAST, "ok").unwrap();
    let all = with(granted["rules"].clone());
    stage.apply(EAST, &all.to_string()).unwrap();
    wait_status(&stage, L2, &l2("web", "n1", &["eth0"]));
}
