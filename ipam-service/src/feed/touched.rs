//! What was touched of a cluster since its watcher looked last: keys, not changes, so that a watcher that is
//! slow has less to look at and not more.
//!
//! Whoever changes something touches its key after the change: a watcher that takes the keys first and looks
//! at them then has seen every change, or is woken again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::state::names::Name;

/// Most keys that wait for one watcher. One further behind looks at everything, which costs no more then.
const MOST: usize = 100_000;

/// Who is to be told what is touched, by cluster.
#[derive(Debug)]
pub(super) struct Touches<K> {
    watchers: Mutex<BTreeMap<Name, Vec<Weak<Pending<K>>>>>,
}

/// A watcher's keys. It is told of none any more once it is dropped.
#[derive(Debug)]
pub struct Touched<K> {
    pending: Arc<Pending<K>>,
}

/// Keys that were touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys<K> {
    These(BTreeSet<K>),
    /// Too many to tell.
    All,
}

#[derive(Debug)]
struct Pending<K> {
    keys: Mutex<Keys<K>>,
    wake: Notify,
}

impl<K> Default for Touches<K> {
    fn default() -> Self {
        Self {
            watchers: Mutex::default(),
        }
    }
}

impl<K> Default for Keys<K> {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl<K: Ord> Touches<K> {
    /// Gathers what is touched of a cluster from now on.
    pub(super) fn watch(&self, cluster: &Name) -> Touched<K> {
        let pending = Arc::new(Pending {
            keys: Mutex::default(),
            wake: Notify::new(),
        });
        let mut watchers = lock(&self.watchers);
        let of_cluster = watchers.entry(cluster.clone()).or_default();
        of_cluster.retain(|watcher| watcher.strong_count() > 0);
        of_cluster.push(Arc::downgrade(&pending));
        Touched { pending }
    }

    /// Something was done to these. Nothing is looked at where nobody watches.
    pub(super) fn touch(&self, cluster: &Name, keys: impl IntoIterator<Item = K, IntoIter: Clone>) {
        let mut watchers = lock(&self.watchers);
        let Some(of_cluster) = watchers.get_mut(cluster) else {
            return;
        };
        let keys = keys.into_iter();
        of_cluster.retain(|watcher| match watcher.upgrade() {
            Some(pending) => {
                pending.add(keys.clone());
                true
            }
            None => false,
        });
        if of_cluster.is_empty() {
            watchers.remove(cluster);
        }
    }
}

impl<K: Ord + Clone> Touches<K> {
    /// Whether somebody watches.
    pub(super) fn is_watched(&self) -> bool {
        !lock(&self.watchers).is_empty()
    }

    /// Something was done that concerns every cluster.
    pub(super) fn touch_all(&self, key: &K) {
        let clusters: Vec<Name> = lock(&self.watchers).keys().cloned().collect();
        for cluster in clusters {
            self.touch(&cluster, [key.clone()]);
        }
    }
}

impl<K: Ord> Touched<K> {
    /// What was touched since the last call.
    pub fn take(&self) -> Keys<K> {
        std::mem::take(&mut *lock(&self.pending.keys))
    }

    /// Waits until there may be something to take. Cancel safe.
    pub async fn changed(&self) {
        self.pending.wake.notified().await;
    }
}

impl<K: Ord> Pending<K> {
    fn add(&self, keys: impl Iterator<Item = K>) {
        let mut keys = keys.peekable();
        if keys.peek().is_none() {
            return;
        }
        let mut pending = lock(&self.keys);
        if let Keys::These(these) = &mut *pending {
            these.extend(keys);
            if these.len() > MOST {
                *pending = Keys::All;
            }
        }
        drop(pending);
        self.wake.notify_one();
    }
}

/// A panic leaves a set of keys whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("valid")
    }

    fn these(keys: impl IntoIterator<Item = usize>) -> Keys<usize> {
        Keys::These(keys.into_iter().collect())
    }

    #[test]
    fn a_watcher_is_woken_for_its_cluster_and_told_each_key_once() {
        let touches = Touches::default();
        let east = touches.watch(&name("east"));
        touches.touch(&name("west"), [1]);
        touches.touch(&name("east"), []);
        assert!(east.changed().now_or_never().is_none());
        touches.touch(&name("east"), [1, 2]);
        touches.touch(&name("east"), [2, 3]);
        assert!(east.changed().now_or_never().is_some());
        assert_eq!(east.take(), these([1, 2, 3]));
        assert_eq!(east.take(), these([]));
        assert!(east.changed().now_or_never().is_none());
    }

    #[test]
    fn one_that_is_far_behind_looks_at_everything() {
        let touches = Touches::default();
        let (far, near) = (touches.watch(&name("east")), touches.watch(&name("east")));
        touches.touch(&name("east"), 0..MOST);
        assert_eq!(near.take(), these(0..MOST));
        touches.touch(&name("east"), [MOST]);
        assert_eq!(far.take(), Keys::All);
        assert_eq!(near.take(), these([MOST]));
        touches.touch(&name("east"), [1]);
        assert_eq!(far.take(), these([1]));
    }

    #[test]
    fn one_that_is_gone_is_forgotten() {
        let touches = Touches::default();
        for _ in 0..3 {
            drop(touches.watch(&name("east")));
        }
        assert_eq!(lock(&touches.watchers)[&name("east")].len(), 1);
        touches.touch(&name("east"), [1]);
        assert!(lock(&touches.watchers).is_empty());
    }
}
