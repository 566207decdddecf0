//! The status objects of the index: what is said, by whomever.

use std::collections::BTreeSet;

use super::{Index, Kind, Touched};
use crate::status::object::{Seen, StatusKind};

impl Index {
    /// All status objects.
    pub fn statuses(&self) -> impl Iterator<Item = &Seen> {
        self.statuses.values()
    }

    /// A list of status objects of one kind begins. It may lack what is written from now on.
    pub fn list_statuses(&mut self, kind: StatusKind) {
        self.written.insert(kind, BTreeSet::new());
    }

    /// A complete list of status objects of one kind. What was written since it began is newer.
    pub fn replace_statuses(&mut self, kind: StatusKind, list: Vec<Seen>) -> Touched {
        self.listed.insert(Kind::Statuses(kind));
        let written = self.written.remove(&kind).unwrap_or_default();
        self.statuses
            .retain(|(of, name), _| *of != kind || written.contains(name));
        for seen in list {
            self.see_status(seen);
        }
        touched()
    }

    /// A status object as a watch, or the answer to a write, has it. Ignored if something newer is known. (See
    /// [`Index::answered`].)
    pub fn see_status(&mut self, seen: Seen) -> Touched {
        let key = (seen.kind, seen.name.clone());
        let known = self.statuses.get(&key);
        if known.is_none_or(|known| known.number() <= seen.number()) {
            if let Some(written) = self.written.get_mut(&seen.kind) {
                written.insert(seen.name.clone());
            }
            self.statuses.insert(key, seen);
        }
        touched()
    }

    /// A status object is gone.
    pub fn forget_status(&mut self, kind: StatusKind, name: &str, uid: &str) -> Touched {
        let key = (kind, name.to_owned());
        if self
            .statuses
            .get(&key)
            .is_some_and(|known| known.uid == uid)
        {
            self.statuses.remove(&key);
        }
        touched()
    }
}

fn touched() -> Touched {
    Touched {
        statuses: true,
        ..Touched::default()
    }
}
