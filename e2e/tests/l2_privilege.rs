//! What an announcer may do where it runs: raw sockets, and nothing else.
//!
//! Topology: `e2e::segment` with one node. The announcer is started with exactly the privileges that
//! it has in each of the places that `deploy/` describes, and has to answer there, to follow the
//! interfaces, and to keep its state.
//!
//! 1. systemd: a user other than root, with an ambient capability.
//! 2. Kubernetes: user 0 without any capability but NET_RAW, on a root that cannot be written to.
//! 3. Without NET_RAW it says so and waits.
//! 4. The unit of systemd is valid and tight; the manifest asks for what was tested, and for no token.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use e2e::segment::{SOON, Segment};
use e2e::site::repository;
use e2e::unit::Unit;
use pharos_testbed::{Launch, ndp, skip, wait, workspace_binary};
use serde_json::{Value, json};
use tempfile::TempDir;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x100);
const NODE: &str = "n1";
/// A user that owns nothing.
const NOBODY: u32 = 65534;
/// CAP_NET_RAW is bit 13 (capabilities(7)).
const NET_RAW: &str = "0000000000002000";
const NONE: &str = "0000000000000000";
/// The highest exposure that is allowed, in tenths, as `systemd-analyze security` counts.
const EXPOSURE: &str = "20";

/// A copy of the announcer that anybody may run: a build may lie where only root can go.
fn program() -> anyhow::Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open.clone())?;
    let program = directory.path().join("announcer");
    std::fs::copy(workspace_binary("announcer")?, &program)?;
    std::fs::set_permissions(&program, open)?;
    Ok((directory, program))
}

/// A line of /proc/PID/status.
fn status(pid: u32, name: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no {name} in\n{text}"))?;
    Ok(value
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn has(pid: u32, expected: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, value) in expected {
        assert_eq!(status(pid, name)?, *value, "{name}");
    }
    Ok(())
}

/// It answers, follows the interfaces, and keeps what it was assigned.
fn works(segment: &Segment) -> anyhow::Result<()> {
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &[NODE]);
    segment.wait_owner(&prober, ADDRESS, NODE)?;
    let ndp = ndp::Prober::start(segment.lan.host("client")?, &[IPV6])?;
    segment.peer.assign(IPV6, 2, &[NODE]);
    segment.wait_owner(&ndp, IPV6, NODE)?;
    wait::until("the state is kept", SOON, || {
        let state = segment.state_directory(NODE).ok()?;
        std::fs::read_dir(state).ok()?.next().map(drop)
    })?;
    let namespace = &segment.lan.host(NODE)?.namespace;
    let before = prober.now();
    namespace.exec(&["ip", "link", "set", "eth0", "address", "02:00:00:00:09:09"])?;
    let old = segment.lan.host(NODE)?.mac;
    let answer = prober.wait_answer(ADDRESS, before, Some(old), SOON)?;
    assert_eq!(answer.mac.to_string(), "02:00:00:00:09:09");
    Ok(())
}

#[test]
fn a_user_with_the_ambient_capability_of_the_unit_answers() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["setpriv"]) {
        return Ok(());
    }
    let mut segment = Segment::start(&[], &["--hold-down", "0"])?;
    let (_directory, program) = program()?;
    segment.make_state_directory(NODE, NOBODY)?;
    let launch = Launch::program("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args([
            "--inh-caps",
            "-all,+net_raw",
            "--ambient-caps",
            "-all,+net_raw",
        ])
        .args(["--bounding-set", "-all,+net_raw", "--no-new-privs"])
        .arg(program);
    segment.start_launch(launch, NODE, NODE)?;
    works(&segment)?;
    has(
        segment.announcer(NODE)?.pid(),
        &[
            ("Uid:", "65534"),
            ("CapPrm:", NET_RAW),
            ("CapEff:", NET_RAW),
            ("CapBnd:", NET_RAW),
            ("CapAmb:", NET_RAW),
            ("NoNewPrivs:", "1"),
        ],
    )
}

