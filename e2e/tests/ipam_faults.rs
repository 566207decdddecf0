//! Topology: one ipam-service on a disk that fails on command, under the load of many clients.
//!
//! 1. A sync that fails ends acknowledgements at once; reads and streams go on; when the disk works
//!    again, writing goes on with a fresh copy, without a restart. The same for a checkpoint's sync,
//!    and for a disk that refuses to be written.
//! 2. A file system that went read-only by itself: as above, and a restart on the repaired one.
//! 3. A full disk: RESOURCE_EXHAUSTED, reads and streams go on, and it is over when there is space.
//! 4. A slow disk: many requests share a sync, and deadlines hold.
//! 5. A damaged database is refused at the start, with the command that cures it.
//!
//! In each: nothing acknowledged is lost, nothing is given twice (`e2e::crash::ledger`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use e2e::crash::load::{Acknowledged, Load, all_turned_away};
use e2e::disk::{FaultyDisk, SmallDisk};
use e2e::ipam::{Ipam, SOON, claim, command, run};
use pharos_proto::v1;
use pharos_proto::v1::watch_allocations_response::Type;
use pharos_testbed::{free_port, http, wait};
use tokio::task::JoinSet;
use tonic::{Code, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const CLIENTS: u32 = 32;

/// A server on such a disk, with a pool and a load.
async fn on(disk: &FaultyDisk) -> (Ipam, Load) {
    let ipam = Ipam::start_on(&disk.database(), disk.environment()).unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/12"]).await.unwrap();
    (
        ipam,
        Load::new(CLIENTS, Acknowledged::OnAnswer, rand::random()),
    )
}

async fn health(ipam: &Ipam, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(ipam.channel().unwrap());
    let service = service.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.unwrap();
    answer.into_inner().status()
}

async fn watch(ipam: &Ipam) -> Streaming<v1::WatchAllocationsResponse> {
    let request = v1::WatchAllocationsRequest::default();
    let mut client = ipam.allocations().unwrap();
    client
        .watch_allocations(request)
        .await
        .unwrap()
        .into_inner()
}

/// Reads on until the stream has shown that it lives.
async fn until_mark(stream: &mut Streaming<v1::WatchAllocationsResponse>) {
    loop {
        let next = tokio::time::timeout(SOON, stream.message()).await;
        let next = next.expect("in time").expect("goes on").expect("no end");
        if matches!(next.r#type(), Type::Synced | Type::Bookmark) {
            return;
        }
    }
}

async fn held(ipam: &Ipam) -> usize {
    let request = v1::ListAllocationsRequest {
        page_size: 1000,
        ..v1::ListAllocationsRequest::default()
    };
    let list = ipam.allocations().unwrap().list_allocations(request).await;
    list.unwrap().into_inner().allocations.len()
}

/// Reads and streams go on, and what writes says why it does not.
async fn reads_only(ipam: &Ipam, stream: &mut Streaming<v1::WatchAllocationsResponse>) {
    assert!(held(ipam).await > 0);
    until_mark(stream).await;
    until_mark(&mut watch(ipam).await).await;
    let refused = ipam
        .allocations()
        .unwrap()
        .allocate(claim("east/default/x"))
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(
        refused.message().contains("writing has stopped"),
        "{refused:?}"
    );
    for writes in ["", "pharos.v1.AllocationService", "pharos.v1.PoolService"] {
        assert_eq!(
            health(ipam, writes).await,
            ServingStatus::NotServing,
            "{writes}"
        );
    }
    for reads in ["pharos.v1.HistoryService", "pharos.v1.AnnouncerService"] {
        assert_eq!(health(ipam, reads).await, ServingStatus::Serving, "{reads}");
    }
}

/// What was promised is true, now and after `kill -9`, and the database is whole.
async fn every_promise_holds(ipam: &mut Ipam, load: &Load) {
    load.audit(ipam).await.unwrap();
    ipam.kill().unwrap();
    ipam.restart().unwrap();
    load.audit(ipam).await.unwrap();
    let seen = load.ledger().violations().to_vec();
    assert!(
        seen.is_empty(),
        "{} broken promises: {:?}",
        seen.len(),
        seen.first()
    );
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}

/// Fails the disk under load, sees that only reads go on, lets it work again, and sees that writing
/// goes on in the same process.
async fn stops_and_goes_on(how: &str, expected: &str) {
    let Some(disk) = FaultyDisk::new().unwrap() else {
        return;
    };
    let (mut ipam, mut load) = on(&disk).await;
    let mut stream = watch(&ipam).await;
    let clients = load.start(&ipam).unwrap();
    load.acknowledged(300).await.unwrap();
    disk.fail(how).unwrap();
    all_turned_away(clients).await.unwrap();
    let reason = ipam.wait_ready(false).unwrap();
    assert!(reason.contains("writing has stopped"), "{reason}");
    eprintln!("/readyz: {}", reason.trim());
    reads_only(&ipam, &mut stream).await;
    // It was tried again meanwhile, and is still refused.
    wait::until("an attempt", SOON, || {
        ipam.readyz().unwrap().1.contains(expected).then_some(())
    })
    .unwrap();
    let metric = "pharos_ipam_database_renewals_total";
    let renewals = |ipam: &Ipam| {
        let (_, text) = http::get(ipam.admin(), "/metrics", Duration::from_secs(2)).unwrap();
        let line = text.lines().find(|line| line.starts_with(metric)).unwrap();
        line.to_owned()
    };
    assert_eq!(renewals(&ipam), format!("{metric} 0"));

    disk.fail("").unwrap();
    ipam.wait_ready(true).unwrap();
    assert_eq!(renewals(&ipam), format!("{metric} 1"));
    assert_eq!(health(&ipam, "").await, ServingStatus::Serving);
    load.audit(&ipam).await.unwrap();
    let clients = load.start(&ipam).unwrap();
    load.acknowledged(300).await.unwrap();
    until_mark(&mut stream).await;
    ipam.kill().unwrap();
    all_turned_away(clients).await.unwrap();
    ipam.restart().unwrap();
    every_promise_holds(&mut ipam, &load).await;
    assert!(!disk.database().with_extension("db.fresh").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_writing_until_there_is_a_fresh_copy() {
    stops_and_goes_on("eio", "Input/output error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_may_not_be_written_ends_writing_until_there_is_a_fresh_copy() {
    stops_and_goes_on("erofs", "the copy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_of_a_checkpoint_ends_writing_too() {
    let Some(disk) = FaultyDisk::new().unwrap() else {
        return;
    };
    let (mut ipam, mut load) = on(&disk).await;
    disk.fail("eio-db").unwrap();
    let clients = load.start(&ipam).unwrap();
    let reason = ipam.wait_ready(false).unwrap();
    assert!(reason.contains("checkpoint met an error"), "{reason}");
    all_turned_away(clients).await.unwrap();
    disk.fail("").unwrap();
    ipam.wait_ready(true).unwrap();
    every_promise_holds(&mut ipam, &load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_went_read_only_loses_nothing_that_was_acknowledged() {
    let Some(disk) = SmallDisk::new(64).unwrap() else {
        return;
    };
    let mut ipam = Ipam::start_on(&disk.path().join("pharos.db"), Vec::new()).unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/12"]).await.unwrap();
    let mut load = Load::new(CLIENTS, Acknowledged::OnAnswer, rand::random());
    let mut stream = watch(&ipam).await;
    let clients = load.start(&ipam).unwrap();
    load.acknowledged(300).await.unwrap();
    // Not in the midst of a sync: of one that meets the error ext4 may say that all is well, and then
    // has nothing of it (one append in some thousand, by any program).
    ipam.pause().unwrap();
    disk.break_down().unwrap();
    ipam.resume().unwrap();
    all_turned_away(clients).await.unwrap();
    let reason = ipam.wait_ready(false).unwrap();
    eprintln!("/readyz: {}", reason.trim());
    reads_only(&ipam, &mut stream).await;
    ipam.kill().unwrap();
    disk.repair().unwrap();
    ipam.restart().unwrap();
    every_promise_holds(&mut ipam, &load).await;
    ipam.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_turns_writers_away_and_nobody_else_until_there_is_space() {
    let Some(disk) = SmallDisk::new(32).unwrap() else {
        return;
    };
    let mut ipam = Ipam::start_on(&disk.path().join("pharos.db"), Vec::new()).unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/12"]).await.unwrap();
    let mut stream = watch(&ipam).await;
    let mut load = Load::new(CLIENTS, Acknowledged::OnAnswer, rand::random());
    let filler = disk.fill(1500).unwrap();
    let clients = load.start(&ipam).unwrap();
    all_turned_away(clients).await.unwrap();
    assert!(load.ledger().acknowledged() > 50);
    let refused = async {
        loop {
            let name = format!("east/full/{}", held(&ipam).await);
            match ipam.allocations().unwrap().allocate(claim(&name)).await {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        }
    };
    let refused = tokio::time::timeout(SOON, refused).await.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("no space left"), "{refused:?}");
    assert!(held(&ipam).await > 0);
    until_mark(&mut stream).await;
    let pid = ipam.program().pid();
    std::fs::remove_file(filler).unwrap();
    let again = async {
        while ipam
            .allocations()
            .unwrap()
            .allocate(claim("east/default/after"))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, again)
        .await
        .expect("there is space again");
    assert_eq!(ipam.program().pid(), pid);
    load.audit(&ipam).await.unwrap();
    let unknown_only = load.ledger().violations().iter().all(|it| {
        // Those that this test took itself.
        matches!(it, e2e::crash::ledger::Violation::Unknown { .. })
    });
    assert!(unknown_only, "{:?}", load.ledger().violations());
    ipam.terminate().unwrap();
    let (code, log) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_slow_disk_requests_share_a_sync_and_deadlines_hold() {
    let Some(disk) = FaultyDisk::new().unwrap() else {
        return;
    };
    let (mut ipam, _) = on(&disk).await;
    let mut load = Load::new(128, Acknowledged::OnAnswer, rand::random());
    disk.fail("sleep 500").unwrap();
    let clients = load.start(&ipam).unwrap();
    // The first batch is small; from the second on everybody who waits is in it.
    load.acknowledged(130).await.unwrap();
    let (started, before) = (wait::now(), load.ledger().acknowledged());
    load.acknowledged(600).await.unwrap();
    let rate = (load.ledger().acknowledged() - before) as f64 / started.elapsed().as_secs_f64();
    eprintln!("{rate:.0} calls acknowledged per second");
    assert!(rate >= 100.0, "{rate}");

    let mut hurried = tonic::Request::new(claim("east/default/hurried"));
    hurried.set_timeout(Duration::from_millis(200));
    let asked = wait::now();
    let refused = ipam
        .allocations()
        .unwrap()
        .allocate(hurried)
        .await
        .unwrap_err();
    // Of the server, or of the client, which counts for itself.
    let in_time = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(in_time.contains(&refused.code()), "{refused:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    // More than can wait: some are told at once to come back.
    let mut crowd = JoinSet::new();
    for part in 0..8 {
        let client = ipam.allocations().unwrap();
        for number in 0..200 {
            let mut client = client.clone();
            let request = claim(&format!("east/crowd/{part}-{number}"));
            crowd.spawn(async move { client.allocate(request).await });
        }
    }
    let mut shed = 0;
    while let Some(answer) = crowd.join_next().await {
        match answer.unwrap() {
            Ok(_) => {}
            Err(status) if status.code() == Code::ResourceExhausted => shed += 1,
            Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
        }
    }
    eprintln!("{shed} of 1600 calls turned away at once");
    assert!(shed > 0);
    disk.fail("").unwrap();
    ipam.kill().unwrap();
    all_turned_away(clients).await.unwrap();
    ipam.restart().unwrap();
    load.audit(&ipam).await.unwrap();
    let broken = load.ledger().violations().to_vec();
    let broken: Vec<_> = broken
        .iter()
        .filter(|it| !matches!(it, e2e::crash::ledger::Violation::Unknown { .. }))
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// Starts a server that must not start; exit code and log.
fn refused_start(database: &Path) -> (Option<i32>, String) {
    let loopback = || (std::net::Ipv4Addr::LOCALHOST, free_port()).into();
    let launch = command(database, loopback(), loopback()).unwrap();
    let mut program = launch.start().unwrap();
    let status = program.wait(SOON).unwrap();
    (status.code(), program.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_refused_at_the_start_with_the_command_that_cures_it() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/12"]).await.unwrap();
    let mut client = ipam.allocations().unwrap();
    for number in 0..400 {
        client
            .allocate(claim(&format!("east/default/{number}")))
            .await
            .unwrap();
    }
    let backup = ipam.database().with_file_name("backup.db");
    let (code, log) = ipam
        .run(&["backup", "--to", backup.to_str().unwrap()])
        .unwrap();
    assert_eq!(code, Some(0), "{log}");
    ipam.terminate().unwrap();
    let whole = std::fs::read(ipam.database()).unwrap();
    let pages = whole.len() / 4096;
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: [(&str, Damage); 4] = [
        (
            "a page of zeros",
            Box::new(move |file| {
                for page in (2..pages).step_by(3) {
                    file[page * 4096..][..4096].fill(0);
                }
            }),
        ),
        (
            "flipped bits",
            Box::new(|file| {
                for byte in file.iter_mut().skip(4096 * 3).step_by(97) {
                    *byte ^= 0x10;
                }
            }),
        ),
        (
            "cut in half",
            Box::new(|file| file.truncate(file.len() / 2)),
        ),
        ("a foreign header", Box::new(|file| file[..16].fill(b'x'))),
    ];
    for (name, damage) in damages {
        let mut file = whole.clone();
        damage(&mut file);
        std::fs::write(ipam.database(), file).unwrap();
        // A start that failed may leave a log, and that belongs to the file of the case before.
        for log in ["-wal", "-shm"] {
            let mut path = ipam.database().into_os_string();
            path.push(log);
            if let Err(error) = std::fs::remove_file(path) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            }
        }
        let (code, log) = refused_start(&ipam.database());
        assert!(matches!(code, Some(1 | 2)), "{name}: {code:?} {log}");
        let last = log.lines().last().unwrap();
        assert!(last.starts_with("error: "), "{name}: {log}");
        let expected = match code {
            Some(1) => "ipam-service restore --from",
            _ => "is not a database of ipam-service",
        };
        assert!(last.contains(expected), "{name}: {last}");
        eprintln!("{name}: {last}");
    }
    let arguments = ["restore", "--force", "--from", backup.to_str().unwrap()];
    let (code, log) = run(&ipam.database(), &arguments).unwrap();
    assert_eq!(code, Some(0), "{log}");
    ipam.restart().unwrap();
    assert_eq!(held(&ipam).await, 400);
}
