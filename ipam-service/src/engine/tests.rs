//! The writer on real SQLite files.

mod answers;
mod doubt;
mod stopped;

use std::sync::Arc;
use std::time::Duration;

use pharos_process::{Readiness, Shutdown};
use pharos_proto::v1;
use prometheus_client::registry::Registry;
use sqlx::ConnectOptions as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::state::address::Address;
use crate::state::model::Standing;
use crate::store::{AllocationFilter, ChangeFilter, Checkpointer, Kind, Reader};
use crate::testing::{Folder, allocate, apply_pool, release};

/// A writer with its database.
struct Running {
    engine: Engine,
    reader: Reader,
    checkpointer: Checkpointer,
    readiness: Readiness,
    registry: Registry,
    stop: Shutdown,
    task: JoinHandle<()>,
}

/// The same before it runs.
struct Parts {
    opened: Opened,
    readiness: Readiness,
    registry: Registry,
    stop: Shutdown,
}

impl Parts {
    async fn open(folder: &Folder) -> Self {
        let readiness = Readiness::default();
        let mut registry = Registry::default();
        let stop = Shutdown::default();
        let metrics = EngineMetrics::register(&mut registry);
        let store = folder.open().await;
        let opened = open(store, metrics, readiness.clone(), stop.clone()).await;
        Self {
            opened: opened.expect("readable"),
            readiness,
            registry,
            stop,
        }
    }
}

impl Running {
    async fn start(folder: &Folder) -> Self {
        Self::run(Parts::open(folder).await)
    }

    fn run(parts: Parts) -> Self {
        let Parts {
            opened,
            readiness,
            registry,
            stop,
        } = parts;
        Self {
            engine: opened.engine,
            reader: opened.reader,
            checkpointer: opened.checkpointer,
            readiness,
            registry,
            stop,
            task: tokio::spawn(opened.task.run()),
        }
    }

    async fn submit(&self, command: Command) -> Result<Reply, SubmitError> {
        self.engine.submit(command, Meta::default()).await
    }

    /// Transactions so far.
    fn commits(&self) -> u32 {
        self.metric("pharos_ipam_commit_seconds_count ")
    }

    fn metric(&self, name: &str) -> u32 {
        metric_of(&self.registry, name)
    }

