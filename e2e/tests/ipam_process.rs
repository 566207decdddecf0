//! Topology: ipam-service as a process, started well and badly.
//!
//! 1. A mistake in how it was started: one line on stderr, exit code 2.
//! 2. A second process on the same database is refused, and told who has it; also while the first one
//!    is suspended, which goes on afterwards.
//! 3. SIGTERM drains and exits 0; a restart keeps everything.
//! 4. `init` and `check` do what they say.
//! 5. A flag without a value may be set in the environment; the unit of systemd is valid and tight.
//! 6. A full disk refuses writes and goes on reading, and is over when there is space.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::ipam::{Ipam, SOON, claim, command};
use e2e::unit::Unit;
use nix::sys::signal::Signal;
use pharos_proto::v1;
use pharos_testbed::{Launch, free_port, http, skip, wait};
use tonic::Code;

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// Exit code and output of a run that ends by itself.
fn outcome(launch: Launch) -> (Option<i32>, String) {
    let mut program = launch.start().unwrap();
    let status = program.wait(SOON).unwrap();
    (status.code(), program.log())
}

fn subcommand(name: &str, database: &Path, more: &[&str]) -> (Option<i32>, String) {
    let launch = Launch::workspace("ipam-service").unwrap().arg(name);
    outcome(
        launch
            .arg("--database")
            .arg(format!("sqlite:{}", database.display()))
            .args(more),
    )
}

#[test]
fn a_mistake_at_the_start_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let text = folder.path().join("text");
    std::fs::write(&text, "something else entirely, not a database").unwrap();
    let anywhere: SocketAddr = (Ipv4Addr::UNSPECIFIED, free_port()).into();
    let flags = |flags: &[&str]| {
        Launch::workspace("ipam-service")
            .unwrap()
            .args(flags.to_vec())
    };
    let at = |listen, path: &Path| command(path, listen, loopback()).unwrap();
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let cases = [
        (flags(&["--no-such-flag"]), "--no-such-flag"),
        (flags(&["--listen", "nonsense"]), "--listen"),
        (flags(&["--database", "mysql://x"]), "--database"),
        (
            flags(&["--database", "postgres://x/y"]),
            "PostgreSQL is not supported",
        ),
        (at(anywhere, &database), "--insecure"),
        (
            at(anywhere, &database).arg("--insecure"),
            "--create makes one",
        ),
        (
            at(loopback(), &folder.path().join("no/such/folder/a.db")),
            "No such file or directory",
        ),
        (at(loopback(), &text), "is not a database of ipam-service"),
        (
            at(loopback(), folder.path()),
            "is not a database of ipam-service",
        ),
        (
            at(taken.local_addr().unwrap(), &database),
            "cannot listen there",
        ),
    ];
    for (launch, part) in cases {
        let (code, log) = outcome(launch);
        assert_eq!(code, Some(2), "{part}: {log}");
        assert_eq!(log.lines().count(), 1, "{part}: {log}");
        assert!(
            log.contains(part) && log.starts_with("error: "),
            "{part}: {log}"
        );
    }
}

#[test]
fn a_flag_without_a_value_is_true_or_false_in_the_environment() {
    let anywhere: SocketAddr = (Ipv4Addr::UNSPECIFIED, free_port()).into();
    let start = |value: &str| {
        let folder = tempfile::tempdir().unwrap();
        let launch = command(&folder.path().join("a.db"), anywhere, loopback()).unwrap();
        outcome(launch.env("PHAROS_INSECURE", value))
    };
    // What is taken for true leads to the next question: there is no database.
    for (value, part) in [
        ("1", "--create makes one"),
        ("yes", "--create makes one"),
        ("true", "--create makes one"),
        ("0", "--insecure"),
        ("false", "--insecure"),
        ("perhaps", "--insecure"),
    ] {
        let (code, log) = start(value);
        assert_eq!(code, Some(2), "{value}: {log}");
        assert!(log.contains(part), "{value}: {log}");
    }
    assert!(start("perhaps").1.contains("perhaps"), "it is named");
}

#[test]
fn the_unit_of_systemd_is_valid_and_tight() {
    if !skip::has_programs(&["systemd-analyze"]) {
        return;
    }
    let unit = Unit::of("ipam-service").unwrap();
    unit.verify().unwrap();
    unit.is_tight("20").unwrap();
}

