//! What is measured while nothing can be written.

use super::*;

const STOPPED: &str = "pharos_ipam_writing_stopped ";

#[tokio::test]
async fn an_error_between_two_batches_is_counted_and_that_writing_is_stopped_shows() {
    let folder = Folder::new();
    let mut parts = Parts::open(&folder).await;
    let registry = std::mem::take(&mut parts.registry);
    let metric = |name: &str| metric_of(&registry, name);
    assert_eq!(metric(STOPPED), 0);
    let unknown = CommitError::Unknown("a sync failed".to_owned());
    parts.opened.task.between(Err(unknown));
    assert_eq!(metric(STOPPED), 1);
    let errors = r#"pharos_ipam_database_errors_total{kind="unknown"} "#;
    assert_eq!(metric(errors), 1);
    // It is over with a fresh copy.
    let running = Running::run(parts);
    running.until_ready(None).await;
    assert_eq!(metric(STOPPED), 0);
    assert_eq!(metric(errors), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_does_not_stop_writing_is_counted_between_two_batches_too() {
    let folder = Folder::new();
    let mut parts = Parts::open(&folder).await;
    parts.opened.task.between(Err(CommitError::Full));
    let metric = |name: &str| metric_of(&parts.registry, name);
    assert_eq!(
        metric(r#"pharos_ipam_database_errors_total{kind="full"} "#),
        1
    );
    assert_eq!(metric(STOPPED), 0);
}