    /// Waits until it is ready, or until it is not for this reason.
    async fn until_ready(&self, not_ready: Option<&str>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let reason = self.readiness.reason();
            match (&reason, not_ready) {
                (None, None) => return,
                (Some(reason), Some(expected)) if reason.contains(expected) => return,
                (None, Some(_)) | (Some(_), None | Some(_)) => {}
            }
            assert!(Instant::now() < deadline, "{reason:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the writer, and with it the lock.
    async fn stop(self) {
        drop(self.engine);
        self.task.await.expect("the writer ends well");
    }
}

/// The value behind this beginning of a line.
fn metric_of(registry: &Registry, name: &str) -> u32 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.expect("registered").parse().expect("a number")
}

fn addresses(reply: &Reply) -> Vec<String> {
    let allocation = reply.allocation.as_ref().expect("an allocation");
    allocation
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn queued(wire: &mut pharos_proto::v1::AllocateRequest) {
    wire.if_refused = pharos_proto::v1::allocate_request::IfRefused::Queue.into();
}

#[tokio::test]
async fn an_answer_is_on_disk_and_survives_a_restart() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    let web = running
        .submit(allocate("east/default/web", |_| {}))
        .await
        .expect("granted");
    assert_eq!(addresses(&web), ["192.0.2.1"]);
    let rows = running
        .reader
        .allocations(&AllocationFilter::default(), None, 10)
        .await;
    assert_eq!(rows.expect("readable").items.len(), 1);
    let again = running
        .submit(allocate("east/default/web", |_| {}))
        .await
        .expect("granted");
    assert_eq!((again.revision, again.changes.len()), (web.revision, 0));
    running.stop().await;

    let running = Running::start(&folder).await;
    let later = running
        .submit(allocate("east/default/web", |_| {}))
        .await
        .expect("granted");
    assert_eq!(
        (later.revision, addresses(&later)),
        (web.revision, addresses(&web))
    );
    running.stop().await;
}

#[tokio::test]
async fn validate_only_answers_and_changes_nothing() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    let pool = running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    let meta = Meta {
        validate_only: true,
        ..Meta::default()
    };
    for owner in ["east/default/web", "east/default/api"] {
        let would = running
            .engine
            .submit(allocate(owner, |_| {}), meta.clone())
            .await;
        assert_eq!(addresses(&would.expect("would be granted")), ["192.0.2.1"]);
    }
    let state = running
        .engine
        .read(|state| (state.revision(), state.allocations().count()))
        .await;
    assert_eq!(state.expect("running"), (pool.revision, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_not_decided() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    let late = Meta {
        deadline: Some(Instant::now()),
        ..Meta::default()
    };
    let expired = running
        .engine
        .submit(allocate("east/default/late", |_| {}), late)
        .await;
    assert!(
        matches!(expired, Err(SubmitError::DeadlineExceeded)),
        "{expired:?}"
    );
    let gone = running.submit(allocate("east/default/gone", |_| {}));
    // Polled once, it is in the queue; dropped, nobody waits.
    assert!(futures::FutureExt::now_or_never(gone).is_none());
    let held = running
        .engine
        .read(|state| state.allocations().count())
        .await;
    assert_eq!(held.expect("running"), 0);
    running.stop().await;
}

#[tokio::test]
async fn what_is_released_goes_to_the_claim_that_waits() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1/32"]))
        .await
        .expect("pool");
    running
        .submit(allocate("east/default/a", |_| {}))
        .await
        .expect("granted");
    let b = running
        .submit(allocate("east/default/b", queued))
        .await
        .expect("queued");
    let standing = &b.allocation.expect("kept").standing;
    assert!(matches!(standing, Standing::Pending(_)), "{standing:?}");
    let released = running
        .submit(release("east/default/a"))
        .await
        .expect("released");
    assert_eq!(released.changes.len(), 2, "{:?}", released.changes);
    let b = running
        .submit(allocate("east/default/b", queued))
        .await
        .expect("granted");
    assert_eq!(addresses(&b), ["192.0.2.1"]);
    running.stop().await;
}

#[tokio::test]
async fn only_the_culprit_fails_when_the_database_refuses_a_row() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    // A row that the state knows nothing of: 192.0.2.2 is taken in the database alone.
    behind_its_back(
        &folder,
        "insert into held_address values
            ('default', x'00000000000000000000ffffc0000202', 'ghost', 'kghost', '')",
    )
    .await;
    let claims = (1..=3).map(|last| {
        running.submit(allocate(&format!("east/default/{last}"), move |wire| {
            wire.addresses = vec![format!("192.0.2.{last}")];
        }))
    });
    let outcomes = futures::future::join_all(claims).await;
    assert_eq!(
        addresses(outcomes[0].as_ref().expect("neighbour")),
        ["192.0.2.1"]
    );
    assert!(
        matches!(outcomes[1], Err(SubmitError::Internal)),
        "{:?}",
        outcomes[1]
    );
    assert_eq!(
        addresses(outcomes[2].as_ref().expect("neighbour")),
        ["192.0.2.3"]
    );
    let held = running
        .engine
        .read(|state| state.allocations().count())
        .await;
    assert_eq!(held.expect("running"), 2);
    assert_eq!(running.readiness.reason(), None);
    running.stop().await;
}

#[tokio::test]
async fn a_writer_that_cannot_trust_its_database_stops_writing_and_goes_on_reading() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    running
        .submit(allocate("east/default/a", |_| {}))
        .await
        .expect("granted");
    behind_its_back(&folder, "update meta set epoch = epoch + 1").await;
    for _ in 0..2 {
        let refused = running.submit(allocate("east/default/b", |_| {})).await;
        assert!(
            matches!(refused, Err(SubmitError::Unavailable(_))),
            "{refused:?}"
        );
    }
    let reason = running.readiness.reason().expect("not ready");
    assert!(reason.contains("writing has stopped"), "{reason}");
    let names = running.engine.read(|state| {
        let names = state.allocations().map(|it| it.owner.key.to_string());
        names.collect::<Vec<String>>()
    });
    assert_eq!(names.await.expect("reads go on"), ["east/default/a"]);
    running.stop().await;
}

#[tokio::test]
async fn an_error_of_a_checkpoint_ends_writing_although_nobody_asks_for_anything() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    let pool = apply_pool("pool", &["192.0.2.1-192.0.2.9"]);
    running.submit(pool).await.expect("pool");
    // A checkpoint is due, and does not find its file.
    let log = folder.file().with_extension("db-wal");
    while std::fs::metadata(&log).expect("a log").len() < 5 << 20 {
        for command in [
            allocate("east/default/a", |_| {}),
            release("east/default/a"),
        ] {
            running.submit(command).await.expect("decided");
        }
    }
    // When the metrics know of all of it, nothing is left for the writer to wake up for.
    let store = running.reader.log_span().await.expect("read");
    while u64::from(running.metric("pharos_ipam_revision ")) != store.revision {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let away = folder.file().with_extension("away");
    std::fs::rename(folder.file(), &away).expect("moved");
    let checkpoints = tokio::spawn(running.checkpointer.clone().run());
    running.until_ready(Some("writing has stopped")).await;
    let refused = running.submit(allocate("east/default/a", |_| {})).await;
    assert!(
        matches!(refused, Err(SubmitError::Unavailable(_))),
        "{refused:?}"
    );
    std::fs::rename(&away, folder.file()).expect("moved back");
    running.until_ready(None).await;
    let granted = running.submit(allocate("east/default/a", |_| {})).await;
    assert_eq!(addresses(&granted.expect("granted")), ["192.0.2.1"]);
    checkpoints.abort();
    running.stop().await;
}