#[test]
fn root_with_net_raw_alone_answers_on_a_root_that_cannot_be_written_to() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["setpriv", "unshare"]) {
        return Ok(());
    }
    let mut segment = Segment::start(&[], &["--hold-down", "0"])?;
    let state = segment.make_state_directory(NODE, 0)?;
    // The state directory is a mount of its own, as a volume is.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro / && \
                  ! touch / 2>/dev/null && exec setpriv --bounding-set -all,+net_raw \
                  --inh-caps -all --no-new-privs \"$@\"";
    let launch = Launch::program("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(state)
        .arg(workspace_binary("announcer")?);
    segment.start_launch(launch, NODE, NODE)?;
    works(&segment)?;
    has(
        segment.announcer(NODE)?.pid(),
        &[
            ("Uid:", "0"),
            ("CapPrm:", NET_RAW),
            ("CapEff:", NET_RAW),
            ("CapBnd:", NET_RAW),
            ("CapAmb:", NONE),
            ("NoNewPrivs:", "1"),
        ],
    )
}

#[test]
fn without_net_raw_it_says_so_and_waits() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["setpriv"]) {
        return Ok(());
    }
    let mut segment = Segment::start(&[], &["--hold-down", "0"])?;
    let launch = Launch::program("setpriv")
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(workspace_binary("announcer")?);
    segment.start_launch(launch, NODE, NODE)?;
    segment
        .announcer(NODE)?
        .wait_log("cannot answer on an interface", SOON)?;
    let reason = wait::until("/readyz says why", SOON, || {
        let (status, body) = segment.admin(NODE, "/readyz").ok()?;
        (status != 200 && body.contains("interfaces")).then_some(body)
    })?;
    assert!(reason.contains("NET_RAW"), "{reason}");
    assert!(segment.announcer(NODE)?.is_running());
    has(segment.announcer(NODE)?.pid(), &[("CapEff:", NONE)])
}

#[test]
fn the_unit_of_systemd_is_valid_and_tight() -> anyhow::Result<()> {
    if !skip::has_programs(&["systemd-analyze"]) {
        return Ok(());
    }
    let unit = Unit::of("announcer")?;
    unit.verify()?;
    // The same with what is added for bound addresses.
    let added = repository().join("deploy/systemd/announcer.service.d/bind-addresses.conf");
    unit.verify_with(&std::fs::read_to_string(added)?)?;
    unit.is_tight(EXPOSURE)?;
    for line in [
        "AmbientCapabilities=CAP_NET_RAW",
        "CapabilityBoundingSet=CAP_NET_RAW",
        "NoNewPrivileges=yes",
    ] {
        assert!(unit.text.lines().any(|found| found == line), "{line}");
    }
    Ok(())
}

#[test]
fn the_manifest_asks_for_what_was_tested_and_for_no_token() -> anyhow::Result<()> {
    let objects = manifest(&repository().join("deploy/kubernetes/announcer.yaml"))?;
    let of_kind = |kind: &str| {
        let found = objects.iter().find(|object| object["kind"] == kind);
        found.with_context(|| format!("no {kind}"))
    };
    let account = of_kind("ServiceAccount")?;
    let set = of_kind("DaemonSet")?;
    let pod = &set["spec"]["template"]["spec"];
    for holder in [account, pod] {
        assert_eq!(holder["automountServiceAccountToken"], false, "{holder}");
    }
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    let container = &pod["containers"][0];
    let expected = json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "seccompProfile": {"type": "RuntimeDefault"},
        "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
    });
    assert_eq!(container["securityContext"], expected);
    assert_eq!(container["resources"]["limits"]["cpu"], Value::Null);
    let state = &container["volumeMounts"][0];
    assert_eq!(state["mountPath"], "/var/lib/pharos");
    assert_eq!(state["readOnly"], Value::Null);
    // Every setting is one that the announcer knows.
    let help = std::process::Command::new(workspace_binary("announcer")?)
        .arg("--help")
        .output()?;
    let help = String::from_utf8(help.stdout)?;
    let settings = container["env"].as_array().context("no settings")?;
    let names = settings.iter().filter_map(|one| one["name"].as_str());
    let ours: Vec<&str> = names.filter(|name| name.starts_with("PHAROS_")).collect();
    assert!(ours.len() >= 4, "{ours:?}");
    for name in ours {
        assert!(help.contains(&format!("{name}=")), "{name}");
    }
    Ok(())
}

fn manifest(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    Ok(serde_saphyr::from_multiple(&text)?)
}
