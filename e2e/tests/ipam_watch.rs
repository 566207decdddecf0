//! Topology: one ipam-service, some clients that write, one that watches.
//!
//! 1. The pages of a list and a watch from their revision converge, while others write and the watch
//!    breaks off at any moment.
//! 2. WatchChanges gives every change once and in order, over kills of the server; a snapshot and the
//!    changes after it are the state (I7).
//! 3. A revision that is gone, from the future or of another store is refused with the place to go
//!    on from; who held what when outlives the log.
//! 4. A watcher is told where it is at least every 10 s, also where nothing happens.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::ipam::{Ipam, SOON, claim, owner, release, tcp};
use pharos_proto::v1;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::watch_allocations_response::Type;
use pharos_proto::v1::watch_changes_response::Type as ChangeType;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

type Held = BTreeMap<String, v1::Allocation>;

fn name(allocation: &v1::Allocation) -> String {
    let owner = allocation.owner.clone().unwrap_or_default();
    format!("{}/{}/{}", owner.cluster, owner.namespace, owner.name)
}

/// Clients that take, change and give back until they are told to stop; errors are no news.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn start(ipam: &Ipam, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..4 {
            let client = ipam.allocations().unwrap();
            let random = StdRng::seed_from_u64(seed + number);
            tasks.spawn(write(client, random, Arc::clone(&stop)));
        }
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

async fn write(
    mut client: AllocationServiceClient<Channel>,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let number = random.random_range(0..120_u32);
        let text = format!("c{}/ns/svc{number:03}", number % 3);
        if random.random_bool(0.4) {
            let _ = client.release(release(&text)).await;
        } else {
            let mut request = claim(&text);
            request.ports = vec![tcp(random.random_range(80..84))];
            let _ = client.allocate(request).await;
        }
    }
}

fn seed() -> u64 {
    let seed = rand::random::<u32>().into();
    eprintln!("seed {seed}");
    seed
}

/// All pages, a few at a time; every page says the same revision.
async fn list(ipam: &Ipam, page_size: i32) -> Result<(Held, u64), Status> {
    let mut client = ipam.allocations().unwrap();
    let (mut held, mut token, mut revision) = (Held::new(), String::new(), None);
    loop {
        let request = v1::ListAllocationsRequest {
            page_size,
            page_token: token,
            ..v1::ListAllocationsRequest::default()
        };
        let page = client.list_allocations(request).await?.into_inner();
        assert_eq!(*revision.get_or_insert(page.revision), page.revision);
        held.extend(page.allocations.into_iter().map(|one| (name(&one), one)));
        token = page.next_page_token;
        if token.is_empty() {
            return Ok((held, page.revision));
        }
    }
}

async fn watch_allocations(
    ipam: &Ipam,
    from: u64,
    store_id: &str,
) -> Result<Streaming<v1::WatchAllocationsResponse>, Status> {
    let request = v1::WatchAllocationsRequest {
        from_revision: from,
        store_id: store_id.to_owned(),
        ..v1::WatchAllocationsRequest::default()
    };
    let stream = ipam.allocations().unwrap().watch_allocations(request).await;
    Ok(stream?.into_inner())
}

async fn store_id(ipam: &Ipam) -> String {
    use pharos_proto::v1::status_service_client::StatusServiceClient;
    let mut client = StatusServiceClient::new(ipam.channel().unwrap());
    let info = client.get_server_info(v1::GetServerInfoRequest {}).await;
    info.unwrap().into_inner().store_id
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let next = tokio::time::timeout(SOON, stream.message()).await;
    next.expect("in time")
        .map(|message| message.expect("no end without a reason"))
}

/// As upserts and deletes, whatever the order of what was listed.
fn apply(held: &mut Held, event: v1::WatchAllocationsResponse) -> u64 {
    let kind = event.r#type();
    if let Some(allocation) = event.allocation {
        match kind {
            Type::Allocation => drop(held.insert(name(&allocation), allocation)),
            Type::Released => drop(held.remove(&name(&allocation))),
            Type::Synced | Type::Bookmark | Type::Unspecified => panic!("{kind:?}"),
        }
    }
    event.revision
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_a_watch_from_their_revision_converge_while_others_write() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/26"]).await.unwrap();
    let store = store_id(&ipam).await;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..8 {
        let writers = Writers::start(&ipam, seed + 10 * round);
        let (mut held, mut revision) = list(&ipam, 7).await.unwrap();
        for _ in 0..6 {
            let mut stream = watch_allocations(&ipam, revision, &store).await.unwrap();
            for _ in 0..random.random_range(1..80) {
                let event = next(&mut stream).await.unwrap();
                revision = revision.max(apply(&mut held, event));
            }
        }
        writers.stop().await;
        let (expected, end) = list(&ipam, 1000).await.unwrap();
        let mut stream = watch_allocations(&ipam, revision, &store).await.unwrap();
        while revision < end {
            let event = next(&mut stream).await.unwrap();
            revision = revision.max(apply(&mut held, event));
        }
        assert_eq!(held, expected, "seed {seed}, round {round}");
    }
}

