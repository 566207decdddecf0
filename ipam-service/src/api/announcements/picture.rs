//! What a watcher of one cluster was shown, and what has changed of it since: what was touched is put
//! together anew, and nothing else. It knows no stream, and waits for nothing: what only the state knows it
//! asks for by [`Ask`], piece by piece.
//!
//! Of what was shown it keeps digests, and no copy: there may be many watchers.

mod shown;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use pharos_proto::v1;
use tokio::time::Instant;

use self::shown::Shown;
use super::describe::describe;
use crate::feed::Feeds;
use crate::feed::assignments::{AssignmentFeed, Concern};
use crate::feed::status::{Matter, StatusFeed};
use crate::feed::touched::{Keys, Touched};
use crate::state::State;
use crate::state::announce::{AssignmentKey, Held, HeldPage, Inquiry, keys_of};
use crate::state::model::OwnerKey;
use crate::state::names::Name;

/// Most addresses that are put together at once: the writer waits for what is asked of the state, a millisecond
/// or two.
const MOST: usize = 1000;

/// Empty at first.
pub(super) struct Picture {
    cluster: Name,
    assignments: AssignmentFeed,
    status: StatusFeed,
    concerns: Touched<Concern>,
    told: Touched<Matter>,
    shown: Shown,
    /// What is to be looked at.
    todo: BTreeSet<AssignmentKey>,
    /// Which of them came last.
    turn: Option<AssignmentKey>,
    /// What is being looked at, and whether the state is asked about it.
    piece: BTreeMap<AssignmentKey, bool>,
    /// Whose addresses are to be looked at.
    owners: BTreeSet<OwnerKey>,
    walk: Walk,
}

/// Where a walk over everything that the cluster holds goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Walk {
    Behind(Option<AssignmentKey>),
    Done,
}

/// What is asked of the state.
#[derive(Debug)]
pub(super) struct Ask {
    cluster: Name,
    walk: Walk,
    owners: BTreeSet<OwnerKey>,
    /// Addresses that are not assigned.
    keys: BTreeSet<AssignmentKey>,
}

/// What the state says. To be evaluated without the state.
#[derive(Debug)]
pub(super) struct Found {
    page: HeldPage,
    of_owners: Vec<AssignmentKey>,
    inquiry: Inquiry,
}

/// What that means.
#[derive(Debug, Default)]
pub(super) struct Answer {
    page: HeldPage,
    of_owners: Vec<AssignmentKey>,
    held: Vec<Held>,
}

/// How a picture differs from what it was.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// By address.
    pub(super) changed: Vec<v1::Announcement>,
    /// By address.
    pub(super) gone: Vec<AssignmentKey>,
}

impl Ask {
    /// Whether the state has nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        self.walk == Walk::Done && self.owners.is_empty() && self.keys.is_empty()
    }

    pub(super) fn of(&self, state: &State) -> Found {
        let of_owners = self
            .owners
            .iter()
            .filter_map(|owner| state.allocation(owner));
        Found {
            page: match &self.walk {
                Walk::Behind(after) => HeldPage::after(state, &self.cluster, after.as_ref(), MOST),
                Walk::Done => HeldPage::default(),
            },
            of_owners: of_owners.flat_map(|it| keys_of(it)).collect(),
            inquiry: Inquiry::collect(state, &self.cluster, &self.keys),
        }
    }
}

impl Found {
    pub(super) fn evaluate(self) -> Answer {
        Answer {
            page: self.page,
            of_owners: self.of_owners,
            held: self.inquiry.answer(),
        }
    }
}

impl Picture {
    pub(super) fn new(feeds: &Feeds, cluster: Name) -> Self {
        Self {
            concerns: feeds.assignments.touched(&cluster),
            told: feeds.status.touched(&cluster),
            assignments: feeds.assignments.clone(),
            status: feeds.status.clone(),
            cluster,
            shown: Shown::default(),
            todo: BTreeSet::new(),
            turn: None,
            piece: BTreeMap::new(),
            owners: BTreeSet::new(),
            walk: Walk::Behind(None),
        }
    }

    /// Waits until something may have changed. Cancel safe.
    pub(super) async fn changed(&self) {
        tokio::select! {
            () = self.concerns.changed() => {}
            () = self.told.changed() => {}
        }
    }

    /// Whether it is up to date, but for what has changed since the last [`Picture::ask`].
    pub(super) fn is_complete(&self) -> bool {
        self.walk == Walk::Done && self.todo.is_empty() && self.owners.is_empty()
    }

