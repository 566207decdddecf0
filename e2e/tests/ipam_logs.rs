//! Topology: one ipam-service that logs everything as JSON, on a disk that fails on command; this test as
//! its callers, each with a request id of its own.
//!
//! 1. Whatever a call logs, at its end, in the midst of a stream, or in the writer, carries its request id:
//!    that of the message, else that of the header, else one that was made for it.
//! 2. Calls that succeed and calls that fail are there, with method and code.
//! 3. Times are written as in RFC 3339.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use e2e::disk::FaultyDisk;
use e2e::ipam::{Ipam, SOON, claim};
use pharos_proto::v1;
use pharos_proto::v1::advertisement_service_client::AdvertisementServiceClient;
use pharos_proto::v1::announcer_report::{Conflict, Hello, Report};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::sync_facts_request::{Fact, Hello as FactsHello};
use pharos_testbed::wait;
use serde_json::Value;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

/// A line of the log.
#[derive(Debug)]
struct Line(Value);

impl Line {
    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn of_span(&self, field: &str) -> &str {
        self.0["span"][field].as_str().unwrap_or_default()
    }

    /// The ids of the calls that it is about.
    fn request_ids(&self) -> Vec<&str> {
        let own = [self.text("request_id"), self.of_span("request_id")];
        let several = self.text("request_ids").split(' ');
        several.chain(own).filter(|id| !id.is_empty()).collect()
    }

    fn is_about(&self, id: &str) -> bool {
        self.request_ids().contains(&id)
    }

    /// Where only calls are dealt with.
    fn is_of_a_call(&self) -> bool {
        let target = self.text("target");
        target.starts_with("ipam_service::api") || target == "ipam_service::server::layers"
    }
}

fn lines(ipam: &Ipam) -> Vec<Line> {
    let log = ipam.program().log();
    // The last one may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| Line(serde_json::from_str(line).unwrap());
    whole.lines().map(parse).collect()
}

/// Waits for a line about a call.
fn line(ipam: &Ipam, id: &str, message: &str) -> Line {
    let find = || {
        let mut lines = lines(ipam).into_iter();
        lines.find(|line| line.is_about(id) && line.text("message") == message)
    };
    wait::until(&format!("{message:?} of {id}"), SOON, find).unwrap()
}

fn answered(ipam: &Ipam, id: &str, method: &str, code: &str) {
    let line = line(ipam, id, "call answered");
    let of_line = (line.of_span("method"), line.text("code"));
    assert_eq!(of_line, (method, code), "{line:?}");
}

fn with_id<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("x-request-id", id.parse().unwrap());
    request
}

fn of_message(name: &str, id: &str) -> v1::AllocateRequest {
    v1::AllocateRequest {
        request_id: id.to_owned(),
        ..claim(name)
    }
}

/// Follows its assignments, and sees another machine.
async fn announcer(ipam: &Ipam, id: &str) {
    let hello = Report::Hello(Hello {
        cluster: "east".to_owned(),
        node: "a".to_owned(),
        member_endpoint: "192.0.2.200:7946".to_owned(),
        ..Hello::default()
    });
    let conflict = Report::Conflict(Conflict {
        address: "10.0.0.0".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        ..Conflict::default()
    });
    let reports = [hello, conflict].map(|report| v1::AnnouncerReport {
        report: Some(report),
    });
    let reports = tokio_stream::iter(reports).chain(tokio_stream::pending());
    let mut client = AnnouncerServiceClient::new(ipam.channel().unwrap());
    let stream = client.announce(with_id(reports, id)).await.unwrap();
    let mut stream = stream.into_inner();
    let message = "a node sees another machine use an address";
    tokio::select! {
        _ended = async { while let Ok(Some(_)) = stream.message().await {} } => panic!("it ended"),
        seen = async { tokio::task::block_in_place(|| line(ipam, id, message)) } => {
            assert_eq!(seen.text("node"), "a");
        }
    }
}

