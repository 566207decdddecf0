//! The leases of nodes, between the calls that renew them and the writer that decides by them.
//!
//! A renewal touches neither the writer nor the disk, so leases go on while nothing can be written:
//! owners stay, and nobody else is named. The writer learns only of what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pharos_lease::{Granter, News, Over, Term};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::state::leases::{NodeLeases, Released, Standing};
use crate::state::model::NodeKey;

/// Why a node has no lease now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    #[error(transparent)]
    Over(#[from] Over),
    #[error("another process decides about the store")]
    Closed,
}

/// All leases. Clones share them.
#[derive(Debug, Clone)]
pub struct LeaseBook {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug)]
struct Inner {
    granter: Granter<NodeKey>,
    nodes: BTreeMap<NodeKey, NodeLeases>,
    changed: BTreeSet<NodeKey>,
    released: BTreeSet<Released>,
    settled: bool,
    /// Another process has the store: nothing is granted here any more.
    closed: bool,
}

/// What changed since the writer asked last.
#[derive(Debug, Default)]
pub(super) struct LeaseNews {
    pub(super) nodes: Vec<(NodeKey, NodeLeases)>,
    pub(super) released: BTreeSet<Released>,
    /// From now on every term that runs is known.
    pub(super) settled: bool,
}

impl LeaseBook {
    /// Begins now. `in_use`: terms under which something is owned.
    pub(super) fn new(in_use: BTreeSet<(NodeKey, Term)>) -> Self {
        let mut nodes: BTreeMap<NodeKey, NodeLeases> = BTreeMap::new();
        for (node, term) in &in_use {
            nodes.entry(node.clone()).or_default().terms.push(*term);
        }
        Self {
            shared: Arc::new(Shared {
                begun: Instant::now(),
                inner: Mutex::new(Inner {
                    granter: Granter::new(std::time::Duration::ZERO, in_use),
                    nodes,
                    changed: BTreeSet::new(),
                    released: BTreeSet::new(),
                    settled: false,
                    closed: false,
                }),
                news: Notify::new(),
            }),
        }
    }

    /// Renews the lease of a node, or grants a new one under `fresh`: a term that was never used.
    pub fn renew(
        &self,
        node: &NodeKey,
        term: Option<Term>,
        standing: Standing,
        fresh: Term,
    ) -> Result<Term, NotRenewed> {
        let mut inner = lock(&self.shared.inner);
        if inner.closed {
            return Err(NotRenewed::Closed);
        }
        // Under the lock: what is granted later ends later.
        let now = self.shared.begun.elapsed();
        let granted = match term {
            Some(term) => inner.granter.renew(node, term, now).map(|()| term),
            None => {
                inner.granter.begin(node, fresh, now);
                Ok(fresh)
            }
        };
        inner.take_in();
        if let Ok(term) = granted {
            inner.note(node, term, standing);
        }
        self.wake(&inner);
        Ok(granted?)
    }

    /// A node gives its lease back.
    pub fn end(&self, node: &NodeKey, term: Term) {
        let mut inner = lock(&self.shared.inner);
        inner.granter.end(node, term);
        inner.take_in();
        self.wake(&inner);
    }

    /// A node says that it ended its tenure. Whether it has it is seen when the writer looks.
    pub fn release(&self, released: Released) {
        let mut inner = lock(&self.shared.inner);
        inner.released.insert(released);
        self.wake(&inner);
    }

    /// Grants and renews nothing from now on: another process decides about the store.
    pub(super) fn close(&self) {
        lock(&self.shared.inner).closed = true;
    }

    /// Waits until there is something to take. Cancel safe.
    pub(super) async fn changed(&self) {
        self.shared.news.notified().await;
    }

    /// When time alone may make news.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let inner = lock(&self.shared.inner);
        let quiet = (!inner.settled).then(|| inner.granter.quiet_until());
        let end = inner.granter.next_end().into_iter().chain(quiet).min()?;
        self.shared.begun.checked_add(end)
    }

    /// What changed.
    pub(super) fn take_news(&self) -> LeaseNews {
        let now = self.shared.begun.elapsed();
        let mut inner = lock(&self.shared.inner);
        inner.granter.pass(now);
        inner.take_in();
        let settles = !inner.settled && now >= inner.granter.quiet_until();
        inner.settled |= settles;
        let changed = std::mem::take(&mut inner.changed);
        let nodes = changed.into_iter().map(|node| {
            let leases = inner.nodes.get(&node).cloned().unwrap_or_default();
            (node, leases)
        });
        LeaseNews {
            nodes: nodes.collect(),
            released: std::mem::take(&mut inner.released),
            settled: settles,
        }
    }

    fn wake(&self, inner: &Inner) {
        if !inner.changed.is_empty() || !inner.released.is_empty() {
            self.shared.news.notify_one();
        }
    }
}