#[tokio::test]
async fn a_statement_that_fails_on_one_request_fails_that_one_alone() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    // An error of its own kind (SQLITE_ERROR: integer overflow), not a constraint.
    behind_its_back(
        &folder,
        "create trigger odd before insert on allocation when new.name = '2' begin
            select abs(-9223372036854775807 - 1); end",
    )
    .await;
    let outcomes = futures::future::join_all((1..=3).map(|number| {
        let owner = format!("east/default/{number}");
        running.submit(allocate(&owner, |_| {}))
    }))
    .await;
    outcomes[0].as_ref().expect("neighbour");
    assert!(
        matches!(outcomes[1], Err(SubmitError::Internal)),
        "{:?}",
        outcomes[1]
    );
    outcomes[2].as_ref().expect("neighbour");
    running.stop().await;
}

#[tokio::test]
async fn writing_stops_in_the_midst_of_a_refused_batch_too() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["192.0.2.1-192.0.2.9"]))
        .await
        .expect("pool");
    // The first claim breaks a constraint; the second meets a damaged file when it is tried alone.
    behind_its_back(
        &folder,
        "create table broken (x);
        create trigger first before insert on allocation when new.name = '1' begin
            select raise(abort, 'refused'); end;
        create trigger second before insert on allocation when new.name = '2' begin
            insert into broken values (1); end;
        pragma writable_schema = on;
        update sqlite_schema set rootpage = (
            select rootpage from sqlite_schema where name = 'change_log_allocation')
        where name = 'broken'",
    )
    .await;
    let outcomes = futures::future::join_all((1..=3).map(|number| {
        let owner = format!("east/default/{number}");
        running.submit(allocate(&owner, |_| {}))
    }))
    .await;
    assert!(
        matches!(outcomes[0], Err(SubmitError::Internal)),
        "{:?}",
        outcomes[0]
    );
    for outcome in &outcomes[1..] {
        let text = outcome.as_ref().expect_err("no more writes").to_string();
        assert!(text.contains("writing has stopped"), "{text}");
    }
    running.stop().await;
}

#[tokio::test]
async fn it_stops_when_told_to_and_leaves_its_own_work_for_the_next_start() {
    let folder = Folder::new();
    let mut running = Running::start(&folder).await;
    let claims = (0..2000).map(|number| {
        let claim = allocate(&format!("east/default/{number}"), queued);
        running.submit(claim)
    });
    for outcome in futures::future::join_all(claims).await {
        outcome.expect("queued");
    }
    // Now all of them can be granted, 256 at a time.
    running
        .submit(apply_pool("pool", &["10.0.0.0/20"]))
        .await
        .expect("pool");
    running.stop.stop();
    (&mut running.task).await.expect("well");
    let granted = granted_in(&running.reader).await;
    assert!((256..1500).contains(&granted), "{granted} of 2000");
    drop(running);

    let running = Running::start(&folder).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while granted_in(&running.reader).await < 2000 {
        assert!(Instant::now() < deadline, "the rest was forgotten");
        tokio::task::yield_now().await;
    }
    running.stop().await;
}

async fn granted_in(reader: &Reader) -> usize {
    let filter = AllocationFilter {
        state: pharos_proto::v1::allocation::State::Assigned.into(),
        ..AllocationFilter::default()
    };
    let page = reader.allocations(&filter, None, 5000).await;
    page.expect("readable").items.len()
}

async fn behind_its_back(folder: &Folder, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.file());
    let mut connection = options.connect().await.expect("connection");
    sqlx::query(sql).execute(&mut connection).await.expect(sql);
}

#[tokio::test]
async fn many_callers_at_once_get_different_addresses_in_few_transactions() {
    let folder = Folder::new();
    let running = Arc::new(Running::start(&folder).await);
    running
        .submit(apply_pool("pool", &["10.0.0.0/20"]))
        .await
        .expect("pool");
    let before = running.commits();
    let callers = (0..500).map(|number| {
        let running = Arc::clone(&running);
        tokio::spawn(async move {
            let command = allocate(&format!("east/default/{number}"), |_| {});
            addresses(&running.submit(command).await.expect("granted"))
        })
    });
    let mut given = std::collections::BTreeSet::new();
    for caller in callers.collect::<Vec<_>>() {
        given.extend(caller.await.expect("no panic"));
    }
    assert_eq!(given.len(), 500);
    let commits = running.commits() - before;
    assert!(commits <= 50, "{commits} transactions for 500 callers");
}

