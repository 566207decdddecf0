//! Topology: one ipam-service, and the alert rules that are delivered with it.
//!
//! 1. Every metric that a rule looks at is really served, under that name, from the start; and what is
//!    served is on the page about metrics.
//! 2. Each alert, also of the other programs, fires when it should and not before, by Prometheus' own
//!    judgement.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::ipam::{Ipam, claim};
use pharos_proto::v1;
use pharos_testbed::{http, skip};

/// Whose rules there are: `PROGRAM.rules.yaml`, and `PROGRAM.tests.yaml` with cases for them.
const PROGRAMS: [&str; 3] = ["ipam-service", "announcer", "k8s-adapter"];

fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/alerts")
}

/// Names of ours and of MetalLB's in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    words
        .filter(|word| word.starts_with("pharos_") || word.starts_with("metallb_"))
        .collect()
}

/// What follows `expr:`, also on the lines below it.
fn expressions(yaml: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in yaml.lines() {
        let text = line.trim();
        if let Some(first) = text.strip_prefix("expr:") {
            inside = first.trim() == ">-";
            found.push(first.to_owned());
        } else if inside && !["for:", "labels:"].iter().any(|key| text.starts_with(key)) {
            if let Some(last) = found.last_mut() {
                last.push_str(text);
            }
        } else {
            inside = false;
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_an_alert_looks_at_is_served() {
    let ipam = Ipam::start_with(&["--metallb-metrics"]).unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.4"])
        .await
        .unwrap();
    let mut client = ipam.allocations().unwrap();
    client.allocate(claim("east/default/web")).await.unwrap();
    let mut waits = claim("east/default/waits");
    waits.pool = "later".to_owned();
    waits.if_refused = v1::allocate_request::IfRefused::Queue.into();
    client.allocate(waits).await.unwrap();
    let watch = v1::WatchAllocationsRequest::default();
    let _watched = client.watch_allocations(watch).await.unwrap();
    let yaml = std::fs::read_to_string(alerts().join("ipam-service.rules.yaml")).unwrap();
    let expressions = expressions(&yaml);
    let alerts = yaml
        .lines()
        .filter(|line| line.trim().starts_with("- alert:"));
    assert_eq!(expressions.len(), alerts.count());
    let wanted: BTreeSet<&str> = expressions.iter().flat_map(|it| names(it)).collect();
    assert!(wanted.len() >= 10, "{wanted:?}");
    let served = || {
        http::get(ipam.admin(), "/metrics", Duration::from_secs(2))
            .unwrap()
            .1
    };
    pharos_testbed::wait::until("all metrics", e2e::ipam::SOON, || {
        let text = served();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series: BTreeSet<&str> = series
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        let missing: Vec<_> = wanted
            .iter()
            .filter(|name| !series.contains(**name))
            .collect();
        eprintln!("missing: {missing:?}");
        missing.is_empty().then_some(())
    })
    .unwrap();
    let text = served();
    let page = include_str!("../../docs/how-to/monitoring.md");
    for series in text.lines().filter(|line| !line.starts_with('#')) {
        let name = series.split(['{', ' ']).next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"];
        let base = of_histogram.iter().find_map(|end| name.strip_suffix(end));
        let name = base.unwrap_or(name);
        assert!(page.contains(name), "{name} is not on the page");
    }
    for line in [
        r#"pharos_ipam_waiting_claims{reason="UNKNOWN_POOL"} 1"#,
        r#"pharos_pool_addresses{space="default",cluster="",pool="pool",family="ipv4",kind="held"} 1.0"#,
        r#"metallb_allocator_addresses_in_use_total{pool="pool"} 1.0"#,
        r#"metallb_allocator_addresses_total{pool="pool"} 4.0"#,
        r#"pharos_ipam_writing_stopped 0"#,
        r#"pharos_ipam_database_errors_total{kind="full"} 0"#,
        r#"pharos_ipam_database_read_errors_total{kind="damaged"} 0"#,
        r#"pharos_ipam_grpc_calls_shed_total{limit="client"} 0"#,
        r#"pharos_ipam_grpc_calls_shed_total{limit="server"} 0"#,
        r#"pharos_ipam_watchers{kind="allocations"} 1"#,
        r#"pharos_ipam_watchers{kind="assignments"} 0"#,
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    if !skip::has_programs(&["promtool"]) {
        return;
    }
    for program in PROGRAMS {
        let [rules, cases] = ["rules", "tests"].map(|what| format!("{program}.{what}.yaml"));
        for arguments in [["check", "rules", &rules], ["test", "rules", &cases]] {
            let mut promtool = Command::new("promtool");
            let output = promtool.args(arguments).current_dir(alerts()).output();
            let output = output.unwrap();
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            assert!(output.status.success(), "{arguments:?}: {told}");
        }
        // A case in which it fires, for each.
        let read = |name| std::fs::read_to_string(alerts().join(name)).unwrap();
        let (rules, cases) = (read(rules), read(cases));
        let named = rules
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- alert: "));
        let named: Vec<&str> = named.collect();
        assert!(named.len() >= 4, "{named:?}");
        for alert in named {
            let fires = format!("      - alertname: {alert}\n");
            assert!(cases.contains(&fires), "no case in which {alert} fires");
        }
    }
}
