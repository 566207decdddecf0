//! Which Services to look at, and when. A Service is in here at most once, however often it
//! changes, so the queue is bounded by the number of Services; and it is never looked at by two
//! tasks at once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::service::ServiceKey;

/// First delay after a failed look; it doubles with each failure in a row.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest delay: a Service that keeps failing is tried six times a minute.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The queue. All methods but [`WorkQueue::next`] return at once.
#[derive(Debug, Default)]
pub struct WorkQueue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<ServiceKey>,
    slots: HashMap<ServiceKey, Slot>,
    later: BTreeSet<(Instant, ServiceKey)>,
    failing: HashMap<ServiceKey, Failing>,
}

/// A Service whose last look failed.
#[derive(Debug)]
struct Failing {
    /// Failures in a row.
    failures: u32,
    /// Whether somebody was told of this row.
    told: bool,
    /// When it is in `later`.
    due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Ready,
    Running,
    /// It changed while somebody looked at it.
    RunningAgain,
}

/// How a look at a Service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nothing is left to do.
    Done,
    /// Something failed that may go well later.
    Failed,
}

impl WorkQueue {
    /// These are to be looked at.
    pub fn push(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        let mut inner = self.lock();
        for key in keys {
            inner.push(key);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// The next Service to look at. The caller must report it with [`WorkQueue::looked`]. Cancel
    /// safe: a Service is taken out only by the call that returns it. For one caller at a time.
    pub async fn next(&self) -> ServiceKey {
        loop {
            let notified = self.wake.notified();
            let due = {
                let mut inner = self.lock();
                inner.wake_due(Instant::now());
                if let Some(key) = inner.take() {
                    return key;
                }
                inner.later.first().map(|(due, _)| *due)
            };
            match due {
                None => notified.await,
                Some(due) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// The look at a Service is over. Says how many looks at it in a row have failed.
    pub fn looked(&self, key: ServiceKey, how: Looked) -> u32 {
        let mut inner = self.lock();
        let again = inner.slots.remove(&key) == Some(Slot::RunningAgain);
        let former = inner.failing.remove(&key);
        // It has been looked at since.
        if let Some(former) = &former {
            inner.later.remove(&(former.due, key.clone()));
        }
        let mut failures = 0;
        if how == Looked::Failed {
            let told = former.as_ref().is_some_and(|former| former.told);
            let before = former.map_or(0, |former| former.failures);
            let due = Instant::now() + retry_delay(before);
            failures = before.saturating_add(1);
            let failing = Failing {
                failures,
                told,
                due,
            };
            inner.failing.insert(key.clone(), failing);
            inner.later.insert((due, key.clone()));
        }
        if again {
            inner.push(key);
        }
        drop(inner);
        self.wake.notify_one();
        failures
    }

    /// Whether nobody was told yet of the failures in a row; from now on somebody was.
    pub fn is_untold(&self, key: &ServiceKey) -> bool {
        let mut inner = self.lock();
        let failing = inner.failing.get_mut(key);
        failing.is_some_and(|failing| !std::mem::replace(&mut failing.told, true))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, key: ServiceKey) {
        match self.slots.get(&key) {
            None => {
                self.slots.insert(key.clone(), Slot::Ready);
                self.ready.push_back(key);
            }
            Some(Slot::Ready | Slot::RunningAgain) => {}
            Some(Slot::Running) => {
                self.slots.insert(key, Slot::RunningAgain);
            }
        }
    }

    fn take(&mut self) -> Option<ServiceKey> {
        let key = self.ready.pop_front()?;
        self.slots.insert(key.clone(), Slot::Running);
        Some(key)
    }

    fn wake_due(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.push(key);
            }
        }
    }
}

/// How long to wait after a failure that follows `failures` others in a row.
fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(1 << failures.min(10))
        .min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("default", name)
    }

    #[tokio::test]
    async fn a_service_is_queued_once_and_in_order() {
        let queue = WorkQueue::default();
        queue.push([key("a"), key("b"), key("a")]);
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert!(queue.lock().ready.is_empty());
    }

    #[tokio::test]
    async fn a_change_during_a_look_causes_another_one_and_never_a_second_at_once() {
        let queue = WorkQueue::default();
        queue.push([key("a")]);
        assert_eq!(queue.next().await, key("a"));
        queue.push([key("a"), key("a")]);
        assert!(queue.lock().ready.is_empty());
        queue.looked(key("a"), Looked::Done);
        assert_eq!(queue.next().await, key("a"));
        queue.looked(key("a"), Looked::Done);
        assert!(queue.lock().slots.is_empty());
    }

    #[test]
    fn failures_are_retried_ever_more_slowly_up_to_a_limit() {
        let delays: Vec<u128> = (0..5)
            .map(|failures| retry_delay(failures).as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600]);
        assert_eq!(retry_delay(u32::MAX), LAST_RETRY);
    }

    #[tokio::test]
    async fn a_failed_look_is_repeated_and_a_good_one_is_not() {
        let queue = WorkQueue::default();
        queue.push([key("a")]);
        let start = Instant::now();
        for failures in 1..=2 {
            assert_eq!(queue.next().await, key("a"));
            assert_eq!(queue.looked(key("a"), Looked::Failed), failures);
        }
        assert_eq!(queue.next().await, key("a"));
        assert!(start.elapsed() >= retry_delay(0) + retry_delay(1));
        assert_eq!(queue.looked(key("a"), Looked::Done), 0);
        let inner = queue.lock();
        assert!(inner.failing.is_empty() && inner.later.is_empty() && inner.slots.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_of_failures_is_told_once() {
        let queue = WorkQueue::default();
        queue.push([key("a")]);
        let look = async |how| {
            assert_eq!(queue.next().await, key("a"));
            queue.looked(key("a"), how);
            queue.is_untold(&key("a"))
        };
        assert!(look(Looked::Failed).await);
        assert!(!look(Looked::Failed).await);
        assert!(!look(Looked::Done).await, "nothing is to be told");
        queue.push([key("a")]);
        assert!(look(Looked::Failed).await, "another row");
    }

    #[tokio::test]
    async fn a_service_that_keeps_changing_and_failing_waits_for_one_repetition_only() {
        let queue = WorkQueue::default();
        for _ in 0..100 {
            queue.push([key("a")]);
            assert_eq!(queue.next().await, key("a"));
            queue.looked(key("a"), Looked::Failed);
        }
        assert_eq!(queue.lock().later.len(), 1);
        // A good look in between leaves nothing to repeat.
        queue.push([key("a")]);
        assert_eq!(queue.next().await, key("a"));
        queue.looked(key("a"), Looked::Done);
        assert!(queue.lock().later.is_empty());
    }
}