#[tokio::test]
async fn one_clusters_flood_does_not_stand_before_another_clusters_request() {
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    running
        .submit(apply_pool("pool", &["10.0.0.0/20"]))
        .await
        .expect("pool");
    let flood = (0..900).map(|number| allocate(&format!("east/default/{number}"), |_| {}));
    let late = ["west/default/a", "west/default/b"].map(|owner| allocate(owner, |_| {}));
    let all = flood.chain(late).map(|command| running.submit(command));
    let mut calls: Vec<_> = all.map(Box::pin).collect();
    for call in &mut calls {
        // Polled once, it is in the queue; the writer has no turn in between.
        let polled = tokio::task::unconstrained(call.as_mut());
        assert!(futures::FutureExt::now_or_never(polled).is_none());
    }
    let mut replies = futures::future::join_all(calls).await;
    let others = replies.split_off(900);
    let revision = |reply: &Result<Reply, SubmitError>| {
        let reply = reply.as_ref().expect("granted");
        reply.allocation.as_ref().expect("an allocation").revision
    };
    let others: Vec<u64> = others.iter().map(revision).collect();
    let flood: Vec<u64> = replies.iter().map(revision).collect();
    // The pool took the first revision; each cluster takes one more when it is first seen.
    assert_eq!(others, [5, 7], "in turns with the flood");
    assert!(flood.is_sorted(), "each in the order in which it asked");
    running.stop().await;
}

/// A large edit is carried out in several batches: all of it is said to come from the edit.
#[tokio::test]
async fn whatever_follows_from_a_call_carries_its_request_id_however_late() {
    const HOLDERS: usize = 600;
    let folder = Folder::new();
    let running = Running::start(&folder).await;
    let pool = |range: &str| apply_pool("pool", &[range]);
    running.submit(pool("10.0.0.0/20")).await.expect("pool");
    // Of no use to those who are moved.
    let mut spare = apply_pool("spare", &["192.0.2.0/24"]);
    if let Command::ApplyPool { pool, .. } = &mut spare {
        pool.auto_assign = false;
    }
    running.submit(spare).await.expect("pool");
    for number in 0..HOLDERS {
        let owner = format!("east/default/svc{number}");
        running
            .submit(allocate(&owner, |_| {}))
            .await
            .expect("granted");
    }
    let edit = Meta {
        request_id: "edit".to_owned(),
        ..Meta::default()
    };
    // Tried out, it is told the same, and leaves nothing to be decided.
    let tried_out = Meta {
        validate_only: true,
        ..edit.clone()
    };
    let tried_out = running.engine.submit(pool("10.1.0.0/20"), tried_out);
    let tried_out = tried_out.await.expect("decided");
    // A stranger who asks at the same time does not wait until all is done.
    let other = Meta {
        request_id: "other".to_owned(),
        ..Meta::default()
    };
    let stranger = allocate("west/default/stranger", |wire| {
        wire.pool = "spare".to_owned();
    });
    let mut calls = [(pool("10.1.0.0/20"), edit), (stranger, other)]
        .map(|(command, meta)| Box::pin(running.engine.submit(command, meta)));
    for call in &mut calls {
        // Polled once, it is in the queue; the writer has no turn in between.
        let polled = tokio::task::unconstrained(call.as_mut());
        assert!(futures::FutureExt::now_or_never(polled).is_none());
    }
    let replies = futures::future::join_all(calls).await.into_iter();
    let replies: Vec<Reply> = replies.map(|reply| reply.expect("granted")).collect();
    for reply in replies.iter().chain([&tried_out]) {
        assert!(reply.unfinished);
        assert_eq!(reply.remaining, HOLDERS - 256);
    }
    let before = HOLDERS as u64 + 3;
    let moved = |state: &State| {
        let new = |address: &Address| !address.to_string().starts_with("10.0.");
        state.allocations().all(|one| one.addresses.iter().all(new))
    };
    while !running.engine.read(moved).await.expect("read") {}
    let filter = ChangeFilter {
        kind: Some(Kind::Allocation),
        start_revision: before,
        ..ChangeFilter::default()
    };
    let changes = running
        .reader
        .changes(&filter, None, 1000)
        .await
        .expect("readable");
    let updates = changes
        .items
        .iter()
        .filter(|it| it.r#type() == v1::change::Type::Updated);
    let updates: Vec<_> = updates.collect();
    assert_eq!(updates.len(), HOLDERS);
    for update in updates {
        assert_eq!(
            (&*update.request_id, &*update.actor),
            ("edit", "ipam-service")
        );
    }
    running.stop().await;
}