impl Inner {
    /// Brings the terms of the nodes up to date.
    fn take_in(&mut self) {
        for news in self.granter.take_news() {
            let (News::Began(node, _) | News::Over(node, _)) = &news;
            self.changed.insert(node.clone());
            match news {
                News::Began(node, term) => self.nodes.entry(node).or_default().terms.push(term),
                News::Over(node, term) => {
                    if let Some(leases) = self.nodes.get_mut(&node) {
                        leases.terms.retain(|other| *other != term);
                        if leases.terms.is_empty() {
                            self.nodes.remove(&node);
                        }
                    }
                }
            }
        }
    }

    /// What the process with the newest term says counts for the node.
    fn note(&mut self, node: &NodeKey, term: Term, standing: Standing) {
        let Some(leases) = self.nodes.get_mut(node) else {
            return;
        };
        // Of terms from before the start of the service nothing says which is the newest.
        if leases.standing.is_none() {
            leases.terms.retain(|other| *other != term);
            leases.terms.push(term);
        }
        if leases.terms.last() == Some(&term) && leases.standing.as_ref() != Some(&standing) {
            leases.standing = Some(standing);
            self.changed.insert(node.clone());
        }
    }
}

/// Nothing that is done under the lock panics half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::leases::Readiness;
    use crate::state::names::Name;

    fn node(name: &str) -> NodeKey {
        NodeKey {
            cluster: Name::parse("east").expect("a name"),
            node: Name::parse(name).expect("a name"),
        }
    }

    fn standing(readiness: Readiness) -> Standing {
        Standing {
            readiness,
            interfaces: BTreeSet::from(["eth0".to_owned()]),
            interfaces6: BTreeSet::new(),
        }
    }

    /// The terms of each node that changed, and whether it has said something of itself.
    fn changed(book: &LeaseBook) -> Vec<(String, Vec<u64>, bool)> {
        let nodes = book.take_news().nodes.into_iter();
        let words = nodes.map(|(key, leases)| {
            let terms = leases.terms.iter().map(|term| term.0).collect();
            (key.node.to_string(), terms, leases.standing.is_some())
        });
        words.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_writer_learns_of_what_changed_and_of_nothing_else() {
        let book = LeaseBook::new(BTreeSet::from([(node("b"), Term(5))]));
        let ready = || standing(Readiness::Ready);
        assert_eq!(changed(&book), []);
        let a = node("a");
        assert_eq!(book.renew(&a, None, ready(), Term(1)), Ok(Term(1)));
        book.changed().await;
        assert_eq!(changed(&book), [("a".to_owned(), vec![1], true)]);
        assert_eq!(book.renew(&a, Some(Term(1)), ready(), Term(2)), Ok(Term(1)));
        assert_eq!(changed(&book), [], "a renewal is no news");
        let draining = standing(Readiness::Draining);
        let renewed = book.renew(&a, Some(Term(1)), draining, Term(2));
        assert_eq!(renewed, Ok(Term(1)));
        assert_eq!(changed(&book), [("a".to_owned(), vec![1], true)]);
        // Another process of the name; what the older one says counts no more.
        assert_eq!(book.renew(&a, None, ready(), Term(3)), Ok(Term(3)));
        assert_eq!(changed(&book), [("a".to_owned(), vec![1, 3], true)]);
        let holds_down = standing(Readiness::HoldDown);
        let renewed = book.renew(&a, Some(Term(1)), holds_down, Term(2));
        assert_eq!(renewed, Ok(Term(1)));
        assert_eq!(changed(&book), []);
        book.end(&a, Term(1));
        assert_eq!(changed(&book), [("a".to_owned(), vec![3], true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn terms_end_by_themselves_and_the_quiet_time_once() {
        let book = LeaseBook::new(BTreeSet::from([(node("b"), Term(5))]));
        let end = book.next_end().expect("the quiet time ends");
        tokio::time::sleep_until(end).await;
        let news = book.take_news();
        assert!(news.settled);
        assert_eq!(news.nodes, [(node("b"), NodeLeases::default())]);
        let over = book.renew(
            &node("b"),
            Some(Term(5)),
            standing(Readiness::Ready),
            Term(6),
        );
        assert_eq!(over, Err(NotRenewed::Over(Over)));
        book.close();
        let closed = book.renew(&node("b"), None, standing(Readiness::Ready), Term(6));
        assert_eq!(closed, Err(NotRenewed::Closed));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!book.take_news().settled);
        assert_eq!(book.next_end(), None);
    }
}
