//! What stands in the way of a migration from MetalLB, and what people have in hand then: a real kube-apiserver with
//! Services that have addresses, as something else gave them; a real ipam-service; no nodes.
//!
//! 1. Where an address would not stay, it is told why, the exit code is 1, and nothing is done.
//! 2. A backup is taken back by `kubectl apply`, even where the definitions were deleted.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::adapters::Stage;
use e2e::incumbent::Migrated;
use e2e::site::DEADLINE;
use pharos_proto::v1;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_testbed::wait;
use serde_json::{Value, json};

/// A cluster that something else serves: a pool, and Services with addresses in their status.
fn served_cluster() -> Option<Stage> {
    let mut stage = Stage::start().unwrap()?;
    stage.add_cluster("east").unwrap();
    stage.apply_crds("east").unwrap();
    stage.apply_pool("east", "pool", &["192.0.2.0/28"]).unwrap();
    for (name, address) in [
        ("web", "192.0.2.1"),
        ("mail", "192.0.2.2"),
        ("old", "198.51.100.1"),
    ] {
        stage
            .apply_service("east", name, &json!({}), &json!({}))
            .unwrap();
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        let patch = [
            "patch",
            "service",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status.to_string(),
        ];
        stage.kubectl("east", &patch).unwrap();
    }
    Some(stage)
}

fn migrate(stage: &Stage, flags: &[&str]) -> (i32, Value, String) {
    let ipam = format!("http://{}", stage.book_address());
    let kubeconfig = stage.kubeconfig("east").unwrap();
    let flags = [&["--output", "json"], flags].concat();
    let Migrated { code, text, errors } =
        Migrated::run("east", &ipam, &kubeconfig, &flags).unwrap();
    (
        code,
        serde_json::from_str(&text).unwrap_or_default(),
        errors,
    )
}

/// Fate and reason of a Service.
fn fate(report: &Value, service: &str) -> (String, String) {
    let rows = report["services"].as_array().unwrap().iter();
    let mut rows = rows.filter(|row| row["service"] == service);
    let row = rows.next().unwrap();
    let text = |field: &str| row[field].as_str().unwrap().to_owned();
    (text("fate"), text("why"))
}

#[test]
fn what_stands_in_the_way_is_told_and_nothing_is_done() {
    let Some(stage) = served_cluster() else {
        return;
    };
    // Another cluster has one of the addresses already.
    stage
        .force_pool("west", "theirs", &["192.0.2.2/32"])
        .unwrap();
    stage
        .call(|channel| async {
            let request = v1::AllocateRequest {
                owner: Some(v1::Owner {
                    cluster: "west".to_owned(),
                    namespace: "default".to_owned(),
                    name: "db".to_owned(),
                    ..v1::Owner::default()
                }),
                ..v1::AllocateRequest::default()
            };
            AllocationServiceClient::new(channel)
                .allocate(request)
                .await
        })
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let backup = directory.path().join("backup.yaml");
    let file = backup.display().to_string();
    let (code, report, errors) = migrate(&stage, &["--apply", "--backup", &file]);
    assert_eq!(code, 1, "{report:#}\n{errors}");
    assert_eq!(
        fate(&report, "default/web"),
        ("unchanged".to_owned(), String::new())
    );
    let (found, why) = fate(&report, "default/mail");
    assert_eq!(found, "notHeld", "{report:#}");
    assert!(why.contains("default/db of cluster \"west\""), "{why}");
    // It is in no pool: MetalLB would have taken it away.
    let (found, why) = fate(&report, "default/old");
    assert_eq!(found, "notHeld", "{report:#}");
    assert!(!why.is_empty());
    assert_eq!(report["applied"], false);
    assert!(
        errors.contains("2 of 3 Services would not keep"),
        "{errors}"
    );
    assert_eq!(
        stage.allocations("east").unwrap().len(),
        0,
        "nothing was done"
    );
}

#[test]
fn a_backup_is_taken_back_by_kubectl() {
    let Some(stage) = served_cluster() else {
        return;
    };
    let read = |stage: &Stage| {
        let get = [
            "get",
            "ipaddresspools",
            "-n",
            "metallb-system",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name}={.spec}{\"\\n\"}{end}",
        ];
        stage.kubectl("east", &get).unwrap()
    };
    let before = read(&stage);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup.yaml").display().to_string();
    let (_, report, errors) = migrate(&stage, &["--backup", &file]);
    assert!(report["backup"].is_string(), "{report:#}\n{errors}");
    let delete = [
        "delete",
        "crd",
        "ipaddresspools.metallb.io",
        "--timeout=60s",
    ];
    stage.kubectl("east", &delete).unwrap();
    // The definition is there after the first time, and what is of its kind after the second.
    let restore = ["apply", "-f", file.as_str()];
    wait::until_ok("the backup is taken back", DEADLINE, || {
        stage.kubectl("east", &restore)
    })
    .unwrap();
    assert_eq!(read(&stage), before);
}