#[test]
fn a_second_process_on_the_same_database_is_refused_until_the_first_is_gone() {
    let mut ipam = Ipam::start().unwrap();
    let (code, log) = outcome(command(&ipam.database(), loopback(), loopback()).unwrap());
    assert_eq!(code, Some(2), "{log}");
    let first = format!(
        "in use by another ipam-service (process {})",
        ipam.program().pid()
    );
    assert!(log.contains(&first) && log.contains("pharos.db"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    ipam.kill().unwrap();
    ipam.restart().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_suspended_still_has_its_database_to_itself() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.9"])
        .await
        .unwrap();
    ipam.signal(Signal::SIGSTOP).unwrap();
    for _ in 0..3 {
        let (code, log) = outcome(command(&ipam.database(), loopback(), loopback()).unwrap());
        assert_eq!(code, Some(2), "{log}");
        assert!(log.contains("in use by another ipam-service"), "{log}");
    }
    ipam.signal(Signal::SIGCONT).unwrap();
    let mut client = ipam.allocations().unwrap();
    let granted = client.allocate(claim("east/default/web")).await.unwrap();
    let granted = granted.into_inner().allocation.unwrap();
    assert_eq!(granted.addresses, ["192.0.2.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_clean_and_a_restart_keeps_everything() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.9", "2001:db8::/120"])
        .await
        .unwrap();
    let mut pending = claim("east/default/waits");
    pending.pool = "later".to_owned();
    pending.if_refused = v1::allocate_request::IfRefused::Queue.into();
    let mut dual = claim("west/default/dual");
    dual.families = vec![1, 2];
    dual.sharing_key = "key".to_owned();
    let mut client = ipam.allocations().unwrap();
    for request in [claim("east/default/web"), pending, dual] {
        client.allocate(request).await.unwrap();
    }
    let list = v1::ListAllocationsRequest::default();
    let before = client
        .list_allocations(list.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(before.allocations.len(), 3);
    assert_eq!(ipam.terminate().unwrap(), Some(0));
    assert!(
        ipam.program().log().contains("stopped"),
        "{}",
        ipam.program().log()
    );

    let mut wal = ipam.database().into_os_string();
    wal.push("-wal");
    let left = std::fs::metadata(&wal).map_or(0, |file| file.len());
    assert_eq!(left, 0, "a clean stop leaves one whole file to be copied");

    ipam.restart().unwrap();
    assert!(
        !ipam.program().log().contains("WARN"),
        "{}",
        ipam.program().log()
    );
    let mut client = ipam.allocations().unwrap();
    let after = client.list_allocations(list).await.unwrap().into_inner();
    assert_eq!(after, before);

    // What waits is still awaited.
    ipam.apply_pool("later", &["198.51.100.7/32"])
        .await
        .unwrap();
    let get = v1::GetAllocationRequest {
        owner: Some(e2e::ipam::owner("east/default/waits")),
    };
    let granted = client
        .get_allocation(get)
        .await
        .unwrap()
        .into_inner()
        .allocation
        .unwrap();
    assert_eq!(granted.addresses, ["198.51.100.7"]);
}

/// On one thread, which waits for the server's end and so answers nothing on its connection.
#[tokio::test(flavor = "current_thread")]
async fn a_client_that_is_stuck_does_not_keep_the_server_from_stopping() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.9"])
        .await
        .unwrap();
    let mut client = ipam.allocations().unwrap();
    client.allocate(claim("east/default/web")).await.unwrap();
    let started = wait::now();
    assert_eq!(ipam.terminate().unwrap(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    let log = ipam.program().log();
    assert!(log.contains("cut off") && log.contains("stopped"), "{log}");
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_readiness_tell_what_is_going_on() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.4"])
        .await
        .unwrap();
    let mut client = ipam.allocations().unwrap();
    client.allocate(claim("east/default/web")).await.unwrap();
    client
        .allocate(v1::AllocateRequest::default())
        .await
        .unwrap_err();
    let admin = ipam.admin();
    let expected = [
        r#"pharos_ipam_grpc_calls_total{method="pharos.v1.AllocationService/Allocate",code="OK"} 1"#,
        r#"method="pharos.v1.AllocationService/Allocate",code="INVALID_ARGUMENT"} 1"#,
        r#"pharos_ipam_allocations{state="assigned"} 1"#,
        r#"pool="pool",family="ipv4",kind="free"} 3"#,
        "pharos_ipam_commit_seconds_count 2",
    ];
    wait::until("the metrics", SOON, || {
        let (_, text) = http::get(admin, "/metrics", Duration::from_secs(2)).ok()?;
        expected
            .iter()
            .all(|line| text.contains(line))
            .then_some(())
    })
    .unwrap();
    let (code, _) = http::get(admin, "/healthz", Duration::from_secs(2)).unwrap();
    assert_eq!(code, 200);
    assert_eq!(ipam.terminate().unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn init_makes_a_database_that_waits_for_its_clusters_and_check_finds_damage() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (code, log) = subcommand("check", &database, &[]);
    assert_eq!((code, log.lines().count()), (Some(2), 1), "{log}");
    let (code, log) = subcommand("init", &database, &["--recover", "east,west"]);
    assert_eq!(code, Some(0), "{log}");
    let (code, log) = subcommand("init", &database, &["--fresh"]);
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("exists already"), "{log}");
    let (code, log) = subcommand("check", &database, &[]);
    assert_eq!(code, Some(0), "{log}");

    let (listen, admin) = (loopback(), loopback());
    let mut server = command(&database, listen, admin).unwrap().start().unwrap();
    server.wait_ready(None, admin, SOON).unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{listen}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut clusters = v1::cluster_service_client::ClusterServiceClient::new(channel);
    let list = clusters
        .list_clusters(v1::ListClustersRequest::default())
        .await
        .unwrap();
    let known: Vec<(String, bool)> = list
        .into_inner()
        .clusters
        .into_iter()
        .map(|it| (it.name, it.authoritative))
        .collect();
    assert_eq!(
        known,
        [("east".to_owned(), false), ("west".to_owned(), false)]
    );
    // Beside a running server too.
    let (code, log) = subcommand("check", &database, &[]);
    assert_eq!(code, Some(0), "{log}");
    server.terminate(SOON).unwrap();

    let damage = Command::new("sqlite3")
        .arg(&database)
        .arg("update meta set revision = 9")
        .status();
    if damage.is_ok_and(|status| status.success()) {
        let (code, log) = subcommand("check", &database, &[]);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("change_log ends at 2"), "{log}");
    } else {
        skip::skip("needs sqlite3 to damage a database");
    }
}

#[test]
fn a_port_in_use_leaves_no_new_database_behind() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken.local_addr().unwrap();
    for (listen, admin, flag) in [
        (taken, loopback(), "--listen"),
        (loopback(), taken, "--admin"),
    ] {
        let (code, log) = outcome(command(&database, listen, admin).unwrap());
        assert_eq!(code, Some(2), "{log}");
        assert!(log.contains(flag), "{log}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn init_asks_who_may_hold_something_before_it_makes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (code, log) = subcommand("init", &database, &[]);
    assert_eq!((code, log.lines().count()), (Some(2), 1), "{log}");
    assert!(
        log.contains("--fresh") && log.contains("--recover"),
        "{log}"
    );
    assert!(!database.exists());
    let (code, log) = subcommand("init", &database, &["--fresh"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(database.exists());
}

#[test]
fn whoever_looks_at_a_database_that_was_cut_short_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("cut.db");
    let (code, log) = subcommand("init", &database, &["--fresh"]);
    assert_eq!(code, Some(0), "{log}");
    let file = std::fs::OpenOptions::new().write(true).open(&database);
    file.unwrap().set_len(4096).unwrap();
    let copy = folder.path().join("copy").display().to_string();
    for (name, more) in [
        ("check", vec![]),
        ("backup", vec!["--to", copy.as_str()]),
        ("export", vec!["--to", copy.as_str()]),
    ] {
        let (code, log) = subcommand(name, &database, &more);
        assert_eq!(code, Some(1), "{name}: {log}");
        let last = log.lines().next_back().unwrap_or_default();
        assert!(last.contains("cut.db"), "{name}: {log}");
    }
}

/// A small file system of its own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip::skip("needs root to mount a small file system");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = Self(folder);
        disk.mount_with(&format!("size={kib}k"));
        Some(disk)
    }

    fn grow(&self, kib: u32) {
        self.mount_with(&format!("remount,size={kib}k"));
    }

    fn mount_with(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.0.path());
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_goes_on_reading_and_is_over_when_there_is_space() {
    let Some(disk) = SmallDisk::mount(1024) else {
        return;
    };
    let (listen, admin) = (loopback(), loopback());
    let database = disk.0.path().join("pharos.db");
    let mut server = command(&database, listen, admin).unwrap().start().unwrap();
    server.wait_ready(None, admin, SOON).unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{listen}")).unwrap();
    let channel = channel.connect_lazy();
    let mut pools = v1::pool_service_client::PoolServiceClient::new(channel.clone());
    let pool = v1::Pool {
        name: "pool".to_owned(),
        addresses: vec!["10.0.0.0/16".to_owned()],
        ..v1::Pool::default()
    };
    let apply = v1::ApplyPoolRequest {
        pool: Some(pool),
        ..v1::ApplyPoolRequest::default()
    };
    pools.apply_pool(apply).await.unwrap();
    let mut client = v1::allocation_service_client::AllocationServiceClient::new(channel);
    let mut granted = 0;
    let full = loop {
        match client
            .allocate(claim(&format!("east/default/{granted}")))
            .await
        {
            Ok(_) => granted += 1,
            Err(status) => break status,
        }
        assert!(granted < 10_000, "the disk never fills");
    };
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert!(full.message().contains("no space left"), "{full:?}");
    let list = v1::ListAllocationsRequest {
        page_size: 1000,
        ..v1::ListAllocationsRequest::default()
    };
    let held = client.list_allocations(list).await.unwrap().into_inner();
    assert_eq!(held.allocations.len(), granted.min(1000));

    disk.grow(16 * 1024);
    client
        .allocate(claim("east/default/after"))
        .await
        .expect("there is space again");
    server.terminate(SOON).unwrap();
    let (code, log) = subcommand("check", &database, &[]);
    assert_eq!(code, Some(0), "{log}");
}