    /// What has to be known for the next piece. What changes meanwhile is touched again: it is taken note of
    /// before anything is read.
    pub(super) fn ask(&mut self, now: Instant) -> Ask {
        self.todo
            .extend(std::mem::take(&mut self.piece).into_keys());
        self.gather(now);
        while self.piece.len() < MOST
            && let Some(key) = self.next_todo()
        {
            self.piece.insert(key, true);
        }
        let assigned = self
            .assignments
            .assigned_at(&self.cluster, self.piece.keys());
        for one in &assigned {
            self.piece.insert(one.assignment.key.clone(), false);
        }
        let asked = self.piece.iter().filter(|(_, is_asked)| **is_asked);
        Ask {
            cluster: self.cluster.clone(),
            walk: self.walk.clone(),
            owners: self.owners.clone(),
            keys: asked.map(|(key, _)| key.clone()).collect(),
        }
    }

    /// One after the other, and from the start again: whatever is touched all the time keeps no other waiting.
    fn next_todo(&mut self) -> Option<AssignmentKey> {
        let behind = self.turn.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.todo.range((behind, Bound::Unbounded)).next();
        let next = next.or_else(|| self.todo.first())?.clone();
        self.todo.remove(&next);
        self.turn = Some(next.clone());
        Some(next)
    }

    /// Takes in the next piece.
    pub(super) fn take_in(&mut self, answer: Answer, now: Instant) -> Difference {
        // What is announced together with the rest of the piece.
        for one in &answer.held {
            self.todo.remove(&one.key);
            self.piece.insert(one.key.clone(), true);
        }
        self.owners.clear();
        self.todo.extend(answer.of_owners);
        self.todo.extend(answer.page.keys);
        if self.walk != Walk::Done {
            self.walk = match answer.page.next {
                Some(last) => Walk::Behind(Some(last)),
                None => Walk::Done,
            };
        }
        self.show(&answer.held, now)
    }

    fn show(&mut self, held: &[Held], now: Instant) -> Difference {
        let mut piece = std::mem::take(&mut self.piece);
        let assigned = self.assignments.assigned_at(&self.cluster, piece.keys());
        let view = self.status.view(&self.cluster, now);
        let described = describe(&view, &assigned, held);
        drop(view);
        let mut difference = Difference::default();
        for (key, description) in described {
            piece.remove(&key);
            let is_news = self.shown.put(&key, &description, &mut self.todo);
            if is_news {
                difference.changed.push(description.wire);
            }
        }
        for (key, is_asked) in piece {
            if !is_asked {
                // It was assigned a moment ago: whether it is still held is asked now.
                self.todo.insert(key);
            } else if self.shown.remove(&key) {
                difference.gone.push(key);
            }
        }
        difference
    }

    /// Takes note of what is to be looked at.
    fn gather(&mut self, now: Instant) {
        self.status.forget(now);
        match self.concerns.take() {
            Keys::These(concerns) => concerns.into_iter().for_each(|it| self.note_concern(it)),
            Keys::All => self.begin_again(),
        }
        match self.told.take() {
            Keys::These(matters) => self.note_matters(matters, now),
            Keys::All => self.begin_again(),
        }
    }

    fn note_concern(&mut self, concern: Concern) {
        match concern {
            Concern::Address(key) => {
                // What was announced together with it may not be any more.
                self.todo.extend(self.shown.together_with(&key).cloned());
                self.todo.insert(key);
            }
            Concern::Owner(owner) => {
                self.owners.insert(owner);
            }
            Concern::Policy => self.todo.extend(self.shown.unassigned().cloned()),
        }
    }

    fn note_matters(&mut self, matters: BTreeSet<Matter>, now: Instant) {
        let mut sets = BTreeSet::new();
        for matter in matters {
            match matter {
                Matter::Nodes => sets.extend(self.shown.waiting.all()),
                Matter::Node(node) => sets.extend(self.shown.waiting.with(&node)),
                Matter::Group(group) => self.todo.extend(self.shown.of_group(group).cloned()),
                Matter::Address(key) => {
                    self.todo.insert(key);
                }
            }
        }
        if !sets.is_empty() {
            let view = self.status.view(&self.cluster, now);
            let waiting = &mut self.shown.waiting;
            self.todo.extend(waiting.look(&sets, &view));
        }
    }

    /// Too much has changed to be told one by one.
    fn begin_again(&mut self) {
        self.todo.extend(self.shown.keys().cloned());
        self.walk = Walk::Behind(None);
    }
}

#[cfg(test)]
mod tests;
