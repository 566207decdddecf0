//! The status objects of the index: what is said, by whomever.

use super::{Index, Kind, Touched};
use crate::status::object::{Seen, StatusKind};

impl Index {
    /// All status objects.
    pub fn statuses(&self) -> impl Iterator<Item = &Seen> {
        self.statuses.values()
    }

    /// A complete list of status objects of one kind.
    pub fn replace_statuses(&mut self, kind: StatusKind, list: Vec<Seen>) -> Touched {
        self.listed.insert(Kind::Statuses(kind));
        self.statuses.retain(|(of, _), _| *of != kind);
        let listed = list.into_iter().map(|it| ((kind, it.name.clone()), it));
        self.statuses.extend(listed);
        touched()
    }

    /// A status object as a watch, or the answer to a write, has it. Ignored if something newer is known. (See
    /// [`Index::answered`].)
    pub fn see_status(&mut self, seen: Seen) -> Touched {
        let key = (seen.kind, seen.name.clone());
        let known = self.statuses.get(&key);
        if known.is_none_or(|known| known.number() <= seen.number()) {
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