/// A client of WatchChanges that checks what it is told.
#[derive(Default)]
struct Replica {
    held: Held,
    revision: u64,
    store_id: String,
    resumed: u32,
}

impl Replica {
    async fn watch(&self, ipam: &Ipam) -> Result<Streaming<v1::WatchChangesResponse>, Status> {
        let request = v1::WatchChangesRequest {
            from_revision: self.revision,
            from_oldest: self.revision == 0,
            store_id: self.store_id.clone(),
            ..v1::WatchChangesRequest::default()
        };
        let stream = ipam.history().unwrap().watch_changes(request).await?;
        Ok(stream.into_inner())
    }

    fn take(&mut self, response: v1::WatchChangesResponse) {
        match response.r#type() {
            ChangeType::Bookmark => {
                assert_eq!(response.revision, self.revision);
                self.store_id = response.store_id;
            }
            ChangeType::Change => {
                assert_eq!(
                    response.revision,
                    self.revision + 1,
                    "no gap, no repetition"
                );
                self.revision = response.revision;
                self.apply(response.change.unwrap());
            }
            ChangeType::Unspecified => panic!("a type"),
        }
    }

    fn apply(&mut self, change: v1::Change) {
        assert_eq!(change.revision, self.revision);
        let Some(v1::change::Subject::Allocation(edit)) = change.subject else {
            return;
        };
        let key = name(edit.after.as_ref().or(edit.before.as_ref()).unwrap());
        let before = match edit.after {
            Some(after) => self.held.insert(key, after),
            None => self.held.remove(&key),
        };
        assert_eq!(before, edit.before, "at {}", self.revision);
    }

    /// Reads until the revision, and begins again whenever the server goes away.
    async fn follow(&mut self, ipam: &Ipam, until: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + SOON;
        while !until(self.revision) && Instant::now() < deadline {
            let Ok(mut stream) = self.watch(ipam).await else {
                continue;
            };
            self.resumed += 1;
            while !until(self.revision) {
                match next(&mut stream).await {
                    Ok(response) => self.take(response),
                    Err(status) => {
                        assert_ne!(status.code(), Code::OutOfRange, "{status:?}");
                        break;
                    }
                }
            }
        }
        assert!(until(self.revision), "stuck at {}", self.revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_seen_once_and_in_order_over_kills_of_the_server() {
    let mut ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/26"]).await.unwrap();
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut replica = Replica::default();
    for round in 0..10 {
        let writers = Writers::start(&ipam, seed + 10 * round);
        // Somewhere in the middle of what goes on.
        let more = replica.revision + random.random_range(50..400);
        replica.follow(&ipam, |revision| revision >= more).await;
        let stream = replica.watch(&ipam).await.unwrap();
        ipam.kill().unwrap();
        // What was on its way when the server died.
        let mut stream = stream;
        while let Ok(response) = next(&mut stream).await {
            replica.take(response);
        }
        writers.stop().await;
        ipam.restart().unwrap();
        let (held, end) = list(&ipam, 1000).await.unwrap();
        replica.follow(&ipam, |revision| revision >= end).await;
        assert_eq!(replica.revision, end);
        assert_eq!(replica.held, held, "seed {seed}, round {round}");
    }
    eprintln!(
        "{} changes, resumed {} times",
        replica.revision, replica.resumed
    );
    assert!(replica.revision > 500);
}

/// Reason, and what it says beside it.
fn refusal(status: &Status) -> (String, std::collections::HashMap<String, String>) {
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let info = status.get_details_error_info().expect("ErrorInfo");
    (info.reason, info.metadata)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_to_which_nobody_can_go_back_is_refused_with_the_place_to_go_on_from() {
    let flags = ["--history-retention", "1s", "--history-floor", "5"];
    let mut ipam = Ipam::start_with(&flags).unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/26"]).await.unwrap();
    let store = store_id(&ipam).await;
    let mut client = ipam.allocations().unwrap();
    for _ in 0..20 {
        client.allocate(claim("east/ns/web")).await.unwrap();
        client.release(release("east/ns/web")).await.unwrap();
    }
    let newest = list(&ipam, 10).await.unwrap().1;
    let changes = |from: u64, store_id: &str| {
        let request = v1::WatchChangesRequest {
            from_revision: from,
            store_id: store_id.to_owned(),
            ..v1::WatchChangesRequest::default()
        };
        let mut client = ipam.history().unwrap();
        async move { client.watch_changes(request).await.map(drop) }
    };
    let deadline = Instant::now() + SOON;
    while changes(1, "").await.is_ok() {
        assert!(Instant::now() < deadline, "the log gets shorter");
    }
    // What is young stays as well: it may take a second until the floor is reached.
    let (mut reason, mut metadata) = refusal(&changes(1, &store).await.unwrap_err());
    while metadata["oldest_revision"] != (newest - 4).to_string() {
        assert!(Instant::now() < deadline, "{metadata:?}");
        (reason, metadata) = refusal(&changes(1, &store).await.unwrap_err());
    }
    assert_eq!(reason, "COMPACTED");
    assert_eq!(metadata["resume_from"], (newest - 5).to_string());
    assert_eq!(metadata["revision"], newest.to_string());
    assert_eq!(metadata["store_id"], store);
    changes(newest - 5, &store).await.unwrap();
    for (from, store_id, expected) in [
        (newest - 6, &*store, "COMPACTED"),
        (newest + 1, &*store, "FUTURE_REVISION"),
        (u64::MAX, "", "FUTURE_REVISION"),
        (newest, "another", "FOREIGN_STORE"),
    ] {
        let refused = changes(from, store_id).await.unwrap_err();
        assert_eq!(refusal(&refused).0, expected, "{from}");
        let refused = watch_allocations(&ipam, from, store_id).await.unwrap_err();
        let (reason, other) = refusal(&refused);
        assert_eq!(
            (reason.as_str(), other),
            (expected, metadata.clone()),
            "{from}"
        );
    }

    // What is left of the log, and what is not in it any more.
    let mut replica = Replica {
        revision: newest - 5,
        ..Replica::default()
    };
    let mut stream = replica.watch(&ipam).await.unwrap();
    for _ in 0..6 {
        let response = next(&mut stream).await.unwrap();
        replica.revision = response.revision;
    }
    assert_eq!(replica.revision, newest);
    let mut all = v1::ListHoldingsRequest {
        owner: Some(owner("east/ns/web")),
        page_size: 1000,
        ..v1::ListHoldingsRequest::default()
    };
    let mut history = ipam.history().unwrap();
    let holdings = history
        .list_holdings(all.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(holdings.holdings.len(), 20);
    all.at_time = holdings.holdings[19].start_time;
    let then = history
        .list_holdings(all)
        .await
        .unwrap()
        .into_inner()
        .holdings;
    assert_eq!(then, [holdings.holdings[19].clone()]);

    ipam.terminate().unwrap();
    let (code, output) = ipam.run(&["check"]).unwrap();
    assert_eq!(code, Some(0), "{output}");
    ipam.restart().unwrap();
    let mut client = ipam.allocations().unwrap();
    let taken = client
        .allocate(claim("east/ns/web"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(taken.allocation.unwrap().revision, newest + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_nothing_is_told_where_it_is() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["10.0.0.0/26"]).await.unwrap();
    let request = v1::WatchChangesRequest {
        cluster: "nobody".to_owned(),
        ..v1::WatchChangesRequest::default()
    };
    let mut client = ipam.history().unwrap();
    let stream = client.watch_changes(request).await.unwrap();
    let mut stream = stream.into_inner();
    let first = next(&mut stream).await.unwrap();
    assert_eq!((first.r#type(), first.revision), (ChangeType::Bookmark, 1));
    ipam.apply_pool("other", &["10.1.0.0/26"]).await.unwrap();
    let began = Instant::now();
    let second = next(&mut stream).await.unwrap();
    assert!(
        began.elapsed() <= Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        (second.r#type(), second.revision),
        (ChangeType::Bookmark, 2)
    );
    assert_eq!(second.store_id, store_id(&ipam).await);

    let contradiction = v1::WatchChangesRequest {
        from_oldest: true,
        from_revision: 1,
        ..v1::WatchChangesRequest::default()
    };
    let refused = client.watch_changes(contradiction).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().starts_with("from_oldest: "),
        "{refused:?}"
    );
}
