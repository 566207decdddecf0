//! When an answer may leave, and what it may be based on.

use super::*;
use crate::state::refusal::Reason;

/// Queues two calls so that they share a batch.
async fn at_once<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    let (mut one, mut other) = (Box::pin(one), Box::pin(other));
    // Polled once, it is in the queue; the writer has no turn in between.
    let polled = tokio::task::unconstrained(one.as_mut());
    assert!(futures::FutureExt::now_or_never(polled).is_none());
    let polled = tokio::task::unconstrained(other.as_mut());
    assert!(futures::FutureExt::now_or_never(polled).is_none());
    tokio::join!(one, other)
}

async fn with_pool(folder: &Folder, range: &str) -> Running {
    let running = Running::start(folder).await;
    let pool = apply_pool("pool", &[range]);
    running.submit(pool).await.expect("pool");
    running
}

/// The database refuses to store the allocation of `web`.
async fn refuse_web(folder: &Folder) {
    behind_its_back(
        folder,
        "create trigger refuse before insert on allocation when new.name = 'web' begin
            select raise(abort, 'refused'); end",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_changes_nothing_waits_for_the_commit_too() {
    let folder = Folder::new();
    let running = with_pool(&folder, "192.0.2.1-192.0.2.9").await;
    refuse_web(&folder).await;
    // The second one finds what the first was given, and has nothing to write itself.
    let claim = || running.submit(allocate("east/default/web", |_| {}));
    let (first, second) = at_once(claim(), claim()).await;
    for outcome in [first, second] {
        assert!(matches!(outcome, Err(SubmitError::Internal)), "{outcome:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_read_sees_nothing_that_is_not_on_disk() {
    let folder = Folder::new();
    let running = with_pool(&folder, "192.0.2.1-192.0.2.9").await;
    refuse_web(&folder).await;
    for (owner, is_stored) in [("east/default/web", false), ("east/default/api", true)] {
        let taken = running.submit(allocate(owner, |_| {}));
        let count = running.engine.read(|state| state.allocations().count());
        let (taken, seen) = at_once(taken, count).await;
        assert_eq!(taken.is_ok(), is_stored, "{taken:?}");
        assert_eq!(seen.expect("running"), usize::from(is_stored));
    }
    running.stop().await;
}

#[tokio::test]
async fn who_waits_is_served_before_the_next_request_of_the_batch() {
    let folder = Folder::new();
    let running = with_pool(&folder, "192.0.2.1/32").await;
    let holder = allocate("east/default/holder", |_| {});
    running.submit(holder).await.expect("granted");
    let waits = allocate("east/default/waits", queued);
    running.submit(waits).await.expect("queued");
    let released = running.submit(release("east/default/holder"));
    let newcomer = running.submit(allocate("west/default/newcomer", |_| {}));
    let (released, newcomer) = at_once(released, newcomer).await;
    let served = released.expect("released").changes;
    let served = served.iter().filter_map(Change::allocation);
    let served: Vec<_> = served.filter_map(|edit| edit.after.clone()).collect();
    assert_eq!(served.len(), 1);
    assert_eq!(served[0].owner.key.name.as_str(), "waits");
    // It is not told to stand behind somebody: there is nothing left.
    let Err(SubmitError::Rejected(rejection)) = newcomer else {
        panic!("{newcomer:?}");
    };
    assert!(
        matches!(&*rejection, Rejection::Refused(refusal) if refusal.reason == Reason::NoFreeAddress),
        "{rejection:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_request_id_is_written_down_and_is_no_key() {
    let folder = Folder::new();
    let running = with_pool(&folder, "192.0.2.1-192.0.2.9").await;
    let with_id = |command, id: &str| {
        let meta = Meta {
            request_id: id.to_owned(),
            ..Meta::default()
        };
        running.engine.submit(command, meta)
    };
    // Two different requests under one id, and one request under two.
    let web = || allocate("east/default/web", |_| {});
    let first = with_id(web(), "one").await.expect("granted");
    let api = with_id(allocate("east/default/api", |_| {}), "one").await;
    let again = with_id(web(), "two").await.expect("granted");
    assert_eq!(addresses(&first), ["192.0.2.1"]);
    assert_eq!(addresses(&api.expect("granted")), ["192.0.2.2"]);
    assert_eq!(
        (addresses(&again), again.changes.len()),
        (addresses(&first), 0)
    );
    let filter = ChangeFilter {
        kind: Some(Kind::Allocation),
        ..ChangeFilter::default()
    };
    let changes = running.reader.changes(&filter, None, 10).await;
    let changes = changes.expect("readable").items;
    let ids: Vec<&str> = changes.iter().map(|it| it.request_id.as_str()).collect();
    assert_eq!(ids, ["one", "one"]);
    running.stop().await;
}