async fn adapter(ipam: &Ipam, id: &str) {
    let hello = Fact::Hello(FactsHello {
        cluster: "east".to_owned(),
        ..FactsHello::default()
    });
    let hello = v1::SyncFactsRequest { fact: Some(hello) };
    let mut client = AdvertisementServiceClient::new(ipam.channel().unwrap());
    let facts = client.sync_facts(with_id(tokio_stream::iter([hello]), id));
    facts.await.unwrap();
    for message in ["facts are reported", "facts end"] {
        line(ipam, id, message);
    }
}

fn start(database: &Path, mut environment: Vec<(std::ffi::OsString, std::ffi::OsString)>) -> Ipam {
    for (key, value) in [
        ("PHAROS_LOG_FORMAT", "json"),
        ("RUST_LOG", "ipam_service=debug"),
    ] {
        environment.push((key.into(), value.into()));
    }
    Ipam::start_on(database, environment).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_call_logs_carries_its_request_id() {
    let Some(disk) = FaultyDisk::new().unwrap() else {
        return;
    };
    let ipam = start(&disk.database(), disk.environment());
    ipam.apply_pool("pool", &["10.0.0.0/24"]).await.unwrap();
    let mut client = ipam.allocations().unwrap();

    let granted = of_message("east/default/web", "of-the-message");
    client
        .allocate(with_id(granted, "of-the-header"))
        .await
        .unwrap();
    let allocate = "pharos.v1.AllocationService/Allocate";
    answered(&ipam, "of-the-message", allocate, "Ok");
    let mut nowhere = of_message("east/default/api", "nowhere");
    nowhere.pool = "nowhere".to_owned();
    client.allocate(nowhere).await.unwrap_err();
    answered(&ipam, "nowhere", allocate, "NotFound");
    let nonsense = v1::AllocateRequest::default();
    client
        .allocate(with_id(nonsense, "nonsense"))
        .await
        .unwrap_err();
    answered(&ipam, "nonsense", allocate, "InvalidArgument");
    let missing = v1::GetAllocationRequest::default();
    client
        .get_allocation(with_id(missing, "missing"))
        .await
        .unwrap_err();
    let get = "pharos.v1.AllocationService/GetAllocation";
    answered(&ipam, "missing", get, "InvalidArgument");
    let watch = v1::WatchAllocationsRequest::default();
    client
        .watch_allocations(with_id(watch, "watcher"))
        .await
        .unwrap();
    let watch = "pharos.v1.AllocationService/WatchAllocations";
    answered(&ipam, "watcher", watch, "Ok");
    announcer(&ipam, "announcer").await;
    adapter(&ipam, "adapter").await;

    disk.fail("eio").unwrap();
    let lost = of_message("east/default/lost", "lost");
    let lost = client.allocate(lost).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    line(&ipam, "lost", "a batch was not written");
    answered(&ipam, "lost", allocate, "Unavailable");
    disk.fail("").unwrap();
    ipam.wait_ready(true).unwrap();

    let all = lines(&ipam);
    let nobody = |line: &&Line| line.is_of_a_call() && line.request_ids().is_empty();
    let nobody: Vec<&Line> = all.iter().filter(nobody).collect();
    assert!(nobody.is_empty(), "{nobody:?}");
    let of_calls = all.iter().filter(|line| line.is_of_a_call());
    assert!(of_calls.count() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_clock_is_logged_with_times_that_people_read() {
    let folder = tempfile::tempdir().unwrap();
    let ipam = start(&folder.path().join("a.db"), Vec::new());
    ipam.apply_pool("pool", &["10.0.0.0/24"]).await.unwrap();
    let confirm = v1::ConfirmClockRequest::default();
    let mut client = ipam.history().unwrap();
    client
        .confirm_clock(with_id(confirm, "clock"))
        .await
        .unwrap();
    let line = line(&ipam, "clock", "an operator confirmed the wall clock");
    for field in ["wall_time", "newest_change_time"] {
        let time = line.text(field);
        let is_rfc3339 = time.starts_with("20") && time.contains('T') && time.ends_with('Z');
        assert!(is_rfc3339, "{field}: {line:?}");
    }
}
