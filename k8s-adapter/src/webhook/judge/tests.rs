//! What is known against what the API server says when it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::testing::{Lists, context, creates, knowing, pool};
use super::*;
use crate::policy::ResourceKind;

/// The API server waits no longer.
const BUDGET: Duration = Duration::from_secs(2);

async fn asked(context: &Context, addresses: &str) -> Verdict {
    let review = Review::parse(ResourceKind::Pool, &creates(&pool("new", addresses)));
    let review = review.expect("a question");
    let verdict = judge(context, &review);
    tokio::time::timeout(BUDGET, verdict)
        .await
        .expect("in time")
}

#[tokio::test]
async fn a_clash_is_refused_if_it_is_one_now() {
    let old = [pool("old", "192.0.2.0/28")];
    let context = knowing(&old, Lists::Pools(old.to_vec())).await;
    let verdict = asked(&context, "192.0.2.8/29").await;
    assert_eq!(verdict.errors.len(), 1, "{verdict:?}");
    assert!(verdict.errors[0].contains("overlaps with already defined CIDR"));
    assert_eq!(asked(&context, "192.0.2.16/28").await, Verdict::default());
}

#[tokio::test]
async fn a_pool_that_was_just_deleted_denies_nobody() {
    let old = [pool("old", "192.0.2.0/28")];
    let context = knowing(&old, Lists::Pools(Vec::new())).await;
    assert_eq!(asked(&context, "192.0.2.0/28").await, Verdict::default());
}

#[tokio::test]
async fn questions_that_come_together_are_answered_by_one_list() {
    let old = [pool("old", "192.0.2.0/28")];
    let count = Arc::new(AtomicUsize::new(0));
    let context = knowing(&old, Lists::Counted(old.to_vec(), Arc::clone(&count))).await;
    let together = (0..8).map(|_| asked(&context, "192.0.2.8/29"));
    let verdicts = futures::future::join_all(together).await;
    assert!(verdicts.iter().all(|verdict| verdict.errors.len() == 1));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // A later one is not answered by what was there before.
    asked(&context, "192.0.2.8/29").await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_clash_that_cannot_be_confirmed_in_time_is_a_warning() {
    let old = [pool("old", "192.0.2.0/28")];
    for lists in [Lists::Fails, Lists::Silent] {
        let context = knowing(&old, lists).await;
        let verdict = asked(&context, "192.0.2.0/28").await;
        assert_eq!(verdict.errors, [""; 0]);
        assert_eq!(verdict.warnings, [NOT_CONFIRMED]);
        // What is wrong in itself needs nobody's word.
        let verdict = asked(&context, "192.0.2.0/33").await;
        assert!(verdict.errors[0].contains("invalid CIDR"), "{verdict:?}");
    }
}

#[tokio::test]
async fn what_is_not_listed_yet_refuses_nobody_and_is_told() {
    let context = context(Lists::Silent).await;
    let verdict = asked(&context, "192.0.2.0/28").await;
    assert_eq!(
        (verdict.errors.len(), &verdict.warnings[..]),
        (0, &[NOT_LISTED.to_owned()][..])
    );
    let verdict = asked(&context, "192.0.2.0/33").await;
    assert_eq!(verdict.errors.len(), 1, "{verdict:?}");
}
